"""A session with the simulated CrossTrade without sockets: what its documentation shows, and all the simulator can say."""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import attrs
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from relay.adapter import (
    CommandReply,
    Complete,
    Context,
    Poll,
    Polled,
    Reconcile,
    Redial,
    Refresh,
    Subscribe,
    Unsubscribe,
)
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
from relay.model.events import Account, Order, Position, Trade
from relay.provider.accounts import KnownStates, States, shows_a_fill
from relay.provider.inbound import OrderSearch
from relay.provider.polls import Polls
from relay.testing.recording import Record
from relay_crosstrade.adapter import CrossTrade
from relay_crosstrade.simulator import KEY, CrossTradeSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line, OnALine

ES = Topic(kind="quote", symbol="ES 09-26")
NQ = Topic(kind="quote", symbol="NQ 09-26")
ACCOUNT = Topic(kind="account", account="Sim101")
OPTIONS = CrossTrade.defaults()
HEADERS = {"authorization": f"Bearer {KEY}"}

#: Frames that the pages give in full, verbatim: https://docs.crosstrade.io/api/websocket-api, the OpenAPI description, and the
#: samples of xt-docs.pages.dev/api/orders/{post-cancel-order,put-change-order}, .../positions/{post-close-position,get-position}.
VERBATIM = (
    ("out", '{"action":"rpc","id":"req-1","api":"PlaceOrder","args":{"account":"Sim101","instrument":"ES 09-26","action":"Buy","orderType":"Market","quantity":1,"timeInForce":"Gtc"}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"GetQuote","args":{"account":"Sim101","instrument":"ES 09-26"}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"GetAllPositions","args":{"includeFlat":false}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"Cancel","args":{"account":"Sim101","orderId":"492281fc515e431692da57d957cfebb6"}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"Change","args":{"account":"Sim101","orderId":"492281fc515e431692da57d957cfebb6","quantity":2,"limitPrice":5400.00}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"ClosePosition","args":{"account":"Sim101","instrument":"ES 09-26"}}'),
    ("out", '{"action":"rpc","id":"my-request-id","api":"GetPosition","args":{"account":"Sim101","instrument":"ES 09-26"}}'),
    ("out", '{"action":"subscribe","instruments":["ES 03-26"]}'),
    ("out", '{"action":"unsubscribe","instruments":["ES 03-26"]}'),
    ("out", '{"action":"streamPnl","enabled":true,"interval":1000}'),
    ("out", '{"action":"ping"}'),
    ("in", '{"id":"req-1","data":{"error":"Add-on not connected"}}'),
)  # fmt: skip
#: Documented messages whose values the documentation elides, and what is not documented in the spelling that is assumed. The
#: numbers are those of the documentation's bodies of GetQuote, GetAllPositions and the snapshot, where it has any.
ASSEMBLED = (
    ("in", '{"type":"marketData","quotes":[{"instrument":"ES 03-26","bid":5781.75,"ask":5782.25,"last":5782.0,"volume":574915}]}'),
    ("in", '{"type":"marketData","quotes":[{"instrument":"ES 03-26","bid":5781.75},{"instrument":"MES 03-26","last":6614.25,"ask":null}]}'),
    ("in", '{"id":"req-1","data":{"orderId":"cb1f","success":true}}'),
    ("in", '{"id":"req-1","data":{"error":"Invalid request"}}'),
    ("in", '{"id":"req-1","data":{"success":false,"error":"invalid_account","detail":".."}}'),
    ("in", '{"id":"my-request-id","data":{"instrument":"ES 09-26","type":"Future","bid":5781.75,"ask":5782.25,"last":5782.0,"volume":574915,"tickSize":0.25,"pointValue":50.0,"success":true}}'),
    ("in", '{"id":"my-request-id","data":{"positions":[{"type":"NinjaTrader.Cbi.Position","account":"Sim101","instrument":"MES 03-26","instrumentType":"Future","marketPosition":"Long","quantity":7,"averagePrice":6615.178571428572,"marketPrice":6614.25,"unrealizedProfitLoss":-32.5,"tag":null}],"count":2,"success":true}}'),
    ("in", '{"id":"my-request-id","data":{"orderId":"ce0a8e5002ea463e856eb6384f5cee7e","success":true}}'),
    ("in", '{"id":"my-request-id","data":{"error":"Order linked to \'ce0a8e5002ea463e856eb6384f5cee7e\' not found or already terminal."}}'),
    ("in", '{"id":"my-request-id","data":{"status":"Filled","success":true}}'),
    ("in", '{"id":"my-request-id","data":{"closedPositions":[{"type":"NinjaTrader.Cbi.Position","account":"Sim101","instrument":"ES 12-25","instrumentType":"Future","marketPosition":"Long","quantity":4,"averagePrice":5779.8125,"marketPrice":5797.0,"unrealizedProfitLoss":3437.5}],"success":true}}'),
    # the bodies of GET Order and GET Executions as far as the pages show them, then as assumed; and the order's end, assumed
    ("in", '{"id":"ask order 50cca7b8051146c684087db511107983","data":{"account":"Sim101","orderId":"50cca7b8051146c684087db511107983","instrument":"ES 12-25","instrumentType":"Future","orderType":"Market","orderState":"CancelPending","quantity":1,"averageFillPrice":0.0,"filled":0,"fromEntrySignal":null,"gtd":"2099-12-01T00:00:00.0000000","hasOverfill":false,"isBacktestOrder":false,"limitPrice":0.0,"limitPriceChanged":0.0,"oco":"","orderAction":"SellShort","stopPrice":0.0,"timeInForce":"Gtc","success":true}}'),
    ("in", '{"id":"ask order 50cca7b8051146c684087db511107983","data":{"account":"Sim101","orderId":"50cca7b8051146c684087db511107983","instrument":"ES 12-25","orderType":"Market","orderState":"Cancelled","quantity":1,"filled":0,"orderAction":"SellShort","success":true}}'),
    ("in", '{"id":"ask fills Sim101","data":{"executions":[{"id":"550837ff9e784c2895ef6dab22d06be0","type":"NinjaTrader.Cbi.Execution","time":"2025-09-26T18:09:38.3736787","epoch":1727399378373,"name":"Exit","orderId":"d99b2043460849ddae409d1b15cb92ff","account":"Sim101","serverName":"DESKTOP-200Q1V3","instrument":"ES 12-25","instrumentType":"Future","position":0,"marketPosition":"Short","positionStrategy":0,"price":5804.5,"quantity":1,"commission":2.09}],"success":true}}'),
    # assumed: the element of a pnlUpdate (twice), the pong, both shapes of a refusal by the rate limit
    ("in", '{"type":"pnlUpdate","epoch":1741618393090,"accounts":[{"name":"Sim101","realizedPnl":0.0,"unrealizedPnl":412.99,"netLiquidation":154185.375}]}'),
    ("in", '{"type":"pnlUpdate","epoch":1741618393090,"accounts":[{"account":{"id":15,"name":"Sim110","denomination":"UsDollar","status":"Enabled","isAccountFlat":false,"connectionStatus":"Connected","item":{"cashValue":153772.375,"netLiquidation":154185.375,"realizedProfitLoss":0.0,"unrealizedProfitLoss":412.99}},"positions":[]}]}'),
    ("in", '{"type":"pong"}'),
    ("in", '{"id":"req-1","data":{"error":"Rate limit exceeded"}}'),
    ("in", '{"id":"req-1","error":"Rate limit exceeded"}'),
)  # fmt: skip


