"""Real input, the whole way: a recording served as the provider, the relay's own sockets, and pusher-js at the end.

What pusher-js received is compared with what an independent decoder counted in the same sessions, and with books that are
rebuilt from the recording alone.
"""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import trio

from relay.app import Relay
from relay.model.channels import Stream, Topic, channel_name, topic_kind
from relay.model.events import Candle, MarketEvent
from relay.testing.player import play
from relay.testing.recording import Recording
from support.deadlines import WITHIN
from support.pusherjs import PusherJs, pusher_js
from support.recordings import new_adapter, run_through
from support.running import APP, port_of, running_relay
from support.venues import VENUES, Books, Venue

pytestmark = [pytest.mark.node, pytest.mark.recordings]

#: More levels than any book of a recording needs.
LARGE = {"messages": 100_000, "bytes": 64 * 1024 * 1024}
#: One connection subscribes to every instrument of a venue, which is more than an app allows by default.
WIDE = {"subscriptions": 5000, "streams": 5000}


def numbers_in(recording: Recording) -> set[str]:
    """Every decimal text in the recording."""
    texts = (each.data if isinstance(each.data, str) else each.data.decode() for each in recording.records)
    return {number for text in texts for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", text)}


def channels_of(venue: Venue, recording: Recording) -> list[str]:
    """The channel of every stream the recording has data of."""
    topics = {}
    for decoded in run_through(new_adapter(venue.adapter, **venue.options), recording):
        for event in decoded.results:
            if isinstance(event, MarketEvent):
                timeframe = event.timeframe if isinstance(event, Candle) else None
                topics[Topic(kind=topic_kind(event.kind), symbol=event.symbol, timeframe=timeframe)] = None
    return [channel_name(Stream("venue", topic)) for topic in topics]


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


async def until(condition: Any) -> None:
    with trio.fail_after(WITHIN):
        while not condition():
            await trio.sleep(0.1)


async def subscribe_to_all(client: PusherJs, channels: list[str]) -> None:
    for channel in channels:
        await client.do("subscribe", channel=channel)
    with trio.fail_after(WITHIN):
        while len(client.events(None, "pusher:subscription_succeeded")) < len(channels):
            await trio.sleep(0.02)


@pytest.mark.parametrize("venue", VENUES, ids=lambda venue: venue.recording)
async def test_pusher_js_receives_exactly_what_was_recorded(venue: Venue) -> None:
    recording = venue.load()
    async with play(recording, start="release", reply=venue.reply) as player:
        provider = {
            "adapter": venue.adapter.name,
            "options": dict(venue.options),
            "url": player.ws_url,
            "http_url": player.http_url,
        }
        apps = {"main": {**APP, "limits": WIDE}}
        async with running_relay({"venue": provider}, apps=apps, outbox=LARGE) as relay, pusher_js() as client:
            (session,) = [connection for _, connection in relay.providers.connections()]
            channels = channels_of(venue, recording)
            await client.connect(port_of(relay), APP["key"])
            await subscribe_to_all(client, channels)
            await until(lambda: session.status()["state"] == "up" and not session.status()["topics"]["queued"])
            player.release()
            await player.finished.wait()
            await until(lambda: all(len(client.events(None, kind)) >= n for kind, n in venue.counts.items()))
            await until(lambda: not session.status()["books"]["collecting"])
            status = session.status()
            books = (await client.ask("books"))["books"]

    received = Counter(
        line["event"] for line in client.lines if line["on"] == "event" and not line["event"].startswith("pusher:")
    )
    instruments = {"instrument": venue.instruments} if venue.instruments else {}
    assert received == {**venue.counts, **instruments}
    assert status["counters"]["unknown"] == venue.unknown
    assert [line for line in client.lines if line["on"] == "error"] == []
    assert_sequences_have_no_holes(client)
    assert_books_are(venue.implied_books(recording), books, relay)
    recorded = numbers_in(recording)
    written = {
        text for event in client.events() if event and "type" in event for text in texts_of(event) if "." in text
    }
    assert not {text for text in written - recorded if not text.startswith("0.0000")}


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
    for native, sides in implied.items():
        book = received[f"venue {provider.symbols.canonical(native)}"]
        for name, side in zip(("bids", "asks"), sides, strict=True):
            levels = [(plain(price), plain(size)) for price, size in (side[each] for each in sorted(side))]
            assert book[name] == [list(level) for level in (levels if name == "asks" else reversed(levels))], native


def plain(number: str) -> str:
    """A number as canonical text: 1e-7 is 0.0000001, and a level that is removed is 0 anyway."""
    return format(Decimal(number), "f") if "e" in number.lower() else number
