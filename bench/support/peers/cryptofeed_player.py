"""cryptofeed's own handler of an exchange on a recorded session: `cryptofeed_player.py EXCHANGE RECORDING PASSES`.

Prints the messages handled, the callbacks made and the seconds it took, for each pass. Messages during which an HTTP answer
was fetched (a book's snapshot) are not counted.
"""

import asyncio
import base64
import json
import sys
import time
from collections import defaultdict

from cryptofeed.connection import HTTPAsyncConn, HTTPSync
from cryptofeed.defines import CANDLES, L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import EXCHANGE_MAP
from cryptofeed.symbols import Symbols

exchange, path, passes = sys.argv[1], sys.argv[2], int(sys.argv[3])
records = [json.loads(line) for line in open(path)]
asked = "".join(
    record.get("url", "") if record["dir"] == "open" else record.get("data", "")
    for record in records
    if record["dir"] in ("out", "open")
)
CHANNELS = {
    "BITSTAMP": (L2_BOOK, TRADES),
    "KRAKEN": (L2_BOOK, TRADES, TICKER),
    "BINANCE_US": (L2_BOOK, TRADES, TICKER, CANDLES),
}


async def play() -> None:
    answers, fetched, made = defaultdict(list), [0], [0]
    for record in records:
        if record["dir"] == "http":
            answers[record["url"]].append(record["data"])

    class Socket:
        conn_type, uuid, cache = "wss", "1", answers

        async def write(self, *_, **__): ...

        async def read(self, url, **_):
            fetched[0] += 1
            return answers[url].pop(0)

    socket = Socket()
    HTTPAsyncConn.read = socket.read
    HTTPSync.read = lambda self, url, **_: json.loads(answers[url].pop(0))
    Symbols.clear()
    feed_class = EXCHANGE_MAP[exchange]

    async def callback(*_, **__):
        made[0] += 1

    mapping = feed_class.symbol_mapping()
    symbols = [name for name, native in mapping.items() if native.lower() in asked.lower().replace("\\/", "/")]
    channels = CHANNELS.get(exchange, (L2_BOOK, TRADES, TICKER, CANDLES))
    subscription = dict.fromkeys((each for each in channels if each in feed_class.websocket_channels), symbols)
    feed = feed_class(
        candle_closed_only=False,
        subscription=subscription,
        callbacks=dict.fromkeys(subscription, callback),
        config={"log": {"disabled": True, "filename": "/dev/null", "level": "ERROR"}},
    )
    socket.subscription = {
        feed.std_channel_to_exchange(c): [feed.std_symbol_to_exchange_symbol(s) for s in subscription[c]]
        for c in subscription
    }
    for _, subscribe, handler, _ in feed.connect():
        await subscribe(socket)
    took, handled = 0.0, 0
    for record in records:
        if record["dir"] != "in":
            continue
        before, start = fetched[0], time.perf_counter()
        message = record["data"] if "data" in record else base64.b64decode(record["b64"])
        await handler(message, socket, record["t"])
        if fetched[0] == before:
            took += time.perf_counter() - start
            handled += 1
    print(handled, made[0], took, flush=True)
    feed.stop()
    await feed.shutdown()


for _ in range(passes):
    asyncio.run(play())
