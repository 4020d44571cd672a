"""The canonical events: one frozen class per kind, one object per event.

A provider's adapter yields these; the relay stamps who sent them and when they came (`Stamp`), publishes them, and the
codec writes the wire form. The rules every field obeys:

- decimals are plain text with the provider's own digits (`relay.model.text`), never floats;
- times are RFC 3339 UTC text with the provider's own precision (`relay.model.text`);
- optional means absent: None is left out of the JSON, and nothing is defaulted, derived or guessed;
- states are strict enums (`relay.model.enums`), descriptions are open text;
- ``data`` beside other fields holds the members of the provider's message that none of these has, under the provider's own
  names; where it is the only field of substance it holds the whole payload.

Names of fields and enums follow Tektii's published event reference (https://docs.tektii.com), extended. ``body`` names
the JSON member that holds the fields; kinds without one are flat.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import Factory, field, frozen
from attrs.converters import optional

from relay.model.construct import quick_init
from relay.model.enums import (
    AccountEvent,
    ConnectionEvent,
    OrderEvent,
    OrderStatus,
    OrderType,
    Outcome,
    PositionEvent,
    PositionIntent,
    PositionSide,
    RateLimitEvent,
    Refill,
    Side,
    StalenessEvent,
    TimeInForce,
    TradeEvent,
    TradingStatus,
)
from relay.model.text import decimal_text, known_decimal, optional_decimal, optional_time, rfc3339

Level = tuple[str, str]

is_timeframe = re.compile(r"[1-9][0-9]{0,3}(?:[smhdw]|mo)").fullmatch


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected non-empty text, got {value!r:.64}")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, got {value!r:.64}")
    return value


def _optional_integer(value: object) -> int | None:
    return None if value is None else _integer(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r:.64}")
    return value


def _optional_flag(value: object) -> bool | None:
    return None if value is None else _flag(value)


def _timeframe_text(value: object) -> str:
    if not isinstance(value, str) or not is_timeframe(value):
        raise ValueError(f"not a timeframe such as 1m, 4h, 1d, 1w: {value!r:.64}")
    return value


class SortedLevels(tuple[Level, ...]):
    """Levels of other events, put together anew: they are canonical, and are not read again."""

    __slots__ = ()


def _levels(raw: Iterable[Any]) -> tuple[Level, ...]:
    """Return levels as ``[price, size, ...]``. Elements behind the size are not part of the canonical level."""
    if type(raw) is SortedLevels:
        return raw
    known = known_decimal
    return tuple(
        [
            _no_level(level)
            if type(level) is str
            else (known(level[0]) or decimal_text(level[0]), known(level[1]) or decimal_text(level[1]))
            for level in raw
        ]
    )


def _no_level(text: str) -> Level:
    """Refuse text as a level: it would unpack into its first two characters."""
    raise TypeError(f"a level is a price and a size, got {text!r:.64}")


def _symbols(raw: Iterable[str]) -> tuple[str, ...]:
    return tuple(_text(symbol) for symbol in raw)


def _optional_texts(raw: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(raw, str):
        raise TypeError(f"expected a list of texts, got {raw!r:.64}")
    return None if raw is None else tuple(_text(each) for each in raw)


@frozen(kw_only=True)
class Stamp:
    """The provider, account and time of a message, shared by all events decoded from it.

    Attributes:
        provider: the configured name of the connection (``acme-fx``), not the adapter's.
        account: the configured account of the session, None for a session that has none.
        received_at: when the relay read the message from its socket, RFC 3339 UTC.
    """

    provider: str
    account: str | None = None
    received_at: str


@frozen(kw_only=True)
class Event:
    """The base of all events. ``timestamp`` is the provider's clock; absent when the provider sent none."""

    kind: ClassVar[str]
    body: ClassVar[str | None] = None
    #: attribute -> JSON name, for the few names Python or this module has taken.
    renamed: ClassVar[Mapping[str, str]] = {}
    #: attributes that stay at the top level although the kind has a body.
    outside: ClassVar[frozenset[str]] = frozenset(
        {"timestamp", "event", "parent_order_id", "account", "reconciled", "vanished"}
    )

    timestamp: str | None = field(default=None, converter=optional_time)


