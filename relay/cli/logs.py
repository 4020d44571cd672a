"""The log: structlog on standard error, for people or as JSON lines, without secrets.

Logging never blocks the relay. `LogWriter` queues lines, and a thread writes them. If the volume is full, or the pipe is not
read, lines wait in a bounded queue; further ones are dropped and counted, and the count is written once lines can be written
again. Repeated lines are sampled (`SampleLines`).

Text from clients only appears in quoted, shortened fields: control characters are escaped, and long text is cut off
(`quote_fields`).

Secrets are masked in every field before it is cut off, and again in the finished line, which may contain a repr or a
traceback: each secret of the configuration, also as encoded in URLs and JSON; values after a name of a secret
(``token=...``, ``Authorization: ...``); and the credentials of a URL.
"""

import errno
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO, cast

import structlog

from relay.errors import HIDDEN, hide_userinfo, one_line, secrets_pattern
from relay.limits import LineSampler
from relay.settings import LogTable

_SHORTEST = 4
"""Least length of a masked secret: masking shorter ones would make a log unreadable and reveal them."""

_NAMES = r"token|access_token|auth|auth_signature|signature|api[_-]?key|apikey|secret|password|listenkey"
_in_query = re.compile(rf"(?i)\b((?:{_NAMES})=)[^&\s\"'\\]+")
_in_header = re.compile(
    r"(?i)(authorization\\*[\"']?\s*[:=]\s*\\*(?:b(?=[\"']))?[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',\\]+"
)
_scheme = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_secret_name = re.compile(rf"(?i)(?:.*_)?(?:{_NAMES}|authorization)").fullmatch

#: Bytes of lines that wait to be written; lines beyond are lost.
QUEUE_BYTES = 1024 * 1024
#: Bytes of one write at most.
_WRITE_BYTES = 64 * 1024
#: Seconds until a write that failed is tried again, doubling up to the second number.
_AGAIN, _RARELY = 0.1, 1.0
#: Seconds for the waiting lines at the end.
DRAIN = 2.0
#: Characters of one field, and of one traceback.
FIELD, TRACEBACK = 500, 8000
#: Members of one list or mapping, and how deep they are nested.
_MEMBERS, _DEPTH = 50, 4
#: Fields that distinguish kinds of repeated lines. Clients cannot choose any of their values.
_KIND = ("level", "provider", "account", "plugin", "what", "task", "endpoint", "app", "logger", "line")

Event = MutableMapping[str, Any]


# --- writing ---------------------------------------------------------------------------------------------------------


class LogWriter:
    """A text stream whose writes neither block nor fail: a thread writes the queued lines.

    Args:
        write: writes some of the bytes and returns how many, like `os.write`; may block or raise OSError.
        most: most bytes in the queue.
        tty: whether the output is a terminal with colors.
    """

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, write: Callable[[bytes], int], *, most: int = QUEUE_BYTES, tty: bool = False) -> None:
        self._write = write
        self._most = most
        self._tty = tty
        self._lines: deque[bytes | int] = deque()  # a number: so many lines were lost at this place
        self._waiting = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self.lost = 0
        """Lines that were not written, since the start."""
        self.lost_line: Callable[[int], str] = "{} log lines lost\n".format
        """Returns the line that reports a number of lost lines."""
        self.on_second: Callable[[], None] = lambda: None
        """Called about once a second, by the thread."""
        self.on_close: Callable[[], None] = lambda: None
        """Called before the log is closed; may write last lines."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, within: float = DRAIN) -> bool:
        """Write the queued lines, for at most `within` seconds; return False if not all could be written."""
        self.on_close()
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(within)
        return not self._lines and not self._thread.is_alive()

    # --- a text stream ---

    def write(self, text: str) -> int:
        """Have `text` written later; never waits."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._waiting + len(data) > self._most:
                lines = text.count("\n")
                self.lost += lines
                if self._lines and isinstance(self._lines[-1], int):
                    self._lines[-1] += lines
                else:
                    self._lines.append(lines)
            elif data:
                self._lines.append(data)
                self._waiting += len(data)
            self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def isatty(self) -> bool:
        """Return True if a person looks at it."""
        return self._tty

    def fileno(self) -> int:
        """Raise OSError: writing to a descriptor would bypass the queue."""
        raise OSError(errno.ENOTSUP, "the log has no descriptor")

    # --- the thread ---

    def _run(self) -> None:
        second = time.monotonic() + 1.0
        while True:
            with self._changed:
                if not self._lines and not self._closing.is_set():
                    self._changed.wait(1.0)
                data = self._take()
            if data and not self._written(data):
                return
            if not data and self._closing.is_set():
                return
            if time.monotonic() >= second:
                second = time.monotonic() + 1.0
                self.on_second()

    def _take(self) -> bytes:
        """Remove and return the next bytes to write, with a line about lost lines before them."""
        parts: list[bytes] = []
        size = 0
        while self._lines and size < _WRITE_BYTES:
            item = self._lines.popleft()
            if isinstance(item, int):
                item = self.lost_line(item).encode("utf-8", "backslashreplace") if item else b""
            else:
                self._waiting -= len(item)
            parts.append(item)
            size += len(item)
        return b"".join(parts)

    def _written(self, data: bytes) -> bool:
        """Write all of `data`, however long that takes; False when it could not be written and the log is closed."""
        wait = _AGAIN
        while data:
            try:
                data = data[self._write(data) :]
                wait = _AGAIN
            except OSError:
                if self._closing.is_set():
                    return False
                self._closing.wait(wait)
                wait = min(2 * wait, _RARELY)
        return True


