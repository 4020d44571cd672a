"""The recorded sessions of public venues: what an independent decoder counted in them, and the books they imply.

The books are rebuilt from the raw frames by a few lines for each venue that share nothing with the adapters.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import attrs
import msgspec
from attrs import frozen

from relay.adapter import Adapter
from relay.testing.recording import Record, Recording
from relay_binance.adapter import Binance
from relay_binance.futures import BinanceFutures
from relay_bitfinex.adapter import Bitfinex
from relay_bitstamp.adapter import Bitstamp
from relay_coinbase.adapter import Coinbase
from relay_deribit.adapter import Deribit
from relay_gateio.adapter import GateIo
from relay_kraken.adapter import Kraken
from relay_kraken_futures.adapter import KrakenFutures
from relay_kucoin.adapter import KuCoin
from relay_okx.adapter import Okx
from relay_upbit.adapter import Upbit
from support.recordings import load_recording

loads = msgspec.json.Decoder(float_hook=str).decode

#: One side of a book: price -> price and size as they were written.
Side = dict[Decimal, tuple[str, str]]
#: Native symbol -> bids and asks.
Books = dict[str, tuple[Side, Side]]
#: One step of a book: the symbol, whether it is a whole book, bids and asks as (price, size).
Step = tuple[str, bool, Iterable[Any], Iterable[Any]]


@frozen(kw_only=True)
class Venue:
    """A venue with a recorded session.

    Attributes:
        counts: the published events by kind, snapshots of books among ``depth``.
        books: how many books there are.
        steps: what the frames say of the books, from the raw recording.
        unknown: how many frames are not understood; why stands beside the number.
        moved: parts of the recorded URLs that are others today.
        instruments: how many there are in the metadata of the recording.
        added: records that today's API needs and the recording lacks.
        acknowledge: what the venue answers a subscription with, where the recording names other requests or none.
        greets: the venue speaks first, and the adapter waits for it; whoever recorded it did not.
    """

    adapter: type[Adapter]
    recording: str
    counts: Mapping[str, int]
    books: int
    steps: Callable[[Recording], Iterator[Step]]
    options: Mapping[str, str] = attrs.Factory(dict)
    unknown: int = 0
    instruments: int = 0
    moved: Mapping[str, str] = attrs.Factory(dict)
    added: tuple[Record, ...] = ()
    levels: int | None = None
    acknowledge: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    greets: bool = False

    def reply(self, text: str) -> Iterator[str]:
        """Yield the answer to a frame of the client's, for the player."""
        if self.acknowledge is not None:
            yield msgspec.json.encode(self.acknowledge(loads(text))).decode()

    def load(self) -> Recording:
        """Return the recording, with the URLs of today."""
        records = [*self.added, *map(self._today, load_recording(f"{self.recording}.jsonl").records)]
        if self.greets:
            greeting = next(record for record in records if record.dir == "in")
            records.remove(greeting)
            records.insert(next(n for n, record in enumerate(records) if record.dir == "out"), greeting)
        return Recording(tuple(records))

    def _today(self, record: Record) -> Record:
        url = record.url
        for old, new in self.moved.items():
            url = url.replace(old, new)
        return attrs.evolve(record, url=url)

    def implied_books(self, recording: Recording) -> Books:
        """Return the books after the last frame."""
        books: Books = {}
        for native, whole, *sides in self.steps(recording):
            if whole:
                books[native] = ({}, {})
            for side, levels, descending in zip(books[native], sides, (True, False), strict=True):
                for price, size in levels:
                    if Decimal(size):
                        side[Decimal(price)] = (str(price), str(size))
                    else:
                        side.pop(Decimal(price), None)
                for price in sorted(side, reverse=descending)[self.levels :] if self.levels else ():
                    del side[price]
        return books


def frames(recording: Recording) -> Iterator[Any]:
    for record in recording.incoming:
        yield loads(record.data)


def fetched(recording: Recording, path: str) -> Iterator[tuple[str, Any]]:
    """The books that were fetched: the symbol in the URL behind ``path``, and the body."""
    for record in recording.records:
        if record.dir == "http" and path in record.url:
            yield re.split(r"[?&]", record.url.split(path)[1])[0], loads(record.data)


def joined(whole: Iterable[tuple[str, int, Any, Any]], changes: Iterable[tuple[str, int, Any, Any]]) -> Iterator[Step]:
    """Fetched books, and of the changes those that are numbered behind them."""
    covered = {}
    for native, number, bids, asks in whole:
        covered[native] = number
        yield native, True, pairs(bids), pairs(asks)
    for native, number, bids, asks in changes:
        if number > covered.get(native, number):
            yield native, False, pairs(bids), pairs(asks)


