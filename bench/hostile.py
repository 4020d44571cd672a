"""Measure what hostile clients cost the others: the time of commands, and of quotes to 500 subscribers, in milliseconds.

Three rows in one run: a quiet relay, the same with honest subscribers and 20 quotes a second, and the same with hostile clients
that join a channel with a rewind of 1,000 events and leave it, over and over, as fast as the relay reads. Commands are orders over
HTTP, one after the other, to a provider in the relay's process that accepts them at once.
"""

import sys
from typing import Any

from support.orders import orders, share
from support.processes import CLIENT_CORE, HERE, SERVER_CORE, Load, Process, raise_limits
from support.report import arguments, report

EVERY = 0.025
"""Seconds between two orders: within the rate that one API key may send by default."""


def measure(subscribers: int, hostile: int, rate: int, seconds: int) -> dict[str, Any]:
    """One row."""
    server = Process([sys.executable, HERE / "hostile_relay.py"], SERVER_CORE)
    port = int(server.hear()[1])
    client = Load(port)
    attackers = None
    quotes: list[float] = []
    try:
        server.ask("tick 1000 1 0 200")  # a full history to rewind
        orders(port, 1, EVERY)  # everything warm
        if subscribers:
            client.connect(subscribers, "ticks")
            client.reset()
        if hostile:
            attackers = Process([sys.executable, HERE / "hostile_load.py", str(port), str(hostile)], CLIENT_CORE)
            attackers.hear()
        memory = server.memory()
        cpu = server.cpu()
        if subscribers:
            client.process.say(f"expect {subscribers * rate * seconds} {seconds + 30}")
            server.say(f"stamped {rate} {seconds}")
        took, unknown = orders(port, seconds, EVERY)
        if unknown:
            raise SystemExit(f"hostile: {unknown} orders had no reply in time")
        spent = server.cpu() - cpu
        grown = server.memory() - memory
        if subscribers:
            server.hear()
            client.got()
            quotes = [float(word) / 1e3 for word in client.process.ask("latencies")[1:]]
        closed = int(attackers.ask("end")[1]) if attackers is not None else 0
    finally:
        client.end()
        if attackers is not None:
            attackers.end()
        server.end()
    return {
        "honest": subscribers,
        "hostile": hostile,
        "commands": len(took),
        "commands p50 ms": share(took, 0.5),
        "commands p99 ms": share(took, 0.99),
        "commands worst ms": took[-1],
        "quotes p50 ms": quotes[1] if quotes else None,
        "quotes p99 ms": quotes[2] if quotes else None,
        "quotes worst ms": quotes[4] if quotes else None,
        "server busy": f"{spent / seconds:.0%}",
        "RSS grown MB": grown / 1e6,
        "hostile closed": closed,
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=500, hostile=4, rate=20, seconds=20)
    raise_limits()
    rows = [
        measure(subscribers, hostile, options.rate, options.seconds)
        for subscribers, hostile in ((0, 0), (options.subscribers, 0), (options.subscribers, options.hostile))
    ]
    quiet, attacked = rows[0]["commands p99 ms"], rows[-1]["commands p99 ms"]
    notes = [f"commands' p99 beside hostile clients: {attacked / quiet:.1f} times that of a quiet relay"]
    report(options, "hostile: commands and quotes beside hostile clients", rows, notes)


if __name__ == "__main__":
    main()
