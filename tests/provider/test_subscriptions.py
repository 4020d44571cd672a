"""Topics over time: asked for, paced, acknowledged, silent, refused, broken, mended."""

import itertools

import pytest

from relay.adapter import Answer, Backoff, Book, Rate, Sequence, dumps
from relay.model.enums import Refill, StalenessEvent
from relay.model.events import Depth, Gap, Staleness
from relay.provider import session_events
from relay.provider.session_state import SessionSettings

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)


def troubled(r):
    return r.machine.status()["topics"]["troubled"]


def standing(r):
    return {key: count for key, count in r.machine.status()["topics"].items() if count and key != "troubled"}


def test_interest_is_batched_and_paced(rig):
    r = rig(topics_per_frame=2, limits=(Rate(2, per=10, of="interest"),))
    r.do(session_events.Start(), 0)
    r.want(*(f"quote:{symbol}" for symbol in "ABCDE"))
    assert r.texts(r.do(session_events.Opened(), 0)) == [
        {"sub": ["quote:A", "quote:B"]},
        {"sub": ["quote:C", "quote:D"]},
    ]
    assert standing(r) == {"pending": 4, "queued": 1}
    assert r.machine.deadline() == 5  # when it is first looked for what waits
    assert r.texts(r.tick(5)) == []
    assert r.texts(r.tick(10)) == [{"sub": ["quote:E"]}]


def test_acknowledged_explicitly_or_by_data(rig):
    r = rig(ack_within=5)
    r.up(0)
    r.want("quote:A", "quote:B", "candle:A:1m")
    assert standing(r) == {"pending": 3}
    r.say(["ack", "quote:A"], at=1)
    r.say(["quote", "B", "1"], ["candle", "A", "1m"], at=1)
    assert standing(r) == {"confirmed": 3}
    assert r.machine.deadline() == 30  # when it is looked for data, which have to come of A


def test_without_an_acknowledgement_it_is_asked_again_then_reported(rig):
    r = rig(ack_within=5, silent_after=9999)
    r.up(0)
    assert r.texts(r.want("quote:A", at=0)) == [{"sub": ["quote:A"]}]
    assert r.texts(r.tick(5)) == [{"sub": ["quote:A"]}]
    assert r.texts(r.tick(15)) == [{"sub": ["quote:A"]}]
    r.kinds()
    assert r.texts(r.tick(35)) == []
    error, stale = r.fresh()
    assert error.code == "subscription_unanswered"
    assert (stale.event, stale.reason) == (StalenessEvent.STALE, "no acknowledgement after 3 requests")
    assert troubled(r)[0]["reason"] == "no acknowledgement after 3 requests"
    r.say(["quote", "A", "1"], at=40)  # it was subscribed all the same
    assert troubled(r) == []


