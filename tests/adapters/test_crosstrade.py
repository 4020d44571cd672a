"""CrossTrade: what its page shows, what is asked for behind it, its limits, and a day with its simulator."""

import re
import time
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from relay.adapter import (
    Alive,
    Backoff,
    CloseMeaning,
    CommandReply,
    Complete,
    Context,
    Limited,
    Nack,
    Ping,
    Poll,
    Rate,
    Redial,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    Call,
    CancelOrder,
    ClosePosition,
    GetQuote,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
    TradeHistory,
)
from relay.model.enums import (
    AccountEvent,
    ConnectionEvent,
    OrderEvent,
    OrderStatus,
    Outcome,
    PositionEvent,
    PositionSide,
    Side,
)
from relay.model.events import Account, Connection, Error, Order, Position, Quote, RateLimit, Reply, Trade
from relay.provider.http import HttpClient
from relay.provider.pacing import Lane
from relay.testing import conformance
from relay.testing.recording import read_recording
from relay.testing.simulator import Close, Drop
from relay_crosstrade.adapter import CrossTrade
from relay_crosstrade.simulator import KEY, LIMITED, NO_ADDON, CrossTradeSimulator
from support import relayed as support_relayed
from support.crosstrade_session import (
    ACCOUNT,
    ASSEMBLED,
    ES,
    HEADERS,
    NQ,
    OPTIONS,
    SECOND,
    VERBATIM,
    Published,
    Questions,
    Session,
    carried_out,
    client,
    place,
    record,
)
from support.deadlines import WITHIN
from support.dialling import UPGRADE

FIXTURE = Path(__file__).parents[1] / "fixtures" / "crosstrade.jsonl"
OTHER = Topic(kind="account", account="Sim110")
POSITION = {
    "account": "Sim101",
    "instrument": "ES 09-26",
    "marketPosition": "Long",
    "quantity": 1,
    "averagePrice": 5000.25,
}
ELSEWHERE = {**POSITION, "account": "Sim110", "marketPosition": "Short"}
CONFIGURED = {"account": "Sim101"}
# CrossTrade's lists take no period.
WRITTEN = [
    attrs.evolve(command, since=None, until=None) if isinstance(command, OrderHistory | TradeHistory) else command
    for command in conformance.subject(CrossTrade, FIXTURE).commands
]
test_crosstrade = conformance.tests(CrossTrade, FIXTURE, commands=WRITTEN, options=CONFIGURED)


def new_adapter(account="Sim101", name="", symbols=None, **options):
    """``account`` is the configured one, ``name`` NinjaTrader's name of it."""
    chosen = {**OPTIONS, "account": name, **options}
    published = Published(account)
    context = Context(
        provider="crosstrade", account=account, options=chosen, credentials={"key": KEY}, known=published.known
    )
    adapter = CrossTrade(context)
    adapter.published = published
    for native, canonical in (symbols or {}).items():
        adapter.symbols.add(native, canonical)
    return adapter


def written(adapter, outgoing):
    return [loads(text) for text in adapter.encode(outgoing) if not isinstance(text, Poll)]


def decoded(adapter, **frame):
    """Return the items of a message, without the polls."""
    return adapter.published(Questions().take(adapter.decode(dumps(frame)), 0))


def answered(adapter, command, **data):
    """Return the items of the answer to a command."""
    list(adapter.encode(command))
    adapter.context.known.waiting = lambda: [command]
    return decoded(adapter, id=command.id, data=data)


def profit(realized="0.0", unrealized="0.0", name="Sim101"):
    return {"name": name, "realizedPnl": realized, "unrealizedPnl": unrealized, "netLiquidation": "100000.0"}


# --- the page's messages ---------------------------------------------------------------------------------------------


def assembled(*words):
    return [text for _, text in ASSEMBLED if all(word in text for word in words)]


def test_quotes_come_several_in_a_message_and_in_part():
    whole, partial = assembled("marketData")
    assert list(new_adapter().decode(whole)) == [
        Quote(symbol="ES 03-26", native_symbol="ES 03-26", bid="5781.75", ask="5782.25", last="5782.0", volume="574915")
    ]
    assert list(new_adapter().decode(partial)) == [
        Quote(symbol="ES 03-26", native_symbol="ES 03-26", bid="5781.75"),
        Quote(symbol="MES 03-26", native_symbol="MES 03-26", last="6614.25"),
    ]


@pytest.mark.parametrize(
    "broken", [{"instrument": "NQ 09-26"}, {"bid": 1}, {"instrument": "NQ 09-26", "bid": "x"}, "NQ 09-26", None]
)
def test_a_quote_that_is_none_costs_the_others_nothing(broken):
    one, unknown, other = decoded(
        new_adapter(),
        type="marketData",
        quotes=[{"instrument": "ES 09-26", "bid": 1}, broken, {"instrument": "CL 09-26", "ask": 2}],
    )
    assert (one.bid, other.ask) == ("1", "2")
    assert isinstance(unknown, Unknown)
    assert unknown.raw == broken


@pytest.mark.parametrize("flat", [True, False])
def test_the_money_of_accounts_in_both_spellings(flat):
    short, long = assembled("pnlUpdate")
    adapter = new_adapter(account=None)
    (account,) = adapter.published(adapter.decode(short if flat else long))
    common = {"equity": "154185.375", "realized_pnl": "0.0", "unrealized_pnl": "412.99",
              "timestamp": "2025-03-10T14:53:13.090Z"}  # fmt: skip
    if flat:
        assert account == Account(event=AccountEvent.METRICS_UPDATED, account="Sim101", **common)
    else:
        common |= {"event": AccountEvent.BALANCE_UPDATED, "currency": "USD"}
        assert account == Account(account="Sim110", balance="153772.375", **common)


