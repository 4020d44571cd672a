"""The order book of one symbol at one provider, folded from its depth events.

A late joiner, or a slow subscriber whose deltas gave way, gets the book as one snapshot with the number of the topic's last
event; the deltas behind it have larger numbers, so nothing is missing and nothing is applied twice.

- A snapshot replaces the book, a delta sets the size of the levels it names; size zero takes a level away.
- Prices are the same level when they are the same number ("1.10" and "1.1"); the text kept is the provider's last.
- A delta without a book, or after a hole, means nothing: there is no book until the next snapshot.
"""

from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache

from relay.model.events import Depth, Level, Stamp


class Book:
    """Bids and asks as they stand, and what the last message said of them."""

    __slots__ = ("_asks", "_bids", "_last", "stamp")

    def __init__(self) -> None:
        self._bids: dict[str, Level] = {}
        self._asks: dict[str, Level] = {}
        self._last: Depth | None = None
        self.stamp: Stamp | None = None
        """Of the last message folded in."""

    @property
    def ready(self) -> bool:
        """There is a book: a snapshot came, and no hole after it."""
        return self._last is not None

    def apply(self, event: Depth, stamp: Stamp) -> None:
        """Fold one message in."""
        if event.snapshot:
            self._bids.clear()
            self._asks.clear()
        elif self._last is None:
            return
        _fold(self._bids, event.bids)
        _fold(self._asks, event.asks)
        self._last, self.stamp = event, stamp

    def invalidate(self) -> None:
        """Something is missing: no book until the next snapshot."""
        self._bids.clear()
        self._asks.clear()
        self._last = self.stamp = None

    def snapshot(self) -> Depth | None:
        """The whole book as one event, bids from the highest, asks from the lowest; None when there is none."""
        last = self._last
        if last is None:
            return None
        return Depth(
            symbol=last.symbol,
            native_symbol=last.native_symbol,
            timestamp=last.timestamp,
            bids=sorted(self._bids.values(), key=_price, reverse=True),
            asks=sorted(self._asks.values(), key=_price),
            snapshot=True,
            last_seq=last.last_seq,
            checksum=last.checksum,
        )


def _fold(side: dict[str, Level], levels: Iterable[Level]) -> None:
    for level in levels:
        price, size = level
        if size.strip("-0."):
            side[_number(price)] = level
        else:  # a zero, however it is written
            side.pop(_number(price), None)


def _price(level: Level) -> Decimal:
    return Decimal(level[0])


@lru_cache(maxsize=16_384)
def _number(price: str) -> str:
    """One text per number, of however many digits.

    A book's prices come again and again: remembering them costs a tenth of hashing decimals.
    """
    whole, _, fraction = price.partition(".")
    text = f"{whole.lstrip('-0')}.{fraction.rstrip('0')}"
    return f"-{text}" if whole.startswith("-") and text != "." else text
