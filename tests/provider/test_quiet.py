"""A closed market is not stale and not redialled; a refused topic says so to whoever subscribed to it.

Second 0 of every timeline is Tuesday, 2023-11-14T22:13:20Z.
"""

import pytest

from relay.adapter import Backoff, Heartbeat, Offer
from relay.model.enums import StalenessEvent
from relay.model.events import Staleness
from relay.model.hours import Hours
from relay.provider import session_events
from relay.provider.session import SessionSettings

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)
#: Closes at second 400 and opens 10 minutes later, at second 1000.
BREAK = Hours("Tue 23:00-22:20, Tue 22:30-23:00")


@pytest.fixture
def market(rig):
    """A venue whose quotes have hours, and whose candles nobody knows of."""

    class Market(rig.Venue):
        offers = (
            Offer(kind="quote", hours=BREAK),
            Offer(kind="candle", timeframes=("1m", "5m")),
            Offer(kind="account"),
        )

    return lambda **session: rig(
        adapter=Market, **{"stale_after": {"quote": 20, "candle": 20}, "silent_after": 9999, **session}
    )


def stale(events):
    return [(event.event, event.symbols, event.timeframe) for event in events if event.kind == "staleness"]


def test_silence_of_a_closed_market_is_no_staleness_and_counts_from_the_opening(market):
    r = market()
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=395)
    r.fresh()
    for at in (415, 500, 999, 1019.9):
        r.tick(at)
    assert r.fresh() == []
    assert r.machine.deadline() == pytest.approx(1020)
    r.tick(1020)
    assert stale(r.fresh()) == [("STALE", ("A",), None)]


def test_a_quote_before_the_opening_sets_the_clock_again(market):
    r = market()
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=395)
    r.tick(415)
    r.say(["quote", "A", "2"], at=985)  # opened early: nothing until 1000 is due all the same
    assert r.machine.deadline() == 1005
    r.tick(1005)
    assert stale(r.fresh()) == []
    r.tick(1020)
    assert stale(r.fresh()) == [("STALE", ("A",), None)]


def test_first_data_are_due_from_the_opening_too(market):
    r = market(settings=SessionSettings(first_data_within=10))
    r.up(0)
    r.want("quote:A", at=500)
    r.tick(510)
    r.tick(1009)
    assert stale(r.fresh()) == []
    r.tick(1010)
    assert stale(r.fresh()) == [("STALE", ("A",), None)]


def test_topics_without_hours_are_judged_as_ever(market):
    r = market()
    r.up(0)
    r.want("candle:A:1m", "candle:A:5m", at=500)
    r.say(["candle", "A", "1m"], at=500)
    r.tick(520)
    assert stale(r.fresh()) == [("STALE", ("A",), "1m"), ("STALE", ("A",), "5m")]


def test_a_closed_market_is_requested_a_pong_before_it_is_redialled(market):
    r = market(silent_after=60, backoff=ONCE)
    r.up(400)
    r.want("quote:A", at=400)
    r.fresh()
    assert r.tick(460) == [session_events.SendPing()]
    r.machine.heard(461)
    assert r.tick(521) == [session_events.SendPing()]
    assert r.machine.deadline() == 581
    assert r.tick(581) == [session_events.CloseSocket(1000)]  # nothing came back: it is dead, market or not
    (lost,) = r.fresh()
    assert (lost.event, lost.gap_ms) == ("RECONNECTING", 120_000)


@pytest.mark.parametrize("wanted", [(), ("quote:A", "candle:A:1m")])
def test_an_open_or_unknown_market_is_redialled_at_once(market, wanted):
    r = market(silent_after=60, backoff=ONCE)
    r.up(400)
    r.want(*wanted, at=400)
    assert r.tick(460) == [session_events.CloseSocket(1000)]


def test_where_our_heartbeats_are_answered_silence_is_no_excuse(market):
    r = market(silent_after=60, heartbeat=Heartbeat(every=50), backoff=ONCE)
    r.up(400)
    r.want("quote:A", at=400)
    r.tick(450)
    assert session_events.CloseSocket(1000) in r.tick(460)


def test_a_clock_that_is_nearer_with_the_first_event_is_told_to_the_shell(market):
    r = market(ack_within=5, settings=SessionSettings(first_data_within=50))
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["ack", "quote:A"], at=1)
    outputs = r.machine.receive('[["quote", "A", "1"]]', r.moment(2))
    assert session_events.DeadlineChanged() in outputs
    assert r.machine.deadline() == 22


def test_a_provider_that_repeats_its_last_word_says_nothing_new(rig):
    r = rig(stale_after={"quote": 20}, silent_after=9999, ack_within=5)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["ack", "quote:A"], ["quote", "A", "1"], at=0)
    outputs = r.tick(20)
    assert r.texts(outputs) == [{"unsub": ["quote:A"]}, {"sub": ["quote:A"]}]
    r.fresh()
    r.say(["ack", "quote:A"], ["quote", "A", "1"], at=21)
    assert r.fresh() == []
    assert r.texts(r.tick(60)) == []  # once
    r.say(["quote", "A", "2"], at=61)
    assert r.kinds() == ["staleness FRESH", "quote"]
    r.say(["quote", "A", "2"], at=62)  # while it flows a provider may repeat itself
    assert r.kinds() == ["quote"]
    assert r.counters()["deduped"] == 1
    assert r.add_up()


def test_a_provider_that_goes_on_repeating_itself_is_alive(rig):
    r = rig(stale_after={"quote": 20}, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=0)
    r.tick(20)
    r.fresh()
    r.say(["quote", "A", "1"], at=21)
    assert r.kinds() == []
    r.say(["quote", "A", "1"], at=22)
    assert r.kinds() == ["staleness FRESH", "quote"]


