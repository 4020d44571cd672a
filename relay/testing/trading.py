"""The words of `relay.testing.account`: what is asked of an account, what stands on it, and what happened to it."""

from fractions import Fraction

from attrs import frozen

from relay.model.enums import OrderEvent, OrderStatus, OrderType, PositionEvent, PositionSide, Side, TimeInForce
from relay.testing.market import Units, plain


class SimulatedRefusal(Exception):
    """A request that cannot be carried out: ``code`` in words of a program, the text in words of a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@frozen(kw_only=True)
class Ticket:
    """An order's request, in units of the instrument."""

    symbol: str
    side: Side
    quantity: Units
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.GTC
    limit: Units | None = None
    stop: Units | None = None
    stop_loss: Units | None = None
    take_profit: Units | None = None
    client_order_id: str | None = None
    closes: str | None = None
    """The position this order may only reduce."""


@frozen(kw_only=True)
class PlacedOrder:
    id: str
    ticket: Ticket
    status: OrderStatus
    filled: Units = 0
    average: Fraction | None = None
    triggered: bool = False
    reason: str | None = None
    position_id: str | None = None
    created_ns: int
    updated_ns: int

    @property
    def remaining(self) -> Units:
        return self.ticket.quantity - self.filled


@frozen(kw_only=True)
class HeldPosition:
    """``quantity`` is never negative; zero when it is closed. ``realized`` is what closing parts of it earned."""

    id: str
    symbol: str
    side: PositionSide
    quantity: Units
    entry: Fraction
    realized: Fraction = Fraction(0)
    stop_loss: Units | None = None
    take_profit: Units | None = None
    opened_ns: int
    updated_ns: int


@frozen(kw_only=True)
class OrderMoved:
    order: PlacedOrder
    event: OrderEvent


@frozen(kw_only=True)
class Filled:
    """One execution; the `OrderMoved` that follows it carries the order after it."""

    id: str
    order_id: str
    symbol: str
    side: Side
    quantity: Units
    price: Units
    position_id: str
    time_ns: int


@frozen(kw_only=True)
class PositionMoved:
    position: HeldPosition
    event: PositionEvent


Change = OrderMoved | Filled | PositionMoved


@frozen(kw_only=True)
class Money:
    """All in the account's currency, exact."""

    balance: Fraction
    equity: Fraction
    margin: Fraction
    free: Fraction
    unrealized: Fraction
    realized: Fraction


def money_text(amount: Fraction, decimals: int = 2) -> str:
    """Return ``amount`` rounded half to even at ``decimals`` digits."""
    return plain(round(amount * 10**decimals), decimals)
