"""Kraken's WebSocket API v2: the messages of its pages (https://docs.kraken.com/api/docs/websocket-v2/) to events and back.

Bodies marked "seen" are messages of the real server as users publish them; everything else is as the pages have it.
"""

import json
import os
from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio

from relay.adapter import Ack, Alive, Context, Hello, Limited, Nack, Ping, Subscribe, Symbols, Unknown, Unsubscribe
from relay.model.channels import Topic
from relay.model.enums import Side
from relay.model.events import MARKET_KINDS, Candle, Depth, Error, PublicTrade, Quote
from relay.provider.books import Books
from relay.provider.http import HttpClient
from relay.testing import conformance
from relay.testing.player import play
from relay.testing.recording import read_recording
from relay.testing.subject import subject
from relay_kraken.adapter import Kraken
from relay_kraken.book import checksum
from relay_kraken.words import MINUTES
from support.deadlines import WITHIN
from support.lone_session import lone_session
from support.recordings import decode, new_adapter, run_through

FIXTURES = Path(__file__).parents[1] / "fixtures"
FIXTURE = FIXTURES / "kraken_v2.jsonl"

test_conformance = conformance.tests(Kraken, FIXTURE, options={"api": "v2", "depth": "10"})

#: The worked example of https://docs.kraken.com/api/docs/guides/spot-ws-book-v2.
BIDS = ("45283.5 0.10000000", "45283.4 1.54582015", "45282.1 0.10000000", "45281.0 0.10000000", "45280.3 1.54592586",
        "45279.0 0.07990000", "45277.6 0.03310103", "45277.5 0.30000000", "45277.3 1.54602737", "45276.6 0.15445238")  # fmt: skip
ASKS = ("45285.2 0.00100000", "45286.4 1.54571953", "45286.6 1.54571109", "45289.6 1.54560911", "45290.2 0.15890660",
        "45291.8 1.54553491", "45294.7 0.04454749", "45296.1 0.35380000", "45297.5 0.09945542", "45299.5 0.18772827")  # fmt: skip
CHECKSUM = 3310070434


@pytest.fixture
def adapter():
    return new_adapter(Kraken, api="v2")


def topic(kind, symbol="BTC/USD", timeframe=None):
    return Topic(kind=kind, symbol=symbol, timeframe=timeframe)


def levels(texts):
    return [tuple(text.split()) for text in texts]


def book(*, bids=(), asks=(), checksum=CHECKSUM, type="update", rest=""):
    """A book message with the digits of its numbers as they are given."""
    bid, ask = (",".join(f'{{"price":{price},"qty":{qty}}}' for price, qty in levels(side)) for side in (bids, asks))
    data = f'{{"symbol":"BTC/USD","bids":[{bid}],"asks":[{ask}],"checksum":{checksum}{rest}}}'
    return f'{{"channel":"book","type":"{type}","data":[{data}]}}'


def written(adapter, outgoing):
    return [json.loads(frame) for frame in adapter.encode(outgoing)]


def test_the_fixture_decodes_to_the_golden_events():
    lines = list(conformance.golden(subject(Kraken, FIXTURE, options={"api": "v2", "depth": "10"})))
    golden = FIXTURES / "kraken_v2.golden.jsonl"
    if os.environ.get("TICKRELAY_WRITE_GOLDEN") == "1":
        golden.write_text("".join(f"{line}\n" for line in lines))
    assert lines == golden.read_text().splitlines()
    assert {json.loads(line)["type"] for line in lines} == {offer.kind for offer in Kraken.offers}


def test_everything_in_the_fixture_is_understood_and_its_book_is_kept_by_every_checksum():
    results = [
        result
        for decoded in run_through(new_adapter(Kraken, api="v2", depth="10"), read_recording(FIXTURE))
        for result in decoded.results
    ]
    assert not [result for result in results if isinstance(result, Unknown | Error)]
    depths = [result for result in results if isinstance(result, Depth)]
    books = Books(Kraken.session, checksum=checksum, levels=10)
    books.open("BTC/USD")
    assert [event.snapshot for depth in depths for event in books.offer(depth).out] == [True, False, False, False]


