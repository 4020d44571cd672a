"""File descriptors: clients never get the last ones, so that providers can be dialled and an administrator is answered."""

import contextlib
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from relay.server.admission import ADMIN_CONNECTIONS, Admission, HttpLimits, plan_descriptors
from support.http_api import send
from support.process import serving

ALLOWED = 128
CONFIGURATION = """\
allow_inline_secrets = true

[server]
listen = "127.0.0.1:{{port}}"
status_public = true
limits = {{ head = 60 }}

[apps.main]
id = 7
key = "app-key"
secret = "app-secret-of-the-test"

[providers.binance]
url = "ws://127.0.0.1:{provider}"
http_url = "http://127.0.0.1:{provider}"
pinned = ["quote BTC/USDT"]
"""


async def test_a_provider_can_be_dialled_while_clients_take_every_descriptor(tmp_path: Path) -> None:
    with socket.socket() as provider:
        provider.bind(("127.0.0.1", 0))  # refuses, until it listens
        configuration = CONFIGURATION.format(provider=provider.getsockname()[1])
        async with serving(tmp_path, configuration, descriptors=ALLOWED) as (_, port), AsyncExitStack() as idle:
            refused = 0
            for _ in range(2 * ALLOWED):
                stream = await idle.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                with trio.move_on_after(0.05 if refused < 3 else 0):
                    refused += b"503" in await stream.receive_some()
            assert refused
            provider.listen()
            with trio.fail_after(60):
                await trio.to_thread.run_sync(lambda: provider.accept()[0].close(), abandon_on_cancel=True)


async def test_health_is_answered_while_clients_take_every_descriptor(tmp_path: Path) -> None:
    with socket.socket() as provider:
        provider.bind(("127.0.0.1", 0))
        configuration = CONFIGURATION.format(provider=provider.getsockname()[1])
        async with serving(tmp_path, configuration, descriptors=ALLOWED) as (_, port), AsyncExitStack() as idle:
            streams = await crowd(idle, port)
            # The first of them are ordinary connections; an administrator's connection that says nothing is one of the kept.
            full = [stream for stream in streams if await refused_at_once(stream)]
            assert full
            await refused_when_it_asks(streams[: len(streams) - len(full)])
            with trio.fail_after(60):
                while (await send(port, "GET", "/healthz")).status_code != 200:
                    await trio.sleep(0.01)  # the relay has not seen yet that the kept connections are closed
            assert (await send(port, "GET", "/metrics")).status_code == 200
            assert (await send(port, "GET", "/api/v2/status")).status_code == 200


async def test_clients_of_this_machine_that_say_nothing_do_not_keep_an_administrator_out(tmp_path: Path) -> None:
    """A proxy's connections come from this machine too."""
    with socket.socket() as provider:
        provider.bind(("127.0.0.1", 0))
        configuration = CONFIGURATION.format(provider=provider.getsockname()[1])
        async with serving(tmp_path, configuration, descriptors=ALLOWED) as (_, port), AsyncExitStack() as idle:
            streams = await crowd(idle, port)
            # Those that are kept are free again after a second, so that one of the last may have got one.
            assert any([await refused_at_once(stream, within=1.0) for stream in streams[-8:]])
            for begun in streams:  # nor those that say half of what they want
                with contextlib.suppress(trio.BrokenResourceError):
                    await begun.send_all(b"GET /he")
            with trio.fail_after(45):  # less than server.limits.head
                while (await send(port, "GET", "/healthz")).status_code != 200:
                    await trio.sleep(0.01)


async def crowd(idle: AsyncExitStack, port: int) -> list[trio.SocketStream]:
    """Open twice as many connections as there are descriptors; they say nothing and stay until the end."""
    return [await idle.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(2 * ALLOWED)]


async def refused_at_once(stream: trio.SocketStream, within: float = 0.02) -> bool:
    with trio.move_on_after(within):
        return b"server.limits.reserved_descriptors" in await stream.receive_some()
    return False


async def refused_when_it_asks(streams: list[trio.SocketStream]) -> None:
    """Let the kept connections be used up and closed: the last ones that were admitted ask for what they do not get."""
    for stream in streams[-ADMIN_CONNECTIONS:]:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(60):
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            while await stream.receive_some():
                pass
        await stream.aclose()


@pytest.mark.parametrize(
    ("allowed", "sessions", "reserve", "clients", "enough"),
    [(65_536, 5, 84, 20_000, True), (20_000, 0, 64, 19_936, False), (128, 10, 64, 64, False), (8, 0, 4, 4, False)],
)
def test_the_plan(allowed: int, sessions: int, reserve: int, clients: int, enough: bool) -> None:
    plan = plan_descriptors(HttpLimits(), sessions, allowed)
    assert (plan.reserve, plan.clients, plan.enough) == (reserve, clients, enough)


def test_only_this_machine_gets_a_kept_connection() -> None:
    admission = Admission(HttpLimits(connections=1), descriptors=100)
    assert admission.refusal("203.0.113.1", 9, 0) is None
    assert admission.refusal("203.0.113.1", 9, 1) == "server.limits.connections"
    assert admission.refusal("203.0.113.1", 100, 0) == "server.limits.reserved_descriptors"
    assert admission.count_admin("203.0.113.1") is None
    leaving = [admission.count_admin(address) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "127.1.2.3")]
    assert all(leaving)
    assert admission.count_admin("127.0.0.1") is None
    leaving[0]()  # type: ignore[misc]
    assert admission.count_admin("127.0.0.1") is not None
