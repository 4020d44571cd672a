"""What is known of an account, and what counts as news of it."""

from relay.model.events import Order
from relay.upstream.accounts import States


def order(**members):
    return Order(event="ORDER_CREATED", id="o1", symbol="A", side="BUY", **{"status": "OPEN", **members})


def test_a_list_that_leaves_out_the_senders_id_says_nothing_new():
    states = States()
    assert states.changes(order(client_order_id="mine"), "main", 0.0)
    assert not states.changes(order(), "main", 1.0)
    assert not states.changes(order(client_order_id="mine"), "main", 2.0)
    assert states.changes(order(client_order_id="another"), "main", 3.0)
    assert states.changes(order(status="CANCELLED"), "main", 4.0)
