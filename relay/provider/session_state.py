"""State shared by the parts of one session: the current time, the state machines, and functions to publish and send.

`SessionMachine` creates it and passes it to its parts (`Inbound`, `Subscriptions`, `SessionCommands`).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from json import JSONDecodeError
from typing import Any

from attrs import Factory, define, evolve, frozen

from relay.adapter import Adapter, Context, Fetch, Outgoing
from relay.model.channels import Topic
from relay.model.enums import ConnectionEvent, RateLimitEvent, StalenessEvent
from relay.model.events import Connection, Error, Event, Gap, RateLimit, Staleness, Stamp
from relay.model.hours import Hours
from relay.model.text import from_micros, to_ns
from relay.provider.accounts import Fills, KnownStates, States
from relay.provider.books import Books
from relay.provider.liveness import Topics
from relay.provider.outbound import Outbound, Purpose, checked_writings
from relay.provider.pacing import Budget
from relay.provider.retry import Renewal
from relay.provider.session_events import Now, Output
from relay.provider.subscription_table import MOST_WAITING, SubscriptionTable
from relay.provider.templates import Redactor, TemplateError

#: Takes an event, its stamp, and the monotonic time.
Publish = Callable[[Event, Stamp, float], None]

#: Takes a line for the log: its level, its event, and fields without secrets.
SessionLog = Callable[..., None]

#: Code and message of the public part of an error about an account. The broker's own could reveal the fate of an order.
ACCOUNT_ERROR = "account_error"
OF_ACCOUNT = "an error about the account; its details are on the account's channel"
#: Most samples of messages that could not be decoded, and most characters of each.
SAMPLES = 20
SAMPLE_SIZE = 2000
#: Number of messages over which the share of unknown ones is computed.
WINDOW = 1000
#: Least number of messages to divide by, so that one early unknown message is not a large share.
AT_LEAST = 100
#: Share of unknown messages above which an `error` event is published.
UNKNOWN_SHARE = 0.01


def no_log(level: str, event: str, **fields: object) -> None:
    """Log nothing."""


@frozen(kw_only=True)
class SessionSettings:
    """An operator's settings of a session. Durations are seconds.

    Attributes:
        linger: how long a topic without subscribers stays subscribed.
        waiting: most topics that may wait to be requested; a topic counts once for each subscriber that waits for it.
        book_buffer: most deltas that may wait for one book's snapshot.
        first_data_within: time from a subscription to its first event, after which the topic is stale. 0: no limit. None:
            ``stale_after``, or the default of the kind (`relay.provider.liveness.FIRST_DATA`).
        stale_after: staleness timeouts by kind or by topic, which override those of the adapter. 0: no timeout.
        hours: trading hours by symbol, which override those of the adapter; the key None is for all other symbols.
        audit: interval at which an account is compared with the provider's lists while it is connected. 0: never.
        check_orders: True to compare each order with its instrument before it is sent.
    """

    linger: float = 30.0
    waiting: int = MOST_WAITING
    book_buffer: int = 5000
    first_data_within: float | None = None
    stale_after: Mapping[str | Topic, float] = Factory(dict)
    hours: Mapping[str | None, Hours] = Factory(dict)
    audit: float = 60.0
    check_orders: bool = True

    def hours_of(self, topic: Topic) -> Hours | None:
        """Return the operator's trading hours for the market of ``topic``; None when none are set."""
        return self.hours.get(topic.symbol, self.hours.get(None))


@frozen
class Sample:
    """One message that could not be decoded, redacted and cut off, with the reason and the time it was received."""

    raw: str
    why: str
    received_at: str


