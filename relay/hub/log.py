"""The log of one topic in the store: its events, the reservation of its sequence numbers, and its restore after a restart.

A topic's log starts with its first event, so that a channel name without events costs the store nothing. Numbers are
reserved in blocks, half a block ahead; blocks grow with the topic's rate. If a block is used up before the store has granted
the next one, the topic starts a new epoch. Clients cannot resume from the old epoch then, but no number is used for two
events.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import inf

from relay.hub.encoding import HistoryEntry, PublishedEvent
from relay.hub.outbox import Policy
from relay.model.channels import ChannelError, Stream, channel_name, parse_channel
from relay.store.interface import Loggable, LoggedEvent, Row, Store, TopicLogs

STATES = "account_states"
"""The store's table of the states of accounts: the last event about each order, position and balance, by topic and name."""
#: Numbers of the first block, and of the largest.
FIRST_BLOCK, LARGEST_BLOCK = 1000, 1 << 20
#: Seconds: a block that was used up faster is followed by a larger one, one that lasted longer by a smaller one.
_FAST, _SLOW = 30.0, 600.0

#: A dictionary, because calling the enumeration takes half of the time of a start with many events.
_POLICY = {policy.value: policy for policy in Policy}

_OF_STREAM, _OF_APP = "stream ", "app "


def stream_key(stream: Stream) -> str | None:
    """Return the name of a stream's topic in the store; None if it is too long for a channel name."""
    try:
        return _OF_STREAM + channel_name(stream, "private-")
    except ChannelError:
        return None


def app_key(app_id: str, channel: str) -> str:
    """Return the name of the topic of an application's own channel in the store."""
    return f"{_OF_APP}{app_id} {channel}"


def parse_key(key: str) -> Stream | tuple[str, str] | None:
    """Return the stream, or the app id and channel, of a topic's name in the store; None if it is neither."""
    if key.startswith(_OF_STREAM):
        try:
            return parse_channel(key.removeprefix(_OF_STREAM))
        except ChannelError:
            return None
    if key.startswith(_OF_APP):
        app_id, space, channel = key.removeprefix(_OF_APP).partition(" ")
        return (app_id, channel) if space else None
    return None


class TopicLog(ABC):
    """Logs the events of one topic outside of the process: in the store, or for other nodes.

    `TopicState` calls `renew` at ``renew_at``, and ``append`` or `append_first` for each event.
    """

    __slots__ = ("_store", "append", "key", "renew_at", "stale", "start")

    append: Callable[[Loggable], object]
    """Logs an event that is delivered."""

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self.start: tuple[str, int] | None = None
        """Epoch and last number of the topic, if another node has it already."""
        self.stale: PublishedEvent | None = None
        """The STALE event that the topic starts with, if the freshness of its data cannot be known at that time."""
        self.renew_at: float = inf
        """The number at which `renew` is to be called."""
        self._store = store

    @abstractmethod
    def append_first(self, event: Loggable, then: Callable[[str], object]) -> None:
        """Log an event; call ``then`` once it is durable, or with the reason if it could not be logged."""

    def renew(self, epoch: str, seq: int, now: float) -> str:
        """Ask for the next block of numbers before number ``seq`` is used; return the epoch that it is used in."""
        return epoch

    def state(self, name: str, data: bytes | None, seq: int = 0) -> Row:
        """Return the store's row of an account's state: its event with its number, for subscribers after a restart."""
        value = None if data is None else b'%b,"seq":%d}' % (data[:-1], seq)
        return Row(STATES, f"{self.key}\n{name}", value)

    def write(self, row: Row) -> None:
        """Write a row, in the same batch as the event that it belongs to."""
        self._store.write(row)

    def freshness(self, kind: str, stale: PublishedEvent | None) -> PublishedEvent | None:
        """Return the staleness event for a resuming subscriber of a topic of this kind.

        None if the topic's numbered events contain it already. ``stale``: the STALE event in effect, if the data are stale.
        """
        return None

    def read_on(self) -> Callable[[], bool] | None:
        """Begin to read all that other relays have logged until now.

        Return a function that returns True once it is read. Return None where no other relay logs events of the topic.
        """
        return None

    @property
    def is_known(self) -> bool:
        """False while a relay that has just been started has not read what others have logged of the topic."""
        return True

    def forget(self) -> None:  # noqa: B027 - most have nothing to do
        """Remove the topic from the log, if the log does not expire by itself."""


