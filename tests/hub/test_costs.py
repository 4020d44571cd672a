"""Prices and budgets: who exceeds a budget is slowed, then refused, then closed; an ordinary page never meets one."""

from collections.abc import Callable
from typing import Any

import pytest

from relay.pusher.costs import ClientBudgets, Costs, RequestPrices, Spending

PAGE = [f"quote.x.S{n}" for n in range(200)]
TIGHT = Costs(connection_rate=100, connection_burst=100, slowed=10, refusals=3)


def account(costs: Costs, address: str | None = None, app: str = "1") -> Spending:
    return ClientBudgets(costs).connect(app, address, 0.0)


# One account ---------------------------------------------------------------------------------------------------------


def test_a_budget_may_be_overdrawn_once_and_is_then_waited_for() -> None:
    spending = account(TIGHT)
    assert spending.pause(0.0) == 0
    spending.spend(350, 0.0)
    assert spending.pause(0.0) == pytest.approx(2.5)
    assert spending.exceeded(0.0) is None
    assert spending.pause(1.0) == pytest.approx(1.5)
    assert spending.pause(2.5) == 0
    assert spending.budgets.exceeded() == {"costs.connection_rate": {"slowed": 1}}


def test_slowing_is_bounded_and_then_the_limit_is_named() -> None:
    spending = account(TIGHT)
    spending.spend(10_000, 0.0)
    assert spending.pause(0.0) == 10
    assert spending.pause(10.0) == 0
    assert spending.exceeded(10.0) == "costs.connection_rate"
    assert [spending.refuse("costs.connection_rate") for _ in range(4)] == [True, True, True, False]
    assert spending.budgets.exceeded() == {"costs.connection_rate": {"slowed": 1, "refused": 4, "closed": 1}}


def test_a_full_budget_forgives() -> None:
    spending = account(TIGHT)
    spending.spend(200, 0.0)
    assert spending.pause(0.0) > 0
    spending.refuse("costs.connection_rate")
    assert spending.pause(5.0) == 0  # all is paid
    spending.spend(200, 5.0)
    assert spending.pause(5.0) == pytest.approx(1.0)
    assert spending.exceeded(12.0) is None


def test_without_a_rate_there_is_no_limit() -> None:
    spending = account(Costs(connection_rate=0, address_rate=0, app_rate=0), "192.0.2.1")
    spending.spend(1e12, 0.0)
    assert (spending.pause(0.0), spending.exceeded(1e9)) == (0, None)


def test_connections_of_one_address_share_a_budget_and_coming_back_does_not_fill_it() -> None:
    budgets = ClientBudgets(Costs(address_rate=100, address_burst=1000))
    for _ in range(20):  # each well within its own budget
        budgets.connect("1", "192.0.2.1", 0.0).spend(100, 0.0)
    assert budgets.connect("1", "192.0.2.1", 0.0).pause(0.0) > 0
    assert budgets.connect("1", "192.0.2.2", 0.0).pause(0.0) == 0
    assert budgets.exceeded() == {"costs.address_rate": {"slowed": 1}}


def test_connections_of_one_app_share_a_budget() -> None:
    budgets = ClientBudgets(Costs(app_rate=100, app_burst=1000))
    budgets.connect("1", None, 0.0).spend(2000, 0.0)
    assert budgets.connect("1", None, 0.0).pause(0.0) > 0
    assert budgets.connect("2", None, 0.0).pause(0.0) == 0


def test_a_caller_over_http_has_a_budget_of_its_own() -> None:
    budgets = ClientBudgets(Costs(api_rate=100, api_burst=1000))
    assert budgets.take("app 1", 1500, 0.0)
    assert not budgets.take("app 1", 1, 0.0)
    assert budgets.take("app 2", 1, 0.0)
    assert budgets.take("app 1", 1, 5.0)
    assert budgets.exceeded() == {"costs.api_rate": {"refused": 1}}


def test_a_smaller_number_of_remembered_budgets_applies_at_once() -> None:
    budgets = ClientBudgets(Costs())
    for n in range(100):
        budgets.take(f"address {n}", 1, 0.0)
    budgets.replace(Costs(remembered=10))
    assert list(budgets._callers) == [f"address {n}" for n in range(90, 100)]
    budgets.take("one more", 1, 0.0)
    assert len(budgets._callers) == 10


# In the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(relay_of: Callable[..., Any]) -> Any:
    return relay_of(costs=TIGHT)


