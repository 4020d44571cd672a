"""The client's half of one connection, as a state machine: it takes messages and times, and returns signals.

The first message must be `pusher:connection_established` (or a `pusher:error` before a close). Until it arrives, for which
the client waits `handshake_timeout` seconds, nothing may be sent. Anything received proves that the server is alive. After a
silence as long as the shorter of the two activity timeouts the client sends `pusher:ping`, and `pong_timeout` seconds later
it closes the connection. JSON that is not understood is returned as `Malformed` and changes nothing, because a server may
know more of the protocol than this client.

A message that is not JSON was damaged in transit. It may have been an event that is not repeated, such as the end of an
order, and since sequence numbers may jump, the next number would not show the loss. The connection is closed, so that a
client that resumes receives the event again.

The verbs `subscribe`, `unsubscribe`, `sign_in`, `trigger` and `ping` return the text to send. Authorizing a channel is the
caller's: `auth` and `channel_data` come from the app's server once the socket id is known.
"""

from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec
from attrs import frozen

from . import messages
from .messages import (
    CloseConnection,
    NotJson,
    PresenceMember,
    ProtocolError,
    PusherCloseCode,
    ResumePosition,
    SendMessage,
)

__all__ = [
    "CacheMiss",
    "ChannelMessage",
    "ClientConnection",
    "ClientSignal",
    "Established",
    "Malformed",
    "MemberAdded",
    "MemberRemoved",
    "Pong",
    "PositionReached",
    "PusherError",
    "Reconnect",
    "ResumeFailed",
    "ResumeSucceeded",
    "SignedIn",
    "Subscribed",
    "SubscriptionCount",
    "SubscriptionError",
    "WatchlistEvents",
    "reconnect_action",
]


_INVALID_DATA = 1007
"""RFC 6455, 7.4.1: the close code for data that do not match the type of the message."""


# --- signals ---------------------------------------------------------------------------------------------


@frozen
class Established:
    """The connection is open."""

    socket_id: str
    activity_timeout: float
    """Seconds of silence after which this client pings: the shorter of the server's and its own."""


@frozen
class Subscribed:
    """The subscription has succeeded."""

    channel: str
    members: tuple[PresenceMember, ...] = ()
    """All members of a presence channel."""
    position: ResumePosition | None = None
    """The position of the channel's history, if `ids` were requested."""


@frozen
class SubscriptionError:
    """The subscription was refused."""

    channel: str
    type: str
    error: str
    status: int | None


@frozen
class ChannelMessage:
    """An event on a channel (or, with channel None, to the whole connection); `data` is its text, JSON or not."""

    channel: str | None
    event: str
    data: str | None
    user_id: str | None = None
    id: str | None = None
    seq: int | None = None


@frozen
class MemberAdded:
    """A user joined a presence channel."""

    channel: str
    member: PresenceMember


@frozen
class MemberRemoved:
    """A user left a presence channel."""

    channel: str
    user_id: str


@frozen
class SubscriptionCount:
    """Report the number of connections subscribed to the channel."""

    channel: str
    count: int


@frozen
class CacheMiss:
    """A cache channel has no last event."""

    channel: str


@frozen
class SignedIn:
    """The sign-in has succeeded."""

    user_data: str


@frozen
class WatchlistEvents:
    """Watched users that came online or went offline."""

    name: Literal["online", "offline"]
    user_ids: tuple[str, ...]


@frozen
class ResumeSucceeded:
    """All missed events have been delivered, up to `position`."""

    channel: str
    position: ResumePosition
    replayed: int


@frozen
class ResumeFailed:
    """The missed events are lost; the channel continues from `position`."""

    channel: str
    reason: str
    position: ResumePosition | None


@frozen
class PositionReached:
    """The channel's current position. All events up to it have been delivered."""

    channel: str
    position: ResumePosition


@frozen
class PusherError:
    """The server refused a message, or gives the reason for a close that follows."""

    message: str
    code: int | None


