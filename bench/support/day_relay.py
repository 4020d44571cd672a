"""A relay of `day.py`: one provider over a real socket, with quotes and orders.

    python day_relay.py VENUE_URL STORE_URL COALESCE [NODE ROLE]

It ends with its stdin.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pluggy
import structlog
import trio
from hostile_relay import Taking, document
from relay_under_test import lines_of_stdin

from relay.adapter import Adapter, loads
from relay.app import Relay, freeze_gc
from relay.model.events import Quote
from relay.model.text import from_millis
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import hookimpl
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of


class Day(Taking):
    """Quotes of all symbols, and orders."""

    def decode(self, message: str) -> Iterable[Any]:
        match loads(message):
            case {"s": native, "b": bid, "a": ask, "bq": bid_size, "aq": ask_size, "t": time, "n": stamp}:
                yield Quote(symbol=native, native_symbol=native, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size,
                            timestamp=from_millis(time), data={"sent": stamp})  # fmt: skip
            case _:
                yield from super().decode(message)


class Plugin:
    """Brings the adapter."""

    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Day]


async def main(venue: str, store: str, coalesce: str, node: str = "", role: str = "both") -> None:
    """Serve until stdin ends."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(Plugin(), "bench")
    plugins = Plugins(manager)
    tables = document(venue) | {"store": {"url": store}, "outbox": {"coalesce": float(coalesce)}}
    if node:
        tables["cluster"] = {"node": node, "role": role}
    settings = settings_of(tables, Path("bench"), {}, plugins.adapters(), Path.read_text)
    async with HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        while role != "edge" and any(status["state"] != "up" for status in relay.providers.statuses()):
            await trio.sleep(0.01)
        freeze_gc()
        print(f"listening {relay.addresses[0][1]}", flush=True)
        async for _ in lines_of_stdin():
            """There are no commands."""
        relay.stop()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    trio.run(main, *sys.argv[1:])
