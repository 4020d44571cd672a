"""A small market for simulators: quotes that walk, a ladder, prints and candles. Pure, and the same for the same seed.

Prices and sizes are integers: a price counts units of ``10**-decimals``, a size units of ``10**-size_decimals``. No float
and no rounding happens on the way; `Tradable.price_text` writes a price with all its decimals, as providers do.

One `Market.step` moves every instrument once:

- the best bid walks by -2 .. 2 ticks, drawn towards its opening price so that a long demo stays in sight;
- the ladder has one level on each tick from the best price outwards; what changed of it is the step's `BookMoved`, numbered
  without holes per instrument;
- some steps print a trade at the touch; prints make the candles.

Time comes in as Unix nanoseconds and never runs backwards.
"""

from collections.abc import Iterable, Mapping
from random import Random

from attrs import Factory, define, evolve, frozen

from relay.model.enums import Side

SECOND = 1_000_000_000
#: Timeframes the market keeps candles of, in seconds.
TIMEFRAMES = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14_400, "1d": 86_400}
_KEPT_BARS = 500

#: Price or size in units.
Units = int
Ladder = Mapping[Units, Units]


def plain(units: int, decimals: int) -> str:
    """Return ``units * 10**-decimals`` as decimal text with exactly ``decimals`` digits behind the point."""
    sign, digits = ("-", str(-units)) if units < 0 else ("", str(units))
    if decimals == 0:
        return sign + digits
    digits = digits.rjust(decimals + 1, "0")
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def units(text: str, decimals: int) -> int:
    """Return decimal ``text`` as units of ``10**-decimals``.

    Raises:
        ValueError: not a plain decimal, or one with more digits than there are units for.
    """
    whole, _, fraction = text.removeprefix("-").partition(".")
    fraction = fraction.rstrip("0") if len(fraction) > decimals else fraction
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit() or len(fraction) > decimals:
        raise ValueError(f"not a number of at most {decimals} decimals: {text[:40]!r}")
    number = int((whole or "0") + fraction.ljust(decimals, "0"))
    return -number if text.startswith("-") else number


@frozen(kw_only=True)
class Tradable:
    """A traded instrument.

    Attributes:
        symbol: the provider's own text of it.
        price: opening best bid, in units.
        decimals: digits of a price behind the point.
        tick: units between two prices: ES with 2 decimals and tick 25 moves by 0.25.
        spread: ticks between best bid and best ask.
        size_decimals: digits of a size behind the point.
        typical: a typical size of a level, in units.
        levels: levels a side of the ladder.
    """

    symbol: str
    price: Units
    decimals: int
    tick: Units = 1
    spread: int = 1
    size_decimals: int = 0
    typical: Units = 100_000
    levels: int = 10

    def price_text(self, price: Units) -> str:
        return plain(price, self.decimals)

    def size_text(self, size: Units) -> str:
        return plain(size, self.size_decimals)


@frozen(kw_only=True)
class QuoteMoved:
    symbol: str
    time_ns: int
    bid: Units
    ask: Units
    bid_size: Units
    ask_size: Units
    last: Units
    volume: Units
    """Traded since the market opened."""


@frozen(kw_only=True)
class BookMoved:
    """The levels that changed, absolute; size 0 where a level went. ``seq`` has no holes per instrument."""

    symbol: str
    time_ns: int
    seq: int
    bids: tuple[tuple[Units, Units], ...]
    asks: tuple[tuple[Units, Units], ...]


@frozen(kw_only=True)
class Printed:
    symbol: str
    time_ns: int
    id: int
    price: Units
    size: Units
    side: Side
    """The taker's."""


@frozen(kw_only=True)
class Bar:
    """A candle as it stands; ``closed`` when it can no longer change."""

    symbol: str
    timeframe: str
    start_ns: int
    open: Units
    high: Units
    low: Units
    close: Units
    volume: Units
    closed: bool


Move = QuoteMoved | BookMoved | Printed | Bar


@define(eq=False)
class _Listed:
    """An instrument's state."""

    instrument: Tradable
    bid: Units
    last: Units
    volume: Units = 0
    seq: int = 0
    prints: int = 0
    bids: dict[Units, Units] = Factory(dict)
    asks: dict[Units, Units] = Factory(dict)
    bars: dict[str, list[Bar]] = Factory(dict)


