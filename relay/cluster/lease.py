"""A lease: which node holds a provider's sessions.

The store grants it for `TTL` seconds and it is renewed each third of them. The holder stops by its own monotonic clock,
`MARGIN` seconds before the store can give it to another node: the time counts from before the request was sent, so neither
a slow answer nor a pause of the process can make it longer. A lease that has run out here is never renewed; it is asked for
again, and has another fence then.

The lease only chooses the owner. What the owner writes is checked by its token in the store, whatever a clock says.
"""

from math import inf

from attrs import define, field, frozen

#: Seconds for which the store grants a lease.
TTL = 3.0
#: Seconds before the end of these at which the holder stops.
MARGIN = 0.5
#: Seconds until a request that failed is made again.
AGAIN = 0.25


@frozen
class Request:
    """A request to the store: to renew the lease of ``token``, or to acquire it where that is empty."""

    token: str
    at: float


@define(eq=False)
class Lease:
    """One node's lease of one provider. Times are monotonic seconds of this node."""

    ttl: float = TTL
    token: str = ""
    """Names the grant in the store; empty where this node has none."""
    fence: int = 0
    """The number of the grant; every later one of anybody is higher."""
    wanted: bool = True
    """False for a node that may not hold it (any more)."""
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
        """Return the time of the next call of `request` or `lapsed` that may bring something."""
        until = self._until if self.token else inf
        return min(until, self._next if self.token or self.wanted else inf)

    def lapsed(self, now: float) -> bool:
        """Return True, once, if the lease has run out: the provider's sessions must end now."""
        if not self.token or now < self._until:
            return False
        self.lost(now)
        return True

    def lost(self, now: float) -> None:
        """Give the lease up: it has run out, or the store says that it is another node's."""
        self.token, self._until, self._asked = "", -inf, None
        self._next = now + AGAIN

    def request(self, now: float) -> Request | None:
        """Return what is to be asked of the store now; None where nothing is."""
        if now < self._next or not (self.token or self.wanted):
            return None
        self._asked = Request(self.token, now)
        self._next = now + self.ttl / 3
        return self._asked

    def granted(self, request: Request, token: str, fence: int) -> bool:
        """Take the grant of ``request``; False where it comes too late to be of use."""
        if request is not self._asked:
            return False
        self.token, self.fence = token, fence
        self._until = request.at + self.ttl - MARGIN
        return True

    def refused(self, request: Request, now: float, free_in: float = inf) -> bool:
        """Note that another node has the lease, which may be free in ``free_in`` seconds; True if this node had it."""
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
        """Ask at once: the holder is said to have released the lease."""
        if not self.token:
            self._next = min(self._next, now)
