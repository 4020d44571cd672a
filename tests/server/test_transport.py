"""relay.server.transport: bytes over plain and encrypted sockets, without waiting, and with peers that are slow or leave."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.server.transport import READ_SIZE, TlsTransport
from support.tls import self_signed, server_context


class Pair:
    """A server's TLS transport and the socket of its client, whose TLS is an SSL object as well."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        ours, self.socket = socket.socketpair()
        for sock in (ours, self.socket):
            sock.setblocking(False)
        self.transport = TlsTransport(ours, server)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def send(self, *, step: int = 0) -> None:
        """Send what the client has encrypted; with `step` so many bytes at a time, and let the server read each time."""
        data = self._outgoing.read()
        for start in range(0, len(data), step or len(data) or 1):
            self.socket.send(data[start : start + (step or len(data))])
            if step:
                self.reads.append(self.read())

    reads: list[bytes | None]

    def read(self) -> bytes | None:
        """Return what the server reads now; None for nothing."""
        try:
            return self.transport.read()
        except BlockingIOError:
            return None

    def receive(self) -> None:
        """Give the client's TLS what has come."""
        with contextlib.suppress(BlockingIOError):
            while data := self.socket.recv(65536):
                self._incoming.write(data)

    def shake_hands(self, *, step: int = 0) -> None:
        """Carry out the handshake."""
        self.reads = []
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self.send(step=step)
            if not self.transport.handshaken:
                assert self.read() is None
            self.receive()
        assert self.transport.handshaken
        assert not any(self.reads)

    def plaintext(self) -> bytes:
        """Return what the client decrypts now."""
        self.receive()
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.tls.read(65536):
                parts.append(data)
        return b"".join(parts)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    certificate, key = self_signed(tmp_path)
    server, client = server_context(certificate, key), ssl.create_default_context(cafile=str(certificate))
    client.maximum_version = request.param
    it = Pair(server, client)
    yield it
    it.transport.sock.close()
    it.socket.close()


@pytest.mark.parametrize("step", [0, 1])
def test_handshake_and_messages_whole_and_one_byte_at_a_time(pair: Pair, step: int) -> None:
    pair.shake_hands(step=step)
    pair.reads = []
    pair.tls.write(b"hello")
    pair.send(step=step or 10_000)
    assert [data for data in pair.reads if data] == [b"hello"]
    assert pair.transport.send(b"answer") == 6
    assert pair.plaintext() == b"answer"


def test_what_is_decrypted_already_is_announced(pair: Pair) -> None:
    """A read returns no more than READ_SIZE; the poller knows nothing of the rest."""
    pair.shake_hands()
    for _ in range(3):
        pair.tls.write(b"x" * 7000)
    pair.send()
    got = [pair.read() or b""]
    while pair.transport.buffered:
        got.append(pair.read() or b"")
    while data := pair.read():
        got.append(data)
    assert max(map(len, got)) <= READ_SIZE
    assert b"".join(got) == b"x" * 21_000


def test_a_peer_that_does_not_read_bounds_what_is_accepted(pair: Pair) -> None:
    pair.shake_hands()
    told: list[bool] = []
    pair.transport.on_unsent = lambda: told.append(True)
    data = bytes(10_000_000)
    accepted = pair.transport.send(data)
    assert 0 < accepted < len(data)
    assert pair.transport.unsent
    assert told == [True]
    with pytest.raises(BlockingIOError):
        pair.transport.send(b"more")
    got = 0
    while not pair.transport.flush() or got < accepted:
        got += len(pair.plaintext())
    assert got == accepted
    assert pair.transport.send(b"more") == 4
    assert pair.plaintext() == b"more"


def test_close_notify_ends_what_is_read_after_what_came_before_it(pair: Pair) -> None:
    pair.shake_hands()
    pair.tls.write(b"last words")
    with contextlib.suppress(ssl.SSLError):
        pair.tls.unwrap()
    pair.send()
    assert pair.read() == b"last words"
    assert pair.transport.buffered
    assert pair.read() == b""


def test_a_peer_that_leaves_without_close_notify_has_ended_too(pair: Pair) -> None:
    pair.shake_hands()
    pair.socket.shutdown(socket.SHUT_WR)
    assert pair.read() == b""


@pytest.mark.parametrize("end", ["finish", "close"])
async def test_the_peer_gets_everything_and_then_close_notify(pair: Pair, end: str) -> None:
    pair.shake_hands()
    pair.transport.send(b"bye")
    getattr(pair.transport, end)()
    assert pair.plaintext() == b"bye"
    assert pair.tls.read(1) == b""


def test_what_is_no_tls_is_an_error(pair: Pair) -> None:
    pair.socket.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        pair.transport.read()
