"""When to ask for the snapshot of a book.

One request per symbol is under way at a time. A snapshot that came too old, or not at all, is asked for again after a
wait that grows from `FIRST` to `LONGEST` seconds; a request without any answer is repeated after `ANSWER_WITHIN` seconds,
then after twice as long, and so on up to `LONGEST_ANSWER`.
"""

from math import inf

from attrs import define

from relay.limits import backoff

FIRST = 0.5
LONGEST = 30.0
ANSWER_WITHIN = 15.0
LONGEST_ANSWER = 240.0


@define(eq=False)
class _Plan:
    due_at: float
    attempts: int = 0
    under_way: bool = False


class Snapshots:
    """Which books need a snapshot, and when each is to be asked for."""

    def __init__(self) -> None:
        self._plans: dict[str, _Plan] = {}

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._plans

    def need(self, symbol: str, at: float) -> None:
        """A snapshot of ``symbol`` is needed, to be asked for at ``at`` or when it is planned already, if that is sooner."""
        plan = self._plans.setdefault(symbol, _Plan(at))
        if plan.attempts == 0:
            plan.due_at = min(plan.due_at, at)

    def due(self, now: float) -> list[str]:
        """The symbols to ask for now; each is under way from here on."""
        symbols = [symbol for symbol, plan in self._plans.items() if plan.due_at <= now]
        for symbol in symbols:
            plan = self._plans[symbol]
            plan.due_at, plan.under_way = now + backoff(ANSWER_WITHIN, LONGEST_ANSWER, plan.attempts), True
            plan.attempts += 1
        return symbols

    def failed(self, symbol: str, now: float, at_least: float = 0.0) -> None:
        """The snapshot came too old, or an error came instead: ask again later."""
        plan = self._plans.get(symbol)
        if plan is not None and plan.under_way:
            plan.under_way = False
            plan.due_at = now + max(at_least, backoff(FIRST, LONGEST, plan.attempts - 1))

    def done(self, symbol: str) -> None:
        """The book is live, or nobody needs it."""
        self._plans.pop(symbol, None)

    def clear(self) -> None:
        """The connection is gone."""
        self._plans.clear()

    def deadline(self) -> float:
        """When `due` has something."""
        return min((plan.due_at for plan in self._plans.values()), default=inf)
