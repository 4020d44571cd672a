"""The registry: every trading command of the relay, from request to reply.

Senders and the sessions that carry commands out share this one table. What holds:

- A command has up to three names on its account: its ``id``, its idempotency key, and an order's ``client_order_id``. A
  command that is repeated under any of them is not sent again: it is answered with the first one's reply, for which it
  waits where that is still open. Another command under a name in use is refused (`Conflict`); the ``id`` does not make
  a command another one.
- Every command ends with exactly one reply. One that was never sent is REJECTED: nothing can have come of it. One that
  was sent ends ACCEPTED or REJECTED by the provider's answer, and UNKNOWN when its deadline passes, the connection it was
  sent on is lost, or the HTTP request got no answer that says anything of the order (`nothing_known`): the order may be
  live. If a session has not replied `GRACE` after the deadline, the command ends as unknown here. Later replies are
  counted and not published.
- An error that names no command answers none. A command that ends unknown lists the errors received since it was sent on
  the same connection.
- An unknown outcome is corrected by the account's stream. What the stream shows of the same order (by its
  ``client_order_id``, or by the id of the order or position a command names) while the command is open makes an unknown
  reply a known one, marked ``reconciled``. What it shows later is no second reply: it answers a repetition of the command.
- Nothing grows without bound. Replies are remembered `AGE` seconds, at most `MOST` of them and `MOST_BYTES` of their
  JSON, the oldest forgotten first; the answers of commands that change nothing are not remembered. More than `MOST_OPEN`
  open commands of a session are refused (`Full`). A restart forgets everything: a name used before it is free again.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from math import inf
from typing import Any

import attrs
from attrs import Factory, define, field, frozen

from relay.adapter import Answer
from relay.model.channels import Stream
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

COMMAND = "client-command"
"""The client event by which a subscriber of an account's channel sends a command. The other members do not get it."""
AGE = 3600.0
"""Seconds a reply is remembered."""
MOST = 10_000
"""Commands open or remembered."""
MOST_OPEN = 1000
"""Commands of one session that may wait for their replies."""
WITHIN = 10.0
"""Seconds until the reply to a command that names no deadline."""
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of the remembered replies."""
GRACE = 2.0
"""Seconds after its deadline until a command without a reply ends here."""
#: Errors that are kept for one command.
MOST_ERRORS = 3

#: Commands that change nothing: repeating one does no harm, so their replies are not remembered.
READING = (OrderHistory, PositionHistory, TradeHistory, ListAccounts, ListPositions, ListOrders, GetQuote)
#: The types of events that `CommandRegistry.check` is to be given.
CHECKED = frozenset({Reply, Order, Position})

_NONE: dict[str, "PendingCommand"] = {}
_SILENT = {"code": "deadline", "message": "the session with the provider said nothing in time"}


@frozen
class Scope:
    """One account of one provider, None where its events name none. A session is identified by its own account's."""

    provider: str
    account: str | None


Name = tuple[Scope, str, str]


@frozen(kw_only=True)
class ClientCommand:
    """A command that came on an account's channel.

    Attributes:
        stream: the account's.
        channel: the channel's name, prefix included.
        user_id: the member the connection joined the channel as; None where the authorization named none.
        user_info: JSON text of what the authorization says of the member.
        data: the command's text.
    """

    stream: Stream
    channel: str
    socket_id: str
    user_id: str | None = None
    user_info: str | None = field(default=None, repr=False)
    data: str


@frozen
class Rejected:
    """The command is not taken; the sender is told why."""

    message: str


@frozen
class Repeated:
    """The command was taken before and has its reply: the sender gets it again, as the canonical event's JSON."""

    reply: str


OnCommand = Callable[[ClientCommand], Rejected | Repeated | None]
"""Takes a command; None where its reply will come on the channel. Must not wait nor raise."""


def off(command: ClientCommand) -> Rejected:
    """Reject the command: the hub takes none."""
    return Rejected("this relay takes no commands")


