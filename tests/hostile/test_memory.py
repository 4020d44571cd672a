"""Memory that clients fill by what they do: bounded over all connections, callers and accounts, and given back."""

import contextlib
import gc
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
from wsproto.events import Pong

from relay.app import Relay
from relay.pusher import names
from relay.pusher.costs import ClientBudgets, Costs
from relay.pusher.signatures import channel_auth, user_auth
from relay.trading.pending import AccountRef
from support.deadlines import WITHIN
from support.http_api import OURS
from support.raw import Closed, Raw, raw
from support.running import APP, port_of, running_relay
from support.simulated_venue import trading
from tests.server.test_compression import OFFER, RSV1, Client, packed
from tests.websocket.test_frames import client_frame

MEBIBYTE = 1 << 20


async def test_messages_that_have_not_come_whole_are_bounded_over_all_connections() -> None:
    """Those who hold the most are closed, with the name of the setting; who waits for the rest of a short one stays."""
    server = {"listen": "127.0.0.1:0", "subscribers": {"pending_bytes": MEBIBYTE}}
    begun = b"\x01\xfe" + (60_000).to_bytes(2, "big") + b"\0\0\0\0" + b"x" * 59_999
    async with running_relay(server=server) as relay, AsyncExitStack() as opened:
        edge = relay._subscribers
        honest = await opened.enter_async_context(raw(port_of(relay)))
        ping = b'{"event":"pusher:ping"}'
        await honest.stream.send_all(bytes([0x81, 0x80 | len(ping)]) + b"\0\0\0\0" + ping[:-1])
        hostile = [await opened.enter_async_context(raw(port_of(relay))) for _ in range(20)]
        for client in hostile:
            await client.stream.send_all(begun)
        with trio.fail_after(WITHIN):
            while not relay.hub.budgets.exceeded():
                await trio.sleep(0.001)
            while edge._pending_bytes < 15 * 60_000:  # what is left of them has arrived
                await trio.sleep(0.001)
        assert edge._pending_bytes <= MEBIBYTE
        assert relay.hub.budgets.exceeded() == {"server.subscribers.pending_bytes": {"closed": 3}}
        await honest.stream.send_all(ping[-1:])
        await honest.hear("pusher:pong")
        codes = [await code_of(client) for client in hostile]
        assert sorted(codes, key=str) == [4100] * 3 + [None] * 17
        await opened.aclose()
        with trio.fail_after(WITHIN):
            while edge._pending_bytes or edge._pending:
                await trio.sleep(0.001)


async def code_of(client: Raw) -> int | None:
    """Send the end of the fragment and a ping; return the code the relay has closed with, None for a pong."""
    with contextlib.suppress(trio.BrokenResourceError):
        await client.stream.send_all(b"x")
        await client.ping()
    try:
        await client.receive()
    except Closed as closed:
        return closed.code
    return None


async def test_a_compressed_message_is_inflated_up_to_the_limit_and_paid_for_by_its_inflated_size() -> None:
    ping = b'{"event":"pusher:ping","data":"' + b"x" * 60_000 + b'"}'
    server = {"listen": "127.0.0.1:0", "subscribers": {"compression": True}}
    costs = {"connection_rate": 10, "connection_burst": 150}
    async with running_relay(server=server, costs=costs) as relay, raw(port_of(relay)) as honest:
        async with compressing(port_of(relay)) as client:
            assert len(packed(ping)) < 200, "what was received costs less than a unit"
            for _ in range(3):  # 120 units each
                await client.say(1, packed(ping), rsv=RSV1)
            with trio.fail_after(WITHIN):
                while relay.hub.budgets.exceeded() != {"costs.connection_rate": {"slowed": 1}}:
                    await trio.sleep(0.001)
        async with compressing(port_of(relay)) as client:
            bomb = client_frame(1, packed(b"\0" * 50_000_000), rsv=RSV1)
            tracemalloc.start()
            await client.stream.send_all(bomb)
            assert await client.close_code() == 1009
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 2 * MEBIBYTE, "a fraction of what it would have become"
        await honest.say("pusher:ping")
        await honest.hear("pusher:pong")


@contextlib.asynccontextmanager
async def compressing(port: int) -> AsyncIterator[Client]:
    """A client that has agreed to permessage-deflate."""
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"GET /app/{APP['key']}?protocol=7 HTTP/1.1\r\nHost: localhost\r\n".encode()
        await stream.send_all(head + b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + key + OFFER + b"\r\n")
        client = Client(stream)
        await client.until(lambda said: b"connection_established" in said)
        yield client


