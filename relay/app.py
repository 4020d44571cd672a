"""The relay: built from settings and plugins, run in one nursery, shut down in order.

Shutting down: no new connections, subscribers get 4200, providers are unsubscribed and closed, services are cancelled;
each step has a deadline, and what is left after all of them is dropped.
"""

import secrets
import signal
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
import trio

import relay
from relay.auth import KeyRing
from relay.errors import OperatorError
from relay.garbage import settle
from relay.hub.hub import Hub
from relay.model.events import Event, Reply, Stamp
from relay.pipeline import Pipeline
from relay.plugins.hookspecs import ChannelEvent, Grant, Service, Watcher
from relay.plugins.manager import FromPlugin, Plugins
from relay.provider.http import HttpClient
from relay.providers import ConfiguredProvider, Providers
from relay.pusher.signatures import webhook_headers
from relay.server.api.routes import build_api
from relay.server.api.settings import ApiSettings
from relay.server.http import HttpServer, open_listeners, serve_front
from relay.server.subscribers import SubscriberServer
from relay.settings import Server, Settings
from relay.supervise import supervise
from relay.trading.registry import SEEN, CommandRegistry
from relay.trading.service import CommandService

log = structlog.get_logger()

#: Seconds for subscribers to take their close frame, and for providers to be unsubscribed.
GOODBYE = 2.0


