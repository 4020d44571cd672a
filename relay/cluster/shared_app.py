"""An app on one of several relays. Changes that concern other nodes are sent to the log and applied when read from it.

`SharedApp` overrides the parts of `relay.hub.app.AppState` that differ for several nodes. Subscribers, channels and outboxes
belong to this node. Members, counts of subscribers and the order of events come from the log (`relay.cluster.applications`).
A member is not notified of its own joining or leaving.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from attrs import define, field

from relay.cluster.applications import (
    CONNECTIONS,
    MEMBER,
    SUBSCRIBERS,
    USER,
    WITHIN,
    AppEntry,
    AppEvent,
    AppPosition,
    AppSnapshot,
    AppTotals,
    AppWriter,
    ClientMessage,
    Group,
    Termination,
    key_of,
    member_value,
    names_of,
    pack,
    read_event,
    read_member,
    read_message,
    read_termination,
    totals_of,
    unpublished,
)
from relay.hub.app import AppState, Shared, SubscriberSession, Told
from relay.hub.encoding import HistoryEntry, encode_head, plain_tail
from relay.hub.log import TopicLog
from relay.hub.members import SubscriptionCounts
from relay.hub.outbox import Policy
from relay.hub.topic import Channel
from relay.pusher import messages
from relay.pusher.apps import App
from relay.pusher.http_api import Trigger
from relay.pusher.messages import ClientEvent, PresenceMember, ProtocolError, PusherCloseCode
from relay.pusher.names import channel_type
from relay.store.interface import Done, Loggable, Store

MISSED = "events were missed, reconnect to resume"


class NumberedElsewhere(TopicLog):
    """The log of an application's channel whose events are numbered and stored by Redis."""

    __slots__ = ("_read_on",)

    def __init__(
        self, store: Store, key: str, start: tuple[str, int], read_on: Callable[[], Callable[[], bool]]
    ) -> None:
        super().__init__(store, key)
        self.start = start
        self.append = _nothing
        self._read_on = read_on

    def append_first(self, event: Loggable, then: Done) -> None:
        """Do nothing, because an application's events arrive with their numbers."""

    def read_on(self) -> Callable[[], bool]:
        """Start to read to the current end of the log. Return a function that returns True once that is done."""
        return self._read_on()


def _nothing(event: Loggable) -> None:
    pass


