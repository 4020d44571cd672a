"""Serve HTTP/1.1 on the port: h11 in front of an ASGI 3 application, and the hand-over of WebSockets.

Hypercorn is not used, because subscribers and HTTP share one port. Hypercorn keeps a task, h11 and its WebSocket layer
(wsproto) for every upgraded connection, and cannot pass a connection to a server without tasks (`subscribers`).

- If the first read is a plain upgrade request, the connection goes to the subscribers' server at once (`fastpath`). All
  other bytes are parsed by h11. `Upgrade: websocket` on any request, not only the first, passes the connection on for good,
  because a proxy reuses connections for both kinds of requests.
- A request is refused before the application sees it if its framing is ambiguous (h11's own errors, or both
  Content-Length and Transfer-Encoding), its head is too large, or its Host is not one of ours. The texts of these refusals
  are fixed: no bytes from a peer are sent back or logged.
- A body that turns out to be malformed ends the request with 400, however far the application has read it.
- ASGI `send` does nothing once the peer has disconnected, and `receive` returns `http.disconnect` (ASGI HTTP, version 2.3).
- If an answer starts before the request's body was read, the connection is closed after it and lingers: closing a socket
  with unread input would destroy the answer in transit.
- Every read and every write has a deadline, and a bad peer ends only its own connection.
- Shutdown: accepting stops, idle connections close at once, running requests finish and close, and after `limits.drain`
  seconds the rest is cancelled. The subscribers' server closes the connections that were passed to it.
"""

import contextlib
import ipaddress
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import h11
import structlog
import trio

from relay.server.admission import ADMIN_HEAD, Admission, HttpLimits, forwarded_for
from relay.server.fastpath.acceptor import Acceptor, no_room
from relay.server.fastpath.upgrade import UpgradeRequest, asks_for_websocket, read_upgrade
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
    """The end of HTTP on a connection whose peer has requested a WebSocket."""

    request: UpgradeRequest
    trailing: bytes
    """Bytes received after the request's head."""


class PeerGone(Exception):
    """Raised when the peer has closed or reset the connection, or stalled. Nothing more can be sent to it."""