@frozen
class Pong:
    """The server answered a ping."""


@frozen
class Malformed:
    """A message that is not part of the protocol."""

    text: str
    reason: str


ClientSignal = (
    Established
    | Subscribed
    | SubscriptionError
    | ChannelMessage
    | MemberAdded
    | MemberRemoved
    | SubscriptionCount
    | CacheMiss
    | SignedIn
    | WatchlistEvents
    | ResumeSucceeded
    | ResumeFailed
    | PositionReached
    | PusherError
    | Pong
    | Malformed
    | SendMessage
    | CloseConnection
)
"""Results of `receive` and `timeout`. The caller executes `SendMessage` and `CloseConnection`; the others inform it."""


# --- the connection ------------------------------------------------------------------------------------------------


class Reconnect(Enum):
    """The client's action after a close."""

    AT_ONCE = "at once"
    BACK_OFF = "back off"
    """Wait a second or more, longer after each failure."""
    OVER_TLS = "over tls"
    """Reconnect at once, over wss://."""
    NEVER = "never"
    """The same connection would be refused again."""


def reconnect_action(code: int | None) -> Reconnect:
    """Return the action for a close code (Pusher Channels protocol, connection closure); None: the connection was lost."""
    if code is None or code < 4000:
        return Reconnect.BACK_OFF
    if code == PusherCloseCode.TLS_REQUIRED:
        return Reconnect.OVER_TLS
    if 4100 <= code < 4200:
        return Reconnect.BACK_OFF
    if 4200 <= code < 4300:
        return Reconnect.AT_ONCE
    return Reconnect.NEVER


