"""The session works for every broker: adapters see its memory, pages are collected, and what is not streamed is asked for."""

from collections.abc import Iterable

from relay.adapter import (
    Answer,
    Fetch,
    GivenUp,
    Outgoing,
    Poll,
    Polled,
    Reconcile,
    Refresh,
    Unknown,
    dumps,
    loads,
)
from relay.model.commands import ListOrders, PlaceOrder
from relay.model.events import Account, Order
from relay.provider import session_events
from relay.provider.accounts import KnownStates, States

PLACED = {"symbol": "S", "side": "BUY", "order_type": "MARKET", "quantity": "1"}


def order(id, status="OPEN", filled=None, **members):
    return Order(
        event=None, id=id, symbol="S", side="BUY", quantity="2", filled_quantity=filled, status=status, **members
    )


# --- the memory ------------------------------------------------------------------------------------------------------


def test_an_adapter_sees_what_is_known_of_its_own_account_and_of_others():
    states = States()
    known = KnownStates(states, "main")
    for each in (order("1"), order("2", account="other"), order("3", "FILLED")):
        states.news(each, "main", 0.0, compared=False)
    assert known.order("1").status == known.order("2", "other").status == "OPEN"
    assert known.order("2") is None
    assert known.order("3").status == "FILLED"
    assert [each.id for each in known.open_orders()] == ["1", "2"]
    states.news(order("1", "CANCELLED"), "main", 1.0, compared=False)
    assert [each.id for each in known.open_orders()] == ["2"]
    assert (known.position("1"), known.open_positions()) == (None, [])


def test_what_is_forgotten_is_not_open_either():
    states = States(size=3)
    for n in range(10):
        states.news(order(str(n)), "main", 0.0, compared=False)
    assert [each.id for each in KnownStates(states, "main").open_orders()] == ["7", "8", "9"]
    assert len(states._open) <= 3


def test_the_memory_outlives_the_connection_and_the_machine(rig):
    r = rig()
    r.up(0)
    r.say(["order", "1", "OPEN"], at=1)
    r.do(session_events.Closed(1006), 2)
    r.tick(r.machine.deadline())
    r.up()
    assert r.machine.core.adapter.context.known.order("1").id == "1"
    r.succeed()
    assert [each.id for each in r.machine.core.context.known.open_orders()] == ["1"]


# --- pages -----------------------------------------------------------------------------------------------------------


def pages_of(rig):
    """A session whose lists come in pages; what is read of them is the numbers of all pages."""

    class Paged(rig.Venue):
        def page(self, number: int, tag: object) -> Fetch:
            return Fetch(tag=tag, url=f"/page/{number}", next_page=self.behind if number == 1 else self.last)

        def behind(self, answer: Answer) -> Fetch | None:
            return self.page(2, "nobody's") if loads(answer.text)["more"] else None

        def last(self, answer: Answer) -> Fetch | None:
            return self.page(3, "nobody's") if loads(answer.text)["more"] else None

        def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch | Poll]:
            match outgoing:
                case ListOrders() | Reconcile():
                    yield self.page(1, outgoing)
                case _:
                    yield from super().encode(outgoing)

        def fetched(self, tag, answer):
            assert tag.__class__ in (ListOrders, Reconcile), "the tag of the first"
            for text in answer.pages:
                yield from (order(id) for id in loads(text)["ids"])

    return rig(adapter=Paged)


def page(more, *ids):
    return Answer(status=200, text=dumps({"more": more, "ids": ids}))


def test_the_pages_of_a_list_are_handed_over_at_once(rig):
    r = pages_of(rig)
    (first,) = r.requests(r.up(0))
    (second,) = r.requests(r.do(session_events.Fetched(first.id, page(True, "1", "2")), 1))
    assert (second.url, r.kinds()) == ("https://venue.test/api/page/2", ["connection CONNECTED"])
    r.do(session_events.Fetched(second.id, page(False, "3")), 2)
    assert [event.id for event in r.fresh()] == ["1", "2", "3"]


def test_a_page_that_does_not_come_costs_its_list(rig):
    r = pages_of(rig)
    (first,) = r.requests(r.up(0))
    (second,) = r.requests(r.do(session_events.Fetched(first.id, page(True, "1")), 1))
    r.fresh()
    r.do(session_events.Fetched(second.id, Answer(status=503, text="")), 2)
    assert "reconcile_failed" in [getattr(event, "code", None) for event in r.fresh()]
    (again,) = r.requests(r.tick(r.machine.deadline()))
    assert again.url.endswith("/page/1")


def test_a_page_that_is_not_understood_leaves_a_command_unknown(rig):
    r = pages_of(rig)
    (first,) = r.requests(r.up(0))
    r.do(session_events.Fetched(first.id, page(False)), 1)
    (asked,) = r.requests(r.ask(ListOrders(id="c"), at=2))
    r.fresh()
    r.do(session_events.Fetched(asked.id, Answer(status=200, text="{}")), 3)
    (reply,) = [event for event in r.fresh() if event.kind == "reply"]
    assert (reply.outcome, reply.error["code"]) == ("unknown", "no_answer")
    assert r.counters()["unknown"] == 1


# --- what is not streamed --------------------------------------------------------------------------------------------


