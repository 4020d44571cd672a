"""Connections that do not come about: a handshake that takes for ever, one that is slow, a reset at every stage."""

import socket
import ssl
from contextlib import AsyncExitStack

import pytest
import trio

from relay.adapter import Backoff, Context
from relay.provider.connection import Deadlines
from relay.provider.http import HttpClient
from relay.testing.faults import Cut, FaultProxy, Reset, Stall, Throttle
from relay_synthetic.adapter import Synthetic
from relay_synthetic.simulator import SyntheticSimulator
from support.deadlines import WITHIN
from support.faulty import QUICK as QUICKLY
from support.faulty import VENUES, adapted, rig
from support.lone_session import lone_session
from support.tls import TlsFront, self_signed, server_context

QUICK = Deadlines(tls=1, handshake=1, close=0.1)
"""Short enough to wait for in a test."""


async def first_words(*faults, scheme="ws", deadlines=QUICK, tls=None, trusted=None, enough=1000, backoff=QUICKLY):
    """The first connection events, up to ``enough`` or CONNECTED, of a session whose first connection has these faults.

    ``tls`` is what the provider speaks, ``trusted`` the certificate its clients trust. Beside the events: how long
    the session meant to wait then.
    """
    told: list[tuple[str, str | None]] = []
    waits: list[float] = []
    done = trio.Event()
    client = None if trusted is None else ssl.create_default_context(cafile=str(trusted))

    def publish(event, stamp):
        if event.kind == "connection":
            told.append((event.event, event.reason))
            machine = session._machine
            waits.append(machine.deadline() - machine.core.at.now)
            if len(told) == enough or event.event == "CONNECTED":
                done.set()

    simulator = SyntheticSimulator(rate=0)
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(simulator.serve())
        front = None if tls is None else await stack.enter_async_context(TlsFront(at.port, tls).serve())
        line = await stack.enter_async_context(FaultProxy(at.port if front is None else front.port).serve())
        http = await stack.enter_async_context(HttpClient())
        nursery = await stack.enter_async_context(trio.open_nursery())
        line.next_connection(*faults)
        adapter = adapted(url=f"{scheme}://127.0.0.1:{line.port}/v1", backoff=backoff)(Synthetic)
        session = lone_session(
            adapter,
            Context(provider="venue", options=Synthetic.defaults()),
            publish=publish,
            http=http,
            deadlines=deadlines,
            ssl_context=client,
        )
        await nursery.start(session.run)
        with trio.fail_after(WITHIN):
            await done.wait()
        nursery.cancel_scope.cancel()
    return told, waits


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Stall(), "no connection: the WebSocket handshake timed out"),
        (Throttle(20), "no connection: the WebSocket handshake timed out"),
        (Cut(), "no connection: the peer closed the connection during the WebSocket handshake"),
        (Reset(), "no connection: the peer closed the connection during the WebSocket handshake"),
    ],
)
async def test_a_handshake_that_does_not_end_is_given_up_in_time_and_tried_again(fault, reason):
    told = (await first_words(fault))[0]
    assert (told[0], told[-1]) == (("RECONNECTING", reason), ("CONNECTED", None))
    assert {state for state, _ in told[:-1]} == {
        "RECONNECTING"
    }  # a good one takes too long on a machine that stands still


async def test_tls_that_never_answers_is_given_up_in_time():
    (first,), _ = await first_words(Stall(), scheme="wss", enough=1)
    assert first == ("RECONNECTING", "no connection: no TLS handshake within 1 s")


async def test_a_slow_handshake_within_its_deadline_is_waited_for():
    assert (await first_words(Throttle(400), deadlines=Deadlines()))[0] == [("CONNECTED", None)]


