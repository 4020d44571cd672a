"""Asking Helio for things, and telling its answers apart.

Helio's envelope (https://docs.helio.trade/trader/websocket) has no id that an answer would carry. An answer is matched by
what it says:

- an executionEvent that carries our ``clientOrderId`` answers that order;
- otherwise an executionEvent of an order this connection has not seen answers the oldest waiting order of the same symbol,
  side and quantity (that sent no ``clientOrderId``, or whose answer carries none);
- an executionEvent of the named order answers a cancel when the order is cancelled, an amendment when the order is
  reported open again, and refuses both when the order has ended otherwise;
- an executionEvent that names the position answers its closing;
- a message of the command's own type answers the oldest waiting command of that type.

An ``error`` names no message, so it never answers a command: what it belongs to stays unanswered and becomes unknown at its
deadline, because the order may be live. A command that was given up by then waits no longer, so that it does not take the
answer of the next one. At most `WAITING` commands wait; beyond that the oldest is no longer matched.
"""

import re
from decimal import Decimal
from typing import Any

import msgspec
from attrs import Factory, frozen

from relay.adapter import CommandReply
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    CancelOrder,
    ClosePosition,
    Command,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.model.enums import OrderEvent, OrderStatus
from relay.model.events import Order
from relay_helio.reports import Execution

WAITING = 1000
TYPES: dict[type[Command], str] = {
    PlaceOrder: "createOrder",
    CancelOrder: "cancelOrder",
    AmendOrder: "amendOrder",
    ClosePosition: "closePosition",
    AmendPosition: "amendPosition",
    OrderHistory: "orderHistory",
    PositionHistory: "positionHistory",
    TradeHistory: "dealHistory",
}
ENDED = (OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED)
TYPE_NAMES = frozenset(TYPES.values())
#: Names of the REST bodies that are not the page's in snake_case.
REST_NAMES = {"symbol": "symbol_id", "quantity": "volume"}
REST_PREFIXES = {"side": "TRADE_SIDE_", "type": "ORDER_TYPE_", "timeInForce": "TIF_"}

_camel = re.compile(r"[A-Z]")


def number(text: str | None) -> msgspec.Raw | None:
    """Decimal text as a JSON number of the same digits."""
    return None if text is None else msgspec.Raw(format(Decimal(text), "f").encode())


def levels(price: str | None) -> list[dict[str, Any]] | None:
    """A stop loss or take profit as the REST bodies have it."""
    return None if price is None else [{"price": number(price)}]


#: Members of an order as the REST page spells them; a server that reads both must not be told two things.
_OTHER_SPELLINGS = ("symbol_id", "volume", "client_order_id", "order_type")


def body(command: Command, account_id: str, native: str | None) -> dict[str, Any]:
    """The payload of ``command`` in the spelling of the WebSocket page.

    Raises:
        ValueError: something is asked for that Helio has no member for.
    """
    match command:
        case PlaceOrder():
            for name in ("trailing_distance", "reduce_only", "post_only"):
                if getattr(command, name) is not None:
                    raise ValueError(f"{name}: Helio's orders have no such member")
            own = {"symbol": native, "side": command.side, "quantity": number(command.quantity),
                     "type": command.order_type, "clientOrderId": command.client_order_id,
                     "timeInForce": command.time_in_force, "limitPrice": number(command.limit_price),
                     "stopPrice": number(command.stop_price), "stopLossPrice": number(command.stop_loss),
                     "takeProfitPrice": number(command.take_profit), "goodTillDate": command.good_till}  # fmt: skip
            asked = command.with_extra(own, *_OTHER_SPELLINGS)
        case CancelOrder(order_id=order_id):
            asked = {"orderId": order_id}
        case AmendOrder(order_id=order_id):
            asked = {"orderId": order_id, "quantity": number(command.quantity), "limitPrice": number(command.limit_price),
                     "stopPrice": number(command.stop_price), "timeInForce": command.time_in_force,
                     "goodTillDate": command.good_till, "slLevels": levels(command.stop_loss),
                     "tpLevels": levels(command.take_profit)}  # fmt: skip
        case ClosePosition(position_id=position_id):
            asked = {"positionId": position_id, "qty": number(command.quantity)}
        case AmendPosition(position_id=position_id):
            asked = {
                "positionId": position_id,
                "slLevels": levels(command.stop_loss),
                "tpLevels": levels(command.take_profit),
            }
        case OrderHistory() | PositionHistory() | TradeHistory():
            if command.until is None:
                raise ValueError("until: Helio's history needs to be told up to when")
            if native is not None:
                raise ValueError("symbol: Helio's history has no such member")
            asked = {"from": command.since, "to": command.until}
        case _:
            raise ValueError(f"Helio has no {command.name}")
    return {"accountId": account_id, **{name: value for name, value in asked.items() if value is not None}}


