"""permessage-deflate on the subscribers' sockets: agreed where it is on and asked for, bounded, and under the same policies."""

import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import evolve

from relay.hub.outbox import OutboxLimits, Policy
from relay.server.admission import SubscriberLimits
from support.wire import frames
from tests.server.test_subscribers import PATIENT, Relay, relay, until
from tests.websocket.test_frames import client_frame

ON = SubscriberLimits(compression=True, message_bytes=4096)
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
AGREED = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
LONG = b"a long text " * 20


def packed(message: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def texts(said: bytes) -> list[str]:
    """The text messages, inflated where they are compressed."""
    return [
        (zlib.decompress(payload + TAIL + b"\x03\x00", -15) if first & RSV1 else payload).decode()
        for first, payload in frames(said)
        if first & 0xF == 1
    ]


class Client:
    """A raw socket, and what came."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.said = bytearray()

    async def say(self, opcode: int, payload: bytes, *, rsv: int = 0) -> None:
        await self.stream.send_all(client_frame(opcode, payload, rsv=rsv))

    async def until(self, condition: Callable[[bytes], bool]) -> bytes:
        """Read until it holds, or until the end."""
        while not condition(self.said):
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                break
            if not data:
                break
            self.said += data
        return bytes(self.said)

    async def hears(self, text: str) -> None:
        said = await self.until(lambda said: b"\r\n\r\n" in said and text in texts(said))
        assert text in texts(said)

    async def close_code(self) -> int:
        """The code of the relay's close frame, behind which nothing comes."""
        await self.until(lambda said: b"\r\n\r\n" in said and any(first == 0x88 for first, _ in frames(said)))
        *_, (first, payload) = frames(self.said)
        assert first == 0x88
        return int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def client_of(r: Relay, offer: bytes = OFFER, *, room: int = 0, halves: bool = False) -> AsyncIterator[Client]:
    """A client that has sent its request; in `halves`, it is not one for the quick reader."""
    sock = trio.socket.socket()
    if room:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, room)
    await sock.connect(("127.0.0.1", r.port))
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    request = (
        b"GET /app/key HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + offer + b"\r\n"
    )
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(request[:30])
        if halves:
            for _ in range(50):
                await trio.lowlevel.checkpoint()
        await stream.send_all(request[30:])
        yield Client(stream)


async def echoes(client: Client, *, compressed: bool) -> None:
    """It is heard, and answered as agreed."""
    await client.say(1, packed(LONG) if compressed else LONG, rsv=RSV1 if compressed else 0)
    await client.hears("echo " + LONG.decode())
    assert (AGREED in client.said) is compressed
    assert b"Extensions" in client.said or not compressed


@pytest.mark.parametrize("halves", [False, True])
async def test_it_is_agreed_where_it_is_on_and_offered(halves: bool) -> None:
    async with relay(ON) as r, client_of(r, halves=halves) as client:
        await echoes(client, compressed=True)


async def test_a_plain_and_a_compressed_subscriber_side_by_side() -> None:
    too_small = OFFER.replace(b"client_max_window_bits", b"server_max_window_bits=9")
    async with (
        relay(ON) as r, client_of(r, b"") as plain, client_of(r, too_small) as declined, client_of(r) as compressed
    ):  # fmt: skip
        for client in (plain, declined):
            await echoes(client, compressed=False)
        await echoes(compressed, compressed=True)


async def test_it_is_off_unless_it_is_on() -> None:
    async with relay() as r, client_of(r) as client:
        await echoes(client, compressed=False)
        await client.say(1, packed(b"compressed all the same"), rsv=RSV1)
        assert await client.close_code() == 1002


@pytest.mark.parametrize(
    ("payload", "code"),
    [(packed(b"\0" * 3_000_000), 1009), (packed(b"x" * 4097), 1009), (b"no deflate", 1007), (packed(b"\xff"), 1007)],
    ids=["bomb", "one byte too long", "corrupt", "not UTF-8"],
)
async def test_what_cannot_be_read_ends_that_subscriber_only(payload: bytes, code: int) -> None:
    async with relay(ON) as r, client_of(r) as good, client_of(r) as bad:
        await bad.say(1, packed(b"x" * 4096), rsv=RSV1)
        await bad.hears("echo " + "x" * 4096)
        await bad.say(1, payload, rsv=RSV1)
        assert await bad.close_code() == code
        await echoes(good, compressed=True)


async def test_a_slow_compressed_subscriber_is_held_to_its_policy() -> None:
    """It gets what fits, a gap for each run of the rest, everything in order and no frame split; nobody else waits."""
    size = 2000
    limits = OutboxLimits(bytes=8_000, messages=200)
    async with (
        relay(evolve(PATIENT, compression=True), limits, room=4096) as r,
        client_of(r, room=2048) as stalled,
    ):
        await until(lambda: len(r.hub.sessions) == 1)  # so that the stalled one is the first of all
        async with client_of(r) as healthy:
            await until(lambda: len(r.hub.sessions) == 2)
            await held_to_its_policy(r, stalled, healthy, size)


async def held_to_its_policy(r: Relay, stalled: Client, healthy: Client, size: int) -> None:
    slow, quick = (session.outbox for session in r.hub.all)
    published = 0
    while r.hub.dropped < 1000:
        r.hub.publish(Policy.GAP, size)
        published += 1
        await trio.lowlevel.checkpoint()
        if published % 20 == 0:
            await healthy.hears(f"{published} ".ljust(size, "."))
            healthy.said = healthy.said[:0] + b"\r\n\r\n"
    assert slow.blocked
    assert slow.closing is None
    await until(lambda: not quick.blocked)  # its small send buffer may be full for a moment
    last = f"{published} ".ljust(size, ".")
    await stalled.hears(last)
    expected = 1
    for text in texts(stalled.said):
        if text[0].isdigit() or text.startswith("gap"):
            numbers = [int(word) for word in text.rstrip(".").split() if word.isdigit()]
            assert numbers[0] == expected
            expected = numbers[-1] + 1
    assert expected == published + 1
