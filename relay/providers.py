"""The configured providers: their sessions, their catalog, and the streams that subscribers need from them.

A provider has one session per account. Market streams use the first one. An account's stream uses the account's own session,
or the only one if the provider names the account in its messages. A stream of provider ``all`` is subscribed at every
provider that offers its kind and may have its symbol.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import attrs

from relay.adapter import Adapter, Context, Session
from relay.errors import suggestion
from relay.model.channels import ALL, Asker, Stream, Topic, topic_kind
from relay.model.commands import Command
from relay.model.enums import ConnectionEvent
from relay.model.events import MARKET_KINDS, Connection, Error, Event, RateLimit, Staleness, Stamp
from relay.model.instruments import Instruments
from relay.model.symbols import SymbolError, SymbolTable
from relay.plugins import FrameTap
from relay.provider.catalog import CatalogEntry, ListedSymbol, merged_entries, provider_entries
from relay.provider.connection import Line
from relay.provider.driver import ProviderSession, Restored, keep_nothing
from relay.provider.http import HttpClient
from relay.provider.pool import ConnectionPool
from relay.provider.session import NO_TOPICS, SessionSettings
from relay.provider.session_state import Publish, SessionLog
from relay.replay import Replay, replayed
from relay.settings import ProviderSettings
from relay.store.interface import Row, Rows, Store
from relay.trading.registry import CommandRegistry

#: Returns the tap of a connection: of this account's session, with this number; None leaves it alone.
FrameTapOf = Callable[[str | None, int, ProviderSession], FrameTap | None]

TABLES = ("dials", "fills", "states", "heard")
"""The store's tables of sessions, see `ProviderSession`. A key is the session's name and, on a line of its own, the rest."""


#: The texts of the relay itself among the reasons of an outage. None of them quotes the provider up to where it matches.
_own_words = re.compile(
    r"(?:no session with [a-z0-9_-]+: )?(?:connection \d+ of \d+: )?(?:"
    r"no connection: .*"
    r"|closed with \d+"
    r"|nothing received for [\d.e+-]+ s"
    r"|not ready within [\d.e+-]+ s"
    r"|the connection was refused with HTTP status \d+"
    r"|preparing failed(?:, HTTP status \d+)?"
    r"|resumed by the operator|shutdown"
    rf"|{re.escape(NO_TOPICS)})",
    re.ASCII | re.DOTALL,
).match
REFUSED, ENDED = "refused by the provider", "ended by the provider"
"""Public reasons of an outage for which the provider gave its own: the session has stopped, or will try again."""


def for_everybody(publish: Publish, account: str | None, number: str | None) -> Publish:
    """Return the publish function of a session with an account at a broker, which tells strangers less.

    Anybody with the public key of an app may read a status and market data. Of an outage they learn the relay's own words,
    with the status or close code, and nothing that the broker said of the account. Its readers get that on the account's
    channel: as the reason of its `staleness`, and as an `error` where the session has stopped or a gateway tells of its own
    connection. Events of the status have ``number`` in place of the account's name, which tells the sessions apart.
    """

    def tell(event: Event, stamp: Stamp, now: float) -> None:
        match event:
            case Connection():
                failed = event.event is ConnectionEvent.FAILED
                reason = _in_own_words(event.reason, REFUSED if failed else ENDED)
                publish(attrs.evolve(event, reason=reason, error=None), attrs.evolve(stamp, account=number), now)
                said = ": ".join(filter(None, (event.reason, event.error)))
                if said and account is not None and (failed or event.upstream):
                    publish(Error(code="connection", message=said, account=account), stamp, now)
            case Staleness(session=True) if event.of != "account":
                publish(attrs.evolve(event, reason=_in_own_words(event.reason, ENDED)), stamp, now)
            case RateLimit() | Error(account=None):
                publish(event, attrs.evolve(stamp, account=number), now)
            case _:
                publish(event, stamp, now)

    return tell


def _in_own_words(reason: str | None, otherwise: str) -> str | None:
    """Return the part of a reason that everybody may read."""
    if reason is None:
        return None
    found = _own_words(reason)
    return found[0] if found else otherwise


class ConfiguredProvider:
    """One provider of the configuration with its sessions."""

    def __init__(
        self,
        settings: ProviderSettings,
        http: HttpClient,
        publish: Publish,
        commands: CommandRegistry,
        log: SessionLog,
        store: Store | None = None,
    ) -> None:
        replay = None
        if settings.replay is not None:
            replay = Replay(settings.replay)
            settings = attrs.evolve(settings, adapter=replayed(settings.adapter))
        self.settings = settings
        self.name = settings.name
        self.symbols = SymbolTable(settings.symbols)
        self.instruments = Instruments()
        self.kinds = {topic_kind(offer.kind) for offer in settings.adapter.offers}
        self._frame_tap: FrameTapOf = _no_frame_tap
        adapter = _as_configured(settings)
        self._credentials = {account.name: dict(account.credentials) for account in settings.accounts}
        session_settings = SessionSettings(
            linger=settings.linger,
            waiting=settings.waiting,
            first_data_within=settings.first_data_within,
            stale_after=settings.stale_after,
            hours=settings.hours,
            audit=settings.audit,
            check_orders=settings.check_orders,
        )

        def pool(account: str | None) -> ConnectionPool:
            context = Context(
                provider=settings.name,
                account=account,
                options=settings.options,
                credentials=self._credentials[account],
                symbols=self.symbols,
                instruments=self.instruments,
            )

            def connect(number: int, publish: Publish, beside: ProviderSession | None, socket: str) -> ProviderSession:
                connection = ProviderSession(
                    _on_socket(adapter, socket),
                    context,
                    publish=publish,
                    commands=commands,
                    http=http if replay is None else replay,
                    dial=Line if replay is None else replay.dial,
                    settings=session_settings,
                    log=log if beside is None else partial(log, connection=number),
                    keep=keep_nothing
                    if store is None or not store.keeps
                    else partial(_keep, store, _session_name(settings.name, account)),
                    beside=beside,
                )
                connection.frame_tap = self._frame_tap(account, number, connection)
                return connection

            is_public = account is None and not adapter.commands and "account" not in self.kinds
            tell = publish if is_public else for_everybody(publish, account, numbers.get(account or ""))
            return ConnectionPool(connect, tell, adapter.session, adapter.socket_of)

        numbers = {each.name: str(number) for number, each in enumerate(settings.accounts, start=1) if each.name}
        self.sessions: dict[str | None, ConnectionPool] = {each.name: pool(each.name) for each in settings.accounts}
        for topic in settings.pinned:
            self.session(topic).want(topic)

    def reload(self, settings: ProviderSettings) -> None:
        """Use these credentials from the next connection on, and restart sessions that are FAILED."""
        for account in settings.accounts:
            if account.name in self._credentials:
                self._credentials[account.name].clear()
                self._credentials[account.name].update(account.credentials)
        for _, connection in self.connections():
            connection.resume()

    def tap_each(self, frame_tap: FrameTapOf) -> None:
        """Tap the traffic of every connection there is, and of each that is opened later."""
        self._frame_tap = frame_tap
        for account, pool in self.sessions.items():
            for number, connection in enumerate(pool.connections, start=1):
                connection.frame_tap = frame_tap(account, number, connection)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The configured accounts' names."""
        return tuple(name for name in self.sessions if name is not None)

    @property
    def is_replay(self) -> bool:
        """True if a recording is in the provider's place."""
        return self.settings.replay is not None

    @property
    def is_private(self) -> bool:
        """True if the market streams need authorization."""
        return self.settings.visibility == "private"

    def connections(self) -> Iterator[tuple[str, ProviderSession]]:
        """Yield every connection of its sessions with a name for logs."""
        for account, pool in self.sessions.items():
            for number, connection in enumerate(pool.connections, start=1):
                yield _session_name(self.name, account, number), connection

    def session(self, topic: Topic) -> ConnectionPool:
        """Return the session that carries a topic."""
        first = next(iter(self.sessions.values()))
        return self.sessions.get(topic.account, first) if topic.account is not None else first

    @property
    def names_accounts(self) -> bool:
        """True if a command is executed on the account that it names."""
        return self.settings.adapter.names_accounts

    @property
    def commands(self) -> tuple[type[Command], ...]:
        """The trading commands it takes."""
        return self.settings.adapter.commands

    def trading_session(self, account: str | None) -> ProviderSession:
        """Return the session that trades on this account: the account's own, or the only one."""
        pool = self.sessions[account] if account in self.sessions else next(iter(self.sessions.values()))
        return pool.first

    def wrong_with(self, topic: Topic) -> str | None:
        """Return the reason that this provider cannot serve ``topic``; None if none is known."""
        if topic.kind == "status":
            return None
        if topic.kind not in self.kinds:
            return f"provider {self.name} has no {topic.kind}; it has {', '.join(sorted(self.kinds))}"
        if topic.kind == "account":
            if self.accounts and topic.account not in self.accounts:
                return f"provider {self.name} has no account {topic.account!r:.64}"
            return None
        if topic.timeframe is not None and topic.timeframe not in self.timeframes:
            return f"provider {self.name} has no candles of {topic.timeframe}; it has {', '.join(self.timeframes)}"
        try:
            self.symbols.native(topic.symbol or "")
        except SymbolError as error:
            return str(error)
        return None

    @property
    def timeframes(self) -> list[str]:
        """The lengths of candles it has."""
        return [each for offer in self.settings.adapter.offers if offer.kind == "candle" for each in offer.timeframes]

    def catalog(self) -> list[CatalogEntry]:
        """Return its entries of the catalog. Symbols that are certain to work come first."""
        pinned = [topic.symbol for topic in self.settings.pinned if topic.symbol is not None]
        learned = [canonical for _, canonical in self.symbols]
        return provider_entries(
            self.name,
            self.settings.adapter.offers,
            symbols=[*pinned, *learned],
            accounts=self.accounts,
            private=self.is_private,
        )

    def search(self, query: str) -> Iterator[ListedSymbol]:
        """Yield the symbols that match a text, among the pinned and configured ones and those of the metadata."""
        kinds = tuple(offer.kind for offer in self.settings.adapter.offers if offer.kind in MARKET_KINDS)
        pinned = [topic.symbol for topic in self.settings.pinned if topic.symbol is not None]
        for found in self.symbols.search(query, pinned) if kinds else ():
            instrument = self.instruments.find(found.canonical)
            yield ListedSymbol(self.name, found, kinds, "private-" if self.is_private else "", instrument)

    def statuses(self) -> Iterator[Mapping[str, Any]]:
        """Yield one status per session."""
        for session in self.sessions.values():
            yield {**session.status(), "adapter": self.settings.adapter.name, "required": self.settings.required}


