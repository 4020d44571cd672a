"""When a channel's subscription count is told (Pusher Channels protocol, subscription count events).

Every change is told at once while there are at most 100 subscribers; above that at most every 5 seconds, and the last change
always gets its turn.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

Channel = TypeVar("Channel", bound=Hashable)

SMALL = 100
"""Subscribers up to which every change is told."""
INTERVAL = 5.0
"""Seconds between two counts of a larger channel."""


class Counts(Generic[Channel]):
    """Which channels' counts are due. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._told: dict[Channel, float] = {}
        self._due: dict[Channel, float] = {}

    def __len__(self) -> int:
        return len(self._told.keys() | self._due.keys())

    def changed(self, channel: Channel, count: int, now: float) -> bool:
        """The channel has `count` subscribers now; True when that is to be told at once."""
        if count > SMALL and channel in self._told and now < (next_at := self._told[channel] + INTERVAL):
            self._due[channel] = next_at
            return False
        self._due.pop(channel, None)
        if count >= SMALL:
            self._told[channel] = now
        else:
            self._told.pop(channel, None)
        return True

    def due(self, now: float) -> Sequence[Channel]:
        """The channels whose withheld count is to be told now; each is named once."""
        due = [channel for channel, at in self._due.items() if at <= now]
        for channel in due:
            del self._due[channel]
            self._told[channel] = now
        return due

    def forget(self, channel: Channel) -> None:
        """The channel has no subscribers any more."""
        self._told.pop(channel, None)
        self._due.pop(channel, None)
