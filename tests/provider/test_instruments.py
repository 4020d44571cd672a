"""Instruments: told at once to whoever subscribes, and again when they change; and orders that do not fit are not sent."""

import pytest

from relay.adapter import Answer, Backoff, Fetch, Rate, dumps
from relay.model.commands import AmendOrder, PlaceOrder
from relay.model.events import Gap, Instrument
from relay.model.instruments import STATUS_HOLDS, TERMS_HOLD
from relay.provider import session_events
from relay.provider.session import METADATA_EVERY
from relay.provider.session_commands import checked
from relay.provider.session_state import SessionSettings

TERMS = {"tick_size": "0.01", "quantity_step": "0.1", "minimum_quantity": "0.5", "status": "TRADING"}


def told(r):
    return [event for event in r.fresh() if isinstance(event, Instrument)]


def test_what_is_known_is_told_to_whoever_subscribes_and_nothing_is_asked_of_the_provider(rig):
    r = rig()
    r.up(0)
    r.say(["instrument", "A", TERMS], ["instrument", "B", TERMS], at=1)
    assert told(r) == [], "nobody wants them"
    assert r.texts(r.want("instrument:A", at=2)) == []
    (event,) = told(r)
    assert (event.symbol, event.tick_size, event.status) == ("A", "0.01", "TRADING")
    assert r.texts(r.want("quote:A", "instrument:B", at=3)) == [{"sub": ["quote:A"]}]
    assert [event.symbol for event in told(r)] == ["B"]


def test_one_that_comes_later_or_changes_is_told_and_one_that_is_the_same_is_not(rig):
    r = rig()
    r.up(0)
    r.want("instrument:A", at=1)
    assert told(r) == []
    r.say(["instrument", "A", TERMS], at=2)
    r.say(["instrument", "A", TERMS], at=3)
    assert len(told(r)) == 1
    r.say(["instrument", "A", {**TERMS, "status": "HALTED"}], at=4)
    assert [event.status for event in told(r)] == ["HALTED"]
    counters = r.counters()
    assert counters["received"] == counters["published"] + counters["deduped"] == 3


def test_one_that_never_comes_is_stale_and_says_so(rig):
    r = rig()
    r.up(0)
    r.want("instrument:A", at=0)
    r.tick(31)
    (stale,) = [event for event in r.fresh() if event.kind == "staleness"]
    assert (stale.of, stale.symbols) == ("instrument", ("A",))


def test_a_new_connection_tells_them_again_behind_the_gap(rig):
    r = rig(backoff=Backoff(first=1, factor=2, cap=8, settle=60))
    r.up(0)
    r.say(["instrument", "A", TERMS], at=1)
    r.want("instrument:A", at=1)
    r.fresh()
    r.do(session_events.Closed(1006), 4)
    r.tick(5)
    r.do(session_events.Opened(), 5)
    gap, instrument = [event for event in r.fresh() if isinstance(event, Gap | Instrument)]
    assert (gap.of, gap.refill, instrument.symbol) == ("instrument", "snapshot", "A")


def test_metadata_are_read_again_while_a_connection_stands(rig):
    class Listing(rig.Venue):
        def prepare(self):
            yield Fetch(tag="list", url="/list", needed=False)

    def listed(tick):
        return Answer(status=200, text=dumps([["instrument", "A", {"tick_size": tick}]]))

    r = rig(adapter=Listing, silent_after=999_999)
    (first,) = r.requests(r.do(session_events.Start(), 0) or r.tick(0))
    r.do(session_events.Fetched(first.id, listed("0.1")), 0)
    r.do(session_events.Opened(), 0)
    r.want("instrument:A", at=1)
    r.fresh()
    (again,) = r.requests(r.tick(METADATA_EVERY + 1))
    r.do(session_events.Fetched(again.id, listed("0.2")), METADATA_EVERY + 2)
    assert [event.tick_size for event in told(r)] == ["0.2"]


ORDER = {"id": "c1", "symbol": "A", "side": "BUY", "order_type": "LIMIT", "quantity": "1.5", "limit_price": "10.01"}