class Providers:
    """All configured providers."""

    def __init__(self, providers: Iterable[ConfiguredProvider]) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._wanted: Counter[Stream] = Counter()
        #: The provider topics of each subscribed stream, stored because the table of symbols may change meanwhile.
        self._asked: dict[Stream, list[tuple[ConfiguredProvider, Topic]]] = {}

    def __iter__(self) -> Iterator[ConfiguredProvider]:
        return iter(self._providers.values())

    def find(self, name: str) -> ConfiguredProvider | None:
        """Return the provider of that name."""
        return self._providers.get(name)

    def reload(self, settings: Iterable[ProviderSettings]) -> None:
        """Apply a reloaded configuration to the existing providers; see `ConfiguredProvider.reload`."""
        for each in settings:
            if each.name in self._providers:
                self._providers[each.name].reload(each)

    def connections(self) -> Iterator[tuple[str, ProviderSession]]:
        """Yield every connection with a name for logs."""
        for provider in self:
            yield from provider.connections()

    @property
    def most_connections(self) -> int:
        """The most connections that there can be at the same time."""
        declared = [(len(each.sessions), each.settings.adapter.session) for each in self]
        return sum(
            many * session.socket(name).most_connections
            for many, session in declared
            for name in ("", *session.sockets)
        )

    def run_each(self, run: Callable[[str, ProviderSession], object]) -> None:
        """Have ``run`` called with the name of every connection there is, and of each that is opened later."""
        for provider in self:
            for account, pool in provider.sessions.items():
                pool.run_each(partial(_run_named, run, provider.name, account))

    def restore(self, rows: Rows) -> None:
        """Restore the sessions from the rows of the store."""
        stored: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
        for table in TABLES:
            for key, value in rows.get(table, ()):
                name, _, rest = key.partition("\n")
                stored.setdefault((name, table), []).append((rest, value))
        for name, session in self.connections():
            dials, fills, states, heard = (stored.get((name, table), []) for table in TABLES)
            session.restore(
                Restored(
                    [int(each) for _, value in dials for each in value.split()],
                    fills,
                    states,
                    int(heard[0][1]) if heard else None,
                )
            )

    def forget(self, rows: Iterable[Row]) -> None:
        """Remove the fills and states of these rows, which could not be stored, from the sessions."""
        sessions = dict(self.connections())
        for row in rows:
            name, _, key = row.key.partition("\n")
            if name in sessions and row.value is not None:
                sessions[name].forget(row.table, key)

    def rows(self) -> Iterator[Row]:
        """Yield everything that belongs into the store."""
        for name, session in self.connections():
            yield from (Row(table, _row_key(name, key), value) for table, key, value in session.rows())

    def keep_heard(self) -> None:
        """Store when each session last received something."""
        for _, session in self.connections():
            session.keep_heard()

    def want(self, stream: Stream, by: Asker) -> list[str]:
        """Subscribe to ``stream`` for its first subscriber. Return the names of its providers."""
        self._asked[stream] = self._behind(stream)
        for provider, topic in self._asked[stream]:
            own = Stream(provider.name, topic)
            self._wanted[own] += 1
            if self._wanted[own] == 1:
                provider.session(topic).want(topic, by)
            else:
                provider.session(topic).want_too(topic, by)
        return [provider.name for provider, _ in self._asked[stream]]

    def want_too(self, stream: Stream, by: Asker) -> None:
        """Note another subscriber of ``stream``."""
        for provider, topic in self._asked.get(stream, ()):
            provider.session(topic).want_too(topic, by)

    def unwant(self, stream: Stream) -> None:
        """Unsubscribe from ``stream``, whose last subscriber has left."""
        for provider, topic in self._asked.pop(stream, ()):
            self._release(provider, topic)

    def keep(self, stream: Stream, by: Asker | None = None) -> None:
        """Subscribe to a provider's own stream for a subscriber of another relay, or for the relay itself."""
        for provider, topic in self._kept(stream):
            self._wanted[Stream(provider.name, topic)] += 1
            provider.session(topic).want(topic, by)

    def keep_too(self, stream: Stream, by: Asker) -> None:
        """Note a further subscriber of a stream that `keep` subscribed to."""
        for provider, topic in self._kept(stream):
            provider.session(topic).want_too(topic, by)

    def release(self, stream: Stream) -> None:
        """Unsubscribe from a stream that `keep` subscribed to."""
        for provider, topic in self._kept(stream):
            self._release(provider, topic)

    def _kept(self, stream: Stream) -> list[tuple[ConfiguredProvider, Topic]]:
        """Return the provider and topic of a stream; nothing if its account is not configured any more."""
        return [(provider, topic) for provider, topic in self._behind(stream) if provider.wrong_with(topic) is None]

    def _release(self, provider: ConfiguredProvider, topic: Topic) -> None:
        own = Stream(provider.name, topic)
        self._wanted[own] -= 1
        if not self._wanted[own]:
            del self._wanted[own]
            if topic not in provider.settings.pinned:
                provider.session(topic).unwant(topic)

    def behind(self, stream: Stream) -> list[Stream]:
        """Return the providers' own streams that a stream is made of."""
        return [Stream(provider.name, topic) for provider, topic in self._behind(stream)]

    def _behind(self, stream: Stream) -> list[tuple[ConfiguredProvider, Topic]]:
        topic = stream.topic
        if topic.kind == "status":
            return []
        if stream.provider != ALL:
            return [(self._providers[stream.provider], topic)] if stream.provider in self._providers else []
        return [(provider, topic) for provider in self._in_all() if provider.wrong_with(topic) is None]

    def _in_all(self) -> list[ConfiguredProvider]:
        """Return the providers of the streams of ``all``: recorded prices are not mixed with those of now."""
        live = [provider for provider in self if not provider.is_replay]
        return live or list(self)

    def wrong_with(self, stream: Stream) -> str | None:
        """Return the reason that a stream cannot be served; None if none is known."""
        if stream.provider == ALL:
            reasons = [provider.wrong_with(stream.topic) for provider in self._in_all()]
            return None if None in reasons else "; ".join(filter(None, reasons)) or "no provider is configured"
        provider = self._providers.get(stream.provider)
        if provider is None:
            return f"no provider is named {stream.provider}; {suggestion(stream.provider, self._providers)}"
        return provider.wrong_with(stream.topic)

    def is_private(self, stream: Stream) -> bool:
        """Return True if a market stream needs authorization; a merged one does if one of its providers does."""
        if stream.topic.kind not in MARKET_KINDS:
            return False
        if stream.provider == ALL:
            return any(provider.is_private for provider in self._in_all())
        provider = self._providers.get(stream.provider)
        return provider is not None and provider.is_private

    def pinned(self) -> Iterator[Stream]:
        """Yield the streams that are always subscribed."""
        for provider in self:
            yield from (Stream(provider.name, topic) for topic in provider.settings.pinned)

    def catalog(self) -> list[CatalogEntry]:
        """Return the catalog of all streams."""
        entries = [entry for provider in self for entry in provider.catalog()]
        return [*entries, *merged_entries(entries)]

    def search(self, query: str, provider: str) -> tuple[list[ListedSymbol], int]:
        """Return the symbols of a provider that a text may mean, and how many were compared with it."""
        found = self._providers.get(provider)
        return ([], 0) if found is None else (list(found.search(query)), len(found.symbols))

    def statuses(self) -> list[Mapping[str, Any]]:
        """Return one status per session."""
        return [status for provider in self for status in provider.statuses()]


