"""relay.server.fastpath.writer: each subscriber gets the same bytes in the same order, in a batch or alone."""

import errno
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.hub import Hub
from relay.hub.outbox import Delivery, Outbox, OutboxLimits, Policy
from relay.model.events import Quote, Stamp
from relay.pusher.apps import App
from relay.server.fastpath.writer import BatchWriter, flush_all

RECEIVED_AT = "2026-01-01T00:00:00.000000Z"


class Nothing:
    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return b"<gap %d-%d>" % (first_seq, last_seq)

    def snapshot_frame(self, channel: str) -> Delivery | None:
        return None

    def count_drop(self, channel: str, policy: Policy) -> None:
        pass


class Sockets:
    """The kernel: each socket takes so many bytes in all, and is broken below none."""

    def __init__(self, rooms: Sequence[float], *, together: bool = True) -> None:
        self.rooms = list(rooms)
        self.got = [b""] * len(rooms)
        self.calls: list[tuple[list[int], bytes]] = []
        self.queue: list[Outbox] = []
        self.outboxes = [Outbox(Nothing(), OutboxLimits(messages=5)) for _ in rooms]
        for number, outbox in enumerate(self.outboxes):
            outbox.attach(lambda data, number=number: self.write(number, data), self.queue)  # type: ignore[misc]
            outbox.slot = number if together else -1

    def write(self, number: int, data: bytes) -> int:
        if self.rooms[number] < 0:
            raise BrokenPipeError
        if not self.rooms[number]:
            raise BlockingIOError
        part = data[: int(min(self.rooms[number], len(data)))]
        self.rooms[number] -= len(part)
        self.got[number] += part
        return len(part)

    def send(self, slots: Sequence[int], data: bytes) -> Mapping[int, int]:
        """Send as `Ring.send` does."""
        self.calls.append((list(slots), data))
        short = {}
        for slot in slots:
            try:
                taken = self.write(slot, data)
            except BlockingIOError:
                taken = 0
            except BrokenPipeError:
                taken = -errno.EPIPE
            if taken != len(data):
                short[slot] = taken
        return short

    def flush(self, together: "Sockets | None") -> list[tuple[int, type[Exception] | None]]:
        outboxes = self.queue.copy()
        self.queue.clear()
        return [
            (self.outboxes.index(outbox), None if error is None else type(error))
            for outbox, error in flush_all(outboxes, None if together is None else together.send)
        ]


def delivery(text: str, seq: int = 0) -> Delivery:
    return Delivery(text.encode(), "c", Policy.GAP if seq else Policy.CONTROL, seq)


def test_the_same_deliveries_leave_in_one_call_joined() -> None:
    sockets = Sockets([math.inf] * 6)
    both = delivery("one."), delivery("two.")
    for outbox in sockets.outboxes:
        for one in both:
            outbox.put(one)
    assert sockets.flush(sockets) == []
    assert sockets.calls == [([0, 1, 2, 3, 4, 5], b"one.two.")]
    assert all(outbox.empty and not outbox.dirty for outbox in sockets.outboxes)


def test_groups_are_found_wherever_their_outboxes_stand() -> None:
    sockets = Sockets([math.inf] * 10)
    odd, even = delivery("odd"), delivery("even")
    for number, outbox in enumerate(sockets.outboxes):
        outbox.put(odd if number % 2 else even)
    sockets.flush(sockets)
    assert sockets.calls == [([0, 2, 4, 6, 8], b"even"), ([1, 3, 5, 7, 9], b"odd")]


def test_a_few_are_written_to_one_by_one() -> None:
    sockets = Sockets([math.inf] * 3)
    for outbox in sockets.outboxes:
        outbox.put(delivery("x"))
    sockets.flush(sockets)
    assert (sockets.calls, sockets.got) == ([], [b"x"] * 3)


def test_one_flushed_out_of_turn_and_marked_again_is_written_once() -> None:
    sockets = Sockets([math.inf] * 5)
    for outbox in sockets.outboxes:
        outbox.put(delivery("early."))
    sockets.outboxes[2].flush()
    sockets.outboxes[2].put(delivery("late."))
    for outbox in sockets.outboxes:
        outbox.put(delivery("all."))
    sockets.flush(sockets)
    assert sockets.got == [b"early.all."] * 2 + [b"early.late.all."] + [b"early.all."] * 2


def test_short_broken_and_closing_ones_are_named() -> None:
    sockets = Sockets([math.inf, 3, -1, 0, math.inf, math.inf])
    for outbox in sockets.outboxes:
        outbox.put(delivery("12345", 1))
    sockets.outboxes[4].close(4200)
    assert sorted(sockets.flush(sockets), key=str) == [(1, None), (2, BrokenPipeError), (3, None), (4, None)]
    assert [outbox.blocked for outbox in sockets.outboxes] == [False, True, False, True, False, False]
    sockets.rooms[1] = sockets.rooms[3] = math.inf
    assert sockets.outboxes[1].drain()
    assert sockets.outboxes[3].drain()
    assert [sockets.got[number] for number in (0, 1, 3, 5)] == [b"12345"] * 4
    assert sockets.got[4].startswith(b"12345\x88")


