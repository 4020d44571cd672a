"""The HTTP API without IO: authenticate and parse requests, and encode answers (Pusher Channels HTTP API reference).

The signature in a request's query is verified before the body is parsed. Refusals raise ApiError with the status given in
the reference and a text that names the field or the limit. No error has status 200.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from attrs import frozen

from . import signatures
from .apps import App
from .messages import ProtocolError, ResumeFailure, ResumePosition, json_fault, json_text
from .names import (
    channel_type,
    check_channel_name,
    check_event_name,
    check_socket_id,
    check_user_id,
    server_to_user_channel,
)

TIMESTAMP_WINDOW = 600
"""Seconds by which `auth_timestamp` may differ from the current time, in either direction."""

_AUTH_PARAMS = frozenset({"auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"})


class ApiError(Exception):
    """A request refused: the HTTP status, and the reason as text."""

    def __init__(self, status: int, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = dict(details or {})
        """Further members of the answer, for programs."""

    @property
    def body(self) -> bytes:
        """The JSON of the answer."""
        return json_text({"error": self.message, "status": self.status, **self.details}).encode()


@frozen(kw_only=True)
class Info:
    """The attributes of a channel that are requested."""

    user_count: bool = False
    subscription_count: bool = False
    cache: bool = False


@frozen(kw_only=True)
class Trigger:
    """One event to publish."""

    name: str
    channels: tuple[str, ...]
    """Each once, in the order given."""
    data: str
    socket_id: str | None = None
    """The connection that must not receive it."""
    info: Info | None = None
    """The requested attributes of the channels; None if `info` was not sent."""


@frozen(kw_only=True)
class HistoryQuery:
    """A request for a channel's history."""

    after: ResumePosition | None
    """Return events after this position; None: the newest events."""
    limit: int


# --- authentication --------------------------------------------------------------------------------------------------


def auth_key(raw_query: str) -> str | None:
    """Return the `auth_key` of a query, to find the app of a request whose path names none. It is not verified."""
    return dict(signatures.query_pairs(raw_query)).get("auth_key")


def authenticate(app: App, method: str, path: str, raw_query: str, body: bytes, now_unix: float) -> dict[str, str]:
    """Return the parameters of an authentic request, keys in lower case, without those for authentication.

    Raises what `authenticate_head` and `AuthenticHead.check_body` raise.
    """
    head = authenticate_head(app, method, path, raw_query, now_unix)
    head.check_body(body)
    return head.params


@frozen
class AuthenticHead:
    """A request with a valid signature. Its body, which the signature covers through `body_md5`, is not yet checked."""

    params: dict[str, str]
    """Keys in lower case, without those for authentication; of a list only the last item."""
    lists: Mapping[str, tuple[str, ...]]
    """The lists, `name[]=one&name[]=other`, by the name without brackets."""
    body_md5: str | None

    def check_body(self, body: bytes) -> None:
        """Raise ApiError 401 unless this is the body that was signed."""
        if self.body_md5 is None:
            if body:
                raise unsigned_body()
        elif not signatures.same(self.body_md5.lower(), signatures.md5_hex(body)):
            raise ApiError(401, "body_md5 is not the MD5 of the body")


def unsigned_body() -> ApiError:
    """Return the refusal of a request that has a body without `body_md5`."""
    return ApiError(401, "body_md5 is missing: a request with a body must sign it")


