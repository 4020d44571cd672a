"""Tektii: the page's frames and those beside it, acknowledgements, REST commands, the simulator, and its own SDK on it."""

import importlib.util
import sys
from pathlib import Path

import attrs
import httpx
import msgspec
import pytest
import trio

from relay.adapter import (
    Ack,
    Answer,
    CloseMeaning,
    CommandReply,
    Complete,
    EventAck,
    Limited,
    Nack,
    Processed,
    Reconcile,
    Redial,
    Send,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    GetQuote,
    ListAccounts,
    ListOrders,
)
from relay.model.enums import ConnectionEvent, OrderEvent, Outcome
from relay.model.events import (
    Account,
    Candle,
    Connection,
    Error,
    Gap,
    Notification,
    Order,
    Position,
    Quote,
    RateLimit,
    Reply,
    Staleness,
    Trade,
)
from relay.provider.http import HttpClient
from relay.provider.templates import authenticated
from relay.testing import conformance
from relay.testing.evidence import lost
from relay.testing.recording import read_recording
from relay.testing.simulator import Drop, Garbage, Refuse
from relay.testing.subject import sample
from relay_tektii import relay_simulators
from relay_tektii.adapter import Tektii
from relay_tektii.reading import TIMEFRAMES
from relay_tektii.rest import FUNCTIONS
from relay_tektii.simulator import KEY, Subscription, TektiiSimulator
from support.client import Client
from support.deadlines import WITHIN
from support.dialling import UPGRADE, close_code, dialled
from support.lone_session import lone_session
from support.pusherjs import driven
from support.tektii_page import BESIDE, PAGE
from support.tektii_session import TOPICS, Session, new_adapter, place, record, whole_day
from support.tools import missing

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tektii.jsonl"
DRIVER = Path(__file__).parents[1] / "support" / "drivers" / "tektii_sdk.py"
QUOTES, NOTHING, CANDLES, ACCOUNT = TOPICS
COMMANDS = [sample(command, "AAPL", "paper") for command in Tektii.commands if command is not Call]
INCOMING = [text for direction, text in PAGE if direction == "in"]

test_tektii = conformance.tests(Tektii, FIXTURE, commands=[*COMMANDS, Call(id="c", function="get_capabilities")])


def decode(text, **options):
    return list(new_adapter(**options).decode(text))


def of(items, kind):
    return [item for item in items if isinstance(item, kind)]


# --- the page --------------------------------------------------------------------------------------------------------


def test_every_frame_of_the_page_is_the_event_it_says():
    decoded = [decode(text) for text in INCOMING]
    assert [[type(item) for item in items] for items in decoded] == [
        [kind] for kind in (Candle, Quote, Order, Position, Account, Trade, Connection, RateLimit, Error, Send)
    ]
    (candle,), (quote,), (order,), *_ = decoded
    assert (candle.start, candle.timestamp, candle.closed) == ("2025-01-15T10:00:00Z", "2025-01-15T11:00:00Z", None)
    assert (quote.time, quote.timestamp, quote.volume) == ("2025-01-15T10:30:00.123Z", "2025-01-15T10:30:00.125Z", None)
    assert (order.event, order.status, order.average_fill_price) == ("ORDER_FILLED", "FILLED", "150.25")


def test_no_member_of_a_schema_is_lost():
    (order, _) = decode(next(text for text in BESIDE if "ord_9" in text))
    frame = loads(next(text for text in BESIDE if "ord_9" in text))
    said = frame["order"] | {"parent_order_id": frame["parent_order_id"], "native_symbol": "F:EURUSD"}
    told = attrs.asdict(order)
    assert {name: told[name] for name in said} == said
    unsaid = {name for name, value in told.items() if value is None}
    assert unsaid.isdisjoint(said)
    assert {"average_fill_price", "limit_price"} <= unsaid


def test_a_ping_is_answered_with_the_page_s_pong():
    (pong,) = decode('{"type":"ping","timestamp":"2025-01-15T10:30:00Z"}')
    assert loads(pong.text) == {"type": "pong"}


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_every_timeframe_of_the_page(timeframe):
    (candle,) = decode(INCOMING[0].replace('"1h"', f'"{timeframe}"'))
    assert candle.timeframe == timeframe


@pytest.mark.parametrize("event", list(OrderEvent))
def test_every_order_event_of_the_page(event):
    (order,) = decode(INCOMING[2].replace("ORDER_FILLED", event))
    assert order.event is event


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("CONNECTED", "CONNECTED"), ("DISCONNECTING", "DISCONNECTING"), ("RECONNECTING", "RECONNECTING"),
        ("BROKER_DISCONNECTED", "RECONNECTING"), ("BROKER_RECONNECTED", "CONNECTED"), ("BROKER_CONNECTION_FAILED", "FAILED"),
    ],
)  # fmt: skip
def test_the_gateway_s_own_connection_is_told_apart_from_ours(word, meaning):
    (connection,) = decode(dumps({"type": "connection", "event": word, "broker": "oanda-live", "gap_duration_ms": 7}))
    assert connection == Connection(
        event=meaning, reason=f"the gateway says {word} oanda-live", gap_ms=7, upstream=True
    )


