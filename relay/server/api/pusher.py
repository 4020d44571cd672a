"""Serve the Pusher HTTP API, ``/apps/ID/...`` (https://pusher.com/docs/channels/library_auth_reference/rest-api/).

The raw path is split before unescaping, because the raw path is signed and because a user id may contain any character, also
an escaped ``/``. `relay.pusher.http_api` authenticates and parses; the hub answers. Nothing is awaited between
authentication and the hub's answer, unless this relay has to read first what another one has published; a long answer is
encoded in slices.

``/users/ID/terminate_connections`` without ``/apps/ID`` is what the official Python library sends; the app is then found by
its key.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from urllib.parse import unquote

import trio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from relay.hub.app import LOOK, UNREAD, UNREAD_WITHIN
from relay.hub.history import Missed
from relay.hub.hub import Hub
from relay.hub.streams import claims_stream
from relay.limits import TokenBucket
from relay.pusher import http_api
from relay.pusher.apps import App
from relay.pusher.http_api import ApiError, AuthenticHead, ChannelState, Trigger
from relay.pusher.messages import ProtocolError, ResumePosition
from relay.server.api.answers import Bodies, HttpRefusal, Slices, announces_body, json_answer


@frozen
class _Call:
    """One authenticated request."""

    app: App
    name: str
    """The channel or user id in the path, if it has one."""
    head: AuthenticHead
    body: bytes

    @property
    def params(self) -> Mapping[str, str]:
        return self.head.params


class _Acknowledgement:
    """The result of a request: available at once on a single relay, later if other nodes have to acknowledge it."""

    def __init__(self) -> None:
        self._refusal: ProtocolError | None = None
        self._done = trio.Event()

    def __call__(self, refusal: ProtocolError | None) -> None:
        self._refusal = refusal
        self._done.set()

    def answer(self, made: Callable[[], bytes]) -> "_Answer":
        """Return the answer that is made when it is done; a refusal is raised."""
        if not self._done.is_set():
            return self._later(made)
        if self._refusal is not None:
            raise self._refusal
        return made()

    async def _later(self, made: Callable[[], bytes]) -> bytes:
        await self._done.wait()  # it is set within the deadline of the cluster's own requests
        if self._refusal is not None:
            raise self._refusal
        return made()


class PusherApi:
    """Endpoints of one hub. ``clock`` is the hub's, ``unix_time`` is compared with the requests' timestamps."""

    def __init__(
        self,
        hub: Hub,
        *,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
        bodies: Bodies,
        slices: Slices,
    ) -> None:
        self._hub = hub
        self._slices = slices
        self._clock = clock
        self._unix_time = unix_time
        self._bodies = bodies
        self._buckets: dict[str, TokenBucket] = {}

    async def endpoint(self, request: Request) -> Response:
        """Answer any request below ``/apps`` or ``/users``."""
        raw_path = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        app, parts = self._addressed(_parts(raw_path), query)
        # The signature covers the body by its MD5, so that the body of an unauthenticated request is never read.
        head = http_api.authenticate_head(app, request.method, raw_path, query, self._unix_time())
        handler = _route(request.method, parts)
        if head.body_md5 is None and announces_body(request):
            raise http_api.unsigned_body()
        body = await self._bodies.read(request, app.limits.request_body)
        head.check_body(body)
        name = parts[1] if len(parts) > 1 else ""
        try:
            answer = handler(self, _Call(app, name, head, body))
            return json_answer(answer if isinstance(answer, bytes) else await answer)
        except ProtocolError as refusal:
            raise ApiError(refusal.status, refusal.message) from None

    def _addressed(self, parts: list[str], query: str) -> tuple[App, list[str]]:
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

    # The handlers of `_ROUTES`.

    def _events(self, call: _Call) -> "_Answer":
        return self._trigger(call.app, http_api.parse_trigger(call.app, call.body, call.params, call.head.lists))

    def _channel_events(self, call: _Call) -> "_Answer":
        return self._trigger(call.app, http_api.parse_channel_event(call.app, call.name, call.params, call.body))

    def _batch_events(self, call: _Call) -> "_Answer":
        app, triggers = call.app, http_api.parse_batch(call.app, call.body)
        for trigger in triggers:  # all or nothing: refuse before the first is sent
            _check_own(trigger.channels)
        self._spend(app, len(triggers))
        wanted = [channel for trigger in triggers if trigger.info for channel in trigger.channels]
        return self._publish(app, triggers, lambda: http_api.batch_response(triggers, self._states(app, wanted)))

    async def _channels(self, call: _Call) -> bytes:
        prefix, info = http_api.parse_channels_query(call.app, call.params)
        self._pay(call.app, self._hub.occupied(call.app.id))
        occupied = self._hub.channels(call.app.id, prefix, self._clock())
        return http_api.channels_response(await self._slices.map(partial(http_api.channels_item, info), occupied))

    def _channel(self, call: _Call) -> bytes:
        info = http_api.parse_channel_query(call.app, call.name, call.params)
        self._check_open(call)
        return http_api.channel_response(call.name, info, self._hub.channel_info(call.app.id, call.name, self._clock()))

    def _users(self, call: _Call) -> bytes:
        http_api.parse_users_query(call.app, call.name)
        self._check_open(call)
        self._pay(call.app, 0)
        return http_api.users_response(self._hub.users(call.app.id, call.name))

    async def _history(self, call: _Call) -> bytes:
        query = http_api.parse_history_query(call.app, call.name, call.params)
        self._check_open(call)
        self._pay(call.app, query.limit)
        if query.after is not None:
            await self._read_first(call, query.after)
        try:
            page = self._hub.history(call.app.id, call.name, query.after, query.limit, self._clock())
        except Missed as missed:
            raise http_api.history_gone(missed.reason, missed.position) from None
        events = await self._slices.map(http_api.history_item, page.events)
        return http_api.history_response(page.position, events, more=page.more)

    async def _read_first(self, call: _Call, after: ResumePosition) -> None:
        is_read = self._hub.read_first(call.app.id, call.name, after, self._clock())
        if is_read is None:
            return
        for _ in range(int(UNREAD_WITHIN / LOOK)):
            if is_read():
                return
            await trio.sleep(LOOK)
        raise ApiError(503, UNREAD)

    def _user_events(self, call: _Call) -> "_Answer":
        trigger = http_api.parse_user_event(call.app, call.name, call.body)
        self._spend(call.app, 1)
        return self._publish(call.app, [trigger], lambda: http_api.EMPTY)

    def _terminate(self, call: _Call) -> "_Answer":
        http_api.parse_terminate(call.app, call.name)
        done = _Acknowledgement()
        self._hub.terminate_user(call.app.id, call.name, self._clock(), done)
        return done.answer(lambda: http_api.EMPTY)

    def _trigger(self, app: App, trigger: Trigger) -> "_Answer":
        _check_own(trigger.channels)
        self._spend(app, 1)
        channels = trigger.channels if trigger.info else ()
        return self._publish(
            app, [trigger], lambda: http_api.trigger_response(trigger.info, self._states(app, channels))
        )

    def _check_open(self, call: _Call) -> None:
        reason = self._hub.closed_account(call.app.id, call.name)
        if reason is not None:
            raise ApiError(403, reason)

    def _publish(self, app: App, triggers: Sequence[Trigger], answer: Callable[[], bytes]) -> "_Answer":
        done = _Acknowledgement()
        self._hub.trigger_all(app.id, triggers, self._clock(), done)
        return done.answer(answer)

    def _states(self, app: App, channels: Iterable[str]) -> dict[str, ChannelState]:
        now = self._clock()
        return {channel: self._hub.channel_info(app.id, channel, now) for channel in channels}

    def _pay(self, app: App, items: int) -> None:
        """Charge the app's server for a page of up to so many events or channels."""
        prices = self._hub.budgets.prices
        if not self._hub.budgets.take(f"app {app.id}", prices.page + prices.event * items, self._clock()):
            raise ApiError(429, "too many requests (limit costs.api_rate)")

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


