"""What a new subscriber gets between `subscription_succeeded` and the live events.

1. Resume: what it missed, then `tickrelay:resume_succeeded`, and nothing else: it is where it would be had it never
   left. When what it missed is lost, `tickrelay:resume_failed`, and on as if it had not asked.
2. A depth channel: the book as one snapshot (each provider's, on a merged channel). Without a book it waits for the next
   snapshot, since deltas without one mean nothing.
3. Rewind: the last events, oldest first. A rewind of depth is the book.
   On an account's stream, without a rewind: what is so now, that is its money, open orders and positions, each as the
   event that said it last.
4. A cache channel: the last value (each provider's, on a merged channel), or `pusher:cache_miss`.
5. Where the data are stale: the staleness event that said so. Who rewinds has it among the last events.

The subscriber becomes live in the same breath, so nothing falls in between and nothing comes twice.
"""

from collections.abc import Callable, Iterable, Sequence

from attrs import define, field

from relay.hub.channel import Channel
from relay.hub.depth import Book
from relay.hub.history import Entry, Missed
from relay.hub.outbox import Delivery, Policy
from relay.pusher import messages
from relay.pusher.actions import Subscribe
from relay.websocket.frames import encode_text


@define
class Opening:
    """The deliveries, in order."""

    deliveries: list[Delivery] = field(factory=list)
    waits: bool = False
    """The subscriber is not live before the next snapshot."""
    cache_missed: bool = False


def control(text: str, channel: str = "") -> Delivery:
    """A message of the protocol's own."""
    return Delivery(encode_text(text.encode(errors="replace")), channel, Policy.CONTROL, 0)


def opening(
    channel: Channel,
    request: Subscribe,
    books: Callable[[], Iterable[Book]],
    ids: Callable[[], str],
    ttl: float,
    now: float,
) -> Opening:
    """What the subscriber gets.

    `books` are those of a depth topic, `ids` names new events, `ttl` is a cached event's life in seconds.
    """
    topic, name = channel.topic, channel.name
    told = Opening()

    def give(entries: Sequence[Entry]) -> None:
        told.deliveries += [channel.delivery(entry, ids=request.ids) for entry in entries]

    if request.resume is not None:
        try:
            give(missed := topic.ring.after(request.resume, now))
        except Missed as lost:
            told.deliveries.append(control(messages.resume_failed(name, lost.reason, lost.position), name))
        else:
            told.deliveries.append(control(messages.resume_succeeded(name, topic.position, len(missed)), name))
            return told
    is_depth = topic.stream is not None and topic.stream.topic.kind == "depth"
    if is_depth:
        found = topic.snapshots(books(), ids)
        told.waits = not found
    elif request.rewind is not None:
        found = topic.ring.newest(request.rewind, now)
    elif topic.stream is not None and topic.stream.topic.kind == "account":
        found = topic.values(now)
    else:
        found = ()
    if channel.type.cache and not found and not is_depth:
        found = topic.values(now, ttl)
    give(found)
    if request.ids and found and found[-1].seq < topic.seq:  # these are older than where the topic stands
        told.deliveries.append(control(messages.position(name, topic.position), name))
    if channel.type.cache and not found:
        told.cache_missed = True
        told.deliveries.append(control(messages.cache_miss(name), name))
    if request.rewind is None or is_depth:
        give(topic.warnings())
    return told
