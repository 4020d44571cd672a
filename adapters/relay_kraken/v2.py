"""Kraken's WebSocket API v2.

https://docs.kraken.com/api/docs/websocket-v2/ticker (trade, ohlc, book, instrument, status). Data are objects with a
``channel``; answers have the ``method`` and the ``req_id`` of their request. Pairs are spelled ``BTC/USD``. Prices and
quantities are JSON numbers "pushed onto the wire containing full precision": their digits stay as they were sent, and the
checksum is taken of them (https://docs.kraken.com/api/docs/guides/spot-ws-book-v2).
"""

from collections.abc import Iterable
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Fetch,
    Hello,
    Limited,
    Nack,
    Outgoing,
    Ping,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import besides, instruments, quoted, terms, unless_zero
from relay.limits import BoundedDict
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, Event, Instrument, PublicTrade, Quote
from relay_kraken.words import STATUSES, TIMEFRAMES, TOO_MANY, channels, stream

TAKER = {"buy": Side.BUY, "sell": Side.SELL}
SNAPSHOT = {"snapshot": True, "update": False}
DONE = {"subscribe": True, "unsubscribe": False}
#: Requests whose answers are awaited, at most so many.
ASKED = 10_000
OF_TICKER = ("symbol", "bid", "bid_qty", "ask", "ask_qty", "last", "volume", "timestamp")
OF_TRADE = ("symbol", "side", "price", "qty", "trade_id", "timestamp")
OF_BAR = ("symbol", "open", "high", "low", "close", "volume", "interval_begin", "interval")


