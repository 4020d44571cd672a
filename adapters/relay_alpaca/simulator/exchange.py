"""The simulated brokerage: its orders, positions and lists, over HTTP. What Alpaca's pages leave open is chosen here:

- an order is new at once, and a market order fills at the touch; orders for an auction fill as if it were now;
- a trailing stop rests where it was placed;
- the legs of a bracket are held until their parent has filled, and the one that fills cancels the other;
- an amended order is the same order under a new id.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

import msgspec
from attrs import define, field

from relay.adapter import loads
from relay.model.enums import OrderStatus, OrderType, PositionSide, Side, TimeInForce
from relay.model.text import from_nanos, to_ns
from relay.testing.account import (
    Change,
    Filled,
    OrderMoved,
    PlacedOrder,
    SimulatedRefusal,
    Ticket,
    TradingAccount,
    money_text,
)
from relay.testing.market import Market, units
from relay.testing.simulator import HttpRequest

#: The words of an order's status that are other ones.
WORDS = {OrderStatus.OPEN: "new", OrderStatus.CANCELLED: "canceled"}
REFUSALS = {"UNKNOWN_ORDER": (404, 40410000, "order not found"), "UNKNOWN_SYMBOL": (422, 42210000, "asset not found"),
            "UNKNOWN_POSITION": (404, 40410000, "position does not exist")}  # fmt: skip
ENDED = (OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED)


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message, **more}


def named(what: str) -> str:
    """Return the UUID of something."""
    return str(uuid5(NAMESPACE_URL, f"alpaca/{what}"))


@define(eq=False)
class BrokerageOrder:
    """An order as the brokerage knows it, besides what its account does."""

    id: str
    asked: dict[str, Any]
    client_order_id: str
    replaces: str | None = None
    parent: "BrokerageOrder | None" = None
    legs: list["BrokerageOrder"] = field(factory=list)
    order_id: str | None = None
    """The account's; None while it is held."""


