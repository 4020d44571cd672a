"""The dashboard in a real browser, by what it shows and does: one demo and one browser for all tests but the first."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import relay
from support import tools
from support.deadlines import WITHIN
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
VIEWS = ("overview", "market", "account", "inspector", "debug")
pytestmark = pytest.mark.browser


def text_is(page: Any, selector: str, text: str) -> None:
    """Wait until an element contains the text."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)", arg=[selector, text]
    )


@contextmanager
def opened(browser: Any, **options: Any) -> Iterator[Any]:
    """Open a page, and close it when no answer that a test changes is on its way."""
    page = browser.new_page(**options)
    page.set_default_timeout(1000 * WITHIN)
    yield page
    page.unroute_all(behavior="wait")
    page.close()


def in_browser(url: str, end: Any) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tools.chromium(), args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(1000 * WITHIN)
        page.goto(f"{url}#market")
        page.wait_for_selector("#key", state="visible")
        page.fill("#key", "another-key")
        page.click("#sign-in button")
        text_is(page, "#sign-in-error", "not one of this relay")
        page.fill("#key", "desk-key-of-an-operator")
        page.click("#sign-in button")
        page.wait_for_selector("#sign-in", state="hidden")
        page.wait_for_selector("#providers tr.stale")  # the venue is not to be reached
        assert "no session with venue" in (page.get_attribute("#providers tr", "title") or "")
        page.goto(f"{url}#account")
        text_is(page, "#no-accounts", "may read no account")
        page.reload()  # the key stays in the tab
        page.wait_for_selector("#link[data-state=connected]")
        page.keyboard.press("1")
        text_is(page, "#problems .bad", "venue is RECONNECTING: no connection")
        end()
        page.wait_for_selector("body.away")
        assert page.inner_text("#away").startswith("Nothing heard from the relay since ")
        browser.close()


async def test_the_page_signs_in_and_shows_what_is_not_true_any_more(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIGURATION) as (process, port):
        await trio.to_thread.run_sync(in_browser, f"http://127.0.0.1:{port}/", process.kill)


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """Run the demo; yields the dashboard's URL."""
    command = [sys.executable, "-m", "relay", "demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.search(r"dashboard +(\S+)", line) for line in process.stdout)))
            yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tools.chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, demo: str) -> Iterator[Any]:
    """Return the page of the demo, on its first view; whatever a script raises fails the test."""
    errors: list[str] = []
    with opened(browser, viewport={"width": 1400, "height": 900}) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(demo)
        page.wait_for_selector("#link[data-state=connected]")
        page.wait_for_selector("#view-overview", state="visible")
        yield page
    assert errors == []


def test_overview_tells_how_every_session_is(page: Any) -> None:
    text_is(page, "#ready", "ready")
    page.wait_for_function("document.querySelectorAll('#sessions tr').length === 7")
    page.focus("#sessions tr")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    text_is(page, "#session-details", "helio / main, adapter helio")
    page.keyboard.press("/")
    page.keyboard.type("helio quote")
    page.wait_for_function(
        "[...document.querySelectorAll('#stream-rows tr')].every((row) => row.textContent.includes('quote.helio'))"
    )


def test_market_has_all_providers_of_a_symbol_side_by_side(page: Any) -> None:
    page.keyboard.press("2")
    page.keyboard.press("/")
    page.keyboard.type("eurusd")
    text_is(page, "#found", "EUR/USD")
    page.keyboard.press("Enter")
    text_is(page, "#symbol", "EUR/USD")
    page.wait_for_function("document.querySelectorAll('#providers .best').length >= 2")
    page.wait_for_function("document.querySelectorAll('#providers tr').length === 3")
    page.click("#watch tr[data-key='BTC/USD']")
    page.click("#providers tr:has-text('synthetic')")
    text_is(page, "#spread", "spread 0.")
    page.wait_for_selector("#tape tr:not(.blank)")
    page.click("#timeframes button:text-is('1m')")
    text_is(page, "#plot-note", "of the candles are known")
    page.fill("#symbol-search", "no such thing")
    text_is(page, "#found", "No provider has a symbol like")


