"""The session machine: the state of one provider account over all of its connections.

The life of a session::

    NEW -> PREPARING -> DIALLING -> OPENING -> UP
              ^            |           |        |
              +- WAITING <-+-----------+--------+      FAILED: stopped, until Resume      ENDED: shut down

PREPARING makes the adapter's requests (a login, symbols), all of which must succeed. DIALLING waits for the socket. OPENING
has sent the adapter's first messages and waits for the provider to be ready. UP subscribes, decodes and trades. Each failure
leads to WAITING and a new attempt with a new adapter instance, unless the provider's answer means that another attempt would
be refused too, or that another session has replaced this one; then the session is FAILED.

If the provider closes connections without subscriptions (`Session.on_interest`), the session is IDLE while it has no topic:
before the first dial, and after its connection has ended. The first topic makes it connect. IDLE is not an outage: no topic
is stale, and no event was missed. A further connection of a pool is IDLE in the same way, and closes when its last topic is
gone. Instruments need no connection: if no other topic has a subscriber, an IDLE session makes the adapter's requests
(PREPARING), publishes the instruments, and is IDLE again until it must read the metadata again.

Guarantees:

- Every change of state is published as a `connection` event with its reason and the length of the open gap.
- After a gap every topic that had data gets a `gap` event, before any new event, and is subscribed again.
- Rate limits are never exceeded, except by answers that cannot wait. Orders are sent before subscriptions.
- A message that cannot be decoded never ends the session.
- No text that leaves the session (reasons, samples, shown URLs) contains a credential or a learned secret.

The machine has no clock and no random source: each input comes with its `Now`, random numbers come from a callable. Outputs
are carried out by `relay.provider.driver`; events are passed to ``publish``.
"""

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from typing import Any

import attrs

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Calendar,
    CloseMeaning,
    CommandReply,
    Complete,
    Context,
    EventAck,
    Fetch,
    Hello,
    Learned,
    Limited,
    Nack,
    Partial,
    Ping,
    Poll,
    Polled,
    Processed,
    Ready,
    Redial,
    Send,
    Symbols,
    Unknown,
    Unsubscribe,
    Waits,
)
from relay.adapter.reading import is_throttled
from relay.model.commands import Command
from relay.model.enums import ConnectionEvent, RateLimitEvent
from relay.model.events import Account, Connection, Depth, Error, Instrument, Order, Position, RateLimit, Trade
from relay.model.hours import Hours
from relay.model.text import from_micros
from relay.provider import session_events
from relay.provider.inbound import PLAIN, Inbound
from relay.provider.liveness import Transport
from relay.provider.outbound import Job, Purpose, checked_writings, prepared
from relay.provider.pacing import Lane
from relay.provider.retry import Retry, retry_after
from relay.provider.session_commands import SessionCommands
from relay.provider.session_events import CloseSocket, DeadlineChanged, Dial, Finished, Now, Output, SendPing
from relay.provider.session_state import Publish, SessionLog, SessionSettings, SessionState, no_log, place
from relay.provider.subscription_table import Entry, SubscriptionState, event_key, is_requested
from relay.provider.subscriptions import Subscriptions
from relay.provider.templates import TemplateError, dial_target
from relay.trading.pending import nothing_known
from relay.trading.registry import CommandRegistry

__all__ = ["Life", "SessionMachine", "SessionSettings"]

#: Share of a request budget below which a RATE_LIMIT_WARNING is published.
LOW = 0.2
#: Seconds from the open socket until the provider must be ready.
READY_WITHIN = 10.0
#: Seconds from one reading of a provider's instruments to the next, on a connection that stays up.
METADATA_EVERY = 3600.0
_INSTRUMENT = "instrument_not_understood"
_TOO_MANY_REQUESTS = 429
_SETTINGS = SessionSettings()


class Life(enum.Enum):
    """State of a session."""

    NEW = "new"
    PREPARING = "preparing"
    DIALLING = "dialling"
    OPENING = "opening"
    UP = "up"
    WAITING = "waiting"
    IDLE = "idle"
    FAILED = "failed"
    ENDED = "ended"


_CONNECTED = (Life.OPENING, Life.UP)
#: The reason published for a session that is IDLE.
NO_TOPICS = "idle: no topic has a subscriber"
#: Meanings of a close or refusal after which another attempt would fail too.
_FINAL = (CloseMeaning.REFUSED, CloseMeaning.TAKEOVER)


