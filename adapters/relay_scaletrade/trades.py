"""ScaleTrade's trade records: what a ``cmd`` and a ``state`` say in canonical terms.

A record is of one ticket (``order``), which is first an order and then a position
(https://scaletrade.com/client-api/ws/trade, https://scaletrade.com/tcp/trade/Lifecycle/; the numbers of cmd and state are
those of ScaleTrade's public devkit, the states agree with the REST acknowledgements). So a record says where its ticket
stands, and what happened is the way from where it stood before on this connection:

- REQUESTED, WORKING and CANCELLING tickets are orders, an OPEN one is a filled order and a position, an ENDED one was
  cancelled or closed;
- a ticket that comes OPEN without having been heard of was opened just now only if its code says so (added, activated);
- an open state with a ``close_time`` contradicts itself ("close time, if closed"), and a partly closed one without says
  nothing of this ticket: neither is guessed at;
- no record names a fill, so there is never a Trade.

A record that has no event is told whole. Members without a canonical field are in the ``data`` of the events there are.
"""

import enum
from collections.abc import Container, Iterator
from typing import Any

from attrs import Factory, evolve, field, frozen

from relay.model.enums import OrderEvent, OrderStatus, OrderType, PositionEvent, PositionSide, Side
from relay.model.events import Event, Notification, Order, Position
from relay.model.text import decimal_text
from relay_scaletrade.wire import Members, besides, forget, moment, named_code, price, text, whole

CMDS = ("BUY", "SELL", "BUY_LIMIT", "SELL_LIMIT", "BUY_STOP", "SELL_STOP", "BALANCE_IN", "CREDIT_IN", "BALANCE_OUT",
        "CREDIT_OUT", "BUY_STOP_LIMIT", "SELL_STOP_LIMIT")  # fmt: skip
STATES = ("OPEN_NORMAL", "OPEN_REQUEST", "OPEN_RESTORED", "CLOSED_NORMAL", "CLOSED_PART", "CLOSED_BY", "DELETED",
          "CLOSE_REQUEST", "DELETE_REQUEST", "CANCEL_REQUEST", "10", "11", "12", "RESTORE_REQUEST", "OPEN_UPDATE_REQUEST",
          "CLOSED_UPDATE_REQUEST", "PENDING_UPDATE_REQUEST", "17", "18", "PARTIAL_CLOSE_REQUEST")  # fmt: skip
RESTORED, CLOSED_NORMAL, CLOSED_PART, CLOSED_BY, DELETED = 2, 3, 4, 5, 6
#: Codes of a record that tell a ticket which is new, or back, from one that is told again.
ADDED, RESTORE, ACTIVATED = 0, 3, 5
#: Members that the fields of an order and of a position have as they are.
ORDER = ("order", "login", "symbol", "volume", "sl", "tp")
POSITION = (*ORDER, "open_price", "open_time")

MARKET = {0: Side.BUY, 1: Side.SELL}
PENDING = {2: (Side.BUY, OrderType.LIMIT), 3: (Side.SELL, OrderType.LIMIT), 4: (Side.BUY, OrderType.STOP),
           5: (Side.SELL, OrderType.STOP), 10: (Side.BUY, OrderType.STOP_LIMIT),
           11: (Side.SELL, OrderType.STOP_LIMIT)}  # fmt: skip
#: Which price of an order ``open_price`` is. Of a stop limit order it is not said which of the two.
PRICE_OF = {OrderType.LIMIT: "limit_price", OrderType.STOP: "stop_price"}


class Standing(enum.Enum):
    """Where a ticket stands."""

    REQUESTED = enum.auto()
    WORKING = enum.auto()
    CANCELLING = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()


#: By state; an OPEN state and CLOSED_PART count only with, or without, a close time.
MARKET_STANDINGS = {0: Standing.OPEN, 1: Standing.REQUESTED, 2: Standing.OPEN, 3: Standing.ENDED, 4: Standing.ENDED,
                    5: Standing.ENDED, 6: Standing.ENDED}  # fmt: skip
