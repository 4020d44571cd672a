"""Detect dead connections and stale topics by two kinds of timers.

The connection's timer is reset by every byte received, heartbeats included. When it expires, the connection is presumed dead
and the session reconnects. A topic's timer is reset only by that topic's own events. When it expires, the topic is STALE and
the relay resubscribes; the first new event makes it FRESH. Many providers resend the last value after a subscribe. The first
such duplicate does not make a stale topic FRESH. A topic has a timer after its first event only if the provider declared one
for its kind or the operator set one. For all others it is normal that no event comes.

Every topic that has a value (`FIRST_DATA`) also has a timer for its first event. It starts at the subscribe request and
again at the acknowledgement. When it expires, the topic is STALE. This does not trigger a resubscribe, because that would
use rate limit that other topics need.

A closed market does not make a topic stale. If a topic's hours are known, its timer starts when the market opens. If the
markets of all topics are closed and the provider needs no heartbeat of ours, an idle connection is first tested with a
WebSocket ping, which every server answers.

A topic whose subscription the provider rejected is STALE with the provider's reason. Its first event makes it FRESH.

A session that is down for longer than `SETTLES` seconds makes all its topics STALE. Each becomes FRESH with its first event
on the next connection. A topic that may have no event for long (trades, signals, news) becomes FRESH when the provider
confirms its subscription. An account becomes FRESH when its open orders and positions were compared with the provider's
lists.

Topic timers are checked when the earliest could expire. An event only moves an expiry later, so handling a message writes
one attribute and does not search for the minimum.
"""

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType

from attrs import define

from relay.adapter import Session
from relay.limits import BoundedDict
from relay.model.channels import Topic
from relay.model.events import Event
from relay.model.hours import Hours
from relay.provider.subscription_table import Key, topic_key

#: Seconds after which a session that is down makes its topics stale. A shorter outage only causes a gap event.
SETTLES = 0.15
#: Kinds with a last value, which may be old until the next event: a confirmed subscription does not make them fresh.
_WITH_VALUE = frozenset({"quote", "candle", "depth", "reference"})
#: Seconds from a subscription to its first event, by kind, after which the topic is STALE. A provider sends the present
#: quote or book at once after a subscribe, also while the market is closed, and a candle at the end of its bar at the
#: latest. Other kinds, for instance trades and signals, may have no event for long.
FIRST_DATA = {"quote": 30.0, "depth": 30.0, "candle": 60.0, "instrument": 30.0}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_678_400}
#: Least seconds between two checks of all topics, per topic: a few hundred times as long as a check takes.
LOOK_EACH = 50e-6
#: Most stale topics without a subscriber that are remembered.
_LEFT = 10_000


class Transport:
    """The idle timer of one connection, and the schedule of our heartbeats on it.

    Args:
        silent_after: seconds without received data after which the connection is dead.
        every: seconds between our heartbeats; None if we send none.
    """

    def __init__(self, silent_after: float, every: float | None) -> None:
        self._silent_after = silent_after
        self._every = every
        #: Time of the last received data. The message path writes it directly.
        self.heard = -inf
        self._extended_at = -inf
        self._heartbeat_at = inf
        self._open = False

    def opened(self, now: float) -> None:
        """Start the timers: the connection is open."""
        self._open = True
        self.heard = now
        self._heartbeat_at = now + self._every if self._every is not None else inf

    def closed(self) -> None:
        """Stop the timers: the connection is closed."""
        self._open = False

    def silent(self, now: float) -> bool:
        """Return True if the connection must be presumed dead."""
        return self._open and now - max(self.heard, self._extended_at) >= self._silent_after

    def take_extension(self, now: float) -> bool:
        """Grant one extra idle period; return False if we send heartbeats or no data arrived since the last grant."""
        if self._every is not None or self.heard <= self._extended_at:
            return False
        self._extended_at = now
        return True

    def take_heartbeat(self, now: float) -> bool:
        """Return True once when a heartbeat of ours is due, and set the time of the next one."""
        if not self._open or self._every is None or now < self._heartbeat_at:
            return False
        self._heartbeat_at = now + self._every
        return True

    def deadline(self) -> float:
        """Return the time at which `silent` or `take_heartbeat` may return True."""
        heard = max(self.heard, self._extended_at)
        return min(heard + self._silent_after, self._heartbeat_at) if self._open else inf


