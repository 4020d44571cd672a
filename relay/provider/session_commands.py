"""Trading commands of one session: encode and send them, match the answers, and end those without an answer in time.

The registry (`relay.trading.registry`) holds the open commands. The outcome of a command is published as its `reply` event,
which settles it in the registry.

`dry_run` returns the frames and requests that a command would send, without secrets, and sends nothing. Encoding changes an
adapter's state (request numbers, pending requests, ``kept``), so a copy of the connected instance encodes, or a new instance
if there is none or it cannot be copied. Either has its own copy of the context's ``kept`` and ``learned``.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import attrs
import msgspec

from relay.adapter import Adapter, Answer, CommandReply, Context, Fetch, GivenUp, Poll, Unknown
from relay.errors import HIDDEN
from relay.model.commands import AmendOrder, AmendPosition, CancelOrder, Command, PlaceOrder
from relay.model.events import Account, Error, Order, Position, Reply
from relay.model.instruments import Misfit
from relay.provider.inbound import Inbound
from relay.provider.outbound import Job, Purpose, checked_writings
from relay.provider.pacing import Lane
from relay.provider.session_state import SessionState
from relay.provider.templates import Redactor, authenticated, fetch_target
from relay.trading.pending import AccountRef, PendingCommand, told_names
from relay.trading.registry import CommandRegistry
from relay.trading.service import Unwritable

#: The client order id in a dry run, in place of the one that is generated when a command is sent.
UNNAMED = "00000000-0000-0000-0000-000000000000"
#: Most commands of unknown outcome that are looked up on a new connection.
MOST_UNKNOWN = 100


class SessionCommands:
    """The commands of one session."""

    def __init__(
        self, core: SessionState, inbound: Inbound, registry: CommandRegistry, new_name: Callable[[], str]
    ) -> None:
        self._core = core
        self._inbound = inbound
        self._registry = registry
        self._scope = AccountRef(core.context.provider, core.context.account)
        self._new_name = new_name
        self._by_stream = core.adapter_class.answered_by_stream
        core.known.waiting = self._sent

    def __len__(self) -> int:
        """Return the number of commands without a reply."""
        return len(self._open())

    def _open(self) -> list[PendingCommand]:
        """Return the commands without a reply. A further connection of a pool has none."""
        return [] if self._core.is_further else self._registry.open_of(self._scope)

    def _sent(self) -> list[Command]:
        return [each.written or each.command for each in self._open() if each.sent]

    def deadline(self) -> float:
        """Return the earliest deadline of an open command, monotonic seconds; infinite without one."""
        return inf if self._core.is_further else self._registry.deadline(self._scope)

    # --- to the provider ---------------------------------------------------------------------------------------------

    def as_written(self, command: Command) -> Command:
        """Return a command as it is to be sent: for the newest order of a chain, and with the name that every order has.

        It is asked for before the command is stored, so that after a crash its fate can be found by what was sent.
        """
        command, _ = checked(command)
        return self._core.adapter_class.orders.named(for_newest(self._core, command), self._new_name)

    def send(self, pending: PendingCommand) -> None:
        """Encode a command and queue its frames and requests, or refuse it with the reason."""
        core = self._core
        command, is_checked = checked(pending.command, core.settings.check_orders)
        if pending.reply is not None:  # it ended while it waited in the driver's queue
            return
        if pending.not_stored:
            core.publish(pending.refused("store_unavailable", pending.not_stored))
            return
        writer = core.adapter if core.up else core.prepared
        if writer is None:
            core.publish(pending.refused("not_connected", f"the session with {core.context.provider} is not up"))
            return
        if (reason := core.adapter_class.orders.refusal(command)) is not None:
            core.publish(pending.refused("invalid_command", reason))
            return
        if is_checked and (refused := _misfit(core.context, command, core.at.now)) is not None:
            core.publish(pending.refused(refused.code, refused.message, field=refused.field))
            return
        current = for_newest(core, known := pending.written or command)
        if current is not known:
            pending.written = current
            self._registry.follow(pending, current.order_id)
        try:
            jobs = core.outbound.write(writer, current, Lane.CALL, Purpose.CALL, command.id, requests_only=not core.up)
        except Exception as error:  # noqa: BLE001 - whatever the adapter cannot write is refused with its reason
            core.publish(pending.refused("invalid_command", core.reason_of(error, f"writing {type(command).__name__}")))
            return
        if not jobs:
            message = f"the adapter {core.adapter_class.name} does not send this command"
            core.publish(pending.refused("unsupported_command", message))

    def sent(self, job: Job) -> None:
        """Note that a frame or request of a command was passed to the driver."""
        pending = self._registry.find(self._scope, job.subject)
        if pending is not None:
            pending.sent, pending.over_http = True, isinstance(job.writing, Fetch)
            pending.sent_at = self._core.at.now

    def not_sent(self, job: Job, reason: str) -> None:
        """Refuse a command whose request could not be built."""
        pending = self._registry.find(self._scope, job.subject)
        if pending is not None:
            self._core.publish(pending.refused("invalid_command", self._core.redact(reason)))

    # --- from the provider -------------------------------------------------------------------------------------------

    def replied(self, reply: CommandReply) -> None:
        """Publish the provider's answer to a command."""
        pending = self._registry.find(self._scope, reply.id)
        if pending is None:
            self._core.counters.notes["unasked_reply"] += 1
        elif reply.error is None and pending.command.answer is not None:
            self._core.publish(pending.answered(reply, self._core.stamp))
            self._inbound.answers_list(pending.sent_at)
            for item in reply.events or ():
                if isinstance(item, Unknown):
                    self._inbound.unknown(item.raw if isinstance(item.raw, str) else repr(item.raw), item.why)
        else:
            error = reply.error
            if isinstance(error, Mapping):
                code = self._core.adapter_class.error_code(error, pending.command)
                own = {"provider_code": error["code"]} if "code" in error else {}
                error = {**error, "code": code, **own}
            self._core.publish(pending.replied(reply.result, error))
            self._note_placed(pending, reply)

    def _note_placed(self, pending: PendingCommand, reply: CommandReply) -> None:
        """Give the order that was accepted the id of its sender, where the provider's messages do not repeat it."""
        placed = pending.written or pending.command
        match placed, reply.result:
            case PlaceOrder(client_order_id=str() as name), {"order_id": str() as id} if reply.error is None:
                account = placed.account or self._core.context.account
                if (order := self._core.states.placed(account, id, name)) is not None:
                    self._inbound.state(order)

    def shown(self, state: Order | Position | Account) -> None:
        """Publish the replies that follow from a state, if the provider answers commands only by such states."""
        core = self._core
        if not self._by_stream or isinstance(state, Account) or state.is_foreign(core.stamp):
            return
        # The message may be partial; the remembered state is complete.
        found = core.states.find(state.kind, state.account or core.context.account, state.id)
        if not isinstance(found, Order | Position):
            return
        told = told_names(found)
        for pending in self._open():
            is_about = any((kind, name) in told for _, kind, name in pending.subjects())
            if not is_about or not pending.sent or not isinstance(pending.command, self._by_stream):
                continue
            if (reply := pending.fate(found)) is not None:
                core.publish(attrs.evolve(reply, reconciled=None))

    def add_error(self, error: Error) -> None:
        """Remember an error that names no command, as a possible reason for open commands that get no reply."""
        self._registry.add_error(self._scope, error.code, error.message)

    def unanswered(self, job: Job, answer: Answer) -> None:
        """End a command as unknown, because its HTTP answer does not show whether it was executed."""
        pending = self._registry.find(self._scope, job.subject)
        if pending is not None:
            shown = Answer(status=answer.status, text=self._core.redact(answer.text))
            self._give_up(pending, pending.unanswered(shown))

    # --- commands without an answer ----------------------------------------------------------------------------------

    def end_late(self, now: float) -> None:
        """End the commands whose deadline has passed as unknown."""
        if self.deadline() > now:
            return
        for pending in self._open():
            if pending.due_at <= now:
                self._core.outbound.forget_call(pending.command.id)
                self._give_up(pending, pending.given_up("deadline", "no answer within the deadline"))

    def _give_up(self, pending: PendingCommand, reply: Reply) -> None:
        """Publish ``reply`` and send the adapter `GivenUp`, as it may still wait for the answer."""
        self._core.publish(reply)
        self._core.at_once(self._core.encode(GivenUp(pending.written or pending.command)))

    def look_for_unknown(self) -> None:
        """Let the adapter look up the commands with an unknown outcome, newest first."""
        core = self._core
        for command in self._registry.unknown_of(self._scope)[: -MOST_UNKNOWN - 1 : -1]:
            if core.adapter is not None:
                core.outbound.look(core.adapter, core.encode(GivenUp(command, again=True)))

    def disconnected(self) -> None:
        """End the commands whose answers are lost with the WebSocket connection. HTTP requests are not affected."""
        waits = self._core.declared.commands_over == "http"
        for pending in self._open():
            if not (pending.sent and pending.over_http) and not (waits and not pending.sent):
                self._core.publish(pending.given_up("disconnected", "the connection was lost"))

    def session_ended(self) -> None:
        """End all open commands."""
        for pending in self._open():
            self._core.publish(pending.given_up("session_ended", "the session ended"))


