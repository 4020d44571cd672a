"""A provider's log: batches of events, written by the owner, read by every other node.

A batch is named by the owner's fence and a number that counts from 1 within the fence. Names only increase, so that a reader
needs only one position. Within a fence the numbers have no gaps, and the first batch of a fence names its predecessor. From
these a reader detects that it was disconnected for longer than the log is kept, even if only one batch follows.

A batch whose append got no answer is appended again under the same name, and the store accepts it once. It never changes.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

#: Most events in one batch.
MOST_EVENTS = 512
#: Approximate limit of the bytes of a batch's events.
MOST_BYTES = 512 * 1024


class LogPosition(NamedTuple):
    """The name of a batch; (0, 0) is before the first one."""

    fence: int
    n: int


START = LogPosition(0, 0)
#: The end of a log: a position, or one position for each of several logs.
End = TypeVar("End")


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """A numbered event of one topic; ``id`` to ``key`` are those of `relay.hub.encoding.HistoryEntry`.

    ``first`` is lower than ``seq`` if the event covers all numbers from ``first`` to ``seq``: the gap of a new owner.
    """

    topic: str
    epoch: str
    first: int
    seq: int
    id: str = ""
    head: bytes = b""
    tail: bytes = b""
    policy: str = ""
    key: str = ""


class LogBatch(msgspec.Struct, frozen=True, array_like=True):
    """A batch of the log. ``after``: predecessor of the first batch of a fence. ``ends``: the owner leaves after it."""

    fence: int
    n: int
    entries: tuple[LogEntry, ...] = ()
    after: LogPosition | None = None
    ends: bool = False

    @property
    def position(self) -> LogPosition:
        """The name of the batch."""
        return LogPosition(self.fence, self.n)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LogBatch).decode


class LogAppender:
    """The batches of an owner. One at a time is in flight, and is repeated until its outcome is known."""

    def __init__(self, fence: int, after: LogPosition) -> None:
        self.fence = fence
        self._after: LogPosition | None = after
        self._n = 0
        self._waiting: deque[LogEntry] = deque()
        self._under_way: LogBatch | None = None
        self._ends = self._ended = False

    def __len__(self) -> int:
        """Return the number of events that are not known to be in the log."""
        return len(self._waiting) + (0 if self._under_way is None else len(self._under_way.entries))

    @property
    def waiting(self) -> int:
        """Number of events that are in no batch yet."""
        return len(self._waiting)

    @property
    def begun(self) -> bool:
        """True once its first batch is in the log."""
        return self._n > (self._under_way is not None)

    @property
    def ended(self) -> bool:
        """True once everything is in the log, including the last batch."""
        return self._ended

    def put(self, entry: LogEntry) -> None:
        """Append an event."""
        self._waiting.append(entry)

    def end(self) -> None:
        """Append a last batch, which announces to the other nodes that the owner leaves."""
        self._ends = True

    def batch(self) -> LogBatch | None:
        """Return the batch to append, the same one until its outcome is known; None if there is none."""
        if self._under_way is None:
            ends = self._ends and not self._ended and len(self._waiting) <= MOST_EVENTS
            if not self._waiting and self._after is None and not ends:
                return None
            entries = self._take()
            self._n += 1
            self._under_way = LogBatch(self.fence, self._n, entries, self._after, ends and not self._waiting)
            self._after = None
        return self._under_way

    def _take(self) -> tuple[LogEntry, ...]:
        entries: list[LogEntry] = []
        size = 0
        while self._waiting and len(entries) < MOST_EVENTS and size < MOST_BYTES:
            entry = self._waiting.popleft()
            size += len(entry.tail)
            entries.append(entry)
        return tuple(entries)

    def appended(self) -> LogBatch:
        """Note that the batch is in the log, and return it."""
        batch, self._under_way = self._under_way, None
        assert batch is not None
        self._ended = batch.ends
        return batch


class LogReader:
    """The position of a reader. It detects batches that are missing after that position."""

    def __init__(self, position: LogPosition = START) -> None:
        self.position = position
        self.missed = False
        """True from the detection that this reader has missed batches, until `load`."""

    def feed(self, batch: LogBatch) -> Sequence[LogEntry]:
        """Return the events to publish; none if the batch was read before. Set `missed` if earlier batches are missing."""
        at = batch.position
        if at <= self.position:
            return ()
        if batch.fence == self.position.fence:
            follows = batch.n == self.position.n + 1
        else:
            # A reader that is ahead of the predecessor has read batches that the store has lost since.
            follows = batch.after is not None and LogPosition(*batch.after) <= self.position
        self.missed = self.missed or not follows
        self.position = at
        return batch.entries


class EndOfLog(Generic[End]):
    """The end of a log in the store. Answers to some subscribers must wait until this node has read to that position.

    Nodes read the log at slightly different times. A subscriber that comes from another node may have seen later events.

    Args:
        is_read: returns True if this node has read to the given end.
    """

    def __init__(self, is_read: Callable[[End], bool]) -> None:
        self.asked = self._answered = 0
        self._end: End | None = None
        self._is_read = is_read

    @property
    def wanted(self) -> bool:
        """True while a request for the end must be sent to the store."""
        return self._answered < self.asked

    def read_on(self) -> Callable[[], bool]:
        """Return a function that returns True once this node has read to the current end of the log."""
        self.asked += 1
        number = self.asked
        end: End | None = None

        def is_read() -> bool:
            nonlocal end
            if end is None and self._answered >= number:
                end = self._end
            return end is not None and self._is_read(end)

        return is_read

    def answer(self, asked: int, end: End) -> None:
        """Note the store's answer. ``asked``: the value of that attribute when the request was sent."""
        self._answered, self._end = asked, end
