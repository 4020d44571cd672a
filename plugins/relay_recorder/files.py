"""The files of the recorder: compressed lines of traffic, SQLite of events, and the directory that holds both.

A file of traffic that is begun while a connection is open begins with the head of that connection: the HTTP answers before
it, its opening, and everything that was sent on it. So each file can be played without those before it; only what a
subscription brought at its beginning (the snapshot of a book) is in the file of that time.
"""

import importlib.util
import os
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote

import msgspec
from attrs import evolve

from relay.model import serialize
from relay.model.events import Event, Stamp
from relay.model.text import from_micros
from relay.plugins import TappedSession, Traffic
from relay.plugins.masking import masked
from relay.testing.recording import Record, format_line
from relay_recorder.table import RecorderTable

#: Bytes of an HTTP answer in the head of a connection, and of all its frames; longer ones are only in the first file.
HEAD = 8 * 1024 * 1024
#: HTTP answers before a connection that belong to its head, and records of a head.
_ANSWERS, _RECORDS = 50, 2000
_SUFFIXES = {"zstd": ".jsonl.zst", "gzip": ".jsonl.gz", "none": ".jsonl"}

_dumps = msgspec.json.Encoder().encode
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  id TEXT, kind TEXT NOT NULL, provider TEXT NOT NULL, account TEXT, symbol TEXT, received_at TEXT NOT NULL,
  event TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lost (at TEXT NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL);
