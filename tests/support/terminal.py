"""An account at its provider, as somebody at another terminal sees and moves it. Ids are the provider's."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from attrs import frozen

from relay.model.enums import Side
from relay.testing.account import Ticket, TradingAccount
from relay.testing.market import Market
from relay.testing.simulator import Simulator
from relay_crosstrade.simulator import CrossTradeSimulator, exchange
from relay_scaletrade import tickets
from relay_scaletrade.simulator import ScaleTradeSimulator


@frozen
class Terminal:
    """A simulator's account of netted positions.

    Attributes:
        by_symbol: a position is named by its instrument.
        named: an order's or a fill's id as the provider writes it.
    """

    account: TradingAccount
    market: Market
    by_symbol: bool = False
    named: Callable[[str], str] = str

    def act(self) -> None:
        """Cancel the order that rests, close the position, and open another one."""
        now_ns = self.market.now_ns
        (resting,) = self.account.open_orders()
        (held,) = self.account.positions.values()
        self.account.cancel(resting.id, now_ns)
        self.account.close(held.id, now_ns)
        other = self.market.instruments[1]
        lots = 10**other.size_decimals * (1 if self.by_symbol else 10)
        self.account.place(Ticket(symbol=other.symbol, side=Side.SELL, quantity=lots), now_ns)

    def positions(self) -> set[str]:
        return {held.symbol if self.by_symbol else held.id for held in self.account.positions.values()}

    def orders(self) -> set[str]:
        return {self.named(order.id) for order in self.account.open_orders()}

    def fills(self) -> set[str]:
        return {self.named(fill.id) for fill in self.account.fills}


@frozen
class Tickets:
    """ScaleTrade's: one ticket is an order and then a position; what is asked for is carried out by the market's next step."""

    account: tickets.TicketAccount

    def act(self) -> None:
        """As `Terminal.act`."""
        list(self.account.step(self.account.market.now_ns // tickets.SECOND))
        (resting,), (held,) = self.orders(), self.positions()
        other = tickets.Ticket(order=self.account.number(), symbol="GBPUSD", cmd=1, volume=10)
        for told in (self.account.cancel(int(resting)), self.account.close(int(held), None), self.account.open(other)):
            list(told)

    def positions(self) -> set[str]:
        return _numbers(ticket for ticket in self.account.tickets.values() if ticket.is_market)

    def orders(self) -> set[str]:
        return _numbers(ticket for ticket in self.account.tickets.values() if not ticket.is_market)

    def fills(self) -> set[str]:
        return set()


def _numbers(found: Iterable[tickets.Ticket]) -> set[str]:
    return {str(ticket.order) for ticket in found}


def terminal_of(simulator: Simulator) -> Terminal | Tickets:
    """Another terminal of the account the relay has at this simulator."""
    match simulator:
        case ScaleTradeSimulator():
            return Tickets(simulator.account)
        case CrossTradeSimulator():
            account = simulator.exchange.accounts["Sim101"]
            return Terminal(
                account, simulator.exchange.market, by_symbol=True, named=partial(exchange.named, account.id)
            )
    other: Any = simulator
    return Terminal(other.account, other.market)
