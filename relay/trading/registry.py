"""The registry: between those who send commands and the sessions that carry them out.

A command taken here is a ticket until it has its one reply. What holds:

- A command has up to three names on its account: its ``id``, its idempotency key, and an order's ``client_order_id``. A
  command that comes again under any of them is not sent again: it is answered with the first one's reply, for which it
  waits where that is still open. Another command under a name in use is refused (`Conflict`); the ``id`` does not make
  a command another one.
- Every ticket ends with exactly one reply. The session's is let through once; a ticket without one after its deadline and
  `GRACE` is ended as unknown here; whatever a session says after that is counted and goes no further.
- Unknown is not for ever. What the account's stream shows of the same order (by its ``client_order_id``, or by the id of
  the order or position a command names) while the command is open makes an unknown reply a known one, marked
  ``reconciled``. What it shows later is no second reply: it is what a repetition of the command is answered with.
- Nothing grows without bound. Replies are remembered `AGE` seconds, at most `MOST` of them and `MOST_BYTES` of their
  JSON, the oldest forgotten first; the answers of commands that change nothing not at all. More open commands are refused
  (`Full`). A restart forgets everything: a name used before it is free again.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from math import inf
from typing import Any

import attrs
from attrs import Factory, define, frozen

from relay.model.commands import (
    AmendOrder,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    ListAccounts,
    ListOrders,
    ListPositions,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.model.enums import OrderEvent, OrderStatus, Outcome, PositionEvent
from relay.model.events import Event, Order, Position, Reply, Stamp
from relay.model.serialize import encode

AGE = 3600.0
"""Seconds a reply is remembered."""
MOST = 10_000
"""Commands open or remembered."""
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of the remembered replies."""
GRACE = 2.0
"""Seconds behind its deadline after which a command is ended here."""

#: Commands that change nothing: repeating one does no harm, so their replies are not remembered.
READING = (OrderHistory, PositionHistory, TradeHistory, ListAccounts, ListPositions, ListOrders, GetQuote)
#: The kinds of events the registry wants to see.
SEEN = frozenset({Reply, Order, Position})

_SILENT = {"code": "deadline", "message": "the session with the provider said nothing in time"}


@frozen
class Scope:
    """Whose names these are: one account of one provider, None where its events name none."""

    provider: str
    account: str | None


Name = tuple[Scope, str, str]


class Conflict(Exception):
    """A name that another command has; ``field`` says which one."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Full(Exception):
    """Too many commands wait for their replies."""


@define(eq=False)
class PendingCommand:
    """One command and, once it has come, its reply."""

    scope: Scope
    command: Command
    due_at: float
    """When the session owes the reply, monotonic seconds."""
    names: tuple[Name, ...] = ()
    reply: Reply | None = None
    answer: bytes = b""
    """The reply as canonical JSON; empty while it is open."""
    answered_at: float = inf
    _stamp: Stamp | None = None
    _id: str = ""
    _shown: Reply | None = None
    _waiting: list[Callable[[], object]] = Factory(list)

    @property
    def outcome(self) -> Outcome | None:
        """What is known of the command's fate; None while it is open."""
        return None if self.reply is None else self.reply.outcome

    def when_answered(self, call: Callable[[], object]) -> None:
        """Have ``call`` called as soon as there is a reply, at once where there is one."""
        if self.reply is not None:
            call()
        else:
            self._waiting.append(call)

    def _answered(self, reply: Reply, stamp: Stamp, id: str, now: float) -> None:
        self.reply, self._stamp, self._id, self.answered_at = reply, stamp, id, now
        self.answer = encode(reply, stamp, id)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _show(self, event: Order | Position) -> None:
        """The stream shows something of what this command asked for."""
        found = fate(self.command, event)
        if found is None:
            return
        self._shown = found
        if self.reply is not None and self.reply.outcome is Outcome.UNKNOWN and self._stamp is not None:
            self.reply = found
            self.answer = encode(found, self._stamp, self._id)


