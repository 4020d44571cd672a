"""The bounded outbox of one subscriber: what waits to be sent, and what may happen to it when the subscriber is slow.

While the socket keeps up, `put` appends to this tick's list and marks the outbox dirty once; `flush` joins the list
and offers it to the socket in one write. No policy runs. A channel with many subscribers does what `put` does without
the call: `append`, and `mark` where the outbox is not `dirty` yet. Only what the kernel refuses goes on to the backlog (see
`backlog.py`), where it is bounded in messages and in bytes and each delivery's policy decides.

Invariants:

- the rest of a partly sent frame always leaves first, so no frame is ever split by another;
- within a channel a subscriber never sees an older seq after a newer one;
- whatever was dropped is announced (a gap frame, or a snapshot that covers it) and counted, or the subscriber is
  closed;
- after `close` nothing more is accepted, and the close frame is the last frame.

The outbox touches no socket: the edge gives it a function that writes. `flush_all` (`flush.py`) flushes many outboxes.
"""

from collections.abc import Callable, Mapping

import attrs

from relay.hub.backlog import Backlog, Delivery, Mark, OutboxLimits, OverflowSource, Policy
from relay.websocket.frames import encode_close

__all__ = ["OVERFLOW_CODE", "Delivery", "Joined", "Outbox", "OutboxLimits", "OverflowSource", "Policy"]

OVERFLOW_CODE = 4100
"""Pusher Channels protocol: 4100-4199, over capacity; reconnect after backing off one second or more."""


@attrs.define(eq=False)
class Joined:
    """Deliveries that were joined last: subscribers of the same channels have the same ones, so it is done once for all."""

    deliveries: list[Delivery] = attrs.field(factory=list)
    data: bytes = b""


