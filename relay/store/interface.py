"""The interface of all stores: rows by table and key and, in stores that support them, the logs of topics.

Everything except `Store.run` is synchronous and does not block, so that publishing a message never waits for a store.
Changes that are made without an ``await`` in between are atomic: after a crash either all of them are stored, or none. A
store that fails keeps its pending changes, retries, and gives the reason in `Store.failure` until it has caught up.

A topic's events are numbered in memory, from blocks of numbers that are reserved in the store in advance. After a crash, the
next process continues after the reserved block, so that a number within an epoch never means two events. An event is logged
in one of two ways:

- `TopicLogs.log`: the event is delivered, then logged with the next batch. A crash may lose the newest events; the next
  process publishes one gap for them.
- `TopicLogs.log_first`: the event is delivered once it is stored. A crash loses no event that was delivered.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from attrs import frozen

from relay.histogram import Histogram

Rows = Mapping[str, Sequence[tuple[str, bytes]]]
"""Keys and values by table."""
Done = Callable[[str], object]
"""Called once, with "" when the change is on disk, or with the reason why it is not. Must not raise."""


GRANTED = 1000
"""The count of numbers that a store reserves in each topic for the process that opens it."""


class StoreError(Exception):
    """Raised when the store cannot be used; the text gives the reason and the file."""


@frozen
class Row:
    """A row to write. A ``value`` of None removes the row."""

    table: str
    key: str
    value: bytes | None


class LoggedEvent(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One numbered and encoded event of a topic. Other Structs with these members, in this order, can be logged as well.

    It is a Struct, because one is made for every event and they are encoded by the thousand: that is done in C, and
    ``gc=False`` keeps them out of the garbage collector's lists.
    """

    seq: int
    """Its sequence number in the topic, larger than that of the previous event."""
    id: str
    at: float
    """The time of its publication: in monotonic seconds when passed to a store, in Unix time when read from one."""
    head: bytes
    """The encoded name of the event."""
    tail: bytes
    """Its encoded data."""
    policy: str
    """The policy for subscribers that are too slow to receive it."""
    conflation_key: str = ""
    """The key under which it is conflated."""


class Loggable(Protocol):
    """An event to be logged; it is encoded as `LoggedEvent` is."""

    @property
    def seq(self) -> int:
        """Its sequence number in the topic."""

    @property
    def at(self) -> float:
        """The time of its publication, monotonic seconds."""

    @property
    def head(self) -> bytes:
        """The encoded name of the event."""


@frozen(kw_only=True)
class LoggedTopic:
    """One topic as a store holds it.

    Attributes:
        epoch: the epoch of its numbers.
        reserved: numbers up to this one may have been used by earlier processes.
        granted: numbers up to this one are reserved for this process from its start.
        events: the logged events, oldest first. Numbers missing between them were skipped after earlier crashes.
        complete: True if the previous process shut down cleanly, so that every event it numbered was logged.
    """

    epoch: str
    reserved: int
    granted: int = 0
    events: Sequence[LoggedEvent] = ()
    complete: bool = False


class Owner(Protocol):
    """The relay whose state a store keeps."""

    def restore(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> object:
        """Restore the state that an earlier process stored. Called once, as soon as the store is open."""

    def rows(self) -> Iterable[Row]:
        """Return all rows that should be in the store. Called when the store has lost its content."""

    def topics(self, names: Collection[str] | None) -> Iterable[tuple[str, str, int, Sequence[Loggable]]]:
        """Return name, epoch, reserved number and events in memory of these topics, or of all if ``names`` is None.

        Called when a store has lost events, to log them again. A topic that is not returned no longer exists.
        """


class TopicLogs(Protocol):
    """The logs of topics in a store. A topic's name is any text that is the same after a restart."""

    def reserve(self, topic: str, epoch: str, up_to: int, done: Done) -> None:
        """Reserve the topic's numbers up to ``up_to``. They may be used once ``done`` is called with "".

        The numbers of a new epoch may be used at once, because an epoch whose reservation was not stored ends with a crash.
        """

    def log(self, topic: str, events: list[Loggable], taken: Callable[[], object]) -> None:
        """Log delivered events with the next batch, or later if the store fails.

        The caller may append to the list until ``taken`` is called, so that publishing an event costs only one append.
        """

    def log_first(self, topic: str, event: Loggable, done: Done) -> None:
        """Log an event now, and call ``done`` when it is on disk, in the order of the calls.

        If it cannot be written, ``done`` is called with the reason, and the event is logged later.
        """

    def forget(self, topic: str) -> None:
        """Remove the topic with its events."""


class Store(Protocol):
    """Persistent rows and logs. Either one process uses the store at a time, or each process has rows of its own."""

    @property
    def keeps(self) -> bool:
        """False if nothing outlives the process."""

    @property
    def logs(self) -> TopicLogs | None:
        """The logs of topics; None if the store has none."""

    @property
    def failure(self) -> str:
        """The reason why nothing can be written at present; empty while the store works."""

    @property
    def durations(self) -> Histogram | None:
        """Seconds from a change with a ``done`` callback to its acknowledgement; None if that is not measured."""

    def write(self, row: Row) -> None:
        """Write a row soon, in the order of the calls."""

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk. If that fails or takes too long, the row is not stored."""

    def sync(self, done: Done) -> None:
        """Call ``done`` when all earlier changes are on disk, or with the reason why they are not yet."""

    async def run(self, owner: Owner, *, task_status: Any = ...) -> None:
        """Run the store until cancelled, then write the pending changes.

        It reports that it has started when it has called ``owner.restore`` with its content, or when it cannot be opened. In
        that case ``owner.restore`` is called later, once the store has been opened.
        """

    def status(self) -> Mapping[str, Any]:
        """Return its section of the status page: ``kind``, ``available``, ``reason``, ``waiting`` changes, and counters."""
