"""Publishing: to which topics, under which numbers, as which bytes."""

import json

import pytest

from relay.hub.encoding import conflation_key, policy_of
from relay.hub.outbox import OutboxLimits, Policy
from relay.model.channels import Stream, Topic
from relay.model.events import (
    Account,
    Alert,
    Candle,
    Connection,
    Depth,
    Gap,
    Notification,
    Order,
    Position,
    PublicTrade,
    Quote,
    RateLimit,
    Reference,
    Staleness,
)
from relay.pusher.messages import ProtocolError


def quote(bid="1.10", symbol="BTC/USDT"):
    return Quote(symbol=symbol, bid=bid)


def bar(start="2025-01-15T10:30:00Z", close="1", timeframe="1m"):
    ohlc = {"open": "1", "high": "2", "low": "1", "close": close, "volume": "0"}
    return Candle(symbol="BTC/USDT", timeframe=timeframe, start=start, **ohlc)


def order(**more):
    return Order(event="ORDER_CREATED", id="o1", symbol="EURUSD", side="BUY", status="OPEN", **more)


def test_a_quote_arrives_as_canonical_json_under_its_channel_and_kind(relay):
    client = relay.client()
    client.subscribe("quote.x.BTC-USDT")
    id = relay.publish(quote())
    assert client.take() == [
        {
            "event": "quote",
            "channel": "quote.x.BTC-USDT",
            "data": {
                "type": "quote",
                "quote": {"symbol": "BTC/USDT", "bid": "1.10", "provider": "x"},
                "provider": "x",
                "id": id,
                "received_at": "2025-01-15T10:30:00.120Z",
                "seq": 1,
            },
        }
    ]


@pytest.mark.parametrize("nasty", ['"', "\\", '\\"', "\u2028", "é", "</script>", "\n\t\x00", "\\u0041", "🙂"])
def test_any_text_survives_being_json_inside_json(relay, nasty):
    client = relay.client()
    client.subscribe("private-account.x.A")
    relay.publish(Notification(message=nasty, title=nasty, account="A"))
    relay.trigger("news", data=nasty)
    assert client.take()[0]["data"]["notification"] == {"message": nasty, "title": nasty}


@pytest.mark.parametrize("data", ['{"a":"\\"é"}', "plain", "", '"', "🙂\\"])
def test_an_applications_data_arrive_as_the_text_they_were(relay, data):
    client = relay.client()
    client.subscribe("news")
    relay.trigger("news", name='a "name"', data=data)
    client.outbox.flush()
    (message,) = [json.loads(client._taken[client._taken.index(b"{") :])]
    assert message == {"event": 'a "name"', "channel": "news", "data": data}


def test_all_variants_and_apps_share_one_numbering(relay_of, app_of):
    other = app_of(id="2", key="other")
    relay = relay_of(app_of(), other)
    one, two, three = relay.client(), relay.client(), relay.client(other)
    one.subscribe("quote.x.BTC-USDT")
    relay.publish(quote("1"))
    two.subscribe("private-quote.x.BTC-USDT")
    three.subscribe("cache-quote.x.BTC-USDT")
    relay.publish(quote("2"))
    assert [client.take().seqs for client in (one, two)] == [[1, 2], [2]]
    assert three.take().seqs == [2]
    assert relay.wanted == [Stream("x", Topic(kind="quote", symbol="BTC/USDT"))]


def test_the_merged_stream_gets_every_providers_events_under_its_own_numbers(relay):
    own, merged = relay.client(), relay.client()
    relay.publish(quote("1"), "x")
    merged.subscribe("quote.all.BTC-USDT")
    own.subscribe("quote.x.BTC-USDT")
    relay.publish(quote("2"), "x")
    relay.publish(quote("3"), "y")
    relay.publish(quote("4", "ETH/USDT"), "y")
    assert own.take().seqs == [2]
    got = merged.take()
    assert [(m["data"]["seq"], m["data"]["provider"], m["data"]["quote"]["bid"]) for m in got] == [
        (1, "x", "2"),
        (2, "y", "3"),
    ]


