"""ScaleTrade's quote channels: subscribed in lower case, answered in upper case (https://scaletrade.com/client-api/ws/).

The page also says that a symbol's naming must match the server's. So case is ignored: a symbol that comes in another case
than it was configured or asked for in is that symbol.
"""

from collections.abc import Iterable, Iterator

from relay.adapter import dumps
from relay.limits import BoundedDict

#: Symbols of the account whose spelling is remembered.
HELD = 10_000


class Channels:
    """The quote channels of one connection.

    Attributes:
        configured: symbols as they were configured, by their lower case.
        subscribed: those that are wanted, as they were asked for.
        held: those that were asked for once, and that the account has orders, positions or alerts of.
    """

    def __init__(self, configured: Iterable[str]) -> None:
        self.configured = {native.lower(): native for native in configured}
        self.subscribed: dict[str, str] = {}
        self.held: BoundedDict[str, str] = BoundedDict(HELD)

    def spelled(self, native: str) -> str:
        """Return the symbol as it was configured, or else as it was asked for."""
        name = native.lower()
        return next((names[name] for names in (self.configured, self.held, self.subscribed) if name in names), native)

    def hold(self, native: str) -> str:
        """Return the same for a symbol of the account, which keeps that spelling when nobody subscribes it any more."""
        name, spelled = native.lower(), self.spelled(native)
        if name in self.subscribed:
            self.held[name] = spelled
        return spelled

    def subscribe(self, natives: Iterable[str]) -> Iterator[str]:
        """Yield the frame that subscribes these symbols, if there are any."""
        names = {native.lower(): native for native in natives}
        self.subscribed = {**names, **self.subscribed}
        yield from _frame("subscribe", list(names))

    def unsubscribe(self, natives: Iterable[str]) -> Iterator[str]:
        """Yield the frame that unsubscribes these symbols, if there are any."""
        names = [native.lower() for native in natives]
        for name in names:
            self.subscribed.pop(name, None)
        yield from _frame("unsubscribe", names)


def _frame(event: str, names: list[str]) -> Iterator[str]:
    if names:
        yield dumps({"event": event, "data": names})
