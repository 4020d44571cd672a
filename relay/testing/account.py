"""A small trading account on a `relay.testing.market.Market`: orders fill, positions and money follow. Pure and exact.

- A marketable order takes what stands at the touch, once when it is placed and once a step, so that an order larger than
  the touch fills in parts. IOC cancels what is left at once, FOK is cancelled whole unless the touch holds all of it.
- A stop order waits until the market reaches its price and is then a market (or limit) order.
- Positions are netted: one per symbol; an opposite fill reduces, closes, and where it is larger opens the other way.
- Stop loss and take profit of a position close it with a market order of their own.
- Profit is in the quote currency, which is taken to be the account's own. Money is an exact fraction; only its text has
  two decimals.

Every call returns what it changed, in order. What the request itself gets wrong raises `SimulatedRefusal`; an order the
account cannot bear (margin) is an order that was rejected.
"""

from fractions import Fraction

from attrs import evolve, frozen

from relay.model.enums import OrderEvent, OrderStatus, OrderType, PositionEvent, PositionSide, Side, TimeInForce
from relay.testing.market import Market, Tradable, Units, plain

# --- requests, states and changes -------------------------------------------------------------------------------------


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


# --- the account ------------------------------------------------------------------------------------------------------

_OPEN = (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)


class TradingAccount:
    """One account.

    Args:
        balance: what it starts with, in whole units of its currency.
        leverage: how much notional one unit of margin carries.
    """

    def __init__(
        self, market: Market, id: str, *, balance: int = 100_000, currency: str = "USD", leverage: int = 100
    ) -> None:
        self.id = id
        self.currency = currency
        self.orders: dict[str, PlacedOrder] = {}
        self.positions: dict[str, HeldPosition] = {}
        self.closed: list[HeldPosition] = []
        self.fills: list[Filled] = []
        self._market = market
        self._balance = Fraction(balance)
        self._realized = Fraction(0)
        self._leverage = leverage
        self._numbers = {"ord": 0, "pos": 0, "exec": 0}

    # --- requests ----------------------------------------------------------------------------------------------------

    def place(self, ticket: Ticket, now_ns: int) -> list[Change]:
        """Place an order. Raises SimulatedRefusal for one that makes no sense."""
        self._check(ticket)
        order = PlacedOrder(
            id=self._name("ord"), ticket=ticket, status=OrderStatus.OPEN, created_ns=now_ns, updated_ns=now_ns
        )
        if ticket.closes is None and self._margin_of(ticket) > self.money().free:
            rejected = evolve(order, status=OrderStatus.REJECTED, reason="insufficient margin")
            self.orders[order.id] = rejected
            return [OrderMoved(order=rejected, event=OrderEvent.ORDER_REJECTED)]
        self.orders[order.id] = order
        return [OrderMoved(order=order, event=OrderEvent.ORDER_CREATED), *self._match(order.id, now_ns, first=True)]

    def cancel(self, order_id: str, now_ns: int) -> list[Change]:
        """Cancel an open order. Raises SimulatedRefusal when there is none of that id."""
        self._open_order(order_id)
        return self._end(order_id, OrderStatus.CANCELLED, OrderEvent.ORDER_CANCELLED, now_ns)

    def amend(
        self,
        order_id: str,
        now_ns: int,
        *,
        quantity: Units | None = None,
        limit: Units | None = None,
        stop: Units | None = None,
    ) -> list[Change]:
        """Change an open order; what is None stays. Raises SimulatedRefusal."""
        order = self._open_order(order_id)
        before = order.ticket
        ticket = evolve(
            before,
            quantity=before.quantity if quantity is None else quantity,
            limit=before.limit if limit is None else limit,
            stop=before.stop if stop is None else stop,
        )
        self._check(ticket)
        if ticket.quantity <= order.filled:
            raise SimulatedRefusal("INVALID_QUANTITY", f"{order_id} has filled {order.filled} already")
        self.orders[order_id] = evolve(order, ticket=ticket, updated_ns=now_ns)
        amended = OrderMoved(order=self.orders[order_id], event=OrderEvent.ORDER_MODIFIED)
        return [amended, *self._match(order_id, now_ns)]

    def close(self, position_id: str, now_ns: int, quantity: Units | None = None) -> list[Change]:
        """Close a position, or ``quantity`` of it, with a market order. Raises SimulatedRefusal."""
        position = self._position(position_id)
        if quantity is not None and not 0 < quantity <= position.quantity:
            raise SimulatedRefusal("INVALID_QUANTITY", f"{position_id} has a quantity of {position.quantity} units")
        side = Side.SELL if position.side is PositionSide.LONG else Side.BUY
        size = position.quantity if quantity is None else quantity
        return self.place(Ticket(symbol=position.symbol, side=side, quantity=size, closes=position_id), now_ns)

    def protect(
        self, position_id: str, now_ns: int, *, stop_loss: Units | None = None, take_profit: Units | None = None
    ) -> list[Change]:
        """Set the stop loss and take profit of a position; None stays as it is. Raises SimulatedRefusal."""
        position = self._position(position_id)
        changed = evolve(
            position,
            stop_loss=position.stop_loss if stop_loss is None else stop_loss,
            take_profit=position.take_profit if take_profit is None else take_profit,
            updated_ns=now_ns,
        )
        self.positions[position.symbol] = changed
        return [PositionMoved(position=changed, event=PositionEvent.POSITION_MODIFIED)]

    def step(self, now_ns: int) -> list[Change]:
        """Let open orders and protections see the market as it stands."""
        changes: list[Change] = []
        for order in [order for order in self.orders.values() if order.status in _OPEN]:
            changes += self._match(order.id, now_ns)
        for position in list(self.positions.values()):
            if self._hit(position) and not self._is_closing(position):
                changes += self.close(position.id, now_ns)
        return changes

    # --- what stands -------------------------------------------------------------------------------------------------

    def open_orders(self) -> list[PlacedOrder]:
        return [order for order in self.orders.values() if order.status in _OPEN]

    def money(self) -> Money:
        unrealized = sum((self.unrealized(position) for position in self.positions.values()), Fraction(0))
        margin = sum((self._worth(p.symbol, p.entry * p.quantity) for p in self.positions.values()), Fraction(0))
        margin /= self._leverage
        equity = self._balance + unrealized
        return Money(
            balance=self._balance,
            equity=equity,
            margin=margin,
            free=equity - margin,
            unrealized=unrealized,
            realized=self._realized,
        )

    def unrealized(self, position: HeldPosition) -> Fraction:
        """Return the profit of closing the position at the current bid or ask."""
        quote = self._market.quote(position.symbol)
        return self._earned(position, quote.bid if position.side is PositionSide.LONG else quote.ask, position.quantity)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _name(self, prefix: str) -> str:
        self._numbers[prefix] += 1
        return f"{prefix}_{self._numbers[prefix]}"

    def _check(self, ticket: Ticket) -> None:
        if ticket.symbol not in self._market:
            raise SimulatedRefusal("UNKNOWN_SYMBOL", f"no such symbol: {ticket.symbol}")
        if ticket.quantity <= 0:
            raise SimulatedRefusal("INVALID_QUANTITY", "the quantity must be positive")
        if ticket.order_type is OrderType.TRAILING_STOP:
            raise SimulatedRefusal("UNSUPPORTED_TYPE", "no trailing stops here")
        needs_limit = ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
        needs_stop = ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
        for name, needed, price in (("limit", needs_limit, ticket.limit), ("stop", needs_stop, ticket.stop)):
            if needed and (price is None or price <= 0):
                raise SimulatedRefusal("INVALID_PRICE", f"a {ticket.order_type} order needs a positive {name} price")
        if ticket.closes is not None:
            self._position(ticket.closes)

    def _open_order(self, order_id: str) -> PlacedOrder:
        order = self.orders.get(order_id)
        if order is None or order.status not in _OPEN:
            raise SimulatedRefusal("UNKNOWN_ORDER", f"no open order {order_id}")
        return order

    def _position(self, position_id: str) -> HeldPosition:
        for position in self.positions.values():
            if position.id == position_id:
                return position
        raise SimulatedRefusal("UNKNOWN_POSITION", f"no open position {position_id}")

    def _instrument(self, symbol: str) -> Tradable:
        return self._market.instrument(symbol)

    def _worth(self, symbol: str, notional: Fraction | int) -> Fraction:
        """Return the money of a product of price units and size units."""
        instrument = self._instrument(symbol)
        return Fraction(notional) / Fraction(10) ** (instrument.decimals + instrument.size_decimals)

    def _margin_of(self, ticket: Ticket) -> Fraction:
        price = ticket.limit or ticket.stop or self._market.quote(ticket.symbol).ask
        return self._worth(ticket.symbol, price * ticket.quantity) / self._leverage

    def _earned(self, position: HeldPosition, price: Units, quantity: Units) -> Fraction:
        sign = 1 if position.side is PositionSide.LONG else -1
        return self._worth(position.symbol, sign * (price - position.entry) * quantity)

    def _match(self, order_id: str, now_ns: int, *, first: bool = False) -> list[Change]:
        """Fill what the touch gives, if the order may trade there."""
        order = self.orders[order_id]
        ticket, quote = order.ticket, self._market.quote(order.ticket.symbol)
        price, size = (quote.ask, quote.ask_size) if ticket.side is Side.BUY else (quote.bid, quote.bid_size)
        if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and not order.triggered:
            assert ticket.stop is not None
            if (price < ticket.stop) if ticket.side is Side.BUY else (price > ticket.stop):
                return []
            order = self.orders[order_id] = evolve(order, triggered=True)
        limit = ticket.limit if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None
        crosses = limit is None or (price <= limit if ticket.side is Side.BUY else price >= limit)
        quantity = min(order.remaining, size) if crosses else 0
        if ticket.closes is not None:
            held = self.positions.get(ticket.symbol)
            if held is None or held.id != ticket.closes:
                return self._end(order_id, OrderStatus.CANCELLED, OrderEvent.ORDER_CANCELLED, now_ns)
            quantity = min(quantity, held.quantity)
        if ticket.time_in_force is TimeInForce.FOK and quantity < order.remaining:
            quantity = 0
        changes = self._fill(order, price, quantity, now_ns) if quantity else []
        if first and ticket.time_in_force in (TimeInForce.IOC, TimeInForce.FOK) and self.orders[order_id].remaining:
            changes += self._end(order_id, OrderStatus.CANCELLED, OrderEvent.ORDER_CANCELLED, now_ns)
        return changes

    def _fill(self, order: PlacedOrder, price: Units, quantity: Units, now_ns: int) -> list[Change]:
        ticket = order.ticket
        position_id, moves = self._net(ticket, price, quantity, now_ns)
        filled = order.filled + quantity
        done = filled == ticket.quantity
        order = evolve(
            order,
            filled=filled,
            average=((order.average or Fraction(0)) * order.filled + price * quantity) / filled,
            status=OrderStatus.FILLED if done else OrderStatus.PARTIALLY_FILLED,
            position_id=position_id,
            updated_ns=now_ns,
        )
        self.orders[order.id] = order
        fill = Filled(
            id=self._name("exec"),
            order_id=order.id,
            symbol=ticket.symbol,
            side=ticket.side,
            quantity=quantity,
            price=price,
            position_id=position_id,
            time_ns=now_ns,
        )
        self.fills.append(fill)
        event = OrderEvent.ORDER_FILLED if done else OrderEvent.ORDER_PARTIALLY_FILLED
        return [fill, OrderMoved(order=order, event=event), *moves]

    def _net(self, ticket: Ticket, price: Units, quantity: Units, now_ns: int) -> tuple[str, list[Change]]:
        """Put a fill into the position of its symbol; return the position's id and what happened to positions."""
        side = PositionSide.LONG if ticket.side is Side.BUY else PositionSide.SHORT
        held = self.positions.get(ticket.symbol)
        if held is None:
            opened = self._opened(ticket, side, price, quantity, now_ns)
            return opened.id, [PositionMoved(position=opened, event=PositionEvent.POSITION_OPENED)]
        if held.side is side:
            entry = (held.entry * held.quantity + price * quantity) / (held.quantity + quantity)
            held = evolve(held, quantity=held.quantity + quantity, entry=entry, updated_ns=now_ns)
            self.positions[held.symbol] = held
            return held.id, [PositionMoved(position=held, event=PositionEvent.POSITION_MODIFIED)]
        closing = min(quantity, held.quantity)
        earned = self._earned(held, price, closing)
        self._balance += earned
        self._realized += earned
        left = evolve(held, quantity=held.quantity - closing, realized=held.realized + earned, updated_ns=now_ns)
        if left.quantity:
            self.positions[held.symbol] = left
            return held.id, [PositionMoved(position=left, event=PositionEvent.POSITION_MODIFIED)]
        del self.positions[held.symbol]
        self.closed.append(left)
        moves: list[Change] = [PositionMoved(position=left, event=PositionEvent.POSITION_CLOSED)]
        if quantity > closing:
            other = self._opened(ticket, side, price, quantity - closing, now_ns)
            moves.append(PositionMoved(position=other, event=PositionEvent.POSITION_OPENED))
        return held.id, moves

    def _opened(self, ticket: Ticket, side: PositionSide, price: Units, quantity: Units, now_ns: int) -> HeldPosition:
        position = HeldPosition(
            id=self._name("pos"),
            symbol=ticket.symbol,
            side=side,
            quantity=quantity,
            entry=Fraction(price),
            stop_loss=ticket.stop_loss,
            take_profit=ticket.take_profit,
            opened_ns=now_ns,
            updated_ns=now_ns,
        )
        self.positions[ticket.symbol] = position
        return position

    def _end(self, order_id: str, status: OrderStatus, event: OrderEvent, now_ns: int) -> list[Change]:
        self.orders[order_id] = evolve(self.orders[order_id], status=status, updated_ns=now_ns)
        return [OrderMoved(order=self.orders[order_id], event=event)]

    def _hit(self, position: HeldPosition) -> bool:
        """Return True if the market reached the position's stop loss or take profit."""
        quote = self._market.quote(position.symbol)
        loss, profit = position.stop_loss, position.take_profit
        if position.side is PositionSide.LONG:
            return (loss is not None and quote.bid <= loss) or (profit is not None and quote.bid >= profit)
        return (loss is not None and quote.ask >= loss) or (profit is not None and quote.ask <= profit)

    def _is_closing(self, position: HeldPosition) -> bool:
        return any(order.ticket.closes == position.id for order in self.open_orders())
