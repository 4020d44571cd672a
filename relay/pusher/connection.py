"""The server's half of one connection, as a state machine: it takes messages and times, and returns actions.

A connection is opened once with the query of its URL. The first action is then `pusher:connection_established`, or a close.
After that:

- Anything received proves that the client is alive. After `activity_timeout` seconds of silence it gets `pusher:ping` and a
  WebSocket ping, since some libraries support only one of them; `pong_timeout` seconds later it is closed with 4201.
  Clients of protocol 4 have no ping and are closed with 4202 after `inactivity_timeout` seconds of silence. A connection of
  any protocol is closed in the same way if it has for that time had no channel and no user and sent only heartbeats.
- If the app requires authorized connections, a connection is closed with 4009 unless it signs in, or joins a channel that
  needs a signature, in time.
- A message that is not permitted is answered and has no effect. The answer is `pusher:subscription_error` for a refused
  subscription, otherwise `pusher:error`, whose code is null unless the protocol documents one. This includes a sign-in with
  a wrong signature: after a close with 4009 a client would not reconnect, although its server could sign again.
- A signed-in user joins presence channels with `auth` alone, as the member that the sign-in describes (Pusher Channels,
  authorizing users). `channel_data` in the subscription takes precedence.
- A connection has a channel from the `JoinChannel` until `LeaveChannel`, `forget` or `lost`. The owner of the connection
  calls `lost` once when the socket has ended, and gets a `LeaveChannel` for each remaining channel.

After a close, only `lost` returns further actions.
"""

import re
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType

import msgspec
from attrs import frozen

from relay.limits import TokenBucket

from . import messages
from .apps import App, Limits
from .messages import (
    Action,
    ClientEvent,
    CloseConnection,
    JoinChannel,
    LeaveChannel,
    PingPeer,
    PresenceMember,
    ProtocolError,
    PusherCloseCode,
    ResumePosition,
    SendMessage,
    SignIn,
    read_as,
    text_of,
)
from .names import (
    ChannelType,
    channel_type,
    check_channel_name,
    check_event_name,
    check_user_id,
    is_client_event,
    server_to_user_channel,
    server_to_user_id,
)
from .signatures import Authority, user_secret, verify_authority

__all__ = ["PROTOCOLS", "ServerConnection", "admit", "hears_error"]

# --- fields that a client sends with a channel's name, checked against the app's limits -------------------------------

_EPOCH = re.compile(r"[A-Za-z0-9_\-]{1,64}")


def size_of(text: str) -> int:
    """Return the bytes of the text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class _ChannelData(msgspec.Struct):
    user_id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")


class _UserData(msgspec.Struct):
    id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")
    watchlist: list[str | int] | None = None


_channel_data = msgspec.json.Decoder(_ChannelData).decode
_user_data = msgspec.json.Decoder(_UserData).decode


@frozen
class User:
    """The user of a sign-in, with its watchlist."""

    id: str
    user_info: str | None
    watchlist: tuple[str, ...]


def member_of(channel_data: str, limits: Limits) -> PresenceMember:
    """Return the member in a signed channel_data: `user_id`, and optionally `user_info`, which may be any JSON."""
    data = read_as(_channel_data, channel_data, "channel_data")
    user_id = str(data.user_id)
    check_user_id(user_id, limits.user_id)
    member = PresenceMember(user_id, text_of(data.user_info))
    check_member_size(member, limits)
    return member


def check_member_size(member: PresenceMember, limits: Limits) -> None:
    """Raise ProtocolError 413 if this member's data, which all members of the channel receive, are too large."""
    if member.user_info is not None and size_of(member.user_info) > limits.member_size:
        raise ProtocolError(f"user_info is larger than {limits.member_size} bytes (limit member_size)", status=413)


