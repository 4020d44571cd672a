"""Every client library by its name in the matrix, each driven in the same way."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from support import tools
from support.client import Client
from support.pusherjs import driven

__all__ = ["Client", "client_of"]

DRIVERS = Path(__file__).parent / "drivers"
SCRIPTS = {
    "pusher-js": ["pusher_client.mjs"],
    "pusher-js over ws": ["pusher_client.mjs", "ws"],
    "echo": ["echo_client.mjs"],
    "ws": ["socket_client.mjs"],
}
"""Those that run in Node.js."""


@asynccontextmanager
async def client_of(library: str, browser_port: int = 0) -> AsyncIterator[Client]:
    """Run a client of this library for the length of the block; a page of the browser on that port for `chromium`."""
    if library == "chromium":
        async with _page(browser_port) as client:
            yield client
    elif library in SCRIPTS:
        async with driven([tools.node(), *SCRIPTS[library]], tools.NODE_DIR) as client:
            yield client
    else:
        async with driven([sys.executable, str(DRIVERS / f"{library}_client.py")]) as client:
            yield client


@asynccontextmanager
async def _page(port: int) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        client = Client(stream, stream)
        await nursery.start(client.read)
        yield client
        nursery.cancel_scope.cancel()
