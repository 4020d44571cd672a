"""Readers of a provider's JSON: tolerant of missing members, strict about types, exact about digits.

``null`` is the same as absent. A value of another type than expected raises `KeyError`, `TypeError` or `ValueError` and
names the member; `each` turns that into one `Unknown` for one element. No number ever becomes a float.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from heapq import heappush, heappushpop
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from attrs import fields

from relay.adapter.messages import Answer, CommandReply, Unknown
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    PlaceOrder,
)
from relay.model.enums import ErrorCode, TradingStatus
from relay.model.text import from_millis, from_seconds, optional_decimal

Members = dict[str, Any]
_T = TypeVar("_T")
_W = TypeVar("_W")

#: Decode a provider's JSON with every number that has a point or an exponent kept as its text. Integers stay ints.
loads: Callable[[str | bytes], Any] = msgspec.json.Decoder(float_hook=str).decode


def dumps(value: object) -> str:
    """Encode a frame as compact JSON text."""
    return msgspec.json.encode(value).decode()


# --- objects and their members ---------------------------------------------------------------------------------------


def members(raw: Any) -> Members:
    """Return the members of an object without those that are null. Raises TypeError if it is not an object."""
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, got {raw!r:.64}")
    return {name: value for name, value in raw.items() if value is not None}


def named(names: Iterable[str], values: Iterable[Any]) -> Members:
    """Return the elements of an array by name; more elements than names are left out.

    Raises:
        TypeError: the values are text, which would be taken for an array of characters.
        ValueError: there are fewer elements than names.
    """
    if isinstance(values, str):
        raise TypeError(f"expected an array, got {values!r:.64}")
    names, values = tuple(names), tuple(values)
    if len(values) < len(names):
        raise ValueError(f"expected {len(names)} elements, got {len(values)}")
    return dict(zip(names, values, strict=False))


def row(values: Any, count: int) -> list[Any]:
    """Return an array after checking that it is one (and not text) with ``count`` elements."""
    if not isinstance(values, list) or len(values) != count:
        raise TypeError(f"expected an array of {count}, got {values!r:.64}")
    return values


def first(given: Mapping[str, Any], *names: str) -> Any:
    """Return the first of these members that is present; None if there is none."""
    return next((given[name] for name in names if given.get(name) is not None), None)


def quoted(price: Any, size: Any) -> tuple[Any, Any]:
    """Return price and size of one side of a quote; None for both if they are zero, which means that the side is empty."""
    return (None, None) if _has_only(price, "0.") and _has_only(size, "0.") else (price, size)


def _has_only(value: object, characters: str) -> bool:
    """Return whether text, or a whole number as text, has no other characters than these."""
    if isinstance(value, str):
        return not value.strip(characters)
    return isinstance(value, int) and not str(value).strip(characters)


def is_throttled(reason: str) -> bool:
    """Return True if the reason of a refusal is a rate limit, so that the request may be repeated later."""
    return _throttled(reason) is not None


_throttled = re.compile(
    r"rate.?limit|msg rate|too.many.(request|message|visit|call)s?\b|request(s|ed)? (is |are )?too (frequent|fast|many)"
    r"|max permits per|throttl",
    re.IGNORECASE,
).search


def take(given: Members, *names: str) -> Any:
    """Remove and return the first of these members that is present; None if there is none.

    The members that are left after all known ones were taken become the event's ``data``.
    """
    return next((given.pop(name) for name in names if name in given), None)


def besides(given: Mapping[str, Any], *names: str) -> Members | None:
    """Return the members that are not among ``names``, for an event's ``data``; None when there are none."""
    rest = dict(given)
    for name in names:
        rest.pop(name, None)  # cheaper than looking up each member in the tuple
    return rest or None


def text(given: Mapping[str, Any], name: str) -> str:
    """Return a member that must be text and not empty."""
    value = given[name]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name}: expected text, got {value!r:.64}")
    return value