class CommandRegistry:
    """All commands of one relay that are open or remembered. Times are monotonic seconds."""

    def __init__(self, *, age: float = AGE, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._age, self._most, self._most_bytes = age, most, most_bytes
        self._open: dict[tuple[Scope, str], PendingCommand] = {}
        self._kept: OrderedDict[tuple[Scope, str], PendingCommand] = OrderedDict()
        self._names: dict[Name, PendingCommand] = {}
        self._watched: dict[tuple[Scope, str, str], list[PendingCommand]] = {}
        self._bytes = 0
        self.notes: Counter[str] = Counter()
        """What happened: replies by outcome, ``repeated``, ``conflict``, ``resolved``, ``late_reply``."""

    def __len__(self) -> int:
        """Commands open or remembered."""
        return len(self._open) + len(self._kept)

    @property
    def open(self) -> int:
        """Commands without a reply."""
        return len(self._open)

    # --- from those who send -----------------------------------------------------------------------------------------

    def take(
        self, scope: Scope, command: Command, key: str | None, due_at: float, now: float
    ) -> tuple[PendingCommand, bool]:
        """The ticket of this command, and whether it is new: only then it is to be sent.

        Raises:
            Conflict: a name of it belongs to another command.
            Full: there are too many open commands.
        """
        self.forget(now)
        names = tuple(_names(scope, command, key))
        for name in names:
            ticket = self._names.get(name)
            if ticket is not None:
                return self._again(ticket, name, command), False
        if len(self._open) >= self._most:
            self.notes["full"] += 1
            raise Full(f"{self._most} commands are waiting for their replies")
        ticket = PendingCommand(scope, command, due_at, names)
        self._open[scope, command.id] = ticket
        self._names.update(dict.fromkeys(names, ticket))
        for subject in _subjects(ticket):
            self._watched.setdefault(subject, []).append(ticket)
        return ticket, True

    def _again(self, ticket: PendingCommand, name: Name, command: Command) -> PendingCommand:
        if attrs.evolve(command, id=ticket.command.id) != ticket.command:
            self.notes["conflict"] += 1
            field, value = name[1], name[2]
            raise Conflict(field, f"{field} {value} was used for another command ({ticket.command.name})")
        self.notes["repeated"] += 1
        return ticket

    def drop(self, ticket: PendingCommand) -> None:
        """The command was not sent and will not be: it never was."""
        self._open.pop((ticket.scope, ticket.command.id), None)
        self._forget_names(ticket)

    # --- from the sessions -------------------------------------------------------------------------------------------

    def seen(self, event: Event, stamp: Stamp) -> Event | None:
        """What is to be published in place of ``event``, one of the kinds in `SEEN`; None for a second reply."""
        match event:
            case Reply():
                return self._replied(event, stamp)
            case Order() | Position():
                self._watch(event, stamp)
        return event

    def _replied(self, reply: Reply, stamp: Stamp) -> Reply | None:
        scope = Scope(stamp.provider, stamp.account or reply.account)
        ticket = self._open.get((scope, reply.id))
        if ticket is not None:
            if reply.outcome is Outcome.UNKNOWN and ticket._shown is not None:
                self.notes["resolved"] += 1
                return ticket._shown
            return reply
        if (scope, reply.id) in self._kept:
            self.notes["late_reply"] += 1
            return None
        return reply  # to a command that was not taken here

    def published(self, reply: Reply, stamp: Stamp, id: str, now: float) -> None:
        """``reply`` was published under ``id``: whoever waits for it gets it."""
        scope = Scope(stamp.provider, stamp.account or reply.account)
        ticket = self._open.pop((scope, reply.id), None)
        if ticket is None:
            return
        self.notes[reply.outcome.value] += 1
        if reply.outcome is not Outcome.UNKNOWN:
            self._unwatch(ticket)
        ticket._answered(reply, stamp, id, now)
        if isinstance(ticket.command, READING) and reply.outcome is not Outcome.UNKNOWN:
            self._forget_names(ticket)
            return
        self._kept[scope, reply.id] = ticket
        self._bytes += len(ticket.answer)
        self.forget(now)

    def _watch(self, event: Order | Position, stamp: Stamp) -> None:
        if not self._watched or event.is_foreign(stamp):
            return
        scope = Scope(stamp.provider, stamp.account or event.account)
        subjects = [("position" if isinstance(event, Position) else "order", event.id)]
        if isinstance(event, Order) and event.client_order_id is not None:
            subjects.append(("client_order_id", event.client_order_id))
        for what, id in subjects:
            for ticket in list(self._watched.get((scope, what, id), ())):
                was = ticket.outcome
                size = len(ticket.answer)
                ticket._show(event)
                self._bytes += len(ticket.answer) - size
                if was is Outcome.UNKNOWN and ticket.outcome is not was:
                    self.notes["resolved"] += 1
                    self._unwatch(ticket)

    # --- time --------------------------------------------------------------------------------------------------------

    def overdue(self, now: float, error: Mapping[str, str] = _SILENT) -> Iterator[tuple[PendingCommand, Reply]]:
        """The commands whose session has said nothing in time, with the unknown reply that is to be published."""
        for ticket in [ticket for ticket in self._open.values() if ticket.due_at + GRACE <= now]:
            command = ticket.command
            yield ticket, Reply(id=command.id, account=command.account, ok=False, outcome=Outcome.UNKNOWN, error=error)

    def forget(self, now: float) -> None:
        """Forget the replies that are too old or too many."""
        while self._kept:
            oldest = next(iter(self._kept.values()))
            crowded = len(self) > self._most or self._bytes > self._most_bytes
            if not crowded and oldest.answered_at + self._age > now:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest.answer)
            self._forget_names(oldest)

    def _forget_names(self, ticket: PendingCommand) -> None:
        for name in ticket.names:
            self._names.pop(name, None)
        self._unwatch(ticket)

    def _unwatch(self, ticket: PendingCommand) -> None:
        for subject in _subjects(ticket):
            left = [other for other in self._watched.get(subject, ()) if other is not ticket]
            if left:
                self._watched[subject] = left
            else:
                self._watched.pop(subject, None)

    def snapshot(self) -> dict[str, Any]:
        """Counters for the status page."""
        return {"open": len(self._open), "remembered": len(self._kept), **self.notes}


