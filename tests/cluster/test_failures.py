"""Redis fails in each of its ways: nobody is told anything false, and everything goes on without a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay_synthetic.simulator import SyntheticSimulator
from support.cable import Cable, cable
from support.cluster import Cluster, Heard, Node, cluster
from support.redis_server import RedisServer, redis_server

#: coredis does not close the buffers of a connection that could not be made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUOTES = "quote.synthetic.BTC-USD"


class Pair:
    """Two relays, the first of which reaches Redis by a cable, and a subscriber of each."""

    def __init__(self, redis: RedisServer, line: Cable, together: Cluster) -> None:
        self.redis, self.line, self.together = redis, line, together
        self.nodes: list[Node] = []
        self.heard: list[Heard] = []

    async def begin(self, *, owner: int) -> None:
        """Start the relays; the one of this number owns the provider, and both have quotes."""
        urls = [f"redis://127.0.0.1:{self.line.port}/0", self.redis.url]
        for number in (owner, 1 - owner):
            node = await self.together.node("ab"[number], redis=urls[number])
            if number == owner:
                await self.together.owner("synthetic", connected=False)
            self.nodes.insert(0 if number == 0 else len(self.nodes), node)
        self.heard = [self.together.subscribe(lambda node=node: node.port, QUOTES) for node in self.nodes]
        for heard in self.heard:
            await heard.hears(5, "quote")

    async def goes_on(self) -> None:
        """Wait until both have news again, and check that they were told of all that they missed."""
        for heard in self.heard:
            await heard.hears(10, "quote")
            await heard.until(lambda heard: not is_stale(heard))
            assert heard.holes() == []


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    venue = SyntheticSimulator(rate=50)
    async with venue.serve() as address, redis_server(directory) as redis, cable(redis.port) as line:
        async with cluster(redis, {"synthetic": {"url": address.ws}}, lease=2.0) as together:
            yield Pair(redis, line, together)


def is_stale(heard: Heard) -> bool:
    told = heard.of("staleness")
    return bool(told) and told[-1]["event"] == "STALE" and bool(told[-1].get("reason"))


async def test_an_owner_that_is_cut_off_stops_says_so_and_follows_when_it_is_back(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        await two.begin(owner=0)
        two.line.cut()
        assert await two.together.owner("synthetic", connected=False, but=two.nodes[0]) is two.nodes[1]
        assert not two.nodes[0].owns("synthetic")
        await two.heard[0].until(is_stale)
        await two.heard[1].hears(10, "quote")
        two.line.mend()
        await two.goes_on()
        assert [gap["reason"] for gap in two.heard[1].of("gap")] == ["failover"]


async def test_a_link_that_is_mute_is_noticed_and_read_on_where_it_fell_silent(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        await two.begin(owner=1)
        two.line.mute = True
        await two.heard[0].until(is_stale)
        two.line.mute = False
        await two.goes_on()
        assert not two.heard[0].of("gap"), "the log still had it all"
        assert not is_stale(two.heard[1])


@pytest.mark.parametrize("how", ["restarts", "is emptied", "is full"])
async def test_a_redis_that_fails_is_told_of_and_comes_back(tmp_path: Path, how: str) -> None:
    async with pair(tmp_path) as two:
        await two.begin(owner=1)
        match how:
            case "restarts":
                await two.redis.kill()
                for heard in two.heard:
                    await heard.until(is_stale)
                await two.redis.start()
            case "is emptied":
                await two.redis.say("FLUSHALL")
                await two.heard[0].hears(1, "gap")
            case "is full":
                await two.redis.say("CONFIG SET maxmemory 1")
                for heard in two.heard:
                    await heard.until(is_stale)
                await two.redis.say("CONFIG SET maxmemory 0")
        for heard in two.heard:
            await heard.until(lambda heard: bool(heard.of("gap")))
        await two.together.owner("synthetic", connected=False)
        await two.goes_on()
