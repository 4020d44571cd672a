"""Commands over restarts: whatever a store had when the process died, no command is sent twice, and each is answered."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.commands import Call, CancelOrder, Command, ListOrders, PlaceOrder
from relay.model.enums import OrderEvent, OrderStatus, Outcome
from relay.model.events import Event, Order, Reply, Stamp
from relay.store.interface import Done, Row
from relay.trading.pending import AccountRef, PendingCommand
from relay.trading.registry import RESTARTED, CommandLimits, CommandRegistry, Conflict, Unstorable

MAIN = AccountRef("helio", "main")
STAMP = Stamp(provider="helio", account="main", received_at="2025-01-15T10:30:00Z")
AT_NS = 1_736_937_000_000_000_000
"""The wall clock at `STAMP`."""


class Disk:
    """A store whose writes reach the disk when a test says so."""

    def __init__(self, rows: Mapping[str, bytes]) -> None:
        self.rows = dict(rows)
        self.failure = ""
        self._queue: list[tuple[Row, Done | None]] = []

    def write(self, row: Row) -> None:
        self._queue.append((row, None))

    def commit(self, row: Row, done: Done) -> None:
        if self.failure:
            done(self.failure)
        else:
            self._queue.append((row, done))

    def sync(self, done: Done) -> None:
        done(self.failure)

    def status(self) -> Mapping[str, Any]:
        return {}

    def flush(self, most: int = 1_000_000) -> None:
        """Bring the next rows to the disk, and say so."""
        queue, self._queue = self._queue[:most], self._queue[most:]
        for row, done in queue:
            self._apply(row)
            if done is not None:
                done("")

    def fail(self) -> None:
        """Fail: what waits is told so, what is only written waits for better days."""
        self.failure = "the disk is full"
        queue, self._queue = self._queue, []
        for row, done in queue:
            self._queue.append((row if done is None else Row(row.table, row.key, None), None))
        for _, done in queue:
            if done is not None:
                done(self.failure)

    def die(self, most: int) -> dict[str, bytes]:
        """Return what is on disk after a crash that ``most`` of the waiting rows survived."""
        for row, _ in self._queue[:most]:
            self._apply(row)
        return self.rows

    def _apply(self, row: Row) -> None:
        if row.value is None:
            self.rows.pop(row.key, None)
        else:
            self.rows[row.key] = row.value


class Relay:
    """Registries, one after the other, over one disk."""

    def __init__(self, **limits: Any) -> None:
        self.limits = CommandLimits(**limits)
        self.disk = Disk({})
        self.registry = CommandRegistry(self.limits, self.disk)
        self.sent: list[PendingCommand] = []
        self.replies: list[Reply] = []
        self.now = 0.0

    def take(self, command: Command, key: str | None = None) -> tuple[PendingCommand, bool]:
        return self.registry.take(MAIN, command, key, self.now + 10, self.now, "desk", self.go)

    def go(self, pending: PendingCommand) -> None:
        """Send the command or refuse it, as `SessionCommands.send` does."""
        if pending.reply is not None:
            return
        if pending.not_stored:
            self.hear(pending.refused("store_unavailable", pending.not_stored))
            return
        pending.sent = True
        self.sent.append(pending)

    def hear(self, event: Event) -> None:
        checked = self.registry.check(event, STAMP)
        if isinstance(checked, Reply):
            self.replies.append(checked)
            self.registry.settle(checked, STAMP, self.now, f"e{len(self.replies)}")

    def restart(self, survived: int = 0, after: float = 0.0) -> list[PendingCommand]:
        self.disk = Disk(self.disk.die(survived))
        self.registry = CommandRegistry(self.limits, self.disk)
        self.now = 1000.0  # a monotonic clock that has nothing to do with the one before
        opened = self.registry.restore(self.disk.rows.items(), self.now, AT_NS + int(after * 1e9))
        for pending in opened:
            self.hear(pending.given_up(**RESTARTED))
        return opened


def place(id: str = "c1", client_order_id: str | None = "mine", **more: Any) -> PlaceOrder:
    order = {"symbol": "S", "side": "BUY", "order_type": "LIMIT", "limit_price": "1.10", "quantity": "1", **more}
    return PlaceOrder(id=id, client_order_id=client_order_id, **order)


def order(status: str = "OPEN", event: str = "ORDER_CREATED") -> Order:
    about = {"id": "o1", "client_order_id": "mine", "symbol": "S", "side": "BUY"}
    return Order(event=OrderEvent(event), status=OrderStatus(status), **about)


def test_nothing_is_sent_before_its_names_are_on_disk() -> None:
    relay = Relay()
    relay.take(place())
    assert (relay.sent, relay.disk.rows) == ([], {})
    relay.disk.flush()
    assert len(relay.sent) == len(relay.disk.rows) == 1


def test_a_question_needs_no_disk_and_leaves_nothing_there() -> None:
    relay = Relay()
    relay.disk.fail()
    relay.take(ListOrders(id="q1"))
    assert len(relay.sent) == 1
    relay.hear(Reply(id="q1", ok=True, outcome=Outcome.ACCEPTED, result=[]))
    relay.disk.flush()
    assert relay.disk.rows == {}


@pytest.mark.parametrize(("id", "key"), [("c1", None), ("x", "k"), ("x", None)])
def test_a_command_without_a_reply_is_unknown_after_a_restart_under_each_of_its_names(id: str, key: str | None) -> None:
    relay = Relay()
    relay.take(place(), "k")
    relay.disk.flush()
    (ended,) = relay.restart()
    assert (ended.outcome, relay.registry.open, [reply.outcome for reply in relay.replies]) == (
        "unknown",
        0,
        ["unknown"],
    )
    again, new = relay.take(place(id), key)
    assert (again, new) == (ended, False)
    assert json.loads(again.answer)["error"]["code"] == "restarted"
    relay.hear(order())
    assert again.outcome is Outcome.ACCEPTED
    relay.disk.flush()
    assert relay.restart() == []
    resolved, new = relay.take(place(id), key)
    assert (new, resolved.outcome, resolved.answer) == (False, Outcome.ACCEPTED, again.answer)
    assert len(relay.sent) == len(relay.replies) == 1


def test_an_order_is_found_after_a_restart_by_the_name_that_was_made_for_it() -> None:
    """The name is on disk before the order is sent: after a crash nothing else tells that this order is its own."""
    relay = Relay()
    written = place(client_order_id="made")
    relay.registry.take(MAIN, place(client_order_id=None), "k", 10, 0, "desk", relay.go, written)
    assert relay.sent == []
    relay.disk.flush()
    assert len(relay.sent) == 1
    (ended,) = relay.restart()
    assert relay.registry.unknown_of(MAIN) == [written]
    relay.disk.flush()
    assert relay.restart() == []
    assert relay.registry.unknown_of(MAIN) == [written], "the reply that says that it is unknown keeps the name"
    relay.hear(attrs.evolve(order(), client_order_id="made"))
    again, new = relay.take(place("x", client_order_id=None), "k")
    assert (new, again.command.id, again.outcome) == (False, ended.command.id, Outcome.ACCEPTED)
    relay.disk.flush()
    assert json.loads(relay.disk.rows[again.key])["made_name"] == "", "its outcome is known: the name is not needed"


@pytest.mark.parametrize("replaced", ["before it is taken", "before it is sent", "when it was sent"])
def test_a_cancellation_is_found_after_a_restart_at_the_order_that_took_the_place(replaced: str) -> None:
    relay = Relay()
    command = CancelOrder(id="c1", order_id="o1")
    written = attrs.evolve(command, order_id="o2") if replaced == "before it is taken" else command
    pending, _ = relay.registry.take(MAIN, command, None, 10, 0, "desk", relay.go, written)
    if replaced == "before it is sent":
        relay.registry.follow(pending, "o2")
    relay.disk.flush()
    if replaced == "when it was sent":
        relay.hear(attrs.evolve(order(), id="o2", replaces="o1"))
        relay.disk.flush()
    (ended,) = relay.restart()
    assert relay.registry.unknown_of(MAIN) == [attrs.evolve(command, order_id="o2")]
    relay.hear(attrs.evolve(order("CANCELLED", "ORDER_CANCELLED"), id="o2"))
    assert ended.outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("outcome", ["accepted", "rejected", "unknown"])
def test_a_reply_is_the_same_after_a_restart_byte_for_byte(outcome: str) -> None:
    relay = Relay()
    first, _ = relay.take(place(extra={"note": [1, "2", None]}), "k")
    relay.disk.flush()
    error = None if outcome == "accepted" else {"code": "margin", "message": "no"}
    relay.hear(Reply(id="c1", ok=error is None, outcome=Outcome(outcome), result={"n": "1.10"}, error=error))
    relay.disk.flush()
    assert relay.restart() == []
    again, new = relay.take(place("x", extra={"note": [1, "2", None]}), "k")
    assert (new, again.outcome, again.answer) == (False, Outcome(outcome), first.answer)
    with pytest.raises(Conflict):
        relay.take(place("x", extra={"note": [1, "2", 3]}), "k")
    assert len(relay.sent) == 1


def test_an_age_goes_on_over_a_restart_and_a_clock_that_was_set_back_shortens_none() -> None:
    relay = Relay(age=100)
    relay.take(place())
    relay.disk.flush()
    relay.hear(Reply(id="c1", ok=True, outcome=Outcome.ACCEPTED))
    relay.disk.flush()
    relay.restart(after=-5000)
    assert not relay.take(place())[1]
    relay.restart(after=99)
    assert not relay.take(place())[1]
    relay.now += 2
    assert relay.take(place("c2"))[1]
    relay.disk.flush()
    assert len(relay.disk.rows) == 1  # the forgotten one is not in the store either


def test_shares_go_on_over_a_restart() -> None:
    relay = Relay(per_key=3)
    for n in range(3):
        relay.take(place(f"c{n}", f"o{n}"))
        relay.disk.flush()
        relay.hear(Reply(id=f"c{n}", ok=True, outcome=Outcome.ACCEPTED))
    relay.disk.flush()
    relay.restart()
    assert relay.registry.snapshot()["remembered"] == 3
    with pytest.raises(Exception, match=r"limit commands\.per_key"):
        relay.take(place("c3", "o3"))


def test_a_failing_store_refuses_what_changes_something_before_and_after_it_was_taken() -> None:
    relay = Relay()
    waiting, _ = relay.take(place())
    relay.disk.fail()
    assert (waiting.outcome, relay.sent) == (Outcome.REJECTED, [])
    assert json.loads(waiting.answer)["error"] == {"code": "store_unavailable", "message": "the disk is full"}
    with pytest.raises(Unstorable, match="the disk is full"):
        relay.take(CancelOrder(id="c2", order_id="o"))
    assert not relay.take(place())[1]  # what it knows, it answers
    relay.disk.failure = ""
    relay.disk.flush()
    assert relay.take(CancelOrder(id="c2", order_id="o"))[1]
    relay.restart(survived=1)
    assert [pending.command.id for pending in relay.registry._kept.values()] == ["c1", "c2"]


def test_rows_are_all_that_is_in_the_store() -> None:
    relay = Relay()
    for n in range(3):
        relay.take(place(f"c{n}", f"o{n}"), f"k{n}")
    relay.take(ListOrders(id="q"))
    relay.hear(Reply(id="c1", ok=True, outcome=Outcome.ACCEPTED))
    relay.disk.flush()
    assert {row.key: row.value for row in relay.registry.rows()} == relay.disk.rows


def test_a_row_that_nobody_understands_harms_no_other() -> None:
    relay = Relay()
    relay.take(place())
    relay.disk.flush()
    relay.disk.rows |= {"a": b"{}", "b": b"no JSON", "c": b"[]", "d": b'{"session": 1}'}
    assert len(relay.restart()) == 1
    assert relay.registry.notes["unreadable"] == 4


def test_a_command_that_this_version_would_not_take_keeps_its_names() -> None:
    relay = Relay()
    relay.take(Call(id="c1", function="f"), "k")
    relay.disk.flush()
    ((key, value),) = relay.disk.rows.items()
    relay.disk.rows[key] = value.replace(b'\\"call\\"', b'\\"of_another_version\\"')
    assert relay.disk.rows[key] != value
    assert len(relay.restart()) == 1
    assert not relay.take(Call(id="x", function="f"), "k")[1]
    assert relay.sent[0].command.id == "c1"
    assert len(relay.sent) == 1


STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 3), st.sampled_from(["id", "key", "client_order_id"])),
    st.tuples(st.just("flush"), st.integers(1, 3), st.none()),
    st.tuples(st.just("reply"), st.integers(0, 3), st.sampled_from(["accepted", "rejected", "unknown"])),
    st.tuples(st.just("show"), st.integers(0, 3), st.sampled_from(["OPEN", "REJECTED"])),
    st.tuples(st.just("give up"), st.integers(0, 3), st.none()),
    st.tuples(st.just("fail"), st.none(), st.none()),
    st.tuples(st.just("recover"), st.none(), st.none()),
    st.tuples(st.just("restart"), st.integers(0, 4), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_no_sequence_sends_a_command_twice(steps: list[tuple[str, Any, Any]]) -> None:
    relay = Relay()
    repetitions = Counter[int]()
    for what, n, how in steps:
        match what:
            case "take":
                repetitions[n] += 1
                id = f"c{n}" if how == "id" else f"c{n}-{repetitions[n]}"
                first = not any(value == f"o{n}" for _, _, value in relay.registry._names)
                try:
                    relay.take(place(id if not first else f"c{n}", f"o{n}"), f"k{n}" if how == "key" or first else None)
                except Unstorable:
                    assert relay.disk.failure
            case "flush":
                relay.disk.flush(n)
            case "reply":
                for pending in list(relay.registry.open_of(MAIN)):
                    if pending.command.client_order_id == f"o{n}" and pending.sent:
                        relay.hear(Reply(id=pending.command.id, ok=how == "accepted", outcome=Outcome(how)))
            case "show":
                event = "ORDER_CREATED" if how == "OPEN" else "ORDER_REJECTED"
                shown = order(how, event)
                relay.hear(attrs.evolve(shown, id=f"b{n}", client_order_id=f"o{n}"))
            case "give up":
                for pending in list(relay.registry.open_of(MAIN)):
                    if pending.command.client_order_id == f"o{n}":
                        relay.hear(pending.given_up("deadline", "late"))
            case "fail":
                relay.disk.fail()
            case "recover":
                relay.disk.failure = ""
            case "restart":
                relay.restart(survived=n)
        sent = Counter(pending.command.client_order_id for pending in relay.sent)
        assert all(times == 1 for times in sent.values()), sent
        for pending in relay.sent:
            # From the frame on, each of its names answers for it.
            assert all(name in relay.registry._names for name in pending.names)
