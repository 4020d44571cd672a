"""The HTTP API, judged by the official server libraries."""

import json
from typing import Any

import pytest
import trio

from support.client import Client
from support.deadlines import WITHIN
from support.harness import Stage, stage
from support.matrix import SERVERS, judged_by
from support.raw import raw
from support.server_library import Refused, ServerLibrary, server_library

NO_INFO = "has no parameter for it"


@judged_by("trigger: one and several channels", SERVERS)
async def test_trigger(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app, raw(s.port) as client:
        await client.subscribe("a")
        await client.subscribe("private-b")
        assert await app.call("trigger", channels=["a"], name="greeting", data={"n": 1}) == {}
        assert await app.call("trigger", channels=["a", "private-b"], name="greeting", data={"n": 2}) == {}
        heard = [await client.receive() for _ in range(3)]
        assert [(m["channel"], json.loads(m["data"])["n"]) for m in heard] == [("a", 1), ("a", 2), ("private-b", 2)]


@judged_by("trigger: not to the connection it came from", SERVERS)
async def test_socket_id(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app, raw(s.port) as sender, raw(s.port) as other:
        await sender.subscribe("a")
        await other.subscribe("a")
        await app.call("trigger", channels=["a"], name="greeting", data=1, socket_id=sender.socket_id)
        await app.call("trigger", channels=["a"], name="greeting", data=2)
        assert await other.hear("greeting") == 1
        assert await sender.hear("greeting") == 2


@judged_by("trigger: info of the channels", SERVERS, absent={"pusher-python": NO_INFO})
async def test_info(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app, raw(s.port) as client:
        await client.subscribe("a")
        answer = await app.call("trigger", channels=["a", "b"], name="greeting", data=1, info=["subscription_count"])
        assert answer == {"channels": {"a": {"subscription_count": 1}, "b": {"subscription_count": 0}}}


@judged_by("trigger: encrypted by the library, decrypted by pusher-js", SERVERS)
async def test_encrypted(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app:

        async def sign(socket_id: str, channel: str, member: object) -> dict[str, str]:
            return dict(await app.call("authorize", socket_id=socket_id, channel=channel, member=member))

        s.server.sign_channel = sign
        client = await s.connected("pusher-js")
        await client.subscribe("private-encrypted-a")
        await app.call("trigger", channels=["private-encrypted-a"], name="greeting", data={"for": "you"})
        assert await client.event("private-encrypted-a", "greeting") == {"for": "you"}


@judged_by("trigger: batches", SERVERS)
async def test_batch(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app, raw(s.port) as client:
        await client.subscribe("a")
        events = [{"channel": "a", "name": "greeting", "data": {"n": n}} for n in range(10)]
        assert await app.call("batch", events=events) == {}
        assert [(await client.hear("greeting"))["n"] for _ in range(10)] == list(range(10))
        with pytest.raises(Refused) as refused:
            await app.call("batch", events=[*events, events[0]])
        assert refused.value.status == 400


@judged_by("refusals: 400, 401, 403 as the library knows them", SERVERS)
async def test_refusals(library: str) -> None:
    async with stage(limits={"event_payload": 100}) as s, server_library(library, s.port) as app:
        with pytest.raises(Refused) as refused:
            await app.call("users", channel="a")
        assert refused.value.status == 400
        with pytest.raises(Refused) as refused:
            await app.call("trigger", channels=["quote.nobody.X"], name="greeting", data=1)
        assert refused.value.status == 403
        with pytest.raises(Refused) as refused:
            await app.call("trigger", channels=["a"], name="greeting", data="x" * 101)
        assert refused.value.status in (413, None)  # the Python library knows no name for it
    async with stage(secret="another-secret") as s, server_library(library, s.port) as app:
        with pytest.raises(Refused) as refused:
            await app.call("trigger", channels=["a"], name="greeting", data=1)
        assert refused.value.status == 401


@judged_by("channels, one channel, and the users of a presence channel", SERVERS)
async def test_channels(library: str) -> None:
    async with stage(subscription_count=True) as s, server_library(library, s.port) as app:
        assert await app.call("channels", prefix="") == {"channels": {}}
        ada = await s.connected("pysher", "ada")
        await ada.subscribe("room", "presence-room", "cache-room")
        three = {"channels": {"room": {}, "presence-room": {}, "cache-room": {}}}
        with trio.fail_after(WITHIN):
            while (
                await app.call("channels", prefix="") != three
            ):  # of two relays one may have been told before the other
                await trio.sleep(0.01)
        counted = await app.call("channels", prefix="presence-", info=["user_count"])
        assert counted == {"channels": {"presence-room": {"user_count": 1}}}
        assert await app.call("users", channel="presence-room") == {"users": [{"id": "ada"}]}
        assert await app.call("users", channel="presence-empty") == {"users": []}
        one = await app.call("channel", channel="presence-room", info=["user_count", "subscription_count"])
        assert one == {"occupied": True, "user_count": 1, "subscription_count": 1}
        assert await app.call("channel", channel="nobody") == {"occupied": False}
        s.publish("cache-room", {"last": True})
        with trio.fail_after(WITHIN):
            while (cached := await app.call("channel", channel="cache-room", info=["cache"]))["cache"] is None:
                await trio.sleep(0.01)
        assert cached["cache"]["data"] == '{"last": true}'


@judged_by("authorizing private and presence channels", SERVERS)
async def test_authorizing_channels(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app:

        async def sign(socket_id: str, channel: str, member: object) -> dict[str, str]:
            return dict(await app.call("authorize", socket_id=socket_id, channel=channel, member=member))

        s.server.sign_channel = sign
        client = await s.connected("asyncpusher", "ada")
        await client.subscribe("private-room", "presence-room")
        assert s.relay.hub.users("7", "presence-room") == ["ada"]


async def signed_in(s: Stage, app: ServerLibrary, user_id: str) -> Client:
    async def sign(socket_id: str, user: object) -> dict[str, str]:
        return dict(await app.call("authenticate", socket_id=socket_id, user=user))

    s.server.sign_user = sign
    client = await s.connected("pusher-js", user_id)
    await client.ask("signin")
    with trio.fail_after(WITHIN):
        while not s.relay.hub.channel_info("7", f"#server-to-user-{user_id}", 0).occupied:
            await trio.sleep(0.01)
    return client


@judged_by("authenticating users, events to a user, terminating a user's connections", SERVERS)
async def test_users(library: str) -> None:
    async with stage() as s, server_library(library, s.port) as app:
        ada, bob = await signed_in(s, app, "ada"), await signed_in(s, app, "bob")
        assert await app.call("send_to_user", user_id="ada", name="greeting", data={"to": "ada"}) == {}
        heard = await ada.wait(lambda line: line["on"] == "user" and line["event"] == "greeting")
        assert heard["data"] == {"to": "ada"}
        assert await app.call("terminate", user_id="bob") == {}
        await bob.error(4009)
        with trio.fail_after(WITHIN):
            while s.relay.hub.connections > 1:  # the relay sees the end of the connection after the client does
                await trio.sleep(0.01)
        assert s.relay.hub.connections == 1


@judged_by("webhooks of every kind, verified by the library", SERVERS)
async def test_webhooks(library: str) -> None:
    async with stage(webhooks=True, subscription_count=True) as s, server_library(library, s.port) as app:
        client = await s.connected("pysher", "ada")
        await client.subscribe("presence-cache-room", "private-room")
        await client.do("trigger", channel="private-room", event="client-typing", data={"at": 3})
        await client.do("unsubscribe", channel="presence-cache-room")
        told: dict[str, Any] = {}
        with trio.fail_after(WITHIN):
            while "channel_vacated" not in told or "client_event" not in told:
                if not s.server.webhooks:
                    await s.server.news.wait()
                headers, body = s.server.webhooks.pop(0)
                verified = await app.call("webhook", headers=headers, body=body)
                assert verified["events"]
                told |= {event["name"]: event for event in verified["events"]}
                forged = body.replace("room", "hall", 1)
                assert await app.call("webhook", headers=headers, body=forged) is None
        names = ["cache_miss", "channel_occupied", "channel_vacated", "client_event", "member_added", "member_removed"]
        assert sorted(told) == [*names, "subscription_count"]
        assert told["member_added"]["user_id"] == told["member_removed"]["user_id"] == "ada"
        assert (told["client_event"]["event"], json.loads(told["client_event"]["data"])) == ("client-typing", {"at": 3})
        assert told["subscription_count"]["subscription_count"] == 1
