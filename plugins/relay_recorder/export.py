"""Export of events to JSON lines, CSV and Parquet. Prices, sizes and times are text, as in the events, never a float."""

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, get_type_hints

import attrs
from attrs import evolve, frozen

from relay.adapter import Adapter
from relay.errors import OperatorError
from relay.model import serialize
from relay.model.events import KINDS, Event, Stamp
from relay.testing.subject import subject
from relay.testing.trial import trial

Format = Literal["parquet", "csv", "jsonl"]
#: Rows of a table that are written together.
_ROWS = 10_000
#: Columns that every table has before those of its kind.
_STAMPED = ("event_id", "provider", "account", "received_at")
_LEVELS = ("bids", "asks")
_MAGIC = b"SQLite format 3\0"


@frozen(kw_only=True)
class Chosen:
    """The events that are exported; what is empty excludes nothing."""

    kinds: tuple[str, ...] = ()
    provider: str | None = None
    symbol: str | None = None
    since: str | None = None
    until: str | None = None

    def passes(self, event: Event, stamp: Stamp) -> bool:
        """Return True if an event is exported."""
        return (
            (not self.kinds or event.kind in self.kinds)
            and self.provider in (None, stamp.provider)
            and self.symbol in (None, getattr(event, "symbol", None))
            and (self.since is None or stamp.received_at >= self.since)
            and (self.until is None or stamp.received_at < self.until)
        )


def event_files(source: Path) -> list[Path]:
    """Return the SQLite files of events at or below a path, the oldest first; none where it is a recording of traffic."""
    if source.is_dir():
        found = sorted(source.rglob("*.sqlite"), key=lambda path: path.name)
        if not found:
            raise OperatorError(f"{source} has no events: set plugins.recorder.events = true, or name a recording")
        return found
    try:
        with source.open("rb") as file:
            return [source] if file.read(len(_MAGIC)) == _MAGIC else []
    except OSError as error:
        raise OperatorError(f"cannot read {source}: {error.strerror or error}") from error


def stored(files: Iterable[Path], chosen: Chosen) -> Iterator[bytes]:
    """Yield the events of SQLite files as canonical JSON, in the order in which they were published."""
    where = {
        "provider = ?": chosen.provider,
        "symbol = ?": chosen.symbol,
        "received_at >= ?": chosen.since,
        "received_at < ?": chosen.until,
    }
    clauses = [clause for clause, value in where.items() if value is not None]
    if chosen.kinds:
        clauses.append(f"kind IN ({', '.join('?' * len(chosen.kinds))})")
    query = "SELECT event FROM events" + (" WHERE " + " AND ".join(clauses) if clauses else "") + " ORDER BY rowid"
    values = [value for value in where.values() if value is not None]
    for path in files:
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                for (text,) in db.execute(query, [*values, *chosen.kinds]):
                    yield text.encode()
        except sqlite3.Error as error:
            raise OperatorError(f"cannot read {path}: {error}") from error


def decoded(recording: Path, adapter: type[Adapter], options: Mapping[str, str], chosen: Chosen) -> list[bytes]:
    """Return the events that a session publishes of a recording of traffic, as canonical JSON."""
    lines: list[bytes] = []

    def take(event: Event, stamp: Stamp) -> None:
        if chosen.passes(event, stamp):
            lines.append(serialize.encode(event, evolve(stamp, account=None), f"{adapter.name}-{len(lines)}"))

    trial(subject(adapter, recording, options=options), take, loses=False)
    return lines


# --- tables ----------------------------------------------------------------------------------------------------------


class _Table(Protocol):
    def write(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


def columns(kind: str) -> dict[str, type]:
    """Return the columns of a kind of event, with the types of their values: `str`, `int`, `bool`, or `list` for levels."""
    cls = KINDS[kind]
    hints = get_type_hints(cls)
    found: dict[str, type] = dict.fromkeys(_STAMPED, str)
    for attribute in attrs.fields(cls):
        if attribute.name in _LEVELS:
            found[attribute.name] = list
            continue
        types = {*get_args(hints[attribute.name]), hints[attribute.name]} - {type(None)}
        is_number = int in types and str not in types
        found[attribute.name] = bool if bool in types else int if is_number else str
    return found


def row(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the kind of an event and its values by column."""
    read = serialize.decode(line)
    event, stamp = read.event, read.stamp
    values: dict[str, Any] = {"event_id": read.id, "provider": stamp.provider, "received_at": stamp.received_at}
    values |= {attribute.name: _plain(getattr(event, attribute.name)) for attribute in attrs.fields(type(event))}
    values["account"] = values.get("account") or stamp.account
    return event.kind, values


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return value


class CsvTable:
    """A CSV file; levels and objects are JSON in it."""

    def __init__(self, path: Path, kind: str) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, list(columns(kind)))
        self._writer.writeheader()

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.writerows({name: _cell(value) for name, value in each.items()} for each in rows)

    def close(self) -> None:
        self._file.close()


class ParquetTable:
    """A Parquet file: text for prices, sizes and times; lists of (price, size) for levels."""

    def __init__(self, path: Path, kind: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise OperatorError("--to parquet needs the package pyarrow: pip install 'tickrelay[parquet]'") from None
        level = pyarrow.list_(pyarrow.struct([("price", pyarrow.string()), ("size", pyarrow.string())]))
        arrow = {str: pyarrow.string(), int: pyarrow.int64(), bool: pyarrow.bool_(), list: level}
        self._columns = columns(kind)
        self._schema = pyarrow.schema([(name, arrow[of]) for name, of in self._columns.items()])
        self._table = pyarrow.Table.from_pylist
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.write_table(self._table([self._typed(each) for each in rows], schema=self._schema))

    def _typed(self, values: dict[str, Any]) -> dict[str, Any]:
        typed: dict[str, Any] = {}
        for name, of in self._columns.items():
            value = values.get(name)
            if of is list and value is not None:
                typed[name] = [{"price": price, "size": size} for price, size in value]
            else:
                typed[name] = _cell(value) if of is str and value is not None else value
        return typed

    def close(self) -> None:
        self._writer.close()


def _cell(value: Any) -> Any:
    return (
        value
        if value is None or isinstance(value, str | int)
        else json.dumps(value, separators=(",", ":"), default=str)
    )


_TABLES: dict[str, Callable[[Path, str], _Table]] = {"csv": CsvTable, "parquet": ParquetTable}


def write(lines: Iterable[bytes], to: Format, out: Path) -> dict[str, int]:
    """Write events: JSON lines into the one file, tables into a file per kind in the directory. Return rows by kind.

    Raises:
        OperatorError: a file cannot be written, or a package is missing.
    """
    try:
        return _write_lines(lines, out) if to == "jsonl" else _write_tables(lines, to, out)
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}") from error


def _write_lines(lines: Iterable[bytes], out: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    with out.open("wb") as file:
        for line in lines:
            file.write(line + b"\n")
            kind = json.loads(line)["type"]
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _write_tables(lines: Iterable[bytes], to: Format, out: Path) -> dict[str, int]:
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, _Table] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    try:
        for line in lines:
            kind, values = row(line)
            if kind not in tables:
                tables[kind] = _TABLES[to](out / f"{kind}.{to}", kind)
            rows = waiting.setdefault(kind, [])
            rows.append(values)
            counts[kind] = counts.get(kind, 0) + 1
            if len(rows) >= _ROWS:
                tables[kind].write(rows)
                rows.clear()
        for kind, rows in waiting.items():
            if rows:
                tables[kind].write(rows)
    finally:
        for table in tables.values():
            with suppress(OSError):
                table.close()
    return counts