"""


class OutputFile(Protocol):
    """A file that is written, and rotated."""

    name: Path | None

    def write(self, items: list[Any], now: float) -> None:
        """Write items, in another file where this one is due to be rotated."""

    def lost(self, count: int, reason: str, now: float) -> None:
        """Write that items are missing."""

    def flush(self) -> None:
        """Put what was written where a crash of the process does not reach it."""

    def close(self) -> None:
        """Finish the file."""

    def abandon(self) -> None:
        """Forget a file that could not be written; the next write begins another one. Never raises."""


class Folder:
    """The directory of the recordings."""

    def __init__(self, table: RecorderTable) -> None:
        self.table = table
        self.path = Path(table.directory)
        known = importlib.util.find_spec("zstandard") is not None
        self.compression = ("zstd" if known else "gzip") if table.compression == "auto" else table.compression

    def new(self, parts: tuple[str, ...], suffix: str) -> Path:
        """Return the name of a new file, which is the present time, in a directory that exists."""
        directory = self.path.joinpath(*(quote(part, safe="") for part in parts))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = time.time_ns()
        # Microseconds, so that the order of the names is that of the files.
        return directory / time.strftime(
            f"%Y%m%dT%H%M%S-{now // 1000 % 1_000_000:06}Z{suffix}", time.gmtime(now // 10**9)
        )

    def delete_old(self, writing: set[Path | None]) -> list[Path]:
        """Delete the oldest files until all have `keep_bytes` at most; none that is being written."""
        found = [
            (path, path.stat())
            for suffix in (*_SUFFIXES.values(), ".sqlite")
            for path in self.path.rglob(f"*{suffix}")
            if path.is_file()
        ]
        total = sum(stat.st_size for _, stat in found)
        deleted = []
        for path, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
            if total <= self.table.keep_bytes:
                break
            if path not in writing:
                path.unlink()
                total -= stat.st_size
                deleted.append(path)
        return deleted


class Compressed:
    """Text that is compressed into a file. What was flushed can be read although the file is not finished."""

    def __init__(self, path: Path, compression: str) -> None:
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._compressor: Any = None
        if compression == "zstd":
            import zstandard

            self._compressor, self._block = (
                zstandard.ZstdCompressor(level=3).compressobj(),
                zstandard.COMPRESSOBJ_FLUSH_BLOCK,
            )
        elif compression == "gzip":
            self._compressor, self._block = zlib.compressobj(6, wbits=31), zlib.Z_SYNC_FLUSH

    def write(self, data: bytes) -> None:
        self._file.write(data if self._compressor is None else self._compressor.compress(data))

    def flush(self) -> None:
        if self._compressor is not None:
            self._file.write(self._compressor.flush(self._block))
        self._file.flush()

    def size(self) -> int:
        """Return the bytes that the file has so far."""
        return self._file.tell()

    def close(self) -> None:
        try:
            if self._compressor is not None:
                self._file.write(self._compressor.flush())
        finally:
            self._file.close()


class FrameFile:
    """The traffic of one session; with ``path`` in that one file, which is never rotated."""

    def __init__(self, folder: Folder, session: TappedSession, path: Path | None = None) -> None:
        self._folder = folder
        self._session = session
        self._path = path
        self._out: Compressed | None = None
        self._begun_at = 0.0
        self._t = 0.0
        self._head: list[bytes] = []
        self._in_connection = False
        self._dirty = False
        self.name: Path | None = None

    def write(self, items: list[Traffic], now: float) -> None:
        """Write traffic as it was, without its secrets."""
        out, lines = self._opened(now), []
        for traffic in masked(items, self._session.mask):
            if traffic.direction == "in":  # most of all: without the detour over a record
                self._t = max(self._t, round(traffic.unix_ns / 1e9, 6))
                lines.append(_dumps({"t": self._t, "dir": "in", "data": traffic.data}))
                continue
            line = format_line(self._record(traffic)).encode()
            lines.append(line)
            self._remember(traffic, line + b"\n")
        out.write(b"\n".join(lines) + b"\n")
        self._dirty = True

    def lost(self, count: int, reason: str, now: float) -> None:
        self._t = self._t or round(time.time(), 6)
        line = format_line(Record(t=self._t, dir="lost", data=reason, count=count))
        self._opened(now).write(line.encode() + b"\n")
        self._dirty = True

    def _record(self, traffic: Traffic) -> Record:
        # A message is dated by when its bytes came, what follows from it by when that was done: never before it in the file.
        self._t = max(self._t, round(traffic.unix_ns / 1e9, 6))
        record = Record(t=self._t, dir=traffic.direction, data=traffic.data, url=traffic.url)
        if traffic.direction == "http":
            return evolve(record, method=traffic.method, status=traffic.status, request=traffic.request)
        if traffic.direction == "close":
            return evolve(record, code=traffic.status, own=traffic.own)
        return record

    def _remember(self, traffic: Traffic, line: bytes) -> None:
        """Keep the head of the connection for the files behind this one."""
        if traffic.direction == "close":
            self._head, self._in_connection = [], False
        elif traffic.direction == "http" and not self._in_connection and len(line) <= HEAD:
            self._head = [*self._head[-_ANSWERS:], zlib.compress(line, 1)]
        elif traffic.direction in ("open", "out"):
            self._in_connection = True
            if len(self._head) < _RECORDS and len(line) <= HEAD // _RECORDS:
                self._head.append(zlib.compress(line, 1))

    def _opened(self, now: float) -> Compressed:
        table = self._folder.table
        out = self._out
        is_old = now - self._begun_at >= table.rotate_after
        if out is not None and self._path is None and (is_old or out.size() >= table.rotate_bytes):
            self.close()
            out = None
        if out is None:
            compression: str = self._folder.compression
            if self._path is not None:
                self.name, compression = self._path, compression_of(self._path)
            else:
                of = self._session
                number = "" if of.connection == 1 else str(of.connection)
                parts = tuple(filter(None, (of.provider, of.account, number)))
                self.name = self._folder.new(parts, _SUFFIXES[compression])
            out = self._out = Compressed(self.name, compression)
            self._begun_at = now
            for line in self._head:
                out.write(zlib.decompress(line))
        return out

    def flush(self) -> None:
        if self._out is not None and self._dirty:
            self._out.flush()
            self._dirty = False

    def close(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            out.close()

    def abandon(self) -> None:
        try:
            self.close()
        except (OSError, ValueError):
            self._out = None


def compression_of(path: Path) -> str:
    """Return the compression that the name of a file asks for."""
    return {".zst": "zstd", ".gz": "gzip"}.get(path.suffix, "none")


class EventFile:
    """The published events, as SQLite: a row for each, with its canonical JSON."""

    def __init__(self, folder: Folder, path: Path | None = None) -> None:
        self._folder = folder
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._begun_at = 0.0
        self.name: Path | None = None

    def write(self, items: list[tuple[Event, Stamp, str]], now: float) -> None:
        rows = [_row(*item) for item in items]
        with self._opened(now) as db:
            db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def lost(self, count: int, reason: str, now: float) -> None:
        with self._opened(now) as db:
            db.execute("INSERT INTO lost VALUES (?, ?, ?)", (from_micros(time.time_ns() // 1000), count, reason))

    def _opened(self, now: float) -> sqlite3.Connection:
        table, db = self._folder.table, self._db
        is_old = now - self._begun_at >= table.rotate_after
        if db is not None and self._path is None and (is_old or _size(self.name) >= table.rotate_bytes):
            self.close()
            db = None
        if db is None:
            self.name = self._path or self._folder.new(("events",), ".sqlite")
            os.close(os.open(self.name, os.O_WRONLY | os.O_CREAT, 0o600))
            db = self._db = sqlite3.connect(self.name, check_same_thread=False)
            db.executescript(_SCHEMA)
            # A transaction a batch, and no waiting for the disk: a crash of the machine may cost the last ones.
            db.execute("PRAGMA synchronous = OFF")
            self._begun_at = now
        return db

    def flush(self) -> None:
        """Do nothing: each batch is a transaction."""

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def abandon(self) -> None:
        try:
            self.close()
        except sqlite3.Error:
            self._db = None


def _size(path: Path | None) -> int:
    return 0 if path is None else path.stat().st_size


def _row(event: Event, stamp: Stamp, id: str) -> tuple[str | None, ...]:
    account = getattr(event, "account", None) or stamp.account
    written = serialize.encode(event, stamp, id).decode()
    return id, event.kind, stamp.provider, account, getattr(event, "symbol", None), stamp.received_at, written
