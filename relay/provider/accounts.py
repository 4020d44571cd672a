"""Caches of an account's events: the fills that were published, and the last state of each order, position and account.

`Fills` publishes each fill once, although the stream, a replay and a list fetched after a reconnect may all contain it.
`States` compares each new state with the last known one. It derives the event (created, filled, closed, ...) if the provider
sends states only (``event`` None). After a reconnect only differences are published, marked ``reconciled``. An order or
position that was open and is missing from a complete list has ended: the position is published as closed, the order as
``vanished``, because its final status is not known.

A list is valid for the time of its request, however long the answer and further pages take. States received after the
request are newer; the list neither overwrites nor ends them. The list may be older still, because providers serve lists
from replicas. Therefore:

- An item with an earlier ``updated_at`` than the known state is ignored.
- A list never reopens an order that has ended.
- If a list contradicts a state received within `LAG` seconds before the request, a second list must confirm it. Values that
  follow the market are exempt, and so is progress that cannot be undone, for instance a larger filled quantity.

Numbers and times are compared by value: ``100`` and ``100.00`` are the same balance.

Both caches outlive connections. Both are bounded and drop the least recently used entry. Each change is passed to
`OnChange` as a row for the store; `restore` rebuilds the cache from the rows after a restart.
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

#: Attributes that describe the event or its time, not the state. ``data`` is one: in a list it has other members.
_NOT_STATE = ("event", "timestamp", "reconciled", "updated_at", "correlation_id", "data")

_ABSENT = object()
#: Seconds by which a fetched list may lag behind the stream.
LAG = 10.0
#: Nanoseconds by which the stream's and a list's time of the same change may differ.
_SAME_CHANGE = 1_000_000_000
#: Called with the key and the value of a row to store, together with the event published next. None deletes the row.
OnChange = Callable[[str, bytes | None], object]
_Fill = tuple[str | None, str, str, str, str]
#: Stamp of a stored state. It leaves out account and provider, which all rows of a session share.
_UNSTAMPED = Stamp(provider="", received_at="1970-01-01T00:00:00Z")
#: The states of an account that an adapter yields.
State = Order | Position | Account
_Name = tuple[str, str | None, str]


class _Known(NamedTuple):
    """The last known state of an order, position or account. Times are monotonic seconds.

    Attributes:
        received_at: the time it was last reported.
        members: the time each member was last reported; for accounts only, whose messages contain different members.
        doubted_at: request time of a list that contradicts it and is not confirmed yet by a second list.
    """

    event: State
    received_at: float
    members: Mapping[str, float]
    doubted_at: float | None = None


def _ignore(key: str, value: bytes | None) -> None:
    """Store nothing."""


class Fills:
    """The fills of one provider that were published.

    A fill is identified by account, symbol, order, id and side: at some providers ids are unique only per symbol or per
    order, and at some both sides of a match share one id.
    """

    def __init__(self, size: int = 20_000) -> None:
        self.on_change: OnChange = _ignore
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
        """Return by how much a fill, correction or bust changes the filled quantity of its order."""
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
        """Add the fills that an earlier process stored; skip rows that cannot be read."""
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
        """Remove the fill of this row key: storing the row failed, so the fill was not published."""
        name = msgspec.json.decode(key, type=_Fill)
        if (quantity := self._seen.pop(name, None)) is not None:
            self._filled[name[0], name[2]] -= Decimal(quantity)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield the rows of all fills, as they were passed to ``on_change``."""
        for count, (name, quantity) in enumerate(self._seen.items(), self._count - len(self._seen) + 1):
            yield _text(name), msgspec.json.encode((count, quantity))

    def filled(self, fill: Trade, account: str | None) -> Decimal:
        """Return the total quantity of all known fills of the order that ``fill`` belongs to."""
        return self._filled.get((fill.account or account, fill.order_id), Decimal(0))


def _text(name: _Fill | _Name) -> str:
    return msgspec.json.encode(name).decode()


