"""Trading commands of one session: written, sent, answered, and ended when nothing was heard of them in time.

The registry (`relay.trading.registry`) holds the open commands. What becomes of one is published as its `reply`, by which
the registry settles it.

`dry_run` shows what a command would send, without sending it: the adapter writes, and the secrets are taken out. Writing
changes what an adapter remembers (request numbers, what waits for an answer, what it keeps for its next connection), so a
copy of the connected one writes; where there is none, or it cannot be copied, a fresh one. Both have their own copy of what
the context keeps and learned.
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
from relay.model.commands import AmendOrder, CancelOrder, Command
from relay.model.events import Account, Error, Order, Position, Reply
from relay.provider.inbound import Inbound
from relay.provider.outbound import Job, Purpose, checked_writings
from relay.provider.pacing import Lane
from relay.provider.session_state import SessionState
from relay.provider.templates import Redactor, authenticated, fetch_target
from relay.trading.pending import AccountRef, PendingCommand, told_names
from relay.trading.registry import CommandRegistry
from relay.trading.service import Unwritable

#: The name of an order in a dry run that gets a new one when it is sent.
UNNAMED = "00000000-0000-0000-0000-000000000000"
#: Commands of unknown outcome that a new connection asks for.
MOST_UNKNOWN = 100


class SessionCommands:
    """The commands that one session carries out."""

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
        """Return the commands without a reply; a further connection of a pool has none."""
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
        return self._core.adapter_class.orders.named(for_newest(self._core, command), self._new_name)

    def send(self, pending: PendingCommand) -> None:
        """Queue what the adapter writes for a command, or refuse it with the reason."""
        core, command = self._core, pending.command
        if pending.reply is not None:  # ended while it waited to be handed over
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
            message = "the adapter writes nothing for this command"
            core.publish(pending.refused("unsupported_command", message))

    def sent(self, job: Job) -> None:
        """Note that a frame or a request of a command was handed to the connection."""
        pending = self._registry.find(self._scope, job.subject)
        if pending is not None:
            pending.sent, pending.over_http = True, isinstance(job.writing, Fetch)
            pending.sent_at = self._core.at.now

    def not_sent(self, job: Job, reason: str) -> None:
        """Refuse a command whose request could not be made."""
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

    def shown(self, state: Order | Position | Account) -> None:
        """Publish the replies that a state is, where the provider answers commands by nothing else."""
        core = self._core
        if not self._by_stream or isinstance(state, Account) or state.is_foreign(core.stamp):
            return
        # The states know what happened to it, which the message may leave out.
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
        """Keep an error that names no command for the commands it may concern."""
        self._registry.add_error(self._scope, error.code, error.message)

    def unanswered(self, job: Job, answer: Answer) -> None:
        """End a command as unknown: its HTTP answer does not tell whether it was carried out."""
        pending = self._registry.find(self._scope, job.subject)
        if pending is not None:
            shown = Answer(status=answer.status, text=self._core.redact(answer.text))
            self._give_up(pending, pending.unanswered(shown))

    # --- nothing was heard -------------------------------------------------------------------------------------------

    def end_late(self, now: float) -> None:
        """End the commands whose deadline has come."""
        if self.deadline() > now:
            return
        for pending in self._open():
            if pending.due_at <= now:
                self._core.outbound.forget_call(pending.command.id)
                self._give_up(pending, pending.given_up("deadline", "no answer within the deadline"))

    def _give_up(self, pending: PendingCommand, reply: Reply) -> None:
        """Publish ``reply``, and tell the connection's adapter, which may still be waiting for the answer."""
        self._core.publish(reply)
        self._core.at_once(self._core.encode(GivenUp(pending.written or pending.command)))

    def look_for_unknown(self) -> None:
        """Let the adapter ask what became of the commands whose outcome is not known, the newest first."""
        core = self._core
        for command in self._registry.unknown_of(self._scope)[: -MOST_UNKNOWN - 1 : -1]:
            if core.adapter is not None:
                core.outbound.look(core.adapter, core.encode(GivenUp(command, again=True)))

    def disconnected(self) -> None:
        """End the commands whose answers are lost with the WebSocket; HTTP requests outlive it."""
        waits = self._core.declared.commands_over == "http"
        for pending in self._open():
            if not (pending.sent and pending.over_http) and not (waits and not pending.sent):
                self._core.publish(pending.given_up("disconnected", "the connection was lost"))

    def session_ended(self) -> None:
        """End all open commands."""
        for pending in self._open():
            self._core.publish(pending.given_up("session_ended", "the session ended"))


def for_newest(core: SessionState, command: Command) -> Any:
    """Return a command that cancels or amends an order as one for the order that took its place, if there is one."""
    if not isinstance(command, CancelOrder | AmendOrder):
        return command
    newest = core.states.newest(command.order_id, command.account or core.context.account)
    return command if newest == command.order_id else attrs.evolve(command, order_id=newest)


def dry_run(
    adapter: type[Adapter],
    connected: Adapter | None,
    context: Context,
    command: Command,
    reason_of: Callable[[Exception, str], str] | None = None,
) -> list[dict[str, Any]]:
    """Return what ``command`` would send, in order: ``{"frame": text}``, or ``{"method", "url", "headers", "body"}``.

    ``reason_of`` tells an adapter's refusal from a fault of its code, as `SessionState.reason_of`.

    Raises:
        Unwritable: the broker does not take it (`Adapter.orders`), the adapter cannot write it, or a value it needs is not
            there yet.
    """
    if (reason := adapter.orders.refusal(command)) is not None:  # as a session refuses it before it is encoded
        raise Unwritable(reason)
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
        except Exception:  # noqa: BLE001 - what an adapter remembers is its own; a fresh one does instead
            return None


def _apart(context: Context, copies: dict[int, Any]) -> Context:
    """Return the context with its own ``kept`` and ``learned``; ``copies`` is the memory of `copy.deepcopy`."""
    return attrs.evolve(context, kept=copy.deepcopy(context.kept, copies), learned=dict(context.learned))


class _Request:
    """Shows requests without the secrets of `redact`."""

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
        """JSON without secrets; every number has its own digits, one that is a secret is hidden whole."""
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
