"""Checks of what an adapter's events mean, by what stands beside a value in its message and in the other messages.

A recording is read by a whole session once (`relay.testing.trial`), and the rules below look at what came of it. They
know no provider. They go by

- the provider's own names: a `Quote.bid` that stands in the message only as ``ask`` or ``bid_size`` is another value;
- arithmetic: the range of a candle or of the day, the one of two volumes that is the other one times the price;
- other messages: the book keeper's gaps and checksums, a trade at the best ask, which a buyer made, prices of one symbol
  that differ by factors, orders and their fills;
- the recording: the frames the client sent, and when.

A rule says something only where the recording proves it. Each message names the record, the line of the adapter that
yielded the event, and the field.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import msgspec
from attrs import Factory, define

from relay.adapter import Ack, Book, Outgoing, Subscribe, Unsubscribe, loads
from relay.model.enums import PositionSide, Side
from relay.model.events import Account, Candle, Depth, Event, Order, Position, PublicTrade, Quote, Trade
from relay.model.symbols import SymbolError
from relay.model.text import decimal_text, to_ns
from relay.provider.books import Levels
from relay.testing.evidence import Evidence
from relay.testing.subject import Subject, copies, read, session_of_books
from relay.testing.trial import Made, Report, topic_text, trial

#: Problems of one rule at most.
_MOST = 5
#: Events of one kind that are compared with their message.
_LOOKED_AT = 300
#: Values of an object that are in no event, when all of it was left out.
_ELEMENT = 3
#: Medians of the prices of a symbol differ by less; those of a price and a size seldom do.
_UNLIKE = 20


@define(eq=False)
class Readout:
    """The result of a recording read by a session."""

    report: Report = Factory(Report)
    made: list[Made] = Factory(list)
    by_text: dict[str, list[Made]] = Factory(lambda: defaultdict(list))

    def add(self, made: Made) -> None:
        self.made.append(made)
        self.by_text[made.text].append(made)

    def of(self, *kinds: type) -> Iterator[tuple[Any, Made]]:
        """Yield the events and signals of these classes."""
        return ((each.item, each) for each in self.made if isinstance(each.item, kinds))

    def of_text(self, text: str) -> list[Made]:
        """Return what a message was read as."""
        return self.by_text.get(text, [])

    def some(self, *kinds: type) -> Iterator[tuple[Any, Made]]:
        """Yield the first events of each of these classes."""
        seen: Counter[type] = Counter()
        for item, made in self.of(*kinds):
            seen[type(item)] += 1
            if seen[type(item)] <= _LOOKED_AT:
                yield item, made


_readings: WeakKeyDictionary[Subject, Readout] = WeakKeyDictionary()


def reading(of: Subject) -> Readout:
    """Return what a session reads of the recording; the same one for every rule."""
    if of not in _readings:
        found = Readout()
        found.report = trial(of, loses=False, made=found.add)
        _readings[of] = found
    return _readings[of]


def at(made: Made, field: str, why: str) -> str:
    return f"{made.where} (at {made.code}): {made.item.kind}.{field}: {why}: {made.text[:300]}"


# --- values of a message, and the names beside them ------------------------------------------------------------------


@attrs.frozen
class Leaf:
    """A scalar of a message: the names above it, and the words beside it."""

    value: str
    path: tuple[str, ...]
    container: int
    words: tuple[str, ...]
    level: int
    name: str = ""


@lru_cache(512)
def leaves(text: str) -> tuple[Leaf, ...]:
    """Return the scalars of a JSON message; of another one, nothing."""
    try:
        return tuple(_leaves(loads(text), (), [0], 0))
    except (msgspec.DecodeError, RecursionError):
        return ()


def _leaves(value: Any, path: tuple[str, ...], count: list[int], level: int) -> Iterator[Leaf]:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = loads(value)
        except msgspec.DecodeError:
            return
    if not isinstance(value, dict | list):
        return
    count[0] += 1
    own, pairs = count[0], list(value.items() if isinstance(value, dict) else ((None, item) for item in value))
    words = tuple(item.lower() for _, item in pairs if isinstance(item, str) and item.isalpha())
    for name, item in pairs:
        below = path if name is None else (*path, name)
        if isinstance(item, dict | list) or (isinstance(item, str) and item[:1] in ("{", "[")):
            yield from _leaves(item, below, count, level + 1)
        elif isinstance(item, str | int) and not isinstance(item, bool):
            yield Leaf(_canonical(item), below, own, words, level, name or "")


def _canonical(value: str | int) -> str:
    try:
        return decimal_text(value)
    except ValueError:
        return str(value)


def _found(text: str, value: str) -> list[Leaf]:
    return [leaf for leaf in leaves(text) if leaf.value == value or leaf.value == f"-{value}"]


_SIDES = {"buy": "bid", "bid": "bid", "bids": "bid", "sell": "ask", "ask": "ask", "asks": "ask"}
_SHORT = {"b": "bid", "bp": "bid", "bs": "bid", "bq": "bid", "a": "ask", "ap": "ask", "as": "ask", "aq": "ask"}


def _side(leaf: Leaf) -> str | None:
    """Return the side of the book that a value is of, by the nearest name or word that says so."""
    for name in reversed(leaf.path):
        low = name.lower()
        if "bid" in low or "ask" in low or low in _SHORT:
            return _SHORT.get(low) or ("bid" if "bid" in low else "ask")
    said = {_SIDES[word] for word in leaf.words if word in _SIDES}
    return said.pop() if len(said) == 1 else None


_MEANINGS = (
    ("size", re.compile(r"size|qty|quantity|amount|volume|^vol|vol$|sz$|contracts", re.IGNORECASE).search),
    ("price", re.compile(r"price|px$|^last$|^rate$", re.IGNORECASE).search),
    ("high", re.compile(r"^hp?$|^high|^max", re.IGNORECASE).search),
    ("low", re.compile(r"^lp?$|^low|^min", re.IGNORECASE).search),
    ("open", re.compile(r"^op?$|^open$|^open_?(price|24h)", re.IGNORECASE).search),
    ("close", re.compile(r"^c$|^close$|^close_?price", re.IGNORECASE).search),
)


def _meaning(name: str) -> str | None:
    if "bid" in name.lower() or "ask" in name.lower():
        # The lowest ask is no low.
        return "size" if _MEANINGS[0][1](name) else None
    return next((meaning for meaning, says in _MEANINGS if says(name)), None)


#: The meaning of a field, and the meanings that it does not have where the provider's name says one of them.
_CONTRARY = {
    "size": {"price", "high", "low", "open", "close"},
    "price": {"size", "high", "low"},
    "high": {"size", "low", "open", "close"},
    "low": {"size", "high", "open", "close"},
    "open": {"size", "high", "low", "close"},
    "close": {"size", "high", "low", "open"},
}
_FIELDS: dict[type[Event], dict[str, tuple[str, str | None]]] = {
    Quote: {
        "bid": ("price", "bid"), "ask": ("price", "ask"), "last": ("price", None),
        "bid_size": ("size", "bid"), "ask_size": ("size", "ask"), "volume": ("size", None),
    },
    PublicTrade: {"price": ("price", None), "quantity": ("size", None)},
    Trade: {"price": ("price", None), "quantity": ("size", None)},
    Order: {"quantity": ("size", None), "limit_price": ("price", None), "average_fill_price": ("price", None)},
    Position: {"quantity": ("size", None), "average_entry_price": ("price", None)},
    Account: {},
    Candle: {
        "open": ("open", None), "high": ("high", None), "low": ("low", None), "close": ("close", None),
        "volume": ("size", None),
    },
}  # fmt: skip


# --- the rules -------------------------------------------------------------------------------------------------------


def names(of: Subject) -> Iterator[str]:
    """A value stands in its message under a name that does not say the contrary of its field."""
    for event, made in reading(of).some(*_FIELDS):
        for field, (meaning, side) in _FIELDS[type(event)].items():
            value = getattr(event, field)
            if value is None or value == "0":
                continue
            found = _found(made.text, value)
            if side is not None and found and all(_side(leaf) not in (None, side) for leaf in found):
                yield at(made, field, f"{value} is of the other side, {found[0].path[-1]}")
            meant = [_meaning(leaf.name) for leaf in found]
            if meant and all(each in _CONTRARY[meaning] for each in meant):
                yield at(made, field, f"{value} is the provider's {'.'.join(found[0].path)}")
        if isinstance(event, Quote | PublicTrade | Candle):
            values = Counter(getattr(event, field) for field in _FIELDS[type(event)])
            for value, count in values.items():
                if value not in (None, "0") and count > len(_found(made.text, value)) > 0:
                    fields = [field for field in _FIELDS[type(event)] if getattr(event, field) == value]
                    yield at(made, ", ".join(fields), f"{value} stands in the message once")
    for depth, made in reading(of).some(Depth):
        for field, side in (("bids", "bid"), ("asks", "ask")):
            for price, size in getattr(depth, field)[:50]:
                found = _found(made.text, price)
                if found and all(_side(leaf) not in (None, side) for leaf in found):
                    yield at(made, field, f"{price} is of the other side")
                if found and size != "0" and all(_meaning(leaf.name) == "size" for leaf in found):
                    yield at(made, field, f"the price {price} is the provider's {found[0].name}")


def sides(of: Subject) -> Iterator[str]:
    """A trade has the side of its taker: its word, or, where they say another, the best prices when it was made."""
    contrary: list[str] = []
    agree = 0
    for trade, made, bid, ask in _priced(of):
        price = Decimal(trade.price)
        by_price = None
        if bid is not None and ask is not None and bid < ask:
            by_price = Side.BUY if price >= ask else Side.SELL if price <= bid else None
        if by_price is trade.side:
            agree += 1
        elif by_price is not None:
            contrary.append(at(made, "side", f"{trade.side} at {trade.price}, with {bid} bid and {ask} ask"))
    if len(contrary) > agree:
        yield from contrary
        return
    is_proved = agree > len(contrary)
    for trade, made in reading(of).of(PublicTrade):
        said = {_side(leaf) for leaf in _found(made.text, trade.price) if leaf.words} - {None}
        signed = {leaf.value.startswith("-") for leaf in _found(made.text, trade.quantity)}
        told = {"bid": Side.BUY, "ask": Side.SELL}[str(said.pop())] if len(said) == 1 else None
        if signed == {True}:
            told = Side.SELL
        if told is not None and trade.side is not None and told is not trade.side and not is_proved:
            yield at(made, "side", f"{trade.side}, but the message says {told}, and no price proves the contrary")
    for event, made in reading(of).of(Trade, Order):
        words = {word for leaf in leaves(made.text) if leaf.value == event.id for word in leaf.words} & {"buy", "sell"}
        if len(words) == 1 and (said_word := words.pop().upper()) != event.side:
            yield at(made, "side", f"{event.side}, but the message says {said_word}")
    for position, made in reading(of).of(Position):
        words = {word for leaf in leaves(made.text) if leaf.value == position.id for word in leaf.words} & _HELD.keys()
        told_sides = {_HELD[word] for word in words}
        if len(told_sides) == 1 and position.side is not None and position.side not in told_sides:
            yield at(made, "side", f"{position.side}, but the message says {words.pop()}")


_HELD = {
    "buy": PositionSide.LONG, "long": PositionSide.LONG, "sell": PositionSide.SHORT, "short": PositionSide.SHORT,
}  # fmt: skip


def _priced(of: Subject) -> Iterator[tuple[PublicTrade, Made, Decimal | None, Decimal | None]]:
    """Yield the public trades that have a side, with the best prices of their symbol when they came."""
    best: dict[str, tuple[Decimal, Decimal]] = {}
    books: dict[str, tuple[Levels, Levels]] = {}
    waiting: list[tuple[PublicTrade, Made]] = []
    for event, made in reading(of).of(Quote, Depth, PublicTrade):
        match event:
            case Quote(bid=str() as bid, ask=str() as ask):
                best[event.symbol] = Decimal(bid), Decimal(ask)
            case Depth():
                if event.snapshot:
                    books[event.symbol] = Levels(descending=True), Levels(descending=False)
                if event.symbol in books:
                    bids, asks = books[event.symbol]
                    bids.apply(event.bids)
                    asks.apply(event.asks)
                    best.pop(event.symbol, None)
                    if (top := bids.best(1)) and (low := asks.best(1)):
                        best[event.symbol] = Decimal(top[0][0]), Decimal(low[0][0])
            case PublicTrade() if event.side is not None:
                if event.symbol not in best:
                    waiting.append((event, made))
                else:
                    yield event, made, *best[event.symbol]
    for trade, made in waiting:
        yield trade, made, *best.get(trade.symbol, (None, None))


def ranges(of: Subject) -> Iterator[str]:
    """Prices keep to their range: of a candle, of the day; bids below asks; the prices of a symbol are alike."""
    crossed, quotes = [], 0
    now: dict[str, set[str]] = defaultdict(set)
    for event, _ in reading(of).some(Quote, PublicTrade):
        now[event.symbol] |= {str(getattr(event, "last", None)), str(getattr(event, "price", None))}
    for event, made in reading(of).of(Quote, Candle):
        if isinstance(event, Candle):
            low, high, inner = Decimal(event.low), Decimal(event.high), (Decimal(event.open), Decimal(event.close))
            if not low <= min(inner) <= max(inner) <= high:
                yield at(made, "high", f"open and close leave the range from {low} to {high}")
            if event.open in now[event.symbol] and event.close not in now[event.symbol] and event.closed is not True:
                yield at(made, "close", f"the symbol's price is {event.open}, which is said to be the open")
            continue
        if event.bid is not None and event.ask is not None:
            quotes += 1
            if Decimal(event.bid) > Decimal(event.ask):
                crossed.append(at(made, "bid", f"{event.bid} is above the ask {event.ask}"))
        if event.last is not None:
            day = {way: _day(made.text, way) for way in ("high", "low")}
            if day["high"] and day["low"] and not min(day["low"]) <= Decimal(event.last) <= max(day["high"]):
                yield at(made, "last", f"{event.last} is outside the day's range")
    if 2 * len(crossed) > quotes:
        yield from crossed
    yield from _unlike(of)


def _day(text: str, way: str) -> list[Decimal]:
    """Return the highest or lowest prices of the day by their names."""
    named = [leaf for leaf in leaves(text) if leaf.path and (way in leaf.path[-1].lower() or leaf.path[-1] == way[0])]
    return [Decimal(leaf.value) for leaf in named if _is_number(leaf.value) and leaf.value != "0"]


def _unlike(of: Subject) -> Iterator[str]:
    """Prices of a symbol by field, when their medians differ much: one is no price."""
    prices: dict[str, dict[str, list[Decimal]]] = defaultdict(lambda: defaultdict(list))
    last: dict[tuple[str, str], Made] = {}
    for event, made in reading(of).of(Quote, PublicTrade, Candle, Depth):
        fields = ("bid", "ask", "last", "price", "open", "close")
        told = {f"{event.kind}.{name}": getattr(event, name, None) for name in fields}
        if isinstance(event, Depth):
            told = {f"depth.{side}": getattr(event, side)[0][0] for side in ("bids", "asks") if getattr(event, side)}
        for name, price in told.items():
            if price is not None and Decimal(price) > 0:
                prices[event.symbol][name].append(Decimal(price))
                last[event.symbol, name] = made
    for symbol, by_field in prices.items():
        middles = {name: median(several) for name, several in by_field.items()}
        usual = median(middles.values())
        for name, middle in middles.items():
            if len(middles) > 1 and usual > 0 and not usual / _UNLIKE < middle < usual * _UNLIKE:
                yield at(
                    last[symbol, name], name.partition(".")[2], f"{middle} is no price of {symbol}: others are {usual}"
                )


def volumes(of: Subject) -> Iterator[str]:
    """Of two volumes of which one is the other times the price, the event has the one in base currency."""
    found: dict[str, list[str]] = defaultdict(list)
    count = Counter[str]()
    for event, made in reading(of).some(Quote, Candle):
        price = Decimal(getattr(event, "last", None) or getattr(event, "close", None) or 1)
        if event.volume is not None and not Decimal("0.5") < price < 2 and price > 0:
            count[event.kind] += 1
            if (base := _base_volume(made.text, event.volume, price)) is not None:
                why = f"{event.volume} is {base} times the price: it is not in base currency"
                found[event.kind].append(at(made, "volume", why))
    for kind, several in found.items():
        if 2 * len(several) > count[kind]:
            yield from several


def _base_volume(text: str, volume: str, price: Decimal) -> str | None:
    """Return the volume beside ``volume`` that is a price times smaller."""
    own, mine = {leaf.container for leaf in _found(text, volume)}, Decimal(volume)
    for leaf in leaves(text):
        named = not leaf.name or leaf.name in ("v", "q", "a") or _meaning(leaf.name) == "size"
        times = Decimal(leaf.value) * price / mine if leaf.container in own and _is_number(leaf.value) and mine else 0
        if named and Decimal("0.8") < times < Decimal("1.25"):
            return leaf.value
    return None


def _is_number(value: str) -> bool:
    return value.lstrip("-").replace(".", "", 1).isdigit()


def moments(of: Subject) -> Iterator[str]:
    """Times lie in the recording's span where a member of their message does, and one that a message has is told."""
    records = of.recording.records
    if not records or records[0].t < _FIRST_TIME:
        return
    earliest, latest = int(records[0].t * 1e9) - _DAY, int(records[-1].t * 1e9) + _DAY
    outside: dict[str, list[tuple[str, Made, str]]] = defaultdict(list)
    inside, told, untold = set(), set(), dict[str, Made]()
    for event, made in reading(of).of(Event):
        for field in _TIMES:
            value = getattr(event, field, None)
            if value is None:
                continue
            place, ns = f"{event.kind}.{field}", to_ns(value)
            if earliest <= ns <= latest:
                inside.add(place)
            elif ns > latest or ns < _FIRST_TIME * 10**9:
                yield at(made, field, f"{value} is outside of the recording's time")
            elif field in ("time", "timestamp") and made.streamed and _has_time(made.text, earliest, latest):
                outside[place].append((field, made, value))
        if isinstance(event, Quote | PublicTrade | Depth) and made.streamed:
            if event.timestamp is not None:
                told.add(event.kind)
            elif _has_time(made.text, earliest, latest):
                untold.setdefault(event.kind, made)
    for place, several in outside.items():
        if place not in inside:
            field, made, value = several[0]
            yield at(made, field, f"{value} is outside of the recording's time, another member is not")
    for kind, made in untold.items():
        if kind not in told:
            yield at(made, "timestamp", "no event of this kind has the time that its message has")


