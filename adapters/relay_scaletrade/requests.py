"""What is asked of ScaleTrade over HTTP; `relay_scaletrade.answers` reads what comes of it.

Bodies: https://scaletrade.com/client-api/rest/trade/OpenTrade/ and its neighbours. Reading requests have a body too,
GET included.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import frozen

from relay.adapter import Orders
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    ListAccounts,
    ListOrders,
    ListPositions,
    PlaceOrder,
    PositionHistory,
)
from relay.model.enums import OrderType, Side, TimeInForce
from relay.model.text import to_ns

COMMANDS: tuple[type[Command], ...] = (
    PlaceOrder, CancelOrder, AmendOrder, ClosePosition, AmendPosition, PositionHistory, ListAccounts, ListPositions,
    ListOrders, Call,
)  # fmt: skip
ORDERS = Orders(
    types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP),
    times_in_force=(TimeInForce.GTC, TimeInForce.GTD),
    members=("client_order_id", "stop_loss", "take_profit"),
    amends=("limit_price", "stop_price", "stop_loss", "take_profit", "time_in_force", "good_till"),
)
#: Where the newer documentation takes pending orders.
PENDING_PATH = "/trade/open/pending"
CMD = {
    (OrderType.MARKET, Side.BUY): 0, (OrderType.MARKET, Side.SELL): 1, (OrderType.LIMIT, Side.BUY): 2,
    (OrderType.LIMIT, Side.SELL): 3, (OrderType.STOP, Side.BUY): 4, (OrderType.STOP, Side.SELL): 5,
}  # fmt: skip
#: ``tradeType`` of GET /trades.
OPEN_TRADES, CLOSED_TRADES, PENDING_TRADES = 1, 2, 3
#: Rows of one page of a list. The provider names no limit.
ROWS = 1000
_END_OF_TIME = 4_102_444_800  # 2100-01-01T00:00:00Z

#: How a request may name the account it is about, in lower case without underscores.
_LOGINS = ("login", "activelogin", "logins", "account", "accountid", "user", "userid")
#: Segments of paths that open a session.
_SIGNING = {"sign", "signin", "signup", "auth", "login"}

_function = re.compile(r"(?:([A-Za-z]+) +)?/?([A-Za-z0-9_][A-Za-z0-9_./-]*)").fullmatch


@frozen
class Request:
    method: str
    path: str
    body: Mapping[str, Any] | None = None


#: The account's profile and money.
ACCOUNT = Request("GET", "/account/me")


def number(value: str | None) -> msgspec.Raw | None:
    """Decimal text as a JSON number of the same digits."""
    return None if value is None else msgspec.Raw(value.encode())


def ticket(field: str, value: str) -> int:
    """The provider's number of an order. ValueError for anything else."""
    if not (value.isascii() and value.isdecimal()) or len(value) > 18:
        raise ValueError(f"{field}: ScaleTrade's orders and positions have numbers, not {value!r:.64}")
    return int(value)


def seconds(time: str | None) -> int | None:
    return None if time is None else to_ns(time) // 1_000_000_000


def sign_in(credentials: Mapping[str, str]) -> dict[str, Any]:
    """The body of the sign-in, whose login is a number."""
    login = credentials["login"]
    return {"login": int(login) if login.isdecimal() else login, "password": credentials["password"]}


def request(command: Command, login: int | None, native: str | None, pending_path: str) -> Request:
    """The request that carries out ``command``.

    Raises:
        ValueError: something is asked for that ScaleTrade has no member for.
    """
    match command:
        case PlaceOrder():
            return _place(command, login, native, pending_path)
        case CancelOrder(order_id=id):
            return Request("DELETE", "/trade/cancel", {"order": ticket("order_id", id)})
        case AmendOrder(order_id=id):
            return Request("PUT", "/trade/modify/pending", {"order": ticket("order_id", id), **_amended(command)})
        case AmendPosition(position_id=id):
            levels = _given(sl=number(command.stop_loss), tp=number(command.take_profit))
            return Request("PUT", "/trade/modify", {"order": ticket("position_id", id), **_some(levels)})
        case ClosePosition(position_id=id):
            volume = _given(volume=number(command.quantity))
            return Request("DELETE", "/trade/close", {"order": ticket("position_id", id), **volume})
        case PositionHistory(since=str(since), until=str(until)):
            body = {"login": login, "from": seconds(since), "to": seconds(until)}
            return Request("GET", "/trades/history/login", body)
        case PositionHistory():
            raise ValueError("since, until: ScaleTrade's history needs both")
        case ListAccounts():
            return ACCOUNT
        case ListPositions():
            return trades(OPEN_TRADES)
        case ListOrders():
            return trades(PENDING_TRADES)
        case Call(function=function, arguments=arguments):
            return _called(function, arguments, login)
    raise ValueError(f"ScaleTrade has no {command.name}")


def trades(kind: int, offset: int = 0, since: str | None = None) -> Request:
    """A page of a list of trades; of closed ones, those closed from ``since`` on."""
    body: dict[str, Any] = {"limit": ROWS, "offset": offset, "tradeType": kind}
    if kind == CLOSED_TRADES and (start := seconds(since)) is not None:
        body["whereBetween"] = [["close_time", [start, _END_OF_TIME]]]
    return Request("GET", "/trades", body)


