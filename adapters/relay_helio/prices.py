"""What Helio says of markets: quoteEvent and depthEvent (https://docs.helio.trade/trader/websocket)."""

from typing import Any

from relay.model.events import Depth, Quote
from relay_helio.reports import Members, first, members


def quote(given: Members, native: str, symbol: str) -> Quote:
    """The best prices."""
    return Quote(symbol=symbol, native_symbol=native, bid=given.get("bid"), ask=given.get("ask"), time=given.get("ts"))


def depth(given: Members, native: str, symbol: str) -> Depth:
    """The whole book."""
    return Depth(symbol=symbol, native_symbol=native, bids=map(level, given["bids"]), asks=map(level, given["asks"]),
                 snapshot=True, timestamp=given.get("ts"))  # fmt: skip


def level(raw: Any) -> tuple[Any, Any]:
    """A level of the book, an object or an array of price and size."""
    match raw:
        case [price, size, *_]:
            return price, size
        case dict():
            given = members(raw)
            return given["price"], first(given, "size", "quantity", "volume", "qty")
    raise TypeError(f"expected a level, got {raw!r:.64}")
