"""The dashboard in a real browser: it asks for a key where one is needed, and greys what cannot be relied on."""

from pathlib import Path
from typing import Any

import pytest
import trio

from support import tools
from support.process import serving

CONFIGURATION = """allow_inline_secrets = true

[server]
listen = "127.0.0.1:{port}"

[apps.main]
id = "1"
key = "public-key"
secret = "not-shown-to-pages"

[api_keys.desk]
key = "desk-key-of-an-operator"

[providers.venue]
adapter = "synthetic"
url = "ws://127.0.0.1:9/"
http_url = "http://127.0.0.1:9/"
pinned = ["quote BTC/USD"]
"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def in_browser(url: str, end: Any) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tools.chromium(), args=FLAGS)
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#sign-in input", state="visible")
        page.fill("#key", "another-key")
        page.click("#sign-in button")
        page.wait_for_function("document.querySelector('#link').textContent.includes('not one of this relay')")
        page.fill("#key", "desk-key-of-an-operator")
        page.click("#sign-in button")
        page.wait_for_function("document.querySelector('#link').textContent === 'connected'")
        assert not page.is_visible("#sign-in")
        page.wait_for_selector("#quotes tr.stale")  # the venue is not to be reached
        assert "no session with venue" in (page.get_attribute("#quotes tr", "title") or "")
        end()
        page.wait_for_selector("body.away")
        assert page.inner_text("#away").startswith("nothing heard from the relay since ")
        browser.close()


@pytest.mark.browser
async def test_the_page_signs_in_and_shows_what_is_not_true_any_more(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIGURATION) as (process, port):
        await trio.to_thread.run_sync(in_browser, f"http://127.0.0.1:{port}/", process.kill)
