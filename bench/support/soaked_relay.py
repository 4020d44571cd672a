"""A whole relay in a process of its own, for the soak: as `tickrelay serve` runs it, but an hour's waits take seconds.

    python -m support.soaked_relay CONFIG.json

The configuration is a document as `tickrelay.toml` holds it. Prints its port, then serves until its stdin ends,
so that it does not outlive whoever started it. Each line on stdin is answered with the bytes of memory in use, see
`memory_in_use`.
"""

import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from relay.adapter import Adapter, Backoff, Heartbeat
from relay.app import Relay, serve
from relay.hub.history import DepthBook
from relay.model.events import Depth, Stamp
from relay.model.text import from_micros
from relay.plugins.manager import load_plugins
from relay.settings import settings_of


def compressed(adapter: type[Adapter]) -> type[Adapter]:
    """The adapter with its waits shortened: everything else is its own."""
    session = attrs.evolve(
        adapter.session,
        backoff=Backoff(first=0.1, cap=0.5, settle=5),
        heartbeat=attrs.evolve(adapter.session.heartbeat or Heartbeat(), every=0.5),
        silent_after=2.0,
        ack_within=1.0,
    )
    return type(adapter.__name__, (adapter,), {"session": session})


def fill_memories() -> None:
    """Fill what the relay remembers of numbers and times nearly up to its bounds, as an hour of prices would."""
    levels = [(f"{number}.25", f"{number}.5") for number in range(8_000)]
    stamp = Stamp(provider="venue", account=None, received_at=from_micros(0))
    DepthBook().apply(Depth(symbol="BTC/USD", bids=levels, asks=(), snapshot=True), stamp)
    for micros in range(4_000):
        from_micros(micros)


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    ))  # fmt: skip


def memory_in_use() -> int:
    """Collect garbage, and return the bytes of everything that is still allocated: by Python's allocator and by glibc's.

    Other than resident memory this does not count what either has got back and keeps for later, so it falls when objects
    go.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallInfo
    with tempfile.TemporaryFile() as told:
        stderr = os.dup(2)
        os.dup2(told.fileno(), 2)
        sys._debugmallocstats()
        os.dup2(stderr, 2)
        os.close(stderr)
        told.seek(0)
        (line,) = [line for line in told.read().splitlines() if b"# bytes in allocated blocks" in line]
    info = libc.mallinfo2()
    return int(line.rpartition(b"=")[2].replace(b",", b"")) + int(info.uordblks) + int(info.hblkhd)


async def main(path: Path, document: Mapping[str, Any]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    fill_memories()
    plugins = load_plugins()
    adapters = {name: compressed(adapter) for name, adapter in plugins.adapters().items()}
    settings = settings_of(
        document,
        path,
        {},
        adapters,
        Path.read_text,
        plugin_tables=plugins.tables(),
        check_plugins=plugins.check_settings,
    )
    async with trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(serve, settings, plugins)
        print(relay.addresses[0][1], flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            while await stdin.receive_some():
                print(memory_in_use(), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, file := Path(sys.argv[1]), json.loads(file.read_text()))
