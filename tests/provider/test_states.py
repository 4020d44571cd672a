"""The last known state of an account, and the events that are news of it."""

from decimal import Decimal

import pytest

from relay.model.events import Account, Order, Position, Trade
from relay.provider.accounts import Fills, States, still


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
    listed = states.without_newer(money(balance="90", equity="99", currency="USD"), "main", 1.0)
    assert listed == money(balance="90", currency="USD")
    assert states.remember(listed, "main", 1.0)
    assert states.without_newer(money(equity="99"), "main", 1.0) is None
    assert states.without_newer(money(equity="99"), "main", 2.0) == money(equity="99")


# --- the same figure, and the provider's own times -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_new"),
    [
        ({"limit_price": "100"}, {"limit_price": "100.00"}, False),
        ({"limit_price": "100"}, {"limit_price": "100.01"}, True),
        ({"created_at": "2026-01-01T10:30:40Z"}, {"created_at": "2026-01-01T10:30:40.000Z"}, False),
        ({"created_at": "2026-01-01T10:30:40Z"}, {"created_at": "2026-01-01T10:30:40.001Z"}, True),
        ({"client_order_id": "1"}, {"client_order_id": "1.0"}, True),
    ],
)
def test_figures_are_compared_as_numbers_and_times_as_instants(before, after, is_new):
    states = States()
    states.remember(order(**before), "main", 0.0)
    assert states.remember(order(**after), "main", 1.0) is is_new


def test_an_unchanged_balance_in_other_digits_is_no_balance_update():
    states = States()
    states.news(Account(event=None, balance="100"), "main", 0.0, compared=False)
    news = states.news(Account(event=None, balance="100.00", equity="7"), "main", 1.0, compared=False)
    assert news.event == "METRICS_UPDATED"


def test_the_currency_is_in_every_event_since_it_was_told():
    states = States()
    told = [
        states.news(Account(event=event, **members), "main", n, compared=False)
        for n, (event, members) in enumerate(
            [
                (None, {"equity": "1"}),
                (None, {"balance": "1", "currency": "USD"}),
                (None, {"balance": "2"}),
                (None, {"equity": "3"}),
                ("MARGIN_WARNING", {"equity": "2"}),
                (None, {"equity": "3", "currency": "EUR"}),
                (None, {"equity": "3"}),
            ]
        )
    ]
    assert [event and (event.event.value, event.currency) for event in told] == [
        ("METRICS_UPDATED", None),
        ("BALANCE_UPDATED", "USD"),
        ("BALANCE_UPDATED", "USD"),
        ("METRICS_UPDATED", "USD"),
        ("MARGIN_WARNING", "USD"),
        ("METRICS_UPDATED", "EUR"),
        None,
    ]


EARLY, LATE = "2026-01-01T10:30:40Z", "2026-01-01T10:30:46.5Z"


@pytest.mark.parametrize(
    ("known", "listed", "is_news"),
    [
        ({"status": "FILLED", "updated_at": LATE}, {"status": "OPEN", "updated_at": EARLY}, False),
        ({"status": "PARTIALLY_FILLED", "updated_at": LATE}, {"status": "OPEN", "updated_at": EARLY}, False),
        ({"status": "FILLED", "updated_at": EARLY}, {"status": "OPEN", "updated_at": LATE}, True),
        ({"status": "FILLED"}, {"status": "OPEN"}, False),
        ({"status": "CANCELLED"}, {"status": "FILLED"}, True),
        ({"status": "OPEN", "updated_at": EARLY}, {"status": "CANCELLED", "updated_at": LATE}, True),
        ({"status": "OPEN", "updated_at": LATE}, {"status": "CANCELLED", "updated_at": EARLY}, True),  # it has ended
    ],
)
def test_a_list_older_than_what_is_known_says_nothing(known, listed, is_news):
    states = States()
    states.news(order(**known), "main", 0.0, compared=False)
    news = states.news(order(event=None, **listed), "main", 100.0, compared=True)
    assert (news is not None) is is_news


# --- fills -----------------------------------------------------------------------------------------------------------


def fill(**members):
    given = {"id": "28457", "order_id": "o1", "symbol": "BTC/USDT", "side": "BUY", "quantity": "1", "price": "5"}
    return Trade(**{**given, **members})


def test_an_id_that_two_symbols_two_orders_or_two_sides_share_is_two_fills():
    fills = Fills()
    others = ({}, {"symbol": "ETH/USDT"}, {"order_id": "o3"}, {"order_id": "o4", "side": "SELL"}, {"side": "SELL"})
    assert [fills.remember(fill(**other), "main") for other in others] == [True] * 5
    assert [fills.remember(fill(**other), "main") for other in others] == [False] * 5


def corrected(states, fills, event):
    fills.remember(event, "main")
    return states.corrected(event, "main", fills.filled(event, "main"))


