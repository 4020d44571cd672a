"""Messages broken in every way that providers, networks and strangers break them. Deterministic."""

import re
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any

import msgspec
from attrs import frozen

from relay.adapter import loads

_MAX_PATHS = 150
_BIG = 1024 * 1024
_NEST = 100_000
_DEEP = 300
"""A depth that is still read as JSON, and too much for what calls itself a few times per level."""
_OTHERS: tuple[tuple[str, Any], ...] = (
    ("null", None), ("an unknown word", "~unknown~"), ("empty text", ""), ("text NaN", "NaN"), ("text 1e400", "1e400"),
    ("other digits as text", "987654"), ("true", True), ("-1", -1), ("an empty object", {}), ("an empty array", []),
    ("a nested array", [[["x"]]]),
)  # fmt: skip
#: Words that JSON encoders never write, put in after encoding.
_LITERALS = (("the number NaN", "NaN"), ("the number 1e400", "1e400"), ("the number -Infinity", "-Infinity"))
_SWELLING = 3
"""Values of a message that are made huge."""
_LONG = 64 * 1024
"""Longer than any limit on digits or a member. Hundreds of these are read: 1 MiB would take most of a check's time."""
_SWOLLEN = (
    ("64 KiB of text", '"' + "x" * _LONG + '"'),
    ("64 KiB of digits", f'"{"1" * _LONG}"'),
    ("arrays nested deep", "[" * _DEEP + "]" * _DEEP),
    ("objects nested deep", '{"a":' * _DEEP + "1" + "}" * _DEEP),
    ("nested deeper than JSON is read", "[" * _NEST + "]" * _NEST),
)
_MARK = "\u00abmark\u00bb"
_GONE = object()
_MORE = {"~more~": {"price": "1", "side": "BUY"}}
_word = re.compile(rb'"[A-Za-z_ ]{1,40}"').fullmatch

Path = tuple[str | int, ...]


@frozen
class Mutant:
    """A broken message.

    Attributes:
        what: what was done to it, with the path.
        of_word: the only change is to one word, such as a side or a state, that was taken away or became something else.
    """

    text: str
    what: str
    of_word: bool = False


def shape(text: str) -> Hashable:
    """Return the kind of a message: its structure, the types of its values and its short words."""
    try:
        return _shape(loads(text))
    except (msgspec.DecodeError, RecursionError):
        return re.sub(r"[0-9.]+", "0", text)[:200]


def _shape(value: Any) -> Hashable:
    match value:
        case dict():
            return tuple(
                sorted((name, _shape(item)) for name, item in value.items() if isinstance(name, str))
            ).__repr__()
        case list():
            return f"[{','.join(sorted({str(_shape(item)) for item in value}))}]"
        case str():
            return value if value.isalpha() and len(value) < 20 else "text"
    return type(value).__name__


def mutants(text: str) -> Iterator[Mutant]:
    """Yield ``text`` broken in every way; values of JSON first, then the whole frame."""
    try:
        value = loads(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        exact = msgspec.json.decode(text, type=msgspec.Raw)
        yield from _values(_parse(exact))
    yield from _frames(text)


def _parse(raw: msgspec.Raw) -> Any:
    """Return the message with its scalars as raw JSON, so that unchanged numbers keep their digits."""
    head = bytes(raw).lstrip()[:1]
    if head == b"{":
        return {name: _parse(item) for name, item in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()}
    if head == b"[":
        return [_parse(item) for item in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    return raw


def _values(message: Any) -> Iterator[Mutant]:
    for path in islice(_paths(message, ()), _MAX_PATHS):
        where = ".".join(map(str, path)) or "the message"
        if path:
            word = _is_word(_at(message, path))
            yield Mutant(_text(_replaced(message, path, _GONE)), f"without {where}", word)
            for name, other in _OTHERS:
                yield Mutant(_text(_replaced(message, path, other)), f"{where} is {name}", word)
            marked = _text(_replaced(message, path, _MARK))
            for name, literal in _LITERALS:
                yield Mutant(marked.replace(f'"{_MARK}"', literal), f"{where} is {name}", word)
        at = _at(message, path)
        if isinstance(at, dict):
            yield Mutant(_text(_replaced(message, path, {**at, **_MORE})), f"{where} with one more member")
        elif isinstance(at, list):
            yield Mutant(_text(_replaced(message, path, [*at, "~more~"])), f"{where} with one more element")
            yield Mutant(_text(_replaced(message, path, [*at, None])), f"{where} with a null behind")


def _frames(text: str) -> Iterator[Mutant]:
    for cut in sorted({len(text) * part // 8 for part in range(8)} | {max(0, len(text) - 1)}):
        yield Mutant(text[:cut], f"truncated after {cut} characters")
    yield Mutant(text + text, "twice in one frame")
    yield Mutant(f"{text}\x00", "with a NUL behind")
    yield Mutant("\ufeff" + text, "with a byte order mark")


def swollen(text: str, first: int) -> Iterator[Mutant]:
    """Yield ``text`` with one of its values huge, or nested deep; a few of them, from the ``first`` on, round and round."""
    try:
        message = _parse(msgspec.json.decode(text, type=msgspec.Raw))
    except (msgspec.DecodeError, RecursionError):
        return
    paths = list(islice(_paths(message, ()), 1, _MAX_PATHS))
    for nth in range(min(_SWELLING, len(paths))):
        path = paths[(first + nth) % len(paths)]
        where, marked = ".".join(map(str, path)), _text(_replaced(message, path, _MARK))
        for what, value in _SWOLLEN:
            yield Mutant(marked.replace(f'"{_MARK}"', value), f"{where} is {what}")


def strangers() -> Iterator[Mutant]:
    """Yield messages that have nothing to do with any provider."""
    yield Mutant('"' + "x" * _BIG + '"', "1 MiB of text")
    yield Mutant('{"type":"' + "x" * _BIG + '"}', "1 MiB in a member")
    yield Mutant("[" * _NEST, "nested deep and truncated")
    yield Mutant("[" * _NEST + "]" * _NEST, "nested deep")
    yield Mutant('{"a":' * _NEST + "1" + "}" * _NEST, "objects nested deep")
    for whole in ("", "null", "true", "0", "NaN", "1e400", "{}", "[]", '""', "\ud7ff"):
        yield Mutant(whole, f"only {whole!r}")


def _paths(value: Any, path: Path) -> Iterator[Path]:
    """Yield the path of every value; of long arrays only those of the first two elements and the last."""
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, (*path, name))
    elif isinstance(value, list):
        for position in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from _paths(value[position], (*path, position))


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _is_word(value: Any) -> bool:
    return isinstance(value, msgspec.Raw) and _word(bytes(value)) is not None


def _replaced(value: Any, path: Path, by: Any) -> Any:
    """Return a copy with the value at ``path`` replaced, or left out where ``by`` is `_GONE`."""
    if not path:
        return by
    step, rest = path[0], path[1:]
    new = _replaced(value[step], rest, by)
    if isinstance(value, dict):
        return {name: new if name == step else item for name, item in value.items() if name != step or new is not _GONE}
    return [new if n == step else item for n, item in enumerate(value) if n != step or new is not _GONE]


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
