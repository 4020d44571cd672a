"""The relay's own framing, judged by WebSocket libraries: `websockets`, `ws` and Chromium, plain and compressed.

trio-websocket drives it in tests/server/test_subscribers.py.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from relay.app import Relay
from relay.model.events import Depth, Quote, Stamp
from support.cable import cable
from support.client import Client
from support.clients import client_of
from support.matrix import MARKS
from support.running import APP, port_of, running_relay
from support.wire import frames

PATH = f"/app/{APP['key']}?protocol=7"
PAGE = """<!doctype html><title>socket</title><script type="module">
import { socketOperations } from "./socket_operations.mjs";
window.operate = socketOperations(WebSocket, (line) => reportLine(JSON.stringify(line)));
</script>"""
OPTIONS = {
    "websockets": {False: {"compression": None}, True: None},
    "ws": {False: {"perMessageDeflate": False}, True: {"perMessageDeflate": {"threshold": 0}}},
    "chromium": {True: None},
}
"""How each is told to offer compression or not; a browser always does."""
libraries = pytest.mark.parametrize(
    ("library", "offers"),
    [
        pytest.param(library, offers, marks=MARKS["chromium"] if library == "chromium" else ())
        for library, options in OPTIONS.items()
        for offers in options
    ],
)
compression = pytest.mark.parametrize("agrees", [False, True], ids=["off", "on"])


def server(agrees: bool, **subscribers: Any) -> dict[str, Any]:
    return {"listen": "127.0.0.1:0", "subscribers": {"compression": agrees, **subscribers}}


@asynccontextmanager
async def opened(library: str, port: int, offers: bool, browser_port: int) -> AsyncIterator[tuple[Client, str]]:
    """A client with an open socket, and the extensions it believes in."""
    async with client_of(library, browser_port) as client:
        if library == "chromium":
            await client.do("page", url=f"http://127.0.0.1:{port}/judge/", html=PAGE)
        options = OPTIONS[library][offers]
        more = {} if options is None else {"options": options}
        opening = await client.ask("open", url=f"ws://127.0.0.1:{port}{PATH}", **more)
        yield client, opening["extensions"]


async def message(client: Client, event: str, times: int = 1) -> Any:
    """The message of that event, as the protocol has it."""
    heard = await client.nth(lambda line: line["on"] == "message" and f'"{event}"' in line["text"], times)
    return json.loads(heard["text"])


def subscription(channel: str) -> str:
    return json.dumps({"event": "pusher:subscribe", "data": {"channel": channel}})


@libraries
@compression
async def test_a_conversation(library: str, offers: bool, agrees: bool, browser_port: int) -> None:
    async with running_relay(server=server(agrees)) as relay, cable(port_of(relay)) as tapped:
        async with opened(library, tapped.port, offers, browser_port) as (client, extensions):
            assert ("permessage-deflate" in extensions) is (offers and agrees)
            await message(client, "pusher:connection_established")
            if library == "chromium":
                await client.do("send", text=subscription("room"))
            else:
                text = subscription("room")
                await client.do("fragments", parts=[text[:9], "", text[9:30], text[30:]])
                assert (await client.wait(lambda line: line["on"] == "pong"))["data"] == "between"
            await message(client, "pusher_internal:subscription_succeeded")
            texts = ["", "short", "Grüße \U0001f680 " * 20, "x" * 125, "y" * 1000, "z1" * 40_000]
            for text in texts:
                relay.hub.trigger(APP["id"], ["room"], "greeting", json.dumps(text), now=trio.current_time())
            got = [json.loads((await message(client, "greeting", times))["data"]) for times in range(1, len(texts) + 1)]
            assert got == texts
            await client.do("binary", size=500)
            assert (await message(client, "pusher:error"))["data"]["message"]
            await client.do("close", code=4000, reason="enough")
            closed = await client.wait(lambda line: line["on"] == "close")
            assert closed["code"] == 4000
        said = list(frames(tapped.said))
    compressed = [first == 0xC1 for first, payload in said if b'"greeting"' in payload or first == 0xC1]
    assert compressed == [False, False, *[offers and agrees] * 4]
    assert said[-1] == (0x88, (4000).to_bytes(2, "big"))


@libraries
@compression
async def test_what_is_too_big_is_refused_with_1009(
    library: str, offers: bool, agrees: bool, browser_port: int
) -> None:
    async with running_relay(server=server(agrees, message_bytes=1000)) as relay:
        async with opened(library, port_of(relay), offers, browser_port) as (client, _):
            await message(client, "pusher:connection_established")
            await client.do("send", text="x" * 1000)
            await message(client, "pusher:error")
            await client.do("send", text="x" * 1001)
            closed = await client.wait(lambda line: line["on"] == "close")
            assert (closed["code"], closed["reason"]) == (1009, "message is larger than 1000 bytes")


@libraries
async def test_the_relay_says_goodbye(library: str, offers: bool, browser_port: int) -> None:
    async with running_relay(server=server(True)) as relay:
        async with opened(library, port_of(relay), offers, browser_port) as (client, _):
            await message(client, "pusher:connection_established")
            await client.do("send", text=subscription("room"))
            await message(client, "pusher_internal:subscription_succeeded")
            relay.hub.shutdown(trio.current_time())
            closed = await client.wait(lambda line: line["on"] == "close")
            assert (closed["code"], closed["reason"]) == (4200, "server is shutting down")


LEVELS = [(f"1.08{number:02}", f"{number * 1000}") for number in range(1, 40)]


@pytest.mark.browser
@pytest.mark.parametrize("library", ["chromium"])
async def test_pusher_js_sees_the_same_compressed_and_plain(library: str, browser_port: int) -> None:
    """pusher-js in Chromium and over `ws` compressed, and over its own socket in Node.js, which offers nothing."""
    providers = {"venue": {"adapter": "synthetic", "url": "ws://127.0.0.1:1/"}}
    channels = ["room", "quote.venue.EUR-USD", "depth.venue.EUR-USD"]
    async with running_relay(providers, server=server(True)) as relay, AsyncExitStack() as stack:
        everybody = []
        for name in ("pusher-js", "pusher-js over ws", library):
            tapped = await stack.enter_async_context(cable(port_of(relay)))
            client = await stack.enter_async_context(client_of(name, browser_port))
            await client.connect(tapped.port, APP["key"])
            await client.subscribe(*channels)
            everybody.append((client, tapped))
        for number in range(1, 30):
            publish(relay, number)
        seen = []
        for client, _ in everybody:
            await client.event("depth.venue.EUR-USD", "depth", skip=28)
            seen.append(
                {channel: [data for data in client.events(channel) if not is_stale(data)] for channel in channels}
            )
        assert seen[0] == seen[1] == seen[2]
        assert [len(seen[0][channel]) for channel in channels] == [30, 30, 30]
        books = [(await client.ask("books"))["books"] for client, _ in everybody]
        assert books[0] == books[1] == books[2]
        assert len(books[0]["venue EUR/USD"]["bids"]) == len(LEVELS)
        plain, *compressed = [[first for first, _ in frames(tapped.said)] for _, tapped in everybody]
    assert plain.count(0xC1) == 0
    assert all(3 * 29 <= firsts.count(0xC1) <= 3 * 29 + 2 for firsts in compressed)  # and that the venue is away
    assert [len(tapped.said) < 0.6 * len(everybody[0][1].said) for _, tapped in everybody] == [False, True, True]


def is_stale(data: Any) -> bool:
    """Return True for the event that says that the venue is not to be reached, which comes at its own time."""
    return isinstance(data, dict) and data.get("type") == "staleness"


def publish(relay: Relay, number: int) -> None:
    """One event on each channel."""
    relay.hub.trigger(APP["id"], ["room"], "news", json.dumps({"text": "Grüße " * number * 9}), now=trio.current_time())
    stamp = Stamp(provider="venue", received_at="2025-01-15T10:30:00.123456Z")
    relay.publish(Quote(symbol="EUR/USD", bid=f"1.08{number:02}", ask="1.09"), stamp)
    levels = LEVELS if number == 1 else [(LEVELS[number][0], f"{number}.5")]
    relay.publish(Depth(symbol="EUR/USD", bids=levels, asks=[], snapshot=number == 1), stamp)
