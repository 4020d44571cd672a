"""Reading what Helio says of an account: executions, portfolio, metrics.

The Trader WebSocket API names these messages (https://docs.helio.trade/trader/websocket) without their members. The names
read here are those of the objects of Helio's REST and admin APIs, in camelCase or snake_case, with or without the prefixes
of their enums (``TRADE_SIDE_BUY`` or ``BUY``). Where a member is absent nothing is put in its place.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import Factory, frozen

from relay.model.enums import AccountEvent, OrderEvent, OrderStatus, PositionEvent, PositionSide, Side
from relay.model.events import Account, Order, Position, Trade

Members = Mapping[str, Any]

CREATED, MODIFIED = OrderEvent.ORDER_CREATED, OrderEvent.ORDER_MODIFIED
STATUS = {
    "PENDING": (CREATED, OrderStatus.PENDING),
    "NEW": (CREATED, OrderStatus.OPEN),
    "ACCEPTED": (CREATED, OrderStatus.OPEN),
    "OPEN": (CREATED, OrderStatus.OPEN),
    "PARTIALLY_FILLED": (OrderEvent.ORDER_PARTIALLY_FILLED, OrderStatus.PARTIALLY_FILLED),
    "FILLED": (OrderEvent.ORDER_FILLED, OrderStatus.FILLED),
    "CANCELLED": (OrderEvent.ORDER_CANCELLED, OrderStatus.CANCELLED),
    "CANCELED": (OrderEvent.ORDER_CANCELLED, OrderStatus.CANCELLED),
    "REJECTED": (OrderEvent.ORDER_REJECTED, OrderStatus.REJECTED),
    "EXPIRED": (OrderEvent.ORDER_EXPIRED, OrderStatus.EXPIRED),
}
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
POSITION_SIDE = {"BUY": LONG, "SELL": SHORT, "LONG": LONG, "SHORT": SHORT}
_REMEMBERED = 10_000

_prefix = re.compile(r"^(?:TRADE_SIDE|ORDER_STATUS|ORDER_TYPE|ORDER_TIF|TIF|POSITION_STATUS)_")
_snake = re.compile(r"_([a-z])")


def members(raw: Any) -> dict[str, Any]:
    """The members of one object with camelCase names; null is the same as absent. TypeError when it is no object."""
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, got {raw!r:.64}")
    return {_snake.sub(lambda m: m[1].upper(), name): value for name, value in raw.items() if value is not None}


def first(given: Members, *names: str) -> Any:
    """The first member there is."""
    return next((given[name] for name in names if name in given), None)


def word(value: Any) -> Any:
    """A word of an enum without its prefix; what is no text stays, for the strict enums to refuse."""
    return _prefix.sub("", value) if isinstance(value, str) else value


def level(raw: Any) -> tuple[Any, Any]:
    """A level of the book, an object or an array of price and size."""
    match raw:
        case [price, size, *_]:
            return price, size
        case dict():
            given = members(raw)
            return given["price"], first(given, "size", "quantity")
    raise TypeError(f"expected a level, got {raw!r:.64}")


@frozen
class Execution:
    """An executionEvent: the order as it is, and the fill where the message names one."""

    order: Order
    trade: Trade | None
    known: bool = False
    """An earlier message of this connection named the order."""


@frozen
class Reports:
    """What this connection was told: by order the filled quantity it last had, the positions, and which events came."""

    filled: dict[str, Any] = Factory(dict)
    positions: set[str] = Factory(set)
    came: set[tuple[str, str | None]] = Factory(set)

    def execution(self, payload: Any, symbol: str, account: str | None) -> Execution:
        """Read one executionEvent; a report of a known order that fills nothing more is a modification."""
        given = members(payload)
        order_id = first(given, "orderId", "id")
        event, status = STATUS[word(given["status"])]
        filled = first(given, "filledQuantity", "qtyFilled")
        known = order_id in self.filled
        if known and (event is CREATED or (status is OrderStatus.PARTIALLY_FILLED and self.filled[order_id] == filled)):
            event = MODIFIED
        order = self.order(given, symbol, account, event, status)
        trade = None
        if "executionId" in given and "lastQuantity" in given:
            trade = Trade(account=account, id=given["executionId"], order_id=order.id, symbol=symbol, side=order.side,
                          native_symbol=order.native_symbol, quantity=given["lastQuantity"], price=given["price"],
                          commission=given.get("commission"), time=given.get("ts"))  # fmt: skip
        self.remember(order_id, filled)
        return Execution(order, trade, known)

    def remember(self, order_id: str, filled: Any) -> None:
        """Keep what the order last had; the oldest orders are forgotten first."""
        self.filled.pop(order_id, None)
        self.filled[order_id] = filled
        if len(self.filled) > _REMEMBERED:
            del self.filled[next(iter(self.filled))]

    def order(self, given: Members, symbol: str, account: str | None, event: OrderEvent, status: OrderStatus) -> Order:
        return Order(
            event=event,
            status=status,
            account=account,
            id=first(given, "orderId", "id"),
            client_order_id=given.get("clientOrderId"),
            symbol=symbol,
            native_symbol=native(given),
            side=Side(word(given["side"])),
            order_type=word(given.get("type")),
            quantity=first(given, "quantity", "qtyOriginal", "volume"),
            filled_quantity=first(given, "filledQuantity", "qtyFilled"),
            time_in_force=word(given.get("timeInForce")),
            limit_price=given.get("limitPrice"),
            stop_price=given.get("stopPrice"),
            stop_loss=given.get("stopLossPrice"),
            take_profit=given.get("takeProfitPrice"),
            average_fill_price=given.get("averagePrice"),
            reject_reason=first(given, "reason", "rejectReason"),
            position_id=given.get("positionId"),
            parent_order_id=given.get("parentOrderId"),
            created_at=given.get("createdAt"),
            updated_at=given.get("updatedAt"),
            timestamp=first(given, "ts", "updatedAt"),
        )

    def portfolio(
        self, given: Members, symbol: Callable[[str], str], account: Callable[[Members], str | None]
    ) -> Iterable[Account | Position]:
        """Read one portfolioEvent: the money, then every position it names.

        The first one of a connection is what stands, and what it has of earlier connections is no news.
        """
        known = self.stands("portfolio", account(given))
        yield portfolio(given, account(given), known)
        held = [members(each) for each in given.get("positions", ())]
        new = self.new_positions([each["id"] for each in held])
        for each in held:
            yield position(each, symbol(native(each)), account(given), known, new=each["id"] in new)

    def metrics(self, given: Members, account: str | None) -> Account:
        """Read one metricsEvent; of the first one of a connection the same is true."""
        return metrics(given, account, self.stands("metrics", account))

    def stands(self, what: str, account: str | None) -> bool | None:
        """True for the first event of its kind, None for all others: `reconciled` of what is read of it."""
        first = (what, account) not in self.came
        self.came.add((what, account))
        return first or None

    def new_positions(self, ids: Iterable[str]) -> set[str]:
        """Which of these positions no earlier portfolioEvent of this connection named; none for the first of them."""
        ids = set(ids)
        new = ids - self.positions if self.positions else set()
        self.positions.update(ids or {""})
        return new


def native(given: Members) -> str:
    """The provider's text of the symbol an object is about."""
    symbol = first(given, "symbol", "symbolName", "symbolId")
    if not isinstance(symbol, str):
        raise TypeError(f"symbol: expected text, got {symbol!r:.64}")
    return symbol


