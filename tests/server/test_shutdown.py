"""A request that is under way when the relay stops is answered, within the drain deadline."""

import trio

from support.deadlines import WITHIN
from support.running import API_KEY, port_of, running_relay

HEAD = (
    f"POST /api/v2/ws/session HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {API_KEY}\r\n"
    "Content-Type: application/json\r\nContent-Length: 21\r\n\r\n"
).encode()


#: Longer than a request takes on any machine.
PATIENT = {"listen": "127.0.0.1:0", "limits": {"drain": WITHIN}}


async def test_a_request_under_way_is_answered() -> None:
    async with running_relay(server=PATIENT) as relay, trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(relay))
        await stream.send_all(HEAD + b'{"subscrip')
        await trio.testing.wait_all_tasks_blocked(0.05)
        relay.stop()
        nursery.start_soon(finish, stream)


async def finish(stream: trio.SocketStream) -> None:
    await trio.sleep(0.2)
    with trio.fail_after(WITHIN):
        async with stream:
            await stream.send_all(b'tions": []}')
            answer = b"".join([part async for part in stream])
    assert answer.startswith(b"HTTP/1.1 "), "closed without an answer"
    assert b"connection: close" in answer.lower()


async def test_one_that_never_ends_is_cut_at_the_deadline() -> None:
    server = {"listen": "127.0.0.1:0", "limits": {"drain": 0.3}}
    with trio.fail_after(WITHIN):
        async with running_relay(server=server) as relay:
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(relay))
            await stream.send_all(HEAD)
            await trio.testing.wait_all_tasks_blocked(0.05)
        async with stream:
            assert await stream.receive_some() == b""