class States:
    """The last published state of every order, position and account."""

    def __init__(self, size: int = 20_000) -> None:
        self.on_change: OnChange = _ignore
        self.ahead = 0.0
        """Unix time minus monotonic time, in seconds."""
        self._states: BoundedDict[_Name, _Known] = BoundedDict(size)
        #: The kinds and accounts for which a complete list was received.
        self._listed: set[tuple[str, str | None]] = set()
        #: Further ids of orders, by account and id: the id that was known first.
        self._other_ids: BoundedDict[tuple[str | None, str], str] = BoundedDict(size)
        #: The `client_order_id` of accepted orders, by account and id.
        self._senders_ids: BoundedDict[tuple[str | None, str], str] = BoundedDict(size)
        #: The open orders and positions. May contain names that the bounded cache has dropped.
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
        """Remember a state and return the event to publish for it; None if it changes nothing.

        If the provider named the event, it is published unchanged, unless it repeats the last message. If it did not
        (``event`` None), the event is derived from the last known state, and an unchanged state publishes nothing.

        Args:
            asked_at: the time the state is valid for: that of the request, if it comes from a list.
            compared: the state comes from a list; only differences are published.
            partial: members that are None keep their last known values.
            may_lag: the list was fetched, so that it may be older than recent events of the stream.
        """
        event = self._with_senders_id(event, account)
        item = self.without_newer(event, account, asked_at)
        if (compared or may_lag) and item is not None:
            item = self._without_doubtful(item, account, asked_at, may_lag=may_lag)
        if item is None:
            return None
        known = self._states.get(_name(item, account))
        before = None if known is None else known.event
        if isinstance(item, Account) and item.currency is None and isinstance(before, Account):
            item = attrs.evolve(
                item, currency=before.currency
            )  # of the account; who comes later gets the newest events only
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
        self,
        event: State,
        account: str | None,
        received_at: float,
        *,
        without: Container[str] = (),
        compared: bool = False,
    ) -> bool:
        """Remember ``event``; return True if it differs from the last known state.

        A member that the event leaves out keeps its value, because lists and stream have different members. The members in
        ``without`` are removed. ``vanished`` is set by the relay, so any report of the provider removes it.

        A pending contradiction by a list (``doubted_at``) is settled if the event comes from a list (``compared``) or
        changes the state. A repetition by the stream does not settle it.
        """
        name = _name(event, account)
        before = self._states.get(name)
        reported = _members_of(event)
        members = dict.fromkeys(reported, received_at) if isinstance(event, Account) else {}
        doubted_at = None
        if before is not None:
            had = _members_of(before.event)
            if not compared and not _contradicted(event, before.event):
                doubted_at = before.doubted_at
            is_new = any(not _same(field, had.get(field, _ABSENT), value) for field, value in reported.items())
            event = attrs.evolve(
                event,
                **{field: value for field, value in had.items() if field not in reported and field not in without},
            )
            received_at, members = max(received_at, before.received_at), {**before.members, **members}
        elif len(self._states) >= self._states.most:
            self.on_change(_text(next(iter(self._states))), None)
        known = self._states[name] = _Known(event, received_at, members, doubted_at)
        self._note_open(name, event)
        if self.on_change is not _ignore:
            self.on_change(_text(name), self._value(known))
        return before is None or is_new

    def _value(self, known: _Known) -> bytes:
        text = encode(known.event, _UNSTAMPED, "").decode()
        members = {field: at + self.ahead for field, at in known.members.items()}
        return msgspec.json.encode((text, known.received_at + self.ahead, members))

    def restore(self, rows: Iterable[tuple[str, bytes]], now: float) -> None:
        """Add the states that an earlier or another process stored, except where a newer one is known.

        Rows that cannot be read are skipped: the next list reports those states again.
        """
        for key, value in rows:
            try:
                name = msgspec.json.decode(key, type=_Name)
                text, received_at, members = msgspec.json.decode(value, type=tuple[str, float, dict[str, float]])
                event = decode(text).event
            except (msgspec.DecodeError, CodecError):
                continue
            if not isinstance(event, Order | Position | Account):
                continue
            if name in self._states and self._states[name].received_at >= received_at - self.ahead:
                continue
            reported_at = {field: min(now, at - self.ahead) for field, at in members.items()}
            self._states[name] = _Known(event, min(now, received_at - self.ahead), reported_at)
            self._note_open(name, event)
            self._listed.add(name[:2])

    def learn(self, event: State, account: str | None, received_at: float) -> None:
        """Remember a state that another relay published, unless one is known."""
        if (name := _name(event, account)) not in self._states:
            self.remember(event, account, received_at)
            self._listed.add(name[:2])

    def forget(self, key: str) -> None:
        """Remove the state of this row key: storing the row failed, so the event was not published."""
        name = msgspec.json.decode(key, type=_Name)
        if self._states.pop(name, None) is not None:
            self._open.pop(name, None)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield the rows of all states, as they were passed to ``on_change``."""
        for name, known in self._states.items():
            yield _text(name), self._value(known)

    def _note_open(self, name: _Name, event: State) -> None:
        if not _is_open(event):
            self._open.pop(name, None)
        elif name not in self._open:
            self._open[name] = None
            if len(self._open) > self._states.most:
                self._open = {each: None for each in self._open if each in self._states}

    def first_id(self, account: str | None, id: str) -> str:
        """Return the id by which an order was known first."""
        return self._other_ids.get((account, id), id)

    def learn_id(self, account: str | None, first: str, other: str) -> None:
        """Know another id of the order that is known as ``first``."""
        if other != first:
            self._other_ids[account, other] = first

    def placed(self, account: str | None, id: str, client_order_id: str) -> Order | None:
        """Know the sender's id of an order that was accepted; return the order with it if it is open and had none."""
        self._senders_ids[account, id] = client_order_id
        order = self.find("order", account, id)
        if not isinstance(order, Order) or order.client_order_id is not None or not _is_open(order):
            return None
        return attrs.evolve(order, event=None)

    def _with_senders_id(self, event: State, account: str | None) -> State:
        if not isinstance(event, Order) or event.client_order_id is not None or not self._senders_ids:
            return event
        named = self._senders_ids.get((event.account or account, event.id))
        return event if named is None else attrs.evolve(event, client_order_id=named)

    def find(self, kind: str, account: str | None, id: str) -> State | None:
        """Return the last known state, or None. The ``id`` of an account's own state is empty."""
        known = self._states.get((kind, account, id))
        return None if known is None else known.event

    def open(self, kind: str) -> list[State]:
        """Return the open orders or positions of all accounts."""
        found = (self._states.get(name) for name in self._open if name[0] == kind)
        return [known.event for known in found if known is not None]

    def without_newer(self, event: State, account: str | None, asked_at: float) -> State | None:
        """Drop from a list item whatever was updated after the list was requested; return None if nothing is left.

        An order or position that was updated since is dropped entirely, an account only by its updated members.
        """
        known = self._states.get(_name(event, account))
        if known is None or known.received_at <= asked_at:
            return event
        if not isinstance(event, Account):
            return None
        reported = _members_of(event)
        newer: dict[str, Any] = {field: None for field in reported if known.members.get(field, -inf) > asked_at}
        return attrs.evolve(event, **newer) if len(newer) < len(reported) else None

    def _without_doubtful(self, item: State, account: str | None, asked_at: float, *, may_lag: bool) -> State | None:
        """Drop from a list item whatever is, or may be, older than the known state; return None if nothing is left."""
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
            return attrs.evolve(item, **disputed) if len(disputed) < len(_members_of(item)) else None
        return None if self._is_outdated(item, name, known, asked_at, may_lag=may_lag) else item

    def _is_outdated(
        self, item: Order | Position, name: _Name, known: _Known, asked_at: float, *, may_lag: bool
    ) -> bool:
        """Return True if an order or position from a list is, or may be, older than the known state."""
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
        """Return True if a list requested at ``asked_at`` may be older than the known state.

        `take_doubt` then has another list requested. A later list with the same contradiction is believed.
        """
        if asked_at - known.received_at >= LAG:
            return False
        if known.doubted_at is None or asked_at <= known.doubted_at:
            self._states[name] = known._replace(doubted_at=asked_at)
            self._is_in_doubt = True
            return True
        return False

    def corrected(self, fill: Trade, account: str | None, filled: Decimal) -> Order | None:
        """Return the corrected order if a fill arrived after the order's end and exceeds its filled quantity; else None.

        ``filled`` is the total quantity of the order's fills.
        """
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
        self.remember(order, account, known.received_at, without=("average_fill_price",))
        return order

    def replaced(self, order: Order, account: str | None, received_at: float) -> Order | None:
        """Return the ORDER_REPLACED event of the order that ``order`` replaces, if that one was still open; else None."""
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
        self.remember(ended, account, received_at)
        return ended

    def newest(self, order_id: str, account: str | None) -> str:
        """Return the id of the newest order in the chain of replacements of this one; its own if it was not replaced."""
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

    def end_missing(
        self, kind: str, account: str | None, listed: Container[str], asked_at: float, *, may_lag: bool = False
    ) -> list[Order | Position]:
        """End the account's open orders or positions that a complete list does not contain; return their events.

        Args:
            listed: the ids in the list.
            asked_at: when the list was requested. States received at that time or later are newer and not ended.
            may_lag: the list was fetched, so that it may be older than recent events of the stream.
        """
        self._listed.add((kind, account))
        gone: list[Order | Position] = []
        for name, known in list(self._states.items()):
            event, received_at = known.event, known.received_at
            if name[:2] != (kind, account) or name[2] in listed or received_at >= asked_at:
                continue
            if isinstance(event, Order | Position) and _is_open(event):
                if may_lag and self._doubt(name, known, asked_at):
                    continue
                gone.append(_ended_unseen(event) if isinstance(event, Order) else _closed_unseen(event))
        for event in gone:
            self.remember(event, account, asked_at)
        return gone


