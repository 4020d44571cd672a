"""The tutorial of adding a provider is carried out: every command is run, every change is made, and what is said comes true."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from support.packages import installed_as_pip_does, ran

PAGE = Path(__file__).parents[2] / "docs" / "add-a-provider.md"
TUTORIAL = PAGE.read_text("utf-8").partition("\n## The adapter\n")[0]
PARTS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", TUTORIAL, re.DOTALL | re.MULTILINE)
_change = re.compile(r"# (\S+?), (in place of|above|method|new):? ?(.*)")


class Author:
    """Does what the page says, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder
        self.said = ""
        self.failed = False

    def run(self, line: str) -> None:
        """Carry out a line of a shell block."""
        match shlex.split(line, comments=True):
            case ["cd", name]:
                self.package = self.folder / name
            case ["pip", "install", "-e", ".[test]"]:
                installed_as_pip_does(self.package)
            case ["tickrelay", *rest]:
                self._ran("relay", *rest)
            case ["pytest", *rest]:
                self._ran("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *rest)
            case other:
                raise AssertionError(f"the page has a line that no test carries out: {other}")

    def _ran(self, *command: str) -> None:
        self.failed, self.said = ran(self.package, *command)

    def change(self, block: str) -> None:
        """Make a change of a Python block, whose first line says where."""
        first, _, code = block.partition("\n")
        found = _change.fullmatch(first)
        assert found is not None, f"the first line does not say where the code goes: {first}"
        path = self.package / found[1]
        if found[2] == "new":
            assert not path.exists()
            path.write_text(code)
            return
        text = path.read_text()
        if found[2] == "method":
            begin, end = _function(text, found[3])
        else:
            lines = text.splitlines()
            (begin,) = [number for number, line in enumerate(lines) if line.strip() == found[3]]
            end = begin + (found[2] == "in place of")
        lines = text.splitlines(keepends=True)
        path.write_text("".join([*lines[:begin], code, *lines[end:]]))
        ast.parse(path.read_text())


def _function(text: str, name: str) -> tuple[int, int]:
    (node,) = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.FunctionDef) and each.name == name]
    return node.lineno - 1, node.end_lineno or node.lineno


@pytest.mark.parametrize("title", [title for title, _ in PARTS])
def test_the_tutorial_comes_true(title: str, tmp_path: Path) -> None:
    author = Author(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", dict(PARTS)[title], re.DOTALL | re.MULTILINE)
    for number, (language, block) in enumerate(blocks):
        fails = blocks[number + 1][0] == "text" if number + 1 < len(blocks) else False
        if language == "python":
            author.change(block)
        elif language == "text":
            for line in block.splitlines():
                assert line in author.said, author.said
        else:
            for line in block.splitlines():
                author.run(line)
                assert author.failed == fails, author.said


def test_the_page_has_both_kinds_of_providers() -> None:
    assert [title for title, _ in PARTS] == ["A venue, step by step", "A broker, step by step"]
