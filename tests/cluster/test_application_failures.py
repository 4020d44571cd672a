"""Redis fails applications in each of its ways: whoever publishes is told, and nobody is told anything false."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.pusher.signatures import channel_auth
from support.cable import Cable, cable
from support.cluster import LONG, SHORT, Node, cluster
from support.deadlines import WITHIN
from support.http_api import OURS, ask, publish
from support.raw import Closed, Raw, raw
from support.redis_server import RedisServer, redis_server
from support.running import API_KEY, APP, UNTRUSTING

#: coredis does not close the buffers of a connection that could not be made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MEMBERS = {"pusher_internal:member_added", "pusher_internal:member_removed"}


@asynccontextmanager
async def pair(
    directory: Path, *, lease: float = LONG, **app: Any
) -> AsyncIterator[tuple[RedisServer, Cable, Node, Node]]:
    """Two relays, the first of which reaches Redis by a cable."""
    apps = {"main": {**APP, "client_events": True, **app}}
    async with redis_server(directory) as redis, cable(redis.port) as line:
        async with cluster(redis, {}, lease=lease, apps=apps) as several:
            first = await several.node("a", redis=f"redis://127.0.0.1:{line.port}/0")
            yield redis, line, first, await several.node("b")


async def trigger(node: Node, channel: str, data: Any) -> httpx.Response:
    event = {"name": "greeting", "channel": channel, "data": json.dumps(data)}
    return await ask(node.port, "POST", f"/apps/{APP['id']}/events", event)


async def get(node: Node, path: str, **params: str) -> Any:
    answer = await ask(node.port, "GET", f"/apps/{APP['id']}{path}", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def users(node: Node) -> list[str]:
    return sorted(user["id"] for user in (await get(node, "/channels/presence-room/users"))["users"])


async def until_users(node: Node, *expected: str) -> None:
    with trio.fail_after(WITHIN):
        while await users(node) != sorted(expected):
            await trio.sleep(0.02)


async def join(client: Raw, user_id: str) -> None:
    channel = "presence-room"
    data = json.dumps({"user_id": user_id})
    auth = channel_auth(OURS, client.socket_id, channel, data)
    await client.say("pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": data})
    await client.hear("pusher_internal:subscription_succeeded", channel)


async def until_published(node: Node, channel: str, data: Any) -> None:
    """Publish until the relay takes it."""
    with trio.fail_after(WITHIN):
        while (await trigger(node, channel, data)).status_code != 200:
            await trio.sleep(0.05)


async def heard_until(client: Raw, last: Any) -> list[Any]:
    """Return the members' comings and goings and the events, up to an event with these data."""
    told: list[Any] = []
    while not told or told[-1] != last:
        message = await client.receive()
        if message["event"] == "greeting":
            told.append(json.loads(message["data"]))
        elif message["event"] in MEMBERS:
            told.append((message["event"].partition(":")[2], json.loads(message["data"])["user_id"]))
    return told


async def test_a_relay_that_is_cut_off_refuses_loses_its_members_and_reads_on(tmp_path: Path) -> None:
    async with pair(tmp_path, lease=SHORT) as (_, line, a, b), raw(a.port) as ada, raw(b.port) as bob:
        await join(ada, "ada")
        await join(bob, "bob")
        await ada.subscribe("news")
        await until_users(a, "ada", "bob")
        await until_users(b, "ada", "bob")
        await publish(b.port, "news", "before")
        line.cut()
        answer = await trigger(a, "news", "refused")
        assert answer.status_code == 503
        assert "published" in answer.json()["error"]
        await until_users(b, "bob")
        while (answer := await trigger(a, "news", "refused")).json()["error"].startswith("it is not known"):
            await trio.sleep(0.05)
        assert answer.json()["error"].startswith("not published, the relay's store is not available")
        await ada.say("client-hello", {}, channel="presence-room")
        assert (await ada.hear("pusher:error"))["code"] == 4304
        ended = await ask(a.port, "POST", f"/apps/{APP['id']}/users/ada/terminate_connections", {})
        assert ended.status_code == 503
        for number in range(20):
            await publish(b.port, "news", number)
        line.mend()
        await until_users(b, "ada", "bob")
        await until_published(a, "news", "after")
        told = [each for each in await heard_until(ada, "after") if each != "refused"]
        assert [each for each in told if not isinstance(each, tuple)][-21:] == [*range(20), "after"]
        await publish(a.port, "presence-room", "end")
        mine = await heard_until(bob, "end")
        assert mine[-3:] == [("member_removed", "ada"), ("member_added", "ada"), "end"]


