"""ScaleTrade: what its pages show in both versions, what a trade record says and what it does not, and a day with its simulator."""

from pathlib import Path

import attrs
import httpx
import pytest
import trio

from relay.adapter import (
    Ack,
    Answer,
    Backoff,
    CloseMeaning,
    CommandReply,
    Complete,
    Fetch,
    Hello,
    Learned,
    Ping,
    Ready,
    Reconcile,
    Redial,
    Send,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import jwt_expiry
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
    PositionHistory,
)
from relay.model.enums import AccountEvent, ConnectionEvent, OrderEvent, OrderStatus, OrderType, Outcome, PositionEvent
from relay.model.events import Account, Alert, Connection, Error, Notification, Order, Position, Quote, Reply, Trade
from relay.model.symbols import SymbolTable
from relay.provider.accounts import KnownStates, States
from relay.provider.http import HttpClient
from relay.provider.templates import authenticated, dial_target, fetch_target
from relay.testing import conformance
from relay.testing.evidence import lost
from relay.testing.recording import read_recording
from relay.testing.simulator import Drop, Refuse
from relay_scaletrade.adapter import ScaleTrade
from relay_scaletrade.simulator import LOGIN, PASSWORD, ScaleTradeSimulator
from relay_scaletrade.trades import CMDS, STATES, TRADE
from support import relayed as support_relayed
from support.deadlines import WITHIN
from support.dialling import close_code, dialled
from support.recordings import decode
from support.scaletrade_session import (
    PAGE,
    REST_PAGE,
    TOPICS,
    Session,
    codes,
    derived,
    new_context,
    place,
    record,
    trade_frame,
    whole_day,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "scaletrade.jsonl"
QUOTES, _, ACCOUNT = TOPICS
PROFILE = {"id": LOGIN, "login": LOGIN, "currency": "USD", "__token": "a.b.c"}

# orders have numbers here, and a pending order's volume cannot be changed: the kit's own samples would rightly be refused
test_scaletrade = conformance.tests(
    ScaleTrade, FIXTURE, commands=[*whole_day(), place("decimals", quantity="1234567.123456789012")]
)


def new_adapter(symbols=None, **options):
    states = States()
    context = attrs.evolve(new_context(**options), symbols=SymbolTable(symbols), known=KnownStates(states, None))
    adapter = ScaleTrade(context)
    (learned,) = adapter.fetched("login", Answer(status=200, text=dumps(PROFILE)))
    context.learned.update(learned.values)
    adapter.states = states
    return adapter


def decoded(adapter, *texts):
    """Return what comes of the messages, with what happened to orders, positions and money."""
    return [item for text in texts for item in derived(adapter.decode(text), adapter.states)]


def of(items, kind):
    return [item for item in items if isinstance(item, kind)]


def written(adapter, outgoing):
    (fetch,) = adapter.encode(outgoing)
    return fetch.method, fetch.url, loads(dumps(fetch.json))


def said(events):
    """Return the items in short: events and states of orders and positions, the others whole."""
    return [
        event.message if isinstance(event, Notification) else (event.event.value, getattr(event, "status", None))
        for event in events
    ]


# --- the pages -------------------------------------------------------------------------------------------------------


def test_the_pages_frames_decode_to_what_they_say():
    adapter = new_adapter()
    in_, *_ = ([text for direction, text in PAGE if direction == "in"],)
    authorized, refused, pong, quote, server_quote, balance, trade, notice, alert = (
        decoded(adapter, text) for text in in_
    )
    assert authorized == [Send('{"event":"account.switch","active_login":100020}'), Ready()]
    assert refused == [Redial("authorization refused: INVALID_TOKEN", CloseMeaning.RETRY)]
    assert pong == [Ready()]
    assert quote == [
        Quote(symbol="EURUSD", native_symbol="EURUSD", bid="1.10012", ask="1.10024", time="2026-04-06T13:10:00Z")
    ]
    assert server_quote[0].time == "2024-12-16T01:25:45.678Z"
    assert balance == [
        Account(event=AccountEvent.BALANCE_UPDATED, balance="12500.0", equity="12610.3", margin_used="850.0", currency="USD",
                margin_available="11650.0", unrealized_pnl="110.3",
                margin_call=False, data={"margin_level": "1470.58", "credit": "0.0", "level_type": 0, "code": 1}),
    ]  # fmt: skip
    assert trade == [Position(
        event=PositionEvent.POSITION_OPENED, id="100739", symbol="EURUSD", native_symbol="EURUSD", side="LONG", quantity="100",
        average_entry_price="1.1001", unrealized_pnl="15.8", opened_at="2026-04-06T13:10:00Z", quantity_unit="0.01 lots",
        data={"cmd": 0, "close_price": "0.0", "close_time": 0, "state": 0, "storage": "0.0", "commission": "-1.2",
              "comment": "manual trade", "code": 1},
    )]  # fmt: skip
    assert (notice[0].title, notice[0].message, notice[0].level) == (
        "Order opened", "Your order was opened successfully", "0",
    )  # fmt: skip
    assert notice[0].data == {"token": "OPEN_ORDER", "status": 1, "level": 0, "user_id": 100500, "create_time": 1734312345,
                              "data": {"order": 58123, "symbol": "EURUSD"}, "code": 201}  # fmt: skip
    assert alert[0].data["indicator_name"] == "Price Alert"
    assert attrs.evolve(alert[0], data=None) == Alert(
        id="101", symbol="EURUSD", native_symbol="EURUSD", condition="CrossUp", target_price="1.1000", triggered_price="1.1002",
        status="Triggered", timestamp="2026-04-05T15:00:00Z",
    )  # fmt: skip


def test_what_the_pages_say_is_what_is_written():
    adapter = new_adapter()
    assert list(adapter.encode(Hello())) == ['{"authorization":"a.b.c"}', "ping"]
    assert list(adapter.encode(Ping())) == ["ping"]
    assert not ScaleTrade.session.heartbeat.frame
    assert list(adapter.encode(Subscribe(TOPICS))) == ['{"event":"subscribe","data":["eurusd","gbpusd"]}']
    assert list(adapter.encode(Unsubscribe(TOPICS[:1]))) == ['{"event":"unsubscribe","data":["eurusd"]}']
    assert list(adapter.encode(Subscribe((ACCOUNT,)))) == []


@pytest.mark.parametrize(
    ("tail", "data", "code"),
    [("201", None, 201), ('{"a":1},201', {"a": 1}, 201), ("null,201,7", None, 201), ("[],5", [], 5), ("9,8", None, 9)],
)
def test_a_notification_with_and_without_data(tail, data, code):
    (notice,) = new_adapter().decode(f'["n","t","d","TOKEN",1,20,7,1734312345,{tail}]')
    assert (notice.data.get("data"), notice.data["code"], notice.level) == (data, code, "WARNING")


@pytest.mark.parametrize(
    "frame", ['["n","t","d","TOKEN",1,20,7,1734312345]', '["t","EURUSD",1,2]', '["b",1,2]', "[]", '["x",1]']
)
def test_an_array_that_is_too_short_or_unknown_is_not_understood(frame):
    (item,) = decode(new_adapter(), frame)
    assert isinstance(item, Unknown)


@pytest.mark.parametrize(
    ("ctm", "time"),
    [(1775481000, "2026-04-06T13:10:00Z"), (1734312345678, "2024-12-16T01:25:45.678Z"), (0, None), ("1775481000.25", "2026-04-06T13:10:00.25Z"),
     (99_999_999_999, "5138-11-16T09:46:39Z"), (100_000_000_000, "1973-03-03T09:46:40.000Z")],
)  # fmt: skip
def test_a_time_is_seconds_or_milliseconds_by_its_magnitude(ctm, time):
    (quote,) = new_adapter().decode(f'["t","EURUSD",1.1,1.2,{ctm}]')
    assert (quote.time, quote.timestamp) == (time, time)


def test_channels_are_lower_case_and_events_are_not():
    adapter = new_adapter(symbols={"XAUUSD.m": "XAU/USD"})
    assert list(adapter.encode(Subscribe((Topic(kind="quote", symbol="XAU/USD"),)))) == [
        '{"event":"subscribe","data":["xauusd.m"]}'
    ]
    for spelled in ("XAUUSD.M", "XAUUSD.m", "xauusd.m"):
        (quote,) = adapter.decode(f'["t","{spelled}",1,2,1775481000]')
        assert (quote.symbol, quote.native_symbol) == ("XAU/USD", spelled)
    (other,) = adapter.decode('["t","EURUSD",1,2,1775481000]')
    assert other.symbol == "EURUSD"
    assert written(adapter, place("c", symbol="XAU/USD"))[2]["symbol"] == "XAUUSD.m"
    order, position, *_ = decoded(adapter, trade_frame(symbol="XAUUSD.M", code=0))
    assert (order.symbol, position.symbol, position.native_symbol) == ("XAU/USD", "XAU/USD", "XAUUSD.M")


def test_a_white_label_s_addresses_are_options():
    context = new_context(host="trade.example.com", ws_port="8443")
    assert dial_target(ScaleTrade.session, context) == ("wss://trade.example.com:8443", {})
    (login,) = ScaleTrade(context).prepare()
    assert fetch_target(login, ScaleTrade.session, context)[0] == "https://trade.example.com/sign/in"


@pytest.mark.parametrize(
    ("condition", "status", "word", "state", "target"),
    [(1, 0, "CrossDown", "Active", "1.5"), (3, 4, "<", "Expired", "1.5"), (7, 3, "OutsideChannel", "Deleted", None),
     (11, 2, "MoveDown%", "Disabled", None), (12, 5, "12", "5", None)],
)  # fmt: skip
def test_alerts_by_condition_and_status(condition, status, word, state, target):
    (alert,) = new_adapter().decode(
        f'["a",1,100020,"EURUSD","i","m",1,{condition},1.5,1,2,3,{status},0,0,0,0,1,"more"]'
    )
    assert (alert.condition, alert.status, alert.target_price) == (word, state, target)
    assert (alert.triggered_price, alert.timestamp) == (None, None)


# --- authorization in both versions ----------------------------------------------------------------------------------


def test_the_older_version_is_ready_at_the_first_pong():
    adapter = new_adapter()
    assert decoded(adapter, "pong", "pong") == [Ready(), Ready()]
    assert decoded(adapter, "ping") == [Send("pong")]


def test_a_pong_that_overtook_the_authorization_loses_no_subscription():
    adapter = new_adapter()
    assert decoded(adapter, "pong") == [Ready()]
    list(adapter.encode(Subscribe(TOPICS)))
    list(adapter.encode(Unsubscribe(TOPICS[1:2])))
    sent = of(decoded(adapter, '{"event":"authorization","success":true}'), Send)
    assert [loads(send.text)["event"] for send in sent] == ["account.switch", "subscribe"]
    assert loads(sent[1].text)["data"] == ["eurusd"]


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        ('"UNSUPPORTED_SESSION"', CloseMeaning.REFUSED),
        ('"INVALID_TOKEN"', CloseMeaning.RETRY),
        ("null", CloseMeaning.RETRY),
    ],
)
def test_a_refused_authorization_ends_the_connection(error, meaning):
    (redial,) = new_adapter().decode(f'{{"event":"authorization","success":false,"error":{error}}}')
    assert redial.meaning is meaning


