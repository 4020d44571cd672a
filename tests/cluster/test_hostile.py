"""Strangers and keys at one relay can do no more where another relay holds the session."""

from pathlib import Path

import attrs
import httpx
import pytest
import trio

from relay.testing.simulator import Mute
from relay.trading.registry import CommandLimits
from support.cluster import Node
from support.deadlines import WITHIN
from support.raw import raw
from tests.cluster.test_trading import ORDER, brokered, post


async def owner_and_other(together, names: str = "ab") -> tuple[Node, Node]:
    nodes = [await together.node(name) for name in names]
    owner = await together.owner("helio")
    (other,) = [node for node in nodes if node is not owner]
    return owner, other


def wanted(node: Node) -> list:
    """Return the topics that the session with the broker is asked for."""
    return list(node.relay.providers.find("helio").sessions["main"].first._machine.core.table)


async def test_made_up_names_are_asked_for_in_the_name_of_their_subscribers_and_behind_the_operators(
    tmp_path: Path,
) -> None:
    async with brokered(tmp_path) as (_, together):
        owner, other = await owner_and_other(together)
        async with raw(other.port) as stranger, raw(other.port) as second, raw(owner.port) as near:
            names = [client.socket_id for client in (stranger, second, near)]
            for number in range(300):
                await stranger.say("pusher:subscribe", {"channel": f"quote.helio.MADEUP{number}"})
            await second.say("pusher:subscribe", {"channel": "quote.helio.MADEUP7"})
            await near.say("pusher:subscribe", {"channel": "quote.helio.MADEUP300"})
            with trio.fail_after(WITHIN):
                while len(found := {each.topic.symbol: each for each in wanted(owner) if each.topic.symbol}) < 301:
                    await trio.sleep(0.01)
                while not {names[0], names[1]} <= {by.connection for by in found["MADEUP7"].askers}:
                    await trio.sleep(0.01)
            assert [each.topic for each in found.values() if each.pinned] == []
            assert {by.connection for by in found["MADEUP299"].askers} == {names[0]}
            assert {by.connection for by in found["MADEUP300"].askers} == {names[2]}
            assert (await post(other, ORDER, id="c1")).status_code == 200


async def test_the_owner_carries_out_no_command_of_a_key_that_it_has_lost(tmp_path: Path) -> None:
    """The relay that took it has not read the new configuration yet."""
    async with brokered(tmp_path) as (simulator, together):
        owner, other = await owner_and_other(together)
        settings = owner.relay._settings
        (key,) = settings.api_keys
        owner.relay.reload(attrs.evolve(settings, api_keys=(attrs.evolve(key, trade=("helio.else",)),)))
        answer = await post(other, ORDER, id="c1")
        assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"field": "account"}), answer.text
        owner.relay.reload(attrs.evolve(settings, api_keys=()))
        answer = await post(other, ORDER, id="c2")
        assert answer.status_code == 403
        assert "knows no API key main" in answer.text
        assert not simulator.account.orders


@pytest.mark.parametrize(
    ("limits", "note", "many"),
    [(CommandLimits(open_per_key=2), 0, 2), (CommandLimits(bytes_per_key=256 * 1024), 60_000, 4)],
    ids=["open_per_key", "bytes_per_key"],
)
async def test_commands_that_wait_for_another_relay_are_bounded_for_each_key(
    tmp_path: Path, limits: CommandLimits, note: int, many: int, request: pytest.FixtureRequest
) -> None:
    order = {**ORDER, "extra": {"note": "x" * note}} if note else ORDER
    async with brokered(tmp_path) as (simulator, together):
        _, other = await owner_and_other(together)
        other.relay._registry.limits = limits
        simulator.inject(Mute())
        answers: list[httpx.Response] = []
        async with trio.open_nursery() as nursery:
            for number in range(many):

                async def ask(id: str) -> None:
                    answers.append(await post(other, order, id=id, within=5))

                nursery.start_soon(ask, f"c{number}")
            forwarding = other.relay._cluster.forwarding
            with trio.fail_after(WITHIN):
                while forwarding.waiting("main")[0] < many:
                    await trio.sleep(0.01)
            assert forwarding.waiting("main")[1] <= limits.bytes_per_key
            full = await post(other, order, id="one-more")
            assert (full.status_code, full.json()["error"]["code"]) == (429, "FULL"), full.text
            assert f"limit commands.{request.node.callspec.id})" in full.text
        assert len(answers) == many
        assert forwarding.waiting("main") == (0, 0), "they left with their answers"
