"""The instruments of a provider, and whether an order fits the one it is for.

An order is compared with the provider's metadata, exactly and in decimals: a price must be a multiple of the tick, a size
a multiple of the step and within its bounds, and the instrument must accept such orders now. Absent and outdated metadata
are not checked, because an order that the provider would accept must not be refused here.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from attrs import evolve, frozen

from relay.model.commands import AmendOrder, AmendPosition, Command, PlaceOrder
from relay.model.enums import ErrorCode, OrderType, TradingStatus
from relay.model.events import Instrument
from relay.model.text import MAX_DIGITS

#: Instruments of one provider, at most: several times what the largest venue lists.
MOST_INSTRUMENTS = 200_000
#: Seconds for which a tick, a step or a bound holds after it was read; twice the time from one reading to the next.
TERMS_HOLD = 7200.0
#: Seconds for which a status holds: a halt may end at any time.
STATUS_HOLDS = 60.0
_PRICES = ("limit_price", "stop_price", "stop_loss", "take_profit")
#: Enough digits for the quotient and the product of any two decimals there are.
_exact = Context(prec=4 * MAX_DIGITS)
_NOT_NOW = {
    TradingStatus.CANCEL_ONLY: "takes no new orders now",
    TradingStatus.HALTED: "is halted",
    TradingStatus.CLOSED: "is not traded",
}


@frozen
class Misfit:
    """The reason why an order does not fit its instrument: a code, the member at fault, and a text that begins with it."""

    code: ErrorCode
    field: str
    message: str


class Instruments:
    """The instruments of one provider by canonical symbol, as last received."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Instrument, str, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Instrument]:
        return (instrument for instrument, *_ in self._known.values())

    def learn(self, instrument: Instrument, received_at: str, now: float) -> None:
        """Store an instrument, replacing the previous one of its symbol, and the time at which it was received.

        ``now`` is that time in monotonic seconds.

        Beyond `MOST_INSTRUMENTS` the one that was learned first is forgotten; nothing is then checked for its symbol.
        """
        if instrument.symbol not in self._known and len(self._known) >= MOST_INSTRUMENTS:
            del self._known[next(iter(self._known))]
        self._known[instrument.symbol] = instrument, received_at, now

    def find(self, symbol: str | None) -> Instrument | None:
        """Return the instrument of a canonical symbol; None if the provider has sent none."""
        return None if symbol is None or symbol not in self._known else self._known[symbol][0]

    def received_at(self, symbol: str) -> str:
        """Return the time at which the instrument of a symbol was received. Raises KeyError if there is none."""
        return self._known[symbol][1]

    def misfit(self, command: Command, symbol: str | None, now: float) -> Misfit | None:
        """Return the first reason why a command does not fit the instrument of ``symbol``, as far as that is known.

        ``now`` is the time in monotonic seconds.
        """
        if symbol is None or symbol not in self._known:
            return None
        instrument, _, at = self._known[symbol]
        age = now - at
        if age > TERMS_HOLD:
            return None
        return misfit(command, instrument if age <= STATUS_HOLDS else evolve(instrument, status=None))


def misfit(command: Command, instrument: Instrument) -> Misfit | None:
    """Return the first reason why a new order, or an amendment, does not fit the instrument; None if it fits."""
    if isinstance(command, PlaceOrder) and (refused := _of_status(command, instrument)) is not None:
        return refused
    if isinstance(command, PlaceOrder | AmendOrder) and (refused := _of_quantity(command, instrument)) is not None:
        return refused
    if not isinstance(command, PlaceOrder | AmendOrder | AmendPosition):
        return None
    for member in _PRICES:
        price = getattr(command, member, None)
        if price is not None and (off := _off(price, instrument.tick_size)) is not None:
            text = f"{member}: {price} is no multiple of {instrument.tick_size}, the tick of {instrument.symbol}{off}"
            return Misfit(ErrorCode.INVALID_PRICE, member, text)
    return _of_notional(command, instrument) if isinstance(command, PlaceOrder) else None


def _of_status(order: PlaceOrder, instrument: Instrument) -> Misfit | None:
    status, symbol = instrument.status, instrument.symbol
    if status in _NOT_NOW:
        return Misfit(ErrorCode.NOT_TRADABLE, "symbol", f"symbol: {symbol} {_NOT_NOW[status]} (status {status})")
    if status is TradingStatus.LIMIT_ONLY and order.order_type is OrderType.MARKET:
        text = f"order_type: {symbol} takes no MARKET orders now (status {status})"
        return Misfit(ErrorCode.NOT_TRADABLE, "order_type", text)
    if status is TradingStatus.POST_ONLY and order.order_type is OrderType.MARKET:
        text = f"order_type: {symbol} takes only orders that add to the book now (status {status})"
        return Misfit(ErrorCode.POST_ONLY_VIOLATED, "order_type", text)
    return None


def _of_quantity(order: PlaceOrder | AmendOrder, instrument: Instrument) -> Misfit | None:
    if order.quantity is None:
        return None
    quantity, of = Decimal(order.quantity), f"of {instrument.symbol}"
    least, most, step = instrument.minimum_quantity, instrument.maximum_quantity, instrument.quantity_step
    text = None
    if least is not None and quantity < Decimal(least) and not _reduces(order):
        text = f"quantity: {order.quantity} is less than {least}, the minimum {of}"
    elif most is not None and quantity > Decimal(most):
        text = f"quantity: {order.quantity} is more than {most}, the maximum {of}"
    elif (off := _off(order.quantity, step)) is not None:
        text = f"quantity: {order.quantity} is no multiple of {step}, the step {of}{off}"
    return None if text is None else Misfit(ErrorCode.INVALID_QUANTITY, "quantity", text)


def _of_notional(order: PlaceOrder, instrument: Instrument) -> Misfit | None:
    """Compare an amount of money with the least one, or the value of a limit order where one unit is one of the base."""
    least = instrument.minimum_notional
    if least is None or instrument.contract_size is not None or _reduces(order):
        return None
    member, value = "notional", order.notional
    if value is None and order.order_type is OrderType.LIMIT and order.quantity and order.limit_price:
        member = "quantity"
        value = format(_exact.multiply(Decimal(order.quantity), Decimal(order.limit_price)), "f")
    if value is None or Decimal(value) >= Decimal(least):
        return None
    of = "" if member == "notional" else f"{order.quantity} at {order.limit_price} is worth "
    text = f"{member}: {of}{value}, less than {least}, the least value of an order of {instrument.symbol}"
    return Misfit(ErrorCode.INVALID_QUANTITY, member, text)


def _reduces(order: PlaceOrder | AmendOrder) -> bool:
    """Return True if the order only reduces a position: providers let the rest of one be closed, however small it is."""
    return isinstance(order, PlaceOrder) and bool(order.reduce_only)


def _off(value: str, step: str | None) -> str | None:
    """Return the multiples of ``step`` that are next to a value, as the end of a sentence; None where it is one itself."""
    if step is None or not (size := Decimal(step)) or not _exact.remainder(number := Decimal(value), size):
        return None
    quotient = _exact.divide(number, size)
    around = [
        format(_exact.multiply(quotient.to_integral_value(rounding=rounding, context=_exact), size), "f")
        for rounding in (ROUND_FLOOR, ROUND_CEILING)
    ]
    return f"; next to it are {' and '.join(around)}"