@define(eq=False)
class Applications:
    """All apps on this node.

    Args:
        node: this node's name.
        clock: returns monotonic seconds.
        wake: called when there is something to send.
        refused: returns the reason why nothing can be published at present; empty if publishing works.
    """

    node: str
    clock: Callable[[], float]
    wake: Callable[[], object]
    refused: Callable[[], str]
    writer: AppWriter = field(factory=AppWriter, init=False)
    apps: "dict[str, SharedApp]" = field(factory=dict, init=False)
    totals: dict[str, AppTotals] = field(factory=dict, init=False)
    position: AppPosition = field(default=AppPosition(0, 0), init=False)
    floor: int = field(default=0, init=False)

    @property
    def epoch(self) -> str:
        """The epoch of all channels' numbers."""
        return f"{self.position.life:x}-apps"

    def new_app(self, app: App, shared: Shared) -> "SharedApp":
        """Create the state of an app."""
        self.apps[app.id] = state = SharedApp(app, shared, self)
        return state

    def totals_for(self, app: str) -> AppTotals:
        """Return the totals of an app over all nodes."""
        found = self.totals.get(app)
        if found is None:
            found = self.totals[app] = AppTotals()
        return found

    def start_of(self, app: str, channel: str) -> tuple[str, int]:
        """Return epoch and last number of a channel."""
        return self.epoch, self.totals_for(app).numbers.get(channel, self.floor)

    # --- to the log --------------------------------------------------------------------------------------------------

    def add(self, key: str, value: bytes) -> None:
        """Set the value that this node adds for a key."""
        self.writer.added.set(key, value)
        self.wake()

    def publish(
        self,
        app: App,
        operations: Sequence[Sequence[bytes]],
        told: Told | None,
        *,
        cost: int = 0,
    ) -> None:
        """Publish operations atomically. A `cost` is charged to the app's rate of events."""
        rate = app.limits.events_per_second if cost else None
        group = Group(app.id, operations, self.clock() + WITHIN, told, rate, cost)
        if reason := self.refused():
            group.tell(unpublished(reason))
        else:
            self.writer.put(group)
            self.wake()

    # --- from the log ------------------------------------------------------------------------------------------------

    def apply(self, entry: AppEntry, now: float) -> None:
        """Apply an entry of the log on this node."""
        match entry.kind:
            case "e":
                event = read_event(entry.payload)
                self._take(event, [int(word) for word in entry.words], now)
            case "x":
                message = read_message(entry.payload)
                if (app := self.apps.get(message.app)) is not None:
                    app.client_message(message)
            case "k":
                ended = read_termination(entry.payload)
                if (app := self.apps.get(ended.app)) is not None:
                    app.end_user(ended.user_id, now)
            case "f":
                name, channel = entry.key.split("\n", 1)
                self.floor = int(entry.words[0])
                self.totals_for(name).numbers.pop(channel, None)
            case "w":
                pass
            case _:
                self._count(entry, now)

    def _take(self, event: AppEvent, numbers: Sequence[int], now: float) -> None:
        app, totals = self.apps.get(event.app), self.totals_for(event.app)
        for channel, number in zip(event.channels, numbers, strict=True):
            if app is not None:
                app.take(channel, number, event, now)
            totals.numbers[channel] = number

    def _count(self, entry: AppEntry, now: float) -> None:
        name, *names = names_of(entry.key)
        app, totals = self.apps.get(name), self.totals_for(name)
        match entry.kind:
            case "s":
                (channel,), (total, _, value, node) = names, entry.words
                _set(totals.subscribers, channel, int(total))
                if node == self.node:
                    _set(totals.own, channel, int(value))
                if app is not None:
                    app.counted_anew(channel, now)
            case "+":
                channel, user_id = names
                member = read_member(user_id, entry.payload)
                members = totals.members.setdefault(channel, {})
                if user_id not in members:
                    members[user_id] = member
                    if app is not None:
                        app.tell_joined(channel, member)
            case "-":
                channel, user_id = names
                members = totals.members.get(channel, {})
                if members.pop(user_id, None) is not None and app is not None:
                    app.tell_left(channel, user_id)
                if not members:
                    totals.members.pop(channel, None)
            case "on" if names[0] not in totals.online:
                totals.online.add(names[0])
                if app is not None:
                    app.tell_watchers("online", names[0])
            case "off" if names[0] in totals.online:
                totals.online.discard(names[0])
                if app is not None:
                    app.tell_watchers("offline", names[0])
            case "c":
                _set(totals.connections, entry.words[1], int(entry.words[0]))

    # --- from the state in Redis -------------------------------------------------------------------------------------

    def begin_life(self, life: int, now: float) -> None:
        """Switch to a new life of the log. The numbers of all channels start again in a new epoch."""
        self.position, self.floor = AppPosition(life, 0), 0
        for totals in self.totals.values():
            totals.numbers.clear()
        for app in self.apps.values():
            for topic in app.topics.values():
                topic.go_on_at(self.epoch, 0, now)

    def adopt(
        self, snapshot: AppSnapshot, own: Mapping[str, bytes], now: float, *, hold: bool = False, close: bool = True
    ) -> None:
        """Load the state in Redis, of this life of the log, and notify subscribers of the differences.

        Args:
            own: this node's values in it.
            hold: report no member as left yet, because Redis may have lost values that other nodes will send again.
            close: close the connections of subscribers that have missed events.
        """
        before, self.totals = self.totals, totals_of(snapshot, own)
        self.position, self.floor = snapshot.position, snapshot.floor
        for app_id in before.keys() if hold else ():
            _hold(before[app_id], self.totals_for(app_id))
        for app_id, app in self.apps.items():
            app.adopt(before.get(app_id, AppTotals()), now, close=close)
        for name, (number, at, payload) in snapshot.cached.items():
            app_id, channel = name.split("\n", 1)
            if (found := self.apps.get(app_id)) is not None:
                found.remember(channel, number, read_event(payload), now - (snapshot.at - at) / 1000, now)

    # --- for apps' servers -------------------------------------------------------------------------------------------

    def tell_server(self, entry: AppEntry, now: float) -> None:
        """Notify the app's server of an entry. Only one node, the leader, does this."""
        match entry.kind:
            case "x":
                message = read_message(entry.payload)
                if (app := self.apps.get(message.app)) is not None:
                    app.notify_client_message(message)
            case "s" | "+" | "-" | "w":
                name, *names = entry.key.split("\n", 1) if entry.kind == "w" else names_of(entry.key)
                if (app := self.apps.get(name)) is not None:
                    app.notify(entry, names, now)

    def tell_due_counts(self, now: float) -> None:
        """Notify servers of subscriber counts that were delayed and are now due."""
        for app in self.apps.values():
            app.notify_due_counts(now)


