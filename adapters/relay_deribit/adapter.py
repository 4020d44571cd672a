"""Deribit market data: JSON-RPC over WebSocket, https://docs.deribit.com/, and the spot instruments of REST.

Every push is ``{"method": "subscription", "params": {"channel": ..., "data": ...}}``. A book's messages are chained: each
names the number of the one before it (``prev_change_id``).
"""

from collections.abc import Hashable, Iterable
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
    Ping,
    Rate,
    Requests,
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
from relay.adapter.reading import besides, instruments, quoted, terms, tradable, unless_zero, whole
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

CHANNELS = {"quote": "ticker", "public_trade": "trades", "depth": "book"}
KINDS = {channel: kind for kind, channel in CHANNELS.items()}
INTERVALS = {
    "1m": "1", "3m": "3", "5m": "5", "10m": "10", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "3h": "180",
    "6h": "360", "12h": "720", "1d": "1D",
}  # fmt: skip
TIMEFRAMES = {interval: timeframe for timeframe, interval in INTERVALS.items()}
BTC = {"symbol": "BTC-PERPETUAL"}


class Deribit(Adapter):
    name = "deribit"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://www.deribit.com/ws/api/v2",
        http="https://www.deribit.com",
        heartbeat=Heartbeat(every=20, frame=False),
        silent_after=50,
        ack_within=10,
        most_topics=500,
        book=Book.DELTAS,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(Rate(3, burst=10), Rate(1, burst=5, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        for kind in ("spot", "future"):  # options are thousands: nothing is known of them
            query = {"currency": "any", "kind": kind}
            yield Fetch(tag=kind, url="/api/v2/public/get_instruments", query=query, within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics) as request:
                method = "public/subscribe" if isinstance(request, Subscribe) else "public/unsubscribe"
                channels = [self.channel(topic) for topic in topics]
                yield self.call(self.requests.next_id(request), method, channels=channels)
            case Ping():
                yield self.call(self.requests.next_id(), "public/test")

    def call(self, id: int, method: str, **params: Any) -> str:
        return dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})

    def channel(self, topic: Topic) -> str:
        """Return the channel's name. Every 100 ms is the shortest interval that Deribit has without a login."""
        native = self.native(topic.symbol or "")
        if topic.kind == "candle":
            return f"chart.trades.{native}.{INTERVALS[topic.timeframe or '']}"
        return f"{CHANNELS[topic.kind]}.{native}.100ms"

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"method": "subscription", "params": {"channel": str() as channel, "data": data}}:
                yield from self.data(channel, data)
            case {"id": id, "result": list() as channels}:
                yield from self.answered(self.requests.accepted(id), set(channels))
            case {"id": id, "error": {"message": str() as reason, "code": code}}:
                yield self.requests.refused(id, f"{reason} (code {code})")
            case {"id": _, "result": _} | {"method": "heartbeat"}:
                yield Alive()
            case other:
                yield Unknown(other)

    def answered(self, accepted: Ack, channels: set[str]) -> Iterable[Ack | Nack]:
        """Read the answer, which names the channels that were subscribed; one that does not exist is left out."""
        left_out = [topic for topic in accepted.topics if self.channel(topic) not in channels] if accepted.done else []
        yield Ack(tuple(topic for topic in accepted.topics if topic not in left_out), done=accepted.done)
        for topic in left_out:
            yield Nack((topic,), f"Deribit has no channel {self.channel(topic)}")

    def data(self, channel: str, data: Any) -> Iterable[Event | Signal]:
        match channel.split("."):
            case ["book", *_]:
                yield self.depth(data)
            case ["ticker", *_]:
                yield self.quote(data)
            case ["trades", *_]:
                yield from map(self.trade, data)
            case ["chart", "trades", native, interval]:
                yield self.candle(native, interval, data)
            case _:
                yield Unknown(data, f"a channel that was not asked for: {channel}")

    def depth(self, given: dict[str, Any]) -> Depth:
        native, before = given["instrument_name"], given.get("prev_change_id")
        snapshot = {"snapshot": True, "change": False}[given["type"]]
        bids, asks = ([(price, amount) for _, price, amount in given[side]] for side in ("bids", "asks"))
        return Depth(symbol=self.symbol(native), native_symbol=native, bids=bids, asks=asks, snapshot=snapshot,
                     first_seq=None if snapshot else whole(before) + 1, last_seq=given["change_id"],
                     timestamp=from_millis(given["timestamp"]))  # fmt: skip

    def quote(self, given: dict[str, Any]) -> Quote:
        native = given["instrument_name"]
        bid, bid_size = quoted(given["best_bid_price"], given["best_bid_amount"])
        ask, ask_size = quoted(given["best_ask_price"], given["best_ask_amount"])
        known = ("instrument_name", "best_bid_price", "best_bid_amount", "best_ask_price", "best_ask_amount", "last_price",
                 "timestamp")  # fmt: skip
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, last=unless_zero(given["last_price"]), volume=given["stats"]["volume"],
                     time=from_millis(given["timestamp"]), data=besides(given, *known))  # fmt: skip

    def trade(self, given: dict[str, Any]) -> PublicTrade:
        native = given["instrument_name"]
        known = ("instrument_name", "trade_id", "price", "amount", "direction", "timestamp")
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=given["trade_id"], price=given["price"],
                           quantity=given["amount"], side=Side(given["direction"].upper()),
                           time=from_millis(given["timestamp"]), data=besides(given, *known))  # fmt: skip

    def candle(self, native: str, interval: str, given: dict[str, Any]) -> Candle:
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=TIMEFRAMES[interval],
                      start=from_millis(given["tick"]), open=given["open"], high=given["high"], low=given["low"],
                      close=given["close"], volume=given["volume"],
                      data=besides(given, "tick", "open", "high", "low", "close", "volume"))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        if answer.ok:
            listed = loads(answer.text)["result"]
            spot = [each for each in listed if each["kind"] == "spot"]
            yield Symbols(
                [(each["instrument_name"], f"{each['base_currency']}/{each['quote_currency']}") for each in spot]
            )
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        """Return an instrument; a perpetual's expiry, in the year 3000, is none."""
        native, base, quote = given["instrument_name"], given["base_currency"], given["quote_currency"]
        ends = None if given.get("settlement_period") == "perpetual" else unless_zero(given.get("expiration_timestamp"))
        steps = given.get("tick_size_steps")
        return Instrument(symbol=f"{base}/{quote}" if given["kind"] == "spot" else native, native_symbol=native, base=base,
                          quote=quote, currency=given.get("settlement_currency"), instrument_type=given["kind"],
                          **terms(given, tick_size="tick_size", contract_size="contract_size",
                                  minimum_quantity="min_trade_amount"),
                          expires_at=None if ends is None else from_millis(ends), status=tradable(given.get("is_active")),
                          data={"tick_size_steps": steps} if steps else None)  # fmt: skip
