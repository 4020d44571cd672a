"""uWebSockets by way of socketify: every client subscribed to one topic, which is published to."""

import asyncio
import sys
import threading
import time

from socketify import App, OpCode

HEAD, TAIL = '{"event":"tick","channel":"ticks","data":"', '"}'
app = App()


async def tick(rounds: int, batch: int, pause: int, size: int) -> None:
    text = HEAD + "." * (size - len(HEAD) - len(TAIL) - (2 if size < 128 else 4)) + TAIL
    for _ in range(rounds):
        for _ in range(batch):
            app.publish("ticks", text, OpCode.TEXT, False)
        await asyncio.sleep(pause / 1e6)


async def stamped(rate: int, seconds: int) -> None:
    start = time.perf_counter()
    for number in range(rate * seconds):
        wait = start + number / rate - time.perf_counter()
        await asyncio.sleep(max(0, wait))
        app.publish("ticks", f"{HEAD}T={time.monotonic_ns():019}{'.' * 130}{TAIL}", OpCode.TEXT, False)


async def obey(line: str) -> None:
    name, *numbers = line.split()
    await {"tick": tick, "stamped": stamped}[name](*map(int, numbers))
    print("done", flush=True)


def listen() -> None:
    for line in sys.stdin:
        app.loop.loop.call_soon_threadsafe(lambda line=line: app.loop.loop.create_task(obey(line)))
    app.loop.loop.call_soon_threadsafe(app.close)


app.ws(
    "/*", {"compression": 0, "idle_timeout": 960, "open": lambda ws: ws.subscribe("ticks"), "max_backpressure": 1 << 24}
)
port = int(sys.argv[1])
app.listen({"port": port, "host": "127.0.0.1"}, lambda config: print("listening", port, flush=True))
threading.Thread(target=listen, daemon=True).start()
app.run()
