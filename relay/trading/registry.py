"""The registry: every trading command of the relay, from request to reply.

Senders and the sessions that execute commands share this one table. Its rules:

- A command has up to three names on its account: its ``id``, its idempotency key, and an order's ``client_order_id``. A
  command that is repeated under any of them is not sent again. It gets the reply to the first one, and waits for it if
  that is still open. A different command under a name in use is refused (`Conflict`); commands that differ only in their
  ``id`` are the same.
- Every command ends with exactly one reply. One that was never sent is REJECTED: it had no effect. One that was sent ends
  ACCEPTED or REJECTED by the provider's answer. It ends UNKNOWN, since the order may be live, when its deadline passes,
  the connection it was sent on is lost, or the HTTP answer leaves the outcome open (`nothing_known`). If a session has
  not replied `GRACE` after the deadline, the registry ends the command as unknown. Later replies are counted and not
  published.
- A provider's error that names no command answers no command, because it may be about anything. A command that ends
  unknown lists the errors of this kind that were received on its connection after it was sent.
- The account's stream corrects an unknown outcome. A state of the same order (by its ``client_order_id``, or by the id of
  the order or position that the command names) that arrives while the command is open turns an unknown reply into a known
  one, marked ``reconciled``. A later state does not publish a second reply, but changes the answer to a repeated command.
- Memory is bounded, and no sender's commands displace another's. Every API key and every account has a share of its own
  (`CommandLimits`). A full share drops its rejected commands, the oldest first, because they had no effect. Accepted and
  unknown commands are remembered for their whole age: if they fill a share, new commands are refused (`Full`). Replies to
  commands that change nothing are not remembered.
- A command that changes something is stored before it is sent, and its reply before it is released. After a restart it is
  remembered as before; one without a reply ends as unknown and is not sent again. While the store fails, such commands
  are refused (`Unstorable`).
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from typing import Any

from attrs import Factory, define, field, frozen, validators

from relay.histogram import Histogram
from relay.model.channels import Stream
from relay.model.commands import AmendOrder, CancelOrder, Command
from relay.model.enums import Outcome
from relay.model.events import Event, Order, Position, Reply, Stamp
from relay.model.serialize import encode
from relay.store.interface import Row, Store
from relay.trading.pending import (
    READING,
    TABLE,
    AccountRef,
    Name,
    PendingCommand,
    RecordError,
    measured,
    restored,
    told_names,
)
from relay.trading.pending import names as command_names

COMMAND = "client-command"
"""The client event by which a subscriber of an account's channel sends a command. Other subscribers do not receive it."""
WITHIN = 10.0
"""Seconds until the reply to a command that names no deadline."""
GRACE = 2.0
"""Seconds after its deadline until a command without a reply ends here."""
#: Most provider errors that are kept for one command.
MOST_ERRORS = 3
#: Bytes charged for a command in addition to its text.
OVERHEAD = 1024

#: The event types that must be passed to `CommandRegistry.check`.
CHECKED = frozenset({Reply, Order, Position})

_NONE: dict[str, "PendingCommand"] = {}
#: The error of a command whose outcome a restart left open.
RESTARTED = {"code": "restarted", "message": "the relay was restarted before the provider's answer"}
_SILENT = {"code": "deadline", "message": "the session with the provider said nothing in time"}


@frozen(kw_only=True)
class CommandLimits:
    """Bounds of the trading commands that are taken and remembered. Each API key and each account has its own share."""

    rate: float = field(default=50.0, validator=validators.gt(0))
    """Commands a second of one API key on average; more are refused with 429 `RATE_LIMITED`."""
    burst: int = field(default=200, validator=validators.ge(1))
    """Commands of one API key at once."""
    age: float = field(default=86_400.0, validator=validators.gt(0))
    """Seconds that the names and the reply of an accepted or unknown command are remembered. None is forgotten earlier."""
    rejected_age: float = field(default=3600.0, validator=validators.gt(0))
    """Seconds that a rejected command is remembered; it is forgotten earlier where its share needs the room."""
    per_key: int = field(default=50_000, validator=validators.ge(1))
    """Commands of one API key, open or remembered. When all are open, accepted or unknown, new ones are refused with 429
    `FULL`."""
    bytes_per_key: int = field(default=128 * 1024 * 1024, validator=validators.ge(256 * 1024))
    """Bytes of the same."""
    per_account: int = field(default=100_000, validator=validators.ge(1))
    """Commands on one account, open or remembered."""
    bytes_per_account: int = field(default=256 * 1024 * 1024, validator=validators.ge(256 * 1024))
    """Bytes of the same."""
    open_per_key: int = field(default=500, validator=validators.ge(1))
    """Commands of one API key that may wait for their replies."""
    open_per_session: int = field(default=1000, validator=validators.ge(1))
    """Commands of one session with a provider that may wait for their replies."""


