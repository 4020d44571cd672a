"""The book keeper: order books that never show a delta before its snapshot, nor across a hole.

A book is COLLECTING until a snapshot joins it: deltas are held back, the oldest given up when there are too many. The
snapshot (on the stream, or fetched) covers everything up to its ``last_seq`` = L. Held deltas with ``last_seq`` <= L are
contained in it and dropped. Where sequence numbers have no holes the first one left must reach across L:
``first_seq`` <= L + 1 <= ``last_seq``; otherwise the snapshot is too old, it is not shown, and another one is asked for.
Where numbers have holes by design, a fetched snapshot is too old if it ends before the first delta that is held.
(This is the procedure Binance documents under "How to manage a local order book correctly".) A delta that overlaps the
snapshot is published as it is: sizes are absolute, so applying a part twice changes nothing.

A LIVE book publishes deltas as they come. A hole in contiguous numbers, or a checksum that does not match, publishes a
`Gap` in the place of what is missing and makes that one symbol COLLECTING again. Numbers with holes by design (times, as
Bitstamp's) only say what a snapshot contains. A snapshot on the stream always replaces the book; a fetched one that the
book is already past does not.

Where a provider keeps a window of so many levels and does not say which fall out of it (Kraken does not), the delta that
pushes them out is published with their removal.

For a provider whose books come as whole snapshots nothing is ever collected; one delta from it would wait for a snapshot
like any other.
"""

import enum
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from attrs import Factory, define, evolve, frozen

from relay.adapter import CHECKSUM_LEVELS, Book, Checksum, Session
from relay.model.enums import Refill
from relay.model.events import Depth, Gap, Level


class Phase(enum.Enum):
    COLLECTING = "collecting"
    LIVE = "live"


class Levels:
    """One side of a book, in order. Kept only where a checksum or a window of levels has to be followed."""

    __slots__ = ("_at", "_order", "_sign")

    def __init__(self, *, descending: bool) -> None:
        self._sign = -1 if descending else 1
        self._order: list[Decimal] = []
        self._at: dict[Decimal, Level] = {}

    def apply(self, levels: Sequence[Level]) -> None:
        """Set absolute sizes; a size of zero removes its level, however the price is written."""
        for level in levels:
            place = self._sign * Decimal(level[0])
            if Decimal(level[1]):
                if place not in self._at:
                    insort(self._order, place)
                self._at[place] = level
            elif self._at.pop(place, None) is not None:
                del self._order[bisect_left(self._order, place)]

    def best(self, count: int) -> list[Level]:
        """Return the ``count`` best levels, best first."""
        return [self._at[place] for place in self._order[:count]]

    def cut(self, count: int) -> list[Level]:
        """Forget all but the ``count`` best levels; return those forgotten."""
        gone = [self._at.pop(place) for place in self._order[count:]]
        del self._order[count:]
        return gone


@define(eq=False)
class _Book:
    symbol: str
    held: deque[Depth]
    phase: Phase = Phase.COLLECTING
    covered: int | None = None
    last: int | None = None
    bids: Levels = Factory(lambda: Levels(descending=True))
    asks: Levels = Factory(lambda: Levels(descending=False))


@frozen
class Kept:
    """The result of one event in a book.

    Attributes:
        out: what is to be published now, in order.
        snapshot_of: the symbol that needs a snapshot now, if any.
    """

    out: tuple[Depth | Gap, ...] = ()
    snapshot_of: str | None = None


_HELD = Kept()
_MISMATCH = "the provider's checksum does not match the book"


