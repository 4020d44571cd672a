"""``tickrelay order``: commands to a running relay, over its HTTP interface.

Exit codes: 0 accepted, 1 rejected or refused, 3 outcome unknown. After 3 the order may be live: check the account, or repeat
the same command with the printed key, which never places it twice.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from attrs import field, frozen
from cyclopts import App, Parameter

from relay.cli.output import Busy, console, say
from relay.cli.remote import DEMO_API_KEY, DEMO_URL, RunningRelay, connected
from relay.errors import OperatorError, one_line
from relay.model.enums import OrderType, PositionIntent, Side, TimeInForce, TrailingType

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from relay.client import Client

UNKNOWN = 3
#: Members of a result with the canonical form of its `data`, which is the provider's (`relay.trading.pending.ANSWERS`).
_ANSWERS = frozenset({"accounts", "positions", "orders", "trades", "quote"})


@Parameter(name="*")
@frozen(kw_only=True)
class Target:
    """The account that a command is for, the relay, and the form of the answer.

    Attributes:
        provider: The provider's configured name; may be left out if the API key trades on one account only.
        account: The account; may be left out if the provider has only one.
        url: The relay.
        api_key: An API key that may trade on the account.
        within: Seconds to wait for the provider's answer, at most 60.
        key: Idempotency key: the same command under it is executed once. Random when absent.
        dry_run: Show the message to the provider, without sending it.
        raw: Print the answer as JSON.
    """

    provider: str | None = None
    account: str | None = None
    url: Annotated[str, Parameter(env_var="TICKRELAY_URL")] = DEMO_URL
    api_key: Annotated[str, Parameter(env_var="TICKRELAY_API_KEY", show_default=False)] = field(
        default=DEMO_API_KEY, repr=False
    )
    within: float = 10.0
    key: str | None = None
    dry_run: Annotated[bool, Parameter(negative=())] = False
    raw: Annotated[bool, Parameter(name="--json", negative=())] = False


ANY = Target()
"""The account that the API key trades on, if there is one only."""


async def place(
    *,
    target: Target = ANY,
    symbol: str,
    side: Side,
    quantity: str | None = None,
    notional: str | None = None,
    order_type: Annotated[OrderType | None, Parameter(name="--type")] = None,
    limit_price: Annotated[str | None, Parameter(name="--limit")] = None,
    stop_price: Annotated[str | None, Parameter(name="--stop")] = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
    trailing_distance: Annotated[str | None, Parameter(name="--trailing")] = None,
    trailing_type: TrailingType | None = None,
    time_in_force: Annotated[TimeInForce | None, Parameter(name="--tif")] = None,
    good_till: str | None = None,
    client_order_id: str | None = None,
    reduce_only: Annotated[bool | None, Parameter(negative=())] = None,
    post_only: Annotated[bool | None, Parameter(negative=())] = None,
    extended_hours: Annotated[bool | None, Parameter(negative=())] = None,
    position_intent: PositionIntent | None = None,
    extra: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
) -> int:
    """Place an order.

    Args:
        symbol: Canonical symbol, EUR/USD.
        side: BUY or SELL.
        quantity: The quantity, in the provider's units.
        notional: The amount of money, instead of a quantity.
        order_type: Kind of order; the prices imply it when absent: --limit a limit order, --stop a stop order, both a
            stop-limit order, --trailing a trailing stop, none of them a market order.
        limit_price: Price of a limit or stop-limit order.
        stop_price: Price at which a stop or stop-limit order becomes active.
        stop_loss: Price of the stop loss.
        take_profit: Price of the take profit.
        trailing_distance: Distance of a trailing stop.
        trailing_type: Its unit, of the price or percent.
        time_in_force: How long the order is valid.
        good_till: RFC 3339 time until which a GTD order is valid.
        client_order_id: Your own id of the order.
        reduce_only: Only reduce a position.
        post_only: Only add liquidity to the book.
        extended_hours: Also outside the regular trading hours.
        position_intent: Open a position, or close one.
        extra: NAME=JSON, a provider-specific member; may be repeated.
    """
    return await send(
        target,
        "place_order",
        symbol=symbol,
        side=side,
        quantity=quantity,
        notional=notional,
        order_type=order_type or _implied(limit_price, stop_price, trailing_distance),
        limit_price=limit_price,
        stop_price=stop_price,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trailing_distance=trailing_distance,
        trailing_type=trailing_type,
        time_in_force=time_in_force,
        good_till=good_till,
        client_order_id=client_order_id,
        reduce_only=reduce_only,
        post_only=post_only,
        extended_hours=extended_hours,
        position_intent=position_intent,
        extra=named(extra, "--extra") or None,
    )


async def cancel(order_id: str, /, *, target: Target = ANY, symbol: str | None = None) -> int:
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
    target: Target = ANY,
    symbol: str | None = None,
    quantity: str | None = None,
    limit_price: Annotated[str | None, Parameter(name="--limit")] = None,
    stop_price: Annotated[str | None, Parameter(name="--stop")] = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
    time_in_force: Annotated[TimeInForce | None, Parameter(name="--tif")] = None,
    good_till: str | None = None,
) -> int:
    """Change an order. Members that are not given stay unchanged.

    Args:
        order_id: The provider's id of the order.
        symbol: Its symbol, for providers that need it.
        quantity: The new quantity.
        limit_price: The new limit price.
        stop_price: The new stop price.
        stop_loss: The new stop loss.
        take_profit: The new take profit.
        time_in_force: How long the order is valid.
        good_till: RFC 3339 time until which a GTD order is valid.
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


async def close(
    position_id: str, /, *, target: Target = ANY, symbol: str | None = None, quantity: str | None = None
) -> int:
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
    target: Target = ANY,
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


