"""The /metrics endpoint, in Prometheus' text format.

Almost all metrics are collected on request from existing state. So they cost nothing for each message, and cannot differ
from the status page. Only durations are counted when they occur, see `relay.histogram`.

Label values are fixed or come from the configuration, never from clients.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from attrs import Factory, frozen
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey
from relay.histogram import Histogram
from relay.hub.hub import Hub
from relay.hub.outbox import Outbox, Policy
from relay.hub.topic import Channel, TopicState
from relay.model.text import to_ns
from relay.server.api.answers import Slices
from relay.server.api.health import STATES, Session, as_seen_by

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


#: Objects of a session's status with a number for each name: key there, name here, help, label.
_SESSION_PARTS = (
    ("topics", "tickrelay_session_topics", "Topics by the state of their subscription at the provider.", "state"),
    (
        "budget",
        "tickrelay_session_budget_remaining",
        "Requests that the provider's rate limits allow at once now.",
        "of",
    ),
    (
        "budget_limits",
        "tickrelay_session_budget_limit",
        "Most requests that the provider's rate limits allow at once.",
        "of",
    ),
)

#: Counters that are there before their first count, so that Prometheus sees it as an increase.
_COMMAND_NOTES = dict.fromkeys(
    ("accepted", "rejected", "unknown", "repeated", "conflict", "full", "unstorable", "resolved", "late_reply"), 0
)
_SESSION_NOTES = ("found_by_audit", "audit_failed", "rate_limited")

#: Counts of log lines: name, help.
_LOG_COUNTS = {
    "lost": "Log lines that could not be written.",
    "withheld": "Repeated log lines that were not written.",
}


@frozen(kw_only=True)
class Measured:
    """The durations and counters that are updated when they occur; the live objects, not copies."""

    publish_to_write: Histogram = Factory(Histogram)
    """See `relay.server.fastpath.writer.BatchWriter`."""
    upstream_to_write: Histogram = Factory(Histogram)
    """The same."""
    loop_delay: Histogram = Factory(Histogram)
    """Seconds by which a timer of the relay was late."""
    command_durations: Mapping[tuple[str, str], Histogram] = Factory(dict)
    """See `relay.trading.registry.CommandRegistry`."""
    store_durations: Histogram | None = None
    """See `relay.store.interface.Store`."""
    round_trips: Histogram | None = None
    """Of requests to Redis."""
    slow: Collection[Outbox] = ()
    """Outboxes of subscribers whose sockets do not take more now."""
    closed_slow: Mapping[str, int] = Factory(dict)
    """Subscribers that were closed for that, by reason."""
    plugins: Collection[str] = ()
    """Names of the plugins."""
    plugin_failures: Mapping[str, int] = Factory(dict)
    """Exceptions, by plugin."""
    service_counts: Callable[[], Mapping[tuple[str, str, str], float]] = dict
    """Returns the counters of plugins' services, by (service, of, what); see `relay.plugins.Service`."""
    service_levels: Callable[[], Mapping[tuple[str, str, str], float]] = dict
    """The same for gauges."""
    log_counts: Callable[[], Mapping[str, int]] = dict
    """Returns the counts of log lines that were not written."""


