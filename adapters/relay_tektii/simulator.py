"""A Tektii gateway, simulated: its WebSocket and its REST API on one port, live or paced by a backtest.

Faithful to https://docs.tektii.com/docs/trading-api where it speaks. Where it does not, or where the published gateway
differs from it, this server's choices are:

- a client is told nothing when it connects, as the published gateway does it;
- pings as text and the INVALID_MESSAGE error are as documented, though the published gateway sends neither; a ping that is
  not answered has no consequence;
- a bar is sent whenever it changes;
- an account is BALANCE_UPDATED after fills, and with every move of the market while a position is open;
- a backtest waits for a client, and what a client that is gone left unacknowledged no longer holds it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import trio
from attrs import define, frozen

from relay.adapter import dumps, loads
from relay.model.enums import OrderEvent
from relay.plugins.hookspecs import Simulated
from relay.testing.account import Change, Filled, OrderMoved, PlacedOrder, PositionMoved, TradingAccount
from relay.testing.market import SECOND, Bar, Market, QuoteMoved, Tradable
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from relay_tektii import payloads
from relay_tektii.exchange import ApiError, SimulatedExchange

#: A gateway's key has at least 32 characters.
KEY = "tk_simulated_0123456789abcdef0123456789abcdef"
INSTRUMENTS = (
    Tradable(symbol="AAPL", price=15_120, decimals=2, typical=400),
    Tradable(symbol="EUR/USD", price=10_845, decimals=4, spread=2),
    Tradable(symbol="BTC/USD", price=4_200_000, decimals=2, tick=50, size_decimals=4, typical=5_000),
)
EVENTS = ("quote", "candle_1m", "candle_1h", "order_update", "position_update", "account_update", "trade_update")
_BRACKET = {
    OrderEvent.ORDER_CREATED: "BRACKET_ORDER_CREATED",
    OrderEvent.ORDER_MODIFIED: "BRACKET_ORDER_MODIFIED",
}


@frozen(kw_only=True)
class Subscription:
    """One entry of the gateway's ``SUBSCRIPTIONS``: what of an instrument is sent."""

    instrument: str
    events: tuple[str, ...] = EVENTS


@define(eq=False)
class Heard:
    """A message of a client."""

    pongs: int = 0
    acknowledgements: int = 0