def test_a_fill_behind_the_end_of_its_order_corrects_it():
    states, fills = States(), Fills()
    ended = order(status="CANCELLED", quantity="2", filled_quantity="1", average_fill_price="5", remaining_quantity="1")
    states.remember(ended, "main", 0.0)
    assert corrected(states, fills, fill(id="f1")) is None  # the one that the order's end has counted
    late = corrected(states, fills, fill(id="f2", price="6"))
    assert (late.event, late.status, late.filled_quantity, late.remaining_quantity) == (
        "ORDER_FILLED",
        "FILLED",
        "2",
        "0",
    )
    assert (late.average_fill_price, late.reconciled) == (None, True)
    assert corrected(states, fills, fill(id="f2", price="6")) is None


def test_a_late_fill_that_does_not_fill_the_order_leaves_it_cancelled():
    states, fills = States(), Fills()
    states.remember(order(status="CANCELLED", quantity="3", filled_quantity="0"), "main", 0.0)
    late = corrected(states, fills, fill(id="f1", quantity="0.5"))
    assert (late.event, late.status, late.filled_quantity) == ("ORDER_MODIFIED", "CANCELLED", "0.5")
    assert Decimal(late.remaining_quantity) == Decimal("2.5")


def test_fills_of_an_open_order_change_nothing_that_the_provider_does_not_say():
    states, fills = States(), Fills()
    states.remember(order(quantity="3", filled_quantity="0"), "main", 0.0)
    assert corrected(states, fills, fill()) is None


def test_fills_are_not_told_again_after_a_restart():
    """A lost store is written anew from what was written as it came, and the next process is restored from it."""
    written, fills = {}, Fills(size=2)

    def write(key, value):
        written.pop(key, None) if value is None else written.__setitem__(key, value)

    def fill_of(id):
        return Trade(id=id, order_id="o", symbol="S", side="BUY", quantity="2", price="1")

    fills.on_change = write
    assert all(fills.remember(fill_of(id), "main") for id in ("1", "2", "3"))
    assert written == dict(fills.rows())
    again = Fills(size=2)
    again.on_change = write
    again.restore([*reversed(written.items()), ("damaged", b"{"), ('["main"]', b'[1,"2"]')])
    assert not again.remember(fill_of("2"), "main")
    assert not again.remember(fill_of("3"), "main")
    assert again.filled(fill_of("3"), "main") == 4
    assert again.remember(fill_of("4"), "main")
    assert written.keys() == dict(again.rows()).keys(), "the oldest made room on disk too"


def test_a_fill_that_was_not_stored_is_told_again():
    unwritten, fills = [], Fills()
    first, second = (Trade(id=id, order_id="o", symbol="S", side="BUY", quantity="2", price="1") for id in "12")
    fills.remember(first, "main")
    fills.on_change = lambda key, value: unwritten.append(key)
    fills.remember(second, "main")
    fills.forget(unwritten[0])
    fills.forget(unwritten[0])
    assert fills.filled(second, "main") == 2
    assert not fills.remember(first, "main")
    assert fills.remember(second, "main")


def test_a_state_that_was_not_stored_is_told_again_and_what_another_relay_stored_is_newer():
    written, states = {}, States()
    states.on_change = written.__setitem__
    states.remember(order(), "main", 10.0)
    stored = dict(written)
    states.remember(order(status="FILLED", event="ORDER_FILLED"), "main", 20.0)
    [key] = written
    states.forget(key)
    assert states.find("order", "main", order().id) is None
    states.restore(stored.items(), 30.0)
    assert states.is_open(order(), "main")
    states.restore(written.items(), 30.0)
    assert not states.is_open(order(), "main"), "the other relay's is newer"
    states.restore(stored.items(), 30.0)
    assert not states.is_open(order(), "main"), "this is older"
    assert states.open("order") == []


def test_a_state_is_learned_where_none_is_known():
    states = States()
    states.remember(order(status="FILLED", event="ORDER_FILLED"), "main", 20.0)
    states.learn(order(), "main", 10.0)
    other = Order(id="o2", symbol="A", side="BUY", event="ORDER_CREATED", status="OPEN")
    states.learn(other, "main", 10.0)
    assert states.open("order") == [other]


def test_states_are_compared_with_those_from_before_a_restart():
    written, states = {}, States()
    states.ahead = 1000.0

    def write(key, value):
        written.pop(key, None) if value is None else written.__setitem__(key, value)

    states.on_change = write
    states.remember(order(), "main", 10.0)
    states.remember(money(balance="100", equity="99"), "main", 20.0)
    assert written == dict(states.rows())
    again = States()
    again.ahead = 1015.0  # this process' clock began 15 s later
    again.restore([*written.items(), ("damaged", b"{"), (next(iter(written)), b'["{}",1,{}]')], 100.0)
    assert again.is_open(order(), "main")
    assert not again.remember(order(), "main", 101.0)
    assert not again.remember(money(balance="100"), "main", 101.0)
    assert again.without_newer(money(equity="98"), "main", 4.0) is None, "told at 5 s of this clock"
    assert again.without_newer(money(equity="98"), "main", 6.0) is not None
