"""The interface of all stores: rows by table and key, and, where it keeps them, the logs of topics.

Everything but `Store.run` is synchronous and waits for nothing, so that the path of a message never does.
What is given without an ``await`` between is one change: after a crash all of it is there, or nothing. A store that fails
keeps what it was told to write, tries again by itself, and says so in `Store.failure` until it has caught up.

A topic's events are numbered in memory, from blocks of numbers that are reserved in the store ahead of need. So a process
that follows a crash knows which numbers may have been used, and goes on behind them: a number of an epoch never means two
events. There are two disciplines:

- `TopicLogs.log`: the event is delivered, then logged with the next batch. A crash may lose the newest ones; whoever goes on
  behind the reserved block tells of them with one gap.
- `TopicLogs.log_first`: the event is delivered when it is acknowledged. A crash loses nothing that anybody has seen.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from attrs import frozen

from relay.histogram import Histogram

Rows = Mapping[str, Sequence[tuple[str, bytes]]]
"""Keys and values by table."""
Done = Callable[[str], object]
"""Called once with "" when it is on disk, or with the reason that it is not. Must not raise."""


GRANTED = 1000
"""Numbers that a store reserves of each topic for the process that takes it over."""


class StoreError(Exception):
    """Raised when the store cannot be used; the text gives the reason and the file."""


@frozen
class Row:
    """One row to be written; ``value`` None removes it."""

    table: str
    key: str
    value: bytes | None


class LoggedEvent(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One numbered and encoded event of a topic. Other Structs with these members, in this order, can be logged as well.

    It is a Struct because these are made for every event and packed by the thousand: in C, and without a place among what
    the garbage collector looks through.
    """

    seq: int
    """Its number in the topic, larger than that of the one before."""
    id: str
    at: float
    """The time of its publication: monotonic seconds where it is given to a store, Unix time where it comes from one."""
    head: bytes
    """The encoded name of the event."""
    tail: bytes
    """Its encoded data."""
    policy: str
    """Its treatment at a slow subscriber."""
    conflation_key: str = ""
    """The key under which it is conflated."""


class Loggable(Protocol):
    """An event to be logged; it is encoded as `LoggedEvent` is."""

    @property
    def seq(self) -> int:
        """Its number in the topic."""

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
        epoch: the topic's.
        reserved: numbers up to this one may have been used.
        granted: numbers up to this one are reserved for this process, from its start on.
        events: the logged ones, oldest first. Numbers that are missing between two of them are the holes of earlier crashes.
        complete: True where the process before ended in order: all events are here that it numbered.
    """

    epoch: str
    reserved: int
    granted: int = 0
    events: Sequence[LoggedEvent] = ()
    complete: bool = False


class Owner(Protocol):
    """The relay, whose knowledge a store keeps."""

    def restore(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> object:
        """Take over what an earlier process left. Called once, as soon as the store is open."""

    def rows(self) -> Iterable[Row]:
        """Return all rows that should be in the store; called where it was lost."""

    def topics(self, names: Collection[str] | None) -> Iterable[tuple[str, str, int, Sequence[Loggable]]]:
        """Return name, epoch, reserved number and kept events of the topics (None: of all).

        Called where a store has lost events, to log them anew; a topic that is not returned is gone.
        """


class TopicLogs(Protocol):
    """The logs of topics in a store. A topic's name is any text that stays the same over restarts."""

    def reserve(self, topic: str, epoch: str, up_to: int, done: Done) -> None:
        """Reserve the topic's numbers up to ``up_to``; they may be used when ``done`` is called with "".

        The numbers of an epoch that is new may be used at once: without its reservation its epoch does not outlive a crash.
        """

    def log(self, topic: str, events: list[Loggable], taken: Callable[[], object]) -> None:
        """Log events that were delivered, with the next batch; while the store fails, later.

        The list may grow until ``taken`` is called. So an event costs its publication one append.
        """

    def log_first(self, topic: str, event: Loggable, done: Done) -> None:
        """Log an event now, and call ``done`` when it is on disk, in the order of the calls.

        Where it cannot be, ``done`` is called with the reason, and the event is logged later.
        """

    def forget(self, topic: str) -> None:
        """Remove the topic with its events."""


class Store(Protocol):
    """Keeps rows over the end of the process, and logs. One process uses it at a time, or each its own rows."""

    @property
    def keeps(self) -> bool:
        """False where nothing outlives the process."""

    @property
    def logs(self) -> TopicLogs | None:
        """The logs of topics; None where it has none."""

    @property
    def failure(self) -> str:
        """The reason that nothing can be written now; empty while it can."""

    @property
    def durations(self) -> Histogram | None:
        """Seconds from a change that is waited for to its acknowledgement; None where that is not measured."""

    def write(self, row: Row) -> None:
        """Write a row soon, after all that were given before."""

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk. A row that could not be written in time stays absent."""

    def sync(self, done: Done) -> None:
        """Call ``done`` when all that was given before is on disk, or with the reason that it is not yet."""

    async def run(self, owner: Owner, *, task_status: Any = ...) -> None:
        """Keep the store until cancelled, then write what is left.

        It has started when ``owner.restore`` was called with what the store holds, or when it failed to open: then that is
        called later, once it has been opened.
        """

    def status(self) -> Mapping[str, Any]:
        """Return its part of the status page: ``kind``, ``available``, ``reason``, acknowledgements ``waiting``, figures."""
