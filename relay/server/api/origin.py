"""Where a client reaches the relay, and who may ask from a browser's page.

The address is the configured `public_url`, or else what the client itself wrote in its Host header: it is only told back to
that client. Forwarding headers are not believed: any client can send them; behind a proxy `public_url` is the answer.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from attrs import frozen
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.server.api.answers import Refusal

_authority = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?").fullmatch


@frozen
class Address:
    """How a client reaches the relay from where it is."""

    host: str
    """A name or an IP address, IPv6 in brackets."""
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """``https://host:port``, the port left out where it is the scheme's own."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        return f"{scheme}://{self.host}" if self.port == usual else f"{scheme}://{self.host}:{self.port}"


def parse_address(authority: str, *, tls: bool) -> Address | None:
    """The address in ``host[:port]``, None where it is none."""
    match = _authority(authority)
    if match is None:
        return None
    host, port = match.groups()
    number = int(port) if port else 443 if tls else 80
    return Address(host, number, tls) if 0 < number < 65536 else None


def public_address(url: str) -> Address:
    """The address in a configured ``public_url``.

    Raises:
        ValueError: not ``http://`` or ``https://`` with a host and nothing behind it.
    """
    parts = urlsplit(url)
    address = parse_address(parts.netloc, tls=parts.scheme == "https")
    if parts.scheme not in ("http", "https") or address is None or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"public_url must be like https://feed.example.com, not {url!r:.200}")
    return address


def address_of(request: Request, public: Address | None) -> Address:
    """How the sender of this request reaches the relay."""
    if public is not None:
        return public
    tls, server = request.scope["scheme"] == "https", request.scope.get("server")
    host = request.headers.get("host") or (f"{server[0]}:{server[1]}" if server else "")
    address = parse_address(host, tls=tls)
    if address is None:
        raise Refusal(400, "the Host header must be host or host:port", field="Host")
    return address


class Cors:
    """Lets pages of allowed origins use the endpoints below the given path prefixes (WHATWG Fetch, CORS protocol).

    Requests authenticate by a header of their own, never by cookies, so credentials are not allowed. A page of another
    origin gets no permission; its preflight is answered 403.
    """

    def __init__(self, app: ASGIApp, *, prefixes: tuple[str, ...], allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._prefixes = prefixes
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._preflight(origin)(scope, receive, send)
            return

        async def send_with_permission(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                if origin is not None and self._allowed(origin):
                    answer["Access-Control-Allow-Origin"] = origin
            await send(message)

        await self._app(scope, receive, send_with_permission)

    def _preflight(self, origin: str) -> Response:
        if not self._allowed(origin):
            return Response(status_code=403, headers={"Vary": "Origin"})
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
                "Access-Control-Max-Age": "600",
                "Vary": "Origin",
            },
        )
