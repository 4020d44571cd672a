"""Plain connections from accept to their first bytes, without a task each.

Most connections are subscribers', and a subscriber's first bytes are all that is needed to serve it: so a task, with its
scope and its stream, is made only for those that turn out to need one.

- Whoever has said nothing within `limits.head` seconds is sent away, at a sweep.
- One more connection than the limit is answered 503.
- Where the process has no file descriptor left, accepting pauses; those who wait are the kernel's meanwhile.
"""

import contextlib
import errno
import socket
from collections.abc import Callable

import structlog
import trio

from relay.server.asgi import READ_SIZE, HttpLimits
from relay.server.fastpath.poller import Poller

log = structlog.get_logger()

_AT_ONCE = 64
"""Connections accepted before anybody else has a turn."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.1
_SWEEP = 1.0

FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


class _Waiting:
    """A connection that has said nothing yet."""

    __slots__ = ("_acceptor", "since", "sock")

    def __init__(self, acceptor: "Acceptor", sock: socket.socket, since: float) -> None:
        self._acceptor = acceptor
        self.sock = sock
        self.since = since

    def ready(self) -> None:
        """See Watched."""
        self._acceptor.heard(self.sock)


class Acceptor:
    """Accepts for a front. `arrived` gets a non-blocking socket and its first bytes, and owns it from then on."""

    def __init__(
        self,
        poller: Poller,
        limits: HttpLimits,
        arrived: Callable[[socket.socket, bytes], None],
        tune: Callable[[socket.socket], None],
        connections: Callable[[], int],
    ) -> None:
        """`tune` sets options on listening sockets; `connections` counts those that are open elsewhere."""
        self._poller = poller
        self._limits = limits
        self._arrived = arrived
        self._tune = tune
        self._connections = connections
        self._waiting: dict[int, _Waiting] = {}

    async def accept(self, listener: trio.SocketListener) -> None:
        """Accept until cancelled; closes the listener."""
        async with listener:
            with socket.socket(fileno=socket.dup(listener.socket.fileno())) as door:
                door.setblocking(False)
                self._tune(door)
                while True:
                    await trio.lowlevel.wait_readable(door)
                    if not self._accept(door):
                        log.warning("accepting pauses: no file descriptors are left")
                        await trio.sleep(_PAUSE)

    async def sweep(self) -> None:
        """Send away who says nothing, until cancelled; then everybody who still waits."""
        try:
            while True:
                await trio.sleep(_SWEEP)
                self._send_away(trio.current_time() - self._limits.head)
        finally:
            self._send_away(trio.current_time())

    def heard(self, sock: socket.socket) -> None:
        """Something came, or the end."""
        try:
            data = sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        del self._waiting[sock.fileno()]
        self._give(sock, data)

    def _accept(self, door: socket.socket) -> bool:
        """Accept who is there; False when the process is out of resources."""
        for _ in range(_AT_ONCE):
            try:
                sock, _ = door.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    return False
                continue  # the peer was gone again before it was accepted
            sock.setblocking(False)
            self._greet(sock)
        return True

    def _greet(self, sock: socket.socket) -> None:
        if self._connections() + len(self._waiting) >= self._limits.connections:
            log.warning("connection refused: too many connections", limit=self._limits.connections)
            with sock, contextlib.suppress(OSError):
                sock.send(FULL)
            return
        try:
            data = sock.recv(READ_SIZE)  # usually its request is here already
        except BlockingIOError:
            waiting = _Waiting(self, sock, trio.current_time())
            self._waiting[sock.fileno()] = waiting
            self._poller.watch(sock.fileno(), waiting)
        except OSError:
            sock.close()
        else:
            self._give(sock, data)

    def _give(self, sock: socket.socket, data: bytes) -> None:
        if data:
            self._arrived(sock, data)
        else:
            self._poller.forget(sock.fileno())
            sock.close()

    def _send_away(self, before: float) -> None:
        while self._waiting:
            fd, waiting = next(iter(self._waiting.items()))  # the one who has waited longest
            if waiting.since > before:
                break
            del self._waiting[fd]
            self._poller.forget(fd)
            waiting.sock.close()
