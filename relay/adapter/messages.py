"""The messages between an adapter and the session: outgoing intents, HTTP requests and answers, and signals."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal

from attrs import Factory, field, frozen

from relay.adapter.declaration import CloseMeaning, RateOf
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Error, Event, Order, Position

Secret = str

# --- outgoing messages -----------------------------------------------------------------------------------------------


@frozen
class Hello:
    """The socket is open: send the first messages, such as a login."""


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
    """Fetch the account's open orders, positions and balance, because events may have been missed.

    ``since``, RFC 3339: also fetch fills and ended orders since then. It is a minute before the last message, because the
    provider's clock may differ from the relay's; duplicates are recognized. None on the first connection.
    """

    since: str | None = None


@frozen
class GivenUp:
    """A command has ended without the provider's answer: its outcome is unknown, unless it was never sent.

    Yield requests that may show the outcome, such as one for the order by its client order id. The relay repeats this signal
    on every connection while the outcome is unknown. An adapter that matches answers by their order or content must drop the
    command, so that it does not get the answer of the next one.

    Attributes:
        again: True if the command was sent on an earlier connection, so that no answer on this one belongs to it.
    """

    command: Command
    again: bool = field(default=False, kw_only=True)


@frozen
class Refresh:
    """A fill has happened on the account: an order was filled further, or the profit has changed.

    Yield requests for the resulting data that the provider does not stream: fills, positions, balances.

    Attributes:
        account: the account's id, if it is not the session's own.
    """

    account: str | None = None


@frozen
class Seek:
    """An order is to be asked for alone (`Orders.sought`): a whole list lacks it, or a fill names it and nobody knows it.

    Yield the request for this one order. `Sought` says what the answer tells.

    Attributes:
        account: the account's id where it is not the session's own.
    """

    order_id: str
    account: str | None = None


#: The arguments of `Adapter.encode`.
Outgoing = Hello | Subscribe | Unsubscribe | Ping | EventAck | Snapshot | Reconcile | GivenUp | Refresh | Seek | Command


@frozen(kw_only=True)
class Fetch:
    """An HTTP request the relay makes for the adapter; the answer comes back through ``fetched(tag, answer)``.

    ``encode`` and ``prepare`` yield it. ``fetched`` and ``decode`` may yield it too, as a follow-up of the answer or
    message,
    with the same purpose: the second step of a login, for example.

    Attributes:
        tag: any hashable value, passed back with the answer. For a command it may be the command itself.
        url: absolute, or relative to `Session.http`.
        authenticated: True adds `Session.http_auth`, False does not (for a login). None adds it to relative URLs only, as an
            absolute URL may belong to another party.
        json, form: the body, at most one of them.
        secret_query: query parameters that must not appear in a log.
        socket: the socket whose `Session.http` a relative URL is joined to, and whose limits it draws from if that has its
            own (`Session.limits`).
        of: the limit it draws from.
        cost: the number of tokens it draws.
        once: a key for merging follow-up requests: a request is dropped while another one with the same key waits. While one
            is in flight, whose answer may be too old, one more is queued after it. Ignored for reconciliations and commands.
        next_page: returns the request of the page after an answer; None after the last page. The relay collects the pages of
            a list and passes them on together, with the tag of the first; `Answer.pages` has them all. Not for `prepare`.
        needed: False for a request of `Adapter.prepare` that only has to succeed once, such as the symbols: if it fails
            later, the relay connects with the symbols that it knows.
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
    """The HTTP answer to a `Fetch`. ``status`` is 0 if there was none; ``text`` is then the reason.

    ``before`` has the texts of the earlier pages (`Fetch.next_page`).
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


# --- signals: decoded items that are not events ----------------------------------------------------------------------


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
    """The provider refused these topics; subscribers see the reason.

    The refusal of one topic is final on this connection, unless the reason is a rate limit
    (`relay.adapter.reading.is_throttled`); then it is requested again. If the provider refuses a request without naming the
    bad topic, pass all of its topics: they are requested again in parts until the bad one is alone. If it names them, yield
    one `Nack` for each.
    """

    topics: tuple[Topic, ...]
    reason: str


@frozen
class Alive:
    """A heartbeat: the connection is alive."""


@frozen
class Send:
    """Send this frame at once: a pong, the next step of a handshake."""

    text: str | bytes


@frozen
class Poll:
    """Repeat a request for data that the provider does not stream. `Adapter.encode` may yield it too.

    Requests have a lower priority than commands and subscriptions, and need half of their budget to be free. One poll is in
    flight at a time. A new poll replaces the one of the same name. Polls end with the connection.

    A successful HTTP answer is passed to `Adapter.fetched`. The answer to a frame must be signalled by `Polled`. A failed or
    unanswered request is repeated with backoff, and reported once by an `error` event.

    Attributes:
        name: any hashable value except None.
        request: the frame or the `Fetch`.
        every: seconds between requests; None to repeat only until it is answered.
        of: the limit that a frame draws from; a `Fetch` names its own.
        now: False to send the first request after ``every`` seconds. If True and a poll of this name exists, it is sent at
            once, or once more if it is in flight.
        within: seconds for the answer to a frame; a `Fetch` has its own.
        missed: the request to send instead of ``request`` if events may have been missed: for a `Reconcile`, and after a
            failure. None if ``request`` covers that.

    The first answer to a poll from ``encode(Reconcile())``, and any answer to ``missed``, is a reconciliation: only states
    that differ from the last known ones are published, marked ``reconciled``.
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
            raise ValueError(f"'every' of poll {self.name!r} is required if 'now' is False")


