"""The events of orders, positions and money are derived from their states."""

import attrs
import pytest

from relay.adapter import Partial
from relay.model.events import Account, Order, Position, Trade
from relay.provider.accounts import Fills, States
from relay.testing.conformance import _published
from relay.testing.subject import Read


def order(status, **members):
    return Order(event=None, id="1", symbol="S", side="BUY", status=status, **{"quantity": "3"} | members)


def position(quantity, **members):
    return Position(event=None, id="p", symbol="S", quantity=quantity, **{"side": "LONG"} | members)


def money(**members):
    return Account(event=None, **members)


def told(*states, listed=False, partial=False):
    """Return what is published of successive states."""
    memory = States()
    events = [memory.news(state, "main", n, compared=listed, partial=partial) for n, state in enumerate(states)]
    return [event and event.event.value for event in events]


def test_a_margin_call_is_told_when_it_begins_and_when_it_ends():
    states = [
        money(balance="1", equity="1", margin_call=False),
        money(balance="1", equity="0.5", margin_call=True),
        money(balance="1", equity="0.4", margin_call=True),
        money(balance="1", equity="0.3"),
        money(balance="2", equity="0.3", margin_call=True),
        money(balance="2", equity="2", margin_call=False),
        money(balance="2", equity="3", margin_call=False),
    ]
    assert told(*states) == [
        "BALANCE_UPDATED", "MARGIN_CALL", "METRICS_UPDATED", "METRICS_UPDATED", "BALANCE_UPDATED", "MARGIN_CALL_ENDED",
        "METRICS_UPDATED",
    ]  # fmt: skip
    assert told(money(equity="1", margin_call=True), money(equity="1", margin_call=True)) == ["MARGIN_CALL", None]


@pytest.mark.parametrize(
    ("states", "events"),
    [
        ([order("OPEN")], ["ORDER_CREATED"]),
        ([order("PENDING"), order("OPEN"), order("OPEN")], ["ORDER_CREATED", "ORDER_MODIFIED", None]),
        ([order("FILLED")], ["ORDER_FILLED"]),
        ([order("REJECTED")], ["ORDER_REJECTED"]),
        ([order("OPEN"), order("CANCELLED"), order("CANCELLED")], ["ORDER_CREATED", "ORDER_CANCELLED", None]),
        ([order("OPEN"), order("EXPIRED")], ["ORDER_CREATED", "ORDER_EXPIRED"]),
        ([order("FILLED"), order("FILLED", average_fill_price="2")], ["ORDER_FILLED", "ORDER_MODIFIED"]),
        (
            [
                order("PARTIALLY_FILLED", filled_quantity="1"),
                order("PARTIALLY_FILLED", filled_quantity="1.0", limit_price="5"),
                order("PARTIALLY_FILLED", filled_quantity="2"),
                order("FILLED", filled_quantity="3"),
            ],
            ["ORDER_PARTIALLY_FILLED", "ORDER_MODIFIED", "ORDER_PARTIALLY_FILLED", "ORDER_FILLED"],
        ),
        ([order("OPEN", stop_loss="1"), order("OPEN"), order("OPEN")], ["ORDER_CREATED", "ORDER_MODIFIED", None]),
        ([position("0")], [None]),
        (
            [position("1"), position("2"), position("2"), position("0", side=None), position("0"), position("1")],
            ["POSITION_OPENED", "POSITION_MODIFIED", None, "POSITION_CLOSED", None, "POSITION_OPENED"],
        ),
        (
            [money(balance="1", equity="1"), money(balance="1", equity="2"), money(balance="1", equity="2"), money(balance="3")],
            ["BALANCE_UPDATED", "METRICS_UPDATED", None, "BALANCE_UPDATED"],
        ),
    ],
)  # fmt: skip
def test_what_happened_follows_from_what_was_known(states, events):
    assert told(*states) == events


def test_what_is_open_in_the_first_list_was_so_already_and_a_list_takes_no_member_away():
    assert told(position("1"), listed=True) == ["POSITION_MODIFIED"]
    assert told(order("OPEN"), listed=True) == ["ORDER_CREATED"]
    assert told(order("OPEN", stop_loss="1"), order("OPEN"), listed=True) == ["ORDER_CREATED", None]
    states = States()
    states.end_missing("position", "main", (), 0)
    assert states.news(position("1"), "main", 1, compared=True).event == "POSITION_OPENED"


def test_an_event_the_provider_names_stands():
    named = Order(event="ORDER_MODIFIED", id="1", symbol="S", side="BUY", status="OPEN")
    assert told(named, named) == ["ORDER_MODIFIED", "ORDER_MODIFIED"]


