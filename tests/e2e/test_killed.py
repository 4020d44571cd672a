"""The relay's process is killed, and started again: an order stays one order, and a webhook that waits is sent."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.pusher.apps import App
from relay.pusher.signatures import verify_webhook
from relay.testing.simulator import Mute
from relay.testing.subscriber import Subscriber
from relay_helio.simulator import HelioSimulator
from support.app_server import app_server
from support.deadlines import WITHIN
from support.process import helio_configuration, serving
from support.running import API_KEY, APP

ORDER = {"provider": "helio", "command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "LIMIT",
         "limit_price": "1.05", "quantity": "10000", "id": "c1", "client_order_id": "mine-1"}  # fmt: skip


class Running:
    """A relay as a process, and a client of its HTTP interface."""

    def __init__(self, process: trio.Process, http: httpx.AsyncClient) -> None:
        self.process, self.http = process, http

    async def post(self, key: str | None = None, **members: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        wire = {name: value for name, value in {**ORDER, **members}.items() if value is not None}
        return await self.http.post("/api/v2/commands", json=wire, headers=headers)

    async def connected(self) -> None:
        with trio.fail_after(WITHIN):
            while (await self.status())["sessions"][0]["state"] != "CONNECTED":
                await trio.sleep(0.02)

    async def status(self) -> Any:
        return (await self.http.get("/api/v2/status")).json()


@asynccontextmanager
async def relay(directory: Path, broker: Any, store: str = "") -> AsyncIterator[Running]:
    async with serving(directory, helio_configuration(broker, store)) as (process, port):
        bearer = {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=WITHIN) as http:
            yield Running(process, http)


NAMES: list[tuple[str | None, dict[str, Any]]] = [("k", {"id": None}), (None, {}), (None, {"id": "another"})]
"""The same order under its idempotency key, its id, and its client_order_id alone."""


async def kill_during_an_order(directory: Path, broker: Any, simulator: HelioSimulator, **members: Any) -> None:
    """Kill the relay when the broker has the order and before it answers."""
    async with relay(directory, broker) as running, trio.open_nursery() as nursery:
        await running.connected()
        simulator.inject(Mute())

        async def post() -> None:
            with pytest.raises(httpx.HTTPError):
                await running.post("k", within=30, **members)

        nursery.start_soon(post)
        with trio.fail_after(WITHIN):
            while not simulator.account.orders:
                await trio.sleep(0.01)
        running.process.kill()
        await running.process.wait()


async def test_an_order_is_one_order_over_kill_9_and_restart(tmp_path: Path) -> None:
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as broker:
        await kill_during_an_order(tmp_path, broker, simulator)
        async with relay(tmp_path, broker) as running:
            for key, names in NAMES:  # whether the session is up yet or not
                first = await running.post(key, **names)
                assert first.headers["idempotent-replayed"] == "true"
                assert first.json()["command_id"] == "c1"
                assert first.json().get("reconciled") or first.json()["error"]["code"] == "restarted"
            # The account's stream resolves it, although nobody has subscribed to the account.
            with trio.fail_after(WITHIN):
                while (again := await running.post("k")).status_code == 202:
                    await trio.sleep(0.05)
            (placed,) = simulator.account.orders.values()
            reply = again.json()
            assert (again.status_code, reply["outcome"], reply["reconciled"]) == (200, "accepted", True)
            assert reply["result"]["order_id"] == str(placed.id)
            assert (await running.post("k", quantity="20000")).status_code == 409
            assert (await running.post("new", id="c2", client_order_id="mine-2")).status_code == 200
        async with relay(tmp_path, broker) as running:
            for key, names in NAMES:
                last = await running.post(key, **names)
                assert (last.status_code, last.content) == (200, again.content)
        assert len(simulator.account.orders) == 2


async def test_an_order_without_a_name_is_found_by_the_one_that_was_made_for_it(tmp_path: Path) -> None:
    """Helio's orders always have a name, by which alone the account's stream tells whose they are."""
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as broker:
        await kill_during_an_order(tmp_path, broker, simulator, client_order_id=None)
        (placed,) = simulator.account.orders.values()
        async with relay(tmp_path, broker) as running:
            with trio.fail_after(WITHIN):
                while (again := await running.post("k", id=None, client_order_id=None)).status_code == 202:
                    await trio.sleep(0.05)
            reply = again.json()
            assert (again.status_code, reply["command_id"], reply["outcome"]) == (200, "c1", "accepted")
            assert reply["result"]["order_id"] == str(placed.id)
        assert len(simulator.account.orders) == 1


async def test_without_its_store_a_relay_goes_on_but_takes_no_commands_and_says_so(tmp_path: Path) -> None:
    simulator = HelioSimulator(seed=1)
    store = '[store]\nurl = "sqlite:///there/s.sqlite3"\n'
    async with simulator.serve() as broker, relay(tmp_path, broker, store) as running:
        await running.connected()
        refused = await running.post("k")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "STORE_UNAVAILABLE")
        assert refused.headers["retry-after"] == "5"
        listed = await running.post(command="list_orders", **dict.fromkeys(ORDER.keys() - {"provider", "command"}))
        assert listed.status_code == 200
        ready = await running.http.get("/readyz")
        assert (ready.status_code, ready.json()["store"]) == (503, "unavailable")
        status = await running.status()
        assert (status["store"]["available"], status["ready"]) == (False, False)
        assert status["store"]["reason"].endswith("No such file or directory")
        metrics = (await running.http.get("/metrics")).text
        assert "tickrelay_store_available 0.0" in metrics
        assert 'tickrelay_commands_total{what="unstorable"} 1.0' in metrics
        (tmp_path / "there").mkdir()
        with trio.fail_after(WITHIN):
            while (await running.http.get("/readyz")).status_code != 200:
                await trio.sleep(0.02)
        assert (await running.post("k")).status_code == 200
        assert len(simulator.account.orders) == 1


async def test_a_webhook_that_waits_is_sent_after_kill_9(tmp_path: Path) -> None:
    app = App(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))
    async with app_server() as server:
        server.webhook_status = 503
        configuration = f"""
allow_inline_secrets = true
server.listen = "127.0.0.1:{{port}}"
apps.main = {{ id = "{app.id}", key = "{app.key}", secret = "{app.secrets[0]}" }}
plugins.webhooks.endpoints.all = {{ app = "{app.id}", url = "http://127.0.0.1:{server.port}/webhooks" }}
"""

        async def posted(times: int) -> None:
            with trio.fail_after(WITHIN):
                while len(server.webhooks) < times:
                    await server.news.wait()

        async with serving(tmp_path, configuration) as (process, port), trio.open_nursery() as nursery:
            nursery.start_soon(Subscriber(lambda: port, app, ["room"]).run)
            await posted(1)
            process.kill()
            await process.wait()
            nursery.cancel_scope.cancel()
        server.webhook_status = 200
        before = len(server.webhooks)
        async with serving(tmp_path, configuration):
            await posted(before + 1)
    (first, body), (again, same) = server.webhooks[0], server.webhooks[before]
    assert [event["name"] for event in json.loads(body)["events"]] == ["channel_occupied"]
    assert same == body
    assert again["x-webhook-id"] == first["x-webhook-id"]
    assert verify_webhook(app, again["x-pusher-key"], again["x-pusher-signature"], same.encode())
