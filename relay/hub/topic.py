"""A topic, which is one numbered sequence of events, and the channels that deliver it.

A stream has one topic, shared by all apps and all variants of its channel (plain, `cache-`, `private-`, ...). Each channel
of an application's own has its own topic. `TopicState.publish` assigns the next sequence number, stores the event (history,
last value, book), encodes it once, and passes it to each `Channel`, which frames it once and delivers it to its subscribers.

A topic without subscribers for as long as the history's age keeps only its number, last value and book: all events in the
history would be too old anyway. Until `keep_until` it keeps the events too. That is infinity while it has a channel, is
pinned, or belongs to an account or a status, whose events are kept with or without subscribers.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from math import inf
from typing import Any, Protocol

import attrs
from attrs import define

from relay.hub.encoding import (
    HistoryEntry,
    PublishedEvent,
    decode_data,
    decode_name,
    encode_middle,
    frame,
    received_at,
    with_position,
)
from relay.hub.history import BookSnapshots, DepthBook, EventHistory, HistoryLimits
from relay.hub.log import StoredLog, TopicLog, restored
from relay.hub.members import Presence
from relay.hub.outbox import DROPPABLE, Delivery, Policy, control
from relay.model.channels import ALL, Stream
from relay.model.enums import AccountEvent, PositionEvent, Refill, StalenessEvent
from relay.model.events import (
    MARKET_KINDS,
    Account,
    Connection,
    Depth,
    Event,
    Gap,
    Order,
    Position,
    Staleness,
)
from relay.model.serialize import CodecError, decode
from relay.pusher import messages
from relay.pusher.messages import ResumePosition
from relay.pusher.names import channel_type
from relay.store.interface import LoggedTopic, Row
from relay.websocket.frames import encode_text

#: Kinds that are not a last value: depth updates the book; gap and staleness describe other events.
_WITHOUT_VALUE = frozenset({"depth", "gap", "staleness"})
#: Kinds of topics whose last value is not restored from the log: an account's states are rows, a status is published anew.
_WITHOUT_LAST = frozenset({"", "account", "status", "depth"})
#: Members of a position that change with the market, and its times.
_OF_THE_MARKET = {"current_price": None, "unrealized_pnl": None, "updated_at": None, "timestamp": None, "data": None}
_EMPTY_BYTES, _VALUE_BYTES = 2048, 1024
"""Memory of a topic without events, measured with its entries in the tables, and of a last value."""
_kind_of = lru_cache(maxsize=256)(decode_name)
#: The state of an account's warnings of its margin.
_MARGIN = "margin"
MAX_ACCOUNT_STATE = 10_000
"""Most states (open orders, positions, balances) of one account stored for new subscribers; the oldest are dropped."""


def account_state(event: Event) -> tuple[str, bool] | None:
    """Return (key, is_open) of the order, position or account this event updates; None for events without state.

    The account is not part of the key: it is always the topic's. An event of this node may leave it out, and the same event
    from another node contains it.
    """
    match event:
        case Account(event=AccountEvent.MARGIN_WARNING | AccountEvent.MARGIN_CALL):
            return _MARGIN, True
        case Account(event=AccountEvent.MARGIN_CALL_ENDED):  # it contains the newest figures
            return f"account {AccountEvent.METRICS_UPDATED}", True
        case Account():
            return f"account {event.event}", True
        case Position():
            return f"position {event.id}", event.event is not PositionEvent.POSITION_CLOSED
        case Order():
            return f"order {event.id}", not event.status.is_final
    return None


def is_revalued(before: Event, now: Event) -> bool:
    """Return True if only market-driven members of a position differ, so that a slow subscriber needs only the newest."""
    if not isinstance(before, Position) or not isinstance(now, Position):
        return False
    opened = (PositionEvent.POSITION_OPENED, PositionEvent.POSITION_MODIFIED)
    if now.event is not PositionEvent.POSITION_MODIFIED or before.event not in opened:
        return False
    rest: dict[str, Any] = {**_OF_THE_MARKET, "event": now.event}
    return attrs.evolve(before, **rest) == attrs.evolve(now, **rest)


@define(eq=False)
class LastValue:
    """The newest event of a topic (of one provider in a merged topic), not encoded, with its number and time."""

    published: PublishedEvent
    seq: int
    at: float


class TopicState:
    """One topic. Its channels are added and removed by `attach` and `detach`; times are monotonic seconds."""

    __slots__ = (
        "_held",
        "_limits",
        "_snapshots",
        "book",
        "channels",
        "history",
        "keep_until",
        "kind",
        "last",
        "last_received_at",
        "log",
        "merged",
        "permanent",
        "seq",
        "stale",
        "stream",
        "touched",
    )

    def __init__(
        self,
        stream: Stream | None,
        epoch: str,
        limits: HistoryLimits,
        now: float,
        *,
        permanent: bool = False,
        log: TopicLog | None = None,
    ) -> None:
        """Create a topic at number 0.

        Args:
            epoch: unique to this topic and process, so that a dropped topic is not mistaken for its successor.
            permanent: keep the topic and its events even without subscribers.
            log: keeps the topic over a restart.
        """
        self.stream = stream
        """None for an application's own channel."""
        self.kind = stream.topic.kind if stream is not None else ""
        self.merged = stream is not None and stream.provider == ALL
        self.seq = 0
        self.history = EventHistory(epoch, limits)
        self.last: dict[str, LastValue | HistoryEntry] = {}
        """Newest value by provider; an application's under ""; an account's by `account_state` key; a status' by account."""
        self.stale: dict[str, LastValue] = {}
        """The event that announced stale data, by provider, until the data are fresh again."""
        self.last_received_at = ""
        """`received_at` of the last event's stamp."""
        self.book = DepthBook() if self.kind == "depth" and not self.merged else None
        self.channels: tuple[Channel, ...] = ()
        self.permanent = permanent
        self.keep_until = inf if permanent else -inf
        self.touched = now
        """Time of the last event, or of the last channel's end."""
        self.log = log
        self._held: deque[tuple[PublishedEvent, int, float]] = deque()
        """An account's events that are not on disk yet. They are delivered once a crash cannot lose them."""
        self._limits = limits
        self._snapshots: BookSnapshots | None = None
        if log is not None and log.start is not None:
            epoch, self.seq = log.start
            self.history.restore(epoch, (), self.seq, now)
        if log is not None and log.stale is not None:
            self.stale[""] = LastValue(log.stale, self.seq, now)

    @property
    def size(self) -> int:
        """Its approximate memory in bytes."""
        return _EMPTY_BYTES + self.history.size + _VALUE_BYTES * (len(self.last) + len(self.stale))

    def attach(self, channel: "Channel") -> None:
        """Add a channel that has got its first subscriber."""
        self.channels = (*self.channels, channel)
        self.keep_until = inf

    def detach(self, channel: "Channel", now: float) -> None:
        """Remove a channel without subscribers. Events are kept for a while so that clients can resume."""
        self.channels = tuple(other for other in self.channels if other is not channel)
        if not self.channels and not self.permanent:
            self.keep_until = now + self._limits.age
            self.touched = now

    def read_first(self, resume: ResumePosition | None) -> Callable[[], bool] | None:
        """Return a function that returns True once a new subscriber can be answered; None where that is now.

        This relay may be behind the one at which the subscriber was before. It must not answer that it does not know the
        position to resume from, and then tell the events before it again.
        """
        log, known = self.log, self.history.position
        if log is None:
            return None
        if resume is not None and (resume.epoch != known.epoch or resume.seq > known.seq):
            return log.read_on()
        return None if log.is_known else lambda: log.is_known

    def is_idle(self, now: float, keep_value: float = 0.0) -> bool:
        """Return True if the topic may be dropped; one with a last value is kept for at least `keep_value` seconds."""
        if self.channels or self.permanent:
            return False
        if self.merged:  # its providers' topics have the values
            return now >= self.keep_until
        return now >= self.touched + max(self._limits.age, keep_value if self.last else 0.0)

    def publish(self, published: PublishedEvent, now: float, seq: int = 0, first: int = 0) -> None:
        """Number, store and deliver a canonical event. An account's event is delivered once it is logged.

        `seq`: the number that it was logged with. `first`: if it is a gap, the first number that it stands for.
        """
        log = self.log
        if not seq:
            self.seq = seq = self.seq + 1
            if log is not None:
                if seq >= log.renew_at:
                    self.history.epoch = log.renew(self.history.epoch, seq, now)
                if self.kind == "account":
                    self._log_state(published, seq)
                    self._held.append((published, seq, now))
                    log.append_first(published.entry(seq, now, self.kind), partial(self._logged, seq))
                    return
        self.touched = now
        self.last_received_at = published.stamp.received_at
        kind, revalued = published.kind, False
        if kind in _WITHOUT_VALUE:
            self._apply_qualifier(published, seq, now)
        elif self.kind == "account":
            revalued = self._remember_account_state(published, seq, now)
        elif self.kind != "status":
            self.last[published.stamp.provider if self.merged else ""] = LastValue(published, seq, now)
        elif isinstance(published.event, Connection):  # only the state of each account's connections is true later
            name = f"{published.stamp.account or ''}{' upstream' if published.event.upstream else ''}"
            self.last[name] = LastValue(published, seq, now)
        if now >= self.keep_until:
            self.history.skip(seq)
            return
        entry = published.entry(seq, now, self.kind, merged=self.merged, revalued=revalued)
        self.history.append(entry, first)
        if log is not None and self.kind != "account":
            log.append(entry)
        if isinstance(published.event, Depth) and published.event.snapshot:
            for channel in self.channels:
                channel.start_waiting()
        for channel in self.channels:
            channel.deliver(entry)
        if kind == "staleness":
            for channel in self.channels:
                channel.deliver_to_waiting(entry)

    def _logged(self, seq: int, failure: str) -> None:
        """Deliver the held events up to number `seq`, also if the store failed: its state is reported elsewhere."""
        while self._held and self._held[0][1] <= seq:
            published, number, at = self._held.popleft()
            self.publish(published, at, number)

    def _log_state(self, published: PublishedEvent, seq: int) -> None:
        """Write the state that `_remember_account_state` will remember into the store."""
        assert self.log is not None
        if (state := account_state(published.event)) is None:
            return
        key, is_open = state
        self.log.write(self.log.state(key, published.data if is_open else None, seq))
        if isinstance(published.event, Account) and published.event.event is AccountEvent.MARGIN_CALL_ENDED:
            self.log.write(self.log.state(_MARGIN, None))

    def _remember_account_state(self, published: PublishedEvent, seq: int, now: float) -> bool:
        """Store the balance, open order or open position that the event updates, for new subscribers.

        Return True if it is a position of which only market-driven members have changed.
        """
        state = account_state(published.event)
        if state is None:
            return False
        key, is_open = state
        before = self.last.pop(key, None)
        if isinstance(published.event, Account) and published.event.event is AccountEvent.MARGIN_CALL_ENDED:
            self.last.pop(_MARGIN, None)
        if is_open:
            self.last[key] = LastValue(published, seq, now)
            if len(self.last) > MAX_ACCOUNT_STATE:
                del self.last[oldest := next(iter(self.last))]
                if self.log is not None:
                    self.log.write(self.log.state(oldest, None))
        return isinstance(before, LastValue) and is_revalued(before.published.event, published.event)

    def _apply_qualifier(self, published: PublishedEvent, seq: int, now: float) -> None:
        """Update the book or the current STALE event."""
        provider = published.stamp.provider if self.merged else ""
        match published.event:
            case Depth() as event if self.book is not None:
                self.book.apply(event, published.stamp)
            case Gap(refill=refill) if self.book is not None and refill is not Refill.REPLAY:
                self.book.invalidate()
            case Staleness(event=StalenessEvent.STALE) if self.kind != "status":
                self.stale[provider] = LastValue(published, seq, now)
            case Staleness():
                self.stale.pop(provider, None)

    def trigger(self, head: bytes, tail: bytes, id: str, now: float, *, cached: bool, but: str | None) -> None:
        """Number, store and deliver an application's event, except to the connection `but`."""
        self.seq = seq = self.seq + 1
        self.touched = now
        log = self.log
        if log is not None and seq >= log.renew_at:
            self.history.epoch = log.renew(self.history.epoch, seq, now)
        entry = HistoryEntry(seq, id, now, head, tail, Policy.NEVER_DROP)
        if log is not None:
            log.append(entry)
        self.take(entry, cached=cached, but=but)

    def take(self, entry: HistoryEntry, *, cached: bool, but: str | None) -> None:
        """Store and deliver an application's event that has a number already, except to the connection `but`."""
        self.seq, self.touched = entry.seq, entry.at
        if cached:
            self.last[""] = entry
        self.history.append(entry)
        for channel in self.channels:
            channel.deliver(entry, but)

    def go_on_at(self, epoch: str, seq: int, now: float) -> None:
        """Continue after number `seq` with an empty history, and send the new position to subscribers with ids."""
        self.seq = seq
        self.history.restore(epoch, (), seq, now)
        for channel in self.channels:
            channel.send_position()

    def follow(
        self, entry: HistoryEntry, epoch: str, first: int, read: Callable[[], PublishedEvent], now: float
    ) -> None:
        """Store and deliver an event that another node has numbered. `read` decodes it, if needed."""
        if epoch != self.history.epoch:
            self.history.restore(epoch, (), first - 1, now)
            for channel in self.channels if self.seq else ():
                channel.send(messages.position(channel.name, self.history.position))
        self.seq = entry.seq
        if not self.permanent and not self.channels:
            self.keep_until = now + self._limits.age
        kind = _kind_of(entry.head)
        if kind in _WITHOUT_VALUE or self.kind in _WITHOUT_LAST:
            self.publish(read(), now, entry.seq, first)
            return
        self.touched = now
        self.last_received_at = received_at(entry.tail)
        self.last[""] = entry
        self.history.append(entry, first)
        for channel in self.channels:
            channel.deliver(entry)

    def unfollow(self) -> None:
        """Drop the events that are not logged yet: another node numbers the topic from now on."""
        self._held.clear()
        if self.kind == "account":
            self.seq = self.history.position.seq

    def qualify(self, published: PublishedEvent, now: float) -> None:
        """Deliver a staleness event to this node's subscribers only, under the number of the last delivered event.

        It must not have the number of an event that is still held: a client that resumed there would miss that event.
        """
        seq = self.history.position.seq
        self._apply_qualifier(published, seq, now)
        entry = published.entry(seq, now, self.kind)
        for channel in self.channels:
            channel.deliver(entry)
            channel.deliver_to_waiting(entry)

    def restore(self, logged: LoggedTopic, used: int, ahead: float, now: float, *, floor: int | None = None) -> None:
        """Restore the topic of an earlier process and continue after number `used`.

        Args:
            ahead: Unix time minus monotonic time, in seconds.
            floor: the oldest position to resume from if no event was logged, because a gap follows; by default `used`.
        """
        assert isinstance(self.log, StoredLog)
        self.log.go_on(logged.epoch, used, logged.granted)
        self.seq = used
        self.touched = now
        if not self.permanent:
            self.keep_until = now + self._limits.age
        entries = restored(logged.events, ahead, now)
        self.history.restore(logged.epoch, entries, used, now, floor=floor)
        newest = entries[-1] if entries else None
        if newest is not None and self.kind not in _WITHOUT_LAST:
            self._restore_last(entries)

    def restore_state(self, name: str, value: bytes, now: float) -> None:
        """Restore a state of the account that `_log_state` wrote; skip it if it cannot be read."""
        try:
            known = decode(value)
        except CodecError:
            return
        self.last[name] = LastValue(PublishedEvent(known.event, known.stamp, known.id), known.seq or 0, now)

    def states(self) -> Iterator[Row]:
        """Yield the store's rows of an account's states."""
        if self.log is None or self.kind != "account":
            return
        for name, last in self.last.items():
            if isinstance(last, LastValue):
                yield self.log.state(name, last.published.data, last.seq)

    def begin_epoch(self, epoch: str) -> None:
        """Continue in a new epoch: positions of the old one cannot be resumed from."""
        self.history.epoch = epoch
        if isinstance(self.log, StoredLog):
            self.log.start_over()

    def logged(self) -> tuple[str, str, int, Sequence[HistoryEntry]] | None:
        """Return the topic's content for the store; None if it is not logged or had no event yet."""
        if not isinstance(self.log, StoredLog) or not self.log.epoch:
            return None
        held = [published.entry(seq, at, self.kind) for published, seq, at in self._held]
        return self.log.key, self.history.epoch, self.log.reserved(self.seq), [*self.history.entries, *held]

    def forget(self) -> None:
        """Remove the topic from the store."""
        if self.log is not None:
            self.log.forget()

    def _restore_last(self, entries: Sequence[HistoryEntry]) -> None:
        """Restore the last value of a market stream, or the connection state of each account of a status."""
        for entry in reversed(entries):
            try:
                known = decode(decode_data(entry.tail))
            except CodecError:  # written by an older version
                continue
            if known.event.kind not in _WITHOUT_VALUE:
                self.last[""] = LastValue(PublishedEvent(known.event, known.stamp, known.id), entry.seq, entry.at)
                return

    def status(self) -> Mapping[str, object]:
        """Return the counters of a stream's topic."""
        stream = self.stream
        assert stream is not None
        topic = stream.topic
        return {
            "provider": stream.provider,
            "kind": topic.kind,
            "symbol": topic.symbol,
            "timeframe": topic.timeframe,
            "account": topic.account,
            "epoch": self.history.epoch,
            "seq": self.seq,
            "kept": len(self.history),
            "subscribers": sum(len(channel) for channel in self.channels),
            "last_received_at": self.last_received_at,
            "usable": self.usable,
        }

    @property
    def usable(self) -> bool:
        """False while the data are stale; in a merged topic, while those of all providers with data are stale."""
        if not self.merged:
            return not self.stale
        return not self.stale or any(provider not in self.stale for provider in self.last)

    def has_value_of(self, provider: str) -> bool:
        """Return True if it has a last value; in a merged topic, one of this provider."""
        return provider in self.last if self.merged else bool(self.last)

    def last_values(self, now: float, ttl: float = inf) -> Sequence[LastValue | HistoryEntry]:
        """Return the last value (of each provider in a merged topic) not older than `ttl` seconds, in order."""
        return sorted((last for last in self.last.values() if last.at + ttl > now), key=_seq)

    def stale_warnings(self) -> Sequence[LastValue]:
        """Return the STALE event in effect (of each provider in a merged topic), if the data are stale."""
        return sorted(self.stale.values(), key=_seq)

    def freshness(self, now: float) -> HistoryEntry | None:
        """Return the current staleness event, under the newest number, for a subscriber that resumes.

        None if the numbered events contain it, which is so unless nodes send staleness events without numbers (`qualify`).
        """
        if self.log is None:
            return None
        stale = self.stale.get("")
        told = self.log.freshness(self.kind, None if stale is None else stale.published)
        return None if told is None else told.entry(self.history.position.seq, now, self.kind)

    def entry(self, value: LastValue | HistoryEntry) -> HistoryEntry:
        """Return a value of this topic encoded."""
        if isinstance(value, HistoryEntry):
            return value
        return value.published.entry(value.seq, value.at, self.kind, merged=self.merged)

    def snapshots(self, books: Iterable[DepthBook], ids: Callable[[], str]) -> BookSnapshots:
        """Return each book that is ready as one snapshot event with the topic's number; cached until the next number."""
        if self._snapshots is None or self._snapshots.seq != self.seq:
            ready = [book for book in books if book.ready]
            self._snapshots = BookSnapshots(self.seq, ready, ids, self.touched, merged=self.merged)
        return self._snapshots

    def copy_values(self, parts: Mapping[str, "TopicState"]) -> None:
        """Fill a new merged topic with the last values and STALE events of its providers' topics, as number 0."""
        for provider, part in parts.items():
            for last in part.last.values():
                if isinstance(last, LastValue):
                    self.last[provider] = LastValue(last.published, self.seq, last.at)
            for stale in part.stale.values():
                self.stale[provider] = LastValue(stale.published, self.seq, stale.at)


