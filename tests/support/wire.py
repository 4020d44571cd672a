"""Read what a relay has written to one subscriber."""

from collections.abc import Iterator


def frames(said: bytes) -> Iterator[tuple[int, bytes]]:
    """(first byte, payload as it is on the wire) of each whole frame behind the answer to the handshake."""
    at = said.index(b"\r\n\r\n") + 4
    while at + 2 <= len(said):
        first, size, at = said[at], said[at + 1], at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(said[at : at + wide], "big"), at + wide
        if at + size > len(said):
            return
        yield first, bytes(said[at : at + size])
        at += size