_TIMES = ("timestamp", "time", "updated_at", "created_at", "opened_at", "start")
_DAY = 86_400 * 10**9
#: Unix seconds of 2001-09-09. An earlier time was read in another unit.
_FIRST_TIME = 1_000_000_000
_named_time = re.compile(r"^(t|ts|e|end)$|time|date|ms$", re.IGNORECASE).search


def _has_time(text: str, earliest: int, latest: int) -> bool:
    """Return True if a member that is named as a time is one in this span; whole seconds are too coarse to be missed."""
    named = (leaf for leaf in leaves(text) if (not leaf.name or _named_time(leaf.name)) and len(leaf.value) > 10)
    return any(earliest <= ns <= latest for leaf in named for ns in Evidence(leaf.value).moments)


def books(of: Subject) -> Iterator[str]:
    """The book keeper joins and keeps every book: numbers chain, checksums are equal, nothing is crossed."""
    report, session = reading(of).report, session_of_books(of.adapter)
    depths = list(reading(of).of(Depth))
    if not depths:
        return
    last = depths[-1][1]
    for gap in report.gaps:
        if "sequence numbers" in gap or "checksum" in gap:
            yield f"{gap} (at {last.code}): depth.first_seq, last_seq and checksum: the book keeper finds a gap"
    if report.checksums["different"]:
        yield at(
            last,
            "checksum",
            f"{report.checksums['different']} differ from the function's, {report.checksums['equal']} are equal",
        )
    for crossed in report.crossed:
        if crossed.startswith("book"):
            yield at(last, "bids", f"the {crossed} is crossed")
    deltas = [(depth, made) for depth, made in depths if not depth.snapshot]
    whole = [(depth, made) for depth, made in depths if depth.snapshot]
    for depth, made in whole:
        if any(size == "0" for _, size in (*depth.bids, *depth.asks)):
            yield at(made, "snapshot", "a whole book has no level of size 0: this is a delta")
    if session.book is Book.NONE:
        yield at(last, "snapshot", "the session declares no book")
    elif session.book is Book.SNAPSHOTS and deltas:
        yield at(deltas[0][1], "snapshot", "a delta, but the session declares Book.SNAPSHOTS")
    elif session.book is not Book.SNAPSHOTS and not deltas and len(whole) > 1:
        yield at(last, "snapshot", f"all are said to be whole books, but the session declares {session.book}")
    elif session.book is not Book.SNAPSHOTS and not whole:
        yield at(last, "snapshot", "no whole book ever comes, so that no delta is published")
    yield from _numbers(of, depths, deltas)
    yield from _deletes(depths)


