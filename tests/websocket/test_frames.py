"""relay.websocket.frames: our framing beside wsproto's, fed whole and one byte at a time."""

import struct
from typing import Any

import pytest
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection as WsConnection
from wsproto.connection import ConnectionType

from relay.websocket import frames
from relay.websocket.frames import Binary, CloseFrame, FrameError, FrameParser, Opcode, PingFrame, PongFrame, Text

MASK = b"\x37\xfa\x21\x3d"


def client_frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = MASK, rsv: int = 0) -> bytes:
    size, masked = len(payload), 0x80 if mask else 0
    first = (0x80 if fin else 0) | rsv | opcode
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def parse(data: bytes, *, step: int | None = None, max_message: int = 70_000) -> list[frames.Received]:
    parser = FrameParser(max_message)
    pieces = [data] if step is None else [data[i : i + step] for i in range(0, len(data), step)]
    return [message for piece in pieces for message in parser.feed(piece)]


def both_ways(data: bytes, max_message: int = 70_000) -> list[frames.Received]:
    whole = parse(data, max_message=max_message)
    assert parse(data, step=1, max_message=max_message) == whole
    return whole


def test_every_kind_of_message() -> None:
    data = b"".join(
        [
            client_frame(Opcode.TEXT, "Grüße €".encode()),
            client_frame(Opcode.BINARY, b"\x00\xff"),
            client_frame(Opcode.PING, b"p"),
            client_frame(Opcode.PONG, b""),
            client_frame(Opcode.CLOSE, struct.pack("!H", 4001) + b"bye"),
            client_frame(Opcode.TEXT, b"ignored"),
        ]
    )
    assert both_ways(data) == [
        Text("Grüße €"),
        Binary(b"\x00\xff"),
        PingFrame(b"p"),
        PongFrame(b""),
        CloseFrame(4001, "bye"),
    ]


def test_control_frames_between_fragments() -> None:
    euro = "€".encode()
    data = (
        client_frame(Opcode.TEXT, b"a" + euro[:1], fin=False)
        + client_frame(Opcode.PING, b"now")
        + client_frame(Opcode.CONTINUATION, euro[1:], fin=False)
        + client_frame(Opcode.CONTINUATION, b"z")
    )
    assert both_ways(data) == [PingFrame(b"now"), Text("a€z")]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65535, 65536, 69_999])
