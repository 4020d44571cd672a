"""Applications' own channels over three relays as processes: a relay, its link or Redis fails, and every event is told once.

Each reader must have had every event that a relay said it published, in the one order of the log, and none that a relay said it
did not publish. Nobody is told less by going to another relay.
"""

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest
import trio
from attrs import define, field

from support.deadlines import WITHIN
from support.forked import ForkServer, fork_server
from support.http_api import OURS, ask
from support.raw import Closed, Raw, raw
from support.real_cluster import RealCluster, RealNode, real_cluster
from support.running import APP

NEWS, ROOM = "news", "presence-room"
#: Events after which the reader that wanders goes to another relay.
STAY = 7
#: Seconds of a lease: a relay that cannot renew it on a loaded machine has left, too.
LEASE = 5.0


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with fork_server() as server:
        yield server


@define(eq=False)
class Reader:
    """A subscriber of the channel that resumes after each loss, and all that it was told."""

    port: Callable[[], int]
    stay: float = float("inf")
    """Events after which it hangs up, and goes to the next port."""
    events: list[tuple[int, int]] = field(factory=list)
    """Each event's sequence number, and the number in its data."""
    position: dict[str, object] | None = None
    epochs: set[object] = field(factory=set)
    connections: int = 0
    refused: list[str] = field(factory=list)
    """The reasons that a resume failed."""
    news: trio.Event = field(factory=trio.Event)

    async def run(self) -> None:
        while True:
            try:
                async with raw(self.port()) as client:
                    self.connections += 1
                    resume = {} if self.position is None else {"resume": self.position}
                    await client.say("pusher:subscribe", {"channel": NEWS, "ids": True, **resume})
                    await self._read(client)
            except (Closed, OSError, trio.TooSlowError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.05)

    async def _read(self, client: Raw) -> None:
        first = len(self.events)
        while len(self.events) < first + self.stay:
            message = await client.receive()
            data = message.get("data") if isinstance(message, dict) else None
            told = json.loads(data) if isinstance(data, str) else data
            if not isinstance(told, dict):
                continue
            if "epoch" in told and message["event"] != "tickrelay:resume_succeeded":
                self.position = {"epoch": told["epoch"], "seq": told["seq"]}
                self.epochs.add(told["epoch"])
            if message["event"] == "tickrelay:resume_failed":
                self.refused.append(told["reason"])
            if message["event"] == "greeting":
                self.events.append((message["seq"], told["n"]))
                self.position = {**(self.position or {}), "seq": message["seq"]}
                self.news.set()
                self.news = trio.Event()

    async def has(self, n: int) -> None:
        with trio.move_on_after(WITHIN):
            while n not in (told for _, told in self.events):
                await self.news.wait()
        assert n in [told for _, told in self.events], f"{n} was never told; the last one was {self.events[-1:]}"


@define(eq=False)
class Publisher:
    """Publishes one event after another, by each relay in turn, and notes what the relay said."""

    nodes: Callable[[], list[RealNode]]
    published: set[int] = field(factory=set)
    refused: set[int] = field(factory=set)
    numbers: Iterator[int] = field(factory=lambda: count(1))

    async def run(self) -> None:
        while True:
            for node in self.nodes():
                await self.publish(node, next(self.numbers))
                await trio.sleep(0.02)

    async def publish(self, node: RealNode, n: int) -> httpx.Response | None:
        event = {"name": "greeting", "channel": NEWS, "data": json.dumps({"n": n})}
        answer = None
        with trio.move_on_after(3):
            try:
                answer = await ask(node.port, "POST", f"/apps/{APP['id']}/events", event)
            except httpx.HTTPError:
                return None
        if answer is not None and answer.status_code == 200:
            self.published.add(n)
        elif answer is not None and answer.json()["error"].startswith("not published"):
            self.refused.add(n)
        return answer

    async def until_published(self, node: RealNode) -> int:
        with trio.fail_after(WITHIN):
            while True:
                n = next(self.numbers)
                if (answer := await self.publish(node, n)) is not None and answer.status_code == 200:
                    return n
                await trio.sleep(0.05)


