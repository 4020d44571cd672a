"""A store in one SQLite file: a thread of its own writes, and everything that waits goes into one transaction.

The trio side only appends to lists, so no message waits for the disk. What must be on disk soon (rows, reservations,
events that are logged first) is handed to the thread at the end of the scheduler's pass, all of a pass together. Events
that are delivered already are handed over every `BATCH` seconds: so much of them a crash may lose.

What holds:

- An error (disk full, read-only, locked, damaged) fails what waits for an acknowledgement. Other rows are kept by key and
  written when the file can be opened again, which is tried every second. So is the removal of the failed ones: it is not
  known how much of a failed transaction is on disk. Topics of which events were not written are logged anew then, from
  the relay's memory.
- A disk that does not answer within `SILENT` seconds is a failure as well.
- A lock file beside it keeps a second process out. A file of another program or of a newer version is never changed; one of
  an older version is brought up to date.
- A file that was removed or replaced while it was open is written anew from what the relay holds.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from relay.histogram import Histogram
from relay.store.interface import Done, Loggable, LoggedTopic, Owner, Row, Rows, TopicLogs
from relay.store.sqlite_file import (
    VERSION,
    AnyChange,
    Change,
    FileWriter,
    Log,
    LogLimits,
    LogMany,
    Replace,
    Reserve,
    Sync,
)

#: Acknowledgements that may be waited for at once.
MOST_WAITING = 10_000
#: Delivered events that may wait for the thread.
MOST_LOGGED = 100_000
#: Seconds after which delivered events are written.
BATCH = 0.5
#: Seconds without an answer of the disk after which the store has failed.
SILENT = 5.0
#: Seconds that a shutdown waits for the last rows.
GOODBYE = 5.0

LogLine = Callable[..., None]
_NO_LIMITS = LogLimits()


_NOTHING: tuple[list[Loggable], Callable[[], object]] = ([], lambda: None)


def _no_log(event: str, **fields: object) -> None:
    """Log nothing."""


@frozen
class _Waiting:
    """A change whose acknowledgement is waited for."""

    change: AnyChange
    done: Done
    asked_at: float


class SqliteStore:
    """`relay.store.interface.Store` and its logs in the file at ``path``, made where there is none, for its owner only.

    Args:
        log: called with an event name and fields when the store fails and when it is back.
        limits: bounds of the events that are kept.
    """

    keeps = True

    def __init__(self, path: Path, *, log: LogLine = _no_log, limits: LogLimits = _NO_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self.ahead = 0.0
        self._log_line = log
        self._failure = f"{path} is not open yet"
        self._numbers = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._news = trio.Event()
        self._ended = trio.Event()
        self._owner: Owner | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        #: Everything the thread read, until `run` has handed it over; and True once it has.
        self._read: tuple[Rows, Mapping[str, LoggedTopic]] | None = None
        self._restored = self._lost = False
        #: Changes that this pass has put, and events that were delivered already.
        self._now: list[AnyChange] = []
        self._later: dict[str, tuple[list[Loggable], Callable[[], object]]] = {}
        #: Delivered events that the thread has and has not written yet.
        self._logging = 0
        #: Topics of which events were not written.
        self._torn: set[str] = set()
        self.durations: Histogram | None = Histogram()
        self._figures = {"transactions": 0, "rows": 0, "events": 0, "kept_bytes": 0, "failures": 0}
        # Shared with the thread, under the condition's lock.
        self._changed = threading.Condition()
        self._queue: list[AnyChange] = []
        self._closing = False

    @property
    def logs(self) -> TopicLogs:
        """The logs of topics are in the file, too: what is given together is written together."""
        return self

    # --- relay.store.interface.Store ---------------------------------------------------------------------------------

    @property
    def failure(self) -> str:
        """The reason that nothing can be written now; empty while it can."""
        return self._failure

    def write(self, row: Row) -> None:
        """Write a row soon, after all that were given before."""
        self._put(Change(row))

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk; at once, with the reason, where it cannot be."""
        self._ask(partial(Change, row), done)

    def sync(self, done: Done) -> None:
        """Call ``done`` when all that was given before is on disk, but for events that wait for a batch."""
        self._ask(Sync, done)

    # --- relay.store.interface.TopicLogs -----------------------------------------------------------------------------

    def reserve(self, topic: str, epoch: str, up_to: int, done: Done) -> None:
        """Reserve the topic's numbers up to ``up_to``."""
        if not self._ask(partial(Reserve, topic, epoch, up_to), done):
            self._torn.add(topic)

    def log(self, topic: str, events: list[Loggable], taken: Callable[[], object]) -> None:
        """Log events that were delivered, with the next batch; the list may grow until then."""
        self._later[topic] = events, taken

    def log_first(self, topic: str, event: Loggable, done: Done) -> None:
        """Log an event now, and call ``done`` when it is on disk."""
        if not self._ask(partial(Log, topic, event), done):
            self._torn.add(topic)

    def forget(self, topic: str) -> None:
        """Remove the topic with its events."""
        self._torn.discard(topic)
        self._take_later(topic)
        self._put(Replace(topic))

    async def run(self, owner: Owner, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the store until cancelled, then write what is left, for `GOODBYE` seconds at most."""
        self._owner, self._token = owner, trio.lowlevel.current_trio_token()
        self.ahead = time.time() - trio.current_time()
        thread = FileWriter(self, self._token)
        threading.Thread(target=thread.run, name="store", daemon=True).start()
        self._hand_over()
        try:
            with trio.move_on_after(SILENT):
                await self._news.wait()
            if not self._news.is_set():
                self._set_failure(f"{self.path} was not opened within {SILENT:g} s")
            self._take_over()
            task_status.started()
            while True:
                with trio.move_on_after(min(BATCH, SILENT / 10)):
                    await self._news.wait()
                self._take_over()
                self._give_up(trio.current_time() - SILENT)
        finally:
            self._hand_over_later()
            with self._changed:
                self._closing = True
                self._changed.notify()
            with trio.move_on_after(GOODBYE, shield=True):
                await self._ended.wait()

    def status(self) -> Mapping[str, Any]:
        """Return its part of the status page."""
        about = {"kind": "sqlite", "available": not self._failure, "reason": self._failure}
        oldest = next(iter(self._waiting.values()), None)
        behind = 0.0 if oldest is None else trio.current_time() - oldest.asked_at
        return {**about, "waiting": len(self._waiting), "behind": round(behind, 3), **self._figures}

    # --- the trio side -----------------------------------------------------------------------------------------------

    def _ask(self, change: Callable[[int], AnyChange], done: Done) -> bool:
        """Put a change whose acknowledgement is waited for; return False where it was refused."""
        if self._failure:
            done(self._failure)
            return False
        if len(self._waiting) >= MOST_WAITING:
            done(f"{MOST_WAITING} rows wait for the disk")
            return False
        number = next(self._numbers)
        numbered = change(number)
        self._waiting[number] = _Waiting(numbered, done, trio.current_time())
        self._put(numbered)
        return True

    def _put(self, change: AnyChange) -> None:
        self._now.append(change)
        if len(self._now) == 1 and self._token is not None:
            self._token.run_sync_soon(self._hand_over)  # at the end of the pass

    def _hand_over(self) -> None:
        if self._now:
            with self._changed:
                self._queue += self._now
                self._changed.notify()
            self._now.clear()

    def _hand_over_later(self) -> None:
        """Hand over the events that were delivered; while the store fails, only remember of which topics they are."""
        later = {topic: self._take_later(topic) for topic in list(self._later)}
        if self._failure or self._logging > MOST_LOGGED:
            self._torn.update(later)
        elif later:
            self._logging += (count := sum(map(len, later.values())))
            self._now.append(LogMany(later, count))
        self._hand_over()

    def _take_later(self, topic: str) -> Sequence[Loggable]:
        """Take what waits of a topic; the next event begins another list."""
        events, taken = self._later.pop(topic, _NOTHING)
        taken()
        return events

    def _give_up(self, before: float) -> None:
        """Fail what was given before ``before`` and is not on disk; rows that get there later are removed."""
        late = []
        for number, waiting in self._waiting.items():
            if waiting.asked_at > before:
                break
            late.append(number)
        if not late:
            return
        self._set_failure(f"{self.path} has not answered for {SILENT:g} s")
        for number in late:
            waiting = self._waiting.pop(number)
            match waiting.change:
                case Change(row):
                    self.write(Row(row.table, row.key, None))
                case Log(topic) | Reserve(topic) | Replace(topic):
                    self._torn.add(topic)
            waiting.done(self._failure)

    def _set_failure(self, reason: str) -> None:
        if reason and reason != self._failure:
            self._figures["failures"] += 1
            self._log_line("store failed", reason=reason)
        elif self._failure and not reason and self._figures["failures"]:
            self._log_line("store available", path=str(self.path))
        self._failure = reason

    def _take_over(self) -> None:
        """Do what the thread found to be done, here and not in its report, so that an error ends `run` and nothing else."""
        self._news = trio.Event()
        self.ahead = time.time() - trio.current_time()
        assert self._owner is not None
        if self._read is not None:
            (rows, topics), self._read, self._restored = self._read, None, True
            self._set_failure("")
            self._owner.restore(rows, topics)
        if self._lost:
            self._lost = False
            for row in self._owner.rows():
                self.write(row)
            self._log_anew(None)
        elif self._torn and not self._failure:
            torn, self._torn = self._torn, set()
            self._log_anew(torn)
        self._hand_over_later()

    def _log_anew(self, names: set[str] | None) -> None:
        """Log topics as they are in the relay's memory, in place of what the file may have of them."""
        assert self._owner is not None
        if names is None:
            self._torn = set()
        for name in list(self._later if names is None else names):
            self._take_later(name)
        gone = set(names or ())
        for topic, epoch, reserved, events in self._owner.topics(names):
            gone.discard(topic)
            self._put(Replace(topic, epoch, reserved, events))
        for topic in gone:
            self._put(Replace(topic))

    def opened(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> None:
        """Take over what the file holds; the thread has opened it."""
        self._read = rows, topics
        self._news.set()

    def migrated(self, version: int) -> None:
        """Log that the file of an older relay was brought up to date."""
        self._log_line("store migrated", path=str(self.path), version=version, to=VERSION)

    def lost(self) -> None:
        """Write everything again: the thread found the file lost, and made a new one."""
        self._lost = True
        self._news.set()

    def torn(self, topics: Iterable[str]) -> None:
        """Note that the events of these topics were not written."""
        self._torn.update(topics)

    def written(self, numbers: Sequence[int], rows: int, events: int, kept: int, failure: str) -> None:
        """Tell who waits for these changes that they are on disk, or the reason that they are not."""
        if failure:
            self._set_failure(failure)
            self._news.set()
        else:
            self._figures["transactions"] += rows + events > 0
            self._figures["rows"] += rows
            self._figures["events"] += events
            self._figures["kept_bytes"] = kept
            if self._restored:
                self._set_failure("")
        now = trio.current_time()
        for number in numbers:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                if not failure and self.durations is not None:
                    self.durations.observe(now - waiting.asked_at)
                waiting.done(failure)

    @property
    def is_whole(self) -> bool:
        """True while all events that were logged are on disk or on their way to it."""
        return not self._torn and not self._failure

    def ended(self) -> None:
        """Note that the thread has written all it could, and closed the file."""
        self._ended.set()

    def take(self, seconds: float) -> tuple[list[AnyChange], bool]:
        """Return what waits for the thread, and True if it is to end; wait up to ``seconds`` for either."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(seconds)
            queue, self._queue = self._queue, []
            self._logging = 0
            return queue, self._closing
