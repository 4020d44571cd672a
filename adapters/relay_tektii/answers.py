"""Read the answers of the gateway's REST API: to commands, to requests for current data, and to those after an absence.

An error is ``{"code", "message", "details"?}`` whatever the status (https://docs.tektii.com/docs/trading-api).
"""

from collections.abc import Iterable
from typing import Any

from attrs import evolve

from relay.adapter import Ack, Answer, CommandReply, Complete, Limited, Nack, Signal, loads
from relay.adapter.reading import each, failure, members
from relay.model.channels import Topic
from relay.model.commands import Call, Command
from relay.model.enums import OrderStatus
from relay.model.events import Error, Event
from relay.model.text import to_ns
from relay_tektii import reading
from relay_tektii.reading import Symbol

#: Statuses that say that there is no such thing, and not only that it cannot be told now.
_NOTHING_THERE = (400, 404, 422)
_UNSUPPORTED = 501
_TOO_MANY = 429
#: Functions of `Call` that trade, and whose answer theirs is.
_TRADING = {
    "modify_order": "amend_order",
    "close_position": "close_position",
    "cancel_all_orders": "cancel_all_orders",
    "close_all_positions": "close_all_positions",
}
_LISTS = ("order_history", "trade_history", "list_positions", "list_orders")
#: The commands that read, and what their answers are lists of.
_READ = {"list_accounts": "account", "list_positions": "positions", "list_orders": "orders", "order_history": "orders",
         "trade_history": "trades", "get_quote": "quote"}  # fmt: skip


def kind(command: Command) -> str:
    """Return the name by which the answer is read: the command's, or that of the function of a ``call``."""
    return _TRADING.get(command.function, "call") if isinstance(command, Call) else command.name


def called(id: str, name: str, answer: Answer, symbol: Symbol) -> Iterable[Signal]:
    """Yield the reply to the command of this id; ``name`` says how its answer is read."""
    if not answer.ok:
        refused = failure(answer)
        details = refused.get("details")
        after = details.get("retry_after_seconds") if isinstance(details, dict) else None
        if answer.status == _TOO_MANY and "retry-after" not in answer.headers and type(after) is int:
            yield Limited(after)
        yield CommandReply(id, error=refused)
        return
    taken = _taken(id, name, loads(answer.text))
    if name in _READ and taken.error is None:
        given = taken.result if isinstance(taken.result, list) else [taken.result]
        taken = evolve(taken, events=tuple(each(given, lambda raw: _read(_READ[name], members(raw), symbol))))
    yield taken


def _taken(id: str, name: str, body: Any) -> CommandReply:
    """Return the reply in an answer with a good status.

    Raises:
        ValueError: it is not what the SDK has for a success, so the command's fate is unknown.
    """
    match name, body:
        case "place_order" | "close_position", {"id": str() as order_id, "status": "REJECTED"}:
            reason = body.get("reject_reason") or body.get("message") or "the order is REJECTED"
            return CommandReply(id, error={"code": "REJECTED", "message": reason, "order_id": order_id, **body})
        case "place_order" | "close_position", {"id": str() as order, "status": status} if status in list(OrderStatus):
            return CommandReply(id, {"order_id": order, **body})
        case "cancel_order", {"success": False}:
            return CommandReply(id, error={"code": "NOT_CANCELLED", "message": "the order was not cancelled", **body})
        case "cancel_order", {"success": True}:
            return CommandReply(id, body)
        case "amend_order", {"order": {"id": str() as order_id, "status": "REJECTED"}}:
            raise ValueError(f"order {order_id} is REJECTED, which does not say what it is amended to")
        case "amend_order", {"order": {"id": str()}}:
            return CommandReply(id, body)
        case ("cancel_all_orders", {"cancelled_count": int()}) | ("close_all_positions", list()):
            return CommandReply(id, body)
        case "list_accounts", {"balance": _}:
            return CommandReply(id, body)
        case "get_quote", {"symbol": str()}:
            return CommandReply(id, body)
        case ("call", dict() | list()) | ("amend_position", dict()) if body or name == "call":
            return CommandReply(id, body)
        case list_name, list() if list_name in _LISTS:
            return CommandReply(id, body)
    raise ValueError("the answer does not say what became of the command")


def current(topic: Topic, answer: Answer, symbol: Symbol) -> Iterable[Event | Signal]:
    """Yield the current quote or the newest bar of a topic. A topic that cannot be asked for may still be streamed."""
    if not answer.ok:
        refused = failure(answer)
        if answer.status == _UNSUPPORTED:
            yield Ack((topic,))
        elif answer.status in _NOTHING_THERE:
            yield Nack((topic,), f"{refused['code']}: {refused['message']}")
        else:
            yield Error(code=refused["code"], message=f"{topic.kind} {topic.symbol}: {refused['message']}")
        return
    found = reading.listed(answer.text)
    if topic.kind == "quote":
        yield from (_read("quote", given, symbol) for given in found)
    elif found:
        yield reading.candle(max(found, key=lambda bar: to_ns(bar["timestamp"])), symbol)
    yield Ack((topic,))


def listed(what: str, text: str, symbol: Symbol) -> Iterable[Event | Signal]:
    """Yield the account as it is now, and what the session missed while it was away."""
    yield from (_read("orders" if what == "ended" else what, given, symbol) for given in reading.listed(text))
    if what in ("orders", "positions"):
        yield Complete("order" if what == "orders" else "position")


def _read(what: str, given: reading.Given, symbol: Symbol) -> Event:
    """Return the event of one element of a list of the gateway's."""
    match what:
        case "account":
            return reading.account(given)
        case "positions":
            return reading.listed_position(given, symbol)
        case "orders":
            return reading.listed_order(given, symbol)
        case "trades":
            return reading.trade(given, symbol, timestamp=given.get("timestamp"))
    return reading.quote(given, symbol, timestamp=given.get("timestamp"))
