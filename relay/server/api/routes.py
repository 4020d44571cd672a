"""All of the relay's HTTP as one ASGI application: what the front serves beside the subscribers' sockets.

| path | what |
|---|---|
| ``/apps/ID/...`` | the Pusher HTTP API, signed (`pusher_api`) |
| ``/api/v2/ws/session``, ``streams``, ``auth`` | session bootstrap, by API key (`bootstrap`) |
| ``/api/v2/commands`` | trading, by API keys that may (`commands`) |
| ``/api/v2/status``, ``/metrics``, ``/healthz``, ``/readyz`` | how the relay is (`status`) |
| ``/schemas/KIND.json`` | JSON Schemas of the events |
| ``/`` | the dashboard (`pages`) |

Everything an endpoint needs is passed to `build_api`; there is nothing global, so several relays fit in one process.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import trio
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route, Router

from relay.auth import KeyRing
from relay.plugins.hookspecs import Grant
from relay.provider.catalog import CatalogEntry
from relay.pusher.http_api import ApiError
from relay.server.api import answers
from relay.server.api.answers import Refusal
from relay.server.api.channels import Bootstrap
from relay.server.api.commands import Commands
from relay.server.api.health import Status
from relay.server.api.metrics import RelayCollector
from relay.server.api.origin import Cors
from relay.server.api.pages import WEB, Pages
from relay.server.api.pusher import Channels, PusherApi
from relay.server.api.sessions import Session, shown
from relay.server.api.settings import ApiSettings
from relay.trading.service import CommandService

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Hub(Channels, Protocol):
    """What HTTP needs of the hub."""

    def snapshot(self) -> Mapping[str, Any]:
        """Counters and sizes, for status and metrics."""
        ...


def build_api(
    settings: ApiSettings,
    *,
    hub: Hub,
    keys: KeyRing,
    catalog: Callable[[], Iterable[CatalogEntry]],
    sessions: Callable[[], Iterable[Mapping[str, Any]]],
    authorize: Callable[[str, str], Grant | None] = lambda key, channel: None,
    command_service: CommandService | None = None,
    registry: CollectorRegistry | None = None,
    web: Path = WEB,
    clock: Callable[[], float] = trio.current_time,
    unix_time: Callable[[], float] = time.time,
) -> Starlette:
    """Return the application.

    ``catalog`` and ``sessions`` are asked on every request that needs them; a session is told as its ``status()``, with
    ``required`` added. ``authorize(key name, channel)`` may overrule what the configuration grants.
    ``command_service`` takes the commands; without it there are none. ``registry`` is where
    the metrics are registered, a new one by default. ``clock`` is the hub's.
    """
    registry = registry or CollectorRegistry()

    def now_shown() -> list[Session]:
        return list(map(shown, sessions()))

    registry.register(RelayCollector(settings.version, hub.snapshot, now_shown))
    pusher = PusherApi(hub, clock=clock, unix_time=unix_time, body_within=settings.body_within)
    bootstrap = Bootstrap(settings, app=hub.app, keys=keys, catalog=catalog, authorize=authorize)
    status = Status(
        settings, keys=keys, app=hub.app, sessions=now_shown, catalog=catalog, hub=hub.snapshot, registry=registry
    )
    trading = [] if command_service is None else [_commands(settings, keys, command_service)]

    return Starlette(
        routes=[
            Route("/apps/{rest:path}", pusher.endpoint, methods=METHODS),
            Route("/users/{rest:path}", pusher.endpoint, methods=METHODS),
            Mount("/api", app=_exactly([
                Route("/v2/ws/session", bootstrap.session, methods=["POST"]),
                Route("/v2/ws/streams", bootstrap.streams),
                Route("/v2/ws/auth", bootstrap.auth, methods=["POST"]),
                Route("/v2/status", status.status),
                *trading,
            ])),
            Mount("/schemas", app=_exactly([Route("/{kind}.json", bootstrap.schema)])),
            Route("/healthz", status.health),
            Route("/readyz", status.ready),
            Route("/metrics", status.metrics),
            Mount("/", app=Pages(web)),
        ],
        middleware=[Middleware(Cors, prefixes=(answers.API, "/schemas/"), allowed=bootstrap.origin_allowed)],
        exception_handlers={
            ApiError: answers.pusher_refused,
            Refusal: answers.refused,
            HTTPException: answers.http_refused,
            ClientDisconnect: answers.abandoned,
            Exception: answers.failed,
        },
    )  # fmt: skip


def _commands(settings: ApiSettings, keys: KeyRing, command_service: CommandService) -> Route:
    return Route(
        "/v2/commands", Commands(settings, keys=keys, command_service=command_service).endpoint, methods=["GET", "POST"]
    )


def _exactly(routes: list[Route]) -> Router:
    """A router that answers 404 and 405 itself, and sends nobody elsewhere."""
    return Router(routes, redirect_slashes=False)
