"""Delay departures, because most clients that leave return soon: a page is reloaded, a network changes.

Rules (Pusher Channels protocol, webhooks):

- `channel_vacated` and `member_removed` are held for the delay, then sent in the order of their arrival;
- an arrival that undoes a held departure cancels it, and neither is sent;
- every other event passes immediately, so it may overtake a held departure;
- if too many are held, the oldest is sent early. It is still true, but it can no longer be cancelled.
"""

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
        self._delay = delay
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
            undone = self._held.pop(_key(event, UNDOES[event.name]), None)
            return [] if undone is not None else [event]
        if event.name not in DEPARTURES or self._delay <= 0:
            return [event]
        self._held[_key(event, event.name)] = (now + self._delay, event)
        return [self._pop()] if len(self._held) > self._limit else []

    def due(self, now: float) -> list[ChannelEvent]:
        """Remove and return the departures whose delay is over; at infinity, all of them."""
        released = []
        while self._held and self.next_at <= now:
            released.append(self._pop())
        return released

    def _pop(self) -> ChannelEvent:
        return self._held.pop(next(iter(self._held)))[1]


def _key(event: ChannelEvent, departure: str) -> _Key:
    return departure, event.app_id, event.channel, event.user_id
