"""The SQLite file of a store, and the only thread that uses it.

The thread takes all waiting changes, writes them in one transaction (WAL with ``synchronous=FULL``, so that an acknowledged
change survives a power failure), and reports back. Changes that arrive meanwhile form the next transaction.

A topic's events are stored in chunks. A chunk has all events of the topic that were written in one transaction. The thread
knows the numbers and the age of each chunk, so that it can delete chunks that are too old or too many by their keys.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec
import trio
from attrs import Factory, define, field, frozen, validators

from relay.store.interface import GRANTED, Loggable, LoggedEvent, LoggedTopic, Row, Rows, StoreError

#: ``PRAGMA application_id`` ("tick") and ``user_version`` of the file.
APPLICATION, VERSION = 0x7469636B, 2
#: Seconds between two attempts to open the file, and between two checks of an idle file.
PAUSE = 1.0
#: Bytes to which SQLite truncates its write-ahead log after copying it into the file.
_JOURNAL = 16 * 1024 * 1024
#: Most rows in one statement.
_ROWS_AT_ONCE = 100
#: Seconds between two searches for events that are too old.
_SWEEP = 10.0

_ROWS = """
CREATE TABLE rows (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key));
"""
_TOPICS = """
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, reserved INTEGER NOT NULL);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, count INTEGER NOT NULL, last INTEGER NOT NULL,
    at REAL NOT NULL, size INTEGER NOT NULL, events BLOB NOT NULL);
"""
#: The statements that migrate each version to the next.
_STEPS = {1: _TOPICS}
#: The row that is present if the last process shut down cleanly.
_ENDED = ("store", "ended")

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[float, list[LoggedEvent]]).decode


@frozen(kw_only=True)
class LogLimits:
    """Bounds of the events that are kept on disk: of each topic, and ``total`` bytes of all topics."""

    events: int = 1000
    age: float = 300.0
    bytes: int = 1024 * 1024
    total: int = field(default=256 * 1024 * 1024, validator=validators.ge(1024 * 1024))


@frozen
class Change:
    """A row to write. ``number`` identifies its acknowledgement; 0 if it needs none."""

    row: Row
    number: int = 0


@frozen
class Log:
    """An event of a topic to log."""

    topic: str
    event: Loggable
    number: int = 0


@frozen
class LogMany:
    """Delivered events of several topics, and their count."""

    topics: Mapping[str, Sequence[Loggable]]
    count: int
    number: int = 0


@frozen
class Reserve:
    """A reservation: a topic's epoch, and the number up to which its numbers may be used."""

    topic: str
    epoch: str
    up_to: int
    number: int = 0


@frozen
class Replace:
    """The whole content of a topic. Without an epoch the topic is removed."""

    topic: str
    epoch: str = ""
    reserved: int = 0
    events: Sequence[Loggable] = ()
    number: int = 0


@frozen
class Sync:
    """A request for an acknowledgement of all earlier changes."""

    number: int = 0


OfTopic = Log | LogMany | Reserve | Replace
AnyChange = Change | OfTopic | Sync


