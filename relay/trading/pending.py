"""One trading command from request to reply: its entry in the registry, its outcome, and its record in the store."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any, TypeGuard

import attrs
import msgspec
from attrs import Factory, define, frozen

from relay.adapter import Answer, CommandReply, Unknown, reading
from relay.model import command_input, serialize
from relay.model.commands import (
    AmendOrder,
    Call,
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
from relay.model.enums import ErrorCode, OrderEvent, OrderStatus, Outcome, PositionEvent
from relay.model.events import Account, AccountScoped, Event, Order, Position, Quote, Reply, Stamp, Trade
from relay.model.serialize import CodecError, Published, decode, encode
from relay.model.text import to_ns
from relay.plugins.hookspecs import AnsweredCommand
from relay.store.interface import Row

#: Bytes of a remembered reply. A longer one is remembered without its result, a rejection with a shortened error.
MOST_ANSWER, MOST_REJECTION = 16 * 1024, 1024
#: Characters of a shortened error.
_SHORT = 300

#: Commands that change nothing: repeating one does no harm, so their replies are not remembered.
READING = (OrderHistory, PositionHistory, TradeHistory, ListAccounts, ListPositions, ListOrders, GetQuote)
#: The type of the events in an answer, by `Command.answer`.
ANSWERS: Mapping[str, type[Event]] = {
    "accounts": Account,
    "positions": Position,
    "orders": Order,
    "trades": Trade,
    "quote": Quote,
}
#: The store's table of commands.
TABLE = "commands"


@frozen
class AccountRef:
    """One account of one provider. ``account`` is None if the events name none. Also identifies the account's session."""

    provider: str
    account: str | None


Name = tuple[AccountRef, str, str]


