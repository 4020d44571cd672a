"""An app: one tenant of the relay, with its key, its secrets, its quotas and its limits."""

import re
from collections.abc import Iterable

from attrs import field, frozen, validators

from relay.model.patterns import AccountPattern, account_pattern, any_account

__all__ = ["App", "Limits"]

_positive = validators.gt(0)
_positive_or_none = validators.optional(_positive)


@frozen(kw_only=True)
class Limits:
    """Every limit of the Pusher Channels protocol, and the relay's own, with the protocol's figures as defaults."""

    channel_name: int = field(default=164, validator=_positive)
    """Characters of a channel name."""
    event_name: int = field(default=200, validator=_positive)
    """Characters of an event name."""
    event_payload: int = field(default=10_240, validator=_positive)
    """Bytes (UTF-8) of one event's data."""
    message_size: int = field(default=65_536, validator=_positive)
    """Bytes of one whole message from a client."""
    batch: int = field(default=10, validator=_positive)
    """Events of one batch_events request."""
    channels_per_trigger: int = field(default=100, validator=_positive)
    """Channels one event may be sent to in one request."""
    presence_members: int = field(default=100, validator=_positive)
    """Distinct users of one presence channel."""
    member_size: int = field(default=1024, validator=_positive)
    """Bytes of a member's user_info as JSON."""
    user_id: int = field(default=128, validator=_positive)
    """Characters of a user id."""
    user_data_size: int = field(default=10_240, validator=_positive)
    """Bytes of the user_data of a sign-in."""
    watchlist: int = field(default=100, validator=_positive)
    """Users one user may watch."""
    client_events_per_second: float = field(default=10, validator=_positive)
    """Client events per second and connection; a second's worth may come at once."""
    subscriptions: int = field(default=1000, validator=_positive)
    """Most channels of one connection."""
    streams: int = field(default=500, validator=_positive)
    """Most market streams and accounts of one connection; these need a subscription at a provider."""
    occupied_streams: int = field(default=10_000, validator=_positive)
    """Most market streams and accounts of all connections of the app together, each counted once."""
    rewind: int = field(default=1000, validator=_positive)
    """Most past events that one subscription may request."""
    request_body: int = field(default=1_048_576, validator=_positive)
    """Bytes of one HTTP API request's body."""
    events_per_second: float | None = field(default=None, validator=_positive_or_none)
    """Events per second through the HTTP API; None is unlimited."""
    connections_per_second: float | None = field(default=None, validator=_positive_or_none)
    """New connections per second; None is unlimited."""


def _origin_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, pattern.lower().split("*"))))


@frozen(kw_only=True)
class App:
    """One app. Several secrets are valid at once while one replaces another: the first signs, all verify."""

    id: str = field(validator=validators.min_len(1))
    """As in `/apps/<id>/...`; digits only, or the official server libraries refuse it."""
    key: str = field(validator=validators.matches_re(r"[A-Za-z0-9_.\-]+"))
    """The public half, as in `/app/<key>`."""
    secrets: tuple[str, ...] = field(repr=False, converter=tuple)
    name: str = ""
    enabled: bool = True
    client_events: bool = False
    """Clients may send `client-` events on private and presence channels."""
    require_tls: bool = False
    """Plain ws:// is refused with 4000."""
    allowed_origins: tuple[str, ...] = field(default=("*",), converter=tuple)
    """Origins of browser pages that may connect: `*`, `example.com`, `*.example.com`, `https://example.com:8443`."""
    max_connections: int | None = field(default=None, validator=_positive_or_none)
    """Connections at once; more are refused with 4004. With `authorization_timeout` only authorized ones count."""
    max_unauthorized: int = field(default=1000, validator=_positive)
    """With `authorization_timeout`: connections at once that are not authorized yet. One more closes the oldest of them
    with 4100.
    """
    activity_timeout: float = field(default=120, validator=validators.ge(1))
    """Seconds of silence after which either side pings the other."""
    pong_timeout: float = field(default=30, validator=_positive)
    """Seconds a client has to answer a ping (4201)."""
    inactivity_timeout: float = field(default=86_400, validator=_positive)
    """Seconds after which a connection without channels, sign-in and events is closed with 4202."""
    authorization_timeout: float | None = field(default=None, validator=_positive_or_none)
    """Seconds to sign in or to join an authorized channel, else 4009; None demands neither (authorized connections)."""
    accounts: tuple[str, ...] = field(default=(), converter=tuple)
    """Accounts whose channels this app's secret alone opens (`relay.model.patterns`); else an API key is needed."""
    subscription_count: bool = False
    """Send the number of subscribers to them (`pusher_internal:subscription_count`)."""
    cache_ttl: float = field(default=1800, validator=_positive)
    """Seconds a cache channel keeps its last event."""
    limits: Limits = field(factory=Limits)
    _origins: tuple[re.Pattern[str], ...] = field(init=False, repr=False, eq=False)
    _accounts: tuple[AccountPattern, ...] = field(init=False, repr=False, eq=False)

    @secrets.validator
    def _check_secrets(self, _: object, secrets: Iterable[str]) -> None:
        if not secrets or not all(secrets):
            raise ValueError(f"app {self.id}: secrets must hold at least one secret and none that is empty")

    @_origins.default
    def _compile_origins(self) -> tuple[re.Pattern[str], ...]:
        return tuple(map(_origin_pattern, self.allowed_origins))

    @_accounts.default
    def _compile_accounts(self) -> tuple[AccountPattern, ...]:
        return tuple(map(account_pattern, self.accounts))

    def may_read_account(self, provider: str, account: str) -> bool:
        """Return whether the app's secret opens this account's channels."""
        return any_account(self._accounts, provider, account)

    @property
    def secret(self) -> str:
        """The secret that signs."""
        return self.secrets[0]

    def origin_allowed(self, origin: str | None) -> bool:
        """Return whether a page of this Origin may connect. None, as from every client that is no browser, always may.

        A pattern with a scheme is matched against the whole origin, one without against the host with and without its
        port; `*` stands for any run of characters.
        """
        if origin is None or "*" in self.allowed_origins:
            return True
        origin = origin.lower()
        host = origin.partition("://")[2]
        return any(
            pattern.fullmatch(text)
            for pattern in self._origins
            for text in (origin, host, re.sub(r":[0-9]+$", "", host))
            if text
        )
