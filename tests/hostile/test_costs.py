"""Clients that ask for more than they may, on real sockets: they are slowed, refused and closed, and nobody else waits."""

import json
from typing import Any

import pytest
import trio

from relay.hub.app import AppState
from support.deadlines import WITHIN
from support.http_api import OURS
from support.raw import Raw, raw
from support.running import APP, port_of, running_relay
from support.simulated_venue import trading

TIGHT = {"connection_rate": 500, "connection_burst": 1500, "slowed": 0.5, "refusals": 10}
EVENTS = 1000


def fill(relay: Any, channel: str = "ticks") -> None:
    for number in range(EVENTS):
        relay.hub.trigger(APP["id"], [channel], "tick", f'{{"n":{number}}}', now=trio.current_time())


class Greedy:
    """A client that joins with the longest rewind and leaves, over and over, without waiting for an answer.

    It does not take the answers apart: that would take longer than it takes the relay to write them.
    """

    def __init__(self) -> None:
        self.said = b""
        self.code: int | None = None

    async def run(self, port: int) -> None:
        async with raw(port) as client, trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, client)
            await self._listen(client)
            nursery.cancel_scope.cancel()

    async def _ask(self, client: Raw) -> None:
        try:
            while True:
                await client.say("pusher:subscribe", {"channel": "ticks", "rewind": EVENTS})
                await client.say("pusher:ping")
                await client.say("pusher:unsubscribe", {"channel": "ticks"})
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _listen(self, client: Raw) -> None:
        """Keep the end of what the relay says; the close frame is the last of it."""
        try:
            while data := await client.stream.receive_some(1_000_000):
                self.said = (self.said + data)[-20_000:]
        except trio.BrokenResourceError:
            pass
        at = self.said.rindex(b"\x88")
        self.code = int.from_bytes(self.said[at + 2 : at + 4], "big")


async def test_orders_and_an_honest_page_go_on_beside_four_hostile_loops() -> None:
    async with trading(costs=TIGHT) as desk:
        relay = desk.relay
        fill(relay)
        port = port_of(relay)
        greedy = [Greedy() for _ in range(4)]
        async with raw(port) as honest:
            with trio.fail_after(WITHIN):
                async with trio.open_nursery() as nursery:
                    for each in greedy:
                        nursery.start_soon(each.run, port)
                    for number in range(50):
                        answer = await desk.post(client_order_id=f"mine-{number}")
                        assert (answer.status_code, answer.json()["outcome"]) == (200, "accepted")
                        await honest.subscribe(f"room{number}", rewind=100)
            await honest.say("pusher:ping")
            await honest.hear("pusher:pong")
        for each in greedy:
            assert each.code == 4100
            assert b'"status":429' in each.said
            assert b'"code":4301' in each.said
            assert b"limit costs.connection_rate" in each.said
        counts = relay.hub.snapshot()["limits"]["costs.connection_rate"]
        assert (counts["slowed"], counts["closed"]) == (4, 4)
        metrics = (await desk.http.get("/metrics")).text
        assert 'tickrelay_limits_exceeded_total{action="closed",limit="costs.connection_rate"} 4.0' in metrics


async def test_what_arrives_at_once_is_handled_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    handled, most, last = 0, 0, 0
    subscribe = AppState.subscribe

    def counted(*args: Any) -> None:
        nonlocal handled
        handled += 1
        subscribe(*args)

    monkeypatch.setattr(AppState, "subscribe", counted)
    async with running_relay() as relay, raw(port_of(relay)) as client, trio.open_nursery() as nursery:
        fill(relay)

        async def turns() -> None:
            nonlocal most, last
            while True:
                await trio.lowlevel.checkpoint()
                most, last = max(most, handled - last), handled

        nursery.start_soon(turns)
        requests = b""
        for _ in range(40):
            for event, asked in (("subscribe", {"rewind": EVENTS}), ("unsubscribe", {})):
                message = {"event": f"pusher:{event}", "data": {"channel": "ticks", **asked}}
                requests += client.frame(json.dumps(message))
        await client.stream.send_all(requests)
        for _ in range(40):
            await client.hear("pusher_internal:subscription_succeeded")
        nursery.cancel_scope.cancel()
    assert handled == 40
    assert most <= 8  # what fits into a slice; all 40 came with one read


async def test_a_subscriber_that_is_too_slow_leaves_at_once_though_its_socket_stays() -> None:
    """It would otherwise be a member for as long as `close` allows its socket to end."""
    removed = trio.Event()
    async with running_relay(
        server={"listen": "127.0.0.1:0", "subscribers": {"close": 300.0, "write": 300.0}},
        apps={"main": {**APP, "subscription_count": True}},
    ) as relay:
        port = port_of(relay)
        async with raw(port) as good, raw(port) as slow:
            await good.subscribe("presence-room", **good.member(OURS, "presence-room", "good"))
            await slow.subscribe("presence-room", **slow.member(OURS, "presence-room", "slow"))
            await good.subscribe("talk")
            await slow.subscribe("talk")
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    while not removed.is_set():
                        relay.hub.trigger(APP["id"], ["load"], "x", "." * 10_000, now=trio.current_time())
                        await trio.lowlevel.checkpoint()

                await slow.subscribe("load")
                nursery.start_soon(flood)
                with trio.fail_after(WITHIN):
                    gone = await good.hear("pusher_internal:member_removed", "presence-room")
                removed.set()
            assert gone == {"user_id": "slow"}
            state = relay.hub.channel_info(APP["id"], "talk", trio.current_time())
            assert state.subscription_count == 1
