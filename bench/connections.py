"""Connecting and staying: what accept, handshake, greeting and subscription cost, and what an idle subscriber weighs.

The load client opens WebSockets and subscribes each to one channel, a window of them on their way at once. The rate per
core is one over the server's CPU time per connection. Memory is the growth of the resident set from before the first
connection to after the last one is subscribed, so everything is in it: socket objects, session, outbox, membership.
"""

from typing import Any

from support.processes import Load, raise_limits, relay
from support.report import arguments, median, report


def climb(subscribers: int) -> dict[str, Any]:
    """One relay, filled once. A few connections before the first measured ones have everything loaded."""
    server, port = relay()
    warm, client = Load(port), Load(port)
    try:
        warm.connect(200, "ticks")
        memory, cpu = server.memory(), server.cpu()
        seconds = client.connect(subscribers, "ticks")
        spent = server.cpu() - cpu
        grown = server.memory() - memory
        client.reset()
        server.ask("tick 1 1 0 200")
        if client.expect(subscribers).least != 1:
            raise SystemExit("connections: somebody is not subscribed")
        pause = float(server.ask("collect")[1])
    finally:
        warm.end()
        client.end()
        server.end()
    return {
        "connections": subscribers,
        "CPU us per connection": spent / subscribers * 1e6,
        "per second and core": round(subscribers / spent),
        "per second, as it was": round(subscribers / seconds),
        "bytes RSS per idle subscriber": round(grown / subscribers),
        "full collection ms": pause,
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=5000, runs=3)
    subscribers = min(options.subscribers, raise_limits() - 500)
    runs = [climb(subscribers) for _ in range(options.runs)]
    row = {key: median([run[key] for run in runs]) for key in runs[0]}
    report(options, "connections: accept, handshake, greeting, subscription", [row])


if __name__ == "__main__":
    main()
