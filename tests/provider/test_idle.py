"""A session nobody wants anything of does not dial where the provider closes idle connections; the first subscriber wakes it."""

from collections import deque

import pytest
import trio
import trio.testing

from relay.adapter import Backoff, Context, Rate, Session
from relay.model.channels import Asker
from relay.provider import session_events
from relay.provider.http import HttpClient
from relay.provider.session_state import SessionSettings
from relay.server.api.health import not_ready, shown
from relay.testing.player import play
from relay.testing.recording import read_recording
from support.deadlines import WITHIN
from support.lone_session import lone_session

ONCE = Backoff(first=10, factor=2, cap=80, settle=60)
BY = Asker("1", "7.1")
NOBODY = "idle: no topic has a subscriber"


def dials(outputs):
    return sum(isinstance(output, session_events.Dial) for output in outputs)


def state(r):
    status = r.machine.status()
    return status["state"], status["reason"]


def want(r, name, at):
    return r.do(session_events.WantTopic(r.topic(name), BY), at)


@pytest.fixture
def idle(rig):
    """A session that has begun, with nothing wanted."""

    def begun(**session):
        r = rig(**{"on_interest": True, "backoff": ONCE, "silent_after": 9999, **session})
        assert dials(r.do(session_events.Start(), 0)) == 0
        return r

    return begun


def test_it_does_not_dial_before_somebody_wants_something(idle):
    r = idle()
    assert state(r) == ("idle", NOBODY)
    assert r.machine.deadline() == float("inf")
    assert dials(r.tick(1000)) == 0
    assert r.fresh() == [], "that is no outage"
    assert dials(want(r, "quote:A", 1001)) == 1
    assert r.texts(r.do(session_events.Opened(), 1001.2)) == [{"sub": ["quote:A"]}]
    events = r.fresh()
    assert [(event.kind, event.gap_ms) for event in events] == [("connection", None)], "no gap, and nothing stale"


def test_a_provider_that_closes_it_when_nobody_is_left_is_not_dialled_again(idle):
    r = idle(settings=SessionSettings(linger=5))
    want(r, "quote:A", 0)
    r.do(session_events.Opened(), 0)
    r.say(["quote", "A", "1"], at=1)
    r.unwant("quote:A", at=2)
    r.tick(7)
    assert r.machine.life.value == "up", "an open connection is kept as long as the provider keeps it"
    r.fresh()
    assert dials(r.do(session_events.Closed(1000, "no subscription"), 12)) == 0
    (event,) = r.fresh()
    assert (event.event, event.reason) == ("DISCONNECTING", NOBODY)
    assert dials(r.tick(500)) == 0
    assert state(r) == ("idle", NOBODY)
    assert r.fresh() == []
    assert dials(want(r, "quote:A", 501)) == 1, "the first subscriber does not wait"
    r.do(session_events.Opened(), 501)
    r.say(["quote", "A", "2"], at=502)
    assert r.kinds() == ["connection CONNECTED", "quote"]


def test_what_failed_keeps_its_wait(idle):
    r = idle()
    want(r, "quote:A", 0)
    r.do(session_events.DialFailed("no route"), 1)
    assert r.machine.life.value == "waiting"
    r.unwant("quote:A", at=2)
    r.fresh()
    assert dials(r.tick(11)) == 0, "nobody is left when the wait is over"
    assert state(r) == ("idle", NOBODY)
    assert [(event.event, event.reason) for event in r.fresh()] == [("DISCONNECTING", NOBODY)], "no more attempts"
    want(r, "quote:A", 12)
    r.unwant("quote:A", at=12)
    r.do(session_events.DialFailed("no route"), 13)
    assert state(r) == ("idle", NOBODY)
    assert dials(want(r, "quote:A", 14)) == 0, "the dial that failed has earned 20 s"
    assert r.machine.deadline() == pytest.approx(33)
    assert dials(r.tick(33)) == 1


def test_a_budget_of_dials_is_kept_whoever_wants_something(idle):
    r = idle(limits=(Rate(1, per=100, of="dial"),), settings=SessionSettings(linger=0))
    assert dials(want(r, "quote:A", 0)) == 1
    r.do(session_events.Opened(), 0)
    r.unwant("quote:A", at=1)
    r.do(session_events.Closed(1000), 5)
    assert dials(want(r, "quote:A", 6)) == 0
    assert dials(r.tick(100)) == 1


