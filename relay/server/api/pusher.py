"""The Pusher HTTP API: ``/apps/ID/...`` (https://pusher.com/docs/channels/library_auth_reference/rest-api/).

The path is read as it was sent, piece by piece, because it is signed that way and because a user id may hold any character,
an escaped ``/`` too. `relay.pusher.http_api` decides whose request it is and what it asks; the hub answers it. Nothing is
awaited between authentication and answer.

``/users/ID/terminate_connections`` without ``/apps/ID`` is what the official Python library sends; the app is then found by
its key.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from relay.hub.app import HistoryPage
from relay.hub.history import Missed
from relay.hub.streams import claims_stream
from relay.limits import TokenBucket
from relay.pusher import http_api
from relay.pusher.apps import App
from relay.pusher.http_api import ApiError, ChannelState, Trigger
from relay.pusher.messages import ProtocolError, ResumePosition
from relay.server.api.answers import Refusal, json_answer, read_body

Parts = Sequence[str]

_METHODS: Mapping[tuple[str, ...], str] = {
    ("events",): "POST",
    ("batch_events",): "POST",
    ("channels",): "GET",
    ("channels", "*"): "GET",
    ("channels", "*", "users"): "GET",
    ("channels", "*", "history"): "GET",
    ("channels", "*", "events"): "POST",
    ("users", "*", "events"): "POST",
    ("users", "*", "terminate_connections"): "POST",
}


class Channels(Protocol):
    """What the HTTP API asks of the hub; `relay.hub.hub.Hub` is one. ``now`` is the hub's clock, in seconds."""

    def app(self, app_id: str) -> App | None: ...
    def app_by_key(self, key: str) -> App | None: ...
    def trigger(
        self,
        app_id: str,
        channels: Iterable[str],
        name: str,
        data: str,
        *,
        socket_id: str | None = None,
        user_id: str | None = None,
        now: float,
    ) -> None: ...
    def channels(self, app_id: str, prefix: str, now: float) -> Mapping[str, ChannelState]: ...
    def channel_info(self, app_id: str, name: str, now: float) -> ChannelState: ...
    def users(self, app_id: str, channel: str) -> Iterable[str]: ...
    def history(self, app_id: str, name: str, after: ResumePosition | None, limit: int, now: float) -> HistoryPage: ...
    def terminate_user(self, app_id: str, user_id: str, now: float) -> None: ...
    def send_to_user(self, app_id: str, user_id: str, name: str, data: str, now: float) -> None: ...


