"""Applications over all relays, without IO: this node's contributions, the totals of all nodes, and the log between them.

Every change that subscribers on another node may notice goes through one log in Redis, in batches: numbered events, client
events, counts of subscribers, presence members, users that come online, and terminated users. A script assigns the numbers
and updates the counts while it appends (`relay.cluster.app_store`), so that all nodes apply the same changes in one order.

- A node *adds* a value for each key: its subscribers and members on a channel, its signed-in users, its connections. Redis
  has the values of each node and their sums, from which it removes a node whose lease has expired. Values are set and not
  added to, and all are sent again if Redis has lost them, so that nothing is counted twice.
- A node *publishes* groups of events, each atomically. A batch is sent again with the same number until its outcome is
  known, and Redis accepts each number once. A group has a deadline. If it passes, the caller is told whether the group was
  certainly not published.
- A batch is named by the *life* of the log and a number without gaps. A new life begins when Redis is started or emptied,
  because it may then have lost batches that nodes have read. Channel numbers then start again in a new epoch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from attrs import define, field, frozen

from relay.pusher.messages import PresenceMember, ProtocolError

#: Seconds that a publisher waits for Redis.
WITHIN = 2.0
#: Most groups that may wait for Redis; further ones are refused.
MOST_GROUPS = 10_000
#: Most waiting changes, in addition to two for each value. Beyond that only the last change of each value is sent.
MOST_CHANGES = 10_000
#: Most operations in one batch, and approximate limit of its bytes.
MOST_OPERATIONS, MOST_BYTES = 256, 512 * 1024

Told = Callable[[ProtocolError | None], object]

pack = msgspec.msgpack.Encoder().encode


class AppEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event of an app's server, on each of the channels."""

    app: str
    channels: tuple[str, ...]
    id: str
    head: bytes
    tail: bytes
    but: str | None


class ClientMessage(msgspec.Struct, frozen=True, array_like=True):
    """A client event."""

    app: str
    channel: str
    event: str
    data: str
    socket_id: str
    user_id: str | None


class Termination(msgspec.Struct, frozen=True, array_like=True):
    """The order to close all connections of a user."""

    app: str
    user_id: str


read_event = msgspec.msgpack.Decoder(AppEvent).decode
read_message = msgspec.msgpack.Decoder(ClientMessage).decode
read_termination = msgspec.msgpack.Decoder(Termination).decode


# --- keys of what a node adds ----------------------------------------------------------------------------------------

#: The kinds of values, which begin the keys.
SUBSCRIBERS, MEMBER, USER, CONNECTIONS = "s", "m", "u", "c"


def key_of(kind: str, *names: str) -> str:
    """Return the key of a value: subscribers by app and channel, a member by app, channel and user, a user by app and user,
    connections by app."""
    return kind + "\n".join(names)


def names_of(key: str) -> list[str]:
    """Return the names in a key, without its kind."""
    return key[1:].split("\n", 2 if key[0] == MEMBER else 1)


def member_value(member: PresenceMember) -> bytes:
    """Return the value of a member: its user_info as JSON, prefixed with one character so that it is never empty."""
    return b"-" if member.user_info is None else b"+" + member.user_info.encode()


def read_member(user_id: str, value: bytes) -> PresenceMember:
    """Return the member with this id and value, the inverse of `member_value`."""
    return PresenceMember(user_id, value[1:].decode() if value[:1] == b"+" else None)


# --- what this node sends --------------------------------------------------------------------------------------------


@define(eq=False)
class Contributions:
    """The values that this node adds, and the changes that Redis does not have yet, in order.

    If too many changes wait, only the last one of each key is sent.
    """

    values: dict[str, bytes] = field(factory=dict)
    _changes: deque[tuple[str, bytes]] = field(factory=deque)

    def __len__(self) -> int:
        """Return the number of changes to send."""
        return len(self._changes)

    def set(self, key: str, value: bytes) -> None:
        """Set a value; an empty one removes it."""
        if value == self.values.get(key, b""):
            return
        if value:
            self.values[key] = value
        else:
            del self.values[key]
        self._changes.append((key, value))
        if len(self._changes) > MOST_CHANGES + 2 * len(self.values):
            self.send_all([key for key, _ in self._changes])

    def take(self, most: int) -> list[tuple[str, bytes]]:
        """Remove and return the oldest changes, at most `most`; they count as sent."""
        return [self._changes.popleft() for _ in range(min(most, len(self._changes)))]

    def send_all(self, known: Iterable[str]) -> None:
        """Schedule all values to be sent. `known`: keys for which Redis may have a value of this node."""
        keys = dict.fromkeys([*known, *self.values])
        self._changes = deque((key, self.values.get(key, b"")) for key in keys)


