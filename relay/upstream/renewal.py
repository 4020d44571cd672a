"""When a login has to be renewed: after four fifths of its life, long enough before the end to try more than once."""

from math import inf

SHARE = 0.8
#: A life that is over already means that the clocks disagree; trying more often than this would not change it.
LEAST = 5.0
AGAIN = 15.0


class Renewal:
    """The clock of one login.

    Args:
        lifetime: seconds a login holds where the provider does not say; None when it holds for ever.
    """

    def __init__(self, lifetime: float | None) -> None:
        self._lifetime = lifetime
        self._at = inf

    def learned(self, now: float, unix_ns: int, expires_at: float | None) -> None:
        """A login was learned; ``expires_at`` is Unix seconds where the provider says."""
        lifetime = self._lifetime if expires_at is None else expires_at - unix_ns / 1e9
        self._at = inf if lifetime is None else now + max(SHARE * lifetime, LEAST)

    def due(self, now: float) -> bool:
        """Whether to renew now; asking takes it."""
        if now < self._at:
            return False
        self._at = inf
        return True

    def failed(self, now: float) -> None:
        """The renewal did not succeed: try again soon."""
        self._at = min(self._at, now + AGAIN)

    def deadline(self) -> float:
        """When `due` says yes."""
        return self._at
