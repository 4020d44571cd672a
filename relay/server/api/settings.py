"""Settings of the HTTP endpoints, and the address of the relay for its clients."""

import re
from urllib.parse import urlsplit

from attrs import field, frozen

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
    body: int = 65_536
    """Largest body of a request, in bytes; the Pusher HTTP API has a limit per app."""
    bodies: int = 64 * 1024 * 1024
    """Bytes of bodies in memory, of all requests together."""
    body_within: float = 30.0
    """Seconds for receiving a body."""
    subscriptions: int = 100
    """Streams one session request may name."""
    reconnect_backoff_ms: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000)
    """Delays between attempts to connect that clients are advised to use."""
    public: PublicAddress | None = field(init=False)

    @public.default
    def _parse_public_url(self) -> PublicAddress | None:
        return None if self.public_url is None else public_address(self.public_url)
