"""A session with the simulated Helio without sockets: what the page's examples are, and everything the simulator can say."""

from collections.abc import Iterator
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

import attrs

from relay.adapter import Answer, Context, Fetch, Learned, Reconcile, Subscribe, Unsubscribe, dumps
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
from relay.model.events import Reply
from relay.provider import session_events
from relay.provider.session import SessionMachine
from relay.provider.session_events import Now
from relay.testing.port import HttpRequest
from relay.testing.recording import Record
from relay.trading.pending import AccountRef
from relay.trading.registry import CommandRegistry
from relay_helio.adapter import Helio
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line, OnALine

#: The examples of https://docs.helio.trade/trader/websocket, verbatim.
PAGE = (
    ("out", '{ "type": "subscribe", "payload": { "symbols": ["EURUSD", "GBPUSD"], "events": ["quoteEvent", "executionEvent"] } }'),
    ("in", '{ "type": "subscribed", "payload": { "symbols": ["EURUSD", "GBPUSD"], "events": ["quoteEvent", "executionEvent"] } }'),
    ("in", '{ "type": "quoteEvent", "payload": { "symbol": "EURUSD", "bid": 1.0843, "ask": 1.0844, "ts": "2026-06-01T12:00:00Z" } }'),
    ("out", '{\n"type": "createOrder",\n"payload": {\n"accountId": "acc_123",\n"symbol": "EURUSD",\n"side": "BUY",\n'
            '"quantity": 10000,\n"type": "MARKET"\n}\n}'),
)  # fmt: skip


#: The answers of https://docs.helio.trade/trader/api/trading/get-portfolio and /trader/api/history/order-history.
REST_ORDER = {
    "id": "ord_123456", "account_id": "acc_123456", "symbol_id": "EURUSD", "symbol_name": "EURUSD", "position_id": "pos_123456",
    "client_order_id": "client_123", "parent_order_id": "ord_parent_123", "cancels_order_id": "ord_cancel_123",
    "created_at": "2025-01-01T12:00:00Z", "updated_at": "2025-01-01T12:30:00Z", "expiration_date": "2025-01-02T12:00:00Z",
    "qty_original": 1, "qty_filled": "0.5", "qty_remaining": "0.5", "limit_price": "1.085", "stop_price": "1.084",
    "fill_price": "1.0851", "side": "TRADE_SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "status": "ORDER_STATUS_WORKING",
    "time_in_force": "TIF_GTC", "comment": "Manual order",
}  # fmt: skip
REST_PORTFOLIO = {
    "account_id": "acc_123456", "currency": "USD", "balance": 10000, "unrealized_pnl": "150.5", "used_margin": 2500,
    "in_margin_call": False, "in_stop_out": False, "status": "TRADE_STATUS_FULL",
    "positions": [{
        "id": "pos_123456", "symbol_id": "EURUSD", "account_id": "acc_123456", "order_id": "ord_123456", "symbol_name": "EURUSD",
        "open_price": "1.085", "close_price": "1.086", "side": "TRADE_SIDE_BUY", "status": "POSITION_STATUS_OPEN",
        "is_closing": False, "commission": "2.5", "swap": "-0.15", "profit": 100, "units": 100000, "qty": 1, "qty_closed": 0,
        "comment": "Manual trade", "created_at": "2025-01-01T12:00:00Z", "updated_at": "2025-01-01T12:30:00Z",
        "funding_accrued": "-1.25",
    }],
    "orders": [REST_ORDER],
}  # fmt: skip


