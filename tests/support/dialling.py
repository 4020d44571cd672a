"""Dialling WebSockets in tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from support.deadlines import WITHIN

#: Headers that ask for a WebSocket, for when the answer is to be read as HTTP: trio-websocket leaks the socket of a refusal.
UPGRADE = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
           "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip


@asynccontextmanager
async def dialled(url: str) -> AsyncIterator[WebSocketConnection]:
    """A client connection whose TCP side is closed in the end, which trio-websocket leaves open when the peer closed first."""
    async with open_websocket_url(url) as socket:
        try:
            yield socket
        finally:
            if socket.closed:
                await trio.aclose_forcefully(socket._stream)


async def close_code(socket: WebSocketConnection) -> int | None:
    """Read until the peer closes; return the code, None when the connection ended without one."""
    with trio.fail_after(WITHIN):
        try:
            while True:
                await socket.get_message()
        except ConnectionClosed as closed:
            return None if closed.reason is None or closed.reason.code == 1006 else closed.reason.code
