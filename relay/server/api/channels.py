"""Bootstrap sessions: from an API key to channels of the Pusher protocol (https://docs.shuriken.trade).

A client presents its API key as a Bearer token and lists the streams it wants. It receives the address to connect to and the
names of the channels; channels that need authorization are signed on request. The shapes are those of Shuriken's stream API,
whose published SDK works with the relay unchanged.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from attrs import evolve, field, frozen
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey, KeyRing, channel_refusal, missing_grant
from relay.errors import suggestion
from relay.model import asyncapi
from relay.model.channels import ALL, Stream, Topic, channel_name
from relay.model.events import ACCOUNT_KINDS, KINDS
from relay.model.serialize import event_schema
from relay.plugins.hookspecs import Grant
from relay.provider.catalog import CatalogEntry, UnknownStream, find
from relay.pusher.apps import App
from relay.pusher.messages import ProtocolError, json_fault
from relay.pusher.names import channel_type, check_channel_name, check_socket_id
from relay.pusher.signatures import key_auth
from relay.server.api.answers import Bodies, HttpRefusal, json_answer, unauthorized

Catalog = Callable[[], Iterable[CatalogEntry]]
Authorize = Callable[[str, str], Grant | None]

#: Shuriken's SDK always requests this stream when it connects: the global feed of all providers that have one. Where none
#: has, or the key may not read it, the answer is a channel of the app's own by that name, which nobody is asked for.
PROBE = CatalogEntry(provider="alpha", kind="signalFeedGlobal")
_PROBE_STREAM = Stream(ALL, Topic(kind="signal", symbol="global"))
SUBSCRIPTIONS = 100
"""Streams that one session request may name."""
RECONNECT_BACKOFF_MS = (1000, 2000, 4000, 8000, 16000)
"""Delays between attempts to connect that clients are advised to use."""
_authority = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?").fullmatch


@frozen
class PublicAddress:
    """Address at which a client reaches the relay."""

    host: str
    """A name or an IP address, IPv6 in brackets."""
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """Return ``https://host:port``, without the port if it is the scheme's default."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        return f"{scheme}://{self.host}" if self.port == usual else f"{scheme}://{self.host}:{self.port}"


def parse_address(authority: str, *, tls: bool) -> PublicAddress | None:
    """Parse ``host[:port]``; return None if it is malformed."""
    match = _authority(authority)
    if match is None:
        return None
    host, port = match.groups()
    number = int(port) if port else 443 if tls else 80
    return PublicAddress(host, number, tls) if 0 < number < 65536 else None


def public_address(url: str) -> PublicAddress:
    """Parse a configured ``public_url``.

    Raises:
        ValueError: it is not ``http://`` or ``https://`` with a host and nothing after it.
    """
    parts = urlsplit(url)
    address = parse_address(parts.netloc, tls=parts.scheme == "https")
    if parts.scheme not in ("http", "https") or address is None or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"public_url must be like https://feed.example.com, not {url!r:.200}")
    return address


@frozen(kw_only=True)
class ApiSettings:
    """Settings of `relay.server.api.routes.build_api`. Raises ValueError for a malformed `public_url`."""

    app_id: str
    """The app of bootstrapped sessions and of the dashboard: clients receive its key, its secret signs, pages of its
    origins may use the endpoints.
    """
    public_url: str | None = None
    """Address for clients, ``https://feed.example.com``; None: the client's own Host header."""
    status_public: bool = False
    """Status and metrics need no API key."""
    demo_api_key: str | None = None
    """Part of the public status, for the dashboard's accounts: the demo's key, which is no secret."""
    version: str = ""
    """The relay's version, for status and metrics."""
    bodies: int = 64 * 1024 * 1024
    """Bytes of bodies in memory, of all requests together."""
    public: PublicAddress | None = field(init=False)

    @public.default
    def _parse_public_url(self) -> PublicAddress | None:
        return None if self.public_url is None else public_address(self.public_url)