class Conflict(Exception):
    """Raised when a name belongs to another command; ``field`` is the kind of name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Full(Exception):
    """Raised when too many commands wait for their replies."""


@define(eq=False)
class PendingCommand:
    """One command and its reply.

    Attributes:
        session: the session that carries it out.
        scope: the account its names belong to.
        due_at: its deadline, monotonic seconds.
        sent: whether it was sent to the provider.
        over_http: whether it was sent as an HTTP request, which outlives the WebSocket.
        errors: errors that came since it was sent and named no command.
        answer: the reply as it was published, canonical JSON; empty while the command is open.
    """

    session: Scope
    scope: Scope
    command: Command
    due_at: float
    names: tuple[Name, ...] = ()
    sent: bool = False
    over_http: bool = False
    errors: list[dict[str, str]] = Factory(list)
    reply: Reply | None = None
    answer: bytes = b""
    answered_at: float = inf
    _stamp: Stamp | None = None
    _id: str = ""
    _shown: Reply | None = None
    _waiting: list[Callable[[], object]] = Factory(list)

    @property
    def outcome(self) -> Outcome | None:
        """The outcome by the present reply; None while the command is open."""
        return None if self.reply is None else self.reply.outcome

    def when_answered(self, call: Callable[[], object]) -> None:
        """Call ``call`` as soon as there is a reply, at once if there is one."""
        if self.reply is not None:
            call()
        else:
            self._waiting.append(call)

    def replied(self, result: Any, error: Any) -> Reply:
        """Return the reply by the provider's answer."""
        return self._reply(Outcome.ACCEPTED if error is None else Outcome.REJECTED, result=result, error=error)

    def refused(self, code: str, message: str) -> Reply:
        """Return the reply to a command that is not sent."""
        return self._reply(Outcome.REJECTED, error={"code": code, "message": message})

    def unanswered(self, answer: Answer) -> Reply:
        """Return the reply after an HTTP answer that does not tell the command's fate, see `nothing_known`."""
        what = f"HTTP status {answer.status}" if answer.status else "no usable answer"
        message = f"{what}: {answer.text[:500]}" if answer.text else what
        return self._reply(Outcome.UNKNOWN, error={"code": "no_answer", "message": message})

    def given_up(self, code: str, message: str) -> Reply:
        """Return the reply to a command that is waited for no longer: unknown if it was sent, else rejected."""
        if not self.sent:
            return self.refused(f"{code}_before_sent", f"{message}, and the command had not been sent")
        heard = {"heard": self.errors} if self.errors else {}
        return self._reply(Outcome.UNKNOWN, error={"code": code, "message": message, **heard})

    def _reply(self, outcome: Outcome, *, result: Any = None, error: Any = None) -> Reply:
        ok, command = outcome is Outcome.ACCEPTED, self.command
        return Reply(id=command.id, account=command.account, ok=ok, outcome=outcome, result=result, error=error)

    def _settle(self, reply: Reply, stamp: Stamp, now: float, id: str, data: bytes) -> None:
        self.reply, self._stamp, self._id, self.answered_at = reply, stamp, id, now
        self.answer = data
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _show(self, event: Order | Position) -> None:
        """Take over what the account's stream shows of this command's order or position."""
        found = fate(self.command, event)
        if found is None:
            return
        self._shown = found
        if self.reply is not None and self.reply.outcome is Outcome.UNKNOWN and self._stamp is not None:
            self.reply = found
            self.answer = encode(found, self._stamp, self._id)


