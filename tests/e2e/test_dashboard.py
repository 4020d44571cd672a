"""The dashboard in a real browser, by what it shows and does: one demo and one browser for all tests but the first.

The tests share the demo's accounts: each trades in an account, or a symbol, of its own. Pictures of what they saw are in
build/screenshots, from which those of docs/images are taken.
"""

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
allowed_origins = ["https://app.example.com"]

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
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
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


def refused_in_browser(port: int) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, "--host-resolver-rules=MAP relay.example 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=tools.chromium(), args=flags)
        page = browser.new_page()
        page.set_default_timeout(1000 * WITHIN)
        page.goto(f"http://relay.example:{port}/")
        page.fill("#key", "desk-key-of-an-operator")
        page.click("#sign-in button")
        text_is(page, "#away", f"4009 Origin not allowed: add http://relay.example:{port} to allowed_origins")
        browser.close()


async def test_the_page_says_why_the_relay_refuses_its_connection(tmp_path: Path) -> None:
    """A relay that answers to every name cannot know that this one is its own."""
    configuration = CONFIGURATION.replace("[server]", '[server]\nhosts = ["*"]')
    async with serving(tmp_path, configuration) as (_, port):
        await trio.to_thread.run_sync(refused_in_browser, port)


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


def picture(page: Any, name: str) -> None:
    """Write what the page shows to a folder that is no part of the project."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def hold(page: Any, url: str, count: int) -> list[Any]:
    """Hold the page's next requests for a URL; return those that are held, which `route.continue_` lets go."""
    held: list[Any] = []
    page.route(url, lambda route: held.append(route) if len(held) < count else route.continue_())
    return held


def until_held(page: Any, held: list[Any], count: int) -> None:
    """Wait until so many requests are held; the browser's events come while the page is asked for something."""
    while len(held) < count:
        page.wait_for_timeout(10)


def test_overview_tells_how_every_session_is(page: Any) -> None:
    text_is(page, "#ready", "ready")
    page.wait_for_function("document.querySelectorAll('#sessions tr').length === 8")
    text_is(page, "#sessions-up", "8 of 8")
    picture(page, "overview")
    wide = page.evaluate("document.querySelector('#sessions').closest('.scroll').scrollWidth")
    assert wide <= 1400, "with the last column, the reason"
    page.focus("#sessions tr")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    text_is(page, "#session-details", "helio / second, adapter helio")
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
    picture(page, "market")
    page.emulate_media(color_scheme="dark")  # another theme draws the same chart
    page.evaluate(
        "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 200)), 200))"
    )
    assert page.inner_text("#plot-note") == ""
    page.click("#timeframes button:text-is('1m')")
    text_is(page, "#plot-note", "of the candles are known")
    page.fill("#symbol-search", "no such thing")
    text_is(page, "#found", "No provider has a symbol like")


def test_an_order_is_reviewed_sent_and_its_position_closed(page: Any) -> None:
    page.keyboard.press("3")
    text_is(page, "#totals", "5 accounts")  # one broker does not say its currency, and one tells no money
    text_is(page, "#accounts", "not sent")
    page.select_option("#ticket-account", label="helio / main")
    page.fill("#ticket-symbol", "EUR/USD")
    page.fill("#ticket [name=quantity]", "10000")
    page.click("#ticket button.buy")
    page.click("#confirm-check")
    text_is(page, "#confirm-sends", "EURUSD")
    page.click("#confirm-go")
    text_is(page, "#ticket-answer", "accepted")
    page.wait_for_selector("#positions button:text-is('Close')")
    picture(page, "account")
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

    page.unroute("**/api/v2/commands")  # the next order's answer stands beside it
    page.fill("#ticket [name=quantity]", "0")
    page.click("#ticket button.sell")
    page.click("#confirm-go")
    page.wait_for_function("document.querySelectorAll('#ticket-answer .down').length === 1")
    assert "The order may be live." in page.inner_text("#ticket-answer")


def test_what_would_be_sent_is_of_the_order_that_is_shown(page: Any) -> None:
    page.keyboard.press("3")
    page.select_option("#ticket-account", label="helio / second")
    page.fill("#ticket-symbol", "EUR/USD")
    page.fill("#ticket [name=quantity]", "7000")
    held = hold(page, "**/api/v2/commands", 2)
    page.click("#ticket button.buy")
    page.click("#confirm-check")
    until_held(page, held, 1)
    page.click("#confirm-form button[value='']")
    page.fill("#ticket [name=quantity]", "9000")
    page.click("#ticket button.buy")
    page.click("#confirm-check")
    until_held(page, held, 2)
    with page.expect_response("**/api/v2/commands"):
        held[0].continue_()
    assert page.inner_text("#confirm-sends") == ""
    held[1].continue_()
    text_is(page, "#confirm-sends", "9000")


