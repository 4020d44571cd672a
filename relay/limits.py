"""Bounds for memory, rates and retries, each written once. Pure: times are monotonic seconds that the caller passes."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from math import inf
from typing import Any, TypeVar

__all__ = ["BoundedDict", "LineSampler", "TokenBucket", "backoff"]

Key = TypeVar("Key")
Value = TypeVar("Value")

#: Float rounding must not make tokens that are due look as if they were missing.
_EPSILON = 1e-9


class BoundedDict(OrderedDict[Key, Value]):
    """A dict of at most `most` items that forgets the one which was set the longest ago; setting a key again renews it.

    An `OrderedDict`, since a plain dict finds its first key only by scanning all that were deleted before it.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)

    def resize(self, most: int) -> None:
        """Change the limit to `most` items; drop the oldest beyond it."""
        self.most = most
        while len(self) > most:
            self.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # OrderedDict would rebuild a copy without its size.
        items: Iterator[tuple[Key, Value]] = iter(self.items())
        return type(self), (self.most,), None, None, items


class TokenBucket:
    """A rate limit that starts full: `rate` tokens a second on average, `burst` of them at once.

    Without a `burst` that is a second's worth, at least 1. A cost above the capacity needs a full bucket and leaves it in
    debt. Without a rate everything is allowed.
    """

    __slots__ = ("_at", "_burst", "_tokens", "rate")

    def __init__(self, rate: float | None, burst: float | None = None) -> None:
        self.rate = rate
        """May be changed at any time."""
        self._burst = burst
        self._at = -inf
        self._tokens = 0.0

    @property
    def capacity(self) -> float:
        """The most tokens there can be."""
        return inf if self.rate is None else self._burst or max(1.0, self.rate)

    def free(self, now: float) -> float:
        """Return how many tokens there are at `now`."""
        if self.rate is None:
            return inf
        gained = (now - self._at) * self.rate if now > self._at else 0.0
        return min(self.capacity, self._tokens + gained)

    def ready_at(self, cost: float, now: float) -> float:
        """Return when `cost` tokens can be taken; `now` if they can be at once."""
        missing = min(cost, self.capacity) - self.free(now)
        return now if self.rate is None or missing <= _EPSILON else now + missing / self.rate

    def draw(self, cost: float, now: float) -> None:
        """Take `cost` tokens even if there are fewer: the bucket is then in debt."""
        if self.rate is not None:
            self._tokens = self.free(now) - cost
            self._at = max(now, self._at)

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` tokens and return True if there are enough, else leave the bucket alone and return False."""
        if self.ready_at(cost, now) > now:
            return False
        self.draw(cost, now)
        return True


class LineSampler:
    """Limits repeated log lines: of each kind, the first `most` in `period` seconds are written, the others counted.

    Args:
        most: most lines of one kind; 0 writes all.
        kinds: most kinds that are remembered. The counts of dropped kinds are reported without their names.
    """

    def __init__(self, most: int, period: float = 60.0, kinds: int = 1000) -> None:
        self._most = most
        self._period = period
        self._kinds = kinds
        self._windows: OrderedDict[Hashable, list[float]] = OrderedDict()  # kind -> [end of its period, its lines]
        self._forgotten = 0
        self.withheld = 0
        """Lines that were not written, of all kinds."""

    def admits(self, kind: Hashable, now: float) -> bool:
        """Count one line; return True if it is to be written."""
        if self._most <= 0:
            return True
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= self._kinds:
                self._forgotten += self._not_written(self._windows.popitem(last=False)[1])
            self._windows[kind] = window = [now + self._period, 0]
        window[1] += 1
        if window[1] <= self._most:
            return True
        self.withheld += 1
        return False

    def take_withheld(self, now: float = inf) -> list[tuple[Hashable | None, int]]:
        """End the periods that are over; return the kinds with lines that were not written, and their number.

        None stands for the kinds that were dropped.
        """
        taken: list[tuple[Hashable | None, int]] = []
        while self._windows and (first := next(iter(self._windows.items())))[1][0] <= now:
            kind, window = first
            del self._windows[kind]
            if count := self._not_written(window):
                taken.append((kind, count))
        if self._forgotten:
            taken.append((None, self._forgotten))
            self._forgotten = 0
        return taken

    def _not_written(self, window: list[float]) -> int:
        return max(0, int(window[1]) - self._most)


def backoff(
    first: float, cap: float, attempt: int, *, factor: float = 2.0, jitter: float = 0.0, uniform: float = 1.0
) -> float:
    """Return the seconds to wait before retry number `attempt`, counted from 0.

    The wait is ``first * factor**attempt``, at most `cap`. Of it, a share of up to `jitter` is left to chance: `uniform` is
    a random number in [0, 1), and 1.0 gives the whole wait.
    """
    return min(cap, first * factor ** min(attempt, 64)) * (1.0 - jitter * (1.0 - uniform))