class FileReports(Protocol):
    """Receives the thread's reports and gives it work; implemented by `relay.store.sqlite.SqliteStore`."""

    path: Path
    limits: LogLimits
    ahead: float
    """Unix time less the monotonic time of events, in seconds."""

    @property
    def is_whole(self) -> bool: ...

    def take(self, seconds: float) -> tuple[list[AnyChange], bool]: ...
    def opened(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> None: ...
    def migrated(self, version: int) -> None: ...
    def lost(self) -> None: ...
    def written(self, numbers: Sequence[int], rows: int, events: int, kept: int, failure: str) -> None: ...
    def torn(self, topics: Iterable[str]) -> None: ...
    def ended(self) -> None: ...


@define(eq=False)
class _Chunk:
    id: int
    count: int
    last: int
    at: float
    size: int


@define(eq=False)
class _Topic:
    id: int
    epoch: str
    reserved: int
    chunks: deque[_Chunk] = Factory(deque)
    count: int = 0
    size: int = 0


@define(eq=False)
class _File:
    """The open file, with the chunks of each topic."""

    connection: sqlite3.Connection
    inode: int
    is_new: bool
    topics: dict[str, _Topic] = Factory(dict)
    size: int = 0
    next_topic: int = 1
    next_chunk: int = 1


class FileWriter:
    """The writing thread. Everything here except `__init__` runs in that thread."""

    def __init__(self, store: FileReports, token: trio.lowlevel.TrioToken) -> None:
        self._store = store
        self._token = token
        self._path = store.path
        self._file: _File | None = None
        self._lock: int | None = None
        self._restored = False
        self._swept_at = 0.0
        #: Rows of failed transactions, to be written when the file is usable again.
        self._held: dict[tuple[str, str], bytes | None] = {}

    def run(self) -> None:
        """Write until the store is closed and no change waits."""
        changes: list[AnyChange] = []
        closing = failed = False
        while True:
            failed = not self._write(changes)
            if closing and (failed or not changes):
                break
            if failed and not closing:
                time.sleep(PAUSE)
            changes, closing = self._store.take(PAUSE)
        if not failed and self._store.is_whole:
            self._write([Change(Row(*_ENDED, b""))])
        self._close()
        if self._lock is not None:
            os.close(self._lock)
        self._tell(self._store.ended)

    def _write(self, changes: Sequence[AnyChange]) -> bool:
        """Write the rows of failed transactions and ``changes`` in one transaction. Return True if they are on disk."""
        numbers = [change.number for change in changes if change.number]
        rows, last = dict(self._held), {}
        for change in changes:
            if isinstance(change, Change):
                key = change.row.table, change.row.key
                rows[key], last[key] = change.row.value, change.number
        others = [change for change in changes if not isinstance(change, Change | Sync)]
        events = 0
        try:
            if self._file is None:
                self._open()
            elif not changes:
                self._look()
            if rows or others or self._is_due():
                events = self._apply(rows, others)
        except (sqlite3.Error, OSError, StoreError) as error:
            self._close()
            self._held = {key: None if last.get(key) else value for key, value in rows.items()}
            torn = (change.topics if isinstance(change, LogMany) else (change.topic,) for change in others)
            self._tell(self._store.torn, set().union(*torn))
            self._tell(self._store.written, numbers, 0, 0, 0, _reason(self._path, error))
            return False
        self._held = {}
        kept = 0 if self._file is None else self._file.size
        self._tell(self._store.written, numbers, len(rows), events, kept, "")
        return True

    def _tell(self, report: Callable[..., object], *about: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nothing waits for the report once the loop has ended
            self._token.run_sync_soon(report, *about)

    # --- the file ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._lock_out()
        opened, version = _opened(self._path)
        try:
            self._load(opened, version)
        except BaseException:
            opened.connection.close()
            raise
        self._file = opened

    def _load(self, opened: _File, version: int) -> None:
        """Read the content of the file, and report it if that has not been done before."""
        connection = opened.connection
        names = {}
        for id, name, epoch, reserved in connection.execute("SELECT id, name, epoch, reserved FROM topics"):
            names[id] = name
            opened.topics[name] = _Topic(id, epoch, reserved)
            opened.next_topic = max(opened.next_topic, id + 1)
        oldest = time.time() - self._store.limits.age
        events: dict[str, list[LoggedEvent]] = {}
        columns = "id, topic, count, last, at, size" + ("" if self._restored else ", events")
        for id, topic, count, last, at, size, *data in connection.execute(f"SELECT {columns} FROM chunks ORDER BY id"):
            opened.next_chunk = id + 1
            if (name := names.get(topic)) is None:
                continue
            _remember(opened, opened.topics[name], _Chunk(id, count, last, at, size))
            if data and (at >= oldest or last == opened.topics[name].chunks[-1].last):
                events.setdefault(name, []).extend(_events(data[0]))
        if self._restored:
            if opened.is_new:
                self._tell(self._store.lost)
            return
        rows: dict[str, list[tuple[str, bytes]]] = {}
        for table, key, value in connection.execute("SELECT kind, key, value FROM rows"):
            rows.setdefault(table, []).append((key, value))
        ended = rows.pop(_ENDED[0], None) is not None
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM rows WHERE kind = ?", _ENDED[:1])
        connection.execute("UPDATE topics SET reserved = reserved + ?", (GRANTED,))
        connection.execute("COMMIT")
        topics = {}
        for name, topic in opened.topics.items():
            reserved, topic.reserved = topic.reserved, topic.reserved + GRANTED
            topics[name] = LoggedTopic(
                epoch=topic.epoch,
                reserved=reserved,
                granted=topic.reserved,
                events=events.get(name, ()),
                complete=ended,
            )
        self._restored = True
        if version != VERSION:
            self._tell(self._store.migrated, version)
        self._tell(self._store.opened, rows, topics)

    def _lock_out(self) -> None:
        """Hold the lock that keeps other processes out, until the process ends."""
        path = f"{self._path}.lock"
        if self._lock is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(self._lock).st_ino:
                    return
            os.close(self._lock)  # the directory was removed together with the lock file, and created again
            self._lock = None
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StoreError(f"{self._path} is used by another process") from None
        self._lock = lock

    def _look(self) -> None:
        """Raise StoreError if the open file is no longer the one at the path."""
        assert self._file is not None
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._file.inode:
            raise StoreError(f"{self._path} was removed or replaced while it was open")

    def _close(self) -> None:
        if self._file is not None:
            opened, self._file = self._file, None
            with contextlib.suppress(sqlite3.Error):  # the file has failed already
                opened.connection.close()  # rolls back an open transaction

    # --- a transaction -----------------------------------------------------------------------------------------------

    def _apply(self, rows: Mapping[tuple[str, str], bytes | None], others: Sequence[OfTopic]) -> int:
        """Write all rows and changes of topics. Return the number of events."""
        assert self._file is not None
        connection = self._file.connection
        connection.execute("BEGIN IMMEDIATE")
        gone = [key for key, value in rows.items() if value is None]
        if gone:
            connection.executemany("DELETE FROM rows WHERE kind = ? AND key = ?", gone)
        changed = [(*key, value) for key, value in rows.items() if value is not None]
        _execute(connection, "INSERT OR REPLACE INTO rows {}", changed)
        logged: dict[str, list[Loggable]] = {}
        for change in others:
            match change:
                case Log(topic, event):
                    logged.setdefault(topic, []).append(event)
                case LogMany(topics):
                    for topic, events in topics.items():
                        logged.setdefault(topic, []).extend(events)
                case Reserve(topic, epoch, up_to):
                    self._reserve(self._file, topic, epoch, up_to, logged)
                case Replace(topic):
                    logged.pop(topic, None)
                    self._replace(self._file, change)
                    if change.epoch:
                        logged[topic] = list(change.events)
        written = self._insert(self._file, logged)
        _delete(connection, [*self._too_much(self._file, logged), *self._too_old(self._file)])
        connection.execute("COMMIT")
        return written

    def _reserve(self, file: _File, name: str, epoch: str, up_to: int, logged: dict[str, list[Loggable]]) -> None:
        known = file.topics.get(name)
        if known is not None and known.epoch != epoch:  # a new epoch: the events of the old one are useless
            logged.pop(name, None)
            self._replace(file, Replace(name))
            known = None
        if known is None:
            known = file.topics[name] = _Topic(file.next_topic, epoch, up_to)
            file.next_topic += 1
            file.connection.execute("INSERT INTO topics VALUES (?, ?, ?, ?)", (known.id, name, epoch, up_to))
        elif up_to > known.reserved:
            known.reserved = up_to
            file.connection.execute("UPDATE topics SET reserved = ? WHERE id = ?", (up_to, known.id))

    def _replace(self, file: _File, change: Replace) -> None:
        known = file.topics.pop(change.topic, None)
        if known is not None:
            _delete(file.connection, [_forget_oldest(file, known) for _ in range(len(known.chunks))])
            file.connection.execute("DELETE FROM topics WHERE id = ?", (known.id,))
        if change.epoch:
            self._reserve(file, change.topic, change.epoch, change.reserved, {})

    def _insert(self, file: _File, logged: Mapping[str, Sequence[Loggable]]) -> int:
        """Write a chunk for each topic. Events of topics without a reservation are not stored."""
        written, ahead, chunks = 0, self._store.ahead, []
        for name, events in logged.items():
            topic = file.topics.get(name)
            if topic is None or not events:
                continue
            data = _pack((ahead, events))
            last = events[-1]
            chunk = _Chunk(file.next_chunk, len(events), last.seq, last.at + ahead, len(data))
            file.next_chunk += 1
            _remember(file, topic, chunk)
            chunks.append((chunk.id, topic.id, chunk.count, chunk.last, chunk.at, chunk.size, data))
            written += len(events)
        _execute(file.connection, "INSERT INTO chunks {}", chunks)
        return written

    def _too_much(self, file: _File, names: Iterable[str]) -> Iterator[int]:
        """Forget the oldest chunks, first of these topics, then of all, until the bounds are met. Yield their ids."""
        limits = self._store.limits
        for name in names:
            topic = file.topics.get(name)
            while topic is not None and len(topic.chunks) > 1:
                oldest = topic.chunks[0]
                if topic.count - oldest.count < limits.events and topic.size - oldest.size < limits.bytes:
                    break
                yield _forget_oldest(file, topic)
        if file.size > limits.total:
            every = sorted(((chunk.id, topic) for topic in file.topics.values() for chunk in topic.chunks), key=_first)
            for _, topic in every:
                if file.size <= limits.total * 9 // 10:  # leave room, so that the next event does not exceed it again
                    break
                yield _forget_oldest(file, topic)

    def _is_due(self) -> bool:
        return time.monotonic() >= self._swept_at + _SWEEP and self._file is not None and self._file.size > 0

    def _too_old(self, file: _File) -> Iterator[int]:
        """Forget chunks that are too old, except each topic's newest, whose last number is needed. Yield their ids."""
        if not self._is_due():
            return
        self._swept_at = time.monotonic()
        before = time.time() - self._store.limits.age
        for topic in file.topics.values():
            while len(topic.chunks) > 1 and topic.chunks[0].at < before:
                yield _forget_oldest(file, topic)


def _first(pair: tuple[int, _Topic]) -> int:
    return pair[0]


def _remember(file: _File, topic: _Topic, chunk: _Chunk) -> None:
    topic.chunks.append(chunk)
    topic.count += chunk.count
    topic.size += chunk.size
    file.size += chunk.size


def _forget_oldest(file: _File, topic: _Topic) -> int:
    chunk = topic.chunks.popleft()
    topic.count -= chunk.count
    topic.size -= chunk.size
    file.size -= chunk.size
    return chunk.id


def _events(data: bytes) -> list[LoggedEvent]:
    try:
        ahead, events = _unpack(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"a chunk of events cannot be read: {error}") from None
    for event in events:
        event.at += ahead
    return events


def _delete(connection: sqlite3.Connection, chunks: Iterable[int]) -> None:
    _execute(connection, "DELETE FROM chunks WHERE id IN ({})", [(id,) for id in chunks])


def _execute(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Execute a statement with many rows inserted at its placeholder, as few times as possible.

    `executemany` releases the interpreter's lock for every row, and has to wait for it again while the relay is busy.
    """
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        connection.execute(statement.format(_values(len(some), len(some[0]))), [*chain.from_iterable(some)])


@lru_cache(maxsize=256)
def _values(rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, StoreError):
        return str(error)
    return f"{path}: {(isinstance(error, OSError) and error.strerror) or error}"


def _opened(path: Path) -> tuple[_File, int]:
    """Open or create the file. Return it with the version that it had.

    Raises:
        StoreError: it is not a store, or is of a version that this relay does not support.
        OSError, sqlite3.Error: it cannot be read or written.
    """
    # SQLite would create it readable for others, and reports every failure only as "unable to open".
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=PAUSE)
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        is_new = (application, version, tables) == (0, 0, 0)
        if not is_new and application != APPLICATION:
            raise StoreError(f"{path} is not a store of tickrelay")
        if not is_new and not 1 <= version <= VERSION:
            raise StoreError(f"{path} is a store of version {version}; this tickrelay has version {VERSION}")
        if is_new:
            connection.execute("PRAGMA page_size = 8192")  # most rows are chunks of events, which are large
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite overwrites deleted content, which doubles the writes. Only the owner can read the file.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL}")
        steps = _ROWS + _TOPICS if is_new else "".join(_STEPS[each] for each in range(version, VERSION))
        if steps:
            connection.executescript(
                f"BEGIN IMMEDIATE; {steps} PRAGMA application_id = {APPLICATION};"
                f" PRAGMA user_version = {VERSION}; COMMIT;"
            )
        return _File(connection, os.stat(path).st_ino, is_new), VERSION if is_new else version
    except BaseException:
        connection.close()
        raise
