"""Endpoints with everything they need at hand: secrets read, patterns compiled."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from attrs import field, frozen

from relay.errors import suggestion
from relay.plugins.hookspecs import ChannelEvent
from relay_webhooks.queue import QueueLimits
from relay_webhooks.settings import EndpointTable, SecretHeader, WebhooksTable, check_value

ReadFile = Callable[[Path], str]


@frozen(kw_only=True)
class Endpoint:
    """The receiver of webhooks, with its filters.

    Attributes:
        name: as in the configuration, for the log; the URL may carry a token.
        app_id: the app whose events it receives.
        events: the names of the events it receives.
        channels: matches the names of the channels it receives events of.
        headers: sent with every webhook.
        timeout: seconds for a request as a whole.
    """

    name: str
    app_id: str
    url: str = field(repr=False)
    events: frozenset[str]
    channels: re.Pattern[str]
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    limits: QueueLimits

    def wants(self, event: ChannelEvent) -> bool:
        """Return True if the endpoint receives this event of its app."""
        return event.name in self.events and self.channels.fullmatch(event.channel) is not None


def endpoints_of(table: WebhooksTable, environ: Mapping[str, str], read_file: ReadFile) -> list[Endpoint]:
    """Return the endpoints of the configuration.

    Raises:
        ValueError: naming every header whose value cannot be had; never a value.
    """
    endpoints, problems = [], []
    for name, endpoint in table.endpoints.items():
        headers = dict(endpoint.headers)
        for header, where in endpoint.secret_headers.items():
            try:
                headers[header] = _secret(where, environ, read_file)
                check_value(header, headers[header])
            except ValueError as error:
                problems.append(f"endpoints.{name}.secret_headers.{header}: {error}")
        endpoints.append(_endpoint(name, endpoint, headers))
    if problems:
        raise ValueError("; ".join(problems))
    return endpoints


def check_apps(endpoints: Iterable[Endpoint], apps: Collection[str]) -> None:
    """Refuse endpoints of apps that there are not: they would never be told anything.

    Raises:
        ValueError: naming every such endpoint.
    """
    problems = [
        f"endpoints.{each.name}.app: there is no app {each.app_id}; {suggestion(each.app_id, apps)}"
        for each in endpoints
        if each.app_id not in apps
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _endpoint(name: str, table: EndpointTable, headers: Mapping[str, str]) -> Endpoint:
    return Endpoint(
        name=name,
        app_id=str(table.app),
        url=table.url,
        events=frozenset(table.events),
        channels=pattern(table.channels),
        headers=headers,
        timeout=table.timeout,
        limits=QueueLimits(
            events=table.queue_events,
            bytes=table.queue_bytes,
            batch_events=table.batch_events if table.batch else 1,
            batch_wait=table.batch_wait if table.batch else 0.0,
            retry_for=table.retry_for,
        ),
    )


def pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches each of the names whole, ``*`` in them standing for any text."""
    return re.compile("|".join(".*".join(map(re.escape, name.split("*"))) for name in names), re.DOTALL)


def _secret(where: SecretHeader, environ: Mapping[str, str], read_file: ReadFile) -> str:
    if where.env is not None:
        value, source = environ.get(where.env), f"environment variable {where.env}"
        if value is None:
            raise ValueError(f"{source} is not set")
    else:
        value, source = _text(Path(where.file or "/"), read_file), f"file {where.file}"
    if not value.strip():
        raise ValueError(f"{source} is empty")
    return value.strip()


def _text(path: Path, read_file: ReadFile) -> str:
    try:
        return read_file(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: it is not UTF-8 text") from error
