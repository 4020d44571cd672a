"""Build the relay from settings and plugins, run it in one nursery and shut it down in order.

Order of the shutdown: stop accepting connections, close subscribers with 4200, unsubscribe from providers and close their
connections, cancel the services of plugins. Each step has a deadline; the end of the nursery drops the rest.
"""

import contextlib
import gc
import random
import resource
import secrets
import signal
import ssl
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

import attrs
import structlog
import trio
from attrs import frozen

import relay
from relay.adapter import Backoff
from relay.auth import KeyRing, channel_refusal
from relay.cluster.store import ClusterStore
from relay.clustered import Clustered
from relay.errors import OperatorError
from relay.histogram import Histogram
from relay.hub.app import AppState, ChannelKeys
from relay.hub.encoding import PublishedEvent
from relay.hub.hub import Hub
from relay.model.channels import Stream, Topic
from relay.model.events import Event, Reply, Stamp
from relay.plugins.calls import PluginCalls
from relay.plugins.hookspecs import FrameTap, Service, TappedSession
from relay.plugins.manager import FromPlugin, Plugins
from relay.provider.driver import ProviderSession
from relay.provider.http import HttpClient
from relay.provider.retry import Retry
from relay.providers import ConfiguredProvider, Providers
from relay.pusher.signatures import webhook_headers
from relay.server.admission import IDLE_BYTES, Admission, DescriptorPlan, plan_descriptors
from relay.server.api.channels import ApiSettings
from relay.server.api.frames import Inspection
from relay.server.api.metrics import Measured
from relay.server.api.routes import build_api
from relay.server.http import HttpServer, OwnPages, open_listeners
from relay.server.memory import SETTING as MEMORY
from relay.server.memory import MemoryReserve
from relay.server.subscribers import SubscriberServer
from relay.settings import ProviderSettings, Server, Settings, reload_changes
from relay.store.interface import Loggable, LoggedTopic, Row, Rows, Store
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.store.sqlite_file import LogLimits
from relay.trading.pending import TABLE as COMMANDS
from relay.trading.registry import CHECKED, CommandRegistry
from relay.trading.service import CommandService, Submission

log = structlog.get_logger()

#: Seconds for subscribers to receive their close frame, and for the unsubscribe messages to providers.
GOODBYE = 2.0
NO_SUBSCRIBERS = "this relay runs provider sessions only and does not serve subscribers (setting cluster.role)"
_MANY_DESCRIPTORS = 1 << 20
#: Seconds for which the account of a command that a restart left unknown is subscribed to without a subscriber.
LOOK = 60.0
#: Begins the names of plugins' tables in the store.
PLUGINS = "plugin "
#: Seconds between writes of the time of each session's last received data; a restart requests events since then.
HEARD = 5.0
_RESTARTS = Backoff(first=0.5, cap=30.0)


@frozen
class _Kept:
    """The relay as its store knows it: `relay.store.interface.Owner`."""

    restore: Callable[[Rows, Mapping[str, LoggedTopic]], object]
    rows: Callable[[], Iterable[Row]]
    topics: Callable[[Collection[str] | None], Iterable[tuple[str, str, int, Sequence[Loggable]]]]


