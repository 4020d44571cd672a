"""docs/commands.md says what the classes say."""

import re
from pathlib import Path

import pytest

from relay.model.command_input import MEMBERS
from relay.model.commands import COMMANDS

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
SECTIONS = {
    title.strip(): body for title, body in re.findall(r"^### (\w+)\n(.*?)(?=^##)", TEXT, flags=re.MULTILINE | re.DOTALL)
}
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (needed)? ?\| (.+) \|$", re.MULTILINE)


def test_every_command_has_its_section() -> None:
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_member_has_its_row(name: str) -> None:
    written = [(member, kind, bool(needed)) for member, kind, needed, _ in ROW.findall(SECTIONS[name])]
    assert written == [
        (member.name, " ".join(f"`{value}`" for value in member.values) or member.type, member.required)
        for member in MEMBERS[name]
        if member.name not in ("id", "account")
    ]
    assert (COMMANDS[name].__doc__ or "").split("\n\n")[0].replace("``", "`") in SECTIONS[name]