@pytest.mark.parametrize(
    ("members", "terms", "code", "field", "words"),
    [
        ({"limit_price": "10.015"}, {}, "invalid_price", "limit_price", "the tick of A; next to it are 10.01 and 10.02"),
        ({"take_profit": "11.001"}, {}, "invalid_price", "take_profit", "next to it are 11.00 and 11.01"),
        ({"quantity": "1.55"}, {}, "invalid_quantity", "quantity", "the step of A; next to it are 1.5 and 1.6"),
        ({"quantity": "0.4"}, {}, "invalid_quantity", "quantity", "less than 0.5, the minimum of A"),
        ({}, {"maximum_quantity": "1"}, "invalid_quantity", "quantity", "more than 1, the maximum of A"),
        ({}, {"minimum_notional": "20"}, "invalid_quantity", "quantity", "is worth 15.015, less than 20"),
        ({}, {"status": "HALTED"}, "not_tradable", "symbol", "A is halted"),
        ({}, {"status": "CANCEL_ONLY"}, "not_tradable", "symbol", "takes no new orders now"),
        (
            {"order_type": "MARKET", "limit_price": None}, {"status": "LIMIT_ONLY"}, "not_tradable", "order_type",
            "takes no MARKET orders now",
        ),
        (
            {"order_type": "MARKET", "limit_price": None}, {"status": "POST_ONLY"}, "post_only_violated", "order_type",
            "only orders that add to the book",
        ),
    ],
)  # fmt: skip
def test_an_order_that_does_not_fit_is_rejected_before_it_is_sent(rig, members, terms, code, field, words):
    r = rig()
    r.up(0)
    r.say(["instrument", "A", {**TERMS, **terms}], at=1)
    r.fresh()
    assert r.texts(r.ask(PlaceOrder(**{**ORDER, **members}), at=2)) == []
    (reply,) = r.fresh()
    assert (reply.outcome, reply.error["code"], reply.error["field"]) == ("rejected", code, field)
    assert reply.error["message"].startswith(f"{field}: ")
    assert words in reply.error["message"]
    assert "provider_code" not in reply.error


@pytest.mark.parametrize(
    "terms",
    [
        TERMS,
        {},
        {"quantity_step": "0.000000000000000000000000000000000000001", "tick_size": "0.01"},
        {"status": "REDUCE_ONLY"},
        {"minimum_notional": "1000", "contract_size": "100"},
    ],
    ids=["fits", "nothing is said", "many digits", "what reduces is not known", "contracts have another value"],
)
def test_an_order_that_fits_as_far_as_is_known_is_sent(rig, terms):
    r = rig()
    r.up(0)
    r.say(["instrument", "A", terms], at=1)
    assert r.texts(r.ask(PlaceOrder(**ORDER), at=2)) == [{"order": "c1"}]


@pytest.mark.parametrize(
    ("members", "after"),
    [({"limit_price": "10.001"}, TERMS_HOLD), ({"reduce_only": True, "quantity": "0.1"}, 0)],
    ids=["the terms are old", "the rest of a position"],
)
def test_an_order_that_the_provider_may_take_is_sent(rig, members, after):
    r = rig(silent_after=999_999)
    r.up(0)
    r.say(["instrument", "A", {**TERMS, "minimum_notional": "20"}], at=1)
    assert r.texts(r.ask(PlaceOrder(**ORDER | members), at=2 + after)) == [{"order": "c1"}]


@pytest.mark.parametrize(("after", "sent"), [(STATUS_HOLDS, []), (STATUS_HOLDS + 1, [{"order": "c1"}])])
def test_a_status_counts_for_a_minute_since_a_halt_may_have_ended(rig, after, sent):
    r = rig(silent_after=999_999)
    r.up(0)
    r.say(["instrument", "A", {**TERMS, "status": "HALTED"}], at=1)
    assert r.texts(r.ask(PlaceOrder(**ORDER), at=1 + after)) == sent


def test_where_nothing_is_known_of_the_symbol_nothing_is_checked(rig):
    r = rig()
    r.up(0)
    r.say(["instrument", "B", TERMS], at=1)
    assert r.texts(r.ask(PlaceOrder(**ORDER | {"limit_price": "10.0123"}), at=2)) == [{"order": "c1"}]


def test_the_operator_and_the_sender_can_leave_the_check_out(rig):
    off = ORDER | {"limit_price": "10.0123"}
    r = rig(settings=SessionSettings(check_orders=False))
    r.up(0)
    r.say(["instrument", "A", TERMS], at=1)
    assert r.texts(r.ask(PlaceOrder(**off), at=2)) == [{"order": "c1"}]
    marked = PlaceOrder(**off, extra={"unchecked": True, "note": "x"})
    sent, is_checked = checked(marked)
    assert (sent.extra, is_checked) == ({"note": "x"}, False), "the mark is not the broker's"
    assert checked(PlaceOrder(**off, extra={"unchecked": "yes"}))[1], "only true is the mark"
    r = rig()
    r.up(0)
    r.say(["instrument", "A", TERMS], at=1)
    assert r.texts(r.ask(marked, at=2)) == [{"order": "c1"}]


def test_an_amendment_is_compared_with_the_instrument_of_its_order(rig):
    r = rig()
    r.up(0)
    r.say(["instrument", "S", TERMS], ["order", "o1", "OPEN"], at=1)
    r.fresh()
    assert r.texts(r.ask(AmendOrder(id="c1", order_id="o1", limit_price="10.005"), at=2)) == []
    (reply,) = r.fresh()
    assert reply.error["field"] == "limit_price"


# --- without a connection ---------------------------------------------------------------------------------------------


def dials(outputs):
    return sum(isinstance(output, session_events.Dial) for output in outputs)


