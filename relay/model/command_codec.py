"""The JSON form of commands, read strictly: money hangs on it.

A command is an object of its members with its name under ``command``::

    {"command": "place_order", "id": "c1", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET", "quantity": "10000"}

What holds:

- A number keeps its digits from the text to the provider and never passes a binary float: it may be written as text or as
  a JSON number. NaN, infinities and numbers beyond the digits of `relay.model.decimals` are refused.
- Every other member has exactly its type; a number is not a text, nor a text a flag. ``null`` stands for absent.
- A member that is unknown, missing or twice there is refused by name, and so is one that contradicts the rest: a limit
  order without its price, a market order with one.

cattrs generates one function per command when this module is imported.
"""

import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import attrs
import msgspec
from attrs import frozen
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import make_converter

from relay.errors import suggestion
from relay.model.command_values import (
    CommandError,
    choice,
    decimal,
    flag,
    free_object,
    name_text,
    read,
    shown,
    text,
    time,
)
from relay.model.commands import (
    COMMANDS,
    AmendOrder,
    AmendPosition,
    Command,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.model.decimals import decimal_text, optional_decimal
from relay.model.enums import OrderType, TimeInForce
from relay.model.times import optional_time, to_ns

_converter = make_converter(detailed_validation=False)


# --- members ---------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Member:
    """One member of a command: ``type`` is text, decimal, time, flag, object, or choice, of ``values``."""

    name: str
    type: str
    required: bool
    values: tuple[str, ...] = ()
    read: Callable[[Any, Any], Any] = attrs.field(repr=False, eq=False)


def _member(attribute: "attrs.Attribute[Any]", hint: Any) -> Member:
    name, required = attribute.name, attribute.default is attrs.NOTHING
    is_object = typing.get_origin(hint) is Mapping
    kind = hint if is_object else next(each for each in (*typing.get_args(hint), hint) if each is not type(None))
    type_, reader = ("object", free_object) if is_object else _reading(name, attribute.converter, kind)
    values = tuple(each.value for each in kind) if type_ == "choice" else ()

    def read(value: Any, _: Any) -> Any:
        if value is None and not required:
            return {} if is_object else None
        return reader(name, value)

    return Member(name=name, type=type_, required=required, values=values, read=read)


def _reading(name: str, converter: object, kind: Any) -> tuple[str, Callable[[str, Any], Any]]:
    """How one attribute's type is called, and what reads it."""
    if converter in (decimal_text, optional_decimal):
        return "decimal", decimal
    if converter is optional_time:
        return "time", time
    if issubclass(kind, StrEnum):
        return "choice", lambda field, value: choice(field, value, kind)
    if kind is bool:
        return "flag", flag
    return "text", name_text if name == "id" else text


def _members(cls: type[Command]) -> tuple[Member, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_member(attribute, hints[attribute.name]) for attribute in attrs.fields(cls))


#: Every command's members by its name, ``id`` and ``account`` first.
MEMBERS: Mapping[str, tuple[Member, ...]] = MappingProxyType({name: _members(cls) for name, cls in COMMANDS.items()})


# --- reading and writing ---------------------------------------------------------------------------------------------


def _structure(cls: type[Command]) -> Callable[[Mapping[str, Any], Any], Command]:
    hooks = {member.name: override(struct_hook=member.read) for member in MEMBERS[cls.name]}
    return make_dict_structure_fn(
        cls,
        _converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=False,
        **hooks,  # type: ignore[arg-type]
    )


_STRUCTURE = {name: _structure(cls) for name, cls in COMMANDS.items()}
_UNSTRUCTURE = {
    name: make_dict_unstructure_fn(cls, _converter, _cattrs_omit_if_default=True) for name, cls in COMMANDS.items()
}


def structure(wire: Mapping[str, Any]) -> Command:
    """Return the command in ``wire``, an object as `read` gives it.

    Raises:
        CommandError: no such command, or a member that is unknown, missing, of another type, or contradicts the others.
    """
    members = dict(wire)
    name = text("command", _required(members, "command"))
    if name not in COMMANDS:
        raise CommandError("command", f"there is no {shown(name)}; {suggestion(name, COMMANDS)}")
    try:
        command = _STRUCTURE[name](members, COMMANDS[name])
    except ForbiddenExtraKeysError as error:
        stray = min(error.extra_fields)
        known = [member.name for member in MEMBERS[name]]
        raise CommandError(shown(stray), f"{name} has no such member; {suggestion(stray, known)}") from None
    except KeyError as missing:
        raise CommandError(str(missing.args[0]), f"is missing; {name} needs it") from None
    _check(command)
    return command


def decode(data: bytes | str) -> Command:
    """Return the command in JSON ``data``. Raises CommandError as `read` and `structure` do."""
    return structure(read(data))


def unstructure(command: Command) -> dict[str, Any]:
    """Return the JSON form of ``command`` as a dict; absent members are left out."""
    return {"command": command.name, **_UNSTRUCTURE[command.name](command)}


def encode(command: Command) -> bytes:
    """Return ``command`` as JSON."""
    return msgspec.json.encode(unstructure(command))


def _required(members: dict[str, Any], name: str) -> Any:
    try:
        return members.pop(name)
    except KeyError:
        raise CommandError(name, "is missing") from None


# --- what belongs together -------------------------------------------------------------------------------------------

#: order type -> (prices it needs, prices it cannot have)
_PRICES: Mapping[OrderType, tuple[tuple[str, ...], tuple[str, ...]]] = {
    OrderType.MARKET: ((), ("limit_price", "stop_price", "trailing_distance")),
    OrderType.LIMIT: (("limit_price",), ("stop_price", "trailing_distance")),
    OrderType.STOP: (("stop_price",), ("limit_price", "trailing_distance")),
    OrderType.STOP_LIMIT: (("limit_price", "stop_price"), ("trailing_distance",)),
    OrderType.TRAILING_STOP: (("trailing_distance",), ()),
}


def _check(command: Command) -> None:
    for name in ("quantity", "trailing_distance"):
        value = getattr(command, name, None)
        if value is not None and Decimal(value) <= 0:
            raise CommandError(name, f"must be above zero, not {value}")
    match command:
        case PlaceOrder():
            _check_order(command)
        case AmendOrder() | AmendPosition():
            unchanging = {"id", "account", "order_id", "position_id", "symbol"}
            changes = [member.name for member in MEMBERS[command.name] if member.name not in unchanging]
            if all(getattr(command, name) is None for name in changes):
                raise CommandError("command", f"{command.name} changes nothing; give one of {', '.join(changes)}")
        case (
            OrderHistory(since=str(since), until=str(until))
            | PositionHistory(since=str(since), until=str(until))
            | TradeHistory(since=str(since), until=str(until))
        ) if to_ns(since) > to_ns(until):
            raise CommandError("since", f"{since} is after until, {until}")


def _check_order(order: PlaceOrder) -> None:
    needed, excluded = _PRICES[order.order_type]
    for name in needed:
        if getattr(order, name) is None:
            raise CommandError(name, f"is missing; a {order.order_type} order needs it")
    for name in excluded:
        if getattr(order, name) is not None:
            raise CommandError(name, f"a {order.order_type} order has none")
    if (order.time_in_force is TimeInForce.GTD) != (order.good_till is not None):
        raise CommandError("good_till", "goes with time_in_force GTD, and GTD with it")
