"""An order or position missing from a complete list is published once as ended; commands without an answer are given up."""

import pytest

from relay.adapter import Answer, Backoff, Fetch, Rate, Reconcile, dumps, loads
from relay.model.commands import CancelOrder, PlaceOrder
from relay.model.events import Order
from relay.provider import session_events
from relay.provider.session import SessionSettings
from relay.provider.subscription_table import SubscriptionState, SubscriptionTable

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)


def answer(*items):
    return Answer(status=200, text=dumps(items))


def said(r):
    return [(e.kind, e.id, str(e.event), e.reconciled) for e in r.fresh() if e.kind in ("order", "position")]


@pytest.fixture
def away(rig):
    """Orders 1, 2 and 3 (filled), positions p and q; long after, the session is away for a second, and asks for the lists."""
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    (request,) = r.requests(r.up(-20))
    r.do(session_events.Fetched(request.id, answer()), -20)
    r.say(["order", "1", "OPEN"], ["order", "2", "PARTIALLY_FILLED"], ["order", "3", "FILLED"], at=-19)
    r.say(["position", "p", "POSITION_OPENED", "2"], ["position", "q", "POSITION_CLOSED", "0.0"], at=-19)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    (r.request,) = r.requests(r.do(session_events.Opened(), 4))
    r.fresh()
    return r


def test_what_vanished_is_said_once_and_what_is_not_known_is_not_said(away):
    away.do(
        session_events.Fetched(
            away.request.id, answer(["order", "1", "OPEN"], ["complete", "order"], ["complete", "position"])
        ),
        5,
    )
    order, position = away.fresh()
    assert (order.id, order.status, order.vanished, order.reconciled) == ("2", "PARTIALLY_FILLED", True, True)
    assert (position.id, position.event, position.quantity, position.reconciled) == ("p", "POSITION_CLOSED", "0", True)
    assert (position.unrealized_pnl, position.side) == (None, "LONG")
    away.say(["order", "1", "OPEN"], ["complete", "order"], ["complete", "position"], at=6)
    assert said(away) == [("order", "1", "ORDER_MODIFIED", None)]
    assert away.add_up()


def test_lists_that_do_not_come_are_asked_for_ever_more_rarely(away):
    request, now = away.request, 5.0
    for wait in (5, 10, 20, 40):
        away.do(session_events.Fetched(request.id, Answer(status=404, text="")), now)
        assert away.requests(away.tick(now + wait - 0.1)) == []
        now += wait
        (request,) = away.requests(away.tick(now))
        away.machine.heard(now)


def test_an_order_that_shows_up_again_is_published(away):
    away.do(session_events.Fetched(away.request.id, answer(["complete", "order"])), 5)
    away.fresh()
    away.do(session_events.Closed(1006), 6)
    away.tick(9)
    (request,) = away.requests(away.do(session_events.Opened(), 9))
    away.fresh()
    away.do(session_events.Fetched(request.id, answer(["order", "2", "PARTIALLY_FILLED"])), 10)
    assert said(away) == [("order", "2", "ORDER_MODIFIED", True)]


def test_what_was_told_after_the_list_was_asked_for_is_not_judged_by_it(away):
    away.say(["order", "4", "OPEN"], ["order", "1", "OPEN"], at=4.5)
    away.fresh()
    away.do(session_events.Fetched(away.request.id, answer(["complete", "order"])), 5)
    assert [name for _, name, *_ in said(away)] == ["2"]


def test_what_was_told_while_earlier_pages_were_under_way_is_not_judged_by_the_last(away):
    away.say(["order", "4", "OPEN"], ["position", "r", "POSITION_OPENED", "1"], at=4.5)
    away.fresh()
    (page,) = away.requests(away.do(session_events.Fetched(away.request.id, answer(["fetch", "/page/2"])), 5))
    away.do(session_events.Fetched(page.id, answer(["complete", "order"], ["complete", "position"])), 6)
    assert [name for _, name, *_ in said(away)] == ["1", "2", "p"]


