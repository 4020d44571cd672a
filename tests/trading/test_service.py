"""CommandService where the session is not what it should be: silent, full, or gone."""

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.auth import ApiKey, KeyRing, hash_key
from relay.model.commands import Command, PlaceOrder
from relay.model.enums import Outcome
from relay.model.events import Event, Reply, Stamp
from relay.trading.pending import AccountRef, PendingCommand
from relay.trading.registry import GRACE, CommandLimits, CommandRegistry
from relay.trading.service import CommandRefused, CommandService, RefusalReason

KEY = ApiKey(name="registry", digest=hash_key("k"), trade=("one.main",))
ORDER = {
    "provider": "one",
    "command": "place_order",
    "id": "c1",
    "symbol": "S",
    "side": "BUY",
    "order_type": "MARKET",
    "quantity": "1",
}


class Silent:
    """A provider of one account whose session is never heard of again."""

    name = "one"
    accounts = ("main",)
    names_accounts = False
    commands = (PlaceOrder,)

    def __init__(self, registry: CommandRegistry) -> None:
        self.registry = registry
        self.taken: list[tuple[Command, float]] = []

    def trading_session(self, account: str | None) -> "Silent":
        assert account == "main"
        return self

    def send(
        self, command: Command, within: float = 0, idempotency_key: str | None = None, api_key: str = ""
    ) -> tuple[PendingCommand, bool]:
        now = trio.current_time()
        pending, new = self.registry.take(
            AccountRef("one", "main"), command, idempotency_key, now + within, now, api_key
        )
        if new:
            self.taken.append((command, within))
        return pending, new

    def dry_run(self, command: Command) -> list[dict[str, Any]]:
        return []


class Only(dict[str, Silent]):
    def find(self, name: str) -> Silent | None:
        return self.get(name)

    def __iter__(self) -> Any:
        return iter(self.values())


class Rig:
    def __init__(self, registry: CommandRegistry | None = None) -> None:
        self.registry = CommandRegistry() if registry is None else registry
        self.provider = Silent(self.registry)
        self.published: list[tuple[Reply, Stamp]] = []
        self.command_service = CommandService(
            registry=self.registry,
            providers=Only(one=self.provider),
            keys=KeyRing([KEY]),
            publish=self.publish,
            ids=lambda: "made-up",
            unix_ns=lambda: 1_700_000_000_000_000_000,
        )

    def publish(self, event: Event, stamp: Stamp) -> None:
        checked = self.registry.check(event, stamp)
        assert isinstance(checked, Reply)
        self.published.append((checked, stamp))
        self.registry.settle(checked, stamp, trio.current_time(), "e1")

    stamp = Stamp(provider="one", account="main", received_at="2025-01-15T10:30:00Z")

    def submit(self, **members: Any) -> Any:
        return self.command_service.submit(self.command_service.validate(KEY, {**ORDER, **members}))


async def test_a_session_that_never_answers_is_unknown_in_time(autojump_clock: MockClock) -> None:
    rig = Rig()
    pending, _ = rig.submit(within=5)
    began = trio.current_time()
    await rig.command_service.wait(pending)
    assert trio.current_time() == pytest.approx(began + 5 + GRACE)
    ((reply, stamp),) = rig.published
    assert (reply.id, reply.outcome, stamp.provider, stamp.account) == ("c1", "unknown", "one", "main")
    assert pending.outcome == "unknown"
    rig.command_service.end_overdue()
    assert len(rig.published) == 1


async def test_too_many_open_commands_are_refused() -> None:
    rig = Rig(CommandRegistry(CommandLimits(open_per_session=1)))
    rig.submit()
    with pytest.raises(CommandRefused) as raised:
        rig.submit(id="c2")
    assert raised.value.refusal is RefusalReason.FULL
    assert "limit commands.open_per_session" in raised.value.message
    assert len(rig.provider.taken) == 1


async def test_what_is_left_out_has_its_default() -> None:
    rig = Rig()
    pending, _ = rig.submit(id=None)
    ((command, within),) = rig.provider.taken
    assert (command.id, command.account, within) == ("made-up", None, 10.0)
    assert pending.scope.account == "main"


async def test_each_key_has_a_rate_of_its_own(autojump_clock: MockClock) -> None:
    rig = Rig(CommandRegistry(CommandLimits(rate=2, burst=3)))
    other = ApiKey(name="other", digest=hash_key("o"), trade=("one.main",))
    wrong = {**ORDER, "quantity": "-1"}
    for _ in range(3):
        with pytest.raises(CommandRefused, match="quantity"):
            rig.command_service.validate(KEY, wrong)  # whatever it is, it is one of the rate
    with pytest.raises(CommandRefused) as raised:
        rig.submit(id="c3")
    assert raised.value.refusal is RefusalReason.RATE_LIMITED
    assert raised.value.retry_after == pytest.approx(0.5)
    assert "limit commands.rate" in raised.value.message
    assert (len(rig.registry), rig.registry.notes["rate_limited"]) == (0, 1)
    rig.command_service.validate(other, ORDER)
    await trio.sleep(0.5)
    rig.submit(id="c3")
    with pytest.raises(CommandRefused, match="more than 2 commands a second"):
        rig.submit(id="c4")


async def test_who_waits_gets_all_of_a_long_reply_and_who_repeats_what_is_remembered() -> None:
    rig = Rig()
    answers: list[Any] = []
    pending, _ = rig.submit()

    async def waiting() -> None:
        answers.append(await rig.command_service.wait(pending))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting)
        await trio.testing.wait_all_tasks_blocked()
        rig.publish(pending.replied({"order_id": "o1", "raw": "x" * 100_000}, None), rig.stamp)
    again, new = rig.submit()
    answers.append(await rig.command_service.wait(again))
    (outcome, whole), (_, kept) = answers
    assert (outcome, new, len(whole) > 100_000, len(kept) < 1000) == (Outcome.ACCEPTED, False, True, True)
    assert b"result_not_kept" in kept
