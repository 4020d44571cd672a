"""Two clocks that tell a silent feed from a quiet one.

The transport's clock is reset by anything at all that arrives, heartbeats included; when it runs out the connection is
presumed dead and is dialled anew. A topic's clock is reset only by that topic's own events: a heartbeat proves the
transport and nothing else. When it runs out the topic is STALE and is subscribed once more; the first new event makes it
FRESH. Only kinds the provider declared have a topic clock: for all others quiet is normal, and a closed market is not dead.

Topic clocks are checked when the earliest of them could run out. Events only push that time back, so the path of a
message writes one attribute and never looks for the minimum.
"""

from collections.abc import Callable, Mapping
from math import inf

from attrs import define

from relay.adapter import Session
from relay.model.channels import Topic
from relay.upstream.ledger import Key, topic_key


class Transport:
    """The clock of one connection, and our own heartbeats on it.

    Args:
        silent_after: seconds without anything received after which the connection is dead.
        every: seconds between our heartbeats, None when we send none.
    """

    def __init__(self, silent_after: float, every: float | None) -> None:
        self._silent_after = silent_after
        self._every = every
        #: When something last arrived; written directly on the path of a message.
        self.heard = -inf
        self._beat_at = inf
        self._open = False

    def opened(self, now: float) -> None:
        """The connection is open."""
        self._open = True
        self.heard = now
        self._beat_at = now + self._every if self._every is not None else inf

    def closed(self) -> None:
        """The connection is gone."""
        self._open = False

    def silent(self, now: float) -> bool:
        """Whether the connection must be presumed dead."""
        return self._open and now - self.heard >= self._silent_after

    def beat(self, now: float) -> bool:
        """Whether a heartbeat of ours is due; asking takes it."""
        if not self._open or self._every is None or now < self._beat_at:
            return False
        self._beat_at = now + self._every
        return True

    def deadline(self) -> float:
        """When `silent` or `beat` may say yes."""
        return min(self.heard + self._silent_after, self._beat_at) if self._open else inf


@define(eq=False)
class Watch:
    """The clock of one topic.

    Attributes:
        last: monotonic time of its last event, or of its subscription.
        allowed: seconds of silence from ``last``, infinite when quiet is normal.
        since_ns: Unix nanoseconds of its last event, None when there was none.
        stale: whether it has been called stale.
    """

    topic: Topic
    last: float
    allowed: float
    since_ns: int | None = None
    stale: bool = False


class Topics:
    """The clocks of the topics of one session. Staleness outlives a connection, the running clocks do not."""

    def __init__(self, session: Session) -> None:
        self._first: float | None = session.first_data_within
        self._after: Mapping[str, float] = session.stale_after
        self._watches: dict[Key, Watch] = {}
        self._check_at = inf
        #: The watch of a key, None when it is not watched.
        self.find: Callable[[Key], Watch | None] = self._watches.get

    def subscribed(self, topic: Topic, now: float) -> None:
        """The subscription of ``topic`` was confirmed: its first event is due within the declared time.

        An account's topic has no such deadline: nothing happening on an account is normal.
        """
        allowed = self._first if self._first is not None and topic.kind != "account" else inf
        watch = self._watches.setdefault(topic_key(topic), Watch(topic, now, allowed))
        watch.last, watch.allowed = now, allowed
        self._check_at = min(self._check_at, now + allowed)

    def event(self, watch: Watch, now: float, unix_ns: int) -> bool:
        """An event came; True when the topic had been stale and is fresh now."""
        watch.last, watch.since_ns = now, unix_ns
        allowed = self._after.get(watch.topic.kind, inf)
        if watch.allowed != allowed or watch.stale:
            watch.allowed = allowed
            self._check_at = min(self._check_at, now + allowed)
        was_stale, watch.stale = watch.stale, False
        return was_stale

    def check(self, now: float) -> list[Watch]:
        """The topics whose clock has run out just now; they are STALE until their next event."""
        if now < self._check_at:
            return []
        gone = [watch for watch in self._watches.values() if not watch.stale and watch.last + watch.allowed <= now]
        for watch in gone:
            watch.stale = True
        running = (watch.last + watch.allowed for watch in self._watches.values() if not watch.stale)
        self._check_at = min(running, default=inf)
        return gone

    def forget(self, topic: Topic) -> None:
        """The topic is no longer subscribed."""
        self._watches.pop(topic_key(topic), None)

    def closed(self) -> None:
        """The connection is gone: no topic can be called silent until it is subscribed again."""
        for watch in self._watches.values():
            watch.allowed = inf
        self._check_at = inf

    def deadline(self) -> float:
        """When `check` may find something."""
        return self._check_at
