"""Health and readiness endpoints, and the status as JSON for the dashboard.

`/healthz` and `/readyz` are public and brief. Status and metrics (`relay.server.api.metrics`) need an API key unless they
are configured as public. They show an account, and details that may reveal something about it (reasons, topics, samples of
messages), only to API keys that may read it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey, KeyRing
from relay.hub.hub import Hub
from relay.hub.topic import TopicState
from relay.model.channels import ALL, ChannelError, Stream, channel_name, parse_channel
from relay.model.events import MARKET_KINDS
from relay.provider.catalog import CatalogEntry
from relay.pusher.apps import App
from relay.pusher.names import channel_type
from relay.server.admission import network_of
from relay.server.api.answers import HttpRefusal, Item, Slices, encoded, json_answer
from relay.server.api.channels import ApiSettings, bearer, readable

Session = Mapping[str, Any]
"""`provider`, `account`, `required`, `state`, `life`, `reason`, the counters, and everything else of its status."""
Sessions = Callable[[], Iterable[Session]]

#: State of the session machine -> state that is shown.
_SHOWN = {
    "new": "CONNECTING",
    "preparing": "CONNECTING",
    "dialling": "CONNECTING",
    "opening": "CONNECTING",
    "up": "CONNECTED",
    "waiting": "RECONNECTING",
    "idle": "IDLE",
    "failed": "FAILED",
    "ended": "DISCONNECTED",
}
CONNECTED = "CONNECTED"
#: Not connected because there are no subscribers; the first one makes it connect.
IDLE = "IDLE"
STATES = tuple(dict.fromkeys(_SHOWN.values()))
#: States of a session whose streams have no data.
_LOST = ("RECONNECTING", "FAILED")
#: Seconds for which the number of stale streams is used again.
_COUNTED_EVERY = 1.0


def shown(status: Mapping[str, Any]) -> Session:
    """Return a session's ``status()`` as it is shown: with the state's public name and the counters inlined.

    ``required`` defaults to False.
    """
    life = status["state"]
    counters = status.get("counters", {})
    rest = {name: value for name, value in status.items() if name != "counters"}
    return {"required": False, **rest, **counters, "life": life, "state": _SHOWN.get(life, life)}


def as_seen_by(session: Session, key: ApiKey | None) -> Session:
    """Return the part of a session's status that the key's holder, or a client without a key, may see.

    Without the right to read its account, that is the session's state, without details that may reveal something about the
    account.
    """
    provider, account = session["provider"], session.get("account")
    if key is not None and (key.may_read_account(provider, account) if account else key.may_read_all(provider)):
        return session
    hidden = ("samples",) if account is None else ("samples", "connections")
    seen = {name: value for name, value in session.items() if name not in hidden}
    return seen if account is None else {**seen, "account": None, "reason": None, "topics": {}}


def _may_know(stream: Stream | None, key: ApiKey | None) -> bool:
    assert stream is not None
    return stream.topic.kind != "account" if key is None else key.may_read(stream)


def _may_know_channel(name: str, key: ApiKey | None) -> bool:
    try:
        return key is not None and key.may_read(parse_channel(name))
    except ChannelError:
        return key is not None and not channel_type(name).authorized


def not_ready(sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """Return the required sessions that are not connected and not IDLE. The status page has the reasons."""
    return [
        {name: session.get(name) for name in ("provider", "state")}
        for session in sessions
        if session["required"] and session["state"] not in (CONNECTED, IDLE)
    ]


# Endpoints -----------------------------------------------------------------------------------------------------------


def _nodes(cluster: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the relays of a cluster in order of their names, with the providers that each owns."""
    known = ("role", "state", "connections", "seen_at")
    return [
        {"name": name, "providers": node["owns"], **{member: node[member] for member in known if member in node}}
        for name, node in sorted(cluster["nodes"].items())
    ]


@frozen
class Page:
    """The requested part of a list, by ``limit`` and ``offset``; all of it by default."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, request: Request) -> "Page":
        """Return the page of a request. Raises 400 if a value is not a number."""
        asked = {name: request.query_params.get(name) for name in ("limit", "offset")}
        for name, text in asked.items():
            if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
                raise HttpRefusal(400, f"{name}: must be a whole number, not {text!r:.64}", field=name)
        limit, offset = asked["limit"], asked["offset"]
        return cls(None if limit is None else int(limit), int(offset or 0))

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items on this page."""
        return items[self.offset : None if self.limit is None else self.offset + self.limit]


