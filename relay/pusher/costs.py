"""Prices of clients' requests, and the budgets from which they are paid.

Every request of a client has a price in units; a unit is about 10 microseconds of the relay's time. The price is charged to
three budgets: the connection's, its address' and its app's. A budget refills at its rate up to its burst. The price of the
work done is charged afterwards: a request is handled while no budget is exceeded, and may overdraw the budgets by its own
price, which the app's limits bound.

A connection that exceeds a budget is, in this order,

1. slowed: its next message is read when the budget allows it, for at most `Costs.slowed` seconds in all;
2. refused: its requests are answered with an error that names the limit;
3. closed with 4100, after `Costs.refusals` refusals.

This sequence starts again once its own budget is full. Times are monotonic seconds.
"""

from collections import Counter
from typing import Any, Literal

from attrs import field, frozen, validators

from relay.limits import BoundedDict

__all__ = ["ClientBudget", "ClientBudgets", "Costs", "RequestPrices", "Spending"]

_not_negative: Any = validators.ge(0)


@frozen(kw_only=True)
class RequestPrices:
    """Prices of clients' requests in units. A unit is about 10 microseconds of the relay's CPU time."""

    connection: float = field(default=10, validator=_not_negative)
    """A new connection; not paid from its own budget."""
    message: float = field(default=1, validator=_not_negative)
    """A message of any kind, pings too."""
    kilobyte: float = field(default=2, validator=_not_negative)
    """1,024 bytes received, and again 1,024 bytes of whole messages, which may have been compressed."""
    subscribe: float = field(default=4, validator=_not_negative)
    """A subscription, in addition to the message."""
    unsubscribe: float = field(default=2, validator=_not_negative)
    """Leaving a channel, in addition to the message."""
    event: float = field(default=0.5, validator=_not_negative)
    """Each past event, state or snapshot that a new subscriber is sent (`rewind`, `resume`), and each of a history page."""
    sent_kilobyte: float = field(default=0.2, validator=_not_negative)
    """1,024 bytes of past events."""
    encoded_kilobyte: float = field(default=2.5, validator=_not_negative)
    """1,024 bytes that are encoded for it: the book of a depth channel, or the present state of an account."""
    member: float = field(default=0.2, validator=_not_negative)
    """Each member in the list that a new member of a presence channel receives."""
    recipient: float = field(default=0.05, validator=_not_negative)
    """Each subscriber that receives a joining or leaving member, a new count or a client event."""
    sign_in: float = field(default=10, validator=_not_negative)
    """A sign-in, in addition to the message."""
    client_event: float = field(default=2, validator=_not_negative)
    """A client event, in addition to the message and the recipients."""
    page: float = field(default=5, validator=_not_negative)
    """A page of history or of channels, the status or the metrics over HTTP, in addition to its entries."""
    counted: float = field(default=0.3, validator=_not_negative)
    """Each stream and each occupied channel that the status or the metrics count."""
    catalog: float = field(default=20, validator=_not_negative)
    """A request for the catalog or a session, in addition to its entries; a search of symbols, in addition to its results.
    """
    symbol: float = field(default=0.1, validator=_not_negative)
    """Each symbol that a search compares with its text."""


