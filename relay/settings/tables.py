"""The configuration: the tables of ``tickrelay.toml`` as written, and the checked `Settings` that are made from them.

Every key of a table has a default, so that one wrong key never hides the other problems; keys that an operator must write
are marked as needed and demanded when the tables are read. The text under a key is its documentation, which
`relay.settings.reference` prints.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import Attribute, Factory, field, frozen, validators

from relay.adapter import Adapter
from relay.auth import ApiKey
from relay.hub.history import HistoryLimits
from relay.hub.outbox import OutboxLimits
from relay.model.channels import Topic
from relay.model.hours import Hours
from relay.pusher.apps import App, Limits
from relay.pusher.costs import Costs
from relay.server.admission import HttpLimits, SubscriberLimits
from relay.trading.registry import CommandLimits

_positive: Any = validators.gt(0)
_not_negative: Any = validators.ge(0)
_positive_or_none: Any = validators.optional(_positive)

#: Metadata of a key that must be written.
_NEEDED = {"needed": True}


def is_needed(attribute: "Attribute[Any]") -> bool:
    """Return True if an operator must write the key although it has a default here."""
    return "needed" in attribute.metadata


#: The ways to write a secret.
HOW_TO_WRITE = 'write { env = "NAME" } or { file = "/path" }'


def _check_digest(_: object, attribute: "Attribute[Any]", value: str) -> None:
    if re.fullmatch("[0-9a-f]{64}", value) is None:
        raise ValueError("must be 64 hexadecimal digits in lower case, as `tickrelay key` prints them")


@frozen
class SecretRef:
    """The place of a secret: exactly one of an environment variable, a file, or (if allowed) the text itself."""

    env: str | None = None
    file: str | None = None
    inline: str | None = field(default=None, repr=False)

    @classmethod
    def structure(cls, value: Any) -> "SecretRef":
        """Return the reference that the configuration holds.

        Raises:
            ValueError: neither text nor a table of `env` or `file`. The message does not contain the value.
        """
        match value:
            case str():
                return cls(inline=value)
            case {"env": str() as name, **rest} if name and not rest:
                return cls(env=name)
            case {"file": str() as path, **rest} if path and not rest:
                return cls(file=path)
        raise ValueError(f"not a secret; {HOW_TO_WRITE}")


# --- as written ---


@frozen(kw_only=True)
class ServerTable:
    """The one port for subscribers, the HTTP API and the pages."""

    listen: str = "127.0.0.1:6001"
    """Address and port, `HOST:PORT` or `[IPV6]:PORT`; port 0 lets the kernel choose. Only loopback by default."""
    tls_cert: str | None = None
    """Certificate chain in PEM; with `tls_key` the port speaks TLS only."""
    tls_key: str | None = None
    """Private key in PEM."""
    public_url: str | None = None
    """Public address of the relay if it is behind a proxy, e.g. `https://feed.example.com`."""
    hosts: tuple[str, ...] = ()
    """Allowed names in the Host header, without port; other names are refused with 421. `*` allows any. When
    absent: any, except that a relay which listens on loopback answers only to `localhost`, `127.0.0.1`, `[::1]` and the
    host of `public_url`, so that no page in a browser on this machine reaches it through a name of its own."""
    behind_proxy: bool = False
    """Trust `X-Forwarded-Proto: https` and the last address in `X-Forwarded-For`. Set it only if your own proxy is the only
    one that can reach the port; see `require_tls` and `connections_per_address`.
    """
    status_public: bool = False
    """Show the states of sessions and the metrics without an API key. Health checks are always public."""
    limits: HttpLimits = Factory(HttpLimits)
    subscribers: SubscriberLimits = Factory(SubscriberLimits)


@frozen(kw_only=True)
class AppTable:
    """One application: a tenant with its own key and secret, as in Pusher."""

    id: str | int | None = field(default=None, metadata=_NEEDED)
    """As in `/apps/<id>/...`: digits."""
    non_numeric_id: bool = False
    """Allow an `id` that is not all digits. The official Pusher server libraries refuse such an id."""
    key: str | None = field(default=None, metadata=_NEEDED)
    """The public half, as in `/app/<key>`."""
    secret: SecretRef | None = field(default=None, metadata=_NEEDED)
    """Signs and verifies."""
    previous_secret: SecretRef | None = None
    """Still verifies while clients move to the new `secret`."""
    enabled: bool = True
    """False refuses every connection (4003) and every request."""
    client_events: bool = False
    """Clients may send `client-` events on private and presence channels."""
    require_tls: bool = False
    """Refuse plain `ws://` with 4000."""
    allowed_origins: tuple[str, ...] = ("*",)
    """Origins of pages that may connect: `*`, `example.com`, `*.example.com`, `https://example.com:8443`."""
    max_connections: int | None = field(default=None, validator=_positive_or_none)
    """Connections at once; more are refused with 4004. With `authorization_timeout` only authorized ones count. Unlimited
    when absent."""
    max_unauthorized: int = field(default=1000, validator=_positive)
    """With `authorization_timeout`: connections at once that are not authorized yet. One more closes the oldest of them
    with 4100."""
    activity_timeout: float = field(default=120, validator=validators.ge(1))
    """Seconds of silence after which either side pings the other."""
    pong_timeout: float = field(default=30, validator=_positive)
    """Seconds a client has to answer a ping, else 4201."""
    inactivity_timeout: float = field(default=86_400, validator=_positive)
    """Seconds after which a connection without channels, sign-in and events is closed with 4202."""
    authorization_timeout: float | None = field(default=None, validator=_positive_or_none)
    """Seconds to sign in or to join an authorized channel, else 4009. Not demanded when absent."""
    accounts: tuple[str, ...] = ()
    """Accounts whose channels the app's secret alone opens, as `<provider>.<account>`; `check` warns of it. By default none:
    the relay itself authorizes for them, by API key."""
    subscription_count: bool = False
    """Tell subscribers how many they are."""
    cache_ttl: float = field(default=1800, validator=_positive)
    """Seconds a cache channel keeps its last event."""
    limits: Limits = Factory(Limits)


@frozen(kw_only=True)
class ApiKeyTable:
    """One API key of the session bootstrap and the command API, by its name in logs. `tickrelay key NAME` makes one."""

    key: SecretRef | None = None
    """The key itself; only its hash is kept. Write either `key` or `sha256`."""
    sha256: str | None = field(default=None, validator=validators.optional(_check_digest))
    """SHA-256 of the key in hex, so that the key itself is stored nowhere."""
    app: str | None = None
    """The app of its sessions, by its NAME in `[apps.NAME]`. When absent, a request may name one."""
    streams: tuple[str, ...] = ("*",)
    """Market and status streams it may read, by channel names without prefix (`quote.binance.BTC-USDT`, `status.*`) or ids
    of the catalog (`binance.quote`, `binance.*`). `*` matches any text; parts left out at the end match all."""
    accounts: tuple[str, ...] = ()
    """Accounts it may read, as `<provider>.<account>` with `*` for any text."""
    trade: tuple[str, ...] = ()
    """Accounts it may trade on, and so read."""
    inspect: tuple[str, ...] = ()
    """Accounts whose sessions' raw frames it may read, with secrets masked; `<provider>.*` for a provider without accounts.
    """


@frozen(kw_only=True)
class AccountTable:
    """One account at the provider: its own session, with its own credentials."""

    credentials: Mapping[str, SecretRef] = Factory(dict)
    """By the names the adapter declares; what is absent is taken from the provider's `credentials`."""


