"""The messages of Kraken's pages (https://docs.kraken.com/api/docs/websocket-v1/), as they stand there, to events and back."""

import json

import pytest

from relay.adapter import Ack, Alive, Answer, Fetch, Limited, Nack, Ping, Subscribe, Unknown, Unsubscribe
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import Candle, Depth, Error, PublicTrade, Quote
from relay.model.symbols import SymbolError
from relay_kraken.adapter import Kraken
from relay_kraken.book import checksum
from relay_kraken.words import MINUTES
from support.recordings import decode, new_adapter

PAIRS = {
    "error": [],
    "result": {
        "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"},
        "XXBTZEUR": {"altname": "XBTEUR", "wsname": "XBT/EUR", "base": "XXBT", "quote": "ZEUR"},
        "XXBTZUSD.d": {"altname": "XBTUSD.d", "base": "XXBT", "quote": "ZUSD"},
        "XXDGXXBT": {"altname": "XDGXBT", "wsname": "XDG/XBT", "base": "XXDG", "quote": "XXBT"},
        "ADAEUR": {"altname": "ADAEUR", "wsname": "ADA/EUR", "base": "ADA", "quote": "ZEUR"},
    },
}
TICKER = [
    0,
    {
        "a": ["5525.40000", 1, "1.000"],
        "b": ["5525.10000", 1, "1.000"],
        "c": ["5525.10000", "0.00398963"],
        "v": ["2634.11501494", "3591.17907851"],
        "p": ["5631.44067", "5653.78939"],
        "t": [11493, 16267],
        "l": ["5505.00000", "5505.00000"],
        "h": ["5783.00000", "5783.00000"],
        "o": ["5760.70000", "5763.40000"],
    },
    "ticker",
    "XBT/USD",
]
TRADES = [
    0,
    [
        ["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""],
        ["6060.00000", "0.02455000", "1534614057.324998", "b", "l", ""],
    ],
    "trade",
    "XBT/USD",
]
SNAPSHOT = [
    0,
    {
        "as": [["5541.30000", "2.50700000", "1534614248.123678"], ["5541.80000", "0.33000000", "1534614098.345543"]],
        "bs": [["5541.20000", "1.52900000", "1534614248.765567"], ["5539.90000", "0.30000000", "1534614241.769870"]],
    },
    "book-100",
    "XBT/USD",
]
ASKS = [["5541.30000", "2.50700000", "1534614248.456738"], ["5542.50000", "0.40100000", "1534614248.456738"]]
BIDS = [["5541.30000", "0.00000000", "1534614335.345903"]]
REPUBLISHED = [
    ["5541.30000", "2.50700000", "1534614248.456738", "r"],
    ["5542.50000", "0.40100000", "1534614248.456738", "r"],
]
CHECKSUM = "974942666"
CANDLE = [
    42,
    ["1542057314.748456", "1542057360.435743", "3586.70000", "3586.70000", "3586.60000", "3586.60000", "3586.68894",
     "0.03373000", 2],
    "ohlc-5",
    "XBT/USD",
]  # fmt: skip


@pytest.fixture
def adapter():
    adapter = new_adapter(Kraken)
    symbols, *_ = adapter.fetched("symbols", Answer(status=200, text=json.dumps(PAIRS)))
    assert adapter.symbols.learn(symbols.pairs) == []
    return adapter


def topic(kind, symbol="BTC/USD", timeframe=None):
    return Topic(kind=kind, symbol=symbol, timeframe=timeframe)


def depth(**fields):
    return Depth(symbol="BTC/USD", native_symbol="XBT/USD", **fields)


def test_ticker_is_a_quote_with_lot_sizes_and_the_volume_of_24_hours(adapter):
    assert decode(adapter, json.dumps(TICKER)) == (
        Quote(
            symbol="BTC/USD", native_symbol="XBT/USD", bid="5525.10000", bid_size="1.000", ask="5525.40000", ask_size="1.000",
            last="5525.10000", volume="3591.17907851",
        ),
    )  # fmt: skip


def test_one_message_has_several_trades(adapter):
    assert decode(adapter, json.dumps(TRADES)) == (
        PublicTrade(
            symbol="BTC/USD", native_symbol="XBT/USD", price="5541.20000", quantity="0.15850568", side=Side.SELL,
            time="2018-08-18T17:40:57.321597Z",
        ),
        PublicTrade(
            symbol="BTC/USD", native_symbol="XBT/USD", price="6060.00000", quantity="0.02455000", side=Side.BUY,
            time="2018-08-18T17:40:57.324998Z",
        ),
    )  # fmt: skip


def test_the_first_book_message_is_a_snapshot_without_a_time(adapter):
    assert decode(adapter, json.dumps(SNAPSHOT)) == (
        depth(
            bids=[("5541.20000", "1.52900000"), ("5539.90000", "0.30000000")],
            asks=[("5541.30000", "2.50700000"), ("5541.80000", "0.33000000")],
            snapshot=True,
        ),
    )


@pytest.mark.parametrize(
    ("data", "bids", "asks", "time"),
    [
        ([{"a": ASKS, "c": CHECKSUM}], [], ASKS, "2018-08-18T17:44:08.456738Z"),
        ([{"b": BIDS, "c": CHECKSUM}], BIDS, [], "2018-08-18T17:45:35.345903Z"),
        ([{"a": ASKS}, {"b": BIDS, "c": CHECKSUM}], BIDS, ASKS, "2018-08-18T17:45:35.345903Z"),
        ([{"a": REPUBLISHED, "c": CHECKSUM}], [], ASKS, None),
        ([{"a": REPUBLISHED[:1] + ASKS[1:], "c": CHECKSUM}], [], ASKS, "2018-08-18T17:44:08.456738Z"),
    ],
)
def test_changed_levels_come_for_one_side_for_both_or_again(adapter, data, bids, asks, time):
    assert decode(adapter, json.dumps([1234, *data, "book-10", "XBT/USD"])) == (
        depth(
            bids=[level[:2] for level in bids],
            asks=[level[:2] for level in asks],
            snapshot=False,
            checksum=CHECKSUM,
            timestamp=time,
        ),
    )


def test_the_checksum_is_krakens():
    """The worked example of https://docs.kraken.com/api/docs/guides/spot-ws-book-v1."""
    asks = [(f"0.0{price}", "0.00000500") for price in range(5005, 5051, 5)]
    bids = [(f"0.0{price}", "0.00000500") for price in range(5000, 4949, -5) if price != 4985]
    assert (len(asks), len(bids)) == (10, 10)
    assert checksum(bids, asks) == "974947235"
    assert checksum([*bids, ("0.04945", "1")], [*asks, ("0.05055", "1")]) == "974947235", "only ten levels count"
    assert checksum(bids, asks[1:]) != "974947235"


def test_a_candle_starts_an_interval_before_its_end(adapter):
    assert decode(adapter, json.dumps(CANDLE)) == (
        Candle(
            symbol="BTC/USD", native_symbol="XBT/USD", timeframe="5m", start="2018-11-12T21:11:00.435743Z", open="3586.70000",
            high="3586.70000", low="3586.60000", close="3586.60000", volume="0.03373000",
            timestamp="2018-11-12T21:15:14.748456Z",
            data={"etime": "1542057360.435743", "vwap": "3586.68894", "count": 2},
        ),
    )  # fmt: skip


def test_one_frame_subscribes_all_pairs_of_a_channel(adapter):
    topics = (
        topic("quote"),
        topic("depth"),
        topic("quote", "ADA/EUR"),
        topic("candle", timeframe="4h"),
        topic("candle", timeframe="1m"),
        topic("public_trade", "DOGE/BTC"),
    )
    assert [json.loads(frame) for frame in adapter.encode(Subscribe(topics))] == [
        {"event": "subscribe", "reqid": 2, "pair": ["XBT/USD", "ADA/EUR"], "subscription": {"name": "ticker"}},
        {"event": "subscribe", "reqid": 4, "pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 1000}},
        {"event": "subscribe", "reqid": 6, "pair": ["XBT/USD"], "subscription": {"name": "ohlc", "interval": 240}},
        {"event": "subscribe", "reqid": 8, "pair": ["XBT/USD"], "subscription": {"name": "ohlc", "interval": 1}},
        {"event": "subscribe", "reqid": 10, "pair": ["XDG/XBT"], "subscription": {"name": "trade"}},
    ]
    assert [json.loads(frame) for frame in adapter.encode(Unsubscribe(topics[:1]))] == [
        {"event": "unsubscribe", "reqid": 13, "pair": ["XBT/USD"], "subscription": {"name": "ticker"}}
    ]


def status(**fields):
    return json.dumps({"event": "subscriptionStatus", "pair": "XBT/USD"} | fields)


@pytest.mark.parametrize(
    ("subscription", "subject"),
    [
        ({"name": "ticker"}, topic("quote")),
        ({"name": "trade"}, topic("public_trade")),
        ({"depth": 1000, "name": "book"}, topic("depth")),
        ({"interval": 10080, "name": "ohlc"}, topic("candle", timeframe="1w")),
    ],
)
def test_each_pair_is_acknowledged_or_refused(adapter, subscription, subject):
    assert decode(adapter, status(channelID=1, status="subscribed", subscription=subscription)) == (Ack((subject,)),)
    assert decode(adapter, status(channelID=1, status="unsubscribed", subscription=subscription)) == (
        Ack((subject,), done=False),
    )
    refused = status(status="error", subscription=subscription, errorMessage="Subscription depth not supported")
    assert decode(adapter, refused) == (Nack((subject,), "Subscription depth not supported"),)


def test_an_error_without_a_pair_is_told_as_it_is(adapter):
    text = json.dumps({"errorMessage": "Malformed request", "event": "subscriptionStatus", "status": "error"})
    assert decode(adapter, text) == (Error(code="request", message="Malformed request"),)


def test_heartbeats_prove_the_connection_and_a_status_other_than_online_is_told(adapter):
    online = {"connectionID": 8628615390848610000, "event": "systemStatus", "status": "online", "version": "1.0.0"}
    assert list(adapter.encode(Ping())) == ['{"event":"ping"}']
    for text in ('{"event":"heartbeat"}', '{"event":"pong","reqid":42}', json.dumps(online)):
        assert decode(adapter, text) == (Alive(),)
    for state in ("maintenance", "post_only", "online"):  # the all-clear is told too
        assert decode(adapter, json.dumps(online | {"status": state})) == (Error(code="system_status", message=state),)
    assert decode(adapter, json.dumps(online)) == (Alive(),)


def test_a_passing_rate_limit_refuses_nothing(adapter):
    refused = status(status="error", subscription={"name": "ticker"}, errorMessage="Exceeded msg rate", reqid=2)
    for text in (refused, '{"event":"error","errorMessage":"Exceeded msg rate"}'):
        assert decode(adapter, text) == (Limited(),)


def test_a_refused_unsubscription_does_not_end_the_topic(adapter):
    (frame,) = adapter.encode(Unsubscribe((topic("depth"),)))
    reqid = json.loads(frame)["reqid"]
    (again,) = adapter.encode(Subscribe((topic("depth"),)))
    assert json.loads(again)["reqid"] > reqid
    refused = {"status": "error", "subscription": {"depth": 1000, "name": "book"}, "errorMessage": "Event(s) not found"}
    (error,) = decode(adapter, status(**refused, reqid=reqid))
    assert (error.code, error.message) == ("request", "unsubscribe XBT/USD: Event(s) not found")
    assert isinstance(decode(adapter, status(**refused, reqid=json.loads(again)["reqid"]))[0], Nack)


def test_symbols_go_both_ways_by_krakens_own_two_aliases(adapter):
    for native, canonical in (("XBT/USD", "BTC/USD"), ("XDG/XBT", "DOGE/BTC"), ("ADA/EUR", "ADA/EUR")):
        assert (adapter.symbol(native), adapter.native(canonical)) == (canonical, native)
    with pytest.raises(SymbolError, match="XBT/USD is written BTC/USD here"):
        list(adapter.encode(Subscribe((topic("quote", "XBT/USD"),))))


@pytest.mark.parametrize("chosen", ["10", "25", "100", "500", "1000"])
def test_the_depth_is_an_option(chosen):
    adapter = new_adapter(Kraken, depth=chosen)
    assert adapter.book_levels(adapter.context) == int(chosen)
    (frame,) = adapter.encode(Subscribe((topic("depth", "ADA/EUR"),)))
    assert json.loads(frame)["subscription"]["depth"] == int(chosen)


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="depth: expected 10, 25, 100, 500 or 1000, got '50'"):
        new_adapter(Kraken, depth="50")


@pytest.mark.parametrize("offered", [timeframe for offer in Kraken.offers for timeframe in offer.timeframes])
def test_every_offered_timeframe_can_be_asked_for(adapter, offered):
    (frame,) = adapter.encode(Subscribe((topic("candle", timeframe=offered),)))
    assert json.loads(frame)["subscription"]["interval"] == MINUTES[offered]


def test_every_dial_learns_the_symbols_first():
    assert [fetch.url for fetch in new_adapter(Kraken).prepare() if isinstance(fetch, Fetch)] == [
        "/0/public/AssetPairs"
    ]


def test_an_answer_that_is_none_gives_nothing_and_krakens_errors_are_told(adapter):
    assert list(adapter.fetched("symbols", Answer(status=502, text="bad gateway"))) == []
    (refusal,) = adapter.fetched("symbols", Answer(status=200, text='{"error":["EGeneral:Too many requests"]}'))
    assert isinstance(refusal, Unknown)
    assert refusal.why == "EGeneral:Too many requests"


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{}",
        "[]",
        "[1,2,3,4]",
        '{"event":"subscriptionStatus"}',
        status(status="pending", subscription={"name": "ticker"}),
        status(status="subscribed", subscription={"name": "spread"}),
        json.dumps([1, ["5698.4", "5700.0", "1542057299.545897", "1.01234567", "0.98765432"], "spread", "XBT/USD"]),
        json.dumps([1, {}, "book-10", "XBT/USD"]),
        json.dumps([1, {"a": ASKS}, {"a": ASKS, "c": "1"}, "book-10", "XBT/USD"]),
        json.dumps([1, {"a": [["5541.3"]], "c": "1"}, "book-10", "XBT/USD"]),
        json.dumps([1, {"a": [["x", "1", "1534614248.456738"]], "c": "1"}, "book-10", "XBT/USD"]),
        json.dumps([1, [["5541.2", "0.1", "1534614057.321597", "?", "l", ""]], "trade", "XBT/USD"]),
        json.dumps([1, [["5541.2", "0.1"]], "trade", "XBT/USD"]),
        json.dumps([*CANDLE[:2], "ohlc-7", "XBT/USD"]),
        json.dumps([0, {"a": ["1", 1, "1"], "b": ["1", 1]}, "ticker", "XBT/USD"]),
        json.dumps([0, TICKER[1] | {"b": ["5525.1"]}, "ticker", "XBT/USD"]),
    ],
)
def test_a_frame_that_is_not_understood_invents_nothing(adapter, frame):
    (result,) = decode(adapter, frame)
    assert isinstance(result, Unknown)
