"""Sockets nobody needs a task for: one epoll of our own, which one task watches through trio.

A task that waits for an idle subscriber costs four kilobytes and, whenever something comes, a switch to it. Here a socket
costs one entry in a dictionary, and what comes is handled by a plain call.

- `ready` is called when the socket has something to read, or has ended, and again until that has been read. It must not
  block, and what it raises is its own affair: it is logged, and the others are served.
- A socket is `forget`-ed before it is closed or given to anybody else.
- At most `_AT_ONCE` sockets are served before trio's other tasks have their turn.

epoll is Linux's; elsewhere `Poller.available` is False, and subscribers have a task each.
"""

import contextlib
import select
from typing import Protocol

import structlog
import trio

log = structlog.get_logger()

_AT_ONCE = 128


class Watched(Protocol):
    """Whoever has a socket here."""

    def ready(self) -> None:
        """The socket has something to read, or has ended."""
        ...


class Poller:
    """The sockets, by file descriptor. `run` must be running for anything to happen."""

    available = hasattr(select, "epoll")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

    def __len__(self) -> int:
        """Sockets watched."""
        return len(self._watched)

    def watch(self, fd: int, watched: Watched) -> None:
        """From now on `watched` is told, and nobody else who was before."""
        if fd not in self._watched:
            self._epoll.register(fd, select.EPOLLIN)
        self._watched[fd] = watched

    def forget(self, fd: int) -> None:
        """Nobody is told any more."""
        if self._watched.pop(fd, None) is not None:
            with contextlib.suppress(
                OSError
            ):  # closed already, which it should not be: the kernel has forgotten it then
                self._epoll.unregister(fd)

    async def run(self) -> None:
        """Tell them, until cancelled; then everybody is forgotten."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._tell()
        finally:
            self._watched.clear()
            self._epoll.close()

    def _tell(self) -> None:
        for fd, _ in self._epoll.poll(0, _AT_ONCE):
            watched = self._watched.get(fd)  # somebody told before may have closed it
            if watched is None:
                continue
            try:
                watched.ready()
            except Exception:
                log.exception("serving a socket failed")
                self.forget(fd)
