"""The clients that judge the relay, and the page of what they found."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import matrix, tools
from support.deadlines import WITHIN

CHROMIUM = Path(__file__).parents[1] / "support" / "drivers" / "chromium_pages.py"
CELLS: dict[str, tuple[str, str]] = {}
"""Capability and library of the tests, by node id."""
OUTCOMES: dict[tuple[str, str], matrix.Outcome] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-compatibility", action="store_true", help="write docs/compatibility.md from this run")


@pytest.fixture(scope="session")
def browser() -> Iterator[int]:
    """The port of one Chromium for all tests."""
    command = [sys.executable, str(CHROMIUM), tools.chromium()]
    tools.node()  # its npm packages hold the page's pusher-js
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            try:
                process.wait(WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def browser_port(request: pytest.FixtureRequest) -> int:
    """The port of Chromium where the test is judged by it, else 0."""
    callspec = getattr(request.node, "callspec", None)
    library = callspec.params.get("library") if callspec else None
    return request.getfixturevalue("browser") if library == "chromium" else 0


def pytest_itemcollected(item: pytest.Item) -> None:
    capability = getattr(getattr(item, "function", None), "capability", None)
    if capability is not None:
        CELLS[item.nodeid] = capability, item.callspec.params["library"]  # type: ignore[attr-defined]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    cell = CELLS.get(report.nodeid)
    if cell is None or (report.passed and report.when != "call"):
        return
    outcome: matrix.Outcome = "yes" if report.passed else "not run" if report.skipped else "**no**"
    if OUTCOMES.get(cell, "yes") == "yes":
        OUTCOMES[cell] = outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("write_compatibility", default=False):
        matrix.PAGE.write_text(matrix.render(lambda *cell: OUTCOMES.get(cell, "not run")))
