"""A WebSocket to the relay over anyio, so that it runs on trio and on asyncio. wsproto speaks the protocol."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.utilities import ProtocolError

#: Seconds for one write, and for the goodbye.
_WRITE, _GOODBYE = 10.0, 1.0
#: Seconds for the end of a connection.
CLOSE_WITHIN = 2.0
_CHUNK = 65536
#: Characters of one message of the relay at most.
MAX_MESSAGE = 16 * 1024 * 1024


class ConnectionLost(Exception):
    """Raised when the connection has ended. ``code`` is the close code, None if it was lost without one."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class WebSocket:
    """One open WebSocket."""

    def __init__(self, stream: ByteStream, *, compression: bool) -> None:
        self._stream = stream
        self._compression = compression
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._writing = anyio.Lock()
        self._parts: list[str] = []
        self._pings: list[Ping] = []
        self._early: list[Event] = []
        self._size = 0

    async def handshake(self, host: str, path: str) -> None:
        """Perform the WebSocket handshake. Raises ConnectionLost if the server refuses."""
        extensions: list[Extension] = [PerMessageDeflate()] if self._compression else []
        await self._send(Request(host=host, target=path, extensions=extensions))
        while True:
            self._early += await self._receive()
            while self._early:
                event = self._early.pop(0)
                if isinstance(event, AcceptConnection):
                    return  # the first message may have come with the answer
                if isinstance(event, RejectConnection):
                    raise ConnectionLost(None, f"no WebSocket here: status {event.status_code}")

    async def send(self, text: str) -> None:
        """Send one text message. To be cancelled together with the connection only: a frame may be sent in part."""
        await self._send(Message(data=text))

    async def receive(self) -> list[str]:
        """Wait for bytes and return the text messages that they complete, possibly none.

        Raises:
            ConnectionLost: the connection ended.
        """
        messages = []
        early, self._early = self._early, []
        for event in early or await self._receive():
            match event:
                case TextMessage():
                    self._size += len(event.data)
                    if self._size > MAX_MESSAGE:
                        raise ConnectionLost(None, f"a message of more than {MAX_MESSAGE} characters")
                    self._parts.append(event.data)
                    if event.message_finished:
                        messages.append("".join(self._parts))
                        self._parts, self._size = [], 0
                case BytesMessage():
                    raise ConnectionLost(None, "a binary message")
                case Ping():
                    self._pings.append(event)
                case CloseConnection():
                    raise ConnectionLost(event.code, event.reason or "")
        return messages

    async def answer_pings(self) -> None:
        """Answer the pings that came; apart from `receive`, which may be cancelled."""
        while self._pings:
            await self._send(self._pings.pop().response())

    async def close(self) -> None:
        """Send a close frame, if that is possible at once."""
        with anyio.move_on_after(_GOODBYE, shield=True):
            try:
                await self._stream.send(self._protocol.send(CloseConnection(code=1000)))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError):
                return

    async def _receive(self) -> list[Event]:
        try:
            data = await self._stream.receive(_CHUNK)
            self._protocol.receive_data(data)
            return list(self._protocol.events())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ConnectionLost(None, "the connection was lost") from None
        except ProtocolError as error:
            raise ConnectionLost(None, f"not the WebSocket protocol: {error}") from None

    async def _send(self, event: Event) -> None:
        try:
            with anyio.fail_after(_WRITE):
                async with self._writing:
                    await self._stream.send(self._protocol.send(event))
        except TimeoutError:
            raise ConnectionLost(None, f"the relay did not read for {_WRITE:g} s") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError):
            raise ConnectionLost(None, "the connection was lost") from None


@asynccontextmanager
async def open_websocket(
    host: str, port: int, path: str, *, tls: bool, within: float, compression: bool = False
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket, and close it after the block.

    Raises:
        ConnectionLost: the server cannot be reached, or not within ``within`` seconds.
    """
    try:
        with anyio.fail_after(within):
            stream: ByteStream
            if tls:
                stream = await anyio.connect_tcp(host, port, ssl_context=ssl.create_default_context())
            else:
                stream = await anyio.connect_tcp(host, port)
            socket = WebSocket(stream, compression=compression)
            name = f"[{host}]" if ":" in host else host
            try:
                await socket.handshake(f"{name}:{port}", path)
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
    except TimeoutError:
        raise ConnectionLost(None, f"no connection within {within:g} s") from None
    except OSError as error:
        raise ConnectionLost(None, str(error.strerror or error)) from None
    try:
        yield socket
    finally:
        with anyio.move_on_after(CLOSE_WITHIN, shield=True):
            await socket.close()
            await anyio.aclose_forcefully(stream)