def test_the_answer_to_the_account_switch():
    adapter = new_adapter()
    assert decoded(adapter, '{"event":"account.switch","success":true,"active_login":100020}') == [Ack((ACCOUNT,))]
    (error,) = adapter.decode('{"event":"account.switch","success":false,"error":"NO"}')
    assert (error.code, error.message) == ("account.switch", "NO")
    (error,) = adapter.decode('{"error":"INVALID_DATA","message":"Validation failed"}')
    assert error == Error(code="INVALID_DATA", message="Validation failed", details={"message": "Validation failed"})
    (unknown,) = adapter.decode('{"event":"authorization","success":"yes"}')
    assert isinstance(unknown, Unknown)


def test_sign_in_is_numbers_and_teaches_the_token_and_its_end():
    adapter = ScaleTrade(new_context())
    (login,) = adapter.prepare()
    assert isinstance(login, Fetch)
    assert (login.method, login.url, login.json) == ("POST", "/sign/in", {"login": LOGIN, "password": PASSWORD})
    token = "e30.eyJleHAiOjE3ODAzMTg4MDB9.c2ln"
    assert list(adapter.fetched("login", Answer(status=200, text=dumps({**PROFILE, "__token": token})))) == [
        Learned({"token": token}, 1780318800)
    ]
    assert (adapter.login, adapter.currency) == (LOGIN, "USD")


@pytest.mark.parametrize(
    "token", ["", "a", "a.b.c", "a.bm90IGpzb24.c", "a.W10.c", "a.eyJleHAiOiJzb29uIn0.c", "a.eyJleHAiOnRydWV9.c"]
)
def test_a_token_that_does_not_say_when_it_ends(token):
    assert jwt_expiry(token) is None


# --- trades ----------------------------------------------------------------------------------------------------------


