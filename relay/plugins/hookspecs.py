"""The hooks a plugin may implement.

A plugin is a module (or object) found through the entry-point group ``tickrelay`` that has functions marked with
`hookimpl`. The relay calls the hooks while it is built, never while it handles a message.

Everything a hook needs is an argument, and an implementation names only the arguments it uses. Two arguments are common:

- ``relay``: the `RelayApi` of the relay that is being built. Store it if you need it later; its methods work once the relay
  runs.
- ``settings``: the configuration tables that this plugin declared with `relay_settings`, as table name -> attrs instance.

Build objects inside the hook and return them. A module global would be shared by all relays of the process.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import pluggy
from attrs import field, frozen

from relay.adapter import Adapter
from relay.model.events import Event, Stamp

PROJECT = "tickrelay"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: Receive every published event as (event, stamp, id). Must return quickly; exceptions are counted against the plugin.
Tap = Callable[[Event, Stamp, str], None]
#: Return the event to publish in place of the given one, or None to drop it.
Transform = Callable[[Event, Stamp], Event | None]


class RelayApi(Protocol):
    """The relay, as plugins use it."""

    def publish(self, event: Event, stamp: Stamp) -> None:
        """Publish an event as if a provider had sent it."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state of sessions, channels and counters, as the status page shows it."""

    def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
        """Return the signature headers by which an application's server verifies that ``body`` comes from its app.

        Raises:
            KeyError: there is no app with this id.
        """

    def kept_rows(self, table: str) -> Sequence[tuple[str, bytes]]:
        """Return the rows that the plugin kept in its ``table`` before a restart."""

    def keep_row(self, table: str, key: str, value: bytes | None) -> None:
        """Keep a small row over a restart, None: do not any more. Soon, and in order; see `rows_kept`."""

    async def rows_kept(self) -> bool:
        """Wait until all rows are on disk; return False if the store failed or is in memory only."""

    @property
    def several(self) -> bool:
        """True if the relay is a node of a cluster: services with `once` then run on one node, and move with their rows."""


@frozen(kw_only=True)
class ChannelEvent:
    """A change of a channel that an app's server may want to know about (Pusher Channels protocol, webhooks).

    ``name`` is channel_occupied, channel_vacated, member_added, member_removed, client_event, cache_miss or
    subscription_count. Watchers receive it as soon as it happens; delaying or withdrawing an event is their own task.
    In a cluster, the events of all nodes are passed to the node that runs the services with `once`.

    Attributes:
        user_id: the member that joined or left, or sent the client event on a presence channel.
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


#: Receives the events of applications' channels. Must return quickly; exceptions are counted against the plugin.
Watcher = Callable[[ChannelEvent], None]


class Traffic(NamedTuple):
    """One frame, HTTP exchange, or change of a session's connection, as on the wire: it may contain secrets.

    Attributes:
        direction: ``open``: the connection is open; ``out``: a frame was sent; ``in``: a frame was received; ``http``: an
            HTTP request was answered; ``close``: the connection ended, or could not be opened.
        unix_ns: wall time in nanoseconds; of a received frame, when its bytes were read.
        data: the frame, the body of the answer, or the reason of the close.
        url: of ``open`` and ``http``; of ``http`` without its secret query parameters.
        method: of ``http``.
        status: of ``http``, 0 if there was no answer; of ``close``, the code, 1006 if there was no close frame.
        request: of ``http``, the body of the request.
        own: of ``close``, True if the relay closed the connection.
    """

    direction: Literal["open", "out", "in", "http", "close"]
    unix_ns: int
    data: str = ""
    url: str = ""
    method: str = "GET"
    status: int = 0
    request: str = ""
    own: bool = False


#: Receive the traffic of one session, in order. Must return quickly; exceptions are counted against the plugin.
FrameTap = Callable[[Traffic], None]


@frozen
class TappedSession:
    """A connection of a session with a provider account, for a tap of its traffic.

    Attributes:
        account: None if the provider has no accounts.
        connection: 1, or the number of a further connection, if the provider limits the topics of each.
        mask: returns a text with the session's credentials and learned values (tokens) masked. JSON stays valid: a numeric
            login becomes a number of nines. May be called in any thread. A secret in an answer is masked already when the
            taps receive that answer.
    """

    provider: str
    account: str | None
    connection: int
    mask: Callable[[str], str]


@frozen(kw_only=True)
class AnsweredCommand:
    """A trading command with its reply.

    Attributes:
        account: None if the provider has no accounts.
        id: the command's id.
        name: the name of its type, for instance ``place_order``.
        api_key: the name of the API key that sent it.
        outcome: ``accepted``, ``rejected`` or ``unknown``.
        error_code: the code of the refusal, or of the reason why the outcome is unknown; otherwise empty.
        taken_unix_ns, answered_unix_ns: times at which the relay accepted it and had the reply, Unix nanoseconds.
    """

    provider: str
    account: str | None
    id: str
    name: str
    api_key: str
    outcome: str
    error_code: str
    taken_unix_ns: int
    answered_unix_ns: int


#: Receive commands when they have their replies. Must return quickly; exceptions are counted against the plugin.
CommandTap = Callable[[AnsweredCommand], None]


@frozen(kw_only=True)
class Simulated:
    """A simulated provider for ``tickrelay demo``: a server on a port of its own, with invented data.

    Attributes:
        provider: the provider's name in the demo's configuration.
        adapter: the adapter's name.
        run: serves on a free loopback port until cancelled, and reports (WebSocket URL, HTTP base URL) when it is ready.
        credentials: the credentials that the simulator accepts.
        account: the account's name; None for a provider without accounts.
        more_accounts: further accounts that the demo has, by name, each with its credentials.
        pinned: channels kept subscribed, as in the configuration.
        simulator: makes the server itself, for tests of faults (`relay.testing.simulator.simulated` sets it).
    """

    provider: str
    adapter: str
    run: Callable[..., Awaitable[None]]
    credentials: Mapping[str, str] = field(factory=dict, repr=False)
    account: str | None = None
    more_accounts: Mapping[str, Mapping[str, str]] = field(factory=dict, repr=False)
    options: Mapping[str, str] = field(factory=dict)
    symbols: Mapping[str, str] = field(factory=dict)
    pinned: tuple[str, ...] = ()
    simulator: Callable[[], Any] | None = None


#: Return numbers by (of, what). Must return quickly; exceptions are counted against the plugin.
Figures = Callable[[], Mapping[tuple[str, str], float]]


@frozen
class Service:
    """A supervised background task: restarted with backoff when it fails, cancelled at shutdown.

    Attributes:
        run: the task.
        watch: receives channel events, as the result of `relay_watchers` does; also while the task does not run.
        tap: receives published events, as the result of `relay_taps` does.
        tap_frames: returns the tap of a session, as `relay_frame_taps` does; None leaves the session alone.
        tap_commands: receives trading commands with their replies, except those that were open at a restart.
        counts: returns the service's counters since the start, by (of, what), for the metrics, for instance
            ``("crm", "sent")`` for a webhook's endpoint. The labels must be fixed or come from the configuration, never from
            clients.
        levels: the same for gauges, for instance the length of a queue.
        once: True if only one node of a cluster runs it at a time, with the rows that the previous node has stored. It reads
            `RelayApi.kept_rows` at each start.
    """

    name: str
    run: Callable[[RelayApi], Awaitable[None]]
    watch: Watcher | None = None
    tap: Tap | None = None
    tap_frames: Callable[[TappedSession], FrameTap | None] | None = None
    tap_commands: CommandTap | None = None
    counts: Figures | None = None
    levels: Figures | None = None
    once: bool = False


@frozen
class Grant:
    """A decision of `relay_authorize`, with the reason of a refusal."""

    allowed: bool
    reason: str = ""


@hookspec
def relay_adapters() -> Iterable[type[Adapter]]:  # type: ignore[empty-body]
    """Return the plugin's adapters."""


