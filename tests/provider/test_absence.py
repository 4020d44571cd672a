"""A session that is gone makes its topics stale at once, and each is fresh with its first event behind the gap."""

from relay.adapter import Answer, Backoff, Offer, dumps
from relay.model.enums import StalenessEvent
from relay.provider import session_events
from relay.provider.liveness import SETTLES

ONCE = Backoff(first=1, factor=2, cap=8, settle=60)


def answer(*items):
    return Answer(status=200, text=dumps(items))


def told(events):
    """Staleness events: what happened, to which kind and symbols, and whether the session was the cause."""
    return [(e.event.value, e.of, e.symbols, bool(e.session)) for e in events if e.kind == "staleness"]


def broken(r, *topics, at=2):
    """A session with these topics, each with data, that has lost its connection."""
    r.up(0)
    r.want(*topics, at=0)
    r.say(["ack", *topics], *(["quote", topic[6:], "1"] for topic in topics if topic.startswith("quote")), at=1)
    r.do(session_events.Closed(1006, "cut"), at)
    r.fresh()
    return r


def test_all_topics_of_a_kind_are_told_by_one_event_when_the_loss_has_lasted(rig):
    r = broken(rig(backoff=Backoff(first=60, factor=2, cap=60)), *(f"quote:S{n}" for n in range(1000)), "candle:A:1m")
    assert r.machine.deadline() == 2 + SETTLES
    r.tick(2 + SETTLES)
    events = r.fresh()
    assert told(events) == [("STALE", "quote", (), True), ("STALE", "candle", (), True)]
    assert events[0].reason == "no session with acme: closed with 1006: cut"
    assert events[0].stale_since == "2023-11-14T22:13:21.000000Z"  # when the connection was last known to live
    r.tick(3)
    assert told(r.fresh()) == []


def test_a_session_that_is_back_at_once_has_a_gap_and_was_never_stale(rig):
    r = broken(rig(backoff=Backoff(first=0.1, factor=1, cap=0.1)), "quote:A")
    r.tick(2.1)
    r.do(session_events.Opened(), 2.12)
    r.tick(2.3)
    assert r.kinds() == ["connection CONNECTED", "gap"]
    r.say(["quote", "A", "2"], at=3)
    assert r.kinds() == ["quote"]


def test_the_first_event_behind_the_gap_is_fresh_even_if_it_repeats_the_last_price(rig):
    r = broken(rig(backoff=ONCE), "quote:A", "quote:B")
    r.tick(3)
    r.do(session_events.Opened(), 4)
    r.fresh()
    r.say(["quote", "A", "1"], at=5)
    assert told(events := r.fresh()) == [("FRESH", "quote", ("A",), True)]
    assert [event.kind for event in events] == ["staleness", "quote"]
    r.say(["quote", "A", "1"], at=6)
    assert r.kinds() == ["quote"]


def test_who_comes_while_the_session_is_gone_is_told(rig):
    r = broken(rig(backoff=Backoff(first=60, factor=2, cap=60)), "quote:A")
    r.tick(3)
    r.fresh()
    r.want("quote:B", "candle:A:1m", at=4)
    assert told(r.fresh()) == [("STALE", "quote", ("B",), True), ("STALE", "candle", ("A",), True)]


def test_who_comes_first_while_a_provider_was_never_reached_is_told(rig):
    r = rig(backoff=Backoff(first=60, factor=2, cap=60))
    r.do(session_events.Start(), 0)
    r.do(session_events.DialFailed("no route"), 1)
    r.fresh()
    r.want("quote:A", at=10)
    (event,) = r.fresh()
    assert told([event]) == [("STALE", "quote", ("A",), True)]
    assert event.reason == "no session with acme: no connection: no route"
    assert event.stale_since is None


def test_a_topic_that_stays_silent_behind_the_gap_is_requested_again(rig):
    r = broken(rig(backoff=ONCE, stale_after={"quote": 20}, silent_after=9999), "quote:A")
    r.tick(3)
    r.do(session_events.Opened(), 4)
    r.say(["ack", "quote:A"], at=5)
    r.fresh()
    frames = r.texts(r.tick(25))
    assert told(r.fresh()) == [("STALE", "quote", ("A",), False)]
    assert frames == [{"unsub": ["quote:A"]}, {"sub": ["quote:A"]}]


def test_where_no_event_has_to_come_the_confirmed_subscription_is_fresh(rig):
    class Venue(rig.Venue):
        offers = (Offer(kind="public_trade"), Offer(kind="account"))

    r = broken(rig(adapter=Venue, backoff=ONCE), "public_trade:A", "account:main")
    r.tick(3)
    assert told(r.fresh()) == [("STALE", "public_trade", (), True), ("STALE", "account", (), True)]
    r.do(session_events.Opened(), 4)
    r.fresh()
    r.say(["ack", "public_trade:A", "account:main"], at=5)
    assert told(r.fresh()) == [("FRESH", "public_trade", ("A",), True), ("FRESH", "account", (), True)]


def test_an_account_is_fresh_when_it_was_compared_with_the_lists(rig):
    r = rig(backoff=ONCE, credentials={"key": "k"})
    (request,) = [o for o in r.up(0) if isinstance(o, session_events.FetchRequest)]
    r.want("account:main", at=0)
    r.say(["ack", "account:main"], at=1)
    r.do(session_events.Fetched(request.id, answer()), 1)
    r.do(session_events.Closed(1006), 2)
    r.tick(3)
    outputs = r.do(session_events.Opened(), 4)
    (request,) = [o for o in outputs if isinstance(o, session_events.FetchRequest)]
    r.say(["ack", "account:main"], at=5)
    assert told(r.fresh()) == [("STALE", "account", (), True)]
    r.do(session_events.Fetched(request.id, answer()), 6)
    assert told(r.fresh()) == [("FRESH", "account", (), True)]


def test_a_lingering_topic_is_fresh_again_when_somebody_comes_back(rig):
    r = broken(rig(backoff=ONCE, silent_after=9999), "quote:A")
    r.tick(3)
    r.do(session_events.UnwantTopic(r.topic("quote:A")), 3)
    r.do(session_events.Opened(), 4)
    r.tick(60)
    r.fresh()
    r.want("quote:A", at=61)
    r.say(["ack", "quote:A"], ["quote", "A", "1"], at=62)
    assert told(r.fresh()) == [("FRESH", "quote", ("A",), True)]


def test_a_successor_tells_what_the_crashed_machine_had_no_time_to_tell(rig):
    r = rig(backoff=ONCE)
    r.up(0)
    r.want("quote:A", at=0)
    r.say(["ack", "quote:A"], ["quote", "A", "1"], at=1)
    r.machine.abandon("internal error of the relay", r.moment(2))
    r.succeed()
    r.do(session_events.Start(), 2)
    r.fresh()
    r.tick(2 + SETTLES)
    assert told(r.fresh()) == [("STALE", "quote", (), True)]


def test_a_refusal_on_the_next_connection_is_told_behind_the_absence(rig):
    r = broken(rig(backoff=ONCE), "quote:A")
    r.tick(3)
    r.do(session_events.Opened(), 4)
    r.fresh()
    r.say(["nack", "no such symbol", "quote:A"], at=5)
    event = next(event for event in r.fresh() if event.kind == "staleness")
    assert (event.event, event.reason, event.session) == (StalenessEvent.STALE, "no such symbol", None)
