"""A pass' writes: all outboxes that have something to send, those with the same to send together where that can be done.

Subscribers of the same channels got the same deliveries in this pass. Joined once, they are written to each socket, or
given to the kernel with the list of the sockets.

Nobody is told of anything before all is written, so no outbox changes meanwhile.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from relay.hub.outbox import Delivery, Joined, Outbox

_FEW = 4
"""So many outboxes are not worth a call of their own kind."""


class Together(Protocol):
    """Writes to many sockets at once; each has a place (`Outbox.place`)."""

    def send(self, places: Sequence[int], data: bytes) -> Mapping[int, int]:
        """Send `data` to the sockets at these places. Returns those that did not take all of it: how many bytes they took,
        or what is wrong with them as -errno.
        """
        ...


@attrs.define(eq=False)
class _Group:
    """Outboxes with the same deliveries."""

    deliveries: list[Delivery]
    outboxes: list[Outbox] = attrs.field(factory=list)
    places: list[int] = attrs.field(factory=list)


#: Outboxes to look at (`Outbox.blocked`, `closing`), and what was raised where the connection is broken.
Unfinished = list[tuple[Outbox, Exception | None]]


def flush_all(outboxes: Iterable[Outbox], together: Together | None = None) -> Unfinished:
    """Flush all of them."""
    unfinished: Unfinished = []
    if together is None:
        _each(outboxes, unfinished)
        return unfinished
    groups: dict[tuple[Delivery, ...], _Group] = {}
    alone: list[Outbox] = []
    group = _Group([])
    for outbox in outboxes:
        if not outbox.dirty:  # flushed out of turn, or named twice
            continue
        outbox.dirty = False
        place, pending = outbox.place, outbox.pending
        if place < 0 or not pending or outbox.blocked or outbox.closing is not None:
            alone.append(outbox)
            continue
        if pending != group.deliveries:  # seldom: a channel's subscribers stand one after the other
            key = tuple(pending)
            group = groups.get(key) or groups.setdefault(key, _Group(pending.copy()))
        group.outboxes.append(outbox)
        group.places.append(place)
    for group in groups.values():
        if len(group.outboxes) < _FEW:
            alone += group.outboxes
        else:
            _as_one(group, together, unfinished)
    _each(alone, unfinished)
    return unfinished


def _each(outboxes: Iterable[Outbox], unfinished: Unfinished) -> None:
    joined = Joined()
    for outbox in outboxes:
        try:
            if not outbox.flush(joined):
                unfinished.append((outbox, None))
        except Exception as error:  # noqa: BLE001 - one subscriber's failure is told, the others are served
            unfinished.append((outbox, error))


def _as_one(group: _Group, together: Together, unfinished: Unfinished) -> None:
    first, *more = group.deliveries
    data: bytes = b"".join(group.deliveries) if more else first
    try:
        short = together.send(group.places, data)
    except Exception as error:  # noqa: BLE001 - who got it is not known: nobody is given it twice, all come back and resume
        unfinished += [(outbox, error) for outbox in group.outboxes]
        return
    for outbox in group.outboxes:
        if not short or (taken := short.get(outbox.place)) is None:
            outbox.pending.clear()
        elif taken >= 0:
            outbox.took(data, taken)
            unfinished.append((outbox, None))
        else:
            unfinished.append((outbox, OSError(-taken, "send")))
