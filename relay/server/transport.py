"""Read and write a plain or an encrypted TCP connection, without waiting and without a task.

`read` and `send` return at once, and raise BlockingIOError if nothing can be read or sent. Subscribers are served with only
these. `receive` and `send_all` wait; HTTP uses them. `relay.server.fastpath.writer` bypasses this module to write to several
sockets at once.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable

import trio

READ_SIZE = 16 * 1024
"""Bytes per read: h11 limits only events that are incomplete, so a read must not hold more than a head may."""
_ENCRYPT_SIZE = 16 * 1024
"""Plaintext encrypted at a time, one record: a connection holds at most this much the kernel refused. OpenSSL's memory
buffers never shrink, so more would also stay allocated for each connection that once got a large message.
"""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Address = tuple[str, int]


class SocketTransport:
    """A plain TCP connection."""

    __slots__ = ("network", "on_close", "reserved", "sock")

    scheme = "http"
    handshaken = True
    """False before and during a TLS handshake."""
    buffered = False
    """True if `read` can return bytes that are no longer in the kernel."""
    unsent = False
    """True while bytes that `send` accepted have not reached the kernel: call `flush` when it is writable."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over `sock`, which is non-blocking."""
        self.sock = sock
        self.network: str | None = None
        """The peer's network, by which connections are limited (`relay.server.admission.client_network`), or None."""
        self.on_close: Callable[[], object] | None = None
        """Called once, when this end is closed."""
        self.reserved = False
        """True if the connection was accepted only for an administrator's requests."""

    @property
    def send(self) -> Callable[[bytes], int]:
        """Send as many bytes as possible now and return their number.

        Raises BlockingIOError if none can be sent, OSError if the connection is broken. It is a property, so that a caller
        that stores it calls the socket directly.
        """
        return self.sock.send

    @property
    def fd(self) -> int:
        """The file descriptor; -1 once closed."""
        return self.sock.fileno()

    def read(self) -> bytes:
        """Return the bytes that have arrived; b"" at the end. Raises as `send` does."""
        return self.sock.recv(READ_SIZE)

    def flush(self) -> bool:
        """Pass accepted bytes to the kernel. Return True if none are left. Raises OSError if the connection is broken."""
        return True

    def finish(self) -> None:
        """Announce that nothing more will be sent (a half-close)."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close. The kernel still sends its buffered bytes. Waiting tasks get ClosedResourceError."""
        if self.sock.fileno() != -1:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
            if self.on_close is not None:
                self.on_close()

    def abort(self) -> None:
        """Close, and discard the bytes that the kernel holds for the peer."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        SocketTransport.close(self)

    async def wait_writable(self) -> None:
        """Wait until the kernel accepts more bytes."""
        await trio.lowlevel.wait_writable(self.sock)

    async def receive(self) -> bytes:
        """Wait for bytes and return them; b"" at the end. Raises OSError or ClosedResourceError."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.read()
            except BlockingIOError:
                pass
            if self.unsent:  # part of a TLS handshake: the peer sends nothing before it has it
                await trio.lowlevel.wait_writable(self.sock)
                self.flush()
            else:
                await trio.lowlevel.wait_readable(self.sock)

    async def send_all(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError or ClosedResourceError."""
        await trio.lowlevel.checkpoint()
        while data or self.unsent:
            with contextlib.suppress(BlockingIOError):
                data = data[self.send(data) :] if data else data
            if data or not self.flush():
                await trio.lowlevel.wait_writable(self.sock)

    @property
    def peer(self) -> Address | None:
        """Address of the other end."""
        with contextlib.suppress(OSError):
            return _address(self.sock.getpeername())
        return None

    @property
    def local(self) -> Address | None:
        """Address of this end."""
        with contextlib.suppress(OSError):
            return _address(self.sock.getsockname())
        return None


class TlsTransport(SocketTransport):
    """A TLS connection over a non-blocking socket: OpenSSL reads and writes two memory buffers.

    The first calls of `read` carry out the handshake. `context` must refuse renegotiation, so that `send` never has to
    read first.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "_unsent", "buffered", "handshaken", "on_unsent")

    scheme = "https"

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Take over `sock`, which is non-blocking; the handshake has not begun."""
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self.buffered = False
        self.handshaken = False
        self.on_unsent: Callable[[], object] | None = None
        """Called when `send` has accepted bytes that the kernel did not; the callee must arrange a call of `flush`."""

    @property
    def send(self) -> Callable[[bytes], int]:
        """See SocketTransport. Bytes are accepted only while no ciphertext waits for the kernel."""
        return self._send

    @property
    def unsent(self) -> bool:  # type: ignore[override]
        """See SocketTransport."""
        return bool(self._unsent)

    def read(self) -> bytes:
        """See SocketTransport."""
        parts: list[bytes] = []
        size = 0
        while size < READ_SIZE:
            try:
                data = self._decrypt(READ_SIZE - size)
            except ssl.SSLWantReadError:
                if parts:
                    self.buffered = False
                    return b"".join(parts)
                self._receive()
                continue
            if not data:
                break
            parts.append(data)
            size += len(data)
        self.buffered = bool(parts)  # the next call returns the end, or the bytes that did not fit
        return b"".join(parts)

    def _decrypt(self, size: int) -> bytes:
        try:
            if not self.handshaken:
                self._tls.do_handshake()
                self.handshaken = True
            return self._tls.read(size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        finally:
            self._encrypted()  # bytes of the handshake, or an alert with the fault

    def _receive(self) -> None:
        data = self.sock.recv(READ_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _send(self, data: bytes) -> int:
        if not self.flush():
            raise BlockingIOError
        accepted = 0
        while accepted < len(data) and not self._unsent:
            accepted += self._tls.write(data[accepted : accepted + _ENCRYPT_SIZE])
            self._encrypted()
        if self._unsent and self.on_unsent is not None:
            self.on_unsent()
        return accepted

    def _encrypted(self) -> None:
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
            self.flush()

    def flush(self) -> bool:
        """See SocketTransport."""
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        return not self._unsent

    def finish(self) -> None:
        """See SocketTransport. The peer gets a close_notify first (RFC 8446, 6.1)."""
        self._notify()
        if not self._unsent:
            super().finish()

    def close(self) -> None:
        """See SocketTransport."""
        if self.sock.fileno() != -1:
            self._notify()
        super().close()
        self.on_unsent = None

    def _notify(self) -> None:
        """Send close_notify once, if the kernel accepts it. Do not wait for the peer's."""
        if self.handshaken:
            with contextlib.suppress(OSError):  # unwrap raises one while the peer's close_notify is missing
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self._encrypted()


def tune(sock: socket.socket, notsent_lowat: int) -> None:
    """Set options of a subscriber's socket. Linux copies those of a listening socket to every socket it accepts."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, notsent_lowat)


def _address(name: object) -> Address | None:
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None