def _writing(stream: TextIO | None) -> Callable[[bytes], int]:
    """Return a function that writes bytes to a stream: to its descriptor, if it has one."""
    if stream is None:
        return _nowhere
    try:
        fd = stream.fileno()
    except (OSError, ValueError):

        def write_text(data: bytes) -> int:
            stream.write(data.decode())
            return len(data)

        return write_text

    def write(data: bytes) -> int:
        # Another process that shares the descriptor may have made it non-blocking.
        select.select((), (fd,), ())
        return os.write(fd, data)

    return write


def _nowhere(data: bytes) -> int:
    return len(data)


@contextmanager
def log_writer() -> Iterator[LogWriter]:
    """Replace standard error by a `LogWriter` within the block, so that nothing that writes there (warnings, tracebacks,
    plugins) can block the relay.
    """
    stream = cast("TextIO | None", sys.stderr)
    writer = LogWriter(_writing(stream), tty=stream is not None and stream.isatty())
    writer.start()
    sys.stderr = cast(TextIO, writer)
    try:
        yield writer
    finally:
        # If the pipe is not read, the interpreter's last output would block for ever: it goes to the closed writer.
        if writer.close():
            sys.stderr = stream


# --- the lines -------------------------------------------------------------------------------------------------------


def configure_logs(
    table: LogTable, secrets: Iterable[str] = (), stream: TextIO | LogWriter | None = None
) -> "ConfiguredLog":
    """Set the log up for the process."""
    out = cast(TextIO, stream or sys.stderr)
    level = logging.getLevelNamesMapping()[table.level.upper()]
    redaction = Redaction(secrets)
    sampler = LineSampler(table.repeats)
    samples = SampleLines(sampler, time.monotonic)
    finish: list[Any] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_named,
        redaction.quote_fields,
        *_renderer(table.format, out, redaction.mask),
        redaction,
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, samples, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LibraryLogs)] + [LibraryLogs()]
    root.setLevel(max(level, logging.WARNING))
    if isinstance(stream, LogWriter):

        def lost_line(count: int) -> str:
            line: Any = {"event": f"{count} log lines lost", "lines": count, "level": "error"}
            for processor in finish:
                line = processor(None, "error", line)
            return f"{line}\n"

        stream.lost_line = lost_line
        stream.on_second, stream.on_close = samples.tell, partial(samples.tell, all=True)
    return ConfiguredLog(redaction, sampler, (lambda: stream.lost) if isinstance(stream, LogWriter) else (lambda: 0))


