"""The messages of the Pusher Channels protocol: their JSON, their errors, and the actions of connections.

- `PusherCloseCode`, `ProtocolError`: the reasons for which a connection is closed or a message refused.
- Actions: requests of a state machine to its owner, to be executed in order, each one completely before the next.
- Builders: the JSON text of every message. Those for the relay's messages are named after the event, those for a client's
  messages begin with `client_`. Events of the relay itself begin with `tickrelay:`; clients that do not know them ignore
  them.

In messages from the relay, `data` is a string, so that JSON in it is encoded twice, except in `pusher:error`,
`pusher:subscription_error`, `pusher:ping` and `pusher:pong`, which the protocol defines as objects. In messages from
clients `data` may be a string or any JSON value. In both cases `read` keeps its text, digit for digit.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal, TypeVar

import msgspec
from attrs import field, frozen

from .signatures import Authority

# --- errors ----------------------------------------------------------------------------------------------------------


class PusherCloseCode(IntEnum):
    """The cause of a close or, from 4300 on, of the refusal of a message (Pusher Channels protocol, error codes).

    The hundreds define the client's reaction: 40xx do not reconnect unchanged, 41xx reconnect after a second or more, 42xx
    reconnect at once, 43xx none, because the connection stays open.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "PusherCloseCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    TLS_REQUIRED = 4000, "Application only accepts SSL connections, reconnect using wss://"
    APP_UNKNOWN = 4001, "Application does not exist"
    APP_DISABLED = 4003, "Application disabled"
    OVER_QUOTA = 4004, "Application is over connection quota"
    PATH_NOT_FOUND = 4005, "Path not found"
    INVALID_VERSION = 4006, "Invalid version string format"
    UNSUPPORTED_PROTOCOL = 4007, "Unsupported protocol version"
    NO_PROTOCOL = 4008, "No protocol version supplied"
    UNAUTHORIZED = 4009, "Connection is unauthorized"
    OVER_CAPACITY = 4100, "Over capacity"
    RECONNECT = 4200, "Generic reconnect immediately"
    PONG_NOT_RECEIVED = 4201, "Pong reply not received"
    INACTIVE = 4202, "Closed after inactivity"
    RATE_LIMITED = 4301, "Client event rejected due to rate limit"
    WATCHLIST_LIMIT = 4302, "Watchlist limit exceeded"
    COMMAND_REFUSED = 4303, "Command refused"
    CLIENT_EVENT_LOST = 4304, "Client event not delivered"


