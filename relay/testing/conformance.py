"""The conformance kit: what every adapter must hold to, checked from a fixture with one line.

    from relay.testing import conformance
    test_acme = conformance.tests(Acme, "tests/fixtures/acme.jsonl")

The fixture is a recording (`relay.testing.recording`) whose received frames are examples of every message the provider has.
They are read in order by one adapter, as a session would read them; after each new kind of frame, copies of that adapter
read the frame broken in every way `relay.testing.mutations` knows, and with some of its values huge or nested deep. The
checks:

- ``examples``: every example is understood: no `Unknown`, no exception;
- ``floats``: no float in any event;
- ``prices`` and ``times``: every price and time of an event stands in the message it came from;
- ``wire``: every event survives the canonical JSON;
- ``mutations``: a broken message raises nothing a session does not survive, invents no price, no time and no side or
  state, and whatever is yielded is an event or a signal;
- ``answers``: the same for the HTTP answers the recording has to the adapter's own requests; and an error status never
  becomes a command's acceptance;
- ``arbitrary``: the same for JSON that has nothing to do with the provider (hypothesis, where it is installed);
- ``symbols``: every symbol survives the way to canonical and back;
- ``offers``: a subscription of everything offered can be written;
- ``instruments``: they come where they are offered, with steps and bounds that an order can meet;
- ``commands``: every declared command can be written, with its exact decimals;
- ``frames``: what is written is JSON where the provider speaks JSON;
- ``polls``: every poll has a name of its own;
- ``sought``: one order can be asked for where `Orders.sought` says so;
- ``secrets``: no credential, and nothing learned, in the repr of a request, a signal or the context;
- what the events mean, by the rules of `relay.testing.meaning`: ``names``, ``sides``, ``ranges``, ``volumes``, ``moments``,
  ``members``, ``books``, ``acknowledgements``, ``requests``, ``natives``;
- what they say of an account, by those of `relay.testing.account_meaning`: ``orders``, ``states``, ``money``.

A check that fails raises `AssertionError` with what is wrong, and the fixture's line to look at.
"""

from collections.abc import Callable, Hashable, Iterator
from decimal import Decimal
from functools import cache
from itertools import chain, islice
from typing import Any

import attrs
import msgspec

from relay.adapter import (
    Adapter,
    CommandReply,
    Fetch,
    Hello,
    Partial,
    Poll,
    Polled,
    Reconcile,
    Seek,
    Signal,
    Sought,
    Subscribe,
    Unknown,
    Unsubscribe,
)
from relay.model import serialize
from relay.model.commands import Command
from relay.model.events import Account, Event, Instrument, Order, Position, Stamp
from relay.model.symbols import SymbolError
from relay.provider.accounts import KnownStates, States
from relay.provider.inbound import OrderSearch
from relay.provider.outbound import checked_writings
from relay.testing.account_meaning import ACCOUNT_RULES
from relay.testing.evidence import Evidence, enums, fields
from relay.testing.fault_table import sessions
from relay.testing.meaning import RULES, problems
from relay.testing.mutations import mutants, shape, strangers, swollen
from relay.testing.recording import Recording, Source
from relay.testing.subject import (
    ACCOUNT,
    QUANTITY,
    Exchange,
    Read,
    Subject,
    copies,
    exchanges,
    is_json,
    read,
    recorded_answer,
    subject,
)

__all__ = ["CHECKS", "MEANING", "Broken", "Subject", "golden", "sessions", "subject", "survive", "tests"]

#: Examples of one shape that are broken.
_SHAPES = 3
_RECEIVED = "2026-01-01T00:00:00.000000Z"


class Broken(AssertionError):
    """Raised when an adapter breaks a rule of the contract."""


# --- the checks ------------------------------------------------------------------------------------------------------


def check_examples(subject: Subject) -> None:
    """Check that every example is understood."""
    seen = 0
    for example, result in subject.results:
        seen += 1
        if result.error is not None:
            raise Broken(f"{example.where}: decode raised {result.error!r} over {example.text[:300]}")
        for item in result.items:
            if isinstance(item, Unknown):
                raise Broken(f"{example.where}: not understood ({item.why or 'Unknown'}): {example.text[:300]}")
            _check_type(example.where, item)
    if not seen:
        raise Broken(f"{subject.name} has no received frame")


