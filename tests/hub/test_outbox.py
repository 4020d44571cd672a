"""relay.hub.outbox: what a subscriber gets, and what it does not, when the kernel takes less than there is."""

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.outbox import OVERFLOW_CODE, Delivery, Outbox, OutboxLimits, Policy
from relay.websocket.frames import encode_close


class Kernel:
    """Takes up to `room` bytes; more room is made by the test."""

    def __init__(self, room: float = math.inf) -> None:
        self.room = room
        self.taken = b""
        self.writes = 0

    def write(self, data: bytes) -> int:
        if self.room <= 0:
            raise BlockingIOError
        self.writes += 1
        part = data[: int(min(self.room, len(data)))]
        self.room -= len(part)
        self.taken += part
        return len(part)


class Books:
    """The hub's side: frames are text lines, so that a test reads what arrived."""

    def __init__(self) -> None:
        self.seq: defaultdict[str, int] = defaultdict(int)
        self.missing: set[str] = set()
        self.dropped: Counter[tuple[str, Policy]] = Counter()

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return f"lost {channel} {first_seq} {last_seq}|".encode()

    def snapshot_frame(self, channel: str) -> Delivery | None:
        if channel in self.missing:
            return None
        seq = self.seq[channel]
        return Delivery(f"snapshot {channel} {seq}|".encode(), channel, Policy.SNAPSHOT, seq)

    def count_drop(self, channel: str, policy: Policy) -> None:
        self.dropped[channel, policy] += 1

    def event(self, channel: str, policy: Policy, topic: str = "") -> Delivery:
        self.seq[channel] += 1
        seq = self.seq[channel]
        return Delivery(f"{policy.value} {channel}{topic} {seq}|".encode(), channel, policy, seq, topic)


def lines(kernel: Kernel) -> list[str]:
    return kernel.taken.decode().removesuffix("|").split("|")


@pytest.fixture
def books() -> Books:
    return Books()


def attached(books: Books, room: float = math.inf, limits: OutboxLimits | None = None) -> tuple[Outbox, Kernel]:
    outbox, kernel = Outbox(books, limits), Kernel(room)
    outbox.attach(kernel.write, [])
    return outbox, kernel


def stalled(books: Books, *deliveries: Delivery, **limits: int) -> tuple[Outbox, Kernel]:
    """An outbox whose kernel takes nothing, with `deliveries` put in one tick each."""
    outbox, kernel = attached(books, 0, OutboxLimits(**limits))
    for delivery in deliveries:
        outbox.put(delivery)
        outbox.flush()
    return outbox, kernel


def resume(outbox: Outbox, kernel: Kernel) -> list[str]:
    kernel.room = math.inf
    assert outbox.drain()
    assert outbox.empty
    return lines(kernel)


def test_pending_deliveries_are_sent_in_one_write_and_queued_once(books: Books) -> None:
    outbox, kernel, queue, woken = Outbox(books), Kernel(), list[Outbox](), list[int]()
    outbox.attach(kernel.write, queue, lambda: woken.append(len(queue)))
    for _ in range(3):
        outbox.put(books.event("q", Policy.CONFLATE))
    assert outbox.dirty
    assert outbox.flush()
    assert (kernel.writes, queue, woken, outbox.dirty, outbox.blocked) == (1, [outbox], [0], False, False)
    assert lines(kernel) == ["conflate q 1", "conflate q 2", "conflate q 3"]
    outbox.put(books.event("q", Policy.CONFLATE))
    assert (queue, woken) == ([outbox, outbox], [0])


def test_deliveries_put_before_attach_are_flushed_after_it(books: Books) -> None:
    outbox, kernel, queue = Outbox(books), Kernel(), list[Outbox]()
    outbox.put(books.event("hello", Policy.CONTROL))
    outbox.close(4001, "no such app")
    outbox.attach(kernel.write, queue)
    assert queue == [outbox]
    assert not outbox.flush()
    assert kernel.taken == b"control hello 1|" + encode_close(4001, "no such app")


def test_the_rest_of_a_started_frame_is_sent_first(books: Books) -> None:
    outbox, kernel = attached(books, 5)
    outbox.put(books.event("t", Policy.NEVER_DROP))
    outbox.put(books.event("q", Policy.CONFLATE))
    assert not outbox.flush()
    assert outbox.blocked
    outbox.put(books.event("q", Policy.CONFLATE))
    outbox.flush()
    kernel.room = 3
    assert not outbox.drain()
    assert resume(outbox, kernel) == ["never_drop t 1", "conflate q 2"]
    assert books.dropped == {("q", Policy.CONFLATE): 1}


def test_conflation_keeps_the_place(books: Books) -> None:
    events = [books.event(c, Policy.CONFLATE) for c in "abca"]
    assert resume(*stalled(books, *events)) == ["conflate a 2", "conflate b 1", "conflate c 1"]


def test_conflation_keeps_topics_apart(books: Books) -> None:
    events = [books.event("all", Policy.CONFLATE, topic) for topic in (".x", ".y", ".y", ".x")]
    assert resume(*stalled(books, *events)) == ["conflate all.y 3", "conflate all.x 4"]


