"""An API with a real hub behind it, driven in memory or over a socket."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import unquote

import httpx
import trio

from relay.adapter import Offer
from relay.auth import ApiKey, KeyRing, channel_refusal, hash_key
from relay.hub.app import ChannelKeys, SubscriberSession
from relay.hub.hub import Hub
from relay.plugins.hookspecs import ChannelEvent
from relay.provider.catalog import CatalogEntry, merged_entries, provider_entries
from relay.pusher.apps import App, Limits
from relay.pusher.costs import Costs
from relay.pusher.signatures import signed_query
from relay.server.api.channels import ApiSettings
from relay.server.api.routes import build_api

NOW = 1353088179.0
"""The time of the reference's worked example."""
KEY = "demo-api-key"
BEARER = {"Authorization": f"Bearer {KEY}"}
APP = App(
    id="3",
    key="278d425bdf160c739803",
    secrets=("7ad3773142a6692b25b8",),
    limits=Limits(request_body=20_000),
    allowed_origins=("https://good.example",),
)
OTHER = App(id="4", key="otherkey", secrets=("othersecret",), enabled=True)
DISABLED = App(id="5", key="disabledkey", secrets=("s",), enabled=False)

OFFERS = (
    Offer(kind="quote"),
    Offer(kind="candle", timeframes=("1m", "1h")),
    Offer(kind="account", visibility="presence"),
)
KEYS = KeyRing(
    [
        ApiKey(name="demo", digest=hash_key(KEY), accounts=("helio.demo",)),
        ApiKey(name="narrow", digest=hash_key("narrow-key"), streams=("binance.quote",)),
    ]
)


def catalog() -> list[CatalogEntry]:
    entries = [
        *provider_entries("helio", OFFERS, symbols=("EUR/USD", "BTC/USD"), accounts=("demo", "live")),
        *provider_entries("binance", (Offer(kind="quote", example={"symbol": "BTC/USDT"}),)),
        *provider_entries("acme", (Offer(kind="quote", example={"symbol": "ES"}),), private=True),
    ]
    return [*entries, *merged_entries(entries)]


class Subscriber:
    """A connection whose socket takes everything."""

    def __init__(self, session: SubscriberSession) -> None:
        self.session = session
        self._taken = b""
        session.outbox.attach(self._take, [])

    def _take(self, data: bytes) -> int:
        self._taken += data
        return len(data)

    @property
    def socket_id(self) -> str:
        return self.session.socket_id

    def say(self, event: str, data: object) -> None:
        self.session.receive(json.dumps({"event": event, "data": data}), 0.0)

    def heard(self) -> list[dict[str, Any]]:
        """The messages since the last call; a close is ``{"close": code}``."""
        self.session.outbox.flush()
        data, self._taken, messages = self._taken, b"", []
        while data:
            opcode, size, data = data[0] & 0xF, data[1], data[2:]
            if size > 125:
                wide = 2 if size == 126 else 8
                size, data = int.from_bytes(data[:wide], "big"), data[wide:]
            payload, data = data[:size], data[size:]
            messages.append({"close": int.from_bytes(payload[:2], "big")} if opcode == 8 else json.loads(payload))
        return messages


class Rig:
    """One API. ``sessions`` and, where time is ``frozen``, ``now`` may be changed by a test."""

    def __init__(
        self,
        settings: ApiSettings | None = None,
        apps: Sequence[App] = (APP, OTHER, DISABLED),
        *,
        frozen: bool = True,
        costs: Costs | None = None,
        **more: Any,
    ) -> None:
        self.apps = apps
        self.now = 0.0
        self.sessions: list[dict[str, Any]] = []
        numbers = count(1)
        told, self.channel_events = trio.open_memory_channel[ChannelEvent](math.inf)
        self.hub = Hub(
            self.apps,
            epoch="e",
            socket_ids=lambda: f"1.{next(numbers)}",
            want=lambda stream, by: (),
            unwant=lambda stream: None,
            on_channel_event=told.send_nowait,
            costs=costs or Costs(),
            keys=ChannelKeys(
                digest_of=KEYS.digest_of,
                refusal=lambda name, channel, app_id: channel_refusal(
                    next(key for key in KEYS if key.name == name), channel, more.get("authorize", lambda *_: None)
                ),
            ),
        )
        self.api = build_api(
            settings or ApiSettings(app_id="3", status_public=True, version="1.2.3"),
            hub=self.hub,
            catalog=catalog,
            sessions=lambda: self.sessions,
            **({"clock": lambda: self.now, "unix_time": lambda: NOW} if frozen else {}),
            **{"keys": KEYS, **more},
        )
        transport = httpx.ASGITransport(self.api)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://relay.test:6001")

    def connect(self, *channels: str, app: App = APP) -> Subscriber:
        """A subscriber of these public channels, its greetings taken."""
        session = self.hub.connect(app.key, "protocol=7", None, self.now)
        assert isinstance(session, SubscriberSession)
        subscriber = Subscriber(session)
        for channel in channels:
            subscriber.say("pusher:subscribe", {"channel": channel})
        subscriber.heard()
        return subscriber

    async def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        params: Mapping[str, str] | None = None,
        *,
        app: App = APP,
        at: float = NOW,
    ) -> httpx.Response:
        """A request signed by the app; ``path`` unescaped."""
        query = signed_query(app, method, path, body, at, params)
        return await self.http.request(method, f"{path}?{query}", content=body)


class Exchange:
    """One request without a client between: the path as it is, the body as it comes, the answer as it goes."""

    def __init__(self, **received: Any) -> None:
        self._received = {"type": "http.request", "body": b"", **received}
        self.reads = 0
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        self.reads += 1
        return self._received

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def ask(self, rig: Rig, method: str, raw_path: str, query: str = "") -> None:
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "headers": [],
        }
        await rig.api(scope, self.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)
