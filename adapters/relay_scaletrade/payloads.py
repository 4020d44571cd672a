"""The messages of the simulated ScaleTrade: its compact arrays and tables, every number with its exact digits."""

from fractions import Fraction
from typing import Any

import msgspec
from attrs import define

from relay.testing.account import money_text
from relay.testing.market import Market, QuoteMoved, Tradable, Units, plain
from relay_scaletrade.tickets import Ticket, TicketAccount

SECOND = 1_000_000_000
USER_ID = 100_500
#: Columns of GET /trades.
COLUMNS = ("order", "login", "cmd", "state", "symbol", "reason", "volume", "open_time", "close_time", "open_price",
           "close_price", "sl", "tp", "profit", "net_profit", "commission", "storage", "comment", "digits",
           "expiration")  # fmt: skip


def exact(text: str) -> msgspec.Raw:
    """Return a JSON number of just these digits."""
    return msgspec.Raw(text.encode())


def money(amount: Fraction) -> msgspec.Raw:
    return exact(money_text(amount))


def price(instrument: Tradable, units: Units) -> msgspec.Raw:
    return exact(instrument.price_text(units) if units else "0.0")


def quote(market: Market, moved: QuoteMoved, *, millis: bool) -> list[Any]:
    instrument = market.instrument(moved.symbol)
    ctm = moved.time_ns // (1_000_000 if millis else SECOND)
    return ["t", moved.symbol, price(instrument, moved.bid), price(instrument, moved.ask), ctm]


def margin_level(account: TicketAccount) -> Fraction:
    margin = account.margin()
    return account.equity() / margin * 100 if margin else Fraction(0)


def level_type(account: TicketAccount) -> int:
    """Return 0 for OK, 1 for a margin call below 100 %, 2 for a stop out below 50 %."""
    level = margin_level(account)
    return 0 if not level or level >= 100 else 1 if level >= 50 else 2


def balance(account: TicketAccount, *more: Any) -> list[Any]:
    return [
        "b", account.login, money(account.balance), money(account.margin()), money(account.free()),
        money(margin_level(account)), money(account.equity()), exact("0.0"), level_type(account),
        money(account.profit()), 1, *more,
    ]  # fmt: skip


def trade(market: Market, login: int, ticket: Ticket, code: int, *more: Any) -> list[Any]:
    instrument = market.instrument(ticket.symbol)
    return [
        "o", ticket.order, login, ticket.symbol, ticket.cmd, ticket.volume, price(instrument, ticket.open_price),
        price(instrument, ticket.close_price), ticket.open_time, ticket.close_time, price(instrument, ticket.tp),
        price(instrument, ticket.sl), ticket.state, exact("0.0"), money(ticket.commission), money(ticket.profit),
        ticket.comment, code, *more,
    ]  # fmt: skip


def row(market: Market, login: int, ticket: Ticket) -> list[Any]:
    instrument = market.instrument(ticket.symbol)
    return [
        ticket.order, login, ticket.cmd, ticket.state, ticket.symbol, 2, ticket.volume, ticket.open_time, ticket.close_time,
        price(instrument, ticket.open_price), price(instrument, ticket.close_price), price(instrument, ticket.sl),
        price(instrument, ticket.tp), money(ticket.profit), money(ticket.profit + ticket.commission),
        money(ticket.commission), exact("0.0"), ticket.comment, instrument.decimals, ticket.expiration,
    ]  # fmt: skip


def table(market: Market, login: int, tickets: list[Ticket], limit: int, offset: int) -> dict[str, Any]:
    rows = [row(market, login, ticket) for ticket in tickets[offset : offset + limit]]
    return {"structure": COLUMNS, "rows": rows, "count": len(tickets)}


def notice(message: str, description: str, token: str, now: int, ticket: Ticket) -> list[Any]:
    return [
        "n",
        message,
        description,
        token,
        1,
        10,
        USER_ID,
        now,
        {"order": ticket.order, "symbol": ticket.symbol},
        201,
    ]


@define
class PriceAlert:
    """An alert that triggers once, when the bid reaches ``target`` from below."""

    symbol: str
    target: Units
    id: int = 101
    triggered: bool = False


def alert(market: Market, login: int, set_: PriceAlert, at: Units, now: int) -> list[Any]:
    instrument = market.instrument(set_.symbol)
    return [
        "a", set_.id, login, set_.symbol, "Price Alert", f"{set_.symbol} breakout", 0, 0, price(instrument, set_.target),
        0, 0, 0, 1, 0, 0, price(instrument, at), now, 1,
    ]  # fmt: skip


def profile(account: TicketAccount) -> dict[str, Any]:
    """Return the answer of GET /account/me, beyond the profile that the sign-in gives."""
    return {
        "balance": money(account.balance), "storage": exact("0.0"), "commission": exact("0.0"), "credit": exact("0.0"),
        "margin": money(account.margin()), "margin_free": money(account.free()),
        "margin_level": money(margin_level(account)), "equity": money(account.equity()),
        "prevbalance": exact(plain(10_000_000, 2)),
    }  # fmt: skip
