"""The reference of the settings is complete and up to date."""

from pathlib import Path

import attrs
import pytest

from relay.settings import describe_settings, reference
from relay.settings.reference import attribute_docs

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("setting", list(describe_settings()), ids=lambda setting: setting.path)
def test_every_setting_is_documented(setting: object) -> None:
    assert attrs.asdict(setting)["doc"].endswith(".")  # type: ignore[arg-type, call-overload]


def test_the_page_is_up_to_date() -> None:
    """Written by `tickrelay config --reference > docs/configuration.md`."""
    assert (DOCS / "configuration.md").read_text("utf-8") == reference()


def test_types_and_defaults() -> None:
    settings = {setting.path: (setting.type, setting.default) for setting in describe_settings()}
    assert settings["server.listen"] == ("text", '"127.0.0.1:6001"')
    assert settings["apps.NAME.id"] == ("text or integer", "needed")
    assert settings["apps.NAME.allowed_origins"] == ("list of text", '["*"]')
    assert settings["providers.NAME.accounts.NAME.credentials"] == ("table of secret", "{}")
    assert settings["providers.NAME.linger"] == ("number", "30")
    assert settings["log.format"] == ('`"console"` or `"json"`', '`"console"`'.strip("`"))
    assert settings["server.tls_cert"] == ("text", "")


@attrs.frozen
class Recorder:
    """Where sessions are recorded."""

    directory: str
    """A directory."""
    keep: int = 3


def test_plugin_tables_are_described() -> None:
    last = list(describe_settings({"recorder": Recorder}))[-2:]
    assert [(s.path, s.type, s.default, s.doc) for s in last] == [
        ("plugins.recorder.directory", "text", "needed", "A directory."),
        ("plugins.recorder.keep", "integer", "3", ""),
    ]
    assert "## `[plugins.recorder]`\n\nWhere sessions are recorded.\n" in reference({"recorder": Recorder})


def test_a_class_without_source_has_no_docs() -> None:
    assert attribute_docs(attrs.make_class("Made", ["x"])) == {}