def test_the_merged_stream_is_told_of_every_provider_that_was_asked_and_never_sent(relay):
    relay.asked = ["mute", "refuses"]
    merged = relay.client()
    merged.subscribe("quote.all.BTC-USDT")
    symbols = ["BTC/USDT"]
    relay.publish(Staleness(event="STALE", symbols=symbols, of="quote", reason="no data since ..."), "mute")
    relay.publish(
        Staleness(event="STALE", symbols=symbols, of="quote", reason="no such symbol", refused=True), "refuses"
    )
    relay.publish(Staleness(event="STALE", symbols=[], of="quote", session=True), "mute")
    relay.publish(Staleness(event="STALE", symbols=[], of="quote", session=True), "not asked")
    relay.publish(quote("1"), "refuses")
    relay.publish(
        Staleness(event="STALE", symbols=symbols, of="quote", reason="no permission", refused=True), "refuses"
    )
    assert [(m["event"], m["data"]["provider"], m["data"].get("reason")) for m in merged.take()] == [
        ("staleness", "mute", "no data since ..."),
        ("staleness", "mute", None),
        ("quote", "refuses", None),
        ("staleness", "refuses", "no permission"),
    ]
    relay.publish(Staleness(event="FRESH", symbols=symbols, of="quote"), "mute")
    assert [topic["provider"] for topic in relay.hub.snapshot()["streams"]].count("mute") == 0, "no news on its status"
    merged.unsubscribe("quote.all.BTC-USDT")
    relay.publish(Staleness(event="STALE", symbols=symbols, of="quote", reason="no data since ..."), "mute")
    assert relay.hub.unrouted == 3, (
        "the first refusal, the session that was not asked, and what nobody follows any more"
    )


def test_a_merged_cache_channel_begins_with_the_last_value_of_each_provider(relay):
    relay.publish(quote("1"), "x")
    relay.publish(quote("2"), "y")
    relay.publish(quote("3"), "x")
    got = relay.client().subscribe("cache-quote.all.BTC-USDT").of("quote")
    assert [(m["data"]["provider"], m["data"]["quote"]["bid"]) for m in got] == [("x", "3"), ("y", "2")]


def test_candles_of_two_timeframes_are_two_streams(relay):
    client = relay.client()
    client.subscribe("candle.x.BTC-USDT.1m")
    relay.publish(bar(timeframe="5m"))
    relay.publish(bar(timeframe="1m"))
    assert [m["data"]["bar"]["timeframe"] for m in client.take()] == ["1m"]


def test_account_events_go_to_the_sessions_account_else_to_the_one_they_name(relay):
    one, two = relay.client(), relay.client()
    one.subscribe("private-account.x.A")
    two.subscribe("presence-account.x.B", "u")
    relay.publish(order(account="A"), account="A")
    relay.publish(order(), account="A")
    relay.publish(order(account="B"))
    (named, unnamed), (other,) = one.take(), two.take()
    assert [event["data"]["account"] for event in (named, unnamed, other)] == ["A", "A", "B"]


@pytest.mark.parametrize("also_configured", [True, False])
def test_events_of_another_account_than_the_sessions_reach_nobody(relay, also_configured):
    """Neither its own account's channel, nor that of a configured account of the same name, which may be another login's."""
    own, other = relay.client(), relay.client()
    own.subscribe("private-account.x.A")
    other.subscribe("private-account.x.B")
    if also_configured:
        relay.publish(order(), account="B")
        other.take()
    for foreign in (order(account="B"), Account(event="METRICS_UPDATED", equity="9", account="B")):
        relay.publish(foreign, account="A")
    assert (own.take(), other.take()) == ([], [])
    assert relay.hub.snapshot()["unrouted"] == 2
    assert [m["event"] for m in relay.client().subscribe("private-account.x.A")] == [
        "pusher_internal:subscription_succeeded"
    ]


def test_an_account_event_without_account_is_counted_as_unrouted(relay):
    relay.publish(order())
    assert relay.hub.snapshot()["unrouted"] == 1


def test_an_accounts_events_are_kept_without_subscribers(relay):
    relay.publish(order(), account="A")
    relay.tick(10)
    relay.publish(order(), account="A")
    got = relay.client().subscribe("private-account.x.A", rewind=10)
    assert got.names == ["subscription_succeeded", "order", "order"]


