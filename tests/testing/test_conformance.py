"""The kit must catch what it is for: one adapter for every fault an author can make."""

import pytest

from relay.adapter import (
    Ack,
    Adapter,
    CommandReply,
    Context,
    Fetch,
    Learned,
    Offer,
    Reconcile,
    Session,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import ListOrders, PlaceOrder
from relay.model.enums import Side
from relay.model.events import ProviderSignal, PublicTrade, Quote
from relay.testing import conformance
from relay.testing.conformance import Broken
from relay.testing.mutations import mutants, shape, swollen
from relay.testing.recording import Record, Recording

FRAMES = (
    '{"op":"quote","symbol":"btcusd","bid":65000.10,"ask":"65000.20","ts":1780315200123}',
    '{"op":"trade","symbol":"btcusd","price":65000.20,"size":1e-7,"side":"buy","ts":1780315200124}',
    '{"op":"trade","symbol":"btcusd","price":65000.10,"size":2,"side":"sell","ts":1780315200125}',
    '{"op":"news","text":"hello","weight":0.5}',
    '{"op":"subscribed","symbols":["btcusd"]}',
)
LOGIN = Record(t=0.5, dir="http", url="https://x.example/v1/login", method="POST", data='{"token":"learned-token-1"}')
OPEN = Record(t=90, dir="http", url="https://x.example/v1/open", data=f'{{"quotes":[{FRAMES[0]}],"next":"/more"}}')
MORE = Record(t=91, dir="http", url="https://x.example/v1/more", data='{"quotes":[]}')
FIXTURE = Recording((LOGIN, *(Record(t=1.0 + n, dir="in", data=text) for n, text in enumerate(FRAMES)), OPEN, MORE))


class Good(Adapter):
    """An adapter without a fault."""

    name = "good"
    session = Session(url="wss://x.example/v1")
    offers = (
        Offer(kind="quote", example={"symbol": "BTC/USD"}),
        Offer(kind="public_trade", example={"symbol": "BTC/USD"}),
    )
    commands = (PlaceOrder, ListOrders)
    credentials = ("password",)

    def __init__(self, context):
        super().__init__(context)
        self.symbols.add("btcusd", "BTC/USD")

    def prepare(self):
        yield Fetch(tag="login", method="POST", url="/login", json={"password": self.context.credentials["password"]})

    def fetched(self, tag, answer):
        body = loads(answer.text)
        match tag:
            case "login":
                yield Learned(body)
            case ("call", id):
                yield self.reply(id, answer, body)
            case "open":
                yield from (self.quote(each["symbol"], each) for each in body["quotes"])
                if "next" in body:
                    yield Fetch(tag="open", url=body["next"])

    def reply(self, id, answer, body):
        return CommandReply(id, body) if answer.ok else CommandReply(id, error=body)

    def encode(self, outgoing):
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics):
                op = "subscribe" if isinstance(outgoing, Subscribe) else "unsubscribe"
                yield dumps({"op": op, "symbols": [self.native(topic.symbol) for topic in topics]})
            case Reconcile():
                yield Fetch(tag="open", url="/open")
            case ListOrders(id=id):
                yield Fetch(tag=("call", id), url="/open")
            case PlaceOrder():
                yield dumps({"op": "order", "side": outgoing.side, "size": self.size(outgoing.quantity)})

    def size(self, quantity):
        return quantity

    def decode(self, message):
        match loads(message):
            case {"op": "quote", "symbol": str(name)} as quote:
                yield self.quote(name, quote)
            case {"op": "trade", "symbol": str(name)} as trade:
                yield PublicTrade(symbol=self.symbol(name), native_symbol=name, price=trade["price"], quantity=trade["size"],
                                  side=self.side(trade["side"]), time=self.time(trade["ts"]))  # fmt: skip
            case {"op": "news", "text": str(text), **rest}:
                yield ProviderSignal(symbol="news", name=text or "empty", data=rest)
            case {"op": "subscribed", "symbols": [*names]}:
                yield Ack(tuple(Topic(kind="quote", symbol=self.symbol(name)) for name in names))
            case other:
                yield Unknown(other)

    def quote(self, name, quote):
        return Quote(
            symbol=self.symbol(name),
            native_symbol=name,
            bid=quote.get("bid"),
            ask=quote.get("ask"),
            time=self.time(quote["ts"]),
        )

    def side(self, word):
        return {"buy": Side.BUY, "sell": Side.SELL}[word]

    def time(self, millis):
        from relay.model.text import from_millis

        return from_millis(millis)


class InventsLast(Good):
    def quote(self, name, quote):
        mid = (loads(str(quote.get("bid", 0)).replace(".", "")) + 1) // 2
        return Quote(
            symbol=self.symbol(name), bid=quote.get("bid"), ask=quote.get("ask"), last=mid, time=self.time(quote["ts"])
        )


