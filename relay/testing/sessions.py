"""A whole session of an adapter with its simulator, watched, over a line that a test can break.

`relay.testing.fault_table` plays its faults on it. A session runs as the relay runs it, on sockets, with quick attempts to
connect and without budgets. What is held to, whatever happens (`WatchedSession.check`):

- every message is understood but those the fault made, and no exception leaves the adapter's code;
- books begin with a whole one, behind every gap too;
- no command is written twice, none has two replies, and no fill is told twice.

A failure says what was waited for, what was told last, and the lines of the adapter that could not read a message.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio
from attrs import Factory, define, evolve, frozen

from relay.adapter import Adapter, Backoff, Context, Fetch, Outgoing, Poll, Reconcile, Subscribe
from relay.model.channels import Topic, topic_kind
from relay.model.commands import CancelOrder, Command, PlaceOrder
from relay.model.enums import OrderType, Side
from relay.model.events import (
    STATUS_KINDS,
    Connection,
    Depth,
    Event,
    Gap,
    Order,
    Position,
    Quote,
    Reply,
    Stamp,
    Trade,
)
from relay.model.symbols import SymbolTable
from relay.plugins.hookspecs import FrameTap, Simulated, Traffic
from relay.provider.driver import ProviderSession
from relay.provider.http import HttpClient
from relay.provider.outbound import checked_writings
from relay.provider.session_state import SessionSettings
from relay.testing.faults import Cut, FaultProxy
from relay.testing.recording import Record
from relay.testing.simulator import Link, Simulator
from relay.testing.trial import Observer, topic_text
from relay.trading.registry import CHECKED, CommandRegistry

#: Seconds that anything is waited for. A busy machine takes long; a fault of the adapter takes all of it.
WITHIN = 120.0
_POLL = 0.02
_LAST = 12
#: Waits of a session before it connects again.
QUICK = Backoff(first=0.01, cap=0.05)

T = TypeVar("T")

#: A stream's kind, symbol and timeframe, by which a subscriber can tell it.
Key = tuple[str | None, str | None, str | None]


class Failed(AssertionError):
    """Raised when a session does not do what it must; the text is for the adapter's author."""


@frozen(kw_only=True)
class Case:
    """An adapter and its simulator.

    Attributes:
        make: makes the simulator.
        order: members of the order that is placed; a fill of it must be possible at once.
        too_much: a quantity that the broker refuses.
        cannot: the faults that this provider cannot show, each with the reason.
    """

    adapter: type[Adapter]
    simulated: Simulated
    make: Callable[[], Simulator]
    order: Mapping[str, Any]
    too_much: str
    cannot: Mapping[str, str]

    @property
    def topics(self) -> list[Topic]:
        """The streams that are pinned, as the demo pins them."""
        return [_topic(text) for text in self.simulated.pinned]

    @property
    def symbol(self) -> str:
        """The symbol that orders are for."""
        symbols = [topic.symbol for topic in self.topics if topic.symbol is not None]
        return str(self.order.get("symbol") or symbols[0])

    def context(self, credentials: Mapping[str, str] | None = None) -> Context:
        """Return a context of the simulator's account."""
        given = self.simulated
        return Context(
            provider=given.provider,
            account=given.account,
            options={**self.adapter.defaults(), **given.options},
            credentials=dict(given.credentials if credentials is None else credentials),
            symbols=SymbolTable(given.symbols),
        )


def _topic(text: str) -> Topic:
    kind, _, rest = text.partition(" ")
    if kind == "account":
        return Topic(kind=kind, account=rest)
    if kind == "candle":
        symbol, _, timeframe = rest.rpartition(" ")
        return Topic(kind=kind, symbol=symbol, timeframe=timeframe)
    return Topic(kind=kind, symbol=rest)


def key_of(of: Event | Topic) -> Key:
    if isinstance(of, Gap):
        return of.of, of.symbol, of.timeframe
    kind = topic_kind(of.kind)
    if kind in ("account", "status"):
        return kind, None, None
    return kind, getattr(of, "symbol", None), getattr(of, "timeframe", None) if kind == "candle" else None


# --- a session that is watched ---------------------------------------------------------------------------------------