def test_a_market_order_is_an_order_and_then_a_position():
    adapter = new_adapter()
    requested = {"state": 1, "code": 0, "open_price": "0.0", "open_time": 0, "profit": "0.0"}
    assert said(decoded(adapter, trade_frame(**requested))) == [("ORDER_CREATED", OrderStatus.PENDING)]
    order, position = decoded(adapter, trade_frame(sl="1.05"))[:2]
    assert (order.event, order.status, order.order_type) == (
        OrderEvent.ORDER_FILLED,
        OrderStatus.FILLED,
        OrderType.MARKET,
    )
    assert (order.quantity, order.filled_quantity, order.average_fill_price, order.stop_loss) == (
        "100",
        "100",
        "1.1",
        "1.05",
    )
    assert (order.position_id, order.timestamp) == ("7", "2026-04-06T13:10:00Z")
    assert (position.event, position.unrealized_pnl) == (PositionEvent.POSITION_OPENED, "1.5")
    assert said(decoded(adapter, trade_frame(sl="1.05", profit="2.0"))) == [("POSITION_MODIFIED", None)]
    (closed,) = decoded(
        adapter, trade_frame(state=3, code=6, close_time=1775481600, close_price="1.2", profit="9.0", sl="1.05")
    )
    assert (closed.event, closed.realized_pnl, closed.unrealized_pnl, closed.quantity) == (
        PositionEvent.POSITION_CLOSED, "9.0", None, "0",
    )  # fmt: skip
    assert (closed.data["close_price"], closed.data["volume"]) == ("1.2", 100)
    assert (closed.stop_loss, closed.take_profit) == ("1.05", None)
    archived = trade_frame(state=3, code=4, close_time=1775481600, close_price="1.2", profit="9.0", sl="1.05")
    assert decoded(adapter, archived) == []


def test_there_is_never_a_trade_with_an_invented_id():
    adapter = new_adapter()
    events = [event for text in codes() for event in adapter.decode(text)]
    assert not of(events, Trade)
    assert not of(events, Unknown)


def test_a_pending_order_from_its_request_to_its_activation():
    adapter = new_adapter()
    pending = {"cmd": 3, "open_time": 0, "profit": "0.0"}
    assert said(decoded(adapter, trade_frame(state=1, code=0, **pending), trade_frame(**pending))) == [
        ("ORDER_CREATED", OrderStatus.PENDING), ("ORDER_MODIFIED", OrderStatus.OPEN),
    ]  # fmt: skip
    (amended,) = decoded(adapter, trade_frame(tp="1.0", **{**pending, "open_price": "1.3"}))
    assert (amended.side, amended.order_type, amended.limit_price, amended.stop_price, amended.take_profit) == (
        "SELL", OrderType.LIMIT, "1.3", None, "1.0",
    )  # fmt: skip
    order, position = decoded(adapter, trade_frame(cmd=1, code=5))
    assert (order.status, order.order_type, order.limit_price) == (OrderStatus.FILLED, OrderType.LIMIT, "1.3")
    assert (position.event, position.side) == (PositionEvent.POSITION_OPENED, "SHORT")


def test_a_pending_order_that_is_cancelled():
    adapter = new_adapter()
    events = decoded(
        adapter,
        trade_frame(cmd=4, code=0),
        trade_frame(cmd=4, state=9),
        trade_frame(cmd=4, state=6, code=2, close_time=1775481600),
    )
    assert said(events) == [
        ("ORDER_CREATED", OrderStatus.OPEN), ("ORDER_MODIFIED", OrderStatus.PENDING_CANCEL), ("ORDER_CANCELLED", OrderStatus.CANCELLED),
    ]  # fmt: skip
    assert events[0].stop_price == "1.1"


def test_a_request_that_is_deleted_was_cancelled_and_a_deleted_position_realized_nothing():
    adapter = new_adapter()
    assert said(decoded(adapter, trade_frame(state=1, code=0), trade_frame(state=6, code=2)))[1] == (
        "ORDER_CANCELLED",
        OrderStatus.CANCELLED,
    )
    (closed,) = decoded(adapter, trade_frame(order=8, state=6, code=2))
    assert (closed.event, closed.realized_pnl) == (PositionEvent.POSITION_CLOSED, None)


def test_what_contradicts_itself_or_is_not_said_is_told_whole_and_not_guessed():
    adapter = new_adapter()
    for members, word in [
        ({"state": 0, "close_time": 1775481600}, "BUY OPEN_NORMAL"),
        ({"state": 4}, "BUY CLOSED_PART"),
        ({"state": 19}, "BUY PARTIAL_CLOSE_REQUEST"),
        ({"state": 42}, "BUY 42"),
        ({"cmd": 2, "state": 3}, "BUY_LIMIT CLOSED_NORMAL"),
        ({"cmd": 6, "symbol": ""}, "BALANCE_IN OPEN_NORMAL"),
        ({"cmd": 77}, "77 OPEN_NORMAL"),
    ]:
        (whole,) = decoded(adapter, trade_frame(**members))
        assert (whole.message, whole.data["order"]) == (word, 7)


def test_a_part_that_was_closed_is_closed_and_the_rest_stays():
    adapter = new_adapter()
    decoded(adapter, trade_frame())
    (closed,) = decoded(adapter, trade_frame(order=8, state=4, code=6, volume=40, close_time=1775481600))
    assert (closed.id, closed.event, closed.quantity) == ("8", PositionEvent.POSITION_CLOSED, "0")
    assert closed.data["volume"] == 40
    (rest,) = decoded(adapter, trade_frame(volume=60))
    assert (rest.id, rest.event, rest.quantity) == ("7", PositionEvent.POSITION_MODIFIED, "60")


def test_a_fill_is_published_only_where_the_code_says_so():
    for code, events in [(1, []), (0, [OrderEvent.ORDER_FILLED]), (5, [OrderEvent.ORDER_FILLED]), (99, [])]:
        items = decoded(new_adapter(), trade_frame(code=code))
        assert [order.event for order in of(items, Order)] == events
        assert [position.event for position in of(items, Position)] == [PositionEvent.POSITION_OPENED]
    activated, _ = decoded(new_adapter(), trade_frame(code=5))
    assert activated.order_type is None
    adapter = new_adapter()
    assert said(decoded(adapter, trade_frame(state=3), trade_frame(state=2)))[-1] == ("POSITION_OPENED", None)


@pytest.mark.parametrize(
    ("level", "event"), [(0, "BALANCE_UPDATED"), (1, "MARGIN_CALL"), (2, "MARGIN_CALL"), (7, "BALANCE_UPDATED")]
)
def test_members_without_a_field_of_their_own_are_in_data(level, event):
    (account,) = decoded(new_adapter(), f'["b",100020,1.0,2.0,3.0,4.5,5.0,50.0,{level},6.0,9,"more"]')
    assert (account.event, account.data) == (
        event,
        {"margin_level": "4.5", "credit": "50.0", "level_type": level, "code": 9},
    )
    (order,) = decoded(new_adapter(), trade_frame(cmd=10, storage="-0.4", comment="x"))
    assert (order.data["storage"], order.data["comment"], order.data["open_price"]) == ("-0.4", "x", "1.1")
    (order, position) = decoded(new_adapter(), trade_frame(code=0, commission="-1.2"))
    assert order.data["commission"] == position.data["commission"] == "-1.2"


