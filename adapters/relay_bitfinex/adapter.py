"""Bitfinex market data: WebSocket API v2, https://docs.bitfinex.com/docs/ws-public, and the lists of pairs of REST.

After ``subscribed`` a channel is known by its number: ``[CHANNEL, DATA, SEQUENCE]``. With the flag ``SEQ_ALL`` all messages
of the connection are numbered without holes.
"""

from collections.abc import Hashable, Iterable
from functools import partial
from itertools import chain
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Book,
    Context,
    Fetch,
    Heartbeat,
    Hello,
    Nack,
    Offer,
    Outgoing,
    Ping,
    Rate,
    Redial,
    Send,
    Session,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import Numbers, each, instruments, is_new, named, row, unless_zero
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

CHANNELS = {"quote": "ticker", "public_trade": "trades", "depth": "book"}
KINDS = {channel: kind for kind, channel in CHANNELS.items()}
SAME = ("1m", "5m", "15m", "30m", "1h", "3h", "6h", "12h")
TIMEFRAMES = {name: name for name in SAME} | {"1D": "1d", "1W": "1w", "14D": "14d", "1M": "1mo"}
INTERVALS = {timeframe: interval for interval, timeframe in TIMEFRAMES.items()}
TICKER = ("bid", "bid_size", "ask", "ask_size", "change", "change_relative", "last", "volume", "high", "low")
BTC = {"symbol": "BTC/USD"}


def unsubscribe(number: int) -> str:
    return dumps({"event": "unsubscribe", "chanId": number})


def canonical(pair: str) -> str:
    return pair.replace(":", "/") if ":" in pair else f"{pair[:3]}/{pair[3:]}"


def instrument(pair: str, info: list[Any]) -> Instrument:
    """Return an instrument with the least and the greatest order, which are the fourth and the fifth of its info."""
    (base, _, quote), (least, most) = canonical(pair).partition("/"), (*info[3:5], None, None)[:2]
    return Instrument(symbol=f"{base}/{quote}", native_symbol=pair, base=base, quote=quote,
                      minimum_quantity=unless_zero(least), maximum_quantity=unless_zero(most))  # fmt: skip


