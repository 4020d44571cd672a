"""Binance USDⓈ-M futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.

The messages are those of spot, with an event time in each, and books whose changes name the one before them (``pu``). Since
April 2026 quotes and books are at one endpoint, and trades and candles at another one.
"""

from typing import Any

from relay.adapter import Book, Heartbeat, Offer, Rate, Sequence, Session
from relay.adapter.reading import whole
from relay_binance.adapter import INTERVALS, Binance

BTC = {"symbol": "BTCUSDT"}


class BinanceFutures(Binance):
    name = "binance_futures"
    options = ()
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC, socket="market"),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(
            kind="candle", timeframes=tuple(each for each in INTERVALS if each != "1s"), example=BTC, socket="market"
        ),
    )
    session = Session(
        url="wss://fstream.binance.com/public/stream",
        sockets={"market": "wss://fstream.binance.com/market/stream"},
        http="https://fapi.binance.com",
        heartbeat=Heartbeat(every=30),
        silent_after=75,
        ack_within=10,
        most_topics=1024,
        most_connections=20,
        refusals=Binance.session.refusals,
        book=Book.FETCHED,
        sequence=Sequence(scope="topic", contiguous=True),
        limits=(Rate(9, burst=9), Rate(300, per=300, of="dial"), Rate(2400, per=60, of="http")),
    )
    rest, symbols_weight, book_weight = "/fapi/v1", 1, 20

    def first_seq(self, change: dict[str, Any]) -> int:
        """Return the number that ``pu`` names, plus one: ``U`` only counts what happened in between."""
        return whole(change["pu"]) + 1

    def canonical(self, listed: dict[str, Any]) -> str:
        """Return the contract's name as it is: ``BTCUSDT`` is not the pair BTC/USDT."""
        return str(listed["symbol"])
