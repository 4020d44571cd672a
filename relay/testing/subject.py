"""The adapter under test with its examples: recorded frames, recorded HTTP answers and one command of each kind."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any

import attrs
import msgspec
from attrs import define, frozen

from relay.adapter import (
    Adapter,
    Answer,
    CommandReply,
    Context,
    Fetch,
    Hello,
    Known,
    Learned,
    Outgoing,
    Partial,
    Poll,
    Reconcile,
    Session,
    Snapshot,
    Sought,
    Subscribe,
    Symbols,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import (
    AmendOrder,
    AmendPosition,
    Call,
    CancelOrder,
    ClosePosition,
    Command,
    GetQuote,
    OrderHistory,
    PlaceOrder,
    PositionHistory,
    TradeHistory,
)
from relay.model.enums import OrderType, PositionEvent, Side
from relay.model.events import Account, Event, Order, Position
from relay.model.symbols import SymbolTable
from relay.model.text import from_micros
from relay.provider.accounts import derived
from relay.testing.recording import Recording, Source, read_recording, request_key

#: More digits than a binary float holds: what is rounded on the way is seen.
QUANTITY = "1234567.123456789012"
PRICE = "65432.10"

_PERIOD = {"since": "2025-01-15T00:00:00Z", "until": "2025-01-16T00:00:00Z"}
_MEMBERS: dict[type[Command], dict[str, Any]] = {
    PlaceOrder: {
        "side": Side.BUY,
        "order_type": OrderType.LIMIT,
        "quantity": QUANTITY,
        "limit_price": PRICE,
        "client_order_id": "client-1",
    },
    CancelOrder: {"order_id": "order-1"},
    AmendOrder: {"order_id": "order-1", "quantity": QUANTITY, "limit_price": PRICE},
    ClosePosition: {"position_id": "position-1"},
    AmendPosition: {"position_id": "position-1", "stop_loss": PRICE},
    Call: {"function": "Ping"},
    **dict.fromkeys((OrderHistory, PositionHistory, TradeHistory), _PERIOD),
}
_OF_A_SYMBOL = (PlaceOrder, CancelOrder, AmendOrder, ClosePosition, AmendPosition, GetQuote)


def sample(command: type[Command], symbol: str, account: str) -> Command:
    """Return a command of this class, on ``symbol`` where it is about one."""
    about = {"symbol": symbol} if command in _OF_A_SYMBOL else {}
    return command(id="command-1", account=account, **about, **_MEMBERS.get(command, {}))


ACCOUNT = "conformance"


@frozen
class Example:
    """One received frame: where it stands, what it is."""

    where: str
    text: str
    received_at: str


@frozen
class Read:
    """The result of decoding a message: the items, or the exception."""

    items: tuple[Any, ...] = ()
    error: Exception | None = None

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The events, and those of an answer; each with what its state would be published as at first sight."""
        items = chain(self.items, *(item.events or () for item in self.items if isinstance(item, CommandReply)))
        states = (item.state if isinstance(item, Partial | Sought) else item for item in items)
        return tuple(_first_seen(item) for item in states if isinstance(item, Event))


def _first_seen(event: Event) -> Event:
    if not isinstance(event, Order | Position | Account) or event.event is not None:
        return event
    closed = attrs.evolve(event, event=PositionEvent.POSITION_CLOSED) if isinstance(event, Position) else event
    return derived(event, None) or closed


