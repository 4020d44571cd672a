"""Bring a new subscriber up to date: choose and encode the events between `subscription_succeeded` and the live events.

`catch_up` chooses them when the subscriber joins. Encoding may take milliseconds: a rewind of a thousand events, an account
with thousands of orders, a book with thousands of levels. So `Joining.proceed` encodes one part at a time and puts it into
the outbox, and the relay's other work runs between the parts. Live events that arrive meanwhile are queued until after the
last part. Then the subscriber is live. No event is lost, repeated or reordered.

A depth channel's parts go into the outbox together. The outbox of a slow subscriber may replace queued depth by a newer
book, and no older depth may follow that book.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from attrs import define, field

from relay.hub.encoding import HistoryEntry
from relay.hub.history import BookSnapshots, DepthBook, Missed
from relay.hub.outbox import Delivery, Outbox, Policy
from relay.hub.topic import Channel, LastValue
from relay.pusher import messages
from relay.websocket.frames import encode_text

_PART = 64
"""Deliveries encoded before other work runs: a few tenths of a millisecond."""
_MOST_WAITING = 1000
"""Most live events queued for one joining subscriber. At one more, the rest of its catch-up is encoded at once."""


@define
class CatchUp:
    """The deliveries for a new subscriber before the live events. Each is encoded when the iterator yields it."""

    deliveries: Iterator[Delivery | None]
    """None: a step of the work was done, but there is no delivery yet."""
    encoded: bool = True
    """True for past events, which were encoded when published. False when they are encoded for this subscriber."""
    waits: bool = False
    """True when the subscriber becomes live only with the next snapshot."""
    cache_missed: bool = False
    tells_position: bool = False
    """True when the position is sent after the deliveries, so that a client that disconnects earlier starts over."""


@define
class _Parts:
    """The parts of a catch-up in order. Each delivery is encoded only when it is taken."""

    channel: Channel
    ids: bool
    parts: list[Iterable[Delivery | None]] = field(factory=list)

    def add(self, values: Iterable[HistoryEntry | LastValue]) -> None:
        channel, entry, ids = self.channel, self.channel.topic.entry, self.ids
        self.parts.append(channel.delivery(entry(value), ids=ids) for value in values)

    def add_books(self, snapshots: BookSnapshots) -> None:
        self.parts.append(self._books(snapshots))

    def say(self, text: str, policy: Policy = Policy.CONTROL, seq: int = 0) -> None:
        self.parts.append((Delivery(encode_text(text.encode(errors="replace")), self.channel.name, policy, seq),))

    def __iter__(self) -> Iterator[Delivery | None]:
        for part in self.parts:
            yield from part

    def _books(self, snapshots: BookSnapshots) -> Iterator[Delivery | None]:
        while not snapshots.made:
            snapshots.step()
            yield None
        for entry in snapshots.entries:
            yield self.channel.delivery(entry, ids=self.ids)


def catch_up(
    channel: Channel,
    request: messages.JoinChannel,
    books: Callable[[], Iterable[DepthBook]],
    ids: Callable[[], str],
    ttl: float,
    now: float,
) -> CatchUp:
    """Return the deliveries for a new subscriber before the live events, in this order.

    1. Resume: the missed events, then `tickrelay:resume_succeeded`, and nothing else. In a cluster, also the current
       staleness event: staleness sent while the log was unreachable has no sequence number, so a resume cannot replay it.
       If the missed events are lost, send `tickrelay:resume_failed` and continue as without a resume.
    2. A depth channel: the book as one snapshot (one for each provider on a merged channel). Without a book the subscriber
       waits for the next snapshot. A rewind of depth is the book too.
    3. Rewind: the last events, oldest first. On an account's stream without a rewind: its current state, which is the last
       event of the balance and of each open order and position.
    4. A cache channel: the last value (one for each provider on a merged channel), or `pusher:cache_miss`.
    5. The staleness event, while the data are stale. A rewind contains it already.
    6. `tickrelay:position`, if the subscriber set `ids` or tried to resume. It is sent last: a client that disconnects
       during the catch-up starts over instead of resuming past data that it never received.

    Args:
        books: returns the books of a depth topic.
        ids: returns an id for a new event.
        ttl: time to live of a cached event in seconds.
    """
    topic, name = channel.topic, channel.name
    parts, state = _Parts(channel, request.ids), _Parts(channel, request.ids)
    result = CatchUp(iter(parts))
    failed: Missed | None = None
    if request.resume is not None:
        try:
            missed = topic.history.after(request.resume, now)
        except Missed as lost:
            failed = lost
        else:
            parts.add(missed)
            parts.say(messages.resume_succeeded(name, topic.history.position, len(missed)))
            if (freshness := topic.freshness(now)) is not None:
                parts.add((freshness,))
            return result
    result.encoded = topic.kind != "depth" and (request.rewind is not None or topic.kind != "account")
    newest = _add_state(state, request, books, ids, ttl, now)
    result.waits = newest is None and topic.kind == "depth"
    if channel.type.cache and newest is None:
        result.cache_missed = True
        state.say(messages.cache_miss(name))
    warnings = topic.stale_warnings() if request.rewind is None or topic.kind == "depth" else ()
    state.add(warnings)
    position = topic.history.position if request.ids or failed is not None else None
    if failed is not None and failed.position is None:  # there is no history
        position = None
    result.tells_position = position is not None and (newest is not None or bool(warnings))
    if failed is not None:
        parts.say(messages.resume_failed(name, failed.reason, None if result.tells_position else failed.position))
    parts.parts += state.parts
    if result.tells_position and position is not None:
        text = messages.position(name, position)
        # The outbox may replace queued depth by a later book. With the same policy the position stays after that book.
        parts.say(text, Policy.SNAPSHOT if topic.kind == "depth" else Policy.CONTROL, position.seq)
    return result


def _add_state(
    parts: _Parts,
    request: messages.JoinChannel,
    books: Callable[[], Iterable[DepthBook]],
    ids: Callable[[], str],
    ttl: float,
    now: float,
) -> int | None:
    """Add the book, past events or last values. Return the sequence number of the newest, None if there are none."""
    topic = parts.channel.topic
    if topic.kind == "depth":
        snapshots = topic.snapshots(books(), ids)
        parts.add_books(snapshots)
        return snapshots.seq if snapshots.many else None
    found: Sequence[HistoryEntry | LastValue] = ()
    if request.rewind is not None:
        found = topic.history.newest(request.rewind, now)
    elif topic.kind == "account":
        found = topic.last_values(now)
    if parts.channel.type.cache and not found:
        found = topic.last_values(now, ttl)
    parts.add(found)
    return found[-1].seq if found else None


class Joining:
    """The catch-up of one subscriber. Until it is done, the channel delivers to this object instead of the outbox."""

    __slots__ = ("_caught_up", "_channel", "_ids", "_outbox", "_socket_id", "_waiting", "dirty", "done", "held")

    def __init__(self, channel: Channel, socket_id: str, outbox: Outbox, caught_up: CatchUp, *, ids: bool) -> None:
        """Add the subscriber to the channel. Call `proceed` until it is `done`."""
        self._channel = channel
        self._socket_id = socket_id
        self._outbox = outbox
        self._caught_up = caught_up
        self._ids = ids
        self._waiting: list[Delivery] = []
        self.dirty, self.held = True, False
        """As in `Outbox`. True, so that the channel does not schedule a flush of this object."""
        self.done = False
        """True once the subscriber is live, or has left."""
        channel.add(socket_id, self, ids=ids, waits=caught_up.waits)

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return self._channel.name

    @property
    def encoded(self) -> bool:
        """See `CatchUp.encoded`."""
        return self._caught_up.encoded

    def append(self, delivery: Delivery) -> None:
        """Queue a live event until the catch-up is done."""
        self._waiting.append(delivery)
        if len(self._waiting) > _MOST_WAITING:
            while not self.done:
                self.proceed()

    put = append

    def mark_dirty(self) -> None:
        """Do nothing; see `dirty`."""

    hold = mark_dirty

    def proceed(self) -> Sequence[Delivery]:
        """Put the next part into the outbox and return it. After the last part the subscriber is live."""
        part: list[Delivery] = []
        if self.done:
            return part
        most = sys.maxsize if self._channel.topic.kind == "depth" else _PART
        for delivery in islice(self._caught_up.deliveries, most):
            if delivery is None:
                break
            part.append(delivery)
            self._outbox.put(delivery)
        else:
            if len(part) < most:
                self._end()
        return part

    def leave(self) -> None:
        """Drop the queued live events: the subscriber has left the channel."""
        self.done = True
        self._waiting.clear()

    def _end(self) -> None:
        self.done = True
        for delivery in self._waiting:
            self._outbox.put(delivery)
        self._channel.replace(self._socket_id, self._outbox)
        self._waiting.clear()