_numbered = re.compile(r"^(u|seq|sequence\w*|last_?update_?id|change_?id|seq_?id)$", re.IGNORECASE).search


def _numbers(of: Subject, depths: list[tuple[Depth, Made]], deltas: list[tuple[Depth, Made]]) -> Iterator[str]:
    bare = [made for depth, made in deltas if depth.last_seq is None]
    if bare and session_of_books(of.adapter).sequence.scope == "topic":
        yield at(bare[0], "last_seq", "the session declares numbers, this delta has none")
    elif bare and len(bare) == len(deltas) and any(_numbered(leaf.name) for leaf in leaves(bare[0].text)):
        yield at(bare[0], "last_seq", "the message has a number, no delta has")
    whole = [made for depth, made in depths if depth.snapshot and not made.streamed and depth.last_seq is None]
    if whole and session_of_books(of.adapter).sequence.scope == "topic":
        yield at(whole[0], "last_seq", "the session declares numbers, this whole book has none to join deltas by")
    if deltas and not bare and session_of_books(of.adapter).sequence.scope == "none":
        yield at(deltas[0][1], "last_seq", "deltas are numbered, but the session declares no Sequence")


def _deletes(depths: list[tuple[Depth, Made]]) -> Iterator[str]:
    """Deletes that delete nothing, when they all do: prices are written otherwise, or of the other side."""
    held: dict[str, tuple[set[Decimal], set[Decimal]]] = {}
    nothing, something = [], 0
    for depth, made in depths:
        if depth.snapshot:
            held[depth.symbol] = set(), set()
        if depth.symbol not in held:
            continue
        for side, levels in zip(held[depth.symbol], (depth.bids, depth.asks), strict=True):
            for price, size in levels:
                if Decimal(size):
                    side.add(Decimal(price))
                elif Decimal(price) in side:
                    side.discard(Decimal(price))
                    something += 1
                else:
                    nothing.append(
                        at(
                            made,
                            "bids" if side is held[depth.symbol][0] else "asks",
                            f"deletes {price}, which is not there",
                        )
                    )
    if nothing and not something:
        yield from nothing


