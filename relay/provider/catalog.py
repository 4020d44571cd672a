"""The catalog: the available streams with their ids, filters and channels.

A stream's id is ``<provider>.<kind>`` (``helio.quote``, ``all.quote``, ``helio.order``); its filters (``symbol``,
``timeframe``, ``account``) select one channel. All kinds of an account are on the account's channel, and all kinds of
session state on the provider's status channel; there the kind is the name of the event to bind to. So ``helio.account`` and
``helio.order`` are two events on one channel. The event of ``<provider>.status`` is ``connection``.

Filters may follow the id after a colon, ``helio.quote:EUR/USD``, ``kraken.candle:BTC/USD:1m``, ``helio.order:demo``, for
clients that distinguish streams by their ids alone, such as Shuriken's SDK.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal

from attrs import field, frozen

from relay.adapter import Offer
from relay.errors import nearest
from relay.model.channels import ALL, ChannelError, Stream, Topic, channel_name, parse_channel, topic_kind
from relay.model.events import ACCOUNT_KINDS, KINDS, MARKET_KINDS, Instrument
from relay.model.symbols import FoundSymbol

Visibility = Literal["public", "private", "presence"]

_PREFIX: Mapping[Visibility, str] = {"public": "", "private": "private-", "presence": "presence-"}

_ABOUT = {
    "symbol": "Canonical symbol, BASE/QUOTE for pairs.",
    "timeframe": "Length of one candle.",
    "account": "Configured name of the account.",
}
#: Most symbols in an entry; a provider may have thousands.
_SYMBOLS = 12
#: Status kinds with a stream of their own. A `gap` is published on the channel whose events it concerns.
_STATUS_STREAMS = ("status", "rate_limit", "staleness", "error")


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


class UnknownStream(ValueError):
    """A stream or filter that is not in the catalog; the text names the nearest that is.

    ``field`` is the wrong member of the request: ``stream`` or ``filter.<name>``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@frozen(kw_only=True)
class Filter:
    """One filter of a stream."""

    name: str
    required: bool = True
    description: str = ""
    choices: tuple[str, ...] = ()


@frozen(kw_only=True)
class CatalogEntry:
    """One kind of stream of one provider.

    Attributes:
        kind: the event's kind, or ``status``.
        visibility: ``public``; ``private`` if the provider's market data need authorization; ``presence`` for accounts.
        timeframes: the timeframes of candles; empty if not known.
        accounts: the configured accounts, for account streams.
        symbols: some symbols that are known to work, the best example first.
        example: filters that work now; empty if none are needed or known.
    """

    provider: str
    kind: str
    visibility: Visibility = "public"
    timeframes: tuple[str, ...] = field(default=(), converter=_texts)
    accounts: tuple[str, ...] = field(default=(), converter=_texts)
    symbols: tuple[str, ...] = field(default=(), converter=_texts)
    example: Mapping[str, str] = field(factory=dict)

    @property
    def id(self) -> str:
        return f"{self.provider}.{self.kind}"

    @property
    def event(self) -> str:
        """The name of the event to bind to on the channel."""
        return "connection" if self.kind == "status" else self.kind

    @property
    def topic_kind(self) -> str:
        """The kind of topic whose channel carries it."""
        return "status" if self.kind == "status" else topic_kind(self.kind)

    @property
    def filters(self) -> tuple[Filter, ...]:
        names: tuple[str, ...] = ()
        if self.kind in ACCOUNT_KINDS:
            names = ("account",)
        elif self.kind in MARKET_KINDS:
            names = ("symbol", "timeframe") if self.kind == "candle" else ("symbol",)
        return tuple(map(self._filter, names))

    def _filter(self, name: str) -> Filter:
        choices = {"timeframe": self.timeframes, "account": self.accounts}.get(name, ())
        about = f"{_ABOUT[name]} One of: {', '.join(choices)}." if choices else _ABOUT[name]
        return Filter(name=name, description=about, choices=choices)

    def stream(self, filters: Mapping[str, str]) -> Stream:
        """Return the stream that these filters select.

        Raises:
            UnknownStream: a filter is missing, unknown or wrong; its ``field`` names it.
        """
        names = [wanted.name for wanted in self.filters]
        for name, value in filters.items():
            if name not in names:
                offered = f"it has {', '.join(names)}" if names else "it has none"
                raise UnknownStream(f"filter.{name}", f"{self.id} has no filter {name!r:.64}: {offered}")
            if not value:
                raise UnknownStream(f"filter.{name}", f"filter {name} of {self.id} is empty")
        for name in names:
            if name not in filters:
                raise UnknownStream(f"filter.{name}", f"{self.id} needs the filter {name}{self._such_as(name)}")
        self._check_choice("timeframe", self.timeframes, filters)
        stream = Stream(self.provider, Topic(kind=self.topic_kind, **filters))
        try:
            named = parse_channel(channel_name(stream, self.prefix))
        except ChannelError as error:
            raise UnknownStream(f"filter.{names[-1]}", f"{self.id}: {error}") from None
        if named != stream:
            raise UnknownStream(f"filter.{names[-1]}", f"{self.id}: no channel name can be built from these filters")
        return stream

    def named_filters(self, named: str, filters: Mapping[str, str]) -> Mapping[str, str]:
        """Return ``filters`` and the ones in ``named``, the part of an id after its first colon.

        Raises:
            UnknownStream: the stream has no filters, or one is given twice.
        """
        if not named:
            return filters
        names = [wanted.name for wanted in self.filters]
        if not names:
            raise UnknownStream("stream", f"{self.id} has no filters")
        in_id = dict(zip(names, named.rsplit(":", len(names) - 1), strict=False))  # a symbol may contain colons
        for name in in_id:
            if name in filters:
                raise UnknownStream(
                    f"filter.{name}",
                    f"the {name} is given twice: in the stream id {self.id}:{named:.64} and as a filter",
                )
        return {**filters, **in_id}

    def complete(self, filters: Mapping[str, str]) -> bool:
        """Return True if these filters select a stream."""
        try:
            self.stream(filters)
        except UnknownStream:
            return False
        return True

    def check_account(self, filters: Mapping[str, str]) -> None:
        """Raise UnknownStream for an account that is not configured.

        The text names an existing account, so call it only for clients that may know the accounts.
        """
        self._check_choice("account", self.accounts, filters)

    def _check_choice(self, name: str, choices: Sequence[str], filters: Mapping[str, str]) -> None:
        if choices and name in filters and filters[name] not in choices:
            close = nearest(filters[name], choices, cutoff=0.0)
            raise UnknownStream(
                f"filter.{name}", f"{self.id} has no {name} {filters[name]!r:.64}; the nearest is {close}"
            )

    def _such_as(self, name: str) -> str:
        return f", for example {self.example[name]}" if name in self.example else ""

    @property
    def prefix(self) -> str:
        """The beginning of the channel's name."""
        return _PREFIX[self.visibility]


