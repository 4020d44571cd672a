"""`tickrelay demo` as a newcomer runs it: the page in a real browser, the pasted snippet, Ctrl-C."""

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from relay.pusher.apps import App
from relay.settings import DEMO_APP_ID, DEMO_KEY, DEMO_SECRET
from relay.testing.subscriber import Subscriber
from support import tools
from support.deadlines import WITHIN

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """Run one demo for the tests that only look at it; return what it printed."""
    with demo() as (_, printed):
        yield printed


@contextmanager
def demo(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the demo on a port the kernel chooses; yield the process and what it printed when it was ready."""
    command = [sys.executable, "-m", "relay", "demo", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        try:
            for line in process.stdout:
                printed += line
                if "Ctrl-C" in line:
                    break
            else:
                assert process.stderr is not None
                raise AssertionError(f"the demo did not start: {process.stderr.read()}")
            yield process, printed
        finally:
            process.kill()


@pytest.mark.browser
def test_a_browser_sees_the_quotes_change_and_ctrl_c_ends_it() -> None:
    from playwright.sync_api import sync_playwright

    chromium = tools.chromium()
    with demo() as (process, printed), sync_playwright() as playwright:
        found = re.search(r"dashboard +(\S+)", printed)
        assert found is not None
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(1000 * WITHIN)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{found[1]}#market")
        first_bid = "#watch tr:first-child td:nth-child(2)"
        page.wait_for_function(f"document.querySelector('{first_bid}')?.textContent.match(/[0-9]/)")
        seen = page.inner_text(first_bid)
        page.wait_for_function(
            "([where, seen]) => document.querySelector(where).textContent !== seen", arg=[first_bid, seen]
        )
        page.wait_for_function(
            "document.querySelectorAll('#bids tr').length >= 5 && document.querySelectorAll('#asks tr').length >= 5"
        )
        page.wait_for_function("Number(document.querySelector('#rate').textContent) > 0")
        page.wait_for_function("document.querySelector('#plot canvas') !== null")
        page.goto(f"{found[1]}#overview")
        page.wait_for_function(
            "[...document.querySelectorAll('#sessions tr')].filter((row) => row.textContent.includes('CONNECTED')).length >= 5"
        )
        page.goto(f"{found[1]}#account")
        page.wait_for_function(
            "[...document.querySelectorAll('#accounts tr')].some((row) => /[0-9]/.test(row.cells[3]?.textContent))"
        )
        assert page.inner_text("#link") == "connected"
        assert complaints == []
        browser.close()

        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.node
def test_the_printed_snippet_works_as_it_is(running: str) -> None:
    snippet = running[running.index("  import Pusher") : running.index("Ctrl-C")]
    script = [tools.node(), "--input-type=module", "--eval", snippet]
    with subprocess.Popen(script, cwd=tools.NODE_DIR, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        lines = [client.stdout.readline().split() for _ in range(3)]
        client.kill()
    assert all(re.fullmatch(r"[a-z]+ \S+ [0-9.]+ [0-9.]+", " ".join(line)) for line in lines), lines


def test_the_demo_ends_by_itself() -> None:
    with demo("--for", "1") as (process, _):
        assert process.wait(WITHIN) == 0


async def test_an_order_from_a_second_terminal_is_heard_as_order_trade_and_position(running: str) -> None:
    """The command the demo prints, as it is; Alpaca streams no positions, so the relay asks for them."""
    heard: list[tuple[str, str]] = []
    pasted = shlex.split(running[running.index("tickrelay order place") :].splitlines()[0])
    assert "alpaca" in pasted
    port = int(pasted[pasted.index("--url") + 1].rpartition(":")[2])
    app = App(id=DEMO_APP_ID, key=DEMO_KEY, secrets=(DEMO_SECRET,))
    subscriber = Subscriber(
        lambda: port, app, ["private-account.alpaca.paper"],
        heard=lambda _, event: heard.append((event["type"], event.get("event") or event.get("outcome"))),
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.run)
        await subscriber.until(lambda: any(kind == "account" for kind, _ in heard))
        placed = await trio.run_process([sys.executable, "-m", "relay", *pasted[1:]], capture_stdout=True)
        assert b"accepted" in placed.stdout
        await subscriber.until(lambda: ("position", "POSITION_OPENED") in heard)
        nursery.cancel_scope.cancel()
    order = [
        ("order", "ORDER_CREATED"),
        ("trade", "TRADE_FILLED"),
        ("order", "ORDER_FILLED"),
        ("position", "POSITION_OPENED"),
    ]
    told = [heard.index(event) for event in order]
    assert told == sorted(told)
    assert ("reply", "accepted") in heard, "before or behind the order: it comes by another way"


def test_the_demo_refuses_a_port_in_use_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "relay", "demo", "--listen", listen]
        second = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1] == f"tickrelay: cannot listen on {listen}: Address already in use"
