"""Orders and fills as NinjaTrader has them.

An answer says what an order is, never what happened to it; `happened` finds that by comparing it with what was last told.
Members of an order behind ``limitPriceChanged`` and of a fill behind ``quantity`` are cut off on the pages
(https://docs.crosstrade.io/api/orders/get-order, https://docs.crosstrade.io/api/executions/get-executions); they are read
under NinjaTrader's own names of them.
"""

from decimal import Decimal

import attrs

from relay.model.commands import PlaceOrder
from relay.model.enums import OrderEvent, OrderStatus, OrderType, Side, TimeInForce
from relay.model.events import Order, Trade
from relay.model.text import from_millis
from relay_crosstrade.reading import Members, Other, Symbol, text

#: https://ninjatrader.com/support/helpGuides/nt8/order_state_definitions.htm, in NinjaScript's spelling.
STATES = {
    "INITIALIZED": OrderStatus.PENDING,
    "SUBMITTED": OrderStatus.PENDING,
    "TRIGGERPENDING": OrderStatus.PENDING,
    "ACCEPTED": OrderStatus.OPEN,
    "SUSPENDED": OrderStatus.OPEN,
    "WORKING": OrderStatus.OPEN,
    "CHANGEPENDING": OrderStatus.OPEN,
    "CHANGESUBMITTED": OrderStatus.OPEN,
    "PARTFILLED": OrderStatus.PARTIALLY_FILLED,
    "CANCELPENDING": OrderStatus.PENDING_CANCEL,
    "CANCELSUBMITTED": OrderStatus.PENDING_CANCEL,
    "FILLED": OrderStatus.FILLED,
    "CANCELLED": OrderStatus.CANCELLED,
    "REJECTED": OrderStatus.REJECTED,
}
ENDED = {
    OrderStatus.FILLED: OrderEvent.ORDER_FILLED,
    OrderStatus.CANCELLED: OrderEvent.ORDER_CANCELLED,
    OrderStatus.REJECTED: OrderEvent.ORDER_REJECTED,
}
SIDES = {"BUY": Side.BUY, "BUYTOCOVER": Side.BUY, "SELL": Side.SELL, "SELLSHORT": Side.SELL}
#: The market position of an execution is the direction of the fill: one that leaves a long position is Short.
FILLED = {"LONG": Side.BUY, "SHORT": Side.SELL}
#: Types and times in force that have no canonical word are left out, the order is told all the same.
TYPES = {
    "MARKET": OrderType.MARKET, "LIMIT": OrderType.LIMIT, "STOPMARKET": OrderType.STOP, "STOPLIMIT": OrderType.STOP_LIMIT,
}  # fmt: skip
TIMES = {each.value: each for each in TimeInForce}
_LIMITED = (OrderType.LIMIT, OrderType.STOP_LIMIT)
_STOPPED = (OrderType.STOP, OrderType.STOP_LIMIT)


def order(given: Members, id: str, before: Order | None, symbol: Symbol, other: Other) -> Order:
    """The order as it is now, under the id it has for us; ``before`` is what was last told of it.

    Raises:
        KeyError, TypeError, ValueError: anything needed is missing, or a state or a side that is not known.
    """
    native, time = text(given, "instrument"), given.get("timeInForce")
    kind = TYPES.get(text(given, "orderType").upper())
    now = Order(
        event=OrderEvent.ORDER_MODIFIED,
        account=other(text(given, "account")),
        id=id,
        client_order_id=None if before is None else before.client_order_id,
        symbol=symbol(native),
        native_symbol=native,
        side=_side(given, before),
        order_type=kind,
        quantity=given.get("quantity"),
        filled_quantity=given.get("filled"),
        status=STATES[text(given, "orderState").upper()],
        time_in_force=TIMES.get(time.upper()) if isinstance(time, str) else None,
        limit_price=given.get("limitPrice") if kind in _LIMITED else None,
        stop_price=given.get("stopPrice") if kind in _STOPPED else None,
        average_fill_price=given.get("averageFillPrice"),
        oco_group_id=given.get("oco") or None,
        updated_at=_time(given),
    )
    average = now.average_fill_price if filled(now) else None  # 0.0 until then
    return attrs.evolve(now, event=happened(now, before), average_fill_price=average)


def _side(given: Members, before: Order | None) -> Side:
    """The page is cut before it names the side; an order that is known has the one it had."""
    name = next((name for name in ("orderAction", "action") if name in given), None)
    if name is None and before is not None:
        return before.side
    return SIDES[text(given, name or "orderAction").upper()]


def fill(given: Members, order_id: str, symbol: Symbol, other: Other, *, missed: bool) -> Trade:
    """One execution. Raises as `order`."""
    native = text(given, "instrument")
    return Trade(
        account=other(text(given, "account")),
        id=text(given, "id"),
        order_id=order_id,
        symbol=symbol(native),
        native_symbol=native,
        side=FILLED[text(given, "marketPosition").upper()],
        quantity=given["quantity"],
        price=given["price"],
        commission=given.get("commission"),
        time=_time(given),
        reconciled=missed or None,
    )


def _time(given: Members) -> str | None:
    """``time`` is that of NinjaTrader's computer, wherever it stands; ``epoch`` is not."""
    return None if given.get("epoch") is None else from_millis(given["epoch"])


# --- what happened ---------------------------------------------------------------------------------------------------


def happened(now: Order, before: Order | None) -> OrderEvent:
    if now.status in ENDED:
        return ENDED[now.status]
    if now.status is OrderStatus.PARTIALLY_FILLED and grew(before, now):
        return OrderEvent.ORDER_PARTIALLY_FILLED
    return OrderEvent.ORDER_CREATED if before is None else OrderEvent.ORDER_MODIFIED


def is_same(before: Order, now: Order) -> bool:
    """Whether nothing is to be told of an order."""
    return attrs.evolve(now, event=before.event, updated_at=before.updated_at) == before


def filled(order: Order | None) -> Decimal:
    return Decimal(0) if order is None else Decimal(order.filled_quantity or 0)


def grew(before: Order | None, now: Order) -> bool:
    """Whether more of the order is filled than was told."""
    return filled(now) > filled(before)


def pending(command: PlaceOrder, id: str, account: str | None) -> Order:
    """An order that was taken: what is known of it is what was asked for."""
    return Order(
        event=OrderEvent.ORDER_CREATED,
        account=account,
        id=id,
        client_order_id=command.client_order_id,
        symbol=command.symbol,
        side=command.side,
        order_type=command.order_type,
        quantity=command.quantity,
        status=OrderStatus.PENDING,
        time_in_force=command.time_in_force,
        limit_price=command.limit_price,
        stop_price=command.stop_price,
    )
