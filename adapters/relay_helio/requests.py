"""The requests Helio is sent: trading messages on the WebSocket, and the login, the portfolio and the history over HTTP.

The pages are https://docs.helio.trade/trader/websocket and, below /trader/api, authentication/client-login,
trading/get-portfolio and history/order-history. Trading messages are spelled as the WebSocket page has them, or as the REST
bodies. The open orders and positions are fetched on every connect, because the socket's own portfolio is documented as a
change only, and its executions as those of subscribed symbols.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import attrs

from relay.adapter import Answer, CommandReply, Fetch, Learned, Orders, Signal, loads, reading
from relay.adapter.reading import json_number
from relay.model import commands
from relay.model.enums import ErrorCode, OrderType
from relay.model.events import Error, Event
from relay.model.text import from_nanos, rfc3339, to_ns
from relay_helio.reports import Reports, members

TYPES: dict[type[commands.Command], str] = {
    commands.PlaceOrder: "createOrder",
    commands.CancelOrder: "cancelOrder",
    commands.AmendOrder: "amendOrder",
    commands.ClosePosition: "closePosition",
    commands.AmendPosition: "amendPosition",
    commands.OrderHistory: "orderHistory",
    commands.PositionHistory: "positionHistory",
    commands.TradeHistory: "dealHistory",
}
#: Commands that the portfolio answers, with the name of their part of it; the account is all but its lists.
LISTS: dict[type[commands.Command], str | None] = {
    commands.ListAccounts: None, commands.ListPositions: "positions", commands.ListOrders: "orders",
}  # fmt: skip
#: The lists of the answers to histories.
HISTORIES: dict[type[commands.Command], str] = {
    commands.OrderHistory: "orders", commands.PositionHistory: "positions", commands.TradeHistory: "deals",
}  # fmt: skip
ORDERS = Orders(
    types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT),
    members=("client_order_id", "stop_loss", "take_profit"),
)
#: The states in which an order is neither cancelled nor amended, and the codes of gRPC that its gateway's errors have.
CODES = {**dict.fromkeys(("FILLED", "EXPIRED"), ErrorCode.ORDER_NOT_OPEN), "3": ErrorCode.INVALID_REQUEST,
         "7": ErrorCode.NOT_PERMITTED, "12": ErrorCode.UNSUPPORTED}  # fmt: skip
#: Names of the REST bodies that are not the page's in snake_case.
REST_NAMES = {"symbol": "symbol_id", "quantity": "volume"}
REST_PREFIXES = {"side": "TRADE_SIDE_", "type": "ORDER_TYPE_", "timeInForce": "TIF_"}
PORTFOLIO = "portfolio"

#: Members of an order as the REST page spells them; `extra` must not contradict them either.
_OTHER_SPELLINGS = ("symbol_id", "volume", "client_order_id", "order_type")
_DAY = 24 * 3600 * 1_000_000_000
_camel = re.compile(r"[A-Z]")


# --- trading ---------------------------------------------------------------------------------------------------------


def keyed(command: commands.Command, token: str) -> commands.Command:
    """Return the command as it is sent: an order without a ``client_order_id`` gets one, which its executions repeat.

    It is made of the command's id and the login's token, so that an id used again after a restart names no earlier order.
    It is a UUID because the longest name Helio takes is not documented.
    """
    if not isinstance(command, commands.PlaceOrder) or command.client_order_id is not None:
        return command
    return attrs.evolve(command, client_order_id=str(uuid5(NAMESPACE_URL, f"{token}/{command.id}")))


def body(command: commands.Command, account_id: str, native: str | None, *, rest: bool = False) -> dict[str, Any]:
    """Return the payload of ``command`` in the spelling of the WebSocket page, or of the ``rest`` bodies.

    Raises:
        ValueError: Helio has no member for a part of the command.
    """
    match command:
        case commands.PlaceOrder():
            own = {"symbol": native, "side": command.side, "quantity": json_number(command.quantity),
                   "type": command.order_type, "clientOrderId": command.client_order_id,
                   "timeInForce": command.time_in_force, "limitPrice": json_number(command.limit_price),
                   "stopPrice": json_number(command.stop_price), "stopLossPrice": json_number(command.stop_loss),
                   "takeProfitPrice": json_number(command.take_profit), "goodTillDate": command.good_till}  # fmt: skip
            asked = command.with_extra(own, *_OTHER_SPELLINGS)
        case commands.CancelOrder(order_id=order_id):
            asked = {"orderId": order_id}
        case commands.AmendOrder(order_id=order_id):
            asked = {"orderId": order_id, "quantity": json_number(command.quantity),
                     "limitPrice": json_number(command.limit_price), "stopPrice": json_number(command.stop_price),
                     "timeInForce": command.time_in_force, "goodTillDate": command.good_till,
                     **_levels(command)}  # fmt: skip
        case commands.ClosePosition(position_id=position_id):
            asked = {"positionId": position_id, "qty": json_number(command.quantity)}
        case commands.AmendPosition(position_id=position_id):
            asked = {"positionId": position_id, **_levels(command)}
        case commands.OrderHistory() | commands.PositionHistory() | commands.TradeHistory():
            if command.until is None:
                raise ValueError("until: Helio's history needs to be told up to when")
            if native is not None:
                raise ValueError("symbol: Helio's history has no such member")
            asked = {"from": command.since, "to": command.until}
        case _:
            raise ValueError(f"Helio has no {command.name}")
    page = {"accountId": account_id, **{name: value for name, value in asked.items() if value is not None}}
    return _rest_body(page) if rest else page


def _levels(command: commands.AmendOrder | commands.AmendPosition) -> dict[str, Any]:
    prices = {"slLevels": command.stop_loss, "tpLevels": command.take_profit}
    return {name: [{"price": json_number(price)}] for name, price in prices.items() if price is not None}


def _rest_body(page: dict[str, Any]) -> dict[str, Any]:
    snake = {name: REST_NAMES.get(name) or _camel.sub(lambda m: f"_{m[0].lower()}", name) for name in page}
    return {
        snake[name]: f"{REST_PREFIXES[name]}{value}" if name in REST_PREFIXES else value for name, value in page.items()
    }


# --- HTTP ------------------------------------------------------------------------------------------------------------


def portfolio(account_id: str, tag: Hashable) -> Fetch:
    """Ask for the account's money and all that is open on it."""
    return Fetch(tag=tag, url=f"/accounts/{account_id}/portfolio")