@frozen(kw_only=True)
class MarketEvent(Event):
    """An event on the public stream of one symbol."""

    symbol: str = field(converter=_text)
    native_symbol: str | None = field(default=None, converter=_optional_text)


@frozen(kw_only=True)
class AccountScoped(Event):
    """An event of one trading account.

    Attributes:
        account: the account the provider names in the message; absent where the session's own account is meant.
        reconciled: True when the relay found this by comparing state after a reconnect instead of being told.
    """

    account: str | None = field(default=None, converter=_optional_text)
    reconciled: bool | None = field(default=None, converter=_optional_flag)

    def is_foreign(self, stamp: "Stamp") -> bool:
        """Return whether it is of another account than the one the session with this stamp acts for.

        The login of one account may reach others. What it says of these is nobody's: not the session's own account's, and
        not that of a configured account which happens to have the same name, because that may be another login's.
        """
        return None not in (self.account, stamp.account) and self.account != stamp.account


@frozen(kw_only=True)
class Quote(MarketEvent):
    """Best bid and ask. An absent side means the provider showed none. Sizes and volume are in base units.

    ``time`` is the quote's own time where the provider gives one; ``timestamp`` is the same unless it gives two.
    """

    kind = "quote"
    body = "quote"
    renamed = {"time": "timestamp"}

    bid: str | None = field(default=None, converter=optional_decimal)
    ask: str | None = field(default=None, converter=optional_decimal)
    bid_size: str | None = field(default=None, converter=optional_decimal)
    ask_size: str | None = field(default=None, converter=optional_decimal)
    last: str | None = field(default=None, converter=optional_decimal)
    volume: str | None = field(default=None, converter=optional_decimal)
    data: Any = None
    time: str | None = field(default=None, converter=optional_time)
    timestamp: str | None = field(default=Factory(lambda self: self.time, takes_self=True), converter=optional_time)


@frozen(kw_only=True)
class Candle(MarketEvent):
    """One OHLCV bar. ``start`` is when the bar begins; ``closed`` says whether it can still change."""

    kind = "candle"
    body = "bar"
    renamed = {"start": "timestamp"}

    timeframe: str = field(converter=_timeframe_text)
    start: str = field(converter=rfc3339)
    open: str = field(converter=decimal_text)
    high: str = field(converter=decimal_text)
    low: str = field(converter=decimal_text)
    close: str = field(converter=decimal_text)
    volume: str = field(converter=decimal_text)
    closed: bool | None = field(default=None, converter=_optional_flag)
    data: Any = None


@frozen(kw_only=True)
class Depth(MarketEvent):
    """Order book levels as (price, absolute size); size zero removes the level.

    A snapshot replaces the book, a delta changes it. ``first_seq``/``last_seq`` are the provider's sequence numbers the
    message covers; ``checksum`` the provider's own, in its own algorithm, over the book after this message.
    """

    kind = "depth"
    body = "depth"

    bids: tuple[Level, ...] = field(converter=_levels)
    asks: tuple[Level, ...] = field(converter=_levels)
    snapshot: bool = field(converter=_flag)
    first_seq: int | None = field(default=None, converter=_optional_integer)
    last_seq: int | None = field(default=None, converter=_optional_integer)
    checksum: str | None = field(default=None, converter=_optional_text)


