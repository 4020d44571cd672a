"""The configurations in the documentation are good ones."""

import re
from pathlib import Path

import pytest

from relay.plugins.manager import load_plugins
from relay.settings import Settings, load

EXAMPLES = sorted((Path(__file__).parents[2] / "docs/examples").glob("*.toml"))


def loaded(path: Path) -> Settings:
    """Load an example with its environment set and its files there."""
    environ = dict.fromkeys(re.findall(r'env = "(\w+)"', path.read_text("utf-8")), "a-value")
    pem = "-----BEGIN CERTIFICATE-----"
    return load(path, environ, load_plugins().adapters(), lambda file: file.read_text("utf-8") if file == path else pem)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path) -> None:
    settings = loaded(path)
    assert settings.providers
    assert settings.notes == ()
