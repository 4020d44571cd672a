"""What a provider is: one declaration and a few pure functions.

An adapter says how a session is opened and kept (`Session`), writes what is to be sent (`Adapter.encode`) and reads what
came (`Adapter.decode`, `Adapter.fetched`). It never touches a socket, a clock or a task; the session machine in
`relay.provider` does everything over time from the declaration. One adapter instance lives as long as one connection, so
what it learns on that connection (request ids, channel numbers) is a plain attribute; what must outlive it (symbols, a
token) is in its `Context`.

The life of a connection: ``prepare()`` fetches, all of which must succeed -> the socket is dialled -> ``encode(Hello())``
-> `Ready` (at once, or when decoded) -> ``encode(Subscribe(...))`` for what is wanted -> ``decode`` for every message.
"""

import abc
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Sequence as Sequence_
from typing import Any, ClassVar, Literal

import msgspec
from attrs import Factory, field, frozen

from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Event, Level
from relay.model.hours import Hours
from relay.model.symbols import SymbolTable

#: Decode a provider's JSON with every number that has a point or an exponent kept as its text. Integers stay ints.
loads: Callable[[str | bytes], Any] = msgspec.json.Decoder(float_hook=str).decode


def dumps(value: object) -> str:
    """Encode a frame as compact JSON text."""
    return msgspec.json.encode(value).decode()


# --- the declaration -------------------------------------------------------------------------------------------------


class CloseMeaning(enum.Enum):
    """What a close code, or a refused upgrade, means for the session."""

    RETRY = "retry"
    """Come back with backoff."""
    REFUSED = "refused"
    """Do not come back: the same attempt would be refused again (bad credentials, disabled account)."""
    TAKEOVER = "takeover"
    """Another session took this one's place. Surface it, do not fight."""
    RATE_LIMITED = "rate_limited"
    """Wait the longest backoff, or what the provider said."""


class Book(enum.Enum):
    """How depth comes."""

    NONE = "none"
    SNAPSHOTS = "snapshots"
    """Every depth message is a whole book."""
    DELTAS = "deltas"
    """A snapshot on the stream, then deltas."""
    FETCHED = "fetched"
    """Deltas on the stream; the snapshot is fetched (``encode(Snapshot(topic))``) and joined by sequence."""


@frozen(kw_only=True)
class Backoff:
    """Seconds between attempts: ``first * factor**n`` up to ``cap``, times a random share (``jitter`` 1: full).

    The count starts over only after a connection stayed up ``settle`` seconds.
    """

    first: float = 1.0
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 1.0
    settle: float = 60.0


@frozen(kw_only=True)
class Heartbeat:
    """Who keeps the connection alive, and how.

    Attributes:
        every: seconds between what WE send; None when only the provider starts.
        frame: True to send WebSocket ping frames, False to send what ``encode(Ping())`` yields.
    """

    every: float | None = None
    frame: bool = True


#: What a rate counts: WebSocket text frames, subscribe/unsubscribe frames, trading calls (HTTP and WebSocket), HTTP
#: requests, or attempts to connect.
RateOf = Literal["frame", "interest", "call", "http", "dial"]


@frozen
class Rate:
    """A token bucket the provider enforces: ``count`` per ``per`` seconds, at most ``burst`` at once."""

    count: float
    per: float = field(kw_only=True, default=1.0)
    burst: int | None = field(kw_only=True, default=None)
    of: RateOf = field(kw_only=True, default="frame")


@frozen(kw_only=True)
class Sequence:
    """Where a provider numbers its messages, and whether the numbers have no holes.

    ``topic``: `Depth.first_seq`/`last_seq` number each symbol's deltas. ``connection``: every message carries a number,
    reported with the `Counted` signal. With ``contiguous`` a hole is a loss; otherwise numbers only order.
    """

    scope: Literal["none", "topic", "connection"] = "none"
    contiguous: bool = False


Secret = str


@frozen
class Query:
    """Authenticate by a query parameter of the WebSocket URL. ``value`` is a template as `Session.url`."""

    name: str
    value: str


@frozen
class Header:
    """Authenticate by a header of the upgrade request. ``value`` is a template as `Session.url`."""

    name: str
    value: str


