"""How the relay is: alive, ready, its state as JSON for the dashboard, its figures for Prometheus.

`/healthz` and `/readyz` tell little and tell it to everybody. The state and the metrics need an API key unless they are
public; samples of messages that were not understood are shown to API keys only, for an account's messages may be among them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import KeyRing
from relay.model.channels import ALL, channel_name
from relay.model.events import MARKET_KINDS
from relay.provider.catalog import CatalogEntry
from relay.pusher.apps import App
from relay.server.api.answers import json_answer
from relay.server.api.channels import bearer
from relay.server.api.sessions import Sessions, not_ready, without_samples
from relay.server.api.settings import ApiSettings


class Status:
    """The endpoints. All callables give the state of the moment."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        keys: KeyRing,
        app: Callable[[str], App | None],
        sessions: Sessions,
        catalog: Callable[[], Iterable[CatalogEntry]],
        hub: Callable[[], Mapping[str, Any]],
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._find_app = app
        self._sessions = sessions
        self._catalog = catalog
        self._hub = hub
        self._registry = registry

    async def health(self, request: Request) -> Response:
        """GET /healthz: the process is up."""
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """GET /readyz: every required session is connected; otherwise 503 and which is not."""
        waiting = not_ready(self._sessions())
        if waiting:
            return json_answer({"status": "not ready", "waiting": waiting}, 503)
        return json_answer({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics, in Prometheus' text format."""
        self._admit(request)
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(self, request: Request) -> Response:
        """GET /api/v2/status: what the dashboard shows."""
        self._admit(request)
        by_key = "authorization" in request.headers and bearer(request, self._keys) is not None
        app, sessions, hub = self._find_app(self._settings.app_id), list(self._sessions()), self._hub()
        return json_answer(
            {
                "version": self._settings.version,
                "app_key": app.key if app else None,
                **({"demo_api_key": self._settings.demo_api_key} if self._settings.demo_api_key else {}),
                "ready": not not_ready(sessions),
                "sessions": sessions if by_key else list(map(without_samples, sessions)),
                "quotes": list(_quotes(self._catalog())),
                "hub": hub if by_key else _for_everybody(hub),
            }
        )

    def _admit(self, request: Request) -> None:
        if not self._settings.status_public:
            bearer(request, self._keys)


def _for_everybody(hub: Mapping[str, Any]) -> Mapping[str, Any]:
    """The hub's state without names of channels and accounts, which may say who somebody is."""
    apps = {id: {**app, "channels": len(app["channels"])} for id, app in hub["apps"].items()}
    return {**hub, "apps": apps, "streams": [stream for stream in hub["streams"] if stream["kind"] != "account"]}


def _quotes(entries: Iterable[CatalogEntry]) -> Iterable[dict[str, Any]]:
    """Quotes worth showing: the known symbols of every provider whose market data are public, and its market streams."""
    entries = list(entries)
    kinds: dict[str, list[str]] = {}
    for entry in entries:
        if entry.kind in MARKET_KINDS:
            kinds.setdefault(entry.provider, []).append(entry.kind)
    for entry in entries:
        if entry.kind != "quote" or entry.visibility != "public" or entry.provider == ALL:
            continue
        for symbol in entry.symbols or entry.example.values():
            filters = {"symbol": symbol}
            if entry.complete(filters):
                channel = channel_name(entry.stream(filters), entry.prefix)
                yield {
                    "provider": entry.provider,
                    "symbol": symbol,
                    "channel": channel,
                    "kinds": kinds[entry.provider],
                }
