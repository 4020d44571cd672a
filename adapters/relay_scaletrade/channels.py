"""ScaleTrade's quote channels: subscribed in lower case, answered in upper case (https://scaletrade.com/client-api/ws/).

The page also says that a symbol's naming must match the server's. So case is taken to say nothing: a symbol that comes in
another case than it was configured or asked for in is that symbol.
"""

from collections.abc import Iterable

from attrs import Factory, define

from relay.adapter import dumps


@define(eq=False)
class Channels:
    """The quote channels of one connection.

    Attributes:
        spelled: symbols as they were configured or asked for, by their lower case.
        subscribed: the channels that are wanted, in lower case.
    """

    spelled: dict[str, str] = Factory(dict)
    subscribed: dict[str, None] = Factory(dict)

    def know(self, natives: Iterable[str]) -> None:
        """Learn how symbols are spelled; the first spelling stays."""
        for native in natives:
            self.spelled.setdefault(native.lower(), native)

    def subscribe(self, natives: Iterable[str]) -> Iterable[str]:
        """The frame that subscribes these symbols, if there are any."""
        natives = list(natives)
        self.know(natives)
        self.subscribed |= dict.fromkeys(native.lower() for native in natives)
        yield from _frame("subscribe", [native.lower() for native in natives])

    def unsubscribe(self, natives: Iterable[str]) -> Iterable[str]:
        """The frame that unsubscribes these symbols, if there are any."""
        names = [native.lower() for native in natives]
        for name in names:
            self.subscribed.pop(name, None)
        yield from _frame("unsubscribe", names)

    def again(self) -> Iterable[str]:
        """The frame that subscribes all that is wanted once more."""
        yield from _frame("subscribe", list(self.subscribed))


def _frame(event: str, names: list[str]) -> Iterable[str]:
    if names:
        yield dumps({"event": event, "data": names})
