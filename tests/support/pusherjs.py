"""The real pusher-js in Node.js, driven from a test."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from support import tools

Line = dict[str, Any]


class PusherJs:
    """One pusher-js client. Everything it reports is kept in `lines`, in order; `wait` waits for a line."""

    def __init__(self, process: trio.Process) -> None:
        self.lines: list[Line] = []
        self._process = process
        self._news = trio.Condition()

    async def connect(self, port: int, key: str, *, wait: bool = True, encryption: bool = False, **options: Any) -> str:
        """Connect to the relay on ``port``; return the socket id once established (unless told not to wait)."""
        options = {"wsHost": "127.0.0.1", "wsPort": port, **options}
        await self.do("connect", key=key, encryption=encryption, options=options)
        if not wait:
            return ""
        line = await self.wait(lambda line: line["on"] == "state" and line["current"] == "connected")
        return str(line["socket_id"])

    async def do(self, op: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")

    async def subscribe(self, channel: str) -> None:
        """Subscribe and wait until the relay says it succeeded."""
        await self.do("subscribe", channel=channel)
        await self.event(channel, "pusher:subscription_succeeded")

    async def event(self, channel: str, event: str, *, skip: int = 0) -> Any:
        """Wait for the event (after ``skip`` earlier ones) on the channel and return its data."""
        count = skip + 1
        with trio.fail_after(20):
            while len(found := self.events(channel, event)) < count:
                await self._changed()
        return found[count - 1]

    def events(self, channel: str | None = None, event: str | None = None) -> list[Any]:
        """Data of the events received so far."""
        return [
            line.get("data")
            for line in self.lines
            if line["on"] == "event" and channel in (None, line["channel"]) and event in (None, line["event"])
        ]

    async def ask(self, op: str, **arguments: Any) -> Line:
        """Do ``op`` and return the next line it reports under its own name."""
        before = sum(line["on"] == op for line in self.lines)
        await self.do(op, **arguments)
        with trio.fail_after(20):
            while len(found := [line for line in self.lines if line["on"] == op]) <= before:
                await self._changed()
        return found[-1]

    async def wait(self, wanted: Callable[[Line], bool], within: float = 20) -> Line:
        """Wait for the first line for which ``wanted`` holds."""
        with trio.fail_after(within):
            while True:
                for line in self.lines:
                    if wanted(line):
                        return line
                await self._changed()

    async def _changed(self) -> None:
        async with self._news:
            await self._news.wait()

    async def _read(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *complete, rest = (rest + chunk).split(b"\n")
            self.lines += [json.loads(line) for line in complete]
            if complete:
                async with self._news:
                    self._news.notify_all()


@asynccontextmanager
async def pusher_js() -> AsyncIterator[PusherJs]:
    """Run a pusher-js client in Node.js for the length of the block."""
    command = [tools.node(), "pusher_client.mjs"]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, cwd=tools.NODE_DIR, stdin=-1, stdout=-1)
        client = PusherJs(process)
        try:
            await nursery.start(client._read)
            yield client
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                nursery.cancel_scope.cancel()
