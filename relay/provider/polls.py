"""Polls: repeated requests for data that a provider does not stream. One is in flight at a time.

If several are due, single requests (``every`` None) go first, then the one that has been due the longest. The next one is
sent when the one in flight is answered or its deadline has passed. A failed request is repeated after `AGAIN` seconds, then
at growing intervals; putting the same poll again does not shorten them.
"""

from collections.abc import Hashable
from itertools import count
from math import inf

from attrs import define, evolve

from relay.adapter import Poll
from relay.limits import backoff

#: Seconds until a request that failed is repeated, doubling up to the second number.
AGAIN, RARELY = 1.0, 30.0
#: Requests of one connection that may wait; further ones are refused.
MOST = 1000


@define(eq=False)
class _Plan:
    """One poll and the state of its requests. Times are monotonic seconds.

    Attributes:
        due_at: time of its next request.
        place: order among polls with the same ``due_at``.
        asked_at: time of its last request.
        failures: number of failures in a row.
        again: True if it was put again while a request was in flight, whose answer may be too old.
        unanswered_since: time of the oldest request without an answer; infinite if there is none.
        looks: number of answers in a row that contradicted recent events.
        missed: True if events may have been missed since the last answer, so that the next answer is a reconciliation.
    """

    poll: Poll
    due_at: float
    place: int
    asked_at: float = -inf
    failures: int = 0
    again: bool = False
    unanswered_since: float = inf
    looks: int = 0
    missed: bool = False


class Polls:
    """The polls of one connection. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._new: list[tuple[Poll, bool]] = []
        self._plans: dict[Hashable, _Plan] = {}
        self._places = count()
        self._asked: Hashable = None
        self._answer_by = inf
        #: Number of polls refused because there were `MOST`.
        self.refused = 0

    def put(self, poll: Poll, *, missed: bool = False) -> None:
        """Start ``poll``, or replace the one of the same name. ``missed``: the first answer is a reconciliation."""
        self._new.append((poll, missed))

    def again(self, name: Hashable) -> None:
        """Ask at once, and once more where the request is under way; nothing where there is no poll of this name."""
        if (plan := self._plans.get(name)) is not None:
            self.put(evolve(plan.poll, now=True))

    def take_due(self, now: float) -> Poll | None:
        """Return the poll whose request is to be queued now, and mark it as in flight; None if no poll is due."""
        self._admit_new(now)
        if self._asked is not None:
            return None
        due = [plan for plan in self._plans.values() if plan.due_at <= now]
        if not due:
            return None
        plan = min(due, key=lambda plan: (plan.poll.every is not None, plan.due_at, plan.place))
        plan.asked_at, plan.again = now, False
        self._asked, self._answer_by = plan.poll.name, inf
        if plan.missed and plan.poll.missed is not None:
            return evolve(plan.poll, request=plan.poll.missed)
        return plan.poll

    def is_missed(self, name: Hashable) -> bool:
        """Return whether the next answer to this poll is a reconciliation."""
        plan = self._plans.get(name)
        return plan is not None and plan.missed

    def _admit_new(self, now: float) -> None:
        new, self._new = self._new, []
        for poll, missed in new:
            self._admit(poll, now)
            if missed and (plan := self._plans.get(poll.name)) is not None:
                plan.missed = True

    def _admit(self, poll: Poll, now: float) -> None:
        plan = self._plans.get(poll.name)
        due_at = now if poll.now else now + (poll.every or 0.0)
        if plan is None and len(self._plans) >= MOST:
            self.refused += 1
        elif plan is None:
            self._plans[poll.name] = _Plan(poll, due_at, next(self._places))
        else:
            plan.poll = poll
            plan.again |= poll.now and poll.name == self._asked
            if not plan.failures:
                plan.due_at = min(plan.due_at, due_at)

    def sent(self, name: Hashable, now: float) -> None:
        """Note that the request of this poll was sent, and start the deadline of its answer."""
        plan = self._plans.get(name)
        if plan is not None and name == self._asked:
            plan.asked_at, self._answer_by = now, now + plan.poll.within
            plan.unanswered_since = min(plan.unanswered_since, now)

    def valid_at(self, name: Hashable) -> float:
        """Return the time an answer to this poll is valid for: that of the oldest request that it may answer.

        Minus infinity if the poll has ended, because the request of a late answer is not known.
        """
        plan = self._plans.get(name)
        return -inf if plan is None else min(plan.unanswered_since, plan.asked_at)

    def overdue(self, now: float) -> Hashable:
        """Return the name of the poll whose answer is overdue; None if there is none."""
        return self._asked if now >= self._answer_by else None

    def answered(
        self,
        name: Hashable,
        now: float,
        *,
        failed: bool = False,
        final: bool = False,
        doubted: bool = False,
        at_least: float = 0.0,
    ) -> bool:
        """Plan the next request of a poll that was answered; return True if that is its first failure in a row.

        Args:
            failed: the request failed; it is repeated with backoff, at the earliest after ``at_least`` seconds.
            final: the poll ends.
            doubted: the answer contradicts recent events; it is repeated at once, then at growing intervals.
        """
        self._admit_new(now)
        plan = self._plans.get(name)
        if is_asked := name == self._asked:
            self._asked, self._answer_by = None, inf
        if plan is None:
            return failed
        plan.looks = plan.looks + 1 if doubted else 0
        if not failed:
            plan.unanswered_since = inf
        if not is_asked:  # the answer to another connection's request, or one that comes too late
            plan.asked_at = now
        first = failed and not plan.failures
        plan.failures = plan.failures + 1 if failed else 0
        # A doubted answer was not used completely, so the next one is still the reconciliation.
        plan.missed = (doubted and plan.missed) or (failed and (plan.missed or plan.poll.missed is not None))
        every = plan.poll.every
        if doubted and not failed:
            plan.due_at = now if plan.looks == 1 else now + backoff(AGAIN, RARELY, plan.looks - 2)
        elif final or not (failed or plan.again or every):
            del self._plans[name]
        elif failed:
            plan.due_at = now + max(at_least, backoff(AGAIN, RARELY, plan.failures - 1))
        else:
            plan.due_at = now if plan.again or every is None else plan.asked_at + every
        plan.place = next(self._places)
        return first

    def clear(self) -> None:
        """Remove all polls: the connection is closed."""
        self._new.clear()
        self._plans.clear()
        self._asked, self._answer_by = None, inf

    def deadline(self) -> float:
        """Return the time at which `take_due` or `overdue` may have something."""
        if self._new:
            return -inf
        if self._asked is not None:
            return self._answer_by
        return min((plan.due_at for plan in self._plans.values()), default=inf)
