"""A store that ends with the process, for the demo and for tests: everything is written at once, nothing is kept."""

from collections.abc import Mapping
from typing import Any

import trio

from relay.histogram import Histogram
from relay.store.interface import Done, Owner, Row


class MemoryStore:
    """`relay.store.interface.Store` without a file. The relay's own memory holds what there is to know."""

    failure = ""
    keeps = False
    logs = None
    durations: Histogram | None = None

    def write(self, row: Row) -> None:
        """Keep nothing: a restart would find nothing anyway."""

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
        """Return that it is available."""
        return {"kind": "memory", "available": True, "reason": "", "waiting": 0}
