"""When a login has to be renewed: after four fifths of its life, long enough before the end to try more than once.

A login that cannot be had now is asked for ever more rarely: a provider in trouble, or one that counts logins, is not helped
by more of them.
"""

from math import inf

from relay.limits import backoff

SHARE = 0.8
#: A life that is over already means that the clocks disagree; trying more often than this would not change it.
LEAST = 5.0
#: Seconds until a renewal that failed is tried again, doubling up to the second number.
AGAIN, RARELY = 15.0, 300.0


class Renewal:
    """The clock of one login.

    Args:
        lifetime: seconds a login holds where the provider does not say; None when it holds for ever.
    """

    def __init__(self, lifetime: float | None) -> None:
        self._lifetime = lifetime
        self._at = inf
        self._attempts = 0
        #: Whether a renewal was begun and no login was learned yet.
        self.pending = False

    def learned(self, now: float, unix_ns: int, expires_at: float | None) -> None:
        """A login was learned; ``expires_at`` is Unix seconds where the provider says."""
        self._attempts, self.pending = 0, False
        lifetime = self._lifetime if expires_at is None else expires_at - unix_ns / 1e9
        self._at = inf if lifetime is None else now + max(SHARE * lifetime, LEAST)

    def due(self, now: float) -> bool:
        """Whether to renew now; asking takes it."""
        if now < self._at:
            return False
        self._at, self.pending = inf, True
        self._attempts += 1
        return True

    def failed(self, now: float, at_least: float = 0.0) -> None:
        """A renewal without a login: try again later, after ``at_least`` seconds where the provider asks for that."""
        if self.pending:
            self._at = now + max(backoff(AGAIN, RARELY, self._attempts - 1), at_least)

    def refused(self) -> None:
        """The login was refused: the next connection has to ask for it."""
        self._at, self.pending = inf, False

    def deadline(self) -> float:
        """When `due` says yes."""
        return self._at
