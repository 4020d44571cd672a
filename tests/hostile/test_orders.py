"""A key that may trade elsewhere cannot make the relay forget, or send again, what another key ordered."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.auth import ApiKey, KeyRing, hash_key
from relay.model.commands import Command, PlaceOrder
from relay.model.events import Event, Reply, Stamp
from relay.trading.pending import AccountRef, PendingCommand
from relay.trading.registry import CommandRegistry
from relay.trading.service import CommandRefused, CommandService
from support.simulated_venue import trading

VICTIM = ApiKey(name="victim", digest=hash_key("v"), trade=("bank.main",))
ATTACKER = ApiKey(name="attacker", digest=hash_key("a"), trade=("toy.main",))
ORDER = {"command": "place_order", "symbol": "S", "side": "BUY", "order_type": "MARKET", "quantity": "1"}


class Broker:
    """A provider that answers each order at once: accepted by the bank, rejected by the other one."""

    accounts = ("main",)
    commands = (PlaceOrder,)

    def __init__(self, name: str, registry: CommandRegistry) -> None:
        self.name = name
        self._registry = registry
        self.placed: list[Command] = []

    def trading_session(self, account: str | None) -> "Broker":
        return self

    def send(self, command: Command, within: float = 0, *names: Any) -> tuple[PendingCommand, bool]:
        now = trio.current_time()
        pending, new = self._registry.take(
            AccountRef(self.name, "main"), command, names[0], now + within, now, *names[1:]
        )
        if new:
            self.placed.append(command)
            error = {"code": "margin", "message": "no"} if self.name == "toy" else None
            self.publish(pending.replied({"order_id": "o"}, error))
        return pending, new

    def publish(self, reply: Event) -> None:
        stamp = Stamp(provider=self.name, account="main", received_at="2025-01-15T10:30:00Z")
        checked = self._registry.check(reply, stamp)
        assert isinstance(checked, Reply)
        self._registry.settle(checked, stamp, trio.current_time())

    def dry_run(self, command: Command) -> list[dict[str, Any]]:
        return []


class Brokers(dict[str, Broker]):
    def find(self, name: str) -> Broker | None:
        return self.get(name)

    def __iter__(self) -> Any:
        return iter(self.values())


@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_a_flood_of_another_keys_commands_makes_no_order_go_twice(
    autojump_clock: MockClock, pause: float
) -> None:
    """Without a pause the rate stops the flood; at the rate, in the victim's hours, nothing of the victim's is forgotten."""
    registry = CommandRegistry()
    bank, toy = (Broker(name, registry) for name in ("bank", "toy"))
    service = CommandService(
        registry=registry,
        providers=Brokers(bank=bank, toy=toy),
        keys=KeyRing([VICTIM, ATTACKER]),
        publish=lambda event, stamp: None,
        ids=lambda: "unused",
    )

    def submit(key: ApiKey, provider: str, id: str) -> bool:
        wire = {**ORDER, "provider": provider, "id": id, "client_order_id": id}
        return service.submit(service.validate(key, wire))[1]

    assert submit(VICTIM, "bank", "mine")
    refused = 0
    for n in range(10_400):
        try:
            submit(ATTACKER, "toy", f"flood-{n}")
        except CommandRefused:
            refused += 1
        if pause:
            await trio.sleep(pause)
    assert not submit(VICTIM, "bank", "mine")
    assert len(bank.placed) == 1
    if not pause:
        assert refused > 10_000, "the rate of a key is not limited"


async def test_a_limit_is_told_by_name_before_anything_is_stored() -> None:
    async with trading(commands={"rate": 0.001, "burst": 2, "per_account": 1}) as desk:
        assert (await desk.post(client_order_id="a")).status_code == 200
        full = await desk.post(client_order_id="b")
        assert (full.status_code, full.json()["error"]["code"]) == (429, "FULL")
        assert "limit commands.per_account" in full.json()["error"]["message"]
        limited = await desk.post(client_order_id="a")
        assert (limited.status_code, limited.json()["error"]["code"]) == (429, "RATE_LIMITED")
        assert "limit commands.rate" in limited.json()["error"]["message"]
        assert int(limited.headers["retry-after"]) > 900
        again = await desk.post(by="all", client_order_id="a")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert len(desk.venue.placed) == 1