def test_status_kinds_go_to_the_providers_status_and_staleness_to_the_data_too(relay):
    client = relay.client()
    for channel in ("status.x", "quote.x.A", "quote.x.B", "private-account.x.P"):
        client.subscribe(channel)
    relay.publish(Connection(event="CONNECTED"))
    relay.publish(RateLimit(event="RATE_LIMIT_HIT"))
    relay.publish(Connection(event="CONNECTED"), "y")
    relay.publish(quote(symbol="A"))
    relay.publish(Staleness(event="STALE", symbols=["A"], of="quote"))
    relay.publish(Staleness(event="STALE", symbols=["B"], of="quote"))  # it has had no data
    got = client.take()
    assert [(m["channel"], m["event"]) for m in got] == [
        ("status.x", "connection"),
        ("status.x", "rate_limit"),
        ("quote.x.A", "quote"),
        ("quote.x.A", "staleness"),
        ("status.x", "staleness"),
        ("quote.x.B", "staleness"),
    ]


def test_a_status_cache_channel_has_the_state_of_each_accounts_session(relay):
    relay.publish(Connection(event="CONNECTED"), account="one")
    relay.publish(Connection(event="RECONNECTING"), account="two")
    relay.publish(Connection(event="FAILED"), account="two")
    relay.publish(Connection(event="DISCONNECTING", upstream=True), account="one")  # a gateway's, not the relay's own
    states = relay.client().subscribe("cache-status.x").of("connection")
    assert [(m["data"]["account"], m["data"]["event"]) for m in states] == [
        ("one", "CONNECTED"),
        ("two", "FAILED"),
        ("one", "DISCONNECTING"),
    ]


def test_staleness_of_one_timeframe_does_not_concern_another(relay):
    client = relay.client()
    for channel in ("candle.x.A.1m", "candle.x.A.5m"):
        client.subscribe(channel)
    relay.publish(Staleness(event="STALE", symbols=["A"], of="candle", timeframe="5m", reason="no permission"))
    assert [(m["channel"], m["data"]["reason"]) for m in client.take()] == [("candle.x.A.5m", "no permission")]
    late = relay.client().subscribe("candle.x.A.5m")
    assert late.names == ["subscription_succeeded", "staleness"]


def test_the_end_of_a_session_reaches_the_data_channels_of_its_kind_and_not_the_status(relay):
    relay.publish(Quote(symbol="A", bid="1"))
    relay.publish(Quote(symbol="A", bid="1"), "y")
    relay.publish(Quote(symbol="B", bid="1"), "y")
    client = relay.client()
    for channel in ("status.x", "quote.x.A", "quote.x.C", "quote.y.A", "quote.all.A", "quote.all.B", "candle.x.A.1m"):
        client.subscribe(channel)
    gone = Staleness(event="STALE", symbols=[], of="quote", reason="no session with x: cut", session=True)
    relay.publish(gone)
    got = client.take()
    assert sorted(m["channel"] for m in got) == ["quote.all.A", "quote.x.A", "quote.x.C"]
    assert {(m["data"]["provider"], m["data"]["session"]) for m in got} == {("x", True)}
    assert relay.client().subscribe("cache-quote.x.A").names == ["subscription_succeeded", "quote", "staleness"]
    usable = {
        f"{s['provider']}.{s['symbol']}": s["usable"] for s in relay.hub.snapshot()["streams"] if s["kind"] == "quote"
    }
    assert usable == {"x.A": False, "x.C": False, "y.A": True, "y.B": True, "all.A": True, "all.B": True}
    relay.publish(Staleness(event="FRESH", symbols=["A"], of="quote", session=True))
    assert [m["channel"] for m in client.take()] == ["quote.x.A", "quote.all.A"]


def test_the_end_of_a_session_with_many_channels_is_encoded_once(relay):
    clients = [relay.client() for _ in range(200)]
    for number, client in enumerate(clients):
        client.subscribe(f"quote.x.S{number}")
    before = relay.hub.published["staleness"]
    relay.publish(Staleness(event="STALE", symbols=[], of="quote", session=True))
    assert [client.take().names for client in clients] == [["staleness"]] * 200
    assert relay.hub.published["staleness"] == before + 1


