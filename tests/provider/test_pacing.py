"""Budgets and the queue before them."""

from hypothesis import given
from hypothesis import strategies as st

from relay.adapter import Rate
from relay.provider.pacing import Budget, Lane, Queue


def test_a_bucket_bursts_then_refills_evenly():
    budget = Budget([Rate(180, per=60, burst=20, of="call")])
    budget.take({"call": 20}, 0)
    assert budget.at({"call": 1}, 0) == 1 / 3
    assert budget.remaining("call", 1) == 3
    assert budget.remaining("call", 1000) == 20


def test_without_a_burst_no_window_holds_more_than_the_count():
    budget = Budget([Rate(5, per=60, of="dial")])
    for at in (0, 1, 2, 3, 59):
        assert budget.at({"dial": 1}, at) == at
        budget.take({"dial": 1}, at)
    assert budget.at({"dial": 1}, 59) == 60
    budget.take({"dial": 1}, 60)
    assert budget.at({"dial": 2}, 60) == 62


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 3)), max_size=40))
def test_a_window_is_never_exceeded(wishes):
    budget, now, taken = Budget([Rate(4, per=10, of="http")]), 0.0, []
    for pause, cost in wishes:
        now = budget.at({"http": cost}, now + pause)
        budget.take({"http": cost}, now)
        taken.append((now, cost))
    for start, _ in taken:
        assert sum(cost for at, cost in taken if start <= at < start + 10 - 1e-6) <= 4


def test_a_slow_rate_is_one_in_a_longer_time():
    budget = Budget([Rate(0.5, per=1, of="frame")])
    budget.take({"frame": 1}, 0)
    assert budget.at({"frame": 1}, 0) == 2


def test_a_cost_above_the_capacity_waits_for_all_of_it_and_not_for_ever():
    budget = Budget([Rate(4, per=10, of="http"), Rate(6, per=10, burst=3, of="http")])
    assert budget.at({"http": 10}, 0) == 0
    budget.take({"http": 10}, 0)
    assert budget.at({"http": 1}, 0) > 10


def test_what_has_no_limit_is_always_free():
    assert Budget([]).at({"frame": 100}, 7) == 7
    assert Budget([]).remaining("frame", 0) is None


def test_a_pause_holds_everything_named():
    budget = Budget([])
    budget.pause(["call"], 30)
    budget.pause(["call"], 20)
    assert budget.at({"call": 1}, 5) == 30
    assert budget.at({"http": 1}, 5) == 5


def test_low_tells_when_all_of_it_is_back():
    budget = Budget([Rate(3, burst=18, of="call")])
    budget.take({"call": 15}, 10)
    low = budget.low("call", 0.2, 10)
    assert (low.remaining, low.reset_in) == (3, 5)


def test_low_is_said_once_per_window():
    budget = Budget([Rate(10, per=60, of="call")])
    budget.take({"call": 8}, 0)
    assert budget.low("call", 0.2, 0) is None
    budget.take({"call": 1}, 1)
    low = budget.low("call", 0.2, 1)
    assert (low.remaining, low.reset_in) == (1, 60)
    assert budget.low("call", 0.2, 30) is None
    budget.take({"call": 9}, 61)
    assert budget.low("call", 0.2, 61) is not None


def test_the_queue_keeps_lanes_and_order():
    queue = Queue(Budget([Rate(2, per=10, of="frame"), Rate(1, per=10, of="http")]))
    queue.put(Lane.INTEREST, {"frame": 1}, "sub 1")
    queue.put(Lane.INTEREST, {"frame": 1}, "sub 2")
    queue.put(Lane.FETCH, {"http": 1}, "snapshot")
    queue.put(Lane.CALL, {"frame": 1}, "order")
    assert list(queue.take_due(0)) == ["order", "sub 1", "snapshot"]
    assert queue.deadline() == 10
    queue.put(Lane.CALL, {"frame": 1}, "order 2")
    assert list(queue.take_due(5)) == []
    assert list(queue.take_due(10)) == ["order 2", "sub 2"]
    assert queue.deadline() == float("inf")


def test_what_waits_for_an_order_is_not_overtaken():
    queue = Queue(Budget([Rate(1, per=10, of="call"), Rate(1, per=1, burst=5, of="frame")]))
    queue.put(Lane.CALL, {"frame": 1, "call": 1}, "order 1")
    queue.put(Lane.CALL, {"frame": 1, "call": 1}, "order 2")
    queue.put(Lane.INTEREST, {"frame": 1}, "sub")
    assert list(queue.take_due(0)) == ["order 1"]
    assert list(queue.take_due(10)) == ["order 2", "sub"]


def test_what_waits_holds_back_only_what_draws_from_the_same_limits():
    """Frames are counted and not limited here, so subscriptions and calls, which both are frames, do not wait for each other."""
    queue = Queue(Budget([Rate(1, per=60, of="interest"), Rate(1, per=10, of="call")]))
    for lane, of, count in ((Lane.INTEREST, "interest", 2), (Lane.CALL, "call", 3), (Lane.FETCH, "call", 1)):
        for number in range(count):
            queue.put(lane, {"frame": 1, of: 1}, f"{lane.name} {number}")
    went = {now: list(queue.take_due(now)) for now in (0, 5, 10, 20, 30, 59, 60)}
    assert went == {
        0: ["CALL 0", "INTEREST 0"], 5: [], 10: ["CALL 1"], 20: ["CALL 2"], 30: ["FETCH 0"], 59: [], 60: ["INTEREST 1"],
    }  # fmt: skip


def test_what_needs_more_than_it_uses_leaves_the_rest():
    budget = Budget([Rate(1, burst=10, of="call")])
    queue = Queue(budget)
    for n in range(4):
        queue.put(Lane.FETCH, {"call": 1}, n, {"call": 8})
    assert list(queue.take_due(0)) == [0, 1, 2]
    queue.put(Lane.CALL, {"call": 7}, "orders")
    assert list(queue.take_due(0)) == ["orders"]
    assert (budget.remaining("call", 0), queue.deadline()) == (0, 8)
    assert list(queue.take_due(8)) == [3]


def test_discard_takes_out_what_it_is_told():
    queue = Queue(Budget([]))
    for item in "abc":
        queue.put(Lane.CALL, {}, item)
    assert queue.discard(lambda item: item == "b") == ["b"]
    assert list(queue.take_due(0)) == ["a", "c"]
    assert queue.idle(Lane.CALL)
