"""The account is compared with the provider's lists from time to time, although nothing is known to be missing."""

from relay.adapter import Answer, Rate, dumps
from relay.model.commands import PlaceOrder
from relay.provider import session_events
from relay.provider.session import SessionSettings


def answer(*items):
    return Answer(status=200, text=dumps(items))


def audited(rig, *, audit=60.0, **session):
    """A session that is up and reconciled at second 0."""
    r = rig(credentials={"key": "k"}, silent_after=99_999, settings=SessionSettings(audit=audit), **session)
    (request,) = r.requests(r.up(0))
    r.do(session_events.Fetched(request.id, answer()), 0)
    r.fresh()
    return r


def found(r):
    return [(e.kind, getattr(e, "id", None) or e.code) for e in r.fresh()], r.counters()["notes"].get(
        "found_by_audit", 0
    )


def test_what_the_stream_did_not_tell_is_published_once_and_counted(rig):
    r = audited(rig)
    r.say(["order", "1", "OPEN"], ["fill", "f1"], at=20)
    r.fresh()
    assert r.machine.deadline() == 60
    (request,) = r.requests(r.tick(60))
    listed = answer(["order", "1", "FILLED"], ["fill", "f1"], ["fill", "f2"], ["complete", "order"])
    r.do(session_events.Fetched(request.id, listed), 61)
    order, fill, error = r.fresh()
    assert (order.id, order.status, order.reconciled) == ("1", "FILLED", True)
    assert (fill.id, fill.reconciled) == ("f2", True)
    assert (error.code, error.details) == ("stream_incomplete", {"facts": 2})
    (request,) = r.requests(r.tick(120))
    r.do(session_events.Fetched(request.id, listed), 121)
    assert found(r) == ([], 2)


def test_an_audit_that_finds_nothing_says_nothing(rig):
    r = audited(rig)
    r.say(["order", "1", "OPEN"], ["position", "p", "POSITION_OPENED", "2"], at=20)
    r.fresh()
    (request,) = r.requests(r.tick(60))
    listed = answer(["order", "1", "OPEN"], ["position", "p", "POSITION_OPENED", "2"], ["complete", "order"])
    r.do(session_events.Fetched(request.id, listed), 61)
    assert found(r) == ([], 0)


def test_audits_that_fail_are_told_once_until_one_succeeds(rig):
    r = audited(rig)
    told = []
    for at, status in ((60, 502), (120, 502), (180, 200), (240, 503)):
        (request,) = r.requests(r.tick(at))
        r.do(session_events.Fetched(request.id, answer() if status == 200 else Answer(status=status, text="")), at + 1)
        told.append([(e.code, e.account, e.message[-3:]) for e in r.fresh() if e.account is not None])
    assert told == [[("audit_failed", "main", "502")], [], [], [("audit_failed", "main", "503")]]
    assert r.counters()["notes"]["audit_failed"] == 3


def test_an_order_that_is_gone_is_looked_for_a_second_time(rig):
    r = audited(rig)
    r.say(["order", "1", "OPEN"], at=55)
    r.fresh()
    (request,) = r.requests(r.tick(60))
    r.do(session_events.Fetched(request.id, answer(["complete", "order"])), 61)
    assert found(r) == ([], 0)
    (request,) = r.requests(r.tick(63))
    r.do(session_events.Fetched(request.id, answer(["complete", "order"])), 64)
    (order,) = r.fresh()
    assert (order.id, order.vanished) == ("1", True)


def test_it_can_be_turned_off(rig):
    r = audited(rig, audit=0.0)
    assert r.requests(r.tick(10_000)) == []


def test_half_of_the_budget_is_left_to_commands(rig):
    r = audited(rig, limits=(Rate(4, per=1000, of="http"),))  # three are left: one for the audit, and half of four
    assert len(r.requests(r.tick(60))) == 1
    assert r.requests(r.tick(120)) == []
    r.ask(PlaceOrder(id="c1", symbol="S", side="BUY", order_type="MARKET", quantity="1"), at=121)
    assert [frame["order"] for frame in r.texts(r.tick(121)) if "order" in frame] == []  # it went out at once
    assert r.commands.open == 1


def test_one_that_fails_is_repeated_at_its_next_time_and_concludes_nothing(rig):
    r = audited(rig)
    r.say(["order", "1", "OPEN"], at=20)
    r.fresh()
    (request,) = r.requests(r.tick(60))
    r.do(session_events.Fetched(request.id, Answer(status=503, text="busy")), 61)
    events, count = found(r)
    assert set(events) == {("error", "audit_failed")}
    assert count == 0
    assert len(r.requests(r.tick(120))) == 1


def test_an_adapter_without_lists_is_not_asked_again(rig):
    r = rig(silent_after=99_999)
    r.up(0)
    assert r.requests(r.tick(10_000)) == []
    assert r.machine.deadline() > 20_000
