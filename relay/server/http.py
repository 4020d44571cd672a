"""One port for HTTP and WebSocket.

Every connection starts as HTTP/1.1 in h11. On every request, not only the first (a proxy keeps connections alive and
mixes), `Upgrade: websocket` hands the stream to the upgrade handler, for good; everything else goes to an ASGI
application.

Where an adopter is given, a plain socket whose first bytes are a plain upgrade request goes to it whole: no task and no
h11 are needed for that (`acceptor`, `upgrade`).

A bad peer ends its own connection and nothing else. Stopping: no more accepts, idle connections close at once, running
requests finish and close, and after `limits.drain` seconds whatever is left is cancelled. Upgraded connections are their
owner's (the edge's), which says goodbye to them meanwhile.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import h11
import structlog
import trio

from relay.server.asgi import Address, AsgiApp, HttpConnection, HttpExchange, HttpLimits, PeerGone, http_scope
from relay.server.fastpath.acceptor import FULL, Acceptor
from relay.server.fastpath.poller import Poller
from relay.server.fastpath.upgrade import UpgradeRequest, asks_for_websocket, read_upgrade
from relay.server.transport import underlying_socket

__all__ = [
    "Adopter",
    "HttpLimits",
    "HttpServer",
    "UpgradeHandler",
    "UpgradeRequest",
    "is_upgrade",
    "open_listeners",
    "serve_front",
]

log = structlog.get_logger()


class UpgradeHandler(Protocol):
    """Takes the connection over: answers the handshake (or refuses it), and returns when it does not need the stream any
    more.
    """

    def __call__(
        self, stream: trio.abc.Stream, request: UpgradeRequest, trailing: bytes, peer: Address | None, /
    ) -> Awaitable[None]:
        """`trailing` are bytes that came after the request's head; `peer` is the address of the other end."""
        ...


def is_upgrade(request: h11.Request) -> bool:
    """Whether the request asks for a WebSocket (RFC 6455, 4.2.1)."""
    return request.method == b"GET" and request.http_version >= b"1.1" and asks_for_websocket(request.headers)


class Adopter(Protocol):
    """Takes plain sockets over for good, without a task of the front's."""

    def __len__(self) -> int:
        """How many it has; they count against `limits.connections`."""
        ...

    @property
    def poller(self) -> Poller | None:
        """Where sockets are watched; None while it cannot take any."""
        ...

    def tune(self, sock: socket.socket, /) -> None:
        """Set options on a listening socket, for those it accepts."""
        ...

    def adopt(self, sock: socket.socket, request: UpgradeRequest, trailing: bytes, /) -> None:
        """Answer the handshake, or refuse it. The socket is non-blocking and may be watched by the poller already."""
        ...


