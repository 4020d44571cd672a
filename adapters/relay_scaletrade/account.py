"""What ScaleTrade says of a trading account, pushed or listed: money, trades, notifications, price alerts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import Factory, define

from relay.adapter import Answer, loads
from relay.model.events import Alert, Error, Event, Notification
from relay_scaletrade import requests, wire
from relay_scaletrade.trades import ADDED, UPDATED, Trades


@define(eq=False)
class AccountReader:
    """The account messages of one connection.

    Attributes:
        symbol: the canonical text of the provider's symbol.
        login, currency: of the session's own account, from the sign-in.
        trades: what was said of each ticket.
        rest: what was said of an account's credit and margin alarm.
    """

    symbol: Callable[[str], str]
    login: int | None = None
    currency: str | None = None
    trades: Trades = Factory(Trades)
    rest: wire.Rest = Factory(wire.Rest)

    def signed_in(self, profile: wire.Members) -> None:
        """Take over what the sign-in's answer says of the account."""
        currency = profile.get("currency")
        self.login = wire.whole(profile["login"])
        self.currency = currency if isinstance(currency, str) and currency else None

    def other(self, login: Any) -> str | None:
        """The account a message names, where it is not the session's own."""
        return None if wire.whole(login) == self.login else str(login)

    def balance(self, values: Sequence[Any]) -> Iterator[Event]:
        """A ``b`` array: the account, and the whole message where its credit, its alarm or an unusual code changed."""
        given = wire.named(wire.BALANCE, values)
        account = self.other(given["login"])
        yield wire.balance(given, account, None if account else self.currency)
        code = 0 if given["code"] in (ADDED, UPDATED) else given["code"]
        if self.rest.changed(account, {"credit": given["credit"], "level_type": given["level_type"], "code": code}):
            yield wire.notification("balance", wire.named_code(wire.LEVEL_TYPES, given["level_type"]), given, account)

    def trade(self, values: Sequence[Any]) -> Iterator[Event]:
        """An ``o`` array."""
        given = wire.named(wire.TRADE, values)
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

    def listed(self, answer: Answer) -> Iterator[Event]:
        """The answer of GET /trades."""
        table = requests.table(loads(answer.text))
        for row in table["rows"]:
            yield from self.trades.read(row, self.symbol(row["symbol"]), self.other(row["login"]), told=False)
        if missing := requests.left_out(table):
            yield Error(code="reconcile_incomplete", message=f"{missing} trades were not listed")
