"""The client library that judges each capability, and the page with the table.

Every test of `tests/compat` that is `judged_by` libraries makes one cell for each of them. A library that lacks a capability
is named with the reason, so no cell is empty by oversight.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"

Outcome = Literal["yes", "**no**", "not run"]
CLIENTS: Final = ("pusher-js", "chromium", "echo", "pysher", "asyncpusher")
SERVERS: Final = ("pusher-node", "pusher-python")
TITLES: Final = {
    "pusher-js": "pusher-js, Node.js",
    "chromium": "pusher-js, Chromium",
    "echo": "laravel-echo",
    "pysher": "pysher",
    "asyncpusher": "asyncpusher",
    "pusher-node": "pusher, npm",
    "pusher-python": "pusher, PyPI",
}
MARKS: Final[Mapping[str, Any]] = {
    "pusher-js": pytest.mark.node,
    "chromium": pytest.mark.browser,
    "echo": pytest.mark.node,
    "pusher-node": pytest.mark.node,
}


@frozen
class Row:
    """One capability: the libraries that judge it, and why the others do not."""

    libraries: tuple[str, ...]
    absent: Mapping[str, str]


ROWS: dict[str, Row] = {}
"""By capability, in the order of the tests."""


def judged_by(
    capability: str, libraries: Iterable[str] = CLIENTS, *, absent: Mapping[str, str] | None = None
) -> Callable[[Any], Any]:
    """Run the test once per library, as its argument ``library``; ``absent`` says why a library is left out."""
    absent = absent or {}
    judges = tuple(library for library in libraries if library not in absent)
    group = SERVERS if set(judges) <= set(SERVERS) else CLIENTS
    assert {*judges, *absent} == set(group), f"{capability}: every library judges it or lacks it"

    def mark(test: Any) -> Any:
        ROWS[capability] = Row(judges, absent)
        test.capability = capability
        return pytest.mark.parametrize(
            "library", [pytest.param(library, marks=MARKS.get(library, ())) for library in judges]
        )(test)

    return mark


def versions() -> dict[str, str]:
    """The version of each library as the lock files have it."""
    npm = json.loads((ROOT / "tests/node/package-lock.json").read_text())["packages"]
    pypi = {
        package["name"]: package.get("version", "")
        for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    return {
        "pusher-js": npm["node_modules/pusher-js"]["version"],
        "chromium": npm["node_modules/pusher-js"]["version"],
        "echo": npm["node_modules/laravel-echo"]["version"],
        "pusher-node": npm["node_modules/pusher"]["version"],
        "pusher-python": pypi["pusher"],
        "pysher": pypi["pysher"],
        "asyncpusher": pypi["asyncpusher"],
    }


def render(outcome: Callable[[str, str], Outcome]) -> str:
    """The page; ``outcome`` of a capability and a library."""
    notes: dict[str, int] = {}
    parts = [
        _HEAD,
        _table("Client libraries", CLIENTS, outcome, notes),
        _table("Server libraries", SERVERS, outcome, notes),
        _SUITES,
    ]
    parts.append("\n".join(["## Why not", "", *(f"{number}. {note}" for note, number in notes.items()), ""]))
    return "\n".join(parts)


def _table(title: str, group: tuple[str, ...], outcome: Callable[[str, str], Outcome], notes: dict[str, int]) -> str:
    found = versions()
    lines = [f"## {title}", "", f"| | {' | '.join(f'{TITLES[name]} {found[name]}' for name in group)} |"]
    lines.append("|---" * (len(group) + 1) + "|")
    for capability, row in ROWS.items():
        if not set(row.libraries) <= set(group):
            continue
        cells = []
        for name in group:
            note = row.absent.get(name)
            cells.append(outcome(capability, name) if note is None else f"- ({notes.setdefault(note, len(notes) + 1)})")
        lines.append(f"| {capability} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_HEAD = """\
# Compatibility

Written by `pytest tests/compat --write-compatibility` from the tests it has just run: a cell says yes where a test of that
capability passed with the real, unmodified library of that version. A dash is a capability the library does not have.
"""

_SUITES = """\
## Official suites

The suites of the libraries' own repositories, unmodified, against a relay in place of Pusher (names resolved to this machine, TLS with its
own certificate), on 2026-11-27. They are not part of the tests here, because they need these names and ports.

| suite | result |
|---|---|
| pusher-js 8.6.0, `spec/javascripts/integration` in Node.js, with TLS and without | 84 of 84 |
| pusher-http-php at 71dbdaa, `acceptance`; one subscriber on `my-channel`, as the suite asks | 74 of 74, 97 assertions |
| pusher-http-node at 7492d8d (5.3.3), `tests/remote` | 7 of 7 |

What the official Java and .NET clients, which send protocol 5, need (`pusher:error` before a close) is in `tests/pusher/test_server.py`;
the clients themselves are not run.
"""
