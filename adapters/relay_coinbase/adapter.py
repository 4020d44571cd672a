"""Coinbase Exchange market data: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels, and the products of REST.

Every message names its ``type`` and its ``product_id``. ``subscriptions`` answers each request with everything that is
subscribed by then. Changes of a book are not numbered.
"""

from collections.abc import Hashable, Iterable
from itertools import groupby
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
    Nack,
    Offer,
    Outgoing,
    Rate,
    Session,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import besides, newer, quoted
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Depth, Error, Event, PublicTrade, Quote

CHANNELS = {"quote": "ticker", "public_trade": "matches", "depth": "level2_batch"}
KINDS = {channel: kind for kind, channel in CHANNELS.items()} | {"level2": "depth", "level2_50": "depth"}
#: ``side`` of a match is the maker's; the event has the taker's.
TAKER = {"buy": Side.SELL, "sell": Side.BUY}
BTC = {"symbol": "BTC/USD"}


def channel_of(topic: Topic) -> str:
    return CHANNELS[topic.kind]


class Coinbase(Adapter):
    name = "coinbase"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
    )
    session = Session(
        url="wss://ws-feed.exchange.coinbase.com",
        http="https://api.exchange.coinbase.com",
        heartbeat=Heartbeat(every=30),
        silent_after=75,
        ack_within=10,
        book=Book.DELTAS,
        on_interest=True,  # closed without a subscription within 5 s
        limits=(Rate(8, burst=20), Rate(8, burst=20, of="dial"), Rate(10, burst=15, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.waiting: dict[Topic, None] = {}
        self.leaving: dict[Topic, None] = {}
        self.told: dict[str, int] = context.kept.setdefault("trades", {})

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="products", url="/products", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics):
                self.waiting |= dict.fromkeys(topics)
                yield from self.requests("subscribe", topics)
            case Unsubscribe(topics):
                self.leaving |= dict.fromkeys(topics)
                yield from self.requests("unsubscribe", topics)

    def requests(self, type: str, topics: tuple[Topic, ...]) -> Iterable[str]:
        for channel, group in groupby(sorted(topics, key=channel_of), key=channel_of):
            yield dumps({"type": type, "product_ids": [self.native(each.symbol or "") for each in group],
                         "channels": [channel]})  # fmt: skip

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"type": "l2update", "product_id": native, "changes": changes, "time": time}:
                sides: dict[str, list[list[str]]] = {"buy": [], "sell": []}
                for side, *level in changes:
                    sides[side].append(level)
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=sides["buy"], asks=sides["sell"],
                            snapshot=False, timestamp=time)  # fmt: skip
            case {"type": "snapshot", "product_id": native, "bids": bids, "asks": asks} as given:
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=bids, asks=asks, snapshot=True,
                            timestamp=given.get("time"))  # fmt: skip
            case {"type": "ticker"} as ticker:
                yield self.quote(ticker)
            case {"type": "match" | "last_match"} as match:
                yield from self.trade(match)
            case {"type": "subscriptions", "channels": list(channels)}:
                yield from self.subscribed({
                    Topic(kind=KINDS[channel["name"]], symbol=self.symbol(native))
                    for channel in channels if channel["name"] in KINDS for native in channel["product_ids"]
                })  # fmt: skip
            case {"type": "heartbeat" | "status"}:
                yield Alive()
            case {"type": "error", "message": str(said), **rest}:
                yield self.refused(f"{said}: {rest['reason']}" if "reason" in rest else said)
            case other:
                yield Unknown(other)

    def subscribed(self, now: set[Topic]) -> Iterable[Ack]:
        begun = tuple(topic for topic in self.waiting if topic in now)
        ended = tuple(topic for topic in self.leaving if topic not in now)
        for topic in begun:
            del self.waiting[topic]
        for topic in ended:
            del self.leaving[topic]
        yield Ack(begun)
        if ended:
            yield Ack(ended, done=False)

    def refused(self, reason: str) -> Nack | Error:
        """One product that does not exist costs its whole request, which the refusal does not name."""
        topics = tuple(self.waiting)
        self.waiting.clear()
        return Nack(topics, reason) if topics else Error(code="request", message=reason)

    def quote(self, given: dict[str, Any]) -> Quote:
        native = given["product_id"]
        bid, bid_size = quoted(given["best_bid"], given.get("best_bid_size"))
        ask, ask_size = quoted(given["best_ask"], given.get("best_ask_size"))
        known = ("type", "product_id", "best_bid", "best_bid_size", "best_ask", "best_ask_size", "price", "volume_24h",
                 "time")  # fmt: skip
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, last=given["price"], volume=given["volume_24h"], time=given["time"],
                     data=besides(given, *known))  # fmt: skip

    def trade(self, given: dict[str, Any]) -> Iterable[PublicTrade]:
        """A subscription begins with the last match, which may have been told before the connection was lost."""
        native = given["product_id"]
        known = ("type", "product_id", "trade_id", "price", "size", "side", "time")
        if newer(self.told, native, given["trade_id"]):
            yield PublicTrade(symbol=self.symbol(native), native_symbol=native, id=str(given["trade_id"]),
                              price=given["price"], quantity=given["size"], side=TAKER[given["side"]], time=given["time"],
                              data=besides(given, *known))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        if answer.ok:
            pairs = [(each["id"], f"{each['base_currency']}/{each['quote_currency']}") for each in loads(answer.text)]
            yield Symbols(pairs, complete=True)
