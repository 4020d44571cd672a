"""Helio: what its page shows, what a day with its simulator looks like, and what is and is not known of a command."""

import time
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from relay.adapter import (
    Ack,
    Answer,
    Backoff,
    CommandReply,
    Complete,
    Context,
    Fetch,
    Learned,
    Reconcile,
    Subscribe,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    CancelOrder,
    ClosePosition,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
)
from relay.model.enums import ConnectionEvent, OrderStatus, Outcome
from relay.model.events import Account, Connection, Error, Order, Position, Quote, Reply
from relay.provider.http import HttpClient
from relay.provider.templates import authenticated
from relay.testing import conformance
from relay.testing.evidence import lost
from relay.testing.recording import read_recording
from relay.testing.simulator import Drop
from relay_helio.adapter import Helio
from relay_helio.requests import MOST_TRADED, PORTFOLIO
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator
from support import relayed as support_relayed
from support.deadlines import WITHIN
from support.dialling import UPGRADE, close_code, dialled
from support.helio_session import PAGE, REST_ORDER, REST_PORTFOLIO, Machine, place, record

FIXTURE = Path(__file__).parents[1] / "fixtures" / "helio.jsonl"
ACCOUNT = Topic(kind="account", account="main")
QUOTES = Topic(kind="quote", symbol="EURUSD")

test_helio = conformance.tests(Helio, FIXTURE)


def replies(items):
    return [item for item in items if isinstance(item, CommandReply)]


def of(items, kind):
    return [item for item in items if isinstance(item, kind)]


def new_adapter(**options):
    context = Context(provider="helio", account="main", options={**Helio.defaults(), **options},
                      credentials={"email": EMAIL, "password": PASSWORD})  # fmt: skip
    adapter = Helio(context)
    adapter.reports.account = options.get("account_id", "acc_123456")
    return adapter


def execution(**members):
    payload = {"accountId": "acc_123456", "orderId": "o1", "symbol": "EURUSD", "side": "BUY", "status": "ACCEPTED", "quantity": 10000,
               "filledQuantity": 0, **members}  # fmt: skip
    return httpx.Response(200, json={"type": "executionEvent", "payload": payload}).text


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_s_frames_decode_to_what_they_say():
    adapter = new_adapter()
    subscribed, quoted = (list(adapter.decode(text)) for direction, text in PAGE if direction == "in")
    assert subscribed == [Ack((QUOTES, Topic(kind="quote", symbol="GBPUSD"), ACCOUNT))]
    assert quoted == [
        Quote(symbol="EURUSD", native_symbol="EURUSD", bid="1.0843", ask="1.0844", time="2026-06-01T12:00:00Z")
    ]


def test_orders_are_written_as_on_the_page_with_a_name_of_their_own():
    *_, written = new_adapter(account_id="acc_123").encode(place("c1"))
    assert loads(written) == loads(PAGE[-1][1])
    machine = Machine()
    machine.say(place("c1"))
    machine.say(place("c2", client_order_id="mine"))
    made, given = (loads(text)["payload"].get("clientOrderId") for text in machine.sent if "createOrder" in text)
    assert (made, given) == ("uuid", "mine")


def test_orders_can_be_written_as_the_rest_bodies():
    adapter = new_adapter(orders="rest")
    *_, written = adapter.encode(
        place("c1", quantity="0.010", order_type="LIMIT", limit_price="1.0800", time_in_force="IOC")
    )
    assert '"volume":0.010,' in written
    payload = loads(written)["payload"]
    assert payload == {
        "account_id": "acc_123456", "symbol_id": "EURUSD", "side": "TRADE_SIDE_BUY", "volume": "0.010", "type": "ORDER_TYPE_LIMIT",
        "time_in_force": "TIF_IOC", "limit_price": "1.0800",
    }  # fmt: skip


@pytest.mark.parametrize("member", ["reduce_only", "post_only"])
def test_what_helio_has_no_member_for_is_refused_by_name(member):
    assert Helio.orders.refusal(place("c1", **{member: True})).startswith(f"{member}: ")


