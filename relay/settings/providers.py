"""Check the configured providers against the declarations of their adapters."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import evolve

from relay.adapter import Adapter, Context
from relay.errors import suggestion
from relay.model.channels import ChannelError, Stream, Topic, channel_name, parse_channel, topic_kind, valid_provider
from relay.model.hours import Hours
from relay.model.symbols import SymbolError, SymbolTable
from relay.settings.check import Check, check_url, is_loopback
from relay.settings.tables import AccountSettings, ProviderSettings, ProviderTable, ReplayTable, SecretRef

#: A credential from elsewhere (a plugin): (provider, name) -> value or None. For a named account, name is ``ACCOUNT.NAME``.
Credential = Callable[[str, str], str | None]


def resolve_providers(
    check: Check, adapters: Mapping[str, type[Adapter]], credential: Credential
) -> tuple[ProviderSettings, ...]:
    """Return the enabled providers and report their problems."""
    tables = check.reading.value.providers
    found = [_provider(check, name, table, adapters, credential) for name, table in tables.items()]
    return tuple(provider for provider in found if provider is not None)


def _provider(
    check: Check, name: str, table: ProviderTable, adapters: Mapping[str, type[Adapter]], credential: Credential
) -> ProviderSettings | None:
    if not valid_provider(name):
        check.wrong("a provider's name is lower-case letters, digits, - and _, and not `all`", "providers", name)
    check_url(check, table.url, ("ws", "wss"), "providers", name, "url")
    check_url(check, table.http_url, ("http", "https"), "providers", name, "http_url")
    symbols = _symbols(check, name, table)
    adapter = _adapter(check, name, table, adapters)
    if adapter is None or not table.enabled:
        return None
    options = _options(check, name, table, adapter)
    replay = _replay(check, name, table)
    if replay is None:
        _note_local_host(check, name, table, adapter)
        accounts = tuple(_accounts(check, name, table, adapter, credential))
    else:
        accounts = tuple(_replayed_accounts(table, adapter))
    if not any(problem.path[:2] == ("providers", name) for problem in check.problems):
        _try_adapter(check, adapter, options, name, accounts[0])
    return ProviderSettings(
        name=name,
        adapter=adapter,
        url=table.url,
        http_url=table.http_url,
        options=options,
        symbols=table.symbols,
        pinned=_pinned(check, name, table, adapter, symbols),
        required=table.required,
        linger=table.linger,
        waiting=table.waiting,
        first_data_within=table.first_data_within,
        stale_after=_stale_after(check, name, table, adapter, symbols),
        hours=_hours(check, name, table, adapter, symbols),
        audit=table.audit,
        check_orders=table.check_orders,
        visibility=table.visibility,
        accounts=accounts,
        replay=replay,
    )


def _replay(check: Check, name: str, table: ProviderTable) -> ReplayTable | None:
    """Return the replay of a provider, and refuse everything by which one could reach a live account."""
    if table.replay.file is None:
        return None
    path = ("providers", name)
    for key in ("url", "http_url"):
        if getattr(table, key) is not None:
            check.wrong("a replay connects to nobody; leave it out, or leave out replay.file", *path, key)
    if table.credentials:
        check.wrong("a replay never reaches an account; leave them out, or leave out replay.file", *path, "credentials")
    for account, of_account in table.accounts.items():
        if of_account.credentials:
            reason = "a replay never reaches an account; leave them out, or leave out replay.file"
            check.wrong(reason, *path, "accounts", account, "credentials")
    return evolve(table.replay, file=str(check.secrets.base / table.replay.file))


def _replayed_accounts(table: ProviderTable, adapter: type[Adapter]) -> Iterator[AccountSettings]:
    """Yield the accounts with something in the place of their credentials, for the templates of the adapter."""
    for account in table.accounts or (None,):
        yield AccountSettings(name=account, credentials={each: f"replayed-{each}" for each in adapter.credentials})


def _adapter(
    check: Check, name: str, table: ProviderTable, adapters: Mapping[str, type[Adapter]]
) -> type[Adapter] | None:
    wanted = name if table.adapter is None else table.adapter
    if wanted not in adapters:
        check.wrong(f"no adapter is named {wanted}; {suggestion(wanted, adapters)}", "providers", name, "adapter")
    return adapters.get(wanted)


def _symbols(check: Check, name: str, table: ProviderTable) -> SymbolTable:
    symbols = SymbolTable()
    for native, canonical in table.symbols.items():
        try:
            symbols.add(native, canonical)
        except SymbolError as error:
            check.wrong(f"ambiguous: {error}" if canonical else "is empty", "providers", name, "symbols", native)
    return symbols


def _options(check: Check, name: str, table: ProviderTable, adapter: type[Adapter]) -> Mapping[str, str]:
    declared = {option.name: option for option in adapter.options}
    given = {option: _option_text(value) for option, value in table.options.items()}
    for option, value in given.items():
        if option not in declared:
            unknown = f"adapter {adapter.name} has no such option; {suggestion(option, declared)}"
            check.wrong(unknown, "providers", name, "options", option)
        elif (reason := declared[option].refusal(value)) is not None:
            check.wrong(reason, "providers", name, "options", option)
    return {**adapter.defaults(), **given}


def _note_local_host(check: Check, name: str, table: ProviderTable, adapter: type[Adapter]) -> None:
    """Warn where a provider would be looked for on this machine because nobody said where it is."""
    default = adapter.defaults().get("host", "")
    host = default.rpartition(":")[0] or default
    if "host" not in table.options and table.url is None and host and is_loopback(host):
        check.notes.append(
            f"providers.{name}.options.host: the default, {default}, is this machine; name the provider's host"
        )


def _try_adapter(
    check: Check, adapter: type[Adapter], options: Mapping[str, str], name: str, account: AccountSettings
) -> None:
    """Build the adapter once, so that a value it refuses is reported now and not at the first connection."""
    context = Context(provider=name, account=account.name, options=options, credentials=account.credentials)
    try:
        adapter(context)
    except ValueError as error:
        check.wrong(str(error), "providers", name, "options")


def _option_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- credentials -----------------------------------------------------------------------------------------------------


def _accounts(
    check: Check, name: str, table: ProviderTable, adapter: type[Adapter], credential: Credential
) -> Iterator[AccountSettings]:
    path = ("providers", name)
    shared = _read(check, table.credentials, adapter, *path, "credentials")
    if not table.accounts:
        given = {**_elsewhere(adapter, name, "", credential), **shared}
        _missing(check, given, table.credentials, adapter, *path, "credentials")
        yield AccountSettings(credentials=given)
    for account, of_account in table.accounts.items():
        if not account:
            check.wrong("an account's name is empty", *path, "accounts")
        where = (*path, "accounts", account, "credentials")
        own = _read(check, of_account.credentials, adapter, *where)
        given = {**_elsewhere(adapter, name, f"{account}.", credential), **shared, **own}
        _missing(check, given, {**table.credentials, **of_account.credentials}, adapter, *where)
        yield AccountSettings(name=account, credentials=given)


def _read(check: Check, refs: Mapping[str, SecretRef], adapter: type[Adapter], *path: str) -> dict[str, str]:
    values = {}
    for name, ref in refs.items():
        if name not in adapter.credentials:
            unknown = f"adapter {adapter.name} has no such credential; {suggestion(name, adapter.credentials)}"
            check.wrong(unknown, *path, name)
        elif (value := check.secret(ref, *path, name)) is not None:
            values[name] = value
    return values


def _elsewhere(adapter: type[Adapter], provider: str, prefix: str, credential: Credential) -> dict[str, str]:
    found = ((name, credential(provider, prefix + name)) for name in adapter.credentials)
    return {name: value for name, value in found if value is not None}


def _missing(
    check: Check, given: Mapping[str, str], written: Mapping[str, SecretRef], adapter: type[Adapter], *path: str
) -> None:
    for name in adapter.credentials:
        if name not in given and name not in written:
            check.wrong(f"missing; adapter {adapter.name} needs it", *path, name)


# --- streams ---------------------------------------------------------------------------------------------------------


def _pinned(
    check: Check, name: str, table: ProviderTable, adapter: type[Adapter], symbols: SymbolTable
) -> tuple[Topic, ...]:
    topics: dict[Topic, None] = {}
    for text in table.pinned:
        try:
            topic = _stream(text, name, table, adapter, symbols)
            topics[topic] = None
            _note_symbol(check, name, table, adapter, topic)
        except (ChannelError, SymbolError) as error:
            check.wrong_item(f'"{text}": {error}', "providers", name, "pinned")
    return tuple(topics)


def _note_symbol(check: Check, name: str, table: ProviderTable, adapter: type[Adapter], topic: Topic) -> None:
    """Warn of a pinned symbol that is probably misspelt: only the provider's own list, which comes later, can tell."""
    symbol, known = topic.symbol, list(table.symbols.values())
    examples = [example for offer in adapter.offers if (example := offer.example.get("symbol")) is not None]
    if symbol is None or symbol in known or symbol in examples:
        return
    if known:
        check.notes.append(
            f"providers.{name}.pinned: {symbol} is not in providers.{name}.symbols; {suggestion(symbol, known)}"
        )
    elif examples and "/" not in symbol and all("/" in example for example in examples):
        check.notes.append(
            f"providers.{name}.pinned: {symbol} has no slash; symbols are written like {examples[0]} here"
        )


