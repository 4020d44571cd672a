"""The official server libraries, in processes of their own, driven from a test."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from support import tools
from support.deadlines import WITHIN
from support.running import APP

DRIVER = Path(__file__).parent / "drivers" / "server_library.py"
MASTER_KEY = "bWFzdGVyLWtleS1mb3ItdGVzdHMtMzItYnl0ZXMtIS4="
"""Base64 of the 32 bytes from which both libraries derive the keys of encrypted channels."""


class Refused(Exception):
    """The relay answered with a status the library takes for a refusal."""

    def __init__(self, status: int | None, body: str) -> None:
        super().__init__(status, body)
        self.status = status


@frozen
class ServerLibrary:
    """One library, as an application's server uses it."""

    _process: trio.Process
    _lock: trio.Lock

    async def call(self, call: str, **arguments: Any) -> Any:
        """Have the library do ``call``; return its result, or the JSON the relay answered. Raises Refused."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._lock:
            await process.stdin.send_all(json.dumps({"call": call, "arguments": arguments}).encode() + b"\n")
            line = b""
            with trio.fail_after(WITHIN):
                while not line.endswith(b"\n"):
                    chunk = await process.stdout.receive_some()
                    assert chunk, f"the library's process has ended, after {line!r}"
                    line += chunk
        answer = json.loads(line)
        assert "error" not in answer, answer
        if "result" in answer:
            return answer["result"]
        if answer["status"] != 200:
            raise Refused(answer["status"], answer["body"])
        return json.loads(answer["body"])


@asynccontextmanager
async def server_library(name: str, port: int) -> AsyncIterator[ServerLibrary]:
    """Run the library (`pusher-node` or `pusher-python`) against the relay on ``port``."""
    command = [sys.executable, str(DRIVER)] if name == "pusher-python" else [tools.node(), "server_library.mjs"]
    arguments = ["127.0.0.1", str(port), APP["id"], APP["key"], APP["secret"], MASTER_KEY]
    process = await trio.lowlevel.open_process(
        [*command, *arguments], cwd=tools.NODE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield ServerLibrary(process, trio.Lock())
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                await stream.aclose()
