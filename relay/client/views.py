"""Views of a channel: a book from depth events, an account from its orders, positions, fills and balances. Sans-IO."""

from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from typing import TypeVar

import attrs
from attrs import Factory, define, field

from relay.client.feed import Update
from relay.model.enums import OrderStatus, PositionEvent
from relay.model.events import Account, AccountScoped, Depth, Gap, Order, Position, Staleness, Trade

_ENDED = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED})

Item = TypeVar("Item")
Level = tuple[str, str]
"""Price and size, in the provider's digits."""


@define(eq=False)
class View:
    """The state of one channel, and the reason for which it cannot be relied on now.

    There are two: the relay said that the data are stale, and the connection to the relay is lost. The latter ends when
    everything that was missed has been received.
    """

    _told: Staleness | None = field(default=None, init=False)
    _lost: tuple[str, str | None] | None = field(default=None, init=False)

    @property
    def stale(self) -> str | None:
        """Why the data cannot be relied on now, None while they can."""
        if self._lost is not None:
            return self._lost[0]
        return None if self._told is None else self._told.reason or "stale"

    @property
    def stale_since(self) -> str | None:
        """The time (RFC 3339) since which the data cannot be relied on, None where that is not known or they can.

        Without a connection: when the last message of the relay came.
        """
        if self._lost is not None:
            return self._lost[1]
        return None if self._told is None else self._told.stale_since

    def lose(self, reason: str, since: str | None = None) -> None:
        """Say that the connection to the relay is lost. A loss before the first one's end changes nothing."""
        self._lost = self._lost or (reason, since)

    def found(self) -> None:
        """Say that everything that was missed has been received."""
        self._lost = None

    def forget(self) -> None:
        """Discard the state: the relay tells it anew. Whether it is stale is told anew, too."""
        self._told = None

    def take(self, update: Update) -> None:
        """Apply the next update of the channel."""
        if update.missed is not None:
            self.forget()
        if isinstance(update.event, Staleness):
            self._told = None if update.event.event == "FRESH" else update.event


@define(eq=False)
class OrderBook(View):
    """The book of one depth channel.

    Attributes:
        symbol: None before the first event.
        is_valid: False before the first snapshot, and after a loss until the next one; the sides are empty then.
    """

    symbol: str | None = None
    is_valid: bool = False
    _bids: dict[Decimal, Level] = Factory(dict)
    _asks: dict[Decimal, Level] = Factory(dict)

    def take(self, update: Update) -> None:
        """Apply the next update of the channel.

        A jump of the number is not a loss of depth: for a slow reader the relay replaces dropped deltas by a snapshot, and
        keeps only the newest `staleness`.
        """
        super().take(update)
        if isinstance(update.event, Gap):
            self._clear()
        elif isinstance(update.event, Depth):
            self._depth(update.event)

    def forget(self) -> None:
        """Discard the levels until the next snapshot, and what was said of their staleness."""
        super().forget()
        self._clear()

    def _clear(self) -> None:
        self.is_valid = False
        self._bids.clear()
        self._asks.clear()

    def _depth(self, event: Depth) -> None:
        self.symbol = event.symbol
        if event.snapshot:
            self._clear()
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
class AccountView(View):
    """The state of one account, built from the events of its channel.

    Attributes:
        account: the last known value of each balance and figure; None before any is received.
        orders: the open orders by id.
        positions: the open positions by id.
        fills: the newest fills that were received, at most 1,000. Those that could not be replayed after a lost connection
            are missing; ``trade_history`` asks the broker.
    """

    provider: str
    name: str
    account: Account | None = None
    orders: dict[str, Order] = Factory(dict)
    positions: dict[str, Position] = Factory(dict)
    fills: deque[Trade] = Factory(lambda: deque(maxlen=1000))

    def forget(self) -> None:
        """Discard balances, orders and positions, which the relay tells anew; the fills stay."""
        super().forget()
        self.account = None
        self.orders.clear()
        self.positions.clear()

    def take(self, update: Update) -> None:
        """Apply the next update of the account's channel."""
        super().take(update)
        match update.event:
            case Account() as account:
                self.account = _joined(self.account, account)
            case Order() as order:
                _keep(self.orders, order.id, order, ended=order.status in _ENDED or order.vanished is True)
            case Position() as position:
                _keep(self.positions, position.id, position, ended=position.event is PositionEvent.POSITION_CLOSED)
            case Trade() as trade:
                self.fills.append(trade)


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
