"""Exact decimals and times as text, never as binary floats.

A price, size or amount stays the text the provider wrote, digit for digit. Only spellings that JSON consumers disagree on
are rewritten: an exponent is written plainly (``1e-7`` -> ``0.0000001``), a bare point gets its zero (``.5`` -> ``0.5``), a
plus sign goes. Trailing zeros stay: ``1.10`` says something about the tick size that ``1.1`` does not.

A time is RFC 3339 text in UTC with exactly the precision of its source: ``2025-01-15T10:30:00.120Z`` stays three digits, a
provider's seven-digit .NET time stays seven. Numbers of seconds, milli-, micro- and nanoseconds become text with 0, 3, 6 and
9 digits. `to_ns` gives the integer nanoseconds since the epoch where arithmetic is needed.

Both are checked once, when they come in, and written out as they are. The same prices and times come again and again, so
those checked recently are looked up instead (`known_decimal`, `known_time`), in 0.05 of the time (`bench/shortcuts.py`).
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache

# --- decimals --------------------------------------------------------------------------------------------------------

#: The longest decimal text accepted. Real quantities need about 40 characters; a longer one is a broken or hostile message.
MAX_DIGITS = 80

_plain = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,39})?").fullmatch

_decimals: dict[str, str] = {}
_DECIMALS_MOST, _DECIMALS_LONGEST = 16_384, 24
#: Plain decimal text that was checked not long ago, as it is; None for everything else. Prices come again and again.
known_decimal = _decimals.get


def decimal_text(value: object) -> str:
    """Return ``value`` (text or int) as plain decimal text, keeping its digits.

    Raises:
        TypeError: a float (its digits are already lost), a bool, or anything that is neither text nor int.
        ValueError: text that is not a finite decimal number, or is longer than `MAX_DIGITS` when written plainly.
    """
    if type(value) is str:
        if not _plain(value):
            return _rewritten(value)
        if len(value) <= _DECIMALS_LONGEST:
            if len(_decimals) >= _DECIMALS_MOST:
                _decimals.clear()
            _decimals[value] = value
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _rewritten(str(value)) if value.bit_length() > 130 else str(value)
    if isinstance(value, str):
        return decimal_text(str(value))
    raise TypeError(f"a decimal is text or int, got {type(value).__name__}")


def optional_decimal(value: object) -> str | None:
    """Return the text of a number as `decimal_text` does, and None (absent) as it is."""
    return None if value is None else decimal_text(value)


def _rewritten(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"not a decimal number: {text[:MAX_DIGITS]!r}") from None
    if not number.is_finite() or "_" in text or text.strip() != text or not text.isascii():
        raise ValueError(f"not a finite decimal number: {text[:MAX_DIGITS]!r}")
    if abs(int(number.as_tuple().exponent)) > MAX_DIGITS or len(text) > 2 * MAX_DIGITS:
        raise ValueError(f"a decimal of more than {MAX_DIGITS} digits: {text[:MAX_DIGITS]!r}")
    plain = format(number, "f")
    if len(plain) > MAX_DIGITS:
        raise ValueError(f"a decimal of more than {MAX_DIGITS} digits: {text[:MAX_DIGITS]!r}")
    return plain


# --- times -----------------------------------------------------------------------------------------------------------

_rfc3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|z|[+-]\d\d:\d\d)", re.ASCII).fullmatch
_seconds = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII).fullmatch
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second RFC 3339 can write

_TIMES_MOST = 4096
_times: dict[str, str] = {}
#: A time that was checked or made not long ago, as it is written here; None for everything else.
known_time = _times.get


def _remember(time: str, text: str | None = None) -> str:
    """Return ``time``, a correct one made from ``text`` (by default its own text), which is then not checked again."""
    if len(_times) >= _TIMES_MOST:
        _times.clear()
    _times[text or time] = time
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
    return _times.get(text) or _remember(_utc(text), text)


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


def from_seconds(value: int | str) -> str:
    """Return Unix seconds, an int or decimal text (``"1618678163.309296"``), as RFC 3339 with the text's digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _remember(f"{_second(value)}Z")
    match = _seconds(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a number of seconds: {str(value)[:64]!r}")
    whole, fraction = match.groups()
    return _remember(f"{_second(int(whole))}.{fraction}Z" if fraction else f"{_second(int(whole))}Z")


def from_millis(value: int | str) -> str:
    """Return Unix milliseconds as RFC 3339 with three fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000)
    return _remember(f"{_second(seconds)}.{rest:03d}Z")


def from_micros(value: int | str) -> str:
    """Return Unix microseconds as RFC 3339 with six fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000_000)
    return _remember(f"{_second(seconds)}.{rest:06d}Z")


def from_nanos(value: int | str) -> str:
    """Return Unix nanoseconds as RFC 3339 with nine fraction digits."""
    seconds, rest = divmod(_integer(value), 1_000_000_000)
    return _remember(f"{_second(seconds)}.{rest:09d}Z")


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
