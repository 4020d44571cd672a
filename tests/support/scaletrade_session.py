"""A session with the simulated ScaleTrade without sockets: the pages' examples, and everything the simulator can say."""

import re
from collections.abc import Iterator

import attrs

from relay.adapter import Context, Fetch, Hello, Learned, Partial, Ping, Send, Subscribe, Unsubscribe, dumps
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    ListAccounts,
    ListOrders,
    ListPositions,
    PlaceOrder,
    PositionHistory,
)
from relay.model.events import Account, Order, Position
from relay.provider.accounts import KnownStates, States
from relay.testing.recording import Record
from relay_scaletrade.adapter import ScaleTrade
from relay_scaletrade.payloads import PriceAlert, exact
from relay_scaletrade.simulator import LOGIN, PASSWORD, ScaleTradeSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line, OnALine

#: The examples of https://scaletrade.com/client-api/ws/ and of the pages below it, verbatim, and of the Server API's quote.
PAGE = (
    ("out", '{\n  "authorization": "<JWT_TOKEN>"\n}'),
    ("in", '{\n  "event": "authorization",\n  "success": true\n}'),
    ("in", '{\n  "event": "authorization",\n  "success": false,\n  "error": "INVALID_TOKEN"\n}'),
    ("out", '{\n  "event": "account.switch",\n  "active_login": 2000009\n}'),
    ("out", '{\n  "event": "account.switch",\n  "login": 2000009\n}'),
    ("out", '{\n  "event": "account.switch"\n}'),
    ("out", '{\n  "event": "account.switch",\n  "data": {\n    "active_login": 2000009\n  }\n}'),
    ("out", '{\n  "event": "subscribe",\n  "data": ["eurusd", "btcusd"]\n}'),
    ("out", '{\n  "event": "unsubscribe",\n  "data": ["eurusd"]\n}'),
    ("out", "ping"),
    ("in", "pong"),
    ("in", '[\n  "t",\n  "EURUSD",\n  1.10012,\n  1.10024,\n  1775481000\n]'),
    ("in", '["t","EURUSD",1.08850,1.08870,1734312345678]'),
    ("in", '[\n  "b",\n  100020,\n  12500.0,\n  850.0,\n  11650.0,\n  1470.58,\n  12610.3,\n  0.0,\n  0,\n  110.3,\n  1\n]'),
    ("in", '[\n  "o",\n  100739,\n  100020,\n  "EURUSD",\n  0,\n  100,\n  1.1001,\n  0.0,\n  1775481000,\n  0,\n  0.0,\n'
           '  0.0,\n  0,\n  0.0,\n  -1.2,\n  15.8,\n  "manual trade",\n  1\n]'),
    ("in", '["n","Order opened","Your order was opened successfully","OPEN_ORDER",1,0,100500,1734312345,'
           '{"order":58123,"symbol":"EURUSD"},201]'),
    ("in", '["a",101,100020,"EURUSD","Price Alert","EUR breakout",0,0,1.1000,0,0,0,1,0,0,1.1002,1775401200,1]'),
)  # fmt: skip
#: The answers of https://scaletrade.com/client-api/rest/ and of its pages signin, OpenTrade and CloseTrade, verbatim but for the
#: line breaks and for what the pages leave out of the profile themselves.
REST_PAGE = (
    ("POST", "/sign/in", 200,
     '{"id":100001,"login":100001,"regdate":1700000000,"leverage":100,"email":"..","avatar":"","name":"John Doe","phone":"..",'
     '"address":"..","city":"..","state":"..","country":"US","zipcode":"10001","group":"standard","currency":"USD",'
     '"__token":"<JWT>"}'),
    ("POST", "/trade/open", 400, '{"error":"INVALID_DATA","message":"Validation failed"}'),
    ("POST", "/trade/open", 200,
     '{"accepted":true,"order":1001234,"state":1,"login":1001,"symbol":"EURUSD","cmd":0,"volume":100}'),
    ("DELETE", "/trade/close", 200,
     '{"accepted":true,"order":123456,"state":7,"login":1001,"symbol":"EURUSD","cmd":0,"close_volume":100}'),
)  # fmt: skip
TOPICS = (
    Topic(kind="quote", symbol="EURUSD"),
    Topic(kind="quote", symbol="GBPUSD"),
    Topic(kind="account", account="main"),
)


def new_context(**options: str) -> Context:
    return Context(
        provider="scaletrade",
        account="main",
        options={**ScaleTrade.defaults(), **options},
        credentials={"login": str(LOGIN), "password": PASSWORD},
    )


def derived(items, states: States, *, compared: bool = False) -> Iterator:
    """Yield the items with what happened to the states among them, as a session derives it from what ``states`` knows."""
    for item in items:
        state = item.state if isinstance(item, Partial) else item
        if isinstance(state, Order | Position | Account):
            state = states.news(state, None, 0, compared=compared, partial=isinstance(item, Partial))
        if state is not None:
            yield state