@frozen(kw_only=True)
class Costs:
    """Budgets of clients' requests, in units of `[costs.prices]`: at once (burst) and per second. Rate 0: no limit.

    An ordinary page never meets them: 200 channels joined at once with 20 rewinds of 100 events are some 2,400 units, ten
    client events a second some 40 a second.
    """

    connection_rate: float = field(default=2_500, validator=_not_negative)
    """Units per second of one connection."""
    connection_burst: float = field(default=10_000, validator=_not_negative)
    """Units of one connection at once."""
    address_rate: float = field(default=10_000, validator=_not_negative)
    """Units per second of all connections from one address (IPv6: one /64). Loopback addresses have no such budget."""
    address_burst: float = field(default=200_000, validator=_not_negative)
    """Units of one address at once."""
    app_rate: float = field(default=50_000, validator=_not_negative)
    """Units per second of all connections of one app."""
    app_burst: float = field(default=1_000_000, validator=_not_negative)
    """Units of one app at once."""
    api_rate: float = field(default=20_000, validator=_not_negative)
    """Units per second of one app's server, of one API key, and of one address without a key (this machine is one), for
    history, channels, catalog, status and metrics over HTTP; then 429."""
    api_burst: float = field(default=200_000, validator=_not_negative)
    """Units of these at once."""
    slowed: float = field(default=30, validator=_not_negative)
    """Seconds for which a connection that exceeds a budget is slowed; then it is refused with 4301 (subscriptions: 429)."""
    refusals: int = field(default=50, validator=_not_negative)
    """Refused messages after which the connection is closed with 4100."""
    remembered: int = field(default=10_000, validator=validators.ge(1))
    """Most apps, addresses and HTTP callers (each) whose budgets are remembered after their last use, so that a client that
    reconnects does not get a full budget. Each takes about 300 bytes.
    """
    prices: RequestPrices = field(factory=RequestPrices)


class ClientBudget:
    """One budget that several connections share, stored as the time at which all units spent will have been refilled."""

    __slots__ = ("_burst", "_unit", "limit", "paid_until")

    def __init__(self, limit: str, rate: float, burst: float) -> None:
        self.limit = limit
        """The setting's name."""
        self.paid_until = 0.0
        self.replace(rate, burst)

    def replace(self, rate: float, burst: float) -> None:
        """Set a changed rate and burst. A debt keeps its length in seconds."""
        self._unit = 1 / rate if rate else 0.0
        self._burst = burst * self._unit

    def spend(self, units: float, now: float) -> None:
        """Charge units, even more than are left."""
        paid = self.paid_until
        self.paid_until = (paid if paid > now else now) + units * self._unit

    def over(self, now: float) -> float:
        """Return the seconds until the budget is no longer exceeded; 0 or less if it is not."""
        return self.paid_until - now - self._burst


Action = Literal["slowed", "refused", "closed"]


class ClientBudgets:
    """The budgets of one relay, and the number of times that each limit was exceeded."""

    def __init__(self, costs: Costs) -> None:
        self._apps: BoundedDict[str, ClientBudget] = BoundedDict(costs.remembered)
        self._addresses: BoundedDict[str, ClientBudget] = BoundedDict(costs.remembered)
        self._callers: BoundedDict[str, ClientBudget] = BoundedDict(costs.remembered)
        self.replace(costs)
        self.counts: Counter[tuple[str, Action]] = Counter()
        """Counts by limit and consequence. `slowed` counts connections, the others messages."""

    def replace(self, costs: Costs) -> None:
        """Set the prices and budgets of a reloaded configuration, for open connections too."""
        self.costs = costs
        self.prices = costs.prices
        self.byte = costs.prices.kilobyte / 1024
        self.unit = 1 / costs.connection_rate if costs.connection_rate else 0.0
        """Seconds in which a connection's budget gains one unit."""
        self.burst = costs.connection_burst * self.unit
        for budgets, rate, burst in (
            (self._apps, costs.app_rate, costs.app_burst),
            (self._addresses, costs.address_rate, costs.address_burst),
            (self._callers, costs.api_rate, costs.api_burst),
        ):
            budgets.resize(costs.remembered)
            for budget in budgets.values():
                budget.replace(rate, burst)

    def connect(self, app_id: str, address: str | None, now: float) -> "Spending":
        """Return the budgets of a new connection, and charge for the connection. `address`: its network, or None."""
        costs = self.costs
        app = self._of(self._apps, app_id, "costs.app_rate", costs.app_rate, costs.app_burst)
        network = None
        if address is not None:
            network = self._of(self._addresses, address, "costs.address_rate", costs.address_rate, costs.address_burst)
            network.spend(self.prices.connection, now)
        app.spend(self.prices.connection, now)
        return Spending(self, app, network)

    def take(self, caller: str, units: float, now: float) -> bool:
        """Charge an app's server or an API key for a request. Return False, charging nothing, if its budget is exceeded."""
        costs = self.costs
        budget = self._of(self._callers, caller, "costs.api_rate", costs.api_rate, costs.api_burst)
        if budget.over(now) > 0:
            self.counts[budget.limit, "refused"] += 1
            return False
        budget.spend(units, now)
        return True

    def count_closed(self, limit: str) -> None:
        """Count a connection that was closed because of a limit other than a budget."""
        self.counts[limit, "closed"] += 1

    def exceeded(self) -> dict[str, dict[str, int]]:
        """Return the counts by limit, then by consequence."""
        limits: dict[str, dict[str, int]] = {}
        for (limit, action), count in self.counts.items():
            limits.setdefault(limit, {})[action] = count
        return limits

    def _of(
        self, known: BoundedDict[str, ClientBudget], name: str, limit: str, rate: float, burst: float
    ) -> ClientBudget:
        budget = known.get(name) or ClientBudget(limit, rate, burst)
        known[name] = budget  # moved to the end: the first one is the least recently used, and forgotten first
        return budget


