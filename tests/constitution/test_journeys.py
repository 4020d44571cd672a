"""docs/architecture.md shows the journeys as they are: its functions exist, and each is called by one before it.

A journey is a numbered list in which every item begins with a function as ``path/to/module.py:Class.function``. The name of
each function stands in the body of an item before it: called, or handed on to be called. Behind an item that mentions a callback, the
next pass or a task switch the scheduler lies between the two, and only the function's existence is checked.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ITEM = re.compile(r"^\d+\. `([\w/]+\.py):([\w.]+)`(.*(?:\n {2,}.*)*)", re.MULTILINE)
#: Title of the section -> the most stops and the most changes of package that it may have.
JOURNEYS = {
    "A message on its way": (14, 3),
    "A delivery that a slow subscriber cannot take": (8, 1),
    "A command on its way": (25, 12),
}


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
def test_every_stop_of_a_journey_exists_and_is_called_by_one_before_it(title: str) -> None:
    journey = stops(title)
    assert len(journey) >= 7
    numbers = re.findall(r"^(\d+)\. `", PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0], re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(journey) + 1)], (
        "an item names no function, or is misnumbered"
    )
    called: set[str] = set()
    switched = True
    for path, function, remark in journey:
        node = definition(path, function)
        assert node is not None, f"{path.relative_to(ROOT)} has no {function}"
        name = function.rsplit(".", 1)[-1].lstrip("_")
        assert switched or name in called, f"no stop before {function} calls it"
        called |= {each.lstrip("_") for each in names(node)}
        switched = re.search("next pass|task switch|callback", remark) is not None


@pytest.mark.parametrize("title", JOURNEYS)
def test_a_journey_stays_short(title: str) -> None:
    journey = stops(title)
    most_stops, most_crossings = JOURNEYS[title]
    packages = [path.relative_to(ROOT).parts[:2] for path, _, _ in journey]
    crossings = sum(one != other for one, other in itertools.pairwise(packages))
    assert len(journey) <= most_stops
    assert crossings <= most_crossings
