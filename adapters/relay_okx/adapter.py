"""OKX market data: the public channels of API v5, and the candles of its business endpoint, https://www.okx.com/docs-v5/en/#order-book-trading-market-data.

Every push is ``{"arg": {"channel": ..., "instId": ...}, "data": [...]}``. A book's messages are chained: each names the
number of the one before it (``prevSeqId``), and its own need not be one more.
"""

import re
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
    Redial,
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
from relay.adapter.reading import besides, instruments, quoted, row, terms
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Candle, Depth, Error, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

CHANNELS = {"quote": "tickers", "public_trade": "trades", "depth": "books"}
KINDS = {channel: kind for kind, channel in CHANNELS.items()}
INTERVALS = {name: name for name in ("1s", "1m", "3m", "5m", "15m", "30m")} | {
    "1h": "1H", "2h": "2H", "4h": "4H", "6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc", "1w": "1Wutc", "1mo": "1Mutc",
}  # fmt: skip
TIMEFRAMES = {f"candle{interval}": timeframe for timeframe, interval in INTERVALS.items()}
BTC = {"symbol": "BTC/USDT"}
STATUSES = {"live": TradingStatus.TRADING, "suspend": TradingStatus.HALTED, "preopen": TradingStatus.AUCTION}

#: A refusal names the stream in its text only: "Wrong URL or channel:trades,instId:BTC-FOO doesn't exist".
refused_stream = re.compile(r"channel:([\w-]+),\s*instId:([\w-]+)").search


def channel_of(topic: Topic) -> str:
    return CHANNELS.get(topic.kind) or f"candle{INTERVALS[topic.timeframe or '']}"


class Okx(Adapter):
    name = "okx"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC, socket="business"),
    )
    session = Session(
        url="wss://ws.okx.com:8443/ws/v5/public",
        sockets={"business": "wss://ws.okx.com:8443/ws/v5/business"},
        http="https://www.okx.com",
        heartbeat=Heartbeat(every=20, frame=False),  # closed after 30 s without a message
        silent_after=50,
        ack_within=10,
        topics_per_frame=50,
        book=Book.FETCHED,  # the first message of a book is still a snapshot: OKX has announced its end
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(
            Rate(480, per=3600, burst=100, of="interest"),
            Rate(3, of="dial"),
            Rate(20, per=2, of="http"),
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        query = {"instType": "SPOT"}
        yield Fetch(tag="symbols", url="/api/v5/public/instruments", query=query, within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics) as request:
                op = "subscribe" if isinstance(request, Subscribe) else "unsubscribe"
                args = [{"channel": channel_of(each), "instId": self.native(each.symbol or "")} for each in topics]
                yield dumps({"id": str(self.requests.next_id(request)), "op": op, "args": args})
            case Ping():
                yield "ping"
            case Snapshot(topic):
                query = {"instId": self.native(topic.symbol or ""), "sz": "400"}
                yield Fetch(tag=outgoing, url="/api/v5/market/books", query=query)

    def decode(self, message: str) -> Iterable[Event | Signal]:
        if message == "pong":
            yield Alive()
            return
        match loads(message):
            case {"arg": {"channel": "books", "instId": native}, "action": action, "data": [book]}:
                if book["bids"] or book["asks"]:
                    yield self.book(native, book, snapshot={"snapshot": True, "update": False}[action])
                else:
                    yield Alive()  # sent where nothing changed for a minute; it has the number of the one before
            case {"arg": {"channel": "tickers"}, "data": list() as tickers}:
                yield from map(self.quote, tickers)
            case {"arg": {"channel": "trades"}, "data": list() as trades}:
                yield from map(self.trade, trades)
            case {"arg": {"channel": str() as channel, "instId": native}, "data": [*bars]} if channel in TIMEFRAMES:
                yield from (self.candle(native, TIMEFRAMES[channel], bar) for bar in bars)
            case {"event": "subscribe" | "unsubscribe" as event, "arg": {"channel": channel, "instId": native}}:
                yield Ack((self.topic(channel, native),), done=event == "subscribe")
            case {"event": "error", "msg": str() as reason, **rest}:
                yield self.refused(rest.get("id"), f"{reason} (code {rest.get('code')})")
            case {"event": "notice", "msg": str() as reason}:
                yield Redial(reason)  # the service is about to be upgraded: this connection will be closed
            case {"event": "channel-conn-count" | "channel-conn-count-error"}:
                yield Alive()
            case other:
                yield Unknown(other)

    def topic(self, channel: str, native: str) -> Topic:
        if channel in TIMEFRAMES:
            return Topic(kind="candle", symbol=self.symbol(native), timeframe=TIMEFRAMES[channel])
        return Topic(kind=KINDS[channel], symbol=self.symbol(native))

    def refused(self, id: object, reason: str) -> Nack | Error:
        if (named := refused_stream(reason)) is not None and named[1] in KINDS | TIMEFRAMES:
            return Nack((self.topic(named[1], named[2]),), reason)
        return self.requests.refused(id, reason)

    def book(self, native: str, book: dict[str, Any], *, snapshot: bool) -> Depth:
        last, before = book.get("seqId"), book.get("prevSeqId")
        first = None if snapshot or before is None else before + 1
        return Depth(symbol=self.symbol(native), native_symbol=native, bids=book["bids"], asks=book["asks"],
                     snapshot=snapshot, first_seq=first, last_seq=last, timestamp=from_millis(book["ts"]))  # fmt: skip

    def quote(self, given: dict[str, Any]) -> Quote:
        native = given["instId"]
        bid, bid_size = quoted(given["bidPx"], given["bidSz"])
        ask, ask_size = quoted(given["askPx"], given["askSz"])
        volume = "vol24h" if given["instType"] == "SPOT" else "volCcy24h"  # the one in base currency
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, last=given["last"] or None, volume=given[volume], time=from_millis(given["ts"]),
                     data=besides(given, "instId", "bidPx", "bidSz", "askPx", "askSz", "last", volume, "ts"))  # fmt: skip

    def trade(self, given: dict[str, Any]) -> PublicTrade:
        native = given["instId"]
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=given["tradeId"], price=given["px"],
                           quantity=given["sz"], side=Side(given["side"].upper()), time=from_millis(given["ts"]),
                           data=besides(given, "instId", "tradeId", "px", "sz", "side", "ts"))  # fmt: skip

    def candle(self, native: str, timeframe: str, bar: list[Any]) -> Candle:
        """Return a candle. The volume in base currency is the first one of a spot pair, the second one of a contract."""
        start, opened, high, low, closed, contracts, base, quote, confirm = row(bar, 9)
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=timeframe, start=from_millis(start),
                      open=opened, high=high, low=low, close=closed, volume=contracts if native.count("-") == 1 else base,
                      closed={"0": False, "1": True}[confirm],
                      data={"vol": contracts, "volCcy": base, "volCcyQuote": quote})  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if not answer.ok:
            return
        data = loads(answer.text)["data"]
        if isinstance(tag, Snapshot):
            yield self.book(self.native(tag.topic.symbol or ""), data[0], snapshot=True)
        else:
            yield Symbols([(each["instId"], f"{each['baseCcy']}/{each['quoteCcy']}") for each in data])
            yield from instruments(data, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        return Instrument(symbol=f"{given['baseCcy']}/{given['quoteCcy']}", native_symbol=given["instId"],
                          base=given["baseCcy"], quote=given["quoteCcy"], instrument_type=given.get("instType"),
                          **terms(given, tick_size="tickSz", quantity_step="lotSz", minimum_quantity="minSz"),
                          status=STATUSES.get(given.get("state", "")))  # fmt: skip
