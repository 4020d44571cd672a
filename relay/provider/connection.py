"""One WebSocket connection to a provider, over trio-websocket.

Messages are handled synchronously, so the reader always drains the library's queue. Every wait for the peer has a deadline,
closing included. The stream is wrapped (`_Stream`) because the library

- does not report when bytes arrived: it answers pings itself, and messages wait in its queue while the relay is busy;
- does not report that the peer closed the connection, or sent a status and an endless body, during the handshake;
- does not limit the number of nearly empty frames in one message.

Whatever a peer answers to the handshake, the attempt ends as `DialRefused` or `DialFailed`, never with an exception.
"""

import ssl
import time
from collections.abc import Callable
from math import inf
from urllib.parse import urlsplit

import trio
import trio_websocket
from attrs import frozen
from wsproto.utilities import LocalProtocolError

from relay.errors import leaves, one_line
from relay.provider.session_events import Closed, Dial, DialFailed, DialRefused, as_text

_LARGEST_HEAD = 16 * 1024
#: A message with more frames than this must have this many bytes per frame on average: the library keeps an object for each.
_MANY_FRAMES, _FRAME_BYTES = 1000, 16
#: A read with too many empty frames is passed on in slices of so many bytes: the library handles all frames of one at once.
_SLICE = 512
#: Most characters of the reason of a failed attempt.
_REASON = 200


@frozen(kw_only=True)
class Deadlines:
    """Timeouts of a provider's connection in seconds, and limits of its messages and queue.

    Attributes:
        connect: name resolution and TCP.
        tls: the TLS handshake.
        handshake: the WebSocket handshake.
        send: writing one frame to the socket.
        close: the closing handshake.
        max_message: largest message in bytes; a larger one closes the connection with 1009.
        queue: most frames that wait to be written. If there are more, the provider does not read, and the connection is
            closed.
    """

    connect: float = 10.0
    tls: float = 10.0
    handshake: float = 10.0
    send: float = 10.0
    close: float = 3.0
    max_message: int = 16 * 1024 * 1024
    queue: int = 1000


@frozen
class _Ping:
    pass


@frozen
class _Close:
    code: int
    reason: str