def test_refused_topics_stay_visible_and_are_tried_on_the_next_connection(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.want("quote:A", "quote:B", at=1)
    r.say(["nack", "no such symbol", "quote:A"], at=2)
    assert r.fresh()[-1].code == "subscription_refused"
    assert troubled(r) == [{"kind": "quote", "symbol": "A", "standing": "refused", "reason": "no such symbol"}]
    assert r.texts(r.tick(3)) == []
    r.do(session_events.Closed(1006), 4)
    r.tick(5)
    assert r.texts(r.do(session_events.Opened(), 5)) == [{"sub": ["quote:A", "quote:B"]}]


def test_what_the_provider_does_not_offer_is_refused_at_once_on_every_connection(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.fresh()
    assert r.want("reference:A", "candle:A:7m") == []
    reasons = [
        "acme does not offer reference; it offers account, candle, depth, instrument, quote",
        "timeframe 7m is not offered; the timeframes are 1m",
    ]
    assert [t["reason"] for t in troubled(r)] == reasons
    events = r.fresh()
    assert [event.reason for event in events if event.kind == "staleness"] == reasons
    assert [event.code for event in events if event.kind == "error"] == ["subscription_refused"] * 2
    r.want("quote:A", at=1)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    assert r.texts(r.do(session_events.Opened(), 4)) == [{"sub": ["quote:A"]}]
    assert [t["reason"] for t in troubled(r)] == reasons
    told = [event for event in r.fresh() if event.kind == "staleness"]
    assert [event.of for event in told if event.session] == ["reference", "candle", "quote"]
    assert [event.reason for event in told if not event.session] == reasons


def test_a_topic_the_adapter_cannot_write_does_not_take_the_batch_with_it(rig):
    r = rig()
    r.do(session_events.Start(), 0)
    r.want("quote:A", "quote:UNWRITABLE", "quote:B")
    outputs = r.do(session_events.Opened(), 0)
    assert r.texts(outputs) == [{"sub": ["quote:A"]}, {"sub": ["quote:B"]}]
    assert troubled(r)[0]["reason"] == "UNWRITABLE cannot be written"


def test_a_topic_lingers_before_it_is_unsubscribed(rig):
    r = rig(settings=SessionSettings(linger=30), silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=1)
    r.unwant("quote:A", at=10)
    assert r.want("quote:A", at=39) == []  # back in time: the provider never knew
    r.unwant("quote:A", at=40)
    assert r.machine.deadline() <= 70
    assert r.texts(r.tick(70)) == [{"unsub": ["quote:A"]}]
    assert r.texts(r.want("quote:A", at=71)) == [{"sub": ["quote:A"]}]
    # the late answer to our own request, not an end of the new subscription
    assert r.texts(r.say(["unack", "quote:A"], at=72)) == []
    assert r.texts(r.tick(73)) == []
    assert r.texts(r.say(["unack", "quote:A"], at=74)) == [{"sub": ["quote:A"]}]


@pytest.fixture
def slow(rig):
    """One request in ten seconds; depth of A was subscribed, has a book, and is no longer wanted; the budget is used up."""
    r = rig(
        book=Book.DELTAS,
        ack_within=500,
        silent_after=9999,
        limits=(Rate(1, per=10, of="interest"),),
        topics_per_frame=1,
        settings=SessionSettings(linger=1),
    )
    r.up(0)
    r.want("depth:A", at=0)
    r.say(["ack", "depth:A"], ["snapshot", "A", None], at=1)
    r.unwant("depth:A", at=9.5)
    r.want("quote:Q", at=10)
    return r


def test_a_topic_wanted_again_while_its_unsubscribe_waits_is_subscribed_anew(slow):
    r = slow
    assert r.texts(r.tick(10.5)) == []
    r.want("depth:A", at=11)
    r.say(["ack", "depth:A"], ["delta", "A", None, None], at=12)  # of the subscription that is to end
    assert r.texts(r.tick(20)) == [{"unsub": ["depth:A"]}]
    r.say(["ack", "depth:A"], at=21)
    assert r.texts(r.tick(30)) == [{"sub": ["depth:A"]}]
    r.fresh()
    r.say(["unack", "depth:A"], ["ack", "depth:A"], ["snapshot", "A", None], ["delta", "A", None, None], at=31)
    assert [event.snapshot for event in r.fresh()] == [True, False]
    assert r.texts(r.tick(60)) == []


def test_it_is_not_subscribed_before_what_leaves_in_front_of_it(slow):
    r = slow
    r.unwant("quote:Q", at=10.1)
    r.tick(10.5)
    r.tick(11.2)  # A and Q wait to be unsubscribed, one by one
    r.want("quote:Q", at=12)
    frames = [frame for at in range(13, 60) for frame in r.texts(r.tick(at))]
    assert frames == [{"unsub": ["depth:A"]}, {"unsub": ["quote:Q"]}, {"sub": ["quote:Q"]}]


def test_a_request_that_still_waits_does_not_stand_for_a_later_one(slow):
    r = slow
    r.want("quote:R", at=10.1)
    r.unwant("quote:R", at=10.2)
    r.tick(11.3)  # its request waits, and would be taken back
    r.want("quote:R", at=12)
    frames = [frame for at in range(13, 90) for frame in r.texts(r.tick(at))]
    assert [frame for frame in frames if "depth:A" not in str(frame)] == [
        {"sub": ["quote:R"]},
        {"unsub": ["quote:R"]},
        {"sub": ["quote:R"]},
    ]


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_silent_topic_is_stale_once_and_fresh_at_its_next_event(rig):
    r = rig(stale_after={"quote": 20}, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=5)
    r.kinds()
    r.say("alive", at=24)  # a heartbeat proves the transport, not the topic
    assert r.texts(r.tick(25)) == [{"unsub": ["quote:A"]}, {"sub": ["quote:A"]}]
    assert r.fresh() == [
        Staleness(event=StalenessEvent.STALE, symbols=["A"], of="quote", stale_since="2023-11-14T22:13:25.000000Z")
    ]
    assert r.texts(r.tick(100)) == []  # one resubscribe
    assert r.kinds() == []
    r.say(["quote", "A", "2"], at=101)
    assert r.kinds() == ["staleness FRESH", "quote"]
    assert r.machine.deadline() == 121


def test_each_topic_is_called_stale_once_whenever_others_are(rig):
    r = rig(stale_after={"quote": 20}, silent_after=9999, ack_within=500)
    r.up(0)
    r.want("quote:A", "quote:B", at=0)
    r.say(["quote", "A", "1"], at=0)
    r.say(["quote", "B", "1"], at=10)
    r.fresh()
    r.tick(20)
    r.tick(30)
    assert [event.symbols for event in r.fresh()] == [("A",), ("B",)]


def test_a_topic_that_was_let_go_is_not_watched_and_its_book_is_closed(rig):
    r = rig(stale_after={"depth": 20}, silent_after=9999, book=Book.DELTAS, settings=SessionSettings(linger=5))
    r.up(0)
    r.want("depth:A", at=0)
    r.say(["snapshot", "A", None], at=1)
    r.unwant("depth:A", at=2)
    r.tick(7)
    r.fresh()
    r.say(["delta", "A", None, None], at=8)
    r.tick(100)
    assert r.fresh() == []
    assert r.counters()["dropped"] == {"unwanted": 1}


def test_a_topic_whose_subscription_is_not_acknowledged_is_called_silent_from_its_request_on(rig):
    r = rig(stale_after={"quote": 20}, backoff=ONCE, silent_after=9999, ack_within=500)
    r.up(0)
    r.want("quote:A", "quote:B", at=0)
    r.say(["quote", "A", "1"], ["quote", "B", "1"], at=0)
    r.do(session_events.Closed(1006), 1)
    r.tick(2)
    r.do(session_events.Opened(), 10)
    r.say(["quote", "B", "2"], at=10)
    r.fresh()
    r.tick(29.9)
    assert r.fresh() == []
    outputs = r.tick(30)
    assert [(event.symbols, event.reason) for event in r.fresh()] == [
        (("A",), "no data since the subscription, 20 s ago"),
        (("B",), None),
    ]
    assert r.texts(outputs) == [{"unsub": ["quote:B"]}, {"sub": ["quote:B"]}], (
        "A is asked for again when no answer came"
    )


def test_first_data_has_its_own_deadline_from_the_acknowledgement(rig):
    r = rig(settings=SessionSettings(first_data_within=10), ack_within=60, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["ack", "quote:A"], at=5)
    r.kinds()
    r.tick(14.9)
    assert r.kinds() == []
    r.tick(15)
    (stale,) = r.fresh()
    assert (stale.event, stale.stale_since) == ("STALE", None)
    assert stale.reason == "no data since the subscription, 10 s ago"
    r.say(["quote", "A", "1"], at=16)
    assert r.kinds() == ["staleness FRESH", "quote"]
    r.tick(5000)  # no stale_after for quotes: quiet is normal from here on
    assert r.kinds() == []


def test_quiet_accounts_are_normal(rig):
    r = rig(settings=SessionSettings(first_data_within=10), silent_after=9999)
    r.up(0)
    r.want("account:main", at=0)
    r.kinds()
    r.tick(1000)
    assert r.kinds() == []


def test_staleness_outlives_a_reconnect_but_its_clock_does_not(rig):
    r = rig(stale_after={"quote": 20}, backoff=ONCE, silent_after=9999)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["quote", "A", "1"], at=0)
    r.tick(20)
    r.do(session_events.Closed(1006), 21)
    r.kinds()
    r.tick(22)
    r.do(session_events.Opened(), 50)
    assert r.kinds() == ["staleness STALE", "connection CONNECTED", "gap"]
    r.say(["quote", "A", "2"], at=51)
    assert r.kinds() == ["staleness FRESH", "quote"]


# --- books -----------------------------------------------------------------------------------------------------------

FETCHED = {"book": Book.FETCHED, "sequence": Sequence(scope="topic", contiguous=True)}


def answer(*items):
    return Answer(status=200, text=dumps(items))


def seqs(events):
    return [(e.snapshot, e.last_seq) if isinstance(e, Depth) else (e.from_seq, e.to_seq) for e in events]


def test_a_fetched_snapshot_is_joined_to_what_was_held(rig):
    r = rig(**FETCHED)
    r.up(0)
    r.want("depth:A", at=0)
    r.fresh()
    (request,) = r.say(["delta", "A", 5, 6], at=1)
    assert request.url == "https://venue.test/api/book/A"
    assert r.say(["delta", "A", 7, 8], ["delta", "A", 9, 9], at=1.1) == []
    assert r.fresh() == []
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 7])), 1.2)
    r.say(["delta", "A", 10, 12], at=1.3)
    assert seqs(r.fresh()) == [(True, 7), (False, 8), (False, 9), (False, 12)]
    assert r.add_up()