def test_the_profile_s_personal_members_are_nobody_s_business():
    profile = {
        "email": "user@example.com",
        "phone": "+1",
        "balance": 1,
        "equity": 1,
        "margin": 1,
        "margin_free": 1,
        "leverage": 100,
    }
    (account,) = new_adapter().fetched("account", Answer(status=200, text=dumps(profile)))
    assert account.data == {"leverage": 100}


def test_another_login_is_named():
    adapter = new_adapter()
    (position,) = decoded(adapter, trade_frame(login=5))
    account, *_ = decoded(adapter, '["b",5,1,2,3,4,5,0,0,6,1]')
    assert (position.account, account.account, account.currency) == ("5", "5", None)


def test_a_comment_is_a_client_order_id_only_if_it_was_ours():
    adapter = new_adapter()
    adapter.placed["mine"] = None
    mine, theirs = decoded(
        adapter, trade_frame(state=1, code=0, comment="mine"), trade_frame(order=8, state=1, code=0, comment="other")
    )[:2]
    assert (mine.client_order_id, theirs.client_order_id) == ("mine", None)


def test_the_numbers_of_the_pages_have_their_names():
    assert [STATES[number] for number in (1, 3, 7, 9, 14, 16, 19)] == [
        "OPEN_REQUEST", "CLOSED_NORMAL", "CLOSE_REQUEST", "CANCEL_REQUEST", "OPEN_UPDATE_REQUEST", "PENDING_UPDATE_REQUEST",
        "PARTIAL_CLOSE_REQUEST",
    ]  # fmt: skip
    assert (CMDS[0], CMDS[5], CMDS[11]) == ("BUY", "SELL_STOP", "SELL_STOP_LIMIT")


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_are_written_as_on_the_pages():
    adapter = new_adapter()
    assert written(adapter, place("c", stop_loss="1.0850", take_profit="1.1000", client_order_id="Scalping order")) == (
        "POST", "/trade/open",
        {"login": LOGIN, "cmd": 0, "volume": 100, "symbol": "EURUSD", "sl": "1.0850", "tp": "1.1000", "comment": "Scalping order"},
    )  # fmt: skip
    limit = place(
        "c", order_type="LIMIT", side="SELL", limit_price="1.2", good_till="2026-06-02T00:00:00Z", time_in_force="GTD"
    )
    assert written(adapter, limit) == (
        "POST", "/trade/open/pending",
        {"login": LOGIN, "cmd": 3, "volume": 100, "symbol": "EURUSD", "sl": 0, "tp": 0, "open_price": "1.2", "expiration": 1780358400},
    )  # fmt: skip
    assert written(adapter, CancelOrder(id="c", order_id="12")) == ("DELETE", "/trade/cancel", {"order": 12})
    assert written(adapter, ClosePosition(id="c", position_id="12", quantity="40")) == (
        "DELETE", "/trade/close", {"order": 12, "volume": 40},
    )  # fmt: skip
    assert written(adapter, AmendPosition(id="c", position_id="12", stop_loss="1.10")) == (
        "PUT",
        "/trade/modify",
        {"order": 12, "sl": "1.10"},
    )
    amended = AmendOrder(id="c", order_id="12", stop_price="1.3", time_in_force="GTC")
    assert written(adapter, amended) == (
        "PUT",
        "/trade/modify/pending",
        {"order": 12, "open_price": "1.3", "expiration": 0},
    )
    assert written(adapter, Call(id="c", function="get market", arguments={"login": LOGIN})) == (
        "GET",
        "/market",
        {"login": LOGIN},
    )
    (fetch,) = adapter.encode(CancelOrder(id="c", order_id="12"))
    fetch = authenticated(fetch, ScaleTrade.session, adapter.context)
    assert (fetch.headers, fetch.of) == ({"Authorization": "a.b.c"}, "call")
    assert "a.b.c" not in repr(fetch)


def test_older_servers_take_pending_orders_with_the_others():
    adapter = new_adapter(pending_path="/trade/open")
    assert written(adapter, place("c", order_type="STOP", stop_price="1.2"))[:2] == ("POST", "/trade/open")


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (place("c", order_type="STOP_LIMIT", stop_price="1", limit_price="2"), "order_type"),
        (place("c", time_in_force="IOC"), "time_in_force"),
        (AmendOrder(id="c", order_id="1", time_in_force="GTC", good_till="2026-06-02T00:00:00Z"), "good_till"),
        (AmendOrder(id="c", order_id="1", time_in_force="FOK"), "time_in_force"),
        (place("c", reduce_only=True), "reduce_only"),
        (AmendOrder(id="c", order_id="1", quantity="5"), "quantity"),
        (AmendOrder(id="c", order_id="1", limit_price="5", stop_price="6"), "stop_price"),
        (AmendOrder(id="c", order_id="1"), "nothing"),
        (AmendPosition(id="c", position_id="1"), "nothing"),
        (CancelOrder(id="c", order_id="ord_1"), "order_id"),
        (ClosePosition(id="c", position_id="\u0661"), "position_id"),
        (PositionHistory(id="c", since="2026-06-01T00:00:00Z"), "until"),
        (Call(id="c", function="GET https://elsewhere.example/"), "function"),
        (Call(id="c", function="GET //elsewhere.example/"), "function"),
        (OrderHistory(id="c"), "order_history"),
    ],
)  # fmt: skip
def test_what_scaletrade_has_no_member_for_is_refused_by_name(command, field):
    if (refusal := ScaleTrade.orders.refusal(command)) is not None:
        assert field in refusal
        return
    with pytest.raises(ValueError, match=field):
        list(new_adapter().encode(command))


#: A command of each form of answer.
ASKED = {
    "trade": place("c1"),
    "table": PositionHistory(id="c1"),
    "account": ListAccounts(id="c1"),
    "call": Call(id="c1", function="GET /market"),
}
SIGNED_IN, INVALID, OPENED, CLOSED = (text for *_, text in REST_PAGE)