class V2:
    """The protocol on one connection."""

    url = "wss://ws.kraken.com/v2"

    def __init__(self, adapter: Adapter) -> None:
        self.symbol, self.native, self._depth = adapter.symbol, adapter.native, adapter.option("depth")
        self._req_id = 0
        #: The topics of each request that have no answer yet, by pair: a refusal does not name the channel.
        self._asked: BoundedDict[int, dict[str, Topic]] = BoundedDict(ASKED)
        self._system = "online"
        #: The status of each pair that the instrument channel has named.
        self._statuses: dict[str, str] = {}

    def prepare(self) -> Iterable[Fetch]:
        return ()

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Hello():
                yield self.request("subscribe", {"channel": "instrument"})
            case Subscribe(topics):
                yield from self.requests("subscribe", topics)
            case Unsubscribe(topics):
                yield from self.requests("unsubscribe", topics)
            case Ping():
                yield self.request("ping")

    def request(self, method: str, params: dict[str, Any] | None = None) -> str:
        self._req_id += 1
        return dumps({"method": method, **({} if params is None else {"params": params}), "req_id": self._req_id})

    def requests(self, method: str, topics: Iterable[Topic]) -> Iterable[str]:
        """Yield one frame for each channel, with the pairs of all its topics."""
        for name, options, pairs in channels(topics, self.native, self._depth):
            params: dict[str, Any] = {"channel": name, "symbol": list(pairs), **options}
            if name == "ticker":
                params["event_trigger"] = "bbo"
            if method == "subscribe":
                params["snapshot"] = name != "trade"
            frame = self.request(method, params)
            self._asked[self._req_id] = pairs
            yield frame

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"channel": "book", "type": str() as type, "data": [*books]}:
                for book in books:
                    yield self.book(book, snapshot=SNAPSHOT[type])
            case {"channel": "ticker", "data": [*tickers]}:
                for ticker in tickers:
                    yield self.quote(ticker)
            case {"channel": "trade", "data": [*trades]}:
                for trade in trades:
                    yield self.trade(trade)
            case {"channel": "ohlc", "data": [*bars], **rest}:
                # The bars of a snapshot are history, oldest first: the newest of each pair is the one that runs.
                for bar in {bar["symbol"]: bar for bar in bars}.values() if rest["type"] == "snapshot" else bars:
                    yield self.candle(bar, rest.get("timestamp"))
            case {"channel": "heartbeat"} | {"method": "pong"}:
                yield Alive()
            case {"channel": "status", "data": [{"system": str() as system}]}:
                changed, self._system = system != self._system, system
                yield Error(code="system_status", message=system) if changed else Alive()
            case {"channel": "instrument", "type": str() as type, "data": {"pairs": [*pairs]}}:
                yield from self.instruments(pairs, told=not SNAPSHOT[type])
            case {"method": "subscribe" | "unsubscribe" as method, "success": True, "result": answered, **rest}:
                yield from self.accepted(method, answered, rest.get("req_id"))
            case {"method": str() as method, "error": str() as reason, **rest}:
                yield from self.refused(method, reason, rest.get("symbol"), rest.get("req_id"))
            case {"error": str() as reason}:
                yield Error(code="request", message=reason)
            case other:
                yield Unknown(other)

    def fetched(self, answer: Answer) -> Iterable[Event | Signal]:
        return ()

    # --- data --------------------------------------------------------------------------------------------------------

    def book(self, book: dict[str, Any], *, snapshot: bool) -> Depth:
        pair = book["symbol"]
        bids, asks = ([(level["price"], level["qty"]) for level in book[side]] for side in ("bids", "asks"))
        return Depth(symbol=self.symbol(pair), native_symbol=pair, bids=bids, asks=asks, snapshot=snapshot,
                     checksum=str(book["checksum"]), timestamp=book.get("timestamp"))  # fmt: skip

    def quote(self, ticker: dict[str, Any]) -> Quote:
        pair = ticker["symbol"]
        bid, bid_size = quoted(ticker["bid"], ticker["bid_qty"])
        ask, ask_size = quoted(ticker["ask"], ticker["ask_qty"])
        return Quote(symbol=self.symbol(pair), native_symbol=pair, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size,
                     last=unless_zero(ticker["last"]), volume=ticker["volume"], time=ticker.get("timestamp"),
                     data=besides(ticker, *OF_TICKER))  # fmt: skip

    def trade(self, trade: dict[str, Any]) -> PublicTrade:
        pair = trade["symbol"]
        return PublicTrade(symbol=self.symbol(pair), native_symbol=pair, id=str(trade["trade_id"]), price=trade["price"],
                           quantity=trade["qty"], side=TAKER[trade["side"]], time=trade["timestamp"],
                           data=besides(trade, *OF_TRADE))  # fmt: skip

    def candle(self, bar: dict[str, Any], sent: Any) -> Candle:
        pair = bar["symbol"]
        return Candle(symbol=self.symbol(pair), native_symbol=pair, timeframe=TIMEFRAMES[bar["interval"]],
                      start=bar["interval_begin"], open=bar["open"], high=bar["high"], low=bar["low"], close=bar["close"],
                      volume=bar["volume"], timestamp=sent, data=besides(bar, *OF_BAR))  # fmt: skip

    def instruments(self, pairs: list[dict[str, Any]], *, told: bool) -> Iterable[Event | Signal]:
        """Learn the pairs, and tell which have another status than before; of a snapshot nothing is news yet."""
        yield Symbols((pair["symbol"], pair["symbol"]) for pair in pairs)
        yield from instruments(pairs, self.instrument)
        for pair in pairs:
            name, status = pair["symbol"], pair["status"]
            if told and status != self._statuses.get(name, "online"):
                yield self.status(name, status)
            self._statuses[name] = status

    def instrument(self, pair: dict[str, Any]) -> Instrument:
        name = pair["symbol"]
        return Instrument(symbol=name, native_symbol=name, base=pair.get("base"), quote=pair.get("quote"),
                          status=STATUSES.get(pair["status"]),
                          **terms(pair, tick_size="price_increment", quantity_step="qty_increment",
                                  minimum_quantity="qty_min", minimum_notional="cost_min"))  # fmt: skip

    def status(self, pair: str, status: str) -> Error:
        return Error(code="instrument_status", message=f"{self.symbol(pair)}: {status}")

    # --- answers -----------------------------------------------------------------------------------------------------

    def accepted(self, method: str, answered: dict[str, Any], req_id: Any) -> Iterable[Event | Signal]:
        if answered["channel"] == "instrument":
            yield Alive()
            return
        pair = answered["symbol"]
        self.answered(req_id, pair)
        yield Ack((stream(answered["channel"], self.symbol(pair), answered.get("interval")),), done=DONE[method])
        if method == "subscribe" and (status := self._statuses.get(pair, "online")) != "online":
            yield self.status(pair, status)

    def refused(self, method: str, reason: str, pair: Any, req_id: Any) -> Iterable[Event | Signal]:
        topics = self.answered(req_id, pair)
        if reason == TOO_MANY:
            yield Limited()  # the subscription is asked for again when its acknowledgement is overdue
        elif method == "subscribe" and topics:
            yield Nack(topics, reason)
        else:
            yield Error(code="request", message=f"{method} {pair or ''}".strip() + f": {reason}")

    def answered(self, req_id: object, pair: Any) -> tuple[Topic, ...]:
        """Return the topics of a request that an answer is about: that of the pair, or all where it names none."""
        asked = self._asked.get(req_id, {}) if isinstance(req_id, int) else {}
        topics = tuple(asked.values()) if pair is None else tuple(filter(None, (asked.pop(pair, None),)))
        if isinstance(req_id, int) and (pair is None or not asked):
            self._asked.pop(req_id, None)
        return topics