def _no_frame_tap(account: str | None, number: int, connection: ProviderSession) -> None:
    """Return None: there is no tap."""


def _session_name(provider: str, account: str | None, number: int = 1) -> str:
    name = provider if account is None else f"{provider}/{account}"
    return name if number == 1 else f"{name} (connection {number})"


def _run_named(
    run: Callable[[str, ProviderSession], object],
    provider: str,
    account: str | None,
    number: int,
    connection: ProviderSession,
) -> None:
    run(_session_name(provider, account, number), connection)


def _keep(store: Store, session: str, table: str, key: str, value: bytes | None) -> None:
    store.write(Row(table, _row_key(session, key), value))


def _row_key(session: str, key: str) -> str:
    return f"{session}\n{key}" if key else session


def _as_configured(settings: ProviderSettings) -> type[Adapter]:
    """Return the adapter with its declaration changed by the configuration.

    A configured endpoint replaces the host of all sockets. Sockets that differ only by their URL are merged, the others keep
    their paths. The same holds for the HTTP API.
    """
    session = settings.adapter.session
    sockets: dict[str, Session | str] = {}
    for name, socket in session.sockets.items():
        if isinstance(socket, Session):
            url = socket.url if settings.url is None else _at(settings.url, socket.url)
            http = socket.http if settings.http_url is None else settings.http_url
            sockets[name] = attrs.evolve(socket, url=url, http=http)
        elif settings.url is None:
            sockets[name] = socket
    http = session.http if settings.http_url is None else settings.http_url
    return _with(settings.adapter, attrs.evolve(session, url=settings.url or session.url, http=http, sockets=sockets))


def _at(configured: str, declared: str) -> str:
    """Return the path of a declared URL at the host of the one that is configured."""
    host, path = urlsplit(configured), declared.partition("://")[2].partition("/")[2]
    return f"{host.scheme}://{host.netloc}/{path}"


def _on_socket(adapter: type[Adapter], socket: str) -> type[Adapter]:
    """Return the adapter for connections of this socket."""
    if not socket:
        return adapter
    session = adapter.session.socket(socket)
    session = attrs.evolve(session, sockets=adapter.session.sockets)  # for what requests name
    return _with(adapter, session, socket=socket)


def _with(adapter: type[Adapter], session: Session, **members: Any) -> type[Adapter]:
    """Return a subclass of the adapter with this declaration; the adapter itself if nothing differs."""
    if session == adapter.session and not members:
        return adapter
    return type(adapter.__name__, (adapter,), {"session": session, **members})
