"""The life of a session, along written-out timelines (seconds from the start)."""

import pytest

from relay.adapter import (
    Answer,
    Backoff,
    CloseMeaning,
    Fetch,
    Header,
    Heartbeat,
    Query,
    Rate,
    Symbols,
)
from relay.model.enums import ConnectionEvent, Refill, StalenessEvent
from relay.model.events import Connection, Gap, Staleness
from relay.provider import liveness, session_events
from relay.provider.session import Life

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)


def test_comes_up_and_says_so(rig):
    r = rig()
    assert r.machine.life is Life.NEW
    (dial,) = r.do(session_events.Start(), 0)
    assert dial == session_events.Dial("wss://venue.test/ws", {}, "wss://venue.test/ws")
    assert r.machine.life is Life.DIALLING
    assert r.do(session_events.Opened(), 0.2) == []
    assert r.machine.life is Life.UP
    assert r.fresh() == [Connection(event=ConnectionEvent.CONNECTED)]
    assert r.stamps[-1].provider == "acme"
    assert r.stamps[-1].received_at == "2023-11-14T22:13:20.200000Z"
    assert r.machine.status()["up_since"] == "2023-11-14T22:13:20.200000Z"
    r.say(["quote", "A", "1"], at=2)
    assert r.machine.status()["last_received_at"] == "2023-11-14T22:13:22.000000Z"


def test_waits_for_the_provider_to_be_ready(rig):
    r = rig(ready="signal")
    r.do(session_events.Start(), 0)
    r.want("quote:S")
    assert r.texts(r.do(session_events.Opened(), 1)) == ["hello"]
    assert r.machine.life is Life.OPENING
    assert r.machine.deadline() == 11
    assert r.texts(r.say("ready", at=2)) == [{"sub": ["quote:S"]}]
    assert r.kinds() == ["connection CONNECTED"]


def test_a_provider_that_is_never_ready_is_dialled_again(rig):
    r = rig(ready="signal", backoff=ONCE)
    r.do(session_events.Start(), 0)
    r.do(session_events.Opened(), 1)
    assert r.tick(11) == [session_events.CloseSocket(1000)]
    assert r.fresh() == [Connection(event=ConnectionEvent.RECONNECTING, reason="not ready within 10 s")]
    assert r.machine.deadline() == 12
    assert isinstance(r.tick(12)[0], session_events.Dial)


def test_reconnects_with_reason_and_gap_and_subscribes_again(rig):
    r = rig(backoff=ONCE, ack_within=5)
    r.up(0)
    r.want("quote:A", "quote:B", at=1)
    r.say(["ack", "quote:A", "quote:B"], ["quote", "A", "1"], at=2)
    r.kinds()
    assert r.do(session_events.Closed(1006, "reset"), 3) == []
    assert r.fresh() == [Connection(event=ConnectionEvent.RECONNECTING, reason="closed with 1006: reset", gap_ms=1000)]
    (dial,) = r.tick(4)
    assert isinstance(dial, session_events.Dial)
    assert r.texts(r.do(session_events.Opened(), 6)) == [{"sub": ["quote:A", "quote:B"]}]
    assert r.fresh() == [
        Staleness(
            event=StalenessEvent.STALE,
            symbols=[],
            of="quote",
            reason="no session with acme: closed with 1006: reset",
            stale_since="2023-11-14T22:13:22.000000Z",
            session=True,
        ),
        Connection(event=ConnectionEvent.CONNECTED, gap_ms=4000),
        Gap(
            of="quote",
            symbol="A",
            since="2023-11-14T22:13:22.000000Z",
            until="2023-11-14T22:13:26.000000Z",
            refill=Refill.NONE,
            reason="the session was down",
        ),
    ]


def test_backoff_grows_and_starts_over_only_after_a_settled_connection(rig):
    r = rig(backoff=ONCE)
    r.do(session_events.Start(), 0)
    for at, wait in ((0, 1), (1, 2), (3, 4), (7, 8), (15, 8)):
        r.do(session_events.DialFailed("no route"), at)
        assert r.machine.deadline() == at + wait
        r.tick(at + wait)
    r.do(session_events.Opened(), 24)
    r.do(session_events.Closed(1006), 30)  # up for 6 s: not settled
    assert r.machine.deadline() == 38
    r.tick(38)
    r.do(session_events.Opened(), 40)
    r.do(session_events.Closed(1006), 100)  # up for 60 s
    assert r.machine.deadline() == 101


