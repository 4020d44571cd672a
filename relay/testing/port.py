"""HTTP and WebSocket on one loopback port, for players and simulators.

The head of every connection's first request is read with h11. A WebSocket upgrade is handed, bytes and all, to
trio-websocket; anything else is one HTTP exchange, answered with ``Connection: close``. This is for tests and demos:
it is no server for strangers.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping

import h11
import trio
from attrs import Factory, frozen
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

_HEAD_WITHIN = 10.0
_WRITE_WITHIN = 30.0
_CLOSE_WITHIN = 2.0
_READ_SIZE = 16_384
_MAX_BODY = 1_000_000
_MAX_MESSAGE = 16 * 1024 * 1024


@frozen(kw_only=True)
class HttpRequest:
    """``target`` is path and query as they came; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = Factory(dict)
    body: bytes = b""


@frozen(kw_only=True)
class HttpResponse:
    status: int = 200
    body: str | bytes = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = Factory(dict)


class HangUp(Exception):
    """Raised while answering or talking: end the TCP connection at once, with no answer and no close frame."""


#: Answers one HTTP request.
Answering = Callable[[HttpRequest], Awaitable[HttpResponse]]
#: Talks on one accepted WebSocket until it is done; `ConnectionClosed` ends it in peace. The request has no body.
Talking = Callable[[WebSocketConnection, HttpRequest, "Wire"], Awaitable[None]]
#: Looks at the request of an upgrade: None accepts it, a response refuses it.
Admitting = Callable[[HttpRequest], Awaitable[HttpResponse | None]]


async def serve_port(
    answer: Answering,
    talk: Talking,
    *,
    admit: Admitting | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `nursery.start` returns the port, chosen by the kernel where ``port`` is 0."""

    async def connection(stream: trio.SocketStream) -> None:
        try:
            await _serve_connection(stream, answer, talk, admit)
        except* (
            trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError,
            HangUp, ConnectionClosed, LocalProtocolError,
        ):  # fmt: skip
            # trio-websocket lets the last two out when the peer is gone within the handshake, and when a ping comes while
            # the connection is being closed
            await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(port, host=host)
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(connection, listeners)


async def _serve_connection(
    stream: trio.SocketStream, answer: Answering, talk: Talking, admit: Admitting | None
) -> None:
    http = h11.Connection(h11.SERVER)
    async with stream:
        try:
            with trio.fail_after(_HEAD_WITHIN):
                head, raw = await _read_head(stream, http)
                upgrades = head is not None and _upgrades(head)
                request = None if head is None else await _read_request(stream, http, head, body=not upgrades)
        except h11.RemoteProtocolError as error:
            await _respond(stream, http, HttpResponse(status=error.error_status_hint, body=f"{error}\n"))
            return
        if request is None:
            return
        if not upgrades:
            await _respond(stream, http, await answer(request), head=request.method == "HEAD")
            return
        refusal = None if admit is None else await admit(request)
        if refusal is not None:
            await _respond(stream, http, refusal)
        elif not await _serve_websocket(Wire(stream, raw), talk, request):
            await trio.aclose_forcefully(stream)


async def _read_head(stream: trio.SocketStream, http: h11.Connection) -> tuple[h11.Request | None, bytes]:
    """Read up to the first request's head; return it with every byte read, None when the peer left instead."""
    raw = bytearray()
    while (event := http.next_event()) is h11.NEED_DATA:
        data = await stream.receive_some(_READ_SIZE)
        raw += data
        http.receive_data(data)
    return event if isinstance(event, h11.Request) else None, bytes(raw)


def _upgrades(head: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in head.headers)


async def _read_request(
    stream: trio.SocketStream, http: h11.Connection, head: h11.Request, *, body: bool = True
) -> HttpRequest:
    content = bytearray()
    while body and not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_READ_SIZE))
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > _MAX_BODY:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
    return HttpRequest(
        method=head.method.decode("ascii"),
        target=head.target.decode("ascii"),
        headers={name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
        body=bytes(content),
    )


async def _respond(
    stream: trio.SocketStream, http: h11.Connection, response: HttpResponse, *, head: bool = False
) -> None:
    body = response.body.encode() if isinstance(response.body, str) else response.body
    headers = [("content-type", response.content_type), ("content-length", str(len(body))), ("connection", "close")]
    headers += response.headers.items()
    data = http.send(h11.Response(status_code=response.status, headers=headers)) or b""
    with trio.fail_after(_WRITE_WITHIN):
        await stream.send_all(data if head else data + body)


async def _serve_websocket(stream: "Wire", talk: Talking, request: HttpRequest) -> bool:
    """Talk until it is done; False when the connection is to end without another word."""
    hung_up = False
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(_HEAD_WITHIN) as handshake:
            upgrade = await wrap_server_stream(nursery, stream, max_message_size=_MAX_MESSAGE)
            connection = await upgrade.accept()
        if not handshake.cancelled_caught:
            try:
                with contextlib.suppress(ConnectionClosed):
                    await talk(connection, request, stream)
                with trio.move_on_after(_CLOSE_WITHIN):
                    await connection.aclose()
            except HangUp:
                hung_up = True
        nursery.cancel_scope.cancel()
    return not hung_up


class Wire(trio.abc.Stream):
    """The TCP side of a WebSocket; its first bytes were read already and are read again.

    While ``silent`` is True nothing leaves, pongs included: to the client the line looks open and dead.
    """

    def __init__(self, stream: trio.SocketStream, first: bytes) -> None:
        self._stream = stream
        self._first = first
        self.silent = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._first:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        size = max_bytes or len(self._first)
        data, self._first = self._first[:size], self._first[size:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.silent:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
