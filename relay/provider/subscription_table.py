"""The subscription table: what is wanted from a provider, and how far each subscription has come.

A topic is WANTED until a request for it is written, QUEUED while that request waits for its budget, PENDING once it was
sent, CONFIRMED by the provider's acknowledgement or by the first data (providers without acknowledgements exist), or
REFUSED with the provider's reason, which stays visible. When nobody needs a topic it lingers, so that a page being
reloaded costs the provider nothing, and is then unsubscribed. When the connection is lost everything still wanted,
refused topics included, is WANTED again: the next connection replays the original requests, in their order.

A session may have thousands of topics, and is asked after every message what is to be done. So the topics that wait for
something are found without looking at all of them.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import inf
from typing import Any

from attrs import define

from relay.model.channels import Topic
from relay.model.events import ACCOUNT_KINDS, Event

#: What identifies a topic on the path of a message: cheaper to build and hash than a `Topic`.
Key = tuple[str | None, ...]

#: A request without an answer is repeated this often before it is reported and left pending.
MAX_ASKS = 3


def topic_key(topic: Topic) -> Key:
    """The key under which data of ``topic`` arrives."""
    if topic.kind == "candle":
        return (topic.kind, topic.symbol, topic.timeframe)
    return (topic.kind, topic.account if topic.kind == "account" else topic.symbol)


def event_key(event: Event, account: str | None) -> Key:
    """The key of the topic ``event`` belongs to; ``account`` is the session's own."""
    kind = event.kind
    if kind in ACCOUNT_KINDS:
        return ("account", getattr(event, "account", None) or account)
    if kind == "candle":
        return (kind, event.symbol, event.timeframe)  # type: ignore[attr-defined]
    return (kind, getattr(event, "symbol", None))


class SubscriptionState(enum.Enum):
    """State of a subscription."""

    WANTED = "wanted"
    QUEUED = "queued"
    PENDING = "pending"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


@define(eq=False)
class Entry:
    """One wanted topic. Times are monotonic seconds.

    Attributes:
        asks: requests sent for this subscription, on this connection.
        asked_at: when the last of them was sent.
        leave_at: when it is to be unsubscribed; None while somebody needs it.
        reason: why it was refused, or why it is still not confirmed.
        flowed: whether data has ever come for it.
    """

    topic: Topic
    standing: SubscriptionState = SubscriptionState.WANTED
    asks: int = 0
    asked_at: float | None = None
    leave_at: float | None = None
    reason: str | None = None
    flowed: bool = False


