"""Departures are held back for a while, because most who leave are about to return: a page is reloaded, a network changes.

Rules (Pusher Channels protocol, webhooks):

- `channel_vacated` and `member_removed` are held for the delay, then told, in the order they came;
- the arrival that undoes a held departure takes it back, and neither is told: for the app's server nobody was away;
- every other event passes at once, so it may overtake a departure that is held;
- when too many are held the oldest is told early. It is true, it only cannot be taken back any more.
"""

from relay.plugins.hookspecs import ChannelEvent

UNDOES = {"channel_occupied": "channel_vacated", "member_added": "member_removed"}
DEPARTURES = frozenset(UNDOES.values())

_Key = tuple[str, str, str, str | None]


class Departures:
    """Departures of all apps that are held back.

    Args:
        delay: seconds; 0 holds nothing.
        limit: how many are held at once.
    """

    def __init__(self, delay: float, limit: int = 100_000) -> None:
        self._delay = delay
        self._limit = limit
        self._held: dict[_Key, tuple[float, ChannelEvent]] = {}  # the delay is the same for all: oldest first

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_at(self) -> float:
        """When the oldest is to be told; infinite without one."""
        return next((at for at, _ in self._held.values()), float("inf"))

    def pass_on(self, event: ChannelEvent, now: float) -> list[ChannelEvent]:
        """Take an event when it happens; return what is to be told now."""
        if event.name in UNDOES:
            undone = self._held.pop(_key(event, UNDOES[event.name]), None)
            return [] if undone is not None else [event]
        if event.name not in DEPARTURES or self._delay <= 0:
            return [event]
        self._held[_key(event, event.name)] = (now + self._delay, event)
        return [self._pop()] if len(self._held) > self._limit else []

    def due(self, now: float) -> list[ChannelEvent]:
        """Return those whose delay is over; they are held no more. At infinity that is all of them."""
        told = []
        while self._held and self.next_at <= now:
            told.append(self._pop())
        return told

    def _pop(self) -> ChannelEvent:
        return self._held.pop(next(iter(self._held)))[1]


def _key(event: ChannelEvent, departure: str) -> _Key:
    return departure, event.app_id, event.channel, event.user_id
