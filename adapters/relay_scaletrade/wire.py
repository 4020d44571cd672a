"""ScaleTrade's compact arrays by the names of its pages, and what is read of balances, notifications and price alerts.

Shapes: https://scaletrade.com/client-api/ws/quotes, /balance, /trade, /notify and /price-alert. Elements behind the
documented ones are ignored; an array with fewer is not understood.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.model.enums import AccountEvent
from relay.model.events import Account, Alert, Notification
from relay.model.text import decimal_text, from_millis, from_seconds

Members = Mapping[str, Any]

BALANCE = (
    "login",
    "balance",
    "margin",
    "margin_free",
    "margin_level",
    "equity",
    "credit",
    "level_type",
    "profit",
    "code",
)
TRADE = ("order", "login", "symbol", "cmd", "volume", "open_price", "close_price", "open_time", "close_time", "tp", "sl",
         "state", "storage", "commission", "profit", "comment", "code")  # fmt: skip
NOTICE = ("message", "description", "token", "status", "level", "user_id", "create_time")
ALERT = ("id", "login", "symbol", "indicator_name", "message", "side", "condition", "target_price", "channel_low",
         "channel_high", "move_threshold", "status", "repeat_mode", "expires_at", "triggered_price", "triggered_at",
         "code")  # fmt: skip

#: Members of an account that are about money and have no field of their own.
MONEY = ("margin_level", "credit", "level_type", "code", "storage", "commission", "prevbalance", "leverage")
LEVELS = {10: "INFO", 20: "WARNING", 30: "ERROR", 40: "PROMO", 50: "MARKETING", 60: "NEWS"}
CONDITIONS = ("CrossUp", "CrossDown", ">", "<", "EnterChannel", "ExitChannel", "InsideChannel", "OutsideChannel", "MoveUp",
              "MoveDown", "MoveUp%", "MoveDown%")  # fmt: skip
#: Conditions that compare with the target price; the others have a channel or a threshold and send 0 for it.
TARGETED = range(4)
ALERT_STATUS = ("Active", "Triggered", "Disabled", "Deleted", "Expired")
#: A time of this many units is milliseconds: as seconds it would be after the year 5100, as milliseconds it is 1973.
_MILLIS = 100_000_000_000
_REMEMBERED = 10_000


def whole(value: object) -> int:
    """A whole number. TypeError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, got {value!r:.64}")
    return value


def text(value: object) -> str:
    """A text, which may be empty. TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.64}")
    return value


def is_zero(value: object) -> bool:
    """Whether a member is empty: null, no text, or a zero of any digits."""
    return value is None or (isinstance(value, str | int) and not str(value).strip("-0."))


def price(value: Any) -> Any:
    """A price; None for zero, which is how ScaleTrade writes that there is none."""
    return None if is_zero(value) else value


def moment(value: Any) -> str | None:
    """A Unix time in seconds or milliseconds, told apart by magnitude, as RFC 3339; None for zero.

    The examples of the Client API are seconds, the Server API documents the same quote in milliseconds.
    """
    if is_zero(value):
        return None
    return from_millis(value) if isinstance(value, int) and value >= _MILLIS else from_seconds(value)


def named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """An array's elements by name. ValueError when there are fewer than names."""
    if len(values) < len(names):
        raise ValueError(f"expected {len(names)} elements behind the marker, got {len(values)}")
    return dict(zip(names, values, strict=False))


def named_code(names: Sequence[str], code: object) -> str:
    """The word of a numbered code; its number where it has none here."""
    number = whole(code)
    return names[number] if 0 <= number < len(names) else str(number)


def forget(memory: dict[Any, Any]) -> None:
    """Keep a memory bounded: what was put in first goes first."""
    if len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]


def besides(given: Members, fields: Sequence[str]) -> dict[str, Any]:
    """What a record has that is in none of its event's ``fields``."""
    return {name: value for name, value in given.items() if name not in fields}


def balance(given: Members, account: str | None, currency: str | None) -> Account:
    """A ``b`` array, or the answer of ``/account/me``, whose personal members are left out."""
    alarmed = whole(given.get("level_type", 0)) in (1, 2)
    return Account(
        event=AccountEvent.MARGIN_CALL if alarmed else AccountEvent.BALANCE_UPDATED,
        account=account,
        balance=given["balance"],
        equity=given["equity"],
        margin_used=given["margin"],
        margin_available=given["margin_free"],
        unrealized_pnl=given.get("profit"),
        currency=currency,
        data={name: given[name] for name in MONEY if name in given},
    )


def notice(values: Sequence[Any]) -> Notification:
    """An ``n`` array: behind ``create_time`` come the code, or data and then the code."""
    given = named(NOTICE, values)
    match values[len(NOTICE) :]:
        case [dict() | list() | str() | None as data, code, *_]:
            given |= {"data": data, "code": whole(code)}
        case [code, *_]:
            given["code"] = whole(code)
        case _:
            raise ValueError("expected a code behind create_time")
    return Notification(
        level=LEVELS.get(level := whole(given["level"]), str(level)),
        title=text(given.pop("message")) or None,
        message=text(given.pop("description")),
        data=given,
        timestamp=moment(given["create_time"]),
    )


def alert(given: Members, symbol: str, account: str | None) -> Alert:
    """An ``a`` array; prices that do not belong to its condition or state are zero there and absent here."""
    triggered_at = moment(given["triggered_at"])
    return Alert(
        id=str(whole(given["id"])),
        account=account,
        symbol=symbol,
        native_symbol=given["symbol"],
        condition=named_code(CONDITIONS, given["condition"]),
        target_price=decimal_text(given["target_price"]) if given["condition"] in TARGETED else None,
        triggered_price=None if triggered_at is None else price(given["triggered_price"]),
        status=named_code(ALERT_STATUS, given["status"]),
        data=dict(given),
        timestamp=triggered_at,
    )
