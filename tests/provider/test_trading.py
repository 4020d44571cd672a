"""Every command ends in exactly one reply, and an unknown fate is never called a rejection."""

import pytest

from relay.adapter import Adapter, Answer, Orders, Rate, Session, Unnamed, dumps, loads
from relay.model.commands import AmendOrder, CancelOrder, ListOrders, PlaceOrder
from relay.model.events import Order
from relay.provider import session_events
from relay.trading.pending import AccountRef


def order(id="c1"):
    return PlaceOrder(id=id, symbol="S", side="BUY", order_type="MARKET", quantity="1")


def reply(r):
    """The one event since the last call."""
    (event,) = r.fresh()
    return event.id, str(event.outcome), event.ok, (event.error or {}).get("code")


@pytest.fixture
def r(rig):
    r = rig(limits=(Rate(1, per=10, of="call"),), settings=None)
    r.up(0)
    r.fresh()
    return r


def quiet(r):
    """The replies since the last call, warnings about budgets left out."""
    return [event for event in r.fresh() if event.kind == "reply"]


def test_accepted_and_rejected_by_the_provider(rig):
    r = rig()
    r.up(0)
    r.fresh()
    assert r.texts(r.ask(order("c1"), at=1)) == [{"order": "c1"}]
    r.say(["reply", "c1", {"order_id": "9"}, None], at=2)
    assert reply(r) == ("c1", "accepted", True, None)
    r.ask(order("c2"), at=3)
    r.say(["reply", "c2", None, {"code": "margin"}], at=4)
    assert reply(r) == ("c2", "rejected", False, "rejected")
    assert r.events[-1].error["provider_code"] == "margin"
    r.say(["reply", "c2", {}, None], at=5)
    assert r.fresh() == []
    assert r.counters()["notes"] == {"unasked_reply": 1}


