"""Chromium, whose pages are pusher-js clients: every TCP connection to it is one page in a context of its own.

It says on stdout on which port it listens; commands and reports are those of `pusher_operations.mjs`, a line each.
"""

import asyncio
import json
import sys
from pathlib import Path

from playwright.async_api import Browser, Route, async_playwright

ROOT = Path(__file__).parents[3]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FILES = {
    "pusher.js": ROOT / "tests/node/node_modules/pusher-js/dist/web/pusher-with-encryption.min.js",
    "resume.js": ROOT / "docs/clients/resume.js",
    "pusher_operations.mjs": ROOT / "tests/node/pusher_operations.mjs",
}
PAGE = """<!doctype html><title>client</title><script src="pusher.js"></script><script src="resume.js"></script>
<script type="module">
import { pusherOperations } from "./pusher_operations.mjs";
window.operate = pusherOperations(Pusher, tickrelayResume, (line) => reportLine(JSON.stringify(line)));
</script>"""


async def give(route: Route) -> None:
    path = FILES.get(route.request.url.rsplit("/", 1)[1])
    if path is None:
        await route.fulfill(body=PAGE, content_type="text/html")
    else:
        await route.fulfill(path=path, content_type="text/javascript")


async def page_of(browser: Browser, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # The page is given here and not by a server, so Chromium does not take it for one of this machine's.
    context = await browser.new_context(permissions=["local-network-access"])
    try:
        page = await context.new_page()
        await page.route("**/judge/*", give)
        await page.expose_function("reportLine", lambda line: writer.write(line.encode() + b"\n"))
        async for line in reader:
            command = json.loads(line)
            if command["op"] == "connect":
                await page.goto(f"http://127.0.0.1:{command['options']['wsPort']}/judge/")
            await page.evaluate("command => operate(command)", command)
    finally:
        await context.close()
        writer.close()


async def main(chromium: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await page_of(browser, reader, writer)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started it closes its end
        server.close()
        await browser.close()


asyncio.run(main(sys.argv[1]))
