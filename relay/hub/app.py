"""One app in the hub: its connections, channels and users, and the effects of joining, publishing and leaving.

A new subscription has its effects in this order:

1. `subscription_succeeded` and the result of `catch_up` are sent to the new subscriber; from here on it is live. A large
   catch-up is sent in parts (`SubscriberSession.proceed`), and live events are queued after it;
2. `member_added` is sent to the others, if it brings a new user to a presence channel; the app's server is notified;
3. `subscription_count` is sent to all;
4. the stream is requested from its provider, if this is its first channel. This comes last, so that events which the
   request causes at once reach the subscriber.

Leaving has the reverse effects. A channel without subscribers is deleted; its topic is kept for as long as a subscriber
could resume on it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Literal

from attrs import field, frozen

from relay.hub.catch_up import Joining, catch_up
from relay.hub.encoding import HistoryEntry, PublishedEvent, decode_data, decode_name, encode_head, plain_tail
from relay.hub.history import HistoryLimits
from relay.hub.log import app_key
from relay.hub.members import SubscriptionCounts, Users
from relay.hub.outbox import Delivery, Outbox, Policy, control
from relay.hub.streams import IdleTopics, Known, NewLog, Streams, account_of, claims_stream, stream_of
from relay.hub.topic import Channel, TopicState
from relay.limits import TokenBucket
from relay.model.channels import Asker, Stream
from relay.model.enums import Refill
from relay.model.events import Gap, Stamp
from relay.plugins.hookspecs import ChannelEvent
from relay.pusher import messages
from relay.pusher.apps import App
from relay.pusher.connection import ServerConnection, hears_error
from relay.pusher.costs import ClientBudgets, RequestPrices, Spending
from relay.pusher.http_api import ChannelState, Trigger
from relay.pusher.messages import (
    Action,
    ClientEvent,
    CloseConnection,
    JoinChannel,
    LeaveChannel,
    PingPeer,
    PresenceMember,
    ProtocolError,
    PusherCloseCode,
    ResumePosition,
    SendMessage,
    SignIn,
)
from relay.pusher.names import channel_type
from relay.pusher.signatures import Authority
from relay.store.interface import LoggedTopic
from relay.trading.registry import COMMAND, ClientCommand, OnCommand, Rejected, Repeated
from relay.websocket.frames import encode_ping

Told = Callable[[ProtocolError | None], object]
"""Called once: with None when the request is done on all relays, or with the reason why it failed. Must not raise."""
#: Seconds for which a subscriber may wait until this relay has read what the relay where it was before had published.
UNREAD_WITHIN = 5.0
#: Seconds between two looks whether it has.
LOOK = 0.02
UNREAD = "this relay does not know yet what happened before the position to resume from"
_PING = Delivery(encode_ping(), "", Policy.CONTROL, 0)
_ERROR_TYPES = {401: "AuthError", 403: "LimitReached", 413: "LimitReached", 503: "LimitReached"}


@frozen(kw_only=True)
class ChannelKeys:
    """Functions that check API keys for channels."""

    digest_of: Callable[[str], str | None] = lambda name: None
    """Returns the digest of the key with this name; None if there is no such key."""
    refusal: Callable[[str, str, str], str | None] = lambda name, channel, app_id: f"there is no API key {name}"
    """Returns why the key with this name may not open the channel in this app; None if it may. Must not raise."""


@frozen(kw_only=True)
class Shared:
    """The parts that all apps of one hub share."""

    streams: Streams
    history: HistoryLimits
    ids: Callable[[], str]
    """Returns a new event id."""
    epochs: Callable[[], str]
    """Returns a new topic epoch."""
    known: Known
    is_private: Callable[[Stream], bool]
    on_channel_event: Callable[[ChannelEvent], object]
    on_command: OnCommand
    keys: "ChannelKeys"
    budgets: ClientBudgets
    new_log: NewLog = lambda key: None
    full: Callable[[], str | None] = lambda: None
    """Returns the limit for which nobody may subscribe now, None where somebody may."""
    coalesces: bool = False
    """See `OutboxLimits.coalesce`."""
    dropped: Counter[Policy] = field(factory=Counter)
    """Number of deliveries that were dropped, merged or replaced for slow subscribers, over all channels."""


@frozen
class _Unread:
    """A subscription that waits until this relay has read what other relays have published."""

    request: JoinChannel
    is_read: Callable[[], bool]
    until: float


@frozen
class HistoryPage:
    """Past events of a channel, oldest first."""

    position: ResumePosition
    entries: Sequence[HistoryEntry]
    more: bool
    """True if the limit cut off newer events: continue after the last one's `seq`."""

    @property
    def events(self) -> Iterator[Mapping[str, object]]:
        """Yield each event as `{"event", "data", "id", "seq"}`, decoded on demand."""
        for entry in self.entries:
            yield {"event": decode_name(entry.head), "data": decode_data(entry.tail), "id": entry.id, "seq": entry.seq}


