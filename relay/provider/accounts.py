"""Memory of an account's events: the fills that were published, and the last state of every order and position.

A fill is published once, whoever repeats it: the stream, a replay, or a list fetched after a reconnect. The last states
are what a fetched list is compared with, so that after an absence only differences are published, marked ``reconciled``.
What happened to a state whose provider says only what is (``event`` None) is derived from the last known one.
What was open and is missing from a list the provider calls complete has vanished: a position of which nothing is left is
closed; of an order only that it is not open any more is known, and nothing else is said.

A list is as old as the moment it was asked for, however long its answer and its further pages take. What was told after
that is newer: it is not judged by the list, nor overwritten by what the list has of it.

Both memories outlive connections, and both are bounded: the longest unused is forgotten.
"""

from collections.abc import Container, Iterable, Mapping
from decimal import Decimal
from math import inf
from typing import Any, NamedTuple

import attrs

from relay.limits import BoundedDict
from relay.model.enums import AccountEvent, OrderEvent, OrderStatus, PositionEvent
from relay.model.events import Account, AccountScoped, Order, Position, Trade

#: Attributes that say what happened or when it was told, not what is; a list's ``data`` has other members than the stream's.
_NOT_STATE = ("event", "timestamp", "reconciled", "updated_at", "correlation_id", "data")

_ABSENT = object()
#: What an adapter says of an account.
State = Order | Position | Account
_Name = tuple[str, str | None, str]


class _Known(NamedTuple):
    """A state, when it was last told, and of money, of which messages tell different members, when each of them was."""

    event: State
    told_at: float
    members: Mapping[str, float]


class Fills:
    """The fills seen, by (account, id); one memory belongs to one provider."""

    def __init__(self, size: int = 20_000) -> None:
        self._seen: BoundedDict[tuple[str | None, str], None] = BoundedDict(size)

    def remember(self, fill: Trade, account: str | None) -> bool:
        """Remember ``fill``; return True if it was not seen before. ``account`` is the session's own."""
        name = (fill.account or account, fill.id)
        is_new = name not in self._seen
        self._seen[name] = None
        return is_new


