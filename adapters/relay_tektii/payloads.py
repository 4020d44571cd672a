"""The objects the simulated gateway sends, by https://docs.tektii.com/docs/trading-api/event-types; decimals are text."""

from collections.abc import Iterable
from typing import Any

from relay.model.enums import OrderStatus, PositionSide
from relay.model.text import from_millis
from relay.testing.account import Filled, HeldPosition, PlacedOrder, TradingAccount, money_text
from relay.testing.market import Bar, Market, QuoteMoved, Tradable

Payload = dict[str, Any]

#: Reasons of the account in the gateway's words.
REASONS = {"insufficient margin": "INSUFFICIENT_MARGIN"}


def moment(ns: int) -> str:
    return from_millis(ns // 1_000_000)


def present(payload: Payload) -> Payload:
    """Return the members without those that are absent."""
    return {name: value for name, value in payload.items() if value is not None}


def quote(market: Market, moved: QuoteMoved, platform: str) -> Payload:
    instrument = market.instrument(moved.symbol)
    price, size = instrument.price_text, instrument.size_text
    return {"symbol": moved.symbol, "provider": platform, "bid": price(moved.bid), "bid_size": size(moved.bid_size),
            "ask": price(moved.ask), "ask_size": size(moved.ask_size), "last": price(moved.last),
            "volume": size(moved.volume), "timestamp": moment(moved.time_ns)}  # fmt: skip


def bar(market: Market, moved: Bar, platform: str) -> Payload:
    instrument = market.instrument(moved.symbol)
    price = instrument.price_text
    return {"symbol": moved.symbol, "provider": platform, "timeframe": moved.timeframe,
            "timestamp": moment(moved.start_ns), "open": price(moved.open), "high": price(moved.high),
            "low": price(moved.low), "close": price(moved.close), "volume": instrument.size_text(moved.volume)}  # fmt: skip


def order(market: Market, placed: PlacedOrder) -> Payload:
    ticket, instrument = placed.ticket, market.instrument(placed.ticket.symbol)
    price, size = instrument.price_text, instrument.size_text
    is_rejected = placed.status is OrderStatus.REJECTED
    return present(
        {
            "id": placed.id,
            "client_order_id": ticket.client_order_id,
            "symbol": ticket.symbol,
            "side": ticket.side,
            "order_type": ticket.order_type,
            "quantity": size(ticket.quantity),
            "filled_quantity": size(placed.filled),
            "remaining_quantity": size(placed.remaining),
            "limit_price": None if ticket.limit is None else price(ticket.limit),
            "stop_price": None if ticket.stop is None else price(ticket.stop),
            "stop_loss": None if ticket.stop_loss is None else price(ticket.stop_loss),
            "take_profit": None if ticket.take_profit is None else price(ticket.take_profit),
            "average_fill_price": None if placed.average is None else price(round(placed.average)),
            "status": placed.status,
            "reject_reason": REASONS.get(placed.reason or "", "UNKNOWN") if is_rejected else None,
            "time_in_force": ticket.time_in_force,
            "position_id": ticket.closes or placed.position_id,
            "reduce_only": True if ticket.closes else None,
            "correlation_id": f"corr-{placed.id}",
            "created_at": moment(placed.created_ns),
            "updated_at": moment(placed.updated_ns),
        }
    )


def handle(placed: PlacedOrder) -> Payload:
    """Return the answer to a placed order."""
    about = {"id": placed.id, "status": placed.status, "client_order_id": placed.ticket.client_order_id}
    return present({**about, "correlation_id": f"corr-{placed.id}"})


def position(market: Market, account: TradingAccount, held: HeldPosition) -> Payload:
    instrument, touch = market.instrument(held.symbol), market.quote(held.symbol)
    current = touch.bid if held.side is PositionSide.LONG else touch.ask
    return {"id": held.id, "symbol": held.symbol, "side": held.side, "quantity": instrument.size_text(held.quantity),
            "average_entry_price": instrument.price_text(round(held.entry)),
            "current_price": instrument.price_text(current), "unrealized_pnl": money_text(account.unrealized(held)),
            "realized_pnl": money_text(held.realized), "margin_mode": "CROSS", "leverage": "100",
            "opened_at": moment(held.opened_ns), "updated_at": moment(held.updated_ns)}  # fmt: skip


def money(account: TradingAccount) -> Payload:
    now = account.money()
    return {"balance": money_text(now.balance), "equity": money_text(now.equity), "margin_used": money_text(now.margin),
            "margin_available": money_text(now.free), "unrealized_pnl": money_text(now.unrealized),
            "currency": account.currency}  # fmt: skip


def trade(market: Market, account: TradingAccount, fill: Filled) -> Payload:
    instrument = market.instrument(fill.symbol)
    return {"id": fill.id, "order_id": fill.order_id, "symbol": fill.symbol, "side": fill.side,
            "quantity": instrument.size_text(fill.quantity), "price": instrument.price_text(fill.price),
            "commission": "0.00", "commission_currency": account.currency, "is_maker": False,
            "timestamp": moment(fill.time_ns)}  # fmt: skip


def capabilities(instruments: Iterable[Tradable], requests_per_minute: int | None) -> Payload:
    kinds = {"CRYPTO" if "BTC" in each.symbol else "FOREX" if "/" in each.symbol else "STOCK" for each in instruments}
    return present(
        {
            "features": ["bracket_orders"],
            "max_leverage": "100",
            "position_mode": "NETTING",
            "rate_limits": None if requests_per_minute is None else {"requests_per_minute": requests_per_minute},
            "supported_asset_classes": sorted(kinds),
            "supported_order_types": ["MARKET", "LIMIT", "STOP", "STOP_LIMIT"],
        }
    )
