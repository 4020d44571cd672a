"""Recordings of provider sessions: what was opened, sent, received and fetched, one JSON object a line, in time order.

    {"t": 1633998274.72, "dir": "open", "url": "wss://..."}
    {"t": ..., "dir": "out",  "data": "<text frame the client sent>"}
    {"t": ..., "dir": "in",   "data": "<text frame received>"}
    {"t": ..., "dir": "http", "url": "https://...", "data": "<response body>"}
    {"t": ..., "dir": "close", "code": 1006, "data": "<reason>"}
    {"t": ..., "dir": "lost", "count": 12, "data": "<reason>"}

``t`` is Unix seconds on the recorder's clock. A binary frame has ``b64`` instead of ``data``. An HTTP answer may say its
``method`` (GET), its ``status`` (200; 0: none came, and ``data`` is the reason) and the body of the ``request``. ``close``
is the end of a connection, ``own`` where the client closed it; ``lost`` are records that the recorder had to leave out.
Members this version does not know are ignored.

A file may be compressed with gzip or zstd, whatever its name. One that is still being written, or whose recorder was killed,
is read up to its last whole record.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

import msgspec
from attrs import frozen

Direction = Literal["open", "out", "in", "http", "close", "lost"]
Source = str | PathLike[str]
#: Key of equal HTTP requests: method, path, and the query's pairs in any order.
RequestKey = tuple[str, str, tuple[tuple[str, str], ...]]

_DIRECTIONS = get_args(Direction)
_MAX_TIME = 1e12
#: Comparisons of frames at most when those of different members are paired.
_COMPARISONS = 100_000
#: Members of a line that are left out where they say nothing.
_OPTIONAL = ("request", "code", "own", "count")
_loads = msgspec.json.Decoder().decode
_dumps = msgspec.json.Encoder().encode


class RecordingError(ValueError):
    """A line that is not a record; the message names the file, the line and the member."""


@frozen(kw_only=True)
class Record:
    """One thing that happened.

    Attributes:
        t: Unix seconds.
        dir: ``open`` a connection was dialled, ``out`` the client sent, ``in`` the client received, ``http`` an answer,
            ``close`` the connection ended, ``lost`` records are missing here.
        data: the frame (bytes when it was binary), the response body or the reason; empty for ``open``.
        url: of ``open`` and ``http``.
        method, status, request: of ``http``; ``request`` is the body that was sent.
        code, own: of ``close``.
        count: of ``lost``.
    """

    t: float
    dir: Direction
    data: str | bytes = ""
    url: str = ""
    method: str = "GET"
    status: int = 200
    request: str = ""
    code: int = 0
    own: bool = False
    count: int = 0


@frozen
class Recording:
    """A whole session in memory."""

    records: tuple[Record, ...]

    @property
    def incoming(self) -> tuple[Record, ...]:
        """The frames received, of all connections, in time order."""
        return tuple(record for record in self.records if record.dir == "in")

    def answers(self) -> dict[RequestKey, list[Record]]:
        """Return the HTTP answers by request, each request's in recorded order."""
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
    last = 0.0  # of the record above
    for number, (line, is_whole) in enumerate(_lines(Path(path)), start=1):
        if not line.strip():
            continue
        try:
            record = parse_line(line)
            if record.t < last:
                raise RecordingError(f"t: {record.t} is before the {last} of the line above")
        except RecordingError as error:
            if last and not is_whole:  # the recorder was killed here, or is still at work
                return
            raise RecordingError(f"{path}:{number}: {error}") from None
        last = record.t
        yield record


