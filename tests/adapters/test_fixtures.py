"""Each adapter's small session of our own writing, decoded, against a golden file that was read and agreed to.

To write a golden file anew after a change that is meant: ``TICKRELAY_WRITE_GOLDEN=1 pytest tests/adapters/test_fixtures.py``,
then read its diff.
"""

import os
from pathlib import Path

import pytest

from relay.adapter import Ack, Alive, Learned, Nack, Ready, Redial, Subscribe, Unknown
from relay.model.channels import Topic
from relay.model.events import Depth, Event, Stamp
from relay.model.serialize import decode, encode
from relay.model.text import from_micros
from relay.provider.books import Books
from relay.testing import conformance
from relay.testing.recording import read_recording
from relay_alpaca.adapter import Alpaca
from relay_binance.adapter import Binance
from relay_binance.futures import BinanceFutures
from relay_bitfinex.adapter import Bitfinex
from relay_bitstamp.adapter import Bitstamp
from relay_bybit.adapter import Bybit
from relay_coinbase.adapter import Coinbase
from relay_crosstrade.adapter import CrossTrade
from relay_deribit.adapter import Deribit
from relay_gateio.adapter import GateIo
from relay_helio.adapter import Helio
from relay_kraken.adapter import Kraken
from relay_kraken_futures.adapter import KrakenFutures
from relay_kucoin.adapter import KuCoin
from relay_okx.adapter import Okx
from relay_scaletrade.adapter import ScaleTrade
from relay_shuriken.adapter import Shuriken
from relay_synthetic.adapter import Synthetic
from relay_tektii.adapter import Tektii
from relay_upbit.adapter import Upbit
from support.recordings import new_adapter, run_through
from support.shuriken_session import OPTIONS as SHURIKEN
from support.shuriken_session import resolved

FIXTURES = Path(__file__).parents[1] / "fixtures"
#: The depth events that a session with each venue publishes.
BOOKS = {
    Binance: 3, BinanceFutures: 3, Bitfinex: 4, Bitstamp: 3, Bybit: 2, Coinbase: 2, Deribit: 2, GateIo: 3, Kraken: 4, KrakenFutures: 3, KuCoin: 3,
    Okx: 4, Upbit: 1,
}  # fmt: skip
VENUES = pytest.mark.parametrize("adapter_class", BOOKS, ids=lambda cls: cls.name)
#: Adapters whose session has an option that is not the default.
OPTIONS = {KuCoin: {"book": "full"}}
#: Adapters that understand an acknowledgement only where its request waits.
ACKNOWLEDGED_BY_ID = {Binance, BinanceFutures}
EXPECTED_SIGNALS = {Ack, Alive, Learned, Nack, Ready, Redial}
#: Adapters whose fixture is a session with their simulator, with what is configured.
SIMULATED = {
    Alpaca: {},
    CrossTrade: {"account": "Sim101"},
    Helio: {},
    ScaleTrade: {},
    Shuriken: SHURIKEN,
    Synthetic: {},
    Tektii: {},
}


def results(adapter_class):
    adapter = new_adapter(adapter_class, **OPTIONS.get(adapter_class, {}))
    if adapter_class in ACKNOWLEDGED_BY_ID:
        list(adapter.encode(Subscribe((Topic(kind="quote", symbol="BTC/USDT"),))))
    return list(run_through(adapter, read_recording(FIXTURES / f"{adapter_class.name}.jsonl")))


def agreed(adapter_class, lines):
    golden = FIXTURES / f"{adapter_class.name}.golden.jsonl"
    if os.environ.get("TICKRELAY_WRITE_GOLDEN") == "1":
        golden.write_text("".join(f"{line}\n" for line in lines))
    assert lines == golden.read_text().splitlines()


@pytest.mark.parametrize("adapter_class", SIMULATED, ids=lambda cls: cls.name)
def test_what_a_simulator_sends_decodes_to_the_golden_events(adapter_class):
    recording = read_recording(FIXTURES / f"{adapter_class.name}.jsonl")
    if adapter_class is Shuriken:
        recording = resolved(recording)
    of = conformance.subject(adapter_class, recording, options=SIMULATED[adapter_class], commands=())
    agreed(adapter_class, list(conformance.golden(of)))


@VENUES
def test_the_session_decodes_to_the_golden_events(adapter_class):
    lines = []
    for decoded in results(adapter_class):
        stamp = Stamp(provider=adapter_class.name, received_at=from_micros(round(decoded.record.t * 1_000_000)))
        events = [result for result in decoded.results if isinstance(result, Event)]
        lines += [
            encode(event, stamp, f"{adapter_class.name}-{len(lines) + n}").decode() for n, event in enumerate(events)
        ]
    agreed(adapter_class, lines)
    kinds = {decode(line).event.kind for line in lines} - {"error"}
    assert kinds == {offer.kind for offer in adapter_class.offers}


@VENUES
def test_everything_in_the_session_is_understood(adapter_class):
    signals = [
        result for decoded in results(adapter_class) for result in decoded.results if not isinstance(result, Event)
    ]
    assert not [signal for signal in signals if isinstance(signal, Unknown)]
    assert {type(signal) for signal in signals} <= EXPECTED_SIGNALS


@VENUES
def test_its_book_is_kept(adapter_class):
    books = Books(adapter_class.session, checksum=adapter_class.checksum)
    depths = [result for decoded in results(adapter_class) for result in decoded.results if isinstance(result, Depth)]
    books.open(depths[0].symbol)
    out = [event for depth in depths for event in books.offer(depth).out]
    assert [type(event) for event in out] == [Depth] * len(out)
    assert out[0].snapshot
    assert len(out) == BOOKS[adapter_class]