@pytest.mark.parametrize(
    ("kind", "status", "body", "result", "error"),
    [
        ("trade", 200, OPENED, {"order_id": "1001234", **loads(OPENED)}, None),
        ("trade", 200, CLOSED, {"order_id": "123456", **loads(CLOSED)}, None),
        ("trade", 200, '{"data":"OK"}', {"data": "OK"}, None),
        ("trade", 200, '{"accepted":true,"state":9}', {"accepted": True, "state": 9}, None),
        ("trade", 200, '{"accepted":false,"order":1}', None, {"code": "not_accepted", "accepted": False, "order": 1}),
        ("table", 200, '{"structure":["id","symbol","price"],"rows":[[101,"EURUSD",1.1]]}',
         {"rows": [{"id": 101, "symbol": "EURUSD", "price": "1.1"}]}, None),
        ("call", 200, '{"symbols":["EURUSD"]}', {"symbols": ["EURUSD"]}, None),
        ("call", 200, "[1]", [1], None),
        ("trade", 400, INVALID, None,
         {"code": "INVALID_DATA", "status": 400, "message": "Validation failed", "error": "INVALID_DATA"}),
        ("trade", 409, '{"error":"RET_TRADE_INCORRECT_CMD"}', None,
         {"code": "RET_TRADE_INCORRECT_CMD", "status": 409, "message": "RET_TRADE_INCORRECT_CMD",
          "error": "RET_TRADE_INCORRECT_CMD"}),
        ("table", 200, '{"error":"RET_ERROR"}', None,
         {"code": "RET_ERROR", "status": 200, "message": "RET_ERROR", "error": "RET_ERROR"}),
        ("call", 403, "<html>", None, {"code": "http_403", "message": "<html>", "status": 403}),
    ],
)  # fmt: skip
def test_replies_of_both_versions(kind, status, body, result, error):
    (reply,) = new_adapter().fetched(ASKED[kind], Answer(status=status, text=body))
    assert (reply.id, reply.result, reply.error) == ("c1", result, error)


@pytest.mark.parametrize("kind", ["trade", "table", "account", "call"])
@pytest.mark.parametrize(
    "body", ["<html>", "{}", "null", "[]", '{"accepted":null,"order":5}', '{"accepted":"false"}', '"OK"', "true"]
)
def test_an_answer_that_says_nothing_is_no_reply(kind, body):
    with pytest.raises(ValueError, match=r"JSON|does not say"):
        list(new_adapter().fetched(ASKED[kind], Answer(status=200, text=body)))


def test_a_list_of_several_pages_is_answered_whole():
    adapter = new_adapter()
    (asked,) = adapter.encode(ListOrders(id="c"))
    offsets, pages = [], ()
    for number in range(3):
        frame = trade_frame(order=number, cmd=2, state=0, close_time=0)
        row = dict(zip(TRADE, loads(frame)[1:], strict=False))
        page = {"structure": list(row), "rows": [list(row.values())], "count": 3}
        offsets.append(asked.json["offset"])
        answer = Answer(status=200, text=dumps(page), before=pages)
        pages, asked = answer.pages, asked.next_page(answer) or asked
    (reply,) = adapter.fetched(asked.tag, answer)
    assert offsets == [0, 1, 2]
    assert ([row["order"] for row in reply.result["rows"]], reply.result["count"]) == ([0, 1, 2], 3)
    assert [order.id for order in reply.events] == ["0", "1", "2"]
    error = Answer(status=200, text='{"error":"RET_ERROR"}', before=pages[:2])
    assert asked.next_page(error) is None
    failed = list(adapter.fetched(asked.tag, error))
    assert [reply.error["code"] for reply in failed] == ["RET_ERROR"], "a page that is missing is no list"


@pytest.mark.parametrize(
    "body", ['{"data":"QUEUED"}', '[{"data":"OK"}]', '{"structure":["a"],"rows":[]}', '{"status":"x"}']
)
def test_a_trading_request_is_taken_only_as_the_pages_say(body):
    adapter = new_adapter()
    for command in (
        CancelOrder(id="c", order_id="1"),
        Call(id="c", function="Delete /Trade/close", arguments={"order": 1}),
    ):
        (asked,) = adapter.encode(command)
        with pytest.raises(ValueError, match="does not say"):
            list(adapter.fetched(asked.tag, Answer(status=200, text=body)))


def test_the_sign_in_page_s_answer_is_read():
    adapter = ScaleTrade(new_context())
    assert list(adapter.fetched("login", Answer(status=200, text=SIGNED_IN))) == [Learned({"token": "<JWT>"}, None)]
    assert (adapter.login, adapter.currency) == (100001, "USD")


def test_replies_have_no_more_of_a_person_than_events():
    adapter = new_adapter()
    profile = {**loads(SIGNED_IN), "server": "s1", "balance": "1.5"}
    shown = {"id": 100001, "login": 100001, "leverage": 100, "group": "standard", "currency": "USD", "balance": "1.5"}
    for command, body, result in (
        (ListAccounts(id="c"), profile, shown),
        (Call(id="c", function="GET /account/me"), profile, shown),
        (Call(id="c", function="GET /market"), {"accounts": [profile], "name": "x", "state": 1, "__t": 1, "Password": 2},
         {"accounts": [shown], "name": "x", "state": 1}),
        (Call(id="c", function="GET /x"), {"structure": ["login", "email"], "rows": [[1, "a"]]}, {"rows": [{"login": 1}]}),
    ):  # fmt: skip
        (asked,) = adapter.encode(command)
        (reply,) = adapter.fetched(asked.tag, Answer(status=200, text=dumps(body)))
        assert (reply.id, reply.result) == ("c", result)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("POST /trade/open", {"login": 999}), ("POST /trade/open", {"login": "999"}), ("GET /trades", {"Active_Login": None}),
        ("GET /trades", {"login": True}), ("GET /trades", {"logins": [LOGIN, 999]}), ("GET /trades", {"data": [{"login": 999}]}),
        ("GET /trades", {"whereBetween": [["login", [1, 999]]]}), ("GET /trades", {"accountId": {"is": LOGIN}}),
        ("POST /sign/in", {}), ("sign/up", {}), ("POST /customer/AUTH", {}), ("POST /x/../sign/in", {}), ("POST /./trade/open", {}),
        ("login", {}), ("GET /sign/in", {}), ("GET /auth/token", {}),
    ],
)  # fmt: skip
def test_a_call_stays_on_the_session_s_own_account(function, arguments):
    with pytest.raises(ValueError, match=r"arguments|function"):
        list(new_adapter().encode(Call(id="c", function=function, arguments=arguments)))


def test_a_call_may_name_the_session_s_own_account():
    arguments = {"login": str(LOGIN), "logins": [LOGIN], "whereBetween": [["close_time", [1, 2]]]}
    assert written(new_adapter(), Call(id="c", function="GET /trades", arguments=arguments))[2] == arguments
    assert written(new_adapter(), Call(id="c", function="GET /trades/history/login"))[1] == "/trades/history/login"


def test_no_member_of_an_order_s_own_names_another_account():
    with pytest.raises(ValueError, match="active_login"):
        list(new_adapter().encode(place("c", extra={"active_login": 999})))


