"""Reading what Alpaca sends: market data by the letter in ``T``, and the objects of its REST API, which updates have too.

https://docs.alpaca.markets/docs/real-time-stock-pricing-data, https://docs.alpaca.markets/reference/getallorders.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from relay.adapter.reading import besides, first, members, present, quoted, terms, text, tradable, word
from relay.model.channels import Topic
from relay.model.enums import OrderEvent, OrderStatus, OrderType, PositionSide, Side, TimeInForce, TradeEvent
from relay.model.events import (
    Account,
    Candle,
    Depth,
    Event,
    Instrument,
    Order,
    Position,
    ProviderSignal,
    PublicTrade,
    Quote,
    Trade,
)

Given = dict[str, Any]
Symbol = Callable[[str], str]
Kept = dict[str, Any]

#: The channels of a topic by its kind; of candles by the timeframe.
CHANNELS = {
    "quote": ("quotes",),
    "public_trade": ("trades",),
    "depth": ("orderbooks",),
    "signal": ("statuses", "lulds"),
}
BARS = {"1m": ("bars", "updatedBars"), "1d": ("dailyBars",)}
#: Channels that crypto has none of.
OF_STOCKS = ("statuses", "lulds")
#: Fills that are remembered by their order and its filled quantity.
MOST_FILLS = 5000

WAITING = ("ACCEPTED", "PENDING_NEW", "ACCEPTED_FOR_BIDDING", "HELD", "PENDING_REVIEW", "SUSPENDED")
WORKING = ("NEW", "PENDING_REPLACE", "DONE_FOR_DAY", "STOPPED", "CALCULATED")
STATUS = {
    **dict.fromkeys(WAITING, OrderStatus.PENDING), **dict.fromkeys(WORKING, OrderStatus.OPEN),
    "PARTIALLY_FILLED": OrderStatus.PARTIALLY_FILLED, "FILLED": OrderStatus.FILLED, "CANCELED": OrderStatus.CANCELLED,
    "EXPIRED": OrderStatus.EXPIRED, "REJECTED": OrderStatus.REJECTED, "REPLACED": OrderStatus.REPLACED,
    "PENDING_CANCEL": OrderStatus.PENDING_CANCEL,
}  # fmt: skip
#: Words of a status that say no more than the relay's.
PLAIN = ("new", "partially_filled", "filled", "canceled", "expired", "rejected", "replaced", "pending_cancel")
TYPES = {each.value: each for each in OrderType}
TIMES = {each.value: each for each in (TimeInForce.DAY, TimeInForce.GTC, TimeInForce.OPG, TimeInForce.CLS,
                                       TimeInForce.IOC, TimeInForce.FOK)}  # fmt: skip
SIDES = {"BUY": Side.BUY, "SELL": Side.SELL, "SELL_SHORT": Side.SELL}
INTENTS = {f"{side}_TO_{intent}": intent for side in ("BUY", "SELL") for intent in ("OPEN", "CLOSE")}
HELD = {"LONG": PositionSide.LONG, "SHORT": PositionSide.SHORT}
FILLS = {"fill": TradeEvent.TRADE_FILLED, "partial_fill": TradeEvent.TRADE_FILLED, "trade_bust": TradeEvent.TRADE_BUSTED,
         "trade_correct": TradeEvent.TRADE_CORRECTED}  # fmt: skip
REFUSED = {"order_cancel_rejected": OrderEvent.ORDER_CANCEL_REJECTED,
           "order_replace_rejected": OrderEvent.ORDER_MODIFY_REJECTED}  # fmt: skip
#: Members of an order that are fields of the event, or say nothing that another one does not.
ORDER = ("id", "client_order_id", "symbol", "side", "type", "order_type", "qty", "notional", "filled_qty", "status",
         "time_in_force", "limit_price", "stop_price", "trail_price", "trail_percent", "filled_avg_price", "replaces",
         "replaced_by", "extended_hours", "position_intent", "legs", "created_at", "updated_at")  # fmt: skip
POSITION = ("symbol", "side", "qty", "avg_entry_price", "current_price", "unrealized_pl")


# --- assets ----------------------------------------------------------------------------------------------------------


def instrument(given: Given) -> Instrument:
    """Read an asset. ``min_order_size`` moves with the price, so that it is no bound for an order some time later."""
    symbol, name = text(given, "symbol"), given.get("name") or None
    pair = dict(zip(("base", "quote"), symbol.split("/"), strict=True)) if "/" in symbol else {}
    known = ("id", "class", "symbol", "name", "status", "tradable", "min_trade_increment", "price_increment")
    return Instrument(symbol=symbol, native_symbol=symbol, name=name, instrument_type=given.get("class"),
                      status=tradable(given.get("tradable")), data=besides(given, *known), **pair,
                      **terms(given, tick_size="price_increment", quantity_step="min_trade_increment"))  # fmt: skip


# --- market data -----------------------------------------------------------------------------------------------------


def _channels(topic: Topic) -> tuple[str, ...]:
    return BARS[topic.timeframe or ""] if topic.kind == "candle" else CHANNELS[topic.kind]


def channels(topics: Iterable[Topic], native: Symbol) -> dict[str, list[str]]:
    """Return the symbols to ask for by channel. Raises ValueError where one has no such channel."""
    found: dict[str, list[str]] = {}
    for topic in topics:
        symbol = native(topic.symbol or "")
        is_crypto = "/" in symbol
        if topic.kind == ("signal" if is_crypto else "depth"):
            raise ValueError(f"{topic.kind}: Alpaca has none of {'crypto' if is_crypto else 'stocks'}")
        for channel in _channels(topic):
            found.setdefault(channel, []).append(symbol)
    return found


def is_in(given: Mapping[str, Any], topic: Topic, native: Symbol) -> bool:
    """Return True if a list of subscriptions has the topic."""
    return topic.kind != "account" and native(topic.symbol or "") in given.get(_channels(topic)[0], ())


def _quote(given: Given, about: Given) -> Quote:
    """Return a quote. Sizes of stocks are in lots or in shares, by the date and the feed: they stay in ``data``."""
    is_crypto = "/" in given["S"]
    (bid, bid_size), (ask, ask_size) = quoted(given["bp"], given["bs"]), quoted(given["ap"], given["as"])
    sizes: Given = {"bid_size": bid_size, "ask_size": ask_size} if is_crypto else {}
    data = besides(given, "T", "S", "t", "bp", "ap", *(("bs", "as") if is_crypto else ()))
    return Quote(bid=bid, ask=ask, time=given["t"], data=data, **sizes, **about)


def _trade(given: Given, about: Given) -> PublicTrade:
    side = {"B": Side.BUY, "S": Side.SELL}.get(given.get("tks", ""))
    data = besides(given, "T", "S", "i", "p", "s", "t", *(("tks",) if side else ()))
    return PublicTrade(
        id=str(given["i"]), price=given["p"], quantity=given["s"], side=side, time=given["t"], data=data, **about
    )


def _bar(given: Given, about: Given) -> Candle:
    """Return a bar. One of a minute may be sent again with trades that came late (``u``); the one of a day runs."""
    return Candle(
        timeframe="1d" if given["T"] == "d" else "1m", start=given["t"], open=given["o"], high=given["h"], low=given["l"],
        close=given["c"], volume=given["v"], closed=False if given["T"] == "d" else None,
        data=besides(given, "T", "S", "t", "o", "h", "l", "c", "v"), **about,
    )  # fmt: skip


def _book(given: Given, about: Given) -> Depth:
    bids, asks = ([(level["p"], level["s"]) for level in given.get(side, ())] for side in ("b", "a"))
    return Depth(bids=bids, asks=asks, snapshot=given.get("r") is True, timestamp=given["t"], **about)


def _signal(name: str) -> Callable[[Given, Given], ProviderSignal]:
    return lambda given, about: ProviderSignal(
        name=name, timestamp=given.get("t"), data=besides(given, "T", "S", "t"), **about
    )


#: The reader of a message by its letter. A print that is taken back or put right is no print: a client would count it.
MARKET: Mapping[str, Callable[[Given, Given], Event]] = {
    "q": _quote, "t": _trade, "b": _bar, "u": _bar, "d": _bar, "o": _book, "s": _signal("status"), "l": _signal("luld"),
    "c": _signal("correction"), "x": _signal("cancel"),
}  # fmt: skip


# --- the account -----------------------------------------------------------------------------------------------------


def update(data: Given, symbol: Symbol, kept: Kept) -> Iterator[Event]:
    """Yield the fill, if it is one, and the order of a message of ``trade_updates``."""
    event, order = text(data, "event"), members(data["order"])
    if event in FILLS:
        id, native = text(data, "execution_id"), text(order, "symbol")
        _fills(kept)[text(order, "id"), str(order.get("filled_qty"))] = id
        while len(_fills(kept)) > MOST_FILLS:
            del _fills(kept)[next(iter(_fills(kept)))]
        yield Trade(
            event=FILLS[event], id=id, order_id=order["id"], symbol=symbol(native), native_symbol=native,
            side=word(SIDES, order["side"]), quantity=data["qty"], price=data["price"], time=data.get("timestamp"),
            corrects=data.get("previous_execution_id") if FILLS[event] is not TradeEvent.TRADE_FILLED else None,
            data=present(position_qty=data.get("position_qty")) or None,
        )  # fmt: skip
    yield from orders(order, symbol, kept, REFUSED.get(event), timestamp=data.get("timestamp"))


def _fills(kept: Kept) -> dict[tuple[str, str], str]:
    """Return the ids of fills that the stream told, by the order and its filled quantity then."""
    found: dict[tuple[str, str], str] = kept.setdefault("fills", {})
    return found


def activity(given: Given, symbol: Symbol, kept: Kept) -> Trade:
    """Return a fill of the account's activities with the stream's id of it, or the execution's, which is behind ``::``."""
    native, order_id = text(given, "symbol"), text(given, "order_id")
    id = _fills(kept).get((order_id, str(given.get("cum_qty")))) or text(given, "id").rpartition("::")[2]
    data = besides(given, "id", "activity_type", "symbol", "order_id", "side", "qty", "price", "transaction_time")
    return Trade(id=id, order_id=order_id, symbol=symbol(native), native_symbol=native, side=word(SIDES, given["side"]),
                 quantity=given["qty"], price=given["price"], time=given["transaction_time"], data=data)  # fmt: skip


