"""``tickrelay tail``: follow channels of a running relay, as a live table or as JSON lines."""

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from attrs import Factory, define

from relay.cli.output import Busy, age, console, say, table_of
from relay.cli.remote import RunningRelay, connected, told_to_people
from relay.cli.search import cached, channels_of
from relay.client import Client, Notice, SubscriptionRefused, Update
from relay.errors import OperatorError, nearest, suggestion
from relay.model.channels import ChannelError, Stream, Topic, channel_name, parse_channel, split_prefix
from relay.model.events import MARKET_KINDS, Candle, Depth, Event, Order, Position, PublicTrade, Quote, Staleness, Trade
from relay.model.patterns import (
    PATTERN_KINDS,
    AccountPattern,
    PatternError,
    StreamPattern,
    account_pattern,
    stream_pattern,
)

if TYPE_CHECKING:
    from rich.table import Table

#: Kinds whose last value says something: their channels begin with it.
_CACHED = frozenset({"quote", "candle", "reference", "instrument", "status"})
#: Looks of the table a second.
_REFRESH = 8
#: Updates that may wait to be written; beyond, the relay's policy for slow readers holds.
_WAITING = 100


async def follow(
    relay: RunningRelay,
    names: Sequence[str],
    apps: Sequence[str],
    *,
    seconds: float | None,
    count: int | None,
    rewind: int | None,
    most: int,
    as_json: bool,
) -> int:
    """Carry out `tickrelay tail`."""
    if count is not None and count < 1:
        raise OperatorError("--count: must be 1 or more")
    lines = as_json or not sys.stdout.isatty()
    view = Lines() if lines else LiveTable()
    with anyio.CancelScope() as over:
        async with AsyncExitStack() as stack:
            received = await stack.enter_async_context(_received(relay, apps, names, most, rewind, view))
            if seconds is not None:  # the time to connect, which has deadlines of its own, is none of it
                over.deadline = anyio.current_time() + seconds
            with view:
                taken = 0
                async for update, of_app in received:
                    view.take(update, of_app)
                    taken += 1
                    if taken == count:
                        break
    return 0


@asynccontextmanager
async def _received(
    relay: RunningRelay,
    apps: Sequence[str],
    names: Sequence[str],
    most: int,
    rewind: int | None,
    view: "Lines | LiveTable",
) -> AsyncIterator[AsyncIterator[tuple[Update, str | None]]]:
    """Subscribe in every app; return the updates of all of them with the app's name."""
    async with AsyncExitStack() as stack:
        subscriptions = []
        for of_app in apps or (None,):
            client = await stack.enter_async_context(connected(relay, app=of_app, on_notice=view.notice))
            with Busy(f"asking {relay.url}"):
                channels = await chosen(client, names, most)
            updates = await stack.enter_async_context(
                client.subscribe(*channels, partial=len(channels) > 1, rewind=rewind)
            )
            if len(updates.refused) == len(channels):
                raise SubscriptionRefused(updates.refused)
            for channel, reason in updates.refused.items():
                say(f"{channel}: {reason}")
            view.channels += [each for each in channels if each not in updates.refused]
            subscriptions.append((of_app, updates))
        send, receive = anyio.create_memory_object_stream[tuple[Update, str | None]](_WAITING)

        async def forward(of_app: str | None, updates: AsyncIterator[Update]) -> None:
            with told_to_people(relay):
                async for update in updates:
                    await send.send((update, of_app))

        async with send, receive, anyio.create_task_group() as tasks:
            for of_app, updates in subscriptions:
                tasks.start_soon(forward, of_app, updates)
            yield receive
            tasks.cancel_scope.cancel()


# --- which channels --------------------------------------------------------------------------------------------------


async def chosen(client: Client, names: Sequence[str], most: int) -> list[str]:
    """Return the channels that match the names, patterns and symbols.

    Raises:
        OperatorError: a name matches nothing, or all names match more than ``most`` channels.
    """
    if not names:
        found = [
            _stream_channel(stream)
            for stream in (await client.status())["hub"]["streams"]
            if stream["subscribers"] >= 0
        ]
        if not found:
            raise OperatorError(
                "no stream is subscribed at the relay now; name some: `tickrelay symbols` lists symbols"
            )
        names = found[:most]
    catalog = await client.streams()
    channels: list[str] = []
    for name in names:
        channels += [each for each in await _meant(client, name, catalog) if each not in channels]
    if len(channels) > most:
        raise OperatorError(
            f"these are {len(channels)} channels; --most {len(channels)} allows them, a narrower pattern is better"
        )
    return channels


