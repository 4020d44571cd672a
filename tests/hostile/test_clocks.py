"""The machine's clock is set, or wrong: what happens on an account while the line is down is told all the same."""

import time
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio

from relay.adapter import Adapter, Backoff
from relay.demo import provider_table
from relay.model.enums import Side
from relay.testing.account import Ticket
from relay.testing.faults import FaultProxy
from relay.testing.subscriber import Subscriber
from relay_helio.simulator import SIMULATED, HelioSimulator
from support.deadlines import WITHIN
from support.http_api import OURS
from support.running import API_KEY, APP, port_of, running_relay

ACCOUNT = "private-account.helio.main"
HOUR = 3600 * 1_000_000_000


def eager(adapter: type[Adapter]) -> type[Adapter]:
    """The adapter that dials again soon."""
    return type(
        adapter.__name__, (adapter,), {"session": attrs.evolve(adapter.session, backoff=Backoff(first=0.01, cap=0.05))}
    )


@pytest.mark.parametrize("clock_set", [-HOUR, HOUR], ids=["set back", "set forward"])
async def test_an_order_is_told_though_the_clock_is_set_while_the_line_is_down(
    monkeypatch: pytest.MonkeyPatch, clock_set: int
) -> None:
    right, filled = time.time_ns, set[str]()
    simulator = HelioSimulator(seed=1, clock=right, interval=0)

    def hear(channel: str, event: Mapping[str, Any]) -> None:
        if event["type"] == "order" and event["order"]["status"] == "FILLED":
            filled.add(event["order"]["id"])

    async with simulator.serve() as address, trio.open_nursery() as nursery:
        line = FaultProxy(address.port)
        await nursery.start(line.run)
        there = [url.replace(str(address.port), str(line.port)) for url in (address.ws, address.http)]
        provider = {**provider_table(SIMULATED, *there), "symbols": {"EURUSD": "EUR/USD"}}
        keys, apps = {"desk": {"key": API_KEY, "trade": ["helio.main"]}}, {"main": {**APP, "accounts": ["helio.main"]}}
        async with running_relay({"helio": provider}, api_keys=keys, apps=apps, adapt=eager) as relay:
            subscriber = Subscriber(lambda: port_of(relay), OURS, [ACCOUNT], heard=hear)
            nursery.start_soon(subscriber.run)

            async def until(state: str) -> None:
                with trio.fail_after(WITHIN):
                    while (status := relay.providers.statuses()[0])["state"] != state or (
                        state == "CONNECTED" and status["topics"]["confirmed"] < 1
                    ):
                        await trio.sleep(0.01)

            await until("CONNECTED")
            await subscriber.until(lambda: subscriber.views[ACCOUNT].begun > 0, WITHIN)
            line.down()
            await until("RECONNECTING")
            monkeypatch.setattr(time, "time_ns", lambda: right() + clock_set)
            simulator.trade(Ticket(symbol="EURUSD", side=Side.BUY, quantity=10_000))
            line.up()
            await subscriber.until(lambda: len(filled) == 1, WITHIN)
            assert subscriber.views[ACCOUNT].problems == []
            nursery.cancel_scope.cancel()
