"""A load client over TLS, in the words of `load.c`: `connect N` opens and subscribes N connections and keeps them, `request N`
opens N and sends a plain request on each, for a server that is not a relay.

python tls_load.py PORT CERTIFICATE
"""

import socket
import ssl
import sys
import time

SUBSCRIBE = b'{"event":"pusher:subscribe","data":{"channel":"ticks"}}'
REQUEST = (
    b"GET /app/bench?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    + bytes((0x81, 0x80 | len(SUBSCRIBE)))
    + bytes(4)
    + SUBSCRIBE
)


PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASKED = {"connect": (REQUEST, b"subscription_succeeded"), "request": (PLAIN, b"done")}


def connect(port: int, context: ssl.SSLContext, request: bytes, awaited: bytes) -> ssl.SSLSocket:
    """Open one connection and wait for the answer."""
    stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
    stream.sendall(request)
    data = b""
    while awaited not in data:
        data += stream.recv(4096)
    return stream


def main(port: int, certificate: str) -> None:
    """Obey stdin until it ends."""
    context = ssl.create_default_context(cafile=certificate)
    connections = []
    for line in sys.stdin:
        start, (word, count) = time.perf_counter(), line.split()
        connections += [connect(port, context, *ASKED[word]) for _ in range(int(count))]
        print(f"connected {len(connections)} {time.perf_counter() - start}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