def test_older_servers_are_told_both_levels_where_the_other_one_is_known():
    adapter = new_adapter()
    protect = AmendPosition(id="c", position_id="7", stop_loss="1.10")
    assert written(adapter, protect)[2] == {"order": 7, "sl": "1.10"}
    decoded(adapter, trade_frame(tp="1.3"))
    assert written(adapter, protect)[2] == {"order": 7, "sl": "1.10", "tp": "1.3"}
    assert written(adapter, protect)[2] == {"order": 7, "sl": "1.10"}  # what the first one makes of it is not told yet
    decoded(adapter, trade_frame(tp="0.0", sl="1.10"))
    assert written(adapter, attrs.evolve(protect, stop_loss="1.2"))[2] == {"order": 7, "sl": "1.2", "tp": 0}
    decoded(adapter, trade_frame(tp="1.3"), '{"event":"authorization","success":true}')
    assert written(adapter, protect)[2] == {"order": 7, "sl": "1.10"}
    decoded(adapter, trade_frame(order=9, cmd=2, tp="1.3"))
    adapter.is_newer = False
    assert written(adapter, attrs.evolve(protect, position_id="9"))[2] == {"order": 9, "sl": "1.10"}


def test_what_subscribers_name_is_forgotten_with_them():
    adapter = new_adapter({"XAUUSD": "XAU/USD"})
    for n in range(3000):
        topics = (Topic(kind="quote", symbol=f"s{n}"),)
        list(adapter.encode(Subscribe(topics)))
        list(adapter.encode(Unsubscribe(topics)))
    assert (adapter.channels.subscribed, adapter.channels.held) == ({}, {})
    topics = (Topic(kind="quote", symbol="eurusd"), Topic(kind="quote", symbol="gbpusd"))
    list(adapter.encode(Subscribe(topics)))
    decoded(adapter, trade_frame())
    list(adapter.encode(Unsubscribe(topics)))
    names = [decoded(adapter, f'["t","{name}",1,2,1775481000]')[0].symbol for name in ("EURUSD", "GBPUSD", "xauusd")]
    assert names == ["eurusd", "GBPUSD", "XAU/USD"]  # what the account has a position of keeps its name


async def test_every_command_of_a_day_is_accepted_and_has_its_consequences():
    session = await Session().open()
    replies, events = [], []
    for command in whole_day():
        replies += of(await session.say(command), CommandReply)
        events += session.tick()
    assert [(reply.id, reply.error) for reply in replies] == [(f"c{n}", None) for n in range(1, 14)]
    assert (replies[0].result["order"], replies[0].result["state"]) == (1001234, 1)
    assert [row["order"] for row in replies[5].result["rows"]] == [1001234]
    assert sorted(row["order"] for row in replies[6].result["rows"]) == [1001235, 1001236]
    assert sorted(row["order"] for row in replies[10].result["rows"]) == [1001234, 1001235, 1001237]
    assert [event.client_order_id for event in of(events, Order) if event.id == "1001234"] == ["mine-1"]
    assert [(event.id, event.event.value) for event in of(events, Position) if event.event != "POSITION_MODIFIED"] == [
        ("1001234", "POSITION_OPENED"), ("1001237", "POSITION_CLOSED"), ("1001234", "POSITION_CLOSED"), ("1001238", "POSITION_OPENED"),
    ]  # fmt: skip


# --- after an absence ------------------------------------------------------------------------------------------------


async def test_reconciling_reads_the_account_and_its_trades():
    session = await Session().open()
    for command in (place("c1"), place("c2"), place("c3", order_type="LIMIT", limit_price="1.05", stop_loss="1.01000")):
        await session.say(command)
    session.tick()
    session.send("away")
    await session.say(ClosePosition(id="c4", position_id="1001235"))
    session.tick()
    session.adapter, session.states = ScaleTrade(session.context), States()
    (login,) = session.adapter.prepare()
    await session.fetch(login)
    events = await session.say(Reconcile("2026-06-01T12:00:01.500000Z"))
    account, opened, positions, pending, orders, closed = [event for event in events if not isinstance(event, Learned)]
    assert (positions, orders) == (Complete("position"), Complete("order"))
    assert (account.kind, account.currency, account.unrealized_pnl) == ("account", "USD", None)
    assert (opened.id, opened.event) == ("1001234", PositionEvent.POSITION_MODIFIED)
    assert (pending.id, pending.status, pending.limit_price, pending.stop_loss) == (
        "1001236",
        OrderStatus.OPEN,
        "1.05000",
        "1.01000",
    )
    assert (closed.id, closed.event) == ("1001235", PositionEvent.POSITION_CLOSED)


def answered(adapter, fetch, rows, before=(), **more):
    """Return what comes of the answer to a request for a list: the next page's request and the pages so far, or the events."""
    columns = ("order", "login", "symbol", "cmd", "volume", "open_price", "close_price", "open_time", "close_time", "tp", "sl",
               "state", "storage", "commission", "profit", "comment")  # fmt: skip
    body = {"structure": columns, "rows": [loads(row)[1:-1] for row in rows], **more}
    answer = Answer(status=200, text=dumps(body), before=before)
    if (behind := fetch.next_page(answer)) is not None:
        return [behind, answer.pages]
    return list(derived(adapter.fetched(fetch.tag, answer), adapter.states, compared=True))


def lists(adapter, since=None):
    """Return the requests for lists by the kind of trades."""
    _, *fetches = adapter.encode(Reconcile(since))
    return {fetch.json["tradeType"]: fetch for fetch in fetches}


def test_lists_are_read_to_their_end_and_are_complete_then():
    adapter = new_adapter()
    asked = lists(adapter)
    assert [*asked] == [1, 3]
    behind, pages = answered(adapter, asked[1], [trade_frame(order=1), trade_frame(order=2)], count=3)
    assert (behind.json["tradeType"], behind.json["offset"]) == (1, 2)
    *items, complete = answered(adapter, behind, [trade_frame(order=3)], pages, count=3)
    assert [item.id for item in items] == ["1", "2", "3"]
    assert complete == Complete("position")
    order, complete = answered(adapter, asked[3], [trade_frame(order=4, cmd=2)])
    assert (order.id, complete) == ("4", Complete("order"))
    assert [*lists(adapter, "2026-06-01T00:00:00Z")] == [1, 3, 2]


def test_a_list_that_claims_more_than_it_gives_is_not_asked_for_without_end():
    adapter = new_adapter()
    behind, pages = answered(adapter, lists(adapter)[1], [trade_frame()], count=9)
    assert answered(adapter, behind, [], pages, count=9)[-1] == Complete("position")


def test_a_row_that_cannot_be_read_costs_the_others_nothing():
    adapter = new_adapter()
    unknown, position, _ = answered(adapter, lists(adapter)[1], [trade_frame(cmd="BUY"), trade_frame(order=8)])
    assert (type(unknown), position.id) == (Unknown, "8")


