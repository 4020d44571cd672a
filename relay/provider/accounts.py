"""What is known of an account's events: which fills were published, and the last state of every order and position.

A fill is published once, whoever repeats it: the stream, a replay, or a list fetched after a reconnect. The last states
are what a fetched list is compared with, so that after an absence only differences are published, marked ``reconciled``.
What was open and is missing from a list the provider calls complete has vanished: a position of which nothing is left is
closed; of an order only that it is not open any more is known, and nothing else is said.

A list is as old as the moment it was asked for, however long its answer and its further pages take. What was told after
that is newer: it is not judged by the list, nor overwritten by what the list has of it.

Both memories outlive connections, and both are bounded: the longest unused is forgotten.
"""

from collections.abc import Container, Mapping
from math import inf
from typing import Any, NamedTuple

import attrs

from relay.limits import BoundedDict
from relay.model.enums import OrderEvent, PositionEvent
from relay.model.events import Account, AccountScoped, Order, Position, Trade

#: Attributes that say what happened or when it was told, not what is; a list's ``data`` has other members than the stream's.
_NOT_STATE = ("event", "timestamp", "reconciled", "updated_at", "correlation_id", "data")

_ABSENT = object()
_Name = tuple[str, str | None, str]


class _Known(NamedTuple):
    """A state, when it was last told, and of money, of which messages tell different members, when each of them was."""

    event: Order | Position | Account
    told_at: float
    members: Mapping[str, float]


class Fills:
    """The fills seen, by (account, id); one memory belongs to one provider."""

    def __init__(self, size: int = 20_000) -> None:
        self._seen: BoundedDict[tuple[str | None, str], None] = BoundedDict(size)

    def is_new(self, fill: Trade, account: str | None) -> bool:
        """Whether ``fill`` was not seen before; it is from now on. ``account`` is the session's own."""
        name = (fill.account or account, fill.id)
        is_new = name not in self._seen
        self._seen[name] = None
        return is_new


class States:
    """The last published state of every order, position and account."""

    def __init__(self, size: int = 20_000) -> None:
        self._states: BoundedDict[_Name, _Known] = BoundedDict(size)

    def changes(self, event: Order | Position | Account, account: str | None, told_at: float) -> bool:
        """Whether ``event`` says anything that was not last known; it is known from now on.

        What an event leaves out it says nothing about: lists have fewer members than the stream, or other ones. Only that it
        has vanished is the relay's own word, and is no longer so when the provider tells of it again.
        """
        name = _name(event, account)
        before = self._states.pop(name, None)
        said = _said(event)
        members = dict.fromkeys(said, told_at) if isinstance(event, Account) else {}
        if before is not None:
            had = _said(before.event)
            is_new = any(had.get(field, _ABSENT) != value for field, value in said.items())
            event = attrs.evolve(event, **{field: value for field, value in had.items() if field not in said})
            told_at, members = max(told_at, before.told_at), {**before.members, **members}
        self._states[name] = _Known(event, told_at, members)
        return before is None or is_new

    def not_overtaken(
        self, event: Order | Position | Account, account: str | None, asked_at: float
    ) -> Order | Position | Account | None:
        """What an item of a list asked for at ``asked_at`` has that was not told since; None when that is nothing.

        An order or position that was told since is newer as a whole, of money only the members that were.
        """
        known = self._states.get(_name(event, account))
        if known is None or known.told_at <= asked_at:
            return event
        if not isinstance(event, Account):
            return None
        said = _said(event)
        newer: dict[str, Any] = {field: None for field in said if known.members.get(field, -inf) > asked_at}
        return attrs.evolve(event, **newer) if len(newer) < len(said) else None

    def is_open(self, event: Order | Position | Account, account: str | None) -> bool:
        """Whether the order or position was last known to be open."""
        known = self._states.get(_name(event, account))
        return known is not None and _is_open(known.event)

    def vanished(
        self, kind: str, account: str | None, listed: Container[str], asked_at: float
    ) -> list[Order | Position]:
        """What was open on the account and is not ``listed`` in a complete list, as it is now; each is said once.

        ``asked_at``: when the list was asked for. What was told at that moment or later is newer than the list.
        """
        gone: list[Order | Position] = []
        for name, (event, told_at, _) in self._states.items():
            if name[:2] != (kind, account) or name[2] in listed or told_at >= asked_at:
                continue
            if isinstance(event, Order | Position) and _is_open(event):
                gone.append(_ended_unseen(event) if isinstance(event, Order) else _closed_unseen(event))
        for event in gone:
            self.changes(event, account, asked_at)
        return gone


def still(event: Order | Position | Account) -> Order | Position | Account:
    """A difference found in what was open already: it was changed, not opened."""
    match event:
        case Order(event=OrderEvent.ORDER_CREATED):
            return attrs.evolve(event, event=OrderEvent.ORDER_MODIFIED)
        case Position(event=PositionEvent.POSITION_OPENED):
            return attrs.evolve(event, event=PositionEvent.POSITION_MODIFIED)
    return event


def _name(event: Order | Position | Account, account: str | None) -> _Name:
    return event.kind, event.account or account, "" if isinstance(event, Account) else event.id


def _is_open(event: Order | Position | Account) -> bool:
    match event:
        case Order(vanished=None):
            return not event.status.is_final
        case Position():
            return event.event is not PositionEvent.POSITION_CLOSED and bool(event.quantity.strip("0."))
    return False


def _ended_unseen(order: Order) -> Order:
    return attrs.evolve(order, event=OrderEvent.ORDER_MODIFIED, vanished=True, reconciled=True, timestamp=None)


def _closed_unseen(position: Position) -> Position:
    return attrs.evolve(
        position,
        event=PositionEvent.POSITION_CLOSED,
        quantity="0",
        current_price=None,
        unrealized_pnl=None,
        realized_pnl=None,
        updated_at=None,
        timestamp=None,
        reconciled=True,
    )


def _said(event: AccountScoped) -> dict[str, Any]:
    fields = {a.name: getattr(event, a.name) for a in attrs.fields(type(event)) if a.name not in _NOT_STATE}
    return {name: value for name, value in fields.items() if value is not None or name == "vanished"}
