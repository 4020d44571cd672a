"""The HTTP side judged by the libraries it is for, over real sockets: server libraries and Shuriken's SDK."""

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pusher
import pytest
import trio
from attrs import evolve

from relay.model.enums import OrderEvent, OrderStatus, Side
from relay.model.events import Order, Quote, Stamp
from relay.server.api.channels import ApiSettings
from relay.server.http import HttpServer, open_listeners
from relay.server.subscribers import SubscriberServer
from support.api_harness import APP, KEY, Rig
from support.deadlines import WITHIN
from support.tools import NODE_DIR, missing, node

STAMP = Stamp(provider="helio", account="demo", received_at="2025-01-15T10:30:00.120Z")


class Relay(Rig):
    """An API and its hub behind the one port."""

    port: int


@pytest.fixture
async def relay(nursery: trio.Nursery) -> AsyncIterator[Relay]:
    relay = Relay(ApiSettings(app_id="3"), [evolve(APP, accounts=("helio.demo",))], frozen=False)
    edge = SubscriberServer(relay.hub.connect)
    listeners = await open_listeners("127.0.0.1", 0)
    relay.port = listeners[0].socket.getsockname()[1]
    await nursery.start(edge.run)
    front = HttpServer(relay.api, edge)
    await nursery.start(front.serve, listeners)
    yield relay
    front.stop()
    with trio.move_on_after(2, shield=True):
        await edge.shutdown(1)
    nursery.cancel_scope.cancel()


# The Python server library -------------------------------------------------------------------------------------------


@pytest.fixture
def library(relay: Relay) -> pusher.Pusher:
    return pusher.Pusher(app_id=APP.id, key=APP.key, secret=APP.secret, host="127.0.0.1", port=relay.port, ssl=False)