def orders(given: Given, symbol: Symbol, kept: Kept, event: OrderEvent | None = None, **more: Any) -> Iterator[Order]:
    """Yield an order, and behind it the legs that it has. One of several symbols has none itself: its legs are told."""
    if given.get("symbol"):
        order = _order(given, symbol, event, **more)
        submitted = kept.setdefault("open", {})
        if order.status.is_final:
            submitted.pop(order.id, None)
        else:
            submitted[order.id] = first(given, "submitted_at", "created_at")
        yield order
    for leg in given.get("legs") or ():
        yield from orders(members(leg), symbol, kept, parent_order_id=given["id"])


def _order(given: Given, symbol: Symbol, event: OrderEvent | None, **more: Any) -> Order:
    native, percent = text(given, "symbol"), given.get("trail_percent")
    distance = first(given, "trail_percent", "trail_price")
    trailing: Given = {} if distance is None else {"trailing_type": "ABSOLUTE" if percent is None else "PERCENT"}
    intent = given.get("position_intent")
    plain = ("status",) if given["status"] in PLAIN else ()
    data = besides(given, *(name for name in ORDER if name != "status"), *plain)
    return Order(
        event=event, id=text(given, "id"), client_order_id=given.get("client_order_id"), symbol=symbol(native),
        native_symbol=native, side=word(SIDES, given["side"]), order_type=word(TYPES, first(given, "type", "order_type")),
        quantity=given.get("qty"), notional=given.get("notional"), filled_quantity=given.get("filled_qty"),
        status=word(STATUS, given["status"]), time_in_force=word(TIMES, given["time_in_force"]),
        limit_price=given.get("limit_price"), stop_price=given.get("stop_price"), trailing_distance=distance,
        average_fill_price=given.get("filled_avg_price"), replaces=given.get("replaces"),
        replaced_by=given.get("replaced_by"), extended_hours=given.get("extended_hours"),
        position_intent=word(INTENTS, intent) if intent else None, created_at=given.get("created_at"),
        updated_at=given.get("updated_at"), data=data, **trailing, **more,
    )  # fmt: skip


def position(given: Given, symbol: Symbol, kept: Kept) -> Position:
    """Return a position. Its id is the symbol: an account has one of each. Crypto has no slash here, as BTCUSD."""
    native = text(given, "symbol")
    native = kept.get("pairs", {}).get(native, native)
    return Position(
        event=None, id=native, symbol=symbol(native), native_symbol=native, side=word(HELD, given["side"]),
        quantity=given["qty"].removeprefix("-"), average_entry_price=given.get("avg_entry_price"),
        current_price=given.get("current_price"), unrealized_pnl=given.get("unrealized_pl"), data=besides(given, *POSITION),
    )  # fmt: skip


def money(given: Given) -> Account:
    return Account(event=None, balance=given["cash"], equity=given.get("equity"), margin_used=given.get("initial_margin"),
                   currency=given.get("currency"),
                   data=besides(given, "cash", "equity", "initial_margin", "currency"))  # fmt: skip
