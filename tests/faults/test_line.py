"""The line to the provider breaks in every way a line can, and a subscriber of a whole relay hears the same of it.

Every adapter goes through the same faults in a session of its own (`tests/adapters/test_sessions.py`); here it is one venue and
one broker. What a subscriber of the relay sees is the same whatever broke: the session says RECONNECTING with the reason, then CONNECTED
with the length of the gap; each stream that had carried data gets a `gap` before anything new; books begin with a snapshot.
"""

import re
from itertools import groupby

import attrs
import pytest
import trio
import trio.testing

from relay.adapter import CloseMeaning
from relay.plugins.manager import load_plugins
from relay.testing.faults import Corrupt, Cut, HalfOpen, Reset, Stall, Throttle
from relay.testing.simulator import Close, Drop, Mute, Refuse, Takeover
from support.deadlines import WITHIN
from support.faulty import VENUES, rig

WRONG = "not-the-one-of-anyone"
ADAPTERS = load_plugins().adapters()
venues = pytest.mark.parametrize("name", ["synthetic", "helio"])


def declared(name):
    return ADAPTERS[VENUES[name].simulated.adapter].session


def silent(name):
    """Return a declaration that beats, in the adapter's own way, and finds silence soon."""
    return {"silent_after": 1.0, "heartbeat": attrs.evolve(declared(name).heartbeat, every=0.2)}


#: fault -> (how, changes of the declaration, the reason that is told)
LINE = {
    "cut": (lambda r: r.upstream.inject(Cut()), None, r"closed with 1006"),
    "reset": (lambda r: r.upstream.inject(Reset()), None, r"closed with 1006"),
    "stalled": (lambda r: r.upstream.inject(Stall()), silent, r"nothing received for 1 s"),
    "half open": (lambda r: r.upstream.inject(HalfOpen()), silent, r"nothing received for 1 s"),
    "not UTF-8": (lambda r: r.upstream.inject(Corrupt("utf8")), None, r"closed with 100[27]"),
    "not RFC 6455": (lambda r: r.upstream.inject(Corrupt("frame")), None, r"closed with 1002"),
    "provider drops": (lambda r: r.simulator.inject(Drop()), None, r"closed with 1006"),
    "provider mute": (lambda r: r.simulator.inject(Mute()), silent, r"nothing received for 1 s"),
    "provider restarts": (lambda r: r.simulator.inject(Close(1012, "restart")), None, r"closed with 1012"),
}


async def came_back(r, since, reason):
    """The whole canonical sequence of one loss, seen by the subscriber."""
    await r.state("CONNECTED", since=since)
    await r.flowing(since=len(r.heard))
    (lost, why), (back, _) = r.states(since=since)[:2]
    assert (lost, back) == ("RECONNECTING", "CONNECTED")
    assert re.match(reason, why)
    connected = [e for e in r.on(r.status, since=since) if e.get("event") == "CONNECTED"]
    assert connected[0]["gap_ms"] >= 0
    carried = {channel for channel, _ in r.heard[:since]}
    for channel, view in r.subscriber.views.items():
        if channel != r.status and channel in carried:
            kinds = [event["type"] for event in r.on(channel, since=since)]
            assert view.lost == view.skipped == 0
            assert kinds.count("gap") == len([state for state, _ in r.states(since=since) if state == "CONNECTED"]), (
                channel
            )
    assert r.problems() == []


@venues
@pytest.mark.parametrize("fault", LINE)
async def test_a_line_that_breaks(name, fault):
    how, session, reason = LINE[fault]
    async with rig(name, **(session(name) if session else {})) as r:
        since = len(r.heard)
        how(r)
        await came_back(r, since, reason)
        # Where silence is found within a second, a machine that stands still for as long has it found once more.
        assert r.counters()["reconnects"] == 1 or session is not None


@venues
async def test_a_message_that_is_no_json_is_counted_and_nothing_else(name):
    async with rig(name) as r:
        since, unknown = len(r.heard), r.counters()["unknown"]
        r.upstream.inject(Corrupt("text"))
        with trio.fail_after(WITHIN):
            while r.counters()["unknown"] == unknown:
                await trio.sleep(0.01)
        await r.flowing(since=len(r.heard))
        assert r.counters()["unknown"] == unknown + 1
        assert r.states(since=since) == []
        assert r.problems() == []


@venues
async def test_a_slow_line_is_late_but_loses_nothing(name):
    async with rig(name, every=0.1) as r:
        since = len(r.heard)
        r.upstream.inject(Throttle(3000))
        await r.flowing(since=since)
        r.upstream.heal()
        await r.flowing(since=len(r.heard))
        assert r.states(since=since) == []
        assert [event for _, event in r.heard[since:] if event["type"] == "gap"] == []
        assert r.problems() == []
        assert all(view.skipped == 0 for view in r.subscriber.views.values())