@pytest.mark.parametrize("how", ["restarts", "is emptied"])
async def test_after_a_redis_that_fails_members_are_there_and_nobody_was_said_to_have_left(
    tmp_path: Path, how: str
) -> None:
    async with pair(tmp_path, lease=SHORT) as (redis, _, a, b), raw(a.port) as ada, raw(b.port) as bob:
        await join(ada, "ada")
        await join(bob, "bob")
        await until_users(a, "ada", "bob")
        await publish(b.port, "cache-last", "before")
        before = await get(a, "/channels/cache-last/history")
        if how == "restarts":
            await redis.kill()
            assert (await trigger(b, "presence-room", "refused")).status_code == 503
            await redis.start()
        else:
            await redis.say("FLUSHALL")
        for node, text in ((a, "from a"), (b, "from b")):
            await until_published(node, "presence-room", text)
        after = await get(b, "/channels/cache-last/history")
        assert after["epoch"] != before["epoch"]
        old = {"epoch": before["epoch"], "after_seq": "0"}
        with trio.fail_after(WITHIN):
            # The other relay may read of the new epoch a moment later.
            while (
                gone := await ask(a.port, "GET", f"/apps/{APP['id']}/channels/cache-last/history", **old)
            ).is_success:
                await trio.sleep(0.02)
            assert (gone.status_code, gone.json()["reason"]) == (410, "epoch_changed")
            while (await get(a, "/channels/presence-room", info="subscription_count"))["subscription_count"] != 2:
                await trio.sleep(0.02)
        await trio.sleep(4.5)  # the time for which nobody is said to have left
        await until_published(a, "presence-room", "end")
        for client in (ada, bob):
            told = await heard_until(client, "end")
            members = [each for each in told if isinstance(each, tuple)]
            assert members in ([], [("member_added", "bob" if client is ada else "ada")])
            events = [each for each in told if each not in members]
            assert [each for each in events if each != "refused"] == ["from a", "from b", "end"]
        for node in (a, b):
            await until_users(node, "ada", "bob")


async def test_the_rate_of_an_app_is_that_of_all_relays(tmp_path: Path) -> None:
    async with pair(tmp_path, limits={"events_per_second": 10}) as (_, _, a, b):
        codes: list[int] = []

        async def publish_some(node: Node) -> None:
            for number in range(10):
                codes.append((await trigger(node, "news", number)).status_code)

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_some, a)
            nursery.start_soon(publish_some, b)
        most = 10 + 10 * (trio.current_time() - started) + 1
        assert set(codes) <= {200, 429}  # a machine may be so slow that the rate is never reached
        assert codes.count(200) <= most


async def test_connections_are_counted_over_all_relays(tmp_path: Path) -> None:
    async with pair(tmp_path, max_connections=2) as (_, _, a, b), raw(a.port), raw(b.port):
        with trio.fail_after(WITHIN):
            for node in (a, b):
                while True:
                    async with raw(node.port, greeted=False) as third:
                        try:
                            await third.greeting()
                        except Closed as closed:
                            assert closed.code == 4004  # noqa: PT017 - until it is refused
                            break
                    await trio.sleep(0.02)


async def test_the_commands_of_a_key_at_one_relay_count_at_the_other(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        async with cluster(redis, {}, lease=LONG, commands={"rate": 0.001, "burst": 4}) as several:
            a, b = [await several.node(name) for name in "ab"]
            headers = {"Authorization": f"Bearer {API_KEY}"}

            async def send(node: Node) -> int:
                async with httpx.AsyncClient(headers=headers, timeout=WITHIN, verify=UNTRUSTING) as http:
                    url = f"http://127.0.0.1:{node.port}/api/v2/commands"
                    return (await http.post(url, json={"provider": "nobody"})).status_code

            assert 429 not in [await send(a) for _ in range(4)]
            assert await send(a) == 429
            with trio.fail_after(WITHIN):
                rates = b.relay._command_service._rates
                while not rates or rates["main"].free(trio.current_time()) >= 1:
                    await trio.sleep(0.01)
                    rates = b.relay._command_service._rates
            assert await send(b) == 429