def authenticate_head(app: App, method: str, path: str, raw_query: str, now_unix: float) -> AuthenticHead:
    """Verify a request's signature and time, without its body, which need not have been read.

    `path` and `raw_query` as in the request line; `now_unix` in seconds. Raises ApiError 400 for a key that occurs twice,
    401 for invalid authentication, 403 for a disabled app.
    """
    pairs = signatures.query_pairs(raw_query)
    params = _unique(pairs)
    for name in ("auth_key", "auth_timestamp", "auth_version", "auth_signature"):
        if name not in params:
            raise ApiError(401, f"{name} is missing")
    if params["auth_key"] != app.key:
        raise ApiError(401, "auth_key is not this app's")
    if params["auth_version"] != "1.0":
        raise ApiError(401, "auth_version must be 1.0")
    _check_timestamp(params["auth_timestamp"], now_unix)
    if not signatures.verify_request(app.secrets, method, path, raw_query, params["auth_signature"]):
        raise ApiError(401, "auth_signature is not this app's for this method, path and query")
    if not app.enabled:
        raise ApiError(403, "app is disabled")
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.endswith("[]"):
            lists.setdefault(name[:-2], []).append(value)
    return AuthenticHead(
        {name: value for name, value in params.items() if name not in _AUTH_PARAMS},
        {name: tuple(values) for name, values in lists.items()},
        params.get("body_md5"),
    )


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    params: dict[str, str] = {}
    for name, value in pairs:
        if name in params and not name.endswith("[]"):
            raise ApiError(400, f"query parameter {name[:100]!r} occurs twice")
        params[name] = value
    return params


def _check_timestamp(text: str, now_unix: float) -> None:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ApiError(401, "auth_timestamp must be a whole number of seconds since 1970")
    off = int(text) - now_unix
    if abs(off) > TIMESTAMP_WINDOW:
        raise ApiError(401, f"auth_timestamp is {abs(off):.0f} s off the relay's clock, more than {TIMESTAMP_WINDOW} s")


# --- requests that publish -------------------------------------------------------------------------------------------


class _Event(msgspec.Struct):
    name: str
    data: str
    channel: str | None = None
    channels: list[str] | None = None
    socket_id: str | None = None
    info: str | None = None


class _Batch(msgspec.Struct):
    batch: list[_Event]


_TRIGGER_PARAMS = ("name", "data", "channel", "socket_id", "info")
_NONE: Mapping[str, Any] = {}

_event = msgspec.json.Decoder(_Event).decode
_members = msgspec.json.Decoder(dict[str, Any]).decode
_batch = msgspec.json.Decoder(_Batch).decode


_Body = TypeVar("_Body")


def _decode(decode: Callable[[bytes], _Body], app: App, body: bytes) -> _Body:
    if len(body) > app.limits.request_body:
        raise ApiError(413, f"body is larger than {app.limits.request_body} bytes (limit request_body)")
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ApiError(400, f"body is not the JSON expected: {json_fault(body, exc)}") from None


def _trigger(app: App, event: _Event, channels: Sequence[str]) -> Trigger:
    limits = app.limits
    if len(channels) > limits.channels_per_trigger:
        raise ApiError(400, f"channels: more than {limits.channels_per_trigger} (limit channels_per_trigger)")
    with _refusing("name"):
        check_event_name(event.name, limits.event_name)
    for channel in channels:
        with _refusing("channel"):
            check_channel_name(channel, limits.channel_name)
    if len(event.data.encode()) > limits.event_payload:
        most = limits.event_payload  # the official PHP library's tests look for "content of this event"
        raise ApiError(413, f"data: the content of this event is larger than {most} bytes (limit event_payload)")
    if event.socket_id is not None:
        with _refusing("socket_id"):
            check_socket_id(event.socket_id)
    info = _info(event.info, "user_count", "subscription_count") if event.info else None
    return Trigger(
        name=event.name,
        channels=tuple(dict.fromkeys(channels)),
        data=event.data,
        socket_id=event.socket_id,
        info=info,
    )


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    try:
        yield
    except ProtocolError as exc:
        raise ApiError(400, f"{field}: {exc.message}") from None


def parse_trigger(
    app: App, body: bytes, params: Mapping[str, str] = _NONE, lists: Mapping[str, tuple[str, ...]] = _NONE
) -> Trigger:
    """POST /apps/ID/events: `name`, `data`, `channel` or `channels`, and optionally `socket_id` and `info`.

    Each may be in the query instead of the body, `channels` as `channels[]=one&channels[]=other`.
    """
    given: dict[str, Any] = {name: params[name] for name in _TRIGGER_PARAMS if name in params}
    if "channels" in lists:
        given["channels"] = list(lists["channels"])
    event = _merged(app, body, given) if given else _decode(_event, app, body)
    channels = event.channels if event.channels is not None else [] if event.channel is None else [event.channel]
    if not channels:
        raise ApiError(400, "channels: names no channel")
    return _trigger(app, event, channels)


