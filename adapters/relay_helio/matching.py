"""Telling Helio's answers apart: which command an executionEvent, or a message of a command's own type, decides.

Helio's envelope (https://docs.helio.trade/trader/websocket) has no id that an answer would carry, so what it says decides:

- an execution that carries an order's ``clientOrderId`` answers that order; every order is sent with one;
- an execution of the named order answers a cancel when the order has ended: accepted where it was cancelled, rejected where
  it ended otherwise. It answers an amendment when the order has the values asked for, whatever became of it since;
- an execution without a ``clientOrderId``, of an order not seen before, may be an order of ours at a server that does not
  send our names back, or the closing of a position. It answers the one command it fits, and says no more than accepted: that
  somebody else's order was rejected must not look as if ours had been;
- a message of a command's own type answers the oldest waiting command of that type.

What has no key may be late, or somebody else's. So a command that was given up without its answer still counts among those
that an answer may belong to: where it is one of several, none is answered, and each becomes unknown at its deadline. Events
of another account decide nothing. An ``error`` names no message and answers no command: the order may be live.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from attrs import Factory, define

from relay.adapter import CommandReply
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    CancelOrder,
    ClosePosition,
    Command,
    PlaceOrder,
)
from relay.model.enums import OrderEvent, OrderStatus, PositionSide, Side, TimeInForce
from relay.model.events import Order, Position
from relay_helio.reports import Execution, members
from relay_helio.requests import TYPES

WAITING = 1000
"""Commands that wait, and commands given up, that are remembered. Beyond that no answer without a key is matched."""
_CLOSING = {PositionSide.LONG: Side.SELL, PositionSide.SHORT: Side.BUY}

Held = Mapping[str, Position]


@define(eq=False)
class Waiting:
    """The commands of one connection without an answer.

    Attributes:
        commands: those that wait for one, oldest first.
        given_up: those that do not any more, and whose answer would not say that it is theirs.
        echoed: an execution has carried a ``clientOrderId`` of ours, so one of our orders' always does.
    """

    commands: dict[str, Command] = Factory(dict)
    given_up: dict[str, Command] = Factory(dict)
    echoed: bool = False

    def add(self, command: Command) -> None:
        self.commands[command.id] = command
        if len(self.commands) > WAITING:
            self.forget(next(iter(self.commands)))

    def forget(self, id: str) -> None:
        """No answer to this command is taken any more."""
        command = self.commands.pop(id, None)
        if command is None or isinstance(command, CancelOrder | AmendOrder):  # what became of an order is no guess
            return
        if len(self.given_up) < WAITING:
            self.given_up[id] = command

    # --- messages of a command's own type ----------------------------------------------------------------------------

    def answered(self, type: str, payload: Any) -> CommandReply:
        """A message of a command's own type. Where it may be another's it replies to nothing, and is counted as such."""
        command = next((each for each in self.commands.values() if TYPES[each.__class__] == type), None)
        late = next((each for each in self.given_up.values() if TYPES[each.__class__] == type), None)
        if late is not None:
            self._doubt(late, type)
            command = None
        if command is None:
            return CommandReply("", payload)
        del self.commands[command.id]
        if isinstance(payload, dict) and "code" in payload and "message" in payload:
            return CommandReply(command.id, error=payload)
        if isinstance(command, AmendPosition) and not _is_done(payload):
            return CommandReply("", payload)
        return CommandReply(command.id, payload)

    def _doubt(self, late: Command, type: str) -> None:
        """One of these has its answer, and nobody can say which: all but one are still owed one."""
        if len(self.given_up) < WAITING:
            del self.given_up[late.id]
        for each in [each for each in self.commands.values() if TYPES[each.__class__] == type]:
            self.forget(each.id)

    # --- executions --------------------------------------------------------------------------------------------------

    def executed(self, execution: Execution, held: Held) -> Iterator[CommandReply]:
        """What an executionEvent decides; ``held`` are the account's positions by id."""
        order = execution.order
        if order.account is not None:
            return
        named = [each for each in self.commands.values() if _names(order, each)]
        late = [id for id, each in self.given_up.items() if _names(order, each)]
        self.echoed |= bool(late) or any(isinstance(each, PlaceOrder) for each in named)
        for id in late:
            del self.given_up[id]
        for command in named or self._only(execution, held):
            accepted = _verdict(order, command)
            if accepted is not None:
                yield self._reply(command, order, accepted=accepted)

    def _only(self, execution: Execution, held: Held) -> list[Command]:
        """The one command that an execution without a key can be of."""
        order = execution.order
        if execution.known or order.client_order_id is not None or order.status is OrderStatus.REJECTED:
            return []
        fits = [each for each in (*self.given_up.values(), *self.commands.values()) if self._fits(order, each, held)]
        sure = len(fits) == 1 and len(self.given_up) < WAITING
        return [each for each in fits if sure and each.id in self.commands]

    def _fits(self, order: Order, command: Command, held: Held) -> bool:
        match command:
            case PlaceOrder():
                return not self.echoed and _is_as_placed(order, command)
            case ClosePosition():
                return _closes(order, command, held.get(command.position_id))
        return False

    def _reply(self, command: Command, order: Order, *, accepted: bool) -> CommandReply:
        del self.commands[command.id]
        if accepted:
            return CommandReply(command.id, {"order_id": order.id, "status": order.status})
        message = order.reject_reason or f"the order is {order.status}"
        return CommandReply(command.id, error={"code": order.status, "message": message})


