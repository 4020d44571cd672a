"""Follow orders and fills from one answer to the next.

An order's id is the one its sender was given when it was placed. NinjaTrader may give it another one later, the broker's,
under which lists and fills then name it; a function finds it by either
(https://crosstrade.io/docs/api/orders/post-cancel-order). Asked for by the first id, the answer has the second: from then on
it is an alias.
"""

from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
from attrs import Factory, define

from relay.adapter import Unknown
from relay.adapter.reading import Members, each, members, text
from relay.limits import BoundedDict
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderStatus
from relay.model.events import Order, Trade
from relay_crosstrade.polling import Polling
from relay_crosstrade.reading import Reader, has_expiry, unit

#: Orders, or ids, remembered of each kind; beyond that the oldest is forgotten.
MOST = 10_000


def _bounded() -> BoundedDict[str, Any]:
    return BoundedDict(MOST)


@define(eq=False)
class Memory:
    """Orders that outlive a connection, so that one that ended meanwhile is asked for by its id.

    Attributes:
        open: the last state of the orders that had not ended, by id.
        ended: ids of orders whose end was published, or is not to be.
        aliases: other ids of orders.
        unanswered: accounts of placed orders without an answer, by the sender's id.
    """

    open: BoundedDict[str, Order] = Factory(_bounded)
    ended: BoundedDict[str, None] = Factory(_bounded)
    aliases: BoundedDict[str, str] = Factory(_bounded)
    unanswered: BoundedDict[str, str] = Factory(_bounded)