def test_both_spellings_of_an_execution_say_the_same():
    camel, snake = new_adapter(), new_adapter()
    (one,) = camel.decode(execution(clientOrderId="x"))
    (two,) = snake.decode(
        '{"type":"executionEvent","payload":{"account_id":"acc_123456","order_id":"o1","client_order_id":"x","symbol_id":"EURUSD",'
        '"side":"TRADE_SIDE_BUY","status":"ORDER_STATUS_ACCEPTED","quantity":10000,"filled_quantity":0}}'
    )
    assert one == two
    assert (one.event, one.status, one.account) == (None, OrderStatus.OPEN, None)


def test_another_account_is_named():
    (order,) = new_adapter().decode(execution(accountId="acc_9"))
    assert order.account == "acc_9"


# --- what is open, and what was missed -------------------------------------------------------------------------------


def test_the_rest_pages_examples_are_read_to_the_last_member():
    account, position, order, *complete = new_adapter().fetched(
        PORTFOLIO, Answer(status=200, text=dumps(REST_PORTFOLIO))
    )
    assert account == Account(event=None, balance="10000", margin_used="2500", unrealized_pnl="150.5", currency="USD", margin_call=False,
                              data={"inStopOut": False, "status": "TRADE_STATUS_FULL"})  # fmt: skip
    times = {"updated_at": "2025-01-01T12:30:00Z", "timestamp": "2025-01-01T12:30:00Z"}
    assert position == Position(
        event=None, id="pos_123456", symbol="EURUSD", native_symbol="EURUSD", side="LONG", quantity="1",
        average_entry_price="1.085", unrealized_pnl="100", opened_at="2025-01-01T12:00:00Z", **times,
        data={"orderId": "ord_123456", "closePrice": "1.086", "isClosing": False, "commission": "2.5", "swap": "-0.15", "units": 100000,
              "qtyClosed": 0, "comment": "Manual trade", "fundingAccrued": "-1.25"},
    )  # fmt: skip
    assert order == Order(
        event=None, status="OPEN", id="ord_123456", client_order_id="client_123", symbol="EURUSD", native_symbol="EURUSD",
        side="BUY", order_type="LIMIT", quantity="1", filled_quantity="0.5", remaining_quantity="0.5", time_in_force="GTC",
        limit_price="1.085", stop_price="1.084", average_fill_price="1.0851", position_id="pos_123456", parent_order_id="ord_parent_123",
        created_at="2025-01-01T12:00:00Z", reconciled=True, **times,
        data={"cancelsOrderId": "ord_cancel_123", "expirationDate": "2025-01-02T12:00:00Z", "comment": "Manual order"},
    )  # fmt: skip
    assert complete == [Complete("position"), Complete("order")]


def test_empty_text_unspecified_words_and_zero_prices_are_nothing():
    (order,) = new_adapter().decode(execution(clientOrderId="", positionId="", limitPrice=0, stopPrice="0.00", timeInForce="TIF_UNSPECIFIED",
                                              type="ORDER_TYPE_UNSPECIFIED", comment="x"))  # fmt: skip
    assert (order.client_order_id, order.position_id, order.limit_price, order.stop_price) == (None, None, None, None)
    assert (order.time_in_force, order.order_type, order.data) == (None, None, {"comment": "x"})
    with pytest.raises(ValueError, match="Side"):
        list(new_adapter().decode(execution(side="TRADE_SIDE_UNSPECIFIED")))


@pytest.mark.parametrize(
    ("members", "called"),
    [
        ({"inMarginCall": True}, True),
        ({"inStopOut": True}, True),
        ({"inMarginCall": False}, False),
        ({"inMarginCall": False, "inStopOut": True}, True),
        ({}, None),
    ],
)
def test_a_stop_out_is_a_margin_call(members, called):
    payload = {"type": "portfolioEvent", "payload": {"accountId": "acc_123456", "balance": 1, **members}}
    (account,) = new_adapter().decode(dumps(payload))
    assert (account.event, account.margin_call) == (None, called)


