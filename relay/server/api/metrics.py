"""The relay's figures for Prometheus, collected when they are asked for from the state that is kept anyway.

Nothing is counted here, so nothing is paid for on the path of a message, and the status page and the metrics cannot differ.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.server.api.sessions import STATES, Session

Labels = tuple[str, str]
Values = Mapping[Any, float]
"""By label values, a tuple of texts as long as there are labels."""

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


class RelayCollector(Collector):
    """Reads `Hub.snapshot` and the sessions' status."""

    def __init__(
        self, version: str, hub: Callable[[], Mapping[str, Any]], sessions: Callable[[], Iterable[Session]]
    ) -> None:
        self._version = version
        self._hub = hub
        self._sessions = sessions

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what there is depends on what happened."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All figures of this moment."""
        yield _gauge("tickrelay_info", "The relay's version.", {(self._version,): 1}, "version")
        yield from _session_metrics(list(self._sessions()))
        yield from _hub_metrics(self._hub())


def _session_metrics(sessions: list[Session]) -> Iterator[Metric]:
    states = {(*_labels(session), state): float(session["state"] == state) for session in sessions for state in STATES}
    yield _gauge("tickrelay_session_state", "1 for the state the session is in.", states, *_OF_SESSION, "state")
    dropped = {
        (*_labels(session), reason): count
        for session in sessions
        for reason, count in session.get("dropped", {}).items()
    }
    yield _counter("tickrelay_session_dropped", "Events not published, by reason.", dropped, *_OF_SESSION, "reason")
    for key, name, about in _SESSION_COUNTERS:
        counts = {_labels(session): session[key] for session in sessions if key in session}
        yield _counter(name, about, counts, *_OF_SESSION)


def _labels(session: Session) -> tuple[str, str]:
    return str(session["provider"]), str(session.get("account") or "")


def _hub_metrics(hub: Mapping[str, Any]) -> Iterator[Metric]:
    kinds = {(kind,): count for kind, count in hub["published"].items()}
    yield _counter("tickrelay_events_published", "Events published, by kind.", kinds, "kind")
    yield _counter("tickrelay_events_unrouted", "Events that belonged to no channel.", {(): hub["unrouted"]})
    dropped = {(policy,): count for policy, count in hub["dropped"].items()}
    about = "Deliveries that slow subscribers did not get as they were, by policy."
    yield _counter("tickrelay_deliveries_dropped", about, dropped, "policy")
    subscribers, streams = _by_stream(hub["streams"])
    yield _gauge("tickrelay_stream_subscribers", "Subscriptions to streams.", subscribers, "provider", "kind")
    yield _gauge("tickrelay_streams", "Streams that are kept.", streams, "provider", "kind")
    apps = hub["apps"]
    connections = {(id,): app["connections"] for id, app in apps.items()}
    yield _gauge("tickrelay_connections", "Open connections.", connections, "app")
    channels = {(id,): len(app["channels"]) for id, app in apps.items()}
    yield _gauge("tickrelay_channels", "Occupied channels.", channels, "app")
    subscriptions = {(id,): _subscriptions(app["channels"].values()) for id, app in apps.items()}
    yield _gauge("tickrelay_subscriptions", "Subscriptions to channels.", subscriptions, "app")
    users = {(id,): app["users"] for id, app in apps.items()}
    yield _gauge("tickrelay_users", "Users signed in.", users, "app")


def _subscriptions(channels: Iterable[Mapping[str, Any]]) -> int:
    return sum(channel["subscribers"] for channel in channels)


def _by_stream(streams: Iterable[Mapping[str, Any]]) -> tuple[Counter[Labels], Counter[Labels]]:
    subscribers: Counter[Labels] = Counter()
    kept: Counter[Labels] = Counter()
    for stream in streams:
        labels = (stream["provider"], stream["kind"])
        subscribers[labels] += stream["subscribers"]
        kept[labels] += 1
    return subscribers, kept


def _gauge(name: str, about: str, values: Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def _counter(name: str, about: str, values: Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