@define(eq=False)
class PendingCommand:
    """One command and its reply.

    Attributes:
        session: the session that executes it.
        scope: the account its names belong to.
        due_at: its deadline, monotonic seconds.
        taken_at: when it was accepted, monotonic seconds; None if that was before a restart.
        api_key: name of the API key that sent it.
        digest: digest of the command without its ``id``. A different command under the same name has a different digest.
        called: the name of the command's type.
        sent: whether it was sent to the provider.
        sent_at: when it was sent, monotonic seconds.
        over_http: whether it was sent as an HTTP request, which outlives the WebSocket.
        not_stored: the reason why its names could not be stored, so that it must not be sent; otherwise empty.
        errors: errors received since it was sent that named no command.
        answer: the reply as it was published, canonical JSON; empty while the command is open.
        stamp, event_id: stamp and event id with which the reply was published.
        shown: the reply that follows from the account's stream, independent of the provider's answer.
        size: its size in bytes, charged to the shares of its API key and account.
        told: whether the reply has been released to the waiters.
    """

    session: AccountRef
    scope: AccountRef
    command: Command
    due_at: float
    names: tuple[Name, ...] = ()
    api_key: str = ""
    digest: bytes = b""
    called: str = ""
    sent: bool = False
    sent_at: float = -inf
    over_http: bool = False
    not_stored: str = ""
    errors: list[dict[str, str]] = Factory(list)
    reply: Reply | None = None
    answer: bytes = b""
    answered_at: float = inf
    stamp: Stamp | None = None
    event_id: str = ""
    shown: Reply | None = None
    size: int = 0
    told: bool = False
    taken_at: float | None = None
    #: The command as it is given to the adapter, if that differs: for the order that replaced the one named, or with a
    #: generated name. It is stored with the command's names, so that its outcome can be found after a restart too.
    written: Command | None = None
    #: Ids of the orders that replaced the one it names, in order.
    followed: list[str] = Factory(list)
    _waiting: list[Callable[[Outcome | None, bytes], object]] = Factory(list)

    @property
    def outcome(self) -> Outcome | None:
        """The outcome in the current reply; None while the command is open."""
        return None if self.reply is None else self.reply.outcome

    @property
    def key(self) -> str:
        """The key of its row in the store."""
        return f"{self.scope.provider}/{self.scope.account or ''}/{self.command.id}"

    def row(self) -> Row:
        """Return its row in the store."""
        is_known = self.outcome not in (None, Outcome.UNKNOWN)
        record = CommandRecord(
            session=(self.session.provider, self.session.account),
            account=self.scope.account,
            id=self.command.id,
            name=self.called,
            names=tuple([(kind, value) for _, kind, value in self.names]),
            api_key=self.api_key,
            digest=self.digest.hex(),
            command="" if is_known else command_input.encode(self.command).decode(),
            made_name="" if is_known else self._made_name(),
            followed=() if is_known else tuple(self.followed),
            outcome="" if self.outcome is None else self.outcome.value,
            answered_at="" if self.stamp is None else self.stamp.received_at,
            answer=self.answer.decode(),
        )
        return Row(TABLE, self.key, _encode(record))

    def _made_name(self) -> str:
        """Return the generated `client_order_id` of an order; empty if the sender chose one or none is needed."""
        match self.command, self.written:
            case PlaceOrder(client_order_id=None), PlaceOrder(client_order_id=str() as made):
                return made
        return ""

    def answered_command(self, now: float, unix_ns: int) -> AnsweredCommand | None:
        """Return the command for plugins; None without a reply, or if it was accepted before a restart.

        Args:
            now, unix_ns: the current time: monotonic seconds and Unix time in nanoseconds.
        """
        reply = self.reply
        if reply is None or self.taken_at is None:
            return None
        return AnsweredCommand(
            provider=self.scope.provider,
            account=self.scope.account,
            id=self.command.id,
            name=self.called,
            api_key=self.api_key,
            outcome=reply.outcome.value,
            error_code=str(reply.error.get("code", "")) if isinstance(reply.error, Mapping) else "",
            taken_unix_ns=unix_ns - int((now - self.taken_at) * 1e9),
            answered_unix_ns=unix_ns,
        )

    def subjects(self) -> Iterator[tuple[AccountRef, str, str]]:
        """Yield (account, kind, name) of the orders and positions whose events show the command's outcome."""
        match self.written if isinstance(self.written, PlaceOrder) else self.command:
            case PlaceOrder(client_order_id=str() as client_order_id):
                yield self.scope, "client_order_id", client_order_id
            case CancelOrder(order_id=order_id) | AmendOrder(order_id=order_id):
                yield self.scope, "order", order_id
            case ClosePosition(position_id=position_id, quantity=None):
                yield self.scope, "position", position_id
        for order_id in self.followed:
            yield self.scope, "order", order_id

    def when_answered(self, call: Callable[[Outcome | None, bytes], object]) -> None:
        """Call ``call`` with the outcome and the reply's JSON once the reply has been released; now, if it already has.

        A reply is released when it is in the store, so that a crash cannot lead to a second, different one.
        """
        if self.told:
            call(self.outcome, self.answer)
        else:
            self._waiting.append(call)

    def replied(self, result: Any, error: Any) -> Reply:
        """Return the reply for the provider's answer: rejected if there is an ``error``, otherwise accepted."""
        return self._reply(Outcome.ACCEPTED if error is None else Outcome.REJECTED, result=result, error=error)

    def answered(self, reply: CommandReply, stamp: Stamp) -> Reply:
        """Return the reply to a list, a history or a quote, with the provider's answer normalized to events.

        The result has the events' bodies under the name in `Command.answer`, and the provider's own answer as ``data``.
        Events of other accounts are left out. ``not_understood`` counts the elements that could not be decoded; they are
        in ``data``.
        """
        name = self.command.answer
        assert name is not None
        stamp = attrs.evolve(stamp, account=stamp.account or self.command.account)
        found = [serialize.body(event, stamp) for event in reply.events or () if _is_asked(event, name, stamp)]
        words: dict[str, Any] = {} if reply.events is None else {name: found}
        if name == "quote":
            words = {name: found[0]} if found else {}
        if unread := sum(isinstance(item, Unknown) for item in reply.events or ()):
            words["not_understood"] = unread
        return self.replied({**words, "data": reply.result}, None)

    def refused(self, code: str, message: str, **more: str) -> Reply:
        """Return the rejection of a command that was not sent; ``more`` are further members of its error."""
        return self._reply(Outcome.REJECTED, error={"code": code, "message": message, **more})

    def unanswered(self, answer: Answer) -> Reply:
        """Return the unknown reply after an HTTP answer that leaves the outcome open, see `nothing_known`."""
        what = f"HTTP status {answer.status}" if answer.status else "no usable answer"
        message = f"{what}: {answer.text[:500]}" if answer.text else what
        return self._reply(Outcome.UNKNOWN, error={"code": "no_answer", "message": message})

    def given_up(self, code: str, message: str) -> Reply:
        """Return the reply to a command that is no longer waited for: unknown if it was sent, otherwise rejected."""
        if not self.sent:
            return self.refused(f"{code}_before_sent", f"{message}, and the command had not been sent")
        heard = {"heard": self.errors} if self.errors else {}
        return self._reply(Outcome.UNKNOWN, error={"code": code, "message": message, **heard})

    def undecided(self, error: Mapping[str, str]) -> Reply:
        """Return the unknown reply to a command whose outcome was not reported in time."""
        return self._reply(Outcome.UNKNOWN, error=error)

    def _reply(self, outcome: Outcome, *, result: Any = None, error: Any = None) -> Reply:
        ok, command = outcome is Outcome.ACCEPTED, self.command
        return Reply(id=command.id, account=command.account, ok=ok, outcome=outcome, result=result, error=error)

    def settle(self, reply: Reply, stamp: Stamp, now: float, id: str, data: bytes) -> None:
        """Store ``reply``, which was published with ``id`` as the bytes ``data``. `tell` then wakes the waiters."""
        self.reply, self.stamp, self.event_id, self.answered_at = reply, stamp, id, now
        self.answer = data
        self._shorten()

    def tell(self, outcome: Outcome, answer: bytes) -> None:
        """Release the reply and pass it, unshortened, to the waiters."""
        self.told = True
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call(outcome, answer)

    def _shorten(self) -> None:
        """Drop long results, and the provider's own members if the outcome is known, to save memory: entries last a day."""
        reply, stamp = self.reply, self.stamp
        assert reply is not None
        assert stamp is not None
        most = MOST_REJECTION if reply.outcome is Outcome.REJECTED else MOST_ANSWER
        if len(self.answer) > most:
            self.reply = _shortened(reply, len(self.answer))
            self.answer = encode(self.reply, stamp, self.event_id)
        if reply.outcome is not Outcome.UNKNOWN:
            self.command = _without_objects(self.command)
            self.written = None if self.written is None else _without_objects(self.written)

    def fate(self, event: Order | Position) -> Reply | None:
        """Return the reply that follows from the state of this command's order or position; None if none does."""
        command = self.command
        if isinstance(command, AmendOrder) and self.followed:
            command = attrs.evolve(command, order_id=self.followed[-1])
        return fate(command, event)

    def show(self, event: Order | Position) -> None:
        """Update the reply from a state of this command's order or position, seen in the account's stream."""
        found = self.fate(event)
        if found is None:
            return
        self.shown = found
        if self.reply is not None and self.reply.outcome is Outcome.UNKNOWN and self.stamp is not None:
            self.reply = found
            self.answer = encode(found, self.stamp, self.event_id)
            self._shorten()


