"""Relays in one process that are one by a Redis, and the subscribers that watch them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

from relay.app import Relay
from relay.pusher.apps import App
from relay.server.api.health import CONNECTED, shown
from relay.testing.subscriber import Subscriber
from support.deadlines import WITHIN
from support.redis_server import RedisServer
from support.running import API_KEY, APP, port_of, running_relay


@define(eq=False)
class Node:
    """One relay of the cluster."""

    name: str
    relay: Relay
    _scope: trio.CancelScope
    _ended: trio.Event

    @property
    def port(self) -> int:
        return port_of(self.relay)

    @property
    def cluster(self) -> Any:
        """Return the status page's part of the cluster."""
        return self.relay.snapshot()["store"]["cluster"]

    def owns(self, provider: str) -> bool:
        """Return whether this node owns the provider."""
        return any(each["provider"] == provider and each["owns"] for each in self.cluster["providers"])

    def connected(self, provider: str) -> bool:
        """Return whether its sessions with the provider are up."""
        states = [shown(each) for each in self.relay.providers.statuses() if each["provider"] == provider]
        return all(each["state"] == CONNECTED for each in states)

    async def kill(self) -> None:
        """End it without a word, as kill -9 does."""
        self._scope.cancel()
        await self._ended.wait()

    async def stop(self) -> None:
        """End it in order, as SIGTERM does."""
        self.relay.stop()
        await self._ended.wait()


@define(eq=False)
class Heard:
    """One subscriber, and everything that it was told, in order."""

    subscriber: Subscriber
    events: list[Mapping[str, Any]] = field(factory=list)

    def of(self, *types: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["type"] in types]

    async def until(self, holds: Callable[["Heard"], bool]) -> None:
        try:
            await self.subscriber.until(lambda: holds(self), WITHIN)
        except AssertionError as late:
            raise AssertionError(f"{late}; {self.of('staleness', 'gap')}, last {self.events[-1:]}") from None

    async def hears(self, more: int, *types: str) -> None:
        """Wait for so many more events."""
        count = len(self.of(*types)) + more
        await self.until(lambda heard: len(heard.of(*types)) >= count)

    def holes(self) -> list[str]:
        """Return the numbers that are missing without a gap that tells of them, and those that came twice."""
        found, last = [], 0
        for event in self.events:
            first = event.get("from", event["seq"]) if event["type"] == "gap" else event["seq"]
            if event["type"] == "staleness" and event["seq"] == last:
                continue  # told by this node alone
            if event["type"] == "gap" and "from" not in event:
                last = event["seq"]  # a new epoch begins
                continue
            if last and (first > last + 1 or event["seq"] <= last):
                found.append(f"{event['type']} {first}..{event['seq']} after {last}")
            last = max(last, event["seq"])
        return found


class Cluster:
    """A Redis and the nodes on it."""

    def __init__(
        self,
        redis: RedisServer,
        providers: Mapping[str, Any],
        nursery: trio.Nursery,
        lease: float,
        tables: Mapping[str, Any],
    ) -> None:
        self.redis = redis
        self._tables = tables
        self._lease = lease
        self.nodes: list[Node] = []
        self._providers = providers
        self._nursery = nursery

    async def node(self, name: str, *, role: str = "both", redis: str = "") -> Node:
        """Start a node."""
        node: Node = await self._nursery.start(self._run, name, role, redis or self.redis.url)
        self.nodes.append(node)
        return node

    async def _run(self, name: str, role: str, url: str, task_status: trio.TaskStatus[Node]) -> None:
        ended = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with running_relay(
                    self._providers,
                    store={"url": url},
                    cluster={"node": name, "role": role, "lease": self._lease},
                    **{"api_keys": {"main": {"key": API_KEY, "trade": ["*"], "accounts": ["*"]}}, **self._tables},
                ) as relay:
                    task_status.started(Node(name, relay, scope, ended))
                    await relay.stopped()
        finally:
            ended.set()

    async def owner(self, provider: str, *, connected: bool = True, but: Node | None = None) -> Node:
        """Wait until a node owns the provider, and has its sessions; return it."""
        with trio.fail_after(WITHIN):
            while True:
                for node in self.nodes:
                    is_owner = node is not but and not node._ended.is_set() and node.owns(provider)
                    if is_owner and (not connected or node.connected(provider)):
                        return node
                await trio.sleep(0.01)

    def subscribe(self, port: Callable[[], int], channel: str) -> Heard:
        """Subscribe to a channel at whatever port is the one now."""
        app = App(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))
        events: list[Mapping[str, Any]] = []
        heard = Heard(Subscriber(port, app, [channel], heard=lambda _, event: events.append(event)), events)
        self._nursery.start_soon(heard.subscriber.run)
        return heard


#: Seconds of a lease that nothing but its owner's end takes away, and of one that a test waits for to run out. A machine that
#: stands still for longer than the short one makes another relay the owner, which such a test must allow for.
LONG, SHORT = 120.0, 3.0
#: The same where a provider is configured: the first owner on an empty Redis waits for as long as a lease, since another one may
#: have led before Redis lost it.
FIRST = 10.0


@asynccontextmanager
async def cluster(
    redis: RedisServer, providers: Mapping[str, Any], *, lease: float = FIRST, **tables: Any
) -> AsyncIterator[Cluster]:
    """Keep a cluster while inside; ``tables`` are more of every relay's configuration."""
    async with trio.open_nursery() as nursery:
        yield Cluster(redis, providers, nursery, lease, tables)
        nursery.cancel_scope.cancel()