@pytest.mark.parametrize("code", ["POSITION_UNPROTECTED", "LIQUIDATION", "OCO_DOUBLE_EXIT"])
def test_what_concerns_the_account_is_told_on_the_account_only(code):
    (notice,) = decode(dumps({"type": "error", "code": code, "message": "m", "details": {"position_id": "p"}}))
    assert notice == Notification(level="error", title=code, message="m", data={"position_id": "p"})


def test_staleness_financing_and_unknown_errors():
    stale, *_ = decode(BESIDE[0])
    assert stale == Staleness(event="STALE", symbols=("AAPL",), stale_since="2025-01-15T10:29:30Z",
                              reason="the gateway says STALE alpaca-paper", timestamp="2025-01-15T10:30:00Z")  # fmt: skip
    (financing,) = decode(BESIDE[2])
    assert (financing.message, financing.data["amount"]) == ("-1.23 on EUR_USD", "-1.23")
    assert decode('{"type":"error","code":"NEW_ONE","message":"m"}') == [Error(code="NEW_ONE", message="m")]


@pytest.mark.parametrize("member", ["status", "side", "event", "time_in_force", "order_type"])
def test_a_state_that_is_not_known_is_not_guessed(member):
    frame = loads(INCOMING[2])
    (frame if member == "event" else frame["order"])[member] = "SOMETHING_NEW"
    (unknown,) = decode(dumps(frame))
    assert isinstance(unknown, Unknown)
    assert "SOMETHING_NEW" in unknown.why


def test_a_symbol_goes_both_ways():
    adapter = new_adapter()
    adapter.symbols.add("F:EURUSD", "EUR/USD")
    (quote,) = adapter.decode(INCOMING[1].replace("EUR/USD", "F:EURUSD"))
    assert (quote.symbol, quote.native_symbol) == ("EUR/USD", "F:EURUSD")
    (asked,) = adapter.encode(Subscribe((Topic(kind="quote", symbol="EUR/USD"),)))
    assert asked.url == "/v1/quotes/F%3AEURUSD"


# --- acknowledgements ------------------------------------------------------------------------------------------------


def test_an_acknowledgement_is_written_as_on_the_page():
    (written,) = new_adapter().encode(
        EventAck(("evt_123", "evt_124"), 1_700_000_000_000, "550e8400-e29b-41d4-a716-446655440000")
    )
    assert loads(written) == loads(PAGE[-1][1])


@pytest.mark.parametrize("text", [*INCOMING, *BESIDE])
def test_every_frame_with_an_id_is_acknowledged_last_and_by_that_id(text):
    items = decode(dumps(loads(text) | {"event_id": "evt_7"}))
    assert of(items, Processed) == [Processed(("evt_7",))]
    ending = 2 if "backtest_complete" in text else 1
    assert isinstance(items[-ending], Processed)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"new","event_id":"evt_7"}',
        '{"type":"quote","quote":{},"event_id":"evt_7"}',
        '{"type":"quote","event_id": "evt_7","quote":{"symbol":"A","bid":NaN}}',
        '{"type":"quote","event_id":"evt_7","quote":',
    ],
)
def test_so_is_one_that_is_not_understood_or_a_backtest_would_wait_for_ever(text):
    unknown, processed = decode(text)
    assert isinstance(unknown, Unknown)
    assert processed == Processed(("evt_7",))


def test_only_the_frame_s_own_id_is_acknowledged():
    assert not of(decode('{"type":"quote","quote":{"symbol":"A","event_id":"evt_7"}}'), Processed)
    assert not of(decode('{"type":"quote","quote":{"symbol":"A"},"event_id":7}'), Processed)


def test_frames_without_an_id_are_acknowledged_where_that_is_wanted():
    assert not of(decode(INCOMING[1]), Processed)
    assert of(decode(INCOMING[1], acknowledge="all"), Processed) == [Processed()]
    assert not of(decode(INCOMING[-1], acknowledge="all"), Processed)
    with pytest.raises(ValueError, match="acknowledge: expected paced or all, got 'some'"):
        new_adapter(acknowledge="some")


def test_the_end_of_a_backtest_ends_the_session():
    notice, processed, ending = decode(BESIDE[-1])
    assert (notice.title, processed) == ("backtest_complete", Processed(("evt_10",)))
    assert ending == Redial("the backtest is complete", CloseMeaning.REFUSED)


# --- what is asked ---------------------------------------------------------------------------------------------------


def asked(outgoing, **options):
    return [
        (fetch.method, fetch.url, dict(fetch.query), fetch.json) for fetch in new_adapter(**options).encode(outgoing)
    ]


