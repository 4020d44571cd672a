"""permessage-deflate: what is agreed, what is read, what is sent, beside wsproto's, zlib's and the RFC's own examples."""

import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto import WSConnection, events
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate

from relay.websocket import deflate, frames
from relay.websocket.frames import Binary, FrameError, FrameParser, Opcode, PingFrame, Text
from relay.websocket.handshake import handshake_response
from tests.websocket.test_frames import MASK, client_frame, split_end, wild_frames, wsproto_reads

NAME = b"permessage-deflate"
PLAIN_ANSWER = NAME + b"; server_no_context_takeover; client_no_context_takeover"
RSV1 = 0x40
LIMIT = 70_000
TAIL = b"\x00\x00\xff\xff"


def answer(*offers: bytes) -> bytes:
    """The answer to one header per offer, among others."""
    return deflate.accepted([(b"host", b"x"), *((b"sec-websocket-extensions", offer) for offer in offers)])


# What is agreed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        NAME,
        NAME + b"; client_max_window_bits",  # browsers, Node
        NAME + b";client_max_window_bits=8",
        NAME + b"; server_no_context_takeover ; client_no_context_takeover",
        b"  " + NAME + b"\t;\tclient_max_window_bits = 15 ",
        NAME + b'; client_max_window_bits="10"',
        b"x-webkit-deflate-frame, " + NAME,
        b'other; a="' + NAME + b'; b, \\", ", ,' + NAME,
        NAME + b"; unknown, " + NAME,
        NAME + b"; server_max_window_bits=8, " + NAME,
    ],
)
def test_an_offer_is_accepted_without_context_takeover(offer: bytes) -> None:
    assert answer(offer) == PLAIN_ANSWER


@pytest.mark.parametrize("bits", range(12, 16))
def test_a_window_of_the_servers_that_is_large_enough_is_promised(bits: int) -> None:
    assert answer(NAME + b"; server_max_window_bits=%d" % bits) == PLAIN_ANSWER + b"; server_max_window_bits=12"


def test_the_first_offer_that_can_be_served_is_taken() -> None:
    preferred = NAME + b"; server_max_window_bits=9, " + NAME + b'; server_max_window_bits="15"; client_max_window_bits'
    assert answer(preferred, NAME) == PLAIN_ANSWER + b"; server_max_window_bits=12"
    assert answer(NAME + b"; x=1", NAME) == PLAIN_ANSWER


@pytest.mark.parametrize(
    "offer",
    [
        b"",
        b"x-webkit-deflate-frame",
        b"permessage-bzip2; client_max_window_bits",
        NAME + b"2",
        NAME + b";",
        NAME + b"; unknown",
        NAME + b"; unknown=1",
        NAME + b"; server_no_context_takeover; server_no_context_takeover",
        NAME + b"; client_max_window_bits; client_max_window_bits=10",
        NAME + b"; server_no_context_takeover=1",
        NAME + b"; client_no_context_takeover=true",
        NAME + b"; server_max_window_bits",
        NAME + b"; server_max_window_bits=",
        NAME + b"; server_max_window_bits=7",
        NAME + b"; server_max_window_bits=16",
        NAME + b"; server_max_window_bits=012",
        NAME + b"; server_max_window_bits=11",
        NAME + b"; client_max_window_bits=7",
        NAME + b"; client_max_window_bits=1_0",
        NAME + b'; client_max_window_bits="10',
        NAME + b'; client_max_window_bits=10"',
        NAME + b'; a="', NAME + b" client_max_window_bits",
        b'other; a="b, ' + NAME + b'"',
    ],
)  # fmt: skip
def test_what_is_malformed_or_cannot_be_served_is_declined(offer: bytes) -> None:
    assert answer(offer) == b""


def test_nothing_is_agreed_without_an_offer() -> None:
    assert answer() == b""


@given(st.lists(st.sampled_from([NAME, b";", b"; ", b"=", b",", b'"', b"\\", b"12", b"8", b"client_max_window_bits"])))
def test_any_offer_is_answered_by_one_the_peer_understands_or_not_at_all(parts: list[bytes]) -> None:
    got = answer(b"".join(parts))
    assert got in (b"", PLAIN_ANSWER)


# What is read ----------------------------------------------------------------------------------------------------------


