"""Answers of public venues to requests that overlap, are repeated, or come too fast."""

import pytest

from relay.adapter import Ack, Context, Nack, Subscribe, dumps
from relay.adapter.reading import is_throttled
from relay.model.channels import Topic
from relay.model.events import Error, Quote
from relay_bitfinex.adapter import Bitfinex
from relay_coinbase.adapter import Coinbase
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
