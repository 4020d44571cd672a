"""Each public venue's small session of our own writing, decoded, against a golden file that was read and agreed to.

To write a golden file anew after a change that is meant: ``TICKRELAY_WRITE_GOLDEN=1 pytest tests/adapters/test_fixtures.py``,
then read its diff.
"""

import os
from pathlib import Path

import pytest

from relay.adapter import Ack, Alive, Unknown
from relay.model.events import Depth, Event, Stamp
from relay.model.serialize import decode, encode
from relay.model.text import from_micros
from relay.provider.books import Books
from relay.testing.recording import read_recording
from relay_binance.adapter import Binance
from relay_bitstamp.adapter import Bitstamp
from relay_kraken.adapter import Kraken
from relay_kraken.book import checksum
from support.recordings import new_adapter, run_through

FIXTURES = Path(__file__).parents[1] / "fixtures"
VENUES = pytest.mark.parametrize("adapter_class", [Binance, Bitstamp, Kraken], ids=lambda cls: cls.name)


def results(adapter_class):
    return list(run_through(new_adapter(adapter_class), read_recording(FIXTURES / f"{adapter_class.name}.jsonl")))


@VENUES
def test_the_session_decodes_to_the_golden_events(adapter_class):
    lines = []
    for decoded in results(adapter_class):
        stamp = Stamp(provider=adapter_class.name, received_at=from_micros(round(decoded.record.t * 1_000_000)))
        events = [result for result in decoded.results if isinstance(result, Event)]
        lines += [
            encode(event, stamp, f"{adapter_class.name}-{len(lines) + n}").decode() for n, event in enumerate(events)
        ]
    golden = FIXTURES / f"{adapter_class.name}.golden.jsonl"
    if os.environ.get("TICKRELAY_WRITE_GOLDEN") == "1":
        golden.write_text("".join(f"{line}\n" for line in lines))
    assert lines == golden.read_text().splitlines()
    assert {decode(line).event.kind for line in lines} == {offer.kind for offer in adapter_class.offers}


@VENUES
def test_everything_in_the_session_is_understood(adapter_class):
    signals = [
        result for decoded in results(adapter_class) for result in decoded.results if not isinstance(result, Event)
    ]
    assert not [signal for signal in signals if isinstance(signal, Unknown)]
    assert {type(signal) for signal in signals} <= {Ack, Alive}


@VENUES
def test_its_book_is_kept(adapter_class):
    books = Books(adapter_class.session, checksum=checksum if adapter_class is Kraken else None)
    depths = [result for decoded in results(adapter_class) for result in decoded.results if isinstance(result, Depth)]
    books.open(depths[0].symbol)
    out = [event for depth in depths for event in books.offer(depth).out]
    assert [type(event) for event in out] == [Depth] * len(out)
    assert [event.snapshot for event in out] == [True] + [False] * (len(out) - 1)
    assert len(out) == {"binance": 3, "bitstamp": 3, "kraken": 4}[adapter_class.name]