@frozen(kw_only=True)
class ReplayTable:
    """A recording instead of a connection. Nothing is sent, and commands are refused."""

    file: str | None = None
    """The recording, relative to the configuration; see `docs/recording.md`."""
    speed: float = field(default=1.0, validator=_not_negative)
    """1 for the recorded speed, 10 for ten times as fast, 0 for as fast as possible."""
    acks: bool = False
    """Let the session set the pace: each frame that was sent in the recording is waited for, as where a provider waits for
    acknowledgements. `speed` is not used then."""
    loop: bool = False
    """Start again at the end."""


@frozen(kw_only=True)
class ProviderTable:
    """One connection to a provider. NAME is in channel names and events: lower-case letters, digits, `-` and `_`."""

    adapter: str | None = None
    """The adapter for its protocol (`tickrelay plugins` lists them); NAME when absent."""
    enabled: bool = True
    """False disables this provider."""
    url: str | None = None
    """WebSocket URL in place of the adapter's own."""
    http_url: str | None = None
    """Base of the HTTP API in place of the adapter's own."""
    options: Mapping[str, str | int | bool] = Factory(dict)
    """The adapter's options."""
    symbols: Mapping[str, str] = Factory(dict)
    """Provider's symbol = canonical symbol (`BASE/QUOTE`); takes precedence over the provider's metadata."""
    pinned: tuple[str, ...] = ()
    """Streams kept subscribed without a subscriber: `"quote BTC/USDT"`, `"candle BTC/USDT 1m"`, or a channel's name."""
    required: bool = False
    """The relay is not ready (`/readyz`) while this provider is not."""
    linger: float = 30.0
    """Seconds a stream stays subscribed after its last subscriber left."""
    waiting: int = field(default=10_000, validator=_positive)
    """Most streams that may wait to be requested, each counted once for every connection that waits for it. If there are
    more, a stream of the connection with the most is refused.
    """
    first_data_within: float | None = field(default=None, validator=validators.optional(_not_negative))
    """Seconds from a subscription to its first event before the stream is called stale; 0: never. When absent, those of
    `stale_after`, else 30 for quotes, depth and instruments and 60 and the bar for candles."""
    stale_after: Mapping[str, float] = Factory(dict)
    """Seconds without an event after which a stream is STALE, by kind (`quote = 30`) or by stream (`"quote EUR/USD" = 5`);
    takes precedence over the adapter. 0: never."""
    hours: Mapping[str, str] = Factory(dict)
    """Trading hours of markets, by symbol or for all others (`default = "Sun 17:00-Fri 17:00 America/New_York"`), in
    place of those that the adapter knows: while a market is closed, silence is normal. Spans are separated by commas
    (`Mon-Fri 09:30-12:00, Mon-Fri 13:00-16:00 Asia/Tokyo`), times are UTC where no zone is named, and `always` never
    closes."""
    audit: float = field(default=60.0, validator=_not_negative)
    """Seconds between two comparisons of an account with the provider's lists while the session is up; 0: never. They use
    idle rate limit only, and never delay a command.
    """
    check_orders: bool = True
    """Check an order against the provider's data of its instrument before it is sent: tick size, quantity step and bounds,
    and trading status. A single order is sent unchecked with `extra.unchecked`.
    """
    visibility: Literal["public", "private"] = "public"
    """`private`: its market streams need an authorized subscription (`private-` channels)."""
    credentials: Mapping[str, SecretRef] = Factory(dict)
    """By the names the adapter declares, each a secret."""
    accounts: Mapping[str, AccountTable] = Factory(dict)
    replay: ReplayTable = Factory(ReplayTable)


