"""Applications' own channels over several relays: one order, one set of members, one count."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define

from relay.pusher.signatures import user_auth
from support.app_server import AppServer, app_server
from support.cluster import FIRST, LONG, SHORT, Cluster, Node, cluster
from support.deadlines import WITHIN
from support.http_api import OURS, ask, publish
from support.raw import Raw, raw
from support.redis_server import redis_server
from support.running import APP

APPS = {"main": {**APP, "client_events": True, "subscription_count": True}}


@asynccontextmanager
async def together(
    directory: Path, names: str = "ab", *, lease: float = LONG, **app: Any
) -> AsyncIterator[tuple[Cluster, list[Node]]]:
    apps = {"main": {**APPS["main"], **app}}
    async with redis_server(directory) as redis, cluster(redis, {}, lease=lease, apps=apps) as several:
        yield several, [await several.node(name) for name in names]


async def numbers(client: Raw, channel: str, many: int) -> list[Any]:
    return [await client.hear("greeting", channel) for _ in range(many)]


async def test_events_published_at_any_relay_reach_everybody_once_in_one_order(tmp_path: Path) -> None:
    async with together(tmp_path, "abc") as (_, nodes), raw(nodes[0].port) as one, raw(nodes[1].port) as other:
        for client in (one, other):
            await client.subscribe("news")

        async def publish_some(node: Node, first: int) -> None:
            for number in range(first, first + 20):
                await publish(node.port, "news", number)

        async with trio.open_nursery() as nursery:
            for place, node in enumerate(nodes):
                nursery.start_soon(publish_some, node, 100 * place)
        heard = await numbers(one, "news", 60)
        assert heard == await numbers(other, "news", 60)
        assert sorted(heard) == [100 * place + number for place in range(3) for number in range(20)]
        for place in range(3):
            of_one = [number for number in heard if number // 100 == place]
            assert of_one == sorted(of_one)


async def test_the_sender_is_left_out_wherever_it_is_connected(tmp_path: Path) -> None:
    async with together(tmp_path) as (_, (a, b)), raw(a.port) as sender, raw(b.port) as other:
        for client in (sender, other):
            await client.subscribe("private-room")
        event = {"name": "greeting", "channel": "private-room", "data": "1", "socket_id": sender.socket_id}
        assert (await ask(b.port, "POST", f"/apps/{APP['id']}/events", event)).json() == {}
        await publish(b.port, "private-room", 2)
        assert await other.hear("greeting") == 1
        assert await sender.hear("greeting") == 2
        await sender.say("client-hello", {"n": 3}, channel="private-room")
        await other.say("client-hello", {"n": 4}, channel="private-room")
        assert await other.hear("client-hello") == {"n": 3}
        assert await sender.hear("client-hello") == {"n": 4}


async def join(client: Raw, channel: str, user_id: str) -> list[str]:
    """Join a presence channel; return its members."""
    await client.say("pusher:subscribe", {"channel": channel, **client.member(OURS, channel, user_id)})
    told = await client.hear("pusher_internal:subscription_succeeded", channel)
    return sorted(told["presence"]["ids"])


async def test_members_are_those_of_all_relays_and_come_and_go_once(tmp_path: Path) -> None:
    async with together(tmp_path) as (_, (a, b)), raw(a.port) as ada, raw(b.port) as bob:
        assert await join(ada, "presence-room", "ada") == ["ada"]
        with trio.fail_after(WITHIN):
            while "presence-room" not in (await get(b, "/channels"))["channels"]:
                await trio.sleep(0.01)
        async with raw(b.port) as short:
            assert await join(short, "presence-room", "zoe") == ["ada", "zoe"]
        assert (await ada.hear("pusher_internal:member_added"))["user_id"] == "zoe"
        assert (await ada.hear("pusher_internal:member_removed"))["user_id"] == "zoe"
        assert await join(bob, "presence-room", "bob") == ["ada", "bob"]
        assert (await ada.hear("pusher_internal:member_added"))["user_id"] == "bob"
        async with raw(a.port) as second:
            assert await join(second, "presence-room", "bob") == ["ada", "bob"]
        await bob.say("pusher:unsubscribe", {"channel": "presence-room"})
        assert (await ada.hear("pusher_internal:member_removed"))["user_id"] == "bob"


async def get(node: Node, path: str, **params: str) -> Any:
    answer = await ask(node.port, "GET", f"/apps/{APP['id']}{path}", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_http_api_answers_for_all_relays(tmp_path: Path) -> None:
    async with together(tmp_path) as (_, (a, b)), raw(a.port) as ada, raw(b.port) as bob:
        await join(ada, "presence-room", "ada")
        await join(bob, "presence-room", "bob")
        await ada.subscribe("news")
        await bob.subscribe("news")
        with trio.fail_after(WITHIN):
            while (await get(a, "/channels/news", info="subscription_count"))["subscription_count"] < 2:
                await trio.sleep(0.01)
        for node in (a, b):
            assert await get(node, "/channels") == {"channels": {"presence-room": {}, "news": {}}}
            counted = await get(node, "/channels", filter_by_prefix="presence-", info="user_count")
            assert counted == {"channels": {"presence-room": {"user_count": 2}}}
            room = await get(node, "/channels/presence-room", info="user_count,subscription_count")
            assert room == {"occupied": True, "user_count": 2, "subscription_count": 2}
            users = (await get(node, "/channels/presence-room/users"))["users"]
            assert sorted(user["id"] for user in users) == ["ada", "bob"]
            event = {"name": "greeting", "channels": ["news", "empty"], "data": "1", "info": "subscription_count"}
            answer = await ask(node.port, "POST", f"/apps/{APP['id']}/events", event)
            assert answer.json() == {
                "channels": {"news": {"subscription_count": 2}, "empty": {"subscription_count": 0}}
            }
        assert await numbers(ada, "news", 2) == [1, 1]
        assert (await bob.hear("pusher_internal:subscription_count", "news")) is not None


async def test_a_cache_channel_and_the_history_are_the_same_everywhere_also_at_a_relay_that_came_later(
    tmp_path: Path,
) -> None:
    async with together(tmp_path) as (several, (a, b)):
        async with raw(b.port) as early:
            await early.say("pusher:subscribe", {"channel": "cache-last"})
            await early.hear("pusher:cache_miss", "cache-last")
        for number in range(5):
            await publish(a.port, "cache-last", number)
        await publish(b.port, "news", "one")
        later = await several.node("c")
        for node in (a, b, later):
            async with raw(node.port) as client:
                await client.say("pusher:subscribe", {"channel": "cache-last"})
                assert await client.hear("greeting", "cache-last") == 4
            page = await get(node, "/channels/cache-last/history")
            assert [json.loads(event["data"]) for event in page["events"]] == [0, 1, 2, 3, 4]
            assert page["seq"] == 5
        pages = [await get(node, "/channels/cache-last/history") for node in (a, b, later)]
        assert pages[0] == pages[1] == pages[2]


async def sign_in(client: Raw, user_id: str, *watchlist: str) -> None:
    data = json.dumps({"id": user_id, "watchlist": list(watchlist)})
    await client.say("pusher:signin", {"auth": user_auth(OURS, client.socket_id, data), "user_data": data})
    await client.hear("pusher:signin_success")


async def hear_watched(client: Raw) -> tuple[str, list[str]]:
    told = await client.hear("pusher_internal:watchlist_events")
    (event,) = told["events"]
    return event["name"], event["user_ids"]


async def test_users_are_watched_addressed_and_ended_at_all_relays(tmp_path: Path) -> None:
    async with together(tmp_path) as (_, (a, b)), raw(a.port) as watcher:
        await sign_in(watcher, "zoe", "ada")
        async with raw(a.port) as one, raw(b.port) as two:
            for client in (one, two):
                await sign_in(client, "ada")
                await client.say("pusher:subscribe", {"channel": "#server-to-user-ada"})
                await client.hear("pusher_internal:subscription_succeeded")
            assert await hear_watched(watcher) == ("online", ["ada"])
            async with raw(b.port) as late:
                data = json.dumps({"id": "late", "watchlist": ["ada", "nobody"]})
                await late.say("pusher:signin", {"auth": user_auth(OURS, late.socket_id, data), "user_data": data})
                assert await hear_watched(late) == ("online", ["ada"])
            event = {"name": "greeting", "data": "1"}
            for node in (a, b):
                answer = await ask(node.port, "POST", f"/apps/{APP['id']}/users/ada/events", event)
                assert answer.status_code == 200, answer.text
            for client in (one, two):
                assert [await client.hear("greeting"), await client.hear("greeting")] == [1, 1]
            answer = await ask(b.port, "POST", f"/apps/{APP['id']}/users/ada/terminate_connections", {})
            assert answer.status_code == 200, answer.text
            assert [await one.closed(), await two.closed()] == [4009, 4009]
        assert await hear_watched(watcher) == ("offline", ["ada"])


async def test_members_and_users_of_a_relay_that_dies_leave_when_its_lease_has_run_out(tmp_path: Path) -> None:
    async with together(tmp_path, lease=SHORT) as (_, (a, b)), raw(a.port) as ada, raw(b.port) as bob:
        await join(ada, "presence-room", "ada")
        await sign_in(ada, "ada", "bob")
        await sign_in(bob, "bob")
        assert await hear_watched(ada) == ("online", ["bob"])
        await join(bob, "presence-room", "bob")
        assert (await ada.hear("pusher_internal:member_added"))["user_id"] == "bob"
        await b.kill()
        told = {}
        while told.keys() < {"pusher_internal:member_removed", "pusher_internal:watchlist_events"}:
            message = await ada.receive()
            told[message["event"]] = json.loads(message["data"])
        assert told["pusher_internal:member_removed"] == {"user_id": "bob"}
        assert told["pusher_internal:watchlist_events"]["events"] == [{"name": "offline", "user_ids": ["bob"]}]
        assert await get(a, "/channels/presence-room", info="user_count,subscription_count") == {
            "occupied": True,
            "user_count": 1,
            "subscription_count": 1,
        }


@define
class Told:
    """An app's server, and what webhooks have told it."""

    server: AppServer

    @property
    def events(self) -> list[tuple[str, ...]]:
        bodies = [json.loads(body) for _, body in self.server.webhooks]
        return [tuple(str(each) for each in event.values()) for body in bodies for event in body["events"]]

    async def until(self, *events: tuple[str, ...]) -> None:
        with trio.fail_after(WITHIN):
            while not set(events) <= set(self.events):
                await self.server.news.wait()


