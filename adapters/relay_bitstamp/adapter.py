"""Bitstamp market data: Websocket API v2, https://www.bitstamp.net/websocket/v2/, and of the HTTP API, https://www.bitstamp.net/api/,
the list of pairs and the order book.

Every message is ``{"event": ..., "channel": "<kind>_<pair>", "data": {...}}``. Bitstamp numbers nothing; the
``microtimestamp`` of a book orders its changes and says which of them a fetched book contains.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Book,
    Fetch,
    Heartbeat,
    Nack,
    Offer,
    Outgoing,
    Ping,
    Rate,
    Redial,
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
from relay.adapter.reading import besides, instruments, tick_of
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Depth, Error, Event, Instrument, PublicTrade
from relay.model.text import from_micros

CHANNELS = {"public_trade": "live_trades_", "depth": "diff_order_book_"}
#: Members of a trade that its fields have.
KNOWN = ("id", "price", "price_str", "amount", "amount_str", "type", "timestamp", "microtimestamp")
TAKER = {0: Side.BUY, 1: Side.SELL}
BTC = {"symbol": "BTC/USD"}
STATUSES = {"Enabled": TradingStatus.TRADING, "Disabled": TradingStatus.HALTED}


def market(channel: str, prefix: str) -> str:
    """Return the pair that a channel of this kind is about; empty for a channel of another kind."""
    return channel.removeprefix(prefix) if channel.startswith(prefix) else ""


class Bitstamp(Adapter):
    name = "bitstamp"
    offers = (
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
    )
    session = Session(
        url="wss://ws.bitstamp.net",
        http="https://www.bitstamp.net",
        heartbeat=Heartbeat(every=30, frame=False),
        silent_after=75,
        ack_within=10,
        book=Book.FETCHED,
        sequence=Sequence(scope="topic", contiguous=False),
        limits=(Rate(400, of="http"), Rate(10_000, per=600, of="http")),
    )

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="symbols", url="/api/v2/trading-pairs-info/", needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                for topic in topics:
                    yield dumps({"event": "bts:subscribe", "data": {"channel": self.channel(topic)}})
            case Unsubscribe(topics):
                for topic in topics:
                    yield dumps({"event": "bts:unsubscribe", "data": {"channel": self.channel(topic)}})
            case Ping():
                yield dumps({"event": "bts:heartbeat"})
            case Snapshot(topic):
                yield Fetch(tag=outgoing, url=f"/api/v2/order_book/{self.native(topic.symbol or '')}")

    def channel(self, topic: Topic) -> str:
        return CHANNELS[topic.kind] + self.native(topic.symbol or "")

    def topic(self, channel: str) -> Topic | None:
        for kind, prefix in CHANNELS.items():
            if pair := market(channel, prefix):
                return Topic(kind=kind, symbol=self.symbol(pair))
        return None

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"event": "data", "channel": str() as channel, "data": book} if pair := market(
                channel, "diff_order_book_"
            ):
                yield self.book(pair, book, snapshot=False)
            case {"event": "trade", "channel": str() as channel, "data": trade} if pair := market(
                channel, "live_trades_"
            ):
                yield PublicTrade(symbol=self.symbol(pair), native_symbol=pair, id=str(trade["id"]),
                                  price=trade["price_str"], quantity=trade["amount_str"], side=TAKER[trade["type"]],
                                  time=from_micros(trade["microtimestamp"]), data=besides(trade, *KNOWN))  # fmt: skip
            case {"event": "bts:subscription_succeeded", "channel": str() as channel} if topic := self.topic(channel):
                yield Ack((topic,))
            case {"event": "bts:unsubscription_succeeded", "channel": str() as channel} if topic := self.topic(channel):
                yield Ack((topic,), done=False)
            case {"event": "bts:heartbeat"}:
                yield Alive()
            case {"event": "bts:request_reconnect"}:
                yield Redial("Bitstamp asked for a new connection")
            case {"event": "bts:error", "data": {"message": str() as reason}, **rest}:
                topic = self.topic(str(rest.get("channel")))
                yield Nack((topic,), reason) if topic else Error(code="request", message=reason)
            case other:
                yield Unknown(other)

    def book(self, pair: str, book: dict[str, Any], *, snapshot: bool) -> Depth:
        micros = book["microtimestamp"]
        return Depth(symbol=self.symbol(pair), native_symbol=pair, bids=book["bids"], asks=book["asks"], snapshot=snapshot,
                     last_seq=int(micros), timestamp=from_micros(micros))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if answer.ok and isinstance(tag, Snapshot):
            yield self.book(self.native(tag.topic.symbol or ""), loads(answer.text), snapshot=True)
        elif answer.ok:
            listed = loads(answer.text)
            yield Symbols([(pair["url_symbol"], pair["name"]) for pair in listed])
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        """Return an instrument; the least value of an order comes with its currency: ``10.0 USD``."""
        base, _, quote = given["name"].partition("/")
        least, _, currency = given.get("minimum_order", "").partition(" ")
        return Instrument(symbol=given["name"], native_symbol=given["url_symbol"], name=given.get("description"), base=base,
                          quote=quote, tick_size=tick_of(given.get("counter_decimals")),
                          quantity_step=tick_of(given.get("base_decimals")),
                          minimum_notional=least if currency == quote else None,
                          status=STATUSES.get(given.get("trading", "")))  # fmt: skip
