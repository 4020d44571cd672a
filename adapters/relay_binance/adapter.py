"""Binance spot market data: binance.com and binance.us.

WebSocket Streams, https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams (binance.us:
https://github.com/binance-us/binance-us-api-docs/blob/master/web-socket-streams.md, the same protocol), and of the REST
API ``exchangeInfo`` and ``depth``. Combined streams: every event comes as ``{"stream": ..., "data": ...}``.
"""

from collections.abc import Hashable, Iterable
from typing import Any, ClassVar

from relay.adapter import (
    Adapter,
    Answer,
    Book,
    CloseMeaning,
    Context,
    Fetch,
    Heartbeat,
    Limited,
    Offer,
    Option,
    Outgoing,
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
from relay.adapter.reading import besides, instruments, quoted, terms, whole
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Candle, Depth, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

STREAMS = {"quote": "bookTicker", "public_trade": "aggTrade", "depth": "depth@100ms"}
SAME = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w")
INTERVALS = {timeframe: timeframe for timeframe in SAME} | {"1mo": "1M"}
TIMEFRAMES = {interval: timeframe for timeframe, interval in INTERVALS.items()}
TAKER = {True: Side.SELL, False: Side.BUY}  # "m": is the buyer the market maker?
BTC = {"symbol": "BTC/USDT"}
STATUSES = {
    "TRADING": TradingStatus.TRADING, "HALT": TradingStatus.HALTED, "BREAK": TradingStatus.HALTED,
    "AUCTION_MATCH": TradingStatus.AUCTION, "PENDING_TRADING": TradingStatus.CLOSED, "DELIVERED": TradingStatus.CLOSED,
    "CLOSE": TradingStatus.CLOSED,
}  # fmt: skip


class Binance(Adapter):
    name = "binance"
    options: ClassVar[tuple[Option, ...]] = (
        Option("venue", "com", choices=("com", "us"), about="com for binance.com, us for binance.us"),
    )
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://stream.binance.{venue}:9443/stream",
        http="https://api.binance.{venue}",
        heartbeat=Heartbeat(every=30),
        silent_after=75,
        ack_within=10,
        most_topics=1024,
        most_connections=20,  # the page names no number; these carry all of its symbols
        refusals={
            403: CloseMeaning.RATE_LIMITED,  # the firewall's limit; 418 is an IP ban for ignoring 429
            418: CloseMeaning.RATE_LIMITED,
            429: CloseMeaning.RATE_LIMITED,
            451: CloseMeaning.REFUSED,  # not served from this country
        },
        book=Book.FETCHED,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(
            Rate(4, burst=4),  # 5 a second; one is left for the answer to the server's ping, which counts too
            Rate(300, per=300, of="dial"),
            Rate(1200, per=60, of="http"),  # weight; binance.us has 1,200 a minute, binance.com 6,000
        ),
    )

    #: The REST API's path, and the weights of its requests for the symbols and for a book.
    rest, symbols_weight, book_weight = "/api/v3", 20, 50

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="symbols", url=f"{self.rest}/exchangeInfo", cost=self.symbols_weight, within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics) as request:
                method = "SUBSCRIBE" if isinstance(request, Subscribe) else "UNSUBSCRIBE"
                streams = [self.stream(topic) for topic in topics]
                yield dumps({"method": method, "params": streams, "id": self.requests.next_id(request)})
            case Snapshot(topic):
                query = {"symbol": self.native(topic.symbol or ""), "limit": "1000"}
                yield Fetch(tag=outgoing, url=f"{self.rest}/depth", query=query, cost=self.book_weight)

    def stream(self, topic: Topic) -> str:
        kind = f"kline_{INTERVALS[topic.timeframe or '']}" if topic.kind == "candle" else STREAMS[topic.kind]
        return f"{self.native(topic.symbol or '').lower()}@{kind}"

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"data": {"e": "depthUpdate", "E": time, "s": s, "u": last, "b": bids, "a": asks} as change}:
                yield Depth(symbol=self.symbol(s), native_symbol=s, bids=bids, asks=asks, snapshot=False,
                            first_seq=self.first_seq(change), last_seq=last, timestamp=from_millis(time))  # fmt: skip
            case {"stream": str() as name, "data": dict() as best} if name.endswith("@bookTicker"):
                yield self.quote(best)
            case {"data": {"e": "aggTrade", "E": sent, "s": s, "a": int() as id, "T": time, "m": maker} as deal}:
                yield PublicTrade(symbol=self.symbol(s), native_symbol=s, id=str(id), price=deal["p"], quantity=deal["q"],
                                  side=TAKER[maker], data=besides(deal, *"eEsapqTm"), time=from_millis(time),
                                  timestamp=from_millis(sent))  # fmt: skip
            case {"data": {"e": "kline", "E": sent, "s": s, "k": k}}:
                yield Candle(symbol=self.symbol(s), native_symbol=s, timeframe=TIMEFRAMES[k["i"]], start=from_millis(k["t"]),
                             open=k["o"], high=k["h"], low=k["l"], close=k["c"], volume=k["v"], closed=k["x"],
                             data=besides(k, *"stiohlcvx"), timestamp=from_millis(sent))  # fmt: skip
            case {"result": None, "id": id} if self.requests.waits(id):
                yield self.requests.accepted(id)
            case {"error": {"code": code, "msg": msg}, **rest} | {"code": code, "msg": msg, **rest}:
                yield self.requests.refused(rest.get("id"), f"{msg} (code {code})")
            case {"data": {"e": "serverShutdown"}} | {"e": "serverShutdown"}:
                yield Redial("the server is about to shut down")
            case other:
                yield Unknown(other)

    def first_seq(self, change: dict[str, Any]) -> int:
        return whole(change["U"])

    def quote(self, best: dict[str, Any]) -> Quote:
        (bid, bid_size), (ask, ask_size) = quoted(best["b"], best["B"]), quoted(best["a"], best["A"])
        named = (("time", "T"), ("timestamp", "E"))  # spot has neither
        times = {name: from_millis(best[member]) for name, member in named if member in best}
        return Quote(symbol=self.symbol(best["s"]), native_symbol=best["s"], bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, data=besides(best, "e", "s", "b", "B", "a", "A", "T", "E"), **times)  # fmt: skip

    def canonical(self, listed: dict[str, Any]) -> str:
        return f"{listed['baseAsset']}/{listed['quoteAsset']}"

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if answer.status == 418:  # banned for a while; 429 is every provider's
            wait = answer.headers.get("retry-after", "")
            yield Limited(int(wait) if wait.isdigit() else None)
        elif answer.ok and isinstance(tag, Snapshot):
            book, symbol = loads(answer.text), tag.topic.symbol or ""
            yield Depth(symbol=symbol, native_symbol=self.native(symbol), bids=book["bids"], asks=book["asks"],
                        snapshot=True, last_seq=book["lastUpdateId"])  # fmt: skip
        elif answer.ok:
            listed = loads(answer.text)["symbols"]
            yield Symbols([(item["symbol"], self.canonical(item)) for item in listed], complete=True)
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        rules = {each["filterType"]: each for each in given.get("filters", ())}
        lot, money = rules.get("LOT_SIZE", {}), rules.get("NOTIONAL") or rules.get("MIN_NOTIONAL", {})
        expires, word = given.get("deliveryDate"), given.get("contractType") or None  # a perpetual's date means nothing
        return Instrument(symbol=self.canonical(given), native_symbol=given["symbol"], base=given["baseAsset"],
                          quote=given["quoteAsset"], currency=given.get("marginAsset"), instrument_type=word,
                          **terms(rules.get("PRICE_FILTER", {}), tick_size="tickSize"),
                          **terms(lot, quantity_step="stepSize", minimum_quantity="minQty", maximum_quantity="maxQty"),
                          **terms(money, minimum_notional="minNotional" if "minNotional" in money else "notional"),
                          status=STATUSES.get(given.get("status", "")),
                          expires_at=from_millis(expires) if expires and "QUARTER" in (word or "") else None)  # fmt: skip
