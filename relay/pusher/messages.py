"""Every message of the Pusher Channels protocol, as JSON text, and the reading of a message's frame.

`data` is a string in what the relay sends, so that JSON in it is encoded twice, except in `pusher:error`,
`pusher:subscription_error`, `pusher:ping` and `pusher:pong`, which the protocol gives as objects. What clients send may
have `data` as a string or as any JSON value: `read` keeps its text, digit for digit, either way.

Builders of what the relay sends are named after the event; those of what a client sends begin with `client_`. Events of
the relay's own begin with `tickrelay:`; clients that do not know them ignore them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from attrs import frozen

from .actions import Member, Position
from .errors import CloseCode, ProtocolError

__all__ = [
    "Frame",
    "ResumeFailure",
    "cache_miss",
    "client_event",
    "client_signin",
    "client_subscribe",
    "client_unsubscribe",
    "connection_established",
    "error",
    "event",
    "json_text",
    "member_added",
    "member_removed",
    "ping",
    "pong",
    "position",
    "read",
    "read_as",
    "read_json",
    "resume_failed",
    "resume_succeeded",
    "signin_success",
    "subscription_count",
    "subscription_error",
    "subscription_succeeded",
    "text_of",
    "watchlist_events",
]

ResumeFailure = Literal["epoch_changed", "position_expired", "position_ahead", "history_disabled"]
"""Why a resume is impossible: the channel's history began anew; events after the position have left the ring; the
position is one the channel has not reached; the channel keeps no history."""

Data = TypeVar("Data")

_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> str:
    """Compact JSON. Text that is already JSON goes in as `msgspec.Raw`."""
    return _encode(value).decode()


def text_of(raw: msgspec.Raw) -> str | None:
    """The JSON text of a part left as it came; None for null."""
    text = bytes(raw).decode()
    return None if text == "null" else text


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


# What the relay sends ------------------------------------------------------------------------------------------------


def event(
    channel: str,
    name: str,
    data: str,
    *,
    user_id: str | None = None,
    id: str | None = None,
    seq: int | None = None,
) -> str:
    """An event on a channel. `user_id` belongs to client events on presence channels only; `id` and `seq` go to
    subscribers that asked for them, beside the data."""
    message: dict[str, Any] = {"event": name, "channel": channel, "data": data}
    if user_id is not None:
        message["user_id"] = user_id
    if id is not None:
        message["id"] = id
    if seq is not None:
        message["seq"] = seq
    return json_text(message)


def _on_channel(channel: str, name: str, data: Mapping[str, object]) -> str:
    return event(channel, name, json_text(data))


def connection_established(socket_id: str, activity_timeout: float) -> str:
    """The first message; `activity_timeout` in whole seconds, at least 1: pusher-js throws when it is 0 or absent."""
    data = {"socket_id": socket_id, "activity_timeout": max(1, int(activity_timeout))}
    return json_text({"event": "pusher:connection_established", "data": json_text(data)})


def error(message: str, code: CloseCode | int | None = None) -> str:
    """Something the client sent was refused. The code is null where the protocol documents none for the cause."""
    return json_text(
        {"event": "pusher:error", "data": {"message": message, "code": None if code is None else int(code)}}
    )


def ping() -> str:
    """Are you there? Either side may ask."""
    return '{"event":"pusher:ping","data":{}}'


def pong() -> str:
    """The answer to `pusher:ping`."""
    return '{"event":"pusher:pong","data":{}}'


def subscription_succeeded(
    channel: str, *, members: Iterable[Member] | None = None, position: Position | None = None
) -> str:
    """The subscription holds. `members`, one per user, on presence channels, the new one included; `position`, the
    channel's current one, for subscribers that asked for `ids`, so that they can resume from it later."""
    data: dict[str, object] = {}
    if members is not None:
        users = {member.user_id: _raw(member.user_info) for member in members}
        data["presence"] = {"ids": list(users), "hash": users, "count": len(users)}
    if position is not None:
        data["epoch"] = position.epoch
        data["seq"] = position.seq
    return _on_channel(channel, "pusher_internal:subscription_succeeded", data)


def subscription_error(channel: str, type: str, error: str, status: int) -> str:
    """The subscription was refused. `type` is `AuthError`, `LimitReached` or `InvalidRequest`; `status` as of HTTP."""
    data = {"type": type, "error": error, "status": status}
    return json_text({"event": "pusher:subscription_error", "channel": channel, "data": data})


def subscription_count(channel: str, count: int) -> str:
    """How many connections hold the channel."""
    return _on_channel(channel, "pusher_internal:subscription_count", {"subscription_count": count})


def member_added(channel: str, member: Member) -> str:
    """A user has joined a presence channel with its first connection."""
    data: dict[str, object] = {"user_id": member.user_id}
    if member.user_info is not None:
        data["user_info"] = _raw(member.user_info)
    return _on_channel(channel, "pusher_internal:member_added", data)


def member_removed(channel: str, user_id: str) -> str:
    """A user's last connection has left a presence channel."""
    return _on_channel(channel, "pusher_internal:member_removed", {"user_id": user_id})


