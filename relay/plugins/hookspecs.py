"""The hooks a plugin may implement: few, typed, called when the relay is wired and never on the path of a message.

A plugin is a module (or object) found through the entry-point group ``tickrelay`` that has functions marked with
`hookimpl`. The manager is built by `relay.app` and passed; there is no global one.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import pluggy
from attrs import field, frozen

from relay.adapter import Adapter
from relay.model.events import Event, Stamp

PROJECT = "tickrelay"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: Sees every published event: (event, stamp, id). Synchronous and quick; what it raises is counted against its plugin.
Tap = Callable[[Event, Stamp, str], None]
#: Changes or drops an event before it is published: returns the event, another one, or None.
Transform = Callable[[Event, Stamp], Event | None]


class RelayApi(Protocol):
    """What a service may do with the running relay."""

    def publish(self, event: Event, stamp: Stamp) -> None:
        """Publish an event as if a provider had sent it."""

    def snapshot(self) -> Mapping[str, Any]:
        """State of sessions, channels and counters, as the status page shows it."""

    def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
        """Headers that prove to an application's server that ``body`` is from its app; the secret stays here.

        Raises:
            KeyError: there is no app of that id (any more).
        """


@frozen(kw_only=True)
class ChannelEvent:
    """Something an app's server may want to know (Pusher Channels protocol, webhooks).

    ``name`` is channel_occupied, channel_vacated, member_added, member_removed, client_event, cache_miss or
    subscription_count. It is told when it happens; delaying and taking back is left to whoever listens.

    Attributes:
        user_id: the member that came or went, or sent the client event on a presence channel.
        event, data, socket_id: of a client event.
    """

    app_id: str
    name: str
    channel: str
    user_id: str | None = None
    event: str | None = None
    data: str | None = None
    socket_id: str | None = None
    subscription_count: int | None = None


#: Sees what happens on applications' channels. Synchronous and quick, as a tap.
Watcher = Callable[[ChannelEvent], None]


@frozen(kw_only=True)
class Simulated:
    """A simulated provider that ``tickrelay demo`` starts: a provider's server on a port of its own, with made-up data.

    Attributes:
        provider: the name it gets in the demo's configuration.
        adapter: the adapter's name.
        run: serves until cancelled on a loopback port the kernel chooses, and reports (WebSocket URL, HTTP base URL).
        credentials: what the simulator lets in.
        account: the account's name, None where it has none.
        pinned: channels kept subscribed, as in the configuration.
    """

    provider: str
    adapter: str
    run: Callable[..., Awaitable[None]]
    credentials: Mapping[str, str] = field(factory=dict, repr=False)
    account: str | None = None
    options: Mapping[str, str] = field(factory=dict)
    symbols: Mapping[str, str] = field(factory=dict)
    pinned: tuple[str, ...] = ()


@frozen
class Service:
    """A supervised background task: restarted with backoff when it fails, cancelled at shutdown."""

    name: str
    run: Callable[[RelayApi], Awaitable[None]]


@frozen
class Grant:
    """A decision of `relay_authorize`: whether, and why not."""

    allowed: bool
    reason: str = ""


@hookspec
def relay_adapters() -> Iterable[type[Adapter]]:  # type: ignore[empty-body]
    """Return the adapters this plugin brings."""


@hookspec
def relay_settings() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Return configuration tables this plugin reads: table name -> attrs class; the values reach `relay_configure`."""


@hookspec
def relay_configure(settings: Mapping[str, Any]) -> None:
    """Receive the plugin tables of the configuration, structured, before any other hook is called."""


@hookspec(firstresult=True)
def relay_credentials(provider: str, name: str) -> str | None:
    """Return the credential ``name`` of the configured ``provider``, or None to let the next plugin try.

    For a named account of the provider it is asked as ``ACCOUNT.NAME``.
    """


@hookspec(firstresult=True)
def relay_authorize(api_key: str, channel: str) -> Grant | None:
    """Decide whether the API key of that name may subscribe to ``channel``; None leaves it to the configuration."""


@hookspec
def relay_transforms() -> Iterable[Transform]:  # type: ignore[empty-body]
    """Return transforms, applied in plugin order to every event before it is published."""


@hookspec
def relay_taps() -> Iterable[Tap]:  # type: ignore[empty-body]
    """Return taps, called with every published event."""


@hookspec
def relay_watchers() -> Iterable[Watcher]:  # type: ignore[empty-body]
    """Return watchers, called with everything that happens on applications' channels."""


@hookspec
def relay_simulators() -> Iterable[Simulated]:  # type: ignore[empty-body]
    """Return simulated providers for ``tickrelay demo``."""


@hookspec
def relay_services() -> Iterable[Service]:  # type: ignore[empty-body]
    """Return supervised background tasks."""


@hookspec
def relay_commands() -> Iterable[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return functions that become subcommands of the ``tickrelay`` command line."""
