"""permessage-deflate (RFC 7692) for the server's side of a connection, sans-IO and without context takeover.

Every message is compressed by itself. So one compression serves every subscriber, and no connection holds a window, a
compressor or a decompressor.

- Offers are looked at in the client's order of preference, and the first that can be served is accepted. Both sides are held
  to no context takeover: the server may say so whether the client offered it or not (7.1.1).
- An offer that is malformed, or that wants a window smaller than the shared one, is declined. If all are declined, the
  connection continues uncompressed; it is never refused.
- `client_max_window_bits` is not answered: a decompressor with the largest window reads them all, and lives for one message.
- A received message must end where a block ends. Data after a final block are an error.
"""

import re
import zlib
from collections.abc import Iterable

LEVEL = 5
WINDOW_BITS = 12
MEMORY_LEVEL = 5
"""Measured on quotes and books (docs/performance.md): the window holds nearly all messages whole; a larger one costs time to
set up for every message, and could not serve clients that ask for a smaller one.
"""
WORTH_IT = 128
"""Bytes of a payload from which it is compressed; below, it saves less than the headers of the packet."""

_NAME = b"permessage-deflate"
_ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_BITS = frozenset(b"%d" % bits for bits in range(8, 16))
_VALUES: dict[bytes, frozenset[bytes | None]] = {
    b"server_no_context_takeover": frozenset({None}),
    b"client_no_context_takeover": frozenset({None}),
    b"server_max_window_bits": _BITS,
    b"client_max_window_bits": _BITS | {None},
}
"""RFC 7692, 7.1: the parameters of an offer, and the values each may have."""
_offers = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+"|")++').findall
_parameter = re.compile(rb'[ \t]*+([a-z_]++)[ \t]*+(?:=[ \t]*+("?)([0-9]++)\2[ \t]*+)?').fullmatch

_TAIL = b"\x00\x00\xff\xff"
"""Every message ends with it, and the sender leaves it out (7.2.1)."""
_MARK = b"\xa5end\x5a\x00\xff\x3c"
_LAST_BLOCK = b"\x01" + len(_MARK).to_bytes(2, "little") + (0xFFFF - len(_MARK)).to_bytes(2, "little") + _MARK
"""A final block that stores the mark. A decompressor at the end of a block reads it and returns exactly the mark. Within an
open block its bits are data. An empty block would not do, because its bits may just end the open block.
"""
_REST = frozenset({b"", _TAIL, b"\x00" + _TAIL})
"""Bytes that may follow a final block of the message's own (7.2.3.4)."""


class CorruptData(Exception):
    """Raised when received data is not one deflated message."""


class TooLong(Exception):
    """Raised when a message is longer than the limit."""


def accepted(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the Sec-WebSocket-Extensions of the answer to a request with these headers (names in lower case); b"" for an
    uncompressed connection.
    """
    for name, value in headers:
        if name == b"sec-websocket-extensions":
            for offer in _offers(value):
                extension, *parameters = offer.split(b";")
                answer = _answer(parameters) if extension.strip(b" \t") == _NAME else b""
                if answer:
                    return answer
    return b""


def _answer(parameters: list[bytes]) -> bytes:
    """Return the answer to one offer; b"" declines it."""
    asked: dict[bytes, bytes | None] = {}
    for parameter in parameters:
        match = _parameter(parameter)
        if match is None or match[1] in asked or match[3] not in _VALUES.get(match[1], ()):
            return b""
        asked[match[1]] = match[3]
    bits = asked.get(b"server_max_window_bits")
    if bits is None:
        return _ANSWER
    return _ANSWER + b"; server_max_window_bits=%d" % WINDOW_BITS if int(bits) >= WINDOW_BITS else b""


def deflated(payload: bytes) -> bytes:
    """Return the payload of the one frame of a compressed message."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS, MEMORY_LEVEL)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def inflated(payload: bytes, limit: int) -> bytes:
    """Return the message in the joined payloads of its frames. Never decompresses more than `limit` bytes.

    Raises CorruptData, TooLong.
    """
    if not payload:  # an empty message should be one byte, but the peers' libraries read nothing as nothing
        return b""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        message = decompressor.decompress(payload + _TAIL, limit + 1)
        if len(message) > limit:
            raise TooLong
        if decompressor.eof:
            whole = decompressor.unused_data in _REST
        else:
            whole = decompressor.decompress(_LAST_BLOCK) == _MARK and decompressor.eof
    except zlib.error as error:
        raise CorruptData from error
    if not whole:
        raise CorruptData
    return message
