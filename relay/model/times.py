"""Times as RFC 3339 text in UTC, with exactly the precision their source had.

A time is text on the hot path: it is validated once on the way in and written out as it is. ``2025-01-15T10:30:00.120Z``
stays three digits, a provider's seven-digit .NET time stays seven. Numbers of seconds, milli-, micro- and nanoseconds
become text with 0, 3, 6 and 9 digits. `to_ns` gives the integer nanoseconds since the epoch where arithmetic is needed.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_rfc3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|z|[+-]\d\d:\d\d)", re.ASCII).fullmatch
_seconds = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII).fullmatch
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second RFC 3339 can write

_SEEN_MOST = 4096
_seen: dict[str, str] = {}
#: A time that was checked or made not long ago, as it is written here; None for everything else.
known_time = _seen.get


def _keep(text: str, time: str) -> str:
    if len(_seen) >= _SEEN_MOST:
        _seen.clear()
    _seen[text] = time
    return time


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    if not 0 <= seconds <= _LAST_SECOND:
        raise ValueError(f"time out of range: {seconds} s since the epoch")
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(text: str) -> str:
    """Return RFC 3339 ``text`` of any offset as UTC text, its fraction digits kept.

    Raises:
        ValueError: not RFC 3339, no such date, or no offset (a local time says nothing about when).
    """
    if not isinstance(text, str):
        raise TypeError(f"a time is text, got {type(text).__name__}")
    return _seen.get(text) or _keep(text, _utc(text))


def _utc(text: str) -> str:
    match = _rfc3339(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:64]!r}")
    day, clock, fraction, offset = match.groups()
    if clock.endswith(":60"):
        raise ValueError(f"leap seconds are not supported: {text!r}")
    moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if offset in 'Zz' else offset}")
    if offset in "Zz":
        return f"{day}T{clock}{fraction or ''}Z"
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"time out of range: {text!r}") from None
    return f"{utc.strftime('%Y-%m-%dT%H:%M:%S').zfill(19)}{fraction or ''}Z"


def utc_text(text: str) -> str:
    """Return a time text without an offset that its provider documents as UTC (``T`` or a space between) as RFC 3339."""
    return rfc3339(f"{text}Z")


def from_seconds(value: int | str) -> str:
    """Return Unix seconds, an int or decimal text (``"1618678163.309296"``), as RFC 3339 with the text's digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _made(f"{_second(value)}Z")
    match = _seconds(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a number of seconds: {str(value)[:64]!r}")
    whole, fraction = match.groups()
    return _made(f"{_second(int(whole))}.{fraction}Z" if fraction else f"{_second(int(whole))}Z")


def from_millis(value: int | str) -> str:
    """Return Unix milliseconds as RFC 3339 with three fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000)
    return _made(f"{_second(seconds)}.{rest:03d}Z")


def from_micros(value: int | str) -> str:
    """Return Unix microseconds as RFC 3339 with six fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000_000)
    return _made(f"{_second(seconds)}.{rest:06d}Z")


def from_nanos(value: int | str) -> str:
    """Return Unix nanoseconds as RFC 3339 with nine fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000_000_000)
    return _made(f"{_second(seconds)}.{rest:09d}Z")


def _made(time: str) -> str:
    """Times made here are right as they are: they are not to be checked when an event is made of them."""
    return _keep(time, time)


def to_ns(text: str) -> int:
    """Return the integer nanoseconds since the epoch of RFC 3339 UTC ``text``."""
    day_clock, _, fraction = rfc3339(text)[:-1].partition(".")
    delta = datetime.fromisoformat(f"{day_clock}+00:00") - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") if fraction else 0)


def optional_time(value: str | None) -> str | None:
    """Validate an RFC 3339 time that may be absent (None)."""
    return None if value is None else rfc3339(value)


def _integer(value: int | str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 24:
        return int(value)
    raise ValueError(f"not an integer time: {str(value)[:64]!r}")
