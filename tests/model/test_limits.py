"""The bounds of memory, rates and retries."""

import copy

import pytest

from relay.errors import leaves, nearest
from relay.limits import BoundedDict, TokenBucket, backoff


def test_a_bounded_dict_forgets_the_oldest_and_setting_again_renews():
    memory: BoundedDict[str, int] = BoundedDict(2)
    memory["a"], memory["b"] = 1, 2
    memory["a"] = 3
    memory.update(c=4)
    assert dict(memory) == {"a": 3, "c": 4}


def test_a_copy_of_a_bounded_dict_has_its_size():
    memory: BoundedDict[str, int] = BoundedDict(1)
    memory["a"] = 1
    copied = copy.deepcopy(memory)
    assert copied == memory
    copied["b"] = 2
    assert dict(copied) == {"b": 2}
    assert dict(memory) == {"a": 1}


def test_a_bucket_allows_a_seconds_worth_at_once_and_its_rate_after():
    bucket = TokenBucket(2)
    assert [bucket.take(1, 0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1, 0.5), bucket.take(1, 0.5)] == [True, False]
    bucket.rate = None
    assert bucket.take(1000, 0.5)


def test_a_cost_above_the_capacity_needs_a_full_bucket_and_leaves_a_debt():
    bucket = TokenBucket(2)
    assert bucket.take(6, 0.0)
    assert bucket.free(0.0) == -4
    assert bucket.ready_at(6, 0.0) == pytest.approx(3)
    assert not bucket.take(1, 2.0)
    assert bucket.take(1, 2.5)


@pytest.mark.parametrize(
    ("attempt", "jitter", "uniform", "seconds"),
    [(0, 0, 1, 1), (3, 0, 1, 8), (10, 0, 1, 30), (100_000, 0, 1, 30), (3, 1, 0.5, 4), (3, 1, 0, 0), (3, 0.2, 0, 6.4)],
)
def test_backoff_grows_to_its_cap_and_leaves_a_share_to_chance(attempt, jitter, uniform, seconds):
    assert backoff(1, 30, attempt, jitter=jitter, uniform=uniform) == pytest.approx(seconds)


def test_leaves_of_nested_groups_come_in_order():
    first, second, third = ValueError("1"), OSError("2"), KeyError("3")
    group = BaseExceptionGroup("", [first, ExceptionGroup("", [second, third])])
    assert leaves(group) == [first, second, third]
    assert leaves(first) == [first]


def test_the_nearest_name_whatever_its_case():
    assert nearest("QUOTES", ["trade", "quote"]) == "quote"
    assert nearest("x", ["quote"]) is None
    assert nearest("x", ["quote"], cutoff=0.0) == "quote"
    assert nearest("x", []) is None
