"""What is remembered of orders between two answers, and what an answer therefore has to tell.

What is remembered outlives the connection, so that an order that ended meanwhile is asked for by its id.

An order's id is the one its sender was given when it was placed. NinjaTrader may give it another one later, the broker's,
under which lists and fills then name it; a function finds it by either
(https://crosstrade.io/docs/api/orders/post-cancel-order). Asked for by the first id, the answer tells the second: from then
on it is an alias.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from attrs import Factory, define

from relay.adapter import Context, Unknown
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderEvent
from relay.model.events import Order, Trade
from relay_crosstrade import orders
from relay_crosstrade.orders import ENDED
from relay_crosstrade.reading import Members, Other, Symbol, members, text

#: Orders, or ids, remembered of each kind; beyond that the oldest is forgotten.
MOST = 10_000


@define(eq=False)
class Memory:
    """What outlives a connection.

    Attributes:
        open: the orders that had not ended, as they were last told, by id.
        ended: ids of orders whose end was told, or is not to be told.
        aliases: other ids of orders.
        unanswered: accounts of placed orders without an answer, by the sender's id.
    """

    open: dict[str, Order] = Factory(dict)
    ended: dict[str, None] = Factory(dict)
    aliases: dict[str, str] = Factory(dict)
    unanswered: dict[str, str] = Factory(dict)


@define(eq=False)
class Blotter:
    """Orders and fills on one connection.

    Attributes:
        own: NinjaTrader's name of the session's account.
        filled: accounts of orders that were filled further, until somebody takes them out.
        missing: open orders that the last whole list did not have.
        searched: those of them that were found open all the same.
        strange: accounts of orders that fills name and nothing is known of, until somebody takes them out.
        doubtful: accounts of fills that were not told yet, until somebody takes them out.
        doubted: orders of fills that were not told, because the name may be another one of an open order.
    """

    own: str
    symbol: Symbol
    other: Other
    memory: Memory
    filled: dict[str, None] = Factory(dict)
    missing: list[str] = Factory(list)
    searched: set[str] = Factory(set)
    strange: dict[str, str] = Factory(dict)
    doubtful: dict[str, None] = Factory(dict)
    doubted: dict[str, None] = Factory(dict)

    @classmethod
    def of(cls, context: Context, own: str, symbol: Symbol, other: Other) -> "Blotter":
        return cls(own, symbol, other, context.kept.setdefault("blotter", Memory()))

    def canonical(self, id: str) -> str:
        return self.memory.aliases.get(id, id)

    def account(self, id: str) -> str:
        """NinjaTrader's name of the account of an open order."""
        order = self.memory.open.get(id)
        return (None if order is None else order.account) or self.own

    def awaited(self, client: str, account: str) -> None:
        """An order with this id of the sender's is about to be sent."""
        _keep(self.memory.unanswered, client, account)

    def answered(self, client: str | None) -> bool:
        """It is known now what became of it; return whether it was not."""
        return self.memory.unanswered.pop(client or "", None) is not None

    def placed(self, command: PlaceOrder, id: str, account: str) -> Iterator[Order]:
        """An order that was taken: what is known of it is what was asked for, unless a list was faster."""
        known = self.memory.open.get(id)
        if known is not None:
            order = attrs.evolve(known, event=OrderEvent.ORDER_MODIFIED, client_order_id=command.client_order_id)
        elif id not in self.memory.ended:
            order = orders.pending(command, id, self.other(account))
        else:
            return
        self._remember(order)
        yield order

    # --- answers -----------------------------------------------------------------------------------------------------

    def asked(self, raw: Any, id: str, *, missed: bool = False) -> Iterator[Order]:
        """The answer to a question for the order ``id``, which may also be the sender's."""
        given = members(raw)
        native = text(given, "orderId")
        client = id if id in self.memory.unanswered else None
        order = self.canonical(native if client else id)
        for other in {native, id} - {order}:
            _keep(self.memory.aliases, other, order)
        yield from self._told(given, order, sought=True, missed=missed, client=client)
        self.answered(id)
        self.searched.update({order}.intersection(self.missing))

    def listed(self, raws: list[Any], *, whole: bool, missed: bool = False) -> Iterator[Order | Unknown]:
        """A list of orders. Of a ``whole`` one `missing` is what it should have had.

        While some are `unsearched`, one that is not known may be one of these under another id, so nothing is made of it:
        the list is to be asked for again when they have been searched for.
        """
        read = [*self._identified(raws)]
        present = {id for id, _ in read}
        if whole:
            self.missing = [id for id in self.memory.open if id not in present]
            self.searched.intersection_update(self.missing)
        for id, given in read:
            if isinstance(given, Unknown):
                yield given
            elif id in self.memory.open or (whole and not self.unsearched):
                yield from or_unknown(given, self._told(given, id, sought=False, missed=missed))

    @property
    def unsearched(self) -> bool:
        return not self.searched.issuperset(self.missing)

    def _identified(self, raws: list[Any]) -> Iterator[tuple[str, Any]]:
        for raw in raws:
            try:
                given = members(raw)
                yield self.canonical(text(given, "orderId")), given
            except (KeyError, TypeError) as error:
                yield "", Unknown(raw, f"{type(error).__name__}: {error}")

    def _told(
        self, given: Members, id: str, *, sought: bool, missed: bool, client: str | None = None
    ) -> Iterator[Order]:
        """What an order has to tell: nothing where it is as it was, or ended before anybody knew of it."""
        before = self.memory.open.get(id)
        now = orders.order(given, id, before, self.symbol, self.other)
        if client is not None:
            now = attrs.evolve(now, client_order_id=client)
        ended = now.status in ENDED
        if id in self.memory.ended or (before is None and ended and not sought):
            return
        if before is not None and orders.is_same(before, now):
            return
        if orders.grew(before, now) and not (before is None and ended):
            self.filled[text(given, "account")] = None
        self._remember(now)
        yield attrs.evolve(now, reconciled=missed or None)

    def gone(self, id: str) -> Iterator[Order]:
        """An open order that neither a whole list has nor a question for it finds: it ended unseen."""
        order = self.memory.open.pop(id, None)
        if order is not None:
            yield attrs.evolve(order, event=OrderEvent.ORDER_MODIFIED, vanished=True, reconciled=True, updated_at=None)

    def fills(self, raws: list[Any], *, missed: bool) -> Iterator[Trade | Unknown]:
        """A list of executions, told in the order of their times.

        One of an order that is not known, while others are open, is told when it is heard of again: by then these have been
        looked at, and are known by all their names. Orders behind fills that were missed are not asked for.
        """
        for raw in sorted(raws, key=_epoch):
            yield from or_unknown(raw, self._fill(raw, missed=missed))

    def _fill(self, raw: Any, *, missed: bool) -> Iterator[Trade]:
        given = members(raw)
        order = self.canonical(text(given, "orderId"))
        trade = orders.fill(given, order, self.symbol, self.other, missed=missed)
        account = text(given, "account")
        if order not in self.memory.open and order not in self.memory.ended:
            if missed:
                _keep(self.memory.ended, order, None)
            elif self.memory.open and order not in self.doubted:
                _keep(self.doubted, order, None)
                self.doubtful[account] = None
                return
            else:
                self.strange[order] = account
        yield trade

    def _remember(self, order: Order) -> None:
        if order.status in ENDED:
            self.memory.open.pop(order.id, None)
            _keep(self.memory.ended, order.id, None)
        else:
            _keep(self.memory.open, order.id, order)


def or_unknown(raw: Any, events: Iterable[Any]) -> Iterator[Any]:
    """``events``, or Unknown where reading ``raw`` for them fails."""
    try:
        yield from events
    except (KeyError, TypeError, ValueError) as error:
        yield Unknown(raw, f"{type(error).__name__}: {error}")


def _keep(memory: dict[str, Any], id: str, value: Any) -> None:
    memory.pop(id, None)
    memory[id] = value
    if len(memory) > MOST:
        del memory[next(iter(memory))]


def _epoch(raw: Any) -> int:
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    return epoch if isinstance(epoch, int) else 0
