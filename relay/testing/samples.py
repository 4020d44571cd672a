"""One plausible command of each kind, for the conformance kit."""

from typing import Any

from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.model.enums import OrderType, Side

#: More digits than a binary float holds: what is rounded on the way is seen.
QUANTITY = "1234567.123456789012"
PRICE = "65432.10"

_PERIOD = {"since": "2025-01-15T00:00:00Z", "until": "2025-01-16T00:00:00Z"}
_MEMBERS: dict[type[Command], dict[str, Any]] = {
    PlaceOrder: {
        "side": Side.BUY,
        "order_type": OrderType.LIMIT,
        "quantity": QUANTITY,
        "limit_price": PRICE,
        "client_order_id": "client-1",
    },
    CancelOrder: {"order_id": "order-1"},
    AmendOrder: {"order_id": "order-1", "quantity": QUANTITY, "limit_price": PRICE},
    ClosePosition: {"position_id": "position-1"},
    AmendPosition: {"position_id": "position-1", "stop_loss": PRICE},
    Call: {"function": "Ping"},
    **dict.fromkeys((OrderHistory, PositionHistory, TradeHistory), _PERIOD),
}
_OF_A_SYMBOL = (PlaceOrder, CancelOrder, AmendOrder, ClosePosition, AmendPosition, GetQuote)


def sample(command: type[Command], symbol: str, account: str) -> Command:
    """A command of this class, on ``symbol`` where it is about one."""
    about = {"symbol": symbol} if command in _OF_A_SYMBOL else {}
    return command(id="command-1", account=account, **about, **_MEMBERS.get(command, {}))