def _merged(app: App, body: bytes, given: Mapping[str, Any]) -> _Event:
    """Merge the parameters in the body and the query into one event. A parameter in both must be equal in both."""
    members = _decode(_members, app, body) if body else {}
    for name, value in given.items():
        if members.setdefault(name, value) != value:
            raise ApiError(400, f"{name}: the query and the body differ")
    try:
        return msgspec.convert(members, _Event)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"query and body do not make an event: {error}") from None


def parse_batch(app: App, body: bytes) -> tuple[Trigger, ...]:
    """POST /apps/ID/batch_events: `batch`, each item `name`, `data`, `channel`, and optionally `socket_id` and `info`.

    The batch is atomic: one invalid event refuses all, with an error that names its index.
    """
    events = _decode(_batch, app, body).batch
    if len(events) > app.limits.batch:
        # The official PHP library's tests look for "Batch too large".
        raise ApiError(400, f"Batch too large: {len(events)} events, more than {app.limits.batch} (limit batch)")
    return tuple(_batched(app, place, event) for place, event in enumerate(events))


def _batched(app: App, place: int, event: _Event) -> Trigger:
    if event.channel is None:
        raise ApiError(400, f"batch[{place}].channel is missing")
    try:
        return _trigger(app, event, [event.channel])
    except ApiError as exc:
        raise ApiError(exc.status, f"batch[{place}].{exc.message}") from None


def parse_channel_event(app: App, channel: str, params: Mapping[str, str], body: bytes) -> Trigger:
    """POST /apps/ID/channels/NAME/events, the deprecated form: the body is the data, and `name` and optionally `socket_id`
    are in the query; or the body is JSON with `name` and `data`."""
    if "name" not in params:
        return _trigger(app, _decode(_event, app, body), [channel])
    try:
        data = body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "body is not UTF-8") from None
    return _trigger(app, _Event(params["name"], data, socket_id=params.get("socket_id")), [channel])


def parse_user_event(app: App, user_id: str, body: bytes) -> Trigger:
    """POST /apps/ID/users/UID/events: `name` and `data`, for all connections of one signed-in user."""
    parse_terminate(app, user_id)
    return _trigger(app, _decode(_event, app, body), [server_to_user_channel(user_id)])


# --- requests that ask -----------------------------------------------------------------------------------------------


def _info(text: str | None, *available: str) -> Info:
    names = {name.strip() for name in text.split(",")} if text else set()
    for name in sorted(names):
        if name not in available:
            raise ApiError(400, f"info: attribute {name[:100]!r} is not available here")
    return Info(
        user_count="user_count" in names, subscription_count="subscription_count" in names, cache="cache" in names
    )


def parse_channels_query(app: App, params: Mapping[str, str]) -> tuple[str, Info]:
    """GET /apps/ID/channels: return the prefix to filter by (may be empty) and the requested attributes of each channel."""
    prefix = params.get("filter_by_prefix", "")
    info = _info(params.get("info"), "user_count", "subscription_count")
    if info.user_count and not prefix.startswith("presence-"):
        raise ApiError(400, "info: user_count needs a filter_by_prefix that begins with presence-")
    return prefix, info


def parse_channel_query(app: App, channel: str, params: Mapping[str, str]) -> Info:
    """GET /apps/ID/channels/NAME: return the requested attributes. Refuse any that the channel's type does not have."""
    with _refusing("channel"):
        kind = check_channel_name(channel, app.limits.channel_name)
    available = ["subscription_count"]
    if kind.presence:
        available.append("user_count")
    if kind.cache:
        available.append("cache")
    return _info(params.get("info"), *available)


def parse_users_query(app: App, channel: str) -> None:
    """GET /apps/ID/channels/NAME/users: refuse channels other than presence channels, occupied or not."""
    with _refusing("channel"):
        kind = check_channel_name(channel, app.limits.channel_name)
    if not kind.presence:
        raise ApiError(400, "channel: only presence channels have users")


def parse_terminate(app: App, user_id: str) -> None:
    """POST /apps/ID/users/UID/terminate_connections: refuse an invalid user id."""
    with _refusing("user_id"):
        check_user_id(user_id, app.limits.user_id)