def test_prices_keep_the_digits_they_were_sent_with_and_a_snapshot_proves_itself_by_its_checksum(adapter):
    (depth,) = decode(adapter, book(bids=BIDS, asks=ASKS, type="snapshot"))
    assert (depth.snapshot, depth.checksum, depth.timestamp) == (True, str(CHECKSUM), None)
    assert (list(depth.bids), list(depth.asks)) == (levels(BIDS), levels(ASKS))
    assert checksum(depth.bids, depth.asks) == str(CHECKSUM)
    for told, out in ((depth, (depth,)), (attrs.evolve(depth, checksum="1"), ())):
        books = Books(Kraken.session, checksum=checksum, levels=1000)
        books.open("BTC/USD")
        kept = books.offer(told)
        assert (kept.out, kept.snapshot_of) == (out, None if out else "BTC/USD")


def test_an_update_has_its_time_and_levels_in_the_order_they_are_to_be_applied(adapter):
    seen = '{"channel":"book","type":"update","data":[{"symbol":"ETH/USD","bids":[],"asks":[{"price":1797.29,"qty":0.00000000},' \
           '{"price":1797.52,"qty":1.56601318}],"checksum":3329440863,"timestamp":"2025-05-06T09:17:26.208075Z"}]}'  # fmt: skip
    assert decode(adapter, seen) == (
        Depth(
            symbol="ETH/USD", native_symbol="ETH/USD", bids=[], asks=[("1797.29", "0.00000000"), ("1797.52", "1.56601318")],
            snapshot=False, checksum="3329440863", timestamp="2025-05-06T09:17:26.208075Z",
        ),
    )  # fmt: skip
    (whole,) = decode(adapter, book(bids=["45283 1", "45282 0"], rest=',"timestamp":"2023-10-06T17:35:55.440295Z"'))
    assert whole.bids == (("45283", "1"), ("45282", "0")), "whole numbers are numbers of JSON without a point"


TICKER = (
    '{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,"ask":0.10036,"ask_qty":1361.44813783,"last":0.10035,'
    '"volume":997038.98383185,"vwap":0.10148,"low":0.09979,"high":0.10285,"change":-0.00017,"change_pct":-0.17,'
    '"timestamp":"2023-09-25T09:04:31.742648Z"}'
)