def test_topics_ask_for_what_stands_because_nothing_subscribes():
    assert asked(Subscribe(TOPICS)) == [
        ("GET", "/v1/quotes/AAPL", {}, None),
        ("GET", "/v1/quotes/NO%2FSUCH", {}, None),
        ("GET", "/v1/bars/EUR%2FUSD", {"timeframe": "1m", "limit": "1"}, None),
    ]
    assert asked(Unsubscribe(TOPICS)) == []


async def test_what_stands_is_told_and_what_is_not_there_is_refused():
    session = Session()
    session.tick(3)
    items = await session.say(Subscribe(TOPICS))
    assert [type(item) for item in items] == [Quote, Ack, Nack, Candle, Ack]
    assert items[2] == Nack((NOTHING,), "SYMBOL_NOT_FOUND: no such symbol: 'NO/SUCH'")
    assert (items[3].symbol, items[3].timeframe) == ("EUR/USD", "1m")


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Nack), (404, Nack), (501, Ack), (503, Error), (500, Error), (0, Error)]
)
def test_only_what_is_not_there_is_refused(status, kind):
    (item,) = new_adapter().fetched(("current", QUOTES), Answer(status=status, text="no"))
    assert isinstance(item, kind)


def test_the_newest_bar_stands_however_they_are_listed():
    bars = [loads(INCOMING[0])["bar"] | {"timestamp": f"2025-01-15T{hour}:00:00Z"} for hour in (9, 10, 8)]
    (bar, _) = new_adapter().fetched(
        ("current", CANDLES), Answer(status=200, text=dumps(bars).replace("T9", "T09").replace("T8", "T08"))
    )
    assert bar.start == "2025-01-15T10:00:00Z"
    assert list(new_adapter().fetched(("current", CANDLES), Answer(status=200, text="[]"))) == [Ack((CANDLES,))]


def test_what_a_command_is_on_the_wire():
    assert asked(place("c", order_type="LIMIT", limit_price="151.20", quantity="0.10", client_order_id="mine")) == [
        ("POST", "/v1/orders", {}, {"symbol": "AAPL", "side": "BUY", "order_type": "LIMIT", "quantity": "0.10",
                                    "limit_price": "151.20", "client_order_id": "mine"})
    ]  # fmt: skip
    assert asked(AmendOrder(id="c", order_id="o/1", quantity="7")) == [
        ("PATCH", "/v1/orders/o%2F1", {}, {"quantity": "7"})
    ]
    assert asked(ClosePosition(id="c", position_id="p")) == [("DELETE", "/v1/positions/p", {}, None)]
    assert asked(ClosePosition(id="c", position_id="p", quantity="1.0")) == [
        ("DELETE", "/v1/positions/p", {}, {"quantity": "1.0"})
    ]
    assert asked(Call(id="c", function="get_bars", arguments={"symbol": "A/B", "timeframe": "1h", "limit": 5})) == [
        ("GET", "/v1/bars/A%2FB", {"timeframe": "1h", "limit": "5"}, None)
    ]
    assert asked(place("c", extra={"oco_group_id": "pair", "position_id": "p"}))[0][3]["oco_group_id"] == "pair"


def test_the_key_is_in_the_header_and_in_no_repr():
    adapter = new_adapter()
    (fetch,) = adapter.encode(place("c"))
    fetch = authenticated(fetch, Tektii.session, adapter.context)
    assert fetch.headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in repr(fetch)


def test_numbers_of_the_sender_s_own_json_leave_as_text():
    raw = msgspec.json.decode('{"leverage":2.50,"display_quantity":100,"hidden":true}', type=dict[str, msgspec.Raw])
    extra = {**raw, "display_quantity": 100, "hidden": True}
    body = asked(place("c", extra=extra))[0][3]
    assert (body["leverage"], body["display_quantity"], body["hidden"]) == ("2.50", "100", True)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (CancelOrder(id="c", order_id=""), "not an id"),
        (CancelOrder(id="c", order_id="."), "not an id"),
        (ClosePosition(id="c", position_id=".."), "not an id"),
        (AmendOrder(id="c", order_id="o"), "changes nothing"),
        (AmendOrder(id="c", order_id="o", time_in_force="IOC"), "time_in_force"),
        (AmendPosition(id="c", position_id="p"), "stop_loss, take_profit"),
        (place("c", time_in_force="GTD"), "GTD"),
        (place("c", good_till="2030-01-01T00:00:00Z"), "good_till"),
        (place("c", extra={"side": "SELL"}), "extra.side: unknown member"),
        (Call(id="c", function="drop_tables"), "get_order, "),
        (Call(id="c", function="get_bars"), "get_bars needs symbol"),
        (Call(id="c", function="cancel_all_orders", arguments={"sym": "AAPL"}), "cancel_all_orders has no sym"),
        (Call(id="c", function="cancel_all_orders", arguments={"symbol": ""}), "arguments.symbol"),
        (Call(id="c", function="cancel_all_orders", arguments={"symbol": None}), "arguments.symbol"),
        (Call(id="c", function="close_all_positions", arguments={"symbol": ["AAPL"]}), "arguments.symbol"),
        (
            Call(id="c", function="close_position", arguments={"position_id": "p", "qty": 1}),
            "close_position has no qty",
        ),
        (Call(id="c", function="get_status", arguments={"symbol": "AAPL"}), "get_status has no symbol"),
    ],
)
def test_what_the_gateway_cannot_be_asked_is_refused_by_name(command, named):
    """The session refuses what the declaration says, the adapter the rest."""
    if (refused := Tektii.orders.refusal(command)) is not None:
        assert named in refused
        return
    with pytest.raises(ValueError, match=named):
        asked(command)


