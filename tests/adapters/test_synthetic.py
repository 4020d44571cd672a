"""The synthetic venue: its protocol over real sockets, and its adapter against what it says."""

from pathlib import Path

import attrs
import pytest
import trio

from relay.adapter import Ack, Alive, Context, Nack, Ready, Subscribe, loads
from relay.model.channels import Topic
from relay.model.events import Candle, Depth, PublicTrade, Quote
from relay.provider.http import HttpClient
from relay.testing import conformance
from relay.testing.recording import Record, Recording, read_recording
from relay_synthetic.adapter import Synthetic
from relay_synthetic.simulator import SyntheticSimulator
from support.deadlines import WITHIN
from support.dialling import dialled
from support.lone_session import lone_session
from support.synthetic_session import BEGAN_NS, record

FIXTURE = Path(__file__).parents[1] / "fixtures" / "synthetic.jsonl"
TOPICS = tuple(Topic(kind=kind, symbol="BTC/USD") for kind in ("quote", "public_trade", "depth"))

test_synthetic = conformance.tests(Synthetic, FIXTURE)


def test_the_fixture_is_what_the_venue_says():
    assert tuple(record()) == read_recording(FIXTURE).records


def test_a_seed_is_a_market():
    assert list(record(seed=1)) == list(record(seed=1))
    assert list(record(seed=1)) != list(record(seed=2))


async def heard(socket, count):
    messages = []
    with trio.fail_after(WITHIN):
        while len(messages) < count:
            messages.append(loads(await socket.get_message()))
    return messages


async def test_a_client_of_the_documented_protocol():
    simulator = SyntheticSimulator(rate=0, clock=lambda: BEGAN_NS)
    async with simulator.serve() as at, dialled(at.ws) as socket:
        (welcome,) = await heard(socket, 1)
        assert (welcome["op"], welcome["symbols"][0]) == ("welcome", "BTC/USD")
        await socket.send_message('{"op":"subscribe","streams":["depth:BTC/USD","depth:NO/SUCH",7]}')
        refused, refused_too, subscribed, snapshot = await heard(socket, 4)
        assert (refused["stream"], refused_too["stream"]) == ("depth:NO/SUCH", "7")
        assert subscribed == {"op": "subscribed", "streams": ["depth:BTC/USD"]}
        assert (snapshot["what"], len(snapshot["bids"]), len(snapshot["asks"])) == ("snapshot", 40, 40)
        simulator.tick()
        (delta,) = await heard(socket, 1)
        assert (delta["what"], delta["seq"]) == ("delta", snapshot["seq"] + 1)
        await socket.send_message('{"op":"unsubscribe","streams":["depth:BTC/USD"]}')
        assert (await heard(socket, 1))[0]["op"] == "unsubscribed"
        simulator.tick()
        await socket.send_message('{"op":"ping"}')
        assert (await heard(socket, 1))[0] == {"op": "pong"}
        for bad in ("{", "[]", '{"op":"dance"}', '{"op":"subscribe"}'):
            await socket.send_message(bad)
            assert (await heard(socket, 1))[0]["op"] == "error"


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ('{"op":"welcome","symbols":[]}', Ready()),
        ('{"op":"pong"}', Alive()),
        ('{"op":"subscribed","streams":["trade:BTC/USD"]}', Ack((TOPICS[1],))),
        ('{"op":"unsubscribed","streams":["candle:BTC/USD:1m"]}',
         Ack((Topic(kind="candle", symbol="BTC/USD", timeframe="1m"),), done=False)),
        ('{"op":"refused","stream":"quote:X","reason":"no such stream"}', Nack((Topic(kind="quote", symbol="X"),), "no such stream")),
    ],
)  # fmt: skip
def test_its_signals(text, signal):
    assert list(Synthetic(Context(provider="synthetic")).decode(text)) == [signal]


def test_a_subscription_is_one_frame():
    (frame,) = Synthetic(Context(provider="synthetic")).encode(Subscribe(TOPICS))
    assert loads(frame) == {"op": "subscribe", "streams": ["quote:BTC/USD", "trade:BTC/USD", "depth:BTC/USD"]}


async def test_the_relay_s_session_gets_every_kind_and_a_whole_book():
    events, complete = [], trio.Event()
    wanted = {Quote, Depth, PublicTrade, Candle}

    def publish(event, stamp):
        events.append(event)
        if wanted <= {type(event) for event in events} and sum(isinstance(e, Depth) for e in events) > 20:
            complete.set()

    async with SyntheticSimulator(rate=100).serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        adapter = type("Synthetic", (Synthetic,), {"session": attrs.evolve(Synthetic.session, url=at.ws, http=at.http)})
        session = lone_session(adapter, Context(provider="synthetic"), publish=publish, http=http)
        for topic in (*TOPICS, Topic(kind="candle", symbol="BTC/USD", timeframe="1m")):
            session.want(topic)
        nursery.start_soon(session.run)
        with trio.fail_after(WITHIN):
            await complete.wait()
        nursery.cancel_scope.cancel()
    depths = [event for event in events if isinstance(event, Depth)]
    assert [depth.snapshot for depth in depths[:2]] == [True, False]
    assert [depth.last_seq for depth in depths] == list(range(depths[0].last_seq, depths[0].last_seq + len(depths)))


def test_the_kit_notices_a_missing_side():
    text = '{"stream":"trade:BTC/USD","ns":1780315200000000000,"id":"1","price":"1","size":"1"}'
    broken = Recording((Record(t=1.0, dir="in", data=text),))
    with pytest.raises(conformance.Broken, match="record 1: not understood"):
        conformance.check_examples(conformance.subject(Synthetic, broken))
