"""Measure whether a delivery stays as cheap when the relay grows: from 10 to 10,000 channels, from 1 to 50 providers, and what
subscribing costs at 100,000 subscriptions.

Ten subscribers hold all channels between them, each channel one of them, so that every row writes to the same sockets in
the same rhythm: 100 quotes per flush, taking turns over the channels. What differs is how many topics, rings and channels
the relay goes through. `against` compares with the row of as many channels on one provider, else with the first row: a
median over turns that are interleaved.
"""

import time
from itertools import count
from typing import Any

from relay.hub.hub import Hub
from relay.pusher.apps import App
from support.processes import Load, raise_limits, relay
from support.report import arguments, median, report

SUBSCRIBERS, BATCH, ROUNDS = 10, 100, 60
PLANS = ((10, 1), (1000, 1), (10_000, 1), (1000, 10), (1000, 50))
"""Channels, providers."""


class Grown:
    """A relay of that size, every channel subscribed and published on."""

    def __init__(self, channels: int, providers: int) -> None:
        self.channels, self.providers = channels, providers
        self.process, port = relay(str(providers))
        self.client = Load(port, prefix='{"event":"quote"')
        names = [f"quote.p{number % providers}.S{number}" for number in range(channels)]
        self.client.connect_each([names[mine::SUBSCRIBERS] for mine in range(SUBSCRIBERS)])
        self.costs: list[float] = []
        self.turn(channels // BATCH + 1)
        self.costs.clear()

    def turn(self, rounds: int = ROUNDS) -> None:
        """Publish and deliver `rounds` times."""
        total = rounds * BATCH
        self.client.reset()
        before = self.process.cpu()
        self.client.process.say(f"expect {total} 30")
        self.process.ask(f"quotes {rounds} {BATCH} 2000 {self.channels} {self.providers}")
        got = self.client.got()
        if got.total != total:
            raise SystemExit(f"growth: {total - got.total} of {total} deliveries were lost")
        self.costs.append((self.process.cpu() - before) / total * 1e6)

    def end(self) -> None:
        """End the relay and its subscribers."""
        self.client.end()
        self.process.end()


def grow(turns: int, most: int) -> list[dict[str, Any]]:
    """The rows of deliveries, of relays with ``most`` channels or fewer."""
    grown = [Grown(*plan) for plan in PLANS if plan[0] <= most]
    try:
        for _ in range(turns):
            for one in grown:
                one.turn()
    finally:
        for one in grown:
            one.end()
    return [
        {
            "what": "publish and deliver a quote",
            "channels": one.channels,
            "providers": one.providers,
            "us": median(one.costs),
            "against": round(
                median([cost / base for cost, base in zip(one.costs, against(one, grown).costs, strict=True)]), 3
            ),
        }
        for one in grown
    ]


def against(one: Grown, grown: list[Grown]) -> Grown:
    """The row that others are compared with."""
    if one.providers == 1:
        return grown[0]
    return next(other for other in grown if (other.channels, other.providers) == (one.channels, 1))


def subscriptions(total: int, channels: int, sample: int = 2000) -> list[dict[str, Any]]:
    """The rows of subscribing and unsubscribing: the hub without sockets, at few and at many subscriptions."""
    numbers = count(1)
    hub = Hub(
        [App(id="1", key="bench", secrets=("secret",))],
        epoch="bench",
        socket_ids=lambda: f"1.{next(numbers)}",
        want=lambda stream, by: (),
        unwant=lambda stream: None,
    )
    sessions = []
    for _ in range((max(total, channels) + sample) // 100 + 1):
        session = hub.connect("bench", "protocol=7", None, 0.0)
        session.outbox.attach(len, [])
        session.outbox.flush()
        sessions.append(session)

    def send(event: str, start: int, many: int) -> float:
        messages = [
            (
                sessions[number // 100],
                f'{{"event":"pusher:{event}","data":{{"channel":"quote.p0.S{number * 7 % channels}"}}}}',
            )
            for number in range(start, start + many)
        ]
        begun = time.perf_counter()
        for session, message in messages:
            session.receive(message, 0.0)
            session.outbox.flush()
        return (time.perf_counter() - begun) / many * 1e6

    rows = []
    send("subscribe", 0, channels)  # every channel exists
    for held, more in ((channels, 0), (total, total - channels)):
        if more:
            send("subscribe", channels, more)
        for event in ("subscribe", "unsubscribe"):
            costs = []
            for _ in range(5):
                costs.append(send(event, held, sample))
                send("unsubscribe" if event == "subscribe" else "subscribe", held, sample)
            rows.append({"what": event, "channels": channels, "subscriptions": held, "us": median(costs)})
            if event == "subscribe":
                send("subscribe", held, sample)
        send("unsubscribe", held, sample)
    for row in rows:
        row["against"] = round(row["us"] / next(r["us"] for r in rows if r["what"] == row["what"]), 3)
    return rows


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, turns=7, channels=10_000, subscriptions=100_000)
    raise_limits()
    report(
        options,
        "growth",
        [*grow(options.turns, options.channels), *subscriptions(options.subscriptions, options.channels)],
    )


if __name__ == "__main__":
    main()