class Relay:
    """One relay. `run` serves until `stop`; several fit in one process.

    Args:
        settings: the configuration.
        plugins: loaded and checked.
        http: makes the adapters' requests; given by whoever closes it.
        demo_api_key: shown to everybody who opens the dashboard.
    """

    def __init__(
        self, settings: Settings, plugins: Plugins, http: HttpClient, *, demo_api_key: str | None = None
    ) -> None:
        self._settings = settings
        self._plugins = plugins
        self._demo_api_key = demo_api_key
        self._keys = KeyRing(settings.api_keys)
        self._watchers: list[FromPlugin[Watcher]] = plugins.collect("relay_watchers")
        self._pipeline = Pipeline(self._into_hub, plugins.collect("relay_transforms"), plugins.collect("relay_taps"))
        self.providers = Providers(
            ConfiguredProvider(provider, http, self._from_session, _session_log) for provider in settings.providers
        )
        self._desk = CommandRegistry()
        self._command_service = CommandService(
            registry=self._desk,
            providers=self.providers,
            keys=self._keys,
            publish=self._from_session,
            ids=lambda: uuid.uuid4().hex,
        )
        self.hub = Hub(
            settings.apps,
            epoch=f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(2)}",
            socket_ids=_socket_id,
            want=self.providers.want,
            unwant=self.providers.unwant,
            known=self.providers.wrong_with,
            is_private=self.providers.is_private,
            on_channel_event=self._watched,
            on_command=self._command_service.client_command,
            history=settings.history,
            outbox=settings.outbox,
            pinned=self.providers.pinned(),
            now=trio.current_time(),
        )
        self._edge = SubscriberServer(
            self.hub.connect, settings.server.subscribers, behind_proxy=settings.server.behind_proxy
        )
        self._stopped = trio.Event()
        self.addresses: list[tuple[str, int]] = []
        """Where it listens."""

    # --- what plugins' services may do: relay.plugins.hookspecs.RelayApi ---

    def publish(self, event: Event, stamp: Stamp) -> None:
        """Publish an event as if a provider had sent it."""
        self._pipeline.publish(event, stamp)

    def snapshot(self) -> Mapping[str, Any]:
        """State of sessions, channels and counters."""
        plugins = {"failures": dict(self._pipeline.failures), "withheld": dict(self._pipeline.withheld)}
        commands = self._desk.snapshot()
        return {
            **self.hub.snapshot(),
            "sessions": self.providers.statuses(),
            "plugins": plugins,
            "commands": commands,
        }

    def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
        """Headers that prove ``body`` is from the app. KeyError when there is no such app."""
        app = self.hub.app(app_id)
        if app is None:
            raise KeyError(app_id)
        return webhook_headers(app, body)

    # --- life ---

    def stop(self) -> None:
        """Shut down in order and return from `run`."""
        self._stopped.set()

    def reload(self, settings: Settings) -> None:
        """Take over what may change while running: apps, API keys, and providers' credentials (see `Providers.reload`)."""
        self.hub.replace_apps(settings.apps, trio.current_time())
        self._keys.replace(settings.api_keys)
        self.providers.reload(settings.providers)

    async def run(self, *, task_status: trio.TaskStatus["Relay"] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until `stop`.

        Raises:
            OSError: the address cannot be listened on.
        """
        server = self._settings.server
        listeners = await open_listeners(server.host, server.port, ssl_context=_tls(server))
        self.addresses = [listener.socket.getsockname()[:2] for listener in map(_tcp, listeners)]
        async with trio.open_nursery() as nursery:
            await nursery.start(self._edge.run)
            front: HttpServer = await nursery.start(
                partial(serve_front, listeners, self._api(), self._edge.serve, limits=server.limits, adopter=self._edge)
            )
            nursery.start_soon(self._tick)
            async with trio.open_nursery() as sessions:
                for name, session in self.providers.sessions():
                    sessions.start_soon(partial(supervise, name, session.run, report=_crashed))
                for service in self._plugins.collect("relay_services"):
                    nursery.start_soon(self._serve, service)
                log.info("listening", addresses=self.addresses)
                task_status.started(self)
                await self._stopped.wait()
                await self._shut_down(front, sessions)
            await front.drained()
            nursery.cancel_scope.cancel()

    async def _shut_down(self, front: HttpServer, sessions: trio.Nursery) -> None:
        log.info("shutting down", subscribers=self.hub.connections)
        front.stop()
        self._command_service.close()
        self.hub.shutdown(trio.current_time())
        await self._edge.shutdown(GOODBYE)
        for _, session in self.providers.sessions():
            session.shutdown()
        sessions.cancel_scope.deadline = trio.current_time() + GOODBYE

    async def _tick(self) -> None:
        while True:
            await trio.sleep(1)
            self.hub.tick(trio.current_time())
            self._command_service.end_overdue()

    async def _serve(self, service: FromPlugin[Service]) -> None:
        name = f"{service.plugin}: {service.value.name}"
        await supervise(name, partial(service.value.run, self), report=_crashed)

    def _api(self) -> Any:
        settings = self._settings
        return build_api(
            ApiSettings(
                app_id=settings.apps[0].id if settings.apps else "",
                public_url=settings.server.public_url,
                status_public=settings.server.status_public,
                demo_api_key=self._demo_api_key,
                version=relay.__version__,
            ),
            hub=self.hub,
            keys=self._keys,
            catalog=self.providers.catalog,
            sessions=self.providers.statuses,
            authorize=self._authorize,
            command_service=self._command_service,
        )

    # --- the path of an event ---

    def _from_session(self, event: Event, stamp: Stamp) -> None:
        """Publish what a session says; the registry sees what concerns commands, and lets each reply through once."""
        if type(event) not in SEEN:
            self._pipeline.publish(event, stamp)
            return
        told = self._desk.seen(event, stamp)
        if told is None:
            return
        id = self._pipeline.publish(told, stamp)
        if isinstance(told, Reply):
            self._desk.published(told, stamp, id or told.id, trio.current_time())

    def _into_hub(self, event: Event, stamp: Stamp) -> str:
        return self.hub.publish(event, stamp, trio.current_time())

    def _watched(self, event: ChannelEvent) -> None:
        for watcher in self._watchers:
            try:
                watcher.value(event)
            except Exception as error:  # noqa: BLE001 - a plugin's code: whatever it raises is reported as its own
                log.error("plugin failed", plugin=watcher.plugin, what="watcher", error=repr(error))

    def _authorize(self, api_key: str, channel: str) -> Grant | None:
        answer: Grant | None = self._plugins.manager.hook.relay_authorize(api_key=api_key, channel=channel)
        return answer


async def serve(
    settings: Settings,
    plugins: Plugins,
    *,
    reload: Callable[[], Settings] | None = None,
    task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until SIGINT or SIGTERM; SIGHUP reads the configuration again by ``reload``.

    Raises:
        OSError: the address cannot be listened on.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with HttpClient() as http, trio.open_nursery() as nursery:
            relay_ = Relay(settings, plugins, http)
            await nursery.start(relay_.run)
            settle()
            task_status.started(relay_)
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                _reload(relay_, reload)
            relay_.stop()


def _reload(relay_: Relay, reload: Callable[[], Settings] | None) -> None:
    if reload is None:
        return
    try:
        relay_.reload(reload())
    except OperatorError as error:
        log.error("configuration not reloaded", problems=list(error.lines))
    else:
        log.info("configuration reloaded")


def _tls(server: Server) -> ssl.SSLContext | None:
    if server.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(server.tls.cert, server.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"server.tls_cert, server.tls_key: {error}") from error
    return context


def _tcp(listener: Any) -> trio.SocketListener:
    found: trio.SocketListener = getattr(listener, "transport_listener", listener)
    return found


def _socket_id() -> str:
    both = secrets.randbits(62)
    return f"{both >> 31}.{both & 0x7FFF_FFFF}"


def _session_log(event: str, **fields: object) -> None:
    log.info(event, **fields)


def _crashed(name: str, error: Exception, wait: float) -> None:
    log.error("task crashed", task=name, restart_in=round(wait, 2), exc_info=error)
