"""Relays on one Redis: events across nodes, takeovers, and CPU per event of owner and edge beside a single relay.

    python bench/cluster.py [--rate 1000] [--seconds 10] [--takeovers 3]

Everything runs on this machine: a synthetic venue and the subscribers in this process, a Redis, and each relay in a process of
its own. A latency is from the owner's read of the provider's socket (`received_at`) to the subscriber's read of its own.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import trio

from relay.pusher.apps import App
from relay.testing.subscriber import Subscriber
from relay_synthetic.simulator import SyntheticSimulator

QUOTES = "quote.synthetic.BTC-USD"
TICK = os.sysconf("SC_CLK_TCK")
CONFIGURATION = """
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{port}"
[apps.main]
id = "1"
key = "bench-key"
secret = "bench-secret-of-the-bench"
[api_keys.bench]
key = "bench-api-key-of-the-bench"
accounts = ["*"]
[providers.synthetic]
url = "{venue}"
pinned = ["quote BTC/USD"]
[store]
url = "{store}"
[cluster]
node = "{name}"
role = "{role}"
[log]
level = "error"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Relayed:
    """A relay in a process."""

    def __init__(self, directory: Path, name: str, venue: str, store: str, role: str = "both") -> None:
        self.port = free_port()
        path = directory / f"{name}.toml"
        path.write_text(CONFIGURATION.format(port=self.port, venue=venue, store=store, name=name, role=role))
        self.process = subprocess.Popen([sys.executable, "-m", "relay", "serve", "-c", str(path)])

    async def status(self) -> Any:
        headers = {"Authorization": "Bearer bench-api-key-of-the-bench"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers) as http:
            return (await http.get("/api/v2/status")).json()

    async def ready(self) -> None:
        with trio.fail_after(120):
            while True:
                try:
                    await self.status()
                except httpx.HTTPError:
                    await trio.sleep(0.1)
                else:
                    return

    async def owns(self) -> bool:
        return bool((await self.status())["store"]["cluster"]["providers"][0]["owns"])

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait()


class Watch:
    """A subscriber that notes when what came."""

    def __init__(self, port: int) -> None:
        app = App(id="1", key="bench-key", secrets=("bench-secret-of-the-bench",))
        self.events: list[tuple[float, Mapping[str, Any]]] = []
        self.subscriber = Subscriber(lambda: port, app, [QUOTES], heard=self._heard)

    def _heard(self, channel: str, event: Mapping[str, Any]) -> None:
        self.events.append((time.time(), event))

    def latencies(self) -> list[float]:
        return [
            at - datetime.fromisoformat(event["received_at"]).timestamp()
            for at, event in self.events
            if event["type"] == "quote"
        ]


async def flow(name: str, relays: Mapping[str, Relayed], watched: Relayed, seconds: float) -> None:
    """Print events a second, latencies, and CPU of each relay."""
    async with trio.open_nursery() as nursery:
        watch = Watch(watched.port)
        nursery.start_soon(watch.subscriber.run)
        await watch.subscriber.until(lambda: len(watch.events) > 100, 60)
        watch.events.clear()
        before = {role: cpu(relay.process.pid) for role, relay in relays.items()}
        await trio.sleep(seconds)
        count = len(watch.events)
        used = {role: cpu(relay.process.pid) - before[role] for role, relay in relays.items()}
        late = sorted(watch.latencies())
        nursery.cancel_scope.cancel()
    each = ", ".join(f"{role} {1e6 * spent / max(count, 1):.0f} us/event" for role, spent in used.items())
    p50, p99 = late[len(late) // 2] * 1e3, late[len(late) * 99 // 100] * 1e3
    print(f"{name}: {count / seconds:.0f} events/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms; CPU {each}", flush=True)


async def takeovers(directory: Path, venue: str, store: str, times: int) -> None:
    """Print the seconds from a signal to the owner to the next event at a subscriber of an edge."""
    edge = Relayed(directory, "edge", venue, store, "edge")
    both = [Relayed(directory, f"takeover{number}", venue, store) for number in range(2)]
    found: dict[str, list[float]] = {"SIGTERM": [], "SIGKILL": [], "SIGSTOP": []}
    try:
        for relay in (edge, *both):
            await relay.ready()
        async with trio.open_nursery() as nursery:
            watch = Watch(edge.port)
            nursery.start_soon(watch.subscriber.run)
            for how in list(found) * times:
                await watch.subscriber.until(lambda: len(watch.events) > 50, 120)
                owner = both[0] if await both[0].owns() else both[1]
                watch.events.clear()
                began = time.time()
                owner.process.send_signal(getattr(signal, how))
                await watch.subscriber.until(lambda: any(event["type"] == "gap" for _, event in watch.events), 60)
                await watch.subscriber.until(lambda: watch.events[-1][1]["type"] == "quote", 60)
                gap = next(number for number, (_, event) in enumerate(watch.events) if event["type"] == "gap")
                after = next(at for at, event in watch.events[gap:] if event["type"] == "quote")
                found[how].append(after - began)
                owner.end()
                both.remove(owner)
                both.append(Relayed(directory, f"again{len(found[how])}{how}", venue, store))
                await both[-1].ready()
                watch.events.clear()
            nursery.cancel_scope.cancel()
    finally:
        for relay in (edge, *both):
            relay.end()
    for how, seconds in found.items():
        told = ", ".join(f"{each:.2f}" for each in sorted(seconds))
        print(f"takeover after {how}: median {statistics.median(seconds):.2f} s ({told})", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--takeovers", type=int, default=3)
    asked = parser.parse_args()
    directory = Path(tempfile.mkdtemp())
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "yes", "--dir", str(directory)]
    redis = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    venue = SyntheticSimulator(rate=asked.rate)
    try:
        async with venue.serve() as address:
            single = Relayed(directory, "single", address.ws, "memory:")
            await single.ready()
            await flow("one relay", {"relay": single}, single, asked.seconds)
            single.end()
            store = f"redis://127.0.0.1:{port}/0"
            owner = Relayed(directory, "owner", address.ws, store)
            await owner.ready()
            edge = Relayed(directory, "edge", address.ws, store, "edge")
            await edge.ready()
            await flow("owner and edge", {"owner": owner, "edge": edge}, edge, asked.seconds)
            owner.end()
            edge.end()
        venue = SyntheticSimulator(rate=50)
        async with venue.serve() as address:
            await takeovers(directory, address.ws, f"redis://127.0.0.1:{port}/1", asked.takeovers)
    finally:
        redis.kill()
        redis.wait()


if __name__ == "__main__":
    trio.run(main)
