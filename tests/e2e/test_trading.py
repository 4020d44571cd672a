"""An order to the simulated Helio, its consequences on the account's channel, and its reply, over real sockets."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from relay.app import Relay
from relay.demo import provider_table
from relay.model.enums import Outcome
from relay.model.events import Reply, Stamp
from relay.testing.simulator import Drop, Mute
from relay_helio.simulator import SIMULATED, HelioSimulator
from support.deadlines import WITHIN
from support.running import API_KEY, APP, port_of, running_relay

BEARER = {"Authorization": f"Bearer {API_KEY}"}
CHANNEL = "private-account.helio.main"


class Trader:
    """An application: one subscriber of the account's channel, and the HTTP interface."""

    def __init__(
        self, simulator: HelioSimulator, relay: Relay, socket: WebSocketConnection, http: httpx.AsyncClient
    ) -> None:
        self.simulator, self.relay, self.socket, self.http = simulator, relay, socket, http
        self.heard: list[tuple[str, Any]] = []

    async def until(self, *events: str) -> list[Any]:
        """Hear until each of these events has come; return the data of those."""
        found: dict[str, Any] = {}
        with trio.fail_after(WITHIN):
            while len(found) < len(events):
                message = json.loads(await self.socket.get_message())
                data = json.loads(message["data"])
                name = message["event"]
                happened = data.get("event") or data.get("outcome") or name
                self.heard.append((name, data))
                for wanted in events:
                    if wanted in (name, happened, f"{name} {happened}") and wanted not in found:
                        found[wanted] = data
        return [found[event] for event in events]

    async def join(self) -> None:
        (hello,) = await self.until("pusher:connection_established")
        form = {"socket_id": hello["socket_id"], "channel_name": CHANNEL}
        auth = (await self.http.post("/api/v2/ws/auth", data=form)).json()
        await self.socket.send_message(json.dumps({"event": "pusher:subscribe", "data": {"channel": CHANNEL, **auth}}))
        await self.until("pusher_internal:subscription_succeeded")

    async def send(self, **command: Any) -> None:
        """By client event."""
        await self.socket.send_message(json.dumps({"event": "client-command", "channel": CHANNEL, "data": command}))

    async def post(self, **command: Any) -> Any:
        """By HTTP."""
        return await self.http.post("/api/v2/commands", json={"provider": "helio", **command})


@pytest.fixture
async def trader() -> AsyncIterator[Trader]:
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as address:
        provider = {**provider_table(SIMULATED, address.ws, address.http), "pinned": ["account main"]}
        keys = {"desk": {"key": API_KEY, "trade": ["helio.main"]}}
        apps = {"main": {**APP, "client_events": True}}
        async with running_relay({"helio": provider}, api_keys=keys, apps=apps) as relay:
            with trio.fail_after(WITHIN):
                while relay.providers.statuses()[0]["state"] != "up":
                    await trio.sleep(0.01)
            base = f"127.0.0.1:{port_of(relay)}"
            async with (
                httpx.AsyncClient(base_url=f"http://{base}", headers=BEARER, timeout=WITHIN) as http,
                open_websocket_url(f"ws://{base}/app/{APP['key']}?protocol=7") as socket,
            ):
                trader = Trader(simulator, relay, socket, http)
                await trader.join()
                yield trader


async def test_an_order_by_http_has_consequences_on_the_channel(trader: Trader) -> None:
    order = {"command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET", "quantity": 10000}
    answer = await trader.post(**order, id="c1", client_order_id="mine-1")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "accepted")
    placed, fill, position, reply = await trader.until("order", "trade", "position", "reply")
    assert placed["order"]["client_order_id"] == "mine-1"
    assert (fill["trade"]["symbol"], fill["trade"]["side"], fill["trade"]["quantity"]) == ("EUR/USD", "BUY", "10000")
    assert fill["trade"]["order_id"] == placed["order"]["id"] == reply["result"]["order_id"]
    assert (position["event"], position["position"]["quantity"]) == ("POSITION_OPENED", "10000")
    assert {name: value for name, value in reply.items() if name != "seq"} == answer.json()
    closed = await trader.post(command="close_position", position_id=position["position"]["id"])
    assert closed.json()["outcome"] == "accepted"
    await trader.until("POSITION_CLOSED")
    again = await trader.post(**order, client_order_id="mine-1")
    assert (again.headers["idempotent-replayed"], again.content) == ("true", answer.content)
    assert sum(name == "trade" and data["trade"]["side"] == "BUY" for name, data in trader.heard) == 1


