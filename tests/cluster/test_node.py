"""One node's part in a provider, with a store that answers when the test says: who may publish, and when it must stop."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from relay.cluster.app_node import AppNode
from relay.cluster.applications import AppPosition
from relay.cluster.lease import MARGIN, TTL
from relay.cluster.log import START, LogBatch, LogEntry, LogPosition
from relay.cluster.node import ClusterNode, ProviderNode
from relay.cluster.replica import LOGS, LeaseGrant, LogName
from relay.store.interface import Row, Rows, StoreError


class SlowStore:
    """A store that grants every lease at once; `rows` and `renew` answer when they are let."""

    ttl = TTL
    node = "a"
    failure = ""

    def __init__(self) -> None:
        self.fence = 0
        self.rows_may, self.renew_may = trio.Event(), trio.Event()
        self.renewals = 0
        self.lost: set[str] = set()

    async def acquire(self, provider: str) -> LeaseGrant:
        await trio.lowlevel.checkpoint()
        self.fence += 1
        ends = dict.fromkeys(LOGS, START)
        return LeaseGrant(token=f"{self.fence}:a", fence=self.fence, ends=ends, run="r", continuous=True)

    async def renew(self, provider: str, token: str, leading_in: str) -> tuple[str, Mapping[LogName, Any]]:
        self.renewals += 1
        await self.renew_may.wait()
        return "r", dict.fromkeys(LOGS, START)

    async def append(self, provider: str, token: str, name: LogName, *rest: Any) -> set[str]:
        *_, rows = rest
        if any(row.key in self.lost for row, _ in rows):
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return set()

    async def begin_epoch(self, provider: str, epoch: str) -> None:
        await trio.lowlevel.checkpoint()

    async def rows(self, provider: str) -> Rows:
        await self.rows_may.wait()
        return {}


class Part:
    """A provider without topics."""

    epoch = "e"

    def __init__(self) -> None:
        self.leads: list[bool] = []
        self.node: ProviderNode

    def take_over(self, *, new_epochs: bool) -> Iterable[tuple[LogName, LogEntry]]:
        return ()

    def checkpoint(self) -> Mapping[str, bytes]:
        return {}

    def lead(self, rows: Rows) -> None:
        self.leads.append(self.node.owns)

    async def run_sessions(self, hand_over: trio.Event) -> None:
        await trio.sleep_forever()

    def resign(self, unwritten: Sequence[Row]) -> None:
        self.unwritten = unwritten

    def suspect(self, reason: str) -> None:
        pass


@pytest.fixture
def node() -> ProviderNode:
    part = Part()
    part.node = ProviderNode("p", SlowStore(), part, lambda event, **fields: None)  # type: ignore[arg-type]
    part.node.loaded = True
    return part.node


async def test_a_node_that_has_not_read_what_the_last_owner_left_owns_nothing(
    node: ProviderNode, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    store: Any = node.redis
    store.renew_may.set()
    nursery.start_soon(node.keep_lease)
    nursery.start_soon(node.lead)
    await trio.sleep(2 * TTL)
    assert node.replica.leading
    assert not node.owns, "a repeated command would be carried out again"
    said: list[str] = []
    node.commit(None, said.append)  # type: ignore[arg-type]
    assert said == ["another node owns the provider now"]
    store.rows_may.set()
    await trio.testing.wait_all_tasks_blocked()
    part: Any = node.part
    assert part.leads == [True]
    assert node.owns


async def test_a_lease_that_runs_out_while_its_renewal_is_on_the_way_is_asked_for_anew(
    node: ProviderNode, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    store: Any = node.redis
    store.rows_may.set()
    store.renew_may.set()
    nursery.start_soon(node.keep_lease)
    nursery.start_soon(node.lead)
    await trio.sleep(0.1)
    assert node.owns
    store.renew_may = trio.Event()
    await trio.sleep(TTL - MARGIN + 0.5)
    assert not node.owns
    store.renew_may.set()  # the store renews the lease, which nobody uses any more
    await trio.sleep(1)
    assert node.owns
    assert node.lease.fence == 2


async def test_who_is_not_the_owner_any_more_knows_what_may_not_be_in_the_store(
    node: ProviderNode, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The events of these rows were not published: a session that remembered them would never publish them."""
    store, part = node.redis, node.part
    assert isinstance(store, SlowStore)
    assert isinstance(part, Part)
    store.rows_may.set()
    store.renew_may.set()
    nursery.start_soon(node.keep_lease)
    nursery.start_soon(node.lead)
    await trio.sleep(0.1)
    node.write(Row("fills", "stored", b"1"))
    await trio.sleep(0.1)
    store.lost.add("on its way")
    node.write(Row("fills", "on its way", b"2"))
    await trio.sleep(0.1)
    node.write(Row("fills", "waiting", b"3"))
    node.sync(lambda failure: None)
    node.stop("the test wants it")
    await trio.testing.wait_all_tasks_blocked()
    assert [row.key for row in part.unwritten] == ["on its way", "waiting"]


class EndlessStore(SlowStore):
    """A store that says how far the logs go, where it answers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.end = 0
        self.answers = False

    async def ends(self, provider: str) -> Mapping[LogName, LogPosition]:
        await trio.lowlevel.checkpoint()
        if not self.answers:
            raise StoreError("Redis does not answer")
        return {"market": LogPosition(1, self.end), "durable": START}

    async def end_of_applications(self) -> AppPosition:
        await trio.lowlevel.checkpoint()
        if not self.answers:
            raise StoreError("Redis does not answer")
        return AppPosition(1, self.end)


async def test_a_node_knows_when_it_has_read_what_there_was_when_it_was_asked(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    store: Any = EndlessStore()
    node = ClusterNode(store, {"p": Part()}, may_own=False)  # type: ignore[dict-item]
    part = node.providers["p"]
    nursery.start_soon(node._find_ends)
    store.end = 2
    is_read = node.read_on("p")
    await trio.sleep(1)
    store.answers = True
    await trio.sleep(1)
    part.replica.start_at({"market": LogPosition(1, 1), "durable": START})
    assert not is_read(), "it has not loaded what was before"
    part.loaded = True
    assert not is_read(), "it has read the first batch of two"
    store.end = 3
    later = node.read_on("p")
    await trio.sleep(1)
    part.replica.feed("market", LogBatch(1, 2))
    assert is_read()
    assert not later()
    part.replica.feed("market", LogBatch(1, 4))
    assert not later(), "it has missed one"
    part.replica.start_at({})
    assert later()


async def test_a_node_knows_when_it_has_read_what_was_published_on_applications_channels(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    store: Any = EndlessStore()
    node = AppNode(store)
    node.store.end = store.end_of_applications  # type: ignore[method-assign]
    nursery.start_soon(node._find_end)
    store.end = 2
    is_read = node.read_on()
    await trio.sleep(1)
    store.answers = True
    await trio.sleep(1)
    node.all.position = AppPosition(1, 2)
    assert not is_read(), "it has not loaded what was before"
    node._loaded.set()
    node._missed = False
    node.all.position = AppPosition(1, 1)
    assert not is_read()
    node.all.position = AppPosition(1, 2)
    assert is_read()