@frozen(kw_only=True)
class PublicTrade(MarketEvent):
    """A print on the market, anybody's. ``side`` is the taker's."""

    kind = "public_trade"
    body = "public_trade"
    renamed = {"time": "timestamp"}

    id: str | None = field(default=None, converter=_optional_text)
    price: str = field(converter=decimal_text)
    quantity: str = field(converter=decimal_text)
    side: Side | None = field(default=None, converter=optional(Side))
    data: Any = None
    time: str | None = field(default=None, converter=optional_time)
    timestamp: str | None = field(default=Factory(lambda self: self.time, takes_self=True), converter=optional_time)


@frozen(kw_only=True)
class ProviderSignal(MarketEvent):
    """A provider's own feed that has no market meaning of its own; its payload is kept whole.

    ``symbol`` is what the feed is about (a token, a feed id, the feed's own name). ``name`` is the provider's name of it.
    """

    kind = "signal"
    body = "signal"

    name: str = field(converter=_text)
    data: Any = None


@frozen(kw_only=True)
class Reference(MarketEvent):
    """A slow fact about a symbol: pool info, supply, holders, funding, mark or index price; payload kept whole."""

    kind = "reference"
    body = "reference"

    name: str = field(converter=_text)
    data: Any = None


@frozen(kw_only=True)
class Instrument(MarketEvent):
    """The terms on which a provider trades a symbol, from its own metadata; a member that it does not say is absent.

    Prices are multiples of ``tick_size``, quantities multiples of ``quantity_step``, in the unit of the provider's orders.
    ``minimum_notional`` is the least value of an order, price times quantity, in ``quote``. ``contract_size`` is the size of
    one contract. ``currency`` is that of settlement, or of a price where there is no ``quote``.

    ``instrument_type`` is the provider's own word, for example ``spot`` or ``us_equity``. ``aliases`` are its other names of
    the symbol, by which nothing can be subscribed. ``data`` has what is short of the rest, not its lists.
    """

    kind = "instrument"
    body = "instrument"

    name: str | None = field(default=None, converter=_optional_text)
    instrument_type: str | None = field(default=None, converter=_optional_text)
    base: str | None = field(default=None, converter=_optional_text)
    quote: str | None = field(default=None, converter=_optional_text)
    currency: str | None = field(default=None, converter=_optional_text)
    tick_size: str | None = field(default=None, converter=optional_decimal)
    quantity_step: str | None = field(default=None, converter=optional_decimal)
    minimum_quantity: str | None = field(default=None, converter=optional_decimal)
    maximum_quantity: str | None = field(default=None, converter=optional_decimal)
    minimum_notional: str | None = field(default=None, converter=optional_decimal)
    contract_size: str | None = field(default=None, converter=optional_decimal)
    expires_at: str | None = field(default=None, converter=optional_time)
    status: TradingStatus | None = field(default=None, converter=optional(TradingStatus))
    aliases: tuple[str, ...] | None = field(default=None, converter=_optional_texts)
    data: Any = None


@frozen(kw_only=True)
class Trade(AccountScoped):
    """A fill of OUR order. It is published once: account, symbol, order, side and id together name it.

    A provider may take a fill back (TRADE_BUSTED), or put another one in its place (TRADE_CORRECTED): ``corrects`` is the
    id of that fill, and the rest is what was taken back, or what is right.
    """

    kind = "trade"
    body = "trade"
    renamed = {"time": "timestamp"}

    event: TradeEvent = field(default=TradeEvent.TRADE_FILLED, converter=TradeEvent)
    id: str = field(converter=_text)
    order_id: str = field(converter=_text)
    symbol: str = field(converter=_text)
    native_symbol: str | None = field(default=None, converter=_optional_text)
    side: Side = field(converter=Side)
    quantity: str = field(converter=decimal_text)
    quantity_unit: str | None = field(default=None, converter=_optional_text)
    price: str = field(converter=decimal_text)
    commission: str | None = field(default=None, converter=optional_decimal)
    commission_currency: str | None = field(default=None, converter=_optional_text)
    is_maker: bool | None = field(default=None, converter=_optional_flag)
    corrects: str | None = field(default=None, converter=_optional_text)
    data: Any = None
    time: str | None = field(default=None, converter=optional_time)
    timestamp: str | None = field(default=Factory(lambda self: self.time, takes_self=True), converter=optional_time)


