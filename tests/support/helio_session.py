"""A session with the simulated Helio without sockets: what the page's examples are, and everything the simulator can say."""

from collections.abc import Iterator
from urllib.parse import urlencode

from relay.adapter import Answer, Context, Fetch, Learned, Subscribe, Unsubscribe, dumps
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    CancelOrder,
    ClosePosition,
    Command,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.testing.port import HttpRequest
from relay.testing.recording import Record
from relay.testing.simulator import Link
from relay_helio.adapter import Helio
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator

SECOND = 1_000_000_000
BEGAN_NS = 1_780_315_200 * SECOND  # 2026-06-01T12:00:00Z

#: The examples of https://docs.helio.trade/trader/websocket, verbatim.
PAGE = (
    ("out", '{ "type": "subscribe", "payload": { "symbols": ["EURUSD", "GBPUSD"], "events": ["quoteEvent", "executionEvent"] } }'),
    ("in", '{ "type": "subscribed", "payload": { "symbols": ["EURUSD", "GBPUSD"], "events": ["quoteEvent", "executionEvent"] } }'),
    ("in", '{ "type": "quoteEvent", "payload": { "symbol": "EURUSD", "bid": 1.0843, "ask": 1.0844, "ts": "2026-06-01T12:00:00Z" } }'),
    ("out", '{\n"type": "createOrder",\n"payload": {\n"accountId": "acc_123",\n"symbol": "EURUSD",\n"side": "BUY",\n'
            '"quantity": 10000,\n"type": "MARKET"\n}\n}'),
)  # fmt: skip


class Line:
    """A link that remembers what was sent, in the place of one with a socket."""

    def __init__(self, target: str) -> None:
        self.request = HttpRequest(method="GET", target=target)
        self.query = Link.query_of(self.request)
        self.state = None
        self.sent: list[str] = []
        self.close_code: int | None = None

    def send(self, text: str) -> None:
        self.sent.append(text)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.close_code = code

    def take(self) -> list[str]:
        taken, self.sent = self.sent, []
        return taken


class Session:
    """A logged-in adapter on a line to a simulator whose time stands still between ticks."""

    def __init__(self, **settings) -> None:
        self.now_ns = BEGAN_NS
        self.simulator = HelioSimulator(interval=0, clock=lambda: self.now_ns, **settings)
        self.context = Context(
            provider="helio",
            account="main",
            options=dict(Helio.options),
            credentials={"email": EMAIL, "password": PASSWORD},
        )
        self.adapter = Helio(self.context)
        self.records: list[Record] = []

    async def open(self) -> "Session":
        (login,) = self.adapter.prepare()
        assert isinstance(login, Fetch)
        request = HttpRequest(method="POST", target="/api/v1/login", body=dumps(login.json).encode())
        answer = await self.simulator.answer(request)
        self._record("http", answer.body, url="http://127.0.0.1/api/v1/login", method="POST", status=answer.status)
        for item in self.adapter.fetched(login.tag, Answer(status=answer.status, text=answer.body)):
            if isinstance(item, Learned):
                self.context.learned.update(item.values)
        self.line = Line(f"/api/v1/ws?{urlencode({'token': self.context.learned['token']})}")
        self._record("open", url="ws://127.0.0.1/api/v1/ws?token=...")
        self.simulator.links.append(self.line)
        self.simulator.opened(self.line)
        return self

    def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``; return what it makes of the answers."""
        return [item for text in self.adapter.encode(outgoing) for item in self.send(text)]

    def send(self, text: str) -> list:
        self._record("out", text)
        self.simulator.received(self.line, text)
        return self.hear()

    def tick(self, steps: int = 1) -> list:
        items = []
        for _ in range(steps):
            self.now_ns += SECOND // 4
            self.simulator.tick()
            items += self.hear()
        return items

    def hear(self) -> list:
        texts = self.line.take()
        for text in texts:
            self._record("in", text)
        return [item for text in texts for item in self.adapter.decode(text)]

    def _record(self, dir, data="", **about) -> None:
        self.records.append(Record(t=self.now_ns / SECOND, dir=dir, data=data, **about))


def page_records() -> Iterator[Record]:
    for dir, text in PAGE:
        yield Record(t=BEGAN_NS / SECOND, dir=dir, data=text)


def place(id: str, **members) -> PlaceOrder:
    asked = {"symbol": "EURUSD", "side": "BUY", "order_type": "MARKET", "quantity": "10000", **members}
    return PlaceOrder(id=id, account="main", **asked)


def whole_day() -> list[Command]:
    """One command of each kind, in an order that makes each succeed."""
    return [
        place("c1", quantity="250000", client_order_id="mine-1"),
        place("c2", order_type="LIMIT", limit_price="1.05", quantity="20000"),
        AmendOrder(id="c3", order_id="ord_2", limit_price="1.06000", quantity="30000"),
        CancelOrder(id="c4", order_id="ord_2"),
        place("c5", symbol="XAUUSD", side="SELL", quantity="100000"),
        AmendPosition(id="c6", position_id="pos_1", stop_loss="1.01000", take_profit="1.20000"),
        ClosePosition(id="c7", position_id="pos_1", quantity="50000"),
        ClosePosition(id="c8", position_id="pos_1"),
        OrderHistory(id="c9"),
        PositionHistory(id="c10"),
        TradeHistory(id="c11"),
    ]


async def record() -> list[Record]:
    """The session of the fixture: the page's examples, then all the simulator has to say."""
    session = await Session().open()
    topics = (Topic(kind="quote", symbol="EURUSD"), Topic(kind="quote", symbol="GBPUSD"), Topic(kind="depth", symbol="EURUSD"),
              Topic(kind="account", account="main"))  # fmt: skip
    session.say(Subscribe(topics))
    session.tick(2)
    for command in whole_day():
        session.say(command)
        session.tick()
    session.send('{"type":"makeCoffee","payload":{}}')
    session.send("{")
    session.say(Unsubscribe(topics[1:3]))
    session.tick()
    http, opened, *rest = session.records
    return [http, opened, *page_records(), *rest]