@frozen(kw_only=True)
class LogTable:
    """The log, on standard error. Secrets are masked. Lines that cannot be written are counted and dropped."""

    format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""
    repeats: int = field(default=10, validator=validators.ge(0))
    """Lines of one kind that are written a minute; the others are counted, and their number is written. 0 writes all."""


@frozen(kw_only=True)
class StoreTable:
    """The place of what must outlive the process: commands, fills, states of accounts, recent events, recent dials."""

    url: str | None = None
    """`sqlite:///PATH` is one file; a relative PATH is relative to the configuration, an absolute one gives four slashes.
    `memory:` keeps nothing: after a restart a repeated order is sent again. When absent, a file beside the configuration
    with its name and the ending `.sqlite3`. `redis://HOST:PORT/DB` or `rediss://...` is shared by several relays, which are
    one then (see `[cluster]`); it needs the extra `tickrelay[redis]`."""
    event_bytes: int = field(default=256 * 1024 * 1024, validator=validators.ge(1024 * 1024))
    """Most bytes of recent events in the file, of all topics; the oldest are removed first. `[history]` limits each topic.
    """


@frozen(kw_only=True)
class ClusterTable:
    """This relay as a node of a cluster that shares a Redis. Without Redis (`store.url`) the table has no effect."""

    node: str | None = field(default=None, validator=validators.optional(validators.matches_re("[A-Za-z0-9_.-]{1,64}")))
    """Name of this relay in the status of the cluster; the host name when absent."""
    role: Literal["both", "owner", "edge"] = "both"
    """`owner` holds sessions with providers and answers HTTP, but serves no subscribers; `edge` never holds a session."""
    lease: float = field(default=3.0, validator=validators.ge(0.5))
    """Seconds after which another relay may take over a provider whose owner has vanished; the same for all relays."""
    waves: float = field(default=1.0, validator=[validators.ge(0), validators.le(60)])
    """Seconds over which a stopping relay disconnects its subscribers (4200), in parts, so that they do not all reconnect to
    the other relays at once.
    """