def _stream_channel(stream: Mapping[str, Any]) -> str:
    topic = Topic(**{name: stream[name] for name in ("kind", "symbol", "timeframe", "account")})
    return channel_name(Stream(stream["provider"], topic))


async def _meant(client: Client, name: str, catalog: Sequence[Mapping[str, Any]]) -> list[str]:
    prefix, bare = split_prefix(name)
    try:
        stream = parse_channel(f"private-{bare}" if bare.startswith("account.") else name)
    except ChannelError:
        stream = None
    if stream is not None and "*" not in name:
        return [name if prefix else _prefixed(stream, catalog)]
    if bare.startswith("account"):
        try:
            accounts = account_pattern(bare.removeprefix("account").removeprefix(".") or "*")
        except PatternError as error:
            raise OperatorError(f"{name}: {error}; write it like account.PROVIDER.ACCOUNT") from error
        return _accounts(accounts, catalog)
    try:
        pattern = stream_pattern(name)
    except PatternError as error:
        return await _no_pattern(client, name, error)
    found = [_prefixed(each, catalog) async for each in _streams(client, pattern, catalog)]
    if not found:
        raise OperatorError(f"{name}: no stream that this key may read is meant by it{_hint(name, pattern, catalog)}")
    return found


def _hint(name: str, pattern: StreamPattern, catalog: Iterable[Mapping[str, Any]]) -> str:
    providers, part = {entry["provider"] for entry in catalog}, pattern.provider_part
    if any(map(pattern.provider.fullmatch, providers)):
        return "; `tickrelay symbols` lists symbols"
    kind = nearest(part, PATTERN_KINDS) if name.startswith(part) else None
    return f"; {suggestion(part, providers)}" if kind is None else f"; did you mean {kind}?"


async def _no_pattern(client: Client, name: str, error: PatternError) -> list[str]:
    """Return the quotes of a symbol; or the name as it is, an application's own channel."""
    looks_own = name.startswith(("private-", "presence-", "cache-")) or ("*" not in name and "." not in name)
    if "*" in name or "." in name:
        raise OperatorError(str(error)) from None
    try:
        return [cached(channel) for channel in await channels_of(client, name, "quote")]
    except OperatorError:
        if looks_own and "/" not in name:
            say(f"{name} is not a symbol of this relay: following the application's own channel with this name")
            return [name]
        raise


def _prefixed(stream: Stream, catalog: Iterable[Mapping[str, Any]]) -> str:
    """Return the channel of a stream under the prefix that it needs, and with its last value where that says something."""
    topic = stream.topic
    if topic.kind == "account":
        return channel_name(stream, "private-")
    private = any(
        (entry["provider"], entry["kind"], entry["visibility"]) == (stream.provider, topic.kind, "private")
        for entry in catalog
    )
    plain = channel_name(stream, "private-" if private else "")
    return cached(plain) if topic.kind in _CACHED else plain


def _accounts(pattern: AccountPattern, catalog: Iterable[Mapping[str, Any]]) -> list[str]:
    there = {
        (entry["provider"], account)
        for entry in catalog
        for each in entry["filters"]
        if each["name"] == "account"
        for account in each.get("choices", ())
    }
    found = [Stream(provider, Topic(kind="account", account=name)) for provider, name in sorted(there)
             if pattern.matches(provider, name)]  # fmt: skip
    if not found:
        raise OperatorError(f"account.{pattern.text}: no account that this key may read is meant by it")
    return [channel_name(stream, "private-") for stream in found]


async def _streams(
    client: Client, pattern: StreamPattern, catalog: Sequence[Mapping[str, Any]]
) -> AsyncIterator[Stream]:
    """Yield the streams that a pattern stands for, of the symbols that the relay knows."""
    for entry in catalog:
        stream = Stream(entry["provider"], Topic(kind="status"))
        if entry["kind"] == "status" and pattern.matches(stream):
            yield stream
    timeframes = {entry["provider"]: _timeframes(entry) for entry in catalog if entry["kind"] == "candle"}
    wanted = {entry["provider"] for entry in catalog if pattern.may_read_some(entry["provider"], entry["kind"])}
    for provider in sorted(wanted):
        offset: int | None = 0
        while offset is not None and pattern.kinds & MARKET_KINDS and provider != "all":
            page = await client.symbols(provider=provider, limit=500, offset=offset)
            for symbol in page["symbols"]:
                for kind in symbol["kinds"]:
                    for timeframe in timeframes.get(provider, ()) if kind == "candle" else (None,):
                        topic = Topic(kind=kind, symbol=symbol["symbol"], timeframe=timeframe)
                        if pattern.matches(Stream(provider, topic)):
                            yield Stream(provider, topic)
            offset = page["next"]


