"""The same fan-out on the servers people would otherwise choose, turn by turn in one run, beside the C floor.

Which of them take part is what this machine has: nchan (Debian's libnginx-mod-nchan), Node `ws` (`make node`), and from
PyPI, in an environment of their own under the temporary directory, `websockets` and socketify (uWebSockets). A missing one
is skipped by name. All send 200-byte frames to the same load client; none compresses; each runs on one core.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.environments import python_with
from support.processes import (
    CLIENT_CORE,
    HERE,
    SERVER_CORE,
    Load,
    Process,
    Unavailable,
    cpu_of,
    floor,
    free_port,
    raise_limits,
    relay,
    start_nginx,
)
from support.report import arguments, median, report

SIZE = 200
PEERS = HERE / "peers"
NODE_WS = HERE.parents[1] / "tests" / "node" / "node_modules" / "ws" / "wrapper.mjs"


class Contestant:
    """A server with its subscribers."""

    def __init__(
        self, name: str, process: Process, port: int, *, channels: str = "-", pids: list[int] | None = None
    ) -> None:
        self.name, self.process = name, process
        self.pids = pids or [process.pid]
        self.costs: dict[int, list[float]] = {}
        self.idle = 1.0
        self.latency: list[list[float]] = []
        self.client = Load(port)
        self._port, self._channels = port, channels
        self._small: Load | None = None

    def connect(self, subscribers: int) -> None:
        """Connect them all."""
        self.client.connect(subscribers, self._channels)

    def turn(self, subscribers: int, batch: int, rounds: int, pause: int) -> None:
        """One turn of the fan-out: rounds that are not measured, rounds that are."""
        command = "go {} {} {}" if self.name == "C send()" else f"tick {{}} {{}} {{}} {SIZE}"
        for share in (max(1, rounds // 3), rounds):
            total = subscribers * batch * share
            self.client.reset()
            before = sum(map(cpu_of, self.pids))
            self.client.process.say(f"expect {total} 30")
            self.process.ask(command.format(share, batch, pause))
            got = self.client.got()
            spent = sum(map(cpu_of, self.pids)) - before
            if got.total != total:
                raise SystemExit(f"{self.name}: {total - got.total} of {total} deliveries were lost")
        self.costs.setdefault(batch, []).append(spent / total * 1e6)
        self.idle = min(self.idle, got.idle)

    def time_events(self, rate: int, seconds: int) -> None:
        """Latencies of `rate` events a second to the subscribers connected."""
        for share in (1, seconds):
            self.client.reset()
            self.client.process.say(f"expect {self._subscribers * rate * share} {share + 10}")
            self.process.ask(f"stamped {rate} {share}")
            self.client.got()
        self.latency.append([float(word) for word in self.client.process.ask("latencies")[2:5]])

    def reconnect(self, subscribers: int) -> None:
        """Other subscribers instead."""
        self.client.process.ask("close")
        time.sleep(0.2)
        self._subscribers = subscribers
        self.client.connect(subscribers, self._channels)

    def end(self) -> None:
        """End the server and its subscribers."""
        self.client.end()
        self.process.end()


def start_websockets() -> Contestant:
    process = Process([python_with("websockets", "uvloop"), PEERS / "websockets_server.py"], SERVER_CORE)
    return Contestant("websockets broadcast (Python, uvloop)", process, int(process.hear()[1]))


def start_socketify() -> Contestant:
    process = Process([python_with("socketify"), PEERS / "socketify_server.py", str(free_port())], SERVER_CORE)
    return Contestant("socketify (uWebSockets, C++)", process, int(process.hear()[1]))


def start_ws() -> Contestant:
    node = shutil.which("node")
    if node is None or not NODE_WS.is_file():
        raise Unavailable("there is no Node, or `make node` has not been run")
    process = Process([node, PEERS / "ws_server.mjs"], SERVER_CORE, env={"WS_MODULE": NODE_WS.as_uri()})
    return Contestant("ws (Node)", process, int(process.hear()[1]))


def start_nchan() -> Contestant:
    module = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
    if not module.is_file():
        raise Unavailable("nginx with nchan is not installed (Debian: libnginx-mod-nchan)")
    home, port = Path(tempfile.mkdtemp(prefix="tickrelay-nchan-")), free_port()
    server, workers = start_nginx(home, NCHAN.format(module=module, home=home, port=port), port)
    process = Process([sys.executable, PEERS / "nchan_server.py", str(port)], CLIENT_CORE)
    process.hear()
    contestant = Contestant("nchan (nginx, C)", process, port, pids=[server.pid, *workers])
    end = contestant.end

    def end_both() -> None:
        end()
        server.terminate()
        server.wait(10)
        shutil.rmtree(home, ignore_errors=True)

    contestant.end = end_both  # type: ignore[method-assign]
    return contestant


NCHAN = """load_module {module};
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 20000; }}
worker_rlimit_nofile 20000;
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  nchan_shared_memory_size 64M;
  server {{
    listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000; keepalive_timeout 600;
    location = /publish {{ nchan_publisher; nchan_channel_id ticks; nchan_message_buffer_length 100; }}
    location / {{ nchan_subscriber websocket; nchan_channel_id ticks; nchan_subscriber_first_message newest; }}
  }}
}}
"""


def start_floor() -> Contestant:
    return Contestant("C send()", *floor(SIZE))


def start_relay() -> Contestant:
    return Contestant("tickrelay", *relay(), channels="ticks")


STARTS = {
    "tickrelay": start_relay,
    "websockets": start_websockets,
    "socketify": start_socketify,
    "ws": start_ws,
    "nchan": start_nchan,
}


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=1000, pairs=5, seconds=3)
    raise_limits()
    contestants, notes = [start_floor()], []
    for name, start in STARTS.items():
        try:
            contestants.append(start())
        except Unavailable as missing:
            notes.append(f"{name}: skipped, {missing}")
    try:
        compete(contestants, options.subscribers, options.pairs, options.seconds)
    finally:
        for contestant in contestants:
            contestant.end()
    report(options, f"peers: {options.subscribers} subscribers, {SIZE}-byte frames", rows(contestants), notes)


def compete(contestants: list[Contestant], subscribers: int, pairs: int, seconds: int) -> None:
    """All of it, turn by turn."""
    for contestant in contestants:
        contestant.connect(subscribers)
    for batch, rounds in ((1, 24), (16, 3)):
        pause = max(2000, min(20_000, subscribers * batch))
        for _ in range(pairs):
            for contestant in contestants:
                contestant.turn(subscribers, batch, rounds, pause)
    for contestant in contestants[1:]:
        contestant.reconnect(100)
        contestant.time_events(1000, seconds)


def rows(contestants: list[Contestant]) -> list[dict[str, Any]]:
    """One row each; ratios are medians over the rounds of turns."""
    least = contestants[0].costs
    found = []
    for contestant in contestants:
        row: dict[str, Any] = {"server": contestant.name}
        for batch, costs in contestant.costs.items():
            row[f"us at {batch}/flush"] = median(costs)
            ratios = [cost / bare for cost, bare in zip(costs, least[batch], strict=True)]
            row[f"ratio at {batch}/flush"] = round(median(ratios), 2)
        if contestant.latency:
            row |= dict(zip(("p50 us", "p99 us", "p99.9 us"), contestant.latency[0], strict=True))
        found.append(row | {"client idle at least": f"{contestant.idle:.0%}"})
    return found


if __name__ == "__main__":
    main()
