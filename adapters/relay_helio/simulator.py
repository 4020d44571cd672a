"""Helio's trader server, simulated: login, the WebSocket API, and a small market and account behind it.

Faithful to https://docs.helio.trade/trader/websocket where it speaks. Where it does not, this server's choices are:

- members of the account's messages as `relay_helio.payloads` writes them;
- a bad token is closed with 1008 (``bad_token="refuse"`` answers the upgrade with 401 instead);
- history (all there is, whatever ``from`` and ``to`` say) and amendPosition are answered by a message of the request's type;
- quantities are one measure everywhere, so that ``qty`` and ``units`` of a position are the same number;
- depth and metrics are not acknowledged but sent at once, and a subscription to the portfolio is followed by the portfolio.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import msgspec
import trio
from attrs import Factory, define

from relay.adapter import dumps, loads
from relay.model.enums import PositionEvent
from relay.plugins.hookspecs import Simulated
from relay.testing.account import (
    Change,
    Filled,
    OrderMoved,
    PlacedOrder,
    PositionMoved,
    SimulatedRefusal,
    Ticket,
    TradingAccount,
)
from relay.testing.market import BookMoved, Market, QuoteMoved, Tradable
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from relay_helio import payloads
from relay_helio.exchange import SimulatedExchange
from relay_helio.reports import members

INSTRUMENTS = (
    Tradable(symbol="EURUSD", price=108_430, decimals=5),
    Tradable(symbol="GBPUSD", price=127_120, decimals=5, spread=2),
    Tradable(symbol="USDJPY", price=149_250, decimals=3),
    Tradable(symbol="XAUUSD", price=265_040, decimals=2, tick=5, spread=4, size_decimals=2, typical=500),
)
EMAIL, PASSWORD, ACCOUNT = "client@example.com", "password123", "acc_123456"
#: Another user, with an account of its own.
SECOND_EMAIL, SECOND_PASSWORD, SECOND_ACCOUNT = "second@example.com", "password456", "acc_234567"
_USERS = {(EMAIL, PASSWORD): ACCOUNT, (SECOND_EMAIL, SECOND_PASSWORD): SECOND_ACCOUNT}
EVENTS = ("quoteEvent", "executionEvent", "portfolioEvent")


@define(eq=False)
class _Subscribed:
    """One session: its user's account, the symbols by event, the levels of depth by symbol, and the orders it placed."""

    exchange: SimulatedExchange
    symbols: dict[str, set[str]] = Factory(lambda: {event: set() for event in EVENTS})
    depth: dict[str, int | None] = Factory(dict)
    metrics: bool = False
    orders: set[str] = Factory(set)