def test_a_cancelled_position_is_closed_and_says_so():
    held = {**REST_PORTFOLIO["positions"][0], "status": "POSITION_STATUS_CANCELLED"}
    _, position, *_ = new_adapter().fetched(
        PORTFOLIO, Answer(status=200, text=dumps({**REST_PORTFOLIO, "positions": [held]}))
    )
    assert (position.quantity, position.data["status"], position.data["qty"]) == ("0", "POSITION_STATUS_CANCELLED", 1)


def test_what_is_asked_for_after_an_absence_and_what_of_it_is_told():
    adapter = new_adapter()
    adapter.context.learned["token"] = "t0"
    assert [fetch.url for fetch in adapter.encode(Reconcile())] == ["/accounts/acc_123456/portfolio"]
    missed, portfolio = adapter.encode(Reconcile("2025-01-01T12:29:30Z"))
    assert (missed.url, missed.query) == (
        "/accounts/acc_123456/history/orders",
        {"from": "2024-12-31", "to": "2026-01-01"},
    )
    missed_as_sent = authenticated(missed, Helio.session, adapter.context)
    assert missed_as_sent.headers == {"Authorization": "Bearer t0"}
    told = adapter.fetched(missed.tag, Answer(status=200, text=dumps({"orders": [REST_ORDER]})))
    assert [order.id for order in told] == ["ord_123456"]
    assert portfolio.url == "/accounts/acc_123456/portfolio"


@pytest.mark.parametrize(
    ("command", "result"),
    [(ListPositions(id="c"), REST_PORTFOLIO["positions"]), (ListOrders(id="c"), [REST_ORDER]),
     (ListAccounts(id="c"), {name: value for name, value in REST_PORTFOLIO.items() if name not in ("positions", "orders")})],
)  # fmt: skip
def test_lists_are_parts_of_the_portfolio(command, result):
    adapter = new_adapter()
    adapter.context.learned["token"] = "t0"
    (fetch,) = adapter.encode(command)
    (reply,) = adapter.fetched(fetch.tag, Answer(status=200, text=dumps(REST_PORTFOLIO)))
    assert (reply.id, reply.result, len(reply.events)) == ("c", result, 1)
    (refused,) = adapter.fetched(fetch.tag, Answer(status=403, text="no"))
    assert refused.error == {"code": "http_403", "message": "no", "status": 403}


@pytest.mark.parametrize(
    ("members", "field"), [({}, "until"), ({"until": "2025-01-02T00:00:00Z", "symbol": "EURUSD"}, "symbol")]
)
def test_a_history_is_asked_for_as_its_page_has_it(members, field):
    with pytest.raises(ValueError, match=field):
        list(new_adapter().encode(OrderHistory(id="c", **members)))


# --- login -----------------------------------------------------------------------------------------------------------


def fetched(adapter, **answer):
    body = {"access_token": "t0", "expires_at": 1735689600, "accounts": [{"id": "a", "gid": "g"}], **answer}
    return list(adapter.fetched("login", Answer(status=200, text=httpx.Response(200, json=body).text)))


def test_login_teaches_token_expiry_and_account():
    adapter = Helio(Context(provider="helio", credentials={"email": "e", "password": "p"}))
    (login,) = adapter.prepare()
    assert isinstance(login, Fetch)
    assert (login.method, login.url, login.json) == ("POST", "/login", {"email": "e", "password": "p"})
    assert fetched(adapter) == [Learned({"token": "t0"}, 1735689600)]
    assert adapter.reports.account == "a"


def test_an_ambiguous_account_is_an_error_and_not_a_guess():
    adapter = Helio(Context(provider="helio"))
    error, learned = fetched(adapter, accounts=[{"id": "a"}, {"id": "b"}])
    assert isinstance(learned, Learned)
    assert "account_id to one of: a, b" in error.message
    with pytest.raises(ValueError, match="account_id"):
        list(adapter.encode(Subscribe((ACCOUNT,))))


# --- how a command's outcome is known --------------------------------------------------------------------------------


def answered(machine, **members):
    return [(reply.id, reply.ok) for reply in of(machine.hear(execution(**members)), Reply)]


