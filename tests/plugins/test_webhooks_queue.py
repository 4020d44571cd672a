"""The queue of one endpoint on timelines: batches, retries, bounds; and the body it makes."""

import json
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.plugins.hookspecs import ChannelEvent
from relay_webhooks.payload import encode_body, encode_event, kind_of
from relay_webhooks.queue import EXPIRED, OVERFLOW, Batch, EventQueue, Losses, QueueLimits


def filled(limits: QueueLimits, count: int, now: float = 0.0) -> EventQueue:
    queue = EventQueue(limits)
    for n in range(count):
        queue.put(b"%d" % n, now, 1000 + n)
    return queue


def events(step: Batch | float) -> tuple[bytes, ...]:
    assert isinstance(step, Batch), step
    return step.events


# Batches -------------------------------------------------------------------------------------------------------------


def test_an_empty_queue_waits_for_an_event() -> None:
    assert EventQueue(QueueLimits()).look(5.0) == inf


def test_an_event_waits_for_others_to_join_it() -> None:
    queue = filled(QueueLimits(batch_wait=0.25), 1, now=10.0)
    assert queue.look(10.0) == 10.25
    queue.put(b"later", 10.2, 2000)
    assert queue.look(10.2) == 10.25
    assert queue.look(10.25) == Batch(1000, (b"0", b"later"))


def test_a_full_batch_waits_for_nothing() -> None:
    queue = filled(QueueLimits(batch_events=3), 7)
    sent = []
    while isinstance(step := queue.look(0.0), Batch):
        sent.append(step.events)
        queue.accepted()
    assert sent == [(b"0", b"1", b"2"), (b"3", b"4", b"5")]
    assert step == 0.25
    assert (queue.sent, len(queue)) == (6, 1)


def test_in_a_hurry_whatever_is_there_is_a_batch() -> None:
    assert events(filled(QueueLimits(batch_wait=60.0), 2).look(0.0, at_once=True)) == (b"0", b"1")


def test_events_alone_in_their_webhooks() -> None:
    queue = filled(QueueLimits(batch_events=1, batch_wait=0.0), 2)
    assert events(queue.look(0.0)) == (b"0",)
    queue.accepted()
    assert events(queue.look(0.0)) == (b"1",)


def test_a_batch_tells_the_time_of_its_oldest_event() -> None:
    step = filled(QueueLimits(), 2).look(1.0)
    assert isinstance(step, Batch)
    assert step.body == b'{"time_ms":1000,"events":[0,1]}'


# Retries -------------------------------------------------------------------------------------------------------------


def attempts(queue: EventQueue, now: float, uniform: float = 0.0) -> list[float]:
    """The times of all attempts of the first batch, each failing."""
    lost, times = queue.losses.total[EXPIRED], []
    while queue.losses.total[EXPIRED] == lost:
        step = queue.look(now)
        if isinstance(step, Batch):
            times.append(now)
            queue.failed(now, uniform)
        else:
            now = step
    return times