@define(eq=False)
class Group:
    """Operations that are applied atomically."""

    app: str
    operations: Sequence[Sequence[bytes]]
    deadline: float
    told: Told | None
    rate: float | None = None
    """Events per second that the app's server may publish over all nodes; None if it is not limited."""
    cost: int = 0

    def tell(self, refusal: ProtocolError | None) -> None:
        """Send the outcome to the caller, once."""
        told, self.told = self.told, None
        if told is not None:
            told(refusal)


@frozen
class AppBatch:
    """A batch that was sent. It is immutable, and sent again until its outcome is known."""

    number: int
    operations: Sequence[bytes]
    groups: Sequence[Group]


def unpublished(reason: str) -> ProtocolError:
    """Return the refusal of a group that was certainly not published."""
    return ProtocolError(f"not published, the relay's store is not available: {reason}", status=503)


def uncertain(reason: str) -> ProtocolError:
    """Return the refusal of a group that may have been published nevertheless."""
    return ProtocolError(f"it is not known whether this was published: {reason}", status=503)


@define(eq=False)
class AppWriter:
    """The changes and groups that this node sends to the log: values first, then groups, in batches, one at a time."""

    added: Contributions = field(factory=Contributions)
    _waiting: deque[Group] = field(factory=deque)
    _under_way: AppBatch | None = None
    _number: int = 0

    @property
    def idle(self) -> bool:
        """True if there is nothing to send."""
        return self._under_way is None and not self._waiting and not len(self.added)

    @property
    def waiting(self) -> int:
        """Groups that wait."""
        return len(self._waiting) + (0 if self._under_way is None else len(self._under_way.groups))

    @property
    def number(self) -> int:
        """The number of the last batch that was made."""
        return self._number

    def put(self, group: Group) -> None:
        """Add a group. It is refused if too many wait."""
        if len(self._waiting) >= MOST_GROUPS:
            group.tell(unpublished(f"{MOST_GROUPS} events wait for it"))
        else:
            self._waiting.append(group)

    def batch(self) -> AppBatch | None:
        """Return the batch to send, the same one until its outcome is known; None if there is nothing to send."""
        if self._under_way is not None or self.idle:
            return self._under_way
        operations: list[bytes] = []
        count = 0
        for key, value in self.added.take(MOST_OPERATIONS):
            operations += (b"v", key.encode(), value)
            count += 1
        groups: list[Group] = []
        size = 0
        while self._waiting and count < MOST_OPERATIONS and size < MOST_BYTES:
            group = self._waiting.popleft()
            if group.rate is not None:
                rate, numbers = group.rate, (group.cost, len(group.operations))
                operations += (b"g", group.app.encode(), b"%r" % rate, *(b"%d" % each for each in numbers))
            for operation in group.operations:
                operations += operation
                size += sum(map(len, operation))
            groups.append(group)
            count += len(group.operations)
        self._number += 1
        self._under_way = AppBatch(self._number, operations, groups)
        return self._under_way

    def appended(self, refused: Iterable[int]) -> None:
        """Note that the batch is in the log, except `refused`: indexes from 1 among its groups that have a rate."""
        batch, self._under_way = self._under_way, None
        assert batch is not None
        over, limited = frozenset(refused), 0
        for group in batch.groups:
            limited += group.rate is not None
            if group.rate is not None and limited in over:
                text = f"more than {group.rate:g} events per second (limit events_per_second)"
                group.tell(ProtocolError(text, status=429))
            else:
                group.tell(None)

    def begin(self, last: int, known: Iterable[str]) -> None:
        """Continue after this node has entered again. Redis has its batches up to `last`, and values for the `known` keys.

        Groups in flight that are not known to be in the log are ended as uncertain and not sent again.
        """
        if (batch := self._under_way) is not None:
            self._under_way = None
            for group in batch.groups:
                group.tell(None if last >= batch.number else uncertain("Redis was lost meanwhile"))
        self._number = max(self._number, last)
        self.added.send_all(known)

    def expire(self, now: float, reason: str) -> None:
        """End the groups whose deadlines have passed."""
        while self._waiting and self._waiting[0].deadline <= now:
            self._waiting.popleft().tell(unpublished(reason))
        for group in () if self._under_way is None else self._under_way.groups:
            if group.deadline <= now:
                group.tell(uncertain(reason))

    def deadline(self) -> float | None:
        """Return the time at which `expire` must be called next; None if no group waits."""
        if self._under_way is not None:
            open_ones = [group.deadline for group in self._under_way.groups if group.told is not None]
            if open_ones:
                return min(open_ones)
        return self._waiting[0].deadline if self._waiting else None


