"""docs/events.md says of every member of every kind what it means, and of every broker whether it says it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.model.events import KINDS
from relay.model.serialize import event_schema

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "events.md").read_text()
BROKERS = ("Helio", "Tektii", "ScaleTrade", "CrossTrade")
#: Members that mean the same in every kind: the first table of the page has them.
COMMON = {"type", "event", "timestamp", "received_at", "provider", "account", "id", "seq", "reconciled"}


def rows(kind: str) -> dict[str, list[str]]:
    """Return the other cells of each member's row in the kind's section."""
    section = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"{kind}\n")]
    table = text[text.index("| member |") :]
    lines = [line.strip("|").split("|") for line in table.split("\n\n")[0].splitlines()[2:]]
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def members(kind: str) -> set[str]:
    properties = event_schema(kind)["properties"]
    body = KINDS[kind].body
    beside = set(properties) - COMMON - {str(body)}
    return beside if body is None else beside | set(properties[body]["properties"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_has_a_row_that_says_what_it_means(kind: str) -> None:
    table = rows(kind)
    assert set(table) - COMMON == members(kind) - COMMON
    assert all(cell for cells in table.values() for cell in cells)


def published(broker: str) -> Iterator[dict[str, Any]]:
    for line in (ROOT / "tests" / "fixtures" / f"{broker.lower()}.golden.jsonl").read_text().splitlines():
        yield json.loads(line)


@pytest.mark.parametrize("kind", ["trade", "order", "position", "account"])
@pytest.mark.parametrize("broker", BROKERS)
def test_what_a_broker_is_said_not_to_say_it_never_says(broker: str, kind: str) -> None:
    table = rows(kind)
    says = {name for name, (_, *cells) in table.items() if cells[BROKERS.index(broker)] == "yes"}
    said = {
        name for event in published(broker) if event["type"] == kind for name in (event[kind].keys() | event.keys())
    }
    assert said - COMMON - {kind} <= says