class Outstanding:
    """The events of a backtest that wait for their acknowledgement. Strictly by id: nothing else releases any.

    Attributes:
        unknown: ids that were acknowledged and not waited for.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._none = trio.Event()
        self.unknown: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    def sent(self, id: str) -> None:
        self._ids.add(id)

    def acknowledged(self, ids: Iterable[str]) -> None:
        ids = set(ids)
        self.unknown += sorted(ids - self._ids)
        self.release(ids)

    def release(self, ids: Iterable[str] | None = None) -> None:
        """Wait no longer for these ids; for none at all when they are not named."""
        self._ids -= set(self._ids if ids is None else ids)
        if not self._ids:
            self._none.set()
            self._none = trio.Event()

    async def wait_none(self) -> None:
        while self._ids:
            await self._none.wait()


class TektiiSimulator(Simulator):
    """One gateway with one account.

    Args:
        seed: of the market.
        interval: seconds between two moves of the market; 0 leaves moving it to `tick`. A backtest does not wait.
        backtest: steps of a backtest, one minute each; None for a live market.
        key: what clients must present; None lets everybody in.
        subscriptions: what is sent; everything of every instrument where there are none.
        ping_interval: seconds between pings as text; 0 sends none.
        requests_per_minute: the REST API's limit; None for none.
        clock: Unix nanoseconds, for a live market.
    """

    ws_path = "/v1/ws"

    def __init__(
        self,
        *,
        seed: int = 1,
        interval: float = 0.5,
        backtest: int | None = None,
        instruments: Iterable[Tradable] = INSTRUMENTS,
        key: str | None = KEY,
        subscriptions: Iterable[Subscription] = (),
        ping_interval: float = 15.0,
        requests_per_minute: int | None = 600,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.platform = "mock" if backtest is None else "tektii"
        self.market = Market(instruments, seed=seed, start_ns=clock())
        self.account = TradingAccount(self.market, "simulated", leverage=100)
        self.outstanding = Outstanding()
        self._interval, self._ping_interval, self._steps = interval, ping_interval, backtest
        self._key, self._clock = key, clock
        self._frames = 0
        self._limit, self._window, self._used = requests_per_minute, 0, 0
        listed = tuple(subscriptions) or [Subscription(instrument=each.symbol) for each in self.market.instruments]
        self._events: Mapping[str, frozenset[str]] = {each.instrument: frozenset(each.events) for each in listed}
        self._exchange = SimulatedExchange(
            self.market, self.account, self._now, self._changed, self.platform, requests_per_minute
        )

    def _now(self) -> int:
        """Return the gateway's time: a backtest's own, which only its steps advance."""
        return self._clock() if self._steps is None else self.market.now_ns

    # --- requests ----------------------------------------------------------------------------------------------------

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        try:
            self._authorize(request)
        except ApiError as error:
            return _failed(error)
        return None

    def _authorize(self, request: HttpRequest) -> None:
        bearer = request.headers.get("authorization", "")
        given = bearer.removeprefix("Bearer ") if bearer else request.headers.get("x-api-key")
        if self._key is not None and given != self._key:
            what = ("MISSING_API_KEY", "no API key") if given is None else ("INVALID_API_KEY", "invalid API key")
            raise ApiError(401, "UNAUTHORIZED", what[1], {"code": what[0]})

    async def answer(self, request: HttpRequest) -> HttpResponse:
        match request.target.partition("?")[0]:
            case "/livez":
                return _json(200, {"status": "ok"})
            case "/readyz":
                return _json(200, {"ready": True, "provider_count": 1, "providers": [self.platform]})
            case "/health":
                about = {"platform": self.platform, "connected": True, "stale_instruments": []}
                health = {"status": "connected", "version": "0.2.0", "git_sha": "unknown", "providers": [about]}
                return _json(200, health)
            case "/metrics":
                return HttpResponse(body=f"gateway_clients {len(self.links)}\n", content_type="text/plain")
        try:
            self._authorize(request)
            self._charge()
            return _json(*self._exchange.answer(request))
        except ApiError as error:
            return _failed(error)

    def _charge(self) -> None:
        """Count a request against the minute it falls in; tell the clients when the limit is near or passed."""
        if self._limit is None:
            return
        minute = self._clock() // (60 * SECOND)
        if minute != self._window:
            self._window, self._used = minute, 0
        self._used += 1
        left, reset_at = self._limit - self._used, payloads.moment((minute + 1) * 60 * SECOND)
        if left == 10:
            self.tell("rate_limit", event="RATE_LIMIT_WARNING", requests_remaining=left, reset_at=reset_at)
        if left < 0:
            self.tell("rate_limit", event="RATE_LIMIT_HIT", requests_remaining=0, reset_at=reset_at)
            seconds = 60 - self._clock() // SECOND % 60
            details = {"retry_after_seconds": seconds, "reset_at": reset_at}
            raise ApiError(429, "RATE_LIMITED", "too many requests", details)

    # --- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        link.state = Heard()

    def closed(self, link: Link) -> None:
        if not self.links:
            self.outstanding.release()

    def received(self, link: Link, message: str | bytes) -> None:
        """Read a frame; binary ones are ignored."""
        if isinstance(message, bytes):
            return
        try:
            said = loads(message)
        except (msgspec.DecodeError, RecursionError) as error:
            said = f"not JSON: {error}"
        match said:
            case {"type": "pong"}:
                link.state.pongs += 1
            case {"type": "event_ack", "correlation_id": str(), "events_processed": [*ids], "timestamp": int()}:
                link.state.acknowledgements += 1
                if self._steps is not None:
                    self.outstanding.acknowledged(str(id) for id in ids)
            case {"type": "event_ack"}:
                details = {"type": "event_ack"}
                self._refuse(link, "event_ack needs correlation_id, events_processed and timestamp", details)
            case _:
                self._refuse(link, f"expected pong or event_ack, got {said!r:.100}", None)

    def _refuse(self, link: Link, message: str, details: Any) -> None:
        about = payloads.present({"code": "INVALID_MESSAGE", "message": message, "details": details})
        link.send(self._frame("error", about))

    # --- what is told ------------------------------------------------------------------------------------------------

    def tell(self, type: str, **members: Any) -> None:
        """Send a frame to every client; for whatever a test wants the gateway to say."""
        if self.links:
            text = self._frame(type, members)
            for link in self.links:
                link.send(text)

    def _frame(self, type: str, members: Mapping[str, Any]) -> str:
        """Return a frame. One of a backtest has an id and waits to be acknowledged. ``trace`` is on no page, as other
        members may be.
        """
        self._frames += 1
        frame = {"type": type, **members, "timestamp": payloads.moment(self._now()), "trace": self._frames}
        if self._steps is not None and type != "ping":
            frame["event_id"] = f"evt_{self._frames}"
            self.outstanding.sent(frame["event_id"])
        return dumps(frame)

    def _is_wanted(self, symbol: str, event: str) -> bool:
        events = self._events.get(symbol, frozenset())
        return event in events or (event.startswith("candle_") and "candle_*" in events)

    def tick(self) -> None:
        """Move the market once and tell what came of it."""
        now = self._now() if self._steps is None else self.market.now_ns + 60 * SECOND
        for move in self.market.step(now):
            if isinstance(move, QuoteMoved) and self._is_wanted(move.symbol, "quote"):
                self.tell("quote", quote=payloads.quote(self.market, move, self.platform))
            elif isinstance(move, Bar) and self._is_wanted(move.symbol, f"candle_{move.timeframe}"):
                self.tell("candle", bar=payloads.bar(self.market, move, self.platform))
        changes = self.account.step(now)
        self._changed(changes)
        if self.account.positions and not changes:
            self._tell_account()

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case OrderMoved(order=order, event=event) if self._is_wanted(order.ticket.symbol, "order_update"):
                    self.tell("order", event=_word(order, event), order=payloads.order(self.market, order))
                case Filled(symbol=symbol) if self._is_wanted(symbol, "trade_update"):
                    trade = payloads.trade(self.market, self.account, change)
                    self.tell("trade", event="TRADE_FILLED", trade=trade)
                case PositionMoved(position=held, event=event) if self._is_wanted(held.symbol, "position_update"):
                    position = payloads.position(self.market, self.account, held)
                    self.tell("position", event=event, position=position)
        if any(isinstance(change, Filled) for change in changes):
            self._tell_account()

    def _tell_account(self) -> None:
        if any("account_update" in events for events in self._events.values()):
            self.tell("account", event="BALANCE_UPDATED", account=payloads.money(self.account))

    # --- over time ---------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping)
            if self._steps is not None:
                nursery.start_soon(self._backtest, self._steps)
            while self._interval and self._steps is None:
                await trio.sleep(self._interval)
                self.tick()

    async def _ping(self) -> None:
        while self._ping_interval:
            await trio.sleep(self._ping_interval)
            self.tell("ping")

    async def _backtest(self, steps: int) -> None:
        """Run it: time goes on when nothing waits to be acknowledged. Then say that it is over, and close."""
        for _ in range(steps):
            await self.wait_connected()
            self.tick()
            await self.outstanding.wait_none()
        await self.wait_connected()
        self.tell("backtest_complete", broker=self.platform)
        await self.outstanding.wait_none()
        for link in list(self.links):
            link.close(1000, "backtest complete")

    async def shut_down(self) -> None:
        """Leave as a gateway does: say so, wait half a second, close."""
        self.tell("connection", event="DISCONNECTING")
        await trio.sleep(0.5)
        for link in list(self.links):
            link.close(1001, "Gateway shutting down")


def _word(order: PlacedOrder, event: OrderEvent) -> str:
    """Return the event's word, with the words for an order with stop loss or take profit if it has them."""
    has_exits = order.ticket.stop_loss is not None or order.ticket.take_profit is not None
    return _BRACKET.get(event, event.value) if has_exits else event.value


def _json(status: int, body: Any) -> HttpResponse:
    return HttpResponse(status=status, body=dumps(body))


def _failed(error: ApiError) -> HttpResponse:
    return _json(error.status, error.body)


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated gateway until cancelled; `nursery.start` returns its address. The key is `KEY`."""
    async with TektiiSimulator(seed=seed).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(
    provider="tektii",
    adapter="tektii",
    run=run,
    credentials={"api_key": KEY},
    account="paper",
    pinned=("quote AAPL", "quote EUR/USD", "candle AAPL 1m", "account paper"),
)
