"""The state of a topic: one numbered sequence of events, whoever listens and under whichever channel name.

A stream has one topic however many apps and variants of its channel (plain, `cache-`, `private-`, ...) there are; a channel
of an application's own has one to itself. Publishing gives the event the topic's next number, keeps it (the ring, the last
value, the book), encodes it once, and hands one frame per channel to that channel's subscribers.

A topic nobody has listened to for as long as the ring reaches back keeps the number, the last value and the book only: what
the ring held would have left it anyway. `kept_until` says until when it keeps more; infinity while it has a channel, is
pinned, or belongs to an account or a status, whose events are kept whether somebody listens or not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

from attrs import define

from relay.hub import encoding as wire
from relay.hub import sequence
from relay.hub.depth import Book
from relay.hub.history import Entry, HistoryLimits, Ring
from relay.hub.outbox import Policy
from relay.model.channels import ALL, Stream
from relay.model.enums import AccountEvent, PositionEvent, Refill, StalenessEvent
from relay.model.events import Account, Candle, Depth, Event, Gap, Order, Position, Reference, Staleness, Stamp
from relay.pusher import actions

_POLICIES = {
    "quote": Policy.CONFLATE,
    "candle": Policy.CONFLATE,
    "account": Policy.CONFLATE,
    "reference": Policy.CONFLATE,
    "public_trade": Policy.GAP,
    "signal": Policy.GAP,
    "notification": Policy.GAP,
    "alert": Policy.GAP,
    "depth": Policy.SNAPSHOT,
}
#: Kinds that are no value themselves but say something about one (a book is folded, not remembered).
_QUALIFIERS = frozenset({"depth", "gap", "staleness"})
_MARGIN = (AccountEvent.MARGIN_WARNING, AccountEvent.MARGIN_CALL)


def policy_of(event: Event) -> Policy:
    """What may happen to the event at a slow subscriber. A margin call is never dropped, whatever follows it."""
    if isinstance(event, Account) and event.event in _MARGIN:
        return Policy.NEVER_DROP
    return _POLICIES.get(event.kind, Policy.NEVER_DROP)


#: Of one account, so many open orders and positions are remembered for newcomers; beyond that the oldest are forgotten.
MAX_HELD = 10_000


def holding(event: Event) -> tuple[str, bool] | None:
    """What an account's event says about its state: the key of the fact, and whether it still is one; None for news only."""
    match event:
        case Account():
            return f"account {event.account} {event.event}", True
        case Position():
            return f"position {event.account} {event.id}", event.event is not PositionEvent.POSITION_CLOSED
        case Order():
            return f"order {event.account} {event.id}", not event.status.is_final
    return None


def conflation_key(event: Event) -> str:
    """Which events of a channel replace each other: updates of one bar but not two bars, one fact but not two facts."""
    match event:
        case Candle():
            return event.start
        case Reference():
            return event.name
        case Account():
            return event.event.value
    return ""


class News:
    """An event on its way to its topics; encoded when the first of them needs it, and once."""

    __slots__ = ("_body", "event", "id", "kind", "stamp")

    def __init__(self, event: Event, stamp: Stamp, id: str) -> None:
        self.event, self.stamp, self.id = event, stamp, id
        self.kind = event.kind
        self._body = b""

    def entry(self, seq: int, now: float, *, merged: bool = False) -> Entry:
        """The event as number `seq` of a topic; in a merged topic only events of the same provider replace each other."""
        if not self._body:
            self._body = wire.canonical_body(self.event, self.stamp, self.id)
        kind = self.kind
        if kind == "quote":  # by far the most frequent, and the plainest
            policy, key = Policy.CONFLATE, ""
        else:
            policy, key = policy_of(self.event), conflation_key(self.event)
        if merged:
            key = f"{self.stamp.provider} {key}"
        return Entry(seq, self.id, now, _HEADS[kind], wire.numbered(self._body, seq), policy, key)