class KnownStates(Known):
    """The adapter's view of the states. ``account`` is the session's own account.

    Attributes:
        waiting: returns the commands that have no reply yet.
    """

    def __init__(self, states: States, account: str | None) -> None:
        self._states = states
        self._account = account
        self.waiting: Callable[[], Iterable[Command]] = tuple

    def commands(self) -> Iterable[Command]:
        return self.waiting()

    def order(self, id: str, account: str | None = None) -> Order | None:
        account = account or self._account
        found = self._states.find("order", account, self._states.first_id(account, id))
        return found if isinstance(found, Order) else None

    def position(self, id: str, account: str | None = None) -> Position | None:
        found = self._states.find("position", account or self._account, id)
        return found if isinstance(found, Position) else None

    def open_orders(self) -> list[Order]:
        return [each for each in self._states.open("order") if isinstance(each, Order)]

    def open_positions(self) -> list[Position]:
        return [each for each in self._states.open("position") if isinstance(each, Position)]


def shows_a_fill(now: State, before: State | None) -> bool:
    """Return whether a state shows that a fill happened.

    An order's filled quantity has grown, an account's realized profit has changed, or its unrealized profit has become or
    ceased to be zero. An order first reported after its end does not count: its fills may be old.
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
#: Members that a provider removes by leaving them out of a complete state.
_REMOVABLE = ("limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance", "liquidation_price")
#: Members that are only valid at the time of the message and are not carried over from an earlier state.
_MOMENTARY = ("current_price", "unrealized_pnl", "realized_pnl")
#: Progress of an order by its status; a status that is not here has 1.
_PROGRESS = {OrderStatus.PENDING: 0, OrderStatus.PARTIALLY_FILLED: 2, **dict.fromkeys(_ENDS, 3)}
#: Members that change with market prices, so that two sources seldom have the same value.
_OF_THE_MARKET = frozenset(
    (*_MOMENTARY, "equity", "margin_used", "margin_available", "liquidation_price", "trailing_distance")
)
#: Members that a message about a closed position may leave out; they keep their last values.
_OF_THE_CLOSED = ("side", "average_entry_price", "opened_at")


def derived(now: State, before: State | None, *, partial: bool = False, first_list: bool = False) -> State | None:
    """Derive the event of the state ``now``, whose ``event`` is None, from the state before; None if nothing happened.

    Args:
        partial: members that ``now`` leaves out keep their values.
        first_list: the state comes from the account's first list: a position in it was not opened just now.
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
        known = [name for name in _members_of(before) if name != "vanished"] if partial else ["client_order_id"]
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
            return None  # an unknown position that is flat: nothing happened
        now = _filled_in(now, before, _OF_THE_CLOSED)
        return attrs.evolve(now, event=PositionEvent.POSITION_CLOSED)
    if before is None or not was_open:
        event = PositionEvent.POSITION_MODIFIED if first_list else PositionEvent.POSITION_OPENED
        return attrs.evolve(now, event=event)
    if partial:
        now = _filled_in(now, before, [name for name in _members_of(before) if name not in _MOMENTARY])
    return attrs.evolve(now, event=PositionEvent.POSITION_MODIFIED)


