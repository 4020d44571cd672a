"""A token bucket: so many per second, a second's worth at once."""


class TokenBucket:
    """Allows `rate` per second on average and `rate` (at least 1) at once; without a rate everything. Seconds, monotonic."""

    __slots__ = ("_at", "_tokens", "rate")

    def __init__(self, rate: float | None, now: float) -> None:
        self.rate = rate
        """May be changed at any time."""
        self._at = now
        self._tokens = float("inf")

    def take(self, count: int, now: float) -> bool:
        """Whether `count` more are allowed now; if so they are taken."""
        if self.rate is None:
            return True
        self._tokens = min(max(1.0, self.rate), self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