def test_the_waits_double_up_to_the_cap_and_the_last_attempt_ends_the_time() -> None:
    times = attempts(filled(QueueLimits(batch_wait=0.0), 1, now=100.0), 100.0)
    assert times[0] == 100.0
    assert times[-1] == 400.0
    waits = [after - before for before, after in pairwise(times)]
    assert waits[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(waits[5:-1]) == {30.0}
    assert waits[-1] <= 30.0


@given(uniform=st.floats(0, 1, exclude_max=True))
def test_at_most_half_of_a_wait_is_taken_off(uniform: float) -> None:
    times = attempts(filled(QueueLimits(batch_wait=0.0, retry_for=20.0), 1), 0.0, uniform)
    full = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    for wait, whole in list(zip([b - a for a, b in pairwise(times)], full, strict=False))[:-1]:
        assert whole / 2 - 1e-9 <= wait <= whole


def test_every_attempt_sends_the_same_though_more_has_come() -> None:
    queue = filled(QueueLimits(), 2)
    first = queue.look(1.0)
    queue.failed(1.0, 0.0)
    queue.put(b"more", 1.5, 3000)
    assert queue.look(1.5) == 2.0
    assert queue.look(2.0) is first


def test_what_is_not_accepted_in_time_is_dropped_and_counted_and_the_next_waits() -> None:
    queue = filled(QueueLimits(batch_events=2, retry_for=10.0), 5)
    last = attempts(queue, 0.0)[-1]
    assert last == 10.0
    assert queue.losses.total == {EXPIRED: 2}
    wait = queue.look(last)
    assert isinstance(wait, float)
    assert wait > last
    assert events(queue.look(wait)) == (b"2", b"3")


def test_success_forgets_the_failures() -> None:
    queue = filled(QueueLimits(batch_events=1), 3)
    for now in (0.0, 1.0):
        queue.look(now)
        queue.failed(now, 0.0)
    queue.look(3.0)
    queue.accepted()
    assert (queue.sent, queue.failures) == (1, 0)
    queue.look(3.0)
    queue.failed(3.0, 0.0)
    assert queue.look(3.0) == 4.0


def test_without_time_for_retries_there_is_one_attempt() -> None:
    assert attempts(filled(QueueLimits(batch_wait=0.0, retry_for=0.0), 1), 7.0) == [7.0]


# Bounds --------------------------------------------------------------------------------------------------------------


def test_too_many_events_drop_the_oldest_waiting() -> None:
    queue = filled(QueueLimits(events=3, batch_events=2), 3)
    on_its_way = queue.look(0.0)
    for n in range(3, 7):
        queue.put(b"%d" % n, 0.0, 0)
    assert queue.losses.total == {OVERFLOW: 2}
    assert queue.look(0.0) is on_its_way
    queue.accepted()
    assert events(queue.look(0.0)) == (b"4", b"5")


def test_too_many_bytes_drop_the_oldest() -> None:
    queue = EventQueue(QueueLimits(bytes=10))
    for text in (b"aaaa", b"bbbb", b"cccc"):
        queue.put(text, 0.0, 0)
    assert events(queue.look(1.0)) == (b"bbbb", b"cccc")
    queue.put(b"x" * 10, 1.0, 0)  # the room of what is on its way is free again
    assert queue.losses.total == {OVERFLOW: 1}


def test_events_that_anybody_causes_do_not_push_out_those_of_members() -> None:
    queue = EventQueue(QueueLimits(events=1000, batch_events=1000))
    for n in range(20):
        queue.put(b"member %d" % n, 0.0, 0, "member_added presence")
    for n in range(14_000):
        queue.put(b"name %d" % n, 0.0, 0, "channel_occupied public")
    for n in range(20, 40):
        queue.put(b"member %d" % n, 0.0, 0, "member_added presence")
    assert len(queue) == 1000
    sent = events(queue.look(0.0))
    assert [event for event in sent if event.startswith(b"member")] == [b"member %d" % n for n in range(40)]
    assert sent[:20] == tuple(b"member %d" % n for n in range(20))
    assert sent[20] == b"name 13040"  # the oldest names went, in their order
    assert queue.losses.total == {OVERFLOW: 13_040}


def test_long_events_push_out_long_ones() -> None:
    queue = EventQueue(QueueLimits(bytes=1000, batch_events=1000))
    for n in range(10):
        queue.put(b"%d" % n, 0.0, 0, "member_added presence")
    for _ in range(20):
        queue.put(b"x" * 100, 0.0, 0, "client_event private")
    assert events(queue.look(1.0)) == (*(b"%d" % n for n in range(10)), *[b"x" * 100] * 9)


def test_a_kind_tells_open_channels_from_those_that_need_a_signature() -> None:
    kinds = {
        channel: kind_of(ChannelEvent(app_id="3", name="channel_occupied", channel=channel))
        for channel in ("room", "cache-room", "private-room", "presence-room", "private-encrypted-room")
    }
    assert kinds["room"] == kinds["cache-room"]
    assert kinds["private-room"] == kinds["private-encrypted-room"]
    assert len(set(kinds.values())) == 3


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=8), st.booleans(), st.just(None)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_every_event_is_sent_in_order_or_counted_as_lost(
    steps: list[bytes | bool | None], room: int, batch_events: int
) -> None:
    """bytes: an event comes; True: an attempt succeeds; False: it fails; None: ten seconds pass."""
    queue = EventQueue(QueueLimits(events=room, bytes=32, batch_events=batch_events, retry_for=30.0))
    now, put, sent = 0.0, 0, []
    for step in steps:
        if step is None:
            now += 10.0
        elif isinstance(step, bytes):
            queue.put(b"%d " % put + step, now, 0)
            put += 1
        elif isinstance(batch := queue.look(now), Batch):
            if step:
                sent += [int(each.split()[0]) for each in batch.events]
                queue.accepted()
            else:
                queue.failed(now, 0.0)
    assert sent == sorted(set(sent))
    assert queue.sent == len(sent)
    assert put == queue.sent + len(queue) + sum(queue.losses.total.values())
    queue.drop_all("shutdown")
    assert len(queue) == 0
    assert put == queue.sent + sum(queue.losses.total.values())


def test_losses_are_reported_once_per_period() -> None:
    losses = Losses(period=60.0)
    assert losses.report(0.0) == {}
    losses.add(OVERFLOW, 1)
    assert losses.report(0.0) == {OVERFLOW: 1}
    losses.add(OVERFLOW, 2)
    losses.add(EXPIRED, 20)
    assert losses.report(59.0) == {}
    assert losses.report(60.0) == {OVERFLOW: 2, EXPIRED: 20}
    losses.add(OVERFLOW, 1)
    assert losses.report(61.0, at_once=True) == {OVERFLOW: 1}
    assert losses.total == {OVERFLOW: 4, EXPIRED: 20}


# The body ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"name": "channel_occupied"}, {}),
        ({"name": "channel_vacated"}, {}),
        ({"name": "member_added", "user_id": "ann"}, {"user_id": "ann"}),
        ({"name": "member_removed", "user_id": "ann"}, {"user_id": "ann"}),
        ({"name": "cache_miss"}, {}),
        ({"name": "subscription_count", "subscription_count": 0}, {"subscription_count": 0}),
        (
            {"name": "client_event", "event": "client-typing", "data": '{"a":"é\\n"}', "socket_id": "1.2"},
            {"event": "client-typing", "data": '{"a":"é\\n"}', "socket_id": "1.2"},
        ),
        (
            {"name": "client_event", "event": "client-x", "data": "", "socket_id": "1.2", "user_id": "ann"},
            {"event": "client-x", "data": "", "socket_id": "1.2", "user_id": "ann"},
        ),
    ],
)
def test_an_event_has_the_fields_of_its_name_and_no_others(
    details: dict[str, object], expected: dict[str, object]
) -> None:
    event = ChannelEvent(app_id="3", channel="presence-room", **details)  # type: ignore[arg-type]
    body = json.loads(encode_body(1327078148132, [encode_event(event)] * 2))
    told = {"name": details["name"], "channel": "presence-room", **expected}
    assert body == {"time_ms": 1327078148132, "events": [told, told]}


def test_text_that_utf8_cannot_carry_is_escaped() -> None:
    event = ChannelEvent(app_id="3", name="client_event", channel="private-x", event="client-x", data="\ud800")
    assert json.loads(encode_event(event))["data"] == "\ud800"
