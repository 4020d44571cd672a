"""The command service: authorize and validate a request, then submit the command to the provider's session.

It serves both HTTP requests and client events. Every check precedes the submission; a request that fails one is refused and
gets no `reply`, because no command was created. A submitted command is in the registry and ends with exactly one `reply`.
"""

import enum
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
import trio
from attrs import frozen

from relay.auth import ApiKey, KeyRing
from relay.errors import suggestion
from relay.limits import TokenBucket
from relay.model import command_input
from relay.model.command_input import CommandError
from relay.model.commands import Command
from relay.model.enums import Outcome
from relay.model.events import Event, Reply, Stamp
from relay.model.text import from_micros
from relay.trading.pending import PendingCommand
from relay.trading.registry import (
    GRACE,
    RESTARTED,
    WITHIN,
    ClientCommand,
    CommandRegistry,
    Conflict,
    Full,
    Rejected,
    Repeated,
    Unstorable,
)

SHUTTING_DOWN = {"code": "shutting_down", "message": "the relay is shutting down"}
#: Longest id in characters that a refusal repeats.
LONGEST_ID = 128
LONGEST = 60
"""Longest deadline in seconds that a command may set with `within`; the shortest is 0.1."""


class RefusalReason(enum.Enum):
    """The reason for which a command is refused."""

    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not found"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    FULL = "full"
    STORE_UNAVAILABLE = "store_unavailable"
    NOT_OWNER = "not_owner"
    SHUTTING_DOWN = "shutting down"


#: Refusals that are not caused by the command. The sender of a client event gets the code, as there is no HTTP status.
_OF_THE_RELAY = frozenset(
    {RefusalReason.RATE_LIMITED, RefusalReason.FULL, RefusalReason.STORE_UNAVAILABLE, RefusalReason.NOT_OWNER}
)