def test_a_client_order_id_decides():
    machine = Machine()
    machine.say(place("c1"))
    machine.say(place("c2", client_order_id="mine"))
    assert answered(machine, clientOrderId="mine") == [("c2", True)]
    assert answered(machine, orderId="o2", clientOrderId="somebody's") == []
    assert answered(machine, orderId="o3") == []  # where our names come back, one without is not ours
    assert machine.commands.open == 1


@pytest.mark.parametrize("other", [{"side": "SELL"}, {"quantity": 10001}, {"symbol": "GBPUSD"}])
def test_without_one_symbol_side_and_quantity_decide(other):
    machine = Machine()
    machine.say(place("c1"))
    assert answered(machine, **other) == []
    assert answered(machine, orderId="o2", quantity=10000) == [("c1", True)]


def test_an_order_seen_before_answers_no_new_command():
    machine = Machine()
    machine.hear(execution())
    machine.say(place("c1"))
    assert answered(machine, status="FILLED", filledQuantity=10000) == []


def test_an_error_answers_no_command():
    machine = Machine()
    machine.say(place("c1"))
    errors = of(machine.hear('{"type":"error","payload":{"code":7,"message":"no"}}'), Error)
    assert {error.code for error in errors} == {"7", "account_error"}
    assert answered(machine) == [("c1", True)]


def test_a_rejected_order_is_told_with_its_reason():
    machine = Machine()
    machine.say(place("c1", client_order_id="mine"))
    heard = machine.hear(execution(clientOrderId="mine", status="REJECTED", reason="insufficient margin"))
    (reply,) = of(heard, Reply)
    assert (reply.outcome, reply.reconciled) == (Outcome.REJECTED, None)
    assert reply.error == {"code": "insufficient_margin", "provider_code": "insufficient margin", "message": "insufficient margin",
                           "order_id": "o1"}  # fmt: skip


def test_a_cancel_that_came_too_late_is_refused():
    machine = Machine()
    machine.hear(execution())
    machine.say(CancelOrder(id="c1", order_id="o1"))
    assert answered(machine, status="PARTIALLY_FILLED", filledQuantity=1) == []
    (reply,) = of(machine.hear(execution(status="FILLED", filledQuantity=10000)), Reply)
    assert (reply.error["code"], reply.error["message"]) == ("order_not_open", "the order is FILLED")


def test_an_amendment_is_answered_by_the_order_reported_again():
    machine = Machine()
    machine.hear(execution(status="PARTIALLY_FILLED", filledQuantity=5))
    machine.say(AmendOrder(id="c1", order_id="o1", limit_price="1.1"))
    order, reply = machine.hear(execution(status="PARTIALLY_FILLED", filledQuantity=5, limitPrice=1.1))
    assert (order.event, order.status) == ("ORDER_MODIFIED", OrderStatus.PARTIALLY_FILLED)
    assert (reply.id, reply.ok) == ("c1", True)
    machine.say(AmendOrder(id="c2", order_id="o1", limit_price="1.1"))  # nothing changes, and nothing is news
    (reply,) = machine.hear(execution(status="PARTIALLY_FILLED", filledQuantity=5, limitPrice=1.1))
    assert (reply.id, reply.ok) == ("c2", True)


def test_an_answer_nobody_waits_for_replies_to_nothing():
    (reply,) = new_adapter().decode('{"type":"orderHistory","payload":{"orders":[]}}')
    assert reply == CommandReply("", {"orders": []})


@pytest.mark.parametrize("missing", ["executionId", "lastQuantity", "price"])
def test_a_fill_without_id_quantity_or_price_is_no_trade(missing):
    fill = {"executionId": "e1", "lastQuantity": 10000, "price": 1.0844}
    del fill[missing]
    (order,) = new_adapter().decode(execution(status="FILLED", filledQuantity=10000, **fill))
    assert isinstance(order, Order)
    assert order.data.keys() == fill.keys()  # nothing that was sent is lost