class HttpServer:
    """Serves one set of listeners until `stop`."""

    def __init__(
        self,
        app: AsgiApp,
        upgrade: UpgradeHandler,
        limits: HttpLimits | None = None,
        adopter: Adopter | None = None,
    ) -> None:
        self._app = app
        self._upgrade = upgrade
        self._adopter = adopter
        self._limits = limits or HttpLimits()
        self._accepting = trio.CancelScope()
        self._all = trio.CancelScope()
        self._idle: set[trio.CancelScope] = set()
        self._stopping = False
        self._served = 0
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """Open connections, upgraded ones included."""
        return self._served + (0 if self._adopter is None else len(self._adopter))

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve; returns when `stop` was called and everything is drained. Closes the listeners."""
        try:
            with self._all:
                async with trio.open_nursery() as connections:
                    try:
                        with self._accepting:
                            task_status.started()
                            await self._accept(list(listeners), connections)
                    finally:
                        with trio.CancelScope(shield=True):  # forcefully: it waits for nothing
                            for listener in listeners:
                                await trio.aclose_forcefully(listener)
        finally:
            self._ended.set()

    async def drained(self) -> None:
        """Return when nobody is served any more: after `stop`, within `limits.drain`."""
        await self._ended.wait()

    def stop(self) -> None:
        """Stop accepting and drain, within `limits.drain`."""
        if not self._stopping:
            self._stopping = True
            self._all.deadline = trio.current_time() + self._limits.drain
            self._accepting.cancel()
            for scope in list(self._idle):
                scope.cancel()

    async def _accept(self, listeners: list[Any], connections: trio.Nursery) -> None:
        adopter = self._adopter
        poller = None if adopter is None else adopter.poller
        plain = all(isinstance(listener, trio.SocketListener) for listener in listeners)
        if adopter is not None and poller is not None and plain:
            await self._accept_plain(listeners, connections, adopter, poller)
        else:
            await trio.serve_listeners(self._connection, listeners, handler_nursery=connections)

    async def _accept_plain(
        self, listeners: list[trio.SocketListener], connections: trio.Nursery, adopter: Adopter, poller: Poller
    ) -> None:
        def arrived(sock: socket.socket, data: bytes) -> None:
            found = read_upgrade(data, self._limits.head_bytes)
            if found is not None:
                adopter.adopt(sock, *found)
                return
            poller.forget(sock.fileno())
            connections.start_soon(self._plain, trio.SocketStream(trio.socket.from_stdlib_socket(sock)), data)

        acceptor = Acceptor(poller, self._limits, arrived, adopter.tune, lambda: self.connections)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acceptor.sweep)
            for listener in listeners:
                nursery.start_soon(acceptor.accept, listener)

    async def _plain(self, stream: trio.SocketStream, data: bytes) -> None:
        async with stream:
            await self._connection(stream, data)

    async def _connection(self, stream: trio.abc.Stream, begun: bytes = b"") -> None:
        """Serve one connection, whose first bytes may have been read already."""
        self._served += 1
        try:
            if self.connections > self._limits.connections:
                await self._refuse(stream)
            elif await self._handshake(stream):
                upgraded = await self._http(stream, begun, _peer(stream))
                if upgraded is not None:
                    await upgraded
        except (PeerGone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("connection failed", peer=_peer(stream))
        finally:
            self._served -= 1

    async def _refuse(self, stream: trio.abc.Stream) -> None:
        log.warning("connection refused: too many connections", limit=self._limits.connections)
        if not isinstance(stream, trio.SSLStream):
            with trio.move_on_after(1):
                await stream.send_all(FULL)

    async def _handshake(self, stream: trio.abc.Stream) -> bool:
        if not isinstance(stream, trio.SSLStream):
            return True
        with trio.move_on_after(self._limits.tls_handshake):
            await stream.do_handshake()
            return True
        return False

    async def _http(self, stream: trio.abc.Stream, begun: bytes, peer: Address | None) -> Awaitable[None] | None:
        """HTTP until the connection ends (None) or asks for a WebSocket: then what is to be awaited instead.

        All that HTTP needed goes with this frame; a WebSocket may stay for days.
        """
        http = HttpConnection(stream, self._limits)
        if begun:
            http.h11.receive_data(begun)
        wait = self._limits.head
        while True:
            try:
                request = await self._request(http, wait)
                if request is None:
                    break
                if is_upgrade(request):
                    return self._upgrade(stream, *_upgrade_request(http, request), peer)
                await self._exchange(http, request, peer)
            except h11.RemoteProtocolError as error:
                await self._complain(http, error.error_status_hint, str(error))
                break
            if http.gone or http.h11.our_state is not h11.DONE or http.h11.their_state is not h11.DONE:
                break
            http.h11.start_next_cycle()
            wait = self._limits.idle
        if not http.gone and http.h11.our_state is not h11.IDLE:
            await http.linger()
        if isinstance(stream, trio.SSLStream):
            with trio.move_on_after(self._limits.linger):
                await stream.aclose()
        return None

    async def _request(self, http: HttpConnection, wait: float) -> h11.Request | None:
        """The next request's head; None when the connection ended or stayed idle. A head that is too slow is answered
        408.
        """
        idle = trio.CancelScope(deadline=trio.current_time() + wait)
        begun = bool(http.h11.trailing_data[0])
        if begun:
            idle.deadline = trio.current_time() + self._limits.head
        else:
            self._idle.add(idle)
            if self._stopping:
                idle.cancel()
        try:
            with idle:
                while (event := http.h11.next_event()) is h11.NEED_DATA:
                    await http.fill()
                    if not begun:
                        begun = True
                        self._idle.discard(idle)
                        idle.deadline = trio.current_time() + self._limits.head
                return event if isinstance(event, h11.Request) else None
        finally:
            self._idle.discard(idle)
        if begun:
            await self._complain(http, 408, "the request's head took too long")
        return None

    async def _exchange(self, http: HttpConnection, request: h11.Request, peer: Address | None) -> None:
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding", error_status_hint=400)
        scheme = "https" if isinstance(http.stream, trio.SSLStream) else "http"
        try:
            scope = http_scope(request, scheme, peer, _address(http.stream))
        except ValueError as error:
            raise h11.RemoteProtocolError(str(error), error_status_hint=400) from error
        await HttpExchange(http, request, scope, closing=lambda: self._stopping).run(self._app)

    async def _complain(self, http: HttpConnection, status: int, text: str) -> None:
        """Answer what cannot be served, if nothing was answered yet."""
        if http.h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await http.answer(status, text)


def _upgrade_request(http: HttpConnection, request: h11.Request) -> tuple[UpgradeRequest, bytes]:
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise h11.RemoteProtocolError("an upgrade request carries no body", error_status_hint=400)
    http.h11.next_event()
    return UpgradeRequest("GET", request.target.decode("ascii"), headers), http.h11.trailing_data[0]


def _peer(stream: trio.abc.Stream) -> Address | None:
    return _end(stream, lambda sock: sock.getpeername())


def _address(stream: trio.abc.Stream) -> Address | None:
    return _end(stream, lambda sock: sock.getsockname())


def _end(stream: trio.abc.Stream, ask: Callable[[trio.socket.SocketType], object]) -> Address | None:
    sock = underlying_socket(stream)
    if sock is None:
        return None
    try:
        name = ask(sock)
    except OSError:
        return None
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None


async def open_listeners(
    host: str, port: int, *, ssl_context: ssl.SSLContext | None = None, backlog: int = 1024
) -> list[trio.abc.Listener[trio.abc.Stream]]:
    """Listening sockets of `host` (port 0: the kernel chooses). Over TLS only HTTP/1.1 is offered; HTTP/2 is a proxy's
    work.

    Raises OSError when the address is in use or not ours.
    """
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    if ssl_context is None:
        return list(listeners)
    ssl_context.set_alpn_protocols(["http/1.1"])
    return [trio.SSLListener(listener, ssl_context, https_compatible=True) for listener in listeners]


async def serve_front(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    app: AsgiApp,
    upgrade: UpgradeHandler,
    *,
    limits: HttpLimits | None = None,
    adopter: Adopter | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `HttpServer.stop`; `nursery.start` gives the HttpServer."""
    front = HttpServer(app, upgrade, limits, adopter)
    task_status.started(front)
    await front.serve(listeners)