@define(eq=False)
class Subject:
    """The adapter under test with its examples. Made by `relay.testing.conformance.subject`."""

    adapter: type[Adapter]
    recording: Recording
    name: str
    options: Mapping[str, str]
    commands: Iterable[Command]
    symbols: Mapping[str, str]
    loose: frozenset[str]

    def context(self, known: Known | None = None) -> Context:
        """Return a context with recognizable credentials; ``known``: the memory of the account, by default none."""
        return Context(
            provider=self.adapter.name,
            account=ACCOUNT,
            options={**self.adapter.defaults(), **self.options},
            credentials={name: f"secret-{name}-6f3a91" for name in self.adapter.credentials},
            symbols=SymbolTable(self.symbols),
            known=known or Known(),
        )

    def prepared(self, known: Known | None = None) -> Adapter:
        """Return a new adapter that has had the recorded answers to its preparing fetches."""
        adapter = self.adapter(self.context(known))
        recorded = self.recording.answers()
        for fetch in adapter.prepare():
            answer = recorded_answer(recorded, fetch)
            if answer is not None:
                self.learn(adapter, adapter.fetched(fetch.tag, answer))
        list(adapter.encode(Hello()))
        list(adapter.encode(Subscribe(tuple(self.topics()))))
        return adapter

    def learn(self, adapter: Adapter, items: Iterable[Any]) -> list[Any]:
        """Do with `Learned` and `Symbols` what a session does."""
        found = list(items)
        for item in found:
            if isinstance(item, Learned):
                adapter.context.learned.update(item.values)
            elif isinstance(item, Symbols):
                adapter.symbols.learn(item.pairs, complete=item.complete, names=item.names)
        return found

    def topics(self) -> list[Topic]:
        """Return one topic for everything offered that is asked for; of candles, every timeframe.

        Instruments are not asked for: they come with the metadata.
        """
        topics = []
        for offer in self.adapter.offers:
            if offer.kind == "instrument":
                continue
            if offer.kind == "account" or offer.visibility == "presence":
                topics.append(Topic(kind=offer.kind, account=ACCOUNT))
            else:
                symbol = offer.example.get("symbol", "BTC/USD")
                topics += [Topic(kind=offer.kind, symbol=symbol, timeframe=t) for t in offer.timeframes or (None,)]
        return topics

    def examples(self) -> Iterator[Example]:
        """Yield the received text frames, in order, with their place in the fixture."""
        for number, record in enumerate(self.recording.records, start=1):
            if record.dir == "in" and isinstance(record.data, str):
                yield Example(f"{self.name}, record {number}", record.data, from_micros(int(record.t * 1_000_000)))

    @cached_property
    def results(self) -> tuple[tuple[Example, Read], ...]:
        """Every example with what it was read as, in order, by one adapter."""
        adapter = self.prepared()
        return tuple((example, read(adapter, example.text)) for example in self.examples())

    def walk(self, known: Known | None = None) -> Iterator[tuple[Example, Adapter, Read]]:
        """Yield every example with the adapter as it was before it, and what it read. The adapter reads on behind it."""
        adapter = self.prepared(known)
        for example in self.examples():
            yield example, adapter, read(copies(adapter)(), example.text)
            read(adapter, example.text)

    def speaks_json(self) -> bool:
        return all(is_json(example.text) for example in self.examples())


def read(adapter: Adapter, text: str) -> Read:
    """Decode as a session does: whole, and what raises is the message's fault."""
    try:
        return Read(tuple(adapter.decode_recorded(text)))
    except Exception as error:  # noqa: BLE001 - exactly what the session catches
        return Read(error=error)


def copies(adapter: Adapter) -> Callable[[], Adapter]:
    """Return a function that makes copies of ``adapter`` as it is now, with everything it learned on its connection.

    The symbols, which outlive a connection, are shared.
    """
    symbols = adapter.symbols
    stored = io.BytesIO()
    try:
        _Pickler(stored, symbols).dump(adapter)
    except (pickle.PicklingError, AttributeError, TypeError):
        # A class within a function has no name to be found by.
        shared = {id(symbols): symbols}
        original = copy.deepcopy(adapter, dict(shared))
        return lambda: copy.deepcopy(original, dict(shared))
    # A copy is made for each of thousands of mutants: reading a pickle takes a third of a deep copy's time.
    pickled = stored.getvalue()
    return lambda: _Unpickler(pickled, symbols).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, symbols: SymbolTable) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._symbols = symbols

    def persistent_id(self, value: Any) -> str | None:
        return "symbols" if value is self._symbols else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, symbols: SymbolTable) -> None:
        super().__init__(io.BytesIO(pickled))
        self._symbols = symbols

    def persistent_load(self, _: str) -> SymbolTable:
        return self._symbols


def recorded_answer(recorded: Mapping[Any, list[Any]], fetch: Fetch) -> Answer | None:
    """Return the recorded answer to ``fetch``: of the same method, with its path at the end of the recorded one."""
    method, path, _ = request_key(fetch.method, fetch.url)
    for (recorded_method, recorded_path, _), answers in recorded.items():
        if recorded_method == method and recorded_path.endswith(path):
            return Answer(status=answers[0].status, text=answers[0].data)
    return None


