"""What ScaleTrade says of a trading account, pushed or listed: money, trades, notifications, price alerts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import Factory, define, evolve

from relay.adapter import Answer, Complete, Fetch, Signal, loads
from relay.model.commands import AmendPosition, Command, PlaceOrder
from relay.model.events import Alert, Event, Notification
from relay_scaletrade import wire
from relay_scaletrade.answers import table
from relay_scaletrade.requests import CLOSED_TRADES, OPEN_TRADES, PENDING_TRADES, Page, Request
from relay_scaletrade.trades import Trades

#: How many client order ids are remembered.
PLACED = 10_000


@define(eq=False)
class AccountReader:
    """The account messages of one connection.

    Attributes:
        symbol: the canonical text of the provider's symbol.
        placed: the client order ids of our orders, the newest last, also of earlier connections.
        trades: what was said of each ticket.
        login, currency: of the session's own account, from the sign-in.
        newer: the server is of the newer version, which leaves a level alone that it is not told.
        rows: the trades that were listed so far, by the kind of list.
    """

    symbol: Callable[[str], str]
    placed: dict[str, None]
    trades: Trades = Factory(lambda self: Trades(self.placed), takes_self=True)
    login: int | None = None
    currency: str | None = None
    newer: bool = False
    rows: dict[int, list[wire.Members]] = Factory(dict)

    def signed_in(self, profile: wire.Members) -> None:
        """Take over what the sign-in's answer says of the account."""
        currency = profile.get("currency")
        self.login = wire.whole(profile["login"])
        self.currency = currency if isinstance(currency, str) and currency else None

    def asked(self, command: Command) -> Command:
        """The command as it is sent. An order's own name is remembered, for whatever connection will hear of it.

        Older servers want both levels of a position (https://scaletrade.com/client-api/rest/trade/ModifyTrade): the one that
        is to stay goes along as it last was, where that is known.
        """
        if isinstance(command, PlaceOrder) and command.client_order_id is not None:
            self.placed[command.client_order_id] = None
            if len(self.placed) > PLACED:
                del self.placed[next(iter(self.placed))]
        if isinstance(command, AmendPosition) and not self.newer:
            stop_loss, take_profit = self.trades.take_levels(command.position_id)
            if command.stop_loss is not None or command.take_profit is not None:
                return evolve(command, stop_loss=command.stop_loss or stop_loss,
                              take_profit=command.take_profit or take_profit)  # fmt: skip
        return command

    def other(self, login: Any) -> str | None:
        """The account a message names, where it is not the session's own."""
        return None if wire.whole(login) == self.login else str(login)

    def balance(self, values: Sequence[Any]) -> Event:
        """A ``b`` array."""
        given = wire.named(wire.BALANCE, values)
        account = self.other(given["login"])
        return wire.balance(given, account, None if account else self.currency)

    def trade(self, values: Sequence[Any]) -> Iterator[Event]:
        """An ``o`` array."""
        return self._trade(wire.named(wire.TRADE, values))

    def _trade(self, given: wire.Members) -> Iterator[Event]:
        return self.trades.read(given, self.symbol(given["symbol"]), self.other(given["login"]))

    def notice(self, values: Sequence[Any]) -> Notification:
        """An ``n`` array. Its ``user_id`` is not said to be a login, so it stays in the data."""
        return wire.notice(values)

    def alert(self, values: Sequence[Any]) -> Alert:
        """An ``a`` array."""
        given = wire.named(wire.ALERT, values)
        return wire.alert(given, self.symbol(given["symbol"]), self.other(given["login"]))

    def profile(self, answer: Answer) -> Iterator[Event]:
        """The answer of GET /account/me."""
        yield wire.balance(loads(answer.text), None, self.currency)

    def listed(self, page: Page, answer: Answer, fetch: Callable[[Page, Request], Fetch]) -> Iterator[Event | Signal]:
        """One page of GET /trades leads to the next. Behind the last one all are told, and are all that is open."""
        if page.is_first:
            self.rows.clear()
        body = table(loads(answer.text))
        self.rows.setdefault(page.kind, []).extend(body["rows"])
        if (after := page.after(body)) is not None:
            yield fetch(after, after.request())
            return
        for kind in (CLOSED_TRADES, PENDING_TRADES, OPEN_TRADES):
            for row in self.rows.pop(kind, ()):
                yield from self._trade(row)
        yield from (Complete("order"), Complete("position"))
