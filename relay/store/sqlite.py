"""A store in one SQLite file: a thread of its own writes, and everything that waits goes into one transaction.

The trio side only appends to a list, so no message waits for the disk. The thread takes the whole list, writes it in one
transaction (WAL, ``synchronous=FULL``: on disk when it is acknowledged, over a power failure too), and reports back. Rows
that come meanwhile are the next transaction.

What holds:

- An error (disk full, read-only, locked, damaged) fails the rows whose acknowledgement is waited for. The others are kept
  by key and written when the file can be opened again, which is tried every second. So is the removal of the failed ones:
  it is not known how much of a failed transaction is on disk.
- A disk that does not answer within `SILENT` seconds is a failure as well.
- A lock file beside it keeps a second process out. A file of another program or another version is never changed.
- A file that was removed or replaced while it was open is written anew from what the relay holds.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import trio
from attrs import define, frozen

from relay.store.interface import Done, Row, Rows, StoreError

#: ``PRAGMA application_id`` ("tick") and ``user_version`` of the file.
APPLICATION, VERSION = 0x7469636B, 1
#: Rows whose acknowledgement may be waited for at once.
MOST_WAITING = 10_000
#: Seconds without an answer of the disk after which the store has failed.
SILENT = 5.0
#: Seconds between two attempts, and between two looks at an idle file.
PAUSE = 1.0
#: Seconds that a shutdown waits for the last rows.
GOODBYE = 5.0

_SCHEMA = """
CREATE TABLE rows (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key));
"""

Log = Callable[..., None]


def _no_log(event: str, **fields: object) -> None:
    """Log nothing."""


@frozen
class _Change:
    """A row on its way to the thread; ``number`` is that of its acknowledgement, 0 for none."""

    row: Row
    number: int = 0


@frozen
class _Commit:
    """A row whose acknowledgement is waited for."""

    row: Row
    done: Done
    asked_at: float


@define(eq=False)
class _File:
    """The file as the thread has it open."""

    connection: sqlite3.Connection
    inode: int
    is_new: bool


class SqliteStore:
    """`relay.store.interface.Store` in the file at ``path``, made where there is none, for its owner only.

    Args:
        log: called with an event name and fields when the store fails and when it is back.
    """

    def __init__(self, path: Path, *, log: Log = _no_log) -> None:
        self.path = path
        self._log = log
        self._failure = f"{path} is not open yet"
        self._numbers = count(1)
        self._commits: dict[int, _Commit] = {}
        self._news = trio.Event()
        self._ended = trio.Event()
        #: What the thread read, until `run` has handed it over; and whether it has.
        self._read: Rows | None = None
        self._restored = self._lost = False
        self._restore: Callable[[Rows], object] = lambda rows: None
        self._contents: Callable[[], Iterable[Row]] = lambda: ()
        self._figures = {"transactions": 0, "rows": 0, "failures": 0}
        # Shared with the thread, under the condition's lock.
        self._changed = threading.Condition()
        self._queue: list[_Change] = []
        self._closing = False

    # --- relay.store.interface.Store ---------------------------------------------------------------------------------

    @property
    def failure(self) -> str:
        """The reason that rows cannot be written now; empty while they can."""
        return self._failure

    def write(self, row: Row) -> None:
        """Write a row soon, after all that were given before."""
        self._put(_Change(row))

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk; at once, with the reason, where it cannot be."""
        if self._failure:
            done(self._failure)
            return
        if len(self._commits) >= MOST_WAITING:
            done(f"{MOST_WAITING} rows wait for the disk")
            return
        number = next(self._numbers)
        self._commits[number] = _Commit(row, done, trio.current_time())
        self._put(_Change(row, number))

    async def run(
        self,
        restore: Callable[[Rows], object],
        contents: Callable[[], Iterable[Row]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the store until cancelled, then write what is left, for `GOODBYE` seconds at most."""
        self._restore, self._contents = restore, contents
        thread = _Writer(self, trio.lowlevel.current_trio_token())
        threading.Thread(target=thread.run, name="store", daemon=True).start()
        try:
            with trio.move_on_after(SILENT):
                await self._news.wait()
            if not self._news.is_set():
                self._set_failure(f"{self.path} was not opened within {SILENT:g} s")
            self._take_over()
            task_status.started()
            while True:
                with trio.move_on_after(SILENT / 10):
                    await self._news.wait()
                self._take_over()
                self._give_up(trio.current_time() - SILENT)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify()
            with trio.move_on_after(GOODBYE, shield=True):
                await self._ended.wait()

    def status(self) -> Mapping[str, Any]:
        """Return its part of the status page."""
        about = {"kind": "sqlite", "available": not self._failure, "reason": self._failure}
        return {**about, "waiting": len(self._commits), **self._figures}

    # --- the trio side -----------------------------------------------------------------------------------------------

    def _put(self, change: _Change) -> None:
        with self._changed:
            self._queue.append(change)
            self._changed.notify()

    def _give_up(self, before: float) -> None:
        """Fail the rows that were given before ``before`` and are not on disk; should they get there, they are removed."""
        late = []
        for number, commit in self._commits.items():
            if commit.asked_at > before:
                break
            late.append(number)
        if not late:
            return
        self._set_failure(f"{self.path} has not answered for {SILENT:g} s")
        for number in late:
            commit = self._commits.pop(number)
            self.write(Row(commit.row.table, commit.row.key, None))
            commit.done(self._failure)

    def _set_failure(self, reason: str) -> None:
        if reason and reason != self._failure:
            self._figures["failures"] += 1
            self._log("store failed", reason=reason)
        elif self._failure and not reason and self._figures["failures"]:
            self._log("store available", path=str(self.path))
        self._failure = reason

    def _take_over(self) -> None:
        """Do what the thread found to be done, here and not in its report, so that an error ends `run` and nothing else."""
        self._news = trio.Event()
        if self._read is not None:
            rows, self._read, self._restored = self._read, None, True
            self._restore(rows)
            self._set_failure("")
        if self._lost:
            self._lost = False
            for row in self._contents():
                self.write(row)

    def opened(self, rows: Rows) -> None:
        """Take over what the file holds; the thread has opened it."""
        self._read = rows
        self._news.set()

    def lost(self) -> None:
        """Write everything again: the thread found the file lost, and made a new one."""
        self._lost = True
        self._news.set()

    def written(self, numbers: Sequence[int], rows: int, failure: str) -> None:
        """Tell who waits for these rows that they are on disk, or the reason that they are not."""
        if failure:
            self._set_failure(failure)
            self._news.set()
        else:
            self._figures["transactions"] += rows > 0
            self._figures["rows"] += rows
            if self._restored:
                self._set_failure("")
        for number in numbers:
            commit = self._commits.pop(number, None)
            if commit is not None:
                commit.done(failure)

    def ended(self) -> None:
        """Note that the thread has written all it could, and closed the file."""
        self._ended.set()

    def take(self, seconds: float) -> tuple[list[_Change], bool]:
        """Return what waits for the thread, and True if it is to end; wait up to ``seconds`` for either."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(seconds)
            queue, self._queue = self._queue, []
            return queue, self._closing


class _Writer:
    """The thread's side; everything here runs in it."""

    def __init__(self, store: SqliteStore, token: trio.lowlevel.TrioToken) -> None:
        self._store = store
        self._token = token
        self._path = store.path
        self._file: _File | None = None
        self._lock: int | None = None
        self._restored = False
        #: Rows of failed transactions, to be written when the file is back.
        self._held: dict[tuple[str, str], bytes | None] = {}

    def run(self) -> None:
        changes: list[_Change] = []
        closing = failed = False
        while True:
            failed = not self._write(changes)
            if closing and (failed or not changes):
                break
            if failed and not closing:
                time.sleep(PAUSE)
            changes, closing = self._store.take(PAUSE)
        self._close()
        if self._lock is not None:
            os.close(self._lock)
        self._tell(self._store.ended)

    def _write(self, changes: list[_Change]) -> bool:
        """Write what is held and ``changes`` in one transaction; return True if they are on disk."""
        numbers = [change.number for change in changes if change.number]
        rows = self._held | {(change.row.table, change.row.key): change.row.value for change in changes}
        try:
            if self._file is None:
                self._open()
            elif not changes:
                self._look()
            if rows:
                self._apply(rows)
        except (sqlite3.Error, OSError, StoreError) as error:
            self._close()
            last = {(change.row.table, change.row.key): change.number for change in changes}
            self._held = {key: None if last.get(key) else value for key, value in rows.items()}
            self._tell(self._store.written, numbers, 0, _reason(self._path, error))
            return False
        self._held = {}
        self._tell(self._store.written, numbers, len(rows), "")
        return True

    def _tell(self, report: Callable[..., object], *about: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # with the loop everybody who waited is gone
            self._token.run_sync_soon(report, *about)

    def _open(self) -> None:
        self._lock_out()
        self._file = opened = _opened(self._path)
        if not self._restored:
            rows: dict[str, list[tuple[str, bytes]]] = {}
            for table, key, value in opened.connection.execute("SELECT kind, key, value FROM rows"):
                rows.setdefault(table, []).append((key, value))
            self._restored = True
            self._tell(self._store.opened, rows)
        elif opened.is_new:
            self._tell(self._store.lost)

    def _lock_out(self) -> None:
        """Hold the lock that keeps other processes out, until the process ends."""
        if self._lock is not None:
            return
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StoreError(f"{self._path} is used by another process") from None
        self._lock = lock

    def _look(self) -> None:
        """Raise StoreError if the open file is not the one at the path any more."""
        assert self._file is not None
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._file.inode:
            raise StoreError(f"{self._path} was removed or replaced while it was open")

    def _apply(self, rows: Mapping[tuple[str, str], bytes | None]) -> None:
        assert self._file is not None
        connection = self._file.connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "DELETE FROM rows WHERE kind = ? AND key = ?", [key for key, value in rows.items() if value is None]
        )
        connection.executemany(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)",
            [(*key, value) for key, value in rows.items() if value is not None],
        )
        connection.execute("COMMIT")

    def _close(self) -> None:
        if self._file is not None:
            opened, self._file = self._file, None
            with contextlib.suppress(sqlite3.Error):  # nothing more can be done about a file that failed
                opened.connection.close()  # which rolls back what was begun


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, StoreError):
        return str(error)
    return f"{path}: {(isinstance(error, OSError) and error.strerror) or error}"


def _opened(path: Path) -> _File:
    """Open the file, or make it.

    Raises:
        StoreError: it is not a store, or one of another version.
        OSError, sqlite3.Error: it cannot be read or written.
    """
    # SQLite would make it readable for others; it says "unable to open" whatever the reason.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=PAUSE)
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        is_new = (application, version, tables) == (0, 0, 0)
        if not is_new and application != APPLICATION:
            raise StoreError(f"{path} is not a store of tickrelay")
        if not is_new and version != VERSION:
            raise StoreError(f"{path} is a store of version {version}; this tickrelay has version {VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if is_new:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION};"
                f" PRAGMA user_version = {VERSION}; COMMIT;"
            )
        return _File(connection, os.stat(path).st_ino, is_new)
    except BaseException:
        connection.close()
        raise
