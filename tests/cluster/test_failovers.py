"""Takeovers, one after another, under orders and quotes: nothing is lost, nothing is told twice, nothing is out of order."""

import os
import signal
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from relay.cluster.log import LogEntry
from support.forked import fork_server
from support.real_cluster import RealCluster, lost_entries, real_cluster, sequence_faults

#: coredis, which reads along, does not close the buffers of a connection that is lost.
pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: Takeovers; TICKRELAY_FAILOVERS asks for more.
FAILOVERS = int(os.environ.get("TICKRELAY_FAILOVERS", "6"))
#: Takeovers of one cluster, before all that was told is judged.
OF_ONE = 20
#: Seconds of a lease. A loaded machine that cannot renew a short one in time only has more takeovers.
LEASE = float(os.environ.get("TICKRELAY_LEASE", "2"))
WAYS = ("SIGKILL", "SIGTERM", "SIGKILL", "cut", "SIGTERM", "SIGSTOP")


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


async def test_takeovers_lose_nothing_and_tell_nothing_twice(tmp_path: Path) -> None:
    ways, done = cycle(WAYS), 0
    with fork_server() as forks:
        while done < FAILOVERS:
            directory = tmp_path / str(done)
            directory.mkdir()
            async with real_cluster(forks, directory, lease=LEASE) as cluster:
                await cluster.begin("a", "b", wanders=partial(any_port, cluster))
                began = time.monotonic()
                of_this = min(OF_ONE, FAILOVERS - done)
                for number in range(of_this):
                    await fail(cluster, next(ways), number)
                done += of_this
                await cluster.goes_on("edge", "wanders", trades=1)
                judge = await cluster.end("edge", "wanders")
                print(f"{done} takeovers, {time.monotonic() - began:.0f} s; {judge.counts()}", flush=True)
                assert judge.all() == []


def test_the_judge_knows_a_loss_from_what_was_told() -> None:
    entries = [
        LogEntry("t", "e", n, n, f"i{n}", b"", b"", "conflate" if n == 4 else "never_drop", "") for n in range(1, 7)
    ]
    heard = [{"type": "order", "seq": entry.seq, "id": entry.id} for entry in entries]
    failed = {"type": "resume_failed", "seq": None, "id": None}
    reached = {"type": "position_reached", "seq": 4, "id": None}
    assert sequence_faults(heard, entries) == []
    assert len(sequence_faults([*heard[:2], *heard[4:]], entries)) == 2
    assert len(sequence_faults([*heard[:2], *heard[1:]], entries)) == 1
    told_anew = [*heard[:2], failed, heard[0], reached, *heard[4:]]
    assert sequence_faults(told_anew, entries) == []
    assert lost_entries(told_anew, entries) == {"i3", "i4"}
