"""Shuriken's streams, simulated: the bootstrap, the authorization, and a Pusher server of Soketi's manners on one port.

Faithful to https://docs.shuriken.trade/api-reference/websocket/overview and to what the published SDKs need; the names of
channels are opaque to clients and this server's own. Not documented, and so chosen here: the path of the catalog, the
words of a refused subscription, and that channels come in the order their streams were asked for.

One user with one key. What happens is `relay_shuriken.chain`'s.
"""

import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from attrs import Factory, define

from relay.adapter import dumps, loads
from relay.plugins.hookspecs import Simulated
from relay.pusher.names import channel_type
from relay.pusher.signatures import channel_string, same, sign
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from relay_shuriken.chain import BONK, FEED, PROFILE, USER, Chain, Happening
from relay_shuriken.streams import ACCOUNT, NAMED, canonical

__all__ = ["BONK", "FEED", "KEY", "PROFILE", "ShurikenSimulator", "run"]

KEY = "sk_simulated_5f0c2d"
APP_KEY, APP_SECRET = "test-app-key", "simulated-app-secret"
EVENT = "update"
LONGEST_NAME = 200
_TOKEN, _EVM_TOKEN, _WALLET = ("tokenAddress",), ("chainId", "tokenAddress"), ("walletAddress",)
#: The catalog: every stream with the filters it needs.
STREAMS: Mapping[str, tuple[str, ...]] = {
    "svm.token.swaps": _TOKEN,
    "svm.token.poolInfo": _TOKEN,
    "svm.token.balances": _TOKEN,
    "svm.token.distributionStats": _TOKEN,
    "svm.token.holderStats": _TOKEN,
    "svm.wallet.nativeBalance": _WALLET,
    "svm.wallet.tokenBalances": _WALLET,
    "svm.bondingCurve.creations": (),
    "svm.bondingCurve.graduations": (),
    "evm.token.swaps": _EVM_TOKEN,
    "evm.token.poolInfo": _EVM_TOKEN,
    "evm.token.balances": _EVM_TOKEN,
    "evm.wallet.nativeBalance": _WALLET,
    "evm.wallet.tokenBalances": _WALLET,
    "alpha.signalFeedGlobal": (),
    "alpha.signalFeedPersonal": (),
    "alpha.signalFeedProfile": ("profileId",),
    NAMED: ("feedId",),
    "alpha.personal": (),
    "portfolio.notifications": (),
    "automation.updates": (),
}
_PRESENCE = {
    "alpha.signalFeedPersonal": "presence-signal-feed-{user}",
    "alpha.signalFeedProfile": "presence-signal-profile-{user}-{0}",
    NAMED: "presence-signal-feed-{user}-{0}",
    "alpha.personal": "presence-alpha-{user}",
    "portfolio.notifications": "presence-notification_{user}",
    "automation.updates": "presence-automation_{user}",
}


class RouteRefusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@define(eq=False)
class Connection:
    """The state of one connection in the Pusher server."""

    socket_id: str
    heard_ns: int
    channels: set[str] = Factory(set)


