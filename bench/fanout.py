"""Measure what a delivery costs: the relay beside a C loop of send(), with 100, 1,000 and 5,000 subscribers.

Both send messages of the same size to the same load client, turn by turn. A turn begins with rounds that are not measured
(caches, and connections that have been idle while the other had its turn); its cost is the server's CPU time over the
deliveries. The ratio is taken within each pair of turns, and its median is reported. The floor sends every message by
itself; what joining is worth at best is in the column `floor joined`. `without io_uring` is a relay that writes to one
socket at a time.
"""

from typing import Any

from support.processes import Got, Load, Process, connected, floor, raise_limits, relay
from support.report import arguments, median, report

SIZE = 200
PLANS = ((100, 1, 150, 5), (1000, 1, 30, 9), (5000, 1, 6, 3), (100, 16, 30, 5), (1000, 16, 6, 7), (5000, 16, 2, 3))
"""Subscribers, messages per flush, rounds per turn, pairs of turns."""


def turn(server: Process, client: Load, command: str, rounds: int, deliveries: int) -> tuple[float, Got]:
    """One turn: the server's CPU us per delivery, and what the client got.

    `command` has a place for the number of rounds; `deliveries` are those of one round.
    """
    for share in (max(1, rounds // 3), rounds):
        total = share * deliveries
        client.reset()
        before = server.cpu()
        client.process.say(f"expect {total} 30")
        server.ask(command.format(share))
        got = client.got()
        spent = server.cpu() - before
        if got.total != total or got.least != got.most:
            raise SystemExit(f"{server.name}: {total - got.total} of {total} deliveries were lost")
    return spent / total * 1e6, got


def compare(subscribers: int, batch: int, rounds: int, pairs: int) -> dict[str, Any]:
    """One row."""
    pause = max(2000, min(20_000, subscribers * batch))
    deliveries = subscribers * batch
    costs, floors, joins, ratios, singly, idles = [], [], [], [], [], []
    with (
        connected(floor(SIZE), subscribers) as (bare, bare_client),
        connected(relay(), subscribers, "ticks") as (server, client),
        connected(relay("1", "io_uring=false"), subscribers, "ticks") as (single, single_client),
    ):
        for _ in range(pairs):
            least, _ = turn(bare, bare_client, f"go {{}} {batch} {pause}", rounds, deliveries)
            cost, got = turn(server, client, f"tick {{}} {batch} {pause} {SIZE}", rounds, deliveries)
            alone, _ = turn(single, single_client, f"tick {{}} {batch} {pause} {SIZE}", rounds, deliveries)
            singly.append(alone / least)
            if batch > 1:
                joined, _ = turn(bare, bare_client, f"joined {{}} {batch} {pause}", rounds, deliveries)
                joins.append(joined / least)
            costs.append(cost)
            floors.append(least)
            ratios.append(cost / least)
            idles.append(got.idle)
    return {
        "subscribers": subscribers,
        "per flush": batch,
        "floor us": median(floors),
        "relay us": median(costs),
        "ratio": round(median(ratios), 3),
        "without io_uring": round(median(singly), 3),
        "floor joined": round(median(joins), 3) if joins else None,
        "deliveries per CPU second": round(1e6 / median(costs)),
        "client idle": f"{median(idles):.0%}",
        "lost": 0,
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=0)
    limit = raise_limits()
    plans = [plan for plan in PLANS if plan[0] * 3 + 100 < limit and options.subscribers in (0, plan[0])]
    report(options, f"fan-out: server CPU per delivery, {SIZE}-byte frames", [compare(*plan) for plan in plans])


if __name__ == "__main__":
    main()