@define(eq=False)
class WatchedSession:
    """A running session, with everything that it told and wrote.

    Attributes:
        told: the published events, in order.
        asked: the topics that were asked for, in order. A fault empties it before a loss.
        frames: text frames that the simulator received on any connection.
        writes: what each command was written as, each time that it was.
        faults: exceptions of the adapter's code, each with its place.
        problems: rules that were broken.
        unknown: messages that may stay unknown: those the fault made.
        compares: whether the adapter asks for the account's lists; None before it was told to.
    """

    case: Case
    simulator: Simulator
    line: FaultProxy
    observer: Observer
    registry: CommandRegistry
    session: ProviderSession = None  # type: ignore[assignment]
    told: list[Event] = Factory(list)
    asked: list[Topic] = Factory(list)
    frames: list[str | bytes] = Factory(list)
    writes: dict[str, list[list[str | Fetch]]] = Factory(dict)
    faults: list[str] = Factory(list)
    problems: list[str] = Factory(list)
    unknown: int = 0
    compares: bool | None = None
    _fills: set[tuple[str, ...]] = Factory(set)
    _replied: Counter[str] = Factory(Counter)
    _whole: set[str] = Factory(set)

    # --- what is told ------------------------------------------------------------------------------------------------

    def publish(self, event: Event, stamp: Stamp, now: float = 0.0) -> None:
        """Take an event as a relay does: replies settle their commands, and orders may tell the fate of one."""
        shown = self.registry.check(event, stamp) if type(event) in CHECKED else event
        if shown is None:
            return
        self.observer.publish(shown, stamp)
        self._judge(shown)
        self.told.append(shown)
        if isinstance(shown, Reply):
            self.registry.settle(shown, stamp, trio.current_time())

    def _judge(self, event: Event) -> None:
        match event:
            case Gap():
                self._whole.discard(event.symbol or "")
            case Depth(symbol=symbol, snapshot=True):
                self._whole.add(symbol)
            case Depth(symbol=symbol) if symbol not in self._whole:
                self.problems.append(f"a change of the book of {symbol} is told before a whole book")
            case Trade():
                fill = (event.symbol, event.order_id or "", event.side.value, event.id)
                if fill in self._fills:
                    self.problems.append(f"the fill {event.id} of order {event.order_id} is told twice")
                self._fills.add(fill)
            case Reply():
                self._replied[event.id] += 1
                if self._replied[event.id] > 1:
                    self.problems.append(f"command {event.id} has two replies")

    def log(self, level: str, event: str, **fields: object) -> None:
        """Take a line of the session's log; a fault of the adapter is one of the author's."""
        if event == "adapter_fault":
            self.faults.append(f"{fields.get('doing')} raised {fields.get('cause')} (at {fields.get('at')})")

    def states(self, since: int = 0) -> list[Connection]:
        """Return the states of the connection that were told."""
        return [each for each in self.told[since:] if isinstance(each, Connection) and not each.upstream]

    def data(self, key: Key, since: int = 0) -> list[Event]:
        """Return the data of one stream."""
        return [each for each in self.told[since:] if each.kind not in STATUS_KINDS and key_of(each) == key]

    def of_account(self, since: int) -> list[Event]:
        """Return what became of orders and positions."""
        return [each for each in self.told[since:] if isinstance(each, Order | Trade | Position)]

    # --- what is waited for ------------------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], T], what: str) -> T:
        """Wait until ``holds()`` is true, and return it.

        Raises:
            Failed: it is not in time, or the adapter raised; with what is known.
        """
        with trio.move_on_after(WITHIN):
            # What is waited for becomes true in many places, the simulator among them.
            while not (found := holds()) and not self.faults:  # noqa: ASYNC110
                await trio.sleep(_POLL)
            if found:
                return found
        raise self.failed(what if self.faults else f"{what}: not within {WITHIN:g} s")

    async def state(self, name: str, since: int) -> None:
        """Wait until the session says that it is CONNECTED, RECONNECTING or FAILED."""
        await self.until(lambda: any(each.event == name for each in self.states(since)), f"the session says {name}")

    async def flowing(self, since: int | None = None) -> None:
        """Wait until the first pinned stream brings data."""
        began, first = len(self.told) if since is None else since, self.case.topics[0]
        await self.until(lambda: self.data(key_of(first), began), f"data of {topic_text(first)}")

    async def came_back(self, since: int, reason: str | None = None) -> None:
        """Wait until everything is as it was before a loss, and check what was told of it."""
        carried = {key_of(topic) for topic in self.case.topics if self.data(key_of(topic))[: since or None]}
        many = {key for key in carried if sum(key_of(each) == key for each in self.told[:since]) > 2}
        await self.state("CONNECTED", since)
        await self.flowing()
        topics = set(self.case.topics)
        await self.until(lambda: topics <= set(self.asked), f"all of {', '.join(map(topic_text, topics))} asked for")
        lost = self.states(since)[0]
        if lost.event != "RECONNECTING" or (reason is not None and reason not in (lost.reason or "")):
            raise self.failed(f"expected RECONNECTING because of {reason!r}, got {lost.event}: {lost.reason}")
        connected = sum(each.event == "CONNECTED" for each in self.states(since))
        for key in carried:
            gaps = sum(isinstance(each, Gap) and key_of(each) == key for each in self.told[since:])
            if gaps != connected:
                raise self.failed(f"{' '.join(filter(None, key))}: {gaps} gaps are told of {connected} losses")
        for key in many:
            began = len(self.told)
            text = " ".join(filter(None, key))
            await self.until(lambda key=key, began=began: self.data(key, began), f"data of {text} again")  # type: ignore[misc]

    def failed(self, what: str) -> Failed:
        """Return the failure, with what its reader needs."""
        lines = [f"{self.case.adapter.name}: {what}", *self.faults, *self.problems]
        lines += [
            f"not understood: {each.what} (at {each.code}): {each.sample}" for each in self.observer.report.samples
        ]
        lines += [f"refused: {topic_text(topic)}: {why}" for topic, why in self.observer.report.refused.items()]
        lines += ["told last:", *(f"  {each!r:.300}" for each in self.told[-_LAST:])]
        return Failed("\n".join(lines))

    def check(self) -> None:
        """Check what must hold at the end, whatever the fault was."""
        report = self.observer.report
        if report.unknown != self.unknown:
            raise self.failed(f"{report.unknown} messages are not understood, {self.unknown} of them by the fault")
        if report.crossed:
            raise self.failed(f"crossed: {', '.join(report.crossed)}")
        if self.faults or self.problems:
            raise self.failed("a rule is broken")
        for id, times in self.writes.items():
            if len(times) > 1:
                raise self.failed(f"command {id} is written {len(times)} times")

    # --- commands ----------------------------------------------------------------------------------------------------

    def order(self, id: str, **members: Any) -> PlaceOrder:
        """Return the market order of the case, with a ``client_order_id`` where the broker takes one."""
        case = self.case
        if "client_order_id" in case.adapter.orders.members:
            members.setdefault("client_order_id", f"client-{id}")
        given = {"side": Side.BUY, "order_type": OrderType.MARKET, "quantity": "1", "symbol": case.symbol}
        return PlaceOrder(id=id, account=case.simulated.account, **{**given, **case.order, **members})

    def place(self, id: str, within: float = 10.0, **members: Any) -> None:
        """Place the order through the session."""
        self.session.send(self.order(id, **members), within)

    async def reply(self, id: str) -> Reply:
        """Wait for the reply to a command, and return it."""
        return (
            await self.until(
                lambda: [each for each in self.told if isinstance(each, Reply) and each.id == id], f"the reply to {id}"
            )
        )[0]

    def arrived(self, id: str) -> int:
        """Return how often a command arrived at the provider."""
        written = [item for items in self.writes.get(id, []) for item in items]
        frames = [item for item in written if isinstance(item, str)]
        fetches = [item for item in written if isinstance(item, Fetch)]
        of_frame = max((self.frames.count(frame) for frame in frames[-1:]), default=0)
        requests = [(each.method, urlsplit(each.target).path) for each in self.simulator.requests]
        ends = [(each.method, urlsplit(each.url).path) for each in fetches[-1:]]
        of_request = sum(method == m and path.endswith(p) for m, p in ends for method, path in requests)
        return of_frame + of_request


