"""Streams: which channel names stand for them, which topics an event belongs to, and which streams are wanted.

A name whose first part, behind its prefix, is a market kind, `account` or `status` is reserved for a stream; a malformed one
is refused with the reason, rather than taken for an application's channel that stays silent. All other names, and all of
`private-encrypted-`, are the application's.

Topics of streams begin with their first event or their first subscriber and are forgotten when idle. A merged stream
(provider `all`) exists only from its first subscriber on and, like every topic, until it has been idle.

- A market event goes to its provider's stream, and to the merged one of its symbol where that exists.
- An event of an account goes to the stream of the session's configured account; where no account is configured, to that of
  the account the event names. One that names another account than the session's configured one goes nowhere.
- A gap goes, in order, to the data streams it qualifies, and begins none. Staleness goes to these and to the status.
- All other events about a session go to its provider's status.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from relay.hub.history import DepthBook, HistoryLimits
from relay.hub.topic import TopicState
from relay.model.channels import ALL, ChannelError, Stream, Topic, parse_channel, split_prefix, topic_kind
from relay.model.events import MARKET_KINDS, AccountScoped, Event, Gap, MarketEvent, Staleness, Stamp
from relay.pusher.messages import ProtocolError
from relay.pusher.names import channel_type

Known = Callable[[Stream], str | None]
"""Returns the error of a stream (no such provider, symbol, account), None when it can be had."""
Key = TypeVar("Key", bound=Hashable)
Subject = tuple[str, str | None, str | None]
"""Kind, symbol or account or None, timeframe or None."""

_FORMS = {
    "status": "status.<provider>",
    "account": "private-account.<provider>.<account> or presence-account.<provider>.<account>",
    "candle": "candle.<provider>.<symbol>.<timeframe>",
}
_RESERVED = MARKET_KINDS | _FORMS.keys()
_STATUS: Subject = ("status", None, None)


def claims_stream(name: str) -> bool:
    """Return True if the name uses a prefix reserved for streams, even if it is malformed."""
    kind, dot, _ = split_prefix(name)[1].partition(".")
    return bool(dot) and kind in _RESERVED


def account_of(name: str) -> tuple[str, str] | None:
    """Return the provider and account whose channel this is, None for every other name."""
    if not claims_stream(name):
        return None
    try:
        stream = parse_channel(name)
    except ChannelError:
        return None
    account = stream.topic.account
    return None if account is None else (stream.provider, account)


def stream_of(name: str, known: Known, is_private: Callable[[Stream], bool]) -> Stream | None:
    """Return the stream a channel stands for, None when it is an application's own.

    Raises:
        ProtocolError: 404 with the error of the name; 401 if the stream's data need authorization and the channel has none.
    """
    if not claims_stream(name):
        return None
    kind = split_prefix(name)[1].partition(".")[0]
    try:
        stream = parse_channel(name)
    except ChannelError:
        form = _FORMS.get(kind, f"{kind}.<provider>.<symbol>")
        raise ProtocolError(f"{name} is no stream's channel, which is {form}", status=404) from None
    if not _is_text(stream.topic.symbol or stream.topic.account or ""):
        raise ProtocolError(f"{name}: what it names is no text in UTF-8", status=404)
    if stream.provider == ALL and kind not in MARKET_KINDS:
        raise ProtocolError(f"{name}: provider all merges market streams only", status=404)
    if (error := known(stream)) is not None:
        raise ProtocolError(f"{name}: {error}", status=404)
    if is_private(stream) and not channel_type(name).authorized:
        raise ProtocolError(f"{name}: this stream needs authorization; ask for private-{name}", status=401)
    return stream


def _is_text(name: str) -> bool:
    """Return False for halves of surrogate pairs, which a channel's name can spell and JSON cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Sweep(Generic[Key]):
    """Incremental sweep: visits every key of a changing collection, a bounded number per call, over and over."""

    def __init__(self) -> None:
        self._left: list[Key] = []

    def next(self, keys: Collection[Key], count: int) -> Sequence[Key]:
        """Return the next `count` keys; some may not exist any more."""
        if not self._left:
            self._left = list(keys)
        part = self._left[-count:]
        del self._left[-count:]
        return part