def test_close_codes_mean_what_the_adapter_declares(rig):
    r = rig(closes={1008: CloseMeaning.TAKEOVER, 4429: CloseMeaning.RATE_LIMITED}, backoff=ONCE)
    r.up(0)
    r.kinds()
    r.do(session_events.Closed(4429), 1)
    assert r.kinds() == ["rate_limit RATE_LIMIT_HIT", "connection RECONNECTING"]
    assert r.machine.deadline() == 9  # the longest wait
    r.tick(9)
    r.do(session_events.Opened(), 9)
    r.kinds()
    (finished,) = r.do(session_events.Closed(1008, "Session active elsewhere."), 10)
    assert finished == session_events.Finished("closed with 1008: Session active elsewhere.", failed=True)
    assert r.kinds() == ["connection FAILED"]
    assert r.machine.deadline() == float("inf")
    assert r.tick(1000) == []
    assert isinstance(r.do(session_events.Resume(), 1001)[0], session_events.Dial)
    (resumed,) = r.fresh()
    assert (resumed.event, resumed.reason, resumed.gap_ms) == ("RECONNECTING", "resumed by the operator", 992_000)


def test_an_adapter_may_tell_two_closes_of_one_code_apart_by_their_text(rig):
    class Reads(rig.Venue):
        @classmethod
        def closed(cls, code, reason):
            return CloseMeaning.RATE_LIMITED if reason == "too many calls" else super().closed(code, reason)

    r = rig(adapter=Reads, closes={1008: CloseMeaning.TAKEOVER}, backoff=ONCE)
    r.up(0)
    r.kinds()
    r.do(session_events.Closed(1008, "too many calls"), 1)
    assert r.kinds() == ["rate_limit RATE_LIMIT_HIT", "connection RECONNECTING"]
    r.tick(9)
    r.do(session_events.Opened(), 9)
    r.kinds()
    r.do(session_events.Closed(1008, "Session active elsewhere."), 10)
    assert r.kinds() == ["connection FAILED"]


def test_what_an_adapter_keeps_is_there_on_the_next_connection(rig):
    class Keeps(rig.Venue):
        def __init__(self, context):
            super().__init__(context)
            context.kept["connections"] = context.kept.get("connections", 0) + 1

    r = rig(adapter=Keeps)
    r.up(0)
    r.do(session_events.Closed(1006), 1)
    r.up(40)
    assert r.context.kept == {"connections": 2}


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_stop_the_session(rig, status):
    r = rig()
    r.do(session_events.Start(), 0)
    (finished,) = r.do(session_events.DialRefused(status), 1)
    assert finished.failed
    assert r.fresh() == [
        Connection(event=ConnectionEvent.FAILED, reason=f"the connection was refused with HTTP status {status}")
    ]


def test_retry_after_of_a_refused_upgrade_is_honoured(rig):
    r = rig(backoff=ONCE)
    r.do(session_events.Start(), 0)
    r.do(session_events.DialRefused(429, {"retry-after": "120"}), 1)
    assert r.machine.deadline() == 121
    r.tick(121)
    r.do(
        session_events.DialRefused(503, {"retry-after": "Tue, 14 Nov 2023 22:18:20 GMT"}), 121
    )  # second 300 of this timeline
    assert r.machine.deadline() == pytest.approx(300)


def test_the_connect_budget_holds_whatever_the_backoff(rig):
    r = rig(backoff=Backoff(first=0.1, factor=1, cap=0.1), limits=(Rate(2, per=60, of="dial"),))
    r.do(session_events.Start(), 0)
    r.do(session_events.DialFailed("x"), 0)
    r.tick(0.1)
    r.do(session_events.DialFailed("x"), 0.2)
    assert r.machine.deadline() == 60
    assert r.tick(59) == []
    assert isinstance(r.tick(60)[0], session_events.Dial)


def test_silence_of_the_transport_redials_and_heartbeats_keep_it(rig):
    r = rig(silent_after=30, heartbeat=Heartbeat(every=10), backoff=ONCE)
    r.up(0)
    assert r.tick(10) == [session_events.SendPing()]
    r.machine.heard(11)
    assert r.tick(20) == [session_events.SendPing()]
    r.say("alive", at=25)
    r.kinds()
    assert r.tick(54.9) == [session_events.SendPing()]
    assert r.tick(55) == [session_events.CloseSocket(1000)]
    (event,) = r.fresh()
    assert (event.event, event.reason, event.gap_ms) == ("RECONNECTING", "nothing received for 30 s", 30000)


