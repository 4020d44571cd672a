"""The state of a topic that late joiners need: its last events, and for depth the order book.

`EventHistory` holds consecutive events. Numbers are only missing after a crash, and then the next event is the `gap` that
stands for them. Events beyond the limits (number, age, bytes) are removed, oldest first; `floor` is the number of the last
one removed. A client that resumes at a position can therefore be answered by comparing numbers:

- above the newest number: invalid, the client is ahead of the topic;
- below `floor`: an event it missed was removed;
- otherwise all events after it are here, possibly none.

`DepthBook` is the order book of one symbol at one provider. A late joiner, or a slow subscriber whose deltas were dropped,
gets it as one snapshot with the number of the topic's last event; later deltas have larger numbers, so nothing is missing
and nothing is applied twice.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import islice

from attrs import field, frozen, validators

from relay.hub.encoding import HistoryEntry, PublishedEvent
from relay.model.events import Depth, Level, SortedLevels, Stamp
from relay.pusher.messages import ResumeFailure, ResumePosition


@frozen(kw_only=True)
class HistoryLimits:
    """Limits of the events stored per topic for subscribers that resume or rewind."""

    events: int = field(default=1000, validator=validators.ge(0))
    """Events per topic; 0 keeps none, and every resume fails."""
    age: float = field(default=300.0, validator=validators.ge(0))
    """Seconds for which an event is kept. An idle topic is dropped after the same time."""
    bytes: int = field(default=1024 * 1024, validator=validators.ge(0))
    """Encoded bytes per topic."""
    idle_topics: int = field(default=10_000, validator=validators.ge(0))
    """Most topics without subscribers, for each app's own channels and for all streams. Topics that never had an event are
    dropped first, then the oldest. Pinned streams, accounts and statuses do not count."""
    idle_bytes: int = field(default=64 * 1024 * 1024, validator=validators.ge(0))
    """Most bytes of topics without subscribers; one without events takes about 2 kB."""


class Missed(Exception):
    """The events after a position are not available; `reason` is the protocol's code for the cause."""

    def __init__(self, reason: ResumeFailure, position: ResumePosition | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        """The topic's newest position; None if it has no history."""


class EventHistory:
    """The newest events of one topic in one epoch."""

    __slots__ = ("_bytes", "_entries", "_limits", "_newest", "epoch", "floor")

    def __init__(self, epoch: str, limits: HistoryLimits) -> None:
        self.epoch = epoch
        self.floor = self._newest = 0
        self._limits = limits
        self._entries: deque[HistoryEntry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Encoded bytes of its events."""
        return self._bytes

    @property
    def position(self) -> ResumePosition:
        """The newest position of the topic."""
        return ResumePosition(self.epoch, self._newest)

    @property
    def entries(self) -> Sequence[HistoryEntry]:
        """All events, oldest first."""
        return list(self._entries)

    def append(self, entry: HistoryEntry, first: int = 0) -> None:
        """Add the topic's next event. If numbers are missing before it, all older events are removed.

        ``first``: if the event is a gap, the first number it stands for.
        """
        if (first or entry.seq) != self._newest + 1:
            self.skip((first or entry.seq) - 1)
        self._newest = entry.seq
        self._entries.append(entry)
        self._bytes += len(entry.tail)
        limits = self._limits
        if len(self._entries) > limits.events or self._bytes > limits.bytes or self._is_old(entry.at):
            self._shrink(entry.at)

    def skip(self, seq: int) -> None:
        """Remove all events and continue after number `seq`."""
        if self._entries:
            self._entries.clear()
            self._bytes = 0
        self.floor = self._newest = seq

    def restore(
        self, epoch: str, entries: Iterable[HistoryEntry], newest: int, now: float, *, floor: int | None = None
    ) -> None:
        """Replace the history by the events of an earlier process, which may have used numbers up to ``newest``.

        ``floor``: the oldest position to resume from if there are no events, because a gap follows; by default ``newest``.
        """
        self.epoch = epoch
        self._entries = deque(entries)
        self._bytes = sum(len(entry.tail) for entry in self._entries)
        self.floor = self._entries[0].seq - 1 if self._entries else newest if floor is None else floor
        self._newest = newest
        self._shrink(now)

    def after(self, position: ResumePosition, now: float) -> Sequence[HistoryEntry]:
        """Return the events after `position`, in order. Raises Missed."""
        if not self._limits.events:
            raise Missed("history_disabled", None)
        if position.epoch != self.epoch:
            raise Missed("epoch_changed", self.position)
        self._shrink(now)
        if position.seq < self.floor:
            raise Missed("position_expired", self.position)
        if position.seq > self._newest:
            raise Missed("position_ahead", self.position)
        # If numbers are missing, an event's index is at most its number's distance from the floor: search from the start.
        start = position.seq - self.floor if len(self._entries) == self._newest - self.floor else 0
        return [entry for entry in islice(self._entries, start, None) if entry.seq > position.seq]

    def newest(self, count: int, now: float) -> Sequence[HistoryEntry]:
        """Return the last `count` events that are still here, oldest first."""
        self._shrink(now)
        return list(islice(self._entries, max(0, len(self._entries) - count), None))

    def _is_old(self, now: float) -> bool:
        return self._entries[0].at + self._limits.age <= now

    def _shrink(self, now: float) -> None:
        entries, limits = self._entries, self._limits
        while entries and (len(entries) > limits.events or self._bytes > limits.bytes or self._is_old(now)):
            entry = entries.popleft()
            self._bytes -= len(entry.tail)
            self.floor = entry.seq


class DepthBook:
    """Current bids and asks, and the last message that was applied.

    - A snapshot replaces the book; a delta sets the size of the levels it names, and size zero removes a level.
    - Prices are the same level when they are the same number ("1.10" and "1.1"); the text sent is the provider's last.
    - A delta without a book, or after a gap, is ignored: there is no book until the next snapshot.
    """

    __slots__ = ("_asks", "_bids", "_last", "stamp")

    def __init__(self) -> None:
        self._bids: dict[str, Level] = {}
        self._asks: dict[str, Level] = {}
        self._last: Depth | None = None
        self.stamp: Stamp | None = None
        """Stamp of the last message applied."""

    @property
    def ready(self) -> bool:
        """True if there is a book: a snapshot was applied, and no gap followed."""
        return self._last is not None

    def apply(self, event: Depth, stamp: Stamp) -> None:
        """Apply one snapshot or delta."""
        if event.snapshot:
            self._bids.clear()
            self._asks.clear()
        elif self._last is None:
            return
        _apply_levels(self._bids, event.bids)
        _apply_levels(self._asks, event.asks)
        self._last, self.stamp = event, stamp

    def invalidate(self) -> None:
        """Drop the book after a gap, until the next snapshot."""
        self._bids.clear()
        self._asks.clear()
        self._last = self.stamp = None

    def copy(self) -> "BookCopy":
        """Return a copy of the book. There must be one."""
        assert self._last is not None
        return BookCopy(self._last, list(self._bids.values()), list(self._asks.values()))


@frozen
class BookCopy:
    """A copy of a book. An event is built from it in parts, because sorting thousands of levels takes a millisecond."""

    last: Depth
    """The last message that was applied."""
    bids: Sequence[Level]
    asks: Sequence[Level]

    def sorted_bids(self) -> SortedLevels:
        """Return the bids from the highest."""
        return SortedLevels(sorted(self.bids, key=_price, reverse=True))

    def sorted_asks(self) -> SortedLevels:
        """Return the asks from the lowest."""
        return SortedLevels(sorted(self.asks, key=_price))

    def snapshot(self, bids: SortedLevels, asks: SortedLevels) -> Depth:
        """Return the whole book as one event."""
        last = self.last
        return Depth(
            symbol=last.symbol,
            native_symbol=last.native_symbol,
            timestamp=last.timestamp,
            bids=bids,
            asks=asks,
            snapshot=True,
            last_seq=last.last_seq,
            checksum=last.checksum,
        )


def _apply_levels(side: dict[str, Level], levels: Iterable[Level]) -> None:
    for level in levels:
        price, size = level
        if size.strip("-0."):
            side[_normalized(price)] = level
        else:  # a zero, however it is written
            side.pop(_normalized(price), None)


def _price(level: Level) -> Decimal:
    return Decimal(level[0])


@lru_cache(maxsize=16_384)
def _normalized(price: str) -> str:
    """Return a canonical text of a decimal number, so that equal prices have equal keys.

    A book's prices repeat: with this cache a lookup costs a tenth of hashing decimals.
    """
    whole, _, fraction = price.partition(".")
    text = f"{whole.lstrip('-0')}.{fraction.rstrip('0')}"
    return f"-{text}" if whole.startswith("-") and text != "." else text


class BookSnapshots:
    """The books of a depth topic as they were at one number, each as one snapshot event.

    Sorting and encoding a book of thousands of levels takes milliseconds, so it is done in steps. All subscribers that need
    the snapshots of the same number share the result.
    """

    __slots__ = ("_steps", "entries", "many", "seq")

    def __init__(
        self, seq: int, books: Sequence[DepthBook], ids: Callable[[], str], at: float, *, merged: bool
    ) -> None:
        """Copy the books of a topic whose last event had number `seq` at time `at`. `ids` returns the snapshots' ids."""
        self.seq = seq
        """The number of the topic's last event, which is in the snapshots."""
        self.many = len(books)
        """Number of books."""
        self.entries: list[HistoryEntry] = []
        """The snapshots made so far."""
        copies = [(book.copy(), book.stamp, ids()) for book in books]
        self._steps = self._make(copies, at, merged=merged)

    @property
    def made(self) -> bool:
        """True once all snapshots are made."""
        return len(self.entries) == self.many

    def step(self) -> None:
        """Do one step: about a millisecond for 10,000 levels."""
        next(self._steps, None)

    def finish(self) -> Sequence[HistoryEntry]:
        """Do all remaining steps and return the snapshots."""
        for _ in self._steps:
            pass
        return self.entries

    def _make(self, copies: Iterable[tuple[BookCopy, Stamp | None, str]], at: float, *, merged: bool) -> Iterator[None]:
        for copy, stamp, id in copies:
            bids = copy.sorted_bids()
            yield
            asks = copy.sorted_asks()
            yield
            assert stamp is not None
            published = PublishedEvent(copy.snapshot(bids, asks), stamp, id)
            self.entries.append(published.entry(self.seq, at, "depth", merged=merged))
            yield