@frozen(kw_only=True)
class ClientCommand:
    """A command received on an account's channel.

    Attributes:
        stream: the account's stream.
        channel: the channel's name, prefix included.
        key: name of the API key with which the connection subscribed to the channel; None if it used no API key.
        digest: the digest of that key at the time of the subscription.
        data: the command's text.
    """

    stream: Stream
    channel: str
    socket_id: str
    key: str | None = None
    digest: str | None = field(default=None, repr=False)
    data: str


@frozen
class Rejected:
    """The refusal of a command, sent to its sender.

    Attributes:
        id: the command's id, if it could be read.
        reason: the code of the refusal.
        field: the member at fault.
    """

    message: str
    id: str | None = None
    reason: str | None = None
    field: str | None = None


@frozen
class Repeated:
    """The reply to a repeated command that has already been answered, as the canonical event's JSON."""

    reply: str


OnCommand = Callable[[ClientCommand], Rejected | Repeated | None]
"""Accepts a command. Returns None if the reply will be published on the channel. Must neither block nor raise."""


def off(command: ClientCommand) -> Rejected:
    """Reject the command, because the hub accepts none."""
    return Rejected("this relay takes no commands", reason="not_available")


class Conflict(Exception):
    """Raised when a name is in use by a different command; ``field`` is the kind of name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Full(Exception):
    """Raised when a limit does not allow another command; ``limit`` is the name of its setting."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(f"{message} (limit commands.{limit})")
        self.limit = limit


class Unstorable(Exception):
    """Raised when the store cannot save a command's names; without them the command must not be sent."""


@define(eq=False)
class _Share:
    """Usage of one API key or one account: its open and remembered commands."""

    count: int = 0
    bytes: int = 0
    open: int = 0
    rejected: OrderedDict[PendingCommand, None] = Factory(OrderedDict)