class Published:
    """The events that a session publishes for an adapter's items: states with what happened, none where nothing did.

    Attributes:
        known: the states, as an adapter sees them.
        fills: the accounts on which a state among the last items showed that something was filled.
    """

    def __init__(self, account="Sim101") -> None:
        self.account = account
        self._states = States()
        self.search = OrderSearch(self._states, account)
        self._now = 0
        self.known = KnownStates(self._states, account)
        self.fills: list[str | None] = []

    def __call__(self, items, *, missed=False, listed=False) -> list:
        """Return the events; ``missed``: the items are of a reconciliation, ``listed``: of an answer to a poll."""
        self._now += 1
        may_lag = listed
        published, listed = [], []
        self.fills = []
        for item in items:
            if isinstance(item, Order | Position | Account):
                listed.append(item)
                before = self._states.find(item.kind, item.account or self.account, getattr(item, "id", ""))
                compared = missed or bool(item.reconciled)
                item = self._states.news(item, self.account, self._now, compared=compared, may_lag=may_lag)
                if item is not None and not missed and shows_a_fill(item, before):
                    self.fills.append(item.account)
                item = attrs.evolve(item, reconciled=True) if missed and item is not None else item
            elif isinstance(item, Trade) and missed:
                item = attrs.evolve(item, reconciled=True)
            elif isinstance(item, Complete) and item.kind == "position":
                account = item.account or self.account
                ids = {
                    each.id for each in listed if each.kind == item.kind and (each.account or self.account) == account
                }
                published += self._states.end_missing(item.kind, account, ids, self._now)
            elif isinstance(item, CommandReply) and item.error is None:
                for command in self.known.commands():
                    if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                        self._states.placed(self.account, item.result["order_id"], command.client_order_id)
            if item is not None:
                published.append(item)
        return published


