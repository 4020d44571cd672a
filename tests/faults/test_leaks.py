"""Connections that come and go leave nothing behind: counted in objects, after so many reconnects as after none."""

import gc
from collections import Counter

import pytest
import trio

from relay.app import supervise
from relay.testing.faults import Corrupt, Cut, Reset
from relay.testing.simulator import Close, Refuse
from support.faulty import QUICK, VENUES, rig

#: Whose objects are counted: the relay's own, trio's (a task is one), and the libraries' for WebSockets and HTTP.
OURS = ("relay", "trio", "wsproto", "h11", "httpx", "httpcore", "socket", "ssl")
#: Events and what holds them up to its own bound; trio's queue of deadlines, which forgets those that are over a thousand at a
#: time; and what a task holds while it waits, which depends on where it waits just now.
BOUNDED = ("relay.model", "relay.hub.history", "relay.hub.encoding", "relay.hub.topic.LastValue",
           "relay.hub.topic.TopicState", "relay.hub.outbox.Delivery", "relay.provider.session_state.Sample", "relay.testing",
           "trio.CancelScope", "trio._core._run.CancelReason", "trio._core._traps")  # fmt: skip
ROUNDS = 4


def machinery() -> Counter[str]:
    """Live objects of whatever keeps a connection, by type."""
    gc.collect()
    kinds = (type(found) for found in gc.get_objects())
    names = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter({name: n for name, n in names.items() if name.startswith(OURS) and not name.startswith(BOUNDED)})


async def usual() -> Counter[str]:
    """The most there was of each within a moment."""
    found = machinery()
    for _ in range(5):
        await trio.sleep(0.05)
        found |= machinery()
    return found


async def left(before: Counter[str]) -> dict[str, int]:
    """What there is one more of per round, or more, and stays: closing handshakes and requests under way come to their end."""
    found: dict[str, int] = {}
    for _ in range(1000):  # the longest deadline of a line that closes is 13 s
        found = {name: count for name, count in (machinery() - before).items() if count >= ROUNDS}
        if not found:
            break
        await trio.sleep(0.2)
    return found


async def leaves_nothing(one_round):
    """After so many rounds there is what there was after the first."""
    await one_round()
    before = await usual()
    for _ in range(ROUNDS):
        await one_round()
    assert await left(before) == {}


def crash(raw, at):
    raise RuntimeError("a bug of the relay")


async def settled(r, since):
    await r.state("CONNECTED", since=since)
    await r.flowing(since=len(r.heard))


@pytest.mark.parametrize("name", VENUES)
async def test_a_session_that_reconnects_leaves_nothing(name):
    async with rig(name, every=0.02) as r:

        async def one_round():
            for break_it in (
                lambda: r.upstream.inject(Cut()),
                lambda: r.upstream.inject(Reset()),
                lambda: r.upstream.inject(Corrupt("frame")),
                lambda: r.simulator.inject(Close(1012, "restart")),
                lambda: (r.simulator.next_connection(Refuse(503)), r.upstream.inject(Cut())),
            ):
                since = len(r.heard)
                break_it()
                await settled(r, since)

        await leaves_nothing(one_round)


async def test_a_session_that_crashes_and_is_replaced_leaves_nothing(monkeypatch):
    """The machine that takes over keeps the memories of the one before, and not the machine itself."""
    monkeypatch.setitem(supervise.__kwdefaults__, "backoff", QUICK)
    async with rig("synthetic", every=0.02) as r:

        async def one_round():
            since = len(r.heard)
            r.session._machine.receive = crash
            await settled(r, since)

        await leaves_nothing(one_round)


async def test_subscribers_that_reconnect_leave_nothing():
    async with rig("synthetic", every=0.02) as r:

        async def one_round():
            for fault in (Cut(), Reset(), Corrupt("frame")):
                connections = r.subscriber.connections
                r.downstream.inject(fault)
                await r.subscriber.until(lambda n=connections: r.subscriber.connections > n)
                await r.flowing(since=len(r.heard))

        await leaves_nothing(one_round)