@define(eq=False)
class Counters:
    """Counters of one session.

    They add up: ``received == published + deduped + unknown + sum(dropped) + held``. ``dropped`` are the deltas that order
    books discarded, ``held`` those that now wait for a snapshot.

    Attributes:
        messages: messages and HTTP answers handed to the adapter.
        received: events and undecodable parts that the adapter returned for them.
        published: events of the provider that were published.
        deduped: events that were not published because they repeat a known fill, state or last value.
        unknown: messages and parts of messages that could not be decoded.
        raised: events of the relay itself (connection, gap, staleness, ...), which no provider sent.
        connections: number of connections that reached UP.
        published_ns: time at which the message of the last published event was read, Unix nanoseconds; 0 if none was.
        notes: counts of unusual inputs that are neither events nor losses (for instance late replies), by name.
    """

    messages: int = 0
    received: int = 0
    published: int = 0
    deduped: int = 0
    unknown: int = 0
    raised: int = 0
    connections: int = 0
    published_ns: int = 0
    notes: Counter[str] = Factory(Counter)
    samples: deque[Sample] = Factory(lambda: deque(maxlen=SAMPLES))
    _window_start: int = 0
    _window_unknown: int = 0
    _last_unknown: int = -1
    _told: bool = False

    def not_understood(self, sample: Sample) -> tuple[int, int] | None:
        """Count one Unknown.

        Once per window, if the share of messages with an Unknown exceeds `UNKNOWN_SHARE`, return their number and the number
        of all messages in the window; otherwise None.
        """
        self.unknown += 1
        self.received += 1
        self.samples.append(sample)
        if self.messages - self._window_start > WINDOW:
            self._window_start, self._window_unknown, self._told = self.messages - 1, 0, False
        self._window_unknown += self.messages != self._last_unknown
        self._last_unknown = self.messages
        of = max(1, self.messages - self._window_start)
        if self._told or self._window_unknown / max(of, AT_LEAST) <= UNKNOWN_SHARE:
            return None
        self._told = True
        return self._window_unknown, of

    def status(self, held: int, dropped: Counter[str]) -> dict[str, Any]:
        """Return the counters for the status page; ``held`` and ``dropped`` are those of the books."""
        return {
            "messages": self.messages,
            "received": self.received,
            "published": self.published,
            "deduped": self.deduped,
            "unknown": self.unknown,
            "dropped": dict(+dropped),  # leaves out the reasons for which nothing was dropped
            "held": held,
            "raised": self.raised,
            "reconnects": max(0, self.connections - 1),
            "notes": dict(self.notes),
            "samples": [{"raw": s.raw, "why": s.why, "received_at": s.received_at} for s in self.samples],
        }


