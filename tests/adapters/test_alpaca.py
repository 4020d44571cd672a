"""Alpaca: its messages, its requests, its simulator, and its own SDK against the simulator."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.adapter import Ack, Answer, Complete, Context, Fetch, Nack, Poll, Reconcile, Redial, Subscribe, dumps
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    TradeHistory,
)
from relay.model.events import Order, Quote, Trade
from relay.testing import conformance
from relay.testing.port import HangUp, HttpRequest, HttpResponse
from relay.testing.recording import write_recording
from relay.testing.simulator import Drop, Refuse
from relay.testing.subscriber import Subscriber
from relay_alpaca import rest
from relay_alpaca.adapter import Alpaca
from relay_alpaca.simulator import KEY, SECRET, SIMULATED, AlpacaSimulator
from support.alpaca_session import PAIRS, TOPICS, Session, new_context, order_id, place, record, whole_day
from support.deadlines import WITHIN
from support.pusherjs import driven
from support.running import port_of, running_relay
from support.situations import OUR_APP
from support.tools import missing

FIXTURE = Path(__file__).parents[1] / "fixtures" / "alpaca.jsonl"
DRIVER = Path(__file__).parents[1] / "support" / "drivers" / "alpaca_sdk.py"

test_alpaca = conformance.tests(Alpaca, FIXTURE, commands=whole_day())


async def test_the_fixture_is_what_the_simulator_says(tmp_path: Path) -> None:
    records = await record()
    again = tmp_path / "again.jsonl"
    write_recording(again, records)
    assert again.read_text() == FIXTURE.read_text()


# --- what is sent ----------------------------------------------------------------------------------------------------


def asked(command: Command) -> tuple[str, str, dict[str, str], Any]:
    """Return method, URL, query and body of the request of a command."""
    (fetch,) = Alpaca(new_context()).encode(command)
    assert isinstance(fetch, Fetch)
    return fetch.method, fetch.url, dict(fetch.query), fetch.json


@pytest.mark.parametrize(
    ("members", "body"),
    [
        ({}, {"type": "market", "qty": "100", "time_in_force": "day"}),
        ({"symbol": "BTC/USD"}, {"type": "market", "qty": "100", "time_in_force": "gtc"}),
        ({"quantity": None, "notional": "12.50"}, {"type": "market", "notional": "12.50", "time_in_force": "day"}),
        (
            {"order_type": "LIMIT", "limit_price": "1.10", "time_in_force": "OPG", "extended_hours": True},
            {"type": "limit", "qty": "100", "limit_price": "1.10", "time_in_force": "opg", "extended_hours": True},
        ),
        (
            {"order_type": "TRAILING_STOP", "trailing_distance": "2", "position_intent": "CLOSE", "side": "SELL"},
            {"type": "trailing_stop", "qty": "100", "trail_price": "2", "position_intent": "sell_to_close",
             "time_in_force": "day", "side": "sell"},
        ),
        (
            {"order_type": "TRAILING_STOP", "trailing_distance": "2", "trailing_type": "PERCENT"},
            {"type": "trailing_stop", "qty": "100", "trail_percent": "2", "time_in_force": "day"},
        ),
        (
            {"stop_loss": "9", "take_profit": "11", "extra": {"stop_loss_limit_price": "8.9"}},
            {"type": "market", "qty": "100", "time_in_force": "day", "order_class": "bracket",
             "take_profit": {"limit_price": "11"}, "stop_loss": {"stop_price": "9", "limit_price": "8.9"}},
        ),
        (
            {"stop_loss": "9"},
            {"type": "market", "qty": "100", "time_in_force": "day", "order_class": "oto", "stop_loss": {"stop_price": "9"}},
        ),
        (
            {"stop_loss": "9", "take_profit": "11", "order_type": "LIMIT", "limit_price": "11", "extra": {"order_class": "oco"}},
            {"type": "limit", "qty": "100", "limit_price": "11", "time_in_force": "day", "order_class": "oco",
             "take_profit": {"limit_price": "11"}, "stop_loss": {"stop_price": "9"}},
        ),
    ],
)  # fmt: skip
def test_an_order_is_written_as_the_reference_has_it(members: dict[str, Any], body: dict[str, Any]) -> None:
    order = place("c", **members)
    assert Alpaca.orders.refusal(order) is None
    assert asked(order) == ("POST", "/v2/orders", {}, {"symbol": order.symbol, "side": "buy", **body})


def test_the_other_commands() -> None:
    assert asked(CancelOrder(id="c", order_id="7/8"))[:2] == ("DELETE", "/v2/orders/7%2F8")
    amended = AmendOrder(id="c", order_id="7", quantity="2", trailing_distance="3", time_in_force="GTC")
    assert asked(amended) == ("PATCH", "/v2/orders/7", {}, {"qty": "2", "trail": "3", "time_in_force": "gtc"})
    assert asked(ClosePosition(id="c", position_id="BTC/USD", quantity="0.5"))[1:3] == (
        "/v2/positions/BTC%2FUSD",
        {"qty": "0.5"},
    )
    with pytest.raises(ValueError, match="trade_history: Alpaca has no such list by symbol"):
        asked(TradeHistory(id="c", symbol="AAPL"))
    for call, why in (
        (Call(id="c", function="withdraw"), "function: Alpaca has no withdraw here"),
        (Call(id="c", function="get_order"), "get_order needs order_id"),
        (Call(id="c", function="cancel_all_orders", arguments={"symbol": "AAPL"}), "cancel_all_orders has no symbol"),
    ):
        with pytest.raises(ValueError, match=why):
            asked(call)
    (quote,) = Alpaca(new_context()).encode(GetQuote(id="c", symbol="AAPL"))
    assert isinstance(quote, Fetch)
    assert (quote.socket, quote.query) == ("stocks", {"feed": "iex"})


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("insufficient buying power", "insufficient_margin"),
        ("order is not cancelable", "order_not_open"),
        ('asset "XX" not found', "unknown_symbol"),
        ("order not found for 7", "unknown_order"),
        ("too many requests.", "rate_limited"),
        ("cost basis must be >= minimal amount of order 1", "rejected"),
    ],
)
def test_a_refusal_has_its_canonical_code(said: str, code: str) -> None:
    command = place("c") if "order" not in said else CancelOrder(id="c", order_id="7")
    assert Alpaca.error_code({"code": "40310000", "message": said, "status": 422}, command) == code


# --- what comes ------------------------------------------------------------------------------------------------------


def test_a_refusal_of_a_request_refuses_its_topics_and_the_list_of_all_confirms_them() -> None:
    live = Session(most_channels=1)
    (refused,) = live.say_now(Subscribe(TOPICS[:2]), "stocks")
    assert refused == Nack(TOPICS[:2], "405 symbol limit exceeded")
    assert live.say_now(Subscribe(TOPICS[:1]), "stocks") == [Ack(TOPICS[:1])]
    assert live.say_now(Subscribe(TOPICS[2:4]), "stocks") == [Ack(TOPICS[2:4])], "bars are not counted"
    with pytest.raises(ValueError, match="depth: Alpaca has none of stocks"):
        live.say_now(Subscribe((Topic(kind="depth", symbol="AAPL"),)), "stocks")
    assert [Alpaca.socket_of(topic) for topic in (TOPICS[0], PAIRS[0], Topic(kind="account", account="a"))] == [
        "stocks",
        "crypto",
        "",
    ]


def test_sizes_of_stocks_are_not_taken_for_shares_and_a_side_that_is_empty_is_none() -> None:
    live = Session()
    (quote,) = live.read(
        '[{"T":"q","S":"AAPL","bp":0,"bs":0,"ap":25.43,"as":35,"bx":" ","ax":"V","c":["R"],"z":"B","t":"2026-06-01T12:00:00.1Z"}]'
    )
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask, quote.ask_size, quote.data["as"]) == (None, "25.43", None, 35)


@pytest.mark.parametrize(
    ("event", "told"),
    [("order_cancel_rejected", "ORDER_CANCEL_REJECTED"), ("order_replace_rejected", "ORDER_MODIFY_REJECTED")],
)
def test_a_request_that_fails_later(event: str, told: str) -> None:
    live = Session()
    live.simulator.brokerage.place({"symbol": "AAPL", "qty": "1", "side": "buy", "type": "limit", "limit_price": "1"})
    live.hear()
    order = live.simulator.brokerage.payload(live.simulator.brokerage.known[order_id(1)])
    live.simulator.tell({"event": event, "timestamp": "2026-06-01T12:00:00Z", "order": order})
    (said,) = live.hear()
    assert (said.event, said.status) == (told, "OPEN")


def test_a_fill_of_the_list_of_activities_is_that_of_the_stream_even_where_their_ids_differ() -> None:
    """Nobody says that what follows the colons is the execution's id: how much was filled then tells them apart as well."""
    live = Session()
    live.simulator.brokerage.place({"symbol": "AAPL", "qty": "3", "side": "buy", "type": "market"})
    (stream,) = [item for item in live.hear() if isinstance(item, Trade)]
    (row,) = live.simulator.brokerage._activities({})
    adapter = live.adapters[""]
    for id in (row["id"], "20260601120000000::another"):
        assert rest.reading.activity({**row, "id": id}, adapter.symbol, live.context.kept).id == stream.id
    assert rest.reading.activity({**row, "id": "1::x"}, adapter.symbol, {}).id == "x"