def _timeframes(entry: Mapping[str, Any]) -> Sequence[str]:
    return next((each.get("choices", ()) for each in entry["filters"] if each["name"] == "timeframe"), ())


# --- what is shown ---------------------------------------------------------------------------------------------------


class Lines:
    """JSON lines on standard output; notices on standard error."""

    def __init__(self) -> None:
        self.channels: list[str] = []
        self._busy = Busy("waiting for the first event; Ctrl-C ends it")

    def __enter__(self) -> None:
        say(f"following {len(self.channels)} channels")
        self._busy.__enter__()

    def __exit__(self, *error: object) -> None:
        self._busy.__exit__(*error)

    def notice(self, notice: Notice) -> None:
        """Print a change of the connection or a channel that was not requested."""
        if notice.what in ("disconnected", "resumed", "missed", "refused") and self.channels:
            say(" ".join(filter(None, (notice.what, notice.channel, notice.text))))

    def take(self, update: Update, app: str | None) -> None:
        """Write an update."""
        self._busy.__exit__()
        about: dict[str, Any] = {"channel": update.channel, "event": update.name}
        if app is not None:
            about["app"] = app
        if update.missed is not None:
            about["missed"] = update.missed
        sys.stdout.write(json.dumps({**about, "data": update.data}, ensure_ascii=False) + "\n")
        sys.stdout.flush()


@define
class _Row:
    kind: str = ""
    count: int = 0
    text: str = ""
    at: float = 0.0
    stale: str = ""
    first_at: float = Factory(anyio.current_time)


class LiveTable:
    """One row a channel on a terminal, refreshed a few times a second."""

    def __init__(self) -> None:
        self.channels: list[str] = []
        self._rows: dict[str, _Row] = {}
        self._notes: Counter[str] = Counter()
        self._connection = "connected"
        self._live: Any = None

    def __enter__(self) -> None:
        from rich.live import Live

        self._live = Live(get_renderable=self._table, console=console(), refresh_per_second=_REFRESH)
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def notice(self, notice: Notice) -> None:
        """Show the state of the connection."""
        if notice.what in ("connected", "disconnected"):
            self._connection = f"{notice.what} {notice.text}"

    def take(self, update: Update, app: str | None) -> None:
        """Show an update."""
        name = update.channel if app is None else f"{app} {update.channel}"
        row = self._rows.setdefault(name, _Row())
        row.count += 1
        row.at = anyio.current_time()
        self._now = row.at
        if isinstance(update.event, Staleness):
            row.stale = "" if update.event.event == "FRESH" else f"STALE {update.event.reason or ''}"
        else:
            row.kind, row.text = update.name, summary(update.event) if update.event else json.dumps(update.data)[:200]
        if update.missed is not None:
            row.text = f"(events missed: {update.missed}) {row.text}"

    def _table(self) -> "Table":
        import time

        now = time.monotonic()
        names = [*self._rows, *(each for each in self.channels if each not in self._rows)]
        rows = []
        for name in names[: max(3, console().height - 4)]:
            row = self._rows.get(name)
            if row is None:
                rows.append((name, "", "", "", "waiting for the first event"))
            else:
                since = age(now - row.at) if now >= row.at else ""
                rows.append((name, row.kind, str(row.count), since, f"{row.stale} {row.text}".strip()))
        total = sum(row.count for row in self._rows.values())
        title = f"{len(names)} channels, {total} events, {self._connection}; Ctrl-C ends it"
        return table_of(("channel", "event", "events", "age", ""), rows, title=title)


def summary(event: Event) -> str:
    """Return an event as one line for people."""
    match event:
        case Quote():
            return _members(event, "bid", "ask", "last", "volume")
        case PublicTrade() | Trade():
            return _members(event, "side", "quantity", "price", "order_id")
        case Candle():
            return _members(event, "open", "high", "low", "close", "volume", "closed")
        case Depth():
            kind = "snapshot" if event.snapshot else "delta"
            return f"{kind} {len(event.bids)} bids {len(event.asks)} asks"
        case Order():
            return _members(
                event, "event", "id", "symbol", "side", "quantity", "filled_quantity", "limit_price", "status"
            )
        case Position():
            return _members(event, "event", "id", "symbol", "side", "quantity", "average_entry_price", "unrealized_pnl")
    from attrs import fields

    names = [field.name for field in fields(type(event)) if field.name not in ("data", "timestamp", "native_symbol")]
    return _members(event, *names)[:200]


def _members(event: Event, *names: str) -> str:
    values = ((name, getattr(event, name, None)) for name in names)
    return "  ".join(f"{name} {value}" for name, value in values if value is not None)
