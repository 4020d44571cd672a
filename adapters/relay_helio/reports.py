"""What Helio reports of an account: executions, portfolio, metrics.

The Trader WebSocket API names these messages (https://docs.helio.trade/trader/websocket) without their members. The names
read here are those of the objects of Helio's REST API (https://docs.helio.trade/trader/api/trading/get-portfolio,
/trader/api/history/order-history), in snake_case or camelCase, with or without the prefixes of their enums
(``TRADE_SIDE_BUY`` or ``BUY``). Null, empty text, UNSPECIFIED and a price of zero are how such an API writes that there is
none. Where a member is absent nothing is put in its place; one that no field has is in the event's ``data``, under its
camelCase name.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import Factory, define, frozen

from relay.adapter import Complete, reading
from relay.adapter.reading import Members, first, take, unless_zero
from relay.limits import BoundedDict
from relay.model.enums import AccountEvent, OrderEvent, OrderStatus, PositionEvent, PositionSide, Side
from relay.model.events import Account, Depth, Order, Position, Quote, Trade

CREATED, MODIFIED = OrderEvent.ORDER_CREATED, OrderEvent.ORDER_MODIFIED
STATUS = {
    "PENDING": (CREATED, OrderStatus.PENDING),
    "NEW": (CREATED, OrderStatus.OPEN),
    "ACCEPTED": (CREATED, OrderStatus.OPEN),
    "OPEN": (CREATED, OrderStatus.OPEN),
    "WORKING": (CREATED, OrderStatus.OPEN),
    "PARTIALLY_FILLED": (OrderEvent.ORDER_PARTIALLY_FILLED, OrderStatus.PARTIALLY_FILLED),
    "FILLED": (OrderEvent.ORDER_FILLED, OrderStatus.FILLED),
    "CANCELLED": (OrderEvent.ORDER_CANCELLED, OrderStatus.CANCELLED),
    "CANCELED": (OrderEvent.ORDER_CANCELLED, OrderStatus.CANCELLED),
    "REJECTED": (OrderEvent.ORDER_REJECTED, OrderStatus.REJECTED),
    "EXPIRED": (OrderEvent.ORDER_EXPIRED, OrderStatus.EXPIRED),
}
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
POSITION_SIDE = {"BUY": LONG, "SELL": SHORT, "LONG": LONG, "SHORT": SHORT}
POSITION = {
    "OPEN": PositionEvent.POSITION_MODIFIED,
    "CLOSED": PositionEvent.POSITION_CLOSED,
    "CANCELLED": PositionEvent.POSITION_CLOSED,
}
SYMBOL = ("symbol", "symbolName", "symbolId")
_REMEMBERED = 10_000

_prefix = re.compile(r"^(?:TRADE_SIDE|ORDER_STATUS|ORDER_TYPE|ORDER_TIF|TIF|POSITION_STATUS)_")
_snake = re.compile(r"_([a-z])")


def members(raw: Any) -> Members:
    """Return the members of an object with camelCase names, null and empty ones left out."""
    given = reading.members(raw)
    return {_snake.sub(lambda m: m[1].upper(), name): value for name, value in given.items() if value != ""}


def word(value: Any) -> Any:
    """A word of an enum without its prefix, None where it is UNSPECIFIED; what is no text stays, for the enums to refuse."""
    if not isinstance(value, str):
        return value
    plain = _prefix.sub("", value)
    return None if plain == "UNSPECIFIED" else plain


def rest(left: dict[str, Any], symbol: str | None = None) -> dict[str, Any] | None:
    """What is left of an object when its account and its symbol are known."""
    left.pop("accountId", None)
    for name in SYMBOL:
        if left.get(name) == symbol:
            left.pop(name, None)
    return left or None


@frozen
class Execution:
    """An executionEvent: the order as it is, and the fill where the message names one."""

    order: Order
    trade: Trade | None
    known: bool = False
    """An earlier message of this connection named the order."""


@define(eq=False)
class Reports:
    """What one connection is told of accounts.

    Attributes:
        symbol: canonical text of the provider's symbol.
        account: the provider's id of the session's own account; empty when nobody said which it is.
        filled: by order the filled quantity it last had.
        positions: the positions that were named.
        held: those of the session's own account as they last were open, by id.
        traded: provider's symbols of orders and positions.
        came: which messages came, and of which account.
    """

    symbol: Callable[[str], str]
    account: str
    filled: BoundedDict[str, Any] = Factory(lambda: BoundedDict(_REMEMBERED))
    positions: BoundedDict[str, None] = Factory(lambda: BoundedDict(_REMEMBERED))
    held: BoundedDict[str, Position] = Factory(lambda: BoundedDict(_REMEMBERED))
    traded: set[str] = Factory(set)
    came: set[tuple[str, str | None]] = Factory(set)

    def other(self, given: Members) -> str | None:
        """The account an object names, where it is not the session's own."""
        named: str | None = given.get("accountId")
        return None if named == self.account else named

    def execution(self, payload: Any) -> Execution:
        """Read one executionEvent; a report of a known order that fills nothing more is a modification."""
        given = members(payload)
        order_id, filled = first(given, "orderId", "id"), first(given, "filledQuantity", "qtyFilled")
        event, status = STATUS[word(given["status"])]
        known = order_id in self.filled
        if known and (event is CREATED or (status is OrderStatus.PARTIALLY_FILLED and self.filled[order_id] == filled)):
            event = MODIFIED
        fill = {name: given.pop(name) for name in FILL if name in given} if given.keys() >= set(FILL[:2]) else None
        said = self.order(given, event=event, status=status)
        self.filled[order_id] = filled
        return Execution(said, None if fill is None else _trade(fill, said), known)

    def order(self, given: dict[str, Any], **more: Any) -> Order:
        return order(given, self.traded_symbol(given), self.other(given), **more)

    def traded_symbol(self, given: Members) -> str:
        """The canonical symbol of an order or position."""
        name = native(given)
        if len(self.traded) < _REMEMBERED:
            self.traded.add(name)
        return self.symbol(name)

    def portfolio(
        self, payload: Any, *, whole: bool, streamed: bool = True
    ) -> Iterator[Account | Position | Order | Complete]:
        """Read a portfolio: the money, then the positions and orders it names; ``whole``: these are all there are.

        The first one ``streamed`` on a connection is what stands, and what it has of earlier connections is no news.
        """
        given = members(payload)
        account = self.other(given)
        stands = self.stands("portfolio", account) if streamed else None
        yield money(given, account, stands)
        held = [members(each) for each in given.get("positions", ())]
        new = self.new_positions([each["id"] for each in held])
        for each in held:
            told = position(each, self.traded_symbol(each), account, stands, new=each["id"] in new)
            if account is None and told.event is not PositionEvent.POSITION_CLOSED:
                self.held[told.id] = told
            yield told
        yield from self.listed(given.get("orders", ()))
        if whole and "positions" in given:
            yield Complete("position", account)
        if whole and "orders" in given:
            yield Complete("order", account)

    def listed(self, orders: Iterable[Any]) -> Iterator[Order]:
        """Orders of a list: published where they are not as they last were, for their changes come as executions."""
        for given in map(members, orders):
            event, status = STATUS[word(given["status"])]
            self.filled[given["id"]] = first(given, "qtyFilled", "filledQuantity")
            yield self.order(given, event=event, status=status, reconciled=True)

    def new_positions(self, ids: Iterable[str]) -> set[str]:
        """Which of these positions no earlier portfolio of this connection named; none for the first of them."""
        ids = list(ids)
        new = set(ids) - self.positions.keys() if self.positions else set()
        for id in ids or [""]:
            self.positions[id] = None
        return new

    def stands(self, what: str, account: str | None) -> bool | None:
        """True for the first message of its kind, None for all others: `reconciled` of what is read of it."""
        first = (what, account) not in self.came
        self.came.add((what, account))
        return first or None

    def metrics(self, payload: Any) -> Account:
        """Read one metricsEvent. ``pnl`` stands beside balance and equity and is taken to be their difference."""
        left = members(payload)
        account = self.other(left)
        return Account(
            event=AccountEvent.METRICS_UPDATED,
            account=account,
            reconciled=self.stands("metrics", account),
            balance=take(left, "balance"),
            equity=take(left, "equity"),
            margin_used=take(left, "margin", "usedMargin"),
            margin_available=take(left, "freeMargin"),
            unrealized_pnl=take(left, "unrealizedPnl", "pnl"),
            currency=take(left, "currency"),
            timestamp=take(left, "ts"),
            data=rest(left),
        )


