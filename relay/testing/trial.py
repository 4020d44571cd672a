"""Try an adapter on a recording, without sockets, and report what came of it.

    report = trial(subject(Acme, "acme.jsonl.zst"))

The recording is read twice: once by the adapter alone, which tells the symbols it is about, and once by a whole session
(`relay.provider.session.SessionMachine`) that wants these streams, in recorded time. So the report has what subscribers
would have been told: gaps, checksums, books. `Observer` does the counting; it may observe the adapter of a real session.
"""

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import attrs
from attrs import Factory, define, frozen

from relay.adapter import Ack, Adapter, Answer, Nack, Unknown
from relay.model.channels import Topic, topic_kind
from relay.model.events import MARKET_KINDS, STATUS_KINDS, Connection, Depth, Error, Event, Gap, Quote, RateLimit, Stamp
from relay.model.text import to_ns
from relay.provider import session_events
from relay.provider.books import Levels
from relay.provider.session import SessionMachine, SessionSettings
from relay.provider.session_events import Now, as_text
from relay.provider.session_state import place
from relay.provider.subscriptions import AWAY
from relay.provider.templates import TemplateError, dial_target
from relay.testing.evidence import LostValues
from relay.testing.recording import FramePair, Record, RequestKey, beside, request_key
from relay.testing.subject import ACCOUNT, Subject, session_of_books
from relay.trading.registry import CommandRegistry

#: Samples of each sort in a report, and characters of each.
SAMPLES, SAMPLE_SIZE = 20, 300
#: Messages of one kind in which values are looked for that no event has.
LOOKED_AT = 200
#: Delays that are kept for the statistics.
_MOST_DELAYS = 100_000
#: Steps of the session between two records; more means that it waits for nothing.
_MOST_STEPS = 1000


@frozen
class Finding:
    """Something to look at: the record or message, the line of the adapter's code, and the reason.

    Attributes:
        where: the file and line of the recording, or when it came.
        code: the file and line of the adapter; empty where none is at fault.
    """

    what: str
    where: str = ""
    code: str = ""
    sample: str = ""


@frozen
class Made:
    """An event or signal of an adapter.

    Attributes:
        where: the file and line of the recording.
        code: the file and line of the adapter that yielded it.
        text: the message or answer it was made of.
        streamed: it came on the stream, not over HTTP.
    """

    item: Any
    where: str
    code: str
    text: str
    streamed: bool