def rest_body(page: dict[str, Any]) -> dict[str, Any]:
    """The same payload in the spelling of the REST API's bodies."""
    snake = {name: REST_NAMES.get(name) or _camel.sub(lambda m: f"_{m[0].lower()}", name) for name in page}
    return {
        snake[name]: f"{REST_PREFIXES[name]}{value}" if name in REST_PREFIXES else value for name, value in page.items()
    }


@frozen
class Waiting:
    """The commands of this connection that have no answer yet, oldest first."""

    commands: dict[str, Command] = Factory(dict)

    def add(self, command: Command) -> None:
        self.commands[command.id] = command
        if len(self.commands) > WAITING:
            del self.commands[next(iter(self.commands))]

    def forget(self, id: str) -> None:
        """No answer to this command is taken any more."""
        self.commands.pop(id, None)

    def answered(self, type: str, payload: Any) -> CommandReply:
        """A message of a command's own type; where none waits for it, a reply to nothing, which is counted as such."""
        command = next((c for c in self.commands.values() if TYPES[c.__class__] == type), None)
        failed = isinstance(payload, dict) and "code" in payload and "message" in payload
        error, result = (payload, None) if failed else (None, payload)
        return CommandReply("", result, error) if command is None else self._reply(command, result=result, error=error)

    def executed(self, execution: Execution) -> CommandReply | None:
        """An executionEvent."""
        order = execution.order
        for command in self.commands.values():
            if self._concerns(command, execution):
                refused = order.status is OrderStatus.REJECTED or (
                    isinstance(command, AmendOrder) and order.status in ENDED
                ) or (isinstance(command, CancelOrder) and order.status is not OrderStatus.CANCELLED)  # fmt: skip
                result = {"order_id": order.id, "status": order.status}
                error = {"code": order.status, "message": order.reject_reason or f"the order is {order.status}"}
                return self._reply(command, error=error if refused else None, result=None if refused else result)
        return None

    def _concerns(self, command: Command, execution: Execution) -> bool:
        order = execution.order
        match command:
            case PlaceOrder():
                return _is_answer(command, order, known=execution.known)
            case CancelOrder(order_id=order.id):
                return order.status in ENDED
            case AmendOrder(order_id=order.id):
                return order.status in ENDED or order.event is OrderEvent.ORDER_MODIFIED
            case ClosePosition(position_id=position_id):
                return order.position_id == position_id and not execution.known
        return False

    def _reply(self, command: Command, *, result: Any, error: Any) -> CommandReply:
        del self.commands[command.id]
        return CommandReply(command.id, result=result, error=error)


def _is_answer(command: PlaceOrder, order: Order, *, known: bool) -> bool:
    if order.client_order_id is not None:
        return order.client_order_id == command.client_order_id
    same = order.symbol == command.symbol and order.side is command.side and order.quantity is not None
    return same and not known and Decimal(order.quantity or 0) == Decimal(command.quantity)