def test_fills_from_before_the_page_was_opened_are_asked_for(page: Any, demo: str, browser: Any) -> None:
    page.keyboard.press("3")
    page.select_option("#ticket-account", label="helio / second")
    page.fill("#ticket-symbol", "USD/JPY")
    page.fill("#ticket [name=quantity]", "1500")
    page.click("#ticket button.buy")
    page.click("#confirm-go")
    text_is(page, "#fills", "USD/JPY")
    with opened(browser) as later:
        later.goto(f"{demo}#account")
        later.wait_for_selector("#account-filter option[value='helio second']", state="attached")
        later.select_option("#account-filter", "helio second")
        text_is(later, "#fills", "No fill since this page was opened.")
        for _ in range(2):  # what is told twice is shown once
            later.click("#fills-earlier")
            text_is(later, "#fills", "USD/JPY")
            later.wait_for_selector("#fills-earlier:not([disabled])")
        assert later.locator("#fills tr").count() == 1
        assert "helio / second" in later.inner_text("#fills")


def test_orders_are_taken_when_the_page_hears_what_becomes_of_them(browser: Any, demo: str) -> None:
    with opened(browser) as page:
        held = hold(page, "**/api/v2/ws/auth", 99)
        with page.expect_response("**/api/v2/ws/streams"):
            page.goto(f"{demo}#account")
        until_held(page, held, 7)
        with page.expect_response(lambda answer: "/api/v2/status" in answer.url):
            pass
        assert page.locator("#ticket-account").count() == 0
        for route in held:
            route.continue_()
        page.wait_for_selector("#ticket-account")
        assert page.locator("#accounts tr:not(.blank)").count() == 7


def test_two_accounts_of_a_broker_are_told_apart(page: Any) -> None:
    page.keyboard.press("3")
    for account, quantity in (("main", "2000"), ("second", "3000")):
        page.select_option("#ticket-account", label=f"helio / {account}")
        page.fill("#ticket-symbol", "GBP/USD")
        page.fill("#ticket [name=quantity]", quantity)
        page.click("#ticket button.sell")
        page.click("#confirm-go")
        page.wait_for_selector(
            f"#positions tr:has-text('helio / {account}'):has-text('GBP/USD'):has-text('{quantity}')"
        )
    page.wait_for_selector(
        "#positions tr:has-text('helio / main') td.dim[title^='as it was']"
    )  # Helio tells it no more
    page.select_option("#account-filter", "helio main")
    page.wait_for_function(
        "![...document.querySelectorAll('#positions tr')].some((row) => /second/.test(row.textContent))"
    )
    page.select_option("#account-filter", "")
    for account in ("main", "second"):
        page.click(f"#positions tr:has-text('helio / {account}'):has-text('GBP/USD') button")
        page.click("#confirm-go")
        page.wait_for_selector(f"#positions tr:has-text('helio / {account}'):has-text('GBP/USD')", state="detached")


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
    picture(page, "inspector")
    assert not page.is_disabled("#copy-fixture")


def test_an_event_of_a_poll_is_beside_the_answer_that_it_was_made_of(page: Any) -> None:
    """Alpaca streams no positions, so the relay asks for them after a fill."""
    page.keyboard.press("4")
    page.fill("#tail-filter", "alpaca position_opened")
    page.check("#raw")
    for _ in range(2):
        with page.expect_response(lambda answer: "frames?provider=alpaca" in answer.url and answer.ok):
            pass
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("3")
    page.select_option("#ticket-account", label="alpaca / paper")
    page.fill("#ticket-symbol", "MSFT")
    page.fill("#ticket [name=quantity]", "1")
    page.click("#ticket button.buy")
    page.click("#confirm-go")
    page.wait_for_selector("#positions tr:has-text('MSFT')")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("4")
    page.click("#tail tr:not(.blank)")
    text_is(page, "#frame", "/v2/positions, status 200")
    text_is(page, "#frame", "MSFT")


def test_frames_are_asked_for_once_however_often_the_box_is_ticked(page: Any) -> None:
    page.keyboard.press("4")
    held = hold(page, "**/api/v2/frames?provider=alpaca*", 9)
    page.check("#raw")
    until_held(page, held, 1)
    page.uncheck("#raw")
    page.check("#raw")
    until_held(page, held, 2)
    held[0].continue_()
    held[1].continue_()
    until_held(page, held, 3)  # the next look of the second tick; the first tick's ended with its answer
    with page.expect_response(lambda answer: "/api/v2/status" in answer.url):
        pass
    assert len(held) == 3
    page.unroute_all(behavior="ignoreErrors")


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

    page.fill("#debug-app", "2")  # an application's own channels are its own
    page.click("#debug-open")
    assert page.inner_text("#debug-channels") == ""
    page.fill("#debug-channel", "room")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "document.querySelector('#debug-log').textContent.split('subscription_succeeded on room').length === 3"
    )
    assert page.input_value("#debug-app-id") == "2"
    page.fill("#debug-secret", "demo-second-secret")
    page.fill("#debug-event", "for-the-second")
    page.click("#debug-send button")
    text_is(page, "#debug-log", "for-the-second on room")
    picture(page, "debug")
    page.fill("#debug-app", "no-such-app")
    page.click("#debug-open")
    text_is(page, "#debug-log", "cannot connect: ")