async def positions(*, target: Target = ANY) -> int:
    """List the open positions."""
    return await send(target, "list_positions")


async def orders(*, target: Target = ANY) -> int:
    """List the open orders."""
    return await send(target, "list_orders")


async def accounts(*, target: Target = ANY) -> int:
    """List the accounts the provider's session reaches."""
    return await send(target, "list_accounts")


async def history(
    *,
    target: Target = ANY,
    of: Literal["order", "orders", "position", "positions", "trade", "trades"] = "order",
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
    return await send(target, f"{of.removesuffix('s')}_history", since=since, until=until, symbol=symbol)


async def call(
    function: str,
    /,
    *,
    target: Target = ANY,
    argument: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
) -> int:
    """Call a provider-specific function.

    Args:
        function: The provider's name of the function.
        argument: NAME=JSON, or NAME=text if it is not JSON; may be repeated.
    """
    return await send(target, "call", function=function, arguments=named(argument, "--argument") or None)


order_app = App(
    name="order",
    help="Trade through a running relay. Exit codes: 0 accepted, 1 rejected or refused, 3 unknown: it may be live, 4 the "
    "relay cannot be reached.",
)
for _command in (place, cancel, amend, close, protect, positions, orders, accounts, history, call):
    order_app.command(_command)


def named(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """Return the members in ``NAME=JSON``; numbers with a point keep their digits."""
    from relay.model.command_input import CommandError, free_object, read

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


# --- requests --------------------------------------------------------------------------------------------------------


def _implied(limit_price: str | None, stop_price: str | None, trailing_distance: str | None) -> str:
    from relay.client.client import implied_type

    return implied_type(limit_price, stop_price) if trailing_distance is None else OrderType.TRAILING_STOP


async def send(target: Target, command: str, /, **members: object) -> int:
    """Send a command, print its reply, and return the exit code."""
    from relay.client import OutcomeUnknown

    async with connected(RunningRelay(url=target.url, api_key=target.api_key)) as client:
        provider, account = target.provider, target.account
        if provider is None:
            provider, account = await _only_account(client, target)
        with Busy(f"waiting for {provider}'s answer, at most {target.within:g} s"):
            try:
                result = await client.command(
                    command,
                    provider=provider,
                    account=account,
                    within=target.within,
                    key=target.key,
                    dry_run=target.dry_run,
                    **members,
                )
            except OutcomeUnknown as error:
                say(f"the outcome of the command is unknown: {error}")
                return _unknown(error.key)
    if target.raw or result.reply is None:
        print(msgspec.json.format(result.text, indent=2))
    else:
        show(result.body)
    if result.replayed:
        say("replayed: the reply of an earlier command with the same key or id; nothing was sent")
    if result.reply is None or result.reply.outcome == "accepted":
        return 0
    return 1 if result.reply.outcome == "rejected" else _unknown(result.key)


async def _only_account(client: "Client", target: Target) -> tuple[str, str | None]:
    """Return the account that the API key trades on, if there is one only and it has the name that was given."""
    there = [
        (str(about["provider"]), account)
        for about in (await client.http.get("/api/v2/commands"))["providers"]
        for account in about["accounts"] or (None,)
        if target.account in (None, account)
    ]
    if len(there) == 1:
        return there[0]
    named = ", ".join(f"--provider {provider}" + (f" --account {name}" if name else "") for provider, name in there)
    if not there:
        raise OperatorError("this API key may trade on no account" + (f" {target.account}" if target.account else ""))
    raise OperatorError(f"--provider: which account? There are {named}")


def _unknown(key: str) -> int:
    say(f"the outcome is unknown, the command may have been carried out; --key {key} repeats it safely")
    return UNKNOWN


# --- a reply as people read it: nothing is cut off, whatever the width of the terminal ---

_ENDLESS = 100_000


def show(body: Mapping[str, Any]) -> None:
    """Print a reply for people."""
    from rich.table import Table

    out = console()
    head = Table("outcome", "command", "provider", "account", box=None, pad_edge=False)
    head.add_row(*(str(body.get(name, "")) for name in ("outcome", "command_id", "provider", "account")))
    out.print(head)
    found = body.get("error") if body.get("error") is not None else body.get("result")
    if isinstance(found, dict) and found.keys() & _ANSWERS:  # said already; `--json` has the provider's own words too
        found = {name: value for name, value in found.items() if name != "data"}
    for table in () if found is None else _tables(found, out):
        out.print(table)


def _tables(found: Any, out: "Console") -> "Iterator[Table]":
    """Yield a list of objects row by row, also where it is the one list there is in an object; others by their members."""
    if isinstance(found, dict):
        lists = [name for name, value in found.items() if _is_list(value)]
        one = lists[0] if len(lists) == 1 else None
        if rest := {name: value for name, value in found.items() if name != one}:
            yield _members(rest)
        if one is not None:
            yield from _records(found[one], out)
    elif _is_list(found):
        yield from _records(found, out)
    else:
        yield _members({"": found})


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _records(found: list[dict[str, Any]], out: "Console") -> "Iterator[Table]":
    """Print one row for each record, or one table for each where a row would not fit into a line."""
    from rich.table import Table

    columns = list(dict.fromkeys(name for each in found for name in each))
    table = Table(*columns, box=None, pad_edge=False)
    for each in found:
        table.add_row(*(_cell(each.get(name)) for name in columns))
    if out.measure(table, options=out.options.update(width=_ENDLESS)).maximum <= out.width:
        yield table
        return
    for number, each in enumerate(found):
        if number:
            yield Table(box=None)
        yield _members(each)


def _members(found: dict[str, Any]) -> "Table":
    from rich.table import Table

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