@frozen(kw_only=True)
class Session:
    """How a session with the provider is opened, kept and limited. All durations are seconds.

    Attributes:
        url: the WebSocket endpoint. ``{name}`` stands for an option, a credential, or a value learned by `Learned`.
        http: base of the provider's HTTP API, a template like ``url``; relative `Fetch` URLs are joined to it.
        auth: what authenticates the upgrade; None when a first frame (`Hello`) does, or nothing does.
        ready: ``open`` when subscriptions may be sent at once, ``signal`` when `Ready` must be decoded first.
        ready_within: deadline from open to ready.
        heartbeat: who pings, and how.
        silent_after: seconds without any message after which the transport is presumed dead and redialled.
        first_data_within: seconds from a subscription to its first event before it is called stale; None: ``stale_after``.
        stale_after: seconds without an event after which a topic is called stale, by kind; kinds not named are never.
        ack_within: seconds for a subscription's acknowledgement; None when the provider sends none.
        topics_per_frame: how many topics one `Subscribe` may carry.
        single: the provider allows one session per account; a second one takes it over. A new connection is then dialled
            only when the old one has ended on our side, so that a redial does not meet its own predecessor.
        closes: what close codes mean; codes not named mean RETRY.
        refusals: what HTTP statuses of a refused upgrade, or of ``prepare``, mean.
        book, sequence: how depth comes and is numbered.
        limits: the provider's budgets.
        token_lifetime: seconds a login holds where the provider's answer does not say.
        unknown_share: the share of messages that may be Unknown before an `error` event says so.
    """

    url: str
    http: str = ""
    auth: Query | Header | None = None
    ready: Literal["open", "signal"] = "open"
    ready_within: float = 10.0
    heartbeat: Heartbeat = Heartbeat()
    silent_after: float = 60.0
    first_data_within: float | None = None
    stale_after: Mapping[str, float] = Factory(dict)
    ack_within: float | None = None
    topics_per_frame: int = 100
    single: bool = False
    closes: Mapping[int, CloseMeaning] = Factory(dict)
    refusals: Mapping[int, CloseMeaning] = Factory(
        lambda: {
            401: CloseMeaning.REFUSED,
            403: CloseMeaning.REFUSED,
            429: CloseMeaning.RATE_LIMITED,
        }
    )
    backoff: Backoff = Backoff()
    book: Book = Book.NONE
    sequence: Sequence = Sequence()
    limits: tuple[Rate, ...] = ()
    token_lifetime: float | None = None
    unknown_share: float = 0.01


@frozen(kw_only=True)
class Offer:
    """One kind of stream a provider offers, for the catalog.

    Attributes:
        kind: the topic's kind (``quote``, ``candle``, ``account``, ...).
        visibility: ``public``, or ``presence`` for what belongs to an account.
        timeframes: for candles, the ones the provider has.
        example: a filter that works where neither configuration nor metadata gives a symbol, e.g. ``{"symbol": "BTC/USD"}``.
        hours: when its market trades, where that is the same for all symbols (`Adapter.hours` may say it for each): while
            it is closed quiet is normal. None: always.
    """

    kind: str
    visibility: Literal["public", "presence"] = "public"
    timeframes: tuple[str, ...] = ()
    example: Mapping[str, str] = Factory(dict)
    hours: Hours | None = None


# --- what is to be sent ----------------------------------------------------------------------------------------------


@frozen
class Hello:
    """The socket is open: what must be said first."""


@frozen
class Subscribe:
    topics: tuple[Topic, ...]


@frozen
class Unsubscribe:
    topics: tuple[Topic, ...]


@frozen
class Ping:
    """A heartbeat of ours that is not a WebSocket ping frame."""


@frozen
class EventAck:
    """Events with these provider ids were processed. ``now_ms`` is Unix time, ``correlation_id`` a fresh UUID."""

    ids: tuple[str, ...]
    now_ms: int
    correlation_id: str


@frozen
class Snapshot:
    """A whole book of this topic is needed now (`Book.FETCHED`)."""

    topic: Topic


