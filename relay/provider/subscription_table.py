"""The subscription table: the topics that subscribers need from a provider, and the state of each subscription.

A topic is WANTED until a request for it is written, QUEUED while that request waits for the rate limit, PENDING once it was
sent, CONFIRMED by the provider's acknowledgement or by its first event (some providers do not acknowledge), or REFUSED with
the provider's reason, which the status page shows. A topic without subscribers lingers before it is unsubscribed, so that
reloading a page does not cause requests; one that was never requested is removed at once. When the connection is lost, all
topics become WANTED again, refused ones included.

Instruments are published from the provider's metadata. There is no request for them, and they take no place on a connection.

WANTED topics are requested by rank: pinned streams and accounts first, then topics that have had data, then new ones, then
those that were refused or not answered before. Within a rank the apps take turns, within an app the networks of its clients,
within a network its connections (`Rotation`). A request contains topics of one rank only, and a topic of the last rank is
requested alone, so that a bad topic cannot make the request of a good one fail.

A provider may refuse a whole request, or not answer it, because of one topic in it. The topics of that request are then
requested again in parts: first one part per subscriber's connection, then in halves, until the bad topic is alone.

A session may have thousands of topics and computes its deadline after every message. Therefore topics are indexed by state,
and none of the frequent queries visits all of them.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from math import inf
from typing import Any

from attrs import Factory, define

from relay.limits import BoundedDict
from relay.model.channels import Asker, Topic
from relay.model.events import ACCOUNT_KINDS, Event
from relay.provider.pacing import Rotation

#: A topic's key on the path of a message: cheaper to build and hash than a `Topic`.
Key = tuple[str | None, ...]

#: Most requests for one topic without an answer. After that the topic is reported as unanswered and stays pending.
MAX_ASKS = 3
#: Most subscribers that are remembered for a subscribed topic. On the next connection their turns count for the topic.
_REMEMBERED = 8
#: Most unsubscribed topics without a confirmation that are remembered. Some providers never confirm.
_ENDING = 10_000
#: Seconds, up to twice as many, after which a topic that still waits to be requested becomes STALE.
WAITS_FOR = 5.0
#: Most topics of one session that wait to be requested.
MOST_WAITING = 10_000
#: Stands for the operator, who needs the pinned topics.
_OPERATOR = Asker("", "")
#: Most refused or unanswered topics on the status page. Clients can cause thousands, and the page is built without a pause.
_SHOWN = 100


def topic_key(topic: Topic) -> Key:
    """Return the key under which data of ``topic`` arrives."""
    if topic.kind == "candle":
        return (topic.kind, topic.symbol, topic.timeframe)
    return (topic.kind, topic.account if topic.kind == "account" else topic.symbol)


def is_requested(topic: Topic) -> bool:
    """Return True if ``topic`` is requested from the provider. Instruments are not: they come from its metadata."""
    return topic.kind != "instrument"


def event_key(event: Event, account: str | None) -> Key:
    """Return the key of the topic ``event`` belongs to; ``account`` is the session's own."""
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


class Rank(enum.IntEnum):
    """Order in which topics are requested; the lowest number goes first."""

    PINNED = 0
    PROVEN = 1
    NEW = 2
    DOUBTED = 3


@define(eq=False)
class Entry:
    """One topic and the state of its subscription. Times are monotonic seconds.

    Attributes:
        asks: number of subscribe requests sent on this connection.
        asked_at: time of the last request; None if there was none, or its answer is no longer expected.
        leave_at: time at which it is unsubscribed; None while it has subscribers or is pinned.
        reason: why it was refused, or why it is not confirmed yet.
        flowed: True if it ever had data.
        pinned: True if the operator pinned it.
        askers: the subscribers that requested it while it waited, and some of the later ones.
        doubted: True if an earlier request for it alone was refused or not answered.
        request: number of the last request that contained it.
        shared: True if that request contained other topics too.
        part: number of the part of a refused request that it belongs to; None if it belongs to none.
        wait_published: None at first, False after the first check of waiting topics, True once `waiting` has returned it.
    """

    topic: Topic
    state: SubscriptionState = SubscriptionState.WANTED
    asks: int = 0
    asked_at: float | None = None
    leave_at: float | None = None
    reason: str | None = None
    flowed: bool = False
    pinned: bool = False
    askers: dict[Asker, None] = Factory(dict)
    doubted: bool = False
    request: int = 0
    shared: bool = False
    part: int | None = None
    wait_published: bool | None = None

    @property
    def rank(self) -> Rank:
        """Its priority among the topics to be requested."""
        if self.pinned or self.topic.kind == "account":
            return Rank.PINNED
        if self.doubted:
            return Rank.DOUBTED
        return Rank.PROVEN if self.flowed else Rank.NEW


