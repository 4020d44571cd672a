"""One port for HTTP and WebSocket.

Every connection starts as HTTP/1.1 in h11. On every request, not only the first (a proxy keeps connections alive and
mixes), `Upgrade: websocket` hands the stream to the upgrade handler, for good; everything else goes to an ASGI
application.

A bad peer ends its own connection and nothing else. Stopping: no more accepts, idle connections close at once, running
requests finish and close, and after `limits.drain` seconds whatever is left is cancelled. Upgraded connections count as
running: their owner (the edge) says goodbye to them meanwhile.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import attrs
import h11
import structlog
import trio

from relay.net.asgi import Address, AsgiApp, FrontLimits, HttpConnection, HttpExchange, PeerGone, http_scope
from relay.net.links import underlying_socket

__all__ = ["Front", "FrontLimits", "UpgradeHandler", "UpgradeRequest", "is_upgrade", "open_listeners", "serve_front"]

log = structlog.get_logger()


@attrs.frozen
class UpgradeRequest:
    """The request that asked for a WebSocket."""

    method: str
    target: str
    """Path and query, as sent."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


class UpgradeHandler(Protocol):
    """Takes the connection over: answers the handshake (or refuses it) and returns when the connection is done."""

    def __call__(
        self, stream: trio.abc.Stream, request: UpgradeRequest, trailing: bytes, peer: Address | None, /
    ) -> Awaitable[None]:
        """`trailing` are bytes that came after the request's head; `peer` is the address of the other end."""
        ...


def is_upgrade(request: h11.Request) -> bool:
    """Whether the request asks for a WebSocket (RFC 6455, 4.2.1): a GET, `websocket` in Upgrade, `upgrade` in
    Connection.
    """
    if request.method != b"GET" or request.http_version < b"1.1":
        return False
    tokens: dict[bytes, list[bytes]] = {b"upgrade": [], b"connection": []}
    for name, value in request.headers:
        if name in tokens:
            tokens[name] += [token.strip() for token in value.lower().split(b",")]
    return b"websocket" in tokens[b"upgrade"] and b"upgrade" in tokens[b"connection"]


class Front:
    """Serves one set of listeners until `stop`."""

    def __init__(self, app: AsgiApp, upgrade: UpgradeHandler, limits: FrontLimits | None = None) -> None:
        self._app = app
        self._upgrade = upgrade
        self._limits = limits or FrontLimits()
        self._accepting = trio.CancelScope()
        self._all = trio.CancelScope()
        self._idle: set[trio.CancelScope] = set()
        self._stopping = False
        self.connections = 0
        """Open connections, upgraded ones included."""

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve; returns when `stop` was called and everything is drained. Closes the listeners."""
        with self._all:
            async with trio.open_nursery() as connections:
                with self._accepting:
                    task_status.started()
                    await trio.serve_listeners(self._connection, list(listeners), handler_nursery=connections)
                for listener in listeners:
                    await trio.aclose_forcefully(listener)

    def stop(self) -> None:
        """Stop accepting and drain, within `limits.drain`."""
        if not self._stopping:
            self._stopping = True
            self._all.deadline = trio.current_time() + self._limits.drain
            self._accepting.cancel()
            for scope in list(self._idle):
                scope.cancel()

    async def _connection(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        try:
            if self.connections > self._limits.connections:
                await self._refuse(stream)
            elif await self._handshake(stream):
                upgraded = await self._http(stream, _peer(stream))
                if upgraded is not None:
                    await upgraded
        except (PeerGone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("connection failed", peer=_peer(stream))
        finally:
            self.connections -= 1

    async def _refuse(self, stream: trio.abc.Stream) -> None:
        log.warning("connection refused: too many connections", limit=self._limits.connections)
        if not isinstance(stream, trio.SSLStream):
            with trio.move_on_after(1):
                await stream.send_all(_FULL)

    async def _handshake(self, stream: trio.abc.Stream) -> bool:
        if not isinstance(stream, trio.SSLStream):
            return True
        with trio.move_on_after(self._limits.tls_handshake):
            await stream.do_handshake()
            return True
        return False

    async def _http(self, stream: trio.abc.Stream, peer: Address | None) -> Awaitable[None] | None:
        """HTTP until the connection ends (None) or asks for a WebSocket: then what is to be awaited instead.

        All that HTTP needed goes with this frame; a WebSocket may stay for days.
        """
        http = HttpConnection(stream, self._limits)
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


_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


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
    limits: FrontLimits | None = None,
    task_status: trio.TaskStatus[Front] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `Front.stop`; `nursery.start` gives the Front."""
    front = Front(app, upgrade, limits)
    task_status.started(front)
    await front.serve(listeners)
