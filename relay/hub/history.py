"""The last events of a topic, so that a subscriber that was away gets what it missed.

A ring holds consecutive events: each has the number after the one before. What is too many, too old or too large
leaves at the old end, and `floor` is the number of the last event that has left. So a position is answered by comparing
numbers:

- above the newest number: the subscriber is ahead of the topic, which can only be a mistake;
- below `floor`: something it missed has left;
- else everything behind it is here, possibly nothing.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from attrs import define, field, frozen, validators

from relay.hub.outbox import Policy
from relay.pusher.actions import Position
from relay.pusher.messages import ResumeFailure


@frozen(kw_only=True)
class HistoryLimits:
    """How much of each topic is kept for those who resume or rewind."""

    events: int = field(default=1000, validator=validators.ge(0))
    """Events per topic; 0 keeps none, and every resume fails."""
    age: float = field(default=300.0, validator=validators.ge(0))
    """Seconds an event is kept; an idle topic is forgotten after them too."""
    bytes: int = field(default=1024 * 1024, validator=validators.ge(0))
    """Encoded bytes per topic."""


@define(eq=False)
class Entry:
    """One event of one topic, encoded."""

    seq: int
    id: str
    at: float
    """When it was published, monotonic seconds."""
    head: bytes
    tail: bytes
    policy: Policy
    conflates: str = ""
    """Which of the channel's events it replaces at a slow subscriber (see Delivery.topic)."""


class Missed(Exception):
    """The events behind a position cannot be given; `reason` is one of the protocol's words for it."""

    def __init__(self, reason: ResumeFailure, position: Position | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        """Where the topic stands; None where it keeps no history."""


class Ring:
    """The newest events of one topic in one epoch."""

    __slots__ = ("_bytes", "_entries", "_limits", "epoch", "floor")

    def __init__(self, epoch: str, limits: HistoryLimits, start: int = 0) -> None:
        """`start` is the number of the last event before the first that is kept."""
        self.epoch = epoch
        self.floor = start
        self._limits = limits
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> Position:
        """Where the topic stands."""
        return Position(self.epoch, self.floor + len(self._entries))

    def append(self, entry: Entry) -> None:
        """Keep the topic's next event. Where numbers are missing before it, nothing older can be given any more."""
        if entry.seq != self.floor + len(self._entries) + 1:
            self.skip(entry.seq - 1)
        self._entries.append(entry)
        self._bytes += len(entry.tail)
        limits = self._limits
        if len(self._entries) > limits.events or self._bytes > limits.bytes or self._is_old(entry.at):
            self._shrink(entry.at)

    def skip(self, seq: int) -> None:
        """The topic has come to `seq` without keeping anything."""
        if self._entries:
            self._entries.clear()
            self._bytes = 0
        self.floor = seq

    def after(self, position: Position, now: float) -> Sequence[Entry]:
        """The events behind `position`, in order. Raises Missed."""
        if not self._limits.events:
            raise Missed("history_disabled", None)
        if position.epoch != self.epoch:
            raise Missed("epoch_changed", self.position)
        self._shrink(now)
        if position.seq < self.floor:
            raise Missed("position_expired", self.position)
        if position.seq > self.floor + len(self._entries):
            raise Missed("position_ahead", self.position)
        return list(islice(self._entries, position.seq - self.floor, None))

    def newest(self, count: int, now: float) -> Sequence[Entry]:
        """The last `count` events that are still here, oldest first."""
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