def test_of_two_spellings_the_documented_one_counts():
    (account,) = decoded(
        new_adapter(), type="pnlUpdate", accounts=[{**profit(realized="1.0"), "realizedProfitLoss": "2.0"}]
    )
    assert account.realized_pnl == "2.0"


def test_an_account_without_money_or_name_is_not_made_up():
    items = decoded(
        new_adapter(), type="pnlUpdate", accounts=[{"name": "Sim101"}, {"netLiquidation": "1.0"}, 7, profit()]
    )
    assert [type(item) for item in items] == [Unknown, Unknown, Account]
    assert items[-1].timestamp is None


def test_positions_and_money_inside_an_update_are_read_too():
    money, position = decoded(new_adapter(), type="pnlUpdate", accounts=[{**profit(), "positions": [POSITION]}])
    assert (money.equity, position.id, position.event) == ("100000.0", "ES 09-26", PositionEvent.POSITION_OPENED)


def test_pong_proves_the_transport():
    assert decoded(new_adapter(), type="pong") == [Alive()]


def test_what_is_on_no_page_is_unknown():
    for frame in ({"type": "fills", "id": "x", "data": {}}, {"id": "x", "data": None}, {"id": 7, "data": {}}, {}):
        (unknown,) = decoded(new_adapter(), **frame)
        assert isinstance(unknown, Unknown)


def test_the_page_s_messages_are_those_the_adapter_writes():
    adapter = new_adapter(symbols={"ES 03-26": "ES"})
    page = [loads(text) for direction, text in VERBATIM if direction == "out"]
    quotes = (Topic(kind="quote", symbol="ES"),)
    order = {"id": "my-request-id", "order_id": "492281fc515e431692da57d957cfebb6"}
    assert written(adapter, CancelOrder(**order)) == [page[3]]
    assert written(adapter, AmendOrder(**order, quantity="2", limit_price="5400.00")) == [page[4]]
    assert written(adapter, ClosePosition(id="my-request-id", position_id="ES 09-26")) == [page[5]]
    arguments = {"account": "Sim101", "instrument": "ES 09-26"}
    assert written(adapter, Call(id="my-request-id", function="GetPosition", arguments=arguments)) == [page[6]]
    assert written(adapter, Subscribe(quotes)) == [page[7]]
    assert written(adapter, Unsubscribe(quotes)) == [page[8]]
    assert written(adapter, Subscribe((ACCOUNT,))) == [page[9]]
    assert written(adapter, Ping()) == [page[10]]
    assert written(adapter, GetQuote(id="my-request-id", symbol="ES 09-26")) == [page[1]]
    assert written(adapter, ListPositions(id="my-request-id")) == [page[2]]
    (order,) = written(adapter, place("req-1", quantity="1", time_in_force="GTC"))
    assert {**order, "args": {name: str(value).lower() for name, value in order["args"].items()}} == {
        **page[0], "args": {name: str(value).lower() for name, value in page[0]["args"].items()}
    }  # fmt: skip


# --- subscriptions ---------------------------------------------------------------------------------------------------


def test_interest_goes_out_in_few_frames():
    adapter = new_adapter()
    many = tuple(Topic(kind="quote", symbol=f"S{n} 09-26") for n in range(400))
    quotes, pnl = written(adapter, Subscribe((*many, ACCOUNT, OTHER)))
    assert quotes["instruments"] == [topic.symbol for topic in many]
    assert pnl == {"action": "streamPnl", "enabled": True, "interval": 1000}


def test_profit_is_streamed_as_long_as_one_account_is_wanted():
    adapter = new_adapter(pnl_interval="2500")
    assert written(adapter, Subscribe((ACCOUNT, OTHER))) == [{"action": "streamPnl", "enabled": True, "interval": 2500}]
    assert written(adapter, Unsubscribe((ACCOUNT,))) == []
    assert written(adapter, Unsubscribe((OTHER,))) == [{"action": "streamPnl", "enabled": False}]
    assert written(adapter, Unsubscribe((OTHER,))) == []


def test_the_declared_budgets_are_just_within_the_page_s():
    assert CrossTrade.session.limits == (
        Rate(3, burst=18, of="call"), Rate(20, per=61, of="interest"), Rate(5, per=61, of="dial")
    )  # fmt: skip
    assert CrossTrade.session.backoff == Backoff(first=1, factor=2, cap=30, jitter=0, settle=60)