def position(given: Members, symbol: str, account: str | None, known: bool | None, *, new: bool) -> Position:
    """One position of a portfolio; ``new`` says that it was not in the portfolio before."""
    status = word(given["status"])
    event = {"OPEN": PositionEvent.POSITION_OPENED if new else PositionEvent.POSITION_MODIFIED,
             "CLOSED": PositionEvent.POSITION_CLOSED}[status]  # fmt: skip
    return Position(
        event=event,
        account=account,
        id=given["id"],
        symbol=symbol,
        native_symbol=native(given),
        side=POSITION_SIDE[word(given["side"])] if "side" in given else None,
        quantity=first(given, "quantity", "units", "qty"),
        average_entry_price=given.get("openPrice"),
        current_price=given.get("currentPrice"),
        unrealized_pnl=given.get("profit"),
        realized_pnl=given.get("realizedPnl"),
        opened_at=given.get("createdAt"),
        updated_at=given.get("updatedAt"),
        timestamp=given.get("updatedAt"),
        reconciled=known,
    )


def portfolio(given: Members, account: str | None, known: bool | None) -> Account:
    """The money of a portfolioEvent."""
    return Account(
        event=AccountEvent.MARGIN_CALL if given.get("inMarginCall") is True else AccountEvent.BALANCE_UPDATED,
        account=account,
        balance=given.get("balance"),
        margin_used=given.get("usedMargin"),
        unrealized_pnl=given.get("unrealizedPnl"),
        currency=given.get("currency"),
        timestamp=given.get("ts"),
        reconciled=known,
    )


def metrics(given: Members, account: str | None, known: bool | None) -> Account:
    """A metricsEvent. ``pnl`` stands beside balance and equity and is taken to be their difference: the unrealized one."""
    return Account(
        event=AccountEvent.METRICS_UPDATED,
        account=account,
        balance=given.get("balance"),
        equity=given.get("equity"),
        margin_used=given.get("margin"),
        margin_available=given.get("freeMargin"),
        unrealized_pnl=first(given, "unrealizedPnl", "pnl"),
        currency=given.get("currency"),
        timestamp=given.get("ts"),
        reconciled=known,
    )