class Metrics:
    """The endpoint."""

    def __init__(
        self,
        hub: Hub,
        registry: CollectorRegistry,
        collector: "RelayCollector",
        slices: Slices,
        charged: Callable[[Request], ApiKey | None],
    ) -> None:
        """Create the endpoint. ``charged`` charges the sender and returns the API key; see
        `relay.server.api.health.Status`.
        """
        self._hub = hub
        self._registry = registry
        self._collector = collector
        self._slices = slices
        self._charged = charged
        registry.register(collector)
        ProcessCollector(registry=registry)

    async def endpoint(self, request: Request) -> Response:
        """Answer GET /metrics."""
        key = self._charged(request)
        counts = HubCounts()
        await self._slices.map(counts.add_stream, self._hub.streams())
        for app_id, channels in self._hub.occupied_channels().items():
            await self._slices.map(partial(counts.add_channel, app_id), channels)
        with self._collector.seen_by(key, counts):
            text = generate_latest(self._registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class RelayCollector(Collector):
    """Metrics of the hub, the sessions' status, commands, the store, and what was measured."""

    def __init__(
        self,
        version: str,
        hub: Hub,
        sessions: Callable[[], Iterable[Session]],
        store: Callable[[], Mapping[str, Any]],
        commands: Callable[[], Mapping[str, Any]],
        measured: Measured,
    ) -> None:
        self._version = version
        self._hub = hub
        self._sessions = sessions
        self._store = store
        self._commands = commands
        self._measured = measured
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
        yield from _measured_metrics(self._measured)


def _command_metrics(commands: dict[str, Any]) -> Iterator[Metric]:
    yield _gauge("tickrelay_commands_open", "Commands without a reply.", {(): commands.pop("open", 0)})
    yield _gauge("tickrelay_commands_remembered", "Replies remembered.", {(): commands.pop("remembered", 0)})
    counts = {(note,): count for note, count in (_COMMAND_NOTES | commands).items()}
    yield _counter("tickrelay_commands", "Replies by outcome, repetitions and refusals.", counts, "what")


def _store_metrics(store: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("tickrelay_store_available", "1 while the store can be written.", {(): float(store["available"])})
    yield _gauge("tickrelay_store_waiting", "Rows whose acknowledgement is waited for.", {(): store["waiting"]})
    about = "Age of the oldest row whose acknowledgement is waited for."
    yield _gauge("tickrelay_store_behind_seconds", about, {(): store.get("behind", 0.0)})
    if "kept_bytes" in store:
        yield _gauge("tickrelay_store_kept_bytes", "Bytes of events in the store.", {(): store["kept_bytes"]})
    if "cluster" in store:
        yield from _cluster_metrics(store["cluster"])
    for name in ("transactions", "rows", "failures"):
        yield _counter(f"tickrelay_store_{name}", f"{name.capitalize()} of the store.", {(): store.get(name, 0)})


def _cluster_metrics(cluster: Mapping[str, Any]) -> Iterator[Metric]:
    providers = cluster["providers"]
    owned = {(each["provider"],): float(each["owns"]) for each in providers}
    yield _gauge("tickrelay_cluster_owner", "1 while this relay holds the provider's session.", owned, "provider")
    waiting = {
        (each["provider"],): sum(count for name, count in each.items() if name.endswith("_waiting"))
        for each in providers
    }
    yield _gauge("tickrelay_cluster_waiting", "Entries that wait to be written to Redis.", waiting, "provider")
    yield _gauge("tickrelay_cluster_nodes", "Relays that live, as this one sees it.", {(): len(cluster["nodes"])})
    silent = sum(node["state"] == "SILENT" for node in cluster["nodes"].values())
    yield _gauge(
        "tickrelay_cluster_silent_nodes",
        "Relays of the cluster without a sign of life for a lease and a second.",
        {(): silent},
    )
    fences = {(each["provider"],): float(each["fence"]) for each in providers if each["owns"]}
    yield _gauge("tickrelay_cluster_fence", "Fence of the lease, which grows with each takeover.", fences, "provider")
    left = {(each["provider"],): each["lease_left"] for each in providers if each["owns"]}
    about = "Seconds until this relay must stop using the provider's sessions unless its lease is renewed."
    yield _gauge("tickrelay_cluster_lease_left_seconds", about, left, "provider")
    suspected = {(each["provider"],): float(bool(each["suspected"])) for each in providers}
    about = "1 while this relay does not know whether the provider's data are fresh."
    yield _gauge("tickrelay_cluster_suspected", about, suspected, "provider")
    behind = {
        (each["provider"],): float(lag) for each in providers if (lag := batches_behind(cluster, each)) is not None
    }
    yield _gauge("tickrelay_cluster_behind", "Batches of the log that this relay has not read.", behind, "provider")
    loads = {(each["provider"],): float(each["loads"]) for each in providers}
    about = "Times that a provider's present state was loaded: at the start, and where batches were missed."
    yield _counter("tickrelay_cluster_loads", about, loads, "provider")


def batches_behind(cluster: Mapping[str, Any], provider: Mapping[str, Any]) -> int | None:
    """Return how far this node is behind a provider's owner, as far as that has told; None if it is of another owner."""
    ahead = cluster["nodes"].get(provider["owner"], {}).get("read", {}).get(provider["provider"])
    if ahead is None or ahead[0] != provider["positions"]["market"][0]:
        return None
    behind: int = ahead[1] - provider["positions"]["market"][1]
    return max(0, behind)


def _measured_metrics(measured: Measured) -> Iterator[Metric]:
    about = "From the publication of the first event of a write to the end of the write, by subscriber written to."
    yield _histogram("tickrelay_publish_to_write_seconds", about, {(): measured.publish_to_write})
    about = "From reading a provider's message to the end of the write of its events, by subscriber written to."
    yield _histogram("tickrelay_upstream_to_write_seconds", about, {(): measured.upstream_to_write})
    about = "Time by which a timer of the relay was late: how long everything waits for its turn."
    yield _histogram("tickrelay_loop_delay_seconds", about, {(): measured.loop_delay})
    about = "From taking a command to its reply."
    name = "tickrelay_command_duration_seconds"
    yield _histogram(name, about, measured.command_durations, "provider", "outcome")
    if measured.round_trips is not None:
        about = "From a request to Redis to its answer."
        yield _histogram("tickrelay_cluster_round_trip_seconds", about, {(): measured.round_trips})
    if measured.store_durations is not None:
        about = "From giving a row to the store to its acknowledgement, which means that it is on disk."
        yield _histogram("tickrelay_store_write_seconds", about, {(): measured.store_durations})
    waiting = [outbox.waiting for outbox in measured.slow]
    yield _gauge("tickrelay_subscribers_slow", "Subscribers whose sockets do not take more now.", {(): len(waiting)})
    about = "Messages that wait for slow subscribers."
    yield _gauge("tickrelay_outbox_messages", about, {(): sum(messages for messages, _ in waiting)})
    about = "Bytes that wait for slow subscribers."
    yield _gauge("tickrelay_outbox_bytes", about, {(): sum(size for _, size in waiting)})
    about = "Part of its limits that the fullest outbox takes, 0 to 1."
    yield _gauge("tickrelay_outbox_fill_ratio", about, {(): max((each.fill for each in measured.slow), default=0.0)})
    about = "Subscribers closed because their outbox was full, or because their socket took no byte (stalled)."
    closed = {(reason,): count for reason, count in measured.closed_slow.items()}
    yield _counter("tickrelay_subscribers_closed_slow", about, closed, "reason")
    failures = {(plugin,): 0.0 for plugin in measured.plugins}
    failures |= {(plugin,): count for plugin, count in measured.plugin_failures.items()}
    yield _counter("tickrelay_plugin_failures", "Exceptions of plugins.", failures, "plugin")
    of_service, about = ("service", "of", "what"), "Counters of the services of plugins."
    yield _counter("tickrelay_service_counts", about, measured.service_counts(), *of_service)
    yield _gauge(
        "tickrelay_service_level",
        "Gauges of the services of plugins, such as queue lengths.",
        measured.service_levels(),
        *of_service,
    )
    for name, count in measured.log_counts().items():
        yield _counter(f"tickrelay_log_lines_{name}", _LOG_COUNTS[name], {(): count})


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
    yield _last_events(sessions)
    about = "Requests and frames that wait for the provider's rate limits."
    yield _gauge("tickrelay_session_queued", about, _of_sessions(sessions, "queued"), *_OF_SESSION)
    for key, name, about, label in _SESSION_PARTS:
        yield _gauge(name, about, _parts(sessions, key), *_OF_SESSION, label)
    about = "Oddities that are neither events nor losses."
    notes = _parts(sessions, "notes")
    for session in sessions:
        notes.update({(*_labels(session), note): 0 for note in _SESSION_NOTES})
    yield _counter("tickrelay_session_notes", about, notes, *_OF_SESSION, "note")


def _last_events(sessions: list[Session]) -> Metric:
    """Return when each session last had an event; Prometheus computes its age, as ``time()`` less this."""
    newest: dict[Any, float] = {}
    for session in sessions:
        if session.get("last_event_at"):
            at = to_ns(session["last_event_at"]) / 1e9
            newest[_labels(session)] = max(at, newest.get(_labels(session), 0.0))
    about = "Unix time at which the last event of the provider was read."
    return _gauge("tickrelay_session_last_event_timestamp_seconds", about, newest, *_OF_SESSION)


def _of_sessions(sessions: list[Session], key: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for session in sessions:
        found[_labels(session)] += session.get(key, 0)
    return found


def _parts(sessions: list[Session], key: str) -> Counter[Any]:
    """Return the numbers in this object of each session, by its members' names."""
    found: Counter[Any] = Counter()
    for session in sessions:
        parts = session.get(key, {})
        found.update({(*_labels(session), name): part for name, part in parts.items() if isinstance(part, int)})
    return found


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
    dropped = dict.fromkeys([(each.value,) for each in (Policy.CONFLATE, Policy.GAP, Policy.SNAPSHOT)], 0.0)
    dropped |= {(policy,): count for policy, count in totals["dropped"].items()}
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


def _histogram(name: str, about: str, values: Mapping[Any, Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for of, histogram in values.items():
        family.add_metric(of, histogram.buckets(), histogram.total)
    return family


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
