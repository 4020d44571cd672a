"""ScaleTrade's trade records: the states of orders and positions that a ``cmd`` and a ``state`` name.

A record is of one ticket (``order``), which is first an order and then a position
(https://scaletrade.com/client-api/ws/trade, https://scaletrade.com/tcp/trade/Lifecycle/; the numbers of cmd and state are
those of ScaleTrade's public devkit, the states agree with the REST acknowledgements):

- a ticket that becomes a position was an order before if its code says so (added, activated), if it was known as one, or
  if a list has it and its comment is a client order id of the relay: then it is a filled order too;
- an open state with a ``close_time`` contradicts itself ("close time, if closed"), and a partly closed one without says
  nothing of this ticket: neither is guessed at;
- no record names a fill, so there is never a Trade.

Any other record becomes a notification with all its members. Members without a canonical field are in ``data``.
"""

from collections.abc import Callable, Container, Iterator
from typing import Any

from attrs import evolve, frozen

from relay.adapter import Known, Partial
from relay.adapter.reading import Members, besides, code_word, is_zero, unix_time, unless_zero, whole
from relay.model.enums import OrderStatus, OrderType, PositionEvent, PositionSide, Side
from relay.model.events import Event, Notification, Order, Position
from relay_scaletrade.wire import text

TRADE = ("order", "login", "symbol", "cmd", "volume", "open_price", "close_price", "open_time", "close_time", "tp", "sl",
         "state", "storage", "commission", "profit", "comment", "code")  # fmt: skip
CMDS = ("BUY", "SELL", "BUY_LIMIT", "SELL_LIMIT", "BUY_STOP", "SELL_STOP", "BALANCE_IN", "CREDIT_IN", "BALANCE_OUT",
        "CREDIT_OUT", "BUY_STOP_LIMIT", "SELL_STOP_LIMIT")  # fmt: skip
STATES = ("OPEN_NORMAL", "OPEN_REQUEST", "OPEN_RESTORED", "CLOSED_NORMAL", "CLOSED_PART", "CLOSED_BY", "DELETED",
          "CLOSE_REQUEST", "DELETE_REQUEST", "CANCEL_REQUEST", "10", "11", "12", "RESTORE_REQUEST", "OPEN_UPDATE_REQUEST",
          "CLOSED_UPDATE_REQUEST", "PENDING_UPDATE_REQUEST", "17", "18", "PARTIAL_CLOSE_REQUEST")  # fmt: skip
NORMAL, REQUEST, RESTORED, CLOSED_NORMAL, CLOSED_PART, CLOSED_BY, DELETED = range(7)
DELETE_REQUEST, CANCEL_REQUEST = 8, 9
#: Codes of a record: a ticket that is new, a closed one that is repeated, one that became a position.
ADDED, ARCHIVED, ACTIVATED = 0, 4, 5
#: Members that the fields of an order and of a position have as they are.
ORDER = ("order", "login", "symbol", "volume", "sl", "tp")
POSITION = ("order", "login", "symbol", "sl", "tp", "open_price", "open_time")

MARKET = {0: Side.BUY, 1: Side.SELL}
PENDING = {2: (Side.BUY, OrderType.LIMIT), 3: (Side.SELL, OrderType.LIMIT), 4: (Side.BUY, OrderType.STOP),
           5: (Side.SELL, OrderType.STOP), 10: (Side.BUY, OrderType.STOP_LIMIT),
           11: (Side.SELL, OrderType.STOP_LIMIT)}  # fmt: skip
STATUS = {NORMAL: OrderStatus.OPEN, RESTORED: OrderStatus.OPEN, REQUEST: OrderStatus.PENDING,
          DELETED: OrderStatus.CANCELLED, DELETE_REQUEST: OrderStatus.PENDING_CANCEL,
          CANCEL_REQUEST: OrderStatus.PENDING_CANCEL}  # fmt: skip
#: A volume counts minimal lots, of which a lot has 100.
UNIT = "0.01 lots"
#: The price of an order that ``open_price`` is. Of a stop limit order it is not documented which of the two.
PRICE_OF = {OrderType.LIMIT: "limit_price", OrderType.STOP: "stop_price"}


