"""The topics of a provider in the hub of one node, as `relay.cluster.replica` uses them.

While this node owns the provider, a topic's log appends each event to the provider's logs. While another node owns it,
events read from these logs are published here with the owner's sequence numbers. A topic that merges providers has no
owner. Each node merges its own inputs, so the sequence numbers of a merged topic are valid on that node only.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec

from relay.cluster.log import LogEntry
from relay.cluster.replica import WINDOW, LogName, Placing, place
from relay.hub.encoding import HistoryEntry, PublishedEvent, decode_data
from relay.hub.hub import Hub
from relay.hub.log import STATES, TopicLog, parse_key
from relay.hub.outbox import Policy
from relay.hub.topic import LastValue, TopicState
from relay.model.channels import Stream
from relay.model.enums import StalenessEvent
from relay.model.events import Account, Order, Position, Staleness, Stamp, Trade
from relay.model.serialize import decode
from relay.store.interface import Loggable, Row, Rows, Store

Append = Callable[[LogName, LogEntry], object]

_stream = lru_cache(maxsize=65_536)(parse_key)
_encode = msgspec.msgpack.Encoder().encode


class _Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """A topic's last sequence number with its epoch, and its newest value if it has one."""

    epoch: str
    seq: int
    value: LogEntry | None


_checkpoint = msgspec.msgpack.Decoder(_Checkpoint).decode


class ReplicatedLog(TopicLog):
    """The log of a topic whose events are appended to the provider's logs, while this node owns the provider."""

    __slots__ = ("_topics", "waiting")

    def __init__(self, store: Store, key: str, topics: "ProviderTopics") -> None:
        super().__init__(store, key)
        self.waiting: deque[tuple[int, Callable[[str], object]]] = deque()
        """Sequence numbers of events that are delivered once they are in the log, each with the function to call then."""
        self._topics = topics
        self.start = topics.numbers.get(key, (topics.epoch, 0))
        self.stale = topics.suspicion(key)
        self.append = partial(topics.append, key, name="market")

    def append_first(self, event: Loggable, then: Callable[[str], object]) -> None:
        """Append an event to the durable log. `then` is called to deliver it once it is in the log."""
        self.waiting.append((event.seq, then))
        self._topics.append(self.key, event, "durable")

    def freshness(self, kind: str, stale: PublishedEvent | None) -> PublishedEvent | None:
        """Return the staleness event for a resuming subscriber of a topic of this kind; None for a status topic.

        A node that cannot read the log sends STALE to its subscribers. That event has no sequence number of its own. If the
        client reconnects to another node, its last `seq` does not show that it received STALE.
        """
        return None if kind == "status" else self._topics.freshness(self.key, stale)

    def read_on(self) -> Callable[[], bool]:
        """Start to read to the current end of the provider's logs. Return a function that returns True once that is done."""
        return self._topics.read_on()

    @property
    def is_known(self) -> bool:
        """False until this node has read the provider's logs for the first time."""
        return self._topics.is_loaded()


