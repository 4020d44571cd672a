"""The outbox of a subscriber whose connection is compressed (permessage-deflate).

What is put is the plain delivery, as for everybody; what leaves, waits and is counted is its compressed twin, which the
subscribers of a channel share. So nothing is compressed unless somebody gets it that way, and policies, order and limits are
those of every outbox.
"""

from collections.abc import Callable

from relay.hub.outbox import Delivery, Joined, Outbox, OutboxLimits, OverflowSource, Policy
from relay.pusher.frames import compressed


class CompressedOutbox(Outbox):
    """See Outbox."""

    __slots__ = ()

    def __init__(
        self,
        source: OverflowSource,
        limits: OutboxLimits | None = None,
        on_drop: Callable[[str, Policy], object] | None = None,
    ) -> None:
        """See Outbox; `source` gives plain frames."""
        super().__init__(_CompressedSource(source), limits, on_drop)

    def flush(self, joined: Joined | None = None) -> bool:
        """See Outbox."""
        pending = self._pending
        if len(pending) == 1:
            (delivery,) = pending
            pending[0] = delivery.twin or delivery.compressed()  # mostly there already: no call
        else:
            self._compress()
        return Outbox.flush(self, joined)

    def drain(self) -> bool:
        """See Outbox."""
        self._compress()
        return super().drain()

    def _compress(self) -> None:
        self._pending[:] = [delivery.twin or delivery.compressed() for delivery in self._pending]


class _CompressedSource:
    """What another source gives, compressed."""

    __slots__ = ("_source",)

    def __init__(self, source: OverflowSource) -> None:
        self._source = source

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return compressed(self._source.gap_frame(channel, first_seq, last_seq))

    def snapshot_frame(self, channel: str) -> Delivery | None:
        snapshot = self._source.snapshot_frame(channel)
        return None if snapshot is None else snapshot.compressed()
