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

from relay.adapter import (
    Adapter,
    Backoff,
    CommandReply,
    Heartbeat,
    Offer,
    Outgoing,
    Session,
    Unknown,
    dumps,
    loads,
)
from relay.app import Relay, freeze_gc
from relay.model.commands import PlaceOrder
from relay.model.events import Quote
from relay.model.text import from_millis
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import hookimpl
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of

API_KEY = "an-api-key-of-the-bench"


class Day(Adapter):
    """Quotes of all symbols, and orders."""

    name = "day"
    session = Session(
        url="ws://127.0.0.1:1/", heartbeat=Heartbeat(every=None), backoff=Backoff(first=0.1, cap=0.1, jitter=0)
    )
    offers = (Offer(kind="quote", example={"symbol": "S0"}), Offer(kind="account", visibility="presence"))
    commands = (PlaceOrder,)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        if isinstance(outgoing, PlaceOrder):
            yield dumps({"place": outgoing.id})

    def decode(self, message: str) -> Iterable[Any]:
        match loads(message):
            case {"s": native, "b": bid, "a": ask, "bq": bid_size, "aq": ask_size, "t": time, "n": stamp}:
                yield Quote(symbol=native, native_symbol=native, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size,
                            timestamp=from_millis(time), data={"sent": stamp})  # fmt: skip
            case {"ok": str(id)}:
                yield CommandReply(id, result={"order_id": id})
            case other:
                yield Unknown(other)


class Plugin:
    """Brings the adapter."""

    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Day]


def document(venue: str, store: str, coalesce: float, node: str, role: str) -> dict[str, Any]:
    """The configuration; everything that bounds a client has its default."""
    return {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"bench": {"id": "1", "key": "bench", "secret": "a-secret-of-the-bench"}},
        "api_keys": {"bench": {"key": API_KEY, "accounts": ["*"], "trade": ["*"]}},
        "providers": {"day": {"adapter": "day", "url": venue, "accounts": {"main": {}}}},
        "store": {"url": store},
        "outbox": {"coalesce": coalesce},
        **({"cluster": {"node": node, "role": role}} if node else {}),
    }


async def main(venue: str, store: str, coalesce: str, node: str = "", role: str = "both") -> None:
    """Serve until stdin ends."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(Plugin(), "bench")
    plugins = Plugins(manager)
    tables = document(venue, store, float(coalesce), node, role)
    settings = settings_of(tables, Path("bench"), {}, plugins.adapters(), Path.read_text)
    async with HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        while role != "edge" and any(status["state"] != "up" for status in relay.providers.statuses()):
            await trio.sleep(0.01)
        freeze_gc()
        print(f"listening {relay.addresses[0][1]}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        relay.stop()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    trio.run(main, *sys.argv[1:])