@define(eq=False)
class Blotter:
    """Orders and fills on one connection.

    Attributes:
        missing: open orders that the last whole list did not have.
        searched: those of them that were found open all the same.
        doubted: orders of fills that were not published, because the name may be another one of an open order.
    """

    reader: Reader
    polling: Polling
    memory: Memory
    missing: list[str] = Factory(list)
    searched: set[str] = Factory(set)
    doubted: BoundedDict[str, None] = Factory(_bounded)

    def account(self, id: str) -> str:
        """Return NinjaTrader's name of the account of an open order."""
        order = self.memory.open.get(id)
        return (None if order is None else order.account) or self.reader.own

    def answered(self, client: str | None) -> bool:
        """Take note that the fate of the order with this id of the sender's is known; return whether it was not."""
        return self.memory.unanswered.pop(client or "", None) is not None

    def placed(self, command: PlaceOrder, id: str, account: str) -> Iterator[Order]:
        """Yield an accepted order as it was asked for, or as a list has it; later where its symbol may be an alias."""
        if id in self.memory.ended:
            return
        known = self.memory.open.get(id)
        order = Order(
            event=None, account=self.reader.account(account), id=id, client_order_id=command.client_order_id,
            symbol=command.symbol, side=command.side, order_type=command.order_type, quantity=command.quantity,
            quantity_unit=unit(self.reader.native(command.symbol), {}),
            status=OrderStatus.PENDING, time_in_force=command.time_in_force, limit_price=command.limit_price,
            stop_price=command.stop_price,
        )  # fmt: skip
        if known is not None:
            order = attrs.evolve(known, client_order_id=command.client_order_id)
        self.memory.open[id] = order
        if known is not None or has_expiry(self.reader.native(command.symbol)):
            yield order

    # --- answers -----------------------------------------------------------------------------------------------------

    def found(self, raw: Any, id: str, *, missed: bool = False) -> Iterator[Order]:
        """Yield the answer to a question for the order ``id``, which may also be the sender's id."""
        given = members(raw)
        native = text(given, "orderId")
        client = id if id in self.memory.unanswered else None
        order = self._id(native if client else id)
        for other in {native, id} - {order}:
            self.memory.aliases[other] = order
        yield from self._state(given, order, sought=True, missed=missed, client=client)
        self.answered(id)
        self.searched.update({order}.intersection(self.missing))

    def listed(self, raws: list[Any], *, whole: bool, missed: bool = False) -> Iterator[Order | Unknown]:
        """Yield a list of orders. Of a ``whole`` one `missing` is what it should have had.

        While some of these are to be searched for, an order that is not known may be one of them under another id. Nothing
        is then made of it, and the list is requested again when they have been searched for.
        """
        read = [*each(raws, self._identified)]
        if whole:
            present = {item[0] for item in read if isinstance(item, tuple)}
            self.missing = [id for id in self.memory.open if id not in present]
            self.searched.intersection_update(self.missing)
        for item in read:
            if isinstance(item, Unknown):
                yield item
            elif item[0] in self.memory.open or (whole and not self.unsearched):
                yield from each(item[1:], partial(self._state, id=item[0], missed=missed))

    @property
    def unsearched(self) -> bool:
        """Return whether some of the missing orders have not been searched for."""
        return not self.searched.issuperset(self.missing)

    def _id(self, id: str) -> str:
        return self.memory.aliases.get(id, id)

    def _identified(self, raw: Any) -> tuple[str, Members]:
        given = members(raw)
        return self._id(text(given, "orderId")), given

    def _state(
        self, given: Members, id: str, *, missed: bool, sought: bool = False, client: str | None = None
    ) -> Iterator[Order]:
        """Yield an order's state, unless its end was published or it ended before anybody knew of it."""
        before, now = self.memory.open.get(id), self._order(id, given, client)
        ended = now.status.is_final
        if id in self.memory.ended or (before is None and ended and not sought):
            return
        if _filled(now) > _filled(before) and not (before is None and ended):
            self.polling.look(text(given, "account"))
        if ended:
            self.memory.open.pop(id, None)
            self.memory.ended[id] = None
        else:
            self.memory.open[id] = now
        yield attrs.evolve(now, reconciled=missed or None)

    def _order(self, id: str, given: Members, client: str | None = None) -> Order:
        before = self.memory.open.get(id)
        now = self.reader.order(given, id, None if before is None else before.side)
        known = None if before is None else before.client_order_id
        return attrs.evolve(now, client_order_id=client or known)

    def order(self, raw: Any) -> Order:
        """Return an order of a list that an application asked for."""
        return self._order(*self._identified(raw))

    def execution(self, raw: Any) -> Trade:
        """Return an execution of a list that an application asked for."""
        order, given = self._identified(raw)
        return self.reader.fill(given, order, missed=False)

    def gone(self, id: str) -> Iterator[Order]:
        """Yield an open order that neither a whole list has nor a question for it finds: it ended unseen."""
        order = self.memory.open.pop(id, None)
        if order is not None:
            yield attrs.evolve(order, vanished=True, reconciled=True, updated_at=None)

    def fills(self, raws: list[Any], *, missed: bool) -> Iterator[Trade | Unknown]:
        """Yield a list of executions in the order of their times."""
        yield from each(sorted(raws, key=_epoch), partial(self._fill, missed=missed))

    def _fill(self, raw: Any, *, missed: bool) -> Trade | None:
        """Return one execution; None for the first sight of one whose order is not known, while other orders are open.

        It is returned when it is received again: by then the open orders have been requested, and are known by all their
        names. Orders behind fills that were missed are not requested.
        """
        order, given = self._identified(raw)
        trade = self.reader.fill(given, order, missed=missed)
        account = text(given, "account")
        if order not in self.memory.open and order not in self.memory.ended:
            if missed:
                self.memory.ended[order] = None
            elif self.memory.open and order not in self.doubted:
                self.doubted[order] = None
                self.polling.want("orders")
                self.polling.want("fills", account)
                return None
            else:
                self.polling.want("order", order, account)
        return trade


def _filled(order: Order | None) -> Decimal:
    return Decimal(0) if order is None else Decimal(order.filled_quantity or 0)


def _epoch(raw: Any) -> int:
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    return epoch if isinstance(epoch, int) else 0