class Brokerage:
    """One account.

    Args:
        tell: takes every message of ``trade_updates``.
        now: Unix nanoseconds.
    """

    def __init__(
        self, market: Market, tell: Callable[[dict[str, Any]], object], now: Callable[[], int], balance: int = 100_000
    ) -> None:
        self.market, self._tell, self._now = market, tell, now
        self.account = TradingAccount(market, "simulated", balance=balance, leverage=4)
        self.known: dict[str, BrokerageOrder] = {}
        #: The present one of each order of the account, and those that were replaced, as they were then.
        self._current: dict[str, BrokerageOrder] = {}
        self._replaced: dict[str, dict[str, Any]] = {}
        self._count = 0

    # --- over HTTP ---------------------------------------------------------------------------------------------------

    def answer(self, request: HttpRequest) -> tuple[int, Any]:
        """Return the status and the body. Raises ApiError."""
        parts = urlsplit(request.target)
        query, path = dict(parse_qsl(parts.query)), [unquote(each) for each in parts.path.strip("/").split("/")]
        try:
            return self._answer(request, path, query)
        except SimulatedRefusal as refused:
            raise ApiError(*REFUSALS.get(refused.code, (422, 42210000, str(refused)))) from None
        except (KeyError, ValueError, TypeError) as error:
            raise ApiError(422, 42210000, f"invalid request: {error}") from None

    def _answer(self, request: HttpRequest, path: list[str], query: dict[str, str]) -> tuple[int, Any]:
        match request.method, path:
            case "GET", ["v2", "account"]:
                return 200, self._money()
            case "GET", ["v2", "account", "activities", "FILL"]:
                return 200, self._activities(query)
            case "GET", ["v2", "positions"]:
                return 200, [self._position(held.symbol) for held in self.account.positions.values()]
            case "GET", ["v2", "positions", symbol]:
                return 200, self._position(self._held(symbol))
            case "DELETE", ["v2", "positions"]:
                found = [self._close(held.symbol, {}) for held in list(self.account.positions.values())]
                return 207, [{"symbol": each["symbol"], "status": 200, "body": each} for each in found]
            case "DELETE", ["v2", "positions", symbol]:
                return 200, self._close(self._held(symbol), query)
            case "GET", ["v2", "orders"]:
                return 200, self._orders(query)
            case "POST", ["v2", "orders"]:
                return 200, self.place(loads(request.body))
            case "DELETE", ["v2", "orders"]:
                open_ones = [known for known in self.known.values() if self._is_open(known)]
                for known in open_ones:
                    if known.order_id is not None and self._is_open(known):  # a leg may have gone with another one
                        self._cancel(known)
                return 207, [{"id": known.id, "status": 200} for known in open_ones]
            case "GET", ["v2", "orders:by_client_order_id"]:
                client = query["client_order_id"]
                return 200, self.payload(next(each for each in self.known.values() if each.client_order_id == client))
            case "GET", ["v2", "orders", id]:
                return 200, self.payload(self._order(id), nested=query.get("nested") == "true")
            case "PATCH", ["v2", "orders", id]:
                return 200, self._replace(self._order(id), loads(request.body))
            case "DELETE", ["v2", "orders", id]:
                self._cancel(self._order(id))
                return 204, None
            case "GET", ["v2", "assets"]:
                of = query.get("asset_class", "us_equity")
                assets = [self._asset(each.symbol) for each in self.market.instruments]
                return 200, [asset for asset in assets if asset["class"] == of]
            case "GET", ["v2", "assets", symbol] if symbol in self.market:
                return 200, self._asset(symbol)
            case "GET", ["v2", "clock"]:
                at = from_nanos(self._now())
                return 200, {"timestamp": at, "is_open": True, "next_open": at, "next_close": at}
            case "GET", ["v2", "calendar"]:
                return 200, self._calendar()
            case "GET", ["v2", "stocks", symbol, "quotes", "latest"] if symbol in self.market:
                return 200, {"symbol": symbol, "quote": self.quote(symbol)}
            case "GET", ["v1beta3", "crypto", "us", "latest", "quotes"]:
                symbols = [each for each in query["symbols"].split(",") if each in self.market]
                return 200, {"quotes": {symbol: self.quote(symbol) for symbol in symbols}}
        raise ApiError(404, 40410000, "endpoint not found.")

    # --- orders ------------------------------------------------------------------------------------------------------

    def place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Place an order and return it. Raises ApiError or SimulatedRefusal."""
        self._count += 1
        client = asked.get("client_order_id") or named(f"client/{self._count}")
        if any(each.client_order_id == client for each in self.known.values()):
            raise ApiError(422, 40010001, "client_order_id must be unique")
        known = BrokerageOrder(named(f"order/{self._count}"), {**asked, "symbol": asked["symbol"]}, client)
        if asked.get("order_class") in ("bracket", "oto", "oco"):
            known.legs = [self._leg(known, n, leg) for n, leg in enumerate(_exits(asked))]
        changes = self.account.place(self._ticket(asked), self._now())
        first = changes[0]
        assert isinstance(first, OrderMoved)
        if first.order.status is OrderStatus.REJECTED:
            raise ApiError(
                403, 40310000, "insufficient buying power", buying_power=money_text(self.account.money().free)
            )
        self._enter(known, first.order.id)
        placed = self.payload(known, nested=True) | {
            "status": "pending_new",
            "filled_qty": "0",
            "filled_avg_price": None,
        }
        self._say("pending_new", placed)
        self.changed(changes)
        return placed

    def _enter(self, known: BrokerageOrder, order_id: str) -> None:
        known.order_id = order_id
        self.known[known.id] = self._current[order_id] = known

    def _leg(self, parent: BrokerageOrder, number: int, asked: dict[str, Any]) -> BrokerageOrder:
        leg = BrokerageOrder(
            named(f"leg/{parent.id}/{number}"), asked, named(f"client-leg/{parent.id}/{number}"), parent=parent
        )
        self.known[leg.id] = leg
        return leg

    def _ticket(self, asked: dict[str, Any]) -> Ticket:
        symbol, type = asked["symbol"], OrderType(asked["type"].upper())
        if symbol not in self.market:
            raise ApiError(422, 42210000, f'asset "{symbol}" not found')
        instrument, quote = self.market.instrument(symbol), self.market.quote(symbol)
        side = Side(asked["side"].upper())
        if (notional := asked.get("notional")) is not None:
            price = Fraction(quote.ask if side is Side.BUY else quote.bid, 10**instrument.decimals)
            quantity = int(Fraction(str(notional)) / price * 10**instrument.size_decimals)
        else:
            quantity = units(str(asked["qty"]), instrument.size_decimals)
        stop = asked.get("stop_price")
        if type is OrderType.TRAILING_STOP:
            at = Fraction(quote.bid, 10**instrument.decimals)
            percent, distance = asked.get("trail_percent"), asked.get("trail_price")
            away = at * Fraction(str(percent)) / 100 if percent is not None else Fraction(str(distance))
            level = round((at - away if side is Side.SELL else at + away) * 10**instrument.decimals)
            type, stop_units = OrderType.STOP, level
        else:
            stop_units = None if stop is None else units(str(stop), instrument.decimals)
        limit = asked.get("limit_price")
        time = TimeInForce(asked.get("time_in_force", "day").upper())
        return Ticket(symbol=symbol, side=side, quantity=quantity, order_type=type, time_in_force=time, stop=stop_units,
                      limit=None if limit is None else units(str(limit), instrument.decimals))  # fmt: skip

    def _order(self, id: str) -> BrokerageOrder:
        if id not in self.known:
            raise ApiError(404, 40410000, f"order not found for {id}")
        return self.known[id]

    def _is_open(self, known: BrokerageOrder) -> bool:
        if known.id in self._replaced or known.order_id is None:
            return known.order_id is None and known.id not in self._replaced
        return self.account.orders[known.order_id].status not in ENDED

    def _cancel(self, known: BrokerageOrder) -> None:
        if not self._is_open(known) or known.order_id is None:
            raise ApiError(422, 42210000, "order is not cancelable")
        self.changed(self.account.cancel(known.order_id, self._now()))

    def _replace(self, known: BrokerageOrder, asked: dict[str, Any]) -> dict[str, Any]:
        if not self._is_open(known) or known.order_id is None:
            raise ApiError(422, 42210000, "cannot replace order in its present state")
        self._count += 1
        merged = {**known.asked, **asked, **({"trail_price": asked["trail"]} if "trail" in asked else {})}
        client = asked.get("client_order_id") or named(f"client/{self._count}")
        new = BrokerageOrder(
            named(f"order/{self._count}"), merged, client, replaces=known.id, parent=known.parent, legs=known.legs
        )
        instrument = self.market.instrument(known.asked["symbol"])
        given = {
            "quantity": units(str(asked["qty"]), instrument.size_decimals) if "qty" in asked else None,
            "limit": units(str(asked["limit_price"]), instrument.decimals) if "limit_price" in asked else None,
            "stop": units(str(asked["stop_price"]), instrument.decimals) if "stop_price" in asked else None,
        }
        old = self.payload(known) | {
            "status": "replaced",
            "replaced_by": new.id,
            "replaced_at": from_nanos(self._now()),
        }
        changes = self.account.amend(known.order_id, self._now(), **given)
        self._replaced[known.id] = old
        self._enter(new, known.order_id)
        answer = self.payload(new) | {"status": "accepted"}
        self._say("replaced", old | {"updated_at": from_nanos(self._now())})
        self._say("new", self.payload(new))
        self.changed(changes[1:])
        return answer

    def _close(self, symbol: str, query: dict[str, str]) -> dict[str, Any]:
        held, instrument = self.account.positions[symbol], self.market.instrument(symbol)
        quantity = query.get("qty") or instrument.size_text(held.quantity)
        side = "sell" if held.side is PositionSide.LONG else "buy"
        return self.place({"symbol": symbol, "qty": quantity, "side": side, "type": "market", "time_in_force": "day"})

    def _held(self, symbol: str) -> str:
        for each in self.account.positions:
            if symbol in (each, each.replace("/", ""), named(f"asset/{each}")):
                return each
        raise ApiError(404, 40410000, "position does not exist")

    def changed(self, changes: list[Change]) -> None:
        """Tell what became of orders, and let the legs of brackets follow their parents."""
        for change, following in zip(changes, [*changes[1:], None], strict=False):
            match change:
                case Filled() as fill if isinstance(following, OrderMoved):
                    known = self._current[fill.order_id]
                    done = following.order.status is OrderStatus.FILLED
                    instrument = self.market.instrument(fill.symbol)
                    self._say(
                        "fill" if done else "partial_fill", self.payload(known, following.order),
                        execution_id=named(fill.id), price=instrument.price_text(fill.price),
                        qty=instrument.size_text(fill.quantity), position_qty=self._signed(fill.symbol),
                    )  # fmt: skip
                case OrderMoved(order=order) if order.status in (OrderStatus.OPEN, OrderStatus.CANCELLED):
                    known = self._current[order.id]
                    self._say(WORDS[order.status], self.payload(known, order))
        for change in changes:
            if isinstance(change, OrderMoved) and change.order.status in ENDED:
                self._ended(self._current[change.order.id], change.order.status)

    def _ended(self, known: BrokerageOrder, status: OrderStatus) -> None:
        siblings = [] if known.parent is None else [leg for leg in known.parent.legs if leg.id != known.id]
        for leg in siblings:
            if leg.order_id is not None and self.account.orders[leg.order_id].status not in ENDED:
                self.changed(self.account.cancel(leg.order_id, self._now()))
        for leg in known.legs if status is OrderStatus.FILLED else ():
            if leg.order_id is None:
                changes = self.account.place(self._ticket(leg.asked), self._now())
                first = changes[0]
                assert isinstance(first, OrderMoved)
                self._enter(leg, first.order.id)
                self.changed(changes)

    def _say(self, event: str, order: dict[str, Any], **more: Any) -> None:
        self._tell({"event": event, "timestamp": from_nanos(self._now()), **more, "order": order})

    # --- lists -------------------------------------------------------------------------------------------------------

    def payload(
        self, known: BrokerageOrder, order: PlacedOrder | None = None, *, nested: bool = False
    ) -> dict[str, Any]:
        """Return an order as Alpaca writes it."""
        if known.id in self._replaced:
            return self._replaced[known.id]
        if order is None and known.order_id is not None:
            order = self.account.orders[known.order_id]
        asked, instrument = known.asked, self.market.instrument(known.asked["symbol"])
        at = from_nanos(self._now() if order is None else order.created_ns)
        average = (
            None if order is None or order.average is None else money_text(order.average / 10**instrument.decimals, 6)
        )
        status = "held" if order is None else WORDS.get(order.status, order.status.lower())
        legs = [self.payload(leg) for leg in known.legs] if known.legs and nested else None
        return {
            "id": known.id, "client_order_id": known.client_order_id, "created_at": at, "submitted_at": at,
            "updated_at": at if order is None else from_nanos(order.updated_ns), "filled_at": None, "expired_at": None,
            "canceled_at": None, "failed_at": None, "replaced_at": None, "replaced_by": None, "replaces": known.replaces,
            "asset_id": named(f"asset/{asked['symbol']}"), "symbol": asked["symbol"],
            "asset_class": "crypto" if "/" in asked["symbol"] else "us_equity",
            "notional": _text(asked.get("notional")), "qty": None if "notional" in asked else _text(asked.get("qty")),
            "filled_qty": "0" if order is None else instrument.size_text(order.filled), "filled_avg_price": average,
            "order_class": asked.get("order_class", ""), "order_type": asked["type"], "type": asked["type"],
            "side": asked["side"], "time_in_force": asked.get("time_in_force", "day"),
            "limit_price": _text(asked.get("limit_price")), "stop_price": _text(asked.get("stop_price")), "status": status,
            "extended_hours": asked.get("extended_hours", False), "legs": legs,
            "trail_percent": _text(asked.get("trail_percent")), "trail_price": _text(asked.get("trail_price")),
            "hwm": None, "position_intent": asked.get("position_intent") or f"{asked['side']}_to_open",
        }  # fmt: skip

    def _orders(self, query: dict[str, str]) -> list[dict[str, Any]]:
        status, limit = query.get("status", "open"), int(query.get("limit", "50"))
        after, until = (to_ns(query[name]) if name in query else None for name in ("after", "until"))
        symbols = query["symbols"].split(",") if "symbols" in query else None
        found: list[tuple[int, int, dict[str, Any]]] = []
        for known in self.known.values():
            payload = self.payload(known)
            at = to_ns(payload["submitted_at"])
            is_wanted = status == "all" or (status == "open") == self._is_open(known)
            in_time = (after is None or at > after) and (until is None or at < until)
            if is_wanted and in_time and (symbols is None or payload["symbol"] in symbols):
                found.append((at, len(found), payload))
        found.sort(reverse=query.get("direction", "desc") == "desc")
        return [payload for _, _, payload in found[:limit]]

    def _activities(self, query: dict[str, str]) -> list[dict[str, Any]]:
        after = to_ns(query["after"]) if "after" in query else -1
        rows, filled = [], dict.fromkeys((fill.order_id for fill in self.account.fills), 0)
        for fill in self.account.fills:
            filled[fill.order_id] += fill.quantity
            instrument, order = self.market.instrument(fill.symbol), self.account.orders[fill.order_id]
            left = order.ticket.quantity - filled[fill.order_id]
            stamp = datetime.fromtimestamp(fill.time_ns // 10**9, UTC).strftime("%Y%m%d%H%M%S") + "000"
            row = {
                "id": f"{stamp}::{named(fill.id)}", "activity_type": "FILL", "transaction_time": from_nanos(fill.time_ns),
                "type": "partial_fill" if left else "fill", "price": instrument.price_text(fill.price),
                "qty": instrument.size_text(fill.quantity), "side": fill.side.lower(), "symbol": fill.symbol,
                "leaves_qty": instrument.size_text(left), "cum_qty": instrument.size_text(filled[fill.order_id]),
                "order_id": self._current[fill.order_id].id, "order_status": "partially_filled" if left else "filled",
            }  # fmt: skip
            if fill.time_ns > after:
                rows.append(row)
        if query.get("direction", "desc") == "desc":
            rows.reverse()
        ids = [row["id"] for row in rows]
        begin = ids.index(query["page_token"]) + 1 if query.get("page_token") in ids else 0
        return rows[begin : begin + int(query.get("page_size", "100"))]

    def _position(self, symbol: str) -> dict[str, Any]:
        held, instrument, quote = (
            self.account.positions[symbol],
            self.market.instrument(symbol),
            self.market.quote(symbol),
        )
        entry = money_text(held.entry / 10**instrument.decimals, 6)
        size, price = instrument.size_text(held.quantity), instrument.price_text(quote.bid)
        profit = money_text(self.account.unrealized(held))
        return {
            "asset_id": named(f"asset/{symbol}"), "symbol": symbol.replace("/", ""), "exchange": "NASDAQ",
            "asset_class": "crypto" if "/" in symbol else "us_equity", "asset_marginable": True, "qty": self._signed(symbol),
            "avg_entry_price": entry, "side": held.side.lower(), "market_value": price, "cost_basis": entry,
            "unrealized_pl": profit, "unrealized_plpc": "0", "unrealized_intraday_pl": profit,
            "unrealized_intraday_plpc": "0", "current_price": price, "lastday_price": price, "change_today": "0",
            "qty_available": size,
        }  # fmt: skip

    def _signed(self, symbol: str) -> str:
        held = self.account.positions.get(symbol)
        if held is None:
            return "0"
        size = self.market.instrument(symbol).size_text(held.quantity)
        return size if held.side is PositionSide.LONG else f"-{size}"

    def _money(self) -> dict[str, Any]:
        money = self.account.money()
        return {
            "id": named("account"), "account_number": "PA0000000001", "status": "ACTIVE", "currency": "USD",
            "cash": money_text(money.balance), "equity": money_text(money.equity), "last_equity": money_text(money.balance),
            "buying_power": money_text(money.free * 4), "initial_margin": money_text(money.margin),
            "maintenance_margin": money_text(money.margin), "portfolio_value": money_text(money.equity), "multiplier": "4",
            "trading_blocked": False, "transfers_blocked": False, "account_blocked": False, "shorting_enabled": True,
            "created_at": "2026-01-02T03:04:05Z",
        }  # fmt: skip

    def _asset(self, symbol: str) -> dict[str, Any]:
        is_crypto, listed = "/" in symbol, self.market.instrument(symbol)
        steps = {"min_order_size": "0.0001", "min_trade_increment": listed.size_text(1),
                 "price_increment": listed.price_text(listed.tick)} if is_crypto else {}  # fmt: skip
        return {"id": named(f"asset/{symbol}"), "class": "crypto" if is_crypto else "us_equity",
                "exchange": "CRYPTO" if is_crypto else "NASDAQ", "symbol": symbol, "name": f"{symbol} simulated",
                "status": "active", "tradable": True, "marginable": not is_crypto, "shortable": not is_crypto,
                "easy_to_borrow": not is_crypto, "fractionable": True, **steps}  # fmt: skip

    def _calendar(self) -> list[dict[str, str]]:
        """Return a year of weekdays; every tenth is a holiday."""
        start = datetime.fromtimestamp(self._now() // 10**9, UTC).date()
        days = [start + timedelta(days=number) for number in range(366)]
        return [{"date": day.isoformat(), "open": "09:30", "close": "16:00", "session_open": "0400", "session_close": "2000"}
                for number, day in enumerate(days) if day.weekday() < 5 and (number + 1) % 10]  # fmt: skip

    def quote(self, symbol: str) -> dict[str, Any]:
        """Return the present quote, as the streams and the data API have it; prices are exact JSON numbers."""
        at, instrument = self.market.quote(symbol), self.market.instrument(symbol)
        sides = {"bp": instrument.price_text(at.bid), "bs": instrument.size_text(at.bid_size),
                 "ap": instrument.price_text(at.ask), "as": instrument.size_text(at.ask_size)}  # fmt: skip
        exchanges = {} if "/" in symbol else {"ax": "V", "bx": "V", "c": ["R"], "z": "C"}
        return {**{name: number(value) for name, value in sides.items()}, **exchanges, "t": from_nanos(self._now())}


def number(text: str) -> msgspec.Raw:
    """Return decimal text as a JSON number of the same digits."""
    return msgspec.Raw(text.encode())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _exits(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the legs of a bracket as orders of their own."""
    side = "sell" if asked["side"] == "buy" else "buy"
    shared = {"symbol": asked["symbol"], "qty": asked.get("qty"), "side": side, "time_in_force": "gtc",
              "order_class": asked["order_class"], "position_intent": f"{side}_to_close"}  # fmt: skip
    legs = []
    if profit := asked.get("take_profit"):
        legs.append({**shared, "type": "limit", "limit_price": str(profit["limit_price"])})
    if loss := asked.get("stop_loss"):
        limit = {"limit_price": str(loss["limit_price"])} if loss.get("limit_price") else {}
        kind = "stop_limit" if limit else "stop"
        legs.append({**shared, "type": kind, "stop_price": str(loss["stop_price"]), **limit})
    return legs
