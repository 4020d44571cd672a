"""A load client over TLS, in the words of `load.c`: `connect N` opens and subscribes N connections and keeps them.

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


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Open one connection and wait until it is subscribed."""
    stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
    stream.sendall(REQUEST)
    data = b""
    while b"subscription_succeeded" not in data:
        data += stream.recv(4096)
    return stream


def main(port: int, certificate: str) -> None:
    """Obey stdin until it ends."""
    context = ssl.create_default_context(cafile=certificate)
    connections = []
    for line in sys.stdin:
        start = time.perf_counter()
        connections += [connect(port, context) for _ in range(int(line.split()[1]))]
        print(f"connected {len(connections)} {time.perf_counter() - start}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
