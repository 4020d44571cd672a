"""Connecting and staying: what accept, handshake, greeting and subscription cost, and what an idle subscriber weighs.

The load client opens WebSockets and subscribes each to one channel, a window of them on their way at once. The rate per
core is one over the server's CPU time per connection. The rows over TLS (1.3, ECDSA P-256, full handshakes) have a client in
Python, so only the server's side of them says anything. Memory is the growth of the resident set from before the first
connection to after the last one is subscribed, so everything is in it: socket objects, session, outbox, membership.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.processes import CLIENT_CORE, HERE, Load, Process, raise_limits, relay
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


def climb_tls(subscribers: int) -> dict[str, Any]:
    """The same over TLS."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = ["openssl", "req", "-x509", *ec, "-keyout", key, "-out", certificate, *subject]
        subprocess.run(command, check=True, capture_output=True)
        server, port = relay("1", f"tls={folder}")
        load = [sys.executable, HERE / "tls_load.py", str(port), certificate]
        with server, Process(load, CLIENT_CORE) as client:
            client.ask("connect 200")
            memory, cpu = server.memory(), server.cpu()
            seconds = float(client.ask(f"connect {subscribers}")[2])
            spent = server.cpu() - cpu
            grown = server.memory() - memory
    return {
        "connections": f"{subscribers} TLS",
        "CPU us per connection": spent / subscribers * 1e6,
        "per second and core": round(subscribers / spent),
        "per second, as it was": round(subscribers / seconds),
        "bytes RSS per idle subscriber": round(grown / subscribers),
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=5000, runs=3)
    subscribers = min(options.subscribers, raise_limits() - 500)
    runs = [climb(subscribers) for _ in range(options.runs)]
    row = {key: median([run[key] for run in runs]) for key in runs[0]}
    tls = climb_tls(min(subscribers, 2000))
    report(options, "connections: accept, handshake, greeting, subscription", [row, tls])


if __name__ == "__main__":
    main()
