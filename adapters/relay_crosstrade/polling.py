"""Poll the add-on for what CrossTrade does not stream: orders, fills and positions.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit only. The rest is requested:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit shows that something was filled: all of these;
- while an order is open: the open orders, with every pnlUpdate;
- every 30 seconds: all of these, for what happens outside the relay. The profit is only streamed while somebody is
  subscribed to an account, so without a subscriber only the session's start and commands lead to requests.

One request is outstanding at a time, and each waits until half of the budget is left to commands (`relay.adapter.Send`).
Orders by their ids come first, because what else is read depends on knowing them; the lists take turns. A request that the
add-on does not answer, or cannot answer now, is repeated with the next pnlUpdate, an order then behind a list. A request
that it refuses is not repeated on this connection.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, cast

from attrs import Factory, define, frozen

from relay.adapter import Send
from relay_crosstrade.rpc import LOOKBACK, rpc

What = Literal["order", "orders", "fills", "positions"]
SWEEP = 30_000
"""Milliseconds between two requests for everything."""
PATIENCE = 10
"""A question without an answer for so many pnlUpdates is asked again."""
MOST = 1000
"""Questions that may wait; beyond that an order is found by the lists."""


@frozen
class Question:
    """A request of the relay's own; its id says what it is, so that any connection's adapter can read the answer.

    Attributes:
        about: an order's id, or the account of fills.
        account: of the order; not part of the id.
        missed: whether it is asked because the relay was away.
    """

    what: What
    about: str = ""
    account: str = ""
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

    @property
    def text(self) -> str:
        match self.what:
            case "order":
                return rpc(self.id, "GetOrder", {"account": self.account, "orderId": self.about})
            case "orders":
                return rpc(self.id, "GetAllOrders", {"activeOnly": True})
            case "fills":
                far = {"lookbackTime": LOOKBACK} if self.missed else {}
                return rpc(self.id, "ListExecutions", {"account": self.about, **far})
            case "positions":
                return rpc(self.id, "GetAllPositions", {"includeFlat": True})


@define(eq=False)
class Polling:
    """Decides what is requested next. A pnlUpdate is its clock.

    Attributes:
        every: pnlUpdates between two requests for everything.
        accounts: the accounts whose fills are then requested.
        due: the questions that wait.
        asked: the outstanding question.
        refused: what is not asked any more.
        resting: nothing is asked before the next pnlUpdate, because the add-on is not there or the budget is used up.
    """

    every: int
    accounts: list[str] = Factory(list)
    due: dict[tuple[What, str], Question] = Factory(dict)
    asked: Question | None = None
    refused: set[What] = Factory(set)
    resting: bool = False
    _updates: int = 0
    _silent: int = 0
    _failed: What | None = None

    def want(self, what: What, about: str = "", account: str = "", *, missed: bool = False) -> None:
        """Ask this as soon as nothing else is outstanding."""
        if what in self.refused or not (about or what in ("orders", "positions")):
            return
        if what == "order" and len(self.due) >= MOST:
            what, about, account, missed = "orders", "", "", False
        if (what, about) not in self.due or missed:
            self.due[what, about] = Question(what, about, account, missed)

    def look(self, *accounts: str, missed: bool = False) -> None:
        """Ask for everything, of fills those of ``accounts``."""
        self.want("orders", missed=missed)
        for account in accounts:
            self.want("fills", account, missed=missed)
        self.want("positions", missed=missed)

    def next(self) -> Iterator[Send]:
        """Yield the next question, unless one is outstanding."""
        if self.asked is None and self.due and not self.resting:
            key = min(self.due, key=lambda key: (key[0] == "order") is (self._failed == "order"))
            self.asked, self._silent = self.due.pop(key), 0
            yield Send(self.asked.text, of="call")

    def updated(self, open_orders: Mapping[str, str]) -> None:
        """Take note of a pnlUpdate: the add-on is there, and time has passed.

        Args:
            open_orders: the account of each open order.
        """
        self.resting = False
        self._updates += 1
        self._silent += 1
        if self.asked is not None and self._silent > PATIENCE:
            again, self.asked = self.asked, None
            self.want(again.what, again.about, again.account, missed=again.missed)
        if self._updates % self.every == 0:
            self.look(*self.accounts)
        elif open_orders:
            self.want("orders")
        if "orders" in self.refused:
            for id, account in open_orders.items():
                self.want("order", id, account)

    def answered(self, read: Question) -> Question:
        """Take note of an answer; return the question as it was asked, where it is the outstanding one."""
        asked = self.asked
        if asked is None or asked.id != read.id:
            return read
        self.asked, self._failed = None, None
        return asked

    def failed(self, failed: Question, *, refused: bool) -> None:
        """Take note that there is no answer: refused for good, or to be asked again, as far back as can be."""
        what = failed.what
        if refused:
            self.refused.update({what} - {"order"})
        elif failed.account or what != "order":
            self.resting, self._failed = True, what
            self.want(what, failed.about, failed.account, missed=failed.missed or what == "fills")