def bearer(request: Request, keys: KeyRing) -> ApiKey:
    """Return the API key that the request presents. Raises 401 if it has none or an unknown one."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise unauthorized("an API key is needed: Authorization: Bearer <key>")
    key = keys.find(presented.strip())
    if key is None:
        raise unauthorized("the API key is not valid")
    return key


class Bootstrap:
    """Endpoints that sign in clients.

    Args:
        app: finds the app by id for each request: a reload may replace it.
        app_by_key: finds it by its key.
        refusal: returns why the socket would refuse a stream, None where it would not.
    """

    def __init__(
        self,
        settings: ApiSettings,
        *,
        app: Callable[[str], App | None],
        app_by_key: Callable[[str], App | None],
        keys: KeyRing,
        catalog: Catalog,
        refusal: Callable[[Stream], str | None],
        authorize: Authorize,
        bodies: Bodies,
        pay: Callable[[str, int], bool],
    ) -> None:
        """Create the endpoints. ``pay(caller, items)`` charges for a request about so many streams; False refuses it."""
        self._settings = settings
        self._pay = pay
        self._bodies = bodies
        self._find_app = app
        self._app_by_key = app_by_key
        self._refusal = refusal
        self._keys = keys
        self._catalog = catalog
        self._authorize = authorize

    def origin_allowed(self, origin: str, query: str = "") -> bool:
        """Return True if pages of this origin may use the endpoints: by the app that the query names, else by the first.

        A browser asks before it sends the key or the body, so these cannot name the app here.
        """
        named = dict(parse_qsl(query)).get("app")
        app = self._find_app(self._settings.app_id) if named is None else self._named(named)
        return app is not None and app.origin_allowed(origin)

    async def streams(self, request: Request) -> Response:
        """Answer GET /api/v2/ws/streams: the streams this key may read."""
        key = bearer(request, self._keys)
        entries = list(self._catalog())
        self._charge(key, len(entries))
        return json_answer({"streams": [_described(entry) for entry in readable(entries, key)]})

    async def session(self, request: Request) -> Response:
        """Answer POST /api/v2/ws/session: the address to connect to, and the channels of the requested streams."""
        key = bearer(request, self._keys)
        self._app(key, None)
        asked = _json_object(await self._body(request))
        _known_members(asked, "subscriptions", "app")
        app, wanted = self._app(key, asked.get("app", request.query_params.get("app"))), self._wanted(asked)
        self._charge(key, len(wanted))
        address = address_of(request, self._settings.public)
        entries = [*self._catalog(), PROBE]
        resolved = [self._resolved(f"subscriptions[{n}]", item, entries, key, address) for n, item in enumerate(wanted)]
        return json_answer(
            {
                "connection": _connection(app, address, named=app.id != self._app(key, None).id),
                "session": {"recommendedReconnectBackoffMs": RECONNECT_BACKOFF_MS},
                "subscriptions": resolved,
            }
        )

    async def auth(self, request: Request) -> Response:
        """Answer POST /api/v2/ws/auth: the signature for one channel and socket, as pusher-js asks for it (form or JSON)."""
        key = bearer(request, self._keys)
        self._app(key, None)
        fields = _auth_fields(request.headers.get("content-type", ""), await self._body(request))
        _known_members(fields, "socket_id", "channel_name", "app")
        app = self._app(key, fields.get("app", request.query_params.get("app")))
        socket_id, channel = _checked(fields, app)
        reason = channel_refusal(key, channel, self._authorize)
        if reason is not None:
            raise HttpRefusal(403, reason, field="channel_name")
        data = _member(key, channel)
        answer = {"auth": key_auth(app, key.name, key.digest, socket_id, channel, data)}
        return json_answer(answer if data is None else {**answer, "channel_data": data})

    async def schema(self, request: Request) -> Response:
        """Answer GET /schemas/KIND.json: the JSON Schema of an event kind. It needs no API key."""
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise HttpRefusal(404, f"there is no kind {kind!r:.64}; there are {', '.join(KINDS)}")
        id = _schema_url(address_of(request, self._settings.public), kind)
        return json_answer({"$id": id, **event_schema(kind)}, headers={"Content-Type": "application/schema+json"})

    async def asyncapi(self, request: Request) -> Response:
        """Answer GET /api/v2/asyncapi.json: channels, events and commands as AsyncAPI 3. It needs no API key."""
        address = address_of(request, self._settings.public)
        server = asyncapi.server(f"{address.host}:{address.port}", tls=address.tls)
        return json_answer({**asyncapi.document(self._settings.version), "servers": {"relay": server}})

    def _charge(self, key: ApiKey, streams: int) -> None:
        if not self._pay(f"key {key.name}", streams):
            raise HttpRefusal(429, "too many requests (limit costs.api_rate)")

    def _app(self, key: ApiKey, named: object) -> App:
        """Return the app of a request: the one it names by id or key, else the API key's, else the first."""
        own = key.app or self._settings.app_id
        app = self._find_app(own)
        if named is not None:
            app = self._named(named) if isinstance(named, str) else None
            if app is None:
                raise HttpRefusal(400, "app: must be the id or the key of an app of this relay", field="app")
            if key.app is not None and app.id != key.app:
                raise HttpRefusal(403, f"API key {key.name} is of another app", field="app")
        if app is None:
            raise HttpRefusal(503, "the relay has no app for sessions now")
        if not app.enabled:
            raise HttpRefusal(403, "the app for sessions is disabled")
        return app

    def _named(self, name: str) -> App | None:
        return self._find_app(name) or self._app_by_key(name)

    async def _body(self, request: Request) -> bytes:
        return await self._bodies.read(request)

    def _wanted(self, asked: Mapping[str, Any]) -> list[Any]:
        wanted = asked.get("subscriptions")
        if not isinstance(wanted, list):
            raise HttpRefusal(400, "subscriptions must be a list", field="subscriptions")
        if len(wanted) > SUBSCRIPTIONS:
            raise HttpRefusal(400, f"subscriptions: more than {SUBSCRIPTIONS}", field="subscriptions")
        return wanted

    def _resolved(
        self, where: str, item: Any, entries: Iterable[CatalogEntry], key: ApiKey, address: PublicAddress
    ) -> dict[str, Any]:
        id, filters = _subscription(where, item)
        try:
            entry = find(entries, id)
            if entry is PROBE:
                return self._probe(key, address)
            filters = entry.named_filters(id.partition(":")[2], filters)
            stream, own = entry.stream(filters), _readable(entry, key)
            if own is None or not key.may_read(stream):
                raise HttpRefusal(
                    403,
                    f"API key {key.name} may not read {channel_name(stream)}; {missing_grant(key, stream)}",
                    field=where,
                )
            own.check_account(filters)
        except UnknownStream as unknown:
            raise HttpRefusal(400, unknown.message, field=f"{where}.{unknown.field}") from None
        if (reason := self._refusal(stream)) is not None:
            raise HttpRefusal(400, f"{entry.id}: {reason}", field=f"{where}.filter.{entry.filters[0].name}")
        return {**_subscribed(entry, stream, entry.event, address), "stream": id}

    def _probe(self, key: ApiKey, address: PublicAddress) -> dict[str, Any]:
        answer = _subscribed(PROBE, _PROBE_STREAM, "signal", address)
        if not key.may_read(_PROBE_STREAM) or self._refusal(_PROBE_STREAM) is not None:
            answer["channel"] = PROBE.id
        return answer


