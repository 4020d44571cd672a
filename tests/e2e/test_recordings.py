"""Real input, the whole way: a recording served as the provider, the relay's own sockets, and pusher-js at the end.

What pusher-js received is compared with what an independent decoder counted in the same sessions, and with books that are
rebuilt here from the recording alone.
"""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio

from relay.app import Relay
from relay.model.channels import Stream, Topic, channel_name
from relay.model.events import MARKET_KINDS
from relay.testing.player import play
from relay.testing.recording import Recording
from support.pusherjs import PusherJs, pusher_js
from support.recordings import load_recording
from support.running import APP, port_of, running_relay

pytestmark = [pytest.mark.node, pytest.mark.recordings]

loads = msgspec.json.Decoder(float_hook=str).decode
Levels = dict[Decimal, tuple[str, str]]
Books = dict[str, tuple[Levels, Levels]]

#: Counts of an independent decoder. For Bitstamp it counts 617 deltas, of which two are contained in the snapshot before them.
EXPECTED = {
    "binance_us": {"quote": 128, "public_trade": 11, "depth": 336, "candle": 5},
    "bitstamp": {"public_trade": 10, "depth": 625},
    "kraken": {"quote": 18, "public_trade": 10, "depth": 4279},
}
ADAPTERS = {"binance_us": ("binance", {"venue": "us"}), "bitstamp": ("bitstamp", {}), "kraken": ("kraken", {})}


def change(book: tuple[Levels, Levels], bids: Any, asks: Any) -> None:
    for side, levels in zip(book, (bids, asks), strict=True):
        for price, size, *_ in levels:
            if Decimal(size) == 0:
                side.pop(Decimal(price), None)
            else:
                side[Decimal(price)] = (price, size)


def keep_best(book: tuple[Levels, Levels], count: int) -> None:
    """Kraken keeps as many levels as were subscribed; what is pushed beyond is gone without a word."""
    for side, descending in zip(book, (True, False), strict=True):
        for price in sorted(side, reverse=descending)[count:]:
            del side[price]


def implied_books(name: str, recording: Recording) -> Books:
    """The books after the last frame, by each venue's own rules, from the raw recording."""
    books: Books = {}
    seen: dict[str, int] = {}
    if name == "kraken":
        for record in recording.incoming:
            frame = loads(record.data)
            if not isinstance(frame, list) or not frame[-2].startswith("book"):
                continue
            for part in frame[1:-2]:
                if "as" in part:
                    books[frame[-1]] = ({}, {})
                change(books[frame[-1]], part.get("bs", part.get("b", [])), part.get("as", part.get("a", [])))
                keep_best(books[frame[-1]], 1000)
        return books
    for record in recording.records:
        if record.dir == "http" and (found := re.search(r"/depth\?symbol=(\w+)|/order_book/(\w+)", record.url)):
            symbol = (found[1] or found[2]).upper()
            body = loads(record.data)
            books[symbol] = ({}, {})
            change(books[symbol], body["bids"], body["asks"])
            seen[symbol] = int(body.get("lastUpdateId") or body["microtimestamp"])
    for record in recording.incoming:
        frame = loads(record.data)
        data = frame.get("data", {})
        if data.get("e") == "depthUpdate":
            symbol, last, bids, asks = data["s"], data["u"], data["b"], data["a"]
        elif frame.get("channel", "").startswith("diff_order_book_") and frame["event"] == "data":
            symbol, last, bids, asks = (
                frame["channel"][16:].upper(),
                int(data["microtimestamp"]),
                data["bids"],
                data["asks"],
            )
        else:
            continue
        if last > seen[symbol]:
            change(books[symbol], bids, asks)
    return books


def prices_of(name: str, recording: Recording) -> set[str]:
    """Every decimal text in the recording."""
    return {
        text for record in recording.records for text in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", str(record.data))
    }