def test_a_snapshot_that_is_too_old_is_not_shown_and_asked_for_again_later(rig):
    r = rig(**FETCHED)
    r.up(0)
    r.want("depth:A", at=0)
    r.fresh()
    (request,) = r.say(["delta", "A", 10, 11], at=1)
    assert r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 8])), 1.2) == []
    assert r.machine.deadline() == pytest.approx(1.7)
    (request,) = r.tick(1.7)
    assert (
        r.do(session_events.Fetched(request.id, Answer(status=503, text="busy", headers={"retry-after": "7"})), 2) == []
    )
    assert [event.code for event in r.fresh()] == ["snapshot_failed"]
    assert r.machine.deadline() == pytest.approx(9)
    (request,) = r.tick(9)
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 9])), 9.1)
    assert seqs(r.fresh()) == [(True, 9), (False, 11)]
    assert r.add_up()


def test_where_numbers_have_holes_a_snapshot_older_than_the_first_delta_is_too_old(rig):
    r = rig(book=Book.FETCHED, sequence=Sequence(scope="topic", contiguous=False))
    r.up(0)
    r.want("depth:A", at=0)
    r.fresh()
    (request,) = r.say(["delta", "A", None, 2000], at=1)
    assert r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 1990])), 1.2) == []
    assert r.fresh() == []
    (request,) = r.tick(1.7)
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 2000])), 2)
    r.say(["delta", "A", None, 2010], at=3)
    assert seqs(r.fresh()) == [(True, 2000), (False, 2010)]


