"""Kraken Futures market data: WebSocket API v1, https://docs.kraken.com/api/docs/futures-api/websocket/book.

Every message names its ``feed`` and its ``product_id``. Changes of a book come one level a message, numbered without holes.
"""

from collections.abc import Hashable, Iterable
from itertools import groupby
from typing import Any

from relay.adapter import (
    Adapter,
    Alive,
    Answer,
    Awaited,
    Book,
    Context,
    Fetch,
    Heartbeat,
    Nack,
    Offer,
    Outgoing,
    Rate,
    Sequence,
    Session,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import Numbers, besides, each, instruments, is_new, terms, tick_of, tradable
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Depth, Error, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

FEEDS = {"quote": "ticker", "public_trade": "trade", "depth": "book"}
KINDS = {feed: kind for kind, feed in FEEDS.items()} | {"ticker_lite": "quote"}
BTC = {"symbol": "PF_XBTUSD"}


def feed_of(topic: Topic) -> str:
    return FEEDS[topic.kind]


class KrakenFutures(Adapter):
    name = "kraken_futures"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
    )
    session = Session(
        url="wss://futures.kraken.com/ws/v1",
        http="https://futures.kraken.com",
        heartbeat=Heartbeat(every=30),  # closed after 60 s without a ping
        silent_after=75,
        ack_within=10,
        book=Book.DELTAS,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(Rate(100, of="frame"), Rate(100, of="dial")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.awaited = Awaited()
        self.told: Numbers = context.kept.setdefault("trades", {})

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="instruments", url="/derivatives/api/v3/instruments", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics):
                self.awaited.asked(outgoing)
                event = "subscribe" if isinstance(outgoing, Subscribe) else "unsubscribe"
                for feed, group in groupby(sorted(topics, key=feed_of), key=feed_of):
                    natives = [self.native(topic.symbol or "") for topic in group]
                    yield dumps({"event": event, "feed": feed, "product_ids": natives})

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {
                "event": "subscribed" | "unsubscribed" as event,
                "feed": str() as feed,
                "product_ids": list() as natives,
            }:
                yield self.awaited.accepted(self.topics(feed, natives), done=event == "subscribed")
            case {"event": "subscribed_failed", "feed": str() as feed, "product_ids": list() as natives}:
                yield Nack(self.awaited.accepted(self.topics(feed, natives)).topics, f"subscribed_failed: {feed}")
            case {"event": "unsubscribed_failed", "feed": str() as feed, "product_ids": list() as natives}:
                self.awaited.accepted(self.topics(feed, natives), done=False)
                yield Error(code="request", message=f"unsubscribed_failed: {feed} of {', '.join(natives)}")
            case {"feed": "book", "product_id": native, "side": side, "seq": seq, "price": price, "qty": size} as given:
                bids, asks = {"buy": ([(price, size)], []), "sell": ([], [(price, size)])}[side]
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=bids, asks=asks, snapshot=False,
                            last_seq=seq, timestamp=from_millis(given["timestamp"]))  # fmt: skip
            case {"feed": "book_snapshot", "product_id": native, "seq": seq, "bids": bids, "asks": asks} as given:
                bids, asks = ([(level["price"], level["qty"]) for level in side] for side in (bids, asks))
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=bids, asks=asks, snapshot=True,
                            last_seq=seq, timestamp=from_millis(given["timestamp"]))  # fmt: skip
            case {"feed": "ticker" | "ticker_lite", "product_id": _} as ticker:
                yield self.quote(ticker)
            case {"feed": "trade", "product_id": _} as trade:
                yield from self.trades([trade])
            case {"feed": "trade_snapshot", "trades": list() as trades}:
                yield from self.trades(trades)
            case {"event": "info" | "pong"} | {"feed": "heartbeat"}:
                yield Alive()
            case {"event": "error" | "alert", "message": str() as reason}:
                yield self.awaited.refused(reason)
            case other:
                yield Unknown(other)

    def topics(self, feed: str, natives: list[str]) -> tuple[Topic, ...]:
        return tuple(Topic(kind=KINDS[feed], symbol=self.symbol(native)) for native in natives)

    def quote(self, given: dict[str, Any]) -> Quote:
        native, time = given["product_id"], given.get("time")
        known = ("feed", "product_id", "bid", "bid_size", "ask", "ask_size", "last", "time")
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=given.get("bid"), ask=given.get("ask"),
                     bid_size=given.get("bid_size"), ask_size=given.get("ask_size"), last=given.get("last"),
                     time=None if time is None else from_millis(time), data=besides(given, *known))  # fmt: skip

    def trades(self, given: list[dict[str, Any]]) -> Iterable[Event | Signal]:
        """Yield the trades that were not yielded before: a subscription begins with the last 100, newest first."""
        yield from each(sorted(given, key=lambda trade: trade["seq"]), self.trade)

    def trade(self, given: dict[str, Any]) -> PublicTrade | None:
        native, known = given["product_id"], ("feed", "product_id", "uid", "price", "qty", "side", "time")
        if not is_new(self.told, native, given["seq"]):
            return None
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=given["uid"], price=given["price"],
                           quantity=given["qty"], side=Side(given["side"].upper()), time=from_millis(given["time"]),
                           data=besides(given, *known))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        if answer.ok:
            listed = loads(answer.text)["instruments"]
            natives = [raw["symbol"].upper() for raw in listed]
            yield Symbols([(native, native) for native in natives], complete=True)
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        native, status = given["symbol"].upper(), tradable(given.get("tradeable"))
        if status is TradingStatus.TRADING and given.get("postOnly") is True:
            status = TradingStatus.POST_ONLY
        return Instrument(symbol=native, native_symbol=native, base=given.get("base"), quote=given.get("quote"),
                          instrument_type=given.get("type"), status=status,
                          quantity_step=tick_of(given.get("contractValueTradePrecision")),
                          expires_at=given.get("lastTradingTime"),
                          **terms(given, tick_size="tickSize", contract_size="contractSize"))  # fmt: skip
