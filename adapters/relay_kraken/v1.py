"""Kraken's WebSocket API v1 and, of the REST API, ``AssetPairs``.

https://docs.kraken.com/api/docs/websocket-v1/ticker (trade, ohlc, book). Data are arrays, ``[channel id, data, (more
data,) "<channel>-<option>", "<pair>"]``; all else is an object with an ``event``. Pairs are spelled as in ``wsname``.
"""

from collections.abc import Iterable
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    Fetch,
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
from relay.adapter.reading import instruments, quoted, terms, tick_of
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Error, Event, Instrument, PublicTrade, Quote
from relay.model.text import from_seconds
from relay_kraken.book import read_book
from relay_kraken.words import STATUSES, TIMEFRAMES, TOO_MANY, channels, stream

TAKER = {"b": Side.BUY, "s": Side.SELL}
DONE = {"subscribed": True, "unsubscribed": False}
ALIASES = {"XBT": "BTC", "XDG": "DOGE"}


def canonical(name: str) -> str:
    return "/".join(ALIASES.get(asset, asset) for asset in name.split("/"))


class V1:
    """The protocol on one connection."""

    url = "wss://ws.kraken.com"

    def __init__(self, adapter: Adapter) -> None:
        self.symbol, self.native, self._depth = adapter.symbol, adapter.native, adapter.option("depth")
        #: The id of the last request: even for a subscription, odd for its end.
        self._reqid = 0
        self._status = "online"

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="symbols", url="/0/public/AssetPairs", needed=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                yield from self.requests("subscribe", topics)
            case Unsubscribe(topics):
                yield from self.requests("unsubscribe", topics)
            case Ping():
                yield dumps({"event": "ping"})

    def requests(self, event: str, topics: Iterable[Topic]) -> Iterable[str]:
        """Yield one frame for each channel, with the pairs of all its topics."""
        for name, options, pairs in channels(topics, self.native, self._depth):
            self._reqid = (self._reqid | 1) + 1 + (event == "unsubscribe")
            subscription = {"name": name, **options}
            yield dumps({"event": event, "reqid": self._reqid, "pair": list(pairs), "subscription": subscription})

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case [_, *parts, str() as channel, str() as pair] if channel.startswith("book-"):
                yield read_book(parts, self.symbol(pair), pair)
            case [_, [*trades], "trade", str() as pair]:
                for price, quantity, time, side, *_ in trades:
                    yield PublicTrade(symbol=self.symbol(pair), native_symbol=pair, price=price, quantity=quantity,
                                      side=TAKER[side], time=from_seconds(time))  # fmt: skip
            case [_, {"a": [ask, _, ask_size, *_], "b": [bid, _, bid_size, *_], "c": [last, *_], "v": [_, volume, *_]},
                  "ticker", str() as pair]:  # fmt: skip
                (bid, bid_size), (ask, ask_size) = quoted(bid, bid_size), quoted(ask, ask_size)
                yield Quote(symbol=self.symbol(pair), native_symbol=pair, bid=bid, bid_size=bid_size, ask=ask,
                            ask_size=ask_size, last=last, volume=volume)  # fmt: skip
            case [_, [time, end, o, h, low, c, vwap, v, *n], str() as name, str() as pair] if name.startswith("ohlc-"):
                minutes = int(name.removeprefix("ohlc-"))
                second, point, fraction = end.partition(".")
                start = from_seconds(f"{int(second) - 60 * minutes}{point}{fraction}")
                yield Candle(symbol=self.symbol(pair), native_symbol=pair, timeframe=TIMEFRAMES[minutes], start=start,
                             open=o, high=h, low=low, close=c, volume=v, timestamp=from_seconds(time),
                             data={"etime": end, "vwap": vwap, **dict(zip(("count",), n, strict=False))})  # fmt: skip
            case {"event": "heartbeat" | "pong"}:
                yield Alive()
            case {"event": "systemStatus", "status": str() as status}:
                changed, self._status = status != self._status, status
                yield Error(code="system_status", message=status) if changed else Alive()
            case {"errorMessage": reason} if reason == TOO_MANY:
                yield Limited()  # the subscription is asked for again when its acknowledgement is overdue
            case {"status": "error", "reqid": int() as id, "pair": str() as pair, "errorMessage": str() as why} if (
                id % 2
            ):
                yield Error(code="request", message=f"unsubscribe {pair}: {why}")
            case {"status": "error", "pair": str() as pair, "subscription": asked, "errorMessage": str() as reason}:
                yield Nack((self.topic(asked, pair),), reason)
            case {"event": "subscriptionStatus", "status": status, "pair": str() as pair, "subscription": subscription}:
                yield Ack((self.topic(subscription, pair),), done=DONE[status])
            case {"errorMessage": str() as reason}:
                yield Error(code="request", message=reason)
            case other:
                yield Unknown(other)

    def topic(self, subscription: dict[str, Any], pair: str) -> Topic:
        return stream(subscription["name"], self.symbol(pair), subscription.get("interval"))

    def fetched(self, answer: Answer) -> Iterable[Event | Signal]:
        if answer.ok:
            listed = loads(answer.text)
            if listed["error"]:  # Kraken answers 200 for these too
                yield Unknown(listed["error"], "; ".join(listed["error"]))
                return
            named = [pair for pair in listed["result"].values() if pair.get("wsname")]
            yield Symbols([(pair["wsname"], canonical(pair["wsname"])) for pair in named])
            yield from instruments(named, self.instrument)

    def instrument(self, pair: dict[str, Any]) -> Instrument:
        name, aliases = canonical(pair["wsname"]), (pair["altname"],) if "altname" in pair else None
        base, _, quote = name.partition("/")
        return Instrument(symbol=name, native_symbol=pair["wsname"], base=base, quote=quote, aliases=aliases,
                          quantity_step=tick_of(pair.get("lot_decimals")),
                          **terms(pair, tick_size="tick_size", minimum_quantity="ordermin", minimum_notional="costmin"),
                          status=STATUSES.get(pair.get("status", "")))  # fmt: skip
