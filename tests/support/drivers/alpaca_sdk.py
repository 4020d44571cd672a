"""The broker's own SDK (PyPI ``alpaca-py``) against a simulator: ``alpaca_sdk.py STORY HTTP WS KEY SECRET``, reporting lines of JSON.

Stories: ``trade`` uses REST and the stream of the account, ``data`` the streams of stocks and crypto, ``refused`` wrong keys.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import alpaca
from alpaca.common.exceptions import APIError
from alpaca.data.live import CryptoDataStream, StockDataStream
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderClass, OrderSide, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetAssetsRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
    StopLossRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
)
from alpaca.trading.stream import TradingStream


def report(**line: Any) -> None:
    print(json.dumps(line, default=str), flush=True)


def failing(call: Callable[[], Any]) -> None:
    try:
        call()
        report(on="failed", why="nothing was refused")
    except APIError as error:
        report(on="refused", status=error.status_code, code=error.code, message=error.message)


def trade(http: str, ws: str, key: str, secret: str) -> None:
    client = TradingClient(key, secret, paper=True, url_override=http)
    updates = Updates(ws, key, secret)
    account = client.get_account()
    report(on="account", currency=account.currency, cash=account.cash, status=account.status)
    report(on="assets", symbols=sorted(each.symbol for each in client.get_all_assets(GetAssetsRequest())))
    report(on="market", open=client.get_clock().is_open, days=len(client.get_calendar()) > 200)
    bought = client.submit_order(
        MarketOrderRequest(
            symbol="AAPL", qty=10, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, client_order_id="sdk-1"
        )
    )
    updates.wait("fill", bought.id)
    report(on="bought", status=client.get_order_by_client_id("sdk-1").status, id=bought.id)
    for_money = MarketOrderRequest(symbol="MSFT", notional=1000, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
    updates.wait("fill", client.submit_order(for_money).id)
    resting = client.submit_order(
        LimitOrderRequest(symbol="AAPL", qty=5, side=OrderSide.BUY, time_in_force=TimeInForce.GTC, limit_price=100)
    )
    replaced = client.replace_order_by_id(resting.id, ReplaceOrderRequest(qty=7, limit_price=101))
    updates.wait("replaced", resting.id)
    report(on="replaced", chain=str(replaced.replaces) == str(resting.id), qty=replaced.qty,
           old=client.get_order_by_id(resting.id).status)  # fmt: skip
    client.cancel_order_by_id(replaced.id)
    updates.wait("canceled", replaced.id)
    bracket = client.submit_order(
        LimitOrderRequest(symbol="AAPL", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=999,
                          order_class=OrderClass.BRACKET, take_profit=TakeProfitRequest(limit_price=1200),
                          stop_loss=StopLossRequest(stop_price=50))
    )  # fmt: skip
    updates.wait("fill", bracket.id)
    report(on="bracket", legs=[leg.type for leg in bracket.legs])
    client.submit_order(
        TrailingStopOrderRequest(
            symbol="AAPL", qty=1, side=OrderSide.SELL, time_in_force=TimeInForce.GTC, trail_percent=5
        )
    )
    open_ones = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN))
    report(on="open", types=sorted(order.type for order in open_ones))
    failing(lambda: client.cancel_order_by_id(replaced.id))
    failing(lambda: client.get_order_by_id("00000000-0000-0000-0000-000000000000"))
    failing(lambda: client.submit_order(
        MarketOrderRequest(symbol="BTC/USD", qty=1000, side=OrderSide.BUY, time_in_force=TimeInForce.GTC)))  # fmt: skip
    report(on="cancelled", count=len(client.cancel_orders()))
    report(on="positions", held={each.symbol: each.qty for each in client.get_all_positions()})
    half = client.close_position("AAPL", ClosePositionRequest(qty="5"))
    updates.wait("fill", half.id)
    report(on="closed", orders=len(client.close_all_positions()), left=len(client.get_all_positions()))
    updates.stop()
    report(on="updates", version=alpaca.__version__, events=sorted({event for event, _ in updates.seen}))


class Updates:
    """The stream of the account, in a thread of its own."""

    def __init__(self, ws: str, key: str, secret: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self._came = threading.Condition()
        self._stream = TradingStream(key, secret, url_override=ws)
        self._stream.subscribe_trade_updates(self._take)
        self._thread = threading.Thread(target=self._stream.run)
        self._thread.start()

    async def _take(self, update: Any) -> None:
        with self._came:
            self.seen.append((str(getattr(update.event, "value", update.event)), str(update.order.id)))
            self._came.notify_all()

    def wait(self, event: str, id: Any) -> None:
        with self._came:
            if not self._came.wait_for(lambda: (event, str(id)) in self.seen, timeout=300):
                report(on="failed", why=f"no {event} of {id}", seen=self.seen)
                sys.exit(1)

    def stop(self) -> None:
        self._stream.stop()
        self._thread.join(300)


async def data(http: str, ws: str, key: str, secret: str) -> None:
    base = ws.removesuffix("/stream")
    stocks = StockDataStream(key, secret, url_override=f"{base}/v2/iex")
    crypto = CryptoDataStream(key, secret, url_override=f"{base}/v1beta3/crypto/us")
    wanted = {"Quote AAPL", "Trade AAPL", "Bar AAPL", "Orderbook BTC/USD", "Quote BTC/USD"}
    done = asyncio.Event()

    async def take(event: Any) -> None:
        name = f"{type(event).__name__} {event.symbol}"
        if name in wanted:
            wanted.discard(name)
            report(on="data", event=name)
        if not wanted:
            done.set()

    stocks.subscribe_quotes(take, "AAPL")
    stocks.subscribe_trades(take, "AAPL")
    stocks.subscribe_bars(take, "AAPL")
    crypto.subscribe_orderbooks(take, "BTC/USD")
    crypto.subscribe_quotes(take, "BTC/USD")
    tasks = [asyncio.create_task(stream._run_forever()) for stream in (stocks, crypto)]
    try:
        await asyncio.wait_for(done.wait(), 300)
    except TimeoutError:
        report(on="failed", why=f"never came: {sorted(wanted)}")
    for stream in (stocks, crypto):
        await stream.stop_ws()
    await asyncio.wait(tasks, timeout=300)


def main(story: str, http: str, ws: str, key: str, secret: str) -> None:
    if story == "data":
        asyncio.run(data(http, ws, key, secret))
    elif story == "refused":
        failing(TradingClient(key, "no-such-secret", url_override=http).get_account)
    else:
        trade(http, ws, key, secret)
    report(on="done")


if __name__ == "__main__":
    main(*sys.argv[1:])