def for_newest(core: SessionState, command: Command) -> Any:
    """Return a cancel or amend command with the id of the order that has replaced its order, if there is one."""
    if not isinstance(command, CancelOrder | AmendOrder):
        return command
    newest = core.states.newest(command.order_id, command.account or core.context.account)
    return command if newest == command.order_id else attrs.evolve(command, order_id=newest)


def checked(command: Command, check: bool = True) -> tuple[Command, bool]:
    """Return ``command``, and whether to compare it with its instrument: ``extra.unchecked``, which is not sent, says no."""
    if not isinstance(command, PlaceOrder) or command.extra.get("unchecked") is not True:
        return command, check
    extra = {name: value for name, value in command.extra.items() if name != "unchecked"}
    return attrs.evolve(command, extra=extra), False


def _misfit(context: Context, command: Command, now: float) -> Misfit | None:
    """Return why an order does not fit its instrument, as far as the provider has said anything of it lately."""
    symbol: str | None = None
    known: Order | Position | None = None
    match command:
        case PlaceOrder():
            symbol = command.symbol
        case AmendOrder():
            known = context.known.order(command.order_id, command.account)
        case AmendPosition():
            known = context.known.position(command.position_id, command.account)
    return context.instruments.misfit(command, symbol if known is None else known.symbol, now)