def test_a_book_that_never_fits_is_requested_ever_more_rarely_and_called_unstable(rig):
    r = rig(**FETCHED, silent_after=99_999)
    r.up(0)
    r.want("depth:A", "depth:B", at=0)
    r.fresh()
    (request,) = r.say(["delta", "A", 1, 1], at=0)
    asked, seq, now, told = [], 1, 0.0, []
    while now < 100:
        r.do(session_events.Fetched(request.id, answer(["snapshot", "A", seq])), now)
        outputs = r.say(["delta", "A", seq + 5, seq + 5], at=now)  # a hole behind every snapshot
        seq += 5
        while not outputs:
            now = r.machine.deadline()
            outputs = r.requests(r.tick(now))
        (request,) = outputs
        asked.append(now)
        told += [(e.kind, getattr(e, "code", None) or e.reason) for e in r.fresh() if e.kind in ("error", "staleness")]
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits[:6] == [0.5, 1, 2, 4, 8, 16]
    assert max(waits) == 30
    reason = "the book breaks again and again: sequence numbers are missing"
    assert told[:4] == [("error", "book_unstable"), ("staleness", reason), ("staleness", None), ("staleness", reason)]
    (other,) = r.requests(r.say(["delta", "B", 1, 1], at=now))
    assert other.url.endswith("/book/B")  # another book is not harmed


def test_a_hole_is_announced_in_its_place_and_mended_for_that_symbol_only(rig):
    r = rig(**FETCHED)
    r.up(0)
    r.want("depth:A", "depth:B", at=0)
    for symbol in "AB":
        (request,) = r.say(["delta", symbol, 1, 1], at=1)
        r.do(session_events.Fetched(request.id, answer(["snapshot", symbol, 0])), 1)
    r.fresh()
    (request,) = r.say(["delta", "A", 2, 2], ["delta", "A", 5, 5], ["delta", "B", 2, 2], ["delta", "A", 6, 6], at=2)
    events = r.fresh()
    assert events[1] == Gap(
        of="depth", symbol="A", from_seq=3, to_seq=4, refill=Refill.SNAPSHOT, reason="sequence numbers are missing"
    )
    assert [e.symbol for e in events] == ["A", "A", "B"]
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 5])), 2.1)
    assert seqs(r.fresh()) == [(True, 5), (False, 6)]
    assert r.add_up()


def test_a_quiet_book_is_fetched_although_no_delta_comes(rig):
    r = rig(**FETCHED, ack_within=5)
    r.up(0)
    r.want("depth:A", at=0)
    r.say(["ack", "depth:A"], at=1)
    assert r.requests(r.tick(2.9)) == []
    (request,) = r.tick(3)
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 3])), 4)
    assert seqs([e for e in r.fresh() if e.kind == "depth"]) == [(True, 3)]