def test_an_order_of_anybody_s_that_was_filled_in_an_absence_is_filled():
    before = new_adapter()
    decoded(before, trade_frame(cmd=2))
    adapter = ScaleTrade(before.context)
    adapter.states, adapter.login = before.states, before.login
    filled, opened, _ = answered(adapter, lists(adapter)[1], [trade_frame()])
    assert (filled.event, filled.order_type, filled.limit_price) == (OrderEvent.ORDER_FILLED, OrderType.LIMIT, "1.1")
    assert opened.event is PositionEvent.POSITION_MODIFIED


@pytest.mark.parametrize(
    ("members", "events"),
    [
        ({}, [("ORDER_FILLED", "FILLED"), ("POSITION_MODIFIED", None)]),
        ({"state": 3, "close_time": 1775481600}, [("ORDER_FILLED", "FILLED"), ("POSITION_CLOSED", None)]),
        ({"state": 4, "close_time": 1775481600}, [("POSITION_CLOSED", None)]),
        ({"cmd": 2}, [("ORDER_CREATED", "OPEN")]),
        ({"cmd": 2, "state": 6}, [("ORDER_CANCELLED", "CANCELLED")]),
    ],
)
def test_what_became_of_an_order_of_ours_is_told_after_an_absence(members, events):
    for comment in ("mine", "somebody's"):
        adapter = new_adapter()
        adapter.placed["mine"] = None
        *items, _ = answered(adapter, lists(adapter)[1], [trade_frame(comment=comment, **members)])
        ours = comment == "mine"
        assert said(items) == (events if ours else [each for each in events if each[0] != "ORDER_FILLED"])
        assert [order.client_order_id for order in of(items, Order)][:1] in ([comment if ours else None], [])


# --- the fixture -----------------------------------------------------------------------------------------------------


async def test_the_fixture_is_what_the_simulator_says():
    assert tuple(await record()) == read_recording(FIXTURE).records


def test_nothing_of_the_pages_frames_is_lost():
    """But the names of messages of the session, and the session's own login."""
    places = set(lost(conformance.subject(ScaleTrade, FIXTURE, commands=())))
    assert places == {"account.switch.active_login", "account.switch.event", "authorization.event", "authorization.protocol",
                      "b[1]", "o[2]"}  # fmt: skip


# --- the simulator over real sockets ---------------------------------------------------------------------------------


async def sign_in(http, at, **members):
    return await http.post(f"{at.http}/sign/in", json={"login": LOGIN, "password": PASSWORD, **members})


async def heard(socket, marker):
    """The next array with this marker."""
    with trio.fail_after(WITHIN):
        while True:
            message = await socket.get_message()
            if message.startswith(f'["{marker}"'):
                return loads(message)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_client_that_does_what_the_pages_say(version):
    simulator = ScaleTradeSimulator(version=version, interval=0.01)
    async with simulator.serve() as at, httpx.AsyncClient() as http:
        token = (await sign_in(http, at)).json()["__token"]
        async with dialled(at.ws) as socket:
            await socket.send_message('{"event":"subscribe","data":["eurusd"]}')
            await socket.send_message(f'{{"authorization":"{token}"}}')
            if version == 2:
                answer = loads(await socket.get_message())
                assert (answer["event"], answer["success"]) == ("authorization", True)
                await socket.send_message('{"event":"account.switch"}')
                assert loads(await socket.get_message())["active_login"] == LOGIN
            await socket.send_message("ping")
            assert await socket.get_message() == "pong"
            assert list(simulator.ignored) == ['{"event":"subscribe","data":["eurusd"]}']
            await socket.send_message('{"event":"subscribe","data":["eurusd","btcusd"]}')
            assert len(await heard(socket, "t")) == 5
            order = {"login": LOGIN, "cmd": 0, "volume": 100, "symbol": "EURUSD", "sl": 0, "tp": 0}
            opened = await http.post(f"{at.http}/trade/open", json=order, headers={"Authorization": token})
            assert opened.status_code == 200
            assert opened.json() == {"data": "OK"} if version == 1 else opened.json()["accepted"]
            trade = await heard(socket, "o")
            assert (len(trade), trade[12]) == (18, 1)
            assert (await heard(socket, "o"))[12] == 0
            assert (await heard(socket, "n"))[3] == "OPEN_ORDER"
            assert len(await heard(socket, "b")) >= 11
            me = await http.request("GET", f"{at.http}/account/me", headers={"Authorization": token})
            assert me.json()["margin"] > 0


@pytest.mark.parametrize(
    ("members", "status", "error"),
    [({"password": "short"}, 400, "INVALID_DATA"), ({"login": "100020"}, 400, "INVALID_DATA"), ({"login": -1}, 400, "INVALID_DATA"),
     ({"password": "wrong-password"}, 403, "USER_NOT_FOUND_OR_INCORRECT"), ({}, 402, "USER_DISABLED")],
)  # fmt: skip
async def test_who_may_not_sign_in(members, status, error):
    async with ScaleTradeSimulator(interval=0, enabled=False).serve() as at, httpx.AsyncClient() as http:
        refused = await sign_in(http, at, **members)
        assert (refused.status_code, refused.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    ("version", "method", "path", "body", "status", "error"),
    [
        (2, "POST", "/trade/open", {"cmd": 2, "open_price": 1.0}, 409, "RET_TRADE_INCORRECT_CMD"),
        (2, "POST", "/trade/open", {"cmd": 0, "volume": 1.5}, 400, "INVALID_DATA"),
        (2, "POST", "/trade/open", {"cmd": 0, "volume": 10**7}, 400, "RET_ERROR"),
        (1, "POST", "/trade/open", {"cmd": 0, "volume": 10**7}, 500, "OPEN_ORDER_ERROR"),
        (2, "POST", "/trade/open", {"cmd": 0, "login": 5}, 401, "PERMISSION_DENIED"),
        (2, "POST", "/trade/open", {"cmd": 0, "symbol": "NONE"}, 400, "RET_SYMBOL_NOT_FOUND"),
        (2, "POST", "/trade/open", {"cmd": 0, "sl": 9.0}, 400, "INCORRECT_SL_TP"),
        (1, "POST", "/trade/open/pending", {"cmd": 2}, 404, "NOT_FOUND"),
        (2, "DELETE", "/trade/close", {"order": 5}, 404, "RET_ERR_NOTFOUND"),
        (1, "DELETE", "/trade/close", {"order": 5}, 404, "TRADE_ERROR"),
        (1, "PUT", "/trade/modify", {"order": 5}, 404, "MODIFY_TRADE_ERROR"),
        (2, "DELETE", "/trade/cancel", {}, 400, "INVALID_DATA"),
    ],
)  # fmt: skip
async def test_what_the_simulator_refuses(version, method, path, body, status, error):
    async with ScaleTradeSimulator(version=version, interval=0).serve() as at, httpx.AsyncClient() as http:
        token = (await sign_in(http, at)).json()["__token"]
        order = (
            {"login": LOGIN, "volume": 100, "symbol": "EURUSD", "sl": 0, "tp": 0}
            if path.startswith("/trade/open")
            else {}
        )
        full = {**order, **body} if method == "POST" else {"sl": 0, "tp": 0, **body}
        answer = await http.request(method, at.http + path, json=full, headers={"Authorization": token})
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        denied = await http.request(method, at.http + path, json=full)
        assert denied.status_code == (404 if error == "NOT_FOUND" else 401)


