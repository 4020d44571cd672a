"""A budget of dials is the provider's: it holds over a restart of the relay."""

import time

import attrs
import pytest
import trio

from relay.adapter import Context, Rate
from relay.model.symbols import SymbolTable
from relay.provider.driver import ProviderSession, Restored
from relay.provider.http import HttpClient
from relay.trading.registry import CommandRegistry
from support.deadlines import WITHIN
from support.simulated_venue import Toy


class Counted(Toy):
    """Three dials an hour, to a port where nobody listens."""

    session = attrs.evolve(Toy.session, limits=(Rate(3, per=3600, of="dial"),))


def session_of(http: HttpClient, stored: list[list[int]]) -> ProviderSession:
    def keep(table: str, key: str, value: bytes | None) -> None:
        assert (table, key) == ("dials", "")
        stored.append([int(each) for each in (value or b"").split()])

    context = Context(provider="toy", credentials={"token": "t"}, symbols=SymbolTable({}))
    return ProviderSession(
        Counted, context, publish=lambda *event: None, commands=CommandRegistry(), http=http, keep=keep
    )


def left(session: ProviderSession) -> int:
    return session._machine.core.budget.remaining("dial", trio.current_time()) or 0


async def test_dials_of_the_process_before_count() -> None:
    stored: list[list[int]] = []
    async with HttpClient() as http:
        async with trio.open_nursery() as nursery:
            session = session_of(http, stored)
            nursery.start_soon(session.run)
            with trio.fail_after(WITHIN):
                while len(stored) < 3:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert [len(dials) for dials in stored] == [1, 2, 3]
        again = session_of(http, stored)
        again.restore(Restored(dials=stored[-1]))
        assert left(again) == 0
        assert again._machine.core.budget.at({"dial": 1}, trio.current_time()) > trio.current_time() + 3500


@pytest.mark.parametrize(("ago", "free"), [(3700, 3), (3500, 2), (-3700, 2)])
async def test_what_is_long_ago_counts_no_more_and_a_clock_set_back_makes_no_dial_newer(ago: float, free: int) -> None:
    async with HttpClient() as http:
        session = session_of(http, [])
        session.restore(Restored(dials=[time.time_ns() - int(ago * 1e9)]))
        assert left(session) == free