class StoredLog(TopicLog):
    """The numbers and events of one topic in the store."""

    __slots__ = ("_asked_at", "_asking", "_block", "_epochs", "_logs", "epoch", "limit")

    def __init__(self, store: Store, logs: TopicLogs, key: str, epochs: Callable[[], str]) -> None:
        super().__init__(store, key)
        self.epoch = ""
        """The epoch in the store; empty before the first event."""
        self.renew_at = 1
        self.limit: float = inf
        """The last number that may be used; infinity while the store does not know the epoch."""
        self._logs = logs
        self._epochs = epochs
        self._block = FIRST_BLOCK
        self._asked_at = -inf
        self._asking = False
        self.append = self._begin_batch

    def _begin_batch(self, event: Loggable) -> None:
        """Start a batch: the store takes the list with this event and all that are appended until then."""
        batch = [event]
        self.append = batch.append
        self._logs.log(self.key, batch, self._end_batch)

    def _end_batch(self) -> None:
        self.append = self._begin_batch

    def append_first(self, event: Loggable, then: Callable[[str], object]) -> None:
        """Log an event; call ``then`` when it is on disk, or with the reason if writing failed."""
        self._logs.log_first(self.key, event, then)

    def renew(self, epoch: str, seq: int, now: float) -> str:
        """Ask for the next block of numbers before number ``seq`` is used; return the epoch that it is used in."""
        if seq > self.limit:  # the store did not answer in time
            epoch, self.limit, self._asking = self._epochs(), inf, False
        if not self._asking:
            lasted = now - self._asked_at
            if lasted < _FAST:
                self._block = min(self._block * 2, LARGEST_BLOCK)
            elif lasted > _SLOW:
                self._block = max(self._block // 2, FIRST_BLOCK)
            self.epoch, self._asked_at = epoch, now
            self._reserve(epoch, seq - 1 + self._block)
        return epoch

    def _reserve(self, epoch: str, up_to: int) -> None:
        def done(failure: str) -> None:
            if epoch != self.epoch:
                return
            self._asking = False
            if not failure:
                self.limit, self.renew_at = up_to, up_to - self._block // 2

        self._asking = True
        self._logs.reserve(self.key, epoch, up_to, done)

    def go_on(self, epoch: str, used: int, granted: int) -> None:
        """Continue after number ``used``, the last that an earlier process may have used; up to ``granted`` is reserved."""
        self.epoch, self.limit, self.renew_at = epoch, granted, used + (granted - used) // 2

    def start_over(self) -> None:
        """Begin a new epoch with the next event."""
        self.epoch, self.limit, self.renew_at = "", inf, 0

    def reserved(self, seq: int) -> int:
        """Return the number up to which the store must reserve, given that the last one used is ``seq``."""
        if self.limit == inf:
            self.limit = seq + self._block
            self.renew_at = seq + self._block // 2
        return int(self.limit)

    def forget(self) -> None:
        """Remove the topic from the store."""
        if self.epoch:
            self._logs.forget(self.key)


def restored(events: Iterable[LoggedEvent], ahead: float, now: float) -> list[HistoryEntry]:
    """Convert logged events to history entries. ``ahead`` is Unix time minus monotonic time, ``now`` is monotonic.

    If the clock was set back, times in the future become ``now``.
    """
    return [
        HistoryEntry(e.seq, e.id, min(now, e.at - ahead), e.head, e.tail, _POLICY[e.policy], e.conflation_key)
        for e in events
    ]