class Questions:
    """The polls of one connection, as a session asks them.

    Attributes:
        asked: every poll that was asked, in order.
    """

    def __init__(self) -> None:
        self.polls = Polls()
        self.search: OrderSearch | None = None
        self.asked: list[Poll] = []

    def read(self, adapter, published, items, now) -> list:
        """Return what a session publishes of a message, whose polls begin and are answered."""
        items = list(items)
        poll = next((item.name for item in items if isinstance(item, Polled) and item.failed is None), None)
        self.search = published.search if self.search is None else self.search
        items = self.search.read(items, poll)
        for name in self.search.again:
            self.polls.again(name)
        for item in items:
            if isinstance(item, Complete) and item.kind == "order":
                listed = {each.id for each in items if isinstance(each, Order) and each.account == item.account}
                self.search.seeks += self.search.lack(item.account or published.account, listed)
        self.take([poll for seek in self.search.seeks for poll in adapter.encode(seek)], now)
        answered = [item.name for item in items if isinstance(item, Polled) and item.failed is None]
        missed = any(map(self.polls.is_missed, answered))
        for item in items:
            if isinstance(item, Poll) and item.every is None:
                self.polls.put(item, missed=missed)
        told = published(self.take(items, now), missed=missed, listed=bool(answered))
        for account in published.fills:
            self.take(adapter.encode(Refresh(account)), now)
        return told

    def take(self, items, now, *, missed=False) -> list:
        """Begin and answer the polls among ``items``; return the others, with the error of a poll that failed."""
        rest = []
        for item in items:
            if isinstance(item, Poll):
                self.polls.put(item, missed=missed)
            elif isinstance(item, Polled):
                first = self.polls.answered(item.name, now, failed=item.failed is not None, final=item.final)
                rest += [item.failed] if first else []
            else:
                rest.append(item)
        return rest

    def due(self, now) -> str | None:
        """The frame that is to be sent now; what came too late has failed."""
        if (late := self.polls.overdue(now)) is not None:
            self.polls.answered(late, now, failed=True)
        poll = self.polls.take_due(now)
        if poll is None:
            return None
        assert poll.of == "call", "a poll is charged"
        self.polls.sent(poll.name, now)
        self.asked.append(poll)
        return str(poll.request)