def reply(command, status, body, **headers):
    (fetch,) = new_adapter().encode(command)
    text = body if isinstance(body, str) else dumps(body)
    return list(new_adapter().fetched(fetch.tag, Answer(status=status, text=text, headers=headers)))


def test_answers_to_commands():
    handle = {"id": "ord_1", "status": "PENDING"}
    assert reply(place("c"), 201, handle) == [CommandReply("c", {"order_id": "ord_1", **handle})]
    refusal = {"code": "ORDER_REJECTED", "message": "m", "details": {"reject_code": "MARKET_CLOSED"}}
    assert reply(place("c"), 422, refusal) == [CommandReply("c", error={**refusal, "status": 422})]
    assert reply(place("c"), 413, "<html>") == [
        CommandReply("c", error={"code": "http_413", "message": "<html>", "status": 413})
    ]
    (not_done,) = reply(CancelOrder(id="c", order_id="o"), 200, {"success": False, "order": {}})
    assert not_done.error["code"] == "NOT_CANCELLED"
    rejected = {"id": "ord_1", "status": "REJECTED", "reject_reason": "MARKET_CLOSED"}
    close = Call(id="c", function="close_position", arguments={"position_id": "p"})
    for command in (place("c"), ClosePosition(id="c", position_id="p"), close):
        (refused,) = reply(command, 201, rejected)
        assert (refused.error["code"], refused.error["message"]) == ("REJECTED", "MARKET_CLOSED")
    cancelled = {"cancelled_count": 1, "failed_count": 1, "failed_order_ids": ["o"]}
    assert reply(Call(id="c", function="cancel_all_orders"), 200, cancelled) == [CommandReply("c", cancelled)]


@pytest.mark.parametrize(
    "command",
    [place("c"), CancelOrder(id="c", order_id="o"), AmendOrder(id="c", order_id="o", quantity="1"), ListAccounts(id="c"),
     ClosePosition(id="c", position_id="p"), ListOrders(id="c"), GetQuote(id="c", symbol="AAPL"),
     Call(id="c", function="modify_order", arguments={"order_id": "o"}), Call(id="c", function="cancel_all_orders"),
     Call(id="c", function="close_all_positions")],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", ["null", "{}", '"OK"', '{"id":"o"}', '{"id":"o","status":"QUEUED"}', '{"success":null}', '{"success":"true"}',
             '{"order":null}', '{"order":{"id":"o","status":"REJECTED"}}', "true"]
)  # fmt: skip
def test_an_answer_that_does_not_say_success_is_no_reply(command, body):
    with pytest.raises(ValueError, match=r"REJECTED|does not say"):
        reply(command, 200, body)


@pytest.mark.parametrize("body", ["null", "{}", "[]", '"OK"'])
def test_an_answer_that_is_not_documented_must_say_something(body):
    with pytest.raises(ValueError, match="does not say"):
        reply(AmendPosition(id="c", position_id="p", stop_loss="1"), 200, body)


def test_a_rate_limit_says_for_how_long():
    limited = {"code": "RATE_LIMITED", "message": "m", "details": {"retry_after_seconds": 9}}
    assert reply(place("c"), 429, limited)[0] == Limited(9)
    assert [type(item) for item in reply(place("c"), 429, limited, **{"retry-after": "9"})] == [CommandReply]


async def test_every_command_of_a_day_is_accepted_but_the_one_that_cannot_be_borne():
    session = Session()
    session.tick(3)
    items = []
    for command in whole_day():
        items += await session.say(command)
        items += session.tick()
    answered = of(items, CommandReply)
    assert [(reply.id, reply.error is None) for reply in answered] == [(f"c{n}", n != 5) for n in range(1, 18)]
    assert answered[4].error["details"] == {"reject_code": "INSUFFICIENT_MARGIN"}
    assert [position.event for position in of(items, Position)][-1] == "POSITION_CLOSED"
    assert not of(items, Unknown)


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_every_function_is_one_of_the_gateway_s(function):
    session = Session()
    session.tick(3)
    await session.say(place("p"))
    arguments = {"order_id": "ord_1", "position_id": "pos_1", "symbol": "BTC/USD", "timeframe": "1m"}
    _, path, _ = FUNCTIONS[function]
    named = {
        name: value
        for name, value in arguments.items()
        if name in path or (name, function) == ("timeframe", "get_bars")
    }
    (answered,) = of(await session.say(Call(id="c", function=function, arguments=named)), CommandReply)
    assert (answered.error or {"code": "ORDER_NOT_MODIFIABLE"})["code"] == "ORDER_NOT_MODIFIABLE"