@pytest.mark.parametrize(
    ("option", "value"),
    [("pnl_interval", "999"), ("pnl_interval", "60001"), ("pnl_interval", "soon"), ("time_in_force", "IOC")],
)
def test_an_option_that_makes_no_sense_is_refused(option, value):
    with pytest.raises(ValueError, match=option if value != "soon" else value):
        new_adapter(**{option: value})


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, {"orderType": "MARKET", "timeInForce": "DAY"}),
        ({"order_type": "LIMIT", "limit_price": "5000.250"}, {"orderType": "LIMIT", "limitPrice": "5000.250"}),
        ({"order_type": "STOP", "stop_price": "1.5"}, {"orderType": "STOPMARKET", "stopPrice": "1.5"}),
        (
            {"order_type": "STOP_LIMIT", "limit_price": "1.5", "stop_price": "2"},
            {"orderType": "STOPLIMIT", "stopPrice": 2},
        ),
        ({"extra": {"ocoId": "a", "maxPositions": 2}}, {"ocoId": "a", "maxPositions": 2}),
        ({"account": "Sim110"}, {"account": "Sim110"}),
        ({"client_order_id": "mine-1"}, {"orderId": "mine-1"}),
    ],
)
def test_orders_are_written_with_their_digits(members, expected):
    (frame,) = written(new_adapter(), place("c1", **members))
    assert (frame["action"], frame["id"], frame["api"]) == ("rpc", "c1", "PlaceOrder")
    assert expected.items() <= frame["args"].items()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (place("c", stop_loss="1"), "stop_loss"),
        (place("c", reduce_only=False), "reduce_only"),
        (place("c", order_type="TRAILING_STOP", trailing_distance="1"), "order_type"),
        (place("c", time_in_force="IOC"), "time_in_force"),
        (place("c", extra={"Account": "Live"}), "extra.Account"),
        (place("c", extra={"limitPrice": 1}), "extra.limitPrice"),
        (place("c", extra={"orderId": "o"}), "extra.orderId"),
        (CancelOrder(id="c", order_id=" "), "order_id"),
        (AmendOrder(id="c", order_id="", quantity="1"), "order_id"),
        (AmendOrder(id="c", order_id="o"), "changes nothing"),
        (AmendOrder(id="c", order_id="o", take_profit="1"), "take_profit"),
        (AmendOrder(id="c", order_id="o", quantity="1", time_in_force="DAY"), "time_in_force"),
        (OrderHistory(id="c", since="2026-06-01T12:00:00Z"), "since"),
        (
            TradeHistory(id="c", until="2026-06-01T12:00:00Z"),
            "until: CrossTrade's list of fills reaches back 900 seconds",
        ),
        (Call(id="c", function="Flatten", arguments={"account": "Live"}), "arguments.account"),
        (Call(id="c", function="Flatten", arguments={"account": "Sim101", "accounts": ["Live"]}), "arguments.accounts"),
        (Call(id="c", function="Flatten", arguments={"account_": "Sim101"}), "arguments.account_"),
        (Call(id="c", function="Flatten", arguments={"accountType": "Sim101"}), "arguments.accountType"),
        (Call(id="c", function="Flatten", arguments={"Account": "Sim101"}), "arguments.Account"),
        (Call(id="c", function="Flatten", arguments={" account": "Sim101"}), "arguments. account"),
        (Call(id="c", function="GetOrder", arguments={"targetAccount": "Live"}), "arguments.targetAccount"),
        (
            Call(id="c", function="PlaceOrders", arguments={"orders": [{"account": "Live"}]}),
            "arguments.orders[0].account",
        ),
        (Call(id="c", function="CancelAll"), "function"),
        (place("c", extra={"accounts": ["Live"]}), "extra.accounts"),
        (ClosePosition(id="c", position_id=" "), "position_id"),
        (Call(id="c", function="FlattenEverything", arguments={"account": "Sim101"}), "function"),
        (Call(id="c", function="cancelAllOrders"), "function"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(command, named):
    """By what is declared, or where it is written."""
    refused = CrossTrade.orders.refusal(command)
    if refused is not None:
        assert named in refused
        return
    with pytest.raises(ValueError, match=re.escape(named)):
        list(new_adapter().encode(command))


@pytest.mark.parametrize(
    ("command", "api", "args"),
    [
        (CancelOrder(id="c", order_id="o"), "Cancel", {"orderId": "o"}),
        (AmendOrder(id="c", order_id="o", stop_price="1.50"), "Change", {"orderId": "o", "stopPrice": "1.50"}),
        (ClosePosition(id="c", position_id="ES 09-26", quantity="2"), "ClosePosition", {"instrument": "ES 09-26", "quantity": 2}),
        (ListOrders(id="c"), "ListOrders", {"activeOnly": True}),
        (OrderHistory(id="c", symbol="ES 09-26"), "ListOrders", {}),
        (TradeHistory(id="c"), "ListExecutions", {"lookbackTime": 900}),
        (Call(id="c", function="Flatten"), "Flatten", {}),
        (Call(id="c", function="Flatten", arguments={"account": "Sim101"}), "Flatten", {}),
        (Call(id="c", function="CancelOrders", arguments={"instrument": "ES"}), "CancelOrders", {"instrument": "ES"}),
        (Call(id="c", function="GetPosition", arguments={"instrument": "ES"}), "GetPosition", {"instrument": "ES"}),
    ],
)  # fmt: skip
def test_commands_name_the_account_and_what_they_are_about(command, api, args):
    (frame,) = written(new_adapter(), command)
    assert (frame["api"], frame["args"]) == (api, {"account": "Sim101", **args})


def test_a_function_that_takes_no_account_is_left_as_it_is():
    (frame,) = written(new_adapter(), Call(id="c", function="GetAllPositions", arguments={"includeFlat": True}))
    assert frame["args"] == {"includeFlat": True}
    (frame,) = written(new_adapter(account=None), Call(id="c", function="FlattenEverything"))
    assert frame["args"] == {}, "an operator who named no account said that all are meant"


def test_a_session_without_a_named_account_must_be_told_which():
    adapter = new_adapter(account=None)
    with pytest.raises(ValueError, match="account"):
        list(adapter.encode(place("c")))
    assert written(adapter, place("c", account="Sim110"))[0]["args"]["account"] == "Sim110"
    (money,) = decoded(adapter, type="pnlUpdate", accounts=[profit()])
    assert money.account == "Sim101"


def test_a_configured_account_may_have_another_name():
    adapter = new_adapter(account="main", name="Sim101")
    (own,) = decoded(adapter, type="pnlUpdate", accounts=[profit(name="main"), profit(name="SIM101")])
    assert own.account is None
    assert written(adapter, ClosePosition(id="c", position_id="ES 09-26"))[0]["args"]["account"] == "Sim101"


def test_any_function_can_be_called_by_its_name():
    arguments = {"account": "Sim101", "instrument": "ES 09-26"}
    (frame,) = written(new_adapter(), Call(id="c", function="GetPosition", arguments=arguments))
    assert frame == {"action": "rpc", "id": "c", "api": "GetPosition", "args": arguments}


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_accepted_order_has_its_id():
    reply, _ = answered(new_adapter(), place("c1"), orderId="cb1f", success=True)
    assert reply == CommandReply("c1", {"order_id": "cb1f", "orderId": "cb1f", "success": True})


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"error": "Add-on not connected"}, "addon_not_connected", "Add-on not connected"),
        ({"error": "Invalid request"}, "refused", "Invalid request"),
        ({"success": False, "error": "invalid_account", "detail": "Account X not found"}, "invalid_account", "Account X not found"),
        ({"success": False, "error": "invalid_account"}, "invalid_account", "invalid_account"),
        ({"error": "No positions found for instrument 'ES 09-26'"}, "refused", "No positions found for instrument 'ES 09-26'"),
        ({"error": "Unknown API command"}, "refused", "Unknown API command"),
        ({"error": "Order linked to 'o' not found or already terminal."}, "order_not_found", "Order linked to 'o' not found or already terminal."),
    ],
)  # fmt: skip
def test_a_failure_is_an_error_in_the_data(data, code, message):
    (reply,) = answered(new_adapter(), place("c1"), **data)
    assert (reply.id, reply.result) == ("c1", None)
    assert reply.error == {**data, "code": code, "message": message}