def test_keys_that_are_refused_say_which_are_wanted() -> None:
    live = Session()
    live.context = new_context(api="api")
    (item,) = Alpaca(live.context).decode('{"stream":"authorization","data":{"status":"unauthorized"}}')
    assert isinstance(item, Redial)
    assert (item.meaning.value, item.reason) == (
        "refused", "key_id and secret_key are unauthorized: with the option api = 'api' they must be those of the live account"
    )  # fmt: skip


async def test_hundreds_of_orders_and_fills_come_in_pages_and_are_complete_at_the_last() -> None:
    live = Session()
    for number in range(1201):
        live.now_ns += 1000
        live.simulator.brokerage.place(
            {"symbol": "AAPL", "qty": "0.01", "side": "buy", "type": "limit", "limit_price": "1"}
        )
        if number < 250:
            live.simulator.brokerage.place({"symbol": "AAPL", "qty": "0.01", "side": "buy", "type": "market"})
    live.hear()
    items = await live.say(Reconcile(since="2026-06-01T11:59:59Z"))
    assert len({item.id for item in items if isinstance(item, Order) and item.status == "OPEN"}) == 1201
    assert len({item.id for item in items if isinstance(item, Trade)}) == 250
    assert [item.kind for item in items if isinstance(item, Complete)] == ["position", "order"]
    targets = [request.target for request in live.simulator.requests]
    assert not targets or len(targets) < 20


