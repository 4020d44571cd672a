"""Reading what a Tektii gateway sends: frames and the objects of its REST API, which are the same.

https://docs.tektii.com/docs/trading-api/event-types. The page's schemas are the relay's own event model, so a member goes to
the field of its name. A null member means the same as a missing one. Besides the events on that page the gateway sends
``data_staleness``, ``financing``, ``backtest_complete`` and ``connection`` events about its broker.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relay.adapter import CloseMeaning, Redial, Send, loads
from relay.adapter.reading import members, text
from relay.model.enums import AccountEvent, ConnectionEvent, OrderEvent, OrderStatus, PositionEvent
from relay.model.events import (
    Account,
    Candle,
    Connection,
    Error,
    Notification,
    Order,
    Position,
    Quote,
    Staleness,
    Trade,
)

Given = dict[str, Any]
Symbol = Callable[[str], str]

TIMEFRAMES = ("1m", "2m", "5m", "10m", "15m", "30m", "1h", "2h", "4h", "12h", "1d", "1w")
PONG = Send('{"type":"pong"}')
#: The gateway closes the connection after a finished backtest. Reconnecting is useless then.
OVER = Redial("the backtest is complete", CloseMeaning.REFUSED)

#: Members that go to the fields of their names, besides ``symbol``; any other member of an object stays in ``data``.
QUOTE = ("bid", "ask", "bid_size", "ask_size", "last", "volume")
BAR = ("timeframe", "open", "high", "low", "close", "volume")
ORDER = (
    "id", "client_order_id", "side", "order_type", "quantity", "filled_quantity", "remaining_quantity", "status",
    "time_in_force", "limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance", "trailing_type",
    "average_fill_price", "reject_reason", "position_id", "parent_order_id", "reduce_only", "post_only", "hidden",
    "display_quantity", "oco_group_id", "correlation_id", "created_at", "updated_at",
)  # fmt: skip
POSITION = (
    "id", "side", "quantity", "average_entry_price", "current_price", "unrealized_pnl", "realized_pnl", "margin_mode",
    "leverage", "liquidation_price", "stop_loss", "take_profit", "opened_at", "updated_at",
)  # fmt: skip
ACCOUNT = ("balance", "equity", "margin_used", "margin_available", "unrealized_pnl", "currency")
TRADE = ("id", "order_id", "side", "quantity", "price", "commission", "commission_currency", "is_maker")

#: The event of a listed order, by its status.
LISTED = {
    OrderStatus.PENDING: OrderEvent.ORDER_CREATED,
    OrderStatus.OPEN: OrderEvent.ORDER_CREATED,
    OrderStatus.PENDING_CANCEL: OrderEvent.ORDER_MODIFIED,
    OrderStatus.PARTIALLY_FILLED: OrderEvent.ORDER_PARTIALLY_FILLED,
    OrderStatus.FILLED: OrderEvent.ORDER_FILLED,
    OrderStatus.CANCELLED: OrderEvent.ORDER_CANCELLED,
    OrderStatus.REJECTED: OrderEvent.ORDER_REJECTED,
    OrderStatus.EXPIRED: OrderEvent.ORDER_EXPIRED,
}
#: The gateway's words for its connection to the broker. A broker that is away is being reconnected to, until that failed.
CONNECTIONS = {
    "CONNECTED": ConnectionEvent.CONNECTED,
    "DISCONNECTING": ConnectionEvent.DISCONNECTING,
    "RECONNECTING": ConnectionEvent.RECONNECTING,
    "BROKER_DISCONNECTED": ConnectionEvent.RECONNECTING,
    "BROKER_RECONNECTED": ConnectionEvent.CONNECTED,
    "BROKER_CONNECTION_FAILED": ConnectionEvent.FAILED,
}
#: Errors that tell an account's owner of its orders and positions; the channel of a provider's errors is anybody's.
OF_THE_ACCOUNT = ("POSITION_UNPROTECTED", "LIQUIDATION", "OCO_DOUBLE_EXIT")

_event_id = re.compile(r'"event_id"\s*:\s*"([^"\\]{1,200})"').search


def listed(text: str) -> list[Given]:
    """Return the objects of an answer that is a list of them, or one."""
    answer = loads(text)
    return [members(raw) for raw in (answer if isinstance(answer, list) else [answer])]


def event_id(text: str, frame: Any) -> str | None:
    """Return the id to acknowledge a frame by; ``frame`` is None when the text is not JSON. Only paced frames have one."""
    if isinstance(frame, dict):
        id = frame.get("event_id")
        return id if isinstance(id, str) and id else None
    found = _event_id(text) if frame is None else None
    return found[1] if found else None


def _about(given: Given, symbol: Symbol) -> Given:
    native = text(given, "symbol")
    return {"symbol": symbol(native), "native_symbol": native}


def _picked(given: Mapping[str, Any], names: tuple[str, ...], *read: str) -> Given:
    """Return the members of these names, and as ``data`` whatever is neither among them nor ``read`` otherwise."""
    fields = {name: given[name] for name in names if name in given}
    if len(given) > len(fields):
        rest = {name: value for name, value in given.items() if name not in fields and name not in read}
        return {**fields, "data": rest} if rest else fields
    return fields


def quote(given: Given, symbol: Symbol, **time: Any) -> Quote:
    about, picked = _about(given, symbol), _picked(given, QUOTE, "symbol", "timestamp")
    return Quote(time=given.get("timestamp"), **about, **picked, **time)


def candle(given: Given, symbol: Symbol, **time: Any) -> Candle:
    """Return a bar. The gateway does not mark whether it can still change."""
    about, picked = _about(given, symbol), _picked(given, BAR, "symbol", "timestamp")
    return Candle(start=given["timestamp"], **about, **picked, **time)


def order(given: Given, symbol: Symbol, event: Any, **more: Any) -> Order:
    return Order(**{"event": event, **_about(given, symbol), **_picked(given, ORDER, "symbol"), **more})


def listed_order(given: Given, symbol: Symbol) -> Order:
    """Return an order of a list, with what its status says has happened."""
    return order(given, symbol, LISTED[OrderStatus(given["status"])], timestamp=given.get("updated_at"))


def position(given: Given, symbol: Symbol, event: Any, **time: Any) -> Position:
    return Position(event=event, **_about(given, symbol), **_picked(given, POSITION, "symbol"), **time)


def listed_position(given: Given, symbol: Symbol) -> Position:
    """Return a position of a list: opened, and modified where the gateway says that it was since."""
    opened, updated = given.get("opened_at"), given.get("updated_at")
    event = PositionEvent.POSITION_OPENED if updated in (None, opened) else PositionEvent.POSITION_MODIFIED
    return position(given, symbol, event, timestamp=updated)


def account(given: Given, event: Any = AccountEvent.BALANCE_UPDATED, **time: Any) -> Account:
    """Return the account's balance and margins. Raise ValueError for METRICS_UPDATED, which the gateway never sends."""
    if event == AccountEvent.METRICS_UPDATED:
        raise ValueError(f"no event of this provider's accounts: {event}")
    return Account(event=event, **_picked(given, ACCOUNT), **time)


