"""Watch quotes, a book and an account of a running relay (`tickrelay demo`), and place an order.

Runs on trio and on asyncio: python docs/clients/watch.py [trio|asyncio]
"""

import sys

import anyio

from relay.client import Client, Notice
from relay.model.events import Quote


def log(notice: Notice) -> None:
    print(*filter(None, (notice.what, notice.channel, notice.text)))


async def main(url: str = "http://127.0.0.1:6001", api_key: str = "demo-api-key", count: int = 5) -> None:
    async with Client(url, api_key=api_key, on_notice=log) as relay:
        async with relay.subscribe("cache-quote.synthetic.BTC-USD", "cache-quote.helio.EUR-USD") as updates:
            for _ in range(count):
                update = await anext(updates)
                if update.missed:  # the relay could not resume after a lost connection
                    print(f"events of {update.channel} may be missing: {update.missed}")
                if isinstance(update.event, Quote):
                    print(update.channel, update.event.bid, update.event.ask)

        async with relay.book("depth.synthetic.BTC-USD") as books:
            book = await anext(books)
            print("best", book.bids(1), book.asks(1))

        async with relay.account("helio", "main") as views:
            await relay.caught_up()  # the account's present state is here
            placed = await relay.place_order(
                provider="helio", account="main", symbol="EUR/USD", side="BUY", quantity="1000", limit_price="0.5"
            )
            assert placed.reply is not None
            print(placed.reply.outcome, placed.reply.result)
            async for account in views:
                if placed.reply.result["order_id"] in account.orders:
                    print(len(account.orders), "open orders, equity", account.account and account.account.equity)
                    break


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
