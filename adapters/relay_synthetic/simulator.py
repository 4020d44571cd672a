"""The synthetic venue: fast quotes, trades, deep books and candles that are the same for the same seed."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import trio

from relay.adapter import dumps, loads
from relay.plugins.hookspecs import Simulated
from relay.testing.market import TIMEFRAMES, Bar, BookMoved, Market, Move, Printed, QuoteMoved, Tradable
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator

LEVELS = 40
INSTRUMENTS = (
    Tradable(symbol="BTC/USD", price=6_512_340, decimals=2, tick=10, size_decimals=5, typical=50_000, levels=LEVELS),
    Tradable(symbol="ETH/USD", price=344_125, decimals=2, tick=5, size_decimals=4, typical=80_000, levels=LEVELS),
    Tradable(symbol="SOL/USD", price=152_310, decimals=3, tick=10, size_decimals=2, typical=40_000, levels=LEVELS),
    Tradable(symbol="XRP/USD", price=52_340, decimals=5, size_decimals=0, typical=25_000, levels=LEVELS),
    Tradable(symbol="EUR/USD", price=108_430, decimals=5, typical=1_000_000, levels=LEVELS),
    Tradable(symbol="GBP/USD", price=127_120, decimals=5, spread=2, typical=1_000_000, levels=LEVELS),
    Tradable(symbol="USD/JPY", price=149_250, decimals=3, typical=1_000_000, levels=LEVELS),
    Tradable(
        symbol="XAU/USD", price=265_040, decimals=2, tick=5, spread=2, size_decimals=2, typical=500, levels=LEVELS
    ),
)
KINDS = ("quote", "trade", "depth", "candle")


class SyntheticSimulator(Simulator):
    """The venue.

    Args:
        seed: of the market.
        rate: moves a second of every instrument, each a quote, a depth delta and sometimes a trade; 0 leaves it to `tick`.
        clock: Unix nanoseconds.
    """

    ws_path = "/v1"
    http_path = "/v1"

    def __init__(
        self,
        *,
        seed: int = 1,
        rate: float = 20.0,
        instruments: Iterable[Tradable] = INSTRUMENTS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        if rate < 0:
            raise ValueError(f"rate: expected moves a second, got {rate}")
        self.market = Market(instruments, seed=seed, start_ns=clock())
        self._rate = rate
        self._clock = clock
        self._members: dict[str, list[Link]] = {}

    # --- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        if (request.method, request.target) != ("GET", "/v1/symbols"):
            return HttpResponse(status=404, body='{"reason":"not found"}')
        return HttpResponse(body=dumps([instrument.symbol for instrument in self.market.instruments]))

    def opened(self, link: Link) -> None:
        link.send(dumps({"op": "welcome", "symbols": [instrument.symbol for instrument in self.market.instruments]}))

    def received(self, link: Link, message: str | bytes) -> None:
        try:
            asked = loads(message)
        except (msgspec.DecodeError, RecursionError):
            asked = None
        match asked:
            case {"op": "subscribe", "streams": [*streams]}:
                self._subscribe(link, streams)
            case {"op": "unsubscribe", "streams": [*streams]}:
                for stream in streams:
                    self._leave(link, stream)
                link.send(dumps({"op": "unsubscribed", "streams": streams}))
            case {"op": "ping"}:
                link.send('{"op":"pong"}')
            case _:
                reason = "expected {op: subscribe | unsubscribe, streams: [...]} or {op: ping}"
                link.send(dumps({"op": "error", "reason": reason}))

    def closed(self, link: Link) -> None:
        for stream in list(self._members):
            self._leave(link, stream)

    def _subscribe(self, link: Link, streams: list[Any]) -> None:
        """Acknowledge first, then send what stands: a quote, the open candle, and always the book."""
        good = []
        for stream in streams:
            if self._exists(stream):
                good.append(stream)
            else:
                link.send(dumps({"op": "refused", "stream": str(stream), "reason": "no such stream"}))
        if good:
            link.send(dumps({"op": "subscribed", "streams": good}))
        for stream in good:
            self._leave(link, stream)
            self._members.setdefault(stream, []).append(link)
            for text in self._standing(stream):
                link.send(text)

    def _exists(self, stream: Any) -> bool:
        kind, _, rest = stream.partition(":") if isinstance(stream, str) else ("", "", "")
        symbol, colon, timeframe = rest.partition(":")
        return kind in KINDS and symbol in self.market and (timeframe in TIMEFRAMES if kind == "candle" else not colon)

    def _leave(self, link: Link, stream: Any) -> None:
        members = self._members.get(stream, []) if isinstance(stream, str) else []
        if link in members:
            members.remove(link)
            if not members:
                del self._members[stream]

    def _standing(self, stream: str) -> list[str]:
        kind, symbol, *timeframe = stream.split(":")
        match kind:
            case "quote":
                return [self._text(stream, self.market.quote(symbol))]
            case "depth":
                return [self._text(stream, self.market.book(symbol), snapshot=True)]
            case "candle":
                return [self._text(stream, bar) for bar in self.market.bars(symbol, timeframe[0])[-1:]]
        return []

    # --- the market --------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        due = trio.current_time()
        while self._rate:
            due = max(due + 1 / self._rate, trio.current_time())
            await trio.sleep_until(due)
            self.tick()
        await trio.sleep_forever()

    def tick(self) -> None:
        """Move every instrument once and tell those who subscribed; every message is written once."""
        for move in self.market.step(self._clock()):
            stream = _stream(move)
            members = self._members.get(stream)
            if members:
                text = self._text(stream, move)
                for link in members:
                    link.send(text)

    def _text(self, stream: str, move: Move, *, snapshot: bool = False) -> str:
        instrument = self.market.instrument(move.symbol)
        price, size = instrument.price_text, instrument.size_text
        data: dict[str, Any]
        match move:
            case QuoteMoved():
                data = {"bid": price(move.bid), "bid_size": size(move.bid_size), "ask": price(move.ask),
                        "ask_size": size(move.ask_size), "last": price(move.last), "volume": size(move.volume)}  # fmt: skip
            case BookMoved():
                data = {"what": "snapshot" if snapshot else "delta", "seq": move.seq,
                        "bids": [(price(p), size(s)) for p, s in move.bids],
                        "asks": [(price(p), size(s)) for p, s in move.asks]}  # fmt: skip
            case Printed():
                data = {
                    "id": str(move.id),
                    "price": price(move.price),
                    "size": size(move.size),
                    "side": move.side.lower(),
                }
            case Bar():
                data = {"start": move.start_ns, "o": price(move.open), "h": price(move.high), "l": price(move.low),
                        "c": price(move.close), "v": size(move.volume), "closed": move.closed}  # fmt: skip
        return dumps({"stream": stream, "ns": self.market.now_ns, **data})


def _stream(move: Move) -> str:
    match move:
        case QuoteMoved():
            return f"quote:{move.symbol}"
        case BookMoved():
            return f"depth:{move.symbol}"
        case Printed():
            return f"trade:{move.symbol}"
        case Bar():
            return f"candle:{move.symbol}:{move.timeframe}"


async def run(
    *,
    port: int = 0,
    seed: int = 1,
    rate: float = 20.0,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the venue until cancelled; `nursery.start` returns its address."""
    async with SyntheticSimulator(seed=seed, rate=rate).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(provider="synthetic", adapter="synthetic", run=run, pinned=("quote BTC/USD",))