def user_of(user_data: str, limits: Limits) -> User:
    """Return the user in a signed user_data: `id`, and optionally `user_info` and `watchlist`.

    Raises:
        ProtocolError: invalid data, or an id that cannot be part of a channel name, so that no event could reach the user.
    """
    if size_of(user_data) > limits.user_data_size:
        raise ProtocolError(f"user_data is larger than {limits.user_data_size} bytes (limit user_data_size)")
    data = read_as(_user_data, user_data, "user_data")
    user_id = str(data.id)
    check_user_id(user_id, limits.user_id)
    try:
        check_channel_name(server_to_user_channel(user_id), limits.channel_name)
    except ProtocolError as exc:
        raise ProtocolError(f"user id {user_id!r:.140} cannot be reached by events: {exc.message}") from exc
    watchlist = tuple(dict.fromkeys(map(str, data.watchlist or ())))
    return User(user_id, text_of(data.user_info), watchlist)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def resume_of(value: object) -> ResumePosition | None:
    """Return the position up to which a client has received the channel, from `resume` of its subscription."""
    if value is None:
        return None
    if isinstance(value, dict):
        epoch, seq = value.get("epoch"), _whole(value.get("seq"))
        if isinstance(epoch, str) and _EPOCH.fullmatch(epoch) and seq is not None and seq >= 0:
            return ResumePosition(epoch, seq)
    raise ProtocolError("resume must be an object with epoch (text) and seq (a whole number from 0)")


def rewind_of(value: object, limit: int) -> int | None:
    """Return the number of past events that a client requests, from `rewind` of its subscription."""
    if value is None:
        return None
    count = _whole(value)
    if count is None or not 1 <= count <= limit:
        raise ProtocolError(f"rewind must be a whole number from 1 to {limit} (limit rewind)")
    return count


def ids_of(value: object) -> bool:
    """Return True if a client requests `id` and `seq` next to the data, from `ids` of its subscription."""
    if not isinstance(value, bool | None):
        raise ProtocolError("ids must be true or false")
    return bool(value)


# --- the connection ---------------------------------------------------------------------------------------------------

PROTOCOLS = range(4, 8)
"""Supported versions of the protocol. Versions 1 to 3 have different messages and were retired long ago."""


def admit(app: App | None, *, secure: bool, origin: str | None, connections: int) -> CloseConnection | None:
    """Return the close that refuses a connection to this app (4000, 4001, 4003, 4004, 4009); None if it is accepted.

    Call it before `ServerConnection.open`. The caller checks for an unknown path (4005) and the relay's capacity (4100).

    Args:
        connections: the app's other open connections.
    """
    if app is None:
        return _closing(PusherCloseCode.APP_UNKNOWN)
    if not app.enabled:
        return _closing(PusherCloseCode.APP_DISABLED)
    if app.require_tls and not secure:
        return _closing(PusherCloseCode.TLS_REQUIRED)
    if not app.origin_allowed(origin):
        return CloseConnection(PusherCloseCode.UNAUTHORIZED, "Origin not allowed")
    if app.max_connections is not None and connections >= app.max_connections:
        return _closing(PusherCloseCode.OVER_QUOTA)
    return None


def hears_error(protocol: int) -> bool:
    """Return True if clients of this protocol get the cause of a close from `pusher:error`, not from the close frame."""
    return protocol < 6


def _closing(code: PusherCloseCode) -> CloseConnection:
    return CloseConnection(code, code.meaning)