@define
class Report:
    """The report on a session.

    Attributes:
        messages: messages and HTTP answers read.
        events: events that the adapter made of them, by kind.
        published: events that a session publishes, by kind; its own (connection, gap, staleness, ...) are in ``raised``.
        signals: signals of the adapter, by class.
        unknown: messages and parts of them that were not understood, and exceptions of the adapter.
        samples: the first of these.
        lost: values that no event has, as `relay.testing.evidence.lost`.
        acknowledged, refused: topics.
        checksums: books that were compared with the provider's checksum: ``equal`` and ``different``.
        crossed: books, and quotes, with a bid above an ask.
        dropped: deltas that books did not publish, by reason.
        delays: seconds from the time in an event to its receipt: latency, and the difference of the clocks.
        frames: frames that were recorded, beside those that were written.
        not_recorded: requests that the recording has no answer to.
    """

    messages: int = 0
    events: Counter[str] = Factory(Counter)
    published: Counter[str] = Factory(Counter)
    raised: Counter[str] = Factory(Counter)
    signals: Counter[str] = Factory(Counter)
    unknown: int = 0
    samples: list[Finding] = Factory(list)
    lost: dict[str, Any] = Factory(dict)
    topics: tuple[Topic, ...] = ()
    acknowledged: set[Topic] = Factory(set)
    refused: dict[Topic, str] = Factory(dict)
    gaps: list[str] = Factory(list)
    errors: Counter[str] = Factory(Counter)
    limits: Counter[str] = Factory(Counter)
    checksums: Counter[str] = Factory(Counter)
    crossed: Counter[str] = Factory(Counter)
    dropped: dict[str, int] = Factory(dict)
    delays: list[float] = Factory(list)
    frames: list[FramePair] = Factory(list)
    not_recorded: list[str] = Factory(list)
    failed: str = ""

    @property
    def problems(self) -> list[str]:
        """Return what is wrong, a line each.

        A limit is none, which a provider sets by right, nor is a gap where a recorded connection ended.
        """
        gaps = [gap for gap in self.gaps if not gap.endswith(AWAY)]
        found = [
            (self.failed, f"the session failed: {self.failed}"),
            (self.unknown, f"{self.unknown} not understood"),
            (gaps, f"{len(gaps)} gaps"),
            (self.checksums["different"], f"{self.checksums['different']} checksums differ"),
            (self.crossed, f"{sum(self.crossed.values())} crossed: {', '.join(map(str, self.crossed))}"),
            (self.refused, f"{len(self.refused)} streams refused: {'; '.join(sorted(set(self.refused.values())))}"),
            (self.errors, f"errors: {', '.join(f'{code} ({count})' for code, count in self.errors.items())}"),
        ]
        return [text for is_so, text in found if is_so]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "messages": self.messages,
            "events": dict(self.events),
            "published": dict(self.published),
            "raised": dict(self.raised),
            "signals": dict(self.signals),
            "unknown": self.unknown,
            "samples": [attrs.asdict(each) for each in self.samples],
            "lost": self.lost,
            "streams": [topic_text(each) for each in self.topics],
            "acknowledged": sorted(map(topic_text, self.acknowledged)),
            "refused": {topic_text(topic): why for topic, why in self.refused.items()},
            "gaps": self.gaps,
            "errors": dict(self.errors),
            "limits": dict(self.limits),
            "checksums": dict(self.checksums),
            "crossed": dict(self.crossed),
            "dropped": self.dropped,
            "delay_seconds": delays(self.delays),
            "frames": [attrs.asdict(each) for each in self.frames],
            "not_recorded": self.not_recorded,
            "problems": self.problems,
        }


