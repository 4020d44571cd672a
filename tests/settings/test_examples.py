"""The configurations in the documentation are good ones."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from relay.plugins.manager import load_plugins
from relay.settings import Settings, load
from relay.settings.load import settings_of

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.toml"))


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


#: Sections that a fragment of a page takes for granted.
BASE = """
allow_inline_secrets = true
[apps.main]
id = "1"
key = "main-key"
secret = "a-secret-of-the-application"
[providers.acme]
adapter = "synthetic"
[providers.kraken]
adapter = "kraken"
[providers.helio]
adapter = "helio"
credentials = { email = "desk@example.com", password = "a-password" }
[providers.helio.accounts.main]
[api_keys.desk]
key = "a-key-of-the-desk-that-is-long-enough"
"""
PATH = Path("/etc/tickrelay/tickrelay.toml")
PAGES = ("cluster", "dashboard", "deploy", "monitoring", "resilience", "venues")
FRAGMENTS = [
    pytest.param(text, id=f"{page}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```toml\n(.*?)^```", (DOCS / f"{page}.md").read_text("utf-8"), re.S | re.M)
    )
]


def test_the_pages_have_fragments() -> None:
    assert len(FRAGMENTS) >= len(PAGES)


@pytest.mark.parametrize("text", FRAGMENTS)
def test_fragment_of_a_page(text: str) -> None:
    """Every fragment of a configuration on the pages is one, in a file that has what it takes for granted."""
    given = merged(tomllib.loads(BASE), tomllib.loads(text))
    plugins = load_plugins()
    settings = settings_of(given, PATH, {}, plugins.adapters(), lambda file: "", plugin_tables=plugins.tables())
    assert {provider.name for provider in settings.providers} == set(given["providers"])


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for name, value in more.items():
        here = both.get(name)
        both[name] = merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return both