#: Members of a fill in an execution.
FILL = ("executionId", "lastQuantity", "price", "commission")


def _trade(fill: Members, of: Order) -> Trade:
    return Trade(account=of.account, id=fill["executionId"], order_id=of.id, symbol=of.symbol, side=of.side,
                 native_symbol=of.native_symbol, quantity=fill["lastQuantity"], price=fill["price"],
                 commission=fill.get("commission"), time=of.timestamp)  # fmt: skip


def native(given: Members) -> str:
    """The provider's text of the symbol an object is about."""
    symbol = first(given, *SYMBOL)
    if not isinstance(symbol, str):
        raise TypeError(f"symbol: expected text, got {symbol!r:.64}")
    return symbol


def order(left: dict[str, Any], symbol: str, account: str | None, **more: Any) -> Order:
    """An order; what its fields take is taken from ``left``."""
    name, updated_at = native(left), take(left, "updatedAt")
    left.pop("status")
    return Order(
        account=account,
        symbol=symbol,
        native_symbol=name,
        id=take(left, "orderId", "id"),
        client_order_id=take(left, "clientOrderId"),
        side=Side(word(take(left, "side"))),
        order_type=word(take(left, "type")),
        quantity=take(left, "quantity", "qtyOriginal", "volume"),
        filled_quantity=take(left, "filledQuantity", "qtyFilled"),
        remaining_quantity=take(left, "remainingQuantity", "qtyRemaining"),
        time_in_force=word(take(left, "timeInForce")),
        limit_price=unless_zero(take(left, "limitPrice")),
        stop_price=unless_zero(take(left, "stopPrice")),
        stop_loss=unless_zero(take(left, "stopLossPrice")),
        take_profit=unless_zero(take(left, "takeProfitPrice")),
        average_fill_price=unless_zero(take(left, "averagePrice", "fillPrice")),
        reject_reason=take(left, "reason", "rejectReason"),
        position_id=take(left, "positionId"),
        parent_order_id=take(left, "parentOrderId"),
        created_at=take(left, "createdAt"),
        updated_at=updated_at,
        timestamp=take(left, "ts") or updated_at,
        data=rest(left, name),
        **more,
    )