def delays(seconds: list[float]) -> dict[str, float]:
    """Return the least, the median and the 99th percentile; nothing of nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"least": 0, "median": len(ordered) // 2, "p99": min(len(ordered) - 1, len(ordered) * 99 // 100)}
    return {name: round(ordered[position], 4) for name, position in at.items()}


def topic_text(topic: Topic) -> str:
    """Return a topic as the configuration writes it: ``candle BTC/USD 1m``."""
    return " ".join(filter(None, (topic.kind, topic.symbol or topic.account, topic.timeframe)))


class Observer:
    """Counts what an adapter makes of messages, and what its session publishes.

    Args:
        loses: look for values that no event has.
        publish: takes every published event, too.
        made: takes every event and signal of the adapter, with where it comes from.
    """

    def __init__(
        self,
        *,
        loses: bool = True,
        publish: Callable[[Event, Stamp], object] | None = None,
        made: Callable[["Made"], object] | None = None,
    ) -> None:
        self.report = Report()
        self._also = publish
        self._made = made
        #: The place of the message that is being read.
        self.where = ""
        self._lost = LostValues(LOOKED_AT) if loses else None
        self._books: dict[str, tuple[Levels, Levels]] = {}

    def adapter(self, adapter: type[Adapter], **session: Any) -> type[Adapter]:
        """Return the adapter, observed; ``session`` changes its declaration."""
        observer = self

        def decode(self: Adapter, message: Any) -> Iterable[Any]:
            return observer._read(adapter.decode, (self, message), as_text(message, binary=isinstance(message, bytes)))

        def fetched(self: Adapter, tag: Any, answer: Answer) -> Iterable[Any]:
            return observer._read(adapter.fetched, (self, tag, answer), answer.text)

        def checksum(bids: Any, asks: Any) -> "_Compared | None":
            found = adapter.checksum(bids, asks)
            return None if found is None else _Compared(found, observer.report.checksums)

        members = {"decode": decode, "fetched": fetched, "session": attrs.evolve(adapter.session, **session)}
        if adapter.checksum is not Adapter.checksum:
            members["checksum"] = staticmethod(checksum)
        return type(adapter.__name__, (adapter,), members)

    def _read(self, function: Any, arguments: tuple[Any, ...], text: str) -> list[Any]:
        """Read a message whole, as a session does."""
        report, items, unknown, made = self.report, [], [], []
        report.messages += 1
        try:
            source = function(*arguments)
            for item in source:
                items.append(item)
                if isinstance(item, Unknown):
                    unknown.append((item, _line(source, function)))
                if self._made is not None:
                    made.append(Made(item, self.where, _line(source, function), text, function.__name__ == "decode"))
        except Exception as error:
            self._not_understood(f"{type(error).__name__}: {error}", place(error), text)
            raise
        for item, code in unknown:
            raw = item.raw if isinstance(item.raw, str) else repr(item.raw)
            self._not_understood(item.why or "Unknown", code, raw)
        for item in items:
            self._count(item)
        for each in made:
            self._made(each)  # type: ignore[misc]
        if self._lost is not None:
            self._lost.add(text, items)
            report.lost = self._lost.places
        return items

    def _count(self, item: Any) -> None:
        report = self.report
        if isinstance(item, Event):
            report.events[item.kind] += 1
            return
        report.signals[type(item).__name__] += 1
        if isinstance(item, Ack) and item.done:
            report.acknowledged.update(item.topics)
        elif isinstance(item, Nack):
            report.refused.update(dict.fromkeys(item.topics, item.reason))

    def _not_understood(self, why: str, code: str, raw: str) -> None:
        self.report.unknown += 1
        if len(self.report.samples) < SAMPLES:
            self.report.samples.append(Finding(why, self.where, code, raw[:SAMPLE_SIZE]))

    def publish(self, event: Event, stamp: Stamp, now: float = 0.0) -> None:
        """Take a published event."""
        report = self.report
        if self._also is not None:
            self._also(event, stamp)
        counter = report.raised if event.kind in STATUS_KINDS else report.published
        counter[event.kind] += 1
        match event:
            case Depth():
                self._follow(event)
            case Quote(bid=str() as bid, ask=str() as ask) if Decimal(bid) > Decimal(ask):
                report.crossed[f"quote {event.symbol}"] += 1
            case Gap():
                self._books.pop(event.symbol or "", None)
                report.gaps.append(f"{self.where} {event.of} {event.symbol or ''}: {event.reason}".strip())
            case RateLimit():
                report.limits[event.event.value] += 1
            case Connection(reason=str() as reason) if event.event.value == "FAILED":
                report.failed = reason
            case Error(code=code) if code != "unknown_messages":
                report.errors[code] += 1
        told = getattr(event, "timestamp", None)
        if told is not None and event.kind in MARKET_KINDS and len(report.delays) < _MOST_DELAYS:
            report.delays.append((to_ns(stamp.received_at) - to_ns(told)) / 1e9)

    def _follow(self, depth: Depth) -> None:
        """Keep the book as a subscriber would, and look at its best prices."""
        if depth.snapshot or depth.symbol not in self._books:
            self._books[depth.symbol] = Levels(descending=True), Levels(descending=False)
        bids, asks = self._books[depth.symbol]
        bids.apply(depth.bids)
        asks.apply(depth.asks)
        bid, ask = bids.best(1), asks.best(1)
        if bid and ask and Decimal(bid[0][0]) > Decimal(ask[0][0]):
            self.report.crossed[f"book {depth.symbol}"] += 1


class _Compared(str):
    """A checksum that counts how often it is what the provider says."""

    _counts: Counter[str]

    def __new__(cls, text: str, counts: Counter[str]) -> "_Compared":
        made = super().__new__(cls, text)
        made._counts = counts
        return made

    def __eq__(self, other: object) -> bool:
        equal = str.__eq__(self, other)
        self._counts["equal" if equal is True else "different"] += 1
        return equal

    __hash__ = str.__hash__


def _line(source: Any, function: Any) -> str:
    """Return the file and line at which a generator is that has just yielded; of another iterable, the function's own."""
    found = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    while inspect.isgenerator(source) and source.gi_frame is not None:
        found = f"{source.gi_code.co_filename}:{source.gi_frame.f_lineno}"
        source = source.gi_yieldfrom
    return found


