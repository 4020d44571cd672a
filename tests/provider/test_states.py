"""What is known of an account, and what counts as news of it."""

from relay.model.events import Account, Order, Position
from relay.provider.accounts import States, still


def order(**members):
    return Order(id="o1", symbol="A", side="BUY", **{"event": "ORDER_CREATED", "status": "OPEN", **members})


def test_a_list_that_leaves_out_the_senders_id_says_nothing_new():
    states = States()
    assert states.remember(order(client_order_id="mine"), "main", 0.0)
    assert not states.remember(order(), "main", 1.0)
    assert not states.remember(order(client_order_id="mine"), "main", 2.0)
    assert states.remember(order(client_order_id="another"), "main", 3.0)
    assert states.remember(order(status="CANCELLED"), "main", 4.0)


def money(**members):
    return Account(event="BALANCE_UPDATED", **members)


def test_a_figure_of_the_money_that_is_left_out_is_not_said_to_have_changed():
    states = States()
    assert states.remember(money(balance="100", equity="99", unrealized_pnl="-1"), "main", 0.0)
    assert not states.remember(money(balance="100"), "main", 1.0)
    assert not states.remember(money(equity="99", unrealized_pnl="-1"), "main", 2.0)
    assert states.remember(money(balance="100", currency="USD"), "main", 3.0)
    assert states.remember(money(unrealized_pnl="-2"), "main", 4.0)


def test_what_a_list_does_not_tell_of_an_order_is_still_known():
    states = States()
    assert states.remember(order(stop_loss="1"), "main", 0.0)
    assert not states.remember(order(), "main", 1.0)
    assert not states.remember(order(stop_loss="1"), "main", 2.0)
    assert states.remember(order(stop_loss="2"), "main", 3.0)


def test_what_is_open_is_known_until_it_ends():
    states = States()
    position = Position(event="POSITION_OPENED", id="p", symbol="A", side="LONG", quantity="1")
    for event in (order(), position):
        assert not states.is_open(event, "main")
        states.remember(event, "main", 0.0)
        assert states.is_open(event, "main")
        assert not states.is_open(event, "another")
    states.remember(order(status="FILLED"), "main", 1.0)
    assert not states.is_open(order(), "main")
    assert (still(order()).event, still(position).event) == ("ORDER_MODIFIED", "POSITION_MODIFIED")
    assert still(order(event="ORDER_CANCELLED")).event == "ORDER_CANCELLED"


def test_of_money_only_the_members_told_since_overtake_a_list():
    states = States()
    states.remember(money(balance="100", equity="99"), "main", 0.0)
    states.remember(money(equity="95"), "main", 2.0)
    listed = states.not_overtaken(money(balance="90", equity="99", currency="USD"), "main", 1.0)
    assert listed == money(balance="90", currency="USD")
    assert states.remember(listed, "main", 1.0)
    assert states.not_overtaken(money(equity="99"), "main", 1.0) is None
    assert states.not_overtaken(money(equity="99"), "main", 2.0) == money(equity="99")