def test_payload_sizes(size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    assert parse(client_frame(Opcode.BINARY, payload), step=997) == [Binary(payload)]
    assert parse(client_frame(Opcode.BINARY, payload)) == [Binary(payload)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(Opcode.TEXT, b"a", mask=None), 1002),
        *[(client_frame(Opcode.TEXT, b"a", rsv=rsv), 1002) for rsv in (0x10, 0x20, 0x40, 0x70)],
        *[(client_frame(Opcode.PING, b"a", rsv=rsv), 1002) for rsv in (0x10, 0x20, 0x40)],
        *[(client_frame(opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)],
        (client_frame(Opcode.PING, b"a", fin=False), 1002),
        (client_frame(Opcode.CLOSE, b"\x03\xe8", fin=False), 1002),
        (client_frame(Opcode.PING, b"a" * 126), 1002),
        (client_frame(Opcode.CLOSE, b"\x03\xe8" + b"a" * 124), 1002),
        (client_frame(Opcode.PING, b"", mask=None), 1002),
        (client_frame(Opcode.CONTINUATION, b"a"), 1002),
        (client_frame(Opcode.TEXT, b"a", fin=False) + client_frame(Opcode.TEXT, b"b"), 1002),
        (b"\x81\xfe\x00\x05" + MASK + b"aaaaa", 1002),
        (b"\x81\xff" + (500).to_bytes(8, "big") + MASK, 1002),
        (b"\x81\xff" + (1 << 63).to_bytes(8, "big") + MASK, 1002),
        (client_frame(Opcode.CLOSE, b"\x03"), 1002),
        (client_frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (client_frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
        (client_frame(Opcode.TEXT, b"\xe2\x82", fin=False) + client_frame(Opcode.CONTINUATION, b""), 1007),
    ],
)
def test_broken_framing(data: bytes, code: int) -> None:
    good = client_frame(Opcode.TEXT, b"before")
    first, error = both_ways(good + data + good)
    assert first == Text("before")
    assert isinstance(error, FrameError)
    assert error.code == code


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_must_not_be_sent(code: int) -> None:
    read = both_ways(client_frame(Opcode.CLOSE, struct.pack("!H", code) + b"reason"))
    assert read == [FrameError(1002, "close code is not valid")]


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    longest = "ü" * 61 + "x"
    assert both_ways(client_frame(Opcode.CLOSE, struct.pack("!H", code) + longest.encode())) == [
        CloseFrame(code, longest)
    ]


def test_a_close_without_a_code() -> None:
    assert both_ways(client_frame(Opcode.CLOSE, b"")) == [CloseFrame(1005, "")]


def test_a_close_between_fragments_ends_the_message_unread() -> None:
    data = client_frame(Opcode.TEXT, b"half", fin=False) + client_frame(Opcode.CLOSE, struct.pack("!H", 1001))
    assert both_ways(data + client_frame(Opcode.CONTINUATION, b"other half")) == [CloseFrame(1001, "")]


def test_bytes_that_trickle_in_are_looked_at_when_they_may_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(self: FrameParser, *place: Any, frame: Any = FrameParser._frame) -> Any:
        looks.append(place)
        return frame(self, *place)

    monkeypatch.setattr(FrameParser, "_frame", look)
    assert parse(client_frame(Opcode.BINARY, b"x" * 60_000), step=1) == [Binary(b"x" * 60_000)]
    assert len(looks) < 10


def test_too_big_is_known_from_the_header() -> None:
    header = client_frame(Opcode.TEXT, b"x" * 101)[:6]
    assert [m.code for m in parse(header, max_message=100) if isinstance(m, FrameError)] == [1009]
    assert parse(client_frame(Opcode.TEXT, b"x" * 100), max_message=100) == [Text("x" * 100)]


def test_too_big_counts_all_fragments() -> None:
    part = client_frame(Opcode.TEXT, b"x" * 60, fin=False) + client_frame(Opcode.CONTINUATION, b"x" * 41)
    assert [m.code for m in both_ways(part, 100) if isinstance(m, FrameError)] == [1009]


payloads = st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode))
wild_frames = st.builds(
    client_frame,
    st.sampled_from([0, 1, 2, 3, 8, 9, 10, 11]),
    payloads,
    fin=st.booleans(),
    mask=st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.none()),
    rsv=st.sampled_from([0] * 9 + [0x40]),
)
ok_messages = st.one_of(
    st.builds(client_frame, st.just(1), st.text(max_size=300).map(str.encode), mask=st.binary(min_size=4, max_size=4)),
    st.builds(client_frame, st.just(2), st.binary(max_size=70_00), mask=st.binary(min_size=4, max_size=4)),
    st.builds(client_frame, st.sampled_from([9, 10]), st.binary(max_size=125)),
)


def wsproto_reads(data: bytes, connection: WsConnection | None = None) -> list[frames.Received]:
    """Return what wsproto's server reads from the same bytes, in our terms; it reports broken framing as a close too."""
    connection = connection or WsConnection(ConnectionType.SERVER)
    connection.receive_data(data)
    read: list[frames.Received] = []
    parts: list[str | bytes] = []
    for event in connection.events():
        match event:
            case wsproto.events.TextMessage() | wsproto.events.BytesMessage():
                parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    text = isinstance(event, wsproto.events.TextMessage)
                    read.append(Text("".join(parts)) if text else Binary(b"".join(parts)))  # type: ignore[arg-type]
                    parts = []
            case wsproto.events.Ping():
                read.append(PingFrame(bytes(event.payload)))
            case wsproto.events.Pong():
                read.append(PongFrame(bytes(event.payload)))
            case wsproto.events.CloseConnection():
                return [*read, CloseFrame(int(event.code), "")]
    return read