def acknowledgements(of: Subject) -> Iterator[str]:
    """An acknowledgement that is declared is read, and the end of a subscription is not taken for one."""
    heard = reading(of)
    if of.adapter.session.ack_within is not None and not any(ack.topics for ack, _ in heard.of(Ack)):
        yield f"{of.name}: session.ack_within is declared, but no Ack names a topic: subscriptions are repeated for ever"
    for ack, made in heard.of(Ack):
        if any(_is_request_id(leaf.name) for leaf in leaves(made.text)):
            continue  # the request of this number may be another one here
        text, said = made.text.lower(), f"{made.where} (at {made.code}): Ack.done"
        ends = "unsub" in text
        if ack.done and ends and "subscri" not in text.replace("unsubscri", ""):
            yield f"{said}: the message is about the end of a subscription: {made.text[:200]}"
        if not ack.done and not ends and "subscri" in text:
            yield f"{said} is False, but the message is about a subscription: {made.text[:200]}"


_is_request_id = re.compile(r"^(id|req_?id|request_?id)$", re.IGNORECASE).search


def requests(of: Subject) -> Iterator[str]:
    """A subscription's end is written, and differs from its beginning; frames have the members of those recorded."""
    ends, numbered = _ends(of)
    recorded = [_names(record.data) for record in of.recording.records if record.dir == "out"]
    kinds = {event.kind for event, _ in reading(of).of(Event)}
    for topic in of.topics():
        starts = _written(of, Subscribe(topic_only := (topic,)))
        if not starts or topic.kind == "account":
            continue
        stops = ends.get(topic.kind) or _written(of, Unsubscribe(topic_only), after=Subscribe(topic_only))
        for name, frames in (("Subscribe", starts), ("Unsubscribe", stops)):
            for frame in frames if topic.kind in kinds else ():
                if (unlike := _unlike_recorded(_names(frame), recorded)) is not None:
                    yield f"encode({name}) of {topic_text(topic)}: {unlike}: {frame[:200]}"
        if not stops and numbered:
            continue  # acknowledgements have what ends a stream, and the recording has none of this kind
        if not stops:
            yield f"encode(Unsubscribe) of {topic_text(topic)} writes nothing, though Subscribe does"
        elif _numberless(stops) == _numberless(starts):
            yield f"encode(Unsubscribe) of {topic_text(topic)} writes what Subscribe writes: {stops[0][:200]}"