class Relay:
    """One relay. `run` serves until `stop`. A process may hold several; they share nothing.

    Args:
        settings: the configuration.
        plugins: loaded and checked.
        http: makes the adapters' requests; the caller closes it.
        demo_api_key: the API key that the dashboard uses without a login; only for the demo.
        log_counts: returns the counts of log lines that were not written, for the metrics.
        store: stores state over a restart; by default the one in the settings.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        http: HttpClient,
        *,
        demo_api_key: str | None = None,
        log_counts: Callable[[], Mapping[str, int]] = dict,
        store: Store | None = None,
    ) -> None:
        self._settings = settings
        #: The settings in force: those of the start, with the changes of reloads.
        self._loaded = settings
        self._demo_api_key = demo_api_key
        self._log_counts = log_counts
        self._keys = KeyRing(settings.api_keys)
        self._plugin_calls = PluginCalls(log.error)
        self._store = _store(settings) if store is None else store
        self._cluster: Clustered | None = None
        self._inspection = Inspection()
        self._registry = CommandRegistry(settings.commands, self._store)
        self.providers = Providers(
            ConfiguredProvider(provider, http, self.publish, self._registry, _session_log, self._store)
            for provider in settings.providers
        )
        self._command_service = CommandService(
            registry=self._registry,
            providers=self.providers,
            keys=self._keys,
            publish=self.publish,
            ids=lambda: uuid.uuid4().hex,
            owns=lambda provider: self._cluster is None or self._cluster.owns(provider),
            elsewhere=self._send_elsewhere if settings.cluster is not None else None,
            tell=lambda sent, answer: self.hub.answer_command(sent, answer),
            counted=lambda api_key: None if self._cluster is None else self._cluster.counted(api_key),
        )
        if isinstance(self._store, ClusterStore) and settings.cluster is not None:
            self._cluster = Clustered(
                settings.cluster,
                self._store,
                providers=self.providers,
                registry=self._registry,
                service=self._command_service,
                supervise=_supervised,
                run_led=self._run_led,
                kept=settings.history.age,
                log=_store_log,
            )
        self._memory = MemoryReserve(settings.server.limits.reserved_memory)
        interest = self.providers if self._cluster is None else self._cluster
        self.hub = Hub(
            settings.apps,
            epoch=f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(2)}",
            socket_ids=_socket_ids().__next__,
            want=interest.want,
            want_too=interest.want_too,
            unwant=interest.unwant,
            known=self.providers.wrong_with,
            is_private=self.providers.is_private,
            on_channel_event=self._plugin_calls.watch,
            on_command=self._command_service.client_command,
            keys=ChannelKeys(digest_of=self._keys.digest_of, refusal=self._key_refusal),
            history=settings.history,
            outbox=settings.outbox,
            costs=settings.costs,
            pinned=self.providers.pinned(),
            store=self._store,
            new_log=None if self._cluster is None else self._cluster.new_log,
            new_app=AppState if self._cluster is None else self._cluster.new_app,
            full=lambda: self._memory.refuses_subscribers,
            now=trio.current_time(),
        )
        if self._cluster is not None:
            self._cluster.attach(self.hub)
        self._subscribers = SubscriberServer(
            self.hub.connect,
            settings.server.subscribers,
            behind_proxy=settings.server.behind_proxy,
            coalesce=settings.outbox.coalesce,
            on_closed=self.hub.budgets.count_closed,
            refusal=self._serves_nobody,
            is_own=OwnPages(settings.server.hosts, settings.server.public_url),
        )
        self._stopped = trio.Event()
        self._loop_delay = Histogram()
        self._tls: ssl.SSLContext | None = None
        self.addresses: list[tuple[str, int]] = []
        """The addresses that the relay listens on."""
        self._restored = trio.Event()
        self._plugin_rows: Rows = {}
        self._unresolved: list[Stream] = []
        self._plugin_names = [name for name, _ in plugins.manager.list_name_plugin()]
        self._plugin_calls.collect(plugins, self, settings.plugins)
        for provider in self.providers:
            provider.tap_each(partial(self._frame_tap_of, provider.name))

    def _frame_tap_of(
        self, provider: str, account: str | None, number: int, connection: ProviderSession
    ) -> FrameTap | None:
        """Return the tap of a connection, if a plugin has one or a client inspects it."""
        tapped = TappedSession(provider, account, number, connection.mask)
        return self._inspection.tap_of(tapped, connection, self._plugin_calls.frame_tap_of(tapped))

    # --- relay.plugins.hookspecs.RelayApi ---

    def publish(self, event: Event, stamp: Stamp, now: float | None = None) -> None:
        """Publish an event as if a provider had sent it. A Reply completes the command it answers.

        ``now`` is the monotonic time; sessions give the time at which they read the message.
        """
        if now is None:
            now = trio.current_time()
        if self._cluster is not None and not self._cluster.owns(stamp.provider):
            self._cluster.dropped[stamp.provider] += 1
            return
        if type(event) in CHECKED:
            checked = self._registry.check(event, stamp)
            if checked is None:
                return
            event = checked
        published: PublishedEvent | None = None
        transformed = self._plugin_calls.transform(event, stamp)
        if transformed is not None:
            published = self.hub.publish(transformed, stamp, now)
            self._plugin_calls.tap(transformed, stamp, published.id)
        if isinstance(event, Reply):
            id, data = ("", b"") if published is None else (published.id, published.data)
            pending = self._registry.settle(event, stamp, now, id, data)
            if pending is not None:
                self._plugin_calls.tap_command(partial(pending.answered_command, now, time.time_ns()))

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state of sessions, channels and counters."""
        plugins = {"failures": dict(self._plugin_calls.failures), "withheld": dict(self._plugin_calls.withheld)}
        commands = self._registry.snapshot()
        return {
            **self.hub.snapshot(),
            "sessions": self.providers.statuses(),
            "plugins": plugins,
            "commands": commands,
            "store": self._store.status(),
        }

    def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
        """Return the headers that prove that ``body`` is from the app. KeyError if there is no such app."""
        app = self.hub.app(app_id)
        if app is None:
            raise KeyError(app_id)
        return webhook_headers(app, body)

    def kept_rows(self, table: str) -> Sequence[tuple[str, bytes]]:
        """Return the rows that a plugin kept in its ``table`` before a restart."""
        if self._cluster is not None:
            return self._cluster.apps.kept_rows(PLUGINS + table)
        return self._plugin_rows.get(PLUGINS + table, ())

    def keep_row(self, table: str, key: str, value: bytes | None) -> None:
        """Keep a row of a plugin over a restart; None removes it."""
        row = Row(PLUGINS + table, key, value)
        if self._cluster is not None:
            self._cluster.apps.keep_row(row)
        else:
            self._store.write(row)

    @property
    def several(self) -> bool:
        """True if the relay is a node of a cluster."""
        return self._cluster is not None

    async def rows_kept(self) -> bool:
        """Wait until all rows are on disk; return False if the store failed or is in memory only."""
        if self._cluster is not None:
            return await self._cluster.apps.rows_kept()
        said: list[str] = []
        done = trio.Event()

        def take(failure: str) -> None:
            said.append(failure)
            done.set()

        self._store.sync(take)
        await done.wait()
        return self._store.keeps and not said[0]

    # --- life ---

    def stop(self) -> None:
        """Shut down in order and return from `run`."""
        self._stopped.set()

    async def stopped(self) -> None:
        """Wait until `stop` is called."""
        await self._stopped.wait()

    def reload(self, settings: Settings) -> tuple[list[str], list[str]]:
        """Apply new apps, API keys, costs, providers' credentials (see `Providers.reload`) and the port's certificate.

        What the new apps and keys do not allow any more ends at once: subscriptions, sign-ins, the right to send commands.

        Returns:
            The names of the settings that changed: those that are applied, and those that need a restart.

        Raises:
            OperatorError: the certificate cannot be used; nothing is changed.
        """
        if self._tls is not None:
            _tls(settings.server, self._tls)
        self.hub.replace_apps(settings.apps, trio.current_time())
        self.hub.budgets.replace(settings.costs)
        self._keys.replace(settings.api_keys)
        self.providers.reload(settings.providers)
        self.hub.recheck(trio.current_time())
        applied, restart = reload_changes(self._loaded, settings)
        self._loaded = attrs.evolve(
            self._loaded,
            apps=settings.apps,
            api_keys=settings.api_keys,
            costs=settings.costs,
            providers=_with_credentials(self._loaded, settings),
        )
        return applied, restart

    async def run(  # noqa: ASYNC128 (`_run` says that it has started)
        self, *, task_status: trio.TaskStatus["Relay"] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until `stop`.

        Raises:
            OSError: the address cannot be listened on.
        """
        server = self._settings.server
        plan = plan_descriptors(server.limits, self.providers.most_connections, descriptor_limit())
        admission = Admission(
            server.limits,
            descriptors=plan.allowed - plan.reserve,
            behind_proxy=server.behind_proxy,
            out_of_memory=lambda: self._memory.refuses_connections,
        )
        self._tls = _tls(server)
        front = HttpServer(
            self._api(), self._subscribers, server.limits, self._tls, hosts=server.hosts, admission=admission
        )
        listeners = await open_listeners(server.host, server.port)
        self.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        async with (
            trio.open_nursery() as keeping
        ):  # the store ends last: what the others leave behind is for the next start
            await keeping.start(self._store.run, _Kept(self._restore, self._rows, self.hub.logged_topics))
            await self._run(front, listeners, plan, task_status)
            keeping.cancel_scope.cancel()

    async def _run(
        self,
        front: HttpServer,
        listeners: Sequence[trio.SocketListener],
        plan: DescriptorPlan,
        task_status: trio.TaskStatus["Relay"],
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._subscribers.run)
            await nursery.start(front.serve, listeners)
            nursery.start_soon(self._tick)
            nursery.start_soon(self._watch_memory)
            async with trio.open_nursery() as sessions:
                if self._cluster is None:
                    self.providers.run_each(lambda name, session: sessions.start_soon(_supervised, name, session))
                for service in self._plugin_calls.services:
                    if self._cluster is None or not service.value.once:
                        nursery.start_soon(self._serve, service)
                nursery.start_soon(self._look_for_unresolved)
                log.info("listening", addresses=self.addresses)
                self._log_limits(plan)
                task_status.started(self)
                await self._stopped.wait()
                await self._shut_down(front, sessions)
            await front.drained()
            nursery.cancel_scope.cancel()

    def _log_limits(self, plan: DescriptorPlan) -> None:
        """Log how many connections the settings and the system allow, and every limit that the system does not allow."""
        limits = self._settings.server.limits
        log.info(
            "limits",
            connections=plan.clients,
            file_descriptors=plan.allowed,
            reserved_descriptors=plan.reserve,
            bodies=limits.bodies,
            **self._memory_limits(),
        )
        if not plan.enough:
            log.warning(
                "the system allows fewer file descriptors than server.limits.connections needs: raise RLIMIT_NOFILE",
                connections=limits.connections,
                needed=plan.needed,
                allowed=plan.allowed,
            )
        for app in self._settings.apps:
            if app.max_connections is not None and app.max_connections > plan.clients:
                log.warning(
                    "an app's max_connections exceeds the connections that are possible",
                    app=app.name,
                    max_connections=app.max_connections,
                    connections=plan.clients,
                )

    def _memory_limits(self) -> Mapping[str, object]:
        """Return what the system's limits of memory leave. Warn where that is less than clients may fill at once."""
        tightest, settings = self._memory.tightest, self._settings
        if tightest is None:
            return {"memory": None}
        limits, left = settings.server.limits, tightest.left - self._memory.reserve
        fillable = (
            limits.bodies
            + settings.server.subscribers.pending_bytes
            + settings.history.idle_bytes * (len(settings.apps) + 1)
            + limits.connections * IDLE_BYTES
        )
        if left < fillable:
            log.warning(
                "the system leaves less memory than clients may fill within their limits",
                fillable=fillable,
                left=left,
                limit=tightest.name,
            )
        return {"memory": tightest.allowed, "memory_of": tightest.name, "reserved_memory": self._memory.reserve}

    def _serves_nobody(self) -> str | None:
        """Return why no subscriber is served now."""
        cluster = self._settings.cluster
        if cluster is not None and cluster.role == "owner":
            return NO_SUBSCRIBERS
        limit = self._memory.refuses_subscribers
        if limit is None:
            return None
        self.hub.budgets.counts[limit, "refused"] += 1
        return f"the relay is short of memory ({limit})"

    async def _watch_memory(self) -> None:
        while self._memory.reserve:
            await trio.sleep(self._memory.pause)
            self._look_at_memory()

    def _look_at_memory(self) -> None:
        """Refuse and close clients where the reserve of memory is touched; log where that begins and ends."""
        memory, was_short = self._memory, self._memory.short
        memory.look()
        if memory.tightest is not None and bool(memory.short) != bool(was_short):
            text = (
                "short of memory: no new subscribers" if memory.short else "enough memory: subscribers are served again"
            )
            log.warning(text, limit=memory.tightest.name, left=memory.tightest.left, reserved=memory.reserve)
        if memory.excess and (closed := self._subscribers.close_largest(memory.excess, MEMORY)):
            log.warning("short of memory: slow subscribers were closed", subscribers=closed)

    def _restore(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> None:
        """Restore the commands, topics and sessions that an earlier process stored."""
        now, unix_ns = trio.current_time(), time.time_ns()
        restored = self._registry.restore(rows.get(COMMANDS, ()), now, unix_ns)
        count = self.hub.restore(rows, topics, now, unix_ns)
        self._command_service.end_restored(restored)
        self.providers.restore(rows)
        self._plugin_rows = {table: of_table for table, of_table in rows.items() if table.startswith(PLUGINS)}
        self._unresolved = [
            Stream(scope.provider, Topic(kind="account", account=scope.account))
            for scope in self._registry.unresolved()
            if scope.account is not None
        ]
        self._restored.set()
        if len(self._registry) or count:
            log.info("restored", commands=len(self._registry), without_reply=len(restored), topics=count)

    def _rows(self) -> Iterator[Row]:
        """Yield all rows that belong into the store."""
        yield from self._registry.rows()
        yield from self.providers.rows()
        yield from self.hub.stored()

    async def _look_for_unresolved(self) -> None:
        """Subscribe for a while to accounts whose stream may show the outcome of a command from before the restart."""
        await self._restored.wait()  # the store may be opened late
        for stream in self._unresolved:
            self.providers.keep(stream)
        await trio.sleep(LOOK)
        for stream in self._unresolved:
            self.providers.release(stream)

    async def _shut_down(self, front: HttpServer, sessions: trio.Nursery) -> None:
        log.info("shutting down", subscribers=self.hub.connections)
        front.stop()
        self._command_service.close()
        if self._cluster is not None:
            await self._cluster.hand_over()
            await self._subscribers.send_away(self._cluster.settings.waves)
        self.hub.shutdown(trio.current_time())
        if self._cluster is not None:
            await self._cluster.leave()
        await self._subscribers.shutdown(GOODBYE)
        for _, session in self.providers.connections():
            session.shutdown()
        sessions.cancel_scope.deadline = trio.current_time() + GOODBYE

    async def _tick(self) -> None:
        kept_at = -inf
        while True:
            due = trio.current_time() + 1
            await trio.sleep_until(due)
            self._loop_delay.observe(trio.current_time() - due)
            if trio.current_time() - kept_at >= HEARD:
                kept_at = trio.current_time()
                self.providers.keep_heard()
            self.hub.tick(trio.current_time())
            self._inspection.tick()
            self._command_service.end_overdue()
            if self._cluster is not None:
                self._cluster.forwarding.tick()

    def _send_elsewhere(self, submission: Submission, then: Callable[..., object]) -> None:
        assert self._cluster is not None
        self._cluster.send_elsewhere(submission, then)

    async def _run_led(self) -> None:
        """Run the services that one relay of several runs."""
        await self._restored.wait()  # until then the relay is being built
        async with trio.open_nursery() as nursery:
            for service in self._plugin_calls.services:
                if service.value.once:
                    nursery.start_soon(self._serve, service)

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
                bodies=settings.server.limits.bodies,
            ),
            hub=self.hub,
            keys=self._keys,
            catalog=self.providers.catalog,
            sessions=self.providers.statuses if self._cluster is None else self._cluster.statuses,
            authorize=self._plugin_calls.authorize,
            refusal=self.providers.wrong_with,
            search=self.providers.search,
            command_service=self._command_service,
            inspection=self._inspection,
            measured=Measured(
                publish_to_write=self._subscribers.publish_to_write,
                upstream_to_write=self._subscribers.upstream_to_write,
                loop_delay=self._loop_delay,
                command_durations=self._registry.durations,
                store_durations=self._store.durations,
                round_trips=None if self._cluster is None else self._cluster.node.redis.round_trips,
                slow=self._subscribers.slow,
                closed_slow=self._subscribers.closed_slow,
                plugins=self._plugin_names,
                plugin_failures=self._plugin_calls.failures,
                service_counts=partial(self._plugin_calls.figures, "counts"),
                service_levels=partial(self._plugin_calls.figures, "levels"),
                log_counts=self._log_counts,
            ),
            store=self._store.status,
        )

    def _key_refusal(self, name: str, channel: str, app_id: str) -> str | None:
        """Return why the API key of this name may not open the channel in this app; see `relay.hub.app.ChannelKeys`."""
        key = self._keys.named(name)
        if key is None:
            return f"there is no API key {name}"
        if key.app not in (None, app_id):
            return f"API key {name} is of another app"
        try:
            return channel_refusal(key, channel, self._plugin_calls.authorize)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            self._plugin_calls.failed("relay_authorize", "authorizer", error)
            return f"{channel} cannot be authorized now"


