"""The relay of `relay_under_test.py` with a provider that takes orders, in the same process.

    python hostile_relay.py

The provider accepts every order at once, so that what a command takes is the relay's own time. Commands on stdin are those of
`relay_under_test.py`.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pluggy
import structlog
import trio
from orders import API_KEY
from relay_under_test import APP, Source

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
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import hookimpl
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of
from relay.testing.simulator import Link, Simulator


class Taking(Adapter):
    """Orders over the WebSocket, and nothing else."""

    name = "bench"
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
            case {"ok": str(id)}:
                yield CommandReply(id, result={"order_id": id})
            case other:
                yield Unknown(other)


class AcceptingVenue(Simulator):
    """Accepts every order."""

    def received(self, link: Link, message: str | bytes) -> None:
        link.send(dumps({"ok": loads(message)["place"]}))


class TakingSource(Source):
    """The source, with the adapter that takes orders."""

    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Taking]


def document(url: str) -> dict[str, Any]:
    """The configuration; everything that bounds a client has its default."""
    return {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"bench": {"id": APP, "key": "bench", "secret": "a-secret-of-the-bench"}},
        "api_keys": {"bench": {"key": API_KEY, "accounts": ["*"], "trade": ["*"]}},
        "providers": {"p0": {"adapter": "bench", "url": url, "accounts": {"main": {}}}},
        "store": {"url": "memory:"},
    }


async def main() -> None:
    """Serve until stdin ends."""
    source, venue = TakingSource(), AcceptingVenue()
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(source, "bench")
    plugins = Plugins(manager)
    async with venue.serve() as address, HttpClient() as http, trio.open_nursery() as nursery:
        settings = settings_of(document(address.ws), Path("bench"), {}, plugins.adapters(), Path.read_text)
        source.relay = relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        while any(status["state"] != "up" for status in relay.providers.statuses()):
            await trio.sleep(0.01)
        freeze_gc()
        print(f"listening {relay.addresses[0][1]}", flush=True)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    trio.run(main)
