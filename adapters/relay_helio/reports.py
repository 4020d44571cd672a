"""The messages Helio sends: prices, and the executions, portfolios and metrics of accounts.

The Trader WebSocket API names the messages of an account (https://docs.helio.trade/trader/websocket) without their members.
The names read here are those of the objects of Helio's REST API (https://docs.helio.trade/trader/api/trading/get-portfolio,
/trader/api/history/order-history), in snake_case or camelCase, with or without the prefixes of their enums
(``TRADE_SIDE_BUY`` or ``BUY``). Null, empty text, UNSPECIFIED and a price of zero count as absent. A member without a field
is in the event's ``data``, under its camelCase name.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from attrs import Factory, define

from relay.adapter import Complete, Unknown, reading
from relay.adapter.reading import Members, each, first, is_zero, take, text, unless_zero
from relay.model.enums import OrderStatus, PositionSide, Side
from relay.model.events import Account, Depth, Event, Order, Position, Quote, Trade

STATUS = {
    **{str(status): status for status in OrderStatus if status is not OrderStatus.PENDING_CANCEL},
    **dict.fromkeys(("NEW", "ACCEPTED", "WORKING"), OrderStatus.OPEN),
    "CANCELED": OrderStatus.CANCELLED,
}
POSITION_SIDE = {"BUY": PositionSide.LONG, "SELL": PositionSide.SHORT, **{str(side): side for side in PositionSide}}
POSITION_IS_OPEN = {"OPEN": True, "CLOSED": False, "CANCELLED": False}
SYMBOL = ("symbol", "symbolName", "symbolId")
#: Members without which an execution is no fill.
FILL = ("executionId", "lastQuantity", "price")

_prefix = re.compile(r"^(?:TRADE_SIDE|ORDER_STATUS|ORDER_TYPE|ORDER_TIF|TIF|POSITION_STATUS)_")
_snake = re.compile(r"_([a-z])")


def members(raw: Any) -> Members:
    """Return the members of an object with camelCase names, null and empty ones left out."""
    given = reading.members(raw)
    return {_snake.sub(lambda m: m[1].upper(), name): value for name, value in given.items() if value != ""}


def word(value: Any) -> Any:
    """Return an enum's word without its prefix, None for UNSPECIFIED; other values stay, for the enums to refuse."""
    if not isinstance(value, str):
        return value
    plain = _prefix.sub("", value)
    return None if plain == "UNSPECIFIED" else plain


def rest(left: Members, symbol: str | None = None) -> Members | None:
    """Return what is left of an object besides its account and its symbol, for ``data``."""
    return {
        name: value for name, value in left.items() if name != "accountId" and not (name in SYMBOL and value == symbol)
    } or None