@frozen
class Reconcile:
    """Fetch what is open on the account (orders, positions, balance): the session was away.

    ``since``, RFC 3339 on the relay's clock: from when on nothing was heard, so fills and ended orders from then on are
    missing too. None when nothing was missed that could be known of: on the first connection.
    """

    since: str | None = None


@frozen
class GivenUp:
    """The command of this id has had its reply without the provider's answer, and no answer is taken for it any more.

    An adapter that matches answers by their order or by what they say forgets the command, so that it does not take the
    answer of the next one. Usually nothing is written.
    """

    command_id: str


#: Everything an adapter may be asked to write.
Outgoing = Hello | Subscribe | Unsubscribe | Ping | EventAck | Snapshot | Reconcile | GivenUp | Command


@frozen(kw_only=True)
class Fetch:
    """An HTTP request the relay makes for the adapter; the answer comes back through ``fetched(tag, answer)``.

    ``encode`` and ``prepare`` yield it. So may ``fetched`` and ``decode`` where an answer or a message leads to a further
    request, which is then made for the same reason as the one before it: a list's next page, the second step of a login.

    Attributes:
        tag: any hashable, given back with the answer.
        url: absolute, or relative to `Session.http`.
        json, form: the body, at most one of them.
        secret_query: query parameters that must not appear in a log.
        of: which budget it counts against.
        cost: how many tokens of that budget.
    """

    tag: Hashable
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    query: Mapping[str, str] = Factory(dict)
    secret_query: Mapping[str, str] = field(factory=dict, repr=False)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    of: RateOf = "http"
    cost: int = 1
    within: float = 10.0


