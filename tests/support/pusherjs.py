"""The real pusher-js in Node.js, driven from a test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from support import tools
from support.client import Client, Line

__all__ = ["Line", "PusherJs", "driven", "pusher_js"]

PusherJs = Client


@asynccontextmanager
async def driven(command: Sequence[str], cwd: Path | None = None) -> AsyncIterator[Client]:
    """Run a client library's driver for the length of the block."""
    process = await trio.lowlevel.open_process(list(command), cwd=cwd, stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    client = Client(process.stdin, process.stdout)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(client.read)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


@asynccontextmanager
async def pusher_js() -> AsyncIterator[PusherJs]:
    """Run a pusher-js client in Node.js for the length of the block."""
    async with driven([tools.node(), "pusher_client.mjs"], tools.NODE_DIR) as client:
        yield client
