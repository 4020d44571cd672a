"""The commands in-process: what they print, where, and their exit codes."""

import hashlib
import json
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest
import structlog
import trio

from relay import __version__
from relay.cli import overview, run
from relay.errors import OperatorError
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import hookimpl
from relay.plugins.manager import Plugins, SkippedPlugin, load_plugins
from relay.settings import Settings, reference

GOOD = """
[apps.web]
id = 7
key = "web"
secret = { env = "TICKRELAY_TEST_SECRET" }
[api_keys.desk]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TICKRELAY_TEST_SECRET", "a-secret-value")
    yield
    structlog.reset_defaults()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tickrelay.toml"
    path.write_text(GOOD)
    return path


def plugins_of(**objects: Any) -> Plugins:
    """Plugins from objects, without distributions."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    for name, plugin in objects.items():
        manager.register(plugin, name)
    return Plugins(manager)


@pytest.mark.parametrize("columns", [60, 80, 250])
def test_the_list_of_commands_is_that_of_the_library(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["--help"], plugins_of()) == 0
    by_the_library = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert overview(columns).splitlines() == by_the_library


def test_the_list_of_commands_is_printed_without_the_libraries_that_take_long_to_import() -> None:
    program = "import sys; from relay.cli import main; main(); print(*{'cyclopts', 'rich', 'trio'} & set(sys.modules), file=sys.stderr)"
    listed = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert "new-adapter" in listed.stdout
    assert listed.stderr.strip() == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tickrelay {__version__}\n"


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["serv"], "serv"),
        (["serve", "--prot", "1"], "--prot"),
        (["demo", "--for", "x"], "--for"),
        (["play"], "FILE"),
        (["play", "f", "--start", "never"], "start"),
        (["config"], "config --reference"),
    ],
)
def test_wrong_use_exits_2(tokens: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tokens, plugins_of()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says.lower() in captured.err.lower()
    assert captured.err.startswith("tickrelay: ")
    assert "Traceback" not in captured.err


def test_check_ok(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(config)], plugins_of()) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{config} is fine, with warnings",
        "  listens on 127.0.0.1:6001",
        f"  stores commands in {config.with_suffix('.sqlite3')}",
        "  app web: id 7, key web",
        "  API key desk: 0 account patterns, may not trade",
        "warnings:",
        "  providers: none is enabled, only the applications' own events will flow",
    ]


def test_check_says_everything_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(GOOD + "[providers.acme]\nadapter = 'nope'\n[log]\nlevel = 'loud'\n[sever]\n")
    assert run(["check", str(config)], plugins_of()) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "tickrelay: log.level: must be debug, info, warning, error",
        "tickrelay: providers.acme.adapter: no adapter is named nope; there are none",
        "tickrelay: sever: unknown key; did you mean server?",
    ]


@pytest.mark.parametrize("command", [["check", "{}"], ["serve", "-c", "{}"], ["serve", "--config", "{}"]])
def test_an_unreadable_configuration_is_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.toml"
    assert run([token.format(path) for token in command], plugins_of()) == 1
    assert capsys.readouterr().err == f"tickrelay: cannot read {path}: No such file or directory\n"


