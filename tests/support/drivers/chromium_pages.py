"""Chromium, whose pages are pusher-js clients: every TCP connection to it has one page to itself.

It says on stdout on which port it listens; commands and reports are those of `pusher_operations.mjs`, a line each, and {"op": "page", "url", "html"} for any other page; a dialog it opens is reported as
{"on": "dialog", "text"}.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import Dialog, Page, Route, async_playwright

ROOT = Path(__file__).parents[3]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--renderer-process-limit=1",
]
FILES = {
    "pusher.js": ROOT / "tests/node/node_modules/pusher-js/dist/web/pusher-with-encryption.min.js",
    "resume.js": ROOT / "relay/web/resume.js",
    "pusher_operations.mjs": ROOT / "tests/node/pusher_operations.mjs",
    "socket_operations.mjs": ROOT / "tests/node/socket_operations.mjs",
}
PAGE = """<!doctype html><title>client</title><script src="pusher.js"></script><script src="resume.js"></script>
<script type="module">
import { pusherOperations } from "./pusher_operations.mjs";
window.operate = pusherOperations(Pusher, tickrelayResume, (line) => reportLine(JSON.stringify(line)));
</script>"""


class Tab:
    """One page, lent to one connection after the other."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.html = PAGE
        self.reports: asyncio.StreamWriter | None = None

    async def prepare(self) -> "Tab":
        await self.page.route("**/judge/*", self.give)
        await self.page.expose_function("reportLine", self.report)
        self.page.on("dialog", self.dialog)
        return self

    async def give(self, route: Route) -> None:
        path = FILES.get(route.request.url.rsplit("/", 1)[1])
        if path is None:
            await route.fulfill(body=self.html, content_type="text/html")
        else:
            await route.fulfill(path=path, content_type="text/javascript")

    def report(self, line: str) -> None:
        if self.reports is not None:
            self.reports.write(line.encode() + b"\n")

    async def dialog(self, shown: Dialog) -> None:
        self.report(json.dumps({"on": "dialog", "text": shown.message}))
        await shown.dismiss()

    async def do(self, command: dict[str, Any]) -> None:
        if command["op"] == "page":
            self.html = command["html"]
            await self.page.goto(command["url"])
            return
        if command["op"] == "connect":
            self.html = PAGE
            await self.page.goto(f"http://127.0.0.1:{command['options']['wsPort']}/judge/")
        await self.page.evaluate("command => operate(command)", command)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reports = writer
        try:
            async for line in reader:
                await self.do(json.loads(line))
        finally:
            self.reports = None
            writer.close()
            await self.page.goto("about:blank")


async def main(chromium: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        # The pages are given here and not by a server, so Chromium does not take them for this machine's.
        context = await browser.new_context(permissions=["local-network-access"])

        idle: list[Tab] = []

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tab = idle.pop() if idle else await Tab(await context.new_page()).prepare()
            await tab.serve(reader, writer)
            idle.append(tab)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(
            None, sys.stdin.read
        )  # until whoever started it closes its end
        server.close()
        await browser.close()


asyncio.run(main(sys.argv[1]))