def test_a_page_of_one_moment_makes_nothing_complete() -> None:
    row = {"id": "1", "symbol": "AAPL", "side": "buy", "type": "market", "status": "new", "time_in_force": "day",
           "submitted_at": "2026-06-01T12:00:00Z", "updated_at": "2026-06-01T12:00:00Z"}  # fmt: skip
    page = [{**row, "id": str(number)} for number in range(rest.ORDERS_A_PAGE)]
    items = list(Alpaca(new_context()).fetched(("open", None, None), Answer(status=200, text=dumps(page))))
    assert not [item for item in items if isinstance(item, Complete | Fetch)]
    assert type(items[-1]).__name__ == "Unknown"


def test_each_list_of_assets_is_of_one_class_and_only_both_are_all_there_are() -> None:
    context = new_context()
    stock = {"class": "us_equity", "symbol": "AAPL", "name": "Apple Inc.", "tradable": True, "fractionable": True}
    pair = {"class": "crypto", "symbol": "BTC/USD", "tradable": False, "min_order_size": "0.000011",
            "min_trade_increment": "0.000000001", "price_increment": "0.5"}  # fmt: skip
    polls = [each.request for each in Alpaca(context).encode(Reconcile(None)) if isinstance(each, Poll)]
    lists = [fetch for fetch in polls if isinstance(fetch, Fetch) and fetch.url == "/v2/assets"]
    assert [fetch.query["asset_class"] for fetch in lists] == ["us_equity", "crypto"]
    first, apple = Alpaca(context).fetched(lists[0].tag, _answer([stock]))
    assert (first.complete, apple.name, apple.tick_size, apple.status) == (False, "Apple Inc.", None, "TRADING")
    both, bitcoin = Alpaca(context).fetched(lists[1].tag, _answer([pair]))
    assert both.complete
    assert [native for native, _ in both.pairs] == ["AAPL", "BTC/USD"]
    assert (bitcoin.base, bitcoin.quote, bitcoin.tick_size, bitcoin.quantity_step) == (
        "BTC",
        "USD",
        "0.5",
        "0.000000001",
    )
    assert (bitcoin.status, bitcoin.minimum_quantity, bitcoin.data) == ("HALTED", None, {"min_order_size": "0.000011"})