def test_a_guess_at_a_state_is_not_made():
    with pytest.raises(KeyError):
        list(new_adapter().decode(execution(status="HALF_DONE")))


# --- what cannot be told apart ---------------------------------------------------------------------------------------

LONG = {"id": "P1", "symbol_name": "EURUSD", "side": "TRADE_SIDE_BUY", "status": "POSITION_STATUS_OPEN", "qty": 10}


def asking(*commands):
    """A session that knows a position of 10, bought, and has sent these."""
    machine = Machine()
    portfolio = {"accountId": "acc_123456", "balance": 1, "positions": [LONG]}
    machine.hear(dumps({"type": "portfolioEvent", "payload": portfolio}))
    for command in commands:
        machine.say(command)
    return machine


CLOSE = ClosePosition(id="close", position_id="P1")
MINE = place("place", client_order_id="mine")
CLOSED = {"positionId": "P1", "side": "SELL", "quantity": 10}


def test_an_order_s_own_name_goes_before_the_position_that_is_closed():
    machine = asking(CLOSE, MINE)
    assert answered(machine, clientOrderId="mine", **CLOSED) == [("place", True)]
    assert answered(machine, orderId="o2", **CLOSED) == [("close", True)]


@pytest.mark.parametrize(
    "other",
    [{"side": "BUY"}, {"quantity": 5}, {"positionId": "P2"}, {"clientOrderId": "somebody's"}, {"accountId": "acc_9"},
     {"status": "REJECTED"}, {"side": "BUY", "quantity": 5, "filledQuantity": 3, "status": "PARTIALLY_FILLED"}],
)  # fmt: skip
def test_only_an_order_that_takes_from_the_position_what_was_asked_for_closes_it(other):
    assert answered(asking(CLOSE), **{**CLOSED, **other}) == []
    part = asking(ClosePosition(id="close", position_id="P1", quantity="4"))
    assert answered(part, **{**CLOSED, "quantity": 4, **other}) == []


def test_a_position_that_nobody_told_of_is_not_known_to_be_closed():
    machine = Machine()
    machine.say(CLOSE)
    assert answered(machine, **CLOSED) == []


@pytest.mark.parametrize(
    "other",
    [CLOSED, {"side": "SELL", "quantity": 10, "status": "FILLED"}, {"side": "SELL", "quantity": 10, "type": "MARKET"},
     {"side": "SELL", "quantity": 10, "limitPrice": 1.1}, {"side": "SELL", "quantity": 10, "accountId": "acc_9"},
     {"side": "SELL", "quantity": 10, "status": "REJECTED"}],
)  # fmt: skip
def test_without_a_name_only_a_new_order_that_is_in_all_as_asked_for_is_ours(other):
    limit = {"side": "SELL", "order_type": "LIMIT", "limit_price": "1.2", "quantity": "10"}
    machine = asking(place("place", **limit))
    assert answered(machine, **other) == []
    fits = {"orderId": "o2", "side": "SELL", "quantity": 10, "type": "LIMIT", "limitPrice": 1.2}
    assert answered(machine, **fits) == [("place", True)]


@pytest.mark.parametrize(
    ("one", "again", "late"),
    [(place("A"), place("B"), {}), (CLOSE, attrs.evolve(CLOSE, id="B"), CLOSED)],
)
def test_a_late_execution_of_what_was_given_up_is_not_the_next_one_s(one, again, late):
    machine = asking()
    machine.give_up(one)
    machine.say(again)
    assert answered(machine, **late) == []
    assert answered(machine, orderId="o2", **late) == []  # which of the two this is cannot be told either


