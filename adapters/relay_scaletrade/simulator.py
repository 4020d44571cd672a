"""A ScaleTrade broker, simulated: sign-in and trading over REST, the stream, and a small market and account behind them.

Faithful to https://scaletrade.com/client-api/ where it speaks, in both of its versions: the older one (1) does not answer
the authorization, acknowledges with ``{"data": "OK"}`` and takes every order at /trade/open; the newer one (2) answers,
wants ``account.switch`` and acknowledges with the ticket. Where the pages are silent, this server's choices are:

- what is not understood, or said before the authorization, is ignored (and kept in `ScaleTradeSimulator.ignored`);
- a bad token is answered as documented in version 2, and closed with 1008 in version 1;
- ``account.switch`` is answered as the authorization is, with ``active_login``; another login is PERMISSION_DENIED;
- codes of ``o`` are those of ScaleTrade's record events: 0 add, 1 update, 2 delete, 5 activate, 6 close; that of ``b`` is 1;
- requests are carried out at the next tick; a market order that the margin does not allow is RET_ERROR.
"""

import base64
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec
import trio
from attrs import Factory, define

from relay.adapter import dumps, loads
from relay.plugins.hookspecs import Simulated
from relay.testing.account import SimulatedRefusal
from relay.testing.market import Market, QuoteMoved, Tradable, units
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from relay_scaletrade import payloads
from relay_scaletrade.payloads import SECOND, PriceAlert
from relay_scaletrade.tickets import CLOSE, OPEN, Ticket, TicketAccount, Told

INSTRUMENTS = (
    Tradable(symbol="EURUSD", price=110_012, decimals=5, spread=12),
    Tradable(symbol="GBPUSD", price=127_120, decimals=5, spread=15),
    Tradable(symbol="XAUUSD", price=265_040, decimals=2, tick=5, spread=4),
    Tradable(symbol="BTCUSD", price=6_512_340, decimals=2, tick=10, spread=5),
)
LOGIN, PASSWORD = 100_020, "your-strong-password"
PROFILE = {
    "id": LOGIN, "login": LOGIN, "regdate": 1_700_000_000, "leverage": 100, "email": "user@example.com", "avatar": "",
    "name": "John Doe", "phone": "+10000000000", "address": "Street 1", "city": "City", "state": "", "country": "US",
    "zipcode": "10001", "group": "standard", "currency": "USD",
}  # fmt: skip
#: HTTP status of each error; those of version 1 where they are others.
STATUS = {"INVALID_DATA": 400, "PERMISSION_DENIED": 401, "RET_ERR_NOTFOUND": 404, "RET_TRADE_INCORRECT_CMD": 409}
OLD_ERRORS = {"RET_ERROR": (500, "OPEN_ORDER_ERROR"), "INCORRECT_SL_TP": (500, "INCORRECT_SL_TP"),
              "RET_TRADE_INCORRECT_CMD": (404, "TRADE_ERROR"), "RET_ERR_NOTFOUND": (404, "TRADE_ERROR")}  # fmt: skip

Body = dict[str, Any]


@define(eq=False)
class _Stream:
    """One session's standing."""

    authorized: bool = False
    active: bool = False
    channels: set[str] = Factory(set)