def test_a_list_is_answered_with_the_bodies_of_events_and_the_provider_s_own_answer(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.ask(ListOrders(id="c1"), at=1)
    rows = [["o1", None], ["o2", "somebody's"]]
    r.say(["listed", "c1", *rows], at=2)
    (event,) = [event for event in r.fresh() if event.kind == "reply"]
    own = {"id": "o1", "symbol": "S", "side": "BUY", "quantity": "1.10", "status": "OPEN", "account": "main"}
    assert event.result == {"orders": [own], "not_understood": 1, "data": {"rows": rows}}
    assert r.counters()["unknown"] == 1, "what could not be read is sampled"


def test_a_list_that_the_adapter_does_not_read_is_the_provider_s_own_answer(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.ask(ListOrders(id="c1"), at=1)
    r.say(["reply", "c1", [{"anything": 1}], None], at=2)
    (event,) = r.fresh()
    assert (event.ok, event.result) == (True, {"data": [{"anything": 1}]})


def test_no_answer_within_the_deadline_is_unknown(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.ask(order(), 3, at=1)
    assert r.machine.deadline() == 4
    r.tick(4)
    assert reply(r) == ("c1", "unknown", False, "deadline")


def test_a_server_s_error_is_unknown_with_what_it_said_and_no_such_function_is_a_rejection(rig):
    r = rig()
    r.up(0)
    r.fresh()
    for status, outcome in ((500, "unknown"), (501, "rejected"), (503, "unknown")):
        (request,) = r.requests(r.ask(CancelOrder(id=f"c{status}", order_id="1"), at=1))
        r.do(session_events.Fetched(request.id, Answer(status=status, text="BROKER SAYS")), 2)
        (event,) = [event for event in r.fresh() if event.kind == "reply"]
        assert event.outcome == outcome
        assert "BROKER SAYS" in str(event.error)


def test_an_unknown_reply_says_what_failed_meanwhile(rig):
    r = rig()
    r.up(0)
    r.say(["error", "EARLIER", "not about it"], at=1)
    r.ask(order("c1"), 3, at=1)
    r.ask(CancelOrder(id="by http", order_id="1"), 3, at=1)
    r.say(*[["error", f"E{n}", "no such symbol"] for n in range(5)], at=2)
    r.fresh()
    r.tick(4)
    by_frame, by_http = r.fresh()
    assert by_frame.outcome == by_http.outcome == "unknown"
    assert [each["code"] for each in by_frame.error["heard"]] == ["E0", "E1", "E2"]
    assert "heard" not in by_http.error


def test_a_lost_connection_leaves_what_was_sent_unknown(rig):
    r = rig()
    r.up(0)
    r.ask(order(), at=1)
    r.fresh()
    r.do(session_events.Closed(1006), 2)
    (first, second) = r.fresh()
    assert (first.kind, first.outcome) == ("reply", "unknown")
    assert second.kind == "connection"


def test_what_never_was_sent_is_rejected(r):
    assert r.texts(r.ask(order("c1"), at=1)) == [{"order": "c1"}]
    assert r.ask(order("c2"), 5, at=1) == []  # waits for the budget until 11, its own deadline is 6
    r.fresh()
    assert r.texts(r.tick(6)) == [{"given_up": "c2"}]
    (late,) = quiet(r)
    assert (late.id, late.outcome, late.error["code"]) == ("c2", "rejected", "deadline_before_sent")
    assert r.texts(r.tick(12)) == [{"given_up": "c1"}]  # which was sent; c2 is not sent any more


def test_orders_wait_for_their_budget_and_go_before_subscriptions(rig):
    r = rig(limits=(Rate(1, per=10, of="frame"),))
    r.up(0)
    r.want("quote:A", at=1)
    assert r.texts(r.want("quote:B", at=1)) == []
    assert r.ask(order(), 60, at=2) == []
    assert r.texts(r.tick(11)) == [{"order": "c1"}]
    assert r.texts(r.tick(21)) == [{"sub": ["quote:B"]}]


def test_a_nearly_used_budget_is_announced_once_per_window(r):
    r.ask(order("c1"), at=1)
    r.ask(order("c2"), at=2)
    warnings = [event for event in r.fresh() if event.kind == "rate_limit"]
    assert [(w.event, w.requests_remaining) for w in warnings] == [("RATE_LIMIT_WARNING", 0)]


def test_a_session_that_is_not_up_refuses(rig):
    r = rig()
    r.do(session_events.Start(), 0)
    r.ask(order(), at=1)
    assert reply(r) == ("c1", "rejected", False, "not_connected")


def test_a_repeated_id_is_not_answered_twice(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.ask(order(), at=1)
    assert r.ask(order(), at=1) == []
    assert r.fresh() == []
    r.say(["reply", "c1", {}, None], at=2)
    assert reply(r) == ("c1", "accepted", True, None)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(status=200, text=dumps([["reply", "x", {}, None]])), "accepted"),
        (Answer(status=400, text="no such order"), "rejected"),
        (Answer(status=0, text="timeout"), "unknown"),
        (Answer(status=408, text=""), "unknown"),
        (Answer(status=499, text=""), "unknown"),
        (Answer(status=503, text=""), "unknown"),
    ],
)
def test_commands_over_http(rig, answer, outcome):
    r = rig()
    r.up(0)
    r.fresh()
    (request,) = r.ask(CancelOrder(id="x", order_id="9"), at=1)
    r.do(session_events.Fetched(request.id, answer), 2)
    (event,) = [event for event in r.fresh() if event.kind == "reply"]
    assert (event.id, event.outcome) == ("x", outcome)


def test_an_http_command_outlives_the_websocket(rig):
    r = rig()
    r.up(0)
    (request,) = r.ask(CancelOrder(id="x", order_id="9"), at=1)
    r.do(session_events.Closed(1006), 2)
    assert quiet(r) == []
    r.do(session_events.Fetched(request.id, Answer(status=200, text=dumps([["reply", "x", {}, None]]))), 3)
    (event,) = quiet(r)
    assert event.outcome == "accepted"


def test_shutdown_answers_what_is_open(rig):
    r = rig()
    r.up(0)
    r.ask(order(), at=1)
    r.fresh()
    r.do(session_events.Shutdown(), 2)
    (event,) = quiet(r)
    assert event.outcome == "unknown"


def test_asking_for_what_is_open_is_charged_as_a_call(rig):
    r = rig(options={"lists": "yes"}, limits=(Rate(1, burst=4, of="call"),))
    assert r.texts(r.up(0)) == ["open?"]
    assert r.machine.status()["budget"] == {"call": 3}
    assert r.machine.status()["budget_limits"] == {"call": 4}


def test_a_cancellation_is_sent_for_the_newest_order_of_a_chain(rig):
    class Replacing(rig.Venue):
        def decode(self, message):
            for id, status, more in loads(message):
                yield Order(event=None, id=id, symbol="S", side="BUY", quantity="1", status=status, **more)

        def encode(self, outgoing):
            if isinstance(outgoing, CancelOrder):
                yield dumps({"cancel": outgoing.order_id})

    r = rig(adapter=Replacing)
    r.up(0)
    r.say(["1", "OPEN", {}], ["2", "OPEN", {"replaces": "1"}], ["3", "OPEN", {"replaces": "2"}])
    told = [(event.id, event.status, event.replaced_by) for event in r.events if isinstance(event, Order)]
    assert told == [
        ("1", "OPEN", None), ("2", "OPEN", None), ("1", "REPLACED", "2"), ("3", "OPEN", None), ("2", "REPLACED", "3"),
    ]  # fmt: skip
    assert rig.texts(r.ask(CancelOrder(id="c1", order_id="1"))) == [{"cancel": "3"}]
    assert r.commands.find(AccountRef("acme", "main"), "c1").followed == ["3"]


class Silent(Adapter):
    """A broker that answers no command but a list: the stream of orders tells all."""

    name = "silent"
    session = Session(url="wss://silent.test/ws")
    commands = (PlaceOrder, CancelOrder, AmendOrder, ListOrders)
    orders = Orders(always_named=True)
    answered_by_stream = (PlaceOrder, CancelOrder, AmendOrder)

    def encode(self, outgoing):
        if isinstance(outgoing, PlaceOrder | CancelOrder | AmendOrder | ListOrders):
            yield dumps([getattr(outgoing, name, None) for name in ("id", "client_order_id", "order_id")])

    def decode(self, message):
        for id, name, status, account in loads(message):
            yield Order(event=None, account=account, id=id, client_order_id=name, symbol="S", side="BUY", quantity="1",
                        status=status)  # fmt: skip


@pytest.fixture
def silent(rig):
    r = rig(adapter=Silent)
    r.up(0)
    r.fresh()
    return r


def test_what_the_stream_shows_of_an_order_answers_its_command(silent):
    (_, name, _), *_ = silent.texts(silent.ask(order("c1")))
    assert name == "uuid", "it has a name by which the stream tells of it"
    silent.say(["o9", "of somebody else", "OPEN", None], ["o1", name, "OPEN", "another account"])
    assert "reply" not in silent.kinds()
    silent.say(["o1", name, "OPEN", None], ["o1", name, "OPEN", None])
    told, answered = silent.fresh()  # a second time it answers nothing
    assert (told.client_order_id, answered.outcome, answered.result) == (
        name,
        "accepted",
        {"order_id": "o1", "status": "OPEN"},
    )
    assert answered.reconciled is None
    silent.ask(CancelOrder(id="c2", order_id="o1"))
    silent.say(["o1", name, "PARTIALLY_FILLED", None], ["o1", name, "CANCELLED", None])
    *_, answered = silent.fresh()
    assert (answered.id, answered.outcome) == ("c2", "accepted")


def test_an_order_that_ended_unknown_is_known_by_the_name_that_was_made(silent):
    (_, name, _), *_ = silent.texts(silent.ask(order("c1"), within=1))
    silent.tick(2)
    assert silent.fresh()[-1].outcome == "unknown"
    (pending,) = silent.commands._lasting
    state = Order(
        event="ORDER_CREATED", id="o1", client_order_id=name, symbol="S", side="BUY", quantity="1", status="OPEN"
    )
    silent.commands.check(state, silent.stamps[-1])
    assert pending.outcome == "accepted"
    assert not silent.commands._watched


def test_an_order_keeps_the_name_that_its_sender_gave(silent):
    given = PlaceOrder(id="c", symbol="S", side="BUY", order_type="MARKET", quantity="1", client_order_id="mine")
    assert silent.texts(silent.ask(given)) == [["c", "mine", None]]


def test_an_adapter_knows_the_commands_that_wait(silent):
    known = silent.machine.core.context.known
    silent.ask(order("c1"))
    silent.ask(ListOrders(id="c2"), within=1)
    placed, listed = known.commands()
    assert (placed.id, placed.client_order_id, listed.id) == ("c1", "uuid", "c2")
    silent.tick(2)
    assert [command.id for command in known.commands()] == ["c1"]


def test_an_answer_that_names_no_command_is_never_the_next_one_s():
    sent = [ListOrders(id="1"), order("2"), ListOrders(id="3")]
    unnamed = Unnamed(lambda: sent)
    assert unnamed.oldest(ListOrders) is sent[0]
    assert unnamed.only(lambda each: isinstance(each, PlaceOrder)) is sent[1]
    assert unnamed.only(lambda each: isinstance(each, ListOrders)) is None
    unnamed.forget(sent.pop(0))
    assert unnamed.only(lambda each: isinstance(each, ListOrders)) is None, "it may be of the one that was given up"
    assert unnamed.oldest(ListOrders) is None, "one of both has it"
    assert list(unnamed.given_up) == ["3"], "the other is still owed its own"
    assert unnamed.oldest(ListOrders) is None
    sent[1:] = [ListOrders(id="4")]
    assert unnamed.oldest(ListOrders) is sent[1]
