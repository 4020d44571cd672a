"""What is asked of Helio over the WebSocket (https://docs.helio.trade/trader/websocket), in the page's spelling or in that
of the REST bodies. `relay_helio.matching` says how its answers are told apart.
"""

import re
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import attrs
import msgspec

from relay.adapter import Orders
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
from relay.model.enums import OrderType

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
ORDERS = Orders(
    types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT),
    members=("client_order_id", "stop_loss", "take_profit"),
)
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


def keyed(command: Command, token: str) -> Command:
    """The command as it is sent: an order without a ``client_order_id`` gets one, so that its executions name it.

    It is made of the command's id and the login's token: an id that is used again after a restart names no order of before.
    A UUID is a name that any server takes; how long one may be is not documented.
    """
    if not isinstance(command, PlaceOrder) or command.client_order_id is not None:
        return command
    return attrs.evolve(command, client_order_id=str(uuid5(NAMESPACE_URL, f"{token}/{command.id}")))


#: Members of an order as the REST page spells them; a server that reads both must not be told two things.
_OTHER_SPELLINGS = ("symbol_id", "volume", "client_order_id", "order_type")


def body(command: Command, account_id: str, native: str | None, *, rest: bool = False) -> dict[str, Any]:
    """The payload of ``command`` in the spelling of the WebSocket page, or of the ``rest`` bodies.

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
    page = {"accountId": account_id, **{name: value for name, value in asked.items() if value is not None}}
    return rest_body(page) if rest else page


def rest_body(page: dict[str, Any]) -> dict[str, Any]:
    """The same payload in the spelling of the REST API's bodies."""
    snake = {name: REST_NAMES.get(name) or _camel.sub(lambda m: f"_{m[0].lower()}", name) for name in page}
    return {
        snake[name]: f"{REST_PREFIXES[name]}{value}" if name in REST_PREFIXES else value for name, value in page.items()
    }