@pytest.mark.parametrize("type", ["snapshot", "update"])
def test_a_ticker_is_a_quote_and_nothing_of_it_is_dropped(adapter, type):
    assert decode(adapter, f'{{"channel":"ticker","type":"{type}","data":[{TICKER}]}}') == (
        Quote(
            symbol="ALGO/USD", native_symbol="ALGO/USD", bid="0.10025", bid_size="740.0", ask="0.10036",
            ask_size="1361.44813783", last="0.10035", volume="997038.98383185", time="2023-09-25T09:04:31.742648Z",
            data={"vwap": "0.10148", "low": "0.09979", "high": "0.10285", "change": "-0.00017", "change_pct": "-0.17"},
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("price", "size"), [("0", "0"), ("0.00000", "0.00000000"), ("null", "null")])
def test_an_empty_side_is_absent_however_its_zero_is_written(adapter, price, size):
    empty = TICKER.replace('"bid":0.10025,"bid_qty":740.0', f'"bid":{price},"bid_qty":{size}')
    (quote,) = decode(adapter, f'{{"channel":"ticker","type":"update","data":[{empty}]}}')
    assert (quote.bid, quote.bid_size, quote.ask) == (None, None, "0.10036")


def trade(side, quantity, id):
    return (
        f'{{"symbol":"MATIC/USD","side":"{side}","price":0.5147,"qty":{quantity},"ord_type":"limit","trade_id":{id},'
        '"timestamp":"2023-09-25T07:49:37.708706Z"}'
    )


def test_trades_have_ids(adapter):
    trades = trade("buy", "6423.46326", 4665846), trade("sell", "1136.19677815", 4665847)
    common = {"symbol": "MATIC/USD", "native_symbol": "MATIC/USD", "price": "0.5147", "data": {"ord_type": "limit"}}
    time = "2023-09-25T07:49:37.708706Z"
    assert decode(adapter, f'{{"channel":"trade","type":"update","data":[{",".join(trades)}]}}') == (
        PublicTrade(**common, id="4665846", quantity="6423.46326", side=Side.BUY, time=time),
        PublicTrade(**common, id="4665847", quantity="1136.19677815", side=Side.SELL, time=time),
    )


def bar(begin, volume, symbol="ALGO/USD"):
    return (
        f'{{"symbol":"{symbol}","open":0.09875,"high":0.0988,"low":0.09875,"close":0.09875,"trades":13,"volume":{volume},'
        f'"vwap":0.09879,"interval_begin":"2023-10-04T15:{begin}:00.000000000Z","interval":5,"timestamp":"2023-10-04T15:59:00.000000Z"}}'
    )


def candle(begin, volume, symbol="ALGO/USD"):
    return Candle(
        symbol=symbol, native_symbol=symbol, timeframe="5m", start=f"2023-10-04T15:{begin}:00.000000000Z", open="0.09875",
        high="0.0988", low="0.09875", close="0.09875", volume=volume, timestamp="2023-10-04T16:26:01.806315597Z",
        data={"trades": 13, "vwap": "0.09879", "timestamp": "2023-10-04T15:59:00.000000Z"},
    )  # fmt: skip


def test_of_a_snapshot_of_candles_the_newest_of_each_pair_is_told(adapter):
    bars = [bar("25", "1.0"), bar("25", "3.0", "BTC/USD"), bar("30", "2.0")]

    def message(type, *bars):
        data = ",".join(bars)
        return f'{{"channel":"ohlc","type":"{type}","timestamp":"2023-10-04T16:26:01.806315597Z","data":[{data}]}}'

    assert decode(adapter, message("snapshot", *bars)) == (candle("30", "2.0"), candle("25", "3.0", "BTC/USD"))
    assert decode(adapter, message("update", *bars[::2])) == (candle("25", "1.0"), candle("30", "2.0"))


def test_one_frame_subscribes_all_pairs_of_a_channel(adapter):
    topics = (
        topic("quote"),
        topic("depth"),
        topic("quote", "DOGE/EUR"),
        topic("candle", timeframe="4h"),
        topic("public_trade", "DOGE/EUR"),
    )
    quotes, bars = {"channel": "ticker", "event_trigger": "bbo"}, {"channel": "ohlc", "interval": 240}
    assert written(adapter, Hello()) == [{"method": "subscribe", "params": {"channel": "instrument"}, "req_id": 1}]
    assert written(adapter, Subscribe(topics)) == [
        {"method": "subscribe", "params": {**quotes, "symbol": ["BTC/USD", "DOGE/EUR"], "snapshot": True}, "req_id": 2},
        {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 1000, "snapshot": True}, "req_id": 3},
        {"method": "subscribe", "params": {**bars, "symbol": ["BTC/USD"], "snapshot": True}, "req_id": 4},
        {"method": "subscribe", "params": {"channel": "trade", "symbol": ["DOGE/EUR"], "snapshot": False}, "req_id": 5},
    ]  # fmt: skip
    assert written(adapter, Unsubscribe(topics[:1])) == [
        {"method": "unsubscribe", "params": {**quotes, "symbol": ["BTC/USD"]}, "req_id": 6}
    ]
    assert written(adapter, Ping()) == [{"method": "ping", "req_id": 7}]


@pytest.mark.parametrize("offered", [timeframe for offer in Kraken.offers for timeframe in offer.timeframes])
def test_every_offered_timeframe_can_be_asked_for(adapter, offered):
    ((frame),) = written(adapter, Subscribe((topic("candle", timeframe=offered),)))
    assert frame["params"]["interval"] == MINUTES[offered]


@pytest.mark.parametrize(
    ("result", "subject"),
    [
        ({"channel": "ticker", "event_trigger": "bbo"}, topic("quote")),
        ({"channel": "trade", "snapshot": False}, topic("public_trade")),
        ({"channel": "book", "depth": 1000}, topic("depth")),
        ({"channel": "ohlc", "interval": 10080, "warnings": ["timestamp is deprecated"]}, topic("candle", timeframe="1w")),
    ],
)  # fmt: skip
def test_every_pair_is_acknowledged_by_itself(adapter, result, subject):
    for method, done in (("subscribe", True), ("unsubscribe", False)):
        answer = {"method": method, "result": {**result, "symbol": "BTC/USD"}, "success": True, "req_id": 9}
        assert decode(adapter, json.dumps(answer)) == (Ack((subject,), done=done),)


def refusal(pair, req_id, error="Currency pair not supported", method="subscribe"):
    """A refusal, seen: it names the pair and not the channel."""
    named = {} if pair is None else {"symbol": pair}
    return json.dumps({"error": error, "method": method, "success": False, "req_id": req_id, **named})


