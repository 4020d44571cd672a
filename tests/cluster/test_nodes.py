"""Several relays on a real Redis: any client on any node, and a provider's sessions on one of them."""

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.cli.status import cluster_lines
from relay.errors import OperatorError
from relay_synthetic.simulator import SyntheticSimulator
from support.cluster import SHORT, cluster
from support.deadlines import WITHIN
from support.redis_server import redis_server
from support.running import API_KEY, APP, running_relay

QUOTES = "quote.synthetic.BTC-USD"


async def test_subscribers_of_any_node_get_one_sequence_over_a_takeover_and_resume_at_another_node(
    tmp_path: Path,
) -> None:
    venue = SyntheticSimulator(rate=100)
    async with venue.serve() as address, redis_server(tmp_path) as redis:
        async with cluster(
            redis, {"synthetic": {"url": address.ws, "pinned": ["quote BTC/USD"]}}, lease=SHORT
        ) as together:
            for name in "abc":
                await together.node(name)
            owner = await together.owner("synthetic", connected=False)
            one, other = [node for node in together.nodes if node is not owner]
            at = [one]
            steady = together.subscribe(lambda: other.port, QUOTES)
            wanders = together.subscribe(lambda: at[0].port, QUOTES)
            await steady.hears(20, "quote")
            await wanders.hears(20, "quote")
            assert len(venue.links) == 1
            await owner.kill()
            await steady.hears(1, "gap")
            assert steady.of("gap")[0]["reason"] == "failover"
            await steady.hears(20, "quote")
            await wanders.hears(20, "quote")
            at[0] = other
            await one.stop()
            await wanders.hears(20, "quote")
            for heard in (steady, wanders):
                print(
                    heard.subscriber.notes,
                    heard.subscriber.views,
                    [
                        (e["type"], e["seq"], e.get("from"), e.get("reason"), e.get("event"))
                        for e in heard.events
                        if e["type"] != "quote"
                    ],
                    heard.holes(),
                )
                assert heard.holes() == []
                assert not heard.subscriber.notes["epoch_changed"]
                assert not heard.subscriber.notes["position_expired"]
            contents = {event["seq"]: event["id"] for event in steady.of("quote")}
            both = [event for event in wanders.of("quote") if event["seq"] in contents]
            assert both
            assert all(contents[event["seq"]] == event["id"] for event in both)


def test_the_command_tells_who_owns_what_and_who_is_behind() -> None:
    node = {"role": "both", "connections": 2, "owns": ["x"], "read": {"x": [7, 12]}}
    edge = {"role": "edge", "connections": 9, "owns": [], "read": {"x": [7, 10]}}
    late = {"role": "edge", "connections": 0, "owns": [], "read": {"x": [6, 90]}}
    provider = {"provider": "x", "owner": "a-1", "suspected": ""}
    cluster = {
        "available": True,
        "node": "e-1",
        "nodes": {"a-1": node, "e-1": edge, "f-1": late},
        "providers": [provider],
    }
    assert list(cluster_lines(cluster)) == [
        "relay a-1: both, 2 connections, owns x",
        "relay e-1 (asked): edge, 9 connections, owns nothing",
        "relay f-1: edge, 0 connections, owns nothing",
        "provider x: owner a-1",
        "  e-1: 2 batches behind",
        "  f-1: an owner behind",
    ]


async def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OperatorError, match=r"pip install 'tickrelay\[redis\]'"), flatten_subgroups=True
    ):
        async with running_relay(store={"url": "redis://127.0.0.1:1/0"}):
            pass


async def test_a_relay_that_stops_hands_over_first_and_sends_its_subscribers_away_in_waves(tmp_path: Path) -> None:
    venue = SyntheticSimulator(rate=50)
    async with venue.serve() as address, redis_server(tmp_path) as redis:
        async with cluster(redis, {"synthetic": {"url": address.ws, "pinned": ["quote BTC/USD"]}}) as together:
            first = await together.node("a")
            await together.owner("synthetic", connected=False)
            second = await together.node("b")
            at = [first]
            heards = [together.subscribe(lambda: at[0].port, QUOTES) for _ in range(5)]
            for heard in heards:
                await heard.hears(3, "quote")
            told: list[int] = []
            send_away = first.relay._subscribers.send_away

            async def watched(seconds: float) -> None:
                told.append(len(first.relay._subscribers.connections))
                assert second.owns("synthetic") or not first.owns("synthetic"), (
                    "handed over before anybody is sent away"
                )
                at[0] = second
                await send_away(seconds)

            first.relay._subscribers.send_away = watched  # type: ignore[method-assign]
            await first.stop()
            assert told == [5]
            for heard in heards:
                await heard.hears(5, "quote")
                assert heard.holes() == []
                assert [gap["reason"] for gap in heard.of("gap")] == ["failover"]
                assert not heard.subscriber.notes["position_expired"]


async def test_an_owner_serves_no_subscribers_and_its_metrics_tell_of_the_cluster(tmp_path: Path) -> None:
    venue = SyntheticSimulator(rate=50)
    async with venue.serve() as address, redis_server(tmp_path) as redis:
        async with cluster(redis, {"synthetic": {"url": address.ws}}) as together:
            owner = await together.node("a", role="owner")
            edge = await together.node("e", role="edge")
            heard = together.subscribe(lambda: edge.port, QUOTES)
            await heard.hears(3, "quote")
            assert owner.owns("synthetic")
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                       "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {API_KEY}"}) as http:
                refused = await http.get(f"http://127.0.0.1:{owner.port}/app/{APP['key']}?protocol=7", headers=upgrade)
                assert refused.status_code == 503
                assert "cluster.role" in refused.text
                text = (await http.get(f"http://127.0.0.1:{owner.port}/metrics")).text
                # A relay tells of itself once a second, and looks at the others as often.
                nodes: list[Any] = []
                with trio.move_on_after(WITHIN):
                    while nodes != [("owner", "UP", ["synthetic"]), ("edge", "UP", [])]:
                        await trio.sleep(0.1)
                        status = (await http.get(f"http://127.0.0.1:{edge.port}/api/v2/status")).json()
                        nodes = [(node["role"], node["state"], node["providers"]) for node in status["nodes"]]
                strangers = (
                    await http.get(f"http://127.0.0.1:{edge.port}/api/v2/status", headers={"Authorization": ""})
                ).json()
            assert nodes == [("owner", "UP", ["synthetic"]), ("edge", "UP", [])]
            assert [node["name"].partition("-")[0] for node in status["nodes"]] == ["a", "e"]
            assert all(node["seen_at"] for node in status["nodes"])
            assert "nodes" not in strangers
            assert "tickrelay_cluster_silent_nodes 0.0" in text
            assert "tickrelay_cluster_nodes 2.0" in text
            assert 'tickrelay_cluster_owner{provider="synthetic"} 1.0' in text
            assert 'tickrelay_cluster_suspected{provider="synthetic"} 0.0' in text
            assert 'tickrelay_cluster_fence{provider="synthetic"}' in text
            assert "tickrelay_cluster_round_trip_seconds_bucket" in text
