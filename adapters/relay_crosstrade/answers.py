"""Answers to rpc: which command or question each belongs to, what it says of it, and what is to be asked next.

The server closes after more than 10 violations of its limits in a row (https://docs.crosstrade.io/api/websocket-api); the
session is left before, at the tenth.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import Factory, define

from relay.adapter import CloseMeaning, CommandReply, Limited, Redial, Send, Signal, Unknown
from relay.model.commands import AmendOrder, CancelOrder, Command, ListOrders, OrderHistory, PlaceOrder, TradeHistory
from relay.model.events import Error, Event
from relay_crosstrade.blotter import Blotter, or_unknown
from relay_crosstrade.calls import Failure, Writing, failure, is_final, is_refusal, may_change, of_symbol, succeeded
from relay_crosstrade.positions import Positions
from relay_crosstrade.questions import Question, Questions, What, question
from relay_crosstrade.reading import of_account

VIOLATIONS = 10
#: The member of an answer that is the list.
LISTS: Mapping[What, str] = {"orders": "orders", "fills": "executions", "positions": "positions"}
#: Commands that may wait; beyond that the oldest is no longer known.
WAITING = 1000


@define(eq=False)
class Answers:
    """
    Attributes:
        only: the account the session acts for, of which alone it tells; empty: all of the key.
        waiting: the commands of this connection that have no answer yet, oldest first.
        violations: of the rate limit, without a success between.
    """

    writing: Writing
    positions: Positions
    blotter: Blotter
    questions: Questions
    only: str = ""
    waiting: dict[str, Command] = Factory(dict)
    violations: int = 0

    def awaited(self, command: Command) -> None:
        """The command is about to be sent."""
        self.waiting[command.id] = command
        if isinstance(command, PlaceOrder) and command.client_order_id is not None:
            self.blotter.awaited(command.client_order_id, self.writing.account_of(command))
        if len(self.waiting) > WAITING:
            del self.waiting[next(iter(self.waiting))]

    def given_up(self, id: str) -> None:
        """The command has had its reply without an answer: what became of it is to be found out."""
        command = self.waiting.get(id)
        if command is not None:
            self._follow(command)

    def read(self, id: str, data: Any) -> Iterable[Event | Signal]:
        """The answer to ``id``."""
        data = self._own(data)
        failed, read = failure(data), question(id)
        if read is None:
            yield from self._command(id, data, failed)
        else:
            yield from self._question(self.questions.answered(read), data, failed)
        if failed is None:
            self.violations = 0
        elif failed["code"] == "rate_limited":
            yield from self._violated()
        yield from self.asking()

    def reconcile(self) -> Iterator[Send]:
        """The session is up: ask for what is open, what may have been missed, and orders of unknown fate."""
        for id, account in self.blotter.memory.unanswered.items():
            self.questions.order(id, account, missed=True)
        self.questions.look(*self.questions.accounts, missed=True)
        yield from self.questions.next()

    def updated(self, accounts: list[Any], time: str | None) -> Iterable[Event | Signal]:
        """Read a pnlUpdate; it also is the clock of what is asked for again and again."""
        yield from self.positions.updated(self._own({"accounts": accounts})["accounts"], time)
        self.questions.updated({id: self.blotter.account(id) for id in self.blotter.memory.open})
        for account in _taken(self.positions.noticed):
            self.questions.look(account)
        yield from self.asking()

    def asking(self) -> Iterator[Signal]:
        """What follows from what was read."""
        for account in _taken(self.blotter.filled):
            self.questions.look(account)
        for account in _taken(self.blotter.doubtful):
            self.questions.want(Question("orders"))
            self.questions.want(Question("fills", account))
        for id, account in _taken(self.blotter.strange).items():
            self.questions.order(id, account)
        yield from self.questions.next()

    def _own(self, data: Any) -> Any:
        return of_account(data, self.only) if self.only else data

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, id: str, data: Any, failed: Failure | None) -> Iterator[Event | Signal]:
        """The reply to a command and what it tells, or an error where a failure answers none.

        A command that may change something stays open, and becomes unknown at its deadline, when the answer does not say
        whether it was carried out: it has no ``success``, or fails with what is no refusal that is documented.
        """
        command = self.waiting.pop(id, None)
        if failed is not None and command is None:
            yield _error(failed["code"], failed["message"], id, data)
            return
        decided = succeeded(data) if failed is None else is_refusal(failed)
        if not decided and (command is None or may_change(command)):
            yield _error("undecided", f"the answer to command {id} does not say what became of it", id, data)
            if command is not None:
                self.waiting[id] = command
                self.given_up(id)
            return
        if isinstance(command, PlaceOrder) and (failed is not None or _order_id(data)):
            self.blotter.answered(command.client_order_id)
        if failed is not None:
            yield CommandReply(id, error=failed)
            return
        yield CommandReply(id, self._result(command, data))
        if command is not None:
            yield from self._accepted(command, data)
        yield from self.positions.told(data)

    def _result(self, command: Command | None, data: Any) -> Any:
        if isinstance(command, ListOrders | OrderHistory | TradeHistory):
            symbol = getattr(command, "symbol", None)
            return data if symbol is None else of_symbol(data, self.writing.native(symbol))
        id = _order_id(data)
        return data if id is None else {"order_id": id, **data}

    def _accepted(self, command: Command, data: Any) -> Iterator[Event | Signal]:
        """Tell what an accepted command has done, as far as it is known, and want to know the rest."""
        match command, _order_id(data):
            case PlaceOrder(), str(id):
                account = self.writing.account_of(command)
                yield from self.blotter.placed(command, id, account)
                self.questions.order(id, account)
            case ListOrders(), _:
                yield from self.blotter.listed(_list(data, "orders") or [], whole=False)
            case _:
                self._follow(command)

    def _follow(self, command: Command) -> None:
        """Want to know what has become of what a command is about."""
        account = command.account or self.writing.account
        match command:
            case PlaceOrder(client_order_id=str(id)) | CancelOrder(order_id=id) | AmendOrder(order_id=id):
                self.questions.order(id, account)
            case _ if may_change(command):
                self.questions.look(account)

    # --- questions ---------------------------------------------------------------------------------------------------

    def _question(self, asked: Question, data: Any, failed: Failure | None) -> Iterator[Event | Signal]:
        if failed is None:
            yield from self._told(asked, data)
            return
        refused = is_final(failed)
        self.questions.failed(asked, refused=refused)
        if asked.what == "order" and refused:
            yield from self._not_found(asked, data, failed)
        else:
            yield _error(failed["code"], f"{asked.what}: {failed['message']}", asked.id, data)

    def _told(self, asked: Question, data: Any) -> Iterator[Event | Signal]:
        if asked.what == "order":
            yield from or_unknown(data, self.blotter.asked(data, asked.about, missed=asked.missed))
            return
        raws = _list(data, LISTS[asked.what])
        if raws is None:
            self.questions.failed(asked, refused=True)
            yield Unknown(data, f"no list of {asked.what}, which are not asked for again on this connection")
            return
        whole = not isinstance(data, dict) or data.get("count", len(raws)) == len(raws)
        match asked.what:
            case "orders":
                yield from self.blotter.listed(raws, whole=whole, missed=asked.missed)
                if whole:
                    self._search(asked)
            case "fills":
                yield from self.blotter.fills(raws, missed=asked.missed)
            case "positions" if whole:
                yield from self.positions.whole(raws, missed=asked.missed)
            case "positions":
                yield from self.positions.listed(raws, missed=asked.missed)

    def _search(self, asked: Question) -> None:
        """Ask for the orders a list should have had."""
        for id in self.blotter.missing:
            self.questions.order(id, self.blotter.account(id), missed=asked.missed)
        if self.blotter.unsearched:
            self.questions.want(Question("orders", missed=asked.missed))

    def _not_found(self, asked: Question, data: Any, failed: Failure) -> Iterator[Event]:
        """An order that is not there: one that no list has either has ended, one whose fate was unknown never came."""
        if asked.about in self.blotter.missing:
            yield from self.blotter.gone(asked.about)
        elif self.blotter.answered(asked.about):
            yield _error("order_not_found", f"order {asked.about} is not known to NinjaTrader", asked.id, data)
        else:
            yield _error(failed["code"], f"order {asked.about}: {failed['message']}", asked.id, data)
            self.questions.want(Question("orders"))

    def _violated(self) -> Iterator[Signal]:
        self.violations += 1
        yield Limited()
        if self.violations >= VIOLATIONS:
            yield Redial(f"{self.violations} rate limit violations in a row", CloseMeaning.RATE_LIMITED)


def _taken(noted: dict[str, Any]) -> dict[str, Any]:
    taken = dict(noted)
    noted.clear()
    return taken


def _order_id(data: Any) -> str | None:
    id = data.get("orderId") if isinstance(data, dict) else None
    return id if isinstance(id, str) and id else None


def _list(data: Any, name: str) -> list[Any] | None:
    """The list of an answer, bare or as a member."""
    raws = data.get(name) if isinstance(data, dict) else data
    return raws if isinstance(raws, list) else None


def _error(code: str, message: str, id: str, data: Any) -> Error:
    return Error(code=code, message=message, details={"id": id, "data": data})
