"""Poll what CrossTrade does not stream, and know orders by both of their ids.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit only. The rest is requested:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit shows that something was filled: all of these;
- while an order is open: the open orders, as often as the profit is streamed;
- every 30 seconds: all of these, for what happens outside the relay.

An order's id is the one its sender was given when it was placed. NinjaTrader may give it another one later, the broker's,
under which lists and fills then name it; a function finds it by either
(https://crosstrade.io/docs/api/orders/post-cancel-order). Asked for by the first id, the answer has the second: from then on
it is an alias.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs
from attrs import Factory, define

from relay.adapter import Complete, Known, Poll, Polled, Signal, Unknown
from relay.adapter.reading import Members, each, members, text
from relay.limits import BoundedDict
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderStatus
from relay.model.events import Error, Event, Order, Position, Trade
from relay_crosstrade.reading import Reader, has_expiry, unit
from relay_crosstrade.rpc import LOOKBACK, Failure, is_final, rpc

SWEEP = 30.0
"""Seconds between two requests for a list."""
#: The member of an answer that is the list.
LISTS = {"orders": "orders", "fills": "executions", "positions": "positions"}
#: Ids remembered of each kind; beyond that the oldest is forgotten.
MOST = 10_000
Items = Iterator[Event | Signal]


def _bounded() -> BoundedDict[str, Any]:
    return BoundedDict(MOST)


@define
class Names:
    """Other ids of orders, and the ids that their senders gave them. They outlive a connection."""

    aliases: BoundedDict[str, str] = Factory(_bounded)
    clients: BoundedDict[str, str] = Factory(_bounded)


@define(eq=False)
class Blotter:
    """Orders, fills and positions on one connection.

    Attributes:
        rate: seconds between two requests for the orders while one is open.
        accounts: the accounts whose fills are polled.
        busy: an order is open.
        refused: what the add-on has refused, and is not asked any more on this connection.
        missing: ids of the open orders that the last whole list did not have.
        searched: those of them that were found open all the same.
        caught_up: the accounts whose fills were told before on this connection.
        behind: by the id of an order that nobody knows but by its fill: whether it was asked for, or is not to be.
    """

    reader: Reader
    known: Known
    names: Names
    rate: float
    accounts: list[str] = Factory(list)
    busy: bool = False
    refused: set[str] = Factory(set)
    missing: list[str] = Factory(list)
    searched: set[str] = Factory(set)
    caught_up: set[str] = Factory(set)
    behind: BoundedDict[str, bool] = Factory(_bounded)

    # --- questions ---------------------------------------------------------------------------------------------------

    def ask(self, what: str, about: str = "", account: str = "", *, now: bool = True) -> Iterator[Poll]:
        """Yield the poll of an order by its id (``placed``: by its sender's), of the fills of an account, or of a list."""
        name, missed = " ".join(filter(None, ("ask", what, about))), None
        every: float | None = SWEEP
        args: dict[str, Any]
        match what:
            case "orders":
                api, args = "GetAllOrders", {"activeOnly": True}
                every = self.rate if self.busy else SWEEP
            case "fills":
                api, args = "ListExecutions", {"account": about}
                missed = rpc(name, api, {**args, "lookbackTime": LOOKBACK})
            case "positions":
                api, args = "GetAllPositions", {"includeFlat": True}
            case _:  # once, because the lists tell of it again
                api, args = "GetOrder", {"account": account, "orderId": about}
                every = self.rate if "orders" in self.refused else None
        if what not in self.refused and "" not in args.values():
            yield Poll(name, rpc(name, api, args), every=every, now=now or every is None, missed=missed)

    def look(self, *accounts: str, now: bool = True) -> Iterator[Poll]:
        """Yield the polls of everything, of fills those of ``accounts``."""
        yield from self.ask("orders", now=now)
        for account in accounts:
            yield from self.ask("fills", account, now=now)
        yield from self.ask("positions", now=now)

    def answered(self, id: str, data: Any, failed: Failure | None) -> Items:
        """Yield what the answer to a question tells."""
        _, what, *rest = id.split(" ", 2)
        about = "".join(rest)
        items: list[Event | Signal] = list(self._read(what, about, data, failed))
        told = [item for item in items if isinstance(item, Order)]
        self.busy = bool(self._open) or any(not order.status.is_final for order in told)
        yield from items
        yield from self.ask("orders", now=False)
        error = None if failed is None or is_final(failed) else _error(failed["code"], what, failed, id, data)
        is_over = what in self.refused or (what == "fills" and about not in self.accounts)
        if what in ("order", "placed"):
            is_over = "orders" not in self.refused or not any(not order.status.is_final for order in told)
        yield Polled(id, error, final=error is None and is_over)

    def _read(self, what: str, about: str, data: Any, failed: Failure | None) -> Items:
        raws = data.get(LISTS.get(what)) if isinstance(data, dict) else data
        whole = not isinstance(data, dict) or not isinstance(raws, list) or data.get("count", len(raws)) == len(raws)
        missed = about not in self.caught_up
        match what:
            case _ if failed is not None:
                yield from self._failed(what, about, data, failed)
            case "order" | "placed":
                yield from each([data], partial(self._found, about=about, is_placed=what == "placed"))
            case _ if not isinstance(raws, list):
                self.refused.add(what)
                yield Unknown(data, f"no list of {what}, which are not asked for again on this connection")
            case "orders":
                yield from self.listed(raws, whole=whole)
            case "fills":
                self.caught_up.add(about)
                yield from each(sorted(raws, key=_epoch), partial(self._fill, missed=missed))
            case _:
                yield from self._positions(raws, whole=whole)

    def _failed(self, what: str, about: str, data: Any, failed: Failure) -> Items:
        """Yield what a refusal means: of an order that it is not found, of a list that it is not asked for again."""
        order = self._open.get(about)
        if not is_final(failed):
            return
        if what in LISTS:
            self.refused.add(what)
            yield _error(failed["code"], what, failed, f"ask {what}", data)
            for id in self._open if what == "orders" else ():
                yield from self.ask("order", id, self._account(id), now=False)
        elif order is not None and about in self.missing:  # no list has it either: it ended unseen
            yield attrs.evolve(order, event=None, vanished=True, reconciled=True, updated_at=None, timestamp=None)
        else:
            yield _error(failed["code"], f"order {about}", failed, f"ask {what} {about}", data)
            if what == "order":
                yield from self.ask("orders")

    # --- orders ------------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> dict[str, Order]:
        return {order.id: order for order in self.known.open_orders()}

    def _account(self, id: str) -> str:
        """Return NinjaTrader's name of the account of an open order."""
        order = self._open.get(id)
        return (None if order is None else order.account) or self.reader.own

    def placed(self, command: PlaceOrder, id: str, account: str) -> Items:
        """Yield an accepted order as it was asked for, or as a list has it, and ask for it.

        Where its symbol may be an alias, the answer is the first to tell of it.
        """
        own, native = self.reader.account(account), self.reader.native(command.symbol)
        if command.client_order_id is not None:
            self.names.clients[id] = command.client_order_id
        known = self.known.order(id, own)
        if known is None and has_expiry(native):
            yield Order(
                event=None, account=own, id=id, client_order_id=command.client_order_id, symbol=command.symbol,
                side=command.side, order_type=command.order_type, quantity=command.quantity,
                quantity_unit=unit(native, {}), status=OrderStatus.PENDING, time_in_force=command.time_in_force,
                limit_price=command.limit_price, stop_price=command.stop_price,
            )  # fmt: skip
        elif known is not None and id in self._open:
            yield attrs.evolve(known, event=None, client_order_id=command.client_order_id)
        yield from self.ask("order", id, account)

    def _found(self, raw: Any, *, about: str, is_placed: bool) -> Items:
        """Yield the answer to a question for one order, by the id it is known under or by its sender's."""
        given = members(raw)
        native = text(given, "orderId")
        id = self._id(native if is_placed else about)
        for other in {native, about} - {id}:
            self.names.aliases[other] = id
        if is_placed:
            self.names.clients[id] = about
        yield from self._state(given, id, sought=True)
        if id in self.missing:
            self.searched.add(id)

    def listed(self, raws: list[Any], *, whole: bool) -> Items:
        """Yield a list of orders, and ask for those that are open and missing from a ``whole`` one.

        While some of these are to be searched for, an order that is not known may be one of them under another id. Nothing
        is then made of it, and the list is requested again when they have been searched for.
        """
        read, known = [*each(raws, self._identified)], self._open
        if whole:
            present = {item[0] for item in read if isinstance(item, tuple)}
            self.missing = [id for id in known if id not in present]
            self.searched.intersection_update(self.missing)
        is_searched = self.searched.issuperset(self.missing)
        for item in read:
            if isinstance(item, Unknown):
                yield item
            elif item[0] in known or (whole and is_searched):
                yield from each(item[1:], partial(self._state, id=item[0]))
        for id in self.missing if whole else ():
            yield from self.ask("order", id, self._account(id))
        if whole and not is_searched:
            yield from self.ask("orders")

    def _id(self, id: str) -> str:
        return self.names.aliases.get(id, id)

    def _identified(self, raw: Any) -> tuple[str, Members]:
        given = members(raw)
        return self._id(text(given, "orderId")), given

    def _state(self, given: Members, id: str, *, sought: bool = False) -> Iterator[Order]:
        """Yield an order's state, unless it ended before anybody knew of it."""
        now = self._order(id, given)
        if sought or not now.status.is_final or self.known.order(id, now.account) is not None:
            yield now

    def _order(self, id: str, given: Members) -> Order:
        before = self.known.order(id, self.reader.account(text(given, "account")))
        now = self.reader.order(given, id, None if before is None else before.side)
        return attrs.evolve(now, client_order_id=self.names.clients.get(id))

    def order(self, raw: Any) -> Order:
        """Return an order of a list that an application asked for."""
        return self._order(*self._identified(raw))

    # --- fills and positions -----------------------------------------------------------------------------------------

    def execution(self, raw: Any) -> Trade:
        """Return an execution of a list that an application asked for."""
        order, given = self._identified(raw)
        return self.reader.fill(given, order)

    def _fill(self, raw: Any, *, missed: bool) -> Items:
        """Yield one execution, and ask for its order where nobody knows it.

        While other orders are open, it is yielded when it is received again: by then the open orders have been requested,
        and are known by all their names. Orders behind fills that were missed are not requested.
        """
        order, given = self._identified(raw)
        trade, account = self.reader.fill(given, order), text(given, "account")
        if self.known.order(order, trade.account) is None and not self.behind.get(order):
            is_first, self.behind[order] = order not in self.behind, True
            if is_first and self._open and not missed:
                self.behind[order] = False
                yield from self.ask("orders")
                yield from self.ask("fills", account)
                return
            if not missed:
                yield from self.ask("order", order, account)
        yield trade

    def _positions(self, raws: list[Any], *, whole: bool) -> Items:
        read = list(each(raws, self.reader.position))
        yield from read
        if whole:
            held = (*self.known.open_positions(), *(item for item in read if isinstance(item, Position) and item.side))
            accounts = {position.account for position in held} | {self.reader.account(self.reader.own)} - {""}
            yield from (Complete("position", account) for account in sorted(accounts, key=str))


def _error(code: str, about: str, failed: Failure, id: str, data: Any) -> Error:
    return Error(code=code, message=f"{about}: {failed['message']}", details={"id": id, "data": data})


def _epoch(raw: Any) -> int:
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    return epoch if isinstance(epoch, int) else 0
