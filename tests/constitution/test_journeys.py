"""docs/architecture.md shows the two journeys as they are: its functions exist, and each calls the next one.

A journey is a numbered list in which every item begins with a function as ``path/to/module.py:Class.function``. An item calls the item
behind it: in its own body the name of the next function stands as a call, or is handed on. Where an item says "next pass" or "task
switch", the scheduler lies between the two, and only its existence is checked.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ITEM = re.compile(r"^\d+\. `([\w/]+\.py):([\w.]+)`(.*(?:\n {2,}.*)*)", re.MULTILINE)
#: Title of the section -> the most stops and the most changes of package that it may have.
JOURNEYS = {"A message on its way": (14, 6), "A command on its way": (24, 12)}


def stops(title: str) -> list[tuple[Path, str, str]]:
    """Return file, function and remark of each stop."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [(ROOT / path, function, remark) for path, function, remark in ITEM.findall(section)]


def definition(path: Path, name: str) -> ast.AST | None:
    """Return the definition of ``Class.function`` in a file; of an abstract method, what is declared."""
    node: ast.AST = ast.parse(path.read_text())
    for part in name.split("."):
        found = [
            each
            for each in ast.iter_child_nodes(node)
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and each.name == part
        ]
        if not found:
            return None
        node = found[0]
    return node


def names(node: ast.AST) -> Iterator[str]:
    """Return every function or method that is named in a body: called, or handed on to be called."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Name):
            yield each.id


@pytest.mark.parametrize("title", JOURNEYS)
def test_every_stop_of_a_journey_exists_and_calls_the_next_one(title: str) -> None:
    journey = stops(title)
    assert len(journey) >= 8
    for (path, function, remark), (_, following, _) in zip(journey, [*journey[1:], journey[-1]], strict=True):
        node = definition(path, function)
        assert node is not None, f"{path.relative_to(ROOT)} has no {function}"
        if (path, function) == journey[-1][:2] or re.search("next pass|task switch", remark):
            continue
        called = following.rsplit(".", 1)[-1]
        called = following.rsplit(".", 2)[-2] if called == "__init__" else called
        assert called in set(names(node)), f"{function} does not call {following}"


@pytest.mark.parametrize("title", JOURNEYS)
def test_a_journey_stays_short(title: str) -> None:
    journey = stops(title)
    most_stops, most_crossings = JOURNEYS[title]
    packages = [path.relative_to(ROOT).parts[:2] for path, _, _ in journey]
    crossings = sum(one != other for one, other in zip(packages, packages[1:], strict=False))
    assert len(journey) <= most_stops
    assert crossings <= most_crossings
