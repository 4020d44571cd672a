"""relay.server.http over real sockets: HTTP as proxies and browsers speak it, as attackers speak it, and WebSocket
beside it.
"""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from trio_websocket import wrap_client_stream

from relay.hub.outbox import Delivery, Outbox, Policy
from relay.server.admission import HttpLimits
from relay.server.http import HttpServer, open_listeners
from relay.server.subscribers import SubscriberServer
from relay.websocket.frames import encode_text
from support.deadlines import WITHIN
from support.tls import self_signed, server_context

HANDSHAKE = (
    b"GET /app/key HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Site:
    """A Starlette application, and what it saw."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.running = trio.Event()
        self.release = trio.Event()
        routes = [
            Route("/hello", self.hello, methods=["GET", "HEAD"]),
            Route("/echo", self.echo, methods=["POST"]),
            Route("/refuse", self.refuse, methods=["POST"]),
            Route("/big", self.big),
            Route("/sse", self.sse),
            Route("/slow", self.slow),
            Route("/fail", self.fail),
            Route("/scope/{rest:path}", self.scope),
        ]
        self.app = Starlette(routes=routes)

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def refuse(self, request: Request) -> Response:
        return PlainTextResponse("too large", status_code=413)

    async def big(self, request: Request) -> Response:
        return Response(b"x" * 300_000)

    async def fail(self, request: Request) -> Response:
        raise RuntimeError("a bug in a handler")

    async def scope(self, request: Request) -> Response:
        return PlainTextResponse(
            f"{request.method} {request.url} {request.path_params['rest']} {request.client is not None}"
        )

    async def slow(self, request: Request) -> Response:
        self.running.set()
        await self.release.wait()
        return PlainTextResponse("done at last")

    async def sse(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            try:
                yield "data: first\n\n"
                await trio.sleep_forever()
            finally:
                self.cancelled.set()

        return StreamingResponse(events(), media_type="text/event-stream")


class Hello:
    """A session that greets and echoes; stands for the hub's."""

    def __init__(self) -> None:
        self.outbox = Outbox(self)
        self.receive("hello", 0)

    def gap_frame(self, channel: str, first_seq: int, last_seq: int) -> bytes:
        raise AssertionError

    def snapshot_frame(self, channel: str) -> Delivery | None:
        raise AssertionError

    def count_drop(self, channel: str, policy: Policy) -> None:
        raise AssertionError

    def receive(self, text: str, now: float) -> None:
        self.outbox.put(Delivery(encode_text(text.encode()), "", Policy.CONTROL, 0))

    def deadline(self) -> float:
        return float("inf")

    def arrived(self, size: int, now: float) -> None: ...

    busy = False

    def proceed(self, now: float) -> None: ...

    def pause(self, now: float) -> float:
        return 0.0

    def closed(self, now: float) -> None: ...

    receive_binary = alive = timeout = leave = closed


class Served:
    def __init__(self, site: Site, front: HttpServer, edge: SubscriberServer, port: int) -> None:
        self.site, self.front, self.edge, self.port = site, front, edge, port
        self.finished = trio.Event()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[trio.SocketStream]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield stream

    async def ask(self, *pieces: bytes) -> bytes:
        """Everything the server says to these bytes until it closes."""
        async with self.client() as stream:
            for piece in pieces:
                await stream.send_all(piece)
            return await rest(stream)


@asynccontextmanager
async def served(limits: HttpLimits | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
    site, edge = Site(), SubscriberServer(lambda *_, secure, compressed, address: Hello())  # type: ignore[arg-type,return-value]
    front = HttpServer(site.app, edge, limits, context)
    listeners = await open_listeners("127.0.0.1", 0)
    server = Served(site, front, edge, listeners[0].socket.getsockname()[1])

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await front.serve(listeners, task_status=task_status)
        server.finished.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(edge.run)
        await nursery.start(run)
        with trio.fail_after(WITHIN):
            yield server
        nursery.cancel_scope.cancel()


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = await stream.receive_some(4096)
        assert piece, data
        data += piece
    return data


def get(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


CLOSE = "Connection: close"


async def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    async with served() as server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        for _ in range(5):
            assert (await client.get("/hello")).text == "hello"
        assert server.front.connections == 1
        assert (await client.get("/nowhere")).status_code == 404
        assert "date" in (await client.get("/hello")).headers


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as server:
        answer = await server.ask(get("/hello") + get("/scope/a%20b?q=1") + get("/hello", CLOSE))
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.index(b"hello") < answer.index(b"GET http://x/scope/a b?q=1 a b True") < answer.rindex(b"hello")


@pytest.mark.parametrize("size", [0, 1, 300_000])
async def test_bodies_with_a_length_and_in_chunks(size: int) -> None:
    body = bytes(i % 251 for i in range(size))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 50_000):
            yield body[start : start + 50_000]

    async with served() as server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        assert (await client.post("/echo", content=body)).content == body
        assert (await client.post("/echo", content=pieces())).content == body
        assert len((await client.get("/big")).content) == 300_000
        assert server.front.connections == 1


async def test_head_has_no_body_and_keeps_the_connection() -> None:
    async with served() as server:
        answer = await server.ask(get("/hello", method="HEAD") + get("/hello", CLOSE))
        first, second = answer.split(b"HTTP/1.1 ")[1:]
        assert b"content-length: 5" in first.lower()
        assert first.endswith(b"\r\n\r\n")
        assert second.endswith(b"hello")


async def test_expect_100_continue() -> None:
    async with served() as server, server.client() as stream:
        await stream.send_all(get("/echo", "Content-Length: 4", "Expect: 100-continue", CLOSE, method="POST"))
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"body")
        assert (await rest(stream)).endswith(b"\r\n\r\nbody")


async def test_expect_refused_before_the_body() -> None:
    async with served() as server:
        request = get("/refuse", "Content-Length: 400000", "Expect: 100-continue", method="POST")
        answer = await server.ask(request)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


async def test_an_early_answer_survives_the_unread_body() -> None:
    async with served() as server:
        answer = await server.ask(get("/refuse", "Content-Length: 400000", method="POST", body=b"x" * 400_000))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


async def test_a_stream_is_cancelled_when_the_client_leaves() -> None:
    async with served() as server:
        async with server.client() as stream:
            await stream.send_all(get("/sse"))
            await until(stream, b"data: first")
            assert not server.site.cancelled.is_set()
        await server.site.cancelled.wait()


async def test_a_head_in_pieces_of_seven_bytes() -> None:
    request = get("/scope/x", CLOSE, "X-Long: " + "y" * 200)
    async with served() as server:
        answer = await server.ask(*[request[i : i + 7] for i in range(0, len(request), 7)])
        assert answer.endswith(b"GET http://x/scope/x x True")


async def test_http_then_websocket_on_one_connection() -> None:
    async with served() as server, server.client() as stream, trio.open_nursery() as nursery:
        for _ in range(3):
            await stream.send_all(get("/hello"))
            assert (await until(stream, b"hello")).startswith(b"HTTP/1.1 200 ")
        ws = await wrap_client_stream(nursery, stream, "x", "/app/key")
        assert await ws.get_message() == "hello"
        await ws.send_message("still the same connection")
        assert await ws.get_message() == "still the same connection"
        assert (server.front.connections, len(server.edge.connections)) == (1, 1)
        await ws.aclose()


async def test_an_upgrade_behind_a_pipelined_request() -> None:
    async with served() as server, server.client() as stream:
        await stream.send_all(get("/hello") + HANDSHAKE + b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0")
        answer = await rest(stream)
        assert answer.index(b"200 OK") < answer.index(b"101 Switching") < answer.index(b"\x81\x02hi")
        assert answer.endswith(b"\x88\x00")


async def test_other_upgrades_are_ordinary_requests() -> None:
    async with served() as server:
        h2c = get("/hello", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAA")
        answer = await server.ask(h2c + get("/hello", CLOSE))
        assert answer.count(b"200 OK") == 2
        post = get("/hello", "Connection: Upgrade, close", "Upgrade: websocket", method="POST")
        assert (await server.ask(post)).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 8", b"426"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", b"400"),
        (b"Host: x\r\n", b"Host: x\r\nContent-Length: 5\r\n", b"400"),
    ],
)
async def test_bad_handshakes_are_refused(old: bytes, new: bytes, status: bytes) -> None:
    async with served() as server:
        answer = await server.ask(HANDSHAKE.replace(old, new))
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert not server.edge.connections


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 what\r\n\r\n", b"400"),
        (get("/echo", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n\r\n"), b"400"),
        (get("/echo", "Content-Length: 4", "Content-Length: 5", method="POST", body=b"12345"), b"400"),
        (get("/echo", "Content-Length: -1", method="POST"), b"400"),
        (get("/echo", "Transfer-Encoding: gzip, chunked", method="POST", body=b"0\r\n\r\n"), b"501"),
        (get("/hello", "Bad Header: x"), b"400"),
        (b"GET /hello HTTP/1.1\r\n\r\n", b"400"),
        (get("/hello", "Host: y"), b"400"),
        (get("ftp://x/hello"), b"400"),
        (get("http://me@x/hello"), b"400"),
    ],
)
async def test_what_could_smuggle_is_refused(request_bytes: bytes, status: bytes) -> None:
    async with served() as server:
        answer = await server.ask(request_bytes + get("/hello"))
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer.lower()


