"""Match Helio's answers to commands: which one an executionEvent, or a message of a command's own type, decides.

Helio's envelope (https://docs.helio.trade/trader/websocket) has no id that an answer would repeat, so its members decide:

- an execution that carries an order's ``clientOrderId`` answers that order; every order is sent with one;
- an execution of the named order answers a cancel when the order has ended: accepted where it was cancelled, rejected where
  it ended otherwise. It answers an amendment when the order has the values asked for, even if it has ended since;
- an execution without a ``clientOrderId``, of an order not seen before, may be an order of ours at a server that does not
  send our names back, or the closing of a position. It accepts the one command it fits and rejects none, because the
  rejected order of somebody else must not look like ours;
- a message of a command's own type answers the oldest waiting command of that type.

An answer without a key may be late, or somebody else's. So a command that was given up without its answer still counts
among those that an answer may belong to: where it is one of several, none is answered, and each becomes unknown at its
deadline. Events of another account decide nothing. An ``error`` names no message, so it answers no command either.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from decimal import Decimal
from typing import Any

from attrs import Factory, define

from relay.adapter import CommandReply
from relay.model.commands import AmendOrder, AmendPosition, CancelOrder, ClosePosition, Command, PlaceOrder
from relay.model.enums import OrderStatus, PositionSide, Side, TimeInForce
from relay.model.events import Order, Position
from relay_helio.reports import members
from relay_helio.requests import HISTORIES, TYPES

WAITING = 1000
"""Commands that wait, and commands given up, that are remembered. Beyond that no answer without a key is matched."""
_CLOSING = {PositionSide.LONG: Side.SELL, PositionSide.SHORT: Side.BUY}


@define(eq=False)
class Waiting:
    """The commands of one connection without an answer.

    Attributes:
        seen: ids of the orders named before.
        held: the account's open positions by id.
        commands: those that wait for an answer, oldest first.
        given_up: those that do not any more, and whose answer would have no key.
        echoed: an execution has carried a ``clientOrderId`` of ours, so one of our orders' always does.
    """

    seen: Container[str]
    held: Mapping[str, Position]
    commands: dict[str, Command] = Factory(dict)
    given_up: dict[str, Command] = Factory(dict)
    echoed: bool = False

    def add(self, command: Command) -> None:
        self.commands[command.id] = command
        if len(self.commands) > WAITING:
            self.forget(next(iter(self.commands)))

    def forget(self, id: str) -> None:
        """Take no answer to this command any more."""
        command = self.commands.pop(id, None)
        if command is None or isinstance(command, CancelOrder | AmendOrder):  # their answers name the order
            return
        if len(self.given_up) < WAITING:
            self.given_up[id] = command

    def answered(self, type: str, payload: Any, read: Callable[[Any, str], tuple[Any, ...] | None]) -> CommandReply:
        """Return the reply of a message of a command's own type; one without an id where it may be another's.

        ``read`` returns what this list of the answer to a history says.
        """
        waiting = [each for each in self.commands.values() if TYPES[each.__class__] == type]
        late = next((each for each in self.given_up.values() if TYPES[each.__class__] == type), None)
        if (
            late is not None
        ):  # one of all these has its answer, and nobody can say which: all but one are still owed one
            if len(self.given_up) < WAITING:
                del self.given_up[late.id]
            for each in waiting:
                self.forget(each.id)
            waiting = []
        if not waiting:
            return CommandReply("", payload)
        command = waiting[0]
        del self.commands[command.id]
        if isinstance(payload, dict) and "code" in payload and "message" in payload:
            return CommandReply(command.id, error=payload)
        if (part := HISTORIES.get(command.__class__)) is not None:
            return CommandReply(command.id, payload, events=read(payload, part))
        # https://docs.helio.trade/trader/api/trading/amend-position: what was done has the id of an operation.
        done = isinstance(payload, dict) and "operationId" in members(payload)
        return CommandReply(command.id if done or not isinstance(command, AmendPosition) else "", payload)

    def executed(self, order: Order) -> Iterator[CommandReply]:
        """Yield the replies that an execution decides."""
        if order.account is not None:
            return
        named = [each for each in self.commands.values() if _names(order, each)]
        late = [id for id, each in self.given_up.items() if _names(order, each)]
        self.echoed |= bool(late) or any(isinstance(each, PlaceOrder) for each in named)
        for id in late:
            del self.given_up[id]
        for command in named or self._only(order):
            accepted = _verdict(order, command)
            if accepted is None:
                continue
            del self.commands[command.id]
            message = order.reject_reason or f"the order is {order.status}"
            yield (
                CommandReply(command.id, {"order_id": order.id, "status": order.status})
                if accepted
                else CommandReply(command.id, error={"code": order.status, "message": message})
            )

    def _only(self, order: Order) -> list[Command]:
        """Return the one command that an execution without a key can be of."""
        if order.id in self.seen or order.client_order_id is not None or order.status is OrderStatus.REJECTED:
            return []
        fits = [each for each in (*self.given_up.values(), *self.commands.values()) if self._fits(order, each)]
        sure = len(fits) == 1 and len(self.given_up) < WAITING
        return [each for each in fits if sure and each.id in self.commands]

    def _fits(self, order: Order, command: Command) -> bool:
        match command:
            case PlaceOrder():
                return not self.echoed and _is_as_placed(order, command)
            case ClosePosition():
                return _closes(order, command, self.held.get(command.position_id))
        return False


def _names(order: Order, command: Command) -> bool:
    match command:
        case PlaceOrder(client_order_id=key):
            return key == order.client_order_id
        case CancelOrder(order_id=id) | AmendOrder(order_id=id):
            return id == order.id
    return False


def _verdict(order: Order, command: Command) -> bool | None:
    """Return whether ``command``, which the order's state is about, was carried out; None where it does not say."""
    match command:
        case CancelOrder():
            return order.status is OrderStatus.CANCELLED if order.status.is_final else None
        case AmendOrder():
            return True if _has_all(order, command) else None
    return order.status is not OrderStatus.REJECTED