class CommandRegistry:
    """All commands of one relay that are open or remembered. Times are monotonic seconds."""

    def __init__(
        self, *, age: float = AGE, most: int = MOST, most_bytes: int = MOST_BYTES, most_open: int = MOST_OPEN
    ) -> None:
        self._age, self._most, self._most_bytes, self._most_open = age, most, most_bytes, most_open
        #: Open commands by the session that carries them out, and their ids.
        self._open: dict[Scope, dict[str, PendingCommand]] = {}
        self._kept: OrderedDict[tuple[Scope, str], PendingCommand] = OrderedDict()
        self._names: dict[Name, PendingCommand] = {}
        self._watched: dict[tuple[Scope, str, str], list[PendingCommand]] = {}
        self._bytes = 0
        self.notes: Counter[str] = Counter()
        """Counters: replies by outcome, ``repeated``, ``conflict``, ``full``, ``resolved``, ``late_reply``."""

    def __len__(self) -> int:
        """Commands open or remembered."""
        return self.open + len(self._kept)

    @property
    def open(self) -> int:
        """Commands without a reply."""
        return sum(map(len, self._open.values()))

    # --- from senders ------------------------------------------------------------------------------------------------

    def take(
        self, session: Scope, command: Command, key: str | None, due_at: float, now: float
    ) -> tuple[PendingCommand, bool]:
        """Return the entry of ``command``, and whether it is new: only then it is to be sent.

        Raises:
            Conflict: a name of it belongs to another command.
            Full: the session has too many open commands.
        """
        self.forget(now)
        scope = Scope(session.provider, session.account or command.account)
        names = tuple(_names(scope, command, key))
        for name in names:
            pending = self._names.get(name)
            if pending is not None:
                return self._again(pending, name, command), False
        waiting = self._open.get(session, _NONE)
        if command.id in waiting:  # on another account of the session; providers answer by the id alone
            raise Conflict("id", f"a command with id {command.id} is still waiting for its reply")
        if len(waiting) >= self._most_open:
            self.notes["full"] += 1
            raise Full(f"{self._most_open} commands are waiting for their replies")
        pending = PendingCommand(session, scope, command, due_at, names)
        self._open.setdefault(session, {})[command.id] = pending
        self._names.update(dict.fromkeys(names, pending))
        for subject in _subjects(pending):
            self._watched.setdefault(subject, []).append(pending)
        return pending, True

    def _again(self, pending: PendingCommand, name: Name, command: Command) -> PendingCommand:
        if attrs.evolve(command, id=pending.command.id) != pending.command:
            self.notes["conflict"] += 1
            field, value = name[1], name[2]
            raise Conflict(field, f"{field} {value} was used for another command ({pending.command.name})")
        self.notes["repeated"] += 1
        return pending

    # --- from sessions -----------------------------------------------------------------------------------------------

    def find(self, session: Scope, id: str) -> PendingCommand | None:
        """Return the open command of this id that the session carries out."""
        return self._open.get(session, _NONE).get(id)

    def open_of(self, session: Scope) -> list[PendingCommand]:
        """Return the open commands of the session."""
        return list(self._open.get(session, _NONE).values())

    def deadline(self, session: Scope) -> float:
        """Return the earliest deadline of the session's open commands."""
        return min((pending.due_at for pending in self._open.get(session, _NONE).values()), default=inf)

    def add_error(self, session: Scope, code: str, message: str) -> None:
        """Keep an error that names no command for the commands it may concern."""
        for pending in self._open.get(session, _NONE).values():
            if pending.sent and not pending.over_http and len(pending.errors) < MOST_ERRORS:
                pending.errors.append({"code": code, "message": message})

    # --- from the path of events -------------------------------------------------------------------------------------

    def check(self, event: Event, stamp: Stamp) -> Event | None:
        """Return what to publish in place of ``event``, one of the types in `CHECKED`; None for a second reply."""
        match event:
            case Reply():
                return self._check_reply(event, stamp)
            case Order() | Position():
                self._watch(event, stamp)
        return event

    def _check_reply(self, reply: Reply, stamp: Stamp) -> Reply | None:
        pending = self._find_by_stamp(reply, stamp)
        if pending is not None:
            if reply.outcome is Outcome.UNKNOWN and pending._shown is not None:
                self.notes["resolved"] += 1
                return pending._shown
            return reply
        if (Scope(stamp.provider, stamp.account or reply.account), reply.id) in self._kept:
            self.notes["late_reply"] += 1
            return None
        return reply  # to a command that was not taken here

    def _find_by_stamp(self, reply: Reply, stamp: Stamp) -> PendingCommand | None:
        own = self.find(Scope(stamp.provider, stamp.account), reply.id)
        if own is not None or stamp.account is None:
            return own
        # The stamp may name an account that a session with several of them carries commands out for.
        other = self.find(Scope(stamp.provider, None), reply.id)
        return other if other is not None and other.scope.account == stamp.account else None

    def settle(self, reply: Reply, stamp: Stamp, now: float, id: str = "", data: bytes = b"") -> None:
        """End the command that ``reply`` answers, and wake its waiters.

        ``id`` and ``data`` are the id and the canonical JSON it was published with, left out if it was not published.
        """
        pending = self._find_by_stamp(reply, stamp)
        if pending is None:
            return
        waiting = self._open[pending.session]
        del waiting[reply.id]
        if not waiting:
            del self._open[pending.session]
        self.notes[reply.outcome.value] += 1
        if reply.outcome is not Outcome.UNKNOWN:
            self._unwatch(pending)
        id = id or reply.id
        pending._settle(reply, stamp, now, id, data or encode(reply, stamp, id))
        if isinstance(pending.command, READING) and reply.outcome is not Outcome.UNKNOWN:
            self._forget_names(pending)
            return
        self._kept[pending.scope, reply.id] = pending
        self._bytes += len(pending.answer)
        self.forget(now)

    def _watch(self, event: Order | Position, stamp: Stamp) -> None:
        if not self._watched or event.is_foreign(stamp):
            return
        scope = Scope(stamp.provider, stamp.account or event.account)
        subjects = [("position" if isinstance(event, Position) else "order", event.id)]
        if isinstance(event, Order) and event.client_order_id is not None:
            subjects.append(("client_order_id", event.client_order_id))
        for what, id in subjects:
            for pending in list(self._watched.get((scope, what, id), ())):
                was = pending.outcome
                size = len(pending.answer)
                pending._show(event)
                self._bytes += len(pending.answer) - size
                if was is Outcome.UNKNOWN and pending.outcome is not was:
                    self.notes["resolved"] += 1
                    self._unwatch(pending)

    # --- time --------------------------------------------------------------------------------------------------------

    def overdue(self, now: float, error: Mapping[str, str] = _SILENT) -> Iterator[tuple[PendingCommand, Reply]]:
        """Yield the commands whose session did not reply in time, each with the unknown reply to publish."""
        late = [each for waiting in self._open.values() for each in waiting.values() if each.due_at + GRACE <= now]
        for pending in late:
            yield pending, pending._reply(Outcome.UNKNOWN, error=error)

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

    def _forget_names(self, pending: PendingCommand) -> None:
        for name in pending.names:
            self._names.pop(name, None)
        self._unwatch(pending)

    def _unwatch(self, pending: PendingCommand) -> None:
        for subject in _subjects(pending):
            left = [other for other in self._watched.get(subject, ()) if other is not pending]
            if left:
                self._watched[subject] = left
            else:
                self._watched.pop(subject, None)

    def snapshot(self) -> dict[str, Any]:
        """Counters for the status page."""
        return {"open": self.open, "remembered": len(self._kept), **self.notes}