def pairs(levels: Iterable[Any]) -> list[tuple[str, str]]:
    return [(level[0], level[1]) for level in levels]


# --- the venues, each by its own rules -------------------------------------------------------------------------------


def binance(recording: Recording) -> Iterator[Step]:
    whole = [(s, b["lastUpdateId"], b["bids"], b["asks"]) for s, b in fetched(recording, "/depth?symbol=")]
    data = [frame["data"] for frame in frames(recording) if "data" in frame]
    yield from joined(whole, [(d["s"], d["u"], d["b"], d["a"]) for d in data if d.get("e") == "depthUpdate"])


def bitstamp(recording: Recording) -> Iterator[Step]:
    whole = [(s, int(b["microtimestamp"]), b["bids"], b["asks"]) for s, b in fetched(recording, "/order_book/")]
    data = [
        (frame["channel"].rsplit("_", 1)[1], frame["data"])
        for frame in frames(recording)
        if frame["event"] == "data" and frame["channel"].startswith("diff_order_book_")
    ]
    yield from joined(whole, [(s, int(d["microtimestamp"]), d["bids"], d["asks"]) for s, d in data])


def kraken(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        if isinstance(frame, list) and frame[-2].startswith("book"):
            for part in frame[1:-2]:
                bids, asks = part.get("bs", part.get("b", [])), part.get("as", part.get("a", []))
                yield frame[-1], "as" in part, pairs(bids), pairs(asks)


def kraken_futures(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        match frame:
            case {"feed": "book_snapshot", "product_id": native, "bids": bids, "asks": asks}:
                yield native, True, [(b["price"], b["qty"]) for b in bids], [(a["price"], a["qty"]) for a in asks]
            case {"feed": "book", "product_id": native, "side": "buy", "price": price, "qty": size}:
                yield native, False, [(price, size)], []
            case {"feed": "book", "product_id": native, "side": "sell", "price": price, "qty": size}:
                yield native, False, [], [(price, size)]


def kucoin(recording: Recording) -> Iterator[Step]:
    path = "/orderbook/level2?symbol="
    whole = [(s, int(b["data"]["sequence"]), b["data"]["bids"], b["data"]["asks"]) for s, b in fetched(recording, path)]
    data = [f["data"] for f in frames(recording) if f.get("topic", "").startswith("/market/level2:")]
    priced = {side: lambda d, side=side: [x for x in d["changes"][side] if x[0] != "0"] for side in ("bids", "asks")}
    yield from joined(whole, [(d["symbol"], d["sequenceEnd"], priced["bids"](d), priced["asks"](d)) for d in data])


def gateio(recording: Recording) -> Iterator[Step]:
    whole = [(s, b["id"], b["bids"], b["asks"]) for s, b in fetched(recording, "/order_book?currency_pair=")]
    data = [
        f["result"] for f in frames(recording) if f["channel"] == "spot.order_book_update" and f["event"] == "update"
    ]
    yield from joined(whole, [(d["s"], d["u"], d["b"], d["a"]) for d in data])


def okx(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        if "action" in frame:
            (book,) = frame["data"]
            yield frame["arg"]["instId"], frame["action"] == "snapshot", pairs(book["bids"]), pairs(book["asks"])


def coinbase(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        if frame["type"] == "snapshot":
            yield frame["product_id"], True, frame["bids"], frame["asks"]
        elif frame["type"] == "l2update":
            by_side = {name: [(p, s) for side, p, s in frame["changes"] if side == name] for name in ("buy", "sell")}
            yield frame["product_id"], False, by_side["buy"], by_side["sell"]


def bitfinex(recording: Recording) -> Iterator[Step]:
    books = {}
    for frame in frames(recording):
        if isinstance(frame, dict) and frame.get("channel") == "book":
            books[frame["chanId"]] = frame["pair"]
        elif isinstance(frame, list) and frame[0] in books and frame[1] != "hb":
            whole = isinstance(frame[1][0], list)
            bids: list[tuple[str, str]] = []
            asks: list[tuple[str, str]] = []
            for price, orders, amount in frame[1] if whole else [frame[1]]:
                side = asks if str(amount).startswith("-") else bids
                side.append((price, str(amount).removeprefix("-") if orders else "0"))
            yield books[frame[0]], whole, bids, asks


def deribit(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        if frame.get("params", {}).get("channel", "").startswith("book."):
            data = frame["params"]["data"]
            bids, asks = ([level[1:] for level in data[side]] for side in ("bids", "asks"))
            yield data["instrument_name"], data["type"] == "snapshot", bids, asks


def upbit(recording: Recording) -> Iterator[Step]:
    for frame in frames(recording):
        if frame["ty"] == "orderbook":
            yield (
                frame["cd"],
                True,
                [(u["bp"], u["bs"]) for u in frame["obu"]],
                [(u["ap"], u["as"]) for u in frame["obu"]],
            )


BULLET = Record(
    t=0, dir="http", method="POST", url="https://api.kucoin.com/api/v1/bullet-public",
    data='{"data": {"token": "TOKEN", "instanceServers": [{"endpoint": "wss://ws-api-spot.kucoin.com/"}]}}',
)  # fmt: skip
FUTURES = Record(
    t=0, dir="http", url="https://www.deribit.com/api/v2/public/get_instruments?currency=any&kind=future",
    data='{"result": []}',
)  # fmt: skip

VENUES = (
    Venue(
        adapter=Binance, options={"venue": "us"}, recording="binance_us", instruments=121, books=4, steps=binance,
        acknowledge=lambda asked: {"result": None, "id": asked["id"]},
        counts={"quote": 128, "public_trade": 11, "depth": 336, "candle": 5},
    ),
    Venue(  # the independent decoder counts 756: of the changes it passes on, 3 end where the book before them does
        adapter=BinanceFutures, recording="binance_futures", instruments=122, books=4, steps=binance,
        acknowledge=lambda asked: {"result": None, "id": asked["id"]},
        counts={"quote": 613, "public_trade": 91, "depth": 753, "candle": 67},
    ),
    Venue(  # each of 7 channels begins with the last 30 trades
        adapter=Bitfinex, recording="bitfinex", books=7, steps=bitfinex, instruments=293,
        moved={"pub:list:pair:exchange": "pub:list:pair:exchange,pub:info:pair"},
        counts={"quote": 21, "public_trade": 210, "depth": 1600},
    ),
    Venue(  # the independent decoder counts 627: two changes are contained in the book before them
        adapter=Bitstamp, recording="bitstamp", instruments=140, books=10, steps=bitstamp, counts={"public_trade": 10, "depth": 625},
    ),
    Venue(adapter=Coinbase, recording="coinbase", instruments=162, books=10, steps=coinbase,
          counts={"quote": 107, "public_trade": 107, "depth": 9729}),
    Venue(
        adapter=Deribit, recording="deribit", instruments=398, books=10, steps=deribit,
        acknowledge=lambda asked: {"id": asked["id"], "result": asked["params"].get("channels")}, counts={"quote": 89, "depth": 46},
        moved={"?currency=BTC&expired=false": "?currency=any&kind=spot"}, added=(FUTURES,),
    ),
    Venue(  # 14 candles have the volume in quote currency only: today's messages have both
        adapter=GateIo, recording="gateio", instruments=1458, books=10, steps=gateio, unknown=14,
        acknowledge=lambda asked: {**asked, "result": {"status": "success"}},
        counts={"quote": 22, "public_trade": 9, "depth": 169},
    ),
    Venue(
        adapter=Kraken, recording="kraken", instruments=293, books=10, steps=kraken, levels=1000,
        counts={"quote": 18, "public_trade": 10, "depth": 4279},
    ),
    Venue(  # the independent decoder leaves out the 1,000 trades that the channels begin with
        adapter=KrakenFutures, recording="kraken_futures", instruments=27, books=10, steps=kraken_futures,
        counts={"quote": 107, "public_trade": 1003, "depth": 7024},
    ),
    Venue(  # the independent decoder counts 3,823: it passes on 9 changes that are contained in the book fetched for them
        adapter=KuCoin, options={"book": "full"}, recording="kucoin", instruments=634, books=9, steps=kucoin, added=(BULLET,), greets=True,
        acknowledge=lambda asked: {"id": asked["id"], "type": "ack"},
        moved={"/api/v1/symbols": "/api/v2/symbols"},
        counts={"quote": 830, "public_trade": 18, "depth": 3814, "candle": 6},
    ),
    Venue(adapter=Okx, recording="okx", instruments=513, books=3, steps=okx, counts={"quote": 28, "public_trade": 74, "depth": 290}),
    Venue(adapter=Upbit, recording="upbit", instruments=294, books=5, steps=upbit, counts={"public_trade": 304, "depth": 145}),
)  # fmt: skip