def _set(numbers: dict[str, int], key: str, value: int) -> None:
    if value:
        numbers[key] = value
    else:
        numbers.pop(key, None)


def _hold(before: AppTotals, after: AppTotals) -> None:
    for channel, members in before.members.items():
        after.members[channel] = {**members, **after.members.get(channel, {})}
    after.online |= before.online


def _entry(number: int, event: AppEvent, at: float) -> HistoryEntry:
    return HistoryEntry(number, event.id, at, event.head, event.tail, Policy.NEVER_DROP)


class SharedApp(AppState):
    """One app on one of several nodes."""

    def __init__(self, app: App, shared: Shared, applications: Applications) -> None:
        super().__init__(app, shared)
        self._all = applications
        self._told_counts = SubscriptionCounts()

    @property
    def _totals(self) -> AppTotals:
        return self._all.totals_for(self.app.id)

    # --- connections -------------------------------------------------------------------------------------------------

    @property
    def counted(self) -> int:
        """Number of connections on all nodes, as far as known here, which count towards `max_connections`."""
        others = sum(count for node, count in self._totals.connections.items() if node != self._all.node)
        return super().counted + others

    def add(self, session: SubscriberSession) -> None:
        """Add a new connection."""
        super().add(session)
        self._connections_changed()

    def remove(self, session: SubscriberSession) -> None:
        """Remove a connection that has ended."""
        super().remove(session)
        self._connections_changed()

    def _admit(self, session: SubscriberSession, now: float, *, joining: str = "") -> bool:
        admitted = super()._admit(session, now, joining=joining)
        self._connections_changed()
        return admitted

    def _connections_changed(self) -> None:
        count = super().counted
        self._all.add(key_of(CONNECTIONS, self.app.id), b"%d" % count if count else b"")

    # --- subscribers and members -------------------------------------------------------------------------------------

    def _occupied(self, channel: Channel) -> None:
        """Do nothing. The log shows whether this is the first subscriber on any node."""

    def _vacated(self, channel: Channel) -> None:
        """Do nothing. The log shows whether any node still has a subscriber."""

    def _set_count(self, channel: Channel) -> None:
        count = len(channel)
        self._all.add(key_of(SUBSCRIBERS, self.app.id, channel.name), b"%d" % count if count else b"")

    def _update_count(self, session: SubscriberSession, channel: Channel, now: float) -> None:
        self._set_count(channel)

    def _member_joined(self, session: SubscriberSession, channel: Channel, member: PresenceMember) -> None:
        self._set_count(channel)  # before the member, because a channel is reported as occupied first
        self._all.add(key_of(MEMBER, self.app.id, channel.name, member.user_id), member_value(member))

    def _member_left(self, channel: Channel, user_id: str) -> None:
        self._all.add(key_of(MEMBER, self.app.id, channel.name, user_id), b"")

    def _members(self, channel: Channel, own: PresenceMember | None) -> Collection[PresenceMember]:
        """Return the members known from the log, and `own`. Later ones are sent to the subscriber as they join."""
        members = self._totals.members.get(channel.name, {})
        return [*members.values()] if own is None or own.user_id in members else [*members.values(), own]

    def _is_member(self, channel: Channel, user_id: str) -> bool:
        return super()._is_member(channel, user_id) or user_id in self._totals.members.get(channel.name, {})

    def _count(self, name: str) -> int:
        totals = self._totals
        return max(0, totals.subscribers.get(name, 0) - totals.own.get(name, 0) + super()._count(name))

    def occupied_names(self) -> Collection[str]:
        """Return the names of the channels that have subscribers on any node."""
        return {**self._totals.subscribers, **self.channels}.keys()

    def user_ids(self, name: str) -> Collection[str]:
        """Return the users on a presence channel on all nodes."""
        return dict.fromkeys([*self._totals.members.get(name, {}), *super().user_ids(name)]).keys()

    def counted_anew(self, name: str, now: float) -> None:
        """Send the changed number of a channel's subscribers, if the app has counts enabled and one is due."""
        channel = self.channels.get(name)
        if channel is None or channel.presence is not None or not self.app.subscription_count:
            return
        if self.counts.changed(name, self._count(name), now):
            self._send_count(channel)

    def tell_joined(self, name: str, member: PresenceMember) -> None:
        """Notify this node's subscribers of a channel that a member has joined."""
        self._tell_others(name, member.user_id, messages.member_added(name, member))

    def tell_left(self, name: str, user_id: str) -> None:
        """Notify this node's subscribers of a channel that a member has left."""
        self._tell_others(name, user_id, messages.member_removed(name, user_id))

    def _tell_others(self, name: str, user_id: str, text: str) -> None:
        channel = self.channels.get(name)
        if channel is not None and channel.presence is not None:
            channel.send(text, but=channel.presence.connections(user_id))

    # --- users -------------------------------------------------------------------------------------------------------

    def _came_online(self, session: SubscriberSession, user_id: str) -> None:
        self._all.add(key_of(USER, self.app.id, user_id), b"1")

    def _went_offline(self, session: SubscriberSession, user_id: str) -> None:
        self._all.add(key_of(USER, self.app.id, user_id), b"")

    def _online(self, user_ids: Iterable[str]) -> Sequence[str]:
        online = self._totals.online
        return [user_id for user_id in user_ids if user_id in online]

    def tell_watchers(self, name: Literal["online", "offline"], user_id: str) -> None:
        """Notify this node's watchers of a user that it came online or went offline."""
        self._notify_watchers(name, user_id, but=self.users.connections(user_id))

    def terminate(self, user_id: str, now: float, done: Told) -> None:
        """Close the user's connections on all nodes. Those on this node are closed even if Redis fails."""
        if self._all.refused():
            self.end_user(user_id, now)
        payload = pack(Termination(self.app.id, user_id))
        self._all.publish(self.app, [(b"k", payload)], done)

    def end_user(self, user_id: str, now: float) -> None:
        """Close the user's connections on this node."""
        super().terminate(user_id, now, lambda refusal: None)

    # --- events ------------------------------------------------------------------------------------------------------

    def _publish(self, events: Sequence[Trigger], now: float, done: Told) -> None:
        operations = []
        for event in events:
            head, tail = encode_head(event.name), plain_tail(event.data)
            payload = pack(AppEvent(self.app.id, event.channels, self._shared.ids(), head, tail, event.socket_id))
            names = [
                b"%d%b" % (channel_type(channel).cache, f"{self.app.id}\n{channel}".encode())
                for channel in event.channels
            ]
            operations.append((b"e", b"%d" % len(names), *names, payload))
        self._all.publish(self.app, operations, done, cost=len(events))

    def _send_on(self, session: SubscriberSession, channel: Channel, event: ClientEvent) -> None:
        message = ClientMessage(self.app.id, event.channel, event.event, event.data, session.socket_id, event.user_id)

        def told(refusal: ProtocolError | None) -> None:
            if refusal is not None and session.socket_id in self.sessions:
                details = {"channel": event.channel, "event": event.event}
                session.send(
                    messages.error(f"{event.event}: {refusal.message}", PusherCloseCode.CLIENT_EVENT_LOST, details)
                )

        self._all.publish(self.app, [(b"x", pack(message))], told)

    def _cache_missed(self, channel: Channel) -> None:
        if not channel.miss_reported:
            channel.miss_reported = True
            self._all.publish(self.app, [(b"w", f"{self.app.id}\n{channel.name}".encode())], None)

    def take(self, name: str, number: int, event: AppEvent, now: float) -> None:
        """Store and deliver an event that was read from the log with its number."""
        topic, cached = self._topic(name, now), channel_type(name).cache
        if number > topic.seq:
            topic.take(_entry(number, event, now), cached=cached, but=event.but)
        self._settle(name, topic)
        if cached and name in self.channels:
            self.channels[name].miss_reported = False

    def client_message(self, message: ClientMessage) -> None:
        """Deliver a client event to this node's subscribers of the channel, except its sender."""
        if (channel := self.channels.get(message.channel)) is not None:
            text = messages.event(message.channel, message.event, message.data, user_id=message.user_id)
            channel.send(text, Policy.NEVER_DROP, but=(message.socket_id,))

    # --- what was missed ---------------------------------------------------------------------------------------------

    def adopt(self, before: AppTotals, now: float, *, close: bool) -> None:
        """Notify subscribers of the differences from the totals `before`. With `close`, close those that missed events."""
        totals = self._totals
        for name in [name for name, channel in self.channels.items() if channel.presence is not None]:
            old, new = before.members.get(name, {}), totals.members.get(name, {})
            for user_id in old.keys() - new.keys():
                self.tell_left(name, user_id)
            for user_id in new.keys() - old.keys():
                self.tell_joined(name, new[user_id])
        for name in [name for name in self.channels if before.subscribers.get(name) != totals.subscribers.get(name)]:
            self.counted_anew(name, now)
        for user_id in before.online - totals.online:
            self.tell_watchers("offline", user_id)
        for user_id in totals.online - before.online:
            self.tell_watchers("online", user_id)
        late: set[str] = set()
        for name, topic in self.topics.items():
            number = totals.numbers.get(name, 0)
            if number > topic.seq:
                late.update(*(channel.socket_ids() for channel in topic.channels))
                topic.go_on_at(self._all.epoch, number, now)
        for socket_id in late & self.sessions.keys() if close else ():
            self.sessions[socket_id].end(PusherCloseCode.RECONNECT, MISSED, now)

    def remember(self, name: str, number: int, event: AppEvent, at: float, now: float) -> None:
        """Store a cache channel's last event, unless it is too old or already known."""
        if at + self.app.cache_ttl <= now:
            return
        topic = self._topic(name, now)
        known = topic.last.get("")
        if not isinstance(known, HistoryEntry) or known.id != event.id:
            topic.last[""] = _entry(min(number, topic.seq), event, at)
        self._settle(name, topic)

    # --- for the app's server ----------------------------------------------------------------------------------------

    def _notify_server(self, name: str, channel: str, **details: object) -> None:
        """Do nothing. The leading node notifies the app's server from the log."""

    def notify(self, entry: AppEntry, names: Sequence[str], now: float) -> None:
        """Notify the app's server of a change of a channel."""
        tell, channel = super()._notify_server, names[0]
        match entry.kind:
            case "s":
                total, before = int(entry.words[0]), int(entry.words[1])
                if not before:
                    tell("channel_occupied", channel)
                counts = self.app.subscription_count and not channel_type(channel).presence
                if counts and self._told_counts.changed(channel, total, now):
                    tell("subscription_count", channel, subscription_count=total)
                if not total:
                    self._told_counts.forget(channel)
                    tell("channel_vacated", channel)
            case "+":
                tell("member_added", channel, user_id=names[1])
            case "-":
                tell("member_removed", channel, user_id=names[1])
            case "w":
                tell("cache_miss", channel)

    def notify_client_message(self, message: ClientMessage) -> None:
        """Notify the app's server of a client event."""
        self._notify_client_event(message.channel, message.event, message.data, message.socket_id, message.user_id)

    def notify_due_counts(self, now: float) -> None:
        """Notify the app's server of subscriber counts that were delayed and are now due."""
        for name in self._told_counts.take_due(now):
            super()._notify_server("subscription_count", name, subscription_count=self._totals.subscribers.get(name, 0))
