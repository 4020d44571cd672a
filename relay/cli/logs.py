"""The log: structlog on standard error, for people or as JSON lines, without secrets.

Secrets are masked in the finished line, so nothing that a value's repr or a traceback shows can slip past: every secret the
configuration gave, as it is, as it stands in a URL and as it stands in JSON; and whatever stands behind a name that says
it is one (``token=...``, ``Authorization: ...``).
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from relay.errors import HIDDEN, secrets_pattern
from relay.settings import LogTable

_SHORTEST = 4
"""Masking shorter secrets would make a log unreadable, and show where they are."""

_NAMES = r"token|access_token|auth|auth_signature|signature|api[_-]?key|apikey|secret|password|listenkey"
_in_query = re.compile(rf"(?i)\b((?:{_NAMES})=)[^&\s\"'\\]+")
_in_header = re.compile(
    r"(?i)(authorization\\*[\"']?\s*[:=]\s*\\*(?:b(?=[\"']))?[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',\\]+"
)
_scheme = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_secret_name = re.compile(rf"(?i)(?:.*_)?(?:{_NAMES}|authorization)").fullmatch

Event = MutableMapping[str, Any]


def configure_logs(table: LogTable, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Set the log up for the process. May be called again, with new secrets after a reload."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[table.level.upper()]
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_named,
        *_renderer(table.format, stream),
        Redaction(secrets),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LibraryLogs)] + [LibraryLogs()]
    root.setLevel(max(level, logging.WARNING))


def _renderer(format: str, stream: TextIO) -> list[Callable[..., Any]]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]


def mask_named(logger: Any, method: str, event: Event) -> Event:
    """Mask values whose key says that they are secret, at any depth."""
    masked: Event = _named_masked(event)
    return masked


def _named_masked(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: HIDDEN if _is_secret_name(key) else _named_masked(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_named_masked(inner) for inner in value]
    return value


def _is_secret_name(key: object) -> bool:
    return isinstance(key, str) and _secret_name(key) is not None


class Redaction:
    """The last processor: takes secrets out of the finished line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known = secrets_pattern(secret for secret in secrets if len(secret) >= _SHORTEST)

    def __call__(self, logger: Any, method: str, line: str) -> str:
        return self.mask(line)

    def mask(self, text: str) -> str:
        """Return ``text`` without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        text = _in_header.sub(rf"\g<1>{HIDDEN}", text)
        text = _scheme.sub(rf"\g<1> {HIDDEN}", text)
        return _in_query.sub(rf"\g<1>{HIDDEN}", text)


class LibraryLogs(logging.Handler):
    """Hands what libraries log by the standard module to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger().bind(logger=record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