def _stream(text: str, name: str, table: ProviderTable, adapter: type[Adapter], symbols: SymbolTable) -> Topic:
    """Return the stream that ``text`` names. ChannelError or SymbolError if the adapter has no such stream."""
    topic = _topic(text, name)
    _offered(topic, adapter, tuple(table.accounts))
    if topic.symbol is not None:
        symbols.native(topic.symbol)
    channel_name(Stream(name, topic))
    return topic


def _topic(text: str, provider: str) -> Topic:
    """Parse `KIND SYMBOL`, `candle SYMBOL TIMEFRAME`, `account ACCOUNT`, or a channel's name."""
    match text.split(" ", 1):
        case ["candle", rest] if " " in rest:
            symbol, _, timeframe = rest.rpartition(" ")
            return Topic(kind="candle", symbol=symbol, timeframe=timeframe)
        case ["account", account]:
            return Topic(kind="account", account=account)
        case [kind, symbol] if kind != "candle" and symbol.strip():
            return Topic(kind=kind, symbol=symbol)
        case [name] if "." in name:
            stream = parse_channel(name)
            if stream.provider != provider:
                raise ChannelError(f"is a stream of {stream.provider}")
            return stream.topic
    raise ChannelError('write it like "quote BTC/USDT", or "candle BTC/USDT 1m"')


