"""Commands as requests of Alpaca's REST API, and the lists it has. https://docs.alpaca.markets/reference"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import partial
from typing import Any

from relay.adapter import Answer, Calendar, CommandReply, Complete, Fetch, Orders, Poll, Signal, Symbols, Unknown, loads
from relay.adapter.reading import each, instruments, members, reply, segment, text
from relay.model import commands
from relay.model.enums import ErrorCode, OrderType, TimeInForce, TrailingType
from relay.model.events import Event
from relay.model.text import from_nanos, to_ns
from relay_alpaca import reading
from relay_alpaca.reading import Given, Kept, Symbol

COMMANDS: tuple[type[commands.Command], ...] = (
    commands.PlaceOrder, commands.CancelOrder, commands.AmendOrder, commands.ClosePosition, commands.OrderHistory,
    commands.TradeHistory, commands.ListAccounts, commands.ListPositions, commands.ListOrders, commands.GetQuote,
    commands.Call,
)  # fmt: skip
ORDERS = Orders(
    times_in_force=tuple(reading.TIMES.values()),
    members=(
        "client_order_id",
        "stop_loss",
        "take_profit",
        "notional",
        "trailing_type",
        "extended_hours",
        "position_intent",
    ),
    amends=("quantity", "limit_price", "stop_price", "trailing_distance", "time_in_force"),
    extra=("order_class", "stop_loss_limit_price"),
)
#: The canonical code of a refusal, by words of its sentence.
REFUSALS = {
    "insufficient buying power": ErrorCode.INSUFFICIENT_MARGIN,
    "insufficient qty": ErrorCode.INVALID_QUANTITY,
    "insufficient balance": ErrorCode.INSUFFICIENT_MARGIN,
    'asset "': ErrorCode.UNKNOWN_SYMBOL,
    "could not find asset": ErrorCode.UNKNOWN_SYMBOL,
    "is not active": ErrorCode.NOT_TRADABLE,
    "position does not exist": ErrorCode.UNKNOWN_POSITION,
    "not cancelable": ErrorCode.ORDER_NOT_OPEN,
    "cannot replace order": ErrorCode.ORDER_NOT_OPEN,
    "unable to replace": ErrorCode.ORDER_NOT_OPEN,
    "is already in": ErrorCode.ORDER_NOT_OPEN,
    "sub-penny": ErrorCode.INVALID_PRICE,
}
#: Functions for `Call`: method, path and the arguments that the path does not name, which are the query.
FUNCTIONS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "get_order": ("GET", "/v2/orders/{order_id}", ("nested",)),
    "get_order_by_client_order_id": ("GET", "/v2/orders:by_client_order_id", ("client_order_id",)),
    "get_asset": ("GET", "/v2/assets/{symbol}", ()),
    "get_clock": ("GET", "/v2/clock", ()),
    "get_calendar": ("GET", "/v2/calendar", ("start", "end")),
    "get_portfolio_history": ("GET", "/v2/account/portfolio/history", ("period", "timeframe", "extended_hours")),
    "cancel_all_orders": ("DELETE", "/v2/orders", ()),
    "close_all_positions": ("DELETE", "/v2/positions", ("cancel_orders",)),
}
#: Elements of a page at most.
ORDERS_A_PAGE, FILLS_A_PAGE = 500, 100
#: Seconds between two requests: of money and positions, which are not streamed; of assets with a tick; of other lists.
OFTEN, HOURLY, DAILY = 15, 3600, 6 * 3600
#: The lists of assets, each of one class, and when they are read again: only crypto says on which terms it is traded.
ASSETS = {"us_equity": DAILY, "crypto": HOURLY}
#: Days of the calendar that are asked for.
DAYS = 400


# --- lists -----------------------------------------------------------------------------------------------------------


def lists(feed: str) -> Iterator[Poll]:
    """Request the symbols and the days of the market."""
    for of, every in ASSETS.items():
        query = {"status": "active", "asset_class": of}
        yield Poll(f"assets {of}", Fetch(tag=(of, feed), url="/v2/assets", query=query, within=30), every=every)
    yield Poll("calendar", Fetch(tag=("calendar", None), url="/v2/calendar"), every=DAILY)


def polls(kept: Kept) -> Iterator[Poll]:
    """Request money and positions, now and again and again."""
    for what, path in (("account", "/v2/account"), ("positions", "/v2/positions")):
        yield Poll(what, Fetch(tag=(what, None), url=path), every=OFTEN)


def open_or_missed(since: str | None, kept: Kept) -> Iterator[Fetch | Poll]:
    """Request what is open and, when the session was down, the orders that may have ended and the fills since.

    Orders are listed by when they were submitted: of those that ended, all are asked for that are not older than the oldest
    one that was open, or than a day before the absence.
    """
    yield from polls(kept)
    yield _orders("open", None, None)
    if since is not None:
        day_before = from_nanos(to_ns(since) - 24 * 3600 * 10**9)
        oldest = min((at for at in kept.get("open", {}).values() if at), key=to_ns, default=since)
        yield _orders("closed", since, min(day_before, from_nanos(to_ns(oldest) - 1), key=to_ns))
        yield _activities(since, None)


def _orders(status: str, since: str | None, after: str | None) -> Fetch:
    query = {"status": status, "limit": str(ORDERS_A_PAGE), "direction": "asc", "nested": "false"}
    return Fetch(
        tag=(status, since, after), url="/v2/orders", query=query | ({} if after is None else {"after": after})
    )


def _activities(since: str, token: str | None) -> Fetch:
    query = {"after": since, "direction": "asc", "page_size": str(FILLS_A_PAGE)}
    if token is not None:
        query["page_token"] = token
    return Fetch(tag=("fills", since), url="/v2/account/activities/FILL", query=query)


def listed(what: str, since: Any, answer: Answer, symbol: Symbol, kept: Kept) -> Iterator[Event | Signal]:
    """Yield what a page of a list has, and the request of the next one, or that it was the last."""
    given = loads(answer.text)
    if what == "account":
        yield reading.money(members(given))
        return
    rows = [members(row) for row in given]
    match what:
        case "positions":
            yield from each(rows, lambda row: reading.position(row, symbol, kept))
            yield Complete("position")
        case "us_equity" | "crypto":
            yield _symbols(what, rows, kept, is_all=since != "test")
            yield from instruments(rows, reading.instrument)
        case "calendar":
            yield _calendar(rows)
        case "fills":
            yield from each(rows, lambda row: reading.activity(row, symbol, kept))
            if len(rows) == FILLS_A_PAGE:
                yield _activities(since, text(rows[-1], "id"))
        case "open" | "closed":
            yield from each(rows, lambda row: reading.orders(row, symbol, kept))
            if len(rows) < ORDERS_A_PAGE:
                if what == "open":
                    yield Complete("order")
            elif to_ns(rows[0]["submitted_at"]) == to_ns(rows[-1]["submitted_at"]):
                yield Unknown(rows[-1], "more orders were submitted at one moment than a page has")
            else:  # those of the same moment again: the next page begins behind the moment that is named
                yield _orders(what, since, from_nanos(to_ns(rows[-1]["submitted_at"]) - 1))


def _symbols(of: str, rows: list[Given], kept: Kept, *, is_all: bool) -> Symbols:
    listed = kept.setdefault("assets", {})
    listed[of] = [text(row, "symbol") for row in rows]
    natives = [native for each in listed.values() for native in each]
    kept["pairs"] = {native.replace("/", ""): native for native in listed.get("crypto", ())}
    return Symbols([(native, native) for native in natives], complete=is_all and len(listed) == len(ASSETS))


def _calendar(rows: list[Given]) -> Calendar:
    """Return the days from the first one listed on: those that are not listed are no trading days."""
    listed = {row["date"]: f"{_clock(row['session_open'])}-{_clock(row['session_close'])}" for row in rows[-DAYS:]}
    first_day, last_day = (date.fromisoformat(day) for day in (min(listed), max(listed)))
    days = (first_day + timedelta(days=number) for number in range((last_day - first_day).days + 1))
    return Calendar({day.isoformat(): listed.get(day.isoformat(), "") for day in days if day.weekday() < 5})


def _clock(digits: str) -> str:
    return f"{digits[:2]}:{digits[-2:]}"


# --- commands --------------------------------------------------------------------------------------------------------


def request(command: commands.Command, written: Symbol, feed: str) -> Fetch:
    """Return the request that carries out ``command``. Raises ValueError for what Alpaca has no member or function for."""
    symbol: str | None = getattr(command, "symbol", None)
    native = None if symbol is None else written(symbol)
    ask = partial(Fetch, tag=("call", command.id, command.name), of="call")
    match command:
        case commands.PlaceOrder():
            return ask(method="POST", url="/v2/orders", json=_order(command, native or ""))
        case commands.CancelOrder(order_id=id):
            return ask(method="DELETE", url=f"/v2/orders/{segment(id)}")
        case commands.AmendOrder(order_id=id):
            names = {
                "qty": "quantity",
                "limit_price": "limit_price",
                "stop_price": "stop_price",
                "trail": "trailing_distance",
            }
            body = {name: value for name, member in names.items() if (value := getattr(command, member)) is not None}
            if command.time_in_force is not None:
                body["time_in_force"] = command.time_in_force.lower()
            return ask(method="PATCH", url=f"/v2/orders/{segment(id)}", json=body)
        case commands.ClosePosition(position_id=id, quantity=quantity):
            query = {} if quantity is None else {"qty": quantity}
            return ask(method="DELETE", url=f"/v2/positions/{segment(id)}", query=query)
        case commands.ListAccounts():
            return ask(url="/v2/account")
        case commands.ListPositions():
            return ask(url="/v2/positions")
        case commands.ListOrders():
            return ask(url="/v2/orders", query={"status": "open", "limit": str(ORDERS_A_PAGE)})
        case commands.OrderHistory():
            return ask(
                url="/v2/orders", query={"status": "closed", "limit": str(ORDERS_A_PAGE), **_period(command, native)}
            )
        case commands.TradeHistory() if native is None:
            return ask(url="/v2/account/activities/FILL", query=_period(command, None))
        case commands.GetQuote() if "/" in (native or ""):
            return ask(url="/v1beta3/crypto/us/latest/quotes", query={"symbols": native or ""}, socket="crypto")
        case commands.GetQuote():
            return ask(url=f"/v2/stocks/{segment(native or '')}/quotes/latest", query={"feed": feed}, socket="stocks")
        case commands.Call(function=function, arguments=arguments):
            return ask(**_called(function, {name: str(value) for name, value in arguments.items()}))
    raise ValueError(f"{command.name}: Alpaca has no such list by symbol")


def _order(order: commands.PlaceOrder, native: str) -> Given:
    is_percent = order.trailing_type is TrailingType.PERCENT
    intent = order.position_intent and f"{order.side}_to_{order.position_intent}".lower()
    default = TimeInForce.GTC if "/" in native else TimeInForce.DAY
    exits = sum(price is not None for price in (order.stop_loss, order.take_profit))
    extra = dict(order.extra)
    stop = {"stop_price": order.stop_loss, "limit_price": extra.pop("stop_loss_limit_price", None)}
    body = {
        "symbol": native, "qty": order.quantity, "notional": order.notional, "side": order.side.lower(),
        "type": order.order_type.lower(), "time_in_force": (order.time_in_force or default).lower(),
        "limit_price": order.limit_price, "stop_price": order.stop_price,
        "trail_percent" if is_percent else "trail_price": order.trailing_distance, "client_order_id": order.client_order_id,
        "extended_hours": order.extended_hours, "position_intent": intent, "order_class": (None, "oto", "bracket")[exits],
        "take_profit": order.take_profit and {"limit_price": order.take_profit},
        "stop_loss": order.stop_loss and {name: price for name, price in stop.items() if price is not None}, **extra,
    }  # fmt: skip
    if order.order_type is OrderType.TRAILING_STOP and (order.limit_price or order.stop_price):
        raise ValueError("limit_price, stop_price: a trailing stop has neither here")
    return {name: value for name, value in body.items() if value is not None}


def _period(command: commands.OrderHistory | commands.TradeHistory, native: str | None) -> dict[str, str]:
    given = {"after": command.since, "until": command.until, "symbols": native}
    return {name: value for name, value in given.items() if value is not None}


def _called(function: str, arguments: dict[str, str]) -> Given:
    if function not in FUNCTIONS:
        raise ValueError(f"function: Alpaca has no {function} here; there are {', '.join(FUNCTIONS)}")
    method, path, others = FUNCTIONS[function]
    for name, value in arguments.items():
        if f"{{{name}}}" not in path and name not in others:
            raise ValueError(f"arguments: {function} has no {name}")
        path = path.replace(f"{{{name}}}", segment(value))
    if "{" in path:
        raise ValueError(f"arguments: {function} needs {path.partition('{')[2].partition('}')[0]}")
    return {"method": method, "url": path, "query": {name: arguments[name] for name in others if name in arguments}}


def called(id: str, name: str, answer: Answer, symbol: Symbol, kept: Kept) -> CommandReply:
    """Return the reply to a command. Raises ValueError where a success does not say what was done."""
    given = reply(id, answer)
    if given.error is not None:
        return given
    result, scratch = given.result, {"fills": kept.get("fills", {}), "pairs": kept.get("pairs", {})}
    match name:
        case "place_order" | "amend_order" | "close_position":
            return CommandReply(id, {"order_id": text(members(result), "id"), **result})
        case "list_accounts":
            read: Any = reading.money
        case "list_positions":
            read = lambda row: reading.position(row, symbol, scratch)  # noqa: E731
        case "list_orders" | "order_history":
            read = lambda row: reading.orders(row, symbol, scratch)  # noqa: E731
        case "trade_history":
            read = lambda row: reading.activity(row, symbol, scratch)  # noqa: E731
        case "get_quote":
            return CommandReply(id, result, events=tuple(each([result], lambda row: _latest(members(row), symbol))))
        case _:
            return given
    rows = result if isinstance(result, list) else [result]
    return CommandReply(id, result, events=tuple(each(rows, lambda row: read(members(row)))))


def _latest(given: Given, symbol: Symbol) -> Event:
    quotes = given.get("quotes") or {given.get("symbol"): given.get("quote")}
    ((native, quote),) = quotes.items()
    return reading.MARKET["q"]({"S": native, **members(quote)}, {"symbol": symbol(native), "native_symbol": native})