def _names(scope: Scope, command: Command, key: str | None) -> Iterator[Name]:
    yield scope, "id", command.id
    if key is not None:
        yield scope, "Idempotency-Key", key
    if isinstance(command, PlaceOrder) and command.client_order_id is not None:
        yield scope, "client_order_id", command.client_order_id


def _subjects(ticket: PendingCommand) -> Iterator[tuple[Scope, str, str]]:
    """What of the account's stream says something about the command's fate."""
    match ticket.command:
        case PlaceOrder(client_order_id=str(client_order_id)):
            yield ticket.scope, "client_order_id", client_order_id
        case CancelOrder(order_id=order_id) | AmendOrder(order_id=order_id):
            yield ticket.scope, "order", order_id
        case ClosePosition(position_id=position_id, quantity=None):
            yield ticket.scope, "position", position_id


def fate(command: Command, event: Order | Position) -> Reply | None:
    """What ``event``, which concerns the same order or position, says of the fate of ``command``; None for nothing."""
    match command, event:
        case PlaceOrder(), Order(status=OrderStatus.REJECTED):
            return _refused(command, event)
        case PlaceOrder(), Order():
            return _done(command, order_id=event.id, status=event.status)
        case CancelOrder(), Order(status=OrderStatus.CANCELLED):
            return _done(command, order_id=event.id, status=event.status)
        case AmendOrder(), Order(event=OrderEvent.ORDER_MODIFIED) if _has_all(event, command):
            return _done(command, order_id=event.id, status=event.status)
        case AmendOrder(), Order(status=OrderStatus.FILLED | OrderStatus.EXPIRED) if _has_all(event, command):
            return _done(command, order_id=event.id, status=event.status)
        case AmendOrder(), Order(status=OrderStatus.FILLED):  # before the amendment, or because of it
            return None
        # CANCELLED is final too, but no refusal of an amendment: a broker may amend by cancelling and placing anew.
        case CancelOrder() | AmendOrder(), Order(status=status) if (
            status.is_final and status is not OrderStatus.CANCELLED
        ):
            return _refused(command, event)
        case ClosePosition(), Position(event=PositionEvent.POSITION_CLOSED):
            return _done(command, position_id=event.id)
    return None


def _has_all(order: Order, asked: AmendOrder) -> bool:
    """Whether the order has everything the amendment asked for, as far as numbers tell."""
    pairs = [
        (getattr(asked, name), getattr(order, name))
        for name in ("quantity", "limit_price", "stop_price", "stop_loss", "take_profit")
        if getattr(asked, name) is not None
    ]
    return bool(pairs) and all(has is not None and Decimal(has) == Decimal(wanted) for wanted, has in pairs)


def _done(command: Command, **result: Any) -> Reply:
    return Reply(
        id=command.id, account=command.account, ok=True, outcome=Outcome.ACCEPTED, result=result, reconciled=True
    )


def _refused(command: Command, order: Order) -> Reply:
    error = {
        "code": str(order.status).lower(),
        "message": order.reject_reason or f"the order is {order.status}",
        "order_id": order.id,
    }
    return Reply(
        id=command.id, account=command.account, ok=False, outcome=Outcome.REJECTED, error=error, reconciled=True
    )