class CommandRegistry:
    """All commands of one relay that are open or remembered. Times are monotonic seconds."""

    def __init__(self, limits: CommandLimits | None = None, store: Store | None = None) -> None:
        self.limits = CommandLimits() if limits is None else limits
        self._store = store
        #: Open commands by the session that executes them, then by id.
        self._open: dict[AccountRef, dict[str, PendingCommand]] = {}
        #: Answered commands; below, those that are forgotten by each of the two ages, the oldest first.
        self._kept: dict[tuple[AccountRef, str], PendingCommand] = {}
        self._lasting: OrderedDict[PendingCommand, None] = OrderedDict()
        self._rejected: OrderedDict[PendingCommand, None] = OrderedDict()
        self._names: dict[Name, PendingCommand] = {}
        self._watched: dict[tuple[AccountRef, str, str], list[PendingCommand]] = {}
        #: The share of each API key, by the key's name, and of each account.
        self._shares: dict[str | AccountRef, _Share] = {}
        self.notes: Counter[str] = Counter()
        """Counters: replies by outcome, ``repeated``, ``conflict``, ``full``, ``resolved``, ``late_reply``, ``silent``."""
        self.durations: dict[tuple[str, str], Histogram] = {}
        """Seconds from accepting a command to its reply, by provider and outcome."""

    def __len__(self) -> int:
        """Return the number of commands that are open or remembered."""
        return self.open + len(self._kept)

    @property
    def open(self) -> int:
        """Commands without a reply."""
        return sum(map(len, self._open.values()))

    # --- from senders ------------------------------------------------------------------------------------------------

    def take(
        self,
        session: AccountRef,
        command: Command,
        key: str | None,
        due_at: float,
        now: float,
        api_key: str = "",
        then: Callable[[PendingCommand], object] = lambda pending: None,
        written: Command | None = None,
    ) -> tuple[PendingCommand, bool]:
        """Register ``command``. Return its entry, and True if it is new; only then must it be sent.

        Args:
            key: the idempotency key.
            api_key: name of the sender's API key.
            then: called with the new entry once its names are in the store; `PendingCommand.not_stored` is set if that
                failed. A command that changes nothing is not stored.
            written: the command as it will be sent, if that differs; it is also stored before ``then`` is called.

        Raises:
            Conflict: one of its names is in use by a different command.
            Full: the session, the API key or the account has no room for another command.
            Unstorable: the command would change something, and the store fails.
        """
        self.forget(now)
        scope = AccountRef(session.provider, session.account or command.account)
        names = tuple(command_names(scope, command, key))
        digest, size = measured(command)
        for name in names:
            pending = self._names.get(name)
            if pending is not None:
                return self._repeated(pending, name, digest), False
        waiting = self._open.get(session, _NONE)
        if command.id in waiting:  # on another account of the session; providers answer by the id alone
            raise Conflict("id", f"a command with id {command.id} is still waiting for its reply")
        if self._store is not None and self._store.failure and not isinstance(command, READING):
            self.notes["unstorable"] += 1
            raise Unstorable(self._store.failure)
        size += OVERHEAD + sum(len(value) for _, _, value in names)
        self._make_room(session, scope, api_key, size)
        pending = PendingCommand(session, scope, command, due_at, names, api_key, digest, command.name, taken_at=now)
        if written is not None and written is not command:
            pending.written = written
            if isinstance(written, CancelOrder | AmendOrder):
                pending.followed.append(written.order_id)
        self._enter(pending, size)
        if self._store is None or isinstance(command, READING):
            then(pending)
        else:
            self._store.commit(pending.row(), partial(_stored, pending, then))
        return pending, True

    def _enter(self, pending: PendingCommand, size: int) -> None:
        """Add an open command of ``size`` bytes to the tables and shares."""
        self._open.setdefault(pending.session, {})[pending.command.id] = pending
        self._charge(pending, size, 1)
        self._index_names(pending)

    def _index_names(self, pending: PendingCommand) -> None:
        """Index a command by its names and, while its outcome is not known, by the orders and positions that show it."""
        self._names.update(dict.fromkeys(pending.names, pending))
        if pending.outcome in (None, Outcome.UNKNOWN):
            for subject in pending.subjects():
                self._watched.setdefault(subject, []).append(pending)

    def _make_room(self, session: AccountRef, scope: AccountRef, api_key: str, size: int) -> None:
        """Forget rejected commands until the limits allow another one of ``size`` bytes. Raises Full if they never do."""
        limits = self.limits
        if len(self._open.get(session, _NONE)) >= limits.open_per_session:
            raise self._full("open_per_session", f"{limits.open_per_session} commands are waiting for their replies")
        of_key = self._shares.get(api_key)
        if of_key is not None and of_key.open >= limits.open_per_key:
            said = f"{limits.open_per_key} commands of API key {api_key} are waiting for their replies"
            raise self._full("open_per_key", said)
        for owner, what, most, most_bytes in (
            (api_key, "key", limits.per_key, limits.bytes_per_key),
            (scope, "account", limits.per_account, limits.bytes_per_account),
        ):
            share = self._shares.get(owner)
            while share is not None and (share.count >= most or share.bytes + size > most_bytes):
                if not share.rejected:
                    limit = f"per_{what}" if share.count >= most else f"bytes_per_{what}"
                    who = f"API key {api_key}" if what == "key" else "the account"
                    said = f"{share.count} commands of {who} are open or remembered, and none may be forgotten yet"
                    raise self._full(limit, said)
                self._forget(next(iter(share.rejected)))
                share = self._shares.get(owner)

    def _full(self, limit: str, message: str) -> Full:
        self.notes["full"] += 1
        return Full(limit, message)

    def _charge(self, pending: PendingCommand, size: int, open: int = 0) -> None:
        """Charge a command to its shares with ``size`` bytes; 0 removes it. ``open``: change of the number of open ones."""
        for owner in (pending.api_key, pending.scope):
            share = self._shares.get(owner)
            if share is None:
                share = self._shares[owner] = _Share()
            share.count += (size > 0) - (pending.size > 0)
            share.bytes += size - pending.size
            share.open += open
            if not share.count:
                del self._shares[owner]
        pending.size = size

    def _repeated(self, pending: PendingCommand, name: Name, digest: bytes) -> PendingCommand:
        if digest != pending.digest:
            self.notes["conflict"] += 1
            field, value = name[1], name[2]
            raise Conflict(field, f"{field} {value} was used for another command ({pending.called})")
        self.notes["repeated"] += 1
        return pending

    # --- from sessions -----------------------------------------------------------------------------------------------

    def find(self, session: AccountRef, id: str) -> PendingCommand | None:
        """Return the open command with this id of the session; None if there is none."""
        return self._open.get(session, _NONE).get(id)

    def open_of(self, session: AccountRef) -> list[PendingCommand]:
        """Return the open commands of the session."""
        return list(self._open.get(session, _NONE).values())

    def unknown_of(self, session: AccountRef) -> list[Command]:
        """Return the commands of the session whose outcome is unknown, the oldest first."""
        unknown = (each for each in self._lasting if each.session == session and each.outcome is Outcome.UNKNOWN)
        return [pending.written or pending.command for pending in unknown]

    def deadline(self, session: AccountRef) -> float:
        """Return the earliest deadline of the session's open commands."""
        return min((pending.due_at for pending in self._open.get(session, _NONE).values()), default=inf)

    def add_error(self, session: AccountRef, code: str, message: str) -> None:
        """Record an error that names no command with each command that it may concern."""
        for pending in self._open.get(session, _NONE).values():
            if pending.sent and not pending.over_http and len(pending.errors) < MOST_ERRORS:
                pending.errors.append({"code": code, "message": message})

    # --- from the path of events -------------------------------------------------------------------------------------

    def check(self, event: Event, stamp: Stamp) -> Event | None:
        """Return the event to publish in place of ``event``, whose type is in `CHECKED`; None for a second reply."""
        match event:
            case Reply():
                return self._check_reply(event, stamp)
            case Order() | Position():
                self._watch(event, stamp)
        return event

    def _check_reply(self, reply: Reply, stamp: Stamp) -> Reply | None:
        pending = self._find_by_stamp(reply, stamp)
        if pending is not None:
            if reply.outcome is Outcome.UNKNOWN and pending.shown is not None:
                self.notes["resolved"] += 1
                return pending.shown
            return reply
        if (AccountRef(stamp.provider, stamp.account or reply.account), reply.id) in self._kept:
            self.notes["late_reply"] += 1
            return None
        return reply  # to a command that this registry does not have

    def _find_by_stamp(self, reply: Reply, stamp: Stamp) -> PendingCommand | None:
        own = self.find(AccountRef(stamp.provider, stamp.account), reply.id)
        if own is not None or stamp.account is None:
            return own
        # The stamp may name an account of a session that serves several accounts.
        other = self.find(AccountRef(stamp.provider, None), reply.id)
        return other if other is not None and other.scope.account == stamp.account else None

    def settle(self, reply: Reply, stamp: Stamp, now: float, id: str = "", data: bytes = b"") -> PendingCommand | None:
        """End the command that ``reply`` answers, wake its waiters, and return it; None if it answers no open command.

        ``id`` and ``data``: event id and canonical JSON of the published reply; left out if it was not published.
        """
        pending = self._find_by_stamp(reply, stamp)
        if pending is None:
            return None
        waiting = self._open[pending.session]
        del waiting[reply.id]
        if not waiting:
            del self._open[pending.session]
        self.notes[reply.outcome.value] += 1
        if pending.taken_at is not None:
            labels = pending.session.provider, reply.outcome.value
            self.durations.setdefault(labels, Histogram()).observe(now - pending.taken_at)
        if reply.outcome is not Outcome.UNKNOWN:
            self._unwatch(pending)
        id = id or reply.id
        data = data or encode(reply, stamp, id)
        pending.settle(reply, stamp, now, id, data)
        if isinstance(pending.command, READING) and reply.outcome is not Outcome.UNKNOWN:
            self._charge(pending, 0, -1)
            self._forget_names(pending)
            pending.tell(reply.outcome, data)
            return pending
        self._kept[pending.scope, reply.id] = pending
        self._charge(pending, pending.size, -1)
        self._store_and_remember(pending)
        if self._store is None:
            pending.tell(reply.outcome, data)
        else:
            self._store.sync(lambda failure: pending.tell(reply.outcome, data))
        self.forget(now)
        return pending

    def _store_and_remember(self, pending: PendingCommand) -> None:
        """Store an answered command, and enter it into the list from which it will be forgotten by age."""
        if self._store is not None and not isinstance(pending.command, READING):
            self._store.write(pending.row())
        self._remember(pending)

    def _remember(self, pending: PendingCommand) -> None:
        names = sum(len(value) for _, _, value in pending.names)
        self._charge(pending, OVERHEAD + names + len(pending.answer))
        if pending.outcome is not Outcome.REJECTED:
            self._lasting.setdefault(pending)
            return
        self._lasting.pop(pending, None)
        self._rejected[pending] = None
        for owner in (pending.api_key, pending.scope):
            self._shares[owner].rejected[pending] = None

    def _watch(self, event: Order | Position, stamp: Stamp) -> None:
        if not self._watched or event.is_foreign(stamp):
            return
        scope = AccountRef(stamp.provider, stamp.account or event.account)
        if isinstance(event, Order) and event.replaces is not None:
            for pending in list(self._watched.get((scope, "order", event.replaces), ())):
                if isinstance(pending.command, CancelOrder):
                    self.follow(pending, event.id)
        for what, id in told_names(event):
            for pending in list(self._watched.get((scope, what, id), ())):
                was = pending.outcome
                pending.show(event)
                if was is Outcome.UNKNOWN and pending.outcome is not was:
                    self.notes["resolved"] += 1
                    self._unwatch(pending)
                    self._store_and_remember(pending)

    def follow(self, pending: PendingCommand, order_id: str) -> None:
        """Also read the command's outcome from the order that replaced the one it names, even after a restart."""
        if order_id not in pending.followed:
            pending.followed.append(order_id)
            self._watched.setdefault((pending.scope, "order", order_id), []).append(pending)
            if self._store is not None:
                self._store.write(pending.row())

    # --- from the store ----------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[tuple[str, bytes]], now: float, unix_ns: int) -> list[PendingCommand]:
        """Load the commands in the store. Return those without a reply, which may have been sent and are open here.

        A row that is not a valid command record is counted as ``unreadable`` and left in the store.

        Args:
            now, unix_ns: the current time: monotonic seconds and Unix time in nanoseconds.
        """
        known, open_ones = [], []
        for _, value in rows:
            try:
                pending = restored(value, now, unix_ns)
            except RecordError:
                self.notes["unreadable"] += 1
                continue
            if any(name in self._names for name in pending.names):
                continue  # accepted before the store could be opened
            if pending.reply is None:
                self._enter(pending, OVERHEAD)
                open_ones.append(pending)
            else:
                known.append(pending)
        for pending in sorted(known, key=lambda each: each.answered_at):
            self._charge(pending, OVERHEAD)
            self._index_names(pending)
            self._kept[pending.scope, pending.command.id] = pending
            self._remember(pending)
        self.forget(now)
        return open_ones

    def rows(self) -> Iterator[Row]:
        """Yield all rows that should be in the store."""
        for pending in [*self._kept.values(), *(each for waiting in self._open.values() for each in waiting.values())]:
            if not isinstance(pending.command, READING):
                yield pending.row()

    def unresolved(self) -> set[AccountRef]:
        """Return the accounts on which the outcome of a command is unknown."""
        return {pending.scope for pending in self._lasting if pending.outcome is Outcome.UNKNOWN}

    def drop(self, provider: str) -> list[PendingCommand]:
        """Forget the commands of a provider that another node has taken over; return those without a reply."""
        for pending in [each for (scope, _), each in self._kept.items() if scope.provider == provider]:
            self._forget(pending)
        dropped = []
        for session in [session for session in self._open if session.provider == provider]:
            for pending in self._open.pop(session).values():
                self._charge(pending, 0, -1)
                self._forget_names(pending)
                dropped.append(pending)
        return dropped

    # --- time --------------------------------------------------------------------------------------------------------

    def overdue(self, now: float, error: Mapping[str, str] = _SILENT) -> Iterator[tuple[PendingCommand, Reply]]:
        """Yield the commands whose session did not reply in time, each with the UNKNOWN reply to publish."""
        late = [each for waiting in self._open.values() for each in waiting.values() if each.due_at + GRACE <= now]
        for pending in late:
            self.notes["silent"] += 1
            yield pending, pending.undecided(error)

    def forget(self, now: float) -> None:
        """Forget the commands whose age has passed."""
        for queue, age in ((self._lasting, self.limits.age), (self._rejected, self.limits.rejected_age)):
            while queue and (oldest := next(iter(queue))).answered_at + age <= now:
                self._forget(oldest)

    def _forget(self, pending: PendingCommand) -> None:
        if self._store is not None and not isinstance(pending.command, READING):
            self._store.write(Row(TABLE, pending.key, None))
        self._lasting.pop(pending, None)
        self._rejected.pop(pending, None)
        for owner in (pending.api_key, pending.scope):
            self._shares[owner].rejected.pop(pending, None)
        del self._kept[pending.scope, pending.command.id]
        self._charge(pending, 0)
        self._forget_names(pending)

    def _forget_names(self, pending: PendingCommand) -> None:
        for name in pending.names:
            self._names.pop(name, None)
        self._unwatch(pending)

    def _unwatch(self, pending: PendingCommand) -> None:
        for subject in pending.subjects():
            left = [other for other in self._watched.get(subject, ()) if other is not pending]
            if left:
                self._watched[subject] = left
            else:
                self._watched.pop(subject, None)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters for the status page."""
        return {"open": self.open, "remembered": len(self._kept), **self.notes}


def _stored(pending: PendingCommand, then: Callable[[PendingCommand], object], failure: str) -> None:
    pending.not_stored = failure
    then(pending)
