"""Takeovers, one after another, under orders and quotes: nothing is lost, nothing is told twice, nothing is out of order."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from relay.cluster.log import LogEntry
from support.cable import Cable, cable
from support.forked import fork_server
from support.real_cluster import ACCOUNT, RealCluster, Watcher, compare, log_faults, number_faults, real_cluster

#: coredis, which reads along, does not close the buffers of a connection that is lost.
pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: Takeovers; TICKRELAY_FAILOVERS asks for more.
FAILOVERS = int(os.environ.get("TICKRELAY_FAILOVERS", "6"))
#: Names the order of ways and pauses. A long run prints it.
SEED = int(os.environ.get("TICKRELAY_SEED", "1"))
#: Takeovers of one cluster, before all that was told is judged.
OF_ONE = 20
#: Seconds of a lease. A loaded machine that cannot renew a short one in time only has more takeovers.
LEASE = float(os.environ.get("TICKRELAY_LEASE", "2"))
#: Seconds after an event of the account in which the subscriber that roams loses its connection, and goes to the next relay;
#: and after which it does so without an event.
ROAMS_AFTER, ROAMS_ANYWAY = 0.5, 10.0
WAYS = ("SIGKILL", "SIGTERM", "SIGKILL", "cut", "SIGTERM", "SIGSTOP")


def ways(seed: int) -> Iterator[tuple[str, float]]:
    """Yield ways for an owner to fail, each as often as it is in `WAYS`, and the seconds for which it works before."""
    random = Random(seed)
    while True:
        for way in random.sample(WAYS, len(WAYS)):
            yield way, random.uniform(0, 1)


async def fail(cluster: RealCluster, way: str, number: int) -> None:
    """Have another node take the owner's place, and a new one that of the old."""
    owner, began = await cluster.owner(), time.monotonic()
    if way == "cut":
        owner.line.cut()
    else:
        owner.process.send(getattr(signal, way))
    await cluster.owner(owner)
    await cluster.trader.trades(1)
    await cluster.watchers["edge"].hears(2)
    cluster.forget(owner)
    print(f"{way}: {time.monotonic() - began:.1f} s", flush=True)
    await cluster.node(f"n{number}")


def any_port(cluster: RealCluster) -> int:
    """Return the port of a node that runs; the edge's, which nobody kills, only while there is no other."""
    return min((node.role == "edge", node.port) for node in cluster.alive())[1]


def ports_in_turn(cluster: RealCluster) -> Iterator[int]:
    """Yield the ports of the nodes that run, one after another."""
    for turn in count():
        alive = cluster.alive()
        yield alive[turn % len(alive)].port


async def roam(line: Cable, watcher: Watcher, scope: trio.CancelScope) -> None:
    """Cut a subscriber's line again and again: it resumes at another node each time."""
    with scope:
        while True:
            told = len(watcher.events[ACCOUNT])
            with trio.move_on_after(ROAMS_ANYWAY):
                await watcher.until(lambda watcher: len(watcher.events[ACCOUNT]) > told)  # noqa: B023
            await trio.sleep(ROAMS_AFTER)
            line.cut()
            line.mend()


async def test_takeovers_lose_nothing_and_tell_nothing_twice(tmp_path: Path) -> None:
    coming, done = ways(SEED), 0
    with fork_server() as forks:
        while done < FAILOVERS:
            directory = tmp_path / str(done)
            directory.mkdir()
            async with (
                real_cluster(forks, directory, lease=LEASE) as cluster,
                cable() as line,
                trio.open_nursery() as nursery,
            ):
                line.turns = ports_in_turn(cluster)
                await cluster.begin("a", "b", wanders=partial(any_port, cluster), roams=lambda: line.port)
                roaming = trio.CancelScope()
                nursery.start_soon(roam, line, cluster.watchers["roams"], roaming)
                began = time.monotonic()
                of_this = min(OF_ONE, FAILOVERS - done)
                for number in range(of_this):
                    way, pause = next(coming)
                    await trio.sleep(pause)
                    await fail(cluster, way, number)
                done += of_this
                roaming.cancel()
                await cluster.goes_on("edge", "wanders", "roams", trades=1)
                judge = await cluster.end("edge", "wanders", "roams")
                print(f"seed {SEED}: {done} takeovers, {time.monotonic() - began:.0f} s; {judge.counts()}", flush=True)
                wrong = judge.all()
                print("\n".join(wrong), flush=True)
                assert wrong == []


