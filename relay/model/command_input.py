"""The JSON form of commands, read strictly, because money depends on it.

A command is an object of its members with its name under ``command``::

    {"command": "place_order", "id": "c1", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET", "quantity": "10000"}

The rules:

- A number keeps its digits from the text to the provider and never passes a binary float: it may be written as text or as
  a JSON number. NaN, infinities and numbers beyond the digits of `relay.model.text` are refused.
- Every other member has exactly its type; a number is not a text, nor a text a flag. ``null`` stands for absent.
- A member that is unknown, missing or twice there is refused by name, and so is one that contradicts the rest: a limit
  order without its price, a market order with one.

A value that is refused raises `CommandError` with the name of its field. `read` gives numbers with a point or an exponent as
`Digits`, which no text member takes for text.
"""

import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NoReturn

import attrs
import msgspec
from attrs import frozen
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import make_converter

from relay.errors import suggestion
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
from relay.model.enums import OrderType, TimeInForce
from relay.model.text import decimal_text, optional_decimal, optional_time, rfc3339, to_ns

_converter = make_converter(detailed_validation=False)

MAX_TEXT = 256
"""Characters of one text."""
MAX_DEPTH, MAX_VALUES = 16, 1000
"""Levels and values of ``extra`` or ``arguments``."""

_name = re.compile(r"[!-~]{1,128}").fullmatch


class CommandError(ValueError):
    """Raised when the value of ``field`` is not acceptable in a command; the message gives the reason."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Digits(str):
    """A JSON number with a point or an exponent, as it was written."""

    __slots__ = ()


# --- JSON ------------------------------------------------------------------------------------------------------------


def read(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object in ``data`` with its numbers exact (int or `Digits`).

    Raises:
        CommandError: not UTF-8, not JSON, no object, a member that is there twice, NaN or an infinity.
    """
    try:
        value = json.loads(
            data if isinstance(data, str) else data.decode(),
            parse_float=Digits,
            parse_constant=_no_number,
            object_pairs_hook=_object,
        )
    except CommandError:
        raise
    except (ValueError, RecursionError) as error:
        raise CommandError("body", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CommandError("body", "must be a JSON object")
    return value


def _no_number(text: str) -> NoReturn:
    raise CommandError("body", f"{text} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise CommandError(shown(name), "occurs twice")
            seen.add(name)
    return value


def shown(name: str) -> str:
    """Return a received name in a form that is safe to send back."""
    return name if _name(name) else ascii(name)[:MAX_TEXT]


# --- values ----------------------------------------------------------------------------------------------------------


def text(field: str, value: Any) -> str:
    """Return ``value`` if it is text of 1 to `MAX_TEXT` printable characters. Raises CommandError."""
    if type(value) is not str:
        raise CommandError(field, f"must be text, not {_kind(value)}")
    if not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise CommandError(field, f"must be text of 1 to {MAX_TEXT} printable characters")
    return value


def name_text(field: str, value: Any) -> str:
    """Return ``value`` if it can name a request: 1 to 128 visible ASCII characters. Raises CommandError."""
    if not _name(text(field, value)):
        raise CommandError(field, "must be 1 to 128 visible ASCII characters, no space among them")
    return str(value)


def flag(field: str, value: Any) -> bool:
    """Return ``value`` if it is true or false. Raises CommandError."""
    if not isinstance(value, bool):
        raise CommandError(field, f"must be true or false, not {_kind(value)}")
    return value


def decimal(field: str, value: Any) -> str:
    """Return ``value`` as decimal text. Raises CommandError."""
    if isinstance(value, float):
        raise CommandError(field, "must be decimal text: a binary float has lost its digits")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CommandError(field, f"must be a decimal number, not {_kind(value)}")
    try:
        return decimal_text(value)
    except ValueError as error:
        raise CommandError(field, str(error)) from None


def time(field: str, value: Any) -> str:
    """Return ``value`` as RFC 3339 in UTC. Raises CommandError."""
    try:
        return rfc3339(text(field, value))
    except ValueError as error:
        raise CommandError(field, str(error)) from None


def choice(field: str, value: Any, values: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``values``. Raises CommandError, whose message lists them."""
    if (found := text(field, value)) not in (known := list(values)):
        raise CommandError(field, f"must be one of {', '.join(known)}, not {shown(found)}")
    return found


def free_object(field: str, value: Any) -> dict[str, Any]:
    """Return the provider's own members as they are; numbers keep their digits. Raises CommandError."""
    if not isinstance(value, dict):
        raise CommandError(field, f"must be an object, not {_kind(value)}")
    left = [MAX_VALUES]
    return {_own_name(field, name): _own(f"{field}.{shown(name)}", each, 1, left) for name, each in value.items()}


def _own(field: str, value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise CommandError(field, f"more than {MAX_DEPTH} levels or {MAX_VALUES} values")
    match value:
        case dict():
            return {
                _own_name(field, name): _own(f"{field}.{shown(name)}", each, depth + 1, left)
                for name, each in value.items()
            }
        case list():
            return [_own(f"{field}[{n}]", each, depth + 1, left) for n, each in enumerate(value)]
        case Digits() | float():
            return msgspec.Raw(decimal(field, value).encode())
        case bool() | None | msgspec.Raw():
            return value
        case int():
            return msgspec.Raw(decimal(field, value).encode()) if value.bit_length() > 63 else value
        case str():
            return _own_name(field, value)
    raise CommandError(field, f"must be a value of JSON, not {_kind(value)}")


def _own_name(field: str, value: Any) -> str:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise CommandError(field, "must be text that can be written as UTF-8") from None
    return str(value)


_KINDS = (
    (bool, "true or false"), (Digits, "a number"), (str, "text"), (int, "a number"), (float, "a number"),
    (dict, "an object"), (list, "a list"), (type(None), "null"),
)  # fmt: skip


def _kind(value: Any) -> str:
    return next((name for cls, name in _KINDS if isinstance(value, cls)), type(value).__name__)


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
    """Return the documented name of an attribute's type, and the function that reads its value."""
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
    """Return the command in ``wire``, an object as returned by `read`.

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
    for name in ("quantity", "notional", "trailing_distance"):
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
            OrderHistory(since=str() as since, until=str() as until)
            | PositionHistory(since=str() as since, until=str() as until)
            | TradeHistory(since=str() as since, until=str() as until)
        ) if to_ns(since) > to_ns(until):
            raise CommandError("since", f"{since} is after until, {until}")


def _check_order(order: PlaceOrder) -> None:
    if order.quantity is None and order.notional is None:
        raise CommandError("quantity", "is missing; place_order needs it, or a notional in its place")
    if order.quantity is not None and order.notional is not None:
        raise CommandError("notional", "an order with a quantity has none")
    if order.trailing_type is not None and order.trailing_distance is None:
        raise CommandError("trailing_type", "goes with a trailing_distance")
    needed, excluded = _PRICES[order.order_type]
    for name in needed:
        if getattr(order, name) is None:
            raise CommandError(name, f"is missing; a {order.order_type} order needs it")
    for name in excluded:
        if getattr(order, name) is not None:
            raise CommandError(name, f"a {order.order_type} order has none")
    if (order.time_in_force is TimeInForce.GTD) != (order.good_till is not None):
        raise CommandError("good_till", "goes with time_in_force GTD, and GTD with it")