async def test_an_absence_is_made_good_from_the_account_s_lists():
    session = Session()
    session.tick(3)
    await session.say(place("early", quantity="10"))
    early = of(await session.say(Reconcile()), Order)
    assert early == []
    session.now_ns += 3600 * 10**9
    await session.say(place("late", quantity="20"))
    await session.say(place("resting", order_type="LIMIT", limit_price="100.00", quantity="1"))
    items = await session.say(Reconcile("2026-06-01T13:00:30Z"))
    assert sorted((order.id, order.event) for order in of(items, Order)) == [
        ("ord_1", "ORDER_FILLED"),  # before the absence, so the relay leaves it out
        ("ord_2", "ORDER_FILLED"),
        ("ord_3", "ORDER_CREATED"),
    ]
    assert [trade.order_id for trade in of(items, Trade)] == ["ord_2"]
    assert [(held.quantity, held.event) for held in of(items, Position)] == [("30", "POSITION_MODIFIED")]
    assert len(of(items, Account)) == 1
    assert sorted(complete.kind for complete in of(items, Complete)) == ["order", "position"]


def test_the_list_of_open_orders_is_complete_and_that_of_ended_ones_is_not():
    """The session judges both together, in whatever order they come."""

    def listed(what, *statuses):
        order = loads(INCOMING[2])["order"]
        text = dumps([order | {"id": status, "status": status} for status in statuses])
        told = new_adapter().fetched(what, Answer(status=200, text=text))
        return [item.id if isinstance(item, Order) else item for item in told]

    assert listed("orders", "OPEN") == ["OPEN", Complete("order")]
    assert listed("ended", "FILLED", "CANCELLED") == ["FILLED", "CANCELLED"]


def test_nothing_of_a_frame_is_lost():
    """Beside the words that became kinds of events, and a ping's time: it proves nothing but the transport."""
    places = {place for place in lost(conformance.subject(Tektii, FIXTURE)) if not place.endswith((".type", ".trace"))}
    assert places == {"ping.timestamp"}


def test_whose_price_it_is_and_members_of_a_later_version_stay_in_data():
    quote, *_ = decode(
        dumps({"type": "quote", "quote": {"symbol": "AAPL", "provider": "alpaca", "bid": "1", "venue": {"id": 7}}})
    )
    assert quote.data == {"provider": "alpaca", "venue": {"id": 7}}
    order, *_ = decode(dumps({"type": "order", "event": "ORDER_CREATED", "order": {"id": "o1", "symbol": "AAPL", "side": "BUY",
                              "status": "OPEN", "leverage": "5"}}))  # fmt: skip
    assert order.data == {"leverage": "5"}


# --- the fixture -----------------------------------------------------------------------------------------------------


async def test_the_fixture_is_what_the_page_and_the_simulator_say():
    assert tuple(await record()) == read_recording(FIXTURE).records


# --- the simulator over real sockets ---------------------------------------------------------------------------------


def bearer(key=KEY):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MISSING_API_KEY"),
        (bearer("wrong"), "INVALID_API_KEY"),
        ({"x-api-key": "wrong"}, "INVALID_API_KEY"),
        ({**bearer("wrong"), "x-api-key": KEY}, "INVALID_API_KEY"),
        (bearer(), None),
        ({"x-api-key": KEY}, None),
        ({**bearer(), "x-api-key": "wrong"}, None),
    ],
)
async def test_the_key_is_asked_for_at_the_upgrade_and_over_rest(headers, code):
    simulator = TektiiSimulator(interval=0)
    async with simulator.serve() as at, httpx.AsyncClient() as http:
        account = await http.get(f"{at.http}/v1/account", headers=headers)
        assert account.status_code == (200 if code is None else 401)
        if code is not None:
            upgrade = await http.get(f"{at.http}/v1/ws", headers={**UPGRADE, **headers})
            assert (upgrade.status_code, upgrade.json()["details"]) == (401, {"code": code})
            assert upgrade.json()["code"] == "UNAUTHORIZED"
        assert (await http.get(f"{at.http}/livez")).status_code == 200


async def test_what_is_sent_is_what_the_gateway_subscribes_to():
    simulator = TektiiSimulator(
        interval=0, key=None, subscriptions=[Subscription(instrument="AAPL", events=("quote",))]
    )
    async with simulator.serve() as at, dialled(at.ws) as socket:
        await simulator.wait_connected()
        for _ in range(3):
            simulator.tick()
        with trio.fail_after(WITHIN):
            frames = [loads(await socket.get_message()) for _ in range(3)]
        assert {(frame["type"], frame["quote"]["symbol"]) for frame in frames} == {("quote", "AAPL")}
        assert "event_id" not in frames[0]


