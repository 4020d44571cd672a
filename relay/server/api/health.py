"""Answer whether the relay is alive and ready, with its status as JSON for the dashboard and metrics for Prometheus.

`/healthz` and `/readyz` are public and brief. Status and metrics need an API key unless they are configured as public. They
name an account, and what may tell of it (reasons, topics, samples of messages), only to API keys that may read it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from attrs import frozen
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey, KeyRing
from relay.hub.hub import Hub
from relay.hub.topic import Channel, TopicState
from relay.model.channels import ALL, ChannelError, Stream, channel_name, parse_channel
from relay.model.events import MARKET_KINDS
from relay.provider.catalog import CatalogEntry
from relay.pusher.apps import App
from relay.pusher.names import channel_type
from relay.server.admission import network_of
from relay.server.api.answers import HttpRefusal, Item, Slices, encoded, json_answer
from relay.server.api.channels import bearer, readable
from relay.server.api.settings import ApiSettings

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
#: Not connected because nobody wants anything: it connects when somebody does.
IDLE = "IDLE"
STATES = tuple(dict.fromkeys(_SHOWN.values()))


def shown(status: Mapping[str, Any]) -> Session:
    """Return a session's ``status()`` as it is shown: with the state's public name and the counters inlined.

    ``required`` defaults to False.
    """
    life = status["state"]
    counters = status.get("counters", {})
    rest = {name: value for name, value in status.items() if name != "counters"}
    return {"required": False, **rest, **counters, "life": life, "state": _SHOWN.get(life, life)}


def as_seen_by(session: Session, key: ApiKey | None) -> Session:
    """Return the session as the key's holder, or a stranger, may see it.

    Who may not read its account sees that there is a session and how it is, and nothing that may tell of the account.
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
    """Return the required sessions that are not connected although somebody wants data; the status tells the reasons."""
    return [
        {name: session.get(name) for name in ("provider", "state")}
        for session in sessions
        if session["required"] and session["state"] not in (CONNECTED, IDLE)
    ]


# Endpoints -----------------------------------------------------------------------------------------------------------


