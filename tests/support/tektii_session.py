"""A session with the simulated Tektii gateway without sockets: the page's examples, and everything the simulator can say."""

from relay.adapter import Context, EventAck, Fetch, Processed, Reconcile, Send, Subscribe
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
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
from relay_tektii.adapter import Tektii
from relay_tektii.simulator import KEY, TektiiSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line, OnALine
from support.tektii_page import BESIDE, PAGE

TOPICS = (Topic(kind="quote", symbol="AAPL"), Topic(kind="quote", symbol="NO/SUCH"),
          Topic(kind="candle", symbol="EUR/USD", timeframe="1m"), Topic(kind="account", account="paper"))  # fmt: skip


def new_adapter(**options: str) -> Tektii:
    context = Context(
        provider="tektii", account="paper", options={**Tektii.defaults(), **options}, credentials={"api_key": KEY}
    )
    return Tektii(context)


class Session(OnALine):
    """An adapter on its line, whose answers it sends as a session does."""

    step_ns = 20 * SECOND
    base = "http://127.0.0.1:8080"

    def __init__(self, **settings) -> None:
        super().__init__()
        self.simulator = TektiiSimulator(interval=0, ping_interval=0, clock=self.clock, **settings)
        self.adapter = new_adapter()
        self.connect(Line("/v1/ws"), "ws://127.0.0.1:8080/v1/ws")

    async def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``; return what it makes of the answers, those of the stream first."""
        items = []
        for written in self.adapter.encode(outgoing):
            items += await self._fetch(written) if isinstance(written, Fetch) else self.send(written)
        return items

    async def _fetch(self, fetch: Fetch) -> list:
        items, answer = await self.answered(fetch, hears_first=True)
        return [*items, *self.adapter.fetched(fetch.tag, answer)]

    def hear(self) -> list:
        """Decode what was sent, and answer as a session does what wants an answer."""
        items = []
        for text in self.taken():
            for item in self.adapter.decode(text):
                items.append(item)
                if isinstance(item, Send):
                    items += self.send(item.text)
                elif isinstance(item, Processed):
                    number = sum(record.dir == "out" for record in self.records)
                    for ack in self.adapter.encode(EventAck(item.ids, self.now_ns // 1_000_000, f"uuid-{number}")):
                        items += self.send(str(ack))
        return items


def place(id: str, **members) -> PlaceOrder:
    asked = {"symbol": "AAPL", "side": "BUY", "order_type": "MARKET", "quantity": "100", **members}
    return PlaceOrder(id=id, account="paper", **asked)


def whole_day() -> list[Command]:
    """Commands of each kind, in an order that makes each succeed but c5, which the account cannot bear."""
    return [
        place("c1", quantity="600", client_order_id="mine-1", stop_loss="140.00", take_profit="170.00"),
        place("c2", order_type="LIMIT", limit_price="100.00", quantity="20", time_in_force="GTC"),
        AmendOrder(id="c3", order_id="ord_2", limit_price="101.00", quantity="30"),
        CancelOrder(id="c4", order_id="ord_2"),
        place("c5", symbol="BTC/USD", side="SELL", quantity="1000"),
        AmendPosition(id="c6", position_id="pos_1", stop_loss="141.00"),
        ClosePosition(id="c7", position_id="pos_1", quantity="50"),
        ListAccounts(id="c8"),
        ListPositions(id="c9"),
        ListOrders(id="c10"),
        ClosePosition(id="c11", position_id="pos_1"),
        OrderHistory(id="c12", symbol="AAPL"),
        TradeHistory(id="c13", since="2026-06-01T12:00:00Z"),
        GetQuote(id="c14", symbol="EUR/USD"),
        Call(id="c15", function="get_capabilities"),
        Call(id="c16", function="get_bars", arguments={"symbol": "EUR/USD", "timeframe": "1m", "limit": 2}),
        Call(id="c17", function="cancel_all_orders"),
    ]


async def record() -> list[Record]:
    """The session of the fixture: the page's examples, what is sent beside them, a day, and the end of a backtest."""
    live = Session()
    await live.say(Reconcile())
    live.tick(3)
    await live.say(Subscribe(TOPICS))
    for command in whole_day():
        await live.say(command)
        live.tick()
    live.simulator.tell("ping")
    live.hear()
    live.send("{")
    await live.say(Reconcile("2026-06-01T12:01:00.000000000Z"))
    paced = Session(backtest=1)
    paced.now_ns = live.now_ns
    paced.tick()
    paced.simulator.tell("backtest_complete", broker="tektii")
    paced.hear()
    opened, *day = live.records
    page = [Record(t=BEGAN_NS / SECOND, dir=dir, data=text) for dir, text in PAGE]
    beside = [Record(t=BEGAN_NS / SECOND, dir="in", data=text) for text in BESIDE]
    return [opened, *page, *beside, *day, *paced.records[1:]]
