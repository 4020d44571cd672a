"""JSON Schemas of the events, in the form they have on the wire.

They are built from the event classes, so they cannot drift from them: what a field's converter demands (decimal text, a
time, a timeframe) becomes its pattern or format, an enum its choices, a default of None an optional member. Members that a
later version adds are allowed.
"""

import enum
import inspect
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from relay.model.decimals import decimal_text, optional_decimal
from relay.model.events import KINDS, Account, Candle, Event, Quote
from relay.model.times import optional_time, rfc3339

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DECIMAL: Schema = {
    "type": "string",
    "pattern": r"^-?[0-9]+(\.[0-9]+)?$",
    "description": "Decimal, the provider's digits.",
}
_TIME: Schema = {"type": "string", "format": "date-time"}
_BY_CONVERTER: Mapping[object, Schema] = {
    decimal_text: _DECIMAL,
    optional_decimal: _DECIMAL,
    rfc3339: _TIME,
    optional_time: _TIME,
}
_BY_TYPE: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    Any: {},
}
#: Kinds whose body repeats the provider's name.
_NAMES_PROVIDER = (Quote, Candle)


def event_schema(kind: str) -> Schema:
    """The JSON Schema of one kind of event. KeyError for a kind there is not."""
    cls = KINDS[kind]
    hints = get_type_hints(cls)
    inner, outer = _Members(), _Members()
    outer.add("type", {"const": kind}, required=True)
    for attribute in attrs.fields(cls):
        target = inner if cls.body is not None and not _is_outside(cls, attribute.name) else outer
        name = cls.renamed.get(attribute.name, attribute.name)
        target.add(name, _field_schema(attribute, hints[attribute.name]), required=_always_written(attribute))
    if cls.body is not None:
        if cls in _NAMES_PROVIDER:
            inner.add("provider", {"type": "string"}, required=True)
        outer.add(cls.body, inner.schema(), required=True)
    _add_stamp(cls, outer)
    return {"$schema": DIALECT, "title": kind, "description": inspect.getdoc(cls) or "", **outer.schema()}


class _Members:
    """The members of one JSON object."""

    def __init__(self) -> None:
        self._properties: Schema = {}
        self._required: list[str] = []

    def add(self, name: str, schema: Schema, *, required: bool) -> None:
        self._properties[name] = schema
        if required:
            self._required.append(name)

    def schema(self) -> Schema:
        return {"type": "object", "properties": self._properties, "required": self._required}


def _add_stamp(cls: type[Event], members: _Members) -> None:
    members.add("provider", {"type": "string", "description": "Configured name of the provider."}, required=True)
    if cls is not Account:
        members.add("account", {"type": "string", "description": "Configured name of the account."}, required=False)
    members.add(
        "id", {"type": "string", "description": "Id of the event, unique in one run of the relay."}, required=True
    )
    members.add("received_at", {**_TIME, "description": "When the relay read it from its socket."}, required=True)
    members.add("seq", {"type": "integer", "description": "Number of the event on its channel."}, required=False)


def _is_outside(cls: type[Event], attribute: str) -> bool:
    return attribute in cls.outside and attribute not in cls.renamed


def _always_written(attribute: "attrs.Attribute[Any]") -> bool:
    return attribute.default is not None and not isinstance(attribute.default, attrs.Factory)  # type: ignore[arg-type]


def _field_schema(attribute: "attrs.Attribute[Any]", hint: Any) -> Schema:
    if attribute.converter in _BY_CONVERTER:
        return _BY_CONVERTER[attribute.converter]
    return _type_schema(hint)


def _type_schema(hint: Any) -> Schema:
    if hint in _BY_TYPE:
        return _BY_TYPE[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inside,) = [argument for argument in arguments if argument is not types.NoneType]
        return _type_schema(inside)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _type_schema(arguments[0])}
    if origin is tuple:  # a level: price and size
        return {"type": "array", "items": _DECIMAL, "minItems": len(arguments), "maxItems": len(arguments)}
    raise TypeError(f"no JSON Schema for {hint!r}")