class SessionState:
    """The shared parts of one session.

    Args:
        after: the session that this one replaces; its budget, caches, counters and topics are taken over.
        log: writes a log line, called as ``log(level, event, **fields)``.
        beside: the pool's first connection, if this is a further one; they share the account's budget.

    Attributes:
        adapter: the adapter instance of the present connection; None between connections.
        at: the time of the input being handled.
        stamp: the stamp of the events published while handling it.
        prepared: the adapter instance that writes commands while there is no WebSocket connection, once `Adapter.prepare`
            has succeeded; None if commands need the connection.
        is_further: True if this is not the first connection of a pool. The account and commands are on the first one.
        up: True while the provider accepts subscriptions and commands.
        provider_ahead_ns: the provider's clock minus the monotonic clock, by the latest time in an account event; None if
            there was none.
    """

    def __init__(
        self,
        adapter_class: type[Adapter],
        context: Context,
        publish: Publish,
        settings: SessionSettings,
        after: "SessionState | None" = None,
        log: SessionLog = no_log,
        beside: "SessionState | None" = None,
    ) -> None:
        declared = adapter_class.session
        self.log = log
        self.adapter_class = adapter_class
        self.declared = declared
        self.settings = settings
        shared = None if beside is None else beside.budget
        apis = {name: each.limits for name, each in declared.sockets.items() if not isinstance(each, str)}
        self.budget: Budget = Budget(declared.limits, shared, apis) if after is None else after.budget
        self.is_further = beside is not None
        self.prepared: Adapter | None = None
        self.fills: Fills = Fills() if after is None else after.fills
        self.states: States = States() if after is None else after.states
        self.known = KnownStates(self.states, context.account)
        self.context = context = evolve(context, known=self.known)
        self.table = SubscriptionTable(
            per_frame=declared.topics_per_frame,
            linger=settings.linger,
            ack_within=declared.ack_within,
            most_waiting=settings.waiting,
            most_topics=declared.most_topics,
        )
        if after is not None:
            self.table.adopt(after.table)
        self.topics = Topics(
            declared,
            lambda topic: settings.hours_of(topic) or adapter_class.hours(topic, context),
            self.rearm,
            settings.stale_after,
            settings.first_data_within,
        )
        if beside is not None:
            self.topics.share(beside.topics)
        if after is not None:
            self.topics.adopt(after.topics)
        self.books = Books(
            declared,
            buffer=settings.book_buffer,
            checksum=None if adapter_class.checksum is Adapter.checksum else adapter_class.checksum,
            levels=adapter_class.book_levels(context),
        )
        self.renewal = Renewal()
        self.counters: Counters = Counters() if after is None else after.counters
        if after is not None:
            self.books.dropped = after.books.dropped
        self.redact = Redactor(context)
        self.outbound = Outbound(declared, context, self.budget)
        self.adapter: Adapter | None = None
        self.up = False
        self.provider_ahead_ns: int | None = None if after is None else after.provider_ahead_ns
        self.begin(Now(0.0, 0))
        self._publish = publish
        self._out: list[Output] = []
        #: True if the input being handled may have moved a deadline earlier or made a job ready to be sent.
        self.rearmed = False

    def begin(self, at: Now) -> None:
        """Set the time of the input that is handled next."""
        self.at = at
        self.stamp = Stamp(
            provider=self.context.provider,
            account=self.context.account,
            received_at=from_micros(at.unix_ns // 1000),
        )

    # --- out ---------------------------------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Publish an event of the relay itself, and log it."""
        self.counters.raised += 1
        self._publish(event, self.stamp, self.at.now)
        line = log_line(event)
        if line is not None:
            level, name, fields = line
            self.log(level, name, **fields)

    def error(self, code: str, message: str, *, of_account: bool = False, **details: Any) -> None:
        """Publish an `error` event, redacted. ``of_account``: its details go to the readers of the account only."""
        error = Error(code=code, message=self.redact(message), details=details or None)
        for each in self.split(error, code) if of_account else (error,):
            self.publish(each)

    @property
    def trades(self) -> bool:
        """True if the provider is a broker, so that its error messages may concern an account's orders."""
        return bool(self.adapter_class.commands) or any(offer.kind == "account" for offer in self.adapter_class.offers)

    def split(self, error: Error, code: str = ACCOUNT_ERROR) -> Iterator[Error]:
        """Yield two events for an error about the account: the full one for its readers, and a public one with ``code``."""
        account = error.account or self.context.account
        if account is not None:
            yield evolve(error, account=account)
        else:  # there is no account channel to publish it on
            self.log("warning", ACCOUNT_ERROR, code=error.code, message=self.redact(error.message))
        yield Error(code=code, message=OF_ACCOUNT, timestamp=error.timestamp)

    def put(self, *outputs: Output) -> None:
        """Add outputs for the driver to carry out."""
        self._out += outputs

    def rearm(self) -> None:
        """Have timers, queue and deadline checked after this input."""
        self.rearmed = True

    def take_outputs(self) -> list[Output]:
        """Remove and return the outputs so far."""
        out, self._out, self.rearmed = self._out, [], False
        return out

    # --- used by several parts ---------------------------------------------------------------------------------------

    def at_once(self, writings: Iterable[str | Fetch], purpose: Purpose = Purpose.OTHER) -> None:
        """Send frames or requests that cannot wait. The budget is charged, but not waited for."""
        if self.adapter is None:
            return
        try:
            self.put(*self.outbound.now(self.adapter, writings, purpose, self.at.now))
        except TemplateError as error:
            self.error("template", str(error))
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
            self.error("encode_failed", self.fault("writing a request", error))

    def encode(self, outgoing: Outgoing, *, missed: bool = False) -> list[str | Fetch]:
        """Let the adapter encode ``outgoing``, start its polls and return the rest; publish an `error` if it raises.

        ``missed``: the polls belong to a reconciliation.
        """
        if self.adapter is None:
            return []
        try:
            everything = checked_writings(self.adapter.encode(outgoing), self.declared)
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
            self.encode_failed(type(outgoing).__name__, error)
            return []
        self.rearm()  # a poll may be due
        return self.outbound.without_polls(everything, missed=missed)

    def encode_failed(self, what: str, error: Exception) -> None:
        """Publish that the adapter could not write ``what``."""
        self.error("encode_failed", f"{what}: {self.reason_of(error, f'writing {what}')}")

    def reason_of(self, error: Exception, doing: str) -> str:
        """Return the public reason for an exception of an adapter.

        A ValueError is a deliberate refusal, and its text is returned. Any other exception is a fault of the adapter's code;
        its details go to the log only.
        """
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError | JSONDecodeError):
            return self.redact(f"{error}" or type(error).__name__)
        return self.fault(doing, error)

    def fault(self, doing: str, error: Exception) -> str:
        """Log an exception of the adapter's code with its file and line; return a public text without details."""
        name = self.adapter_class.name
        text = self.redact(f"{type(error).__name__}: {error}")
        self.log("error", "adapter_fault", adapter=name, doing=doing, cause=text, at=place(error))
        return f"the adapter {name} failed while {doing}; see the log line adapter_fault"

    def notice_time(self, *times: str | None) -> None:
        """Estimate the provider's clock from the times in an account's event."""
        for time in times:
            if time is not None:
                ahead = to_ns(time) - int(self.at.now * 1e9)
                if self.provider_ahead_ns is None or ahead > self.provider_ahead_ns:
                    self.provider_ahead_ns = ahead

    def unix_ns_at(self, past: float, at: Now) -> int:
        """Return the wall time of ``past``, monotonic seconds, by the earlier of our clock and the provider's."""
        ours = at.unix_ns - int((at.now - past) * 1e9)
        return ours if self.provider_ahead_ns is None else min(ours, int(past * 1e9) + self.provider_ahead_ns)

    def limited(self, retry_after: float | None, socket: str = "") -> None:
        """Pause all requests because the provider reported an exceeded rate limit, and publish a `rate_limit` event.

        Args:
            retry_after: seconds to wait, if the provider named them.
            socket: name of the socket whose API reported it; its limits may be separate.
        """
        declared = self.budget.window("call") or None
        known = declared if retry_after is None else retry_after
        self.budget.pause(("frame", "interest", "call", "http"), self.at.now + (known or 1.0), socket)
        reset = None if known is None else self.later(known)
        self.publish(RateLimit(event=RateLimitEvent.RATE_LIMIT_HIT, reset_at=reset))
        self.rearm()

    def later(self, seconds: float) -> str:
        """Return the wall time ``seconds`` from now, as text."""
        return from_micros((self.at.unix_ns + int(seconds * 1e9)) // 1000)


_LEVELS = {ConnectionEvent.CONNECTED: "info", ConnectionEvent.DISCONNECTING: "info", ConnectionEvent.FAILED: "error"}


def log_line(event: Event) -> tuple[str, str, dict[str, Any]] | None:
    """Return level, name and fields of the log line for an event of the relay itself; None if it is not logged."""
    fields: dict[str, Any]
    match event:
        case Connection():
            fields = {"cause": event.reason, "gap_ms": event.gap_ms}
            line = _LEVELS.get(event.event, "warning"), f"session_{event.event.value.lower()}", fields
        case Gap():
            line = (
                "warning",
                "gap",
                {"kind": event.of, "symbol": event.symbol, "cause": event.reason, "since": event.since},
            )
        case Staleness(event=StalenessEvent.STALE, session=True) if event.symbols:  # the session's own line reports it
            return None
        case Staleness():
            stale = event.event is StalenessEvent.STALE
            fields = {"kind": event.of, "symbols": list(event.symbols), "cause": event.reason}
            line = ("warning", "stream_stale", fields) if stale else ("info", "stream_fresh", fields)
        case RateLimit():
            hit = event.event is RateLimitEvent.RATE_LIMIT_HIT
            fields = {"remaining": event.requests_remaining, "reset_at": event.reset_at}
            line = "warning" if hit else "info", event.event.value.lower(), fields
        case Error():
            line = "warning", event.code, {"cause": event.message}
        case _:
            return None
    level, name, fields = line
    return level, name, {key: value for key, value in fields.items() if value not in (None, "", [])}


def place(error: BaseException) -> str:
    """Return file and line of the innermost traceback frame outside the relay package; else of the outermost frame."""
    found, step = "", error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", ""))
        if not found or module.partition(".")[0] != "relay":
            found = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return found
