"""Serve HTTP/1.1 on the port: h11 in front of an ASGI 3 application, and the hand-over of WebSockets.

Not Hypercorn: subscribers and HTTP share one port, and Hypercorn keeps a task, h11 and its own WebSocket layer (wsproto)
for every connection that was upgraded, so it cannot hand a connection over to a server without tasks (`subscribers`).

- A first read that is a plain upgrade request goes to the subscribers' server at once (`fastpath`). Everything else is
  HTTP/1.1 in h11, and on every request, not only the first, `Upgrade: websocket` hands the connection over for good: a
  proxy keeps connections alive and mixes.
- A request is refused before the application sees it when its framing is ambiguous (h11's own errors, or both
  Content-Length and Transfer-Encoding).
- ASGI `send` does nothing once the peer is gone, and `receive` returns `http.disconnect` (ASGI HTTP, version 2.3).
- An answer that starts before the request's body was read closes the connection after it, and lingers: closing a socket
  with unread input would destroy the answer on its way.
- Every read and every write of the peer has a deadline, and a bad peer ends its own connection only.
- Stopping: no more accepts, idle connections close at once, running requests finish and close, and after `limits.drain`
  seconds the rest is cancelled. The subscribers' server closes the connections it has taken over.
"""

import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import h11
import structlog
import trio

from relay.server.fastpath.acceptor import Acceptor
from relay.server.fastpath.upgrade import UpgradeRequest, asks_for_websocket, read_upgrade
from relay.server.limits import HttpLimits
from relay.server.subscribers import SubscriberServer
from relay.server.transport import SocketTransport

_WRITE_SIZE = 64 * 1024
_LINGER_BYTES = 1024 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

log = structlog.get_logger()


@attrs.frozen
class Upgraded:
    """The outcome of HTTP when the peer asked for a WebSocket."""

    request: UpgradeRequest
    trailing: bytes
    """Bytes received after the request's head."""


class PeerGone(Exception):
    """Raised when the peer closed, reset or stalled; nothing more can be sent to it."""


async def open_listeners(host: str, port: int, *, backlog: int = 1024) -> list[trio.SocketListener]:
    """Return listening sockets of `host` (port 0: the kernel chooses).

    Raises OSError when the address is in use or not ours.
    """
    return await trio.open_tcp_listeners(port, host=host, backlog=backlog)