CHANGING = [
    place("c1", client_order_id="mine"),
    CancelOrder(id="c1", order_id="o"),
    AmendOrder(id="c1", order_id="o", quantity="2"),
    ClosePosition(id="c1", position_id="ES 09-26"),
    Call(id="c1", function="Flatten"),
]
SAYING_NOTHING = [
    {}, {"queued": True}, {"status": "pending"}, {"success": "true"}, {"success": None, "orderId": "o"}, [], [1],
    {"success": False}, {"error": {"why": 1}}, {"error": "Request timed out"}, {"success": False, "error": "timeout"},
    {"error": "Internal server error"}, {"error": "No response from add-on"}, {"error": "Add-on disconnected"},
    {"error": "Bad gateway"}, {"error": "internal_error"}, {"error": "service_unavailable"}, {"error": "Deadline exceeded"},
    {"success": False, "error": "service_unavailable"}, {"success": False, "error": "Something went wrong"},
    {"success": False, "error": "order_failed", "detail": "No response from the broker"}, {"error": "any_code"},
    {"success": True, "error": "warning"},
]  # fmt: skip


@pytest.mark.parametrize("command", CHANGING, ids=lambda command: command.name)
@pytest.mark.parametrize("data", SAYING_NOTHING, ids=dumps)
def test_an_answer_that_decides_nothing_leaves_the_command_open(command, data):
    """It becomes unknown at its deadline; a rejection would be a lie if the order is live, an acceptance if it is not."""
    adapter = new_adapter()
    adapter.context.known.waiting = lambda: [command]
    error, *polls = adapter.decode(dumps({"id": "c1", "data": data}))
    assert error == Error(code="undecided", message=error.message, details={"id": "c1", "data": data})
    assert "c1" in error.message
    assert {type(poll) for poll in polls} == {Poll}, "it is looked for"
    assert len(polls) == (1 if "order" in command.name else 3)


@pytest.mark.parametrize(
    "data", [{"error": "Internal server error"}, {"error": "Request timed out"}, {"success": False}]
)
def test_what_only_reads_has_failed_whatever_the_failure(data):
    (reply,) = answered(new_adapter(), ListOrders(id="c1"), **data)
    assert reply.error["code"] == "refused"


def test_the_answer_to_a_command_that_is_not_known_any_more_must_say_that_it_was_done():
    adapter = new_adapter()
    assert [type(item) for item in decoded(adapter, id="c1", data={"orderId": "o"})] == [Error]
    assert [type(item) for item in decoded(adapter, id="c1", data={"orderId": "o", "success": True})] == [CommandReply]


def test_a_failure_that_answers_no_command_is_seen_all_the_same():
    for frame in ({"id": "srv-1", "data": {"error": "Invalid request"}}, {"error": "Invalid request"}):
        (error,) = decoded(new_adapter(), **frame)
        assert (error.code, error.message) == ("refused", "Invalid request")


def test_both_shapes_of_a_rate_limit_are_known():
    for text in assembled(LIMITED):
        adapter = new_adapter()
        adapter.context.known.waiting = lambda: [place("req-1")]
        reply, limited = adapter.decode(text)
        assert reply.error["code"] == "rate_limited"
        assert limited == Limited()


def test_ten_violations_in_a_row_end_the_connection_before_the_server_does():
    adapter = new_adapter()
    limited = [answered(adapter, place(f"c{n}"), error=LIMITED) for n in range(9)]
    answered(adapter, place("good"), orderId="o", success=True)
    limited += [answered(adapter, place(f"d{n}"), error=LIMITED) for n in range(9)]
    assert not [item for items in limited for item in items if isinstance(item, Redial)]
    *_, redial = answered(adapter, place("d9"), error=LIMITED)
    assert redial == Redial("10 rate limit violations in a row", CloseMeaning.RATE_LIMITED)


@pytest.mark.parametrize(
    ("code", "reason", "meaning"),
    [
        (1008, "Session active elsewhere.", CloseMeaning.TAKEOVER),
        (1008, "Policy violation: session active elsewhere", CloseMeaning.TAKEOVER),
        (1008, "", CloseMeaning.TAKEOVER),
        (1008, "Too many rate limit violations", CloseMeaning.RATE_LIMITED),
        (1008, "Rate limit abuse.", CloseMeaning.RATE_LIMITED),
        (1011, "Rate limit", CloseMeaning.RETRY),
        (1000, "", CloseMeaning.RETRY),
    ],
)
def test_the_text_of_a_close_says_which_policy_was_violated(code, reason, meaning):
    assert CrossTrade.closed(code, reason) is meaning


