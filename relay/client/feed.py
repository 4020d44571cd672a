"""The channels of one client over all of its connections: positions, resumption and losses. Sans-IO.

`Feed` remembers for each channel the last event that was received. After a new connection it subscribes behind that event.
The relay then sends what was missed, or says that it cannot; the next update of the channel has the reason in `missed`.
"""

from typing import Any

import msgspec
from attrs import define, frozen

from relay.model.events import Event, Stamp
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
        missed: why events before this one may be missing; None where none is.
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


class Feed:
    """The channels that are wanted, and how far each has come."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    def __iter__(self) -> Any:
        return iter(tuple(self._channels))

    def add(self, channel: str) -> None:
        """Want a channel from now on."""
        self._channels[channel] = _Channel()

    def remove(self, channel: str) -> None:
        """Want a channel no more."""
        self._channels.pop(channel, None)

    def subscribe(
        self, machine: ClientConnection, channel: str, auth: str | None, member: str | None, rewind: int | None = None
    ) -> str:
        """Return the message that subscribes to a channel, behind the last event that was received where there is one."""
        state = self._channels[channel]
        state.resuming = state.held_before and state.position is not None
        resume = state.position if state.resuming else None
        return machine.subscribe(
            channel, auth, member, resume=resume, rewind=None if state.held_before else rewind, ids=True
        )

    def take(self, signal: ClientSignal) -> Update | Notice | None:
        """Return what a signal of the connection means for a wanted channel."""
        match signal:
            case ChannelMessage(str(channel), name, data) if channel in self._channels:
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
                self._channels[channel].position = position
        return None

    def _subscribed(self, state: _Channel, channel: str, position: ResumePosition | None) -> Notice:
        if not state.resuming:
            state.position = position
            if state.held_before:
                state.missed = "history_disabled"
        state.held_before = True
        return Notice("subscribed", channel)

    def _update(
        self, state: _Channel, channel: str, name: str, data: str | None, message: ChannelMessage
    ) -> Update | None:
        missed, state.missed = state.missed, None
        try:
            wire = None if data is None else _loads(data)
        except (msgspec.DecodeError, RecursionError):
            wire = data
        try:
            published = structure(wire)
        except CodecError:
            self._advance(state, message.seq)
            return Update(channel=channel, name=name, id=message.id, seq=message.seq, data=wire, missed=missed)
        self._advance(state, published.seq)
        return Update(
            channel=channel,
            name=name,
            event=published.event,
            stamp=published.stamp,
            id=published.id,
            seq=published.seq,
            data=wire,
            missed=missed,
        )

    def _advance(self, state: _Channel, seq: int | None) -> None:
        position = state.position
        if seq is not None and position is not None and seq > position.seq:
            state.position = ResumePosition(position.epoch, seq)
