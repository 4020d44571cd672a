"""Streams: map channel names to streams and events to topics, and request streams that have subscribers.

A channel name is reserved for a stream if its first part, after the prefix, is a market kind, `account` or `status`. A
malformed reserved name is refused with the reason; otherwise it would be an application's channel without events. All other
names, and all that begin with `private-encrypted-`, belong to the application.

The topic of a stream is created by its first event or subscriber and dropped when idle. The topic of a merged stream
(provider `all`) is created by its first subscriber only.

- A market event is published on its provider's stream, and on the merged stream of its symbol, if that exists.
- An account event is published on the stream of the session's configured account, or, if none is configured, of the account
  in the event. It is dropped if it names another account than the configured one.
- A gap is published, in order, on the existing data streams that it concerns. A staleness event is published on the same
  streams, and on the status if they are pinned or have had data; the reason of an account's staleness is only published to
  its readers. A merged stream gets those of each provider that was subscribed for it, except of providers that refused it
  and never sent data.
- An error about an account is published on that account's stream only.
- All other events about a session are published on its provider's status.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import Generic, TypeVar

from relay.hub.history import DepthBook, HistoryLimits
from relay.hub.log import TopicLog, stream_key
from relay.hub.topic import TopicState
from relay.model.channels import ALL, Asker, ChannelError, Stream, Topic, parse_channel, split_prefix, topic_kind
from relay.model.events import MARKET_KINDS, AccountScoped, Error, Event, Gap, MarketEvent, Staleness, Stamp
from relay.pusher.messages import ProtocolError
from relay.pusher.names import channel_type

Known = Callable[[Stream], str | None]
"""Returns the error of a stream (unknown provider, symbol or account); None if it is valid."""
Key = TypeVar("Key", bound=Hashable)
NewLog = Callable[[str], TopicLog | None]
"""Creates the log of a topic, given its name in the store; returns None if it has no log."""
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
    """Return the provider and account of an account's channel; None for any other name."""
    if not claims_stream(name):
        return None
    try:
        stream = parse_channel(name)
    except ChannelError:
        return None
    account = stream.topic.account
    return None if account is None else (stream.provider, account)


def stream_of(name: str, known: Known, is_private: Callable[[Stream], bool]) -> Stream | None:
    """Return the stream of a channel name; None if it is an application's own channel.

    Raises:
        ProtocolError: 404 because the name is invalid; 401 because the stream needs authorization and the channel is public.
    """
    if not claims_stream(name):
        return None
    kind = split_prefix(name)[1].partition(".")[0]
    try:
        stream = parse_channel(name)
    except ChannelError:
        form = _FORMS.get(kind, f"{kind}.<provider>.<symbol>")
        raise ProtocolError(f"{name} is not a valid channel of a stream; the form is {form}", status=404) from None
    if not _is_text(stream.topic.symbol or stream.topic.account or ""):
        raise ProtocolError(f"{name}: the name is not valid Unicode", status=404)
    if stream.provider == ALL and kind not in MARKET_KINDS:
        raise ProtocolError(f"{name}: provider all has market streams only", status=404)
    if (error := known(stream)) is not None:
        raise ProtocolError(f"{name}: {error}", status=404)
    if is_private(stream) and not channel_type(name).authorized:
        raise ProtocolError(f"{name}: this stream needs authorization; subscribe to private-{name}", status=401)
    return stream


