"""Bring a new subscriber up to date: what it is sent between `subscription_succeeded` and the live events.

What that is, is decided when it joins (`catch_up`). Making it may take milliseconds, for a rewind of a thousand events, an
account with thousands of orders or a book with thousands of levels. So it is made in parts (`Joining.proceed`), and between
them the relay's other work goes on. Each part goes to the outbox. Events that the channel delivers meanwhile wait behind the
last part; then the subscriber is live: nothing is lost, repeated or overtaken.

Of depth all goes to the outbox at once, when it is made: where a subscriber is slow the outbox may replace what waits by
a book of that moment, and nothing older may follow it.
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
"""Deliveries made before other work goes on: a few tenths of a millisecond."""
_MOST_WAITING = 1000
"""Live events that wait for one joining subscriber; one more, and the rest is made at once."""


@define
class CatchUp:
    """The deliveries for a new subscriber before the live events, made one by one as they are taken."""

    deliveries: Iterator[Delivery | None]
    """None stands for work done after which there is nothing to send yet."""
    encoded: bool = True
    """True when these are past events, encoded when they were published; False when they are encoded for this subscriber."""
    waits: bool = False
    """True when the subscriber is not live before the next snapshot."""
    cache_missed: bool = False
    tells_position: bool = False
    """True when the position comes behind the last of the deliveries: a subscriber that was cut off before has none."""


@define
class _Parts:
    """The parts of a catch-up in order, none of which is made before it is taken."""

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
    """Return what a new subscriber is sent before the live events.

    1. Resume: the events it missed, then `tickrelay:resume_succeeded`, and nothing else; but in a cluster whether the data
       are fresh now: what another node, or this one, told of that had no number, and may be true no more. When they are
       lost, `tickrelay:resume_failed`, and on as if it had not asked.
    2. A depth channel: the book as one snapshot (each provider's, on a merged channel). Without a book the subscriber waits
       for the next snapshot. A rewind of depth is the book too.
    3. Rewind: the last events, oldest first. On an account's stream without a rewind: its current state, that is balance,
       open orders and positions, each as the last event about it.
    4. A cache channel: the last value (each provider's, on a merged channel), or `pusher:cache_miss`.
    5. The staleness event, while the data are stale. A rewind has it among the last events.
    6. Behind all this `tickrelay:position`, if it asked for `ids` or to resume. Whoever is cut off before has no position,
       and begins anew: with one it would resume behind a state that it does not have.

    Args:
        books: returns the books of a depth topic.
        ids: names new events.
        ttl: life of a cached event in seconds.
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
        # Of depth the outbox may replace what waits by a later book: the position must not be there before it.
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
    """Add the book, past events or last values; return the number of the newest, None where there is nothing."""
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
    """A subscriber that is brought up to date. Until it is, this stands for its outbox in the channel."""

    __slots__ = ("_caught_up", "_channel", "_ids", "_outbox", "_socket_id", "_waiting", "dirty", "done", "held")

    def __init__(self, channel: Channel, socket_id: str, outbox: Outbox, caught_up: CatchUp, *, ids: bool) -> None:
        """Join the channel at the present moment; `proceed` does the rest."""
        self._channel = channel
        self._socket_id = socket_id
        self._outbox = outbox
        self._caught_up = caught_up
        self._ids = ids
        self._waiting: list[Delivery] = []
        self.dirty, self.held = True, False
        """As in `Outbox`: nothing here is to be flushed."""
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
        """Let a live event wait."""
        self._waiting.append(delivery)
        if len(self._waiting) > _MOST_WAITING:
            while not self.done:
                self.proceed()

    put = append

    def mark_dirty(self) -> None:
        """Do nothing; see `dirty`."""

    hold = mark_dirty

    def proceed(self) -> Sequence[Delivery]:
        """Make the next part, and make the subscriber live if it was the last. Return what was made."""
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
        """Drop what waits: the subscriber has left the channel."""
        self.done = True
        self._waiting.clear()

    def _end(self) -> None:
        self.done = True
        for delivery in self._waiting:
            self._outbox.put(delivery)
        self._channel.replace(self._socket_id, self._outbox)
        self._waiting.clear()
