"""Reading what CrossTrade says: quotes, the money of accounts, positions.

The page (https://docs.crosstrade.io/api/websocket-api) shows neither the element of a pnlUpdate nor a position that is
flat. An account is read in the members of ``GET /v1/api/accounts/snapshot`` and in the short ones of the same meaning,
nested or not; what is absent stays absent.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relay.adapter import Unknown
from relay.model.enums import AccountEvent, PositionEvent, PositionSide
from relay.model.events import Account, Event, Position, Quote

Members = Mapping[str, Any]
#: Canonical text of a provider's symbol.
Symbol = Callable[[str], str]
#: The account an event names: None for the session's own.
Other = Callable[[str], str | None]

#: Members that say the same, the documented one first.
MONEY = {
    "balance": ("cashValue",),
    "equity": ("netLiquidation",),
    "realized_pnl": ("realizedProfitLoss", "realizedPnl", "realizedPnL"),
    "unrealized_pnl": ("unrealizedProfitLoss", "unrealizedPnl", "unrealizedPnL"),
}
CURRENCIES = {"UsDollar": "USD"}
FLAT = "FLAT"
_SIDES = {"LONG": PositionSide.LONG, "SHORT": PositionSide.SHORT, FLAT: None}
_QUOTED = ("bid", "ask", "last", "volume")


def parts(read: Callable[[Any], Event | None], raws: Iterable[Any]) -> Iterable[Event | Unknown]:
    """Each of ``raws`` read; one that cannot be is Unknown and costs the others nothing."""
    for raw in raws:
        try:
            event = read(raw)
        except (KeyError, TypeError, ValueError) as error:
            yield Unknown(raw, f"{type(error).__name__}: {error}")
        else:
            if event is not None:
                yield event


def members(raw: Any) -> dict[str, Any]:
    """The members of an object; null is the same as absent. TypeError when it is no object."""
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, got {raw!r:.64}")
    return {name: value for name, value in raw.items() if value is not None}


def text(given: Members, name: str) -> str:
    """A member that must be text."""
    value = given[name]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name}: expected text, got {value!r:.64}")
    return value


def quote(raw: Any, symbol: Symbol) -> Quote:
    """One element of a marketData message; any of its numbers may be missing, but not all."""
    given = members(raw)
    native = text(given, "instrument")
    numbers = {name: given[name] for name in _QUOTED if name in given}
    if not numbers:
        raise ValueError(f"a quote of {native} without a number")
    return Quote(symbol=symbol(native), native_symbol=native, **numbers)


def flattened(raw: Any) -> dict[str, Any]:
    """An account's members at one level, whether they stand in ``account`` and its ``item`` or not."""
    given = members(raw)
    if isinstance(given.get("account"), dict):
        given |= members(given.pop("account"))
    if isinstance(given.get("item"), dict):
        given |= members(given.pop("item"))
    return given


def account_name(given: Members) -> str:
    return text(given, "name" if "name" in given else "account")


def of_account(data: Any, own: str) -> Any:
    """What was read without the elements of lists, at any depth, that name another account; ``count`` goes down with them.

    Some functions answer for every account of the key, whatever they are told.
    """
    if isinstance(data, list):
        return [of_account(each, own) for each in data if not _names_another(each, own, "account")]
    if not isinstance(data, dict):
        return data
    kept: dict[str, Any] = {}
    missing = 0
    for name, value in data.items():
        if isinstance(value, list):
            by = "name" if name == "accounts" else "account"
            kept[name] = [of_account(each, own) for each in value if not _names_another(each, own, by)]
            missing += len(value) - len(kept[name])
        else:
            kept[name] = of_account(value, own)
    if missing and isinstance(kept.get("count"), int):
        kept["count"] -= missing
    return kept


def _names_another(raw: Any, own: str, by: str) -> bool:
    named = raw.get("account", raw.get(by)) if isinstance(raw, dict) else None
    if isinstance(named, dict):
        named = named.get("name")
    return isinstance(named, str) and named.casefold() != own.casefold()


def money(raw: Any, other: Other, timestamp: str | None = None) -> Account | None:
    """The money of one account; None for an account of which nothing is said but its name."""
    given = flattened(raw)
    named = account_name(given)
    found = {field: given[name] for field, names in MONEY.items() for name in reversed(names) if name in given}
    if not found:
        return None
    currency = given.get("denomination")
    return Account(
        event=AccountEvent.METRICS_UPDATED,
        account=other(named),
        currency=CURRENCIES.get(currency, currency) if isinstance(currency, str) else None,
        timestamp=timestamp,
        **found,
    )


def is_flat(given: Members) -> bool:
    return text(given, "marketPosition").upper() == FLAT


def position(given: Members, event: PositionEvent, symbol: Symbol, other: Other, *, reconciled: bool) -> Position:
    """One position. An account has one per instrument, so the instrument is its id; the account goes with the event."""
    native = text(given, "instrument")
    return Position(
        event=event,
        account=other(text(given, "account")),
        id=native,
        symbol=symbol(native),
        native_symbol=native,
        side=_SIDES[text(given, "marketPosition").upper()],
        quantity=given["quantity"],
        average_entry_price=None if is_flat(given) else given.get("averagePrice"),
        current_price=given.get("marketPrice"),
        unrealized_pnl=given.get("unrealizedProfitLoss"),
        reconciled=reconciled or None,
    )
