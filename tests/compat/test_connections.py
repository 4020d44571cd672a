"""The beginning and end of connections, judged by every client library that reports them."""

from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve
from wsproto.events import Pong

from relay.pusher.apps import Limits
from support.app_server import app_server
from support.cable import cable
from support.clients import client_of
from support.deadlines import WITHIN
from support.harness import stage
from support.http_api import publish
from support.matrix import judged_by
from support.process import serving
from support.raw import raw
from support.running import APP, port_of, running_relay

NO_CODES = "takes codes from pusher:error alone, which since protocol 6 is not sent before a close"
CONFIGURATION = """
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{port}"
[apps.main]
id = 7
key = "app-key"
secret = "app-secret-of-the-test"
"""
#: Deadlines are looked at often.
QUICK = {"server": {"listen": "127.0.0.1:0", "subscribers": {"sweep": 0.05}}}
REFUSALS: dict[int, dict[str, Any]] = {
    4003: {"enabled": False},
    4004: {"max_connections": 1},
    4009: {"authorization_timeout": 0.2},
}


@pytest.mark.parametrize("code", [4001, *REFUSALS])
@judged_by("refused with 4001, 4003, 4004 or 4009: it stays away", absent={"pysher": NO_CODES})
async def test_refused_for_good(library: str, browser_port: int, code: int) -> None:
    async with stage(browser_port, tables=QUICK, **REFUSALS.get(code, {})) as s:
        client = await s.client(library)
        if code == 4004:
            await s.connected(library)
        await client.connect(s.port, "no-app's-key" if code == 4001 else APP["key"], wait=False)
        await client.error(code)
        await client.wait(lambda line: line.get("current") == "disconnected")


@judged_by("refused with 4100: it backs off and comes back", absent={"pysher": NO_CODES})
async def test_over_capacity(library: str, browser_port: int) -> None:
    async with stage(browser_port, limits={"connections_per_second": 0.001}) as s:
        client = await s.client(library)
        async with raw(s.port):
            await s.connect(client, wait=False)
            assert "connections_per_second" in await client.error(4100)
            app = s.relay.hub.app(APP["id"])
            assert app is not None
            s.relay.hub.replace_apps([evolve(app, limits=Limits())], trio.current_time())
            await client.connected()
            assert s.relay.hub.connections == 2


@judged_by("idle connections are kept alive by heartbeats")
async def test_idle_connections(library: str, browser_port: int) -> None:
    async with stage(browser_port, tables=QUICK, activity_timeout=1, pong_timeout=60) as s:
        client = await s.connected(library)
        await client.subscribe("room")
        (session,) = s.relay.hub._by_id[APP["id"]].sessions.values()
        quiet_since = session.connection._seen
        with trio.fail_after(WITHIN):  # until it has answered the relay's ping, or sent its own
            while session.connection._seen < quiet_since + 1:
                await trio.sleep(0.01)
        s.publish("room", "still there")
        assert await client.event("room", "greeting") == "still there"
        assert sum(line.get("current") == "connected" for line in client.lines) == 1


@judged_by("shutdown with 4200: it reconnects at once and subscribes again", absent={"pysher": NO_CODES})
async def test_shutdown(library: str, browser_port: int) -> None:
    async with running_relay() as second, stage(browser_port) as s:
        line = await s.cable()
        client = await s.connected(library, port=line.port)
        await client.subscribe("room", "private-room")
        line.to = port_of(second)
        s.relay.stop()
        await client.error(4200)
        await client.connected(times=2)
        for channel in ("room", "private-room"):
            await client.event(channel, "pusher:subscription_succeeded", skip=1)
            second.hub.trigger("7", [channel], "greeting", '"again"', now=trio.current_time())
            assert await client.event(channel, "greeting") == "again"


@judged_by("the relay killed (SIGKILL) and started again: it reconnects and subscribes again")
async def test_killed(library: str, browser_port: int, tmp_path: Path) -> None:
    # pysher authorizes no channel a second time.
    channels = ["room"] if library == "pysher" else ["room", "private-room"]
    async with app_server() as server, cable() as line, client_of(library, browser_port) as client:
        async with serving(tmp_path, CONFIGURATION) as (process, line.to):
            await client.connect(line.port, APP["key"], secret=APP["secret"], **server.options())
            await client.subscribe(*channels)
            line.hold()  # while the relay is down: pusher-js waits 15 s where its second attempt is refused
            process.kill()
            await process.wait()
        async with running_relay() as second:
            line.to = port_of(second)
            line.mend()
            for channel in channels:
                await client.event(channel, "pusher:subscription_succeeded", skip=1)
                await publish(line.to, channel, "again")
                assert await client.event(channel, "greeting") == "again"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nowhere", 4005),
        ("/app/app-key?protocol=seven", 4006),
        ("/app/app-key?protocol=99", 4007),
        ("/app/app-key", 4008),
    ],
)
async def test_what_no_library_asks_for_is_refused_with_its_code(path: str, code: int) -> None:
    async with running_relay() as relay, raw(port_of(relay), path, greeted=False) as client:
        assert await client.closed() == code


@pytest.mark.parametrize(
    ("app", "code"),
    [({"activity_timeout": 1, "pong_timeout": 0.2}, 4201), ({"inactivity_timeout": 0.2}, 4202)],
)
async def test_a_client_that_is_silent_or_idle_is_closed(app: dict[str, Any], code: int) -> None:
    async with stage(tables=QUICK, **app) as s:
        async with raw(s.port) as client:
            assert await client.closed() == code
            assert client.pings == (code == 4201)
        await s.until_empty()


async def test_both_kinds_of_ping_are_answered() -> None:
    async with running_relay() as relay, raw(port_of(relay)) as client:
        await client.ping()
        assert isinstance(await client.receive(), Pong)
        await client.say("pusher:ping")
        assert await client.receive() == {"event": "pusher:pong", "data": {}}
