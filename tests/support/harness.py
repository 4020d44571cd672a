"""A relay and an application's own server, and clients in front of them."""

import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from attrs import define

from relay.app import Relay
from support.app_server import AppServer, Sign, app_server
from support.cable import Cable, cable
from support.client import Client
from support.clients import client_of
from support.cluster import cluster
from support.deadlines import WITHIN
from support.redis_server import redis_server
from support.running import APP, port_of, running_relay

#: Run each relay of a stage as two that are one, with every other connection at the second one.
TWO_RELAYS = "TICKRELAY_TWO_RELAYS" in os.environ


@define
class Stage:
    """Whoever is on it. Clients live until the stage ends."""

    relay: Relay
    server: AppServer
    browser_port: int
    _clients: AsyncExitStack
    _front: Cable | None = None

    @property
    def port(self) -> int:
        """The relay's."""
        return port_of(self.relay) if self._front is None else self._front.port

    async def client(self, library: str) -> Client:
        """A client of this library that is not connected yet."""
        return await self._clients.enter_async_context(client_of(library, self.browser_port))

    async def connected(self, library: str, user_id: str = "ada", *, port: int = 0, **options: Any) -> Client:
        """A connected client of this library, whom the application's server takes for the user."""
        client = await self.client(library)
        await self.connect(client, user_id, port=port, **options)
        return client

    async def connect(
        self,
        client: Client,
        user_id: str = "ada",
        *,
        params: dict[str, str] | None = None,
        port: int = 0,
        **options: Any,
    ) -> str:
        """Connect the client, through ``port`` where it is given; returns its socket id."""
        signing = self.server.options(user_id, **(params or {}))
        return await client.connect(port or self.port, APP["key"], **{"secret": APP["secret"], **signing, **options})

    async def cable(self) -> Cable:
        """A cable to the relay, laid until the stage ends."""
        return await self._clients.enter_async_context(cable(self.port))

    def publish(self, channel: str, data: object, *, name: str = "greeting", socket_id: str | None = None) -> None:
        """Publish an event as the application's server would, by the hub itself."""
        now = trio.current_time()
        self.relay.hub.trigger(APP["id"], [channel], name, json.dumps(data), socket_id=socket_id, now=now)

    async def until_empty(self) -> None:
        """Wait until the relay holds no connection, and see that nothing else is left of them."""
        with trio.fail_after(WITHIN):
            while self.relay.hub.connections:
                await trio.sleep(0.01)
        for app in self.relay.hub.snapshot()["apps"].values():
            assert (app["users"], app["channels"]) == (0, {})


@asynccontextmanager
async def stage(
    browser_port: int = 0,
    *,
    sign_channel: Sign | None = None,
    sign_user: Sign | None = None,
    tables: dict[str, Any] | None = None,
    webhooks: bool = False,
    **app: Any,
) -> AsyncIterator[Stage]:
    """Set up a relay whose one app has these settings; client events are on unless they say otherwise.

    With ``webhooks`` the application's server is told everything; who leaves is not waited for.
    """
    tables = {"apps": {"main": {**APP, "client_events": True, **app}}, **(tables or {})}
    async with app_server(sign_channel, sign_user) as server:
        if webhooks:
            endpoint = {"app": APP["id"], "url": f"http://127.0.0.1:{server.port}/webhooks", "batch_wait": 0}
            tables["plugins"] = {"webhooks": {"leave_delay": 0, "endpoints": {"server": endpoint}}}
        if TWO_RELAYS:
            async with two_relays(tables) as (relay, front), AsyncExitStack() as clients:
                yield Stage(relay, server, browser_port, clients, front)
            return
        async with running_relay(**tables) as relay, AsyncExitStack() as clients:
            yield Stage(relay, server, browser_port, clients)


@asynccontextmanager
async def two_relays(tables: dict[str, Any]) -> AsyncIterator[tuple[Relay, Cable]]:
    """Run two relays on one Redis, and a cable whose connections go to the one and the other in turn."""
    providers = tables.pop("providers", {})
    with TemporaryDirectory() as directory:
        async with redis_server(Path(directory)) as redis, cluster(redis, providers, lease=3.0, **tables) as together:
            ports = [(await together.node(name)).port for name in "ab"]
            async with cable(ports[0]) as front:
                front.turns = itertools.cycle(ports)
                yield together.nodes[0].relay, front