class Session(OnALine):
    """An adapter on its line, with the states that a session derives."""

    def __init__(self, context: Context | None = None, **settings) -> None:
        super().__init__()
        self.simulator = ScaleTradeSimulator(interval=0, clock=self.clock, **settings)
        self.states = States()
        self.context = attrs.evolve(context or new_context(), known=KnownStates(self.states, None))
        self.adapter = ScaleTrade(self.context)

    async def open(self) -> "Session":
        """Sign in, connect, and say hello."""
        (login,) = self.adapter.prepare()
        for item in await self.fetch(login):
            if isinstance(item, Learned):
                self.context.learned.update(item.values)
        self.connect(Line("/"), "ws://127.0.0.1/")
        self.greeted = await self.say(Hello())
        return self

    async def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``; return what it makes of the answers."""
        items = []
        for written in self.adapter.encode(outgoing):
            items += await self.fetch(written) if isinstance(written, Fetch) else self.send(written)
        return items

    async def fetch(self, fetch: Fetch) -> list:
        _, given = await self.answered(fetch)
        items: list = []
        assert fetch.next_page is None or not given.ok or fetch.next_page(given) is None, "one page"
        fetched = self.adapter.fetched(fetch.tag, given)
        for item in derived(fetched, self.states, compared=True):
            items += await self.fetch(item) if isinstance(item, Fetch) else [item]
        return items + (self.hear() if hasattr(self, "line") else [])

    def hear(self) -> list:
        items = []
        while texts := [*self.taken()]:
            for text in texts:
                items += derived(self.adapter.decode(text), self.states)
                for item in items:
                    if isinstance(item, Send):
                        self.record("out", item.text)
                        self.simulator.received(self.line, item.text)
                items = [item for item in items if not isinstance(item, Send)]
        return items


def page_records() -> Iterator[Record]:
    for dir, text in PAGE:
        yield Record(t=BEGAN_NS / SECOND, dir=dir, data=text)
    for method, path, status, text in REST_PAGE:
        url = f"http://127.0.0.1{path}"
        yield Record(t=BEGAN_NS / SECOND, dir="http", data=text, url=url, method=method, status=status)


def place(id: str, **members) -> PlaceOrder:
    asked = {"symbol": "EURUSD", "side": "BUY", "order_type": "MARKET", "quantity": "100", **members}
    return PlaceOrder(id=id, account="main", **asked)


def whole_day() -> list[Command]:
    """Commands of every kind, in an order that makes each succeed; tickets are numbered from 1001234."""
    return [
        place("c1", client_order_id="mine-1", stop_loss="1.05000"),
        place("c2", order_type="LIMIT", limit_price="1.05", good_till="2026-06-02T00:00:00Z"),
        place("c3", order_type="STOP", side="SELL", stop_price="1.04000", symbol="GBPUSD", quantity="10"),
        AmendOrder(id="c4", order_id="1001235", limit_price="1.06000", take_profit="1.20000"),
        AmendPosition(id="c5", position_id="1001234", take_profit="1.30000"),
        ListPositions(id="c6"),
        ListOrders(id="c7"),
        CancelOrder(id="c8", order_id="1001235"),
        ClosePosition(id="c9", position_id="1001234", quantity="40"),
        ClosePosition(id="c10", position_id="1001234"),
        PositionHistory(id="c11", since="2026-06-01T00:00:00Z", until="2026-06-02T00:00:00Z"),
        ListAccounts(id="c12"),
        Call(id="c13", function="POST /trade/open", arguments={"login": LOGIN, "cmd": 1, "volume": 5, "symbol": "XAUUSD", "sl": 0, "tp": 0}),
    ]  # fmt: skip


def trade_frame(**members) -> str:
    """An ``o`` array: an open BUY of one lot that was merely updated, but for ``members``."""
    record = {
        "order": 7, "login": LOGIN, "symbol": "EURUSD", "cmd": 0, "volume": 100, "open_price": "1.1", "close_price": "0.0",
        "open_time": 1775481000, "close_time": 0, "tp": "0.0", "sl": "0.0", "state": 0, "storage": "0.0", "commission": "0.0",
        "profit": "1.5", "comment": "", "code": 1, **members,
    }  # fmt: skip
    number = re.compile(r"-?\d+\.\d+").fullmatch
    return dumps(
        ["o", *(exact(value) if isinstance(value, str) and number(value) else value for value in record.values())]
    )


def codes() -> Iterator[str]:
    """One trade of every cmd and state the pages or the devkit number, and one of numbers that nobody has named."""
    for order, cmd in enumerate((*range(12), 99), start=1000):
        yield trade_frame(order=order, cmd=cmd, code=0, symbol="EURUSD" if cmd not in range(6, 10) else "")
    for order, state in enumerate((*range(20), 99), start=2000):
        closed = 1775481600 if state in (3, 4, 5, 6) else 0
        yield trade_frame(order=order, state=state, close_time=closed)
        yield trade_frame(order=order + 1000, cmd=4, state=state, close_time=closed)


async def record() -> list[Record]:
    """The session of the fixture: the pages' examples, a trade of every code, then all the simulator has to say."""
    session = await Session().open()
    await session.say(Subscribe(TOPICS))
    session.simulator.alerts.append(PriceAlert(symbol="EURUSD", target=109_900))
    session.tick(2)
    for command in whole_day():
        await session.say(command)
        session.tick()
    await session.say(Ping())
    session.send('{"event":"account.switch","active_login":1}')
    await session.say(Unsubscribe(TOPICS[1:2]))
    session.tick()
    http, opened, *rest = session.records
    told = [Record(t=BEGAN_NS / SECOND, dir="in", data=text) for text in codes()]
    return [http, opened, *page_records(), *told, *rest]
