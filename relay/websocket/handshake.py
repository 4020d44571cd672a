"""Answer the HTTP request that asks for a WebSocket (RFC 6455, 4.2), sans-IO."""

import base64
import binascii
import hashlib
from collections.abc import Sequence

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SUBPROTOCOL = b"pusher-channels-protocol-7"
"""The official Swift client offers it, and RFC 6455 (4.1) lets a client fail when none that it offered comes back."""
_REASONS = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 426: "Upgrade Required",
            503: "Service Unavailable"}  # fmt: skip


class BadHandshake(Exception):
    """Raised when an upgrade request cannot be answered with 101: send `response` (a whole HTTP answer) and close."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def response(self) -> bytes:
        """Return the HTTP/1.1 answer that refuses the upgrade."""
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}", "Connection: close"]
        if self.status == 426:
            lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        body = self.reason + "\n"
        lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body.encode())}", "", body]
        return "\r\n".join(lines).encode()


def accept_key(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def handshake_response(headers: Sequence[tuple[bytes, bytes]], extensions: bytes = b"") -> bytes:
    """Return the 101 answer to an upgrade request, with the subprotocol `SUBPROTOCOL` where the client offers it.

    `headers` are the request's, names in lower case. `extensions`, when not empty, is sent as Sec-WebSocket-Extensions;
    `relay.websocket.deflate.accepted` returns it. Raises BadHandshake: 426 for another
    version, 400 for a bad or repeated key.
    """
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    if versions != [b"13"]:
        raise BadHandshake(426, "Sec-WebSocket-Version must be 13")
    if len(keys) != 1 or not _is_nonce(keys[0]):
        raise BadHandshake(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    lines.append(b"Sec-WebSocket-Accept: " + accept_key(keys[0]))
    offered = [value for name, value in headers if name == b"sec-websocket-protocol"]
    if any(SUBPROTOCOL in value.replace(b" ", b"").split(b",") for value in offered):
        lines.append(b"Sec-WebSocket-Protocol: " + SUBPROTOCOL)
    if extensions:
        lines.append(b"Sec-WebSocket-Extensions: " + extensions)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _is_nonce(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