class Outbox:
    """Everything on its way to one subscriber.

    The hub calls `put` (or `append` and `mark`), `close` and `discard`; the edge calls `attach`, `flush` and `drain`.
    """

    __slots__ = (  # noqa: RUF023 (what every delivery touches stands together: one cache line)
        "append",
        "dirty",
        "pending",
        "place",
        "_backlog",
        "_write",
        "_open",
        "_full",
        "_queue",
        "_limits",
        "_on_drop",
        "_rest",
        "_source",
        "_wake",
        "closing",
        "conflated",
        "_losses",
        "gapped",
        "resnapshotted",
    )

    append: Callable[[Delivery], object]
    """Adds to this tick's deliveries; does nothing once the outbox is closed."""
    dirty: bool
    """Stands in the queue of outboxes to flush (or has no queue yet)."""
    pending: list[Delivery]
    """This tick's deliveries."""
    place: int
    """Names the socket for whoever writes to many at once; -1 where this outbox is always flushed by itself."""
    closing: tuple[int, str] | None
    """Close code and reason once `close` was called or the limits were exceeded (4100); None while open."""
    conflated: int
    """Deliveries replaced by a newer one of their topic."""
    gapped: int
    """Deliveries dropped and announced by a gap event."""
    resnapshotted: int
    """Deliveries replaced by a fresh snapshot."""

    def __init__(
        self,
        source: OverflowSource,
        limits: OutboxLimits | None = None,
        on_drop: Callable[[str, Policy], object] | None = None,
    ) -> None:
        """`on_drop(channel, policy)` is called for each delivery that gave way, for the relay-wide counters."""
        self._source = source
        self._limits = limits or _DEFAULT_LIMITS
        self._on_drop = on_drop
        self.pending = []
        self.append = self.pending.append
        self._backlog: Backlog | None = None
        self._rest = b""
        self._open, self._full = True, False
        self._queue: list[Outbox] = []
        self._wake: Callable[[], object] = _nothing
        self._write: Callable[[bytes], int] = _refuse
        self.dirty = True
        self.place = -1
        self.closing = None
        self._losses: dict[str, int] | None = None  # made when needed: most subscribers are never slow
        self.conflated = self.gapped = self.resnapshotted = 0

    def attach(
        self,
        write: Callable[[bytes], int],
        queue: list["Outbox"],
        wake: Callable[[], object] | None = None,
        first: bytes = b"",
        place: int = -1,
    ) -> None:
        """Connect to a socket. Until then whatever is put waits.

        `write` takes bytes and returns how many were taken, or raises BlockingIOError. An outbox with something to
        send puts itself into `queue`, once; when that was empty before, it calls `wake` first. Whoever owns the queue
        calls `flush` of each and empties it. `first` is what the socket gets before everything else; for `place` see
        there.
        """
        if first:
            self.pending.insert(0, Delivery(first, "", Policy.CONTROL, _FIRST))
        self._write, self._queue, self._wake, self.place = write, queue, wake or _nothing, place
        self.dirty = False
        if self.pending:
            self._mark()

    def mark(self) -> None:
        """Stand in the queue of outboxes to flush. Not to be called when `dirty`."""
        if self._open:  # `_mark`, written out: this is the hot path
            self.dirty = True
            queue = self._queue
            if not queue:
                self._wake()
            queue.append(self)

    def _mark(self) -> None:
        self.dirty = True
        if not self._queue:
            self._wake()
        self._queue.append(self)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Per channel: deliveries this subscriber did not get as they were (conflated, gapped, covered by a snapshot)."""
        return self._losses or {}

    @property
    def blocked(self) -> bool:
        """The kernel refused bytes and not all of them have left since: `drain` is to be called when it takes more."""
        return self._backlog is not None

    @property
    def empty(self) -> bool:
        """Nothing waits."""
        return self._backlog is None and not self.pending

    def put(self, delivery: Delivery) -> None:
        """Send `delivery` at the end of this tick, or as its policy says once the subscriber is slow."""
        self.append(delivery)
        if not self.dirty:
            self.mark()

    def close(self, code: int, reason: str = "", *, waiting: bool = True) -> None:
        """Send what waits (or drop it, when not `waiting`), then a close frame, then nothing more. The first call
        counts. What `attach` was given as `first` is not dropped: a close frame makes no sense before it.
        """
        if not self._open:
            return
        if not waiting:
            del self.pending[1 if self.pending and self.pending[0].seq == _FIRST else 0 :]
            if self._backlog is not None:
                self._backlog = self._new_backlog()
        self.put(_close_delivery(code, reason))
        self._shut(code, reason)

    def _shut(self, code: int, reason: str) -> None:
        self._open = False
        self.append = _ignore
        self.closing = (code, reason)

    def discard(self, channel: str) -> None:
        """Forget what waits for a channel the subscriber has left, except what is never dropped."""
        if self._backlog is not None:
            self._backlog.discard(channel)

    def flush(self, joined: Joined | None = None) -> bool:
        """Offer this tick's deliveries to the socket in one write; raises what `write` raises.

        True when all left and the outbox is open: nothing else is to be done. False: look at `blocked` and `closing`.
        `joined` is shared by the outboxes that are flushed one after the other.
        """
        self.dirty = False
        pending = self.pending
        if self._backlog is not None:
            return self._hold(pending)
        if not pending:
            return self._open
        if len(pending) == 1:
            data: bytes = pending[0]
        elif joined is None:
            data = b"".join(pending)
        else:
            if pending != joined.deliveries:
                joined.deliveries, joined.data = pending.copy(), b"".join(pending)
            data = joined.data
        write = self._write
        try:
            taken = write(data)
        except BlockingIOError:
            taken = 0
        if taken != len(data):
            return self.took(data, taken)
        pending.clear()
        return self._open

    def took(self, data: bytes, taken: int) -> bool:
        """The kernel took `taken` bytes, not all, of `data`, this tick's deliveries joined; False, as `flush`.

        The started frame's rest is kept; about the others policy decides.
        """
        self._backlog = self._new_backlog()
        end = 0
        for delivery in self.pending:
            start, end = end, end + len(delivery)
            if start >= taken:
                self._admit(delivery)
            elif end > taken:
                self._rest = data[taken:end]
        self.pending.clear()
        return False

    def drain(self) -> bool:
        """Offer the backlog to the socket, joined; True when nothing of it is left and the outbox is no longer
        blocked.
        """
        if self._backlog is not None and self.pending:
            self._hold(self.pending)  # first, so that no snapshot fetched now overtakes what was put before it
        while self._backlog is not None:
            pieces = self._pieces(self._backlog)
            if not pieces:
                self._backlog = None
                break
            data = b"".join([piece.frame for piece in pieces])
            try:
                taken = self._write(data)
            except BlockingIOError:
                return False
            self._account(self._backlog, pieces, taken)
            if taken < len(data):
                return False
        return True

    def _hold(self, pending: list[Delivery]) -> bool:
        for delivery in pending:
            self._admit(delivery)
        pending.clear()
        return False

    def _admit(self, delivery: Delivery) -> None:
        assert self._backlog is not None
        if self._full:
            return
        if not self._backlog.admit(delivery):
            self._overflow()

    def _overflow(self) -> None:
        self._full = True
        self._shut(OVERFLOW_CODE, "too slow: outbox is full")
        self._backlog = self._new_backlog()
        self._backlog.admit(_close_delivery(OVERFLOW_CODE, "too slow: outbox is full"))

    def _new_backlog(self) -> Backlog:
        return Backlog(self._limits, self._dropped)

    def _pieces(self, backlog: Backlog) -> list["_Piece"]:
        """What to offer next: the started frame's rest, then entries up to one chunk, marks turned into frames."""
        pieces = [_Piece(self._rest, None)] if self._rest else []
        size = len(self._rest)
        for key, entry in backlog.head():
            if size >= self._limits.chunk:
                break
            piece = _Piece(entry, key) if isinstance(entry, Delivery) else self._resolve(key, entry)
            pieces.append(piece)
            size += len(piece.frame)
        return pieces

    def _resolve(self, key: int, mark: Mark) -> "_Piece":
        if mark.policy is Policy.SNAPSHOT:
            snapshot = self._source.snapshot_frame(mark.channel)
            if snapshot is not None:
                return _Piece(snapshot, key)
        return _Piece(self._source.gap_frame(mark.channel, mark.first, mark.last), key)

    def _account(self, backlog: Backlog, pieces: list["_Piece"], taken: int) -> None:
        end = 0
        self._rest = b""
        for piece in pieces:
            start, end = end, end + len(piece.frame)
            if start >= taken:
                break
            if piece.key is not None:
                backlog.sent(piece.key)
            if end > taken:
                self._rest = piece.frame[taken - start :]

    def _dropped(self, channel: str, policy: Policy) -> None:
        if self._losses is None:
            self._losses = {}
        self._losses[channel] = self._losses.get(channel, 0) + 1
        match policy:
            case Policy.CONFLATE:
                self.conflated += 1
            case Policy.GAP:
                self.gapped += 1
            case _:
                self.resnapshotted += 1
        if self._on_drop is not None:
            self._on_drop(channel, policy)


@attrs.frozen
class _Piece:
    frame: bytes
    key: int | None


_DEFAULT_LIMITS = OutboxLimits()
_FIRST = -1
"""Number of what stands before everything else."""


def _close_delivery(code: int, reason: str) -> Delivery:
    return Delivery(encode_close(code, reason), "", Policy.CONTROL, 0)


def _ignore(_: Delivery) -> None:
    """A closed outbox accepts nothing more."""


def _nothing() -> None:
    """Nobody is to be woken."""


def _refuse(_: bytes) -> int:
    raise BlockingIOError