@define(eq=False)
class Newsroom:
    """Three relays, a reader of each, one that wanders, and a member of the room at each relay."""

    cluster: RealCluster
    publisher: Publisher
    readers: dict[str, Reader]

    async def until(self, holds: Callable[[set[str]], bool]) -> None:
        """Wait until this holds of the room's members, as the relay b says."""
        node, found = self.cluster.by_name("b"), {"nobody was asked"}
        with trio.move_on_after(WITHIN):
            while not holds(found):
                await trio.sleep(0.05)
                answer = await ask(node.port, "GET", f"/apps/{APP['id']}/channels/{ROOM}/users")
                found = {user["id"] for user in answer.json()["users"]}
        assert holds(found), found

    async def is_gone(self, name: str) -> None:
        """Wait until a relay's member is not in the room any more."""
        await self.until(lambda members: name not in members and "nobody was asked" not in members)

    async def are_there(self, *names: str) -> None:
        """Wait until these are in the room, and nobody else."""
        await self.until(lambda members: members == set(names))

    async def judge(self) -> None:
        last = await self.publisher.until_published(self.cluster.by_name("b"))
        content: dict[int, int] = {}
        for name, reader in self.readers.items():
            await reader.has(last)
            seqs = [seq for seq, _ in reader.events]
            assert seqs == list(range(seqs[0], seqs[-1] + 1)), f"{name} was told {seqs}"
            for seq, n in reader.events:
                assert content.setdefault(seq, n) == n, f"{seq} is {content[seq]}, and {n} to {name}"
            told = [n for _, n in reader.events]
            assert len(told) == len(set(told)), f"{name} was told twice"
            assert reader.refused == [], name
            assert not self.publisher.refused & set(told), name
        began = max(reader.events[0][0] for reader in self.readers.values())
        missing = self.publisher.published - {n for seq, n in content.items() if seq >= began}
        assert {n for n in missing if n not in content.values()} == set()
        assert len({epoch for reader in self.readers.values() for epoch in reader.epochs}) == 1


async def member(node: RealNode, name: str, task_status: trio.TaskStatus[None]) -> None:
    """Be in the room at a relay until the connection ends."""
    try:
        async with raw(node.port) as client:
            await client.say("pusher:subscribe", {"channel": ROOM, **client.member(OURS, ROOM, name)})
            await client.hear("pusher_internal:subscription_succeeded", ROOM)
            task_status.started()
            while True:
                await client.receive()
    except (Closed, OSError, trio.TooSlowError, trio.BrokenResourceError):
        pass


@asynccontextmanager
async def newsroom(forks: ForkServer, directory: Path) -> AsyncIterator[Newsroom]:
    async with real_cluster(forks, directory, lease=LEASE) as cluster, trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            node = await cluster.node(name)
            await nursery.start(member, node, name)
        turns = count()

        def next_port() -> int:
            alive = cluster.alive()
            return alive[next(turns) % len(alive)].port

        def port_of(name: str) -> int:
            return next((node.port for node in cluster.alive() if node.name == name), cluster.by_name("b").port)

        readers = {name: Reader(lambda name=name: port_of(name)) for name in ("a", "b", "c")}
        readers["wanders"] = Reader(next_port, stay=STAY)
        for reader in readers.values():
            nursery.start_soon(reader.run)
        room = Newsroom(cluster, Publisher(cluster.alive), readers)
        await room.are_there("a", "b", "c")
        n = await room.publisher.until_published(cluster.by_name("a"))
        with trio.fail_after(WITHIN):
            while not all(reader.connections for reader in readers.values()):
                await trio.sleep(0.02)
        nursery.start_soon(room.publisher.run)
        for reader in readers.values():
            await reader.has(max(room.publisher.published | {n}))
        yield room
        nursery.cancel_scope.cancel()


async def killed(room: Newsroom) -> None:
    room.cluster.by_name("a").process.send(signal.SIGKILL)
    await room.are_there("b", "c")


async def told_to_stop(room: Newsroom) -> None:
    process = room.cluster.by_name("a").process
    process.send(signal.SIGTERM)
    await process.wait()
    await room.are_there("b", "c")


async def stopped_for_longer_than_its_lease(room: Newsroom) -> None:
    process = room.cluster.by_name("a").process
    process.send(signal.SIGSTOP)
    await room.is_gone("a")
    process.send(signal.SIGCONT)
    await room.are_there("a", "b", "c")


async def mute(room: Newsroom) -> None:
    line = room.cluster.by_name("a").line
    line.mute = True
    await room.is_gone("a")
    line.mute = False
    await room.are_there("a", "b", "c")


async def redis_full(room: Newsroom) -> None:
    await room.cluster.redis.say("CONFIG SET maxmemory 1")
    with trio.fail_after(WITHIN):
        while not room.publisher.refused:
            await trio.sleep(0.05)
    await room.cluster.redis.say("CONFIG SET maxmemory 0")
    for name in "abc":
        await room.publisher.until_published(room.cluster.by_name(name))
    await room.are_there("a", "b", "c")


CELLS = [killed, told_to_stop, stopped_for_longer_than_its_lease, mute, redis_full]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__.replace("_", " "))
async def test_whatever_fails_every_event_is_told_once_in_one_order(
    cell: Callable[[Newsroom], Awaitable[None]], forks: ForkServer, tmp_path: Path
) -> None:
    async with newsroom(forks, tmp_path) as room:
        wandered = room.readers["wanders"].connections
        await cell(room)
        for node in room.cluster.alive():
            n = await room.publisher.until_published(node)
            for reader in room.readers.values():
                await reader.has(n)
        assert room.readers["wanders"].connections > wandered
        await room.judge()
