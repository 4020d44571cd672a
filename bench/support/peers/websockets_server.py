"""Python's `websockets` with its `broadcast`, on uvloop where there is one. Commands as of relay_under_test.py."""

import asyncio
import sys
import time

import websockets
from websockets.asyncio.server import broadcast, serve

try:
    from uvloop import run
except ImportError:
    from asyncio import run

HEAD, TAIL = '{"event":"tick","channel":"ticks","data":"', '"}'


async def tick(clients: set, rounds: int, batch: int, pause: int, size: int) -> None:
    text = HEAD + "." * (size - len(HEAD) - len(TAIL) - (2 if size < 128 else 4)) + TAIL
    for _ in range(rounds):
        for _ in range(batch):
            broadcast(clients, text)
        await asyncio.sleep(pause / 1e6)


async def stamped(clients: set, rate: int, seconds: int) -> None:
    start = time.perf_counter()
    for number in range(rate * seconds):
        wait = start + number / rate - time.perf_counter()
        await asyncio.sleep(max(0, wait))
        broadcast(clients, f"{HEAD}T={time.monotonic_ns():019}{'.' * 130}{TAIL}")


async def main() -> None:
    clients: set = set()

    async def client(connection) -> None:
        clients.add(connection)
        try:
            async for _ in connection:
                pass
        except websockets.ConnectionClosed:
            pass
        finally:
            clients.discard(connection)

    async with serve(client, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
        while line := await lines.get():
            name, *numbers = line.split()
            await {"tick": tick, "stamped": stamped}[name](clients, *map(int, numbers))
            print("done", flush=True)


run(main())
