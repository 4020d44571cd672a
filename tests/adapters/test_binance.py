"""The frames of Binance's pages, as they stand there, to events and back."""

import json

import pytest

from relay.adapter import Ack, Answer, Fetch, Limited, Nack, Ping, Redial, Snapshot, Subscribe, Unknown, Unsubscribe
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, Event, PublicTrade, Quote
from relay.model.symbols import SymbolError
from relay_binance.adapter import INTERVALS, Binance
from support.recordings import decode, new_adapter

LISTED = {
    "symbols": [
        {"symbol": "BNBBTC", "status": "TRADING", "baseAsset": "BNB", "quoteAsset": "BTC"},
        {"symbol": "BNBUSDT", "status": "BREAK", "baseAsset": "BNB", "quoteAsset": "USDT"},
        {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"},
    ]
}
AGG_TRADE = {
    "e": "aggTrade", "E": 1672515782136, "s": "BNBBTC", "a": 12345, "p": "0.001", "q": "100", "f": 100, "l": 105,
    "T": 1672515782135, "m": True, "M": True,
}  # fmt: skip
KLINE = {
    "e": "kline", "E": 1672515782136, "s": "BNBBTC",
    "k": {
        "t": 1672515780000, "T": 1672515839999, "s": "BNBBTC", "i": "1m", "f": 100, "L": 200, "o": "0.0010", "c": "0.0020",
        "h": "0.0025", "l": "0.0015", "v": "1000", "n": 100, "x": False, "q": "1.0000", "V": "500", "Q": "0.500", "B": "123456",
    },
}  # fmt: skip
BOOK_TICKER = {
    "u": 400900217, "s": "BNBUSDT", "b": "25.35190000", "B": "31.21000000", "a": "25.36520000", "A": "40.66000000",
}  # fmt: skip
DEPTH = {
    "e": "depthUpdate", "E": 1672515782136, "s": "BNBBTC", "U": 157, "u": 160,
    "b": [["0.0024", "10"]], "a": [["0.0026", "100"]],
}  # fmt: skip
BOOK = {"lastUpdateId": 1027024, "bids": [["4.00000000", "431.00000000"]], "asks": [["4.00000200", "12.00000000"]]}


@pytest.fixture
def adapter():
    adapter = new_adapter(Binance)
    symbols, *_ = adapter.fetched("symbols", Answer(status=200, text=json.dumps(LISTED)))
    assert adapter.symbols.learn(symbols.pairs) == []
    return adapter


def combined(stream, data):
    return json.dumps({"stream": stream, "data": data})


def topic(kind, symbol="BNB/BTC", timeframe=None):
    return Topic(kind=kind, symbol=symbol, timeframe=timeframe)


def test_book_ticker_is_a_quote_without_a_time(adapter):
    assert decode(adapter, combined("bnbusdt@bookTicker", BOOK_TICKER)) == (
        Quote(
            symbol="BNB/USDT", native_symbol="BNBUSDT", bid="25.35190000", bid_size="31.21000000",
            ask="25.36520000", ask_size="40.66000000", data={"u": BOOK_TICKER["u"]},
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("buyer_is_maker", "side"), [(True, Side.SELL), (False, Side.BUY)])
def test_aggregate_trade_has_the_takers_side_and_two_times(adapter, buyer_is_maker, side):
    assert decode(adapter, combined("bnbbtc@aggTrade", AGG_TRADE | {"m": buyer_is_maker})) == (
        PublicTrade(
            symbol="BNB/BTC", native_symbol="BNBBTC", id="12345", price="0.001", quantity="100", side=side,
            data={name: AGG_TRADE[name] for name in ("f", "l", "M")}, time="2022-12-31T19:43:02.135Z", timestamp="2022-12-31T19:43:02.136Z",
        ),
    )  # fmt: skip


def test_depth_update_covers_its_update_ids(adapter):
    assert decode(adapter, combined("bnbbtc@depth@100ms", DEPTH)) == (
        Depth(
            symbol="BNB/BTC", native_symbol="BNBBTC", bids=[("0.0024", "10")], asks=[("0.0026", "100")], snapshot=False,
            first_seq=157, last_seq=160, timestamp="2022-12-31T19:43:02.136Z",
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "closed", "timeframe"), [("1m", False, "1m"), ("1M", True, "1mo"), ("1s", True, "1s")]
)
def test_kline_is_a_candle_that_starts_when_it_starts(adapter, interval, closed, timeframe):
    kline = KLINE | {"k": KLINE["k"] | {"i": interval, "x": closed}}
    assert decode(adapter, combined(f"bnbbtc@kline_{interval}", kline)) == (
        Candle(
            symbol="BNB/BTC", native_symbol="BNBBTC", timeframe=timeframe, start="2022-12-31T19:43:00.000Z",
            open="0.0010", high="0.0025", low="0.0015", close="0.0020", volume="1000", closed=closed,
            data={name: value for name, value in KLINE["k"].items() if name not in set("stiohlcvx")}, timestamp="2022-12-31T19:43:02.136Z",
        ),
    )  # fmt: skip


def test_an_empty_side_sent_as_zeros_is_absent(adapter):
    (quote,) = decode(adapter, combined("bnbusdt@bookTicker", BOOK_TICKER | {"b": "0.00000000", "B": "0.00000000"}))
    assert (quote.bid, quote.bid_size, quote.ask) == (None, None, BOOK_TICKER["a"])


def test_a_fetched_book_is_a_snapshot_up_to_its_update_id(adapter):
    wanted = Snapshot(topic("depth"))
    (fetch,) = adapter.encode(wanted)
    assert (fetch.url, fetch.query) == ("/api/v3/depth", {"symbol": "BNBBTC", "limit": "1000"})
    assert list(adapter.fetched(fetch.tag, Answer(status=200, text=json.dumps(BOOK)))) == [
        Depth(
            symbol="BNB/BTC", native_symbol="BNBBTC", bids=[("4.00000000", "431.00000000")],
            asks=[("4.00000200", "12.00000000")], snapshot=True, last_seq=1027024,
        ),
    ]  # fmt: skip


def test_subscriptions_name_streams_in_lower_case_and_are_acknowledged_by_id(adapter):
    topics = (
        topic("quote"),
        topic("public_trade"),
        topic("depth", "BTC/USDT"),
        topic("candle", timeframe="1mo"),
        topic("candle", timeframe="4h"),
    )
    (frame,) = adapter.encode(Subscribe(topics))
    assert json.loads(frame) == {
        "method": "SUBSCRIBE",
        "params": ["bnbbtc@bookTicker", "bnbbtc@aggTrade", "btcusdt@depth@100ms", "bnbbtc@kline_1M", "bnbbtc@kline_4h"],
        "id": 1,
    }
    (frame,) = adapter.encode(Unsubscribe(topics[:1]))
    assert json.loads(frame) == {"method": "UNSUBSCRIBE", "params": ["bnbbtc@bookTicker"], "id": 2}
    assert decode(adapter, '{"result":null,"id":2}') == (Ack(topics[:1], done=False),)
    assert decode(adapter, '{"result":null,"id":1}') == (Ack(topics),)
    assert isinstance(decode(adapter, '{"result":null,"id":1}')[0], Unknown), "an id is answered once"


@pytest.mark.parametrize("wrap", [lambda error, id: error | {"id": id}, lambda error, id: {"error": error, "id": id}])
def test_an_error_refuses_the_topics_that_its_request_asked_for(adapter, wrap):
    topics = (topic("quote"),)
    list(adapter.encode(Subscribe(topics)))
    error = {"code": 2, "msg": "Invalid request: too many parameters"}
    refused = decode(adapter, json.dumps(wrap(error, 1)))
    assert refused == (Nack(topics, "Invalid request: too many parameters (code 2)"),)


def test_an_error_that_names_no_request_is_told_as_it_is(adapter):
    text = '{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}'
    assert decode(adapter, text) == (
        Error(code="request", message="Invalid JSON: expected value at line 1 column 1 (code 3)"),
    )


def test_a_server_that_shuts_down_asks_for_a_new_connection(adapter):
    shutdown = {"e": "serverShutdown", "E": 1770123456789}
    assert isinstance(decode(adapter, json.dumps(shutdown))[0], Redial)
    assert isinstance(decode(adapter, combined("any", shutdown))[0], Redial)


@pytest.mark.parametrize("venue", ["com", "us"])
def test_each_venue_has_its_hosts(venue):
    adapter = new_adapter(Binance, venue=venue)
    assert adapter.session.url.format_map(adapter.context.options) == f"wss://stream.binance.{venue}:9443/stream"
    assert adapter.session.http.format_map(adapter.context.options) == f"https://api.binance.{venue}"


def test_another_venue_is_refused():
    with pytest.raises(ValueError, match="venue: expected com or us, got 'de'"):
        new_adapter(Binance, venue="de")


def test_symbols_go_both_ways_and_the_native_one_is_refused_as_canonical(adapter):
    for native, canonical in (("BNBBTC", "BNB/BTC"), ("BNBUSDT", "BNB/USDT")):
        assert (adapter.symbol(native), adapter.native(canonical)) == (canonical, native)
    with pytest.raises(SymbolError, match="BNBBTC is written BNB/BTC here"):
        list(adapter.encode(Subscribe((topic("quote", "BNBBTC"),))))


def test_metadata_that_contradicts_itself_is_told(adapter):
    twice = {"symbols": [{"symbol": "BNBBTC2", "baseAsset": "BNB", "quoteAsset": "BTC"}]}
    symbols, *_ = adapter.fetched("symbols", Answer(status=200, text=json.dumps(twice)))
    (error,) = adapter.symbols.learn(symbols.pairs)
    assert "BNB/BTC is BNBBTC" in str(error)


def test_an_answer_that_is_none_gives_nothing_and_a_ban_says_how_long(adapter):
    tag = Snapshot(topic("depth"))
    assert list(adapter.fetched(tag, Answer(status=400, text='{"code":-1121,"msg":"Invalid symbol."}'))) == []
    assert list(adapter.fetched(tag, Answer(status=418, text="", headers={"retry-after": "170"}))) == [Limited(170)]
    assert list(adapter.fetched(tag, Answer(status=418, text=""))) == [Limited(None)]


def test_every_dial_learns_the_symbols_first_and_pings_are_frames():
    adapter = new_adapter(Binance)
    assert [fetch.url for fetch in adapter.prepare() if isinstance(fetch, Fetch)] == ["/api/v3/exchangeInfo"]
    assert list(adapter.encode(Ping())) == []
    assert adapter.session.heartbeat.frame


@pytest.mark.parametrize("offered", [timeframe for offer in Binance.offers for timeframe in offer.timeframes])
def test_every_offered_timeframe_can_be_asked_for(adapter, offered):
    (frame,) = adapter.encode(Subscribe((topic("candle", timeframe=offered),)))
    assert json.loads(frame)["params"] == [f"bnbbtc@kline_{INTERVALS[offered]}"]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[]",
        "{}",
        '"text"',
        "{'stream': 1}",
        combined("bnbbtc@avgPrice", {"e": "avgPrice", "E": 1, "s": "BNBBTC", "w": "1"}),
        combined("bnbbtc@aggTrade", {name: value for name, value in AGG_TRADE.items() if name != "p"}),
        combined("bnbbtc@aggTrade", AGG_TRADE | {"p": "free"}),
        combined("bnbbtc@aggTrade", AGG_TRADE | {"m": None}),
        combined("bnbbtc@aggTrade", AGG_TRADE | {"T": "yesterday"}),
        combined("bnbbtc@aggTrade", AGG_TRADE | {"a": None}),
        combined("bnbbtc@aggTrade", AGG_TRADE | {"s": ""}),
        combined("bnbbtc@depth@100ms", DEPTH | {"b": [["0.0024"]]}),
        combined("bnbbtc@depth@100ms", DEPTH | {"b": None}),
        combined("bnbbtc@depth@100ms", DEPTH | {"u": "160"}),
        combined("bnbbtc@kline_7m", KLINE | {"k": KLINE["k"] | {"i": "7m"}}),
        combined("bnbbtc@kline_1m", KLINE | {"k": KLINE["k"] | {"x": "no"}}),
        combined("bnbbtc@bookTicker", BOOK_TICKER | {"b": {}}),
        combined("bnbbtc@ticker", BOOK_TICKER),
        '{"result":null,"id":99}',
    ],
)
def test_a_frame_that_is_not_understood_invents_nothing(adapter, frame):
    results = decode(adapter, frame)
    assert len(results) == 1
    assert isinstance(results[0], Unknown)
    assert not [result for result in results if isinstance(result, Event)]
