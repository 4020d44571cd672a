"""Plugins from made-up distributions: good ones, broken ones, and those that would silently do nothing."""

import importlib.metadata
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.plugins.manager import LoadedPlugin, PluginError, Plugins, SkippedPlugin, load_plugins

HEAD = """
import attrs
from relay.adapter import Adapter, Session
from relay.plugins.hookspecs import hookimpl

class Base(Adapter):
    session = Session(url="wss://venue.example")
    def decode(self, message):
        return ()
"""

Install = Callable[..., Plugins]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(alpha="source", ...)` makes one distribution per plugin and loads them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def load(**sources: str) -> Plugins:
        for name, source in sources.items():
            (tmp_path / f"made_{name}.py").write_text(HEAD + textwrap.dedent(source))
            info = tmp_path / f"relay_{name}-1.2.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: relay-{name}\nVersion: 1.2\n")
            (info / "entry_points.txt").write_text(f"[tickrelay]\n{name} = made_{name}\n")
        found = importlib.metadata.distributions(path=[str(tmp_path)])
        return load_plugins([entry_point for each in found for entry_point in each.entry_points])

    yield load
    for name in set(sys.modules) - known:
        if name.startswith("made_"):
            del sys.modules[name]


ADAPTER = """
class Venue(Base):
    name = "{name}"

@hookimpl
def relay_adapters():
    return [Venue]
"""


def test_a_plugin_is_found_with_its_distribution(install: Install) -> None:
    plugins = install(alpha=ADAPTER.format(name="venue"))
    assert plugins.loaded == (LoadedPlugin("alpha", "relay-alpha", "1.2", ("relay_adapters",)),)
    assert plugins.broken == ()
    assert [*plugins.adapters()] == ["venue"]
    plugins.check()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no\\nlicence')", "RuntimeError: no licence"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError: invalid syntax (made_bad.py, line 10)"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_and_skipped(install: Install, source: str, reason: str) -> None:
    plugins = install(good=ADAPTER.format(name="venue"), bad=source)
    assert [each.name for each in plugins.loaded] == ["good"]
    assert plugins.broken == (SkippedPlugin("bad", "relay-bad", "1.2", reason),)
    assert [*plugins.adapters()] == ["venue"]


def test_a_hook_with_a_wrong_argument_leaves_nothing_of_its_plugin_behind(install: Install) -> None:
    bad = ADAPTER.format(name="half") + "@hookimpl\ndef relay_credentials(provider, nam):\n    return 'x'\n"
    plugins = install(bad=bad, good=ADAPTER.format(name="venue"))
    (broken,) = plugins.broken
    assert broken.name == "bad"
    assert "{'nam'}" in broken.reason
    assert [*plugins.adapters()] == ["venue"]
    assert plugins.credential({}, "acme", "key") is None


def test_two_plugins_of_one_name(install: Install) -> None:
    install(alpha=ADAPTER.format(name="venue"))
    entry_point = importlib.metadata.EntryPoint("alpha", "made_alpha", "tickrelay")
    plugins = load_plugins([entry_point, importlib.metadata.EntryPoint("alpha", "json", "tickrelay")])
    assert len(plugins.loaded) == 1
    assert plugins.broken == (SkippedPlugin("alpha", "", "", "ValueError: another plugin has this name"),)


def test_a_misspelt_hook_is_an_error(install: Install) -> None:
    plugins = install(alpha="@hookimpl\ndef relay_adpters():\n    return []\n")
    with pytest.raises(PluginError) as refused:
        plugins.check()
    assert refused.value.lines == ("plugin alpha: no hook is named relay_adpters; did you mean relay_adapters?",)


def test_an_unmarked_hook_is_an_error(install: Install) -> None:
    plugins = install(alpha="def relay_taps():\n    return []\n")
    assert plugins.problems() == ["plugin alpha: relay_taps is not marked with @hookimpl, so it would never be called"]


def test_two_adapters_of_one_name(install: Install) -> None:
    plugins = install(alpha=ADAPTER.format(name="venue"), beta=ADAPTER.format(name="venue"))
    with pytest.raises(PluginError, match="^plugin beta: adapter venue is already brought by plugin alpha$"):
        plugins.adapters()


@pytest.mark.parametrize("value", ["5", "str", "Adapter", "Base"])
def test_what_is_no_adapter(install: Install, value: str) -> None:
    plugins = install(alpha=f"@hookimpl\ndef relay_adapters():\n    return [{value}]\n")
    (line,) = plugins.problems()
    assert line.startswith("plugin alpha: relay_adapters returned ")
    assert line.endswith(", which is not a complete adapter")


TAPS = "@hookimpl\ndef relay_taps():\n    return ['{0}1', '{0}2']\n"


def test_results_come_with_their_plugin_in_the_order_of_names(install: Install) -> None:
    plugins = install(beta=TAPS.format("b"), alpha=TAPS.format("a"), gamma="")
    assert [(each.plugin, each.value) for each in plugins.collect("relay_taps")] == [
        ("alpha", "a1"),
        ("alpha", "a2"),
        ("beta", "b1"),
        ("beta", "b2"),
    ]
    assert plugins.manager.hook.relay_taps(relay=None, settings={}) == [["a1", "a2"], ["b1", "b2"]]


def test_tryfirst_is_respected(install: Install) -> None:
    first = TAPS.format("b").replace("@hookimpl", "@hookimpl(tryfirst=True)")
    plugins = install(alpha=TAPS.format("a"), beta=first)
    assert [each.plugin for each in plugins.collect("relay_taps")] == ["beta", "beta", "alpha", "alpha"]


def test_a_hook_that_raises_is_named_and_the_others_are_still_asked(install: Install) -> None:
    plugins = install(
        alpha="@hookimpl\ndef relay_taps():\n    raise KeyError('x')\n",
        beta="@hookimpl\ndef relay_taps():\n    return 5\n",
    )
    with pytest.raises(PluginError) as refused:
        plugins.collect("relay_taps")
    assert refused.value.lines == (
        "plugin alpha: relay_taps raised KeyError: 'x'",
        "plugin beta: relay_taps raised TypeError: 'int' object is not iterable",
    )


def test_tables(install: Install) -> None:
    table = "@attrs.frozen\nclass Table:\n    x: int = 1\n\n@hookimpl\ndef relay_settings():\n    return {'recorder': Table}\n"
    plugins = install(alpha=table)
    assert [*plugins.tables()] == ["recorder"]
    twice = install(beta=table, gamma="@hookimpl\ndef relay_settings():\n    return {'x': int}\n")
    assert twice.problems() == [
        "plugin beta: the settings recorder are already those of alpha",
        "plugin gamma: the class for the settings x is not an attrs class",
    ]


OWN_TABLE = """
@attrs.frozen
class Table:
    got: list

@hookimpl
def relay_settings():
    return {{"{0}": Table}}
"""


def test_check_settings_passes_each_plugin_its_own_tables(install: Install) -> None:
    source = OWN_TABLE + "@hookimpl\ndef relay_check_settings(settings):\n    {1}\n"
    record = "[table.append(name) for name, table in settings.items()]"
    plugins = install(
        alpha=source.format("a", record),
        beta=source.format("b", "raise ValueError('bad')"),
        gamma=source.format("c", record),
    )
    given: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    with pytest.raises(PluginError, match="^plugin beta: bad$"):
        plugins.check_settings(given, [])
    assert given == {"a": ["a"], "b": [], "c": ["c"]}


def test_hooks_receive_the_relay_and_their_settings_if_they_name_them(install: Install) -> None:
    plugins = install(
        alpha=OWN_TABLE.format("a", "")
        + "@hookimpl\ndef relay_taps(settings, relay):\n    return [(relay, settings)]\n",
        beta="@hookimpl\ndef relay_taps(relay):\n    return [relay]\n",
        gamma="@hookimpl\ndef relay_taps():\n    return [None]\n",
    )
    relay: Any = object()
    collected = plugins.collect("relay_taps", relay=relay, settings={"a": 1, "b": 2})
    assert [each.value for each in collected] == [(relay, {"a": 1}), relay, None]


def test_credentials_come_from_the_first_plugin_that_knows(install: Install) -> None:
    source = "@hookimpl\ndef relay_credentials(provider, name):\n    {}\n"
    plugins = install(
        alpha=source.format("return None"),
        beta=source.format("return provider + name"),
        gamma=source.format("return 'c'"),
    )
    assert plugins.credential({}, "acme", "key") == "acmekey"
    assert install(aaa=source.format("1 / 0")).manager is not plugins.manager


def test_a_failing_vault_is_named(install: Install) -> None:
    plugins = install(vault="@hookimpl\ndef relay_credentials(provider, name):\n    raise OSError('sealed')\n")
    with pytest.raises(PluginError, match="^plugin vault: relay_credentials raised OSError: sealed$"):
        plugins.credential({}, "acme", "key")


def test_the_installed_plugins_load() -> None:
    plugins = load_plugins()
    assert plugins.broken == ()
    assert plugins.problems() == []
    assert {"binance", "bitstamp", "kraken"} <= plugins.adapters().keys()
