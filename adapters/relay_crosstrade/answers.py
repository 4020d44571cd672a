"""Read the answers to rpc: which command or question each belongs to, what it tells, and what is requested next.

The server closes after more than 10 violations of its limits in a row (https://docs.crosstrade.io/api/websocket-api); the
adapter leaves before, at the tenth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from attrs import Factory, define

from relay.adapter import CloseMeaning, CommandReply, Complete, Limited, Polled, Redial, Signal, Unknown
from relay.adapter.reading import each, is_zero
from relay.limits import BoundedDict
from relay.model import commands
from relay.model.events import Account, Error, Event, Position
from relay_crosstrade.polling import Blotter, Polling, Question, What
from relay_crosstrade.reading import Reader, names_another, of_account
from relay_crosstrade.rpc import Failure, Writer, failure, is_final, is_refusal, may_change

VIOLATIONS = 10
#: The member of an answer that is the list.
LISTS: Mapping[What, str] = {"orders": "orders", "fills": "executions", "positions": "positions"}


@define(eq=False)
class Answers:
    """The answers of one connection.

    Attributes:
        waiting: the commands of this connection that have no answer yet; the oldest of too many is forgotten.
        accounts: the accounts with positions, None for the session's own.
        profits: by account, the realized profit and whether the unrealized one is zero.
        violations: of the rate limit, without a success between.
    """

    writer: Writer
    reader: Reader
    blotter: Blotter
    polling: Polling
    accounts: set[str | None]
    waiting: BoundedDict[str, commands.Command] = Factory(lambda: BoundedDict(1000))
    profits: dict[str | None, tuple[str | None, bool | None]] = Factory(dict)
    violations: int = 0

    def awaited(self, command: commands.Command) -> None:
        """Take note that the command is about to be sent."""
        self.waiting[command.id] = command
        if isinstance(command, commands.PlaceOrder) and command.client_order_id is not None:
            self.blotter.memory.unanswered[command.client_order_id] = self.writer.account_of(command)

    def given_up(self, id: str) -> None:
        """Find out what became of a command that has had its reply without an answer."""
        command = self.waiting.get(id)
        if command is not None:
            self._follow(command)

    def read(self, id: str, data: Any) -> Iterable[Event | Signal]:
        """Yield what the answer to ``id`` tells."""
        data = self._own(data)
        failed, question = failure(data), Question.of_id(id)
        if question is None:
            yield from self._command(id, data, failed)
        else:
            yield from self._question(question, data, failed)
        if failed is None:
            self.violations = 0
        elif failed["code"] == "rate_limited":
            self.violations += 1
            yield Limited()
            if self.violations >= VIOLATIONS:
                yield Redial(f"{self.violations} rate limit violations in a row", CloseMeaning.RATE_LIMITED)
        self.polling.follow(self._open_orders())
        yield from self.polling.take()

    def reconcile(self) -> None:
        """Ask for what is open, what may have been missed, and orders of unknown fate."""
        for id, account in self.blotter.memory.unanswered.items():
            self.polling.want("order", id, account, missed=True)
        self.polling.look(*self.polling.accounts, missed=True)
        self.polling.look(*self.polling.accounts, now=False)
        self.polling.follow(self._open_orders())

    def _open_orders(self) -> Iterator[tuple[str, str]]:
        return ((id, self.blotter.account(id)) for id in self.blotter.memory.open)

    def updated(self, accounts: list[Any], time: str | None) -> Iterable[Event | Signal]:
        """Yield the money, and the positions, of a pnlUpdate."""
        raws = self._own(accounts, "name")
        noticed: list[str] = []
        for item in each(raws, partial(self.reader.money, timestamp=time)):
            if isinstance(item, Account) and self._shows_a_fill(item):
                noticed.append(item.account or self.reader.own)
            yield item
        for raw in raws:
            if isinstance(raw, dict) and isinstance(raw.get("positions"), list):
                yield from self._positions(raw["positions"])
        for account in noticed:
            self.polling.look(account)
        yield from self.polling.take()

    def _shows_a_fill(self, account: Account) -> bool:
        """Return whether the realized profit has changed, or the unrealized one has begun or ceased to be zero."""
        unrealized = account.unrealized_pnl
        now = account.realized_pnl, None if unrealized is None else is_zero(unrealized)
        before = self.profits.get(account.account, now)
        self.profits[account.account] = now
        return before != now

    def _own(self, data: Any, by: str = "account") -> Any:
        return of_account(data, self.reader.only, by) if self.reader.only else data

    def _positions(self, raws: list[Any], *, missed: bool = False) -> Iterator[Event | Signal]:
        for item in each(raws, partial(self.reader.position, missed=missed)):
            if isinstance(item, Position) and item.side is not None:
                self.accounts.add(item.account)
            yield item

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, id: str, data: Any, failed: Failure | None) -> Iterator[Event | Signal]:
        """Yield the reply to a command and what it tells, or an error where a failure answers none.

        A command that may change something stays open, and becomes unknown at its deadline, when the answer does not say
        whether it was carried out: it has no ``success``, or fails with what is no refusal that is documented.
        """
        command = self.waiting.pop(id, None)
        if failed is not None and command is None:
            yield _error(failed["code"], failed["message"], id, data)
            return
        succeeded = isinstance(data, dict) and data.get("success") is True
        decided = succeeded if failed is None else is_refusal(failed)
        if not decided and (command is None or may_change(command)):
            yield _error("undecided", f"the answer to command {id} does not say what became of it", id, data)
            if command is not None:
                self.waiting[id] = command
                self._follow(command)
            return
        if isinstance(command, commands.PlaceOrder) and (failed is not None or _order_id(data)):
            self.blotter.answered(command.client_order_id)
        if failed is not None:
            yield CommandReply(id, error=failed)
            return
        account = (None if command is None else command.account) or self.reader.only
        if account and names_another(data, account, "account"):
            message = f"the answer is of another account than {account}"
            yield CommandReply(id, error={"code": "not_of_this_account", "message": message})
            return
        result = self._result(command, data)
        result = of_account(result, account) if account else result
        yield CommandReply(id, result, events=self._in_words(command, result))
        if command is not None:
            yield from self._accepted(command, data)
        match data:
            case {"positions": [*positions]}:
                yield from self._positions(positions)
            case {"accounts": [*accounts]}:
                yield from (item for item in each(accounts, self.reader.money) if isinstance(item, Account))

    def _result(self, command: commands.Command | None, data: Any) -> Any:
        symbol = getattr(command, "symbol", None)
        if isinstance(command, commands.ListOrders | commands.OrderHistory | commands.TradeHistory):
            return data if symbol is None else _of_symbol(data, self.writer.native(symbol))
        id = _order_id(data)
        return data if id is None else {"order_id": id, **data}

    def _in_words(self, command: commands.Command | None, result: Any) -> tuple[Event | Unknown, ...] | None:
        """Return what the answer to a list, a history or a quote says; None where it has no list."""
        raws: list[Any] | None = None
        read: Callable[[Any], Event] = self.reader.quote
        match command:
            case commands.GetQuote():
                raws = [result]
            case commands.ListAccounts():
                raws, read = _list(result, "accounts"), self.reader.listed
            case commands.ListPositions():
                raws, read = _list(result, "positions"), self.reader.position
            case commands.ListOrders() | commands.OrderHistory():
                raws, read = _list(result, "orders"), self.blotter.order
            case commands.TradeHistory():
                raws, read = _list(result, "executions"), self.blotter.execution
        return None if raws is None else tuple(each(raws, read))

    def _accepted(self, command: commands.Command, data: Any) -> Iterator[Event | Signal]:
        """Yield what an accepted command has done, as far as it is known, and ask for the rest."""
        match command, _order_id(data):
            case commands.PlaceOrder(), str(id):
                account = self.writer.account_of(command)
                yield from self.blotter.placed(command, id, account)
                self.polling.want("order", id, account)
            case commands.ListOrders(), _:
                yield from self.blotter.listed(_list(data, "orders") or [], whole=False)
            case _:
                self._follow(command)

    def _follow(self, command: commands.Command) -> None:
        """Ask what has become of what a command is about."""
        account = command.account or self.writer.account
        match command:
            case (
                commands.PlaceOrder(client_order_id=str(id))
                | commands.CancelOrder(order_id=id)
                | commands.AmendOrder(order_id=id)
            ):
                self.polling.want("order", id, account)
            case _ if may_change(command):
                self.polling.look(account)

    # --- questions ---------------------------------------------------------------------------------------------------

    def _question(self, asked: Question, data: Any, failed: Failure | None) -> Iterator[Event | Signal]:
        self.polling.missed.discard(asked.id)
        if failed is not None:
            yield from self._failed(asked, data, failed)
        elif asked.what == "order":
            yield from each([data], lambda raw: self.blotter.found(raw, asked.about, missed=asked.missed))
            yield Polled(asked.id, final=asked.about not in self.blotter.memory.open)
        elif (raws := _list(data, LISTS[asked.what])) is not None:
            whole = not isinstance(data, dict) or data.get("count", len(raws)) == len(raws)
            yield from self._listed(asked, raws, whole=whole)
            yield Polled(
                asked.id, final=asked.missed or (asked.what == "fills" and asked.about not in self.polling.accounts)
            )
        else:
            self.polling.refused.add(asked.what)
            yield Polled(asked.id, final=True)
            yield Unknown(data, f"no list of {asked.what}, which are not asked for again on this connection")

    def _listed(self, asked: Question, raws: list[Any], *, whole: bool) -> Iterator[Event | Signal]:
        missed = asked.missed
        match asked.what:
            case "orders":
                yield from self.blotter.listed(raws, whole=whole, missed=missed)
                if whole:
                    for id in self.blotter.missing:
                        self.polling.want("order", id, self.blotter.account(id), missed=missed)
                    if self.blotter.unsearched:
                        self.polling.want("orders", missed=missed)
            case "fills":
                yield from self.blotter.fills(raws, missed=missed)
            case _:
                yield from self._positions(raws, missed=missed)
                if whole:
                    yield from (Complete("position", account) for account in sorted(self.accounts, key=str))

    def _failed(self, asked: Question, data: Any, failed: Failure) -> Iterator[Event | Signal]:
        """Yield what a failure means: of an order that is refused that it is not found, else that it is asked again."""
        error = _error(failed["code"], f"{asked.what}: {failed['message']}", asked.id, data)
        if not is_final(failed):
            yield Polled(asked.id, error)
            if asked.what == "fills":  # in the meantime more are missed than a list without a time has
                self.polling.want("fills", asked.about, missed=True)
            return
        yield Polled(asked.id, final=True)
        if asked.what == "order":
            yield from self._not_found(asked, data, failed)
        else:
            self.polling.refused.add(asked.what)
            yield error

    def _not_found(self, asked: Question, data: Any, failed: Failure) -> Iterator[Event]:
        """Yield the end of an order that no list has either, or that an order whose fate was unknown never came."""
        if asked.about in self.blotter.missing:
            yield from self.blotter.gone(asked.about)
        elif self.blotter.answered(asked.about):
            yield _error("order_not_found", f"order {asked.about} is not known to NinjaTrader", asked.id, data)
        else:
            yield _error(failed["code"], f"order {asked.about}: {failed['message']}", asked.id, data)
            self.polling.want("orders")


def _order_id(data: Any) -> str | None:
    id = data.get("orderId") if isinstance(data, dict) else None
    return id if isinstance(id, str) and id else None


def _list(data: Any, name: str) -> list[Any] | None:
    """Return the list of an answer, bare or as a member; None when there is none."""
    raws = data.get(name) if isinstance(data, dict) else data
    return raws if isinstance(raws, list) else None


def _of_symbol(data: Any, native: str) -> Any:
    """Return a history's answer with only what is of one instrument; the functions have no argument for it."""
    if not isinstance(data, dict):
        return data
    lists = {name: value for name, value in data.items() if isinstance(value, list)}
    return data | {
        name: [each for each in value if isinstance(each, dict) and each.get("instrument") == native]
        for name, value in lists.items()
    }


def _error(code: str, message: str, id: str, data: Any) -> Error:
    return Error(code=code, message=message, details={"id": id, "data": data})
