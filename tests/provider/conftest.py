"""A tiny provider and a rig that drives the session machine along a written-out timeline."""

from collections.abc import Hashable, Iterable
from typing import Any

import pytest

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Book,
    CommandReply,
    Complete,
    Context,
    EventAck,
    Fetch,
    GivenUp,
    Hello,
    Learned,
    Limited,
    Nack,
    Offer,
    Outgoing,
    Ping,
    Poll,
    Polled,
    Processed,
    Ready,
    Reconcile,
    Redial,
    Send,
    Session,
    Snapshot,
    Subscribe,
    Unknown,
    Unsubscribe,
    Waits,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import CancelOrder, Command, ListOrders, PlaceOrder
from relay.model.events import Candle, Depth, Error, Event, Instrument, Order, Position, Quote, Reply, Stamp, Trade
from relay.provider import session_events
from relay.provider.session import SessionMachine, SessionSettings
from relay.provider.session_events import Now
from relay.trading.pending import AccountRef
from relay.trading.registry import WITHIN, CommandRegistry

UNIX = 1_700_000_000_000_000_000


def named(topic: Topic) -> str:
    return ":".join(filter(None, (topic.kind, topic.symbol or topic.account, topic.timeframe)))


def topic_of(name: str) -> Topic:
    kind, symbol, *timeframe = name.split(":")
    if kind == "account":
        return Topic(kind=kind, account=symbol)
    return Topic(kind=kind, symbol=symbol, timeframe=timeframe[0] if timeframe else None)


