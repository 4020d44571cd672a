"""A whole relay under mutated input: bytes, requests of every route, and WebSockets with mutated frames and messages.

The relay and simulated providers run in a thread of their own; each example is sent over real sockets. Nothing that a
stranger sends may be logged as an error, and after each example health checks are answered and a subscriber gets events.
`make fuzz` tries many more examples.
"""

import contextlib
import json
import random
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.demo import document
from relay.plugins.manager import load_plugins
from relay.pusher.signatures import channel_auth, md5_hex, request_string, sign, signed_query, user_auth
from support.deadlines import WITHIN
from support.http_api import OURS
from support.running import API_KEY, APP, port_of, running_relay

#: hypothesis watches the random numbers of the whole process, and the relay in its thread takes some.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
#: Each example speaks over several sockets.
FEWER = settings(max_examples=settings().max_examples // 2)
HOST = b"Host: localhost\r\n"
ACCOUNT = "private-account.helio.main"
SOCKET_ID = re.compile(rb'socket_id[\\":]+([0-9]+\.[0-9]+)')
HANDSHAKE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Running:
    """A relay in a thread, what it has logged as errors, and an honest subscriber."""

    def __init__(self) -> None:
        self.errors: list[MutableMapping[str, Any]] = []
        self.port = 0
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WITHIN)
        if self._failure is not None:
            raise self._failure
        self.honest = connect(self.port)
        self.honest.sendall(b"GET /app/app-key?protocol=7 HTTP/1.1\r\n" + HOST + HANDSHAKE + b"\r\n")
        self._until(b"connection_established")
        self.honest.sendall(frame(message("pusher:subscribe", {"channel": "honest"})))
        self._until(b"subscription_succeeded")
        self._told = 0

    def stop(self) -> None:
        if self._token is not None and self._stop is not None:
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(WITHIN)

    def check(self) -> None:
        """Fail unless the relay is as well as before: nothing logged, health answered, events delivered."""
        assert ask(self.port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200 "
        )
        self._told += 1
        text = f"still here {self._told}"
        body = json.dumps({"name": "greeting", "channel": "honest", "data": text}).encode()
        answer = ask(self.port, signed("POST", "/apps/7/events", body, b"Connection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        self._until(text.encode())
        self.honest.sendall(frame(message("pusher:ping", {})))
        self._until(b"pusher:pong")
        errors, self.errors = self.errors, []  # the next example has none yet
        assert not errors, errors

    def _until(self, text: bytes) -> None:
        heard(self.honest, text)

    def _note(self, _: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if name in ("error", "critical", "exception") or event.get("exc_info"):
            self.errors.append(structlog.processors.format_exc_info(None, name, event))
        raise structlog.DropEvent

    def _run(self) -> None:
        before = structlog.get_config()
        structlog.configure(processors=[self._note], cache_logger_on_first_use=False)
        try:
            trio.run(self._serve)
        except Exception as failure:  # noqa: BLE001 - told to the test
            self._failure = failure
            self._ready.set()
        finally:
            structlog.configure(**before)

    async def _serve(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        with tempfile.TemporaryDirectory() as kept:
            async with trio.open_nursery() as simulators:
                found = [item.value for item in load_plugins().collect("relay_simulators")]
                started = [(each, await simulators.start(each.run)) for each in found]
                async with running_relay(
                    document(("127.0.0.1", 0), started)["providers"],
                    apps={"main": {**APP, "client_events": True, "subscription_count": True}},
                    api_keys={"main": {"key": API_KEY, "accounts": ["*"], "trade": ["*"], "inspect": ["*"]}},
                    server={"listen": "127.0.0.1:0", "status_public": True, "limits": {"linger": 0.2}},
                    store={"url": f"sqlite:///{kept}/store"},
                    plugins={"recorder": {"directory": f"{kept}/recordings", "events": True}},
                ) as relay:
                    self.port = port_of(relay)
                    self._ready.set()
                    await self._stop.wait()
                simulators.cancel_scope.cancel()


@pytest.fixture(scope="module")
def relay() -> Iterator[Running]:
    running = Running()
    running.start()
    try:
        yield running
    finally:
        running.honest.close()
        running.stop()


# Speaking ------------------------------------------------------------------------------------------------------------


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), WITHIN)
    sock.settimeout(WITHIN)
    return sock


def heard(sock: socket.socket, text: bytes) -> bytes:
    """Read until the text has come, and return everything."""
    so_far = b""
    while text not in so_far:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"{text!r} did not come within {WITHIN:g} s, only {so_far!r}") from None
        assert data, so_far
        so_far += data
    return so_far


def ask(port: int, *pieces: bytes, abrupt: bool = False) -> bytes:
    """Send the pieces and the end of input, and return everything that comes back until the relay closes."""
    with connect(port) as sock, contextlib.suppress(ConnectionError):
        answer = b""
        for piece in pieces:
            sock.sendall(piece)
        if abrupt:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        with contextlib.suppress(OSError):  # the relay has closed already
            sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            answer += data
        return answer
    return b""


def signed(method: str, path: str, body: bytes, headers: bytes = b"", params: dict[str, str] | None = None) -> bytes:
    query = signed_query(OURS, method, path, body, time.time(), params)
    return b"%b %b?%b HTTP/1.1\r\n%bContent-Length: %d\r\n%b\r\n%b" % (
        method.encode(),
        path.encode(),
        query.encode(),
        HOST,
        len(body),
        headers,
        body,
    )


def message(event: Any, data: Any, **beside: Any) -> bytes:
    return json.dumps({"event": event, "data": data, **beside}).encode()


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, mask: bytes = b"\1\2\3\4", rsv: int = 0) -> bytes:
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size <= 0xFFFF else b"\xff" + size.to_bytes(8, "big")
    return bytes([first]) + length + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with up to five changes, each of bytes or of a part."""
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice([1, 1, 2, 8, 64]))
        new = chance.choice(
            [
                b"",
                chance.randbytes(chance.choice([1, 2, 9])),
                data[at:to] * 2,
                chance.choice(SCRAPS),
            ]
        )
        data = data[:at] + new + data[chance.choice([at, to]) :]
    return data


SCRAPS = [
    b"\r\n", b"\n", b"\0", b"\xff\xfe", b"%00", b"%ff", b"%", b"..%2f", b"//", b"\\ud800", b'"', b"{", b"[" * 300, b"}" * 5,
    b"9" * 400, b"-1", b"1e999", b"NaN", b"null", b"true", b":", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n", b"Host: [\r\n", b"0\r\n\r\n", b"zz\r\n", b"fffffffffffffffff\r\n", b"x" * 20_000, b"HTTP/9.9",
    b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"?", b"&a=1&a=2", b"channels[]=a&channels[]=b", b"#",
    b"http://[", b"http://localhost/", b"\xed\xa0\x80", b"pusher:", b"client-", b"private-", b"presence-cache-", b"#server-to-user-",
]  # fmt: skip

# Strategies ----------------------------------------------------------------------------------------------------------

texts = st.text(max_size=30) | st.sampled_from(["", "a" * 300, "\ud800", "1.1", "*", "0" * 200, "NaN", "\0", "é" * 100])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 1e308, float("nan"), float("inf")])
    | st.floats()
    | texts
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
names = st.sampled_from(
    [
        "room", "private-room", "presence-room", "cache-room", "private-encrypted-room", "private-encrypted-cache-room",
        "quote.synthetic.BTC-USD", "cache-quote.all.EUR-USD", "depth.synthetic.BTC-USD", "private-account.helio.main", "quote.helio.EUR-USD",
        "private-account.helio.x", "presence-account.tektii.paper", "candle.tektii.AAPL.1m", "quote.binance.BTC-USDT", "status.helio", "cache-status.x", "#server-to-user-1", "", "quote..", "candle.binance.X.1m",
        "trade.bitstamp." + "X" * 140, "private-account.helio." + "%" * 20,
    ]
) | texts  # fmt: skip
members = st.dictionaries(
    st.sampled_from(
        [
            "name", "data", "channel", "channels", "socket_id", "info", "batch", "event", "user_id", "channel_name", "subscriptions",
            "stream", "filter", "command", "id", "account", "provider", "symbol", "side", "quantity", "order_type", "limit_price",
            "extra", "arguments", "dry_run", "client_order_id", "order_id", "since", "until", "good_till", "time_in_force",
        ]
    )
    | texts,
    anything | names | st.lists(names | anything, max_size=5),
    max_size=8,
)  # fmt: skip


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def repeated(name: str) -> bytes:
    return b"{" + b",".join(b'"%b":1' % name.encode() for _ in range(2000)) + b"}"


orders = st.fixed_dictionaries(
    {
        "command": st.sampled_from(["place_order", "cancel_order", "list_accounts", "call", "amend_order", "order_history"]) | texts,
        "provider": st.sampled_from(["helio", "scaletrade", "tektii", "crosstrade", "synthetic", "x"]),
        "account": st.sampled_from(["main", "paper", "Sim101"]) | texts,
    },
    optional={
        "id": anything,
        "symbol": st.sampled_from(["EUR/USD"]) | anything,
        "side": st.sampled_from(["BUY"]) | anything,
        "order_type": st.sampled_from(["MARKET", "LIMIT"]) | anything,
        "quantity": st.sampled_from(["1", "0.00000000001"]) | anything,
        "limit_price": anything,
        "extra": members | anything,
        "arguments": members | anything,
        "dry_run": anything,
        "since": anything | st.just("2026-01-01T00:00:00Z"),
    },
)  # fmt: skip
bodies = (
    members.map(as_json)
    | orders.map(as_json)
    | anything.map(as_json)
    | st.binary(max_size=60)
    | st.sampled_from([deep(100), deep(100_000), repeated("name"), b'"\\ud800"', b'{"data":"\\ud800"}', b"9" * 60_000, b"\xef\xbb\xbf{}"])
    | st.builds(lambda n: b"socket_id=1.1&channel_name=private-a&" + b"&".join([b"a=1"] * n), st.integers(0, 40))
)  # fmt: skip
paths = st.sampled_from(
    [
        "/", "/index.html", "/vendor", "/vendor/", "/dashboard.js/x", "/healthz", "/readyz", "/metrics", "/api/v2/status",
        "/api/v2/commands", "/api/v2/symbols", "/api/v2/frames", "/api/v2/asyncapi.json", "/api/v2/ws/session", "/api/v2/ws/streams", "/api/v2/ws/auth", "/schemas/quote.json", "/schemas/x.json",
        "/apps/7/events", "/apps/7/batch_events", "/apps/7/channels", "/apps/7/channels/room", "/apps/7/channels/presence-a/users",
        "/apps/7/channels/quote.synthetic.BTC-USD/history", "/apps/7/channels/room/events", "/apps/7/users/1/events",
        "/apps/7/users/1/terminate_connections", "/users/1/terminate_connections", "/apps/7/users/%2F%00%ff/events", "/apps", "/apps/",
        "/apps/8/events", "/%00", "/%ff%fe", "/..%2f..%2fetc/passwd", "/" + "a" * 5000, "//evil/x", "*", "/api", "/api/v2/", "/schemas",
    ]
)  # fmt: skip
methods = st.sampled_from(
    ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "get", "X-Y"]
)
params = st.dictionaries(
    st.sampled_from(
        ["info", "filter_by_prefix", "epoch", "after_seq", "limit", "name", "data", "channel", "socket_id", "channels[]", "body_md5", "app"]
    )
    | texts,
    texts | names | st.sampled_from(["user_count", "presence-", "subscription_count", "1", "-1", "9" * 30]),
    max_size=4,
) | st.dictionaries(
    st.sampled_from(["q", "provider", "account", "kind", "limit", "offset", "after"]),
    st.sampled_from(["btc", "EUR/USD", "synthetic", "helio", "main", "quote", "1", "0", "500"]) | texts,
    max_size=4,
)  # fmt: skip
headers = st.lists(
    st.sampled_from(
        [
            b"Authorization: Bearer " + API_KEY.encode(), b"Authorization: Bearer " + API_KEY.encode(), b"Authorization: Bearer \xff",
            b"Authorization: Basic x", b"Content-Type: application/json", b"Content-Type: application/x-www-form-urlencoded",
            b"Origin: https://a.example", b"Origin: \xff", b"Origin: null", b"Access-Control-Request-Method: POST", b"Range: bytes=0-1",
            b"Range: bytes=5-1,-", b"If-None-Match: x", b"If-Modified-Since: \xff", b"Expect: 100-continue", b"Idempotency-Key: \xff",
            b"Idempotency-Key: " + b"k" * 300, b"Idempotency-Key: a", b"Connection: close", b"Upgrade: h2c", b"Accept-Encoding: gzip",
            b"X-Forwarded-For: ::1", b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Content-Length: 99999999999999999999",
            b"Sec-Fetch-Site: cross-site", b"Cookie: " + b"c" * 9000, b"Host: evil.example", b"TE: trailers",
        ]
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def requests(draw: Callable[..., Any]) -> bytes:
    """A request of some route, often one that is authentic."""
    method, path, body, given_headers = draw(methods), draw(paths), draw(bodies | st.just(b"")), draw(headers)
    query = draw(params)
    if draw(st.booleans()):
        pairs = [(name.lower(), text) for name, text in query.items()]
        pairs = [(name, text) for name, text in dict(pairs).items() if not name.startswith("auth_")]
        pairs += [("auth_key", OURS.key), ("auth_timestamp", str(int(time.time()))), ("auth_version", "1.0")]
        if body and "body_md5" not in dict(pairs):
            pairs.append(("body_md5", md5_hex(body)))
        pairs.append(("auth_signature", sign(OURS.secret, request_string(method, path, pairs))))
    else:
        pairs = list(query.items())
    text = "&".join(f"{escaped(name)}={escaped(value)}" for name, value in pairs)
    chunked = draw(st.booleans()) and bool(body)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    size, last = draw(st.sampled_from([(b"%x" % len(body), b"0\r\n\r\n")] * 3 + STRANGE_CHUNKS))
    sent = b"%b\r\n%b\r\n%b" % (size, body, last) if chunked else body[: draw(st.sampled_from([None, None, None, 3]))]
    host = draw(st.sampled_from([HOST.strip()] * 4 + STRANGE_HOSTS))
    lines = [f"{method} {path}?{text} HTTP/1.1".encode(), host, *given_headers, length, b"", b""]
    return b"\r\n".join(lines) + sent


STRANGE_CHUNKS = [(b"zz", b"0\r\n\r\n"), (b"1;a=b", b""), (b"f" * 19, b""), (b"1", b"0\r\nX\r\n\r\n")]
STRANGE_HOSTS = [b"Host: [", b"Host: [::x]", b"Host: \xff", b"Host: evil.example", b"Host: a:b:c", b"Host:", b"X: y"]


def escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


@st.composite
def messages(draw: Callable[..., Any]) -> bytes:
    """A message of the protocol with some members as no client sends them."""
    channel = draw(names)
    kind = draw(st.integers(0, 6))
    if kind == 0:
        more = draw(
            st.dictionaries(
                st.sampled_from(["auth", "channel_data", "rewind", "resume", "snapshot", "epoch", "after_seq"]),
                anything,
                max_size=3,
            )
        )
        return message("pusher:subscribe", {"channel": channel, **more})
    if kind == 1:
        auth = channel_auth(OURS, "1.1", channel)
        return message(
            "pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": draw(members.map(json.dumps))}
        )
    if kind == 2:
        user = draw(members.map(json.dumps))
        return message("pusher:signin", {"auth": user_auth(OURS, "1.1", user), "user_data": user})
    if kind == 3:
        return message(
            draw(st.sampled_from(["client-a", "client-command", "client-"]) | texts),
            draw(orders | anything),
            channel=channel,
        )
    if kind == 4:
        return message("pusher:unsubscribe", draw(st.just({"channel": channel}) | anything))
    if kind == 5:
        event = draw(
            st.sampled_from(["pusher:ping", "pusher:pong", "pusher:resume", "tickrelay:history", "pusher_internal:x"])
            | anything
        )
        return message(event, draw(members | anything))
    return draw(bodies)  # type: ignore[no-any-return]


frames = st.builds(
    frame,
    messages(),
    st.sampled_from([1, 1, 1, 1, 1, 2, 0, 8, 9, 10, 3, 11]),
    fin=st.sampled_from([True, True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 4, 1]),
)
targets = st.sampled_from(
    [b"/app/app-key?protocol=7"] * 6
    + [
        b"/app/app-key", b"/app/x?protocol=7", b"/app/app-key?protocol=\xff", b"/app/%ff?protocol=7", b"/?protocol=7", b"/app/app-key/x",
        b"/app/app-key?protocol=" + b"9" * 5000, b"/app/app-key?protocol=7&version=%00&client=%ff&flash=1&resume=1", b"/apps/7/events",
        b"http://localhost/app/app-key?protocol=7",
    ]
)  # fmt: skip

# Tests ---------------------------------------------------------------------------------------------------------------


@FEWER
@given(st.lists(requests(), min_size=1, max_size=4), st.booleans())
def test_requests_of_every_route(relay: Running, sent: list[bytes], pipelined: bool) -> None:
    if pipelined:
        ask(relay.port, *sent)
    else:
        for each in sent:
            ask(relay.port, each)
    relay.check()


@FEWER
@given(targets, headers, st.lists(frames, max_size=12), st.binary(max_size=20), st.booleans())
def test_subscribers_with_strange_messages(
    relay: Running, target: bytes, more: list[bytes], sent: list[bytes], end: bytes, abrupt: bool
) -> None:
    strange = b"".join(line + b"\r\n" for line in more[:1])
    head = b"GET " + target + b" HTTP/1.1\r\n" + HOST + HANDSHAKE + strange + b"\r\n"
    ask(relay.port, head, *sent, end, abrupt=abrupt)
    relay.check()


@FEWER
@example([b""], [{"command": "place_order", "provider": "helio", "account": "main", "id": 0.5}], False)
@given(st.lists(frames, min_size=1, max_size=12), st.lists(orders, max_size=3), st.booleans())
def test_members_with_strange_messages(
    relay: Running, sent: list[bytes], commands: list[dict[str, Any]], abrupt: bool
) -> None:
    """A user that has signed in, is in a presence channel and may trade on an account."""
    with connect(relay.port) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"GET /app/app-key?protocol=7 HTTP/1.1\r\n" + HOST + HANDSHAKE + b"\r\n")
        socket_id = SOCKET_ID.search(heard(sock, b"activity_timeout"))
        assert socket_id is not None
        for said in joining(relay.port, socket_id[1].decode()):
            sock.sendall(frame(said))
        heard(sock, b'subscription_succeeded","channel":"' + ACCOUNT.encode())
        for command in commands:
            sock.sendall(frame(message("client-command", command, channel=ACCOUNT)))
        sock.sendall(b"".join(sent))
        if abrupt:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.sendall(frame(b"", 8))
            while sock.recv(65536):
                pass
    relay.check()


def joining(port: int, socket_id: str) -> Iterator[bytes]:
    """The messages that sign a user in, and join a presence channel and an account."""
    user, member = json.dumps({"id": "1", "watchlist": ["1", "2"]}), json.dumps({"user_id": "1"})
    yield message("pusher:signin", {"auth": user_auth(OURS, socket_id, user), "user_data": user})
    auth = channel_auth(OURS, socket_id, "presence-room", member)
    yield message("pusher:subscribe", {"channel": "presence-room", "auth": auth, "channel_data": member})
    body = json.dumps({"socket_id": socket_id, "channel_name": ACCOUNT}).encode()
    head = b"POST /api/v2/ws/auth HTTP/1.1\r\n%bAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
    answer = ask(port, head % (HOST, API_KEY.encode()) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    proof = json.loads(answer.partition(b"\r\n\r\n")[2])
    yield message("pusher:subscribe", {"channel": ACCOUNT, **proof})


@FEWER
@given(st.integers(0, 2**32), st.lists(requests(), min_size=1, max_size=3), st.lists(frames, min_size=1, max_size=3))
def test_mutated_bytes(relay: Running, seed: int, sent: list[bytes], said: list[bytes]) -> None:
    chance = random.Random(seed)
    upgrade = b"GET /app/app-key?protocol=7 HTTP/1.1\r\n" + HOST + HANDSHAKE + b"\r\n"
    for each in (*sent, upgrade + b"".join(said)):
        data = mutated(each, chance)
        at = chance.randrange(len(data) + 1)
        ask(relay.port, data[:at], data[at:], abrupt=chance.random() < 0.1)
    ask(relay.port, upgrade, mutated(b"".join(said), chance))
    ask(relay.port, chance.randbytes(chance.randrange(300)))
    relay.check()