def check_floats(subject: Subject) -> None:
    """Check that no event has a float."""
    for example, result in subject.results:
        for event in result.events:
            for name, value in fields(event):
                if isinstance(value, float):
                    raise Broken(
                        f"{example.where}: {event.kind}.{name} is the float {value!r}; decode with relay.adapter.loads"
                    )


def check_prices(subject: Subject) -> None:
    """Check that every decimal of an event stands in its message."""
    for example, result in subject.results:
        _check_decimals(subject, example.where, Evidence(example.text), result)


def check_times(subject: Subject) -> None:
    """Check that every time of an event stands in its message, in any of the units a time can have."""
    for example, result in subject.results:
        _check_moments(subject, example.where, Evidence(example.text), result)


def check_wire(subject: Subject) -> None:
    """Check that every event survives the canonical JSON."""
    for example, result in subject.results:
        for event in result.events:
            _check_wire(example.where, event)


def check_mutations(subject: Subject) -> None:
    """Check that a broken message costs at most itself."""
    times: dict[Hashable, int] = {}
    for example, adapter, original in subject.walk():
        form = shape(example.text)
        times[form] = times.get(form, 0) + 1
        if times[form] > _SHAPES:
            continue
        before = copies(adapter)
        swelled = swollen(example.text, len(times)) if times[form] == 1 else ()
        for mutant in chain(mutants(example.text), swelled):
            where = f"{example.where}, {mutant.what}"
            result = _survived(subject, before(), mutant.text, where)
            if mutant.of_word:
                _check_guesses(subject, where, original, result)
    for stranger in strangers():
        _survived(subject, subject.prepared(), stranger.text, stranger.what)


def check_answers(subject: Subject) -> None:
    """Check that a broken HTTP answer costs at most itself, and that an error is no acceptance."""
    seen: set[tuple[str, Hashable]] = set()
    for exchange in exchanges(subject):
        original = exchange.read()
        if original.error is not None:
            raise Broken(f"{exchange.where}: fetched raised {original.error!r} over {exchange.answer.text[:300]}")
        _check_read(subject, exchange.where, exchange.answer.text, original)
        if exchange.of_command:
            _check_refusals(exchange)
        form = (str(type(exchange.fetch.tag)), shape(exchange.answer.text))
        if form in seen:
            continue
        seen.add(form)
        for mutant in mutants(exchange.answer.text):
            where = f"{exchange.where}, {mutant.what}"
            result = exchange.read(mutant.text)
            _check_read(subject, where, mutant.text, result)
            if mutant.of_word:
                _check_guesses(subject, where, original, result)


def _check_refusals(exchange: Exchange) -> None:
    for status in (400, 422, 500, 501, 502, 503):
        for item in exchange.read(status=status).items:
            if isinstance(item, CommandReply) and item.error is None:
                raise Broken(f"{exchange.where}: with status {status} it accepts the command: {item!r:.300}")


def check_arbitrary(subject: Subject) -> None:
    """JSON of any shape, and text that is none, costs at most itself."""
    import pytest

    hypothesis = pytest.importorskip("hypothesis")
    from relay.testing.arbitrary import messages

    prepared = copies(subject.prepared())

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)  # type: ignore[untyped-decorator]
    @hypothesis.given(messages([example.text for example in islice(subject.examples(), 200)]))  # type: ignore[untyped-decorator]
    def survives(text: str) -> None:
        survive(subject, prepared(), text)

    survives()


def survive(subject: Subject, adapter: Adapter, text: str) -> Read:
    """Let ``adapter`` read any text at all and check what came of it; the piece for property tests of one's own."""
    return _survived(subject, adapter, text, f"message {text[:200]!r}")


def _survived(subject: Subject, adapter: Adapter, text: str, where: str) -> Read:
    result = read(adapter, text)
    _check_read(subject, where, text, result)
    return result


def _check_read(subject: Subject, where: str, text: str, result: Read) -> None:
    for item in result.items:
        _check_type(where, item)
    if result.events:
        evidence = Evidence(text)
        _check_decimals(subject, where, evidence, result)
        _check_moments(subject, where, evidence, result)
    for event in result.events:
        _check_wire(where, event)