class Venue(Adapter):
    """A provider with one frame for everything."""

    name = "venue"
    session = Session(url="wss://venue.test/ws", http="https://venue.test/api")
    offers = (
        Offer(kind="quote"), Offer(kind="depth"), Offer(kind="account"), Offer(kind="candle", timeframes=("1m",)),
        Offer(kind="instrument"),
    )  # fmt: skip
    commands = (PlaceOrder, CancelOrder, ListOrders)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                if any(topic.symbol == "UNWRITABLE" for topic in topics):
                    raise ValueError("UNWRITABLE cannot be written")
                yield dumps({"sub": [named(topic) for topic in topics]})
            case Unsubscribe(topics):
                yield dumps({"unsub": [named(topic) for topic in topics]})
            case Snapshot(topic) if self.session.book is Book.FETCHED:
                yield Fetch(tag=("book", topic.symbol), url=f"/book/{topic.symbol}")
            case Reconcile() if "key" in self.context.credentials:
                yield Fetch(tag="open", url="/open")
            case Reconcile() if "lists" in self.context.options:
                yield '"open?"'
            case PlaceOrder(id=id) | ListOrders(id=id):
                yield dumps({"order": id})
            case CancelOrder(id=id):
                yield Fetch(tag=("cancel", id), url="/cancel", method="POST", of="call")
            case EventAck(ids, now_ms, correlation):
                yield dumps({"ids": ids, "ms": now_ms, "correlation": correlation})
            case Ping():
                yield '"ping"'
            case GivenUp(command):
                yield dumps({"given_up": command.id})
            case Hello() if self.session.ready == "signal":
                yield '"hello"'

    def decode(self, message: str) -> Iterable[Event | Any]:
        for item in loads(message):
            yield from self._item(item)

    def _item(self, item: Any) -> Iterable[Event | Any]:
        match item:
            case "ready":
                yield Ready()
            case "alive":
                yield Alive()
            case ["ack", *names]:
                yield Ack(tuple(map(topic_of, names)))
            case ["unack", *names]:
                yield Ack(tuple(map(topic_of, names)), done=False)
            case ["nack", reason, *names]:
                yield Nack(tuple(map(topic_of, names)), reason)
            case ["quote", symbol, bid]:
                yield Quote(symbol=symbol, bid=bid)
            case ["candle", symbol, timeframe]:
                yield Candle(
                    symbol=symbol, timeframe=timeframe, start="2025-01-15T10:30:00Z",
                    open="1", high="1", low="1", close="1", volume="1",
                )  # fmt: skip
            case ["snapshot", symbol, last]:
                yield Depth(symbol=symbol, bids=[("1", str(last or 0))], asks=(), snapshot=True, last_seq=last)
            case ["delta", symbol, first, last]:
                yield Depth(
                    symbol=symbol, bids=[("1", str(last or 0))], asks=(), snapshot=False, first_seq=first, last_seq=last
                )
            case ["instrument", symbol, terms]:
                yield Instrument(symbol=symbol, native_symbol=symbol, **terms)
            case ["fill", id]:
                yield Trade(id=id, order_id="o", symbol="S", side="BUY", quantity="1", price="1")
            case ["order", id, status]:
                yield Order(
                    event="ORDER_MODIFIED",
                    id=id,
                    symbol="S",
                    side="BUY",
                    order_type="LIMIT",
                    quantity="1",
                    status=status,
                )
            case ["position", id, event, quantity]:
                yield Position(event=event, id=id, symbol="S", side="LONG", quantity=quantity, unrealized_pnl="5")
            case ["complete", kind]:
                yield Complete(kind)
            case ["reply", id, result, error]:
                yield CommandReply(id, result, error)
            case ["listed", id, *orders]:
                read = [
                    Order(
                        event=None, account=account, id=native, symbol="S", side="BUY", quantity="1.10", status="OPEN"
                    )
                    for native, account in orders
                ]
                yield CommandReply(id, {"rows": orders}, events=(*read, Unknown(["broken"], "no order")))
            case ["error", code, message]:
                yield Error(code=code, message=message)
            case ["send", text]:
                yield Send(text)
            case ["poll", name, every]:
                yield Poll(name, dumps(name), every=every)
            case ["poll url", url, every]:
                yield Poll(url, Fetch(tag=url, url=url), every=every)
            case ["rate", name, every]:
                yield Poll(name, dumps(name), every=every, now=False)
            case ["polled", name]:
                yield Polled(name)
            case ["polled", name, code]:
                yield Polled(name, Error(code=code, message=f"no {name}"))
            case ["no more", name]:
                yield Polled(name, final=True)
            case ["fetch once", url, name]:
                yield Fetch(tag=url, url=url, once=name)
            case ["processed", *ids]:
                yield Processed(tuple(ids))
            case ["learned", values, expires_at]:
                yield Learned(values, expires_at)
            case ["redial", reason]:
                yield Redial(reason)
            case ["waits", *seconds]:
                yield Waits(tuple(seconds))
            case ["fetch", url]:
                yield Fetch(tag=url, url=url, of="call")
            case ["limited", seconds]:
                yield Limited(seconds)
            case "raise":
                raise KeyError("no such member")
            case other:
                yield Unknown(other, "not known")

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Any]:
        if answer.ok:
            return self.decode(answer.text)
        match tag:
            case ("cancel", id):
                return [CommandReply(str(id), error=answer.text)]
        return [Unknown(answer.text, f"status {answer.status}")]


