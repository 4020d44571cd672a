"""Patterns of rights: the streams and accounts that an API key or an app may read.

- A stream's pattern is the name of its channel without a prefix (``quote.binance.BTC-USDT``, ``candle.kraken.*.1m``,
  ``status.helio``), or its id in the catalog, with the symbol behind it or not (``binance.quote``,
  ``binance.quote.BTC/USDT``). A name that begins with a kind is a channel's. Parts that are left out stand for all:
  ``quote.binance`` is every quote of binance.
- An account's pattern is ``<provider>.<account>``.

``*`` stands for any text within a part, and at the end of a pattern for everything that follows too: ``quote.*``,
``binance.*``, ``*``. Configuration, documentation and matching read patterns here and nowhere else.
"""

import re
from collections.abc import Iterable

from attrs import field, frozen

from relay.errors import nearest, suggestion
from relay.model.channels import Stream, quote_symbol, split_prefix
from relay.model.events import MARKET_KINDS

#: The kinds of streams that a pattern may name; accounts have patterns of their own.
PATTERN_KINDS = MARKET_KINDS | {"status"}

_ANY = "*"
_written_in_channels = re.compile(r"[A-Za-z0-9_=*-]*").fullmatch


class PatternError(ValueError):
    """Raised for a pattern that can never match; the text has the pattern that was probably meant."""


def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, part.split(_ANY))), re.DOTALL)


def _can_be_kind(part: str) -> bool:
    return any(map(_compiled(part).fullmatch, PATTERN_KINDS))


def _checked(text: str, example: str) -> str:
    prefix, rest = split_prefix(text)
    if not text:
        raise PatternError(f"a pattern is empty; write for example {example}")
    if prefix:
        raise PatternError(f"{text}: write it without {prefix}")
    return rest


@frozen
class StreamPattern:
    """One pattern of market and status streams."""

    text: str
    kinds: frozenset[str]
    """The kinds it can match."""
    provider_part: str
    """Part of the pattern about the provider, as written."""
    provider: re.Pattern[str] = field(repr=False)
    symbol: re.Pattern[str] = field(repr=False)
    """Matches symbols as channels write them."""
    timeframe: re.Pattern[str] = field(repr=False)

    def matches(self, stream: Stream) -> bool:
        """Return True if the pattern names this market or status stream."""
        topic = stream.topic
        if topic.kind not in self.kinds or self.provider.fullmatch(stream.provider) is None:
            return False
        if topic.kind == "status":
            return True
        return (
            self.symbol.fullmatch(quote_symbol(topic.symbol or "")) is not None
            and self.timeframe.fullmatch(topic.timeframe or "") is not None
        )

    def may_read_some(self, provider: str, kind: str) -> bool:
        """Return True if the pattern matches some streams of this kind of this provider."""
        return kind in self.kinds and self.provider.fullmatch(provider) is not None


def stream_pattern(text: str) -> StreamPattern:
    """Parse a pattern of market and status streams.

    Raises:
        PatternError: no stream can ever match it.
    """
    parts = _checked(text, "quote.*").split(".")
    if len(parts) == 1 and not text.endswith(_ANY):
        raise PatternError(f"{text}: names no stream; write {text}.*")
    if len(parts) > 4 or "" in parts:
        raise PatternError(
            f"{text}: a pattern is KIND.PROVIDER.SYMBOL or PROVIDER.KIND.SYMBOL, a point in a symbol =2E"
        )
    first, second, symbol, timeframe = [*parts, *[_ANY] * (4 - len(parts))]
    if "account" in (first, second):
        raise PatternError(f"{text}: accounts are no streams; grant them under accounts, as PROVIDER.ACCOUNT")
    if first in PATTERN_KINDS or not _can_be_kind(second):
        kind, provider = first, second
    else:
        provider, kind = first, second
    kinds = frozenset(filter(_compiled(kind).fullmatch, PATTERN_KINDS))
    if not kinds:
        meant = second if nearest(first, PATTERN_KINDS) is None and nearest(second, PATTERN_KINDS) else kind
        raise PatternError(f"{text}: no stream is of kind {meant}; {suggestion(meant, PATTERN_KINDS)}")
    if len(parts) > 2 and (symbol, timeframe) != (_ANY, _ANY):
        kinds -= {"status"}
    if len(parts) > 3 and timeframe != _ANY:
        kinds &= {"candle"}
    if not kinds:
        keep, behind = (2, "symbol") if kind == "status" else (3, "timeframe")
        raise PatternError(f"{text}: {kind} streams have no {behind}; write {'.'.join(parts[:keep])}")
    if not _written_in_channels(symbol):
        symbol = _ANY.join(map(quote_symbol, symbol.split(_ANY)))
    return StreamPattern(text, kinds, provider, *map(_compiled, (provider, symbol, timeframe)))


@frozen
class AccountPattern:
    """One pattern of accounts."""

    text: str
    provider_part: str
    """Part of the pattern about the provider, as written."""
    provider: re.Pattern[str] = field(repr=False)
    account: re.Pattern[str] = field(repr=False)

    def matches(self, provider: str, account: str) -> bool:
        """Return True if the pattern names this account of this provider."""
        return self.provider.fullmatch(provider) is not None and self.account.fullmatch(account) is not None

    @property
    def whole_provider(self) -> bool:
        """True if it names every account of the providers that it matches."""
        return self.account.pattern == _compiled(_ANY).pattern


def account_pattern(text: str) -> AccountPattern:
    """Parse a pattern of accounts, ``<provider>.<account>``.

    Raises:
        PatternError: no account can ever match it.
    """
    rest = _checked(text, "PROVIDER.ACCOUNT")
    provider, dot, account = rest.partition(".")
    if provider == "account":
        raise PatternError(f"{text}: write {account or 'PROVIDER.ACCOUNT'}")
    if not dot and not rest.endswith(_ANY):
        raise PatternError(f"{text}: names no account; write {text}.* for all of this provider's")
    account = account if dot else _ANY
    if not provider or not account:
        raise PatternError(f"{text}: a pattern of accounts is PROVIDER.ACCOUNT")
    return AccountPattern(text, provider, _compiled(provider), _compiled(account))


def any_account(patterns: Iterable[AccountPattern], provider: str, account: str) -> bool:
    """Return True if one of the patterns names this account."""
    return any(pattern.matches(provider, account) for pattern in patterns)
