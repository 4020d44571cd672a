"""The adapter under test, with its examples: what the conformance kit's checks are given."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import msgspec
from attrs import define, frozen

from relay.adapter import Adapter, Answer, Context, Fetch, Hello, Learned, Partial, Subscribe, Symbols, loads
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.enums import PositionEvent
from relay.model.events import Account, Event, Order, Position
from relay.model.symbols import SymbolTable
from relay.model.text import from_micros
from relay.provider.accounts import derived
from relay.testing.recording import Recording, Source, read_recording, request_key
from relay.testing.samples import sample

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

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, each with what a state of an order, a position or an account would be published as at first sight."""
        states = (item.state if isinstance(item, Partial) else item for item in self.items)
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

    def context(self) -> Context:
        """A context with recognizable credentials."""
        return Context(
            provider=self.adapter.name,
            account=ACCOUNT,
            options={**self.adapter.defaults(), **self.options},
            credentials={name: f"secret-{name}-6f3a91" for name in self.adapter.credentials},
            symbols=SymbolTable(self.symbols),
        )

    def prepared(self) -> Adapter:
        """A new adapter that has had the recorded answers to its preparing fetches."""
        adapter = self.adapter(self.context())
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
                adapter.symbols.learn(item.pairs)
        return found

    def topics(self) -> list[Topic]:
        """One topic for everything offered; of candles, every timeframe."""
        topics = []
        for offer in self.adapter.offers:
            if offer.kind == "account" or offer.visibility == "presence":
                topics.append(Topic(kind=offer.kind, account=ACCOUNT))
            else:
                symbol = offer.example.get("symbol", "BTC/USD")
                topics += [Topic(kind=offer.kind, symbol=symbol, timeframe=t) for t in offer.timeframes or (None,)]
        return topics

    def examples(self) -> Iterator[Example]:
        """The received text frames, in order, with their place in the fixture."""
        for number, record in enumerate(self.recording.records, start=1):
            if record.dir == "in" and isinstance(record.data, str):
                yield Example(f"{self.name}, record {number}", record.data, from_micros(int(record.t * 1_000_000)))

    def walk(self) -> Iterator[tuple[Example, Adapter, Read]]:
        """Every example with the adapter as it was before it, and what it read. The adapter lives on behind the yield."""
        adapter = self.prepared()
        for example in self.examples():
            yield example, adapter, read(clone(adapter), example.text)
            read(adapter, example.text)

    def speaks_json(self) -> bool:
        return all(is_json(example.text) for example in self.examples())


def read(adapter: Adapter, text: str) -> Read:
    """Decode as a session does: whole, and what raises is the message's fault."""
    try:
        return Read(tuple(adapter.decode(text)))
    except Exception as error:  # noqa: BLE001 - exactly what the session catches
        return Read(error=error)


def clone(adapter: Adapter) -> Adapter:
    """The adapter with everything it learned on its connection; the symbols, which outlive it, are shared."""
    return copy.deepcopy(adapter, {id(adapter.symbols): adapter.symbols})


def recorded_answer(recorded: Mapping[Any, list[Any]], fetch: Fetch) -> Answer | None:
    """The recorded answer to ``fetch``: of the same method, with its path at the end of the recorded one."""
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