def _has_all(order: Order, asked: AmendOrder) -> bool:
    """Return whether the order has all that was asked for. A pending or rejected one may still have its old values."""
    names = ("quantity", "limit_price", "stop_price", "stop_loss", "take_profit", "time_in_force")
    wanted = [name for name in names if getattr(asked, name) is not None]
    if order.status in (OrderStatus.PENDING, OrderStatus.REJECTED) or asked.good_till is not None or not wanted:
        return False
    return all(_same(getattr(order, name), getattr(asked, name)) for name in wanted)


def _is_as_placed(order: Order, asked: PlaceOrder) -> bool:
    """Return whether a new order has all that was asked for as far as it says, and closes no position."""
    told = [name for name in ("limit_price", "stop_price") if getattr(order, name) is not None]
    return (
        order.status in (OrderStatus.PENDING, OrderStatus.OPEN)
        and order.position_id is None
        and (order.symbol, order.side) == (asked.symbol, asked.side)
        and order.order_type in (None, asked.order_type)
        and all(_same(getattr(order, name), getattr(asked, name)) for name in ("quantity", *told))
    )


def _closes(order: Order, asked: ClosePosition, position: Position | None) -> bool:
    """Return whether an order takes from the position what was asked for; an unknown position is not known to be closed."""
    if position is None or position.side is None or order.position_id != asked.position_id:
        return False
    return order.side is _CLOSING[position.side] and _same(order.quantity, asked.quantity or position.quantity)


def _same(one: str | None, other: str | None) -> bool:
    """Return whether both are there and are one word, or one number however it is written."""
    if one is None or other is None:
        return False
    return one == other or (not isinstance(one, TimeInForce) and Decimal(one) == Decimal(other))