class RequestRefused(Exception):
    """Raised to refuse a request before the application sees it. The text contains nothing that the peer sent."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


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
        *,
        hosts: Collection[str] | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Create a server. Without `subscribers`, upgrade requests are ordinary requests. With `tls` every connection is
        encrypted, and only HTTP/1.1 is offered; use a proxy for HTTP/2. `hosts`: names that the Host header may have,
        without ports and in lower case (None: any). `admission` decides which connections are accepted.
        """
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
            tls.options |= ssl.OP_NO_RENEGOTIATION
        self._app = app
        self._subscribers = subscribers
        self._limits = limits or HttpLimits()
        self._hosts = hosts
        self._admission = admission or Admission(self._limits)
        self._acceptor = Acceptor(
            self._limits,
            self._arrived,
            tls=tls,
            tune=self._tune,
            elsewhere=lambda: self.connections,
            admission=self._admission,
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
        """Accept and serve until `stop` has been called and the connections are drained. Closes the listeners."""
        try:
            with self._all:
                async with trio.open_nursery() as self._nursery:
                    with self._accepting:
                        task_status.started()
                        await self._acceptor.run(listeners)
        finally:
            self._ended.set()

    async def drained(self) -> None:
        """Wait until no connection is served, which is within `limits.drain` after `stop`."""
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
        upgrades = self._subscribers is not None and not transport.reserved
        found = read_upgrade(data, self._limits.head_bytes) if upgrades else None
        if found is not None and self._subscribers is not None and self._is_ours(found[0].header(b"host")):
            self._adopt(transport, *found)
        elif self._nursery is not None:
            self._served += 1
            self._nursery.start_soon(self._connection, transport, data)

    def _adopt(self, transport: SocketTransport, request: UpgradeRequest, trailing: bytes) -> None:
        """Pass a connection to the subscribers' server. With a proxy, the client's address is known only from here on."""
        assert self._subscribers is not None
        if self._admission.behind_proxy:
            address = forwarded_for(request.headers)
            full = self._admission.refusal_of_address(address)
            if full is not None:
                log.warning("connection refused: too many connections", setting=full)
                with contextlib.suppress(OSError):
                    transport.send(no_room(full))
                transport.close()
                return
            transport.on_close = self._admission.count(address)
        self._subscribers.adopt(transport, request, trailing)

    def _is_ours(self, host: bytes | None) -> bool:
        """Return True if Host names this relay, or is absent as HTTP/1.0 allows. Browsers always send it."""
        return self._hosts is None or host is None or host_name(host) in self._hosts

    async def _connection(self, transport: SocketTransport, begun: bytes) -> None:
        """Serve one connection. `begun`: the bytes that have been read already."""
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
            self._adopt(transport, upgraded.request, upgraded.trailing)

    async def _http(self, transport: SocketTransport, begun: bytes) -> Upgraded | None:
        """Serve HTTP until the connection ends (None) or asks for a WebSocket."""
        http = HttpConnection(transport, self._limits)
        if begun:
            http.h11.receive_data(begun)
        wait = self._head_within(transport) if transport.handshaken else self._limits.tls_handshake
        while True:
            try:
                request = await self._request(http, wait)
                if request is None:
                    break
                target, headers = self._checked(http, request)
                if self._subscribers is not None and is_upgrade(request) and not transport.reserved:
                    return _upgraded(http, target, headers)
                scope = http_scope(request, target, headers, transport)
                await HttpExchange(http, scope, closing=lambda: self._stopping or transport.reserved).run(self._app)
            except RequestRefused as refusal:
                await self._complain(http, refusal.status, refusal.text)
                break
            except h11.RemoteProtocolError as error:
                await self._complain(http, error.error_status_hint, self._fault(error))
                break
            if http.gone or http.h11.our_state is not h11.DONE or http.h11.their_state is not h11.DONE:
                break
            http.h11.start_next_cycle()
            http.head_only = False
            wait = self._limits.idle
        if not http.gone and http.h11.our_state is not h11.IDLE:
            await http.linger()
        return None

    def _head_within(self, transport: SocketTransport) -> float:
        """Return the seconds within which the head of a request must arrive."""
        return min(self._limits.head, ADMIN_HEAD) if transport.reserved else self._limits.head

    async def _request(self, http: "HttpConnection", wait: float) -> h11.Request | None:
        """Return the next request's head; None if the connection ended or stayed idle. A head that is too slow is answered
        with 408, one that is too large with 431.
        """
        idle = trio.CancelScope(deadline=trio.current_time() + wait)
        begun = bool(http.h11.trailing_data[0])
        if begun:
            idle.deadline = trio.current_time() + self._head_within(http.transport)
        else:
            self._idle.add(idle)
            if self._stopping:
                idle.cancel()
        try:
            with idle:
                held = len(http.h11.trailing_data[0])
                while (event := http.h11.next_event()) is h11.NEED_DATA:
                    await http.fill()
                    held = len(http.h11.trailing_data[0])
                    if not begun:
                        begun = True
                        self._idle.discard(idle)
                        idle.deadline = trio.current_time() + self._head_within(http.transport)
                if not isinstance(event, h11.Request):
                    return None
                http.head_only = event.method == b"HEAD"
                # h11 limits only incomplete heads: the last read may have completed one that is too large.
                if held - len(http.h11.trailing_data[0]) > self._limits.head_bytes:
                    raise RequestRefused(431, self._head_too_large())
                return event
        finally:
            self._idle.discard(idle)
        if begun:
            await self._complain(http, 408, "the request's head took too long (server.limits.head)")
        return None

    def _checked(self, http: "HttpConnection", request: h11.Request) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the request's target, a path with its query, and its headers. Raises RequestRefused."""
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise RequestRefused(400, "both Content-Length and Transfer-Encoding")
        if not request.http_version.startswith(b"1."):
            raise RequestRefused(505, "only HTTP/1.0 and HTTP/1.1 are served here")
        if request.method == b"CONNECT":
            raise RequestRefused(501, "CONNECT is not served here")
        target, headers = origin_form(request)
        host = next((value for name, value in headers if name == b"host"), None)
        if host is not None and not is_authority(host):
            raise RequestRefused(400, "the Host header must be host or host:port")
        if not self._is_ours(host):
            raise RequestRefused(421, "the Host header names another host than this relay's (server.hosts)")
        if http.transport.reserved and target.partition(b"?")[0] not in ADMIN_PATHS:
            raise RequestRefused(503, "too many connections (server.limits.connections)")
        return target, headers

    def _fault(self, error: h11.RemoteProtocolError) -> str:
        """Return a description of the fault without any of the peer's bytes, which h11's own texts may quote."""
        if error.error_status_hint == 431:
            return self._head_too_large()
        text = str(error)
        return next((fault for fault in _FAULTS if text.startswith(fault)), "the request is not HTTP/1.1 (RFC 9112)")

    def _head_too_large(self) -> str:
        return f"the request's head is larger than {self._limits.head_bytes} bytes (server.limits.head_bytes)"

    async def _complain(self, http: "HttpConnection", status: int, text: str) -> None:
        """Answer a request that cannot be served, unless an answer has begun."""
        if http.h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await http.answer(status, text)


def is_upgrade(request: h11.Request) -> bool:
    """Return True if the request asks for a WebSocket (RFC 6455, 4.2.1)."""
    return request.method == b"GET" and request.http_version == b"1.1" and asks_for_websocket(request.headers)


def _upgraded(http: "HttpConnection", target: bytes, headers: list[tuple[bytes, bytes]]) -> Upgraded:
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise RequestRefused(400, "an upgrade request carries no body")
    http.h11.next_event()
    return Upgraded(UpgradeRequest("GET", target.decode("ascii"), headers), http.h11.trailing_data[0])


#: The beginnings of h11's messages, which contain no bytes of the peer.
_FAULTS = (
    "illegal request line",
    "illegal header line",
    "illegal chunk header",
    "malformed chunk footer",
    "Missing mandatory Host: header",
    "Found multiple Host: headers",
    "bad Content-Length",
    "conflicting Content-Length headers",
    "multiple Transfer-Encoding headers",
    "Only Transfer-Encoding: chunked is supported",
    "peer closed connection without sending complete message body",
)
#: Paths that are served on the connections reserved for an administrator.
ADMIN_PATHS = frozenset({b"/healthz", b"/readyz", b"/metrics", b"/api/v2/status"})

_absolute = re.compile(rb"https?://([^/?]*)((?:/[^?]*)?)((?:\?.*)?)", re.IGNORECASE | re.DOTALL).fullmatch
_authority = re.compile(rb"([A-Za-z0-9_.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?").fullmatch


def is_authority(host: bytes) -> bool:
    """Return True for a Host header, or the authority of a target, as RFC 9110 (7.2) allows it."""
    match = _authority(host)
    if match is None or not match[1].startswith(b"["):
        return match is not None
    try:
        ipaddress.IPv6Address(match[1][1:-1].decode())
    except ValueError:
        return False
    return True


def host_name(host: bytes) -> str:
    """Return the name in a Host header, in lower case, without port and final dot; IPv6 addresses stay in brackets."""
    name, _, port = host.decode("latin-1").lower().rpartition(":")
    return (name if name and (not port or port.isdigit()) else host.decode("latin-1").lower()).removesuffix(".")


@attrs.frozen
class OwnPages:
    """Tell the pages that this relay serves, as its dashboard, from those of other sites.

    The Origin of such a page is the relay's `public_url`, or has the name and port of the Host header. The latter counts
    only where nobody else can have chosen that name: it is an address, localhost, or one of `hosts`. Where every name is
    answered, a name of an attacker that resolves to this machine is in both headers (DNS rebinding).

    Attributes:
        hosts: the names that Host may have, None for any. Requests with others do not get here.
        public_url: the address for clients, if configured.
    """

    hosts: Collection[str] | None = None
    public_url: str | None = None

    def __call__(self, origin: str, host: str | None, secure: bool) -> bool:
        """Return True if the Origin is the relay's own. A page that came without TLS is none of a relay with TLS."""
        origin = origin.lower()
        if self.public_url is not None:
            scheme, _, name = self.public_url.lower().rstrip("/").partition("://")
            if origin == f"{scheme}://{name.removesuffix(':443' if scheme == 'https' else ':80')}":
                return True
        if host is None or origin not in (f"https://{host.lower()}", "" if secure else f"http://{host.lower()}"):
            return False
        return self.hosts is not None or _is_address(host_name(host.encode("latin-1")))


def _is_address(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def origin_form(request: h11.Request) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the target as a path with its query, and the headers.

    The authority of an absolute target replaces Host (RFC 9112, 3.2.2). Raises RequestRefused for a target that is neither a
    path nor a URL.
    """
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    target = bytes(request.target)
    if target.startswith(b"/") or target == b"*":
        return target, headers
    match = _absolute(target)
    if match is None or not match[1] or not is_authority(match[1]):
        raise RequestRefused(400, "the request target must be a path or a URL")
    rest = [(name, value) for name, value in headers if name != b"host"]
    return (match[2] or b"/") + match[3], [(b"host", match[1]), *rest]


class HttpConnection:
    """The h11 state of one connection and its deadlines."""

    def __init__(self, transport: SocketTransport, limits: HttpLimits) -> None:
        self.transport = transport
        self.limits = limits
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.gone = False
        self.head_only = False
        """True while the request in progress is a HEAD, whose answer has no body."""

    async def fill(self) -> None:
        """Read once. Raises PeerGone if the peer resets the connection; a normal end becomes h11's ConnectionClosed."""
        try:
            data = await self.transport.receive()
        except (OSError, trio.ClosedResourceError) as error:
            self.gone = True
            raise PeerGone from error
        self.h11.receive_data(data)

    async def write(self, data: bytes) -> None:
        """Send all of `data`, each 64 kB within the write deadline. Raises PeerGone."""
        for start in range(0, len(data), _WRITE_SIZE):
            try:
                with trio.fail_after(self.limits.write):
                    await self.transport.send_all(data[start : start + _WRITE_SIZE])
            except (OSError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self.gone = True
                raise PeerGone from error

    async def answer(self, status: int, text: str, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a short answer from the server itself, which ends the connection."""
        body = (text + "\n").encode()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
        head = h11.Response(status_code=status, headers=[*_own_headers(), *fields, _CLOSE], reason=_reason(status))
        parts = [self.h11.send(head)]
        if not self.head_only:
            parts.append(self.h11.send(h11.Data(data=body)))
        parts.append(self.h11.send(h11.EndOfMessage()))
        await self.write(b"".join(part for part in parts if part))

    async def linger(self) -> None:
        """Close the sending side, then read a limited part of the rest of the request, so that the peer gets the answer."""
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

    def __init__(self, connection: HttpConnection, scope: Scope, *, closing: Callable[[], bool]) -> None:
        self._connection = connection
        self._h11 = connection.h11
        self._scope = scope
        self._closing = closing
        self._body: deque[bytes] = deque()
        self._body_read = False
        self._start: Message | None = None
        self._started = False
        self._complete = trio.Event()
        self._malformed: h11.RemoteProtocolError | None = None
        """The fault of the body, once found. After that nothing of the application's answer is sent."""

    async def run(self, app: AsgiApp) -> None:
        """Call the application. If it raises or does not answer, send 500, or close if its answer has begun.

        Raises h11.RemoteProtocolError if the body is malformed and no answer has begun.
        """
        self._pull()
        try:
            await app(self._scope, self.receive, self.send)
        except PeerGone:
            raise
        except Exception:
            log.exception("http application failed", path=self._scope["path"])
            await self._fail()
            return
        if self._malformed is not None and not self._started:
            raise self._malformed
        if not self._complete.is_set() and not self._connection.gone:
            log.error("http application gave no whole answer", path=self._scope["path"])
            await self._fail()

    async def _fail(self) -> None:
        if self._connection.gone or self._started:
            raise PeerGone
        await self._connection.answer(500, "internal server error")

    def _pull(self) -> bool:
        """Process the events that h11 has parsed. Return False if the body needs more bytes."""
        while self._h11.their_state is h11.SEND_BODY:
            event = self._h11.next_event()
            if isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA:
                return False
        return True

    def _body_ended(self) -> bool:
        """Return True if the whole body has arrived. If the answer did not wait for it, a fault in it is ignored, because
        the connection is closed anyway.
        """
        try:
            return self._pull()
        except h11.RemoteProtocolError:
            return False

    async def receive(self) -> Message:
        """Receive as ASGI defines it: the body's parts, then the disconnect. A malformed body counts as a disconnect."""
        if self._malformed is not None:
            return {"type": "http.disconnect"}
        if self._body_read or self._connection.gone:
            await self._disconnected()
            return {"type": "http.disconnect"}
        try:
            await self._fill_body()
        except h11.RemoteProtocolError as error:
            self._malformed = error
            return {"type": "http.disconnect"}
        except PeerGone:
            self._connection.gone = True
            return {"type": "http.disconnect"}
        data = self._body.popleft() if self._body else b""
        more = bool(self._body) or self._h11.their_state is h11.SEND_BODY
        self._body_read = not more
        return {"type": "http.request", "body": data, "more_body": more}

    async def _fill_body(self) -> None:
        if self._h11.they_are_waiting_for_100_continue and not self._started:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._connection.write(self._h11.send(go_on) or b"")
        while not self._pull() and not self._body:
            with trio.move_on_after(self._connection.limits.body) as scope:
                await self._connection.fill()
            if scope.cancelled_caught:
                raise PeerGone

    async def _disconnected(self) -> None:
        """Wait until the peer has disconnected or the answer is complete. At most one read of a pipelined request is
        kept.
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
        if self._connection.gone or (self._malformed is not None and not self._started):
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
        if self._closing() or not self._body_ended():
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


def http_scope(
    request: h11.Request, target: bytes, headers: list[tuple[bytes, bytes]], transport: SocketTransport
) -> Scope:
    """Return the ASGI scope of a request, whose target and headers `origin_form` returned."""
    raw_path, _, query = target.partition(b"?")
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
        "headers": headers,
        "client": transport.peer,
        "server": transport.local,
    }
