"""Connecting and staying: what accept, handshake, greeting and subscription cost, and what an idle subscriber weighs.

The load client opens WebSockets and subscribes each to one channel, a window of them on their way at once. The rate per
core is one over the server's CPU time per connection. The rows over TLS (1.3, ECDSA P-256, full handshakes) have a client in
Python that has one connection on its way at a time, so only the server's side of them says anything; nginx beside the relay
answers a request without a body. Memory is the growth of the resident set from before the first
connection to after the last one is subscribed, so everything is in it: socket objects, session, outbox, membership.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.processes import (
    CLIENT_CORE,
    HERE,
    Load,
    Process,
    Unavailable,
    cpu_of,
    free_port,
    memory_of,
    raise_limits,
    relay,
    start_nginx,
)
from support.report import arguments, median, report


def climb(subscribers: int) -> dict[str, Any]:
    """One relay, filled once. A few connections before the first measured ones have everything loaded."""
    server, port = relay()
    warm, client = Load(port), Load(port)
    try:
        warm.connect(200, "ticks")
        memory, cpu = server.memory(), server.cpu()
        seconds = client.connect(subscribers, "ticks")
        spent = server.cpu() - cpu
        grown = server.memory() - memory
        client.reset()
        server.ask("tick 1 1 0 200")
        if client.expect(subscribers).least != 1:
            raise SystemExit("connections: somebody is not subscribed")
        pause = float(server.ask("collect")[1])
    finally:
        warm.end()
        client.end()
        server.end()
    return {
        "connections": subscribers,
        "CPU us per connection": spent / subscribers * 1e6,
        "per second and core": round(subscribers / spent),
        "per second, as it was": round(subscribers / seconds),
        "bytes RSS per idle subscriber": round(grown / subscribers),
        "full collection ms": pause,
    }


def climb_tls(subscribers: int, notes: list[str], turns: int = 10) -> list[dict[str, Any]]:
    """The same over TLS, in turns with nginx where that is installed."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certificate, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = ["openssl", "req", "-x509", *ec, "-keyout", key, "-out", certificate, *subject]
        subprocess.run(command, check=True, capture_output=True)
        server, port = relay("1", f"tls={folder}")
        sides = [Side(f"{subscribers} TLS", stack.enter_context(server), port, certificate)]
        try:
            sides.append(Side(f"{subscribers} TLS, nginx", *stack.enter_context(nginx(Path(folder))), certificate))
        except Unavailable as missing:
            notes.append(f"skipped: {missing}")
        for side in sides:
            stack.enter_context(side.client)
            side.connect(200, "warm")
        for _ in range(turns):
            for side in sides:
                side.connect(subscribers // turns)
        return [side.row() for side in sides]


class Worker:
    """A process that another program has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu(self) -> float:
        return cpu_of(self.pid)

    def memory(self) -> int:
        return memory_of(self.pid)


class Side:
    """A server and its load client over TLS. To nginx each connection sends one plain request, and stays."""

    def __init__(self, name: str, server: Process | Worker, port: int, certificate: Path) -> None:
        self.name, self.server = name, server
        self.word = "connect" if isinstance(server, Process) else "request"
        self.client = Process([sys.executable, HERE / "tls_load.py", str(port), certificate], CLIENT_CORE)
        self.count, self.spent, self.seconds, self.memory = 0, 0.0, 0.0, server.memory()

    def connect(self, count: int, turn: str = "measured") -> None:
        """Open so many connections; the memory and the CPU time of those that warm the server up are not counted."""
        cpu = self.server.cpu()
        seconds = float(self.client.ask(f"{self.word} {count}")[2])
        if turn == "warm":
            self.memory = self.server.memory()
        else:
            self.count, self.seconds = self.count + count, self.seconds + seconds
            self.spent += self.server.cpu() - cpu

    def row(self) -> dict[str, Any]:
        return {
            "connections": self.name,
            "CPU us per connection": self.spent / self.count * 1e6,
            "per second and core": round(self.count / self.spent),
            "per second, as it was": round(self.count / self.seconds),
            "bytes RSS per idle subscriber": round((self.server.memory() - self.memory) / self.count),
        }


@contextmanager
def nginx(home: Path) -> Iterator[tuple[Worker, int]]:
    """Run nginx with the certificate in this directory: its worker, and the port."""
    port = free_port()
    server, [worker] = start_nginx(home, NGINX.format(home=home, port=port), port)
    try:
        yield Worker(worker), port
    finally:
        server.terminate()
        server.wait(10)


NGINX = """daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 20000; }}
worker_rlimit_nofile 20000;
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_timeout 600;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
    location / {{ return 200 "done"; }}
  }}
}}
"""


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=5000, runs=3)
    subscribers = min(options.subscribers, raise_limits() - 500)
    runs = [climb(subscribers) for _ in range(options.runs)]
    row = {key: median([run[key] for run in runs]) for key in runs[0]}
    notes: list[str] = []
    tls = climb_tls(min(subscribers, 2000), notes)
    report(options, "connections: accept, handshake, greeting, subscription", [row, *tls], notes)


if __name__ == "__main__":
    main()
