"""The simulator base over real sockets: sessions, HTTP beside them, and every fault."""

import contextlib
import socket
import struct

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from relay.testing.simulator import (
    Close,
    Drop,
    Garbage,
    HttpRequest,
    HttpResponse,
    Mute,
    Refuse,
    Simulator,
    Slow,
    Takeover,
)
from support.deadlines import WITHIN
from support.dialling import UPGRADE, close_code, dialled


class Echo(Simulator):
    """Says hello, echoes frames, answers HTTP with what it was asked; `/closed` is not admitted."""

    ws_path = "/ws"
    http_path = "/api"
    takeover = Close(4409, "session active elsewhere")

    def __init__(self):
        super().__init__()
        self.gone = trio.Event()

    async def answer(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(body=f"{request.method} {request.target} {request.body.decode()}", headers={"x-echo": "1"})

    def admit(self, request):
        return HttpResponse(status=403, body="closed") if request.target.startswith("/closed") else None

    def opened(self, link):
        link.send(f"hello {link.query.get('name', 'you')}")

    def received(self, link, message):
        link.send(message if isinstance(message, str) else "binary")

    def closed(self, link):
        self.gone.set()


@pytest.fixture
async def echo():
    simulator = Echo()
    async with simulator.serve() as at:
        yield simulator, at


async def heard(socket):
    with trio.fail_after(WITHIN):
        return await socket.get_message()


async def test_http_and_websocket_on_one_port(echo):
    simulator, at = echo
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{at.http}/login?x=1", content=b"body")
    assert (answer.text, answer.headers["x-echo"]) == ("POST /api/login?x=1 body", "1")
    async with dialled(f"{at.ws}?name=me") as socket:
        assert await heard(socket) == "hello me"
        await socket.send_message("one")
        await socket.send_message(b"two")
        assert [await heard(socket), await heard(socket)] == ["one", "binary"]
        (link,) = simulator.links
        assert list(link.received) == ["one", b"two"]
        assert link.request.headers["upgrade"] == "websocket"


async def test_a_session_that_ends_is_forgotten(echo):
    simulator, at = echo
    async with dialled(at.ws) as socket:
        await heard(socket)
    with trio.fail_after(WITHIN):
        await simulator.gone.wait()
    assert not simulator.links


async def test_who_is_not_admitted_gets_the_answer(echo):
    _, at = echo
    async with httpx.AsyncClient() as http:
        refused = await http.get(f"http://127.0.0.1:{at.port}/closed", headers=UPGRADE)
    assert (refused.status_code, refused.text) == (403, "closed")


async def test_faults_are_taken_in_order_by_one_connection_each(echo):
    simulator, at = echo
    simulator.next_connection(Refuse(503, "later", {"retry-after": "7"}))
    simulator.next_connection()
    simulator.next_connection(Garbage("%&$"))
    async with httpx.AsyncClient() as http:
        refused = await http.get(at.ws.replace("ws:", "http:"), headers=UPGRADE)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    async with dialled(at.ws) as socket:
        assert await heard(socket) == "hello you"
    async with dialled(at.ws) as socket:
        assert [await heard(socket), await heard(socket)] == ["%&$", "hello you"]
    async with dialled(at.ws) as socket:
        assert await heard(socket) == "hello you"


async def test_a_drop_after_some_messages_has_no_close_frame(echo):
    simulator, at = echo
    simulator.next_connection(Drop(after=2))
    async with dialled(at.ws) as socket:
        assert await heard(socket) == "hello you"
        await socket.send_message("x")
        assert await close_code(socket) is None


@pytest.mark.parametrize(("fault", "code"), [(Close(4001, "go"), 4001), (Takeover(), 4409), (Drop(), None)])
async def test_faults_on_a_live_session(echo, fault, code):
    simulator, at = echo
    async with dialled(at.ws) as socket:
        await heard(socket)
        simulator.inject(fault)
        assert await close_code(socket) == code


async def test_a_muted_session_stays_open_and_says_nothing_not_even_pong(echo, mock_clock):
    simulator, at = echo
    async with dialled(at.ws) as socket:
        await heard(socket)
        (await simulator.wait_connected()).inject(Mute())
        mock_clock.autojump_threshold = 0.05
        await socket.send_message("x")
        with trio.move_on_after(3) as silence:
            await socket.ping()
        assert silence.cancelled_caught
        assert not socket.closed
        with trio.move_on_after(3) as silence, contextlib.suppress(ConnectionClosed):
            await socket.get_message()
        assert silence.cancelled_caught
        await trio.aclose_forcefully(socket._stream)


async def test_a_slow_session_waits_before_each_message(echo, mock_clock):
    simulator, at = echo
    simulator.next_connection(Slow(30))
    async with dialled(at.ws) as socket:
        (await simulator.wait_connected()).send("more")
        mock_clock.autojump_threshold = 0.05
        with trio.fail_after(WITHIN):
            assert [await socket.get_message(), await socket.get_message()] == ["hello you", "more"]
        assert trio.current_time() >= 60


@pytest.mark.parametrize(("fault", "status"), [(Refuse(500, "no"), 500), (Refuse(429), 429), (Slow(0.01), 200)])
async def test_faults_of_a_request(echo, fault, status):
    simulator, at = echo
    simulator.next_request(fault)
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{at.http}/x")).status_code == status
        assert (await http.get(f"{at.http}/x")).status_code == 200
    assert [request.target for request in simulator.requests] == ["/api/x", "/api/x"]


async def test_a_dropped_request_has_no_answer(echo):
    simulator, at = echo
    simulator.next_request(Drop())
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"{at.http}/x")


async def test_a_live_session_cannot_be_refused(echo):
    simulator, at = echo
    async with dialled(at.ws) as socket:
        await heard(socket)
        with pytest.raises(ValueError, match="next connection"):
            simulator.inject(Refuse(503))


async def test_a_client_that_does_not_read_is_disconnected_and_nobody_waits_for_it(echo):
    simulator, at = echo
    async with dialled(at.ws) as lazy, dialled(at.ws) as other:
        await heard(other)
        first = await simulator.wait_connected()
        for _ in range(10_100):
            first.send("x" * 1000)
        await other.send_message("still here")
        assert await heard(other) == "still here"
        assert await close_code(lazy) is None
    assert first not in simulator.links


async def test_the_server_s_own_pings_end_a_dead_client():
    class Pinging(Echo):
        ping_every = 0.01

    simulator = Pinging()
    async with simulator.serve() as at, dialled(at.ws) as socket:
        await heard(socket)
        for _ in range(5):
            await socket.ping()
        assert simulator.links


async def test_a_client_that_resets_within_the_handshake_ends_only_its_own_connection(echo):
    _, at = echo
    asked = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    for _ in range(20):
        stream = await trio.open_tcp_stream("127.0.0.1", at.port)
        await stream.send_all(f"GET /ws HTTP/1.1\r\nHost: x\r\n{asked}\r\n".encode())
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    async with dialled(at.ws) as other:
        assert await heard(other) == "hello you"
