"""Waits before the next attempt to connect, and before a login is renewed.

The ceiling grows with every attempt up to a cap and the wait is a random share of it ("full jitter"), so that a thousand
relays cut off together do not reconnect at the same time. A short connection does not reset the wait, because a provider
that accepts connections and drops them at once must not be flooded. A wait that the provider requests (Retry-After) is a
minimum. Failed renewals are repeated at growing intervals for the same reason.
"""

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from math import inf

from relay.adapter import Backoff
from relay.limits import backoff

#: The longest wait accepted from a provider's recommendation, in seconds.
LONGEST = 3600.0
#: The share of a login's life after which it is renewed.
RENEW_SHARE = 0.8
#: Least seconds until a renewal. If a login seems to have expired already, the clocks differ, and hurrying does not help.
RENEW_LEAST = 5.0
#: Seconds until a failed renewal is repeated, doubling up to the second number.
RENEW_AGAIN, RENEW_RARELY = 15.0, 300.0


class Retry:
    """The waits of one session."""

    def __init__(self, plan: Backoff) -> None:
        self._plan = plan
        self._recommended: tuple[float, ...] = ()
        self._opened_at: float | None = None
        #: Number of attempts since the last connection that stayed up long enough (`Backoff.settle`).
        self.attempts = 0

    def opened(self, now: float) -> None:
        """Note that a connection is up."""
        self._opened_at = now

    def lost(self, now: float) -> None:
        """Note that a connection has ended or an attempt has failed."""
        if self._opened_at is not None and now - self._opened_at >= self._plan.settle:
            self.attempts = 0
        self._opened_at = None

    def forgive(self) -> None:
        """Do not count the last attempt: the connection ended because it had no topics."""
        self.attempts = max(0, self.attempts - 1)

    def wait(self, uniform: float, *, at_least: float = 0.0, longest: bool = False) -> float:
        """Return the seconds until the next attempt.

        Args:
            uniform: a random number in [0, 1).
            at_least: the wait that the provider requested, in seconds.
            longest: wait the whole cap, as after a rate limit.
        """
        plan = self._plan
        wait = plan.cap if longest else self._ceiling(self.attempts) * (1.0 - plan.jitter * (1.0 - uniform))
        self.attempts += 1
        return max(wait, at_least)

    def recommend(self, seconds: Sequence[float]) -> None:
        """Use the provider's own waits for the first attempts. Waits of more than an hour, or of no time, are ignored."""
        self._recommended = tuple(each for each in seconds if 0 < each <= LONGEST)

    def _ceiling(self, attempt: int) -> float:
        """Return the longest wait before an attempt, in seconds. After the provider's own waits it grows from the last."""
        plan, named = self._plan, self._recommended
        if attempt < len(named):
            return named[attempt]
        first, more = (named[-1] * plan.factor, attempt - len(named)) if named else (plan.first, attempt)
        return max(backoff(first, plan.cap, more, factor=plan.factor), named[-1] if named else 0.0)


class Renewal:
    """The times at which one login is renewed: after `RENEW_SHARE` of its life, so that there is time to try more than once.

    A login without a known expiry is not renewed; the next connection logs in again.
    """

    def __init__(self) -> None:
        self._at = inf
        self._attempts = 0
        #: True while a renewal was begun and no login was learned yet.
        self.pending = False

    def learned(self, now: float, unix_ns: int, expires_at: float | None) -> None:
        """Plan the next renewal after a login; ``expires_at`` is Unix seconds if the provider names a time."""
        self._attempts, self.pending = 0, False
        if expires_at is None:
            self._at = inf
        else:
            self._at = now + max(RENEW_SHARE * (expires_at - unix_ns / 1e9), RENEW_LEAST)

    def take_due(self, now: float) -> bool:
        """Return True once when the login is to be renewed."""
        if now < self._at:
            return False
        self._at, self.pending = inf, True
        self._attempts += 1
        return True

    def failed(self, now: float, at_least: float = 0.0) -> None:
        """Plan another attempt after a failed renewal, at least ``at_least`` seconds later."""
        if self.pending:
            self._at = now + max(backoff(RENEW_AGAIN, RENEW_RARELY, self._attempts - 1), at_least)

    def refused(self) -> None:
        """Plan no further renewal: the login was refused, and the next connection has to request one."""
        self._at, self.pending = inf, False

    def deadline(self) -> float:
        """Return the time at which `take_due` returns True."""
        return self._at


def retry_after(headers: Mapping[str, str], unix_ns: int) -> float | None:
    """Return the seconds of a ``retry-after`` header, which is a number or an HTTP date (RFC 9110 10.2.3); None without
    a usable one.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(int(text))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - unix_ns / 1e9)
    except (ValueError, OverflowError):
        return None
