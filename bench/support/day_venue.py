"""The venue of `day.py`: quotes at a steady rate, each with the time it was sent at, and orders that it accepts at once.

    python day_venue.py SYMBOLS HZ

Each symbol has a quote every 1/HZ seconds, at a moment of its own: they do not come all at once. Command on stdin, answered by one line:

    quotes SECONDS                     send them for so long                                     -> sent N
"""

import random
import sys
import time

import trio
from hostile_relay import AcceptingVenue
from relay_under_test import lines_of_stdin

from relay.testing.simulator import Link


async def quotes(link: Link, symbols: int, hz: int, seconds: int) -> int:
    """Send the quotes of so many seconds; return how many they were."""
    phases = sorted((random.Random(symbol).random() / hz, symbol) for symbol in range(symbols))
    start, sent = time.monotonic(), 0
    for turn in range(hz * seconds):
        for phase, symbol in phases:
            wait = start + turn / hz + phase - time.monotonic()
            if wait > 0:
                await trio.sleep(wait)
            sent += 1
            link.send(
                f'{{"s":"S{symbol}","b":"1.08{turn % 1000:03}","a":"1.09{turn % 1000:03}","bq":"1500000","aq":"750000",'
                f'"t":{time.time_ns() // 1_000_000},"n":"T={time.monotonic_ns():019}"}}'
            )
            if wait <= 0:
                await trio.lowlevel.checkpoint()
    return sent


async def main(symbols: int, hz: int) -> None:
    """Serve until stdin ends."""
    venue = AcceptingVenue()
    async with venue.serve() as address:
        print(f"listening {address.ws}", flush=True)
        async for line in lines_of_stdin():
            link = await venue.wait_connected()
            print(f"sent {await quotes(link, symbols, hz, int(line.split()[1]))}", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
