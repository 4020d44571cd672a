"""The polls of what CrossTrade does not stream: orders, fills and positions.

The page (https://docs.crosstrade.io/api/websocket-api) streams quotes and profit only. The rest is requested:

- when the session is up: open orders, the account's fills of the last 15 minutes, open positions;
- when a command was accepted: at once, the order it names or, where it names none, all of these;
- when an order was filled further, or the profit shows that something was filled: all of these;
- while an order is open: the open orders, as often as the profit is streamed;
- every 30 seconds: all of these, for what happens outside the relay.

Orders are asked for by their ids once, so they go before the lists: what else is read depends on knowing them.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, cast

from attrs import Factory, define, frozen

from relay.adapter import Poll
from relay_crosstrade.rpc import LOOKBACK, rpc

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
