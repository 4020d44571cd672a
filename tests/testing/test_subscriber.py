"""The state of a subscriber, and the broken rules of a channel that it reports."""

from decimal import Decimal

import pytest

from relay.pusher.messages import ResumePosition
from relay.testing.subscriber import ChannelView


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
    assert (view.problems, view.skipped) == (["c: number 9 after 9"], 2)
    view.joined(None, resumed=True)
    view.take(quote(8))
    assert len(view.problems) == 2


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
