"""A provider that answers garbage costs an attempt, with its reason: raw TCP servers in a provider's place."""

import base64
import gc
import gzip
import hashlib
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from relay.adapter import Adapter, Answer, Backoff, Context, Fetch, Offer, Session
from relay.model.events import Connection, Event, Stamp
from relay.provider.connection import Deadlines
from relay.provider.http import HttpClient
from support.deadlines import WITHIN
from support.lone_session import lone_session

QUICK = Backoff(first=0.01, cap=0.01)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


class Feed(Adapter):
    name = "feed"
    session = Session(url="ws://127.0.0.1:{port}/ws", backoff=QUICK)
    offers = (Offer(kind="quote"),)

    def encode(self, outgoing: object) -> Any:
        return ()

    def decode(self, message: str) -> Any:
        return ()


def accept_of(head: bytes) -> bytes:
    """The Sec-WebSocket-Accept that belongs to a request's head."""
    key = re.split(b"(?i)sec-websocket-key:", head)[-1].split(b"\r\n")[0].strip()
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


Talk = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[int]:
    """A TCP server whose connections are given a request's head and served by ``talk``; yields its port."""

    async def serve(stream: trio.SocketStream) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some(65536)
                if not data:
                    return
                head += data
            await talk(stream, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the relay hung up
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def says(answer: bytes, stream: trio.SocketStream, head: bytes) -> None:
    await stream.send_all(answer.replace(b"{accept}", accept_of(head)))


async def says_and_waits(answer: bytes, stream: trio.SocketStream, head: bytes) -> None:
    await says(answer, stream, head)
    await trio.sleep_forever()


async def says_for_ever(answer: bytes, more: bytes, stream: trio.SocketStream, head: bytes) -> None:
    await says(answer, stream, head)
    while True:
        await stream.send_all(more)


def answered(answer: bytes) -> Talk:
    return partial(says, answer)


def endless(answer: bytes, more: bytes) -> Talk:
    return partial(says_for_ever, answer, more)


class States:
    """The changes of a session's connection, as they are published."""

    def __init__(self) -> None:
        self._put, self._taken = trio.open_memory_channel[Connection](1000)

    def __call__(self, event: Event, stamp: Stamp) -> None:
        if isinstance(event, Connection):
            self._put.send_nowait(event)

    async def next(self) -> Connection:
        with trio.fail_after(WITHIN):
            return await self._taken.receive()


@asynccontextmanager
async def session_with(talk: Talk, **options: Any) -> AsyncIterator[States]:
    states = States()
    async with raw_server(talk) as port, HttpClient() as http, trio.open_nursery() as nursery:
        context = Context(provider="acme", options={"port": str(port)})
        session = lone_session(Feed, context, publish=states, http=http, **options)
        nursery.start_soon(session.run)
        yield states
        nursery.cancel_scope.cancel()


HANDSHAKES = {
    "garbage": answered(b"\x00\xff\xfe garbage \x80\r\n\r\n\x01"),
    "garbage without end": endless(b"", b"\x00\xff" * 1000),
    "no version": answered(b"101 Switching\r\n\r\n"),
    "a bad header": answered(SWITCH + b"bad header\r\n\r\n"),
    "a header with a control character": answered(SWITCH + b"x: \x00\x01\r\n\r\n"),
    "a header folded into nothing": answered(b"HTTP/1.1 101 Switching Protocols\r\n folded\r\n\r\n"),
    "a wrong accept": answered(SWITCH + b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n"),
    "no accept": answered(SWITCH + b"\r\n"),
    "two accepts": answered(SWITCH + b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: x\r\n\r\n"),
    "no upgrade": answered(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"),
    "an upgrade to h2c": answered(
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nPRI * HTTP/2.0\r\n\r\n"
    ),
    "the preface of HTTP/2": answered(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"),
    "HTTP/2 settings in clear": answered(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a subprotocol nobody offered": answered(
        SWITCH + b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    ),
    "an extension nobody offered": answered(
        SWITCH + b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    ),
    "a too large head": answered(SWITCH + b"x: " + b"y" * 200_000 + b"\r\n\r\n"),
    "an endless head": endless(SWITCH, b"x: y\r\n" * 1000),
    "an endless line": endless(b"HTTP/1.1 101 ", b"x" * 1000),
    "a chunked answer of garbage": answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
    "an endless chunked answer": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n"),
    "two lengths": answered(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "a length that is none": answered(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxx"),
    "a status that is none": answered(b"HTTP/1.1 999999 X\r\n\r\n"),
    "a superscript status": answered("HTTP/1.1 ² X\r\n\r\n".encode("latin-1")),
    "a status of 5000 digits": answered(b"HTTP/1.1 " + b"9" * 5000 + b"\r\n\r\n"),
    "status 0": answered(b"HTTP/1.1 000 X\r\n\r\n"),
    "another 1xx": answered(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    "many 1xx": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "HTTP/1.0": answered(b"HTTP/1.0 101 Switching Protocols\r\n\r\n"),
    "a redirect": answered(b"HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n"),
    "nothing": answered(b""),
    "a frame before the handshake": answered(b"\x81\x05hello"),
    "not latin": answered("HTTP/1.1 500 Ошибка\r\nx-ö: ü\r\n\r\n".encode()),
}


@pytest.mark.parametrize("talk", HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_a_bad_answer_to_the_handshake_is_a_failed_attempt(talk: Talk) -> None:
    """No crash (which would end the session's task), and one state per attempt with the reason."""
    async with session_with(talk, deadlines=Deadlines(handshake=3.0)) as states:
        for _ in range(2):
            state = await states.next()
            assert state.event.name == "RECONNECTING", state
            assert state.reason.startswith(("no connection: ", "the connection was refused with HTTP status")), state
            assert state.reason.isprintable()
            assert len(state.reason) < 300


async def test_a_message_of_endless_empty_frames_ends_the_connection_with_a_reason() -> None:
    accepted = SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    for more in (b"\x00\x00" * 5000, b"\x00\x01x" * 5000):
        async with session_with(endless(accepted + b"\x01\x00", more)) as states:
            assert (await states.next()).event.name == "CONNECTED"
            state = await states.next()
            assert state.event.name == "RECONNECTING"
            assert state.reason == "closed with 1006: a message of more than 1000 frames with less than 16 bytes each"


async def test_a_message_in_many_frames_is_taken_where_they_carry_something() -> None:
    """Also one with many zero bytes, whose reads look like empty frames."""
    taken = trio.Event()

    class Hears(Feed):
        def decode(self, message: str) -> Any:
            assert message == "\0" * 64 * 3000
            taken.set()
            return ()

    accepted = SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    frames = b"\x01\x00" + (b"\x00\x40" + b"\0" * 64) * 3000 + b"\x80\x00"
    talk = partial(says_and_waits, accepted + frames)
    async with raw_server(talk) as port, HttpClient() as http, trio.open_nursery() as nursery:
        context = Context(provider="acme", options={"port": str(port)})
        session = lone_session(Hears, context, publish=lambda event, stamp: None, http=http)
        nursery.start_soon(session.run)
        with trio.fail_after(WITHIN):
            await taken.wait()
        nursery.cancel_scope.cancel()


# --- HTTP ------------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ANSWERS = {
    "garbage": answered(b"\x00\xff garbage\r\n\r\n"),
    "nothing": answered(b""),
    "an endless head": endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000),
    "a bad header": answered(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
    "two lengths": answered(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "chunks of garbage": answered(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
    "half a body": answered(OK + b"Content-Length: 100\r\n\r\nhalf"),
    "an endless body": endless(OK + b"\r\n", b"x" * 65536),
    "an endless chunked body": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"),
    "no gzip": answered(OK + b"Content-Encoding: gzip\r\n\r\nnot compressed"),
    "no deflate": answered(OK + b"Content-Encoding: deflate\r\n\r\nnot compressed"),
    "half a gzip": answered(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 500)[:-9]),
    "a byte of gzip": answered(OK + b"Content-Encoding: gzip\r\n\r\n\x1f"),
    "garbage within gzip": answered(
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(500))[:12] + b"\xff" * 99
    ),
    "an encoding nobody asked for": answered(OK + b"Content-Encoding: zstd\r\n\r\nx"),
    "gzip in gzip": answered(OK + b"Content-Encoding: gzip, gzip\r\n\r\nx"),
    "a compressed bomb": answered(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(20_000_000))),
    "a redirect to nowhere": answered(b"HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n"),
    "HTTP/2": answered(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"),
    "silence": partial(says_and_waits, OK),
}


@pytest.mark.parametrize("talk", ANSWERS.values(), ids=ANSWERS)
async def test_a_bad_answer_to_a_request_is_no_answer_with_its_reason(talk: Talk) -> None:
    """It leaves none of httpx's generators open, either: trio and Python would warn of them, which fails the test."""
    async with raw_server(talk) as port, HttpClient(max_body=1_000_000) as http:
        answer = await http.fetch(Fetch(tag="x", url="", within=3.0), f"http://127.0.0.1:{port}/")
    gc.collect()
    assert answer.status == 0
    assert answer.text
    assert answer.text.isprintable()
    assert len(answer.text) < 400


RAW = zlib.compressobj(wbits=-15)
ENCODED = {
    "identity": b'["as it is"]',
    "gzip": gzip.compress(b'["as it is"]'),
    "deflate": zlib.compress(b'["as it is"]'),
    "Deflate": RAW.compress(b'["as it is"]') + RAW.flush(),
    "GZIP": gzip.compress(b'["as it is"]') + b"and more behind its end",
}


@pytest.mark.parametrize("encoding", ENCODED)
async def test_a_body_is_decoded_however_it_is_cut(encoding: str) -> None:
    head = OK + f"Content-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in ENCODED[encoding])
    async with raw_server(answered(head + chunks + b"0\r\n\r\n")) as port, HttpClient() as http:
        answer = await http.fetch(Fetch(tag="x", url="", within=30.0), f"http://127.0.0.1:{port}/")
    assert (answer.status, answer.text) == (200, '["as it is"]')


async def test_a_request_whose_body_is_not_taken_ends_in_time_and_leaves_nothing_behind() -> None:
    """httpx' own body of a request is a generator, of whose remains trio warns."""
    request = Fetch(tag="x", method="POST", url="", json=["x" * 8_000_000], within=0.1)
    async with raw_server(partial(says_and_waits, b"")) as port, HttpClient() as http:
        answer = await http.fetch(request, f"http://127.0.0.1:{port}/")
    gc.collect()
    assert answer == Answer(status=0, text="no answer within 0.1 s")


@pytest.mark.parametrize("charset", ["bogus", "rot13", "hex", "undefined", "idna", "utf-8", "a\tb", "x" * 1000])
async def test_a_charset_that_decodes_nothing_is_read_as_utf_8(charset: str) -> None:
    talk = answered(OK + f'Content-Type: text/plain; charset="{charset}"\r\n\r\n'.encode() + b"\xc3\xa4\xff")
    async with raw_server(talk) as port, HttpClient() as http:
        answer = await http.fetch(Fetch(tag="x", url="", within=30.0), f"http://127.0.0.1:{port}/")
    assert answer.status == 200
    assert answer.text.startswith(("ä", "\ufffd")), answer.text


async def test_cookies_of_one_request_are_not_sent_with_the_next() -> None:
    """Two accounts of a provider use one client: what one was given must not sign the other one in."""
    heads: list[bytes] = []

    async def talk(stream: trio.SocketStream, head: bytes) -> None:
        heads.append(head.lower())
        await stream.send_all(OK + b"Set-Cookie: session=of-the-first; Path=/\r\n\r\n")

    async with raw_server(talk) as port, HttpClient() as http:
        for _ in range(2):
            await http.fetch(Fetch(tag="x", url="", within=30.0), f"http://127.0.0.1:{port}/")
    assert len(heads) == 2
    assert not any(b"cookie" in head for head in heads)
