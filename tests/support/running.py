"""A whole relay, running inside the test on a port the kernel chose."""

import importlib.metadata
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import trio

from relay.adapter import Adapter
from relay.app import Relay
from relay.plugins.manager import GROUP, Plugins, load_plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of

APP = {"id": "7", "key": "app-key", "secret": "app-secret-of-the-test"}
API_KEY = "api-key-of-the-test"
#: Found once: looking through every installed distribution takes longer than starting a relay.
ENTRY_POINTS = tuple(importlib.metadata.entry_points(group=GROUP))
#: No https leaves a test; a context that trusts nobody saves the time to read the machine's certificates.
UNTRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@cache
def _installed() -> Plugins:
    """Load and check the installed plugins once: they keep nothing of a relay, and hundreds of tests start one."""
    plugins = load_plugins(ENTRY_POINTS)
    plugins.check()
    return plugins


@asynccontextmanager
async def running_relay(
    providers: Mapping[str, Any] | None = None,
    *,
    adapt: Callable[[type[Adapter]], type[Adapter]] | None = None,
    stranger: object | None = None,
    **tables: Any,
) -> AsyncIterator[Relay]:
    """Run a relay with these providers (and other tables of the configuration) for the length of the block.

    ``adapt`` may put another declaration in an adapter's place, with shorter times for instance. ``stranger`` is one more
    plugin.
    """
    document = {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"main": {**APP, "accounts": ["*"]}},
        "api_keys": {"main": {"key": API_KEY, "accounts": ["*"]}},
        "providers": dict(providers or {}),
        **tables,
    }
    plugins = _installed()
    if stranger is not None:
        plugins = load_plugins(ENTRY_POINTS)
        plugins.manager.register(stranger, "stranger")
        plugins.check()
    settings = settings_of(
        document,
        Path("test"),
        {},
        {name: adapter if adapt is None else adapt(adapter) for name, adapter in plugins.adapters().items()},
        Path.read_text,
        plugin_tables=plugins.tables(),
        check_plugins=plugins.check_settings,
    )
    async with httpx.AsyncClient(verify=UNTRUSTING) as client, trio.open_nursery() as nursery:
        http = HttpClient(client)
        relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        yield relay
        relay.stop()


def port_of(relay: Relay) -> int:
    """The port the relay listens on."""
    return relay.addresses[0][1]
