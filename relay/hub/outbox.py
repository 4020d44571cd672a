"""The bounded outbox of one subscriber: the deliveries that wait to be sent, and the policy for a slow subscriber.

While the socket keeps up, `put` appends to the pending deliveries and adds the outbox to the flush queue once; `flush` joins
the deliveries and offers them to the socket in one write. No policy is applied. (`Channel.deliver` inlines `put`.) Only the
bytes that the kernel does not accept go to the `Backlog`. It is bounded in messages and in bytes, and applies each
delivery's policy.

Invariants:

- The rest of a partly sent frame is sent first, so no frame is ever split by another.
- Within a channel a subscriber never receives an older seq after a newer one.
- Each dropped delivery is counted and visible to the subscriber: by a gap frame, by a snapshot that covers it, or, if a
  newer one has replaced it, by the jump of the sequence number. If nothing more can be dropped, the connection is closed;
  deliveries that still wait then are not counted.
- After `close` nothing more is accepted, and the close frame is the last frame.

The outbox does not access the socket: the server attaches a function that writes.
"""

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from relay.websocket.frames import compressed, encode_close, encode_text

OVERFLOW_CODE = 4100
"""Pusher Channels protocol: 4100-4199, over capacity; reconnect after backing off one second or more."""
OVERFLOW = OVERFLOW_CODE, "too slow: outbox is full"
"""`Outbox.closing` of a subscriber that exceeded the limits."""


class Policy(enum.StrEnum):
    """The treatment of a delivery that a slow subscriber cannot take."""

    CONFLATE = "conflate"
    """Replaces the waiting delivery of the same channel and conflation key. If deliveries with different keys exceed the
    limits, the connection is closed with 4100."""
    GAP = "gap"
    """Dropped oldest first; a gap event is sent in its place."""
    SNAPSHOT = "snapshot"
    """The channel's waiting deliveries are replaced by one fresh snapshot."""
    NEVER_DROP = "never_drop"
    """Never dropped; if it does not fit into the limits, the connection is closed with 4100."""
    CONTROL = "control"
    """For the protocol's own answers; treated like NEVER_DROP."""


class Delivery(bytes):
    """One event on one channel, encoded and framed once and shared by all subscribers of the channel.

    It is a bytes object, the frame itself, so that the deliveries of one write are joined without an attribute access each.
    """

    channel: str
    """Channel name; "" for messages of the connection itself."""
    policy: Policy
    seq: int
    """The channel's sequence number of the event; 0 for CONTROL."""
    conflation_key: str
    """Key that CONFLATE compares within the channel, where a channel carries several (a merged feed: the provider)."""
    read_at: float = 0.0
    """Time at which the provider's message was read, monotonic seconds; 0 if there is none, or for a past event."""
    twin: "Delivery | None" = None
    """Result of `compressed`, once it was made."""

    def __new__(cls, frame: bytes, channel: str, policy: Policy, seq: int, conflation_key: str = "") -> "Delivery":
        """Make a delivery of a whole WebSocket frame."""
        delivery = super().__new__(cls, frame)
        delivery.channel, delivery.policy, delivery.seq = channel, policy, seq
        delivery.conflation_key = conflation_key
        return delivery

    def compressed(self) -> "Delivery":
        """Return the delivery for compressed connections; it is made once and shared by all of them.

        Messages that belong to no channel are short and stay as they are.
        """
        if not self.channel:
            return self
        if self.twin is None:
            self.twin = Delivery(compressed(self), self.channel, self.policy, self.seq, self.conflation_key)
            self.twin.read_at = self.read_at
        return self.twin


def control(text: str, channel: str = "") -> Delivery:
    """Make a delivery of one of the protocol's own messages."""
    return Delivery(encode_text(text.encode(errors="replace")), channel, Policy.CONTROL, 0)


def _close_frame(code: int, reason: str) -> Delivery:
    return Delivery(encode_close(code, reason), "", Policy.CONTROL, 0)


class OverflowSource(Protocol):
    """Makes the frames that an outbox sends in place of dropped deliveries; `relay.hub.app.AppState` implements it."""

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        """Return the frame of a `gap` event: this subscriber did not get first_seq..last_seq of the channel."""
        ...

    def snapshot_frame(self, channel: str) -> Delivery | None:
        """Return a fresh snapshot of the channel's book, or None when there is no book.

        Its `seq` is that of the last event it contains; later deltas have larger ones.
        """
        ...

    def count_drop(self, channel: str, policy: Policy) -> None:
        """Count a delivery that was conflated, dropped or covered by a snapshot."""
        ...