class _Stream(trio.abc.Stream):
    """Wraps the provider's stream: notes arriving bytes, its end, the head of the handshake, and floods of empty frames."""

    def __init__(self, stream: trio.abc.Stream, on_bytes: Callable[[], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        self._sliced: bytes | bytearray = b""
        self.head = b""
        self.in_handshake = True
        self.ended = trio.Event()
        #: The WebSocket connection on this stream, after the handshake.
        self.ws: trio_websocket.WebSocketConnection | None = None
        #: True once the connection was aborted because of a message with too many frames.
        self.flooded = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.ws is not None and _is_flooded(self.ws):
            self.flooded = True
            raise trio.BrokenResourceError
        if not self._sliced:
            data = await self._read(max_bytes)
            if len(data) <= 2 * _MANY_FRAMES or data.count(b"\0\0") <= _MANY_FRAMES:
                return data
            self._sliced = data
        await trio.lowlevel.checkpoint()
        data, self._sliced = self._sliced[:_SLICE], self._sliced[_SLICE:]
        return data

    async def _read(self, max_bytes: int | None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()
            raise
        if data:
            self._on_bytes()
            if self.in_handshake and len(self.head) < _LARGEST_HEAD:
                self.head += data
        else:
            self.ended.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()  # a reset before the first byte of the handshake shows here, not in the reader
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


class Line:
    """A connection that is being dialled, open, or closing.

    Args:
        on_open: called once frames may be sent.
        on_text: called with each message and the Unix nanoseconds of the last read from the socket.
        on_bytes: called whenever bytes arrive.
        on_written: called when a text frame was written to the socket.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        ssl_context: ssl.SSLContext | None,
        *,
        on_open: Callable[[], None],
        on_text: Callable[[str, int], None],
        on_bytes: Callable[[], None],
        on_written: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_written = on_written
        self._deadlines = deadlines
        self._ssl_context = ssl_context
        self._on_open = on_open
        self._on_text = on_text
        self._on_bytes = on_bytes
        self._arrived = 0
        self._scope = trio.CancelScope()
        self._open = False
        self._binary = False
        self._put, self._items = trio.open_memory_channel[str | _Ping | _Close](inf)
        #: False once the session has closed the connection: nothing is reported any more.
        self.live = True

    def send(self, text: str) -> bool:
        """Queue a text frame; return False if the queue is full."""
        return self._enqueue(text)

    def ping(self) -> bool:
        """Queue a ping frame; return False if the queue is full."""
        return self._enqueue(_Ping())

    def close(self, code: int, reason: str) -> None:
        """Close the connection after the queued frames, or cancel the dial. Nothing more is reported."""
        self.live = False
        if self._open:
            self._scope.deadline = trio.current_time() + self._deadlines.close + self._deadlines.send
            self._put.send_nowait(_Close(code, reason))
        else:
            self._scope.cancel()

    def _enqueue(self, item: str | _Ping) -> bool:
        if self._items.statistics().current_buffer_used >= self._deadlines.queue:
            return False
        self._put.send_nowait(item)
        return True

    async def run(self, dial: Dial) -> Closed | DialRefused | DialFailed:
        """Dial, then read and write until the connection ends; return how it ended."""
        self._binary = dial.binary
        ending: Closed | DialRefused | DialFailed = Closed(1006, "the connection was given up")
        with self._scope:
            try:
                stream = _Stream(await self._connected(dial.url), self._on_bytes_if_live)
            except (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError) as error:
                return DialFailed(_explained(error))
            try:
                ending = await self._talk(dial, stream)
            finally:
                await trio.aclose_forcefully(stream)
        return ending

    async def _connected(self, url: str) -> trio.abc.Stream:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or parts.hostname is None:
            raise ValueError("the session's url is not a ws:// or wss:// URL")
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        with _within(self._deadlines.connect, "no TCP connection"):
            stream = await trio.open_tcp_stream(parts.hostname, port)
        if parts.scheme == "ws":
            return stream
        context = ssl.create_default_context() if self._ssl_context is None else self._ssl_context
        secure = trio.SSLStream(stream, context, server_hostname=parts.hostname, https_compatible=True)
        try:
            with _within(self._deadlines.tls, "no TLS handshake"):
                await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure

    async def _talk(self, dial: Dial, stream: _Stream) -> Closed | DialRefused | DialFailed:
        ending: list[Closed | DialRefused | DialFailed] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hung_up, stream, nursery.cancel_scope)
                ws = await self._handshake(dial, stream, nursery)
                if ws is None:
                    ending.append(_unfinished(stream))
                else:
                    stream.in_handshake, stream.ws = False, ws
                    nursery.start_soon(self._write, ws, nursery, ending)
                    self._open = True
                    if self.live:
                        self._on_open()
                    ending.append(await self._read(ws))
                    with trio.move_on_after(self._deadlines.close):
                        await ws.aclose()
                nursery.cancel_scope.cancel()
        except* (
            trio_websocket.ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError
        ):  # fmt: skip
            # The library's reader raises these if it cannot report a violation of the protocol to the peer, and the last one
            # if it would answer a ping while the connection is being closed.
            ending.append(Closed(1006, "the connection broke") if self._open else _unfinished(stream))
        except* trio_websocket.ConnectionRejected as rejected:
            ending[:0] = [_refused(error) for error in leaves(rejected)]
        except* Exception as failed:
            # During the handshake only the library runs: it fails in various ways if the answer is not HTTP.
            if self._open:
                raise
            ending.append(DialFailed(f"the answer to the WebSocket handshake: {_first_cause(failed)}"))
        if stream.flooded:
            return Closed(
                1006, f"a message of more than {_MANY_FRAMES} frames with less than {_FRAME_BYTES} bytes each"
            )
        return ending[0] if ending else _unfinished(stream)

    async def _hung_up(self, stream: _Stream, scope: trio.CancelScope) -> None:
        """Cancel the handshake if the peer closes the connection during it. Later the library reports that itself."""
        await stream.ended.wait()
        if stream.in_handshake:
            scope.cancel()

    async def _handshake(
        self, dial: Dial, stream: _Stream, nursery: trio.Nursery
    ) -> trio_websocket.WebSocketConnection | None:
        parts = urlsplit(dial.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with trio.move_on_after(self._deadlines.handshake):
            return await trio_websocket.wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type, unused-ignore]
                parts.netloc.rpartition("@")[2],
                target,
                extra_headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in dial.headers.items()],
                message_queue_size=64,
                max_message_size=self._deadlines.max_message,
                receive_buffer_size=65536,
            )
        return None

    async def _read(self, ws: trio_websocket.WebSocketConnection) -> Closed:
        while True:
            try:
                message = await ws.get_message()
            except trio_websocket.ConnectionClosed as closed:
                reason = closed.reason
                return Closed(1006) if reason is None else Closed(reason.code, reason.reason or "")
            if self.live:
                self._on_text(as_text(message, binary=self._binary), self._arrived)

    async def _write(
        self,
        ws: trio_websocket.WebSocketConnection,
        nursery: trio.Nursery,
        ending: list[Closed | DialRefused | DialFailed],
    ) -> None:
        try:
            async for item in self._items:
                if isinstance(item, _Close):
                    with trio.move_on_after(self._deadlines.close):
                        await ws.aclose(item.code, item.reason)
                    nursery.cancel_scope.cancel()
                elif isinstance(item, _Ping):
                    nursery.start_soon(self._ping, ws)
                else:
                    with trio.fail_after(self._deadlines.send):
                        await ws.send_message(item.encode("latin-1") if self._binary else item)
                    self._on_written()
        except trio_websocket.ConnectionClosed:
            return  # the reader reports it
        except trio.TooSlowError:
            slow = f"a frame was not taken within {self._deadlines.send:g} s"
            ending.append(Closed(1006, f"the provider does not read: {slow}"))
            nursery.cancel_scope.cancel()

    async def _ping(self, ws: trio_websocket.WebSocketConnection) -> None:
        with trio.move_on_after(self._deadlines.send):
            try:
                await ws.ping()
            except trio_websocket.ConnectionClosed:
                return  # the reader reports it

    def _on_bytes_if_live(self) -> None:
        self._arrived = time.time_ns()
        if self.live:
            self._on_bytes()


class _within:  # noqa: N801 - reads as the statement it is
    """A timeout whose TooSlowError names the step that was too slow."""

    def __init__(self, seconds: float, what: str) -> None:
        self._scope = trio.CancelScope()
        self._seconds = seconds
        self._what = what

    def __enter__(self) -> None:
        self._scope.deadline = trio.current_time() + self._seconds
        self._scope.__enter__()

    def __exit__(self, *exception: object) -> bool | None:
        swallowed = self._scope.__exit__(*exception)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise trio.TooSlowError(f"{self._what} within {self._seconds:g} s")
        return swallowed


def _explained(error: BaseException) -> str:
    """Return the error and its causes as text: trio's own text lacks the TLS alert and the error of each address."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    found = (leaf for cause in causes for leaf in leaves(cause))
    return _quoted("; ".join(dict.fromkeys(str(leaf) or type(leaf).__name__ for leaf in found)))


def _first_cause(group: BaseExceptionGroup[BaseException]) -> str:
    """Return the original error: the library raises another one while it handles the first."""
    error = leaves(group)[0]
    while error.__context__ is not None:
        error = error.__context__
    return _quoted(str(error) or type(error).__name__)


def _quoted(text: str) -> str:
    """Return text that may contain a peer's bytes as one short printable line."""
    return one_line(text[:_REASON])


def _is_flooded(ws: trio_websocket.WebSocketConnection) -> bool:
    # The library limits only the bytes of a message, and has no public name for the received parts of one.
    parts = len(ws._message_parts)
    return parts > _MANY_FRAMES and ws._message_size < parts * _FRAME_BYTES


def _refused(rejected: BaseException) -> DialRefused:
    assert isinstance(rejected, trio_websocket.ConnectionRejected)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in rejected.headers or ()}
    return DialRefused(rejected.status_code, headers)


def _unfinished(stream: _Stream) -> DialRefused | DialFailed:
    """Return the result of a handshake that did not finish: the HTTP status if one was received, otherwise the failure."""
    first, *lines = stream.head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    match first.split(" ", 2):
        case [version, status, *_] if version.startswith("HTTP/") and _is_status(status) and status != "101":
            pairs = (line.partition(":") for line in lines)
            return DialRefused(int(status), {name.strip().lower(): value.strip() for name, _, value in pairs})
    if stream.ended.is_set():
        return DialFailed("the peer closed the connection during the WebSocket handshake")
    return DialFailed("the WebSocket handshake timed out")


def _is_status(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit()