class ProtocolError(Exception):
    """Raised for a message that is not permitted; the text gives the fault and names the limit or field.

    `code` is a documented code or None (the protocol has none for most refusals); `status` is the HTTP status that a
    `pusher:subscription_error` or an HTTP answer gives for the same cause.
    """

    def __init__(self, message: str, *, code: PusherCloseCode | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


class NotJson(ProtocolError):
    """Raised for a message, or the data of a protocol event, that is not JSON, because it was damaged in transit."""


# --- actions ---------------------------------------------------------------------------------------------------------


@frozen
class PresenceMember:
    """A user on a presence channel (or on a private channel whose authorization carried channel_data)."""

    user_id: str
    user_info: str | None = None
    """JSON text exactly as the app's server signed it; None if it sent none."""


@frozen
class ResumePosition:
    """A position in a channel's history: all events up to and including `seq` of `epoch` have been received."""

    epoch: str
    seq: int


@frozen
class SendMessage:
    """Send this text message to the peer."""

    text: str


@frozen
class PingPeer:
    """Send a WebSocket ping (RFC 6455), which every client answers, even if it does not support `pusher:ping`."""


@frozen(kw_only=True)
class JoinChannel:
    """Add the connection to the channel. Its name, its signature and the connection's limits have been checked.

    The hub answers with `subscription_succeeded`, the events for resume or rewind, and the cached event or `cache_miss`. If
    it refuses, for example because a presence channel is full, it sends `subscription_error` and calls `forget`.
    """

    channel: str
    member: PresenceMember | None = None
    """Always present on presence channels; on private ones if the authorization included a user_id."""
    resume: ResumePosition | None = None
    """The client has received all events up to this position and requests the later ones."""
    rewind: int | None = None
    """The number of past events that the client requests."""
    authority: Authority | None = field(default=None, repr=False, eq=False)
    """The authority of the subscription, on channels that need a signature."""
    ids: bool = False
    """The client requests `id` and `seq` next to events whose data have none."""


@frozen
class LeaveChannel:
    """Remove the connection from the channel."""

    channel: str


@frozen
class ClientEvent:
    """Deliver to every subscriber of the channel except the sender. Client events are not cached."""

    channel: str
    event: str
    data: str
    user_id: str | None = None
    """User id of the sending member, on presence channels only."""


@frozen
class SignIn:
    """Assign the connection to this user. It receives the user's server-to-user channel and watchlist events.

    `signin_success` was sent; the hub sends the watchlist events.
    """

    user_id: str
    user_info: str | None = None
    """JSON text or None."""
    watchlist: tuple[str, ...] = ()


@frozen
class CloseConnection:
    """Close the WebSocket with this code; the connection accepts nothing more."""

    code: int
    reason: str = ""


Action = SendMessage | PingPeer | JoinChannel | LeaveChannel | ClientEvent | SignIn | CloseConnection


# --- JSON ------------------------------------------------------------------------------------------------------------


ResumeFailure = Literal["epoch_changed", "position_expired", "position_ahead", "history_disabled"]
"""The reason why a resume is impossible: the channel's history was restarted; events after the position are no longer
stored; the channel has not reached the position; the channel has no history."""

Data = TypeVar("Data")

_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> str:
    """Return compact JSON. Text that is already JSON goes in as `msgspec.Raw`."""
    return _encode(value).decode()


def text_of(raw: msgspec.Raw) -> str | None:
    """Return the JSON text of an undecoded part; None for null."""
    text = bytes(raw).decode()
    return None if text == "null" else text


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


# --- text of what the relay sends ------------------------------------------------------------------------------------


def event(
    channel: str,
    name: str,
    data: str,
    *,
    user_id: str | None = None,
    id: str | None = None,
    seq: int | None = None,
) -> str:
    """Write an event on a channel.

    `user_id` is only for client events on presence channels; `id` and `seq` are for subscribers that requested them.
    """
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
    """Write the first message; `activity_timeout` in whole seconds, at least 1: pusher-js throws when it is 0 or absent."""
    data = {"socket_id": socket_id, "activity_timeout": max(1, int(activity_timeout))}
    return json_text({"event": "pusher:connection_established", "data": json_text(data)})


def error(message: str, code: PusherCloseCode | int | None = None, details: Mapping[str, object] | None = None) -> str:
    """Write that a client's message was refused. The code is null if the protocol documents none for the cause.

    `details`: further members for programs; those that are None are left out.
    """
    data: dict[str, object] = {"message": message, "code": None if code is None else int(code)}
    data |= {name: value for name, value in (details or {}).items() if value is not None}
    return json_text({"event": "pusher:error", "data": data})


def ping() -> str:
    """Write a `pusher:ping`, which either side may send."""
    return '{"event":"pusher:ping","data":{}}'


def pong() -> str:
    """Write the answer to `pusher:ping`."""
    return '{"event":"pusher:pong","data":{}}'


def subscription_succeeded(
    channel: str, *, members: Iterable[PresenceMember] | None = None, position: ResumePosition | None = None
) -> str:
    """Write that the subscription has succeeded.

    Args:
        members: on presence channels, one per user, including the new one.
        position: the channel's current position, for subscribers that requested `ids`, so that they can resume from it.
    """
    data: dict[str, object] = {}
    if members is not None:
        users = {member.user_id: _raw(member.user_info) for member in members}
        data["presence"] = {"ids": list(users), "hash": users, "count": len(users)}
    if position is not None:
        data["epoch"] = position.epoch
        data["seq"] = position.seq
    return _on_channel(channel, "pusher_internal:subscription_succeeded", data)


def subscription_error(channel: str, type: str, error: str, status: int) -> str:
    """Write a refused subscription. `type` is `AuthError`, `LimitReached` or `InvalidRequest`; `status` as of HTTP."""
    data = {"type": type, "error": error, "status": status}
    return json_text({"event": "pusher:subscription_error", "channel": channel, "data": data})


def subscription_count(channel: str, count: int) -> str:
    """Write the number of connections subscribed to the channel."""
    return _on_channel(channel, "pusher_internal:subscription_count", {"subscription_count": count})


def member_added(channel: str, member: PresenceMember) -> str:
    """Write that a user has joined a presence channel with its first connection."""
    data: dict[str, object] = {"user_id": member.user_id}
    if member.user_info is not None:
        data["user_info"] = _raw(member.user_info)
    return _on_channel(channel, "pusher_internal:member_added", data)


def member_removed(channel: str, user_id: str) -> str:
    """Write that a user's last connection has left a presence channel."""
    return _on_channel(channel, "pusher_internal:member_removed", {"user_id": user_id})


def cache_miss(channel: str) -> str:
    """Write that the cache channel just joined has no last event."""
    return _on_channel(channel, "pusher:cache_miss", {})


def signin_success(user_data: str) -> str:
    """Write that the sign-in has succeeded; `user_data` as the client sent it."""
    return json_text({"event": "pusher:signin_success", "data": json_text({"user_data": user_data})})


def watchlist_events(events: Iterable[tuple[Literal["online", "offline"], Sequence[str]]]) -> str:
    """Write which users of the watchlist came online or went offline. Each item is an event name and the user ids."""
    data = {"events": [{"name": name, "user_ids": list(user_ids)} for name, user_ids in events]}
    return json_text({"event": "pusher_internal:watchlist_events", "data": json_text(data)})


def resume_succeeded(channel: str, position: ResumePosition, replayed: int) -> str:
    """Write the end of a resume, after `replayed` missed events. All events up to `position` have now been sent."""
    data = {"epoch": position.epoch, "seq": position.seq, "replayed": replayed}
    return _on_channel(channel, "tickrelay:resume_succeeded", data)


def resume_failed(channel: str, reason: ResumeFailure, position: ResumePosition | None) -> str:
    """Write that the missed events are lost. Live events continue from `position` (None: the channel has no history)."""
    data: dict[str, object] = {"reason": reason}
    if position is not None:
        data |= {"epoch": position.epoch, "seq": position.seq}
    return _on_channel(channel, "tickrelay:resume_failed", data)


def position(channel: str, position: ResumePosition) -> str:
    """Write the current position of the channel, for subscribers that requested `ids` but whose library, like pusher-js,
    shows its users only the data of an event."""
    return _on_channel(channel, "tickrelay:position", {"epoch": position.epoch, "seq": position.seq})


# --- text of what a client sends -------------------------------------------------------------------------------------


def client_subscribe(
    channel: str,
    *,
    auth: str | None = None,
    channel_data: str | None = None,
    resume: ResumePosition | None = None,
    rewind: int | None = None,
    ids: bool = False,
) -> str:
    """Write a subscription; the app's server has signed `auth` and `channel_data`."""
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
    """Write the end of a subscription."""
    return json_text({"event": "pusher:unsubscribe", "data": {"channel": channel}})


def client_signin(auth: str, user_data: str) -> str:
    """Write a sign-in; the app's server has signed both texts."""
    return json_text({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})


def client_event(channel: str, name: str, data: str) -> str:
    """Write an event from client to clients; `name` begins with `client-`, `data` is JSON or any text."""
    return json_text({"event": name, "channel": channel, "data": data})


# --- reading ---------------------------------------------------------------------------------------------------------


class _Envelope(msgspec.Struct):
    event: str
    channel: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    # Any type, since other servers may use these names differently: a wrong type must not make the message unreadable.
    user_id: Any = None
    id: Any = None
    seq: Any = None


@frozen
class Frame:
    """One decoded message. `data` is the text of a string, or the JSON text of any other value; None if absent."""

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
    """Decode one message. Raises ProtocolError if it is not a JSON object with a string `event`."""
    try:
        envelope = _envelope(text)
        raw = bytes(envelope.data).decode()
        data = _string(raw) if raw.startswith('"') else raw
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"message is not understood: {exc}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise NotJson(f"message is not JSON: {json_fault(text, exc)}") from None
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
    """Return the JSON object in `data`; empty if absent. Raises ProtocolError naming `what` if it is not an object.

    Numbers with a fraction become text, so that no digit is lost.
    """
    return read_as(_object, text, what)


def read_as(decode: Callable[[str], Data], text: str | None, what: str) -> Data:
    """Decode the JSON in `data` with a msgspec decoder; absent counts as `{}`. Raises ProtocolError naming `what`."""
    try:
        return decode(text or "{}")
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"{what} is not understood: {exc}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise NotJson(f"{what} is not JSON: {json_fault(text or '', exc)}") from None


_half_pair = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})").search


def json_fault(text: str | bytes, error: Exception) -> str:
    """Return the reason why `text` could not be decoded as JSON, for its sender.

    It replaces two texts of msgspec: "truncated" for half of a surrogate pair, and Python's limits for deep nesting.
    """
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if ("truncated" in str(error) or "surrogate" in str(error)) and _half_pair(
        text if isinstance(text, str) else text.decode("latin-1")
    ):
        return "an escape stands for half a character (a lone surrogate)"
    return str(error)