class ClientConnection:
    """The client's side of one connection to a Pusher server. Times are monotonic seconds."""

    def __init__(
        self,
        key: str,
        now: float,
        *,
        activity_timeout: float = 120,
        pong_timeout: float = 30,
        handshake_timeout: float = 30,
        client: str = "tickrelay",
        version: str = "1.0",
        resumes: bool = True,
    ) -> None:
        """Begin a connection that is being opened. `resumes`: end it on a message that is not JSON; the caller resumes."""
        self.path = f"/app/{key}?{urlencode({'protocol': 7, 'client': client, 'version': version, 'flash': 'false'})}"
        """Path and query of the WebSocket's URL."""
        self.socket_id: str | None = None
        """None until the connection is established."""
        self.closed = False
        self._resumes = resumes
        self._activity_timeout = activity_timeout
        self._pong_timeout = pong_timeout
        self._handshake_by = now + handshake_timeout
        self._seen = now
        self._pinged: float | None = None

    # Sending ---------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        channel: str,
        auth: str | None = None,
        channel_data: str | None = None,
        *,
        resume: ResumePosition | None = None,
        rewind: int | None = None,
        ids: bool = False,
    ) -> str:
        """Subscribe. `resume`, `rewind` and `ids` are the relay's own and unknown to other servers."""
        return messages.client_subscribe(
            channel, auth=auth, channel_data=channel_data, resume=resume, rewind=rewind, ids=ids
        )

    def unsubscribe(self, channel: str) -> str:
        """Leave a channel."""
        return messages.client_unsubscribe(channel)

    def sign_in(self, auth: str, user_data: str) -> str:
        """Sign in: state which user this connection belongs to."""
        return messages.client_signin(auth, user_data)

    def trigger(self, channel: str, event: str, data: str) -> str:
        """Send an event to the channel's other subscribers; its name must begin with `client-`."""
        if not event.startswith("client-"):
            raise ValueError(f"a client event's name begins with client-, unlike {event!r}")
        return messages.client_event(channel, event, data)

    def ping(self) -> str:
        """Ping the server now."""
        return messages.ping()

    # Time ------------------------------------------------------------------------------------------------------------

    def alive(self, now: float) -> None:
        """Note that the server is alive, because something other than a text message was received."""
        self._seen = now
        self._pinged = None

    def deadline(self) -> float:
        """Return the time of the next call of `timeout`, if nothing is received before; infinity once closed."""
        if self.closed:
            return inf
        if self.socket_id is None:
            return self._handshake_by
        if self._pinged is not None:
            return self._pinged + self._pong_timeout
        return self._seen + self._activity_timeout

    def timeout(self, now: float) -> list[ClientSignal]:
        """Ping, or close with 4201. Do nothing before the deadline."""
        if now < self.deadline():
            return []
        if self.socket_id is not None and self._pinged is None:
            self._pinged = now
            return [SendMessage(messages.ping())]
        self.closed = True
        reason = (
            "No pong from the server" if self.socket_id is not None else "No connection_established from the server"
        )
        return [CloseConnection(PusherCloseCode.PONG_NOT_RECEIVED, reason)]

    # Receiving -------------------------------------------------------------------------------------------------------

    def receive(self, text: str, now: float) -> list[ClientSignal]:
        """Read one text message."""
        if self.closed:
            return []
        self.alive(now)
        try:
            frame = messages.read(text)
            handler = _HANDLERS.get(frame.event)
            if handler is not None:
                return handler(self, frame)
        except NotJson as exc:
            if not self._resumes:
                return [Malformed(text, exc.message)]
            self.closed = True
            return [Malformed(text, exc.message), CloseConnection(_INVALID_DATA, exc.message)]
        except ProtocolError as exc:
            return [Malformed(text, exc.message)]
        return [ChannelMessage(frame.channel, frame.event, frame.data, frame.user_id, frame.id, frame.seq)]

    def _established(self, frame: messages.Frame) -> list[ClientSignal]:
        data = _data(frame)
        self.socket_id = _text(data, "socket_id")
        offered = _number(data.get("activity_timeout"))
        if offered is not None and offered > 0:
            self._activity_timeout = min(self._activity_timeout, offered)
        return [Established(self.socket_id, self._activity_timeout)]

    def _ping(self, frame: messages.Frame) -> list[ClientSignal]:
        return [SendMessage(messages.pong())]

    def _pong(self, frame: messages.Frame) -> list[ClientSignal]:
        return [Pong()]

    def _error(self, frame: messages.Frame) -> list[ClientSignal]:
        data = _data(frame)
        code = data.get("code")
        return [PusherError(str(data.get("message")), code if isinstance(code, int) else None)]

    def _subscribed(self, frame: messages.Frame) -> list[ClientSignal]:
        data = messages.read_as(_subscription, frame.data, f"data of {frame.event}")
        users = data.presence.hash if data.presence is not None else {}
        members = (PresenceMember(user_id, messages.text_of(info)) for user_id, info in dict(users).items())
        return [Subscribed(_channel(frame), tuple(members), _position({"epoch": data.epoch, "seq": data.seq}))]

    def _subscription_error(self, frame: messages.Frame) -> list[ClientSignal]:
        channel, data = _channel(frame), _data(frame)
        status = data.get("status")
        return [
            SubscriptionError(
                channel, str(data.get("type")), str(data.get("error")), status if isinstance(status, int) else None
            )
        ]

    def _member_added(self, frame: messages.Frame) -> list[ClientSignal]:
        data = messages.read_as(_member, frame.data, f"data of {frame.event}")
        return [MemberAdded(_channel(frame), PresenceMember(str(data.user_id), messages.text_of(data.user_info)))]

    def _member_removed(self, frame: messages.Frame) -> list[ClientSignal]:
        channel, data = _channel(frame), _data(frame)
        return [MemberRemoved(channel, _text(data, "user_id"))]

    def _subscription_count(self, frame: messages.Frame) -> list[ClientSignal]:
        channel, data = _channel(frame), _data(frame)
        return [SubscriptionCount(channel, _count(data, "subscription_count"))]

    def _cache_miss(self, frame: messages.Frame) -> list[ClientSignal]:
        return [CacheMiss(_channel(frame))]

    def _signed_in(self, frame: messages.Frame) -> list[ClientSignal]:
        return [SignedIn(_text(_data(frame), "user_data"))]

    def _watchlist(self, frame: messages.Frame) -> list[ClientSignal]:
        events = _data(frame).get("events")
        if not isinstance(events, list):
            raise ProtocolError("pusher_internal:watchlist_events: events is not a list")
        return [_watchlist_events(event) for event in events]

    def _resumed(self, frame: messages.Frame) -> list[ClientSignal]:
        channel, data = _channel(frame), _data(frame)
        return [ResumeSucceeded(channel, _known_position(data), _count(data, "replayed"))]

    def _not_resumed(self, frame: messages.Frame) -> list[ClientSignal]:
        channel, data = _channel(frame), _data(frame)
        return [ResumeFailed(channel, _text(data, "reason"), _position(data))]

    def _stands(self, frame: messages.Frame) -> list[ClientSignal]:
        return [PositionReached(_channel(frame), _known_position(_data(frame)))]


