"""The registry: one reply for every command, one command for every name."""

import json
from typing import Any

import attrs
import pytest

from relay.model.commands import AmendOrder, CancelOrder, ClosePosition, Command, ListOrders, PlaceOrder
from relay.model.enums import OrderEvent, OrderStatus, Outcome, PositionEvent
from relay.model.events import Event, Order, Position, Quote, Reply, Stamp
from relay.trading.pending import AccountRef, PendingCommand, fate
from relay.trading.registry import GRACE, CommandLimits, CommandRegistry, Conflict, Full

MAIN = AccountRef("helio", "main")
STAMP = Stamp(provider="helio", account="main", received_at="2025-01-15T10:30:00Z")


def place(id: str = "c1", client_order_id: str | None = "mine", **more: Any) -> PlaceOrder:
    order = {"symbol": "S", "side": "BUY", "order_type": "MARKET", "quantity": "1", **more}
    return PlaceOrder(id=id, client_order_id=client_order_id, **order)


def order(status: str = "OPEN", event: str = "ORDER_CREATED", **more: Any) -> Order:
    about = {"id": "o1", "client_order_id": "mine", "symbol": "S", "side": "BUY", **more}
    return Order(event=OrderEvent(event), status=OrderStatus(status), **about)


def reply(id: str = "c1", outcome: str = "accepted", **more: Any) -> Reply:
    return Reply(id=id, ok=outcome == "accepted", outcome=Outcome(outcome), **more)


class Rig:
    """A registry whose events are published as the relay does."""

    def __init__(self, **limits: Any) -> None:
        self.registry = CommandRegistry(CommandLimits(**limits))
        self.published: list[Event] = []
        self.now = 0.0

    def take(
        self,
        command: Command,
        key: str | None = None,
        session: AccountRef = MAIN,
        within: float = 10,
        api_key: str = "desk",
    ) -> tuple[PendingCommand, bool]:
        return self.registry.take(session, command, key, self.now + within, self.now, api_key)

    def hear(self, event: Event, stamp: Stamp = STAMP) -> None:
        checked = self.registry.check(event, stamp)
        if checked is None:
            return
        self.published.append(checked)
        if isinstance(checked, Reply):
            self.registry.settle(checked, stamp, self.now, f"e{len(self.published)}")

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.published if isinstance(event, Reply)]


@pytest.fixture
def r() -> Rig:
    return Rig()


def test_a_reply_ends_a_pending_and_wakes_who_waits(r: Rig) -> None:
    pending, new = r.take(place())
    woken: list[str] = []
    pending.when_answered(lambda *_: woken.append("before"))
    assert (new, pending.outcome, r.registry.open) == (True, None, 1)
    r.hear(reply(result={"order_id": "o1"}))
    pending.when_answered(lambda *_: woken.append("after"))
    assert woken == ["before", "after"]
    assert pending.outcome is Outcome.ACCEPTED
    answer = json.loads(pending.answer)
    assert (answer["type"], answer["command_id"], answer["id"], answer["account"]) == ("reply", "c1", "e1", "main")
    assert (r.registry.open, len(r.registry)) == (0, 1)