@frozen
class Trades:
    """The reader of records.

    Attributes:
        symbol: the canonical text of the provider's symbol.
        placed: the client order ids of our orders; a comment that is none of them is somebody else's.
        known: the account's orders and positions.
    """

    symbol: Callable[[str], str]
    placed: Container[str]
    known: Known

    def read(self, given: Members, account: str | None) -> Iterator[Event | Partial]:
        """Yield the states a record names; one that names none is published whole."""
        id, cmd, state = _id(given), whole(given["cmd"]), whole(given["state"])
        closed_at = unix_time(given["close_time"])
        code = whole(given["code"]) if "code" in given else None
        order, position = self.known.order(id, account), self.known.position(id, account)
        type = None if order is None or order.status.is_final else order.order_type or OrderType.MARKET
        is_open = state in (NORMAL, RESTORED) and closed_at is None
        if cmd in PENDING:
            is_order = is_open or state in (REQUEST, DELETED, DELETE_REQUEST, CANCEL_REQUEST)
        else:
            is_order = cmd in MARKET and (state == REQUEST or (state == DELETED and type is not None))
        is_closed = state in (CLOSED_NORMAL, CLOSED_BY, DELETED) or (state == CLOSED_PART and closed_at is not None)
        if is_order:
            now = self._order(given, account, PENDING[cmd][1] if cmd in PENDING else type or OrderType.MARKET)
            yield evolve(now, updated_at=closed_at, timestamp=closed_at) if state == DELETED else now
        elif cmd in MARKET and (is_open or is_closed):
            is_listed = code is None and text(given["comment"]) in self.placed and state not in (CLOSED_PART, DELETED)
            is_held = position is not None and not is_zero(position.quantity)
            is_new = is_open and state != RESTORED and code in (ADDED, ACTIVATED) and not is_held
            was_order = type is not None or is_new
            if was_order or is_listed:
                filled = self._order(given, account, type or (OrderType.MARKET if code == ADDED else None))
                # A list has the position's volume now, of which a part may have been closed since the fill.
                size = given["volume"] if was_order else None
                yield Partial(evolve(
                    filled, status=OrderStatus.FILLED, quantity=size, filled_quantity=size, position_id=id,
                    average_fill_price=given["open_price"], timestamp=unix_time(given["open_time"]),
                ))  # fmt: skip
            if is_open:
                yield self._position(given, account, None, given["volume"], unrealized_pnl=given["profit"],
                                     timestamp=unix_time(given["open_time"]) if was_order else None)  # fmt: skip
            else:
                event = None if code == ARCHIVED else PositionEvent.POSITION_CLOSED
                profit = {} if state == DELETED else {"realized_pnl": given["profit"]}
                yield self._position(given, account, event, "0", **profit, updated_at=closed_at, timestamp=closed_at)
        else:
            word = f"{code_word(CMDS, cmd)} {code_word(STATES, state)}"
            yield Notification(title="trade", message=word, data=dict(given), account=account, timestamp=closed_at)

    def _order(self, given: Members, account: str | None, type: OrderType | None) -> Order:
        cmd, comment = given["cmd"], text(given["comment"])
        price = {PRICE_OF[type]: unless_zero(given["open_price"])} if type in PRICE_OF and cmd in PENDING else {}
        return Order(event=None, status=STATUS.get(given["state"], OrderStatus.FILLED), id=_id(given), order_type=type,
                     symbol=self.symbol(given["symbol"]), native_symbol=given["symbol"], account=account,
                     side=MARKET[cmd] if cmd in MARKET else PENDING[cmd][0], quantity=given["volume"],
                     client_order_id=comment if comment in self.placed else None, stop_loss=unless_zero(given["sl"]),
                     take_profit=unless_zero(given["tp"]), quantity_unit=UNIT, data=besides(given, *ORDER),
                     **price)  # fmt: skip

    def _position(
        self, given: Members, account: str | None, event: PositionEvent | None, quantity: Any, **more: Any
    ) -> Position:
        own = {"volume"} if quantity != "0" else set()
        own |= {"profit"} if more.keys() & {"unrealized_pnl", "realized_pnl"} else set()
        side = PositionSide.LONG if MARKET[given["cmd"]] is Side.BUY else PositionSide.SHORT
        return Position(event=event, id=_id(given), symbol=self.symbol(given["symbol"]), native_symbol=given["symbol"],
                        side=side, account=account, quantity=quantity, average_entry_price=given["open_price"],
                        stop_loss=unless_zero(given["sl"]), take_profit=unless_zero(given["tp"]), quantity_unit=UNIT,
                        opened_at=unix_time(given["open_time"]), data=besides(given, *POSITION, *own), **more)  # fmt: skip


def _id(given: Members) -> str:
    return str(whole(given["order"]))
