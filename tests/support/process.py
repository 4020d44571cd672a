"""A relay as a process: `tickrelay serve` with a configuration of the test's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from relay.testing.simulator import Address
from relay_helio.simulator import EMAIL, PASSWORD
from support.running import API_KEY, APP


def helio_configuration(broker: Address, rest: str = "", *, of_app: str = "", of_provider: str = "") -> str:
    """A relay with the simulated Helio, an app, and an API key that trades; with more lines of the app and the provider."""
    return f"""
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{{port}}"
status_public = true
[apps.main]
id = "{APP["id"]}"
key = "{APP["key"]}"
secret = "{APP["secret"]}"
{of_app}
[api_keys.desk]
key = "{API_KEY}"
trade = ["helio.main"]
[providers.helio]
url = "{broker.ws}"
http_url = "{broker.http}"
symbols = {{ EURUSD = "EUR/USD" }}
accounts.main.credentials = {{ email = "{EMAIL}", password = "{PASSWORD}" }}
{of_provider}
{rest}
"""


@asynccontextmanager
async def started(
    *command: str, until: str, stream: str = "stderr", descriptors: int | None = None
) -> AsyncIterator[tuple[trio.Process, str]]:
    """Run `tickrelay` with these arguments; go on at the first line with ``until`` in it, and kill it at the end.

    ``descriptors`` is how many file descriptors the process may have.
    """
    limited = [] if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    process = await trio.lowlevel.open_process(
        [*limited, sys.executable, "-m", "relay", *command], stdin=subprocess.DEVNULL, **{stream: subprocess.PIPE}
    )
    output: Any = getattr(process, stream)
    try:
        async with trio.open_nursery() as nursery:
            yield process, await nursery.start(_line, output, until)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await output.aclose()


async def _line(
    output: trio.abc.ReceiveStream, until: str, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Find the line, and drain what comes after it."""
    text, found = "", False
    with trio.CancelScope() as late:
        late.deadline = trio.current_time() + 60
        async for chunk in output:
            if found:
                continue
            text += chunk.decode()
            if line := next(
                (line for line in text.splitlines(keepends=True) if until in line and line[-1] == "\n"), None
            ):
                found, late.deadline = True, float("inf")
                task_status.started(line)
    assert found, f"never said {until!r}, but: {text}"


@asynccontextmanager
async def serving(
    directory: Path, configuration: str, port: int = 0, *, descriptors: int | None = None
) -> AsyncIterator[tuple[trio.Process, int]]:
    """Run `tickrelay serve`; yields the process and its port. ``{port}`` in the configuration is replaced."""
    path = directory / "tickrelay.toml"
    path.write_text(configuration.replace("{port}", str(port)) + '\n[log]\nformat = "json"\n')
    async with started("serve", "-c", str(path), until='"listening"', descriptors=descriptors) as (process, line):
        yield process, json.loads(line)["addresses"][0][1]


#: Runs the relay again and again: each line of stdin has the arguments of one, which is forked. Its process id is told, and its
#: end. A fork needs none of the two seconds of CPU time that importing all of it takes.
_FORKS = """
import json, os, sys
import relay.app, relay.cli
from relay.plugins.manager import load_plugins

load_plugins()
for line in sys.stdin:
    child = os.fork()
    if not child:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        print("forked", os.getpid(), file=sys.stderr, flush=True)
        sys.argv = ["tickrelay", *json.loads(line)]
        relay.cli.main()
        os._exit(0)
    print(child, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ended", child, file=sys.stderr, flush=True)
    print(status, flush=True)
"""


class Forked:
    """One relay of `Forks`."""

    def __init__(self, forks: "Forks", pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        """Its exit status; the negative signal that ended it; None while it runs."""
        self._forks = forks

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)

    async def listening(self) -> int:
        """Wait until it says that it listens; return its port."""
        await self._forks.said(f"forked {self.pid}", "")
        port: int = json.loads(await self._forks.said('"listening"', f"ended {self.pid}"))["addresses"][0][1]
        return port

    async def wait(self) -> int:
        """Wait until it has ended; return its exit status."""
        if self.status is None:
            self.status = int(await self._forks.told())
        return self.status


class Forks:
    """A process that has imported the relay: it runs `tickrelay serve` as often as it is told, one after the other."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._read = {"stdout": b"", "stderr": b""}

    async def serve(self, configuration: Path) -> Forked:
        """Run one more."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(["serve", "-c", str(configuration)]).encode() + b"\n")
        return Forked(self, int(await self.told()))

    async def told(self) -> str:
        """Return the next line of its own."""
        return await self._line("stdout")

    async def said(self, text: str, end: str) -> str:
        """Return the next line of the relay's log that has ``text`` in it; fail at the one that is ``end``."""
        said = []
        while text not in (line := await self._line("stderr")):
            said.append(line)
            assert line != end, said
        return line

    async def _line(self, name: str) -> str:
        stream: Any = getattr(self._process, name)
        with trio.fail_after(120):
            while b"\n" not in self._read[name]:
                chunk = await stream.receive_some()
                assert chunk, f"it has ended: {self._read}"
                self._read[name] += chunk
        line, _, self._read[name] = self._read[name].partition(b"\n")
        return line.decode()


@asynccontextmanager
async def forks() -> AsyncIterator[Forks]:
    """Run a process that forks relays while inside. Each must have been waited for at the end."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = await trio.lowlevel.open_process([sys.executable, "-c", _FORKS], **pipes)
    try:
        yield Forks(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()