@pytest.mark.parametrize("together", [True, False])
def test_a_failing_write_harms_nobody_else(together: bool) -> None:
    sockets = Sockets([math.inf] * 5, together=together)

    def fail(data: bytes) -> int:
        raise ValueError("a bug")

    sockets.outboxes[1].attach(fail, sockets.queue)
    sockets.outboxes[1].slot = -1
    for outbox in sockets.outboxes:
        outbox.put(delivery("x"))
    assert sockets.flush(sockets if together else None) == [(1, ValueError)]
    assert sockets.got == [b"x", b"", b"x", b"x", b"x"]


def test_where_the_kernel_cannot_be_asked_nobody_is_given_anything_twice() -> None:
    sockets = Sockets([math.inf] * 5)

    def refuse(slots: Sequence[int], data: bytes) -> Mapping[int, int]:
        raise MemoryError

    for outbox in sockets.outboxes:
        outbox.put(delivery("x"))
    assert [(type(error), outbox) for outbox, error in flush_all(sockets.queue.copy(), refuse)] == [
        (MemoryError, outbox) for outbox in sockets.outboxes
    ]
    assert sockets.got == [b""] * 5


rooms = st.lists(st.sampled_from([0, 1, 7, 40, math.inf]), min_size=6, max_size=12)
#: To which outboxes something is put, or how much room they all get and a flush.
steps = st.lists(st.one_of(st.sets(st.integers(0, 11), min_size=1), st.integers(0, 60)), max_size=30)


@given(rooms=rooms, steps=steps)
def test_each_gets_the_same_whoever_writes(rooms: list[float], steps: list[set[int] | int]) -> None:
    one, other = Sockets(rooms, together=False), Sockets(rooms)
    for seq, step in enumerate(steps, 1):
        for sockets, together in ((one, None), (other, other)):
            if isinstance(step, set):
                put = delivery(f"<{seq}>" + "." * (seq % 9), seq)
                for number in step:
                    if number < len(rooms):
                        sockets.outboxes[number].put(put)
            else:
                sockets.flush(together)
                sockets.rooms = [room + step for room in sockets.rooms]
                for outbox in sockets.outboxes:
                    outbox.drain()
        assert one.got == other.got
    for slots, _ in other.calls:
        assert len(set(slots)) == len(slots)


# --- market data that wait for more ----------------------------------------------------------------------------------


class Recorder:
    """A transport that takes everything and notes when."""

    def __init__(self) -> None:
        self.start = 0.0
        self.writes: list[tuple[float, list[str]]] = []
        """Times since `start`, and the names of the events of each write."""

    def send(self, data: bytes) -> int:
        names = re.findall(rb'"event":"([^"]+)"', data)
        self.writes.append((round(trio.current_time() - self.start, 6), [name.decode() for name in names]))
        return len(data)


#: What is published after how many milliseconds more: a quote, or an event of the app's own.
moments = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3, 10, 25]), st.sampled_from(["quote", "own"])), max_size=12)


async def written(window: float, published: Sequence[tuple[int, str]]) -> Recorder:
    """Publish on the channels of one subscriber; return what was written when."""
    hub = Hub(
        [App(id="1", key="key", secrets=("secret",))],
        epoch="e",
        socket_ids=lambda: "1.1",
        want=lambda stream, by: (),
        unwant=lambda stream: None,
        outbox=OutboxLimits(coalesce=window),
    )
    unfinished: list[object] = []
    writer = BatchWriter(lambda outbox, error: unfinished.append(error), window)
    transport = Recorder()
    session = hub.connect("key", "protocol=7", None, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        writer.attach(session.outbox, transport, b"")  # type: ignore[arg-type]
        for channel in ("quote.toy.S", "own"):
            session.receive(json.dumps({"event": "pusher:subscribe", "data": {"channel": channel}}), 0.0)
        await trio.sleep(1)
        transport.writes.clear()
        transport.start = trio.current_time()
        for wait, what in published:
            await trio.sleep(wait / 1000)
            now = trio.current_time()
            if what == "own":
                hub.trigger("1", ["own"], "own", "{}", now=now)
            else:
                hub.publish(Quote(symbol="S", bid="1"), Stamp(provider="toy", received_at=RECEIVED_AT), now)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert not unfinished
    return transport


def at_once(window: float, published: Sequence[tuple[int, str]]) -> Recorder:
    return trio.run(partial(written, window, published), clock=trio.testing.MockClock(autojump_threshold=0))


def test_quotes_of_a_window_leave_in_one_write() -> None:
    found = at_once(0.02, [(0, "quote"), (5, "quote"), (10, "quote"), (15, "quote")])
    assert found.writes == [(0.02, ["quote"] * 3), (0.05, ["quote"])]


def test_what_never_waits_takes_along_what_does() -> None:
    found = at_once(0.02, [(0, "quote"), (5, "own"), (5, "quote")])
    assert found.writes == [(0.005, ["quote", "own"]), (0.02, ["quote"])]


def test_without_a_window_nothing_waits() -> None:
    assert at_once(0.0, [(0, "quote"), (5, "quote")]).writes == [(0.0, ["quote"]), (0.005, ["quote"])]


@given(published=moments)
def test_all_leave_in_their_order_and_none_waits_longer_than_the_window(published: list[tuple[int, str]]) -> None:
    found = at_once(0.02, published)
    assert [name for _, names in found.writes for name in names] == [what for _, what in published]
    due, at = [], 0
    for wait, what in published:
        at += wait
        due.append(at / 1000 + (0.02 if what == "quote" else 0.0))
    left = [at for at, names in found.writes for _ in names]
    assert all(when <= latest + 1e-6 for when, latest in zip(left, due, strict=True))
