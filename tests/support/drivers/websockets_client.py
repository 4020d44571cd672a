"""A real `websockets` client, driven by lines of JSON on stdin, reporting lines of JSON on stdout as `ws` does.

See tests/node/socket_operations.mjs.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


def report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Client:
    def __init__(self) -> None:
        self.socket: ClientConnection
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.socket = await connect(url, max_size=None, ping_interval=None, **(options or {}))
        report(on="open", extensions=", ".join(extension.name for extension in self.socket.protocol.extensions))
        self.tasks.append(asyncio.create_task(self._read()))

    async def _read(self) -> None:
        try:
            while True:
                report(on="message", text=await self.socket.recv())
        except ConnectionClosed:
            report(on="close", code=self.socket.close_code, reason=self.socket.close_reason)

    async def send(self, text: str) -> None:
        await self.socket.send(text)

    async def binary(self, size: int) -> None:
        await self.socket.send(bytes(size))

    async def fragments(self, parts: list[str]) -> None:
        async def with_a_ping() -> AsyncIterator[str]:
            yield parts[0]
            pong = await self.socket.ping("between")
            self.tasks.append(asyncio.create_task(self._tell(pong)))
            for part in parts[1:]:
                yield part

        await self.socket.send(with_a_ping())

    async def _tell(self, pong: Any) -> None:
        await pong
        report(on="pong", data="between")

    async def close(self, code: int, reason: str) -> None:
        await self.socket.close(code, reason)


async def main() -> None:
    client = Client()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        await getattr(client, command.pop("op"))(**command)


asyncio.run(main())
