"""Alpaca, simulated: the sockets of the account, of stocks and of crypto, and the REST APIs, on one port.

Faithful to https://docs.alpaca.markets where it speaks. Clients that ask for MessagePack (``Content-Type``) get it on the
sockets with market data. The market never closes here. `relay_alpaca.simulator.exchange` lists what the brokerage does where
the pages say nothing.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec
import trio
from attrs import Factory, define

from relay.adapter import dumps, loads
from relay.model.text import from_nanos
from relay.plugins.hookspecs import Simulated
from relay.testing.market import SECOND, Bar, BookMoved, Market, Printed, QuoteMoved, Tradable
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from relay_alpaca.simulator.exchange import ApiError, Brokerage, number

KEY, SECRET = "PKSIMULATED0123456789", "simulated-secret-0123456789abcdef0123456"
INSTRUMENTS = (
    Tradable(symbol="AAPL", price=15_120, decimals=2, size_decimals=2, typical=40_000),
    Tradable(symbol="MSFT", price=41_250, decimals=2, size_decimals=2, typical=30_000),
    Tradable(symbol="FAKEPACA", price=13_000, decimals=2, size_decimals=2, typical=30_000),
    Tradable(symbol="BTC/USD", price=4_200_000, decimals=2, tick=50, size_decimals=4, typical=50_000),
)
STOCKS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds", "corrections", "cancelErrors")
CRYPTO = ("trades", "quotes", "orderbooks", "bars", "updatedBars", "dailyBars")


@define(eq=False)
class DataClient:
    """The state of a session with market data."""

    is_crypto: bool
    packs: bool
    is_known: bool = False
    channels: dict[str, list[str]] = Factory(dict)


class AlpacaSimulator(Simulator):
    """One account, and the markets.

    Args:
        seed: of the market.
        interval: seconds between two moves of the market; 0 leaves moving it to `tick`.
        requests_per_minute: the limit of the REST API; None for none.
        most_channels: trades and quotes that a session with market data may have; None for any number.
        connections: sessions of one socket with market data at a time.
        clock: Unix nanoseconds.
    """

    ws_path = "/stream"

    def __init__(
        self,
        *,
        seed: int = 1,
        interval: float = 0.5,
        instruments: Iterable[Tradable] = INSTRUMENTS,
        requests_per_minute: int | None = 200,
        most_channels: int | None = 30,
        connections: int = 1,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.market = Market(instruments, seed=seed, start_ns=clock())
        self.brokerage = Brokerage(self.market, self.tell, clock)
        self.account = self.brokerage.account
        self._interval, self._clock = interval, clock
        self._limit, self._window, self._used = requests_per_minute, 0, 0
        self._most_channels, self._connections = most_channels, connections

    # --- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        try:
            if (request.headers.get("apca-api-key-id"), request.headers.get("apca-api-secret-key")) != (KEY, SECRET):
                raise ApiError(401, 40110000, "request is not authorized")
            self._charge()
            status, body = self.brokerage.answer(request)
        except ApiError as error:
            status, body = error.status, error.body
        return HttpResponse(status=status, body="" if body is None else dumps(body))

    def _charge(self) -> None:
        minute = self._clock() // (60 * SECOND)
        if minute != self._window:
            self._window, self._used = minute, 0
        self._used += 1
        if self._limit is not None and self._used > self._limit:
            raise ApiError(429, 42910000, "too many requests.")

    # --- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        path = link.request.target.partition("?")[0]
        if path == "/stream":
            link.state = False
            return
        packs = link.request.headers.get("content-type") == "application/msgpack"
        link.state = DataClient("crypto" in path, packs)
        self._send(link, {"T": "success", "msg": "connected"})

    def received(self, link: Link, message: str | bytes) -> None:
        if isinstance(link.state, DataClient):
            self._market(link, link.state, message)
            return
        match loads(message):
            case {"action": "authenticate", "data": {"key_id": key, "secret_key": secret}}:
                link.state = (key, secret) == (KEY, SECRET)
                status = "authorized" if link.state else "unauthorized"
                self._say(link, "authorization", {"status": status, "action": "authenticate"})
            case {"action": "listen", "data": {"streams": [*streams]}} if link.state:
                self._say(link, "listening", {"streams": [each for each in streams if each == "trade_updates"]})
            case _:
                self._say(link, "listening", {"error": "required to authenticate first"})

    def _say(self, link: Link, stream: str, data: Any) -> None:
        """Send a frame of the account's, which is a binary one."""
        link.send(dumps({"stream": stream, "data": data}).encode())

    def tell(self, data: dict[str, Any]) -> None:
        """Send an update of an order to whoever listens."""
        for link in self.links:
            if link.state is True:
                self._say(link, "trade_updates", data)

    def _market(self, link: Link, client: DataClient, message: str | bytes) -> None:
        try:
            asked = msgspec.msgpack.decode(message) if client.packs and isinstance(message, bytes) else loads(message)
        except msgspec.DecodeError:
            asked = None
        match asked:
            case {"action": "auth", "key": key, "secret": secret}:
                others = sum(
                    isinstance(each.state, DataClient)
                    and each.state.is_known
                    and each.state.is_crypto is client.is_crypto
                    for each in self.links
                )
                if (key, secret) != (KEY, SECRET):
                    self._refuse(link, 402, "auth failed")
                elif others >= self._connections:
                    self._refuse(link, 406, "connection limit exceeded")
                    link.close(1000)
                else:
                    client.is_known = True
                    self._send(link, {"T": "success", "msg": "authenticated"})
            case _ if not client.is_known:
                self._refuse(link, 401, "not authenticated")
            case {"action": "subscribe" | "unsubscribe" as action, **channels}:
                self._subscribe(link, client, dict(channels), add=action == "subscribe")
            case _:
                self._refuse(link, 400, "invalid syntax")

    def _subscribe(self, link: Link, client: DataClient, channels: dict[Any, Any], *, add: bool) -> None:
        has = {name: list(symbols) for name, symbols in client.channels.items()}
        for name, symbols in channels.items():
            if name not in (CRYPTO if client.is_crypto else STOCKS):
                self._refuse(link, 410, "invalid subscribe action for this feed")
                return
            of_name = has.setdefault(name, [])
            has[name] = [*of_name, *(each for each in symbols if each not in of_name)] if add else [
                each for each in of_name if each not in symbols
            ]  # fmt: skip
        if (
            self._most_channels is not None
            and len(has.get("trades", ())) + len(has.get("quotes", ())) > self._most_channels
        ):
            self._refuse(link, 405, "symbol limit exceeded")
            return
        client.channels = has
        known = CRYPTO if client.is_crypto else STOCKS
        self._send(link, {"T": "subscription", **{name: has.get(name, []) for name in known}})
        for symbol in channels.get("orderbooks", ()) if add else ():
            if symbol in self.market:
                self._book(link, self.market.book(symbol), reset=True)

    def _refuse(self, link: Link, code: int, message: str) -> None:
        self._send(link, {"T": "error", "code": code, "msg": message})

    def _send(self, link: Link, *messages: dict[str, Any]) -> None:
        text = dumps(list(messages))
        link.send(_packed(text) if link.state.packs else text)

    # --- over time ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Move the market once and tell what came of it."""
        now = self._clock()
        for move in self.market.step(now):
            self._moved(move)
        self.brokerage.changed(self.account.step(now))

    def _moved(self, move: object) -> None:
        at = from_nanos(self._clock())
        match move:
            case QuoteMoved(symbol=symbol):
                self.publish("quotes", symbol, {"T": "q", "S": symbol, **self.brokerage.quote(symbol)})
            case Printed(symbol=symbol):
                instrument = self.market.instrument(symbol)
                of_kind = {"tks": move.side[0]} if "/" in symbol else {"x": "V", "c": ["@"], "z": "C"}
                price, size = instrument.price_text(move.price), instrument.size_text(move.size)
                trade = {"i": int(move.id), "p": number(price), "s": number(size), **of_kind, "t": at}
                self.publish("trades", symbol, {"T": "t", "S": symbol, **trade})
            case Bar(symbol=symbol, timeframe="1m", closed=True):
                self.publish("bars", symbol, {"T": "b", "S": symbol, **self._bar(move)})
            case BookMoved(symbol=symbol):
                for link in self._subscribers("orderbooks", symbol):
                    self._book(link, move)

    def _bar(self, bar: Bar) -> dict[str, Any]:
        instrument = self.market.instrument(bar.symbol)
        prices = {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close}
        return {**{name: number(instrument.price_text(price)) for name, price in prices.items()},
                "v": number(instrument.size_text(bar.volume)), "n": 1, "vw": number(instrument.price_text(bar.close)),
                "t": from_nanos(bar.start_ns)}  # fmt: skip

    def _book(self, link: Link, book: BookMoved, *, reset: bool = False) -> None:
        instrument = self.market.instrument(book.symbol)
        b, a = ([{"p": number(instrument.price_text(p)), "s": number(instrument.size_text(s))} for p, s in side]
                for side in (book.bids, book.asks))  # fmt: skip
        flag = {"r": True} if reset else {}
        self._send(link, {"T": "o", "S": book.symbol, "b": b, "a": a, **flag, "t": from_nanos(self._clock())})

    def _subscribers(self, channel: str, symbol: str) -> list[Link]:
        clients = [(link, link.state) for link in self.links if isinstance(link.state, DataClient)]
        return [link for link, client in clients if {symbol, "*"}.intersection(client.channels.get(channel, ()))]

    def publish(self, channel: str, symbol: str, message: dict[str, Any]) -> None:
        """Send a message of market data to whoever has the channel; for whatever a test wants Alpaca to say."""
        for link in self._subscribers(channel, symbol):
            self._send(link, message)

    async def background(self) -> None:
        while self._interval:
            await trio.sleep(self._interval)
            self.tick()


def _packed(text: str) -> bytes:
    """Return a frame in MessagePack, in which times are times and numbers are binary."""
    messages = msgspec.json.decode(text)
    for message in messages:
        if "t" in message:
            message["t"] = datetime.fromisoformat(message["t"][:26].rstrip("Z") + "+00:00")
    return msgspec.msgpack.encode(messages)


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated Alpaca until cancelled; `nursery.start` returns its address. The keys are `KEY` and `SECRET`."""
    async with AlpacaSimulator(seed=seed, requests_per_minute=None).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


SIMULATED = Simulated(
    provider="alpaca",
    adapter="alpaca",
    run=run,
    credentials={"key_id": KEY, "secret_key": SECRET},
    account="paper",
    pinned=("quote BTC/USD", "depth BTC/USD", "quote AAPL", "candle AAPL 1m", "account paper"),
)