def _renderer(format: str, stream: TextIO, mask: Callable[[str], str]) -> list[Callable[..., Any]]:
    if format == "json":
        return [_Tracebacks(mask), structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [_Tracebacks(mask, indent="  "), structlog.dev.ConsoleRenderer(colors=stream.isatty())]


class _Tracebacks:
    """Write the exception of a line as text: masked, shortened, every line of it quoted (and indented, so that no message of
    an exception looks like a line of the log).
    """

    def __init__(self, mask: Callable[[str], str], indent: str = "") -> None:
        self._mask = mask
        self._indent = indent

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        event = structlog.processors.format_exc_info(logger, method, event)
        text = event.get("exception")
        if isinstance(text, str):
            text = self._mask(text)
            if len(text) > TRACEBACK:
                text = f"{text[: TRACEBACK // 2]}\n[{len(text) - TRACEBACK} characters]\n{text[-TRACEBACK // 2 :]}"
            event["exception"] = "\n".join(self._indent + one_line(line) for line in text.split("\n"))
        return event


class ConfiguredLog:
    """The log as it was configured.

    Args:
        lost: returns how many lines could not be written.
    """

    def __init__(self, redaction: "Redaction", sampler: LineSampler, lost: Callable[[], int]) -> None:
        self._redaction = redaction
        self._sampler = sampler
        self._lost = lost

    def mask_also(self, secrets: Iterable[str]) -> None:
        """Mask these secrets too, as after a reload."""
        self._redaction.learn(secrets)

    def counts(self) -> dict[str, int]:
        """Return how many lines were ``lost``, and how many repeated ones ``withheld``."""
        return {"lost": self._lost(), "withheld": self._sampler.withheld}


class SampleLines:
    """The processor that withholds repeated lines; see `LineSampler`.

    A kind of line is its event, its level, whom it concerns (provider, account, plugin, ...), and the type of its exception.
    """

    def __init__(self, sampler: LineSampler, clock: Callable[[], float]) -> None:
        self._sampler = sampler
        self._clock = clock
        self._lock = threading.Lock()

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        if event.pop("unsampled", False):
            return event
        kind = (
            ("event", str(event.get("event"))),
            *((name, str(event[name])) for name in _KIND if event.get(name) is not None),
            ("exception", _exception_name(event.get("exc_info"))),
        )
        event.pop("line", None)
        with self._lock:
            if self._sampler.admits(kind, self._clock()):
                return event
        raise structlog.DropEvent

    def tell(self, *, all: bool = False) -> None:
        """Write how many lines of each kind were withheld, once their period is over (`all`: now)."""
        with self._lock:
            taken = self._sampler.take_withheld() if all else self._sampler.take_withheld(self._clock())
        for kind, count in taken:
            fields = dict(cast("tuple[tuple[str, str], ...]", kind or (("level", "warning"),)))
            level = logging.getLevelNamesMapping().get(fields.pop("level", "info").upper(), logging.INFO)
            fields["of"] = fields.pop("event", "many events")
            fields = {name: value for name, value in fields.items() if value and name != "line"}
            structlog.get_logger().log(level, "repeated log lines", lines=count, unsampled=True, **fields)


def _exception_name(exc_info: object) -> str:
    if exc_info is True:
        exc_info = sys.exc_info()[1]
    elif isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return type(exc_info).__name__ if isinstance(exc_info, BaseException) else ""


def mask_named(logger: Any, method: str, event: Event) -> Event:
    """Mask values whose key is the name of a secret, at any depth."""
    masked: Event = _named_masked(event)
    return masked


def _named_masked(value: Any, depth: int = 0) -> Any:
    match value:
        case Mapping() if depth <= _DEPTH:
            return {
                key: HIDDEN if _is_secret_name(key) else _named_masked(inner, depth + 1) for key, inner in value.items()
            }
        case list() | tuple() if depth <= _DEPTH:
            return [_named_masked(inner, depth + 1) for inner in value]
    return value


def _is_secret_name(key: object) -> bool:
    return isinstance(key, str) and _secret_name(key) is not None


class Redaction:
    """Takes secrets out of fields, and as the last processor out of the finished line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these secrets out too."""
        self._secrets |= {secret for secret in secrets if len(secret) >= _SHORTEST}
        self._known = secrets_pattern(self._secrets)

    def __call__(self, logger: Any, method: str, line: str) -> str:
        return self.mask(line)

    def mask(self, text: str) -> str:
        """Return ``text`` without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        text = hide_userinfo(text)
        text = _in_header.sub(rf"\g<1>{HIDDEN}", text)
        text = _scheme.sub(rf"\g<1> {HIDDEN}", text)
        return _in_query.sub(rf"\g<1>{HIDDEN}", text)

    def quote_fields(self, logger: Any, method: str, event: Event) -> Event:
        """Quote and shorten every field: a control character becomes its escape, and long text ends with its length."""
        return {
            key if key.isidentifier() else self._text(key): value
            if key in ("exc_info", "stack", "exception")
            else self._quoted(value)
            for key, value in event.items()
        }

    def _quoted(self, value: Any, depth: int = 1) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self._text(value)
            case Mapping() if depth <= _DEPTH:
                members = list(value.items())
                quoted = {self._text(str(key)): self._quoted(inner, depth + 1) for key, inner in members[:_MEMBERS]}
                return quoted | ({"...": len(members) - _MEMBERS} if len(members) > _MEMBERS else {})
            case list() | tuple() if depth <= _DEPTH:
                more = [f"... {len(value) - _MEMBERS} more"] if len(value) > _MEMBERS else []
                return [self._quoted(inner, depth + 1) for inner in value[:_MEMBERS]] + more
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        text = self.mask(text)
        return one_line(text) if len(text) <= FIELD else f"{one_line(text[:FIELD])}... ({len(text)} characters)"


class LibraryLogs(logging.Handler):
    """Passes log records of libraries (standard logging) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger().bind(logger=record.name, line=f"{record.pathname}:{record.lineno}")
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
