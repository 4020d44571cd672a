"""Real sessions through the adapters and the book keeper: exact counts, and the very books the recordings imply."""

import re
from collections import Counter
from decimal import Decimal

import pytest

from relay.adapter import Ack, Adapter, Alive, Learned, Ready, Unknown
from relay.model.events import Depth, Event, Instrument, Quote
from relay.provider.books import Books
from relay.testing.recording import Recording
from relay_kraken.book import checksum
from support.recordings import new_adapter, run_through
from support.venues import VENUES, Venue

pytestmark = pytest.mark.recordings

per_venue = pytest.mark.parametrize("venue", VENUES, ids=lambda venue: venue.recording)


def keep(adapter: Adapter, events: list[Event]) -> list[Event]:
    """The events as a session publishes them: depth goes by the book keeper."""
    books = Books(adapter.session, checksum=adapter.checksum, levels=adapter.book_levels(adapter.context))
    published: list[Event] = []
    for symbol in {event.symbol for event in events if isinstance(event, Depth)}:
        books.open(symbol)
    for event in events:
        published.extend(books.offer(event).out if isinstance(event, Depth) else [event])
    assert books.held == 0
    return published


def published(venue: Venue, recording: Recording) -> list[Event]:
    adapter = new_adapter(venue.adapter, **venue.options)
    results = [result for decoded in run_through(adapter, recording) for result in decoded.results]
    assert len([result for result in results if isinstance(result, Unknown)]) == venue.unknown
    assert {type(result) for result in results if not isinstance(result, Event)} <= {
        Ack,
        Alive,
        Learned,
        Ready,
        Unknown,
    }
    return keep(adapter, [result for result in results if isinstance(result, Event)])


@per_venue
def test_a_recorded_session_gives_every_event_and_the_exact_books(venue: Venue) -> None:
    recording = venue.load()
    events = published(venue, recording)
    listed = {event.native_symbol for event in events if isinstance(event, Instrument)}
    events = [event for event in events if not isinstance(event, Instrument)]
    assert Counter(event.kind for event in events) == venue.counts
    assert len(listed) == venue.instruments
    assert sum(isinstance(event, Depth) and event.snapshot for event in events) >= venue.books

    books: dict[str, tuple[dict[Decimal, str], dict[Decimal, str]]] = {}
    for event in events:
        if isinstance(event, Depth):
            book = books.setdefault(event.native_symbol or "", ({}, {}))
            for side, levels in zip(book, (event.bids, event.asks), strict=True):
                if event.snapshot:
                    side.clear()
                for price, size in levels:
                    side[Decimal(price)] = size
                    if not Decimal(size):
                        del side[Decimal(price)]
    implied = venue.implied_books(recording)
    assert len(implied) == venue.books
    assert {native: tuple(map(dict, book)) for native, book in books.items()} == {
        native: tuple({price: size for price, (_, size) in side.items()} for side in book)
        for native, book in implied.items()
    }


def test_kraken_books_have_krakens_checksum() -> None:
    """Sum up every twentieth state of the books, which are sorted here anew."""
    (kraken,) = (venue for venue in VENUES if venue.recording == "kraken")
    books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    compared = 0
    for number, event in enumerate(each for each in published(kraken, kraken.load()) if isinstance(each, Depth)):
        book = books.setdefault(event.symbol, ({}, {}))
        for side, levels in zip(book, (event.bids, event.asks), strict=True):
            side.update(levels)
            for price in [price for price, size in levels if not Decimal(size)]:
                del side[price]
        if number % 20 == 0 and not event.snapshot:
            bids = sorted(book[0].items(), key=lambda level: -Decimal(level[0]))
            asks = sorted(book[1].items(), key=lambda level: Decimal(level[0]))
            assert checksum(bids, asks) == event.checksum
            compared += 1
    assert compared == 213


def numbers_in(text: str) -> set[str]:
    """Every number of a frame with its digits, without its sign, and without an exponent."""
    found = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?(?![\w.])", text)
    return {format(Decimal(number), "f") if "e" in number.lower() else number for number in found}


@per_venue
def test_every_number_of_an_event_is_in_its_frame_digit_for_digit(venue: Venue) -> None:
    checked = 0
    for decoded in run_through(new_adapter(venue.adapter, **venue.options), venue.load()):
        data = decoded.record.data
        if not decoded.results:
            continue
        written = numbers_in(data if isinstance(data, str) else data.decode())
        for result in decoded.results:
            if isinstance(result, Depth):
                numbers = [number for level in [*result.bids, *result.asks] for number in level]
            elif isinstance(result, Quote):
                numbers = [result.bid, result.ask, result.bid_size, result.ask_size]
            else:
                numbers = [
                    getattr(result, name) for name in ("price", "quantity", "open", "close") if hasattr(result, name)
                ]
            missing = set(numbers) - {None, "0"} - written
            assert not missing
            checked += len(numbers)
    assert checked > 200
