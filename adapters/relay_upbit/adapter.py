"""Upbit market data: https://global-docs.upbit.com/reference/websocket-guide, and the list of pairs of REST.

A request says all that the connection shall have: it takes the place of the one before, and nothing acknowledges it. The
frames are binary and have JSON in them; members have the short names of the format ``SIMPLE``.
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
    Session,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import besides, instruments
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, Event, Instrument, PublicTrade
from relay.model.text import from_millis

TYPES = {"public_trade": "trade", "depth": "orderbook"}
INTERVALS = {
    "1s": "1s", "1m": "1m", "3m": "3m", "5m": "5m", "10m": "10m", "15m": "15m", "30m": "30m", "1h": "60m", "4h": "240m",
}  # fmt: skip
TIMEFRAMES = {f"candle.{interval}": timeframe for timeframe, interval in INTERVALS.items()}
TAKER = {"BID": Side.BUY, "ASK": Side.SELL}
BTC = {"symbol": "BTC/KRW"}


def type_of(topic: Topic) -> str:
    return f"candle.{INTERVALS[topic.timeframe or '']}" if topic.kind == "candle" else TYPES[topic.kind]


class Upbit(Adapter):
    name = "upbit"
    options = (
        Option(
            "region", "api", choices=("api", "sg-api", "id-api", "th-api"), about="api for Korea, or another country's"
        ),
    )
    offers = (
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://{region}.upbit.com/websocket/v1",
        http="https://{region}.upbit.com",
        heartbeat=Heartbeat(every=30, frame=False),  # closed after 120 s without one
        silent_after=75,
        book=Book.SNAPSHOTS,
        limits=(Rate(5, burst=5), Rate(100, per=60, burst=20), Rate(5, of="dial"), Rate(10, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.subscribed: dict[Topic, None] = {}

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="pairs", url="/v1/market/all", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics):
                codes = {topic: self.native(topic.symbol or "") for topic in topics}
                self.subscribed |= dict.fromkeys(codes)
                yield self.request()
            case Unsubscribe(topics):
                self.subscribed = {topic: None for topic in self.subscribed if topic not in topics}
                if self.subscribed:  # a request for nothing is refused
                    yield self.request()
            case Ping():
                yield "PING"

    def request(self) -> str:
        codes: dict[str, list[str]] = {}
        for topic in self.subscribed:
            codes.setdefault(type_of(topic), []).append(self.native(topic.symbol or ""))
        wanted = [{"type": name, "codes": natives, "is_only_realtime": True} for name, natives in codes.items()]
        return dumps([{"ticket": self.context.provider}, *wanted, {"format": "SIMPLE"}])

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"ty": "orderbook", "cd": native, "obu": units, "tms": time}:
                bids, asks = [(unit["bp"], unit["bs"]) for unit in units], [(unit["ap"], unit["as"]) for unit in units]
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=bids, asks=asks, snapshot=True,
                            timestamp=from_millis(time))  # fmt: skip
            case {"ty": "trade", "cd": _} as trade:
                yield self.trade(trade)
            case {"ty": str() as type, "cd": _} as candle if type in TIMEFRAMES:
                yield self.candle(candle)
            case {"status": "UP"}:
                yield Alive()
            case {"error": {"name": code, "message": reason}}:
                yield Error(code="request", message=f"{reason} (code {code})")
            case other:
                yield Unknown(other)

    def trade(self, given: dict[str, Any]) -> PublicTrade:
        native = given["cd"]
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=str(given["sid"]), price=given["tp"],
                           quantity=given["tv"], side=TAKER[given["ab"]], time=from_millis(given["ttms"]),
                           timestamp=from_millis(given["tms"]),
                           data=besides(given, "ty", "cd", "sid", "tp", "tv", "ab", "ttms", "tms"))  # fmt: skip

    def candle(self, given: dict[str, Any]) -> Candle:
        native = given["cd"]
        known = ("ty", "cd", "cdttmu", "op", "hp", "lp", "tp", "catv", "tms")
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=TIMEFRAMES[given["ty"]],
                      start=f"{given['cdttmu']}Z", open=given["op"], high=given["hp"], low=given["lp"], close=given["tp"],
                      volume=given["catv"], timestamp=from_millis(given["tms"]), data=besides(given, *known))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Signal]:
        """Learn the markets. Upbit writes the quote currency first: KRW-BTC is BTC/KRW."""
        if answer.ok:
            listed = loads(answer.text)
            pairs = [each["market"].split("-", 1) for each in listed]
            yield Symbols([(f"{quote}-{base}", f"{base}/{quote}") for quote, base in pairs], complete=True)
            yield from instruments(listed, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        quote, base = given["market"].split("-", 1)
        return Instrument(symbol=f"{base}/{quote}", native_symbol=given["market"], base=base, quote=quote,
                          name=given.get("english_name"))  # fmt: skip
