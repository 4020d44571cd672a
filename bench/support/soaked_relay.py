"""A whole relay in a process of its own, for the soak: as `tickrelay serve` runs it, but an hour's waits take seconds.

    python -m support.soaked_relay CONFIG.json

The configuration is a document as `tickrelay.toml` holds it. Prints its port, then serves until its stdin ends,
so that it does not outlive whoever started it. Each line on stdin is answered with a line of JSON, see `memory`.
"""

import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
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


def memory() -> Mapping[str, int]:
    """Collect garbage, and return where the memory is, in bytes.

    Returns:
        in_use: everything that is still allocated, by Python's allocator and by glibc's. Other than resident memory it
            falls when objects go.
        python_free, glibc_free: what either has got back, and keeps for later.
        trimmable: how much of what glibc keeps lies at the end of its heap, so that it could give it back.
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
        lines = told.read().decode().splitlines()
    allocated = _told(lines, "# bytes in allocated blocks")
    arenas = next(line for line in lines if "arenas * " in line)
    info = libc.mallinfo2()
    return {
        "in_use": allocated + info.uordblks + info.hblkhd,
        "python_free": int(arenas.rpartition("=")[2].replace(",", "")) - allocated,
        "glibc_free": info.fordblks,
        "trimmable": info.keepcost,
    }


def _told(lines: Iterable[str], what: str) -> int:
    (line,) = (line for line in lines if what in line)
    return int(line.rpartition("=")[2].replace(",", ""))


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
                print(json.dumps(memory()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, file := Path(sys.argv[1]), json.loads(file.read_text()))