@frozen(kw_only=True)
class Order(AccountScoped):
    """The change of an order (``event``) and its state now (``status`` and the rest): two facts.

    ``id`` is the provider's, ``client_order_id`` the sender's. Quantities are in the provider's unit. ``quantity_unit`` says
    which one that is where the provider does, for example ``contracts``; so it is with `Position` and `Trade`.

    An adapter gives ``event`` None where the provider says only what the order is: the relay then finds out what happened
    (`relay.provider.accounts`). A published event always has it; so it is with `Position` and `Account`.

    ``replaced_by`` is the id of the order that took its place, where an amended order gets a new id, and ``replaces`` the id
    of the one whose place it took.

    ``vanished``: the provider's complete list of open orders no longer has it. It ended unseen, nobody said how:
    ``status`` and the rest are what was last known.
    """

    kind = "order"
    body = "order"

    event: OrderEvent | None = field(converter=optional(OrderEvent))
    id: str = field(converter=_text)
    client_order_id: str | None = field(default=None, converter=_optional_text)
    symbol: str = field(converter=_text)
    native_symbol: str | None = field(default=None, converter=_optional_text)
    side: Side = field(converter=Side)
    order_type: OrderType | None = field(default=None, converter=optional(OrderType))
    quantity: str | None = field(default=None, converter=optional_decimal)
    quantity_unit: str | None = field(default=None, converter=_optional_text)
    notional: str | None = field(default=None, converter=optional_decimal)
    filled_quantity: str | None = field(default=None, converter=optional_decimal)
    remaining_quantity: str | None = field(default=None, converter=optional_decimal)
    status: OrderStatus = field(converter=OrderStatus)
    time_in_force: TimeInForce | None = field(default=None, converter=optional(TimeInForce))
    limit_price: str | None = field(default=None, converter=optional_decimal)
    stop_price: str | None = field(default=None, converter=optional_decimal)
    stop_loss: str | None = field(default=None, converter=optional_decimal)
    take_profit: str | None = field(default=None, converter=optional_decimal)
    trailing_distance: str | None = field(default=None, converter=optional_decimal)
    trailing_type: str | None = field(default=None, converter=_optional_text)
    average_fill_price: str | None = field(default=None, converter=optional_decimal)
    reject_reason: str | None = field(default=None, converter=_optional_text)
    position_id: str | None = field(default=None, converter=_optional_text)
    parent_order_id: str | None = field(default=None, converter=_optional_text)
    replaces: str | None = field(default=None, converter=_optional_text)
    replaced_by: str | None = field(default=None, converter=_optional_text)
    reduce_only: bool | None = field(default=None, converter=_optional_flag)
    post_only: bool | None = field(default=None, converter=_optional_flag)
    extended_hours: bool | None = field(default=None, converter=_optional_flag)
    position_intent: PositionIntent | None = field(default=None, converter=optional(PositionIntent))
    hidden: bool | None = field(default=None, converter=_optional_flag)
    display_quantity: str | None = field(default=None, converter=optional_decimal)
    oco_group_id: str | None = field(default=None, converter=_optional_text)
    correlation_id: str | None = field(default=None, converter=_optional_text)
    vanished: bool | None = field(default=None, converter=_optional_flag)
    created_at: str | None = field(default=None, converter=optional_time)
    updated_at: str | None = field(default=None, converter=optional_time)
    data: Any = None


