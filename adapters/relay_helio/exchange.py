"""The simulated Helio's account: what trading messages do to it, and what its REST API says of it.

A trading message has the body of the REST endpoint of its name; either spelling of its members is read. REST answers are
spelled as their pages have it: snake_case with prefixed words (https://docs.helio.trade/trader/api/trading/get-portfolio,
/trader/api/history/order-history).
"""

from collections.abc import Callable, Mapping
from typing import Any

from relay.model.enums import OrderType, Side, TimeInForce
from relay.testing.account import Change, HeldPosition, SimulatedRefusal, Ticket, TradingAccount
from relay.testing.market import Market, Tradable, units
from relay_helio import payloads
from relay_helio.reports import word

Asked = Mapping[str, Any]
Done = tuple[list[Change], dict[str, Any] | None]


class SimulatedExchange:
    """Carries out what is asked of one account.

    Args:
        account: also an attribute.
        now: Unix nanoseconds.
    """

    def __init__(self, market: Market, account: TradingAccount, now: Callable[[], int]) -> None:
        self._market, self.account, self._now = market, account, now
        self._handlers: Mapping[str, Callable[[Asked], Done]] = {
            "createOrder": self._create_order,
            "cancelOrder": lambda asked: (self.account.cancel(asked["orderId"], self._now()), None),
            "amendOrder": self._amend_order,
            "closePosition": self._close_position,
            "amendPosition": self._amend_position,
            "orderHistory": lambda asked: ([], payloads.history(self._market, self.account, "orderHistory")),
            "positionHistory": lambda asked: ([], payloads.history(self._market, self.account, "positionHistory")),
            "dealHistory": lambda asked: ([], payloads.history(self._market, self.account, "dealHistory")),
        }

    def __contains__(self, kind: str) -> bool:
        return kind in self._handlers

    def take(self, kind: str, asked: Asked) -> Done:
        """Return what a message changed, and its answer. Raises SimulatedRefusal, or as a wrong type does."""
        if asked.get("accountId") != self.account.id:
            raise SimulatedRefusal("UNKNOWN_ACCOUNT", f"no such account: {asked.get('accountId')!r:.64}")
        return self._handlers[kind](asked)

    def listed(self, symbol: Any) -> str:
        """Return a symbol of the exchange. Raises SimulatedRefusal."""
        if not isinstance(symbol, str) or symbol not in self._market:
            raise SimulatedRefusal("UNKNOWN_SYMBOL", f"no such symbol: {symbol!r:.64}")
        return symbol

    def rest(self, path: str) -> dict[str, Any] | None:
        """Return the answer of a GET below the account; None where there is no such path."""
        market, account = self._market, self.account
        match path:
            case "portfolio":
                return payloads.rest_portfolio(market, account)
            case "history/orders":
                return {"orders": [payloads.rest_order(market, account, order) for order in account.orders.values()]}
            case "history/positions":
                return {"positions": [payloads.rest_position(market, account, held) for held in account.closed]}
        return None

    def _create_order(self, asked: Asked) -> Done:
        symbol = self.listed(asked.get("symbol", asked.get("symbolId")))
        instrument = self._market.instrument(symbol)
        limit, stop, loss, profit = (_price(instrument, asked.get(f"{name}Price")) for name in
                                     ("limit", "stop", "stopLoss", "takeProfit"))  # fmt: skip
        ticket = Ticket(
            symbol=symbol,
            side=Side(word(asked["side"])),
            quantity=units(str(asked.get("quantity", asked.get("volume"))), instrument.size_decimals),
            order_type=OrderType(word(asked["type"])),
            time_in_force=TimeInForce(word(asked.get("timeInForce", "GTC"))),
            limit=limit,
            stop=stop,
            stop_loss=loss,
            take_profit=profit,
            client_order_id=asked.get("clientOrderId"),
        )
        return self.account.place(ticket, self._now()), None

    def _amend_order(self, asked: Asked) -> Done:
        order = self.account.orders.get(asked["orderId"])
        if order is None:
            raise SimulatedRefusal("UNKNOWN_ORDER", f"no open order {asked['orderId']!r:.64}")
        instrument = self._market.instrument(order.ticket.symbol)
        size = asked.get("quantity", asked.get("volume"))
        changes = self.account.amend(
            order.id,
            self._now(),
            quantity=None if size is None else units(str(size), instrument.size_decimals),
            limit=_price(instrument, asked.get("limitPrice")),
            stop=_price(instrument, asked.get("stopPrice")),
        )
        return changes, None

    def _close_position(self, asked: Asked) -> Done:
        position, size = self._held(asked), asked.get("qty")
        instrument = self._market.instrument(position.symbol)
        quantity = None if size is None else units(str(size), instrument.size_decimals)
        return self.account.close(position.id, self._now(), quantity), None

    def _amend_position(self, asked: Asked) -> Done:
        position = self._held(asked)
        instrument = self._market.instrument(position.symbol)
        loss, profit = (_price(instrument, _first_price(asked.get(name))) for name in ("slLevels", "tpLevels"))
        changes = self.account.protect(position.id, self._now(), stop_loss=loss, take_profit=profit)
        return changes, {"message": "position was amended", "operation_id": position.id}

    def _held(self, asked: Asked) -> HeldPosition:
        for position in self.account.positions.values():
            if position.id == asked["positionId"]:
                return position
        raise SimulatedRefusal("UNKNOWN_POSITION", f"no open position {asked['positionId']!r:.64}")


def _price(instrument: Tradable, value: Any) -> int | None:
    return None if value is None else units(str(value), instrument.decimals)


def _first_price(levels: Any) -> Any:
    """Return the price of the first level of ``[{"price": ..., "qty": ...}]``; None where there is none."""
    return levels[0]["price"] if levels else None
