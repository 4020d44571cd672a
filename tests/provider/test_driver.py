"""The shell of a provider session against a real WebSocket server on this machine."""

import base64
import hashlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
import trio_websocket

import relay.provider.driver
from relay.adapter import (
    Adapter,
    Answer,
    Backoff,
    CommandReply,
    Context,
    Fetch,
    Heartbeat,
    Learned,
    Offer,
    Redial,
    Session,
    Subscribe,
    Unsubscribe,
    dumps,
    loads,
)
from relay.app import supervise
from relay.model.channels import Topic
from relay.model.commands import PlaceOrder
from relay.model.events import Quote
from relay.provider.connection import Deadlines, Line
from relay.provider.driver import ProviderSession
from relay.provider.http import HttpClient
from support.deadlines import WITHIN
from support.http_api import Answering
from support.lone_session import lone_session

A = Topic(kind="quote", symbol="A")
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
QUICK = Backoff(first=0.01, cap=0.01)


class Feed(Adapter):
    name = "feed"
    session = Session(url="ws://127.0.0.1:{port}/ws?token={token}", backoff=QUICK)
    offers = (Offer(kind="quote"),)
    commands = (PlaceOrder,)

    def encode(self, outgoing):
        match outgoing:
            case Subscribe(topics):
                yield dumps({"sub": [topic.symbol for topic in topics]})
            case Unsubscribe(topics):
                yield dumps({"unsub": [topic.symbol for topic in topics]})
            case PlaceOrder(id=id):
                yield dumps({"order": id})

    def decode(self, message):
        match loads(message):
            case {"quote": symbol, "bid": bid}:
                yield Quote(symbol=symbol, bid=bid)
            case {"reply": id}:
                yield CommandReply(id, result="done")


def declared(**changes: Any) -> type[Adapter]:
    session = Session(**({"url": Feed.session.url, "backoff": QUICK} | changes))
    return type("Declared", (Feed,), {"session": session})


class Events:
    """The published events, which a test can wait for."""

    def __init__(self) -> None:
        self._put, self._items = trio.open_memory_channel[Any](1000)

    def __call__(self, event: Any, stamp: Any) -> None:
        self._put.send_nowait(event)

    async def next(self, kind: str) -> Any:
        """The next event of this kind; others before it are let go."""
        with trio.fail_after(WITHIN):
            while True:
                event = await self._items.receive()
                if event.kind == kind:
                    return event

    async def nth(self, count: int) -> list[Any]:
        events: list[Any] = []
        with trio.fail_after(WITHIN):
            while len(events) < count:
                events.append(await self._items.receive())
        return events


Handler = Callable[[trio_websocket.WebSocketRequest], Awaitable[None]]


class Provider:
    """A WebSocket server whose connections are taken by one script after the other; the last one serves all further."""

    def __init__(self, *scripts: Handler) -> None:
        self.scripts = deque(scripts)
        self.paths: list[str] = []
        self.said: list[Any] = []
        self.port = 0

    async def handle(self, request: trio_websocket.WebSocketRequest) -> None:
        self.paths.append(request.path)
        script = self.scripts[0] if len(self.scripts) == 1 else self.scripts.popleft()
        await script(request)

    async def hear(self, ws: trio_websocket.WebSocketConnection) -> Any:
        said = loads(await ws.get_message())
        self.said.append(said)
        return said


@asynccontextmanager
async def running(
    provider: Provider, adapter: type[Adapter] = Feed, *, credentials: Any = None, **options: Any
) -> AsyncIterator[tuple[ProviderSession, Events]]:
    """The provider's server and a session with it; both end with the block."""
    events = Events()
    async with HttpClient(options.pop("client", None)) as http, trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, provider.handle, "127.0.0.1", 0, None)
        provider.port = server.port
        context = Context(
            provider="acme", options={"port": str(server.port)}, credentials=credentials or {"token": "s3cret"}
        )
        session = lone_session(adapter, context, publish=events, http=http, **options)
        await nursery.start(session.run)
        yield session, events
        nursery.cancel_scope.cancel()


async def one_quote_then(provider: Provider, request: Any, bid: str, end: Callable[[Any], Awaitable[None]]) -> None:
    ws = await request.accept()
    assert await provider.hear(ws) == {"sub": ["A"]}
    await ws.send_message(dumps({"quote": "A", "bid": bid}))
    await end(ws)