class ShurikenSimulator(Simulator):
    """Shuriken with one user.

    Args:
        seed: of everything that happens.
        interval: seconds between two steps; 0 leaves them to `tick`.
        envelope: whether the bootstrap answers bare or inside ``data``.
        activity_timeout: seconds of silence after which the client is to ping; twice that ends the connection.
        max_connections: the app's quota.
        enabled: whether the app is.
        forbidden: streams the key may not have.
        backoff_ms: the waits it recommends for coming back.
        clock: Unix nanoseconds.
    """

    ws_path = "/app/{app_key}?protocol=7&client=tickrelay&version=1.0&flash=false"

    def __init__(
        self,
        *,
        seed: int = 1,
        interval: float = 0.25,
        envelope: Literal["bare", "data"] = "bare",
        activity_timeout: int = 30,
        max_connections: int = 100,
        enabled: bool = True,
        forbidden: tuple[str, ...] = (),
        backoff_ms: tuple[int, ...] = (1000, 2000, 4000),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.chain = Chain(seed=seed, start_ns=clock())
        self.app_key = APP_KEY
        self._backoff_ms = backoff_ms
        self.enabled = enabled
        self._interval = interval
        self._envelope = envelope
        self._activity_timeout = activity_timeout
        self._max_connections = max_connections
        self._forbidden = forbidden
        self._clock = clock
        self._ids = count(1)

    # --- HTTP --------------------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> HttpResponse:
        try:
            return HttpResponse(body=dumps(self._answer(request)))
        except RouteRefusal as refusal:
            error = {"code": refusal.code, "message": str(refusal), "details": None}
            return HttpResponse(status=refusal.status, body=dumps({"error": error, "requestId": self._request_id()}))

    def _answer(self, request: HttpRequest) -> dict[str, Any]:
        route = request.method, urlsplit(request.target).path
        if not same(request.headers.get("authorization", ""), f"Bearer {KEY}"):
            raise RouteRefusal(401, "UNAUTHORIZED", "Invalid or expired API key")
        match route:
            case "POST", "/api/v2/ws/session":
                return self._session(request)
            case "POST", "/api/v2/ws/auth":
                return self._authorization(request)
            case "GET", "/api/v2/ws/streams":
                return {"streams": [self._entry(stream) for stream in STREAMS], "requestId": self._request_id()}
        raise RouteRefusal(404, "NOT_FOUND", f"no such route: {route[0]} {route[1]}")

    def _request_id(self) -> str:
        return f"req_{next(self._ids)}"

    def _entry(self, stream: str) -> dict[str, Any]:
        filters = [{"name": name, "required": True, "description": f"The {name}."} for name in STREAMS[stream]]
        return {"id": stream, "visibility": _visibility(stream), "filters": filters, "event": EVENT, "payloadFormat": "json",
                "payloadSchemaId": stream}  # fmt: skip

    def _session(self, request: HttpRequest) -> dict[str, Any]:
        try:
            asked = loads(request.body)["subscriptions"]
            subscriptions = [self._subscription(each) for each in asked]
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError):
            raise RouteRefusal(400, "INVALID_PARAMS", "expected subscriptions, each with stream and filter") from None
        host, _, port = request.headers.get("host", "127.0.0.1").rpartition(":")
        answer = {
            "connection": {
                "provider": "pusher",
                "appKey": self.app_key,
                "wsHost": host or port,
                "wsPort": int(port) if host else 80,
                "forceTls": False,
                "authEndpoint": f"http://{request.headers.get('host', '127.0.0.1')}/api/v2/ws/auth",
            },
            "session": {"recommendedReconnectBackoffMs": list(self._backoff_ms)},
            "subscriptions": subscriptions,
        }
        return answer if self._envelope == "bare" else {"data": answer, "requestId": self._request_id()}

    def _subscription(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return one stream's channel; its name comes back as it was spelled."""
        spelled = str(asked["stream"])
        stream = canonical(spelled)
        if stream not in STREAMS:
            raise RouteRefusal(400, "INVALID_PARAMS", f"unknown stream: {spelled[:64]}")
        given = asked.get("filter") or {}
        missing = [name for name in STREAMS[stream] if not isinstance(given.get(name), str) or not given[name]]
        if missing:
            raise RouteRefusal(400, "INVALID_PARAMS", f"{stream} needs the filter {', '.join(missing)}")
        if not all(value.isalnum() and value.isascii() for value in given.values()):
            raise RouteRefusal(400, "INVALID_PARAMS", f"{stream}: not an address or id")
        if stream in self._forbidden:
            raise RouteRefusal(403, "FORBIDDEN", f"the key has no access to {stream}")
        channel = channel_of(stream, tuple(given[name] for name in STREAMS[stream]))
        return {"stream": spelled, "channel": channel, "event": EVENT, "visibility": _visibility(stream),
                "payloadFormat": "json", "payloadSchemaId": stream,
                "payloadSchemaUrl": f"https://docs.shuriken.trade/schemas/{stream}.json"}  # fmt: skip

    def _authorization(self, request: HttpRequest) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise RouteRefusal(400, "INVALID_PARAMS", "expected a form")
        form = {name: values[0] for name, values in parse_qs(request.body.decode("latin-1")).items()}
        if not form.keys() >= {"socket_id", "channel_name"}:
            raise RouteRefusal(400, "INVALID_PARAMS", "socket_id and channel_name are needed")
        channel = form["channel_name"]
        if channel not in {channel_of(stream, (PROFILE,)) for stream in ACCOUNT - {NAMED}} | {
            channel_of(NAMED, (FEED,))
        }:
            raise RouteRefusal(403, "FORBIDDEN", "no access to this channel")
        data = dumps({"user_id": USER, "user_info": {}})
        return {"auth": _auth(self.app_key, form["socket_id"], channel, data), "channel_data": data}

    # --- the Pusher server -------------------------------------------------------------------------------------------

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        return None if request.target.startswith("/app/") else HttpResponse(status=404, body="")

    def opened(self, link: Link) -> None:
        key = urlsplit(link.request.target).path.removeprefix("/app/")
        number = next(self._ids)
        link.state = Connection(f"{number * 7919}.{number * 104_729}", self._clock())
        if key != self.app_key:
            self._turn_away(link, 4001, f"App key {key} does not exist.")
        elif not self.enabled:
            self._turn_away(link, 4003, "The app is not enabled.")
        elif len(self.links) > self._max_connections:
            self._turn_away(link, 4100, "The current concurrent connections quota has been reached.")
        else:
            data = {"socket_id": link.state.socket_id, "activity_timeout": self._activity_timeout}
            _send(link, "pusher:connection_established", data=dumps(data))

    def _turn_away(self, link: Link, code: int, message: str) -> None:
        _send(link, "pusher:error", data={"code": code, "message": message})
        link.close(code, message)

    def restart(self) -> None:
        """Close every connection as a server does that goes away."""
        for link in list(self.links):
            link.close(4200, "Server closed. Please reconnect shortly.")

    def received(self, link: Link, message: str | bytes) -> None:
        link.state.heard_ns = self._clock()
        try:
            asked = loads(message)
        except (msgspec.DecodeError, RecursionError):
            return
        match asked:
            case {"event": "pusher:ping"}:
                _send(link, "pusher:pong", data={})
            case {"event": "pusher:subscribe", "data": {"channel": str() as channel} as data}:
                self._subscribe(link, channel, data)
            case {"event": "pusher:unsubscribe", "data": {"channel": str() as channel}}:
                link.state.channels.discard(channel)
            case {"event": str() as event} if event.startswith("client-"):
                error = {"code": 4301, "message": "The app does not have client messaging enabled."}
                _send(link, "pusher:error", data=error)

    def _subscribe(self, link: Link, channel: str, data: dict[str, Any]) -> None:
        member = data.get("channel_data")
        if len(channel) > LONGEST_NAME:
            error = {"type": "LimitReached", "status": 4009,
                     "error": f"The channel name is longer than the allowed {LONGEST_NAME} characters."}  # fmt: skip
            _send(link, "pusher:subscription_error", channel=channel, data=error)
        elif not channel_type(channel).authorized:
            link.state.channels.add(channel)
            _send(link, "pusher_internal:subscription_succeeded", channel=channel)
        elif same(str(data.get("auth")), _auth(self.app_key, link.state.socket_id, channel, member)) and member:
            self._enter(link, channel, member)
        else:
            error = {"type": "AuthError", "error": "The connection is unauthorized.", "status": 401}
            _send(link, "pusher:subscription_error", channel=channel, data=error)

    def _enter(self, link: Link, channel: str, member: str) -> None:
        """Join a presence channel. It is its one user's own, so nobody ever comes to it or leaves it."""
        link.state.channels.add(channel)
        user = loads(member)
        presence = {"ids": [user["user_id"]], "hash": {user["user_id"]: user["user_info"]}, "count": 1}
        data = dumps({"presence": presence})
        _send(link, "pusher_internal:subscription_succeeded", channel=channel, data=data)

    # --- what is told ------------------------------------------------------------------------------------------------

    async def background(self) -> None:
        while self._interval:
            await trio.sleep(self._interval)
            self.tick()
        await trio.sleep_forever()

    def tick(self) -> None:
        """Let everything go on once, tell those who subscribed, and see to those who fell silent."""
        now_ns = self._clock()
        for happening in self.chain.step(now_ns):
            self.tell(happening)
        for link in list(self.links):
            silent = (now_ns - link.state.heard_ns) / 1e9
            if silent > 2 * self._activity_timeout:
                link.close(4201, "Pong reply not received in time")
            elif silent > self._activity_timeout:
                _send(link, "pusher:ping", data={})

    def tell(self, happening: Happening) -> None:
        """Send one event to the subscribers of its channel; its text is written once."""
        channel = channel_of(happening.stream, happening.filter)
        members = [link for link in self.links if channel in link.state.channels]
        if members:
            text = dumps({"event": EVENT, "channel": channel, "data": dumps(happening.payload)})
            for link in members:
                link.send(text)


def channel_of(stream: str, filters: tuple[str, ...]) -> str:
    """Return the channel of a stream with these values of its filters."""
    if stream in _PRESENCE:
        return _PRESENCE[stream].format(*filters, user=USER)
    return ".".join((stream, *filters))


def _visibility(stream: str) -> str:
    return "presence" if stream in ACCOUNT else "public"


def _auth(key: str, socket_id: str, channel: str, channel_data: str | None) -> str:
    return f"{key}:{sign(APP_SECRET, channel_string(socket_id, channel, channel_data))}"


def _send(link: Link, event: str, **members: Any) -> None:
    link.send(dumps({"event": event, **members}))


async def run(
    *, port: int = 0, seed: int = 1, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a simulated Shuriken until cancelled; `nursery.start` returns its address. Its one key is `KEY`."""
    async with ShurikenSimulator(seed=seed).serve(port=port) as address:
        task_status.started(address)
        await trio.sleep_forever()


#: The simulator as the demo runs it.
SIMULATED = Simulated(
    provider="shuriken",
    adapter="shuriken",
    run=run,
    credentials={"key": KEY},
    account="main",
    options={"profiles": PROFILE, "feeds": FEED},
    pinned=(f"public_trade {BONK}", f"reference {BONK}", "signal global", "account main"),
)