#: Policies under which a delivery may be dropped, because a newer value, a gap event or a snapshot replaces it.
DROPPABLE = frozenset({Policy.CONFLATE, Policy.GAP, Policy.SNAPSHOT})


@attrs.frozen(kw_only=True)
class OutboxLimits:
    """Limits of the deliveries that wait for one slow subscriber, and how deliveries are joined into writes."""

    messages: int = attrs.field(default=4096, validator=attrs.validators.ge(1))
    """Most waiting deliveries."""
    bytes: int = attrs.field(default=256 * 1024, validator=attrs.validators.ge(1))
    """Most waiting bytes (in addition to the kernel's send buffer; see `server.subscribers.notsent_lowat`)."""
    chunk: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(1))
    """Most bytes joined into one write while draining."""
    coalesce: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(10)])
    """Seconds for which market data are delayed, so that more of them fit into one write. 0: no delay. Accounts, replies,
    statuses and the apps' own events are never delayed; delayed data of the same subscriber are sent before them."""


_DEFAULT_LIMITS = OutboxLimits()
_FIRST = -1
"""The `seq` of the delivery that `Outbox.attach` puts before all others."""


class Outbox:
    """The queue of deliveries to one subscriber.

    The hub calls `put` (or `append`, then `mark_dirty` or `hold`), `close` and `discard`. The server calls `attach`, `flush`
    and `drain`.
    """

    __slots__ = (  # noqa: RUF023 (the slots every delivery touches come first: one cache line)
        "append",
        "dirty",
        "held",
        "pending",
        "slot",
        "_backlog",
        "_write",
        "_open",
        "_full",
        "_queue",
        "_holding",
        "_limits",
        "_rest",
        "_source",
        "_wake",
        "closing",
    )

    append: Callable[[Delivery], object]
    """Adds to `pending`; does nothing once the outbox is closed."""
    dirty: bool
    """True while the outbox is in the flush queue (or has no queue yet)."""
    held: bool
    """True while the outbox waits for the flush after the delay of `OutboxLimits.coalesce`."""
    pending: list[Delivery]
    """Deliveries put since the last flush."""
    slot: int
    """Set by the server: index of the socket in its batch writer; -1 if it is written individually."""
    closing: tuple[int, str] | None
    """Close code and reason once `close` was called or the limits were exceeded (4100); None while open."""

    def __init__(self, source: OverflowSource, limits: OutboxLimits | None = None) -> None:
        self._source = source
        self._limits = limits or _DEFAULT_LIMITS
        self.pending = []
        self.append = self.pending.append
        self._backlog: Backlog | None = None
        self._rest = b""
        self._open, self._full = True, False
        self._queue: list[Outbox] = []
        self._holding: Callable[[Outbox], object] | None = None
        self._wake: Callable[[], object] = _no_wake
        self._write: Callable[[bytes], int] = _blocked_write
        self.dirty, self.held = True, False
        self.slot = -1
        self.closing = None

    def attach(
        self,
        write: Callable[[bytes], int],
        queue: list["Outbox"],
        wake: Callable[[], object] | None = None,
        first: bytes = b"",
        holding: Callable[["Outbox"], object] | None = None,
    ) -> None:
        """Connect the outbox to a socket, and send the deliveries put before.

        Args:
            write: sends bytes and returns how many were accepted, or raises BlockingIOError.
            queue: the outboxes to flush. An outbox with something to send appends itself once; the queue's owner calls
                `flush` of each and empties the queue.
            wake: called when an outbox is about to be appended to the empty queue.
            first: bytes that are sent before everything else.
            holding: called with an outbox whose deliveries are delayed (`OutboxLimits.coalesce`); None if there is no delay.
        """
        if first:
            self.pending.insert(0, Delivery(first, "", Policy.CONTROL, _FIRST))
        self._write, self._queue, self._wake = write, queue, wake or _no_wake
        self._holding = holding
        self.dirty = False
        if self.pending:
            self._enqueue()

    def mark_dirty(self) -> None:
        """Append the outbox to the flush queue, unless it is closed. Must not be called while `dirty`."""
        if self._open:  # `_enqueue`, written out: this is the hot path
            self.dirty = True
            queue = self._queue
            if not queue:
                self._wake()
            queue.append(self)

    def hold(self) -> None:
        """Have the outbox flushed after the delay of `OutboxLimits.coalesce`. Must not be called while `dirty` or `held`."""
        if self._open:
            if self._holding is None:
                self.mark_dirty()
            else:
                self.held = True
                self._holding(self)

    def _enqueue(self) -> None:
        self.dirty = True
        if not self._queue:
            self._wake()
        self._queue.append(self)

    @property
    def blocked(self) -> bool:
        """True while there are bytes that the kernel did not accept: call `drain` when the socket is writable."""
        return self._backlog is not None

    @property
    def waiting(self) -> tuple[int, int]:
        """Number of messages and bytes that the kernel did not accept yet."""
        backlog = self._backlog
        return (0, 0) if backlog is None else (backlog.messages, backlog.bytes + len(self._rest))

    @property
    def fill(self) -> float:
        """The share of the limits in use, 0 to 1: the larger one of messages and bytes."""
        messages, size = self.waiting
        return max(messages / self._limits.messages, size / self._limits.bytes)

    @property
    def empty(self) -> bool:
        """True if nothing waits to be sent."""
        return self._backlog is None and not self.pending

    def put(self, delivery: Delivery) -> None:
        """Send `delivery` with the next flush; if the subscriber is slow, according to its policy."""
        self.append(delivery)
        if not self.dirty:
            self.mark_dirty()

    def close(self, code: int, reason: str = "", *, waiting: bool = True) -> None:
        """Send the waiting deliveries (drop them, if not `waiting`), then a close frame. Nothing more is accepted.

        Further calls have no effect. The `first` bytes of `attach` are never dropped, as the close frame needs them.
        """
        if not self._open:
            return
        if not waiting:
            del self.pending[1 if self.pending and self.pending[0].seq == _FIRST else 0 :]
            if self._backlog is not None:
                self._backlog = self._new_backlog()
        self.put(_close_frame(code, reason))
        self._stop_accepting(code, reason)

    def _stop_accepting(self, code: int, reason: str) -> None:
        self._open = False
        self.append = _ignore
        self.closing = (code, reason)

    def discard(self, channel: str) -> None:
        """Drop the waiting deliveries of a channel the subscriber has left, except those that are never dropped."""
        if self._backlog is not None:
            self._backlog.discard(channel)

    def flush(self, join: Callable[[list[Delivery]], bytes] = b"".join) -> bool:
        """Offer the pending deliveries to the socket in one write. Exceptions of `write` are raised.

        `join` concatenates deliveries; a caller that flushes many outboxes may cache the result for equal deliveries.
        Returns True if all were sent and the outbox is open. Otherwise check `blocked` and `closing`.
        """
        self.dirty = False
        pending = self.pending
        if self._backlog is not None:
            return self._admit_all(pending)
        if not pending:
            return self._open
        data = pending[0] if len(pending) == 1 else join(pending)
        write = self._write
        try:
            sent = write(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            return self.advance(data, sent)
        pending.clear()
        return self._open

    def advance(self, data: bytes, sent: int) -> bool:
        """Account for a partial write: only `sent` bytes of `data`, the joined pending deliveries, were accepted.

        The rest of a started frame is kept; the policies decide about the other deliveries. Returns False, as `flush` does.
        """
        self._backlog = self._new_backlog()
        end = 0
        for delivery in self.pending:
            start, end = end, end + len(delivery)
            if start >= sent:
                self._admit(delivery)
            elif end > sent:
                self._rest = data[sent:end]
        self.pending.clear()
        return False

    def drain(self) -> bool:
        """Offer the backlog to the socket in joined writes. Returns True if all of it was sent."""
        if self._backlog is not None and self.pending:
            self._admit_all(self.pending)  # first, so that no snapshot fetched now overtakes what was put before it
        while self._backlog is not None:
            pieces = self._next_pieces(self._backlog)
            if not pieces:
                self._backlog = None
                break
            data = b"".join([frame for frame, _ in pieces])
            try:
                sent = self._write(data)
            except BlockingIOError:
                return False
            self._remove_sent(self._backlog, pieces, sent)
            if sent < len(data):
                return False
        return True

    def _admit_all(self, pending: list[Delivery]) -> bool:
        for delivery in pending:
            self._admit(delivery)
        pending.clear()
        return False

    def _admit(self, delivery: Delivery) -> None:
        assert self._backlog is not None
        if not self._full and not self._backlog.admit(delivery):
            self._full = True
            self._stop_accepting(*OVERFLOW)
            self._backlog = self._new_backlog()
            self._backlog.admit(_close_frame(*OVERFLOW))

    def _new_backlog(self) -> "Backlog":
        return Backlog(self._limits, self._source.count_drop)

    def _next_pieces(self, backlog: "Backlog") -> "list[_Piece]":
        """Return the next frames to offer: the rest of a started frame, then entries up to one chunk, marks replaced."""
        pieces: list[_Piece] = [(self._rest, None)] if self._rest else []
        size = len(self._rest)
        for key, entry in backlog.head():
            if size >= self._limits.chunk:
                break
            frame = entry if isinstance(entry, Delivery) else self._replacement(entry)
            pieces.append((frame, key))
            size += len(frame)
        return pieces

    def _replacement(self, mark: "DropMark") -> bytes:
        """Return the frame that is sent in place of the dropped deliveries."""
        snapshot = self._source.snapshot_frame(mark.channel) if mark.policy is Policy.SNAPSHOT else None
        return self._source.gap_frame(mark.channel, mark.first, mark.last) if snapshot is None else snapshot

    def _remove_sent(self, backlog: "Backlog", pieces: "list[_Piece]", sent: int) -> None:
        end = 0
        self._rest = b""
        for frame, key in pieces:
            start, end = end, end + len(frame)
            if start >= sent:
                break
            if key is not None:
                backlog.remove(key)
            if end > sent:
                self._rest = frame[sent - start :]


_Piece = tuple[bytes, int | None]
"""A frame to offer and its key in the backlog; None for the rest of a started frame."""


def _ignore(_: Delivery) -> None:
    """Ignore the delivery: the outbox is closed."""


def _no_wake() -> None:
    """Do nothing: no socket is attached yet, or the owner of the queue polls it."""


def _blocked_write(_: bytes) -> int:
    raise BlockingIOError


class CompressedOutbox(Outbox):
    """The outbox of a subscriber whose connection is compressed (permessage-deflate).

    It receives plain deliveries and stores their compressed twins, which all compressed subscribers of a channel share. So
    nothing is compressed unless a subscriber needs it. Order, policies and limits are as in `Outbox`.
    """

    __slots__ = ()

    def __init__(self, source: OverflowSource, limits: OutboxLimits | None = None) -> None:
        super().__init__(_CompressedSource(source), limits)
        append = self.append

        def append_twin(delivery: Delivery) -> None:
            append(delivery.twin or delivery.compressed())  # `twin` is usually there: no call per delivery

        self.append = append_twin


class _CompressedSource:
    """Compresses the frames of another source."""

    __slots__ = ("_source", "count_drop")

    def __init__(self, source: OverflowSource) -> None:
        self._source = source
        self.count_drop = source.count_drop

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return compressed(self._source.gap_frame(channel, first_seq, last_seq))

    def snapshot_frame(self, channel: str) -> Delivery | None:
        snapshot = self._source.snapshot_frame(channel)
        return None if snapshot is None else snapshot.compressed()


@attrs.define(eq=False)
class DropMark:
    """Takes the place of dropped deliveries in the backlog; ``first`` to ``last`` are their sequence numbers."""

    channel: str
    policy: Policy
    first: int
    last: int


Waiting = Delivery | DropMark


class Backlog:
    """The waiting deliveries of one slow subscriber, in order and within bounds.

    Created when the kernel first does not accept all bytes, deleted when everything is sent. Entries are sent in the order
    in which they were added, with these exceptions by policy:

    - CONFLATE: one entry per (channel, conflation key). A newer one replaces it in place, unless the same channel has a
      later entry; then it is appended, because sequence numbers must not decrease within a channel.
    - SNAPSHOT: if there is no room, all entries of that policy on the channel are replaced by one mark. When the mark is
      sent, a fresh snapshot is fetched, which covers all deliveries of that policy that arrived until then. Other deliveries
      of the channel (a gap, staleness) are sent before the mark, because the snapshot is newer.
    - GAP: if there is still no room, the oldest are dropped; a mark in their place is sent as one gap frame that names their
      sequence numbers.
    - NEVER_DROP and CONTROL are never dropped, nor is the newest of each CONFLATE key. If nothing else can be dropped, the
      backlog exceeds its limits and the connection must be closed.

    Books are dropped first (a snapshot repairs them completely), then public trades. Marks are not counted against the
    limits: there is at most one per channel and run of dropped entries.
    """

    def __init__(self, limits: OutboxLimits, on_drop: Callable[[str, Policy], object]) -> None:
        """Make an empty backlog; `on_drop(channel, policy)` is called for each delivery that is dropped or replaced."""
        self._limits = limits
        self._on_drop = on_drop
        self._entries: dict[int, Waiting] = {}
        self._channels: dict[str, dict[int, Waiting]] = {}
        self._latest: dict[tuple[str, str], int] = {}
        self._gaps: dict[int, Delivery] = {}
        self._books: dict[str, int] = {}
        self._marked: dict[str, int] = {}
        self._next = 0
        self.messages = 0
        self.bytes = 0

    def admit(self, delivery: Delivery) -> bool:
        """Add `delivery` according to its policy. Return False if the limits are exceeded and nothing can be dropped."""
        if delivery.policy is Policy.SNAPSHOT and delivery.channel in self._marked:
            mark = self._entries[self._marked[delivery.channel]]
            assert isinstance(mark, DropMark)
            self._cover(delivery, mark)
            return True
        if delivery.policy is Policy.CONFLATE and self._replace(delivery):
            return self._fits()
        self._append(delivery)
        if delivery.channel in self._marked:
            self._insert_mark(self.remove(self._marked[delivery.channel]))
        return self._fits()

    def discard(self, channel: str) -> None:
        """Drop the channel's droppable deliveries and its marks."""
        for key, entry in list(self._channels.get(channel, {}).items()):
            if entry.policy in DROPPABLE:
                self.remove(key)

    def head(self) -> Iterator[tuple[int, Waiting]]:
        """Return the entries in the order they are to be sent, by key; `remove` each once it was sent."""
        return iter(self._entries.items())

    def _replace(self, delivery: Delivery) -> bool:
        """Drop the waiting delivery of the same channel and conflation key, and put `delivery` in its place.

        Return False if `delivery` still has to be appended: there was none, or the channel has a later entry.
        """
        key = self._latest.get((delivery.channel, delivery.conflation_key))
        if key is None:
            return False
        self._on_drop(delivery.channel, Policy.CONFLATE)
        if next(reversed(self._channels[delivery.channel])) != key:
            self.remove(key)
            return False
        old = self._entries[key]
        self.bytes += len(delivery) - (len(old) if isinstance(old, Delivery) else 0)
        self._entries[key] = self._channels[delivery.channel][key] = delivery
        return True

    def _append(self, delivery: Delivery) -> None:
        key = self._insert_last(delivery)
        self.messages += 1
        self.bytes += len(delivery)
        match delivery.policy:
            case Policy.CONFLATE:
                self._latest[delivery.channel, delivery.conflation_key] = key
            case Policy.GAP:
                self._gaps[key] = delivery
            case Policy.SNAPSHOT:
                self._books[delivery.channel] = self._books.get(delivery.channel, 0) + 1

    def _insert_mark(self, mark: Waiting) -> None:
        self._marked[mark.channel] = self._insert_last(mark)

    def _insert_last(self, entry: Waiting) -> int:
        key = self._next
        self._next += 1
        self._insert(key, entry)
        return key

    def _insert(self, key: int, entry: Waiting) -> None:
        self._entries[key] = entry
        self._channels.setdefault(entry.channel, {})[key] = entry

    def remove(self, key: int) -> Waiting:
        """Remove an entry and return it."""
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
                del self._latest[delivery.channel, delivery.conflation_key]
            case Policy.GAP:
                del self._gaps[key]
            case Policy.SNAPSHOT:
                self._books[delivery.channel] -= 1
                if not self._books[delivery.channel]:
                    del self._books[delivery.channel]

    def _fits(self) -> bool:
        while self.messages > self._limits.messages or self.bytes > self._limits.bytes:
            if self._books:
                self._drop_book_entries(next(iter(self._books)))
            elif self._gaps:
                self._drop_oldest_gap()
            else:
                return False
        return True

    def _drop_book_entries(self, channel: str) -> None:
        keys = [key for key, entry in self._channels[channel].items() if entry.policy is Policy.SNAPSHOT]
        first = self._entries[keys[0]]
        assert isinstance(first, Delivery)
        mark = DropMark(channel, Policy.SNAPSHOT, first.seq, first.seq)
        for key in keys:
            entry = self.remove(key)
            assert isinstance(entry, Delivery)
            self._cover(entry, mark)
        self._insert_mark(mark)

    def _cover(self, delivery: Delivery, mark: DropMark) -> None:
        mark.last = max(mark.last, delivery.seq)
        self._on_drop(delivery.channel, Policy.SNAPSHOT)

    def _drop_oldest_gap(self) -> None:
        key, delivery = next(iter(self._gaps.items()))
        self._on_drop(delivery.channel, Policy.GAP)
        before = self._before(delivery.channel, key)
        if isinstance(before, DropMark) and before.policy is Policy.GAP:
            before.last = delivery.seq
            self.remove(key)
        else:
            self._uncount(key, delivery)
            self._insert(key, DropMark(delivery.channel, Policy.GAP, delivery.seq, delivery.seq))

    def _before(self, channel: str, key: int) -> Waiting | None:
        """Return the entry before `key` on its channel. The oldest of a policy is near the front, so the walk is short."""
        before = None
        for other, entry in self._channels[channel].items():
            if other == key:
                break
            before = entry
        return before
