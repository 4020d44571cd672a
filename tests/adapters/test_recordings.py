"""Real sessions through the adapters and the book keeper: exact counts, and the very books the recordings imply.

The counts are those an independent decoder gave for the same sessions. The books are rebuilt here from the raw frames
by a few lines that share nothing with the adapters, and compared with those rebuilt from the events.
"""

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest

from relay.adapter import Ack, Adapter, Alive, Unknown
from relay.model.events import Depth, Event, Quote
from relay.provider.books import Books
from relay.testing.recording import Recording
from relay_binance.adapter import Binance
from relay_bitstamp.adapter import Bitstamp
from relay_kraken.adapter import Kraken
from relay_kraken.book import checksum
from support.recordings import load_recording, new_adapter, run_through

pytestmark = pytest.mark.recordings

#: Books as native symbol -> side -> price -> size.
Sides = dict[str, dict[str, str]]


def keep(adapter: Adapter, events: list[Event]) -> list[Event]:
    """The events as a session publishes them: depth goes by the book keeper."""
    books = Books(adapter.session)
    published: list[Event] = []
    for symbol in {event.symbol for event in events if isinstance(event, Depth)}:
        books.open(symbol)
    for event in events:
        published.extend(books.offer(event).out if isinstance(event, Depth) else [event])
    assert books.held == 0
    return published


def published(adapter: Adapter, recording: Recording) -> list[Event]:
    results = [result for decoded in run_through(adapter, recording) for result in decoded.results]
    assert not [result for result in results if isinstance(result, Unknown)]
    assert {type(result) for result in results if not isinstance(result, Event)} <= {Ack, Alive}
    return keep(adapter, [result for result in results if isinstance(result, Event)])


def counts(events: list[Event]) -> dict[str, int]:
    count = Counter(event.kind for event in events)
    count["snapshots"] = sum(isinstance(event, Depth) and event.snapshot for event in events)
    return dict(count)


def change(book: dict[str, str], levels: list[list[str]]) -> None:
    for price, size, *_ in levels:
        if Decimal(size):
            book[price] = size
        else:
            book.pop(price, None)


def rebuilt(events: list[Event]) -> dict[str, Sides]:
    """The books as a subscriber of the events has them at the end."""
    books: dict[str, Sides] = {}
    for event in events:
        if isinstance(event, Depth):
            native = event.native_symbol or ""
            if event.snapshot:
                books[native] = {"bids": {}, "asks": {}}
            change(books[native]["bids"], event.bids)
            change(books[native]["asks"], event.asks)
    return books


def implied_by_fetched_books(recording: Recording, snapshots, deltas) -> dict[str, Sides]:
    """The books at the end by the snapshots' contents and every delta numbered behind them."""
    books = {}
    for native, snapshot, covered in snapshots:
        books[native] = {
            "bids": {p: s for p, s, *_ in snapshot["bids"]},
            "asks": {p: s for p, s, *_ in snapshot["asks"]},
        }
        for symbol, number, bids, asks in deltas:
            if symbol == native and number > covered:
                change(books[native]["bids"], bids)
                change(books[native]["asks"], asks)
    return books


def test_binance_us_gives_every_event_and_the_exact_books():
    recording = load_recording("binance_us.jsonl")
    adapter = new_adapter(Binance, venue="us")
    events = published(adapter, recording)
    assert counts(events) == {"quote": 128, "public_trade": 11, "depth": 336, "candle": 5, "snapshots": 4}

    frames = [json.loads(record.data)["data"] for record in recording.incoming]
    deltas = [(f["s"], f["u"], f["b"], f["a"]) for f in frames if f.get("e") == "depthUpdate"]
    fetched = [(r.url, json.loads(r.data)) for r in recording.records if "/depth?" in r.url]
    snapshots = [(url.split("symbol=")[1].split("&")[0], book, book["lastUpdateId"]) for url, book in fetched]
    assert len(snapshots) == 4
    assert rebuilt(events) == implied_by_fetched_books(recording, snapshots, deltas)


def test_bitstamp_gives_every_event_and_the_exact_books():
    recording = load_recording("bitstamp.jsonl")
    events = published(new_adapter(Bitstamp), recording)
    assert counts(events) == {"public_trade": 10, "depth": 625, "snapshots": 10}

    frames = [json.loads(record.data) for record in recording.incoming]
    changes = [(f["channel"].rsplit("_", 1)[1], f["data"]) for f in frames if f["event"] == "data"]
    deltas = [(pair, int(book["microtimestamp"]), book["bids"], book["asks"]) for pair, book in changes]
    fetched = [(r.url.rsplit("/", 1)[1], json.loads(r.data)) for r in recording.records if "/order_book/" in r.url]
    snapshots = [(pair, book, int(book["microtimestamp"])) for pair, book in fetched]
    assert len(snapshots) == 10
    assert rebuilt(events) == implied_by_fetched_books(recording, snapshots, deltas)


def test_kraken_gives_every_event_and_the_exact_books():
    recording = load_recording("kraken.jsonl")
    adapter = new_adapter(Kraken)
    events = published(adapter, recording)
    assert counts(events) == {"quote": 18, "public_trade": 10, "depth": 4279, "snapshots": 10}

    books: dict[str, Sides] = {}
    for pair, parts in kraken_books(recording):
        book = books.setdefault(pair, {"bids": {}, "asks": {}})
        for part in parts:
            change(book["bids"], part.get("b", part.get("bs", [])))
            change(book["asks"], part.get("a", part.get("as", [])))
    assert len(books) == 10
    assert rebuilt(events) == books


def kraken_books(recording: Recording) -> Iterator[tuple[str, list[dict]]]:
    for record in recording.incoming:
        frame = json.loads(record.data)
        if isinstance(frame, list) and frame[-2].startswith("book"):
            yield frame[-1], frame[1:-2]


def test_kraken_books_have_krakens_checksum_after_every_change():
    recording = load_recording("kraken.jsonl")
    books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    compared = 0
    for event in published(new_adapter(Kraken), recording):
        if isinstance(event, Depth):
            bids, asks = books.setdefault(event.symbol, ({}, {}))
            change(bids, event.bids)
            change(asks, event.asks)
            best_bids = sorted(bids.items(), key=lambda level: -Decimal(level[0]))[:1000]
            best_asks = sorted(asks.items(), key=lambda level: Decimal(level[0]))[:1000]
            books[event.symbol] = dict(best_bids), dict(best_asks)
            if not event.snapshot:
                assert checksum(best_bids, best_asks) == event.checksum
                compared += 1
    assert compared == 4269


@pytest.mark.parametrize(
    ("adapter_class", "options", "name"),
    [(Binance, {"venue": "us"}, "binance_us"), (Bitstamp, {}, "bitstamp"), (Kraken, {}, "kraken")],
)
def test_every_number_of_an_event_is_in_its_frame_digit_for_digit(adapter_class, options, name):
    checked = 0
    for decoded in run_through(new_adapter(adapter_class, **options), load_recording(f"{name}.jsonl")):
        text = str(decoded.record.data)
        for result in decoded.results:
            if isinstance(result, Depth):
                numbers = [number for level in [*result.bids, *result.asks] for number in level]
            elif isinstance(result, Quote):
                numbers = [result.bid, result.ask, result.bid_size, result.ask_size]
            else:
                numbers = [
                    getattr(result, name) for name in ("price", "quantity", "open", "close") if hasattr(result, name)
                ]
            missing = [number for number in numbers if f'"{number}"' not in text]
            assert not missing
            checked += len(numbers)
    assert checked > 1000
