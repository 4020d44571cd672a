"""CrossTrade's functions: how commands are written as rpc, and what their answers say.

An rpc is ``{"action": "rpc", "id", "api", "args"}``; its answer ``{"id", "data"}`` carries the id and no type. What failed
has ``error`` in its data (https://docs.crosstrade.io/api/websocket-api). The id of a command's rpc is the command's own.
The functions' names and arguments are those of the pages under https://crosstrade.io/docs/api, whose path and query
parameters all stand in ``args``; the README says which page names which.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from attrs import field, frozen

from relay.adapter import Orders, dumps
from relay.model.commands import (
    AmendOrder,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
    PlaceOrder,
    TradeHistory,
)
from relay.model.enums import OrderType, TimeInForce

COMMANDS: tuple[type[Command], ...] = (
    PlaceOrder, CancelOrder, AmendOrder, ClosePosition, OrderHistory, TradeHistory, ListAccounts, ListPositions, ListOrders,
    GetQuote, Call,
)  # fmt: skip
TIMES_IN_FORCE = ("DAY", "GTC")
ORDER_TYPES = {
    OrderType.MARKET: "MARKET", OrderType.LIMIT: "LIMIT", OrderType.STOP: "STOPMARKET", OrderType.STOP_LIMIT: "STOPLIMIT",
}  # fmt: skip
ORDERS = Orders(
    types=tuple(ORDER_TYPES),
    times_in_force=(TimeInForce.DAY, TimeInForce.GTC),
    members=("client_order_id",),
    amends=("quantity", "limit_price", "stop_price"),
)
#: How far ListExecutions looks back at most, in seconds (https://docs.crosstrade.io/api/executions/get-executions).
LOOKBACK = 900
#: Members of a canonical order that a CrossTrade order has not.
_FOREIGN = ("stop_loss", "take_profit", "trailing_distance", "good_till", "reduce_only", "post_only")
#: Members of an amendment that Change has no argument for.
_UNCHANGEABLE = ("stop_loss", "take_profit", "time_in_force", "good_till")
#: Functions whose pages give them no account.
_OF_NO_ACCOUNT = frozenset({"listaccounts", "getallpositions", "getallorders", "getbars"})
_SENTENCES = {"add-on not connected": "addon_not_connected", "rate limit exceeded": "rate_limited"}

#: The page calls the sentence stable: https://crosstrade.io/docs/api/orders/post-cancel-order
_NOT_FOUND = "not found or already terminal"
#: Sentences that say that nothing was done: of the pages the README names, and that there is no such function.
_SAY_NO = (f".*{_NOT_FOUND}", "no positions? found for instrument", r"invalid request\b", "unknown api command")
_refuses = re.compile("|".join(_SAY_NO), re.IGNORECASE | re.DOTALL).match
#: Words of what fails on the way to the broker or back, so that the order may be live.
_OPEN = ("time[ds]?[ _-]?out", "deadline", "no[ _-]?(response|answer|reply)", "disconnect", "unavailable", "internal",
         "gateway", "(server|unknown)[ _-]?error", "unexpected")  # fmt: skip
_leaves_open = re.compile("|".join(_OPEN), re.IGNORECASE).search

is_code = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*").fullmatch
#: Functions that act on every account of the key, whatever they are told, FlattenEverything and CancelAllOrders among them.
_takes_all = re.compile(r"everything|(?:flatten|cancel|close|reverse)_?all", re.IGNORECASE).search
_letters = re.compile(r"[^A-Za-z]").sub
_only_reads = re.compile(r"get|list", re.IGNORECASE).match

Failure = dict[str, Any]


def rpc(id: str, api: str, args: Mapping[str, Any]) -> str:
    return dumps({"action": "rpc", "id": id, "api": api, "args": args})


def number(decimal: str | None) -> msgspec.Raw | None:
    """Decimal text as a JSON number of the same digits."""
    return None if decimal is None else msgspec.Raw(format(Decimal(decimal), "f").encode())


def may_change(command: Command) -> bool:
    """Whether ``command`` does more than read."""
    if isinstance(command, Call):
        return _only_reads(command.function) is None
    return isinstance(command, PlaceOrder | CancelOrder | AmendOrder | ClosePosition)


# --- writing ---------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Writing:
    """How commands are written.

    Attributes:
        native: the provider's text of a canonical symbol.
        account: NinjaTrader's name of the session's account; empty where commands say theirs.
        time_in_force: of an order without one: CrossTrade requires one.
    """

    native: Callable[[str], str]
    account: str = ""
    time_in_force: str = field(default="DAY")

    @time_in_force.validator
    def _known(self, attribute: object, value: str) -> None:
        if value not in TIMES_IN_FORCE:
            raise ValueError(f"time_in_force: expected {' or '.join(TIMES_IN_FORCE)}, got {value!r}")

    def function(self, command: Command) -> tuple[str, dict[str, Any]]:
        """The function and its arguments. Raises ValueError naming what CrossTrade has no argument for."""
        match command:
            case PlaceOrder():
                return "PlaceOrder", self._order(command)
            case CancelOrder():
                return "Cancel", self._of_order(command)
            case AmendOrder():
                return "Change", self._of_order(command) | self._change(command)
            case ClosePosition(position_id=instrument, quantity=quantity):
                if not instrument.strip():
                    raise ValueError("position_id: say which instrument's position is meant")
                part = {} if quantity is None else {"quantity": number(quantity)}
                return "ClosePosition", {"account": self.account_of(command), "instrument": instrument, **part}
            case ListOrders():
                return "ListOrders", {"account": self.account_of(command), "activeOnly": True}
            case OrderHistory():
                _timeless(command, "of orders has no times")
                return "ListOrders", {"account": self.account_of(command)}
            case TradeHistory():
                _timeless(command, f"of fills reaches back {LOOKBACK} seconds and no further")
                return "ListExecutions", {"account": self.account_of(command), "lookbackTime": LOOKBACK}
            case ListAccounts():
                return "ListAccounts", {}
            case ListPositions():
                return "GetAllPositions", {"includeFlat": False}
            case GetQuote(symbol=symbol):
                return "GetQuote", {"account": self.account_of(command), "instrument": self.native(symbol)}
            case Call(function=function, arguments=arguments):
                return function, self._called(command, function, arguments)
        raise ValueError(f"CrossTrade has no {command.name}")

    def account_of(self, command: Command) -> str:
        """NinjaTrader's name of the account a command is for. Raises ValueError where nobody said it."""
        account = command.account or self.account
        if not account:
            raise ValueError("account: say which of NinjaTrader's accounts is meant")
        return account

    def _of_order(self, command: CancelOrder | AmendOrder) -> dict[str, Any]:
        """Which order is meant; a function that is not told may take all of them."""
        if not command.order_id.strip():
            raise ValueError("order_id: say which order is meant")
        return {"account": self.account_of(command), "orderId": command.order_id}

    def _change(self, order: AmendOrder) -> dict[str, Any]:
        for name in _UNCHANGEABLE:
            if getattr(order, name) is not None:
                raise ValueError(f"{name}: CrossTrade changes quantity, limit_price and stop_price")
        asked = {
            "quantity": number(order.quantity),
            "limitPrice": number(order.limit_price),
            "stopPrice": number(order.stop_price),
        }
        changed = {name: value for name, value in asked.items() if value is not None}
        if not changed:
            raise ValueError("quantity, limit_price, stop_price: nothing to change")
        return changed

    def _called(self, command: Command, function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, which stays on the account it was allowed for.

        Without an account some functions act on all of them (https://docs.crosstrade.io/api/positions/post-flatten-everything),
        so every one that has an account is told the command's own, and no argument may look as if it named another.
        """
        allowed = command.account or self.account
        if not allowed:
            return dict(arguments)
        if _takes_all(function) and not _only_reads(function):
            raise ValueError(f"function: {function} acts on every account of the key, the command is for {allowed}")
        _stay_on(allowed, arguments, "arguments")
        if function.strip().casefold() in _OF_NO_ACCOUNT:
            return dict(arguments)
        return {**arguments, "account": allowed}

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
            "account": self.account_of(order),
            "instrument": self.native(order.symbol),
            "action": str(order.side),
            "orderType": ORDER_TYPES[order.order_type],
            "quantity": number(order.quantity),
            "timeInForce": time_in_force,
            "limitPrice": number(order.limit_price),
            "stopPrice": number(order.stop_price),
            "orderId": order.client_order_id,
        }
        _stay_on(str(asked["account"]), order.extra, "extra")
        own = order.with_extra(asked)
        return {name: value for name, value in own.items() if value is not None or name in order.extra}


def _stay_on(account: str, value: Any, where: str) -> None:
    """Raise ValueError where a member, at any depth, is named like an account and is not ``account`` with this one."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if "account" in _letters("", name).casefold() and (name, item) != ("account", account):
                raise ValueError(f"{where}.{name}: the command is for account {account}, which is written account")
            _stay_on(account, item, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _stay_on(account, item, f"{where}[{number}]")


def _timeless(command: OrderHistory | TradeHistory, why: str) -> None:
    for name in ("since", "until"):
        if getattr(command, name) is not None:
            raise ValueError(f"{name}: CrossTrade's list {why}")


# --- answers ---------------------------------------------------------------------------------------------------------


def failure(data: Any) -> Failure | None:
    """What an answer's data says went wrong: at least a code and a message. None where nothing did."""
    if not isinstance(data, dict) or (data.get("error") is None and data.get("success") is not False):
        return None
    said = data.get("error")
    word = said if isinstance(said, str) and said else "refused"
    code = _SENTENCES.get(word.lower()) or (word if is_code(word) else "refused")
    if _NOT_FOUND in word:
        code = "order_not_found"
    detail = data.get("detail")
    return {**data, "code": code, "message": detail if isinstance(detail, str) and detail else word}


def is_refusal(failed: Failure) -> bool:
    """Whether it is certain that what failed was not done.

    Only what is documented says so: a code beside ``success: false``, or one of the sentences, and that the add-on is not
    there or the limit was exceeded. Every other failure may have come after the order was sent.
    """
    if failed["code"] in _SENTENCES.values():
        return True
    said = failed.get("error")
    if not isinstance(said, str):
        return False
    if _refuses(said):
        return True
    if failed.get("success") is not False or is_code(said) is None:
        return False
    return _leaves_open(f"{said} {failed['message']}") is None


def is_final(failed: Failure) -> bool:
    """Whether asking again would be answered the same: it was refused, and neither for the limit nor for the add-on."""
    return is_refusal(failed) and failed["code"] not in _SENTENCES.values()


def succeeded(data: Any) -> bool:
    """Whether an answer says that it was done, as every page of a function that does something shows it."""
    return isinstance(data, dict) and data.get("success") is True


def of_symbol(data: Any, native: str) -> Any:
    """A history's answer with only what is of one instrument; the functions have no argument for it."""
    if not isinstance(data, dict):
        return data
    return {
        name: [each for each in value if isinstance(each, dict) and each.get("instrument") == native]
        if isinstance(value, list)
        else value
        for name, value in data.items()
    }
