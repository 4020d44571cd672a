"""Sockets without tasks: the poller, and the acceptor before anybody has said what they want."""

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from relay.server.admission import ADMIN_CONNECTIONS, HttpLimits
from relay.server.fastpath.acceptor import Acceptor
from relay.server.fastpath.poller import Poller
from relay.server.http import open_listeners
from relay.server.transport import SocketTransport
from support.deadlines import WITHIN


class Told:
    """A socket of one end of a pair, and what was heard on it."""

    def __init__(self, poller: Poller, sock: socket.socket, *, fails: bool = False) -> None:
        self.heard: list[bytes] = []
        self.event = trio.Event()
        self._sock, self._fails = sock, fails
        sock.setblocking(False)
        poller.watch(sock.fileno(), self)

    def ready(self) -> None:
        if self._fails:
            raise RuntimeError("a bug")
        self.heard.append(self._sock.recv(100))
        self.event.set()


@pytest.fixture(params=[True, False], ids=["epoll", "tasks"])
def poller(request: pytest.FixtureRequest) -> Poller:
    """A poller of both kinds: epoll, and the fallback of other systems."""
    return Poller(epoll=request.param)


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        found = [socket.socketpair() for _ in range(2)]
        for pair in found:
            for sock in pair:
                stack.enter_context(sock)
        yield found


async def test_whoever_watches_is_told_and_one_who_fails_is_forgotten(
    nursery: trio.Nursery, poller: Poller, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    (bad, to_bad), (good, to_good) = pairs
    Told(poller, bad, fails=True)
    told = Told(poller, good)
    nursery.start_soon(poller.run)
    to_bad.send(b"x")
    to_good.send(b"hello")
    await told.event.wait()
    assert (told.heard, len(poller)) == ([b"hello"], 1)
    poller.forget(good.fileno())
    to_good.send(b"nobody")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert told.heard == [b"hello"]


class Door:
    """A acceptor with its listener."""

    def __init__(self, limits: HttpLimits, port: int) -> None:
        self.arrived: list[tuple[SocketTransport, bytes]] = []
        self.elsewhere = 0
        self.port = port
        self.acceptor = Acceptor(limits, lambda *came: self.arrived.append(came), elsewhere=lambda: self.elsewhere)

    async def call(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def door(limits: HttpLimits | None = None) -> AsyncIterator[Door]:
    (listener,) = await open_listeners("127.0.0.1", 0)
    it = Door(limits or HttpLimits(), listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.acceptor.run, [listener])
        with trio.fail_after(WITHIN):
            yield it
        nursery.cancel_scope.cancel()
    for transport, _ in it.arrived:
        transport.close()


async def test_first_bytes_arrive_with_their_socket() -> None:
    async with door() as it, await it.call() as early, await it.call() as late:
        await early.send_all(b"first")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await late.send_all(b"second")
        while len(it.arrived) < 2:
            await trio.lowlevel.checkpoint()
        assert [data for _, data in it.arrived] == [b"first", b"second"]
        it.arrived[0][0].send(b"answer")
        assert await early.receive_some(10) == b"answer"


async def test_who_leaves_without_a_word_is_nobody() -> None:
    async with door() as it:
        stream = await it.call()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.aclose()
        while len(it.acceptor):
            await trio.lowlevel.checkpoint()
        assert not it.arrived


async def test_who_says_nothing_is_sent_away() -> None:
    async with door(HttpLimits(head=0)) as it, await it.call() as stream:
        assert await stream.receive_some(10) == b""
        assert not len(it.acceptor)


async def test_one_too_many_is_told_so() -> None:
    async with door(HttpLimits(connections=1)) as it:
        it.elsewhere = 1
        kept = [await it.call() for _ in range(ADMIN_CONNECTIONS)]
        async with await it.call() as stream:
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 503 ")
        await kept[0].send_all(b"health?")
        while not it.arrived:
            await trio.lowlevel.checkpoint()
        assert it.arrived[0][0].reserved
        for stream in kept:
            await stream.aclose()


async def test_accepting_goes_on_after_the_process_was_out_of_descriptors(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([OSError(errno.EMFILE, "too many open files"), OSError(errno.ECONNABORTED, "gone again")])
    accept = socket.socket.accept

    def failing(sock: socket.socket) -> tuple[socket.socket, object]:
        for error in left:
            raise error
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    async with door() as it:
        with socket.create_connection(("127.0.0.1", it.port)) as sock:
            sock.send(b"hello")
            while not it.arrived:
                await trio.sleep(0.05)
            assert it.arrived[0][1] == b"hello"
