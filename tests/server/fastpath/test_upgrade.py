"""The quick reader of upgrade requests against h11: what it takes, h11 takes too and understands alike."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.server.fastpath.upgrade import UpgradeRequest, read_upgrade
from relay.server.http import is_upgrade

LIMIT = 16 * 1024
PLAIN = (
    b"GET /app/key?protocol=7 HTTP/1.1",
    b"Host: relay.test",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def by_h11(data: bytes) -> tuple[UpgradeRequest, bytes] | None:
    """Return the request as h11 reads it; None where it refuses, waits for more, or sees an ordinary request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    connection.receive_data(data)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(request, h11.Request) or not is_upgrade(request):
        return None
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in headers):
        return None
    connection.next_event()
    return UpgradeRequest("GET", request.target.decode("ascii"), headers), connection.trailing_data[0]


def test_a_plain_request_is_read_with_what_follows_it() -> None:
    data = head(*PLAIN) + b"\x81\x85rest"
    assert read_upgrade(data, LIMIT) == by_h11(data)
    assert read_upgrade(data, LIMIT) == (
        UpgradeRequest(
            "GET",
            "/app/key?protocol=7",
            [
                (b"host", b"relay.test"),
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"sec-websocket-version", b"13"),
            ],
        ),
        b"\x81\x85rest",
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(*PLAIN)[:-1],
        head(*PLAIN)[1:],
        head(*PLAIN).replace(b"\r\n", b"\n"),
        head(*PLAIN[:1], *PLAIN[2:]),
        head(*PLAIN, b"Host: other"),
        head(*PLAIN, b"Content-Length: 0"),
        head(*PLAIN, b"Transfer-Encoding: chunked"),
        head(*PLAIN, b"Expect: 100-continue"),
        head(*PLAIN, b" folded"),
        head(*PLAIN, b"Name : value"),
        head(*PLAIN, b"Name: \x00"),
        head(*PLAIN, b"no colon"),
        head(PLAIN[0].replace(b"GET", b"POST"), *PLAIN[1:]),
        head(PLAIN[0].replace(b"1.1", b"1.0"), *PLAIN[1:]),
        head(b"GET  /two HTTP/1.1", *PLAIN[1:]),
        head(*PLAIN[:2], *PLAIN[3:]),
        head(*PLAIN[:3], *PLAIN[4:]),
        head(*PLAIN, b"X: " + b"x" * LIMIT),
    ],
)
def test_everything_else_is_left_to_h11(data: bytes) -> None:
    assert read_upgrade(data, LIMIT) is None


def test_no_header_value_is_cached() -> None:
    """A value may be a credential, which must not stay in memory; so two requests do not share one."""
    data = head(*PLAIN, b"Authorization: Bearer secret")
    first, second = read_upgrade(data, LIMIT), read_upgrade(data, LIMIT)
    assert first is not None
    assert second is not None
    assert first[0].header(b"authorization") == second[0].header(b"authorization") == b"Bearer secret"
    assert first[0].header(b"authorization") is not second[0].header(b"authorization")


lines = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(PLAIN[1:]).map(bytes.upper),
    st.sampled_from(
        [b"Connection: keep-alive, Upgrade", b"connection:upgrade", b"Upgrade:  WebSocket \t", b"Origin: https://a.example",
         b"Cookie: a=b; c=d", b"X:", b"X: \xe9", b"X: \x7f", b"X:\ty\t z ", b"Upgrade: h2c, websocket", b"Host:", b"X y: z"]
    ),
    st.binary(max_size=20),
)  # fmt: skip


@given(st.lists(lines, max_size=4), st.lists(lines, max_size=4), st.binary(max_size=6))
def test_what_it_takes_h11_takes_alike(before: list[bytes], after: list[bytes], rest: bytes) -> None:
    data = head(PLAIN[0], *before, *PLAIN[1:], *after) + rest
    found = read_upgrade(data, LIMIT)
    if found is not None:
        assert found == by_h11(data)


@given(st.integers(0, len(head(*PLAIN)) - 1), st.binary(min_size=1, max_size=3))
def test_a_changed_byte_is_read_alike_or_left_to_h11(at: int, change: bytes) -> None:
    plain = head(*PLAIN)
    data = plain[:at] + change + plain[at + 1 :]
    found = read_upgrade(data, LIMIT)
    if found is not None:
        assert found == by_h11(data)
