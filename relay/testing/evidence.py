"""Compare events with the message they came from: values without a source in it, and values of it that no event has.

    assert set(lost(subject(Acme, "tests/fixtures/acme.jsonl"))) == {"quote.exchange_sequence"}

`lost` proves that a coverage table is complete. A value is found in an event or signal if that has the same text, a number
with the same digits, or the same time in any form. Flags, null, empty text and zero are not looked for, because they occur
everywhere.
"""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import msgspec

from relay.adapter import Unknown, loads
from relay.adapter.reading import tick_of
from relay.model.events import Candle, Depth, Event, Instrument
from relay.model.text import decimal_text, optional_decimal, optional_time, rfc3339, to_ns
from relay.testing.subject import Subject

_number = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_moment = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d(?:\.\d{1,9})?)\s?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: Numbers of nanoseconds a number of seconds, milli-, micro- or nanoseconds may mean.
_UNITS = (1_000_000_000, 1_000_000, 1_000, 1)
_DECIMAL = (decimal_text, optional_decimal)
_TIME = (rfc3339, optional_time)


class Evidence:
    """The numbers and times of one message, wherever in it they stand, in text as in JSON.

    Attributes:
        text: the message.
        decimals: every number as canonical decimal text, with and without its sign.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.decimals: set[str] = set()
        for number in set(_number.findall(text)):
            try:
                plain = decimal_text(number)
            except ValueError:
                continue
            self.decimals |= {plain, plain.removeprefix("-")}
        self._moments: set[int] | None = None

    @property
    def moments(self) -> set[int]:
        """Every time the message may speak of, as nanoseconds since the epoch."""
        if self._moments is None:
            self._moments = {ns for number in self.decimals for ns in _nanoseconds(number)} | set(_dates(self.text))
        return self._moments

    def unfounded_decimals(self, event: Event) -> Iterator[tuple[str, str]]:
        """Yield (field, text) of decimals that stand nowhere; a depth level that is removed may write its own zero."""
        for name, value in _decimals(event):
            if value in self.decimals or (isinstance(event, Depth) and name.endswith("size") and value == "0"):
                continue
            if isinstance(event, Instrument) and value in self._steps():
                continue
            yield name, value

    def _steps(self) -> set[str]:
        """Return the steps that numbers of digits stand for: ``2`` means ``0.01``."""
        digits = (each for each in self.decimals if len(each) <= 3 and each.removeprefix("-").isdigit())
        return {step for each in digits if (step := tick_of(int(each))) is not None}

    def unfounded_times(self, event: Event) -> Iterator[tuple[str, str]]:
        """Yield (field, text) of times that stand nowhere; a bar's start may be given by its end."""
        for attribute in attrs.fields(type(event)):
            value = getattr(event, attribute.name)
            if attribute.converter not in _TIME or value is None:
                continue
            ns = to_ns(value)
            ends = {ns + _seconds(event) * 1_000_000_000} if isinstance(event, Candle) else set()
            if not {ns, *ends} & self.moments:
                yield attribute.name, value


def fields(event: Event) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every scalar in an event, those in payloads kept whole included."""
    for attribute in attrs.fields(type(event)):
        yield from _scalars(attribute.name, getattr(event, attribute.name))


def enums(event: Event) -> dict[str, enum.Enum]:
    """Return the sides and states of an event."""
    values = {attribute.name: getattr(event, attribute.name) for attribute in attrs.fields(type(event))}
    return {name: value for name, value in values.items() if isinstance(value, enum.Enum)}


def _scalars(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    pending = [(path, value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{path}.{name}", item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(f"{path}[{position}]", item) for position, item in enumerate(value)]
        else:
            yield path, value


def _decimals(event: Event) -> Iterator[tuple[str, str]]:
    for attribute in attrs.fields(type(event)):
        value = getattr(event, attribute.name)
        if attribute.converter in _DECIMAL and value is not None:
            yield attribute.name, value
    if isinstance(event, Depth):
        for side, levels in (("bids", event.bids), ("asks", event.asks)):
            for position, (price, size) in enumerate(levels):
                yield f"{side}[{position}].price", price
                yield f"{side}[{position}].size", size


def _nanoseconds(number: str) -> Iterator[int]:
    whole, _, fraction = number.removeprefix("-").partition(".")
    if len(whole) > 24 or len(fraction) > 9:
        return
    if not fraction.strip("0"):
        yield from (int(whole) * unit for unit in _UNITS)
    for digits in (9, 6, 3):
        if len(fraction) <= digits:
            yield int(whole) * 10**digits + int(fraction.ljust(digits, "0") or "0")


def _dates(text: str) -> Iterator[int]:
    for day, clock, offset in _moment.findall(text):
        if offset and offset != "Z" and ":" not in offset:
            offset = f"{offset[:3]}:{offset[3:]}"
        try:
            yield to_ns(f"{day}T{clock or '00:00:00'}{offset or 'Z'}")
        except ValueError:
            continue


def _seconds(candle: Candle) -> int:
    """Return the seconds of a bar; 0 for one of months, which differ in length."""
    return int(candle.timeframe[:-1]) * _SECONDS[candle.timeframe[-1]] if candle.timeframe[-2:] != "mo" else 0


#: Members that say what kind of message it is.
_KIND = ("type", "event")


def lost(of: Subject) -> dict[str, Any]:
    """Return the paths of values that no event contains, each with an example.

    A place is the kind of message and the path in it, objects of an array together: ``portfolio.orders[].id``.
    JSON within a text (the ``data`` of a Pusher message) is looked into.
    """
    found = LostValues()
    for example, _, result in of.walk():
        found.add(example.text, result.items)
    return found.places


class LostValues:
    """Collects the values of messages that nothing they were read as contains.

    Args:
        most: messages of one kind that are looked at; None: all.

    Attributes:
        places: an example by its place; see `lost`.
    """

    def __init__(self, most: int | None = None) -> None:
        self.places: dict[str, Any] = {}
        self._most = most
        self._seen: Counter[str] = Counter()

    def add(self, text: str, items: Iterable[Any]) -> None:
        """Look for the values of a message in the events and signals that were made of it."""
        try:
            message = loads(text)
        except (msgspec.DecodeError, RecursionError):
            return
        kind = _kind(message)
        self._seen[kind] += 1
        if self._most is not None and self._seen[kind] > self._most:
            return
        said = repr([item for item in items if not isinstance(item, Unknown)])
        evidence = Evidence(said)
        for place, value in _values(message, kind):
            if place not in self.places and not _is_kept(value, said, evidence):
                self.places[place] = value


def _kind(message: Any) -> str:
    if isinstance(message, dict):
        return next((message[name] for name in _KIND if isinstance(message.get(name), str)), "")
    return message[0] if isinstance(message, list) and message and isinstance(message[0], str) else ""


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield every text and number with its place; of an array of scalars, its elements' positions."""
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