@pytest.mark.parametrize(
    ("gap", "channels"),
    [
        ({"of": "quote", "symbol": "A"}, ["quote.x.A"]),
        ({"of": "candle", "symbol": "A"}, ["candle.x.A.1m", "candle.x.A.5m"]),
        ({"of": "candle", "symbol": "A", "timeframe": "5m"}, ["candle.x.A.5m"]),
        ({"of": "quote"}, ["quote.x.A", "quote.all.A", "quote.x.B"]),
        ({"symbol": "A"}, ["quote.x.A", "candle.x.A.1m", "candle.x.A.5m"]),
        ({"of": "order"}, ["private-account.x.P"]),
        ({}, ["quote.x.A", "quote.x.B", "candle.x.A.1m", "candle.x.A.5m", "private-account.x.P"]),
    ],
)
def test_a_gap_goes_to_the_data_it_qualifies(relay, gap, channels):
    client = relay.client()
    held = ["quote.x.A", "quote.x.B", "quote.y.A", "candle.x.A.1m", "candle.x.A.5m", "private-account.x.P", "status.x"]
    for channel in [*held, "private-account.x.Q", *(["quote.all.A"] if "quote.all.A" in channels else [])]:
        client.subscribe(channel)
    relay.publish(Gap(refill="none", reason="test", **gap), account="P")
    assert sorted(m["channel"] for m in client.take()) == sorted(channels)


def test_a_gap_begins_no_topic(relay):
    relay.publish(Gap(of="quote", symbol="A", refill="none", reason="test"))
    assert relay.hub.snapshot()["streams"] == []


def test_policies_and_conflation_keys():
    trade = PublicTrade(symbol="A", price="1", quantity="1")
    alert = Alert(id="1", symbol="A", condition="above", target_price="1", status="set")
    position = Position(event="POSITION_MODIFIED", id="1", symbol="A", side="LONG", quantity="1")
    stale = Staleness(event="STALE", symbols=["A"], of="quote")
    money = Account(event="BALANCE_UPDATED")
    for event, topic, policy in (
        (quote(), "quote", Policy.CONFLATE), (bar(), "candle", Policy.CONFLATE), (money, "account", Policy.CONFLATE),
        (trade, "public_trade", Policy.GAP), (alert, "account", Policy.GAP),
        (order(), "account", Policy.NEVER_DROP), (Connection(event="FAILED"), "status", Policy.NEVER_DROP),
        (Account(event="MARGIN_CALL"), "account", Policy.NEVER_DROP), (position, "account", Policy.NEVER_DROP),
        (stale, "quote", Policy.CONFLATE), (stale, "account", Policy.CONFLATE), (stale, "status", Policy.NEVER_DROP),
    ):  # fmt: skip
        assert policy_of(event, topic) is policy, (event, topic)
    assert policy_of(position, "account", revalued=True) is Policy.CONFLATE
    assert conflation_key(bar("2025-01-15T10:30:00Z")) != conflation_key(bar("2025-01-15T10:31:00Z"))
    facts = [Reference(symbol="A", name=name) for name in ("funding", "mark_price")]
    assert conflation_key(facts[0]) != conflation_key(facts[1])


def test_a_slow_subscriber_of_a_merged_stream_keeps_the_latest_of_each_provider(relay):
    client = relay.client()
    client.subscribe("quote.all.BTC-USDT")
    client.slow = True
    for number in range(3):
        relay.publish(quote(f"{number}"), "x")
        relay.publish(quote(f"{number}"), "y")
        client.take()
    client.slow = False
    got = [(m["data"]["provider"], m["data"]["quote"]["bid"]) for m in client.take()]
    assert sorted(got) == [("x", "2"), ("y", "2")]
    assert relay.hub.snapshot()["dropped"] == {"conflate": 4}


def test_of_staleness_a_slow_subscriber_gets_the_newest_word_and_a_status_all_of_it(relay):
    data, status = relay.client(), relay.client()
    for symbol in ("A", "B"):  # a status tells of what has had data
        relay.publish(Quote(symbol=symbol, bid="1"))
    data.subscribe("quote.x.A")
    status.subscribe("status.x")
    data.slow = status.slow = True
    for reason in ("first", "second"):
        for symbols in (["A"], ["B"]):
            relay.publish(Staleness(event="STALE", symbols=symbols, of="quote", reason=reason))
        relay.publish(Staleness(event="STALE", symbols=[], of="quote", session=True))
        relay.publish(Staleness(event="FRESH", symbols=["A"], of="quote"))
        data.take(), status.take()
    relay.publish(Quote(symbol="A", bid="2"))
    data.slow = status.slow = False
    assert [m["data"].get("event", m["event"]) for m in data.take().of("staleness", "quote")] == ["FRESH", "quote"]
    assert len(status.take().of("staleness")) == 6


