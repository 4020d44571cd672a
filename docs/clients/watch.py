"""Watch quotes, a book and an account of a running relay (`tickrelay demo`), place an order and cancel it.

Runs on trio and on asyncio: python docs/clients/watch.py [trio|asyncio]
"""

import argparse

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
            order_id = placed.reply.result["order_id"]
            async for account in views:
                if order_id in account.orders:
                    print(len(account.orders), "open orders, equity", account.account and account.account.equity)
                    break
            cancelled = await relay.cancel_order(provider="helio", account="main", order_id=order_id)
            print("cancelled", cancelled.reply and cancelled.reply.outcome)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Watch a running demo; place an order and cancel it.")
    arguments.add_argument("backend", nargs="?", choices=("asyncio", "trio"), default="asyncio")
    anyio.run(main, backend=arguments.parse_args().backend)
