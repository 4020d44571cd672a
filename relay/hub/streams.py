"""Which topics an event belongs to: its own stream's, the merged stream's of its symbol, an account's, a status's.

Topics of streams begin with their first event or their first subscriber and are forgotten when idle. A merged stream
(provider `all`) exists only from its first subscriber on and, like every topic, until it has been idle.

- A market event goes to its provider's stream, and to the merged one of its symbol where that exists.
- An event of an account goes to the stream of the session's configured account; where no account is configured, to that of
  the account the event names. One that names another account than the session's configured one goes nowhere.
- A gap goes, in order, to the data streams it qualifies, and begins none. Staleness goes to these and to the status.
- Everything else about a session goes to its provider's status.
"""

from collections.abc import Iterable, Iterator, Sequence

from relay.hub.depth import Book
from relay.hub.history import HistoryLimits
from relay.hub.sequence import Sequencer
from relay.hub.sweep import Sweep
from relay.hub.topic import TopicState, seed
from relay.model.channels import ALL, ChannelError, Stream, Topic, channel_name, topic_kind
from relay.model.events import MARKET_KINDS, AccountScoped, Event, Gap, MarketEvent, Staleness, Stamp

#: What a stream is about: (kind, symbol or account or None, timeframe or None).
Subject = tuple[str, str | None, str | None]

_STATUS: Subject = ("status", None, None)


def subject_of(topic: Topic) -> Subject:
    """The subject of a stream's topic."""
    return topic.kind, topic.account if topic.kind == "account" else topic.symbol, topic.timeframe


class Streams:
    """All topics of streams, by subject and provider."""

    def __init__(self, sequencer: Sequencer, limits: HistoryLimits, pinned: Iterable[Stream] = ()) -> None:
        self._sequencer = sequencer
        self._limits = limits
        self._pinned = frozenset(pinned)
        self._subjects: dict[Subject, dict[str, TopicState]] = {}
        self._round: Sweep[Subject] = Sweep()

    def __iter__(self) -> Iterator[TopicState]:
        return (topic for of_subject in self._subjects.values() for topic in of_subject.values())

    def topic(self, stream: Stream, now: float) -> TopicState:
        """The topic of a stream, begun where it does not exist."""
        return self._topic(subject_of(stream.topic), stream.provider, now)

    def find(self, stream: Stream) -> TopicState | None:
        """The topic of a stream, if there is one."""
        return self._subjects.get(subject_of(stream.topic), {}).get(stream.provider)

    def of(self, event: Event, stamp: Stamp, now: float) -> Sequence[TopicState]:
        """The topics the event is to be published on; none where it is of no account or another's, or qualifies nothing."""
        provider = stamp.provider
        if isinstance(event, MarketEvent):
            subject = (event.kind, event.symbol, getattr(event, "timeframe", None))
            of_subject = self._subjects.get(subject)
            own = of_subject.get(provider) if of_subject is not None else None
            if own is None:
                own = self._topic(subject, provider, now)
            merged = of_subject.get(ALL) if of_subject is not None else None
            return (own,) if merged is None else (own, merged)
        if isinstance(event, AccountScoped):
            account = None if event.is_foreign(stamp) else stamp.account or event.account
            return (self._topic(("account", account, None), provider, now),) if account else ()
        if isinstance(event, Gap):
            return list(self._qualified(event.of, (event.symbol,) if event.symbol else (), event.timeframe, stamp))
        status = self._topic(_STATUS, provider, now)
        if isinstance(event, Staleness):
            return [*self._qualified(event.of, event.symbols, event.timeframe, stamp), status]
        return (status,)

    def books(self, topic: TopicState) -> Iterable[Book]:
        """The books a depth topic's snapshot is made of: its own, or those of all providers."""
        if topic.book is not None:
            return (topic.book,)
        assert topic.stream is not None
        parts = self._subjects.get(subject_of(topic.stream.topic), {}).values()
        return [part.book for part in parts if part.book is not None]

    def forget_idle(self, now: float, at_most: int) -> None:
        """Drop topics nobody could ask for any more, among the next `at_most` subjects."""
        for subject in self._round.next(self._subjects, at_most):
            of_subject = self._subjects.get(subject, {})
            for provider in [provider for provider, topic in of_subject.items() if topic.is_idle(now)]:
                del of_subject[provider]
            if not of_subject:
                self._subjects.pop(subject, None)

    def _topic(self, subject: Subject, provider: str, now: float) -> TopicState:
        of_subject = self._subjects.get(subject)
        if of_subject is None:
            of_subject = self._subjects[subject] = {}
        topic = of_subject.get(provider)
        if topic is None:
            topic = of_subject[provider] = self._begin(subject, provider, now)
            if topic.merged:
                seed(topic, {name: part for name, part in of_subject.items() if part is not topic})
        return topic

    def _begin(self, subject: Subject, provider: str, now: float) -> TopicState:
        kind, name, timeframe = subject
        if kind == "account":
            stream = Stream(provider, Topic(kind=kind, account=name))
        else:
            stream = Stream(provider, Topic(kind=kind, symbol=name, timeframe=timeframe))
        kept = kind in ("account", "status") or stream in self._pinned
        return TopicState(stream, self._sequencer.open(_name(stream)), self._limits, now, kept=kept)

    def _qualified(
        self, of: str | None, symbols: Sequence[str], timeframe: str | None, stamp: Stamp
    ) -> Iterator[TopicState]:
        """The data topics that a gap or staleness is about; what it does not say, it says of all."""
        kind = None if of is None else topic_kind(of)
        subjects: Iterable[Subject]
        if kind in MARKET_KINDS and symbols and (kind != "candle" or timeframe is not None):
            subjects = [(kind, symbol, timeframe) for symbol in symbols]
        else:
            subjects = [subject for subject in self._subjects if _is_about(subject, kind, symbols, timeframe, stamp)]
        for subject in subjects:
            of_subject = self._subjects.get(subject, {})
            yield from (of_subject[name] for name in (stamp.provider, ALL) if name in of_subject)


def _is_about(subject: Subject, kind: str | None, symbols: Sequence[str], timeframe: str | None, stamp: Stamp) -> bool:
    its_kind, name, its_timeframe = subject
    if its_kind == "status" or kind not in (None, its_kind) or timeframe not in (None, its_timeframe):
        return False
    if its_kind == "account":
        return (kind == "account" or not symbols) and stamp.account in (None, name)
    return not symbols or name in symbols


def _name(stream: Stream) -> str:
    try:
        return channel_name(stream)
    except ChannelError:  # too long to be anybody's channel; it still has its numbers
        return f"{stream.topic.kind}.{stream.provider}"
