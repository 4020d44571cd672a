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

    @property
    def is_final(self) -> bool:
        """True when nothing more can happen to the order."""
        return self in _FINAL


_FINAL = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED})


class TimeInForce(StrEnum):
    GTC = "GTC"
    DAY = "DAY"
    IOC = "IOC"
    FOK = "FOK"
    GTD = "GTD"


class OrderEvent(StrEnum):
    """A change of an order."""

    ORDER_CREATED = "ORDER_CREATED"
    ORDER_MODIFIED = "ORDER_MODIFIED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    ORDER_REJECTED = "ORDER_REJECTED"
    ORDER_FILLED = "ORDER_FILLED"
    ORDER_PARTIALLY_FILLED = "ORDER_PARTIALLY_FILLED"
    ORDER_EXPIRED = "ORDER_EXPIRED"
    BRACKET_ORDER_CREATED = "BRACKET_ORDER_CREATED"
    BRACKET_ORDER_MODIFIED = "BRACKET_ORDER_MODIFIED"


class PositionEvent(StrEnum):
    POSITION_OPENED = "POSITION_OPENED"
    POSITION_MODIFIED = "POSITION_MODIFIED"
    POSITION_CLOSED = "POSITION_CLOSED"


class TradeEvent(StrEnum):
    TRADE_FILLED = "TRADE_FILLED"


class AccountEvent(StrEnum):
    BALANCE_UPDATED = "BALANCE_UPDATED"
    METRICS_UPDATED = "METRICS_UPDATED"
    MARGIN_WARNING = "MARGIN_WARNING"
    MARGIN_CALL = "MARGIN_CALL"


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


class Refill(StrEnum):
    """The way a `Gap` is filled: by a snapshot that follows, by replayed events, or not at all."""

    SNAPSHOT = "snapshot"
    REPLAY = "replay"
    NONE = "none"


class Outcome(StrEnum):
    """The known fate of a command. UNKNOWN is never reported as a rejection: the order may be live."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