def _names(frame: str | bytes) -> frozenset[str]:
    """Return the names of the members of a JSON frame, at any depth."""
    try:
        found = [loads(frame)]
    except ValueError:
        return frozenset()
    names: set[str] = set()
    while found:
        value = found.pop()
        if isinstance(value, dict):
            names |= value.keys()
        found += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset(names)


def _unlike_recorded(names: frozenset[str], recorded: list[frozenset[str]]) -> str | None:
    """Return how a frame differs from the recorded one that is most like it; None if it may have members beside these.

    A member that no client has sent is another option, unless one that the like frame has is missing: then it is misspelt.
    """
    new = names.difference(*recorded)
    like = max(recorded, key=lambda each: (len(each & names), -len(each)), default=frozenset[str]())
    if not new or not (gone := like - names):
        return None
    return f"no recorded frame has the member {min(new)}, and the one most like it has {min(gone)}"


def _written(of: Subject, request: Outgoing, *, after: Outgoing | None = None) -> list[str]:
    adapter = of.prepared()
    if after is not None:
        list(adapter.encode(after))
    return [frame for frame in adapter.encode(request) if isinstance(frame, str)]


def _ends(of: Subject) -> tuple[dict[str, list[str]], bool]:
    """Return what ends an acknowledged subscription, by kind, and if that can only be written after the acknowledgement."""
    found: dict[str, list[str]] = {}
    numbered = False
    adapter = of.prepared()
    for example in of.examples():
        for ack in read(adapter, example.text).items:
            if isinstance(ack, Ack) and ack.done:
                for topic in ack.topics:
                    if topic.kind not in found:
                        end = Unsubscribe((topic,))
                        if frames := [each for each in copies(adapter)().encode(end) if isinstance(each, str)]:
                            found[topic.kind] = frames
                            numbered = numbered or not _written(of, end)
    return found, numbered


