"""relay.server.subscribers behind relay.server.http, over real sockets, with trio-websocket's client as the peer."""

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import wsproto.connection
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from relay.hub.outbox import CompressedOutbox, Delivery, Outbox, OutboxLimits, Policy
from relay.server.admission import SubscriberLimits
from relay.server.fastpath.uring import open_ring
from relay.server.http import HttpServer, open_listeners
from relay.server.subscribers import SubscriberServer
from relay.websocket.frames import encode_ping, encode_text
from support import tools
from support.deadlines import WITHIN
from support.tls import self_signed, server_context


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of the relay and of its clients."""
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    client = ssl.create_default_context(cafile=str(certificate))
    client.set_alpn_protocols(["h2", "http/1.1"])
    return server_context(certificate, key), client


#: Contexts of the relay and of its clients, in tests that run over TLS.
encrypted: tuple[ssl.SSLContext, ssl.SSLContext] | None = None


@pytest.fixture(params=["each by itself", "together", "TLS 1.2", "TLS 1.3"], autouse=True)
def writing(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Every test is run with all ways to write; together even where there is only one subscriber."""
    if request.param.startswith("TLS"):
        monkeypatch.setattr("tests.server.test_subscribers.encrypted", contexts)
        version = ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
        contexts[1].maximum_version = version
    elif request.param == "each by itself":
        monkeypatch.setattr("relay.server.fastpath.writer.open_ring", lambda: None)
    elif (ring := open_ring(8)) is None:
        tools.missing("io_uring", "the kernel refuses it, or the configuration of this machine")
    else:
        ring.close()
        monkeypatch.setattr("relay.server.fastpath.writer._FEW", 1)


class EchoSession:
    """A session that answers what it is told to; stands for the hub."""

    def __init__(self, hub: "FakeHub", app: str, query: str, origin: str | None, *, compressed: bool) -> None:
        self.hub = hub
        self.opening = (app, query, origin)
        self.outbox = (CompressedOutbox if compressed else Outbox)(hub, hub.limits)
        self.due = math.inf
        self.log: list[str] = []
        self.end = trio.Event()
        self.say(f"hello {app} {query}")
        if app == "unknown":
            self.outbox.close(4001, "no such app")

    def say(self, text: str) -> None:
        self.outbox.put(Delivery(encode_text(text.encode()), "", Policy.CONTROL, 0))

    def arrived(self, size: int, now: float) -> None: ...

    busy = False

    def proceed(self, now: float) -> None: ...

    def pause(self, now: float) -> float:
        return 0.0

    def leave(self, now: float) -> None: ...

    def receive(self, text: str, now: float) -> None:
        if text == "raise":
            raise RuntimeError("a bug in a session")
        if text.startswith("close "):
            self.outbox.close(int(text[6:]), "as asked")
        else:
            self.say("echo " + text)

    def receive_binary(self, now: float) -> None:
        self.say("binary is not spoken here")

    def alive(self, now: float) -> None:
        self.log.append("alive")

    def deadline(self) -> float:
        return self.due

    def timeout(self, now: float) -> None:
        self.log.append("timeout")
        self.due = math.inf
        self.outbox.close(4201, "pong not received")

    def closed(self, now: float) -> None:
        self.log.append("closed")
        self.hub.sessions.remove(self)
        self.end.set()


class FakeHub:
    def __init__(self, limits: OutboxLimits | None = None) -> None:
        self.limits = limits
        self.sessions: list[EchoSession] = []
        self.all: list[EchoSession] = []
        self.seq = 0
        self.dropped = 0
        self.secure: bool | None = None

    def connect(
        self,
        app: str,
        query: str,
        origin: str | None,
        now: float,
        /,
        *,
        secure: bool,
        compressed: bool,
        address: str | None,
    ) -> EchoSession:
        self.secure = secure
        session = EchoSession(self, app, query, origin, compressed=compressed)
        self.sessions.append(session)
        self.all.append(session)
        return session

    def publish(self, policy: Policy, size: int = 0) -> None:
        self.seq += 1
        delivery = Delivery(encode_text(f"{self.seq} ".encode().ljust(size, b".")), "c", policy, self.seq)
        for session in self.sessions:
            session.outbox.put(delivery)

    def count_drop(self, channel: str, policy: Policy) -> None:
        self.dropped += 1

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        return encode_text(f"gap {first_seq} {last_seq}".encode())

    def snapshot_frame(self, channel: str) -> Delivery | None:
        return None