async def serve(
    settings: Settings,
    plugins: Plugins,
    *,
    reload: Callable[[], Settings] | None = None,
    log_counts: Callable[[], Mapping[str, int]] = dict,
    task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until SIGINT or SIGTERM; SIGHUP reads the configuration again by ``reload``.

    Raises:
        OSError: the address cannot be listened on.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with HttpClient() as http, trio.open_nursery() as nursery:
            relay_ = Relay(settings, plugins, http, log_counts=log_counts)
            sessions = relay_.providers.most_connections
            raise_descriptor_limit(plan_descriptors(settings.server.limits, sessions, descriptor_limit()).needed)
            await nursery.start(relay_.run)
            freeze_gc()
            task_status.started(relay_)
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                _reload(relay_, reload)
            relay_.stop()


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    report: Callable[[str, Exception, float], None],
    backoff: Backoff = _RESTARTS,
    uniform: Callable[[], float] = random.random,
) -> None:
    """Run ``run`` until it returns; if it raises, report the exception and run it again after a wait.

    Cancellation, KeyboardInterrupt and SystemExit go through.

    Args:
        report: called with the name, the exception and the seconds until the restart.
    """
    retry = Retry(backoff)
    while True:
        retry.opened(trio.current_time())
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - containing whatever a task raises is the purpose
            retry.lost(trio.current_time())
            wait = retry.wait(uniform())
            report(name, error, wait)
        else:
            return
        await trio.sleep(wait)


