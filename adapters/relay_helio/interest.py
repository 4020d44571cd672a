"""The subscriptions at Helio: quotes and account events by symbols and events together, depth symbol by symbol.

The page has the account's executions and portfolio subscribed for a list of symbols. The relay wants the whole account, so
they are subscribed for every symbol that is configured, as long as it is quoted, and once it was traded. There is no
``metricsUnsubscribe``; metrics stop with the connection.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import Factory, define

from relay.adapter import dumps
from relay.model.channels import Topic

QUOTE = "quoteEvent"
ACCOUNT_EVENTS = ["executionEvent", "portfolioEvent"]
#: Symbols that may be traded on one connection beside those that are configured.
MOST_TRADED = 1000


def message(type: str, /, **payload: Any) -> str:
    """Return a frame of Helio's envelope."""
    return dumps({"type": type, "payload": payload})


@define(eq=False)
class Interest:
    """The subscriptions of one connection.

    Attributes:
        native: return the provider's text of a canonical symbol.
        depth: levels a side to ask for.
        configured: provider's symbols whose account events are always wanted.
        traded: those that orders were sent for, and those of the account's orders and positions.
        quoted, booked: those whose quotes or books are subscribed.
        watched: those whose account events are subscribed.
        account: True while the account's events are wanted.
    """

    native: Callable[[str], str]
    depth: int
    configured: set[str]
    traded: set[str]
    quoted: set[str] = Factory(set)
    booked: set[str] = Factory(set)
    watched: set[str] = Factory(set)
    account: bool = False

    def subscribe(self, topics: Iterable[Topic], account_id: Callable[[], str]) -> Iterator[str]:
        """Yield frames that subscribe ``topics``, if again their account events too; ``account_id`` returns the own id."""
        natives = self._by_kind(topics)
        self.watched -= {*natives["quote"], *natives["depth"]} - self.configured - self.traded
        if natives["quote"]:
            yield message("subscribe", symbols=natives["quote"], events=[QUOTE])
        for symbol in natives["depth"]:
            yield message("depthSubscribe", symbol=symbol, depth=self.depth)
        self.quoted, self.booked = self.quoted.union(natives["quote"]), self.booked.union(natives["depth"])
        if natives["account"]:
            yield message("metricsSubscribe", accountId=account_id())
            self.account = True
            self.watched.clear()
        if self.account:
            yield from self._watch(self.known)

    def unsubscribe(self, topics: Iterable[Topic]) -> Iterator[str]:
        """Yield frames that unsubscribe ``topics``, and the account events of symbols no longer wanted."""
        natives = self._by_kind(topics)
        if natives["quote"]:
            yield message("unsubscribe", symbols=natives["quote"], events=[QUOTE])
        for symbol in natives["depth"]:
            yield message("depthUnsubscribe", symbol=symbol)
        self.quoted.difference_update(natives["quote"])
        self.booked.difference_update(natives["depth"])
        self.account = self.account and not natives["account"]
        if gone := sorted(self.watched if natives["account"] else self.watched - self.known):
            self.watched.difference_update(gone)
            yield message("unsubscribe", symbols=gone, events=ACCOUNT_EVENTS)

    def trade(self, native: str) -> Iterator[str]:
        """Subscribe the account's events of a symbol that an order is about to be sent for.

        Raises:
            ValueError: too many were traded on this connection, so that no events of this order would be received.
        """
        if native not in self.configured | self.traded:
            if len(self.traded) >= MOST_TRADED:
                raise ValueError(f"symbol: {MOST_TRADED} were traded already; list {native!r:.64} in account_symbols")
            self.traded.add(native)
        yield from self._watch([native])

    @property
    def known(self) -> set[str]:
        """The symbols whose account events are wanted."""
        return self.configured | self.quoted | self.booked | self.traded

    def _watch(self, natives: Iterable[str]) -> Iterator[str]:
        if new := sorted(set(natives) - self.watched):
            self.watched.update(new)
            yield message("subscribe", symbols=new, events=ACCOUNT_EVENTS)

    def _by_kind(self, topics: Iterable[Topic]) -> dict[str, list[str]]:
        """Return the provider's symbols of the topics by kind; the account is one empty text."""
        natives: dict[str, list[str]] = {"quote": [], "depth": [], "account": []}
        for topic in topics:
            natives[topic.kind].append(self.native(topic.symbol) if topic.symbol else "")
        return natives
