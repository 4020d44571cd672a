"""Answers of public venues to requests that overlap, are repeated, or come too fast."""

import pytest

from relay.adapter import Ack, Context, Nack, Send, Subscribe, Unknown, Unsubscribe, dumps, loads
from relay.adapter.reading import REMEMBERED, is_throttled
from relay.model.channels import Topic
from relay.model.events import Error, PublicTrade, Quote
from relay_bitfinex.adapter import Bitfinex
from relay_coinbase.adapter import Coinbase
from relay_kraken_futures.adapter import KrakenFutures
from relay_kucoin.adapter import KuCoin

BOOK, TICKER = Topic(kind="depth", symbol="BTCUSD"), Topic(kind="quote", symbol="BTCUSD")
SUBSCRIBED = {"event": "subscribed", "channel": "ticker", "chanId": 11, "symbol": "tBTCUSD", "pair": "BTCUSD"}


def said(adapter, *messages):
    return [item for message in messages for item in adapter.decode(dumps(message))]


def test_bitfinex_sizes_of_a_ticker_are_sums_of_levels_and_not_those_of_the_best():
    ticker = [11, [1.5, 77, 2, 88, 0, 0, 1.75, 900, 3, 1], 1]
    (quote,) = said(Bitfinex(Context(provider="bitfinex")), SUBSCRIBED, ticker)[1:]
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("1.5", None, "2", None)
    assert (quote.data["bid_size"], quote.data["ask_size"]) == (77, 88)


def test_bitfinex_what_is_subscribed_already_is_no_refusal():
    again = {"event": "error", "msg": "subscribe: dup", "code": 10301, "channel": "ticker", "symbol": "tBTCUSD"}
    assert said(Bitfinex(Context(provider="bitfinex")), again) == [Ack((TICKER,))]


def test_coinbase_a_later_refusal_is_not_about_a_book_that_is_subscribed():
    """``subscriptions`` names the channel ``level2_batch`` by its older name."""
    adapter = Coinbase(Context(provider="coinbase"))
    list(adapter.encode(Subscribe((BOOK,))))
    answer = {"type": "subscriptions", "channels": [{"name": "level2_50", "product_ids": ["BTCUSD"]}]}
    assert said(adapter, answer) == [Ack((BOOK,))]
    list(adapter.encode(Subscribe((TICKER,))))
    (refused,) = said(adapter, {"type": "error", "message": "Failed to subscribe", "reason": "no such product"})
    assert refused == Nack((TICKER,), "Failed to subscribe: no such product")
    assert isinstance(said(adapter, {"type": "error", "message": "Malformed"})[0], Error)


REFUSALS = {
    Coinbase: ({"type": "error", "message": "no"}, {"type": "subscriptions", "channels": []}),
    KrakenFutures: (
        {"event": "error", "message": "no"},
        {"event": "unsubscribed", "feed": "ticker", "product_ids": ["BTCUSD"]},
    ),
}


@pytest.mark.parametrize("venue", REFUSALS)
def test_a_refused_end_of_a_subscription_refuses_none_that_waits(venue):
    """Neither venue's refusal says what was asked for: it may be of the end, whose topic nobody wants any more."""
    refusal, ended = REFUSALS[venue]
    adapter = venue(Context(provider=venue.name))
    list(adapter.encode(Subscribe((BOOK,))))
    list(adapter.encode(Unsubscribe((TICKER,))))
    assert said(adapter, refusal) == [Error(code="request", message="no")]
    assert said(adapter, refusal) == [Nack((BOOK,), "no")]
    list(adapter.encode(Subscribe((BOOK,))))
    list(adapter.encode(Unsubscribe((TICKER,))))
    assert Ack((TICKER,), done=False) in said(adapter, ended)
    assert said(adapter, refusal) == [Nack((BOOK,), "no")]
    list(adapter.encode(Unsubscribe((TICKER,))))
    assert said(adapter, refusal) == [Error(code="request", message="no")]


