"""Requests of ScaleTrade's REST interface, and the replies to commands that its answers are.

Bodies: https://scaletrade.com/client-api/rest/trade/OpenTrade/ and its neighbours. Reading requests have a body too,
GET included. An acknowledgement means that a request was accepted for processing; the trade stream tells the rest.
"""

import re
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

from relay.adapter import Answer, CommandReply, Fetch, Orders
from relay.adapter.reading import body as json_of
from relay.adapter.reading import failure, json_number, loads, present, stay_on, written
from relay.model import commands
from relay.model.enums import OrderType, TimeInForce
from relay.model.text import to_ns
from relay_scaletrade.trades import MARKET, PENDING
from relay_scaletrade.wire import MONEY, text

#: The commands whose answers are tables of trades.
LISTS = (commands.PositionHistory, commands.ListPositions, commands.ListOrders)
COMMANDS: tuple[type[commands.Command], ...] = (
    commands.PlaceOrder, commands.CancelOrder, commands.AmendOrder, commands.ClosePosition, commands.AmendPosition,
    commands.ListAccounts, commands.Call, *LISTS,
)  # fmt: skip
ORDERS = Orders(
    types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP),
    times_in_force=(TimeInForce.GTC, TimeInForce.GTD),
    members=("client_order_id", "stop_loss", "take_profit"),
    amends=("limit_price", "stop_price", "stop_loss", "take_profit", "time_in_force", "good_till"),
)
#: The account's profile and money.
ACCOUNT = "/account/me"
CMD = {(type, side): cmd for cmd, (side, type) in PENDING.items()} | {
    (OrderType.MARKET, side): cmd for cmd, side in MARKET.items()
}
LEVELS = {"sl": "stop_loss", "tp": "take_profit"}
#: ``tradeType`` of GET /trades.
OPEN_TRADES, CLOSED_TRADES, PENDING_TRADES = 1, 2, 3
OPEN = (OPEN_TRADES, PENDING_TRADES)
#: Rows of one page of a list. The provider names no limit.
ROWS = 1000
_END_OF_TIME = 4_102_444_800  # 2100-01-01T00:00:00Z

#: Names by which a request may name the account it is about, in lower case without underscores.
_LOGINS = ("login", "activelogin", "logins", "account", "accountid", "user", "userid")
#: Segments of paths that open a session.
_SIGNING = {"sign", "signin", "signup", "auth", "login"}
#: Members of a profile that are about the account, and not about the person who owns it.
_ACCOUNT = ("id", "login", "group", "currency", "balance", "equity", "margin", "margin_free", "profit", *MONEY)
#: An object with one of these members is a profile.
_PERSONAL = {"email", "phone", "address", "zipcode", "avatar", "__token"}

_function = re.compile(r"(?:([A-Za-z]+) +)?/?([A-Za-z0-9_][A-Za-z0-9_./-]*)").fullmatch


def trades(tag: Hashable, kind: int, since: str | None = None, offset: int = 0) -> Fetch:
    """Return the request of a list of trades; of closed ones, those closed from ``since`` on."""
    asked: dict[str, Any] = {"limit": ROWS, "offset": offset, "tradeType": kind}
    if kind == CLOSED_TRADES and (start := _seconds(since)) is not None:
        asked["whereBetween"] = [["close_time", [start, _END_OF_TIME]]]

    def next_page(answer: Answer) -> Fetch | None:
        match json_of(answer):
            case {"rows": [_, *_] as page, **more}:
                count, end = more.get("count"), offset + len(page)
                if count > end if isinstance(count, int) else len(page) >= ROWS:
                    return trades(tag, kind, since, end)
        return None

    return Fetch(tag=tag, url="/trades", json=asked, of="call", next_page=next_page)


def rows(answer: Answer) -> list[dict[str, Any]]:
    """Return the rows of all pages of a list."""
    return [row for page in answer.pages for row in table(loads(page))["rows"]]


def table(given: Any) -> dict[str, Any]:
    """Return ``{"structure", "rows", ...}`` with each row as an object. Raises KeyError or TypeError when it is no table."""
    names = [text(name) for name in given["structure"]]
    rows = [dict(zip(names, row, strict=True)) for row in given["rows"]]
    return {**{name: value for name, value in given.items() if name != "structure"}, "rows": rows}


# --- commands --------------------------------------------------------------------------------------------------------


