"""A session with the simulated Alpaca without sockets: the pages' examples, and everything the simulator can say."""

from typing import Any

import attrs

from relay.adapter import Context, Fetch, Hello, Poll, Reconcile, Send, Subscribe, Unsubscribe
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
    PlaceOrder,
    TradeHistory,
)
from relay.testing.recording import Record
from relay_alpaca.adapter import Alpaca
from relay_alpaca.simulator import KEY, SECRET, AlpacaSimulator
from relay_alpaca.simulator.exchange import named
from support.on_a_line import SECOND, Line, OnALine

BASE = "http://127.0.0.1:8080"
TOPICS = (
    Topic(kind="quote", symbol="AAPL"),
    Topic(kind="public_trade", symbol="AAPL"),
    Topic(kind="candle", symbol="AAPL", timeframe="1m"),
    Topic(kind="candle", symbol="AAPL", timeframe="1d"),
    Topic(kind="signal", symbol="AAPL"),
)
PAIRS = (
    Topic(kind="depth", symbol="BTC/USD"),
    Topic(kind="quote", symbol="BTC/USD"),
    Topic(kind="public_trade", symbol="BTC/USD"),
    Topic(kind="candle", symbol="BTC/USD", timeframe="1m"),
)
#: Messages that the simulator does not send by itself, after https://docs.alpaca.markets/docs/real-time-stock-pricing-data.
BESIDE = (
    '[{"T":"u","S":"AAPL","o":151.2,"h":151.25,"l":151.19,"c":151.21,"v":1200,"n":11,"vw":151.214,"t":"2026-06-01T12:02:00Z"}]',
    '[{"T":"d","S":"AAPL","o":150.9,"h":151.6,"l":150.4,"c":151.2,"v":910211,"n":9120,"vw":151.02,"t":"2026-06-01T04:00:00Z"}]',
    '[{"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; For information requested","z":"C",'
    '"t":"2026-06-01T12:02:58.100000001Z"},'
    '{"T":"l","S":"AAPL","u":158.77,"d":143.65,"i":"B","z":"C","t":"2026-06-01T12:03:00.3Z"}]',
    '[{"T":"c","S":"AAPL","x":"V","oi":7,"op":151.2,"os":10,"oc":["@"],"ci":8,"cp":151.3,"cs":10,"cc":["@"],"z":"C",'
    '"t":"2026-06-01T12:03:01Z"}]',
    '[{"T":"x","S":"AAPL","i":9,"x":"V","p":151.2,"s":100,"a":"C","z":"C","t":"2026-06-01T12:03:02Z"}]',
    '[{"T":"error","code":407,"msg":"slow client"}]',
    '[{"T":"error","code":406,"msg":"connection limit exceeded"}]',
    '[{"T":"error","code":402,"msg":"auth failed"}]',
    '[{"T":"error","code":400,"msg":"invalid syntax"}]',
    '{"stream":"authorization","data":{"status":"unauthorized","action":"authenticate"}}',
    '{"stream":"listening","data":{"error":"required to authenticate first"}}',
)


def new_context(**options: str) -> Context:
    return Context(
        provider="alpaca",
        account="paper",
        options={**Alpaca.defaults(), **options},
        credentials={"key_id": KEY, "secret_key": SECRET},
    )


