"""The page says what the tests say."""

import importlib.util
from pathlib import Path

import pytest

from support import matrix


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    """Every cell of the matrix stands on the page, and none of them failed or was skipped when it was written."""
    if request.config.getoption("write_compatibility", default=False):
        pytest.skip("the page is being written")
    matrix.ROWS.clear()  # whatever else was collected, the page has its rows in the order of all files
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"matrix_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert len(matrix.ROWS) > 30
    written = matrix.PAGE.read_text()
    assert written == matrix.render(lambda capability, library: "yes"), (
        "docs/compatibility.md is not what the tests say: run `pytest tests/compat --write-compatibility`"
    )