@asynccontextmanager
async def hooked(
    directory: Path, names: str = "ab", *, lease: float = FIRST
) -> AsyncIterator[tuple[Cluster, list[Node], Told]]:
    async with app_server() as server:
        endpoint = {"app": APP["id"], "url": f"http://127.0.0.1:{server.port}/webhooks", "batch_wait": 0}
        webhooks = {"leave_delay": 0.2, "endpoints": {"server": endpoint}}
        tables = {"apps": APPS, "plugins": {"webhooks": webhooks}}
        async with redis_server(directory) as redis, cluster(redis, {}, lease=lease, **tables) as several:
            yield several, [await several.node(name) for name in names], Told(server)


def leads(node: Node) -> bool:
    return bool(node.cluster["applications"]["leads"])


async def leader(nodes: list[Node]) -> Node:
    with trio.fail_after(WITHIN):
        while not any(map(leads, nodes)):
            await trio.sleep(0.01)
    return next(node for node in nodes if leads(node))


async def test_webhooks_are_sent_by_one_relay_of_what_all_relays_count(tmp_path: Path) -> None:
    async with hooked(tmp_path) as (_, (a, b), told), raw(a.port) as ada:
        await join(ada, "presence-room", "ada")
        async with raw(b.port) as bob:
            await join(bob, "presence-room", "bob")
            await bob.say("client-hello", {"n": 1}, channel="presence-room")
            await bob.say("pusher:subscribe", {"channel": "cache-last"})
            await bob.hear("pusher:cache_miss")
            await told.until(("cache_miss", "cache-last"), ("member_added", "presence-room", "bob"))
            async with raw(a.port) as third:
                await third.say("pusher:subscribe", {"channel": "cache-last"})
                await third.hear("pusher:cache_miss")
                await told.until(("subscription_count", "cache-last", "2"))
        await told.until(("member_removed", "presence-room", "bob"), ("channel_vacated", "cache-last"))
        await ada.say("pusher:unsubscribe", {"channel": "presence-room"})
        await told.until(("channel_vacated", "presence-room"))
        events = [event for event in told.events if event[0] not in ("client_event", "subscription_count")]
        assert sorted(events) == sorted(
            [
                ("channel_occupied", "presence-room"),
                ("member_added", "presence-room", "ada"),
                ("member_added", "presence-room", "bob"),
                ("member_removed", "presence-room", "bob"),
                ("member_removed", "presence-room", "ada"),
                ("channel_vacated", "presence-room"),
                ("channel_occupied", "cache-last"),
                ("cache_miss", "cache-last"),
                ("channel_vacated", "cache-last"),
            ]
        )
        (client_event,) = [event for event in told.events if event[0] == "client_event"]
        assert client_event[1:4] == ("presence-room", "client-hello", '{"n": 1}')
        counts = [event[2] for event in told.events if event[0] == "subscription_count"]
        assert counts == ["1", "2", "1", "0"]


async def test_webhooks_that_wait_are_sent_by_the_next_relay(tmp_path: Path) -> None:
    async with hooked(tmp_path, "abc", lease=SHORT) as (_, nodes, told):
        first = await leader(nodes)
        others = [node for node in nodes if node is not first]
        async with raw(others[0].port) as client, raw(others[1].port) as leaver:
            await client.subscribe("one")
            await told.until(("channel_occupied", "one"))
            told.server.webhook_status = 500
            await client.subscribe("two")
            await leaver.subscribe("three")
            await told.until(("channel_occupied", "two"))
            told.server.webhooks.clear()
            await first.kill()
            told.server.webhook_status = 200
            await told.until(("channel_occupied", "two"), ("channel_occupied", "three"))
            assert ("channel_occupied", "one") not in told.events
            second = await leader(others)
            await second.stop()
            await told.until(("channel_vacated", "three" if second is others[1] else "two"))
