"""The commands on a running relay. Each imports its implementation only when it is called."""

from typing import Annotated

from cyclopts import Parameter

from relay.cli.remote import DEMO, RunningRelay

AsJson = Annotated[bool, Parameter(name="--json", negative=())]


async def tail(
    names: tuple[str, ...] = (),
    /,
    *,
    relay: RunningRelay = DEMO,
    app: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
    seconds: Annotated[float | None, Parameter(name="--for")] = None,
    count: int | None = None,
    rewind: int | None = None,
    most: int = 200,
    as_json: AsJson = False,
) -> int:
    """Follow channels of a running relay: a live table on a terminal, JSON lines otherwise.

    A name is a channel (quote.binance.BTC-USDT, status.helio, account.helio.main, an application's own), a pattern
    (quote.*, helio.*, candle.*.BTC-USD.1m, account.*), or a symbol (BTC/USD: its quotes everywhere). Without a name: every
    stream that is subscribed at the relay now.

    Args:
        names: Channels, patterns or symbols.
        app: Id or key of an app, for applications' own channels; may be repeated.
        seconds: Stop after so many seconds.
        count: Stop after so many events.
        rewind: Start with so many past events of each channel.
        most: Most channels that patterns may match.
        as_json: JSON lines on a terminal, too.
    """
    from relay.cli.tail import follow

    return await follow(relay, names, app, seconds=seconds, count=count, rewind=rewind, most=most, as_json=as_json)


async def status(
    *,
    relay: RunningRelay = DEMO,
    watch: Annotated[bool, Parameter(negative=())] = False,
    every: float = 1.0,
    as_json: AsJson = False,
) -> int:
    """Show sessions, streams, budgets and audits of a running relay.

    Exit codes: 0 everything works, 4 the relay cannot be reached, 5 there is a failure: a session that is not connected, a
    stale stream with subscribers, the store.

    Args:
        watch: Refresh until Ctrl-C, with rates.
        every: Seconds between refreshes.
        as_json: Print the relay's answer and `unusable`, the list of failures.
    """
    from relay.cli.status import show_status

    return await show_status(relay, watch=watch, every=every, as_json=as_json)


async def cluster(*, relay: RunningRelay = DEMO, as_json: AsJson = False) -> int:
    """Show the relays of a running relay's cluster, the owner of each provider, and how far the others lag behind.

    Exit codes: 0 every provider has an owner, 5 one has none, or Redis cannot be reached.

    Args:
        as_json: Print the relay's answer.
    """
    from relay.cli.status import show_cluster

    return await show_cluster(relay, as_json=as_json)


async def symbols(
    query: str = "",
    /,
    *,
    relay: RunningRelay = DEMO,
    provider: str | None = None,
    kind: str | None = None,
    instruments: bool = False,
    limit: int = 20,
    as_json: AsJson = False,
) -> int:
    """Search the symbols that a running relay knows.

    Exit codes: 0 found, 1 nothing found.

    Args:
        query: A part of the symbol, of its native name or display name; case and separators do not matter.
        provider: Only this provider's.
        kind: Only symbols with this stream: quote, depth, candle, ...
        instruments: Show what the provider says of the symbol as an instrument: tick, step, minimum, expiry, status.
        limit: Most results.
        as_json: Print the relay's answer.
    """
    from relay.cli.search import show_instruments, show_symbols

    if instruments:
        return await show_instruments(relay, query, provider=provider, limit=limit, as_json=as_json)
    return await show_symbols(relay, query, provider=provider, kind=kind, limit=limit, as_json=as_json)


async def quote(
    symbol: str,
    /,
    *,
    relay: RunningRelay = DEMO,
    provider: str | None = None,
    within: float = 5.0,
    as_json: AsJson = False,
) -> int:
    """Show the current quotes of a symbol, of every provider that has it.

    Exit codes: 0 quotes, 1 none.

    Args:
        symbol: BTC/USD, btcusd, or the native name.
        provider: Only this provider.
        within: Seconds to wait for quotes.
        as_json: Print one object a line.
    """
    from relay.cli.search import show_quotes

    return await show_quotes(relay, symbol, provider=provider, within=within, as_json=as_json)


async def accounts(
    names: tuple[str, ...] = (),
    /,
    *,
    relay: RunningRelay = DEMO,
    within: float = 5.0,
    watch: Annotated[bool, Parameter(negative=())] = False,
    as_json: AsJson = False,
) -> int:
    """Show all accounts of a running relay: balances, orders, positions, profit and loss.

    Args:
        names: PROVIDER.ACCOUNT or PROVIDER; all that the key may read when absent.
        within: Seconds to wait for the first balances.
        watch: Refresh with every change until Ctrl-C.
        as_json: Print one object with every account.
    """
    from relay.cli.accounts import show_accounts

    return await show_accounts(relay, names, within=within, watch=watch, as_json=as_json)
