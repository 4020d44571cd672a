"""Polls: what a provider does not stream is asked for in turn, from the budget that commands leave."""

import pytest

from relay.adapter import Answer, Fetch, Poll, Rate, dumps
from relay.model.commands import PlaceOrder
from relay.model.events import Error
from relay.provider import session_events
from relay.provider.polls import MOST, Polls


def asked(polls, now):
    """The name of the poll that is taken at ``now`` and sent at once."""
    poll = polls.take_due(now)
    if poll is None:
        return None
    polls.sent(poll.name, now)
    return poll.name


def poll(name, every=None, **more):
    return Poll(name, f'"{name}"', every=every, **more)


# --- the plan --------------------------------------------------------------------------------------------------------


def test_one_is_under_way_at_a_time_and_they_take_turns():
    polls, turns = Polls(), []
    for name in ("a", "b", "c"):
        polls.put(poll(name, every=10))
    for now in range(6):
        turns.append(asked(polls, now))
        assert polls.take_due(now) is None
        polls.answered(turns[-1], now)
    assert turns == ["a", "b", "c", None, None, None]
    assert [asked(polls, 9.9), asked(polls, 10)] == [None, "a"]


def test_what_is_asked_once_goes_first_and_is_asked_until_it_was_answered():
    polls = Polls()
    polls.put(poll("list", every=10))
    polls.put(poll("order"))
    assert asked(polls, 0) == "order"
    assert polls.answered("order", 1, failed=True)
    assert asked(polls, 1) == "list"
    polls.answered("list", 1)
    assert asked(polls, 2) == "order"
    polls.answered("order", 2)
    assert polls.deadline() == 11
    assert asked(polls, 10) is None


def test_one_asked_for_while_it_is_under_way_is_asked_once_more():
    polls = Polls()
    polls.put(poll("orders", every=30))
    assert asked(polls, 0) == "orders"
    for _ in range(3):
        polls.put(poll("orders", every=30))
    assert asked(polls, 1) is None
    polls.answered("orders", 2)
    assert asked(polls, 2) == "orders"
    polls.answered("orders", 3)
    assert polls.deadline() == 32


def test_one_that_waits_waits_once():
    polls = Polls()
    for _ in range(3):
        polls.put(poll("a"))
    assert asked(polls, 0) == "a"
    polls.answered("a", 0)
    assert (asked(polls, 0), polls.deadline()) == (None, float("inf"))


def test_a_rate_may_change_without_asking_now():
    polls = Polls()
    polls.put(poll("orders", every=30, now=False))
    assert [asked(polls, 0), asked(polls, 29)] == [None, None]
    polls.put(poll("orders", every=1, now=False))
    assert asked(polls, 29.5) is None
    assert asked(polls, 30) == "orders"
    polls.answered("orders", 30)
    assert asked(polls, 31) == "orders"


def test_a_failure_is_told_once_and_asked_again_ever_more_rarely():
    polls = Polls()
    polls.put(poll("a", every=5))
    now, waits, told = 0.0, [], []
    for _ in range(9):
        assert asked(polls, now) == "a"
        told.append(polls.answered("a", now, failed=True))
        polls.put(poll("a", every=5))  # asking for it anew does not hasten it
        assert asked(polls, now) is None
        waits.append(polls.deadline() - now)
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert told == [True] + [False] * 8
    assert asked(polls, now) == "a"
    polls.answered("a", now)
    assert polls.deadline() == now + 5


def test_the_provider_may_say_when_to_ask_again():
    polls = Polls()
    polls.put(poll("a"))
    asked(polls, 0)
    polls.answered("a", 0, failed=True, at_least=20)
    assert polls.deadline() == 20


def test_one_that_is_refused_for_good_is_over():
    polls = Polls()
    polls.put(poll("a", every=5))
    asked(polls, 0)
    polls.answered("a", 0, failed=True, final=True)
    assert polls.deadline() == float("inf")


def test_an_answer_that_does_not_come_holds_nothing_up():
    polls = Polls()
    polls.put(poll("a", every=5, within=3))
    polls.put(poll("b", every=5))
    assert asked(polls, 0) == "a"
    assert (polls.overdue(2.9), polls.deadline()) == (None, 3)
    assert polls.overdue(3) == "a"
    polls.answered("a", 3, failed=True)
    assert asked(polls, 3) == "b"


def test_an_answer_that_nobody_waits_for_counts_all_the_same():
    polls = Polls()
    polls.put(poll("a", every=5))
    polls.put(poll("b", every=5))
    assert asked(polls, 0) == "a"
    polls.answered("b", 1)
    polls.answered("a", 2)
    assert (asked(polls, 2), polls.deadline()) == (None, 5)
    assert not polls.answered("nobody's", 2)