def test_a_refusal_does_not_name_the_channel_and_is_matched_to_its_request(adapter):
    quotes, books = written(adapter, Subscribe((topic("quote"), topic("quote", "NO/USD"), topic("depth", "NO/USD"))))
    reason = "Currency pair not supported"
    assert decode(adapter, refusal("NO/USD", books["req_id"])) == (Nack((topic("depth", "NO/USD"),), reason),)
    assert decode(adapter, refusal("NO/USD", quotes["req_id"])) == (Nack((topic("quote", "NO/USD"),), reason),)
    told = (Error(code="request", message=f"subscribe NO/USD: {reason}"),)
    assert decode(adapter, refusal("NO/USD", quotes["req_id"])) == told, "answered already"
    assert decode(adapter, refusal("NO/USD", 4711)) == told, "nobody's"


def test_a_refusal_without_a_pair_is_about_what_has_no_answer_yet(adapter):
    (request,) = written(adapter, Subscribe((topic("depth"), topic("depth", "ETH/USD"), topic("depth", "ADA/USD"))))
    accepted = {"channel": "book", "symbol": "ETH/USD"}
    answer = {"method": "subscribe", "result": accepted, "success": True, "req_id": request["req_id"]}
    assert decode(adapter, json.dumps(answer)) == (Ack((topic("depth", "ETH/USD"),)),)
    (nack,) = decode(adapter, refusal(None, request["req_id"], "Subscription depth not supported"))
    assert nack == Nack((topic("depth"), topic("depth", "ADA/USD")), "Subscription depth not supported")


def test_a_refused_unsubscription_does_not_end_the_topic_and_a_passing_limit_refuses_nothing(adapter):
    (request,) = written(adapter, Unsubscribe((topic("depth"),)))
    (error,) = decode(adapter, refusal("BTC/USD", request["req_id"], "Subscription not found", "unsubscribe"))
    assert error == Error(code="request", message="unsubscribe BTC/USD: Subscription not found")
    (request,) = written(adapter, Subscribe((topic("depth"),)))
    assert decode(adapter, refusal("BTC/USD", request["req_id"], "Exceeded msg rate")) == (Limited(),)
    assert decode(adapter, '{"error":"Malformed request"}') == (Error(code="request", message="Malformed request"),)


def test_requests_without_an_answer_are_forgotten_in_the_end(adapter):
    for _ in range(10_050):
        assert len(list(adapter.encode(Subscribe((topic("depth"),))))) == 1
    assert len(adapter._protocol._asked) == 10_000


def test_the_state_of_the_venue_is_told_and_its_end_too(adapter):
    status = '{"channel":"status","type":"update","data":[{"api_version":"v2","connection_id":13834774380200032777,"system":"%s","version":"2.0.0"}]}'
    assert decode(adapter, status % "online") == (Alive(),)
    for state in ("maintenance", "post_only", "online"):
        assert decode(adapter, status % state) == (Error(code="system_status", message=state),)
    for alive in ('{"channel":"heartbeat"}', '{"method":"pong","req_id":7,"time_in":"2023-09-24T14:10:23.799685Z"}'):
        assert decode(adapter, alive) == (Alive(),)


def instruments(type, **statuses):
    pairs = [{"symbol": name.replace("_", "/"), "status": status} for name, status in statuses.items()]
    return json.dumps({"channel": "instrument", "type": type, "data": {"assets": [], "pairs": pairs}})


def test_pairs_are_learned_from_the_stream_and_a_halt_is_told_to_whoever_subscribes(adapter):
    symbols, *known = decode(adapter, instruments("snapshot", BTC_USD="online", OLD_USD="cancel_only"))
    assert symbols == Symbols((("BTC/USD", "BTC/USD"), ("OLD/USD", "OLD/USD")))
    assert [(each.symbol, each.status) for each in known] == [("BTC/USD", "TRADING"), ("OLD/USD", "CANCEL_ONLY")]
    (request,) = written(adapter, Subscribe((topic("quote", "OLD/USD"),)))
    accepted = {"channel": "ticker", "symbol": "OLD/USD"}
    answer = {"method": "subscribe", "result": accepted, "success": True, "req_id": request["req_id"]}
    told = Error(code="instrument_status", message="OLD/USD: cancel_only")
    assert decode(adapter, json.dumps(answer)) == (Ack((topic("quote", "OLD/USD"),)), told)
    for status in ("maintenance", "online"):
        *_, change = decode(adapter, instruments("update", BTC_USD=status))
        assert change == Error(code="instrument_status", message=f"BTC/USD: {status}")
    no_news = decode(adapter, instruments("update", BTC_USD="online", OLD_USD="cancel_only"))
    assert not [item for item in no_news if isinstance(item, Error)]
    answer = {"method": "subscribe", "result": {"channel": "instrument"}, "success": True, "req_id": 1}
    assert decode(adapter, json.dumps(answer)) == (Alive(),)