@pytest.mark.parametrize("cycles", [1, 6])
def test_new_interest_ends_a_backoff_that_idleness_earned(rig, cycles):
    """Where it is not declared the session dials all the same, ever more rarely; the first subscriber must not wait for that."""
    r = rig(backoff=ONCE, silent_after=9999)
    r.do(session_events.Start(), 0)
    now = 0.0
    for _ in range(cycles):
        r.do(session_events.Opened(), now)
        r.do(session_events.Closed(1000, "no subscription within 5 s"), now + 5)
        now = r.machine.deadline()
        if _ < cycles - 1:
            assert dials(r.tick(now)) == 1
    r.fresh()
    assert dials(want(r, "quote:A", now - 1)) == 1
    assert r.kinds() == [], "who comes now is told of no outage"
    r.do(session_events.Opened(), now - 0.5)
    assert r.kinds() == ["connection CONNECTED"]


def test_a_backoff_that_a_used_connection_earned_is_kept(rig):
    r = rig(backoff=ONCE, silent_after=9999)
    r.up(0)
    want(r, "quote:A", 0)
    r.do(session_events.Closed(1006), 5)
    assert dials(want(r, "quote:B", 6)) == 0
    assert r.machine.deadline() < 16
    assert dials(r.tick(15)) == 1


def test_a_limit_is_no_idleness(rig):
    r = rig(backoff=ONCE, silent_after=9999, on_interest=True)
    r.do(session_events.Start(), 0)
    want(r, "quote:A", 0)
    r.unwant("quote:A", at=0)
    r.do(session_events.DialRefused(429, {"retry-after": "60"}), 1)
    assert state(r)[0] == "idle"
    assert dials(want(r, "quote:A", 2)) == 0
    assert dials(r.tick(61)) == 1


def test_it_goes_on_where_it_was_after_a_crash_and_ends_when_it_is_shut_down(idle):
    r = idle()
    r.machine.abandon("internal error of the relay", r.moment(1))
    r.succeed()
    r.do(session_events.Start(), 2)
    assert state(r) == ("idle", NOBODY)
    outputs = r.do(session_events.Shutdown(), 3)
    assert outputs == [session_events.Finished("shutdown", failed=False)]


def test_an_idle_session_does_not_keep_the_relay_from_being_ready(idle):
    session = {**shown(idle().machine.status()), "required": True}
    assert session["state"] == "IDLE"
    assert not_ready([session]) == []
    assert not_ready([{**session, "state": "RECONNECTING"}]) == [{"provider": "acme", "state": "RECONNECTING"}]


async def test_over_real_sockets_the_first_subscriber_wakes_it_and_the_last_one_lets_it_sleep(rig, tmp_path):
    recording = tmp_path / "venue.jsonl"
    recording.write_text('{"t":1,"dir":"in","data":"[[\\"quote\\",\\"A\\",\\"1\\"]]"}\n')
    seen = deque()
    news = trio.Event()

    def publish(event, stamp):
        nonlocal news
        seen.append((event.kind, getattr(event, "event", None)))
        news.set()
        news = trio.Event()

    async def until(kind, event):
        while (kind, event) not in seen:
            await news.wait()
        seen.clear()

    async with play(read_recording(recording), start="subscribe", close=True) as player:
        declared = Session(url=player.ws_url, on_interest=True, backoff=Backoff(first=2, jitter=0))
        venue = type("Venue", (rig.Venue,), {"session": declared})
        async with HttpClient() as http, trio.open_nursery() as nursery:
            settings = SessionSettings(linger=0)
            session = lone_session(venue, Context(provider="venue"), publish=publish, http=http, settings=settings)
            await nursery.start(session.run)
            await trio.testing.wait_all_tasks_blocked()
            assert (player.connections, session.status()["state"]) == (0, "idle")
            with trio.fail_after(WITHIN):
                for connections in (1, 2):
                    session.want(rig.topic("quote:A"), BY)
                    await until("quote", None)
                    assert player.connections == connections
                    session.unwant(rig.topic("quote:A"))
                    await until("connection", "DISCONNECTING")
                    assert session.status()["reason"] == NOBODY
            session.shutdown()
