"""What the HTTP side is told by the configuration."""

from attrs import field, frozen

from relay.server.api.origin import Address, public_address


@frozen(kw_only=True)
class ApiSettings:
    """Settings of `relay.server.api.routes.build_api`. Raises ValueError for a `public_url` that is none."""

    app_id: str
    """The app of bootstrapped sessions and of the dashboard: its key is told, its secret signs, its origins may ask."""
    public_url: str | None = None
    """How clients reach the relay, ``https://feed.example.com``; None: as their own Host header says."""
    status_public: bool = False
    """State and metrics need no API key."""
    demo_api_key: str | None = None
    """Told to everybody, for the dashboard's accounts: the demo's key, which everybody knows anyway."""
    version: str = ""
    """The relay's, for state and metrics."""
    body: int = 65_536
    """Bytes of one request's body; the Pusher HTTP API has each app's own limit."""
    body_within: float = 30.0
    """Seconds for a body to come."""
    subscriptions: int = 100
    """Streams one session request may name."""
    reconnect_backoff_ms: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000)
    """What clients are advised to wait between attempts to connect."""
    public: Address | None = field(init=False)

    @public.default
    def _parse_public_url(self) -> Address | None:
        return None if self.public_url is None else public_address(self.public_url)