class ServerConnection:
    """The relay's side of one client's connection to one app. Times are monotonic seconds."""

    __slots__ = (
        "_authorities",
        "_authorized",
        "_channels",
        "_client_events",
        "_digest_of",
        "_opened",
        "_pinged",
        "_seen",
        "_used",
        "_user",
        "_user_secret",
        "app",
        "closed",
        "protocol",
        "socket_id",
    )

    def __init__(
        self, app: App, socket_id: str, now: float, digest_of: Callable[[str], str | None] = lambda name: None
    ) -> None:
        """Create a connection. `digest_of` returns the digest of the API key with the given name, or None."""
        self.app = app
        """May be replaced while the connection is open; the new limits and secrets then apply."""
        self.socket_id = socket_id
        self.protocol = PROTOCOLS[-1]
        self.closed = False
        self._channels: dict[str, PresenceMember | None] = {}
        self._authorities: dict[str, Authority] | None = None
        """Created with the first channel that needs a signature, because most connections use only public channels."""
        self._digest_of = digest_of
        self._user_secret: str | None = None
        self._opened = self._seen = self._used = now
        self._pinged: float | None = None
        self._authorized = False
        self._user: PresenceMember | None = None
        self._client_events: TokenBucket | None = None
        """Created with the first client event, because most connections never send one."""

    @property
    def channels(self) -> Mapping[str, PresenceMember | None]:
        """The channels of this connection, each with the member that it joined as, or None."""
        return MappingProxyType(self._channels)

    @property
    def authorities(self) -> Mapping[str, Authority]:
        """The authority by which the connection joined each channel that needs a signature."""
        return MappingProxyType(self._authorities or {})

    @property
    def user_secret(self) -> str | None:
        """The app's secret with which the user was signed in; None if no user is."""
        return self._user_secret

    @property
    def authorized(self) -> bool:
        """True once it has signed in or joined a channel that needs a signature."""
        return self._authorized

    @property
    def user_id(self) -> str | None:
        """Id of the signed-in user, or None."""
        return None if self._user is None else self._user.user_id

    # Verbs -----------------------------------------------------------------------------------------------------------

    def open(self, query: Mapping[str, str]) -> list[Action]:
        """Open with the query of `/app/<key>?protocol=7&...`; return connection_established, or 4006, 4007 or 4008."""
        version = query.get("protocol")
        if not version:
            return self._close(PusherCloseCode.NO_PROTOCOL)
        if not re.fullmatch(r"[0-9]{1,9}", version):
            return self._close(PusherCloseCode.INVALID_VERSION)
        self.protocol = int(version)
        if self.protocol not in PROTOCOLS:
            return self._close(PusherCloseCode.UNSUPPORTED_PROTOCOL)
        return [SendMessage(messages.connection_established(self.socket_id, self.app.activity_timeout))]

    def receive(self, text: str, now: float) -> list[Action]:
        """Read one text message and return its actions."""
        if self.closed:
            return []
        self.alive(now)
        try:
            if size_of(text) > (limit := self.app.limits.message_size):
                raise ProtocolError(f"message is larger than {limit} bytes (limit message_size)")
            return self._handle(messages.read(text), now)
        except ProtocolError as exc:
            return [SendMessage(messages.error(exc.message, exc.code))]

    def refuse(self, text: str, limit: str, now: float) -> list[Action]:
        """Refuse a text message of a client that has used up a budget. `limit`: the setting's name.

        Leaving a channel is still permitted. Any other message is answered with an error and has no effect.
        """
        if self.closed:
            return []
        self.alive(now)
        why = f"too many requests (limit {limit})"
        try:
            if size_of(text) <= self.app.limits.message_size:
                frame = messages.read(text)
                if frame.event == "pusher:unsubscribe":
                    return self._handle(frame, now)
                if frame.event == "pusher:subscribe":
                    channel = messages.read_json(frame.data, "data of pusher:subscribe").get("channel")
                    if isinstance(channel, str) and channel not in self._channels:
                        return [SendMessage(messages.subscription_error(channel, "LimitReached", why, 429))]
        except ProtocolError as exc:
            why = f"{exc.message}; {why}"
        return [SendMessage(messages.error(why, PusherCloseCode.RATE_LIMITED))]

    def receive_binary(self, now: float) -> list[Action]:
        """Refuse a binary message, because the protocol has none."""
        if self.closed:
            return []
        self.alive(now)
        return [SendMessage(messages.error("binary messages are not supported"))]

    def alive(self, now: float) -> None:
        """Note that the client is alive: a WebSocket ping or pong, or a part of a message, was received."""
        self._seen = now
        self._pinged = None

    def deadline(self) -> float:
        """Return the time of the next call of `timeout`, if nothing is received before; infinity once closed."""
        if self.closed:
            return inf
        return min(self._unauthorized_at(), self._inactive_at(), self._pong_due_at(), self._ping_at())

    def timeout(self, now: float) -> list[Action]:
        """Return the actions that are due at this time; none before the deadline."""
        if self.closed:
            return []
        if now >= self._unauthorized_at():
            return self._close(PusherCloseCode.UNAUTHORIZED, "Connection not authorized within the time allowed")
        if now >= self._inactive_at():
            return self._close(PusherCloseCode.INACTIVE)
        if now >= self._pong_due_at():
            return self._close(PusherCloseCode.PONG_NOT_RECEIVED)
        if now >= self._ping_at():
            self._pinged = now
            return [SendMessage(messages.ping()), PingPeer()]
        return []

    def forget(self, channel: str) -> None:
        """Drop a subscription that the hub has refused or ended, after the hub has notified the client."""
        self._drop(channel)

    def close(self, code: int, reason: str = "") -> list[Action]:
        """Close from the relay's side: shutdown 4200, terminated 4009, too slow 4100. Do nothing if already closed."""
        return [] if self.closed else self._close(code, reason)

    def lost(self) -> list[Action]:
        """Return a `LeaveChannel` for each remaining channel, because either side has ended the socket."""
        left: list[Action] = [LeaveChannel(channel) for channel in self._channels]
        self._channels.clear()
        self._authorities = None
        self.closed = True
        self._user = None
        return left

    # Clocks ----------------------------------------------------------------------------------------------------------

    def _unauthorized_at(self) -> float:
        allowed = self.app.authorization_timeout
        return inf if allowed is None or self._authorized else self._opened + allowed

    def _inactive_at(self) -> float:
        if self.protocol < 5:
            return self._seen + self.app.inactivity_timeout
        in_use = self._channels or self._user is not None
        return inf if in_use else self._used + self.app.inactivity_timeout

    def _pong_due_at(self) -> float:
        return inf if self._pinged is None else self._pinged + self.app.pong_timeout

    def _ping_at(self) -> float:
        return inf if self.protocol < 5 or self._pinged is not None else self._seen + self.app.activity_timeout

    def _close(self, code: int, reason: str = "") -> list[Action]:
        if not reason and isinstance(code, PusherCloseCode):
            reason = code.meaning
        self.closed = True
        told: list[Action] = [SendMessage(messages.error(reason, code))] if hears_error(self.protocol) else []
        return [*told, CloseConnection(code, reason)]

    # Messages --------------------------------------------------------------------------------------------------------

    def _handle(self, frame: messages.Frame, now: float) -> list[Action]:
        match frame.event:
            case "pusher:ping":
                return [SendMessage(messages.pong())]
            case "pusher:pong":
                return []
        self._used = now
        match frame.event:
            case "pusher:subscribe":
                return self._subscribe(messages.read_json(frame.data, "data of pusher:subscribe"))
            case "pusher:unsubscribe":
                return self._unsubscribe(messages.read_json(frame.data, "data of pusher:unsubscribe"))
            case "pusher:signin":
                return self._sign_in(messages.read_json(frame.data, "data of pusher:signin"))
            case name if is_client_event(name):
                return self._client_event(frame, now)
        raise ProtocolError(f"event {frame.event[:100]!r} is not one that clients may send")

    def _subscribe(self, data: Mapping[str, object]) -> list[Action]:
        channel = data.get("channel")
        if not isinstance(channel, str):
            raise ProtocolError("pusher:subscribe: channel must be a string")
        if channel in self._channels:
            raise ProtocolError(f"Existing subscription to channel {channel}")
        try:
            subscribe = self._checked(channel, data)
        except ProtocolError as exc:
            kind = {401: "AuthError", 403: "LimitReached", 413: "LimitReached"}.get(exc.status, "InvalidRequest")
            return [SendMessage(messages.subscription_error(channel, kind, exc.message, exc.status))]
        self._channels[channel] = subscribe.member
        if subscribe.authority is not None:
            self._authorities = self._authorities or {}
            self._authorities[channel] = subscribe.authority
        return [subscribe]

    def _drop(self, channel: str) -> None:
        self._channels.pop(channel, None)
        if self._authorities is not None:
            self._authorities.pop(channel, None)

    def _checked(self, channel: str, data: Mapping[str, object]) -> JoinChannel:
        limits = self.app.limits
        kind = check_channel_name(channel, limits.channel_name)
        if len(self._channels) >= limits.subscriptions:
            raise ProtocolError(
                f"connection holds {limits.subscriptions} channels, the most allowed (limit subscriptions)", status=403
            )
        authority, member = self._authorize(channel, kind, data)
        subscribe = JoinChannel(
            channel=channel,
            member=member,
            authority=authority,
            resume=resume_of(data.get("resume")),
            rewind=rewind_of(data.get("rewind"), limits.rewind),
            ids=ids_of(data.get("ids")),
        )
        self._authorized = self._authorized or kind.authorized
        return subscribe

    def _authorize(
        self, channel: str, kind: ChannelType, data: Mapping[str, object]
    ) -> tuple[Authority | None, PresenceMember | None]:
        if kind is ChannelType.SERVER_TO_USER:
            if self.user_id is None or server_to_user_id(channel) != self.user_id:
                raise ProtocolError("channel belongs to a user this connection is not signed in as", status=401)
            return None, None
        if not kind.authorized:
            return None, None
        auth, channel_data = data.get("auth"), data.get("channel_data")
        if not isinstance(auth, str) or not auth:
            raise ProtocolError("auth is missing: this channel needs a signature", status=401)
        if channel_data is not None and not isinstance(channel_data, str):
            raise ProtocolError("channel_data must be a string of JSON, exactly as it was signed")
        authority = verify_authority(self.app, auth, self.socket_id, channel, channel_data, self._digest_of)
        if authority is None:
            raise ProtocolError(
                "auth is not this app's signature for this socket, channel and channel_data", status=401
            )
        return authority, self._member(kind, channel_data)

    def _member(self, kind: ChannelType, channel_data: str | None) -> PresenceMember | None:
        if kind.presence and not channel_data and self._user is not None:
            check_member_size(self._user, self.app.limits)
            return self._user
        try:
            return member_of(channel_data or "", self.app.limits)
        except ProtocolError:
            if kind.presence:
                raise
            return None  # on private channels the app may sign any data

    def _unsubscribe(self, data: Mapping[str, object]) -> list[Action]:
        channel = data.get("channel")
        if not isinstance(channel, str):
            raise ProtocolError("pusher:unsubscribe: channel must be a string")
        if channel not in self._channels:
            raise ProtocolError(f"No current subscription to channel {channel[:200]}")
        self._drop(channel)
        return [LeaveChannel(channel)]

    def _sign_in(self, data: Mapping[str, object]) -> list[Action]:
        auth, user_data = data.get("auth"), data.get("user_data")
        if not isinstance(auth, str) or not isinstance(user_data, str):
            raise ProtocolError("pusher:signin: auth and user_data must be strings")
        secret = user_secret(self.app, auth, self.socket_id, user_data)
        if secret is None:
            raise ProtocolError("pusher:signin: auth is not this app's signature for this socket and user_data")
        limit = self.app.limits.watchlist
        user = user_of(user_data, self.app.limits)
        if self.user_id not in (None, user.id):
            raise ProtocolError("connection is already signed in as another user")
        self._user, self._authorized = PresenceMember(user.id, user.user_info), True
        self._user_secret = secret
        actions: list[Action] = [SendMessage(messages.signin_success(user_data))]
        if len(user.watchlist) > limit:
            text = f"watchlist is longer than {limit} users (limit watchlist): the first ones are watched"
            actions.append(SendMessage(messages.error(text, PusherCloseCode.WATCHLIST_LIMIT)))
        return [*actions, SignIn(user.id, user.user_info, user.watchlist[:limit])]

    def _client_event(self, frame: messages.Frame, now: float) -> list[Action]:
        channel, limits = frame.channel, self.app.limits
        if not self.app.client_events:
            raise ProtocolError("Client event rejected: client events are not enabled for this app")
        if channel is None or not channel_type(channel).authorized:
            raise ProtocolError("Client event rejected: only supported on private and presence channels")
        if channel not in self._channels:
            raise ProtocolError(f"Client event rejected: no current subscription to channel {channel[:200]}")
        check_event_name(frame.event, limits.event_name)
        data = "null" if frame.data is None else frame.data
        if size_of(data) > limits.event_payload:
            raise ProtocolError(f"data is larger than {limits.event_payload} bytes (limit event_payload)")
        if not self._take_client_event(now):
            raise ProtocolError(
                f"Client event rejected: more than {limits.client_events_per_second:g} per second "
                "(limit client_events_per_second)",
                code=PusherCloseCode.RATE_LIMITED,
            )
        member = self._channels[channel]
        presence = channel_type(channel).presence
        return [ClientEvent(channel, frame.event, data, member.user_id if presence and member else None)]

    def _take_client_event(self, now: float) -> bool:
        rate = self.app.limits.client_events_per_second
        if self._client_events is None:
            self._client_events = TokenBucket(rate)
        self._client_events.rate = rate
        return self._client_events.take(1, now)
