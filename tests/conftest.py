"""How hypothesis looks for examples, and the account of the skipped tests at the end of a run.

`make test` runs the same examples every time: what it finds does not depend on luck or on the machine. `make fuzz` looks for new
ones. An example that it finds is written into its test with ``@example``, and so becomes one of every run.
"""

from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, max_examples=100)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("fixed")  # the option --hypothesis-profile takes precedence


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Say last how many tests were skipped for which reason."""
    yield
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped: {count} test{'s' if count > 1 else ''}: {reason}", yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give a skip in an async test its reason back, which pytest-trio leaves in the group it came from."""
    report = yield
    if report.skipped and call.excinfo is not None and isinstance(report.longrepr, tuple):
        group = call.excinfo.value.__context__
        while isinstance(group, BaseExceptionGroup):
            group = group.exceptions[0]
        if isinstance(group, pytest.skip.Exception):
            report.longrepr = (*report.longrepr[:2], f"Skipped: {group.msg}")
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped."""
    why = report.longrepr
    return str(why[2] if isinstance(why, tuple | list) else why).removeprefix("Skipped: ")
