"""The channels of one client over all of its connections: positions, resumption and losses. Sans-IO.

`Feed` remembers the last received event of each channel. On a new connection it resumes after that event. The relay then
sends the missed events, or a reason why it cannot; that is in `missed` of the channel's next update.

The relay sends a position after the past events of a rewind. If the connection is lost before, the rewind is requested
again, and events that were received before are skipped.
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
        stamp: the provider, the account and the time at which the relay received it; None if `event` is None.
        seq: sequence number on the channel. A slow reader may see jumps, see docs/protocol.md.
        data: the received JSON, decimals as text.
        missed: the reason why events before this one may be missing; None if there are none. One of the relay's reasons, or
            ``position_unknown``: the connection was lost before the relay had sent the channel's position.
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
    #: Ids of the received events of a rewind that has not ended; None once it has.
    rewound: dict[str, None] | None = None
    #: The rewind was requested again, and no event that was received before has been repeated yet.
    is_apart: bool = False


class Feed:
    """The subscribed channels, and the last position of each."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    def __iter__(self) -> Any:
        return iter(tuple(self._channels))

    def add(self, channel: str, rewind: int | None = None) -> None:
        """Add a channel, to start with ``rewind`` past events if that is given."""
        self._channels[channel] = _Channel(rewind=rewind, rewound=None if rewind is None else {})

    def remove(self, channel: str) -> None:
        """Remove a channel."""
        self._channels.pop(channel, None)

    def is_resuming(self, channel: str) -> bool:
        """Return True if the newest subscription of a wanted channel asked for what was missed."""
        return self._channels[channel].resuming

    def subscribe(self, machine: ClientConnection, channel: str, auth: str | None, member: str | None) -> str:
        """Return the message that subscribes to a channel; it resumes after the last received event, if there is one."""
        state = self._channels[channel]
        state.resuming = state.held_before and state.position is not None
        resume = state.position if state.resuming else None
        state.is_apart = bool(state.rewound)
        rewind = None if state.rewound is None else state.rewind
        return machine.subscribe(channel, auth, member, resume=resume, rewind=rewind, ids=True)

    def take(self, signal: ClientSignal) -> Update | Notice | None:
        """Return the update or notice that follows from a signal of the connection; None if it concerns no channel."""
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
        """Return True for an event that was received during an earlier request of the rewind."""
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