def _watched(adapter: type[Adapter], seen: WatchedSession) -> type[Adapter]:
    """Return the adapter, noting what it is asked to write."""

    def encode(self: Adapter, outgoing: Outgoing) -> Iterable[Any]:
        items = list(adapter.encode(self, outgoing))
        if isinstance(outgoing, Subscribe):
            seen.asked += outgoing.topics
        elif isinstance(outgoing, Reconcile):
            seen.compares = seen.compares or bool(items)
        elif isinstance(outgoing, Command):
            seen.writes.setdefault(outgoing.id, []).append(
                [each for each in checked_writings(items, self.session) if not isinstance(each, Poll)]
            )
        return items

    return type(adapter.__name__, (adapter,), {"encode": encode})


@asynccontextmanager
async def session_of(
    case: Case,
    *,
    credentials: Mapping[str, str] | None = None,
    connected: bool = True,
    tap: FrameTap | None = None,
    **declared: Any,
) -> AsyncIterator[WatchedSession]:
    """Run a session of the adapter with its simulator for the length of the block.

    Args:
        credentials: others than the simulator's.
        connected: wait until data flow; else nothing is waited for.
        tap: sees everything that is sent and received.
        declared: changes of the adapter's declaration.
    """
    simulator = case.make()
    async with (
        simulator.serve() as address,
        FaultProxy(address.port).serve() as line,
        HttpClient() as http,
        trio.open_nursery() as nursery,
    ):
        observer, registry = Observer(loses=False), CommandRegistry()
        seen = WatchedSession(case, simulator, line, observer, registry)
        _listen(simulator, seen)
        there, here = str(address.port), str(line.port)
        endpoints = {"url": address.ws.replace(there, here), "http": address.http.replace(there, here), "sockets": {}}
        observed = observer.adapter(
            case.adapter, **{"backoff": QUICK, "limits": (), "on_interest": False, **endpoints, **declared}
        )
        seen.session = ProviderSession(
            _watched(observed, seen),
            case.context(credentials),
            publish=seen.publish,
            commands=registry,
            http=http,
            settings=SessionSettings(audit=0.5),
            log=seen.log,
        )
        seen.session.frame_tap = tap
        for topic in case.topics:
            seen.session.want(topic)
        ended = trio.Event()
        await nursery.start(_run, seen.session, ended)
        if connected:
            await seen.flowing(0)
        yield seen
        seen.session.shutdown()
        with trio.move_on_after(WITHIN):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def _run(  # noqa: ASYNC128 - the session says that it has started
    session: ProviderSession, ended: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await session.run(task_status=task_status)
    ended.set()


def _listen(simulator: Simulator, seen: WatchedSession) -> None:
    """Note every frame that the simulator receives."""
    received = simulator.received

    def noting(link: Link, message: str | bytes) -> None:
        seen.frames.append(message)
        received(link, message)

    simulator.received = noting  # type: ignore[method-assign]


# --- a recording of it -----------------------------------------------------------------------------------------------


async def recorded(case: Case, seconds: float) -> list[Record]:
    """Return the recording of a session with the simulator, for a fixture.

    It lasts ``seconds``. At a broker orders are placed: one that fills, one that rests and is cancelled, one that is too
    large and one that closes the position. The line is cut once, so that the account's lists are asked for what happened.

    Raises:
        Failed: the session does not do what it must.
    """
    traffic: list[Traffic] = []
    async with session_of(case, tap=traffic.append) as seen:
        if PlaceOrder in case.adapter.commands:
            await _trade(seen)
        await trio.sleep(seconds)
        records = [_record(each, seen.session.mask, f":{seen.line.port}") for each in traffic]
        # A message is dated by when its bytes came, and what the session did meanwhile stands before it.
        return sorted(records, key=lambda record: record.t)


async def _trade(seen: WatchedSession) -> None:
    symbol = seen.case.symbol
    prices = lambda: [each for each in seen.told if isinstance(each, Quote) and each.symbol == symbol and each.bid]  # noqa: E731
    bid = str((await seen.until(prices, f"a quote of {symbol}"))[-1].bid)
    decimals = len(bid.partition(".")[2])
    seen.place("r1")
    await seen.reply("r1")
    if OrderType.LIMIT in seen.case.adapter.orders.types:
        seen.place("r2", order_type=OrderType.LIMIT, limit_price=f"{Decimal(bid) / 2:.{decimals}f}")
        await seen.reply("r2")
    seen.place("r3", quantity=seen.case.too_much)
    await seen.reply("r3")
    since = len(seen.told)
    seen.line.inject(Cut())
    await seen.state("CONNECTED", since)
    resting = [each for each in seen.told if isinstance(each, Order) and not each.status.is_final]
    if CancelOrder in seen.case.adapter.commands and resting:
        seen.session.send(CancelOrder(id="r4", account=seen.case.simulated.account, order_id=resting[-1].id))
        await seen.reply("r4")
    seen.place("r5", side=Side.SELL)
    await seen.reply("r5")


def _record(traffic: Traffic, mask: Callable[[str], str], port: str) -> Record:
    """Return a record without secrets, and without the port, which is another one each time."""
    record = Record(
        t=round(traffic.unix_ns / 1e9, 6),
        dir=traffic.direction,
        data=mask(traffic.data),
        url=mask(traffic.url).replace(port, ""),
    )
    match traffic.direction:
        case "http":
            return evolve(record, method=traffic.method, status=traffic.status, request=mask(traffic.request))
        case "close":
            return evolve(record, code=traffic.status, own=traffic.own)
    return record