PENDING_STANDINGS = {0: Standing.WORKING, 1: Standing.REQUESTED, 2: Standing.WORKING, 6: Standing.ENDED,
                     8: Standing.CANCELLING, 9: Standing.CANCELLING}  # fmt: skip


@frozen
class Ticket:
    """A ticket as this connection last heard of it; ``order_type`` is of the order it is or was, levels are decimal text."""

    standing: Standing | None = None
    order_type: OrderType | None = None
    stop_loss: str | None = None
    take_profit: str | None = None


@frozen(kw_only=True)
class Record:
    """One record as it came, with what every event of it shares."""

    given: Members
    symbol: str
    account: str | None
    client_order_id: str | None
    id: str = field(init=False)
    cmd: int = field(init=False)
    state: int = field(init=False)
    code: int | None = field(init=False)
    closed_at: str | None = field(init=False)

    @id.default
    def _id(self) -> str:
        return str(whole(self.given["order"]))

    @cmd.default
    def _cmd(self) -> int:
        return whole(self.given["cmd"])

    @state.default
    def _state(self) -> int:
        return whole(self.given["state"])

    @code.default
    def _code(self) -> int | None:
        return whole(self.given["code"]) if "code" in self.given else None

    @closed_at.default
    def _closed_at(self) -> str | None:
        return moment(self.given["close_time"])

    @property
    def standing(self) -> Standing | None:
        """Where the record says its ticket stands; None where it does not say."""
        standing = (MARKET_STANDINGS if self.cmd in MARKET else PENDING_STANDINGS).get(self.state)
        if self.cmd not in MARKET and self.cmd not in PENDING:
            return None
        if standing in (Standing.OPEN, Standing.WORKING):
            return standing if self.closed_at is None else None
        return standing if self.state != CLOSED_PART or self.closed_at is not None else None

    def order_type(self, before: Ticket) -> OrderType | None:
        """The type of the order; None where the ticket was first heard of as a position."""
        if self.cmd in PENDING:
            return PENDING[self.cmd][1]
        is_market = before.standing is None and (self.code == ADDED or self.standing is Standing.REQUESTED)
        return OrderType.MARKET if is_market else before.order_type

    def order(self, event: OrderEvent, status: OrderStatus, order_type: OrderType | None, **more: Any) -> Order:
        given = self.given
        if order_type in PRICE_OF and self.cmd in PENDING:
            more[PRICE_OF[order_type]] = price(given["open_price"])
        return Order(event=event, status=status, id=self.id, symbol=self.symbol, native_symbol=given["symbol"],
                     side=MARKET[self.cmd] if self.cmd in MARKET else PENDING[self.cmd][0], order_type=order_type,
                     account=self.account, client_order_id=self.client_order_id, quantity=given["volume"],
                     stop_loss=price(given["sl"]), take_profit=price(given["tp"]), data=besides(given, ORDER),
                     **more)  # fmt: skip

    @property
    def is_ours(self) -> bool:
        """Whether it is of a list, of an order of ours: what became of it while nobody listened."""
        return self.code is None and self.client_order_id is not None

    def filled(self, order_type: OrderType | None) -> Order:
        """The order that this ticket was, filled."""
        given = self.given
        return self.order(OrderEvent.ORDER_FILLED, OrderStatus.FILLED, order_type, filled_quantity=given["volume"],
                          average_fill_price=given["open_price"], position_id=self.id,
                          timestamp=moment(given["open_time"]))  # fmt: skip

    def position(self, event: PositionEvent, **more: Any) -> Position:
        given = self.given
        rest = besides(
            given, POSITION if more.keys().isdisjoint(("unrealized_pnl", "realized_pnl")) else (*POSITION, "profit")
        )
        side = PositionSide.LONG if MARKET[self.cmd] is Side.BUY else PositionSide.SHORT
        return Position(event=event, id=self.id, symbol=self.symbol, native_symbol=given["symbol"], side=side,
                        account=self.account, quantity=given["volume"], average_entry_price=given["open_price"],
                        stop_loss=price(given["sl"]), take_profit=price(given["tp"]),
                        opened_at=moment(given["open_time"]), data=rest, **more)  # fmt: skip