async def test_a_resting_order_is_amended_and_cancelled_by_client_events(trader: Trader) -> None:
    await trader.send(command="place_order", id="c1", symbol="EUR/USD", side="BUY", order_type="LIMIT", quantity="20000",
                      limit_price=1.05, time_in_force="GTC")  # fmt: skip
    placed, reply = await trader.until("order", "reply")
    assert (reply["command_id"], reply["outcome"]) == ("c1", "accepted")
    assert placed["order"]["limit_price"].rstrip("0") == "1.05"
    id = placed["order"]["id"]
    await trader.send(command="amend_order", id="c2", order_id=id, limit_price="1.06")
    amended, reply = await trader.until("ORDER_MODIFIED", "reply")
    assert (reply["command_id"], amended["order"]["limit_price"].rstrip("0")) == ("c2", "1.06")
    await trader.send(command="cancel_order", id="c3", order_id=id)
    _, reply = await trader.until("ORDER_CANCELLED", "reply")
    assert (reply["command_id"], reply["outcome"]) == ("c3", "accepted")


async def test_an_order_whose_answer_was_lost_is_found_and_never_placed_twice(trader: Trader) -> None:
    order = {"command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "LIMIT", "limit_price": "1.05",
             "quantity": "10000", "client_order_id": "mine-1"}  # fmt: skip
    trader.simulator.inject(Mute())
    answer = await trader.post(**order, within=1)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "unknown")
    trader.simulator.inject(Drop())
    (found,) = await trader.until("order")
    assert (found["reconciled"], found["order"]["client_order_id"]) == (True, "mine-1")
    again = await trader.post(**order, within=1)
    reply = again.json()
    assert (again.status_code, reply["outcome"], reply["reconciled"]) == (200, "accepted", True)
    assert reply["result"]["order_id"] == found["order"]["id"]
    assert len(trader.simulator.account.orders) == 1


async def test_what_the_simulator_refuses_without_naming_it_is_unknown(trader: Trader) -> None:
    answer = await trader.post(command="cancel_order", order_id="nothing", within=0.3)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "unknown")


async def test_a_reply_that_a_plugin_publishes_answers_the_command(trader: Trader) -> None:
    trader.simulator.inject(Mute())
    stamp = Stamp(provider="helio", account="main", received_at="2025-01-15T10:30:00.000000Z")

    async def reply_like_a_plugin() -> None:
        while not trader.relay._registry.open:
            await trio.sleep(0.01)
        trader.relay.publish(Reply(id="c1", ok=True, outcome=Outcome.ACCEPTED, result={"order_id": "9"}), stamp)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply_like_a_plugin)
        answer = await trader.post(command="cancel_order", id="c1", order_id="9", within=30)
    assert (answer.status_code, answer.json()["result"]) == (200, {"order_id": "9"})
    (published,) = await trader.until("reply")
    assert {name: value for name, value in published.items() if name != "seq"} == answer.json()


async def test_a_command_without_an_answer_is_unknown_before_the_relay_stops(trader: Trader) -> None:
    trader.simulator.inject(Mute())
    await trader.send(
        command="place_order", id="c1", symbol="EUR/USD", side="BUY", order_type="MARKET", quantity="10000"
    )
    while not trader.relay.hub.snapshot()["published"].get("reply") and not trader.relay._registry.open:
        await trio.sleep(0.01)
    trader.relay.stop()
    (reply,) = await trader.until("reply")
    assert (reply["command_id"], reply["outcome"], reply["error"]["code"]) == ("c1", "unknown", "shutting_down")
    with pytest.raises(ConnectionClosed) as closed:
        await trader.until("a message that does not come")
    assert closed.value.reason.code == 4200
    await trader.socket._stream.aclose()  # trio-websocket does not, where the server closes first