# Connections that say nothing ----------------------------------------------------------------------------------------

UPGRADE = (
    f"GET /app/{APP['key']}?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def greeted(port: int, many: int) -> list[socket.socket]:
    """Sockets of clients that were greeted. A thread of its own is to call this: it waits for the relay."""
    opened = []
    for _ in range(many):
        sock = socket.create_connection(("127.0.0.1", port), WITHIN)
        sock.sendall(UPGRADE)
        heard = b""
        while b"connection_established" not in heard:
            heard += sock.recv(4096)
        opened.append(sock)
    return opened


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that returns the bytes which were allocated in the block and are still held."""
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()

        def held() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield held
    finally:
        tracemalloc.stop()


async def test_an_idle_connection_takes_little_and_leaves_nothing() -> None:
    many = 300
    async with running_relay() as relay, AsyncExitStack() as staying:
        for sock in await trio.to_thread.run_sync(greeted, port_of(relay), 20):
            staying.callback(sock.close)
        with traced() as held:
            opened = await trio.to_thread.run_sync(greeted, port_of(relay), many)
            each = held() / many
            while opened:
                opened.pop().close()
            with trio.fail_after(WITHIN):
                while len(relay.hub._by_id[APP["id"]].sessions) > 20:
                    await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            left = held() / many
        assert each < 4096, "with the client's own socket, which is in this process too"
        assert left < 400


# Budgets -------------------------------------------------------------------------------------------------------------


def by_app(budgets: ClientBudgets, n: int) -> None:
    budgets.connect(f"app {n}", None, 0.0)


def by_address(budgets: ClientBudgets, n: int) -> None:
    budgets.connect("1", f"2001:db8:{n >> 8:x}:{n & 255:x}::/64", 0.0)


def by_caller(budgets: ClientBudgets, n: int) -> None:
    budgets.take(f"address 2001:db8:{n >> 8:x}:{n & 255:x}::/64", 1, 0.0)


@pytest.mark.parametrize("come", [by_app, by_address, by_caller])
def test_budgets_are_remembered_up_to_a_number(come: Callable[[ClientBudgets, int], None]) -> None:
    """Others who come take as much room as those who leave for them, however many come."""
    budgets = ClientBudgets(Costs(remembered=1000))
    with traced() as held:
        for n in range(1000):
            come(budgets, n)
        full = held()
        assert full < 1000 * 500
        for n in range(1000, 20_000):
            come(budgets, n)
        assert held() < full * 1.2
    assert max(len(budgets._apps), len(budgets._addresses), len(budgets._callers)) == 1000


# Commands ------------------------------------------------------------------------------------------------------------


async def test_commands_of_all_keys_on_an_account_are_bounded_in_bytes_and_leave_with_their_age() -> None:
    """The account that is full refuses more, by the name of the limit; another account of the same key does not feel it."""
    most = 256 * 1024
    async with trading(commands={"bytes_per_account": most}) as desk:
        registry, account = desk.relay._registry, AccountRef("one", "main")
        taken, answers = 0, []
        while len(answers) < 2:
            by = ("desk", "all")[len(answers)]
            answer = await desk.post(by=by, client_order_id=f"{by}-{taken}", extra={"note": "x" * 20_000})
            if answer.status_code == 200:
                taken += 1
                assert registry._shares[account].bytes <= most
            else:
                answers.append(answer)
        assert 5 < taken < most / 1000
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "FULL"), answer.text
            assert "limit commands.bytes_per_account" in answer.json()["error"]["message"]
        assert (await desk.post(provider="two", account="a")).status_code == 200
        registry.limits = attrs.evolve(registry.limits, age=1e-9)
        assert (await desk.post(extra={"note": "x" * 20_000})).status_code == 200
        assert registry._shares[account].count == 1


# What one connection may hold, and an app's server publish -------------------------------------------------------------

NOTHING_IDLE = {"idle_topics": 0}


@contextlib.asynccontextmanager
async def client_that_leaves(relay: Relay, held: Callable[[], int], left: int) -> AsyncIterator[Raw]:
    """A client, of which at most ``left`` bytes stay when it has gone."""
    async with raw(port_of(relay)) as client:
        yield client
    with trio.fail_after(WITHIN):
        while relay.hub._by_id[APP["id"]].sessions:
            await trio.sleep(0.01)
    await trio.testing.wait_all_tasks_blocked()
    for remembered in (names._remembered_type, names._is_remembered_name):  # bounded by their number
        assert remembered.cache_info().maxsize == 4096
        remembered.cache_clear()
    assert held() < left


async def test_subscriptions_take_what_their_names_take_and_leave_with_the_connection() -> None:
    many = 500
    apps = {"main": {**APP, "limits": {"subscriptions": many}}}
    async with running_relay(apps=apps, history=NOTHING_IDLE) as relay:
        async with raw(port_of(relay)) as warm:
            await warm.subscribe("room")
        with traced() as held:
            async with client_that_leaves(relay, held, 300_000) as client:
                for number in range(many):
                    await client.subscribe(f"{number:04}{'n' * 160}")
                assert held() < many * 5_000
                await client.say("pusher:subscribe", {"channel": "n" * 165})
                assert "(limit channel_name)" in str(await client.receive())
                await client.say("pusher:subscribe", {"channel": "one-more"})
                assert "(limit subscriptions)" in str(await client.receive())


async def test_a_sign_in_takes_what_its_limits_allow_and_leaves_with_the_connection() -> None:
    async with running_relay(history=NOTHING_IDLE) as relay:
        with traced() as held:
            async with client_that_leaves(relay, held, 300_000) as client:
                before = held()
                for more in ({}, {"x": "x" * 11_000}):
                    user = json.dumps({"id": "1", "watchlist": [f"{n}{'w' * 90}" for n in range(80)], **more})
                    auth = user_auth(OURS, client.socket_id, user)
                    await client.say("pusher:signin", {"auth": auth, "user_data": user})
                    await client.ping()
                    said = ""
                    while not isinstance(message := await client.receive(), Pong):
                        said += str(message)
                    assert ("(limit user_data_size)" in said) is bool(more), said
                assert held() - before < 300_000


async def test_members_of_a_presence_channel_are_bounded_in_number_and_in_size() -> None:
    apps = {"main": {**APP, "limits": {"presence_members": 3, "member_size": 500}}}
    async with running_relay(apps=apps, history=NOTHING_IDLE) as relay, AsyncExitStack() as opened:

        async def joins(user_id: str, size: int) -> str:
            client = await opened.enter_async_context(raw(port_of(relay)))
            data = json.dumps({"user_id": user_id, "user_info": "i" * size})
            auth = channel_auth(OURS, client.socket_id, "presence-room", data)
            await client.say("pusher:subscribe", {"channel": "presence-room", "auth": auth, "channel_data": data})
            return str(await client.receive())

        assert "(limit member_size)" in await joins("0", 500)
        for number in range(3):
            assert "subscription_succeeded" in await joins(f"{number}", 400)
        assert "(limit presence_members)" in await joins("4", 1)
        await opened.aclose()
        with trio.fail_after(WITHIN):
            while relay.hub._by_id[APP["id"]].channels:
                await trio.sleep(0.01)


async def test_events_of_a_topic_are_bounded_in_bytes_however_many_an_apps_server_publishes() -> None:
    async with running_relay(history={"bytes": 200_000, "idle_bytes": 0}) as relay:
        with traced() as held:
            async with client_that_leaves(relay, held, 400_000) as client:
                await client.subscribe("ticks", ids=True)
                for number in range(400):
                    relay.hub.trigger(
                        APP["id"], ["ticks"], "tick", json.dumps(f"{number}" + "x" * 5_000), now=trio.current_time()
                    )
                    await client.hear("tick")
                assert held() < 700_000, "of 2 MB that were published"


async def test_a_subscriber_that_reads_nothing_holds_what_its_outbox_may_and_is_closed() -> None:
    """A connection with more than the bound ends, since these events may not be dropped."""
    async with running_relay(outbox={"bytes": 100_000}, history={"bytes": 100_000, "idle_bytes": 0}) as relay:
        with traced() as held:
            async with client_that_leaves(relay, held, 200_000) as client:
                await client.subscribe("ticks")
                number = 0
                with trio.fail_after(WITHIN):
                    while relay.hub._by_id[APP["id"]].sessions:
                        relay.hub.trigger(
                            APP["id"], ["ticks"], "tick", f"{number}" + "x" * 9_000, now=trio.current_time()
                        )
                        number += 1
                        await trio.lowlevel.checkpoint()
                        assert held() < 1_500_000, "beside what the kernel has taken"