class Market:
    """Instruments that move.

    Args:
        instruments: what is listed.
        seed: the same seed and the same steps give the same market.
        start_ns: Unix nanoseconds at which it opens.
    """

    def __init__(self, instruments: Iterable[Tradable], *, seed: int = 1, start_ns: int = 0) -> None:
        self._random = Random(seed)
        self.now_ns = start_ns
        self._listed: dict[str, _Listed] = {}
        for instrument in instruments:
            listed = _Listed(instrument, instrument.price, instrument.price)
            self._listed[instrument.symbol] = listed
            self._reladder(listed)
            listed.seq = 1

    @property
    def instruments(self) -> tuple[Tradable, ...]:
        return tuple(listed.instrument for listed in self._listed.values())

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._listed

    def instrument(self, symbol: str) -> Tradable:
        """Raises KeyError for what is not listed, as all that takes a symbol here."""
        return self._listed[symbol].instrument

    def quote(self, symbol: str) -> QuoteMoved:
        """Return the present quote."""
        listed = self._listed[symbol]
        ask = self._ask(listed)
        return QuoteMoved(
            symbol=symbol,
            time_ns=self.now_ns,
            bid=listed.bid,
            ask=ask,
            bid_size=listed.bids[listed.bid],
            ask_size=listed.asks[ask],
            last=listed.last,
            volume=listed.volume,
        )

    def book(self, symbol: str, levels: int | None = None) -> BookMoved:
        """Return the whole ladder, best first, with the number of the last change it contains."""
        listed = self._listed[symbol]
        return BookMoved(
            symbol=symbol,
            time_ns=self.now_ns,
            seq=listed.seq,
            bids=tuple(sorted(listed.bids.items(), reverse=True)[:levels]),
            asks=tuple(sorted(listed.asks.items())[:levels]),
        )

    def bars(self, symbol: str, timeframe: str) -> tuple[Bar, ...]:
        """Return the remembered candles, oldest first; the last one is still open."""
        return tuple(self._listed[symbol].bars.get(timeframe, ()))

    def step(self, now_ns: int) -> list[Move]:
        """Move every instrument once and return what changed, instrument by instrument."""
        self.now_ns = max(self.now_ns, now_ns)
        return [move for listed in self._listed.values() for move in self._move(listed)]

    def _move(self, listed: _Listed) -> list[Move]:
        before_bids, before_asks = dict(listed.bids), dict(listed.asks)
        self._walk(listed)
        self._reladder(listed)
        listed.seq += 1
        moves: list[Move] = []
        if self._random.random() < 0.3:
            moves += self._print(listed)
        changed = BookMoved(
            symbol=listed.instrument.symbol,
            time_ns=self.now_ns,
            seq=listed.seq,
            bids=_difference(before_bids, listed.bids),
            asks=_difference(before_asks, listed.asks),
        )
        return [changed, self.quote(listed.instrument.symbol), *moves]

    def _walk(self, listed: _Listed) -> None:
        instrument = listed.instrument
        away = (listed.bid - instrument.price) // instrument.tick
        choices = [-2, -1, -1, 0, 0, 1, 1, 2]
        if abs(away) > 200:
            choices += [-1, -2] if away > 0 else [1, 2]
        listed.bid = max(instrument.tick, listed.bid + self._random.choice(choices) * instrument.tick)

    def _ask(self, listed: _Listed) -> Units:
        return listed.bid + listed.instrument.spread * listed.instrument.tick

    def _reladder(self, listed: _Listed) -> None:
        """Put a level on every tick from the touch outwards; levels that stay keep their size, one a side changes it."""
        tick, count = listed.instrument.tick, listed.instrument.levels
        ask = self._ask(listed)
        bids = [price for n in range(count) if (price := listed.bid - n * tick) > 0]
        asks = [ask + n * tick for n in range(count)]
        for prices, side in ((bids, listed.bids), (asks, listed.asks)):
            kept = {price: side.get(price) or self._size(listed, n) for n, price in enumerate(prices)}
            touched = self._random.randrange(len(prices))
            kept[prices[touched]] = self._size(listed, touched)
            side.clear()
            side.update(kept)

    def _size(self, listed: _Listed, depth: int) -> Units:
        typical = listed.instrument.typical
        return max(1, typical * self._random.randrange(20, 180) // 100 + typical * depth // 4)

    def _print(self, listed: _Listed) -> list[Move]:
        side = self._random.choice((Side.BUY, Side.SELL))
        price = self._ask(listed) if side is Side.BUY else listed.bid
        at_touch = listed.asks[price] if side is Side.BUY else listed.bids[price]
        return self._traded(listed, side, price, max(1, at_touch * self._random.randrange(1, 50) // 100))

    def _traded(self, listed: _Listed, side: Side, price: Units, size: Units) -> list[Move]:
        symbol = listed.instrument.symbol
        listed.prints += 1
        listed.last, listed.volume = price, listed.volume + size
        print_ = Printed(symbol=symbol, time_ns=self.now_ns, id=listed.prints, price=price, size=size, side=side)
        bars = [
            bar for timeframe, seconds in TIMEFRAMES.items() for bar in self._bar(listed, timeframe, seconds, print_)
        ]
        return [print_, *bars]

    def _bar(self, listed: _Listed, timeframe: str, seconds: int, print_: Printed) -> list[Bar]:
        start = self.now_ns // (seconds * SECOND) * seconds * SECOND
        kept = listed.bars.setdefault(timeframe, [])
        price, size = print_.price, print_.size
        ended: list[Bar] = []
        if kept and kept[-1].start_ns == start:
            bar = kept.pop()
            high, low = max(bar.high, price), min(bar.low, price)
            opened, volume = bar.open, bar.volume + size
        else:
            if kept:
                ended = [evolve(kept.pop(), closed=True)]
                kept.extend(ended)
            opened, high, low, volume = price, price, price, size
        kept.append(Bar(symbol=print_.symbol, timeframe=timeframe, start_ns=start, open=opened, high=high, low=low,
                        close=price, volume=volume, closed=False))  # fmt: skip
        del kept[:-_KEPT_BARS]
        return [*ended, kept[-1]]


def _difference(before: Ladder, after: Ladder) -> tuple[tuple[Units, Units], ...]:
    changed = {price: size for price, size in after.items() if before.get(price) != size}
    gone = dict.fromkeys((price for price in before if price not in after), 0)
    return tuple(sorted({**changed, **gone}.items()))