def test_a_slow_subscribers_gap_names_the_lost_numbers(relay_of):
    relay = relay_of(outbox=OutboxLimits(messages=2))
    client = relay.client()
    client.subscribe("public_trade.x.A")
    client.slow = True
    for _ in range(5):
        relay.publish(PublicTrade(symbol="A", price="1", quantity="1"))
    client.take()
    client.slow = False
    gap, *trades = client.take()
    assert gap["event"] == "gap"
    assert gap["data"] | {"id": ""} == {
        "type": "gap",
        "of": "public_trade",
        "symbol": "A",
        "from": 1,
        "to": 3,
        "refill": "none",
        "reason": "slow_subscriber",
        "provider": "x",
        "id": "",
        "received_at": "2025-01-15T10:30:00.120Z",
        "seq": 3,
    }
    assert [m["data"]["seq"] for m in trades] == [4, 5]


def test_idle_topics_are_forgotten(relay):
    relay.publish(quote())
    assert len(relay.hub.snapshot()["streams"]) == 1
    relay.tick(299)
    relay.tick(31)
    assert relay.hub.snapshot()["streams"] == []


def test_a_merged_stream_without_subscribers_is_forgotten_despite_events(relay):
    client = relay.client()
    client.subscribe("quote.all.BTC-USDT")
    client.gone()
    for _ in range(4):
        relay.publish(quote())
        relay.tick(100)
    assert [stream["provider"] for stream in relay.hub.snapshot()["streams"]] == ["x"]


def test_pinned_streams_are_kept(relay_of):
    relay = relay_of(pinned=[Stream("x", Topic(kind="quote", symbol="BTC/USDT"))])
    relay.publish(quote())
    relay.tick(10_000)
    assert relay.client().subscribe("cache-quote.x.BTC-USDT").names == ["subscription_succeeded", "quote"]


def test_apps_cannot_publish_on_streams(relay):
    client = relay.client()
    client.subscribe("quote.x.A")
    with pytest.raises(ProtocolError, match=r"quote\.x\.A") as refused:
        relay.hub.trigger("1", ["fine", "quote.x.A"], "quote", "{}", now=relay.now)
    assert refused.value.status == 403
    assert client.take() == []


def test_a_new_subscriber_of_an_account_gets_its_current_state(relay):
    def position(event, id, quantity):
        return Position(event=event, id=id, symbol="EURUSD", side="LONG", quantity=quantity)

    relay.publish(order(), account="A")
    relay.publish(Order(event="ORDER_FILLED", id="o1", symbol="EURUSD", side="BUY", status="FILLED"), account="A")
    relay.publish(Order(event="ORDER_CREATED", id="o2", symbol="EURUSD", side="BUY", status="OPEN"), account="A")
    relay.publish(position("POSITION_OPENED", "p1", "1"), account="A")
    relay.publish(position("POSITION_MODIFIED", "p1", "2"), account="A")
    relay.publish(position("POSITION_OPENED", "p2", "1"), account="A")
    relay.publish(position("POSITION_CLOSED", "p2", "0"), account="A")
    relay.publish(Account(event="BALANCE_UPDATED", balance="5"), account="A")
    relay.publish(Account(event="METRICS_UPDATED", equity="6"), account="A")
    relay.publish(Notification(message="hello"), account="A")
    got = relay.client().subscribe("private-account.x.A")
    assert [m["event"] for m in got] == [
        "pusher_internal:subscription_succeeded",
        "order",
        "position",
        "account",
        "account",
    ]
    assert [m["data"]["seq"] for m in got[1:]] == [3, 5, 8, 9]
    assert got[1]["data"]["order"]["id"] == "o2"
    assert got[2]["data"]["position"]["quantity"] == "2"