def request(command: commands.Command, login: int | None, native: str | None, pending_path: str) -> Fetch:
    """Return the request that carries out ``command``.

    Raises:
        ValueError: something is asked for that ScaleTrade has no member for.
    """
    ask = partial(Fetch, tag=command, of="call")
    match command:
        case commands.PlaceOrder():
            at = command.limit_price or command.stop_price
            order = command.with_extra({
                "login": login, "cmd": CMD[command.order_type, command.side], "volume": json_number(command.quantity),
                "symbol": native, "sl": json_number(command.stop_loss or "0"), "tp": json_number(command.take_profit or "0"),
                **present(open_price=json_number(at), expiration=_seconds(command.good_till)),
                **written(command, {"comment": "client_order_id"}),
            }, *_LOGINS)  # fmt: skip
            is_market = command.order_type is OrderType.MARKET
            return ask(method="POST", url="/trade/open" if is_market else pending_path, json=order)
        case commands.CancelOrder(order_id=id):
            return ask(method="DELETE", url="/trade/cancel", json={"order": _ticket("order_id", id)})
        case commands.AmendOrder(order_id=id):
            if command.limit_price is not None and command.stop_price is not None:
                raise ValueError("limit_price, stop_price: a pending order has one price")
            expiration = 0 if command.time_in_force not in (None, TimeInForce.GTD) else _seconds(command.good_till)
            at = command.limit_price or command.stop_price
            changes = present(open_price=json_number(at), **written(command, LEVELS), expiration=expiration)
            return ask(method="PUT", url="/trade/modify/pending", json={"order": _ticket("order_id", id), **changes})
        case commands.AmendPosition(position_id=id):
            levels = written(command, LEVELS)
            return ask(method="PUT", url="/trade/modify", json={"order": _ticket("position_id", id), **levels})
        case commands.ClosePosition(position_id=id):
            volume = written(command, {"volume": "quantity"})
            return ask(method="DELETE", url="/trade/close", json={"order": _ticket("position_id", id), **volume})
        case commands.PositionHistory(since=str() as since, until=str() as until):
            times = {"from": _seconds(since), "to": _seconds(until)}
            return ask(url="/trades/history/login", json={"login": login, **times})
        case commands.PositionHistory():
            raise ValueError("since, until: ScaleTrade's history needs both")
        case commands.ListAccounts():
            return ask(url=ACCOUNT)
        case commands.ListPositions():
            return trades(command, OPEN_TRADES)
        case commands.ListOrders():
            return trades(command, PENDING_TRADES)
        case commands.Call(function=function, arguments=arguments):
            method, path = _called(function, arguments, login)
            return ask(method=method, url=path, json=arguments)
    raise ValueError(f"ScaleTrade has no {command.name}")


def _ticket(field: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()) or len(value) > 18:
        raise ValueError(f"{field}: ScaleTrade's orders and positions have numbers, not {value!r:.64}")
    return int(value)


def _seconds(time: str | None) -> int | None:
    return None if time is None else to_ns(time) // 1_000_000_000


def _called(function: str, arguments: Mapping[str, Any], login: int | None) -> tuple[str, str]:
    """Return method and path of a request of the user's own, on the session's account.

    Raises:
        ValueError: it is no function, signs somebody in, or names another account.
    """
    found = _function(function)
    segments = set() if found is None else {*found[2].lower().split("/")}
    if found is None or segments & {"", ".", ".."}:
        raise ValueError("function: expected a method and a path, such as `GET /market`")
    if segments & (_SIGNING - {"login"} if (found[1] or "").upper() == "GET" else _SIGNING):  # a list may be of a login
        raise ValueError("function: the relay signs in itself, and everybody could read the answer to another sign-in")
    stay_on("" if login is None else str(login), arguments, "arguments", _names_account)
    return (found[1] or "POST").upper(), f"/{found[2]}"


def _names_account(name: str) -> bool:
    return "".join(filter(str.isalnum, name)).lower() in _LOGINS


# --- replies ---------------------------------------------------------------------------------------------------------


def reply(command: commands.Command, answer: Answer) -> CommandReply:
    """Return the reply to a command. Everybody who may read the account gets it, so personal members are left out.

    Raises:
        ValueError: the answer is neither a failure nor a success as the pages have it; the command's fate is unknown.
    """
    given = json_of(answer)
    match given:
        case {"accepted": False}:
            return CommandReply(command.id, error={"code": "not_accepted", **discreet(given)})
        case {"error": error} if error is not None:
            pass
        case _ if answer.ok:
            return CommandReply(command.id, result=discreet(_success(command, answer, given)))
    failed = failure(answer)
    return CommandReply(
        command.id, error=discreet(failed) | {name: failed[name] for name in ("code", "message", "status")}
    )


def _success(command: commands.Command, answer: Answer, given: Any) -> Any:
    match command, given:
        case commands.ListAccounts(), {"login": int()}:
            return given
        case _, {"rows": [*_]} if isinstance(command, LISTS):
            return {**table(given), "rows": rows(answer)}
        case _ if isinstance(command, (commands.ListAccounts, *LISTS)):
            pass
        case _, {"accepted": True, "order": int() as order}:
            return {"order_id": str(order), **given}
        case _, {"accepted": True} | {"data": "OK"}:
            return given
        case commands.Call(function=function), _ if _trades(function):
            pass
        case commands.Call(), {"structure": [*_], "rows": [*_]}:
            return table(given)
        case commands.Call(), list() | dict() if given and "accepted" not in given:
            return given
    raise ValueError("the answer does not say what became of the command")


def _trades(function: str) -> bool:
    """Return whether a function is one of those that trade, whose answer says that it was accepted."""
    found = _function(function)
    return found is not None and (found[1] or "").upper() != "GET" and found[2].lower().startswith("trade")


def discreet(value: Any) -> Any:
    """Return the value without secrets and without the personal members of a profile."""
    match value:
        case list():
            return [discreet(each) for each in value]
        case dict():
            shown = [name for name in value if name in _ACCOUNT] if value.keys() & _PERSONAL else [*value]
            names = [name for name in shown if not name.startswith("__") and name.lower() != "password"]
            return {name: discreet(value[name]) for name in names}
    return value
