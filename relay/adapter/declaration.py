"""The declarations of an adapter: its session, its streams, its options and the orders it takes.

Every declaration is checked when it is made, which is when the adapter's module is imported. A wrong type or value raises
`TypeError` or `ValueError` and names the field.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Sequence_
from types import MappingProxyType
from typing import Any, Literal, get_args

import attrs
from attrs import field, frozen
from attrs.validators import and_, deep_iterable, deep_mapping, ge, gt, le, min_len, optional

from relay.errors import suggestion
from relay.model.commands import AmendOrder, AmendPosition, Command, PlaceOrder
from relay.model.enums import OrderType, TimeInForce
from relay.model.events import KINDS
from relay.model.hours import Hours


def instance_of(kinds: type | tuple[type, ...]) -> Any:
    """Return a validator of a value's type. Its message names the type, and the nearest member of an enum."""
    classes = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = " or ".join(
        "number" if each is float else each.__name__ for each in classes if each is not int or len(classes) == 1
    )

    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not isinstance(value, classes):
            hint = ""
            for each in classes:
                if isinstance(value, str) and issubclass(each, enum.Enum):
                    hint = f"; {suggestion(value, (str(member) for member in each))}"
            raise TypeError(f"'{attribute.name}' must be {wanted}, not {value!r:.64}{hint}")

    return check


def in_(choices: Collection[str]) -> Any:
    """Return a validator of a value that is one of ``choices``. Its message names the nearest one."""

    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if value not in choices:
            raise ValueError(f"'{attribute.name}': there is no {value!r:.64}; {suggestion(str(value), choices)}")

    return check


_is_text: Any = instance_of(str)
_is_name: Any = and_(_is_text, min_len(1))
_is_flag: Any = instance_of(bool)
_is_number: Any = instance_of((int, float))
_is_seconds: Any = and_(_is_number, gt(0))
_are_texts: Any = deep_iterable(_is_text, instance_of(tuple))


def _is_mapping(of: Any, to: Any) -> Any:
    return deep_mapping(of, to, instance_of(Mapping))


def _is_optional(validator: Any) -> Any:
    return optional(validator)


class CloseMeaning(enum.Enum):
    """The meaning of a close code, or of a refused upgrade, for the session."""

    RETRY = "retry"
    """Connect again with backoff."""
    REFUSED = "refused"
    """Do not connect again: the same attempt would be refused again (bad credentials, disabled account)."""
    TAKEOVER = "takeover"
    """Another session replaced this one. Report it and do not connect again."""
    RATE_LIMITED = "rate_limited"
    """Connect again after the longest backoff, or after the time that the provider requested."""
    OCCUPIED = "occupied"
    """The account has another connection, possibly a lost one of ours that the provider has not closed yet: connect again
    with backoff. After `Session.released_within` it must belong to another client; this is reported once."""


class Book(enum.Enum):
    """The way the provider sends depth."""

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

    first: float = field(default=1.0, validator=[_is_number, ge(0)])
    factor: float = field(default=2.0, validator=[_is_number, ge(1)])
    cap: float = field(default=30.0, validator=[_is_number, ge(0)])
    jitter: float = field(default=1.0, validator=[_is_number, ge(0), le(1)])
    settle: float = field(default=60.0, validator=[_is_number, ge(0)])


@frozen(kw_only=True)
class Heartbeat:
    """The heartbeats that keep the connection alive.

    Attributes:
        every: seconds between the relay's heartbeats; None if only the provider sends heartbeats.
        frame: True to send WebSocket ping frames, False to send what ``encode(Ping())`` yields.
    """

    every: float | None = field(default=None, validator=_is_optional(_is_seconds))
    frame: bool = field(default=True, validator=_is_flag)


#: The kinds of budget: WebSocket text frames, subscribe/unsubscribe frames, trading calls (HTTP and WebSocket), HTTP
#: requests, or attempts to connect.
RateOf = Literal["frame", "interest", "call", "http", "dial"]


def _kinds(of: RateOf | tuple[RateOf, ...]) -> tuple[RateOf, ...]:
    return of if isinstance(of, tuple) else (of,)


