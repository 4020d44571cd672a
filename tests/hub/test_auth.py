"""The API key that a text is, and its rights."""

import pytest

from relay.auth import ApiKey, KeyRing, hash_key
from relay.model.channels import Stream, Topic, parse_channel

ALPHA = "k-alpha-0123456789"
BETA = "k-beta-0123456789"


def key(name: str = "alpha", presented: str = ALPHA, **rights: tuple[str, ...]) -> ApiKey:
    return ApiKey(name=name, digest=hash_key(presented), **rights)


def account(provider: str, name: str) -> Stream:
    return Stream(provider, Topic(kind="account", account=name))


def test_only_the_presented_key_finds_its_entry() -> None:
    ring = KeyRing([key(), key("beta", BETA)])
    assert [found.name for text in (ALPHA, BETA) if (found := ring.find(text))] == ["alpha", "beta"]
    for wrong in ("", "alpha", ALPHA[:-1], ALPHA + " ", hash_key(ALPHA), "\ud800", "ключ"):
        assert ring.find(wrong) is None


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(kept: str, presented: str) -> bool:
        compared.append(kept)
        return kept == presented

    monkeypatch.setattr("relay.auth.hmac.compare_digest", compare)
    ring = KeyRing([key(), key("beta", BETA)])
    ring.find(ALPHA)
    ring.find("nobody's")
    assert compared == [hash_key(ALPHA), hash_key(BETA)] * 2


def test_neither_key_nor_digest_is_shown() -> None:
    shown = repr(key(accounts=("helio.demo",)))
    assert ALPHA not in shown
    assert hash_key(ALPHA) not in shown
    assert "helio.demo" in shown


def test_by_default_a_key_reads_every_market_and_status_stream_and_no_account() -> None:
    alpha = key()
    assert alpha.may_read(parse_channel("quote.binance.BTC-USDT"))
    assert alpha.may_read(parse_channel("cache-candle.all.BTC-USDT.1m"))
    assert alpha.may_read(parse_channel("status.helio"))
    assert not alpha.may_read(parse_channel("presence-account.helio.demo"))
    assert not alpha.may_trade("helio", "demo")


@pytest.mark.parametrize(
    ("pattern", "readable"),
    [
        ("binance.*", {"quote.binance.X", "candle.binance.X.1m"}),
        ("quote.*", {"quote.binance.X", "quote.binance-us.X", "quote.all.X"}),
        ("*.quote", {"quote.binance.X", "quote.binance-us.X", "quote.all.X"}),
        ("binance.quote", {"quote.binance.X"}),
        ("bin*", {"quote.binance.X", "quote.binance-us.X", "candle.binance.X.1m"}),
        ("*.binance", {"quote.binance.X", "candle.binance.X.1m"}),
        ("candle.binance.X.1m", {"candle.binance.X.1m"}),
        ("binance.candle.X.1h", set()),
        ("*.*.Y", set()),
    ],
)
def test_stream_patterns_match_the_whole_id(pattern: str, readable: set[str]) -> None:
    channels = ("quote.binance.X", "quote.binance-us.X", "quote.all.X", "candle.binance.X.1m")
    alpha = key(streams=(pattern,))
    assert {channel for channel in channels if alpha.may_read(parse_channel(channel))} == readable


def test_accounts_are_granted_one_by_one_and_trading_implies_reading() -> None:
    alpha = key(accounts=("helio.demo",), trade=("tektii.*",))
    assert alpha.may_read(account("helio", "demo"))
    assert not alpha.may_read(account("helio", "demo2"))
    assert not alpha.may_read(account("helio2", "demo"))
    assert not alpha.may_trade("helio", "demo")
    assert alpha.may_trade("tektii", "live")
    assert alpha.may_read(account("tektii", "live"))


def test_stream_rights_never_reach_an_account() -> None:
    assert not key(streams=("*", "*.*", "helio.*")).may_read(account("helio", "demo"))


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "a b"}, {"digest": "A" * 64}, {"digest": "ab"}, {"digest": ALPHA}]
)
def test_a_malformed_key_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        ApiKey(**{"name": "alpha", "digest": hash_key(ALPHA), **wrong})


def test_rights_are_lists_and_names_are_unique() -> None:
    with pytest.raises(TypeError, match="list of patterns"):
        key(streams="*")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'alpha'"):
        KeyRing([key(), key(presented=BETA)])
