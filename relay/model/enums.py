"""Closed vocabularies of the event model.

These are strict: a state of an order, a fill or a position that is not listed here is refused rather than guessed.
Descriptive fields (reject reasons, notification levels, alert conditions) are open text and have no enum.
"""

from enum import StrEnum


class Side(StrEnum):
    """The side of an order or a trade; for a public trade, the taker's side."""

    BUY = "BUY"
    SELL = "SELL"


class PositionSide(StrEnum):
    LONG = "LONG"
    SHORT = "SHORT"


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_LIMIT = "STOP_LIMIT"
    TRAILING_STOP = "TRAILING_STOP"


class TrailingType(StrEnum):
    """The unit of a trailing stop's distance: of the price, or percent of it."""

    ABSOLUTE = "ABSOLUTE"
    PERCENT = "PERCENT"


class PositionIntent(StrEnum):
    """The aim of an order: to open a position, or to close one."""

    OPEN = "OPEN"
    CLOSE = "CLOSE"


class OrderStatus(StrEnum):
    """The state of an order now. An `OrderEvent` is the change that led to it."""

    PENDING = "PENDING"
    PENDING_CANCEL = "PENDING_CANCEL"
    OPEN = "OPEN"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    REPLACED = "REPLACED"
    """Another order took its place, with an id of its own: `Order.replaced_by`."""

    @property
    def is_final(self) -> bool:
        """True when nothing more can happen to the order."""
        return self in _FINAL


_FINAL = frozenset(
    {
        OrderStatus.FILLED,
        OrderStatus.CANCELLED,
        OrderStatus.REJECTED,
        OrderStatus.EXPIRED,
        OrderStatus.REPLACED,
    }
)


class TimeInForce(StrEnum):
    GTC = "GTC"
    DAY = "DAY"
    IOC = "IOC"
    FOK = "FOK"
    GTD = "GTD"
    OPG = "OPG"
    """In the opening auction only."""
    CLS = "CLS"
    """In the closing auction only."""


class OrderEvent(StrEnum):
    """A change of an order."""

    ORDER_CREATED = "ORDER_CREATED"
    ORDER_MODIFIED = "ORDER_MODIFIED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    ORDER_REJECTED = "ORDER_REJECTED"
    ORDER_FILLED = "ORDER_FILLED"
    ORDER_PARTIALLY_FILLED = "ORDER_PARTIALLY_FILLED"
    ORDER_EXPIRED = "ORDER_EXPIRED"
    ORDER_REPLACED = "ORDER_REPLACED"
    """It ended because another order took its place."""
    ORDER_CANCEL_REJECTED = "ORDER_CANCEL_REJECTED"
    """The provider had accepted the request to cancel it, and could not carry it out: the order is as it was."""
    ORDER_MODIFY_REJECTED = "ORDER_MODIFY_REJECTED"
    """The same of a request to change it."""
    BRACKET_ORDER_CREATED = "BRACKET_ORDER_CREATED"
    BRACKET_ORDER_MODIFIED = "BRACKET_ORDER_MODIFIED"


class PositionEvent(StrEnum):
    POSITION_OPENED = "POSITION_OPENED"
    POSITION_MODIFIED = "POSITION_MODIFIED"
    POSITION_CLOSED = "POSITION_CLOSED"


class TradeEvent(StrEnum):
    TRADE_FILLED = "TRADE_FILLED"
    TRADE_CORRECTED = "TRADE_CORRECTED"
    """The fill ``corrects`` was another one: this one counts in its place."""
    TRADE_BUSTED = "TRADE_BUSTED"
    """The fill ``corrects`` does not count any more."""


class AccountEvent(StrEnum):
    BALANCE_UPDATED = "BALANCE_UPDATED"
    METRICS_UPDATED = "METRICS_UPDATED"
    MARGIN_WARNING = "MARGIN_WARNING"
    MARGIN_CALL = "MARGIN_CALL"
    MARGIN_CALL_ENDED = "MARGIN_CALL_ENDED"


class ConnectionEvent(StrEnum):
    """State of the relay's session with a provider."""

    CONNECTED = "CONNECTED"
    DISCONNECTING = "DISCONNECTING"
    RECONNECTING = "RECONNECTING"
    FAILED = "FAILED"


class RateLimitEvent(StrEnum):
    RATE_LIMIT_WARNING = "RATE_LIMIT_WARNING"
    RATE_LIMIT_HIT = "RATE_LIMIT_HIT"


class StalenessEvent(StrEnum):
    STALE = "STALE"
    FRESH = "FRESH"


class TradingStatus(StrEnum):
    """The orders that a provider takes for an instrument now, where it says so."""

    TRADING = "TRADING"
    """All that it has."""
    POST_ONLY = "POST_ONLY"
    """Only such as add to the book."""
    LIMIT_ONLY = "LIMIT_ONLY"
    """None at the market's price."""
    REDUCE_ONLY = "REDUCE_ONLY"
    """Only such as reduce a position."""
    CANCEL_ONLY = "CANCEL_ONLY"
    """None; open ones can be cancelled."""
    AUCTION = "AUCTION"
    """Those of an auction, or of the time before trading begins."""
    HALTED = "HALTED"
    """None, for a time."""
    CLOSED = "CLOSED"
    """None: it has expired, is not listed any more, or not yet."""


class Refill(StrEnum):
    """The way a `Gap` is filled: by a snapshot that follows, by replayed events, or not at all."""

    SNAPSHOT = "snapshot"
    REPLAY = "replay"
    NONE = "none"


class ErrorCode(StrEnum):
    """The reason why a provider refused a command; the provider's own code is beside it.

    A code is only as exact as the provider's words. REJECTED is every refusal whose reason is none of the others.
    """

    INSUFFICIENT_MARGIN = "insufficient_margin"
    """Margin, balance or buying power is too small."""
    UNKNOWN_ORDER = "unknown_order"
    """There is no such order, or it has ended and the provider does not tell the two apart."""
    UNKNOWN_POSITION = "unknown_position"
    UNKNOWN_SYMBOL = "unknown_symbol"
    UNKNOWN_ACCOUNT = "unknown_account"
    ORDER_NOT_OPEN = "order_not_open"
    """The order has ended, or cannot be changed in its present state."""
    MARKET_CLOSED = "market_closed"
    NOT_TRADABLE = "not_tradable"
    """The symbol is known and cannot be traded."""
    INVALID_PRICE = "invalid_price"
    INVALID_QUANTITY = "invalid_quantity"
    INVALID_REQUEST = "invalid_request"
    """Another member is wrong, or the provider does not say which."""
    POST_ONLY_VIOLATED = "post_only_violated"
    REDUCE_ONLY_VIOLATED = "reduce_only_violated"
    RATE_LIMITED = "rate_limited"
    NOT_PERMITTED = "not_permitted"
    """The login may not do this."""
    UNSUPPORTED = "unsupported"
    """The provider, or the broker behind it, has no such function."""
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    """The provider cannot reach its own broker or platform; the command was not carried out."""
    REJECTED = "rejected"


class Outcome(StrEnum):
    """The known fate of a command. UNKNOWN is never reported as a rejection: the order may be live."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