def whole(value: object) -> int:
    """Return a whole number. Raises TypeError for anything else, true and false among it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, got {value!r:.64}")
    return value


def present(**given: Any) -> Members:
    """Return the members that are not None, for a frame or a body."""
    return {name: value for name, value in given.items() if value is not None}


def written(command: Command, names: Mapping[str, str]) -> Members:
    """Return members of a command under the provider's names, for a frame or body; members that are None are left out.

    ``names`` has the command's own name by the provider's. Decimals are JSON numbers of the same digits.
    """
    given = {name: getattr(command, own) for name, own in names.items()}
    return {
        name: json_number(value) if names[name] in _DECIMALS else value
        for name, value in given.items()
        if value is not None
    }


#: Members of commands that are decimals.
_DECIMALS = frozenset(
    each.name
    for kind in (PlaceOrder, AmendOrder, AmendPosition, ClosePosition)
    for each in fields(kind)
    if each.converter is optional_decimal
)


def agrees(found: object, asked: object, *names: str) -> bool:
    """Return True if a state has the requested values of these members. Decimals are compared as numbers."""
    return all(_is_same(getattr(found, name), getattr(asked, name), is_decimal=name in _DECIMALS) for name in names)


def _is_same(found: Any, asked: Any, *, is_decimal: bool) -> bool:
    if is_decimal and found is not None and asked is not None:
        return Decimal(found) == Decimal(asked)
    return found is not None and bool(found == asked)


def word(words: Mapping[str, _W], value: object) -> _W:
    """Translate a word of the provider. Case is ignored; the keys of ``words`` are in upper case.

    Raises:
        TypeError: the value is not text.
        ValueError: the word is not among ``words``.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected a word, got {value!r:.64}")
    try:
        return words[value.upper()]
    except KeyError:
        raise ValueError(f"expected one of {', '.join(words)}, got {value!r:.64}") from None


def code_word(words: Sequence[str], code: object) -> str:
    """Return the word of a numeric code, or the number as text if ``words`` has none."""
    number = whole(code)
    return words[number] if 0 <= number < len(words) else str(number)


# --- numbers ---------------------------------------------------------------------------------------------------------


def is_zero(value: object) -> bool:
    """Return whether a member is empty: null, no text, or a zero of any digits."""
    return value is None or _has_only(value, "-0.")


def unless_zero(value: Any) -> Any:
    """Return a price or time unchanged, or None if it is zero or empty, which means that there is none."""
    return None if is_zero(value) else value


def json_number(decimal: str | None) -> msgspec.Raw | None:
    """Return decimal text as a JSON number of the same digits, for a frame or a body; None for None."""
    return None if decimal is None else msgspec.Raw(format(Decimal(decimal), "f").encode())


#: A time of this many units is milliseconds: as seconds it would be after the year 5100, as milliseconds it is 1973.
_FIRST_MILLISECOND = 100_000_000_000


def unix_time(value: Any) -> str | None:
    """Return a Unix time as RFC 3339; None for zero. Its magnitude decides if it is in seconds or milliseconds.

    For providers that document both.
    """
    if is_zero(value):
        return None
    return from_millis(value) if isinstance(value, int) and value >= _FIRST_MILLISECOND else from_seconds(value)


#: Numbers per name that `is_new` remembers: more than any provider repeats at the start of a subscription.
REMEMBERED = 500
#: By name, the numbers that were seen: as a set, and as a heap.
Numbers = dict[str, tuple[set[int], list[int]]]


def is_new(seen: Numbers, name: str, number: int) -> bool:
    """Remember ``number`` of ``name``; return True if it was not seen before. Numbers may arrive in any order.

    For a stream that starts with recent trades: after a reconnect, trades that were published are recognized, while those of
    the outage and late ones are new. Keep ``seen`` in `Context.kept`.

    Raises:
        ValueError: the number is lower than all remembered ones, so that it is not known if it was seen. `each` turns this
            into one `Unknown`.
    """
    numbers, heap = seen.setdefault(name, (set(), []))
    if whole(number) in numbers:
        return False
    if len(heap) < REMEMBERED:
        heappush(heap, number)
    elif number < heap[0]:
        raise ValueError(f"{name}: {number} is older than the last {REMEMBERED} numbers")
    else:
        numbers.discard(heappushpop(heap, number))
    numbers.add(number)
    return True


# --- lists -----------------------------------------------------------------------------------------------------------


