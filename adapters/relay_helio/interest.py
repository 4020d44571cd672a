"""What is subscribed at Helio: quotes and account events by symbols and events together, depth symbol by symbol.

The page has the account's executions and portfolio subscribed for a list of symbols. The relay wants the whole account, so
they are subscribed for every symbol that is known: configured, quoted, or about to be traded. There is no
``metricsUnsubscribe``; metrics stop with the connection.
"""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import Factory, define

from relay.adapter import dumps
from relay.model.channels import Topic

QUOTE = "quoteEvent"
ACCOUNT_EVENTS = ["executionEvent", "portfolioEvent"]


def message(type: str, payload: dict[str, Any]) -> str:
    return dumps({"type": type, "payload": payload})


@define(eq=False)
class Interest:
    """The subscriptions of one connection.

    Attributes:
        native: the provider's text of a canonical symbol.
        depth: levels a side to ask for.
        known: provider's symbols whose account events are wanted.
        watched: those of them that are subscribed.
        account: whether the account's events are wanted at all.
    """

    native: Callable[[str], str]
    depth: int
    known: set[str]
    watched: set[str] = Factory(set)
    account: bool = False

    def subscribe(self, topics: Iterable[Topic], account_id: Callable[[], str]) -> Iterable[str]:
        """Frames that subscribe ``topics``; ``account_id`` is called where the account's own id is needed."""
        quotes, depths, account = self._sorted(topics)
        if quotes:
            yield message("subscribe", {"symbols": quotes, "events": [QUOTE]})
        for text in depths:
            yield message("depthSubscribe", {"symbol": text, "depth": self.depth})
        self.known.update(quotes, depths)
        if account:
            yield message("metricsSubscribe", {"accountId": account_id()})
            self.account = True
            self.watched.clear()
        if self.account:
            yield from self.watch(self.known)

    def unsubscribe(self, topics: Iterable[Topic]) -> Iterable[str]:
        quotes, depths, account = self._sorted(topics)
        if quotes:
            yield message("unsubscribe", {"symbols": quotes, "events": [QUOTE]})
        for text in depths:
            yield message("depthUnsubscribe", {"symbol": text})
        if account and self.watched:
            yield message("unsubscribe", {"symbols": sorted(self.watched), "events": ACCOUNT_EVENTS})
            self.watched.clear()
        self.account = self.account and not account

    def watch(self, natives: Iterable[str]) -> Iterable[str]:
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