# --- a recording, read by a session ----------------------------------------------------------------------------------


def trial(
    of: Subject,
    publish: Callable[[Event, Stamp], object] | None = None,
    *,
    loses: bool = True,
    made: Callable[[Made], object] | None = None,
) -> Report:
    """Return the report on an adapter and a recording.

    Args:
        publish: takes every event as a session publishes it.
        loses: look for values that no event has.
        made: takes every event and signal of the adapter.
    """
    topics = tuple(_topics(of))
    observer = Observer(loses=loses, publish=publish, made=made)
    session = _RecordedSession(of, topics, observer)
    session.run()
    report = observer.report
    report.topics = topics
    recorded = [each.data for each in of.recording.records if each.dir == "out" and isinstance(each.data, str)]
    report.frames = beside(recorded, session.written)
    return report


def _topics(of: Subject) -> Iterator[Topic]:
    """Yield the streams that the recording is about: those that are acknowledged in it, and those its events belong to."""
    offered = {topic_kind(offer.kind) for offer in of.adapter.offers}
    adapter, found = of.prepared(), dict[Topic, None]()
    if "account" in offered:
        found[Topic(kind="account", account=ACCOUNT)] = None
    for example in of.examples():
        try:
            items = list(of.learn(adapter, adapter.decode_recorded(example.text)))
        except Exception:  # noqa: BLE001 - reported by the session that reads it again
            continue
        for item in items:
            if isinstance(item, Event) and item.kind in MARKET_KINDS & offered:
                timeframe = getattr(item, "timeframe", None) if item.kind == "candle" else None
                found[Topic(kind=item.kind, symbol=getattr(item, "symbol", None), timeframe=timeframe)] = None
            elif isinstance(item, Ack) and item.done:
                found |= dict.fromkeys(topic for topic in item.topics if topic.kind in offered and topic.symbol)
    yield from found


