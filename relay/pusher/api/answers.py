"""Answers of the HTTP API: the exact bodies of the reference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from ..actions import Position
from ..messages import ResumeFailure, json_text
from ..names import channel_type
from .requests import ApiError, Info, Trigger

__all__ = [
    "EMPTY",
    "ChannelState",
    "batch_response",
    "channel_response",
    "channels_response",
    "history_gone",
    "history_response",
    "trigger_response",
    "users_response",
]

EMPTY = b"{}"
"""The answer to what has nothing to tell: triggers without info, terminate_connections."""


@frozen(kw_only=True)
class ChannelState:
    """What the hub knows of one channel; the answers take from it what was asked for."""

    occupied: bool = False
    user_count: int = 0
    subscription_count: int = 0
    cache: str | None = None
    """The data of the cached event."""
    cache_ttl: float | None = None
    """Seconds until it is dropped."""


def _json(value: object) -> bytes:
    return json_text(value).encode()


def _attributes(channel: str, info: Info | None, state: ChannelState) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if info is None:
        return told
    if info.user_count and channel_type(channel).presence:
        told["user_count"] = state.user_count
    if info.subscription_count:
        told["subscription_count"] = state.subscription_count
    if info.cache:
        told["cache"] = None if state.cache is None else {"data": state.cache, "ttl": int(state.cache_ttl or 0)}
    return told


def trigger_response(info: Info | None, states: Mapping[str, ChannelState]) -> bytes:
    """`{}`, or where info was asked for `{"channels": {NAME: {...}}}`."""
    if info is None:
        return EMPTY
    return _json({"channels": {name: _attributes(name, info, state) for name, state in states.items()}})


def batch_response(triggers: Sequence[Trigger], states: Mapping[str, ChannelState]) -> bytes:
    """`{}`, or where any event asked for info `{"batch": [{...}, ...]}`, one item for each event."""
    if all(trigger.info is None for trigger in triggers):
        return EMPTY
    unknown = ChannelState()
    told = (
        _attributes(name, trigger.info, states.get(name, unknown))
        for trigger in triggers
        for name in trigger.channels[:1]
    )
    return _json({"batch": list(told)})


def channels_response(info: Info, states: Mapping[str, ChannelState]) -> bytes:
    """`{"channels": {NAME: {...}}}` of the occupied channels; an object also when there is none."""
    occupied = {name: _attributes(name, info, state) for name, state in states.items() if state.occupied}
    return _json({"channels": occupied})


def channel_response(channel: str, info: Info, state: ChannelState) -> bytes:
    """`{"occupied": ..., ...}`."""
    return _json({"occupied": state.occupied, **_attributes(channel, info, state)})


def users_response(user_ids: Iterable[str]) -> bytes:
    """`{"users": [{"id": ...}, ...]}`."""
    return _json({"users": [{"id": user_id} for user_id in user_ids]})


def history_response(position: Position, events: Iterable[Mapping[str, Any]], *, more: bool = False) -> bytes:
    """`{"epoch", "seq", "more", "events"}`: the channel's current position and past events, oldest first; `more` when
    the limit cut them off and the next request goes on after the last one's `seq`."""
    return _json({"epoch": position.epoch, "seq": position.seq, "more": more, "events": list(events)})


def history_gone(reason: ResumeFailure, position: Position | None) -> ApiError:
    """The answer 410 when events after the asked position are lost; it carries the channel's current position."""
    details: dict[str, Any] = {"reason": reason}
    if position is not None:
        details |= {"epoch": position.epoch, "seq": position.seq}
    return ApiError(410, f"the channel's history does not reach back to there: {reason}", details)
