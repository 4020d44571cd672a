"""Flush many outboxes at the end of a pass; those with the same deliveries are written together where that is possible.

Subscribers of the same channels got the same deliveries in this pass. They are joined once and written to each socket, or
given to the kernel with the list of the sockets.

Outcomes are reported after all is written, so no outbox changes meanwhile.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from relay.hub.outbox import Delivery, Outbox

_FEW = 4
"""Groups with fewer outboxes are written one by one: the batch call costs more than it saves."""


class BatchSender(Protocol):
    """Writes to many sockets at once; each has a slot (`Outbox.slot`)."""

    def send(self, slots: Sequence[int], data: bytes) -> Mapping[int, int]:
        """Send `data` to the sockets in these slots.

        Returns, by slot, those that did not accept all of it: the number of bytes they accepted, or their error as -errno.
        """
        ...


@attrs.define(eq=False)
class _Group:
    """Outboxes with the same deliveries."""

    deliveries: list[Delivery]
    outboxes: list[Outbox] = attrs.field(factory=list)
    slots: list[int] = attrs.field(factory=list)


@attrs.define(eq=False)
class _JoinLast:
    """Joins deliveries and reuses the last result: subscribers of the same channels have equal ones."""

    deliveries: list[Delivery] = attrs.field(factory=list)
    data: bytes = b""

    def __call__(self, deliveries: list[Delivery]) -> bytes:
        if deliveries != self.deliveries:
            self.deliveries, self.data = deliveries.copy(), b"".join(deliveries)
        return self.data


#: Outboxes to look at (`Outbox.blocked`, `closing`), and the exception of those whose connection is broken.
Unfinished = list[tuple[Outbox, Exception | None]]


def flush_all(outboxes: Iterable[Outbox], batch: BatchSender | None = None) -> Unfinished:
    """Flush all of them; return those that are not done."""
    unfinished: Unfinished = []
    if batch is None:
        _flush_each(outboxes, unfinished)
        return unfinished
    groups: dict[tuple[Delivery, ...], _Group] = {}
    alone: list[Outbox] = []
    group = _Group([])
    for outbox in outboxes:
        if not outbox.dirty:  # flushed out of turn, or listed twice
            continue
        outbox.dirty = False
        slot, pending = outbox.slot, outbox.pending
        if slot < 0 or not pending or outbox.blocked or outbox.closing is not None:
            alone.append(outbox)
            continue
        if pending != group.deliveries:  # seldom: a channel's subscribers follow one another
            key = tuple(pending)
            group = groups.get(key) or groups.setdefault(key, _Group(pending.copy()))
        group.outboxes.append(outbox)
        group.slots.append(slot)
    for group in groups.values():
        if len(group.outboxes) < _FEW:
            alone += group.outboxes
        else:
            _flush_group(group, batch, unfinished)
    _flush_each(alone, unfinished)
    return unfinished


def _flush_each(outboxes: Iterable[Outbox], unfinished: Unfinished) -> None:
    join = _JoinLast()
    for outbox in outboxes:
        try:
            if not outbox.flush(join):
                unfinished.append((outbox, None))
        except Exception as error:  # noqa: BLE001 - one subscriber's failure is reported, the others are served
            unfinished.append((outbox, error))


def _flush_group(group: _Group, batch: BatchSender, unfinished: Unfinished) -> None:
    first, *more = group.deliveries
    data: bytes = b"".join(group.deliveries) if more else first
    try:
        short = batch.send(group.slots, data)
    except Exception as error:  # noqa: BLE001 - who got it is unknown: none gets it twice, all reconnect and resume
        unfinished += [(outbox, error) for outbox in group.outboxes]
        return
    for outbox in group.outboxes:
        if not short or (sent := short.get(outbox.slot)) is None:
            outbox.pending.clear()
        elif sent >= 0:
            outbox.advance(data, sent)
            unfinished.append((outbox, None))
        else:
            unfinished.append((outbox, OSError(-sent, "send")))