def test_nor_by_a_list_that_was_asked_for_together_with_an_earlier_one(rig):
    class Twice(rig.Venue):
        def encode(self, outgoing):
            for fetch in super().encode(outgoing):
                yield from (fetch, fetch) if isinstance(outgoing, Reconcile) else (fetch,)

    r = rig(adapter=Twice, credentials={"key": "k"}, limits=(Rate(1, per=10, of="http"),))
    r.up(0)
    r.say(["order", "1", "OPEN"], at=1)
    (second,) = r.requests(r.tick(10))
    r.fresh()
    r.do(session_events.Fetched(second.id, answer(["complete", "order"])), 11)
    assert said(r) == []


def test_a_list_does_not_overwrite_what_the_stream_told_since_it_was_asked_for(away):
    away.say(["order", "1", "FILLED"], ["position", "p", "POSITION_CLOSED", "0"], at=4.5)
    away.fresh()
    old = (["order", "1", "OPEN"], ["position", "p", "POSITION_MODIFIED", "2"], ["order", "2", "CANCELLED"])
    away.do(session_events.Fetched(away.request.id, answer(*old, ["complete", "order"], ["complete", "position"])), 5)
    assert said(away) == [("order", "2", "ORDER_MODIFIED", True)]
    assert away.counters()["deduped"] == 2
    away.do(session_events.Closed(1006), 6)
    away.tick(9)
    (request,) = away.requests(away.do(session_events.Opened(), 9))
    away.fresh()
    away.do(session_events.Fetched(request.id, answer(["order", "1", "FILLED"], ["complete", "position"])), 10)
    assert said(away) == []  # what is remembered is what the stream told
    assert away.add_up()


def test_of_two_lists_of_one_answer_the_later_stands(away):
    listed = answer(["order", "1", "PARTIALLY_FILLED"], ["order", "1", "CANCELLED"])
    away.do(session_events.Fetched(away.request.id, listed), 5)
    assert len(said(away)) == 2


def test_a_list_of_the_stream_stands_in_its_place(away):
    away.say(["order", "4", "OPEN"], at=4.5)
    away.fresh()
    away.say(["order", "1", "OPEN"], ["order", "2", "OPEN"], ["complete", "order"], at=5)
    assert ("order", "4", "ORDER_MODIFIED", True) in said(away)


def test_a_list_with_a_part_that_was_not_understood_is_not_complete(away):
    away.do(session_events.Fetched(away.request.id, answer(["order", "1", "OPEN"], "what?", ["complete", "order"])), 5)
    assert said(away) == []
    assert away.counters()["notes"]["incomplete_list"] == 1


def test_another_account_s_list_says_nothing_of_ours(away):
    from relay.adapter import Complete

    away.machine.core.begin(away.moment(5))
    away.machine.handle_decoded(Complete("order", "other"))
    assert said(away) == []


# --- lists that lag behind the stream --------------------------------------------------------------------------------


def lagging(r, *told, at=0.5):
    """Let the stream tell things just before the session is away; return the request for the lists."""
    (request,) = r.requests(r.up(-20))
    r.do(session_events.Fetched(request.id, answer()), -20)
    r.say(*told, at=at)
    r.do(session_events.Closed(1006), 1)
    r.tick(2)
    (request,) = r.requests(r.do(session_events.Opened(), 3))
    r.fresh()
    return request


