"""Each capability of the protocol, judged by every client library that has it."""

import trio

from support.client import Client
from support.deadlines import WITHIN
from support.harness import stage
from support.matrix import judged_by
from support.server_library import server_library

NO_CHANNEL_DATA = "signs nothing but the names of private channels"
NO_ENCRYPTION = "cannot decrypt"
NO_SIGN_IN = "has no sign-in"


def names(succeeded: dict[str, object]) -> list[str]:
    """The names of the members a subscription brought, in whatever form the library has them."""
    members = succeeded["members"]
    infos = members.values() if isinstance(members, dict) else members
    return sorted(info["name"] for info in infos)  # type: ignore[attr-defined]


def came(client: Client, channel: str) -> list[str]:
    return [data["info"]["name"] for data in client.events(channel, "pusher:member_added")]


@judged_by("connection")
async def test_connects(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        client = await s.client(library)
        socket_id = await s.connect(client)
        assert all(part.isdigit() for part in socket_id.split("."))
        assert s.relay.hub.connections == 1


@judged_by("public channels")
async def test_public_channels(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        client = await s.connected(library)
        await client.subscribe("room", "other")
        for number in range(5):
            s.publish("room", {"number": number, "text": "Grüße \U0001f680"})
        await client.event("room", "greeting", skip=4)
        assert client.events("room", "greeting") == [{"number": n, "text": "Grüße \U0001f680"} for n in range(5)]
        assert client.events("other", "greeting") == []


@judged_by("unsubscribing")
async def test_unsubscribing(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        client = await s.connected(library)
        await client.subscribe("room", "other")
        await client.do("unsubscribe", channel="room")
        with trio.fail_after(WITHIN):
            while s.relay.hub.channel_info("7", "room", 0).occupied:
                await trio.sleep(0.01)
        s.publish("room", 1)
        s.publish("other", 2)
        assert await client.event("other", "greeting") == 2
        assert client.events("room", "greeting") == []


@judged_by("private channels")
async def test_private_channels(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        client = await s.connected(library)
        await client.subscribe("private-room")
        s.publish("private-room", {"secret": True})
        assert await client.event("private-room", "greeting") == {"secret": True}


@judged_by(
    "private channels with channel_data in the signature",
    absent={"pysher": NO_CHANNEL_DATA, "asyncpusher": NO_CHANNEL_DATA},
)
async def test_private_channels_with_channel_data(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        client = await s.client(library)
        await s.connect(client, params={"with_member": "1"})
        await client.subscribe("private-room")
        s.publish("private-room", 1)
        assert await client.event("private-room", "greeting") == 1


@judged_by("presence: two tabs of a user are one member, who comes once and goes once")
async def test_presence(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        ada, tab_1 = await s.connected(library, "ada"), await s.connected("pysher", "bob")
        await ada.subscribe("presence-room")
        assert names(await ada.event("presence-room", "pusher:subscription_succeeded")) == ["Ada"]
        await tab_1.subscribe("presence-room")
        tab_2 = await s.connected(library, "bob")
        await tab_2.subscribe("presence-room")
        assert names(await tab_2.event("presence-room", "pusher:subscription_succeeded")) == ["Ada", "Bob"]
        cleo = await s.connected(library, "cleo")
        await cleo.subscribe("presence-room")
        await ada.event("presence-room", "pusher:member_added", skip=1)
        assert came(ada, "presence-room") == ["Bob", "Cleo"]
        await tab_1.do("unsubscribe", channel="presence-room")
        await cleo.do("unsubscribe", channel="presence-room")
        await ada.event("presence-room", "pusher:member_removed")
        await tab_2.do("unsubscribe", channel="presence-room")
        await ada.event("presence-room", "pusher:member_removed", skip=1)
        gone = [data["info"] for data in ada.events("presence-room", "pusher:member_removed")]
        assert [info and info["name"] for info in gone] in (
            ["Cleo", "Bob"],
            [None, None],
        )  # some keep no info of who went
        assert s.relay.hub.users("7", "presence-room") == ["ada"]


@judged_by("client events, to the others only")
async def test_client_events(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        ada, bob = await s.connected(library, "ada"), await s.connected(library, "bob")
        for channel in ("private-room", "presence-room"):
            await ada.subscribe(channel)
            await bob.subscribe(channel)
            await ada.do("trigger", channel=channel, event="client-typing", data={"at": 3})
            assert await bob.event(channel, "client-typing") == {"at": 3}
            s.publish(channel, "behind it")
            await ada.event(channel, "greeting")
            assert ada.events(channel, "client-typing") == []
        if library in ("pusher-js", "chromium"):  # the others do not tell who sent it
            senders: dict[str, str | None] = {}
            with trio.fail_after(WITHIN):
                while len(senders) < 2:  # it is told behind the event
                    await trio.sleep(0.01)
                    senders = {line["channel"]: line.get("user_id") for line in bob.lines if line["on"] == "sender"}
            assert senders == {"private-room": None, "presence-room": "ada"}


@judged_by("client events above the rate are refused with 4301, the connection stays")
async def test_client_events_above_the_rate(library: str, browser_port: int) -> None:
    async with stage(browser_port, limits={"client_events_per_second": 1}) as s:
        ada, bob = await s.connected(library, "ada"), await s.connected(library, "bob")
        await ada.subscribe("private-room")
        await bob.subscribe("private-room")
        for number in range(3):
            await ada.do("trigger", channel="private-room", event="client-typing", data=number)
        assert "client_events_per_second" in await ada.error(4301)
        assert await bob.event("private-room", "client-typing") == 0
        s.publish("private-room", "still there")
        assert await ada.event("private-room", "greeting") == "still there"


@judged_by(
    "encrypted channels, decrypted by the client", absent={"pysher": NO_ENCRYPTION, "asyncpusher": NO_ENCRYPTION}
)
async def test_encrypted_channels(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s, server_library("pusher-python", s.port) as app:
        client = await s.client(library)
        await s.connect(client)
        await client.subscribe("private-encrypted-room", "private-encrypted-cache-room")
        for channel in ("private-encrypted-room", "private-encrypted-cache-room"):
            await app.call("trigger", channels=[channel], name="greeting", data={"for": "you"})
            assert await client.event(channel, "greeting") == {"for": "you"}
        later = await s.client(library)
        await s.connect(later)
        await later.subscribe("private-encrypted-cache-room")
        assert await later.event("private-encrypted-cache-room", "greeting") == {"for": "you"}


@judged_by("cache channels: the last event at once, else cache_miss")
async def test_cache_channels(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        first, later = await s.connected(library), await s.connected(library)
        for channel in ("cache-room", "private-cache-room", "presence-cache-room"):
            await first.subscribe(channel)
            await first.event(channel, "pusher:cache_miss")
            s.publish(channel, "old")
            s.publish(channel, "last")
            await later.subscribe(channel)
            assert await later.event(channel, "greeting") == "last"
            assert later.events(channel, "pusher:cache_miss") == []


@judged_by("sign-in, and events to one user", absent={"pysher": NO_SIGN_IN, "asyncpusher": NO_SIGN_IN})
async def test_sign_in_and_events_to_one_user(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s, server_library("pusher-python", s.port) as app:
        ada, bob = await s.connected(library, "ada"), await s.connected(library, "bob")
        for client in (ada, bob):
            signed_in = await client.ask("signin")
            assert signed_in["user"]["id"] in ("ada", "bob")
            user_id = signed_in["user"]["id"]
            with trio.fail_after(WITHIN):
                while not s.relay.hub.channel_info("7", f"#server-to-user-{user_id}", 0).occupied:
                    await trio.sleep(0.01)
        await app.call("send_to_user", user_id="ada", name="greeting", data={"to": "ada"})
        await app.call("send_to_user", user_id="bob", name="greeting", data={"to": "bob"})
        for client, user_id in ((ada, "ada"), (bob, "bob")):
            await client.wait(lambda line: line["on"] == "user" and line["event"] == "greeting")
            heard = [line["data"] for line in client.lines if line["on"] == "user" and line["event"] == "greeting"]
            assert heard == [{"to": user_id}]


@judged_by(
    "watchlist: who is online, who comes and goes",
    absent={
        "echo": "offers it only by the pusher-js inside of it",
        "pysher": NO_SIGN_IN,
        "asyncpusher": NO_SIGN_IN,
    },
)
async def test_watchlist(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        bob = await s.connected(library, "bob")
        await bob.ask("signin")
        ada = await s.client(library)
        await s.connect(ada, "ada", params={"watchlist": "bob,cleo"})
        await ada.ask("signin")
        await ada.wait(lambda line: line["on"] == "watchlist")
        cleo = await s.connected(library, "cleo")
        await cleo.ask("signin")
        await ada.nth(lambda line: line["on"] == "watchlist", 2)
        await bob.do("disconnect")
        await ada.nth(lambda line: line["on"] == "watchlist", 3)
        told = [(line["event"], line["data"]["user_ids"]) for line in ada.lines if line["on"] == "watchlist"]
        assert told == [("online", ["bob"]), ("online", ["cleo"]), ("offline", ["bob"])]


@judged_by("terminated by the application's server", absent={"pysher": NO_SIGN_IN, "asyncpusher": NO_SIGN_IN})
async def test_terminated_by_the_applications_server(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s, server_library("pusher-python", s.port) as app:
        ada, bob = await s.connected(library, "ada"), await s.connected(library, "bob")
        await ada.ask("signin")
        await bob.ask("signin")
        assert await app.call("terminate", user_id="ada") == {}
        await ada.error(4009)
        await ada.wait(lambda line: line.get("current") == "disconnected")
        with trio.fail_after(WITHIN):  # the client may say so before the relay has read its close frame
            while s.relay.hub.connections != 1:
                await trio.sleep(0.01)


@judged_by("subscription count")
async def test_subscription_count(library: str, browser_port: int) -> None:
    async with stage(browser_port, subscription_count=True) as s:
        first, second = await s.connected(library), await s.connected(library)
        await first.subscribe("room")
        await second.subscribe("room")
        await first.event("room", "pusher:subscription_count", skip=1)
        await second.do("unsubscribe", channel="room")
        await first.event("room", "pusher:subscription_count", skip=2)
        assert first.events("room", "pusher:subscription_count") == [{"subscription_count": n} for n in (1, 2, 1)]


@judged_by(
    "a refused subscription is told as subscription_error",
    absent={
        "pysher": "hands out no event without a handler for its channel, and has none for this",
        "asyncpusher": "signs by the application's server alone, and takes its refusal for an error of its own",
    },
)
async def test_a_refused_subscription_is_told(library: str, browser_port: int) -> None:
    async def forge(socket_id: str, channel: str, member: object) -> dict[str, str]:
        return {"auth": "app-key:" + "0" * 64}

    async with stage(browser_port, sign_channel=forge) as s:
        client = await s.connected(library)
        await client.do("subscribe", channel="private-room")
        refusal = await client.event("private-room", "pusher:subscription_error")
        assert (refusal["type"], refusal["status"]) == ("AuthError", 401)
