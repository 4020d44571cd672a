"""Relays on one Redis beside a single one: latencies across relays, CPU per event, deliveries per CPU second, takeovers.

    python bench/cluster.py [--seconds 8] [--takeovers 2] [--subscribers 300] [--json FILE]

Everything runs on this machine: a synthetic venue and the subscribers that measure in this process, a Redis, and each relay in
a process of its own. A latency is from the owner's read of the provider's socket (`received_at`) to the subscriber's read of its
own. The single relay, the owner and the edges have the same venue at the same time, so that what else the machine does is
the same for all. It takes about three minutes.
"""

import signal
import ssl
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
from relay_synthetic.simulator import INSTRUMENTS, SyntheticSimulator
from support.processes import Load, cpu_of, free_port, redis_server
from support.report import arguments, report

QUOTES = "quote.synthetic.BTC-USD"
#: Saves the time to read the machine's certificates with each question.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: Events a second that the venue is asked for: a quiet market, the target of the latency, and more than it can.
RATES = (500.0, 5_000.0, 20_000.0)
#: Events a second while deliveries are counted.
FAN_OUT_RATE = 100.0
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


class Relayed:
    """A relay in a process."""

    def __init__(self, directory: Path, name: str, venue: str, store: str, role: str = "both") -> None:
        self.port = free_port()
        path = directory / f"{name}.toml"
        path.write_text(CONFIGURATION.format(port=self.port, venue=venue, store=store, name=name, role=role))
        self.process = subprocess.Popen([sys.executable, "-m", "relay", "serve", "-c", str(path)])

    async def status(self) -> Any:
        headers = {"Authorization": "Bearer bench-api-key-of-the-bench"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, verify=NO_TLS) as http:
            return (await http.get("/api/v2/status")).json()

    async def ready(self) -> None:
        with trio.fail_after(120):
            while True:
                assert self.process.poll() is None, "a relay ended before it was ready"
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


class Venue(SyntheticSimulator):
    """A venue that stands still until it is driven, and counts its events."""

    def __init__(self) -> None:
        super().__init__(rate=0, instruments=INSTRUMENTS[:1])
        self.events = 0

    async def drive(self, rate: float) -> None:
        """Move the market so many times a second, as far as this process can."""
        due = trio.current_time()
        while True:
            due = max(due + 1 / rate, trio.current_time() - 0.1)
            await trio.sleep_until(due)
            self.tick()
            self.events += 1


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


def percentile(values: list[float], share: float) -> float | None:
    """Milliseconds."""
    return round(sorted(values)[int(len(values) * share)] * 1e3, 1) if values else None


async def flow(venue: Venue, rate: float, relays: Mapping[str, Relayed], seconds: float) -> dict[str, Any]:
    """Return events a second at a subscriber of the single relay and of the edge, latencies, and CPU of each relay per event."""
    watches = {name: Watch(relays[name].port) for name in ("single", "edge")}
    async with trio.open_nursery() as nursery:
        for watch in watches.values():
            nursery.start_soon(watch.subscriber.run)
        for watch in watches.values():
            await watch.subscriber.until(lambda watch=watch: len(watch.events) > 50, 60)
            watch.events.clear()
        before = {name: cpu_of(relay.process.pid) for name, relay in relays.items()}
        sent = venue.events
        own, began = time.process_time(), time.monotonic()
        await trio.sleep(seconds)
        took = time.monotonic() - began
        used = {name: cpu_of(relay.process.pid) - before[name] for name, relay in relays.items()}
        own = time.process_time() - own
        sent = venue.events - sent
        counts = {name: sum(event["type"] == "quote" for _, event in watch.events) for name, watch in watches.items()}
        late = {name: watch.latencies() for name, watch in watches.items()}
        nursery.cancel_scope.cancel()
    row: dict[str, Any] = {"asked/s": round(rate), "venue: events/s": round(sent / took)}
    for name in watches:
        row |= {
            f"{name}: events/s": round(counts[name] / took),
            f"{name}: p50 ms": percentile(late[name], 0.5),
            f"{name}: p99 ms": percentile(late[name], 0.99),
        }  # fmt: skip
    for name, spent in used.items():
        row[f"{name}: CPU us/event"] = round(1e6 * spent / max(sent, 1), 1)
    return {**row, "CPU of venue and subscribers": f"{own / took:.0%}"}


