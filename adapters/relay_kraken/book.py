"""Kraken's book messages and their checksum.

https://docs.kraken.com/api/docs/websocket-v1/book and https://docs.kraken.com/api/docs/guides/spot-ws-book-v1
"""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from relay.adapter import Unknown
from relay.model.events import Depth, Level
from relay.model.text import from_seconds


def read_book(parts: Sequence[Mapping[str, Any]], symbol: str, native: str) -> Depth | Unknown:
    """Read one book message's data: a snapshot (``as``, ``bs``), or changed levels (``a``, ``b``) with a checksum (``c``).

    Changes of both sides come as two objects in one message, the checksum in the last. A level is ``[price, volume, time]``,
    with an ``"r"`` behind where Kraken only publishes it again because it came back into view. A message has no time of its
    own: a change has the newest of the levels that changed, a snapshot (whose levels are as old as they are) none.
    """
    sides = {side: levels for part in parts for side, levels in part.items()}
    match sides:
        case {"as": asks, "bs": bids}:
            return Depth(symbol=symbol, native_symbol=native, bids=bids, asks=asks, snapshot=True)
        case {"a": _} | {"b": _} if len(sides) == sum(map(len, parts)):
            bids, asks = sides.get("b", []), sides.get("a", [])
            newest = max((time for _, _, time, *again in [*bids, *asks] if again != ["r"]), default=None)
            return Depth(
                symbol=symbol,
                native_symbol=native,
                bids=bids,
                asks=asks,
                snapshot=False,
                checksum=sides.get("c"),
                timestamp=newest and from_seconds(newest),
            )
    return Unknown(parts, "not a book")


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> str:
    """Return the CRC-32 of the digits of a book's ten best levels, asks before bids; sides are given best first."""
    digits = (text.replace(".", "").lstrip("0") for level in [*asks[:10], *bids[:10]] for text in level)
    return str(crc32("".join(digits).encode()))