class Rig:
    """A session machine, its time in seconds from 0, and everything that came out of it."""

    def __init__(self, *, credentials: dict[str, str] | None = None, options: dict[str, str] | None = None,
                 uniform: float = 1.0, settings: SessionSettings | None = None, adapter: type[Adapter] = Venue,
                 **session: Any) -> None:  # fmt: skip
        declared = Session(**({"url": "wss://venue.test/ws", "http": "https://venue.test/api"} | session))
        self.adapter: type[Adapter] = type("Declared", (adapter,), {"session": declared})
        self.context = Context(provider="acme", account="main", credentials=credentials or {}, options=options or {})
        self.events: list[Event] = []
        self.stamps: list[Stamp] = []
        self.seen = 0
        self.now = 0.0
        self.commands = CommandRegistry()
        #: Nanoseconds by which the wall clock was set.
        self.clock_set = 0
        #: The lines for the log: level, event, fields.
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.machine = SessionMachine(
            self.adapter, self.context, publish=self._publish, commands=self.commands, uniform=lambda: uniform,
            correlation=lambda: "uuid", settings=settings or SessionSettings(), log=self._log,
        )  # fmt: skip

    def succeed(self) -> None:
        """Replace the machine, as the driver does after a crash."""
        self.machine = SessionMachine(
            self.adapter, self.context, publish=self._publish, commands=self.commands, uniform=lambda: 1.0,
            correlation=str, after=self.machine,
        )  # fmt: skip

    def _publish(self, event: Event, stamp: Stamp, now: float) -> None:
        self.events.append(event)
        self.stamps.append(stamp)
        if isinstance(event, Reply):
            self.commands.settle(event, stamp, now)

    def _log(self, level: str, event: str, **fields: Any) -> None:
        self.lines.append((level, event, fields))

    def moment(self, at: float | None = None) -> Now:
        self.now = self.now if at is None else at
        return Now(self.now, UNIX + int(self.now * 1e9) + self.clock_set)

    def do(self, turn: session_events.Input, at: float | None = None) -> list[Any]:
        return self.machine.step(turn, self.moment(at))

    def ask(self, command: Command, within: float = WITHIN, at: float | None = None) -> list[Any]:
        """Take a command and hand it over, as the driver does."""
        now = self.moment(at)
        pending, new = self.commands.take(
            AccountRef("acme", "main"),
            command,
            None,
            now.now + within,
            now.now,
            written=self.machine.as_written(command),
        )
        return self.machine.step(session_events.SendCommand(pending), now) if new else []

    def say(self, *items: Any, at: float | None = None) -> list[Any]:
        """The provider says this; what is to be done, without the news that deadlines may have changed."""
        outputs = self.machine.receive(dumps(items), self.moment(at))
        return [output for output in outputs if not isinstance(output, session_events.DeadlineChanged)]

    def tick(self, at: float | None = None) -> list[Any]:
        return self.do(session_events.Tick(), at)

    def want(self, *names: str, at: float | None = None) -> list[Any]:
        return [output for name in names for output in self.do(session_events.WantTopic(topic_of(name)), at)]

    def unwant(self, name: str, at: float | None = None) -> list[Any]:
        return self.do(session_events.UnwantTopic(topic_of(name)), at)

    def up(self, at: float | None = None) -> list[Any]:
        """Start, or wait for the next attempt, and let the dial succeed."""
        if self.machine.life.value == "new":
            self.do(session_events.Start(), at)
        outputs = self.do(session_events.Opened(), at)
        if self.machine.life.value == "opening":
            outputs += self.say("ready")
        return outputs

    def fresh(self) -> list[Event]:
        """Events published since the last call."""
        events, self.seen = self.events[self.seen :], len(self.events)
        return events

    def kinds(self) -> list[str]:
        """Events since the last call, as ``kind`` or ``kind EVENT``."""
        return [" ".join(filter(None, (event.kind, getattr(event, "event", None)))) for event in self.fresh()]

    def counters(self) -> dict[str, Any]:
        return self.machine.status()["counters"]

    def add_up(self) -> bool:
        c = self.counters()
        return c["received"] == c["published"] + c["deduped"] + c["unknown"] + sum(c["dropped"].values()) + c["held"]


def texts(outputs: list[Any]) -> list[Any]:
    """The frames among outputs, decoded."""
    return [loads(output.text) for output in outputs if isinstance(output, session_events.SendText)]


def requests(outputs: list[Any]) -> list[session_events.FetchRequest]:
    return [output for output in outputs if isinstance(output, session_events.FetchRequest)]


@pytest.fixture
def rig() -> type[Rig]:
    """The class of rigs, with the reading of outputs beside it."""
    Rig.texts = staticmethod(texts)  # type: ignore[attr-defined]
    Rig.requests = staticmethod(requests)  # type: ignore[attr-defined]
    Rig.topic = staticmethod(topic_of)  # type: ignore[attr-defined]
    Rig.Venue = Venue  # type: ignore[attr-defined]
    return Rig