_Answer = bytes | Awaitable[bytes]
_Handler = Callable[[PusherApi, _Call], _Answer]
_ROUTES: Mapping[tuple[str, ...], tuple[str, _Handler]] = {
    ("events",): ("POST", PusherApi._events),
    ("batch_events",): ("POST", PusherApi._batch_events),
    ("channels",): ("GET", PusherApi._channels),
    ("channels", "*"): ("GET", PusherApi._channel),
    ("channels", "*", "users"): ("GET", PusherApi._users),
    ("channels", "*", "history"): ("GET", PusherApi._history),
    ("channels", "*", "events"): ("POST", PusherApi._channel_events),
    ("users", "*", "events"): ("POST", PusherApi._user_events),
    ("users", "*", "terminate_connections"): ("POST", PusherApi._terminate),
}
"""Method and handler of each path; ``*`` is the `_Call.name`."""


def _route(method: str, parts: list[str]) -> _Handler:
    """Return the handler. Raises 404 for an unknown path, 405 for another method."""
    route = _ROUTES.get(tuple("*" if index == 1 else part for index, part in enumerate(parts)))
    if route is None:
        raise ApiError(404, "there is no such path")
    allowed, handler = route
    if method != allowed:
        raise HttpRefusal(405, f"the method here is {allowed}", headers={"Allow": allowed})
    return handler
