"""Write the deliveries that were put into outboxes during one pass of trio's scheduler, at the end of the pass.

One task writes for all subscribers. The first outbox with a delivery wakes it, and it runs after all other tasks of that
pass.

Subscribers of the same channels have the same deliveries in a pass. These are joined once, and passed to the kernel in one
call with the list of the sockets if io_uring is available, or else written to each socket. Sixteen messages that are written
together cost 0.12 of sixteen calls of `send` in C (`bench/fanout.py`).

The duration of writing is measured once for each pass, at its end, from its first delivery, which waited longest. Every
subscriber of the pass is counted with that time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import structlog
import trio

from relay.histogram import Histogram
from relay.hub.outbox import Delivery, Outbox
from relay.server.fastpath.uring import Ring, open_ring
from relay.server.transport import SocketTransport, TlsTransport

log = structlog.get_logger()

_FEW = 4
"""Groups with fewer outboxes are written one by one: the batch call costs more than it saves."""

#: Outboxes to look at (`Outbox.blocked`, `closing`), and the exception of those whose connection is broken.
Unfinished = list[tuple[Outbox, Exception | None]]
#: `Ring.send`: sends bytes to the sockets in these slots. Returns, by slot, those that did not accept all of it: the number
#: of bytes they accepted, or their error as -errno.
BatchSend = Callable[[Sequence[int], bytes], Mapping[int, int]]


class BatchWriter:
    """The queue of outboxes to flush, and the task that flushes them (`run`)."""

    def __init__(self, unfinished: Callable[[Outbox, Exception | None], object], coalesce: float = 0.0) -> None:
        """Create a writer.

        Args:
            unfinished: called with outboxes that are slow, closing, or of broken connections.
            coalesce: seconds from the first delivery that may wait until all deliveries that may wait are written.
        """
        self._unfinished = unfinished
        self._coalesce = coalesce
        self._held: list[Outbox] = []
        self._held_at = 0.0
        self._queue: list[Outbox] = []
        self._waiting: trio.lowlevel.Task | None = None
        self._ring: Ring | None = None
        self._put_at = 0.0
        self.publish_to_write = Histogram()
        """Seconds from the first delivery of a pass until all subscribers of the pass were written to, by subscriber."""
        self.upstream_to_write = Histogram()
        """The same, from the time at which the provider's message was read; only for passes that begin with one."""

    def open(self, *, io_uring: bool) -> None:
        """Prepare for the first connection. `io_uring`: use it for plain sockets if the kernel allows it."""
        self._ring = open_ring() if io_uring else None
        log.info("subscribers", io_uring=self._ring is not None)

    def close(self) -> None:
        """Release the io_uring, after the last connection was closed."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def attach(self, outbox: Outbox, transport: SocketTransport, first: bytes) -> None:
        """Write the outbox to this transport from now on, after `first`."""
        if self._ring is not None and not isinstance(transport, TlsTransport):
            outbox.slot = self._ring.allocate(transport.fd)
        holding = self._hold if self._coalesce else None
        outbox.attach(transport.send, self._queue, self._wake, first=first, holding=holding)

    def detach(self, outbox: Outbox) -> None:
        """Free the outbox' slot. Call it before the transport is closed."""
        if self._ring is not None and outbox.slot >= 0:
            self._ring.free(outbox.slot)
            outbox.slot = -1

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            while self._queue:  # ending a connection may add deliveries to other outboxes
                outboxes = self._queue.copy()
                self._queue.clear()
                self._flush(outboxes, self._put_at)
            if not self._held:
                await self._woken()
            elif trio.current_time() < self._held_at + self._coalesce:
                with trio.move_on_at(self._held_at + self._coalesce):
                    await self._woken()
            else:
                self._flush(self._take_held(), self._held_at)

    async def _woken(self) -> None:
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._cancelled)

    def _take_held(self) -> list[Outbox]:
        """Return the held outboxes, without those that were flushed meanwhile."""
        held = self._held.copy()
        self._held.clear()
        for outbox in held:
            outbox.held = False
        waiting = [outbox for outbox in held if outbox.pending]
        for outbox in waiting:
            outbox.dirty = True
        return waiting

    def _flush(self, outboxes: list[Outbox], put_at: float) -> None:
        """Write these outboxes. ``put_at``: the time of the first delivery in the first of them."""
        if not outboxes:
            return
        pending = outboxes[0].pending
        read_at = pending[0].read_at if pending else 0.0
        unfinished = flush_all(outboxes, None if self._ring is None else self._ring.send)
        now, count = trio.current_time(), len(outboxes)
        self.publish_to_write.observe(now - put_at, count)
        if read_at:
            self.upstream_to_write.observe(now - read_at, count)
        for outbox, error in unfinished:
            self._unfinished(outbox, error)

    def _hold(self, outbox: Outbox) -> None:
        """Hold an outbox whose deliveries may wait, until the waiting time of the first one is over."""
        if not self._held:
            self._held_at = trio.current_time()
            self._go_on()
        self._held.append(outbox)

    def _wake(self) -> None:
        self._put_at = trio.current_time()
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.define(eq=False)
class _Group:
    """Outboxes with the same deliveries."""

    deliveries: list[Delivery]
    outboxes: list[Outbox] = attrs.field(factory=list)
    slots: list[int] = attrs.field(factory=list)