def dry_run(
    adapter: type[Adapter],
    connected: Adapter | None,
    context: Context,
    command: Command,
    reason_of: Callable[[Exception, str], str] | None = None,
    *,
    check: bool = True,
    now: float = inf,
) -> list[dict[str, Any]]:
    """Return what ``command`` would send, in order: ``{"frame": text}`` or ``{"method", "url", "headers", "body"}`` each.

    ``reason_of``: turns an exception of the adapter into a public reason, see `SessionState.reason_of`.
    ``check``: compare an order with its instrument as known at ``now``, monotonic seconds; by default it is unknown.

    Raises:
        Unwritable: the broker does not support the command (`Adapter.orders`), the adapter cannot encode it, or a value that
            it needs is missing.
    """
    command, is_checked = checked(command, check)
    if (reason := adapter.orders.refusal(command)) is not None:  # as a session refuses it before it is encoded
        raise Unwritable(reason)
    if is_checked and (refused := _misfit(context, command, now)) is not None:
        raise Unwritable(refused.message)
    redact = Redactor(context)
    shown = _Request(redact)
    try:
        writer = _copied(connected, context) or adapter(_apart(context, {}))
        return [
            shown.show(writing, adapter, context) if isinstance(writing, Fetch) else {"frame": redact(writing)}
            for writing in checked_writings(
                writer.encode(adapter.orders.named(command, lambda: UNNAMED)), adapter.session
            )
            if not isinstance(writing, Poll)
        ]
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises over a command is its reason
        if reason_of is None:
            raise Unwritable(redact(f"{error}" or type(error).__name__)) from None
        raise Unwritable(reason_of(error, f"writing {type(command).__name__}")) from None


def _copied(adapter: Adapter | None, context: Context) -> Adapter | None:
    if adapter is None:
        return None
    copies: dict[int, Any] = {id(each): each for each in (adapter.symbols, adapter.context.known)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            copies[id(adapter.context)] = _apart(context, copies)
            return copy.deepcopy(adapter, copies)
        except Exception:  # noqa: BLE001 - an adapter may hold anything; if that cannot be copied, a new instance encodes
            return None


def _apart(context: Context, copies: dict[int, Any]) -> Context:
    """Copy the context with its ``kept`` and ``learned``. ``copies`` is the memo of `copy.deepcopy`."""
    return attrs.evolve(context, kept=copy.deepcopy(context.kept, copies), learned=dict(context.learned))


class _Request:
    """Shows requests with the secrets hidden."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def show(self, fetch: Fetch, adapter: type[Adapter], context: Context) -> dict[str, Any]:
        fetch = authenticated(fetch, adapter.session, context)
        _, url = fetch_target(fetch, adapter.session, context)
        written: dict[str, Any] = {"method": fetch.method, "url": self._redact(url)}
        if fetch.headers:
            written["headers"] = {name: self._redact(value) for name, value in fetch.headers.items()}
        if fetch.json is not None:
            written["body"] = self._json(fetch.json)
        elif fetch.form is not None:
            written["body"] = {name: self._redact(value) for name, value in fetch.form.items()}
        return written

    def _json(self, value: Any) -> Any:
        """Return JSON without secrets. Numbers keep their digits, except one that contains a secret, which is hidden."""
        match value:
            case dict():
                return {self._redact(name): self._json(item) for name, item in value.items()}
            case list() | tuple():
                return [self._json(item) for item in value]
            case str():
                return self._redact(value)
            case bool() | None:
                return value
        text = bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)
        return value if self._redact(text) == text else HIDDEN