class _Heads(dict[str, bytes]):
    def __missing__(self, kind: str) -> bytes:
        self[kind] = made = wire.head(kind)
        return made


_HEADS = _Heads()


@define(eq=False)
class Last:
    """The newest value of a topic (or of one provider within a merged one) and the number it came under."""

    news: News
    seq: int
    at: float


class View(Protocol):
    """One app's channel on a topic; `relay.hub.channel.Channel` is one."""

    def __len__(self) -> int:
        """Subscribers."""
        ...

    def wake(self) -> None:
        """A whole book comes next."""
        ...

    def deliver(self, entry: Entry, but: str | None = None) -> None:
        """Give an event to the subscribers, except the connection `but`."""
        ...


class TopicState:
    """One topic. Its channels are added and removed by `attach` and `detach`; times are monotonic seconds."""

    __slots__ = (
        "_holds",
        "_limits",
        "_next",
        "_snapshots",
        "_value_kind",
        "book",
        "channels",
        "kept",
        "kept_until",
        "last",
        "last_received_at",
        "merged",
        "ring",
        "seq",
        "stale",
        "stream",
        "touched",
    )

    def __init__(
        self,
        stream: Stream | None,
        numbering: sequence.Sequence,
        limits: HistoryLimits,
        now: float,
        *,
        kept: bool = False,
    ) -> None:
        """`kept`: events are kept, and the topic itself, whether somebody listens or not."""
        self.stream = stream
        """None for a channel of an application's own."""
        self.seq = numbering.start
        self.ring = Ring(numbering.epoch, limits, numbering.start)
        self.last: dict[str, Last | Entry] = {}
        """Newest value by provider; an application's under ""; an account's by what it is a fact about."""
        self.stale: dict[str, Last] = {}
        """The announcement that its data are stale, by provider, until they are fresh again."""
        kind = stream.topic.kind if stream is not None else ""
        self.last_received_at = ""
        """When the relay read its last event, as its stamp says."""
        self.merged = stream is not None and stream.provider == ALL
        self.book = Book() if kind == "depth" and not self.merged else None
        self.channels: tuple[View, ...] = ()
        self.kept = kept
        self.kept_until = inf if kept else -inf
        self.touched = now
        """When the last event came, or the last channel went."""
        self._limits = limits
        self._next = numbering.next
        self._holds = kind == "account"
        # Of what a status tells, only the state of the connection is still true later.
        self._value_kind = "connection" if kind == "status" else None
        self._snapshots: tuple[int, tuple[Entry, ...]] = (-1, ())

    @property
    def position(self) -> actions.Position:
        """Where the topic stands."""
        return self.ring.position

    def attach(self, channel: View) -> None:
        """The channel has subscribers."""
        self.channels = (*self.channels, channel)
        self.kept_until = inf

    def detach(self, channel: View, now: float) -> None:
        """The channel has none any more. What was missed is kept for those who come back in time."""
        self.channels = tuple(other for other in self.channels if other is not channel)
        if not self.channels and not self.kept:
            self.kept_until = now + self._limits.age
            self.touched = now

    def is_idle(self, now: float, keep_value: float = 0.0) -> bool:
        """Nobody listens and nothing that is here could still be asked for; `keep_value`: seconds a last value counts."""
        if self.channels or self.kept:
            return False
        if self.merged:  # its providers' topics keep the values; without them it would go on for as long as they do
            return now >= self.kept_until
        return now >= self.touched + max(self._limits.age, keep_value if self.last else 0.0)

    def publish(self, news: News, now: float) -> None:
        """A canonical event."""
        self.seq = seq = self._next()
        self.touched = now
        self.last_received_at = news.stamp.received_at
        woken = False
        if news.kind in _QUALIFIERS:
            woken = self._qualify(news, Last(news, seq, now))
        elif self._holds:
            self._hold(news.event, Last(news, seq, now))
        elif self._value_kind is None or news.kind == self._value_kind:
            self.last[news.stamp.provider if self.merged else ""] = Last(news, seq, now)
        if now >= self.kept_until:
            self.ring.skip(seq)
            return
        entry = news.entry(seq, now, merged=self.merged)
        self.ring.append(entry)
        for channel in self.channels:
            if woken:
                channel.wake()
            channel.deliver(entry)

    def _hold(self, event: Event, last: Last) -> None:
        """Remember what is so on an account: its money, open orders and positions."""
        held = holding(event)
        if held is None:
            return
        key, is_so = held
        self.last.pop(key, None)
        if is_so:
            self.last[key] = last
            if len(self.last) > MAX_HELD:
                del self.last[next(iter(self.last))]

    def _qualify(self, news: News, last: Last) -> bool:
        """What the event does to the book and to what newcomers are told; True when it is a whole book."""
        match news.event:
            case Depth() as event:
                if self.book is not None:
                    self.book.apply(event, news.stamp)
                return event.snapshot
            case Gap(refill=refill) if self.book is not None and refill is not Refill.REPLAY:
                self.book.invalidate()
            case Staleness(event=StalenessEvent.STALE) if self._value_kind is None:
                self.stale[news.stamp.provider if self.merged else ""] = last
            case Staleness():
                self.stale.pop(news.stamp.provider if self.merged else "", None)
        return False

    def post(self, entry_of: Callable[[int], Entry], *, cached: bool, but: str | None = None) -> Entry:
        """An application's event, made by `entry_of` of its number; not to the connection `but`."""
        self.seq = seq = self._next()
        entry = entry_of(seq)
        self.touched = entry.at
        if cached:
            self.last[""] = entry
        self.ring.append(entry)
        for channel in self.channels:
            channel.deliver(entry, but)
        return entry

    def snapshot(self) -> Mapping[str, object]:
        """Counters of a stream's topic."""
        stream = self.stream
        if stream is None:
            return {}
        topic = stream.topic
        return {
            "provider": stream.provider,
            "kind": topic.kind,
            "symbol": topic.symbol,
            "timeframe": topic.timeframe,
            "account": topic.account,
            "epoch": self.ring.epoch,
            "seq": self.seq,
            "kept": len(self.ring),
            "subscribers": sum(len(channel) for channel in self.channels),
            "last_received_at": self.last_received_at,
        }

    def values(self, now: float, ttl: float = inf) -> Sequence[Entry]:
        """The last value (of each provider in a merged topic), not older than `ttl` seconds, in the order they came."""
        return self._entries(last for last in self.last.values() if last.at + ttl > now)

    def warnings(self) -> Sequence[Entry]:
        """That its data are stale (those of each provider in a merged topic), where they are."""
        return self._entries(self.stale.values())

    def _entries(self, found: Iterable[Last | Entry]) -> Sequence[Entry]:
        return [
            last if isinstance(last, Entry) else last.news.entry(last.seq, last.at, merged=self.merged)
            for last in sorted(found, key=lambda last: last.seq)
        ]

    def snapshots(self, books: Iterable[Book], ids: Callable[[], str]) -> Sequence[Entry]:
        """Each book that is ready as one snapshot event, numbered as the topic stands. Encoded once per number."""
        if self._snapshots[0] != self.seq:
            self._snapshots = (self.seq, tuple(self._snapshot(book, ids()) for book in books if book.ready))
        return self._snapshots[1]

    def _snapshot(self, book: Book, id: str) -> Entry:
        event, stamp = book.snapshot(), book.stamp
        assert event is not None
        assert stamp is not None
        return News(event, stamp, id).entry(self.seq, self.touched, merged=self.merged)


def seed(merged: TopicState, parts: Mapping[str, TopicState]) -> None:
    """Give a merged topic that begins what its providers have already; it counts as number 0 of it."""
    for provider, part in parts.items():
        for last in part.last.values():
            if isinstance(last, Last):
                merged.last[provider] = Last(last.news, merged.seq, last.at)
        for stale in part.stale.values():
            merged.stale[provider] = Last(stale.news, merged.seq, stale.at)
