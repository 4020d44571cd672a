"""Memory that subscribers fill by what they send: bounded over all connections, inflated or not, and given back."""

import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import trio

from support.deadlines import WITHIN
from support.raw import Closed, Raw, raw
from support.running import APP, port_of, running_relay
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