class Status:
    """Endpoints for health and status. All callables return the current state."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        keys: KeyRing,
        app: Callable[[str], App | None],
        sessions: Sessions,
        catalog: Callable[[], Iterable[CatalogEntry]],
        hub: Hub,
        store: Callable[[], Mapping[str, Any]],
        commands: Callable[[], Mapping[str, Any]],
        slices: Slices,
        pay: Callable[[str, int], bool],
        clock: Callable[[], float],
    ) -> None:
        """Create the endpoints. ``pay(caller, items)`` charges for an answer about so many things; False refuses it."""
        self._settings = settings
        self._keys = keys
        self._find_app = app
        self._sessions = sessions
        self._catalog = catalog
        self._hub = hub
        self._store = store
        self._commands = commands
        self._slices = slices
        self._pay = pay
        self._clock = clock
        #: The streams that are unusable, by provider and kind, and when they were counted.
        self._stale: Counter[tuple[str, str]] = Counter()
        self._counted_at = -inf

    async def health(self, request: Request) -> Response:
        """Answer GET /healthz: the process is up."""
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Answer GET /readyz: 200 if all required sessions are connected and the store works, else 503 with the failures.

        ``unusable`` lists, in both answers, the other lost sessions and the number of stale streams by kind: they do not
            make
        the relay unready, because one quiet market is no reason to move clients to another relay.
        """
        sessions = list(self._sessions())
        waiting, available = not_ready(sessions), self._store()["available"]
        lost = [session for session in sessions if not session["required"] and session["state"] in _LOST]
        unusable: list[dict[str, Any]] = [{name: each[name] for name in ("provider", "state")} for each in lost]
        for (provider, kind), count in sorted((await self._stale_streams()).items()):
            unusable.append({"provider": provider, "kind": kind, "streams": count})
        about = {"unusable": unusable} if unusable else {}
        if not waiting and available:
            return json_answer({"status": "ready", **about})
        store = {} if available else {"store": "unavailable"}  # the reason names files, and this page is public
        return json_answer({"status": "not ready", "waiting": waiting, **store, **about}, 503)

    async def _stale_streams(self) -> Mapping[tuple[str, str], int]:
        """Return the number of stale streams; counted at most once a second, because the endpoint is public."""
        if self._clock() >= self._counted_at + _COUNTED_EVERY:
            self._counted_at = self._clock()
            stale: Counter[tuple[str, str]] = Counter()

            def count(topic: TopicState) -> None:
                if not topic.usable and topic.stream is not None:
                    stale[topic.stream.provider, topic.kind] += 1

            await self._slices.map(count, self._hub.streams())
            self._stale = stale
        return self._stale

    async def status(self, request: Request) -> Response:
        """Answer GET /api/v2/status, the data of the dashboard; of streams and channels those of a `Page`."""
        page = Page.of(request)
        key = self.charged(request)
        # Both at one moment, so that their numbers of published events are of the same events.
        sessions, totals = list(self._sessions()), self._hub.totals()
        app = self._find_app(self._settings.app_id)
        entries = list(self._catalog())
        quotes = await self._slices.map(encoded, _quotes(entries if key is None else readable(entries, key)))
        store = self._store()
        return json_answer(
            {
                "version": self._settings.version,
                "app_key": app.key if app else None,
                **({"demo_api_key": self._settings.demo_api_key} if self._gives_demo_key(request) else {}),
                "ready": not not_ready(sessions) and store["available"],
                "store": store if key is not None else {"available": store["available"]},
                **({"nodes": _nodes(store["cluster"])} if key is not None and "cluster" in store else {}),
                "commands": self._commands(),
                "sessions": [as_seen_by(session, key) for session in sessions],
                "quotes": quotes,
                "hub": {**totals, **await self._hub_as_seen_by(key, page)},
            }
        )

    async def _hub_as_seen_by(self, key: ApiKey | None, page: "Page") -> Mapping[str, Any]:
        """Return the hub's state with the streams and channels that the key's holder, or a client without a key, may see.

        Of an app's own channels only the public ones are listed. Without a key ``channels`` is their number.
        ``other_channels`` is the number of those that are not listed.
        """
        known = await self._slices.filter(lambda topic: _may_know(topic.stream, key), self._hub.streams())
        streams = await self._slices.map(lambda topic: encoded(topic.status()), page.part(known))
        apps = {}
        for id, channels in self._hub.occupied_channels().items():
            may_know = await self._slices.filter(lambda channel: _may_know_channel(channel.name, key), channels)
            named = await self._slices.map(
                lambda channel: (channel.name, encoded(channel.status())), page.part(may_know)
            )
            count = len(channels)
            about = {"channels": count if key is None else dict(named), "other_channels": count - len(may_know)}
            apps[id] = {**self._hub.app_totals(id), **about}
        return {"apps": apps, "streams": streams, "total_streams": len(known)}

    def _gives_demo_key(self, request: Request) -> bool:
        """Return True for the demo's dashboard; a page of another origin does not get the key that trades."""
        own = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
        return (
            self._settings.demo_api_key is not None
            and request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
            and request.headers.get("origin", own).lower() == own.lower()
        )

    def charged(self, request: Request) -> ApiKey | None:
        """Charge the caller for one request; return its API key, if any."""
        key = self._key(request)
        host = request.client.host if request.client is not None else ""
        caller = f"key {key.name}" if key is not None else f"address {network_of(host) or host}"
        channels = sum(map(len, self._hub.occupied_channels().values()))
        if not self._pay(caller, len(self._hub.streams()) + channels):
            raise HttpRefusal(429, "too many requests (limit costs.api_rate)", headers={"Retry-After": "1"})
        return key

    def _key(self, request: Request) -> ApiKey | None:
        """Return the API key that is presented; none is needed where status and metrics are public."""
        if self._settings.status_public and "authorization" not in request.headers:
            return None
        return bearer(request, self._keys)


def _quotes(entries: Iterable[CatalogEntry]) -> Iterable[dict[str, Any]]:
    """Yield the known symbols of every provider with public market data, and the kinds of its market streams."""
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
