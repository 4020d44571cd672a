"""The recordings over real sockets: player -> provider session -> events, nothing lost and nothing twice."""

import json
from collections import Counter

import attrs
import pytest
import trio

from relay.adapter import Context
from relay.model.channels import Topic, topic_kind
from relay.model.events import MARKET_KINDS, Candle, MarketEvent
from relay.provider.http import HttpClient
from relay.testing.player import play
from relay_binance.adapter import Binance
from relay_bitstamp.adapter import Bitstamp
from relay_kraken.adapter import Kraken
from support.lone_session import lone_session
from support.recordings import load_recording, new_adapter, run_through

pytestmark = pytest.mark.recordings


def topics_of(adapter_class, options, recording):
    """Every stream the recording has data of."""
    topics = set()
    for decoded in run_through(new_adapter(adapter_class, **options), recording):
        for event in decoded.results:
            if isinstance(event, MarketEvent):
                timeframe = event.timeframe if isinstance(event, Candle) else None
                topics.add(Topic(kind=topic_kind(event.kind), symbol=event.symbol, timeframe=timeframe))
    return topics


@pytest.mark.parametrize(
    ("adapter_class", "options", "name", "expected"),
    [
        (Binance, {"venue": "us"}, "binance_us", {"quote": 128, "public_trade": 11, "depth": 336, "candle": 5}),
        (Bitstamp, {}, "bitstamp", {"public_trade": 10, "depth": 625}),
        (Kraken, {}, "kraken", {"quote": 18, "public_trade": 10, "depth": 4279}),
    ],
)
async def test_a_session_with_the_player_publishes_every_event(adapter_class, options, name, expected):
    recording = load_recording(f"{name}.jsonl")
    topics = topics_of(adapter_class, options, recording)
    published, complete = [], trio.Event()

    def publish(event, stamp):
        published.append(event)
        if counts() == expected:
            complete.set()

    def counts():
        return Counter(event.kind for event in published if event.kind in MARKET_KINDS)

    asked = []

    def subscribed(text):
        """Begin when every stream is subscribed; acknowledge as Binance does, which its recording lacks."""
        frame = json.loads(text)
        asked.extend(frame.get("params") or frame.get("pair") or [frame["data"]["channel"]])
        if len(asked) == len(topics):
            player.release()
        if "method" in frame:
            yield json.dumps({"result": None, "id": frame["id"]})

    async with play(recording, start="release", reply=subscribed) as player:
        played = type(
            adapter_class.__name__,
            (adapter_class,),
            {"session": attrs.evolve(adapter_class.session, url=f"{player.ws_url}/stream", http=player.http_url)},
        )
        context = Context(provider=name, options={**adapter_class.defaults(), **options})
        async with HttpClient() as http, trio.open_nursery() as nursery:
            session = lone_session(played, context, publish=publish, http=http)
            await nursery.start(session.run)
            for topic in topics:
                session.want(topic)
            with trio.fail_after(60):
                await player.finished.wait()
                await complete.wait()
            session.shutdown()
    assert counts() == expected
    assert session.status()["counters"]["unknown"] == 0
    assert [event for event in published if event.kind in ("gap", "error")] == []