def each(raws: Iterable[Any], read: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield the results of ``read`` for all elements; an element that cannot be read becomes one `Unknown`.

    ``read`` returns an event, None for nothing, or an iterator of events and signals.
    """
    for raw in raws:
        try:
            found = read(raw)
            items = [found] if not isinstance(found, Iterator) else list(found)
        except (KeyError, TypeError, ValueError) as error:
            yield Unknown(raw, f"{type(error).__name__}: {error}")
        else:
            yield from (item for item in items if item is not None)


def instruments(raws: Iterable[Any], read: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield the instrument that ``read`` makes of every element of a provider's metadata.

    One that cannot be read is one `Unknown` that a connection can do without: its symbol is known all the same.
    """
    for item in each(raws, read):
        yield Unknown(item.raw, item.why, needed=False) if isinstance(item, Unknown) else item


def terms(given: Mapping[str, Any], **names: str) -> Members:
    """Return the numbers of an instrument, as ``tick_size="tickSz"`` names them; zero sets no limit, and is left out."""
    numbers = {member: unless_zero(given.get(name)) for member, name in names.items()}
    return {member: number for member, number in numbers.items() if number is not None}


def tradable(flag: object) -> TradingStatus | None:
    """Return the status that a flag stands for, None where it is neither true nor false."""
    return {True: TradingStatus.TRADING, False: TradingStatus.HALTED}[flag] if isinstance(flag, bool) else None


def tick_of(digits: Any) -> str | None:
    """Return the smallest step of a number with so many digits behind the point: ``2`` is ``0.01``, ``-1`` is ``10``.

    None where the digits are not said. Raises TypeError for anything but a whole number.
    """
    return None if digits is None else format(Decimal(1).scaleb(-whole(digits)), "f")


# --- accounts --------------------------------------------------------------------------------------------------------


def stay_on(account: str, given: Any, where: str, names: Callable[[str], bool], *, spelled: str | None = None) -> None:
    """Refuse a command for one account whose provider-specific members name another one, at any depth of ``given``.

    Args:
        account: the account's name at the provider; if it is empty, no account may be named.
        where: the member of the command that contains ``given``: ``extra`` or ``arguments``.
        names: returns True for a member that may name an account.
        spelled: the only member that may name the account. None: any of them may, also with a list of only this account; an
            array that begins with such a name is then a condition, and refused.

    Raises:
        ValueError: another account is named; the text begins with the member.
    """
    match given:
        case Mapping():
            for name, value in given.items():
                is_own = value == account if spelled is not None else _are_all(value, account)
                if names(name) and not (is_own and account and spelled in (None, name)):
                    written = f", which is written {spelled}" if spelled is not None else ""
                    raise ValueError(f"{where}.{name}: the command is for account {account}{written}")
                stay_on(account, value, f"{where}.{name}", names, spelled=spelled)
        case [str() as name, *_] if spelled is None and names(name):
            raise ValueError(f"{where}.{name}: the command is for account {account}")
        case list() | tuple():
            for number, value in enumerate(given):
                stay_on(account, value, f"{where}[{number}]", names, spelled=spelled)


def _are_all(value: Any, text: str) -> bool:
    """Return whether a value, or each of a list, is written like ``text``."""
    if isinstance(value, list | tuple):
        return all(_are_all(item, text) for item in value)
    return (
        not isinstance(value, bool)
        and (bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)) == text
    )


# --- requests and their answers --------------------------------------------------------------------------------------


def segment(name: str) -> str:
    """Return text as one segment of a URL's path: ``EUR/USD`` is ``EUR%2FUSD``.

    Raises:
        ValueError: the segment is empty or dots, so that the URL would be another one: ``/orders/`` instead of one order.
    """
    if name in ("", ".", ".."):
        raise ValueError(f"not an id or symbol: {name!r}")
    return quote(name, safe="")