class ProviderTopics:
    """The topics of one provider. `relay.cluster.replica.ReplicatedTopics`, and the topics' half of a `ProviderPart`.

    Args:
        append: appends to a log of the provider.
        leading: returns True while this node owns the provider.
        is_loaded: returns True once this node has read the provider's logs for the first time.
        read_on: starts to read to their current end, and returns a function that returns True once that is done.
        clock, at: return monotonic seconds, and the wall time as RFC 3339.
    """

    def __init__(
        self,
        provider: str,
        *,
        append: Append,
        leading: Callable[[], bool],
        is_loaded: Callable[[], bool],
        read_on: Callable[[], Callable[[], bool]],
        clock: Callable[[], float],
        at: Callable[[], str],
        epochs: Callable[[], str],
    ) -> None:
        self.provider = provider
        self._append = append
        self._leading = leading
        self.is_loaded = is_loaded
        self.read_on = read_on
        self._clock = clock
        self._at = at
        self._epochs = epochs
        self.epoch = epochs()
        """The epoch of topics that have had no event yet. It is the same on all nodes."""
        self.numbers: dict[str, tuple[str, int]] = {}
        """Epoch and last sequence number of each topic that has had an event. They are kept when the hub drops the topic."""
        self.is_new = False
        """True while this node owns the provider in a life of the store that began empty or has lost data."""
        self.fills: Sequence[tuple[str | None, Trade]] = ()
        """In such a life, the fills in this node's histories, with their accounts, which must not be published again."""
        self._changed: set[str] = set()
        self._values: dict[str, LogEntry] = {}
        self._reason = ""
        """The reason that all topics are marked STALE on this node; empty while they are not."""
        self._suspicions: dict[str, LastValue | None] = {}
        """By the id of each STALE event published on this node only: the topic's staleness event before it, if any."""

    def attach(self, hub: Hub) -> None:
        """Set the hub. It creates the logs of its pinned topics during its own construction."""
        self._hub = hub

    # --- relay.cluster.replica.ReplicatedTopics ----------------------------------------------------------------------

    def publish(self, entry: LogEntry) -> None:
        """Publish an event that is in one of the logs."""
        stream = _stream(entry.topic)
        if not isinstance(stream, Stream):
            return
        now = self._clock()
        topic = self._hub.topic(stream, now)
        log = topic.log
        if isinstance(log, ReplicatedLog) and log.waiting and log.waiting[0][0] == entry.seq:
            _, then = log.waiting.popleft()
            self.numbers[entry.topic] = entry.epoch, entry.seq
            then("")
            return
        if place((topic.history.epoch, topic.seq), entry) is Placing.REPEATED:
            return
        self._send_away_early_ones(topic)
        self.numbers[entry.topic] = entry.epoch, entry.seq

        def read() -> PublishedEvent:
            found = decode(decode_data(entry.tail))
            return PublishedEvent(found.event, found.stamp, found.id)

        kept = HistoryEntry(entry.seq, entry.id, now, entry.head, entry.tail, Policy(entry.policy), entry.key)
        self._hub.follow(stream, kept, entry.epoch, entry.first, read, now)

    def take_over(self, *, new_epochs: bool) -> Iterable[tuple[LogName, LogEntry]]:
        """Return a gap event for each topic whose sequence skips ahead after failover or restarts in a new epoch."""
        self.is_new = new_epochs
        self.fills = [*self._fills()] if new_epochs else []
        if new_epochs and self.numbers:
            self.epoch = self._epochs()
        now, at = self._clock(), self._at()
        for key, (epoch, last) in list(self.numbers.items()):
            stream = _stream(key)
            assert isinstance(stream, Stream)
            name: LogName = "durable" if stream.topic.kind == "account" else "market"
            topic = self._hub.topic(stream, now)
            if new_epochs:
                gap = self._hub.gap_of(topic, "failover", None, None, at).entry(1, now, topic.kind)
                yield name, _entry(key, self.epoch, gap, 1)
            elif name == "market":
                seq = last + WINDOW
                gap = self._hub.gap_of(topic, "failover", last + 1, seq, at).entry(seq, now, topic.kind)
                yield name, _entry(key, epoch, gap, last + 1)

    # --- the owner ---------------------------------------------------------------------------------------------------

    def append(self, key: str, event: Loggable, name: LogName) -> None:
        """Append an event of a topic to the provider's log. Do nothing while another node owns the provider."""
        if not self._leading():
            return
        stream = _stream(key)
        assert isinstance(stream, Stream)
        entry = _entry(key, self._hub.topic(stream, self._clock()).history.epoch, event, event.seq)
        self._changed.add(key)
        if name == "market":
            self.numbers[key] = entry.epoch, entry.seq
        if event.head not in _QUALIFIERS:
            self._values[key] = entry
        self._append(name, entry)

    def checkpoint(self) -> Mapping[str, bytes]:
        """Return the states of the topics that have changed since the last call."""
        found: dict[str, bytes] = {}
        now = self._clock()
        for key in self._changed:
            stream = _stream(key)
            assert isinstance(stream, Stream)
            topic = self._hub.topic(stream, now)
            value = self._values.get(key) if topic.kind not in ("account", "status", "depth") else None
            seq = topic.history.position.seq
            if seq:
                found[key] = _encode(_Checkpoint(topic.history.epoch, seq, value))
        self._changed.clear()
        self._values.clear()
        return found

    def resign(self, unwritten: Sequence[Row]) -> None:
        """Drop events that are in no log, because the next owner will number the topics."""
        self._changed.clear()
        self._values.clear()
        for topic in self._hub.topics_of(self.provider):
            if isinstance(topic.log, ReplicatedLog):
                topic.log.waiting.clear()
            topic.unfollow()

    # --- the others --------------------------------------------------------------------------------------------------

    def adopt(self, epoch: str, states: Mapping[str, bytes], rows: Rows) -> None:
        """Restore topics from a checkpoint: sequence numbers, values and account states older than the logs."""
        now = self._clock()
        self.epoch = epoch
        for topic in self._hub.topics_of(self.provider):
            if not topic.seq:
                topic.history.epoch = epoch
        for key, raw in states.items():
            stream = _stream(key)
            if not isinstance(stream, Stream) or stream.provider != self.provider:
                continue
            state, topic = _checkpoint(raw), self._hub.topic(stream, now)
            if topic.seq and (topic.history.epoch != state.epoch or topic.seq >= state.seq):
                continue  # the topic has newer events from the logs
            self._send_away_early_ones(topic)
            if topic.seq:
                self._hub.gap(topic, "missed", topic.seq + 1, state.seq, now)
                if topic.kind == "account":
                    topic.last.clear()
            else:
                topic.history.restore(state.epoch, (), state.seq, now)
                topic.seq = state.seq
            self.numbers[key] = state.epoch, state.seq
            if (value := state.value) is not None and value.epoch == state.epoch:
                policy = Policy(value.policy)
                topic.last[""] = HistoryEntry(value.seq, value.id, now, value.head, value.tail, policy, value.key)
        for name, raw in rows.get(STATES, ()):
            key, _, state_name = name.partition("\n")
            stream = _stream(key)
            if isinstance(stream, Stream) and state_name not in (topic := self._hub.topic(stream, now)).last:
                topic.restore_state(state_name, raw, now)

    def _send_away_early_ones(self, topic: TopicState) -> None:
        """Close subscribers that joined while Redis was unreachable: they would take the old events read now for new."""
        if topic.channels and not self.is_loaded():
            self._hub.send_away(topic, "this relay knows only now what was published before: reconnect", self._clock())

    def _fills(self) -> Iterator[tuple[str | None, Trade]]:
        for topic in self._hub.topics_of(self.provider):
            if topic.kind == "account" and topic.stream is not None:
                for entry in topic.history.entries:
                    if isinstance(fill := decode(decode_data(entry.tail)).event, Trade):
                        yield topic.stream.topic.account, fill

    def states(self, account: str | None) -> Iterator[tuple[Order | Position | Account, float]]:
        """Yield the open states of an account as published on this node, each with its time."""
        for topic in self._hub.topics_of(self.provider):
            if topic.kind == "account" and topic.stream is not None and topic.stream.topic.account == account:
                for last in topic.last.values():
                    if isinstance(last, LastValue) and isinstance(last.published.event, Order | Position | Account):
                        yield last.published.event, last.at

    def suspect(self, reason: str) -> None:
        """Mark all topics STALE on this node for `reason`. An empty reason restores each topic's earlier staleness.

        A staleness event received through the log in the meantime is not overwritten.
        """
        now = self._clock()
        self._reason = reason
        for topic in self._hub.topics_of(self.provider):
            if topic.kind == "status" or not (topic.seq or topic.channels or topic.stale):
                continue
            assert topic.stream is not None
            stale = topic.stale.get("")
            is_own = stale is not None and stale.published.id in self._suspicions
            before = self._suspicions[stale.published.id] if stale is not None and is_own else stale
            if reason:
                warning = self._staleness(topic.stream, StalenessEvent.STALE, reason)
                self._suspicions[warning.id] = before
                self._hub.qualify(topic, warning, now)
            elif is_own:
                self._hub.qualify(topic, self._now(topic.stream, None if before is None else before.published), now)
        if not reason:
            self._suspicions.clear()

    def suspicion(self, key: str) -> PublishedEvent | None:
        """Return the STALE event with which a new topic begins while all topics are marked STALE on this node."""
        stream = _stream(key)
        if not self._reason or not isinstance(stream, Stream) or stream.topic.kind == "status":
            return None
        warning = self._staleness(stream, StalenessEvent.STALE, self._reason)
        self._suspicions[warning.id] = None
        return warning

    def freshness(self, key: str, stale: PublishedEvent | None) -> PublishedEvent:
        """Return a new STALE or FRESH event for a topic; ``stale`` is its current STALE event, None while it is fresh."""
        stream = _stream(key)
        assert isinstance(stream, Stream)
        return self._now(stream, stale)

    def _now(self, stream: Stream, stale: PublishedEvent | None) -> PublishedEvent:
        if stale is None:
            return self._staleness(stream, StalenessEvent.FRESH, None)
        return PublishedEvent(stale.event, stale.stamp, self._epochs())

    def _staleness(self, stream: Stream, event: StalenessEvent, reason: str | None) -> PublishedEvent:
        topic = stream.topic
        symbols = () if topic.symbol is None else (topic.symbol,)
        staleness = Staleness(
            event=event, of=topic.kind, symbols=symbols, timeframe=topic.timeframe, reason=reason, session=True
        )
        stamp = Stamp(provider=stream.provider, account=topic.account, received_at=self._at())
        return PublishedEvent(staleness, stamp, self._epochs())


#: The first bytes of gap and staleness events, which are not values.
_QUALIFIERS = frozenset(b'{"event":"%b"' % kind for kind in (b"gap", b"staleness"))


def _entry(key: str, epoch: str, event: Any, first: int) -> LogEntry:
    return LogEntry(
        key, epoch, first, event.seq, event.id, event.head, event.tail, event.policy.value, event.conflation_key
    )


def provider_of(row: Row) -> str:
    """Return the provider whose owner writes this row."""
    name = row.key.partition("\n")[0]
    stream = _stream(name)
    return stream.provider if isinstance(stream, Stream) else name.partition("/")[0]
