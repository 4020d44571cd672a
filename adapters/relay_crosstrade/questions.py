"""What is asked of the add-on besides commands, and when.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit, and neither orders, fills nor positions.
So they are asked for:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit says that something was filled: all of these;
- while an order is open: the open orders, with every pnlUpdate;
- every 30 seconds: all of these, for what happens outside the relay. The profit is only streamed while somebody is
  subscribed to an account, so without a subscriber nothing is asked but what follows the session's start and a command.

One question is under way at a time, and each waits until half of the budget is left to commands (`relay.adapter.Send`).
Orders by their ids come first, because what else is read depends on knowing them; the lists take turns. What the add-on
does not answer, or cannot now, is asked for again with the next pnlUpdate, an order then behind a list; what it refuses is
not asked for again on this connection.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from attrs import Factory, define, frozen

from relay.adapter import Send
from relay_crosstrade.calls import LOOKBACK, rpc

What = Literal["order", "orders", "fills", "positions"]
WHAT: tuple[What, ...] = ("order", "orders", "fills", "positions")
SWEEP = 30_000
"""Milliseconds between two looks at everything."""
PATIENCE = 10
"""A question without an answer for so many pnlUpdates is given up and asked again."""
MOST = 1000
"""Questions that may wait; beyond that an order is found by the lists."""


@frozen
class Question:
    """One question; its id says what it is, so that its answer can be read by whoever did not ask it.

    Attributes:
        about: an order's id, or the account of fills.
        account: of the order; not part of the id.
        missed: whether it is asked because the relay was away.
    """

    what: What
    about: str = ""
    account: str = ""
    missed: bool = False

    @property
    def id(self) -> str:
        """No command's id has a space in it."""
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


def question(id: str) -> Question | None:
    """The question with this id; None for the id of a command."""
    why, _, rest = id.partition(" ")
    what, _, about = rest.partition(" ")
    if why not in ("ask", "missed") or what not in WHAT:
        return None
    return Question(what, about, missed=why == "missed")


@define(eq=False)
class Questions:
    """
    Attributes:
        every: pnlUpdates between two looks at everything.
        accounts: whose fills these looks ask for.
        due: what is to be asked.
        asked: the question under way.
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

    def want(self, wanted: Question) -> None:
        key = wanted.what, wanted.about
        if wanted.what in self.refused or not (wanted.about or wanted.what in ("orders", "positions")):
            return
        if len(self.due) >= MOST and wanted.what == "order":
            key, wanted = ("orders", ""), Question("orders")
        if key not in self.due or wanted.missed:
            self.due[key] = wanted

    def look(self, *accounts: str, missed: bool = False) -> None:
        """Ask for everything, of fills those of ``accounts``."""
        self.want(Question("orders", missed=missed))
        for account in accounts:
            self.want(Question("fills", account, missed=missed))
        self.want(Question("positions", missed=missed))

    def order(self, id: str, account: str, *, missed: bool = False) -> None:
        self.want(Question("order", id, account, missed))

    def next(self) -> Iterator[Send]:
        """The next question, unless one is under way."""
        if self.asked is None and self.due and not self.resting:
            key = min(self.due, key=lambda key: (key[0] == "order") is (self._failed == "order"))
            self.asked, self._silent = self.due.pop(key), 0
            yield Send(self.asked.text, of="call")

    def updated(self, open_orders: Mapping[str, str]) -> None:
        """A pnlUpdate came: the add-on is there, and time has passed. ``open_orders`` have their accounts with them."""
        self.resting = False
        self._updates += 1
        self._silent += 1
        if self.asked is not None and self._silent > PATIENCE:
            again, self.asked = self.asked, None
            self.want(again)
        if self._updates % self.every == 0:
            self.look(*self.accounts)
        elif open_orders:
            self.want(Question("orders"))
        if "orders" in self.refused:
            for id, account in open_orders.items():
                self.order(id, account)

    def answered(self, read: Question) -> Question:
        """An answer came; return the question as it was asked, where it is the one under way."""
        asked = self.asked
        if asked is None or asked.id != read.id:
            return read
        self.asked, self._failed = None, None
        return asked

    def failed(self, failed: Question, *, refused: bool) -> None:
        """It was not answered: refused, or to be asked again, far enough back, when the add-on may answer."""
        if not refused and (failed.account or failed.what != "order"):
            self.resting, self._failed = True, failed.what
            self.want(
                Question(failed.what, failed.about, failed.account, missed=failed.missed or failed.what == "fills")
            )
        elif refused and failed.what != "order":
            self.refused.add(failed.what)
