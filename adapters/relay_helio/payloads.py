"""The payloads of the simulated Helio's messages, every number with its exact digits.

quoteEvent is as the page has it. The page names the others without their members: those of depth, executions and metrics are
this simulator's own choice, those of the portfolio are of the REST API's portfolio in camelCase.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from relay.model.enums import OrderStatus
from relay.model.text import from_millis
from relay.testing.account import Filled, HeldPosition, PlacedOrder, TradingAccount, money_text
from relay.testing.market import BookMoved, Market, QuoteMoved

Payload = dict[str, Any]

#: Order status as executionEvent writes it; an open order, amended or not, is ACCEPTED.
STATUS = {status: "ACCEPTED" if status is OrderStatus.OPEN else str(status) for status in OrderStatus}


_camel = re.compile(r"[A-Z]")


def exact(text: str) -> msgspec.Raw:
    """Return a JSON number of just these digits."""
    return msgspec.Raw(text.encode())


def ts(time_ns: int) -> str:
    return from_millis(time_ns // 1_000_000)


def quote(market: Market, moved: QuoteMoved) -> Payload:
    price = market.instrument(moved.symbol).price_text
    return {
        "symbol": moved.symbol,
        "bid": exact(price(moved.bid)),
        "ask": exact(price(moved.ask)),
        "ts": ts(moved.time_ns),
    }


def depth(market: Market, book: BookMoved) -> Payload:
    instrument = market.instrument(book.symbol)

    def side(levels: Iterable[tuple[int, int]]) -> list[Payload]:
        return [
            {"price": exact(instrument.price_text(price)), "size": exact(instrument.size_text(size))}
            for price, size in levels
        ]

    return {"symbol": book.symbol, "bids": side(book.bids), "asks": side(book.asks), "ts": ts(book.time_ns)}


def execution(market: Market, account: TradingAccount, order: PlacedOrder, fill: Filled | None) -> Payload:
    ticket, instrument = order.ticket, market.instrument(order.ticket.symbol)
    price, size = instrument.price_text, instrument.size_text
    payload = {
        "accountId": account.id,
        "orderId": order.id,
        "clientOrderId": ticket.client_order_id,
        "symbol": ticket.symbol,
        "side": ticket.side,
        "type": ticket.order_type,
        "timeInForce": ticket.time_in_force,
        "status": STATUS[order.status],
        "quantity": exact(size(ticket.quantity)),
        "filledQuantity": exact(size(order.filled)),
        "remainingQuantity": exact(size(order.remaining)),
        "averagePrice": None if order.average is None else exact(price(round(order.average))),
        "limitPrice": None if ticket.limit is None else exact(price(ticket.limit)),
        "stopPrice": None if ticket.stop is None else exact(price(ticket.stop)),
        "positionId": ticket.closes or order.position_id,
        "reason": order.reason,
        "createdAt": ts(order.created_ns),
        "ts": ts(order.updated_ns),
    }
    if fill is not None:
        payload["executionId"] = fill.id
        payload["lastQuantity"] = exact(size(fill.quantity))
        payload["price"] = exact(price(fill.price))
    return {name: value for name, value in payload.items() if value is not None}


def position(market: Market, account: TradingAccount, held: HeldPosition) -> Payload:
    instrument, is_open = market.instrument(held.symbol), held.quantity > 0
    return {
        "id": held.id,
        "accountId": account.id,
        "symbolName": held.symbol,
        "side": "TRADE_SIDE_BUY" if held.side == "LONG" else "TRADE_SIDE_SELL",
        "status": "POSITION_STATUS_OPEN" if is_open else "POSITION_STATUS_CLOSED",
        "units": exact(instrument.size_text(held.quantity)),
        "qty": exact(instrument.size_text(held.quantity)),
        "openPrice": exact(instrument.price_text(round(held.entry))),
        "profit": exact(money_text(account.unrealized(held))),
        "realizedPnl": exact(money_text(held.realized)),
        "createdAt": ts(held.opened_ns),
        "updatedAt": ts(held.updated_ns),
    }


def portfolio(market: Market, account: TradingAccount, closed: Iterable[HeldPosition]) -> Payload:
    money = account.money()
    return {
        "accountId": account.id,
        "currency": account.currency,
        "balance": exact(money_text(money.balance)),
        "unrealizedPnl": exact(money_text(money.unrealized)),
        "usedMargin": exact(money_text(money.margin)),
        "positions": [position(market, account, held) for held in (*closed, *account.positions.values())],
    }


def rest_order(market: Market, account: TradingAccount, order: PlacedOrder) -> Payload:
    """Return an order as the REST pages have it."""
    ticket, instrument = order.ticket, market.instrument(order.ticket.symbol)
    price, size = instrument.price_text, instrument.size_text
    payload = {
        "id": order.id,
        "account_id": account.id,
        "symbol_id": ticket.symbol,
        "symbol_name": ticket.symbol,
        "position_id": ticket.closes or order.position_id,
        "client_order_id": ticket.client_order_id,
        "created_at": ts(order.created_ns),
        "updated_at": ts(order.updated_ns),
        "qty_original": exact(size(ticket.quantity)),
        "qty_filled": exact(size(order.filled)),
        "qty_remaining": exact(size(order.remaining)),
        "limit_price": exact(price(ticket.limit or 0)),
        "stop_price": exact(price(ticket.stop or 0)),
        "fill_price": exact(price(round(order.average or 0))),
        "side": f"TRADE_SIDE_{ticket.side}",
        "type": f"ORDER_TYPE_{ticket.order_type}",
        "status": "ORDER_STATUS_WORKING" if order.status is OrderStatus.OPEN else f"ORDER_STATUS_{order.status}",
        "time_in_force": f"TIF_{ticket.time_in_force}",
        "comment": "",
    }
    return {name: value for name, value in payload.items() if value is not None}


def rest_position(market: Market, account: TradingAccount, held: HeldPosition) -> Payload:
    """Return a position as the REST pages have it."""
    quote = market.quote(held.symbol)
    at = quote.bid if held.side == "LONG" else quote.ask
    said = {
        _camel.sub(lambda m: f"_{m[0].lower()}", name): value for name, value in position(market, account, held).items()
    }
    closed = exact(market.instrument(held.symbol).price_text(at))
    return {**said, "symbol_id": held.symbol, "close_price": closed, "is_closing": False, "swap": exact("0.00")}


def rest_portfolio(market: Market, account: TradingAccount) -> Payload:
    """Return the portfolio as the REST page has it."""
    money = account.money()
    return {
        "account_id": account.id,
        "currency": account.currency,
        "balance": exact(money_text(money.balance)),
        "unrealized_pnl": exact(money_text(money.unrealized)),
        "used_margin": exact(money_text(money.margin)),
        "in_margin_call": False,
        "in_stop_out": False,
        "status": "TRADE_STATUS_FULL",
        "positions": [rest_position(market, account, held) for held in account.positions.values()],
        "orders": [rest_order(market, account, order) for order in account.open_orders()],
    }


def metrics(market: Market, account: TradingAccount) -> Payload:
    money = account.money()
    level = {"marginLevel": exact(money_text(money.equity / money.margin * 100))} if money.margin else {}
    return {
        "accountId": account.id,
        "balance": exact(money_text(money.balance)),
        "equity": exact(money_text(money.equity)),
        "margin": exact(money_text(money.margin)),
        "freeMargin": exact(money_text(money.free)),
        **level,
        "pnl": exact(money_text(money.unrealized)),
        "ts": ts(market.now_ns),
    }


def history(market: Market, account: TradingAccount, asked: str) -> Payload:
    """Return the answer to orderHistory, positionHistory or dealHistory."""
    match asked:
        case "orderHistory":
            return {"orders": [execution(market, account, order, None) for order in account.orders.values()]}
        case "positionHistory":
            return {"positions": [position(market, account, held) for held in account.closed]}
    return {"deals": [execution(market, account, account.orders[fill.order_id], fill) for fill in account.fills]}
