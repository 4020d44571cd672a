"""CrossTrade, simulated: the WebSocket API and the accounts' snapshot, with an add-on behind them.

Faithful to https://docs.crosstrade.io/api/websocket-api where it speaks: one session per user, both budgets, the close after
more than ten violations, subscriptions that accumulate and are forgotten with the connection, an add-on that can be away
(`CrossTradeSimulator.addon`). Where the page does not speak, this server's choices are:

- a bad key is refused with 401, an upgrade too many with 429, whatever path is not known with 404;
- ``{"action": "ping"}`` is answered with ``{"type": "pong"}``;
- an error over a message that is no rpc has a generated id, as if it were one; what is not understood is answered with
  "Invalid request";
- a violation of the subscriptions' limit counts as one of the rpc's; the text of the close for abuse;
- while the add-on is away nothing is streamed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import msgspec
import trio
from attrs import Factory, define

from relay.adapter import dumps, loads
from relay.plugins.hookspecs import Simulated
from relay.testing.market import SECOND, Tradable
from relay.testing.simulator import Address, Close, HttpRequest, HttpResponse, Link, Simulator
from relay_crosstrade.simulator import payloads
from relay_crosstrade.simulator.exchange import SimulatedExchange
from relay_crosstrade.simulator.payloads import Contract

KEY = "demo-key-of-crosstrade"
ACCOUNTS = ("Sim101", "Sim110")
CONTRACTS = (
    Contract(Tradable(symbol="ES 09-26", price=578_175, decimals=2, tick=25, typical=60), 50, "E-mini S&P 500", "CME"),
    Contract(Tradable(symbol="NQ 09-26", price=2_031_025, decimals=2, tick=25, spread=2), 20, "E-mini Nasdaq", "CME"),
    Contract(Tradable(symbol="CL 09-26", price=6_412, decimals=2, typical=80), 1000, "Crude Oil", "NYMEX"),
)  # fmt: skip
LIMITED = "Rate limit exceeded"
NO_ADDON = "Add-on not connected"
INVALID = "Invalid request"


@define(eq=False)
class Bucket:
    """``capacity`` tokens, refilled by ``per_second``; in whole nanoseconds of tokens, so that nothing is rounded."""

    capacity: int
    per_second: int
    missing: int = 0
    at_ns: int = 0

    def take(self, now_ns: int) -> bool:
        self.missing = max(0, self.missing - (now_ns - self.at_ns) * self.per_second)
        self.at_ns = now_ns
        if self.missing > (self.capacity - 1) * SECOND:
            return False
        self.missing += SECOND
        return True


@define(eq=False)
class Window:
    """At most ``count`` within any ``seconds``."""

    count: int
    seconds: int
    taken: deque[int] = Factory(deque)

    def take(self, now_ns: int) -> bool:
        while self.taken and self.taken[0] <= now_ns - self.seconds * SECOND:
            self.taken.popleft()
        if len(self.taken) >= self.count:
            return False
        self.taken.append(now_ns)
        return True


@define(eq=False)
class _Session:
    """The requests of one session. ``pnl_every`` is in nanoseconds, 0 while it is off."""

    instruments: set[str] = Factory(set)
    pnl_every: int = 0
    pnl_at: int = 0
    interest: Window = Factory(lambda: Window(20, 60))
    violations: int = 0


class CrossTradeSimulator(Simulator):
    """CrossTrade with one user.

    Args:
        seed: of the market.
        interval: seconds between two moves of the market; 0 leaves moving it to `tick`.
        upgrades: how many the server takes within 60 s.
        clock: Unix nanoseconds.

    Attributes:
        exchange: the add-on's functions, market and accounts.
        addon: whether the add-on is connected.
    """

    ws_path = "/ws/stream"
    takeover = Close(1008, "Session active elsewhere.")

    def __init__(
        self,
        *,
        seed: int = 1,
        interval: float = 0.25,
        contracts: Iterable[Contract] = CONTRACTS,
        upgrades: int = 5,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.exchange = SimulatedExchange(contracts, ACCOUNTS, seed=seed, clock=clock)
        self.addon = True
        self._interval = interval
        self._clock = clock
        self._calls = Bucket(20, 3)
        self._upgrades = Window(upgrades, 60)
        self._ids = count(1)

    # --- HTTP and upgrades -------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        if (refusal := _unauthorized(request)) is not None:
            return refusal
        if not self._calls.take(self._clock()):
            return _failed(429, LIMITED)
        if (request.method, request.target) != ("GET", "/v1/api/accounts/snapshot"):
            return _failed(404, "Not found")
        if not self.addon:
            return _failed(408, NO_ADDON)
        return HttpResponse(
            body=dumps(payloads.snapshot(self.exchange.market, self.exchange.accounts.values(), self._clock()))
        )

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        if request.target.partition("?")[0] != self.ws_path:
            return _failed(404, "Not found")
        if not self._upgrades.take(self._clock()):
            return _failed(429, LIMITED)
        return _unauthorized(request)

    def opened(self, link: Link) -> None:
        link.state = _Session()
        for other in self.links:
            if other is not link:
                other.close(self.takeover.code, self.takeover.reason)

    # --- messages ----------------------------------------------------------------------------------------------------

    def received(self, link: Link, message: str | bytes) -> None:
        try:
            asked = loads(message)
        except (msgspec.DecodeError, RecursionError):
            asked = None
        match asked:
            case {"action": "rpc", "api": str() as api}:
                self._rpc(link, asked, api)
            case {"action": "subscribe" | "unsubscribe" as action, "instruments": [*names]}:
                if self._may_subscribe(link):
                    symbols = {symbol for name in names if (symbol := self.exchange.symbol(name)) is not None}
                    if action == "subscribe":
                        link.state.instruments |= symbols
                    else:
                        link.state.instruments -= symbols
            case {"action": "streamPnl", "enabled": bool() as enabled}:
                if self._may_subscribe(link):
                    self._stream_pnl(link, asked, enabled)
            case {"action": "ping"}:
                link.send(dumps({"type": "pong"}))
            case _:
                self._say(link, asked, {"error": INVALID})

    def _rpc(self, link: Link, asked: dict[str, Any], api: str) -> None:
        if not self._calls.take(self._clock()):
            self._violated(link, asked)
            return
        link.state.violations = 0
        args = asked.get("args", {})
        if not self.addon:
            self._say(link, asked, {"error": NO_ADDON})
        else:
            self._say(link, asked, self.exchange.call(api, args) if isinstance(args, dict) else {"error": INVALID})

    def _may_subscribe(self, link: Link) -> bool:
        if link.state.interest.take(self._clock()):
            return True
        self._violated(link, {})
        return False

    def _violated(self, link: Link, asked: dict[str, Any]) -> None:
        self._say(link, asked, {"error": LIMITED})
        link.state.violations += 1
        if link.state.violations > 10:
            link.close(1008, "Rate limit abuse.")

    def _stream_pnl(self, link: Link, asked: dict[str, Any], enabled: bool) -> None:
        interval = asked.get("interval", 1000)
        if not isinstance(interval, int) or interval < 1000:
            self._say(link, asked, {"error": INVALID})
            return
        link.state.pnl_every = interval * 1_000_000 if enabled else 0
        link.state.pnl_at = self._clock() + link.state.pnl_every

    def _say(self, link: Link, asked: Any, data: dict[str, Any]) -> None:
        id = asked.get("id") if isinstance(asked, dict) else None
        link.send(dumps({"id": id if isinstance(id, str) else f"srv-{next(self._ids)}", "data": data}))

    # --- streams -----------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        while self._interval:
            await trio.sleep(self._interval)
            self.tick()
        await trio.sleep_forever()

    def tick(self) -> None:
        """Move the market once and stream what was asked for; messages carry a little more than is documented."""
        self.exchange.step()
        now_ns = self._clock()
        if not self.addon:
            return
        for link in self.links:
            state: _Session = link.state
            if state.instruments:
                quotes = [payloads.quote(self.exchange.market, symbol) for symbol in sorted(state.instruments)]
                link.send(dumps({"type": "marketData", "quotes": quotes, "source": "NinjaTrader"}))
            if state.pnl_every and now_ns >= state.pnl_at:
                state.pnl_at = now_ns + state.pnl_every
                accounts = [payloads.profit(account) for account in self.exchange.accounts.values()]
                link.send(dumps({"type": "pnlUpdate", "epoch": now_ns // 1_000_000, "accounts": accounts, "count": 2}))


def _unauthorized(request: HttpRequest) -> HttpResponse | None:
    return None if request.headers.get("authorization") == f"Bearer {KEY}" else _failed(401, "Unauthorized")


def _failed(status: int, error: str) -> HttpResponse:
    return HttpResponse(status=status, body=dumps({"error": error}))


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated CrossTrade until cancelled; `nursery.start` returns its address. Its key is `KEY`."""
    async with CrossTradeSimulator(seed=seed).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(
    provider="crosstrade",
    adapter="crosstrade",
    run=run,
    credentials={"key": KEY},
    account="Sim101",
    pinned=("quote ES 09-26", "account Sim101"),
)