def test_kraken_futures_says_which_topics_it_refuses():
    adapter = KrakenFutures(Context(provider="kraken_futures"))
    list(adapter.encode(Subscribe((BOOK, TICKER))))
    assert said(adapter, {"event": "subscribed_failed", "feed": "book", "product_ids": ["BTCUSD"]}) == [
        Nack((BOOK,), "subscribed_failed: book")
    ]
    (error,) = said(adapter, {"event": "unsubscribed_failed", "feed": "trade", "product_ids": ["BTCUSD"]})
    assert error.message == "unsubscribed_failed: trade of BTCUSD"
    assert said(adapter, {"event": "error", "message": "no"}) == [Nack((TICKER,), "no")]


def test_bitfinex_a_topic_given_up_before_its_channel_has_a_number_is_unsubscribed_when_it_has_one():
    adapter = Bitfinex(Context(provider="bitfinex"))
    list(adapter.encode(Subscribe((TICKER,))))
    assert list(adapter.encode(Unsubscribe((TICKER,)))) == []
    (send,) = said(adapter, SUBSCRIBED)
    assert isinstance(send, Send)
    assert loads(send.text) == {"event": "unsubscribe", "chanId": 11}
    assert said(adapter, {"event": "unsubscribed", "status": "OK", "chanId": 11}) == [Ack((TICKER,), done=False)]
    list(adapter.encode(Subscribe((TICKER,))))
    assert said(adapter, SUBSCRIBED) == [Ack((TICKER,))]


def test_bitfinex_a_topic_wanted_again_before_its_channel_has_a_number_stays_subscribed():
    adapter = Bitfinex(Context(provider="bitfinex"))
    list(adapter.encode(Subscribe((TICKER,))))
    list(adapter.encode(Unsubscribe((TICKER,))))
    list(adapter.encode(Subscribe((TICKER,))))
    assert said(adapter, SUBSCRIBED) == [Ack((TICKER,))]


def match(number):
    return {"type": "match", "product_id": "BTCUSD", "trade_id": number, "price": "1", "size": "2", "side": "buy",
            "time": "2026-01-01T00:00:00Z"}  # fmt: skip


def test_a_trade_behind_a_newer_one_is_told_once():
    """Coinbase's messages may arrive out of order (https://docs.cdp.coinbase.com/exchange/websocket-feed/overview)."""
    context = Context(provider="coinbase")
    told = said(Coinbase(context), *map(match, (1, 3, 2, 2, 3)))
    assert [trade.id for trade in told] == ["1", "3", "2"]
    again = said(Coinbase(context), match(3), match(4))
    assert [trade.id for trade in again] == ["4"], "it was told on the connection before"


def test_a_trade_behind_more_than_are_remembered_is_counted_as_not_understood():
    adapter = Coinbase(Context(provider="coinbase"))
    numbers = range(1, REMEMBERED + 3)
    assert all(isinstance(item, PublicTrade) for item in said(adapter, *map(match, numbers)))
    (unknown,) = said(adapter, match(1))
    assert isinstance(unknown, Unknown)
    assert said(adapter, match(3)) == []


def test_kucoin_an_empty_side_is_no_price_of_zero():
    data = {"bestBid": "0", "bestBidSize": "0", "bestAsk": "2", "bestAskSize": "1", "price": "2", "time": 1700000000000}
    message = {"type": "message", "topic": "/market/ticker:BTC-USDT", "subject": "trade.ticker", "data": data}
    (quote,) = said(KuCoin(Context(provider="kucoin")), message)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None, None, "2", "1")


@pytest.mark.parametrize(
    ("reason", "passes"),
    [
        ("Exceeded msg rate", True),
        ("too_many_requests (code 10028)", True),
        ("Requests too frequent (code 60014)", True),
        ("exceed max permits per second (code 509)", True),
        ("Too many visits!", True),
        ("ratelimit: error (code 11010)", True),
        ("Too many requests (code 3)", True),
        ("Reached limit of open channels (code 10305)", False),
        ("subscribe: too many subscriptions", False),
        ("funding rate of FOO is not known", False),
        ("Wrong URL or channel:trades,instId:BTC-FOO doesn't exist", False),
    ],
)
def test_a_throttle_is_told_from_a_refusal(reason, passes):
    assert is_throttled(reason) is passes
