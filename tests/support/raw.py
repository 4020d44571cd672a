"""A WebSocket client that says whatever a test wants."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from relay.pusher.apps import App
from relay.pusher.signatures import channel_auth
from support.deadlines import WITHIN
from support.http_api import OURS
from support.running import APP


class Closed(Exception):
    """The relay has closed; `code` as in its close frame, None where the connection just ended."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code


class Raw:
    """One connection. `socket_id` is there after `greeting`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.socket_id = ""
        self.pings = 0
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._text = ""

    async def shake_hands(self, target: str) -> None:
        await self.stream.send_all(self._protocol.send(Request(host="127.0.0.1", target=target)))
        event = await self._event()
        if isinstance(event, RejectConnection):
            raise Closed(event.status_code)
        assert isinstance(event, AcceptConnection), event

    async def greeting(self) -> None:
        message = await self.receive()
        assert message["event"] == "pusher:connection_established", message
        self.socket_id = json.loads(message["data"])["socket_id"]

    async def say(self, event: str, data: Any = None, **beside: Any) -> None:
        """Send a message of the protocol."""
        await self.send(json.dumps({"event": event, "data": {} if data is None else data, **beside}))

    async def send(self, message: str | bytes) -> None:
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        await self.stream.send_all(self._protocol.send(event))

    def frame(self, message: str) -> bytes:
        """Return the frame of a message, for a test that writes several at once."""
        return self._protocol.send(TextMessage(message))

    def member(self, app: App, channel: str, user_id: str) -> dict[str, str]:
        """Return what a subscription to a presence channel needs to join it as this user."""
        data = json.dumps({"user_id": user_id})
        return {"auth": channel_auth(app, self.socket_id, channel, data), "channel_data": data}

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        await self.stream.send_all(self._protocol.send(Ping()))

    async def receive(self) -> Any:
        """The next message, or Pong. Raises Closed."""
        while True:
            match await self._event():
                case TextMessage(data=text, message_finished=finished):
                    self._text += text
                    if finished:
                        whole, self._text = self._text, ""
                        return json.loads(whole)
                case Pong() as pong:
                    return pong
                case Ping():
                    self.pings += 1
                case CloseConnection(code=code, reason=reason):
                    raise Closed(code, reason or "")

    async def hear(self, event: str, channel: str | None = None) -> Any:
        """Messages up to this event; its data, read as JSON where it is text."""
        while True:
            message = await self.receive()
            if isinstance(message, dict) and message["event"] == event and channel in (None, message.get("channel")):
                data = message.get("data")
                return json.loads(data) if isinstance(data, str) else data

    async def subscribe(self, channel: str, **asked: Any) -> None:
        """Subscribe, signed where the channel needs it, and wait for the answer, which must not be a refusal."""
        if channel.startswith("private-"):
            asked["auth"] = channel_auth(OURS, self.socket_id, channel)
        await self.say("pusher:subscribe", {"channel": channel, **asked})
        await self.hear("pusher_internal:subscription_succeeded", channel)

    async def closed(self) -> int | None:
        """Read on until the relay closes; returns the code."""
        try:
            while True:
                await self.receive()
        except Closed as closed:
            return closed.code

    async def _event(self) -> Any:
        with trio.fail_after(WITHIN):
            while (event := next(self._protocol.events(), None)) is None:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    raise Closed(None) from None
                if not data:
                    raise Closed(None)
                self._protocol.receive_data(data)
        return event


@asynccontextmanager
async def raw(port: int, target: str = f"/app/{APP['key']}?protocol=7", *, greeted: bool = True) -> AsyncIterator[Raw]:
    """Connect to the relay for the length of the block, which ends without a close frame."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Raw(stream)
        await client.shake_hands(target)
        if greeted:
            await client.greeting()
        yield client
