"""The values in a command's JSON, each read strictly: what it is not, it is refused as, by the name of its field.

Numbers keep their digits: `read` gives those with a point or an exponent as `Digits`, which no text member takes for text.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from relay.model.decimals import decimal_text
from relay.model.times import rfc3339

MAX_TEXT = 256
"""Characters of one text."""
MAX_DEPTH, MAX_VALUES = 16, 1000
"""Levels and values of ``extra`` or ``arguments``."""

_name = re.compile(r"[!-~]{1,128}").fullmatch


class CommandError(ValueError):
    """What stands under ``field`` is no command; the text says why."""

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
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CommandError(shown(twice), "occurs twice")
    return value


def shown(name: str) -> str:
    """A name somebody sent, safe to repeat to them."""
    return name if _name(name) else ascii(name)[:MAX_TEXT]


# --- values ----------------------------------------------------------------------------------------------------------


def text(field: str, value: Any) -> str:
    """``value`` where it is text of 1 to `MAX_TEXT` printable characters. Raises CommandError."""
    if type(value) is not str:
        raise CommandError(field, f"must be text, not {_kind(value)}")
    if not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise CommandError(field, f"must be text of 1 to {MAX_TEXT} printable characters")
    return value


def name_text(field: str, value: Any) -> str:
    """``value`` where it can name a request: 1 to 128 visible ASCII characters. Raises CommandError."""
    if not _name(text(field, value)):
        raise CommandError(field, "must be 1 to 128 visible ASCII characters, no space among them")
    return str(value)


def flag(field: str, value: Any) -> bool:
    """``value`` where it is true or false. Raises CommandError."""
    if not isinstance(value, bool):
        raise CommandError(field, f"must be true or false, not {_kind(value)}")
    return value


def decimal(field: str, value: Any) -> str:
    """``value`` as decimal text. Raises CommandError."""
    if isinstance(value, float):
        raise CommandError(field, "must be decimal text: a binary float has lost its digits")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CommandError(field, f"must be a decimal number, not {_kind(value)}")
    try:
        return decimal_text(value)
    except ValueError as error:
        raise CommandError(field, str(error)) from None


def time(field: str, value: Any) -> str:
    """``value`` as RFC 3339 in UTC. Raises CommandError."""
    try:
        return rfc3339(text(field, value))
    except ValueError as error:
        raise CommandError(field, str(error)) from None


def choice(field: str, value: Any, values: Iterable[str]) -> str:
    """``value`` where it is one of ``values``. Raises CommandError with those there are."""
    if (found := text(field, value)) not in (known := list(values)):
        raise CommandError(field, f"must be one of {', '.join(known)}, not {shown(found)}")
    return found


def free_object(field: str, value: Any) -> dict[str, Any]:
    """A provider's own members, passed on as they are; numbers keep their digits. Raises CommandError."""
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
