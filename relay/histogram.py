"""Count durations by size, as Prometheus' histograms do.

The client library's histogram takes a lock and adds to one bucket at a time. This one belongs to the one thread of the relay
and takes many observations of the same duration at once, so it may be used where subscribers are written to.
"""

from bisect import bisect_left
from collections.abc import Sequence

#: Upper bounds of the buckets, in seconds: from one write to a subscriber to a provider that takes its time.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Histogram:
    """Durations in seconds, counted in buckets whose upper bounds are ``bounds``, ascending; more falls into a last one."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all durations."""

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration that was measured once and holds for so many."""
        self._counts[bisect_left(self._bounds, seconds)] += times
        self.total += seconds * times

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound with the number of durations that were not longer, as Prometheus has them."""
        below, found = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            found.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(below)))
        return found