@frozen
class Page:
    """One page of the lists that say what an absence left unknown: open and pending trades, and those closed since.

    Attributes:
        since: when the absence began; None where there was none, and nothing closed is asked for.
    """

    since: str | None
    kind: int = OPEN_TRADES
    offset: int = 0

    @property
    def is_first(self) -> bool:
        return self.kind == OPEN_TRADES and self.offset == 0

    def request(self) -> Request:
        return trades(self.kind, self.offset, self.since)

    def after(self, body: Mapping[str, Any]) -> "Page | None":
        """The page behind this one, whose answer is ``body``, or the first one of the next list; None behind the last."""
        rows, count = len(body["rows"]), body.get("count")
        end = self.offset + rows
        if rows and (count > end if isinstance(count, int) else rows >= ROWS):
            return Page(self.since, self.kind, end)
        lists = (OPEN_TRADES, PENDING_TRADES, CLOSED_TRADES)[: 2 if self.since is None else 3]
        behind = lists[lists.index(self.kind) + 1 :]
        return Page(self.since, behind[0]) if behind else None


def _place(command: PlaceOrder, login: int | None, native: str | None, pending_path: str) -> Request:
    for name in ("trailing_distance", "reduce_only", "post_only"):
        if getattr(command, name) is not None:
            raise ValueError(f"{name}: ScaleTrade's orders have no such member")
    cmd = CMD.get((command.order_type, command.side))
    if cmd is None:
        raise ValueError(f"order_type: no {command.order_type} orders over REST, only MARKET, LIMIT and STOP")
    at = {OrderType.LIMIT: command.limit_price, OrderType.STOP: command.stop_price}.get(command.order_type)
    if command.order_type is not OrderType.MARKET and at is None:
        raise ValueError(f"a {command.order_type} order needs its price")
    body = command.with_extra({
        "login": login, "cmd": cmd, "volume": number(command.quantity), "symbol": native,
        "sl": number(command.stop_loss or "0"), "tp": number(command.take_profit or "0"),
        **_given(open_price=number(at), expiration=_expiration(command), comment=command.client_order_id),
    }, *_LOGINS)  # fmt: skip
    return Request("POST", "/trade/open" if command.order_type is OrderType.MARKET else pending_path, body)


def _called(function: str, arguments: Mapping[str, Any], login: int | None) -> Request:
    """A request of the user's own, on the session's account.

    Raises:
        ValueError: it is no function, signs somebody in, or names another account.
    """
    found = _function(function)
    segments = set() if found is None else {*found[2].lower().split("/")}
    if found is None or segments & {"", ".", ".."}:
        raise ValueError("function: expected a method and a path, such as `GET /market`")
    if segments & _SIGNING:
        raise ValueError(
            "function: the relay signs in itself; the answer to another sign-in would be everybody's to read"
        )
    _check_logins(arguments, login)
    return Request((found[1] or "POST").upper(), f"/{found[2]}", arguments)


def _check_logins(given: Any, login: int | None) -> None:
    """Refuse arguments, at any depth, that are about another account than the session's."""
    match given:
        case Mapping():
            for name, value in given.items():
                if _names_account(name) and not _is_login(value, login):
                    raise ValueError(f"arguments.{name}: the session is of account {login}")
                _check_logins(value, login)
        case list() | tuple():
            if given and isinstance(given[0], str) and _names_account(given[0]):  # a condition, as of whereBetween
                raise ValueError(f"arguments: a condition on {given[0]}; the session is of account {login}")
            for value in given:
                _check_logins(value, login)


def _names_account(name: str) -> bool:
    return "".join(filter(str.isalnum, name)).lower() in _LOGINS


def _is_login(value: Any, login: int | None) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_login(each, login) for each in value)
    text = bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)
    return not isinstance(value, bool) and login is not None and text == str(login)


def _expiration(command: PlaceOrder | AmendOrder) -> int | None:
    """When the order expires, Unix seconds; None where it does not, or where that stays as it is."""
    has_end = command.good_till is not None
    if command.time_in_force not in (None, TimeInForce.GTC, TimeInForce.GTD):
        raise ValueError(f"time_in_force: ScaleTrade knows only an expiration, no {command.time_in_force}")
    if (command.time_in_force is TimeInForce.GTD and not has_end) or (
        command.time_in_force is TimeInForce.GTC and has_end
    ):
        raise ValueError(f"good_till: does not go with {command.time_in_force}")
    return seconds(command.good_till)


def _amended(command: AmendOrder) -> dict[str, Any]:
    if command.quantity is not None:
        raise ValueError("quantity: the volume of a pending order cannot be changed")
    if command.limit_price is not None and command.stop_price is not None:
        raise ValueError("limit_price, stop_price: a pending order has one price")
    expiration = _expiration(command)
    if command.time_in_force is TimeInForce.GTC:
        expiration = 0  # clears it
    return _some(
        _given(
            open_price=number(command.limit_price or command.stop_price),
            sl=number(command.stop_loss),
            tp=number(command.take_profit),
            expiration=expiration,
        )
    )


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _some(members: dict[str, Any]) -> dict[str, Any]:
    if not members:
        raise ValueError("nothing is changed")
    return members
