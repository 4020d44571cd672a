"""What stands for the events that slow subscribers of one app did not get: gap events, and books as they are now."""

from collections import Counter
from collections.abc import Callable, Mapping

from relay.hub.channel import Channel
from relay.hub.outbox import Delivery, Policy
from relay.hub.streams import Streams
from relay.hub.topic import News
from relay.model.enums import Refill
from relay.model.events import Gap, Stamp


class Overflow:
    """The `OverflowSource` of one app's outboxes, and the count of what they dropped."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        streams: Streams,
        ids: Callable[[], str],
        dropped: Counter[Policy],
    ) -> None:
        """`channels` are the app's occupied ones, `ids` names events, `dropped` counts over all channels."""
        self._channels = channels
        self._streams = streams
        self._ids = ids
        self._dropped = dropped

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        """A gap event for one subscriber, with the time of the topic's last event.

        Its own number is that of the last lost event; on a depth channel, where it stands for a snapshot that cannot be
        given and so behind everything else, that of the topic's last event.
        """
        there = self._channels.get(channel)
        if there is None or (stream := there.topic.stream) is None:
            return b""  # an app's own events are never dropped, and a channel that was left needs no repair
        gap = Gap(
            of=stream.topic.kind,
            symbol=stream.topic.symbol,
            timeframe=stream.topic.timeframe,
            from_seq=first_seq,
            to_seq=last_seq,
            refill=Refill.NONE,
            reason="slow_subscriber",
        )
        received_at = there.topic.last_received_at
        stamp = Stamp(provider=stream.provider, account=stream.topic.account, received_at=received_at)
        seq = last_seq if stream.topic.kind != "depth" else there.topic.seq
        return there.delivery(News(gap, stamp, self._ids()).entry(seq, there.topic.touched))

    def snapshot_frame(self, channel: str) -> Delivery | None:
        """The book of a depth channel as it stands; of a merged one all books, several frames in one delivery."""
        there = self._channels.get(channel)
        if there is None or there.topic.stream is None:
            return None
        entries = there.topic.snapshots(self._streams.books(there.topic), self._ids)
        if not entries:
            return None
        frames = b"".join([there.delivery(entry) for entry in entries])
        return Delivery(frames, channel, Policy.SNAPSHOT, there.topic.seq)

    def on_drop(self, channel: str, policy: Policy) -> None:
        """Count a delivery that a slow subscriber did not get as it was."""
        self._dropped[policy] += 1
        there = self._channels.get(channel)
        if there is not None:
            there.dropped[policy] += 1
