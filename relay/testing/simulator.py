"""The base of provider simulators: a provider's server over real sockets, whose faults a test can script.

A subclass says what its HTTP routes answer (`Simulator.answer`), whom it admits (`Simulator.admit`), what it does with a
message (`Simulator.received`) and what it does over time (`Simulator.background`). The base owns the port, the sessions
(`Link`) and the faults.

What holds:

- Everything a simulator sends goes through one bounded queue per link, in order, each write with a deadline. A client that
  does not read loses its connection instead of holding up the others.
- A fault scripted for the next connection is taken by exactly one connection, in the order they were scripted. A fault put
  on a live link acts at once.
- Cancelling `Simulator.run` ends everything.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import trio
from attrs import Factory, frozen
from trio_websocket import ConnectionClosed, WebSocketConnection

from relay.plugins.hookspecs import Simulated
from relay.testing.port import HangUp, HttpRequest, HttpResponse, Wire, serve_port

__all__ = [
    "Address", "Close", "Drop", "Fault", "Garbage", "HttpRequest", "HttpResponse", "Link", "Mute", "Refuse", "Simulator",
    "Slow", "Takeover", "Withhold", "simulated",
]  # fmt: skip

_QUEUED = 10_000
_WRITE_WITHIN = 10.0
_CLOSE_WITHIN = 2.0
_PONG_WITHIN = 10.0


class Address(NamedTuple):
    """The URLs of a running simulator, for a provider's ``url`` and ``http_url``."""

    ws: str
    http: str

    @property
    def port(self) -> int:
        return urlsplit(self.ws).port or 0


# --- faults ----------------------------------------------------------------------------------------------------------


@frozen
class Drop:
    """End the TCP connection without a close frame, once ``after`` messages were sent on it."""

    after: int = 0


@frozen
class Mute:
    """Keep the connection open and send nothing more, not even pongs."""


@frozen
class Refuse:
    """Answer the upgrade (or the HTTP request) with this status."""

    status: int
    body: str = ""
    headers: dict[str, str] = Factory(dict)


@frozen
class Close:
    """Close the WebSocket with this code."""

    code: int = 1000
    reason: str = ""


@frozen
class Garbage:
    """Send this text in between."""

    text: str = "\x00 this is no message"


@frozen
class Takeover:
    """Another session took this one's place: close as the provider does (`Simulator.takeover`)."""


@frozen
class Slow:
    """Wait this long before every message, or before the HTTP answer."""

    seconds: float


@frozen
class Withhold:
    """Let messages get lost on their way, until `Simulator.heal`; the connection goes on and answers pings."""


Fault = Drop | Mute | Refuse | Close | Garbage | Takeover | Slow | Withhold


# --- a session -------------------------------------------------------------------------------------------------------


