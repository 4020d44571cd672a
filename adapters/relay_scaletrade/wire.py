"""Readers of ScaleTrade's compact arrays of balances, notifications and price alerts, by the names of its pages.

Shapes: https://scaletrade.com/client-api/ws/quotes, /balance, /trade, /notify and /price-alert. Elements behind the
documented ones are ignored; an array with fewer is not understood.
"""

from collections.abc import Callable, Sequence
from typing import Any

from relay.adapter.reading import Members, named, unix_time, unless_zero, whole
from relay.model.events import Account, Alert, Notification
from relay.model.text import decimal_text

BALANCE = ("login", "balance", "margin", "margin_free", "margin_level", "equity", "credit", "level_type", "profit",
           "code")  # fmt: skip
NOTICE = ("message", "description", "token", "status", "level", "user_id", "create_time")
ALERT = ("id", "login", "symbol", "indicator_name", "message", "side", "condition", "target_price", "channel_low",
         "channel_high", "move_threshold", "status", "repeat_mode", "expires_at", "triggered_price", "triggered_at",
         "code")  # fmt: skip

#: Members of an account that are about money and have no field of their own.
MONEY = ("margin_level", "credit", "level_type", "code", "storage", "commission", "prevbalance", "leverage")
#: ``level_type``: none, margin call, stop out, which is a margin call that has gone further.
MARGIN_CALL = {0: False, 1: True, 2: True}
LEVELS = {10: "INFO", 20: "WARNING", 30: "ERROR", 40: "PROMO", 50: "MARKETING", 60: "NEWS"}
CONDITIONS = ("CrossUp", "CrossDown", ">", "<", "EnterChannel", "ExitChannel", "InsideChannel", "OutsideChannel", "MoveUp",
              "MoveDown", "MoveUp%", "MoveDown%")  # fmt: skip
#: Conditions that compare with the target price; the others have a channel or a threshold and send 0 for it.
TARGETED = range(4)
ALERT_STATUS = ("Active", "Triggered", "Disabled", "Deleted", "Expired")


def code_word(words: Sequence[str], code: object) -> str:
    """Return the word of a numbered code; its number when it has none here."""
    number = whole(code)
    return words[number] if 0 <= number < len(words) else str(number)


def text(value: object) -> str:
    """Return a text, which may be empty. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.64}")
    return value


def balance(given: Members, account: str | None, currency: str | None) -> Account:
    """Return a ``b`` array, or the answer of ``/account/me``, whose personal members are left out."""
    return Account(
        event=None,
        account=account,
        balance=given["balance"],
        equity=given["equity"],
        margin_used=given["margin"],
        margin_available=given["margin_free"],
        unrealized_pnl=given.get("profit"),
        currency=currency,
        margin_call=MARGIN_CALL.get(whole(given["level_type"])) if "level_type" in given else None,
        data={name: given[name] for name in MONEY if name in given},
    )


def notice(values: Sequence[Any]) -> Notification:
    """Return an ``n`` array: behind ``create_time`` come the code, or data and then the code.

    Its ``user_id`` is not documented as a login, so it stays in the data.
    """
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
        timestamp=unix_time(given["create_time"]),
    )


def alert(given: Members, symbol: Callable[[str], str], account: str | None) -> Alert:
    """Return an ``a`` array; prices that do not belong to its condition or state are zero there and absent here."""
    triggered_at = unix_time(given["triggered_at"])
    return Alert(
        id=str(whole(given["id"])),
        account=account,
        symbol=symbol(given["symbol"]),
        native_symbol=given["symbol"],
        condition=code_word(CONDITIONS, given["condition"]),
        target_price=decimal_text(given["target_price"]) if given["condition"] in TARGETED else None,
        triggered_price=None if triggered_at is None else unless_zero(given["triggered_price"]),
        status=code_word(ALERT_STATUS, given["status"]),
        data=dict(given),
        timestamp=triggered_at,
    )