class DefaultsToZero(Good):
    def quote(self, name, quote):
        return Quote(
            symbol=self.symbol(name), bid=quote.get("bid") or "0", ask=quote.get("ask"), time=self.time(quote["ts"])
        )


class AcceptsErrors(Good):
    def reply(self, id, answer, body):
        return CommandReply(id, body)


class AcceptsFailures(Good):
    def reply(self, id, answer, body):
        return CommandReply(id, body) if answer.status >= 500 else super().reply(id, answer, body)


class Shortens(Good):
    def quote(self, name, quote):
        given = {side: f"{quote[side]}"[:20] for side in ("bid", "ask") if quote.get(side) is not None}
        return super().quote(name, {**quote, **given})


class Digs(Good):
    def decode(self, message):
        if self.depth(loads(message)) > 200:
            raise SystemExit(1)
        return super().decode(message)

    def depth(self, value):
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(self.depth, items), default=0)


class CannotReadLists(Good):
    def fetched(self, tag, answer):
        if tag == "open" and "next" not in answer.text:
            raise KeyError("next")
        yield from super().fetched(tag, answer)


class MakesUpTime(Good):
    def time(self, millis):
        return super().time(millis if isinstance(millis, int) and millis > 0 else 1780315999999)


class GuessesSides(Good):
    def side(self, word):
        return Side.BUY if word == "buy" else Side.SELL


class KeepsFloats(Good):
    def decode(self, message):
        for item in super().decode(message):
            yield (
                ProviderSignal(symbol="news", name="n", data={"weight": [0.5]})
                if isinstance(item, ProviderSignal)
                else item
            )


class YieldsDicts(Good):
    def decode(self, message):
        yield from super().decode(message)
        yield {"price": 1}


class DoesNotUnderstand(Good):
    def decode(self, message):
        if '"news"' in message:
            yield Unknown(message, "what is news?")
        else:
            yield from super().decode(message)


class Raises(Good):
    def side(self, word):
        return {"buy": Side.BUY}[word]


class Exits(Good):
    def decode(self, message):
        items = list(super().decode(message))
        if any(isinstance(item, Unknown) for item in items):
            raise SystemExit(1)
        return items


class UnevenSymbols(Good):
    def symbol(self, native):
        return native.upper()


class WritesNothing(Good):
    def encode(self, outgoing):
        return () if isinstance(outgoing, Subscribe) else super().encode(outgoing)


class Rounds(Good):
    def size(self, quantity):
        return f"{int(quantity.partition('.')[0])}.12"


class CannotOrder(Good):
    def size(self, quantity):
        raise KeyError("lots")


class WritesText(Good):
    def encode(self, outgoing):
        for frame in super().encode(outgoing):
            yield f"SUB {frame}"


class ShowsPassword(Good):
    def prepare(self):
        yield Fetch(tag="login", url=f"/login?password={self.context.credentials['password']}")


class ShowsToken(Good):
    def fetched(self, tag, answer):
        yield from super().fetched(tag, answer)
        yield Unknown(answer.text)


class CannotBeWritten(Good):
    def decode(self, message):
        for item in super().decode(message):
            yield ProviderSignal(symbol="news", name="n", data=object()) if isinstance(item, ProviderSignal) else item


test_a_good_adapter_conforms = conformance.tests(Good, FIXTURE)


def checked(adapter, check):
    check(conformance.subject(adapter, FIXTURE))