@frozen
class ListedSymbol:
    """A symbol that a search found at one provider.

    Attributes:
        kinds: the kinds of its market streams.
        prefix: the prefix of their channel names.
        instrument: the instrument as the provider's metadata describe it, None if they do not.
    """

    provider: str
    found: FoundSymbol
    kinds: tuple[str, ...]
    prefix: str
    instrument: Instrument | None = None

    def channel(self, kind: str) -> str:
        """Return the channel name of a kind, without the timeframe for candles. Raises ChannelError if it is too long."""
        return channel_name(Stream(self.provider, Topic(kind=kind, symbol=self.found.canonical)), self.prefix)


def find(entries: Iterable[CatalogEntry], id: str) -> CatalogEntry:
    """Return the entry of a stream id; filters after the id are ignored.

    Raises:
        UnknownStream: there is no such stream; the text names the nearest.
    """
    ids = {entry.id: entry for entry in entries}
    id = id.partition(":")[0]
    if id in ids:
        return ids[id]
    close = nearest(id, ids, cutoff=0.0)
    hint = f"the nearest is {close}" if close else "there are none: no provider is configured"
    raise UnknownStream("stream", f"there is no stream {id!r:.128}; {hint}")


def provider_entries(
    provider: str,
    offers: Iterable[Offer],
    *,
    symbols: Iterable[str] = (),
    accounts: Sequence[str] = (),
    private: bool = False,
) -> list[CatalogEntry]:
    """Return the entries of one configured provider.

    Args:
        symbols: canonical symbols that are known to work, the best example first. Without any, the offer's example is used.
        accounts: the configured accounts; without any there are no account streams.
        private: market streams need authorization.
    """
    known = tuple(islice(dict.fromkeys(symbols), _SYMBOLS))
    entries = []
    for offer in offers:
        if topic_kind(offer.kind) == "account":
            entries += _account_entries(provider, accounts, offer.events)
        elif offer.kind in MARKET_KINDS:
            entries.append(_market_entry(provider, offer, known, private))
    entries += [CatalogEntry(provider=provider, kind=kind) for kind in _STATUS_STREAMS]
    return list({entry.id: entry for entry in entries}.values())


def _account_entries(provider: str, accounts: Sequence[str], carried: Sequence[str]) -> list[CatalogEntry]:
    kinds = [kind for kind in KINDS if kind in ACCOUNT_KINDS and (not carried or kind in carried)] if accounts else []
    return [
        CatalogEntry(
            provider=provider, kind=kind, visibility="presence", accounts=accounts, example={"account": accounts[0]}
        )
        for kind in kinds
    ]


def _market_entry(provider: str, offer: Offer, symbols: tuple[str, ...], private: bool) -> CatalogEntry:
    example = dict(offer.example)
    if symbols:
        example["symbol"] = symbols[0]
    if offer.kind == "candle" and offer.timeframes:
        example.setdefault("timeframe", offer.timeframes[0])
    return CatalogEntry(
        provider=provider,
        kind=offer.kind,
        visibility="private" if private else "public",
        timeframes=offer.timeframes,
        symbols=symbols,
        example=example,
    )


def merged_entries(entries: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    """Return the entries of provider ``all``: one for each market kind that any provider offers publicly.

    Instruments have none: each is the terms of one provider, and is published when it changes only.
    """
    merged: dict[str, CatalogEntry] = {}
    for entry in entries:
        if (
            entry.kind not in MARKET_KINDS
            or entry.kind == "instrument"
            or entry.visibility != "public"
            or entry.provider == ALL
        ):
            continue
        known = merged.get(entry.kind)
        frames = dict.fromkeys((*(known.timeframes if known else ()), *entry.timeframes))
        example = known.example if known and known.example else entry.example
        merged[entry.kind] = CatalogEntry(provider=ALL, kind=entry.kind, timeframes=tuple(frames), example=example)
    return list(merged.values())
