"""State shared by the parts of one session: the moment, the state machines, and the ways to publish, write and wake.

The parts (`inbound`, `subscriptions`) share this; the session machine puts them together and owns the life of the
connection.
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

#: The public part of an error about an account: a broker's own code would give away what became of an order.
ACCOUNT_ERROR = "account_error"
OF_ACCOUNT = "an error about the account; its readers have the rest"
#: Samples that are kept, and characters of each.
SAMPLES = 20
SAMPLE_SIZE = 2000
#: Messages over which the share of unknown ones is taken.
WINDOW = 1000
#: A share is not taken of fewer messages than this.
AT_LEAST = 100
#: The share of messages that may be unknown before an `error` event reports it.
UNKNOWN_SHARE = 0.01


def no_log(level: str, event: str, **fields: object) -> None:
    """Log nothing."""


@frozen(kw_only=True)
class SessionSettings:
    """An operator's settings of a session. Durations are seconds.

    Attributes:
        linger: how long a topic nobody needs stays subscribed.
        waiting: how many topics may wait to be asked for, each counted once for everybody who waits for it.
        book_buffer: how many deltas may wait for one book's snapshot.
        first_data_within: seconds from a subscription to its first event before it is called stale; 0: any number; None:
            ``stale_after``, or a default of the kind (`relay.provider.liveness.FIRST_DATA`).
        stale_after: seconds of silence by kind, or by topic, in place of what the adapter declares; 0: quiet is normal.
        hours: when the market of a symbol trades, in place of what the adapter knows; None is for all other symbols.
        audit: how often an account is compared with the provider's lists although no connection was lost; 0: never.
    """

    linger: float = 30.0
    waiting: int = MOST_WAITING
    book_buffer: int = 5000
    first_data_within: float | None = None
    stale_after: Mapping[str | Topic, float] = Factory(dict)
    hours: Mapping[str | None, Hours] = Factory(dict)
    audit: float = 60.0

    def hours_of(self, topic: Topic) -> Hours | None:
        """Return the operator's trading hours for the market of ``topic``; None when none are set."""
        return self.hours.get(topic.symbol, self.hours.get(None))


@frozen
class Sample:
    """One message that was not understood, redacted and cut, and when it came."""

    raw: str
    why: str
    received_at: str