@frozen
class Rate:
    """A token bucket the provider enforces: ``count`` per ``per`` seconds, at most ``burst`` at once.

    ``of`` is the kind of message that it counts; several kinds, if the provider counts them together.
    """

    count: float = field(validator=_is_seconds)
    per: float = field(kw_only=True, default=1.0, validator=_is_seconds)
    burst: int | None = field(kw_only=True, default=None, validator=_is_optional(and_(instance_of(int), ge(1))))
    of: tuple[RateOf, ...] = field(
        kw_only=True,
        default="frame",
        converter=_kinds,
        validator=and_(deep_iterable(in_(get_args(RateOf))), min_len(1)),
    )

    def __attrs_post_init__(self) -> None:
        if 0 < len({"frame", "interest"}.intersection(self.of)) < len(self.of):
            raise ValueError("'of': kinds counted per connection and kinds counted per account cannot share one rate")


@frozen(kw_only=True)
class Sequence:
    """The numbering of a provider's messages.

    ``topic``: `Depth.first_seq`/`last_seq` number each symbol's deltas. With ``contiguous`` a hole is a loss; otherwise the
    numbers only give the order.
    """

    scope: Literal["none", "topic"] = field(default="none", validator=in_(("none", "topic")))
    contiguous: bool = field(default=False, validator=_is_flag)


@frozen
class Query:
    """Authenticate by a query parameter of the WebSocket URL. ``value`` is a template as `Session.url`."""

    name: str = field(validator=_is_name)
    value: str = field(validator=_is_name)


@frozen
class Header:
    """Authenticate by a header of a request. ``value`` is a template as `Session.url`."""

    name: str = field(validator=_is_name)
    value: str = field(validator=_is_name)


def _headers(value: Any) -> Any:
    return (value,) if isinstance(value, Header) else value


