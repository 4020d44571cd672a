"""Readers of ScaleTrade's compact arrays of balances, notifications and price alerts, and its quote channels.

Shapes: https://scaletrade.com/client-api/ws/quotes, /balance, /trade, /notify and /price-alert. Elements behind the
documented ones are ignored; an array with fewer is not understood.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from relay.adapter import dumps
from relay.adapter.reading import Members, code_word, named, unix_time, unless_zero, whole
from relay.limits import BoundedDict
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
#: Client order ids, amended positions, and spellings of the account's symbols that are remembered.
REMEMBERED = 10_000
ALERT_STATUS = ("Active", "Triggered", "Disabled", "Deleted", "Expired")


def text(value: object) -> str:
    """Return a text, which may be empty. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.64}")
    return value


def balance(given: Members, account: str | None, currency: str | None) -> Account:
    """Return a ``b`` array, or the answer of ``/account/me``, whose personal members are left out."""
    return Account(
        event=None, account=account, balance=given["balance"], equity=given["equity"], margin_used=given["margin"],
        margin_available=given["margin_free"], unrealized_pnl=given.get("profit"), currency=currency,
        margin_call=MARGIN_CALL.get(whole(given["level_type"])) if "level_type" in given else None,
        data={name: given[name] for name in MONEY if name in given},
    )  # fmt: skip


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
    level = whole(given["level"])
    return Notification(
        level=LEVELS.get(level, str(level)), title=text(given.pop("message")) or None,
        message=text(given.pop("description")), data=given, timestamp=unix_time(given["create_time"]),
    )  # fmt: skip


def alert(given: Members, symbol: Callable[[str], str], account: str | None) -> Alert:
    """Return an ``a`` array; prices that do not belong to its condition or state are zero there and absent here."""
    triggered_at = unix_time(given["triggered_at"])
    return Alert(
        id=str(whole(given["id"])), account=account, symbol=symbol(given["symbol"]), native_symbol=given["symbol"],
        condition=code_word(CONDITIONS, given["condition"]), status=code_word(ALERT_STATUS, given["status"]),
        target_price=decimal_text(given["target_price"]) if given["condition"] in TARGETED else None,
        triggered_price=None if triggered_at is None else unless_zero(given["triggered_price"]),
        data=dict(given), timestamp=triggered_at,
    )  # fmt: skip


class Channels:
    """The quote channels of one connection: subscribed in lower case, answered in upper case.

    The page (https://scaletrade.com/client-api/ws/) also says that a symbol's naming must match the server's. So case is
    ignored: a symbol that comes in another case than it was configured or asked for in is that symbol.

    Attributes:
        configured: symbols as they were configured, by their lower case.
        subscribed: those that are wanted, as they were asked for.
        held: those that were asked for once, and that the account has orders, positions or alerts of.
    """

    def __init__(self, configured: Iterable[str]) -> None:
        self.configured = {native.lower(): native for native in configured}
        self.subscribed: dict[str, str] = {}
        self.held: BoundedDict[str, str] = BoundedDict(REMEMBERED)

    def spelled(self, native: str) -> str:
        """Return the symbol as it was configured, or else as it was asked for."""
        name = native.lower()
        return next((names[name] for names in (self.configured, self.held, self.subscribed) if name in names), native)

    def hold(self, native: str) -> str:
        """Return the same for a symbol of the account, which keeps that spelling when nobody subscribes it any more."""
        name, spelled = native.lower(), self.spelled(native)
        if name in self.subscribed:
            self.held[name] = spelled
        return spelled

    def change(self, natives: Iterable[str], *, wanted: bool) -> Iterator[str]:
        """Yield the frame that subscribes these symbols, or ends them where they are not ``wanted``; none of no symbols."""
        names = {native.lower(): native for native in natives}
        left = {name: native for name, native in self.subscribed.items() if name not in names}
        self.subscribed = {**names, **self.subscribed} if wanted else left
        if names:
            yield dumps({"event": "subscribe" if wanted else "unsubscribe", "data": list(names)})