async def no_http(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Relay:
    def __init__(self, hub: FakeHub, edge: SubscriberServer, port: int) -> None:
        self.hub, self.edge, self.port = hub, edge, port

    async def connect(self, **options: int) -> trio.abc.Stream:
        """A connection, over TLS where the test is; ``options`` are its socket's."""
        sock = trio.socket.socket()
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        await sock.connect(("127.0.0.1", self.port))
        if encrypted is None:
            return trio.SocketStream(sock)
        stream = trio.SSLStream(
            trio.SocketStream(sock), encrypted[1], server_hostname="localhost", https_compatible=True
        )
        await stream.do_handshake()
        return stream

    @asynccontextmanager
    async def client(
        self, path: str = "/app/key?protocol=7", headers: list[tuple[str, str]] | None = None
    ) -> AsyncIterator[WebSocketConnection]:
        """trio-websocket's client on a stream of our own: it does not close its socket when the server closes first."""
        async with await self.connect() as stream, trio.open_nursery() as nursery:
            yield await wrap_client_stream(
                nursery, stream, "127.0.0.1", path, message_queue_size=64, extra_headers=headers or []
            )
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def relay(
    limits: SubscriberLimits | None = None,
    outbox: OutboxLimits | None = None,
    *,
    behind_proxy: bool = False,
    room: int = 0,
) -> AsyncIterator[Relay]:
    """An edge with a hub. ``room`` is the size of the kernel's buffer for what each subscriber gets, where it is given."""
    hub = FakeHub(outbox)
    edge = SubscriberServer(hub.connect, limits, behind_proxy=behind_proxy)
    front = HttpServer(no_http, edge, tls=None if encrypted is None else encrypted[0])  # type: ignore[arg-type]
    listeners = await open_listeners("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    if room:
        listeners[0].socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, room)
    async with trio.open_nursery() as nursery:
        await nursery.start(edge.run)
        await nursery.start(front.serve, listeners)
        with trio.fail_after(WITHIN):
            yield Relay(hub, edge, port)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until it holds; the test's own deadline bounds it."""
    while not condition():
        await trio.sleep(0.001)


async def test_a_conversation() -> None:
    async with relay() as r:
        async with r.client(headers=[("Origin", "https://app.example")]) as ws:
            assert await ws.get_message() == "hello key protocol=7"
            assert r.hub.secure is (encrypted is not None)
            assert r.hub.all[0].opening == ("key", "protocol=7", "https://app.example")
            await ws.send_message("Grüße")
            assert await ws.get_message() == "echo Grüße"
            await ws.send_message(b"\x00")
            assert await ws.get_message() == "binary is not spoken here"
            await ws.ping(b"are you there")
            assert r.hub.all[0].log == ["alive"]
            await ws.aclose(1000, "bye")
            assert ws.closed
            assert ws.closed.code == 1000
        await r.hub.all[0].end.wait()
        assert r.hub.all[0].log == ["alive", "closed"]
        assert not r.edge.connections


async def test_deliveries_arrive_in_order_and_a_tick_is_one_write() -> None:
    async with relay() as r, r.client() as ws:
        await ws.get_message()
        for _ in range(50):
            for _ in range(4):
                r.hub.publish(Policy.NEVER_DROP)
            await trio.lowlevel.checkpoint()
        got = [await ws.get_message() for _ in range(200)]
        assert [int(text) for text in got] == list(range(1, 201))


@pytest.mark.parametrize("trusted", [False, True])
async def test_only_our_own_proxy_says_that_the_subscriber_came_by_tls(trusted: bool) -> None:
    async with relay(behind_proxy=trusted) as r, r.client(headers=[("X-Forwarded-Proto", "https")]) as ws:
        await ws.get_message()
        assert r.hub.secure is (trusted or encrypted is not None)


@pytest.mark.parametrize("code", [4009, 4200, 1000])
async def test_the_relay_closes(code: int) -> None:
    async with relay() as r, r.client() as ws:
        await ws.get_message()
        await ws.send_message("last words")
        await ws.send_message(f"close {code}")
        assert await ws.get_message() == "echo last words"
        with pytest.raises(ConnectionClosed) as closed:
            await ws.get_message()
        assert closed.value.reason
        assert (closed.value.reason.code, closed.value.reason.reason) == (code, "as asked")
        await r.hub.all[0].end.wait()


async def test_refused_at_the_greeting() -> None:
    async with relay() as r, r.client("/app/unknown?protocol=7") as ws:
        assert await ws.get_message() == "hello unknown protocol=7"
        with pytest.raises(ConnectionClosed) as closed:
            await ws.get_message()
        assert closed.value.reason
        assert closed.value.reason.code == 4001


@pytest.mark.parametrize("path", ["/", "/app", "/app/", "/other/key", "/app/key/more"])
async def test_other_paths_come_without_a_key(path: str) -> None:
    async with relay() as r, r.client(path) as ws:
        assert await ws.get_message() == "hello  "


@contextlib.contextmanager
def trio_raises(kind: type[Exception]):  # type: ignore[no-untyped-def]
    """The one exception of `kind`, out of whatever groups it travels in."""
    found: list[Exception] = []
    try:
        yield found
    except* kind as group:
        found.extend(leaves(group))
    assert found


def leaves(group: BaseExceptionGroup) -> list[Exception]:  # type: ignore[type-arg]
    return [leaf for e in group.exceptions for leaf in (leaves(e) if isinstance(e, BaseExceptionGroup) else [e])]


async def raw_client(r: Relay, **options: int) -> trio.abc.Stream:
    stream = await r.connect(**options)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    request = f"GET /app/key HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n"
    await stream.send_all(request.encode() + masked_text(b"trailing"))
    return stream


def masked_text(payload: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload


def socket_of(stream: trio.abc.Stream) -> trio.SocketStream:
    """The TCP connection under a stream."""
    below = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(below, trio.SocketStream)
    return below


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def test_bytes_after_the_head_are_the_first_frames() -> None:
    async with relay() as r, await raw_client(r) as client:
        client_end = masked_text(b"close 4009")
        await client.send_all(client_end + b"\x88\x80\0\0\0\0")
        data = await read_all(client)
        assert data.startswith(b"HTTP/1.1 101 ")
        assert data.index(b"hello key") < data.index(b"echo trailing") < data.index(b"as asked")
        await r.hub.all[0].end.wait()


@pytest.mark.parametrize(
    ("frame", "code"), [(b"\x81\x01a", 1002), (masked_text(b"\xff"), 1007), (b"\x81\xff" + b"\0" * 5 + b"\1" * 7, 1009)]
)
async def test_broken_framing_is_closed_with_its_code(frame: bytes, code: int) -> None:
    async with relay(SubscriberLimits(message_bytes=4096)) as r, await raw_client(r) as client:
        await client.send_all(frame)
        data = await read_all(client)
        assert b"\x88" + bytes([len(data) - data.rindex(code.to_bytes(2, "big"))]) + code.to_bytes(2, "big") in data
        await client.aclose()
        await r.hub.all[0].end.wait()


async def test_a_peer_that_vanishes() -> None:
    async with relay() as r:
        client = await raw_client(r)
        await until(lambda: bool(r.hub.sessions))
        sock = socket_of(client).socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        await r.hub.all[0].end.wait()


async def test_a_failing_session_ends_only_itself() -> None:
    async with relay() as r, r.client() as good, r.client() as bad:
        await good.get_message()
        await bad.get_message()
        await bad.send_message("raise")
        with pytest.raises(ConnectionClosed):
            await bad.get_message()
        await good.send_message("still here")
        assert await good.get_message() == "echo still here"


async def test_deadlines_are_looked_at_by_the_sweep() -> None:
    async with relay(SubscriberLimits(sweep=0.01)) as r, r.client() as ws:
        await ws.get_message()
        r.hub.sessions[0].due = trio.current_time()
        with pytest.raises(ConnectionClosed) as closed:
            await ws.get_message()
        assert closed.value.reason
        assert closed.value.reason.code == 4201
        await r.hub.all[0].end.wait()
        assert r.hub.all[0].log == ["timeout", "closed"]


async def test_a_peer_that_never_answers_the_close_is_dropped() -> None:
    async with relay(SubscriberLimits(sweep=0.01, close=0.05)) as r:
        client = await raw_client(r)
        await until(lambda: bool(r.hub.sessions))
        r.hub.sessions[0].outbox.close(4009)
        await r.hub.all[0].end.wait()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)
        await client.aclose()


async def test_shutdown_says_4200_to_everyone() -> None:
    async with relay() as r, r.client() as one, r.client() as two:
        stubborn = await raw_client(r)
        await until(lambda: len(r.hub.sessions) == 3)
        await one.get_message()
        await two.get_message()
        await r.edge.shutdown(0.2)
        assert not r.edge.connections
        for ws in (one, two):
            with pytest.raises(ConnectionClosed) as closed:
                await ws.get_message()
            assert closed.value.reason
            assert closed.value.reason.code == 4200
        await stubborn.aclose()
        async with r.client() as late:
            await late.get_message()
            with pytest.raises(ConnectionClosed):
                await late.get_message()


PATIENT = SubscriberLimits(write=1000)
"""Waits for a stalled subscriber for longer than any test takes on a busy machine."""


async def healthy(r: Relay, count: int, got: list[int]) -> None:
    async with r.client() as ws:
        while len(got) < count:
            text = await ws.get_message()
            if isinstance(text, str) and text[0].isdigit():
                got.append(int(text.split(" ")[0]))


async def test_a_stalled_subscriber_costs_the_others_nothing() -> None:
    count, size = 3000, 2000
    limits = OutboxLimits(bytes=100_000)
    async with relay(PATIENT, limits) as r:
        stalled = await raw_client(r, SO_RCVBUF=8192)
        await until(lambda: len(r.hub.sessions) == 1)  # so that it is the first of all
        got: list[list[int]] = [[], [], []]
        async with trio.open_nursery() as nursery:
            for one in got:
                nursery.start_soon(healthy, r, count, one)
            await until(lambda: len(r.hub.sessions) == 4)
            slow = r.hub.all[0]
            for number in range(count):
                r.hub.publish(Policy.GAP, size)
                await until(lambda number=number: min(map(len, got)) > number - 20)  # type: ignore[misc]
        assert all(numbers == list(range(1, count + 1)) for numbers in got)
        assert slow.outbox.blocked
        assert r.hub.dropped > 1000
        assert slow.outbox._backlog is not None
        assert slow.outbox._backlog.bytes <= limits.bytes
        assert_consecutive(await everything_until(stalled, b"%d " % count), count)
        await stalled.aclose()


async def everything_until(stream: trio.abc.ReceiveStream, last: bytes) -> bytes:
    data = bytearray()
    while last not in data[-4000:]:
        data += await stream.receive_some(65536)
    return bytes(data)


def assert_consecutive(data: bytes, count: int) -> None:
    """Every seq came once or stands in a gap, in order, and no frame was split by another."""
    client = text_frames(data)
    expected = 1
    for text in client:
        word, *numbers = text.split(" ")
        first, last = (int(numbers[0]), int(numbers[1])) if word == "gap" else (int(word), int(word))
        assert first == expected
        expected = last + 1
    assert expected == count + 1


def text_frames(data: bytes) -> list[str]:
    client = wsproto.connection.Connection(wsproto.connection.ConnectionType.CLIENT)
    client.receive_data(data.partition(b"\r\n\r\n")[2])
    parts = [event.data for event in client.events()]  # type: ignore[attr-defined]
    return [part.rstrip(".") for part in parts if part[0].isdigit() or part.startswith("gap")]


async def test_orders_are_not_dropped_a_slow_subscriber_is_closed_with_4100() -> None:
    async with relay(SubscriberLimits(sweep=0.01, close=60, write=1000), OutboxLimits(bytes=20_000)) as r:
        client = await raw_client(r, SO_RCVBUF=8192)
        await until(lambda: bool(r.hub.sessions))
        slow = r.hub.sessions[0]
        while slow.outbox.closing is None:
            r.hub.publish(Policy.NEVER_DROP, 2000)
            await trio.lowlevel.checkpoint()
        assert slow.outbox.closing[0] == 4100
        await until(lambda: r.edge.closed_slow == {"full": 1, "stalled": 0})
        data = await everything_until(client, b"too slow")
        assert data.endswith((4100).to_bytes(2, "big") + b"too slow: outbox is full")
        await client.send_all(b"\x88\x80\0\0\0\0")
        await slow.end.wait()
        await client.aclose()


async def test_a_socket_that_takes_nothing_is_dropped_at_the_write_deadline() -> None:
    async with relay(SubscriberLimits(write=0.05)) as r:
        client = await raw_client(r, SO_RCVBUF=8192)
        await until(lambda: bool(r.hub.sessions))
        slow = r.hub.sessions[0]
        while not slow.outbox.blocked:
            r.hub.publish(Policy.GAP, 2000)
            await trio.lowlevel.checkpoint()
        assert slow.outbox in r.edge.slow or not slow.outbox.waiting[0]
        await slow.end.wait()
        assert slow.outbox.closing is None
        await until(lambda: not r.edge.slow)
        assert r.edge.closed_slow == {"full": 0, "stalled": 1}
        await client.aclose()


async def test_pings_without_reading_end_in_4100_not_in_memory() -> None:
    async with relay(SubscriberLimits(sweep=0.01, close=0.05), OutboxLimits(messages=100)) as r:
        client = await raw_client(r, SO_RCVBUF=8192)
        ping = bytearray(encode_ping(b"x" * 125))
        ping[1] |= 0x80
        flood = bytes(ping[:2]) + b"\0\0\0\0" + bytes(ping[2:])
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await client.send_all(flood * 1000)
        slow = r.hub.all[0]
        await slow.end.wait()
        assert slow.outbox.closing is not None
        assert slow.outbox.closing[0] == 4100
        await client.aclose()


async def test_cancelling_the_front_tells_every_session() -> None:
    async with relay() as r:
        client = await raw_client(r)
        await until(lambda: bool(r.hub.sessions))
    await client.aclose()
    assert r.hub.all[0].log == ["closed"]


async def test_a_session_that_cannot_begin_harms_nobody_who_comes_after() -> None:
    """Neither does its descriptor, which the next one gets."""
    async with relay() as r:
        connect = r.hub.connect
        r.edge._connect = fails
        async with await r.connect() as waiting:
            await trio.testing.wait_all_tasks_blocked(0.01)  # it is watched before it says anything
            await waiting.send_all(UPGRADE)
            with contextlib.suppress(trio.BrokenResourceError):
                assert await waiting.receive_some() == b""
        assert len(r.edge._poller) == 0
        r.edge._connect = connect
        for _ in range(3):
            async with r.client() as ws:
                assert await ws.get_message() == "hello key protocol=7"
                await ws.send_message("?")
                assert await ws.get_message() == "echo ?"


def fails(*_: object, secure: bool, compressed: bool, address: str | None) -> EchoSession:
    raise RuntimeError("a bug in the hub")


UPGRADE = (
    b"GET /app/key HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_a_bad_frame_behind_the_upgrade_is_refused_after_the_handshake() -> None:
    async with relay() as r, await r.connect() as client:
        await client.send_all(UPGRADE + b"\xff\xff")
        await socket_of(client).send_eof()
        head, _, frames = (await read_all(client)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert frames[0] == 0x88
        assert frames[2:4] == (1002).to_bytes(2, "big")
