"""Build the ASGI application with all HTTP endpoints of the relay.

| path | endpoint |
|---|---|
| ``/apps/ID/...`` | the Pusher HTTP API, signed (`pusher`) |
| ``/api/v2/ws/session``, ``streams``, ``auth`` | session bootstrap, by API key (`channels`) |
| ``/api/v2/symbols``, ``/api/v2/instruments`` | search of symbols and of their instruments, by API key (`symbols`) |
| ``/api/v2/frames`` | received frames of a session, by API keys with that permission (`frames`) |
| ``/api/v2/commands`` | trading, by API keys with that permission (`commands`) |
| ``/api/v2/status``, ``/metrics``, ``/healthz``, ``/readyz`` | health, status, metrics (`health`, `metrics`) |
| ``/schemas/KIND.json``, ``/api/v2/asyncapi.json`` | JSON Schemas of the events, AsyncAPI document |
| ``/`` | the dashboard (`Pages`) |

`build_api` receives everything the endpoints need. There is no global state, so one process can run several relays.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import trio
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.auth import KeyRing
from relay.hub.hub import Hub
from relay.model.channels import ALL, Stream
from relay.plugins.hookspecs import Grant
from relay.provider.catalog import CatalogEntry
from relay.pusher.http_api import ApiError
from relay.server.api import answers
from relay.server.api.answers import Bodies, HttpRefusal, Slices
from relay.server.api.channels import ApiSettings, Bootstrap
from relay.server.api.commands import Commands
from relay.server.api.frames import Frames, Inspection
from relay.server.api.health import Session, Status, shown
from relay.server.api.metrics import Measured, Metrics, RelayCollector
from relay.server.api.pusher import PusherApi
from relay.server.api.symbols import Search, SymbolSearch
from relay.trading.service import CommandService

WEB = Path(__file__).parents[2] / "web"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def build_api(
    settings: ApiSettings,
    *,
    hub: Hub,
    keys: KeyRing,
    catalog: Callable[[], Iterable[CatalogEntry]],
    sessions: Callable[[], Iterable[Mapping[str, Any]]],
    authorize: Callable[[str, str], Grant | None] = lambda key, channel: None,
    refusal: Callable[[Stream], str | None] = lambda stream: None,
    search: Search = lambda query, provider: ([], 0),
    command_service: CommandService | None = None,
    inspection: Inspection | None = None,
    store: Callable[[], Mapping[str, Any]] = lambda: {"available": True, "waiting": 0},
    registry: CollectorRegistry | None = None,
    measured: Measured | None = None,
    web: Path = WEB,
    clock: Callable[[], float] = trio.current_time,
    unix_time: Callable[[], float] = time.time,
) -> Starlette:
    """Return the application.

    ``catalog`` and ``sessions`` are called on every request that needs them; a session is its ``status()``, with
    ``required`` added. ``authorize(key name, channel)`` may overrule the configured permissions; ``refusal(stream)`` is the
    reason that a stream cannot be had, ``search`` finds symbols. Without ``command_service`` there is no endpoint for
    commands, without ``inspection`` none for frames. ``store`` is the store's ``status``. The metrics are registered in
    ``registry``, a new one by default; ``measured`` are those that the relay counts where they arise.
    ``clock`` is the hub's.
    """
    registry = registry or CollectorRegistry()

    def current_sessions() -> list[Session]:
        return list(map(shown, sessions()))

    commands = dict[str, Any] if command_service is None else command_service.registry.snapshot
    measured = measured or Measured()
    collector = RelayCollector(settings.version, hub, current_sessions, store, commands, measured)
    bodies = Bodies(settings.bodies)
    slices = Slices()
    pusher = PusherApi(hub, clock=clock, unix_time=unix_time, bodies=bodies, slices=slices)

    def pay(caller: str, items: int) -> bool:
        prices = hub.budgets.prices
        return hub.budgets.take(caller, prices.catalog + prices.event * items, clock())

    def pay_search(caller: str, compared: int, returned: int) -> bool:
        prices = hub.budgets.prices
        units = prices.catalog + prices.symbol * compared + prices.event * returned if compared else 0.0
        return hub.budgets.take(caller, units, clock())

    def pay_status(caller: str, items: int) -> bool:
        prices = hub.budgets.prices
        return hub.budgets.take(caller, prices.page + prices.counted * items, clock())

    bootstrap = Bootstrap(
        settings,
        app=hub.app,
        app_by_key=hub.app_by_key,
        keys=keys,
        catalog=catalog,
        refusal=refusal,
        authorize=authorize,
        bodies=bodies,
        pay=pay,
    )
    symbols = SymbolSearch(
        keys,
        search,
        lambda: list(dict.fromkeys(entry.provider for entry in catalog() if entry.provider != ALL)),
        pay_search,
        slices,
    )
    status = Status(
        settings,
        keys=keys,
        app=hub.app,
        sessions=current_sessions,
        catalog=catalog,
        hub=hub,
        store=store,
        commands=commands,
        slices=slices,
        pay=pay_status,
        clock=clock,
    )
    metrics = Metrics(hub, registry, collector, slices, status.charged)
    frames = []
    if inspection is not None:
        frames = [Route("/v2/frames", Frames(keys, inspection, pay, slices).endpoint)]
    trading = []
    if command_service is not None:
        endpoint = Commands(keys=keys, command_service=command_service, bodies=bodies).endpoint
        trading = [Route("/v2/commands", endpoint, methods=["GET", "POST"])]

    return Starlette(
        routes=[
            Route("/apps/{rest:path}", pusher.endpoint, methods=METHODS),
            Route("/users/{rest:path}", pusher.endpoint, methods=METHODS),
            Mount("/api", app=_exactly([
                Route("/v2/ws/session", bootstrap.session, methods=["POST"]),
                Route("/v2/ws/streams", bootstrap.streams),
                Route("/v2/ws/auth", bootstrap.auth, methods=["POST"]),
                Route("/v2/symbols", symbols.endpoint),
                Route("/v2/instruments", symbols.instruments),
                Route("/v2/asyncapi.json", bootstrap.asyncapi),
                Route("/v2/status", status.status),
                *frames,
                *trading,
            ])),
            Mount("/schemas", app=_exactly([Route("/{kind}.json", bootstrap.schema)])),
            Route("/healthz", status.health),
            Route("/readyz", status.ready),
            Route("/metrics", metrics.endpoint),
            Mount("/", app=Pages(web)),
        ],
        middleware=[Middleware(Cors, prefixes=(answers.API, "/schemas/"), allowed=bootstrap.origin_allowed)],
        exception_handlers={
            ApiError: answers.pusher_refused,
            HttpRefusal: answers.refused,
            HTTPException: answers.http_refused,
            ClientDisconnect: answers.abandoned,
            Exception: answers.failed,
        },
    )  # fmt: skip


def _exactly(routes: list[Route]) -> Router:
    """Return a router that answers 404 and 405 itself and never redirects."""
    return Router(routes, redirect_slashes=False)


class Cors:
    """Middleware that lets pages of allowed origins use the endpoints below the path prefixes (WHATWG Fetch, CORS protocol).

    Requests authenticate by a header of their own, never by cookies, so credentials are not allowed. A page of another
    origin gets no permission; its preflight is answered 403.
    """

    def __init__(self, app: ASGIApp, *, prefixes: tuple[str, ...], allowed: Callable[[str, str], bool]) -> None:
        self._app = app
        self._prefixes = prefixes
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        query = scope["query_string"].decode("latin-1")
        if origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._preflight(origin, query)(scope, receive, send)
            return

        async def send_with_permission(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                if origin is not None and self._allowed(origin, query):
                    answer["Access-Control-Allow-Origin"] = origin
                    answer["Access-Control-Expose-Headers"] = "Idempotent-Replayed, Retry-After"
            await send(message)

        await self._app(scope, receive, send_with_permission)

    def _preflight(self, origin: str, query: str) -> Response:
        if not self._allowed(origin, query):
            return Response(status_code=403, headers={"Vary": "Origin"})
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
                "Access-Control-Max-Age": "600",
                "Vary": "Origin",
            },
        )


class Pages(StaticFiles):
    """Static files below one directory, with an ETag each; a path that leaves it is 404.

    With ``no-cache``, browsers store the files but revalidate them every time. After an upgrade they use the new scripts.
    """

    def __init__(self, directory: Path = WEB) -> None:
        super().__init__(directory=directory, html=True, check_dir=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await super().get_response(path, scope)
        except (OSError, ValueError):  # a path that no file can have
            raise HTTPException(404) from None
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Content-Security-Policy"] = "frame-ancestors 'self'; base-uri 'none'; object-src 'none'"
        return response
