"""A store in one SQLite file. A dedicated thread writes all pending changes in one transaction.

The trio side only appends to lists, so no message waits for the disk. Changes that must be on disk soon (rows, reservations,
events that are logged first) are passed to the thread at the end of the scheduler's pass, all of a pass together. Delivered
events are passed to it every `BATCH` seconds; a crash may lose the events of that time.

Rules:

- An error (disk full, read-only, locked, damaged) fails the changes that wait for an acknowledgement. Other rows are kept by
  key and written when the file can be opened again, which is tried every second. The rows of failed changes are removed
  then, because it is not known how much of a failed transaction is on disk. Topics with events that were not written are
  logged again from the relay's memory.
- A disk that does not answer within `SILENT` seconds is a failure as well.
- A lock file next to it prevents a second process from using it. A file of another program or of a newer version is never
  changed; one of an older version is migrated.
- A file that was removed or replaced while it was open is written again from the relay's memory.
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

#: Most changes that may wait for an acknowledgement.
MOST_WAITING = 10_000
#: Most delivered events that may wait to be written.
MOST_LOGGED = 100_000
#: Seconds between two writes of delivered events.
BATCH = 0.5
#: Seconds without an answer from the disk after which the store counts as failed.
SILENT = 5.0
#: Seconds that a shutdown waits until the last rows are written.
GOODBYE = 5.0

LogLine = Callable[..., None]
_NO_LIMITS = LogLimits()


_NOTHING: tuple[list[Loggable], Callable[[], object]] = ([], lambda: None)


def _no_log(event: str, **fields: object) -> None:
    """Log nothing."""


@frozen
class _Waiting:
    """A change that waits for its acknowledgement."""

    change: AnyChange
    done: Done
    asked_at: float


class SqliteStore:
    """`relay.store.interface.Store` with logs in the file at ``path``, which is created with permissions 0600 if missing.

    Args:
        log: called with an event name and fields when the store fails and when it works again.
        limits: bounds of the logged events.
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
        #: The content that the thread has read, until `run` has passed it to the owner; below, True once it has.
        self._read: tuple[Rows, Mapping[str, LoggedTopic]] | None = None
        self._restored = self._lost = False
        #: Changes made in this pass of the scheduler; below, events that have been delivered.
        self._now: list[AnyChange] = []
        self._later: dict[str, tuple[list[Loggable], Callable[[], object]]] = {}
        #: Delivered events that were passed to the thread and are not written yet.
        self._logging = 0
        #: Topics with events that could not be written.
        self._torn: set[str] = set()
        self.durations: Histogram | None = Histogram()
        self._figures = {"transactions": 0, "rows": 0, "events": 0, "kept_bytes": 0, "failures": 0}
        # Shared with the thread; use only while holding the condition's lock.
        self._changed = threading.Condition()
        self._queue: list[AnyChange] = []
        self._closing = False

    @property
    def logs(self) -> TopicLogs:
        """The logs of topics, in the same file, so that rows and events can be written in one transaction."""
        return self

    # --- relay.store.interface.Store ---------------------------------------------------------------------------------

    @property
    def failure(self) -> str:
        """The reason why nothing can be written at present; empty while the store works."""
        return self._failure

    def write(self, row: Row) -> None:
        """Write a row soon, in the order of the calls."""
        self._put(Change(row))

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk; call it at once, with the reason, while the store fails."""
        self._ask(partial(Change, row), done)

    def sync(self, done: Done) -> None:
        """Call ``done`` when all earlier changes are on disk, except for delivered events, which wait for their batch."""
        self._ask(Sync, done)

    # --- relay.store.interface.TopicLogs -----------------------------------------------------------------------------

    def reserve(self, topic: str, epoch: str, up_to: int, done: Done) -> None:
        """Reserve the topic's numbers up to ``up_to``."""
        if not self._ask(partial(Reserve, topic, epoch, up_to), done):
            self._torn.add(topic)

    def log(self, topic: str, events: list[Loggable], taken: Callable[[], object]) -> None:
        """Log delivered events with the next batch. The caller may append to the list until then."""
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
        """Run the store until cancelled, then write the pending changes for `GOODBYE` seconds at most."""
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
        """Return its section of the status page."""
        about = {"kind": "sqlite", "available": not self._failure, "reason": self._failure}
        oldest = next(iter(self._waiting.values()), None)
        behind = 0.0 if oldest is None else trio.current_time() - oldest.asked_at
        return {**about, "waiting": len(self._waiting), "behind": round(behind, 3), **self._figures}

    # --- the trio side -----------------------------------------------------------------------------------------------

    def _ask(self, change: Callable[[int], AnyChange], done: Done) -> bool:
        """Add a change that waits for an acknowledgement. Return False if it was refused."""
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
        """Pass delivered events to the thread. While the store fails, only remember their topics."""
        later = {topic: self._take_later(topic) for topic in list(self._later)}
        if self._failure or self._logging > MOST_LOGGED:
            self._torn.update(later)
        elif later:
            self._logging += (count := sum(map(len, later.values())))
            self._now.append(LogMany(later, count))
        self._hand_over()

    def _take_later(self, topic: str) -> Sequence[Loggable]:
        """Remove and return the waiting events of a topic. The next event begins another list."""
        events, taken = self._later.pop(topic, _NOTHING)
        taken()
        return events

    def _give_up(self, before: float) -> None:
        """Fail the changes made before ``before`` that are not on disk. Rows written later nevertheless are removed."""
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
        """Act on the thread's reports. This is done here and not in the callbacks, so that an error ends only `run`."""
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
        """Log topics again from the relay's memory, replacing their events in the file."""
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
        """Take the content of the file, which the thread has opened."""
        self._read = rows, topics
        self._news.set()

    def migrated(self, version: int) -> None:
        """Log that the file of an older version was migrated."""
        self._log_line("store migrated", path=str(self.path), version=version, to=VERSION)

    def lost(self) -> None:
        """Write everything again, because the thread found the file missing and created a new one."""
        self._lost = True
        self._news.set()

    def torn(self, topics: Iterable[str]) -> None:
        """Note that the events of these topics were not written."""
        self._torn.update(topics)

    def written(self, numbers: Sequence[int], rows: int, events: int, kept: int, failure: str) -> None:
        """Acknowledge these changes: call their callbacks with "", or with the reason why they are not on disk."""
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
        """True while every logged event is on disk or waiting to be written, so that none has been dropped."""
        return not self._torn and not self._failure

    def ended(self) -> None:
        """Note that the thread has written everything that it could and has closed the file."""
        self._ended.set()

    def take(self, seconds: float) -> tuple[list[AnyChange], bool]:
        """Wait up to ``seconds`` for changes or the end. Return the changes, and True if the thread must end."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(seconds)
            queue, self._queue = self._queue, []
            self._logging = 0
            return queue, self._closing
