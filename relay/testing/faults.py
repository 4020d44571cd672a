"""A fault proxy: a TCP line on loopback that a test can break, between a simulator and the relay or the relay and a client.

What holds:

- A fault is put on every live connection (`FaultProxy.inject`), or scripted for the next one, from its first byte on
  (`FaultProxy.next_connection`). `FaultProxy.heal` ends those that last.
- What the server sends is cut into WebSocket frames once it has said 101, so that `Corrupt` damages exactly one of them;
  anything else (HTTP, TLS) passes as it is.
- At most one read of each direction is kept: a stalled line pushes back on its sender, as a real one does.
- Cancelling `FaultProxy.run` ends everything.
"""

import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import trio
from attrs import define, frozen

__all__ = ["Corrupt", "Cut", "Fault", "FaultProxy", "HalfOpen", "Reset", "Stall", "Throttle"]

_READ = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)
_HEAD_END = b"\r\n\r\n"
_TEXT = 1


# --- faults ----------------------------------------------------------------------------------------------------------


@frozen
class Cut:
    """End the connection on both sides, in TCP's orderly way and without a WebSocket close frame."""


@frozen
class Reset:
    """End the connection on both sides with RST, as a crashed host or a firewall does."""


@frozen
class Stall:
    """Carry nothing more, either way, until healed; both sides believe the connection is open."""


@frozen
class HalfOpen:
    """End the server's side and do not tell the client, whose bytes vanish. It cannot be healed."""


@frozen
class Throttle:
    """Carry at most so many bytes a second towards the client, until healed."""

    bytes_per_second: int


@frozen
class Corrupt:
    """Damage the next text frame towards the client.

    ``text``: its payload is no JSON any more. ``utf8``: it is no UTF-8 any more. ``frame``: its header breaks RFC 6455.
    """

    what: Literal["text", "utf8", "frame"] = "text"


Fault = Cut | Reset | Stall | HalfOpen | Throttle | Corrupt


# --- one connection --------------------------------------------------------------------------------------------------


