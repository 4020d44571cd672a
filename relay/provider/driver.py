"""A provider's session on real sockets: `ProviderSession` runs a `SessionMachine` and carries out its outputs.

All calls of the machine are synchronous, so its inputs never overlap. The connection's reader passes messages to it as they
arrive. One loop passes the inputs from outside (`want`, `unwant`, `send`) and the ticks of the clock. Those methods only
enqueue, so they may be called from within ``publish``, while the machine handles an input.
"""

import random
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

import trio

from relay.adapter import Adapter, Context, Fetch, dumps
from relay.errors import leaves
from relay.model.channels import Asker, Topic
from relay.model.commands import Command
from relay.model.events import Trade
from relay.plugins import FrameTap, Traffic
from relay.provider import session_events
from relay.provider.accounts import State
from relay.provider.connection import Deadlines, Line
from relay.provider.http import Fetcher
from relay.provider.session import Life, SessionMachine, SessionSettings
from relay.provider.session_commands import dry_run, for_newest
from relay.provider.session_events import Input, Now, Output
from relay.provider.session_state import Publish, SessionLog, no_log
from relay.provider.subscription_table import Key, is_requested, topic_key
from relay.trading.pending import AccountRef, PendingCommand
from relay.trading.registry import WITHIN, CommandRegistry

#: Least seconds that the loop sleeps, so that a deadline in the past does not make it spin.
_LEAST_SLEEP = 0.001
#: Most changes of the needed topics handled at once; commands and other inputs are handled before the next ones.
_INTEREST_AT_ONCE = 500

#: Most dials that are remembered over a restart. Limits of providers are lower.
_MOST_DIALS = 500

_SETTINGS = SessionSettings()
_DEADLINES = Deadlines()


def moment() -> Now:
    """Read both clocks."""
    return Now(trio.current_time(), time.time_ns())


def _nothing() -> None:
    """Do nothing."""


def keep_nothing(table: str, key: str, value: bytes | None) -> None:
    """Store nothing."""


class Restored(NamedTuple):
    """The rows that an earlier process stored for a session, see ``keep`` of `ProviderSession`.

    Attributes:
        dials: Unix nanoseconds of the last dials.
        fills, states: rows of `Fills` and `States`.
        heard_ns: time up to which the session had received all events, Unix nanoseconds.
    """

    dials: Sequence[int] = ()
    fills: Sequence[tuple[str, bytes]] = ()
    states: Sequence[tuple[str, bytes]] = ()
    heard_ns: int | None = None