class SubscriptionTable:
    """The topics of one session.

    Args:
        per_frame: how many topics one request may carry.
        linger: seconds a topic nobody needs is kept subscribed.
        ack_within: seconds for an acknowledgement; None when the provider sends none.
    """

    def __init__(self, *, per_frame: int, linger: float, ack_within: float | None) -> None:
        self._per_frame = per_frame
        self._linger = linger
        self._ack_within = ack_within
        self._entries: dict[Key, Entry] = {}
        self._leaving: dict[Key, Topic] = {}
        self._left: set[Key] = set()
        self._standing: dict[SubscriptionState, dict[Key, Entry]] = {standing: {} for standing in SubscriptionState}
        self._lingering: dict[Key, Entry] = {}
        #: No acknowledgement is overdue before this; it is looked for anew when it comes.
        self._ack_at = inf
        #: The entry of a key, None when its topic is not wanted.
        self.find: Callable[[Key], Entry | None] = self._entries.get

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def want(self, topic: Topic) -> None:
        """Somebody needs ``topic``."""
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(topic)
            self._stand(key, entry, SubscriptionState.WANTED)
        elif entry.standing is SubscriptionState.REFUSED and entry.leave_at is not None:
            self._stand(key, entry, SubscriptionState.WANTED)
        entry.leave_at = None
        self._lingering.pop(key, None)

    def _stand(self, key: Key, entry: Entry, standing: SubscriptionState) -> None:
        self._standing[entry.standing].pop(key, None)
        self._standing[standing][key] = entry
        entry.standing = standing

    def unwant(self, topic: Topic, now: float) -> None:
        """Nobody needs ``topic``; it is kept for the linger."""
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is not None:
            entry.leave_at = now + self._linger
            self._lingering[key] = entry

    def expire(self, now: float) -> list[Topic]:
        """Let go of what has lingered long enough; return those topics."""
        gone = [(key, entry) for key, entry in self._lingering.items() if _leave_at(entry) <= now]
        for key, entry in gone:
            del self._entries[key], self._lingering[key], self._standing[entry.standing][key]
            if entry.standing in (SubscriptionState.QUEUED, SubscriptionState.PENDING, SubscriptionState.CONFIRMED):
                self._leaving[key] = entry.topic
        return [entry.topic for _, entry in gone]

    def take_to_subscribe(self) -> tuple[Topic, ...]:
        """Mark the next batch as QUEUED and return it, in the order the topics were wanted.

        What is yet to be unsubscribed waits for that, or the unsubscribe would end the new subscription.
        """
        wanted = self._standing[SubscriptionState.WANTED].items()
        batch = list(islice((each for each in wanted if each[0] not in self._leaving), self._per_frame))
        for key, entry in batch:
            self._stand(key, entry, SubscriptionState.QUEUED)
        return tuple(entry.topic for _, entry in batch)

    def take_to_unsubscribe(self) -> tuple[Topic, ...]:
        """Return the next batch to be unsubscribed, and forget it."""
        keys = list(self._leaving)[: self._per_frame]
        self._left.update(keys)
        return tuple(self._leaving.pop(key) for key in keys)

    def sent(self, topics: Iterable[Topic], now: float) -> None:
        """The request for these topics was sent."""
        for key, entry in self._found(topics):
            if entry.standing is SubscriptionState.QUEUED:
                self._stand(key, entry, SubscriptionState.PENDING)
                entry.asked_at = now
                entry.asks += 1
                self._ack_at = min(self._ack_at, self._ack_due(entry))

    def confirmed(self, topics: Iterable[Topic]) -> list[Entry]:
        """The provider acknowledged these topics; return those that were not confirmed before."""
        fresh = [
            (key, entry) for key, entry in self._asked_for(topics) if entry.standing is not SubscriptionState.CONFIRMED
        ]
        for key, entry in fresh:
            self._stand(key, entry, SubscriptionState.CONFIRMED)
            entry.reason = None
        return [entry for _, entry in fresh]

    def refused(self, topics: Iterable[Topic], reason: str) -> list[Entry]:
        """The provider refused these topics; they are not asked for again on this connection."""
        refused = self._asked_for(topics)
        for key, entry in refused:
            self._stand(key, entry, SubscriptionState.REFUSED)
            entry.reason = reason
        return [entry for _, entry in refused]

    def _asked_for(self, topics: Iterable[Topic]) -> list[tuple[Key, Entry]]:
        """Those an answer can concern: what was not asked for yet had been before, and that subscription is to end first."""
        return [
            (key, entry)
            for key, entry in self._found(topics)
            if entry.asks or entry.standing is not SubscriptionState.WANTED
        ]

    def ended(self, topics: Iterable[Topic]) -> None:
        """The provider says that these are no longer subscribed: our own doing, or else they are asked for again."""
        for topic in topics:
            key = topic_key(topic)
            entry = self._entries.get(key)
            if key in self._left:
                self._left.discard(key)
            elif entry is not None and entry.standing in (SubscriptionState.PENDING, SubscriptionState.CONFIRMED):
                self._stand(key, entry, SubscriptionState.WANTED)

    def again(self, topic: Topic) -> None:
        """Ask for ``topic`` anew on this connection: unsubscribe, then subscribe."""
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is not None and entry.standing in (SubscriptionState.PENDING, SubscriptionState.CONFIRMED):
            self._leaving[key] = topic
            self._stand(key, entry, SubscriptionState.WANTED)
            entry.asks = 0

    def overdue(self, now: float) -> tuple[list[Entry], list[Entry]]:
        """Requests without acknowledgement: those to be repeated (they are WANTED again), and those given up just now."""
        repeat: list[Entry] = []
        given_up: list[Entry] = []
        if now < self._ack_at:
            return repeat, given_up
        pending = self._standing[SubscriptionState.PENDING]
        for key, entry in [each for each in pending.items() if self._ack_due(each[1]) <= now]:
            if entry.asks < MAX_ASKS:
                self._stand(key, entry, SubscriptionState.WANTED)
                repeat.append(entry)
            else:
                entry.asked_at, entry.reason = None, f"no acknowledgement after {entry.asks} requests"
                given_up.append(entry)
        self._ack_at = min(map(self._ack_due, pending.values()), default=inf)
        return repeat, given_up

    def _ack_due(self, entry: Entry) -> float:
        if self._ack_within is None or entry.standing is not SubscriptionState.PENDING or entry.asked_at is None:
            return inf
        return entry.asked_at + self._ack_within * float(2 ** (entry.asks - 1))

    def disconnected(self) -> None:
        """The connection is lost: everything wanted is to be asked for again, nothing is to be unsubscribed."""
        self._leaving.clear()
        self._left.clear()
        self._ack_at = inf
        for found in self._standing.values():
            found.clear()
        for key, entry in self._entries.items():
            self._stand(key, entry, SubscriptionState.WANTED)
            entry.asked_at, entry.asks = None, 0

    def adopt(self, other: "SubscriptionTable") -> None:
        """Take over the topics of a session that is being replaced, all to be asked for again."""
        self._entries.update(other._entries)
        self._lingering.update(other._lingering)
        self.disconnected()

    def deadline(self) -> float:
        """Return the time at which `expire` or `overdue` has something to do."""
        acknowledged = self._ack_at if self._standing[SubscriptionState.PENDING] else inf
        return min(acknowledged, min(map(_leave_at, self._lingering.values()), default=inf))

    def status(self) -> dict[str, Any]:
        """Counts by standing, and every topic that is refused or unanswered with its reason."""
        counts = {standing.value: len(found) for standing, found in self._standing.items()}
        troubled = [
            {
                "kind": entry.topic.kind,
                "symbol": entry.topic.symbol or entry.topic.account,
                "standing": entry.standing.value,
                "reason": entry.reason,
            }
            for entry in self
            if entry.reason is not None
        ]
        return counts | {"troubled": troubled}

    def _found(self, topics: Iterable[Topic]) -> list[tuple[Key, Entry]]:
        keys = map(topic_key, topics)
        return [(key, self._entries[key]) for key in keys if key in self._entries]


def _leave_at(entry: Entry) -> float:
    return inf if entry.leave_at is None else entry.leave_at