class Books:
    """The books of one session.

    Args:
        session: its declaration of ``book`` and ``sequence``.
        buffer: how many deltas may wait for one book's snapshot.
        checksum: the provider's algorithm, if it sends checksums and the adapter knows it.
        levels: how many levels a side the provider keeps without saying which fall out; None: it says so.
    """

    def __init__(
        self, session: Session, *, buffer: int = 5000, checksum: Checksum | None = None, levels: int | None = None
    ) -> None:
        self._contiguous = session.sequence.scope == "topic" and session.sequence.contiguous
        self._fetched = session.book is Book.FETCHED
        self._buffer = buffer
        self._checksum = checksum
        self._limit = levels
        self._books: dict[str, _Book] = {}
        #: Deltas that were not published, by reason. What is still held back is not among them.
        self.dropped: Counter[str] = Counter()

    def open(self, symbol: str) -> None:
        """Collect the deltas of ``symbol``, which is being subscribed, until its snapshot comes."""
        self.close(symbol)
        self._books[symbol] = _Book(symbol, deque())

    def close(self, symbol: str) -> None:
        """Forget the book of ``symbol``, which is no longer subscribed."""
        book = self._books.pop(symbol, None)
        if book is not None:
            self._drop(book.held, "book_closed")

    def close_all(self) -> None:
        """Forget all books: the connection is gone."""
        for symbol in list(self._books):
            self.close(symbol)

    def collecting(self, symbol: str) -> bool:
        """Return True if ``symbol`` waits for a snapshot."""
        book = self._books.get(symbol)
        return book is not None and book.phase is Phase.COLLECTING

    @property
    def held(self) -> int:
        """Deltas that wait for a snapshot."""
        return sum(len(book.held) for book in self._books.values())

    def offer(self, depth: Depth) -> Kept:
        """Take a depth event of the stream or of a fetched snapshot; say what is to be published."""
        book = self._books.get(depth.symbol)
        if book is None:
            self.dropped["unwanted"] += 1
            return _HELD
        if depth.snapshot:
            return self._snapshot(book, depth)
        if book.phase is Phase.COLLECTING:
            return self._hold(book, depth)
        return self._delta(book, depth)

    def lost(self, symbol: str, reason: str, from_seq: int | None = None, to_seq: int | None = None) -> Kept:
        """Publish a gap because a live book has lost something, and collect until the next snapshot."""
        book = self._books.get(symbol)
        if book is None or book.phase is Phase.COLLECTING:
            return _HELD
        self._drop(book.held, "book_closed")
        self._books[symbol] = _Book(symbol, deque())
        gap = Gap(of="depth", symbol=symbol, from_seq=from_seq, to_seq=to_seq, refill=Refill.SNAPSHOT, reason=reason)
        return Kept((gap,), symbol)

    def _hold(self, book: _Book, delta: Depth) -> Kept:
        if len(book.held) >= self._buffer:
            book.held.popleft()
            self.dropped["book_buffer"] += 1
        book.held.append(delta)
        return Kept((), book.symbol) if len(book.held) == 1 else _HELD

    def _snapshot(self, book: _Book, snapshot: Depth) -> Kept:
        covered = snapshot.last_seq
        if self._fetched and covered is not None and book.last is not None and covered < book.last:
            self.dropped["snapshot_too_old"] += 1
            return _HELD
        pending = [delta for delta in book.held if covered is not None and not _contained(delta, covered)]
        if pending and self._contiguous and covered is not None and _first(pending[0], covered) > covered + 1:
            self.dropped["snapshot_too_old"] += 1
            return Kept((), book.symbol)
        if self._fetched and not self._contiguous and book.held and _is_older(snapshot, book.held[0]):
            self.dropped["snapshot_too_old"] += 1
            return Kept((), book.symbol)
        self.dropped["in_snapshot"] += len(book.held) - len(pending)
        book.held.clear()
        book.bids, book.asks = Levels(descending=True), Levels(descending=False)
        if self._followed(book, snapshot) is None:
            self.dropped["checksum"] += 1
            book.held.extend(pending)
            return self.lost(book.symbol, _MISMATCH) if book.phase is Phase.LIVE else Kept((), book.symbol)
        book.phase, book.covered, book.last = Phase.LIVE, covered, covered
        return self._joined(book, snapshot, pending)

    def _joined(self, book: _Book, snapshot: Depth, pending: Sequence[Depth]) -> Kept:
        """Publish the snapshot and the deltas held behind it; a hole among those is a hole like any other."""
        out: list[Depth | Gap] = [snapshot]
        for position, delta in enumerate(pending):
            kept = self._delta(book, delta)
            out += kept.out
            if kept.snapshot_of is not None:
                self._books[book.symbol].held.extend(pending[position + 1 :])
                return Kept(tuple(out), kept.snapshot_of)
        return Kept(tuple(out))

    def _delta(self, book: _Book, delta: Depth) -> Kept:
        last = delta.last_seq
        if last is not None:
            # Where each message names the one before it, the next one may have a lower number: the provider began anew.
            follows = self._contiguous and book.last is not None and _first(delta, book.last) == book.last + 1
            if book.covered is not None and last <= book.covered and not follows:
                self.dropped["in_snapshot"] += 1
                return _HELD
            if self._contiguous and book.last is not None and not follows:
                if last <= book.last:
                    self.dropped["repeated"] += 1
                    return _HELD
                if (first := _first(delta, book.last)) > book.last + 1:
                    return self._broken(book, delta, "sequence numbers are missing", book.last + 1, first - 1)
            if follows and book.covered is not None and last <= book.covered:
                book.covered = None  # in numbers that are no longer counted in
            book.last = last
        followed = self._followed(book, delta)
        if followed is None:
            self.dropped["checksum"] += 1
            return self.lost(book.symbol, _MISMATCH)
        return Kept((followed,))

    def _broken(self, book: _Book, delta: Depth, reason: str, from_seq: int, to_seq: int) -> Kept:
        """Announce the hole before ``delta``, which waits for the next snapshot."""
        kept = self.lost(book.symbol, reason, from_seq, to_seq)
        self._books[book.symbol].held.append(delta)
        return kept

    def _followed(self, book: _Book, depth: Depth) -> Depth | None:
        """Return ``depth`` with the removals it implies; None if the provider's checksum differs from the book's."""
        if self._checksum is None and self._limit is None:
            return depth
        book.bids.apply(depth.bids)
        book.asks.apply(depth.asks)
        if self._limit is not None:
            bids, asks = book.bids.cut(self._limit), book.asks.cut(self._limit)
            if (bids or asks) and not depth.snapshot:
                depth = evolve(depth, bids=depth.bids + _removed(bids), asks=depth.asks + _removed(asks))
        if self._checksum is None or depth.checksum is None:
            return depth
        best = book.bids.best(CHECKSUM_LEVELS), book.asks.best(CHECKSUM_LEVELS)
        return depth if self._checksum(*best) == depth.checksum else None

    def _drop(self, deltas: deque[Depth], reason: str) -> None:
        if deltas:
            self.dropped[reason] += len(deltas)
            deltas.clear()

    def status(self) -> dict[str, Any]:
        """Return the numbers of books, of those that wait for a snapshot, and of the deltas held back."""
        waiting = [book.symbol for book in self._books.values() if book.phase is Phase.COLLECTING]
        return {"books": len(self._books), "collecting": waiting, "held": self.held}


def _removed(levels: Sequence[Level]) -> tuple[Level, ...]:
    return tuple((price, "0") for price, _ in levels)


def _contained(delta: Depth, covered: int) -> bool:
    return delta.last_seq is not None and delta.last_seq <= covered


def _is_older(snapshot: Depth, delta: Depth) -> bool:
    """Return True if a snapshot ends before the delta begins: nothing says whether changes are missing between the two."""
    return snapshot.last_seq is not None and snapshot.last_seq < _first(delta, snapshot.last_seq)


def _first(delta: Depth, before: int) -> int:
    """Return the first number that a delta covers: with ``last_seq`` alone that number, without numbers the next one."""
    if delta.first_seq is not None:
        return delta.first_seq
    return before + 1 if delta.last_seq is None else delta.last_seq
