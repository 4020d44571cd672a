"""Two clocks that tell a silent feed from a quiet one.

The transport's clock is reset by anything at all that arrives, heartbeats included; when it runs out the connection is
presumed dead and is dialled anew. A topic's clock is reset only by that topic's own events: a heartbeat proves the
transport and nothing else. When it runs out the topic is STALE and is subscribed once more; the first new event makes it
FRESH. A provider that repeats its last word to whoever subscribes says nothing new by it, once. Only kinds the provider
declared, or the operator set, have a topic clock: for all others quiet is normal, once data have come.

That no data have come yet is told of every topic that has a value (`FIRST_DATA`), once, and nothing is asked for because of
it: that would take turns from others. The clock runs from the request, and again from its acknowledgement.

A closed market is not dead. Where a topic's hours are known, silence counts from the opening of its market on, never while
it is closed. And where the markets of all topics are closed and the provider needs no heartbeat of ours, a transport that
fell silent is asked with a WebSocket ping, which every server answers, before it is presumed dead.

A topic the provider refused is STALE with the provider's reason, and FRESH like any other at its first event.

A session that is gone for longer than `SETTLES` makes all its topics STALE at once. Such a topic is FRESH with its first
event on the next connection. Where no event has to come it is FRESH when the provider confirms the subscription (trades,
signals, news), or when what is open on the account was compared with the provider's lists.

Topic clocks are checked when the earliest of them could run out. Events only push that time back, so the path of a
message writes one attribute and never looks for the minimum.
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

#: Seconds after which a session that is gone makes its topics stale; one that is back sooner only has a gap.
SETTLES = 0.15
#: Kinds with a last value, which is old until the next event: a confirmed subscription says nothing of it.
_WITH_VALUE = frozenset({"quote", "candle", "depth", "reference"})
#: Seconds from a subscription to its first event, by kind, after which it is told that none came. A provider sends the
#: present value or book at once to whoever subscribes; a candle comes at the end of its bar at the latest. What is told is
#: true of a closed market too. Of other kinds, trades and signals for instance, no event has to come.
FIRST_DATA = {"quote": 30.0, "depth": 30.0, "candle": 60.0}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_678_400}
#: Seconds for each topic between two looks at all of them, a few hundred times as long as the look takes.
LOOK_EACH = 50e-6
#: Stale topics that nobody wants any more are remembered, at most so many.
_LEFT = 10_000


class Transport:
    """The clock of one connection, and our own heartbeats on it.

    Args:
        silent_after: seconds without anything received after which the connection is dead.
        every: seconds between our heartbeats, None when we send none.
    """

    def __init__(self, silent_after: float, every: float | None) -> None:
        self._silent_after = silent_after
        self._every = every
        #: Time of the last arrival; written directly on the path of a message.
        self.heard = -inf
        self._excused_at = -inf
        self._beat_at = inf
        self._open = False

    def opened(self, now: float) -> None:
        """Start the clocks: the connection is open."""
        self._open = True
        self.heard = now
        self._beat_at = now + self._every if self._every is not None else inf

    def closed(self) -> None:
        """Stop the clocks: the connection is gone."""
        self._open = False

    def silent(self, now: float) -> bool:
        """Return True if the connection must be presumed dead."""
        return self._open and now - max(self.heard, self._excused_at) >= self._silent_after

    def take_excuse(self, now: float) -> bool:
        """Extend the silence deadline once; return False if we send heartbeats or nothing arrived since the last time."""
        if self._every is not None or self.heard <= self._excused_at:
            return False
        self._excused_at = now
        return True

    def take_beat(self, now: float) -> bool:
        """Return True once when a heartbeat of ours is due, and set the time of the next one."""
        if not self._open or self._every is None or now < self._beat_at:
            return False
        self._beat_at = now + self._every
        return True

    def deadline(self) -> float:
        """Return the time at which `silent` or `take_beat` may return True."""
        heard = max(self.heard, self._excused_at)
        return min(heard + self._silent_after, self._beat_at) if self._open else inf


@define(eq=False)
class Watch:
    """The clock of one topic.

    Attributes:
        last: monotonic time from which on its silence counts: its last event, its subscription, its market's opening.
        after: seconds without an event after which it is called stale, infinite when quiet is normal.
        allowed: seconds of silence from ``last`` now, infinite when quiet is normal: ``after``, or what the first event has.
        since_ns: Unix nanoseconds of its last event, None when there was none.
        asked_at: monotonic time of its subscription, the request or the acknowledgement; -inf when it is not subscribed.
        asked_ns: Unix nanoseconds of that.
        confirmed: whether that was the acknowledgement.
        stale: whether it has been called stale.
        session: whether that was because the session was gone.
        reason: why, when the provider refused it, or when no data came.
        mute: whether ``reason`` is that no data came.
        said: its last event; None where a repetition of it has been let pass already.
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
    mute: bool = False
    said: Event | None = None

    @property
    def brought_nothing(self) -> bool:
        """True if no event came since its subscription."""
        return self.since_ns is None or self.since_ns < self.asked_ns

    @property
    def runs(self) -> bool:
        """True while silence is news: the topic is fresh, or is stale because it was not subscribed, which it is now."""
        return not self.stale or self.session or (self.asked_at != -inf and self.reason is not None and not self.mute)