@attrs.define(eq=False)
class _JoinLast:
    """Joins deliveries and reuses the last result: subscribers of the same channels have equal ones."""

    deliveries: list[Delivery] = attrs.field(factory=list)
    data: bytes = b""

    def __call__(self, deliveries: list[Delivery]) -> bytes:
        if deliveries != self.deliveries:
            self.deliveries, self.data = deliveries.copy(), b"".join(deliveries)
        return self.data


def flush_all(outboxes: Iterable[Outbox], send: BatchSend | None = None) -> Unfinished:
    """Flush all outboxes, then return those that are not done. Reporting one earlier could change the others."""
    unfinished: Unfinished = []
    if send is None:
        _flush_each(outboxes, unfinished)
        return unfinished
    groups: dict[tuple[Delivery, ...], _Group] = {}
    alone: list[Outbox] = []
    group = _Group([])
    for outbox in outboxes:
        if not outbox.dirty:  # flushed out of turn, or listed twice
            continue
        outbox.dirty = False
        slot, pending = outbox.slot, outbox.pending
        if slot < 0 or not pending or outbox.blocked or outbox.closing is not None:
            alone.append(outbox)
            continue
        if pending != group.deliveries:  # rare, because a channel's subscribers are adjacent
            key = tuple(pending)
            group = groups.get(key) or groups.setdefault(key, _Group(pending.copy()))
        group.outboxes.append(outbox)
        group.slots.append(slot)
    for group in groups.values():
        if len(group.outboxes) < _FEW:
            alone += group.outboxes
        else:
            _flush_group(group, send, unfinished)
    _flush_each(alone, unfinished)
    return unfinished


def _flush_each(outboxes: Iterable[Outbox], unfinished: Unfinished) -> None:
    join = _JoinLast()
    for outbox in outboxes:
        try:
            if not outbox.flush(join):
                unfinished.append((outbox, None))
        except Exception as error:  # noqa: BLE001 - one subscriber's failure is reported, the others are served
            unfinished.append((outbox, error))


def _flush_group(group: _Group, send: BatchSend, unfinished: Unfinished) -> None:
    first, *more = group.deliveries
    data: bytes = b"".join(group.deliveries) if more else first
    try:
        short = send(group.slots, data)
    except Exception as error:  # noqa: BLE001 - it is unknown who received it; all reconnect and resume, none gets it twice
        unfinished += [(outbox, error) for outbox in group.outboxes]
        return
    for outbox in group.outboxes:
        if not short or (sent := short.get(outbox.slot)) is None:
            outbox.pending.clear()
        elif sent >= 0:
            outbox.advance(data, sent)
            unfinished.append((outbox, None))
        else:
            unfinished.append((outbox, OSError(-sent, "send")))