@frozen(kw_only=True)
class Position(AccountScoped):
    """State of one position and what happened to it. ``stop_loss`` and ``take_profit`` are prices that close it."""

    kind = "position"
    body = "position"

    event: PositionEvent | None = field(converter=optional(PositionEvent))
    id: str = field(converter=_text)
    symbol: str = field(converter=_text)
    native_symbol: str | None = field(default=None, converter=_optional_text)
    side: PositionSide | None = field(default=None, converter=optional(PositionSide))
    quantity: str = field(converter=decimal_text)
    quantity_unit: str | None = field(default=None, converter=_optional_text)
    average_entry_price: str | None = field(default=None, converter=optional_decimal)
    current_price: str | None = field(default=None, converter=optional_decimal)
    unrealized_pnl: str | None = field(default=None, converter=optional_decimal)
    realized_pnl: str | None = field(default=None, converter=optional_decimal)
    margin_mode: str | None = field(default=None, converter=_optional_text)
    leverage: str | None = field(default=None, converter=optional_decimal)
    liquidation_price: str | None = field(default=None, converter=optional_decimal)
    stop_loss: str | None = field(default=None, converter=optional_decimal)
    take_profit: str | None = field(default=None, converter=optional_decimal)
    opened_at: str | None = field(default=None, converter=optional_time)
    updated_at: str | None = field(default=None, converter=optional_time)
    data: Any = None


@frozen(kw_only=True)
class Account(AccountScoped):
    """Money of one account, in its own currency. The account's id is ``id`` inside the body.

    ``margin_call``: whether the account is in a margin call, or beyond it; absent where the provider does not say.
    """

    kind = "account"
    body = "account"
    renamed = {"account": "id"}

    event: AccountEvent | None = field(converter=optional(AccountEvent))
    balance: str | None = field(default=None, converter=optional_decimal)
    equity: str | None = field(default=None, converter=optional_decimal)
    margin_used: str | None = field(default=None, converter=optional_decimal)
    margin_available: str | None = field(default=None, converter=optional_decimal)
    unrealized_pnl: str | None = field(default=None, converter=optional_decimal)
    realized_pnl: str | None = field(default=None, converter=optional_decimal)
    currency: str | None = field(default=None, converter=_optional_text)
    margin_call: bool | None = field(default=None, converter=_optional_flag)
    data: Any = None


@frozen(kw_only=True)
class Notification(AccountScoped):
    """A message of the provider to the account's owner. ``level`` is the provider's own word or number."""

    kind = "notification"
    body = "notification"

    id: str | None = field(default=None, converter=_optional_text)
    level: str | None = field(default=None, converter=_optional_text)
    title: str | None = field(default=None, converter=_optional_text)
    message: str
    data: Any = None


@frozen(kw_only=True)
class Alert(AccountScoped):
    """A price alert the owner had set."""

    kind = "alert"
    body = "alert"

    id: str = field(converter=_text)
    symbol: str = field(converter=_text)
    native_symbol: str | None = field(default=None, converter=_optional_text)
    condition: str = field(converter=_text)
    target_price: str | None = field(default=None, converter=optional_decimal)
    triggered_price: str | None = field(default=None, converter=optional_decimal)
    status: str = field(converter=_text)
    data: Any = None


@frozen(kw_only=True)
class Reply(AccountScoped):
    """The one answer to a command. ``id`` is the command's; ``ok`` is True only for ACCEPTED."""

    kind = "reply"
    renamed = {"id": "command_id"}

    id: str = field(converter=_text)
    ok: bool = field(converter=_flag)
    outcome: Outcome = field(converter=Outcome)
    result: Any = None
    error: Any = None


@frozen(kw_only=True)
class Connection(Event):
    """State of a session with a provider. ``gap_ms`` is how long nothing could have been received.

    ``upstream`` is true where the provider tells of a connection of its own, as a gateway does of its broker's. ``socket``
    is the name of the provider's socket that this is about, where it has several and it is not the account's.
    """

    kind = "connection"

    event: ConnectionEvent = field(converter=ConnectionEvent)
    reason: str | None = None
    error: str | None = None
    gap_ms: int | None = field(default=None, converter=_optional_integer)
    upstream: bool | None = field(default=None, converter=_optional_flag)
    socket: str | None = field(default=None, converter=_optional_text)


