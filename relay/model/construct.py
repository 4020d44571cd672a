"""The constructors of events, written for speed: the same checks as the declarations say, fewer calls.

attrs writes an ``__init__`` that calls the converter of every field, absent ones included, and sets each attribute through
``object.__setattr__``. An event has many optional fields and is made for every message, so here the same constructor is
written once more from the same declaration (`attrs.fields`): None passes the converters that let it pass without a call,
what was seen before is looked up, and slots are set by their descriptors. `tests/model` holds the two against each other.
"""

from collections.abc import Callable
from typing import Any

import attrs
from attrs import NOTHING

from relay.model.decimals import decimal_text, known_decimal, optional_decimal
from relay.model.times import known_time, optional_time, rfc3339

Converter = Callable[[Any], Any]

#: Converter -> the expression that does what it does to `{0}`, with `{1}` as the converter for what is not plain.
_INLINE: dict[Any, str] = {
    decimal_text: "_known_decimal({0}) or {1}({0})",
    optional_decimal: "None if {0} is None else _known_decimal({0}) or {1}({0})",
    rfc3339: "_known_time({0}) or {1}({0})",
    optional_time: "None if {0} is None else _known_time({0}) or {1}({0})",
}
_TEXT = "{0} if type({0}) is str and {0} else {1}({0})"


def quick_init(cls: type, text: frozenset[Converter], none_stays: frozenset[Converter]) -> Callable[..., None]:
    """An ``__init__`` for a keyword-only attrs class with slots that does what attrs' own does.

    Args:
        text: the converters that let non-empty text pass as it is.
        none_stays: the converters that let None pass.
    """
    names: dict[str, Any] = {"_known_decimal": known_decimal, "_known_time": known_time, "_NOTHING": NOTHING}
    parameters, lines = [], []
    for field in attrs.fields(cls):
        name, converter = field.alias or field.name, field.converter
        names |= {f"_set_{name}": getattr(cls, field.name).__set__, f"_convert_{name}": converter}
        parameters.append(name if field.default is NOTHING else f"{name}=_default_{name}")
        if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
            names |= {f"_default_{name}": NOTHING, f"_make_{name}": field.default.factory}
            made = f"_make_{name}({'self' if field.default.takes_self else ''})"
            lines += [f"if {name} is _NOTHING:", f"    {name} = {made}"]
        elif field.default is not NOTHING:
            names[f"_default_{name}"] = field.default
        lines.append(f"_set_{name}(self, {_converted(name, converter, text, none_stays)})")
    source = f"def __init__(self, *, {', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(compile(source, f"<constructor of {cls.__name__}>", "exec"), names)
    made_init: Callable[..., None] = names["__init__"]
    made_init.__qualname__ = f"{cls.__name__}.__init__"
    return made_init


def _converted(name: str, converter: Any, text: frozenset[Converter], none_stays: frozenset[Converter]) -> str:
    if converter is None:
        return name
    call = f"_convert_{name}"
    if converter in _INLINE:
        return _INLINE[converter].format(name, call)
    checked = _TEXT.format(name, call) if converter in text else f"{call}({name})"
    return f"None if {name} is None else {checked}" if converter in none_stays else checked
