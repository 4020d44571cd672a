"""Rate limits: delay requests and frames until the provider's limits allow them, orders before subscriptions.

A `Budget` has a gauge for each declared `Rate`. All HTTP requests and WebSocket frames of an account draw from the same
gauges, on all of its connections, except for rates that the provider counts per connection. A rate with a ``burst`` is a
token bucket. One without is a sliding window, because a bucket that is full and refills would allow twice the count in one
window. A `Queue` holds waiting items by lane (priority), first in, first out within a lane. An item that has to wait also
holds back all later items that draw from the same limits.
"""

import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_args

from attrs import Factory, define, frozen

from relay.adapter import Rate, RateOf
from relay.limits import TokenBucket
from relay.model.channels import Asker

Item = TypeVar("Item")
Name = TypeVar("Name", bound=Hashable)
#: Key of a limit: its kind, or (socket name, kind) for the separate API of a further socket (`Fetch.socket`).
Draw = RateOf | tuple[str, RateOf]
#: The tokens that one item draws, by limit.
Uses = Mapping[Draw, int]

#: Tolerance for float rounding, so that a deadline that has passed does not seem to be in the future.
_EPSILON = 1e-9


class RateBucket(TokenBucket):
    """The gauge of a rate with a ``burst``: full at first, refilled evenly."""

    def __init__(self, rate: Rate) -> None:
        super().__init__(rate.count / rate.per, float(rate.burst or max(1.0, rate.count)))
        self.per = rate.per


class RateWindow:
    """A sliding window: never more than ``count`` within any ``per`` seconds."""

    def __init__(self, rate: Rate) -> None:
        scale = 1.0 if rate.count >= 1 else 1 / rate.count
        self.per = rate.per * scale
        self.capacity = float(int(rate.count * scale))
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] + self.per <= now + _EPSILON:
            self._sum -= self._taken.popleft()[1]

    def free(self, now: float) -> float:
        """Return the number of tokens available at ``now``."""
        self._forget(now)
        return self.capacity - self._sum

    def ready_at(self, cost: int, now: float) -> float:
        """Return the time at which ``cost`` tokens are available. A cost above the capacity needs an empty window."""
        missing = min(cost, self.capacity) - self.free(now)
        for taken_at, taken in self._taken:
            if missing <= 0:
                break
            missing -= taken
            now = taken_at + self.per
        return now

    def draw(self, cost: int, now: float) -> None:
        """Take tokens, even more than are available."""
        self._taken.append((now, cost))
        self._sum += cost


@frozen
class Low:
    """A limit that is nearly used up: ``remaining`` tokens of ``of`` are left; it is full again in ``reset_in`` seconds."""

    of: RateOf
    remaining: int
    reset_in: float


@define(eq=False)
class Limit:
    """One limit: its gauges, the end of a pause that the provider imposed, and the earliest time of the next warning."""

    gauges: list[RateBucket | RateWindow] = Factory(list)
    paused_until: float = -inf
    warns_at: float = -inf


#: Limits that a provider counts per connection. All others are counted per account or IP address.
_OF_CONNECTION = frozenset({"frame", "interest"})
#: Limits that may be separate for the API of a further socket.
_OF_API = frozenset({"call", "http"})


