"""ScaleTrade's quote channels: subscribed in lower case, answered in upper case (https://scaletrade.com/client-api/ws/).

The page also says that a symbol's naming must match the server's. So case is taken to say nothing: a symbol that comes in
another case than it was configured or asked for in is that symbol.
"""

from collections.abc import Iterable

from attrs import Factory, define

from relay.adapter import dumps

#: Symbols of the account whose spelling is remembered.
HELD = 10_000


@define(eq=False)
class Channels:
    """The quote channels of one connection.

    Attributes:
        configured: symbols as they were configured, by their lower case.
        subscribed: those that are wanted, as they were asked for.
        held: those that were asked for once, and that the account has orders, positions or alerts of.
    """

    configured: dict[str, str]
    subscribed: dict[str, str] = Factory(dict)
    held: dict[str, str] = Factory(dict)

    @classmethod
    def of(cls, natives: Iterable[str]) -> "Channels":
        """Channels of these configured symbols."""
        return cls({native.lower(): native for native in natives})

    def spelled(self, native: str) -> str:
        """The symbol as it was configured, or else as it was asked for."""
        name = native.lower()
        return next((names[name] for names in (self.configured, self.held, self.subscribed) if name in names), native)

    def hold(self, native: str) -> str:
        """The same of a symbol that the account is told of: it keeps that name when nobody subscribes it any more."""
        name, spelled = native.lower(), self.spelled(native)
        if name in self.subscribed:
            self.held[name] = spelled
            if len(self.held) > HELD:
                del self.held[next(iter(self.held))]
        return spelled

    def subscribe(self, natives: Iterable[str]) -> Iterable[str]:
        """The frame that subscribes these symbols, if there are any."""
        names = {native.lower(): native for native in natives}
        self.subscribed = {**names, **self.subscribed}
        yield from _frame("subscribe", list(names))

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