@pytest.fixture
def closing(rig):
    """Begin a session of a provider that lists its instruments, and closes connections without a subscription."""

    class Listing(rig.Venue):
        def prepare(self):
            yield Fetch(tag="list", url="/list", needed=False)

    def begun(**session):
        r = rig(adapter=Listing, **{"on_interest": True, "backoff": Backoff(first=10), "silent_after": 9999, **session})
        r.do(session_events.Start(), 0)
        return r

    return begun


def answered(r, outputs, at, status=200, **terms):
    (request,) = r.requests(outputs)
    text = dumps([["instrument", "A", {**TERMS, **terms}]])
    return r.do(session_events.Fetched(request.id, Answer(status=status, text=text)), at)


def test_an_instrument_alone_needs_no_connection(closing):
    r = closing()
    assert r.requests(r.tick(1)) == []
    assert dials(answered(r, r.want("instrument:A", at=1), 2)) == 0
    assert [event.kind for event in r.fresh()] == ["instrument"], "no attempt to connect, so none is told"
    assert r.machine.life.value == "idle"
    assert r.requests(r.want("instrument:B", at=3)) == [], "what was read an instant ago is not read again"
    (stale,) = r.fresh()
    assert (stale.kind, stale.symbols, stale.reason) == ("staleness", ("B",), "acme says nothing of this instrument")
    assert dials(answered(r, r.tick(METADATA_EVERY + 2), METADATA_EVERY + 3, tick_size="0.5")) == 0
    assert [event.tick_size for event in told(r)] == ["0.5"]
    assert r.machine.deadline() == pytest.approx(2 * METADATA_EVERY + 3)
    r.unwant("instrument:A", at=METADATA_EVERY + 4)
    r.unwant("instrument:B", at=METADATA_EVERY + 4)
    r.tick(METADATA_EVERY + 40)
    assert r.requests(r.tick(3 * METADATA_EVERY)) == []
    assert r.machine.deadline() == float("inf")


def test_metadata_that_cannot_be_read_are_asked_for_again_and_the_instrument_is_stale(closing):
    r = closing(backoff=Backoff(first=10, jitter=0))
    assert dials(answered(r, r.want("instrument:A", at=0), 1, status=503)) == 0
    assert [(event.event, event.reason) for event in r.fresh()] == [
        (
            "RECONNECTING",
            "preparing failed, HTTP status 503 to GET https://venue.test/api/list: "
            + dumps([["instrument", "A", TERMS]]),
        )
    ]
    assert r.requests(r.tick(2)) == []
    (stale,) = r.fresh()
    assert (stale.event, stale.of, stale.session) == ("STALE", "instrument", True)
    answered(r, r.tick(r.machine.deadline()), 12)
    assert r.kinds() == ["staleness FRESH", "instrument", "connection DISCONNECTING"]
    assert r.machine.life.value == "idle"


def test_a_topic_of_the_connection_wakes_it_and_when_it_is_gone_the_instrument_is_served_on(closing):
    r = closing(settings=SessionSettings(linger=0))
    answered(r, r.want("instrument:A", at=0), 1)
    assert dials(answered(r, r.want("quote:A", at=2), 3)) == 1
    assert r.texts(r.do(session_events.Opened(), 3)) == [{"sub": ["quote:A"]}]
    r.fresh()
    assert r.texts(r.unwant("quote:A", at=4)) == [{"unsub": ["quote:A"]}]
    assert dials(r.do(session_events.Closed(1000, "no subscription"), 9)) == 0
    assert [event.kind for event in r.fresh()] == ["instrument", "connection"]
    assert dials(r.tick(500)) == 0
    assert r.machine.life.value == "idle"


def test_a_topic_that_is_wanted_while_metadata_are_read_keeps_the_budget_of_dials(closing):
    r = closing(limits=(Rate(1, per=100, of="dial"),), settings=SessionSettings(linger=0))
    assert dials(answered(r, r.want("quote:A", at=0), 0)) == 1
    r.do(session_events.Opened(), 0)
    r.unwant("quote:A", at=1)
    r.do(session_events.Closed(1000), 5)
    reading = r.want("instrument:A", at=METADATA_EVERY)
    assert dials(r.want("quote:A", at=METADATA_EVERY)) == 0
    assert dials(answered(r, reading, METADATA_EVERY)) == 1


def test_an_instrument_takes_no_place_on_a_connection(rig):
    r = rig(most_topics=1, silent_after=999)
    r.up(0)
    r.say(["instrument", "A", TERMS], at=1)
    r.want("quote:A", at=1)
    r.fresh()
    r.want("instrument:A", at=2)
    assert [event.kind for event in r.fresh()] == ["instrument"]
    r.unwant("quote:A", at=3)
    assert r.texts(r.want("quote:B", at=100)) == [{"unsub": ["quote:A"]}, {"sub": ["quote:B"]}]
