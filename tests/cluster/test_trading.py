"""Orders and fills on several relays: any relay takes a command, its owner carries it out, and everybody sees it once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from relay.testing.simulator import Mute
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator
from relay_tektii.simulator import KEY, Subscription, TektiiSimulator
from support.cluster import FIRST, SHORT, Cluster, Heard, Node, cluster
from support.deadlines import WITHIN
from support.redis_server import redis_server
from support.running import API_KEY

ACCOUNT = "private-account.helio.main"
ORDER = {"provider": "helio", "account": "main", "command": "place_order", "symbol": "EUR/USD", "side": "BUY",
         "order_type": "MARKET", "quantity": "10000"}  # fmt: skip
RESTING = {**ORDER, "order_type": "LIMIT", "limit_price": "1.05", "id": "c1", "client_order_id": "mine-1"}


@asynccontextmanager
async def brokered(directory: Path, *, lease: float = FIRST) -> AsyncIterator[tuple[HelioSimulator, Cluster]]:
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as broker, redis_server(directory) as redis:
        provider = {
            "url": broker.ws,
            "http_url": broker.http,
            "symbols": {"EURUSD": "EUR/USD"},
            "accounts": {"main": {"credentials": {"email": EMAIL, "password": PASSWORD}}},
        }
        async with cluster(redis, {"helio": provider}, lease=lease) as together:
            yield simulator, together


async def post(node: Node, command: dict[str, Any], **members: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.port}", headers=headers, timeout=WITHIN) as http:
        return await http.post("/api/v2/commands", json={**command, **members})


async def test_a_command_at_any_relay_is_carried_out_once_and_seen_once_by_all(tmp_path: Path) -> None:
    async with brokered(tmp_path) as (simulator, together):
        nodes = [await together.node(name) for name in "ab"]
        owner = await together.owner("helio")
        (other,) = [node for node in nodes if node is not owner]
        heards = [together.subscribe(lambda node=node: node.port, ACCOUNT) for node in nodes]
        for heard in heards:
            await heard.subscriber.until(lambda heard=heard: heard.subscriber.connections == 1)
        first = await post(other, ORDER, id="c1")
        assert first.status_code == 200, first.text
        again = await post(owner, ORDER, id="c1")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        conflict = await post(other, ORDER, id="c1", quantity="20000")
        assert conflict.status_code == 409
        assert "id c1 was used for another command" in conflict.text
        for heard in heards:
            await heard.until(lambda heard: heard.of("trade") and heard.of("reply"))
            assert len(heard.of("trade")) == len(heard.of("reply")) == 1
            assert heard.subscriber.views[ACCOUNT].problems == []
        told = [[(event["seq"], event["id"]) for event in heard.of("order", "trade", "reply")] for heard in heards]
        assert told[0] == told[1]
        assert len(simulator.account.orders) == 1


async def test_an_order_that_was_sent_by_an_owner_that_died_is_never_sent_again(tmp_path: Path) -> None:
    async with brokered(tmp_path, lease=SHORT) as (simulator, together):
        nodes = [await together.node(name) for name in "ab"]
        owner = await together.owner("helio")
        (other,) = [node for node in nodes if node is not owner]
        watch = together.subscribe(lambda: other.port, ACCOUNT)
        await watch.subscriber.until(lambda: watch.subscriber.connections == 1)
        simulator.inject(Mute())
        answers: list[httpx.Response] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await post(other, RESTING, within=20))

            nursery.start_soon(ask)
            with trio.fail_after(WITHIN):
                while not simulator.account.orders:
                    await trio.sleep(0.01)
            await owner.kill()
        (answer,) = answers
        assert answer.json()["command_id"] == "c1", answer.text
        await together.owner("helio")
        with trio.fail_after(WITHIN):
            while (again := await post(other, RESTING)).status_code == 202:
                await trio.sleep(0.05)
        (placed,) = simulator.account.orders.values()
        assert (again.status_code, again.json()["result"]["order_id"]) == (200, str(placed.id))
        assert again.json()["reconciled"]
        replies = [event for event in watch.of("reply") if event["command_id"] == "c1"]
        assert len(replies) == 1


async def test_fills_are_told_once_by_the_owners_that_follow_where_redis_was_emptied(tmp_path: Path) -> None:
    """The broker lists its fills at each login. The first owner's memory of them was in Redis, and is gone."""
    paper, events = "private-account.broker.paper", ("quote", "order_update", "position_update", "trade_update")
    simulator = TektiiSimulator(
        interval=0.05,
        requests_per_minute=None,
        subscriptions=[Subscription(instrument="AAPL", events=events)],
    )
    command = {**ORDER, "provider": "broker", "account": "paper", "symbol": "AAPL", "quantity": "1"}
    async with simulator.serve() as broker, redis_server(tmp_path) as redis:
        provider = {
            "adapter": "tektii",
            "url": broker.ws,
            "http_url": broker.http,
            "pinned": ["quote AAPL", "account paper"],
            "accounts": {"paper": {"credentials": {"api_key": KEY}}},
        }
        async with cluster(redis, {"broker": provider}, lease=SHORT) as together:

            async def trade(id: str, *heards: Heard) -> str:
                """Buy a share, by whichever node owns the broker; return the fill, which these were told."""
                with trio.fail_after(WITHIN):
                    while (answer := await post(together.nodes[-1], {**command, "id": id})).status_code != 200:
                        await trio.sleep(0.05)
                for heard in heards:
                    await heard.until(lambda heard: any(event["command_id"] == id for event in heard.of("reply")))
                    await heard.until(lambda heard: len(heard.of("trade")) >= len(simulator.account.fills))
                assert answer.json()["outcome"] == "accepted", answer.text
                return str(simulator.account.fills[-1].id)

            first, second = await together.node("a"), await together.node("b")
            owner = await together.owner("broker")
            follower = second if owner is first else first
            steady = together.subscribe(lambda: follower.port, paper)
            await steady.subscriber.until(lambda: steady.subscriber.connections == 1)
            fills = [await trade("c1", steady), await trade("c2", steady)]
            await owner.kill()
            together.nodes.remove(owner)
            await redis.say("FLUSHALL")
            assert await together.owner("broker") is follower
            fills.append(await trade("c3", steady))
            assert [event["trade"]["id"] for event in steady.of("trade")] == fills
            # It has written them into Redis: an owner that never saw them knows them.
            third = await together.node("c")
            late = together.subscribe(lambda: third.port, paper)
            await late.subscriber.until(lambda: late.subscriber.connections == 1)
            await follower.kill()
            together.nodes.remove(follower)
            assert await together.owner("broker") is third
            fills.append(await trade("c4"))
            await late.until(lambda heard: bool(heard.of("trade")))
            assert [event["trade"]["id"] for event in late.of("trade")] == fills[-1:]