class Names(trio.abc.HostnameResolver):
    """A resolver that does not find anything, or does not answer at all."""

    def __init__(self, *, answers):
        self.answers = answers

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        if not self.answers:
            await trio.sleep_forever()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr, flags):
        pytest.fail("nobody looks for the name of an address")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (True, "no connection: [Errno -2] Name or service not known"),
        (False, "no connection: no TCP connection within 0.3 s"),
    ],
)
async def test_a_name_that_is_not_found_or_not_answered_for(answers, reason):
    told, done = [], trio.Event()

    def publish(event, stamp):
        told.append((event.event, event.reason))
        done.set()

    trio.socket.set_custom_hostname_resolver(Names(answers=answers))
    adapter = adapted(url="ws://venue.example/v1", backoff=Backoff(first=60, jitter=0))(Synthetic)
    context = Context(provider="venue", options=Synthetic.defaults())
    async with HttpClient() as http, trio.open_nursery() as nursery:
        session = lone_session(adapter, context, publish=publish, http=http, deadlines=Deadlines(connect=0.3))
        await nursery.start(session.run)
        with trio.fail_after(WITHIN):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert told == [("RECONNECTING", reason)]


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    """A certificate for the address the simulators are at, and what a server that has it speaks."""
    certificate, key = self_signed(tmp_path, "IP:127.0.0.1")
    return certificate, server_context(certificate, key)


async def test_a_slow_tls_handshake_within_its_deadline_is_waited_for(ours):
    certificate, speaks = ours
    began = trio.current_time()
    told, _ = await first_words(Throttle(800), scheme="wss", deadlines=Deadlines(), tls=speaks, trusted=certificate)
    assert told == [("CONNECTED", None)]
    assert trio.current_time() - began > 1  # the line was slow indeed: it takes QUICK's deadline to be too much


async def test_a_tls_handshake_that_is_too_slow_is_given_up_and_tried_again(ours):
    certificate, speaks = ours
    told, _ = await first_words(Throttle(300), scheme="wss", tls=speaks, trusted=certificate)
    assert told[0] == ("RECONNECTING", "no connection: no TLS handshake within 1 s")
    assert told[-1] == ("CONNECTED", None)


@pytest.mark.parametrize(
    ("names", "is_trusted", "reason"),
    [
        ("IP:127.0.0.1", False, "certificate verify failed: self-signed certificate"),
        ("DNS:elsewhere.example", True, "certificate verify failed: IP address mismatch"),
    ],
)
async def test_a_certificate_that_proves_nothing_is_named_and_tried_again_ever_more_seldom(
    names, is_trusted, reason, ours, tmp_path
):
    certificate, key = self_signed(tmp_path, names, file="theirs")
    growing = Backoff(first=0.02, factor=3, cap=10, jitter=0, settle=60)
    told, waits = await first_words(
        scheme="wss", deadlines=Deadlines(), tls=server_context(certificate, key),
        trusted=certificate if is_trusted else ours[0], enough=4, backoff=growing,
    )  # fmt: skip
    assert {state for state, _ in told} == {"RECONNECTING"}
    assert all(why is not None and why.startswith("no connection: ") and reason in why for _, why in told)
    assert waits == pytest.approx([0.02, 0.06, 0.18, 0.54])


@pytest.mark.parametrize("name", VENUES)
async def test_tls_to_every_provider_slow_and_then_with_a_certificate_of_somebody_else(
    name, ours, tmp_path, monkeypatch
):
    """An operator's own authority is trusted by SSL_CERT_FILE, as OpenSSL has it."""
    certificate, speaks = ours
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with rig(name, tls=speaks) as r:
        since = len(r.heard)
        r.upstream.next_connection(Throttle(4000))
        r.upstream.inject(Cut())
        await r.state("CONNECTED", since=since)
        r.upstream.heal()
        await r.flowing(since=len(r.heard))
        assert [state for state, _ in r.states(since=since)] == ["RECONNECTING", "CONNECTED"]

        since = len(r.heard)
        speaks.load_cert_chain(*self_signed(tmp_path, "IP:127.0.0.1", file="theirs"))
        r.upstream.inject(Cut())
        await r.subscriber.until(lambda: len(r.states(since=since)) >= 3)
        (_, *refused) = [why for _, why in r.states(since=since)]
        assert all("certificate verify failed: self-signed certificate" in why for why in refused)
        assert r.problems() == []