async def test_a_head_that_is_too_large() -> None:
    async with served(HttpLimits(head_bytes=1000)) as server:
        assert (await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2000)).startswith(b"HTTP/1.1 431 ")


async def test_slow_heads_and_idle_connections_end() -> None:
    async with served(HttpLimits(head=0.5, idle=0.5)) as server:
        assert (await server.ask(b"GET /hel")).startswith(b"HTTP/1.1 408 ")
        assert await server.ask() == b""
        assert (await server.ask(get("/hello"))).endswith(b"hello")


async def test_a_body_that_stalls_ends() -> None:
    async with served(HttpLimits(body=0.05, linger=0.05)) as server:
        answer = await server.ask(get("/echo", "Content-Length: 10", method="POST", body=b"half"))
        assert b"200" not in answer


async def test_a_client_that_does_not_read_its_answer_ends() -> None:
    async with served(HttpLimits(write=0.05)) as server:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", server.port))
        async with trio.SocketStream(sock) as stream:
            await stream.send_all(get("/big") * 40)
            while server.front.connections != 1:
                await trio.sleep(0.001)
            while server.front.connections != 0:
                await trio.sleep(0.001)


async def test_a_failing_handler_is_500_and_the_server_lives() -> None:
    async with served() as server:
        assert (await server.ask(get("/fail"))).startswith(b"HTTP/1.1 500 ")
        assert (await server.ask(get("/hello", CLOSE))).endswith(b"hello")