def fan_out(relays: Mapping[str, Relayed], subscribers: int, seconds: float) -> list[dict[str, Any]]:
    """Return deliveries per CPU second of the single relay with all subscribers, and of two edges with a half each."""
    plans = {"single": [relays["single"]], "two edges": [relays["edge"], relays["edge2"]]}
    rows = []
    for name, serving in [*plans.items(), *plans.items()]:
        loads = [Load(relay.port, "/app/bench-key?protocol=7", '{"event":"quote"') for relay in serving]
        try:
            for load in loads:
                load.connect(subscribers // len(serving), QUOTES)
                load.reset()
            before = sum(cpu_of(relay.process.pid) for relay in serving)
            for load in loads:
                load.process.say(f"expect {1 << 40} {seconds:g}")
            got = [load.got() for load in loads]
            spent = sum(cpu_of(relay.process.pid) for relay in serving) - before
        finally:
            for load in loads:
                load.end()
        total = sum(each.total for each in got)
        rows.append({"": name, "subscribers": subscribers, "deliveries": total,
                     "per CPU second": round(total / max(spent, 1e-9))})  # fmt: skip
    single, edges = (statistics.mean(row["per CPU second"] for row in rows if row[""] == name) for name in plans)
    rows.append({"": "edges against the single relay", "per CPU second": f"{edges / single:.2f}x"})
    return rows


async def takeovers(directory: Path, venue: str, store: str, times: int) -> list[dict[str, Any]]:
    """Return the seconds from a signal to the owner to the next event at a subscriber of an edge."""
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
    return [
        {"takeover after": how, "median s": round(statistics.median(seconds), 2), "worst s": round(max(seconds), 2)}
        for how, seconds in found.items()
    ]


async def main() -> None:
    asked = arguments(__doc__, seconds=8.0, takeovers=2, subscribers=300)
    directory = Path(tempfile.mkdtemp())
    flows, fans = [], []
    with redis_server(directory) as (store, _):
        for number, rate in enumerate((*RATES, FAN_OUT_RATE)):
            venue = Venue()
            async with venue.serve() as address, trio.open_nursery() as nursery:
                relays = {"single": Relayed(directory, f"single{number}", address.ws, "memory:")}
                try:
                    for name, role in (("owner", "owner"), ("edge", "edge"), ("edge2", "edge")):
                        if name != "edge2" or rate == FAN_OUT_RATE:
                            relays[name] = Relayed(directory, f"{name}{number}", address.ws, f"{store}/{number}", role)
                    for relay in relays.values():
                        await relay.ready()
                    nursery.start_soon(venue.drive, rate)
                    if rate == FAN_OUT_RATE:
                        fans = await trio.to_thread.run_sync(fan_out, relays, asked.subscribers, asked.seconds)
                    else:
                        flows.append(await flow(venue, rate, relays, asked.seconds))
                finally:
                    nursery.cancel_scope.cancel()
                    for relay in relays.values():
                        relay.end()
        async with SyntheticSimulator(rate=50, instruments=INSTRUMENTS[:1]).serve() as address:
            times = await takeovers(directory, address.ws, f"{store}/9", asked.takeovers)
    turned = [{"": key, **{f"{row['asked/s']} asked": row[key] for row in flows}} for key in list(flows[0])[1:]]
    report(asked, "cluster: takeovers, seconds from the signal to the next event at another relay's subscriber", times)
    report(asked, f"cluster: deliveries per CPU second, {FAN_OUT_RATE:g} events/s", fans)
    report(asked, "cluster: events from upstream to a subscriber of another relay, beside a single relay", turned)


if __name__ == "__main__":
    trio.run(main)
