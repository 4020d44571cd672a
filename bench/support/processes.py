"""Processes of a bench: each pinned to one core, spoken to in lines, its CPU time read from the kernel in nanoseconds.

The server under test has a core for itself and the load client has the other, so that the client's work is not the
server's. Where a machine has only one core both run on it; the CPU time is the server's own all the same.
"""

import contextlib
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


class Unavailable(Exception):
    """This machine lacks what the bench, or one row of it, needs."""


def compiled(name: str) -> Path:
    """The C program `support/<name>.c`, compiled with the machine's cc unless that has been done already."""
    source = HERE / f"{name}.c"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("there is no C compiler (cc)")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = Path(tempfile.gettempdir()) / f"tickrelay-bench-{os.getuid()}-{name}-{digest}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-o", fresh, source], check=True)
        fresh.rename(program)
    return program


def raise_limits() -> int:
    """As many open files as this user may have; the connections a bench can make are fewer than that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int) -> None:
    """Return when somebody listens there."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise Unavailable("it does not begin to listen")


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[tuple[str, int]]:
    """Run a Redis that keeps its files there: its URL, and its process id. Unavailable where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable("there is no redis-server")
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "yes", "--dir", str(directory), "--bind", "127.0.0.1"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"redis://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def start_nginx(home: Path, config: str, port: int) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """Start nginx with a configuration that listens on this port, in a directory of its own: it, and the ids of its workers.

    Unavailable where it is not installed.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        raise Unavailable("nginx is not installed")
    (home / "nginx.conf").write_text(config)
    server = subprocess.Popen(
        [program, "-p", home, "-c", home / "nginx.conf"],
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
    except Unavailable:
        server.kill()
        server.wait()
        raise
    workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return server, [int(pid) for pid in workers.split()]


class Process:
    """A program that answers each line on its stdin with one line on its stdout."""

    def __init__(
        self, command: Sequence[str | Path], core: int, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start it, bound to `core`."""
        self.name = Path(str(command[0])).name
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # threads it starts inherit this
        )
        self.pid = self._process.pid

    def hear(self) -> list[str]:
        """The words of its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        return line.split()

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, line: str) -> list[str]:
        """Send a line, return the words of the answer."""
        self.say(line)
        return self.hear()

    def cpu(self) -> float:
        """Seconds of CPU time its threads have used so far."""
        return cpu_of(self.pid)

    def memory(self) -> int:
        """Resident bytes."""
        return memory_of(self.pid)

    def end(self) -> None:
        """Close its stdin, which ends it; kill it if that does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_of(pid: int) -> float:
    """Seconds of CPU time of a process (/proc/PID/task/*/schedstat: nanoseconds on the CPU, system time included)."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def floor(size: int) -> tuple[Process, int]:
    """The C send() loop with messages of `size` bytes, and its port."""
    process = Process([compiled("floor"), str(size)], SERVER_CORE)
    return process, int(process.hear()[1])


def relay(*arguments: str) -> tuple[Process, int]:
    """A whole relay with a synthetic source inside (`relay_under_test.py`), and its port."""
    process = Process([sys.executable, HERE / "relay_under_test.py", *arguments], SERVER_CORE)
    return process, int(process.hear()[1])


class Load:
    """The load client (`load.c`)."""

    def __init__(
        self, port: int, path: str = "/app/bench?protocol=7", prefix: str = '{"event":"tick"', header: str = ""
    ) -> None:
        """`header` is one more line of its requests."""
        self.process = Process([compiled("load"), str(port), path, prefix, header], CLIENT_CORE)

    def connect(self, count: int, channels: str = "-", window: int = 128) -> float:
        """Open the connections and subscribe each to `channels`; seconds until all are ready."""
        return float(self.process.ask(f"connect {count} {window} {channels}")[2])

    def connect_each(self, channels: Sequence[Sequence[str]]) -> None:
        """Open one connection per list of channels, and subscribe it to these."""
        for mine in channels:
            self.process.ask(f"also {','.join(mine)}")

    def reset(self) -> None:
        """Forget what came."""
        self.process.ask("reset")

    def expect(self, total: int, timeout: float = 30) -> "Got":
        """Wait until `total` deliveries have come."""
        self.process.say(f"expect {total} {timeout}")
        return self.got()

    def got(self) -> "Got":
        """The answer to an `expect` that has been said."""
        words = self.process.hear()
        return Got(int(words[1]), int(words[2]), int(words[3]), float(words[4]), float(words[5]), int(words[6]))

    def end(self) -> None:
        """End the process and with it all connections."""
        self.process.end()


class Got:
    """The deliveries that the load client received."""

    def __init__(self, total: int, least: int, most: int, seconds: float, cpu: float, size: int) -> None:
        self.total, self.least, self.most, self.seconds, self.bytes = total, least, most, seconds, size
        self.idle = 1 - cpu / seconds if seconds else 0.0
        """Share of its time in which it had nothing to do: when it is near zero, the client was measured."""


@contextlib.contextmanager
def connected(
    server: tuple[Process, int], count: int, channels: str = "-", **load: str
) -> Iterator[tuple[Process, Load]]:
    """A server with its subscribers; both end with the block."""
    process, port = server
    client = Load(port, **load)
    try:
        client.connect(count, channels)
        client.reset()
        yield process, client
    finally:
        client.end()
        process.end()