class ScaleTradeSimulator(Simulator):
    """One broker with one user.

    Args:
        version: of the Client API.
        seed: of the market.
        interval: seconds between two moves of the market; 0 leaves moving it to `tick`.
        token_lifetime: seconds a token is good for.
        enabled: whether the user may sign in.
        millis: write the time of quotes in milliseconds, as the Server API documents it.
        clock: Unix nanoseconds.

    Attributes:
        alerts: price alerts that are set.
        ignored: frames that had no effect, newest last.
    """

    def __init__(
        self,
        *,
        version: Literal[1, 2] = 2,
        seed: int = 1,
        interval: float = 0.2,
        instruments: Iterable[Tradable] = INSTRUMENTS,
        token_lifetime: int = 3600,
        enabled: bool = True,
        millis: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.version = version
        self.market = Market(instruments, seed=seed, start_ns=clock())
        self.account = TicketAccount(market=self.market, login=LOGIN)
        self.tokens: dict[str, int] = {}
        self.alerts: list[PriceAlert] = []
        self.ignored: deque[str | bytes] = deque(maxlen=100)
        self.enabled = enabled
        self._announced: set[int] = set()
        self._interval = interval
        self._token_lifetime = token_lifetime
        self._millis = millis
        self._clock = clock
        old: Mapping[tuple[str, str], Callable[[Body], Body]] = {
            ("GET", "/account/me"): lambda asked: {**PROFILE, **payloads.profile(self.account)},
            ("GET", "/trades"): self._trades,
            ("GET", "/trades/history/login"): self._history,
            ("POST", "/trade/open"): lambda asked: self._open(asked, range(6 if version == 1 else 2)),
            ("PUT", "/trade/modify"): self._modify_open,
            ("DELETE", "/trade/close"): self._close,
        }
        new: Mapping[tuple[str, str], Callable[[Body], Body]] = {
            ("POST", "/trade/open/pending"): lambda asked: self._open(asked, range(2, 6)),
            ("PUT", "/trade/modify/open"): self._modify_open,
            ("PUT", "/trade/modify/pending"): self._modify_pending,
            ("DELETE", "/trade/cancel"): self._cancel,
        }
        self._routes = {**old, **(new if version == 2 else {})}

    # --- REST --------------------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        path = request.target.partition("?")[0]
        try:
            asked = loads(request.body or b"{}")
        except (msgspec.DecodeError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return _failed(400, "INVALID_DATA", "the body is no JSON object")
        if (request.method, path) == ("POST", "/sign/in"):
            return self._sign_in(asked)
        route = self._routes.get((request.method, path))
        if route is None:
            return _failed(404, "NOT_FOUND", "no such method")
        if not self._is_valid(request.headers.get("authorization")):
            return _failed(401, "PERMISSION_DENIED", "Missing or invalid authenticated session")
        try:
            return HttpResponse(body=dumps(route(asked)))
        except SimulatedRefusal as refusal:
            return self._refused(refusal, path)
        except (KeyError, TypeError, ValueError) as error:
            return _failed(400, "INVALID_DATA", f"Validation failed: {error}")

    def _sign_in(self, asked: Body) -> HttpResponse:
        match asked:
            case {"login": int() as login, "password": str() as password} if login >= 0 and 6 <= len(password) <= 64:
                pass
            case _:
                return _failed(400, "INVALID_DATA", "Validation failed")
        if (login, password) != (LOGIN, PASSWORD):
            return _failed(403, "USER_NOT_FOUND_OR_INCORRECT", "Login or password is incorrect")
        if not self.enabled:
            return _failed(402, "USER_DISABLED", "User is disabled")
        token = self._new_token()
        cookie = {"set-cookie": f"token={token}; HttpOnly"}
        return HttpResponse(body=dumps({**PROFILE, "__token": token, "server": "simulated"}), headers=cookie)

    def _new_token(self) -> str:
        expires = self._clock() // SECOND + self._token_lifetime
        claims = {"login": LOGIN, "type": 0, "exp": expires, "jti": len(self.tokens) + 1}
        parts = [
            base64.urlsafe_b64encode(dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "HS256"}, claims)
        ]
        token = f"{'.'.join(parts)}.c2ltdWxhdGVk"
        self.tokens[token] = expires
        return token

    def _is_valid(self, token: str | None) -> bool:
        return self.tokens.get(token or "", 0) > self._clock() // SECOND

    def _refused(self, refusal: SimulatedRefusal, path: str) -> HttpResponse:
        status, code = STATUS.get(refusal.code, 400), refusal.code
        if self.version == 1:
            status, code = OLD_ERRORS.get(code, (status, code))
            code = "MODIFY_TRADE_ERROR" if code == "TRADE_ERROR" and path == "/trade/modify" else code
        return _failed(status, code, f"{refusal}")

    def _open(self, asked: Body, cmds: range) -> Body:
        if asked["login"] != LOGIN:
            raise SimulatedRefusal("PERMISSION_DENIED", "login does not match the authenticated session")
        symbol, cmd, volume = asked["symbol"], asked["cmd"], asked["volume"]
        if symbol not in self.market:
            raise SimulatedRefusal("RET_SYMBOL_NOT_FOUND", f"no such symbol: {symbol!r:.40}")
        if cmd not in cmds:
            raise SimulatedRefusal(
                "RET_TRADE_INCORRECT_CMD", f"cmd {cmd!r:.10} is not one of {cmds.start} to {cmds.stop - 1}"
            )
        if not isinstance(volume, int) or volume <= 0:
            raise ValueError("volume: expected minimal lots")
        ticket = Ticket(
            order=self.account.number(), symbol=symbol, cmd=cmd, volume=volume, comment=str(asked.get("comment", "")),
            sl=self._price(symbol, asked["sl"]), tp=self._price(symbol, asked["tp"]), expiration=asked.get("expiration", 0),
            open_price=0 if cmd < 2 else self._price(symbol, asked["open_price"]),
        )  # fmt: skip
        self._tell(self.account.open(ticket))
        return self._acknowledged(ticket, volume=volume)

    def _close(self, asked: Body) -> Body:
        order, volume = asked["order"], asked.get("volume")
        self._tell(self.account.close(order, volume))
        ticket = self.account.tickets[order]
        return self._acknowledged(ticket, close_volume=ticket.volume if volume is None else volume)

    def _cancel(self, asked: Body) -> Body:
        self._tell(self.account.cancel(asked["order"]))
        return {"accepted": True, "order": asked["order"], "state": 9}

    def _modify_open(self, asked: Body) -> Body:
        return self._modify(asked, ("sl", "tp"), market=True)

    def _modify_pending(self, asked: Body) -> Body:
        return self._modify(asked, ("open_price", "sl", "tp", "expiration"), market=False)

    def _modify(self, asked: Body, names: tuple[str, ...], *, market: bool) -> Body:
        if self.version == 1 and not {"sl", "tp"} <= set(asked):
            raise ValueError("sl and tp are required")
        ticket = self.account.tickets.get(asked["order"])
        if ticket is None:
            raise SimulatedRefusal("RET_ERR_NOTFOUND", "Order not found")
        changes = {
            name: asked[name] if name == "expiration" else self._price(ticket.symbol, asked[name])
            for name in names
            if name in asked
        }
        if not changes:
            raise ValueError("no mutable fields were provided")
        self._tell(self.account.modify(ticket.order, market=market, **changes))
        return self._acknowledged(ticket, volume=ticket.volume)

    def _acknowledged(self, ticket: Ticket, **volume: int) -> Body:
        if self.version == 1:
            return {"data": "OK"}
        about = {"login": LOGIN, "symbol": ticket.symbol, "cmd": ticket.cmd}
        return {"accepted": True, "order": ticket.order, "state": ticket.state, **about, **volume, "queued": 1}

    def _price(self, symbol: str, value: Any) -> int:
        """Return a price in units. ValueError for one with more digits than the symbol has."""
        return units(str(value), self.market.instrument(symbol).decimals)

    def _trades(self, asked: Body) -> Body:
        live, past = list(self.account.tickets.values()), self.account.past
        kinds = {
            0: [*live, *past],
            1: [t for t in live if t.is_market],
            2: past,
            3: [t for t in live if not t.is_market],
            4: [],
        }
        found: list[Ticket] = kinds[asked["tradeType"]]
        for field, (low, high) in asked.get("whereBetween", ()):
            found = [ticket for ticket in found if low <= getattr(ticket, field) <= high]
        return payloads.table(self.market, LOGIN, found, asked["limit"], asked["offset"])

    def _history(self, asked: Body) -> Body:
        found = [ticket for ticket in self.account.past if asked["from"] <= ticket.close_time <= asked["to"]]
        return payloads.table(self.market, asked["login"], found, len(found), 0)

    # --- the stream --------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        link.state = _Stream()

    def received(self, link: Link, message: str | bytes) -> None:
        if message == "ping":
            link.send("pong")
            return
        try:
            asked = loads(message)
        except (msgspec.DecodeError, RecursionError):
            asked = None
        stream: _Stream = link.state
        match asked:
            case {"authorization": token}:
                self._authorize(link, stream, token)
            case {"event": "account.switch", **rest} if stream.authorized and self.version == 2:
                given: Any = rest.get("data", rest)
                login = given.get("active_login", given.get("login", LOGIN))
                stream.active = login == LOGIN
                told = {"active_login": login} if stream.active else {"error": "PERMISSION_DENIED"}
                link.send(dumps({"event": "account.switch", "success": stream.active, **told}))
            case {"event": "subscribe", "data": [*names]} if stream.authorized:
                stream.channels |= {name.lower() for name in names if isinstance(name, str)}
            case {"event": "unsubscribe", "data": [*names]} if stream.authorized:
                stream.channels -= {name.lower() for name in names if isinstance(name, str)}
            case _:
                self.ignored.append(message)

    def _authorize(self, link: Link, stream: _Stream, token: Any) -> None:
        stream.authorized = isinstance(token, str) and self._is_valid(token)
        if self.version == 2:
            error = {} if stream.authorized else {"error": "INVALID_TOKEN"}
            link.send(dumps({"event": "authorization", "success": stream.authorized, **error, "protocol": "simulated"}))
        elif stream.authorized:
            stream.active = True
        else:
            link.close(1008, "invalid token")

    # --- what is told ------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        while self._interval:
            await trio.sleep(self._interval)
            self.tick()
        await trio.sleep_forever()

    def tick(self) -> None:
        """Move the market once, carry out what was accepted, and tell everybody."""
        now_ns = self._clock()
        for move in self.market.step(now_ns):
            if isinstance(move, QuoteMoved):
                text = dumps(payloads.quote(self.market, move, millis=self._millis))
                for link in self.links:
                    if move.symbol.lower() in link.state.channels:
                        link.send(text)
        self._tell(self.account.step(now_ns // SECOND))
        self._check_alerts(now_ns // SECOND)

    def _tell(self, changes: Iterable[Told]) -> None:
        """Tell of tickets as they change, and of the money when they did."""
        told = False
        for ticket, code in changes:
            told = True
            self._push(payloads.trade(self.market, LOGIN, ticket, code))
            if code == CLOSE:
                self._notify("Order closed", "Your order was closed", "CLOSE_ORDER", ticket.close_time, ticket)
            elif ticket.is_market and ticket.state == OPEN and ticket.order not in self._announced:
                self._announced.add(ticket.order)
                text = "Your order was opened successfully"
                self._notify("Order opened", text, "OPEN_ORDER", ticket.open_time, ticket)
        if told:
            self._push(payloads.balance(self.account, 0))

    def _check_alerts(self, now: int) -> None:
        for alert in self.alerts:
            bid = self.market.quote(alert.symbol).bid
            if not alert.triggered and bid >= alert.target:
                alert.triggered = True
                self._push(payloads.alert(self.market, LOGIN, alert, bid, now))

    def _notify(self, message: str, description: str, token: str, now: int, ticket: Ticket) -> None:
        self._push(payloads.notice(message, description, token, now, ticket))

    def _push(self, event: list[Any]) -> None:
        text = dumps(event)
        for link in self.links:
            if link.state.active:
                link.send(text)


def _failed(status: int, code: str, message: str) -> HttpResponse:
    return HttpResponse(status=status, body=dumps({"error": code, "message": message}))


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated broker until cancelled; `nursery.start` returns its address. Sign in as `LOGIN` with `PASSWORD`."""
    async with ScaleTradeSimulator(seed=seed).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(
    provider="scaletrade",
    adapter="scaletrade",
    run=run,
    credentials={"login": str(LOGIN), "password": PASSWORD},
    account="main",
    symbols={"EURUSD": "EUR/USD", "GBPUSD": "GBP/USD", "XAUUSD": "XAU/USD", "BTCUSD": "BTC/USD"},
    pinned=("quote EUR/USD", "account main"),
)