def test_the_console_connects_once_however_fast_it_is_asked(page: Any) -> None:
    page.keyboard.press("5")
    held = hold(page, "**/api/v2/ws/session", 2)
    page.click("#debug-open")
    until_held(page, held, 1)
    page.fill("#debug-channel", "one")
    page.keyboard.press("Enter")
    page.fill("#debug-app", "2")
    page.click("#debug-open")
    until_held(page, held, 2)
    for route in held:
        route.continue_()
    text_is(page, "#debug-log", "connection connected")
    with page.expect_response(lambda answer: "/api/v2/status" in answer.url):  # some time for a second one
        pass
    assert page.inner_text("#debug-log").count("connection connected") == 1
    assert page.inner_text("#debug-state") == "connected"


def test_the_first_of_what_was_typed_last_is_taken(page: Any) -> None:
    page.keyboard.press("2")
    page.fill("#symbol-search", "btc")
    text_is(page, "#found", "BTC/USD")
    held = hold(page, "**/api/v2/symbols*", 1)
    page.fill("#symbol-search", "usdjpy")
    page.keyboard.press("Enter")
    until_held(page, held, 1)
    held[0].continue_()
    text_is(page, "#symbol", "USD/JPY")


def test_the_key_that_was_entered_last_is_the_one_that_signs_in(browser: Any, demo: str) -> None:
    with opened(browser) as page:
        page.route("**/api/v2/status*", lambda route: route.fulfill(status=401, json={"error": {"message": "no"}}))
        page.goto(demo)
        page.wait_for_selector("#sign-in", state="visible")
        page.unroute("**/api/v2/status*")
        held = hold(page, "**/api/v2/status*", 2)
        for key in ("of-another-relay", "demo-api-key"):
            page.fill("#key", key)
            page.click("#sign-in button")
        until_held(page, held, 2)
        held[1].continue_()
        page.wait_for_selector("#link[data-state=connected]")
        with page.expect_response(lambda answer: "/api/v2/status" in answer.url and answer.status == 401):
            held[0].continue_()
        page.keyboard.press("3")
        text_is(page, "#totals", "5 accounts")
        assert page.evaluate("sessionStorage.getItem('tickrelay-key')") == "demo-api-key"
        assert page.is_hidden("#sign-in")


def test_nodes_are_shown_where_there_are_several(page: Any) -> None:
    def with_nodes(route: Any) -> None:
        answer = route.fetch()
        status = answer.json()
        status["nodes"] = [
            {"name": name, "state": state, "providers": owned, "connections": 7, "seen_at": "2026-01-01T00:00:00Z"}
            for name, state, owned in (("a", "alive", ["helio", "tektii"]), ("b", "alive", []))
        ]
        route.fulfill(response=answer, json=status)

    assert page.is_hidden("#nodes-panel")
    page.route("**/api/v2/status*", with_nodes)
    text_is(page, "#nodes", "helio, tektii")
    assert page.locator("#nodes tr").count() == 2


def test_a_page_of_another_version_says_so(page: Any) -> None:
    def older(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "version": "9.9.9"})

    page.route("**/api/v2/status*", older)
    text_is(page, "#other-version", f"This page is of tickrelay {relay.__version__}, the relay is of 9.9.9")


def test_no_view_scrolls_sideways_in_light_and_dark_on_a_phone_and_on_a_desk(page: Any) -> None:
    page.keyboard.press("3")
    page.select_option("#ticket-account", label="tektii / paper")
    page.fill("#ticket-symbol", "EUR/USD")
    page.fill("#ticket [name=quantity]", "1000")
    page.click("#ticket button.buy")
    page.click("#confirm-go")
    page.wait_for_selector("#positions tr:has-text('tektii / paper') button")
    page.set_viewport_size({"width": 390, "height": 844})
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for view in VIEWS:
            page.evaluate("(view) => { location.hash = view; }", view)
            page.wait_for_selector(f"#view-{view}", state="visible")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
            if view == "account":
                page.wait_for_selector("#positions button")  # it is within reach
                assert page.evaluate("document.querySelector('#positions').closest('.scroll').scrollWidth") <= 390
            picture(page, f"{view}-phone-{theme}")
    page.set_viewport_size({"width": 1400, "height": 900})
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for view in VIEWS:
            page.evaluate("(view) => { location.hash = view; }", view)
            page.wait_for_selector(f"#view-{view}", state="visible")
            assert page.evaluate("document.documentElement.scrollWidth") <= 1400, view
            picture(page, f"{view}-{theme}")
