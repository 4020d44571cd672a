"""Soak: an hour's worth of faults in minutes, with many subscribers; at the end everything must be right and nothing grown.

Two simulated providers, each behind a fault proxy, a relay in a process of its own, and subscribers behind fault proxies of
theirs. Every few seconds something breaks, in an order the seed decides. Beside them an API key places and cancels orders,
and visitors come and go under ever new names. Then everything is healed, the markets stand still, and it is checked that
every subscriber's view equals the simulators', that no rule of a channel was ever broken, and that the relay's counters add
up. With `--store 1` everything that outlives a restart goes through SQLite.

The relay's memory is sampled in two ways, and both must be flat in the second part of the run. What is in use, after
garbage was collected, tells of leaks: by then the rings, which are small here, and the memories of fixed size, which the
relay under test has filled at its start, are at their bounds. Resident memory is what the machine gives; it also has what
the allocators keep after the largest backlogs of slow subscribers.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
import trio
from attrs import define

from relay.model.enums import Side
from relay.pusher.apps import App
from relay.testing.account import SimulatedRefusal, Ticket
from relay.testing.faults import Corrupt, Cut, FaultProxy, HalfOpen, Reset, Stall, Throttle
from relay.testing.simulator import Close, Mute, Simulator
from relay.testing.subscriber import ChannelView, Subscriber
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator
from relay_synthetic.simulator import SyntheticSimulator
from support.processes import raise_limits
from support.report import arguments, report

APP = App(id="1", key="soak-key", secrets=("soak-secret",))
KEY = "an-api-key-of-the-soak"
QUOTE, DEPTH, PRINTS = "quote.venue.BTC-USD", "depth.venue.BTC-USD", "public_trade.venue.BTC-USD"
BROKER_QUOTE, BROKER_DEPTH, ACCOUNT = "quote.broker.EUR-USD", "depth.broker.EUR-USD", "private-account.broker.main"
CHANNELS = (QUOTE, DEPTH, PRINTS, BROKER_QUOTE, BROKER_DEPTH, ACCOUNT)
LINES = 10
EVERY = 2.0
"""Seconds between two faults, on average: at the default of 600 s, some 300, which is more than a day of a bad line has."""
BACK = 10.0
"""Seconds without a new beginning after which everybody counts as back, once all lines are healed."""
FLAT, LIVE_FLAT = 0.5, 0.1
"""MB a minute that the relay's resident memory, and its memory in use, may grow by in the second half. A relay that remembers
20,000 fills and states of an account, as this one does, gets there in a day: 60 orders a minute are some 0.05 MB."""
LOOK = 10.0
"""Seconds between two looks at the memory in use: it takes a garbage collection."""
BREAKS = (Cut(), Reset(), HalfOpen(), Corrupt("text"), Corrupt("utf8"), Corrupt("frame"))


@define
class Stage:
    """Everything that runs."""

    venue: SyntheticSimulator
    broker: HelioSimulator
    upstream: Sequence[FaultProxy]
    downstream: Sequence[FaultProxy]
    subscribers: Sequence[Subscriber]
    relay: subprocess.Popen[str]
    port: int
    done: Counter[str]

    async def status(self) -> Any:
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{self.port}/api/v2/status", timeout=10)
            if answer.status_code != httpx.codes.OK:
                raise SystemExit(f"the relay's status: {answer.status_code} {answer.text[:500]}")
            return answer.json()

    def resident(self) -> float:
        """The relay's resident memory in MB."""
        pages = int(Path(f"/proc/{self.relay.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def mapped(self) -> Mapping[str, float]:
        """The relay's resident memory in MB by what it is mapped from: nothing (anonymous), files, shared memory."""
        lines = Path(f"/proc/{self.relay.pid}/status").read_text().splitlines()
        parts = (line.split() for line in lines if line.startswith("Rss"))
        return {name.rstrip(":"): int(kilobytes) * 1024 / 1e6 for name, kilobytes, _ in parts}

    async def memory(self) -> Mapping[str, float]:
        """Return where the relay's memory is, in MB, after it has collected garbage; see `support.soaked_relay.memory`."""
        assert self.relay.stdin is not None
        assert self.relay.stdout is not None
        self.relay.stdin.write("\n")
        self.relay.stdin.flush()
        told = json.loads(await trio.to_thread.run_sync(self.relay.stdout.readline))
        return {name: size / 1e6 for name, size in told.items()}


# --- what happens ----------------------------------------------------------------------------------------------------


async def market(stage: Stage, rate: float, random: Random) -> None:
    """Move the markets, and trade now and then at another terminal."""
    while True:
        await trio.sleep(1 / rate)
        stage.venue.tick()
        stage.broker.tick()
        if random.random() < 0.2 / rate:
            side = random.choice((Side.BUY, Side.SELL))
            try:
                stage.broker.trade(Ticket(symbol=random.choice(("EURUSD", "XAUUSD")), side=side, quantity=10_000))
            except SimulatedRefusal:
                stage.done["order refused"] += 1


async def trader(stage: Stage, every: float) -> None:
    """Place and cancel orders through the relay, as a strategy does: its names, replies and states fill the relay's memory."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stage.port}", headers=headers, timeout=30) as http:
        for number in count(1):
            await trio.sleep(every)
            order = {"provider": "broker", "account": "main", "command": "place_order", "symbol": "EUR/USD", "side": "BUY",
                     "order_type": "LIMIT", "limit_price": "0.5", "quantity": 1000, "within": 5,
                     "client_order_id": f"soak-{number}"}  # fmt: skip
            placed = (await http.post("/api/v2/commands", json=order)).json()
            stage.done[f"order {placed.get('outcome') or placed['error']['code']}"] += 1
            if id := (placed.get("result") or {}).get("order_id"):
                cancel = {
                    "provider": "broker",
                    "account": "main",
                    "command": "cancel_order",
                    "order_id": id,
                    "within": 5,
                }
                await http.post("/api/v2/commands", json=cancel)


async def visitors(stage: Stage, every: float) -> None:
    """Come and go under names that nobody has used before: channels, symbols, users, members."""
    app = App(id=APP.id, key=APP.key, secrets=APP.secrets)
    for number in count(1):
        await trio.sleep(every)
        names = [f"room-{number}", f"cache-{number}", f"quote.venue.NEW{number}", f"depth.broker.NEW{number}"]
        stranger = Subscriber(lambda: stage.port, app, names)
        with trio.move_on_after(every):
            await stranger.run()
        stage.done["visitors"] += 1


async def faults(stage: Stage, random: Random) -> None:
    """Break something, again and again."""
    choices: list[tuple[str, Callable[[], Any]]] = [
        ("upstream breaks", lambda: random.choice(stage.upstream).inject(random.choice(BREAKS))),
        ("upstream stalls", lambda: _for_a_while(random.choice(stage.upstream), Stall(), random.uniform(0.5, 4))),
        ("upstream is slow", lambda: _for_a_while(random.choice(stage.upstream), Throttle(8000), 2)),
        ("upstream is down", lambda: _down(random.choice(stage.upstream), random.uniform(0.2, 2))),
        ("provider restarts", lambda: _simulator(stage, random).inject(Close(1012, "restart"))),
        ("provider falls silent", lambda: _simulator(stage, random).inject(Mute())),
        ("subscribers break", lambda: random.choice(stage.downstream).inject(random.choice(BREAKS))),
        ("subscribers stall", lambda: _for_a_while(random.choice(stage.downstream), Stall(), random.uniform(0.5, 4))),
        ("subscribers are slow", lambda: _for_a_while(random.choice(stage.downstream), Throttle(1000), 20)),
    ]
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(random.uniform(0.2, 2 * EVERY - 0.2))
            name, act = random.choice(choices)
            stage.done[name] += 1
            lasting = act()
            if lasting is not None:
                nursery.start_soon(lasting)


def _simulator(stage: Stage, random: Random) -> Simulator:
    return random.choice((stage.venue, stage.broker))


def _for_a_while(proxy: FaultProxy, fault: Stall | Throttle, seconds: float) -> Callable[[], Any]:
    async def last() -> None:
        proxy.inject(fault)
        await trio.sleep(seconds)
        proxy.heal()

    return last


def _down(proxy: FaultProxy, seconds: float) -> Callable[[], Any]:
    async def last() -> None:
        proxy.down()
        await trio.sleep(seconds)
        proxy.up()

    return last


# --- what must hold in the end ---------------------------------------------------------------------------------------


def book(simulator: Any, symbol: str, levels: int | None = None) -> tuple[Mapping[Decimal, Decimal], ...]:
    moved, instrument = simulator.market.book(symbol, levels), simulator.market.instrument(symbol)
    return tuple(
        {Decimal(instrument.price_text(price)): Decimal(instrument.size_text(size)) for price, size in side}
        for side in (moved.bids, moved.asks)
    )


def wrong(stage: Stage, views: Mapping[str, ChannelView]) -> Iterator[str]:
    """Return what of a subscriber's view is not the simulators' state."""
    for channel, simulator, symbol in ((QUOTE, stage.venue, "BTC/USD"), (BROKER_QUOTE, stage.broker, "EURUSD")):
        moved, price = simulator.market.quote(symbol), simulator.market.instrument(symbol).price_text
        last = views[channel].last.get("quote")
        if last is None or (last["quote"]["bid"], last["quote"]["ask"]) != (price(moved.bid), price(moved.ask)):
            yield channel
    for channel, simulator, symbol, levels in (
        (DEPTH, stage.venue, "BTC/USD", None),
        (BROKER_DEPTH, stage.broker, "EURUSD", 10),
    ):
        if (views[channel].bids, views[channel].asks) != book(simulator, symbol, levels):
            yield channel
    if holdings(views[ACCOUNT]) != held(stage.broker):
        yield ACCOUNT


def holdings(view: ChannelView) -> tuple[Mapping[str, tuple[str, Decimal]], set[str]]:
    """Return the open positions with side and quantity by id, and the ids of open orders, as a subscriber has them."""
    positions = {
        id: (body["side"], Decimal(body["quantity"])) for (kind, id), body in view.held.items() if kind == "position"
    }
    return positions, view.open("order")


def held(broker: HelioSimulator) -> tuple[Mapping[str, tuple[str, Decimal]], set[str]]:
    """Return the same of the simulator's account."""
    account, market = broker.account, broker.market
    positions = {
        position.id: (str(position.side), Decimal(market.instrument(symbol).size_text(position.quantity)))
        for symbol, position in account.positions.items()
    }
    return positions, {order.id for order in account.open_orders()}


def mistaken(stage: Stage) -> Iterator[str]:
    """Return in which orders and positions views of the account differ from the simulator's, with how many have them so."""
    positions, orders = held(stage.broker)
    told = Counter[str]()
    for subscriber in stage.subscribers:
        seen, open_orders = holdings(subscriber.views[ACCOUNT])
        for id in sorted(seen.keys() | positions.keys()):
            if seen.get(id) != positions.get(id):
                told[f"position {id}: {_shown(seen.get(id))}, not {_shown(positions.get(id))}"] += 1
        told.update(f"order {id}: open, not ended" for id in open_orders - orders)
        told.update(f"order {id}: not open" for id in orders - open_orders)
    return (f"{count} subscribers: {what}" for what, count in told.most_common(10))


def _shown(position: tuple[str, Decimal] | None) -> str:
    return "none" if position is None else " ".join(map(str, position))


def refused(stage: Stage) -> Iterator[str]:
    """Return the subscriptions that the relay refused: of these channels nothing would be tested."""
    reasons = Counter(reason for subscriber in stage.subscribers for reason in subscriber.refused.values())
    return (f"{count} subscriptions were refused: {reason}" for reason, count in reasons.items())


async def converge(stage: Stage, within: float) -> Counter[str]:
    """Wait until every view is right; return what is wrong, by channel.

    A subscriber that began anew has no quote before the next one, and neither simulator sends a quote when a session comes
    back. So each time that somebody began anew the markets move once more, as soon as nobody else has for `BACK` seconds.
    After the last move everything has to be right without another one.
    """
    left: Counter[str] = Counter()
    moved: tuple[object, ...] = ()
    last, since = await begun(stage), trio.current_time()
    with trio.move_on_after(within):
        while True:
            left = Counter(channel for subscriber in stage.subscribers for channel in wrong(stage, subscriber.views))
            if not left:
                break
            await trio.sleep(1)
            if (now := await begun(stage)) != last:
                last, since = now, trio.current_time()
            elif last != moved and trio.current_time() - since >= BACK:
                stage.venue.tick()
                stage.broker.tick()
                moved = last
    return left


async def begun(stage: Stage) -> tuple[object, ...]:
    """Return what changes when a session with a provider, or a subscription, begins anew."""
    sessions = [(session["state"], session["up_since"]) for session in (await stage.status())["sessions"]]
    return (*sessions, sum(view.begun for subscriber in stage.subscribers for view in subscriber.views.values()))


def lost(stage: Stage) -> int:
    """Return the number of resumes that could not be given."""
    return sum(view.lost for subscriber in stage.subscribers for view in subscriber.views.values())


def sums(status: Any) -> Iterator[str]:
    """Return what of the counters does not add up."""
    for session in status["sessions"]:
        told = (
            session["published"]
            + session["deduped"]
            + session["unknown"]
            + sum(session["dropped"].values())
            + session["held"]
        )
        if session["received"] != told:
            yield f"{session['provider']}: received {session['received']}, accounted for {told}"
    said = sum(session["published"] + session["raised"] for session in status["sessions"])
    said += status["commands"].get("silent", 0)  # what no session replied to in time the relay ends itself
    if said != sum(status["hub"]["published"].values()):
        yield f"sessions published {said}, the hub {sum(status['hub']['published'].values())}"


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Least squares, per minute."""
    mean_t, mean_m = (sum(column) / len(samples) for column in zip(*samples, strict=True))
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 60 * sum((t - mean_t) * (m - mean_m) for t, m in samples) / spread if spread else 0.0


def rise(samples: Sequence[tuple[float, float]]) -> float:
    """Return the growth per minute of the least that was in use, from the middle third to the last.

    The memories of numbers and times are emptied when they are full, so what is in use goes up and down by a megabyte.
    """
    third = len(samples) // 3
    if not third:
        return 0.0
    middle, last = samples[third : 2 * third], samples[2 * third :]
    low, high = (min(part, key=lambda sample: sample[1]) for part in (middle, last))
    return 60 * (high[1] - low[1]) / (high[0] - low[0])


# --- running ---------------------------------------------------------------------------------------------------------


def document(venue: FaultProxy, broker: FaultProxy, store: str) -> Mapping[str, Any]:
    return {
        "store": {"url": store},
        "commands": {"age": 60, "rejected_age": 60},
        "api_keys": {"trader": {"key": KEY, "trade": ["broker.main"]}},
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "history": {"events": 200, "age": 60},
        "apps": {
            "soak": {
                "id": APP.id,
                "key": APP.key,
                "secret": APP.secret,
                "accounts": ["broker.main"],
                "activity_timeout": 10,
                "pong_timeout": 10,
            }
        },
        "providers": {
            "venue": {"adapter": "synthetic", "url": f"ws://127.0.0.1:{venue.port}/v1"},
            "broker": {
                "adapter": "helio",
                "url": f"ws://127.0.0.1:{broker.port}/api/v1/ws",
                "http_url": f"http://127.0.0.1:{broker.port}/api/v1",
                "symbols": {"EURUSD": "EUR/USD", "XAUUSD": "XAU/USD", "GBPUSD": "GBP/USD", "USDJPY": "USD/JPY"},
                "options": {"portfolio": "whole"},
                "accounts": {"main": {"credentials": {"email": EMAIL, "password": PASSWORD}}},
            },
        },
    }


@asynccontextmanager
async def running(many: int, seed: int, store: str) -> AsyncIterator[Stage]:
    venue, broker = SyntheticSimulator(seed=seed, rate=0), HelioSimulator(seed=seed, interval=0)
    async with trio.open_nursery() as nursery:
        venue_at = await nursery.start(venue.run)
        broker_at = await nursery.start(broker.run)
        upstream = [FaultProxy(venue_at.port), FaultProxy(broker_at.port)]
        for proxy in upstream:
            await nursery.start(proxy.run)
        relay, port = started(document(*upstream, store))
        try:
            downstream = [FaultProxy(port, buffer=4096) for _ in range(min(LINES, many))]
            for proxy in downstream:
                await nursery.start(proxy.run)
            subscribers = [
                Subscriber(partial(getattr, downstream[number % len(downstream)], "port"), APP, CHANNELS)
                for number in range(many)
            ]
            for number, subscriber in enumerate(subscribers):
                nursery.start_soon(subscriber.run)
                if number % 20 == 19:
                    await trio.sleep(0.2)  # an app admits so many connections a second
            yield Stage(venue, broker, upstream, downstream, subscribers, relay, port, Counter())
        finally:
            assert relay.stdin is not None
            relay.stdin.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(relay.wait)
            nursery.cancel_scope.cancel()


def started(configuration: Mapping[str, Any]) -> tuple[subprocess.Popen[str], int]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(configuration))
        file.flush()
        command = [sys.executable, "-m", "support.soaked_relay", file.name]
        relay = subprocess.Popen(
            command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert relay.stdout is not None
        return relay, int(relay.stdout.readline())


async def soak(
    subscribers: int, seconds: float, seed: int, store: str, looked: Callable[[Mapping[str, float]], object]
) -> tuple[dict[str, Any], list[str]]:
    """Run it all; return the row of the report and what failed. `looked` is called with each look at the memory."""
    async with running(subscribers, seed, store) as stage:
        samples: list[tuple[float, float]] = []
        live: list[tuple[float, float]] = []
        kept: list[tuple[float, float]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market, stage, max(0.5, min(5.0, 1000 / subscribers)), Random(seed))
            nursery.start_soon(trader, stage, 1.0)
            nursery.start_soon(visitors, stage, 1.0)
            nursery.start_soon(faults, stage, Random(seed + 1))
            began = trio.current_time()
            until = began + seconds
            while trio.current_time() < until:
                await trio.sleep(1)
                samples.append((trio.current_time(), stage.resident()))
                if not live or trio.current_time() - live[-1][0] >= LOOK:
                    memory = await stage.memory()
                    live.append((now := trio.current_time(), memory["in_use"]))
                    kept.append((now, memory["python_free"] + memory["glibc_free"]))
                    told = {"events": sum((await stage.status())["hub"]["published"].values())}
                    looked({"s": now - began, **memory, **stage.mapped(), **told})
            nursery.cancel_scope.cancel()
        for proxy in (*stage.upstream, *stage.downstream):
            proxy.up()
            proxy.heal()
        left = await converge(stage, 180)
        status = await stage.status()
        views = [view for subscriber in stage.subscribers for view in subscriber.views.values()]
        problems = [problem for view in views for problem in view.problems]
        settled = samples[len(samples) // 2 :]
        growth, leak = slope(settled), rise(live)
        failures = [
            *refused(stage),
            *(f"{subscribers} subscribers are wrong about {channel}" for channel, subscribers in left.items()),
            *(mistaken(stage) if ACCOUNT in left else ()),
            *sums(status),
            *problems[:20],
            *([f"the relay grew by {growth:.2f} MB a minute, more than {FLAT:g}"] if growth > FLAT else []),
            *(
                [f"its memory in use grew by {leak:.2f} MB a minute, more than {LIVE_FLAT:g}"]
                if leak > LIVE_FLAT
                else []
            ),
        ]
        delivered = sum(sum(view.kinds.values()) for view in views)
        row = {
            "subscribers": subscribers,
            "store": store.partition(":")[0],
            "seconds": round(seconds),
            "faults": sum(stage.done.values()),
            "provider reconnects": sum(session["reconnects"] for session in status["sessions"]),
            "subscriber reconnects": sum(subscriber.connections - 1 for subscriber in stage.subscribers),
            "events": sum(status["hub"]["published"].values()),
            "delivered": delivered,
            "resumes refused": lost(stage),
            "given way": sum(status["hub"]["dropped"].values()),
            "wrong views": sum(left.values()),
            "broken rules": len(problems),
            "MB": round(settled[-1][1], 1),
            "MB per minute": round(growth, 2),
            "MB in use": round(live[-1][1], 1),
            "in use per minute": round(leak, 3),
            "MB kept free": round(kept[-1][1], 1),
            "kept free per minute": round(slope(kept[len(kept) // 2 :]), 3),
        }
        return row, failures


def main() -> None:
    options = arguments(__doc__.splitlines()[0], seconds=600.0, subscribers=500, seed=1, store=0, looks="")
    raise_limits()
    with tempfile.TemporaryDirectory() as directory:
        store = f"sqlite:///{directory}/soak.sqlite3" if options.store else "memory:"
        looks = open(options.looks or os.devnull, "w", buffering=1)
        with looks:
            row, failures = trio.run(
                soak,
                options.subscribers,
                options.seconds,
                options.seed,
                store,
                lambda look: print(json.dumps(look), file=looks),
            )
    report(options, f"soak, seed {options.seed}", [row], failures)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
