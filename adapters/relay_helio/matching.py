"""Match Helio's answers that name no command: those of a command's own type, and executions without a ``clientOrderId``.

Helio's envelope (https://docs.helio.trade/trader/websocket) has no id that an answer would repeat. The relay answers an
order, a cancel and an amendment by what the account's messages show of the order (`Adapter.answered_by_stream`). The rest
is matched here:

- a message of a command's own type answers the oldest waiting command of that type;
- an execution without a ``clientOrderId``, of an order that is not known, may be an order of ours at a server that does not
  send our names back, or the closing of a position. It accepts the one command it fits and rejects none, because the
  rejected order of somebody else must not look like ours.

Events of another account decide nothing. An ``error`` names no message, so it answers no command either.
"""

from collections.abc import Iterator
from typing import Any

from relay.adapter import CommandReply, Known, Unnamed
from relay.adapter.reading import agrees
from relay.model.commands import AmendPosition, ClosePosition, Command, PlaceOrder
from relay.model.enums import OrderStatus, PositionSide, Side
from relay.model.events import Order, Position
from relay_helio.reports import Reports, members

_CLOSING = {PositionSide.LONG: Side.SELL, PositionSide.SHORT: Side.BUY}


class Matching(Unnamed):
    """The matching on one connection."""

    def __init__(self, known: Known) -> None:
        super().__init__(known.commands)
        self._known = known
        #: An execution has carried a ``clientOrderId`` of ours, so one of our orders' always does.
        self._is_echoed = False

    def answer(self, kind: type[Command], payload: Any, reports: Reports) -> CommandReply:
        """Return the reply of a message of a command's own type; one without an id where it may be another's."""
        command = self.oldest(kind)
        given = members(payload) if isinstance(payload, dict) else {}
        if command is not None and given.keys() >= {"code", "message"}:
            return CommandReply(command.id, error=payload)
        # https://docs.helio.trade/trader/api/trading/amend-position: what was done has the id of an operation.
        if command is None or (isinstance(command, AmendPosition) and "operationId" not in given):
            return CommandReply("", payload)
        events = None if command.answer is None else reports.answer(payload, command.answer)
        return CommandReply(command.id, payload, events=events)

    def executed(self, order: Order) -> Iterator[CommandReply]:
        """Yield the acceptance of the one command that an execution without a key can be of."""
        if order.account is not None:
            return
        if order.client_order_id is not None:
            asked = (*self.given_up.values(), *self.waiting)
            names = {each.client_order_id for each in asked if isinstance(each, PlaceOrder)}
            self._is_echoed |= order.client_order_id in names
        elif self._known.order(order.id) is None and order.status is not OrderStatus.REJECTED:
            command = self.only(lambda each: self._fits(order, each))
            if command is not None:
                yield CommandReply(command.id, {"order_id": order.id, "status": order.status})

    def _fits(self, order: Order, command: Command) -> bool:
        match command:
            case PlaceOrder():
                return not self._is_echoed and _is_as_placed(order, command)
            case ClosePosition():
                return _closes(order, command, self._known.position(command.position_id))
        return False


def _is_as_placed(order: Order, asked: PlaceOrder) -> bool:
    """Return whether a new order has all that was asked for as far as it says, and closes no position."""
    told = [name for name in ("limit_price", "stop_price") if getattr(order, name) is not None]
    return (
        order.status in (OrderStatus.PENDING, OrderStatus.OPEN)
        and order.position_id is None
        and (order.symbol, order.side) == (asked.symbol, asked.side)
        and order.order_type in (None, asked.order_type)
        and agrees(order, asked, "quantity", *told)
    )


def _closes(order: Order, asked: ClosePosition, position: Position | None) -> bool:
    """Return whether an order takes from the position what was asked for; an unknown position is not known to be closed."""
    if position is None or position.side is None or order.position_id != asked.position_id:
        return False
    return order.side is _CLOSING[position.side] and agrees(order, asked if asked.quantity else position, "quantity")
