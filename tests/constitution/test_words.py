"""One word has one meaning, and a docstring says plainly what its object does."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for base in ("relay", "adapters", "plugins") for path in sorted((ROOT / base).rglob("*.py"))]
TREES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in SOURCES}

#: Class names that still have two meanings. Only remove names here; `relay.settings`, `relay.plugins`, `relay.cli` and the
#: webhooks plugin have none.
STILL_DOUBLE = {
    "ApiError", "Channels", "Connection", "SimulatedExchange", "Ticket",
}  # fmt: skip
#: File names that still are in more than two packages. Only remove names here.
STILL_MANY = {"channels.py", "exchange.py", "payloads.py", "reading.py"}
#: Names that each provider's package has by contract.
OF_EVERY_PROVIDER = {"__init__.py", "adapter.py", "simulator.py"}
#: No docstring begins with these, private ones and those of attributes included.
QUESTION = re.compile(r"(What|Whether|Where|When|Which|How|Who|Whom|Whose|Whoever|Whatever)\b")
#: The docstring of a function says what the function does, and a sentence that does so begins with a verb.
NO_VERB = re.compile(
    r"(`|[a-z]|(The|A|An|Its?|They|This|That|These|Those|Somebody|Nobody|Everybody|Anybody|Something|Nothing|Everything"
    r"|Anything|Another|All|Any|Every|Each|Both|One|No|Data|Of|Seconds|Counts|Events|Bytes|Times|Tokens|Ids)\b)"
)
#: Phrases that a reader has to guess at, with the number that the docstrings of relay/ may still have: name the subscriber,
#: the event or the field instead. Only lower the numbers.
STILL_VAGUE = {"whoever": 5, "told of": 5, "given up": 5, "goes with": 0, "last word": 0, "let out": 0, "lets out": 0}
#: Functions that are rules: their docstrings are the sentences that they check.
RULES = {"relay/testing/meaning.py", "relay/testing/account_meaning.py", "relay/testing/fault_table.py"}
#: Modules of relay/, without `__init__.py`. Lower it when a room is folded.
#: `testing.trial` and `cli.recordings` are `tickrelay try` and `play`, and the report that probes give, too;
#: `testing.meaning` has the conformance checks of what events mean;
#: `replay` is a recording in a provider's place; `model.typescript` and `model.asyncapi` say the model in other languages.
#: `server.api.frames` is the frames that API keys may inspect; `plugins.masking` came from the recorder, which shares it.
#: `histogram` is used by the store, commands, and the writer to subscribers; `server.api.metrics` was half of `health`.
#: `testing.sessions` is a session that is watched, `testing.fault_table` the faults that every adapter's sessions are tested by.
#: `cluster.applications`, `.shared_app`, `.app_store` and `.app_node` are applications over several relays, as `log`,
#: `topics`, `redis` and `node` are the streams of providers.
#: `cli.new_adapter` writes the package of a new provider.
#: `server.memory` reads the limits of memory that the system has for the process, and keeps a reserve of it.
#: `testing.account_meaning` has the checks of orders, fills, positions and money, which were in `testing.meaning`.
#: `model.instruments` is what a provider's metadata say of the things it trades, and whether an order fits that.
MOST_MODULES = 153


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
    assert {name for name, paths in places.items() if len(paths) > 1} >= STILL_DOUBLE, "strike what has one meaning now"


def changes_something(node: ast.AST) -> bool:
    """Return True for an assignment to an attribute or an item, or a deletion of one."""
    targets: list[ast.expr] = []
    match node:
        case ast.Assign(targets=of) | ast.Delete(targets=of):
            targets = of
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            targets = [target]
    return any(isinstance(each, ast.Attribute | ast.Subscript) for target in targets for each in ast.walk(target))


def test_a_predicate_changes_nothing_that_it_asks_about() -> None:
    """A function that changes something and returns a truth is named by the change: `take_due`, `remember`."""
    guilty = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and re.match(r"_?(is|has|can|may|was)_", node.name)
        and any(map(changes_something, ast.walk(node)))
    ]
    assert not guilty


def test_a_file_name_is_in_two_packages_at_most() -> None:
    packages = defaultdict(set)
    for path in TREES:
        packages[path.name].add(str(path.parent))
    many = {name: sorted(where) for name, where in packages.items() if len(where) > 2}
    assert not {name: many[name] for name in many.keys() - STILL_MANY - OF_EVERY_PROVIDER}
    assert many.keys() >= STILL_MANY, "strike what is in two packages now"


def docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield each docstring with its object; that of an attribute, which stands behind it, with the statement itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield node, text
            for each in node.body[1:]:
                if (
                    isinstance(each, ast.Expr)
                    and isinstance(each.value, ast.Constant)
                    and isinstance(each.value.value, str)
                ):
                    yield each, each.value.value


def is_action(node: ast.AST) -> bool:
    """Return True for a function or method that is no property: those have the docstrings of values."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("room", sorted({room_of(path) for path in TREES}))
def test_docstrings_are_plain(room: str) -> None:
    riddles = [
        f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for path, tree in TREES.items()
        if room_of(path) == room
        for node, text in docstrings(tree)
        if QUESTION.match(text) or (is_action(node) and NO_VERB.match(text) and str(path) not in RULES)
    ]
    assert not riddles


@pytest.mark.parametrize("phrase", STILL_VAGUE)
def test_docstrings_name_their_subject(phrase: str) -> None:
    found = [
        f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for path, tree in TREES.items()
        if path.parts[0] == "relay"
        for node, text in docstrings(tree)
        for _ in re.finditer(rf"\b{phrase}\b", " ".join(text.lower().split()))
    ]
    assert len(found) <= STILL_VAGUE[phrase], "\n".join(found)


@pytest.mark.parametrize("room", sorted({room_of(path) for path in TREES}))
def test_comments_on_names_are_plain(room: str) -> None:
    """The comment above a constant or an attribute says what it is, as a docstring does."""
    riddles = [
        f"{path}:{number}: {line.strip()}"
        for path in TREES
        if room_of(path) == room
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if line.lstrip().startswith("#: ") and QUESTION.match(line.lstrip()[3:])
    ]
    assert not riddles


def test_the_relay_has_few_modules() -> None:
    modules = [path for path in TREES if path.parts[0] == "relay" and path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
