"""One node's part in one provider: it reads the provider's two logs, or writes them while it is the owner.

- The *market* log has events that may be conflated, or replaced by a gap and a snapshot. The owner publishes an event first
  and appends it afterwards. After a crash, only the owner's subscribers may have seen the last numbers. The next owner
  therefore skips `WINDOW` numbers in each topic and publishes one `gap` for them. An owner releases the provider before it
  is `WINDOW` events ahead of the log.
- The *durable* log has orders, fills, positions, replies and states of sessions. Every node, including the owner, publishes
  them once they are in the log. So no subscriber sees an event that a crash could lose, and the next owner continues with
  the next number.

A new owner reads both logs to their ends at the time of the grant and appends its gaps. It publishes nothing and opens no
session before these are in the log. If it fails earlier, the next owner skips the same numbers. If the store may have lost
batches that others have read (`LeaseGrant.continuous`), it begins new epochs. The store refuses its batches once another
node has the lease. The owner then stops, as it does when the lease expires, and reads after the last batch that is known to
be in the log.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal, Protocol

from attrs import define, evolve, field, frozen

from relay.cluster.log import START, LogAppender, LogBatch, LogEntry, LogPosition, LogReader

#: Numbers that a new owner skips in each topic, and most events that an owner may be ahead of the log.
WINDOW = 100_000

LogName = Literal["market", "durable"]
LOGS: tuple[LogName, ...] = ("market", "durable")


@frozen(kw_only=True)
class LeaseGrant:
    """A lease as the store granted it.

    Attributes:
        ends: the last batch of each log at the time of the grant.
        run: identifies the store's life, which begins when it is started.
        continuous: False if no owner has led in this life of the store, so that it may have lost batches that were read.
    """

    token: str
    fence: int
    ends: Mapping[LogName, LogPosition]
    run: str
    continuous: bool


class Placing(Enum):
    """The relation of an event's number to the numbers of its topic that were published on this node."""

    NEXT = "next"
    REPEATED = "repeated"
    HOLE = "hole"
    """Numbers before it are missing."""
    NEW = "new"
    """It is of an epoch that this node has not seen."""


def place(known: tuple[str, int] | None, number: LogEntry) -> Placing:
    """Return the place of an event after ``known``, the topic's epoch and last number here; None if it has no event."""
    if known is None or known[0] != number.epoch:
        return Placing.NEW
    if number.seq <= known[1]:
        return Placing.REPEATED
    return Placing.NEXT if number.first <= known[1] + 1 else Placing.HOLE


class ReplicatedTopics(Protocol):
    """The topics of a provider on this node, as far as `Replica` needs them."""

    def publish(self, entry: LogEntry) -> None:
        """Publish an event with its number, unless it is `Placing.REPEATED`. Publish a gap first if it is a HOLE."""

    def take_over(self, *, new_epochs: bool) -> Iterable[tuple[LogName, LogEntry]]:
        """Return the gap events to append: for skipped numbers, or as the first event of a new epoch."""


@define(eq=False)
class Replica:
    """One node's part in one provider. It reads the logs, or writes them: first the gaps, then, when `leading`, events."""

    topics: ReplicatedTopics
    readers: dict[LogName, LogReader] = field(factory=lambda: {name: LogReader() for name in LOGS})
    writers: dict[LogName, LogAppender] = field(factory=dict)
    leading: bool = False
    """True while this node numbers the provider's events."""
    _grant: LeaseGrant | None = None

    def start_at(self, ends: Mapping[LogName, LogPosition]) -> None:
        """Begin to read after these batches; the state up to them was loaded from the store."""
        for name in LOGS:
            self.readers[name].position = max(self.readers[name].position, ends.get(name, START))
            self.readers[name].missed = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def feed(self, name: LogName, batch: LogBatch) -> None:
        """Publish the events of a batch that was read. Ignored while this node writes."""
        if not self.writers:
            for entry in self.readers[name].feed(batch):
                self.topics.publish(entry)

    @property
    def missed(self) -> bool:
        """True if this node has missed batches, so that the current state must be loaded from the store."""
        return any(reader.missed for reader in self.readers.values())

    # --- leading -----------------------------------------------------------------------------------------------------

    def granted(self, grant: LeaseGrant) -> None:
        """Record a new lease. Call `try_to_write` now and after each `feed`."""
        self._grant = grant

    def try_to_write(self) -> bool:
        """Begin to write if the logs have been read to the ends in the grant. Return True if it has begun with this call."""
        grant = self._grant
        if grant is None or self.writers or self.missed:
            return False
        if any(self.readers[name].position < grant.ends.get(name, START) for name in LOGS):
            return False
        self.writers = {name: LogAppender(grant.fence, self.readers[name].position) for name in LOGS}
        for name, entry in self.topics.take_over(new_epochs=not grant.continuous):
            self.writers[name].put(entry)
        return True

    @property
    def leading_in(self) -> str:
        """The life of the store in which this node leads; each renewal records it. Empty while this node does not lead."""
        return self._grant.run if self.leading and self._grant is not None else ""

    def renewed(self, run: str, ends: Mapping[LogName, LogPosition]) -> bool:
        """Note the store's life. Return False if it has lost batches of this node, which must then stop being the owner."""
        if self._grant is None or run == self._grant.run:
            return True
        if any(ends.get(name, START) < self.readers[name].position for name in self.writers):
            return False
        self._grant = evolve(self._grant, run=run)
        return True

    @property
    def overrun(self) -> bool:
        """True if too many published events are not in the log yet, so that the provider must be released."""
        return any(len(writer) >= WINDOW for writer in self.writers.values())

    def append(self, name: LogName, entry: LogEntry) -> None:
        """Append an event. Market events have been published already; durable ones are published once in the log."""
        self.writers[name].put(entry)

    def appended(self, name: LogName) -> bool:
        """Note that the batch in flight is in the log, and publish its durable events. Return True if this node leads."""
        batch = self.writers[name].appended()
        self.readers[name].position = batch.position
        if name == "durable" or not self.leading:
            for entry in batch.entries:
                self.topics.publish(entry)
        begins = not self.leading and all(writer.begun and not len(writer) for writer in self.writers.values())
        self.leading = self.leading or begins
        return begins

    def resign(self) -> None:
        """Stop writing. Events that are not known to be in the log are published only if they are read from it."""
        self.writers, self._grant, self.leading = {}, None, False
