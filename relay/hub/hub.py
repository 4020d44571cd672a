"""The hub: between the sessions with providers, which publish events, and the apps' subscribers, who get them.

It is pure: it is given the time with every call and names at random when it is made, and what it has to say goes to outboxes
and to the functions it was given. Publishing is synchronous and does not depend on how many channels there are; a channel's
subscribers each cost one `put` of a frame made once.

`tick` is to be called about once a second.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import count
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from relay.hub.app import AppState, HistoryPage, Shared
from relay.hub.compressed import CompressedOutbox
from relay.hub.history import HistoryLimits
from relay.hub.names import Known
from relay.hub.outbox import Delivery, Outbox, OutboxLimits
from relay.hub.sequence import Interest, LocalInterest, LocalSequencer, Sequencer
from relay.hub.streams import Streams
from relay.hub.subscriber import RefusedSession, SubscriberSession
from relay.hub.topic import News
from relay.model.channels import Stream
from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import ChannelEvent
from relay.pusher.actions import Close, Position
from relay.pusher.api import ChannelState
from relay.pusher.apps import App
from relay.pusher.connection import ServerConnection, admit
from relay.pusher.errors import CloseCode
from relay.pusher.names import server_to_user_channel
from relay.trading.client_events import OnCommand, off

__all__ = ["ChannelEvent", "HistoryLimits", "HistoryPage", "Hub", "RefusedSession", "SubscriberSession", "UnknownApp"]

_NO_PATH = Close(CloseCode.PATH_NOT_FOUND, f"{CloseCode.PATH_NOT_FOUND.meaning}: subscribers connect to /app/KEY")
_SWEEP = 1000
"""Topics looked at per tick, to drop those that are idle: some milliseconds, however many there are."""


class UnknownApp(KeyError):
    """There is no app of that id."""


class Hub:
    """All apps, streams and subscribers of one relay. Times (`now`) are monotonic seconds."""

    def __init__(
        self,
        apps: Iterable[App],
        *,
        epoch: str,
        socket_ids: Callable[[], str],
        want: Callable[[Stream], object],
        unwant: Callable[[Stream], object],
        known: Known = lambda stream: None,
        is_private: Callable[[Stream], bool] = lambda stream: False,
        on_channel_event: Callable[[ChannelEvent], object] = lambda event: None,
        on_command: OnCommand = off,
        ids: Callable[[], str] | None = None,
        history: HistoryLimits | None = None,
        outbox: OutboxLimits | None = None,
        pinned: Iterable[Stream] = (),
        max_connections: int | None = None,
        sequencer: Sequencer | None = None,
        interest: Interest | None = None,
        now: float = 0.0,
    ) -> None:
        """A hub with these apps.

        Args:
            epoch: unique to this run of the relay, at most 40 of `A-Za-z0-9_-`; event ids and positions begin with it.
            socket_ids: names connections, `<digits>.<digits>`; unpredictable, since signatures are bound to them.
            want, unwant: a stream's first channel got a subscriber; its last one lost it.
            known: what is wrong with a stream a channel names (unknown provider, symbol, account), None for nothing.
            is_private: whether a market stream's data may only go out behind `private-` or `presence-`.
            on_channel_event: told what an app's server may want to know, as it happens; must return at once and not raise.
            on_command: takes the commands that come as client events on accounts' channels.
            ids: names events; `epoch` and a counter unless given.
            pinned: streams whose events are kept whether somebody listens or not.
            max_connections: of all apps together; more are refused with 4100.
            sequencer, interest: where there are several relays; by default those of one alone.
        """
        history = history or HistoryLimits()
        sequencer = sequencer or LocalSequencer(epoch)
        self._shared = Shared(
            streams=Streams(sequencer, history, pinned),
            interest=interest or LocalInterest(want, unwant),
            sequencer=sequencer,
            history=history,
            ids=ids or _counter(epoch),
            known=known,
            is_private=is_private,
            on_channel_event=on_channel_event,
            on_command=on_command,
        )
        self._streams = self._shared.streams
        self._ids = self._shared.ids
        self._socket_ids = socket_ids
        self._outbox_limits = outbox or OutboxLimits()
        self._max_connections = max_connections
        self._closing = False
        self._by_id: dict[str, AppState] = {}
        self._by_key: dict[str, AppState] = {}
        self.published: Counter[str] = Counter()
        """Events published, by kind."""
        self.unrouted = 0
        """Events that belonged to no topic: of no account or of one not the session's, or a gap on nothing there was."""
        self.replace_apps(apps, now)

    # Events ----------------------------------------------------------------------------------------------------------

    def publish(self, event: Event, stamp: Stamp, now: float) -> str:
        """Give a provider's event to everyone who subscribed to it; returns its id."""
        news = News(event, stamp, self._ids())
        self.published[news.kind] += 1
        topics = self._streams.of(event, stamp, now)
        if not topics:
            self.unrouted += 1
        for topic in topics:
            topic.publish(news, now)
        return news.id

    def trigger(
        self,
        app_id: str,
        channels: Iterable[str],
        name: str,
        data: str,
        *,
        socket_id: str | None = None,
        user_id: str | None = None,
        now: float,
    ) -> None:
        """Publish an app's own event on its channels, not to the connection `socket_id`.

        Names and sizes are checked by whoever parsed the request. ProtocolError 403, and nothing is published, where a
        channel is a stream's.
        """
        self._app_state(app_id).trigger(channels, name, data, socket_id=socket_id, user_id=user_id, now=now)

    def send_to_user(self, app_id: str, user_id: str, name: str, data: str, now: float) -> None:
        """Publish an app's event to one user: the connections that hold the user's server-to-user channel."""
        self.trigger(app_id, [server_to_user_channel(user_id)], name, data, now=now)

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
    ) -> SubscriberSession | RefusedSession:
        """Begin a connection to `/app/<app_key>?<query>`: greeted in its outbox, or refused and closed there.

        `app_key` is empty where the path was another.
        `origin` is the Origin header of a browser's page; `secure` whether the client came by TLS;
        `compressed` whether permessage-deflate was agreed.
        """
        app_state = self._by_key.get(app_key)
        refusal = _NO_PATH if not app_key else self._refusal(app_state, origin, now, secure=secure)
        if app_state is None or refusal is not None:
            return RefusedSession(Outbox(_Nothing()), refusal or Close(CloseCode.APP_UNKNOWN))
        make = CompressedOutbox if compressed else Outbox
        outbox = make(app_state.overflow, self._outbox_limits, app_state.overflow.on_drop)
        session = SubscriberSession(app_state, ServerConnection(app_state.app, self._socket_ids(), now), outbox)
        session.open(_parameters(query), now)
        return session

    def _refusal(self, app_state: AppState | None, origin: str | None, now: float, *, secure: bool) -> Close | None:
        if self._closing:
            return Close(CloseCode.RECONNECT, "server is shutting down")
        app, connections = (None, 0) if app_state is None else (app_state.app, len(app_state.sessions))
        refusal = admit(app, secure=secure, origin=origin, connections=connections)
        if refusal is not None or app_state is None:
            return refusal
        if self._max_connections is not None and self.connections >= self._max_connections:
            return Close(
                CloseCode.OVER_CAPACITY, f"Over capacity: {self._max_connections} connections (max_connections)"
            )
        if not app_state.newcomers.take(1, now):
            return Close(CloseCode.OVER_CAPACITY, "Too many new connections per second (limit connections_per_second)")
        return None

    @property
    def connections(self) -> int:
        """Open connections of all apps."""
        return sum(len(app_state.sessions) for app_state in self._by_id.values())

    def tick(self, now: float) -> None:
        """Do what has become due: subscription counts that were withheld, idle topics."""
        self._streams.forget_idle(now, _SWEEP)
        for app_state in self._by_id.values():
            app_state.tell_counts(now)
            app_state.forget_idle(now, _SWEEP)

    def shutdown(self, now: float) -> None:
        """Close everyone with 4200, newcomers too."""
        self._closing = True
        for app_state in self._by_id.values():
            _end_all(app_state, CloseCode.RECONNECT, "server is shutting down", now)

    # Apps ------------------------------------------------------------------------------------------------------------

    def replace_apps(self, apps: Iterable[App], now: float) -> None:
        """The configuration has been read again: apps may be new, changed, disabled (4003) or gone (4001).

        Connections of apps that are there before and after stay, and live by the new settings.
        """
        fresh = {app.id: app for app in apps}
        for app_id in self._by_id.keys() - fresh.keys():
            _end_all(self._by_id.pop(app_id), CloseCode.APP_UNKNOWN, CloseCode.APP_UNKNOWN.meaning, now)
        for app_id, app in fresh.items():
            if (app_state := self._by_id.get(app_id)) is None:
                self._by_id[app_id] = AppState(app, self._shared, now)
                continue
            app_state.replace(app)
            if not app.enabled:
                _end_all(app_state, CloseCode.APP_DISABLED, CloseCode.APP_DISABLED.meaning, now)
        self._by_key = {app_state.app.key: app_state for app_state in self._by_id.values()}

    def app(self, app_id: str) -> App | None:
        """The app of that id."""
        app_state = self._by_id.get(app_id)
        return None if app_state is None else app_state.app

    def app_by_key(self, key: str) -> App | None:
        """The app of that key."""
        app_state = self._by_key.get(key)
        return None if app_state is None else app_state.app

    # Questions of an app's server; all but `app` raise UnknownApp ----------------------------------------------------

    def channels(self, app_id: str, prefix: str, now: float) -> Mapping[str, ChannelState]:
        """The occupied channels whose names begin with `prefix`, without their cached events."""
        app_state = self._app_state(app_id)
        return {name: app_state.state(name, now, cache=False) for name in app_state.channels if name.startswith(prefix)}

    def channel_info(self, app_id: str, name: str, now: float) -> ChannelState:
        """What can be told of one channel, occupied or not."""
        return self._app_state(app_id).state(name, now)

    def users(self, app_id: str, channel: str) -> list[str]:
        """The users on a presence channel; none on any other."""
        there = self._app_state(app_id).channels.get(channel)
        return [] if there is None or there.presence is None else [member.user_id for member in there.presence]

    def history(self, app_id: str, name: str, after: Position | None, limit: int, now: float) -> HistoryPage:
        """Past events of a channel: at most `limit` behind `after`, or the newest.

        Raises `relay.hub.history.Missed` where what is behind `after` is not there any more.
        """
        return self._app_state(app_id).history(name, after, limit, now)

    def terminate_user(self, app_id: str, user_id: str, now: float) -> None:
        """Close all connections that are signed in as the user, with 4009."""
        for session in self._app_state(app_id).users.connections(user_id):
            session.end(CloseCode.UNAUTHORIZED, "Connection terminated by the app", now)

    def snapshot(self) -> dict[str, Any]:
        """Counters for the status page and metrics."""
        return {
            "connections": self.connections,
            "published": dict(self.published),
            "unrouted": self.unrouted,
            "dropped": {policy.value: dropped for policy, dropped in self._shared.dropped.items()},
            "streams": [topic.snapshot() for topic in self._streams],
            "apps": {app_id: app_state.snapshot() for app_id, app_state in self._by_id.items()},
        }

    def _app_state(self, app_id: str) -> AppState:
        try:
            return self._by_id[app_id]
        except KeyError:
            raise UnknownApp(f"there is no app {app_id}") from None


@lru_cache(maxsize=256)
def _parameters(query: str) -> Mapping[str, str]:
    """The query's parameters. Clients of one library all send the same one."""
    return MappingProxyType(dict(parse_qsl(query, keep_blank_values=True)))


class _Nothing:
    """Where a refused connection's outbox gets what stands for dropped events: it has none."""

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return b""

    def snapshot_frame(self, channel: str) -> Delivery | None:
        return None


def _end_all(app_state: AppState, code: int, reason: str, now: float) -> None:
    for session in list(app_state.sessions.values()):
        session.end(code, reason, now)


def _counter(epoch: str) -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"{epoch}-{next(numbers):x}"