def test_holidays_and_half_days() -> None:
    context, topic = Context(provider="alpaca", options=Alpaca.defaults()), TOPICS[0]
    (calendar,) = Alpaca(context).fetched(("calendar", None), _answer([
        {"date": "2026-11-25", "open": "09:30", "close": "16:00", "session_open": "0400", "session_close": "2000"},
        {"date": "2026-11-27", "open": "09:30", "close": "13:00", "session_open": "0400", "session_close": "1700"},
    ]))  # fmt: skip
    assert calendar.dates == {"2026-11-25": "04:00-20:00", "2026-11-26": "", "2026-11-27": "04:00-17:00"}
    context.calendar.update(calendar.dates)
    hours = Alpaca.hours(topic, context)
    assert hours is not None
    noon = 1_795_712_400 * 10**9  # 2026-11-26T17:00:00Z, Thanksgiving in New York
    assert hours.opened(noon) is None
    assert hours.opened(noon - 86_400 * 10**9) is not None
    assert Alpaca.hours(PAIRS[0], context) is None
    assert Alpaca.hours(topic, new_context(feed="test")) is None


def _answer(value: Any) -> Any:
    return Answer(status=200, text=dumps(value))


# --- a relay ---------------------------------------------------------------------------------------------------------


class Desk:
    """A relay with the simulator, and a subscriber of the account, of a stock and of the status."""

    def __init__(self, relay: Any, simulator: AlpacaSimulator) -> None:
        self.relay, self.simulator = relay, simulator
        self.heard: list[tuple[str, dict[str, Any]]] = []
        channels = ["status.alpaca", "quote.alpaca.AAPL", "private-account.alpaca.paper"]
        self.subscriber = Subscriber(
            lambda: port_of(relay), OUR_APP, channels, heard=lambda *said: self.heard.append(said)
        )  # type: ignore[arg-type]

    @property
    def session(self) -> Any:
        return self.relay.providers.find("alpaca").trading_session("paper")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for _, event in self.heard if event["type"] == kind]

    def replies(self) -> dict[str, str]:
        return {event["command_id"]: event["outcome"] for event in self.of("reply")}

    async def until(self, met: Any) -> None:
        await self.subscriber.until(met)


async def at_a_desk(play: Any, **settings: Any) -> None:
    """Run ``play`` with a relay whose session is up."""
    simulator = AlpacaSimulator(**{"interval": 0.02, "requests_per_minute": None, **settings})
    async with simulator.serve() as at:
        keys = {"key_id": KEY, "secret_key": SECRET}
        table = {"url": at.ws, "http_url": at.http, "accounts": {"paper": {"credentials": keys}}}
        async with running_relay({"alpaca": table}) as relay, trio.open_nursery() as nursery:
            desk = Desk(relay, simulator)
            nursery.start_soon(desk.subscriber.run)
            await desk.until(lambda: desk.of("quote") and desk.of("account"))
            await play(desk)
            assert not [view.problems for view in desk.subscriber.views.values() if view.problems]
            nursery.cancel_scope.cancel()


