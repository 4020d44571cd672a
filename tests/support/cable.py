"""A cable between a client and the relay that a test can cut."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import trio


class Cable:
    """Everything that comes to `port` goes to the relay and back, until it is cut."""

    def __init__(self, to: int) -> None:
        self.to = to
        """The relay's port; another one from the next connection on."""
        self.port = 0
        self.turns: Iterator[int] | None = None
        """The ports of several relays, one for each connection."""
        self.connections = 0
        """The number of connections so far."""
        self.said = bytearray()
        """The bytes the relay has sent so far, of all connections."""
        self.mended = trio.Event()
        self.mended.set()
        self.mute = False
        """True swallows everything, while the connections stay up."""
        self.delay = 0.0
        """Seconds that everything takes each way."""
        self._open_again = trio.Event()
        self._open_again.set()
        self._dead: set[trio.SocketStream] = set()
        self._ends: set[trio.SocketStream] = set()

    def hold(self) -> None:
        """Let new connections wait for `mend`."""
        self.mended = trio.Event()

    def cut(self) -> None:
        """End every connection as a broken line does, without a close frame; new ones wait for `mend`."""
        self.hold()
        for end in self._ends:
            end.socket.close()
        self._ends.clear()

    def kill(self) -> None:
        """Swallow everything of the connections that are open now, which stay up; new ones are good."""
        self._dead |= self._ends

    def stall(self) -> None:
        """Take nothing more from the relay, so that what it sends waits there."""
        self._open_again = trio.Event()

    def flow(self) -> None:
        """Take what the relay sends again."""
        self._open_again.set()

    def mend(self) -> None:
        """Let connections through again."""
        self.mended.set()

    async def carry(self, client: trio.SocketStream) -> None:
        self.connections += 1
        await self.mended.wait()
        try:
            relay = await trio.open_tcp_stream("127.0.0.1", self.to if self.turns is None else next(self.turns))
        except OSError:
            return
        ends = {client, relay}
        self._ends |= ends
        async with client, relay, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, relay, nursery.cancel_scope, bytearray())
            nursery.start_soon(self._copy, relay, client, nursery.cancel_scope, self.said)
        self._ends -= ends
        self._dead -= ends

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, record: bytearray
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                record += data
                if self.delay:
                    await trio.sleep(self.delay)
                if record is self.said:
                    await self._open_again.wait()
                if not self.mute and source not in self._dead:
                    await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def cable(to: int = 0) -> AsyncIterator[Cable]:
    """Lay a cable to the relay on port ``to`` (to be said later where it is 0) for the length of the block."""
    laid = Cable(to)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, laid.carry, 0, host="127.0.0.1"))
        laid.port = listener.socket.getsockname()[1]
        yield laid
        nursery.cancel_scope.cancel()
