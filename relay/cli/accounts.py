"""``tickrelay accounts``: all accounts of a relay in one view, with their orders, positions and profit."""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from relay.cli.output import Busy, console, print_json, say, table_of
from relay.cli.remote import RunningRelay, connected
from relay.client import AccountView, Client, SubscriptionRefused, ViewUpdates
from relay.client.views import total
from relay.errors import OperatorError

if TYPE_CHECKING:
    from rich.console import Group

_MONEY = ("balance", "equity", "margin_used", "margin_available", "unrealized_pnl", "realized_pnl")


async def show_accounts(relay: RunningRelay, names: Sequence[str], *, within: float, watch: bool, as_json: bool) -> int:
    """Carry out `tickrelay accounts`."""
    async with connected(relay) as client, AsyncExitStack() as stack:
        with Busy("reading the accounts"):
            views = {(each.provider, each.name): each for each in await _views(client, names)}
            updates = await stack.enter_async_context(
                client.subscribe(*(f"account.{provider}.{name}" for provider, name in views), partial=True)
            )
            if len(updates.refused) == len(updates.channels):
                raise SubscriptionRefused(updates.refused)
            for channel, reason in updates.refused.items():
                say(f"{channel}: {reason}")
            await client.caught_up()
            by_channel = dict(zip(updates.channels, views.values(), strict=True))
            changes = ViewUpdates(updates, by_channel)
            with anyio.move_on_after(within):
                while updates.waiting or any(
                    view.account is None for channel, view in by_channel.items() if channel not in updates.refused
                ):
                    await anext(changes)
        if not watch:
            if as_json:
                print_json({"accounts": [_json(view) for view in views.values()]})
            else:
                console().print(described(views.values()))
            return 0
        from rich.live import Live

        with Live(described(views.values()), console=console(), auto_refresh=False) as live:
            async for _ in changes:
                if not updates.waiting:
                    live.update(described(views.values()), refresh=True)
    return 0


async def _views(client: Client, names: Iterable[str]) -> list[AccountView]:
    """Return an empty view of each named account. Raises OperatorError for an unknown name."""
    streams = await client.streams()
    there = list(
        dict.fromkeys(
            (entry["provider"], account)
            for entry in streams
            for wanted in entry["filters"]
            if wanted["name"] == "account"
            for account in wanted.get("choices", ())
        )
    )
    if not there and not names:
        raise OperatorError(
            "no configured account that this API key may read; it needs accounts = [...] or trade = [...] in its table. "
            "An account that is not configured is named: tickrelay accounts PROVIDER.ACCOUNT"
        )
    chosen = []
    for name in names or ("*",):
        provider, dot, account = name.partition(".")
        found = [each for each in there if name == "*" or (each[0] == provider and (not dot or each[1] == account))]
        if not found and account and "*" not in name:
            found = [(provider, account)]  # a provider without configured accounts: the relay knows
        if not found:
            raise OperatorError(
                f"no account {name} that this key may read; there are {', '.join(map('.'.join, there))}"
            )
        chosen += found
    return [AccountView(provider, account) for provider, account in dict.fromkeys(chosen)]


def described(views: Iterable[AccountView]) -> "Group":
    """Return tables of the accounts, their positions and their orders."""
    from rich.console import Group
    from rich.text import Text

    views = list(views)
    money = table_of(
        ("account", "currency", "balance", "equity", "margin used", "margin free", "unrealized", "realized", "note"),
        [*map(_money_row, views), *_totals(views)],
    )
    positions = [(view, position) for view in views for position in view.positions.values()]
    orders = [(view, order) for view in views for order in view.orders.values()]
    parts: list[Any] = [money, Text()]
    if positions:
        about = ("account", "position", "symbol", "side", "quantity", "entry", "price", "unrealized")
        of_position = ("id", "symbol", "side", "quantity", "average_entry_price", "current_price", "unrealized_pnl")
        parts += [table_of(about, (_row(view, each, of_position) for view, each in positions)), Text()]
    if orders:
        columns = ("account", "order", "symbol", "side", "type", "quantity", "filled", "limit", "stop", "status")
        members = (
            "id",
            "symbol",
            "side",
            "order_type",
            "quantity",
            "filled_quantity",
            "limit_price",
            "stop_price",
            "status",
        )
        parts.append(table_of(columns, (_row(view, each, members) for view, each in orders)))
    parts.append(Text(f"{len(positions)} open positions, {len(orders)} open orders"))
    return Group(*parts)


def _row(view: AccountView, item: object, members: Iterable[str]) -> tuple[str, ...]:
    return _title(view), *(_text(getattr(item, member)) for member in members)


def _title(view: AccountView) -> str:
    return f"{view.provider}.{view.name}"


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _money_row(view: AccountView) -> tuple[str, ...]:
    note = view.stale or ("the provider sent no balance" if view.account is None else "")
    if view.account is not None and view.account.margin_call:
        note = f"MARGIN CALL {note}".strip()
    figures = (_text(getattr(view.account, name, None)) for name in ("currency", *_MONEY))
    return _title(view), *figures, note


def _totals(views: list[AccountView]) -> list[tuple[str, ...]]:
    """Return a row of sums for each currency with several accounts."""
    rows = []
    known = [view.account for view in views if view.account is not None and view.account.currency is not None]
    for currency in dict.fromkeys(str(account.currency) for account in known):
        same = [account for account in known if account.currency == currency]
        if len(same) > 1:
            sums = (total(getattr(account, name) for account in same) or "" for name in _MONEY)
            rows.append((f"{len(same)} accounts", currency, *sums, ""))
    return rows


def _json(view: AccountView) -> dict[str, Any]:
    from attrs import asdict

    def plain(item: Any) -> dict[str, Any]:
        return {
            name: value for name, value in asdict(item).items() if value is not None and name not in ("event", "data")
        }

    return {
        "provider": view.provider,
        "account": view.name,
        "stale": view.stale,
        "balances": None if view.account is None else plain(view.account),
        "positions": list(map(plain, view.positions.values())),
        "orders": list(map(plain, view.orders.values())),
    }
