"""Hostile clients: each joins with the longest rewind and leaves, over and over, as fast as the relay reads.

    python hostile_load.py PORT CLIENTS

They read what comes and do not look at it. A client that is closed is back a second later. Prints `ready` when all have begun, and
the number of times the relay closed one when stdin ends.
"""

import base64
import json
import os
import socket
import struct
import sys
import threading
import time

closes = 0
over = threading.Event()


def masked(message: object) -> bytes:
    """Return a masked text frame (a mask of zeros changes nothing)."""
    payload = json.dumps(message).encode()
    size = len(payload)
    return struct.pack("!BB", 0x81, 0x80 | size if size < 126 else 0xFE) + (
        b"" if size < 126 else struct.pack("!H", size)
    ) + bytes(4) + payload  # fmt: skip


LOOP = 100 * (
    masked({"event": "pusher:subscribe", "data": {"channel": "ticks", "rewind": 1000}})
    + masked({"event": "pusher:unsubscribe", "data": {"channel": "ticks"}})
)


def ask(sock: socket.socket) -> None:
    """Send the loop until the connection ends."""
    try:
        while not over.is_set():
            sock.sendall(LOOP)
    except OSError:
        pass


def attack(port: int, ready: threading.Semaphore) -> None:
    """Be one hostile client, over and over."""
    global closes
    while not over.is_set():
        with socket.create_connection(("127.0.0.1", port)) as sock:
            key = base64.b64encode(os.urandom(16)).decode()
            sock.sendall(
                b"GET /app/bench?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            threading.Thread(target=ask, args=(sock,), daemon=True).start()
            ready.release()
            try:
                while sock.recv(1 << 20):
                    pass
            except OSError:
                pass
        closes += 1
        time.sleep(1)


def main(port: int, clients: int) -> None:
    """Attack until stdin ends."""
    ready = threading.Semaphore(0)
    for _ in range(clients):
        threading.Thread(target=attack, args=(port, ready), daemon=True).start()
    for _ in range(clients):
        ready.acquire()
    print("ready", flush=True)
    sys.stdin.readline()
    print(f"closed {closes}", flush=True)
    over.set()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