def test_there_is_a_most():
    polls = Polls()
    for n in range(MOST + 2):
        polls.put(poll(n))
    assert (asked(polls, 0), polls.refused) == (0, 2)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": -1}, {"every": None, "now": False}])
def test_a_poll_that_makes_no_sense_names_its_member(wrong):
    with pytest.raises(ValueError, match="'every'"):
        poll("a", **wrong)
    with pytest.raises(ValueError, match="'name'"):
        Poll(None, "text")


# --- in a session ----------------------------------------------------------------------------------------------------


def test_a_session_polls_by_its_own_clock(rig):
    r = rig()
    r.up(0)
    assert r.texts(r.say(["poll", "orders", 30], at=1)) == ["orders"]
    r.say(["polled", "orders"], at=2)
    assert r.machine.deadline() <= 31
    assert r.texts(r.tick(30)) == []
    assert r.texts(r.tick(31)) == ["orders"]


def test_what_is_polled_leaves_half_of_the_budget_to_commands(rig):
    r = rig(limits=(Rate(6, per=60, burst=6, of="call"),))
    r.up(0)
    frames = []
    for n in range(6):
        frames += r.texts(r.say(["poll", f"{n}", None], at=0)) + r.texts(r.say(["polled", f"{n}"], at=0))
    assert frames == ["0", "1", "2"]
    assert r.texts(r.say(["polled", "2"], at=0)) == []
    assert r.texts(r.tick(10)) == ["3"]


def test_a_command_goes_before_a_poll_that_waits(rig):
    r = rig(limits=(Rate(2, per=10, burst=2, of="call"),))
    r.up(0)
    order = {"symbol": "S", "side": "BUY", "order_type": "MARKET", "quantity": "1"}
    assert r.texts(r.say(["poll", "a", None], at=0)) == ["a"]
    r.say(["polled", "a"], ["poll", "b", None], at=0)
    assert r.texts(r.ask(PlaceOrder(id="c", **order), at=0)) == [{"order": "c"}]
    r.say(["reply", "c", {}, None], at=1)
    assert r.texts(r.tick(9)) == []
    assert r.texts(r.tick(r.machine.deadline())) == ["b"]


def test_a_poll_ends_with_its_connection(rig):
    r = rig()
    r.up(0)
    r.say(["poll", "a", 5], at=0)
    r.do(session_events.Closed(1006), 1)
    r.tick(r.machine.deadline())
    assert r.texts(r.up()) == []
    assert r.texts(r.tick(r.now + 10)) == []


def test_the_failures_of_a_frame_are_one_error(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.say(["poll", "a", 5], at=0)
    r.say(["polled", "a", "away"], at=0)
    assert r.texts(r.tick(1)) == ["a"]
    r.say(["polled", "a", "away"], at=1)
    assert [(event.code, event.message) for event in r.fresh() if isinstance(event, Error)] == [("away", "no a")]
    assert r.texts(r.tick(3)) == ["a"]
    r.say(["no more", "a"], at=3)
    assert r.texts(r.tick(100)) == []


def test_a_frame_without_an_answer_is_an_error_and_asked_again(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.say(["poll", "a", None], at=0)
    assert r.texts(r.tick(10)) == []
    assert [event.message for event in r.fresh()] == ["a: no answer within its deadline"]
    assert r.texts(r.tick(11)) == ["a"]


def test_what_is_polled_over_http_is_read_as_any_answer_and_compared(rig):
    r = rig()
    r.up(0)
    r.fresh()
    for at in (0, 30):
        (request,) = r.requests(r.say(["poll url", "/open", 30], at=0) if at == 0 else r.tick(at))
        state = dumps([["position", "1", None, "2"]])
        r.do(session_events.Fetched(request.id, Answer(status=200, text=state)), at)
    assert r.kinds() == ["position POSITION_OPENED"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=500, text="no"), "/open: HTTP status 500"),
        (Answer(status=0, text="refused"), "/open: no answer (refused)"),
        (Answer(status=200, text="{"), "/open: the answer could not be decoded"),
    ],
)
def test_an_http_answer_that_is_no_success_is_requested_again(rig, answer, said):
    r = rig()
    r.up(0)
    r.fresh()
    for at in (0, 1):
        (request,) = r.requests(r.say(["poll url", "/open", 30], at=0) if at == 0 else r.tick(at))
        r.do(session_events.Fetched(request.id, answer), at)
    assert [event.message for event in r.fresh() if isinstance(event, Error) and event.code == "poll_failed"] == [said]