async def until_closed(ws: Any) -> None:
    try:
        while True:
            await ws.get_message()
    except trio_websocket.ConnectionClosed:
        return


async def test_data_then_a_drop_then_a_reconnect_that_subscribes_again():
    async def drop(request: Any) -> None:
        await one_quote_then(provider, request, "1.10", lambda ws: ws.aclose(4000, "bye"))

    async def stay(request: Any) -> None:
        await one_quote_then(provider, request, "1.20", until_closed)

    provider = Provider(drop, stay)
    async with running(provider) as (session, events):
        session.want(A)
        got = await events.nth(6)
    assert [event.kind for event in got] == ["connection", "quote", "connection", "connection", "gap", "quote"]
    assert (got[1].bid, got[5].bid) == ("1.10", "1.20")
    assert got[2].reason == "closed with 4000: bye"
    assert got[3].gap_ms is not None
    assert provider.paths == ["/ws?token=s3cret"] * 2


async def test_when_a_session_comes_up_that_is_kept_at_once():
    """Note at once that a session is up, so that the next process asks for what follows, however soon this one dies."""

    async def stay(request: Any) -> None:
        await until_closed(await request.accept())

    kept: list[tuple[str, str]] = []

    def keep(table: str, key: str, value: bytes | None) -> None:
        assert value is not None
        assert int(value) > 1e18
        kept.append((table, key))

    async with running(Provider(stay), keep=keep) as (_, events):
        await events.next("connection")
        await trio.testing.wait_all_tasks_blocked()
        assert kept == [("heard", "")]


async def test_refused_upgrade_fails_the_session_and_resume_tries_again():
    async def refuse(request: Any) -> None:
        await request.reject(401, body=b"no")

    async def stay(request: Any) -> None:
        await until_closed(await request.accept())

    provider = Provider(refuse, stay)
    async with running(provider) as (session, events):
        failed = await events.next("connection")
        assert (failed.event, failed.reason) == ("FAILED", "the connection was refused with HTTP status 401")
        assert session.status()["state"] == "failed"
        session.resume()
        assert [(await events.next("connection")).event for _ in range(2)] == ["RECONNECTING", "CONNECTED"]


async def test_retry_after_of_a_refusal_reaches_the_machine():
    async def busy(request: Any) -> None:
        await request.reject(503, extra_headers=[(b"Retry-After", b"77")])

    provider = Provider(busy)
    async with running(provider) as (session, events):
        assert (await events.next("connection")).event == "RECONNECTING"
        wait = session._machine.deadline() - trio.current_time()
        assert 70 < wait <= 77


async def test_a_mute_provider_is_dialled_again():
    muted = trio.Event()

    async def mute(request: Any) -> None:
        await request.accept()
        muted.set()
        await trio.sleep_forever()

    async def stay(request: Any) -> None:
        await until_closed(await request.accept())

    provider = Provider(mute, stay)
    deadlines = Deadlines(close=0.05, send=0.05)
    async with running(provider, declared(silent_after=0.2), deadlines=deadlines) as (_, events):
        assert (await events.next("connection")).event == "CONNECTED"
        lost = await events.next("connection")
        assert (lost.event, lost.reason) == ("RECONNECTING", "nothing received for 0.2 s")
        assert (await events.next("connection")).event == "CONNECTED"
    assert muted.is_set()


@pytest.mark.parametrize("single", [True, False])
async def test_a_session_that_must_be_alone_waits_for_its_predecessor_to_end(single, monkeypatch):
    ended = trio.Event()

    class Lingering(Line):
        """A connection that takes its time to end."""

        async def run(self, dial: Any) -> Any:
            ending = await super().run(dial)
            await ended.wait()
            return ending

    class Again(Feed):
        session = Session(url=Feed.session.url, backoff=QUICK, single=single)

        def decode(self, message):
            yield Redial("asked to")

    async def again(request: Any) -> None:
        ws = await request.accept()
        await ws.send_message("again")
        await until_closed(ws)

    monkeypatch.setattr(relay.provider.driver, "Line", Lingering)
    provider = Provider(again, _stay)
    async with running(provider, Again) as (session, events):
        await events.next("connection")
        assert (await events.next("connection")).event == "RECONNECTING"
        if single:
            while session.status()["state"] != "dialling":
                await trio.sleep(0.001)
            assert len(provider.paths) == 1
            ended.set()
        assert (await events.next("connection")).event == "CONNECTED"
    assert len(provider.paths) == 2