async def test_an_order_fills_and_its_position_and_money_follow() -> None:
    async def play(desk: Desk) -> None:
        desk.session.send(place("c1", quantity="10", client_order_id="mine-1"))
        await desk.until(lambda: desk.replies().get("c1") == "accepted" and desk.of("trade") and desk.of("position"))
        await desk.until(lambda: any(event["order"]["status"] == "FILLED" for event in desk.of("order")))
        (fill,) = desk.of("trade")
        assert (fill["trade"]["quantity"], fill["trade"]["side"]) == ("10.00", "BUY")
        held = desk.of("position")[0]["position"]
        assert (held["id"], held["side"], held["quantity"]) == ("AAPL", "LONG", "10.00")

    await at_a_desk(play)


async def test_a_cancel_goes_through_while_the_account_s_stream_is_lost_and_the_absence_is_told() -> None:
    """The stream's answer is refused for good; orders, an amendment and a cancellation go over HTTP all the same."""

    async def play(desk: Desk) -> None:
        desk.session.send(place("c1", order_type="LIMIT", limit_price="1.00"))
        await desk.until(lambda: desk.replies().get("c1") == "accepted" and desk.of("order"))
        for _ in range(3):
            desk.simulator.next_connection(Refuse(503))
        stream = next(link for link in desk.simulator.links if link.request.target == "/stream")
        stream.drop()
        await desk.until(lambda: any(event["event"] == "RECONNECTING" for event in desk.of("connection")))
        desk.session.send(AmendOrder(id="c2", order_id=order_id(1), limit_price="2.00"))
        await desk.until(lambda: desk.replies().get("c2") == "accepted")
        desk.session.send(place("c3", quantity="1"))
        await desk.until(lambda: desk.replies().get("c3") == "accepted")
        desk.session.send(CancelOrder(id="c4", order_id=order_id(2)))
        await desk.until(lambda: desk.replies().get("c4") == "accepted")
        await desk.until(
            lambda: (
                len(desk.of("trade")) == 1 and "CANCELLED" in [event["order"]["status"] for event in desk.of("order")]
            )
        )
        assert "quote" in [event["type"] for _, event in desk.heard[-50:]], "the stocks go on"
        ended = {event["order"]["id"]: event["order"]["status"] for event in desk.of("order")}
        assert ended[order_id(1)] == "REPLACED"

    await at_a_desk(play)


async def test_an_answer_that_is_lost_is_known_by_the_stream_and_a_cancel_follows_the_chain() -> None:
    async def play(desk: Desk) -> None:
        desk.session.send(place("c1", order_type="LIMIT", limit_price="1.00"))
        await desk.until(lambda: desk.replies().get("c1") == "accepted" and desk.of("order"))
        answer = desk.simulator.answer

        async def lose(request: HttpRequest) -> HttpResponse:
            """Carry an amendment out, and hang up once the stream has told of it."""
            said = await answer(request)
            if request.method == "PATCH":
                await desk.until(lambda: any(event["order"]["id"] == order_id(2) for event in desk.of("order")))
                raise HangUp
            return said

        desk.simulator.answer = lose  # type: ignore[method-assign]
        desk.session.send(AmendOrder(id="c2", order_id=order_id(1), limit_price="2.00"))
        await desk.until(lambda: desk.replies().get("c2") == "accepted")
        (told,) = [event for event in desk.of("reply") if event["command_id"] == "c2"]
        assert (told["reconciled"], told["result"]["order_id"]) == (True, order_id(2))
        desk.session.send(CancelOrder(id="c3", order_id=order_id(1)))
        await desk.until(lambda: desk.replies().get("c3") == "accepted")
        await desk.until(
            lambda: ("CANCELLED", order_id(2)) in [(e["order"]["status"], e["order"]["id"]) for e in desk.of("order")]
        )

    await at_a_desk(play)