def test_an_ordinary_page_is_never_slowed(relay: Any) -> None:
    """200 channels joined at once, 20 of them with a rewind of 100, then ten client events a second for a minute."""
    for n in range(20):
        for _ in range(100):
            relay.trigger(f"room{n}", data="x" * 200)
    page = relay.client()
    other = relay.client()
    for client in (page, other):
        client.subscribe("private-chat")
    for n in range(180):
        page.subscribe(f"own{n}")
    for n in range(20):
        assert len(page.subscribe(f"room{n}", rewind=100)) == 101
        assert page.session.pause(relay.now) == 0
    for _ in range(600):
        relay.now += 0.1
        page.send("client-moved", {"x": 1, "y": "." * 1000}, channel="private-chat")
        assert page.session.pause(relay.now) == 0
    assert relay.hub.budgets.exceeded() == {}
    assert len(other.take()) == 600


def test_a_loop_of_rewinds_is_slowed_refused_and_closed(tight: Any) -> None:
    for _ in range(1000):
        tight.trigger("ticks")
    client = tight.client()
    assert len(client.subscribe("ticks", rewind=1000)) == 1001
    pause = client.session.pause(tight.now)
    assert pause > 4
    tight.now += 10
    client.unsubscribe("ticks")
    client.subscribe("ticks", rewind=1000)
    client.unsubscribe("ticks")  # refused requests may not keep a client from leaving
    assert client.session.pause(tight.now) == 0
    (refused,) = client.subscribe("ticks", rewind=1000)
    assert refused["event"] == "pusher:subscription_error"
    assert (refused["data"]["status"], refused["data"]["type"]) == (429, "LimitReached")
    assert "costs.connection_rate" in refused["data"]["error"]
    (error,) = client.send("pusher:ping")
    assert (error["event"], error["data"]["code"]) == ("pusher:error", 4301)
    client.send("pusher:ping")
    assert client.close_code == 4100
    assert tight.hub.snapshot()["limits"]["costs.connection_rate"] == {"slowed": 1, "refused": 4, "closed": 1}


def test_members_and_recipients_have_a_price(relay_of: Callable[..., Any]) -> None:
    relay = relay_of(costs=Costs(connection_rate=1, connection_burst=1e6))
    clients = [relay.client() for _ in range(50)]
    spent = []
    for n, client in enumerate(clients):
        before = client.session.spending._paid_until
        client.subscribe("presence-room", user=f"u{n}")
        spent.append(client.session.spending._paid_until - max(before, relay.now))
    assert spent[-1] - spent[0] == pytest.approx(49 * 0.2 + 49 * 0.05, rel=0.1)


# Connections that are not authorized ---------------------------------------------------------------------------------


def test_sockets_that_are_not_authorized_do_not_use_up_max_connections(
    relay_of: Callable[..., Any], app_of: Callable[..., Any]
) -> None:
    app = app_of(max_connections=2, authorization_timeout=5)
    relay = relay_of(app)
    strangers = [relay.client(app) for _ in range(20)]
    assert [stranger.close_code for stranger in strangers] == [None] * 20
    members = [relay.client(app) for _ in range(3)]
    for member in members:
        member.subscribe("private-room")
    assert [member.close_code for member in members] == [None, None, 4004]
    assert len(relay.hub._by_id["1"].channels["private-room"]) == 2
    members[0].gone()
    strangers[0].sign_in("ann")
    assert strangers[0].close_code is None
    assert relay.client(app).close_code == 4004


def test_the_oldest_socket_that_is_not_authorized_makes_room(
    relay_of: Callable[..., Any], app_of: Callable[..., Any]
) -> None:
    app = app_of(max_unauthorized=3, authorization_timeout=5)
    relay = relay_of(app)
    clients = [relay.client(app) for _ in range(3)]
    clients[0].subscribe("private-room")
    more = [relay.client(app), relay.client(app)]
    for client in clients:
        client.take()
    assert [client.close_code for client in (*clients, *more)] == [None, 4100, None, None, None]
    assert relay.hub.snapshot()["limits"] == {"max_unauthorized": {"closed": 1}}


def test_changed_costs_apply_to_open_connections(relay: Any) -> None:
    client = relay.client()
    client.send("pusher:ping")
    assert client.session.pause(relay.now) == 0
    relay.hub.budgets.replace(Costs(connection_rate=10, connection_burst=1, prices=RequestPrices(subscribe=100)))
    client.subscribe("room")
    assert client.session.pause(relay.now) > 9
    relay.hub.budgets.replace(Costs(connection_rate=0))
    client.subscribe("other")
    assert relay.client().session.pause(relay.now) == 0


def test_changed_budgets_of_an_address_apply_to_it(relay: Any) -> None:
    budgets = relay.hub.budgets
    spending = budgets.connect("1", "192.0.2.1", 0.0)
    budgets.replace(Costs(address_rate=100, address_burst=100))
    spending.spend(300, 0.0)
    assert spending.pause(0.0) == pytest.approx(2.001)  # the connection itself was paid at the old rate