@frozen
class Trades:
    """The tickets of one connection.

    Attributes:
        placed: the client order ids of our orders; a comment that is none of them is somebody else's.
    """

    placed: Container[str]
    tickets: dict[str, Ticket] = Factory(dict)

    def read(self, given: Members, symbol: str, account: str | None) -> Iterator[Event]:
        """Events of one record; one that has none is told whole."""
        comment = text(given["comment"])
        record = Record(given=given, symbol=symbol, account=account,
                        client_order_id=comment if comment in self.placed else None)  # fmt: skip
        before = self.tickets.get(record.id, Ticket())
        events = list(_events(record, before))
        yield from events
        if events:
            self.tickets.pop(record.id, None)
            levels = decimal_text(given["sl"]), decimal_text(given["tp"])
            self.tickets[record.id] = Ticket(record.standing, record.order_type(before), *levels)
            forget(self.tickets)
        else:
            word = f"{named_code(CMDS, record.cmd)} {named_code(STATES, record.state)}"
            yield Notification(
                title="trade", message=word, data=dict(given), account=account, timestamp=record.closed_at
            )

    def take_levels(self, id: str) -> tuple[str | None, str | None]:
        """Stop loss and take profit of an open position, 0 where it has none; None where they are not known.

        Nor are they known from now on, until the ticket is told again: what they are taken for changes them.
        """
        ticket = self.tickets.get(id, Ticket())
        if ticket.standing is not Standing.OPEN:
            return None, None
        self.tickets[id] = evolve(ticket, stop_loss=None, take_profit=None)
        return ticket.stop_loss, ticket.take_profit


def _events(record: Record, before: Ticket) -> Iterator[Event]:
    """What happened between where the ticket stood and where it stands."""
    was, order_type = before.standing, record.order_type(before)
    match record.standing:
        case Standing.REQUESTED if was in (None, Standing.REQUESTED):
            yield record.order(_order_event(new=was is None), OrderStatus.PENDING, order_type)
        case Standing.WORKING:
            yield record.order(_order_event(new=was is None and record.code == ADDED), OrderStatus.OPEN, order_type)
        case Standing.CANCELLING if was is not Standing.ENDED:
            yield record.order(OrderEvent.ORDER_MODIFIED, OrderStatus.PENDING_CANCEL, order_type)
        case Standing.OPEN:
            yield from _opened(record, was, order_type)
        case Standing.ENDED if was is not Standing.ENDED:
            if record.state == DELETED and (record.cmd in PENDING or was is Standing.REQUESTED):
                yield record.order(OrderEvent.ORDER_CANCELLED, OrderStatus.CANCELLED, order_type,
                                   updated_at=record.closed_at, timestamp=record.closed_at)  # fmt: skip
            else:
                if was is None and record.is_ours and record.state in (CLOSED_NORMAL, CLOSED_BY):
                    yield record.filled(order_type)
                profit = {} if record.state == DELETED else {"realized_pnl": record.given["profit"]}
                yield record.position(PositionEvent.POSITION_CLOSED, updated_at=record.closed_at, timestamp=record.closed_at,
                                      **profit)  # fmt: skip


def _opened(record: Record, was: Standing | None, order_type: OrderType | None) -> Iterator[Event]:
    """The ticket is a position: newly filled, restored, or told again."""
    profit = record.given["profit"]
    waited = was in (Standing.REQUESTED, Standing.WORKING, Standing.CANCELLING)
    restored = record.state == RESTORED and (was is Standing.ENDED or record.code == RESTORE)
    if waited or (was is None and record.state != RESTORED and record.code in (ADDED, ACTIVATED)):
        filled = record.filled(order_type)
        yield filled
        yield record.position(PositionEvent.POSITION_OPENED, unrealized_pnl=profit, timestamp=filled.timestamp)
    else:
        if was is None and record.is_ours:
            yield record.filled(order_type)
        event = PositionEvent.POSITION_OPENED if restored else PositionEvent.POSITION_MODIFIED
        yield record.position(event, unrealized_pnl=profit)


def _order_event(*, new: bool) -> OrderEvent:
    return OrderEvent.ORDER_CREATED if new else OrderEvent.ORDER_MODIFIED