async def test_fills_are_told_once_over_cuts_and_hundreds_of_orders_of_an_absence_are_reconciled() -> None:
    async def play(desk: Desk) -> None:
        house = desk.simulator.brokerage
        desk.session.send(place("c1", quantity="1"))
        await desk.until(lambda: len(desk.of("trade")) == 1)
        for cut in range(3):
            for link in list(desk.simulator.links):
                link.inject(Drop())
            for _ in range(150):
                house.place({"symbol": "AAPL", "qty": "0.01", "side": "buy", "type": "market"})
                house.place({"symbol": "AAPL", "qty": "0.01", "side": "buy", "type": "limit", "limit_price": "1"})
            await desk.until(lambda: len(desk.of("trade")) >= 1 + 150 * (cut + 1))  # noqa: B023
        await desk.until(
            lambda: len({e["order"]["id"] for e in desk.of("order") if e["order"]["status"] == "OPEN"}) >= 450
        )
        ids = [event["trade"]["id"] for event in desk.of("trade")]
        assert len(ids) == len(set(ids)) == 451
        filled = {event["order"]["id"] for event in desk.of("order") if event["order"]["status"] == "FILLED"}
        assert len(filled) == 451

    await at_a_desk(play)


async def test_wrong_keys_end_the_session_and_say_so() -> None:
    simulator = AlpacaSimulator(interval=0)
    async with simulator.serve() as at:
        keys = {"key_id": KEY, "secret_key": "wrong-secret-of-somebody"}
        table = {"url": at.ws, "http_url": at.http, "accounts": {"paper": {"credentials": keys}}}
        async with running_relay({"alpaca": table}) as relay:
            with trio.fail_after(WITHIN):
                while relay.providers.statuses()[0]["state"] != "failed":
                    await trio.sleep(0.01)
            assert "key_id and secret_key are unauthorized" in relay.providers.statuses()[0]["reason"]


def test_the_simulator_is_part_of_the_demo() -> None:
    assert SIMULATED.account == "paper"
    assert set(SIMULATED.credentials) == set(Alpaca.credentials)


# --- the broker's own SDK --------------------------------------------------------------------------------------------


async def sdk(story: str, **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Let the SDK live through a story with the simulator; return what it reported, by what it is about."""
    if importlib.util.find_spec("alpaca") is None:
        missing("PyPI package alpaca-py")
    simulator = AlpacaSimulator(**{"interval": 0, "requests_per_minute": None, **settings})
    async with (
        simulator.serve() as at,
        driven([sys.executable, str(DRIVER), story, at.http, at.ws, KEY, SECRET]) as client,
    ):
        await client.wait(lambda line: line["on"] in ("done", "failed"), within=60)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in client.lines:
        found.setdefault(line["on"], []).append({name: value for name, value in line.items() if name != "on"})
    assert "failed" not in found, found["failed"]
    return found


async def test_their_sdk_trades_unmodified() -> None:
    said = await sdk("trade")
    assert said["account"] == [{"currency": "USD", "cash": "100000.00", "status": "ACTIVE"}]
    assert said["assets"][0]["symbols"] == ["AAPL", "FAKEPACA", "MSFT"], "stocks, where no class is named"
    assert said["market"] == [{"open": True, "days": True}]
    assert said["bought"][0]["status"] == "filled"
    assert said["replaced"] == [{"chain": True, "qty": "7", "old": "replaced"}]
    assert said["bracket"] == [{"legs": ["limit", "stop"]}]
    assert said["open"] == [{"types": ["limit", "stop", "trailing_stop"]}]
    assert [(each["status"], each["code"]) for each in said["refused"]] == [
        (422, 42210000),
        (404, 40410000),
        (403, 40310000),
    ]
    assert said["cancelled"] == [{"count": 3}]
    assert set(said["positions"][0]["held"]) == {"AAPL", "MSFT"}
    assert said["closed"] == [{"orders": 2, "left": 0}]
    assert {"new", "fill", "canceled", "replaced", "pending_new"} <= set(said["updates"][0]["events"])


async def test_their_sdk_streams_market_data_in_messagepack() -> None:
    ns = [1_780_315_200 * 10**9]

    def clock() -> int:
        ns[0] += 5 * 10**8
        return ns[0]

    said = await sdk("data", interval=0.02, clock=clock)
    assert len(said["data"]) == 5


async def test_their_sdk_is_refused_with_wrong_keys() -> None:
    assert (await sdk("refused"))["refused"][0]["status"] == 401