def test_an_order_of_a_moment_ago_is_gone_only_when_a_second_list_has_not_got_it_either(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    request = lagging(r, ["order", "1", "FILLED"], ["order", "2", "OPEN"])
    r.do(session_events.Fetched(request.id, answer(["order", "1", "OPEN"], ["complete", "order"])), 3.5)
    assert said(r) == []
    (request,) = r.requests(r.tick(5.5))
    r.do(session_events.Fetched(request.id, answer(["order", "1", "OPEN"], ["complete", "order"])), 6)
    assert said(r) == [("order", "2", "ORDER_MODIFIED", True)]
    assert r.requests(r.tick(20)) == []


def test_an_order_that_the_second_list_has_was_never_gone(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    request = lagging(r, ["order", "2", "OPEN"])
    r.do(session_events.Fetched(request.id, answer(["complete", "order"])), 3.5)
    (request,) = r.requests(r.tick(5.5))
    r.do(session_events.Fetched(request.id, answer(["order", "2", "OPEN"], ["complete", "order"])), 6)
    assert said(r) == []
    assert r.requests(r.tick(20)) == []


def test_a_position_closed_a_moment_ago_is_open_again_only_by_a_second_list(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    request = lagging(r, ["position", "p", "POSITION_OPENED", "2"], ["position", "p", "POSITION_CLOSED", "0"])
    listed = answer(["position", "p", "POSITION_MODIFIED", "2"], ["complete", "position"])
    r.do(session_events.Fetched(request.id, listed), 3.5)
    assert said(r) == []
    (request,) = r.requests(r.tick(5.5))
    r.do(session_events.Fetched(request.id, listed), 6)
    assert said(r) == [("position", "p", "POSITION_MODIFIED", True)]


# --- given up --------------------------------------------------------------------------------------------------------


def order(id):
    return PlaceOrder(id=id, symbol="S", side="BUY", order_type="MARKET", quantity="1")


def test_the_adapter_is_told_of_a_command_whose_deadline_passed(rig):
    r = rig()
    r.up(0)
    r.ask(order("c1"), 3, at=1)
    assert r.texts(r.tick(4)) == [{"given_up": "c1"}]
    assert r.texts(r.tick(5)) == []


def test_and_of_one_whose_request_got_no_usable_answer(rig):
    r = rig()
    r.up(0)
    (request,) = r.ask(CancelOrder(id="x", order_id="9"), at=1)
    assert r.texts(r.do(session_events.Fetched(request.id, Answer(status=503, text="")), 2)) == [{"given_up": "x"}]


def test_but_not_of_one_that_was_answered_or_whose_connection_is_gone(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.ask(order("c1"), 3, at=1)
    assert r.texts(r.say(["reply", "c1", {}, None], at=2)) == []
    r.ask(order("c2"), 3, at=2)
    assert r.texts(r.do(session_events.Closed(1006), 2.5)) == []


# --- what is counted and kept ----------------------------------------------------------------------------------------


def test_reconnects_are_counted_over_crashes_too(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    assert r.counters()["reconnects"] == 0
    r.say(["quote", "A", "1"], at=1)
    r.do(session_events.Closed(1006), 1)
    r.tick(2)
    r.do(session_events.Opened(), 2)
    assert r.counters()["reconnects"] == 1
    r.machine.abandon("a fault", r.moment(3))
    r.succeed()
    r.do(session_events.Start(), 4)
    r.tick(5)
    r.do(session_events.Opened(), 6)
    assert (r.counters()["reconnects"], r.counters()["published"]) == (2, 1)


def test_a_lost_connection_leaves_nothing_of_its_requests_in_the_ledger(rig):
    ledger = SubscriptionTable(per_frame=10, linger=30, ack_within=5)
    topic = rig.topic("quote:A")
    ledger.want(topic)
    for now in (0, 5):
        ledger.sent(ledger.take_to_subscribe(), now)
        ledger.overdue(now + 5)
    ledger.disconnected()
    (entry,) = ledger
    assert (entry.state, entry.asked_at, entry.asks) == (SubscriptionState.WANTED, None, 0)
    ledger.sent(ledger.take_to_subscribe(), 100)
    assert ledger.deadline() == 105  # the first request of a new connection waits the declared time, not longer


def test_topics_that_wait_for_nothing_are_not_looked_at(rig, monkeypatch):
    """A session of thousands is asked after every message what is due: it must not go through them all."""
    ledger = SubscriptionTable(per_frame=1000, linger=30, ack_within=5)
    topics = [rig.topic(f"quote:S{number}") for number in range(1000)]
    for topic in topics:
        ledger.want(topic)
    ledger.sent(ledger.take_to_subscribe(), 0)
    ledger.confirmed(topics)
    ledger.unwant(topics[7], 1)
    monkeypatch.setattr(ledger, "_entries", None)  # whoever goes through all of them fails
    assert ledger.overdue(10) == ([], [])
    assert (ledger.take_to_subscribe(), ledger.take_to_unsubscribe(), ledger.deadline()) == ((), (), 31)
    assert ledger.expire(30) == []


def test_a_successor_lets_go_of_what_lingered(rig):
    before, after = (SubscriptionTable(per_frame=10, linger=30, ack_within=5) for _ in range(2))
    topic = rig.topic("quote:A")
    before.want(topic)
    before.sent(before.take_to_subscribe(), 0)
    before.unwant(topic, 1)
    after.adopt(before)
    assert after.deadline() == 31
    assert after.expire(31) == [topic]
    assert (len(after), after.take_to_subscribe()) == (0, ())


def test_a_session_that_must_be_alone_says_so_when_it_dials(rig):
    (dial,) = rig(single=True).do(session_events.Start(), 0)
    assert dial.alone
    (dial,) = rig().do(session_events.Start(), 0)
    assert not dial.alone


def test_no_request_shows_its_headers_or_form():
    from relay.adapter import Fetch

    shown = repr(
        Fetch(
            tag="t",
            url="/x",
            headers={"authorization": "s3cret"},
            form={"password": "s3cret"},
            secret_query={"k": "s3cret"},
        )
    )
    assert "s3cret" not in shown


# --- what a gap promises, and what is called new -----------------------------------------------------------------------


@pytest.mark.parametrize(("credentials", "refill"), [({"key": "k"}, "replay"), ({}, "none")])
def test_the_gap_of_an_account_promises_a_replay_only_where_one_is_requested(rig, credentials, refill):
    r = rig(credentials=credentials, backoff=ONCE)
    r.up(0)
    r.want("account:main", at=0)
    r.say(["fill", "f1"], at=1)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    r.fresh()
    r.do(session_events.Opened(), 4)
    assert [(event.kind, getattr(event, "refill", None)) for event in r.fresh()] == [
        ("connection", None),
        ("gap", refill),
    ]


def test_what_was_known_to_be_open_and_differs_was_changed_not_opened(away):
    listed = (["position", "p", "POSITION_OPENED", "3"], ["position", "q", "POSITION_OPENED", "1"])
    away.do(session_events.Fetched(away.request.id, answer(*listed)), 5)
    assert said(away) == [
        ("position", "p", "POSITION_MODIFIED", True),
        ("position", "q", "POSITION_OPENED", True),
    ]


def test_pages_and_ended_orders_come_in_any_order_and_are_judged_together(rig):
    class Paged(rig.Venue):
        def encode(self, outgoing):
            if isinstance(outgoing, Reconcile):
                yield Fetch(tag="open", url="/open")
                yield Fetch(tag="ended", url="/ended")

    r = rig(adapter=Paged)
    first, ended = r.requests(r.up(0))
    r.say(*(["order", id, "OPEN"] for id in ("1", "2", "3", "4")), at=-20)
    r.fresh()
    more = r.do(session_events.Fetched(first.id, answer(["order", "1", "OPEN"], ["fetch", "/page2"])), 2)
    (page,) = r.requests(more)
    r.do(session_events.Fetched(page.id, answer(["order", "2", "OPEN"], ["complete", "order"])), 3)
    assert r.fresh() == []
    r.do(session_events.Fetched(ended.id, answer(["order", "3", "CANCELLED"])), 4)
    assert [(event.id, event.vanished) for event in r.fresh()] == [("3", None), ("4", True)]


# --- a list that contradicts what was told shortly before -----------------------------------------------------------


def reconnected(r, *said):
    """A session that was told this at second 4, was away for a second, and asks for the list at second 6."""
    (request,) = r.requests(r.up(0))
    r.do(session_events.Fetched(request.id, answer()), 0)
    r.say(*said, at=4)
    r.do(session_events.Closed(1006), 5)
    r.tick(6)
    (request,) = r.requests(r.do(session_events.Opened(), 6))
    r.fresh()
    return request


def test_a_position_that_a_list_rewinds_is_looked_at_a_second_time(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE, silent_after=99_999)
    request = reconnected(r, ["position", "p", "POSITION_OPENED", "1"], ["position", "p", "POSITION_MODIFIED", "3"])
    old = answer(["position", "p", "POSITION_MODIFIED", "1"], ["complete", "position"])
    r.do(session_events.Fetched(request.id, old), 7)
    assert [e.quantity for e in r.fresh() if e.kind == "position"] == []
    (request,) = r.requests(r.tick(9))
    r.do(session_events.Fetched(request.id, answer(["position", "p", "POSITION_MODIFIED", "3"])), 9)
    assert [e.quantity for e in r.fresh() if e.kind == "position"] == []
    assert r.requests(r.tick(20)) == []


def test_what_two_lists_say_is_believed_although_the_stream_goes_on_with_figures_of_the_market(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE, silent_after=99_999)
    request = reconnected(r, ["position", "p", "POSITION_OPENED", "3"])
    other = answer(["position", "p", "POSITION_MODIFIED", "1"], ["complete", "position"])
    r.do(session_events.Fetched(request.id, other), 7)
    r.say(["position", "p", "POSITION_MODIFIED", "3"], at=8)
    r.fresh()
    (request,) = r.requests(r.tick(9))
    r.do(session_events.Fetched(request.id, other), 9)
    assert [(e.quantity, e.reconciled) for e in r.fresh() if e.kind == "position"] == [("1", True)]


def test_lists_that_are_doubted_again_and_again_are_asked_for_more_rarely(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE, silent_after=99_999, settings=SessionSettings(audit=0.0))
    request, looks = reconnected(r, ["position", "p", "POSITION_OPENED", "3"]), []
    at, quantity = 7.0, 3
    while at < 100:
        quantity += 1  # the account is busy, and the lists never know the last change
        r.say(["position", "p", "POSITION_MODIFIED", str(quantity)], at=at - 0.5)
        r.do(session_events.Fetched(request.id, answer(["position", "p", "POSITION_MODIFIED", "1"])), at)
        while not (found := r.requests(r.tick(at))) and at < 100:
            at += 0.5
            quantity += 1
            r.say(["position", "p", "POSITION_MODIFIED", str(quantity)], at=at)
        if found:
            (request,) = found
            looks.append(at)
    assert len(looks) <= 6


def test_an_absence_is_requested_until_it_was_answered(rig, monkeypatch):
    """A connection that is lost before the lists have come must not hide what happened in the absence before it."""
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    (request,) = r.requests(r.up(-200))
    r.do(session_events.Fetched(request.id, answer()), -200)
    r.say(["order", "1", "OPEN"], at=-199)
    asked, encode = [], type(r.machine.core.adapter).encode

    def spy(adapter, outgoing):
        if isinstance(outgoing, Reconcile):
            asked.append(outgoing.since)
        return encode(adapter, outgoing)

    monkeypatch.setattr(type(r.machine.core.adapter), "encode", spy)
    r.do(session_events.Closed(1006), -100)
    r.tick(-50)
    r.do(session_events.Opened(), -49)
    r.say("alive", at=-10)
    assert r.machine.heard_at() == -199, "what is kept for the next process, too"
    r.do(session_events.Closed(1006), -9)
    r.tick(0)
    (request,) = r.requests(r.do(session_events.Opened(), 1))
    assert len(asked) == 2
    assert asked[0] == asked[1] is not None
    r.do(session_events.Fetched(request.id, answer(["complete", "order"])), 2)
    r.say("alive", at=3)
    assert r.machine.heard_at() == 3
    r.do(session_events.Closed(1006), 4)
    r.tick(20)
    r.do(session_events.Opened(), 21)
    assert asked[2] > asked[1]


def test_orders_that_ended_before_the_absence_are_no_news(rig):
    """`Reconcile.since` is a minute before the last message: a list may reach further back."""

    class Listing(rig.Venue):
        def fetched(self, tag, answer):
            for id, status, at in loads(answer.text):
                yield Order(event=None, id=id, symbol="S", side="BUY", quantity="1", status=status, updated_at=at)

    r = rig(adapter=Listing, credentials={"key": "k"}, backoff=ONCE)
    (request,) = r.requests(r.up(0))
    long_ago, lately = "2023-11-14T20:00:00Z", "2023-11-14T22:13:19Z"  # the rig's time 0 is 22:13:20
    first = dumps([["1", "OPEN", long_ago], ["0", "FILLED", lately]])
    r.do(session_events.Fetched(request.id, Answer(status=200, text=first)), 1)
    assert [event.id for event in r.fresh() if event.kind == "order"] == ["1", "0"]
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    (request,) = r.requests(r.do(session_events.Opened(), 4))
    rows = [["1", "FILLED", long_ago], ["2", "FILLED", long_ago], ["3", "FILLED", lately], ["4", "FILLED", None],
            ["5", "OPEN", long_ago], ["0", "FILLED", lately]]  # fmt: skip
    r.fresh()
    r.do(session_events.Fetched(request.id, Answer(status=200, text=dumps(rows))), 5)
    assert [event.id for event in r.fresh() if event.kind == "order"] == ["1", "3", "4", "5"]
    assert r.add_up()