def _numberless(frames: Iterable[str]) -> list[str]:
    return [re.sub(r'"?\b\d+\b"?', "0", frame) for frame in frames]


def natives(of: Subject) -> Iterator[str]:
    """Events have the canonical symbol, known to the adapter, and frames the provider's own."""
    adapter = of.prepared()
    known = dict(adapter.symbols)
    for event, made in reading(of).of(Event):
        symbol = getattr(event, "symbol", None)
        if symbol is None or not made.streamed:
            continue
        if symbol in known and known[symbol] != symbol:
            yield at(made, "symbol", f"{symbol} is the provider's own name of {known[symbol]}")
        elif adapter.symbols.complete:
            try:
                adapter.native(symbol)
            except SymbolError as error:
                yield at(made, "symbol", f"the adapter's complete list refuses it: {error}")
    for topic in of.topics():
        if topic.symbol is None or topic.kind == "account":
            continue
        native = next((name for name, canonical in known.items() if canonical == topic.symbol), None)
        frames = _written(of, Subscribe((topic,)))
        if native is None or native == topic.symbol or not frames:
            continue
        if any(topic.symbol.lower() in frame.lower() and native.lower() not in frame.lower() for frame in frames):
            yield f"encode(Subscribe) of {topic_text(topic)} writes the canonical symbol, not {native}: {frames[0][:200]}"


