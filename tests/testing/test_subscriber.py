"""The state of a subscriber, and the broken rules of a channel that it reports."""

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
import trio
import trio_websocket

from relay.pusher.apps import App
from relay.pusher.messages import ResumePosition
from relay.testing.subscriber import ChannelView, Subscriber

ACCOUNT = "private-account.broker.main"
DEPTH = "depth.venue.BTC-USD"


def depth(seq, snapshot=False, bids=(), asks=()):
    return {"type": "depth", "seq": seq, "depth": {"snapshot": snapshot, "bids": bids, "asks": asks}}


def quote(seq):
    return {"type": "quote", "seq": seq, "quote": {"bid": "1"}}


def state(kind, seq, id, **more):
    body = {"id": id, **({"status": more.pop("status")} if "status" in more else {})}
    return {"type": kind, "seq": seq, kind: body, **more}


def joined(seq=0):
    view = ChannelView("c")
    view.joined(ResumePosition("e", seq), resumed=False)
    return view


def test_a_book_is_folded_by_number_not_by_text():
    view = joined()
    view.take(depth(1, True, bids=[["1.10", "5"]], asks=[["1.2", "1"]]))
    view.take(depth(2, bids=[["1.1", "0.00"]], asks=[["1.3", "2"]]))
    assert (view.bids, view.asks) == ({}, {Decimal("1.2"): 1, Decimal("1.3"): 2})
    assert view.problems == []


@pytest.mark.parametrize("events", [[depth(1)], [depth(1, True), {"type": "gap", "seq": 2}, depth(3)]])
def test_a_delta_without_its_snapshot_is_a_problem(events):
    view = joined()
    for event in events:
        view.take(event)
    assert view.problems == ["c: a delta before its snapshot"]


def test_numbers_that_go_back_are_a_problem_and_holes_are_counted():
    view = joined(5)
    view.take(quote(4))  # what stands is told to a newcomer under its own number
    view.take(quote(6))
    view.take(quote(9))
    view.take(quote(9))
    assert (view.problems, view.skipped) == (["c: quote under number 9 after 9"], 2)
    view.joined(None, resumed=True)
    view.take(quote(8))
    assert len(view.problems) == 2


@pytest.mark.parametrize(("of", "reason", "is_right"), [
    ("depth", "slow_subscriber", True), ("depth", "reconnect", False), ("quote", "slow_subscriber", False)
])  # fmt: skip
def test_only_what_stands_for_lost_depth_may_have_the_number_of_the_event_before(of, reason, is_right):
    view = joined(5)
    view.take({"type": "gap", "of": of, "reason": "sequence", "seq": 6})
    view.take({"type": "gap", "of": of, "reason": reason, "seq": 6})
    assert view.problems == ([] if is_right else ["c: gap under number 6 after 6"])


def test_a_fill_that_comes_twice_is_a_problem():
    view = joined()
    for seq in (1, 2):
        view.take({"type": "trade", "seq": seq, "trade": {"id": "f1"}})
    assert view.problems == ["c: fill f1 twice"]


def test_what_is_open_on_an_account():
    view = joined()
    for seq, event in enumerate(
        [
            state("order", 1, "o1", status="OPEN"),
            state("order", 2, "o2", status="OPEN"),
            state("order", 3, "o3", status="OPEN"),
            state("position", 4, "p1", event="POSITION_OPENED"),
            state("position", 5, "p2", event="POSITION_OPENED"),
            state("order", 6, "o1", status="FILLED"),
            state("order", 7, "o2", status="OPEN", vanished=True),
            state("position", 8, "p1", event="POSITION_CLOSED"),
        ],
        start=1,
    ):
        view.take({**event, "seq": seq})
    assert (view.open("order"), view.open("position")) == ({"o3"}, {"p2"})
    view.joined(ResumePosition("f", 0), resumed=False)
    assert view.held == {}


