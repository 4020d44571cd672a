"""Memory of an account's events: the fills that were published, and the last state of every order and position.

A fill is published once, although the stream, a replay or a list fetched after a reconnect may repeat it. The last states
are what a fetched list is compared with, so that after an absence only differences are published, marked ``reconciled``.
What happened to a state whose provider says only what is (``event`` None) is derived from the last known one.
What was open and is missing from a list the provider calls complete has vanished: a position of which nothing is left is
closed; of an order only that it is not open any more is known, and nothing else is said.

A list is as old as the moment it was asked for, however long its answer and its further pages take. What was told after
that is newer: it is not judged by the list, nor overwritten by what the list has of it. A fetched list may be older still,
as providers serve them from copies. So an item with an earlier ``updated_at`` of the provider's than what is known is not
used, an order that has ended is never open again by a list, and where a list contradicts what was told in the last `LAG`
seconds before the request, it is only believed when the next one says the same. Figures that follow the market are no
contradiction, nor is what can only have come later, as more of an order is filled.

Figures and times are compared as numbers and instants: ``100`` and ``100.00`` are the same balance.

Both memories outlive connections, and both are bounded: the longest unused is forgotten. Each change of them is told as a
row (`OnChange`), from which `restore` makes the same memory after a restart.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from decimal import Decimal
from math import inf
from typing import Any, NamedTuple

import attrs
import msgspec

from relay.adapter import Known
from relay.adapter.reading import is_zero
from relay.limits import BoundedDict
from relay.model.commands import Command
from relay.model.enums import AccountEvent, OrderEvent, OrderStatus, PositionEvent, TradeEvent
from relay.model.events import Account, AccountScoped, Order, Position, Stamp, Trade
from relay.model.serialize import CodecError, decode, encode
from relay.model.text import decimal_text, optional_decimal, optional_time, to_ns

#: Attributes that say what happened or when it was told, not what is; a list's ``data`` has other members than the stream's.
_NOT_STATE = ("event", "timestamp", "reconciled", "updated_at", "correlation_id", "data")

_ABSENT = object()
#: Seconds by which a fetched list may lag behind the stream.
LAG = 10.0
#: Nanoseconds by which a provider's times of one change may differ.
_SAME_CHANGE = 1_000_000_000
#: Takes the key and the value of a row that is to be stored; None removes it. It belongs to the event published with it.
OnChange = Callable[[str, bytes | None], object]
_Fill = tuple[str | None, str, str, str, str]
#: A state is stored without its session's account and provider.
_UNSTAMPED = Stamp(provider="", received_at="1970-01-01T00:00:00Z")
#: The states of an account that an adapter yields.
State = Order | Position | Account
_Name = tuple[str, str | None, str]


class _Known(NamedTuple):
    """A state, when it was last told, and of money, of which messages tell different members, when each of them was.

    ``doubted_at`` is the time of the list that contradicted it first, while that is not believed.
    """

    event: State
    told_at: float
    members: Mapping[str, float]
    doubted_at: float | None = None


def _untold(key: str, value: bytes | None) -> None:
    """Store nothing."""


class Fills:
    """The fills seen; one memory belongs to one provider.

    Ids are unique at some providers by symbol, by order, or by side only (both sides of one match have its id), so that all
    of them name a fill.
    """

    def __init__(self, size: int = 20_000) -> None:
        self.on_change: OnChange = _untold
        self._seen: BoundedDict[_Fill, str] = BoundedDict(size)
        self._filled: BoundedDict[tuple[str | None, str], Decimal] = BoundedDict(size)
        self._count = 0

    def remember(self, fill: Trade, account: str | None) -> bool:
        """Remember ``fill``; return True if it was not seen before. ``account`` is the session's own."""
        account = fill.account or account
        name = (account, fill.symbol, fill.order_id, fill.id, fill.side.value)
        if name in self._seen:
            self._seen[name] = self._seen[name]
            return False
        if len(self._seen) >= self._seen.most:
            self.on_change(_text(next(iter(self._seen))), None)
        quantity = self._counting(fill, name)
        self._add(name, quantity)
        self._count += 1
        self.on_change(_text(name), msgspec.json.encode((self._count, quantity)))
        return True

    def _counting(self, fill: Trade, name: _Fill) -> str:
        """Return by how much a fill changes what is filled of its order."""
        if fill.event is TradeEvent.TRADE_FILLED:
            return fill.quantity
        before = Decimal(self._seen.get((*name[:3], fill.corrects or "", name[4]), "0"))
        now = Decimal(0) if fill.event is TradeEvent.TRADE_BUSTED else Decimal(fill.quantity)
        return format(now - before, "f")

    def _add(self, name: _Fill, quantity: str) -> None:
        self._seen[name] = quantity
        order = name[0], name[2]
        self._filled[order] = self._filled.get(order, Decimal(0)) + Decimal(quantity)

    def restore(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Remember the fills of an earlier process too."""
        found = []
        for key, value in rows:
            try:
                count, quantity = msgspec.json.decode(value, type=tuple[int, str])
                found.append((count, msgspec.json.decode(key, type=_Fill), quantity))
            except msgspec.DecodeError:
                continue
        for count, name, quantity in sorted(found):
            if name not in self._seen:
                self._add(name, quantity)
            self._count = max(self._count, count)

    def forget(self, key: str) -> None:
        """Forget a fill whose row, of this key, was not stored: it was not published either."""
        name = msgspec.json.decode(key, type=_Fill)
        if (quantity := self._seen.pop(name, None)) is not None:
            self._filled[name[0], name[2]] -= Decimal(quantity)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield all rows, as ``on_change`` was told them."""
        for count, (name, quantity) in enumerate(self._seen.items(), self._count - len(self._seen) + 1):
            yield _text(name), msgspec.json.encode((count, quantity))

    def filled(self, fill: Trade, account: str | None) -> Decimal:
        """Return the quantity of all fills seen of the order that ``fill`` belongs to."""
        return self._filled.get((fill.account or account, fill.order_id), Decimal(0))


def _text(name: _Fill | _Name) -> str:
    return msgspec.json.encode(name).decode()


class States:
    """The last published state of every order, position and account."""

    def __init__(self, size: int = 20_000) -> None:
        self.on_change: OnChange = _untold
        self.ahead = 0.0
        """Unix time less the monotonic one, in seconds."""
        self._states: BoundedDict[_Name, _Known] = BoundedDict(size)
        #: The kinds and accounts of which a complete list was seen.
        self._listed: set[tuple[str, str | None]] = set()
        #: The orders and positions that are open, and some that were forgotten.
        self._open: dict[_Name, None] = {}
        self._is_in_doubt = False

    def take_doubt(self) -> bool:
        """Return True once if a list contradicted an event published shortly before: another list has to confirm it."""
        is_in_doubt, self._is_in_doubt = self._is_in_doubt, False
        return is_in_doubt

    def news(
        self,
        event: State,
        account: str | None,
        asked_at: float,
        *,
        compared: bool,
        partial: bool = False,
        may_lag: bool = False,
    ) -> State | None:
        """Return the event to publish for a state, None when it is no news; the state is known from now on.

        An event the provider named is published as it is, unless the same message comes twice. Where it named none
        (``event`` None) what happened is derived from the last known state, and an unchanged state is no news.

        Args:
            asked_at: the time the state is valid for; a list is as old as its request.
            compared: the state is of a list, and only differences are news.
            partial: what is None stays as it was last known.
            may_lag: the list was asked for, so that it may be older than what the stream told shortly before.
        """
        item = self.not_overtaken(event, account, asked_at)
        if (compared or may_lag) and item is not None:
            item = self._undoubted(item, account, asked_at, may_lag=may_lag)
        if item is None:
            return None
        known = self._states.get(_name(item, account))
        before = None if known is None else known.event
        if item.event is not None:
            is_repeated = not compared and before is not None and _is_repeated(item, before)
            was_open = compared and self.is_open(item, account)
            is_list = compared or may_lag
            changed = self.remember(item, account, asked_at, compared=is_list) or not (compared or is_repeated)
            return (still(item) if was_open else item) if changed else None
        first_list = compared and (item.kind, item.account or account) not in self._listed
        removed = () if compared or partial else _removed(item, before)
        now = derived(item, before, partial=partial, first_list=first_list)
        if now is None:
            return None
        changed = self.remember(now, account, asked_at, without=removed, compared=compared or may_lag)
        return now if changed or removed else None

    def remember(
        self, event: State, account: str | None, told_at: float, *, without: Container[str] = (), compared: bool = False
    ) -> bool:
        """Remember ``event``; return True if it differs from the last known state.

        What the stream repeats leaves a list's contradiction of it standing; a list that is ``compared`` ends it.

        A member that an event leaves out is as it was, because lists have fewer members than the stream, or other ones; the
        members in ``without`` are gone. ``vanished`` is the relay's own word and ends when the provider reports the state
        again.
        """
        name = _name(event, account)
        before = self._states.get(name)
        said = _said(event)
        members = dict.fromkeys(said, told_at) if isinstance(event, Account) else {}
        doubted_at = None
        if before is not None:
            had = _said(before.event)
            if not compared and not _contradicted(event, before.event):
                doubted_at = before.doubted_at
            is_new = any(not _same(field, had.get(field, _ABSENT), value) for field, value in said.items())
            event = attrs.evolve(
                event, **{field: value for field, value in had.items() if field not in said and field not in without}
            )
            told_at, members = max(told_at, before.told_at), {**before.members, **members}
        elif len(self._states) >= self._states.most:
            self.on_change(_text(next(iter(self._states))), None)
        known = self._states[name] = _Known(event, told_at, members, doubted_at)
        self._note_open(name, event)
        if self.on_change is not _untold:
            self.on_change(_text(name), self._value(known))
        return before is None or is_new

    def _value(self, known: _Known) -> bytes:
        text = encode(known.event, _UNSTAMPED, "").decode()
        members = {field: at + self.ahead for field, at in known.members.items()}
        return msgspec.json.encode((text, known.told_at + self.ahead, members))

    def restore(self, rows: Iterable[tuple[str, bytes]], now: float) -> None:
        """Know the states of an earlier process, or of another one, where they are newer than what is known.

        What cannot be read is left out: a list will tell it.
        """
        for key, value in rows:
            try:
                name = msgspec.json.decode(key, type=_Name)
                text, told_at, members = msgspec.json.decode(value, type=tuple[str, float, dict[str, float]])
                event = decode(text).event
            except (msgspec.DecodeError, CodecError):
                continue
            if not isinstance(event, Order | Position | Account):
                continue
            if name in self._states and self._states[name].told_at >= told_at - self.ahead:
                continue
            told = {field: min(now, at - self.ahead) for field, at in members.items()}
            self._states[name] = _Known(event, min(now, told_at - self.ahead), told)
            self._note_open(name, event)
            self._listed.add(name[:2])

    def learn(self, event: State, account: str | None, told_at: float) -> None:
        """Know a state that another relay published, if none is known."""
        if (name := _name(event, account)) not in self._states:
            self.remember(event, account, told_at)
            self._listed.add(name[:2])

    def forget(self, key: str) -> None:
        """Forget the state whose row, of this key, was not stored: it was not published either."""
        name = msgspec.json.decode(key, type=_Name)
        if self._states.pop(name, None) is not None:
            self._open.pop(name, None)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield all rows, as ``on_change`` was told them."""
        for name, known in self._states.items():
            yield _text(name), self._value(known)

    def _note_open(self, name: _Name, event: State) -> None:
        if not _is_open(event):
            self._open.pop(name, None)
        elif name not in self._open:
            self._open[name] = None
            if len(self._open) > self._states.most:
                self._open = {each: None for each in self._open if each in self._states}

    def find(self, kind: str, account: str | None, id: str) -> State | None:
        """Return the last known state; an account's has no id. None where none is known."""
        known = self._states.get((kind, account, id))
        return None if known is None else known.event

    def open(self, kind: str) -> list[State]:
        """Return the orders or the positions that are open, of all accounts."""
        found = (self._states.get(name) for name in self._open if name[0] == kind)
        return [known.event for known in found if known is not None]

    def not_overtaken(self, event: State, account: str | None, asked_at: float) -> State | None:
        """Drop from an item of a list whatever was updated after ``asked_at``; return None if nothing is left.

        An order or position updated since then is dropped as a whole, of an account only the updated members.
        """
        known = self._states.get(_name(event, account))
        if known is None or known.told_at <= asked_at:
            return event
        if not isinstance(event, Account):
            return None
        said = _said(event)
        newer: dict[str, Any] = {field: None for field in said if known.members.get(field, -inf) > asked_at}
        return attrs.evolve(event, **newer) if len(newer) < len(said) else None

    def _undoubted(self, item: State, account: str | None, asked_at: float, *, may_lag: bool) -> State | None:
        """Return an item of a list without what is older than what is known, or may be; None if nothing is left."""
        name = _name(item, account)
        known = self._states.get(name)
        if known is None:
            return item
        if isinstance(item, Account):
            if not may_lag:
                return item
            disputed = {
                field: None
                for field in _contradicted(item, known.event)
                if asked_at - known.members.get(field, -inf) < LAG and self._doubt(name, known, asked_at)
            }
            return attrs.evolve(item, **disputed) if len(disputed) < len(_said(item)) else None
        return None if self._is_outdated(item, name, known, asked_at, may_lag=may_lag) else item

    def _is_outdated(
        self, item: Order | Position, name: _Name, known: _Known, asked_at: float, *, may_lag: bool
    ) -> bool:
        """Return True if an order or position of a list is older than what is known, or may be."""
        assert not isinstance(known.event, Account)
        newer = _is_newer(item.updated_at, known.event.updated_at)
        ended = not _is_open(known.event) and getattr(known.event, "vanished", None) is None
        if isinstance(item, Order) and item.status.is_final and not ended:
            return False
        if newer is False or (newer is None and isinstance(item, Order) and ended and not item.status.is_final):
            return True
        if newer is not None or _is_ahead(item, known.event) or not _contradicted(item, known.event):
            return False
        return may_lag and self._doubt(name, known, asked_at)

    def _doubt(self, name: _Name, known: _Known, asked_at: float) -> bool:
        """Return True, and ask for another list, if one asked for at ``asked_at`` may be older than what is known."""
        if asked_at - known.told_at >= LAG:
            return False
        if known.doubted_at is None or asked_at <= known.doubted_at:
            self._states[name] = known._replace(doubted_at=asked_at)
            self._is_in_doubt = True
            return True
        return False

    def corrected(self, fill: Trade, account: str | None, filled: Decimal) -> Order | None:
        """Return the order of a fill that came after its end, if more was ``filled`` than the order says; else None."""
        known = self._states.get(("order", fill.account or account, fill.order_id))
        order = None if known is None else known.event
        if not isinstance(order, Order) or not order.status.is_final or filled <= _filled(order):
            return None
        left = None if order.quantity is None else Decimal(order.quantity) - filled
        is_filled = left is not None and left <= 0
        order = attrs.evolve(
            order,
            event=OrderEvent.ORDER_FILLED if is_filled else OrderEvent.ORDER_MODIFIED,
            status=OrderStatus.FILLED if is_filled else order.status,
            filled_quantity=format(filled, "f"),
            remaining_quantity=None if left is None else format(max(left, Decimal(0)), "f"),
            average_fill_price=None,
            vanished=None,
            updated_at=None,
            timestamp=fill.timestamp,
            reconciled=True,
        )
        assert known is not None
        self.remember(order, account, known.told_at, without=("average_fill_price",))
        return order

    def replaced(self, order: Order, account: str | None, told_at: float) -> Order | None:
        """Return the end of the order whose place ``order`` took, if that one was last known to be open; else None."""
        if order.replaces is None or order.status is OrderStatus.REJECTED:
            return None
        known = self._states.get(("order", order.account or account, order.replaces))
        if known is None or not isinstance(known.event, Order) or not _is_open(known.event):
            return None
        ended = attrs.evolve(
            known.event,
            event=OrderEvent.ORDER_REPLACED,
            status=OrderStatus.REPLACED,
            replaced_by=order.id,
            updated_at=None,
            timestamp=None,
            reconciled=True,
        )
        self.remember(ended, account, told_at)
        return ended

    def newest(self, order_id: str, account: str | None) -> str:
        """Return the id of the order that took the place of this one, over as many steps as are known; or its own."""
        seen = {order_id}
        while True:
            known = self._states.get(("order", account, order_id))
            next_id = known.event.replaced_by if known is not None and isinstance(known.event, Order) else None
            if next_id is None or next_id in seen:
                return order_id
            seen.add(next_id)
            order_id = next_id

    def is_open(self, event: State, account: str | None) -> bool:
        """Return True if the order or position was last known to be open."""
        known = self._states.get(_name(event, account))
        return known is not None and _is_open(known.event)

    def vanished(
        self, kind: str, account: str | None, listed: Container[str], asked_at: float, *, may_lag: bool = False
    ) -> list[Order | Position]:
        """Return the end of what was open on the account and is not ``listed`` in a complete list; each is returned once.

        Args:
            asked_at: when the list was asked for. What was told at that moment or later is newer than the list.
            may_lag: the list was fetched, so that it may be older than what the stream told shortly before.
        """
        self._listed.add((kind, account))
        gone: list[Order | Position] = []
        for name, known in list(self._states.items()):
            event, told_at = known.event, known.told_at
            if name[:2] != (kind, account) or name[2] in listed or told_at >= asked_at:
                continue
            if isinstance(event, Order | Position) and _is_open(event):
                if may_lag and self._doubt(name, known, asked_at):
                    continue
                gone.append(_ended_unseen(event) if isinstance(event, Order) else _closed_unseen(event))
        for event in gone:
            self.remember(event, account, asked_at)
        return gone


class KnownStates(Known):
    """The states as an adapter sees them; ``account`` is the session's own.

    Attributes:
        waiting: returns the commands without a reply.
    """

    def __init__(self, states: States, account: str | None) -> None:
        self._states = states
        self._account = account
        self.waiting: Callable[[], Iterable[Command]] = tuple

    def commands(self) -> Iterable[Command]:
        return self.waiting()

    def order(self, id: str, account: str | None = None) -> Order | None:
        found = self._states.find("order", account or self._account, id)
        return found if isinstance(found, Order) else None

    def position(self, id: str, account: str | None = None) -> Position | None:
        found = self._states.find("position", account or self._account, id)
        return found if isinstance(found, Position) else None

    def open_orders(self) -> list[Order]:
        return [each for each in self._states.open("order") if isinstance(each, Order)]

    def open_positions(self) -> list[Position]:
        return [each for each in self._states.open("position") if isinstance(each, Position)]


def shows_a_fill(now: State, before: State | None) -> bool:
    """Return whether an order was filled further, or an account's profit changed as only a fill changes it.

    The realized profit has changed, or the unrealized one has begun or ceased to be zero. An order that is told of when it
    has ended already is no news of a fill.
    """
    match now, before:
        case Order(), Order():
            return _filled(now) > _filled(before)
        case Order(), None:
            return _filled(now) > 0 and not now.status.is_final
        case Account(), Account():
            realized, unrealized = now.realized_pnl, now.unrealized_pnl
            if None not in (realized, before.realized_pnl) and not _same("realized_pnl", realized, before.realized_pnl):
                return True
            known = before.unrealized_pnl
            return None not in (unrealized, known) and is_zero(unrealized) is not is_zero(known)
    return False


_ENDS = {
    OrderStatus.FILLED: OrderEvent.ORDER_FILLED,
    OrderStatus.CANCELLED: OrderEvent.ORDER_CANCELLED,
    OrderStatus.REJECTED: OrderEvent.ORDER_REJECTED,
    OrderStatus.EXPIRED: OrderEvent.ORDER_EXPIRED,
    OrderStatus.REPLACED: OrderEvent.ORDER_REPLACED,
}
#: Members a provider takes away by leaving them out of a state it sends whole.
_REMOVABLE = ("limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance", "liquidation_price")
#: Members of the moment: an earlier one is not the present one.
_MOMENTARY = ("current_price", "unrealized_pnl", "realized_pnl")
#: Progress of an order by its status; all others are 1.
_PROGRESS = {OrderStatus.PENDING: 0, OrderStatus.PARTIALLY_FILLED: 2, **dict.fromkeys(_ENDS, 3)}
#: Members that the market moves by itself, so that two sources seldom have the same value.
_OF_THE_MARKET = frozenset(
    (*_MOMENTARY, "equity", "margin_used", "margin_available", "liquidation_price", "trailing_distance")
)
#: Members that a message about a closed position may leave out, because they are as before.
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
    is_balance = now.balance is not None and not _same("balance", getattr(before, "balance", None), now.balance)
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


def _is_repeated(now: State, before: State) -> bool:
    """Return True if a message says again what the last one said, with the same time of the provider's."""
    if now.timestamp is None or (now.event, now.timestamp, now.data) != (before.event, before.timestamp, before.data):
        return False
    had = _said(before)
    return all(_same(field, had.get(field, _ABSENT), value) for field, value in _said(now).items())


def _removed(now: State, before: State | None) -> tuple[str, ...]:
    """Return the members that a state sent whole does not have any more."""
    if before is None or isinstance(now, Account):
        return ()
    had = (name for name in _REMOVABLE if getattr(before, name, None) is not None)
    return tuple(name for name in had if getattr(now, name) is None)


def still(event: State) -> State:
    """Return the event of a difference found in something that was open already: modified, not opened."""
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


def _is_newer(item: str | None, known: str | None) -> bool | None:
    """Compare two of the provider's own times; None where one is missing, or they are as good as the same.

    The stream and the lists of a provider may take one change's time at different moments.
    """
    if item is None or known is None or abs(later := to_ns(item) - to_ns(known)) < _SAME_CHANGE:
        return None
    return later > 0


def _same(name: str, one: object, other: object) -> bool:
    """Return True if two values of a member are the same text, number or instant."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    if name in _DECIMALS:
        return Decimal(one) == Decimal(other)
    return name in _TIMES and to_ns(one) == to_ns(other)


def _is_ahead(item: Order | Position, known: Order | Position) -> bool:
    """Return True if more has happened to an order than is known: nothing of that can be undone."""
    if not (isinstance(item, Order) and isinstance(known, Order)):
        return False
    done, before = _PROGRESS.get(item.status, 1), _PROGRESS.get(known.status, 1)
    more = _filled(item) - _filled(known)
    return (done > before and more >= 0) or (more > 0 and done >= before)


def _contradicted(item: State, known: State) -> list[str]:
    """Return the members that both tell, with another value. Members that the market moves are none of them."""
    had = _said(known)
    return [
        field
        for field, value in _said(item).items()
        if value is not None
        and field not in _OF_THE_MARKET
        and had.get(field) is not None
        and not _same(field, had[field], value)
    ]


def _converted_by(*converters: object) -> frozenset[str]:
    return frozenset(
        a.name for cls in (Order, Position, Account) for a in attrs.fields(cls) if a.converter in converters
    )


_DECIMALS = _converted_by(decimal_text, optional_decimal)
_TIMES = _converted_by(optional_time)


def _said(event: AccountScoped) -> dict[str, Any]:
    fields = {a.name: getattr(event, a.name) for a in attrs.fields(type(event)) if a.name not in _NOT_STATE}
    return {name: value for name, value in fields.items() if value is not None or name == "vanished"}