# --- positions -------------------------------------------------------------------------------------------------------


def listing(adapter, id, *positions):
    return decoded(adapter, id=id, data={"positions": list(positions), "count": len(positions), "success": True})


def test_the_documented_position():
    (text,) = assembled("NinjaTrader.Cbi.Position", '"positions"')
    _, position = new_adapter().decode(text)
    assert position == Position(
        event=None, id="MES 03-26", symbol="MES 03-26", native_symbol="MES 03-26", quantity="7",
        side=PositionSide.LONG, average_entry_price="6615.178571428572", current_price="6614.25", unrealized_pnl="-32.5",
        quantity_unit="contracts",
    )  # fmt: skip


def test_a_whole_list_of_positions_says_that_these_are_all():
    adapter = new_adapter(account=None)
    one, other, *complete = listing(adapter, "ask positions", POSITION, ELSEWHERE)
    assert (one.account, one.side) == ("Sim101", PositionSide.LONG)
    assert (other.account, other.side) == ("Sim110", PositionSide.SHORT)
    assert complete == [Complete("position", "Sim101"), Complete("position", "Sim110")]


def test_a_session_of_one_account_tells_of_no_other():
    adapter = new_adapter()
    own, complete = listing(adapter, "ask positions", ELSEWHERE, POSITION)
    assert (own.account, own.side, complete) == (None, PositionSide.LONG, Complete("position"))
    nested = {"account": {"name": "Sim110", "item": {"cashValue": 1}}, "positions": [ELSEWHERE]}
    (money,) = decoded(adapter, type="pnlUpdate", accounts=[nested, profit(name="Sim110"), profit()])
    assert (money.account, money.equity) == (None, "100000.0")
    order = {"account": "Sim110", "orderId": "o", "instrument": "ES 09-26", "orderState": "Working"}
    assert not [item for item in decoded(adapter, id="ask orders", data={"orders": [order]}) if isinstance(item, Order)]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (ListPositions(id="c1"), "positions"),
        (ListOrders(id="c1"), "orders"),
        (TradeHistory(id="c1"), "executions"),
        (Call(id="c1", function="GetAllPositions"), "positions"),
    ],
)
def test_the_reply_to_a_session_of_one_account_has_no_other_s(command, name):
    own = {"account": "sim101", "instrument": "ES 09-26"}
    data = {name: [{**own, "account": "Sim110"}, own], "count": 2, "success": True}
    (reply,) = (item for item in answered(new_adapter(), command, **data) if isinstance(item, CommandReply))
    assert reply.result == {name: [own], "count": 1, "success": True}
    (reply,) = (
        item
        for item in answered(new_adapter(account=None, name="Sim101"), command, **data)
        if isinstance(item, CommandReply)
    )
    assert reply.result == data


def test_the_accounts_of_a_session_of_one_account_are_that_one():
    data = {"accounts": [{"name": "Sim110", "cashValue": 1}, {"name": "Sim101", "cashValue": 2}]}
    reply, money = answered(new_adapter(), ListAccounts(id="c1"), **data)
    assert ([each["name"] for each in reply.result["accounts"]], money.balance) == (["Sim101"], "2")


def test_a_list_that_lacks_some_is_not_called_complete():
    for positions in ([POSITION], [POSITION, ELSEWHERE]):
        data = {"positions": positions, "count": len(positions) + 1, "success": True}
        assert [type(item) for item in decoded(new_adapter(), id="ask positions", data=data)] == [Position]


def test_a_list_an_application_asked_for_is_a_reply_and_positions():
    adapter = new_adapter()
    reply, position = answered(adapter, ListPositions(id="c1"), positions=[POSITION], count=1, success=True)
    assert reply.id == "c1"
    assert (position.id, position.reconciled) == ("ES 09-26", None)


def test_a_position_that_is_new_was_opened_and_a_flat_one_was_closed():
    adapter = new_adapter()
    listing(adapter, "ask positions")
    (opened, *_) = listing(adapter, "ask positions", POSITION)
    assert listing(adapter, "ask positions", POSITION) == [Complete("position")]
    (more, *_) = listing(adapter, "ask positions", {**POSITION, "quantity": 2})
    assert (opened.event, more.event) == (PositionEvent.POSITION_OPENED, PositionEvent.POSITION_MODIFIED)
    flat = {**POSITION, "marketPosition": "Flat", "quantity": 0, "averagePrice": 0}
    _, closed = answered(
        adapter, Call(id="c", function="GetAllPositions"), positions=[flat, {**flat, "instrument": "CL"}]
    )
    assert (closed.event, closed.side, closed.quantity) == ("POSITION_CLOSED", "LONG", "0")
    assert closed.average_entry_price == "5000.25"
    assert listing(adapter, "ask positions", {**flat, "marketPrice": 5001}) == [Complete("position")]
    (again, *_) = listing(adapter, "ask positions", POSITION)
    assert again.event is PositionEvent.POSITION_OPENED


def test_a_side_that_is_not_known_is_not_guessed():
    _, unknown = answered(new_adapter(), ListPositions(id="c"), positions=[{**POSITION, "marketPosition": "Sideways"}])
    assert isinstance(unknown, Unknown)


# --- the fixture -----------------------------------------------------------------------------------------------------


def test_the_fixture_is_what_the_simulator_says():
    assert tuple(record()) == read_recording(FIXTURE).records


# --- the simulator without sockets -----------------------------------------------------------------------------------


def test_every_command_of_a_day_is_accepted_but_the_two_that_cannot_be():
    outcomes = {reply.id: None if reply.error is None else reply.error["code"] for reply in carried_out(Session())}
    refused = {"c4": "order_rejected", "c5": "invalid_instrument"}
    assert outcomes == {f"c{n}": refused.get(f"c{n}") for n in range(1, 16)}


