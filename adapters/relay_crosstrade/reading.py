"""Read what NinjaTrader's add-on sends: quotes, the money of accounts, positions, orders and fills.

The pages of the API (https://docs.crosstrade.io) show neither the element of a pnlUpdate nor a position that is flat, and
cut off what an order has behind ``limitPriceChanged`` and a fill behind ``quantity``. The money is read in the members of
``GET /v1/api/accounts/snapshot`` and in the short ones of the same meaning, nested or not; orders and fills under
NinjaTrader's own names. What is absent stays absent.
"""

import re
from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen

from relay.adapter.reading import Members, first, is_zero, members, text, word
from relay.model.enums import OrderStatus, OrderType, PositionSide, Side, TimeInForce
from relay.model.events import Account, Order, Position, Quote, Trade
from relay.model.text import from_millis

#: Members that say the same, the documented one first.
MONEY = {
    "balance": ("cashValue",),
    "equity": ("netLiquidation",),
    "realized_pnl": ("realizedProfitLoss", "realizedPnl", "realizedPnL"),
    "unrealized_pnl": ("unrealizedProfitLoss", "unrealizedPnl", "unrealizedPnL"),
}
CURRENCIES = {"UsDollar": "USD"}
POSITION_SIDES = {"LONG": PositionSide.LONG, "SHORT": PositionSide.SHORT, "FLAT": None}
#: https://ninjatrader.com/support/helpGuides/nt8/order_state_definitions.htm, in NinjaScript's spelling.
STATES = {
    **dict.fromkeys(("INITIALIZED", "SUBMITTED", "TRIGGERPENDING"), OrderStatus.PENDING),
    **dict.fromkeys(("ACCEPTED", "SUSPENDED", "WORKING", "CHANGEPENDING", "CHANGESUBMITTED"), OrderStatus.OPEN),
    **dict.fromkeys(("CANCELPENDING", "CANCELSUBMITTED"), OrderStatus.PENDING_CANCEL),
    "PARTFILLED": OrderStatus.PARTIALLY_FILLED,
    "FILLED": OrderStatus.FILLED,
    "CANCELLED": OrderStatus.CANCELLED,
    "REJECTED": OrderStatus.REJECTED,
}
SIDES = {"BUY": Side.BUY, "BUYTOCOVER": Side.BUY, "SELL": Side.SELL, "SELLSHORT": Side.SELL}
#: The market position of an execution is the direction of the fill: one that leaves a long position is Short.
FILLED = {"LONG": Side.BUY, "SHORT": Side.SELL}
#: Types and times in force that have no canonical word are left out; the order is published all the same.
TYPES = {
    "MARKET": OrderType.MARKET, "LIMIT": OrderType.LIMIT, "STOPMARKET": OrderType.STOP, "STOPLIMIT": OrderType.STOP_LIMIT,
}  # fmt: skip
#: Units of quantities by the ``instrumentType``.
UNITS = {"Future": "contracts", "Option": "contracts", "Stock": "shares"}
TIMES = {each.value: each for each in TimeInForce}


_MONTHS = "FGHJKMNQUVXZ"
_contract = re.compile(rf"(.+?)(?:([{_MONTHS}])(\d{{1,2}})|\d!| (\d\d)-(\d\d))?").fullmatch


def has_expiry(native: str) -> bool:
    """Return whether this is NinjaTrader's own name of a future; without an expiry it may be an alias of one."""
    found = _contract(native)
    return found is not None and found[4] is not None


def unit(native: str, given: Members) -> str | None:
    """Return the unit of an instrument's quantities, where its name or its type says it."""
    return "contracts" if has_expiry(native) else UNITS.get(str(given.get("instrumentType")))


def is_alias(name: str, native: str) -> bool:
    """Return whether ``name`` may mean the future ``native``: ES, ES1! and ESU26 are ES 09-26 in September 2026."""
    asked, meant = _contract(name.upper()), _contract(native.upper())
    if asked is None or meant is None or asked[4] is not None or meant[4] is None or asked[1] != meant[1]:
        return False
    return asked[2] is None or (_MONTHS.index(asked[2]) + 1 == int(meant[4]) and meant[5].endswith(asked[3]))


