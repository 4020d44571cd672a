"""A lease: the right of one node to hold a provider's sessions.

The store grants a lease for `TTL` seconds, and the holder renews it after a third of that time. The holder stops by its own
monotonic clock, `MARGIN` seconds before the store can grant it to another node. The time counts from before the request was
sent, so that neither a slow answer nor a pause of the process can extend it. A lease that has expired by this clock is never
renewed. The node must acquire a new one, which has another fence.

The lease only chooses the owner. The store checks each write by the owner's token, independent of any clock.
"""

from math import inf

from attrs import define, field, frozen

#: Seconds for which the store grants a lease.
TTL = 3.0
#: Seconds before the end of the lease at which the holder stops.
MARGIN = 0.5
#: Seconds until a failed request is repeated.
AGAIN = 0.25


@frozen
class Request:
    """A request to the store: to renew the lease of ``token``, or to acquire one if that is empty."""

    token: str
    at: float


@define(eq=False)
class Lease:
    """One node's lease of one provider. Times are monotonic seconds of this node."""

    ttl: float = TTL
    token: str = ""
    """Identifies the grant in the store; empty if this node has none."""
    fence: int = 0
    """The number of the grant. Every later grant, to any node, has a higher one."""
    wanted: bool = True
    """False if this node must not, or must no longer, hold the lease."""
    _until: float = field(default=-inf, init=False)
    _next: float = field(default=-inf, init=False)
    _asked: Request | None = field(default=None, init=False)

    @property
    def until(self) -> float:
        """The time at which this node must stop using the provider's sessions."""
        return self._until

    def held(self, now: float) -> bool:
        """Return True while this node may use the provider's sessions."""
        return bool(self.token) and now < self._until

    def deadline(self) -> float:
        """Return the earliest time at which `request` or `lapsed` may return something."""
        until = self._until if self.token else inf
        return min(until, self._next if self.token or self.wanted else inf)

    def lapsed(self, now: float) -> bool:
        """Return True, once, if the lease has expired, so that the provider's sessions must end now."""
        if not self.token or now < self._until:
            return False
        self.lost(now)
        return True

    def lost(self, now: float) -> None:
        """Drop the lease, because it has expired or the store reports that another node has it."""
        self.token, self._until, self._asked = "", -inf, None
        self._next = now + AGAIN

    def request(self, now: float) -> Request | None:
        """Return the request to send to the store now; None if none is due."""
        if now < self._next or not (self.token or self.wanted):
            return None
        self._asked = Request(self.token, now)
        self._next = now + self.ttl / 3
        return self._asked

    def granted(self, request: Request, token: str, fence: int) -> bool:
        """Record the grant that answers ``request``. Return False if it arrived too late to be used."""
        if request is not self._asked:
            return False
        self.token, self.fence = token, fence
        self._until = request.at + self.ttl - MARGIN
        return True

    def refused(self, request: Request, now: float, free_in: float = inf) -> bool:
        """Note that another node has the lease, for up to ``free_in`` seconds. Return True if this node had it before."""
        if request is not self._asked:
            return False
        had = bool(self.token)
        if had:
            self.lost(now)
        self._next = min(self._next, now + max(AGAIN, free_in))
        return had

    def failed(self, request: Request, now: float) -> None:
        """Note that the store did not answer."""
        if request is self._asked:
            self._next = min(self._next, now + AGAIN)

    def hurry(self, now: float) -> None:
        """Make the next request due at once, because the holder is reported to have released the lease."""
        if not self.token:
            self._next = min(self._next, now)