def test_a_history_is_that_of_the_symbol_it_was_asked_for():
    *_, orders, fills, _ = carried_out(Session())
    assert [order["instrument"] for order in orders.result["orders"]] == ["NQ 09-26"]
    assert [fill["marketPosition"] for fill in fills.result["executions"]] == ["Long", "Short", "Short"]


FAR = {"order_type": "LIMIT", "limit_price": "5000.00"}


def test_cancelling_takes_the_one_order_that_is_meant():
    session = Session()
    ids = [session.say(place(f"c{n}", **FAR))[0].result["order_id"] for n in range(3)]
    (reply, *_) = session.say(CancelOrder(id="cancel", order_id=ids[1]))
    assert reply.result == {"order_id": ids[1], "orderId": ids[1], "success": True}
    (again, *_) = session.say(CancelOrder(id="again", order_id=ids[1]))
    assert again.error["code"] == "order_not_found"
    assert len(session.simulator.exchange.accounts["Sim101"].open_orders()) == 2


def test_closing_a_whole_position_takes_its_instrument_s_orders_and_closing_a_part_does_not():
    session = Session()
    account = session.simulator.exchange.accounts["Sim101"]
    for id, members in (("c1", {}), ("c2", FAR), ("c3", {"symbol": "NQ 09-26", **FAR})):
        session.say(place(id, **members))
        session.now_ns += 3 * SECOND
    session.say(ClosePosition(id="c4", position_id="ES 09-26", quantity="1"))
    assert (account.positions["ES 09-26"].quantity, len(account.open_orders())) == (1, 2)
    session.now_ns += 3 * SECOND
    session.say(ClosePosition(id="c5", position_id="ES 09-26"))
    assert account.positions == {}
    assert [order.ticket.symbol for order in account.open_orders()] == ["NQ 09-26"]


@pytest.mark.parametrize(
    ("api", "args", "sentence"),
    [
        ("Dance", {}, "Unknown API command"),
        ("ClosePosition", {"instrument": "CL"}, "No positions found for instrument 'CL'"),
        ("GetOrder", {"orderId": "o"}, "Order linked to 'o' not found or already terminal."),
        ("ListExecutions", {"lookbackTime": 901}, "Invalid request"),
        ("Cancel", {}, "Invalid request"),
    ],
)
def test_the_add_on_refuses_in_the_pages_words(api, args, sentence):
    assert Session().simulator.exchange.call(api, {"account": "Sim101", **args}) == {"error": sentence}


@pytest.mark.parametrize("name", ["ES 09-26", "ES", "ES1!", "ESU26"])
def test_an_instrument_has_many_names(name):
    (reply,) = Session().say(GetQuote(id="q", symbol=name))
    assert reply.result["instrument"] == "ES 09-26"


@pytest.mark.parametrize("alias", ["ES", "es", "ES1!", "ESU26", "ESU6"])
def test_a_subscription_under_an_alias_is_refused_with_the_name_to_use(alias):
    adapter = new_adapter()
    list(adapter.encode(Subscribe((Topic(kind="quote", symbol=alias), NQ))))
    assert [
        type(item) for item in decoded(adapter, type="marketData", quotes=[{"instrument": "NQ 09-26", "bid": 1}])
    ] == [Quote]
    quote, refused = decoded(adapter, type="marketData", quotes=[{"instrument": "ES 09-26", "bid": 1}])
    assert quote.symbol == "ES 09-26"
    assert refused == Nack((Topic(kind="quote", symbol=alias),), f"{alias} is ES 09-26: subscribe that")
    assert [
        type(item) for item in decoded(adapter, type="marketData", quotes=[{"instrument": "ES 09-26", "bid": 2}])
    ] == [Quote]


@pytest.mark.parametrize("name", ["ESZ26", "NQ", "MES", "ES 12-26", "ESU27", "AAPL"])
def test_another_instrument_is_no_alias(name):
    adapter = new_adapter()
    list(adapter.encode(Subscribe((Topic(kind="quote", symbol=name),))))
    assert len(decoded(adapter, type="marketData", quotes=[{"instrument": "ES 09-26", "bid": 1}])) == 1


def test_a_name_the_add_on_itself_uses_is_no_alias():
    adapter = new_adapter()
    list(adapter.encode(Subscribe((Topic(kind="quote", symbol="ES"),))))
    for instrument in ("ES", "ES 09-26"):
        assert len(decoded(adapter, type="marketData", quotes=[{"instrument": instrument, "bid": 1}])) == 1


def test_an_order_placed_under_an_alias_has_one_symbol():
    session = Session()
    items = session.say(place("c", symbol="ES", client_order_id="mine", **FAR)) + session.tick(2)
    orders = [item for item in items if isinstance(item, Order)]
    assert {(order.symbol, order.client_order_id) for order in orders} == {("ES 09-26", "mine")}
    assert orders[0].event is OrderEvent.ORDER_CREATED


def test_a_contract_s_point_has_its_value():
    session = Session()
    session.say(place("c1"))
    account = session.simulator.exchange.accounts["Sim101"]
    assert account.money().unrealized == -2 * 50 * 25 / 100  # two contracts, one tick of spread


def test_the_rpc_budget_is_20_at_once_and_3_a_second_shared_with_http():
    session = Session()
    outcomes = [session.say(ListAccounts(id=f"c{n}"))[0].error for n in range(21)]
    assert [error is None for error in outcomes] == [True] * 20 + [False]
    session.now_ns += SECOND
    assert trio.run(session.simulator.answer, session.line.request).status == 404
    assert [session.say(ListAccounts(id=f"d{n}"))[0].error is None for n in range(3)] == [True, True, False]