async def test_a_bad_token_in_both_versions():
    async with ScaleTradeSimulator(interval=0).serve() as at, dialled(at.ws) as socket:
        await socket.send_message('{"authorization":"forged"}')
        answer = loads(await socket.get_message())
        assert (answer["success"], answer["error"]) == (False, "INVALID_TOKEN")
    async with ScaleTradeSimulator(version=1, interval=0).serve() as at, dialled(at.ws) as socket:
        await socket.send_message('{"authorization":"forged"}')
        assert await close_code(socket) == 1008


async def test_what_closes_or_activates_a_ticket_by_itself():
    session = await Session().open()
    await session.say(
        place("c1", order_type="LIMIT", limit_price="1.2")
    )  # marketable: activated at the next tick but one
    await session.say(place("c2", order_type="STOP", stop_price="1.9", good_till="2026-06-01T12:00:02Z"))
    await session.say(place("c3", take_profit="1.10030"))
    events = of(session.tick(40), Order | Position)
    assert [said([event])[0][0] for event in events if event.id == "1001234"][:3] == [
        "ORDER_MODIFIED",
        "ORDER_FILLED",
        "POSITION_OPENED",
    ]
    assert said([event for event in events if event.id == "1001235"])[-1] == ("ORDER_CANCELLED", OrderStatus.CANCELLED)
    session.simulator.account.tickets[1001236].tp = session.simulator.market.quote("EURUSD").bid - 50
    assert ("POSITION_CLOSED", None) in said([event for event in of(session.tick(), Position) if event.id == "1001236"])


# --- the relay's own session with the simulator ----------------------------------------------------------------------


class Relayed(support_relayed.Relayed):
    """The session with ScaleTrade's simulator."""

    def __init__(self, at, http, password=PASSWORD, **session):
        context = new_context()
        context = attrs.evolve(context, credentials={**context.credentials, "password": password})
        super().__init__(ScaleTrade, context, http, url=at.ws, http=at.http, backoff=Backoff(first=0.01), **session)


@pytest.fixture(params=[1, 2])
async def relayed(request):
    simulator = ScaleTradeSimulator(version=request.param, interval=0.02)
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        running = Relayed(at, http)
        await nursery.start(running.session.run)
        running.session.want(QUOTES)
        running.session.want(ACCOUNT)
        yield simulator, running
        running.session.shutdown()
        nursery.cancel_scope.cancel()


async def test_buy_fill_amend_close_and_lose_the_connection(relayed):
    simulator, relay = relayed
    quote = await relay.until(Quote)
    assert len(quote.bid.partition(".")[2]) == 5
    relay.session.send(place("buy", client_order_id="mine"))
    requested = await relay.until(Order, event=OrderEvent.ORDER_CREATED, status=OrderStatus.PENDING)
    assert requested.client_order_id == "mine"
    filled = await relay.until(Order, id=requested.id, event=OrderEvent.ORDER_FILLED)
    position = await relay.until(Position, id=filled.position_id, event=PositionEvent.POSITION_OPENED)
    assert (await relay.until(Account)).margin_used != "0.00"
    relay.session.send(AmendPosition(id="amend", position_id=position.id, stop_loss="1.00000", take_profit="1.50000"))
    assert (await relay.until(Position, id=position.id, stop_loss="1.00000")).take_profit == "1.50000"
    relay.session.send(ClosePosition(id="close", position_id=position.id))
    closed = await relay.until(Position, id=position.id, event=PositionEvent.POSITION_CLOSED)
    assert closed.realized_pnl is not None
    relay.session.send(place("stays"))
    stays = await relay.until(Position, event=PositionEvent.POSITION_OPENED)
    simulator.inject(Drop())
    await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
    await relay.until(Connection, event=ConnectionEvent.CONNECTED)
    await relay.until(Position, id=stays.id, event=PositionEvent.POSITION_MODIFIED)
    await relay.until(Quote)
    assert len(simulator.tokens) == 2


async def test_replies_and_refusals(relayed):
    simulator, relay = relayed
    await relay.until(Quote)
    relay.session.send(place("buy"))
    reply = await relay.until(Reply, id="buy")
    assert (reply.outcome, reply.result) == (
        Outcome.ACCEPTED,
        {"data": "OK"} if simulator.version == 1 else reply.result,
    )
    relay.session.send(CancelOrder(id="gone", order_id="5"))
    assert (await relay.until(Reply, id="gone")).outcome is Outcome.REJECTED
    relay.session.send(place("huge", quantity="10000000"))
    reply = await relay.until(Reply, id="huge")  # the older version answers 500, which says nothing of the order's fate
    assert reply.outcome is (Outcome.UNKNOWN if simulator.version == 1 else Outcome.REJECTED)
    relay.session.send(place("odd", order_type="STOP_LIMIT", stop_price="1", limit_price="1"))
    reply = await relay.until(Reply, id="odd")
    assert (reply.outcome, reply.error["code"]) == (Outcome.REJECTED, "invalid_command")
    relay.session.send(OrderHistory(id="history"))
    assert (await relay.until(Reply, id="history")).outcome is Outcome.REJECTED
    simulator.next_request(Refuse(503, "busy"))
    relay.session.send(ListPositions(id="busy"))
    assert (await relay.until(Reply, id="busy")).outcome is Outcome.UNKNOWN


async def test_an_account_that_is_disabled_stops_the_session():
    async with (
        ScaleTradeSimulator(interval=0, enabled=False).serve() as at,
        HttpClient() as http,
        trio.open_nursery() as nursery,
    ):
        relay = Relayed(at, http)
        nursery.start_soon(relay.session.run)
        failed = await relay.until(Connection, event=ConnectionEvent.FAILED)
        assert "402" in failed.reason
        nursery.cancel_scope.cancel()


async def test_a_token_that_is_no_good_is_replaced():
    simulator = ScaleTradeSimulator(interval=0.02, token_lifetime=0)
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relayed(at, http)
        relay.session.want(QUOTES)
        nursery.start_soon(relay.session.run)
        lost = await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
        assert lost.reason == "authorization refused: INVALID_TOKEN"
        simulator._token_lifetime = 60
        await relay.until(Quote)
        nursery.cancel_scope.cancel()
