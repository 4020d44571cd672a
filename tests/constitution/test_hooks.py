"""Every hook is documented with its exact signature and has a test named after it."""

import inspect
import re
from pathlib import Path

import pytest

import relay.plugins.hookspecs

ROOT = Path(__file__).parents[2]
HOOKS = {name: function for name, function in vars(relay.plugins.hookspecs).items() if name.startswith("relay_")}
DOCUMENT = (ROOT / "docs" / "hooks.md").read_text()


def test_hooks_are_few_typed_and_explained() -> None:
    assert 6 <= len(HOOKS) <= 12
    for function in HOOKS.values():
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty
        assert (function.__doc__ or "").strip()


@pytest.mark.parametrize("name", HOOKS)
def test_it_is_documented_with_its_exact_signature(name: str) -> None:
    source = inspect.getsource(HOOKS[name])
    match = re.search(r"def (.+?):(?:  #.*)?\n", source, re.S)
    assert match is not None
    assert f"def {match[1]}" in DOCUMENT, f"docs/hooks.md lacks: def {match[1]}"


@pytest.mark.parametrize("name", HOOKS)
def test_it_has_a_test_named_after_it(name: str) -> None:
    wanted = f"def test_hook_{name.removeprefix('relay_')}"
    assert any(wanted in path.read_text() for path in (ROOT / "tests").rglob("test_*.py")), f"no {wanted}"