def test_two_that_one_execution_fits_are_both_left_open():
    assert answered(asking(place("A"), place("B"))) == []


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ({"kind": AmendPosition, "position_id": "P1", "stop_loss": "1"}, {"kind": AmendPosition, "position_id": "P2", "stop_loss": "1"},
         '{"type":"amendPosition","payload":{"message":"ok","operation_id":"op"}}'),
        ({"kind": OrderHistory, "until": "2026-06-02T00:00:00Z"}, {"kind": OrderHistory, "until": "2026-06-01T00:00:00Z"},
         '{"type":"orderHistory","payload":{"orders":[]}}'),
    ],
)  # fmt: skip
def test_an_answer_that_may_be_of_what_was_given_up_answers_nothing(first, second, text):
    one, two, three = (members.pop("kind")(id=id, **members) for id, members in
                       (("1", dict(first)), ("2", dict(second)), ("3", dict(second))))  # fmt: skip
    machine = asking()
    machine.give_up(one)
    machine.say(two, within=0.01)
    assert of(machine.hear(text), Reply) == []
    machine.give_up(place("another", client_order_id="x"))  # by now the second has come to its deadline, too
    assert of(machine.hear(text), Reply) == []  # now both have had theirs
    machine.say(three)
    assert [reply.id for reply in of(machine.hear(text), Reply)] == ["3"]


@pytest.mark.parametrize("payload", [None, {}, [], {"message": "queued"}])
def test_an_amendment_of_a_position_is_done_when_the_answer_names_an_operation(payload):
    machine = asking(AmendPosition(id="c1", position_id="P1", stop_loss="1"))
    assert of(machine.hear(dumps({"type": "amendPosition", "payload": payload})), Reply) == []


def test_when_more_are_given_up_than_are_remembered_nothing_without_a_key_is_told_apart():
    machine = asking()
    for n in range(1000):
        machine.give_up(place(f"c{n}", quantity=f"{n + 1}"))
    machine.say(place("mine", client_order_id="mine"))
    assert answered(machine) == []
    assert answered(machine, orderId="o2", clientOrderId="mine") == [("mine", True)]


AMEND = AmendOrder(id="amend", order_id="o1", limit_price="1.20")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"status": "WORKING", "limitPrice": 1.1}, []),
        ({"status": "PENDING", "limitPrice": 1.2}, []),
        ({"status": "REJECTED", "limitPrice": 1.2}, [("amend", False)]),
        ({"status": "FILLED", "filledQuantity": 10000}, []),
        ({"status": "WORKING", "limitPrice": 1.2, "accountId": "acc_9"}, []),
        ({"status": "WORKING", "limitPrice": 1.2}, [("amend", True)]),
        ({"status": "FILLED", "limitPrice": 1.2, "filledQuantity": 10000}, [("amend", True)]),
        ({"status": "CANCELLED", "limitPrice": 1.2}, [("amend", True)]),
    ],
)
def test_an_amendment_took_effect_when_the_order_has_what_was_asked_for(members, expected):
    machine = asking()
    machine.hear(execution(status="PENDING", limitPrice=1.1))
    machine.say(AMEND)
    assert answered(machine, **members) == expected


def test_an_amendment_of_what_no_execution_tells_is_left_open():
    machine = asking(AmendOrder(id="amend", order_id="o1", limit_price="1.2", good_till="2026-06-02T00:00:00Z"))
    assert answered(machine, status="WORKING", limitPrice=1.2) == []


def test_one_execution_can_end_two_commands():
    machine = asking(AMEND, CancelOrder(id="cancel", order_id="o1"))
    assert answered(machine, status="CANCELLED", limitPrice=1.2) == [("amend", True), ("cancel", True)]


# --- what is subscribed ----------------------------------------------------------------------------------------------


def test_what_subscribers_name_is_forgotten_with_them():
    adapter = new_adapter(account_symbols="GBPUSD")
    list(adapter.encode(Subscribe((ACCOUNT,))))
    list(adapter.encode(place("c1", symbol="USDJPY")))
    for symbol in ("EURUSD", "USDJPY"):
        topics = (Topic(kind="quote", symbol=symbol), Topic(kind="depth", symbol=symbol))
        list(adapter.encode(Subscribe(topics)))
        list(adapter.encode(Unsubscribe(topics[:1])))
        assert symbol in adapter.interest.watched
        *_, last = adapter.encode(Unsubscribe(topics[1:]))
    assert loads(last)["type"] == "depthUnsubscribe"  # what was traded stays watched
    assert adapter.interest.watched == {"GBPUSD", "USDJPY"}
    for n in range(3000):
        topics = (Topic(kind="quote", symbol=f"S{n}"),)
        list(adapter.encode(Subscribe(topics)))
        list(adapter.encode(Unsubscribe(topics)))
    assert len(adapter.interest.watched) == 2