@frozen
class Reader:
    """Makes events of the provider's objects. Every method raises KeyError, TypeError or ValueError for what it cannot read.

    Attributes:
        symbol: returns the canonical text of a provider's symbol.
        native: returns the provider's text of a canonical symbol.
        own: NinjaTrader's name of the session's account; empty where commands name theirs.
        only: the account the session acts for, the only one it publishes; empty: all of the key.
    """

    symbol: Callable[[str], str]
    native: Callable[[str], str]
    own: str = ""
    only: str = ""

    def account(self, name: str) -> str | None:
        """Return the account an event names: None for the one the session acts for."""
        return None if self.only and name.casefold() == self.only.casefold() else name

    def quote(self, raw: Any) -> Quote:
        """Return one element of a marketData message; any of its numbers may be missing, but not all."""
        given = members(raw)
        native = text(given, "instrument")
        numbers = {name: given[name] for name in ("bid", "ask", "last", "volume") if name in given}
        if not numbers:
            raise ValueError(f"a quote of {native} without a number")
        return Quote(symbol=self.symbol(native), native_symbol=native, **numbers)

    def money(self, raw: Any, timestamp: str | None = None) -> Account | None:
        """Return the money of one account; None for an account with nothing but its name."""
        account = self.listed(raw)
        said = any(getattr(account, field) is not None for field in MONEY)
        return evolve(account, timestamp=timestamp) if said else None

    def listed(self, raw: Any) -> Account:
        """Return one account, with its money as far as it is told."""
        given = members(raw)
        for nested in ("account", "item"):
            if isinstance(given.get(nested), dict):
                given |= members(given.pop(nested))
        name = self.account(text(given, "name" if "name" in given else "account"))
        found = {field: first(given, *names) for field, names in MONEY.items()}
        currency = given.get("denomination")
        currency = CURRENCIES.get(currency, currency) if isinstance(currency, str) else None
        return Account(event=None, account=name, currency=currency, **found)

    def position(self, raw: Any) -> Position:
        """Return one position. An account has one per instrument, so the instrument is its id."""
        given = members(raw)
        native, side = text(given, "instrument"), word(POSITION_SIDES, given["marketPosition"])
        priced = given if side else {}  # a flat position has the market's price, but none of its own
        return Position(
            event=None, account=self.account(text(given, "account")), id=native, symbol=self.symbol(native),
            native_symbol=native, side=side, quantity=given["quantity"], quantity_unit=unit(native, given),
            average_entry_price=priced.get("averagePrice"), current_price=priced.get("marketPrice"),
            unrealized_pnl=priced.get("unrealizedProfitLoss"),
        )  # fmt: skip

    def order(self, given: Members, id: str, side: Side | None) -> Order:
        """Return an order as it is now, under the id it has for us.

        Args:
            side: the side last known, for an answer without one: the page is cut before it names the side.
        """
        native, time = text(given, "instrument"), given.get("timeInForce")
        kind = TYPES.get(text(given, "orderType").upper())
        action = first(given, "orderAction", "action")
        filled = None if is_zero(given.get("filled")) else given.get("averageFillPrice")  # 0.0 until then
        return Order(
            event=None, account=self.account(text(given, "account")), id=id, symbol=self.symbol(native),
            native_symbol=native, side=side if action is None and side else word(SIDES, action), order_type=kind,
            quantity=given.get("quantity"), filled_quantity=given.get("filled"), average_fill_price=filled,
            quantity_unit=unit(native, given), status=word(STATES, given["orderState"]),
            time_in_force=TIMES.get(time.upper()) if isinstance(time, str) else None,
            limit_price=given.get("limitPrice") if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=given.get("stopPrice") if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            oco_group_id=given.get("oco") or None, updated_at=_time(given),
        )  # fmt: skip

    def fill(self, given: Members, order_id: str) -> Trade:
        """Return one execution."""
        native = text(given, "instrument")
        return Trade(
            account=self.account(text(given, "account")), id=text(given, "id"), order_id=order_id,
            symbol=self.symbol(native), native_symbol=native, side=word(FILLED, given["marketPosition"]),
            quantity=given["quantity"], price=given["price"], commission=given.get("commission"), time=_time(given),
            quantity_unit=unit(native, given),
        )  # fmt: skip


def _time(given: Members) -> str | None:
    """Return the time of ``epoch``; ``time`` is that of NinjaTrader's computer, wherever it stands."""
    return None if given.get("epoch") is None else from_millis(given["epoch"])


def of_account(data: Any, own: str, by: str = "account") -> Any:
    """Return ``data`` without the elements of lists, at any depth, that name another account, and ``count`` without them.

    Some functions answer for every account of the key, whatever the arguments say. ``by`` is the member with the name. A
    session without an account of its ``own`` is of all of them.
    """
    if not own:
        return data
    if isinstance(data, list):
        return [of_account(each, own) for each in data if not names_another(each, own, by)]
    if not isinstance(data, dict):
        return data
    kept = {name: of_account(value, own, "name" if name == "accounts" else "account") for name, value in data.items()}
    missing = sum(len(value) - len(kept[name]) for name, value in data.items() if isinstance(value, list))
    if missing and isinstance(kept.get("count"), int):
        kept["count"] -= missing
    return kept


def names_another(raw: Any, own: str, by: str) -> bool:
    """Return whether an object names another account than ``own``; ``by`` is the member with the name beside ``account``."""
    name = raw.get("account", raw.get(by)) if isinstance(raw, dict) else None
    if isinstance(name, dict):
        name = name.get("name")
    return bool(own) and isinstance(name, str) and name.casefold() != own.casefold()


def of_symbol(data: Any, native: str) -> Any:
    """Return an answer whose lists have only what is of one instrument, all of it where that has no name."""
    if not native or not isinstance(data, dict):
        return data
    return {
        name: [each for each in value if isinstance(each, dict) and each.get("instrument") == native]
        if isinstance(value, list)
        else value
        for name, value in data.items()
    }
