"""File descriptors: clients never get the last ones, so that providers can be dialled and an administrator is answered."""

import contextlib
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio

from relay.server.admission import ADMIN_CONNECTIONS, Admission, HttpLimits, plan_descriptors
from support.deadlines import WITHIN
from support.http_api import send
from support.process import serving

ALLOWED = 128
#: Seconds, less than server.limits.head below; far above what a wait takes.
CONFIGURATION = """\
allow_inline_secrets = true

[server]
listen = "127.0.0.1:{{port}}"
status_public = true
limits = {{ head = 600 }}

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
            await crowd(idle, port)
            provider.listen()
            with trio.fail_after(WITHIN):
                await trio.to_thread.run_sync(lambda: provider.accept()[0].close(), abandon_on_cancel=True)


async def test_health_is_answered_while_clients_take_every_descriptor(tmp_path: Path) -> None:
    with socket.socket() as provider:
        provider.bind(("127.0.0.1", 0))
        configuration = CONFIGURATION.format(provider=provider.getsockname()[1])
        async with serving(tmp_path, configuration, descriptors=ALLOWED) as (_, port), AsyncExitStack() as idle:
            await crowd(idle, port)
            for _ in range(2 * ADMIN_CONNECTIONS):  # a kept connection answers nothing else
                assert (await said_to(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))[:13] in (
                    b"",
                    b"HTTP/1.1 503 ",
                )
            for path in ("/healthz", "/metrics", "/api/v2/status"):
                await until_answered(port, path)


async def test_clients_of_this_machine_that_say_nothing_do_not_keep_an_administrator_out(tmp_path: Path) -> None:
    """A proxy's connections come from this machine too."""
    with socket.socket() as provider:
        provider.bind(("127.0.0.1", 0))
        configuration = CONFIGURATION.format(provider=provider.getsockname()[1])
        async with serving(tmp_path, configuration, descriptors=ALLOWED) as (_, port), AsyncExitStack() as idle:
            streams = await crowd(idle, port)
            for begun in streams:  # nor those that say half of what they want
                with contextlib.suppress(trio.BrokenResourceError):
                    await begun.send_all(b"GET /he")
            await until_answered(port, "/healthz")


async def crowd(idle: AsyncExitStack, port: int) -> list[trio.SocketStream]:
    """Open twice as many connections as there are descriptors, and wait until the relay has refused one more.

    They say nothing and stay until the end. A connection that is one of the kept is closed after `ADMIN_HEAD` seconds.
    """
    streams = [
        await idle.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(2 * ALLOWED)
    ]
    with trio.fail_after(WITHIN):
        while b"server.limits.reserved_descriptors" not in await said_to(port, b""):
            pass
    return streams


async def said_to(port: int, request: bytes) -> bytes:
    """Return the first that the relay says on a new connection; empty where it says nothing before its end."""
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it was refused before it asked
                if request:
                    await stream.send_all(request)
                return bytes(await stream.receive_some())
    return b""


async def until_answered(port: int, path: str) -> None:
    """Ask until the answer is 200: the relay sees a little later that kept connections before this one have ended."""
    with trio.fail_after(WITHIN):
        while True:
            with contextlib.suppress(httpx.TransportError):  # refused before the request was read
                if (await send(port, "GET", path)).status_code == 200:
                    return
            await trio.sleep(0.01)


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
