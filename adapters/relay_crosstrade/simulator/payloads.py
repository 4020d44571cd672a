"""Write the messages of the simulated CrossTrade and the bodies of its functions, every number with its exact digits.

marketData, positions, orders, executions, quotes and the snapshot are as CrossTrade's documentation has them
(https://docs.crosstrade.io). Not documented are the element of a pnlUpdate, the answer of ListAccounts (here: the snapshot's
accounts), how the time of a quote is written, and what an order has behind ``limitPriceChanged`` and an execution behind
``quantity``, where the pages are cut: here NinjaTrader's own names, spelled like the others.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec
from attrs import frozen

from relay.model.enums import OrderStatus, OrderType, Side
from relay.model.text import from_nanos
from relay.testing.account import Filled, HeldPosition, PlacedOrder, TradingAccount, money_text
from relay.testing.market import Market, Tradable, Units

Payload = dict[str, Any]

STATES = {
    OrderStatus.OPEN: "Working", OrderStatus.PARTIALLY_FILLED: "PartFilled", OrderStatus.FILLED: "Filled",
    OrderStatus.CANCELLED: "Cancelled", OrderStatus.REJECTED: "Rejected",
}  # fmt: skip
TYPES = {
    OrderType.MARKET: "Market", OrderType.LIMIT: "Limit", OrderType.STOP: "StopMarket", OrderType.STOP_LIMIT: "StopLimit",
}  # fmt: skip


@frozen
class Contract:
    """A future: what is listed, what a point of it is worth, and where it trades."""

    instrument: Tradable
    point_value: int
    description: str
    exchange: str

    @property
    def symbol(self) -> str:
        return self.instrument.symbol


class FuturesAccount(TradingAccount):
    """An account whose profit counts points of contracts."""

    def __init__(self, market: Market, id: str, point_values: dict[str, int]) -> None:
        super().__init__(market, id)
        self._point_values = point_values

    def _worth(self, symbol: str, notional: Fraction | int) -> Fraction:
        return super()._worth(symbol, notional) * self._point_values[symbol]


def exact(text: str) -> msgspec.Raw:
    """Return a JSON number of just these digits."""
    return msgspec.Raw(text.encode())


def amount(value: Fraction) -> msgspec.Raw:
    return exact(money_text(value))


def quote(market: Market, symbol: str) -> Payload:
    """Return an element of a marketData message; before the first trade it has neither ``last`` nor ``volume``."""
    moved, price = market.quote(symbol), market.instrument(symbol).price_text
    numbers: Payload = {"instrument": symbol, "bid": exact(price(moved.bid)), "ask": exact(price(moved.ask))}
    if moved.volume:
        numbers |= {"last": exact(price(moved.last)), "volume": moved.volume}
    return numbers


def full_quote(market: Market, contract: Contract) -> Payload:
    """Return the answer of GetQuote."""
    symbol, instrument = contract.symbol, contract.instrument
    moved, bars, price = market.quote(symbol), market.bars(symbol, "1d"), instrument.price_text
    day = bars[-1] if bars else None
    names = ("open", "high", "low", "close")
    return {
        "instrument": symbol,
        "description": contract.description,
        "type": "Future",
        "bid": exact(price(moved.bid)),
        "ask": exact(price(moved.ask)),
        "last": exact(price(moved.last)),
        **{name: None if day is None else exact(price(getattr(day, name))) for name in names},
        "volume": moved.volume,
        "tickSize": exact(price(instrument.tick)),
        "pointValue": exact(f"{contract.point_value}.0"),
        "exchange": contract.exchange,
        "expiration": "2026-09-18",
        "tradingHours": "CME US Index Futures ETH",
        "quoteTime": from_nanos(moved.time_ns),
        "success": True,
    }


def position(market: Market, account: FuturesAccount, symbol: str, held: HeldPosition | None) -> Payload:
    """Return a position, flat where there is none."""
    price = market.instrument(symbol).price_text
    entry = Fraction(0) if held is None else held.entry / 10 ** market.instrument(symbol).decimals
    return {
        "type": "NinjaTrader.Cbi.Position",
        "account": account.id,
        "instrument": symbol,
        "instrumentType": "Future",
        "marketPosition": "Flat" if held is None else held.side.title(),
        "quantity": 0 if held is None else held.quantity,
        "averagePrice": exact(money_text(entry, 9)),
        "marketPrice": exact(price(market.quote(symbol).last)),
        "unrealizedProfitLoss": amount(Fraction(0) if held is None else account.unrealized(held)),
        "tag": None,
    }


def positions(market: Market, accounts: Iterable[FuturesAccount], *, flat: bool) -> list[Payload]:
    """Return all positions; with ``flat`` also those that were closed."""
    found = []
    for account in accounts:
        found += [position(market, account, symbol, held) for symbol, held in account.positions.items()]
        gone = {held.symbol for held in account.closed} - set(account.positions)
        found += [position(market, account, symbol, None) for symbol in sorted(gone) if flat]
    return found


def order(market: Market, account: str, id: str, placed: PlacedOrder) -> Payload:
    """Return the answer of GetOrder, which is also an element of a list of orders."""
    ticket, instrument = placed.ticket, market.instrument(placed.ticket.symbol)

    def price(units: Units | None) -> msgspec.Raw:
        return exact("0.0" if units is None else instrument.price_text(units))

    return {
        "account": account,
        "orderId": id,
        "instrument": ticket.symbol,
        "instrumentType": "Future",
        "orderType": TYPES[ticket.order_type],
        "orderState": STATES[placed.status],
        "quantity": ticket.quantity,
        "averageFillPrice": exact(money_text((placed.average or Fraction(0)) / 10**instrument.decimals, 9)),
        "filled": placed.filled,
        "fromEntrySignal": None,
        "gtd": "2099-12-01T00:00:00.0000000",
        "hasOverfill": False,
        "isBacktestOrder": False,
        "limitPrice": price(ticket.limit),
        "limitPriceChanged": price(None),
        "oco": "",
        "orderAction": ticket.side.title(),
        "stopPrice": price(ticket.stop),
        "timeInForce": ticket.time_in_force.title(),
        **times(placed.updated_ns),
    }


def execution(market: Market, account: str, id: str, order_id: str, filled: Filled) -> Payload:
    """Return an element of a list of executions."""
    return {
        "id": id,
        "type": "NinjaTrader.Cbi.Execution",
        **times(filled.time_ns),
        "name": "Entry",
        "orderId": order_id,
        "account": account,
        "serverName": "SIMULATOR",
        "instrument": filled.symbol,
        "instrumentType": "Future",
        "marketPosition": "Long" if filled.side is Side.BUY else "Short",
        "positionStrategy": 0,
        "price": exact(market.instrument(filled.symbol).price_text(filled.price)),
        "quantity": filled.quantity,
        "commission": exact("0.0"),
    }


def times(time_ns: int) -> Payload:
    """Return the time on NinjaTrader's computer, which has no offset (here seven hours behind), and Unix milliseconds."""
    local = from_nanos(time_ns - 7 * 3_600_000_000_000)
    return {"time": local.removesuffix("Z")[:-2], "epoch": time_ns // 1_000_000}


def profit(account: FuturesAccount) -> Payload:
    """Return an element of a pnlUpdate."""
    money = account.money()
    return {
        "name": account.id,
        "realizedPnl": amount(money.realized),
        "unrealizedPnl": amount(money.unrealized),
        "netLiquidation": amount(money.equity),
    }


def account(number: int, account: FuturesAccount) -> Payload:
    """Return an account as the snapshot has it."""
    money = account.money()
    return {
        "id": number,
        "name": account.id,
        "displayName": account.id,
        "provider": "Simulator",
        "denomination": "UsDollar",
        "status": "Enabled",
        "isAccountFlat": not account.positions,
        "connectionStatus": "Connected",
        "item": {
            "cashValue": amount(money.balance),
            "netLiquidation": amount(money.equity),
            "realizedProfitLoss": amount(money.realized),
            "unrealizedProfitLoss": amount(money.unrealized),
        },
    }


def snapshot(market: Market, accounts: Iterable[FuturesAccount], now_ns: int) -> Payload:
    """Return the body of ``GET /v1/api/accounts/snapshot``."""
    return {
        "type": "snapshot",
        "timestamp": from_nanos(now_ns),
        "epoch": now_ns // 1_000_000,
        "accounts": [
            {"account": account(number, each), "positions": positions(market, [each], flat=False)}
            for number, each in enumerate(accounts, start=15)
        ],
    }