def parse_history_query(app: App, channel: str, params: Mapping[str, str]) -> HistoryQuery:
    """GET /apps/ID/channels/NAME/history: both or neither of `epoch` and `after_seq`, and optionally `limit`."""
    with _refusing("channel"):
        check_channel_name(channel, app.limits.channel_name)
    epoch, seq = params.get("epoch"), params.get("after_seq")
    if (epoch is None) != (seq is None):
        raise ApiError(400, "epoch and after_seq must be given together")
    limit = _whole("limit", params.get("limit", str(app.limits.rewind)))
    if not 1 <= limit <= app.limits.rewind:
        raise ApiError(400, f"limit: must be from 1 to {app.limits.rewind} (limit rewind)")
    after = None if epoch is None or seq is None else ResumePosition(epoch, _whole("after_seq", seq))
    return HistoryQuery(after=after, limit=limit)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ApiError(400, f"{name}: must be a whole number")
    return int(text)


# --- answers ---------------------------------------------------------------------------------------------------------


EMPTY = b"{}"
"""The answer to requests without a result: triggers without info, terminate_connections."""


@frozen(kw_only=True)
class ChannelState:
    """The state of one channel in the hub, from which an answer takes the requested attributes."""

    occupied: bool = False
    user_count: int = 0
    subscription_count: int = 0
    cache: str | None = None
    """The data of the cached event."""
    cache_ttl: float | None = None
    """Seconds until the cached event is dropped."""


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
    """Return `{}`, or `{"channels": {NAME: {...}}}` if info was requested."""
    if info is None:
        return EMPTY
    return _json({"channels": {name: _attributes(name, info, state) for name, state in states.items()}})


def batch_response(triggers: Sequence[Trigger], states: Mapping[str, ChannelState]) -> bytes:
    """Return `{}`, or `{"batch": [{...}, ...]}` with one item for each event if any event requested info."""
    if all(trigger.info is None for trigger in triggers):
        return EMPTY
    unknown = ChannelState()
    told = (
        _attributes(name, trigger.info, states.get(name, unknown))
        for trigger in triggers
        for name in trigger.channels[:1]
    )
    return _json({"batch": list(told)})


def channels_item(info: Info, occupied: tuple[str, ChannelState]) -> tuple[str, msgspec.Raw]:
    """Return one channel of `channels_response`: its name, and the requested attributes, encoded."""
    name, state = occupied
    return name, msgspec.Raw(_json(_attributes(name, info, state)))


def channels_response(occupied: Iterable[tuple[str, msgspec.Raw]]) -> bytes:
    """Return `{"channels": {NAME: {...}}}` for the occupied channels; `{}` inside if there are none."""
    return _json({"channels": dict(occupied)})


def channel_response(channel: str, info: Info, state: ChannelState) -> bytes:
    """Return `{"occupied": ..., ...}`."""
    return _json({"occupied": state.occupied, **_attributes(channel, info, state)})


def users_response(user_ids: Iterable[str]) -> bytes:
    """Return `{"users": [{"id": ...}, ...]}`."""
    return _json({"users": [{"id": user_id} for user_id in user_ids]})


def history_item(event: Mapping[str, object]) -> msgspec.Raw:
    """Return one event of `history_response`, encoded."""
    return msgspec.Raw(_json(event))


def history_response(position: ResumePosition, events: Iterable[object], *, more: bool = False) -> bytes:
    """Return `{"epoch", "seq", "more", "events"}`: the channel's current position and past events, oldest first; `more` when
    the limit cut them off, so that the next request must continue after the last one's `seq`."""
    return _json({"epoch": position.epoch, "seq": position.seq, "more": more, "events": list(events)})


def history_gone(reason: ResumeFailure, position: ResumePosition | None) -> ApiError:
    """Return the answer 410 for lost events after the requested position. It has the channel's current position."""
    details: dict[str, Any] = {"reason": reason}
    if position is not None:
        details |= {"epoch": position.epoch, "seq": position.seq}
    return ApiError(410, f"the channel's history does not reach back to there: {reason}", details)
