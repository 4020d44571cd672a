"""What is subscribed at Helio: quotes and account events by symbols and events together, depth symbol by symbol.

The page has the account's executions and portfolio subscribed for a list of symbols. The relay wants the whole account, so
they are subscribed for every symbol that is configured, as long as it is quoted, and once it was traded. There is no
``metricsUnsubscribe``; metrics stop with the connection.
"""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import Factory, define

from relay.adapter import dumps
from relay.model.channels import Topic

QUOTE = "quoteEvent"
ACCOUNT_EVENTS = ["executionEvent", "portfolioEvent"]
#: Symbols that may be traded on one connection beside those that are configured.
MOST_TRADED = 1000


def message(type: str, payload: dict[str, Any]) -> str:
    return dumps({"type": type, "payload": payload})


@define(eq=False)
class Interest:
    """The subscriptions of one connection.

    Attributes:
        native: the provider's text of a canonical symbol.
        depth: levels a side to ask for.
        configured: provider's symbols whose account events are always wanted.
        traded: those that orders were sent for, and those that the account was said to have orders or positions of.
        quoted, booked: those whose quotes or books are subscribed.
        watched: those whose account events are subscribed.
        account: whether the account's events are wanted at all.
    """

    native: Callable[[str], str]
    depth: int
    configured: set[str]
    traded: set[str]
    quoted: set[str] = Factory(set)
    booked: set[str] = Factory(set)
    watched: set[str] = Factory(set)
    account: bool = False

    def subscribe(self, topics: Iterable[Topic], account_id: Callable[[], str]) -> Iterable[str]:
        """Frames that subscribe ``topics``; ``account_id`` is called where the account's own id is needed."""
        quotes, depths, account = self._sorted(topics)
        if quotes:
            yield message("subscribe", {"symbols": quotes, "events": [QUOTE]})
        for text in depths:
            yield message("depthSubscribe", {"symbol": text, "depth": self.depth})
        self.quoted.update(quotes)
        self.booked.update(depths)
        if account:
            yield message("metricsSubscribe", {"accountId": account_id()})
            self.account = True
            self.watched.clear()
        if self.account:
            yield from self._watch(self.known)

    def unsubscribe(self, topics: Iterable[Topic]) -> Iterable[str]:
        quotes, depths, account = self._sorted(topics)
        if quotes:
            yield message("unsubscribe", {"symbols": quotes, "events": [QUOTE]})
        for text in depths:
            yield message("depthUnsubscribe", {"symbol": text})
        self.quoted.difference_update(quotes)
        self.booked.difference_update(depths)
        self.account = self.account and not account
        if gone := sorted(self.watched if account else self.watched - self.known):
            self.watched.difference_update(gone)
            yield message("unsubscribe", {"symbols": gone, "events": ACCOUNT_EVENTS})

    def trade(self, native: str) -> Iterable[str]:
        """Subscribe the account's events of a symbol that an order is about to be sent for.

        Raises:
            ValueError: too many were traded on this connection, and what becomes of this order could not be heard of.
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

    def _watch(self, natives: Iterable[str]) -> Iterable[str]:
        """Subscribe the account's events of these symbols, where they are not yet."""
        if new := sorted(set(natives) - self.watched):
            self.watched.update(new)
            yield message("subscribe", {"symbols": new, "events": ACCOUNT_EVENTS})

    def _sorted(self, topics: Iterable[Topic]) -> tuple[list[str], list[str], bool]:
        """The provider's symbols of quotes and of depth, and whether the account is among the topics."""
        quotes: list[str] = []
        depths: list[str] = []
        account = False
        for topic in topics:
            if topic.kind == "account":
                account = True
            else:
                (quotes if topic.kind == "quote" else depths).append(self.native(topic.symbol or ""))
        return quotes, depths, account
