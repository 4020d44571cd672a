"""Watch idle sockets without a task for each of them: one epoll set that one task waits for through trio.

- `ready` is called when the socket has something to read or has ended, and again until that has been read. It must not
  block. If it raises, the exception is logged, that socket is no longer watched, and the others are served.
- A socket is `forget`-ed before it is closed.
- Sockets are served for `SLICE` seconds, and at most `_AT_ONCE` of them, before trio's other tasks run.

A task that waits for an idle subscriber takes a task switch whenever something arrives; here a socket takes one entry of a
dictionary. An idle subscriber takes 1.6 kB of the process instead of 4.3 (`bench/connections.py`), and hearing from it takes
0.38 of the CPU time (`bench/shortcuts.py`). epoll is Linux's: elsewhere `Poller` falls back to a task per socket (`_Tasks`).
"""

import contextlib
import select
import time
from collections.abc import Callable
from typing import Protocol

import structlog
import trio

log = structlog.get_logger()

SLICE = 0.001
"""Seconds for which subscribers' requests are handled before trio's other tasks run. One request may take longer."""
PASSES = 4
"""Passes of trio's scheduler between two slices of long work. A command needs about ten to be executed and answered."""
_AT_ONCE = 128


class Watched(Protocol):
    """An object that has a socket in the poller."""

    def ready(self) -> None:
        """Handle that the socket has something to read, or has ended."""
        ...


class Poller:
    """Watched sockets by file descriptor. Nothing is reported unless `run` is running."""

    def __init__(self, *, epoll: bool = hasattr(select, "epoll")) -> None:
        self._source: _Epoll | _Tasks = _Epoll() if epoll else _Tasks()
        self._watched: dict[int, Watched] = {}

    def __len__(self) -> int:
        """Return the number of watched sockets."""
        return len(self._watched)

    def watch(self, fd: int, watched: Watched) -> None:
        """Call `watched.ready` from now on. `fd` must not be watched already."""
        self._source.add(fd)
        self._watched[fd] = watched

    def forget(self, fd: int) -> None:
        """Stop watching `fd`, if it is watched."""
        if self._watched.pop(fd, None) is not None:
            self._source.remove(fd)

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            await self._source.run(self._ready)
        finally:
            self._watched.clear()

    def _ready(self, fd: int) -> None:
        watched = self._watched.get(fd)
        if watched is None:  # forgotten by another one that was served in the same round
            return
        try:
            watched.ready()
        except Exception:
            log.exception("serving a socket failed")
            self.forget(fd)


class _Epoll:
    """Sockets in an epoll set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # the kernel forgets a socket that was closed first
            self._epoll.unregister(fd)

    async def run(self, ready: Callable[[int], None]) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                ends = time.perf_counter() + SLICE
                for fd, _ in self._epoll.poll(0, _AT_ONCE):
                    if time.perf_counter() > ends:
                        await trio.lowlevel.checkpoint()
                        ends = time.perf_counter() + SLICE
                    ready(fd)
        finally:
            self._epoll.close()


class _Tasks:
    """Sockets with a task each, where there is no epoll."""

    def __init__(self) -> None:
        self._scopes: dict[int, trio.CancelScope] = {}
        self._new, self._added = trio.open_memory_channel[int](float("inf"))

    def add(self, fd: int) -> None:
        self._scopes[fd] = trio.CancelScope()
        self._new.send_nowait(fd)

    def remove(self, fd: int) -> None:
        self._scopes.pop(fd).cancel()

    async def run(self, ready: Callable[[int], None]) -> None:
        async with trio.open_nursery() as nursery:
            async for fd in self._added:
                if fd in self._scopes:
                    nursery.start_soon(self._watch, fd, self._scopes[fd], ready)

    async def _watch(self, fd: int, scope: trio.CancelScope, ready: Callable[[int], None]) -> None:
        with scope:
            while True:
                await trio.lowlevel.wait_readable(fd)
                ready(fd)