def _filled_in(now: Any, before: Any, names: Iterable[str]) -> Any:
    missing = {name: getattr(before, name) for name in names if getattr(now, name) is None}
    return attrs.evolve(now, **missing) if missing else now


def _is_repeated(now: State, before: State) -> bool:
    """Return True if a message repeats the last one: same event, state and timestamp."""
    if now.timestamp is None or (now.event, now.timestamp, now.data) != (before.event, before.timestamp, before.data):
        return False
    had = _members_of(before)
    return all(_same(field, had.get(field, _ABSENT), value) for field, value in _members_of(now).items())


def _removed(now: State, before: State | None) -> tuple[str, ...]:
    """Return the members that a complete state no longer has."""
    if before is None or isinstance(now, Account):
        return ()
    had = (name for name in _REMOVABLE if getattr(before, name, None) is not None)
    return tuple(name for name in had if getattr(now, name) is None)


def still(event: State) -> State:
    """Turn a CREATED or OPENED event of an order or position that is known to be open into a MODIFIED one."""
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
    """Compare two ``updated_at`` times of the provider; None if one is missing or they differ by less than `_SAME_CHANGE`.

    The stream and the lists of a provider may give slightly different times for the same change.
    """
    if item is None or known is None or abs(later := to_ns(item) - to_ns(known)) < _SAME_CHANGE:
        return None
    return later > 0


def _same(name: str, one: object, other: object) -> bool:
    """Return True if two values of a member are equal as text, number or time."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    if name in _DECIMALS:
        return Decimal(one) == Decimal(other)
    return name in _TIMES and to_ns(one) == to_ns(other)


def _is_ahead(item: Order | Position, known: Order | Position) -> bool:
    """Return True if a listed order has progressed further than the known state. Progress cannot be undone."""
    if not (isinstance(item, Order) and isinstance(known, Order)):
        return False
    done, before = _PROGRESS.get(item.status, 1), _PROGRESS.get(known.status, 1)
    more = _filled(item) - _filled(known)
    return (done > before and more >= 0) or (more > 0 and done >= before)


def _contradicted(item: State, known: State) -> list[str]:
    """Return the members that both states have with different values, without those that follow the market."""
    had = _members_of(known)
    return [
        field
        for field, value in _members_of(item).items()
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


def _members_of(event: AccountScoped) -> dict[str, Any]:
    fields = {a.name: getattr(event, a.name) for a in attrs.fields(type(event)) if a.name not in _NOT_STATE}
    return {name: value for name, value in fields.items() if value is not None or name == "vanished"}