@pytest.mark.parametrize(
    ("adapter", "check", "message"),
    [
        (InventsLast, conformance.check_prices, r"record 2: quote.last = \d+ stands nowhere"),
        (
            DefaultsToZero,
            conformance.check_mutations,
            r"record 2, (without bid|bid is null): quote.bid = 0 stands nowhere",
        ),
        (
            MakesUpTime,
            conformance.check_mutations,
            r"record 2, .*ts.*: quote.time = 2026-06-01T12:13:19.999Z stands nowhere",
        ),
        (
            DefaultsToZero,
            conformance.check_answers,
            r"Reconcile, answer to GET /open, .*bid.*: quote.bid = 0 stands nowhere",
        ),
        (
            AcceptsErrors,
            conformance.check_answers,
            r"command list_orders, answer to GET /open: with status 400 it accepts",
        ),
        (AcceptsFailures, conformance.check_answers, r"answer to GET /open: with status 500 it accepts"),
        (
            Shortens,
            conformance.check_mutations,
            r"(bid|ask) is 64 KiB of digits: quote.(bid|ask) = 1{20} stands nowhere",
        ),
        (
            CannotReadLists,
            conformance.check_answers,
            r"Reconcile, answer to GET /more: fetched raised KeyError\('next'\)",
        ),
        (GuessesSides, conformance.check_mutations, r"record 3, side is .*: public_trade.side became SELL.*guessed"),
        (KeepsFloats, conformance.check_floats, r"record 5: signal.data.weight\[0\] is the float 0.5"),
        (YieldsDicts, conformance.check_examples, r"record 2: yields a dict"),
        (DoesNotUnderstand, conformance.check_examples, r"record 5: not understood \(what is news\?\)"),
        (Raises, conformance.check_examples, r"record 4: decode raised KeyError\('sell'\)"),
        (UnevenSymbols, conformance.check_symbols, r"btcusd|BTC/USD"),
        (WritesNothing, conformance.check_offers, r"offers quote, but encode\(Subscribe.* writes nothing"),
        (Rounds, conformance.check_commands, r"place_order of 1234567.123456789012 is written without that number"),
        (CannotOrder, conformance.check_commands, r"declares place_order, but encode raised KeyError\('lots'\)"),
        (WritesText, conformance.check_frames, r"Subscribe: not JSON"),
        (ShowsPassword, conformance.check_secrets, r"prepare\(\) shows password in its repr: Fetch"),
        (ShowsToken, conformance.check_secrets, r"what fetched\(\) yields shows token in its repr: Unknown"),
        (CannotBeWritten, conformance.check_wire, r"record 5: signal cannot be written as canonical JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_fault_is_caught_and_named(adapter, check, message):
    with pytest.raises(Broken, match=message):
        checked(adapter, check)


@pytest.mark.parametrize("adapter", [Exits, Digs])
def test_what_a_session_does_not_survive_is_not_swallowed(adapter):
    with pytest.raises(SystemExit):
        checked(adapter, conformance.check_mutations)


def test_a_fixture_without_frames_proves_nothing():
    with pytest.raises(Broken, match="no received frame"):
        conformance.check_examples(conformance.subject(Good, Recording((LOGIN,))))


def test_loose_names_are_checked():
    with pytest.raises(ValueError, match="not prices"):
        conformance.subject(Good, FIXTURE, loose=["prices"])
    conformance.check_prices(conformance.subject(InventsLast, FIXTURE, loose=["decimals"]))


def test_arbitrary_text_can_be_given_by_hand():
    subject = conformance.subject(Good, FIXTURE)
    assert conformance.survive(subject, subject.prepared(), "{").error is not None
    with pytest.raises(Broken, match="stands nowhere"):
        conformance.survive(
            subject, DefaultsToZero(subject.context()), '{"op":"quote","symbol":"x","ts":1780315200123}'
        )


def test_golden_lines_are_canonical_events():
    lines = list(conformance.golden(conformance.subject(Good, FIXTURE)))
    assert len(lines) == 4
    assert '"price":"65000.20","quantity":"0.0000001"' in lines[1]


def test_a_frame_is_broken_in_every_way():
    ways = {mutant.what: mutant.text for mutant in mutants('{"a":[1.50,"x"],"side":"buy"}')}
    assert ways["without a.1"] == '{"a":[1.50],"side":"buy"}'
    assert ways["a.0 is the number 1e400"] == '{"a":[1e400,"x"],"side":"buy"}'
    assert ways["a with one more element"] == '{"a":[1.50,"x","~more~"],"side":"buy"}'
    assert ways["side is an unknown word"] == '{"a":[1.50,"x"],"side":"~unknown~"}'
    assert ways["truncated after 28 characters"] == '{"a":[1.50,"x"],"side":"buy"'
    assert {mutant.what for mutant in mutants('{"a":1,"side":"buy"}') if mutant.of_word} >= {"without side"}
    assert not any(mutant.of_word for mutant in mutants('{"a":1,"id":"order-1"}'))


def test_some_values_of_a_frame_swell_others_the_next_time():
    text = '{"a":[1.50],"side":"buy","b":2}'
    ways = {mutant.what: mutant.text for mutant in swollen(text, 1)}
    assert [what for what in ways if "text" in what] == [f"{where} is 64 KiB of text" for where in ("a.0", "side", "b")]
    assert next(swollen(text, 3)).what == "b is 64 KiB of text"
    assert len(ways["b is 64 KiB of digits"]) == len(text) - len("2") + len('""') + 64 * 1024
    assert loads(ways["a.0 is arrays nested deep"])["side"] == "buy"
    with pytest.raises(RecursionError):
        loads(ways["a.0 is nested deeper than JSON is read"])
    assert not [*swollen("hello", 0), *swollen("{}", 0), *swollen("1", 0)]


def test_frames_of_one_kind_have_one_shape():
    assert shape('{"op":"trade","price":1.5}') == shape('{"price":2.25,"op":"trade"}')
    assert shape('{"op":"trade","price":1.5}') != shape('{"op":"quote","price":1.5}')
    assert shape("hello 1.5") == shape("hello 2.5")


def test_secrets_are_kept_by_the_kit_s_own_context():
    context = conformance.subject(Good, FIXTURE).context()
    assert isinstance(context, Context)
    assert "secret-password" not in repr(context)