class Budget:
    """The rate limits of one connection. It outlives the session machine, so that a restart does not reset the limits.

    Args:
        rates: the declared limits.
        beside: the budget of another connection of the same account, whose gauges are shared, except for limits that are
            counted per connection.
        of_sockets: separate limits for the APIs of further sockets, by socket name. Requests of a socket that has none draw
            from the account's limits.
    """

    def __init__(
        self,
        rates: Iterable[Rate],
        beside: "Budget | None" = None,
        of_sockets: Mapping[str, Iterable[Rate]] = MappingProxyType({}),
    ) -> None:
        self._limits: dict[Draw, Limit] = {of: Limit() for of in get_args(RateOf)}
        if beside is not None:
            self._limits |= {of: each for of, each in beside._limits.items() if of not in _OF_CONNECTION}
        for rate in rates:
            if beside is None or _OF_CONNECTION.issuperset(rate.of):
                self._add(rate, rate.of)
        for socket, own in of_sockets.items() if beside is None else ():
            for rate in own:
                if _OF_API.issuperset(rate.of):
                    self._add(rate, tuple((socket, of) for of in rate.of))

    def _add(self, rate: Rate, draws: Iterable[Draw]) -> None:
        gauge = RateWindow(rate) if rate.burst is None else RateBucket(rate)
        for of in draws:
            self._limits.setdefault(of, Limit()).gauges.append(gauge)

    def _limit(self, of: Draw) -> Limit:
        limit = self._limits.get(of)
        return self._limits[of[1]] if limit is None and isinstance(of, tuple) else self._limits[of]

    def at(self, uses: Uses, now: float) -> float:
        """Return the time at which all of ``uses`` are available; ``now`` if they are already."""
        when = now
        for of, cost in uses.items():
            limit = self._limit(of)
            when = max(when, limit.paused_until, *(gauge.ready_at(cost, now) for gauge in limit.gauges))
        return when

    def take(self, uses: Uses, now: float) -> None:
        """Take the tokens of ``uses``, even more than are available. A gauge shared by several limits is charged once."""
        drawn = {id(gauge): (gauge, cost) for of, cost in uses.items() for gauge in self._limit(of).gauges}
        for gauge, cost in drawn.values():
            gauge.draw(cost, now)

    def pause(self, ofs: Iterable[RateOf], until: float, socket: str = "") -> None:
        """Block these limits until ``until``, because the provider reported that one was exceeded.

        ``socket``: name of the socket whose API reported it. If it has separate limits, only those are blocked.
        """
        own = [(socket, of) for of in ofs if (socket, of) in self._limits]
        for draw in own or ofs:
            self._limits[draw].paused_until = max(until, self._limits[draw].paused_until)

    def remaining(self, of: Draw, now: float) -> int | None:
        """Return the number of whole tokens left in the tightest gauge; None if no such limit is declared."""
        gauges = self._limit(of).gauges
        return None if not gauges else int(max(0.0, min(gauge.free(now) for gauge in gauges)))

    def is_limited(self, of: Draw) -> bool:
        """Return True if such a limit is declared."""
        return bool(self._limit(of).gauges)

    def capacity(self, of: Draw) -> int:
        """Return the capacity of the tightest gauge in tokens; 0 if no such limit is declared."""
        return int(min((gauge.capacity for gauge in self._limit(of).gauges), default=0))

    def capacities(self) -> dict[str, int]:
        """Return the capacities of the declared limits in tokens, by name."""
        return {_name(of): self.capacity(of) for of, limit in self._limits.items() if limit.gauges}

    def window(self, of: RateOf) -> float:
        """Return the longest period of this limit's gauges in seconds; 0 if it has none."""
        return max((gauge.per for gauge in self._limits[of].gauges), default=0.0)

    def low(self, of: RateOf, share: float, now: float) -> Low | None:
        """Return a `Low`, once per window, if less than ``share`` of a limit is left; otherwise None."""
        limit = self._limits[of]
        for gauge in limit.gauges:
            free = gauge.free(now)
            if free < share * gauge.capacity and now >= limit.warns_at:
                limit.warns_at = now + gauge.per
                return Low(of, int(max(0.0, free)), gauge.ready_at(int(gauge.capacity), now) - now)
        return None

    def status(self, now: float) -> dict[str, Any]:
        """Return the number of tokens left in the declared limits, by name."""
        return {_name(of): self.remaining(of, now) for of, limit in self._limits.items() if limit.gauges}


def _name(of: Draw) -> str:
    return of if isinstance(of, str) else " ".join(of)


class Lane(enum.IntEnum):
    """Priority in the queue; the lowest number goes first."""

    CALL = 0
    INTEREST = 1
    FETCH = 2


class Queue(Generic[Item]):
    """Items that wait for rate limits, by lane."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lanes: dict[Lane, deque[tuple[Uses, Uses, Item]]] = {lane: deque() for lane in Lane}
        self._next = inf

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def idle(self, lane: Lane) -> bool:
        """Return True if nothing of this lane waits."""
        return not self._lanes[lane]

    def has(self, wanted: Callable[[Item], bool]) -> bool:
        """Return True if ``wanted`` is true for a waiting item."""
        return any(wanted(item) for lane in self._lanes.values() for *_, item in lane)

    def put(self, lane: Lane, uses: Uses, item: Item, needs: Uses | None = None) -> None:
        """Queue ``item``. `take_due` returns it once the tokens in ``needs`` are available, and then charges ``uses``.

        ``needs`` defaults to ``uses``. It is larger for requests that can wait, such as an audit: they are sent only while
        half of the budget remains for commands.
        """
        self._lanes[lane].append((needs or uses, uses, item))
        self._next = -inf

    def take_due(self, now: float, most: Callable[[Lane], float] = lambda lane: inf) -> Iterator[Item]:
        """Remove, charge and yield the items that may be sent at ``now``.

        ``most``: called before each item of a lane; returns how many more items of that lane may be sent.
        """
        self._next = inf
        held: set[Draw] = set()
        for name, lane in self._lanes.items():
            while lane and most(name) > 0:
                needs, uses, item = lane[0]
                when = self._budget.at(needs, now)
                if when > now or not held.isdisjoint(uses):
                    self._next = min(self._next, when) if when > now else self._next
                    held.update(of for of in uses if self._budget.is_limited(of))
                    break
                lane.popleft()
                self._budget.take(uses, now)
                yield item

    def discard(self, drop: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the items for which ``drop`` is true."""
        gone = []
        for name, lane in self._lanes.items():
            gone += [item for *_, item in lane if drop(item)]
            self._lanes[name] = deque(entry for entry in lane if not drop(entry[-1]))
        return gone

    def deadline(self) -> float:
        """Return the earliest time at which `take_due` may yield an item."""
        return self._next


