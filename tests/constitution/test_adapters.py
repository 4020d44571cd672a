"""Every adapter is short enough to read, and has a simulator or recording, a golden file and a coverage table."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADAPTERS = sorted(path for path in (ROOT / "adapters").iterdir() if (path / "adapter.py").exists())
FIXTURES = ROOT / "tests" / "fixtures"
#: Public venues have no simulator of their own: the session player serves their fixture as a real server.
PLAYED = {
    f"relay_{venue}"
    for venue in (
        "binance", "bitfinex", "bitstamp", "bybit", "coinbase", "deribit", "gateio", "kraken", "kraken_futures", "kucoin",
        "okx", "upbit",
    )
}  # fmt: skip

#: Modules that only the demo and the tests need.
SIMULATED = {"simulator", "exchange", "payloads", "tickets", "chain"}
#: Lines of a public venue.
VENUE = 199
#: Lines of a broker: what it needs today. The aim is 700; a number here goes up only with what a broker is newly asked for:
#: the last time for instruments, which every list of symbols now yields; Alpaca has two lists of assets besides. Binance is two venues; Bitfinex ends
#: a channel by a number that it gives later; Kraken is one with two protocols, and has to match answers to requests: it refuses subscriptions and their ends by the same message;
#: Shuriken's streams are found by topic and by address, so that whoever comes and goes makes nobody search through all of them.
BUDGETS = {
    "relay_alpaca": 766,
    "relay_binance": 236,
    "relay_bitfinex": 228,
    "relay_kraken": 505,
    "relay_crosstrade": 899,
    "relay_helio": 699,
    "relay_scaletrade": 699,
    "relay_shuriken": 496,
    "relay_tektii": 639,
}

per_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)


#: Modules of one adapter that read and write the provider's protocol, `__init__.py` left out.
MOST_FILES = 6


def test_there_are_adapters() -> None:
    names = {adapter.name for adapter in ADAPTERS}
    assert len(names) >= 5
    assert names >= BUDGETS.keys() | PLAYED, "these are gone"


@per_adapter
def test_it_keeps_to_its_budget_of_lines(adapter: Path) -> None:
    """Count everything that reads and writes the provider's protocol: not the simulator, its exchange and its messages."""
    files = [path for path in adapter.glob("*.py") if path.stem not in SIMULATED]
    lines = sum(len(path.read_text().splitlines()) for path in files)
    assert lines <= BUDGETS.get(adapter.name, VENUE), f"{lines} lines in {len(files)} files"
    assert sum(path.name != "__init__.py" for path in files) <= MOST_FILES


@per_adapter
def test_prices_never_pass_through_a_float(adapter: Path) -> None:
    for path in adapter.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in {"float", "json.loads", "json.load"}, (
                f"{path.name}:{getattr(node, 'lineno', 0)} calls {called}"
            )


@per_adapter
def test_patterns_of_builtin_types_hold_no_name(adapter: Path) -> None:
    """``str(name)`` looks for ``str.__match_args__``: CPython 3.11 raises and drops an AttributeError, 0.9 us for each message."""
    for path in adapter.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.MatchClass) and ast.unparse(node.cls) in {"str", "int", "bool", "list", "dict"}:
                assert not node.patterns, f"{path.name}:{node.lineno}: write `{ast.unparse(node.cls)}() as name`"


@per_adapter
def test_it_has_a_simulator_a_fixture_and_a_reviewed_golden_file(adapter: Path) -> None:
    name = adapter.name.removeprefix("relay_")
    simulated = (adapter / "simulator.py").exists() or (adapter / "simulator" / "__init__.py").exists()
    assert simulated or adapter.name in PLAYED
    assert (FIXTURES / f"{name}.jsonl").stat().st_size > 0
    assert (FIXTURES / f"{name}.golden.jsonl").stat().st_size > 0
    assert (adapter / "py.typed").exists()


@per_adapter
def test_it_has_a_coverage_table_with_evidence(adapter: Path) -> None:
    text = (adapter / "README.md").read_text()
    assert "| channel | message variant | role | event | evidence |" in text
    rows = [line for line in text.splitlines() if line.startswith("|") and line.count("|") == 6]
    assert len(rows) >= 5
    assert all(cells.strip() for row in rows for cells in row.strip("|").split("|")), "an empty cell"
