"""Accounts and positions of one connection: what is known of them, and when positions are asked for.

The page (https://docs.crosstrade.io/api/websocket-api) streams money and no positions, so they are asked for with
``GetAllPositions``: when the session is up, and again at the next pnlUpdate once there is a reason:

- the account's stream was subscribed, or an order, a close or a call was accepted;
- the profit says that something was filled: the realized one changed, or the unrealized one began or ceased to be zero;
- the last time failed. A pnlUpdate shows that the add-on is there again.

They are asked for at most once in a pnlUpdate's interval, and only in one with at most one command of ours, so that they
do not take the place of orders in the provider's budget. The answer has all open positions of all accounts.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from attrs import Factory, define

from relay.adapter import Complete, Send, Signal, Unknown
from relay.model.enums import PositionEvent
from relay.model.events import Account, Event, Position
from relay_crosstrade.calls import rpc
from relay_crosstrade.reading import Other, Symbol, is_flat, members, money, parts, position, text

#: What the id of such a question begins with, at first and later. No command's id has a space in it.
OPEN, AGAIN = "open positions", "positions again"
_CALM = 1

Key = tuple[str, str]
#: Realized profit, and whether the unrealized one is zero.
Profit = tuple[str | None, bool | None]


@define(eq=False)
class Positions:
    """
    Attributes:
        open: account and instrument of those the last answer had; None before the first.
        accounts: all that were named, None for the session's own.
        owed: there is a reason to ask for them.
        commands: written since the last pnlUpdate.
        profits: by account.
        asked: how often they were asked for.
    """

    symbol: Symbol
    other: Other
    open: set[Key] | None = None
    accounts: set[str | None] = Factory(set)
    owed: bool = False
    commands: int = 0
    profits: dict[str | None, Profit] = Factory(dict)
    asked: int = 0

    def ask(self, as_what: str) -> str:
        """The frame that asks for all positions."""
        self.asked += 1
        return rpc(f"{as_what} {self.asked}", "GetAllPositions", {"includeFlat": False})

    def updated(self, accounts: list[Any], time: str | None) -> Iterable[Event | Signal]:
        """Read the accounts of a pnlUpdate, with positions where they have any."""
        for event in parts(lambda raw: money(raw, self.other, time), accounts):
            if isinstance(event, Account):
                self._noticed(event)
            yield event
        for raw in accounts:
            if isinstance(raw, dict) and isinstance(raw.get("positions"), list):
                yield from self._listed(raw["positions"])
        due = self.owed and self.commands <= _CALM
        self.owed, self.commands = self.owed and not due, 0
        if due:
            yield Send(self.ask(AGAIN))

    def _noticed(self, account: Account) -> None:
        """An account's money came: was something filled?"""
        unrealized = account.unrealized_pnl
        self.accounts.add(account.account)
        now = (account.realized_pnl, None if unrealized is None else Decimal(unrealized) == 0)
        self.owed = self.owed or self.profits.get(account.account, now) != now
        self.profits[account.account] = now

    def told(self, id: str, data: Any) -> Iterable[Event | Signal]:
        """Read the positions and accounts in the answer to ``id``; what else it says is in the reply."""
        match data:
            case {"positions": [*positions]} if id.startswith((OPEN, AGAIN)):
                yield from self._listed(positions, whole=True, reconciled=id.startswith(OPEN))
                if data.get("count", len(positions)) == len(positions):
                    yield from (Complete("position", account) for account in sorted(self.accounts, key=str))
            case {"positions": [*positions]}:
                yield from self._listed(positions)
            case {"accounts": [*accounts]}:
                read = parts(lambda raw: money(raw, self.other), accounts)
                yield from (event for event in read if isinstance(event, Account))

    def _listed(self, raws: list[Any], *, whole: bool = False, reconciled: bool = False) -> Iterable[Event | Unknown]:
        """Read a list of positions; ``whole`` says that it has all that are open."""
        before: set[Key] = self.open or set()
        still: set[Key] = set()

        def read(raw: Any) -> Position | None:
            given = members(raw)
            key = (text(given, "account"), text(given, "instrument"))
            if is_flat(given):
                return made(given, PositionEvent.POSITION_CLOSED) if key in before else None
            is_new = whole and self.open is not None and key not in before
            event = made(given, PositionEvent.POSITION_OPENED if is_new else PositionEvent.POSITION_MODIFIED)
            still.add(key)
            return event

        def made(given: dict[str, Any], event: PositionEvent) -> Position:
            return position(given, event, self.symbol, self.other, reconciled=reconciled)

        yield from parts(read, raws)
        self.accounts.update(self.other(account) for account, _ in still)
        if whole:
            self.open = still
