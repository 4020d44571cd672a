"""A relay as a process: `tickrelay serve` with a configuration of the test's."""

import json
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
    *command: str, until: str, stream: str = "stderr", descriptors: int | None = None, memory: int | None = None
) -> AsyncIterator[tuple[trio.Process, str]]:
    """Run `tickrelay` with these arguments; go on at the first line with ``until`` in it, and kill it at the end.

    ``descriptors`` is how many file descriptors the process may have, ``memory`` the bytes of its address space.
    """
    limits = [] if descriptors is None else [f"ulimit -n {descriptors}"]
    limits += [] if memory is None else [f"ulimit -v {memory // 1024}"]
    limited = ["sh", "-c", "; ".join([*limits, 'exec "$@"']), "sh"] if limits else []
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