def test_check_warns_of_what_may_be_meant_otherwise(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = """
[providers.binance]
pinned = ["quote BTCUSDT"]
[providers.helio]
pinned = ["quote EUR/USDX"]
symbols = { EURUSD = "EUR/USD" }
[providers.helio.accounts.alice]
credentials = { email = { env = "TICKRELAY_TEST_SECRET" }, password = { env = "TICKRELAY_TEST_SECRET" } }
"""
    config.write_text(GOOD + more)
    assert run(["check", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == [
        "providers.binance.pinned: BTCUSDT has no slash; symbols are written like BTC/USDT here",
        "providers.helio.options.host: the default, localhost:8081, is this machine; name the provider's host",
        "providers.helio.pinned: EUR/USDX is not in providers.helio.symbols; did you mean EUR/USD?",
    ]
    config.write_text("[sever]")
    assert run(["check", str(config), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"][-1]) == (False, "sever: unknown key; did you mean server?")


class Misspelt:
    @hookimpl
    def relay_tap(self) -> list[Any]:
        return []


def test_a_misspelt_hook_stops_check(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(config)], plugins_of(mine=Misspelt())) == 1
    assert capsys.readouterr().err == "tickrelay: plugin mine: no hook is named relay_tap; did you mean relay_taps?\n"


# --- serve and demo --------------------------------------------------------------------------------------------------


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for `relay.app` and `relay.demo`: remembers what they were called with, and raises ``app.error``."""
    module: Any = types.ModuleType("relay.app")
    module.calls, module.error, module.reload = [], None, None

    async def called(*arguments: Any, reload: Any = None, log_counts: Any = None) -> None:
        module.calls.append(arguments)
        module.reload = reload
        await trio.lowlevel.checkpoint()
        if module.error is not None:
            raise module.error

    module.serve = module.demo = called
    monkeypatch.setitem(sys.modules, "relay.app", module)
    monkeypatch.setattr("relay.app", module, raising=False)
    monkeypatch.setitem(sys.modules, "relay.demo", module)
    return module


def test_serve_hands_settings_and_plugins_to_the_app(config: Path, app: Any) -> None:
    plugins = plugins_of()
    assert run(["serve", "-c", str(config)], plugins) == 0
    ((settings, given),) = app.calls
    assert isinstance(settings, Settings)
    assert settings.path == config
    assert given is plugins
    assert app.reload().path == config


def test_serve_reads_tickrelay_toml_by_default(config: Path, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    assert run(["serve"], plugins_of()) == 0
    assert app.calls[0][0].path == Path("tickrelay.toml")


def test_serve_logs_what_was_skipped(config: Path, app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plugins = attrs.evolve(plugins_of(), broken=(SkippedPlugin("bad", "relay-bad", "1", "ImportError: x"),))
    assert run(["serve", "-c", str(config)], plugins) == 0
    err = capsys.readouterr().err
    assert "plugin skipped" in err
    assert "plugin=bad" in err


IN_USE = OSError(98, "Address already in use")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (IN_USE, "cannot listen on 127.0.0.1:6001: Address already in use"),
        (ExceptionGroup("nursery", [ExceptionGroup("inner", [IN_USE])]), "cannot listen on 127.0.0.1:6001: Address already in use"),
        (OperatorError("no token"), "no token"),
        (ExceptionGroup("nursery", [OperatorError("one"), ExceptionGroup("", [OperatorError("two")])]), "one\ntickrelay: two"),
    ],
    ids=["in use", "in use, in nurseries", "stated", "stated, in nurseries"],
)  # fmt: skip
def test_stated_problems_exit_1_without_a_traceback(
    error: Exception, line: str, config: Path, app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    app.error = error
    assert run(["serve", "-c", str(config)], plugins_of()) == 1
    assert capsys.readouterr().err.endswith(f"tickrelay: {line}\n")


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), OSError(5, "disk"), ExceptionGroup("", [OperatorError("x"), ValueError("a bug")])]
)
def test_a_bug_is_not_dressed_up(error: Exception, config: Path, app: Any) -> None:
    app.error = error
    with pytest.raises(type(error)):
        run(["serve", "-c", str(config)], plugins_of())


def test_interrupted(config: Path, app: Any) -> None:
    app.error = KeyboardInterrupt()
    assert run(["serve", "-c", str(config)], plugins_of()) == 130


def test_demo(app: Any) -> None:
    assert run(["demo", "--listen", "[::1]:0", "--for", "1.5"], plugins_of()) == 0
    assert run(["demo"], plugins_of()) == 0
    assert [call[:2] for call in app.calls] == [(("::1", 0), 1.5), (("127.0.0.1", 6001), None)]


@pytest.mark.parametrize(
    ("listen", "line"),
    [
        ("0.0.0.0:6001", "--listen 0.0.0.0:6001: the demo's keys are public, so that it listens on loopback only"),
        ("6001", "--listen: not an address to listen on: '6001'; write HOST:PORT, for example 127.0.0.1:6001"),
    ],
)
def test_demo_refuses(listen: str, line: str, app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--listen", listen], plugins_of()) == 1
    assert capsys.readouterr().err == f"tickrelay: {line}\n"
    assert app.calls == []


# --- play ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options", "line"),
    [
        (None, [], "cannot read {}: No such file or directory"),
        ("{", [], "{}:1: not JSON"),
        ("", ["--speed", "-1"], "speed: expected 0"),
        ("", ["--listen", "x"], "--listen: not an address"),
    ],
)
def test_play_refuses(
    content: str | None, options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "session.jsonl"
    if content is not None:
        path.write_text(content)
    assert run(["play", str(path), *options], plugins_of()) == 1
    assert capsys.readouterr().err.startswith("tickrelay: " + line.replace("{}", str(path)))


def test_play_on_a_taken_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    path = tmp_path / "session.jsonl"
    path.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(["play", str(path), "--listen", listen], plugins_of()) == 1
    assert capsys.readouterr().err == f"tickrelay: cannot listen on {listen}: Address already in use\n"


# --- plugins, key, config --------------------------------------------------------------------------------------------


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    plugins = attrs.evolve(load_plugins(), broken=(SkippedPlugin("bad", "relay-bad", "1", "ImportError: no x"),))
    assert run(["plugins"], plugins) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("kraken ")]
    assert line.split() == ["kraken", "tickrelay", __version__, "kraken", "relay_adapters"]
    assert "broken: bad (relay-bad): ImportError: no x\n" in out


def test_plugins_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (kraken,) = [each for each in found["plugins"] if each["name"] == "kraken"]
    assert (kraken["adapters"], found["broken"], found["problems"]) == (["kraken"], [], [])


def test_plugins_with_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins"], plugins_of(mine=Misspelt())) == 1
    assert "no hook is named relay_tap" in capsys.readouterr().err


def test_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "my desk"], plugins_of()) == 0
    comment, *lines = capsys.readouterr().out.splitlines()
    key = comment.rpartition(" ")[2]
    table = tomllib.loads("\n".join(lines))["api_keys"]["my desk"]
    assert table == {"sha256": hashlib.sha256(key.encode()).hexdigest()}
    assert len(key) >= 43
    assert run(["key"], plugins_of()) == 0
    assert key not in capsys.readouterr().out


@attrs.frozen
class Table:
    """A plugin's table."""

    depth: int = 1


class Extra:
    @hookimpl
    def relay_settings(self) -> dict[str, type]:
        return {"extra": Table}

    @hookimpl
    def relay_commands(self) -> list[Callable[..., Any]]:
        def greet(name: str) -> int:
            """Greet."""
            print(f"hello {name}")
            return 3

        def check() -> None:
            """Collides."""

        return [greet, check]


def test_config_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--reference"], plugins_of(mine=Extra())) == 0
    assert capsys.readouterr().out == reference()
    assert run(["config", "--reference", "--plugins"], plugins_of(mine=Extra())) == 0
    assert "[plugins.extra]" in capsys.readouterr().out


def test_commands_of_plugins(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["greet", "you"], plugins_of(mine=Extra())) == 3
    captured = capsys.readouterr()
    assert captured.out == "hello you\n"
    assert captured.err == "tickrelay: plugin mine: the command check is already there\n"
    assert run(["check", str(config)], plugins_of(mine=Extra())) == 0


class BadCommands:
    @hookimpl
    def relay_commands(self) -> list[Callable[..., Any]]:
        raise RuntimeError("no")


def test_a_plugin_cannot_take_the_commands_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], plugins_of(mine=BadCommands())) == 0
    assert capsys.readouterr().err == "tickrelay: plugin mine: relay_commands raised RuntimeError: no\n"


@pytest.mark.parametrize(("origins", "noted"), [('["*"]', True), ('["https://a.example"]', False), ("[]", False)])
def test_check_notes_an_app_that_every_site_may_use(
    origins: str, noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tickrelay.toml"
    path.write_text(
        '[server]\npublic_url = "https://feed.example.com"\n'
        + GOOD.replace("[api_keys", f"allowed_origins = {origins}\n[api_keys")
    )
    assert run(["check", str(path)], plugins_of()) == 0
    assert ("\n  apps.web.allowed_origins" in capsys.readouterr().out) is noted


VENUES = (
    "binance", "binance_futures", "bitfinex", "bitstamp", "bybit", "coinbase", "deribit", "gateio", "kraken", "kraken_futures", "kucoin",
    "okx", "upbit",
)  # fmt: skip


def test_all_thirteen_venues_with_a_stream_of_everything_they_offer_are_fine(tmp_path, capsys):
    adapters = load_plugins().adapters()
    tables = []
    for venue in VENUES:
        pinned = [
            f"{offer.kind} {offer.example['symbol']}{f' {offer.timeframes[0]}' if offer.timeframes else ''}"
            for offer in adapters[venue].offers
        ]
        tables.append(f"[providers.{venue}]\npinned = {json.dumps(pinned)}\n")
    config = tmp_path / "tickrelay.toml"
    assert run(["init", str(config), "--origin", "https://app.example.com"]) == 0
    config.write_text(config.read_text() + "\n".join(tables))
    capsys.readouterr()
    assert run(["check", str(config), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["problems"]) == (True, [])
    lines = [line for line in said["summary"] if line.startswith("provider ")]
    assert [line.partition(":")[0] for line in lines] == [f"provider {venue}" for venue in VENUES]
    assert all(f"{len(adapters[venue].offers)} pinned" in line for venue, line in zip(VENUES, lines, strict=True))