class Session(OnALine):
    """The three sockets, each with an adapter of its own."""

    step_ns = 20 * SECOND
    base = BASE

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        settings = {"requests_per_minute": None, **settings}
        self.simulator = AlpacaSimulator(interval=0, clock=self.clock, **settings)
        self.context = new_context()
        self.lines = {"": Line("/stream"), "stocks": Line("/v2/iex"), "crypto": Line("/v1beta3/crypto/us")}
        self.adapters = {name: type("On", (Alpaca,), {"socket": name})(self.context) for name in self.lines}
        self.adapter = self.adapters[""]
        for line in self.lines.values():
            self.connect(line, f"ws://127.0.0.1:8080{line.request.target}")
        for name in self.lines:
            self.say_now(Hello(), name)
        self.hear()

    def say_now(self, outgoing: Any, socket: str = "") -> list[Any]:
        """Send the frames that the adapter writes."""
        items = []
        for written in self.adapters[socket].encode(outgoing):
            assert isinstance(written, str)
            items += self.send(written, socket)
        return items

    async def say(self, outgoing: Any, socket: str = "") -> list[Any]:
        """Let the adapter write ``outgoing``; return what it makes of the answers, those of the stream first."""
        items = []
        for written in self.adapters[socket].encode(outgoing):
            asked = written.request if isinstance(written, Poll) else written
            items += await self.fetch(asked) if isinstance(asked, Fetch) else self.send(str(asked), socket)
        return items

    async def fetch(self, fetch: Fetch) -> list[Any]:
        items, answer = await self.answered(fetch, hears_first=True)
        found = list(self.adapters[""].fetched(fetch.tag, answer))
        for item in [each for each in found if isinstance(each, Fetch)]:
            found.remove(item)
            found += await self.fetch(item)
        return [*items, *found]

    def send(self, text: str, socket: str = "") -> list[Any]:
        self.record("out", text)
        self.simulator.received(self.lines[socket], text)  # type: ignore[arg-type]
        return self.hear()

    def hear(self) -> list[Any]:
        """Decode what was sent, and answer as a session does what wants an answer."""
        items = []
        for socket, line in self.lines.items():
            for message in line.take():
                items += self.read(message.decode() if isinstance(message, bytes) else message, socket)
        return items

    def read(self, text: str, socket: str = "stocks") -> list[Any]:
        self.record("in", text)
        items = []
        for item in self.adapters[socket].decode(text):
            items.append(item)
            if isinstance(item, Send):
                items += self.send(str(item.text), socket)
        return items


def place(id: str, **members: Any) -> PlaceOrder:
    asked = {"symbol": "AAPL", "side": "BUY", "order_type": "MARKET", "quantity": "100", **members}
    return PlaceOrder(id=id, account="paper", **asked)


def order_id(number: int) -> str:
    """The id that the simulator gives its orders in turn; an amendment takes one, too."""
    return named(f"order/{number}")


def whole_day() -> list[Command]:
    """Commands of each kind, in an order that makes each succeed but c7, which the account cannot bear."""
    return [
        place("c1", client_order_id="mine-1", quantity="600"),
        place("c2", order_type="LIMIT", limit_price="100.00", quantity="20", time_in_force="GTC", extended_hours=True),
        AmendOrder(id="c3", order_id=order_id(2), limit_price="101.00", quantity="30"),
        CancelOrder(id="c4", order_id=order_id(3)),
        place("c5", quantity=None, notional="1000", symbol="MSFT", position_intent="OPEN"),
        place("c6", order_type="LIMIT", limit_price="160.00", take_profit="170.00", stop_loss="120.00", quantity="10"),
        place("c7", symbol="BTC/USD", quantity="1000"),
        place(
            "c8", side="SELL", order_type="TRAILING_STOP", trailing_distance="5", trailing_type="PERCENT", quantity="5"
        ),
        place(
            "c9", order_type="STOP_LIMIT", stop_price="190.00", limit_price="191.00", quantity="3", time_in_force="DAY"
        ),
        ListAccounts(id="c10"),
        ListPositions(id="c11"),
        ListOrders(id="c12"),
        ClosePosition(id="c13", position_id="MSFT"),
        ClosePosition(id="c14", position_id="AAPL", quantity="50"),
        OrderHistory(id="c15", symbol="AAPL"),
        TradeHistory(id="c16", since="2026-06-01T12:00:00Z"),
        GetQuote(id="c17", symbol="AAPL"),
        GetQuote(id="c18", symbol="BTC/USD"),
        Call(id="c19", function="get_clock"),
        Call(id="c20", function="get_order", arguments={"order_id": order_id(1), "nested": True}),
        Call(id="c21", function="cancel_all_orders"),
    ]


async def record() -> list[Record]:
    """The session of the fixture: a day on all sockets, what the pages have beside it, and an absence."""
    live = Session()
    await live.say(Reconcile())
    live.say_now(Subscribe(TOPICS), "stocks")
    live.say_now(Subscribe(PAIRS), "crypto")
    live.tick(4)
    for command in whole_day():
        await live.say(command)
        live.tick()
    live.say_now(Unsubscribe(TOPICS[:1]), "stocks")
    for text in BESIDE:
        live.read(text)
    await live.say(Reconcile(since="2026-06-01T12:00:00Z"))
    return live.records


def without_nothing(event: Any) -> dict[str, Any]:
    """The members of an event that are there."""
    return {name: value for name, value in attrs.asdict(event).items() if value is not None}