async def test_a_ping_that_comes_when_the_connection_is_being_closed_harms_nothing(monkeypatch):
    real = trio_websocket.WebSocketConnection.get_message

    async def patient(self: Any) -> Any:
        """The reader is slow to notice, so that the closing handshake takes its time."""
        try:
            return await real(self)
        except trio_websocket.ConnectionClosed:
            await trio.sleep(0.1)
            raise

    monkeypatch.setattr(trio_websocket.WebSocketConnection, "get_message", patient)

    class Again(Feed):
        session = Session(url=Feed.session.url, backoff=QUICK)

        def decode(self, message):
            yield Redial("asked to")

    async def ping_instead_of_closing(request: Any) -> None:
        ws = await request.accept()
        await ws.send_message("again")
        send = ws._stream.send_all

        async def ping(data: bytes) -> None:
            await send(b"\x89\x00")
            await trio.sleep_forever()

        ws._stream.send_all = ping
        await trio.sleep_forever()

    provider = Provider(ping_instead_of_closing, _stay)
    async with running(provider, Again, deadlines=Deadlines(close=0.2)) as (_, events):
        states = [(await events.next("connection")).event for _ in range(3)]
    assert states == ["CONNECTED", "RECONNECTING", "CONNECTED"]


async def test_answered_pings_keep_a_quiet_connection():
    provider = Provider(lambda request: _stay(request))
    adapter = declared(silent_after=60, heartbeat=Heartbeat(every=0.05))
    async with running(provider, adapter) as (session, events):
        assert (await events.next("connection")).event == "CONNECTED"
        began = trio.current_time()
        with trio.fail_after(WITHIN):
            while session._machine._transport.heard < began + 0.2:  # by the answers alone
                await trio.sleep(0.01)
        assert session.status()["state"] == "up"
    assert len(provider.paths) == 1


