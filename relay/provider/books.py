"""Order books: publish a snapshot before any delta, and a gap in the place of every missing delta.

A book is COLLECTING until it has a snapshot. Meanwhile its deltas are held; if there are too many, the oldest are dropped.
A snapshot (from the stream, or fetched) covers all changes up to its ``last_seq`` = L. Held deltas with ``last_seq`` <= L
are contained in it and dropped. If sequence numbers are contiguous, the first remaining delta must continue from L:
``first_seq`` <= L + 1 <= ``last_seq``. Otherwise the snapshot is too old; it is not published, and another one is requested.
If numbers have gaps by design, a fetched snapshot is too old if it ends before the first held delta. (This is the procedure
that Binance documents under "How to manage a local order book correctly".) A delta that overlaps the snapshot is published
unchanged: sizes are absolute, so applying a change twice has no effect.

A LIVE book publishes deltas as they arrive. If contiguous numbers are missing, or a checksum does not match, a `Gap` is
published and the book is COLLECTING again. Numbers with gaps by design (such as Bitstamp's times) are only used to find out
what a snapshot contains. A snapshot from the stream always replaces the book. A fetched one that is older than the book does
not.

If a provider keeps a fixed number of levels and does not report which of them drop out (Kraken), the removals are added to
the delta that caused them.

If a provider only sends whole snapshots, no book is ever COLLECTING for long: each event is a snapshot.
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
    """One side of a book, sorted. Used only if there are checksums or a fixed number of levels."""

    __slots__ = ("_at", "_order", "_sign")

    def __init__(self, *, descending: bool) -> None:
        self._sign = -1 if descending else 1
        self._order: list[Decimal] = []
        self._at: dict[Decimal, Level] = {}

    def apply(self, levels: Sequence[Level]) -> None:
        """Set absolute sizes. A size of zero removes the level; prices are compared as numbers."""
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
        """Remove and return all levels but the ``count`` best."""
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
    """The result of applying one event to a book.

    Attributes:
        out: the events to publish, in order.
        snapshot_of: the symbol, if its book needs a snapshot now.
    """

    out: tuple[Depth | Gap, ...] = ()
    snapshot_of: str | None = None


_HELD = Kept()
_MISMATCH = "the provider's checksum does not match the book"


class Books:
    """The books of one session.

    Args:
        session: its declaration of ``book`` and ``sequence``.
        buffer: most deltas that are held for one book's snapshot.
        checksum: the provider's algorithm, if it sends checksums and the adapter implements it.
        levels: number of levels per side beyond which the provider silently drops levels; None if it sends removals.
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
        #: Number of deltas that were dropped, by reason. Held deltas are not counted.
        self.dropped: Counter[str] = Counter()

    def open(self, symbol: str) -> None:
        """Start a book for ``symbol``, which is being subscribed, and hold its deltas until its snapshot arrives."""
        self.close(symbol)
        self._books[symbol] = _Book(symbol, deque())

    def close(self, symbol: str) -> None:
        """Remove the book of ``symbol``, which is no longer subscribed."""
        book = self._books.pop(symbol, None)
        if book is not None:
            self._drop(book.held, "book_closed")

    def close_all(self) -> None:
        """Remove all books: the connection is closed."""
        for symbol in list(self._books):
            self.close(symbol)

    def collecting(self, symbol: str) -> bool:
        """Return True if the book of ``symbol`` waits for a snapshot."""
        book = self._books.get(symbol)
        return book is not None and book.phase is Phase.COLLECTING

    @property
    def held(self) -> int:
        """The number of deltas that wait for a snapshot."""
        return sum(len(book.held) for book in self._books.values())

    def offer(self, depth: Depth) -> Kept:
        """Apply a depth event of the stream or of a fetched snapshot; return the events to publish."""
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
        """Return a gap for a LIVE book that has lost deltas, and hold deltas until its next snapshot."""
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
        """Return the snapshot and the held deltas that follow it, up to the first gap in their numbers."""
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
            # A message that names its predecessor may have a lower number than it: the provider has restarted its numbers.
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
                book.covered = None  # it belongs to the numbers before the restart
            book.last = last
        followed = self._followed(book, delta)
        if followed is None:
            self.dropped["checksum"] += 1
            return self.lost(book.symbol, _MISMATCH)
        return Kept((followed,))

    def _broken(self, book: _Book, delta: Depth, reason: str, from_seq: int, to_seq: int) -> Kept:
        """Return a gap for the numbers missing before ``delta``, and hold ``delta`` for the next snapshot."""
        kept = self.lost(book.symbol, reason, from_seq, to_seq)
        self._books[book.symbol].held.append(delta)
        return kept

    def _followed(self, book: _Book, depth: Depth) -> Depth | None:
        """Apply ``depth`` to the levels; return it with implied removals added, or None if the checksum does not match."""
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
        """Return the number of books, the symbols that wait for a snapshot, and the number of held deltas."""
        waiting = [book.symbol for book in self._books.values() if book.phase is Phase.COLLECTING]
        return {"books": len(self._books), "collecting": waiting, "held": self.held}


def _removed(levels: Sequence[Level]) -> tuple[Level, ...]:
    return tuple((price, "0") for price, _ in levels)


def _contained(delta: Depth, covered: int) -> bool:
    return delta.last_seq is not None and delta.last_seq <= covered


def _is_older(snapshot: Depth, delta: Depth) -> bool:
    """Return True if a snapshot ends before the delta begins, so that changes between the two may be missing."""
    return snapshot.last_seq is not None and snapshot.last_seq < _first(delta, snapshot.last_seq)


def _first(delta: Depth, before: int) -> int:
    """Return the first number of a delta: ``first_seq``, else ``last_seq``, else the number after ``before``."""
    if delta.first_seq is not None:
        return delta.first_seq
    return before + 1 if delta.last_seq is None else delta.last_seq