class Spending:
    """The budgets of one connection: its own, and the shared ones."""

    __slots__ = ("_address", "_app", "_paid_until", "_refusals", "_slowed_since", "budgets")

    def __init__(self, budgets: ClientBudgets, app: ClientBudget, address: ClientBudget | None) -> None:
        self.budgets = budgets
        self._app = app
        self._address = address
        self._paid_until = 0.0
        self._slowed_since: float | None = None
        self._refusals = 0

    def spend(self, units: float, now: float) -> None:
        """Charge the work that was done to all budgets."""
        paid = self._paid_until
        self._paid_until = (paid if paid > now else now) + units * self.budgets.unit
        self._app.spend(units, now)
        if self._address is not None:
            self._address.spend(units, now)

    def pause(self, now: float) -> float:
        """Return the seconds to wait before the next message is handled.

        It is 0 if no budget is exceeded, or if the connection has been slowed for long enough and is now refused.
        """
        if (
            self._slowed_since is None
            and self._paid_until - now <= self.budgets.burst
            and self._app.over(now) <= 0
            and (self._address is None or self._address.over(now) <= 0)
        ):
            return 0.0  # nearly always
        over, limit = self._over(now)
        if over <= 0:
            if self._slowed_since is not None and self._paid_until <= now:
                self._slowed_since, self._refusals = None, 0
            return 0.0
        if self._slowed_since is None:
            self._slowed_since = now
            self.budgets.counts[limit, "slowed"] += 1
        return max(0.0, min(over, self._slowed_since + self.budgets.costs.slowed - now))

    def exceeded(self, now: float) -> str | None:
        """Return the limit because of which a message must be refused at ``now``; None if it may be handled."""
        since = self._slowed_since
        if since is None or now < since + self.budgets.costs.slowed:
            return None
        over, limit = self._over(now)
        return limit if over > 0 else None

    def refuse(self, limit: str) -> bool:
        """Count a refused message. Return False if it was one too many, so that the connection must be closed."""
        self._refusals += 1
        self.budgets.counts[limit, "refused"] += 1
        if self._refusals <= self.budgets.costs.refusals:
            return True
        self.budgets.counts[limit, "closed"] += 1
        return False

    def _over(self, now: float) -> tuple[float, str]:
        """Return the seconds until no budget is exceeded, and the limit of the one that takes the longest."""
        over, limit = self._paid_until - now - self.budgets.burst, "costs.connection_rate"
        for budget in (self._app, self._address):
            if budget is not None and (more := budget.over(now)) > over:
                over, limit = more, budget.limit
        return over, limit
