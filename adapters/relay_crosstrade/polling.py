"""Poll what CrossTrade does not stream, and follow orders and fills from one answer to the next.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit only. The rest is requested:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit shows that something was filled: all of these;
- while an order is open: the open orders, as often as the profit is streamed;
- every 30 seconds: all of these, for what happens outside the relay.

Orders are asked for by their ids once, so they go before the lists: what else is read depends on knowing them.

An order's id is the one its sender was given when it was placed. NinjaTrader may give it another one later, the broker's,
under which lists and fills then name it; a function finds it by either
(https://crosstrade.io/docs/api/orders/post-cancel-order). Asked for by the first id, the answer has the second: from then on
it is an alias.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, Literal, cast

import attrs
from attrs import Factory, define, frozen

from relay.adapter import Poll, Unknown
from relay.adapter.reading import Members, each, members, text
from relay.limits import BoundedDict
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderStatus
from relay.model.events import Order, Trade
from relay_crosstrade.reading import Reader, has_expiry, unit
from relay_crosstrade.rpc import LOOKBACK, rpc

# --- questions --------------------------------------------------------------------------------------------------------

What = Literal["order", "orders", "fills", "positions"]
SWEEP = 30.0  # seconds between two requests for everything


@frozen
class Question:
    """A request of the relay's own; its id says what it is, so that any connection's adapter can read the answer.

    Attributes:
        about: an order's id, or the account of fills.
        missed: whether it is asked because the relay was away.
    """

    what: What
    about: str = ""
    missed: bool = False

    @classmethod
    def of_id(cls, id: str) -> "Question | None":
        """Return the question with this id; None for the id of a command, which has no space."""
        why, _, rest = id.partition(" ")
        what, _, about = rest.partition(" ")
        if why not in ("ask", "missed") or what not in ("order", "orders", "fills", "positions"):
            return None
        return cls(cast(What, what), about, missed=why == "missed")

    @property
    def id(self) -> str:
        return " ".join(filter(None, ("missed" if self.missed else "ask", self.what, self.about)))

    def frame(self, account: str) -> str:
        """Return the request; ``account`` is that of an order."""
        match self.what:
            case "order":
                return rpc(self.id, "GetOrder", {"account": account, "orderId": self.about})
            case "orders":
                return rpc(self.id, "GetAllOrders", {"activeOnly": True})
            case "fills":
                far = {"lookbackTime": LOOKBACK} if self.missed else {}
                return rpc(self.id, "ListExecutions", {"account": self.about, **far})
            case "positions":
                return rpc(self.id, "GetAllPositions", {"includeFlat": True})


@define(eq=False)
class Polling:
    """Decides what is polled, and how often.

    Attributes:
        rate: seconds between two requests for the orders while one is open.
        accounts: the accounts whose fills are polled.
        refused: what the add-on has refused, and is not asked any more on this connection.
        wanted: polls that are to be yielded, by name.
        followed: the open orders that the polls know of.
        missed: ids of the questions for what was missed that have no answer yet.
    """

    rate: float
    accounts: list[str] = Factory(list)
    refused: set[What] = Factory(set)
    wanted: dict[str, Poll] = Factory(dict)
    followed: frozenset[str] = frozenset()
    missed: set[str] = Factory(set)

    def want(self, what: What, about: str = "", account: str = "", *, missed: bool = False, now: bool = True) -> None:
        """Ask for this, and ask again as often as it is polled."""
        if what in self.refused or not (about or what in ("orders", "positions")):
            return
        question = Question(what, about, missed)
        every = self._every(question)
        if missed:
            self.missed.add(question.id)
        if question.id not in self.wanted or now:
            self.wanted[question.id] = Poll(question.id, question.frame(account), every=every, now=now)

    def _every(self, question: Question) -> float | None:
        """Return the seconds between two requests; None for an order that the lists will tell of again."""
        match question.what:
            case "order":
                return self.rate if "orders" in self.refused and question.about in self.followed else None
            case "orders" if self.followed:
                return self.rate
        return SWEEP  # lists that are asked for once too, so that an order by its id goes before them

    def look(self, *accounts: str, missed: bool = False, now: bool = True) -> None:
        """Ask for everything, of fills those of ``accounts``."""
        self.want("orders", missed=missed, now=now)
        for account in accounts:
            self.want("fills", account, missed=missed, now=now or account not in self.accounts)
        self.want("positions", missed=missed, now=now)

    def follow(self, orders: Iterable[tuple[str, str]]) -> None:
        """Poll the open orders more often while there are any; ``orders`` are their ids with their accounts."""
        before, accounts = self.followed, dict(orders)
        self.followed = frozenset(accounts)
        if bool(before) is not bool(accounts):
            self.want("orders", now=False)
        if "orders" in self.refused:
            for id in self.followed:
                self.want("order", id, accounts[id], now=False)

    def take(self) -> Iterator[Poll]:
        """Yield the polls that are wanted."""
        wanted, self.wanted = self.wanted, {}
        yield from wanted.values()


# --- orders and fills -------------------------------------------------------------------------------------------------

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