def test_more_than_ten_violations_in_a_row_close():
    session = Session()
    for n in range(30):
        session.simulator.received(
            session.line, dumps({"action": "rpc", "id": str(n), "api": "ListAccounts", "args": {}})
        )
    assert session.line.closed is None
    session.simulator.received(session.line, dumps({"action": "rpc", "api": "ListAccounts"}))
    assert session.line.closed == (1008, "Rate limit abuse.")


def test_subscriptions_have_their_own_budget():
    session = Session()
    for _ in range(20):
        assert session.send('{"action":"subscribe","instruments":["ES 09-26"]}') == []
    error, limited = session.send('{"action":"subscribe","instruments":["NQ 09-26"]}')
    assert (error.code, limited) == ("rate_limited", Limited())
    assert session.line.state.instruments == {"ES 09-26"}
    assert session.say(ListAccounts(id="c"))[0].error is None


def test_subscriptions_accumulate_and_are_forgotten_with_the_connection():
    session = Session()
    session.say(Subscribe((ES,)))
    session.say(Subscribe((NQ, ACCOUNT)))
    quotes = [item.symbol for item in session.tick() if isinstance(item, Quote)]
    assert quotes == ["ES 09-26", "NQ 09-26"]
    session.say(Unsubscribe((ES, ACCOUNT)))
    assert [type(item) for item in session.tick(4)] == [Quote] * 4
    session.dial()
    assert session.tick(4) == []


def test_while_the_add_on_is_away_nothing_is_streamed_and_every_call_fails():
    session = Session()
    session.say(Subscribe((ES, ACCOUNT)))
    session.simulator.addon = False
    assert session.tick(4) == []
    (reply, *_) = session.say(place("c1"))
    assert reply.error["code"] == "addon_not_connected"


def test_the_same_seed_says_the_same():
    assert record() == record()


# --- the simulator over real sockets ---------------------------------------------------------------------------------


async def test_a_client_that_does_what_the_page_says():
    async with CrossTradeSimulator(interval=0.01).serve() as at, client(at.ws) as socket:
        await socket.send_message(dumps({"action": "subscribe", "instruments": ["ES 09-26"]}))
        with trio.fail_after(WITHIN):
            data = loads(await socket.get_message())
            assert (data["type"], data["quotes"][0]["instrument"]) == ("marketData", "ES 09-26")
            await socket.send_message(VERBATIM[0][1])
            while "id" not in (data := loads(await socket.get_message())):
                pass
        assert (data["id"], data["data"]["success"], "type" in data) == ("req-1", True, False)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": KEY}])
async def test_the_key_is_asked_for_at_the_upgrade_and_over_http(headers):
    async with CrossTradeSimulator(interval=0).serve() as at, httpx.AsyncClient() as http:
        for url in (at.ws.replace("ws:", "http:"), f"{at.http}/v1/api/accounts/snapshot"):
            refused = await http.get(url, headers={**headers, **(UPGRADE if "stream" in url else {})})
            assert (refused.status_code, sorted(refused.json())) == (401, ["error"])


async def test_upgrades_are_five_a_minute():
    now = [0]
    simulator = CrossTradeSimulator(interval=0, clock=lambda: now[0])
    async with simulator.serve() as at, httpx.AsyncClient() as http:
        url = at.ws.replace("ws:", "http:")
        codes = [(await http.get(url, headers=UPGRADE)).status_code for _ in range(6)]
        assert codes == [401] * 5 + [429]
        now[0] += 60 * SECOND
        assert (await http.get(url, headers=UPGRADE)).status_code == 401


async def test_the_snapshot_is_as_documented():
    simulator = CrossTradeSimulator(interval=0)
    async with simulator.serve() as at, httpx.AsyncClient(headers=HEADERS) as http:
        snapshot = (await http.get(f"{at.http}/v1/api/accounts/snapshot")).json()
        assert (snapshot["type"], snapshot["accounts"][0]["account"]["name"]) == ("snapshot", "Sim101")
        simulator.addon = False
        away = await http.get(f"{at.http}/v1/api/accounts/snapshot")
        assert (away.status_code, away.json()) == (408, {"error": NO_ADDON})


async def test_a_second_connection_takes_the_first_one_s_place():
    async with CrossTradeSimulator(interval=0).serve() as at, client(at.ws) as first, client(at.ws) as second:
        with trio.fail_after(WITHIN):
            with pytest.raises(ConnectionClosed) as closed:
                await first.get_message()
            await second.send_message('{"action":"ping"}')
            assert loads(await second.get_message()) == {"type": "pong"}
        assert (closed.value.reason.code, closed.value.reason.reason) == (1008, "Session active elsewhere.")


# --- the relay's own session with the simulator ----------------------------------------------------------------------


def hurried(factor=20, start=time.time_ns()):  # noqa: B008 - one start for all readings
    """A clock on which the simulator's seconds pass quickly."""
    return lambda: start + (time.time_ns() - start) * factor


class Relayed(support_relayed.Relayed):
    """The session with CrossTrade's simulator."""

    def __init__(self, at, http, key=KEY, **declared):
        context = Context(provider="crosstrade", account="Sim101", options=OPTIONS, credentials={"key": key})
        super().__init__(
            CrossTrade, context, http, **{"url": at.ws, "backoff": Backoff(first=0.01, jitter=0), **declared}
        )


@asynccontextmanager
async def session_with(simulator, *wanted, **declared):
    """A session with this simulator, started and left alone."""
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relayed(at, http, **declared)
        for topic in wanted:
            relay.session.want(topic)
        nursery.start_soon(relay.session.run)
        yield relay
        nursery.cancel_scope.cancel()


