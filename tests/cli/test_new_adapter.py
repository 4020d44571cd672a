"""``tickrelay new-adapter`` writes packages that work as they are: tests, tools, and a relay with them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from relay.cli.command_line import build_app, run
from relay.pusher.apps import App
from relay.settings import DEMO_APP_ID, DEMO_KEY, DEMO_SECRET
from relay.testing import scaffold
from relay.testing.subscriber import Subscriber
from support.packages import environment, installed_as_pip_does
from support.packages import ran as run_module

ROOT = Path(__file__).parents[2]
#: A venue and a broker, with a name of one word and one of several.
KINDS = {"venue": ("acme", False), "broker": ("night_desk", True)}
kinds = pytest.mark.parametrize("kind", KINDS)


def written(folder: Path, kind: str) -> Path:
    """Write a package as the command does, and make it as good as installed: its metadata beside it, as pip has them."""
    name, broker = KINDS[kind]
    package = folder / kind
    assert run(["new-adapter", name, "--into", str(package), *(["--broker"] if broker else [])]) == 0
    installed_as_pip_does(package)
    return package


def ran(package: Path, *command: str) -> str:
    """Run a Python module where the package is installed, and return what it says."""
    failed, said = run_module(package, *command)
    assert not failed, said[-8000:]
    return said


@kinds
def test_its_own_tests_pass(kind: str, tmp_path: Path) -> None:
    package = written(tmp_path, kind)
    if os.environ.get("NEW_ADAPTER") == "write":
        written_anew(package, kind)
    said = ran(package, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 45


def written_anew(package: Path, kind: str) -> None:
    """Record the simulator's session anew, and its events, as the templates' fixture. ``NEW_ADAPTER=write`` does it."""
    name = KINDS[kind][0]
    seconds = "1" if kind == "broker" else "4"
    ran(package, "relay", "record", name, "--simulated", "--for", seconds, "--out", "tests/fixture.jsonl")
    ran(package, "relay", "try", name, "tests/fixture.jsonl", "--golden", "tests/golden.jsonl")
    for file in ("fixture.jsonl", "golden.jsonl"):
        text = (package / "tests" / file).read_text().replace(name, "acme")
        (Path(scaffold.__file__).parent / kind / "tests" / file).write_text(text)


@kinds
def test_its_code_is_as_the_tools_want_it(kind: str, tmp_path: Path) -> None:
    package = written(tmp_path, kind)
    ran(package, "ruff", "check", "--select", "E,F,W,I,B,UP,SIM,RUF,C4,PIE,N", ".")
    ran(package, "ruff", "format", "--check", ".")
    mypy = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(package)],
        env={**os.environ, "MYPYPATH": f"{ROOT}:{package}"}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert mypy.returncode == 0, mypy.stdout
    table = (package / "README.md").read_text()
    assert "| channel | message variant | role | event | evidence |" in table
    assert all(cell.strip() for row in table.splitlines() if row.startswith("|") for cell in row.strip("|").split("|"))


@kinds
def test_the_tools_of_the_command_line_know_it(kind: str, tmp_path: Path) -> None:
    package, name = written(tmp_path, kind), KINDS[kind][0]
    assert re.search(rf"^{name} +tickrelay-{name.replace('_', '-')} +0.1.0", ran(package, "relay", "plugins"), re.M)
    assert "problems: none" in ran(package, "relay", "try", name, "tests/fixture.jsonl")
    ran(package, "relay", "init", "tickrelay.toml")
    account = f'[providers.{name}.accounts.main.credentials]\nkey = "k"' if kind == "broker" else ""
    config = package / "tickrelay.toml"
    config.write_text("allow_inline_secrets = true\n" + config.read_text() + f"\n[providers.{name}]\n{account}\n")
    assert f"provider {name}: adapter {name}" in ran(package, "relay", "check", "tickrelay.toml")


@contextmanager
def demo(package: Path) -> Iterator[int]:
    """Run the demo where the package is installed; yield its port."""
    command = [sys.executable, "-m", "relay", "demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, env=environment(package), cwd=package, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                if "Ctrl-C" in line:
                    break
            found = re.search(r"dashboard +http://127.0.0.1:(\d+)/", printed)
            assert found is not None, process.stderr.read() if process.stderr else ""
            yield int(found[1])
        finally:
            process.kill()


@kinds
async def test_the_demo_runs_it(kind: str, tmp_path: Path) -> None:
    package, name = written(tmp_path, kind), KINDS[kind][0]
    app = App(id=DEMO_APP_ID, key=DEMO_KEY, secrets=(DEMO_SECRET,))
    symbol = "EUR-USD" if kind == "broker" else "BTC-USD"
    channels = [f"quote.{name}.{symbol}", f"status.{name}"]
    if kind == "venue":
        channels.append(f"depth.{name}.{symbol}")
    with demo(package) as port:
        subscriber = Subscriber(lambda: port, app, channels)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            await subscriber.until(lambda: all(subscriber.views[each].kinds for each in channels))
            quotes = subscriber.views[channels[0]]
            await subscriber.until(lambda: quotes.kinds["quote"] > 3)
            assert [problem for view in subscriber.views.values() for problem in view.problems] == []
            nursery.cancel_scope.cancel()
        if kind == "broker":
            order = ("order", "place", "--provider", name, "--symbol", "EUR/USD", "--side", "buy", "--quantity", "1000")
            said = await trio.to_thread.run_sync(
                lambda: ran(package, "relay", *order, "--url", f"http://127.0.0.1:{port}")
            )
            assert "accepted" in said


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Acme-X", "did you mean acme_x?"),
        ("9lives", "did you mean lives?"),
        ("acme__x", "did you mean acme_x?"),
        ("a" * 40, f"did you mean {'a' * scaffold.LONGEST}?"),
        ("../acme", "did you mean acme?"),
        ("-", "is no name of an adapter"),
        ("okx", "there is an adapter okx already, in relay_okx.adapter; take another name"),
        ("webhooks", "there is a package relay_webhooks already; take another name"),
    ],
)
def test_a_name_that_cannot_be_taken_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["new-adapter", "--", name]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_files_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["new-adapter", "acme"]) == 0
    before = {path: path.read_bytes() for path in Path("tickrelay-acme").rglob("*") if path.is_file()}
    assert run(["new-adapter", "acme"]) == 1
    assert "tickrelay-acme is there already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("tickrelay-acme").rglob("*") if path.is_file()} == before


def test_a_name_like_an_installed_one_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-adapter", "binanse", "--into", str(tmp_path / "b")]) == 0
    assert "an adapter binance is installed already" in capsys.readouterr().err


def test_an_option_that_is_nearly_right_and_a_missing_name_are_wrong_usage() -> None:
    assert run(["new-adapter", "acme", "--brocker"]) == 2
    assert run(["new-adapter"]) == 2


def test_shells_complete_it() -> None:
    assert "new-adapter" in build_app().generate_completion(prog_name="tickrelay", shell="bash")