def reconcile(account_id: str, since: str | None) -> Iterator[Fetch]:
    """Ask for all that is open, and after an absence for the orders that may have ended in it.

    The page's dates are days of the order's creation: those made since the day before, up to a year ahead, are asked for.
    """
    if since is not None:
        began = to_ns(since)
        query = {"from": from_nanos(began - _DAY)[:10], "to": from_nanos(began + 365 * _DAY)[:10]}
        yield Fetch(tag=("missed", since), url=f"/accounts/{account_id}/history/orders", query=query)
    yield portfolio(account_id, PORTFOLIO)


def changed_since(answer: Answer, since: str) -> Iterator[Any]:
    """Yield the orders of a history that changed in the absence; one without a time of change is among them."""
    start = to_ns(since)
    for raw in loads(answer.text)["orders"]:
        at = members(raw).get("updatedAt")
        if at is None or to_ns(rfc3339(at)) >= start:
            yield raw


def listed(command_id: str, part: str | None, answer: Answer, reports: Reports) -> CommandReply:
    """Return the reply to a list command: its part of the portfolio as it came, and as it is read."""
    reply = reading.reply(command_id, answer)
    if reply.error is not None:
        return reply
    money = {name: value for name, value in reply.result.items() if not isinstance(value, list)}
    asked = money if part is None else reply.result[part]
    return CommandReply(command_id, asked, events=reports.answer(reply.result, part))


def signed_in(answer: Answer, chosen: str) -> tuple[str, list[Event | Signal]]:
    """Return the session's account and what the login's answer yields; ``chosen`` is the operator's option."""
    given = members(loads(answer.text))
    expires = given.get("expiresAt")
    learned = Learned({"token": reading.text(given, "accessToken")}, None if expires is None else int(expires))
    ids = [account["id"] for account in given.get("accounts", ()) if isinstance(account["id"], str)]
    if not chosen and len(ids) == 1:
        return ids[0], [learned]
    if chosen in ids:
        return chosen, [learned]
    return chosen, [Error(code="account_id", message=f"set the option account_id to one of: {', '.join(ids)}"), learned]
