"""The hub: takes events from the sessions with providers and delivers them to the apps' subscribers.

It does no IO and reads no clock: each call passes the time, and output goes to outboxes and callables. Publishing is
synchronous. Its cost does not depend on the number of channels; each subscriber of a channel costs one `put` of a shared
frame. A published event takes these calls:

    Hub.publish -> Streams.topics_of -> TopicState.publish -> PublishedEvent.entry (encoded once)
        -> Channel.deliver (framed once) -> Outbox.put

`tick` is to be called about once a second.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from relay.hub.app import AppState, ChannelKeys, HistoryPage, RefusedSession, Shared, SubscriberSession, Told
from relay.hub.encoding import HistoryEntry, PublishedEvent
from relay.hub.history import HistoryLimits
from relay.hub.log import STATES, StoredLog, TopicLog, parse_key
from relay.hub.outbox import CompressedOutbox, Outbox, OutboxLimits
from relay.hub.streams import Known, NewLog, Streams, claims_stream
from relay.hub.topic import Channel, TopicState
from relay.model.channels import ALL, Asker, Stream, Topic
from relay.model.enums import Refill
from relay.model.events import Event, Gap, Stamp
from relay.model.text import from_micros
from relay.plugins.hookspecs import ChannelEvent
from relay.pusher.apps import App
from relay.pusher.connection import PROTOCOLS, ServerConnection, admit
from relay.pusher.costs import ClientBudgets, Costs
from relay.pusher.http_api import ChannelState, Trigger
from relay.pusher.messages import CloseConnection, PusherCloseCode, ResumePosition
from relay.pusher.names import server_to_user_channel
from relay.store.interface import LoggedTopic, Row, Rows, Store
from relay.trading.registry import ClientCommand, OnCommand, Rejected, Repeated, off

_NO_PATH = CloseConnection(
    PusherCloseCode.PATH_NOT_FOUND, f"{PusherCloseCode.PATH_NOT_FOUND.meaning}: subscribers connect to /app/KEY"
)
_SWEEP = 1000
"""Topics checked per tick, to drop idle ones: some milliseconds, however many there are."""


class UnknownApp(KeyError):
    """Raised when there is no app of that id."""


class Hub:
    """All apps, streams and subscribers of one relay. Times (`now`) are monotonic seconds."""

    def __init__(
        self,
        apps: Iterable[App],
        *,
        epoch: str,
        socket_ids: Callable[[], str],
        want: Callable[[Stream, Asker], Iterable[str]],
        unwant: Callable[[Stream], object],
        want_too: Callable[[Stream, Asker], object] = lambda stream, by: None,
        known: Known = lambda stream: None,
        is_private: Callable[[Stream], bool] = lambda stream: False,
        on_channel_event: Callable[[ChannelEvent], object] = lambda event: None,
        on_command: OnCommand = off,
        keys: ChannelKeys | None = None,
        history: HistoryLimits | None = None,
        outbox: OutboxLimits | None = None,
        costs: Costs | None = None,
        pinned: Iterable[Stream] = (),
        store: Store | None = None,
        new_log: NewLog | None = None,
        new_app: Callable[[App, Shared], AppState] = AppState,
        full: Callable[[], str | None] = lambda: None,
        now: float = 0.0,
    ) -> None:
        """Make a hub with these apps.

        Args:
            epoch: unique to this run of the relay, at most 40 of `A-Za-z0-9_-`; event ids and positions begin with it.
            socket_ids: returns a new socket id, `<digits>.<digits>`, which must be unpredictable: signatures contain it.
            want, unwant: called when a stream gets its first channel with subscribers, and when it loses its last one.
                ``want`` returns the providers that are subscribed for it.
            want_too: called when a stream gets a further subscriber.
            known: returns the error of a stream that a channel names (unknown provider, symbol, account); None if valid.
            is_private: returns True if a market stream is only allowed on `private-` or `presence-` channels.
            on_channel_event: called with the events for an app's server; must return at once and not raise.
            keys: the API keys that authorize channels; none by default.
            on_command: executes the commands that clients send as events on accounts' channels.
            full: returns the limit that refuses new subscriptions now; None if there is room.
            pinned: streams whose events are stored even without subscribers.
            store: keeps topics over a restart (see `restore`).
            new_log: creates the log of a topic, in place of one in the store, if several relays form a cluster.
            new_app: creates the state of an app.
        """
        history = history or HistoryLimits()
        self._epochs = epochs = _counter(epoch)
        self.budgets = ClientBudgets(costs or Costs())
        self._store = store
        self._logs = store.logs if store is not None and history.events else None
        self._begin_log = new_log or self._new_log
        self._outbox_limits = outbox or OutboxLimits()
        self._shared = Shared(
            streams=Streams(
                epochs, history, pinned, want=want, want_too=want_too, unwant=unwant, new_log=self._begin_log
            ),
            history=history,
            ids=_counter(epoch),
            epochs=epochs,
            known=known,
            is_private=is_private,
            on_channel_event=on_channel_event,
            on_command=on_command,
            keys=keys or ChannelKeys(),
            budgets=self.budgets,
            new_log=self._begin_log,
            full=full,
            coalesces=self._outbox_limits.coalesce > 0,
        )
        self._new_app = new_app
        self._streams = self._shared.streams
        self._ids = self._shared.ids
        self._socket_ids = socket_ids
        self._closing = False
        self._by_id: dict[str, AppState] = {}
        self._by_key: dict[str, AppState] = {}
        self.published: Counter[str] = Counter()
        """Events published, by kind."""
        self.unrouted = 0
        """Events that belong to no topic: of an account that is not the session's, or gaps of streams without a topic."""
        self.replace_apps(apps, now)

    # Events ----------------------------------------------------------------------------------------------------------

    def publish(self, event: Event, stamp: Stamp, now: float) -> PublishedEvent:
        """Deliver a provider's event to all its subscribers; return it with its id."""
        published = PublishedEvent(event, stamp, self._ids())
        self.published[published.kind] += 1
        topics = self._streams.topics_of(event, stamp, now)
        if not topics:
            self.unrouted += 1
        for topic in topics:
            topic.publish(published, now)
        return published

    def trigger(
        self,
        app_id: str,
        channels: Iterable[str],
        name: str,
        data: str,
        *,
        socket_id: str | None = None,
        now: float,
    ) -> None:
        """Publish an app's own event on channels, except to the connection `socket_id`; see `trigger_all`."""
        event = Trigger(name=name, channels=tuple(channels), data=data, socket_id=socket_id)
        self.trigger_all(app_id, [event], now)

    def trigger_all(
        self, app_id: str, events: Iterable[Trigger], now: float, done: Told = lambda refusal: None
    ) -> None:
        """Publish an app's own events, all or none, and call `done`. The caller has checked names and sizes.

        Raises:
            ProtocolError: 403, and nothing is published, because a channel belongs to a stream of the relay.
        """
        self._app_state(app_id).trigger(events, now, done)

    def send_to_user(self, app_id: str, user_id: str, name: str, data: str, now: float) -> None:
        """Publish an app's event to one user: the connections that hold the user's server-to-user channel."""
        self.trigger(app_id, [server_to_user_channel(user_id)], name, data, now=now)

    # The store -------------------------------------------------------------------------------------------------------

    def _new_log(self, key: str) -> TopicLog | None:
        if self._store is None or self._logs is None:
            return None
        return StoredLog(self._store, self._logs, key, self._epochs)

    def restore(self, rows: Rows, topics: Mapping[str, LoggedTopic], now: float, unix_ns: int) -> int:
        """Restore the topics that an earlier process stored; return how many.

        Each keeps its epoch and continues after the highest number that may have been used. One `gap` with reason `restart`
        stands for missing events. If the store was opened late, topics that have had an event meanwhile are left unchanged.
        """
        if self._store is None or self._logs is None:
            return 0
        ahead, at, count = unix_ns / 1e9 - now, from_micros(unix_ns // 1000), 0
        for key, logged in topics.items():
            owner = parse_key(key)
            if isinstance(owner, tuple) and owner[0] in self._by_id and not claims_stream(owner[1]):
                self._by_id[owner[0]].restore(owner[1], logged, ahead, now)
            elif isinstance(owner, Stream) and self._is_known(owner):
                self._restore_stream(owner, logged, ahead, now, at)
            else:
                self._logs.forget(key)
                continue
            count += 1
        for name, value in rows.get(STATES, ()):
            key, _, state = name.partition("\n")
            owner = parse_key(key)
            topic = self._streams.find(owner) if isinstance(owner, Stream) and self._is_known(owner) else None
            if topic is None:
                self._store.write(Row(STATES, name, None))
            elif state not in topic.last:
                topic.restore_state(state, value, now)
        return count

    def _is_known(self, stream: Stream) -> bool:
        """Return True if the stream's provider is configured, and its account; symbols may not be known yet."""
        about = stream.topic if stream.topic.kind == "account" else Topic(kind="status")
        return self._shared.known(Stream(stream.provider, about)) is None

    def _restore_stream(self, stream: Stream, logged: LoggedTopic, ahead: float, now: float, at: str) -> None:
        topic = self._streams.topic(stream, now)
        if topic.log is None or topic.seq or topic.channels:
            return
        last = logged.events[-1] if logged.events else None
        # If the process died before the topic's first batch was stored, the gap covers all of it: clients can resume.
        topic.restore(logged, logged.reserved, ahead, now, floor=0)
        whole = last is not None and last.seq == logged.reserved
        first = None if whole else 1 if last is None else last.seq + 1
        since = None if last is None else from_micros(int(last.at * 1e6))
        gap = self.gap_of(topic, "restart", first, None if whole else logged.reserved, at, since=since)
        topic.publish(gap, now)
        self._streams.settle(stream)

    def answer_command(self, sent: ClientCommand, answer: Rejected | Repeated) -> None:
        """Send the answer to a command that came as a client event and was answered asynchronously."""
        for app_state in self._by_id.values():
            app_state.answer_command(sent, answer)

    # Other nodes -----------------------------------------------------------------------------------------------------

    def topics_of(self, provider: str) -> list[TopicState]:
        """Return the topics of a provider."""
        return [topic for topic in self._streams if topic.stream is not None and topic.stream.provider == provider]

    def topic(self, stream: Stream, now: float) -> TopicState:
        """Return the topic of a stream; create it if it does not exist."""
        return self._streams.topic(stream, now)

    def follow(
        self,
        stream: Stream,
        entry: HistoryEntry,
        epoch: str,
        first: int,
        read: Callable[[], PublishedEvent],
        now: float,
    ) -> None:
        """Publish an event that another node has numbered. On the merged topic it gets a number of this node."""
        topic, merged = self._streams.followed(stream, now)
        if epoch == topic.history.epoch and topic.seq and first > topic.seq + 1:
            self.gap(topic, "missed", topic.seq + 1, first - 1, now)
        topic.follow(entry, epoch, first, read, now)
        if merged is not None:
            merged.publish(read(), now)

    def gap_of(
        self, topic: TopicState, reason: str, first: int | None, last: int | None, at: str, *, since: str | None = None
    ) -> PublishedEvent:
        """Return a gap in a topic, from number `first` to `last`; with `since`, `at` is the end of the time it covers."""
        assert topic.stream is not None
        stream = topic.stream
        gap = Gap(
            of=topic.kind,
            symbol=stream.topic.symbol,
            timeframe=stream.topic.timeframe,
            from_seq=first,
            to_seq=last,
            since=since,
            until=at if reason == "restart" else None,
            refill=Refill.SNAPSHOT if topic.kind == "depth" else Refill.NONE,
            reason=reason,
        )
        stamp = Stamp(provider=stream.provider, account=stream.topic.account, received_at=at)
        return PublishedEvent(gap, stamp, self._ids())

    def qualify(self, topic: TopicState, published: PublishedEvent, now: float) -> None:
        """Send a staleness event to this node's subscribers of a provider's topic and of its merged topic."""
        assert topic.stream is not None
        topic.qualify(published, now)
        merged = self._streams.find(Stream(ALL, topic.stream.topic))
        if merged is not None:
            merged.publish(published, now)

    def republish_book(self, stream: Stream, now: float) -> None:
        """Publish the whole book of a depth topic, for nodes that start to follow it."""
        topic = self._streams.find(stream)
        book = None if topic is None else topic.book
        if book is not None and book.stamp is not None and book.ready:
            copy = book.copy()
            self.publish(copy.snapshot(copy.sorted_bids(), copy.sorted_asks()), book.stamp, now)

    def gap(self, topic: TopicState, reason: str, first: int, last: int, now: float) -> None:
        """Publish a gap that stands for these numbers on this node."""
        topic.seq = last
        topic.publish(self.gap_of(topic, reason, first, last, topic.last_received_at), now, last, first)

    def send_away(self, topic: TopicState, reason: str, now: float) -> None:
        """Close the subscribers of a topic with 4200, so that they resume: they missed events."""
        for app_state in self._by_id.values():
            app_state.send_away(topic, reason, now)

    def hold(self, stream: Stream, held: bool, now: float) -> None:
        """Store a stream's events even without subscribers on this node, while another node has subscribers."""
        self._streams.hold(stream, held, now)

    def stored(self) -> Iterator[Row]:
        """Yield the rows for the store: the states of accounts."""
        for topic in self._streams:
            yield from topic.states()

    def logged_topics(self, names: Collection[str] | None) -> Iterator[tuple[str, str, int, Sequence[HistoryEntry]]]:
        """Yield the content of these topics' logs (None: of all topics), see `relay.store.interface.Owner.topics`."""
        apps = (topic for app_state in self._by_id.values() for topic in app_state.topics.values())
        for topic in (*self._streams, *apps):
            if topic.log is not None and (names is None or topic.log.key in names):
                logged = topic.logged()
                if logged is not None:
                    yield logged

    # Subscribers -----------------------------------------------------------------------------------------------------

    def connect(
        self,
        app_key: str,
        query: str,
        origin: str | None,
        now: float,
        *,
        secure: bool = False,
        compressed: bool = False,
        address: str | None = None,
    ) -> SubscriberSession | RefusedSession:
        """Open a connection to `/app/<app_key>?<query>`.

        Its outbox then contains `connection_established`, or the error and the close frame of a refusal.

        Args:
            app_key: empty if the path is another one.
            query: the raw query string.
            origin: the Origin header.
            secure: the client uses TLS.
            compressed: permessage-deflate was negotiated.
            address: the client's network, whose connections share budgets and turns at providers; None if not known.
        """
        app_state = self._by_key.get(app_key)
        refusal = _NO_PATH if not app_key else self._refusal(app_state, origin, now, secure=secure)
        if app_state is None or refusal is not None:
            close = refusal or CloseConnection(PusherCloseCode.APP_UNKNOWN, PusherCloseCode.APP_UNKNOWN.meaning)
            return RefusedSession(close, _protocol(query))
        outbox = (CompressedOutbox if compressed else Outbox)(app_state, self._outbox_limits)
        spending = self.budgets.connect(app_state.app.id, address, now)
        connection = ServerConnection(app_state.app, self._socket_ids(), now, self._shared.keys.digest_of)
        session = SubscriberSession(app_state, connection, outbox, spending, address)
        session.open(_parameters(query), now)
        app_state.bound_unauthorized(now)
        return session

    def _refusal(
        self, app_state: AppState | None, origin: str | None, now: float, *, secure: bool
    ) -> CloseConnection | None:
        if self._closing:
            return CloseConnection(PusherCloseCode.RECONNECT, "server is shutting down")
        app, connections = (None, 0) if app_state is None else (app_state.app, app_state.counted)
        refusal = admit(app, secure=secure, origin=origin, connections=connections)
        if refusal is not None or app_state is None:
            return refusal
        if not app_state.new_connections.take(1, now):
            self.budgets.counts["connections_per_second", "refused"] += 1
            return CloseConnection(
                PusherCloseCode.OVER_CAPACITY, "Too many new connections per second (limit connections_per_second)"
            )
        return None

    @property
    def connections(self) -> int:
        """Number of open connections of all apps."""
        return sum(len(app_state.sessions) for app_state in self._by_id.values())

    def tick(self, now: float) -> None:
        """Send the subscription counts that are due and drop idle topics."""
        self._streams.forget_idle(now, _SWEEP)
        for app_state in self._by_id.values():
            app_state.send_due_counts(now)
            app_state.forget_idle(now, _SWEEP)

    def shutdown(self, now: float) -> None:
        """Close all connections with 4200, and refuse new ones."""
        self._closing = True
        for app_state in self._by_id.values():
            _end_all(app_state, PusherCloseCode.RECONNECT, "server is shutting down", now)

    # Apps ------------------------------------------------------------------------------------------------------------

    def replace_apps(self, apps: Iterable[App], now: float) -> None:
        """Apply the apps of a reloaded configuration.

        Connections of disabled apps are closed with 4003, of removed ones with 4001. The others stay open, with the new
        settings.
        """
        fresh = {app.id: app for app in apps}
        for app_id in self._by_id.keys() - fresh.keys():
            _end_all(self._by_id.pop(app_id), PusherCloseCode.APP_UNKNOWN, PusherCloseCode.APP_UNKNOWN.meaning, now)
        for app_id, app in fresh.items():
            if (app_state := self._by_id.get(app_id)) is None:
                self._by_id[app_id] = self._new_app(app, self._shared)
                continue
            app_state.replace(app)
            if not app.enabled:
                _end_all(app_state, PusherCloseCode.APP_DISABLED, PusherCloseCode.APP_DISABLED.meaning, now)
        self._by_key = {app_state.app.key: app_state for app_state in self._by_id.values()}

    def recheck(self, now: float) -> None:
        """End every subscription and sign-in that the present apps and API keys do not allow. Called after a reload."""
        for app_state in self._by_id.values():
            app_state.recheck(now)

    def closed_account(self, app_id: str, name: str) -> str | None:
        """Return why the app's secret alone does not allow this channel, if it is an account's; None if it does."""
        return self._app_state(app_id).closed_account(name)

    def app(self, app_id: str) -> App | None:
        """Return the app of that id."""
        app_state = self._by_id.get(app_id)
        return None if app_state is None else app_state.app

    def app_by_key(self, key: str) -> App | None:
        """Return the app of that key."""
        app_state = self._by_key.get(key)
        return None if app_state is None else app_state.app

    # Queries of an app's server; all raise UnknownApp -----------------------------------------------------------------

    def channels(self, app_id: str, prefix: str, now: float) -> Iterator[tuple[str, ChannelState]]:
        """Yield the occupied channels whose names begin with `prefix`, without their cached events.

        Accounts' channels that are not open to the app's secret are left out.
        """
        app_state = self._app_state(app_id)
        for name in list(app_state.occupied_names()):
            if name.startswith(prefix) and app_state.closed_account(name) is None:
                state = app_state.state(name, now, cache=False)
                if state.occupied:  # other tasks may run between two channels
                    yield name, state

    def occupied(self, app_id: str) -> int:
        """Return the number of occupied channels."""
        return len(self._app_state(app_id).occupied_names())

    def channel_info(self, app_id: str, name: str, now: float) -> ChannelState:
        """Return the state of one channel, occupied or not."""
        return self._app_state(app_id).state(name, now)

    def users(self, app_id: str, channel: str) -> list[str]:
        """Return the users on a presence channel; none on any other."""
        return list(self._app_state(app_id).user_ids(channel))

    def history(self, app_id: str, name: str, after: ResumePosition | None, limit: int, now: float) -> HistoryPage:
        """Return at most `limit` past events of a channel: those after `after`, or the newest.

        Raises `relay.hub.history.Missed` if the events after `after` are not stored any more.
        """
        return self._app_state(app_id).history(name, after, limit, now)

    def read_first(self, app_id: str, name: str, after: ResumePosition, now: float) -> Callable[[], bool] | None:
        """Return a function that returns True once `history` can be asked for the events behind `after`; None for now.

        The position may be another relay's, which has published more than this one has read.
        """
        return self._app_state(app_id).read_first(name, after, now)

    def terminate_user(self, app_id: str, user_id: str, now: float, done: Told = lambda refusal: None) -> None:
        """Close all connections that are signed in as the user, with 4009, and call `done`."""
        self._app_state(app_id).terminate(user_id, now, done)

    def snapshot(self) -> dict[str, Any]:
        """Return all counters. This takes milliseconds if there are thousands of streams and channels."""
        return {
            **self.totals(),
            "streams": [topic.status() for topic in self._streams],
            "apps": {
                app_id: {**self.app_totals(app_id), "channels": {each.name: each.status() for each in channels}}
                for app_id, channels in self.occupied_channels().items()
            },
        }

    def totals(self) -> dict[str, Any]:
        """Return the counters of the hub itself."""
        return {
            "connections": self.connections,
            "published": dict(self.published),
            "unrouted": self.unrouted,
            "dropped": {policy.value: dropped for policy, dropped in self._shared.dropped.items()},
            "limits": self.budgets.exceeded(),
        }

    def app_totals(self, app_id: str) -> Mapping[str, int]:
        """Return the counters of an app; 0 if there is no app with this id."""
        app_state = self._by_id.get(app_id)
        return {"connections": 0, "users": 0} if app_state is None else app_state.status()

    def streams(self) -> list[TopicState]:
        """Return the topics of all streams."""
        return list(self._streams)

    def occupied_channels(self) -> dict[str, list[Channel]]:
        """Return the channels that have subscribers, by app."""
        return {app_id: list(app_state.channels.values()) for app_id, app_state in self._by_id.items()}

    def _app_state(self, app_id: str) -> AppState:
        try:
            return self._by_id[app_id]
        except KeyError:
            raise UnknownApp(f"there is no app {app_id}") from None


#: Most characters of a query that is cached, and of one that is parsed. Client libraries send about 70.
_REMEMBERED, _LONGEST = 256, 4096


def _parameters(query: str) -> Mapping[str, str]:
    """Return the query's parameters. Cached, since clients of one library all send the same query."""
    return _remembered_parameters(query) if len(query) <= _REMEMBERED else _parsed(query[:_LONGEST])


def _parsed(query: str) -> Mapping[str, str]:
    return MappingProxyType(dict(parse_qsl(query, keep_blank_values=True)))


_remembered_parameters = lru_cache(maxsize=256)(_parsed)


def _protocol(query: str) -> int:
    """Return the protocol version of a refused client; the newest if it names none."""
    version = _parameters(query).get("protocol", "")
    return int(version) if version.isascii() and version.isdigit() and len(version) < 10 else PROTOCOLS[-1]


def _end_all(app_state: AppState, code: int, reason: str, now: float) -> None:
    for session in list(app_state.sessions.values()):
        session.end(code, reason, now)


def _counter(epoch: str) -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"{epoch}-{next(numbers):x}"
