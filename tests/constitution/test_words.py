"""One word has one meaning, and a docstring says plainly what its object does."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for base in ("relay", "adapters", "plugins") for path in sorted((ROOT / base).rglob("*.py"))]
TREES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in SOURCES}

#: Class names that still have two meanings. Only remove names here; `relay.settings`, `relay.plugins`, `relay.cli` and the
#: webhooks plugin have none.
STILL_DOUBLE = {
    "ApiError", "Bucket", "Chain", "Channels", "Close", "Connection", "Corrupt",
    "Link", "Missed", "Ping", "Pong",
    "Providers", "Record", "Refused", "Request", "Session",
    "SimulatedExchange", "Ticket", "Want", "Window",
}  # fmt: skip
#: File names that still are in more than two packages. Only remove names here.
STILL_MANY = {"answers.py", "channels.py", "connection.py", "exchange.py", "payloads.py", "reading.py"}
#: Names that each provider's package has by contract.
OF_EVERY_PROVIDER = {"__init__.py", "adapter.py", "simulator.py"}
RIDDLE = re.compile(r"(What|Whether|Where|When|Which|How|Who|Whose|Whoever|Whatever)\b")
#: Modules of relay/, without `__init__.py`. Lower it when a room is folded.
#: `testing.trial` and `cli.recordings` are `tickrelay try` and `play`, and the report that probes give, too;
#: `testing.meaning` has the conformance checks of what events mean;
#: `replay` is a recording in a provider's place; `model.typescript` and `model.asyncapi` say the model in other languages.
#: `server.api.frames` is the frames that API keys may inspect; `plugins.masking` came from the recorder, which shares it.
#: `histogram` is used by the store, commands, and the writer to subscribers; `server.api.metrics` was half of `health`.
#: `testing.sessions` is a session that is watched, `testing.fault_table` the faults that every adapter's sessions are tested by.
MOST_MODULES = 145


def room_of(path: Path) -> str:
    return "/".join(path.parts[:2])


def test_a_class_name_has_one_meaning() -> None:
    places = defaultdict(set)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(str(path))
    double = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1 and name not in STILL_DOUBLE}
    assert not double


def test_a_file_name_is_in_two_packages_at_most() -> None:
    packages = defaultdict(set)
    for path in TREES:
        packages[path.name].add(str(path.parent))
    many = {name: sorted(where) for name, where in packages.items() if len(where) > 2}
    assert not {name: many[name] for name in many.keys() - STILL_MANY - OF_EVERY_PROVIDER}


@pytest.mark.parametrize("room", sorted({room_of(path) for path in TREES}))
def test_docstrings_of_public_names_do_not_begin_with_a_question_word(room: str) -> None:
    riddles = []
    for path, tree in TREES.items():
        if room_of(path) != room:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            if RIDDLE.match(text) and not getattr(node, "name", "").startswith("_"):
                riddles.append(f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}")
    assert not riddles


def test_the_relay_has_few_modules() -> None:
    modules = [path for path in TREES if path.parts[0] == "relay" and path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
