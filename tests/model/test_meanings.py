"""docs/events.md says of every member of every kind what it means, and of every broker whether it says it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from relay.model.events import KINDS
from relay.model.serialize import event_schema
from support.meanings import BROKERS, ROOT, rows, said_by

#: Members that mean the same in every kind: the first table of the page has them.
COMMON = {"type", "event", "timestamp", "received_at", "provider", "account", "id", "seq", "reconciled"}


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
    said = {
        name for event in published(broker) if event["type"] == kind for name in (event[kind].keys() | event.keys())
    }
    assert said - COMMON - {kind} <= said_by(broker, kind)
