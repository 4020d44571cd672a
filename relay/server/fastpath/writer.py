"""Writes what was put into outboxes during one pass of trio's scheduler, at the end of it.

One task does it for all subscribers: it is woken by the first outbox that has something to send, and has its turn when
everybody else of that pass has had theirs.
"""

from collections.abc import Callable

import structlog
import trio

from relay.hub.outbox import Outbox
from relay.server.fastpath.flush import flush_all
from relay.server.fastpath.uring import Ring, open_ring
from relay.server.transport import SocketTransport, TlsTransport

log = structlog.get_logger()


class BatchWriter:
    """The queue of outboxes to flush, and the task that flushes them (`run`)."""

    def __init__(self, unfinished: Callable[[Outbox, Exception | None], object]) -> None:
        """`unfinished` is told of outboxes that are slow or closing, and of errors of broken connections."""
        self._unfinished = unfinished
        self._queue: list[Outbox] = []
        self._waiting: trio.lowlevel.Task | None = None
        self._ring: Ring | None = None

    def open(self, *, together: bool) -> None:
        """Before anybody comes; `together`: write to plain sockets with one system call where the kernel lets us."""
        self._ring = open_ring() if together else None
        log.info("subscribers", io_uring=self._ring is not None)

    def close(self) -> None:
        """When everybody is gone."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def attach(self, outbox: Outbox, transport: SocketTransport, first: bytes) -> None:
        """From now on what is put into the outbox is written to its link, after `first`."""
        slot = -1 if self._ring is None or isinstance(transport, TlsTransport) else self._ring.place(transport.fd)
        outbox.attach(transport.send, self._queue, self._wake, first=first, slot=slot)

    def detach(self, outbox: Outbox) -> None:
        """The link is about to be closed."""
        if self._ring is not None and outbox.slot >= 0:
            self._ring.leave(outbox.slot)
            outbox.slot = -1

    async def run(self) -> None:
        """Flush, until cancelled."""
        while True:
            while self._queue:  # whoever ends a connection may have something to tell the others
                self._flush()
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._cancelled)

    def _flush(self) -> None:
        outboxes = self._queue.copy()
        self._queue.clear()
        for outbox, error in flush_all(outboxes, self._ring):
            self._unfinished(outbox, error)

    def _wake(self) -> None:
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