@venues
async def test_a_provider_that_is_not_there_for_a_while(name):
    async with rig(name) as r:
        since = len(r.heard)
        r.upstream.down()
        await r.subscriber.until(lambda: len(r.states(since=since)) >= 3)
        assert {state for state, _ in r.states(since=since)} == {"RECONNECTING"}
        r.upstream.up()
        await r.state("CONNECTED", since=since)
        await r.flowing(since=len(r.heard))
        assert r.problems() == []


@venues
@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_an_upgrade_that_is_refused_means_what_the_adapter_declares(name, status):
    async with rig(name) as r:
        since = len(r.heard)
        r.simulator.next_connection(Refuse(status, headers={"retry-after": "0"}))
        r.upstream.inject(Cut())
        meaning = declared(name).refusals.get(status, CloseMeaning.RETRY)
        ends = "FAILED" if meaning is CloseMeaning.REFUSED else "CONNECTED"
        await r.state(ends, since=since)
        states = r.states(since=since)
        assert [state for state, _ in states] == [
            "RECONNECTING",
            ends if ends == "FAILED" else "RECONNECTING",
            "CONNECTED",
        ][: len(states)]
        assert states[1][1] == f"the connection was refused with HTTP status {status}"
        hit = [event for event in r.on(r.status, since=since) if event["type"] == "rate_limit"]
        assert bool(hit) == (meaning is CloseMeaning.RATE_LIMITED)
        if ends == "FAILED":
            r.session.resume()
            await r.state("CONNECTED", since=since)
        await r.flowing(since=len(r.heard))
        assert r.problems() == []


def close_codes(name):
    """Return the first and the last code of each run with one meaning, since a protocol may declare hundreds, and one of no meaning."""
    runs = [list(codes) for _, codes in groupby(sorted(declared(name).closes), declared(name).closes.get)]
    return sorted({code for codes in runs for code in (codes[0], codes[-1])} | {1013})


@pytest.mark.parametrize(("name", "code"), [(name, code) for name in VENUES for code in close_codes(name)])
async def test_a_close_code_means_what_the_adapter_declares(name, code):
    async with rig(name) as r:
        since = len(r.heard)
        r.simulator.inject(Close(code, "because"))
        meaning = declared(name).closes.get(code, CloseMeaning.RETRY)
        stops = meaning in (CloseMeaning.TAKEOVER, CloseMeaning.REFUSED)
        await r.state("FAILED" if stops else "RECONNECTING", since=since)
        said, _, why = r.states(since=since)[0][1].partition(": ")
        assert said == f"closed with {code}"
        assert why in ("", "because"), "everybody reads a status: of a broker it has the code alone"
        if stops:
            r.session.resume()
        await r.state("CONNECTED", since=since)
        await r.flowing(since=len(r.heard))
        hit = [event for event in r.on(r.status, since=since) if event["type"] == "rate_limit"]
        assert bool(hit) == (meaning is CloseMeaning.RATE_LIMITED)
        assert r.problems() == []


@venues
async def test_another_session_that_takes_this_one_s_place(name):
    async with rig(name) as r:
        since = len(r.heard)
        r.simulator.inject(Takeover())
        meaning = declared(name).closes.get(r.simulator.takeover.code, CloseMeaning.RETRY)
        if meaning in (CloseMeaning.TAKEOVER, CloseMeaning.REFUSED):
            await r.state("FAILED", since=since)
            accepted = r.upstream.accepted
            ((state, reason),) = r.states(since=since)
            assert (state, reason.partition(": ")[0]) == ("FAILED", f"closed with {r.simulator.takeover.code}")
            r.session.resume()
            await r.state("CONNECTED", since=since)
            assert r.upstream.accepted > accepted
        await r.state("CONNECTED", since=since)
        await r.flowing(since=len(r.heard))
        assert r.problems() == []


@pytest.mark.parametrize("name", ["helio"])
async def test_a_wrong_credential_stops_the_session_and_is_not_shown(name):
    async with rig(name, connected=False, credentials=dict.fromkeys(VENUES[name].simulated.credentials, WRONG)) as r:
        await r.subscriber.until(lambda: r.session.status()["state"] == "failed")
        status = r.session.status()
        assert re.search(r"HTTP status 40[0-9]|1008", status["reason"]), status["reason"]
        assert WRONG not in repr(status)
        accepted = r.upstream.accepted
        await trio.testing.wait_all_tasks_blocked()
        assert r.upstream.accepted == accepted