class ProviderSession:
    """One session with a provider account.

    Args:
        adapter: the provider's adapter class.
        context: its options, credentials and account.
        publish: called with each event and its stamp. Synchronous, must not raise. It passes replies to ``commands``.
        commands: the registry of open commands.
        http: makes the adapter's HTTP requests.
        settings, deadlines: the operator's settings.
        ssl_context: for ``wss``; by default the system's certificates.
        log: called with a level, an event name and fields, which contain no secrets.
        dial: creates a connection, called like `Line`, the default.
        keep: called with a table, a key and a value to store (None: delete) whenever something changes that must outlive the
            process. The tables are ``dials`` (times of the last dials, which count against the provider's limit also after
            a restart), ``fills``, ``states`` and ``heard`` (time of the last received data). See `restore`.
        beside: the pool's first connection, if this is a further one (`relay.provider.pool`).
    """

    def __init__(
        self,
        adapter: type[Adapter],
        context: Context,
        *,
        publish: Publish,
        commands: CommandRegistry,
        http: Fetcher,
        settings: SessionSettings = _SETTINGS,
        deadlines: Deadlines = _DEADLINES,
        ssl_context: ssl.SSLContext | None = None,
        log: SessionLog = no_log,
        dial: Callable[..., Any] = Line,
        keep: Callable[[str, str, bytes | None], object] = keep_nothing,
        beside: "ProviderSession | None" = None,
    ) -> None:
        self._beside = beside
        self._adapter = adapter
        self._context = context
        self._publish = publish
        self._commands = commands
        self._http = http
        self._settings = settings
        self._deadlines = deadlines
        self._ssl_context = ssl_context
        self._log = log
        self._make_line = dial
        self._keep = keep
        self._dials: deque[int] = deque(maxlen=_MOST_DIALS) if beside is None else beside._dials
        self._kept_up = 0
        self._machine = self._new_machine(None)
        core = self._machine.core  # a replaced machine passes its caches on to the next one
        core.states.ahead = time.time() - trio.current_time()
        if keep is not keep_nothing and beside is None:
            core.fills.on_change, core.states.on_change = partial(keep, "fills"), partial(keep, "states")
        self._inbox: deque[Input] = deque()
        self._interest: deque[session_events.WantTopic | session_events.UnwantTopic] = deque()
        #: Topics of `_interest` that are not in the machine's table yet.
        self._coming: dict[Key, Topic] = {}
        #: Called when the number of topics may have changed.
        self.on_turn: Callable[[], object] = _nothing
        self._wake = trio.Event()
        self._line: Line | None = None
        self._lines = 0
        self._no_line = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._over = False
        #: Called with everything that is sent and received; None if there is no frame tap.
        self.frame_tap: FrameTap | None = None

    def _new_machine(self, after: SessionMachine | None) -> SessionMachine:
        return SessionMachine(
            self._adapter,
            self._context,
            publish=self._publish,
            commands=self._commands,
            uniform=random.random,
            correlation=lambda: str(uuid.uuid4()),
            settings=self._settings,
            after=after,
            log=self._line_of_log,
            beside=None if self._beside is None else self._beside._machine,
        )

    def _line_of_log(self, level: str, event: str, **fields: object) -> None:
        account = {} if self._context.account is None else {"account": self._context.account}
        self._log(level, event, provider=self._context.provider, **account, **fields)

    # --- called from outside; synchronous ----------------------------------------------------------------------------

    def want(self, topic: Topic, by: Asker | None = None) -> None:
        """Subscribe to ``topic`` for the subscriber ``by``, or as pinned by the operator if that is None."""
        self._interest.append(session_events.WantTopic(topic, by))
        key = topic_key(topic)
        if self._machine.core.table.find(key) is None:
            self._coming[key] = topic
        self._wake.set()

    def want_too(self, topic: Topic, by: Asker) -> None:
        """Note that ``by`` needs ``topic`` too. It is requested at the first turn of any of its subscribers."""
        if self._machine.core.table.is_news(topic, by):
            self.want(topic, by)

    def has(self, topic: Topic) -> bool:
        """Return True if ``topic`` is on this connection; lingering topics count."""
        key = topic_key(topic)
        return key in self._coming or self._machine.core.table.find(key) is not None

    @property
    def topics(self) -> int:
        """The number of topics that take a place on this connection, including lingering ones."""
        return self._machine.core.table.requested + sum(is_requested(topic) for topic in self._coming.values())

    def unwant(self, topic: Topic) -> None:
        """Unsubscribe from ``topic`` after its linger time, because it has no subscribers left."""
        self._interest.append(session_events.UnwantTopic(topic))
        self._wake.set()

    @property
    def is_over(self) -> bool:
        """True if the session has ended or is FAILED."""
        return self._over or self._machine.life in (Life.FAILED, Life.ENDED)

    def hand_over(self, most: int, to: "ProviderSession") -> int:
        """Move up to ``most`` topics beyond this connection's limit to another connection of the pool; return how many.

        Nothing is moved while changes of topics are queued, because they would then apply to the wrong connection.
        """
        if self._interest:
            return 0
        entries = self._machine.give_up_waiting(most)
        for entry in entries:
            if entry.pinned:
                to.want(entry.topic)
            for by in entry.askers:
                to.want(entry.topic, by)
        return len(entries)

    def send(
        self, command: Command, within: float = WITHIN, idempotency_key: str | None = None, api_key: str = ""
    ) -> tuple[PendingCommand, bool]:
        """Send ``command`` once its ids are stored. Exactly one `Reply` is published, within ``within`` seconds.

        Return its entry in the registry, and True if it is new. A repeated command is not sent again.

        Raises:
            Conflict: one of its ids belongs to another command.
            Full: the session, the API key or the account has too many open commands.
            Unstorable: the store fails.
        """
        now = trio.current_time()
        session = AccountRef(self._context.provider, self._context.account)
        return self._commands.take(
            session,
            command,
            idempotency_key,
            now + within,
            now,
            api_key,
            then=self._enqueue_command,
            written=self._machine.as_written(command),
        )

    def dry_run(self, command: Command) -> list[dict[str, Any]]:
        """Return the frames and requests that ``command`` would send, without secrets. Nothing is sent.

        Raises:
            Unwritable: the adapter cannot encode the command.
        """
        core = self._machine.core
        checks, newest, now = core.settings.check_orders, for_newest(core, command), trio.current_time()
        return dry_run(self._adapter, core.adapter, self._context, newest, core.reason_of, check=checks, now=now)

    def restore(self, left: Restored) -> None:
        """Restore the dials, fills, states and the start of the outage that an earlier process stored."""
        at, core = moment(), self._machine.core
        for unix_ns in sorted(left.dials)[-_MOST_DIALS:]:
            # If the clock was set back, a stored dial must not be in the future.
            core.budget.take({"dial": 1}, at.now - max(0, at.unix_ns - unix_ns) / 1e9)
            self._dials.append(unix_ns)
        core.fills.restore(left.fills)
        core.states.restore(left.states, at.now)
        if left.heard_ns is not None:
            away = max(0, at.unix_ns - left.heard_ns)
            self._machine.restore_absence(Now(at.now - away / 1e9, at.unix_ns - away))

    def forget(self, table: str, key: str) -> None:
        """Remove a fill or state whose row, of this table and key, could not be stored.

        Its event is in no log, so it must be published when the provider sends it again.
        """
        if table == "fills":
            self._machine.core.fills.forget(key)
        elif table == "states":
            self._machine.core.states.forget(key)

    def learn(self, fills: Iterable[Trade], states: Iterable[tuple[State, float]]) -> None:
        """Add fills, and states with the times they were published, that another relay published."""
        core = self._machine.core
        for fill in fills:
            core.fills.remember(fill, self._context.account)
        for state, received_at in states:
            core.states.learn(state, self._context.account, received_at)

    def reset(self) -> None:
        """Prepare for another `run` after `run` was cancelled: drop the connection and all queued inputs."""
        self._line, self._over = None, False
        self._inbox.clear()
        self._machine.abandon("another relay runs the provider's session", moment())
        self._machine = self._new_machine(self._machine)

    def keep_heard(self) -> None:
        """Store the time up to which all events were received. Call it every few seconds; a new connection calls it too."""
        heard = self._machine.heard_at()
        if heard is not None and self._beside is None:
            self._keep("heard", "", str(self._machine.core.unix_ns_at(heard, moment())).encode())

    def rows(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield all rows that ``keep`` was called with, as table, key and value. A further connection of a pool has none."""
        if self._beside is not None:
            return
        core = self._machine.core
        yield "dials", "", self._dials_text()
        yield from (("fills", key, value) for key, value in core.fills.rows())
        yield from (("states", key, value) for key, value in core.states.rows())

    def _dials_text(self) -> bytes:
        return " ".join(map(str, self._dials)).encode()

    def resume(self) -> None:
        """Restart the session if it is FAILED."""
        self._enqueue(session_events.Resume())

    def shutdown(self) -> None:
        """Unsubscribe, close the connection and end `run`; drop queued changes of topics."""
        self._interest.clear()
        self._coming.clear()
        self._enqueue(session_events.Shutdown())

    def mask(self, text: str) -> str:
        """Return a frame or body with credentials and learned values masked. May be called in another thread."""
        return self._machine.core.redact.mask(text)

    def status(self) -> dict[str, Any]:
        """Return this session's part of the status page."""
        return self._machine.status()

    def _enqueue_command(self, pending: PendingCommand) -> None:
        self._enqueue(session_events.SendCommand(pending))

    def _enqueue(self, turn: Input) -> None:
        self._inbox.append(turn)
        self._wake.set()

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the session until it is shut down. After an exception it may be run again and continues.

        Raises:
            Exception: a fault of the relay. Open commands have been answered as unknown.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                self._step(session_events.Start())
                await self._run_inputs()
                # Leave time for the closing handshake; requests and pings in flight are not needed any more.
                nursery.cancel_scope.deadline = trio.current_time() + self._deadlines.close
        except Exception as error:
            self._line = None
            self._machine.abandon(f"internal error of the relay: {type(leaves(error)[0]).__name__}", moment())
            self._machine = self._new_machine(self._machine)
            raise
        finally:
            self._nursery = None

    async def _run_inputs(self) -> None:
        """Pass queued inputs and ticks of the clock to the machine until the session has ended."""
        while True:
            while self._inbox:
                self._step(self._inbox.popleft())
            if self._over:
                return
            if self._interest:
                self._hand_over_interest()
                await trio.lowlevel.checkpoint()
                continue
            at = max(self._machine.deadline(), trio.current_time() + _LEAST_SLEEP)
            with trio.move_on_at(at):
                await self._wake.wait()
            self._wake = trio.Event()
            self._step(session_events.Tick())
            self.on_turn()

    def _hand_over_interest(self) -> None:
        turns = [self._interest.popleft() for _ in range(min(len(self._interest), _INTEREST_AT_ONCE))]
        for turn in turns:
            self._coming.pop(topic_key(turn.topic), None)
        self._do(self._machine.interest(turns, moment()))
        self.on_turn()

    def _step(self, turn: Input, traffic: Traffic | None = None) -> None:
        """Handle one input. Then pass ``traffic``, its source, to the frame tap: its secrets are known only now.

        Input and traffic get the same time, so that an event's `received_at` leads to the answer it was made of.
        """
        at = moment()
        try:
            outputs = self._machine.step(turn, at)
        finally:
            if traffic is not None and self.frame_tap is not None:
                self.frame_tap(traffic._replace(unix_ns=at.unix_ns))
        self._do(outputs)

    def _do(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case session_events.SendText(text):
                    self._send(text)
                case session_events.DeadlineChanged():
                    self._wake.set()
                case session_events.Sampled(raw, why):
                    self._line_of_log("warning", "unknown_message", raw=raw, why=why)
                case session_events.SendPing():
                    if self._line is not None:
                        self._line.ping()
                case session_events.FetchRequest():
                    self._start(self._fetch, output)
                case session_events.Dial():
                    self._remember_dial()
                    self._start(self._dial, output)
                case session_events.CloseSocket(code, reason):
                    self._close(code, reason)
                case session_events.Finished(_, failed):
                    self._over = not failed
        if self._machine.core.counters.connections != self._kept_up:
            # Store it before anything is sent: if this process dies at once, the next one requests events from here on.
            self._kept_up = self._machine.core.counters.connections
            self.keep_heard()

    def _remember_dial(self) -> None:
        if self._machine.core.budget.is_limited("dial"):
            self._dials.append(time.time_ns())
            self._keep("dials", "", self._dials_text())

    def _start(self, task: Callable[..., Any], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, *args)

    def _send(self, text: str) -> None:
        if self._line is not None and not self._line.send(text):
            # The machine holds back everything else; only answers that cannot wait can fill this queue.
            self._close(1008, "")
            self._enqueue(
                session_events.Closed(1006, f"the provider does not read: {self._deadlines.queue} frames waiting")
            )
        elif self.frame_tap is not None:
            self.frame_tap(Traffic("out", time.time_ns(), text))

    def _written(self, line: Line) -> None:
        if line is self._line and self._machine.written():
            self._wake.set()

    def _close(self, code: int, reason: str) -> None:
        if self._line is not None:
            self._line.close(code, reason)
            self._line = None
            if self.frame_tap is not None:
                self.frame_tap(Traffic("close", time.time_ns(), reason, status=code, own=True))

    async def _dial(self, dial: session_events.Dial) -> None:
        self._line_of_log("info", "dial", url=dial.shown)
        line: Line = self._make_line(
            self._deadlines,
            self._ssl_context,
            on_open=lambda: self._turn(session_events.Opened(), Traffic("open", time.time_ns(), url=dial.url)),
            on_text=self._received,
            on_bytes=lambda: self._machine.heard(trio.current_time()),
            on_written=lambda: self._written(line),
        )
        self._line = line
        if dial.alone:
            while self._lines and line.live:
                await self._no_line.wait()
        self._lines += 1
        try:
            ending = await line.run(dial)
        finally:
            self._lines -= 1
            self._no_line.set()
            self._no_line = trio.Event()
        if line.live:
            self._line = None
            self._turn(ending, _ended(ending))

    async def _fetch(self, request: session_events.FetchRequest) -> None:
        answer = await self._http.fetch(request.fetch, request.url)
        if answer.status == 0:
            cause = self._machine.core.redact(answer.text)
            self._line_of_log(
                "warning",
                "fetch_failed",
                url=request.shown,
                tag=getattr(request.fetch.tag, "name", str(request.fetch.tag)),
                cause=cause,
            )
        traffic = None
        if self.frame_tap is not None:
            method, body = request.fetch.method, _body(request.fetch)
            traffic = Traffic("http", time.time_ns(), answer.text, request.shown, method, answer.status, body)
        self._turn(session_events.Fetched(request.id, answer), traffic)

    def _received(self, raw: str, arrived: int) -> None:
        if self.frame_tap is None:
            outputs = self._machine.receive(raw, Now(trio.current_time(), arrived))
        else:
            try:
                outputs = self._machine.receive(raw, Now(trio.current_time(), arrived))
            finally:  # record the message also if it makes the session fail
                self.frame_tap(Traffic("in", arrived, raw))
        if outputs:
            self._do(outputs)

    def _turn(self, turn: Input, traffic: Traffic | None = None) -> None:
        self._step(turn, traffic)
        self._wake.set()


def _ended(ending: session_events.Closed | session_events.DialRefused | session_events.DialFailed) -> Traffic:
    match ending:
        case session_events.Closed(code, reason):
            return Traffic("close", time.time_ns(), reason, status=code)
        case session_events.DialRefused(status):
            return Traffic("close", time.time_ns(), f"refused with HTTP status {status}", status=1006)
        case session_events.DialFailed(error):
            return Traffic("close", time.time_ns(), f"no connection: {error}", status=1006)


def _body(fetch: Fetch) -> str:
    """Return the body of a request as text."""
    if fetch.json is not None:
        return dumps(fetch.json)
    return urlencode(fetch.form) if fetch.form else ""