@frozen
class Polled:
    """The message is the answer to the frame of the poll of this name.

    Attributes:
        failed: the error, if the request failed; it is published for the first failure in a row.
        final: True to end the poll, because it is refused permanently or not needed any more.
    """

    name: Hashable
    failed: Error | None = None
    final: bool = False


@frozen
class Processed:
    """The provider requires an acknowledgement of these ids: the session encodes an `EventAck`."""

    ids: tuple[str, ...] = ()


@frozen
class CommandReply:
    """The provider's answer to the command with this ``id``: a result, or an error.

    Attributes:
        result: the provider's answer, unchanged.
        events: the decoded answer to a command that reads data (a list, a history, a quote). It is part of the reply and not
            published. An `Unknown` stands for an element that could not be decoded. Events of another kind than requested
            are ignored. None if the answer has no list.
    """

    id: str
    result: Any = None
    error: Any = None
    events: "tuple[Event | Partial | Unknown | Complete, ...] | None" = None


@frozen
class Partial:
    """A state with only some members: those that are None keep their last known values.

    The relay fills them in before publishing, except current prices and profits.
    """

    state: Order | Position


@frozen
class Sought:
    """The answer to a request for one order (`Orders.sought`), of `Seek` or of the adapter's own.

    Attributes:
        state: the order as it is now, with the id that the answer has. Where that is not the one that was asked for, both
            are ids of this order: from then on it is published under the one that was known first, whatever a list or a
            fill calls it. None: there is no such order, so that one that a list lacks has vanished.
        order_id: the id it was asked for by; None where it was asked for by its sender's, which the state has.
        account: the account's id where it is not the session's own.
        failed: the reason why there is none; it is published unless a list lacks the order too.
    """

    state: Order | None
    order_id: str | None = None
    account: str | None = None
    failed: Error | None = field(default=None, kw_only=True)