def is_json(text: str) -> bool:
    try:
        loads(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def session_of_books(adapter: type[Adapter]) -> Session:
    """Return the declaration of the socket that depth is on."""
    symbol = next((offer.example.get("symbol") for offer in adapter.offers if offer.kind == "depth"), None)
    socket = adapter.socket_of(Topic(kind="depth", symbol=symbol))
    return adapter.session.socket(socket if socket in adapter.session.sockets else "")


def subject(
    adapter: type[Adapter],
    fixture: Source | Recording,
    *,
    options: Mapping[str, str] | None = None,
    symbols: Mapping[str, str] | None = None,
    commands: Iterable[Command] | None = None,
    loose: Iterable[str] = (),
) -> Subject:
    """Return the adapter with its examples, for `CHECKS` and `survive`.

    Args:
        fixture: a recording, or the file of one.
        options, symbols: as an operator would configure them.
        commands: commands to write instead of one sample of each that is declared.
        loose: what of ``decimals``, ``times`` and ``enums`` need not stand in the message, for a provider whose messages
            lean on earlier ones. Say why where you use it.
    """
    recording = fixture if isinstance(fixture, Recording) else read_recording(fixture)
    unknown = set(loose) - {"decimals", "times", "enums"}
    if unknown:
        raise ValueError(f"loose: expected decimals, times or enums, not {', '.join(sorted(unknown))}")
    symbol = next((offer.example["symbol"] for offer in adapter.offers if "symbol" in offer.example), "BTC/USD")
    given = [sample(command, symbol, ACCOUNT) for command in adapter.commands] if commands is None else list(commands)
    name = "the recording" if isinstance(fixture, Recording) else str(fixture)
    return Subject(adapter, recording, name, options or {}, given, symbols or {}, frozenset(loose))


# --- recorded HTTP answers, each with the request of the adapter that it answers ---

#: Beginning of an absence that the adapter is asked to make up for.
_AWAY_SINCE = "2026-01-01T00:00:00.000000Z"
#: Requests that may follow from one another.
_CHAIN = 20


@frozen
class Exchange:
    """One request and its answer; ``before()`` is a copy of the adapter as it was before the answer."""

    where: str
    before: Callable[[], Adapter]
    fetch: Fetch
    answer: Answer

    @property
    def of_command(self) -> bool:
        """Return True if a command is answered."""
        return self.where.startswith("command ")

    def read(self, text: str | None = None, status: int | None = None) -> Read:
        """Return the result of a copy of the adapter for the answer, or for one with these changes."""
        given = Answer(status=status or self.answer.status, text=self.answer.text if text is None else text)
        try:
            return Read(tuple(self.before().fetched(self.fetch.tag, given)))
        except Exception as error:  # noqa: BLE001 - exactly what the session catches
            return Read(error=error)


def exchanges(of: Subject, *, lists: bool = False) -> Iterator[Exchange]:
    """Yield every request the adapter makes that the recording has an answer to.

    ``lists``: only those of `Adapter.prepare` and of `Reconcile`, which bring what the provider has.
    """
    fresh = of.adapter(of.context())
    yield from _chain(of, "prepare()", fresh, fresh.prepare())
    topics = tuple(of.topics())
    asked: list[Outgoing] = [
        Reconcile(),
        Reconcile(_AWAY_SINCE),
        Subscribe(topics),
        *map(Snapshot, topics),
        *of.commands,
    ]
    for outgoing in asked[:1] if lists else asked:
        adapter = of.prepared()
        yield from _chain(of, _name(outgoing), adapter, _written(adapter, outgoing))


def _name(outgoing: Outgoing) -> str:
    return f"command {outgoing.name}" if isinstance(outgoing, Command) else type(outgoing).__name__


def _written(adapter: Adapter, outgoing: Outgoing) -> list[Fetch]:
    try:
        return [*_fetches(adapter.encode(outgoing))]
    except Exception:  # noqa: BLE001 - what cannot be written is another check's
        return []


def _chain(of: Subject, where: str, adapter: Adapter, fetches: Iterable[Fetch]) -> Iterator[Exchange]:
    recorded, waiting = of.recording.answers(), list(fetches)
    for _ in range(_CHAIN):
        if not waiting:
            return
        fetch = waiting.pop(0)
        answer = recorded_answer(recorded, fetch)
        if answer is None:
            continue
        exchange = Exchange(f"{where}, answer to {fetch.method} {fetch.url}", copies(adapter), fetch, answer)
        yield exchange
        try:
            items = of.learn(adapter, adapter.fetched(fetch.tag, answer))
        except Exception:  # noqa: BLE001 - said by the check that reads the exchange
            return
        waiting += _fetches(items)
        if answer.ok and fetch.next_page is not None and (behind := fetch.next_page(answer)) is not None:
            waiting.append(attrs.evolve(behind, tag=fetch.tag))


def _fetches(items: Iterable[object]) -> Iterator[Fetch]:
    """Yield the fetches among what an adapter yields, those of polls too."""
    for item in items:
        asked = item.request if isinstance(item, Poll) else item
        if isinstance(asked, Fetch):
            yield asked
