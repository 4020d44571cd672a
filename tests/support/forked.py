"""Relays as processes that start at once: one process imports everything, and forks each relay.

A relay so started is a process of its own like any other; it may be killed, stopped and measured. Starting ten of them costs
what one costs that has to import first.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from support.deadlines import WITHIN

_MAIN = """
import gc, os, signal, sys
import coredis, relay.app, relay.cli.running
from relay.cli.command_line import run
from relay.plugins.manager import load_plugins
load_plugins()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    log, *arguments = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    os.close(0)
    try:
        code = run(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stderr.flush()
    os._exit(code)
"""


class Forked:
    """A relay's process. Its output is in the file ``log``."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    @property
    def ended(self) -> bool:
        """True when it has ended."""
        return bool(select.select([self._descriptor], [], [], 0)[0])

    async def wait(self) -> None:
        """Wait until it has ended."""
        await trio.lowlevel.wait_readable(self._descriptor)

    async def listening(self) -> int:
        """Wait until it says that it listens, in a log of JSON; return its port."""
        with trio.fail_after(WITHIN):
            while True:
                ended, said = self.ended, self.log.read_text()
                for line in said.splitlines(keepends=True):
                    if '"listening"' in line and line[-1] == "\n":
                        port: int = json.loads(line)["addresses"][0][1]
                        return port
                assert not ended, said
                await trio.sleep(0.02)

    def close(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)
        select.select([self._descriptor], [], [], 60)
        os.close(self._descriptor)


class ForkServer:
    """The process that forks."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert self._say() == "ready"

    def _say(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if words:
            self._process.stdin.write("\t".join(words) + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, log: Path, *arguments: str) -> Forked:
        """Run `tickrelay` with these arguments."""
        log.touch()
        return Forked(int(self._say(str(log), *arguments)), log)


@contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Have a process that forks relays while inside; it ends by itself if this one dies."""
    with subprocess.Popen(
        [sys.executable, "-c", _MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield ForkServer(process)
        finally:
            process.kill()