class Link:
    """One WebSocket session of a client.

    Attributes:
        request: the upgrade request, with its headers.
        received: the frames the client sent, newest last, at most 1,000.
        state: whatever the simulator wants to remember of the session.
        withheld: messages that `Withhold` lost.
    """

    def __init__(self, request: HttpRequest, connection: WebSocketConnection, wire: Wire, takeover: Close) -> None:
        self.request = request
        self.received: deque[str | bytes] = deque(maxlen=1000)
        self.state: Any = None
        self._connection = connection
        self._wire = wire
        self._takeover = takeover
        self._delay = 0.0
        self._drop_after = inf
        self._sent = 0
        self._closing: Close | None = None
        self._hung_up = False
        self._is_withholding = False
        self.withheld = 0
        self._scope = trio.CancelScope()
        self._put, self._take = trio.open_memory_channel[str | bytes | trio.Event](_QUEUED)

    @property
    def query(self) -> dict[str, str]:
        """The query of the upgrade request, decoded; of a repeated name the last value."""
        return self.query_of(self.request)

    @staticmethod
    def query_of(request: HttpRequest) -> dict[str, str]:
        """Return the query of a request's target."""
        return dict(parse_qsl(urlsplit(request.target).query, keep_blank_values=True))

    @property
    def muted(self) -> bool:
        return self._wire.silent

    def send(self, message: str | bytes) -> None:
        """Queue a message, in a text or a binary frame. A client that left 10,000 of them unread is disconnected."""
        if self._scope.cancel_called or self._closing is not None:
            return
        try:
            self._put.send_nowait(message)
        except trio.WouldBlock:
            self.drop()

    async def drained(self) -> None:
        """Wait until the client has read everything that was sent: it has answered a ping sent behind it, or is gone."""
        reached = trio.Event()
        try:
            self._put.send_nowait(reached)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return
        with trio.move_on_after(_PONG_WITHIN):
            await reached.wait()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket behind what is queued."""
        if self._closing is None:
            self._closing = Close(code, reason)
            self._put.close()

    def drop(self) -> None:
        """End the TCP connection at once."""
        self._hung_up = True
        self._scope.cancel()

    def inject(self, fault: Fault) -> None:
        """Put a fault on this live session.

        Raises:
            ValueError: `Refuse`, which only an upgrade or a request can be.
        """
        match fault:
            case Drop(after):
                self._drop_after = self._sent + after
                if after == 0:
                    self.drop()
            case Mute():
                self._wire.silent = True
            case Close(code, reason):
                self.close(code, reason)
            case Garbage(text):
                self.send(text)
            case Takeover():
                self.close(self._takeover.code, self._takeover.reason)
            case Slow(seconds):
                self._delay = seconds
            case Withhold():
                self._is_withholding = True
            case Refuse():
                raise ValueError("a live session cannot be refused; script it for the next connection")

    def heal(self) -> None:
        """End `Slow` and `Withhold`."""
        self._delay, self._is_withholding = 0.0, False

    async def serve(self, simulator: "Simulator") -> None:
        """Talk until either side is done. Raises HangUp when the connection is to end without another word."""
        async with trio.open_nursery() as nursery:
            with self._scope:
                nursery.start_soon(self._read, simulator)
                if simulator.ping_every is not None:
                    nursery.start_soon(self._ping, simulator.ping_every)
                await self._write()
            nursery.cancel_scope.cancel()
        if self._hung_up:
            raise HangUp
        if self._closing is not None and not self._wire.silent:
            with trio.move_on_after(_CLOSE_WITHIN):
                await self._connection.aclose(self._closing.code, self._closing.reason)

    async def _write(self) -> None:
        async for message in self._take:
            if isinstance(message, trio.Event):
                with trio.move_on_after(_PONG_WITHIN):
                    try:
                        await self._connection.ping()
                    except ConnectionClosed:
                        return
                message.set()
                continue
            if self._delay:
                await trio.sleep(self._delay)
            if self._is_withholding:
                self.withheld += 1
                continue
            with trio.move_on_after(_WRITE_WITHIN) as writing:
                try:
                    await self._connection.send_message(message)
                except ConnectionClosed:
                    return
            self._sent += 1
            if writing.cancelled_caught or self._sent >= self._drop_after:
                self.drop()

    async def _read(self, simulator: "Simulator") -> None:
        try:
            while True:
                message = await self._connection.get_message()
                self.received.append(message)
                simulator.received(self, message)
        except ConnectionClosed:
            self._scope.cancel()

    async def _ping(self, every: float) -> None:
        """Send the provider's own ping frames, and end a connection whose client does not answer."""
        while True:
            await trio.sleep(every)
            if self._wire.silent:
                continue
            with trio.move_on_after(_PONG_WITHIN) as waiting:
                try:
                    await self._connection.ping()
                except ConnectionClosed:
                    return
            if waiting.cancelled_caught and not self._wire.silent:
                self.drop()


# --- the server ------------------------------------------------------------------------------------------------------