_Lines = OrderedDict[Asker, OrderedDict[Name, None]]
_Networks = OrderedDict[tuple[str | None, str], _Lines[Name]]
_EMPTY: Mapping[Any, Any] = {}


def _network(by: Asker) -> tuple[str | None, str]:
    """Return the key of the group of connections that shares a turn: the client's network, or the connection alone."""
    return (by.network, "" if by.network is not None else by.connection)


class Rotation(Generic[Name]):
    """A fair queue of names: round robin over the apps, within an app over the networks of its clients, within a network
    over its connections. The names of one connection are taken in the order in which they were put.

    A name that several connections wait for is taken at the first turn of any of them.
    """

    def __init__(self) -> None:
        self._apps: OrderedDict[str, _Networks[Name]] = OrderedDict()
        self._askers: dict[Name, dict[Asker, None]] = {}
        #: Number of names that wait, each counted once for every subscriber that asked for it.
        self.size = 0
        #: Number of connections that have names that wait.
        self.connections = 0

    def __contains__(self, name: Name) -> bool:
        return name in self._askers

    def __len__(self) -> int:
        return len(self._askers)

    def put(self, name: Name, by: Asker) -> None:
        """Append ``name`` to the line of ``by``, unless it waits there already."""
        connections = self._apps.setdefault(by.app, OrderedDict()).setdefault(_network(by), OrderedDict())
        line = connections.get(by)
        if line is None:
            line = connections[by] = OrderedDict()
            self.connections += 1
        if name not in line:
            line[name] = None
            self._askers.setdefault(name, {})[by] = None
            self.size += 1

    def discard(self, name: Name) -> None:
        """Remove ``name`` from all lines, if it waits in any."""
        for by in self._askers.pop(name, ()):
            self._remove(name, by)

    def withdraw(self, name: Name, by: Asker) -> bool:
        """Remove ``name`` from the line of ``by``; return True if it waits in no other line."""
        askers = self._askers.get(name, {})
        if by in askers:
            del askers[by]
            self._remove(name, by)
        if not askers:
            self._askers.pop(name, None)
        return not askers

    def _remove(self, name: Name, by: Asker) -> None:
        networks = self._apps[by.app]
        connections = networks[_network(by)]
        line = connections[by]
        del line[name]
        self.size -= 1
        if not line:
            del connections[by]
            self.connections -= 1
            if not connections:
                del networks[_network(by)]
            if not networks:
                del self._apps[by.app]

    def take(self, most: int, fits: Callable[[Name], bool] = lambda name: True) -> list[Name]:
        """Remove and return up to ``most`` names in turn. A line is skipped if ``fits`` is false for its first name."""
        taken: list[Name] = []
        while len(taken) < most and (name := self._next(fits)) is not None:
            taken.append(name)
        return taken

    def _next(self, fits: Callable[[Name], bool]) -> Name | None:
        found = next(
            (
                (by, name)
                for networks in self._apps.values()
                for connections in networks.values()
                for by, line in connections.items()
                if fits(name := next(iter(line)))
            ),
            None,
        )
        if found is None:
            return None
        by, name = found
        networks = self._apps[by.app]
        networks[_network(by)].move_to_end(by)
        networks.move_to_end(_network(by))
        self._apps.move_to_end(by.app)
        self.discard(name)
        return name

    def waiting_of(self, by: Asker) -> int:
        """Return how many names wait in the line of ``by``."""
        connections = self._apps.get(by.app, _EMPTY).get(_network(by), _EMPTY)
        return len(connections.get(by, ()))

    def longest(self) -> tuple[Asker, Name]:
        """Return the connection with the longest line, and the last name in it. There must be one."""
        lines = (
            each
            for networks in self._apps.values()
            for connections in networks.values()
            for each in connections.items()
        )
        by, line = max(lines, key=lambda each: len(each[1]))
        return by, next(reversed(line))