def check_symbols(subject: Subject) -> None:
    """Check that every symbol survives the way to canonical and back, and that a complete list has the symbols of the
    offers.
    """
    adapter = subject.prepared()
    if adapter.symbols.complete:
        for offered in sorted({topic.symbol for topic in subject.topics() if topic.symbol is not None}):
            try:
                adapter.native(offered)
            except SymbolError as error:
                raise Broken(f"yields Symbols(complete=True), but offers a stream of {offered}: {error}") from None
    for native, canonical in adapter.symbols:
        if adapter.native(canonical) != native or adapter.symbol(native) != canonical:
            raise Broken(f"symbol {native} becomes {canonical}, which is written {adapter.native(canonical)}")
    for example, reader, result in subject.walk():
        for event in result.events:
            came, symbol = getattr(event, "native_symbol", None), getattr(event, "symbol", None)
            if came is not None and symbol is not None and (written := reader.native(symbol)) != came:
                raise Broken(f"{example.where}: {event.kind} of {symbol} came as {came}, is written {written}")


def check_offers(subject: Subject) -> None:
    """Check that a subscription of everything offered, alone and together, can be written."""
    for topic in subject.topics():
        frames = list(subject.prepared().encode(Subscribe((topic,))))
        if not frames and topic.kind != "account":
            raise Broken(f"offers {topic.kind}, but encode(Subscribe({topic})) writes nothing")
        list(subject.prepared().encode(Unsubscribe((topic,))))
    list(subject.prepared().encode(Subscribe(tuple(subject.topics()))))


def check_instruments(subject: Subject) -> None:
    """Check that instruments come where they are offered and nowhere else, each with terms that an order can meet."""
    offered = any(offer.kind == "instrument" for offer in subject.adapter.offers)
    found = list(instruments(subject))
    if offered and not found:
        raise Broken("offers instrument, but neither an answer nor a frame of the recording has one")
    for where, instrument in found:
        if not offered:
            raise Broken(f"{where}: an instrument, {instrument.symbol}, but offers no stream of them")
        for member in ("tick_size", "quantity_step", "contract_size"):
            if (value := getattr(instrument, member)) is not None and not Decimal(value) > 0:
                raise Broken(f"{where}: {member} of {instrument.symbol} is {value}; leave out what sets no limit")
        least, most = instrument.minimum_quantity, instrument.maximum_quantity
        if least is not None and most is not None and Decimal(least) > Decimal(most):
            raise Broken(f"{where}: {instrument.symbol} has a minimum_quantity {least} above its maximum {most}")


def instruments(subject: Subject) -> Iterator[tuple[str, Instrument]]:
    """Yield every instrument of the recording with its place, those of the answers to requests first."""
    for exchange in exchanges(subject, lists=True):
        yield from ((exchange.where, event) for event in exchange.read().events if isinstance(event, Instrument))
    for example, result in subject.results:
        yield from ((example.where, event) for event in result.events if isinstance(event, Instrument))


def check_commands(subject: Subject) -> None:
    """Check that every declared command can be written, and no decimal is rounded."""
    for command in subject.commands:
        frames = _written(subject, command)
        if not frames:
            raise Broken(f"declares {command.name}, but encode writes nothing for it")
        if getattr(command, "quantity", None) == QUANTITY and not any(_holds(frame, QUANTITY) for frame in frames):
            raise Broken(f"{command.name} of {QUANTITY} is written without that number: {frames!r:.400}")


def check_frames(subject: Subject) -> None:
    """Check that every written message is JSON if the provider speaks JSON."""
    if not subject.speaks_json():
        return
    topics = tuple(subject.topics())
    for outgoing in (Hello(), Subscribe(topics), Unsubscribe(topics), *subject.commands):
        for frame in _frames(subject, outgoing):
            if not is_json(frame):
                raise Broken(f"{type(outgoing).__name__}: not JSON, though the provider speaks JSON: {frame[:300]}")


