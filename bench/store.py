"""Measure the time for which a command waits until its names are on disk, and a start that restores many of them.

Rows of 700 bytes, the size of an order with its reply, are committed one after the other by as many tasks as the row says.
The file is in the directory for temporary files: its disk and file system decide the figures.
"""

import tempfile
import time
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import trio

from relay.model.commands import PlaceOrder
from relay.model.events import Stamp
from relay.store.interface import Row
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.trading.pending import Scope
from relay.trading.registry import CommandRegistry
from support.report import arguments, report

COMMITS, AT_ONCE, REMEMBERED = 2000, (1, 10, 100), 10_000
ACCOUNT = Scope("broker", "main")
STAMP = Stamp(provider="broker", account="main", received_at="2025-01-15T10:30:00Z")


async def commits(directory: str) -> list[dict[str, Any]]:
    """Return a row for each number of tasks."""
    store = SqliteStore(Path(directory) / "bench.sqlite3")
    rows = []
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await store.run(lambda rows: None, lambda: (), task_status=task_status)

        await nursery.start(run)
        for tasks in AT_ONCE:
            rows.append(await _commit(store, tasks))
        nursery.cancel_scope.cancel()
    return rows


async def _commit(store: SqliteStore, tasks: int) -> dict[str, Any]:
    waits: list[float] = []

    async def commit(task: int) -> None:
        for number in range(COMMITS // tasks):
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


def stored() -> Iterator[tuple[str, bytes]]:
    """Yield the rows of commands with their replies."""
    registry = CommandRegistry(store=MemoryStore())
    for number in range(REMEMBERED):
        order = PlaceOrder(
            id=f"c{number}", client_order_id=f"o{number}", symbol="EUR/USD", side="BUY", order_type="MARKET", quantity="1"
        )  # fmt: skip
        pending, _ = registry.take(ACCOUNT, order, f"k{number}", 10.0, 0.0, "desk")
        registry.settle(pending.replied({"order_id": f"{number}"}, None), STAMP, 0.0, f"e{number}")
    for row in registry.rows():
        assert row.value is not None
        yield row.key, row.value


def restore() -> dict[str, Any]:
    """Return the row of a start."""
    rows, registry = list(stored()), CommandRegistry(store=MemoryStore())
    began = time.process_time()
    registry.restore(rows, 0.0, 1_736_937_000_000_000_000)
    took = time.process_time() - began
    assert len(registry) == REMEMBERED
    return {"what": f"restore {REMEMBERED} commands", "CPU ms": took * 1e3}


def main() -> None:
    """Print all rows."""
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        rows = trio.run(commits, directory)
    report(options, "store", [*rows, restore()])


if __name__ == "__main__":
    main()