class Streams:
    """All topics of streams, by subject and provider, and the streams that have channels with subscribers."""

    def __init__(
        self,
        epochs: Callable[[], str],
        limits: HistoryLimits,
        pinned: Iterable[Stream] = (),
        *,
        want: Callable[[Stream], object],
        unwant: Callable[[Stream], object],
    ) -> None:
        """`want` is called when a stream gets its first channel, `unwant` when it loses its last one."""
        self._epochs = epochs
        self._limits = limits
        self._pinned = frozenset(pinned)
        self._want, self._unwant = want, unwant
        self._channels: dict[Stream, int] = {}
        self._subjects: dict[Subject, dict[str, TopicState]] = {}
        self._sweep: Sweep[Subject] = Sweep()

    def __iter__(self) -> Iterator[TopicState]:
        return (topic for by_provider in self._subjects.values() for topic in by_provider.values())

    def add_channel(self, stream: Stream) -> None:
        """Count one more channel with subscribers, over all apps and all variants of the stream's channel."""
        self._channels[stream] = channels = self._channels.get(stream, 0) + 1
        if channels == 1:
            self._want(stream)

    def remove_channel(self, stream: Stream) -> None:
        """Count one channel with subscribers less."""
        self._channels[stream] -= 1
        if not self._channels[stream]:
            del self._channels[stream]
            self._unwant(stream)

    def topic(self, stream: Stream, now: float) -> TopicState:
        """Return the topic of a stream; begin it if it does not exist."""
        return self._topic(_subject_of(stream.topic), stream.provider, now)

    def find(self, stream: Stream) -> TopicState | None:
        """Return the topic of a stream, if there is one."""
        return self._subjects.get(_subject_of(stream.topic), {}).get(stream.provider)

    def topics_of(self, event: Event, stamp: Stamp, now: float) -> Sequence[TopicState]:
        """Return the topics the event is to be published on.

        None if it is of no account or of another one than the session's, or if it qualifies no topic.
        """
        provider = stamp.provider
        if isinstance(event, MarketEvent):
            subject = (event.kind, event.symbol, getattr(event, "timeframe", None))
            by_provider = self._subjects.get(subject)
            own = by_provider.get(provider) if by_provider is not None else None
            if own is None:
                own = self._topic(subject, provider, now)
            merged = by_provider.get(ALL) if by_provider is not None else None
            return (own,) if merged is None else (own, merged)
        if isinstance(event, AccountScoped):
            account = None if event.is_foreign(stamp) else stamp.account or event.account
            return (self._topic(("account", account, None), provider, now),) if account else ()
        if isinstance(event, Gap):
            return list(self._qualified(event.of, (event.symbol,) if event.symbol else (), event.timeframe, stamp))
        if isinstance(event, Staleness):
            topics = self._qualified(event.of, event.symbols, event.timeframe, stamp)
            if event.session:  # the status channel has the `connection` event; nobody is told of what nobody follows
                return [topic for topic in topics if topic.channels or topic.permanent]
            return [*topics, self._topic(_STATUS, provider, now)]
        return (self._topic(_STATUS, provider, now),)

    def books(self, topic: TopicState) -> Iterable[DepthBook]:
        """Return the books of a depth topic: its own, or those of all providers."""
        if topic.book is not None:
            return (topic.book,)
        assert topic.stream is not None
        parts = self._subjects.get(_subject_of(topic.stream.topic), {}).values()
        return [part.book for part in parts if part.book is not None]

    def forget_idle(self, now: float, at_most: int) -> None:
        """Drop idle topics among the next `at_most` subjects."""
        for subject in self._sweep.next(self._subjects, at_most):
            by_provider = self._subjects.get(subject, {})
            for provider in [provider for provider, topic in by_provider.items() if topic.is_idle(now)]:
                del by_provider[provider]
            if not by_provider:
                self._subjects.pop(subject, None)

    def _topic(self, subject: Subject, provider: str, now: float) -> TopicState:
        by_provider = self._subjects.get(subject)
        if by_provider is None:
            by_provider = self._subjects[subject] = {}
        topic = by_provider.get(provider)
        if topic is None:
            topic = self._begin(subject, provider, now)
            if topic.merged:
                topic.copy_values(by_provider)
            by_provider[provider] = topic
        return topic

    def _begin(self, subject: Subject, provider: str, now: float) -> TopicState:
        kind, name, timeframe = subject
        if kind == "account":
            stream = Stream(provider, Topic(kind=kind, account=name))
        else:
            stream = Stream(provider, Topic(kind=kind, symbol=name, timeframe=timeframe))
        permanent = kind in ("account", "status") or stream in self._pinned
        return TopicState(stream, self._epochs(), self._limits, now, permanent=permanent)

    def _qualified(
        self, of: str | None, symbols: Sequence[str], timeframe: str | None, stamp: Stamp
    ) -> Iterator[TopicState]:
        """Return the data topics that a gap or staleness is about; a member it does not name stands for all of them."""
        kind = None if of is None else topic_kind(of)
        subjects: Iterable[Subject]
        if kind in MARKET_KINDS and symbols and (kind != "candle" or timeframe is not None):
            subjects = [(kind, symbol, timeframe) for symbol in symbols]
        else:
            subjects = [subject for subject in self._subjects if _is_about(subject, kind, symbols, timeframe, stamp)]
        for subject in subjects:
            by_provider = self._subjects.get(subject, {})
            if stamp.provider in by_provider:  # a merged topic alone has nothing of this provider
                yield from (by_provider[name] for name in (stamp.provider, ALL) if name in by_provider)


def _subject_of(topic: Topic) -> Subject:
    return topic.kind, topic.account if topic.kind == "account" else topic.symbol, topic.timeframe


def _is_about(subject: Subject, kind: str | None, symbols: Sequence[str], timeframe: str | None, stamp: Stamp) -> bool:
    its_kind, name, its_timeframe = subject
    if its_kind == "status" or kind not in (None, its_kind) or timeframe not in (None, its_timeframe):
        return False
    if its_kind == "account":
        return (kind == "account" or not symbols) and stamp.account in (None, name)
    return not symbols or name in symbols
