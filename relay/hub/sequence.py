"""The seam for more than one relay process: who numbers a topic's events, and who counts the interest in a stream.

The hub asks these two protocols and does not assume that it is alone. The classes beside them are the ones of a relay
that is.
"""

from collections.abc import Callable
from itertools import count
from typing import Protocol

from relay.model.channels import Stream


class Sequence(Protocol):
    """The numbering of one topic."""

    @property
    def epoch(self) -> str:
        """Names this run of numbers; positions of another epoch mean nothing in it. At most 64 of `A-Za-z0-9_-`."""
        ...

    @property
    def start(self) -> int:
        """The number of the topic's last event before this process keeps it; 0 when there was none."""
        ...

    def next(self) -> int:
        """The number of the topic's next event: one more than the last."""
        ...


class Sequencer(Protocol):
    """Gives topics their numbering."""

    def open(self, topic: str) -> Sequence:
        """The numbering of the topic of that name, which the hub is about to keep (again)."""
        ...


class Interest(Protocol):
    """Counts the channels that have subscribers, over all apps and all variants of a stream's channel."""

    def join(self, stream: Stream) -> None:
        """A channel of the stream has got its first subscriber."""
        ...

    def leave(self, stream: Stream) -> None:
        """A channel of the stream has lost its last subscriber."""
        ...


class LocalSequence:
    """Numbers from 1 in this process's memory."""

    __slots__ = ("epoch", "next")

    start = 0

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.next: Callable[[], int] = count(1).__next__


class LocalSequencer:
    """Every topic begins a new epoch whenever it begins: a topic that was forgotten must not pass for its successor."""

    def __init__(self, epoch: str) -> None:
        """`epoch` is unique to this run of the relay, so that no epoch ever returns."""
        self._epoch = epoch
        self._opened = count(1)

    def open(self, topic: str) -> Sequence:
        """A fresh numbering."""
        return LocalSequence(f"{self._epoch}-{next(self._opened):x}")


class LocalInterest:
    """Calls `want` for a stream's first channel and `unwant` for its last."""

    def __init__(self, want: Callable[[Stream], object], unwant: Callable[[Stream], object]) -> None:
        self._want, self._unwant = want, unwant
        self._channels: dict[Stream, int] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def join(self, stream: Stream) -> None:
        """Count one channel more."""
        self._channels[stream] = channels = self._channels.get(stream, 0) + 1
        if channels == 1:
            self._want(stream)

    def leave(self, stream: Stream) -> None:
        """Count one channel less."""
        self._channels[stream] -= 1
        if not self._channels[stream]:
            del self._channels[stream]
            self._unwant(stream)
