"""One HTTP/1.1 connection served to an ASGI 3 application: h11 on one side, `receive` and `send` on the other.

Rules:

- a request is refused before the application sees it when its framing is ambiguous (h11's own errors, or both
  Content-Length and Transfer-Encoding);
- `send` after the peer is gone does nothing, and `receive` says `http.disconnect` (ASGI HTTP, version 2.3);
- an answer that starts before the request's body was read closes the connection after it, and lingers: closing a
  socket with unread input would destroy the answer on its way;
- every read and every write of the peer has a deadline.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import h11
import structlog
import trio

READ_SIZE = 16 * 1024
"""Bytes per read: h11 limits only events that are incomplete, so a read must not hold more than it may."""
_WRITE_SIZE = 64 * 1024
_LINGER_BYTES = 1024 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Address = tuple[str, int]

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class HttpLimits:
    """Deadlines in seconds and bounds of the front. Every one of them is about a peer that may be slow or hostile."""

    connections: int = attrs.field(default=20_000, validator=attrs.validators.ge(1))
    """Connections at once, upgraded ones included; one more is answered 503 (over TLS: closed)."""
    tls_handshake: float = 10.0
    """From accept to the end of the TLS handshake."""
    head: float = 10.0
    """From the first byte of a request (or accept) to the end of its head; then 408."""
    idle: float = 75.0
    """Between two requests of a connection."""
    body: float = 30.0
    """Without a byte of the body; then the application is told the client is gone."""
    write: float = 30.0
    """For the peer to take 64 kB."""
    linger: float = 2.0
    """For the rest of an unread body after an early answer."""
    drain: float = 10.0
    """From `stop` to the end of everything."""
    head_bytes: int = attrs.field(default=16 * 1024, validator=attrs.validators.ge(256))
    """Size of a request's head; then 431."""


class PeerGone(Exception):
    """The peer closed, reset or stalled; nothing more can be said to it."""


class HttpConnection:
    """The h11 state of one connection and its deadlines."""

    def __init__(self, stream: trio.abc.Stream, limits: HttpLimits) -> None:
        self.stream = stream
        self.limits = limits
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.gone = False
        self.head_only = False
        """The request in progress is a HEAD: the answer has no body."""

    async def fill(self) -> None:
        """Read once. Raises PeerGone when the peer resets; an orderly end becomes h11's ConnectionClosed."""
        try:
            data = await self.stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.gone = True
            raise PeerGone from error
        self.h11.receive_data(bytes(data))

    async def write(self, data: bytes) -> None:
        """Send all of it, each 64 kB within the write deadline, or raise PeerGone."""
        for start in range(0, len(data), _WRITE_SIZE):
            try:
                with trio.fail_after(self.limits.write):
                    await self.stream.send_all(data[start : start + _WRITE_SIZE])
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self.gone = True
                raise PeerGone from error

    async def answer(self, status: int, text: str, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """A short answer of our own that ends the connection."""
        body = (text + "\n").encode()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
        head = h11.Response(status_code=status, headers=[*_own_headers(), *fields, _CLOSE], reason=_reason(status))
        parts = [self.h11.send(head)]
        if not self.head_only:
            parts.append(self.h11.send(h11.Data(data=body)))
        parts.append(self.h11.send(h11.EndOfMessage()))
        await self.write(b"".join(part for part in parts if part))

    async def linger(self) -> None:
        """End our side, then read what the peer still sends, bounded, so that it gets the answer."""
        with trio.move_on_after(self.limits.linger):
            try:
                if isinstance(self.stream, trio.abc.HalfCloseableStream):
                    await self.stream.send_eof()
                left = _LINGER_BYTES
                while left > 0 and (data := await self.stream.receive_some(READ_SIZE)):
                    left -= len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
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
        """ASGI receive: the body's parts, then (when it happens) the disconnect."""
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
        """ASGI send. The head leaves together with the first part of the body."""
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


def http_scope(request: h11.Request, scheme: str, peer: Address | None, server: Address | None) -> Scope:
    """The ASGI scope of a request. Raises ValueError for a target that is no path."""
    raw_path, _, query = request.target.partition(b"?")
    if not raw_path.startswith(b"/") and raw_path != b"*":
        raise ValueError("request target must be a path")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": scheme,
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
        "client": peer,
        "server": server,
    }