def test_json_heartbeats_are_written_by_the_adapter(rig):
    r = rig(heartbeat=Heartbeat(every=10, frame=False))
    r.up(0)
    assert r.texts(r.tick(10)) == ["ping"]


def test_send_and_processed_are_answered_at_once(rig):
    r = rig(limits=(Rate(1, per=100, of="frame"),))
    r.up(0)
    assert r.texts(r.say(["send", '"pong"'], at=1)) == ["pong"]
    assert r.texts(r.say(["quote", "A", "1"], ["processed", "evt_1", "evt_2"], at=2)) == [
        {"ids": ["evt_1", "evt_2"], "ms": 1_700_000_002_000, "correlation": "uuid"}
    ]


def test_redial_closes_and_comes_back(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.kinds()
    assert r.say(["redial", "maintenance"], at=1) == [session_events.CloseSocket(1000)]
    assert r.kinds() == ["connection RECONNECTING"]
    assert r.machine.deadline() == 2
    assert r.say(["quote", "A", "1"], at=1) == []  # of the old connection: not published
    assert r.kinds() == []
    assert r.counters()["notes"] == {"message_without_connection": 1}


def test_the_shell_is_told_that_a_redial_asked_for_by_a_message_is_due(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    assert session_events.DeadlineChanged() in r.machine.receive('[["redial", "maintenance"]]', r.moment(1))


def test_shutdown_unsubscribes_and_closes(rig):
    r = rig()
    r.up(0)
    r.want("quote:A", "quote:B", at=1)
    r.kinds()
    outputs = r.do(session_events.Shutdown(), 2)
    assert r.texts(outputs) == [{"unsub": ["quote:A", "quote:B"]}]
    assert outputs[1:] == [
        session_events.CloseSocket(1000, "shutdown"),
        session_events.Finished("shutdown", failed=False),
    ]
    assert r.kinds() == ["connection DISCONNECTING"]
    assert r.do(session_events.Tick(), 100) == []
    assert r.machine.deadline() == float("inf")


# --- preparing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def login(rig):
    class Login(rig.Venue):
        def prepare(self):
            key = self.context.credentials["key"]
            yield Fetch(tag="login", url="/login", method="POST", json={"key": key}, secret_query={"k": key})

    return Login


def learned(token: str, expires_at: float | None = None) -> Answer:
    from relay.adapter import dumps

    return Answer(status=200, text=dumps([["learned", {"token": token}, expires_at]]))


def test_login_over_http_comes_before_the_dial_and_secrets_are_not_shown(rig, login):
    r = rig(adapter=login, credentials={"key": "s3cret/1"}, url="wss://venue.test/ws?token={token}")
    (request,) = r.do(session_events.Start(), 0)
    assert request.url == "https://venue.test/api/login?k=s3cret%2F1"
    assert "s3cret" not in repr(request)
    (dial,) = r.do(session_events.Fetched(request.id, learned("jwt.1")), 1)
    assert dial.url == "wss://venue.test/ws?token=jwt.1"
    assert dial.shown == "wss://venue.test/ws?token=[redacted]"
    assert "jwt" not in repr(dial)
    r.do(session_events.DialFailed("cannot reach wss://venue.test/ws?token=jwt.1&k=s3cret%2F1"), 2)
    assert r.fresh()[-1].reason == "no connection: cannot reach wss://venue.test/ws?token=[redacted]&k=[redacted]"


def test_a_login_is_renewed_before_it_expires_and_before_every_dial(rig, login):
    r = rig(adapter=login, credentials={"key": "k"}, url="wss://venue.test/ws?token={token}", silent_after=9999)
    (request,) = r.do(session_events.Start(), 0)
    r.do(session_events.Fetched(request.id, learned("one", 1_700_000_000 + 100)), 0)
    r.do(session_events.Opened(), 0)
    assert [q.fetch.tag for q in r.requests(r.tick(0))] == []
    assert r.machine.deadline() <= 80
    (renewal,) = r.requests(r.tick(80))
    r.do(session_events.Fetched(renewal.id, Answer(status=500, text="")), 81)
    assert r.fresh()[-1].code == "renewal_failed"
    (renewal,) = r.requests(r.tick(96))
    r.do(session_events.Fetched(renewal.id, learned("two", 1_700_000_000 + 200)), 97)
    assert r.context.learned == {"token": "two"}
    assert r.requests(r.tick(150)) == []
    r.do(session_events.Closed(1006), 151)
    (again,) = r.requests(r.tick(160))
    (dial,) = r.do(session_events.Fetched(again.id, learned("three")), 161)
    assert dial.url.endswith("token=three")


def renewed(r, *, until, answer):
    """When a login that holds 100 seconds was asked for again, each time answered with ``answer``."""
    (request,) = r.do(session_events.Start(), 0)
    r.do(session_events.Fetched(request.id, learned("one", 1_700_000_000 + 100)), 0)
    r.do(session_events.Opened(), 0)
    asked = []
    while (at := r.machine.deadline()) < until:
        for request in r.requests(r.tick(at)):
            asked.append(at)
            r.do(session_events.Fetched(request.id, answer), at)
    return asked


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (Answer(status=200, text="<html>"), [80, 95, 125, 185, 305, 545, 845]),
        (Answer(status=200, text='[["error", "busy", "later"]]'), [80, 95, 125, 185, 305, 545, 845]),
        (Answer(status=429, text="", headers={"retry-after": "120"}), [80, 200, 320, 440, 560, 800]),
        (Answer(status=401, text=""), [80]),
    ],
)
def test_a_login_that_is_not_renewed_is_requested_ever_more_rarely(rig, login, answer, asked):
    r = rig(adapter=login, credentials={"key": "k"}, silent_after=9999)
    assert renewed(r, until=1000, answer=answer) == asked
    errors = [event for event in r.fresh() if event.kind == "error" and event.code == "renewal_failed"]
    assert len(errors) == len(asked)
    assert ("next connection" in errors[-1].message) == (answer.status == 401)