@define(eq=False)
class Watch:
    """The staleness timer of one topic.

    Attributes:
        last: monotonic start of the timer: the latest of its last event, its subscription and its market's opening.
        after: staleness timeout in seconds after an event; infinite if it has none.
        allowed: timeout in force now, in seconds from ``last``: ``after``, or that of the first event. Infinite if none.
        since_ns: Unix nanoseconds of its last event; None if it had none.
        asked_at: monotonic time of its subscribe request, later of the acknowledgement; -inf while it is not subscribed.
        asked_ns: ``asked_at`` in Unix nanoseconds.
        confirmed: whether ``asked_at`` is the time of the acknowledgement.
        stale: whether the topic is stale.
        session: whether it is stale because the session was down.
        reason: why it is stale, if the provider rejected it or no data came.
        without_data: whether ``reason`` is that no data came since the subscription.
        last_event: its last published event. None once a duplicate of it was dropped, so that the next one is published.
    """

    topic: Topic
    last: float
    after: float
    allowed: float = inf
    since_ns: int | None = None
    asked_at: float = -inf
    asked_ns: int = 0
    confirmed: bool = False
    stale: bool = False
    session: bool = False
    reason: str | None = None
    without_data: bool = False
    last_event: Event | None = None

    @property
    def brought_nothing(self) -> bool:
        """True if no event came since it was subscribed."""
        return self.since_ns is None or self.since_ns < self.asked_ns

    @property
    def runs(self) -> bool:
        """True if the timer is active: the topic is not stale, or it may recover on the present subscription.

        A topic may recover if it is stale because the session was down, or because an earlier subscription was rejected.
        """
        return (
            not self.stale
            or self.session
            or (self.asked_at != -inf and self.reason is not None and not self.without_data)
        )


@define(eq=False)
class Outage:
    """The session is down.

    Attributes:
        reason: why.
        since_ns: start in Unix nanoseconds; None before the first connection.
        due_at: monotonic time at which it is published, unless the session is up again.
        is_published: whether the STALE events were published.
    """

    reason: str
    since_ns: int | None
    due_at: float
    is_published: bool = False

    def take_due(self, now: float) -> bool:
        """Return True once, as soon as the outage has lasted long enough to be published."""
        if self.is_published or now < self.due_at:
            return False
        self.is_published = True
        return True


