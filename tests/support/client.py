"""A real client library in a process of its own, driven from a test by lines of JSON and reporting lines of JSON."""

import json
from collections.abc import Callable
from typing import Any

import trio

from support.deadlines import WITHIN

Line = dict[str, Any]


class Client:
    """One client. Everything it reports is kept in `lines`, in order; `wait` waits for a line."""

    def __init__(self, commands: trio.abc.SendStream, reports: trio.abc.ReceiveStream) -> None:
        self.lines: list[Line] = []
        self._commands = commands
        self._reports = reports
        self._news = trio.Event()

    async def connect(self, port: int, key: str, *, wait: bool = True, **options: Any) -> str:
        """Connect to the relay on ``port``; return the socket id once established (unless told not to wait)."""
        resume, secret = options.pop("resume", None), options.pop("secret", None)
        options = {"wsHost": "127.0.0.1", "wsPort": port, **options}
        await self.do("connect", key=key, options=options, resume=resume, secret=secret)
        return await self.connected() if wait else ""

    async def connected(self, *, times: int = 1) -> str:
        """Wait until it has been connected so many times; return the socket id."""
        return str((await self.nth(lambda line: line.get("current") == "connected", times))["socket_id"])

    async def do(self, op: str, **arguments: Any) -> None:
        await self._commands.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")

    async def subscribe(self, *channels: str) -> None:
        """Subscribe and wait until the relay says it succeeded."""
        for channel in channels:
            await self.do("subscribe", channel=channel)
        for channel in channels:
            await self.event(channel, "pusher:subscription_succeeded")

    async def event(self, channel: str, event: str, *, skip: int = 0) -> Any:
        """Wait for the event (after ``skip`` earlier ones) on the channel and return its data."""
        wanted = ("event", channel, event)
        return (
            await self.nth(lambda line: (line["on"], line.get("channel"), line.get("event")) == wanted, skip + 1)
        ).get("data")

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
        return await self.nth(lambda line: line["on"] == op, before + 1)

    async def wait(self, wanted: Callable[[Line], bool], within: float = WITHIN) -> Line:
        """Wait for the first line for which ``wanted`` holds."""
        return await self.nth(wanted, 1, within)

    async def nth(self, wanted: Callable[[Line], bool], count: int, within: float = WITHIN) -> Line:
        """Wait for the ``count``-th line for which ``wanted`` holds."""
        looked_at = 0
        with trio.move_on_after(within):
            while True:
                for line in self.lines[looked_at:]:
                    count -= wanted(line)
                    if count == 0:
                        return line
                looked_at = len(self.lines)
                await self._news.wait()
        raise AssertionError(f"not reported within {within} s; the last lines were {self.lines[-10:]}")

    async def error(self, code: int) -> str:
        """Wait until the library reports an error with this code of the protocol; return its text."""
        return str((await self.wait(lambda line: line["on"] == "error" and _code(line)[0] == code))["error"])

    async def read(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what it reports, until it ends."""
        task_status.started()
        rest = b""
        async for chunk in self._reports:
            *complete, rest = (rest + chunk).split(b"\n")
            self.lines += [json.loads(line) for line in complete]
            if complete:
                self._news.set()
                self._news = trio.Event()


def _code(line: Line) -> tuple[Any, Any]:
    """Code and text of an error, wherever the library has put them."""
    error = line["error"]
    while isinstance(error, dict) and "code" not in error and (inner := error.get("error") or error.get("data")):
        error = inner
    return (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