_HANDLERS: dict[str, Callable[[ClientConnection, messages.Frame], list[ClientSignal]]] = {
    "pusher:connection_established": ClientConnection._established,
    "pusher:ping": ClientConnection._ping,
    "pusher:pong": ClientConnection._pong,
    "pusher:error": ClientConnection._error,
    "pusher:subscription_error": ClientConnection._subscription_error,
    "pusher:cache_miss": ClientConnection._cache_miss,
    "pusher:signin_success": ClientConnection._signed_in,
    "pusher_internal:subscription_succeeded": ClientConnection._subscribed,
    "pusher_internal:member_added": ClientConnection._member_added,
    "pusher_internal:member_removed": ClientConnection._member_removed,
    "pusher_internal:subscription_count": ClientConnection._subscription_count,
    "pusher_internal:watchlist_events": ClientConnection._watchlist,
    "tickrelay:resume_succeeded": ClientConnection._resumed,
    "tickrelay:resume_failed": ClientConnection._not_resumed,
    "tickrelay:position": ClientConnection._stands,
}


# The members' user_info is kept as received, digit for digit.


class _Presence(msgspec.Struct):
    hash: dict[str, msgspec.Raw] | tuple[()] = ()
    """Servers written in PHP send `[]` for an empty hash."""


class _Subscription(msgspec.Struct):
    presence: _Presence | None = None
    epoch: Any = None
    seq: Any = None


class _Member(msgspec.Struct):
    user_id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")


_subscription = msgspec.json.Decoder(_Subscription).decode
_member = msgspec.json.Decoder(_Member).decode


def _data(frame: messages.Frame) -> dict[str, Any]:
    return messages.read_json(frame.data, f"data of {frame.event}")


def _channel(frame: messages.Frame) -> str:
    if frame.channel is None:
        raise ProtocolError(f"{frame.event}: channel is missing")
    return frame.channel


def _text(data: dict[str, Any], name: str) -> str:
    """Return an id as text; other servers may send whole numbers."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ProtocolError(f"{name} is not a text")
    return str(value)


def _count(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolError(f"{name} is not a whole number")
    return value


def _number(value: object) -> float | None:
    """Return a number of seconds. Fractions arrive as text."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def _position(data: dict[str, Any]) -> ResumePosition | None:
    epoch, seq = data.get("epoch"), data.get("seq")
    return ResumePosition(epoch, seq) if isinstance(epoch, str) and isinstance(seq, int) else None


def _known_position(data: dict[str, Any]) -> ResumePosition:
    position = _position(data)
    if position is None:
        raise ProtocolError("epoch or seq is missing")
    return position


def _watchlist_events(event: object) -> WatchlistEvents:
    match event:
        case {"name": "online" | "offline" as name, "user_ids": [*user_ids]}:
            return WatchlistEvents(name, tuple(map(str, user_ids)))
    raise ProtocolError("pusher_internal:watchlist_events: an event is neither online nor offline with user_ids")
