"""Several relays on a real Redis: any client on any node, and a provider's sessions on one of them."""

import sys
from pathlib import Path

import pytest

from relay.cli.status import cluster_lines
from relay.errors import OperatorError
from relay_synthetic.simulator import SyntheticSimulator
from support.cluster import cluster
from support.redis_server import redis_server
from support.running import running_relay

QUOTES = "quote.synthetic.BTC-USD"


async def test_subscribers_of_any_node_get_one_sequence_over_a_takeover_and_resume_at_another_node(
    tmp_path: Path,
) -> None:
    venue = SyntheticSimulator(rate=100)
    async with venue.serve() as address, redis_server(tmp_path) as redis:
        async with cluster(redis, {"synthetic": {"url": address.ws, "pinned": ["quote BTC/USD"]}}) as together:
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
