"""Fold the canonical events of a channel into a subscriber's state, and record every rule that they break. Pure.

The rules: numbers never go back, except that a newcomer is first told what stands, under the numbers it came with; no delta
before its snapshot, nor across a gap; no fill twice. What was broken is kept as text in `View.problems`, so that a test
or a soak can say what happened instead of failing in the middle of a message.
"""

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import Factory, define

from relay.pusher.actions import Position


@define(eq=False)
class View:
    """One channel as its subscriber has it.

    Attributes:
        position: the last event seen, None before the first.
        last: the newest event of each kind.
        bids, asks: the book, price -> size, both as numbers; None while there is none.
        held: what is open on the account, by (kind, id): the body of the last event.
        fills: ids of fills, in order.
        kinds: events by kind.
        skipped: numbers that never came: a slow subscriber's conflated quotes, or what `gap` events said was lost.
        lost: resumes that could not be given.
        torn: a delta was missed without a word, so there is no book before the next snapshot: ask for one.
        problems: what broke a rule.
    """

    channel: str
    position: Position | None = None
    last: dict[str, Mapping[str, Any]] = Factory(dict)
    bids: dict[Decimal, Decimal] | None = None
    asks: dict[Decimal, Decimal] | None = None
    held: dict[tuple[str, str], Mapping[str, Any]] = Factory(dict)
    fills: list[str] = Factory(list)
    kinds: Counter[str] = Factory(Counter)
    skipped: int = 0
    lost: int = 0
    torn: bool = False
    problems: list[str] = Factory(list)
    _is_newcomer: bool = True

    def joined(self, position: Position | None, *, resumed: bool) -> None:
        """The subscription holds, or was resumed. Without a resume what is held may be outdated and is forgotten."""
        if not resumed:
            self.forget()
            self.position = position
            self._is_newcomer = True

    def forget(self) -> None:
        """Discard the state after a gap: it may be out of date."""
        self.bids = self.asks = None
        self.torn = False
        self.held.clear()

    def take(self, event: Mapping[str, Any]) -> None:
        """Fold one canonical event in."""
        kind = event["type"]
        self.kinds[kind] += 1
        if self._number(event) and kind == "depth" and not _is_snapshot(event):
            self.torn = True
        match kind:
            case "depth":
                self._depth(event["depth"])
            case "gap":
                self.bids = self.asks = None
            case "trade":
                self._fill(event["trade"]["id"])
            case "order" | "position":
                self._state(kind, event)
        self.last[kind] = event

    def _number(self, event: Mapping[str, Any]) -> int:
        """Count the event; return how many numbers are missing before it."""
        seq = event["seq"]
        if self.position is None:
            return 0
        if seq > self.position.seq:
            self._is_newcomer = False
        elif not self._is_newcomer and not (seq == self.position.seq and _is_snapshot(event)):
            self.problems.append(f"{self.channel}: number {seq} after {self.position.seq}")
        missing: int = max(0, seq - self.position.seq - 1)
        self.skipped += missing
        self.position = Position(self.position.epoch, max(seq, self.position.seq))
        return missing

    def _depth(self, depth: Mapping[str, Any]) -> None:
        if depth["snapshot"]:
            self.bids, self.asks, self.torn = {}, {}, False
        if self.torn:
            self.bids = self.asks = None
            return
        if self.bids is None or self.asks is None:
            self.problems.append(f"{self.channel}: a delta before its snapshot")
            return
        for side, levels in ((self.bids, depth["bids"]), (self.asks, depth["asks"])):
            for price, size in levels:
                if Decimal(size):
                    side[Decimal(price)] = Decimal(size)
                else:
                    side.pop(Decimal(price), None)

    def _fill(self, id: str) -> None:
        if id in self.fills:
            self.problems.append(f"{self.channel}: fill {id} twice")
        self.fills.append(id)

    def _state(self, kind: str, event: Mapping[str, Any]) -> None:
        body = event[kind]
        name = (kind, body["id"])
        ended = {
            "order": event.get("vanished") or body.get("status") in ("FILLED", "CANCELLED", "REJECTED", "EXPIRED"),
            "position": event.get("event") == "POSITION_CLOSED",
        }
        if ended[kind]:
            self.held.pop(name, None)
        else:
            self.held[name] = body

    def open(self, kind: str) -> set[str]:
        """Ids of the orders or positions that are open."""
        return {id for held_kind, id in self.held if held_kind == kind}


def _is_snapshot(event: Mapping[str, Any]) -> bool:
    """A book given anew has the number of the last change it contains."""
    return event["type"] == "depth" and bool(event["depth"]["snapshot"])