def descriptor_limit() -> int:
    """Return how many file descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else _MANY_DESCRIPTORS


def raise_descriptor_limit(needed: int) -> None:
    """Raise the process's own limit of file descriptors to ``needed``, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def freeze_gc() -> None:
    """Exclude all objects that exist now from garbage collection, and collect less often. Call once after the start.

    The objects of a message are freed by reference counting; only connections and errors make cycles. So the collector runs
    after 10,000 new objects instead of 700, and skips the 200,000 objects that the start leaves (modules, settings,
    compiled patterns).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _reload(relay_: Relay, reload: Callable[[], Settings] | None) -> None:
    if reload is None:
        return
    try:
        applied, restart = relay_.reload(reload())
    except OperatorError as error:
        log.error("configuration not reloaded", problems=list(error.lines))
        return
    log.info("configuration reloaded", applied=applied or "nothing changed that a reload applies")
    if restart:
        log.warning("some changes of the configuration need a restart", settings=restart)


def _with_credentials(old: Settings, new: Settings) -> tuple[ProviderSettings, ...]:
    """Return the old providers with the new credentials of their accounts."""
    fresh = {(p.name, a.name): a.credentials for p in new.providers for a in p.accounts}
    return tuple(
        attrs.evolve(
            provider,
            accounts=tuple(
                attrs.evolve(account, credentials=fresh.get((provider.name, account.name), account.credentials))
                for account in provider.accounts
            ),
        )
        for provider in old.providers
    )


def _tls(server: Server, reload: ssl.SSLContext | None = None) -> ssl.SSLContext | None:
    """Return a context with the certificate of the port; None without one. ``reload``, a context in use, gets it too."""
    if server.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A pair that does not fit must not get into a context in use: it would have one half of it.
        for each in (context, reload):
            if each is not None:
                each.load_cert_chain(server.tls.cert, server.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"server.tls_cert, server.tls_key: {error}") from error
    return context


def _socket_ids() -> Iterator[str]:
    """Yield names of connections. Random bytes are had for many at once: asking the kernel costs as much as the rest."""
    while True:
        for left, right in struct.iter_unpack("=II", secrets.token_bytes(8 * 256)):
            yield f"{left >> 1}.{right >> 1}"


def _session_log(level: str, event: str, **fields: object) -> None:
    getattr(log, level)(event, **fields)


def _store(settings: Settings) -> Store:
    if settings.cluster is not None:
        return ClusterStore()
    if settings.store is None:
        return MemoryStore()
    history = settings.history
    limits = LogLimits(
        events=history.events, age=history.age, bytes=history.bytes, total=settings.store_event_bytes
    )  # fmt: skip
    return SqliteStore(settings.store, log=_store_log, limits=limits)


def _store_log(event: str, **fields: object) -> None:
    (log.error if "reason" in fields else log.info)(event, **fields)


async def _supervised(name: str, session: ProviderSession) -> None:
    await supervise(name, session.run, report=_crashed)


def _crashed(name: str, error: Exception, wait: float) -> None:
    log.error("task crashed", task=name, restart_in=round(wait, 2), exc_info=error)