def _is_query_or_headers(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if not isinstance(value, Query):
        deep_iterable(instance_of((Query, Header)), instance_of((Query, tuple)))(instance, attribute, value)


@frozen(kw_only=True)
class Session:
    """Declare how a session with the provider is opened, kept alive and limited. All durations are seconds.

    Attributes:
        url: the WebSocket endpoint. ``{name}`` stands for an option, a credential, or a value learned by `Learned`.
        sockets: further sockets by name: a URL, if everything else is the same, or a separate declaration (its ``http_auth``
            is ignored). A topic is on the socket named by its `Offer` or by `Adapter.socket_of`. The connections of a
            further socket are opened when one of its topics has a subscriber. They carry market data only; the account and
            commands are on this socket.
        http: base URL of the provider's HTTP API, a template like ``url``; relative `Fetch` URLs are joined to it. A further
            socket (`Fetch.socket`) may have its own.
        auth: the query parameter or headers that authenticate the upgrade; None if a first frame (`Hello`) does, or if there
            is no authentication.
        http_auth: the headers that authenticate HTTP requests (`Fetch.authenticated`); None if there are none.
        frames: ``binary`` if the provider sends binary frames. ``decode`` then gets bytes, also for text frames, and bytes
            from ``encode`` are sent in binary frames. Recordings have one character for each byte.
        ready: ``open`` if subscriptions may be sent at once, ``signal`` if `Ready` must be decoded first.
        heartbeat: the relay's own heartbeats.
        silent_after: seconds without any message after which the connection is presumed dead and redialled.
        stale_after: seconds without an event after which a topic is stale, by kind; other kinds have no timeout.
        ack_within: seconds within which a subscription is acknowledged; None if the provider does not acknowledge.
        topics_per_frame: most topics in one `Subscribe`.
        most_topics: most topics on one connection; None if there is no limit. Further topics are STALE with this reason and
            wait until another topic is unsubscribed.
        most_connections: most connections of an account at the same time, with ``most_topics`` each. A further one is opened
            when all others are full. Only market data may use several.
        on_interest: connect only while there is a topic, because the provider closes connections without subscriptions.
        commands_over: ``http`` if all commands are HTTP requests. They then need no open socket once `Adapter.prepare` has
            succeeded, so that a trader can cancel while the stream is down.
        released_within: seconds within which the provider closes a lost connection, see `CloseMeaning.OCCUPIED`.
        single: the provider allows one session per account, and a second one replaces it. A new connection is then only
            dialled after the old one has ended, so that the relay does not replace its own session.
        closes: the meanings of close codes; any other code means RETRY.
        refusals: the meanings of HTTP statuses in answer to the upgrade or to ``prepare``.
        book, sequence: how depth is sent and numbered.
        limits: the provider's rate limits.
    """

    url: str = field(validator=_is_name)
    sockets: "Mapping[str, Session | str]" = field(factory=dict, validator=instance_of(Mapping))
    http: str = field(default="", validator=_is_text)
    auth: Query | tuple[Header, ...] | None = field(
        default=None, converter=_headers, validator=_is_optional(_is_query_or_headers)
    )
    http_auth: tuple[Header, ...] | None = field(
        default=None, converter=_headers, validator=_is_optional(deep_iterable(instance_of(Header), instance_of(tuple)))
    )
    frames: Literal["text", "binary"] = field(default="text", validator=in_(("text", "binary")))
    ready: Literal["open", "signal"] = field(default="open", validator=in_(("open", "signal")))
    heartbeat: Heartbeat = field(default=Heartbeat(), validator=instance_of(Heartbeat))
    silent_after: float = field(default=60.0, validator=_is_seconds)
    stale_after: Mapping[str, float] = field(factory=dict, validator=_is_mapping(in_(tuple(KINDS)), _is_number))
    ack_within: float | None = field(default=None, validator=_is_optional(_is_seconds))
    topics_per_frame: int = field(default=100, validator=[instance_of(int), ge(1)])
    most_topics: int | None = field(default=None, validator=_is_optional(and_(instance_of(int), ge(1))))
    most_connections: int = field(default=1, validator=and_(instance_of(int), ge(1)))
    on_interest: bool = field(default=False, validator=_is_flag)
    commands_over: Literal["socket", "http"] = field(default="socket", validator=in_(("socket", "http")))
    released_within: float = field(default=90.0, validator=_is_seconds)
    single: bool = field(default=False, validator=_is_flag)
    closes: Mapping[int, CloseMeaning] = field(
        factory=dict, validator=_is_mapping(instance_of(int), instance_of(CloseMeaning))
    )
    refusals: Mapping[int, CloseMeaning] = field(
        default=MappingProxyType(
            {401: CloseMeaning.REFUSED, 403: CloseMeaning.REFUSED, 429: CloseMeaning.RATE_LIMITED}
        ),
        validator=_is_mapping(instance_of(int), instance_of(CloseMeaning)),
    )
    backoff: Backoff = field(default=Backoff(), validator=instance_of(Backoff))
    book: Book = field(default=Book.NONE, validator=instance_of(Book))
    sequence: Sequence = field(default=Sequence(), validator=instance_of(Sequence))
    limits: tuple[Rate, ...] = field(default=(), validator=deep_iterable(instance_of(Rate), instance_of(tuple)))

    def __attrs_post_init__(self) -> None:
        if self.most_connections > 1 and self.most_topics is None:
            raise ValueError("'most_connections' above 1 needs 'most_topics'")
        if self.single and self.most_connections > 1:
            raise ValueError("'single' is one connection, not several by 'most_connections'")
        for name, socket in self.sockets.items():
            if not isinstance(name, str) or not name or not isinstance(socket, Session | str):
                raise TypeError(f"'sockets' must be URLs or sessions by their names, not {name!r:.64}: {socket!r:.64}")
            if isinstance(socket, str):
                continue
            if socket.sockets:
                raise ValueError(f"'sockets' of socket {name}: only the session itself has further sockets")
            if socket.commands_over != "socket":
                raise ValueError(f"'commands_over' of socket {name}: commands are the session's own")

    def socket(self, name: str) -> "Session":
        """Return the declaration of a socket, completed from the session's. The empty name is the session's own socket.

        Raises:
            KeyError: there is no such socket.
        """
        if not name:
            return self
        further = self.sockets[name]
        if isinstance(further, str):
            return attrs.evolve(self, url=further, commands_over="socket")
        return attrs.evolve(further, http=further.http or self.http, http_auth=self.http_auth)


@frozen(kw_only=True)
class Offer:
    """One kind of stream a provider offers, for the catalog.

    Attributes:
        kind: the topic's kind (``quote``, ``candle``, ``account``, ...).
        visibility: ``public``, or ``presence`` for account streams.
        timeframes: the provider's timeframes, for candles.
        events: the kinds of events on an account's channel; empty if not known, then all are offered.
        example: a filter for the catalog if neither configuration nor metadata has a symbol, e.g. ``{"symbol": "BTC/USD"}``.
        socket: the name of its socket (`Session.sockets`); empty for the session's own.
        hours: the trading hours of its market, if they are the same for all symbols (otherwise `Adapter.hours`). Topics are
            not stale while it is closed. None: it always trades.
    """

    kind: str = field(validator=in_(tuple(KINDS)))
    visibility: Literal["public", "presence"] = field(default="public", validator=in_(("public", "presence")))
    timeframes: tuple[str, ...] = field(default=(), validator=_are_texts)
    events: tuple[str, ...] = field(default=(), validator=_are_texts)
    example: Mapping[str, str] = field(factory=dict, validator=_is_mapping(_is_text, _is_text))
    socket: str = field(default="", validator=_is_text)
    hours: Hours | None = field(default=None, validator=_is_optional(instance_of(Hours)))


@frozen
class Option:
    """One option an operator may set for a provider, read with `Adapter.option`.

    Unknown names, and values that are not among the choices, are refused when the configuration is read.

    Attributes:
        name: the key under ``[providers.NAME.options]``.
        default: the value if it is not set.
        choices: the allowed values; empty if any text is allowed. An adapter may check further in ``__init__``.
        about: a one-line description for the operator.
    """

    name: str = field(validator=_is_name)
    default: str = field(default="", validator=_is_text)
    choices: tuple[str, ...] = field(default=(), validator=_are_texts)
    about: str = field(default="", validator=_is_text)

    def __attrs_post_init__(self) -> None:
        if self.choices and self.default not in self.choices:
            raise ValueError(f"'default' of option {self.name} must be one of its 'choices', got {self.default!r}")

    def refusal(self, value: str) -> str | None:
        """Return why ``value`` is refused; None when it is not."""
        if not self.choices or value in self.choices:
            return None
        return f"expected {listed(self.choices)}, got {value!r}"


def listed(names: Sequence_[str]) -> str:
    """Return ``names`` as ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# --- orders ----------------------------------------------------------------------------------------------------------

#: Members of an order that a broker may lack; the prices follow from its type, and `good_till` from GTD.
_MEMBERS = ("client_order_id", "stop_loss", "take_profit", "reduce_only", "post_only")
#: The same, of members that few brokers have.
_RARE = ("notional", "trailing_type", "extended_hours", "position_intent")
_RARE_TIMES = (TimeInForce.OPG, TimeInForce.CLS)
_AMENDS = tuple(
    each.name for each in attrs.fields(AmendOrder) if each.name not in ("id", "account", "order_id", "symbol")
)
_COMMON_AMENDS = tuple(name for name in _AMENDS if name != "trailing_distance")


@frozen(kw_only=True)
class Orders:
    """The orders a broker takes. The core refuses any other before `Adapter.encode` sees it, and names the member.

    The defaults take everything but what few brokers have (orders in an auction, `notional`, `trailing_type`,
    `extended_hours`, `position_intent`, amending `trailing_distance`), so name what there is::

        orders = Orders(
            types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP),
            times_in_force=(TimeInForce.DAY, TimeInForce.GTC),
            members=("client_order_id",),
            amends=("quantity", "limit_price", "stop_price"),
            extra=(),
        )

    The prices of an order need no naming: an order has those of its type (`relay.model.command_input`), and a time of
    expiry when its time in force is GTD.

    Attributes:
        types: the order types.
        times_in_force: the times in force, of new orders and of amendments; an order without one is always taken.
        members: which of `client_order_id`, `stop_loss`, `take_profit`, `reduce_only`, `post_only`, `notional`,
            `trailing_type`, `extended_hours` and `position_intent` its orders have.
        amends: the members of `AmendOrder` that can be changed.
        extra: the names `PlaceOrder.extra` may have; None when the provider's list is not known here.
        always_named: True where every order is to have a `client_order_id`, because nothing else tells its fate. The relay
            makes one for an order whose sender gives none. It is a UUID, since few brokers say how long a name may be.
        sought: True where an order can be asked for by its id alone (`Seek`). The relay asks for one that a whole list lacks
            before it calls it vanished, and for one that a fill names and nobody knows. A list may name an order by another
            id than the one its sender was given: the answer tells it (`Sought`). Until then an order of a polled list that
            nobody knows is not published, because it may be one that is known by its other id.
    """

    types: tuple[OrderType, ...] = field(
        default=tuple(OrderType), validator=deep_iterable(instance_of(OrderType), instance_of(tuple))
    )
    times_in_force: tuple[TimeInForce, ...] = field(
        default=tuple(each for each in TimeInForce if each not in _RARE_TIMES),
        validator=deep_iterable(instance_of(TimeInForce), instance_of(tuple)),
    )
    members: tuple[str, ...] = field(
        default=_MEMBERS, validator=deep_iterable(in_((*_MEMBERS, *_RARE)), instance_of(tuple))
    )
    amends: tuple[str, ...] = field(default=_COMMON_AMENDS, validator=deep_iterable(in_(_AMENDS), instance_of(tuple)))
    extra: tuple[str, ...] | None = field(default=None, validator=_is_optional(_are_texts))
    always_named: bool = field(default=False, validator=_is_flag)
    sought: bool = field(default=False, validator=_is_flag)

    def named(self, command: Command, new_name: Callable[[], str]) -> Command:
        """Return the command to encode: with ``always_named``, an order without a client order id gets a new one."""
        if not self.always_named or not isinstance(command, PlaceOrder) or command.client_order_id is not None:
            return command
        return attrs.evolve(command, client_order_id=new_name())

    def refusal(self, command: Command) -> str | None:
        """Return why ``command`` is refused, beginning with the member; None when the broker takes it."""
        match command:
            case PlaceOrder():
                return self._of_order(command)
            case AmendOrder() | AmendPosition():
                return self._of_amendment(command)
        return None

    def _of_order(self, order: PlaceOrder) -> str | None:
        if order.order_type not in self.types:
            return f"order_type: {order.order_type} is not supported; supported: {listed(self.types)}"
        if (refused := self._of_time_in_force(order)) is not None:
            return refused
        for name in (*_MEMBERS, *_RARE):
            if name not in self.members and getattr(order, name) is not None:
                return f"{name}: not supported for orders; supported members: {', '.join(self.members) or 'none'}"
        if self.extra is not None and (strangers := sorted(order.extra.keys() - set(self.extra))):
            return f"extra.{strangers[0]}: unknown member; the members of extra are: {', '.join(self.extra) or 'none'}"
        return None

    def _of_time_in_force(self, order: PlaceOrder | AmendOrder) -> str | None:
        if order.time_in_force is not None and (order.time_in_force is TimeInForce.GTD) is not bool(order.good_till):
            return f"good_till: required with time_in_force GTD, and allowed with no other one; it is {order.time_in_force}"
        wanted = TimeInForce.GTD if order.time_in_force is None and order.good_till else order.time_in_force
        if wanted is None or wanted in self.times_in_force:
            return None
        member = "time_in_force" if order.time_in_force is not None else "good_till"
        supported = listed(self.times_in_force) if self.times_in_force else "none"
        return f"{member}: {wanted} is not supported; supported: {supported}"

    def _of_amendment(self, command: AmendOrder | AmendPosition) -> str | None:
        changes = self.amends if isinstance(command, AmendOrder) else ("stop_loss", "take_profit")
        if isinstance(command, AmendOrder):
            for name in _AMENDS:
                if name not in self.amends and getattr(command, name) is not None:
                    return f"{name}: cannot be changed; members that can be changed: {', '.join(self.amends) or 'none'}"
            if (refused := self._of_time_in_force(command)) is not None:
                return refused
        if all(getattr(command, name) is None for name in changes):
            return f"{command.name} changes nothing; it needs one of {', '.join(changes)}"
        return None
