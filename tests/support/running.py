"""A whole relay, running inside the test on a port the kernel chose."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from relay.app import Relay
from relay.net.http import HttpClient
from relay.plugins import load_plugins
from relay.settings import settings_of

APP = {"id": "7", "key": "app-key", "secret": "app-secret-of-the-test"}
API_KEY = "api-key-of-the-test"


@asynccontextmanager
async def running_relay(providers: Mapping[str, Any] | None = None, **tables: Any) -> AsyncIterator[Relay]:
    """Run a relay with these providers (and other tables of the configuration) for the length of the block."""
    document = {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"main": APP},
        "api_keys": {"main": {"key": API_KEY, "accounts": ["*"]}},
        "providers": dict(providers or {}),
        **tables,
    }
    plugins = load_plugins()
    plugins.check()
    settings = settings_of(
        document,
        Path("test"),
        {},
        plugins.adapters(),
        Path.read_text,
        plugin_tables=plugins.tables(),
        configure=plugins.configure,
    )
    async with HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        yield relay
        relay.stop()


def port_of(relay: Relay) -> int:
    """The port the relay listens on."""
    return relay.addresses[0][1]
