"""KuCoin spot market data: the public channels of the Classic API, https://www.kucoin.com/docs-new.

A token is fetched for each connection. Every push is ``{"type": "message", "topic": "/market/...:SYMBOL", "subject": ...,
"data": {...}}``. Changes of a book are numbered without holes; the whole book to join them with is fetched.
"""

from collections.abc import Hashable, Iterable
from itertools import groupby
from typing import Any

from relay.adapter import (
    Adapter,
    Alive,
    Answer,
    Book,
    Context,
    Fetch,
    Heartbeat,
    Learned,
    Offer,
    Option,
    Outgoing,
    Ping,
    Rate,
    Ready,
    Requests,
    Sequence,
    Session,
    Signal,
    Snapshot,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import besides, instruments, is_zero, quoted, terms, tradable
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis, from_nanos, from_seconds

FEEDS = {"quote": "/market/ticker", "public_trade": "/market/match", "candle": "/market/candles"}
BOOKS = {"50": "/spotMarket/level2Depth50", "full": "/market/level2"}
INTERVALS = {
    "1m": "1min", "3m": "3min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1hour", "2h": "2hour", "4h": "4hour",
    "6h": "6hour", "8h": "8hour", "12h": "12hour", "1d": "1day", "1w": "1week", "1mo": "1month",
}  # fmt: skip
TIMEFRAMES = {interval: timeframe for timeframe, interval in INTERVALS.items()}
BTC = {"symbol": "BTC/USDT"}
TERMS = {"tick_size": "priceIncrement", "quantity_step": "baseIncrement", "minimum_quantity": "baseMinSize",
         "maximum_quantity": "baseMaxSize", "minimum_notional": "minFunds"}  # fmt: skip


class KuCoin(Adapter):
    name = "kucoin"
    options = (
        Option("book", "50", choices=tuple(BOOKS), about="50: the best levels, whole; full: changes of the whole book"),
    )
    offers = (
        *(Offer(kind=each, example=BTC) for each in ("quote", "public_trade", "depth", "instrument")),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="{endpoint}?token={token}",
        http="https://api.kucoin.com",
        ready="signal",
        heartbeat=Heartbeat(every=15, frame=False),  # KuCoin asks for one in 18 s
        silent_after=40,
        ack_within=10,
        most_topics=300,
        book=Book.FETCHED,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(
            Rate(9, burst=90),  # 100 messages in 10 s
            Rate(30, per=60, of="dial"),
            Rate(20, burst=60, of="http"),  # 2,000 of weight in 30 s, a whole book weighs 3
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.feeds = FEEDS | {"depth": BOOKS[self.option("book")]}
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="token", method="POST", url="/api/v1/bullet-public")
        yield Fetch(tag="symbols", url="/api/v2/symbols", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics) as request:
                for feed, group in groupby(sorted(topics, key=self.feed_of), key=self.feed_of):
                    yield self.request(feed, type(request)(tuple(group)))
            case Ping():
                yield dumps({"id": str(self.requests.next_id()), "type": "ping"})
            case Snapshot(topic) if self.option("book") == "full":
                query = {"symbol": self.native(topic.symbol or "")}
                yield Fetch(tag=outgoing, url="/api/v3/market/orderbook/level2", query=query, cost=3)

    def request(self, feed: str, request: Subscribe | Unsubscribe) -> str:
        """Return a frame, which names one feed and up to 100 symbols."""
        names, id = ",".join(map(self.name_of, request.topics)), str(self.requests.next_id(request))
        verb = "subscribe" if isinstance(request, Subscribe) else "unsubscribe"
        return dumps({"id": id, "type": verb, "topic": f"{feed}:{names}", "response": True})

    def feed_of(self, topic: Topic) -> str:
        return self.feeds[topic.kind]

    def name_of(self, topic: Topic) -> str:
        native = self.native(topic.symbol or "")
        return native if topic.timeframe is None else f"{native}_{INTERVALS[topic.timeframe]}"

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"type": "message", "topic": str() as topic, "data": dict() as data}:
                feed, _, name = topic.rpartition(":")
                yield self.event(feed, name, data)
            case {"type": "welcome"}:
                yield Ready()
            case {"type": "pong"}:
                yield Alive()
            case {"type": "ack", "id": id}:
                yield self.requests.accepted(id)
            case {"type": "error", "code": code, "data": reason, **rest}:
                yield self.requests.refused(rest.get("id"), f"{reason} (code {code})")
            case other:
                yield Unknown(other)

    def event(self, feed: str, name: str, data: dict[str, Any]) -> Event:
        match feed:
            case "/market/ticker":
                return self.quote(name, data)
            case "/market/match":
                return self.trade(name, data)
            case "/market/candles":
                return self.candle(name, data)
            case "/market/level2":
                changes = {side: [level for level in data["changes"][side] if not is_zero(level[0])]
                           for side in ("bids", "asks")}  # a price of zero only moves the number on  # fmt: skip
                return Depth(symbol=self.symbol(name), native_symbol=name, **changes, snapshot=False,
                             first_seq=data["sequenceStart"], last_seq=data["sequenceEnd"],
                             timestamp=from_millis(data["time"]) if "time" in data else None)  # fmt: skip
            case "/spotMarket/level2Depth50":
                return Depth(symbol=self.symbol(name), native_symbol=name, bids=data["bids"], asks=data["asks"],
                             snapshot=True, timestamp=from_millis(data["timestamp"]))  # fmt: skip
        raise ValueError(f"no feed of ours: {feed}")

    def quote(self, name: str, data: dict[str, Any]) -> Quote:
        known = ("bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "time")
        bid, bid_size = quoted(data["bestBid"], data["bestBidSize"])
        ask, ask_size = quoted(data["bestAsk"], data["bestAskSize"])
        return Quote(symbol=self.symbol(name), native_symbol=name, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size,
                     last=data["price"], time=from_millis(data["time"]), data=besides(data, *known))  # fmt: skip

    def trade(self, name: str, data: dict[str, Any]) -> PublicTrade:
        known = ("tradeId", "price", "size", "side", "time", "symbol", "type")
        return PublicTrade(symbol=self.symbol(name), native_symbol=name, id=data["tradeId"], price=data["price"],
                           quantity=data["size"], side=Side(data["side"].upper()), time=from_nanos(data["time"]),
                           data=besides(data, *known))  # fmt: skip

    def candle(self, name: str, data: dict[str, Any]) -> Candle:
        native, _, interval = name.rpartition("_")
        start, opened, closed, high, low, volume, amount, *_ = data["candles"]
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=TIMEFRAMES[interval],
                      start=from_seconds(start), open=opened, high=high, low=low, close=closed, volume=volume,
                      timestamp=from_nanos(data["time"]), data={"amount": amount})  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if not answer.ok:
            return
        data = loads(answer.text)["data"]
        match tag:
            case Snapshot(topic):
                symbol = topic.symbol or ""
                yield Depth(symbol=symbol, native_symbol=self.native(symbol), bids=data["bids"], asks=data["asks"],
                            snapshot=True, last_seq=int(data["sequence"]), timestamp=from_millis(data["time"]))  # fmt: skip
            case "token":
                yield Learned({"token": data["token"], "endpoint": data["instanceServers"][0]["endpoint"]})
            case _:
                pairs = [(each["symbol"], f"{each['baseCurrency']}/{each['quoteCurrency']}") for each in data]
                yield Symbols(pairs, complete=True)
                yield from instruments(data, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        return Instrument(symbol=f"{given['baseCurrency']}/{given['quoteCurrency']}", native_symbol=given["symbol"],
                          base=given["baseCurrency"], quote=given["quoteCurrency"],
                          status=tradable(given.get("enableTrading")), **terms(given, **TERMS))  # fmt: skip
