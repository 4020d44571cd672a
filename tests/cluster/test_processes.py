"""Three relays as processes on a real Redis, each by a cable: whatever fails, every subscriber ends up with the canonical sequence."""

import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from support.forked import ForkServer, fork_server
from support.real_cluster import ACCOUNT, QUOTES, RealCluster, real_cluster

#: coredis, which reads along, does not close the buffers of a connection that is lost.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with fork_server() as server:
        yield server


async def killed(cluster: RealCluster) -> tuple[str, ...]:
    cluster.by_name("a").process.send(signal.SIGKILL)
    await cluster.owner()
    return ("b", "edge")


async def told_to_stop(cluster: RealCluster) -> tuple[str, ...]:
    node = cluster.by_name("a")
    node.process.send(signal.SIGTERM)
    await node.process.wait()
    await cluster.owner()
    return ("b", "edge")


async def stopped_for_longer_than_its_lease(cluster: RealCluster) -> tuple[str, ...]:
    node = cluster.by_name("a")
    node.process.send(signal.SIGSTOP)
    await cluster.owner(node)
    await cluster.trader.trades(2)
    node.process.send(signal.SIGCONT)
    return ()


async def cut_off(cluster: RealCluster) -> tuple[str, ...]:
    node = cluster.by_name("a")
    node.line.cut()
    await cluster.owner(node)
    await cluster.watchers["a"].until(lambda watcher: watcher.stale, "a says that it does not know")
    await cluster.trader.trades(2)
    node.line.mend()
    return ()


async def edge_cut_off(cluster: RealCluster) -> tuple[str, ...]:
    line = cluster.by_name("edge").line
    line.cut()
    await cluster.watchers["edge"].until(lambda watcher: watcher.stale, "the edge says that it does not know")
    await cluster.watchers["b"].hears()
    line.mend()
    return ()


async def redis_restarted(cluster: RealCluster) -> tuple[str, ...]:
    await cluster.redis.kill()
    for name, watcher in cluster.watchers.items():
        await watcher.until(lambda watcher: watcher.stale, f"{name} says that it does not know")
    await cluster.redis.start()
    return ()


async def redis_restarted_at_once(cluster: RealCluster) -> tuple[str, ...]:
    await cluster.redis.kill()
    await cluster.redis.start()
    return ()


async def redis_full(cluster: RealCluster) -> tuple[str, ...]:
    await cluster.redis.say("CONFIG SET maxmemory 1")
    for name, watcher in cluster.watchers.items():
        await watcher.until(lambda watcher: watcher.stale, f"{name} says that it does not know")
    await cluster.redis.say("CONFIG SET maxmemory 0")
    return ()


async def link_of_the_owner_dead(cluster: RealCluster) -> tuple[str, ...]:
    cluster.by_name("a").line.kill()
    return ()


async def link_of_the_edge_dead(cluster: RealCluster) -> tuple[str, ...]:
    """Neither side says a word on the connections that there are: they are healthy, and mute."""
    cluster.by_name("edge").line.kill()
    return ()


async def reader_too_slow(cluster: RealCluster) -> tuple[str, ...]:
    """Redis disconnects a client that does not take what it is sent."""
    edge = cluster.by_name("edge")
    await cluster.redis.say("CONFIG SET client-output-buffer-limit 'normal 4096 2048 1'")
    edge.line.stall()
    await cluster.watchers["edge"].until(lambda watcher: watcher.stale, "the edge says that it does not know")
    await cluster.redis.say("CONFIG SET client-output-buffer-limit 'normal 0 0 0'")
    edge.line.flow()
    return ()


async def redis_slow(cluster: RealCluster) -> tuple[str, ...]:
    """Requests take a third of their deadline."""
    for node in cluster.nodes:
        node.line.delay = 0.15
    await cluster.trader.trades(3)
    for node in cluster.nodes:
        node.line.delay = 0.0
    return ()


async def redis_too_slow(cluster: RealCluster) -> tuple[str, ...]:
    """Requests take longer than their deadline."""
    for node in cluster.nodes:
        node.line.delay = 1.0
    for name, watcher in cluster.watchers.items():
        await watcher.until(lambda watcher: watcher.stale, f"{name} says that it does not know")
    for node in cluster.nodes:
        node.line.delay = 0.0
    return ()


CELLS = [
    killed,
    told_to_stop,
    stopped_for_longer_than_its_lease,
    cut_off,
    edge_cut_off,
    redis_restarted,
    redis_restarted_at_once,
    redis_full,
    link_of_the_owner_dead,
    link_of_the_edge_dead,
    reader_too_slow,
    redis_slow,
    redis_too_slow,
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__.replace("_", " "))
async def test_whatever_fails_every_subscriber_gets_the_canonical_sequence(
    cell: Callable[[RealCluster], Awaitable[tuple[str, ...]]], forks: ForkServer, tmp_path: Path
) -> None:
    async with real_cluster(forks, tmp_path) as cluster:
        await cluster.begin("a", "b")
        names = await cell(cluster)
        await cluster.goes_on(*names)
        judge = await cluster.end(*names)
        print(judge.counts())
        assert judge.all() == []


async def test_a_redis_that_is_emptied_begins_new_epochs_and_says_so(forks: ForkServer, tmp_path: Path) -> None:
    async with real_cluster(forks, tmp_path) as cluster:
        await cluster.begin("a", "b")
        await cluster.redis.say("FLUSHALL")
        for name, watcher in cluster.watchers.items():
            for channel in (QUOTES, ACCOUNT):
                await watcher.until(
                    lambda watcher, channel=channel: any(  # type: ignore[misc]
                        gap["reason"] == "failover" and "from" not in gap for gap in watcher.of(channel, "gap")
                    ),
                    f"{name}, {channel}: a new epoch",
                )
        await cluster.goes_on()
        judge = await cluster.end()
        print(judge.counts())
        assert judge.all() == []