def asking(rig, **options):
    """A session that asks for orders and fills: by polls when it reconciles, and on `Refresh` and `GivenUp`."""

    class Asking(rig.Venue):
        def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch | Poll]:
            match outgoing:
                case Reconcile():
                    yield Poll("list", '"near"', every=30, missed='"far"')
                case Refresh(account):
                    yield dumps({"refresh": account})
                case GivenUp(command):
                    yield dumps({"given_up": command.id})
                case _:
                    yield from super().encode(outgoing)

        def decode(self, message: str):
            match loads(message):
                case ["list", *ids]:
                    yield from map(order, ids)
                    yield from (Poll(("one", id), dumps([id])) for id in ids)
                    yield Polled("list")
                case ["listed", id, status]:
                    yield order(id, status)
                    yield Polled("list")
                case ["one", id, status]:
                    yield order(id, status)
                    yield Polled(("one", id))
                case ["filled", id, status, filled]:
                    yield order(id, status, filled)
                case ["money", members]:
                    yield Account(event=None, **members)
                case _:
                    yield from super().decode(message)

    return rig(adapter=Asking, **options)


def test_a_poll_of_a_reconciliation_asks_far_and_its_answer_is_one(rig):
    r = asking(rig)
    assert r.texts(r.up(0)) == ["far"]
    r.fresh()
    assert r.texts(r.say("list", "1", at=1)) == [["1"]], "what its answer leads to is asked for the same reason"
    r.say("one", "1", "FILLED", at=2)
    assert [(event.id, event.reconciled) for event in r.fresh()] == [("1", True), ("1", True)]
    assert r.texts(r.tick(r.machine.deadline())) == ["near"]
    r.say("list", "2")
    assert [(event.id, event.reconciled) for event in r.fresh()] == [("2", None)]


def test_an_answer_that_is_doubted_leaves_the_reconciliation_to_the_next_one(rig):
    """A list that was asked for shortly after the last change may be older than it: the second look tells, marked."""
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    r.say(["order", "1", "OPEN"], at=2)
    r.do(session_events.Closed(1006), 3)
    r.tick(r.machine.deadline())
    assert r.texts(r.up()) == ["far"]
    r.fresh()
    assert r.texts(r.say("listed", "1", "PENDING_CANCEL", at=r.now + 1)) == ["far"]
    assert r.fresh() == []
    r.say("listed", "1", "PENDING_CANCEL", at=r.now + 1)
    (event,) = r.fresh()
    assert (event.status, event.reconciled) == ("PENDING_CANCEL", True)


def test_after_a_failure_a_poll_asks_far_again(rig):
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    assert r.texts(r.tick(r.machine.deadline())) == ["near"]
    r.say(["polled", "list", "away"])
    assert r.texts(r.tick(r.machine.deadline())) == ["far"]


def refreshed(r, outputs):
    return [text["refresh"] for text in r.texts(outputs) if isinstance(text, dict)]


def test_an_order_that_was_filled_further_is_a_reason_to_ask_for_the_rest(rig):
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    steps = (
        ("OPEN", "0", []),
        ("PARTIALLY_FILLED", "1", [None]),
        ("PARTIALLY_FILLED", "1", []),
        ("FILLED", "2", [None]),
    )
    for at, (status, filled, asked) in enumerate(steps, start=2):
        assert refreshed(r, r.say("filled", "1", status, filled, at=at)) == asked
    assert refreshed(r, r.say("filled", "2", "FILLED", "2", at=9)) == [], "it had ended before anybody knew of it"


def test_profit_that_only_a_fill_changes_is_a_reason_too(rig):
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    for at, (members, asked) in enumerate(
        (
            ({"realized_pnl": "1", "unrealized_pnl": "0"}, []),
            ({"realized_pnl": "1.0", "unrealized_pnl": "5"}, [None]),
            ({"realized_pnl": "1", "unrealized_pnl": "7"}, []),
            ({"realized_pnl": "3", "unrealized_pnl": "7"}, [None]),
            ({"balance": "3"}, []),
            ({"account": "other", "realized_pnl": "1"}, []),
            ({"account": "other", "realized_pnl": "2"}, ["other"]),
        ),
        start=2,
    ):
        assert refreshed(r, r.say("money", members, at=at)) == asked, members


def test_a_command_of_unknown_outcome_is_requested_on_every_connection_until_it_is_known(rig):
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    r.ask(PlaceOrder(id="c", client_order_id="mine", **PLACED), at=1)
    r.do(session_events.Closed(1006), 2)
    for _ in range(2):
        r.tick(r.machine.deadline())
        assert {"given_up": "c"} in r.texts(r.up())
        r.do(session_events.Closed(1006))
    r.commands.check(order("9", client_order_id="mine"), r.stamps[-1])
    r.tick(r.machine.deadline())
    assert r.texts(r.up()) == ["far"]


def test_an_answer_to_a_list_is_not_mistaken_for_a_reconciliation(rig):
    r = asking(rig)
    r.up(0)
    r.say("list", at=1)
    r.fresh()
    r.say(["order", "1", "OPEN"], at=2)
    (event,) = r.fresh()
    assert not isinstance(event, Unknown)
    assert event.reconciled is None