# --- names -----------------------------------------------------------------------------------------------------


def names(scope: AccountRef, command: Command, key: str | None) -> Iterator[Name]:
    """Yield the names of a command on its account; ``key`` is its idempotency key."""
    yield scope, "id", command.id
    if key is not None:
        yield scope, "Idempotency-Key", key
    if isinstance(command, PlaceOrder) and command.client_order_id is not None:
        yield scope, "client_order_id", command.client_order_id


def measured(command: Command) -> tuple[bytes, int]:
    """Return the digest of a command without its ``id``, and its size as JSON."""
    members = command_input.unstructure(command)
    members.pop("id", None)
    text = msgspec.json.encode(members, order="deterministic")
    return hashlib.sha256(text).digest(), len(text)


def told_names(event: Order | Position) -> list[tuple[str, str]]:
    """Return the (kind, name) pairs that identify an order or position, comparable with `PendingCommand.subjects`."""
    if isinstance(event, Position):
        return [("position", event.id)]
    named = [("client_order_id", event.client_order_id), ("order", event.replaces)]
    return [("order", event.id), *((kind, name) for kind, name in named if name is not None)]


# --- outcomes --------------------------------------------------------------------------------------------------


def nothing_known(answer: Answer) -> bool:
    """Return True if an HTTP answer leaves open whether the command was executed.

    501 does not: the provider has no such function. 499 is sent by a proxy (nginx) whose client closed the connection
    before the server answered.
    """
    return answer.status in (0, 408, 499) or (answer.status >= 500 and answer.status != 501)


