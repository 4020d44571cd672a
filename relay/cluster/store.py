"""The store of a node: an implementation of `relay.store.interface.Store` for several relays.

A row belongs to a provider. Only the provider's owner writes it, in one script with its next batch. Writes of any other node
are dropped, and its commits are refused with the reason. Topics are in the provider's logs.
"""

from collections.abc import Mapping
from typing import Any

import trio

from relay.cluster.app_node import AppNode
from relay.cluster.node import ClusterNode
from relay.cluster.topics import provider_of
from relay.histogram import Histogram
from relay.store.interface import Done, Owner, Row


class ClusterStore:
    """`relay.store.interface.Store` of a `ClusterNode`, which is set after construction."""

    keeps = True
    logs = None
    durations: Histogram | None = None
    node: ClusterNode
    apps: AppNode

    @property
    def failure(self) -> str:
        """The reason why Redis cannot be used at present; empty while it works."""
        return self.node.redis.failure

    def write(self, row: Row) -> None:
        """Write a row with its provider's next batch."""
        if (provider := self.node.providers.get(provider_of(row))) is not None:
            provider.write(row)

    def commit(self, row: Row, done: Done) -> None:
        """Write a new row. ``done`` gets a reason if this node does not own the provider or the key exists."""
        provider = self.node.providers.get(provider_of(row))
        if provider is None:
            done(f"no provider is named {provider_of(row)}")
        else:
            provider.commit(row, done)

    def sync(self, done: Done) -> None:
        """Call ``done`` when all earlier changes are in Redis."""
        busy = [provider for provider in self.node.providers.values() if provider.busy]
        left, said = len(busy), ""

        def one(failure: str) -> None:
            nonlocal left, said
            left, said = left - 1, said or failure
            if left <= 0:
                done(said)

        for provider in busy:
            provider.sync(one)
        if not busy:
            done("")

    async def run(  # noqa: ASYNC128 (the node says that it has started)
        self, owner: Owner, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the node until cancelled. The rows in the store are restored when this node becomes an owner."""
        owner.restore({}, {})
        async with trio.open_nursery() as nursery:
            await nursery.start(self.apps.run)
            await nursery.start(self.node.run)
            task_status.started()

    def status(self) -> Mapping[str, Any]:
        """Return its section of the status page."""
        waiting = sum(provider.busy for provider in self.node.providers.values())
        return {
            "kind": "redis",
            "available": not self.failure,
            "reason": self.failure,
            "waiting": waiting,
            "cluster": {**self.node.status(), "applications": self.apps.status()},
        }
