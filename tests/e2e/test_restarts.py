"""The relay's process is killed again and again while it is fed: a subscriber that resumes sees one sequence, with told gaps.

Every fourth one is killed while it starts. `TICKRELAY_KILLS=300 pytest tests/e2e/test_restarts.py` kills more often than a
test run has time for, about once in three seconds. `TICKRELAY_SEED` chooses other moments.
"""

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.pusher.apps import App
from relay.testing.subscriber import Subscriber
from relay_helio.simulator import HelioSimulator
from support.deadlines import WITHIN
from support.forked import Forked, fork_server
from support.process import helio_configuration
from support.running import API_KEY, APP

KILLS = int(os.environ.get("TICKRELAY_KILLS", "2"))
SEED = int(os.environ.get("TICKRELAY_SEED", "7"))
#: Seconds in which a relay that starts is killed, about as many as it needs.
STARTS = 1.0
QUOTES, ACCOUNT, BOOK = "quote.helio.EUR-USD", "private-account.helio.main", "depth.helio.EUR-USD"


@attrs.define
class Sequence:
    """All that a subscriber was told on one channel, over all of its connections."""

    numbers: list[int] = attrs.Factory(list)
    gaps: list[tuple[int, int]] = attrs.Factory(list)
    replies: Counter[str] = attrs.Factory(Counter)
    fills: Counter[str] = attrs.Factory(Counter)
    orders: dict[str, tuple[str, str]] = attrs.Factory(dict)
    faults: list[str] = attrs.Factory(list)

    def take(self, event: Mapping[str, Any]) -> None:
        number, last = event["seq"], self.numbers[-1] if self.numbers else None
        if event["type"] == "gap" and event["reason"] == "restart" and "to" in event:
            self.gaps.append((event["from"], event["to"]))
        if last is not None and event["type"] == "depth" and event["depth"]["snapshot"] and number == last:
            return  # the book as it is now
        if last is not None and number <= last:
            self.faults.append(f"{number} after {last}")
        if last is not None and number > last + 1:
            told = event["type"] == "gap" and event.get("from", 0) <= last + 1 and event.get("to") == number - 1
            if not told:
                self.faults.append(f"{number} after {last} without a gap: {event}")
        self.numbers.append(number)
        if event["type"] == "reply":
            self.replies[event["command_id"]] += 1
        if event["type"] == "trade":
            self.fills[event["trade"]["id"]] += 1
        if event["type"] == "order":
            order = event["order"]
            self.orders[order["id"]] = order["status"], order["filled_quantity"]


# httpx leaves a socket, or what it was to send, where the relay dies while it connects.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(2 * WITHIN + 30 * KILLS)
async def test_a_subscriber_that_resumes_over_kills_sees_one_sequence_with_told_gaps(tmp_path: Path) -> None:
    simulator = HelioSimulator(seed=1, interval=0.02)
    chance = random.Random(SEED)
    heard = {QUOTES: Sequence(), ACCOUNT: Sequence(), BOOK: Sequence()}
    port, sent = 0, []
    events = 0

    def hear(channel: str, event: Mapping[str, Any]) -> None:
        nonlocal events
        events += 1
        heard[channel].take(event)

    app = App(id=APP["id"], key=APP["key"], secrets=(APP["secret"],), name="main")
    subscriber = Subscriber(lambda: port, app, heard, heard=hear)
    configuration = tmp_path / "tickrelay.toml"
    with fork_server() as relays:
        async with simulator.serve() as broker, trio.open_nursery() as nursery:
            pinned = f"pinned = {json.dumps(list(heard))}"
            text = helio_configuration(
                broker, of_app='accounts = ["*"]', of_provider=pinned, rest='[log]\nformat = "json"'
            )
            configuration.write_text(text.replace("{port}", "0"))
            for kill in range(KILLS + 1):
                process = relays.start(tmp_path / f"log-{kill}", "serve", "-c", str(configuration))
                if kill % 4 == 3 and kill < KILLS:
                    await trio.sleep(chance.uniform(0, STARTS))
                    await end(process)
                    continue
                port = await process.listening()
                if kill == 0:
                    nursery.start_soon(subscriber.run)
                    await subscriber.until(lambda: heard[QUOTES].numbers != [], WITHIN)
                for id in sent[-1:]:  # the one before the crash: whatever became of it, it is not sent again
                    await post(port, id)
                if kill == KILLS:
                    # A gap that a process did not live to log is covered by that of the next one.
                    await subscriber.until(lambda: all(sequence.gaps for sequence in heard.values()), WITHIN)
                    await subscriber.until(lambda: all(id in heard[ACCOUNT].replies for id in sent), WITHIN)
                    await subscriber.until(lambda: orders(simulator) == heard[ACCOUNT].orders, WITHIN)
                    await end(process)
                    break
                enough = events + chance.randrange(5, 300)
                await subscriber.until(lambda enough=enough: events >= enough, WITHIN)  # type: ignore[misc]
                sent.append(f"c{kill}")
                enough = events + chance.randrange(0, 12)
                async with trio.open_nursery() as posting:
                    posting.start_soon(post, port, sent[-1])
                    await subscriber.until(lambda enough=enough: events >= enough, WITHIN)  # type: ignore[misc]
                    await end(process)
            nursery.cancel_scope.cancel()
    faults = {channel: sequence.faults for channel, sequence in heard.items() if sequence.faults}
    assert not faults
    assert not subscriber.notes.keys() & {"epoch_changed", "position_expired", "position_ahead"}, subscriber.notes
    assert heard[ACCOUNT].replies == Counter(dict.fromkeys(sent, 1))
    assert set(heard[ACCOUNT].fills.values()) <= {1}
    assert heard[ACCOUNT].fills.keys() <= {fill.id for fill in simulator.account.fills}
    placed = Counter(order.ticket.client_order_id for order in simulator.account.orders.values())
    assert set(placed.values()) <= {1}, "no order is sent again"


async def end(process: Forked) -> None:
    """Kill a relay, which must not have ended by itself."""
    assert not process.ended, process.log.read_text()
    process.send(signal.SIGKILL)
    await process.wait()
    process.close()


async def post(port: int, id: str) -> None:
    """Send an order; the relay may die before it answers."""
    order = {"provider": "helio", "command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET",
             "quantity": "10000", "id": id, "client_order_id": f"mine-{id}"}  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN) as http:
        try:
            while True:
                answer = await http.post(
                    "/api/v2/commands",
                    json=order,
                    headers={"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": id},
                )
                if answer.status_code != 503:
                    return
                await trio.sleep(0.05)
        except httpx.HTTPError:
            return


def orders(simulator: HelioSimulator) -> dict[str, tuple[str, str]]:
    """Return each order's status and filled quantity at the broker. Helio's lists have no fills: an absence is told by orders."""
    size = simulator.market.instrument("EURUSD").size_text
    return {id: (order.status.value, size(order.filled)) for id, order in simulator.account.orders.items()}