# --- what all nodes read ---------------------------------------------------------------------------------------------


class AppPosition(NamedTuple):
    """The name of a batch of the log; (0, 0) is before the first one."""

    life: int
    n: int


class AppEntry(NamedTuple):
    """One entry of the log. The kinds, with their further fields:

    - ``e`` an event; its number on each of its channels
    - ``x`` a client event; ``k`` a termination
    - ``s`` the number of a channel's subscribers changed; new sum, old sum, the node's value, the node's name
    - ``+``, ``-`` a member joined or left; ``on``, ``off`` a user came online or went offline
    - ``c`` the number of an app's connections on a node; that number, the node
    - ``w`` a cache channel had no event for a subscriber, for the first time since its last event
    - ``f`` a channel was forgotten; later numbers are larger than this one
    """

    kind: str
    words: Sequence[str]
    key: str
    payload: bytes


def read_batch(fields: Mapping[bytes, bytes]) -> tuple[int, list[AppEntry]]:
    """Return the time of a batch in Unix milliseconds, and its entries."""
    found: list[AppEntry] = []
    at = 0
    for name, payload in fields.items():
        if name == b"t":
            at = int(payload)
            continue
        head, _, key = name.partition(b"\n")
        _, kind, *words = head.decode().split(" ")
        found.append(AppEntry(kind, words, key.decode(), payload))
    return at, found


@frozen
class AppSnapshot:
    """The state of all applications in Redis after one batch of the log.

    Attributes:
        at: time of the state in Unix milliseconds.
        floor: the first number of a channel without a record is larger than this.
        sums: sums over all nodes by key.
        members: `member_value` by key.
        numbers: last number by ``APP\\nCHANNEL``.
        cached: number, Unix milliseconds and `AppEvent` of the last event of each cache channel, by ``APP\\nCHANNEL``.
    """

    position: AppPosition
    at: int
    floor: int
    sums: Mapping[str, int]
    members: Mapping[str, bytes]
    numbers: Mapping[str, int]
    cached: Mapping[str, tuple[int, int, bytes]]


@define(eq=False)
class AppTotals:
    """The totals of one app over all nodes."""

    subscribers: dict[str, int] = field(factory=dict)
    """Number of subscribers by channel."""
    own: dict[str, int] = field(factory=dict)
    """The part of `subscribers` that is this node's."""
    members: dict[str, dict[str, PresenceMember]] = field(factory=dict)
    """Presence members by channel and user id."""
    online: set[str] = field(factory=set)
    connections: dict[str, int] = field(factory=dict)
    """Number of connections by node."""
    numbers: dict[str, int] = field(factory=dict)
    """The last number of each channel that has had an event."""


def totals_of(snapshot: AppSnapshot, own: Mapping[str, bytes]) -> dict[str, AppTotals]:
    """Return a snapshot's totals by app. `own`: this node's values, which are included in them."""
    found: dict[str, AppTotals] = {}

    def of(app: str) -> AppTotals:
        return found.setdefault(app, AppTotals())

    for key, total in snapshot.sums.items():
        app, *names = names_of(key)
        if key[0] == SUBSCRIBERS:
            of(app).subscribers[names[0]] = total
            if key in own:
                of(app).own[names[0]] = int(own[key])
        elif key[0] == MEMBER:
            channel, user_id = names
            value = snapshot.members.get(key, b"-")
            of(app).members.setdefault(channel, {})[user_id] = read_member(user_id, value)
        elif key[0] == USER:
            of(app).online.add(names[0])
        elif key[0] == CONNECTIONS:
            of(app).connections[names[0]] = total
    for name, number in snapshot.numbers.items():
        app, channel = name.split("\n", 1)
        of(app).numbers[channel] = number
    return found
