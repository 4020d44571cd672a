"""Code generated from the declarations of events: fast constructors, and the compiler for `serialize`'s writers.

attrs writes an ``__init__`` that calls the converter of every field, absent ones included, and sets each attribute through
``object.__setattr__``. An event has many optional fields and is made for every message, so here the same constructor is
written once more from the same declaration (`attrs.fields`): None passes the converters that let it pass without a call,
what was seen before is looked up, and slots are set by their descriptors. That makes a quote in 0.79 us instead of 2.11, a
trade in 1.05 instead of 1.88 (CPU time, CPython 3.11; ratios of 0.38 and 0.55, `bench/shortcuts.py`). Without it the
way of a quote from the provider's text to canonical JSON, 4.6 to 6.0 us, would be a quarter longer. `tests/model` holds
the two against each other.
"""

import linecache
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from attrs import NOTHING

from relay.model.text import decimal_text, known_decimal, known_time, optional_decimal, optional_time, rfc3339

Converter = Callable[[Any], Any]

#: Converter -> the expression that does the same to `{0}`, with `{1}` as the converter for what is not plain.
_INLINE: dict[Any, str] = {
    decimal_text: "_known_decimal({0}) or {1}({0})",
    optional_decimal: "None if {0} is None else _known_decimal({0}) or {1}({0})",
    rfc3339: "_known_time({0}) or {1}({0})",
    optional_time: "None if {0} is None else _known_time({0}) or {1}({0})",
}
_TEXT = "{0} if type({0}) is str and {0} else {1}({0})"


def compile_function(name: str, header: str, lines: Iterable[str], names: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of ``header`` and ``lines``. Tracebacks show its source, as they do of what attrs generates."""
    source = f"{header}\n" + "".join(f"    {line}\n" for line in lines)
    filename = f"<tickrelay generated {name}>"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    exec(compile(source, filename, "exec"), names)
    made: Callable[..., Any] = names[header.removeprefix("def ").partition("(")[0]]
    made.__qualname__ = name
    return made


def quick_init(cls: type, text: frozenset[Converter], none_stays: frozenset[Converter]) -> Callable[..., None]:
    """Return an ``__init__`` for a keyword-only attrs class with slots that does what attrs' own does.

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
    return compile_function(
        f"{cls.__name__}.__init__", f"def __init__(self, *, {', '.join(parameters)}):", lines, names
    )


def _converted(name: str, converter: Any, text: frozenset[Converter], none_stays: frozenset[Converter]) -> str:
    if converter is None:
        return name
    call = f"_convert_{name}"
    if converter in _INLINE:
        return _INLINE[converter].format(name, call)
    checked = _TEXT.format(name, call) if converter in text else f"{call}({name})"
    return f"None if {name} is None else {checked}" if converter in none_stays else checked
