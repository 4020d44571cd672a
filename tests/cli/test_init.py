"""``tickrelay init``: what it asks, what it writes, and that the rest of the program accepts it."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.adapter import Adapter
from relay.cli import run
from relay.plugins.manager import Plugins, load_plugins


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    return tmp_path / "tickrelay.toml"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], list[str]], list[str]]:
    """Return what makes this a terminal at which somebody answers the questions; it returns the questions as they come."""

    def prepare(words: list[str], secrets: list[str]) -> list[str]:
        asked: list[str] = []

        def answers(prepared: list[str]) -> Callable[[str], str]:
            left: Iterator[str] = iter(prepared)

            def ask(question: str) -> str:
                asked.append(question)
                return next(left)

            return ask

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answers(words))
        monkeypatch.setattr("getpass.getpass", answers(secrets))
        return asked

    return prepare


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_configuration_names_its_origins_and_keeps_secrets_outside(config: Path, plugins: Plugins) -> None:
    assert run(["init", str(config), "--origin", "https://app.example.com", "--origin", "*.example.org"], plugins) == 0
    tables = tomllib.loads(config.read_text())
    assert tables["apps"]["main"]["allowed_origins"] == ["https://app.example.com", "*.example.org"]
    for name in ("app-secret", "operator-key"):
        secret = config.with_name(name)
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.read_text().strip() not in config.read_text()
    assert run(["check", str(config)], plugins) == 0


def test_without_origins_no_page_connects_and_nothing_is_overwritten(
    config: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(config)], plugins) == 0
    assert tomllib.loads(config.read_text())["apps"]["main"]["allowed_origins"] == []
    written = config.read_text()
    assert run(["init", str(config)], plugins) == 1
    assert "cannot write" in capsys.readouterr().err
    assert config.read_text() == written


def test_a_secret_that_is_there_already_stops_it_before_anything_is_written(
    config: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    config.with_name("operator-key").write_text("mine")
    assert run(["init", str(config)], plugins) == 1
    assert "operator-key: File exists" in capsys.readouterr().err
    assert names_in(config.parent) == {"operator-key"}


@pytest.mark.parametrize("adapter", sorted(load_plugins().adapters().items()), ids=lambda each: str(each[0]))
def test_what_it_writes_for_every_adapter_is_accepted(
    adapter: tuple[str, type[Adapter]], config: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name, declared = adapter
    assert run(["init", str(config), "--provider", f"mine={name}"], plugins) == 0
    told = capsys.readouterr().out
    for credential in declared.credentials:
        variable = f"MINE_{credential.upper()}"
        assert f"export {variable}=" in told
        monkeypatch.setenv(variable, "x-secret")
    assert run(["check", str(config)], plugins) == 0, capsys.readouterr().err
    written = config.read_text()
    assert all(option.about in written for option in declared.options)
    assert ("accounts" in tomllib.loads(written)["providers"]["mine"]) == any(
        offer.kind == "account" for offer in declared.offers
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--origin", 'x"]'], "write it like https://app.example.com"),
        (["--provider", "binanse"], "binance"),
        (["--provider", "All=binance"], "lower-case"),
        (["--provider", "binance", "--provider", "binance"], "named twice"),
    ],
)
def test_a_wrong_answer_is_refused_and_nothing_written(
    given: list[str], says: str, config: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(config), *given], plugins) == 1
    assert says in capsys.readouterr().err
    assert names_in(config.parent) == set()


def test_a_terminal_is_asked_for_sites_providers_and_credentials(
    config: Path, plugins: Plugins, answer: Callable[[list[str], list[str]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    asked = answer(["https://app.example.com", "helio, kraken"], ["me@example.com", ""])
    assert run(["init", str(config)], plugins) == 0
    assert [
        next(start for start in ("Sites", "Providers", "helio: email", "helio: password") if each.startswith(start))
        for each in asked
    ] == ["Sites", "Providers", "helio: email", "helio: password"]
    providers = tomllib.loads(config.read_text())["providers"]
    assert list(providers) == ["helio", "kraken"]
    assert providers["helio"]["credentials"] == {
        "email": {"file": "helio-email"},
        "password": {"env": "HELIO_PASSWORD"},
    }
    typed = config.with_name("helio-email")
    assert typed.read_text() == "me@example.com\n"
    assert typed.stat().st_mode & 0o777 == 0o600
    out = capsys.readouterr().out
    assert "me@example.com" not in out + config.read_text()
    assert "export HELIO_PASSWORD=" in out