def test_a_login_of_two_steps_is_renewed_by_the_second(rig, login):
    r = rig(adapter=login, credentials={"key": "k"}, silent_after=9999)
    (request,) = r.do(session_events.Start(), 0)
    r.do(session_events.Fetched(request.id, learned("one", 1_700_000_000 + 100)), 0)
    r.do(session_events.Opened(), 0)
    (first,) = r.requests(r.tick(80))
    (second,) = r.requests(
        r.do(session_events.Fetched(first.id, Answer(status=200, text='[["fetch", "/second"]]')), 80)
    )
    r.do(session_events.Fetched(second.id, learned("two")), 81)
    assert r.kinds() == ["connection CONNECTED"]
    assert (r.context.learned["token"], r.machine.core.renewal.deadline()) == ("two", float("inf"))


def test_a_token_nobody_ever_showed_is_kept_out_of_texts_when_it_was_replaced(rig):
    r = rig()
    r.up(0)
    r.say(*(["learned", {"token": f"token{number}"}, None] for number in range(3)), at=1)
    r.do(session_events.Closed(1008, "token1 is not token2"), 2)
    assert r.fresh()[-1].reason == "closed with 1008: [redacted] is not [redacted]"


@pytest.mark.parametrize(
    ("status", "state"), [(401, "FAILED"), (500, "RECONNECTING"), (0, "RECONNECTING"), (200, "RECONNECTING")]
)
def test_a_login_that_fails(rig, login, status, state):
    r = rig(adapter=login, credentials={"key": "k"})
    (request,) = r.do(session_events.Start(), 0)
    r.do(session_events.Fetched(request.id, Answer(status=status, text="not json")), 1)
    (event,) = [event for event in r.fresh() if event.kind == "connection"]
    assert event.event == state
    assert event.reason.startswith("preparing failed")
    if status != 200:
        assert " to POST https://venue.test/api/login?" in event.reason, "which request failed"
    assert event.reason.count("not json") == (1 if status != 200 else 0)


def test_a_missing_value_of_a_template_is_named(rig):
    r = rig(url="wss://{region}.venue.test/ws")
    (finished,) = r.do(session_events.Start(), 0)
    assert finished.failed
    assert "{region}" in r.fresh()[-1].reason


def test_auth_by_header_and_by_query(rig):
    r = rig(auth=Header("Authorization", "Bearer {key}"), credentials={"key": "abc"})
    assert r.do(session_events.Start(), 0)[0].headers == {"Authorization": "Bearer abc"}
    r = rig(url="wss://v.test/ws?x=1", auth=Query("token", "{key}"), credentials={"key": "a b"})
    assert r.do(session_events.Start(), 0)[0].url == "wss://v.test/ws?x=1&token=a+b"