def _offered(topic: Topic, adapter: type[Adapter], accounts: tuple[str, ...]) -> None:
    kinds = {topic_kind(offer.kind) for offer in adapter.offers}
    if topic.kind not in kinds:
        raise ChannelError(f"adapter {adapter.name} has no {topic.kind}; {suggestion(topic.kind, kinds)}")
    if topic.kind == "account" and topic.account not in accounts:
        raise ChannelError(f"no such account; {suggestion(topic.account or '', accounts)}")
    if topic.kind == "candle":
        known = [timeframe for offer in adapter.offers if offer.kind == "candle" for timeframe in offer.timeframes]
        if known and topic.timeframe not in known:
            raise ChannelError(
                f"adapter {adapter.name} has no candles of {topic.timeframe}; there are: {', '.join(known)}"
            )


def stream_of(text: str, settings: ProviderSettings) -> Topic:
    """Return the stream of a provider that ``text`` names, as in ``pinned``.

    Raises:
        ChannelError, SymbolError: it has no such stream.
    """
    topic = _topic(text, settings.name)
    _offered(topic, settings.adapter, tuple(each.name for each in settings.accounts if each.name is not None))
    return topic


# --- silence ---------------------------------------------------------------------------------------------------------


def _stale_after(
    check: Check, name: str, table: ProviderTable, adapter: type[Adapter], symbols: SymbolTable
) -> Mapping[str | Topic, float]:
    """Return seconds by kind or by stream, of the kinds and streams that the adapter has."""
    kinds = {topic_kind(offer.kind) for offer in adapter.offers}
    found: dict[str | Topic, float] = {}
    for text, seconds in table.stale_after.items():
        try:
            if text in kinds:
                found[text] = seconds
            elif " " in text or "." in text:
                found[_stream(text, name, table, adapter, symbols)] = seconds
            else:
                raise ChannelError(f"adapter {adapter.name} has no {text}; {suggestion(text, kinds)}")
        except (ChannelError, SymbolError) as error:
            check.wrong(str(error), "providers", name, "stale_after", text)
    return found


def _hours(
    check: Check, name: str, table: ProviderTable, adapter: type[Adapter], symbols: SymbolTable
) -> Mapping[str | None, Hours]:
    """Return the market hours by symbol; None is for all others."""
    kinds = {topic_kind(offer.kind) for offer in adapter.offers}
    found: dict[str | None, Hours] = {}
    for symbol, text in table.hours.items():
        try:
            if symbol in kinds:
                raise ValueError(f"hours are a market's: write default, or a symbol, not {symbol}")
            if symbol != "default":
                symbols.native(symbol)
            found[None if symbol == "default" else symbol] = Hours.parse(text)
        except ValueError as error:
            check.wrong(str(error), "providers", name, "hours", symbol)
    return found
