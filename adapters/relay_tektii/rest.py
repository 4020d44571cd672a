"""Commands as requests of the gateway's REST API, base ``/v1``; decimals are text, words of enums upper case.

https://docs.tektii.com/docs/trading-api
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from msgspec import Raw

from relay.adapter import Fetch, Orders
from relay.adapter.reading import segment
from relay.model import commands
from relay.model.channels import Topic
from relay.model.enums import TimeInForce

#: The commands there are.
COMMANDS: tuple[type[commands.Command], ...] = (
    commands.PlaceOrder, commands.CancelOrder, commands.AmendOrder, commands.ClosePosition, commands.AmendPosition,
    commands.OrderHistory, commands.TradeHistory, commands.ListAccounts, commands.ListPositions, commands.ListOrders,
    commands.GetQuote, commands.Call,
)  # fmt: skip
AMENDED = ("quantity", "limit_price", "stop_price", "stop_loss", "take_profit", "trailing_distance")
#: Members of an order that only this provider has, for `PlaceOrder.extra`.
EXTRA = ("oco_group_id", "position_id", "hidden", "display_quantity", "leverage", "margin_mode")
ORDERS = Orders(
    times_in_force=(TimeInForce.GTC, TimeInForce.DAY, TimeInForce.IOC, TimeInForce.FOK),
    members=("client_order_id", "stop_loss", "take_profit", "reduce_only", "post_only", "trailing_type"),
    amends=AMENDED,
    extra=EXTRA,
)
PLACED = (
    "side", "order_type", "quantity", "time_in_force", "limit_price", "stop_price", "stop_loss", "take_profit",
    "trailing_distance", "trailing_type", "client_order_id", "reduce_only", "post_only",
)  # fmt: skip
#: Functions for `Call`: method, path, and the arguments that the path does not name, as the SDK has them: the body of those
#: in `_BODIES`, the query of the others. A misspelt one would be ignored, and all be cancelled in the place of one symbol.
FUNCTIONS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "get_order": ("GET", "/v1/orders/{order_id}", ()),
    "get_position": ("GET", "/v1/positions/{position_id}", ()),
    "get_bars": ("GET", "/v1/bars/{symbol}", ("timeframe", "start", "end", "limit")),
    "get_capabilities": ("GET", "/v1/capabilities", ()),
    "get_status": ("GET", "/v1/status", ()),
    "get_health": ("GET", "/health", ()),
    "get_circuit_breakers": ("GET", "/v1/circuit-breakers", ()),
    "reset_circuit_breakers": ("POST", "/v1/circuit-breakers/reset", ()),
    "cancel_all_orders": ("DELETE", "/v1/orders", ("symbol",)),
    "close_all_positions": ("DELETE", "/v1/positions", ("symbol",)),
    "modify_order": ("PATCH", "/v1/orders/{order_id}", AMENDED),
    "close_position": ("DELETE", "/v1/positions/{position_id}",
                       ("quantity", "order_type", "limit_price", "cancel_associated_orders")),
}  # fmt: skip
_BODIES = ("modify_order", "close_position")


def current(topic: Topic, native: str) -> Fetch:
    """Request the present quote, or the newest bar, of a topic."""
    tag = ("current", topic)
    if topic.kind == "candle":
        query = {"timeframe": topic.timeframe or "", "limit": "1"}
        return Fetch(tag=tag, url=f"/v1/bars/{segment(native)}", query=query, of="interest")
    return Fetch(tag=tag, url=f"/v1/quotes/{segment(native)}", of="interest")


def open_or_missed(since: str | None) -> Iterable[Fetch]:
    """Request the account, what is open on it and, when the session was down, what ended or was filled meanwhile."""
    yield Fetch(tag="account", url="/v1/account")
    yield Fetch(tag="positions", url="/v1/positions")
    yield Fetch(tag="orders", url="/v1/orders")
    if since is not None:  # the history's own ``since`` is about when an order was created, so it is no use here
        yield Fetch(tag="ended", url="/v1/orders/history")
        yield Fetch(tag="trades", url="/v1/trades", query={"since": since})


def request(command: commands.Command, kind: str, written: Callable[[str], str]) -> Fetch:
    """Return the request that carries out ``command``.

    Args:
        kind: the name by which the answer is read.
        written: returns the gateway's text of a symbol.

    Raises:
        ValueError: something is asked for that the gateway has no member or function for.
    """
    symbol: str | None = getattr(command, "symbol", None)
    native = None if symbol is None else written(symbol)
    ask = partial(Fetch, tag=("call", command.id, kind), of="call")
    match command:
        case commands.PlaceOrder():
            return ask(method="POST", url="/v1/orders", json=_order(command, native))
        case commands.CancelOrder(order_id=order_id):
            return ask(method="DELETE", url=f"/v1/orders/{segment(order_id)}")
        case commands.AmendOrder(order_id=order_id):
            return ask(method="PATCH", url=f"/v1/orders/{segment(order_id)}", json=_given(command, AMENDED))
        case commands.ClosePosition(position_id=position_id):  # a part of it by a body of the DELETE, as the SDK does
            body = _given(command, ("quantity",)) or None
            return ask(method="DELETE", url=f"/v1/positions/{segment(position_id)}", json=body)
        case commands.AmendPosition(position_id=position_id):
            body = _given(command, ("stop_loss", "take_profit"))
            return ask(method="PATCH", url=f"/v1/positions/{segment(position_id)}", json=body)
        case commands.OrderHistory():
            return ask(url="/v1/orders/history", query=_period(command, native))
        case commands.TradeHistory():
            return ask(url="/v1/trades", query=_period(command, native))
        case commands.ListAccounts():
            return ask(url="/v1/account")
        case commands.ListPositions():
            return ask(url="/v1/positions")
        case commands.ListOrders():
            return ask(url="/v1/orders")
        case commands.GetQuote():
            return ask(url=f"/v1/quotes/{segment(native or '')}")
        case commands.Call(function=function, arguments=arguments):
            return ask(**_called(function, dict(arguments)))
    raise ValueError(f"{command.name}: the gateway has no such request")


def _order(command: commands.PlaceOrder, native: str | None) -> dict[str, Any]:
    return {"symbol": native, **_given(command, PLACED), **_body(command.extra)}


def _given(command: commands.Command, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(command, name)) is not None}


def _period(command: commands.OrderHistory | commands.TradeHistory, native: str | None) -> dict[str, str]:
    return _given(command, ("since", "until")) | ({} if native is None else {"symbol": native})


def _called(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the request that calls a function. Raises ValueError for a misspelt or missing argument."""
    if function not in FUNCTIONS:
        raise ValueError(f"function: the gateway has no {function}; there are {', '.join(FUNCTIONS)}")
    method, path, others = FUNCTIONS[function]
    for name, value in arguments.items():
        if f"{{{name}}}" not in path and name not in others:
            raise ValueError(f"arguments: {function} has no {name}")
        if isinstance(value, dict | list) or _text(value) in ("", "null", "None"):
            raise ValueError(f"arguments.{name}: expected text, a number, true or false, got {value!r:.64}")
    for name in [name for name in arguments if f"{{{name}}}" in path]:
        path = path.replace(f"{{{name}}}", segment(_text(arguments.pop(name))))
    if "{" in path:
        raise ValueError(f"arguments: {function} needs {path.partition('{')[2].partition('}')[0]}")
    if function in _BODIES:
        return {"method": method, "url": path, "json": _body(arguments) or None}
    return {"method": method, "url": path, "query": {name: _text(value) for name, value in arguments.items()}}


def _body(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members as the gateway wants them: its numbers are text."""
    return {name: value if isinstance(value, bool) else _decimal(value) for name, value in given.items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(_decimal(value))


def _decimal(value: Any) -> Any:
    if isinstance(value, Raw):
        return bytes(value).decode()
    return str(value) if isinstance(value, int) else value