def _names(order: Order, command: Command) -> bool:
    match command:
        case PlaceOrder(client_order_id=key):
            return key == order.client_order_id
        case CancelOrder(order_id=id) | AmendOrder(order_id=id):
            return id == order.id
    return False


def _verdict(order: Order, command: Command) -> bool | None:
    """Whether ``command``, which the order's state is about, was carried out; None where that is not said."""
    match command:
        case CancelOrder():
            return order.status is OrderStatus.CANCELLED if order.status.is_final else None
        case AmendOrder():
            return True if _has_all(order, command) else None
    return order.status is not OrderStatus.REJECTED


def _has_all(order: Order, asked: AmendOrder) -> bool:
    """Whether the order is what the amendment made of it. A pending or rejected one may yet be what it was."""
    names = ("quantity", "limit_price", "stop_price", "stop_loss", "take_profit", "time_in_force")
    wanted = [name for name in names if getattr(asked, name) is not None]
    if order.status in (OrderStatus.PENDING, OrderStatus.REJECTED) or asked.good_till is not None or not wanted:
        return False
    return all(_same(getattr(order, name), getattr(asked, name)) for name in wanted)


def _is_as_placed(order: Order, asked: PlaceOrder) -> bool:
    """Whether a new order is in all it says the one that was asked for, and closes no position."""
    return (
        order.event is OrderEvent.ORDER_CREATED
        and order.position_id is None
        and (order.symbol, order.side) == (asked.symbol, asked.side)
        and order.order_type in (None, asked.order_type)
        and _same(order.quantity, asked.quantity)
        and all(
            getattr(order, name) is None or _same(getattr(order, name), getattr(asked, name))
            for name in ("limit_price", "stop_price")
        )
    )


def _closes(order: Order, asked: ClosePosition, position: Position | None) -> bool:
    """Whether an order takes from the position what was asked for; of a position that nothing is known of, none does."""
    if position is None or position.side is None or order.position_id != asked.position_id:
        return False
    return order.side is _CLOSING[position.side] and _same(order.quantity, asked.quantity or position.quantity)


def _same(one: str | None, other: str | None) -> bool:
    """Whether both are there and are one word, or one number however it is written."""
    if one is None or other is None:
        return False
    return one == other or (not isinstance(one, TimeInForce) and Decimal(one) == Decimal(other))


def _is_done(payload: Any) -> bool:
    """Whether it is the answer of https://docs.helio.trade/trader/api/trading/amend-position: it names an operation."""
    return isinstance(payload, dict) and "operationId" in members(payload)