def test_an_answer_to_a_connection_that_is_gone_is_not_used(rig, login):
    r = rig(adapter=login, credentials={"key": "k"}, backoff=ONCE)
    (first,) = r.do(session_events.Start(), 0)
    r.do(session_events.Fetched(first.id, Answer(status=0, text="timeout")), 1)
    (second,) = r.tick(2)
    assert r.do(session_events.Fetched(first.id, learned("late")), 3) == []
    assert r.counters()["notes"] == {"late_answer": 1}
    assert len(r.do(session_events.Fetched(second.id, learned("good")), 4)) == 1


def succeeded(r, at):
    """The machine crashed, and its successor is started."""
    r.machine.abandon("internal error of the relay", r.moment(at))
    r.succeed()
    return r.do(session_events.Start(), at)


def test_a_crash_does_not_make_a_failed_session_try_again(rig):
    r = rig(closes={1008: CloseMeaning.TAKEOVER})
    r.up(0)
    r.do(session_events.Closed(1008, "taken"), 1)
    r.fresh()
    for at in (2, 3):
        assert succeeded(r, at) == []
        assert (r.machine.life, r.machine.status()["reason"]) == (Life.FAILED, "closed with 1008: taken")
    assert r.tick(1000) == []
    assert r.kinds() == []
    assert isinstance(r.do(session_events.Resume(), 1001)[0], session_events.Dial)
    assert r.kinds() == ["connection RECONNECTING"]


def test_a_crash_shortens_no_wait(rig):
    r = rig(backoff=ONCE)
    r.do(session_events.Start(), 0)
    r.do(session_events.DialFailed("no route"), 0)
    r.tick(1)
    r.do(session_events.DialRefused(429, {"retry-after": "120"}), 1)
    for at in (5, 6):
        assert succeeded(r, at) == []
        assert r.machine.deadline() == 121
    assert isinstance(r.tick(121)[0], session_events.Dial)
    r.do(session_events.DialFailed("no route"), 121)
    assert r.machine.deadline() == 125  # the third attempt, not the first
    r.up(130)
    (dial,) = succeeded(r, 131)  # what crashed while it was up had nothing to wait for
    assert isinstance(dial, session_events.Dial)


def test_a_successor_takes_over_budgets_topics_and_the_gap(rig):
    r = rig(limits=(Rate(1, per=60, of="dial"),))
    r.up(0)
    r.want("quote:A", at=1)
    r.say(["quote", "A", "1"], ["fill", "f1"], at=2)
    assert succeeded(r, 3) == []
    assert r.kinds()[-1] == "connection RECONNECTING"
    assert r.machine.deadline() == 3 + liveness.SETTLES
    r.tick(3 + liveness.SETTLES)
    assert r.kinds() == ["staleness STALE"]
    assert r.machine.deadline() == 60
    r.tick(60)
    assert r.texts(r.do(session_events.Opened(), 61)) == [{"sub": ["quote:A"]}]
    assert r.kinds() == ["connection CONNECTED", "gap"]
    r.say(["fill", "f1"], at=62)
    assert r.kinds() == []


def test_a_refresh_that_fails_does_not_keep_a_session_away_whose_symbols_are_known(rig):
    class Listed(rig.Venue):
        def prepare(self):
            yield Fetch(tag="symbols", url="/symbols", needed=False)

        def fetched(self, tag, answer):
            return [Symbols([("XBTUSD", "BTC/USD")])] if answer.ok else []

    r = rig(adapter=Listed, backoff=ONCE)
    (request,) = r.requests(r.do(session_events.Start(), 0))
    r.do(session_events.Fetched(request.id, Answer(status=503, text="busy")), 1)
    assert r.machine.life is Life.WAITING  # nothing is known yet
    (request,) = r.requests(r.tick(2))
    (dial,) = r.do(session_events.Fetched(request.id, Answer(status=200, text="[]")), 2)
    assert isinstance(dial, session_events.Dial)
    r.do(session_events.DialFailed("no route"), 3)
    r.fresh()
    (request,) = r.requests(r.tick(r.machine.deadline()))
    (dial,) = r.do(session_events.Fetched(request.id, Answer(status=503, text="busy")), 6)
    assert isinstance(dial, session_events.Dial)
    (error,) = r.fresh()
    assert (error.code, "HTTP status 503 to " in error.message and ": busy" in error.message) == ("not_refreshed", True)