async def _stay(request: Any) -> None:
    await until_closed(await request.accept())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "no connection: the peer closed the connection during the WebSocket handshake"),
        (b"SSH-2.0-OpenSSH\r\n", "no connection: the peer closed the connection during the WebSocket handshake"),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nRetry-After: 5\r\n\r\nbroken",
            "the connection was refused with HTTP status 502",
        ),
    ],
)
async def test_a_peer_that_hangs_up_in_the_handshake(said, reason):
    async def hang_up(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            if said:
                await stream.send_all(said)

    assert await first_reason(hang_up) == reason


async def test_a_peer_that_never_answers_the_handshake():
    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    reason = await first_reason(silent, deadlines=Deadlines(handshake=0.1))
    assert reason == "no connection: the WebSocket handshake timed out"


async def test_a_peer_that_does_not_speak_tls():
    async def plain(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    reason = await first_reason(plain, url="wss://127.0.0.1:{port}/", ssl_context=ssl.create_default_context())
    assert reason.startswith("no connection: ")
    assert "SSL" in reason


async def first_reason(serve: Any, url: str = "ws://127.0.0.1:{port}/", **options: Any) -> str:
    """The reason of the first connection event when the provider's server is ``serve``."""
    events = Events()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(lambda task_status: _listen(serve, task_status))
        context = Context(provider="acme", options={"port": str(listener)})
        session = lone_session(
            declared(url=url, backoff=Backoff(first=60, cap=60)), context, publish=events, http=HttpClient(), **options
        )
        await nursery.start(session.run)
        reason = (await events.next("connection")).reason
        nursery.cancel_scope.cancel()
    return str(reason)


async def _listen(serve: Any, task_status: Any) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started([listener.socket.getsockname()[1] for listener in listeners])
    await trio.serve_listeners(serve, listeners)


async def test_nobody_listens():
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    events = Events()
    async with trio.open_nursery() as nursery:
        context = Context(provider="acme", options={"port": str(port)}, credentials={"token": "s3cret"})
        session = lone_session(declared(), context, publish=events, http=HttpClient())
        await nursery.start(session.run)
        event = await events.next("connection")
        nursery.cancel_scope.cancel()
    assert event.event == "RECONNECTING"
    assert "refused" in event.reason.lower()


async def test_commands_are_answered_once_and_bounded_by_id():
    async def trade(request: Any) -> None:
        ws = await request.accept()
        said = await provider.hear(ws)
        await ws.send_message(dumps({"reply": said["order"]}))
        await until_closed(ws)

    provider = Provider(trade)
    async with running(provider) as (session, events):
        await events.next("connection")
        order = PlaceOrder(id="c1", symbol="A", side="BUY", order_type="MARKET", quantity="1")
        first, _ = session.send(order)
        assert session.send(order) == (first, False)
        reply = await events.next("reply")
        assert (reply.id, reply.outcome, reply.result) == ("c1", "accepted", "done")


async def test_shutdown_unsubscribes_and_ends_run():
    subscribed, goodbye = trio.Event(), trio.Event()

    async def stay(request: Any) -> None:
        ws = await request.accept()
        assert await provider.hear(ws) == {"sub": ["A"]}
        subscribed.set()
        assert await provider.hear(ws) == {"unsub": ["A"]}
        goodbye.set()
        await until_closed(ws)
        closed.append(ws.closed)

    provider, closed = Provider(stay), []
    events = Events()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, provider.handle, "127.0.0.1", 0, None)
        context = Context(provider="acme", options={"port": str(server.port)}, credentials={"token": "t"})
        session = lone_session(Feed, context, publish=events, http=HttpClient())
        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as inner:
                await inner.start(session.run)
                await events.next("connection")
                session.want(A)
                await subscribed.wait()
                session.shutdown()
            await goodbye.wait()
        nursery.cancel_scope.cancel()
    assert (await events.next("connection")).event == "DISCONNECTING"
    assert closed[0].code == 1000


async def test_a_crash_is_contained_reported_and_the_session_goes_on():
    broken = [True]

    class Fragile(Events):
        def __call__(self, event: Any, stamp: Any) -> None:
            if event.kind == "quote" and broken:
                broken.clear()
                raise RuntimeError("a bug downstream")
            super().__call__(event, stamp)

    async def quotes(request: Any) -> None:
        await one_quote_then(provider, request, "1", until_closed)

    provider, events, crashes = Provider(quotes), Fragile(), []
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, provider.handle, "127.0.0.1", 0, None)
        context = Context(provider="acme", options={"port": str(server.port)}, credentials={"token": "t"})
        session = lone_session(Feed, context, publish=events, http=HttpClient())
        session.want(A)
        nursery.start_soon(
            lambda: supervise("acme", session.run, report=lambda *crash: crashes.append(crash), backoff=QUICK)
        )
        quote = await events.next("quote")
        nursery.cancel_scope.cancel()
    assert quote.bid == "1"
    ((name, error, _),) = crashes
    assert name == "acme"
    assert isinstance(error, ExceptionGroup)


async def test_what_is_not_text_is_an_unknown_and_a_giant_closes_the_connection():
    async def odd(request: Any) -> None:
        ws = await request.accept()
        await ws.send_message(b"\xff\x00")
        await ws.send_message("x" * 2000)
        await until_closed(ws)
        closed.append(ws.closed.code)

    logged: list[Any] = []
    provider, closed = Provider(odd, _stay), []
    options = {
        "deadlines": Deadlines(max_message=1000),
        "log": lambda level, event, **fields: logged.append((event, fields)),
    }
    async with running(provider, **options) as (session, events):
        assert (await events.next("connection")).event == "CONNECTED"
        assert (await events.next("connection")).reason.startswith("closed with 1009")
        assert (await events.next("connection")).event == "CONNECTED"
        assert session.status()["counters"]["unknown"] == 1
    assert closed == [1009]
    (sample,) = [fields for event, fields in logged if event == "unknown_message"]
    assert sample["raw"] == "\\xff\x00"
    assert "s3cret" not in str(logged)


