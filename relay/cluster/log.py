"""A provider's log: batches of events, written by the owner, read by every other node.

A batch is named by the owner's fence and a number that counts from 1 within the fence. Names only grow, so a reader needs
one position. Within a fence the numbers have no holes; the first batch of a fence names the batch it follows. So a reader
that was away longer than the log is kept finds out, however few batches follow.

A batch whose append got no answer is appended again under the same name, and the store takes it once. It is never changed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

#: Events of one batch.
MOST_EVENTS = 512
#: Bytes of the events of one batch, about.
MOST_BYTES = 512 * 1024


class LogPosition(NamedTuple):
    """The name of a batch; (0, 0) is before the first one."""

    fence: int
    n: int


START = LogPosition(0, 0)
#: The end of a log: a position, or one of each of several logs.
End = TypeVar("End")


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """A numbered event of one topic; ``id`` to ``key`` are those of `relay.hub.encoding.HistoryEntry`.

    ``first`` is lower than ``seq`` where the event stands for all numbers from it on: the gap of a new owner.
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
    """A batch of the log. ``after`` is what the first one of a fence follows; ``ends`` is said by an owner that leaves."""

    fence: int
    n: int
    entries: tuple[LogEntry, ...] = ()
    after: LogPosition | None = None
    ends: bool = False

    @property
    def position(self) -> LogPosition:
        """Its name."""
        return LogPosition(self.fence, self.n)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LogBatch).decode


class LogAppender:
    """The batches of an owner: one at a time is on its way, and is not given up before its fate is known."""

    def __init__(self, fence: int, after: LogPosition) -> None:
        self.fence = fence
        self._after: LogPosition | None = after
        self._n = 0
        self._waiting: deque[LogEntry] = deque()
        self._under_way: LogBatch | None = None
        self._ends = self._ended = False

    def __len__(self) -> int:
        """Return the events that are not known to be in the log."""
        return len(self._waiting) + (0 if self._under_way is None else len(self._under_way.entries))

    @property
    def waiting(self) -> int:
        """Events that are in no batch yet."""
        return len(self._waiting)

    @property
    def begun(self) -> bool:
        """True when its first batch is in the log."""
        return self._n > (self._under_way is not None)

    @property
    def ended(self) -> bool:
        """True when everything is in the log, the last batch too."""
        return self._ended

    def put(self, entry: LogEntry) -> None:
        """Append an event."""
        self._waiting.append(entry)

    def end(self) -> None:
        """Append a last batch, which tells the others that the owner leaves."""
        self._ends = True

    def batch(self) -> LogBatch | None:
        """Return the batch to append now, the same one until its fate is known; None where there is none."""
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
        """Note that the batch is in the log; return it."""
        batch, self._under_way = self._under_way, None
        assert batch is not None
        self._ended = batch.ends
        return batch


class LogReader:
    """The position of a reader, and whether what it is given follows it."""

    def __init__(self, position: LogPosition = START) -> None:
        self.position = position
        self.missed = False
        """True from the moment that batches were found to be lost for this reader, until `load`."""

    def feed(self, batch: LogBatch) -> Sequence[LogEntry]:
        """Return the events to publish: none of a batch that was read before. `missed` says if others were lost."""
        at = batch.position
        if at <= self.position:
            return ()
        if batch.fence == self.position.fence:
            follows = batch.n == self.position.n + 1
        else:
            # A reader that is ahead of it saw batches that the store has lost since.
            follows = batch.after is not None and LogPosition(*batch.after) <= self.position
        self.missed = self.missed or not follows
        self.position = at
        return batch.entries


class EndOfLog(Generic[End]):
    """The end of a log, asked of the store for subscribers who must not be answered before this node has read to there.

    A node reads a little later than another one. A subscriber who comes from there may know more than this node does.

    Args:
        is_read: returns whether this node has read to an end.
    """

    def __init__(self, is_read: Callable[[End], bool]) -> None:
        self.asked = self._answered = 0
        self._end: End | None = None
        self._is_read = is_read

    @property
    def wanted(self) -> bool:
        """True while the store has to be asked."""
        return self._answered < self.asked

    def read_on(self) -> Callable[[], bool]:
        """Return a function that returns True once this node has read all that is in the log now."""
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
        """Note the store's answer; ``asked`` is as it was when the store was asked."""
        self._answered, self._end = asked, end