def members(of: Subject) -> Iterator[str]:
    """The numbers and ids beside those of an event are in it, and so is every element of an array."""
    by_text: dict[str, list[tuple[Any, Made]]] = defaultdict(list)
    for event, made in reading(of).some(*_FIELDS, Depth):
        by_text[made.text].append((event, made))
    for text, several in by_text.items():
        told = _Told(repr([each.item for each in reading(of).of_text(text)]))
        made = several[0][1]
        if all(isinstance(event, Depth) for event, _ in several):
            if (lost := _lost_row([event for event, _ in several], text)) is not None:
                yield at(made, "bids, asks", f"{lost} of the message is not in it")
            continue
        # Money and positions stand beside the ids and names of their account, which the event's channel tells.
        is_state = all(isinstance(event, Account | Position) for event, _ in several)
        used = Counter(leaf.container for leaf in leaves(text) if told.has(leaf))
        left_out: dict[int, list[Leaf]] = defaultdict(list)
        for leaf in leaves(text):
            if (
                used[leaf.container] > 2
                and _is_worth(leaf)
                and not told.has(leaf)
                and (not is_state or "." in leaf.value)
            ):
                left_out[leaf.container].append(leaf)
        is_past = any(leaf.value == "snapshot" for leaf in leaves(text))
        for each in left_out.values():
            # Of the past that a stream begins with, elements may be left out as a whole.
            if not is_past or len(each) < _ELEMENT:
                yield at(made, "data", f"{'.'.join(each[0].path)} = {each[0].value} is in no event")


