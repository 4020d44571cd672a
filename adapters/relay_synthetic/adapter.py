"""The synthetic venue's own protocol, documented in this package's README.

Streams are named ``<kind>:<symbol>``, a candle's ``candle:<symbol>:<timeframe>``. Decimals are text, times are integer Unix
nanoseconds. Depth is a snapshot and then deltas whose ``seq`` has no holes per symbol.
"""

from collections.abc import Iterable
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Book,
    Fetch,
    Heartbeat,
    Nack,
    Offer,
    Option,
    Outgoing,
    Ping,
    Ready,
    Sequence,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, Event, PublicTrade, Quote
from relay.model.text import from_nanos

KINDS = {"quote": "quote", "trade": "public_trade", "depth": "depth", "candle": "candle"}
NAMES = {kind: name for name, kind in KINDS.items()}
TAKER = {"buy": Side.BUY, "sell": Side.SELL}
BTC = {"symbol": "BTC/USD"}


class Synthetic(Adapter):
    name = "synthetic"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="candle", timeframes=("1m", "5m", "15m", "1h", "4h", "1d"), example=BTC),
    )
    options = (Option("host", "127.0.0.1:6002", about="HOST:PORT of the simulator"),)
    session = Session(
        url="ws://{host}/v1",
        ready="signal",
        heartbeat=Heartbeat(every=10, frame=False),
        silent_after=25,
        ack_within=5,
        book=Book.DELTAS,
        sequence=Sequence(scope="topic", contiguous=True),
    )

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                yield dumps({"op": "subscribe", "streams": [self.stream(topic) for topic in topics]})
            case Unsubscribe(topics):
                yield dumps({"op": "unsubscribe", "streams": [self.stream(topic) for topic in topics]})
            case Ping():
                yield dumps({"op": "ping"})

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"stream": str() as stream, "ns": time} as data:
                yield self.event(self.topic(stream), from_nanos(time), data)
            case {"op": "subscribed" | "unsubscribed" as op, "streams": [*streams]}:
                yield Ack(tuple(self.topic(stream) for stream in streams), done=op == "subscribed")
            case {"op": "refused", "stream": str() as stream, "reason": str() as reason}:
                yield Nack((self.topic(stream),), reason)
            case {"op": "welcome"}:
                yield Ready()
            case {"op": "pong"}:
                yield Alive()
            case {"op": "error", "reason": str() as reason}:
                yield Error(code="request", message=reason)
            case other:
                yield Unknown(other)

    def event(self, topic: Topic, time: str, data: dict[str, Any]) -> Event | Unknown:
        native = self.native(topic.symbol or "")
        about: dict[str, Any] = {"symbol": topic.symbol, "native_symbol": native, "timestamp": time}
        match topic.kind, data:
            case "quote", _:
                return Quote(bid=data.get("bid"), bid_size=data.get("bid_size"), ask=data.get("ask"), time=time,
                             ask_size=data.get("ask_size"), last=data.get("last"), volume=data.get("volume"),
                             **about)  # fmt: skip
            case "public_trade", {"id": id, "price": price, "size": size, "side": side}:
                return PublicTrade(id=id, price=price, quantity=size, side=TAKER[side], time=time, **about)
            case "depth", {"what": "snapshot" | "delta" as what, "seq": seq, "bids": bids, "asks": asks}:
                snapshot = what == "snapshot"
                return Depth(bids=bids, asks=asks, snapshot=snapshot, first_seq=None if snapshot else seq, last_seq=seq,
                             **about)  # fmt: skip
            case "candle", {"start": start, "o": o, "h": h, "l": low, "c": c, "v": v, "closed": closed}:
                return Candle(timeframe=topic.timeframe, start=from_nanos(start), open=o, high=h, low=low, close=c,
                              volume=v, closed=closed, **about)  # fmt: skip
        return Unknown(data, "members of a stream's message are missing")

    def stream(self, topic: Topic) -> str:
        """Return the venue's name of a topic's stream."""
        name = f"{NAMES[topic.kind]}:{self.native(topic.symbol or '')}"
        return name if topic.timeframe is None else f"{name}:{topic.timeframe}"

    def topic(self, stream: str) -> Topic:
        """Return the topic of a stream's name. Raises KeyError or ValueError when there is none."""
        kind, native, *timeframe = stream.split(":")
        return Topic(kind=KINDS[kind], symbol=self.symbol(native), timeframe=timeframe[0] if timeframe else None)
