"""One node's part in one provider: it reads the provider's two logs, or writes them while it is the owner.

- The *market* log has what may be conflated, or be replaced by a gap and a snapshot. The owner publishes it at once and
  appends it after. So a crash may leave numbers that only the owner's subscribers have seen. The next owner leaves out
  `WINDOW` numbers of each topic, with one `gap` in their place. No owner is ever `WINDOW` events ahead of the log: before
  that it gives the provider up.
- The *durable* log has orders, fills, positions, replies and states of sessions. They are published when they are in the
  log, on the owner too; so no node has shown what a survivor cannot show, and the next owner goes on with the next number.

A new owner reads both logs to the end they had when the lease was granted, and appends its gaps. It publishes nothing and
opens no session before these are in the log: if it fails before, the next owner leaves out the same numbers. Where the
store may have lost what others have read (`LeaseGrant.continuous`), it begins new epochs. Whatever it appends is refused
once another node has the lease; then, and when the lease runs out, it stops, and reads on behind the last batch that is
known to be in the log.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal, Protocol

from attrs import define, evolve, field, frozen

from relay.cluster.log import START, LogAppender, LogBatch, LogEntry, LogPosition, LogReader

#: Numbers of a topic that a new owner leaves out, and events that an owner may be ahead of the log.
WINDOW = 100_000

LogName = Literal["market", "durable"]
LOGS: tuple[LogName, ...] = ("market", "durable")


@frozen(kw_only=True)
class LeaseGrant:
    """A lease as the store granted it.

    Attributes:
        ends: the last batch of each log at that moment.
        run: names the store's life since its last start.
        continuous: False where no owner has led in this life of the store: it may have lost what others have read.
    """

    token: str
    fence: int
    ends: Mapping[LogName, LogPosition]
    run: str
    continuous: bool


class Placing(Enum):
    """The place of a number among those of its topic that were published here."""

    NEXT = "next"
    REPEATED = "repeated"
    HOLE = "hole"
    """Numbers before it were missed."""
    NEW = "new"
    """It is of an epoch that this node has not seen."""


def place(known: tuple[str, int] | None, number: LogEntry) -> Placing:
    """Return where an event stands behind ``known``, the topic's epoch and its last number here; None for no topic."""
    if known is None or known[0] != number.epoch:
        return Placing.NEW
    if number.seq <= known[1]:
        return Placing.REPEATED
    return Placing.NEXT if number.first <= known[1] + 1 else Placing.HOLE


class ReplicatedTopics(Protocol):
    """The topics of a provider on this node, as `Replica` needs them."""

    def publish(self, entry: LogEntry) -> None:
        """Publish an event under its number, if that is not `Placing.REPEATED`; a HOLE is told before."""

    def take_over(self, *, new_epochs: bool) -> Iterable[tuple[LogName, LogEntry]]:
        """Return the gaps to append: over numbers that are left out, or as the first of a new epoch."""


@define(eq=False)
class Replica:
    """One node's part in one provider. It reads, or it writes: first a new owner's gaps, then, `leading`, its events."""

    topics: ReplicatedTopics
    readers: dict[LogName, LogReader] = field(factory=lambda: {name: LogReader() for name in LOGS})
    writers: dict[LogName, LogAppender] = field(factory=dict)
    leading: bool = False
    """True while this node numbers the provider's events."""
    _grant: LeaseGrant | None = None

    def start_at(self, ends: Mapping[LogName, LogPosition]) -> None:
        """Begin behind these batches: what they lead to was loaded from the store."""
        for name in LOGS:
            self.readers[name].position = max(self.readers[name].position, ends.get(name, START))
            self.readers[name].missed = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def feed(self, name: LogName, batch: LogBatch) -> None:
        """Publish a batch that was read. While this node writes it has none to read."""
        if not self.writers:
            for entry in self.readers[name].feed(batch):
                self.topics.publish(entry)

    @property
    def missed(self) -> bool:
        """True if batches were lost for this node: the present state must be loaded from the store."""
        return any(reader.missed for reader in self.readers.values())

    # --- leading -----------------------------------------------------------------------------------------------------

    def granted(self, grant: LeaseGrant) -> None:
        """Take a new lease. `try_to_write` is to be called now and after each `feed`."""
        self._grant = grant

    def try_to_write(self) -> bool:
        """Begin to write once the logs are read to the end of the grant; True if this node has begun now."""
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
        """The life of the store in which this node leads, to be noted there with each renewal; empty while it does not."""
        return self._grant.run if self.leading and self._grant is not None else ""

    def renewed(self, run: str, ends: Mapping[LogName, LogPosition]) -> bool:
        """Note in which life the store is; False if it has lost batches of this node, which must stop and take over anew."""
        if self._grant is None or run == self._grant.run:
            return True
        if any(ends.get(name, START) < self.readers[name].position for name in self.writers):
            return False
        self._grant = evolve(self._grant, run=run)
        return True

    @property
    def overrun(self) -> bool:
        """True if the log is too far behind what was published: the provider must be given up."""
        return any(len(writer) >= WINDOW for writer in self.writers.values())

    def append(self, name: LogName, entry: LogEntry) -> None:
        """Append an event. One of the market has been published; a durable one is published when it is in the log."""
        self.writers[name].put(entry)

    def appended(self, name: LogName) -> bool:
        """Note that the batch on its way is in the log, and publish what waited for that. True if this node leads now."""
        batch = self.writers[name].appended()
        self.readers[name].position = batch.position
        if name == "durable" or not self.leading:
            for entry in batch.entries:
                self.topics.publish(entry)
        begins = not self.leading and all(writer.begun and not len(writer) for writer in self.writers.values())
        self.leading = self.leading or begins
        return begins

    def resign(self) -> None:
        """Stop writing. What is not known to be in the log is published if it is found there, and only then."""
        self.writers, self._grant, self.leading = {}, None, False
