"""Convert parsed TOML to attrs classes with cattrs, strictly, and report every problem with its path.

Rules:

- types are exact: no text for a number, no number for a flag; an integer may stand for a decimal number;
- an unknown key is an error that names the nearest valid key;
- wrong values are cut out and the rest is read again, so that one wrong key never hides the others. `Reading.spoiled`
  returns True if a value is missing only because it was cut out.
"""

import contextlib
import copy
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

import attrs
from cattrs import Converter
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from relay.errors import Path, nearest, one_line, path_text, suggestion
from relay.settings.tables import SecretRef

T = TypeVar("T")


@attrs.frozen
class Problem:
    """One mistake in the configuration, with its path."""

    path: Path
    message: str

    def __str__(self) -> str:
        message = one_line(self.message)
        return f"{path_text(self.path)}: {message}" if self.path else message


@attrs.frozen
class Reading(Generic[T]):
    """The readable part of a document, its problems, and the paths of the values that were cut out."""

    value: T
    problems: list[Problem]
    cut: frozenset[Path]

    def spoiled(self, *path: str | int) -> bool:
        """Return True if the value at ``path``, a part of it or a table around it was cut out."""
        return any(all(a == b for a, b in zip(path, cut, strict=False)) for cut in self.cut)


def structure(raw: Mapping[str, Any], cls: type[T], at: Path = (), *, negative: bool = False) -> Reading[T | None]:
    """Read ``raw`` as ``cls``. The value is None if even the correct parts do not make one.

    Paths of the problems start with ``at``. Unless ``negative``, numbers must not be negative.
    """
    converter = _signed if negative else _unsigned
    try:
        return Reading(converter.structure(raw, cls), [], frozenset())
    except ClassValidationError as error:
        found = list(_walk(error, ()))
    except ValueError as error:
        return Reading(None, [Problem(at, str(error))], frozenset({()}))
    problems = [Problem((*at, *path), message) for path, message, _ in found]
    cut = frozenset(path for _, _, spoiled in found for path in spoiled)
    if () in cut:
        return Reading(None, problems, cut)
    rest = copy.deepcopy(raw)
    for path in sorted((path for path, _, _ in found), key=_order, reverse=True):
        _remove(rest, path)
    try:
        return Reading(converter.structure(rest, cls), problems, cut)
    except ClassValidationError:
        return Reading(None, problems, cut | {()})