class Simulator:
    """A provider's server. Subclass it.

    Class attributes:
        ws_path, http_path: the paths of `Address.ws` and `Address.http`.
        ping_every: seconds between the server's own ping frames; None when it sends none.
        takeover: the close a session gets whose place another one took.

    Attributes:
        links: the open sessions, oldest first.
        requests: the HTTP requests that came, newest last, at most 1,000.
    """

    ws_path: str = ""
    http_path: str = ""
    ping_every: float | None = None
    takeover: Close = Close(4000, "session active elsewhere")

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.requests: deque[HttpRequest] = deque(maxlen=1000)
        self._for_connections: deque[tuple[Fault, ...]] = deque()
        self._for_requests: deque[Fault] = deque()
        self._scripted: dict[int, tuple[Fault, ...]] = {}
        self._connected = trio.Event()

    # --- what a provider is ------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request."""
        return HttpResponse(status=404, body='{"error":"not found"}')

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Return None to accept an upgrade, or the response that refuses it."""
        return None

    def opened(self, link: Link) -> None:
        """Send what the provider says first: a session is open. `Link.close` here is how some refuse a bad token."""

    def received(self, link: Link, message: str | bytes) -> None:
        """Handle a message. Answers go out by `Link.send`."""

    def closed(self, link: Link) -> None:
        """Forget a session that is over."""

    async def background(self) -> None:
        """Run for as long as the simulator serves; for the background work of a subclass."""

    # --- faults ------------------------------------------------------------------------------------------------------

    def next_connection(self, *faults: Fault) -> None:
        """Script faults of the next connection; called again, of the one after that. None at all is a good connection."""
        self._for_connections.append(faults)

    def next_request(self, fault: Refuse | Slow | Drop) -> None:
        """Script the fault of the next HTTP request; called again, of the one after that."""
        self._for_requests.append(fault)

    def inject(self, fault: Fault) -> None:
        """Put a fault on every live session."""
        for link in list(self.links):
            link.inject(fault)

    def heal(self) -> None:
        """End `Slow` and `Withhold` on every live session."""
        for link in self.links:
            link.heal()

    # --- the port ----------------------------------------------------------------------------------------------------

    async def wait_connected(self) -> Link:
        """Return the oldest open session, once there is one."""
        while not self.links:
            await self._connected.wait()
        return self.links[0]

    async def run(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; `nursery.start` returns the address. Raises OSError when the port cannot be had."""
        async with trio.open_nursery() as nursery:
            port = await nursery.start(
                partial(
                    serve_port,
                    self.handle_request,
                    self.handle_session,
                    admit=self.handle_upgrade,
                    host=host,
                    port=port,
                )
            )
            nursery.start_soon(self.background)
            at = f"{host}:{port}"
            task_status.started(Address(f"ws://{at}{self.ws_path}", f"http://{at}{self.http_path}"))

    @asynccontextmanager
    async def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Address]:
        """Serve for as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            yield await nursery.start(partial(self.run, host=host, port=port))
            nursery.cancel_scope.cancel()

    async def handle_request(self, request: HttpRequest) -> HttpResponse:
        """Answer one request, or do what was scripted for it."""
        self.requests.append(request)
        fault = self._for_requests.popleft() if self._for_requests else None
        match fault:
            case Refuse(status, body, headers):
                return HttpResponse(status=status, body=body, headers=headers)
            case Drop():
                raise HangUp
            case Slow(seconds):
                await trio.sleep(seconds)
        return await self.answer(request)

    async def handle_upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Refuse an upgrade because it was scripted, or because the provider does."""
        faults = self._for_connections.popleft() if self._for_connections else ()
        for fault in faults:
            if isinstance(fault, Refuse):
                return HttpResponse(status=fault.status, body=fault.body, headers=fault.headers)
        self._scripted[id(request)] = faults
        return self.admit(request)

    async def handle_session(self, connection: WebSocketConnection, request: HttpRequest, wire: Wire) -> None:
        """Serve one session from its first word to its last."""
        link = Link(request, connection, wire, self.takeover)
        self.links.append(link)
        self._connected.set()
        self._connected = trio.Event()
        try:
            for fault in self._scripted.pop(id(request)):
                link.inject(fault)
            self.opened(link)
            await link.serve(self)
        finally:
            self.links.remove(link)
            self.closed(link)


def simulated(simulator: Callable[[], Simulator], **about: Any) -> Simulated:
    """Return a simulator as the demo runs it and `relay.testing.conformance.sessions` tests it.

    Args:
        simulator: makes one; the class itself where it needs no arguments.
        about: the other attributes of `Simulated`.
    """

    async def run(*, port: int = 0, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        async with simulator().serve(port=port) as address:
            task_status.started(address)
            await trio.sleep_forever()

    return Simulated(run=run, simulator=simulator, **about)
