"""``tickrelay symbols`` and ``tickrelay quote``: search symbols, and show their current quotes."""

from typing import Any

import anyio

from relay.cli.output import Busy, print_json, print_table, say, table_of
from relay.cli.remote import RunningRelay, connected
from relay.client import Client
from relay.errors import OperatorError
from relay.model.events import Quote, Staleness

#: The columns of a table of instruments, with the members that they show.
_OF_INSTRUMENT = {
    "provider": "provider", "symbol": "symbol", "tick": "tick_size", "step": "quantity_step", "minimum": "minimum_quantity",
    "contract": "contract_size", "currency": "currency", "expires": "expires_at", "status": "status",
}  # fmt: skip


async def show_symbols(
    relay: RunningRelay, query: str, *, provider: str | None, kind: str | None, limit: int, as_json: bool
) -> int:
    """Carry out `tickrelay symbols`."""
    async with connected(relay) as client:
        with Busy("searching"):
            found = await client.symbols(query, provider=provider, kind=kind, limit=limit)
    listed = found["symbols"]
    if as_json:
        print_json(found)
    elif not listed:
        say(
            f"no symbol like {query!r:.64}; a provider that publishes no list has its pinned and configured symbols only"
        )
    else:
        if listed[0]["near"]:
            say(f"no symbol has {query!r:.64} in it; spelt nearly alike:")
        rows = ((s["provider"], s["symbol"], s["native"], s.get("name", ""), " ".join(s["kinds"])) for s in listed)
        print_table(table_of(("provider", "symbol", "native", "name", "streams"), rows))
        if found["next"] is not None:
            say(f"{len(listed)} of {found['total']}; --limit shows more")
    return 0 if listed else 1


async def show_instruments(relay: RunningRelay, query: str, *, provider: str | None, limit: int, as_json: bool) -> int:
    """Carry out `tickrelay symbols --instruments`."""
    async with connected(relay) as client:
        with Busy("searching"):
            found = await client.instruments(query, provider=provider, limit=limit)
    listed = found["instruments"]
    if as_json:
        print_json(found)
    elif not listed:
        say(f"no provider says anything of an instrument like {query!r:.64}")
    else:
        rows = ([str(each.get(member, "")) for member in _OF_INSTRUMENT.values()] for each in listed)
        print_table(table_of(tuple(_OF_INSTRUMENT), rows))
        if found["next"] is not None:
            say(f"{len(listed)} of {found['total']}; --limit shows more")
    return 0 if listed else 1


async def show_quotes(relay: RunningRelay, symbol: str, *, provider: str | None, within: float, as_json: bool) -> int:
    """Carry out `tickrelay quote`."""
    async with connected(relay) as client:
        channels = await channels_of(client, symbol, "quote", provider)
        found: dict[str, Quote] = {}
        stale: dict[str, str] = {}
        names = {cached(channel): name for channel, name in channels.items()}
        async with client.subscribe(*names, partial=True) as updates:
            with Busy(f"waiting for quotes of {symbol}"), anyio.move_on_after(within):
                while len(found) + len(updates.refused) < len(names):
                    update = await anext(updates)
                    if isinstance(update.event, Quote):
                        found[update.channel] = update.event
                    elif isinstance(update.event, Staleness):
                        stale[update.channel] = update.event.reason or "stale" if update.event.event == "STALE" else ""
            refused = updates.refused
    rows = []
    for channel, name in names.items():
        why = (
            refused.get(channel) or stale.get(channel) or ("" if channel in found else f"no quote within {within:g} s")
        )
        price = found.get(channel)
        figures = [getattr(price, member, None) for member in ("symbol", "bid", "ask", "last", "time")]
        rows.append((name, *figures, why))
    columns = ("provider", "symbol", "bid", "ask", "last", "time", "note")
    if as_json:
        for row in rows:
            print_json({column: value for column, value in zip(columns, row, strict=True) if value})
    else:
        print_table(table_of(columns, ([value or "" for value in row] for row in rows)))
    return 0 if found else 1


def cached(channel: str) -> str:
    """Return the name under which a channel begins with its last value."""
    return channel.replace("private-", "private-cache-", 1) if channel.startswith("private-") else f"cache-{channel}"


async def channels_of(client: Client, symbol: str, kind: str, provider: str | None = None) -> dict[str, str]:
    """Return the channels that match the text of a symbol, with their providers.

    Raises:
        OperatorError: there are none; the text names the nearest symbols.
    """
    found: list[dict[str, Any]] = (await client.symbols(symbol, provider=provider, kind=kind, limit=100))["symbols"]
    wanted = _plain(symbol)
    exact = [each for each in found if wanted in (_plain(each["symbol"]), _plain(each["native"]))]
    channels = {each["channels"][kind]: each["provider"] for each in exact if kind in each["channels"]}
    if not channels:
        near = ", ".join(dict.fromkeys(each["symbol"] for each in found[:8]))
        hint = f"did you mean {near}?" if near else "`tickrelay symbols` lists the symbols"
        at = f"provider {provider}" if provider else "any provider"
        raise OperatorError(f"no {kind} of {symbol!r:.64} at {at} that this key may read; {hint}")
    return channels


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
