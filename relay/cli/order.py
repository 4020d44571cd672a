"""``tickrelay order``: commands to a running relay, over its HTTP interface.

The exit code says what is known: 0 accepted, 1 rejected or refused, 3 unknown. After 3 the order may be live: look, or
repeat the same command with the key that was printed, which never places it twice.
"""

import json
import sys
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from attrs import field, frozen
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from relay.adapter import Answer, Fetch
from relay.errors import OperatorError, one_line
from relay.model.command_input import CommandError, free_object, read
from relay.model.enums import OrderType, Side, TimeInForce
from relay.provider.http import HttpClient
from relay.settings import DEMO_API_KEY, DEMO_URL
from relay.trading.pending import ANSWERS

UNKNOWN = 3
#: Failures of a request that happen before anything of it is sent.
_NOT_SENT = ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "InvalidURL", "LocalProtocolError")


@Parameter(name="*")
@frozen(kw_only=True)
class Target:
    """The account that a command is for, the relay, and the form of the answer.

    Attributes:
        provider: The provider's configured name.
        account: The account; may be left out where the provider has one.
        url: The relay.
        api_key: An API key that may trade on the account.
        within: Seconds to wait for the provider's answer, at most 60.
        key: Idempotency key: the same command under it is carried out once. Random when absent.
        dry_run: Show what would be sent, and send nothing.
        raw: Print the answer as JSON.
    """

    provider: str
    account: str | None = None
    url: Annotated[str, Parameter(env_var="TICKRELAY_URL")] = DEMO_URL
    api_key: Annotated[str, Parameter(env_var="TICKRELAY_API_KEY", show_default=False)] = field(
        default=DEMO_API_KEY, repr=False
    )
    within: float = 10.0
    key: str | None = None
    dry_run: Annotated[bool, Parameter(negative=())] = False
    raw: Annotated[bool, Parameter(name="--json", negative=())] = False


async def place(
    *,
    target: Target,
    symbol: str,
    side: Side,
    quantity: str,
    order_type: Annotated[OrderType, Parameter(name="--type")] = OrderType.MARKET,
    limit_price: Annotated[str | None, Parameter(name="--limit")] = None,
    stop_price: Annotated[str | None, Parameter(name="--stop")] = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
    trailing_distance: Annotated[str | None, Parameter(name="--trailing")] = None,
    time_in_force: Annotated[TimeInForce | None, Parameter(name="--tif")] = None,
    good_till: str | None = None,
    client_order_id: str | None = None,
    reduce_only: Annotated[bool | None, Parameter(negative=())] = None,
    post_only: Annotated[bool | None, Parameter(negative=())] = None,
    extra: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
) -> int:
    """Place an order.

    Args:
        symbol: Canonical symbol, EUR/USD.
        side: Which way.
        quantity: How much, in the provider's units.
        order_type: Kind of order.
        limit_price: Price of a limit or stop-limit order.
        stop_price: Price at which a stop or stop-limit order becomes active.
        stop_loss: Price of the stop loss.
        take_profit: Price of the take profit.
        trailing_distance: Distance of a trailing stop.
        time_in_force: How long it stands.
        good_till: RFC 3339 time up to which a GTD order stands.
        client_order_id: Your own id of the order.
        reduce_only: Only reduce a position.
        post_only: Only add to the book.
        extra: NAME=JSON, a member of the provider's own; may be repeated.
    """
    return await send(
        target,
        "place_order",
        symbol=symbol,
        side=side,
        quantity=quantity,
        order_type=order_type,
        limit_price=limit_price,
        stop_price=stop_price,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trailing_distance=trailing_distance,
        time_in_force=time_in_force,
        good_till=good_till,
        client_order_id=client_order_id,
        reduce_only=reduce_only,
        post_only=post_only,
        extra=named(extra, "--extra") or None,
    )


async def cancel(order_id: str, /, *, target: Target, symbol: str | None = None) -> int:
    """Cancel an order.

    Args:
        order_id: The provider's id of the order.
        symbol: Its symbol, for providers that need it.
    """
    return await send(target, "cancel_order", order_id=order_id, symbol=symbol)


