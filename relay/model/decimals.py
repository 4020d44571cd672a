"""Exact decimals as text.

A price, size or amount is kept as the text the provider wrote, digit for digit, and never passes through a binary
float. Only spellings that JSON consumers disagree on are rewritten: an exponent is written plainly (``1e-7`` ->
``0.0000001``), a bare point gets its zero (``.5`` -> ``0.5``), a plus sign goes. Trailing zeros stay: ``1.10`` says
something about the tick size that ``1.1`` does not.
"""

import re
from decimal import Decimal, InvalidOperation

#: The longest decimal text accepted. Real quantities need about 40 characters; a longer one is a broken or hostile message.
MAX_DIGITS = 80

_plain = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,39})?").fullmatch

_seen: dict[str, str] = {}
_SEEN_MOST, _SEEN_LONGEST = 16_384, 24
#: Plain decimal text that was checked not long ago, as it is; None for everything else. Prices come again and again.
known_decimal = _seen.get


def decimal_text(value: object) -> str:
    """Return ``value`` (text or int) as plain decimal text, keeping its digits.

    Raises:
        TypeError: a float (its digits are already lost), a bool, or anything that is neither text nor int.
        ValueError: text that is not a finite decimal number, or is longer than `MAX_DIGITS` when written plainly.
    """
    if type(value) is str:
        if not _plain(value):
            return _rewritten(value)
        if len(value) <= _SEEN_LONGEST:
            if len(_seen) >= _SEEN_MOST:
                _seen.clear()
            _seen[value] = value
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _rewritten(str(value)) if value.bit_length() > 130 else str(value)
    if isinstance(value, str):
        return decimal_text(str(value))
    raise TypeError(f"a decimal is text or int, got {type(value).__name__}")


def optional_decimal(value: object) -> str | None:
    """Like `decimal_text`, with None (absent) left as it is."""
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
