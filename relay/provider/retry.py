"""How long to wait before the next attempt to connect.

The ceiling grows with every attempt up to a cap and the wait is a random share of it ("full jitter"), so that a thousand
relays cut off together do not come back together. A connection that stays up only briefly does not make it start over:
a provider that accepts and at once drops us must not be hammered. What the provider asks for (Retry-After) is a minimum.
"""

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

from relay.adapter import Backoff
from relay.limits import backoff

#: Seconds; the longest wait that is taken from a provider's recommendation.
LONGEST = 3600.0


class Retry:
    """The waits of one session."""

    def __init__(self, plan: Backoff) -> None:
        self._plan = plan
        self._recommended: tuple[float, ...] = ()
        self._opened_at: float | None = None
        #: Attempts since the last connection that settled.
        self.attempts = 0

    def opened(self, now: float) -> None:
        """A connection is up."""
        self._opened_at = now

    def lost(self, now: float) -> None:
        """The connection is gone, or none came about."""
        if self._opened_at is not None and now - self._opened_at >= self._plan.settle:
            self.attempts = 0
        self._opened_at = None

    def wait(self, uniform: float, *, at_least: float = 0.0, longest: bool = False) -> float:
        """Seconds until the next attempt.

        Args:
            uniform: a random number in [0, 1).
            at_least: what the provider asked for.
            longest: wait the whole cap, as after a rate limit.
        """
        plan = self._plan
        wait = plan.cap if longest else self._ceiling(self.attempts) * (1.0 - plan.jitter * (1.0 - uniform))
        self.attempts += 1
        return max(wait, at_least)

    def recommend(self, seconds: Sequence[float]) -> None:
        """The provider names the waits of the first attempts. What is beyond an hour, or no wait at all, is not taken."""
        self._recommended = tuple(each for each in seconds if 0 < each <= LONGEST)

    def _ceiling(self, attempt: int) -> float:
        """The wait of an attempt before chance takes its share; behind what is recommended it grows on from there."""
        plan, named = self._plan, self._recommended
        if attempt < len(named):
            return named[attempt]
        first, more = (named[-1] * plan.factor, attempt - len(named)) if named else (plan.first, attempt)
        return max(backoff(first, plan.cap, more, factor=plan.factor), named[-1] if named else 0.0)


def retry_after(headers: Mapping[str, str], unix_ns: int) -> float | None:
    """Seconds a ``retry-after`` header asks for, a number or an HTTP date (RFC 9110 10.2.3); None without a usable one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(int(text))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - unix_ns / 1e9)
    except (ValueError, OverflowError):
        return None