def check_polls(subject: Subject) -> None:
    """Check that every poll has a name of its own, and JSON for a frame if the provider speaks JSON."""
    speaks_json = subject.speaks_json()
    yielded = [("encode(Reconcile)", item) for item in subject.prepared().encode(Reconcile())]
    yielded += [(example.where, item) for example, result in subject.results for item in result.items]
    requests: dict[Hashable, set[str]] = {}
    for where, item in yielded:
        if not isinstance(item, Poll):
            continue
        match item.request:
            case str() as frame if speaks_json and not is_json(frame):
                raise Broken(f"{where}: poll {item.name!r} is not JSON, though the provider speaks JSON: {frame[:300]}")
            case str(asked) | Fetch(url=asked):
                requests.setdefault(item.name, set()).add(asked)
    for name, several in requests.items():
        if len(several) > 1:
            raise Broken(f"poll {name!r} is the name of several requests, of which only one is made: {sorted(several)}")


def check_sought(subject: Subject) -> None:
    """Check that one order can be asked for where that is declared, and that no answer says so where it is not."""
    declared, id = subject.adapter.orders.sought, "order-1"
    asked = [item.request if isinstance(item, Poll) else item for item in subject.prepared().encode(Seek(id))]
    if declared and not any(id in repr(request) for request in asked):
        raise Broken(
            f"declares orders.sought, but encode(Seek({id!r})) writes no request for that order: {asked!r:.300}"
        )
    if asked and not declared:
        raise Broken("encode(Seek) writes a request, which is never asked for: orders.sought is not declared")
    for example, result in subject.results:
        if not declared and any(isinstance(item, Sought) for item in result.items):
            raise Broken(f"{example.where}: yields Sought, but orders.sought is not declared")


def _frames(subject: Subject, outgoing: Any) -> list[str]:
    return [frame for frame in subject.prepared().encode(outgoing) if isinstance(frame, str)]


def check_secrets(subject: Subject) -> None:
    """Check that no credential is in the repr of a request, a signal or the context."""
    adapter = subject.adapter(subject.context())
    recorded = subject.recording.answers()
    shown: list[tuple[str, object]] = [("the adapter", adapter), ("its context", adapter.context)]
    for fetch in adapter.prepare():
        shown += [("prepare()", fetch), ("the URL of a Fetch of prepare()", fetch.url)]
        answer = recorded_answer(recorded, fetch)
        if answer is not None:
            shown += [
                ("what fetched() yields", item) for item in subject.learn(adapter, adapter.fetched(fetch.tag, answer))
            ]
    for command in subject.commands:
        shown += [(f"encode({command.name})", written) for written in _written(subject, command)]
    secrets = {**adapter.context.credentials, **adapter.context.learned}
    for what, thing in shown:
        for name, secret in secrets.items():
            if secret and secret in repr(thing):
                raise Broken(f"{what} shows {name} in its repr: {type(thing).__name__}")


def _check_of(rule: Callable[[Subject], Iterator[str]]) -> Callable[[Subject], None]:
    """Return the check of a rule of `relay.testing.meaning`, which tells the first problems together."""

    def check(subject: Subject) -> None:
        if found := problems(subject, rule):
            raise Broken("\n".join(found))

    check.__name__, check.__doc__ = f"check_{rule.__name__}", rule.__doc__
    return check


#: The checks of what the events mean, by the name of their rule.
MEANING: dict[str, Callable[[Subject], None]] = {rule.__name__: _check_of(rule) for rule in (*RULES, *ACCOUNT_RULES)}

CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_examples, check_floats, check_prices, check_times, check_wire, check_mutations, check_answers, check_arbitrary,
    check_symbols,
    check_offers, check_instruments, check_commands, check_frames, check_polls, check_sought,
    check_secrets,
    *MEANING.values(),
)  # fmt: skip


def _written(subject: Subject, command: Command) -> list[str | Fetch]:
    adapter = subject.prepared()
    try:
        return [
            item for item in checked_writings(adapter.encode(command), adapter.session) if not isinstance(item, Poll)
        ]
    except Exception as error:
        raise Broken(f"declares {command.name}, but encode raised {error!r} over {command}") from error


def _holds(written: str | Fetch, quantity: str) -> bool:
    """Return True if a frame or request has exactly this number, in any spelling."""
    if isinstance(written, str):
        text = written
    else:
        body = msgspec.json.encode(written.json).decode()
        text = " ".join(
            (body, written.url, *map(str, written.query.values()), *map(str, (written.form or {}).values()))
        )
    return Decimal(quantity) in {Decimal(number) for number in Evidence(text).decimals}


def _check_type(where: str, item: object) -> None:
    if not isinstance(item, Event | Signal):
        raise Broken(f"{where}: yields a {type(item).__name__}, which is neither an event nor a signal")