@define(eq=False)
class Reports:
    """The reader of one connection's account messages.

    Attributes:
        symbol: return the canonical text of the provider's symbol.
        account: the provider's id of the session's own account; empty when it is not known.
        came: the kinds of message that came, with their account.
    """

    symbol: Callable[[str], str]
    account: str
    came: set[tuple[str, str | None]] = Factory(set)

    def execution(self, payload: Any) -> Iterator[Order | Trade]:
        """Yield the order as it is, and the fill where the message names one."""
        left = members(payload)
        is_fill = left.keys() >= set(FILL)
        fill = {name: left.pop(name, None) for name in (*FILL, "commission")} if is_fill else {}
        order = self.order(left)
        yield order
        if fill:
            yield Trade(account=order.account, id=fill["executionId"], order_id=order.id, symbol=order.symbol,
                        side=order.side, native_symbol=order.native_symbol, quantity=fill["lastQuantity"],
                        price=fill["price"], commission=fill["commission"], time=order.timestamp)  # fmt: skip

    def portfolio(self, payload: Any, *, whole: bool, streamed: bool = True) -> Iterator[Event | Complete]:
        """Yield the money, positions and orders of a portfolio; ``whole``: it names everything that is open.

        The first one ``streamed`` on a connection is the present state, so only its differences from the last one are news.
        """
        given = members(payload)
        account = self._other(given)
        reconciled = self._is_first("portfolio", account) if streamed else None
        yield self._money(given, reconciled=reconciled)
        for raw in given.get("positions", ()):
            yield self._position(raw, account=account, reconciled=reconciled)
        for raw in given.get("orders", ()):  # whose changes are executions: a list only adds what was missed
            yield self.order(raw, reconciled=True)
        if whole and "positions" in given:
            yield Complete("position", account)
        if whole and "orders" in given:
            yield Complete("order", account)

    def answer(self, payload: Any, what: str) -> tuple[Event | Unknown, ...] | None:
        """Return what the answer to a list or a history says (`Command.answer`); None where it has no such list."""
        given = members(payload) if isinstance(payload, dict) else {}
        account = self._other(given)
        readers: dict[str, tuple[Any, Callable[[Any], Event]]] = {
            "accounts": ([given], self._money),
            "positions": (given.get("positions"), partial(self._position, account=account)),
            "orders": (given.get("orders"), self.order),
            "trades": (given.get("deals"), self._deal),
        }
        raws, read = readers[what]
        return tuple(each(raws, read)) if isinstance(raws, list) else None

    def _deal(self, raw: Any) -> Order | Trade:
        _, fill = self.execution(raw)  # one without a fill cannot be read
        return fill

    def metrics(self, payload: Any) -> Account:
        """Return the money of a metricsEvent. ``pnl`` is taken to be the difference of equity and balance."""
        left = members(payload)
        return self._money(left, reconciled=self._is_first("metrics", self._other(left)))

    def order(self, raw: Any, *, reconciled: bool | None = None) -> Order:
        """Return the order that an execution or a list describes."""
        left = members(raw)
        name, updated_at = native(left), take(left, "updatedAt")
        return Order(
            event=None, account=self._other(left), reconciled=reconciled, symbol=self.symbol(name), native_symbol=name,
            id=take(left, "orderId", "id"), client_order_id=take(left, "clientOrderId"),
            position_id=take(left, "positionId"), parent_order_id=take(left, "parentOrderId"),
            status=STATUS[word(left.pop("status"))], reject_reason=take(left, "reason", "rejectReason"),
            side=Side(word(take(left, "side"))), order_type=word(take(left, "type")),
            time_in_force=word(take(left, "timeInForce")), quantity=take(left, "quantity", "qtyOriginal", "volume"),
            filled_quantity=take(left, "filledQuantity", "qtyFilled"),
            remaining_quantity=take(left, "remainingQuantity", "qtyRemaining"),
            limit_price=unless_zero(take(left, "limitPrice")), stop_price=unless_zero(take(left, "stopPrice")),
            stop_loss=unless_zero(take(left, "stopLossPrice")), take_profit=unless_zero(take(left, "takeProfitPrice")),
            average_fill_price=unless_zero(take(left, "averagePrice", "fillPrice")),
            created_at=take(left, "createdAt"), updated_at=updated_at, timestamp=take(left, "ts") or updated_at,
            data=rest(left, name),
        )  # fmt: skip

    def _position(self, raw: Any, *, account: str | None, reconciled: bool | None = None) -> Position:
        """Return a position. Its quantity is ``qty`` before ``units``: orders have it, and positions are closed by it."""
        left = members(raw)
        name, status, updated_at = native(left), word(left["status"]), take(left, "updatedAt")
        is_open, quantity = POSITION_IS_OPEN[status], take(left, "quantity", "qty", "units")
        if status != "CANCELLED":  # no field but data can tell it from a closed one
            del left["status"]
        if not is_open and not is_zero(quantity):
            left["qty"] = quantity
        return Position(
            event=None, account=account, reconciled=reconciled, symbol=self.symbol(name), native_symbol=name,
            id=take(left, "id"), side=POSITION_SIDE[word(take(left, "side"))] if "side" in left else None,
            quantity=quantity if is_open else "0", average_entry_price=take(left, "openPrice"),
            current_price=unless_zero(take(left, "currentPrice")), unrealized_pnl=take(left, "profit"),
            realized_pnl=take(left, "realizedPnl"), opened_at=take(left, "createdAt"),
            updated_at=updated_at, timestamp=updated_at, data=rest(left, name),
        )  # fmt: skip

    def _money(self, given: Members, *, reconciled: bool | None = None) -> Account:
        """Return the money of a portfolio or of metrics. A stop out is a margin call gone further, and stays in ``data``."""
        left = {name: value for name, value in given.items() if name not in ("positions", "orders")}
        named = [value for value in (take(left, "inMarginCall"), left.get("inStopOut")) if isinstance(value, bool)]
        return Account(
            event=None, account=self._other(left), reconciled=reconciled, margin_call=any(named) if named else None,
            balance=take(left, "balance"), equity=take(left, "equity"), margin_used=take(left, "margin", "usedMargin"),
            margin_available=take(left, "freeMargin"), unrealized_pnl=take(left, "unrealizedPnl", "pnl"),
            currency=take(left, "currency"), timestamp=take(left, "ts"), data=rest(left),
        )  # fmt: skip

    def _other(self, given: Members) -> str | None:
        """Return the account an object names, None for the session's own."""
        named: str | None = given.get("accountId")
        return None if named == self.account else named

    def _is_first(self, what: str, account: str | None) -> bool | None:
        """Return True for the first message of its kind, None for the others: the event's ``reconciled``."""
        is_first = (what, account) not in self.came
        self.came.add((what, account))
        return is_first or None


def native(given: Members) -> str:
    """Return the provider's symbol of an order or position."""
    return text({"symbol": first(given, *SYMBOL)}, "symbol")


def quote(given: Members, name: str, symbol: str) -> Quote:
    """Return the best prices."""
    return Quote(symbol=symbol, native_symbol=name, bid=given.get("bid"), ask=given.get("ask"), time=given.get("ts"))


def depth(given: Members, name: str, symbol: str) -> Depth:
    """Return the whole book."""
    return Depth(symbol=symbol, native_symbol=name, bids=map(_level, given["bids"]), asks=map(_level, given["asks"]),
                 snapshot=True, timestamp=given.get("ts"))  # fmt: skip


def _level(raw: Any) -> tuple[Any, Any]:
    match raw:
        case [price, size, *_]:
            return price, size
        case dict():
            given = members(raw)
            return given["price"], first(given, "size", "quantity", "volume", "qty")
    raise TypeError(f"expected a level, got {raw!r:.64}")