class Session(OnALine):
    """An adapter on its line, and the polls that a session makes."""

    step_ns = SECOND // 2

    def __init__(self, options=OPTIONS, account="Sim101") -> None:
        super().__init__()
        self.simulator = CrossTradeSimulator(interval=0, clock=self.clock)
        self.published = Published(account)
        self.context = Context(
            provider="crosstrade",
            account=account,
            options=options,
            credentials={"key": KEY},
            known=self.published.known,
        )
        self.dial()

    def dial(self) -> None:
        """A new connection, with a new adapter."""
        self.adapter = CrossTrade(self.context)
        self.questions = Questions()
        line = Line("/ws/stream", **HEADERS)
        assert self.simulator.admit(line.request) is None
        self.simulator.links.clear()
        self.connect(line, "ws://127.0.0.1/ws/stream")

    def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``; return what it makes of the answers."""
        missed, writings = isinstance(outgoing, Reconcile), self.adapter.encode(outgoing)
        if isinstance(outgoing, Command):
            self.published.known.waiting = lambda: [outgoing]
        written = self.questions.take(writings, self.now_ns / SECOND, missed=missed)
        return [item for text in written for item in self.send(text)] + self.ask()

    def hear(self) -> list:
        """Read what came, and ask at once what is to be, as a session does."""
        items = []
        for text in self.taken():
            decoded = self.adapter.decode(text)
            for item in self.questions.read(self.adapter, self.published, decoded, self.now_ns / SECOND):
                items.append(item)
                if isinstance(item, Redial):
                    self.line.take()
        return items + self.ask()

    def ask(self) -> list:
        """Ask what is due; return what the answer tells."""
        text = self.questions.due(self.now_ns / SECOND)
        return [] if text is None else self.send(text)


def page_records() -> Iterator[Record]:
    for dir, text in (*VERBATIM, *ASSEMBLED):
        yield Record(t=BEGAN_NS / SECOND, dir=dir, data=text)


def place(id: str, **members) -> PlaceOrder:
    return PlaceOrder(
        id=id, **{"symbol": "ES 09-26", "side": "BUY", "order_type": "MARKET", "quantity": "2", **members}
    )


def whole_day() -> list[Command]:
    """One command of each kind, in an order that makes each succeed but the two that are refused.

    ``@`` stands for the id of the order that c3 placed.
    """
    return [
        place("c1", client_order_id="mine-1"),
        GetQuote(id="c2", symbol="ES 09-26"),
        place("c3", symbol="NQ 09-26", order_type="LIMIT", limit_price="20000.00", time_in_force="GTC"),
        place("c4", quantity="100000"),
        place("c5", symbol="XX 09-26"),
        ListOrders(id="c6"),
        AmendOrder(id="c7", order_id="@", limit_price="20001.25"),
        CancelOrder(id="c8", order_id="@"),
        ListPositions(id="c9"),
        Call(id="c10", function="GetPosition", arguments={"account": "Sim101", "instrument": "ES 09-26"}),
        ClosePosition(id="c11", position_id="ES 09-26", quantity="1"),
        ClosePosition(id="c12", position_id="ES 09-26"),
        OrderHistory(id="c13", symbol="NQ 09-26"),
        TradeHistory(id="c14"),
        ListAccounts(id="c15"),
    ]


def carried_out(session: Session) -> Iterator[CommandReply]:
    """The replies to a whole day's commands, with time enough between them that none meets the limits."""
    resting = ""
    for command in whole_day():
        if command.id == "c11":
            session.now_ns += 400 * SECOND  # the fill of the first order is no longer looked back at
        if getattr(command, "order_id", "") == "@":
            command = attrs.evolve(command, order_id=resting)
        reply = next(item for item in session.say(command) if isinstance(item, CommandReply))
        resting = reply.result["order_id"] if command.id == "c3" else resting
        yield reply
        session.now_ns += 3 * SECOND
        session.tick(2)


def record() -> list[Record]:
    """The session of the fixture: the page's examples, then all the simulator has to say."""
    session = Session()
    session.say(Reconcile())
    session.say(Subscribe((ES, NQ, ACCOUNT)))
    session.tick(2)
    deque(carried_out(session), maxlen=0)
    session.simulator.addon = False
    session.say(ListPositions(id="c16"))
    session.simulator.addon = True
    session.send('{"action":"makeCoffee"}')
    session.send('{"action":"ping"}')
    session.say(Unsubscribe((NQ,)))
    session.tick()
    opened, *rest = session.records
    return [opened, *page_records(), *rest]


@asynccontextmanager
async def client(url: str, key: str = KEY) -> AsyncIterator[WebSocketConnection]:
    """Connect as the page's example does: the key as bearer token of the upgrade."""
    async with open_websocket_url(url, extra_headers=[("Authorization", f"Bearer {key}")]) as socket:
        try:
            yield socket
        finally:
            if socket.closed:
                await trio.aclose_forcefully(socket._stream)