def _lost_row(depths: list[Depth], text: str) -> str | None:
    """Return the first price of a level that no event has."""
    prices = {price for depth in depths for price, _ in (*depth.bids, *depth.asks)}
    rows: dict[int, list[Leaf]] = defaultdict(list)
    for leaf in leaves(text):
        if _is_number(leaf.value):
            rows[leaf.container].append(leaf)
    used = {(row[0].level, row[0].path[:-1]) for row in rows.values() if any(leaf.value in prices for leaf in row)}
    for row in rows.values():
        is_level = (row[0].level, row[0].path[:-1]) in used and len(row) > 1 and row[0].value != "0"
        if is_level and not any(leaf.value in prices for leaf in row):
            return row[0].value
    return None


#: Members that say what a message is about: its kind, stream and account are told by the event itself.
_about = re.compile(r"^(e|ty)$|type|event|channel|topic|stream|interval|account", re.IGNORECASE).search


def _is_worth(leaf: Leaf) -> bool:
    """Return True if a value is one to keep: a number or an id; words are kinds, states and sides."""
    return bool(re.search(r"[1-9]", leaf.value)) and not _about(leaf.name)


class _Told:
    """The values that events and signals have."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._words = set(re.findall(r"[A-Za-z0-9.]+", said))
        self._evidence = Evidence(said)
        moments = self._evidence.moments
        self._millis = {ns // 10**6 for ns in moments}
        self._days = {ns // _DAY for ns in moments}

    def has(self, leaf: Leaf) -> bool:
        """Return True if a value is told: as it is, as a number, or as a time; a bar's end is told by its start."""
        text = leaf.value
        if text in self._words or (not text.isalnum() and text in self._said):
            return True
        mine = Evidence(text)
        if mine.decimals & self._evidence.decimals:
            return True
        times = [ns for ns in mine.moments if ns > _FIRST_TIME * 10**9]
        is_time = _named_time(leaf.name) and any(ns // _DAY in self._days for ns in times)
        return bool(is_time) or any(ns // 10**6 in self._millis for ns in times)


RULES: tuple[Callable[[Subject], Iterator[str]], ...] = (
    names, sides, ranges, volumes, moments, members, books, acknowledgements, requests, natives,
)  # fmt: skip


def problems(of: Subject, rule: Callable[[Subject], Iterator[str]]) -> list[str]:
    """Return the first problems that a rule finds."""
    found = []
    for each in rule(of):
        found.append(each)
        if len(found) >= _MOST:
            break
    return found