class States:
    """The last published state of every order, position and account."""

    def __init__(self, size: int = 20_000) -> None:
        self._states: BoundedDict[_Name, _Known] = BoundedDict(size)
        #: The kinds and accounts of which a complete list was seen.
        self._listed: set[tuple[str, str | None]] = set()

    def news(
        self, event: State, account: str | None, asked_at: float, *, compared: bool, partial: bool = False
    ) -> State | None:
        """Return the event to publish for a state, None when it is no news; the state is known from now on.

        An event the provider named is published as it is. Where it named none (``event`` None) what happened is derived
        from the last known state, and an unchanged state is no news.

        Args:
            asked_at: the time the state is valid for; a list is as old as its request.
            compared: the state is of a list, and only differences are news.
            partial: what is None stays as it was last known.
        """
        item = self.not_overtaken(event, account, asked_at)
        if item is None:
            return None
        known = self._states.get(_name(item, account))
        before = None if known is None else known.event
        if item.event is not None:
            was_open = compared and self.is_open(item, account)
            changed = self.remember(item, account, asked_at) or not compared
            return (still(item) if was_open else item) if changed else None
        first_list = compared and (item.kind, item.account or account) not in self._listed
        removed = () if compared or partial else _removed(item, before)
        now = derived(item, before, partial=partial, first_list=first_list)
        if now is None:
            return None
        changed = self.remember(now, account, asked_at, without=removed)
        return now if changed or removed else None

    def remember(self, event: State, account: str | None, told_at: float, *, without: Container[str] = ()) -> bool:
        """Remember ``event``; return True if it differs from the last known state.

        A member that an event leaves out is as it was, because lists have fewer members than the stream, or other ones; the
        members in ``without`` are gone. ``vanished`` is the relay's own word and ends when the provider reports the state
        again.
        """
        name = _name(event, account)
        before = self._states.get(name)
        said = _said(event)
        members = dict.fromkeys(said, told_at) if isinstance(event, Account) else {}
        if before is not None:
            had = _said(before.event)
            is_new = any(had.get(field, _ABSENT) != value for field, value in said.items())
            event = attrs.evolve(
                event, **{field: value for field, value in had.items() if field not in said and field not in without}
            )
            told_at, members = max(told_at, before.told_at), {**before.members, **members}
        self._states[name] = _Known(event, told_at, members)
        return before is None or is_new

    def not_overtaken(self, event: State, account: str | None, asked_at: float) -> State | None:
        """Drop from an item of a list whatever was updated after ``asked_at``; return None if nothing is left.

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

    def is_open(self, event: State, account: str | None) -> bool:
        """Return True if the order or position was last known to be open."""
        known = self._states.get(_name(event, account))
        return known is not None and _is_open(known.event)

    def vanished(
        self, kind: str, account: str | None, listed: Container[str], asked_at: float
    ) -> list[Order | Position]:
        """Return the end of what was open on the account and is not ``listed`` in a complete list; each is returned once.

        ``asked_at``: when the list was asked for. What was told at that moment or later is newer than the list.
        """
        self._listed.add((kind, account))
        gone: list[Order | Position] = []
        for name, (event, told_at, _) in self._states.items():
            if name[:2] != (kind, account) or name[2] in listed or told_at >= asked_at:
                continue
            if isinstance(event, Order | Position) and _is_open(event):
                gone.append(_ended_unseen(event) if isinstance(event, Order) else _closed_unseen(event))
        for event in gone:
            self.remember(event, account, asked_at)
        return gone


_ENDS = {
    OrderStatus.FILLED: OrderEvent.ORDER_FILLED,
    OrderStatus.CANCELLED: OrderEvent.ORDER_CANCELLED,
    OrderStatus.REJECTED: OrderEvent.ORDER_REJECTED,
    OrderStatus.EXPIRED: OrderEvent.ORDER_EXPIRED,
}
#: Members a provider takes away by leaving them out of a state it sends whole.
_REMOVABLE = ("limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance", "liquidation_price")
#: Members of the moment: an earlier one is not the present one.
_MOMENTARY = ("current_price", "unrealized_pnl", "realized_pnl")
#: What a message about a closed position may leave out, because it is the same as before.
_OF_THE_CLOSED = ("side", "average_entry_price", "opened_at")


def derived(now: State, before: State | None, *, partial: bool = False, first_list: bool = False) -> State | None:
    """Return the state ``now``, whose ``event`` is None, with what happened since ``before``; None when nothing did.

    Args:
        partial: what ``now`` leaves out is as before.
        first_list: the state is of the account's first list, so that what is open in it was so already.
    """
    match now:
        case Order():
            return _derived_order(now, before if isinstance(before, Order) else None, partial=partial)
        case Position():
            known = before if isinstance(before, Position) else None
            return _derived_position(now, known, partial=partial, first_list=first_list)
    was_called = isinstance(before, Account) and before.margin_call is True
    if now.margin_call is not None and now.margin_call is not was_called:
        return attrs.evolve(now, event=AccountEvent.MARGIN_CALL if now.margin_call else AccountEvent.MARGIN_CALL_ENDED)
    is_balance = now.balance is not None and now.balance != getattr(before, "balance", None)
    return attrs.evolve(now, event=AccountEvent.BALANCE_UPDATED if is_balance else AccountEvent.METRICS_UPDATED)


def _derived_order(now: Order, before: Order | None, *, partial: bool) -> Order:
    if before is not None:
        known = [name for name in _said(before) if name != "vanished"] if partial else ["client_order_id"]
        now = _filled_in(now, before, known)
    event = OrderEvent.ORDER_CREATED if before is None else OrderEvent.ORDER_MODIFIED
    if now.status in _ENDS:
        if before is None or before.status is not now.status:
            event = _ENDS[now.status]
    elif now.status is OrderStatus.PARTIALLY_FILLED and (
        before is None or before.status is not now.status or _filled(now) > _filled(before)
    ):
        event = OrderEvent.ORDER_PARTIALLY_FILLED
    return attrs.evolve(now, event=event)


def _filled(order: Order) -> Decimal:
    return Decimal(order.filled_quantity or 0)


def _derived_position(now: Position, before: Position | None, *, partial: bool, first_list: bool) -> Position | None:
    was_open = before is not None and _is_open(before)
    if not now.quantity.strip("-0."):
        if before is None:
            return None  # a position nobody heard of is flat: nothing happened
        now = _filled_in(now, before, _OF_THE_CLOSED)
        return attrs.evolve(now, event=PositionEvent.POSITION_CLOSED)
    if before is None or not was_open:
        event = PositionEvent.POSITION_MODIFIED if first_list else PositionEvent.POSITION_OPENED
        return attrs.evolve(now, event=event)
    if partial:
        now = _filled_in(now, before, [name for name in _said(before) if name not in _MOMENTARY])
    return attrs.evolve(now, event=PositionEvent.POSITION_MODIFIED)


def _filled_in(now: Any, before: Any, names: Iterable[str]) -> Any:
    missing = {name: getattr(before, name) for name in names if getattr(now, name) is None}
    return attrs.evolve(now, **missing) if missing else now


def _removed(now: State, before: State | None) -> tuple[str, ...]:
    """Return the members that a state sent whole does not have any more."""
    if before is None or isinstance(now, Account):
        return ()
    had = (name for name in _REMOVABLE if getattr(before, name, None) is not None)
    return tuple(name for name in had if getattr(now, name) is None)


def still(event: State) -> State:
    """A difference found in what was open already: it was changed, not opened."""
    match event:
        case Order(event=OrderEvent.ORDER_CREATED):
            return attrs.evolve(event, event=OrderEvent.ORDER_MODIFIED)
        case Position(event=PositionEvent.POSITION_OPENED):
            return attrs.evolve(event, event=PositionEvent.POSITION_MODIFIED)
    return event


def _name(event: State, account: str | None) -> _Name:
    return event.kind, event.account or account, "" if isinstance(event, Account) else event.id


def _is_open(event: State) -> bool:
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