class HelioSimulator(Simulator):
    """One Helio broker with two users, each with one account.

    Args:
        seed: of the market.
        interval: seconds between two moves of the market; 0 leaves moving it to `tick`.
        token_lifetime: seconds a token is good for; after that its sessions are closed.
        bad_token: what a connection without a valid token gets: accepted and closed with 1008, or refused with 401.
        clock: Unix nanoseconds.

    Attributes:
        account, exchange: those of the first user.
    """

    ws_path = "/api/v1/ws"
    http_path = "/api/v1"
    ping_every = 15.0

    def __init__(
        self,
        *,
        seed: int = 1,
        interval: float = 0.2,
        instruments: Iterable[Tradable] = INSTRUMENTS,
        token_lifetime: int = 3600,
        bad_token: Literal["close", "refuse"] = "close",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.market = Market(instruments, seed=seed, start_ns=clock())
        self.exchanges = {
            name: SimulatedExchange(self.market, TradingAccount(self.market, name), clock) for name in _USERS.values()
        }
        self.exchange = self.exchanges[ACCOUNT]
        self.account = self.exchange.account
        self.tokens: dict[str, int] = {}
        self._account_of: dict[str, str] = {}
        self._interval = interval
        self._token_lifetime = token_lifetime
        self._bad_token = bad_token
        self._clock = clock
        self._handlers: Mapping[str, Callable[[Link, dict[str, Any]], None]] = {
            "subscribe": partial(self._subscribe, on=True),
            "unsubscribe": partial(self._subscribe, on=False),
            "depthSubscribe": self._depth_subscribe,
            "depthUnsubscribe": lambda link, asked: link.state.depth.pop(asked["symbol"], None),
            "metricsSubscribe": self._metrics_subscribe,
        }

    # --- login and sessions ------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        if (request.method, request.target) == ("POST", "/api/v1/login"):
            return self._login(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self._is_valid(token):
            return _failed(401, 16, "invalid token")
        exchange = self._exchange_of(token)
        path = request.target.partition("?")[0].removeprefix(f"/api/v1/accounts/{exchange.account.id}/")
        found = exchange.rest(path) if request.method == "GET" else None
        return _failed(404, 5, "Not Found") if found is None else HttpResponse(body=dumps(found))

    def _login(self, request: HttpRequest) -> HttpResponse:
        try:
            given = members(loads(request.body))
        except (msgspec.DecodeError, TypeError, RecursionError):
            return _failed(400, 3, "the body is no JSON object")
        account = _USERS.get((str(given.get("email")), str(given.get("password"))))
        if account is None:
            return _failed(401, 16, "invalid email or password")
        token = f"eyJhbGciOiJIUzI1NiJ9.c2ltdWxhdGVk.{len(self.tokens) + 1}"
        expires_at = self._clock() // 1_000_000_000 + self._token_lifetime
        self.tokens[token] = expires_at
        self._account_of[token] = account
        accounts = [{"id": account, "gid": "retail_group_1"}]
        return HttpResponse(body=dumps({"access_token": token, "expires_at": expires_at, "accounts": accounts}))

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        if not request.target.startswith(self.ws_path):
            return _failed(404, 5, "Not Found")
        if self._bad_token == "refuse" and not self._is_valid(Link.query_of(request).get("token", "")):
            return _failed(401, 16, "invalid token")
        return None

    def opened(self, link: Link) -> None:
        token = link.query.get("token", "")
        link.state = _Subscribed(self._exchange_of(token))
        if not self._is_valid(token):
            link.close(1008, "invalid token")

    def _exchange_of(self, token: str) -> SimulatedExchange:
        return self.exchanges[self._account_of.get(token, ACCOUNT)]

    def _is_valid(self, token: str) -> bool:
        return self.tokens.get(token, 0) > self._clock() // 1_000_000_000

    def received(self, link: Link, message: str | bytes) -> None:
        exchange: SimulatedExchange = link.state.exchange
        try:
            match loads(message):
                case {"type": str() as kind, "payload": dict() as payload} if kind in self._handlers:
                    self._handlers[kind](link, members(payload))
                case {"type": str() as kind, "payload": dict() as payload} if kind in exchange:
                    changes, answer = exchange.take(kind, members(payload))
                    if answer is not None:
                        _send(link, kind, answer)
                    self._changed(exchange, changes, by=link)
                case {"type": str() as kind} if kind not in self._handlers and kind not in exchange:
                    raise SimulatedRefusal("UNKNOWN_TYPE", f"no such message: {kind[:64]}")
                case _:
                    raise SimulatedRefusal("INVALID_MESSAGE", "expected an object with type and payload")
        except (msgspec.DecodeError, RecursionError):
            _send(link, "error", {"code": "INVALID_MESSAGE", "message": "not JSON"})
        except SimulatedRefusal as refusal:
            _send(link, "error", {"code": refusal.code, "message": str(refusal)})
        except (KeyError, TypeError, ValueError) as error:
            _send(link, "error", {"code": "INVALID_PAYLOAD", "message": f"{type(error).__name__}: {error}"})

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def _subscribe(self, link: Link, asked: dict[str, Any], *, on: bool) -> None:
        symbols, events = _texts(asked, "symbols"), _texts(asked, "events")
        for symbol in symbols:
            self.exchange.listed(symbol)
        for event in events:
            if event not in EVENTS:
                raise SimulatedRefusal("UNKNOWN_EVENT", f"no such event: {event}")
            (link.state.symbols[event].update if on else link.state.symbols[event].difference_update)(symbols)
        _send(link, "subscribed" if on else "unsubscribed", {"symbols": symbols, "events": events})
        if on and "quoteEvent" in events:
            for symbol in symbols:
                self._send_quote(link, self.market.quote(symbol))
        if on and "portfolioEvent" in events:
            _send(link, "portfolioEvent", payloads.portfolio(self.market, link.state.exchange.account, ()))

    def _depth_subscribe(self, link: Link, asked: dict[str, Any]) -> None:
        symbol, depth = self.exchange.listed(asked["symbol"]), asked.get("depth")
        if depth is not None and (not isinstance(depth, int) or depth < 1):
            raise SimulatedRefusal("INVALID_PAYLOAD", "depth: expected a positive integer")
        link.state.depth[symbol] = depth
        self._send_depth(link, symbol)

    def _metrics_subscribe(self, link: Link, asked: dict[str, Any]) -> None:
        account = link.state.exchange.account
        if asked.get("accountId") != account.id:
            raise SimulatedRefusal("UNKNOWN_ACCOUNT", f"no such account: {asked.get('accountId')!r:.64}")
        link.state.metrics = True
        _send(link, "metricsEvent", payloads.metrics(self.market, account))

    # --- what is told ------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        while self._interval:
            await trio.sleep(self._interval)
            self.tick()
        await trio.sleep_forever()

    def tick(self) -> None:
        """Move the market once and tell everybody."""
        now_ns = self._clock()
        for link in list(self.links):
            if not self._is_valid(link.query.get("token", "")):
                link.close(1008, "token expired")
        for move in self.market.step(now_ns):
            for link in self.links:
                if isinstance(move, QuoteMoved) and move.symbol in link.state.symbols["quoteEvent"]:
                    self._send_quote(link, move)
                elif isinstance(move, BookMoved) and move.symbol in link.state.depth:
                    self._send_depth(link, move.symbol)
        for exchange in self.exchanges.values():
            self._changed(exchange, exchange.account.step(now_ns))
            if exchange.account.positions:  # their profit moved with the market
                self._tell_metrics(exchange)

    def trade(self, ticket: Ticket) -> None:
        """Trade as the first user at another terminal. Raises SimulatedRefusal."""
        self._changed(self.exchange, self.account.place(ticket, self._clock()))

    def _links_of(self, exchange: SimulatedExchange) -> Iterable[Link]:
        return (link for link in self.links if link.state.exchange is exchange)

    def _changed(self, exchange: SimulatedExchange, changes: list[Change], by: Link | None = None) -> None:
        """Tell what happened on the account: executions to those who ordered or subscribed, then portfolio and metrics."""
        fill: Filled | None = None
        closed = []
        for change in changes:
            match change:
                case Filled():
                    fill = change
                case OrderMoved(order=order):
                    if by is not None:
                        by.state.orders.add(order.id)
                    self._tell_execution(exchange, order, fill)
                    fill = None
                case PositionMoved(position=position, event=PositionEvent.POSITION_CLOSED):
                    closed.append(position)
        symbols = {change.position.symbol for change in changes if isinstance(change, PositionMoved)}
        if symbols:
            for link in self._links_of(exchange):
                if link.state.symbols["portfolioEvent"] & symbols:
                    _send(link, "portfolioEvent", payloads.portfolio(self.market, exchange.account, closed))
            if by is not None or not exchange.account.positions:
                self._tell_metrics(exchange)

    def _tell_execution(self, exchange: SimulatedExchange, order: PlacedOrder, fill: Filled | None) -> None:
        payload = payloads.execution(self.market, exchange.account, order, fill)
        for link in self._links_of(exchange):
            if order.id in link.state.orders or order.ticket.symbol in link.state.symbols["executionEvent"]:
                _send(link, "executionEvent", payload)

    def _tell_metrics(self, exchange: SimulatedExchange) -> None:
        for link in self._links_of(exchange):
            if link.state.metrics:
                _send(link, "metricsEvent", payloads.metrics(self.market, exchange.account))

    def _send_quote(self, link: Link, quote: QuoteMoved) -> None:
        _send(link, "quoteEvent", payloads.quote(self.market, quote))

    def _send_depth(self, link: Link, symbol: str) -> None:
        _send(link, "depthEvent", payloads.depth(self.market, self.market.book(symbol, link.state.depth[symbol])))


def _send(link: Link, type: str, payload: dict[str, Any]) -> None:
    link.send(dumps({"type": type, "payload": payload}))


def _texts(asked: dict[str, Any], name: str) -> list[str]:
    value = asked.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise SimulatedRefusal("INVALID_PAYLOAD", f"{name}: expected an array of text")
    return value


def _failed(status: int, code: int, message: str) -> HttpResponse:
    return HttpResponse(status=status, body=dumps({"code": code, "message": message, "details": []}))


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated Helio until cancelled; `nursery.start` returns its address. Log in as `EMAIL` with `PASSWORD`."""
    async with HelioSimulator(seed=seed).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(
    provider="helio",
    adapter="helio",
    run=run,
    credentials={"email": EMAIL, "password": PASSWORD},
    account="main",
    more_accounts={"second": {"email": SECOND_EMAIL, "password": SECOND_PASSWORD}},
    options={"portfolio": "whole"},
    symbols={"EURUSD": "EUR/USD", "GBPUSD": "GBP/USD", "USDJPY": "USD/JPY", "XAUUSD": "XAU/USD"},
    pinned=("quote EUR/USD", "account main"),
)