def jwt_expiry(token: str) -> int | None:
    """Return the ``exp`` of a JWT (RFC 7519) in Unix seconds; None if it has none."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    at = claims.get("exp") if isinstance(claims, dict) else None
    return at if isinstance(at, int) and not isinstance(at, bool) else None


def body(answer: Answer) -> Any:
    """Return the JSON of an answer; None if it is not JSON."""
    try:
        return loads(answer.text)
    except (ValueError, RecursionError):
        return None


_CODES = ("code", "error_code", "errorCode", "error")
_MESSAGES = ("message", "error_message", "errorMessage", "detail", "msg", "reason", "error")


def failure(answer: Answer) -> dict[str, Any]:
    """Return the error of an unsuccessful answer: its members and a ``code``, a ``message`` and the ``status``.

    Code and message are looked up under their usual names, in the answer or in its ``error``. By default they are the status
    and the beginning of the text.
    """
    given = body(answer)
    said = given if isinstance(given, dict) else {}
    inner = said["error"] if isinstance(said.get("error"), dict) else said
    code = next((inner[name] for name in _CODES if isinstance(inner.get(name), str | int)), f"http_{answer.status}")
    message = next((inner[name] for name in _MESSAGES if isinstance(inner.get(name), str)), answer.text[:200])
    return {**inner, "code": str(code), "message": message, "status": answer.status}


#: The "not found" code by type of command, if the message does not name the missing object.
_SUBJECTS: tuple[tuple[type[Command] | tuple[type[Command], ...], ErrorCode], ...] = (
    ((CancelOrder, AmendOrder), ErrorCode.UNKNOWN_ORDER),
    ((ClosePosition, AmendPosition), ErrorCode.UNKNOWN_POSITION),
    (GetQuote, ErrorCode.UNKNOWN_SYMBOL),
)
_STATUSES = {
    401: ErrorCode.NOT_PERMITTED, 403: ErrorCode.NOT_PERMITTED, 429: ErrorCode.RATE_LIMITED, 501: ErrorCode.UNSUPPORTED,
}  # fmt: skip
#: Patterns in plain English codes and messages, with their canonical codes; the first match counts.
_REASONS = tuple(
    (re.compile(words, re.IGNORECASE).search, code)
    for words, code in (
        (r"(insufficient|not enough) (free )?(margin|funds|balance|money|buying power)", ErrorCode.INSUFFICIENT_MARGIN),
        (r"market (is )?closed", ErrorCode.MARKET_CLOSED),
        (r"rate limit|too many requests", ErrorCode.RATE_LIMITED),
        (r"post.only", ErrorCode.POST_ONLY_VIOLATED),
        (r"reduce.only", ErrorCode.REDUCE_ONLY_VIOLATED),
        (r"not trad(e)?able", ErrorCode.NOT_TRADABLE),
        (r"unsupported|not supported", ErrorCode.UNSUPPORTED),
        (r"not (modifiable|cancel+ed)", ErrorCode.ORDER_NOT_OPEN),
        (r"not connected", ErrorCode.PROVIDER_UNAVAILABLE),
        (r"permission denied|unauthorized|forbidden", ErrorCode.NOT_PERMITTED),
        (r"invalid price", ErrorCode.INVALID_PRICE),
        (r"invalid (quantity|volume|size)", ErrorCode.INVALID_QUANTITY),
        (r"invalid (data|request|value|parameter|argument)|incorrect cmd|validation error", ErrorCode.INVALID_REQUEST),
    )
)
_THINGS = {
    "order": ErrorCode.UNKNOWN_ORDER, "position": ErrorCode.UNKNOWN_POSITION, "symbol": ErrorCode.UNKNOWN_SYMBOL,
    "instrument": ErrorCode.UNKNOWN_SYMBOL, "account": ErrorCode.UNKNOWN_ACCOUNT,
}  # fmt: skip
_NAMES = "(order|position|symbol|instrument|account)"
_not_there = re.compile(
    rf"\b(?:unknown|no such|no open|no|invalid(?= symbol| instrument| account)) {_NAMES}s?\b"
    rf"|\b{_NAMES}\b[^.:;]{{0,80}}\bnot found\b",
    re.IGNORECASE,
).search
_not_found = re.compile(r"\bnot ?found\b", re.IGNORECASE).search


def error_code(error: Mapping[str, Any], command: Command, codes: Mapping[str, ErrorCode]) -> ErrorCode:
    """Return the canonical code of a refusal: from ``codes`` by the provider's code, otherwise from the wording.

    The wording is a code of several words, or the message. A bare "not found" refers to the object of the command.
    """
    own, status = str(error.get("code", "")), error.get("status")
    if (known := codes.get(own.upper())) is not None:
        return known
    said = f"{own.replace('_', ' ')}: {error.get('message', '')}"
    if (reason := next((code for is_in, code in _REASONS if is_in(said)), None)) is not None:
        return reason
    if (found := _not_there(said)) is not None:
        return _THINGS[(found[1] or found[2]).lower()]
    if status == 404 or _not_found(said) is not None:
        return next((code for kinds, code in _SUBJECTS if isinstance(command, kinds)), ErrorCode.REJECTED)
    return _STATUSES.get(status, ErrorCode.REJECTED) if isinstance(status, int) else ErrorCode.REJECTED


def reply(id: str, answer: Answer) -> CommandReply:
    """Return the reply to the command ``id`` by the status of the HTTP answer.

    2xx accepts it with the JSON as the result, any other status rejects it with `failure`. Answers that leave the outcome
    open (none, 408, 499, 5xx except 501) are handled by the core before. If the provider needs more checks (a refusal with
    status 200), look at the answer before calling this.

    Raises:
        ValueError: a success that is not JSON; the outcome is unknown.
    """
    if not answer.ok:
        return CommandReply(id, error=failure(answer))
    return CommandReply(id, loads(answer.text) if answer.text else None)


def listed(id: str, result: Any, raws: Any, read: Callable[[Any], Any]) -> CommandReply:
    """Return the reply to a command that reads data: the answer unchanged, and the results of ``read`` for ``raws``.

    If ``raws`` is not a list, the reply has no events.
    """
    return CommandReply(id, result, events=tuple(each(raws, read)) if isinstance(raws, list) else None)