def reads(
    data: bytes, *, step: int | None = None, limit: int = LIMIT, compression: bool = True
) -> list[frames.Received]:
    parser = FrameParser(limit, compression=compression)
    pieces = [data] if step is None else [data[at : at + step] for at in range(0, len(data), step)]
    return [message for piece in pieces for message in parser.feed(piece)]


def both_ways(data: bytes, limit: int = LIMIT) -> list[frames.Received]:
    whole = reads(data, limit=limit)
    assert reads(data, step=1, limit=limit) == whole
    return whole


def packed(message: bytes, *, level: int = 6, mode: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """The message as a client compresses it."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(message) + compressor.flush(mode)).removesuffix(TAIL)


def errors(data: bytes, limit: int = LIMIT) -> list[int]:
    return [message.code for message in both_ways(data, limit) if isinstance(message, FrameError)]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("f248cdc9c90700", "Hello"),
        ("000500faff48656c6c6f00", "Hello"),
        ("f348cdc9c9070000", "Hello"),
        ("f24805000000ffffcac9c90700", "Hello"),
        ("00", ""),
        ("", ""),
        ("f348cdc9c90700", "Hello"),
    ],
    ids=["one block", "stored", "final block", "two blocks", "empty", "nothing at all", "final block and no more"],
)
def test_examples_of_the_rfc(payload: str, text: str) -> None:
    assert both_ways(client_frame(Opcode.TEXT, bytes.fromhex(payload), rsv=RSV1)) == [Text(text)]


def test_a_compressed_message_in_fragments_with_a_ping_between() -> None:
    payload = packed("Grüße €".encode() * 50)
    data = (
        client_frame(Opcode.TEXT, payload[:1], fin=False, rsv=RSV1)
        + client_frame(Opcode.CONTINUATION, b"", fin=False)
        + client_frame(Opcode.PING, b"now")
        + client_frame(Opcode.CONTINUATION, payload[1:])
        + client_frame(Opcode.BINARY, packed(b"\xff\x00"), rsv=RSV1)
        + client_frame(Opcode.TEXT, b"plain")
    )
    assert both_ways(data) == [PingFrame(b"now"), Text("Grüße €" * 50), Binary(b"\xff\x00"), Text("plain")]


@pytest.mark.parametrize(
    "data",
    [
        client_frame(Opcode.PING, b"", rsv=RSV1),
        client_frame(Opcode.CLOSE, b"\x03\xe8", rsv=RSV1),
        client_frame(Opcode.TEXT, packed(b"a"), rsv=0x20),
        client_frame(Opcode.TEXT, packed(b"a"), rsv=0x60),
        client_frame(Opcode.TEXT, packed(b"a"), rsv=0x10),
        client_frame(3, packed(b"a"), rsv=RSV1),
        client_frame(Opcode.TEXT, b"\x00", fin=False, rsv=RSV1) + client_frame(Opcode.CONTINUATION, b"", rsv=RSV1),
        client_frame(Opcode.TEXT, b"a", fin=False) + client_frame(Opcode.CONTINUATION, b"", rsv=RSV1),
        client_frame(Opcode.CONTINUATION, b"", rsv=RSV1),
    ],
)
def test_rsv1_stands_only_where_a_message_begins(data: bytes) -> None:
    assert errors(data) == [1002]


def test_rsv1_means_nothing_that_was_not_agreed() -> None:
    (error,) = reads(client_frame(Opcode.TEXT, packed(b"a"), rsv=RSV1), compression=False)
    assert error == FrameError(1002, "reserved bit set")


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"plain text",
        packed(b"Hello" * 20)[:-2],
        packed(b"Hello", mode=zlib.Z_FINISH) + packed(b" more"),
        packed(b"Hello", mode=zlib.Z_FINISH) + b"\x00\x00",
        bytes.fromhex("6260006c"),
        packed(b"\xe2\x82"),
    ],
    ids=[
        "no block",
        "not compressed",
        "cut off",
        "behind the final block",
        "more behind it",
        "the tail opens a block",
        "not UTF-8",
    ],
)
def test_corrupt_data_are_1007(payload: bytes) -> None:
    assert errors(client_frame(Opcode.TEXT, payload, rsv=RSV1)) == [1007]


def test_a_window_that_was_to_be_forgotten_is_corrupt() -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    first, second = [
        (compressor.compress(b"the same long text" * 3) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2)
    ]
    read = both_ways(b"".join(client_frame(Opcode.TEXT, payload, rsv=RSV1) for payload in (first, second)))
    assert read == [Text("the same long text" * 3), FrameError(1007, "compressed data are corrupt")]


def test_the_limit_is_of_what_it_is_and_of_what_came() -> None:
    assert errors(client_frame(Opcode.TEXT, packed(b"x" * 1000), rsv=RSV1), 1000) == []
    assert errors(client_frame(Opcode.TEXT, packed(b"x" * 1001), rsv=RSV1), 1000) == [1009]
    stored = packed(b"x" * 1000, level=0)
    assert errors(client_frame(Opcode.TEXT, stored, rsv=RSV1), 1000) == [1009]
    fragments = client_frame(Opcode.TEXT, stored[:900], fin=False, rsv=RSV1)
    assert errors(fragments + client_frame(Opcode.CONTINUATION, stored[900:]), 1000) == [1009]


def test_a_bomb_is_refused_without_its_memory() -> None:
    bomb = packed(b"\0" * 30_000_000, level=9)
    data = client_frame(Opcode.BINARY, bomb, rsv=RSV1)
    parser = FrameParser(64 * 1024, compression=True)
    tracemalloc.start()
    try:
        read = parser.feed(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == [FrameError(1009, "message is larger than 65536 bytes")]
    assert len(bomb) > 25_000
    assert peak < 500_000
    assert parser.finished


def stored(content: bytes) -> bytes:
    """A final block that stores the content."""
    return b"\x01" + len(content).to_bytes(2, "little") + (0xFFFF - len(content)).to_bytes(2, "little") + content


def by_zlib(payload: bytes) -> bytes | None:
    """Return the payload as zlib inflates it; None where it is not exactly one message.

    The payload is one message if a further block behind it is read as that block, whatever it stores.
    """
    decompressor = zlib.decompressobj(-15)
    try:
        message = decompressor.decompress(payload + TAIL)
        if decompressor.eof:
            return message if decompressor.unused_data in (b"", TAIL, b"\x00" + TAIL) else None
        for content in (b"the first of two", b"and the second.."):
            reader = decompressor.copy()
            if reader.decompress(stored(content)) != content or not reader.eof:
                return None
    except zlib.error:
        return None
    return message


@given(
    st.binary(max_size=300),
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=2),
)
@example(b"\0\0", 1, [(3, 108)])  # the tail opens a final block, which an empty block behind it would end
def test_damaged_data_are_read_as_zlib_reads_them(message: bytes, level: int, damage: list[tuple[int, int]]) -> None:
    payload = bytearray(packed(message, level=level))
    for at, byte in damage:
        payload[at % len(payload)] = byte
    try:
        got = deflate.inflated(bytes(payload), LIMIT)
    except deflate.TooLong:
        assert len(zlib.decompressobj(-15).decompress(bytes(payload) + TAIL, LIMIT + 1)) > LIMIT
    except deflate.CorruptData:
        assert by_zlib(bytes(payload)) is None
    else:
        assert got == by_zlib(bytes(payload))


# Beside wsproto --------------------------------------------------------------------------------------------------------


def agreed(side: ConnectionType, *, offered: PerMessageDeflate | None = None) -> Connection:
    """A wsproto connection that has agreed with us."""
    extension = offered or PerMessageDeflate()
    got = answer(f"{extension.name}; {extension.offer()}".encode()).decode()
    if side is ConnectionType.CLIENT:
        extension.finalize(got)
    else:
        extension.accept(got)
    return Connection(side, [extension])


def test_wsproto_agrees_in_a_handshake() -> None:
    extension = PerMessageDeflate()
    client = WSConnection(ConnectionType.CLIENT)
    request = client.send(events.Request(host="x", target="/app/key", extensions=[extension])).decode()
    headers = [line.split(": ", 1) for line in request.strip().split("\r\n")[1:]]
    asked = [(name.lower().encode(), value.encode()) for name, value in headers]
    client.receive_data(handshake_response(asked, deflate.accepted(asked)))
    (accepted,) = client.events()
    assert isinstance(accepted, events.AcceptConnection)
    assert accepted.extensions == [extension]
    assert extension.client_no_context_takeover
    assert extension.server_no_context_takeover
    assert extension.server_max_window_bits == deflate.WINDOW_BITS


messages = st.one_of(st.text(max_size=400), st.binary(max_size=400), st.text('ab{}":,.0', max_size=5000))


@given(
    st.lists(
        st.lists(messages, min_size=1, max_size=4).filter(lambda parts: len({type(p) for p in parts}) == 1), max_size=4
    ),
    st.integers(9, 15),
    st.integers(1, 9),
)
def test_what_wsproto_sends_is_read(conversation: list[list[str | bytes]], bits: int, step: int) -> None:
    client = agreed(ConnectionType.CLIENT, offered=PerMessageDeflate(client_max_window_bits=bits))
    data, expected = b"", list[frames.Received]()
    for parts in conversation:
        for number, part in enumerate(parts, 1):
            kind = events.TextMessage if isinstance(part, str) else events.BytesMessage
            data += client.send(kind(part, message_finished=number == len(parts)))  # type: ignore[arg-type]
        whole = parts[0][:0].join(parts)  # type: ignore[arg-type]
        expected.append(Text(whole) if isinstance(whole, str) else Binary(whole))
    assert reads(data) == expected == reads(data, step=step)


@given(st.lists(st.one_of(st.text(max_size=300), st.text('ab{}":,.0', max_size=70_000)), max_size=5), st.integers(1, 9))
def test_what_is_sent_is_read_by_wsproto(texts: list[str], step: int) -> None:
    plain = b"".join(frames.encode_text(text.encode()) + frames.encode_ping(b"between") for text in texts)
    data = frames.compressed(plain)
    assert len(data) <= len(plain)
    client, read, parts = agreed(ConnectionType.CLIENT), list[str](), ""
    for at in range(0, len(data), step * 1000):
        client.receive_data(data[at : at + step * 1000])
        for event in client.events():
            if isinstance(event, events.TextMessage):
                parts += event.data
                if event.message_finished:
                    read.append(parts)
                    parts = ""
            else:
                assert isinstance(event, events.Ping)
    assert read == texts


compressed_frames = st.builds(
    client_frame,
    st.sampled_from([1, 2, 0, 9]),
    st.one_of(st.binary(max_size=100), st.text(max_size=80).map(str.encode)).map(packed),
    fin=st.sampled_from([True, True, False]),
    rsv=st.just(RSV1),
    mask=st.just(MASK),
)


@given(st.lists(st.one_of(compressed_frames, wild_frames), max_size=6), st.integers(1, 9))
def test_wild_frames_read_as_wsproto_reads_them(data: list[bytes], step: int) -> None:
    whole = b"".join(data)
    assert reads(whole, step=step) == reads(whole)
    ours, our_code = split_end(reads(whole))
    theirs, their_code = split_end(wsproto_reads(whole, agreed(ConnectionType.SERVER)))
    if 1007 in (our_code, their_code):
        # wsproto judges text and data frame by frame, and takes data that end within a block
        shared = min(len(ours), len(theirs))
        assert ours[:shared] == theirs[:shared]
    else:
        assert (ours, our_code) == (theirs, their_code)


# What is sent ----------------------------------------------------------------------------------------------------------


def test_a_message_is_compressed_by_itself_and_within_the_promised_window() -> None:
    text = b'{"event":"quote","data":"' + b"1.2345," * 3000 + b'"}'
    frame = frames.compressed(frames.encode_text(text))
    assert frame[0] == 0xC1
    assert frame[1] < 126
    payload = frame[2:]
    decompressor = zlib.decompressobj(-deflate.WINDOW_BITS)
    assert decompressor.decompress(payload + TAIL) == text
    assert frames.compressed(frames.encode_text(text)) == frame


@pytest.mark.parametrize("size", [125, 126, 127, 128, 65535, 65536])
def test_sizes_of_frames(size: int) -> None:
    plain, pong = frames.encode_text(b"x" * size), frames.encode_pong(b"p")
    one = frames.compressed(plain)
    assert (one == plain) is (size < deflate.WORTH_IT)
    assert frames.compressed(plain + pong + plain) == one + pong + one


def test_what_does_not_become_shorter_stays_as_it_is() -> None:
    noise = bytes(33 + (number * 7919 + number * number * 104729) % 94 for number in range(200))
    short, control = frames.encode_text(b"x" * 100), frames.encode_close(1000, "x" * 120)
    assert frames.compressed(short + control) == short + control
    assert frames.compressed(b"") == b""
    plain = frames.encode_text(noise)
    assert len(frames.compressed(plain)) <= len(plain)
    once = frames.compressed(frames.encode_text(b"x" * 500))
    assert frames.compressed(once) == once
