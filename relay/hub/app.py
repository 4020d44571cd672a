"""One app in the hub: its connections, channels and users, and what happens when one of them comes, speaks or goes.

The order in which a new subscriber and the others learn of it:

1. `subscription_succeeded` to the new one, then what `openings` gives it; from here on it is live;
2. `member_added` to the others, where it brings a new user to a presence channel; the app's server is told;
3. `subscription_count` to all;
4. interest in the stream, for its first channel: last, so that what this brings at once finds the subscriber live.

Leaving is the same backwards, and leaves nothing: a channel without subscribers does not exist, only its topic does, for as
long as somebody could come back to it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

from attrs import field, frozen

from relay.hub import encoding as wire
from relay.hub.catch_up import control, opening
from relay.hub.channel import Channel
from relay.hub.history import Entry, HistoryLimits
from relay.hub.names import Known, claims_stream, stream_of
from relay.hub.outbox import Outbox, Policy
from relay.hub.sequence import Interest, Sequencer
from relay.hub.slow_consumer import Overflow
from relay.hub.streams import Streams
from relay.hub.subscription_count import Counts
from relay.hub.sweep import Sweep
from relay.hub.topic import TopicState
from relay.hub.users import Users
from relay.limits import TokenBucket
from relay.model.channels import Stream
from relay.plugins.hookspecs import ChannelEvent
from relay.pusher import messages
from relay.pusher.actions import ClientEvent, Member, Position, SignIn, Subscribe
from relay.pusher.api import ChannelState
from relay.pusher.apps import App
from relay.pusher.errors import ProtocolError
from relay.pusher.names import channel_type
from relay.trading.client_events import COMMAND, ClientCommand, OnCommand, Rejected, Repeated, off


@frozen(kw_only=True)
class Shared:
    """What all apps of one hub have in common."""

    streams: Streams
    interest: Interest
    sequencer: Sequencer
    history: HistoryLimits
    ids: Callable[[], str]
    known: Known
    is_private: Callable[[Stream], bool]
    on_channel_event: Callable[[ChannelEvent], object]
    on_command: OnCommand = off
    dropped: Counter[Policy] = field(factory=Counter)
    """Deliveries that slow subscribers did not get as they were, over all channels."""


@frozen
class HistoryPage:
    """Past events of a channel, oldest first, each as `{"event", "data", "id", "seq"}`."""

    position: Position
    events: Sequence[Mapping[str, object]]
    more: bool
    """The limit cut off newer ones: ask again after the last one's `seq`."""


class Subscriber(Protocol):
    """One connection; `relay.hub.subscriber.SubscriberSession` is one."""

    @property
    def socket_id(self) -> str:
        """Its name in the protocol."""
        ...

    @property
    def outbox(self) -> Outbox:
        """Where everything for it goes."""
        ...

    def tell(self, text: str) -> None:
        """Send a message of the protocol's own."""
        ...

    def refuse(self, channel: str, refusal: ProtocolError) -> None:
        """It may not join the channel."""
        ...

    def live_by(self, app: App) -> None:
        """The app's settings have changed."""
        ...

    def end(self, code: int, reason: str, now: float) -> None:
        """Close it."""
        ...


