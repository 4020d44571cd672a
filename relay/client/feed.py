"""The channels of one client over all of its connections: positions, resumption and losses. Sans-IO.

`Feed` remembers for each channel the last event that was received. After a new connection it subscribes behind that event.
The relay then sends what was missed, or says that it cannot; the next update of the channel has the reason in `missed`.

The relay tells a position behind the past events of a rewind. If the connection is lost before, there is nothing to resume
from: the rewind is asked for again, and what was received of it is left out.
"""

from typing import Any

import msgspec
from attrs import define, evolve, frozen

from relay.model.events import Depth, Event, Stamp
from relay.model.serialize import CodecError, structure
from relay.pusher.client import (
    ChannelMessage,
    ClientConnection,
    ClientSignal,
    PositionReached,
    ResumeFailed,
    ResumeSucceeded,
    Subscribed,
)
from relay.pusher.messages import ResumePosition

_loads = msgspec.json.Decoder(float_hook=str).decode


@frozen(kw_only=True)
class Update:
    """One event of a channel.

    Attributes:
        name: the event's name; of a stream's channel its kind.
        event: the canonical event; None on an application's own channel, and for a kind that this version does not know.
        stamp: the provider, the account and the time at which the relay received it; None as `event`.
        seq: number on the channel. The numbers of a slow reader have holes, see the relay's page on channels.
        data: the JSON as it came, decimals as text.
        missed: why events before this one may be missing; None where none is. One of the relay's reasons, or
            ``position_unknown``: the connection was lost before the relay had told where the channel stands.
    """

    channel: str
    name: str
    event: Event | None = None
    stamp: Stamp | None = None
    id: str | None = None
    seq: int | None = None
    data: Any = None
    missed: str | None = None


@frozen
class Notice:
    """A change of the client's connection or of a subscription, for people and logs.

    Attributes:
        what: ``connected``, ``disconnected``, ``subscribed``, ``resumed``, ``missed`` or ``refused``.
        channel: None if it is about the connection.
        text: the reason, for people.
    """

    what: str
    channel: str | None = None
    text: str = ""


@define
class _Channel:
    position: ResumePosition | None = None
    held_before: bool = False
    resuming: bool = False
    missed: str | None = None
    rewind: int | None = None
    #: Ids of what came of a rewind that has not ended; None once it has.
    rewound: dict[str, None] | None = None
    #: The rewind was asked for again, and nothing that was received before has come again yet.
    is_apart: bool = False


class Feed:
    """The channels that are wanted, and how far each has come."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    def __iter__(self) -> Any:
        return iter(tuple(self._channels))

    def add(self, channel: str, rewind: int | None = None) -> None:
        """Want a channel from now on, beginning with the newest ``rewind`` past events where it is given."""
        self._channels[channel] = _Channel(rewind=rewind, rewound=None if rewind is None else {})

    def remove(self, channel: str) -> None:
        """Want a channel no more."""
        self._channels.pop(channel, None)

    def subscribe(self, machine: ClientConnection, channel: str, auth: str | None, member: str | None) -> str:
        """Return the message that subscribes to a channel, behind the last event that was received where there is one."""
        state = self._channels[channel]
        state.resuming = state.held_before and state.position is not None
        resume = state.position if state.resuming else None
        state.is_apart = bool(state.rewound)
        rewind = None if state.rewound is None else state.rewind
        return machine.subscribe(channel, auth, member, resume=resume, rewind=rewind, ids=True)

    def take(self, signal: ClientSignal) -> Update | Notice | None:
        """Return what a signal of the connection means for a wanted channel."""
        match signal:
            case ChannelMessage(str() as channel, name, data) if channel in self._channels:
                return self._update(self._channels[channel], channel, name, data, signal)
            case Subscribed(channel, _, position) if channel in self._channels:
                return self._subscribed(self._channels[channel], channel, position)
            case ResumeSucceeded(channel, position, replayed) if channel in self._channels:
                self._channels[channel].position = position
                return Notice("resumed", channel, f"{replayed} missed events were received")
            case ResumeFailed(channel, reason, position) if channel in self._channels:
                state = self._channels[channel]
                state.position, state.missed = position, reason
                return Notice("missed", channel, reason)
            case PositionReached(channel, position) if channel in self._channels:
                self._reached(self._channels[channel], position)
        return None

    def _reached(self, state: _Channel, position: ResumePosition) -> None:
        state.position, state.rewound = position, None
        if state.is_apart:
            state.is_apart, state.missed = False, "position_unknown"

    def _subscribed(self, state: _Channel, channel: str, position: ResumePosition | None) -> Notice:
        if not state.resuming:
            if state.held_before and state.rewound is None:
                state.missed = "position_unknown"
            if position is not None:
                self._reached(state, position)
            else:
                state.position = None
        state.held_before = True
        return Notice("subscribed", channel)

    def _update(
        self, state: _Channel, channel: str, name: str, data: str | None, message: ChannelMessage
    ) -> Update | None:
        try:
            wire = None if data is None else _loads(data)
        except (msgspec.DecodeError, RecursionError):
            wire = data
        try:
            published = structure(wire)
        except CodecError:
            update = Update(channel=channel, name=name, id=message.id, seq=message.seq, data=wire)
        else:
            event, stamp, id, seq = published.event, published.stamp, published.id, published.seq
            update = Update(channel=channel, name=name, event=event, stamp=stamp, id=id, seq=seq, data=wire)
        self._advance(state, update.seq)
        if (
            state.rewound is not None
            and update.id is not None
            and not isinstance(update.event, Depth)  # a rewind of depth is the book, which is needed again
            and self._came_before(state, state.rewound, update.id)
        ):
            return None
        missed, state.missed = state.missed, None
        return evolve(update, missed=missed)

    def _came_before(self, state: _Channel, rewound: dict[str, None], id: str) -> bool:
        """Return True for an event that came when the rewind was asked for before."""
        if id in rewound:
            state.is_apart = False
            return True
        if state.is_apart:
            state.is_apart, state.missed = False, "position_unknown"
        rewound[id] = None
        if len(rewound) > (state.rewind or 0):
            del rewound[next(iter(rewound))]
        return False

    def _advance(self, state: _Channel, seq: int | None) -> None:
        position = state.position
        if seq is not None and position is not None and seq > position.seq:
            state.position = ResumePosition(position.epoch, seq)
