"""Delay departures, because most clients that leave return soon: a page is reloaded, a network changes.

Rules (Pusher Channels protocol, webhooks):

- `channel_vacated` and `member_removed` are held for the delay, then sent in the order of their arrival;
- an arrival that undoes a held departure cancels it, and neither is sent;
- every other event passes immediately, so it may overtake a held departure;
- if too many are held, the oldest is sent early. It is still true, but it can no longer be cancelled.
"""

import json
from collections.abc import Callable

from relay.plugins.hookspecs import ChannelEvent

UNDOES = {"channel_occupied": "channel_vacated", "member_added": "member_removed"}
DEPARTURES = frozenset(UNDOES.values())

_Key = tuple[str, str, str, str | None]


class Departures:
    """The held departures of all apps.

    Args:
        delay: seconds; 0 holds nothing.
        limit: the most departures held at once.
    """

    def __init__(self, delay: float, limit: int = 100_000) -> None:
        self.on_change: Callable[[str, ChannelEvent | None], object] = lambda key, event: None
        """Called with the key and the event of each departure that is held; None: not any more."""
        self.delay = delay
        self._limit = limit
        self._held: dict[_Key, tuple[float, ChannelEvent]] = {}  # the delay is the same for all: oldest first

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_at(self) -> float:
        """The time to release the oldest departure; infinite if none is held."""
        return next((at for at, _ in self._held.values()), float("inf"))

    def pass_on(self, event: ChannelEvent, now: float) -> list[ChannelEvent]:
        """Take an event when it happens; return the events to send now."""
        if event.name in UNDOES:
            key = _key(event, UNDOES[event.name])
            if self._held.pop(key, None) is None:
                return [event]
            self.on_change(json.dumps(key), None)
            return []
        if event.name not in DEPARTURES or self.delay <= 0:
            return [event]
        self.restore(event, now + self.delay)
        return [self._pop()] if len(self._held) > self._limit else []

    def restore(self, event: ChannelEvent, at: float) -> None:
        """Hold a departure until that time, not before those that are held."""
        key = _key(event, event.name)
        self._held[key] = (at, event)
        self.on_change(json.dumps(key), event)

    def due(self, now: float) -> list[ChannelEvent]:
        """Remove and return the departures whose delay is over; at infinity, all of them."""
        released = []
        while self._held and self.next_at <= now:
            released.append(self._pop())
        return released

    def sent(self, event: ChannelEvent) -> None:
        """Note that a departure that was released is in a queue: it needs not be kept here any more."""
        if event.name in DEPARTURES and self.delay > 0:
            self.on_change(json.dumps(_key(event, event.name)), None)

    def forget(self) -> None:
        """Hold nothing: another relay goes on with what was kept."""
        self._held.clear()
        self.on_change = lambda key, event: None

    def _pop(self) -> ChannelEvent:
        return self._held.pop(next(iter(self._held)))[1]


def _key(event: ChannelEvent, departure: str) -> _Key:
    return departure, event.app_id, event.channel, event.user_id
