"""The table of docs/honesty.md says what a relay says. ``HONESTY=write`` writes the rows anew (without -n)."""

import os
from pathlib import Path

import pytest

from support.situations import SITUATIONS, Situation, played

PAGE = Path(__file__).parents[2] / "docs" / "honesty.md"


def row(of: Situation, *channels: list[str]) -> str:
    """A row of the table: the situation, and what the channels say."""
    told = (" → ".join(f"`{word}`" for word in channel) or "nothing" for channel in channels)
    return f"| {' | '.join([of.title, *told])} |"


def rows() -> dict[str, str]:
    """The rows of the page by the situation."""
    lines = PAGE.read_text().splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.count(" | ") == 3}


@pytest.mark.parametrize("name", SITUATIONS)
async def test_the_page_says_what_the_channels_say(name: str) -> None:
    of = SITUATIONS[name]
    now = row(of, *await played(of))
    if os.environ.get("HONESTY") == "write":
        before = rows().get(of.title)
        text = PAGE.read_text()
        PAGE.write_text(text.replace(before, now) if before else text.replace("<!-- more -->", f"{now}\n<!-- more -->"))
    assert rows().get(of.title) == now


def test_the_page_has_no_other_situations() -> None:
    assert set(rows()) - {"Situation", "---"} == {of.title for of in SITUATIONS.values()}