class Bitfinex(Adapter):
    name = "bitfinex"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://api-pub.bitfinex.com/ws/2",
        http="https://api-pub.bitfinex.com",
        heartbeat=Heartbeat(every=20, frame=False),
        silent_after=50,
        ack_within=10,
        most_topics=25,
        most_connections=20,
        book=Book.DELTAS,
        limits=(Rate(20, per=60, of="dial"), Rate(30, per=60, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.channels: dict[int, tuple[Topic, str]] = {}  # the stream, and the pair as Bitfinex writes it
        self.last_sequence: int | None = None
        self.leaving: set[Topic] = set()  # those not wanted any more before their channel has its number
        self.told: Numbers = context.kept.setdefault("trades", {})

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="pairs", url="/v2/conf/pub:list:pair:exchange,pub:info:pair", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Hello():
                yield dumps({"event": "conf", "flags": 65536})  # SEQ_ALL
            case Subscribe(topics):
                self.leaving.difference_update(topics)
                yield from (dumps({"event": "subscribe", **self.request(topic)}) for topic in topics)
            case Unsubscribe(topics):
                numbers = {topic: number for number, (topic, _) in self.channels.items()}
                self.leaving.update(topic for topic in topics if topic not in numbers)
                yield from (unsubscribe(numbers[topic]) for topic in topics if topic in numbers)
            case Ping():
                yield dumps({"event": "ping"})

    def request(self, topic: Topic) -> dict[str, str]:
        symbol = f"t{self.native(topic.symbol or '')}"
        match topic.kind:
            case "candle":
                return {"channel": "candles", "key": f"trade:{INTERVALS[topic.timeframe or '']}:{symbol}"}
            case "depth":
                return {"channel": "book", "symbol": symbol, "prec": "P0", "freq": "F0", "len": "250"}
        return {"channel": CHANNELS[topic.kind], "symbol": symbol}

    def topic(self, given: dict[str, Any]) -> tuple[Topic, str]:
        """Return the stream of a ``subscribed`` or ``error`` message, and its pair."""
        if given["channel"] == "candles":
            _, interval, symbol = given["key"].split(":", 2)
            native, timeframe = symbol.removeprefix("t"), TIMEFRAMES[interval]
            return Topic(kind="candle", symbol=self.symbol(native), timeframe=timeframe), native
        native = given["symbol"].removeprefix("t")
        return Topic(kind=KINDS[given["channel"]], symbol=self.symbol(native)), native

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case [int() as number, *data, int() as sequence]:
                if self.last_sequence is not None and sequence != self.last_sequence + 1:
                    yield Redial(f"message {self.last_sequence + 1} is missing, {sequence} came")
                self.last_sequence = sequence
                yield from self.data(number, data)
            case {"event": "subscribed", "chanId": int() as number} as given:
                topic, _ = self.channels[number] = self.topic(given)
                yield Send(unsubscribe(number)) if topic in self.leaving else Ack((topic,))
                self.leaving.discard(topic)
            case {"event": "error", "code": 10301, "channel": _} as given:
                yield Ack(self.topic(given)[:1])  # it is subscribed already
            case {"event": "unsubscribed", "status": "OK", "chanId": int() as number}:
                yield Ack(self.channels.pop(number)[:1], done=False)
            case {"event": "error", "msg": str() as reason} as given:
                why = f"{reason} (code {given.get('code')})"
                yield Nack((self.topic(given)[0],), why) if "channel" in given else Error(code="request", message=why)
            case {"event": "info", "code": 20051 | 20060} | {"event": "info", "platform": {"status": 0}}:
                yield Redial("Bitfinex restarts its server, or maintains it")
            case {"event": "info" | "conf" | "pong"}:
                yield Alive()
            case other:
                yield Unknown(other)

    def data(self, number: int, data: list[Any]) -> Iterable[Event | Signal]:
        """Read what stands between the number of a channel and that of the message."""
        if data == ["hb"]:  # may come before the channel's "subscribed"
            yield Alive()
            return
        topic, native = self.channels[number]
        match topic.kind, data:
            case "quote", [list() as ticker]:
                yield self.quote(native, ticker)
            case "public_trade", ["te" | "tu", list() as trade]:
                yield from self.trades(native, [trade])
            case "public_trade", [list() as trades]:
                yield from self.trades(native, trades)
            case "depth", [[_, _, _] as level] if not isinstance(level[0], list):
                yield self.depth(native, [level], snapshot=False)
            case "depth", [list() as levels]:
                yield self.depth(native, levels, snapshot=True)
            case "candle", [list() as bars]:
                several = bars[::-1] if isinstance(bars[0], list) else [bars]  # the newest comes first
                yield from (self.candle(topic, native, bar) for bar in several)
            case _:
                yield Unknown(data)

    def quote(self, native: str, ticker: list[Any]) -> Quote:
        given = named(TICKER, ticker)  # its sizes are sums of the 25 best levels, and stay in the data
        taken = {name: given.pop(name) for name in ("bid", "ask", "last", "volume")}
        return Quote(symbol=self.symbol(native), native_symbol=native, **taken, data=given)

    def trades(self, native: str, trades: list[list[Any]]) -> Iterable[Event | Signal]:
        """Yield the new trades: the channel begins with the last 30, and ``tu`` repeats ``te``."""
        yield from each(sorted(row(trade, 4) for trade in trades), partial(self.trade, native))

    def trade(self, native: str, trade: list[Any]) -> PublicTrade | None:
        id, millis, amount, price = trade
        if not is_new(self.told, native, id):
            return None
        sold = str(amount).startswith("-")
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=str(id), price=price,
                           quantity=str(amount).removeprefix("-"), side=Side.SELL if sold else Side.BUY,
                           time=from_millis(millis))  # fmt: skip

    def depth(self, native: str, levels: list[list[Any]], *, snapshot: bool) -> Depth:
        """Yield the levels, each price, orders and amount: no orders remove it, and an amount below zero is an ask."""
        sides: dict[bool, list[tuple[Any, str]]] = {False: [], True: []}
        for price, orders, amount in (row(level, 3) for level in levels):
            text = str(amount)
            sides[text.startswith("-")].append((price, text.removeprefix("-") if orders else "0"))
        return Depth(symbol=self.symbol(native), native_symbol=native, bids=sides[False], asks=sides[True],
                     snapshot=snapshot)  # fmt: skip

    def candle(self, topic: Topic, native: str, bar: list[Any]) -> Candle:
        start, opened, closed, high, low, volume = row(bar, 6)
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=topic.timeframe or "",
                      start=from_millis(start), open=opened, high=high, low=low, close=closed, volume=volume)  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        """Learn the pairs: two names of three letters, or two names of any length with a colon between them."""
        if answer.ok:
            names, *infos = loads(answer.text)
            named = [pair for pair in names if ":" in pair or len(pair) == 6]
            yield Symbols([(pair, canonical(pair)) for pair in named])
            sizes = {pair: row(info, len(info)) for pair, info in chain.from_iterable(infos)}
            yield from instruments(named, lambda pair: instrument(pair, sizes.get(pair, [])))
