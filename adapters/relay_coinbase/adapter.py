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
    Awaited,
    Book,
    Context,
    Fetch,
    Heartbeat,
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
from relay.adapter.reading import Numbers, besides, each, instruments, is_new, quoted, unless_zero
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Depth, Event, Instrument, PublicTrade, Quote

CHANNELS = {"quote": "ticker", "public_trade": "matches", "depth": "level2_batch"}
KINDS = {channel: kind for kind, channel in CHANNELS.items()} | {"level2": "depth", "level2_50": "depth"}
#: ``side`` of a match is the maker's; the event has the taker's.
TAKER = {"buy": Side.SELL, "sell": Side.BUY}
BTC = {"symbol": "BTC/USD"}
STATUSES = {"online": TradingStatus.TRADING, "offline": TradingStatus.HALTED, "delisted": TradingStatus.CLOSED}
#: Flags of a product that is online, the strictest first.
FLAGS = {
    "trading_disabled": TradingStatus.HALTED, "cancel_only": TradingStatus.CANCEL_ONLY,
    "auction_mode": TradingStatus.AUCTION, "post_only": TradingStatus.POST_ONLY, "limit_only": TradingStatus.LIMIT_ONLY,
}  # fmt: skip


def channel_of(topic: Topic) -> str:
    return CHANNELS[topic.kind]


class Coinbase(Adapter):
    name = "coinbase"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
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
        self.awaited = Awaited()
        self.told: Numbers = context.kept.setdefault("trades", {})

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="products", url="/products", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics):
                self.awaited.asked(outgoing)
                type = "subscribe" if isinstance(outgoing, Subscribe) else "unsubscribe"
                for channel, group in groupby(sorted(topics, key=channel_of), key=channel_of):
                    yield dumps({"type": type, "product_ids": [self.native(topic.symbol or "") for topic in group],
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
                yield from each([match], self.trade)
            case {"type": "subscriptions", "channels": list() as channels}:
                yield from self.subscribed({
                    Topic(kind=KINDS[channel["name"]], symbol=self.symbol(native))
                    for channel in channels if channel["name"] in KINDS for native in channel["product_ids"]
                })  # fmt: skip
            case {"type": "heartbeat" | "status"}:
                yield Alive()
            case {"type": "error", "message": str() as said, **rest}:
                yield self.awaited.refused(f"{said}: {rest['reason']}" if "reason" in rest else said)
            case other:
                yield Unknown(other)

    def subscribed(self, now: set[Topic]) -> Iterable[Ack]:
        yield self.awaited.accepted([topic for topic in self.awaited.begun if topic in now])
        if ended := [topic for topic in self.awaited.ended if topic not in now]:
            yield self.awaited.accepted(ended, done=False)

    def quote(self, given: dict[str, Any]) -> Quote:
        native = given["product_id"]
        bid, bid_size = quoted(given["best_bid"], given.get("best_bid_size"))
        ask, ask_size = quoted(given["best_ask"], given.get("best_ask_size"))
        known = ("type", "product_id", "best_bid", "best_bid_size", "best_ask", "best_ask_size", "price", "volume_24h",
                 "time")  # fmt: skip
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, last=given["price"], volume=given["volume_24h"], time=given["time"],
                     data=besides(given, *known))  # fmt: skip

    def trade(self, given: dict[str, Any]) -> PublicTrade | None:
        """Return a trade unless it is known: a subscription begins with the last match, which may be an old one.

        A match behind a newer one is told too: https://docs.cdp.coinbase.com/exchange/websocket-feed/overview has messages
        arrive out of order.
        """
        native = given["product_id"]
        known = ("type", "product_id", "trade_id", "price", "size", "side", "time")
        if not is_new(self.told, native, given["trade_id"]):
            return None
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=str(given["trade_id"]),
                           price=given["price"], quantity=given["size"], side=TAKER[given["side"]], time=given["time"],
                           data=besides(given, *known))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        if answer.ok:
            listed = loads(answer.text)
            pairs = [(raw["id"], f"{raw['base_currency']}/{raw['quote_currency']}") for raw in listed]
            yield Symbols(pairs, complete=True)
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        base, quote, said = given["base_currency"], given["quote_currency"], STATUSES.get(given.get("status", ""))
        limited = (status for flag, status in FLAGS.items() if given.get(flag) is True)
        return Instrument(symbol=f"{base}/{quote}", native_symbol=given["id"], base=base, quote=quote,
                          name=given.get("display_name"), tick_size=unless_zero(given.get("quote_increment")),
                          quantity_step=unless_zero(given.get("base_increment")),
                          status=next(limited, said) if said is TradingStatus.TRADING else said)  # fmt: skip
