"""Every kind has an example in docs/events.md, and each example survives both ways unchanged."""

import json
import re
from pathlib import Path

import pytest

from relay.model import serialize
from relay.model.events import KINDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.S)]


def test_every_kind_has_its_section_and_example() -> None:
    assert re.findall(r"^## (\w+)$", DOCUMENT, re.M) == [example["type"] for example in EXAMPLES]
    assert sorted(example["type"] for example in EXAMPLES) == sorted(KINDS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_the_example_survives_both_ways(example: dict[str, object]) -> None:
    published = serialize.decode(json.dumps(example))
    assert json.loads(serialize.encode(published.event, published.stamp, published.id, published.seq)) == example
