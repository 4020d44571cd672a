"""A subscription that brings no data is told of, once and truly; and a connection that has no room for one more topic."""

import pytest

from relay.adapter import Ack, Backoff, Book, Nack, Session
from relay.model.channels import Asker, Topic
from relay.model.enums import StalenessEvent
from relay.model.hours import Hours
from relay.provider import session_events
from relay.provider.session import SessionSettings
from relay_binance.adapter import Binance
from relay_crosstrade.adapter import CrossTrade

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)


def told(r):
    return [(e.event.value, e.of, e.symbols, e.reason) for e in r.fresh() if e.kind == "staleness"]


def mute(of, symbol, seconds):
    return ("STALE", of, (symbol,), f"no data since the subscription, {seconds} s ago")


# --- no data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [True, False])
def test_a_mute_subscription_is_told_once_by_a_default_of_its_kind(rig, ack):
    r = rig(ack_within=5 if ack else None, silent_after=9999)
    r.up(0)
    topics = ("quote:A", "depth:A", "candle:A:1m", "account:main")
    r.want(*topics, at=0)
    r.say(*([["ack", *topics]] if ack else []), at=2)
    at = 2 if ack else 0
    r.fresh()
    frames, seen = [], []
    for second in range(3, 1000):
        frames += r.texts(r.tick(second))
        seen += [(second - at, *event) for event in told(r)]
    assert seen == [
        (30, *mute("quote", "A", 30)),
        (30, *mute("depth", "A", 30)),
        (120, *mute("candle", "A", 120)),
    ]
    assert frames == [], "nothing is asked for because of it"
    r.say(["quote", "A", "1"], at=1000)
    assert r.kinds() == ["staleness FRESH", "quote"]
    for second in range(1001, 2000):
        r.tick(second)
    assert told(r) == [], "once data have come quiet is normal"


def test_the_clock_runs_from_the_request_where_no_acknowledgement_comes(rig):
    r = rig(ack_within=60, silent_after=9999, stale_after={"quote": 20})
    r.up(0)
    r.want("quote:A", "depth:A", at=0)
    r.tick(19)
    assert told(r) == []
    r.tick(20)
    assert told(r) == [mute("quote", "A", 20)]
    r.tick(30)
    assert told(r) == [mute("depth", "A", 30)]
    r.say(["ack", "quote:A"], at=40)  # it comes after all, and then nothing
    r.tick(1000)
    assert told(r) == []