class AppState:
    """One app."""

    def __init__(self, app: App, shared: Shared, now: float) -> None:
        self.app = app
        self.sessions: dict[str, Subscriber] = {}
        """Open connections by socket id."""
        self.channels: dict[str, Channel] = {}
        """Occupied channels by name."""
        self.users: Users[Subscriber] = Users()
        self.counts: Counts[Channel] = Counts()
        self.newcomers = TokenBucket(app.limits.connections_per_second)
        self.overflow = Overflow(self.channels, shared.streams, shared.ids, shared.dropped)
        """Where its subscribers' outboxes get what stands for what they dropped."""
        self.topics: dict[str, TopicState] = {}
        """Topics of the app's own channels, occupied or not."""
        self._shared = shared
        self._round: Sweep[str] = Sweep()

    def replace(self, app: App) -> None:
        """The app's settings have changed; they count from now on, for open connections too."""
        self.app = app
        self.newcomers.rate = app.limits.connections_per_second
        for session in self.sessions.values():
            session.live_by(app)

    # Connections -----------------------------------------------------------------------------------------------------

    def subscribe(self, session: Subscriber, request: Subscribe, now: float) -> None:
        """Add the connection to a channel, or refuse it with `subscription_error`."""
        name, channel = request.channel, self.channels.get(request.channel)
        try:
            if channel is None:
                channel = Channel(name, self._topic(name, now))
            self._check_room(channel, request.member)
        except ProtocolError as refusal:
            session.refuse(name, refusal)
            return
        first = not len(channel)
        if first:
            self.channels[name] = channel
            channel.topic.attach(channel)
            self._tell_server("channel_occupied", channel)
        member = request.member if channel.presence is not None else None
        added = member is not None and channel.presence is not None and channel.presence.join(session.socket_id, member)
        self._open(session, channel, request, now)
        if added and member is not None:
            channel.tell(messages.member_added(name, member), but=session.socket_id)
            self._tell_server("member_added", channel, user_id=member.user_id)
        self._count(channel, now)
        if first and channel.topic.stream is not None:
            self._shared.interest.join(channel.topic.stream)

    def unsubscribe(self, session: Subscriber, name: str, now: float) -> None:
        """Take the connection from a channel it holds."""
        channel = self.channels[name]
        channel.remove(session.socket_id)
        session.outbox.discard(name)
        user_id = channel.presence.leave(session.socket_id) if channel.presence is not None else None
        if user_id is not None:
            channel.tell(messages.member_removed(name, user_id))
            self._tell_server("member_removed", channel, user_id=user_id)
        self._count(channel, now)
        if len(channel):
            return
        del self.channels[name]
        self.counts.forget(channel)
        channel.topic.detach(channel, now)
        self._tell_server("channel_vacated", channel)
        if channel.topic.stream is not None:
            self._shared.interest.leave(channel.topic.stream)

    def client_event(self, session: Subscriber, event: ClientEvent, member: Member | None) -> None:
        """Pass a client's event to the channel's other subscribers. It has no number and is not kept.

        A command on an account's channel is for the relay alone. ``member`` is who the connection joined the channel as.
        """
        channel = self.channels[event.channel]
        stream = channel.topic.stream
        if event.event == COMMAND and stream is not None and stream.topic.kind == "account":
            self._command(session, event, stream, member)
            return
        text = messages.event(event.channel, event.event, event.data, user_id=event.user_id)
        channel.tell(text, Policy.NEVER_DROP, but=session.socket_id)
        self._tell_server(
            "client_event",
            channel,
            event=event.event,
            data=event.data,
            socket_id=session.socket_id,
            user_id=event.user_id,
        )

    def _command(self, session: Subscriber, event: ClientEvent, stream: Stream, member: Member | None) -> None:
        answer = self._shared.on_command(
            ClientCommand(
                stream=stream,
                channel=event.channel,
                socket_id=session.socket_id,
                user_id=None if member is None else member.user_id,
                user_info=None if member is None else member.user_info,
                data=event.data,
            )
        )
        match answer:
            case Rejected(message):
                session.tell(messages.error(f"{COMMAND}: {message}"))
            case Repeated(reply):
                session.tell(messages.event(event.channel, "reply", reply))

    def sign_in(self, session: Subscriber, user: SignIn) -> None:
        """The connection belongs to a user from now on."""
        came = self.users.sign_in(session, user.user_id, user.watchlist)
        if online := self.users.online(user.watchlist):
            session.tell(messages.watchlist_events([("online", online)]))
        if came:
            text = messages.watchlist_events([("online", [user.user_id])])
            for watcher in self.users.watchers(user.user_id):
                if watcher is not session:
                    watcher.tell(text)

    def sign_out(self, session: Subscriber) -> None:
        """The connection ends; it need not have been signed in."""
        gone = self.users.sign_out(session)
        if gone is not None:
            text = messages.watchlist_events([("offline", [gone])])
            for watcher in self.users.watchers(gone):
                watcher.tell(text)

    # The app's own events --------------------------------------------------------------------------------------------

    def trigger(
        self, channels: Iterable[str], name: str, data: str, *, socket_id: str | None, user_id: str | None, now: float
    ) -> None:
        """Publish an event of the app's. ProtocolError 403, and nothing is sent, where a channel is a stream's."""
        channels = tuple(channels)
        for channel in channels:
            if claims_stream(channel):
                raise ProtocolError(
                    f"channel {channel} carries a stream of the relay: apps cannot publish on it", status=403
                )
        id, head, tail = self._shared.ids(), wire.head(name), wire.plain_tail(data, user_id)
        for channel in channels:
            cached = channel_type(channel).cache
            self._topic(channel, now).post(
                lambda seq: Entry(seq, id, now, head, tail, Policy.NEVER_DROP), cached=cached, but=socket_id
            )
            if cached and channel in self.channels:
                self.channels[channel].told_miss = False

    # Questions -------------------------------------------------------------------------------------------------------

    def state(self, name: str, now: float, *, cache: bool = True) -> ChannelState:
        """What can be told of a channel, occupied or not; the cached event only where `cache`."""
        channel = self.channels.get(name)
        cached, ttl = self._cached(name, channel, now) if cache and channel_type(name).cache else (None, inf)
        return ChannelState(
            occupied=channel is not None,
            user_count=len(channel.presence) if channel is not None and channel.presence is not None else 0,
            subscription_count=len(channel) if channel is not None else 0,
            cache=None if cached is None else wire.data_of(cached.tail),
            cache_ttl=None if cached is None or ttl == inf else cached.at + ttl - now,
        )

    def _cached(self, name: str, channel: Channel | None, now: float) -> tuple[Entry | None, float]:
        topic = self._find_topic(name) if channel is None else channel.topic
        if topic is None:
            return None, inf
        ttl = self._ttl(topic)
        values = topic.values(now, ttl)
        return (values[-1] if values else None), ttl

    def history(self, name: str, after: Position | None, limit: int, now: float) -> HistoryPage:
        """Past events of a channel: those behind `after`, or the newest.

        Raises Missed, and ProtocolError as subscribing does.
        """
        topic = self._topic(name, now)
        entries = topic.ring.newest(limit, now) if after is None else topic.ring.after(after, now)
        events = [
            {"event": wire.name_of(entry.head), "data": wire.data_of(entry.tail), "id": entry.id, "seq": entry.seq}
            for entry in entries[:limit]
        ]
        return HistoryPage(topic.position, events, more=len(entries) > limit)

    def snapshot(self) -> Mapping[str, object]:
        """Counters of this app, per channel where somebody listens."""
        return {
            "connections": len(self.sessions),
            "users": len(self.users),
            "channels": {
                name: {
                    "subscribers": len(channel),
                    "seq": channel.topic.seq,
                    "dropped": {policy.value: dropped for policy, dropped in channel.dropped.items()},
                }
                for name, channel in self.channels.items()
            },
        }

    def _find_topic(self, name: str) -> TopicState | None:
        """The topic behind a channel's name, if there is one now."""
        try:
            stream = stream_of(name, self._shared.known, self._shared.is_private)
        except ProtocolError:
            return None
        return self.topics.get(name) if stream is None else self._shared.streams.find(stream)

    # Time ------------------------------------------------------------------------------------------------------------

    def tell_counts(self, now: float) -> None:
        """Tell the subscription counts that were withheld."""
        for channel in self.counts.due(now):
            self._tell_count(channel)

    def forget_idle(self, now: float, at_most: int) -> None:
        """Drop topics of own channels nobody could ask for any more, among the next `at_most`."""
        for name in self._round.next(self.topics, at_most):
            topic = self.topics.get(name)
            if topic is not None and topic.is_idle(now, self.app.cache_ttl):
                del self.topics[name]

    # Parts -----------------------------------------------------------------------------------------------------------

    def _topic(self, name: str, now: float) -> TopicState:
        stream = stream_of(name, self._shared.known, self._shared.is_private)
        if stream is not None:
            return self._shared.streams.topic(stream, now)
        topic = self.topics.get(name)
        if topic is None:
            numbering = self._shared.sequencer.open(f"{self.app.id}:{name}")
            topic = self.topics[name] = TopicState(None, numbering, self._shared.history, now)
        return topic

    def _ttl(self, topic: TopicState) -> float:
        return self.app.cache_ttl if topic.stream is None else inf

    def _check_room(self, channel: Channel, member: Member | None) -> None:
        presence, limit = channel.presence, self.app.limits.presence_members
        if presence is None or member is None or member.user_id in presence:
            return
        if len(presence) >= limit:
            raise ProtocolError(f"presence channel has {limit} members (limit presence_members)", status=403)

    def _open(self, session: Subscriber, channel: Channel, request: Subscribe, now: float) -> None:
        topic, name = channel.topic, channel.name
        # Who resumes learns the position behind what it missed; before that it would skip it if it were cut off again.
        position = topic.position if request.ids and request.resume is None else None
        put = session.outbox.put
        if channel.presence is None and position is None:
            put(channel.welcome)
        else:
            put(control(messages.subscription_succeeded(name, members=channel.presence, position=position), name))
        told = opening(
            channel, request, lambda: self._shared.streams.books(topic), self._shared.ids, self._ttl(topic), now
        )
        for delivery in told.deliveries:
            put(delivery)
        channel.add(session.socket_id, session.outbox, ids=request.ids, waits=told.waits)
        if told.cache_missed and not channel.told_miss:
            channel.told_miss = True
            self._tell_server("cache_miss", channel)

    def _count(self, channel: Channel, now: float) -> None:
        if self.app.subscription_count and channel.presence is None and self.counts.changed(channel, len(channel), now):
            self._tell_count(channel)

    def _tell_count(self, channel: Channel) -> None:
        channel.tell(messages.subscription_count(channel.name, len(channel)))
        self._tell_server("subscription_count", channel, subscription_count=len(channel))

    def _tell_server(self, name: str, channel: Channel, **details: object) -> None:
        event = ChannelEvent(app_id=self.app.id, name=name, channel=channel.name, **details)  # type: ignore[arg-type]
        self._shared.on_channel_event(event)