def nothing_known(answer: Answer) -> bool:
    """Return whether an HTTP answer leaves open if the order was carried out.

    501 does not: the provider has no such function. 499 comes from a proxy (nginx) whose connection ended before its
    server answered.
    """
    return answer.status in (0, 408, 499) or (answer.status >= 500 and answer.status != 501)


def _names(scope: Scope, command: Command, key: str | None) -> Iterator[Name]:
    yield scope, "id", command.id
    if key is not None:
        yield scope, "Idempotency-Key", key
    if isinstance(command, PlaceOrder) and command.client_order_id is not None:
        yield scope, "client_order_id", command.client_order_id


def _subjects(pending: PendingCommand) -> Iterator[tuple[Scope, str, str]]:
    """Yield the names under which the account's stream tells the command's fate."""
    match pending.command:
        case PlaceOrder(client_order_id=str(client_order_id)):
            yield pending.scope, "client_order_id", client_order_id
        case CancelOrder(order_id=order_id) | AmendOrder(order_id=order_id):
            yield pending.scope, "order", order_id
        case ClosePosition(position_id=position_id, quantity=None):
            yield pending.scope, "position", position_id


def fate(command: Command, event: Order | Position) -> Reply | None:
    """Return the reply that ``event``, of the same order or position, gives to ``command``; None if it gives none."""
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
    """Return True if the order's numbers are all those that the amendment asked for."""
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