def test_durations_are_counted_by_provider_and_outcome(r: Rig) -> None:
    r.take(place("c1"))
    r.take(place("c2", client_order_id=None))
    r.now = 0.3
    r.hear(reply("c1"))
    r.hear(reply("c2", "rejected"))
    assert r.registry.durations.keys() == {("helio", "accepted"), ("helio", "rejected")}
    accepted = dict(r.registry.durations["helio", "accepted"].buckets())
    assert (accepted["0.25"], accepted["0.5"], accepted["+Inf"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("again", "key"),
    [
        (place("c1", client_order_id=None), None),
        (place("c2", client_order_id=None), "k"),
        (place("c2", client_order_id="mine"), None),
        (place("c2", client_order_id="mine"), "other"),
    ],
)
def test_a_command_under_any_of_its_names_is_the_same_one(r: Rig, again: PlaceOrder, key: str | None) -> None:
    first, _ = r.take(place("c1", again.client_order_id), "k")
    open_one, new = r.take(again, key)
    assert (open_one, new) == (first, False)
    r.hear(reply())
    late, new = r.take(again, key)
    assert (late, new, late.answer) == (first, False, first.answer)
    assert r.outcomes == ["accepted"]


@pytest.mark.parametrize(
    ("other", "key", "field"),
    [
        (place("c1", "other"), None, "id"),
        (place("c2", "other"), "k", "Idempotency-Key"),
        (place("c2", "mine", quantity="2"), None, "client_order_id"),
        (CancelOrder(id="c2", order_id="o"), "k", "Idempotency-Key"),
    ],
)
def test_another_command_under_a_name_in_use_is_a_conflict(r: Rig, other: Command, key: str | None, field: str) -> None:
    r.take(place(), "k")
    with pytest.raises(Conflict) as raised:
        r.take(other, key)
    assert raised.value.field == field
    assert "place_order" in raised.value.message


def test_names_belong_to_one_account(r: Rig) -> None:
    r.take(place(), "k")
    for scope in (AccountRef("helio", "other"), AccountRef("tektii", "main"), AccountRef("helio", None)):
        assert r.take(place(quantity="7"), "k", scope)[1]


def test_a_second_reply_goes_nowhere_and_a_strangers_passes(r: Rig) -> None:
    r.take(place())
    r.hear(reply(outcome="unknown"))
    r.hear(reply(outcome="accepted"))
    r.hear(reply("not-ours"))
    assert [event.id for event in r.published if isinstance(event, Reply)] == ["c1", "not-ours"]
    assert r.registry.notes["late_reply"] == 1


def test_a_session_that_says_nothing_is_overruled(r: Rig) -> None:
    pending, _ = r.take(place(), within=5)
    assert list(r.registry.overdue(5 + GRACE - 0.1)) == []
    ((late, said),) = list(r.registry.overdue(5 + GRACE))
    assert (late, said.outcome) == (pending, Outcome.UNKNOWN)
    r.hear(said)
    assert list(r.registry.overdue(100)) == []
    r.hear(reply())
    assert r.outcomes == ["unknown"]


def test_what_the_stream_showed_before_makes_unknown_known(r: Rig) -> None:
    pending, _ = r.take(place())
    r.hear(order())
    r.hear(reply(outcome="unknown", error={"code": "deadline"}))
    said = r.published[-1]
    assert isinstance(said, Reply)
    assert (said.outcome, said.reconciled, said.result) == ("accepted", True, {"order_id": "o1", "status": "OPEN"})
    assert pending.outcome is Outcome.ACCEPTED


def test_what_the_stream_shows_later_answers_a_repetition(r: Rig) -> None:
    pending, _ = r.take(place(), "k")
    r.hear(reply(outcome="unknown", error={"code": "disconnected"}))
    r.hear(order(client_order_id="not mine"))
    assert pending.outcome is Outcome.UNKNOWN
    r.hear(order("REJECTED", "ORDER_REJECTED", reject_reason="margin"))
    again, new = r.take(place("c9"), "k")
    assert (again, new, again.outcome) == (pending, False, Outcome.REJECTED)
    answer = json.loads(again.answer)
    assert (answer["error"]["message"], answer["reconciled"]) == ("margin", True)
    assert r.outcomes == ["unknown"]  # once, and once only
    r.hear(order("FILLED", "ORDER_FILLED"))
    assert again.outcome is Outcome.REJECTED


def test_a_known_reply_is_not_changed_by_the_stream(r: Rig) -> None:
    pending, _ = r.take(place())
    r.hear(reply(outcome="rejected", error={"code": "margin"}))
    r.hear(order())
    assert pending.outcome is Outcome.REJECTED


@pytest.mark.parametrize(
    ("command", "event", "outcome"),
    [
        (place(), order("FILLED", "ORDER_FILLED"), "accepted"),
        (place(), order("REJECTED", "ORDER_REJECTED"), "rejected"),
        (CancelOrder(id="c", order_id="o1"), order("CANCELLED", "ORDER_CANCELLED"), "accepted"),
        (CancelOrder(id="c", order_id="o1"), order("FILLED", "ORDER_FILLED"), "rejected"),
        (CancelOrder(id="c", order_id="o1"), order("PENDING_CANCEL", "ORDER_MODIFIED"), None),
        (
            AmendOrder(id="c", order_id="o1", limit_price="1.50"),
            order(event="ORDER_MODIFIED", limit_price="1.5"),
            "accepted",
        ),
        (AmendOrder(id="c", order_id="o1", limit_price="1.50"), order(event="ORDER_MODIFIED", limit_price="1.6"), None),
        (AmendOrder(id="c", order_id="o1", limit_price="1.50"), order(event="ORDER_MODIFIED"), None),
        (AmendOrder(id="c", order_id="o1", time_in_force="GTC"), order(event="ORDER_MODIFIED"), None),
        (AmendOrder(id="c", order_id="o1", limit_price="1.50"), order("EXPIRED", "ORDER_EXPIRED"), "rejected"),
        (
            AmendOrder(id="c", order_id="o1", limit_price="1.50"),
            order("EXPIRED", "ORDER_EXPIRED", limit_price="1.5"),
            "accepted",
        ),
        (
            AmendOrder(id="c", order_id="o1", limit_price="1.50"),
            order("FILLED", "ORDER_FILLED", limit_price="1.5"),
            "accepted",
        ),
        (
            AmendOrder(id="c", order_id="o1", limit_price="1.50"),
            order("FILLED", "ORDER_FILLED", limit_price="1.6"),
            None,
        ),
        (AmendOrder(id="c", order_id="o1", limit_price="1.50"), order("FILLED", "ORDER_FILLED"), None),
    ],
)
def test_what_an_order_says_of_a_command(command: Command, event: Order, outcome: str | None) -> None:
    found = fate(command, event)
    assert (found and found.outcome) == outcome


def test_a_closed_position_answers_its_closing(r: Rig) -> None:
    whole, _ = r.take(ClosePosition(id="c1", position_id="p1"))
    part, _ = r.take(ClosePosition(id="c2", position_id="p1", quantity="1"))
    for id in ("c1", "c2"):
        r.hear(reply(id, "unknown"))
    r.hear(Position(event=PositionEvent.POSITION_MODIFIED, id="p1", symbol="S", quantity="1"))
    assert whole.outcome is Outcome.UNKNOWN
    r.hear(Position(event=PositionEvent.POSITION_CLOSED, id="p1", symbol="S", quantity="0"))
    assert (whole.outcome, part.outcome) == (Outcome.ACCEPTED, Outcome.UNKNOWN)


def test_another_accounts_order_says_nothing(r: Rig) -> None:
    unnamed = Stamp(provider="helio", received_at=STAMP.received_at)
    pending, _ = r.take(place(account="A"), session=AccountRef("helio", None))
    r.hear(reply(outcome="unknown", account="A"), unnamed)
    r.hear(order(account="B"), unnamed)
    r.hear(order(), STAMP)
    r.hear(order(account="A"), Stamp(provider="tektii", received_at=STAMP.received_at))
    assert pending.outcome is Outcome.UNKNOWN
    r.hear(order(account="A"), unnamed)
    assert pending.outcome is Outcome.ACCEPTED


def test_what_a_session_says_of_another_account_decides_nothing(r: Rig) -> None:
    """One login reaches both; positions of one instrument have the same id in each."""
    ordered, _ = r.take(place())
    closing, _ = r.take(ClosePosition(id="c2", position_id="ES 09-26"))
    elsewhere, _ = r.take(ClosePosition(id="c3", position_id="ES 09-26"), session=AccountRef("helio", "Sim110"))
    closed = Position(event=PositionEvent.POSITION_CLOSED, id="ES 09-26", symbol="S", quantity="0")
    r.hear(attrs.evolve(closed, account="Sim110"))
    for id in ("c1", "c2"):
        r.hear(reply(id, "unknown"))
    r.hear(order(account="Sim110"))
    r.hear(attrs.evolve(closed, account="Sim110"))
    assert (ordered.outcome, closing.outcome, elsewhere.outcome) == (Outcome.UNKNOWN, Outcome.UNKNOWN, None)
    r.hear(order(account="main"))
    r.hear(closed)
    assert (ordered.outcome, closing.outcome, elsewhere.outcome) == (Outcome.ACCEPTED, Outcome.ACCEPTED, None)


def test_other_events_pass_untouched(r: Rig) -> None:
    for event in (Quote(symbol="S", bid="1"), order()):
        assert r.registry.check(event, STAMP) is event


def test_replies_are_forgotten_by_age() -> None:
    r = Rig(age=100, rejected_age=10)
    for n, outcome in enumerate(("accepted", "unknown", "rejected")):
        r.take(place(f"c{n}", f"o{n}"), f"k{n}")
        r.hear(reply(f"c{n}", outcome))
    r.now = 9
    assert not r.take(place("x", "o2"), "k2")[1]
    r.now = 10
    assert r.take(place("x", "o2", quantity="9"), "k2")[1]
    r.now = 99
    assert not any(r.take(place("y", f"o{n}"), None)[1] for n in (0, 1))
    r.now = 100
    assert all(r.take(place(f"y{n}", f"o{n}", quantity="9"))[1] for n in (0, 1))


def test_a_full_share_forgets_rejected_commands_and_no_others() -> None:
    r = Rig(per_key=4)
    for n, outcome in enumerate(("accepted", "rejected", "unknown", "rejected")):
        r.take(place(f"c{n}", f"o{n}"))
        r.hear(reply(f"c{n}", outcome))
    for n in (4, 5):
        r.take(place(f"c{n}", f"o{n}"))
        r.hear(reply(f"c{n}"))
        assert len(r.registry) == 4
    with pytest.raises(Full, match=r"API key desk .*limit commands\.per_key"):
        r.take(place("c6", "o6"))
    for n in (0, 2, 4, 5):
        assert not r.take(place("again", f"o{n}"))[1]
    assert len(r.registry) == 4
    assert r.take(place("c6", "o6"), api_key="another")[1]
    r.now = r.registry.limits.age
    assert r.take(place("c7", "o7"))[1]


def test_an_account_has_its_own_share_and_other_accounts_do_not_feel_it() -> None:
    r = Rig(per_account=2)
    other = AccountRef("helio", "other")
    for n in range(2):
        r.take(place(f"c{n}", f"o{n}"), api_key=f"key {n}")
        r.hear(reply(f"c{n}"))
    with pytest.raises(Full, match=r"limit commands\.per_account"):
        r.take(place("c2", "o2"), api_key="key 2")
    assert r.take(place("c2", "o2"), session=other, api_key="key 2")[1]


def test_what_is_kept_is_bounded_in_bytes() -> None:
    r = Rig(bytes_per_key=256 * 1024)
    for n in range(23):  # of about 11.3 kB each
        r.take(place(f"c{n}", f"o{n}"))
        r.hear(reply(f"c{n}", result="x" * 10_000))
    with pytest.raises(Full, match=r"limit commands\.bytes_per_key"):
        r.take(place("c23", "o23", extra={"note": "x" * 4000}))
    rejected = Rig(bytes_per_key=256 * 1024)
    for n in range(2000):
        rejected.take(place(f"c{n}", f"o{n}", extra={"note": "x" * 1000}))
        rejected.hear(reply(f"c{n}", "rejected", error={"code": "margin", "message": "y" * 5000, "raw": "z" * 5000}))
        assert rejected.registry._shares["desk"].bytes <= 256 * 1024
    assert len(rejected.registry) > 60
    again, _ = rejected.take(place("again", "o1999", extra={"note": "x" * 1000}))
    assert json.loads(again.answer)["error"] == {"code": "margin", "message": "y" * 300}
    with pytest.raises(Conflict):
        rejected.take(place("again", "o1999", extra={"note": "y" * 1000}))


def test_too_many_open_commands_are_refused() -> None:
    r = Rig(open_per_session=2)
    r.take(place("c1", "a"))
    r.take(place("c2", "b"))
    with pytest.raises(Full, match="2 commands are waiting"):
        r.take(place("c3", "c"))
    assert not r.take(place("c9", "a"))[1]
    r.hear(reply("c1"))
    assert r.take(place("c3", "c"))[1]


def test_one_key_does_not_take_all_places_of_a_session() -> None:
    r = Rig(open_per_key=2)
    r.take(place("c1", "a"))
    r.take(place("c2", "b"))
    with pytest.raises(Full, match=r"2 commands of API key desk .*limit commands\.open_per_key"):
        r.take(place("c3", "c"))
    assert r.take(place("c3", "c"), api_key="another")[1]
    r.hear(reply("c1"))
    assert r.take(place("c4", "d"))[1]


def test_answers_to_questions_are_shared_while_open_and_not_kept(r: Rig) -> None:
    first, _ = r.take(ListOrders(id="q1"), "k")
    assert r.take(ListOrders(id="q2"), "k") == (first, False)
    r.hear(reply("q1", result=[]))
    assert (first.outcome, len(r.registry)) == (Outcome.ACCEPTED, 0)
    assert r.take(ListOrders(id="q2"), "k")[1]


def test_nothing_is_left_of_what_was_forgotten() -> None:
    r = Rig(age=1, rejected_age=1)
    for n, outcome in enumerate(("unknown", "rejected") * 10):
        r.take(place(f"c{n}", f"o{n}"), f"k{n}")
        r.hear(reply(f"c{n}", outcome))
    r.take(ListOrders(id="q1"))
    r.hear(reply("q1"))
    r.registry.forget(r.now + 1)
    assert len(r.registry) == 0
    held = ("_open", "_kept", "_lasting", "_rejected", "_names", "_watched", "_shares")
    assert not any(vars(r.registry)[name] for name in held)
    assert r.registry.snapshot() == {"open": 0, "remembered": 0, "unknown": 10, "rejected": 10, "accepted": 1}


def test_an_id_is_used_once_in_a_session_of_several_accounts(r: Rig) -> None:
    """Providers answer by the id alone."""
    r.take(place(account="A"), session=AccountRef("helio", None))
    with pytest.raises(Conflict, match="still waiting"):
        r.take(place(account="B"), session=AccountRef("helio", None))


def test_a_reply_may_name_the_account_of_a_session_of_several(r: Rig) -> None:
    pending, _ = r.take(place(account="A"), session=AccountRef("helio", None))
    r.hear(reply(), attrs.evolve(STAMP, account="B"))
    assert pending.outcome is None
    r.hear(reply(), attrs.evolve(STAMP, account="A"))
    assert pending.outcome is Outcome.ACCEPTED


def test_who_waits_gets_the_bytes_that_were_published(r: Rig) -> None:
    pending, _ = r.take(place())
    r.registry.settle(reply(), STAMP, r.now, "e1", b"published")
    assert pending.answer == b"published"


# --- orders that are replaced ----------------------------------------------------------------------------------------


def replaced(by: str = "o2", **more: Any) -> Order:
    return order("REPLACED", "ORDER_REPLACED", replaced_by=by, **more)


def test_an_amendment_without_an_answer_is_known_by_the_order_that_took_the_place() -> None:
    r = Rig()
    r.take(AmendOrder(id="a1", order_id="o1", limit_price="10"))
    r.hear(replaced())
    assert r.registry.find(MAIN, "a1").shown is None, "who replaced it, and by what, the other order tells"
    r.hear(order(id="o2", replaces="o1", client_order_id="other", limit_price="10.0"))
    r.hear(reply("a1", "unknown"))
    (answer,) = [event for event in r.published if isinstance(event, Reply)]
    assert (answer.outcome, answer.reconciled) == (Outcome.ACCEPTED, True)
    assert answer.result == {"order_id": "o2", "status": "OPEN"}


@pytest.mark.parametrize(
    ("heard", "outcome"),
    [
        (order(id="o2", replaces="o1", limit_price="11"), "unknown"),  # somebody else's amendment
        (order("REJECTED", "ORDER_REJECTED", id="o2", replaces="o1", limit_price="10"), "rejected"),
        (order(event="ORDER_MODIFY_REJECTED", limit_price="9"), "rejected"),
        (order("CANCELLED", "ORDER_CANCELLED", limit_price="9"), "unknown"),
    ],
)
def test_what_a_replacement_tells_of_an_amendment(heard: Order, outcome: str) -> None:
    r = Rig()
    r.take(AmendOrder(id="a1", order_id="o1", limit_price="10"))
    r.hear(heard)
    r.hear(reply("a1", "unknown"))
    assert r.published[-1].outcome == outcome


def test_a_cancellation_follows_the_order_that_took_the_place() -> None:
    r = Rig()
    r.take(CancelOrder(id="c1", order_id="o1"))
    r.hear(replaced())
    r.hear(order(id="o2", replaces="o1", client_order_id=None))
    r.hear(order("REPLACED", "ORDER_REPLACED", id="o2", replaces="o1", replaced_by="o3", client_order_id=None))
    r.hear(order(id="o3", replaces="o2", client_order_id=None))
    assert r.registry.find(MAIN, "c1").shown is None
    r.hear(order("CANCELLED", "ORDER_CANCELLED", id="o3", replaces="o2", client_order_id=None))
    r.hear(reply("c1", "unknown"))
    assert r.published[-1].result == {"order_id": "o3", "status": "CANCELLED"}
    assert not r.registry._watched, "nothing is looked for any more"


def test_a_cancellation_that_is_refused_after_it_was_accepted() -> None:
    told = fate(CancelOrder(id="c1", order_id="o1"), order("OPEN", "ORDER_CANCEL_REJECTED", reject_reason="too late"))
    assert told is not None
    assert (told.outcome, told.error["message"]) == (Outcome.REJECTED, "too late")
