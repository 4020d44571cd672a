"""The page of the command line names every command, and its exit codes are those of the code."""

import re
from pathlib import Path

from relay.cli import ELSEWHERE, EXIT_CODES, OWN
from relay.cli.command_line import build_app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


def test_every_command_is_documented() -> None:
    named = set(re.findall(r"`([a-z-]+)`", PAGE.partition("## Exit codes")[0]))
    assert {*OWN, *ELSEWHERE} - {"completion"} <= named


def test_the_exit_codes_are_documented() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.M))
    assert rows == {str(code): meaning for code, meaning in EXIT_CODES.items()}


def test_the_examples_are_accepted() -> None:
    """Parsed, not carried out."""
    examples = re.findall(r"^tickrelay ([^#>\n]+)", PAGE, re.M)
    assert len(examples) >= 5
    for example in examples:
        tokens = example.replace("'", "").split()
        build_app(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
