"""A store without persistence, for the demo and for tests: it acknowledges every change at once and stores none."""

from collections.abc import Mapping
from typing import Any

import trio

from relay.histogram import Histogram
from relay.store.interface import Done, Owner, Row


class MemoryStore:
    """A `relay.store.interface.Store` without a file. All state is only in the relay's memory."""

    failure = ""
    keeps = False
    logs = None
    durations: Histogram | None = None

    def write(self, row: Row) -> None:
        """Do nothing: rows are not kept."""

    def commit(self, row: Row, done: Done) -> None:
        """Call ``done`` at once."""
        done("")

    def sync(self, done: Done) -> None:
        """Call ``done`` at once."""
        done("")

    async def run(self, owner: Owner, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Restore nothing, and wait to be cancelled."""
        owner.restore({}, {})
        task_status.started()
        await trio.sleep_forever()

    def status(self) -> Mapping[str, Any]:
        """Return the status, which is always available."""
        return {"kind": "memory", "available": True, "reason": "", "waiting": 0}
