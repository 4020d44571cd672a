"""CommandService where the session is not what it should be: silent, full, or gone."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.auth import ApiKey, KeyRing, hash_key
from relay.model.commands import Command, PlaceOrder
from relay.model.events import Event, Reply, Stamp
from relay.provider.driver import CommandRefused
from relay.server.api.answers import Refusal
from relay.trading.registry import GRACE, CommandRegistry
from relay.trading.service import CommandService

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
    commands = (PlaceOrder,)

    def __init__(self) -> None:
        self.taken: list[tuple[Command, float | None]] = []
        self.full = False

    def trading_session(self, account: str | None) -> "Silent":
        assert account == "main"
        return self

    def command(self, command: Command, within: float | None = None) -> None:
        if self.full:
            raise CommandRefused("1000 commands are waiting for their replies")
        self.taken.append((command, within))

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
        self.provider = Silent()
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
        told = self.registry.seen(event, stamp)
        assert isinstance(told, Reply)
        self.published.append((told, stamp))
        self.registry.published(told, stamp, "e1", trio.current_time())

    def submit(self, **members: Any) -> Any:
        return self.command_service.submit(self.command_service.asked(KEY, {**ORDER, **members}))


async def test_a_session_that_never_answers_is_unknown_in_time(autojump_clock: MockClock) -> None:
    rig = Rig()
    ticket, _ = rig.submit(within=5)
    began = trio.current_time()
    await rig.command_service.answered(ticket)
    assert trio.current_time() == pytest.approx(began + 5 + GRACE)
    ((reply, stamp),) = rig.published
    assert (reply.id, reply.outcome, stamp.provider, stamp.account) == ("c1", "unknown", "one", "main")
    assert ticket.outcome == "unknown"
    rig.command_service.end_overdue()
    assert len(rig.published) == 1


async def test_a_session_with_too_much_to_do_is_429_and_nothing_was_begun() -> None:
    rig = Rig()
    rig.provider.full = True
    with pytest.raises(Refusal) as raised:
        rig.submit()
    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "1"})
    rig.provider.full = False
    assert rig.submit(quantity="2")[1]  # the name is free


async def test_a_desk_with_too_much_on_it_is_429() -> None:
    rig = Rig(CommandRegistry(most=1))
    rig.submit()
    with pytest.raises(Refusal) as raised:
        rig.submit(id="c2")
    assert raised.value.status == 429
    assert len(rig.provider.taken) == 1


async def test_what_is_left_out_has_its_default() -> None:
    rig = Rig()
    ticket, _ = rig.submit(id=None)
    ((command, within),) = rig.provider.taken
    assert (command.id, command.account, within) == ("made-up", None, 10.0)
    assert ticket.scope.account == "main"