class _RecordedSession:
    """A session machine whose provider is a recording."""

    def __init__(self, of: Subject, topics: tuple[Topic, ...], observer: Observer) -> None:
        self._of = of
        self._topics = topics
        self._observer = observer
        self._answers = of.recording.answers()
        self._asked: Counter[RequestKey] = Counter()
        self._inputs: deque[session_events.Input] = deque()
        self._began = of.recording.records[0].t if of.recording.records else 0.0
        self._now = Now(1000.0, int(self._began * 1e9))
        self.written: list[str] = []
        context = of.context()
        # The adapter's waits are for a provider that answers in its own time; a recording answers at once or never.
        books = session_of_books(of.adapter)
        adapter = observer.adapter(of.adapter, limits=(), ack_within=None, book=books.book, sequence=books.sequence)
        _fill_templates(adapter, context)
        self._machine = SessionMachine(
            _prepared_by(adapter, self._answers),
            context,
            publish=observer.publish,
            commands=CommandRegistry(),
            uniform=lambda: 0.0,
            correlation=lambda: "00000000-0000-0000-0000-000000000000",
            settings=SessionSettings(first_data_within=0, audit=0),
        )

    def run(self) -> None:
        """Read the whole recording."""
        wants = [session_events.WantTopic(topic) for topic in self._topics]
        self._do(self._machine.interest(wants, self._now))
        self._step(session_events.Start())
        for number, record in enumerate(self._of.recording.records, start=1):
            self._observer.where = f"{self._of.name}:{number}"
            self._pass_time(record)
            if record.dir == "in":
                binary = self._machine.core.declared.frames == "binary"
                self._do(self._machine.receive(as_text(record.data, binary=binary), self._now))
                self._take_inputs()
            elif record.dir == "close" and not record.own:
                self._step(session_events.Closed(record.code or 1006, str(record.data)))
        self._observer.report.dropped = dict(+self._machine.core.books.dropped)

    def _pass_time(self, record: Record) -> None:
        """Let the session do what is due before the record; the recording has no ping frames, so the line is alive."""
        at = 1000.0 + record.t - self._began
        for _ in range(_MOST_STEPS):
            due = self._machine.deadline()
            if due > at:
                break
            self._machine.heard(at)
            self._set(max(due, self._now.now))
            self._step(session_events.Tick())
        self._set(at)

    def _set(self, now: float) -> None:
        self._now = Now(now, int((self._began + now - 1000.0) * 1e9))

    def _step(self, turn: session_events.Input) -> None:
        self._inputs.append(turn)
        self._take_inputs()

    def _take_inputs(self) -> None:
        for _ in range(_MOST_STEPS):
            if not self._inputs:
                return
            self._do(self._machine.step(self._inputs.popleft(), self._now))

    def _do(self, outputs: Iterable[session_events.Output]) -> None:
        for output in outputs:
            match output:
                case session_events.SendText(text):
                    self.written.append(text)
                    self._machine.written()
                case session_events.Dial():
                    self._inputs.append(session_events.Opened())
                case session_events.FetchRequest(id=id, fetch=fetch, shown=shown):
                    answer = recorded_answer(self._answers, self._asked, fetch.method, shown)
                    if answer is None:
                        answer = Answer(status=0, text="not recorded")
                        self._note_missing(f"{fetch.method} {shown}")
                    self._inputs.append(session_events.Fetched(id, answer))

    def _note_missing(self, request: str) -> None:
        missing = self._observer.report.not_recorded
        if request not in missing and len(missing) < SAMPLES:
            missing.append(request)


def recorded_answer(
    answers: dict[RequestKey, list[Record]], asked: Counter[RequestKey], method: str, url: str
) -> Answer | None:
    """Return the next recorded answer to a request, and the last one over and over.

    Where none has its query (which may have a time or a signature in it), one with its method and path is taken.
    """
    wanted = request_key(method, url)
    same_path = (key for key in answers if key[0] == wanted[0] and key[1] == wanted[1])
    key = wanted if wanted in answers else next(same_path, None)
    if key is None:
        return None
    record = answers[key][min(asked[key], len(answers[key]) - 1)]
    asked[key] += 1
    text = record.data if isinstance(record.data, str) else record.data.decode("utf-8", "backslashreplace")
    return Answer(status=record.status, text=text)


def _fill_templates(adapter: type[Adapter], context: Any) -> None:
    """Learn something for every name of the URL's template that only a login would give."""
    for _ in range(10):
        try:
            dial_target(adapter.session, context, adapter.url(context))
        except TemplateError as error:
            name = str(error).partition("{")[2].partition("}")[0]
            context.learned[name] = f"tried-{name}"
        except Exception:  # noqa: BLE001 - the session will say so
            return
        else:
            return


def _prepared_by(adapter: type[Adapter], answers: dict[RequestKey, list[Record]]) -> type[Adapter]:
    """Return the adapter without those requests before a connection that the recording cannot answer."""
    paths = {(method, path) for method, path, _ in answers}

    def prepare(self: Adapter) -> Iterable[Any]:
        for fetch in adapter.prepare(self):
            method, path, _ = request_key(fetch.method, fetch.url)
            if any(known == method and recorded.endswith(path) for known, recorded in paths):
                yield fetch

    return type(adapter.__name__, (adapter,), {"prepare": prepare})