@frozen
class Page:
    """The part of a list that a request asks for by ``limit`` and ``offset``; all of it by default."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, request: Request) -> "Page":
        """Return the page of a request. Raises 400 where a value is no number."""
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
    """Endpoints for health, status and metrics. All callables return the current state."""

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
        registry: CollectorRegistry,
        collector: "RelayCollector",
        slices: Slices,
        pay: Callable[[str, int], bool],
    ) -> None:
        """``pay(caller, items)`` charges for an answer about so many things; False where too much was asked for."""
        self._settings = settings
        self._keys = keys
        self._find_app = app
        self._sessions = sessions
        self._catalog = catalog
        self._hub = hub
        self._store = store
        self._commands = commands
        self._registry = registry
        self._collector = collector
        self._slices = slices
        self._pay = pay

    async def health(self, request: Request) -> Response:
        """Answer GET /healthz: the process is up."""
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Answer GET /readyz: 200 if every required session is connected and the store works, else 503 with what is not."""
        waiting, available = not_ready(self._sessions()), self._store()["available"]
        if waiting or not available:
            about = {} if available else {"store": "unavailable"}  # the reason names files, and this page is public
            return json_answer({"status": "not ready", "waiting": waiting, **about}, 503)
        return json_answer({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus' text format."""
        key = self._charged(request)
        counts = HubCounts()
        await self._slices.map(counts.add_stream, self._hub.streams())
        for app_id, channels in self._hub.occupied_channels().items():
            await self._slices.map(partial(counts.add_channel, app_id), channels)
        with self._collector.seen_by(key, counts):
            text = generate_latest(self._registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(self, request: Request) -> Response:
        """Answer GET /api/v2/status, the data of the dashboard; of streams and channels those of a `Page`."""
        page = Page.of(request)
        key = self._charged(request)
        app, sessions = self._find_app(self._settings.app_id), list(self._sessions())
        entries = list(self._catalog())
        quotes = await self._slices.map(encoded, _quotes(entries if key is None else readable(entries, key)))
        return json_answer(
            {
                "version": self._settings.version,
                "app_key": app.key if app else None,
                **({"demo_api_key": self._settings.demo_api_key} if self._gives_demo_key(request) else {}),
                "ready": not not_ready(sessions) and self._store()["available"],
                "store": self._store() if key is not None else {"available": self._store()["available"]},
                "commands": self._commands(),
                "sessions": [as_seen_by(session, key) for session in sessions],
                "quotes": quotes,
                "hub": await self._hub_as_seen_by(key, page),
            }
        )

    async def _hub_as_seen_by(self, key: ApiKey | None, page: "Page") -> Mapping[str, Any]:
        """Return the hub's state with the streams and channels that the key's holder, or a stranger, may know of.

        Of an app's own channels only the public ones are named. ``channels`` is their number where nobody presents a key,
        ``other_channels`` the number of those that are not named.
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
        return {**self._hub.totals(), "apps": apps, "streams": streams, "total_streams": len(known)}

    def _gives_demo_key(self, request: Request) -> bool:
        """Return True for the demo's dashboard; a page of another origin does not get the key that trades."""
        own = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
        return (
            self._settings.demo_api_key is not None
            and request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
            and request.headers.get("origin", own).lower() == own.lower()
        )

    def _charged(self, request: Request) -> ApiKey | None:
        """Charge whoever asks for everything that is counted; return the API key that is presented, if any."""
        key = self._key(request)
        host = request.client.host if request.client is not None else ""
        caller = f"key {key.name}" if key is not None else f"address {network_of(host) or host}"
        channels = sum(map(len, self._hub.occupied_channels().values()))
        if not self._pay(caller, len(self._hub.streams()) + channels):
            raise HttpRefusal(
                429, "more was asked for than allowed (limit costs.api_rate)", headers={"Retry-After": "1"}
            )
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


# Metrics -------------------------------------------------------------------------------------------------------------

Labels = tuple[str, str]
Values = Mapping[Any, float]
"""Values by their labels' values, a tuple with one text per label."""

_OF_SESSION = ("provider", "account")

#: Counters of a session: name there, name here, help.
_SESSION_COUNTERS = (
    ("messages", "tickrelay_session_messages", "Messages and HTTP answers read from the provider."),
    ("received", "tickrelay_session_received", "Events, and parts not understood, that the adapter made of them."),
    ("published", "tickrelay_session_published", "Events of the provider that were published."),
    ("deduped", "tickrelay_session_deduped", "Events that had been published before."),
    ("unknown", "tickrelay_session_unknown", "Messages and parts of messages that were not understood."),
    ("raised", "tickrelay_session_raised", "Events about the session, by the relay itself."),
    ("reconnects", "tickrelay_session_reconnects", "Connections after the first."),
)


#: Counts of log lines: name, help.
_LOG_COUNTS = {
    "lost": "Log lines that could not be written.",
    "withheld": "Repeated log lines that were not written.",
}


class RelayCollector(Collector):
    """Metrics of the hub and the sessions' status.

    They are collected on request from state that exists anyway. So they cost nothing on the path of a message, and cannot
    differ from the status page.
    """

    def __init__(
        self,
        version: str,
        hub: Hub,
        sessions: Callable[[], Iterable[Session]],
        store: Callable[[], Mapping[str, Any]],
        commands: Callable[[], Mapping[str, Any]],
        log_counts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._version = version
        self._hub = hub
        self._sessions = sessions
        self._store = store
        self._commands = commands
        self._log_counts = log_counts
        self._key: ApiKey | None = None
        self._counts: HubCounts | None = None

    @contextmanager
    def seen_by(self, key: ApiKey | None, counts: "HubCounts") -> Iterator[None]:
        """Collect what the holder of this key may see, for the length of the block, which must not await.

        `counts` are those of the hub, which take long; without them they are counted at once.
        """
        self._key, self._counts = key, counts
        try:
            yield
        finally:
            self._key = self._counts = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the label values are not known in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield _gauge("tickrelay_info", "The relay's version.", {(self._version,): 1}, "version")
        yield from _session_metrics([as_seen_by(session, self._key) for session in self._sessions()])
        yield from _hub_metrics(self._hub, self._counts or HubCounts.of(self._hub))
        yield from _command_metrics(dict(self._commands()))
        yield from _store_metrics(self._store())
        for name, count in self._log_counts().items():
            yield _counter(f"tickrelay_log_lines_{name}", _LOG_COUNTS[name], {(): count})


def _command_metrics(commands: dict[str, Any]) -> Iterator[Metric]:
    yield _gauge("tickrelay_commands_open", "Commands without a reply.", {(): commands.pop("open", 0)})
    yield _gauge("tickrelay_commands_remembered", "Replies remembered.", {(): commands.pop("remembered", 0)})
    counts = {(note,): count for note, count in commands.items()}
    yield _counter("tickrelay_commands", "Replies by outcome, repetitions and refusals.", counts, "what")


def _store_metrics(store: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("tickrelay_store_available", "1 while the store can be written.", {(): float(store["available"])})
    yield _gauge("tickrelay_store_waiting", "Rows whose acknowledgement is waited for.", {(): store["waiting"]})
    for name in ("transactions", "rows", "failures"):
        yield _counter(f"tickrelay_store_{name}", f"{name.capitalize()} of the store.", {(): store.get(name, 0)})


def _session_metrics(sessions: list[Session]) -> Iterator[Metric]:
    # Sessions whose accounts are not named share their labels: their figures are added up.
    states: Counter[Any] = Counter()
    dropped: Counter[Any] = Counter()
    for session in sessions:
        states.update({(*_labels(session), state): float(session["state"] == state) for state in STATES})
        dropped.update({(*_labels(session), reason): count for reason, count in session.get("dropped", {}).items()})
    yield _gauge("tickrelay_session_state", "1 for the state the session is in.", states, *_OF_SESSION, "state")
    yield _counter("tickrelay_session_dropped", "Events not published, by reason.", dropped, *_OF_SESSION, "reason")
    for key, name, about in _SESSION_COUNTERS:
        counts: Counter[Any] = Counter()
        for session in sessions:
            if key in session:
                counts[_labels(session)] += session[key]
        yield _counter(name, about, counts, *_OF_SESSION)


def _labels(session: Session) -> tuple[str, str]:
    return str(session["provider"]), str(session.get("account") or "")


class HubCounts:
    """Streams by provider and kind, channels by app: the metrics that every stream and channel has to be looked at for."""

    def __init__(self) -> None:
        self.subscribers: Counter[Labels] = Counter()
        """Subscriptions to streams."""
        self.streams: Counter[Labels] = Counter()
        self.unusable: Counter[Labels] = Counter()
        self.channels: Counter[tuple[str]] = Counter()
        """Occupied channels."""
        self.subscriptions: Counter[tuple[str]] = Counter()
        """Subscriptions to channels."""

    @classmethod
    def of(cls, hub: Hub) -> "HubCounts":
        """Count all at once."""
        counts = cls()
        for topic in hub.streams():
            counts.add_stream(topic)
        for app_id, channels in hub.occupied_channels().items():
            for channel in channels:
                counts.add_channel(app_id, channel)
        return counts

    def add_stream(self, topic: TopicState) -> None:
        """Count a stream's topic."""
        assert topic.stream is not None
        labels = topic.stream.provider, topic.kind
        self.subscribers[labels] += sum(map(len, topic.channels))
        self.streams[labels] += 1
        self.unusable[labels] += not topic.usable

    def add_channel(self, app_id: str, channel: Channel) -> None:
        """Count an app's channel."""
        self.channels[app_id,] += 1
        self.subscriptions[app_id,] += len(channel)


def _hub_metrics(hub: Hub, counts: HubCounts) -> Iterator[Metric]:
    totals = hub.totals()
    kinds = {(kind,): count for kind, count in totals["published"].items()}
    yield _counter("tickrelay_events_published", "Events published, by kind.", kinds, "kind")
    yield _counter("tickrelay_events_unrouted", "Events that belonged to no channel.", {(): totals["unrouted"]})
    dropped = {(policy,): count for policy, count in totals["dropped"].items()}
    about = "Deliveries that slow subscribers did not get as they were, by policy."
    yield _counter("tickrelay_deliveries_dropped", about, dropped, "policy")
    limits = {
        (limit, action): count for limit, actions in totals["limits"].items() for action, count in actions.items()
    }
    about = "Times a client exceeded a limit, by what was done: slowed (connections), refused (messages), closed."
    yield _counter("tickrelay_limits_exceeded", about, limits, "limit", "action")
    yield _gauge("tickrelay_stream_subscribers", "Subscriptions to streams.", counts.subscribers, "provider", "kind")
    yield _gauge("tickrelay_streams", "Streams that are kept.", counts.streams, "provider", "kind")
    yield _gauge("tickrelay_streams_unusable", "Streams whose data are stale now.", counts.unusable, "provider", "kind")
    apps = {(id,): hub.app_totals(id) for id in hub.occupied_channels()}
    connections = {labels: app["connections"] for labels, app in apps.items()}
    yield _gauge("tickrelay_connections", "Open connections.", connections, "app")
    channels = {labels: counts.channels[labels] for labels in apps}
    yield _gauge("tickrelay_channels", "Occupied channels.", channels, "app")
    subscriptions = {labels: counts.subscriptions[labels] for labels in apps}
    yield _gauge("tickrelay_subscriptions", "Subscriptions to channels.", subscriptions, "app")
    users = {labels: app["users"] for labels, app in apps.items()}
    yield _gauge("tickrelay_users", "Users signed in.", users, "app")


def _gauge(name: str, about: str, values: Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def _counter(name: str, about: str, values: Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