@hookspec
def relay_settings() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Return the configuration tables of this plugin, as table name -> attrs class."""


@hookspec
def relay_check_settings(settings: Mapping[str, Any], apps: Collection[str]) -> None:
    """Raise ValueError for errors that the types of the plugin's tables cannot detect, for instance a missing secret.

    `apps` are the ids of the configured apps. Called each time the configuration is read, also by ``tickrelay check``.
    """


@hookspec(firstresult=True)
def relay_credentials(settings: Mapping[str, Any], provider: str, name: str) -> str | None:
    """Return the credential ``name`` of the configured ``provider``, or None to let the next plugin try.

    The name of a credential of a named account is ``ACCOUNT.NAME``.
    """


@hookspec(firstresult=True)
def relay_authorize(relay: RelayApi, settings: Mapping[str, Any], api_key: str, channel: str) -> Grant | None:
    """Decide if the API key named ``api_key`` may subscribe to ``channel``.

    Return None to let the next plugin decide. If none decides, the configuration does. Called for every authorization.
    """


@hookspec
def relay_transforms(relay: RelayApi, settings: Mapping[str, Any]) -> Iterable[Transform]:  # type: ignore[empty-body]
    """Return transforms, applied in plugin order to every event before it is published."""


@hookspec
def relay_taps(relay: RelayApi, settings: Mapping[str, Any]) -> Iterable[Tap]:  # type: ignore[empty-body]
    """Return taps, called with every published event."""


@hookspec
def relay_frame_taps(relay: RelayApi, settings: Mapping[str, Any], session: TappedSession) -> Iterable[FrameTap]:  # type: ignore[empty-body]
    """Return taps, which are called with everything that a connection sends and receives. Called for every connection.

    Traffic contains secrets, so pass texts that leave the process through ``session.mask``.
    """


@hookspec
def relay_watchers(relay: RelayApi, settings: Mapping[str, Any]) -> Iterable[Watcher]:  # type: ignore[empty-body]
    """Return watchers, called with every channel event of the apps."""


@hookspec
def relay_simulators() -> Iterable[Simulated]:  # type: ignore[empty-body]
    """Return simulated providers for ``tickrelay demo``."""


@hookspec
def relay_services(relay: RelayApi, settings: Mapping[str, Any]) -> Iterable[Service]:  # type: ignore[empty-body]
    """Return supervised background tasks."""


@hookspec
def relay_commands() -> Iterable[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return functions that become subcommands of the ``tickrelay`` command line."""