#: Topics by their state.
_Index = dict[SubscriptionState, dict[Key, Entry]]


class SubscriptionTable:
    """The topics of one session.

    Args:
        per_frame: most topics in one request.
        linger: seconds for which a topic without subscribers stays subscribed.
        ack_within: seconds within which the provider acknowledges; None if it does not.
        most_waiting: most topics that may wait to be requested; a topic counts once for each subscriber that waits for it.
        most_topics: most topics on one connection; None if there is no limit.
    """

    def __init__(
        self,
        *,
        per_frame: int,
        linger: float,
        ack_within: float | None,
        most_waiting: int = MOST_WAITING,
        most_topics: int | None = None,
    ) -> None:
        self._per_frame = per_frame
        self._linger = linger
        self._ack_within = ack_within
        self._most_waiting = most_waiting
        self._most_topics = inf if most_topics is None else most_topics
        #: Topics beyond the connection's limit that `crowded` has returned.
        self._crowded: dict[Key, None] = {}
        self._entries: dict[Key, Entry] = {}
        self._leaving: dict[Key, Topic] = {}
        self._left: BoundedDict[Key, None] = BoundedDict(_ENDING)
        self._by_state: _Index = {state: {} for state in SubscriptionState}
        #: Those of them that are not requested, see `is_requested`.
        self._not_requested: _Index = {state: {} for state in SubscriptionState}
        #: The topics that wait to be requested, by rank.
        self._lines: dict[Rank, Rotation[Key]] = {rank: Rotation() for rank in Rank}
        #: The parts of refused requests, each to be requested by itself, by number.
        self._parts: dict[int, dict[Key, None]] = {}
        self._numbers = count(1)
        #: Topics without subscribers, in the order in which they are to be unsubscribed.
        self._lingering: OrderedDict[Key, Entry] = OrderedDict()
        #: Earliest time at which an acknowledgement may be overdue; `overdue` computes the next one.
        self._ack_at = inf
        #: Time at which a topic will have waited too long; None: one began to wait, and `waiting` computes it.
        self._look_at: float | None = inf
        #: Return the entry of a key; None if its topic is not in the table.
        self.find: Callable[[Key], Entry | None] = self._entries.get

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def requested(self) -> int:
        """The number of topics that are or will be requested: they take a place on the connection."""
        return len(self._entries) - sum(map(len, self._not_requested.values()))

    @property
    def wants_metadata(self) -> bool:
        """True if there are topics that are served from the provider's metadata."""
        return any(self._not_requested.values())

    def want(self, topic: Topic, by: Asker | None = None) -> list[Entry]:
        """Add ``topic`` for the subscriber ``by``, or pinned by the operator if that is None.

        If too many topics wait, a topic of the connection with the most waiting topics is REFUSED and returned; it may be
        this topic.
        """
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(topic)
            self._add_to_index(key, entry)
        elif entry.state is SubscriptionState.REFUSED and entry.leave_at is not None:
            self._set_state(key, entry, SubscriptionState.WANTED)
        entry.leave_at = None
        self._lingering.pop(key, None)
        if by is None and not entry.pinned:
            self._unline(key, entry)  # its rank changes
            entry.pinned = True
        elif by is not None and (entry.state is SubscriptionState.WANTED or len(entry.askers) < _REMEMBERED):
            entry.askers[by] = None
        if entry.state is not SubscriptionState.WANTED:
            return []
        self._line_up(key, entry)
        return [] if by is None else self._crowded_out(key, entry, by)

    def is_news(self, topic: Topic, by: Asker) -> bool:
        """Return True if `want` has to be called because ``by`` needs ``topic`` too."""
        entry = self._entries.get(topic_key(topic))
        if entry is None:
            return True
        waits = entry.state is SubscriptionState.WANTED
        return (waits or len(entry.askers) < _REMEMBERED) and by not in entry.askers

    def _crowded_out(self, key: Key, entry: Entry, by: Asker) -> list[Entry]:
        line = self._lines[entry.rank]
        if entry.rank is Rank.PINNED or line.size <= self._most_waiting:
            return []
        if line.waiting_of(by) * line.connections < line.size:
            by, key = line.longest()
            entry = self._entries[key]
        entry.askers.pop(by, None)
        if not line.withdraw(key, by):
            return []
        self._set_state(key, entry, SubscriptionState.REFUSED)
        entry.reason = f"{self._most_waiting} topics wait already (setting waiting of the provider)"
        return [entry]

    def _add_to_index(self, key: Key, entry: Entry) -> None:
        self._by_state[entry.state][key] = entry
        if not is_requested(entry.topic):
            self._not_requested[entry.state][key] = entry

    def _remove_from_index(self, key: Key, entry: Entry) -> None:
        self._by_state[entry.state].pop(key, None)
        self._not_requested[entry.state].pop(key, None)

    def _set_state(self, key: Key, entry: Entry, state: SubscriptionState) -> None:
        self._remove_from_index(key, entry)
        self._crowded.pop(key, None)
        if entry.state is SubscriptionState.WANTED and state is not SubscriptionState.WANTED:
            self._unline(key, entry)
        entry.state = state
        self._add_to_index(key, entry)
        if state is SubscriptionState.WANTED:
            self._line_up(key, entry)
        elif state is SubscriptionState.CONFIRMED:
            entry.doubted, entry.wait_published = False, None
            if len(entry.askers) > _REMEMBERED:
                entry.askers = dict.fromkeys(islice(entry.askers, _REMEMBERED))

    def _line_up(self, key: Key, entry: Entry) -> None:
        line = self._lines[entry.rank]
        for by in (_OPERATOR,) if entry.rank is Rank.PINNED else entry.askers or (_OPERATOR,):
            line.put(key, by)
        if self._look_at == inf:
            self._look_at = None

    def _unline(self, key: Key, entry: Entry) -> None:
        for line in self._lines.values():  # its rank may have changed since
            line.discard(key)
        self._leave_part(key, entry)

    def _leave_part(self, key: Key, entry: Entry) -> None:
        part = None if entry.part is None else self._parts.get(entry.part)
        if part is not None and entry.part is not None:
            part.pop(key, None)
            if not part:
                del self._parts[entry.part]
        entry.part = None

    def unwant(self, topic: Topic, now: float) -> None:
        """Start the linger time of ``topic``, which has no subscribers left; it is 0 if the topic was not requested yet."""
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is None:
            return
        self._lingering.pop(key, None)
        untouched = entry.state is SubscriptionState.WANTED and not entry.asks and not entry.flowed
        entry.leave_at = now if untouched else now + self._linger
        self._lingering[key] = entry
        if untouched:
            self._lingering.move_to_end(key, last=False)

    def expire(self, now: float) -> list[Topic]:
        """Remove the topics whose linger time is over and return them."""
        gone = []
        while self._lingering and _leave_at((first := next(iter(self._lingering.items())))[1]) <= now:
            gone.append(first)
            self._lingering.popitem(last=False)
        for key, entry in gone:
            self._unline(key, entry)
            self._crowded.pop(key, None)
            del self._entries[key]
            self._remove_from_index(key, entry)
            if is_requested(entry.topic) and entry.state in _TAKEN:
                self._leaving[key] = entry.topic
        return [entry.topic for _, entry in gone]

    def take_to_serve(self) -> tuple[Topic, ...]:
        """Mark the WANTED topics that are not requested as QUEUED, and return them."""
        found = list(self._not_requested[SubscriptionState.WANTED].items())
        for key, entry in found:
            self._set_state(key, entry, SubscriptionState.QUEUED)
        return tuple(entry.topic for _, entry in found)

    def take_to_subscribe(self, most: int | None = None) -> tuple[Topic, ...]:
        """Mark the next batch, of at most ``most`` topics, as QUEUED and return it.

        A topic whose unsubscribe request is not written yet has to wait for that, or it would end the new subscription.
        Topics beyond the connection's limit wait too, see `crowded`.
        """
        room = self._room()
        if room < 1:
            return ()
        found = ((rank, line, line.take(1, lambda key: key not in self._leaving)) for rank, line in self._lines.items())
        rank, line, keys = next((each for each in found if each[-1]), (Rank.PINNED, self._lines[Rank.PINNED], []))
        if not keys:
            return ()
        part = self._entries[keys[0]].part
        if part is not None:
            together = list(self._parts.pop(part))
            for key in together:
                self._entries[key].part = None
            keys = [key for key in together if key not in self._leaving][: int(min(room, len(together)))]
        elif rank is not Rank.DOUBTED:
            size = self._per_frame if most is None else max(1, min(most, self._per_frame))
            size = int(min(size, room))
            keys += line.take(size - 1, lambda key: key not in self._leaving and self._entries[key].part is None)
        number, shared = next(self._numbers), len(keys) > 1
        for key in keys:
            entry = self._entries[key]
            entry.part, entry.request, entry.shared = None, number, shared
            self._set_state(key, entry, SubscriptionState.QUEUED)
        return tuple(self._entries[key].topic for key in keys)

    def _room(self) -> float:
        """Return how many more topics the connection may have. Topics to be unsubscribed still count."""
        taken = sum(len(self._by_state[state]) - len(self._not_requested[state]) for state in _TAKEN)
        return self._most_topics - taken - len(self._leaving)

    def crowded(self) -> list[Entry]:
        """Return, once each, the topics that wait because the connection has reached its limit; set their reasons."""
        wanted = self._by_state[SubscriptionState.WANTED]
        if len(wanted) == len(self._crowded) or self._room() >= 1:
            return []
        found = {key: entry for key, entry in wanted.items() if key not in self._crowded and key not in self._leaving}
        for key, entry in found.items():
            self._crowded[key] = None
            entry.reason = f"the provider allows {self._most_topics} topics on a connection, and all are taken"
        return list(found.values())

    def give_up_waiting(self, most: int) -> list[Entry]:
        """Remove and return up to ``most`` topics beyond the connection's limit, so that another connection takes them.

        A topic that had data stays, because this connection has to publish its gap.
        """
        wanted = self._by_state[SubscriptionState.WANTED]
        free = {
            key: entry
            for key, entry in wanted.items()
            if entry.leave_at is None
            and (entry.pinned or entry.askers)
            and not (entry.flowed or entry.asks or key in self._leaving)
        }
        beyond = int(min(most, max(0, self.requested - self._most_topics)))
        keys = sorted(free, key=lambda key: (not free[key].pinned, key not in self._crowded))[:beyond]
        for key in keys:
            self._unline(key, free[key])
            self._crowded.pop(key, None)
            del self._entries[key]
            self._remove_from_index(key, free[key])
        return [free[key] for key in keys]

    def take_to_unsubscribe(self) -> tuple[Topic, ...]:
        """Remove and return the next batch of topics to unsubscribe."""
        keys = list(self._leaving)[: self._per_frame]
        for key in keys:
            self._left[key] = None
        return tuple(self._leaving.pop(key) for key in keys)

    def sent(self, topics: Iterable[Topic], now: float) -> None:
        """Note that the request for these topics was sent."""
        for key, entry in self._found(topics):
            if entry.state is SubscriptionState.QUEUED:
                self._set_state(key, entry, SubscriptionState.PENDING)
                entry.asked_at = now
                entry.asks += 1
                self._ack_at = min(self._ack_at, self._ack_due(entry))

    def confirmed(self, topics: Iterable[Topic]) -> list[Entry]:
        """Note that the provider acknowledged these topics; return those that were not confirmed before."""
        fresh = [
            (key, entry) for key, entry in self._asked_for(topics) if entry.state is not SubscriptionState.CONFIRMED
        ]
        for key, entry in fresh:
            self._set_state(key, entry, SubscriptionState.CONFIRMED)
            entry.reason = None
        return [entry for _, entry in fresh]

    def refused(self, topics: Sequence[Topic], reason: str) -> list[Entry]:
        """Handle the provider's refusal of a request; return the topics that are now REFUSED.

        A single topic is REFUSED. If there are several, it is not known which one is bad: they are requested again in
        smaller parts, and none is returned.
        """
        refused = self._asked_for(topics)
        if len(topics) > 1:
            self._ask_in_parts(refused, reason)
            return []
        for key, entry in refused:
            self._set_state(key, entry, SubscriptionState.REFUSED)
            entry.reason, entry.doubted = reason, True
        return [entry for _, entry in refused]

    def _ask_in_parts(self, suspects: Sequence[tuple[Key, Entry]], reason: str) -> None:
        """Make these topics WANTED in parts: one part per subscriber's connection, or halves if there is only one."""
        asked = [(key, entry) for key, entry in suspects if entry.state in _ASKED]
        by_asker: dict[Asker, list[tuple[Key, Entry]]] = {}
        for key, entry in asked:
            by_asker.setdefault(next(iter(entry.askers), _OPERATOR), []).append((key, entry))
        parts = list(by_asker.values())
        if len(parts) == 1:
            half = (len(asked) + 1) // 2
            parts = [part for part in (asked[:half], asked[half:]) if part]
        for part in parts:
            number = next(self._numbers)
            self._parts[number] = {key: None for key, _ in part}
            for key, entry in part:
                entry.part, entry.reason = number, f"requested again with fewer topics: {reason}"
                self._set_state(key, entry, SubscriptionState.WANTED)

    def _asked_for(self, topics: Iterable[Topic]) -> list[tuple[Key, Entry]]:
        """Return the entries that an answer may refer to.

        A topic that was not requested yet is left out: the answer refers to its previous subscription.
        """
        return [
            (key, entry)
            for key, entry in self._found(topics)
            if entry.asks or entry.state is not SubscriptionState.WANTED
        ]

    def ended(self, topics: Iterable[Topic]) -> None:
        """Note that the provider ended these subscriptions. Those that the relay did not end are requested again."""
        for topic in topics:
            key = topic_key(topic)
            entry = self._entries.get(key)
            if key in self._left:
                del self._left[key]
            elif entry is not None and entry.state in (SubscriptionState.PENDING, SubscriptionState.CONFIRMED):
                self._set_state(key, entry, SubscriptionState.WANTED)

    def again(self, topic: Topic) -> None:
        """Resubscribe ``topic`` on this connection: unsubscribe, then subscribe."""
        key = topic_key(topic)
        entry = self._entries.get(key)
        if entry is not None and entry.state in (SubscriptionState.PENDING, SubscriptionState.CONFIRMED):
            if is_requested(topic):
                self._leaving[key] = topic
            self._set_state(key, entry, SubscriptionState.WANTED)
            entry.asks = 0

    def is_confirmed(self, topic: Topic) -> bool:
        """Return True if the provider has acknowledged ``topic`` or sent data of it."""
        entry = self._entries.get(topic_key(topic))
        return entry is not None and entry.state is SubscriptionState.CONFIRMED

    def overdue(self, now: float) -> tuple[list[Entry], list[Entry]]:
        """Return the topics whose acknowledgement is overdue: those to be requested again, and those that are not.

        Topics of one request are repeated in smaller parts, because one of them may be the reason for the missing answer. A
        topic that was requested alone `MAX_ASKS` times is not repeated.
        """
        repeat: list[Entry] = []
        given_up: list[Entry] = []
        if now < self._ack_at:
            return repeat, given_up
        pending = self._by_state[SubscriptionState.PENDING]
        requests: dict[int, list[tuple[Key, Entry]]] = {}
        for key, entry in [each for each in pending.items() if self._ack_due(each[1]) <= now]:
            if entry.shared:
                requests.setdefault(entry.request, []).append((key, entry))
                repeat.append(entry)
            elif entry.asks < MAX_ASKS:
                self._set_state(key, entry, SubscriptionState.WANTED)
                repeat.append(entry)
            else:
                entry.asked_at, entry.reason = None, f"no acknowledgement after {entry.asks} requests"
                entry.doubted = True
                given_up.append(entry)
        for together in requests.values():
            self._ask_in_parts(together, "no acknowledgement")
        self._ack_at = min(map(self._ack_due, pending.values()), default=inf)
        return repeat, given_up

    def waiting(self, now: float) -> list[Entry]:
        """Return, once each, the topics that have waited to be requested for longer than `WAITS_FOR`."""
        if self._look_at is None:
            self._look_at = now + WAITS_FOR
        if now < self._look_at:
            return []
        found = []
        for state in (SubscriptionState.WANTED, SubscriptionState.QUEUED):
            for entry in self._by_state[state].values():
                if entry.wait_published is False and topic_key(entry.topic) not in self._crowded:
                    found.append(entry)
                entry.wait_published = entry.wait_published is not None
        waits = self._by_state[SubscriptionState.WANTED] or self._by_state[SubscriptionState.QUEUED]
        self._look_at = now + WAITS_FOR if waits else inf
        return found

    def _ack_due(self, entry: Entry) -> float:
        if self._ack_within is None or entry.state is not SubscriptionState.PENDING or entry.asked_at is None:
            return inf
        return entry.asked_at + self._ack_within * float(2 ** min(entry.asks - 1, MAX_ASKS - 1))

    def disconnected(self) -> None:
        """Make all topics WANTED for the next connection, and drop all pending unsubscribe requests."""
        self._leaving.clear()
        self._left.clear()
        self._parts.clear()
        self._crowded.clear()
        self._ack_at, self._look_at = inf, inf
        for found in (*self._by_state.values(), *self._not_requested.values()):
            found.clear()
        self._lines = {rank: Rotation() for rank in Rank}
        for key, entry in self._entries.items():
            entry.asked_at, entry.asks, entry.part, entry.wait_published = None, 0, None, None
            entry.state = SubscriptionState.WANTED
            self._add_to_index(key, entry)
            self._line_up(key, entry)

    def adopt(self, other: "SubscriptionTable") -> None:
        """Take over the topics of the session that this one replaces; all are WANTED."""
        self._entries.update(other._entries)
        self._lingering.update(other._lingering)
        self.disconnected()

    def deadline(self) -> float:
        """Return the time at which `expire` or `overdue` has something to do."""
        acknowledged = self._ack_at if self._by_state[SubscriptionState.PENDING] else inf
        first = next(iter(self._lingering.values()), None)
        return min(acknowledged, inf if first is None else _leave_at(first))

    def waiting_deadline(self) -> float:
        """Return the time at which `waiting` has something to do. Only relevant while the session is up."""
        if not self._by_state[SubscriptionState.WANTED] and not self._by_state[SubscriptionState.QUEUED]:
            return inf
        return self._look_at or -inf

    def status(self) -> dict[str, Any]:
        """Return the number of topics by state, and the first `_SHOWN` topics that have a reason (refused, unanswered)."""
        counts = {state.value: len(found) for state, found in self._by_state.items()}
        troubled = [
            {
                "kind": entry.topic.kind,
                "symbol": entry.topic.symbol or entry.topic.account,
                "standing": entry.state.value,
                "reason": entry.reason,
            }
            for entry in islice((entry for entry in self if entry.reason is not None), _SHOWN)
        ]
        return counts | {"troubled": troubled}

    def _found(self, topics: Iterable[Topic]) -> list[tuple[Key, Entry]]:
        keys = map(topic_key, topics)
        return [(key, self._entries[key]) for key in keys if key in self._entries]


#: States in which a topic counts against the connection's limit.
_TAKEN = (SubscriptionState.QUEUED, SubscriptionState.PENDING, SubscriptionState.CONFIRMED)
#: States of topics that an answer to a whole request can refer to.
_ASKED = (SubscriptionState.PENDING, SubscriptionState.CONFIRMED)


def _leave_at(entry: Entry) -> float:
    return inf if entry.leave_at is None else entry.leave_at