def _seq(value: LastValue | HistoryEntry) -> int:
    return value.seq


class Receiver(Protocol):
    """The interface of an outbox; during a catch-up, `Joining` takes its place."""

    @property
    def append(self) -> Callable[[Delivery], object]:
        """Adds a delivery. Call `mark_dirty` afterwards unless it is `dirty`."""
        ...

    @property
    def dirty(self) -> bool:
        """True if a flush is scheduled already."""
        ...

    @property
    def held(self) -> bool:
        """True if a delayed flush is scheduled already."""
        ...

    def mark_dirty(self) -> None:
        """Schedule a flush."""
        ...

    def hold(self) -> None:
        """Schedule a delayed flush, together with other deliveries."""
        ...

    def put(self, delivery: Delivery) -> None:
        """Add a delivery and schedule a flush."""
        ...


class Channel:
    """One app's view of a topic under one name, while it has subscribers.

    Adding, removing and finding a subscriber takes constant time. On a depth channel without a book, new subscribers wait
    for the first snapshot, because deltas are useless before it; all others are live.
    """

    __slots__ = (
        "_coalesces",
        "_live",
        "_middle",
        "_waiting",
        "_with_ids",
        "dropped",
        "miss_reported",
        "name",
        "presence",
        "succeeded",
        "topic",
        "type",
    )

    def __init__(self, name: str, topic: TopicState, *, coalesces: bool = False) -> None:
        """Create a channel without subscribers. With `coalesces` market data are delayed, see `OutboxLimits.coalesce`."""
        self.name = name
        self.topic = topic
        self._coalesces = coalesces and topic.kind in MARKET_KINDS
        self.type = channel_type(name)
        self.presence = Presence() if self.type.presence else None
        self.dropped: Counter[Policy] = Counter()
        """Number of deliveries that were dropped, merged or replaced for slow subscribers."""
        self.miss_reported = False
        """True if the app's server was notified of a cache miss and no event has been published since."""
        self.succeeded = control(messages.subscription_succeeded(name), name)
        """`subscription_succeeded` without members or a position, shared by all subscribers."""
        self._middle = encode_middle(name)
        self._live: dict[str, Receiver] = {}
        self._with_ids: dict[str, Receiver] = {}
        self._waiting: dict[str, Receiver] = {}

    def __len__(self) -> int:
        """Return the number of subscribers."""
        return len(self._live) + len(self._with_ids) + len(self._waiting)

    def status(self) -> Mapping[str, object]:
        """Return the counters of the channel."""
        return {
            "subscribers": len(self),
            "seq": self.topic.seq,
            "dropped": {policy.value: dropped for policy, dropped in self.dropped.items()},
        }

    def add(self, socket_id: str, outbox: "Receiver", *, ids: bool = False, waits: bool = False) -> None:
        """Add a subscriber. With `ids`, an application's events get `id` and `seq` next to their data."""
        if waits:
            self._waiting[socket_id] = outbox
        elif ids and self.topic.stream is None:
            self._with_ids[socket_id] = outbox
        else:
            self._live[socket_id] = outbox

    def replace(self, socket_id: str, outbox: "Receiver") -> None:
        """Deliver to another outbox from now on."""
        for subscribers in (self._live, self._with_ids, self._waiting):
            if socket_id in subscribers:
                subscribers[socket_id] = outbox

    def remove(self, socket_id: str) -> None:
        """Remove a subscriber."""
        for subscribers in (self._live, self._with_ids, self._waiting):
            subscribers.pop(socket_id, None)

    def start_waiting(self) -> None:
        """Make waiting subscribers live, because a snapshot is about to be delivered."""
        if self._waiting:
            self._live.update(self._waiting)
            self._waiting.clear()

    def deliver(self, entry: HistoryEntry, but: str | None = None) -> None:
        """Deliver an event of the topic to all live subscribers except the connection `but`."""
        if self._live:
            delivery = self.delivery(entry)
            if self.topic.stream is not None:
                delivery.read_at = entry.at
            if self._coalesces and but is None and entry.policy in DROPPABLE:
                for outbox in self._live.values():
                    outbox.append(delivery)
                    if not (outbox.dirty or outbox.held):
                        outbox.hold()
            elif but is None:
                for outbox in self._live.values():  # `put` inlined: this is the hot path
                    append = outbox.append  # calling through a slot is slower than calling a local
                    append(delivery)
                    if not outbox.dirty:
                        outbox.mark_dirty()
            else:
                _put_all(self._live, delivery, but)
        if self._with_ids:
            _put_all(self._with_ids, self.delivery(entry, ids=True), but)
            if but in self._with_ids:  # so that it does not receive its own event when it resumes
                self._with_ids[but].put(Delivery(self._position(entry.seq), self.name, entry.policy, entry.seq))

    def deliver_to_waiting(self, entry: HistoryEntry) -> None:
        """Deliver a staleness event also to the subscribers that still wait for a snapshot."""
        if self._waiting:
            _put_all(self._waiting, self.delivery(entry), None)

    def send(self, text: str, policy: Policy = Policy.CONTROL, but: Collection[str] = ()) -> None:
        """Send a message without a number (members, counts, client events) to every subscriber but these connections."""
        delivery = Delivery(encode_text(text.encode()), self.name, policy, 0)
        for subscribers in (self._live, self._with_ids, self._waiting):
            for socket_id, outbox in subscribers.items():
                if socket_id not in but:
                    outbox.put(delivery)

    def socket_ids(self) -> list[str]:
        """Return the connections that are subscribed."""
        return [*self._live, *self._with_ids, *self._waiting]

    def delivery(self, entry: HistoryEntry, *, ids: bool = False) -> Delivery:
        """Return the event as it is delivered on this channel.

        With `ids` an application's event gets `id` and `seq` next to its data, and is followed by `tickrelay:position`,
        because pusher-js passes only the data of an event to a page.
        """
        if not ids or self.topic.stream is not None:
            framed = frame(entry.head, self._middle, entry.tail)
        else:
            framed = frame(entry.head, self._middle, with_position(entry.tail, entry.id, entry.seq))
            framed += self._position(entry.seq)
        return Delivery(framed, self.name, entry.policy, entry.seq, entry.conflation_key)

    def send_position(self) -> None:
        """Send the newest position to subscribers with ids."""
        if self._with_ids:
            _put_all(self._with_ids, Delivery(self._position(self.topic.seq), self.name, Policy.CONTROL, 0), None)

    def _position(self, seq: int) -> bytes:
        return encode_text(
            messages.position(self.name, messages.ResumePosition(self.topic.history.epoch, seq)).encode()
        )


def _put_all(subscribers: dict[str, "Receiver"], delivery: Delivery, but: str | None) -> None:
    for socket_id, outbox in subscribers.items():
        if socket_id != but:
            outbox.put(delivery)
