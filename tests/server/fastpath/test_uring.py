"""One system call for many sockets: the ring reports what each of them accepted."""

import errno
import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from relay.server.fastpath import uring
from relay.server.fastpath.uring import Ring, open_ring
from support import tools
from support.deadlines import WITHIN


@pytest.fixture
def ring() -> Iterator[Ring]:
    if (made := open_ring(8)) is None:
        tools.missing("io_uring", "the kernel refuses it, or the configuration of this machine")
    else:
        yield made
        made.close()


@pytest.fixture
def peers(ring: Ring) -> Iterator[list["Peer"]]:
    made = [Peer(ring) for _ in range(5)]
    yield made
    for peer in made:
        peer.close()


class Peer:
    """A TCP connection to ourselves; small buffers, so that it is soon full."""

    def __init__(self, ring: Ring) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.socket()
            self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.theirs.connect(listener.getsockname())
            self.ours, _ = listener.accept()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.ours.setblocking(False)
        self.theirs.settimeout(WITHIN)
        self.slot = ring.allocate(self.ours.fileno())

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self.theirs.recv(size - len(data))
        return bytes(data)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def slots(peers: list[Peer]) -> list[int]:
    return [peer.slot for peer in peers]


def test_all_get_the_same(ring: Ring, peers: list[Peer]) -> None:
    for text in (b"one", b"another", b"a third"):
        assert ring.send(slots(peers), text) == {}
        assert [peer.read(len(text)) for peer in peers] == [text] * 5


def test_only_those_named_get_it_however_often_the_queue_goes_round(ring: Ring, peers: list[Peer]) -> None:
    expected = [b""] * 5
    for number, chosen in zip(range(200), itertools.cycle(itertools.combinations(range(5), 3)), strict=False):
        text = b"%d." % number
        assert ring.send([peers[index].slot for index in chosen], text) == {}
        for index in chosen:
            expected[index] += text
    assert [peer.read(len(text)) for peer, text in zip(peers, expected, strict=True)] == expected


def test_a_full_socket_says_how_much_it_took_and_the_others_take_all(ring: Ring, peers: list[Peer]) -> None:
    full, *others = peers
    big = bytes(range(256)) * 4000
    taken = ring.send([full.slot], big)[full.slot]
    assert 0 < taken < len(big)
    while not ring.send([full.slot], b"x"):
        big, taken = big[:taken] + b"x", taken + 1
    assert ring.send([full.slot], b"x") == {full.slot: 0}
    assert ring.send(slots(peers), b"small") == {full.slot: 0}
    assert [peer.read(5) for peer in others] == [b"small"] * 4
    assert full.read(taken) == big[:taken]
    full.theirs.setblocking(False)
    with pytest.raises(BlockingIOError):  # nothing is sent behind our back when there is room again
        full.theirs.recv(1)
    assert ring.send([full.slot], b"y") == {}


def test_a_broken_socket_says_so_and_the_others_take_all(ring: Ring, peers: list[Peer]) -> None:
    broken, closed, *others = peers
    broken.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    broken.theirs.close()
    closed.ours.close()
    assert ring.send(slots(peers), b"hello") == {broken.slot: -errno.ECONNRESET, closed.slot: -errno.EBADF}
    assert [peer.read(5) for peer in others] == [b"hello"] * 3


def test_a_slot_serves_the_next_socket(ring: Ring, peers: list[Peer]) -> None:
    gone = peers[0]
    ring.free(gone.slot)
    gone.ours.close()
    fresh = Peer(ring)
    assert fresh.slot == gone.slot
    assert ring.send([fresh.slot], b"hello") == {}
    assert fresh.read(5) == b"hello"
    fresh.close()


def test_slots_run_out(ring: Ring, peers: list[Peer]) -> None:
    assert [ring.allocate(peers[0].ours.fileno()) >= 0 for _ in range(4)] == [True, True, True, False]


def test_what_the_kernel_did_not_get_to_is_not_sent(ring: Ring, peers: list[Peer]) -> None:
    call = ring._call
    ring._call = lambda number, fd, count, *more: call(number, fd, 2, *more)
    assert ring.send(slots(peers), b"first") == dict.fromkeys(slots(peers)[2:], 0)
    ring._call = lambda *_: -1
    assert ring.send(slots(peers), b"never") == dict.fromkeys(slots(peers), 0)
    ring._call = call
    assert ring.send(slots(peers), b"later") == {}
    assert [peer.read(10) for peer in peers[:2]] == [b"firstlater"] * 2
    assert [peer.read(5) for peer in peers[2:]] == [b"later"] * 3


def test_where_the_kernel_refuses_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "_system_call", lambda: lambda *_: -1)
    assert open_ring() is None


@pytest.mark.parametrize("lie", [dict[int, int], lambda: {0: 0, 1: 0}], ids=["all is well", "nothing was taken"])
def test_where_the_calls_behave_otherwise_there_is_none(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, lie: Callable[[], Any]
) -> None:
    monkeypatch.setattr(Ring, "send", lambda self, slots, data: lie())
    assert open_ring() is None