async def amend(
    order_id: str,
    /,
    *,
    target: Target,
    symbol: str | None = None,
    quantity: str | None = None,
    limit_price: Annotated[str | None, Parameter(name="--limit")] = None,
    stop_price: Annotated[str | None, Parameter(name="--stop")] = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
    time_in_force: Annotated[TimeInForce | None, Parameter(name="--tif")] = None,
    good_till: str | None = None,
) -> int:
    """Change an order; what is not named stays as it is.

    Args:
        order_id: The provider's id of the order.
        symbol: Its symbol, for providers that need it.
        quantity: The new quantity.
        limit_price: The new limit price.
        stop_price: The new stop price.
        stop_loss: The new stop loss.
        take_profit: The new take profit.
        time_in_force: How long it stands.
        good_till: RFC 3339 time up to which a GTD order stands.
    """
    return await send(
        target,
        "amend_order",
        order_id=order_id,
        symbol=symbol,
        quantity=quantity,
        limit_price=limit_price,
        stop_price=stop_price,
        stop_loss=stop_loss,
        take_profit=take_profit,
        time_in_force=time_in_force,
        good_till=good_till,
    )


async def close(position_id: str, /, *, target: Target, symbol: str | None = None, quantity: str | None = None) -> int:
    """Close a position.

    Args:
        position_id: The provider's id of the position.
        symbol: Its symbol, for providers that need it.
        quantity: How much of it; all where absent.
    """
    return await send(target, "close_position", position_id=position_id, symbol=symbol, quantity=quantity)


async def protect(
    position_id: str,
    /,
    *,
    target: Target,
    symbol: str | None = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
) -> int:
    """Change the stop loss or take profit of a position.

    Args:
        position_id: The provider's id of the position.
        symbol: Its symbol, for providers that need it.
        stop_loss: The new stop loss.
        take_profit: The new take profit.
    """
    return await send(
        target,
        "amend_position",
        position_id=position_id,
        symbol=symbol,
        stop_loss=stop_loss,
        take_profit=take_profit,
    )


async def positions(*, target: Target) -> int:
    """List the open positions."""
    return await send(target, "list_positions")


async def orders(*, target: Target) -> int:
    """List the open orders."""
    return await send(target, "list_orders")


async def accounts(*, target: Target) -> int:
    """List the accounts the provider's session reaches."""
    return await send(target, "list_accounts")


async def history(
    *,
    target: Target,
    of: str = "order",
    since: str | None = None,
    until: str | None = None,
    symbol: str | None = None,
) -> int:
    """List past orders, positions or trades.

    Args:
        of: order, position or trade.
        since: RFC 3339 time.
        until: RFC 3339 time.
        symbol: Only of this symbol.
    """
    if (kind := of.removesuffix("s")) not in ("order", "position", "trade"):
        raise OperatorError(f"--of {of}: must be order, position or trade")
    return await send(target, f"{kind}_history", since=since, until=until, symbol=symbol)


async def call(
    function: str,
    /,
    *,
    target: Target,
    argument: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
) -> int:
    """Call a function of the provider's own.

    Args:
        function: The provider's name of it.
        argument: NAME=JSON, or NAME=text where it is no JSON; may be repeated.
    """
    return await send(target, "call", function=function, arguments=named(argument, "--argument") or None)


def order_app() -> App:
    """The group of commands."""
    app = App(
        name="order", help="Trade through a running relay. Exit codes: 0 accepted, 1 rejected or refused, 3 unknown."
    )
    for command in (place, cancel, amend, close, protect, positions, orders, accounts, history, call):
        app.command(command)
    return app