async def test_a_client_that_answers_pings_and_acknowledges_as_the_page_says():
    simulator = TektiiSimulator(interval=0, key=None, ping_interval=0.01)
    async with simulator.serve() as at, dialled(at.ws) as socket:
        with trio.fail_after(WITHIN):
            assert loads(await socket.get_message())["type"] == "ping"
            for direction, text in PAGE:
                if direction == "out":
                    await socket.send_message(text)
            await socket.send_message('{"type":"event_ack","correlation_id":"c","events_processed":[]}')
            await socket.send_message(b"\x00")
            while (frame := loads(await socket.get_message()))["type"] == "ping":
                pass
        assert (frame["code"], frame["details"]) == ("INVALID_MESSAGE", {"type": "event_ack"})
        (link,) = simulator.links
        assert (link.state.pongs, link.state.acknowledgements) == (1, 1)


async def test_a_backtest_goes_on_strictly_by_the_ids_that_are_acknowledged():
    simulator = TektiiSimulator(
        key=None, backtest=2, subscriptions=[Subscription(instrument="AAPL", events=("quote",))]
    )
    async with simulator.serve() as at, dialled(at.ws) as socket:

        async def acknowledge(*ids):
            await socket.send_message(
                dumps({"type": "event_ack", "correlation_id": "c", "events_processed": ids, "timestamp": 1})
            )

        async def settled():
            await socket.send_message("{")
            with trio.fail_after(WITHIN):
                while (said := loads(await socket.get_message()))["type"] != "error":
                    told.append(said)
            await acknowledge(said["event_id"])

        told: list = []
        for ids in ((), ("evt_99",)):
            await acknowledge(*ids)
        await settled()
        assert [frame["event_id"] for frame in told] == ["evt_1"]
        assert simulator.outstanding.unknown == ["evt_99"]
        await acknowledge("evt_1", "evt_1")
        with trio.fail_after(WITHIN):
            second = loads(await socket.get_message())
            assert second["quote"]["timestamp"] > told[0]["quote"]["timestamp"]
            await acknowledge(second["event_id"])
            over = loads(await socket.get_message())
            assert over["type"] == "backtest_complete"
            await acknowledge(over["event_id"])
        assert await close_code(socket) == 1000


async def test_rest_refusals_have_the_gateway_s_statuses_and_codes():
    simulator = TektiiSimulator(interval=0, key=None, requests_per_minute=None)
    async with simulator.serve() as at, httpx.AsyncClient(base_url=at.http) as http:
        order = {"symbol": "AAPL", "side": "buy", "order_type": "limit", "quantity": "1", "limit_price": "1.00"}
        placed = (await http.post("/v1/orders", json=order | {"client_order_id": "once"})).json()
        again = await http.post("/v1/orders", json=order | {"client_order_id": "once"})
        assert (again.status_code, again.json()["id"]) == (201, placed["id"])
        await http.delete(f"/v1/orders/{placed['id']}")
        refusals = [
            await http.post("/v1/orders", content="{"),
            await http.post("/v1/orders", json={"symbol": "AAPL"}),
            await http.post("/v1/orders", json=order | {"quantity": 1}),
            await http.post("/v1/orders", json=order | {"side": "UP"}),
            await http.post("/v1/orders", json={**order, "limit_price": None}),
            await http.post("/v1/orders", json=order | {"symbol": "NO"}),
            await http.post("/v1/orders", json=order | {"order_type": "trailing_stop"}),
            await http.post("/v1/orders", json=order | {"quantity": "99999999"}),
            await http.delete(f"/v1/orders/{placed['id']}"),
            await http.get("/v1/orders/none"),
            await http.get("/v1/positions/none"),
            await http.get("/v1/bars/AAPL?timeframe=7m"),
            await http.get("/v1/trades?since=yesterday"),
            await http.get("/v1/nothing"),
        ]
        assert [(refusal.status_code, refusal.json()["code"]) for refusal in refusals] == [
            (400, "INVALID_REQUEST"), (400, "INVALID_REQUEST"), (400, "INVALID_VALUE"), (400, "INVALID_VALUE"),
            (400, "VALIDATION_ERROR"), (404, "SYMBOL_NOT_FOUND"), (501, "UNSUPPORTED_OPERATION"), (422, "ORDER_REJECTED"),
            (409, "ORDER_NOT_MODIFIABLE"), (404, "ORDER_NOT_FOUND"), (404, "POSITION_NOT_FOUND"), (400, "INVALID_VALUE"),
            (400, "INVALID_VALUE"), (404, "INVALID_REQUEST"),
        ]  # fmt: skip