def test_a_stream_that_stays_silent_behind_a_subscription_is_stale(rig):
    """Data that came on an earlier connection prove nothing, and heartbeats prove the transport only."""
    r = rig(stale_after={"quote": 30, "account": 90}, ack_within=5, backoff=ONCE)
    r.up(0)
    r.want("quote:A", "account:main", "candle:A:1m", at=0)
    r.say(["ack", "quote:A", "account:main", "candle:A:1m"], ["quote", "A", "1"], ["fill", "1"], at=1)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    r.do(session_events.Opened(), 4)
    r.say(["ack", "quote:A", "account:main", "candle:A:1m"], at=5)
    r.fresh()
    told, frames = [], []
    for at in range(6, 500):
        frames += r.texts(r.say("alive", ["ack", "quote:A", "account:main"], at=at) + r.tick(at))
        told += [(at, event.of) for event in r.fresh() if event.kind == "staleness"]
    assert told == [(35, "quote"), (95, "account"), (125, "candle")]
    assert frames == [
        {"unsub": ["quote:A"]},
        {"sub": ["quote:A"]},
        {"unsub": ["account:main"]},
        {"sub": ["account:main"]},
    ]


# --- as configured ---------------------------------------------------------------------------------------------------


def configured(rig, **settings):
    return rig(stale_after={"quote": 20}, silent_after=9999, settings=SessionSettings(**settings))


def test_the_operator_says_how_long_a_stream_may_be_silent(rig):
    own = {"quote": 40, rig.topic("quote:B"): 10, rig.topic("quote:C"): 0, "candle": 30}
    r = configured(rig, stale_after=own)
    r.up(0)
    r.want("quote:A", "quote:B", "quote:C", "candle:A:1m", at=0)
    r.say(*(["quote", symbol, "1"] for symbol in "ABC"), ["candle", "A", "1m"], at=0)
    r.fresh()
    told = []
    for at in range(1, 100):
        r.tick(at)
        told += [(at, event.of, *event.symbols) for event in r.fresh() if event.kind == "staleness"]
    assert told == [(10, "quote", "B"), (30, "candle", "A"), (40, "quote", "A")]


def test_the_operator_says_when_a_market_trades(rig):
    r = configured(rig, hours={None: BREAK, "B": Hours.parse("always")})
    r.up(0)
    r.want("quote:A", "quote:B", at=395)
    r.say(["quote", "A", "1"], ["quote", "B", "1"], at=395)
    r.tick(415)
    assert stale(r.fresh())[-1:] == [("STALE", ("B",), None)]
    r.tick(1020)
    assert stale(r.fresh()) == [("STALE", ("A",), None)]


def test_what_the_operator_says_of_hours_goes_before_the_adapter(market):
    r = market(settings=SessionSettings(hours={"A": Hours.parse("always")}))
    r.up(0)
    r.want("quote:A", at=395)
    r.say(["quote", "A", "1"], at=395)
    r.fresh()
    r.tick(415)
    assert stale(r.fresh()) == [("STALE", ("A",), None)]


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_refused_topic_is_stale_with_the_reason_and_fresh_when_it_flows_after_all(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.want("quote:A", "candle:A:1m", at=1)
    r.fresh()
    r.say(["nack", "no permission", "candle:A:1m"], at=2)
    said, error = r.fresh()
    assert said == Staleness(
        event=StalenessEvent.STALE,
        symbols=["A"],
        of="candle",
        timeframe="1m",
        reason="no permission",
        refused=True,
    )
    assert error.code == "subscription_refused"
    r.do(session_events.Closed(1006), 3)
    r.tick(4)
    r.do(session_events.Opened(), 4)
    r.say(["nack", "no permission", "candle:A:1m"], at=5)
    assert stale(r.fresh())[-1] == (StalenessEvent.STALE, ("A",), "1m")  # the session's absence was told in between
    r.say(["nack", "no permission", "candle:A:1m"], at=5)
    assert stale(r.fresh()) == []  # said once
    r.say(["nack", "no such symbol", "candle:A:1m"], at=6)
    assert r.fresh()[0].reason == "no such symbol"
    r.say(["candle", "A", "1m"], at=7)
    fresh, _ = r.fresh()
    assert (fresh.event, fresh.reason, fresh.timeframe) == ("FRESH", None, "1m")


def test_a_stale_topic_that_was_left_is_fresh_when_it_is_wanted_again_and_flows(rig):
    r = rig(stale_after={"quote": 20}, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=0)
    r.tick(20)
    r.unwant("quote:A", at=21)
    r.tick(60)
    r.want("quote:A", at=100)
    r.fresh()
    r.say(["quote", "A", "2"], at=101)
    assert r.kinds() == ["staleness FRESH", "quote"]


def test_or_when_it_flows_before_that(rig):
    r = rig(backoff=ONCE, settings=SessionSettings(linger=1))
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["nack", "no permission", "quote:A"], at=1)
    r.unwant("quote:A", at=2)
    r.tick(4)
    r.fresh()
    r.say(["quote", "A", "1"], ["quote", "A", "2"], at=5)
    assert r.kinds() == ["staleness FRESH", "quote", "quote"]


def test_what_is_remembered_of_topics_that_were_left_is_bounded(monkeypatch):
    from relay.adapter import Session
    from relay.model.channels import Topic
    from relay.provider import liveness

    monkeypatch.setattr(liveness, "_LEFT", 3)
    topics = liveness.Topics(Session(url="wss://x"))
    for number in range(10):
        topic = Topic(kind="quote", symbol=str(number))
        topics.refused(topic, "no", 0)
        topics.forget(topic)
    assert [key[1] for key in topics._left_stale] == ["7", "8", "9"]