class PusherApi:
    """The endpoints of one hub. ``clock`` is the hub's, ``unix_time`` is compared with the requests' timestamps."""

    def __init__(
        self, hub: Channels, *, clock: Callable[[], float], unix_time: Callable[[], float], body_within: float
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._unix_time = unix_time
        self._body_within = body_within
        self._buckets: dict[str, TokenBucket] = {}

    async def endpoint(self, request: Request) -> Response:
        """Answer one request, whatever its path below ``/apps`` or ``/users``."""
        raw_path = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        app, parts = self._addressed(_parts(raw_path), query)
        body = await read_body(request, app.limits.request_body, self._body_within)
        params = http_api.authenticate(app, request.method, raw_path, query, body, self._unix_time())
        _check_method(request.method, parts)
        try:
            return json_answer(self._answer(app, parts, params, body))
        except ProtocolError as refusal:
            raise ApiError(refusal.status, refusal.message) from None

    def _addressed(self, parts: Parts, query: str) -> tuple[App, Parts]:
        match parts:
            case ["apps", app_id, *rest]:
                app = self._hub.app(app_id)
                if app is None:
                    raise ApiError(404, f"there is no app {app_id[:100]!r}")
                return app, rest
            case ["users", _, "terminate_connections"]:
                key = http_api.auth_key(query)
                app = None if key is None else self._hub.app_by_key(key)
                if app is None:
                    raise ApiError(401, "auth_key is missing or no app's")
                return app, parts
        raise ApiError(404, "there is no such path")

    def _answer(self, app: App, parts: Parts, params: Mapping[str, str], body: bytes) -> bytes:
        match parts:
            case ["events"]:
                trigger = http_api.parse_trigger(app, body)
                return self._trigger(app, trigger)
            case ["batch_events"]:
                return self._batch(app, http_api.parse_batch(app, body))
            case ["channels", channel, "events"]:
                return self._trigger(app, http_api.parse_channel_event(app, channel, params, body))
            case ["channels"]:
                prefix, info = http_api.parse_channels_query(app, params)
                return http_api.channels_response(info, self._hub.channels(app.id, prefix, self._clock()))
            case ["channels", channel]:
                info = http_api.parse_channel_query(app, channel, params)
                return http_api.channel_response(channel, info, self._hub.channel_info(app.id, channel, self._clock()))
            case ["channels", channel, "users"]:
                http_api.parse_users_query(app, channel)
                return http_api.users_response(self._hub.users(app.id, channel))
            case ["channels", channel, "history"]:
                return self._history(app, channel, params)
            case ["users", user_id, "events"]:
                trigger = http_api.parse_user_event(app, user_id, body)
                self._spend(app, 1)
                self._hub.send_to_user(app.id, user_id, trigger.name, trigger.data, self._clock())
            case ["users", user_id, "terminate_connections"]:
                http_api.parse_terminate(app, user_id)
                self._hub.terminate_user(app.id, user_id, self._clock())
        return http_api.EMPTY

    def _trigger(self, app: App, trigger: Trigger) -> bytes:
        _check_own(trigger.channels)
        self._spend(app, 1)
        self._publish(app, trigger)
        return http_api.trigger_response(trigger.info, self._states(app, trigger.channels if trigger.info else ()))

    def _batch(self, app: App, triggers: Sequence[Trigger]) -> bytes:
        for trigger in triggers:  # all or nothing: what the hub would refuse is refused before the first is sent
            _check_own(trigger.channels)
        self._spend(app, len(triggers))
        for trigger in triggers:
            self._publish(app, trigger)
        told = [channel for trigger in triggers if trigger.info for channel in trigger.channels]
        return http_api.batch_response(triggers, self._states(app, told))

    def _publish(self, app: App, trigger: Trigger) -> None:
        self._hub.trigger(
            app.id,
            trigger.channels,
            trigger.name,
            trigger.data,
            socket_id=trigger.socket_id,
            now=self._clock(),
        )

    def _states(self, app: App, channels: Iterable[str]) -> dict[str, ChannelState]:
        now = self._clock()
        return {channel: self._hub.channel_info(app.id, channel, now) for channel in channels}

    def _history(self, app: App, channel: str, params: Mapping[str, str]) -> bytes:
        query = http_api.parse_history_query(app, channel, params)
        try:
            page = self._hub.history(app.id, channel, query.after, query.limit, self._clock())
        except Missed as missed:
            raise http_api.history_gone(missed.reason, missed.position) from None
        return http_api.history_response(page.position, page.events, more=page.more)

    def _spend(self, app: App, events: int) -> None:
        """Take ``events`` from the app's budget; a second's worth may come at once."""
        rate = app.limits.events_per_second
        if rate is None:
            return
        bucket = self._buckets.setdefault(app.id, TokenBucket(rate))
        bucket.rate = rate
        if not bucket.take(events, self._clock()):
            raise ApiError(429, f"more than {rate:g} events per second (limit events_per_second)")


def _parts(raw_path: str) -> list[str]:
    try:
        return [unquote(part, errors="strict") for part in raw_path.split("/")[1:]]
    except UnicodeDecodeError:
        raise ApiError(400, "the path's escapes are not UTF-8") from None


def _check_own(channels: Iterable[str]) -> None:
    for channel in channels:
        if claims_stream(channel):
            raise ApiError(403, f"channel {channel} carries a stream of the relay: apps cannot publish on it")


def _check_method(method: str, parts: Parts) -> None:
    """404 for a path there is not, 405 for a method it does not have."""
    pattern = tuple("*" if place == 1 else part for place, part in enumerate(parts))
    allowed = _METHODS.get(pattern)
    if allowed is None:
        raise ApiError(404, "there is no such path")
    if method != allowed:
        raise Refusal(405, f"the method here is {allowed}", headers={"Allow": allowed})