_READ = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a file, and if each has its end."""
    rest = b""
    for chunk in _chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from ((line, True) for line in lines)
    if rest:
        yield rest, False


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed, up to where it was cut."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == _ZSTD:
            yield from _unzstd(file, path)
        elif magic[:2] == _GZIP:
            yield from _gunzip(file, path)
        else:
            while chunk := file.read(_READ):
                yield chunk


def _unzstd(file: BinaryIO, path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise RecordingError(f"{path}: is compressed with zstd: pip install 'tickrelay[zstd]'") from None
    with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
        try:
            while chunk := reader.read(_READ):
                yield chunk
        except zstandard.ZstdError as error:
            raise RecordingError(f"{path}: {error}") from None


def _gunzip(file: BinaryIO, path: Path) -> Iterator[bytes]:
    member, data = zlib.decompressobj(wbits=31), b""
    try:
        while data := data or file.read(_READ):
            yield member.decompress(data)
            data = member.unused_data
            if member.eof:
                member = zlib.decompressobj(wbits=31)
    except zlib.error as error:
        raise RecordingError(f"{path}: {error}") from None


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
    if isinstance(status, bool) or not isinstance(status, int) or (status and not 200 <= status <= 599):
        raise RecordingError(f"status: expected 200 to 599, got {status!r}")
    return Record(
        t=time,
        dir=direction,
        data="" if direction == "open" else _payload(raw),
        url=_text(raw, "url") if direction in ("open", "http") else "",
        method=_text(raw, "method") if "method" in raw else "GET",
        status=status,
        request=_text(raw, "request") if "request" in raw else "",
        code=_count(raw, "code"),
        own=raw.get("own") is True,
        count=_count(raw, "count"),
    )


def _count(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecordingError(f"{name}: expected a number from 0 on, got {value!r:.64}")
    return value


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
    raw |= {name: value for name in _OPTIONAL if (value := getattr(record, name))}
    if isinstance(record.data, bytes):
        raw["b64"] = base64.b64encode(record.data).decode()
    elif record.dir != "open":
        raw["data"] = record.data
    return _dumps(raw).decode()


def write_recording(path: Source, records: Iterable[Record]) -> None:
    """Write records to a file, replacing it."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{format_line(record)}\n" for record in records)


# --- what was sent, beside what was recorded -------------------------------------------------------------------------


@frozen
class FramePair:
    """A recorded frame and the one that was sent in its place.

    Attributes:
        recorded, sent: None where the other side has no such frame.
        differs: paths of the members that differ, sorted; for frames that are no JSON, the one name ``text``.
    """

    recorded: str | None
    sent: str | None
    differs: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """True if both frames are there and say the same."""
        return self.recorded is not None and self.sent is not None and not self.differs


def beside(recorded: Iterable[str], sent: Iterable[str]) -> list[FramePair]:
    """Pair the frames of a recording with frames that were sent.

    Frames that say the same are counterparts wherever they stand, because the order of requests seldom matters. Of the
    others those of one shape (the same members, whatever their values) are, in order, and then those that agree in half of
    their members at least.
    """
    left, right = [_parsed(frame) for frame in recorded], [_parsed(frame) for frame in sent]
    found: dict[int, _Frame] = {}
    for match in ("members", "shape"):
        for position, frame in enumerate(left):
            if position in found:
                continue
            wanted = getattr(frame, match)
            at = next((index for index, other in enumerate(right) if getattr(other, match) == wanted), None)
            if at is not None:
                found[position] = right.pop(at)
    if (len(left) - len(found)) * len(right) <= _COMPARISONS:
        for position, frame in enumerate(left):
            if position not in found and (at := _most_alike(frame, right)) is not None:
                found[position] = right.pop(at)
    pairs = [
        FramePair(frame.text, found[position].text, frame.differs(found[position]))
        if position in found
        else FramePair(frame.text, None)
        for position, frame in enumerate(left)
    ]
    return pairs + [FramePair(None, frame.text) for frame in right]


@frozen
class _Frame:
    text: str
    shape: str
    members: dict[str, Any]

    def differs(self, other: "_Frame") -> tuple[str, ...]:
        names = self.members.keys() | other.members.keys()
        return tuple(sorted(name for name in names if self.members.get(name) != other.members.get(name)))


def _most_alike(frame: _Frame, others: list[_Frame]) -> int | None:
    """Return the position of the frame that agrees most; None where none agrees in half of its members."""
    agree = [len(frame.members.items() & other.members.items()) for other in others]
    if not agree:
        return None
    at = max(range(len(agree)), key=agree.__getitem__)
    return at if 2 * agree[at] >= max(len(frame.members), len(others[at].members)) else None


def _parsed(text: str) -> _Frame:
    try:
        value = _loads(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict | list):
        return _Frame(text, text if len(text) < 16 else "text", {"text": text})
    members = dict(_members("", value))
    # Lists of one request may be as long as its client likes, so that their length is none of its shape.
    return _Frame(text, repr(sorted({_index.sub("[]", name) for name in members})), members)


_index = re.compile(r"\[\d+\]")


def _members(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _members(f"{path}.{name}" if path else str(name), item)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _members(f"{path}[{position}]", item)
    else:
        yield path, value
