"""Measure what a store costs: a publication beside one without a store, a command's wait for the disk, and a start.

The file is in the directory for temporary files: its disk and file system decide the waits. A publication is of a quote with
one subscriber; the sides are measured in turns in one process, its CPU time with that of the store's thread. The side without
a store is there twice: what they differ by is noise. A commit is a row of 700 bytes, the size of an order with its reply, one
after the other by as many tasks as the row says.
"""

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import trio

from relay.app import freeze_gc
from relay.hub.history import HistoryLimits
from relay.hub.hub import Hub
from relay.model.channels import Stream, Topic
from relay.model.commands import PlaceOrder
from relay.model.events import Quote, Stamp
from relay.pusher.apps import App
from relay.store.interface import LoggedTopic, Row, Store
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.store.sqlite_file import LogLimits
from relay.trading.pending import AccountRef
from relay.trading.registry import CommandRegistry
from support.report import arguments, report

AT_ONCE = (1, 10, 100)
TOPICS, ROUNDS = 100, 15
KEPT_TOPICS = 100
ACCOUNT = AccountRef("broker", "main")
STAMP = Stamp(provider="broker", account="main", received_at="2025-01-15T10:30:00Z")
OF_VENUE = Stamp(provider="venue", account=None, received_at="2025-01-15T10:30:00.123456Z")


class Owner:
    """A hub as the owner of a store."""

    def __init__(self, store: Store, topics: int = TOPICS) -> None:
        app = App(id="1", key="k", secrets=("s",))
        streams = [Stream("venue", Topic(kind="quote", symbol=f"S{n}/USD")) for n in range(topics)]
        history = HistoryLimits(idle_topics=100_000)
        self.hub = Hub(
            [app], epoch="bench", socket_ids=iter(f"1.{n}" for n in range(10**6)).__next__,
            want=lambda stream, by: (), unwant=lambda stream: None, pinned=streams, history=history, store=store,
        )  # fmt: skip

    def restore(self, rows: Any, topics: Mapping[str, LoggedTopic]) -> None:
        self.hub.restore(rows, topics, trio.current_time(), time.time_ns())

    def rows(self) -> Iterator[Row]:
        return self.hub.stored()

    def topics(self, names: Any) -> Any:
        return self.hub.logged_topics(names)

    def subscribe(self) -> None:
        session: Any = self.hub.connect("k", "protocol=7", None, 0.0)
        for n in range(TOPICS):
            session.receive(f'{{"event":"pusher:subscribe","data":{{"channel":"quote.venue.S{n}-USD"}}}}', 0.0)
        session.outbox.attach(len, [], None)
        self.outbox = session.outbox

    async def publish(self, events: int, rate: float | None = None) -> list[float]:
        """Publish so many quotes, 100 a pass; return the seconds that each pass took, without the waits between."""
        passes, began = [], trio.current_time()
        for start in range(0, events, 100):
            if rate is not None:
                await trio.sleep_until(began + start / rate)
            at, now = time.perf_counter(), trio.current_time()
            for number in range(start, start + 100):
                quote = Quote(
                    symbol=f"S{number % TOPICS}/USD", native_symbol="S", bid=f"1.{number}", ask=f"1.{number + 1}"
                )
                self.hub.publish(quote, OF_VENUE, now)
            self.outbox.flush()
            passes.append(time.perf_counter() - at)
            await trio.lowlevel.checkpoint()
        return passes