def _check_decimals(subject: Subject, where: str, evidence: Evidence, result: Read) -> None:
    if "decimals" in subject.loose:
        return
    for event in result.events:
        for name, value in evidence.unfounded_decimals(event):
            raise Broken(f"{where}: {event.kind}.{name} = {value} stands nowhere in the message: {evidence.text[:300]}")


def _check_moments(subject: Subject, where: str, evidence: Evidence, result: Read) -> None:
    if "times" in subject.loose:
        return
    for event in result.events:
        for name, value in evidence.unfounded_times(event):
            raise Broken(f"{where}: {event.kind}.{name} = {value} stands nowhere in the message: {evidence.text[:300]}")


def _check_guesses(subject: Subject, where: str, original: Read, result: Read) -> None:
    """Check that a value that became something else has not turned a side or a state into another one.

    Where an element of a list cannot be read any more, those behind it move up, and are compared with what they were.
    """
    if "enums" in subject.loose:
        return
    befores = list(original.events)
    if len(result.events) < len(befores):
        left = iter(befores)
        befores = [_next_like(after, left) or at for at, after in zip(befores, result.events, strict=False)]
    for before, after in zip(befores, result.events, strict=False):
        if type(before) is not type(after):
            continue
        then = enums(before)
        for name, value in enums(after).items():
            if value is not None and value != then.get(name):
                raise Broken(
                    f"{where}: {after.kind}.{name} became {value}, nothing in the message says so: a guessed state"
                )


def _next_like(event: Event, left: Iterator[Event]) -> Event | None:
    """Return the next event with the same words as ``event``; None where no further one has them."""
    return next((each for each in left if type(each) is type(event) and enums(each) == enums(event)), None)


def _check_wire(where: str, event: Event) -> None:
    stamp = Stamp(provider="conformance", account=ACCOUNT, received_at=_RECEIVED)
    try:
        back = serialize.decode(serialize.encode(event, stamp, "1"))
    except (serialize.CodecError, TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise Broken(f"{where}: {event.kind} cannot be written as canonical JSON: {error!r}") from error
    for attribute in attrs.fields(type(event)):
        was, now = getattr(event, attribute.name), getattr(back.event, attribute.name)
        if attribute.name not in ("account", "data", "details", "result", "error") and was != now:
            raise Broken(f"{where}: {event.kind}.{attribute.name} is {was!r}, after canonical JSON {now!r}")


def _published(result: Read, states: States, now: float) -> Iterator[Event]:
    for item in result.items:
        partial = isinstance(item, Partial)
        state = item.state if isinstance(item, Partial) else item
        if isinstance(state, Order | Position | Account):
            news = states.news(state, ACCOUNT, now, compared=bool(state.reconciled), partial=partial)
            if state.event is not None:
                yield state
            elif news is not None:
                yield news
        elif isinstance(state, Event):
            yield state
        elif isinstance(state, Polled) and state.failed is not None:
            yield state.failed


# --- for tests -------------------------------------------------------------------------------------------------------


def tests(adapter: type[Adapter], fixture: Source | Recording, **settings: Any) -> Callable[..., None]:
    """Return a test function, parametrized over `CHECKS`, for pytest to collect. Settings are those of `subject`."""
    import pytest

    @cache
    def tested() -> Subject:
        return subject(adapter, fixture, **settings)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
    def conforms(check: Callable[[Subject], None]) -> None:
        check(tested())

    return conforms


def golden(of: Subject) -> Iterator[str]:
    """Yield every event of the examples as one line of canonical JSON, to be reviewed once and compared for ever.

    What happened to orders, positions and accounts is derived as a session does it.
    """
    count, states = 0, States()
    search = OrderSearch(states, ACCOUNT) if of.adapter.orders.sought else None
    for number, (example, _, result) in enumerate(of.walk(KnownStates(states, ACCOUNT))):
        if search is not None:
            poll = next((each.name for each in result.items if isinstance(each, Polled) and each.failed is None), None)
            result = Read(tuple(search.read(result.items, poll)))
        stamp = Stamp(provider=of.adapter.name, received_at=example.received_at)
        for event in _published(result, states, number):
            yield serialize.encode(event, stamp, f"{of.adapter.name}-{count}").decode()
            count += 1