def test_a_delta_that_was_missed_without_a_word_tears_the_book_until_the_next_snapshot():
    view = joined()
    view.take(depth(1, True, bids=[["1", "1"]]))
    view.take(depth(3, bids=[["2", "1"]]))
    assert (view.torn, view.bids) == (True, None)
    view.take(depth(4, bids=[["3", "1"]]))
    assert view.problems == []
    view.take(depth(4, True, bids=[["5", "1"]]))
    assert (view.torn, view.bids) == (False, {Decimal(5): 1})


def text(event, channel, data):
    return json.dumps({"event": event, "channel": channel, "data": json.dumps(data)})


@asynccontextmanager
async def subscribed(channel: str, answer: Callable[[int], list[str]]):
    """A subscriber of one channel at a server that answers subscription 1, 2, ... as ``answer`` has it.

    Yields the subscriber, and the list of what it asked for, connection by connection.
    """
    asked: list[list[dict]] = []

    async def serve(request):
        socket = await request.accept()
        asked.append([])
        await socket.send_message(text("pusher:connection_established", None, {"socket_id": "1.1"}))
        while True:
            try:
                message = json.loads(await socket.get_message())
            except trio_websocket.ConnectionClosed:
                return
            asked[-1].append({"event": message["event"], "resume": message["data"].get("resume")})
            if message["event"] == "pusher:subscribe":
                number = sum(each["event"] == "pusher:subscribe" for connection in asked for each in connection)
                for line in answer(number):
                    await socket.send_message(line)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        subscriber = Subscriber(lambda: server.port, App(id="1", key="key", secrets=("secret",)), [channel])
        nursery.start_soon(subscriber.run)
        yield subscriber, asked
        nursery.cancel_scope.cancel()


async def test_an_event_that_was_damaged_on_the_way_is_resumed():
    """The number after it would hide that the order has ended: numbers on an account may jump, where money was conflated."""
    ended = text("order", ACCOUNT, state("order", 2, "o1", status="CANCELLED"))
    placed = text("order", ACCOUNT, state("order", 3, "o2", status="OPEN"))

    def answer(number):
        if number == 2:
            return [text("pusher_internal:subscription_succeeded", ACCOUNT, {}), ended, placed]
        return [
            text("pusher_internal:subscription_succeeded", ACCOUNT, {"epoch": "e", "seq": 0}),
            text("order", ACCOUNT, state("order", 1, "o1", status="OPEN")),
            "!" + ended[1:],
            placed,
        ]

    async with subscribed(ACCOUNT, answer) as (subscriber, asked):
        view = subscriber.views[ACCOUNT]
        await subscriber.until(lambda: view.open("order") == {"o2"})
        assert [connection[0]["resume"] for connection in asked] == [None, {"epoch": "e", "seq": 1}]
        assert (view.skipped, view.problems, subscriber.notes) == (0, [], {"damaged": 1})


async def test_a_torn_book_is_asked_for_anew_on_the_same_connection():
    def answer(number):
        begun = text("pusher_internal:subscription_succeeded", DEPTH, {"epoch": "e", "seq": 3 * number - 3})
        if number == 2:
            return [begun, text("depth", DEPTH, depth(4, True, bids=[["7", "1"]]))]
        return [
            begun,
            text("depth", DEPTH, depth(1, True, bids=[["5", "1"]])),
            text("depth", DEPTH, depth(3, bids=[["6", "1"]])),
        ]

    async with subscribed(DEPTH, answer) as (subscriber, asked):
        view = subscriber.views[DEPTH]
        await subscriber.until(lambda: view.bids == {Decimal(7): 1})
        ((_, *again),) = asked
        assert again == [
            {"event": "pusher:unsubscribe", "resume": None},
            {"event": "pusher:subscribe", "resume": None},
        ]
        assert (subscriber.connections, subscriber.notes["torn"], view.problems) == (1, 1, [])