def test_conflation_never_lets_a_seq_run_backwards(books: Books) -> None:
    policies = [Policy.CONFLATE, Policy.NEVER_DROP, Policy.CONFLATE]
    events = [books.event("account", policy) for policy in policies]
    assert resume(*stalled(books, *events)) == ["never_drop account 2", "conflate account 3"]


def test_oldest_trades_become_one_gap_at_their_place(books: Books) -> None:
    events = [books.event("a", Policy.GAP), books.event("keep", Policy.NEVER_DROP)]
    events += [books.event("b", Policy.GAP) for _ in range(2)] + [books.event("a", Policy.GAP) for _ in range(3)]
    outbox, kernel = stalled(books, *events, messages=3)
    assert resume(outbox, kernel) == ["lost a 1 2", "never_drop keep 1", "lost b 1 2", "gap a 3", "gap a 4"]
    assert books.dropped == {("a", Policy.GAP): 2, ("b", Policy.GAP): 2}


def test_a_gap_never_spans_a_kept_delivery(books: Books) -> None:
    events = [books.event("a", policy) for policy in (Policy.GAP, Policy.NEVER_DROP, Policy.GAP, Policy.GAP)]
    assert resume(*stalled(books, *events, messages=2)) == ["lost a 1 1", "never_drop a 2", "lost a 3 3", "gap a 4"]


def test_a_book_is_dropped_as_a_whole_and_replaced_by_a_fresh_snapshot(books: Books) -> None:
    events = [books.event("d", Policy.SNAPSHOT) for _ in range(4)] + [books.event("t", Policy.GAP)]
    outbox, kernel = stalled(books, *events, messages=2)
    books.seq["d"] = 9
    assert resume(outbox, kernel) == ["snapshot d 9", "gap t 1"]
    assert books.dropped == {("d", Policy.SNAPSHOT): 4}
    outbox.put(books.event("d", Policy.SNAPSHOT))
    assert outbox.flush()
    assert lines(kernel)[-1] == "snapshot d 10"


def test_deltas_contained_in_a_fresh_snapshot_are_not_sent_after_it(books: Books) -> None:
    outbox, kernel = stalled(books, *[books.event("d", Policy.SNAPSHOT) for _ in range(3)], messages=2)
    outbox.put(books.event("d", Policy.SNAPSHOT))  # same tick as the drain
    assert resume_before_flush(outbox, kernel) == ["snapshot d 4"]
    assert outbox.flush()
    assert lines(kernel) == ["snapshot d 4"]


def resume_before_flush(outbox: Outbox, kernel: Kernel) -> list[str]:
    kernel.room = math.inf
    assert outbox.drain()
    return lines(kernel)


def test_without_a_book_a_gap_is_sent_for_the_dropped_deltas(books: Books) -> None:
    outbox, kernel = stalled(books, *[books.event("d", Policy.SNAPSHOT) for _ in range(3)], messages=2)
    books.missing.add("d")
    assert resume(outbox, kernel) == ["lost d 1 3"]


def test_limits_in_bytes(books: Books) -> None:
    outbox, kernel = stalled(books, *[books.event("t", Policy.GAP) for _ in range(9)], bytes=20)
    assert resume(outbox, kernel) == ["lost t 1 7", "gap t 8", "gap t 9"]


@pytest.mark.parametrize("policy", [Policy.NEVER_DROP, Policy.CONTROL])
def test_undroppable_deliveries_over_the_limit_close_the_subscriber(books: Books, policy: Policy) -> None:
    outbox, kernel = attached(books, 4, OutboxLimits(messages=2))
    first = books.event("o", policy)
    for delivery in [first, *[books.event("o", policy) for _ in range(3)]]:
        outbox.put(delivery)
        assert not outbox.flush()
    assert outbox.closing is not None
    assert outbox.closing[0] == OVERFLOW_CODE == 4100
    outbox.put(books.event("o", policy))
    assert not outbox.dirty
    kernel.room = math.inf
    assert outbox.drain()
    assert kernel.taken == first + encode_close(*outbox.closing)


def test_too_many_topics_to_conflate_close_the_subscriber(books: Books) -> None:
    outbox, _ = stalled(books, *[books.event(c, Policy.CONFLATE) for c in "abc"], messages=2)
    assert outbox.closing == (4100, "too slow: outbox is full")


def test_close_sends_waiting_deliveries_then_the_close_frame_then_nothing(books: Books) -> None:
    outbox, kernel = stalled(books, books.event("a", Policy.NEVER_DROP))
    outbox.put(books.event("b", Policy.CONFLATE))
    outbox.close(4001, "no such app")
    outbox.close(4200, "later")
    outbox.put(books.event("c", Policy.CONFLATE))
    assert not outbox.flush()
    kernel.room = math.inf
    assert outbox.drain()
    assert kernel.taken == b"never_drop a 1|conflate b 1|" + encode_close(4001, "no such app")
    assert outbox.closing == (4001, "no such app")