def _is_text(name: str) -> bool:
    """Return False for lone surrogates, which cannot be encoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class IdleTopics(Generic[Key]):
    """Topics without a channel, which are kept so that clients can resume.

    They are bounded in number and in bytes. Topics that never had an event are dropped first, then the oldest: any client
    can create topics by subscribing to names, and these must not displace published events. A topic is `put` when it loses
    its last channel or is created without one, and `remove`d when it gets a channel.
    """

    def __init__(self, limits: HistoryLimits) -> None:
        self._limits = limits
        self._empty: OrderedDict[Key, tuple[TopicState, int]] = OrderedDict()
        self._used: OrderedDict[Key, tuple[TopicState, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._empty) + len(self._used)

    def put(self, key: Key, topic: TopicState, *, used: bool = False) -> list[Key]:
        """Add `topic`; return the keys of the topics dropped for it, which may include its own.

        `used`: it has had an event, or is about to have one.
        """
        self.remove(key)
        if topic.permanent or topic.channels:
            return []
        size = topic.size
        (self._used if used or topic.seq else self._empty)[key] = topic, size
        self._bytes += size
        gone: list[Key] = []
        while len(self) > self._limits.idle_topics or self._bytes > self._limits.idle_bytes:
            name, (oldest, _) = next(iter((self._empty or self._used).items()))
            if oldest.seq and self._empty:  # it had its first event since
                gone += self.put(name, oldest)
                continue
            self.remove(name)
            gone.append(name)
        return gone

    def remove(self, key: Key) -> None:
        """Remove the topic of this key, if it is here."""
        found = self._empty.pop(key, None) or self._used.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def take_expired(self, now: float, at_most: int, keep_value: float = 0.0) -> list[Key]:
        """Check up to `at_most` topics with, and as many without, events; remove and return the keys of the expired ones."""
        expired = []
        for topics in (self._empty, self._used):
            for key, (topic, _) in list(islice(topics.items(), at_most)):
                if topic.is_idle(now, keep_value):
                    self.remove(key)
                    expired.append(key)
                else:
                    topics.move_to_end(key)
        return expired


class Streams:
    """All topics of streams, by subject and provider, and the streams that have channels with subscribers."""

    def __init__(
        self,
        epochs: Callable[[], str],
        limits: HistoryLimits,
        pinned: Iterable[Stream] = (),
        *,
        want: Callable[[Stream, Asker], Iterable[str]],
        want_too: Callable[[Stream, Asker], object],
        unwant: Callable[[Stream], object],
        new_log: NewLog = lambda key: None,
    ) -> None:
        """Create the table of topics.

        Args:
            want: called when a stream gets its first channel; returns the providers that are subscribed for it.
            want_too: called for each further subscriber.
            unwant: called when a stream loses its last channel.
            new_log: creates the log of a topic, or returns None.
        """
        self._new_log = new_log
        self._epochs = epochs
        self._limits = limits
        self._pinned = frozenset(pinned)
        self._want, self._want_too, self._unwant = want, want_too, unwant
        self._channels: dict[Stream, int] = {}
        #: The providers that are subscribed for a merged stream, by its subject.
        self._merged: dict[Subject, frozenset[str]] = {}
        self._subjects: dict[Subject, dict[str, TopicState]] = {}
        self._idle: IdleTopics[tuple[Subject, str]] = IdleTopics(limits)
        for stream in self._pinned:  # so that gaps and staleness before the first subscriber are stored for it
            self._topic(_subject_of(stream.topic), stream.provider, -inf)

    def __iter__(self) -> Iterator[TopicState]:
        return (topic for by_provider in self._subjects.values() for topic in by_provider.values())

    def add_channel(self, stream: Stream, by: Asker) -> None:
        """Count one more channel with subscribers, over all apps and all variants of the stream's channel."""
        self._channels[stream] = channels = self._channels.get(stream, 0) + 1
        if channels == 1:
            self._idle.remove((_subject_of(stream.topic), stream.provider))
            asked = self._want(stream, by)
            if stream.provider == ALL:
                self._merged[_subject_of(stream.topic)] = frozenset(asked)
        else:
            self._want_too(stream, by)

    def add_subscriber(self, stream: Stream, by: Asker) -> None:
        """Note one more subscriber of a channel that has some."""
        self._want_too(stream, by)

    def remove_channel(self, stream: Stream) -> None:
        """Count one channel with subscribers less."""
        self._channels[stream] -= 1
        if not self._channels[stream]:
            del self._channels[stream]
            self._unwant(stream)
            if stream.provider == ALL:
                del self._merged[_subject_of(stream.topic)]
            self.settle(stream)

    def topic(self, stream: Stream, now: float) -> TopicState:
        """Return the topic of a stream; create it if it does not exist."""
        return self._topic(_subject_of(stream.topic), stream.provider, now)

    def find(self, stream: Stream) -> TopicState | None:
        """Return the topic of a stream, if there is one."""
        return self._subjects.get(_subject_of(stream.topic), {}).get(stream.provider)

    def topics_of(self, event: Event, stamp: Stamp, now: float) -> Sequence[TopicState]:
        """Return the topics to publish the event on.

        There are none for an account event without an account or of another account, and for a gap of streams without
        topics.
        """
        provider = stamp.provider
        if isinstance(event, MarketEvent):
            subject = (event.kind, event.symbol, getattr(event, "timeframe", None))
            by_provider = self._subjects.get(subject)
            own = by_provider.get(provider) if by_provider is not None else None
            if own is None:
                own = self._topic(subject, provider, now)
                self._forget(self._idle.put((subject, provider), own, used=True))
                by_provider = self._subjects.get(subject)
            merged = by_provider.get(ALL) if by_provider is not None else None
            return (own,) if merged is None else (own, merged)
        if isinstance(event, AccountScoped):
            account = None if event.is_foreign(stamp) else stamp.account or event.account
            return (self._topic(("account", account, None), provider, now),) if account else ()
        if isinstance(event, Error) and event.account is not None:
            return (self._topic(("account", stamp.account or event.account, None), provider, now),)
        if isinstance(event, Gap):
            return list(self._qualified(event.of, (event.symbol,) if event.symbol else (), event.timeframe, stamp))
        if isinstance(event, Staleness):
            asked = not event.refused
            topics = list(self._qualified(event.of, event.symbols, event.timeframe, stamp, asked=asked))
            if event.session:  # the status channel has the `connection` event instead
                return [topic for topic in topics if topic.channels or topic.permanent]
            if event.of == "account" and event.reason:  # a broker's text is only for the account's readers
                return topics
            if event.symbols and not any(topic.permanent or topic.has_value_of(provider) for topic in topics):
                return topics  # arbitrary names that clients subscribe to must not appear on the provider's status
            return [*topics, self._topic(_STATUS, provider, now)]
        return (self._topic(_STATUS, provider, now),)

    def books(self, topic: TopicState) -> Iterable[DepthBook]:
        """Return the books of a depth topic: its own, or those of all providers."""
        if topic.book is not None:
            return (topic.book,)
        assert topic.stream is not None
        parts = self._subjects.get(_subject_of(topic.stream.topic), {}).values()
        return [part.book for part in parts if part.book is not None]

    def followed(self, stream: Stream, now: float) -> tuple[TopicState, TopicState | None]:
        """Return the topic of a stream for a new event, and its merged topic, if there is one."""
        subject = _subject_of(stream.topic)
        topic = self._topic(subject, stream.provider, now)
        if not topic.seq:
            self._forget(self._idle.put((subject, stream.provider), topic, used=True))
        by_provider = self._subjects.get(subject)
        return topic, None if by_provider is None else by_provider.get(ALL)

    def hold(self, stream: Stream, held: bool, now: float) -> None:
        """Keep the topic of a stream and its events even without subscribers, until called again with False."""
        if stream.topic.kind in ("account", "status") or stream in self._pinned:
            return
        topic = self.topic(stream, now)
        topic.permanent = held
        if held:
            topic.keep_until = inf
            self._idle.remove((_subject_of(stream.topic), stream.provider))
        elif not topic.channels:
            topic.keep_until = now + self._limits.age
            self.settle(stream)

    def forget_idle(self, now: float, at_most: int) -> None:
        """Drop idle topics; check at most `at_most` of them."""
        self._forget(self._idle.take_expired(now, at_most))

    def settle(self, stream: Stream) -> None:
        """Count the topic of a stream as idle if it has no channel, and drop topics beyond the limits."""
        if (topic := self.find(stream)) is not None:
            self._forget(self._idle.put((_subject_of(stream.topic), stream.provider), topic))

    def _forget(self, keys: Iterable[tuple[Subject, str]]) -> None:
        for subject, provider in keys:
            by_provider = self._subjects[subject]
            by_provider.pop(provider).forget()
            if not by_provider:
                del self._subjects[subject]

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
        # A merged topic has no log: its events are those of its providers' topics, in the order of arrival at this relay.
        key = None if provider == ALL else stream_key(stream)
        log = None if key is None else self._new_log(key)
        return TopicState(stream, self._epochs(), self._limits, now, permanent=permanent, log=log)

    def _qualified(
        self, of: str | None, symbols: Sequence[str], timeframe: str | None, stamp: Stamp, *, asked: bool = False
    ) -> Iterator[TopicState]:
        """Return the data topics that a gap or staleness event concerns. A member that is None or empty matches all.

        A merged topic is included if it has, or may have, data of this provider; with ``asked``, also if the provider was
        subscribed for it.
        """
        kind = None if of is None else topic_kind(of)
        subjects: Iterable[Subject]
        if kind in MARKET_KINDS and symbols and (kind != "candle" or timeframe is not None):
            subjects = [(kind, symbol, timeframe) for symbol in symbols]
        else:
            subjects = [subject for subject in self._subjects if _is_about(subject, kind, symbols, timeframe, stamp)]
        for subject in subjects:
            by_provider = self._subjects.get(subject, {})
            if stamp.provider in by_provider or (asked and stamp.provider in self._merged.get(subject, ())):
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