class Session(OnALine):
    """A logged-in adapter on its line."""

    step_ns = SECOND // 4

    def __init__(self, **settings) -> None:
        super().__init__()
        self.simulator = HelioSimulator(interval=0, clock=self.clock, **settings)
        self.context = Context(
            provider="helio",
            account="main",
            options=Helio.defaults(),
            credentials={"email": EMAIL, "password": PASSWORD},
        )
        self.adapter = Helio(self.context)

    async def open(self) -> "Session":
        (login,) = self.adapter.prepare()
        assert isinstance(login, Fetch)
        request = HttpRequest(method="POST", target="/api/v1/login", body=dumps(login.json).encode())
        answer = await self.simulator.answer(request)
        self.record("http", answer.body, url="http://127.0.0.1/api/v1/login", method="POST", status=answer.status)
        for item in self.adapter.fetched(login.tag, Answer(status=answer.status, text=answer.body)):
            if isinstance(item, Learned):
                self.context.learned.update(item.values)
        line = Line(f"/api/v1/ws?{urlencode({'token': self.context.learned['token']})}")
        self.connect(line, "ws://127.0.0.1/api/v1/ws?token=...")
        return self

    def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``; return what it makes of the answers."""
        if isinstance(outgoing, Command):
            key = f"{self.context.learned['token']}/{outgoing.id}"
            outgoing = Helio.orders.named(outgoing, lambda: str(uuid5(NAMESPACE_URL, key)))
        return [item for text in self.adapter.encode(outgoing) if isinstance(text, str) for item in self.send(text)]

    async def ask(self, outgoing) -> list:
        """The same of what the adapter asks over HTTP."""
        items, waiting = [], list(self.adapter.encode(outgoing))
        while waiting:
            fetch = waiting.pop(0)
            asked = attrs.evolve(fetch, url=f"/api/v1{fetch.url}")
            _, answer = await self.answered(asked)
            found = list(self.adapter.fetched(fetch.tag, answer))
            items += found
            waiting += [item for item in found if isinstance(item, Fetch)]
        return items


class Machine:
    """A session machine that is logged in and up, without sockets and without anybody at the other end.

    Attributes:
        events: everything that was published.
        sent: the frames that were sent.
    """

    def __init__(self, **options) -> None:
        self.events: list = []
        self.sent: list[str] = []
        self.now = 0.0
        self.commands = CommandRegistry()
        context = Context(provider="helio", account="main", options={**Helio.defaults(), **options},
                          credentials={"email": EMAIL, "password": PASSWORD})  # fmt: skip
        self.machine = SessionMachine(Helio, context, publish=self._publish, commands=self.commands, uniform=lambda: 0.5,
                                      correlation=lambda: "uuid")  # fmt: skip
        login = {"access_token": "t0", "expires_at": 2**31, "accounts": [{"id": "acc_123456"}]}
        (request,) = self._do(session_events.Start())
        self._do(session_events.Fetched(request.id, Answer(status=200, text=dumps(login))))
        self._do(session_events.Opened())

    def _publish(self, event, stamp, now) -> None:
        self.events.append(event)
        if isinstance(event, Reply):
            self.commands.settle(event, stamp, now)

    def _at(self) -> Now:
        return Now(self.now, BEGAN_NS + int(self.now * SECOND))

    def _do(self, turn) -> list:
        outputs = self.machine.step(turn, self._at())
        for output in outputs:
            if isinstance(output, session_events.SendText):
                self.sent.append(output.text)
                self.machine.written()
        return outputs

    def want(self, topic: Topic) -> None:
        self._do(session_events.WantTopic(topic))

    def say(self, command: Command, within: float = 1000.0) -> None:
        """Take a command and hand it to the session."""
        account, written = AccountRef("helio", "main"), self.machine.as_written(command)
        pending, _ = self.commands.take(account, command, None, self.now + within, self.now, written=written)
        self._do(session_events.SendCommand(pending))

    def give_up(self, command: Command) -> None:
        """The same, and wait for the answer in vain."""
        self.say(command, within=0.01)
        self.now += 0.01
        self._do(session_events.Tick())

    def hear(self, text: str) -> list:
        """Receive a message; return what is published of it."""
        published = len(self.events)
        self.machine.receive(text, self._at())
        return self.events[published:]


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
        OrderHistory(id="c9", until="2026-06-02T00:00:00Z"),
        PositionHistory(id="c10", since="2026-06-01T00:00:00Z", until="2026-06-02T00:00:00Z"),
        TradeHistory(id="c11", until="2026-06-02T00:00:00Z"),
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
        if command.id == "c2":
            await session.ask(Reconcile("2026-06-01T12:00:00Z"))
        session.tick()
    session.send('{"type":"makeCoffee","payload":{}}')
    session.send("{")
    session.say(Unsubscribe(topics[1:3]))
    session.tick()
    http, opened, *rest = session.records
    return [http, opened, *page_records(), *rest]
