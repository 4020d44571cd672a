"""Bitstamp's messages to events and back. Field names are those of https://www.bitstamp.net/websocket/v2/."""

import json

import pytest

from relay.adapter import (
    Ack,
    Alive,
    Answer,
    Fetch,
    Nack,
    Ping,
    Redial,
    Snapshot,
    Subscribe,
    Unknown,
    Unsubscribe,
)
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Depth, Error, PublicTrade
from relay.model.symbols import SymbolError
from relay_bitstamp.adapter import Bitstamp
from support.recordings import decode, new_adapter

PAIRS = [{"name": "BTC/USD", "url_symbol": "btcusd", "trading": "Enabled"}, {"name": "ETH/EUR", "url_symbol": "etheur"}]
TRADE = {
    "id": 216000477, "timestamp": "1641343699", "amount": 0.0792, "amount_str": "0.07920000", "price": 3805.4,
    "price_str": "3805.40", "type": 0, "microtimestamp": "1641343699596000", "buy_order_id": 14438, "sell_order_id": 14439,
}  # fmt: skip
BOOK = {
    "timestamp": "1641343691", "microtimestamp": "1641343691244908", "bids": [["1.15979", "993.02588113"]],
    "asks": [["1.16601", "0.00000000"]],
}  # fmt: skip
TRADES, DEPTH = Topic(kind="public_trade", symbol="BTC/USD"), Topic(kind="depth", symbol="BTC/USD")


@pytest.fixture
def adapter():
    adapter = new_adapter(Bitstamp)
    symbols, *_ = adapter.fetched("symbols", Answer(status=200, text=json.dumps(PAIRS)))
    assert adapter.symbols.learn(symbols.pairs) == []
    return adapter


def message(event, channel, data):
    return json.dumps({"event": event, "channel": channel, "data": data})


@pytest.mark.parametrize(("type_", "side"), [(0, Side.BUY), (1, Side.SELL)])
def test_a_trade_keeps_the_text_of_its_price_and_the_takers_side(adapter, type_, side):
    assert decode(adapter, message("trade", "live_trades_btcusd", TRADE | {"type": type_})) == (
        PublicTrade(
            symbol="BTC/USD", native_symbol="btcusd", id="216000477", price="3805.40", quantity="0.07920000", side=side,
            time="2022-01-05T00:48:19.596000Z", data={name: TRADE[name] for name in ("buy_order_id", "sell_order_id")},
        ),
    )  # fmt: skip


def test_a_book_change_is_ordered_by_its_microtimestamp(adapter):
    assert decode(adapter, message("data", "diff_order_book_btcusd", BOOK)) == (
        Depth(
            symbol="BTC/USD", native_symbol="btcusd", bids=[("1.15979", "993.02588113")], asks=[("1.16601", "0.00000000")],
            snapshot=False, last_seq=1641343691244908, timestamp="2022-01-05T00:48:11.244908Z",
        ),
    )  # fmt: skip


def test_a_fetched_book_is_a_snapshot_up_to_its_microtimestamp(adapter):
    (fetch,) = adapter.encode(Snapshot(DEPTH))
    assert fetch.url == "/api/v2/order_book/btcusd"
    (book,) = adapter.fetched(fetch.tag, Answer(status=200, text=json.dumps(BOOK)))
    assert (book.snapshot, book.last_seq, book.symbol) == (True, 1641343691244908, "BTC/USD")


def test_each_channel_is_a_frame_and_is_acknowledged_by_name(adapter):
    assert [json.loads(frame) for frame in adapter.encode(Subscribe((TRADES, DEPTH)))] == [
        {"event": "bts:subscribe", "data": {"channel": "live_trades_btcusd"}},
        {"event": "bts:subscribe", "data": {"channel": "diff_order_book_btcusd"}},
    ]
    assert [json.loads(frame) for frame in adapter.encode(Unsubscribe((TRADES,)))] == [
        {"event": "bts:unsubscribe", "data": {"channel": "live_trades_btcusd"}},
    ]
    assert decode(adapter, message("bts:subscription_succeeded", "live_trades_btcusd", {})) == (Ack((TRADES,)),)
    assert decode(adapter, message("bts:subscription_succeeded", "diff_order_book_btcusd", {})) == (Ack((DEPTH,)),)
    assert decode(adapter, message("bts:unsubscription_succeeded", "live_trades_btcusd", {})) == (
        Ack((TRADES,), done=False),
    )


def test_an_error_refuses_the_channel_it_names_and_is_told_where_it_names_none(adapter):
    bad = {"code": None, "message": "Bad subscription string."}
    assert decode(adapter, message("bts:error", "live_trades_btcusd", bad)) == (Nack((TRADES,), bad["message"]),)
    assert decode(adapter, message("bts:error", "", bad)) == (Error(code="request", message=bad["message"]),)


def test_heartbeats_go_and_come(adapter):
    assert list(adapter.encode(Ping())) == ['{"event":"bts:heartbeat"}']
    assert decode(adapter, message("bts:heartbeat", "", {"status": "success"})) == (Alive(),)


def test_bitstamp_may_ask_for_a_new_connection(adapter):
    assert decode(adapter, message("bts:request_reconnect", "", "")) == (Redial("Bitstamp asked for a new connection"),)


def test_symbols_go_both_ways_and_the_native_one_is_refused_as_canonical(adapter):
    assert (adapter.symbol("etheur"), adapter.native("ETH/EUR")) == ("ETH/EUR", "etheur")
    with pytest.raises(SymbolError, match="etheur is written ETH/EUR here"):
        list(adapter.encode(Subscribe((Topic(kind="depth", symbol="etheur"),))))


def test_no_quote_is_offered_because_bitstamp_streams_none():
    assert {offer.kind for offer in Bitstamp.offers} == {"public_trade", "depth", "instrument"}


def test_every_dial_learns_the_symbols_first():
    assert [fetch.url for fetch in new_adapter(Bitstamp).prepare() if isinstance(fetch, Fetch)] == [
        "/api/v2/trading-pairs-info/"
    ]


def test_an_answer_that_is_none_gives_nothing(adapter):
    assert list(adapter.fetched(Snapshot(DEPTH), Answer(status=404, text=json.dumps(BOOK)))) == []
    assert list(adapter.fetched("symbols", Answer(status=0, text="no answer within 10 s"))) == []


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[]",
        "{}",
        message("data", "order_book_btcusd", BOOK),
        message("data", "diff_order_book_", BOOK),
        message("data", "diff_order_book_btcusd", {}),
        message("data", "diff_order_book_btcusd", BOOK | {"microtimestamp": None}),
        message("data", "diff_order_book_btcusd", BOOK | {"bids": [["1.1", "x"]]}),
        message("trade", "live_trades_btcusd", TRADE | {"type": 2}),
        message("trade", "live_trades_btcusd", TRADE | {"price_str": ""}),
        message("trade", "live_trades_btcusd", {name: TRADE[name] for name in TRADE if name != "amount_str"}),
        message("trade", "live_trades_btcusd", TRADE | {"microtimestamp": "now"}),
        message("trade", "live_orders_btcusd", TRADE),
        message("order_created", "live_orders_btcusd", TRADE),
        message("bts:subscription_succeeded", "live_orders_btcusd", {}),
    ],
)
def test_a_frame_that_is_not_understood_invents_nothing(adapter, frame):
    (result,) = decode(adapter, frame)
    assert isinstance(result, Unknown)
