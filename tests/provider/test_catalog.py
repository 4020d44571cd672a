"""The catalog's streams and their channels."""

import pytest

from relay.adapter import Offer
from relay.model.channels import channel_name
from relay.model.events import ACCOUNT_KINDS
from relay.provider.catalog import CatalogEntry, UnknownStream, find, merged_entries, provider_entries

OFFERS = (
    Offer(kind="quote"),
    Offer(kind="candle", timeframes=("1m", "1h"), example={"symbol": "BTC/USD"}),
    Offer(kind="account", visibility="presence"),
)


def entries(**known: object) -> list[CatalogEntry]:
    return provider_entries("helio", OFFERS, **known)  # type: ignore[arg-type]


def named(id: str, **known: object) -> CatalogEntry:
    return find(entries(**known), id)


def test_a_provider_has_an_entry_per_kind_and_its_status() -> None:
    ids = {entry.id for entry in entries(accounts=("demo",))}
    assert {"helio.quote", "helio.candle", "helio.status", "helio.staleness"} <= ids
    assert {f"helio.{kind}" for kind in ACCOUNT_KINDS} <= ids


def test_without_an_account_there_are_no_account_streams() -> None:
    assert not [entry for entry in entries() if entry.kind in ACCOUNT_KINDS]


@pytest.mark.parametrize(
    ("id", "filters", "channel", "event"),
    [
        ("helio.quote", {"symbol": "EUR/USD"}, "quote.helio.EUR-USD", "quote"),
        ("helio.candle", {"symbol": "BTC/USD", "timeframe": "1h"}, "candle.helio.BTC-USD.1h", "candle"),
        ("helio.account", {"account": "demo"}, "presence-account.helio.demo", "account"),
        ("helio.order", {"account": "demo"}, "presence-account.helio.demo", "order"),
        ("helio.status", {}, "status.helio", "connection"),
        ("helio.staleness", {}, "status.helio", "staleness"),
    ],
)
def test_filters_choose_a_channel_and_the_kind_is_its_event(
    id: str, filters: dict[str, str], channel: str, event: str
) -> None:
    entry = named(id, accounts=("demo",))
    assert channel_name(entry.stream(filters), entry.prefix) == channel
    assert entry.event == event


@pytest.mark.parametrize(
    ("id", "filters", "field", "says"),
    [
        ("helio.quote", {}, "filter.symbol", "needs the filter symbol, for example EUR/USD"),
        ("helio.quote", {"symbol": ""}, "filter.symbol", "empty"),
        ("helio.quote", {"symbol": "X", "depth": "5"}, "filter.depth", "it has symbol"),
        ("helio.quote", {"symbol": "x" * 200}, "filter.symbol", "164"),
        ("helio.candle", {"symbol": "X"}, "filter.timeframe", "for example 1m"),
        ("helio.candle", {"symbol": "X", "timeframe": "1M"}, "filter.timeframe", "the nearest is 1m"),
        ("helio.status", {"symbol": "X"}, "filter.symbol", "it has none"),
    ],
)
def test_wrong_filters_are_named(id: str, filters: dict[str, str], field: str, says: str) -> None:
    with pytest.raises(UnknownStream, match=says) as raised:
        named(id, symbols=("EUR/USD",)).stream(filters)
    assert raised.value.field == field


def test_a_timeframe_that_makes_no_channel_is_refused_where_none_is_declared() -> None:
    entry = CatalogEntry(provider="x", kind="candle")
    assert entry.complete({"symbol": "X", "timeframe": "4h"})
    assert not entry.complete({"symbol": "X", "timeframe": "four hours"})
    assert not entry.complete({"symbol": "X", "timeframe": "1m.2"})


def test_an_unknown_account_gets_the_nearest() -> None:
    entry = named("helio.order", accounts=("demo", "live"))
    entry.check_account({"account": "demo"})
    with pytest.raises(UnknownStream, match="the nearest is demo"):
        entry.check_account({"account": "dem"})


def test_an_unknown_stream_gets_the_nearest() -> None:
    with pytest.raises(UnknownStream, match=r"the nearest is helio\.quote") as raised:
        named("helio.quotes")
    assert raised.value.field == "stream"
    with pytest.raises(UnknownStream, match="no provider"):
        find([], "helio.quote")


def test_every_example_of_a_provider_with_a_symbol_and_an_account_chooses_a_stream() -> None:
    for entry in entries(symbols=("EUR/USD",), accounts=("demo",)):
        assert entry.complete(entry.example), entry.id


def test_known_symbols_come_before_the_offers_own_example() -> None:
    assert named("helio.candle").example == {"symbol": "BTC/USD", "timeframe": "1m"}
    assert named("helio.candle", symbols=("EUR/USD",)).example == {"symbol": "EUR/USD", "timeframe": "1m"}
    assert named("helio.quote").example == {}
    assert len(named("helio.quote", symbols=[f"S{n}" for n in range(5000)]).symbols) == 12


def test_private_market_data_stand_behind_private_channels() -> None:
    entry = named("helio.quote", private=True)
    assert channel_name(entry.stream({"symbol": "X"}), entry.prefix) == "private-quote.helio.X"
    assert named("helio.status", private=True).visibility == "public"


def test_all_merges_what_everybody_may_read() -> None:
    private = provider_entries("acme", (Offer(kind="depth"),), private=True)
    other = provider_entries("binance", (Offer(kind="candle", timeframes=("1h", "1d")),))
    merged = {entry.id: entry for entry in merged_entries([*entries(accounts=("demo",)), *other, *private])}
    assert set(merged) == {"all.quote", "all.candle"}
    assert merged["all.candle"].timeframes == ("1m", "1h", "1d")
    assert merged["all.candle"].complete(merged["all.candle"].example)
