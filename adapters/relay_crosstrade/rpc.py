"""Write commands as CrossTrade's functions, and read whether one has failed.

An rpc is ``{"action": "rpc", "id", "api", "args"}``; its answer ``{"id", "data"}`` carries the id and no type. What failed
has ``error`` in its data (https://docs.crosstrade.io/api/websocket-api). The id of a command's rpc is the command's own.
The functions' names and arguments are those of the pages under https://crosstrade.io/docs/api, whose path and query
parameters all stand in ``args``; the README says which page names which.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from relay.adapter import Orders, dumps
from relay.adapter.reading import json_number, stay_on, written
from relay.model import commands
from relay.model.enums import OrderType, TimeInForce

COMMANDS: tuple[type[commands.Command], ...] = (
    commands.PlaceOrder, commands.CancelOrder, commands.AmendOrder, commands.ClosePosition, commands.OrderHistory,
    commands.TradeHistory, commands.ListAccounts, commands.ListPositions, commands.ListOrders, commands.GetQuote,
    commands.Call,
)  # fmt: skip
ORDER_TYPES = {
    OrderType.MARKET: "MARKET", OrderType.LIMIT: "LIMIT", OrderType.STOP: "STOPMARKET", OrderType.STOP_LIMIT: "STOPLIMIT",
}  # fmt: skip
ORDERS = Orders(
    types=tuple(ORDER_TYPES),
    times_in_force=(TimeInForce.DAY, TimeInForce.GTC),
    members=("client_order_id",),
    amends=("quantity", "limit_price", "stop_price"),
    sought=True,
)
#: Members of an amendment and of a closing by the names of their arguments.
AMENDED = {"quantity": "quantity", "limitPrice": "limit_price", "stopPrice": "stop_price"}
CLOSED = {"quantity": "quantity"}
#: The longest time that ListExecutions looks back, in seconds (https://docs.crosstrade.io/api/executions/get-executions).
LOOKBACK = 900
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

_is_code = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*").fullmatch
#: Functions that act on every account of the key, whatever they are told, FlattenEverything and CancelAllOrders among them.
_takes_all = re.compile(r"everything|(?:flatten|cancel|close|reverse)_?all", re.IGNORECASE).search
_letters = re.compile(r"[^A-Za-z]").sub
_only_reads = re.compile(r"get|list", re.IGNORECASE).match

Failure = dict[str, Any]


def rpc(id: str, api: str, args: Mapping[str, Any]) -> str:
    """Return the frame that calls a function."""
    return dumps({"action": "rpc", "id": id, "api": api, "args": args})


def may_change(command: commands.Command) -> bool:
    """Return whether ``command`` does more than read."""
    if isinstance(command, commands.Call):
        return _only_reads(command.function) is None
    return isinstance(
        command, commands.PlaceOrder | commands.CancelOrder | commands.AmendOrder | commands.ClosePosition
    )


# --- writing ---------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Writer:
    """Writes commands. Every method raises ValueError that names what CrossTrade has no argument for.

    Attributes:
        native: returns the provider's text of a canonical symbol.
        account: NinjaTrader's name of the session's account; empty where commands name theirs.
        time_in_force: of an order without one, because CrossTrade requires one.
    """

    native: Callable[[str], str]
    account: str
    time_in_force: str

    def frame(self, command: commands.Command) -> str:
        """Return the rpc of a command."""
        match command:
            case commands.ListAccounts():
                return rpc(command.id, "ListAccounts", {})
            case commands.ListPositions():
                return rpc(command.id, "GetAllPositions", {"includeFlat": False})
            case commands.Call(function=function, arguments=arguments):
                return rpc(command.id, function, self._called(command, function, arguments))
        account = {"account": self.account_of(command)}
        match command:
            case commands.PlaceOrder():
                api, args = "PlaceOrder", self._order(command)
            case commands.CancelOrder(order_id=id):
                api, args = "Cancel", {"orderId": _stated("order_id", id)}
            case commands.AmendOrder(order_id=id):
                api, args = "Change", {"orderId": _stated("order_id", id)} | written(command, AMENDED)
            case commands.ClosePosition(position_id=id):
                api, args = "ClosePosition", {"instrument": _stated("position_id", id)} | written(command, CLOSED)
            case commands.ListOrders():
                api, args = "ListOrders", {"activeOnly": True}
            case commands.OrderHistory():
                _refuse_period(command, "of orders has no times")
                api, args = "ListOrders", {}
            case commands.TradeHistory():
                _refuse_period(command, f"of fills reaches back {LOOKBACK} seconds and no further")
                api, args = "ListExecutions", {"lookbackTime": LOOKBACK}
            case commands.GetQuote(symbol=symbol):
                api, args = "GetQuote", {"instrument": self.native(symbol)}
            case _:
                raise ValueError(f"CrossTrade has no {command.name}")
        return rpc(command.id, api, account | args)

    def account_of(self, command: commands.Command) -> str:
        """Return NinjaTrader's name of the account a command is for. Raises ValueError where nobody names it."""
        account = command.account or self.account
        if not account:
            raise ValueError("account: say which of NinjaTrader's accounts is meant")
        return account

    def _called(self, command: commands.Command, function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call, which stays on the account it was allowed for.

        Without an account some functions act on all of them (https://docs.crosstrade.io/api/positions/post-flatten-everything),
        so every one that has an account gets the command's own, and no argument may look as if it named another.
        """
        allowed = command.account or self.account
        if not allowed:
            return dict(arguments)
        if _takes_all(function) and not _only_reads(function):
            raise ValueError(f"function: {function} acts on every account of the key, the command is for {allowed}")
        stay_on(allowed, arguments, "arguments", _is_account, spelled="account")
        if function.strip().casefold() in _OF_NO_ACCOUNT:
            return dict(arguments)
        return {**arguments, "account": allowed}

    def _order(self, order: commands.PlaceOrder) -> dict[str, Any]:
        asked = {
            "account": self.account_of(order), "instrument": self.native(order.symbol), "action": str(order.side),
            "orderType": ORDER_TYPES[order.order_type], "quantity": json_number(order.quantity),
            "timeInForce": str(order.time_in_force or self.time_in_force), "limitPrice": json_number(order.limit_price),
            "stopPrice": json_number(order.stop_price), "orderId": order.client_order_id,
        }  # fmt: skip
        stay_on(str(asked["account"]), order.extra, "extra", _is_account, spelled="account")
        own = order.with_extra(asked)
        return {name: value for name, value in own.items() if value is not None or name in order.extra}


def _stated(member: str, id: str) -> str:
    """Return an id. Raises ValueError for an empty one: a function without the argument may act on all there are."""
    if not id.strip():
        raise ValueError(f"{member}: say which one is meant")
    return id


def _is_account(name: str) -> bool:
    return "account" in _letters("", name).casefold()


def _refuse_period(command: commands.OrderHistory | commands.TradeHistory, why: str) -> None:
    for name in ("since", "until"):
        if getattr(command, name) is not None:
            raise ValueError(f"{name}: CrossTrade's list {why}")


# --- answers ---------------------------------------------------------------------------------------------------------


def failure(data: Any) -> Failure | None:
    """Return what an answer's data says went wrong: at least a code and a message; None where nothing did."""
    if not isinstance(data, dict) or (data.get("error") is None and data.get("success") is not False):
        return None
    said = data.get("error")
    word = said if isinstance(said, str) and said else "refused"
    code = _SENTENCES.get(word.lower()) or (word if _is_code(word) else "refused")
    if _NOT_FOUND in word:
        code = "order_not_found"
    detail = data.get("detail")
    return {**data, "code": code, "message": detail if isinstance(detail, str) and detail else word}


def is_refusal(failed: Failure) -> bool:
    """Return whether it is certain that what failed was not done.

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
    if failed.get("success") is not False or _is_code(said) is None:
        return False
    return _leaves_open(f"{said} {failed['message']}") is None


def is_final(failed: Failure) -> bool:
    """Return whether asking again would be answered the same: a refusal, but not for the limit or an absent add-on."""
    return is_refusal(failed) and failed["code"] not in _SENTENCES.values()