def test_close_without_waiting_keeps_only_the_rest(books: Books) -> None:
    outbox, kernel = attached(books, 5)
    outbox.put(books.event("a", Policy.NEVER_DROP))
    outbox.put(books.event("a", Policy.NEVER_DROP))
    outbox.flush()
    outbox.put(books.event("b", Policy.NEVER_DROP))
    outbox.close(1000, waiting=False)
    assert not outbox.flush()
    kernel.room = math.inf
    assert outbox.drain()
    assert kernel.taken == b"never_drop a 1|" + encode_close(1000)


def test_flush_returns_false_after_sending_a_close(books: Books) -> None:
    outbox, kernel = attached(books)
    outbox.close(4009)
    assert not outbox.flush()
    assert outbox.empty
    assert kernel.taken == encode_close(4009)


def test_discard_drops_a_channel_except_undroppable_deliveries(books: Books) -> None:
    events = [books.event("x", policy) for policy in (Policy.GAP, Policy.CONFLATE, Policy.NEVER_DROP, Policy.GAP)]
    events += [books.event("d", Policy.SNAPSHOT) for _ in range(3)]
    outbox, kernel = stalled(books, *events, messages=3)
    outbox.discard("x")
    outbox.discard("d")
    outbox.discard("unknown")
    outbox.put(books.event("d", Policy.SNAPSHOT))
    outbox.flush()
    assert resume(outbox, kernel) == ["never_drop x 3", "snapshot d 4"]


def test_every_drop_is_counted_by_channel_and_policy(books: Books) -> None:
    events = [books.event(c, p) for c, p in [("q", Policy.CONFLATE)] * 2 + [("t", Policy.GAP)] * 2]
    stalled(books, *events, messages=2)
    assert books.dropped == {("q", Policy.CONFLATE): 1, ("t", Policy.GAP): 1}


CHANNELS = [
    ("quote", Policy.CONFLATE),
    ("trades", Policy.GAP),
    ("depth", Policy.SNAPSHOT),
    ("orders", Policy.NEVER_DROP),
    ("mixed", Policy.CONFLATE),
    ("mixed", Policy.NEVER_DROP),
    ("mixed", Policy.GAP),
]
steps = st.lists(st.one_of(st.sampled_from(CHANNELS), st.integers(0, 60), st.just("flush")), max_size=80)


@given(steps, st.integers(1, 12), st.integers(20, 400), st.integers(1, 60))
def test_order_holds_and_every_loss_is_announced_in_any_mix(
    steps: list[object], messages: int, size: int, chunk: int
) -> None:
    """Any mix of events, ticks and kernel room: order holds, frames are whole, and every loss is announced."""
    books = Books()
    outbox, kernel = attached(books, 0, OutboxLimits(messages=messages, bytes=size, chunk=chunk))
    put = driven(outbox, kernel, books, steps)
    if outbox.closing is not None:
        assert kernel.taken.endswith(encode_close(*outbox.closing))
    else:
        assert outbox.empty
        assert_nothing_lost_in_silence(put, lines(kernel) if kernel.taken else [])


def driven(outbox: Outbox, kernel: Kernel, books: Books, steps: list[object], scale: int = 1) -> list[Delivery]:
    """What was put, in a mix of events, ticks and kernel room (times `scale`), after which the kernel takes everything."""
    put: list[Delivery] = []
    for step in steps:
        match step:
            case int(room):
                kernel.room = room * scale
                outbox.drain()
            case (str(channel), Policy() as policy) if outbox.closing is None:
                put.append(books.event(channel, policy))
                outbox.put(put[-1])
            case _:
                outbox.flush()
    outbox.flush()
    kernel.room = math.inf
    outbox.drain()
    return put


def assert_nothing_lost_in_silence(put: list[Delivery], got: list[str]) -> None:
    seen: dict[str, int] = defaultdict(int)
    covered: set[tuple[str, int]] = set()
    for line in got:
        kind, channel, *numbers = line.split(" ")
        first, last = int(numbers[0]), int(numbers[-1])
        assert first > seen[channel], got
        covered |= {(channel, seq) for seq in (range(1, last + 1) if kind == "snapshot" else range(first, last + 1))}
        seen[channel] = last
    for delivery in put:
        if delivery.policy is Policy.CONFLATE:
            later = any(
                d.channel == delivery.channel and d.policy is Policy.CONFLATE and d.seq > delivery.seq for d in put
            )
            assert later or f"conflate {delivery.channel} {delivery.seq}" in got
        elif delivery.policy is Policy.NEVER_DROP:
            assert f"never_drop {delivery.channel} {delivery.seq}" in got
        else:
            assert (delivery.channel, delivery.seq) in covered


def test_a_close_with_4100_while_slow_is_sent_after_waiting_deliveries(books: Books) -> None:
    kernel, outbox = Kernel(room=4), Outbox(books)
    outbox.attach(kernel.write, [])
    outbox.put(books.event("c", Policy.NEVER_DROP))
    outbox.flush()
    outbox.close(OVERFLOW_CODE, "enough")
    outbox.flush()
    kernel.room = math.inf
    assert outbox.drain()
    assert kernel.taken == b"never_drop c 1|" + encode_close(OVERFLOW_CODE, "enough")
