"""Gate spot market data: WebSocket API v4, https://www.gate.com/docs/developers/apiv4/ws/en/, and of REST pairs and books.

Every message is ``{"channel": ..., "event": "subscribe" | "update", "result": {...}}``. Changes of a book are numbered
without holes; the book to join them with is fetched.
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
    Outgoing,
    Ping,
    Rate,
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
from relay.adapter.reading import besides, instruments, terms, tick_of, unless_zero
from relay.model.enums import Side, TradingStatus
from relay.model.events import Candle, Depth, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_millis, from_seconds

CHANNELS = {"quote": "spot.tickers", "public_trade": "spot.trades"}
INTERVALS = {timeframe: timeframe for timeframe in ("10s", "1m", "5m", "15m", "30m", "1h", "4h", "8h", "1d", "7d")}
BTC = {"symbol": "BTC/USDT"}
STATUSES = {"tradable": TradingStatus.TRADING, "untradable": TradingStatus.HALTED}  # or buyable, or sellable, alone


class GateIo(Adapter):
    name = "gateio"
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(INTERVALS), example=BTC),
    )
    session = Session(
        url="wss://api.gateio.ws/ws/v4/",
        http="https://api.gateio.ws",
        heartbeat=Heartbeat(every=15, frame=False),
        silent_after=45,
        ack_within=10,
        book=Book.FETCHED,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(Rate(40, burst=40), Rate(300, per=300, of="dial"), Rate(15, of="http")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = Requests()

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="symbols", url="/api/v4/spot/currency_pairs", within=30, needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe() | Unsubscribe():
                yield from self.frames(outgoing)
            case Ping():
                yield dumps({"channel": "spot.ping"})
            case Snapshot(topic):
                query = {"currency_pair": self.native(topic.symbol or ""), "limit": "100", "with_id": "true"}
                yield Fetch(tag=outgoing, url="/api/v4/spot/order_book", query=query)

    def frames(self, request: Subscribe | Unsubscribe) -> Iterable[str]:
        """Yield the frames: one names many pairs of tickers or trades, but one book or one candle."""
        for kind, channel in CHANNELS.items():
            if several := tuple(topic for topic in request.topics if topic.kind == kind):
                yield self.frame(type(request)(several), channel, [self.native(each.symbol or "") for each in several])
        for topic in request.topics:
            native = self.native(topic.symbol or "")
            if topic.kind == "depth":
                yield self.frame(type(request)((topic,)), "spot.order_book_update", [native, "100ms"])
            elif topic.kind == "candle":
                interval = INTERVALS[topic.timeframe or ""]
                yield self.frame(type(request)((topic,)), "spot.candlesticks", [interval, native])

    def frame(self, request: Subscribe | Unsubscribe, channel: str, payload: list[str]) -> str:
        event = "subscribe" if isinstance(request, Subscribe) else "unsubscribe"
        return dumps({"id": self.requests.next_id(request), "channel": channel, "event": event, "payload": payload})

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"channel": "spot.order_book_update", "event": "update", "result": book}:
                native = book["s"]
                yield Depth(symbol=self.symbol(native), native_symbol=native, bids=book["b"], asks=book["a"],
                            snapshot=False, first_seq=book["U"], last_seq=book["u"],
                            timestamp=from_millis(book["t"]))  # fmt: skip
            case {"channel": "spot.tickers", "event": "update", "result": ticker} as given:
                yield self.quote(ticker, given.get("time_ms"))
            case {"channel": "spot.trades", "event": "update", "result": trade}:
                yield self.trade(trade)
            case {"channel": "spot.candlesticks", "event": "update", "result": bar}:
                yield self.candle(bar)
            case {"channel": "spot.pong"}:
                yield Alive()
            case {"event": "subscribe" | "unsubscribe", "error": {"message": reason, "code": code}, **rest}:
                yield self.requests.refused(rest.get("id"), f"{reason} (code {code})")
            case {"event": "subscribe" | "unsubscribe", **rest}:
                yield self.requests.accepted(rest.get("id"))
            case other:
                yield Unknown(other)

    def quote(self, given: dict[str, Any], millis: int | None) -> Quote:
        native, known = given["currency_pair"], ("currency_pair", "highest_bid", "lowest_ask", "last", "base_volume")
        return Quote(symbol=self.symbol(native), native_symbol=native, bid=unless_zero(given["highest_bid"]),
                     ask=unless_zero(given["lowest_ask"]), last=unless_zero(given["last"]), volume=given["base_volume"],
                     timestamp=None if millis is None else from_millis(millis), data=besides(given, *known))  # fmt: skip

    def trade(self, given: dict[str, Any]) -> PublicTrade:
        native = given["currency_pair"]
        known = ("id", "price", "amount", "side", "currency_pair", "create_time", "create_time_ms")
        millis, _, rest = given["create_time_ms"].partition(".")  # "1619093543708.2642"
        return PublicTrade(symbol=self.symbol(native), native_symbol=native, id=str(given["id"]), price=given["price"],
                           quantity=given["amount"], side=Side(given["side"].upper()),
                           time=from_seconds(f"{millis[:-3]}.{millis[-3:]}{rest}"),
                           data=besides(given, *known))  # fmt: skip

    def candle(self, given: dict[str, Any]) -> Candle:
        """Return a candle: ``a`` is the volume in base currency, ``v`` the one in quote currency."""
        interval, _, native = given["n"].partition("_")
        return Candle(symbol=self.symbol(native), native_symbol=native, timeframe=interval, start=from_seconds(given["t"]),
                      open=given["o"], high=given["h"], low=given["l"], close=given["c"], volume=given["a"],
                      closed=given.get("w"), data=besides(given, *"tohlcanw"))  # fmt: skip

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if not answer.ok:
            return
        given = loads(answer.text)
        if isinstance(tag, Snapshot):
            symbol = tag.topic.symbol or ""
            yield Depth(symbol=symbol, native_symbol=self.native(symbol), bids=given["bids"], asks=given["asks"],
                        snapshot=True, last_seq=given["id"])  # fmt: skip
        else:
            yield Symbols([(pair["id"], f"{pair['base']}/{pair['quote']}") for pair in given], complete=True)
            yield from instruments(given, self.instrument)

    def instrument(self, given: dict[str, Any]) -> Instrument:
        return Instrument(symbol=f"{given['base']}/{given['quote']}", native_symbol=given["id"], base=given["base"],
                          quote=given["quote"], tick_size=tick_of(given.get("precision")),
                          quantity_step=tick_of(given.get("amount_precision")),
                          **terms(given, minimum_quantity="min_base_amount", maximum_quantity="max_base_amount",
                                  minimum_notional="min_quote_amount"),
                          status=STATUSES.get(given.get("trade_status", "")))  # fmt: skip
