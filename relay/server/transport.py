"""The two ways to write to a subscriber without waiting: a kernel socket, or a stream (TLS) with a task per write.

A link is the seam under the edge: bytes in, bytes out, no meaning. `send` takes what it can now and raises
BlockingIOError when that is nothing. Writing to many kernel sockets at once goes beside it (`relay.server.fastpath.uring`).
"""

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol

import trio

READ_SIZE = 16 * 1024
_WRITE_SIZE = 64 * 1024
_LINGER_NONE = struct.pack("ii", 1, 0)


class Link(Protocol):
    """One connection's bytes."""

    send: Callable[[bytes], int]
    """Takes what it can of the bytes and says how many; raises BlockingIOError for none, OSError when the link is
    broken.
    """

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end. Raises OSError or trio's BrokenResourceError, ClosedResourceError."""
        ...

    async def wait_writable(self) -> None:
        """Return when `send` is likely to take something. Raises as `receive` does."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, together with what the kernel still holds. Wakes `receive` and
        `wait_writable`.
        """
        ...

    def close(self) -> None:
        """Close; what the kernel holds is still sent. Wakes `receive` and `wait_writable`."""
        ...

    def finish(self) -> None:
        """Nothing more will be sent: tell the peer, where the transport can (a half-close)."""
        ...

    async def aclose(self) -> None:
        """Close in order, after what `send` took has left. The caller bounds it."""
        ...


class SocketTransport:
    """A plain TCP connection: direct, non-blocking system calls on the standard library's socket."""

    __slots__ = ("_sock", "send")

    def __init__(self, sock: socket.socket) -> None:
        """Takes over `sock`, which is non-blocking and tuned."""
        self._sock = sock
        self.send: Callable[[bytes], int] = sock.send

    @property
    def fd(self) -> int:
        """The file descriptor; -1 once closed."""
        return self._sock.fileno()

    def read(self) -> bytes:
        """What has come; b"" at the end. Raises BlockingIOError when that is nothing, OSError when the link is broken."""
        return self._sock.recv(READ_SIZE)

    async def receive(self) -> bytes:
        """See Link."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self.read()
            except BlockingIOError:
                continue

    async def wait_writable(self) -> None:
        """See Link."""
        await trio.lowlevel.wait_writable(self._sock)

    def abort(self) -> None:
        """See Link."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.close()

    def close(self) -> None:
        """See Link."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def finish(self) -> None:
        """See Link."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """See Link."""
        self.close()


class StreamTransport:
    """A stream that encrypts. One write is under way at a time, at most 64 kB of it; meanwhile `send` refuses."""

    __slots__ = ("_idle", "_nursery", "_stream", "send")

    def __init__(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        """Writes run as tasks of `nursery`."""
        self._stream = stream
        self._nursery = nursery
        self._idle: trio.Event | None = None
        self.send: Callable[[bytes], int] = self._send

    def _send(self, data: bytes) -> int:
        if self._idle is not None:
            raise BlockingIOError
        self._idle = trio.Event()
        part = data[:_WRITE_SIZE]
        self._nursery.start_soon(self._write, part, self._idle)
        return len(part)

    async def _write(self, data: bytes, idle: trio.Event) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
        finally:
            self._idle = None
            idle.set()

    async def receive(self) -> bytes:
        """See Link."""
        return bytes(await self._stream.receive_some(READ_SIZE))

    async def wait_writable(self) -> None:
        """See Link."""
        if self._idle is not None:
            await self._idle.wait()

    def abort(self) -> None:
        """See Link."""
        sock = underlying_socket(self._stream)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.close()

    def close(self) -> None:
        """See Link."""
        sock = underlying_socket(self._stream)
        if sock is not None:
            sock.close()
        else:
            self._nursery.start_soon(trio.aclose_forcefully, self._stream)

    def finish(self) -> None:
        """See Link. TLS cannot close one direction."""

    async def aclose(self) -> None:
        """See Link."""
        await self.wait_writable()
        await self._stream.aclose()


def tune(sock: socket.socket, notsent_lowat: int) -> None:
    """Options of a subscriber's socket. Set on a listening socket, Linux gives them to every one that is accepted."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, notsent_lowat)


def taken_out(stream: trio.SocketStream) -> socket.socket:
    """The socket of `stream`, non-blocking; the stream is closed from then on."""
    wrapped = stream.socket
    sock = socket.socket(wrapped.family, wrapped.type, wrapped.proto, fileno=wrapped.detach())
    sock.setblocking(False)
    return sock


def underlying_socket(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """The trio socket under a plain or TLS stream; None for any other stream."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return transport.socket if isinstance(transport, trio.SocketStream) else None