def test_an_acknowledgement_and_a_repeated_request_do_not_tell_it_twice(rig):
    r = rig(ack_within=5, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    seen = []
    for second in range(1, 200):
        r.tick(second)
        seen += [(second, event[3]) for event in told(r)]
    assert seen == [(30, "no data since the subscription, 30 s ago"), (35, "no acknowledgement after 3 requests")]


def test_a_market_that_is_known_to_be_closed_owes_nothing(rig):
    # Second 0 is Tuesday 22:13:20: the market opens at second 1000.
    settings = SessionSettings(hours={None: Hours("Tue 22:30-23:00")})
    r = rig(settings=settings, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.tick(1029)
    assert told(r) == []
    r.tick(1030)
    assert told(r) == [mute("quote", "A", 1030)]


@pytest.mark.parametrize(
    "settings",
    [
        SessionSettings(first_data_within=0),
        SessionSettings(stale_after={"quote": 0}),
    ],
)
def test_an_operator_may_say_that_no_data_are_normal(rig, settings):
    r = rig(settings=settings, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.tick(1000)
    assert told(r) == []


def test_a_connection_that_came_back_owes_data_again(rig):
    r = rig(backoff=Backoff(first=0.1, factor=1, cap=0.1), silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=1)
    r.do(session_events.Closed(1006), 100)
    r.tick(100.1)
    r.do(session_events.Opened(), 100.2)
    r.fresh()
    r.tick(130.2)
    (stale,) = [event for event in r.fresh() if event.kind == "staleness"]
    assert (stale.event, stale.reason) == (StalenessEvent.STALE, "no data since the subscription, 30 s ago")
    assert stale.stale_since == "2023-11-14T22:13:21.000000Z"


@pytest.mark.parametrize("book", [Book.DELTAS, Book.FETCHED])
def test_a_book_whose_snapshot_does_not_come_is_told_although_deltas_flow(rig, book):
    r = rig(book=book, silent_after=9999)
    r.up(0)
    r.want("depth:A", at=0)
    seen = []
    for second in range(1, 40):
        r.say(["delta", "A", second, second], at=second)
        r.tick(second)
        seen += [(second, event[3]) for event in told(r)]
    assert seen == [(30, "no data since the subscription, 30 s ago")]


def test_thousands_of_mute_streams_are_found_together_and_soon(rig):
    r = rig(ack_within=60, silent_after=9999, topics_per_frame=5000)
    r.up(0)
    r.machine.interest(
        [session_events.WantTopic(r.topic(f"quote:S{n}"), Asker("1", "7.1")) for n in range(5000)], r.moment(0)
    )
    for n in range(5000):
        r.say(["ack", f"quote:S{n}"], at=1 + n / 1000)
    looks = 0
    while (at := r.machine.deadline()) < 40:
        r.tick(at)
        looks += 1
    assert looks < 60, "not one look at 5,000 for each of 5,000"
    assert len({event[2] for event in told(r)}) == 5000


# --- no room ---------------------------------------------------------------------------------------------------------

FULL = "the provider allows 3 topics on a connection, and all are taken"


def full(r):
    r.up(0)
    r.want("quote:A", "quote:B", "quote:C", at=0)
    r.say(["ack", "quote:A", "quote:B", "quote:C"], *(["quote", symbol, "1"] for symbol in "ABC"), at=1)
    r.fresh()
    return r


def test_one_topic_more_than_the_provider_allows_is_told_so_and_the_session_goes_on(rig):
    r = full(rig(most_topics=3, ack_within=5, silent_after=9999))
    assert r.texts(r.want("quote:D", at=2)) == []
    error, stale = sorted(r.fresh(), key=lambda event: event.kind)
    assert (error.code, error.message) == ("subscription_refused", f"quote D: {FULL}")
    assert (stale.event, stale.symbols, stale.reason) == (StalenessEvent.STALE, ("D",), FULL)
    (troubled,) = r.machine.status()["topics"]["troubled"]
    assert (troubled["symbol"], troubled["reason"]) == ("D", FULL)
    for second in range(3, 300):
        assert r.texts(r.tick(second)) == []
    assert r.fresh() == [], "told once"
    r.say(["quote", "A", "2"], at=300)
    assert r.kinds() == ["quote"]
    assert r.machine.life.value == "up"


def test_it_is_requested_when_a_place_is_free(rig):
    r = full(rig(most_topics=3, ack_within=5, silent_after=9999, settings=SessionSettings(linger=10)))
    r.want("quote:D", "candle:E:1m", at=2)
    r.fresh()
    r.unwant("quote:A", at=3)
    assert r.texts(r.tick(13)) == [{"unsub": ["quote:A"]}, {"sub": ["quote:D"]}]
    r.say(["ack", "quote:D"], ["quote", "D", "1"], at=14)
    assert r.kinds() == ["staleness FRESH", "quote"]
    r.unwant("candle:E:1m", at=15)  # it gives up waiting, and costs the provider nothing
    assert r.texts(r.tick(15)) == []


def test_the_reason_stays_true_when_it_is_subscribed_at_last_and_mute(rig):
    r = full(rig(most_topics=3, ack_within=5, silent_after=9999, settings=SessionSettings(linger=0)))
    r.want("quote:D", at=2)
    assert told(r) == [("STALE", "quote", ("D",), FULL)]
    r.unwant("quote:A", at=3)
    r.say(["ack", "quote:D"], at=4)
    seen = []
    for second in range(5, 300):
        r.tick(second)
        seen += [(second, *event) for event in told(r)]
    assert seen == [(34, *mute("quote", "D", 30))]


def test_eleven_hundred_topics_where_1024_are_allowed(rig):
    """Binance closes a connection with more streams: then no stream has data at all."""
    assert Binance.session.most_topics == 1024
    r = rig(most_topics=1024, ack_within=5, silent_after=9999)
    r.up(0)
    by = Asker("1", "7.1")
    wants = [session_events.WantTopic(r.topic(f"quote:S{n}"), by) for n in range(1100)]
    frames = r.texts(r.machine.interest(wants, r.moment(0)))
    assert sum(len(frame["sub"]) for frame in frames) == 1024
    events = r.fresh()
    assert sum(event.kind == "staleness" for event in events) == 76
    (error,) = [event for event in events if event.kind == "error"]
    assert error.message == "76 topics: the provider allows 1024 topics on a connection, and all are taken"
    assert r.machine.status()["topics"]["wanted"] == 76


def test_the_bound_holds_on_the_next_connection_and_what_had_data_goes_first(rig):
    r = full(rig(most_topics=3, ack_within=5, silent_after=9999, backoff=ONCE))
    r.want("quote:D", at=2)
    r.do(session_events.Closed(1006), 3)
    r.tick(4)
    (frame,) = r.texts(r.do(session_events.Opened(), 4))
    assert sorted(frame["sub"]) == ["quote:A", "quote:B", "quote:C"]
    assert ("STALE", "quote", ("D",), FULL) in told(r)


def test_parts_of_a_refused_request_keep_to_the_bound(rig):
    r = rig(most_topics=3, ack_within=5, silent_after=9999)
    r.up(0)
    r.want("account:main", at=0)
    r.machine.interest(
        [session_events.WantTopic(r.topic(f"quote:{s}"), Asker("1", "7.1")) for s in "ABCD"], r.moment(0)
    )
    r.say(["nack", "one of them", "quote:A", "quote:B"], at=1)
    for second in range(1, 60):
        r.tick(second)
        counts = r.machine.status()["topics"]
        assert counts["queued"] + counts["pending"] + counts["confirmed"] <= 3


def test_a_topic_that_is_requested_anew_goes_before_a_new_one_that_waits_for_its_place(rig):
    r = full(rig(most_topics=3, ack_within=5, silent_after=9999, stale_after={"quote": 20}))
    r.do(session_events.WantTopic(r.topic("quote:D"), Asker("1", "7.1")), 2)
    frames = r.texts(r.tick(21))
    assert frames == [{"unsub": ["quote:A", "quote:B", "quote:C"]}, {"sub": ["quote:A", "quote:B", "quote:C"]}]


def test_a_stream_without_a_last_value_is_fresh_when_it_is_confirmed_behind_a_refusal(rig):
    class Prints(rig.Venue):
        offers = ()

        def _item(self, item):
            match item:
                case ["ack", *symbols]:
                    yield Ack(tuple(rig.topic(f"public_trade:{symbol}") for symbol in symbols))
                case ["nack", reason, symbol]:
                    yield Nack((rig.topic(f"public_trade:{symbol}"),), reason)

    r = rig(adapter=Prints, most_topics=1, ack_within=5, silent_after=9999, settings=SessionSettings(linger=0))
    r.up(0)
    r.want("public_trade:A", "public_trade:B", at=0)
    r.say(["ack", "A"], at=0)
    assert [event[:3] for event in told(r)] == [("STALE", "public_trade", ("B",))]
    outputs = r.unwant("public_trade:A", at=1)
    assert r.texts(outputs) == [{"unsub": ["public_trade:A"]}, {"sub": ["public_trade:B"]}]
    r.say(["ack", "B"], at=2)
    assert told(r) == [("FRESH", "public_trade", ("B",), None)]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many"])
def test_a_wrong_bound_is_refused_where_it_is_declared(wrong):
    with pytest.raises((TypeError, ValueError), match="most_topics"):
        Session(url="wss://x", most_topics=wrong)


def test_an_alias_of_which_no_quote_comes_is_told_that_no_data_came(rig):
    """CrossTrade refuses an alias when the quote under the real name comes; in a quiet market none comes."""
    r = rig(adapter=CrossTrade, credentials={"key": "k"}, ready="open", silent_after=9999)
    r.up(0)
    r.do(session_events.WantTopic(Topic(kind="quote", symbol="ES"), Asker("1", "7.1")), 0)
    r.fresh()
    r.tick(29.9)
    assert told(r) == []
    r.tick(30)
    assert told(r) == [mute("quote", "ES", 30)]
