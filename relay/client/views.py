"""Views of a channel: a book from depth events, an account from its orders, positions, fills and balances. Sans-IO."""

from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from typing import TypeVar

import attrs
from attrs import Factory, define

from relay.client.feed import Update
from relay.model.enums import OrderStatus, PositionEvent
from relay.model.events import Account, AccountScoped, Depth, Gap, Order, Position, Staleness, Trade

_ENDED = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED})

Item = TypeVar("Item")
Level = tuple[str, str]
"""Price and size, in the provider's digits."""


@define(eq=False)
class OrderBook:
    """The book of one depth channel.

    Attributes:
        symbol: None before the first event.
        is_valid: False before the first snapshot, and after a loss until the next one; the sides are empty then.
        stale: the reason why the data are stale; None while they are fresh.
    """

    symbol: str | None = None
    is_valid: bool = False
    stale: str | None = None
    _bids: dict[Decimal, Level] = Factory(dict)
    _asks: dict[Decimal, Level] = Factory(dict)

    def take(self, update: Update) -> None:
        """Apply the next update of the channel.

        A jump of the number is not a loss of depth: for a slow reader the relay replaces dropped deltas by a snapshot, and
        keeps only the newest `staleness`.
        """
        if update.missed is not None:
            self.forget()
        event = update.event
        if isinstance(event, Staleness):
            self.stale = None if event.event == "FRESH" else event.reason or "stale"
        elif isinstance(event, Gap):
            self.forget()
        elif isinstance(event, Depth):
            self._depth(event)

    def forget(self) -> None:
        """Discard the levels until the next snapshot."""
        self.is_valid = False
        self._bids.clear()
        self._asks.clear()

    def _depth(self, event: Depth) -> None:
        self.symbol = event.symbol
        if event.snapshot:
            self.forget()
            self.is_valid = True
        if self.is_valid:
            for side, levels in ((self._bids, event.bids), (self._asks, event.asks)):
                for price, size in levels:
                    if Decimal(size):
                        side[Decimal(price)] = (price, size)
                    else:
                        side.pop(Decimal(price), None)

    def bids(self, depth: int | None = None) -> list[Level]:
        """Return the bids, the best first."""
        return [self._bids[price] for price in sorted(self._bids, reverse=True)[:depth]]

    def asks(self, depth: int | None = None) -> list[Level]:
        """Return the asks, the best first."""
        return [self._asks[price] for price in sorted(self._asks)[:depth]]


@define(eq=False)
class AccountView:
    """The state of one account, built from the events of its channel.

    Attributes:
        account: the last known value of each balance and figure; None before any is received.
        orders: the open orders by id.
        positions: the open positions by id.
        fills: the newest fills, at most 1,000.
        stale: the reason why the data are stale; None while they are fresh.
    """

    provider: str
    name: str
    account: Account | None = None
    orders: dict[str, Order] = Factory(dict)
    positions: dict[str, Position] = Factory(dict)
    fills: deque[Trade] = Factory(lambda: deque(maxlen=1000))
    stale: str | None = None

    def take(self, update: Update) -> None:
        """Apply the next update of the account's channel."""
        if update.missed is not None:  # the relay sends the whole state again
            self.account = None
            self.orders.clear()
            self.positions.clear()
        match update.event:
            case Account() as account:
                self.account = _joined(self.account, account)
            case Order() as order:
                _keep(self.orders, order.id, order, ended=order.status in _ENDED or order.vanished is True)
            case Position() as position:
                _keep(self.positions, position.id, position, ended=position.event is PositionEvent.POSITION_CLOSED)
            case Trade() as trade:
                self.fills.append(trade)
            case Staleness() as staleness:
                self.stale = None if staleness.event == "FRESH" else staleness.reason or "stale"


#: The state in an account's event; the rest of it is about the message.
_FIGURES = attrs.fields_dict(Account).keys() - attrs.fields_dict(AccountScoped).keys() - {"event", "data"}


def _joined(before: Account | None, now: Account) -> Account:
    """Return ``now`` with the figures that it leaves out as they were: brokers tell an account in several messages."""
    left_out = {name: getattr(before, name, None) for name in _FIGURES if getattr(now, name) is None}
    return attrs.evolve(now, **left_out)


def _keep(held: dict[str, Item], id: str, item: Item, *, ended: bool) -> None:
    if ended:
        held.pop(id, None)
    else:
        held[id] = item


def total(values: Iterable[str | None]) -> str | None:
    """Return the sum of decimals, exactly; None where none is known."""
    known = [Decimal(value) for value in values if value is not None]
    return f"{sum(known, Decimal()):f}" if known else None