@frozen(kw_only=True)
class RateLimit(Event):
    """A provider's request budget is nearly or wholly used."""

    kind = "rate_limit"

    event: RateLimitEvent = field(converter=RateLimitEvent)
    requests_remaining: int | None = field(default=None, converter=_optional_integer)
    reset_at: str | None = field(default=None, converter=optional_time)


@frozen(kw_only=True)
class Staleness(Event):
    """Data of the named symbols cannot be relied on (STALE) or can again (FRESH). Without symbols: of all of this kind.

    ``of`` and ``timeframe`` say which streams. ``reason`` is there when the provider refused them or tells of its own
    sources, when no data have come since the subscription, and when the relay has no session with it: ``session`` is true
    then, and FRESH comes with the first event behind the gap. ``refused`` is true when the provider does not serve them.
    """

    kind = "staleness"

    event: StalenessEvent = field(converter=StalenessEvent)
    symbols: tuple[str, ...] = field(converter=_symbols)
    of: str | None = field(default=None, converter=_optional_text)
    timeframe: str | None = field(default=None, converter=_optional_text)
    reason: str | None = field(default=None, converter=_optional_text)
    stale_since: str | None = field(default=None, converter=optional_time)
    session: bool | None = None
    refused: bool | None = None


@frozen(kw_only=True)
class Gap(Event):
    """Something is missing on the channel this arrives on, here, in order.

    ``from``/``to`` bound the missing sequence numbers where they are known; ``since``/``until`` the missing time.
    ``of`` and ``symbol`` say which stream. ``refill`` says what follows.
    """

    kind = "gap"
    renamed = {"from_seq": "from", "to_seq": "to"}

    of: str | None = field(default=None, converter=_optional_text)
    symbol: str | None = field(default=None, converter=_optional_text)
    timeframe: str | None = field(default=None, converter=_optional_text)
    from_seq: int | None = field(default=None, converter=_optional_integer)
    to_seq: int | None = field(default=None, converter=_optional_integer)
    since: str | None = field(default=None, converter=optional_time)
    until: str | None = field(default=None, converter=optional_time)
    refill: Refill = field(converter=Refill)
    reason: str = field(converter=_text)


@frozen(kw_only=True)
class Error(Event):
    """The provider refused or failed something, or the relay noticed that it did.

    ``account``: the account it is about. Only that account's channel has it then; the status says that
    there was one (code ``account_error``).
    """

    kind = "error"

    account: str | None = field(default=None, converter=_optional_text)
    code: str = field(converter=_text)
    message: str
    details: Any = None


#: Every kind by its wire name.
KINDS: Mapping[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        Quote, Candle, Depth, PublicTrade, ProviderSignal, Reference, Instrument,
        Trade, Order, Position, Account, Notification, Alert, Reply,
        Connection, RateLimit, Staleness, Gap, Error,
    )
}  # fmt: skip

_TEXT = frozenset({_text, _optional_text})
_OPTIONAL = frozenset({_optional_text, _optional_integer, _optional_flag, _optional_texts})
for _cls in KINDS.values():
    _cls.__init__ = quick_init(_cls, _TEXT, _OPTIONAL)  # type: ignore[method-assign]

#: Kinds with one public stream per symbol.
MARKET_KINDS = frozenset(kind for kind, cls in KINDS.items() if issubclass(cls, MarketEvent))
#: Kinds of a trading account, all on the account's one stream.
ACCOUNT_KINDS = frozenset(kind for kind, cls in KINDS.items() if issubclass(cls, AccountScoped))
#: Kinds about the session with a provider, on its status stream. Gap and staleness go to the data stream they qualify too.
STATUS_KINDS = frozenset(KINDS) - MARKET_KINDS - ACCOUNT_KINDS
