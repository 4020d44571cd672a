"""Measure how long an event takes: from its publication in the relay to its arrival in the subscriber, in microseconds.

1,000 events a second to 100 subscribers; then the same with one subscriber in a hundred that has stopped reading. Both ends
read the same monotonic clock.
"""

from typing import Any

from support.processes import Load, raise_limits, relay
from support.report import arguments, report


def measure(subscribers: int, stalled: int, rate: int, seconds: int) -> dict[str, Any]:
    """One row."""
    server, port = relay()
    client = Load(port)
    try:
        client.connect(subscribers, "ticks")
        if stalled:
            client.process.ask(f"stall {stalled}")
        for share in (1, seconds):  # the first second has everything warm
            client.reset()
            cpu = server.cpu()
            client.process.say(f"expect {(subscribers - stalled) * rate * share} {share + 10}")
            server.ask(f"stamped {rate} {share}")
            got, spent = client.got(), server.cpu() - cpu
        expected = (subscribers - stalled) * rate * seconds
        count, p50, p99, p999, worst = map(float, client.process.ask("latencies")[1:])
    finally:
        client.end()
        server.end()
    return {
        "subscribers": subscribers,
        "stalled": stalled,
        "events/s": rate,
        "p50 us": p50,
        "p99 us": p99,
        "p99.9 us": p999,
        "worst us": worst,
        "lost": expected - int(count),
        "server busy": f"{spent / seconds:.0%}",
        "client idle": f"{got.idle:.0%}",
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=100, rate=1000, seconds=5)
    raise_limits()
    rows = [
        measure(options.subscribers, stalled, options.rate, options.seconds)
        for stalled in (0, max(1, options.subscribers // 100))
    ]
    report(options, "latency: publication to arrival", rows)


if __name__ == "__main__":
    main()
