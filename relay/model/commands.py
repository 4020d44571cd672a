"""Trading commands: one canonical set, in the same words as the events.

A command is what an application asks of a provider's account. The relay structures it from JSON strictly (unknown members
are refused by name), hands it to the adapter's ``encode``, and ends it with exactly one `relay.model.events.Reply`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import Factory, field, frozen
from attrs.converters import optional

from relay.model.enums import OrderType, PositionIntent, Side, TimeInForce, TrailingType
from relay.model.text import optional_decimal, optional_time


@frozen(kw_only=True)
class Command:
    """The base of all commands.

    Attributes:
        id: the sender's name of this request; its reply carries it. Unique per account.
        account: the account it acts on; None where the session has exactly one.

    Class attributes:
        name: the command's name.
        answer: the member of the reply's result that holds what was asked for in the words of the events; None where the
            command does not read.
    """

    name: ClassVar[str]
    answer: ClassVar[str | None] = None

    id: str
    account: str | None = None


@frozen(kw_only=True)
class PlaceOrder(Command):
    """Place one order. ``client_order_id`` makes it idempotent; prices are required as the order type requires them.

    It has either a ``quantity`` or a ``notional``, an amount of money for which as much is bought or sold as that gives.
    """

    name = "place_order"

    symbol: str
    side: Side = field(converter=Side)
    order_type: OrderType = field(converter=OrderType)
    quantity: str | None = field(default=None, converter=optional_decimal)
    notional: str | None = field(default=None, converter=optional_decimal)
    time_in_force: TimeInForce | None = field(default=None, converter=optional(TimeInForce))
    limit_price: str | None = field(default=None, converter=optional_decimal)
    stop_price: str | None = field(default=None, converter=optional_decimal)
    stop_loss: str | None = field(default=None, converter=optional_decimal)
    take_profit: str | None = field(default=None, converter=optional_decimal)
    trailing_distance: str | None = field(default=None, converter=optional_decimal)
    trailing_type: TrailingType | None = field(default=None, converter=optional(TrailingType))
    good_till: str | None = field(default=None, converter=optional_time)
    client_order_id: str | None = None
    reduce_only: bool | None = None
    post_only: bool | None = None
    extended_hours: bool | None = None
    position_intent: PositionIntent | None = field(default=None, converter=optional(PositionIntent))
    extra: Mapping[str, Any] = Factory(dict)

    def with_extra(self, own: Mapping[str, Any], *reserved: str) -> dict[str, Any]:
        """Return the provider's members ``own`` with `extra` added.

        Spelling does not matter to the comparison: ``accountId``, ``account_id`` and ``ACCOUNTID`` are one name, because a
        server may read any of them.

        Raises:
            ValueError: a member of `extra` is one of the order's own, or ``reserved``: with it an order could go to an
                account, or become an order, that nobody was asked about.
        """
        taken = {_plain(name) for name in (*own, *reserved, "account", "account_id")}
        for name in self.extra:
            if _plain(name) in taken:
                raise ValueError(f"extra.{name}: is a member of the order's own")
        return {**own, **self.extra}


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


@frozen(kw_only=True)
class CancelOrder(Command):
    """Cancel an open order."""

    name = "cancel_order"

    order_id: str
    symbol: str | None = None


@frozen(kw_only=True)
class AmendOrder(Command):
    """Change an order; a member that is absent stays as it is."""

    name = "amend_order"

    order_id: str
    symbol: str | None = None
    quantity: str | None = field(default=None, converter=optional_decimal)
    limit_price: str | None = field(default=None, converter=optional_decimal)
    stop_price: str | None = field(default=None, converter=optional_decimal)
    stop_loss: str | None = field(default=None, converter=optional_decimal)
    take_profit: str | None = field(default=None, converter=optional_decimal)
    trailing_distance: str | None = field(default=None, converter=optional_decimal)
    time_in_force: TimeInForce | None = field(default=None, converter=optional(TimeInForce))
    good_till: str | None = field(default=None, converter=optional_time)


@frozen(kw_only=True)
class ClosePosition(Command):
    """Close a position; the whole of it where ``quantity`` is absent."""

    name = "close_position"

    position_id: str
    symbol: str | None = None
    quantity: str | None = field(default=None, converter=optional_decimal)


@frozen(kw_only=True)
class AmendPosition(Command):
    """Change the stop loss or take profit of a position; a member that is absent stays as it is."""

    name = "amend_position"

    position_id: str
    symbol: str | None = None
    stop_loss: str | None = field(default=None, converter=optional_decimal)
    take_profit: str | None = field(default=None, converter=optional_decimal)


@frozen(kw_only=True)
class _History(Command):
    since: str | None = field(default=None, converter=optional_time)
    until: str | None = field(default=None, converter=optional_time)
    symbol: str | None = None


@frozen(kw_only=True)
class OrderHistory(_History):
    """Past orders, those of a time or a symbol where given."""

    name = "order_history"
    answer = "orders"


@frozen(kw_only=True)
class PositionHistory(_History):
    """Closed positions, those of a time or a symbol where given."""

    name = "position_history"
    answer = "positions"


@frozen(kw_only=True)
class TradeHistory(_History):
    """Past fills, those of a time or a symbol where given."""

    name = "trade_history"
    answer = "trades"


@frozen(kw_only=True)
class ListAccounts(Command):
    """The accounts the session reaches."""

    name = "list_accounts"
    answer = "accounts"


@frozen(kw_only=True)
class ListPositions(Command):
    """The open positions."""

    name = "list_positions"
    answer = "positions"


@frozen(kw_only=True)
class ListOrders(Command):
    """The open orders."""

    name = "list_orders"
    answer = "orders"


@frozen(kw_only=True)
class GetQuote(Command):
    """The present quote of a symbol."""

    name = "get_quote"
    answer = "quote"

    symbol: str


@frozen(kw_only=True)
class Call(Command):
    """A function of the provider's own, by the provider's name of it.

    Numbers with a point in ``arguments`` (and in `PlaceOrder.extra`) that came as JSON are `msgspec.Raw`, so that they leave
    with the sender's digits.
    """

    name = "call"

    function: str
    arguments: Mapping[str, Any] = Factory(dict)


#: Every trading command by its name.
COMMANDS: Mapping[str, type[Command]] = {
    cls.name: cls
    for cls in (
        PlaceOrder, CancelOrder, AmendOrder, ClosePosition, AmendPosition, OrderHistory, PositionHistory, TradeHistory,
        ListAccounts, ListPositions, ListOrders, GetQuote, Call,
    )
}  # fmt: skip