@define(eq=False)
class Counters:
    """Counters of one session.

    They add up: ``received == published + deduped + unknown + sum(dropped) + held``, where ``dropped`` and ``held`` are the
    deltas that books did not publish, and those now waiting in them. ``raised`` counts the relay's own events (connection,
    gap, staleness, ...), which no provider sent.

    Attributes:
        messages: messages and HTTP answers handed to the adapter.
        received: events and unknown parts the adapter made of them.
        published: events of the provider that were published.
        deduped: fills that had been published before, and states a reconciliation found unchanged.
        unknown: messages and parts of messages that were not understood.
        raised: events of the relay's own.
        connections: connections that came up.
        published_ns: when the message of the last published event was read, Unix nanoseconds; 0 before the first.
        notes: oddities that are neither events nor losses (late replies and the like), by name.
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
        """Count one Unknown. Once per window, when their share is above `UNKNOWN_SHARE`, return the numbers of the messages
        that were not understood (in whole or in part) and of all messages of the window.
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
        after: the session this one replaces; its budgets, memories, counters and topics are taken over.
        log: takes the lines for the log, as ``log(level, event, **fields)``.
        beside: the first connection of the pool that this is a further one of; they share the account's budgets.

    Attributes:
        adapter: the instance of the present connection, None between connections.
        at: the moment of the input being handled.
        stamp: the stamp of everything published at that moment.
        prepared: the adapter that writes commands while there is no connection, once `Adapter.prepare` has succeeded; None
            where commands need a connection.
        is_further: whether this is a further connection of a pool: the account, and commands, are on the first one.
        up: whether the provider takes subscriptions and commands now.
        provider_ahead_ns: the provider's wall clock less the monotonic one, by the newest time it gave in an account's
            event; None while it gave none.
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
        #: True if the input being handled may have brought a deadline nearer, or made something ready to be sent.
        self.rearmed = False

    def begin(self, at: Now) -> None:
        """Set the moment of the input that is handled next."""
        self.at = at
        self.stamp = Stamp(
            provider=self.context.provider,
            account=self.context.account,
            received_at=from_micros(at.unix_ns // 1000),
        )

    # --- out ---------------------------------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Publish an event of the relay's own."""
        self.counters.raised += 1
        self._publish(event, self.stamp, self.at.now)
        line = log_line(event)
        if line is not None:
            level, name, fields = line
            self.log(level, name, **fields)

    def error(self, code: str, message: str, *, of_account: bool = False, **details: Any) -> None:
        """Publish an `error` event, redacted; ``of_account``: to the readers of the account alone."""
        error = Error(code=code, message=self.redact(message), details=details or None)
        for each in self.split(error, code) if of_account else (error,):
            self.publish(each)

    @property
    def trades(self) -> bool:
        """True where the provider is a broker, whose words may be about an account's orders."""
        return bool(self.adapter_class.commands) or any(offer.kind == "account" for offer in self.adapter_class.offers)

    def split(self, error: Error, code: str = ACCOUNT_ERROR) -> Iterator[Error]:
        """Yield an error about the account: all of it for its readers; for everybody that there was one, as ``code``."""
        account = error.account or self.context.account
        if account is not None:
            yield evolve(error, account=account)
        else:  # nobody's channel has it
            self.log("warning", ACCOUNT_ERROR, code=error.code, message=self.redact(error.message))
        yield Error(code=code, message=OF_ACCOUNT, timestamp=error.timestamp)

    def put(self, *outputs: Output) -> None:
        """Have the shell do this."""
        self._out += outputs

    def rearm(self) -> None:
        """Have `deadline` and the queue looked at after this input: a deadline may be nearer, or something ready to be
        sent.
        """
        self.rearmed = True

    def take_outputs(self) -> list[Output]:
        """Return the outputs so far and forget them."""
        out, self._out, self.rearmed = self._out, [], False
        return out

    # --- what several parts do ---------------------------------------------------------------------------------------

    def at_once(self, writings: Iterable[str | Fetch], purpose: Purpose = Purpose.OTHER) -> None:
        """Send what cannot wait; the budget is charged, not asked."""
        if self.adapter is None:
            return
        try:
            self.put(*self.outbound.now(self.adapter, writings, purpose, self.at.now))
        except TemplateError as error:
            self.error("template", str(error))
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
            self.error("encode_failed", self.fault("writing a request", error))

    def encode(self, outgoing: Outgoing) -> list[str | Fetch]:
        """Return what the adapter writes for ``outgoing``; nothing, and publish an `error` event, when it raises."""
        if self.adapter is None:
            return []
        try:
            everything = checked_writings(self.adapter.encode(outgoing), self.declared)
        except Exception as error:  # noqa: BLE001 - an adapter's fault must not end the session
            self.encode_failed(type(outgoing).__name__, error)
            return []
        self.rearm()  # for the polls among it
        return self.outbound.without_polls(everything)

    def encode_failed(self, what: str, error: Exception) -> None:
        """Publish that the adapter could not write ``what``."""
        self.error("encode_failed", f"{what}: {self.reason_of(error, f'writing {what}')}")

    def reason_of(self, error: Exception, doing: str) -> str:
        """Return the reason that an adapter did not do something, as others may read it.

        A ValueError is the adapter's refusal and says why. Everything else is a fault of its code: that is for the log.
        """
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError | JSONDecodeError):
            return self.redact(f"{error}" or type(error).__name__)
        return self.fault(doing, error)

    def fault(self, doing: str, error: Exception) -> str:
        """Log an exception of the adapter's own code, with its place; return what others are told of it."""
        name = self.adapter_class.name
        text = self.redact(f"{type(error).__name__}: {error}")
        self.log("error", "adapter_fault", adapter=name, doing=doing, cause=text, at=place(error))
        return f"a fault of the adapter {name} in {doing}; the log has it"

    def notice_time(self, *times: str | None) -> None:
        """Notice the provider's clock by the times of an account's event."""
        for time in times:
            if time is not None:
                ahead = to_ns(time) - int(self.at.now * 1e9)
                if self.provider_ahead_ns is None or ahead > self.provider_ahead_ns:
                    self.provider_ahead_ns = ahead

    def limited(self, retry_after: float | None, socket: str = "") -> None:
        """Pause all requests, since the provider says that a limit was exceeded, and publish when the pause ends if
        that is known.

        ``socket``: the API of that one says so, which may have limits of its own.
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
    """Return the level, the name and the fields of the log line about an event of the relay's own; None if it has none."""
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
        case Staleness(event=StalenessEvent.STALE, session=True) if event.symbols:  # the line about the session says it
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
    """Return the file and the line of the innermost code outside the relay that an exception passed."""
    found, step = "", error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", ""))
        if not found or module.partition(".")[0] != "relay":
            found = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return found
