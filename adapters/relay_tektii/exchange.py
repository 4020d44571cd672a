"""The simulated gateway's REST API: questions about the market and the account, and orders.

Errors are ``{"code", "message", "details"?}`` with the status the gateway uses for the code. Words of enums are taken in
upper or lower case. An order with the ``client_order_id`` of an earlier one is that one again.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from relay.adapter import loads
from relay.model.enums import OrderStatus, OrderType, Side, TimeInForce
from relay.model.text import to_ns
from relay.testing.account import Change, Filled, HeldPosition, PlacedOrder, SimulatedRefusal, Ticket, TradingAccount
from relay.testing.market import TIMEFRAMES, Market, units
from relay.testing.port import HttpRequest
from relay_tektii import payloads

_OPEN = (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)
#: Statuses of the account's refusals, with the gateway's code.
_REFUSALS = {
    "UNKNOWN_ORDER": (404, "ORDER_NOT_FOUND"),
    "UNKNOWN_POSITION": (404, "POSITION_NOT_FOUND"),
    "UNKNOWN_SYMBOL": (404, "SYMBOL_NOT_FOUND"),
    "INVALID_QUANTITY": (400, "INVALID_VALUE"),
    "INVALID_PRICE": (400, "VALIDATION_ERROR"),
    "UNSUPPORTED_TYPE": (501, "UNSUPPORTED_OPERATION"),
}


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = payloads.present({"code": code, "message": message, "details": details})


class SimulatedExchange:
    """Answers requests.

    Args:
        now: Unix nanoseconds.
        changed: told what a request changed, before it is answered.
        platform: the broker's name.
    """

    def __init__(
        self,
        market: Market,
        account: TradingAccount,
        now: Callable[[], int],
        changed: Callable[[list[Change]], None],
        platform: str,
        requests_per_minute: int | None,
    ) -> None:
        self._market, self._account = market, account
        self._now, self._changed, self._platform = now, changed, platform
        self._requests_per_minute = requests_per_minute
        self._by_client_id: dict[str, str] = {}

    def answer(self, request: HttpRequest) -> tuple[int, Any]:
        """Return status and body. Raises ApiError."""
        url = urlsplit(request.target)
        path = [unquote(part) for part in url.path.removeprefix("/v1/").split("/")]
        query = dict(parse_qsl(url.query))
        try:
            return self._answer(request.method, path, query, request.body)
        except SimulatedRefusal as refusal:
            status, code = _REFUSALS[refusal.code]
            raise ApiError(status, code, str(refusal)) from None

    def _answer(self, method: str, path: list[str], query: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        match method, path:
            case "GET", ["account"]:
                return 200, payloads.money(self._account)
            case "POST", ["orders"]:
                return 201, self._place(_object(body))
            case "GET", ["orders"]:
                return 200, self._orders(query, self._account.open_orders())
            case "GET", ["orders", "history"]:
                ended = [order for order in self._account.orders.values() if order.status not in _OPEN]
                return 200, self._orders(query, ended)
            case "GET", ["orders", id]:
                return 200, payloads.order(self._market, self._order(id))
            case "PATCH", ["orders", id]:
                return 200, self._modify(self._open_order(id), _object(body))
            case "DELETE", ["orders", id]:
                self._changed(self._account.cancel(self._open_order(id).id, self._now()))
                return 200, {"success": True, "order": payloads.order(self._market, self._order(id))}
            case "DELETE", ["orders"]:
                return 200, self._cancel_all(query.get("symbol"))
            case "GET", ["positions"]:
                return 200, [self._position_payload(held) for held in self._positions(query.get("symbol"))]
            case "DELETE", ["positions"]:
                return 200, [self._close(held, {}) for held in self._positions(query.get("symbol"))]
            case "GET", ["positions", id]:
                return 200, self._position_payload(self._position(id))
            case "PATCH", ["positions", id]:
                return 200, self._move_exits(self._position(id), _object(body))
            case "DELETE", ["positions", id]:
                return 200, self._close(self._position(id), _object(body) if body else {})
            case _:
                return 200, self._look_up(method, path, query)

    def _look_up(self, method: str, path: list[str], query: Mapping[str, str]) -> Any:
        breaker = {"state": "closed", "failure_count": 0}
        match method, path:
            case "GET", ["trades"]:
                return self._trades(query)
            case "GET", ["quotes", symbol]:
                return payloads.quote(self._market, self._market.quote(self._listed(symbol)), self._platform)
            case "GET", ["bars", symbol]:
                return self._bars(self._listed(symbol), query)
            case "GET", ["capabilities"]:
                return payloads.capabilities(self._market.instruments, self._requests_per_minute)
            case "GET", ["status"]:
                return {"connected": True, "last_heartbeat": payloads.moment(self._now()), "latency_ms": 1}
            case ("GET", ["circuit-breakers"]) | ("POST", ["circuit-breakers", "reset"]):
                return {"adapter": breaker, "exit_order": breaker}
        raise ApiError(404, "INVALID_REQUEST", "no such route")

    # --- orders ------------------------------------------------------------------------------------------------------

    def _place(self, asked: Mapping[str, Any]) -> Any:
        for name in ("symbol", "side", "order_type", "quantity"):
            if name not in asked:
                raise ApiError(400, "INVALID_REQUEST", f"missing field `{name}`")
        again = self._by_client_id.get(asked.get("client_order_id", ""))
        if again is not None:
            return payloads.handle(self._order(again))
        self._changed(changes := self._account.place(self._ticket(asked), self._now()))
        placed = self._account.orders[next(iter(changes)).order.id]  # type: ignore[union-attr]
        if placed.status is OrderStatus.REJECTED:
            code = payloads.REASONS.get(placed.reason or "", "UNKNOWN")
            raise ApiError(422, "ORDER_REJECTED", placed.reason or "rejected", {"reject_code": code})
        if placed.ticket.client_order_id is not None:
            self._by_client_id[placed.ticket.client_order_id] = placed.id
        return payloads.handle(placed)

    def _ticket(self, asked: Mapping[str, Any]) -> Ticket:
        symbol = self._listed(asked["symbol"])
        client_id = asked.get("client_order_id")
        try:
            return Ticket(
                symbol=symbol,
                side=Side(asked["side"].upper()),
                quantity=self._size(symbol, asked["quantity"]),
                order_type=OrderType(asked["order_type"].upper()),
                time_in_force=TimeInForce(asked.get("time_in_force", "GTC").upper()),
                limit=self._price(symbol, asked.get("limit_price")),
                stop=self._price(symbol, asked.get("stop_price")),
                stop_loss=self._price(symbol, asked.get("stop_loss")),
                take_profit=self._price(symbol, asked.get("take_profit")),
                client_order_id=client_id if client_id is None else str(client_id),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ApiError(400, "INVALID_VALUE", str(error)) from None

    def _modify(self, order: PlacedOrder, asked: Mapping[str, Any]) -> Any:
        symbol = order.ticket.symbol
        for name in asked:
            if name not in ("quantity", "limit_price", "stop_price"):
                raise ApiError(501, "UNSUPPORTED_OPERATION", f"{name} cannot be modified at this broker")
        try:
            size = self._size(symbol, asked["quantity"]) if "quantity" in asked else None
            limit, stop = (self._price(symbol, asked.get(name)) for name in ("limit_price", "stop_price"))
        except (TypeError, ValueError) as error:
            raise ApiError(400, "INVALID_VALUE", str(error)) from None
        self._changed(self._account.amend(order.id, self._now(), quantity=size, limit=limit, stop=stop))
        return {"order": payloads.order(self._market, self._order(order.id))}

    def _cancel_all(self, symbol: str | None) -> Any:
        wanted = [order.id for order in self._account.open_orders() if symbol in (None, order.ticket.symbol)]
        for id in wanted:
            self._changed(self._account.cancel(id, self._now()))
        return {"cancelled_count": len(wanted), "failed_count": 0}

    def _orders(self, query: Mapping[str, str], orders: Iterable[PlacedOrder]) -> Any:
        statuses = set(filter(None, query.get("status", "").upper().split(",")))
        since, until, limit = _period(query)
        found = [
            payloads.order(self._market, order)
            for order in orders
            if query.get("symbol") in (None, order.ticket.symbol)
            and query.get("side", "").upper() in ("", order.ticket.side)
            and query.get("client_order_id") in (None, order.ticket.client_order_id)
            and (not statuses or order.status in statuses)
            and since < order.created_ns < until
        ]
        return found[-limit:] if limit else found

    def _trades(self, query: Mapping[str, str]) -> Any:
        since, until, limit = _period(query)
        found = [fill for fill in self._account.fills if self._asked_for(fill, query, since, until)]
        return [payloads.trade(self._market, self._account, fill) for fill in (found[-limit:] if limit else found)]

    def _asked_for(self, fill: Filled, query: Mapping[str, str], since: int, until: int) -> bool:
        about = query.get("symbol") in (None, fill.symbol) and query.get("order_id") in (None, fill.order_id)
        return about and since <= fill.time_ns < until

    # --- positions ---------------------------------------------------------------------------------------------------

    def _close(self, held: HeldPosition, asked: Mapping[str, Any]) -> Any:
        try:
            size = self._size(held.symbol, asked["quantity"]) if "quantity" in asked else None
        except (TypeError, ValueError) as error:
            raise ApiError(400, "INVALID_VALUE", str(error)) from None
        self._changed(changes := self._account.close(held.id, self._now(), size))
        return payloads.handle(self._account.orders[next(iter(changes)).order.id])  # type: ignore[union-attr]

    def _move_exits(self, held: HeldPosition, asked: Mapping[str, Any]) -> Any:
        """Move the stop loss and take profit there are; what has none cannot be given one here."""
        legs = [name for name in ("stop_loss", "take_profit") if name in asked]
        if not legs:
            raise ApiError(400, "VALIDATION_ERROR", "the request moves neither leg")
        for name in legs:
            if getattr(held, name) is None:
                raise ApiError(409, "ORDER_NOT_MODIFIABLE", f"position has no resting {name} leg to move")
        try:
            loss, profit = (self._price(held.symbol, asked.get(name)) for name in ("stop_loss", "take_profit"))
        except (TypeError, ValueError) as error:
            raise ApiError(400, "INVALID_VALUE", str(error)) from None
        self._changed(self._account.protect(held.id, self._now(), stop_loss=loss, take_profit=profit))
        return {"position_id": held.id, **{name: {"price": asked[name]} for name in legs}}

    def _positions(self, symbol: str | None) -> list[HeldPosition]:
        return [held for held in self._account.positions.values() if symbol in (None, held.symbol)]

    def _position_payload(self, held: HeldPosition) -> Any:
        return payloads.position(self._market, self._account, held)

    # --- what is named -----------------------------------------------------------------------------------------------

    def _listed(self, symbol: Any) -> str:
        if not isinstance(symbol, str) or symbol not in self._market:
            raise ApiError(404, "SYMBOL_NOT_FOUND", f"no such symbol: {symbol!r:.64}")
        return symbol

    def _order(self, id: str) -> PlacedOrder:
        if id not in self._account.orders:
            raise ApiError(404, "ORDER_NOT_FOUND", f"no order {id:.64}")
        return self._account.orders[id]

    def _open_order(self, id: str) -> PlacedOrder:
        order = self._order(id)
        if order.status not in _OPEN:
            raise ApiError(409, "ORDER_NOT_MODIFIABLE", f"order {id} is {order.status}")
        return order

    def _position(self, id: str) -> HeldPosition:
        for held in self._account.positions.values():
            if held.id == id:
                return held
        raise ApiError(404, "POSITION_NOT_FOUND", f"no open position {id:.64}")

    def _size(self, symbol: str, value: Any) -> int:
        return units(_decimal(value), self._market.instrument(symbol).size_decimals)

    def _price(self, symbol: str, value: Any) -> int | None:
        return None if value is None else units(_decimal(value), self._market.instrument(symbol).decimals)

    def _bars(self, symbol: str, query: Mapping[str, str]) -> Any:
        timeframe, limit = query.get("timeframe", ""), _period(query)[2]
        if timeframe not in TIMEFRAMES:
            raise ApiError(400, "INVALID_VALUE", f"no bars of {timeframe!r:.16}")
        bars = [payloads.bar(self._market, bar, self._platform) for bar in self._market.bars(symbol, timeframe)]
        return bars[-limit:] if limit else bars


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = loads(body)
    except (msgspec.DecodeError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ApiError(400, "INVALID_REQUEST", "the body is no JSON object")
    return {name: value for name, value in asked.items() if value is not None}


def _decimal(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a decimal string, got {value!r:.64}")
    return value


def _period(query: Mapping[str, str]) -> tuple[int, int, int]:
    """Return since and until in nanoseconds, and limit (0: none)."""
    try:
        since = to_ns(query["since"]) if "since" in query else -1
        until = to_ns(query["until"]) if "until" in query else 1 << 63
        return since, until, int(query.get("limit", "0"))
    except ValueError as error:
        raise ApiError(400, "INVALID_VALUE", str(error)) from None