async def test_one_connection_too_many() -> None:
    async with served(HttpLimits(connections=1)) as server, server.client() as first:
        await first.send_all(get("/hello"))
        await until(first, b"hello")
        assert (await server.ask(get("/hello"))).startswith(b"HTTP/1.1 503 ")
        await first.send_all(get("/hello"))
        await until(first, b"hello")


async def test_stopping_finishes_what_runs_and_closes_what_is_idle() -> None:
    async with served() as server, server.client() as idle, server.client() as busy:
        await idle.send_all(get("/hello"))
        await until(idle, b"hello")
        await busy.send_all(get("/slow"))
        await server.site.running.wait()
        server.front.stop()
        assert await rest(idle) == b""
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", server.port)
        server.site.release.set()
        answer = await rest(busy)
        assert answer.endswith(b"done at last")
        assert b"connection: close" in answer.lower()
        await busy.aclose()
        await server.finished.wait()


async def test_stopping_is_bounded() -> None:
    async with served(HttpLimits(drain=0.05)) as server, server.client() as busy:
        await busy.send_all(get("/slow"))
        await server.site.running.wait()
        server.front.stop()
        await server.finished.wait()


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    certificate, key = self_signed(tmp_path)
    server = server_context(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    client.set_alpn_protocols(["h2", "http/1.1"])
    return server, client


@asynccontextmanager
async def tls_client(server: Served, context: ssl.SSLContext) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    transport = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=True)
    async with stream:
        await stream.do_handshake()
        yield stream


async def test_tls_http_and_websocket(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with served(context=contexts[0]) as server, tls_client(server, contexts[1]) as stream:
        assert stream.selected_alpn_protocol() == "http/1.1"
        await stream.send_all(get("/scope/tls"))
        assert (await until(stream, b"GET https://x/scope/tls tls True")).startswith(b"HTTP/1.1 200 ")
        async with trio.open_nursery() as nursery:
            ws = await wrap_client_stream(nursery, stream, "x", "/app/key", message_queue_size=64)
            assert await ws.get_message() == "hello"
            for outbox in server.edge.connections:
                for number in range(1000):
                    outbox.put(Delivery(encode_text(b"%5d" % number + b"." * 200), "c", Policy.CONTROL, 0))
            got = [await ws.get_message() for _ in range(1000)]
            assert [int(str(text).rstrip(".")) for text in got] == list(range(1000))
            await ws.aclose(1000)
            assert ws.closed
            assert ws.closed.code == 1000
        while server.edge.connections:
            await trio.sleep(0.001)


async def test_tls_handshake_has_a_deadline(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with served(HttpLimits(tls_handshake=0.5), contexts[0]) as server:
        async with server.client() as silent:
            assert await rest(silent) == b""
        assert (await server.ask(b"GET / HTTP/1.1\r\n\r\n"))[:9] != b"HTTP/1.1 "
        async with tls_client(server, contexts[1]) as stream:
            await stream.send_all(get("/hello", CLOSE))
            assert (await rest(stream)).endswith(b"hello")
