"""CrossTrade's functions: how commands are written as rpc, and what their answers say.

An rpc is ``{"action": "rpc", "id", "api", "args"}``; its answer ``{"id", "data"}`` carries the id and no type. What failed
has ``error`` in its data (https://docs.crosstrade.io/api/websocket-api). The id of a command's rpc is the command's own.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from attrs import field, frozen

from relay.adapter import dumps
from relay.model.commands import (
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    ListAccounts,
    ListPositions,
    PlaceOrder,
)
from relay.model.enums import OrderType

COMMANDS: tuple[type[Command], ...] = (
    PlaceOrder, CancelOrder, ClosePosition, ListAccounts, ListPositions, GetQuote, Call,
)  # fmt: skip
MAY_CHANGE_POSITIONS = (PlaceOrder, ClosePosition, Call)
#: Commands whose answer names the order that came of them.
MAKE_ORDERS = (PlaceOrder, ClosePosition)
TIMES_IN_FORCE = ("DAY", "GTC")
ORDER_TYPES = {
    OrderType.MARKET: "MARKET", OrderType.LIMIT: "LIMIT", OrderType.STOP: "STOPMARKET", OrderType.STOP_LIMIT: "STOPLIMIT",
}  # fmt: skip
#: Members of a canonical order that a CrossTrade order has not.
_FOREIGN = ("stop_loss", "take_profit", "trailing_distance", "good_till", "reduce_only", "post_only")
_SENTENCES = {"add-on not connected": "addon_not_connected", "rate limit exceeded": "rate_limited"}

_is_code = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*").fullmatch
_timed_out = re.compile(r"time[ds]?[ _-]?out", re.IGNORECASE).search

Failure = dict[str, Any]


def rpc(id: str, api: str, args: Mapping[str, Any]) -> str:
    return dumps({"action": "rpc", "id": id, "api": api, "args": args})


def number(decimal: str | None) -> msgspec.Raw | None:
    """Decimal text as a JSON number of the same digits."""
    return None if decimal is None else msgspec.Raw(format(Decimal(decimal), "f").encode())


# --- writing ---------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Writing:
    """How commands are written.

    Attributes:
        native: the provider's text of a canonical symbol.
        account: NinjaTrader's name of the session's account; empty where commands say theirs.
        time_in_force: of an order without one: CrossTrade requires one.
        cancel_argument: by which argument CancelOrders is told the order; empty refuses to cancel.
    """

    native: Callable[[str], str]
    account: str = ""
    time_in_force: str = field(default="DAY")
    cancel_argument: str = ""

    @time_in_force.validator
    def _known(self, attribute: object, value: str) -> None:
        if value not in TIMES_IN_FORCE:
            raise ValueError(f"time_in_force: expected {' or '.join(TIMES_IN_FORCE)}, got {value!r}")

    def function(self, command: Command) -> tuple[str, dict[str, Any]]:
        """The function and its arguments. Raises ValueError naming what CrossTrade has no argument for."""
        match command:
            case PlaceOrder():
                return "PlaceOrder", self._order(command)
            case CancelOrder(order_id=order_id):
                if not self.cancel_argument:
                    raise ValueError("CancelOrders' arguments are not documented, and without the right one it may cancel "
                                     "every order: set the option cancel_argument")  # fmt: skip
                return "CancelOrders", {"account": self._account(command), self.cancel_argument: order_id}
            case ClosePosition(position_id=instrument, quantity=None):
                return "ClosePosition", {"account": self._account(command), "instrument": instrument}
            case ClosePosition():
                raise ValueError("quantity: only whole positions can be closed; place an order for a part of one")
            case ListAccounts():
                return "ListAccounts", {}
            case ListPositions():
                return "GetAllPositions", {"includeFlat": False}
            case GetQuote(symbol=symbol):
                return "GetQuote", {"account": self._account(command), "instrument": self.native(symbol)}
            case Call(function=function, arguments=arguments):
                self._check_accounts(command, arguments)
                return function, dict(arguments)
        raise ValueError(f"CrossTrade has no {command.name}")

    def _account(self, command: Command) -> str:
        account = command.account or self.account
        if not account:
            raise ValueError("account: say which of NinjaTrader's accounts is meant")
        return account

    def _check_accounts(self, command: Command, arguments: Mapping[str, Any]) -> None:
        """A call that names an account must name the one it was allowed for."""
        allowed = command.account or self.account
        for name, value in arguments.items():
            if name.lower() == "account" and allowed and value != allowed:
                raise ValueError(f"arguments.{name}: the command is for account {allowed}")

    def _order(self, order: PlaceOrder) -> dict[str, Any]:
        for name in _FOREIGN:
            if getattr(order, name) is not None:
                raise ValueError(f"{name}: CrossTrade's orders have no such argument")
        if order.order_type not in ORDER_TYPES:
            raise ValueError(f"order_type: CrossTrade takes {', '.join(ORDER_TYPES)}, not {order.order_type}")
        time_in_force = str(order.time_in_force or self.time_in_force)
        if time_in_force not in TIMES_IN_FORCE:
            raise ValueError(f"time_in_force: CrossTrade takes {', '.join(TIMES_IN_FORCE)}, not {time_in_force}")
        asked = {
            "account": self._account(order),
            "instrument": self.native(order.symbol),
            "action": str(order.side),
            "orderType": ORDER_TYPES[order.order_type],
            "quantity": number(order.quantity),
            "timeInForce": time_in_force,
            "limitPrice": number(order.limit_price),
            "stopPrice": number(order.stop_price),
        }
        own = order.with_extra(asked)
        return {name: value for name, value in own.items() if value is not None or name in order.extra}


# --- answers ---------------------------------------------------------------------------------------------------------


def failure(data: Any) -> Failure | None:
    """What an answer's data says went wrong: at least a code and a message. None where nothing did."""
    if not isinstance(data, dict) or (data.get("error") is None and data.get("success") is not False):
        return None
    said = data.get("error")
    word = said if isinstance(said, str) and said else "refused"
    code = _SENTENCES.get(word.lower()) or (word if _is_code(word) else "refused")
    detail = data.get("detail")
    return {**data, "code": code, "message": detail if isinstance(detail, str) and detail else word}


def is_timeout(failed: Failure | None) -> bool:
    """Whether something failed because no answer came in time: it may have been done all the same."""
    return failed is not None and _timed_out(f"{failed['code']} {failed['message']}") is not None
