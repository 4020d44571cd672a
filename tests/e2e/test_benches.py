"""The benches still run: those that are quick at their smallest size, of the others as much as loads without measuring."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import WITHIN
from support.tools import missing

BENCH = Path(__file__).parents[2] / "bench"
#: Arguments for the smallest size; a machine that is busy makes the figures worthless, and nothing else.
SMALLEST = {
    "day.py": ("--subscribers=6", "--symbols=20", "--hz=2", "--seconds=1", "--stores=sqlite"),
    "flap.py": ("--turns=1", "--channels=10"),
    "growth.py": ("--turns=1", "--channels=10", "--subscriptions=10"),
    "latency.py": ("--subscribers=2", "--rate=20", "--seconds=1"),
    "shortcuts.py": ("--rounds=1", "--sockets=8"),
    "soak.py": ("--subscribers=2", "--seconds=1"),
    "store.py": ("--events=100", "--kept=1000", "--commits=100", "--commands=10"),
}
#: Those whose subscribers are the C program.
COMPILED = {"day.py", "growth.py", "latency.py"}


def run(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=BENCH, capture_output=True, text=True, timeout=WITHIN, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_at_its_smallest_size(name: str) -> None:
    if name in COMPILED and shutil.which("cc") is None and shutil.which("gcc") is None:
        missing("C compiler")
    assert re.search(r"\n[0-9a-z]", run(name, *SMALLEST[name])), "no row of figures"


@pytest.mark.parametrize("name", sorted({path.name for path in BENCH.glob("[a-z]*.py")} - set(SMALLEST)))
def test_it_loads_and_says_how_to_use_it(name: str) -> None:
    assert run(name, "--help").startswith(f"usage: {name}")


def test_the_programs_that_benches_start_load() -> None:
    names = [path.stem for path in (BENCH / "support").glob("[a-z]*.py")]
    run("-c", f"import sys; sys.path.append('support'); import support.{', support.'.join(sorted(names))}")
