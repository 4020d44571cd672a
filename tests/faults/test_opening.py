"""Connections that do not come about: a handshake that takes for ever, one that is slow, a reset at every stage."""

import pytest
import trio

from relay.adapter import Context
from relay.net.dial import ProviderSession
from relay.net.http import HttpClient
from relay.net.line import Deadlines
from relay.testing.faults import Cut, FaultProxy, Reset, Stall, Throttle
from relay_synthetic.adapter import Synthetic
from relay_synthetic.simulator import SyntheticSimulator
from support.faulty import adapted

QUICK = Deadlines(tls=0.3, handshake=0.3, close=0.1)


async def first_words(*faults, scheme="ws", deadlines=QUICK):
    """The first two connection events of a session whose first connection has these faults, and its second none."""
    told: list[tuple[str, str | None]] = []
    enough = trio.Event()

    def publish(event, stamp):
        if event.kind == "connection":
            told.append((event.event, event.reason))
            if len(told) == 2 or event.event == "CONNECTED":
                enough.set()

    simulator = SyntheticSimulator(rate=0)
    async with (
        simulator.serve() as at,
        FaultProxy(at.port).serve() as line,
        HttpClient() as http,
        trio.open_nursery() as nursery,
    ):
        line.next_connection(*faults)
        adapter = adapted(url=f"{scheme}://127.0.0.1:{line.port}/v1")(Synthetic)
        session = ProviderSession(
            adapter,
            Context(provider="venue", options=dict(Synthetic.options)),
            publish=publish,
            http=http,
            deadlines=deadlines,
        )
        await nursery.start(session.run)
        with trio.fail_after(10):
            await enough.wait()
        nursery.cancel_scope.cancel()
    return told[:2]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Stall(), "no connection: no end of the WebSocket handshake"),
        (Throttle(20), "no connection: no end of the WebSocket handshake"),
        (Cut(), "no connection: the peer hung up during the WebSocket handshake"),
        (Reset(), "no connection: the peer hung up during the WebSocket handshake"),
    ],
)
async def test_a_handshake_that_does_not_end_is_given_up_in_time_and_tried_again(fault, reason):
    assert await first_words(fault) == [("RECONNECTING", reason), ("CONNECTED", None)]


async def test_tls_that_never_answers_is_given_up_in_time():
    (lost, reason), _ = await first_words(Stall(), scheme="wss")
    assert (lost, reason) == ("RECONNECTING", "no connection: no TLS handshake within 0.3 s")


async def test_a_slow_handshake_within_its_deadline_is_waited_for():
    assert (await first_words(Throttle(400), deadlines=Deadlines()))[0] == ("CONNECTED", None)
