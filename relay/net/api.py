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

from relay.hooks import Grant
from relay.hub.access import KeyRing
from relay.hub.catalog import CatalogEntry
from relay.net import answers
from relay.net.answers import Refusal
from relay.net.api_settings import ApiSettings
from relay.net.bootstrap import Bootstrap
from relay.net.commands import Commands
from relay.net.dealing import Dealing
from relay.net.metrics import RelayCollector
from relay.net.origin import Cors
from relay.net.pages import WEB, Pages
from relay.net.pusher_api import Channels, PusherApi
from relay.net.sessions import Session, shown
from relay.net.status import Status
from relay.pusher.api import ApiError

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
    dealing: Dealing | None = None,
    registry: CollectorRegistry | None = None,
    web: Path = WEB,
    clock: Callable[[], float] = trio.current_time,
    unix_time: Callable[[], float] = time.time,
) -> Starlette:
    """Return the application.

    ``catalog`` and ``sessions`` are asked on every request that needs them; a session is told as its ``status()``, with
    ``required`` added. ``authorize(key name, channel)`` may overrule what the configuration grants. ``dealing`` takes the
    commands; without it there are none. ``registry`` is where
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
    trading = [] if dealing is None else [_commands(settings, keys, dealing)]

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


def _commands(settings: ApiSettings, keys: KeyRing, dealing: Dealing) -> Route:
    return Route("/v2/commands", Commands(settings, keys=keys, dealing=dealing).endpoint, methods=["GET", "POST"])


def _exactly(routes: list[Route]) -> Router:
    """A router that answers 404 and 405 itself, and sends nobody elsewhere."""
    return Router(routes, redirect_slashes=False)
