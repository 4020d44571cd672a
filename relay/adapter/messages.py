"""The messages between an adapter and the session: outgoing intents, HTTP requests and answers, and signals."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal

from attrs import Factory, field, frozen

from relay.adapter.declaration import CloseMeaning, RateOf
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Error, Event, Order, Position

Secret = str

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
    """Fetch what is open on the account (orders, positions, balance): the session was down.

    ``since``, RFC 3339: ask for fills and ended orders from then on too. It is a minute before the last message, because the
    provider's clock may differ from the relay's; what is received twice is noticed. None on the first connection.
    """

    since: str | None = None


@frozen
class GivenUp:
    """A command has had its reply without the provider's answer: its outcome is unknown, unless it was never sent.

    Yield what may tell what became of it, such as a request for the order by the sender's id. The relay says it again on
    every connection while the outcome is unknown. An adapter that matches answers by their order or by what they say forgets
    the command too, so that it does not take the answer of the next one.

    Attributes:
        again: True where the command was sent on an earlier connection, so that no answer on this one is its own.
    """

    command: Command
    again: bool = field(default=False, kw_only=True)


@frozen
class Refresh:
    """An order of the account was filled further, or its profit shows that something was filled.

    Yield the requests for what the provider does not stream of it: fills, positions, money.

    Attributes:
        account: the account's id where it is not the session's own.
    """

    account: str | None = None


#: Everything an adapter may be asked to write.
Outgoing = Hello | Subscribe | Unsubscribe | Ping | EventAck | Snapshot | Reconcile | GivenUp | Refresh | Command


@frozen(kw_only=True)
class Fetch:
    """An HTTP request the relay makes for the adapter; the answer comes back through ``fetched(tag, answer)``.

    ``encode`` and ``prepare`` yield it. So may ``fetched`` and ``decode`` where an answer or a message leads to a further
    request, which is then made for the same reason as the one before it: a list's next page, the second step of a login.

    Attributes:
        tag: any hashable, given back with the answer. That of a command may be the command itself.
        url: absolute, or relative to `Session.http`.
        authenticated: True adds `Session.http_auth`, False does not, as for a login; None: a relative URL has it, an
            absolute one, which may be somebody else's, has not.
        json, form: the body, at most one of them.
        secret_query: query parameters that must not appear in a log.
        socket: the socket whose `Session.http` a relative URL is joined to, and whose budgets it counts against, where
            these are its own (`Session.limits`).
        of: which budget it counts against.
        cost: how many tokens of that budget.
        once: a name under which at most one fetch waits. Another one that a message or an answer leads to is not made while
            one of that name waits; while one is under way, whose answer may already be too old, one is made behind it.
            It counts for nothing in a reconciliation and in a command, whose fetches are all made.
        next_page: returns the request of the page behind an answer, None behind the last page. The relay collects the pages
            of a list and hands them over at once, by the tag of the first; `Answer.pages` has them all. Not for `prepare`.
        needed: False for a fetch of `Adapter.prepare` that a connection can do without once one has succeeded, such as the
            symbols: where it fails and symbols are known, the relay dials all the same.
    """

    tag: Hashable
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    query: Mapping[str, str] = Factory(dict)
    secret_query: Mapping[str, str] = field(factory=dict, repr=False)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    socket: str = ""
    of: RateOf = "http"
    cost: int = 1
    within: float = 10.0
    once: Hashable = None
    next_page: "Callable[[Answer], Fetch | None] | None" = field(default=None, repr=False, eq=False)
    needed: bool = True
    authenticated: bool | None = None


@frozen(kw_only=True)
class Answer:
    """The HTTP answer to a `Fetch`; ``status`` 0 means none came, ``text`` then says why.

    ``before`` has the texts of the pages before it (`Fetch.next_page`).
    """

    status: int
    text: str
    headers: Mapping[str, str] = Factory(dict)
    before: tuple[str, ...] = field(default=(), repr=False)

    @property
    def pages(self) -> tuple[str, ...]:
        """The texts of all pages, in order."""
        return (*self.before, self.text)

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
    """These topics were refused; the reason is shown to whoever asks for them.

    A refusal of one topic is final on this connection, unless the reason says that too much was asked in too short a time:
    then the relay asks again (`relay.adapter.reading.is_throttled`). Where the provider refuses a request without saying
    which of its topics is at fault, name all of them: they are asked for again in parts until the one at fault is alone.
    Where it says so for each, yield one for each.
    """

    topics: tuple[Topic, ...]
    reason: str


@frozen
class Alive:
    """A heartbeat: it proves the transport, and nothing else."""


@frozen
class Send:
    """Send this frame at once: a pong, the next step of a handshake."""

    text: str | bytes


@frozen
class Poll:
    """Request what the provider does not stream, again and again. `Adapter.encode` may yield it too.

    A request waits behind commands and subscriptions, and until half of its budget is left for them. One of all polls is
    under way at a time. A poll of a known name takes its place. Polls end with the connection.

    An HTTP answer is handed to `Adapter.fetched` if it is a success; the answer to a frame is told by `Polled`. A request
    that failed, or was not answered in time, is repeated with backoff, and reported once by an `error` event.

    Attributes:
        name: any hashable but None.
        request: the frame, or the fetch.
        every: seconds from one request to the next; None: it is repeated only until it was answered.
        of: which budget a frame counts against; a fetch names its own.
        now: False: the first request is made after ``every`` seconds. A poll of a known name that says True is asked at
            once, and once more where it is under way.
        within: seconds for the answer to a frame; a fetch has its own.
        missed: the request in place of ``request`` where something may have been missed: for a `Reconcile`, and after a
            failure. None: ``request`` tells all.

    The first answer to a poll that ``encode(Reconcile())`` yields, and one to ``missed``, is a reconciliation: what differs
    from the last known state is published and marked.
    """

    name: Hashable = field()
    request: str | Fetch = field(repr=False)
    every: float | None = field(default=None, kw_only=True)
    of: RateOf = field(default="call", kw_only=True)
    now: bool = field(default=True, kw_only=True)
    within: float = field(default=10.0, kw_only=True)
    missed: str | Fetch | None = field(default=None, repr=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.name is None:
            raise ValueError("'name' of a poll must not be None")
        if self.every is not None and not self.every > 0:
            raise ValueError(f"'every' of poll {self.name!r} must be more than 0 seconds, got {self.every!r}")
        if self.every is None and not self.now:
            raise ValueError(f"'every' of poll {self.name!r} is needed where it is not asked now")


@frozen
class Polled:
    """The message answers the frame of the poll of this name.

    Attributes:
        failed: the reason why there is no answer; it is published for the first failure in a row.
        final: the poll is over: it is refused for good, or nobody needs it.
    """

    name: Hashable
    failed: Error | None = None
    final: bool = False


@frozen
class Processed:
    """The provider wants an `EventAck` of these ids; the session encodes it."""

    ids: tuple[str, ...] = ()


@frozen
class CommandReply:
    """The provider's answer to the command with this ``id``: a result, or an error.

    Attributes:
        result: the answer in the provider's own words.
        events: what the answer to a list, a history or a quote says, as the adapter reads the same elsewhere; the relay
            writes it into the reply, and publishes none of it. An `Unknown` is an element that could not be read. What is
            of another kind than was asked for is not used. None where the answer has no such list.
    """

    id: str
    result: Any = None
    error: Any = None
    events: "tuple[Event | Partial | Unknown | Complete, ...] | None" = None


@frozen
class Partial:
    """A state of which the message names only a part: what is None is as it was last known.

    The relay fills it in from the last known state before it is published, but for prices and profits of the moment.
    """

    state: Order | Position


@frozen
class Complete:
    """The message, or the HTTP answer, named everything of this kind that is open on the account.

    What was open before and is not among the events of the same message has ended unseen; the relay says so once. A fetched
    list is judged together with everything fetched for the same reason, when the last answer has come. To be yielded behind
    those events. It counts for nothing where a part of the message was `Unknown`.

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