class SubscriberSession:
    """One connection to an app: the protocol's state machine and the outbox.

    It leaves all channels as soon as the connection is to be closed, however long its socket takes. Times are monotonic
    seconds.
    """

    __slots__ = ("_app_state", "_network", "_unread", "connection", "joining", "outbox", "spending", "streams")

    def __init__(
        self,
        app_state: "AppState",
        connection: ServerConnection,
        outbox: Outbox,
        spending: Spending,
        network: str | None,
    ) -> None:
        self._app_state = app_state
        self.connection = connection
        self.outbox = outbox
        self._network = network
        self.streams = 0
        """Number of its channels that need a provider's subscription."""
        self.spending = spending
        self.joining: Joining | None = None
        """The catch-up that is being sent, if any."""
        self._unread: _Unread | None = None
        app_state.add(self)

    @property
    def socket_id(self) -> str:
        """The connection's id in the protocol."""
        return self.connection.socket_id

    @property
    def asker(self) -> Asker:
        """The connection as a subscriber of provider topics, for fair turns."""
        return Asker(self._app_state.app.id, self.connection.socket_id, self._network)

    def open(self, query: Mapping[str, str], now: float) -> None:
        """Send `connection_established`, or refuse the protocol version. Call it once, before anything else."""
        self._act(self.connection.open(query), now)

    def arrived(self, size: int, now: float) -> None:
        """Charge for the bytes of a read."""
        self.spending.spend(size * self.spending.budgets.byte, now)

    def pause(self, now: float) -> float:
        """Return the seconds to wait before the next message may be received, or `proceed` called; 0 for none."""
        if self._unread is not None:
            return LOOK
        return 0.0 if self.joining is not None else self.spending.pause(now)

    def receive(self, text: str, now: float) -> None:
        """Handle a text message, or refuse it if a budget has been exceeded for too long."""
        if self._unread is not None:  # finish the previous read first
            self._answer_unread(self._unread, now)
        spending = self.spending
        limit = spending.exceeded(now)
        spending.spend(spending.budgets.prices.message + len(text) * spending.budgets.byte, now)
        if limit is None:
            self._act(self.connection.receive(text, now), now)
        elif spending.refuse(limit):
            self._act(self.connection.refuse(text, limit, now), now)
        else:
            self._end_spender(limit, now)

    @property
    def busy(self) -> bool:
        """True while a catch-up is being sent: call `proceed` before the next message."""
        return self.joining is not None or self._unread is not None

    def hold(self, request: JoinChannel, is_read: Callable[[], bool], now: float) -> None:
        """Have a subscription wait until this relay has read what other relays have published."""
        self._unread = _Unread(request, is_read, now + UNREAD_WITHIN)

    def give_up(self, channel: str) -> bool:
        """Forget a subscription that waits; False where that of this channel does not."""
        if self._unread is None or self._unread.request.channel != channel:
            return False
        self._unread = None
        return True

    def _answer_unread(self, unread: _Unread, now: float) -> None:
        self._unread = None
        if unread.request.resume is None or unread.is_read():
            self._app_state.subscribe(self, unread.request, now, waited=True)
        else:
            self.connection.forget(unread.request.channel)
            self.end(PusherCloseCode.RECONNECT, UNREAD, now)

    def proceed(self, now: float) -> None:
        """Send the next part of a catch-up and charge for it."""
        unread = self._unread
        if unread is not None:
            if unread.is_read() or now >= unread.until:
                self._answer_unread(unread, now)
            return
        joining = self.joining
        if joining is None:
            return
        if part := joining.proceed():
            prices = self.spending.budgets.prices
            kilobyte = prices.sent_kilobyte if joining.encoded else prices.encoded_kilobyte
            self.spending.spend(prices.event * len(part) + kilobyte * sum(map(len, part)) / 1024, now)
        if joining.done:
            self.joining = None

    def receive_binary(self, now: float) -> None:
        """Refuse a binary message: the protocol has none."""
        if self._paid(now):
            self._act(self.connection.receive_binary(now), now)

    def alive(self, now: float) -> None:
        """Note that the peer sent a WebSocket ping or pong."""
        if self._paid(now):
            self.connection.alive(now)

    def _paid(self, now: float) -> bool:
        """Charge for a message that cannot be refused; return False if the connection was closed instead."""
        limit = self.spending.exceeded(now)
        self.spending.spend(self.spending.budgets.prices.message, now)
        if limit is None or self.spending.refuse(limit):
            return True
        self._end_spender(limit, now)
        return False

    def _end_spender(self, limit: str, now: float) -> None:
        code = PusherCloseCode.OVER_CAPACITY
        self.end(code, f"{code.meaning}: too many requests (limit {limit})", now)

    def deadline(self) -> float:
        """Return the time at which to call `timeout` if nothing is received before; infinity for never."""
        return self.connection.deadline()

    def timeout(self, now: float) -> None:
        """Ping the subscriber or close the connection, because the deadline has passed."""
        self._act(self.connection.timeout(now), now)

    def leave(self, now: float) -> None:
        """Leave all channels at once: nothing more is sent, though the socket may take a while to close."""
        self._act(self.connection.close(PusherCloseCode.OVER_CAPACITY), now)

    def end(self, code: int, reason: str, now: float) -> None:
        """Close the connection on the relay's own decision."""
        self._act(self.connection.close(code, reason), now)

    def closed(self, now: float) -> None:
        """Remove the session after its socket has closed."""
        self._leave(now)

    def send(self, text: str) -> None:
        """Send one of the protocol's own messages."""
        self.outbox.put(control(text))

    def refuse(self, channel: str, refusal: ProtocolError) -> None:
        """Answer a subscription with `subscription_error`."""
        self.connection.forget(channel)
        kind = _ERROR_TYPES.get(refusal.status, "InvalidRequest")
        self.send(messages.subscription_error(channel, kind, refusal.message, refusal.status))

    def _act(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case SendMessage(text):
                    self.send(text)
                case PingPeer():
                    self.outbox.put(_PING)
                case JoinChannel():
                    self._app_state.subscribe(self, action, now)
                case LeaveChannel(channel):
                    self._app_state.unsubscribe(self, channel, now)
                case ClientEvent(channel):
                    self._app_state.client_event(self, action, self.connection.authorities.get(channel), now)
                case SignIn():
                    self._app_state.sign_in(self, action, now)
                case CloseConnection(code, reason):
                    self.outbox.close(code, reason)
                    self._leave(now)

    def _leave(self, now: float) -> None:
        self._act(self.connection.lost(), now)
        self._app_state.sign_out(self)
        self._app_state.remove(self)


class RefusedSession:
    """A connection that was refused: its close frame is in its outbox, and everything it sends is ignored."""

    __slots__ = ("close", "outbox")

    def __init__(self, close: CloseConnection, protocol: int) -> None:
        self.close = close
        self.outbox = Outbox(_NoOverflow())
        if hears_error(protocol):
            self.outbox.put(control(messages.error(close.reason, close.code)))
        self.outbox.close(close.code, close.reason)

    def arrived(self, size: int, now: float) -> None:
        """Charge nothing."""

    def pause(self, now: float) -> float:
        """Return 0: what it sends costs nothing."""
        return 0.0

    @property
    def busy(self) -> bool:
        """False: it joins nothing."""
        return False

    def proceed(self, now: float) -> None:
        """Do nothing; see `busy`."""

    def leave(self, now: float) -> None:
        """Do nothing; it holds no channel."""

    def receive(self, text: str, now: float) -> None:
        """Ignore the message."""

    def receive_binary(self, now: float) -> None:
        """Ignore the message."""

    def alive(self, now: float) -> None:
        """Ignore the ping or pong."""

    def deadline(self) -> float:
        """Return infinity: the server bounds how long a close takes."""
        return inf

    def timeout(self, now: float) -> None:
        """Do nothing; there is no deadline."""

    def closed(self, now: float) -> None:
        """Do nothing; the hub holds nothing of the connection."""


def _asks_provider(stream: Stream | None) -> bool:
    """Return True if a subscriber of the stream makes the relay subscribe at a provider."""
    return stream is not None and stream.topic.kind != "status"


class _NoOverflow:
    """The OverflowSource of a refused connection, which has no channels."""

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return b""

    def snapshot_frame(self, channel: str) -> Delivery | None:
        return None

    def count_drop(self, channel: str, policy: Policy) -> None:
        pass


class AppState:
    """One app. It is the `OverflowSource` of its subscribers' outboxes."""

    def __init__(self, app: App, shared: Shared) -> None:
        self.app = app
        self.sessions: dict[str, SubscriberSession] = {}
        """Open connections by socket id."""
        self.channels: dict[str, Channel] = {}
        """Occupied channels by name."""
        self.users = Users()
        self.counts = SubscriptionCounts()
        self.new_connections = TokenBucket(app.limits.connections_per_second)
        self.topics: dict[str, TopicState] = {}
        """Topics of the app's own channels, occupied or not."""
        self.streams = 0
        """Number of occupied channels that need a provider's subscription."""
        self._shared = shared
        self._idle: IdleTopics[str] = IdleTopics(shared.history)
        self._pending: dict[str, SubscriberSession] = {}
        """Connections that are not authorized yet, oldest first, if the app requires authorization."""

    def replace(self, app: App) -> None:
        """Take over changed settings, for open connections too."""
        self.app = app
        self.new_connections.rate = app.limits.connections_per_second
        for session in self.sessions.values():
            session.connection.app = app

    @property
    def _prices(self) -> RequestPrices:
        return self._shared.budgets.prices

    # Connections -----------------------------------------------------------------------------------------------------

    @property
    def counted(self) -> int:
        """Number of connections that count for `max_connections`: all, or the authorized ones if that is required."""
        return len(self.sessions) - len(self._pending)

    def add(self, session: SubscriberSession) -> None:
        """Add a new connection."""
        self.sessions[session.socket_id] = session
        if self.app.authorization_timeout is not None:
            self._pending[session.socket_id] = session

    def remove(self, session: SubscriberSession) -> None:
        """Remove a connection that has ended."""
        self.sessions.pop(session.socket_id, None)
        self._pending.pop(session.socket_id, None)

    def bound_unauthorized(self, now: float) -> None:
        """Close the oldest unauthorized connection if there are too many: a normal client is authorized soon."""
        if len(self._pending) > self.app.max_unauthorized:
            self._shared.budgets.counts["max_unauthorized", "closed"] += 1
            code = PusherCloseCode.OVER_CAPACITY
            reason = f"{code.meaning}: too many connections are not authorized (limit max_unauthorized)"
            self._pending.pop(next(iter(self._pending))).end(code, reason, now)

    def _admit(self, session: SubscriberSession, now: float, *, joining: str = "") -> bool:
        """Count a connection that is authorized now; return False if it was closed because of `max_connections`."""
        if session.connection.authorized and session.socket_id in self._pending:
            most = self.app.max_connections
            if most is not None and self.counted >= most:
                session.connection.forget(joining)
                session.end(PusherCloseCode.OVER_QUOTA, PusherCloseCode.OVER_QUOTA.meaning, now)
                return False
            del self._pending[session.socket_id]
        return True

    def subscribe(self, session: SubscriberSession, request: JoinChannel, now: float, *, waited: bool = False) -> None:
        """Add the connection to a channel, or refuse it with `subscription_error`.

        Where this relay may be behind the one at which the subscriber was before, it waits for that first.
        """
        while session.joining is not None:  # finish the previous catch-up first
            session.proceed(now)
        name, channel = request.channel, self.channels.get(request.channel)
        if not waited:
            session.spending.spend(self._prices.subscribe, now)
        if self._pending and not self._admit(session, now, joining=name):
            return
        try:
            if (limit := self._shared.full()) is not None:
                self._shared.budgets.counts[limit, "refused"] += 1
                raise ProtocolError(f"the relay is short of memory (limit {limit})", status=503)
            if request.authority is not None and (reason := self._unauthorized(name, request.authority)) is not None:
                raise ProtocolError(reason, status=401)
            if channel is None:
                channel = Channel(name, self._topic(name, now), coalesces=self._shared.coalesces)
            self._check_capacity(channel, request.member)
            self._check_streams(session, channel)
        except ProtocolError as refusal:
            session.refuse(name, refusal)
            if channel is not None and not len(channel):
                self._settle(name, channel.topic)
            return
        if not waited and (is_read := channel.topic.read_first(request.resume)) is not None:
            session.hold(request, is_read, now)
            if not len(channel):
                self._settle(name, channel.topic)
            return
        first = not len(channel)
        asks = _asks_provider(channel.topic.stream)
        session.streams += asks
        if first:
            self.channels[name] = channel
            self.streams += asks
            channel.topic.attach(channel)
            self._idle.remove(name)
            self._occupied(channel)
        member = request.member if channel.presence is not None else None
        added = member is not None and channel.presence is not None and channel.presence.join(session.socket_id, member)
        self._greet(session, channel, request, now)
        if added and member is not None:
            session.spending.spend(self._prices.recipient * len(channel), now)
            self._member_joined(session, channel, member)
        self._update_count(session, channel, now)
        if channel.topic.stream is None:
            return
        if first:
            self._shared.streams.add_channel(channel.topic.stream, session.asker)
        else:
            self._shared.streams.add_subscriber(channel.topic.stream, session.asker)

    def unsubscribe(self, session: SubscriberSession, name: str, now: float) -> None:
        """Remove the connection from a channel it is subscribed to."""
        if session.give_up(name):
            return
        channel = self.channels[name]
        asks = _asks_provider(channel.topic.stream)
        session.streams -= asks
        channel.remove(session.socket_id)
        if session.joining is not None and session.joining.channel == name:
            session.joining.leave()
            session.joining = None
        session.outbox.discard(name)
        session.spending.spend(self._prices.unsubscribe, now)
        user_id = channel.presence.leave(session.socket_id) if channel.presence is not None else None
        if user_id is not None:
            session.spending.spend(self._prices.recipient * len(channel), now)
            self._member_left(channel, user_id)
        self._update_count(session, channel, now)
        if len(channel):
            return
        del self.channels[name]
        self.streams -= asks
        self.counts.forget(name)
        channel.topic.detach(channel, now)
        self._vacated(channel)
        if channel.topic.stream is not None:
            self._shared.streams.remove_channel(channel.topic.stream)
        else:
            self._settle(name, channel.topic)

    def client_event(
        self, session: SubscriberSession, event: ClientEvent, authority: Authority | None, now: float
    ) -> None:
        """Send a client's event to the channel's other subscribers. It has no sequence number and is not stored.

        A command on an account's channel is executed instead. `authority` is the authorization of the sender's subscription.
        """
        channel = self.channels[event.channel]
        stream = channel.topic.stream
        session.spending.spend(self._prices.client_event + self._prices.recipient * len(channel), now)
        if event.event == COMMAND and stream is not None and stream.topic.kind == "account":
            self._command(session, event, stream, authority)
            return
        self._send_on(session, channel, event)

    def _command(
        self, session: SubscriberSession, event: ClientEvent, stream: Stream, authority: Authority | None
    ) -> None:
        answer = self._shared.on_command(
            ClientCommand(
                stream=stream,
                channel=event.channel,
                socket_id=session.socket_id,
                key=None if authority is None else authority.key,
                digest=None if authority is None else authority.digest,
                data=event.data,
            )
        )
        if answer is not None:
            self._answer(session, event.channel, answer)

    def answer_command(self, sent: ClientCommand, answer: Rejected | Repeated) -> None:
        """Send the answer to a command that was answered asynchronously, if its sender is still connected."""
        session = self.sessions.get(sent.socket_id)
        if session is not None and sent.channel in self.channels:
            self._answer(session, sent.channel, answer)

    @staticmethod
    def _answer(session: SubscriberSession, channel: str, answer: Rejected | Repeated) -> None:
        match answer:
            case Rejected(message, id, reason, field):
                told = {"channel": channel, "id": id, "reason": reason, "field": field}
                session.send(messages.error(f"{COMMAND}: {message}", PusherCloseCode.COMMAND_REFUSED, told))
            case Repeated(reply):
                session.send(messages.event(channel, "reply", reply))

    def sign_in(self, session: SubscriberSession, user: SignIn, now: float) -> None:
        """Assign the connection to a user, and notify it and the user's watchers of who is online."""
        session.spending.spend(self._prices.sign_in, now)
        if self._pending and not self._admit(session, now):
            return
        came_online = self.users.sign_in(session.socket_id, user.user_id, user.watchlist)
        if online := self._online(user.watchlist):
            session.send(messages.watchlist_events([("online", online)]))
        if came_online:
            self._came_online(session, user.user_id)

    def sign_out(self, session: SubscriberSession) -> None:
        """Remove an ending connection from its user, if it was signed in."""
        offline = self.users.sign_out(session.socket_id)
        if offline is not None:
            self._went_offline(session, offline)

    def _notify_watchers(self, name: Literal["online", "offline"], user_id: str, but: Collection[str] = ()) -> None:
        text = messages.watchlist_events([(name, [user_id])])
        for socket_id in self.users.watchers(user_id):
            if socket_id not in but:
                self.sessions[socket_id].send(text)

    def terminate(self, user_id: str, now: float, done: Told) -> None:
        """Close all connections that are signed in as the user, with 4009."""
        for socket_id in self.users.connections(user_id):
            self.sessions[socket_id].end(PusherCloseCode.UNAUTHORIZED, "Connection terminated by the app", now)
        done(None)

    # Notifications of others; overridden where several relays share an app --------------------------------------------

    def _occupied(self, channel: Channel) -> None:
        """Notify the app's server of a channel's first subscriber."""
        self._notify_server("channel_occupied", channel.name)

    def _vacated(self, channel: Channel) -> None:
        """Notify the app's server that a channel has lost its last subscriber."""
        self._notify_server("channel_vacated", channel.name)

    def _member_joined(self, session: SubscriberSession, channel: Channel, member: PresenceMember) -> None:
        """Notify members and the app's server of a user whose first connection has joined a presence channel."""
        channel.send(messages.member_added(channel.name, member), but=(session.socket_id,))
        self._notify_server("member_added", channel.name, user_id=member.user_id)

    def _member_left(self, channel: Channel, user_id: str) -> None:
        """Notify members and the app's server of a user whose last connection has left a presence channel."""
        channel.send(messages.member_removed(channel.name, user_id))
        self._notify_server("member_removed", channel.name, user_id=user_id)

    def _send_on(self, session: SubscriberSession, channel: Channel, event: ClientEvent) -> None:
        """Send a client's event to the channel's other subscribers."""
        text = messages.event(event.channel, event.event, event.data, user_id=event.user_id)
        channel.send(text, Policy.NEVER_DROP, but=(session.socket_id,))
        self._notify_client_event(channel.name, event.event, event.data, session.socket_id, event.user_id)

    def _notify_client_event(self, channel: str, event: str, data: str, socket_id: str, user_id: str | None) -> None:
        """Notify the app's server of a client event, whichever node it was sent to."""
        details = {"event": event, "data": data, "socket_id": socket_id, "user_id": user_id}
        AppState._notify_server(self, "client_event", channel, **details)

    def _came_online(self, session: SubscriberSession, user_id: str) -> None:
        """Notify the watchers of a user whose first connection has signed in."""
        self._notify_watchers("online", user_id, but=(session.socket_id,))

    def _went_offline(self, session: SubscriberSession, user_id: str) -> None:
        """Notify the watchers of a user whose last connection has ended."""
        self._notify_watchers("offline", user_id, but=(session.socket_id,))

    def _online(self, user_ids: Iterable[str]) -> Sequence[str]:
        """Return those of the users who are online."""
        return self.users.online(user_ids)

    def _cache_missed(self, channel: Channel) -> None:
        """Notify the app's server of a cache channel without a cached event for a new subscriber; once per miss."""
        if not channel.miss_reported:
            channel.miss_reported = True
            self._notify_server("cache_miss", channel.name)

    def _members(self, channel: Channel, own: PresenceMember | None) -> Collection[PresenceMember]:
        """Return the members of a presence channel, `own` among them."""
        assert channel.presence is not None
        return channel.presence

    def _is_member(self, channel: Channel, user_id: str) -> bool:
        return channel.presence is not None and user_id in channel.presence

    def _count(self, name: str) -> int:
        """Return the number of a channel's subscribers."""
        channel = self.channels.get(name)
        return 0 if channel is None else len(channel)

    def send_away(self, topic: TopicState, reason: str, now: float) -> None:
        """Close the subscribers of a topic with 4200."""
        for channel in [channel for channel in self.channels.values() if channel.topic is topic]:
            for socket_id in channel.socket_ids():
                if (session := self.sessions.get(socket_id)) is not None:
                    session.end(PusherCloseCode.RECONNECT, reason, now)

    def recheck(self, now: float) -> None:
        """End subscriptions and sign-ins that the keys and secrets of a reloaded configuration do not allow.

        A subscription ends with `pusher:subscription_error` and the reason; a connection whose user's sign-in is not valid
        any more is closed with 4009.
        """
        for session in list(self.sessions.values()):
            connection = session.connection
            if connection.user_secret not in (None, *self.app.secrets):
                session.end(
                    PusherCloseCode.UNAUTHORIZED, "the secret that signed the user in is not valid any more", now
                )
                continue
            for name, authority in list(connection.authorities.items()):
                if (reason := self._unauthorized(name, authority)) is not None:
                    self.unsubscribe(session, name, now)
                    session.refuse(name, ProtocolError(reason, status=401))

    def _unauthorized(self, name: str, authority: Authority) -> str | None:
        """Return why this authorization does not allow the channel any more; None if it does."""
        if authority.secret not in self.app.secrets:
            return "the app's secret that signed this subscription is not valid any more"
        if authority.key is None:
            return self.closed_account(name)
        if self._shared.keys.digest_of(authority.key) != authority.digest:
            return f"API key {authority.key} is not valid any more"
        return self._shared.keys.refusal(authority.key, name, self.app.id)

    def closed_account(self, name: str) -> str | None:
        """Return why the app's secret alone does not allow this channel; None if it does."""
        account = account_of(name)
        if account is None or self.app.may_read_account(*account):
            return None
        return (
            f"{name} needs the relay's own authorization: POST /api/v2/ws/auth with an API key that may read the account "
            "(or accounts = [...] of the app lets its secret read it)"
        )

    # The app's own events --------------------------------------------------------------------------------------------

    def trigger(self, events: Iterable[Trigger], now: float, done: Told) -> None:
        """Publish events of the app, all or none, and call `done`.

        Raises:
            ProtocolError: 403, and nothing is sent, because a channel belongs to a stream of the relay.
        """
        events = tuple(events)
        for event in events:
            for channel in event.channels:
                if claims_stream(channel):
                    raise ProtocolError(
                        f"channel {channel} carries a stream of the relay: apps cannot publish on it", status=403
                    )
        self._publish(events, now, done)

    def _publish(self, events: Sequence[Trigger], now: float, done: Told) -> None:
        for event in events:
            id, head, tail = self._shared.ids(), encode_head(event.name), plain_tail(event.data)
            for channel in event.channels:
                cached = channel_type(channel).cache
                topic = self._topic(channel, now)
                topic.trigger(head, tail, id, now, cached=cached, but=event.socket_id)
                self._settle(channel, topic)
                if cached and channel in self.channels:
                    self.channels[channel].miss_reported = False
        done(None)

    # Queries ---------------------------------------------------------------------------------------------------------

    def state(self, name: str, now: float, *, cache: bool = True) -> ChannelState:
        """Return the state of a channel, occupied or not; the cached event only with `cache`."""
        kind, count = channel_type(name), self._count(name)
        cached, ttl = self._cached(name, self.channels.get(name), now) if cache and kind.cache else (None, inf)
        return ChannelState(
            occupied=count > 0,
            user_count=len(self.user_ids(name)) if kind.presence else 0,
            subscription_count=count,
            cache=None if cached is None else decode_data(cached.tail),
            cache_ttl=None if cached is None or ttl == inf else cached.at + ttl - now,
        )

    def occupied_names(self) -> Collection[str]:
        """Return the names of the channels that have subscribers."""
        return self.channels.keys()

    def user_ids(self, name: str) -> Collection[str]:
        """Return the users on a presence channel; none on any other."""
        channel = self.channels.get(name)
        return () if channel is None or channel.presence is None else [member.user_id for member in channel.presence]

    def _cached(self, name: str, channel: Channel | None, now: float) -> tuple[HistoryEntry | None, float]:
        topic = self._find_topic(name) if channel is None else channel.topic
        if topic is None:
            return None, inf
        ttl = self._ttl(topic)
        values = topic.last_values(now, ttl)
        return (topic.entry(values[-1]) if values else None), ttl

    def read_first(self, name: str, after: ResumePosition, now: float) -> Callable[[], bool] | None:
        """Return a function that returns True once `history` can be asked for what is behind a position; None for now."""
        topic = self._topic(name, now)
        self._settle(name, topic)
        return topic.read_first(after)

    def history(self, name: str, after: ResumePosition | None, limit: int, now: float) -> HistoryPage:
        """Return past events of a channel: those after `after`, or the newest ones.

        Raises:
            Missed: the events after `after` are not stored any more.
            ProtocolError: as for a subscription.
        """
        topic = self._topic(name, now)
        self._settle(name, topic)
        history = topic.history
        entries = history.newest(limit, now) if after is None else history.after(after, now)
        return HistoryPage(history.position, entries[:limit], more=len(entries) > limit)

    def status(self) -> Mapping[str, int]:
        """Return the counters of this app."""
        return {"connections": len(self.sessions), "users": len(self.users)}

    # Slow subscribers (OverflowSource) -------------------------------------------------------------------------------

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        """Return a gap event for one subscriber, with the time of the topic's last event.

        `seq` is the last dropped event's; for depth (where the gap replaces a snapshot and comes last) the topic's newest.
        """
        occupied = self.channels.get(channel)
        if occupied is None or (stream := occupied.topic.stream) is None:
            return b""  # nothing to repair: an app's own events are never dropped, or the channel was left meanwhile
        topic = occupied.topic
        gap = Gap(
            of=topic.kind,
            symbol=stream.topic.symbol,
            timeframe=stream.topic.timeframe,
            from_seq=first_seq,
            to_seq=last_seq,
            refill=Refill.NONE,
            reason="slow_subscriber",
        )
        stamp = Stamp(provider=stream.provider, account=stream.topic.account, received_at=topic.last_received_at)
        seq = topic.seq if topic.kind == "depth" else last_seq
        return occupied.delivery(PublishedEvent(gap, stamp, self._shared.ids()).entry(seq, topic.touched, topic.kind))

    def snapshot_frame(self, channel: str) -> Delivery | None:
        """Return the current book of a depth channel. On a merged channel, all books as several frames in one delivery."""
        occupied = self.channels.get(channel)
        if occupied is None or occupied.topic.stream is None:
            return None
        topic = occupied.topic
        entries = topic.snapshots(self._shared.streams.books(topic), self._shared.ids).finish()
        if not entries:
            return None
        frames = b"".join([occupied.delivery(entry) for entry in entries])
        return Delivery(frames, channel, Policy.SNAPSHOT, topic.seq)

    def count_drop(self, channel: str, policy: Policy) -> None:
        """Count a delivery that was dropped, merged or replaced for a slow subscriber."""
        self._shared.dropped[policy] += 1
        occupied = self.channels.get(channel)
        if occupied is not None:
            occupied.dropped[policy] += 1

    # Time ------------------------------------------------------------------------------------------------------------

    def send_due_counts(self, now: float) -> None:
        """Send the subscription counts that were withheld."""
        for name in self.counts.take_due(now):
            self._send_count(self.channels[name])

    def forget_idle(self, now: float, at_most: int) -> None:
        """Drop idle topics of the app's own channels; check at most `at_most` of them."""
        for name in self._idle.take_expired(now, at_most, self.app.cache_ttl):
            self.topics.pop(name).forget()

    # Parts -----------------------------------------------------------------------------------------------------------

    def _topic(self, name: str, now: float) -> TopicState:
        """Return the topic of a channel name; create it if it does not exist."""
        stream = stream_of(name, self._shared.known, self._shared.is_private)
        if stream is not None:
            return self._shared.streams.topic(stream, now)
        topic = self.topics.get(name)
        if topic is None:
            log = self._shared.new_log(app_key(self.app.id, name))
            topic = self.topics[name] = TopicState(None, self._shared.epochs(), self._shared.history, now, log=log)
        return topic

    def restore(self, name: str, logged: LoggedTopic, ahead: float, now: float) -> None:
        """Restore the topic of a channel that an earlier process stored.

        Applications do not know the `gap` event. Therefore clients can only resume if that process shut down normally and no
        event is missing. Past events and the cached event are restored in any case.
        """
        topic = self._topic(name, now)
        if topic.log is None or topic.seq or topic.channels:
            return
        used = logged.events[-1].seq if logged.complete and logged.events else logged.reserved
        topic.restore(logged, used, ahead, now)
        if not logged.complete:
            topic.begin_epoch(self._shared.epochs())
        kept = topic.history.newest(1, now)
        if kept and channel_type(name).cache:
            topic.last[""] = kept[-1]
        self._settle(name, topic)

    def _settle(self, name: str, topic: TopicState) -> None:
        """Count a topic without a channel as idle, and drop idle topics beyond the limits."""
        if topic.stream is not None:
            self._shared.streams.settle(topic.stream)
            return
        for forgotten in self._idle.put(name, topic):
            if (gone := self.topics.pop(forgotten, None)) is not None:
                gone.forget()

    def _find_topic(self, name: str) -> TopicState | None:
        """Return the topic of a channel name, if it exists."""
        try:
            stream = stream_of(name, self._shared.known, self._shared.is_private)
        except ProtocolError:
            return None
        return self.topics.get(name) if stream is None else self._shared.streams.find(stream)

    def _ttl(self, topic: TopicState) -> float:
        return self.app.cache_ttl if topic.stream is None else inf

    def _check_capacity(self, channel: Channel, member: PresenceMember | None) -> None:
        limit = self.app.limits.presence_members
        if channel.presence is None or member is None or self._is_member(channel, member.user_id):
            return
        if len(self._members(channel, None)) >= limit:
            raise ProtocolError(
                f"the presence channel is full: it has {limit} members (limit presence_members)", status=403
            )

    def _check_streams(self, session: SubscriberSession, channel: Channel) -> None:
        limits = self.app.limits
        if not _asks_provider(channel.topic.stream):
            return
        if session.streams >= limits.streams:
            raise ProtocolError(
                f"this connection is subscribed to {limits.streams} streams already (limit streams)", status=403
            )
        if not len(channel) and self.streams >= limits.occupied_streams:
            text = f"the app's connections use {limits.occupied_streams} streams already (limit occupied_streams)"
            raise ProtocolError(text, status=403)

    def _greet(self, session: SubscriberSession, channel: Channel, request: JoinChannel, now: float) -> None:
        """Send `subscription_succeeded` and the missed events or current values, and make the subscriber live."""
        topic, name = channel.topic, channel.name
        caught_up = catch_up(
            channel, request, lambda: self._shared.streams.books(topic), self._shared.ids, self._ttl(topic), now
        )
        # If events or a state follow, the position is sent after them: a client that disconnects in between would skip them.
        is_first = request.ids and request.resume is None and not caught_up.tells_position
        position = topic.history.position if is_first else None
        put = session.outbox.put
        members = None if channel.presence is None else self._members(channel, request.member)
        if members is None and position is None:
            put(channel.succeeded)
        else:
            put(control(messages.subscription_succeeded(name, members=members, position=position), name))
        if members is not None:
            session.spending.spend(self._prices.member * len(members), now)
        session.joining = Joining(channel, session.socket_id, session.outbox, caught_up, ids=request.ids)
        session.proceed(now)
        if caught_up.cache_missed:
            self._cache_missed(channel)

    def _update_count(self, session: SubscriberSession, channel: Channel, now: float) -> None:
        if not self.app.subscription_count or channel.presence is not None:
            return
        if self.counts.changed(channel.name, len(channel), now):
            session.spending.spend(self._prices.recipient * len(channel), now)
            self._send_count(channel)

    def _send_count(self, channel: Channel) -> None:
        count = self._count(channel.name)
        channel.send(messages.subscription_count(channel.name, count))
        self._notify_server("subscription_count", channel.name, subscription_count=count)

    def _notify_server(self, name: str, channel: str, **details: object) -> None:
        if self.closed_account(channel) is not None:
            return  # the app's server must not learn who reads an account
        event = ChannelEvent(app_id=self.app.id, name=name, channel=channel, **details)  # type: ignore[arg-type]
        self._shared.on_channel_event(event)