def readable(entries: Iterable[CatalogEntry], key: ApiKey) -> list[CatalogEntry]:
    """Return the entries of which this key may read something, with only those accounts it may read."""
    return [own for entry in entries if (own := _readable(entry, key)) is not None]


def _readable(entry: CatalogEntry, key: ApiKey) -> CatalogEntry | None:
    if entry.kind not in ACCOUNT_KINDS:
        return entry if key.may_read_some(entry.provider, entry.topic_kind) else None
    accounts = [account for account in entry.accounts if key.may_read_account(entry.provider, account)]
    return evolve(entry, accounts=accounts, example={"account": accounts[0]}) if accounts else None


def _described(entry: CatalogEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "provider": entry.provider,
        "kind": entry.kind,
        "visibility": entry.visibility,
        "filters": [
            {"name": wanted.name, "required": wanted.required, "description": wanted.description}
            | ({"choices": wanted.choices} if wanted.choices else {})
            for wanted in entry.filters
        ],
        "event": entry.event,
        "payloadFormat": "json",
        "payloadSchemaId": entry.event,
        "example": entry.example if entry.complete(entry.example) else None,
    }


def _connection(app: App, address: PublicAddress, *, named: bool) -> dict[str, Any]:
    return {
        "provider": "pusher",
        "appKey": app.key,
        "wsHost": address.host,
        "wsPort": address.port,
        "forceTls": address.tls,
        "authEndpoint": f"{address.url}/api/v2/ws/auth{f'?app={app.id}' if named else ''}",
    }