def test_a_symbol_of_the_account_s_own_orders_is_watched_as_long_as_one_is_open():
    machine = Machine()
    machine.want(ACCOUNT)
    machine.hear(execution(symbol="XAUUSD"))
    machine.want(QUOTES)
    assert '"symbols":["EURUSD","XAUUSD"],"events":["executionEvent","portfolioEvent"]' in machine.sent[-1]


def test_no_longer_watching_one_symbol_is_not_leaving_the_account():
    adapter = new_adapter()
    list(adapter.encode(Subscribe((ACCOUNT, QUOTES))))
    *_, frame = adapter.encode(Unsubscribe((QUOTES,)))
    told = {**loads(frame)["payload"]}
    assert told == {"symbols": ["EURUSD"], "events": ["executionEvent", "portfolioEvent"]}
    unsubscribed = dumps({"type": "unsubscribed", "payload": told})
    assert list(adapter.decode(unsubscribed)) == [Ack((), done=False)]
    list(adapter.encode(Unsubscribe((ACCOUNT,))))
    assert list(adapter.decode(unsubscribed)) == [Ack((ACCOUNT,), done=False)]


def test_an_order_whose_executions_could_not_be_heard_of_is_refused():
    adapter = new_adapter()
    for n in range(MOST_TRADED):
        list(adapter.encode(place(f"c{n}", symbol=f"S{n}")))
    list(adapter.encode(place("again", symbol="S0")))
    with pytest.raises(ValueError, match="account_symbols"):
        list(adapter.encode(place("more", symbol="more")))


# --- the fixture -----------------------------------------------------------------------------------------------------


async def test_the_fixture_is_what_the_simulator_says():
    assert tuple(await record()) == read_recording(FIXTURE).records


def test_nothing_of_a_frame_is_lost():
    """But words that became others, the session's own account, and what a subscription's acknowledgement repeats."""
    places = {
        place for place in lost(conformance.subject(Helio, FIXTURE)) if not place.endswith((".type", ".accountId"))
    }
    acknowledged = {
        f"{word}.payload.{name}[{n}]"
        for word in ("subscribed", "unsubscribed")
        for name in ("events", "symbols")
        for n in (0, 1)
    }
    assert places - acknowledged == {
        "executionEvent.payload.status", "portfolioEvent.payload.positions[].side", "portfolioEvent.payload.positions[].status",
    }  # fmt: skip


# --- the simulator over real sockets ---------------------------------------------------------------------------------


async def test_a_client_that_does_what_the_page_says():
    async with HelioSimulator(interval=0.01).serve() as at, httpx.AsyncClient() as http:
        wrong = await http.post(f"{at.http}/login", json={"email": EMAIL, "password": "wrong"})
        assert (wrong.status_code, sorted(wrong.json())) == (401, ["code", "details", "message"])
        login = (await http.post(f"{at.http}/login", json={"email": EMAIL, "password": PASSWORD})).json()
        async with dialled(f"{at.ws}?token={login['access_token']}") as socket:
            await socket.send_message(PAGE[0][1])
            with trio.fail_after(WITHIN):
                assert loads(await socket.get_message()) == loads(PAGE[1][1])
                quote = loads(await socket.get_message())
                assert (quote["type"], sorted(quote["payload"])) == ("quoteEvent", ["ask", "bid", "symbol", "ts"])
                await socket.send_message('{"type":"subscribe"}')
                while (message := loads(await socket.get_message()))["type"] != "error":
                    pass
            assert message["payload"]["code"] == "INVALID_MESSAGE"


@pytest.mark.parametrize("token", ["?token=forged", "", "?token="])
async def test_no_valid_token_is_closed_at_once(token):
    async with HelioSimulator(interval=0).serve() as at:
        async with dialled(f"{at.ws}{token}") as socket:
            assert await close_code(socket) == 1008