def position(given: Members, symbol: str, account: str | None, stands: bool | None, *, new: bool) -> Position:
    """One position of a portfolio; ``new`` says that it was not in the portfolio before.

    Its quantity is ``qty`` before ``units``: that is what orders have, and what is closed by.
    """
    left, name = dict(given), native(given)
    status = word(given["status"])
    event = POSITION[status]
    if event is PositionEvent.POSITION_MODIFIED and new:
        event = PositionEvent.POSITION_OPENED
    if status != "CANCELLED":  # of which no field says more than that it is no longer open
        left.pop("status")
    updated_at = take(left, "updatedAt")
    return Position(
        event=event,
        account=account,
        id=take(left, "id"),
        symbol=symbol,
        native_symbol=name,
        side=POSITION_SIDE[word(take(left, "side"))] if "side" in left else None,
        quantity=take(left, "quantity", "qty", "units"),
        average_entry_price=take(left, "openPrice"),
        current_price=unless_zero(take(left, "currentPrice")),
        unrealized_pnl=take(left, "profit"),
        realized_pnl=take(left, "realizedPnl"),
        opened_at=take(left, "createdAt"),
        updated_at=updated_at,
        timestamp=updated_at,
        reconciled=stands,
        data=rest(left, name),
    )


def money(given: Members, account: str | None, stands: bool | None) -> Account:
    """The money of a portfolio. A stop out is the worse of two margin calls, and says so in ``data``."""
    left = {name: value for name, value in given.items() if name not in ("positions", "orders")}
    called = take(left, "inMarginCall") is True or left.get("inStopOut") is True
    return Account(
        event=AccountEvent.MARGIN_CALL if called else AccountEvent.BALANCE_UPDATED,
        account=account,
        reconciled=stands,
        balance=take(left, "balance"),
        equity=take(left, "equity"),
        margin_used=take(left, "usedMargin"),
        unrealized_pnl=take(left, "unrealizedPnl"),
        currency=take(left, "currency"),
        timestamp=take(left, "ts"),
        data=rest(left),
    )


# --- prices ----------------------------------------------------------------------------------------------------------


def quote(given: Members, native: str, symbol: str) -> Quote:
    """Return the best prices."""
    return Quote(symbol=symbol, native_symbol=native, bid=given.get("bid"), ask=given.get("ask"), time=given.get("ts"))


def depth(given: Members, native: str, symbol: str) -> Depth:
    """Return the whole book."""
    return Depth(symbol=symbol, native_symbol=native, bids=map(_level, given["bids"]), asks=map(_level, given["asks"]),
                 snapshot=True, timestamp=given.get("ts"))  # fmt: skip


def _level(raw: Any) -> tuple[Any, Any]:
    """Return a level of the book, an object or an array of price and size."""
    match raw:
        case [price, size, *_]:
            return price, size
        case dict():
            given = members(raw)
            return given["price"], first(given, "size", "quantity", "volume", "qty")
    raise TypeError(f"expected a level, got {raw!r:.64}")
