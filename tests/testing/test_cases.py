"""The code of the page of cases runs, each block by itself."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "adapter-cases.md").read_text("utf-8")
CASES = re.findall(r"^## (.+?)$.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", [code for _, code in CASES], ids=[title for title, _ in CASES])
def test_the_code_of_a_case_runs(code: str) -> None:
    assert "assert " in code
    exec(compile(code, "docs/adapter-cases.md", "exec"), {"__name__": "case"})


def test_every_case_has_code() -> None:
    assert len(CASES) == PAGE.count("\n## ")
