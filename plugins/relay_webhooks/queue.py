"""The events waiting for one endpoint, batched, tried again, bounded. Time is an argument; nothing here sends.

Rules:

- events leave in the order they came, in batches, one batch on its way at a time;
- a batch is made when enough events wait, or when the oldest has waited long enough. From then on it does not change: every
  attempt posts the same body;
- a batch that is not accepted is tried again, the waits doubling up to a cap, a random half of each taken off. The last
  attempt is at the end of the time for retries, counted from the first; then the batch is dropped. The next batch waits as
  long as another attempt would have: the endpoint is no healthier for it;
- at most so many events and bytes wait. What is too much drops the oldest event of the kind that has most waiting, so that
  events which anybody can cause (a name makes a channel occupied) do not push out those of members. The batch on its way is
  not among them.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from math import inf

from attrs import define, field, frozen

from relay.limits import backoff
from relay_webhooks.payload import encode_body

#: The key of the batch on its way; other keys are the numbers of events.
_BATCH = "batch"
OVERFLOW = "queue_full"
EXPIRED = "not_accepted"


@frozen(kw_only=True)
class QueueLimits:
    """The bounds of a queue; times in seconds.

    Attributes:
        events, bytes: what may wait.
        batch_events: events of one batch.
        batch_wait: how long an event waits for others.
        retry_for: from a batch's first attempt to its last.
        retry_first, retry_cap: the first wait before another attempt, and the longest.
    """

    events: int = 10_000
    bytes: int = 16 * 1024 * 1024
    batch_events: int = 20
    batch_wait: float = 0.25
    retry_for: float = 300.0
    retry_first: float = 1.0
    retry_cap: float = 30.0


@frozen
class Batch:
    """Events that are sent together. ``time_ms`` is the time of the oldest, so that a delay is visible.

    ``id`` is the same for every attempt, also after a restart.
    """

    time_ms: int
    events: tuple[bytes, ...]
    id: str = ""
    body: bytes = field(init=False, repr=False)

    @body.default
    def _body(self) -> bytes:
        return encode_body(self.time_ms, self.events)


class Losses:
    """Events that never reached the endpoint, counted by reason and reported once per period."""

    def __init__(self, period: float = 60.0) -> None:
        self.total: Counter[str] = Counter()
        self._period = period
        self._unreported: Counter[str] = Counter()
        self._reported_at = -inf

    def add(self, reason: str, events: int) -> None:
        """Count events as lost."""
        self.total[reason] += events
        self._unreported[reason] += events

    def report(self, now: float, *, at_once: bool = False) -> Mapping[str, int]:
        """Return what was lost since the last report; nothing while that is too recent, unless ``at_once``."""
        if not self._unreported or (now - self._reported_at < self._period and not at_once):
            return {}
        report, self._unreported, self._reported_at = self._unreported, Counter(), now
        return report


@define
class _Waiting:
    """The waiting events of one kind, oldest first."""

    events: deque[tuple[int, float, int, bytes]] = field(factory=deque)
    """(number, when, Unix milliseconds, event)"""
    bytes: int = 0


class EventQueue:
    """The events that wait to be sent to one endpoint."""

    def __init__(self, limits: QueueLimits, ids: Callable[[], str] = str, first: int = 0) -> None:
        """Create a queue. `ids` names batches; `first` is the number of the first event, above all numbers of earlier
        processes.
        """
        self.on_change: Callable[[str, bytes | None], object] = lambda key, value: None
        """Called with the key and the value of a row that is to be kept over a restart; None: not any more."""
        self._ids = ids
        self.losses = Losses()
        self.sent = 0
        """Events the endpoint accepted."""
        self.failures = 0
        """Attempts since the last one that was accepted."""
        self._limits = limits
        self._kinds: dict[str, _Waiting] = {}
        self._count = self._bytes = 0
        self._next = first
        self._batch: Batch | None = None
        self._first_try = 0.0
        self._not_before = -inf

    def __len__(self) -> int:
        """Return the number of events that wait or are on their way."""
        return self._count + (len(self._batch.events) if self._batch is not None else 0)

    def put(self, event: bytes, now: float, time_ms: int, kind: str = "") -> None:
        """Append an encoded event; what is too much drops the oldest of the kind that has most waiting."""
        waiting = self._kinds.setdefault(kind, _Waiting())
        waiting.events.append((self._next, now, time_ms, event))
        waiting.bytes += len(event)
        self.on_change(str(self._next), _row(time_ms, kind, event))
        self._next += 1
        self._count += 1
        self._bytes += len(event)
        while self._count > self._limits.events:
            self._take(max(self._kinds, key=lambda kind: len(self._kinds[kind].events)))
            self.losses.add(OVERFLOW, 1)
        while self._bytes > self._limits.bytes:
            self._take(max(self._kinds, key=lambda kind: self._kinds[kind].bytes))
            self.losses.add(OVERFLOW, 1)

    def look(self, now: float, *, at_once: bool = False) -> Batch | float:
        """Return the batch to send now, or when to look again; infinity is when something is put.

        Args:
            now: the time.
            at_once: make a batch of what is there, without waiting for more.
        """
        if not len(self):
            return inf
        if now < self._not_before:
            return self._not_before
        if self._batch is None:
            ready_at = self._kinds[self._oldest()].events[0][1] + self._limits.batch_wait
            if self._count < self._limits.batch_events and now < ready_at and not at_once:
                return ready_at
            self._batch = batch = self._make_batch()
            self.on_change(
                _BATCH, json.dumps([batch.time_ms, batch.id, [e.decode("latin-1") for e in batch.events]]).encode()
            )
            self._first_try = now
        return self._batch

    def take_all(self) -> list[tuple[bytes, float, int, str]]:
        """Remove the events that wait, oldest first; return what `put` needs for each."""
        found = [(*each, kind) for kind, waiting in self._kinds.items() for each in waiting.events]
        while self._count:
            self._take(self._oldest())
        return [(event, at, time_ms, kind) for _, at, time_ms, event, kind in sorted(found)]

    def restore(self, rows: Iterable[tuple[str, bytes]], now: float) -> None:
        """Take over what waited before a restart, in its order; a batch that was on its way gets its whole time again."""
        waiting = []
        for key, value in rows:
            try:
                if key == _BATCH:
                    time_ms, id, events = json.loads(value)
                    self._batch = Batch(time_ms, tuple(each.encode("latin-1") for each in events), id)
                    self._first_try = now
                else:
                    time_ms, kind, event = json.loads(value)
                    waiting.append((int(key), time_ms, kind, event.encode("latin-1")))
            except (ValueError, TypeError, AttributeError):
                self.on_change(key, None)
        for number, time_ms, kind, event in sorted(waiting):
            self.on_change(str(number), None)
            self._next = max(self._next, number)
            self.put(event, now, time_ms, kind)

    def accepted(self) -> None:
        """Drop the batch: it arrived."""
        self.sent += self._end_batch()
        self.failures, self._not_before = 0, -inf

    def failed(self, now: float, uniform: float) -> None:
        """Wait after a batch that did not arrive, or give it up. ``uniform`` is a random number in [0, 1)."""
        limits = self._limits
        wait = backoff(limits.retry_first, limits.retry_cap, self.failures, jitter=0.5, uniform=1.0 - uniform)
        self.failures += 1
        self._not_before = now + wait
        last = self._first_try + limits.retry_for
        if now >= last:
            self.drop(EXPIRED)
        else:
            self._not_before = min(self._not_before, last)

    def drop(self, reason: str) -> None:
        """Give the batch up."""
        self.losses.add(reason, self._end_batch())

    def drop_all(self, reason: str) -> None:
        """Give everything up."""
        if len(self):
            self.losses.add(reason, len(self))
        self._end_batch()
        while self._count:
            self._take(self._oldest())

    def _make_batch(self) -> Batch:
        count = min(self._limits.batch_events, self._count)
        time_ms = self._kinds[self._oldest()].events[0][2]
        return Batch(time_ms, tuple(self._take(self._oldest()) for _ in range(count)), self._ids())

    def _oldest(self) -> str:
        """Return the kind of the event that has waited the longest. There are a few kinds, and none without an event."""
        return min(self._kinds, key=lambda kind: self._kinds[kind].events[0][0])

    def _take(self, kind: str) -> bytes:
        waiting = self._kinds[kind]
        number, _, _, event = waiting.events.popleft()
        self.on_change(str(number), None)
        waiting.bytes -= len(event)
        self._count -= 1
        self._bytes -= len(event)
        if not waiting.events:
            del self._kinds[kind]
        return event

    def _end_batch(self) -> int:
        events = len(self._batch.events) if self._batch is not None else 0
        if self._batch is not None:
            self.on_change(_BATCH, None)
        self._batch = None
        return events


def _row(time_ms: int, kind: str, event: bytes) -> bytes:
    return json.dumps([time_ms, kind, event.decode("latin-1")]).encode()
