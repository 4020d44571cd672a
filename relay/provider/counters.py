"""The session's counters, and samples of what was not understood.

The counters add up: ``received == published + deduped + unknown + sum(dropped) + held``, where ``held`` are the deltas now
waiting in books. ``raised`` counts the events of the relay's own (connection, gap, staleness, ...), which no provider sent.
"""

from collections import Counter, deque
from typing import Any

from attrs import Factory, define, frozen

#: How many samples are kept, and how many characters of each.
SAMPLES = 20
SAMPLE_SIZE = 2000
#: Messages over which the share of unknown ones is taken.
WINDOW = 1000
#: A share is not taken of fewer messages than this.
AT_LEAST = 100
#: The share of messages that may be unknown before an `error` event reports it.
UNKNOWN_SHARE = 0.01


@frozen
class Sample:
    """One message that was not understood, redacted and cut, and when it came."""

    raw: str
    why: str
    received_at: str


@define(eq=False)
class Counters:
    """Counters of one session.

    Attributes:
        messages: messages and HTTP answers handed to the adapter.
        received: events and unknown parts the adapter made of them.
        published: events of the provider that were published.
        deduped: fills that had been published before, and states a reconciliation found unchanged.
        unknown: messages and parts of messages that were not understood.
        dropped: events not published, by reason.
        raised: events of the relay's own.
        connections: connections that came up.
        notes: oddities that are neither events nor losses (late replies and the like), by name.
    """

    messages: int = 0
    received: int = 0
    published: int = 0
    deduped: int = 0
    unknown: int = 0
    raised: int = 0
    connections: int = 0
    dropped: Counter[str] = Factory(Counter)
    notes: Counter[str] = Factory(Counter)
    samples: deque[Sample] = Factory(lambda: deque(maxlen=SAMPLES))
    _window_start: int = 0
    _window_unknown: int = 0
    _told: bool = False

    def not_understood(self, sample: Sample) -> float | None:
        """Count one Unknown; return the share of unknown messages when it is, once per window, above `UNKNOWN_SHARE`."""
        self.unknown += 1
        self.received += 1
        self.samples.append(sample)
        if self.messages - self._window_start > WINDOW:
            self._window_start, self._window_unknown, self._told = self.messages - 1, 0, False
        self._window_unknown += 1
        share = self._window_unknown / max(self.messages - self._window_start, AT_LEAST)
        if self._told or share <= UNKNOWN_SHARE:
            return None
        self._told = True
        return share

    def status(self, held: int, more_dropped: Counter[str]) -> dict[str, Any]:
        """The counters for the status page; the books' own drops and held deltas are the keeper's to say."""
        return {
            "messages": self.messages,
            "received": self.received,
            "published": self.published,
            "deduped": self.deduped,
            "unknown": self.unknown,
            "dropped": dict(self.dropped + more_dropped),
            "held": held,
            "raised": self.raised,
            "reconnects": max(0, self.connections - 1),
            "notes": dict(self.notes),
            "samples": [{"raw": s.raw, "why": s.why, "received_at": s.received_at} for s in self.samples],
        }
