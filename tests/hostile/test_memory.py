"""Memory that clients fill by what they do: bounded over all connections, callers and accounts, and given back."""

import contextlib
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import attrs
import pytest
import trio
import trio.testing

from relay.pusher.costs import ClientBudgets, Costs
from relay.trading.pending import Scope
from support.deadlines import WITHIN
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
        registry, account = desk.relay._registry, Scope("one", "main")
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
