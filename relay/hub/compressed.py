"""The outbox of a subscriber whose connection is compressed (permessage-deflate).

It is given the plain delivery, as every outbox is, and keeps its compressed twin, which the subscribers of a channel share.
So nothing is compressed unless somebody gets it that way, and what follows (order, joining, policies, limits) is every
outbox' own.
"""

from collections.abc import Callable

from relay.hub.outbox import Delivery, Outbox, OutboxLimits, OverflowSource, Policy
from relay.websocket.frames import compressed


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
        append = self.append

        def append_twin(delivery: Delivery) -> None:
            append(delivery.twin or delivery.compressed())  # mostly there already: no call

        self.append = append_twin


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
