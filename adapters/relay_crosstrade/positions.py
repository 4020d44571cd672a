"""Accounts and positions of one connection: what is known of them, and what their profit gives away.

Positions come in lists (`relay_crosstrade.questions` says when they are asked for), money with every pnlUpdate. The profit
says that something was filled when the realized one changes, or the unrealized one begins or ceases to be zero.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from attrs import Factory, define

from relay.adapter import Complete, Signal, Unknown
from relay.model.enums import PositionEvent
from relay.model.events import Account, Event, Position
from relay_crosstrade.reading import Other, Symbol, is_flat, members, money, parts, position, text

Key = tuple[str, str]
#: Realized profit, and whether the unrealized one is zero.
Profit = tuple[str | None, bool | None]


@define(eq=False)
class Positions:
    """
    Attributes:
        open: account and instrument of those that were last told; None before the first whole list.
        accounts: all that were named, None for the session's own.
        noticed: accounts whose profit says that something was filled, until somebody takes them out.
        profits: by account.
    """

    own: str
    symbol: Symbol
    other: Other
    open: set[Key] | None = None
    accounts: set[str | None] = Factory(set)
    noticed: dict[str, None] = Factory(dict)
    profits: dict[str | None, Profit] = Factory(dict)

    def updated(self, accounts: list[Any], time: str | None) -> Iterable[Event | Unknown]:
        """Read the accounts of a pnlUpdate, with positions where they have any."""
        for event in parts(lambda raw: money(raw, self.other, time), accounts):
            if isinstance(event, Account):
                self._notice(event)
            yield event
        for raw in accounts:
            if isinstance(raw, dict) and isinstance(raw.get("positions"), list):
                yield from self.listed(raw["positions"])

    def _notice(self, account: Account) -> None:
        """An account's money came: was something filled?"""
        unrealized = account.unrealized_pnl
        self.accounts.add(account.account)
        now = (account.realized_pnl, None if unrealized is None else Decimal(unrealized) == 0)
        if self.profits.get(account.account, now) != now:
            self.noticed[account.account or self.own] = None
        self.profits[account.account] = now

    def told(self, data: Any) -> Iterable[Event | Unknown]:
        """Read the positions and accounts in the answer to a command; what else it says is in the reply."""
        match data:
            case {"positions": [*positions]}:
                yield from self.listed(positions)
            case {"accounts": [*accounts]}:
                read = parts(lambda raw: money(raw, self.other), accounts)
                yield from (event for event in read if isinstance(event, Account))

    def whole(self, raws: list[Any], *, missed: bool) -> Iterable[Event | Signal]:
        """Read a list of all positions, and say that these are all."""
        yield from self.listed(raws, whole=True, missed=missed)
        yield from (Complete("position", account) for account in sorted(self.accounts, key=str))

    def listed(self, raws: list[Any], *, whole: bool = False, missed: bool = False) -> Iterable[Event | Unknown]:
        """Read a list of positions; ``whole`` says that it has all that are open."""
        before: set[Key] = self.open or set()
        still: set[Key] = set()
        flat: set[Key] = set()

        def read(raw: Any) -> Position | None:
            given = members(raw)
            key = (text(given, "account"), text(given, "instrument"))
            if is_flat(given):
                flat.add(key)
                return made(given, PositionEvent.POSITION_CLOSED) if key in before else None
            is_new = self.open is not None and key not in before
            event = made(given, PositionEvent.POSITION_OPENED if is_new else PositionEvent.POSITION_MODIFIED)
            still.add(key)
            return event

        def made(given: dict[str, Any], event: PositionEvent) -> Position:
            return position(given, event, self.symbol, self.other, reconciled=missed)

        yield from parts(read, raws)
        self.accounts.update(self.other(account) for account, _ in still)
        if whole:
            self.open = still
        elif self.open is not None:
            self.open = (before | still) - flat