def split_end(read: list[frames.Received]) -> tuple[list[frames.Received], int | None]:
    """The messages, and the code of the close or error that ended them."""
    if read and isinstance(read[-1], CloseFrame | FrameError):
        return read[:-1], int(read[-1].code)
    return read, None


@given(st.lists(ok_messages, max_size=6), st.integers(1, 9))
def test_good_frames_read_as_wsproto_reads_them(data: list[bytes], step: int) -> None:
    whole = b"".join(data)
    assert parse(whole) == wsproto_reads(whole) == parse(whole, step=step)


@given(st.lists(wild_frames, max_size=6), st.integers(1, 9))
def test_wild_frames_read_as_wsproto_reads_them(data: list[bytes], step: int) -> None:
    whole = b"".join(data)
    assert parse(whole, step=step) == parse(whole)
    ours, our_code = split_end(parse(whole))
    theirs, their_code = split_end(wsproto_reads(whole))
    if their_code == 1007 != our_code:
        # wsproto judges text fragment by fragment, ours the whole message: what came between the two is ours alone
        assert ours[: len(theirs)] == theirs
    else:
        assert (ours, our_code) == (theirs, their_code)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmask_is_xor(payload: bytes, mask: bytes) -> None:
    assert frames.unmask(payload, mask) == bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


@given(st.binary(max_size=200))
def test_garbage_never_raises(data: bytes) -> None:
    both_ways(data, 50)


@given(st.text(max_size=70_000 // 4), st.binary(max_size=125), st.integers(3000, 4999), st.text(max_size=200))
def test_our_frames_are_read_by_a_client(text: str, payload: bytes, code: int, reason: str) -> None:
    client = WsConnection(ConnectionType.CLIENT)
    data = frames.encode_text(text.encode()) + frames.encode_ping(payload) + frames.encode_pong(payload)
    client.receive_data(data + frames.encode_close(code, reason))
    message, ping, pong, close = client.events()
    assert isinstance(message, wsproto.events.TextMessage)
    assert isinstance(ping, wsproto.events.Ping)
    assert isinstance(pong, wsproto.events.Pong)
    assert (message.data, bytes(ping.payload), bytes(pong.payload)) == (text, payload, payload)
    assert isinstance(close, wsproto.events.CloseConnection)
    assert close.code == code
    assert (close.reason or "") == reason.encode()[:123].decode(errors="ignore")


@pytest.mark.parametrize("size", [125, 126, 65535, 65536])
def test_length_boundaries_outward(size: int) -> None:
    client = WsConnection(ConnectionType.CLIENT)
    client.receive_data(frames.encode_text(b"x" * size))
    (message,) = client.events()
    assert isinstance(message, wsproto.events.TextMessage)
    assert len(message.data) == size


def test_control_payload_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        frames.encode_ping(b"x" * 126)
    assert frames.encode_close(1005) == b"\x88\x00"


def test_a_message_of_endless_empty_fragments_is_closed_with_a_reason() -> None:
    parser = FrameParser()
    empty = b"\x00\x80" + bytes(4)
    assert parser.feed(b"\x01\x80" + bytes(4)) == []
    received = [item for _ in range(10) for item in parser.feed(empty * 10)]
    assert received == [FrameError(1008, f"more than {frames.MOST_EMPTY} empty fragments in a message")]
    assert parser.finished


def test_a_few_empty_fragments_are_a_message() -> None:
    parser = FrameParser()
    empty, last = b"\x00\x80" + bytes(4), b"\x80\x81" + bytes(4) + b"x"
    for _ in range(3):  # the count begins anew with each message
        assert parser.feed(b"\x01\x80" + bytes(4) + empty * (frames.MOST_EMPTY - 1) + last) == [Text("x")]
