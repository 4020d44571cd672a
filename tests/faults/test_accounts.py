"""What happened on an account while nobody listened: reconciled once, no fill twice, and what is held is the truth."""

import pytest

from relay.model.commands import PlaceOrder
from relay.model.enums import OrderType, Side
from relay.testing.faults import Cut, Reset
from relay.testing.trading import Ticket
from support.faulty import VENUES, rig

#: name -> (canonical symbol, quantity, far-away limit, whether its open orders and missed fills can be asked for)
TRADED = {"helio": ("EUR/USD", "10000", "0.50000", False), "tektii": ("AAPL", "10", "50.00", True)}


def market(id, name):
    symbol, quantity, *_ = TRADED[name]
    return PlaceOrder(id=id, symbol=symbol, side="BUY", order_type="MARKET", quantity=quantity)


@pytest.mark.parametrize("name", TRADED)
async def test_an_absence_is_reconciled(name):
    symbol, quantity, limit, has_lists = TRADED[name]
    async with rig(name, every=0.1) as r:
        account, view = r.simulator.account, r.subscriber.views[r.account]
        r.session.command(market("c1", name))
        r.session.command(
            PlaceOrder(id="c2", symbol=symbol, side="BUY", order_type="LIMIT", quantity=quantity, limit_price=limit)
        )
        await r.subscriber.until(lambda: len(view.fills) == 1 and view.open("position") and view.open("order"))

        since = len(r.heard)
        r.upstream.down()
        await r.state("RECONNECTING", since=since)
        now_ns = r.simulator.market.now_ns
        (resting,) = account.open_orders()
        (held,) = account.positions.values()
        account.cancel(resting.id, now_ns)
        account.close(held.id, now_ns)
        other = r.simulator.market.instruments[1]
        account.place(
            Ticket(
                symbol=other.symbol, side=Side.SELL, quantity=10**other.size_decimals * 10, order_type=OrderType.MARKET
            ),
            now_ns,
        )
        r.upstream.up()

        def truth():
            held = {position.id for position in account.positions.values()}
            orders = {order.id for order in account.open_orders()}
            fills = {fill.id for fill in account.fills}
            told = {
                event["order"]["id"]: event["order"]["status"] for event in r.on(r.account) if event["type"] == "order"
            }
            if view.open("position") != held or not set(view.fills) <= fills:
                return False
            status = {order.id: order.status for order in account.orders.values()}
            return not has_lists or (set(view.fills) == fills and view.open("order") == orders and told == status)

        await r.subscriber.until(truth)
        assert r.problems() == []
        found = [
            event
            for event in r.on(r.account, since=since)
            if event["type"] in ("trade", "position") and event.get("reconciled")
        ]
        assert found or not has_lists
        if has_lists:  # and once is enough: nothing changed, so a second absence finds nothing
            since = len(r.heard)
            r.upstream.inject(Cut())
            await r.state("CONNECTED", since=since)
            await r.flowing(since=len(r.heard))
            assert [event for event in r.on(r.account, since=since) if event["type"] in ("trade", "order")] == []


@pytest.mark.parametrize(
    "name", [name for name, venue in VENUES.items() if venue.simulated.account and name != "shuriken"]
)
async def test_no_fill_is_published_twice_however_often_the_line_breaks(name):
    symbol = {"helio": "EUR/USD", "tektii": "AAPL", "scaletrade": "EUR/USD", "crosstrade": "ES 09-26"}[name]
    quantity = {"helio": "10000", "tektii": "10", "scaletrade": "10", "crosstrade": "1"}[name]
    async with rig(name, every=0.05) as r:
        view = r.subscriber.views[r.account]
        for number in range(3):
            since = len(r.heard)
            r.session.command(
                PlaceOrder(id=f"c{number}", symbol=symbol, side="BUY", order_type="MARKET", quantity=quantity)
            )
            await r.subscriber.until(
                lambda since=since: any(event["type"] == "reply" for event in r.on(r.account, since=since))
            )
            (reply,) = [event for event in r.on(r.account, since=since) if event["type"] == "reply"]
            assert reply["outcome"] == "accepted", reply.get("error")
            r.upstream.inject(Reset())
            await r.state("CONNECTED", since=since)
            await r.flowing(since=len(r.heard))
        assert r.problems() == []
        assert len(view.fills) == len(set(view.fills))
        assert r.counters()["reconnects"] == 3


async def test_a_command_whose_line_breaks_before_the_answer_is_unknown_never_rejected():
    async with rig("helio", every=0.05) as r:
        since = len(r.heard)
        r.upstream.inject(Cut())  # not noticed yet: the command goes out on a line that is dead already
        r.session.command(market("c1", "helio"))
        await r.subscriber.until(lambda: any(event["type"] == "reply" for event in r.on(r.account, since=since)))
        (reply,) = [event for event in r.on(r.account, since=since) if event["type"] == "reply"]
        assert (reply["outcome"], reply["error"]["code"]) in [
            ("unknown", "disconnected"),
            ("rejected", "not_connected"),
            ("rejected", "disconnected_before_sent"),
        ]