@pytest.fixture
async def relayed():
    simulator = CrossTradeSimulator(interval=0.02, clock=hurried())
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        running = Relayed(at, http)
        await nursery.start(running.session.run)
        running.session.want(ES)
        running.session.want(ACCOUNT)
        with trio.fail_after(WITHIN):  # the first lists have come: what they show was open before, and is not opened
            while ("position", "Sim101") not in running.session._machine.core.states._listed:
                await trio.sleep(0.01)
        yield simulator, running
        running.session.shutdown()
        nursery.cancel_scope.cancel()


async def test_what_became_of_an_order_meanwhile_is_told_once(relayed):
    simulator, relay = relayed
    await relay.until(Quote)
    relay.session.send(place("far", client_order_id="mine", order_type="LIMIT", limit_price="5000.00"))
    placed = await relay.until(Order, status=OrderStatus.OPEN)
    simulator.inject(Drop())
    simulator.exchange.call("Cancel", {"account": "Sim101", "orderId": placed.id})
    await relay.until(Connection, event=ConnectionEvent.CONNECTED)
    ended = await relay.until(Order)
    assert (ended.status, ended.client_order_id, ended.reconciled) == (OrderStatus.CANCELLED, "mine", True)
    with trio.fail_after(WITHIN):  # profit updates come meanwhile, and the lists are requested again
        while sum(isinstance(event, Quote) for event in relay.events) < 40:
            await trio.sleep(0.05)
    assert not [event for event in relay.events if isinstance(event, Order)]


async def test_another_program_s_order_is_found_and_its_fill(relayed):
    simulator, relay = relayed
    await relay.until(Account)
    simulator.exchange.call("PlaceOrder", {"account": "Sim101", "instrument": "CL", "action": "Sell", "orderType": "Market",
                                       "quantity": 1, "timeInForce": "Day"})  # fmt: skip
    fill = await relay.until(Trade, symbol="CL 09-26")
    order = await relay.until(Order, id=fill.order_id)
    assert (order.status, order.side, order.client_order_id) == (OrderStatus.FILLED, Side.SELL, None)


async def test_a_position_another_program_opened_is_found_by_the_profit(relayed):
    simulator, relay = relayed
    await relay.until(Account)
    simulator.exchange.call("PlaceOrder", {"account": "Sim101", "instrument": "CL", "action": "Sell", "orderType": "Market",
                                       "quantity": 1, "timeInForce": "Day"})  # fmt: skip
    opened = await relay.until(Position, id="CL 09-26")
    assert opened.side is PositionSide.SHORT


async def test_an_add_on_that_comes_back_is_asked_again():
    simulator = CrossTradeSimulator(interval=0.02, clock=hurried())
    simulator.addon = False
    simulator.exchange.call("PlaceOrder", {"account": "Sim101", "instrument": "ES", "action": "Buy", "orderType": "Market",
                                       "quantity": 1, "timeInForce": "Day"})  # fmt: skip
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relayed(at, http)
        relay.session.want(ACCOUNT)
        await nursery.start(relay.session.run)
        assert (await relay.until(Error)).code == "addon_not_connected"
        simulator.addon = True
        assert (await relay.until(Position)).quantity == "1"
        nursery.cancel_scope.cancel()


async def test_calls_are_paced_so_that_none_is_refused():
    simulator = CrossTradeSimulator(interval=0.02)
    async with session_with(simulator, ES) as relay:
        await relay.until(Quote)
        for n in range(22):
            relay.session.send(GetQuote(id=f"c{n}", symbol="ES 09-26"))
        for n in range(22):
            assert (await relay.until(Reply, id=f"c{n}")).outcome is Outcome.ACCEPTED


async def test_what_the_relay_asks_for_leaves_the_budget_to_commands():
    """With an order open the lists are asked for all the time; nine commands at once still go out at once."""
    simulator = CrossTradeSimulator(interval=0.02)
    async with session_with(simulator, ES, ACCOUNT) as relay:
        await relay.until(Account)
        relay.session.send(place("far", order_type="LIMIT", limit_price="5000.00"))
        await relay.until(Order, status=OrderStatus.OPEN)
        for _ in range(100):  # two profit updates, which are not published where nothing has changed
            await relay.until(Quote)
        for n in range(9):
            relay.session.send(GetQuote(id=f"c{n}", symbol="ES 09-26"))
        assert (await relay.until(Reply, id="c0")).outcome is Outcome.ACCEPTED
        assert relay.session._machine.core.outbound.queue.idle(Lane.CALL), "a command waits for its budget"
        for n in range(1, 9):
            assert (await relay.until(Reply, id=f"c{n}")).outcome is Outcome.ACCEPTED


async def test_a_server_that_closes_for_the_limits_is_no_takeover():
    simulator = CrossTradeSimulator(interval=0.02)
    async with session_with(simulator, ES) as relay:
        await relay.until(Quote)
        simulator.inject(Close(1008, "Rate limit abuse."))
        left = await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
        assert left.reason == "closed with 1008: Rate limit abuse."


async def test_a_client_that_shares_the_budget_makes_the_relay_wait_and_leave():
    """Somebody else's calls use the budget up: refused calls are rejected, and after ten the relay goes away by itself."""
    simulator = CrossTradeSimulator(interval=0.02, clock=lambda: 10**18)
    async with session_with(simulator, ES, limits=()) as relay:
        await relay.until(Quote)
        while simulator._calls.take(10**18):
            pass
        for n in range(10):
            relay.session.send(GetQuote(id=f"c{n}", symbol="ES 09-26"))
        assert (await relay.until(Reply, id="c0")).error["code"] == "rate_limited"
        assert await relay.until(RateLimit)
        left = await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
        assert left.reason == "10 rate limit violations in a row"
