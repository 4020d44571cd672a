"""The simulated ScaleTrade's account: hedged tickets, each an order and then a position of its own. Pure and exact.

A request is accepted (or refused) at once and carried out by the next step, as the provider's does. A partial close leaves
the ticket open with the rest of its volume and books the closed part under a number of its own. Profit is in the quote
currency, which is the account's own. Every call yields the tickets it changed with the code of what happened.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from attrs import Factory, define, evolve

from relay.testing.account import SimulatedRefusal
from relay.testing.market import Market, Units

LOT = 100
CONTRACTS = {"EURUSD": 100_000, "GBPUSD": 100_000, "XAUUSD": 100, "BTCUSD": 1}
COMMISSION = Fraction(-12, 10)  # of a lot
ADD, UPDATE, DELETE, ACTIVATE, CLOSE = 0, 1, 2, 5, 6
OPEN, OPEN_REQUEST, CLOSED, CLOSED_PART, DELETED, CLOSE_REQUEST, CANCEL_REQUEST = 0, 1, 3, 4, 6, 7, 9
OPEN_UPDATE, PENDING_UPDATE, PARTIAL_CLOSE = 14, 16, 19
SECOND = 1_000_000_000


@define(kw_only=True)
class Ticket:
    """Prices in units of the instrument, 0 where there is none; times in Unix seconds."""

    order: int
    symbol: str
    cmd: int
    volume: int
    open_price: Units = 0
    close_price: Units = 0
    open_time: int = 0
    close_time: int = 0
    tp: Units = 0
    sl: Units = 0
    state: int = OPEN_REQUEST
    commission: Fraction = Fraction(0)
    profit: Fraction = Fraction(0)
    comment: str = ""
    expiration: int = 0

    @property
    def is_market(self) -> bool:
        return self.cmd < 2

    @property
    def is_buy(self) -> bool:
        return self.cmd % 2 == 0


Told = tuple[Ticket, int]


@define(eq=False)
class TicketAccount:
    """One account with its open and past tickets."""

    market: Market
    login: int
    balance: Fraction = Fraction(100_000)
    leverage: int = 100
    tickets: dict[int, Ticket] = Factory(dict)
    past: list[Ticket] = Factory(list)
    _queue: list[Callable[[int], Iterator[Told]]] = Factory(list)
    _last: int = 1_001_233

    # --- requests ----------------------------------------------------------------------------------------------------

    def open(self, ticket: Ticket) -> Iterator[Told]:
        """Accept an order. Raises SimulatedRefusal."""
        self._check_levels(ticket)
        if ticket.is_market and self._margin(evolve(ticket, open_price=self._touch(ticket))) > self.free():
            raise SimulatedRefusal("RET_ERROR", "not enough money")
        self.tickets[ticket.order] = ticket
        self._queue.append(lambda now: self._opened(ticket, now))
        yield ticket, ADD

    def close(self, order: int, volume: int | None) -> Iterator[Told]:
        """Accept the closing of a position, or of a part of it. Raises SimulatedRefusal."""
        ticket = self._open_ticket(order, market=True)
        size = ticket.volume if volume is None else volume
        if not 0 < size <= ticket.volume:
            raise SimulatedRefusal("INVALID_DATA", f"volume: {order} has {ticket.volume}")
        ticket.state = CLOSE_REQUEST if size == ticket.volume else PARTIAL_CLOSE
        self._queue.append(lambda now: self._closed(ticket, size, now))
        yield ticket, UPDATE

    def cancel(self, order: int) -> Iterator[Told]:
        """Accept the cancelling of a pending order. Raises SimulatedRefusal."""
        ticket = self._open_ticket(order, market=False)
        ticket.state = CANCEL_REQUEST
        self._queue.append(lambda now: self._deleted(ticket, now))
        yield ticket, UPDATE

    def modify(self, order: int, *, market: bool, **changes: Any) -> Iterator[Told]:
        """Accept new levels, price or expiration. Raises SimulatedRefusal."""
        ticket = self._open_ticket(order, market=market)
        self._check_levels(evolve(ticket, **changes))
        ticket.state = OPEN_UPDATE if market else PENDING_UPDATE
        self._queue.append(lambda now: self._modified(ticket, changes))
        yield ticket, UPDATE

    def number(self) -> int:
        """Return a new ticket number."""
        self._last += 1
        return self._last

    # --- time --------------------------------------------------------------------------------------------------------

    def step(self, now: int) -> Iterator[Told]:
        """Carry out what was accepted, then let the market act on every ticket. ``now`` is Unix seconds."""
        queue, self._queue = self._queue, []
        for run in queue:
            yield from run(now)
        for ticket in list(self.tickets.values()):
            if ticket.state != OPEN:
                continue
            if not ticket.is_market:
                yield from self._waiting(ticket, now)
            elif self._is_hit(ticket):
                yield from self._closed(ticket, ticket.volume, now)
            elif ticket.profit != (profit := self._profit(ticket, ticket.volume)):
                ticket.profit = profit
                yield ticket, UPDATE

    def _opened(self, ticket: Ticket, now: int) -> Iterator[Told]:
        ticket.state = OPEN
        if ticket.is_market:
            self._fill(ticket, now)
        yield ticket, UPDATE

    def _fill(self, ticket: Ticket, now: int) -> None:
        ticket.open_price, ticket.open_time = self._touch(ticket), now
        ticket.commission = COMMISSION * ticket.volume / LOT
        ticket.profit = self._profit(ticket, ticket.volume)

    def _closed(self, ticket: Ticket, volume: int, now: int) -> Iterator[Told]:
        part = volume < ticket.volume
        share = Fraction(volume, ticket.volume)
        booked = evolve(
            ticket,
            order=self.number() if part else ticket.order,
            volume=volume,
            state=CLOSED_PART if part else CLOSED,
            close_price=self._exit(ticket),
            close_time=now,
            commission=ticket.commission * share,
            profit=self._profit(ticket, volume),
            comment=f"part of {ticket.order}" if part else ticket.comment,
        )
        self.balance += booked.profit + booked.commission
        self.past.append(booked)
        if part:
            ticket.volume -= volume
            ticket.commission -= booked.commission
            ticket.profit = self._profit(ticket, ticket.volume)
            ticket.state = OPEN
        else:
            del self.tickets[ticket.order]
        yield booked, CLOSE
        if part:
            yield ticket, UPDATE

    def _deleted(self, ticket: Ticket, now: int) -> Iterator[Told]:
        gone = evolve(self.tickets.pop(ticket.order), state=DELETED, close_time=now)
        self.past.append(gone)
        yield gone, DELETE

    def _modified(self, ticket: Ticket, changes: dict[str, Any]) -> Iterator[Told]:
        for name, value in changes.items():
            setattr(ticket, name, value)
        ticket.state = OPEN
        yield ticket, UPDATE

    def _waiting(self, ticket: Ticket, now: int) -> Iterator[Told]:
        if ticket.expiration and now >= ticket.expiration:
            yield from self._deleted(ticket, now)
            return
        touch = self._touch(ticket)
        falls = ticket.cmd in (2, 5)  # reached from above: buy limit, sell stop
        if touch <= ticket.open_price if falls else touch >= ticket.open_price:
            ticket.cmd %= 2
            self._fill(ticket, now)
            yield ticket, ACTIVATE

    # --- money -------------------------------------------------------------------------------------------------------

    def profit(self) -> Fraction:
        return sum((ticket.profit for ticket in self._positions()), Fraction(0))

    def margin(self) -> Fraction:
        return sum((self._margin(ticket) for ticket in self._positions()), Fraction(0))

    def equity(self) -> Fraction:
        return self.balance + self.profit()

    def free(self) -> Fraction:
        return self.equity() - self.margin()

    def _positions(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets.values() if ticket.is_market and ticket.open_time]

    def _worth(self, ticket: Ticket, price: Units, volume: int) -> Fraction:
        decimals = self.market.instrument(ticket.symbol).decimals
        return Fraction(price * CONTRACTS[ticket.symbol] * volume, 10**decimals * LOT)

    def _margin(self, ticket: Ticket) -> Fraction:
        return self._worth(ticket, ticket.open_price, ticket.volume) / self.leverage

    def _profit(self, ticket: Ticket, volume: int) -> Fraction:
        earned = self._exit(ticket) - ticket.open_price
        return self._worth(ticket, earned if ticket.is_buy else -earned, volume)

    def _touch(self, ticket: Ticket) -> Units:
        quote = self.market.quote(ticket.symbol)
        return quote.ask if ticket.is_buy else quote.bid

    def _exit(self, ticket: Ticket) -> Units:
        quote = self.market.quote(ticket.symbol)
        return quote.bid if ticket.is_buy else quote.ask

    # --- checks ------------------------------------------------------------------------------------------------------

    def _open_ticket(self, order: int, *, market: bool) -> Ticket:
        ticket = self.tickets.get(order)
        if ticket is None:
            raise SimulatedRefusal("RET_ERR_NOTFOUND", f"no open order {order}")
        if ticket.is_market is not market or ticket.state != OPEN:
            raise SimulatedRefusal(
                "RET_TRADE_INCORRECT_CMD", f"{order} is not an open {'position' if market else 'pending order'}"
            )
        return ticket

    def _check_levels(self, ticket: Ticket) -> None:
        """Stop loss and take profit must lie on their sides of the price."""
        at = self._touch(ticket) if ticket.is_market else ticket.open_price
        sign = 1 if ticket.is_buy else -1
        if (ticket.sl and sign * (at - ticket.sl) <= 0) or (ticket.tp and sign * (ticket.tp - at) <= 0):
            raise SimulatedRefusal("INCORRECT_SL_TP", "stop loss or take profit is on the wrong side")

    def _is_hit(self, ticket: Ticket) -> bool:
        at, sign = self._exit(ticket), 1 if ticket.is_buy else -1
        return bool((ticket.sl and sign * (at - ticket.sl) <= 0) or (ticket.tp and sign * (at - ticket.tp) >= 0))