def entry(n: int, epoch: str = "e") -> LogEntry:
    return LogEntry("t", epoch, n, n, f"{epoch}{n}", b"", b"", "conflate" if n == 4 else "never_drop", "")


def heard(*entries: LogEntry) -> list[dict[str, Any]]:
    return [{"type": "order", "seq": entry.seq, "id": entry.id} for entry in entries]


def reached(seq: int, epoch: str = "e") -> dict[str, Any]:
    return {"type": "position_reached", "epoch": epoch, "seq": seq, "id": None}


FAILED = {"type": "resume_failed", "seq": None, "id": None}


def test_the_judge_knows_a_loss_from_what_was_told() -> None:
    entries = [entry(n) for n in range(1, 7)]
    all_of_them = heard(*entries)
    assert compare([reached(0), *all_of_them], entries).faults == []
    assert compare([reached(2), *all_of_them[2:]], entries).faults == []
    assert len(compare([reached(1), *all_of_them[2:]], entries).faults) == 1
    assert len(compare([reached(0), *all_of_them[:2], *all_of_them[4:]], entries).faults) == 2
    assert len(compare([reached(0), *all_of_them[:2], *all_of_them[1:]], entries).faults) == 1
    told_anew = compare([reached(0), *all_of_them[:2], FAILED, all_of_them[0], reached(4), *all_of_them[4:]], entries)
    assert told_anew.faults == []
    assert told_anew.lost == {"e3", "e4"}


def test_the_judge_knows_a_new_epoch() -> None:
    entries = [*(entry(n) for n in (1, 2, 3)), *(entry(n, "f") for n in (1, 2, 3))]
    before, gap, after = heard(*entries[:3]), {"type": "gap", "seq": 1, "id": "f1"}, heard(*entries[4:])
    begins = [reached(0, "f"), gap, *after]
    assert compare([reached(0), *before, *begins], entries).faults == []
    # The gap of the new epoch tells of all that was in Redis and never came; its position alone does not.
    told = compare([reached(0), *before[:2], *begins], entries)
    assert (told.faults, told.lost) == ([], {"e3"})
    assert len(compare([reached(0), *before[:2], reached(0, "f"), *after], entries).faults) == 2
    # A gap of numbers tells of those of its own epoch only.
    numbered = {**gap, "from": 1, "to": 3}
    assert len(compare([reached(0), *before[:2], reached(0, "f"), numbered, *after], entries).faults) == 1
    # The same number of two epochs are two numbers: a resume behind both is one place in the log.
    failed = compare([reached(0), *before[:1], FAILED, reached(2, "f"), *after[1:]], entries)
    assert (failed.faults, failed.lost) == ([], {"e2", "e3", "f1", "f2"})
    assert len(compare([reached(0), *before, *begins[1:]], entries).faults) == 3


def test_the_judge_knows_a_number_that_means_two_events() -> None:
    entries = [entry(1), entry(2), entry(1, "f")]
    one, other = [reached(0), *heard(*entries[:2])], [reached(0), *heard(entries[0])]
    quote = {"type": "quote", "seq": 3, "id": "only the owner's subscribers saw it"}
    told = {"one": compare([*one, quote], entries), "other": compare([*other, {**quote, "seq": 2}], entries)}
    assert number_faults({"one": told["one"]}, entries) == []
    assert len(number_faults(told, entries)) == 1
    assert log_faults(entries) == []
    assert len(log_faults([*entries, entry(3)])) == 1
    assert len(log_faults([entry(1), entry(2), entry(2)])) == 1
