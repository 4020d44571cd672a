"""What a slow subscriber could not take, kept in order and within bounds.

Entries leave in the order they came in, except where a policy says otherwise:

- CONFLATE: one entry per (channel, topic); a newer one takes its place, unless something of the same channel stands
  behind it, then it moves to the end (a seq never runs backwards within a channel).
- SNAPSHOT: when there is no room, everything of that policy on the channel is replaced by one mark; when the mark's
  turn to be sent comes, a fresh snapshot is fetched. Until then whatever arrives for it is covered by that snapshot
  and not kept. What else arrives on the channel (a gap, staleness) goes before the mark, because the snapshot is newer.
- GAP: when there is still no room, the oldest are dropped; a mark at their place becomes one gap frame that names the
  seqs.
- NEVER_DROP and CONTROL stay. When nothing else can give way, the backlog is over its limits and the subscriber must
  go.

Order of giving way: books first (a snapshot repairs them completely), then public trades. Marks are not counted
against the limits: there is at most one per channel and run of dropped entries.
"""

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from relay.websocket.frames import compressed


class Policy(enum.Enum):
    """What may happen to a delivery that a slow subscriber cannot take."""

    CONFLATE = "conflate"
    """The latest of a topic replaces the one that waits."""
    GAP = "gap"
    """Dropped oldest first; a gap event stands where they were."""
    SNAPSHOT = "snapshot"
    """The channel's waiting deliveries are replaced by one fresh snapshot."""
    NEVER_DROP = "never_drop"
    """Kept; a subscriber that cannot take it is closed with 4100."""
    CONTROL = "control"
    """The protocol's own answers; kept like NEVER_DROP."""


class Delivery(bytes):
    """One event on one channel, encoded and framed once and shared by all subscribers of the channel.

    It is the frame itself, so that what a subscriber gets in one write is joined without being taken apart first.
    """

    channel: str
    """Channel name; "" for messages of the connection itself."""
    policy: Policy
    seq: int
    """The channel's sequence number of the event; 0 for CONTROL."""
    topic: str
    """What CONFLATE compares within the channel, where a channel carries several (a merged feed: the provider)."""
    twin: "Delivery | None" = None
    """What `compressed` has made."""

    def __new__(cls, frame: bytes, channel: str, policy: Policy, seq: int, topic: str = "") -> "Delivery":
        """`frame` is the whole WebSocket frame."""
        delivery = super().__new__(cls, frame)
        delivery.channel, delivery.policy, delivery.seq, delivery.topic = channel, policy, seq, topic
        return delivery

    def compressed(self) -> "Delivery":
        """The same for subscribers whose connections are compressed; made when the first of them gets it, for all.

        What belongs to no channel is short: it stays as it is.
        """
        if not self.channel:
            return self
        if self.twin is None:
            self.twin = Delivery(compressed(self), self.channel, self.policy, self.seq, self.topic)
        return self.twin


class OverflowSource(Protocol):
    """Where the backlog gets the frames that stand for what it dropped; the hub implements it."""

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        """The frame of a `gap` event: seqs first_seq..last_seq of this channel were dropped for this subscriber."""
        ...

    def snapshot_frame(self, channel: str) -> Delivery | None:
        """A fresh snapshot of the channel's book, or None when there is no book.

        Its `seq` is that of the last event it contains: later deltas have larger ones.
        """
        ...


@attrs.frozen(kw_only=True)
class OutboxLimits:
    """How much a slow subscriber may have waiting."""

    messages: int = attrs.field(default=4096, validator=attrs.validators.ge(1))
    """Waiting deliveries."""
    bytes: int = attrs.field(default=256 * 1024, validator=attrs.validators.ge(1))
    """Waiting frame bytes (the kernel's own send buffer comes on top; see SubscriberLimits.notsent_lowat)."""
    chunk: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(1))
    """Bytes joined into one write while draining."""


@attrs.define(eq=False)
class Mark:
    """Stands in the backlog for deliveries that gave way."""

    channel: str
    policy: Policy
    first: int
    last: int


Entry = Delivery | Mark
_DROPPABLE = frozenset({Policy.CONFLATE, Policy.GAP, Policy.SNAPSHOT})