async def test_a_provider_that_stops_reading_is_dialled_again():
    async def deaf(stream: trio.SocketStream) -> None:
        async with stream:
            request = await stream.receive_some(4096)
            (key,) = [line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
            token = base64.b64encode(hashlib.sha1(key.split(b": ")[1] + GUID).digest())
            await stream.send_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
            )
            await trio.sleep_forever()

    class Shouting(Feed):
        session = Session(url="ws://127.0.0.1:{port}/", backoff=Backoff(first=60, cap=60))

        def encode(self, outgoing: Any) -> Any:
            if isinstance(outgoing, Subscribe):
                yield "x" * 50_000_000

    events = Events()
    async with trio.open_nursery() as nursery:
        (port,) = await nursery.start(lambda task_status: _listen(deaf, task_status))
        context = Context(provider="acme", options={"port": str(port)})
        session = lone_session(
            Shouting, context, publish=events, http=HttpClient(), deadlines=Deadlines(send=0.2, close=0.1)
        )
        session.want(A)
        await nursery.start(session.run)
        assert (await events.next("connection")).event == "CONNECTED"
        reason = "closed with 1006: the provider does not read: a frame was not taken within 0.2 s"
        assert (await events.next("connection")).reason == reason
        nursery.cancel_scope.cancel()


async def test_want_and_unwant_are_safe_from_within_publish():
    class Curious(Events):
        def __call__(self, event: Any, stamp: Any) -> None:
            if event.kind == "quote":
                session.unwant(A)
                session.want(Topic(kind="quote", symbol="B"))
            super().__call__(event, stamp)

    async def both(request: Any) -> None:
        ws = await request.accept()
        assert await provider.hear(ws) == {"sub": ["A"]}
        await ws.send_message(dumps({"quote": "A", "bid": "1"}))
        assert await provider.hear(ws) == {"sub": ["B"]}
        heard.set()
        await until_closed(ws)

    provider, events, heard = Provider(both), Curious(), trio.Event()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, provider.handle, "127.0.0.1", 0, None)
        context = Context(provider="acme", options={"port": str(server.port)}, credentials={"token": "t"})
        session = lone_session(Feed, context, publish=events, http=HttpClient())
        session.want(A)
        await nursery.start(session.run)
        with trio.fail_after(WITHIN):
            await heard.wait()
        nursery.cancel_scope.cancel()


# --- HTTP ------------------------------------------------------------------------------------------------------------


async def test_a_login_is_fetched_before_the_dial():
    class Login(Feed):
        def prepare(self):
            yield Fetch(tag="login", url="http://venue.test/login", method="POST", form={"a": "b"})

        def fetched(self, tag, answer):
            yield Learned({"token": loads(answer.text)["token"]})

    async def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.content) == ("POST", b"a=b")
        return httpx.Response(200, json={"token": "jwt"})

    provider = Provider(_stay)
    client = httpx.AsyncClient(transport=Answering(answer))
    async with client, running(provider, Login, client=client) as (_, events):
        assert (await events.next("connection")).event == "CONNECTED"
    assert provider.paths == ["/ws?token=jwt"]


async def fetch(respond: Any, *, max_body: int = 1000, **changes: Any) -> Answer:
    request = Fetch(**({"tag": "t", "url": ""} | changes))
    async with httpx.AsyncClient(transport=Answering(respond)) as client:
        return await HttpClient(client, max_body=max_body).fetch(request, "https://venue.test/x")


async def test_a_fetch_is_answered_whatever_happens(autojump_clock):
    async def late(request: httpx.Request) -> httpx.Response:
        await trio.sleep(100)
        raise AssertionError

    async def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    async def big(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * 1001)

    async def moved(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": "https://elsewhere.test/", "X-Y": "z"})

    assert await fetch(late, within=10) == Answer(status=0, text="no answer within 10 s")
    assert await fetch(broken) == Answer(status=0, text="ConnectError: no route")
    assert await fetch(big) == Answer(status=0, text="a body of more than 1000 bytes")
    answer = await fetch(moved)
    assert (answer.status, answer.headers["x-y"]) == (302, "z")


async def test_json_is_sent_with_its_type():
    async def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"{request.headers['content-type']} {request.content.decode()}")

    assert (await fetch(echo, method="POST", json={"a": [1]})).text == 'application/json {"a":[1]}'


async def test_supervise_waits_longer_each_time_and_returns_when_the_task_does(autojump_clock):
    attempts: list[float] = []
    waits: list[float] = []

    async def task() -> None:
        attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(attempts) < 4:
            raise ValueError("again")

    await supervise(
        "task",
        task,
        report=lambda name, error, wait: waits.append(wait),
        backoff=Backoff(first=1, factor=2, cap=60),
        uniform=lambda: 1.0,
    )
    assert waits == [1, 2, 4]
    assert [round(at - attempts[0], 3) for at in attempts] == [0, 1, 3, 7]