async def test_the_request_limit_is_warned_of_and_enforced():
    now = 1_780_315_210 * 10**9
    simulator = TektiiSimulator(interval=0, key=None, requests_per_minute=11, clock=lambda: now)
    async with simulator.serve() as at, httpx.AsyncClient(base_url=at.http) as http, dialled(at.ws) as socket:
        await simulator.wait_connected()
        answers = [await http.get("/v1/account") for _ in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 11 + [429]
        assert answers[-1].json()["details"] == {"retry_after_seconds": 50, "reset_at": "2026-06-01T12:01:00.000Z"}
        with trio.fail_after(WITHIN):
            warning, hit = loads(await socket.get_message()), loads(await socket.get_message())
        assert (warning["event"], warning["requests_remaining"]) == ("RATE_LIMIT_WARNING", 10)
        assert (hit["event"], hit["reset_at"]) == ("RATE_LIMIT_HIT", "2026-06-01T12:01:00.000Z")


async def test_it_runs_for_the_demo(nursery):
    (simulated,) = relay_simulators()
    ws, http = await nursery.start(simulated.run)
    async with httpx.AsyncClient(headers=bearer(simulated.credentials["api_key"])) as client:
        assert (await client.get(f"{http}/v1/account")).json()["currency"] == "USD"
        assert (await client.get(ws.replace("ws:", "http:"))).status_code == 404
    nursery.cancel_scope.cancel()


# --- the relay's own session with the simulator ----------------------------------------------------------------------


class Relayed:
    """A provider session with a simulator, and what it published."""

    def __init__(self, at, http, key=KEY, **declared):
        backoff = attrs.evolve(Tektii.session.backoff, first=0.01)
        session = attrs.evolve(Tektii.session, url=at.ws, http=at.http, backoff=backoff, **declared)
        adapter = type("Tektii", (Tektii,), {"session": session})
        context = attrs.evolve(new_adapter().context, credentials={"api_key": key})
        self.events = []
        self._read = 0
        self._changed = trio.Event()
        self.session = lone_session(adapter, context, publish=self._publish, http=http)

    def _publish(self, event, stamp):
        self.events.append(event)
        self._changed.set()

    async def until(self, kind, **members):
        """Wait for an event behind the last one waited for."""
        event, self._read = await self._find(self._read, kind, members)
        return event

    async def ever(self, kind, **members):
        """Wait for an event, or find it among those there were; answers and the stream have no order between them."""
        return (await self._find(0, kind, members))[0]

    async def _find(self, position, kind, members):
        with trio.fail_after(WITHIN):
            while True:
                while position < len(self.events):
                    event, position = self.events[position], position + 1
                    if isinstance(event, kind) and all(getattr(event, n) == v for n, v in members.items()):
                        return event, position
                self._changed = trio.Event()
                await self._changed.wait()


class Submission(TektiiSimulator):
    """A gateway that says when a session has asked all it asks at its beginning: three lists and what stands of three topics."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.asked = trio.Event()

    async def answer(self, request):
        if len(self.requests) == 6:
            self.asked.set()
        return await super().answer(request)


@pytest.fixture
async def relayed():
    simulator = Submission(interval=0.02)
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        running = Relayed(at, http)
        await nursery.start(running.session.run)
        for topic in TOPICS:
            running.session.want(topic)
        with trio.fail_after(WITHIN):
            await simulator.asked.wait()
        yield simulator, running
        running.session.shutdown()
        nursery.cancel_scope.cancel()


async def test_what_was_filled_while_the_session_was_away_is_found_again(relayed):
    simulator, relay = relayed
    await relay.until(Quote, symbol="AAPL")
    relay.session.send(place("rest", order_type="LIMIT", limit_price="100.00", quantity="5"))
    resting = (await relay.ever(Reply, id="rest")).result["order_id"]
    simulator.next_connection(Refuse(503))
    simulator.inject(Drop())
    await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
    changes = simulator.account.amend(resting, simulator._now(), limit=20_000)
    simulator._changed(changes)
    assert (await relay.until(Gap, of="account")).refill == "replay"
    filled = await relay.ever(Order, id=resting, event=OrderEvent.ORDER_FILLED)
    assert (filled.reconciled, filled.average_fill_price is not None) == (True, True)
    trade = await relay.ever(Trade, order_id=resting)
    assert (trade.reconciled, trade.quantity) == (True, "5")


async def test_a_backtest_runs_through_the_relay_to_its_end():
    simulator = TektiiSimulator(backtest=20)
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relayed(at, http)
        relay.session.want(QUOTES)
        nursery.start_soon(relay.session.run)
        times = [(await relay.until(Quote, symbol="AAPL")).time for _ in range(20)]
        assert times == sorted(times)
        assert (await relay.until(Notification)).title == "backtest_complete"
        failed = await relay.until(Connection, event=ConnectionEvent.FAILED)
        assert failed.reason == "the backtest is complete"
        with trio.fail_after(WITHIN):
            await simulator.outstanding.wait_none()
        assert simulator.outstanding.unknown == []
        nursery.cancel_scope.cancel()


async def test_a_command_whose_answer_is_a_fault_is_unknown_and_the_stream_tells(relayed):
    simulator, relay = relayed
    await relay.until(Quote, symbol="AAPL")
    simulator.next_request(Refuse(502, '{"code":"PROVIDER_ERROR","message":"timeout"}'))
    relay.session.send(place("lost"))
    assert (await relay.ever(Reply, id="lost")).outcome is Outcome.UNKNOWN
    relay.session.send(place("poor", symbol="BTC/USD", quantity="1000"))
    poor = await relay.ever(Reply, id="poor")
    assert (poor.outcome, poor.error["details"]) == (Outcome.REJECTED, {"reject_code": "INSUFFICIENT_MARGIN"})


async def test_a_gateway_that_shuts_down_is_come_back_to(relayed):
    simulator, relay = relayed
    await relay.until(Quote)
    simulator.inject(Garbage())
    await simulator.shut_down()
    said = await relay.until(Connection, event=ConnectionEvent.DISCONNECTING)
    assert said.reason == "the gateway says DISCONNECTING"
    lost = await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
    assert lost.reason == "closed with 1001: Gateway shutting down"
    await relay.until(Quote)


# --- the provider's own SDK ------------------------------------------------------------------------------------------


async def sdk(story: str, simulator: TektiiSimulator, key: str = KEY) -> Client:
    """Let the SDK live through a story with the simulator; return what it reported."""
    if importlib.util.find_spec("tektii") is None:
        missing("PyPI package tektii")
    async with simulator.serve() as at, driven([sys.executable, str(DRIVER), story, at.http, key]) as client:
        await client.wait(lambda line: line["on"] == "done", within=60)
        return client


def lines(client: Client, on: str) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "on"} for line in client.lines if line["on"] == on]


async def test_their_sdk_trades_and_streams():
    simulator = TektiiSimulator(interval=0.05, ping_interval=0.02, seed=3)
    for _ in range(20):
        simulator.tick()
    client = await sdk("live", simulator)
    assert not lines(client, "failed")
    assert lines(client, "account") == [{"currency": "USD", "health": "connected"}]
    assert lines(client, "placed") == [{"id": "ord_1", "status": "FILLED", "correlation": True}]
    assert lines(client, "stream")
    assert lines(client, "open") == [{"ids": ["ord_2"]}]
    assert lines(client, "modified") == [{"price": "0.5100", "id": True}]
    assert lines(client, "cancelled") == [{"success": True}]
    assert lines(client, "closed") == [{"orders": ["FILLED", "FILLED"]}]
    assert lines(client, "history") == [{"ended": 2, "fills": ["10"]}]
    assert lines(client, "market") == [{"quote": "mock", "bars": 1}]
    assert lines(client, "system") == [{"mode": "NETTING", "up": True, "breaker": "closed"}]
    assert lines(client, "refused") == [
        {"status": 404, "code": "ORDER_NOT_FOUND"},
        {"status": 409, "code": "ORDER_NOT_MODIFIABLE"},
        {"status": 404, "code": "SYMBOL_NOT_FOUND"},
        {"status": 422, "code": "ORDER_REJECTED"},
    ]
    assert simulator.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_their_sdk_paces_a_backtest_to_its_end():
    simulator = TektiiSimulator(backtest=5)
    client = await sdk("backtest", simulator)
    assert not lines(client, "failed")
    (counts,) = lines(client, "counts")
    assert (counts["times"], counts["quote"], counts["trade"], counts["position"]) == (5, 15, 1, 1)
    (over,) = lines(client, "over")
    assert over["broker"] == "tektii"
    assert simulator.outstanding.unknown == []
    assert len(simulator.outstanding) == 0


async def test_their_sdk_reads_every_frame_of_the_page_and_beside_it():
    simulator = TektiiSimulator(interval=0)
    frames = [text for text in INCOMING if '"error"' not in text] + [
        text for text in BESIDE[:-1] if '"error"' not in text
    ]
    error = next(text for text in INCOMING if '"error"' in text)
    simulator.opened = lambda link: (  # type: ignore[method-assign]
        TektiiSimulator.opened(simulator, link), [link.send(text) for text in [*frames, error]]
    )  # fmt: skip
    client = await sdk("page", simulator)
    assert not lines(client, "failed")
    said = [loads(text)["type"] for text in frames if '"ping"' not in text]
    assert [line["type"] for line in lines(client, "event")] == [*said, "error"]


async def test_their_sdk_does_not_retry_a_wrong_key():
    simulator = TektiiSimulator(interval=0)
    client = await sdk("page", simulator, key="wrong")
    (failed,) = lines(client, "failed")
    assert failed["status"] == 401