def fate(command: Command, event: Order | Position) -> Reply | None:
    """Return the reply to ``command`` that follows from a state of its order or position; None if none does."""
    match command, event:
        case PlaceOrder(), Order(status=OrderStatus.REJECTED):
            return _refused(command, event)
        case PlaceOrder(), Order():
            return _done(command, order_id=event.id, status=event.status)
        case CancelOrder(), Order(event=OrderEvent.ORDER_CANCEL_REJECTED):
            return _refused(command, event)
        case CancelOrder(), Order(status=OrderStatus.CANCELLED):
            return _done(command, order_id=event.id, status=event.status)
        # The command now concerns the order that replaced the named one; the registry follows that one.
        case CancelOrder(), Order(status=OrderStatus.REPLACED):
            return None
        case AmendOrder(order_id=order_id), Order(replaces=replaces) if replaces is not None and replaces == order_id:
            if event.status is OrderStatus.REJECTED:
                return _refused(command, event)
            return _done(command, order_id=event.id, status=event.status) if _has_all(event, command) else None
        case AmendOrder(), Order(status=OrderStatus.REPLACED):  # the new order shows its values
            return None
        case AmendOrder(), Order(event=OrderEvent.ORDER_MODIFY_REJECTED):
            return _refused(command, event)
        case AmendOrder(), Order() if _shows_amendment(event) and _has_all(event, command):
            return _done(command, order_id=event.id, status=event.status)
        case AmendOrder(), Order(status=OrderStatus.FILLED):  # before the amendment, or because of it
            return None
        # CANCELLED is final too, but does not refuse an amendment: a broker may amend by cancelling and placing anew.
        case CancelOrder() | AmendOrder(), Order(status=status) if (
            status.is_final and status is not OrderStatus.CANCELLED
        ):
            return _refused(command, event)
        case ClosePosition(), Position(event=PositionEvent.POSITION_CLOSED):
            return _done(command, position_id=event.id)
    return None


_AMENDED = (OrderEvent.ORDER_MODIFIED, OrderEvent.ORDER_PARTIALLY_FILLED)


def _shows_amendment(order: Order) -> bool:
    """Return True if the state's values are in effect: those of a live order, or the last ones of an ended order."""
    if order.status in (OrderStatus.FILLED, OrderStatus.EXPIRED, OrderStatus.CANCELLED):
        return True
    return order.event in _AMENDED and order.status is not OrderStatus.PENDING


def _has_all(order: Order, asked: AmendOrder) -> bool:
    """Return True if the order has all values of the amendment, except the time of expiry, which no state has."""
    asked_for = [name for name in _AMENDABLE if getattr(asked, name) is not None]
    return bool(asked_for) and asked.good_till is None and reading.agrees(order, asked, *asked_for)


_AMENDABLE = (
    "quantity", "limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance", "time_in_force",
)  # fmt: skip


def _done(command: Command, **result: Any) -> Reply:
    return Reply(
        id=command.id, account=command.account, ok=True, outcome=Outcome.ACCEPTED, result=result, reconciled=True
    )


def _refused(command: Command, order: Order) -> Reply:
    said = order.reject_reason or f"the order is {order.status}"
    code = ErrorCode.ORDER_NOT_OPEN
    if isinstance(command, PlaceOrder):
        code = reading.error_code({"code": order.reject_reason or "", "message": said}, command, {})
    error = {
        "code": code,
        "provider_code": order.reject_reason or order.status,
        "message": said,
        "order_id": order.id,
    }
    return Reply(
        id=command.id, account=command.account, ok=False, outcome=Outcome.REJECTED, error=error, reconciled=True
    )


def _is_asked(event: object, name: str, stamp: Stamp) -> TypeGuard[Event]:
    return isinstance(event, ANSWERS[name]) and not (isinstance(event, AccountScoped) and event.is_foreign(stamp))


def _shortened(reply: Reply, size: int) -> Reply:
    """Return the reply without its result, or with a shortened error, so that it is small enough to be remembered."""
    if reply.outcome is Outcome.ACCEPTED:
        message = f"the result is not remembered: the reply had {size} bytes, {MOST_ANSWER} are remembered"
        return attrs.evolve(reply, result=None, error={"code": "result_not_kept", "message": message})
    error = reply.error if isinstance(reply.error, Mapping) else {"message": reply.error}
    known = {name: str(error[name])[:_SHORT] for name in ("code", "message") if error.get(name) is not None}
    return attrs.evolve(reply, result=None, error=known)


