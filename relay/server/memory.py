"""The memory limits of this process, and a reserve that clients must not use.

There may be several limits: `RLIMIT_AS` and `RLIMIT_DATA` of the process, the limits of its control group (version 1 or 2)
and of each enclosing group, and the machine's memory. The tightest limit is the one with the fewest bytes left.

- If less than the reserve is left, new subscribers are refused: upgrades are answered with 503 and subscriptions with an
  error, both with the name of the setting. Open subscriptions, HTTP requests, commands, providers, the store and the log
  continue.
- If less than half the reserve is left, new connections are refused too, except those reserved for an administrator, and
  the subscribers for which the most bytes are held are closed with 4100.

At a memory limit the system kills the process without notice or makes any allocation fail. Clients must not cause that.
"""

import ctypes
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import trio
from attrs import frozen

SETTING = "server.limits.reserved_memory"
_TRIM_EVERY = 10.0
"""Seconds between two requests to the C library to release free memory, which take some milliseconds each."""
_PAUSE, _NEAR_PAUSE, _NEAR = 1.0, 0.1, 4
"""Seconds between two checks (half a millisecond each): normally, and if less than `_NEAR` times the reserve is left."""
_PAGE = resource.getpagesize()
_UNLIMITED = 1 << 60
"""Version 1 of control groups writes "no limit" as a number near 2**63."""


@frozen
class MemoryLimit:
    """One limit: its name, and the allowed and used bytes."""

    name: str
    allowed: int
    taken: int

    @property
    def left(self) -> int:
        """Bytes left until the limit."""
        return max(0, self.allowed - self.taken)


def memory_limits(root: Path = Path("/"), process: str = "self") -> Sequence[MemoryLimit]:
    """Return the limits of this process's memory. The result is empty on systems other than Linux."""
    limits: list[MemoryLimit] = []
    for read in (_process_limits, _group_limits, _machine_limits):
        with suppress(OSError, ValueError, KeyError, IndexError):  # a limit that cannot be read is ignored
            limits.extend(read(root, process))
    return limits


def _process_limits(root: Path, process: str) -> Iterator[MemoryLimit]:
    pages = [int(field) for field in (root / "proc" / process / "statm").read_text().split()]
    for name, number, taken in (
        ("RLIMIT_AS", resource.RLIMIT_AS, pages[0]),
        ("RLIMIT_DATA", resource.RLIMIT_DATA, pages[5]),
    ):
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            yield MemoryLimit(name, soft, taken * _PAGE)


def _group_limits(root: Path, process: str) -> Iterator[MemoryLimit]:
    """Yield the limits of the control groups. Cached pages of files do not count as used: the kernel can reclaim them."""
    for line in (root / "proc" / process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        names: tuple[str, ...]
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.high")
            current, cached, shared = "memory.current", "file", "shmem"
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes",)
            current, cached, shared = "memory.usage_in_bytes", "total_cache", "total_shmem"
        else:
            continue
        group = mount / path.lstrip("/")
        if not group.is_dir():  # in a container the mount point is the group itself
            group = mount
        for folder in (group, *group.parents):
            if folder != mount and mount not in folder.parents:
                break
            allowed = min((_allowed(folder / name) for name in names), default=_UNLIMITED)
            if allowed < _UNLIMITED:
                stat = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
                free = int(stat.get(cached, 0)) - int(stat.get(shared, 0))
                yield MemoryLimit("the control group", allowed, int((folder / current).read_text()) - max(0, free))


def _allowed(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max", or a group without this limit
        return _UNLIMITED


def _machine_limits(root: Path, process: str) -> Iterator[MemoryLimit]:
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines}
    total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    yield MemoryLimit("the machine", total, total - free)


class MemoryReserve:
    """Decides by the limits whether clients are accepted. Call `look` every `pause` seconds."""

    def __init__(
        self,
        wanted: int,
        limits: Callable[[], Iterable[MemoryLimit]] = memory_limits,
        trim: Callable[[], object] = lambda: trim(),
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """Reserve `wanted` bytes, but at most half of the memory that is left now. With 0, no client is refused.

        `trim` makes the C library release free memory. It is called before any client is refused.
        """
        self._limits, self._trim, self._now = limits, trim, now
        self._trimmed = -_TRIM_EVERY
        self.tightest = self._read()
        """The limit with the fewest bytes left; None if the system has none that can be read."""
        self.reserve = min(wanted, self.tightest.left // 2) if self.tightest is not None else 0
        """The reserve in bytes."""
        self.short = 0
        """Bytes by which the memory left is less than the reserve."""

    @property
    def refuses_subscribers(self) -> str | None:
        """The setting because of which new subscribers are refused at present; None if they are accepted."""
        return SETTING if self.short else None

    @property
    def refuses_connections(self) -> str | None:
        """The setting because of which new connections are refused at present; None if they are accepted."""
        return SETTING if self.excess else None

    @property
    def excess(self) -> int:
        """Bytes missing from half the reserve, to be freed by closing the subscribers that hold the most."""
        return max(0, self.short - self.reserve // 2)

    @property
    def pause(self) -> float:
        """Seconds until the next check, fewer if the reserve may be reached soon."""
        return _NEAR_PAUSE if self.tightest is not None and self.tightest.left < _NEAR * self.reserve else _PAUSE

    def look(self) -> None:
        """Read the limits again."""
        if not self.reserve:
            return
        self._note()
        if self.short and self._now() >= self._trimmed + _TRIM_EVERY:
            self._trimmed = self._now()
            self._trim()
            self._note()

    def _note(self) -> None:
        self.tightest = self._read()
        self.short = 0 if self.tightest is None else max(0, self.reserve - self.tightest.left)

    def _read(self) -> MemoryLimit | None:
        return min(self._limits(), key=lambda limit: limit.left, default=None)


def trim() -> None:
    """Make the C library return free memory to the system, if it is glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
