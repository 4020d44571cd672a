"""Measure a realistic day: 200 symbols with ten quotes a second each from a provider's socket, 1,000 subscribers of 20 symbols each,
one in a hundred of which has stopped reading, and two orders a second.

A latency is from the provider's send to the subscriber's read, the adapter, both sockets and the provider's own process included. The
rows differ in the relay's store, and in the last the subscribers are spread over three edges on one Redis: there the CPU is that of
all relays, Redis' own beside it. Everything runs on this machine: where the relay and what loads it need more than its cores have,
latencies are those of waiting for a core.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.orders import orders, share
from support.processes import (
    CLIENT_CORE,
    HERE,
    SERVER_CORE,
    Load,
    Process,
    Unavailable,
    cpu_of,
    raise_limits,
    redis_server,
)
from support.report import arguments, median, report

EACH, SLOW, EDGES, ORDERS, WARM = 20, 100, 3, 2, 2
"""Symbols of a subscriber; one subscriber in so many is slow; edges; orders a second; seconds before the measurement."""
WINDOWS = (0.0, 0.005, 0.02, 0.05)
"""Values of `outbox.coalesce`, in seconds."""


def measure(
    name: str,
    store: str,
    nodes: Sequence[tuple[str, str]],
    options: Any,
    *,
    coalesce: float = 0.0,
    redis: int | None = None,
) -> dict[str, Any]:
    """One row. The first node holds the session and takes the orders; the subscribers are spread over the others, if any."""
    symbols, hz, seconds = options.symbols, options.hz, options.seconds
    with ExitStack() as stack:
        venue = stack.enter_context(
            Process([sys.executable, HERE / "day_venue.py", str(symbols), str(hz)], CLIENT_CORE)
        )
        url = venue.hear()[1]
        relays, ports = [], []
        for number, node in enumerate(nodes):
            core = SERVER_CORE if number % 2 == 0 else CLIENT_CORE
            relay = Process(
                [sys.executable, HERE / "day_relay.py", url, store, str(coalesce), *filter(None, node)], core
            )
            relays.append(stack.enter_context(relay))
            ports.append(int(relay.hear()[1]))
        serving = ports[1:] or ports
        loads = [Load(port, prefix='{"event":"quote"') for port in serving]
        for load in loads:
            stack.callback(load.end)
        chosen = random.Random(1)
        for number in range(options.subscribers):
            channels = [f"quote.p0.S{symbol}" for symbol in chosen.sample(range(symbols), EACH)]
            loads[number % len(loads)].connect_each([channels])
        shares = [len(range(number, options.subscribers, len(loads))) for number in range(len(loads))]
        slow = max(1, options.subscribers // SLOW // len(loads))
        orders(ports[0], 1, 1 / ORDERS)
        venue.say(f"quotes {WARM}")  # everything warm, and read
        for load, count in zip(loads, shares, strict=True):
            load.expect(count * EACH * hz * WARM, WARM + 20)
            load.process.ask(f"stall {slow}")
            load.reset()
        venue.hear()
        expected = [(count - slow) * EACH * hz * seconds for count in shares]
        before = [relay.cpu() for relay in relays], cpu_of(redis) if redis else 0.0
        venue.say(f"quotes {seconds}")
        for load, total in zip(loads, expected, strict=True):
            load.process.say(f"expect {total} {seconds + 20}")
        took, unknown = orders(ports[0], seconds, 1 / ORDERS)
        got = [load.got() for load in loads]
        venue.hear()
        spent = [relay.cpu() - cpu for relay, cpu in zip(relays, before[0], strict=True)]
        of_redis = cpu_of(redis) - before[1] if redis else None
        latencies = [[float(word) / 1e3 for word in load.process.ask("latencies")[1:]] for load in loads]
    return {
        "relay": name,
        "deliveries/s": round(sum(each.total for each in got) / seconds),
        "lost": sum(expected) - sum(each.total for each in got),
        "CPU": f"{sum(spent) / seconds:.0%}",
        "of it": " ".join(f"{each / seconds:.0%}" for each in spent),
        "CPU of Redis": f"{of_redis / seconds:.0%}" if of_redis is not None else None,
        "us/delivery": sum(spent) / max(1, sum(each.total for each in got)) * 1e6,
        "p50 ms": median([each[1] for each in latencies]),
        "p99 ms": max(each[2] for each in latencies),
        "worst ms": max(each[4] for each in latencies),
        "orders p50 ms": share(took, 0.5),
        "orders p99 ms": share(took, 0.99),
        "orders unknown": unknown,
        "client idle": f"{min(each.idle for each in got):.0%}",
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, symbols=200, hz=10, subscribers=1000, seconds=30, stores="memory,sqlite,redis")
    raise_limits()
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as directory:
        stores = options.stores.split(",")
        if "memory" in stores:
            for window in WINDOWS:
                name = f"one, memory, coalesce {window:g}"
                rows.append(measure(name, "memory:", [("", "")], options, coalesce=window))
        if "sqlite" in stores:
            rows.append(measure("one, SQLite", f"sqlite:///{directory}/day.sqlite3", [("", "")], options))
        if "redis" in stores:
            try:
                with redis_server(Path(directory)) as (url, pid):
                    nodes = [("owner", "both"), *((f"edge{number}", "edge") for number in range(EDGES))]
                    rows.append(measure(f"owner and {EDGES} edges, Redis", url, nodes, options, redis=pid))
            except Unavailable as missing:
                notes.append(f"Redis: skipped, {missing}")
    what = f"{options.symbols} symbols at {options.hz} Hz, {options.subscribers:,} subscribers of {EACH}, 1% slow"
    report(options, f"day: {what}, {ORDERS} orders/s", rows, notes)


if __name__ == "__main__":
    main()
