"""A hub without sockets: subscribers that sign what needs a signature and read the frames of their outbox."""

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from relay.hub.app import RefusedSession, SubscriberSession
from relay.hub.hub import Hub
from relay.hub.outbox import Outbox
from relay.model.channels import Stream
from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import ChannelEvent
from relay.pusher.apps import App
from relay.pusher.names import channel_type
from relay.pusher.signatures import channel_auth, user_auth

APP = App(id="1", key="key", secrets=("secret",), client_events=True, accounts=("*",))
RECEIVED_AT = "2025-01-15T10:30:00.120Z"


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(opcode, payload) of each unmasked frame, inflated where it is compressed."""
    at = 0
    while at < len(data):
        compressed, opcode, size, at = data[at] & 0x40, data[at] & 0xF, data[at + 1], at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        payload = data[at : at + size]
        yield opcode, zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", -15) if compressed else payload
        at += size


class Messages(list[dict[str, Any]]):
    """Messages as a client sees them, with `data` decoded where it is JSON text."""

    @property
    def names(self) -> list[str]:
        return [message["event"].removeprefix("pusher_internal:").removeprefix("pusher:") for message in self]

    @property
    def seqs(self) -> list[int]:
        return [message["data"]["seq"] for message in self if "seq" in message["data"]]

    def of(self, *names: str) -> "Messages":
        return Messages(message for message, name in zip(self, self.names, strict=True) if name in names)

    def on(self, channel: str) -> "Messages":
        return Messages(message for message in self if message.get("channel") == channel)


def decoded(message: dict[str, Any]) -> dict[str, Any]:
    data = message.get("data")
    if isinstance(data, str) and data[:1] in "{[":
        message["data"] = json.loads(data)
    return message


class Client:
    """A subscriber with a socket that takes everything, unless it is `slow`."""

    def __init__(self, relay: "Relay", session: SubscriberSession | RefusedSession, app: App) -> None:
        self._relay, self.session, self._app = relay, session, app
        self.slow = False
        self._taken = b""
        self.bytes = 0
        """What it took so far."""
        self.close_code: int | None = None
        session.outbox.attach(self._write, [])

    @property
    def outbox(self) -> Outbox:
        return self.session.outbox

    @property
    def socket_id(self) -> str:
        assert isinstance(self.session, SubscriberSession)
        return self.session.socket_id

    def _write(self, data: bytes) -> int:
        if self.slow:
            raise BlockingIOError
        self._taken += data
        self.bytes += len(data)
        return len(data)

    def take(self) -> Messages:
        """Everything since the last time."""
        if self.outbox.dirty:
            self.outbox.flush()
        self.outbox.drain()
        found, self._taken = list(frames(self._taken)), b""
        for opcode, payload in found:
            if opcode == 8:
                self.close_code = int.from_bytes(payload[:2], "big")
        return Messages(decoded(json.loads(payload)) for opcode, payload in found if opcode == 1)

    def send(self, event: str, data: Any = None, **more: Any) -> Messages:
        self.begin(event, data, **more)
        while self.session.busy:
            self.session.proceed(self._relay.now)
        return self.take()

    def begin(self, event: str, data: Any = None, **more: Any) -> None:
        """Send a message; what it asks for may be made in parts (`session.proceed`)."""
        self.session.receive(json.dumps({"event": event, "data": data, **more}), self._relay.now)

    def subscribe(self, channel: str, user: str | None = None, **more: Any) -> Messages:
        return self.send("pusher:subscribe", self.signed(channel, user, **more))

    def signed(self, channel: str, user: str | None = None, **more: Any) -> dict[str, Any]:
        """The data of a subscription."""
        data: dict[str, Any] = {"channel": channel, **more}
        if channel_type(channel).authorized:
            if user is not None:
                data["channel_data"] = json.dumps({"user_id": user, "user_info": {"name": user.title()}})
            data["auth"] = channel_auth(self._app, self.socket_id, channel, data.get("channel_data"))
        return data

    def unsubscribe(self, channel: str) -> Messages:
        return self.send("pusher:unsubscribe", {"channel": channel})

    def sign_in(self, user: str, *watchlist: str) -> Messages:
        user_data = json.dumps({"id": user, "watchlist": watchlist})
        return self.send(
            "pusher:signin", {"auth": user_auth(self._app, self.socket_id, user_data), "user_data": user_data}
        )

    def gone(self) -> None:
        self.session.closed(self._relay.now)


class Relay:
    """A hub with everything it calls recorded, and a clock."""

    def __init__(self, *apps: App, **settings: Any) -> None:
        self.now = 1000.0
        self.wanted: list[Stream] = []
        #: The providers that are asked for merged streams.
        self.asked: list[str] = []
        self.channel_events: list[ChannelEvent] = []
        numbers = count(1)
        self.hub = Hub(
            apps or (APP,),
            epoch=settings.pop("epoch", "run"),
            socket_ids=lambda: f"7.{next(numbers)}",
            want=lambda stream, by: self.wanted.append(stream) or self.asked,
            unwant=self.wanted.remove,
            on_channel_event=self.channel_events.append,
            now=self.now,
            **settings,
        )

    def client(self, app: App = APP, query: str = "protocol=7", **more: Any) -> Client:
        client = Client(self, self.hub.connect(app.key, query, more.pop("origin", None), self.now, **more), app)
        client.take()
        return client

    def publish(self, event: Event, provider: str = "x", account: str | None = None) -> str:
        return self.hub.publish(event, Stamp(provider=provider, account=account, received_at=RECEIVED_AT), self.now).id

    def trigger(self, channel: str, name: str = "news", data: str = '{"n":1}', **more: Any) -> None:
        self.hub.trigger("1", [channel], name, data, now=self.now, **more)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.hub.tick(self.now)

    @property
    def channel_event_names(self) -> list[str]:
        return [event.name for event in self.channel_events]


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture(scope="session")
def relay_of() -> Callable[..., Relay]:
    """Makes a relay with other apps or settings."""
    return Relay


@pytest.fixture(scope="session")
def app_of() -> Callable[..., App]:
    """Makes the app with other settings."""

    def make(**settings: Any) -> App:
        return App(**({"id": "1", "key": "key", "secrets": ("secret",), "client_events": True} | settings))

    return make