class SessionMachine:
    """One session with a provider account.

    Args:
        adapter: the provider's adapter class; each connection gets its own instance.
        context: the part of the adapter's state that outlives connections.
        publish: called with each event and its stamp, in order, while an input is being handled. It passes replies to
            ``commands``.
        commands: the registry of open commands.
        uniform: returns a random number in [0, 1).
        correlation: returns a new UUID, for `EventAck` and for the client ids of orders.
        settings: the operator's settings.
        after: the machine that this one replaces after a crash; its budget, caches, topics, open gap, retry times and its
            state FAILED are taken over.
        log: writes a log line, called as ``log(level, event, **fields)``.
        beside: the pool's first connection, if this is a further one; they share the account's budget.
    """

    def __init__(
        self,
        adapter: type[Adapter],
        context: Context,
        *,
        publish: Publish,
        commands: CommandRegistry,
        uniform: Callable[[], float],
        correlation: Callable[[], str],
        settings: SessionSettings = _SETTINGS,
        after: "SessionMachine | None" = None,
        log: SessionLog = no_log,
        beside: "SessionMachine | None" = None,
    ) -> None:
        self.core: SessionState = SessionState(
            adapter,
            context,
            publish,
            settings,
            None if after is None else after.core,
            log,
            None if beside is None else beside.core,
        )
        core = self.core
        self._on_interest = core.declared.on_interest or beside is not None
        self._is_further = beside is not None
        self._declared = core.declared
        self._account = context.account
        self._uniform = uniform
        self._transport = Transport(core.declared.silent_after, core.declared.heartbeat.every)
        self._retry: Retry = Retry(core.declared.backoff) if after is None else after._retry
        self._subscriptions = Subscriptions(core, lambda symbol: self._inbound.tell_instrument(symbol))
        self._inbound = Inbound(core, self._subscriptions, publish)
        self._commands = SessionCommands(core, self._inbound, commands, correlation)
        self._correlation = correlation
        failed = after is not None and after._life is Life.FAILED
        self._life: Life = Life.FAILED if failed else Life.NEW
        self._wake_at = inf
        #: True if the connection ended while it had no topic: the next topic ends the wait that follows.
        self._unused = False
        self._not_before: float = -inf if after is None else after._not_before
        #: The requests for metadata of this connection; they are made again while it is up.
        self._metadata: list[Fetch] = []
        #: The time from which on instruments are read again for a session that is IDLE.
        self._metadata_at: float = -inf
        #: True if what is being prepared began while the session was IDLE.
        self._was_idle = False
        self._up_since: str | None = None
        self._opened_at: float = -inf
        #: The time since which the provider has refused the account because it has another connection.
        self._occupied_since: float = inf
        self._lost: Now | None = None if after is None else after._lost
        self._reason: str = after._reason if after is not None and failed else ""

    # --- inputs ------------------------------------------------------------------------------------------------------

    def step(self, turn: session_events.Input, at: Now) -> list[Output]:
        """Handle one input; return the outputs to carry out, in order."""
        self.core.begin(at)
        if self._life is Life.ENDED:
            return self.core.take_outputs()
        match turn:
            case session_events.Start():
                if self._life is Life.NEW:  # a session that was FAILED before a crash needs a Resume
                    self._start()
            case session_events.Resume():
                if self._life is Life.FAILED:  # do not cut a wait short: it respects the provider's limits
                    self._start()
                    self._reason = "resumed by the operator"
                    self._announce(ConnectionEvent.RECONNECTING)
            case session_events.Opened() if self._life is Life.DIALLING:
                self._opened()
            case session_events.Closed(code, reason) if self._life in _CONNECTED:
                text = f"closed with {code}" + (f": {reason}" if reason else "")
                self._lose(text, self._meaning(code, reason), socket_open=False)
            case session_events.DialRefused(status, headers) if self._life is Life.DIALLING:
                self._turned_away(f"the connection was refused with HTTP status {status}", status, headers)
            case session_events.DialFailed(error) if self._life is Life.DIALLING:
                self._lose(f"no connection: {error}")
            case session_events.Fetched(number, answer):
                self._fetched(number, answer)
            case session_events.WantTopic() | session_events.UnwantTopic():
                self._change_interest(turn)
            case session_events.SendCommand(pending):
                self._commands.send(pending)
            case session_events.Shutdown():
                self._shut_down()
            case session_events.Tick():
                pass
            case _:
                self.core.counters.notes[f"late_{type(turn).__name__.lower()}"] += 1
        self._clocks()
        self._send_due()
        return self.core.take_outputs()

    def interest(self, turns: Sequence[session_events.WantTopic | session_events.UnwantTopic], at: Now) -> list[Output]:
        """Handle several changes of the needed topics before any request is written."""
        self.core.begin(at)
        if self._life is not Life.ENDED:
            for turn in turns:
                self._change_interest(turn)
            self._clocks()
            self._send_due()
        return self.core.take_outputs()

    def receive(self, raw: str, at: Now) -> Sequence[Output]:
        """Handle one message; return the outputs. They are empty if not even `deadline` has changed."""
        core = self.core
        if core.adapter is None or self._life not in _CONNECTED:
            core.counters.notes["message_without_connection"] += 1
            return ()
        core.begin(at)
        self._transport.heard = at.now
        for item in self._inbound.decode(core.adapter, raw):
            self.handle_decoded(item)
        if core.rearmed:
            self._clocks()
            self._send_due()
            return [*core.take_outputs(), DeadlineChanged()]
        return core.take_outputs()

    def heard_at(self) -> float | None:
        """Return the time up to which all events were received, monotonic seconds; None while the session is not UP."""
        return self._subscriptions.caught_up_to(self._transport.heard) if self.core.up else None

    def as_written(self, command: Command) -> Command:
        """Return a command as it is to be sent (`SessionCommands.as_written`); the registry takes it so."""
        return self._commands.as_written(command)

    def restore_absence(self, since: Now) -> None:
        """Treat the time since an earlier process had the session UP, ``since``, as an outage: events may be missing."""
        if self._lost is None and not self.core.counters.connections:
            self._lost = since

    def give_up_waiting(self, most: int) -> list[Entry]:
        """Remove and return up to ``most`` topics beyond the connection's limit, so that another connection takes them."""
        return self._subscriptions.give_up_waiting(most)

    def heard(self, now: float) -> None:
        """Note that bytes arrived on the connection, which is therefore alive."""
        self._transport.heard = now

    def written(self) -> bool:
        """Note that the connection has written a `SendText`; return True if a `Tick` would send more frames now."""
        return self.core.outbound.written()

    @property
    def life(self) -> Life:
        """The state of the session."""
        return self._life

    def deadline(self) -> float:
        """Return the time at which `Tick` is due, monotonic seconds; infinite if no timer runs."""
        core = self.core
        if self._life is Life.ENDED:
            return inf
        deadline = min(self._wake_at, core.table.deadline(), self._commands.deadline())
        if self._life in _CONNECTED:
            deadline = min(deadline, self._transport.deadline(), core.outbound.queue.deadline())
        if self._life is Life.UP:
            deadline = min(deadline, core.topics.deadline(), core.renewal.deadline(), self._subscriptions.deadline())
            deadline = min(deadline, core.outbound.polls.deadline())
        else:
            deadline = min(deadline, self._subscriptions.outage_deadline())
            if core.prepared is not None:
                deadline = min(deadline, core.outbound.queue.deadline())
        return deadline

    def _change_interest(self, turn: session_events.WantTopic | session_events.UnwantTopic) -> None:
        if isinstance(turn, session_events.UnwantTopic):
            self.core.table.unwant(turn.topic, self.core.at.now)
            return
        asked = is_requested(turn.topic)
        if asked and (self._life is Life.IDLE or (self._life is Life.WAITING and self._unused)):
            self._awake()
        self._subscriptions.want(turn.topic, turn.by)
        if not asked and self._life is Life.IDLE:
            self._serve_idle()

    # --- decoded messages --------------------------------------------------------------------------------------------

    def handle_decoded(self, item: object) -> None:
        """Handle one event or signal that the adapter returned."""
        core, inbound = self.core, self._inbound
        # Fast path: most inputs are market events, which need only this set look-up.
        kind = type(item)
        if kind in PLAIN:
            core.counters.received += 1
            inbound.publish(item, event_key(item, self._account))  # type: ignore[arg-type]
            return
        match item:
            case Depth():
                inbound.depth(item)
            case Instrument():
                inbound.instrument(item)
            case Trade():
                inbound.fill(item)
            case Order() | Position() | Account():
                inbound.state(item)
                self._commands.shown(item)
            case Partial():
                inbound.state(item.state, partial=True)
                self._commands.shown(item.state)
            case Error():
                item = attrs.evolve(item, code=core.redact(item.code), message=core.redact(item.message))
                self._commands.add_error(item)
                for each in core.split(item) if core.trades else (item,):
                    core.counters.received += 1
                    inbound.publish(each, event_key(each, self._account))
            case Complete():
                inbound.complete(item)
            case Fetch():
                inbound.fetch(item)
            case Unknown():
                inbound.unknown(item.raw if isinstance(item.raw, str) else repr(item.raw), item.why)
                if not item.needed:
                    core.counters.notes[_INSTRUMENT] += 1
            case Ack():
                self._subscriptions.acknowledged(item)
            case Nack() if is_throttled(item.reason):
                # The topics stay pending and are requested again when their acknowledgement is overdue.
                core.limited(None)
            case Nack():
                self._subscriptions.refused(item.topics, item.reason)
                core.rearm()
            case CommandReply():
                self._commands.replied(item)
            case Send():
                inbound.send(item)
            case Poll():
                self._poll_for_adapter(item)
            case Polled():
                self._polled(item.name, item.failed, final=item.final)
            case Processed():
                ack = EventAck(item.ids, core.at.unix_ns // 1_000_000, self._correlation())
                core.at_once(core.encode(ack))
            case Learned():
                self._learned(item)
            case Symbols():
                for error in core.context.symbols.learn(item.pairs, complete=item.complete, names=item.names):
                    core.error("symbol", str(error))
            case Limited():
                core.limited(item.retry_after)
            case Ready():
                self._ready()
            case Calendar():
                self._set_calendar(item)
            case Redial():
                self._lose(item.reason, item.meaning)
            case Waits():
                self._retry.recommend(item.seconds)
            case Alive():
                pass  # `receive` restarts the idle timer for any message
            case _:
                inbound.unknown(repr(item), f"the adapter yielded a {type(item).__name__}")

    def _poll_for_adapter(self, poll: Poll) -> None:
        try:
            missed = self._inbound.reconciling and poll.every is None  # a follow-up of the reconciliation
            self.core.outbound.without_polls(checked_writings([poll], self._declared), missed=missed)
        except TypeError as error:
            self._inbound.unknown(repr(poll.name), str(error))
        self.core.rearm()

    def _polled(
        self, name: Hashable, failed: Error | None = None, *, final: bool = False, at_least: float = 0.0
    ) -> None:
        """Plan the next request of a poll after its answer, or after a failure; publish the first failure in a row."""
        core = self.core
        polls, is_failed = core.outbound.polls, failed is not None
        doubted = not is_failed and core.states.take_doubt()
        is_first = polls.answered(name, core.at.now, failed=is_failed, final=final, doubted=doubted, at_least=at_least)
        if is_first and failed is not None:
            core.publish(attrs.evolve(failed, message=core.redact(failed.message)))
        core.rearm()

    def _set_calendar(self, calendar: Calendar) -> None:
        try:
            Hours("Mon-Sun 00:00-24:00").dated(calendar.dates)
        except ValueError as error:
            self._inbound.unknown(repr(dict(calendar.dates)), str(error))
            return
        days = self.core.context.calendar
        days.clear()
        days.update(calendar.dates)

    def _learned(self, learned: Learned) -> None:
        core = self.core
        core.context.learned.update(learned.values)
        core.redact.notice()
        core.renewal.learned(core.at.now, core.at.unix_ns, learned.expires_at)
        core.rearm()

    def _handle_answer(self, job: Job, answer: Answer, *, reconciling: bool = False) -> None:
        """Decode an HTTP answer and handle its events and signals."""
        try:
            for item in self._inbound.begin_answer(job, answer, reconciling=reconciling):
                self.handle_decoded(item)
        finally:
            self._inbound.end_answer()

    # --- the life of a connection ------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._is_unwanted():
            self._idle()
            return
        self._life = Life.WAITING
        self._wake_at = max(self._not_before, self.core.budget.at({"dial": 1}, self.core.at.now))

    def _is_unwanted(self) -> bool:
        return self._on_interest and not self.core.table.requested

    def _is_metadata_due(self) -> bool:
        return self.core.table.wants_metadata and self.core.at.now >= self._metadata_at

    def _idle(self) -> None:
        """Do not connect until a topic that needs a connection has a subscriber."""
        self._life, self._wake_at, self._reason, self._lost = Life.IDLE, inf, NO_TOPICS, None
        self.core.topics.opened()
        self._serve_idle()

    def _serve_idle(self) -> None:
        """Serve the wanted instruments from the metadata, unless these are old and are to be read again."""
        if self.core.table.wants_metadata:
            self._wake_at = self._metadata_at
            if self.core.at.now < self._metadata_at:
                self._subscriptions.serve()

    def _awake(self) -> None:
        """Connect because a topic has a subscriber, after the wait of an earlier failure or rate limit."""
        if self._unused:
            self._retry.forgive()
        self._unused, self._life = False, Life.WAITING
        self._wake_at = max(self._not_before, self.core.budget.at({"dial": 1}, self.core.at.now))
        self.core.topics.opened()  # no topic used the connection, so its loss was not an outage

    def _prepare(self) -> None:
        core = self.core
        self._was_idle = self._life is Life.IDLE
        self._life, self._wake_at = Life.PREPARING, inf
        try:
            core.adapter = core.adapter_class(core.context)
            fetches = prepared(core.adapter.prepare())
            # The first connection already makes the requests that a connection can do without.
            if self._is_further and len(core.context.symbols):
                fetches = [fetch for fetch in fetches if fetch.needed]
            has_instruments = any(offer.kind == "instrument" for offer in core.adapter_class.offers)
            self._metadata = [fetch for fetch in fetches if has_instruments and not fetch.needed]
        except Exception as error:  # noqa: BLE001 - an adapter's fault is retried like any failed attempt
            self._lose(f"the adapter cannot prepare: {core.reason_of(error, 'preparing')}")
            return
        try:
            core.put(*core.outbound.now(core.adapter, fetches, Purpose.PREPARE, core.at.now))
        except TemplateError as error:
            self._lose(str(error), CloseMeaning.REFUSED)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._lose(f"the adapter cannot prepare: {core.fault('preparing', error)}")
            return
        if not fetches:
            self._dial()

    def _dial(self) -> None:
        """Dial; or be IDLE again, if no topic needs a connection and only metadata were read."""
        declared, now = self._declared, self.core.at.now
        self._metadata_at = now + METADATA_EVERY
        if declared.commands_over == "http":
            self.core.prepared = self.core.adapter
        if self._is_unwanted():
            self.core.adapter = None
            self._idle()
            if not self._was_idle:  # it was told that another attempt would come
                self._announce(ConnectionEvent.DISCONNECTING)
            return
        if self._was_idle and max(self._not_before, self.core.budget.at({"dial": 1}, now)) > now:
            self._awake()
            return
        try:
            template = self.core.adapter_class.url(self.core.context)
            url, headers = dial_target(declared, self.core.context, template)
        except TemplateError as error:
            self._lose(str(error), CloseMeaning.REFUSED)
            return
        except Exception as error:  # noqa: BLE001 - an adapter's fault is retried like any failed attempt
            self._lose(f"the session's URL could not be built: {self.core.fault('building the URL', error)}")
            return
        self._life = Life.DIALLING
        self.core.budget.take({"dial": 1}, now)
        self.core.put(
            Dial(url, headers, self.core.redact(url), alone=declared.single, binary=declared.frames == "binary")
        )

    def _opened(self) -> None:
        self._opened_at = self.core.at.now
        self._life, self._wake_at = Life.OPENING, self.core.at.now + READY_WITHIN
        self._transport.opened(self.core.at.now)
        self.core.at_once(self.core.encode(Hello()))
        if self._declared.ready == "open":
            self._ready()

    def _ready(self) -> None:
        if self._life is not Life.OPENING:
            return
        self._life, self._wake_at = Life.UP, inf
        self.core.up = True
        self._up_since = from_micros(self.core.at.unix_ns // 1000)
        self._retry.opened(self.core.at.now)
        self.core.counters.connections += 1
        self._reason = ""
        gap, since = self._gap_ms(), self._lost
        self._lost = None
        self.core.publish(Connection(event=ConnectionEvent.CONNECTED, gap_ms=gap))
        self._subscriptions.begin(since)
        self._commands.look_for_unknown()
        for fetch in self._metadata:  # a status or a tick may change while a connection stands for days
            again = Poll(f"metadata {fetch.tag}", fetch, every=METADATA_EVERY, now=False)
            self.core.outbound.without_polls([again])
        self.core.rearm()

    def _lose(
        self,
        reason: str,
        meaning: CloseMeaning = CloseMeaning.RETRY,
        wait: float | None = None,
        *,
        socket_open: bool = True,
    ) -> None:
        """End the connection or attempt and publish the reason; then wait for another attempt or stop, as ``meaning`` says.

        Args:
            wait: least seconds until the next attempt, as the provider requested.
            socket_open: False if the socket is closed already.
        """
        if self._life in (Life.WAITING, Life.IDLE, Life.FAILED, Life.ENDED):
            return
        if self._life is Life.UP and self.core.at.now - self._opened_at > READY_WITHIN:
            self._occupied_since = inf
        is_unused = self._life is Life.UP and not self.core.table.requested
        if socket_open and self._life in _CONNECTED:
            self.core.put(CloseSocket(1000))
        self._reset_connection(reason)
        self.core.rearm()  # may be called while a message is handled; the reconnect is due earlier than the idle timeout
        if meaning in _FINAL:
            self.core.prepared = None
            self._life, self._wake_at = Life.FAILED, inf
            self._announce(ConnectionEvent.FAILED)
            self._commands.session_ended()
            self.core.put(Finished(self._reason, failed=True))
            return
        if meaning is CloseMeaning.OCCUPIED:
            self._note_occupied()
        limited = meaning is CloseMeaning.RATE_LIMITED
        if limited:
            self.core.limited(wait)
        now = self.core.at.now
        pause = self._retry.wait(self._uniform(), at_least=wait or 0.0, longest=limited and wait is None)
        self._unused = is_unused and not limited and not wait
        self._not_before = -inf if self._unused else now + pause
        if self._is_unwanted() and not self._is_metadata_due():
            self._idle()
            self._announce(ConnectionEvent.DISCONNECTING)
            return
        self._life = Life.WAITING
        self._wake_at = max(now + pause, self.core.budget.at({"dial": 1}, now))
        self._announce(ConnectionEvent.RECONNECTING)

    def _note_occupied(self) -> None:
        """Report once that another client has used the account for longer than a stale connection of ours could."""
        now, within = self.core.at.now, self._declared.released_within
        self._occupied_since = min(self._occupied_since, now)
        if within <= now - self._occupied_since < inf:
            self._occupied_since = -inf  # reported
            text = f"the account has had another connection for {within:g} s: another client is connected to it"
            self.core.error("occupied", text)

    def _reset_connection(self, reason: str) -> None:
        """Reset the state that belongs to the connection. If it was up, the outage starts at its last received byte."""
        core = self.core
        if core.up:
            silent = core.at.now - self._transport.heard
            self._lost = Now(self._transport.heard, core.at.unix_ns - int(silent * 1e9))
        core.up = False
        self._reason = core.redact(reason)
        self._retry.lost(core.at.now)
        self._transport.closed()
        core.outbound.disconnected()
        self._subscriptions.lost(self._reason, None if self._lost is None else self._lost.unix_ns)
        self._commands.disconnected()
        self._inbound.disconnected()
        core.adapter = None

    def _gap_ms(self) -> int | None:
        """Return the length of the open gap, by the monotonic clock, because the wall clock may be set meanwhile."""
        return None if self._lost is None else max(0, int((self.core.at.now - self._lost.now) * 1000))

    def _announce(self, event: ConnectionEvent) -> None:
        self.core.publish(Connection(event=event, reason=self._reason, gap_ms=self._gap_ms()))

    def _meaning(self, code: int, reason: str) -> CloseMeaning:
        try:
            return self.core.adapter_class.closed(code, reason)
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
            self.core.fault("judging a close code", error)
            return CloseMeaning.RETRY

    def _turned_away(self, what: str, status: int, headers: Mapping[str, str]) -> None:
        meaning = self._declared.refusals.get(status, CloseMeaning.RETRY)
        self._lose(what, meaning, retry_after(headers, self.core.at.unix_ns))

    def _shut_down(self) -> None:
        self._reason = "shutdown"
        self._announce(ConnectionEvent.DISCONNECTING)
        if self._life is Life.UP:
            self._unsubscribe_all()
        if self._life in (*_CONNECTED, Life.DIALLING):
            self.core.put(CloseSocket(1000, "shutdown"))
        self._reset_connection("shutdown")
        self._commands.session_ended()
        self.core.prepared = None
        self._life, self._wake_at = Life.ENDED, inf
        self.core.put(Finished("shutdown", failed=False))

    def _unsubscribe_all(self) -> None:
        """Send as many unsubscribe requests as the budget allows now; closing the socket ends the other subscriptions."""
        core = self.core
        sent = (SubscriptionState.PENDING, SubscriptionState.CONFIRMED)
        topics = tuple(e.topic for e in core.table if e.state in sent and is_requested(e.topic))
        size = self._declared.topics_per_frame
        for start in range(0, len(topics), size):
            for writing in core.encode(Unsubscribe(topics[start : start + size])):
                if core.adapter is not None:
                    core.outbound.queue.put(Lane.INTEREST, {"frame": 1, "interest": 1}, Job(writing, core.adapter))
        self._send_due(subscribe=False)

    def abandon(self, reason: str, at: Now) -> None:
        """End the session after a fault of the relay. Open commands end as unknown; a new machine takes over (``after``)."""
        self.core.begin(at)
        if self._life is not Life.FAILED:
            if self._life is not Life.IDLE:
                self._not_before = self._wake_at if self._life is Life.WAITING else -inf
            self._reset_connection(reason)
            self._announce(ConnectionEvent.RECONNECTING)
            self._life, self._wake_at = Life.ENDED, inf
        self._commands.session_ended()

    # --- HTTP answers ------------------------------------------------------------------------------------------------

    def _fetched(self, number: int, answer: Answer) -> None:
        core = self.core
        job = core.outbound.answered(number)
        if job is None:
            core.counters.notes["late_answer"] += 1
            return
        if (whole := self._whole(job, answer)) is None:
            core.rearm()
            return
        answer, wait = whole, retry_after(answer.headers, core.at.unix_ns)
        if answer.status == _TOO_MANY_REQUESTS and job.purpose is not Purpose.PREPARE:
            core.limited(wait, job.writing.socket if isinstance(job.writing, Fetch) else "")
        match job.purpose:
            case Purpose.PREPARE:
                self._prepared(job, answer)
            case Purpose.CALL if not nothing_known(answer):
                self._handle_answer(job, answer)
            case Purpose.CALL:
                self._commands.unanswered(job, answer)
            case Purpose.RENEW:
                self._renewed(job, answer, wait)
            case Purpose.RECONCILE if not answer.ok:
                job.chain.broken = True
                self._subscriptions.not_reconciled(answer)
            case Purpose.SNAPSHOT:
                if answer.ok:
                    self._handle_answer(job, answer)
                self._subscriptions.snapshot_answered(job, answer, wait)
            case Purpose.POLL:
                self._poll_answered(job, answer, wait)
            case Purpose.AUDIT if not answer.ok:
                job.chain.broken = True
                self._subscriptions.not_audited(answer)
            case purpose:
                self._handle_answer(job, answer, reconciling=purpose in (Purpose.RECONCILE, Purpose.AUDIT))

    def _whole(self, job: Job, answer: Answer) -> Answer | None:
        """Return an answer together with its earlier pages; None if it has a next page, which is requested."""
        try:
            return self.core.outbound.next_page(job, answer)
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises over a page costs that list alone
            self._inbound.unknown(answer.text, f"a page of a list: {type(error).__name__}: {error} (at {place(error)})")
            return Answer(status=0, text="a page of the list could not be decoded")

    def _prepared(self, job: Job, answer: Answer) -> None:
        core = self.core
        unknown, failed = self._not_understood(), None
        if not answer.ok:
            said = f": {answer.text[:200]}" if answer.status else ""
            failed = f"preparing failed, {_status(answer)} to {core.outbound.shown(job)}{said}"
        else:
            self._handle_answer(job, answer)
            if self._life is not Life.PREPARING:
                return
            if self._not_understood() > unknown:
                failed = "preparing failed: an answer could not be decoded; the log and the status page have a sample"
        if failed is not None and not self._can_do_without(job):
            self._turned_away(failed, 0 if answer.ok else answer.status, answer.headers)
            return
        if failed is not None:
            core.error("not_refreshed", f"{failed}; the symbols of the last successful request are used")
        if not core.outbound.under_way(Purpose.PREPARE):
            self._dial()

    def _not_understood(self) -> int:
        """Return the number of messages and parts of messages so far that were needed, and not understood."""
        return self.core.counters.unknown - self.core.counters.notes[_INSTRUMENT]

    def _can_do_without(self, job: Job) -> bool:
        fetch = job.writing
        return isinstance(fetch, Fetch) and not fetch.needed and len(self.core.context.symbols) > 0

    def _poll_answered(self, job: Job, answer: Answer, wait: float | None) -> None:
        """Handle the answer to a poll; plan its next request once all pages have arrived."""
        failed = None
        if answer.ok:
            self._handle_answer(job, answer, reconciling=self.core.outbound.polls.is_missed(job.poll))
        if not answer.ok:
            failed = Error(code="poll_failed", message=f"{job.poll}: {_status(answer)}")
        elif job.chain.broken:
            failed = Error(code="poll_failed", message=f"{job.poll}: the answer could not be decoded")
        if failed is not None or job.chain.left <= 0:
            self._polled(job.poll, failed, at_least=wait or 0.0)

    def _renewed(self, job: Job, answer: Answer, wait: float | None) -> None:
        """Handle the answer to a login renewal. It succeeded only if the answer contained a login."""
        core, why = self.core, "the answer contains no login"
        if not answer.ok:
            why = _status(answer)
        else:
            self._handle_answer(job, answer)
            if not core.renewal.pending or core.outbound.under_way(Purpose.RENEW):
                return
        if not answer.ok and self._declared.refusals.get(answer.status) in _FINAL:
            core.renewal.refused()
            why += "; it is not repeated, and the next connection logs in again"
        core.renewal.failed(core.at.now, wait or 0.0)
        core.error("renewal_failed", f"the login could not be renewed: {why}")

    # --- sending, and timers -----------------------------------------------------------------------------------------

    def _send_due(self, *, subscribe: bool = True) -> None:
        """Send the jobs that the budget allows now; with ``subscribe``, also write requests for waiting topics.

        Without a connection only commands over HTTP are sent.
        """
        core, connected = self.core, self._life in _CONNECTED
        if not connected and core.prepared is None:
            return
        more = True
        while more:
            for job in core.outbound.take_due(core.at.now):
                try:
                    core.put(core.outbound.output(job, core.at.now))
                except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
                    self._not_sent(job, error)
                    if job.poll is not None:
                        core.outbound.polls.answered(job.poll, core.at.now, final=True)
                    continue
                if job.poll is not None and isinstance(job.writing, str):
                    core.outbound.polls.sent(job.poll, core.at.now)
                if job.purpose is Purpose.CALL:
                    self._commands.sent(job)
                if job.topics:
                    self._subscriptions.sent(job.topics)
            more = connected and subscribe and self._subscriptions.write()
        if connected and subscribe:
            self._warn()

    def _not_sent(self, job: Job, error: Exception) -> None:
        """Publish an error because a request could not be built; refuse the command if it belongs to one."""
        core = self.core
        code, reason = "template", str(error)
        if not isinstance(error, TemplateError):
            code, reason = "encode_failed", core.fault("writing a request", error)
        core.error(code, reason)
        if job.purpose is Purpose.CALL:
            self._commands.not_sent(job, reason)

    def _warn(self) -> None:
        core = self.core
        for of in ("call", "http"):
            low = core.budget.low(of, LOW, core.at.now)
            if low is not None:
                kind, left, reset = RateLimitEvent.RATE_LIMIT_WARNING, low.remaining, core.later(low.reset_in)
                core.publish(RateLimit(event=kind, requests_remaining=left, reset_at=reset))

    def _clocks(self) -> None:
        now = self.core.at.now
        self._commands.end_late(now)
        if self._life is Life.WAITING and now >= self._wake_at:
            if self._is_unwanted() and not self._is_metadata_due():
                self._idle()
                self._announce(ConnectionEvent.DISCONNECTING)
            else:
                self._prepare()
        elif self._life is Life.IDLE and now >= self._wake_at:
            self._wake_at = inf
            if self._is_metadata_due():
                self._prepare()
        elif self._life is Life.OPENING and now >= self._wake_at:
            self._lose(f"not ready within {READY_WITHIN:g} s")
        if self._life in _CONNECTED:
            self._transport_clock(now)
        self._subscriptions.clocks(now)
        if self._is_further and self._life is Life.UP and self._is_unwanted():
            self._lose(NO_TOPICS)
        if self._life is Life.UP and self.core.renewal.take_due(now):
            self._renew()
        if self._life is Life.UP and self.core.adapter is not None:
            self._poll(self.core.adapter, now)

    def _transport_clock(self, now: float) -> None:
        if self._transport.silent(now):
            # With all markets closed silence is usual. A ping checks it, unless an earlier one is unanswered.
            if self.core.topics.closed_market(self.core.at.unix_ns) and self._transport.take_extension(now):
                self.core.put(SendPing())
            else:
                self._lose(f"nothing received for {self._declared.silent_after:g} s")
        elif self._transport.take_heartbeat(now):
            if self._declared.heartbeat.frame:
                self.core.put(SendPing())
            else:
                self.core.at_once(self.core.encode(Ping()))

    def _poll(self, adapter: Adapter, now: float) -> None:
        """Queue the next poll that is due; report a poll whose answer is overdue."""
        outbound = self.core.outbound
        if (late := outbound.polls.overdue(now)) is not None:
            self._polled(late, Error(code="poll_failed", message=f"{late}: no answer within its deadline"))
        outbound.poll_due(adapter, now)

    def _renew(self) -> None:
        core = self.core
        if core.adapter is None:
            return
        try:
            fetches = prepared(core.adapter.prepare())
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end a session that is up
            core.error("renewal_failed", core.reason_of(error, "preparing"))
            core.renewal.failed(core.at.now)
            return
        core.at_once(fetches, Purpose.RENEW)

    def _last_received_at(self) -> str | None:
        """Return the time of the last received byte or of the opening, by the relay's clock; None if there was none."""
        at, heard = self.core.at, self._transport.heard
        return None if heard == -inf else from_micros((at.unix_ns - int((at.now - heard) * 1e9)) // 1000)

    def status(self) -> dict[str, Any]:
        """Return this session's part of the status page."""
        core = self.core
        return {
            "provider": core.context.provider,
            "account": core.context.account,
            "adapter": core.adapter_class.name,
            "state": self._life.value,
            "up_since": self._up_since if core.up else None,
            "last_received_at": self._last_received_at(),
            "reason": self._reason,
            "attempts": self._retry.attempts,
            "topics": core.table.status(),
            "unwritten": core.outbound.unwritten,
            "books": core.books.status(),
            "counters": core.counters.status(core.books.held, core.books.dropped),
            "commands": len(self._commands),
            "queued": len(core.outbound.queue),
            "budget": core.budget.status(core.at.now),
            "budget_limits": core.budget.capacities(),
            "last_event_at": from_micros(published_ns // 1000)
            if (published_ns := core.counters.published_ns)
            else None,
        }


def _status(answer: Answer) -> str:
    return f"HTTP status {answer.status}" if answer.status else f"no answer ({answer.text[:200]})"