class _Frames:
    """The frames a server sends behind the head of its answer to an upgrade."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_head = True
        self._is_websocket = False

    def feed(self, data: bytes | bytearray) -> Iterator[tuple[bytes, int]]:
        """Yield complete pieces and their opcode; 0 for what is no frame."""
        self._buffer += data
        if self._in_head:
            if self._buffer.startswith(b"HTTP/1.1 101") and _HEAD_END not in self._buffer:
                return
            self._in_head, self._is_websocket = False, self._buffer.startswith(b"HTTP/1.1 101")
            if self._is_websocket:
                yield self._taken(self._buffer.index(_HEAD_END) + len(_HEAD_END)), 0
        if not self._is_websocket:
            if self._buffer:
                yield self._taken(len(self._buffer)), 0
            return
        while (size := self._frame_size()) is not None:
            opcode = self._buffer[0] & 0x0F
            yield self._taken(size), opcode

    def _taken(self, size: int) -> bytes:
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _frame_size(self) -> int | None:
        """Return the bytes of the first frame (a server's are unmasked); None while it is not complete."""
        if len(self._buffer) < 2:
            return None
        size, head = self._buffer[1] & 0x7F, 2
        if size > 125:
            wide = 2 if size == 126 else 8
            head += wide
            if len(self._buffer) < head:
                return None
            size = int.from_bytes(self._buffer[2:head], "big")
        return head + size if len(self._buffer) >= head + size else None


def _damaged(frame: bytes, what: str) -> bytes:
    if what == "frame":
        return bytes([frame[0] | 0x70]) + frame[1:]
    head = {126: 4, 127: 10}.get(frame[1] & 0x7F, 2)
    return frame[:head] + (b"\xff" if what == "utf8" else b"!") + frame[head + 1 :]


@define(eq=False)
class _Connection:
    """A client, the server behind the proxy, and what is wrong between them."""

    client: trio.SocketStream
    server: trio.SocketStream
    flowing: trio.Event
    swallows: Callable[[], bool]
    rate: int | None = None
    corrupting: str | None = None
    is_half_open: bool = False

    def inject(self, fault: Fault) -> None:
        match fault:
            case Cut():
                self._end()
            case Reset():
                for end in (self.client, self.server):
                    if end.socket.fileno() != -1:
                        end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self._end()
            case Stall():
                self.flowing = trio.Event()
            case HalfOpen():
                self.is_half_open = True
                self.server.socket.close()
            case Throttle(rate):
                self.rate = rate
            case Corrupt(what):
                self.corrupting = what

    def _end(self) -> None:
        for end in (self.client, self.server):
            end.socket.close()

    def heal(self) -> None:
        self.flowing.set()
        self.rate = None

    async def carry(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._up, nursery.cancel_scope)
            nursery.start_soon(self._down, nursery.cancel_scope)

    async def _up(self, scope: trio.CancelScope) -> None:
        try:
            while data := await self.client.receive_some(_READ):
                await self.flowing.wait()
                if not self.is_half_open:
                    await self.server.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self.is_half_open:
                await self._swallow()
        scope.cancel()

    async def _swallow(self) -> None:
        """Read on after the server has gone, so that the client does not notice yet."""
        try:
            while await self.client.receive_some(_READ):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _down(self, scope: trio.CancelScope) -> None:
        frames = _Frames()
        try:
            while data := await self.server.receive_some(_READ):
                for piece, opcode in frames.feed(data):
                    await self.flowing.wait()
                    await self._send(self._perhaps_damaged(piece, opcode))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self.is_half_open:
                return
        scope.cancel()

    def _perhaps_damaged(self, piece: bytes, opcode: int) -> bytes:
        if self.corrupting is None or opcode != _TEXT:
            return piece
        what, self.corrupting = self.corrupting, None
        return _damaged(piece, what)

    async def _send(self, data: bytes) -> None:
        if self.swallows():
            return
        while data:
            rate = self.rate
            size = len(data) if rate is None else max(1, rate // 20)
            if rate is not None:
                await trio.sleep(min(len(data), size) / rate)
                await self.flowing.wait()
            await self.client.send_all(data[:size])
            data = data[size:]


# --- the proxy -------------------------------------------------------------------------------------------------------


class FaultProxy:
    """A port on 127.0.0.1 in front of a server.

    Args:
        to: the server's port; it may be changed, and counts from the next connection on.
        buffer: bytes of the kernel's buffers on the way to the client, where a slow one is to be felt soon.

    Attributes:
        port: where it listens, chosen by the kernel.
        accepted: how many connections came.
        swallows: what the server sends is lost, on live connections and new ones, while it hears its clients.
    """

    def __init__(self, to: int, *, buffer: int | None = None) -> None:
        self.to = to
        self.port = 0
        self.accepted = 0
        self.swallows = False
        self._buffer = buffer
        self._is_down = False
        self._open = trio.Event()
        self._open.set()
        self._scripted: deque[tuple[Fault, ...]] = deque()
        self._live: list[_Connection] = []

    @property
    def live(self) -> int:
        """Connections that are carried now."""
        return len(self._live)

    def inject(self, fault: Fault) -> None:
        """Put a fault on every live connection."""
        for connection in list(self._live):
            connection.inject(fault)

    def next_connection(self, *faults: Fault) -> None:
        """Script faults of the next connection; called again, of the one after that. None at all is a good connection."""
        self._scripted.append(faults)

    def heal(self) -> None:
        """End stalls and throttles of live connections."""
        for connection in self._live:
            connection.heal()

    def down(self) -> None:
        """Reset every connection, and every new one at once, until `up`."""
        self._is_down = True
        self.inject(Reset())

    def hold(self) -> None:
        """Let every new connection wait, until `up`; those that are carried go on."""
        self._open = trio.Event()

    def up(self) -> None:
        """Take connections again."""
        self._is_down = False
        self._open.set()

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `nursery.start` returns the port."""
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._accept, 0, host="127.0.0.1"))
            self.port = listener.socket.getsockname()[1]
            task_status.started(self.port)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FaultProxy"]:
        """Serve for as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            yield self
            nursery.cancel_scope.cancel()

    async def _accept(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        if self._is_down:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            client.socket.close()
            return
        await self._open.wait()
        faults = self._scripted.popleft() if self._scripted else ()
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.to)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        if self._buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        connection = _Connection(client, server, trio.Event(), lambda: self.swallows)
        connection.flowing.set()
        self._live.append(connection)
        try:
            async with client, server:
                for fault in faults:
                    connection.inject(fault)
                await connection.carry()
        finally:
            self._live.remove(connection)