def test_a_stream_snapshot_that_never_comes_is_provoked_by_subscribing_again(rig):
    r = rig(book=Book.DELTAS, silent_after=9999)
    r.up(0)
    r.want("depth:A", at=0)
    assert r.texts(r.say(["delta", "A", None, None], at=1)) == []
    assert r.texts(r.tick(16)) == [{"unsub": ["depth:A"]}, {"sub": ["depth:A"]}]
    r.fresh()
    r.say(["delta", "A", None, None], ["snapshot", "A", None], ["delta", "A", None, None], at=17)
    assert [e.snapshot for e in r.fresh()] == [True, False]
    assert r.add_up()


def test_after_a_reconnect_a_book_starts_with_a_snapshot(rig):
    r = rig(**FETCHED, backoff=ONCE)
    r.up(0)
    r.want("depth:A", at=0)
    (request,) = r.say(["delta", "A", 1, 1], at=1)
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 1])), 1)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    r.do(session_events.Opened(), 4)
    r.fresh()
    (request,) = r.say(["delta", "A", 900, 901], at=5)
    assert r.fresh() == []
    r.do(session_events.Fetched(request.id, answer(["snapshot", "A", 900])), 6)
    fresh, *depth = r.fresh()
    assert (fresh.kind, fresh.event) == ("staleness", "FRESH")
    assert seqs(depth) == [(True, 900), (False, 901)]


def test_late_deltas_of_a_topic_nobody_wants_are_counted(rig):
    r = rig(**FETCHED)
    r.up(0)
    r.fresh()
    r.say(["delta", "Z", 1, 1], at=1)
    assert r.fresh() == []
    assert r.counters()["dropped"] == {"unwanted": 1}


# --- budgets, accounts ----------------------------------------------------------------------------------------------


def test_limited_is_published_and_pauses_everything(rig):
    r = rig()
    r.up(0)
    r.kinds()
    r.say(["limited", 30], at=1)
    (hit,) = r.fresh()
    assert (hit.event, hit.reset_at) == ("RATE_LIMIT_HIT", "2023-11-14T22:13:51.000000Z")
    assert r.texts(r.want("quote:A", at=2)) == []
    assert r.texts(r.tick(31)) == [{"sub": ["quote:A"]}]


def test_open_orders_are_reconciled_and_only_differences_published(rig):
    r = rig(credentials={"key": "k"}, backoff=ONCE)
    (request,) = r.requests(r.up(0))
    r.fresh()
    r.do(session_events.Fetched(request.id, answer(["order", "1", "OPEN"])), 1)
    assert [(e.id, e.status, e.reconciled) for e in r.fresh()] == [("1", "OPEN", True)]
    r.say(["order", "2", "OPEN"], ["fill", "f1"], at=2)
    r.do(session_events.Closed(1006), 3)
    r.tick(4)
    (request,) = r.requests(r.do(session_events.Opened(), 5))
    r.fresh()
    r.do(
        session_events.Fetched(
            request.id,
            answer(["order", "1", "OPEN"], ["order", "2", "PARTIALLY_FILLED"], ["fill", "f1"], ["fill", "f2"]),
        ),
        6,
    )
    assert [(e.kind, e.id, e.reconciled) for e in r.fresh()] == [("order", "2", True), ("trade", "f2", True)]
    assert r.counters()["deduped"] == 2
    assert r.add_up()


def test_reconciling_that_fails_is_reported_and_tried_again(rig):
    r = rig(credentials={"key": "k"})
    (request,) = r.requests(r.up(0))
    r.fresh()
    r.do(session_events.Fetched(request.id, Answer(status=502, text="")), 1)
    told = r.fresh()
    assert [(event.code, event.account) for event in told] == [("reconcile_failed", "main"), ("reconcile_failed", None)]
    assert [("502" in event.message) for event in told] == [True, False]
    assert len(r.requests(r.tick(6))) == 1


def test_a_throttle_is_no_refusal_and_the_topic_is_requested_again(rig):
    r = rig(ack_within=5)
    r.up(0)
    r.want("quote:A", at=1)
    r.fresh()
    r.say(["nack", "too many requests (code 3)", "quote:A"], at=2)
    assert r.kinds() == ["rate_limit RATE_LIMIT_HIT"]
    assert r.texts(r.tick(7)) == [{"sub": ["quote:A"]}]