def _without_objects(command: Command) -> Command:
    """Return the command without the provider's own members, which may be long. The digest still includes them."""
    empty: dict[str, Any] = {name: {} for name in ("extra", "arguments") if getattr(command, name, None)}
    return attrs.evolve(command, **empty) if empty else command


# --- the store -------------------------------------------------------------------------------------------------


class RecordError(ValueError):
    """Raised for a row that is not a valid command record; the text gives the reason."""


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A command in the store. Decoding must be fast (a thousand in some milliseconds): a restart reads a day's commands.

    Attributes:
        session: provider and account of the session that executes it.
        account: the account its names belong to.
        id: the command's id.
        name: name of the command's type.
        names: kind and value of each name.
        digest: see `PendingCommand`, in hexadecimal.
        command: the command as JSON; empty once its outcome is final.
        made_name: the `client_order_id` that the relay generated for an order; empty once its outcome is final.
        followed: see `PendingCommand`; empty once its outcome is final.
        outcome: outcome of its reply; empty while there is none.
        answered_at: wall time of the reply, RFC 3339; empty while there is none.
        answer: the reply as it was published, canonical JSON; empty while there is none.
    """

    session: tuple[str, str | None]
    account: str | None
    id: str
    name: str
    names: tuple[tuple[str, str], ...]
    api_key: str
    digest: str
    command: str = ""
    made_name: str = ""
    followed: tuple[str, ...] = ()
    outcome: str = ""
    answered_at: str = ""
    answer: str = ""

    def restored(self) -> Command:
        """Return the command. If it is not stored, or invalid in this version, return a stand-in that keeps its names."""
        try:
            if self.command:
                return command_input.decode(self.command)
        except command_input.CommandError:
            pass
        return Call(id=self.id, account=self.account, function=self.name)

    def written(self, command: Command) -> Command | None:
        """Return ``command`` as it was sent; None if that is the same."""
        if isinstance(command, PlaceOrder) and self.made_name:
            return attrs.evolve(command, client_order_id=self.made_name)
        if isinstance(command, CancelOrder | AmendOrder) and self.followed:
            return attrs.evolve(command, order_id=self.followed[-1])
        return None

    def reply(self) -> Published:
        """Return the reply with its stamp and id.

        Raises:
            RecordError: the stored answer is not a reply.
        """
        try:
            published = decode(self.answer)
        except CodecError as error:
            raise RecordError(str(error)) from None
        if not isinstance(published.event, Reply):
            raise RecordError(f"a {published.event.kind} is no reply")
        return published


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CommandRecord).decode


def restored(value: bytes, now: float, unix_ns: int) -> PendingCommand:
    """Return the entry of a stored command.

    Args:
        value: the value of its row.
        now, unix_ns: the current time: monotonic seconds and Unix time in nanoseconds.

    Raises:
        RecordError: the row is not one of a command.
    """
    try:
        record = _decode(value)
        scope = AccountRef(record.session[0], record.account)
        outcome = Outcome(record.outcome) if record.outcome else None
        # If the clock was set back, the difference is negative; the entry must not seem to be from the future.
        answered_at = now - max(0, unix_ns - to_ns(record.answered_at)) / 1e9 if record.answered_at else inf
        digest = bytes.fromhex(record.digest)
        command = record.restored()
    except (ValueError, msgspec.DecodeError) as error:
        raise RecordError(str(error)) from None
    pending = PendingCommand(
        AccountRef(*record.session),
        scope,
        command,
        now,
        tuple([(scope, kind, value) for kind, value in record.names]),
        record.api_key,
        digest,
        record.name,
        sent=True,
        answer=record.answer.encode(),
        answered_at=answered_at,
        told=outcome is not None,
        written=record.written(command),
        followed=list(record.followed),
    )
    if outcome is Outcome.UNKNOWN:  # the account's stream may still correct the reply, which keeps its stamp and id
        published = record.reply()
        assert isinstance(published.event, Reply)
        pending.reply, pending.stamp, pending.event_id = published.event, published.stamp, published.id
    elif outcome is not None:
        ok = outcome is Outcome.ACCEPTED
        pending.reply = Reply(id=record.id, account=record.account, ok=ok, outcome=outcome)
        pending.stamp = Stamp(provider=scope.provider, account=scope.account, received_at=record.answered_at)
    return pending