def _order(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple((part, "") if isinstance(part, int) else (0, part) for part in path)


def _remove(document: Any, path: Path) -> None:
    last: Any = path[-1]
    for part in path[:-1]:
        document = document[part]
    if isinstance(document, list) or last in document:
        del document[last]


# --- cattrs' errors, as problems -------------------------------------------------------------------------------------

_Found = tuple[Path, str, tuple[Path, ...]]


def _walk(error: Exception, path: Path) -> typing.Iterator[_Found]:
    """Yield (path, message, paths that are without their value because of it)."""
    match error:
        case ClassValidationError():
            of_fields, others = error.group_exceptions()
            for inner, field_note in of_fields:
                yield from _walk(inner, (*path, field_note.name))
            for inner in others:
                yield from _walk(inner, path)
        case IterableValidationError():
            of_items, others = error.group_exceptions()
            for inner, item_note in of_items:
                yield from _walk(inner, (*path, item_note.index))
            for inner in others:
                yield from _walk(inner, path)
        case ForbiddenExtraKeysError():
            known = [attribute.name for attribute in attrs.fields(error.cl) if attribute.init]
            for name in sorted(error.extra_fields):
                near = nearest(name, known)
                spoiled = ((*path, name),) if near is None else ((*path, name), (*path, near))
                yield (*path, name), f"unknown key; {suggestion(name, known)}", spoiled
        case KeyError():
            yield path, "missing", (path,)
        case _:
            yield path, _message(error, str(path[-1]) if path else ""), (path,)


def _message(error: Exception, name: str) -> str:
    """Return the text of an error without the name and the other arguments that validators of attrs add."""
    text = str(error.args[0]) if error.args else str(error)
    return text.removeprefix(f"'{name}' ")


# --- the strict converter --------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """Describe a value of the wrong type for an error message, without its text: it may be a misplaced secret."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
    return type(value).__name__


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {_shown(value)}")
    return value


def _flag(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def _scalar(value: Any, _: Any) -> str | int | bool:
    if not isinstance(value, str | int):
        raise ValueError(f"must be text, an integer, true or false, not {_shown(value)}")
    return value


def _text_or_integer(value: Any, _: Any) -> str | int | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must be text or an integer, not {_shown(value)}")
    return value


def _integer(least: float) -> Callable[[Any, Any], int]:
    def read(value: Any, _: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be an integer, not {_shown(value)}")
        if value < least:
            raise ValueError(f"must not be negative: {value}")
        return value

    return read


def _number(least: float) -> Callable[[Any, Any], float]:
    def read(value: Any, _: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number, not {_shown(value)}")
        if not math.isfinite(value):
            raise ValueError(f"must be a finite number, not {value}")
        if value < least:
            raise ValueError(f"must not be negative: {value}")
        return value

    return read


def _literal(value: Any, cls: Any) -> Any:
    allowed = typing.get_args(cls)
    if value not in allowed:
        near = suggestion(value, map(str, allowed)) if isinstance(value, str) else ""
        listed = " or ".join(map(str, allowed)) if len(allowed) < 3 else ", ".join(map(str, allowed))
        raise ValueError(f"must be {listed}" + (f"; {near}" if near.startswith("did") else ""))
    return value


def _is_literal(cls: Any) -> bool:
    return typing.get_origin(cls) is Literal


def _is_list(cls: Any) -> bool:
    return typing.get_origin(cls) in (list, tuple)


def _is_table(cls: Any) -> bool:
    return (typing.get_origin(cls) or cls) in (dict, Mapping)


def _list_hook(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    origin = typing.get_origin(cls)
    items: Any = types.GenericAlias(list, typing.get_args(cls)[:1])
    hook = list_structure_factory(items, converter)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {_shown(value)}")
        return origin(hook(value, cls))

    return read


def _table_hook(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    entries: Any = types.GenericAlias(dict, typing.get_args(cls) or (str, Any))
    hook: Callable[[Any, Any], Any] = mapping_structure_factory(entries, converter)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"must be a table of names, like [providers.NAME], not {_shown(value)}")
        return hook(value, cls)

    return read


def _class_hook(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    attrs.resolve_types(cls)
    fields: dict[str, Any] = {
        a.name: override(struct_hook=_field_hook(cls, a, converter)) for a in attrs.fields(cls) if a.init
    }
    hook = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **fields)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"must be a table, not {_shown(value)}")
        return hook(value, cls)

    return read


def _field_hook(cls: Any, attribute: "attrs.Attribute[Any]", converter: Converter) -> Callable[[Any, Any], Any]:
    """Read a field and run its validator at once: the class's own constructor would stop at the first one that fails."""
    kind, validator = attribute.type or Any, attribute.validator
    if validator is None:
        return lambda value, _: converter.structure(value, kind)

    def read(value: Any, _: Any) -> Any:
        result = converter.structure(value, kind)
        with contextlib.suppress(AttributeError):  # it looks at other fields: the constructor runs it again, with them
            validator(cls.__new__(cls), attribute, result)
        return result

    return read


def _strict(least: float) -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_is_table, _table_hook)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _flag)
    converter.register_structure_hook(int, _integer(least))
    converter.register_structure_hook(float, _number(least))
    converter.register_structure_hook_func(lambda cls: cls == str | int | bool, _scalar)
    converter.register_structure_hook_func(lambda cls: cls == str | int | None, _text_or_integer)
    converter.register_structure_hook_func(lambda cls: cls is SecretRef, lambda value, _: SecretRef.structure(value))
    return converter


_unsigned = _strict(0)
_signed = _strict(-math.inf)