class CommandRefused(Exception):
    """Raised when a command is refused; it then gets no reply.

    Attributes:
        field: the member at fault.
        retry_after: seconds after which the command may be accepted.
    """

    def __init__(
        self, refusal: RefusalReason, message: str, *, field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
        self.field = field
        self.retry_after = retry_after


class Unwritable(ValueError):
    """Raised when the adapter cannot encode a command; the text gives the reason, without secrets."""


class TradingSession(Protocol):
    """A session that executes commands; `relay.provider.driver.ProviderSession` is one."""

    def send(
        self, command: Command, within: float = ..., idempotency_key: str | None = None, api_key: str = ...
    ) -> tuple[PendingCommand, bool]:
        """Register the command and execute it. Raises Conflict, Full, Unstorable."""

    def dry_run(self, command: Command) -> list[dict[str, Any]]:
        """Return the requests that would be sent for the command. Raises Unwritable."""


class Provider(Protocol):
    """A configured provider, as far as the service needs it."""

    name: str

    @property
    def accounts(self) -> tuple[str, ...]:
        """The configured accounts' names."""

    @property
    def names_accounts(self) -> bool:
        """True if it executes each command on the account that the command names, and on no other."""

    @property
    def commands(self) -> Sequence[type[Command]]:
        """The types of commands it supports."""

    def trading_session(self, account: str | None) -> TradingSession:
        """Return the session that trades on the account."""


class TradingProviders(Protocol):
    """The configured providers."""

    def find(self, name: str) -> Provider | None:
        """Return the provider with that name; None if there is none."""

    def __iter__(self) -> Any:
        """Iterate over them."""


Elsewhere = Callable[["Submission", Callable[["CommandRefused | Outcome | None", bytes, bool], object]], object]
"""Sends a command to the relay that holds the session. Calls the function once, with a refusal or the outcome, the reply's
JSON, and True if the command is new."""


@frozen(kw_only=True)
class Submission:
    """A validated command, ready to be submitted. ``api_key`` is the name of the sender's API key."""

    api_key: str
    provider: Provider
    account: str | None
    command: Command
    within: float
    dry_run: bool = False
    idempotency_key: str | None = None


class CommandService:
    """Accepts commands for the providers.

    Args:
        publish: publishes a reply made by the relay; it passes through the registry as every reply does.
        ids: generates ids for commands whose sender gave none; unique across restarts.
        owns: returns True if this relay holds the sessions of a provider. In a cluster another relay may.
        elsewhere: sends a command to the relay that holds the sessions.
        tell: answers a client event whose answer was not available at once.
        counted: called with the name of an API key for each command that counts towards its rate.
    """

    def __init__(
        self,
        *,
        registry: CommandRegistry,
        providers: TradingProviders,
        keys: KeyRing,
        publish: Callable[[Event, Stamp], object],
        ids: Callable[[], str],
        owns: Callable[[str], bool] = lambda provider: True,
        elsewhere: Elsewhere | None = None,
        tell: Callable[[ClientCommand, Rejected | Repeated], object] = lambda sent, answer: None,
        counted: Callable[[str], object] = lambda api_key: None,
        clock: Callable[[], float] = trio.current_time,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.registry = registry
        self._providers = providers
        self._keys = keys
        self._publish = publish
        self._ids = ids
        self._owns = owns
        self._elsewhere = elsewhere
        self._tell = tell
        self._counted = counted
        self._clock = clock
        self._unix_ns = unix_ns
        self._rates: dict[str, TokenBucket] = {}
        self._closed = False

    # --- what is asked -----------------------------------------------------------------------------------------------

    def validate(self, key: ApiKey, wire: Mapping[str, Any], idempotency_key: str | None = None) -> Submission:
        """Validate ``wire``, an object as returned by `command_input.read`, for this API key and return the command.

        Raises:
            CommandRefused: INVALID naming the member, FORBIDDEN naming the account, NOT_FOUND for a provider or account
                that is not configured, RATE_LIMITED if the key sends too many requests, valid or not.
        """
        self._count(key)
        members = dict(wire)
        try:
            provider, account = self._where(key, members.pop("provider", None), members.pop("account", None))
            within = self._seconds(members.pop("within", None))
            dry_run = command_input.flag("dry_run", members.pop("dry_run", False))
            if idempotency_key is not None:
                command_input.name_text("Idempotency-Key", idempotency_key)
            if members.get("id") is None:
                members["id"] = self._ids()
            command = command_input.structure(members)
        except CommandError as error:
            raise CommandRefused(RefusalReason.INVALID, str(error), field=error.field) from None
        if type(command) not in provider.commands:
            takes = ", ".join(each.name for each in provider.commands) or "no commands"
            message = f"provider {provider.name} does not take {command.name}; it takes {takes}"
            raise CommandRefused(RefusalReason.INVALID, message, field="command")
        # A command to a session with only one account need not name it.
        command = attrs.evolve(command, account=None if provider.accounts else account)
        return Submission(
            api_key=key.name, provider=provider, account=account, command=command, within=within, dry_run=dry_run,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    def forwarded(
        self, api_key: str, provider: str, account: str | None, command: Command, within: float, name: str | None
    ) -> Submission:
        """Return a command that another relay has validated, after checking the API key's rights here as well.

        ``name`` is its idempotency key.

        Raises:
            CommandRefused: FORBIDDEN naming the key or account, NOT_FOUND, INVALID, if the configurations differ.
        """
        key = self._keys.named(api_key)
        if key is None:
            message = f"the relay that holds the session with {provider} knows no API key {api_key}"
            raise CommandRefused(RefusalReason.FORBIDDEN, message)
        try:
            found, account = self._where(key, provider, account)
        except CommandError as error:
            raise CommandRefused(RefusalReason.INVALID, str(error), field=error.field) from None
        return Submission(
            api_key=api_key,
            provider=found,
            account=account,
            command=command,
            within=within,
            idempotency_key=name,
        )

    def _count(self, key: ApiKey) -> None:
        """Count one command against the key's rate. Drop the buckets of keys that are no longer configured."""
        limits, now = self.registry.limits, self._clock()
        bucket = self._bucket(key.name)
        if not bucket.take(1, now):
            self.registry.notes["rate_limited"] += 1
            message = f"more than {limits.rate:g} commands a second of API key {key.name} (limit commands.rate)"
            raise CommandRefused(RefusalReason.RATE_LIMITED, message, retry_after=bucket.ready_at(1, now) - now)
        self._counted(key.name)

    def count_elsewhere(self, name: str) -> None:
        """Count a command that another relay accepted against the key's rate, even if the rate is used up."""
        if self._keys.named(name) is not None:
            self._bucket(name).draw(1, self._clock())

    def _bucket(self, name: str) -> TokenBucket:
        bucket = self._rates.get(name)
        if bucket is None:
            self._rates = {each: kept for each, kept in self._rates.items() if self._keys.named(each) is not None}
            limits = self.registry.limits
            bucket = self._rates[name] = TokenBucket(limits.rate, limits.burst)
        return bucket

    def _where(self, key: ApiKey, name: Any, account: Any) -> tuple[Provider, str | None]:
        if name is None:
            raise CommandError("provider", "is missing")
        command_input.text("provider", name)
        if account is not None:
            command_input.text("account", account)
        may = key.may_trade_some(name) if account is None else key.may_trade(name, account)
        if not may:
            raise _may_not(key, name, account)
        provider = self._providers.find(name)
        if provider is None:
            known = [each.name for each in self._providers if key.may_trade_some(each.name)]
            message = f"no provider is named {command_input.shown(name)}; {suggestion(name, known)}"
            raise CommandRefused(RefusalReason.NOT_FOUND, message, field="provider")
        return provider, self._account(key, provider, account)

    def _account(self, key: ApiKey, provider: Provider, account: str | None) -> str | None:
        """Return the account of the command: the one it names, or the only one. Raises CommandRefused."""
        own = [each for each in provider.accounts if key.may_trade(provider.name, each)]
        if account is None and len(provider.accounts) > 1:
            raise CommandError("account", f"must be named: provider {provider.name} has {', '.join(own)}")
        if account is not None and provider.accounts and account not in provider.accounts:
            message = (
                f"provider {provider.name} has no account {command_input.shown(account)}; {suggestion(account, own)}"
            )
            raise CommandRefused(RefusalReason.NOT_FOUND, message, field="account")
        if account is None and provider.accounts:
            account = provider.accounts[0]
        if not key.may_trade(provider.name, account or ""):
            raise _may_not(key, provider.name, account)
        if not (provider.accounts or provider.names_accounts or key.may_trade_all(provider.name)):
            message = (
                f"provider {provider.name} has no configured account, and what it does is on its login's account whatever a "
                f'command names: API key {key.name} needs trade = ["{provider.name}.*"], or an account must be configured'
            )
            raise CommandRefused(RefusalReason.FORBIDDEN, message, field="account")
        return account

    def _seconds(self, value: Any) -> float:
        if value is None:
            return WITHIN
        seconds = float(command_input.decimal("within", value))
        if not 0.1 <= seconds <= LONGEST:
            raise CommandError("within", f"must be 0.1 to {LONGEST} seconds, not {value}")
        return seconds

    def offered(self, key: ApiKey) -> Iterable[tuple[Provider, list[str]]]:
        """Yield the providers on which this key may trade, each with the configured accounts it may use."""
        for provider in self._providers:
            own = [each for each in provider.accounts if key.may_trade(provider.name, each)]
            if own or (not provider.accounts and key.may_trade_some(provider.name)):
                yield provider, own

    # --- what is done ------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> tuple[PendingCommand, bool]:
        """Send a command. Return its entry in the registry, and False if it is a repetition, which is not sent again.

        Raises:
            CommandRefused: CONFLICT if a different command has one of its names, FULL if the key, the account or the
                session has reached a limit, STORE_UNAVAILABLE if its names cannot be stored, NOT_OWNER if another relay
                holds the session, SHUTTING_DOWN if the relay is stopping.
        """
        if self._closed:
            raise CommandRefused(RefusalReason.SHUTTING_DOWN, SHUTTING_DOWN["message"])
        if not self._owns(submission.provider.name):
            message = f"another relay of the cluster holds the session with {submission.provider.name}"
            raise CommandRefused(RefusalReason.NOT_OWNER, message)
        session = submission.provider.trading_session(submission.account)
        try:
            return session.send(submission.command, submission.within, submission.idempotency_key, submission.api_key)
        except Conflict as conflict:
            raise CommandRefused(RefusalReason.CONFLICT, conflict.message, field=conflict.field) from None
        except Full as full:
            raise CommandRefused(RefusalReason.FULL, str(full)) from None
        except Unstorable as reason:
            message = f"the command's names cannot be stored, so it is not sent: {reason}"
            raise CommandRefused(RefusalReason.STORE_UNAVAILABLE, message) from None

    def is_elsewhere(self, submission: Submission) -> bool:
        """Return True if another relay holds the session, so that the command must be forwarded."""
        return self._elsewhere is not None and not self._closed and not self._owns(submission.provider.name)

    async def execute_elsewhere(self, submission: Submission) -> tuple[Outcome | None, bytes, bool]:
        """Forward a command to another relay. Return the outcome, the reply's JSON, and True if the command was new.

        Raises:
            CommandRefused: the other relay refused it, see `submit`.
        """
        assert self._elsewhere is not None
        answered = trio.Event()
        answers: list[tuple[CommandRefused | Outcome | None, bytes, bool]] = []

        def take(outcome: CommandRefused | Outcome | None, data: bytes, new: bool) -> None:
            answers.append((outcome, data, new))
            answered.set()

        self._elsewhere(submission, take)
        await answered.wait()  # at most until GRACE after the command's deadline
        outcome, data, new = answers[0]
        if isinstance(outcome, CommandRefused):
            raise outcome
        return outcome, data, new

    def dry_run(self, submission: Submission) -> list[dict[str, Any]]:
        """Return the requests that would be sent for a command, without sending them.

        Raises:
            CommandRefused: INVALID if the adapter cannot encode it.
        """
        try:
            return submission.provider.trading_session(submission.account).dry_run(submission.command)
        except Unwritable as error:
            raise CommandRefused(RefusalReason.INVALID, str(error), field="command") from None

    async def wait(self, pending: PendingCommand) -> tuple[Outcome | None, bytes]:
        """Wait for the reply. If there is none `GRACE` after the command's deadline, end it as unknown.

        Return the outcome and the reply's JSON, which is in its remembered, shortened form if it was there before.
        """
        answered = trio.Event()
        answer: tuple[Outcome | None, bytes] = None, b""

        def take(outcome: Outcome | None, data: bytes) -> None:
            nonlocal answer
            answer = outcome, data
            answered.set()

        pending.when_answered(take)
        with trio.move_on_at(pending.due_at + GRACE):
            await answered.wait()
        if pending.reply is None:
            self.end_overdue()
        if not answered.is_set():  # its reply is being written to the store
            with trio.move_on_after(GRACE):
                await answered.wait()
        return answer

    def end_overdue(self) -> None:
        """End the commands whose session did not reply in time, and forget old ones. Call about once a second."""
        self._end(self.registry.overdue(self._clock()))
        self.registry.forget(self._clock())

    def end_restored(self, restored: Iterable[PendingCommand]) -> None:
        """End, as unknown, the commands that a restart left without a reply. They are never sent again."""
        self._end((pending, pending.given_up(**RESTARTED)) for pending in restored)

    def close(self) -> None:
        """Stop accepting commands, and end the open ones while their senders are still connected. Call at shutdown."""
        self._closed = True
        self._end(self.registry.overdue(math.inf, SHUTTING_DOWN))

    def _end(self, overdue: Iterable[tuple[PendingCommand, Reply]]) -> None:
        for pending, reply in list(overdue):
            received_at = from_micros(self._unix_ns() // 1000)
            scope = pending.scope
            stamp = Stamp(provider=scope.provider, account=scope.account, received_at=received_at)
            self._publish(reply, stamp)

    # --- client events -----------------------------------------------------------------------------------------------

    def client_command(self, sent: ClientCommand) -> Rejected | Repeated | None:
        """Accept a command received as a client event; implements `relay.trading.registry.OnCommand`."""
        try:
            submission = self._validate_event(sent)
            if self._elsewhere is not None and self.is_elsewhere(submission):
                self._elsewhere(submission, partial(self._told_elsewhere, sent))
                return None
            pending, _ = self.submit(submission)
        except CommandRefused as refused:
            return _rejected(sent, refused)
        return Repeated(pending.answer.decode()) if pending.told else None

    def _told_elsewhere(
        self, sent: ClientCommand, outcome: CommandRefused | Outcome | None, data: bytes, new: bool
    ) -> None:
        """Send a refusal or a repeated reply from another relay to the client. New replies arrive on the channel."""
        if isinstance(outcome, CommandRefused):
            self._tell(sent, _rejected(sent, outcome))
        elif not new and data:
            self._tell(sent, Repeated(data.decode()))

    def _validate_event(self, sent: ClientCommand) -> Submission:
        key = self._trader(sent)
        try:
            members = command_input.read(sent.data)
        except CommandError as error:
            raise CommandRefused(RefusalReason.INVALID, str(error), field=error.field) from None
        own = {"provider": sent.stream.provider, "account": sent.stream.topic.account}
        for name, value in own.items():
            if members.get(name, value) != value:
                raise CommandRefused(RefusalReason.INVALID, f"{name}: this channel is {sent.channel}", field=name)
        submission = self.validate(key, {**members, **own})
        if submission.dry_run:
            message = "dry_run: only POST /api/v2/commands shows what would be sent"
            raise CommandRefused(RefusalReason.INVALID, message, field="dry_run")
        return submission

    def _trader(self, sent: ClientCommand) -> ApiKey:
        """Return the API key with which the connection subscribed to the channel. Raises CommandRefused."""
        key = self._keys.named(sent.key) if sent.key is not None else None
        if key is None or key.digest != sent.digest:
            message = f"{sent.channel} was not joined by an API key that may trade; /api/v2/ws/auth signs it for one"
            raise CommandRefused(RefusalReason.FORBIDDEN, message)
        return key


def _rejected(sent: ClientCommand, refused: CommandRefused) -> Rejected:
    code = f"{refused.refusal.value}: " if refused.refusal in _OF_THE_RELAY else ""
    return Rejected(f"{code}{refused.message}", _id_of(sent.data), refused.refusal.name.lower(), refused.field)


def _id_of(data: str) -> str | None:
    """Return the id of a command; None if it cannot be read."""
    try:
        id = command_input.read(data).get("id")
    except CommandError:
        return None
    # The parser returns numbers as a subclass of str, which cannot be encoded in an answer.
    return id if type(id) is str and len(id) <= LONGEST_ID else None


def _may_not(key: ApiKey, provider: str, account: str | None) -> CommandRefused:
    where = (
        command_input.shown(provider)
        if account is None
        else f"{command_input.shown(provider)}.{command_input.shown(account)}"
    )
    needed = where if account is not None else f"{where}.*"
    message = f'API key {key.name} may not trade on {where}; it needs [api_keys.{key.name}] trade = ["{needed}"]'
    return CommandRefused(RefusalReason.FORBIDDEN, message, field="provider" if account is None else "account")