def cache_miss(channel: str) -> str:
    """The cache channel just joined has no last event."""
    return _on_channel(channel, "pusher:cache_miss", {})


def signin_success(user_data: str) -> str:
    """The sign-in holds; `user_data` as the client sent it."""
    return json_text({"event": "pusher:signin_success", "data": json_text({"user_data": user_data})})


def watchlist_events(events: Iterable[tuple[Literal["online", "offline"], Sequence[str]]]) -> str:
    """Users of the watchlist that came or went, each item a name and the user ids."""
    data = {"events": [{"name": name, "user_ids": list(user_ids)} for name, user_ids in events]}
    return json_text({"event": "pusher_internal:watchlist_events", "data": json_text(data)})


def resume_succeeded(channel: str, position: Position, replayed: int) -> str:
    """After the `replayed` events that were missed; everything up to `position` has now been sent."""
    data = {"epoch": position.epoch, "seq": position.seq, "replayed": replayed}
    return _on_channel(channel, "tickrelay:resume_succeeded", data)


def resume_failed(channel: str, reason: ResumeFailure, position: Position | None) -> str:
    """What was missed cannot be given; live events go on from `position` (None: the channel keeps no history)."""
    data: dict[str, object] = {"reason": reason}
    if position is not None:
        data |= {"epoch": position.epoch, "seq": position.seq}
    return _on_channel(channel, "tickrelay:resume_failed", data)


def position(channel: str, position: Position) -> str:
    """Where the channel's history now stands: for subscribers that asked for `ids` but, as pusher-js, let their users
    see nothing beside the data of an event."""
    return _on_channel(channel, "tickrelay:position", {"epoch": position.epoch, "seq": position.seq})


# What a client sends -------------------------------------------------------------------------------------------------


def client_subscribe(
    channel: str,
    *,
    auth: str | None = None,
    channel_data: str | None = None,
    resume: Position | None = None,
    rewind: int | None = None,
    ids: bool = False,
) -> str:
    """Subscribe; `auth` and `channel_data` are what the app's server signed."""
    data: dict[str, object] = {"channel": channel}
    if auth is not None:
        data["auth"] = auth
    if channel_data is not None:
        data["channel_data"] = channel_data
    if resume is not None:
        data["resume"] = {"epoch": resume.epoch, "seq": resume.seq}
    if rewind is not None:
        data["rewind"] = rewind
    if ids:
        data["ids"] = True
    return json_text({"event": "pusher:subscribe", "data": data})


def client_unsubscribe(channel: str) -> str:
    """Leave a channel."""
    return json_text({"event": "pusher:unsubscribe", "data": {"channel": channel}})


def client_signin(auth: str, user_data: str) -> str:
    """Say which user this connection belongs to; both texts are what the app's server signed."""
    return json_text({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})


def client_event(channel: str, name: str, data: str) -> str:
    """An event from client to clients; `name` begins with `client-`, `data` is JSON or any text."""
    return json_text({"event": name, "channel": channel, "data": data})


# Reading -------------------------------------------------------------------------------------------------------------


class _Envelope(msgspec.Struct):
    event: str
    channel: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    # Anything, since other servers may use these names for something else: a wrong type must not cost the message.
    user_id: Any = None
    id: Any = None
    seq: Any = None


@frozen
class Frame:
    """One message as read: `data` is the text of a string, or the JSON text of anything else; None where absent."""

    event: str
    channel: str | None
    data: str | None
    user_id: str | None = None
    id: str | None = None
    seq: int | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode
_string = msgspec.json.Decoder(str).decode
_object = msgspec.json.Decoder(dict[str, Any], float_hook=str).decode


def read(text: str) -> Frame:
    """The frame of one message; ProtocolError when it is no JSON object with a string `event`."""
    try:
        envelope = _envelope(text)
        raw = bytes(envelope.data).decode()
        data = _string(raw) if raw.startswith('"') else raw
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"message is not understood: {exc}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ProtocolError(f"message is not JSON: {exc}") from None
    user_id, id, seq = envelope.user_id, envelope.id, envelope.seq
    return Frame(
        event=envelope.event,
        channel=envelope.channel,
        data=None if raw in ("", "null") else data,
        user_id=str(user_id) if isinstance(user_id, (str, int)) else None,
        id=id if isinstance(id, str) else None,
        seq=seq if isinstance(seq, int) else None,
    )


def read_json(text: str | None, what: str) -> dict[str, Any]:
    """The JSON object in a `data` (absent counts as empty); ProtocolError naming `what` otherwise.

    Numbers with a fraction become text, so that no digit is lost.
    """
    return read_as(_object, text, what)


def read_as(decode: Callable[[str], Data], text: str | None, what: str) -> Data:
    """The JSON in a `data` as a msgspec decoder reads it (absent counts as `{}`); ProtocolError naming `what`."""
    try:
        return decode(text or "{}")
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"{what} is not understood: {exc}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ProtocolError(f"{what} is not JSON: {exc}") from None