class Backlog:
    """The waiting deliveries of one slow subscriber. Made when the kernel first refuses bytes, dropped when all is
    sent.
    """

    def __init__(self, limits: OutboxLimits, on_drop: Callable[[str, Policy], object]) -> None:
        self._limits = limits
        self._on_drop = on_drop
        self._entries: dict[int, Entry] = {}
        self._channels: dict[str, dict[int, Entry]] = {}
        self._latest: dict[tuple[str, str], int] = {}
        self._gaps: dict[int, Delivery] = {}
        self._books: dict[str, int] = {}
        self._marked: dict[str, int] = {}
        self._next = 0
        self.messages = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def admit(self, delivery: Delivery) -> bool:
        """Take `delivery` as its policy says; False when the limits are exceeded and nothing can give way."""
        if delivery.policy is Policy.SNAPSHOT and delivery.channel in self._marked:
            mark = self._entries[self._marked[delivery.channel]]
            assert isinstance(mark, Mark)
            self._cover(delivery, mark)
            return True
        if delivery.policy is Policy.CONFLATE and self._replace(delivery):
            return self._fits()
        self._append(delivery)
        if delivery.channel in self._marked:
            self._mark(self._remove(self._marked[delivery.channel]))
        return self._fits()

    def discard(self, channel: str) -> None:
        """Forget the channel's droppable deliveries and its marks."""
        for key, entry in list(self._channels.get(channel, {}).items()):
            if entry.policy in _DROPPABLE:
                self._remove(key)

    def head(self) -> Iterator[tuple[int, Entry]]:
        """What leaves next, in order; remove each by `sent` once it is on its way."""
        return iter(self._entries.items())

    def sent(self, key: int) -> None:
        """The entry left."""
        self._remove(key)

    def _replace(self, delivery: Delivery) -> bool:
        """Latest wins. False when there was none, or when it must stand at the end to keep the channel's order."""
        key = self._latest.get((delivery.channel, delivery.topic))
        if key is None:
            return False
        self._on_drop(delivery.channel, Policy.CONFLATE)
        if next(reversed(self._channels[delivery.channel])) != key:
            self._remove(key)
            return False
        old = self._entries[key]
        self.bytes += len(delivery) - (len(old) if isinstance(old, Delivery) else 0)
        self._entries[key] = self._channels[delivery.channel][key] = delivery
        return True

    def _append(self, delivery: Delivery) -> None:
        key = self._place_last(delivery)
        self.messages += 1
        self.bytes += len(delivery)
        match delivery.policy:
            case Policy.CONFLATE:
                self._latest[delivery.channel, delivery.topic] = key
            case Policy.GAP:
                self._gaps[key] = delivery
            case Policy.SNAPSHOT:
                self._books[delivery.channel] = self._books.get(delivery.channel, 0) + 1

    def _mark(self, mark: Entry) -> None:
        self._marked[mark.channel] = self._place_last(mark)

    def _place_last(self, entry: Entry) -> int:
        key = self._next
        self._next += 1
        self._place(key, entry)
        return key

    def _place(self, key: int, entry: Entry) -> None:
        self._entries[key] = entry
        self._channels.setdefault(entry.channel, {})[key] = entry

    def _remove(self, key: int) -> Entry:
        entry = self._entries.pop(key)
        of_channel = self._channels[entry.channel]
        del of_channel[key]
        if not of_channel:
            del self._channels[entry.channel]
        if isinstance(entry, Delivery):
            self._uncount(key, entry)
        elif entry.policy is Policy.SNAPSHOT:
            del self._marked[entry.channel]
        return entry

    def _uncount(self, key: int, delivery: Delivery) -> None:
        self.messages -= 1
        self.bytes -= len(delivery)
        match delivery.policy:
            case Policy.CONFLATE:
                del self._latest[delivery.channel, delivery.topic]
            case Policy.GAP:
                del self._gaps[key]
            case Policy.SNAPSHOT:
                self._books[delivery.channel] -= 1
                if not self._books[delivery.channel]:
                    del self._books[delivery.channel]

    def _fits(self) -> bool:
        while self.messages > self._limits.messages or self.bytes > self._limits.bytes:
            if self._books:
                self._drop_book(next(iter(self._books)))
            elif self._gaps:
                self._drop_oldest_gap()
            else:
                return False
        return True

    def _drop_book(self, channel: str) -> None:
        keys = [key for key, entry in self._channels[channel].items() if entry.policy is Policy.SNAPSHOT]
        first = self._entries[keys[0]]
        assert isinstance(first, Delivery)
        mark = Mark(channel, Policy.SNAPSHOT, first.seq, first.seq)
        for key in keys:
            entry = self._remove(key)
            assert isinstance(entry, Delivery)
            self._cover(entry, mark)
        self._mark(mark)

    def _cover(self, delivery: Delivery, mark: Mark) -> None:
        mark.last = max(mark.last, delivery.seq)
        self._on_drop(delivery.channel, Policy.SNAPSHOT)

    def _drop_oldest_gap(self) -> None:
        key, delivery = next(iter(self._gaps.items()))
        self._on_drop(delivery.channel, Policy.GAP)
        before = self._before(delivery.channel, key)
        if isinstance(before, Mark) and before.policy is Policy.GAP:
            before.last = delivery.seq
            self._remove(key)
        else:
            self._uncount(key, delivery)
            self._place(key, Mark(delivery.channel, Policy.GAP, delivery.seq, delivery.seq))

    def _before(self, channel: str, key: int) -> Entry | None:
        """What stands before `key` on its channel; the oldest of a policy stands near the front, so this is a short
        walk.
        """
        before = None
        for other, entry in self._channels[channel].items():
            if other == key:
                break
            before = entry
        return before