def trade(given: Given, symbol: Symbol, **more: Any) -> Trade:
    about, picked = _about(given, symbol), _picked(given, TRADE, "symbol", "timestamp")
    return Trade(time=given.get("timestamp"), **about, **picked, **more)


def _says(given: Given) -> str:
    """Return a reason that quotes the gateway's event, with the broker's name if the gateway sent one."""
    return " ".join(["the gateway says", *(text(given, name) for name in ("event", "broker") if name in given)])


def connection(given: Given, **time: Any) -> Connection:
    """Return the state of the gateway's own connection to its broker."""
    failure = text(given, "error") if "error" in given else None
    return Connection(event=CONNECTIONS[text(given, "event")], reason=_says(given), error=failure,
                      gap_ms=given.get("gap_duration_ms"), upstream=True, **time)  # fmt: skip


def staleness(given: Given, symbol: Symbol, natives: Iterable[str], **time: Any) -> Staleness:
    """Return that the gateway has no live data of these symbols, or has it again."""
    return Staleness(event=text(given, "event"), symbols=map(symbol, natives), stale_since=given.get("stale_since"),
                     reason=_says(given), **time)  # fmt: skip


def error(given: Given, **time: Any) -> Error | Notification:
    """Return an error; what it tells an account's owner is a notification on the account, where nobody else reads it."""
    code, message, details = text(given, "code"), text(given, "message"), given.get("details")
    if code in OF_THE_ACCOUNT:
        return Notification(level="error", title=code, message=message, data=details, **time)
    return Error(code=code, message=message, details=details, **time)


def financing(given: Given, symbol: Symbol, **time: Any) -> Notification:
    """Return the financing of a position, in the account's home currency; negative is a charge."""
    about, amount = _about(given, symbol), text(given, "amount")
    return Notification(title="financing", message=f"{amount} on {about['symbol']}", data=given, **time)