async def publications(directory: str, events: int) -> list[dict[str, Any]]:
    """Return the CPU time and the time of a publication without a store, and with a file, in turns."""
    limits = LogLimits(events=1000, age=300, bytes=1 << 20)
    stores: dict[str, Store] = {
        "memory": MemoryStore(),
        "sqlite": SqliteStore(Path(directory) / "events.sqlite3", limits=limits),
        "memory again": MemoryStore(),
    }
    cpu: dict[str, list[float]] = {name: [] for name in stores}
    wall: dict[str, list[float]] = {name: [] for name in stores}
    owners = {name: Owner(store) for name, store in stores.items()}
    async with trio.open_nursery() as nursery:
        for name, store in stores.items():
            await nursery.start(partial(store.run, owners[name]))
            owners[name].subscribe()
        for _ in range(ROUNDS):
            for name, owner in owners.items():
                began = time.process_time()
                passes = await owner.publish(events)
                await synced(stores[name])
                cpu[name].append((time.process_time() - began) / events * 1e6)
                wall[name] += [each / 100 * 1e6 for each in passes]
        kept = owners["sqlite"]
        began, before = time.process_time(), stores["sqlite"].status()["events"]
        at = time.perf_counter()
        await kept.publish(events * 5, rate=20_000)
        took = time.perf_counter() - at
        await synced(stores["sqlite"])
        used, written = time.process_time() - began, stores["sqlite"].status()["events"] - before
        nursery.cancel_scope.cancel()
    rows = []
    for name in cpu:
        each = sorted(wall[name])
        rows.append({
            "what": f"publish, {name}", "CPU us": statistics.median(cpu[name]), "p50 us": each[len(each) // 2],
            "p99 us": each[ceil(len(each) * 0.99) - 1],
        })  # fmt: skip
    both = [(one + other) / 2 for one, other in zip(cpu["memory"], cpu["memory again"], strict=True)]
    rows.append({"what": "sqlite more than memory", "share": _more(cpu["sqlite"], both)})
    rows.append({"what": "memory more than itself", "share": _more(cpu["memory again"], cpu["memory"])})
    rows.append({
        "what": "20,000 events/s", "per second": events * 5 / took, "written": written, "CPU share": used / took
    })  # fmt: skip
    return rows


def _more(one: Iterable[float], other: Iterable[float]) -> float:
    """Return by how much one side's rounds cost more than the other's beside them, the median."""
    return statistics.median(each / beside for each, beside in zip(one, other, strict=True)) - 1


async def synced(store: Store) -> None:
    """Wait until all that was logged is on disk."""
    if isinstance(store, SqliteStore):
        store._hand_over_later()
        done = trio.Event()
        store.sync(lambda _: done.set())
        await done.wait()


async def restart(directory: str, events: int) -> dict[str, Any]:
    """Return the time from opening a file with many events until the hub has all of them."""
    path = Path(directory) / "kept.sqlite3"
    limits = LogLimits(events=events // KEPT_TOPICS, age=300, bytes=1 << 20)

    async def run(feed: bool) -> tuple[float, float, Owner]:
        store = SqliteStore(path, limits=limits)
        owner = Owner(store, KEPT_TOPICS)
        async with trio.open_nursery() as nursery:
            began, cpu = time.perf_counter(), time.process_time()
            await nursery.start(store.run, owner)
            took, used = time.perf_counter() - began, time.process_time() - cpu
            if feed:
                owner.subscribe()
                for _ in range(0, events, 1000):  # small chunks, as slow topics have them
                    await owner.publish(1000)
                    await synced(store)
            nursery.cancel_scope.cancel()
        return took, used, owner

    await run(feed=True)
    took, used, owner = await run(feed=False)
    kept = sum(topic["kept"] for topic in owner.hub.snapshot()["streams"])
    return {"what": f"start with {kept} events", "ms": took * 1e3, "CPU ms": used * 1e3}


async def commits(directory: str, total: int) -> list[dict[str, Any]]:
    """Return a row for each number of tasks."""
    store = SqliteStore(Path(directory) / "bench.sqlite3")
    rows = []
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run, Owner(MemoryStore(), 0))
        for tasks in AT_ONCE:
            rows.append(await _commit(store, tasks, total))
        nursery.cancel_scope.cancel()
    return rows


async def _commit(store: SqliteStore, tasks: int, total: int) -> dict[str, Any]:
    waits: list[float] = []

    async def commit(task: int) -> None:
        for number in range(total // tasks):
            done, began = trio.Event(), time.perf_counter()
            store.commit(Row("commands", f"{tasks}/{task}/{number}", b"x" * 700), lambda _, done=done: done.set())
            await done.wait()
            waits.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(commit, task)
    took = time.perf_counter() - began
    waits.sort()
    p50, p99 = waits[len(waits) // 2], waits[ceil(len(waits) * 0.99) - 1]
    return {"what": f"commit, {tasks} at once", "p50 ms": p50, "p99 ms": p99, "per second": len(waits) / took}


def stored(commands: int) -> Iterator[tuple[str, bytes]]:
    """Yield the rows of commands with their replies."""
    registry = CommandRegistry(store=MemoryStore())
    for number in range(commands):
        order = PlaceOrder(
            id=f"c{number}", client_order_id=f"o{number}", symbol="EUR/USD", side="BUY", order_type="MARKET", quantity="1"
        )  # fmt: skip
        pending, _ = registry.take(ACCOUNT, order, f"k{number}", 10.0, 0.0, "desk")
        registry.settle(pending.replied({"order_id": f"{number}"}, None), STAMP, 0.0, f"e{number}")
    for row in registry.rows():
        assert row.value is not None
        yield row.key, row.value


def restore(commands: int) -> dict[str, Any]:
    """Return the row of a start."""
    rows, registry = list(stored(commands)), CommandRegistry(store=MemoryStore())
    began = time.process_time()
    registry.restore(rows, 0.0, 1_736_937_000_000_000_000)
    took = time.process_time() - began
    assert len(registry) == commands
    return {"what": f"restore {commands} commands", "CPU ms": took * 1e3}


def main() -> None:
    """Print all rows."""
    freeze_gc()
    options = arguments(__doc__, events=20_000, kept=100_000, commits=2000, commands=10_000)
    with tempfile.TemporaryDirectory() as directory:
        rows = [
            *trio.run(publications, directory, options.events),
            trio.run(restart, directory, options.kept),
            *trio.run(commits, directory, options.commits),
        ]
    report(options, "store", [*rows, restore(options.commands)])


if __name__ == "__main__":
    main()