def test_a_margin_call_that_is_over_is_not_told_to_newcomers(relay):
    relay.publish(Account(event="MARGIN_CALL", equity="1"), account="A")
    relay.publish(Account(event="METRICS_UPDATED", equity="2"), account="A")
    got = relay.client().subscribe("private-account.x.A")
    assert [m["data"]["event"] for m in got[1:]] == ["MARGIN_CALL", "METRICS_UPDATED"]
    relay.publish(Account(event="MARGIN_CALL_ENDED", equity="3"), account="A")
    got = relay.client().subscribe("private-account.x.A")
    assert [m["data"]["event"] for m in got[1:]] == ["MARGIN_CALL_ENDED"], "with the newest money"
    relay.publish(Account(event="METRICS_UPDATED", equity="4"), account="A")
    got = relay.client().subscribe("private-account.x.A")
    assert [m["data"]["event"] for m in got[1:]] == ["METRICS_UPDATED"]


def test_a_slow_subscriber_gets_the_newest_profit_of_a_position_and_every_change_of_it(relay):
    def position(event, pnl, **members):
        members = {"id": "p", "quantity": "1", **members}
        return Position(event=event, symbol="EURUSD", side="LONG", unrealized_pnl=pnl, **members)

    client = relay.client()
    client.subscribe("private-account.x.A")
    client.slow = True
    relay.publish(position("POSITION_OPENED", "0"), account="A")
    for n in range(1, 50):
        relay.publish(position("POSITION_MODIFIED", f"{n}", data={"swap": n}), account="A")
        relay.publish(position("POSITION_MODIFIED", f"-{n}", id="q"), account="A")
        client.take()
    relay.publish(position("POSITION_MODIFIED", "50", quantity="2"), account="A")
    for n in range(51, 60):
        relay.publish(position("POSITION_MODIFIED", f"{n}", quantity="2"), account="A")
    relay.publish(position("POSITION_CLOSED", None, quantity="0"), account="A")
    client.take()
    client.slow = False
    told = [m["data"] for m in client.take()]
    assert [(e["event"], e["position"]["id"], e["position"].get("unrealized_pnl"), e["seq"]) for e in told] == [
        ("POSITION_OPENED", "p", "0", 1),
        ("POSITION_MODIFIED", "q", "-1", 3),
        ("POSITION_MODIFIED", "q", "-49", 99),
        ("POSITION_MODIFIED", "p", "50", 100),
        ("POSITION_MODIFIED", "p", "59", 109),
        ("POSITION_CLOSED", "p", None, 110),
    ]


def test_with_ids_the_position_of_an_account_follows_its_state(relay):
    relay.publish(Account(event="BALANCE_UPDATED", balance="5"), account="A")
    relay.publish(Notification(message="hello"), account="A")
    got = relay.client().subscribe("private-account.x.A", ids=True)
    assert [m["event"] for m in got] == ["pusher_internal:subscription_succeeded", "account", "tickrelay:position"]
    assert got[-1]["data"]["seq"] == 2


@pytest.mark.parametrize("channel", ["depth.x.A", "depth.all.A"])
def test_who_waits_for_the_first_snapshot_of_a_book_is_told_that_it_does_not_come(relay, channel):
    waiting = relay.client()
    waiting.subscribe(channel)
    relay.publish(Depth(symbol="A", bids=[("1", "1")], asks=(), snapshot=False))  # nothing for who waits
    waiting.take()
    reason = "no data since the subscription, 30 s ago"
    relay.publish(Staleness(event="STALE", symbols=["A"], of="depth", reason=reason))
    (told,) = waiting.take()
    assert (told["event"], told["data"]["reason"]) == ("staleness", reason)
    late = relay.client().subscribe(channel)
    assert late.names == ["subscription_succeeded", "staleness"]
    relay.publish(Staleness(event="FRESH", symbols=["A"], of="depth"))
    relay.publish(Depth(symbol="A", bids=[("1", "1")], asks=(), snapshot=True))
    assert waiting.take().names == ["staleness", "depth"]


def test_a_pinned_stream_that_went_stale_before_anybody_joined_tells_whoever_joins(relay_of, app_of):
    pinned = Stream("x", Topic(kind="depth", symbol="A"))
    relay = relay_of(app_of(), pinned=[pinned])
    relay.publish(Staleness(event="STALE", symbols=["A"], of="depth", reason="no such symbol"))
    got = relay.client().subscribe("depth.x.A")
    assert (got.names, got.of("staleness")[0]["data"]["reason"]) == (
        ["subscription_succeeded", "staleness"],
        "no such symbol",
    )
