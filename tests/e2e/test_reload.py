"""SIGHUP: apps and keys are read again while everybody else stays connected."""

import signal
from pathlib import Path

import pytest

from relay.pusher.apps import App
from support.http_api import ask
from support.process import serving
from support.pusherjs import pusher_js

pytestmark = pytest.mark.node

CONFIGURATION = """
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{port}"
[apps.one]
id = 1
key = "one"
secret = "the-secret-of-one"
[apps.two]
id = 2
key = "two"
secret = "the-secret-of-two"
"""


ONE = App(id="1", key="one", secrets=("the-secret-of-one",))


async def test_an_app_is_disabled_live_and_nobody_else_notices(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIGURATION) as (process, port), pusher_js() as one, pusher_js() as two:
        await one.connect(port, "one")
        await two.connect(port, "two")
        await one.subscribe("lobby")
        path = tmp_path / "tickrelay.toml"

        good = path.read_text()
        path.write_text(good.replace('key = "two"', 'key = "two"\nenabled = false'))
        process.send_signal(signal.SIGHUP)
        await two.error(4003)
        # A configuration that cannot be used changes nothing.
        path.write_text(good + "\nnonsense = 1")
        process.send_signal(signal.SIGHUP)

        event = {"name": "greeting", "channel": "lobby", "data": '"still here"'}
        assert (await ask(port, "POST", "/apps/1/events", event, app=ONE)).status_code == 200
        assert await one.event("lobby", "greeting") == "still here"
        assert sum(line.get("current") == "connected" for line in one.lines) == 1, "it was dropped and came back"
        assert process.returncode is None