@frozen(kw_only=True)
class Document:
    """The keys outside of any table."""

    allow_inline_secrets: bool = False
    """Accept secrets written as plain text in this file."""
    server: ServerTable = Factory(ServerTable)
    apps: Mapping[str, AppTable] = Factory(dict)
    api_keys: Mapping[str, ApiKeyTable] = Factory(dict)
    providers: Mapping[str, ProviderTable] = Factory(dict)
    history: HistoryLimits = Factory(HistoryLimits)
    outbox: OutboxLimits = Factory(OutboxLimits)
    commands: CommandLimits = Factory(CommandLimits)
    store: StoreTable = Factory(StoreTable)
    cluster: ClusterTable = Factory(ClusterTable)
    costs: Costs = Factory(Costs)
    log: LogTable = Factory(LogTable)
    plugins: Mapping[str, Any] = Factory(dict)
    """One table per plugin, as the plugin declares it."""


# --- checked ---


@frozen
class Tls:
    """PEM files of the port."""

    cert: Path
    key: Path


@frozen(kw_only=True)
class Server:
    """The port. ``port`` 0 lets the kernel choose; ``tls`` None speaks plain; ``hosts`` None answers to every name."""

    host: str
    port: int
    tls: Tls | None = None
    public_url: str | None = None
    hosts: frozenset[str] | None = None
    behind_proxy: bool = False
    status_public: bool = False
    limits: HttpLimits = Factory(HttpLimits)
    subscribers: SubscriberLimits = Factory(SubscriberLimits)


@frozen(kw_only=True)
class Cluster:
    """The Redis that several relays share, and this relay's place among them; see `ClusterTable`."""

    url: str = field(repr=False)
    node: str | None = None
    role: Literal["both", "owner", "edge"] = "both"
    lease: float = 3.0
    waves: float = 1.0


@frozen(kw_only=True)
class AccountSettings:
    """One session with a provider. ``name`` is None where the provider has no named accounts."""

    name: str | None = None
    credentials: Mapping[str, str] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class ProviderSettings:
    """One configured provider.

    Attributes:
        adapter: the adapter's class.
        url, http_url: replace `Session.url` and `Session.http`; None keeps those of the adapter.
        options: the adapter's options with its defaults filled in.
        symbols: native -> canonical, free of ambiguity.
        pinned: topics that are always wanted, each once.
        required: True if the relay is ready only while this provider is.
        linger: seconds a topic stays subscribed without a subscriber.
        waiting: topics that may wait to be asked for.
        first_data_within: seconds from a subscription to its first event; see `SessionSettings` of `relay.provider`.
        stale_after, hours, audit, check_orders: see `SessionSettings` of `relay.provider`.
        visibility: `private` if its market streams need authorization.
        accounts: its sessions, at least one.
        replay: a recording in the place of the provider, its file absolute; None for the provider itself.
    """

    name: str
    adapter: type[Adapter]
    url: str | None = None
    http_url: str | None = None
    options: Mapping[str, str] = Factory(dict)
    symbols: Mapping[str, str] = Factory(dict)
    pinned: tuple[Topic, ...] = ()
    required: bool = False
    linger: float = 30.0
    waiting: int = 10_000
    first_data_within: float | None = None
    stale_after: Mapping[str | Topic, float] = Factory(dict)
    hours: Mapping[str | None, Hours] = Factory(dict)
    audit: float = 60.0
    check_orders: bool = True
    visibility: Literal["public", "private"] = "public"
    accounts: tuple[AccountSettings, ...] = (AccountSettings(),)
    replay: ReplayTable | None = None


@frozen(kw_only=True)
class Settings:
    """The whole configuration, checked.

    Attributes:
        path: the configuration file.
        store: the file of the store; None: nothing outlives the process, or the store is `cluster`.
        cluster: the Redis of several relays.
        store_event_bytes: bytes of recent events in it.
        plugins: every table that a plugin declared, by name; absent tables have their defaults.
        secret_values: every secret that was read, for masking in logs.
        notes: warnings, one line each.
    """

    path: Path
    server: Server
    apps: tuple[App, ...]
    api_keys: tuple[ApiKey, ...] = ()
    providers: tuple[ProviderSettings, ...] = ()
    history: HistoryLimits = Factory(HistoryLimits)
    outbox: OutboxLimits = Factory(OutboxLimits)
    commands: CommandLimits = Factory(CommandLimits)
    store: Path | None = None
    cluster: Cluster | None = None
    store_event_bytes: int = 256 * 1024 * 1024
    costs: Costs = Factory(Costs)
    log: LogTable = Factory(LogTable)
    plugins: Mapping[str, Any] = Factory(dict)
    secret_values: frozenset[str] = field(default=frozenset(), repr=False)
    notes: tuple[str, ...] = ()
