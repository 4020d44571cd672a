"""Recordings of provider sessions: what was opened, sent, received and fetched, one JSON object a line, in time order.

    {"t": 1633998274.72, "dir": "open", "url": "wss://..."}
    {"t": ..., "dir": "out",  "data": "<text frame the client sent>"}
    {"t": ..., "dir": "in",   "data": "<text frame received>"}
    {"t": ..., "dir": "http", "url": "https://...", "data": "<response body>"}

``t`` is Unix seconds on the recorder's clock. A binary frame has ``b64`` instead of ``data``. An HTTP answer may say its
``method`` (GET) and ``status`` (200) where they are others. Members this version does not know are ignored.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

import msgspec
from attrs import frozen

Direction = Literal["open", "out", "in", "http"]
Source = str | PathLike[str]
#: What makes two HTTP requests the same one: method, path, and the query's pairs in any order.
RequestKey = tuple[str, str, tuple[tuple[str, str], ...]]

_DIRECTIONS = get_args(Direction)
_MAX_TIME = 1e12
_loads = msgspec.json.Decoder().decode
_dumps = msgspec.json.Encoder().encode


class RecordingError(ValueError):
    """A line that is not a record; the message names the file, the line and the member."""


@frozen(kw_only=True)
class Record:
    """One thing that happened.

    Attributes:
        t: Unix seconds.
        dir: ``open`` a connection was dialled, ``out`` the client sent, ``in`` the client received, ``http`` an answer.
        data: the frame (bytes when it was binary) or the response body; empty for ``open``.
        url: of ``open`` and ``http``.
        method, status: of ``http``.
    """

    t: float
    dir: Direction
    data: str | bytes = ""
    url: str = ""
    method: str = "GET"
    status: int = 200


@frozen
class Recording:
    """A whole session in memory."""

    records: tuple[Record, ...]

    @property
    def incoming(self) -> tuple[Record, ...]:
        """The frames received, of all connections, in time order."""
        return tuple(record for record in self.records if record.dir == "in")

    def answers(self) -> dict[RequestKey, list[Record]]:
        """The HTTP answers by request, each request's in recorded order."""
        found: dict[RequestKey, list[Record]] = {}
        for record in self.records:
            if record.dir == "http":
                found.setdefault(request_key(record.method, record.url), []).append(record)
        return found


def request_key(method: str, url: str) -> RequestKey:
    """Return what identifies a request to ``url``, absolute or not; scheme and host do not count."""
    parts = urlsplit(url)
    return method.upper(), parts.path or "/", tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))


def read_recording(path: Source) -> Recording:
    """Read a whole recording.

    Raises:
        RecordingError: a line that is not a record, or a time before the line above's.
        OSError: the file cannot be read.
    """
    return Recording(tuple(iter_records(path)))


def iter_records(path: Source) -> Iterator[Record]:
    """Yield the records of a file, raising as `read_recording` does; blank lines are skipped."""
    last = 0.0
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = parse_line(line)
                if record.t < last:
                    raise RecordingError(f"t: {record.t} is before the {last} of the line above")
            except RecordingError as error:
                raise RecordingError(f"{path}:{number}: {error}") from None
            last = record.t
            yield record


def parse_line(line: str | bytes) -> Record:
    """Return the record in one line. Raises RecordingError, naming the member that is wrong."""
    try:
        raw = _loads(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordingError(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise RecordingError("a record is a JSON object")
    direction: Direction | None = raw.get("dir")
    if direction is None or direction not in _DIRECTIONS:
        raise RecordingError(f"dir: expected one of {', '.join(_DIRECTIONS)}, got {direction!r}")
    time = raw.get("t")
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < _MAX_TIME:
        raise RecordingError(f"t: expected Unix seconds, got {time!r}")
    status = raw.get("status", 200)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise RecordingError(f"status: expected 200 to 599, got {status!r}")
    return Record(
        t=time,
        dir=direction,
        data="" if direction == "open" else _payload(raw),
        url=_text(raw, "url") if direction in ("open", "http") else "",
        method=_text(raw, "method") if "method" in raw else "GET",
        status=status,
    )


def _payload(raw: dict[str, Any]) -> str | bytes:
    if "b64" not in raw:
        return _text(raw, "data")
    try:
        return base64.b64decode(_text(raw, "b64"), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        raise RecordingError("b64: not base64") from None


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        raise RecordingError(f"{name}: expected text, got {value!r:.64}" if name in raw else f"{name} is missing")
    return value


def format_line(record: Record) -> str:
    """Return the record as its line, without the line end."""
    raw: dict[str, Any] = {"t": record.t, "dir": record.dir}
    if record.dir in ("open", "http"):
        raw["url"] = record.url
    if record.method != "GET":
        raw["method"] = record.method
    if record.status != 200:
        raw["status"] = record.status
    if isinstance(record.data, bytes):
        raw["b64"] = base64.b64encode(record.data).decode()
    elif record.dir != "open":
        raw["data"] = record.data
    return _dumps(raw).decode()


def write_recording(path: Source, records: Iterable[Record]) -> None:
    """Write records to a file, replacing it."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{format_line(record)}\n" for record in records)