def _pairs(raw: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(raw)


@frozen
class Symbols:
    """Symbols of the provider's metadata, as pairs of the provider's text and the canonical one.

    The relay adds them to the session's table before it goes on to the next item. A pair that contradicts another one is
    reported as an `error` event of code ``symbol``, and its native text stays its canonical name.

    Attributes:
        complete: these are all symbols the provider has, those of other lists included. From then on a symbol that is
            neither among them nor configured is refused before anything is asked of the provider. Leave it False where
            the provider may know a name that its list lacks.
        names: what the provider calls a symbol for people, by its native text; people search by it.
    """

    pairs: tuple[tuple[str, str], ...] = field(converter=_pairs)
    complete: bool = field(default=False, kw_only=True)
    names: Mapping[str, str] = field(factory=dict, kw_only=True)


@frozen
class Calendar:
    """The days on which a market does not trade as its `Hours` say: ``{"2026-11-27": "09:30-13:00", "2026-12-25": ""}``.

    By date in the time zone of the hours: spans separated by commas, empty where the market is closed. They take the place
    of the days that were known before. They are days of every `Offer.hours`; `Adapter.hours` may use them otherwise.
    """

    dates: Mapping[str, str]


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
    """A message, or a part of one, that was not understood: counted and sampled, never dropped in silence.

    ``needed`` is False for a part of an answer to `Adapter.prepare` that a connection can do without.
    """

    raw: Any
    why: str = ""
    needed: bool = field(default=True, kw_only=True)


@frozen
class Waits:
    """The provider recommends these waits before its first attempts to come back, in place of `Session.backoff`."""

    seconds: tuple[float, ...]


Signal = (
    Ready | Ack | Nack | Alive | Send | Fetch | Poll | Polled | Processed | CommandReply | Partial | Complete | Learned
    | Symbols | Calendar | Redial | Limited | Waits | Unknown
)  # fmt: skip


# --- what was asked for ----------------------------------------------------------------------------------------------

_MOST_WAITING = 1000


class Requests:
    """Remember what was asked for by which id, for a provider whose answers name the request and not its topics.

    One of these lives as long as its adapter, which is one connection. Of requests that are never answered the newest 1,000
    are kept.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Subscribe | Unsubscribe] = {}
        self._last = 0

    def next_id(self, request: Subscribe | Unsubscribe | None = None) -> int:
        """Return the id to send ``request`` with, from 1; without one, the id of a message that says nothing of topics."""
        self._last += 1
        if request is not None:
            self._waiting[self._last] = request
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return self._last

    def accepted(self, id: object) -> Ack:
        """Return what the acceptance of the request ``id`` says, a number or its text; nothing where none waits."""
        request = self._take(id)
        return Ack(request.topics, done=isinstance(request, Subscribe)) if request is not None else Ack(())

    def refused(self, id: object, reason: str) -> Nack | Error:
        """Return what the refusal of the request ``id`` says: its topics are refused, or an error where it has none."""
        request = self._take(id)
        return Nack(request.topics, reason) if isinstance(request, Subscribe) else Error(code="request", message=reason)

    def waits(self, id: object) -> bool:
        """Return whether the request ``id`` has no answer yet."""
        return _number(id) in self._waiting

    def _take(self, id: object) -> Subscribe | Unsubscribe | None:
        return self._waiting.pop(_number(id), None)


def _number(id: object) -> int:
    """Return the number an id stands for; 0, which is none, for anything else."""
    if isinstance(id, str) and id.isascii() and id.isdigit() and len(id) < 20:
        return int(id)
    return id if isinstance(id, int) else 0


class Awaited:
    """Remember the topics that were asked for, for a provider whose refusals name neither the request nor its topics.

    One of these lives as long as its adapter, which is one connection.

    Attributes:
        begun: the topics whose subscription has no answer yet.
        ended: the topics whose end has none.
    """

    def __init__(self) -> None:
        self.begun: dict[Topic, None] = {}
        self.ended: dict[Topic, None] = {}

    def asked(self, request: Subscribe | Unsubscribe) -> None:
        """Take note that the request is about to be sent; a topic waits for the newest one that is about it."""
        into, out = (self.begun, self.ended) if isinstance(request, Subscribe) else (self.ended, self.begun)
        for topic in request.topics:
            out.pop(topic, None)
            into[topic] = None

    def accepted(self, topics: Iterable[Topic], *, done: bool = True) -> Ack:
        """Return what an answer that names its topics says: they are subscribed, or not any more where not ``done``."""
        topics = tuple(topics)
        for topic in topics:
            (self.begun if done else self.ended).pop(topic, None)
        return Ack(topics, done=done)

    def refused(self, reason: str) -> Nack | Error:
        """Return what a refusal says: everything that is to begin is refused, or an error where nothing is.

        While ends wait for their answers too, the refusal may be of either. Then no topic is refused: the relay asks again
        for those that are not acknowledged. No end waits any more by then, since nothing follows from the refusal of one.
        """
        if self.ended or not self.begun:
            self.ended.clear()
            return Error(code="request", message=reason)
        topics = tuple(self.begun)
        self.begun.clear()
        return Nack(topics, reason)


class Unnamed:
    """Match answers that name no command, for a provider that repeats no id of a request.

    Such an answer may be late. So a command that was given up without its answer still counts among those that an answer may
    belong to: where it is one of several, the answer is nobody's, and each becomes unknown at its deadline. Beyond 1,000
    commands given up nothing is matched any more.

    One of these lives as long as its adapter, which is one connection.

    Args:
        sent: returns the commands that wait for their replies, the oldest first (`Known.commands`).

    Attributes:
        given_up: by their ids, the commands whose answers may still come, or be anybody's.
    """

    def __init__(self, sent: Callable[[], Iterable[Command]]) -> None:
        self._sent = sent
        self.given_up: dict[str, Command] = {}

    @property
    def waiting(self) -> list[Command]:
        """The commands that an answer may be matched with, the oldest first."""
        return [each for each in self._sent() if each.id not in self.given_up]

    def forget(self, command: Command) -> None:
        """Match no answer with this command any more (`GivenUp`)."""
        if len(self.given_up) < _MOST_WAITING:
            self.given_up[command.id] = command

    def oldest(self, *kinds: type[Command]) -> Command | None:
        """Return the command whose answer this is, where those of these types are answered in the order they were sent in.

        None where an earlier one is still owed its answer. One of all of them has it then, and nobody can say which.
        """
        waiting = [each for each in self.waiting if isinstance(each, kinds)]
        late = next((each for each in self.given_up.values() if isinstance(each, kinds)), None)
        if late is None:
            return waiting[0] if waiting else None
        if len(self.given_up) < _MOST_WAITING:
            del self.given_up[late.id]
        for each in waiting:
            self.forget(each)
        return None

    def only(self, fits: Callable[[Command], bool]) -> Command | None:
        """Return the one command that a message ``fits`` by what it says; None where it fits none, or several."""
        waiting = [each for each in self.waiting if fits(each)]
        is_sure = len(self.given_up) < _MOST_WAITING and not any(map(fits, self.given_up.values()))
        return waiting[0] if is_sure and len(waiting) == 1 else None
