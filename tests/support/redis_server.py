"""A Redis of a test's own: `redis-server` on a port of the kernel's choice, in a temporary folder."""

import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from support import tools
from support.deadlines import WITHIN


class RedisServer:
    """One Redis with an append-only file. It may be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.process: trio.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self, *options: str) -> None:
        """Start it, and wait until it listens."""
        always = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
        command = [tools.redis_server(), *always, "--appendonly", "yes", "--appendfsync", "always", *options]
        self.process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL)
        with trio.fail_after(WITHIN):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", self.port)).aclose()
                    return
                except OSError:
                    await trio.sleep(0.02)

    async def say(self, command: str) -> None:
        """Give it a command."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(command.encode() + b"\r\n")
            answer = await stream.receive_some(1024)
        assert answer == b"+OK\r\n", answer

    async def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@asynccontextmanager
async def redis_server(directory: Path, *options: str) -> AsyncIterator[RedisServer]:
    """Run a Redis while inside."""
    server = RedisServer(directory)
    await server.start(*options)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.kill()
