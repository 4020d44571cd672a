"""Accept connections and read their first bytes without a task for each of them.

Most connections are subscribers', which can be served once their first bytes have arrived. A task is created only for other
connections. `relay.server.fastpath.poller` gives the gain. Over TLS, reading the first bytes also does the handshake.

- A connection that has sent nothing within `limits.head` seconds (over TLS: has not finished its handshake within
  `limits.tls_handshake`) is closed at the next sweep.
- A connection that exceeds a limit (`relay.server.admission`) is answered with 503 and the limit's name (over TLS: closed).
- While the process has no file descriptor left, accepting pauses and the kernel queues new connections.
"""

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable, Iterable

import structlog
import trio

from relay.server.admission import ADMIN_HEAD, Admission, HttpLimits, client_network
from relay.server.fastpath.poller import Poller
from relay.server.transport import SocketTransport, TlsTransport

log = structlog.get_logger()

_AT_ONCE = 64
"""Connections accepted before other tasks run."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.1
_SWEEP = 1.0


def no_room(setting: str) -> bytes:
    """Return the HTTP answer to a connection that exceeds the limit."""
    body = f"too many connections ({setting})\n".encode()
    head = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    return head + b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Waiting:
    """A connection that has not sent a byte of its first request."""

    __slots__ = ("_acceptor", "due", "handshaking", "transport")

    def __init__(self, acceptor: "Acceptor", transport: SocketTransport, due: float) -> None:
        self._acceptor = acceptor
        self.handshaking = isinstance(transport, TlsTransport)
        self.transport = transport
        self.due = due

    def ready(self) -> None:
        """See Watched."""
        self._acceptor.read(self)


class Acceptor:
    """Accepts connections for an HttpServer."""

    def __init__(
        self,
        limits: HttpLimits,
        arrived: Callable[[SocketTransport, bytes], None],
        *,
        tls: ssl.SSLContext | None = None,
        tune: Callable[[socket.socket], None] = lambda sock: None,
        elsewhere: Callable[[], int] = lambda: 0,
        admission: Admission | None = None,
    ) -> None:
        """Create an acceptor. `arrived` is called with a connection and its first bytes, and then owns it. There are none
        if the peer is too slow to read the TLS handshake. `tune` sets options of listening sockets. `elsewhere` returns the
        number of open connections that were passed to `arrived`. `admission` decides which connections are accepted.
        """
        self._limits = limits
        self._arrived = arrived
        self._tls = tls
        self._tune = tune
        self._elsewhere = elsewhere
        self._admission = admission or Admission(limits)
        self._poller = Poller()
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        """Return the number of connections that have not sent anything yet."""
        return len(self._waiting)

    async def run(self, listeners: Iterable[trio.SocketListener]) -> None:
        """Accept until cancelled; then close the listeners and the waiting connections."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._poller.run)
                nursery.start_soon(self._sweep)
                for listener in listeners:
                    nursery.start_soon(self._accept_from, listener)
        finally:
            self._close_overdue(float("inf"))

    async def _accept_from(self, listener: trio.SocketListener) -> None:
        async with listener:
            with socket.socket(fileno=socket.dup(listener.socket.fileno())) as sock:
                sock.setblocking(False)
                self._tune(sock)
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    if not self._accept(sock):
                        log.warning("accepting pauses: the process has no file descriptor or memory left")
                        await trio.sleep(_PAUSE)

    def _accept(self, listening: socket.socket) -> bool:
        """Accept all connections in the kernel's queue; False if the process is out of resources."""
        for _ in range(_AT_ONCE):
            try:
                sock, address = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    return False
                continue  # the peer closed before it was accepted
            sock.setblocking(False)
            self._begin(sock, address[0] if isinstance(address, tuple) else None)
        return True

    def _begin(self, sock: socket.socket, address: str | None) -> None:
        full = self._admission.refusal(address, sock.fileno(), self._elsewhere() + len(self._waiting))
        if full is None:
            leave = None if self._admission.behind_proxy else self._admission.count(address)
        elif (leave := self._admission.count_admin(address)) is None:
            log.warning("connection refused: too many connections", setting=full)
            with sock, contextlib.suppress(OSError):
                if self._tls is None:
                    sock.send(no_room(full))
            return
        now = trio.current_time()
        if self._tls is None:
            within = self._limits.head if full is None else min(self._limits.head, ADMIN_HEAD)
            waiting = _Waiting(self, SocketTransport(sock), now + within)
        else:
            waiting = _Waiting(self, TlsTransport(sock, self._tls), now + self._limits.tls_handshake)
        waiting.transport.network = None if address is None else client_network(address)
        waiting.transport.reserved = full is not None
        waiting.transport.on_close = leave
        self._waiting[sock.fileno()] = waiting
        self.read(waiting)  # usually the first bytes have already arrived
        if sock.fileno() in self._waiting:
            self._poller.watch(sock.fileno(), waiting)

    def read(self, waiting: _Waiting) -> None:
        """Read the first bytes, or the end of the stream."""
        transport = waiting.transport
        data = b""
        try:
            data = transport.read()
        except BlockingIOError:
            if not transport.unsent:
                if waiting.handshaking and transport.handshaken:
                    waiting.handshaking = False
                    waiting.due = trio.current_time() + self._limits.head
                return
        except OSError:
            pass
        self._forget(transport.fd)
        if data or transport.unsent:
            self._arrived(transport, data)
        else:
            transport.close()

    def _forget(self, fd: int) -> None:
        del self._waiting[fd]
        self._poller.forget(fd)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            self._close_overdue(trio.current_time())

    def _close_overdue(self, now: float) -> None:
        for fd, waiting in list(self._waiting.items()):
            if waiting.due <= now:
                self._forget(fd)
                waiting.transport.close()
