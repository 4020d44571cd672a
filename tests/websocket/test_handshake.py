"""relay.websocket.handshake: the answers to good and bad requests for a WebSocket."""

import pytest

from relay.websocket.handshake import BadHandshake, accept_key, handshake_response


def test_accept_key_of_the_rfc() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


GOOD = [(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")]


def test_handshake() -> None:
    answer = handshake_response(GOOD, b"permessage-deflate")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert answer.endswith(b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    assert b"Extensions" not in handshake_response(GOOD)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([GOOD[1]], 426),
        ([(b"sec-websocket-version", b"8"), GOOD[1]], 426),
        ([GOOD[0]], 400),
        ([*GOOD, GOOD[1]], 400),
        ([GOOD[0], (b"sec-websocket-key", b"short")], 400),
        ([GOOD[0], (b"sec-websocket-key", b"c2hvcnQ=")], 400),
        ([GOOD[0], (b"sec-websocket-key", b"\xff")], 400),
    ],
)
def test_bad_handshake(headers: list[tuple[bytes, bytes]], status: int) -> None:
    with pytest.raises(BadHandshake) as refusal:
        handshake_response(headers)
    assert refusal.value.status == status
    head, _, body = refusal.value.response().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"Sec-WebSocket-Version: 13" in head) == (status == 426)
    assert b"Content-Length: %d" % len(body) in head
