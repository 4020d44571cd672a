"""Bybit market data: the public topics of API v5, https://bybit-exchange.github.io/docs/v5/ws/connect, and the instruments.

Every push is ``{"topic": "<feed>.<symbol>", "type": "snapshot" | "delta", "ts": ..., "data": ...}``.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from relay.adapter import (
    Adapter,
    Alive,
    Answer,
    Book,
    Context,
    Fetch,
    Heartbeat,
    Offer,
    Option,
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
from relay.adapter.reading import besides, instruments, unless_zero
from relay.model.channels import Topic
from relay.model.enums import Side, TradingStatus
from relay.model.events import Candle, Depth, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis

FEEDS = {"quote": "orderbook.1", "public_trade": "publicTrade", "depth": "orderbook.200"}
INTERVALS = {
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "4h": "240", "6h": "360",
    "12h": "720", "1d": "D", "1w": "W", "1mo": "M",
}  # fmt: skip
TIMEFRAMES = {interval: timeframe for timeframe, interval in INTERVALS.items()}
BTC = {"symbol": "BTC/USDT"}
STATUSES = {"Trading": TradingStatus.TRADING, "PreLaunch": TradingStatus.AUCTION, "Closed": TradingStatus.CLOSED}


class Bybit(Adapter):
    name = "bybit"
    options = (Option("category", "spot", choices=("spot", "linear"), about="spot, or linear contracts (USDT, USDC)"),)
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://stream.bybit.com/v5/public/{category}",
        http="https://api.bybit.com",
        heartbeat=Heartbeat(every=20, frame=False),
        silent_after=50,
        ack_within=10,
        topics_per_frame=10,  # of spot; others take more
        book=Book.DELTAS,
        sequence=Sequence(scope="topic", contiguous=False),
        limits=(Rate(500, per=300, of="dial"), Rate(100, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        query = {"category": self.option("category"), "limit": "1000"}  # of contracts; spot has one page
        yield Fetch(tag="instruments", url="/v5/market/instruments-info", query=query, within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics) as request:
                op = "subscribe" if isinstance(request, Subscribe) else "unsubscribe"
                id = str(self.requests.next_id(request))
                yield dumps({"req_id": id, "op": op, "args": [self.feed(topic) for topic in topics]})
            case Ping():
                yield dumps({"op": "ping"})

    def feed(self, topic: Topic) -> str:
        feed = FEEDS.get(topic.kind) or f"kline.{INTERVALS[topic.timeframe or '']}"
        return f"{feed}.{self.native(topic.symbol or '')}"

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"topic": str() as topic, "data": data, "ts": time} as given:
                yield from self.data(topic.split("."), data, time, given)
            case {"op": "ping" | "pong"}:
                yield Alive()
            case {"op": "subscribe" | "unsubscribe", "success": True, **rest}:
                yield self.requests.accepted(rest.get("req_id"))
            case {"op": "subscribe" | "unsubscribe", "success": False, **rest}:
                yield self.requests.refused(rest.get("req_id"), str(rest.get("ret_msg")))
            case other:
                yield Unknown(other)

    def data(self, topic: list[str], data: Any, time: int, about: dict[str, Any]) -> Iterable[Event | Signal]:
        match topic:
            case ["orderbook", "1", native]:
                yield self.quote(native, data, time, about)
            case ["orderbook", _, native]:
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=data["b"], asks=data["a"],
                            snapshot={"snapshot": True, "delta": False}[about["type"]], last_seq=data["u"],
                            timestamp=from_millis(time))  # fmt: skip
            case ["publicTrade", native]:
                yield from (self.trade(native, trade, time) for trade in data)
            case ["kline", interval, native]:
                yield from (self.candle(native, interval, bar, time) for bar in data)
            case _:
                yield Unknown(data, f"a topic that was not asked for: {'.'.join(topic)}")

    def quote(self, native: str, data: dict[str, Any], time: int, about: dict[str, Any]) -> Quote:
        """Return the best level of each side, which is always whole; an empty list is a side without orders."""
        if about["type"] != "snapshot":
            raise ValueError("a change of the best level: Bybit documents whole ones only")
        (bid, bid_size), (ask, ask_size) = (side[0] if side else (None, None) for side in (data["b"], data["a"]))
        engine = about.get("cts")
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=bid, bid_size=bid_size, ask=ask,
                     ask_size=ask_size, time=None if engine is None else from_millis(engine), timestamp=from_millis(time),
                     data=besides(data, "s", "b", "a"))  # fmt: skip

    def trade(self, native: str, given: dict[str, Any], time: int) -> PublicTrade:
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=given["i"], price=given["p"],
                           quantity=given["v"], side=Side(given["S"].upper()), time=from_millis(given["T"]),
                           timestamp=from_millis(time), data=besides(given, "s", "i", "p", "v", "S", "T"))  # fmt: skip

    def candle(self, native: str, interval: str, given: dict[str, Any], time: int) -> Candle:
        known = ("start", "interval", "open", "high", "low", "close", "volume", "confirm")
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=TIMEFRAMES[interval],
                      start=from_millis(given["start"]), open=given["open"], high=given["high"], low=given["low"],
                      close=given["close"], volume=given["volume"], closed=given["confirm"],
                      timestamp=from_millis(time), data=besides(given, *known))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        if answer.ok:
            listed = loads(answer.text)["result"]["list"]
            spot = self.option("category") == "spot"
            yield Symbols([(each["symbol"], self.canonical(each)) for each in listed], complete=spot)
            yield from instruments(listed, self.instrument)

    def canonical(self, given: dict[str, Any]) -> str:
        """Return the pair; of a contract its own name: BTCUSDT is not BTC/USDT."""
        spot = self.option("category") == "spot"
        return f"{given['baseCoin']}/{given['quoteCoin']}" if spot else given["symbol"]

    def instrument(self, given: dict[str, Any]) -> Instrument:
        lot, expires = given.get("lotSizeFilter", {}), unless_zero(given.get("deliveryTime"))
        return Instrument(symbol=self.canonical(given), native_symbol=given["symbol"], base=given["baseCoin"],
                          quote=given["quoteCoin"], currency=given.get("settleCoin"),
                          instrument_type=given.get("contractType"),
                          tick_size=unless_zero(given.get("priceFilter", {}).get("tickSize")),
                          quantity_step=unless_zero(lot.get("basePrecision", lot.get("qtyStep"))),
                          minimum_quantity=unless_zero(lot.get("minOrderQty")),
                          maximum_quantity=unless_zero(lot.get("maxLimitOrderQty", lot.get("maxOrderQty"))),
                          minimum_notional=unless_zero(lot.get("minOrderAmt", lot.get("minNotionalValue"))),
                          expires_at=None if expires is None else from_millis(expires),
                          status=STATUSES.get(given.get("status", "")))  # fmt: skip
