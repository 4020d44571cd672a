"""HTTP as strangers speak it: refused with a fixed text, without a traceback, and before anything is read or kept for it."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from relay.demo import document
from relay.model.command_input import CommandError, read
from relay.pusher.apps import App
from relay.pusher.signatures import signed_query
from relay.server.admission import Admission, HttpLimits, forwarded_for, network_of
from relay.server.api.channels import ApiSettings
from relay.server.http import HttpServer, OwnPages, host_name, open_listeners
from support.api_harness import Rig
from support.deadlines import WITHIN
from support.http_api import OURS, ask, send
from support.raw import Closed, raw
from support.running import API_KEY, APP, port_of, running_relay

BEARER = f"Authorization: Bearer {API_KEY}"
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
EVENT = b'{"name":"e","channel":"c","data":"d"}'


@asynccontextmanager
async def calm(**tables: Any) -> AsyncIterator[int]:
    """Run a relay that logs no error, whatever the test sends to the port."""
    with capture_logs() as logs:
        async with running_relay(**tables) as relay:
            yield port_of(relay)
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []


def request(line: str, *headers: str, host: str | None = "localhost", body: bytes = b"") -> bytes:
    lines = [line + " HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def authentic(body: bytes, path: str = "/apps/7/events", *headers: str, length: int | None = None) -> bytes:
    """A request of which the head is authentic, whatever its body."""
    query = signed_query(OURS, "POST", path, body, time.time())
    announced = f"Content-Length: {len(body) if length is None else length}"
    return request(f"POST {path}?{query}", announced, *headers)


async def answer(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """Send the pieces and return the answer, up to the end of the connection."""
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for piece in pieces:
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked(0.01)
            if end:
                await stream.send_eof()
            return b"".join([part async for part in stream])


# Malformed requests --------------------------------------------------------------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhell", b"-1\r\n", b"1\r\nab\r\n", b"f" * 30 + b"\r\n"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("line", ["POST /api/v2/commands", "GET /healthz", "POST /nothing", "POST /apps/7/events"])
async def test_a_malformed_chunk_is_no_error_of_ours(line: str, whole: bool, body: bytes) -> None:
    async with calm() as port:
        head = request(line, CHUNKED, BEARER)
        said = await answer(port, *([head + body] if whole else [head, body]), end=True)
    # An answer that does not depend on the body may come first.
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 200 ", b"HTTP/1.1 401 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
    assert said.count(b"\r\ndate: ") == 1


async def test_a_body_that_the_application_reads_is_400_when_it_is_malformed() -> None:
    async with calm() as port:
        for pieces in (
            [request("POST /api/v2/commands", CHUNKED, BEARER), b"zz\r\n"],
            [request("POST /api/v2/commands", CHUNKED, BEARER), b"1\r\n{\r\n", b"zz\r\n"],
            [request("POST /api/v2/commands", "Content-Length: 10", BEARER), b"{}"],
        ):
            assert (await answer(port, *pieces, end=True)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"GET /\xff?auth_signature=secret HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"illegal request line"),
        (b"GET / HTTP/1.1\r\nHo st: secret\r\n\r\n", b"400", b"illegal header line"),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400", b""),
        (b"HEAD / HTTP/1.1\r\nHost: secret.example\r\n\r\n", b"421", b""),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505", b"HTTP/1.1"),
        (b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"501", b"CONNECT"),
        (b"CONNECT secret:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"501", b"CONNECT"),
        (b"GET secret HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"path or a URL"),
        (b"GET http://[x/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"path or a URL"),
        (b"GET /api HTTP/1.1\r\nHost: [\r\n\r\n", b"400", b"Host"),
        (b"GET /vendor HTTP/1.1\r\nHost: [::x]\r\n\r\n", b"400", b"Host"),
        (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404", b""),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404", b""),
    ],
)
async def test_what_is_wrong_is_said_without_what_was_sent(sent: bytes, status: bytes, text: bytes) -> None:
    async with calm() as port:
        said = await answer(port, sent)
    assert said.startswith(b"HTTP/1.1 " + status)
    assert text in said
    assert b"secret" not in said
    assert b"bytearray" not in said


async def test_a_head_after_a_head_request_is_refused_with_a_text() -> None:
    async with calm() as port:
        said = await answer(port, request("HEAD /healthz"), b"bad\r\n\r\n")
    assert said.count(b"HTTP/1.1 ") == 2
    assert said.endswith(b"illegal request line\n")


@pytest.mark.parametrize("size", [16_500, 30_000])
async def test_a_complete_head_is_bounded_as_well(size: int) -> None:
    async with calm() as port:
        said = await answer(port, request("GET /healthz", "Cookie: " + "x" * size, "Connection: close"))
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"server.limits.head_bytes" in said


async def test_an_absolute_target_is_a_path_and_its_host() -> None:
    async with calm() as port:
        said = await answer(
            port, request("GET http://LOCALHOST:1/healthz?a=b", "Connection: close", host="evil.example")
        )
        assert said.startswith(b"HTTP/1.1 200 ")
        said = await answer(port, request("GET http://localhost", "Connection: close"))
        assert b"<html" in said
        said = await answer(port, request("GET http://evil.example/healthz"))
        assert said.startswith(b"HTTP/1.1 421 ")
        async with raw(port, f"http://localhost/app/{APP['key']}?protocol=7") as client:
            assert client.socket_id


async def test_the_subprotocol_of_the_swift_client_comes_back() -> None:
    async with calm() as port:
        line = f"GET /app/{APP['key']}?protocol=7"
        offer = "Sec-WebSocket-Protocol: other, pusher-channels-protocol-7\r\n"
        for offered, back in ((offer, True), ("Sec-WebSocket-Protocol: other\r\n", False), ("", False)):
            with trio.fail_after(WITHIN):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(request(line, (HANDSHAKE + offered)[:-2]))
                    said = b""
                    while b"connection_established" not in said:
                        said += await stream.receive_some()
            assert (b"\r\nSec-WebSocket-Protocol: pusher-channels-protocol-7\r\n" in said) is back
            assert b"other" not in said


# Bodies --------------------------------------------------------------------------------------------------------------


async def test_no_body_is_read_before_its_signature_is_right() -> None:
    async with calm() as port:
        head = authentic(EVENT, length=1_000_000)
        assert (await answer(port, head.replace(b"auth_signature=", b"auth_signature=0"))).startswith(b"HTTP/1.1 401 ")
        said = await answer(port, authentic(b"", length=1_000_000))
        assert said.startswith(b"HTTP/1.1 401 ")
        assert b"body_md5 is missing" in said
        assert (await answer(port, authentic(EVENT, length=2_000_000))).startswith(b"HTTP/1.1 413 ")
        said = await answer(port, authentic(EVENT, "/apps/7/no_such", length=1_000_000))
        assert said.startswith(b"HTTP/1.1 404 ")


async def test_bodies_of_all_connections_are_bounded() -> None:
    server = {"listen": "127.0.0.1:0", "limits": {"bodies": 1_048_576}}
    async with calm(server=server) as port, AsyncExitStack() as open_:
        first = await open_.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        body = EVENT[:-1] + b" " * 900_000 + b"}"
        await first.send_all(authentic(body) + body[:-1])
        with trio.fail_after(WITHIN):
            while b"503" not in (
                said := await answer(port, authentic(body, "/apps/7/events", "Connection: close"), body)
            ):
                assert said.startswith(b"HTTP/1.1 200 "), said  # the first one's has not arrived yet
        assert b"server.limits.bodies" in said
        assert b"retry-after: 1" in said.lower()
        await first.send_all(body[-1:])
        with trio.fail_after(WITHIN):
            assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, "POST", "/apps/7/events", json.loads(EVENT))).status_code == 200


def test_a_million_members_take_linear_time() -> None:
    """When every name was compared with every other one, these took minutes."""
    names = [f'"{n}":1' for n in range(100_000)]
    started = time.process_time()
    with pytest.raises(CommandError, match="occurs twice"):
        read("{" + ",".join([*names, names[-1]]) + "}")
    assert time.process_time() - started < 10


async def test_half_a_surrogate_pair_is_called_that() -> None:
    async with calm() as port:
        for path, body in (("/apps/7/events", b'{"name":"\\ud800","channel":"c","data":"d"}'),):
            said = await answer(port, authentic(body, path, "Connection: close"), body)
            assert said.startswith(b"HTTP/1.1 400 ")
            assert b"half a character" in said
        async with raw(port) as client:
            await client.send('{"event":"pusher:subscribe","data":{"channel":"\\ud800"}}')
            assert "half a character" in (await client.hear("pusher:error"))["message"]


# The Pusher HTTP API -------------------------------------------------------------------------------------------------


async def test_an_event_may_be_given_in_the_query() -> None:
    async with calm() as port, raw(port) as client:
        await client.subscribe("a")
        await client.subscribe("b")
        listed = [("channels[]", "b"), ("channels[]", "a")]
        assert (await in_query(port, [("name", "e"), ("data", "1"), *listed], b"")).status_code == 200
        assert {(await client.receive())["channel"] for _ in range(2)} == {"a", "b"}
        body = json.dumps({"name": "e", "data": "2"}).encode()
        assert (await in_query(port, [("channel", "a"), ("name", "e")], body)).status_code == 200
        assert await client.hear("e", "a") == 2
        refused = await in_query(port, [("channel", "a"), ("name", "other")], body)
        assert (refused.status_code, refused.json()["error"]) == (400, "name: the query and the body differ")
        refused = await in_query(port, [("channel", "a")], b"")
        assert refused.status_code == 400
        assert "name" in refused.json()["error"]
        refused = await in_query(port, [("name", "e"), ("name", "e")], body)
        assert "'name' occurs twice" in refused.json()["error"]


async def in_query(port: int, pairs: list[tuple[str, str]], body: bytes) -> Any:
    from relay.pusher.signatures import md5_hex, request_string, sign

    path = "/apps/7/events"
    own = [("auth_key", APP["key"]), ("auth_timestamp", str(int(time.time()))), ("auth_version", "1.0")]
    all_ = [*pairs, *own, *([("body_md5", md5_hex(body))] if body else [])]
    signature = sign(APP["secret"], request_string("POST", path, all_))
    query = "&".join(f"{name}={text}" for name, text in [*all_, ("auth_signature", signature)])
    return await send(port, "POST", f"{path}?{query}", body)


async def test_batches_are_refused_in_the_words_of_the_official_library() -> None:
    async with calm() as port:
        item = {"name": "e", "channel": "c", "data": "x"}
        refused = await ask(port, "POST", "/apps/7/batch_events", {"batch": [item] * 11})
        assert (refused.status_code, "Batch too large" in refused.text) == (400, True)
        refused = await ask(port, "POST", "/apps/7/batch_events", {"batch": [item, {**item, "data": "x" * 10_241}]})
        assert (refused.status_code, "content of this event" in refused.text) == (413, True)


# Hosts and pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        ({}, "localhost", 200),
        ({}, "LocalHost.:6001", 200),
        ({}, "127.0.0.1:1", 200),
        ({}, "[::1]:1", 200),
        ({}, "evil.example", 421),
        ({}, "localhost.evil.example", 421),
        ({"public_url": "https://feed.example.com"}, "feed.example.com", 200),
        ({"public_url": "https://feed.example.com"}, "evil.example", 421),
        ({"hosts": ["relay.local"]}, "relay.local:80", 200),
        ({"hosts": ["relay.local"]}, "localhost", 421),
        ({"hosts": ["*"]}, "evil.example", 200),
        ({"behind_proxy": True}, "feed.example.com", 200),
    ],
)
async def test_hosts(server: dict[str, Any], host: str, status: int) -> None:
    async with calm(server={"listen": "127.0.0.1:0", **server}) as port:
        said = await answer(port, request("GET /healthz", "Connection: close", host=host))
        assert said.startswith(b"HTTP/1.1 %d " % status)
        assert (b"server.hosts" in said) is (status == 421)
        upgrade = request(f"GET /app/{APP['key']}?protocol=7", HANDSHAKE[:-2], host=host)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(upgrade)
            said = await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 %d " % (101 if status == 200 else status))


def test_names_in_host() -> None:
    for host, name in ((b"A:1", "a"), (b"a", "a"), (b"[::1]", "[::1]"), (b"[::1]:80", "[::1]"), (b"a.:", "a")):
        assert host_name(host) == name


async def test_the_demo_tells_its_key_to_its_own_page_only() -> None:
    rig = Rig(ApiSettings(app_id="3", status_public=True, demo_api_key="the-key"))
    async with rig.http:
        for headers, told in (
            ({}, True),
            ({"Sec-Fetch-Site": "same-origin"}, True),
            ({"Origin": "http://relay.test:6001"}, True),
            ({"Origin": "https://evil.example"}, False),
            ({"Sec-Fetch-Site": "cross-site"}, False),
            ({"Sec-Fetch-Site": "same-site"}, False),
        ):
            status = (await rig.http.get("/api/v2/status", headers=headers)).json()
            assert ("demo_api_key" in status) is told, headers
    app = document(("127.0.0.1", 0), [])["apps"]["demo"]
    demo = App(id="1", key="k", secrets=("s",), allowed_origins=app["allowed_origins"])
    assert demo.origin_allowed("http://127.0.0.1:6001")
    assert demo.origin_allowed("http://[::1]:3000")
    assert not demo.origin_allowed("https://evil.example")
    assert not demo.origin_allowed("null")


# Connections ---------------------------------------------------------------------------------------------------------


async def test_an_administrator_is_answered_when_connections_are_full() -> None:
    server = {"listen": "127.0.0.1:0", "status_public": True, "limits": {"connections": 1}}
    async with calm(server=server) as port, raw(port):
        for path in ("/healthz", "/readyz", "/metrics", "/api/v2/status"):
            assert (await answer(port, request(f"GET {path}"))).startswith(b"HTTP/1.1 200 ")
        for said in (await answer(port, request("GET /")), await answer(port, authentic(EVENT))):
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"server.limits.connections" in said
        with pytest.raises(Closed):
            async with raw(port):
                pass


async def test_connections_of_one_client_behind_a_proxy_are_bounded() -> None:
    server = {"listen": "127.0.0.1:0", "behind_proxy": True, "limits": {"connections_per_address": 2}}
    async with calm(server=server) as port:
        await take_turns(port, "X-Forwarded-For: 198.51.100.1, {}", ["203.0.113.7"] * 3, "203.0.113.8")
        await take_turns(
            port, "X-Forwarded-For: {}", ["2001:db8::1", "2001:db8::2", "[2001:db8::3]:9"], "2001:db8:0:1::1"
        )


async def test_connections_of_one_peer_are_bounded() -> None:
    limits = HttpLimits(connections_per_address=2, idle=60, head=60)
    admission = Admission(limits, uncounted=lambda address: False)
    server = HttpServer(nothing, None, limits, admission=admission)  # type: ignore[arg-type]
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port), await trio.open_tcp_stream("127.0.0.1", port):
            await trio.testing.wait_all_tasks_blocked(0.01)
            # The first refused ones get connections that are kept for an administrator.
            said = await answer(port, request("GET /"))
            assert said.startswith(b"HTTP/1.1 503 ")
        with trio.fail_after(WITHIN):
            while admission.refusal_of_address("127.0.0.1") is not None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


async def take_turns(port: int, header: str, clients: list[str], other: str) -> None:
    """The third client of one address is refused, another one is not; after one left there is room again."""
    async with AsyncExitStack() as stay:
        first = await upgraded(stay, port, header.format(clients[0]))
        await upgraded(stay, port, header.format(clients[1]))
        with pytest.raises(AssertionError, match=r"503[^$]*server\.limits\.connections_per_address"):
            await upgraded(stay, port, header.format(clients[2]))
        await upgraded(stay, port, header.format(other))
        await first.aclose()
        with trio.fail_after(WITHIN):
            while True:
                try:
                    await upgraded(stay, port, header.format(clients[2]))
                except AssertionError:
                    await trio.sleep(0.01)  # the relay has not seen the end yet
                else:
                    break


async def upgraded(stay: AsyncExitStack, port: int, header: str) -> trio.SocketStream:
    stream = await stay.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
    await stream.send_all(request(f"GET /app/{APP['key']}?protocol=7", HANDSHAKE + header))
    with trio.fail_after(WITHIN):
        said = await stream.receive_some()
    assert said.startswith(b"HTTP/1.1 101 "), said
    return stream


def test_addresses() -> None:
    assert network_of("203.0.113.7") == "203.0.113.7"
    assert network_of("::ffff:203.0.113.7") == "203.0.113.7"
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::1") == "2001:db8::/64"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("unknown") is None
    for value, address in (
        (b"203.0.113.7", "203.0.113.7"),
        (b"evil, 203.0.113.7", "203.0.113.7"),
        (b"203.0.113.7:99", "203.0.113.7"),
        (b"[2001:db8::1]:99", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"203.0.113.7, \xff", None),
        (b"", None),
    ):
        assert forwarded_for([(b"x-forwarded-for", value)]) == address
    assert forwarded_for([]) is None
    assert forwarded_for([(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")]) == "2.2.2.2"


# Pages of the relay itself, and of others ---------------------------------------------------------------------------------

NAMED = frozenset({"localhost", "127.0.0.1", "feed.example.com"})


@pytest.mark.parametrize(
    ("hosts", "public_url", "origin", "host", "secure", "own"),
    [
        (NAMED, None, "http://127.0.0.1:6001", "127.0.0.1:6001", False, True),
        (NAMED, None, "http://LocalHost:6001", "localhost:6001", False, True),
        (NAMED, None, "https://feed.example.com", "feed.example.com", True, True),
        (
            NAMED,
            None,
            "https://feed.example.com",
            "feed.example.com",
            False,
            True,
        ),  # a proxy that does not tell of its TLS
        (
            NAMED,
            None,
            "http://feed.example.com",
            "feed.example.com",
            True,
            False,
        ),  # anybody on the way can make that page
        (NAMED, None, "http://127.0.0.1:3000", "127.0.0.1:6001", False, False),  # another program on this machine
        (NAMED, None, "https://app.example.com", "feed.example.com", True, False),
        (NAMED, None, "null", "127.0.0.1:6001", False, False),
        (NAMED, None, "http://127.0.0.1:6001", None, False, False),
        (None, None, "http://evil.example:6001", "evil.example:6001", False, False),  # rebound to this machine
        (None, None, "http://192.0.2.7:6001", "192.0.2.7:6001", False, True),
        (None, None, "http://[2001:db8::7]:6001", "[2001:db8::7]:6001", False, True),
        (None, "https://feed.example.com/", "https://feed.example.com", "127.0.0.1:6001", False, True),
        (None, "https://feed.example.com:443", "https://feed.example.com", None, False, True),
        (None, "https://feed.example.com", "https://feed.example.com.evil.example", "127.0.0.1:6001", False, False),
    ],
)
def test_which_pages_are_the_relays_own(hosts, public_url, origin, host, secure, own) -> None:  # type: ignore[no-untyped-def]
    assert OwnPages(hosts, public_url)(origin, host, secure) is own


async def opening(port: int, origin: str, host: str) -> bytes:
    """Ask for a WebSocket as a page of ``origin`` does, and return the first bytes behind the handshake."""
    head = request(f"GET /app/{APP['key']}?protocol=7", HANDSHAKE.strip(), f"Origin: {origin}", host=host)
    got = b""
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(head)
            while not got.partition(b"\r\n\r\n")[2]:
                got += await stream.receive_some()
    return got.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("allowed", [[], ["https://app.example.com"]])
async def test_the_relays_own_page_needs_no_permission_and_a_refused_one_is_logged(allowed: list[str]) -> None:
    apps = {"main": {**APP, "allowed_origins": allowed}}
    with capture_logs() as logs:
        async with running_relay(apps=apps) as relay:
            port = port_of(relay)
            assert b"connection_established" in await opening(port, f"http://127.0.0.1:{port}", f"127.0.0.1:{port}")
            assert not any(entry["event"] == "subscriber refused" for entry in logs)
            assert b"Origin not allowed" in await opening(port, "http://evil.example", f"127.0.0.1:{port}")
            assert b"Origin not allowed" in await opening(port, "http://127.0.0.1:1", f"127.0.0.1:{port}")
    refused = [entry for entry in logs if entry["event"] == "subscriber refused"]
    assert [(entry["app"], entry["code"], entry["origin"]) for entry in refused] == [
        (APP["key"], 4009, "http://evil.example"),
        (APP["key"], 4009, "http://127.0.0.1:1"),
    ]
