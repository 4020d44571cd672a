"""Changes of an account during an absence are published once, no fill twice, and the positions held are the true ones."""

import pytest
import trio

from relay.testing.faults import Cut, Reset
from support.deadlines import WITHIN
from support.faulty import rig
from support.traded import TRADED, order, traded


def told(events, kind):
    """(id, what happened, status, whether it was found by reconciling) of the events of one kind."""
    return [
        (event[kind]["id"], event.get("event"), event[kind].get("status"), event.get("reconciled", False))
        for event in events
        if event["type"] == kind
    ]


async def until(holds):
    """Wait until it holds of the simulator, of which nothing is told while the line is down."""
    with trio.fail_after(WITHIN):
        while not holds():
            await trio.sleep(0.01)


async def calm(r):
    """Wait until nothing comes from the provider any more, and what came was read."""
    before = None
    while before != (before := r.counters()["messages"]):
        await trio.sleep(0.3)
        await r.settled()  # a machine that stood still has not read what came meanwhile


@pytest.mark.parametrize("name", TRADED)
async def test_an_absence_is_reconciled(name):
    lists = TRADED[name].lists
    async with rig(name, every=0.1) as r:
        there, view = await traded(r)
        (resting,), (held,) = there.orders(), there.positions()
        since = len(r.heard)
        r.upstream.down()
        await r.state("RECONNECTING", since=since)
        there.act()
        # The market carries out what was asked for with its next step.
        await until(lambda: held not in there.positions() and resting not in there.orders())
        r.upstream.up()

        def truth():
            return view.open("position") == there.positions() and (
                ("order" not in lists or view.open("order") == there.orders())
                and ("trade" not in lists or set(view.fills) == there.fills())
            )

        await r.subscriber.until(truth)
        await trio.sleep(0.5)  # nothing is corrected afterwards
        assert truth()
        assert r.problems() == []
        events = r.on(r.account, since=since)
        (gap,) = [event for event in events if event["type"] == "gap"]
        assert gap["refill"] == "replay"
        assert events.index(gap) < min(number for number, event in enumerate(events) if event.get("reconciled"))
        behind = events[events.index(gap) :]  # what the line had brought before it broke may come first
        closed = [position for position in told(behind, "position") if position[0] == held]
        assert closed == [(held, "POSITION_CLOSED", None, True)]
        if "order" in lists:
            (ended,) = [placed for placed in told(behind, "order") if placed[0] == resting]
            assert ended == (resting, "ORDER_CANCELLED", "CANCELLED", True)
        assert len(view.fills) == len(set(view.fills))


@pytest.mark.parametrize("name", TRADED)
async def test_an_absence_in_which_nothing_happened_is_told_as_nothing(name):
    async with rig(name, every=0.1) as r:
        there, view = await traded(r)
        r.simulator._interval = 0  # the market stands still
        await calm(r)
        held, deduped = view.open("position"), r.counters()["deduped"]
        for _ in ("prices may have moved since a list was read", "nothing has"):
            since = len(r.heard)
            r.upstream.inject(Cut())
            await r.state("CONNECTED", since=since)
            await calm(r)
        # A machine that is busy may make the absence long enough to be told while it lasts.
        kinds = [event["type"] for event in r.on(r.account, since=since)]
        assert [kind for kind in kinds if kind != "staleness"] == ["gap"]
        assert view.open("position") == held == there.positions()
        assert r.counters()["deduped"] > deduped
        assert r.problems() == []


async def test_a_provider_with_neither_lists_nor_a_replay_leaves_a_gap_that_promises_nothing():
    async with rig("shuriken") as r:
        await r.subscriber.until(lambda: r.on(r.account))
        since = len(r.heard)
        r.upstream.inject(Cut())
        await r.state("CONNECTED", since=since)
        # Events from before the loss may still come; what counts is an event behind the gap.
        await r.subscriber.until(lambda: "gap" in [event["type"] for event in r.on(r.account, since=since)][:-1])
        events = r.on(r.account, since=since)
        assert [event["refill"] for event in events if event["type"] == "gap"] == ["none"]
        assert [event for event in events if event.get("reconciled")] == []


@pytest.mark.parametrize("name", TRADED)
async def test_no_fill_is_published_twice_however_often_the_line_breaks(name):
    async with rig(name, every=0.05) as r:
        view = r.subscriber.views[r.account]
        for number in range(3):
            since = len(r.heard)
            r.session.send(order(f"c{number}", name))
            await r.subscriber.until(
                lambda since=since: any(event["type"] == "reply" for event in r.on(r.account, since=since))
            )
            (reply,) = [event for event in r.on(r.account, since=since) if event["type"] == "reply"]
            assert reply["outcome"] == "accepted", reply.get("error")
            r.upstream.inject(Reset())
            await r.state("CONNECTED", since=since)
            await r.flowing(since=len(r.heard))
        assert r.problems() == []
        assert len(view.fills) == len(set(view.fills))
        assert r.counters()["reconnects"] == 3


async def test_a_command_whose_line_breaks_before_the_answer_is_unknown_never_rejected():
    async with rig("helio", every=0.05) as r:
        since = len(r.heard)
        r.upstream.inject(Cut())  # not noticed yet: the command goes out on a line that is dead already
        r.session.send(order("c1", "helio"))
        await r.subscriber.until(lambda: any(event["type"] == "reply" for event in r.on(r.account, since=since)))
        (reply,) = [event for event in r.on(r.account, since=since) if event["type"] == "reply"]
        assert (reply["outcome"], reply["error"]["code"]) in [
            ("unknown", "disconnected"),
            ("rejected", "not_connected"),
            ("rejected", "disconnected_before_sent"),
        ]