@frozen
class Complete:
    """The message or HTTP answer contained all open orders or positions of the account.

    Yield it after their events. An order or position that was open and is not among them has ended; the relay publishes that
    once. A fetched list is evaluated together with all other requests of the same reconciliation, after the last answer. The
    signal is ignored if a part of the message was `Unknown`. Where one order can be asked for (`Orders.sought`), the relay
    asks for a missing one first.

    Attributes:
        kind: ``order`` or ``position``.
        account: the account's id, if it is not the session's own.
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
    """Symbols from the provider's metadata, as pairs of the native and the canonical name.

    They are in the session's table when the next item is handled. A pair that contradicts another one is reported as an
    `error` event with code ``symbol``; its native name is then used as the canonical one.

    Attributes:
        complete: True if these, with those of other lists, are all symbols of the provider. Other symbols are then refused
            without a request, unless they are configured. Leave it False if the provider may accept further names.
        names: display names by native name, for the symbol search.
    """

    pairs: tuple[tuple[str, str], ...] = field(converter=_pairs)
    complete: bool = field(default=False, kw_only=True)
    names: Mapping[str, str] = field(factory=dict, kw_only=True)


@frozen
class Calendar:
    """The days with trading hours other than a market's `Hours`: ``{"2026-11-27": "09:30-13:00", "2026-12-25": ""}``.

    By date in the time zone of the hours: spans separated by commas, empty if the market is closed. They replace the days of
    an earlier signal. They apply to every `Offer.hours`; `Adapter.hours` may use them otherwise.
    """

    dates: Mapping[str, str]


@frozen
class Redial:
    """Close the connection; ``meaning`` determines if and when to connect again."""

    reason: str
    meaning: CloseMeaning = CloseMeaning.RETRY


@frozen
class Limited:
    """The provider reported an exceeded rate limit; ``retry_after`` is the requested wait in seconds, if known."""

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
    Ready | Ack | Nack | Alive | Send | Fetch | Poll | Polled | Processed | CommandReply | Partial | Sought | Complete
    | Learned | Symbols | Calendar | Redial | Limited | Waits | Unknown
)  # fmt: skip


# --- matching answers with requests ----------------------------------------------------------------------------------

_MOST_WAITING = 1000


class Requests:
    """Remember the topics of each request id, for a provider whose answers contain the id and not the topics.

    Create one for each adapter instance. The newest 1,000 requests without an answer are remembered.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Subscribe | Unsubscribe] = {}
        self._last = 0

    def next_id(self, request: Subscribe | Unsubscribe | None = None) -> int:
        """Return the id to send ``request`` with, from 1. Without a request, return an id for a message without topics."""
        self._last += 1
        if request is not None:
            self._waiting[self._last] = request
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return self._last

    def accepted(self, id: object) -> Ack:
        """Return the `Ack` for the accepted request ``id``, a number or its text; it has no topics if the id is unknown."""
        request = self._take(id)
        return Ack(request.topics, done=isinstance(request, Subscribe)) if request is not None else Ack(())

    def refused(self, id: object, reason: str) -> Nack | Error:
        """Return the `Nack` for the refused request ``id``; an `Error` if it was not a subscribe request."""
        request = self._take(id)
        return Nack(request.topics, reason) if isinstance(request, Subscribe) else Error(code="request", message=reason)

    def waits(self, id: object) -> bool:
        """Return whether the request ``id`` has no answer yet."""
        return _number(id) in self._waiting

    def _take(self, id: object) -> Subscribe | Unsubscribe | None:
        return self._waiting.pop(_number(id), None)


def _number(id: object) -> int:
    """Return an id as a number; 0, which is never used, if it is not one."""
    if isinstance(id, str) and id.isascii() and id.isdigit() and len(id) < 20:
        return int(id)
    return id if isinstance(id, int) else 0


class Awaited:
    """Remember the requested topics, for a provider whose refusals name neither the request nor its topics.

    Create one for each adapter instance.

    Attributes:
        begun: the topics whose subscribe request has no answer yet.
        ended: the topics whose unsubscribe request has no answer yet.
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
        """Return the `Ack` for an answer that names its topics: they are subscribed, or, if not ``done``, unsubscribed."""
        topics = tuple(topics)
        for topic in topics:
            (self.begun if done else self.ended).pop(topic, None)
        return Ack(topics, done=done)

    def refused(self, reason: str) -> Nack | Error:
        """Return a `Nack` for all topics without an answer to their subscribe request; an `Error` if there are none.

        While unsubscribe requests are unanswered too, the refusal may belong to one of them, and an `Error` is returned. The
        topics that are not acknowledged are requested again later.
        """
        if self.ended or not self.begun:
            self.ended.clear()
            return Error(code="request", message=reason)
        topics = tuple(self.begun)
        self.begun.clear()
        return Nack(topics, reason)


class Unnamed:
    """Match answers with commands, for a provider whose answers contain no id of the request.

    An answer may be late, so commands that ended without an answer are still candidates. If an answer fits several commands,
    it is ignored, and each of them becomes unknown at its deadline. After 1,000 commands without an answer nothing is
    matched any more.

    Create one for each adapter instance.

    Args:
        sent: returns the open commands, oldest first (`Known.commands`).

    Attributes:
        given_up: the commands that ended without an answer, which may still arrive, by id.
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
        """Return the oldest open command of these types, for a provider that answers them in the order they were sent in.

        None if an earlier one ended without an answer: the answer may then belong to any of them.
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
        """Return the one open command for which ``fits`` is true; None if there is none or more than one."""
        waiting = [each for each in self.waiting if fits(each)]
        is_sure = len(self.given_up) < _MOST_WAITING and not any(map(fits, self.given_up.values()))
        return waiting[0] if is_sure and len(waiting) == 1 else None