def test_the_pages_of_a_poll_belong_to_it(rig):
    r = rig()
    r.up(0)
    (request,) = r.requests(r.say(["poll url", "/1", 5], at=0))
    page = Answer(status=200, text=dumps([["fetch", "/2"]]))
    (behind,) = r.requests(r.do(session_events.Fetched(request.id, page), 0))
    assert r.requests(r.tick(6)) == []
    again = r.do(session_events.Fetched(behind.id, Answer(status=200, text="[]")), 7)
    assert [each.shown[-2:] for each in r.requests(again)] == ["/1"]


def test_a_session_polls_what_encode_yields(rig):
    class Polling(rig.Venue):
        def encode(self, outgoing):
            if type(outgoing).__name__ == "Reconcile":
                yield Poll("money", Fetch(tag="money", url="/money"), every=60)

    r = rig(adapter=Polling)
    assert [request.shown[-6:] for request in r.requests(r.up(0))] == ["/money"]


LISTED = (["position", "1", None, "2"], ["complete", "position"], ["polled", "open"])
FLAT = LISTED[1:]


def test_a_list_asked_for_before_the_newest_word_takes_nothing_back(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.say(["poll", "open", 30], at=0)
    r.say(["position", "1", "POSITION_OPENED", "2"], at=1)
    r.say(*FLAT, at=2)
    r.say(["position", "1", "POSITION_CLOSED", "0"], at=3)
    assert r.texts(r.tick(30)) == ["open"]
    r.say(["position", "1", "POSITION_OPENED", "3"], at=31)
    r.say(*LISTED, at=32)
    assert r.kinds() == ["position POSITION_OPENED", "position POSITION_CLOSED", "position POSITION_OPENED"]


def test_a_list_that_contradicts_what_was_told_shortly_before_is_requested_again(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.say(["poll", "open", 30], at=0)
    r.say(*LISTED, at=0)
    r.say(["position", "1", "POSITION_CLOSED", "0"], at=28)
    assert r.texts(r.tick(30)) == ["open"]
    assert r.texts(r.say(*LISTED, at=31)) == ["open"], "as it was before the close"
    assert r.texts(r.say(*FLAT, at=32)) == []
    r.tick(62)
    r.say(*LISTED, at=62)
    assert r.kinds() == ["position POSITION_OPENED", "position POSITION_CLOSED", "position POSITION_OPENED"]
    assert r.texts(r.tick(92)) == ["open"]
    r.say(["position", "1", "POSITION_MODIFIED", "4"], at=93)
    r.say(*FLAT, at=94)
    r.say(["poll", "open", 30], at=95)
    assert r.texts(r.say(*FLAT, at=96)) == ["open"]
    r.say(*FLAT, at=97)
    assert r.kinds()[-2:] == ["position POSITION_MODIFIED", "position POSITION_CLOSED"]


def test_an_answer_that_comes_late_or_twice_is_as_old_as_its_request(rig):
    r = rig()
    r.up(0)
    r.fresh()
    r.say(["poll", "open", None], at=0)
    r.tick(10)  # no answer in time
    r.fresh()
    r.say(["position", "1", "POSITION_OPENED", "2"], at=10.5)
    assert r.texts(r.tick(11)) == ["open"]
    for _ in range(2):
        r.say(*FLAT, at=12)
    assert r.kinds() == ["position POSITION_OPENED"]


# --- a fetch of a name ------------------------------------------------------------------------------------------------


def test_a_fetch_of_a_name_waits_once_and_once_more_behind_the_one_under_way(rig):
    r = rig(limits=(Rate(1, per=10, of="http"),))
    r.up(0)
    first = r.requests(r.say(["fetch once", "/a", "positions"], at=0))
    for _ in range(3):
        assert r.requests(r.say(["fetch once", "/a", "positions"], at=1)) == []
    r.say(["fetch once", "/b", "orders"], at=1)
    done = [r.requests(r.do(session_events.Fetched(first[0].id, Answer(status=200, text="[]")), 2))]
    done += [r.requests(r.tick(at)) for at in (10, 20, 30)]
    assert [[request.shown[-2:] for request in requests] for requests in done] == [[], ["/b"], ["/a"], []]


def test_one_that_waits_for_its_budget_is_not_queued_twice(rig):
    r = rig(limits=(Rate(1, per=10, of="http"),))
    r.up(0)
    r.say(["fetch once", "/b", "orders"], at=0)
    for _ in range(3):
        r.say(["fetch once", "/a", "positions"], at=1)
    assert [[request.shown[-2:] for request in r.requests(r.tick(at))] for at in (10, 20)] == [["/a"], []]