def test_a_closed_position_keeps_its_side_and_entry_and_no_price_of_the_moment():
    states = States()
    states.news(position("2", average_entry_price="5", current_price="6"), "main", 1, compared=False)
    closed = states.news(position("0", side=None, realized_pnl="2"), "main", 2, compared=False)
    assert (closed.side, closed.average_entry_price, closed.realized_pnl) == ("LONG", "5", "2")
    assert closed.current_price is None


def test_a_state_in_part_is_filled_in_and_a_whole_one_is_not():
    states = States()
    states.news(order("OPEN", limit_price="5", client_order_id="c"), "main", 1, compared=False)
    part = states.news(order("PARTIALLY_FILLED", filled_quantity="1"), "main", 2, compared=False, partial=True)
    assert (part.limit_price, part.client_order_id) == ("5", "c")
    whole = states.news(order("FILLED", filled_quantity="3"), "main", 3, compared=False)
    assert (whole.limit_price, whole.client_order_id) == (None, "c")


def test_a_session_publishes_what_happened_and_a_repetition_keeps_its_stream_fresh(rig):
    class Broker(rig.Venue):
        def _item(self, item):
            match item:
                case ["money", balance]:
                    yield money(balance=balance)
                case ["part", status]:
                    yield Partial(order(status, quantity=None))
                case _:
                    yield from super()._item(item)

    r = rig(adapter=Broker, stale_after={"account": 10}, silent_after=9999)
    r.up(0)
    r.want("account:main", at=0)
    r.fresh()
    r.say(["money", "1"], ["part", "OPEN"], at=1)
    r.say(["part", "FILLED"], at=2)
    assert r.kinds() == ["account BALANCE_UPDATED", "order ORDER_CREATED", "order ORDER_FILLED"]
    r.say(["money", "1"], at=9)
    assert r.kinds() == []
    r.tick(15)
    assert r.kinds() == []
    r.tick(19)
    assert r.kinds() == ["staleness STALE"]
    assert r.add_up()


def test_a_golden_file_has_what_a_session_publishes():
    items = (order("OPEN"), order("OPEN"), order("FILLED"), position("1"))
    events = list(_published(Read(items), States(), 1))
    assert [event.event.value for event in events] == ["ORDER_CREATED", "ORDER_FILLED", "POSITION_OPENED"]


def test_an_order_that_takes_the_place_of_another_one_ends_it():
    memory = States()
    memory.news(order("OPEN"), "main", 1, compared=False)
    new = attrs.evolve(order("OPEN"), id="2", replaces="1")
    ended = memory.replaced(new, "main", 2)
    assert (ended.event, ended.status, ended.replaced_by, ended.reconciled) == ("ORDER_REPLACED", "REPLACED", "2", True)
    assert memory.replaced(new, "main", 3) is None, "told once"
    memory.news(new, "main", 3, compared=False)
    memory.news(attrs.evolve(order("REPLACED"), id="2", replaced_by="3"), "main", 4, compared=False)
    assert memory.newest("1", "main") == memory.newest("2", "main") == "3"
    assert memory.newest("9", "main") == "9"
    memory.news(attrs.evolve(order("OPEN"), id="7"), "main", 5, compared=False)
    refused = attrs.evolve(order("REJECTED"), id="8", replaces="7")
    assert memory.replaced(refused, "main", 6) is None, "the order that was to be replaced stays"
    memory.news(attrs.evolve(order("REPLACED"), id="a", replaced_by="b"), "main", 7, compared=False)
    memory.news(attrs.evolve(order("REPLACED"), id="b", replaced_by="a"), "main", 7, compared=False)
    assert memory.newest("a", "main") == "b", "a chain that bites its tail ends"


def fill(id, quantity="5", **more):
    return Trade(id=id, order_id="o", symbol="S", side="BUY", quantity=quantity, price="1", **more)


def test_fills_that_are_taken_back_or_put_right_count_once():
    memory = Fills()
    assert memory.remember(fill("1"), "main")
    assert memory.remember(fill("2"), "main")
    assert memory.filled(fill("2"), "main") == 10
    assert memory.remember(fill("3", event="TRADE_BUSTED", corrects="1"), "main")
    assert not memory.remember(fill("3", event="TRADE_BUSTED", corrects="1"), "main")
    assert memory.filled(fill("2"), "main") == 5
    assert memory.remember(fill("4", "7", event="TRADE_CORRECTED", corrects="2"), "main")
    assert memory.filled(fill("2"), "main") == 7
    again = Fills()
    again.restore(memory.rows())
    assert again.filled(fill("2"), "main") == 7