def test_the_option_chooses_the_endpoint_unless_one_is_configured():
    def url(adapter_class, api):
        return adapter_class.url(new_adapter(adapter_class, api=api).context)

    assert (url(Kraken, "v1"), url(Kraken, "v2")) == ("wss://ws.kraken.com", "wss://ws.kraken.com/v2")
    beta = type("Kraken", (Kraken,), {"session": attrs.evolve(Kraken.session, url="wss://beta-ws.kraken.com/v2")})
    assert url(beta, "v2") == "wss://beta-ws.kraken.com/v2"
    assert new_adapter(Kraken).option("api") == "v1", "what was proved by recordings is the default"
    assert list(new_adapter(Kraken, api="v2").prepare()) == [], "the instrument channel has the pairs"


async def test_a_session_subscribes_by_v2_and_publishes_what_it_is_sent():
    """Over real sockets: the instrument channel first, then each channel, and every event of the fixture."""
    expected = {"quote": 2, "public_trade": 2, "depth": 4, "candle": 2}
    topics = topic("depth"), topic("quote"), topic("public_trade", "DOGE/EUR"), topic("candle", timeframe="1m")
    published, complete, asked = [], trio.Event(), []

    def counts():
        return Counter(event.kind for event in published if event.kind in MARKET_KINDS)

    def publish(event, stamp):
        published.append(event)
        if counts() == expected:
            complete.set()

    def subscribed(text):
        frame = json.loads(text)
        if frame["method"] == "subscribe":
            asked.append(frame["params"]["channel"])
        if len(asked) == len(topics) + 1:
            player.release()
        return ()

    async with play(read_recording(FIXTURE), start="release", reply=subscribed) as player:
        declared = attrs.evolve(Kraken.session, url=player.ws_url, http=player.http_url)
        played = type("Kraken", (Kraken,), {"session": declared})
        context = Context(provider="kraken", options={**Kraken.defaults(), "api": "v2", "depth": "10"})
        async with HttpClient() as http, trio.open_nursery() as nursery:
            session = lone_session(played, context, publish=publish, http=http)
            await nursery.start(session.run)
            for each in topics:
                session.want(each)
            with trio.fail_after(WITHIN):
                await complete.wait()
            session.shutdown()
    assert asked[0] == "instrument"
    assert sorted(asked[1:]) == ["book", "ohlc", "ticker", "trade"]
    status = session.status()
    assert (status["counters"]["unknown"], status["counters"]["dropped"]) == (0, {})
    assert [event for event in published if event.kind in ("gap", "error", "staleness")] == []
    assert sorted(native for native, _ in context.symbols) == ["BTC/USD", "DOGE/EUR", "OLD/USD"]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{}",
        "[]",
        '{"channel":"book"}',
        '{"channel":"level3","type":"update","data":[]}',
        book(bids=["45283.5 1"], type="correction"),
        book(bids=["45283.5 null"]),
        book(bids=["true 1"]),
        '{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],"asks":[]}]}',
        '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":1.0}]}',
        f'{{"channel":"trade","type":"update","data":[{trade("?", "1.0", 1)}]}}',
        f'{{"channel":"ohlc","type":"update","data":[{bar("25", "1.0").replace(":5,", ":7,")}]}}',
        '{"channel":"status","type":"update","data":[]}',
        '{"method":"subscribe","success":true,"result":{"channel":"spread","symbol":"BTC/USD"}}',
        '{"method":"subscribe","success":true}',
    ],
)
def test_a_frame_that_is_not_understood_invents_nothing(adapter, frame):
    (result,) = decode(adapter, frame)
    assert isinstance(result, Unknown)