async def test_or_refused_where_the_broker_is_so_configured():
    async with HelioSimulator(interval=0, bad_token="refuse").serve() as at, httpx.AsyncClient() as http:
        refused = await http.get(at.ws.replace("ws:", "http:"), headers=UPGRADE)
        assert (refused.status_code, refused.json()["message"]) == (401, "invalid token")


async def test_an_expired_token_ends_the_session():
    now = [1_000 * 10**9]
    simulator = HelioSimulator(interval=0, token_lifetime=60, clock=lambda: now[0])
    async with simulator.serve() as at, httpx.AsyncClient() as http:
        login = (await http.post(f"{at.http}/login", json={"email": EMAIL, "password": PASSWORD})).json()
        assert login["expires_at"] == 1_060
        async with dialled(f"{at.ws}?token={login['access_token']}") as socket:
            await simulator.wait_connected()
            now[0] += 60 * 10**9
            simulator.tick()
            assert await close_code(socket) == 1008


# --- the relay's own session with the simulator ----------------------------------------------------------------------


class Relayed(support_relayed.Relayed):
    """The session with Helio's simulator."""

    def __init__(self, at, http, password=PASSWORD):
        context = Context(provider="helio", account="main", options=Helio.defaults(),
                          credentials={"email": EMAIL, "password": password})  # fmt: skip
        super().__init__(Helio, context, http, url=at.ws, http=at.http, backoff=Backoff(first=0.01))


@pytest.fixture
async def relayed():
    simulator = HelioSimulator(interval=0.02)
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        running = Relayed(at, http)
        await nursery.start(running.session.run)
        running.session.want(QUOTES)
        running.session.want(ACCOUNT)
        yield simulator, running
        running.session.shutdown()
        nursery.cancel_scope.cancel()


async def test_what_happened_in_an_absence_is_found(relayed):
    simulator, relay = relayed
    await relay.until(Quote)
    for id in ("stays", "goes"):
        relay.session.send(place(id, order_type="LIMIT", limit_price="1.05", client_order_id=id))
        await relay.until(Reply, id=id)
    simulator.inject(Drop())
    await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
    gone = next(order for order in simulator.account.orders.values() if order.ticket.client_order_id == "goes")
    simulator.account.cancel(gone.id, time.time_ns())
    simulator.trade(attrs.evolve(gone.ticket, client_order_id="new"))
    found = {}
    while found.keys() != {"goes", "new"}:  # the history and the portfolio are answered in any order
        order = await relay.until(Order, reconciled=True)
        found[order.client_order_id] = order
    cancelled = found["goes"]
    assert (cancelled.id, cancelled.status, cancelled.vanished) == (gone.id, OrderStatus.CANCELLED, None)
    relay.session.send(ListOrders(id="list"))
    listed = (await relay.until(Reply, id="list")).result
    assert [order["client_order_id"] for order in listed["orders"]] == ["stays", "new"]
    assert [order["client_order_id"] for order in listed["data"]] == ["stays", "new"]


async def test_what_cannot_be_matched_is_unknown_by_its_deadline(relayed):
    _, relay = relayed
    await relay.until(Quote)
    relay.session.send(place("odd", quantity="0.5"), within=2)
    await relay.until(Error, code="INVALID_PAYLOAD")
    reply = await relay.until(Reply, id="odd")
    assert (reply.outcome, reply.error["heard"][0]["code"]) == (Outcome.UNKNOWN, "INVALID_PAYLOAD")


# --- what is whole ----------------------------------------------------------------------------


@pytest.mark.parametrize(("portfolio", "expected"), [("whole", [Complete("position")]), ("part", [])])
def test_a_portfolio_is_complete_only_where_the_operator_says_so(portfolio, expected):
    adapter = new_adapter(portfolio=portfolio)
    text = '{"type":"portfolioEvent","payload":{"accountId":"acc_123456","balance":1,"positions":[]}}'
    assert of(adapter.decode(text), Complete) == expected
    assert of(adapter.decode(text.replace(',"positions":[]', "")), Complete) == []
