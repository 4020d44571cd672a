"""Measure how long 10,000 channels take to be told that their provider's session is lost: one pass, to the last subscriber.

A session with that many quote streams loses its connection; 20 subscribers hold them between them. The rows are the CPU time
of the pass that makes all streams STALE, with what is handed to the sockets, and of its parts; and the time from the loss to the
last frame, which is that of the pass behind the wait (`relay.provider.liveness.SETTLES`). Nothing is sent: the sockets are a function.
"""

import time
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from relay.adapter import Ack, Adapter, Context, Offer, Outgoing, Session, Signal, Subscribe, dumps, loads
from relay.app import freeze_gc
from relay.hub.hub import Hub
from relay.hub.outbox import Outbox
from relay.model.channels import Asker, Topic
from relay.model.events import Event, Quote
from relay.provider import session_events
from relay.provider.liveness import SETTLES
from relay.provider.session import SessionMachine
from relay.provider.session_events import Now
from relay.pusher.apps import App
from relay.trading.registry import CommandRegistry
from support.report import arguments, median, report

SUBSCRIBERS = 20


class Feed(Adapter):
    """A provider of quotes."""

    name = "feed"
    session = Session(url="wss://feed.test", topics_per_frame=10_000)
    offers = (Offer(kind="quote"),)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        """Write subscriptions."""
        if isinstance(outgoing, Subscribe):
            yield dumps([topic.symbol for topic in outgoing.topics])

    def decode(self, message: str) -> Iterable[Event | Signal]:
        """Read quotes."""
        for symbol in loads(message):
            yield Ack((Topic(kind="quote", symbol=symbol),))
            yield Quote(symbol=symbol, bid="1.0850", ask="1.0851")


class Flap:
    """A relay without sockets: a session with so many streams, and their subscribers."""

    def __init__(self, channels: int) -> None:
        numbers = count(1)
        self.now, self.told = 0.0, 0
        self.queue: list[Outbox] = []
        self.hub = Hub(
            [App(id="1", key="bench", secrets=("secret",))],
            epoch="bench",
            socket_ids=lambda: f"1.{next(numbers)}",
            want=lambda stream, by: (),
            unwant=lambda stream: None,
        )
        self.machine = SessionMachine(
            Feed,
            Context(provider="p"),
            publish=self.hub.publish,
            commands=CommandRegistry(),
            uniform=lambda: 1.0,
            correlation=lambda: "",
        )
        self.symbols = [f"S{number}" for number in range(channels)]
        self.up()
        by = Asker("1", "1.1")
        self.machine.interest(
            [session_events.WantTopic(Topic(kind="quote", symbol=symbol), by) for symbol in self.symbols], self.at()
        )
        for mine in range(SUBSCRIBERS):
            session = self.hub.connect("bench", "protocol=7", None, self.now)
            session.outbox.attach(self._write, self.queue)
            for symbol in self.symbols[mine::SUBSCRIBERS]:
                session.receive(f'{{"event":"pusher:subscribe","data":{{"channel":"quote.p.{symbol}"}}}}', self.now)
                self.now += 1
        self.flow()

    def _write(self, data: bytes) -> int:
        self.told += data.count(b'{"event":"staleness"')
        return len(data)

    def at(self) -> Now:
        return Now(self.now, 1_700_000_000_000_000_000 + int(self.now * 1e9))

    def up(self) -> None:
        self.machine.step(session_events.Start(), self.at())
        self.now += 60
        self.machine.step(session_events.Tick(), self.at())
        self.machine.step(session_events.Opened(), self.at())

    def flow(self) -> None:
        """Data come of every stream."""
        self.machine.receive(dumps(self.symbols), self.at())
        self.flush()

    def flush(self) -> None:
        """Hand to the sockets what waits, as the server does at the end of a pass."""
        for outbox in self.queue:
            outbox.flush()
        self.queue.clear()

    def lose(self) -> Mapping[str, float]:
        """Lose the connection; return the CPU time of the passes, in milliseconds."""
        begun = time.process_time()
        self.machine.step(session_events.Closed(1006, ""), self.at())
        self.flush()
        lost = time.process_time()
        self.now += SETTLES
        self.told = 0
        self.machine.step(session_events.Tick(), self.at())
        published = time.process_time()
        self.flush()
        ended = time.process_time()
        if self.told != len(self.symbols):
            raise SystemExit(f"flap: {self.told} of {len(self.symbols)} channels were told")
        return {
            "loss": (lost - begun) * 1e3,
            "stale": (published - lost) * 1e3,
            "flush": (ended - published) * 1e3,
            "last told after": SETTLES * 1e3 + (ended - lost) * 1e3,
        }

    def come_back(self) -> None:
        """Connect again, with data."""
        self.now += 60
        self.machine.step(session_events.Tick(), self.at())
        self.machine.step(session_events.Opened(), self.at())
        self.machine.step(session_events.Tick(), self.at())
        self.flow()


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, turns=7, channels=10_000)
    flap = Flap(options.channels)
    freeze_gc()
    turns = []
    for _ in range(options.turns):
        turns.append(flap.lose())
        flap.come_back()
    rows: list[dict[str, Any]] = [
        {"what": name, "channels": options.channels, "ms": round(median([turn[name] for turn in turns]), 1)}
        for name in turns[0]
    ]
    report(options, "flap", rows)


if __name__ == "__main__":
    main()
