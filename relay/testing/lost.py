"""Find the values of a provider's messages that no event contains: the proof that a coverage table is complete.

    assert set(lost(subject(Acme, "tests/fixtures/acme.jsonl"))) == {"quote.exchange_sequence"}

A value is kept when an event or signal of its message has it: a text as it is, a number with the same digits, a time in
whatever form. Flags, null, empty text and zero are not looked for, because they stand everywhere.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from relay.adapter import Unknown, loads
from relay.testing.evidence import Evidence
from relay.testing.subject import Subject

#: Members that say what kind of message it is.
_KIND = ("type", "event")


def lost(of: Subject) -> dict[str, Any]:
    """Return the paths of values that no event contains, each with an example.

    A place is the kind of message and the path in it, objects of an array together: ``portfolio.orders[].id``.
    JSON within a text (the ``data`` of a Pusher message) is looked into.
    """
    found: dict[str, Any] = {}
    for example, _, result in of.walk():
        try:
            message = loads(example.text)
        except (msgspec.DecodeError, RecursionError):
            continue
        said = repr([item for item in result.items if not isinstance(item, Unknown)])
        evidence = Evidence(said)
        for place, value in _values(message, _kind(message)):
            if place not in found and not _is_kept(value, said, evidence):
                found[place] = value
    return found


def _kind(message: Any) -> str:
    if isinstance(message, dict):
        return next((message[name] for name in _KIND if isinstance(message.get(name), str)), "")
    return message[0] if isinstance(message, list) and message and isinstance(message[0], str) else ""


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every text and number with its place; of an array of scalars, its elements' positions."""
    match value:
        case dict():
            for name, item in value.items():
                yield from _values(item, f"{place}.{name}")
        case list():
            for position, item in enumerate(value):
                yield from _values(item, f"{place}[{'' if isinstance(item, dict) else position}]")
        case str() if value[:1] in ("{", "["):
            try:
                yield from _values(loads(value), place)
            except (msgspec.DecodeError, RecursionError):
                yield place, value
        case bool():
            return
        case str() | int():
            yield place, value


def _is_kept(value: str | int, said: str, evidence: Evidence) -> bool:
    text = str(value)
    if not text.strip("-0.") or text in said:
        return True
    mine = Evidence(text)
    return bool(mine.decimals & evidence.decimals or mine.moments & evidence.moments)
