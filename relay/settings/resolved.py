"""The configuration, complete and checked: what the rest of the relay is built from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, field, frozen

from relay.adapter import Adapter
from relay.auth import ApiKey
from relay.hub.history import HistoryLimits
from relay.hub.outbox import OutboxLimits
from relay.model.channels import Topic
from relay.model.hours import Hours
from relay.pusher.apps import App
from relay.server.asgi import HttpLimits
from relay.server.connection import SubscriberLimits
from relay.settings.tables import LogTable


@frozen
class Tls:
    """PEM files of the port."""

    cert: Path
    key: Path


@frozen(kw_only=True)
class Server:
    """The port. ``port`` 0 lets the kernel choose; ``tls`` None speaks plain."""

    host: str
    port: int
    tls: Tls | None = None
    public_url: str | None = None
    behind_proxy: bool = False
    status_public: bool = False
    limits: HttpLimits = Factory(HttpLimits)
    subscribers: SubscriberLimits = Factory(SubscriberLimits)


@frozen(kw_only=True)
class Account:
    """One session with a provider. ``name`` is None where the provider has no named accounts."""

    name: str | None = None
    credentials: Mapping[str, str] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class Provider:
    """One configured provider.

    Attributes:
        adapter: the adapter's class.
        url, http_url: in place of `Session.url` and `Session.http`; None keeps the adapter's own.
        options: the adapter's options with its defaults filled in.
        symbols: native -> canonical, free of ambiguity.
        pinned: topics that are always wanted, each once.
        required: the relay is not ready while this provider is not.
        linger: seconds a topic stays subscribed without a subscriber.
        first_data_within: seconds from a subscription to its first event; None: ``stale_after``.
        stale_after, hours: as `relay.provider.session_state.SessionSettings` has them.
        visibility: whether its market streams need authorization.
        accounts: its sessions, at least one.
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
    first_data_within: float | None = None
    stale_after: Mapping[str | Topic, float] = Factory(dict)
    hours: Mapping[str | None, Hours] = Factory(dict)
    visibility: Literal["public", "private"] = "public"
    accounts: tuple[Account, ...] = (Account(),)


@frozen(kw_only=True)
class Settings:
    """Everything configured.

    Attributes:
        path: the file it came from; read it again to reload.
        plugins: each plugin table that was declared, by its name; absent tables have their defaults.
        secret_values: every secret that was read, for masking in logs.
        notes: what is allowed but worth saying, one line each.
    """

    path: Path
    server: Server
    apps: tuple[App, ...]
    api_keys: tuple[ApiKey, ...] = ()
    providers: tuple[Provider, ...] = ()
    history: HistoryLimits = Factory(HistoryLimits)
    outbox: OutboxLimits = Factory(OutboxLimits)
    log: LogTable = Factory(LogTable)
    plugins: Mapping[str, Any] = Factory(dict)
    secret_values: frozenset[str] = field(default=frozenset(), repr=False)
    notes: tuple[str, ...] = ()