@frozen(kw_only=True)
class Answer:
    """The HTTP answer to a `Fetch`; ``status`` 0 means none came, ``text`` then says why."""

    status: int
    text: str
    headers: Mapping[str, str] = Factory(dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


# --- what came, beside events ----------------------------------------------------------------------------------------


@frozen
class Ready:
    """The session is open for subscriptions."""


@frozen
class Ack:
    """These topics are subscribed; ``done`` is False when they are unsubscribed instead."""

    topics: tuple[Topic, ...]
    done: bool = True


@frozen
class Nack:
    """These topics were refused; the reason is shown to whoever asks for them."""

    topics: tuple[Topic, ...]
    reason: str


@frozen
class Alive:
    """A heartbeat: it proves the transport, and nothing else."""


@frozen
class Send:
    """Send this text frame: at once (a pong), or, where ``of`` names a budget, when that one allows it.

    What is of a budget is a question of the adapter's own: it waits behind commands and subscriptions, and until half of the
    budget is left for them. The same text waits once; otherwise an adapter sees to it that few are under way.
    """

    text: str
    of: RateOf | None = None


@frozen
class Processed:
    """The provider wants an `EventAck` of these ids; the session encodes it."""

    ids: tuple[str, ...] = ()


@frozen
class CommandReply:
    """The provider's answer to the command with this ``id``: a result, or an error."""

    id: str
    result: Any = None
    error: Any = None


@frozen
class Complete:
    """The message, or the HTTP answer, named everything of this kind that is open on the account.

    What was open before and is not among the events of the same message or answer has ended unseen; the relay says so
    once. To be yielded behind those events. It counts for nothing where a part of the message was `Unknown`.

    Attributes:
        kind: ``order`` or ``position``.
        account: the account's id where it is not the session's own.
    """

    kind: Literal["order", "position"]
    account: str | None = None


@frozen
class Learned:
    """Values for the templates of `Session` (a token), kept for the session's life and never logged.

    ``expires_at`` is Unix seconds after which they must be renewed.
    """

    values: Mapping[str, Secret] = field(repr=False)
    expires_at: float | None = None


@frozen
class Counted:
    """The connection's message number (`Sequence.scope` ``connection``)."""

    number: int


@frozen
class Redial:
    """The connection is of no more use; ``meaning`` says whether to come back."""

    reason: str
    meaning: CloseMeaning = CloseMeaning.RETRY


@frozen
class Limited:
    """The provider says that its rate limit was hit; ``retry_after`` seconds when it says for how long."""

    retry_after: float | None = None


@frozen
class Unknown:
    """A message, or a part of one, that was not understood: counted and sampled, never dropped in silence."""

    raw: Any
    why: str = ""


@frozen
class Waits:
    """The provider recommends these waits before its first attempts to come back, in place of `Session.backoff`."""

    seconds: tuple[float, ...]


Signal = (
    Ready | Ack | Nack | Alive | Send | Fetch | Processed | CommandReply | Complete | Learned | Counted | Redial | Limited
    | Waits | Unknown
)  # fmt: skip


#: See `Adapter.checksum`.
Checksum = Callable[[Sequence_[Level], Sequence_[Level]], str | None]
#: How many levels a side a checksum is given; no provider known sums up more.
CHECKSUM_LEVELS = 25

# --- the adapter -----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Context:
    """What outlives a connection: one per configured provider account.

    Attributes:
        provider: the configured name.
        account: the configured account's name, None where there is none.
        options: the adapter's options, defaults filled in.
        credentials: by name, as the adapter declares them; never in a repr.
        symbols: learned and configured symbols.
        learned: what `Learned` signals gave, for templates and `Fetch` headers; never in a repr.
        kept: what an adapter leaves to the one of the next connection, by names of its own. It bounds what it keeps.
    """

    provider: str
    account: str | None = None
    options: Mapping[str, str] = Factory(dict)
    credentials: Mapping[str, Secret] = field(factory=dict, repr=False)
    symbols: SymbolTable = Factory(SymbolTable)
    learned: dict[str, Secret] = field(factory=dict, repr=False)
    kept: dict[str, Any] = field(factory=dict, repr=False)


class Adapter(abc.ABC):
    """One provider's protocol on one connection. Subclasses declare the class attributes and write the functions.

    Class attributes:
        name: the adapter's name in configuration.
        session: the declaration.
        offers: the streams it has.
        commands: the trading commands it encodes.
        options: option -> default; only these may be configured. `about_options` says what they mean.
        credentials: names of the credentials it needs.
    """

    name: ClassVar[str]
    session: ClassVar[Session]
    offers: ClassVar[tuple[Offer, ...]] = ()
    commands: ClassVar[tuple[type[Command], ...]] = ()
    options: ClassVar[Mapping[str, str]] = {}
    about_options: ClassVar[Mapping[str, str]] = {}
    credentials: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def checksum(bids: Sequence_[Level], asks: Sequence_[Level]) -> str | None:
        """What `Depth.checksum` must be for a book with these best `CHECKSUM_LEVELS` levels, best first.

        Override where the provider sends one; as it stands here nothing is checked.
        """
        return None

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """What it means that the provider closed the connection.

        As it stands here, what `Session.closes` declares for the code. Override where only the text tells two closes apart.
        """
        return cls.session.closes.get(code, CloseMeaning.RETRY)

    @classmethod
    def book_levels(cls, context: Context) -> int | None:
        """How many levels a side the provider keeps of a book when it does not say which fall out; None: it says so."""
        return None

    @classmethod
    def hours(cls, topic: Topic, context: Context) -> Hours | None:
        """When the market of ``topic`` trades; None: always, or nobody knows.

        As it stands here, what the topic's `Offer` declares. Override where the provider's metadata says it by symbol. It is
        asked only when a clock has run out, never on the path of a message.
        """
        return next((offer.hours for offer in cls.offers if offer.kind == topic.kind), None)

    def __init__(self, context: Context) -> None:
        self.context = context
        self.symbols = context.symbols

    def prepare(self) -> Iterable[Fetch]:
        """Fetches that must be answered before each dial: a login, symbol metadata not yet known."""
        return ()

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        """Frames and fetches that carry out ``outgoing``. Nothing for what the provider has no message for.

        Raises:
            relay.model.symbols.SymbolError: a symbol that cannot be written for this provider.
        """
        return ()

    @abc.abstractmethod
    def decode(self, message: str) -> Iterable[Event | Signal]:
        """Events and signals of one message. What raises here becomes one `Unknown`, and nothing of the message is used."""

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        """Events and signals of an HTTP answer."""
        return ()

    def symbol(self, native: str) -> str:
        """Canonical text of the provider's symbol."""
        return self.symbols.canonical(native)

    def native(self, symbol: str) -> str:
        """The provider's text of a canonical symbol."""
        return self.symbols.native(symbol)