@define(eq=False)
class Outage:
    """The session is gone: why, since when (Unix nanoseconds, None before the first connection), and when that is told."""

    reason: str
    since_ns: int | None
    due_at: float
    told: bool = False

    def take_due(self, now: float) -> bool:
        """Return True once it has lasted long enough to be told, and then only once."""
        if self.told or now < self.due_at:
            return False
        self.told = True
        return True


class Topics:
    """The clocks of the topics of one session.

    Staleness outlives a connection, and a while without anybody who wants the topic; the running clocks do not.

    Args:
        hours: when the market of a topic trades.
        rearm: called when a clock may run out earlier than was known.
        after: seconds of silence by kind or by topic, in place of the declared ones; 0: quiet is normal.
        first: seconds from a subscription to its first event, 0: any number; None: as after any other event, or where that
            has no clock, `FIRST_DATA`.
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
        #: The connection's absence; None while it is up, and before the first attempt has failed.
        self.outage: Outage | None = None
        #: The watch of a key, None when it is not watched.
        self.find: Callable[[Key], Watch | None] = self._watches.get

    def requested(self, topic: Topic, now: float, unix_ns: int) -> None:
        """Start the clock of ``topic`` as its subscription is requested, unless an earlier request started it."""
        watch = self._watched(topic, now)
        if watch.asked_at == -inf:
            self._start(watch, now, unix_ns)

    def subscribed(self, topic: Topic, now: float, unix_ns: int) -> None:
        """Start the clock of ``topic`` anew: its subscription was confirmed, or needs no confirmation.

        Where the first event has a deadline of its own that one counts, except for an account: nothing has to happen there.
        """
        watch = self._watched(topic, now)
        if watch.confirmed and watch.brought_nothing:  # asked for anew, and still without data
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
                watch.reason = None if left.mute else left.reason
        return watch

    def refused(self, topic: Topic, reason: str, now: float) -> Watch | None:
        """Note that the provider refused the topic; return its watch if that is news."""
        watch = self._watched(topic, now)
        news = not watch.stale or watch.session or watch.reason != reason
        watch.stale, watch.session, watch.reason, watch.allowed = True, False, reason, inf
        watch.mute, watch.confirmed, watch.asked_at = False, False, -inf
        return watch if news else None

    def event(self, watch: Watch, now: float, unix_ns: int) -> bool:
        """Note an event of the topic; return True if the topic had been stale and is fresh now."""
        allowed = watch.after
        if watch.allowed != allowed or watch.stale or watch.last > now:
            watch.allowed, watch.reason, watch.mute = allowed, None, False
            self._check_at = min(self._check_at, now + allowed)
            self._rearm()
        watch.last, watch.since_ns = now, unix_ns
        was_stale, watch.stale = watch.stale, False
        return was_stale

    def fresh_when_quiet(self, topic: Topic) -> Watch | None:
        """Return the watch of a topic that its confirmed subscription makes fresh: no event of it has to come. Else None.

        It had been called stale because the session was gone, or because it was not subscribed.
        """
        watch = self._watches.get(topic_key(topic))
        if watch is None or not watch.stale or topic.kind in _WITH_VALUE or watch.after != inf:
            return None
        if not watch.session and (watch.reason is None or watch.mute):
            return None
        watch.stale, watch.reason = False, None
        return watch

    def left(self, key: Key) -> Watch | None:
        """Note an event of a topic that is not subscribed now; return the topic's watch if it was stale until now."""
        return self._left_stale.pop(key, None)

    def check(self, now: float, unix_ns: int) -> list[Watch]:
        """Return the topics whose clock has run out just now. They are STALE until their next event."""
        if now < self._check_at:
            return []
        due = [watch for watch in self._watches.values() if watch.runs and watch.last + watch.allowed <= now]
        gone = [watch for watch in due if not self._extend(watch, now, unix_ns)]
        for watch in gone:
            watch.stale, watch.session = True, False
            watch.mute = watch.brought_nothing
            watch.reason = _no_data(watch, now) if watch.mute else None
        running = (watch.last + watch.allowed for watch in self._watches.values() if watch.runs)
        # Looking at all of them takes time: of many that run out one after the other, several are found at once.
        self._check_at = max(min(running, default=inf), now + len(self._watches) * LOOK_EACH)
        return gone

    def is_due(self, watch: Watch) -> bool:
        """Return True if an event of a silent topic was due by what is declared or configured, and not by `FIRST_DATA`."""
        return watch.after != inf or self._first is not None

    def _extend(self, watch: Watch, now: float, unix_ns: int) -> bool:
        """Count the silence from the opening of the market; return True if that is not longer than allowed."""
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
        """Stop watching a topic that is no longer subscribed. If it was stale, that is remembered for its next
        subscriber.
        """
        key = topic_key(topic)
        watch = self._watches.pop(key, None)
        if watch is not None and watch.stale:
            self._left_stale[key] = watch

    def share(self, other: "Topics") -> None:
        """Know of the stale topics that other connections of a pool let go: one of them may be wanted here next."""
        self._left_stale = other._left_stale

    def adopt(self, other: "Topics") -> None:
        """Take over which topics of a session that is being replaced are stale."""
        self._left_stale = other._left_stale
        self._left_stale.update((key, watch) for key, watch in other._watches.items() if watch.stale)
        self.outage = other.outage

    def closed(self, reason: str, since_ns: int | None, now: float) -> None:
        """Stop all clocks: without a connection no topic is silent before it is subscribed again."""
        for watch in self._watches.values():
            watch.allowed, watch.confirmed, watch.asked_at = inf, False, -inf
        self._check_at = inf
        if self.outage is None:
            self.outage = Outage(reason, since_ns, now + SETTLES)
        self.outage.reason = reason

    def opened(self) -> None:
        """Note that the session is up again. The topics that it made stale become fresh one by one."""
        self.outage = None

    def suspend(self, topic: Topic, now: float) -> None:
        """Make a topic stale because the session is gone. What it said last proves nothing when it is said again."""
        watch = self._watched(topic, now)
        watch.stale, watch.session, watch.allowed, watch.said = True, True, inf, None
        watch.reason, watch.mute = None, False

    def deadline(self) -> float:
        """Return the time at which `check` may find something."""
        return self._check_at


def _seconds_of(timeframe: str) -> float:
    number = timeframe.rstrip("smhdwo")
    return float(int(number) * _UNITS[timeframe.removeprefix(number)])


def _no_data(watch: Watch, now: float) -> str:
    # As allowed where its market was open all the time: the same text however late the look at it was.
    seconds = watch.allowed if watch.last == watch.asked_at else now - watch.asked_at
    return f"no data since the subscription, {f'{seconds:.1f}'.removesuffix('.0')} s ago"