async def call(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    with trio.fail_after(WITHIN):
        return await trio.to_thread.run_sync(partial(function, *args, **named))


async def test_python_triggers(relay: Relay, library: pusher.Pusher) -> None:
    subscriber = relay.connect("c", "d")
    assert await call(library.trigger, ["c", "d"], "e", {"x": 1}) == {}
    assert await call(library.trigger, "c", "e", "d", socket_id=subscriber.socket_id) == {}
    batch = [{"channel": "c", "name": "one", "data": "1"}, {"channel": "d", "name": "two", "data": "2"}]
    assert await call(library.trigger_batch, batch) == {}
    heard = [(message["channel"], message["event"]) for message in subscriber.heard()]
    assert heard == [("c", "e"), ("d", "e"), ("c", "one"), ("d", "two")]


async def test_python_asks(relay: Relay, library: pusher.Pusher) -> None:
    subscriber = relay.connect("c")
    auth = library.authenticate("presence-x", subscriber.socket_id, {"user_id": "u1"})
    subscriber.say("pusher:subscribe", {"channel": "presence-x", **auth})
    assert await call(library.channels_info) == {"channels": {"c": {}, "presence-x": {}}}
    users = await call(library.channels_info, "presence-", ["user_count"])
    assert users == {"channels": {"presence-x": {"user_count": 1}}}
    assert await call(library.channel_info, "c", ["subscription_count"]) == {"occupied": True, "subscription_count": 1}
    assert await call(library.users_info, "presence-x") == {"users": [{"id": "u1"}]}


async def test_python_reaches_and_ends_a_user(relay: Relay, library: pusher.Pusher) -> None:
    subscriber = relay.connect()
    subscriber.say("pusher:signin", library.authenticate_user(subscriber.socket_id, {"id": "u1"}))
    subscriber.say("pusher:subscribe", {"channel": "#server-to-user-u1"})
    subscriber.heard()
    assert await call(library.send_to_user, "u1", "e", {"x": 1}) == {}
    assert [message["event"] for message in subscriber.heard()] == ["e"]
    assert await call(library.terminate_user_connections, "u1") == {}
    assert subscriber.heard() == [{"close": 4009}]


@pytest.mark.parametrize(
    ("secret", "app_id", "error"),
    [("wrong", "3", pusher.errors.PusherBadAuth), (APP.secret, "9", pusher.errors.PusherBadStatus)],
)
async def test_python_is_refused_in_its_own_words(relay: Relay, secret: str, app_id: str, error: type) -> None:
    library = pusher.Pusher(app_id=app_id, key=APP.key, secret=secret, host="127.0.0.1", port=relay.port, ssl=False)
    with pytest.raises(error):
        await call(library.trigger, "c", "e", "d")


# Shuriken's SDK ------------------------------------------------------------------------------------------------------


class Sdk:
    """The SDK in Node.js: what it says, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._text = b""

    async def says(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(WITHIN):
            while b"\n" not in self._text:
                data = await self._process.stdout.receive_some()
                assert data, "the SDK ended"
                self._text += data
        line, _, self._text = self._text.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def sdk(relay: Relay, *streams: tuple[str, dict[str, str]], key: str = KEY) -> AsyncIterator[Sdk]:
    binary = node()
    if not (NODE_DIR / "node_modules" / "@shuriken").is_dir():
        missing("@shuriken/sdk-ts in tests/node", "run `make node`")
    wanted = json.dumps([{"stream": stream, "filter": filters} for stream, filters in streams])
    command = [binary, str(NODE_DIR / "sdk_client.mjs"), f"http://127.0.0.1:{relay.port}", key, wanted]
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(start)
        try:
            yield Sdk(process)
        finally:
            process.kill()
            nursery.cancel_scope.cancel()


async def subscribed(relay: Relay, *channels: str) -> None:
    waiting = set(channels)
    with trio.fail_after(WITHIN):
        while waiting:
            event = await relay.channel_events.receive()
            if event.name == "channel_occupied":
                waiting.discard(event.channel)


@pytest.mark.node
async def test_the_sdk_gets_market_data_and_an_accounts_orders(relay: Relay) -> None:
    streams = [("helio.quote", {"symbol": "EUR/USD"}), ("helio.order", {"account": "demo"})]
    async with sdk(relay, *streams) as client:
        connection = (await client.says())["connected"]
        assert (connection["wsPort"], connection["appKey"]) == (relay.port, APP.key)
        await subscribed(relay, "quote.helio.EUR-USD", "presence-account.helio.demo")
        relay.hub.publish(Quote(symbol="EUR/USD", bid="1.0850", ask="1.0852"), STAMP, trio.current_time())
        quote = await client.says()
        assert quote["stream"] == "helio.quote"
        assert quote["data"]["quote"]["bid"] == "1.0850"
        order = Order(event=OrderEvent.ORDER_CREATED, id="1", symbol="EUR/USD", side=Side.BUY, status=OrderStatus.OPEN)
        relay.hub.publish(order, STAMP, trio.current_time())
        told = await client.says()
        assert (told["stream"], told["data"]["order"]["status"]) == ("helio.order", "OPEN")


@pytest.mark.node
async def test_the_sdk_tells_two_symbols_of_a_stream_apart_by_its_id(relay: Relay) -> None:
    async with sdk(relay, ("helio.quote:EUR/USD", {}), ("helio.quote:GBP/USD", {})) as client:
        await client.says()
        await subscribed(relay, "quote.helio.EUR-USD", "quote.helio.GBP-USD")
        for symbol in ("GBP/USD", "EUR/USD"):
            relay.hub.publish(Quote(symbol=symbol, bid="1.0850"), STAMP, trio.current_time())
            quote = await client.says()
            assert (quote["stream"], quote["data"]["quote"]["symbol"]) == (f"helio.quote:{symbol}", symbol)


@pytest.mark.node
async def test_the_sdk_is_told_that_its_key_is_wrong(relay: Relay) -> None:
    async with sdk(relay, key="wrong") as client:
        assert (await client.says())["failed"] == "ShurikenAuthError"