def _subscribed(entry: CatalogEntry, stream: Stream, event: str, address: PublicAddress) -> dict[str, Any]:
    return {
        "stream": entry.id,
        "channel": channel_name(stream, entry.prefix),
        "event": event,
        "visibility": entry.visibility,
        "payloadFormat": "json",
        "payloadSchemaId": event,
        "payloadSchemaUrl": _schema_url(address, event),
    }


def _schema_url(address: PublicAddress, kind: str) -> str:
    return f"{address.url}/schemas/{kind}.json"


def address_of(request: Request, public: PublicAddress | None) -> PublicAddress:
    """Return the address at which the sender of this request reaches the relay.

    This is `public_url`, or else the client's own Host header, which is only returned to that client. Forwarding headers are
    not trusted: any client can send them; behind a proxy `public_url` is needed.
    """
    if public is not None:
        return public
    tls, server = request.scope["scheme"] == "https", request.scope.get("server")
    host = request.headers.get("host") or (f"{server[0]}:{server[1]}" if server else "")
    address = parse_address(host, tls=tls)
    if address is None:
        raise HttpRefusal(400, "the Host header must be host or host:port", field="Host")
    return address


# Reading -------------------------------------------------------------------------------------------------------------


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise HttpRefusal(400, f"the body is not JSON: {json_fault(body, error)}", field="body") from None
    if not isinstance(value, dict):
        raise HttpRefusal(400, "the body must be a JSON object", field="body")
    return value


def _known_members(given: Mapping[str, Any], *known: str, where: str = "") -> None:
    """Refuse members that the request does not have: a misspelt one must not be ignored in silence."""
    for name in given:
        if name not in known:
            raise HttpRefusal(
                400, f"{where}{name[:64]}: unknown; {suggestion(name, known)}", field=f"{where}{name[:64]}"
            )


def _subscription(where: str, item: Any) -> tuple[str, Mapping[str, str]]:
    if not isinstance(item, dict):
        raise HttpRefusal(400, f"{where} must be an object", field=where)
    _known_members(item, "stream", "filter", where=f"{where}.")
    id, filters = item.get("stream"), item.get("filter")
    if not isinstance(id, str):
        raise HttpRefusal(400, f"{where}.stream must be text", field=f"{where}.stream")
    filters = {} if filters is None else filters
    if not isinstance(filters, dict):
        raise HttpRefusal(400, f"{where}.filter must be an object", field=f"{where}.filter")
    for name, value in filters.items():
        if value is not None and not isinstance(value, str):
            raise HttpRefusal(400, f"{where}.filter.{name} must be text", field=f"{where}.filter.{name}")
    return id, {name: value for name, value in filters.items() if value is not None}


def _auth_fields(content_type: str, body: bytes) -> Mapping[str, Any]:
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return _json_object(body)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as error:
        raise HttpRefusal(400, f"the body is not a form: {error}", field="body") from None
    fields = dict(pairs)
    for name in ("socket_id", "channel_name", "app"):
        if sum(other == name for other, _ in pairs) > 1:
            raise HttpRefusal(400, f"{name} occurs twice", field=name)
    return fields


def _checked(fields: Mapping[str, Any], app: App) -> tuple[str, str]:
    for name in ("socket_id", "channel_name"):
        if not isinstance(fields.get(name), str):
            raise HttpRefusal(400, f"{name} is missing", field=name)
    socket_id, channel = fields["socket_id"], fields["channel_name"]
    try:
        check_socket_id(socket_id)
    except ProtocolError as error:
        raise HttpRefusal(400, error.message, field="socket_id") from None
    try:
        kind = check_channel_name(channel, app.limits.channel_name)
    except ProtocolError as error:
        raise HttpRefusal(400, error.message, field="channel_name") from None
    if not kind.authorized:
        raise HttpRefusal(400, f"{channel} needs no authorization", field="channel_name")
    return socket_id, channel


def _member(key: ApiKey, channel: str) -> str | None:
    """Return the channel_data of presence channels: the key's name, and nothing that proves a right."""
    if not channel_type(channel).presence:
        return None
    return json.dumps({"user_id": key.name, "user_info": {}}, separators=(",", ":"))