class Topics:
    """The staleness timers of the topics of one session.

    A topic stays stale over a reconnect, and while it has no subscriber. Its timer stops in both cases.

    Args:
        hours: returns the trading hours of a topic's market; None if they are not known.
        rearm: called when a timer may expire earlier than the last `deadline`.
        after: staleness timeouts in seconds by kind or by topic, instead of the declared ones. 0: no timeout.
        first: seconds from a subscription to its first event. 0: no limit. None: the topic's normal staleness timeout, or
            `FIRST_DATA` if it has none.
    """

    def __init__(
        self,
        session: Session,
        hours: Callable[[Topic], Hours | None] = lambda topic: None,
        rearm: Callable[[], object] = lambda: None,
        after: Mapping[str | Topic, float] = MappingProxyType({}),
        first: float | None = None,
    ) -> None:
        self._first: float | None = first
        self._after: dict[str | Topic, float] = {**dict[str | Topic, float](session.stale_after.items()), **after}
        self._hours = hours
        self._rearm = rearm
        self._watches: dict[Key, Watch] = {}
        self._left_stale: BoundedDict[Key, Watch] = BoundedDict(_LEFT)
        self._check_at = inf
        #: The present outage; None while the session is up, and before the first attempt has failed.
        self.outage: Outage | None = None
        #: Return the watch of a key; None if it has none.
        self.find: Callable[[Key], Watch | None] = self._watches.get

    def requested(self, topic: Topic, now: float, unix_ns: int) -> None:
        """Start the timer of ``topic`` as its subscription is requested, unless an earlier request started it."""
        watch = self._watched(topic, now)
        if watch.asked_at == -inf:
            self._start(watch, now, unix_ns)

    def subscribed(self, topic: Topic, now: float, unix_ns: int) -> None:
        """Restart the timer of ``topic``: its subscription was confirmed, or needs no confirmation.

        The timeout is that of the first event. An account has none of its own, because it may have no event for long.
        """
        watch = self._watched(topic, now)
        if watch.confirmed and watch.brought_nothing:  # resubscribed, and still without data
            return
        watch.confirmed = True
        self._start(watch, now, unix_ns)

    def _start(self, watch: Watch, now: float, unix_ns: int) -> None:
        watch.last, watch.allowed = now, self._first_within(watch)
        watch.asked_at, watch.asked_ns = now, unix_ns
        self._check_at = min(self._check_at, now + watch.allowed)

    def _first_within(self, watch: Watch) -> float:
        topic = watch.topic
        if topic.kind == "account":
            return watch.after
        if self._first is not None:
            return self._first or inf
        if watch.after != inf or self._after.get(topic, self._after.get(topic.kind)) == 0:
            return watch.after
        bar = _seconds_of(topic.timeframe) if topic.kind == "candle" and topic.timeframe else 0.0
        return FIRST_DATA.get(topic.kind, inf) + bar

    def _watched(self, topic: Topic, now: float) -> Watch:
        key = topic_key(topic)
        watch = self._watches.get(key)
        if watch is None:
            left = self._left_stale.pop(key, None)
            after = self._after.get(topic, self._after.get(topic.kind, inf)) or inf
            watch = self._watches[key] = Watch(topic, now, after)
            if left is not None:
                watch.stale, watch.session = True, left.session
                watch.reason = None if left.without_data else left.reason
        return watch

    def refused(self, topic: Topic, reason: str, now: float) -> Watch | None:
        """Mark the topic stale: the provider rejected it. Return its watch unless it was stale for this reason already."""
        watch = self._watched(topic, now)
        news = not watch.stale or watch.session or watch.reason != reason
        watch.stale, watch.session, watch.reason, watch.allowed = True, False, reason, inf
        watch.without_data, watch.confirmed, watch.asked_at = False, False, -inf
        return watch if news else None

    def event(self, watch: Watch, now: float, unix_ns: int) -> bool:
        """Restart the topic's timer at an event; return True if the topic was stale and is fresh now."""
        allowed = watch.after
        if watch.allowed != allowed or watch.stale or watch.last > now:
            watch.allowed, watch.reason, watch.without_data = allowed, None, False
            self._check_at = min(self._check_at, now + allowed)
            self._rearm()
        watch.last, watch.since_ns = now, unix_ns
        was_stale, watch.stale = watch.stale, False
        return was_stale

    def fresh_when_quiet(self, topic: Topic) -> Watch | None:
        """Make a topic fresh when its subscription is confirmed. Return its watch; None if this does not make it fresh.

        This is for topics that may have no event for long, and that are stale because the session was down or because an
        earlier subscription was rejected.
        """
        watch = self._watches.get(topic_key(topic))
        if watch is None or not watch.stale or topic.kind in _WITH_VALUE or watch.after != inf:
            return None
        if not watch.session and (watch.reason is None or watch.without_data):
            return None
        watch.stale, watch.reason = False, None
        return watch

    def left(self, key: Key) -> Watch | None:
        """Handle an event of a topic that is not subscribed; return the topic's watch if the event makes it fresh."""
        return self._left_stale.pop(key, None)

    def check(self, now: float, unix_ns: int) -> list[Watch]:
        """Return the topics whose timer has expired since the last check. They are STALE until their next event."""
        if now < self._check_at:
            return []
        due = [watch for watch in self._watches.values() if watch.runs and watch.last + watch.allowed <= now]
        gone = [watch for watch in due if not self._extend(watch, now, unix_ns)]
        for watch in gone:
            watch.stale, watch.session = True, False
            watch.without_data = watch.brought_nothing
            watch.reason = _no_data(watch, now) if watch.without_data else None
        running = (watch.last + watch.allowed for watch in self._watches.values() if watch.runs)
        # A check visits all topics. A least pause between checks lets one check find several that expire one after another.
        self._check_at = max(min(running, default=inf), now + len(self._watches) * LOOK_EACH)
        return gone

    def is_due(self, watch: Watch) -> bool:
        """Return True if the topic's timeout was declared or configured, not the default `FIRST_DATA`."""
        return watch.after != inf or self._first is not None

    def _extend(self, watch: Watch, now: float, unix_ns: int) -> bool:
        """Move the timer's start to the market's opening; return True if it has not expired by that."""
        hours = self._hours(watch.topic)
        if hours is None:
            return False
        opened = hours.opened(unix_ns)
        since = hours.opens(unix_ns) if opened is None else opened
        watch.last = max(watch.last, now + (since - unix_ns) / 1e9)
        return watch.last + watch.allowed > now

    def closed_market(self, unix_ns: int) -> bool:
        """Return True if there are topics and the markets of all of them are closed."""
        hours = [self._hours(watch.topic) for watch in self._watches.values() if watch.topic.kind != "account"]
        return bool(hours) and all(each is not None and each.opened(unix_ns) is None for each in hours)

    def forget(self, topic: Topic) -> None:
        """Stop the timer of a topic that is no longer subscribed. If it was stale, remember that for its next subscriber."""
        key = topic_key(topic)
        watch = self._watches.pop(key, None)
        if watch is not None and watch.stale:
            self._left_stale[key] = watch

    def share(self, other: "Topics") -> None:
        """Share the remembered stale topics with the other connections of a pool: a topic may move to this one."""
        self._left_stale = other._left_stale

    def adopt(self, other: "Topics") -> None:
        """Copy the stale topics and the outage of the session that this one replaces."""
        self._left_stale = other._left_stale
        self._left_stale.update((key, watch) for key, watch in other._watches.items() if watch.stale)
        self.outage = other.outage

    def closed(self, reason: str, since_ns: int | None, now: float) -> None:
        """Stop all timers until the topics are subscribed again: the connection is closed."""
        for watch in self._watches.values():
            watch.allowed, watch.confirmed, watch.asked_at = inf, False, -inf
        self._check_at = inf
        if self.outage is None:
            self.outage = Outage(reason, since_ns, now + SETTLES)
        self.outage.reason = reason

    def opened(self) -> None:
        """End the outage: the session is up. The topics that it made stale become fresh one by one."""
        self.outage = None

    def suspend(self, topic: Topic, now: float) -> None:
        """Make a topic stale because the session is down. Its next event makes it fresh, even if equal to its last."""
        watch = self._watched(topic, now)
        watch.stale, watch.session, watch.allowed, watch.last_event = True, True, inf, None
        watch.reason, watch.without_data = None, False

    def deadline(self) -> float:
        """Return the earliest time at which `check` may return a topic."""
        return self._check_at


def _seconds_of(timeframe: str) -> float:
    number = timeframe.rstrip("smhdwo")
    return float(int(number) * _UNITS[timeframe.removeprefix(number)])


def _no_data(watch: Watch, now: float) -> str:
    # If the market was open all the time, name the timeout: the text then does not depend on how late the check ran.
    seconds = watch.allowed if watch.last == watch.asked_at else now - watch.asked_at
    return f"no data since the subscription, {f'{seconds:.1f}'.removesuffix('.0')} s ago"
