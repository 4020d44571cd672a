"""The provider's own SDK (PyPI ``tektii``) against a gateway: ``tektii_sdk.py STORY URL KEY``, reporting lines of JSON.

Stories: ``live`` trades over REST and reads the stream; ``backtest`` reads to the end of one; ``page`` reads the stream until a
frame of type ``error``.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import tektii
from tektii import AsyncTradingGateway
from tektii.models import BacktestCompleteEvent


def report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


async def live(gateway: AsyncTradingGateway) -> None:
    report(on="account", currency=(await gateway.get_account()).currency, health=(await gateway.get_health()).status)
    async with gateway.stream() as events:
        placed = await gateway.submit_order("AAPL", "buy", "10", client_order_id="sdk-1")
        report(on="placed", id=placed.id, status=placed.status, correlation=placed.correlation_id is not None)
        wanted = {"quote", "order", "trade", "position", "account"}
        async for event in events:
            wanted.discard(event.type)
            if not wanted:
                break
    report(on="stream", version=tektii.__version__)
    await trade(gateway, placed.id)


async def trade(gateway: AsyncTradingGateway, placed_id: str) -> None:
    resting = await gateway.submit_order("EUR/USD", "BUY", "1000", "limit", limit_price="0.5000", time_in_force="gtc")
    report(on="open", ids=[order.id for order in await gateway.list_orders(symbol="EUR/USD")])
    modified = await gateway.modify_order(resting.id, limit_price="0.5100")
    report(on="modified", price=modified.order.limit_price, id=modified.order.id == resting.id)
    report(on="cancelled", success=(await gateway.cancel_order(resting.id)).success)
    (position,) = await gateway.list_positions()
    half = await gateway.close_position(position.id, quantity="5")
    rest = await gateway.close_all_positions(symbol="AAPL")
    report(on="closed", orders=[half.status, *(order.status for order in rest)])
    ended = await gateway.get_order_history(status=["FILLED"], limit=2)
    fills = await gateway.list_trades(order_id=placed_id)
    report(on="history", ended=len(ended), fills=[fill.quantity for fill in fills])
    report(on="market", quote=(await gateway.get_quote("BTC/USD")).provider,
           bars=len(await gateway.get_bars("AAPL", "1m", limit=1)))  # fmt: skip
    report(on="system", mode=(await gateway.get_capabilities()).position_mode,
           up=(await gateway.get_status()).connected,
           breaker=(await gateway.get_circuit_breakers()).adapter.state)  # fmt: skip
    for attempt in (gateway.get_order("nothing"), gateway.cancel_order(placed_id), gateway.get_quote("NO/SUCH"),
                    gateway.submit_order("BTC/USD", "sell", "100000")):  # fmt: skip
        try:
            await attempt
        except tektii.APIStatusError as error:
            report(on="refused", status=error.status_code, code=error.code)


async def backtest(gateway: AsyncTradingGateway) -> None:
    counts: dict[str, int] = {}
    times = set()

    async def over(event: BacktestCompleteEvent) -> None:
        report(on="over", broker=event.broker, equity=(await gateway.get_account()).equity)

    async with gateway.stream(on_backtest_complete=over) as events:
        async for event in events:
            counts[event.type] = counts.get(event.type, 0) + 1
            times.add(event.timestamp)
            assert event.event_id is not None
            if counts == {"quote": 1}:
                await gateway.submit_order("AAPL", "buy", "1")
    report(on="counts", times=len(times), **counts)


async def page(gateway: AsyncTradingGateway) -> None:
    async with gateway.stream() as events:
        async for event in events:
            report(on="event", type=event.type)
            if event.type == "error":
                return


async def main(story: str, url: str, key: str) -> None:
    async with AsyncTradingGateway(base_url=url, api_key=key, max_retries=0) as gateway:
        try:
            await {"live": live, "backtest": backtest, "page": page}[story](gateway)
        except Exception as error:  # noqa: BLE001 - the test reads what it was
            response = getattr(error, "response", None)
            report(on="failed", error=type(error).__name__, status=getattr(response, "status_code", None),
                   text=str(error))  # fmt: skip
    report(on="done")


logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
asyncio.run(main(*sys.argv[1:]))
