"""The table ``[plugins.otel]`` as it is written. The text under each key is its documentation."""

from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators


def _check_url(_: object, attribute: "Attribute[Any]", url: str) -> None:
    parsed = urlsplit(url)
    if url and (parsed.scheme not in ("http", "https") or not parsed.hostname):
        raise ValueError("must be an http:// or https:// URL with a host")
    if parsed.username or parsed.password or parsed.query:
        raise ValueError("must have no user name, password or query; put a header into OTEL_EXPORTER_OTLP_HEADERS")


@frozen(kw_only=True)
class OtelTable:
    """Send spans of trading commands and of connections with providers to a collector of OpenTelemetry. Off without an
    `endpoint`. Needs the extra `tickrelay[otel]`."""

    endpoint: str = field(default="", validator=_check_url)
    """Base of the collector's OTLP over HTTP, e.g. `http://127.0.0.1:4318`. A header that is a secret comes from the
    environment variable `OTEL_EXPORTER_OTLP_HEADERS`."""
    service_name: str = field(default="tickrelay", validator=validators.min_len(1))
    """The name of this relay in the traces, `service.name`."""
    commands: bool = True
    """A span for each trading command, from taking it to its reply."""
    sessions: bool = True
    """A span for each connection with a provider, from its opening to its end."""
    queue_spans: int = field(default=2048, validator=validators.ge(1))
    """Spans that may wait to be sent; more are dropped."""
    timeout: float = field(default=5.0, validator=validators.gt(0))
    """Seconds for the collector to take what is sent, and at shutdown for what waits."""
