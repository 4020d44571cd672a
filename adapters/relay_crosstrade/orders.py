"""Poll what CrossTrade does not stream.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit only. The rest is requested:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit shows that something was filled: all of these;
- while an order is open: the open orders, as often as the profit is streamed;
- every 30 seconds: all of these, for what happens outside the relay.

An order's id is the one its sender was given when it was placed. NinjaTrader may give it another one later, the broker's,
under which lists and fills then name it; a function finds it by either
(https://crosstrade.io/docs/api/orders/post-cancel-order). Asked for by the first id, the answer has the second.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import attrs
from attrs import Factory, define

from relay.adapter import Complete, Known, Poll, Polled, Signal, Sought, Unknown
from relay.adapter.reading import each, members, text
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderStatus
from relay.model.events import Error, Event, Order, Position, Trade
from relay_crosstrade.reading import Reader, has_expiry, unit
from relay_crosstrade.rpc import LOOKBACK, Failure, is_final, rpc

SWEEP = 30.0
"""Seconds between two requests for a list."""
#: The member of an answer that is the list.
LISTS = {"orders": "orders", "fills": "executions", "positions": "positions"}
Items = Iterator[Event | Signal]


@define(eq=False)
class Blotter:
    """Orders, fills and positions on one connection.

    Attributes:
        rate: seconds between two requests for the orders while one is open.
        accounts: the accounts whose fills are polled.
        refused: what the add-on has refused, and is not asked any more on this connection.
    """

    reader: Reader
    known: Known
    rate: float
    accounts: list[str] = Factory(list)
    refused: set[str] = Factory(set)

    # --- questions ---------------------------------------------------------------------------------------------------

    def ask(
        self, what: str, about: str = "", account: str = "", *, now: bool = True, busy: bool = False
    ) -> Iterator[Poll]:
        """Yield the poll of an order by its id (``placed``: by its sender's), of the fills of an account, or of a list.

        ``busy``: an order is open, which is not known yet.
        """
        name, missed = " ".join(filter(None, ("ask", what, about))), None
        every: float | None = SWEEP
        args: dict[str, Any]
        match what:
            case "orders":
                api, args = "GetAllOrders", {"activeOnly": True}
                every = self.rate if busy or any(self.known.open_orders()) else SWEEP
            case "fills":
                api, args = "ListExecutions", {"account": about}
                missed = rpc(name, api, {**args, "lookbackTime": LOOKBACK})
            case "positions":
                api, args = "GetAllPositions", {"includeFlat": True}
            case _:  # once, because the lists tell of it again
                api, args = "GetOrder", {"account": account or self.reader.own, "orderId": about}
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
        items = [*(self._read(what, about, data) if failed is None else self._failed(what, about, data, failed))]
        found = [item.state if isinstance(item, Sought) else item for item in items]
        busy = any(isinstance(item, Order) and not item.status.is_final for item in found)
        yield from items
        yield from self.ask("orders", now=False, busy=busy)
        error = None if failed is None or is_final(failed) else _error(failed["code"], what, failed, id, data)
        is_over = what in self.refused or (what == "fills" and about not in self.accounts)
        if what not in LISTS:
            is_over = "orders" not in self.refused or not busy
        yield Polled(id, error, final=error is None and is_over)

    def _read(self, what: str, about: str, data: Any) -> Items:
        raws: Any = data.get(LISTS[what]) if isinstance(data, dict) and what in LISTS else data
        if what in LISTS and not isinstance(raws, list):
            self.refused.add(what)
            yield Unknown(data, f"no list of {what}, which are not asked for again on this connection")
            return
        whole = not isinstance(data, dict) or data.get("count", len(raws)) == len(raws)
        match what:
            case "order":
                yield from each([data], lambda raw: Sought(self.order(raw, about), about))
            case "placed":
                yield from each([data], lambda raw: Sought(attrs.evolve(self.order(raw), client_order_id=about)))
            case "orders":
                yield from self._listed("order", [*each(raws, self.order)], whole=whole)
            case "fills":
                yield from each(sorted(raws, key=_epoch), self.execution)
            case _:
                yield from self._listed("position", [*each(raws, self.reader.position)], whole=whole)

    def _failed(self, what: str, about: str, data: Any, failed: Failure) -> Items:
        """Yield what a refusal means: of an order that it is not found, of a list that it is not asked for again."""
        if not is_final(failed):
            return
        if what in LISTS:
            self.refused.add(what)
            yield _error(failed["code"], what, failed, f"ask {what}", data)
            for order in self.known.open_orders() if what == "orders" else ():
                yield from self.ask("order", order.id, order.account or "", now=False)
            return
        why = _error(failed["code"], f"order {about}", failed, f"ask {what} {about}", data)
        yield Sought(None, about, failed=why)
        if what == "order":
            yield from self.ask("orders")

    def _listed(self, kind: Literal["order", "position"], items: list[Any], *, whole: bool) -> Items:
        """Yield a list, and that it names all there is on the accounts that have anything."""
        yield from items
        if whole:
            held: Iterable[Order | Position]
            held = self.known.open_orders() if kind == "order" else self.known.open_positions()
            accounts = {item.account for item in (*held, *items) if isinstance(item, Order | Position)}
            accounts = accounts | {self.reader.account(self.reader.own)} - {""}
            yield from (Complete(kind, account) for account in sorted(accounts, key=str))

    # --- orders and fills --------------------------------------------------------------------------------------------

    def placed(self, command: PlaceOrder, id: str, account: str) -> Items:
        """Yield an accepted order as it was asked for, unless a list has it, and ask for it.

        Where its symbol may be an alias, the answer is the first to tell of it.
        """
        own, native = self.reader.account(account), self.reader.native(command.symbol)
        if self.known.order(id, own) is None and has_expiry(native):
            yield Order(
                event=None, account=own, id=id, client_order_id=command.client_order_id, symbol=command.symbol,
                side=command.side, order_type=command.order_type, quantity=command.quantity,
                quantity_unit=unit(native, {}), status=OrderStatus.PENDING, time_in_force=command.time_in_force,
                limit_price=command.limit_price, stop_price=command.stop_price,
            )  # fmt: skip
        yield from self.ask("order", id, account)

    def order(self, raw: Any, id: str = "") -> Order:
        """Return an order; ``id`` is the one it was asked for by."""
        given = members(raw)
        native = text(given, "orderId")
        known = self.known.order(id or native, self.reader.account(text(given, "account")))
        return self.reader.order(given, native, None if known is None else known.side)

    def execution(self, raw: Any) -> Trade:
        """Return an execution."""
        given = members(raw)
        return self.reader.fill(given, text(given, "orderId"))


def _error(code: str, about: str, failed: Failure, id: str, data: Any) -> Error:
    return Error(code=code, message=f"{about}: {failed['message']}", details={"id": id, "data": data})


def _epoch(raw: Any) -> int:
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    return epoch if isinstance(epoch, int) else 0