def channels_of(name: str, relay: Relay, recording: Recording) -> Iterator[str]:
    """The channel of every stream that was subscribed in the recording."""
    natives = set()
    for record in recording.records:
        if record.dir == "open" and "streams=" in record.url:
            natives |= {stream.split("@")[0].upper() for stream in record.url.split("streams=")[1].split("/")}
        elif record.dir == "out":
            sent = loads(record.data)
            natives |= set(sent.get("pair", [])) or {sent["data"]["channel"].rsplit("_", 1)[1]}
    (provider,) = relay.providers
    kinds = set(EXPECTED[name]) & MARKET_KINDS
    for native in sorted(natives):
        for kind in sorted(kinds):
            timeframe = "1m" if kind == "candle" else None
            yield channel_name(
                Stream(provider.name, Topic(kind=kind, symbol=provider.symbols.canonical(native), timeframe=timeframe))
            )


def texts_of(event: dict[str, Any]) -> Iterator[str]:
    """The prices and sizes of a canonical event."""
    body = event.get(event["type"]) or event["bar"]
    yield from (
        body[name]
        for name in ("bid", "ask", "bid_size", "ask_size", "last", "price", "quantity", "open", "high", "low", "close")
        if name in body
    )
    for level in (*body.get("bids", ()), *body.get("asks", ())):
        yield from level


async def until(condition: Any, within: float = 60) -> None:
    with trio.fail_after(within):
        while not condition():
            await trio.sleep(0.02)


async def subscribe_to_all(client: PusherJs, channels: list[str]) -> None:
    for channel in channels:
        await client.do("subscribe", channel=channel)
    with trio.fail_after(60):
        while len(client.events(None, "pusher:subscription_succeeded")) < len(channels):
            await trio.sleep(0.02)


@pytest.mark.parametrize("name", EXPECTED)
async def test_pusher_js_receives_exactly_what_was_recorded(name: str) -> None:
    recording = load_recording(f"{name}.jsonl")
    adapter, options = ADAPTERS[name]
    async with play(recording, speed=25, start="release") as player:
        provider = {"adapter": adapter, "options": options, "url": player.ws_url, "http_url": player.http_url}
        outbox = {"messages": 100_000, "bytes": 64 * 1024 * 1024}
        async with running_relay({"venue": provider}, outbox=outbox) as relay, pusher_js() as client:
            (session,) = [session for _, session in relay.providers.connections()]
            await until(lambda: session.status()["state"] == "up")
            channels = list(channels_of(name, relay, recording))
            await client.connect(port_of(relay), APP["key"])
            await subscribe_to_all(client, channels)
            await until(lambda: not session.status()["topics"]["queued"])
            player.release()
            await player.finished.wait()
            await until(
                lambda: session.status()["counters"]["messages"] >= len(recording.incoming) + len(player.requests)
            )
            await until(
                lambda: (
                    not session.status()["books"]["collecting"]
                    and len(client.events(None, "depth")) >= EXPECTED[name]["depth"]
                )
            )
            status = session.status()
            books = (await client.ask("books"))["books"]

    received = Counter(
        line["event"] for line in client.lines if line["on"] == "event" and not line["event"].startswith("pusher:")
    )
    assert received == EXPECTED[name]
    assert status["counters"]["unknown"] == 0
    assert [line for line in client.lines if line["on"] == "error"] == []
    assert_sequences_have_no_holes(client)
    assert_books_are(implied_books(name, recording), books, relay)
    recorded = prices_of(name, recording)
    strange = {text for event in client.events() if event and "type" in event for text in texts_of(event)} - recorded
    assert not strange, f"not in the recording: {sorted(strange)[:10]}"


def assert_sequences_have_no_holes(client: PusherJs) -> None:
    by_channel: dict[str, list[int]] = {}
    for line in client.lines:
        if line["on"] == "event" and isinstance(line.get("data"), dict) and "seq" in line["data"]:
            by_channel.setdefault(line["channel"], []).append(line["data"]["seq"])
    assert by_channel
    for channel, seqs in by_channel.items():
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), channel


def assert_books_are(implied: Books, received: dict[str, Any], relay: Relay) -> None:
    (provider,) = relay.providers
    assert len(implied) == len(received)
    for native, (bids, asks) in implied.items():
        name = f"venue {provider.symbols.canonical(native)}"
        book = received[name if name in received else f"venue {provider.symbols.canonical(native.lower())}"]
        assert book["bids"] == [list(bids[price]) for price in sorted(bids, reverse=True)], native
        assert book["asks"] == [list(asks[price]) for price in sorted(asks)], native