def named(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """The members in ``NAME=JSON``; numbers with a point keep their digits."""
    members: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise OperatorError(f"{option} {one_line(pair)}: write NAME=VALUE")
        try:
            members[name] = free_object(option, read(f'{{"value": {text}}}'))["value"]
        except CommandError:
            members[name] = text
    return members


# --- asking ----------------------------------------------------------------------------------------------------------


async def send(target: Target, command: str, /, **members: object) -> int:
    """Send a command, print what came of it, and return the exit code."""
    key = target.key or str(uuid.uuid4())
    wire = {
        "command": command,
        "provider": target.provider,
        "account": target.account,
        "within": f"{target.within:f}",
        "dry_run": target.dry_run or None,
        **members,
    }
    fetch = Fetch(
        tag=command,
        method="POST",
        url=f"{target.url.rstrip('/')}/api/v2/commands",
        headers={"Authorization": f"Bearer {target.api_key}", "Idempotency-Key": key},
        json={name: value for name, value in wire.items() if value is not None},
        within=target.within + 10,
    )
    async with HttpClient() as http:
        answer = await http.fetch(fetch, fetch.url)
    return told(answer, target, key)


def told(answer: Answer, target: Target, key: str) -> int:
    """Print an answer; return the exit code."""
    body = _object(answer.text)
    if target.raw or body.get("dry_run") is True:
        print(msgspec.json.format(answer.text, indent=2) if body else answer.text)
    elif body.get("type") == "reply":
        show(body)
    if any(name.lower() == "idempotent-replayed" for name in answer.headers):
        print(
            "tickrelay: replayed: the reply of an earlier command of this name; nothing was sent",
            file=sys.stderr,
        )
    if answer.status == 200 and body.get("dry_run") is True:
        return 0
    if body.get("type") == "reply":
        outcome = body.get("outcome")
        return 0 if outcome == "accepted" else 1 if outcome == "rejected" else _unknown(key)
    if answer.status == 0 and answer.text.startswith(_NOT_SENT):
        raise OperatorError(f"cannot reach {target.url}: {one_line(answer.text)}")
    if 300 <= answer.status < 500 and answer.status != 408:
        error = body.get("error")
        message = error.get("message", answer.text) if isinstance(error, dict) else answer.text[:500]
        raise OperatorError(f"refused with status {answer.status}: {one_line(str(message))}")
    said = one_line(answer.text[:200]) if answer.status == 0 else f"status {answer.status}"
    print(f"tickrelay: no answer that says anything of the command: {said}", file=sys.stderr)
    return _unknown(key)


def _unknown(key: str) -> int:
    print(
        f"tickrelay: the outcome is unknown, the command may have been carried out; --key {key} repeats it safely",
        file=sys.stderr,
    )
    return UNKNOWN


def _object(text: str) -> dict[str, Any]:
    try:
        value = read(text)
    except CommandError:
        return {}
    return value


# --- a reply as people read it: nothing is cut off, whatever the width of the terminal ---

#: Width where the output is no terminal.
_WIDTH = 250
_ENDLESS = 100_000


def show(body: dict[str, Any]) -> None:
    """Print a reply for people."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    head = Table("outcome", "command", "provider", "account", box=None, pad_edge=False)
    head.add_row(*(str(body.get(name, "")) for name in ("outcome", "command_id", "provider", "account")))
    console.print(head)
    found = body.get("error") if body.get("error") is not None else body.get("result")
    if (
        isinstance(found, dict) and found.keys() & ANSWERS.keys()
    ):  # said already; `--json` has the provider's own words too
        found = {name: value for name, value in found.items() if name != "data"}
    for table in () if found is None else _tables(found, console):
        console.print(table)


def _tables(found: Any, console: Console) -> Iterator[Table]:
    """A list of objects row by row, also where it is the one list there is in an object; any other object by its members."""
    if isinstance(found, dict):
        lists = [name for name, value in found.items() if _is_list(value)]
        one = lists[0] if len(lists) == 1 else None
        if rest := {name: value for name, value in found.items() if name != one}:
            yield _members(rest)
        if one is not None:
            yield from _records(found[one], console)
    elif _is_list(found):
        yield from _records(found, console)
    else:
        yield _members({"": found})


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _records(found: list[dict[str, Any]], console: Console) -> Iterator[Table]:
    """One row each, or one table each where a row would not fit into a line."""
    columns = list(dict.fromkeys(name for each in found for name in each))
    table = Table(*columns, box=None, pad_edge=False)
    for each in found:
        table.add_row(*(_cell(each.get(name)) for name in columns))
    if console.measure(table, options=console.options.update(width=_ENDLESS)).maximum <= console.width:
        yield table
        return
    for number, each in enumerate(found):
        if number:
            yield Table(box=None)
        yield _members(each)


def _members(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        if isinstance(value, dict) and value:
            for inner, each in value.items():
                table.add_row(f"{name}.{inner}", _cell(each))
        else:
            table.add_row(name, _cell(value))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
