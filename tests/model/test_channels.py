import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.channels import (
    MAX_LENGTH,
    PREFIXES,
    ChannelError,
    Stream,
    Topic,
    channel_name,
    parse_channel,
    quote_symbol,
    split_prefix,
    topic_kind,
    unquote_symbol,
    valid_provider,
)
from relay.model.events import KINDS, MARKET_KINDS

symbols = st.text(min_size=1, max_size=12)
pusher_charset = re.compile(r"[A-Za-z0-9_\-=@,.;]+").fullmatch


@given(symbols)
def test_any_symbol_survives_both_ways_in_the_allowed_characters(symbol: str) -> None:
    quoted = quote_symbol(symbol)
    assert unquote_symbol(quoted) == symbol
    assert pusher_charset(quoted)
    assert "." not in quoted


@given(symbols, symbols)
def test_two_symbols_never_share_a_name(one: str, other: str) -> None:
    assert (quote_symbol(one) == quote_symbol(other)) == (one == other)


@given(
    symbols,
    st.sampled_from(sorted(MARKET_KINDS - {"candle"})),
    st.sampled_from(("", *PREFIXES)),
    st.sampled_from(["binance", "acme-fx", "all"]),
)
def test_market_streams_both_ways(symbol: str, kind: str, prefix: str, provider: str) -> None:
    stream = Stream(provider, Topic(kind=kind, symbol=symbol))
    name = channel_name(stream, prefix)
    assert parse_channel(name) == stream
    assert split_prefix(name) == (prefix, channel_name(stream))
    assert len(name) <= MAX_LENGTH
    assert pusher_charset(name)


@given(symbols, st.sampled_from(["1m", "4h", "1d", "1w", "1mo"]))
def test_candles_and_accounts_both_ways(name: str, timeframe: str) -> None:
    candle = Stream("kraken", Topic(kind="candle", symbol=name, timeframe=timeframe))
    account = Stream("helio", Topic(kind="account", account=name))
    assert parse_channel(channel_name(candle, "cache-")) == candle
    assert parse_channel(channel_name(account, "presence-")) == account
    assert parse_channel("status.helio") == Stream("helio", Topic(kind="status"))


def test_the_documented_names() -> None:
    assert channel_name(Stream("binance", Topic(kind="quote", symbol="BTC/USDT"))) == "quote.binance.BTC-USDT"
    assert (
        channel_name(Stream("kraken", Topic(kind="candle", symbol="BTC/USD", timeframe="1m")))
        == "candle.kraken.BTC-USD.1m"
    )
    assert channel_name(Stream("crosstrade", Topic(kind="quote", symbol="ES 09-26"))) == "quote.crosstrade.ES=2009=2D26"


def test_a_name_over_the_limit_is_refused_with_the_name() -> None:
    topic = Topic(kind="quote", symbol="x" * (MAX_LENGTH - len("quote.a.")))
    assert len(channel_name(Stream("a", topic))) == MAX_LENGTH
    with pytest.raises(ChannelError, match=r"172 characters, the limit is 164: private-quote\.a\.xxx"):
        channel_name(Stream("a", topic), "private-")
    with pytest.raises(ChannelError, match="the limit is 164"):
        parse_channel("quote.a." + "x" * MAX_LENGTH)


@pytest.mark.parametrize(
    "name",
    ["", "quote", "quote.binance", "quote.binance.", "quote..BTC", "quote.Binance.BTC", "quote.binance.BTC.1m", "candle.binance.BTC", "candle.b.BTC.1x",
     "trade.binance.BTC", "quote.binance.=GG", "quote.binance.=2d", "quote.binance.=41", "quote.binance.=FF", "account.helio.a", "cache-account.helio.a",
     "status.helio.x", "quote.binance.BTC@", "my-channel", "private-chat"],
)  # fmt: skip
def test_what_is_no_stream_is_refused(name: str) -> None:
    with pytest.raises(ChannelError):
        parse_channel(name)


@given(st.text(max_size=60))
def test_any_text_is_a_stream_with_exactly_this_name_or_refused(name: str) -> None:
    try:
        stream = parse_channel(name)
    except ChannelError:
        return
    assert channel_name(stream, split_prefix(name)[0]) == name


def test_every_event_kind_has_a_topic() -> None:
    assert {topic_kind(kind) for kind in KINDS} == MARKET_KINDS | {"account", "status"}
    assert valid_provider("acme-fx")
    assert not any(valid_provider(name) for name in ("", "all", "A", "a.b", "-a", "a b"))
