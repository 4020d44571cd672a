"""One app's view of a topic under one name, while it has subscribers: who they are and how an event reaches them."""

from collections import Counter

from relay.hub import encoding as wire
from relay.hub.history import Entry
from relay.hub.outbox import Delivery, Outbox, Policy
from relay.hub.presence import Presence
from relay.hub.topic import TopicState
from relay.pusher import messages
from relay.pusher.actions import Position
from relay.pusher.names import channel_type
from relay.websocket.frames import encode_text


class Channel:
    """A channel with its subscribers. Adding, removing and finding one costs the same however many there are.

    A subscriber is live, or it waits: on a depth channel that has no book yet nothing makes sense before the first snapshot.
    """

    __slots__ = (
        "_ids",
        "_live",
        "_middle",
        "_waiting",
        "dropped",
        "name",
        "presence",
        "told_miss",
        "topic",
        "type",
        "welcome",
    )

    def __init__(self, name: str, topic: TopicState) -> None:
        self.name = name
        self.topic = topic
        self.type = channel_type(name)
        self.presence = Presence() if self.type.presence else None
        self.dropped: Counter[Policy] = Counter()
        """Deliveries that slow subscribers did not get as they were."""
        self.told_miss = False
        """The app's server was told of a cache miss and nothing has come since."""
        self.welcome = Delivery(encode_text(messages.subscription_succeeded(name).encode()), name, Policy.CONTROL, 0)
        """That the subscription holds, where there is nothing more to say; the same for everybody."""
        self._middle = wire.middle(name)
        self._live: dict[str, Outbox] = {}
        self._ids: dict[str, Outbox] = {}
        self._waiting: dict[str, Outbox] = {}

    def __len__(self) -> int:
        """Subscribers."""
        return len(self._live) + len(self._ids) + len(self._waiting)

    def __contains__(self, socket_id: str) -> bool:
        return socket_id in self._live or socket_id in self._ids or socket_id in self._waiting

    def add(self, socket_id: str, outbox: Outbox, *, ids: bool = False, waits: bool = False) -> None:
        """Add a subscriber. Canonical events have `id` and `seq` in their data; others get them beside it where `ids`."""
        if waits:
            self._waiting[socket_id] = outbox
        elif ids and self.topic.stream is None:
            self._ids[socket_id] = outbox
        else:
            self._live[socket_id] = outbox

    def remove(self, socket_id: str) -> None:
        """Remove a subscriber."""
        for subscribers in (self._live, self._ids, self._waiting):
            subscribers.pop(socket_id, None)

    def wake(self) -> None:
        """A snapshot is about to be delivered: whoever waits for it is live."""
        if self._waiting:
            self._live.update(self._waiting)
            self._waiting.clear()

    def deliver(self, entry: Entry, but: str | None = None) -> None:
        """An event of the topic, to all live subscribers except the connection `but`."""
        if self._live:
            delivery = self.delivery(entry)
            if but is None:
                for outbox in self._live.values():  # `put`, written out: this is the hot path
                    append = outbox.append  # a call through a slot is slow, an attribute in a slot is not
                    append(delivery)
                    if not outbox.dirty:
                        outbox.mark()
            else:
                _deliver(self._live, delivery, but)
        if self._ids:
            _deliver(self._ids, self.delivery(entry, ids=True), but)
            if but in self._ids:  # so that it is not given its own event when it comes back
                self._ids[but].put(Delivery(self._position(entry.seq), self.name, entry.policy, entry.seq))

    def tell(self, text: str, policy: Policy = Policy.CONTROL, but: str | None = None) -> None:
        """A message without a number (members, counts, client events), to every subscriber except `but`."""
        delivery = Delivery(encode_text(text.encode()), self.name, policy, 0)
        for subscribers in (self._live, self._ids, self._waiting):
            _deliver(subscribers, delivery, but)

    def delivery(self, entry: Entry, *, ids: bool = False) -> Delivery:
        """The event as it is delivered on this channel.

        An application's event gets `id` and `seq` beside its data where `ids`, and `tickrelay:position` right behind it:
        pusher-js shows a page nothing beside the data, but it shows it that.
        """
        if not ids or self.topic.stream is not None:
            frame = wire.frame(entry.head, self._middle, entry.tail)
        else:
            frame = wire.frame(entry.head, self._middle, wire.with_position(entry.tail, entry.id, entry.seq))
            frame += self._position(entry.seq)
        return Delivery(frame, self.name, entry.policy, entry.seq, entry.conflates)

    def _position(self, seq: int) -> bytes:
        return encode_text(messages.position(self.name, Position(self.topic.ring.epoch, seq)).encode())


def _deliver(subscribers: dict[str, Outbox], delivery: Delivery, but: str | None) -> None:
    for socket_id, outbox in subscribers.items():
        if socket_id != but:
            outbox.put(delivery)
