"""One subscriber of a thousand stops reading: the others get everything, in order, and it costs what its limits say."""

import contextlib
import json
import resource
import socket
from itertools import count

import pytest
import trio

from relay.hub.hub import Hub
from relay.hub.outbox import OutboxLimits
from relay.model.events import PublicTrade, Stamp
from relay.pusher.apps import App
from relay.server.admission import SubscriberLimits
from relay.server.http import HttpServer, open_listeners
from relay.server.subscribers import SubscriberServer
from support.deadlines import WITHIN

SUBSCRIBERS, TRADES, ROOM = 1000, 80, 4096
CHANNEL = "public_trade.x.A"
SUBSCRIBE = json.dumps({"event": "pusher:subscribe", "data": {"channel": CHANNEL}}).encode()
REQUEST = (
    b"GET /app/key?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * SUBSCRIBERS:
        pytest.skip("this user may not open enough sockets")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * SUBSCRIBERS), hard))


class Client:
    """A raw socket; small buffers, so that a stalled one is noticed soon."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.sock.send(REQUEST)
        self.data = bytearray()

    def subscribe(self) -> None:
        self.sock.send(bytes((0x81, 0x80 | len(SUBSCRIBE))) + bytes(4) + SUBSCRIBE)

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.data += self.sock.recv(65536)

    def seqs(self) -> list[int]:
        """The numbers of the trades it got."""
        return [int(part.partition(b"}")[0]) for part in self.data.split(b'\\"seq\\":')[1:]]


async def test_one_stalled_and_999_healthy(descriptors: None) -> None:
    limits = OutboxLimits(messages=64, bytes=2 * ROOM)
    numbers = count(1)
    hub = Hub(
        [App(id="1", key="key", secrets=("secret",))],
        epoch="e",
        socket_ids=lambda: f"1.{next(numbers)}",
        want=lambda stream, by: (),
        unwant=lambda stream: None,
        outbox=limits,
    )
    edge = SubscriberServer(hub.connect, SubscriberLimits(write=1000))  # longer than the test takes on any machine
    front = HttpServer(no_http, edge)  # type: ignore[arg-type]
    (listener,) = await open_listeners("127.0.0.1", 0)
    assert isinstance(listener, trio.SocketListener)
    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
    async with trio.open_nursery() as nursery:
        await nursery.start(edge.run)
        port = listener.socket.getsockname()[1]
        await nursery.start(front.serve, [listener])
        with trio.fail_after(WITHIN):
            clients = [Client(port) for _ in range(SUBSCRIBERS)]
            await reads(clients, b"connection_established")
            for client in clients:
                client.subscribe()
            await reads(clients, b"subscription_succeeded")
            healthy = clients[1:]
            for number in range(TRADES):
                trade = PublicTrade(symbol="A", price=f"{number}.5", quantity="1", id="x" * 500)
                hub.publish(trade, Stamp(provider="x", received_at="2025-01-15T10:30:00Z"), trio.current_time())
                await reads(healthy, b'\\"seq\\":%d}' % (number + 1))
        assert all(client.seqs() == list(range(1, TRADES + 1)) for client in healthy)
        blocked = [connection.outbox for connection in edge.connections.values() if connection.outbox.blocked]
        assert edge.slow == set(blocked)
        assert len(blocked) == 1
        assert blocked[0].waiting[0] <= limits.messages
        assert 0 < blocked[0].fill <= 1.1  # the rest of a frame that was begun is beside the limit
        backlog = blocked[0]._backlog
        assert backlog is not None
        assert backlog.messages <= limits.messages
        assert backlog.bytes <= limits.bytes
        snapshot = hub.snapshot()
        assert snapshot["apps"]["1"]["channels"][CHANNEL]["dropped"] == snapshot["dropped"]
        assert snapshot["dropped"].keys() == {"gap"}
        assert snapshot["dropped"]["gap"] > 0
        nursery.cancel_scope.cancel()
    for client in clients:
        client.sock.close()


async def reads(clients: list[Client], end: bytes) -> None:
    """Read until the last bytes of each contain `end`."""
    waiting = clients
    while waiting:
        await trio.lowlevel.checkpoint()
        for client in waiting:
            client.read()
        waiting = [client for client in waiting if end not in client.data[-1500:]]


async def no_http(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nobody asks for anything but a WebSocket")