class HttpServer:
    """HTTP server for one set of listeners, until `stop`."""

    def __init__(
        self,
        app: AsgiApp,
        subscribers: SubscriberServer | None = None,
        limits: HttpLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create a server. Without `subscribers`, upgrade requests are ordinary requests. With `tls` every connection is
        encrypted, and only HTTP/1.1 is offered: HTTP/2 is a proxy's work.
        """
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
            tls.options |= ssl.OP_NO_RENEGOTIATION
        self._app = app
        self._subscribers = subscribers
        self._limits = limits or HttpLimits()
        self._acceptor = Acceptor(
            self._limits, self._arrived, tls=tls, tune=self._tune, elsewhere=lambda: self.connections
        )
        self._nursery: trio.Nursery | None = None
        self._accepting = trio.CancelScope()
        self._all = trio.CancelScope()
        self._idle: set[trio.CancelScope] = set()
        self._stopping = False
        self._served = 0
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """Open connections that have sent something, upgraded ones included."""
        return self._served + (0 if self._subscribers is None else len(self._subscribers))

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop` was called and everything is drained. Closes the listeners."""
        try:
            with self._all:
                async with trio.open_nursery() as self._nursery:
                    with self._accepting:
                        task_status.started()
                        await self._acceptor.run(listeners)
        finally:
            self._ended.set()

    async def drained(self) -> None:
        """Wait until no connection is served any more: after `stop`, within `limits.drain`."""
        await self._ended.wait()

    def stop(self) -> None:
        """Stop accepting and drain, within `limits.drain`."""
        if not self._stopping:
            self._stopping = True
            self._all.deadline = trio.current_time() + self._limits.drain
            self._accepting.cancel()
            for scope in list(self._idle):
                scope.cancel()

    def _tune(self, sock: socket.socket) -> None:
        if self._subscribers is not None:
            self._subscribers.tune(sock)

    def _arrived(self, transport: SocketTransport, data: bytes) -> None:
        found = None if self._subscribers is None else read_upgrade(data, self._limits.head_bytes)
        if found is not None and self._subscribers is not None:
            self._subscribers.adopt(transport, *found)
        elif self._nursery is not None:
            self._served += 1
            self._nursery.start_soon(self._connection, transport, data)

    async def _connection(self, transport: SocketTransport, begun: bytes) -> None:
        """Serve one connection, of which `begun` was read already."""
        upgraded = None
        try:
            upgraded = await self._http(transport, begun)
        except (PeerGone, OSError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("connection failed", peer=transport.peer)
        finally:
            self._served -= 1
            if upgraded is None:
                transport.close()
        if upgraded is not None and self._subscribers is not None:
            self._subscribers.adopt(transport, upgraded.request, upgraded.trailing)

    async def _http(self, transport: SocketTransport, begun: bytes) -> Upgraded | None:
        """Serve HTTP until the connection ends (None) or asks for a WebSocket."""
        http = HttpConnection(transport, self._limits)
        if begun:
            http.h11.receive_data(begun)
        wait = self._limits.head if transport.handshaken else self._limits.tls_handshake
        while True:
            try:
                request = await self._request(http, wait)
                if request is None:
                    break
                if self._subscribers is not None and is_upgrade(request):
                    return _upgraded(http, request)
                await self._exchange(http, request)
            except h11.RemoteProtocolError as error:
                await self._complain(http, error.error_status_hint, str(error))
                break
            if http.gone or http.h11.our_state is not h11.DONE or http.h11.their_state is not h11.DONE:
                break
            http.h11.start_next_cycle()
            wait = self._limits.idle
        if not http.gone and http.h11.our_state is not h11.IDLE:
            await http.linger()
        return None

    async def _request(self, http: "HttpConnection", wait: float) -> h11.Request | None:
        """Return the next request's head; None when the connection ended or stayed idle. A head that is too slow is answered
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

    async def _exchange(self, http: "HttpConnection", request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding", error_status_hint=400)
        try:
            scope = http_scope(request, http.transport)
        except ValueError as error:
            raise h11.RemoteProtocolError(str(error), error_status_hint=400) from error
        await HttpExchange(http, request, scope, closing=lambda: self._stopping).run(self._app)

    async def _complain(self, http: "HttpConnection", status: int, text: str) -> None:
        """Answer a request that cannot be served, if nothing was answered yet."""
        if http.h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await http.answer(status, text)


def is_upgrade(request: h11.Request) -> bool:
    """Return True if the request asks for a WebSocket (RFC 6455, 4.2.1)."""
    return request.method == b"GET" and request.http_version >= b"1.1" and asks_for_websocket(request.headers)


def _upgraded(http: "HttpConnection", request: h11.Request) -> Upgraded:
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise h11.RemoteProtocolError("an upgrade request carries no body", error_status_hint=400)
    http.h11.next_event()
    return Upgraded(UpgradeRequest("GET", request.target.decode("ascii"), headers), http.h11.trailing_data[0])


class HttpConnection:
    """The h11 state of one connection and its deadlines."""

    def __init__(self, transport: SocketTransport, limits: HttpLimits) -> None:
        self.transport = transport
        self.limits = limits
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.gone = False
        self.head_only = False
        """True while the request in progress is a HEAD: the answer has no body."""

    async def fill(self) -> None:
        """Read once. Raises PeerGone when the peer resets; an orderly end becomes h11's ConnectionClosed."""
        try:
            data = await self.transport.receive()
        except (OSError, trio.ClosedResourceError) as error:
            self.gone = True
            raise PeerGone from error
        self.h11.receive_data(data)

    async def write(self, data: bytes) -> None:
        """Send all of it, each 64 kB within the write deadline, or raise PeerGone."""
        for start in range(0, len(data), _WRITE_SIZE):
            try:
                with trio.fail_after(self.limits.write):
                    await self.transport.send_all(data[start : start + _WRITE_SIZE])
            except (OSError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self.gone = True
                raise PeerGone from error

    async def answer(self, status: int, text: str, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a short answer of our own that ends the connection."""
        body = (text + "\n").encode()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
        head = h11.Response(status_code=status, headers=[*_own_headers(), *fields, _CLOSE], reason=_reason(status))
        parts = [self.h11.send(head)]
        if not self.head_only:
            parts.append(self.h11.send(h11.Data(data=body)))
        parts.append(self.h11.send(h11.EndOfMessage()))
        await self.write(b"".join(part for part in parts if part))

    async def linger(self) -> None:
        """End our side, then read a bounded rest of the request, so that the peer gets the answer."""
        with trio.move_on_after(self.limits.linger):
            try:
                self.transport.finish()
                left = _LINGER_BYTES
                while left > 0 and (data := await self.transport.receive()):
                    left -= len(data)
            except (OSError, trio.ClosedResourceError):
                return


class HttpExchange:
    """One request and its answer."""

    def __init__(
        self, connection: HttpConnection, request: h11.Request, scope: Scope, *, closing: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._h11 = connection.h11
        self._scope = scope
        connection.head_only = request.method == b"HEAD"
        self._closing = closing
        self._body: deque[bytes] = deque()
        self._body_read = False
        self._start: Message | None = None
        self._started = False
        self._complete = trio.Event()

    async def run(self, app: AsgiApp) -> None:
        """Call the application; an exception of it, or no answer, becomes 500, or the end of the connection."""
        try:
            self._pull()
            await app(self._scope, self.receive, self.send)
        except PeerGone:
            raise
        except Exception:
            log.exception("http application failed", path=self._scope["path"])
            await self._fail()
        else:
            if not self._complete.is_set() and not self._connection.gone:
                log.error("http application gave no whole answer", path=self._scope["path"])
                await self._fail()

    async def _fail(self) -> None:
        if self._connection.gone or self._started:
            raise PeerGone
        await self._connection.answer(500, "internal server error")

    def _pull(self) -> bool:
        """Take what h11 has parsed already; False when the body needs more bytes."""
        while self._h11.their_state is h11.SEND_BODY:
            event = self._h11.next_event()
            if isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA:
                return False
        return True

    async def receive(self) -> Message:
        """Receive as ASGI defines it: the body's parts, then the disconnect once it happens."""
        if self._body_read or self._connection.gone:
            await self._disconnected()
            return {"type": "http.disconnect"}
        try:
            await self._fill_body()
        except (PeerGone, h11.RemoteProtocolError):
            self._connection.gone = True
            return {"type": "http.disconnect"}
        data = self._body.popleft() if self._body else b""
        more = bool(self._body) or self._h11.their_state is h11.SEND_BODY
        self._body_read = not more
        return {"type": "http.request", "body": data, "more_body": more}

    async def _fill_body(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._connection.write(self._h11.send(go_on) or b"")
        while not self._pull() and not self._body:
            with trio.move_on_after(self._connection.limits.body) as scope:
                await self._connection.fill()
            if scope.cancelled_caught:
                raise PeerGone

    async def _disconnected(self) -> None:
        """Return when the peer is gone or the answer is complete. A pipelined request is kept, but not more than one
        read.
        """
        while not (self._complete.is_set() or self._connection.gone):
            if self._h11.trailing_data[0]:
                await self._complete.wait()
                return
            try:
                await self._connection.fill()
            except PeerGone:
                return
            if self._h11.trailing_data[1] and not self._h11.trailing_data[0]:
                self._connection.gone = True

    async def send(self, message: Message) -> None:
        """Send as ASGI defines it. The head leaves together with the first part of the body."""
        if self._connection.gone:
            await trio.lowlevel.checkpoint()
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        data = b"" if self._started else self._response_head()
        body = message.get("body", b"")
        if body and not self._connection.head_only:
            data += self._h11.send(h11.Data(data=body)) or b""
        if not message.get("more_body", False):
            data += self._h11.send(h11.EndOfMessage()) or b""
        try:
            await self._connection.write(data)
        except PeerGone:
            return
        if not message.get("more_body", False):
            self._complete.set()

    def _response_head(self) -> bytes:
        assert self._start is not None, "http.response.body before http.response.start"
        self._started = True
        headers = [*_own_headers(), *self._start.get("headers", ())]
        if self._closing() or not self._pull():
            headers.append(_CLOSE)
        status = self._start["status"]
        return self._h11.send(h11.Response(status_code=status, headers=headers, reason=_reason(status))) or b""


_CLOSE = (b"connection", b"close")


def _own_headers() -> list[tuple[bytes, bytes]]:
    return [(b"date", formatdate(usegmt=True).encode())]


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def http_scope(request: h11.Request, transport: SocketTransport) -> Scope:
    """Return the ASGI scope of a request. Raises ValueError for a target that is no path."""
    raw_path, _, query = request.target.partition(b"?")
    if not raw_path.startswith(b"/") and raw_path != b"*":
        raise ValueError("request target must be a path")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": transport.scheme,
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
        "client": transport.peer,
        "server": transport.local,
    }