def test_an_order_is_reviewed_sent_and_its_position_closed(page: Any) -> None:
    page.keyboard.press("3")
    text_is(page, "#totals", "4 accounts")  # one broker does not say its currency
    page.select_option("#ticket-account", label="helio / main")
    page.fill("#ticket-symbol", "EUR/USD")
    page.fill("#ticket [name=quantity]", "10000")
    page.click("#ticket button.buy")
    page.click("#confirm-check")
    text_is(page, "#confirm-sends", "EURUSD")
    page.click("#confirm-go")
    text_is(page, "#ticket-answer", "accepted")
    page.click("#positions button:text-is('Close')")
    page.click("#confirm-go")
    text_is(page, "#positions", "No open position.")
    page.wait_for_function("document.querySelectorAll('#fills tr').length === 2")

    page.select_option("#ticket-type", "LIMIT")
    page.fill("#ticket [name=limit_price]", "0.5")
    page.click("#ticket button.buy")
    page.click("#confirm-go")
    page.click("#orders button:text-is('Amend')")
    page.fill("#confirm-fields [name=limit_price]", "0.4")
    page.click("#confirm-go")
    text_is(page, "#orders", "0.4")
    page.click("#orders button:text-is('Cancel')")
    page.click("#confirm-go")
    text_is(page, "#orders", "No open order.")


def test_an_order_without_an_answer_is_said_to_be_unknown_and_asked_for_under_the_same_name(page: Any) -> None:
    names = []

    def lose(route: Any) -> None:
        names.append(route.request.headers["idempotency-key"])
        route.abort()

    page.keyboard.press("3")
    page.fill("#ticket-symbol", "EUR/USD")
    page.fill("#ticket [name=quantity]", "1")
    page.route("**/api/v2/commands", lose)
    page.click("#ticket button.sell")
    page.click("#confirm-go")
    text_is(page, "#ticket-answer", "The order may be live.")
    page.click("#ticket-answer button")
    page.wait_for_function("document.querySelector('#ticket-answer .unknown') !== null")
    assert len(names) == 2
    assert len(set(names)) == 1


def test_the_inspector_filters_pauses_and_shows_an_event_whole(page: Any) -> None:
    page.keyboard.press("4")
    page.fill("#tail-filter", "helio quote -depth")
    page.check("#raw")
    for _ in range(3):  # the first asks the relay to look; what is sent from then on comes with the next ones
        with page.expect_response(lambda answer: "/frames" in answer.url and answer.ok):
            pass
    page.evaluate("document.querySelector('#tail-clear').click()")  # events from before have no frame
    page.click("#tail tr:not(.blank)")
    assert page.get_attribute("#tail-pause", "aria-pressed") == "true"
    event = json.loads(page.inner_text("#event"))
    assert event["provider"] == "helio"
    assert event["type"] == page.inner_text("#tail tr.chosen td:nth-child(2)")
    text_is(page, "#frame", "quoteEvent")
    assert not page.is_disabled("#copy-fixture")


def test_keys_pressed_at_once_are_read_in_the_view_that_the_first_one_opened(page: Any) -> None:
    page.evaluate(
        "for (const key of ['2', '/']) document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    )
    assert page.evaluate("document.activeElement.id") == "symbol-search"


def test_a_session_that_is_gone_does_not_end_the_frames_of_the_others(browser: Any, demo: str) -> None:
    def with_one_that_is_gone(route: Any) -> None:
        answer = route.fetch()
        status = answer.json()
        status["sessions"].insert(0, {**status["sessions"][0], "provider": "gone", "account": None})
        route.fulfill(response=answer, json=status)

    with opened(browser) as page:
        page.route("**/api/v2/status*", with_one_that_is_gone)
        page.goto(f"{demo}#inspector")
        page.check("#raw")
        for provider, status in [("gone", 404), ("helio", 200)] * 2:
            with page.expect_response(
                lambda answer, wanted=f"frames?provider={provider}": wanted in answer.url
            ) as found:
                pass
            assert found.value.status == status
        assert page.is_checked("#raw")


def test_the_console_subscribes_and_sends_as_a_client_and_as_the_apps_server(page: Any) -> None:
    page.keyboard.press("5")
    page.fill("#debug-channel", "room")
    page.keyboard.press("Enter")
    text_is(page, "#debug-log", "pusher_internal:subscription_succeeded on room")
    page.click("#debug-send button")
    text_is(page, "#debug-error", "Clients send on private and presence channels only.")
    page.select_option("#debug-as", "server")
    page.fill("#debug-secret", "not the secret")
    page.click("#debug-send button")
    text_is(page, "#debug-error", "ignature")
    page.fill("#debug-secret", "demo-secret")
    page.click("#debug-send button")
    text_is(page, "#debug-log", "hello on room")


def test_a_page_of_another_version_says_so(page: Any) -> None:
    def older(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "version": "9.9.9"})

    page.route("**/api/v2/status*", older)
    text_is(page, "#other-version", f"This page is of tickrelay {relay.__version__}, the relay is of 9.9.9")


def test_a_phone_scrolls_no_view_sideways_in_light_and_dark(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for view in VIEWS:
            page.evaluate("(view) => { location.hash = view; }", view)
            page.wait_for_selector(f"#view-{view}", state="visible")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
