"""The schemas of the events say what the codec writes: every documented example fits, and what is broken does not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.model.events import KINDS
from relay.model.serialize import event_schema

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
EXAMPLES = {block["type"]: block for block in map(json.loads, re.findall(r"```json\n(.*?)```", DOCUMENT, re.S))}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


def wrong(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Return the errors of ``value``, by the part of JSON Schema that is used here; a keyword that is not known is an error."""
    known = {"type", "const", "enum", "pattern", "format", "properties", "required", "items", "minItems", "maxItems"}
    assert set(schema) <= known | {"$schema", "title", "description"}, schema
    if "const" in schema and value != schema["const"]:
        return [f"{at} is not {schema['const']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at} is none of {schema['enum']}"]
    expected = TYPES.get(schema.get("type", ""))
    if expected is not None and type(value) is not expected:
        return [f"{at} is no {schema['type']}"]
    found = []
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{at} does not match")
    if schema.get("format") == "date-time" and not TIME.fullmatch(value):
        found.append(f"{at} is no time")
    found += [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, member in schema.get("properties", {}).items():
        if name in value:
            found += wrong(value[name], member, f"{at}.{name}")
    if "items" in schema:
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{at} has {len(value)} items")
        for place, item in enumerate(value):
            found += wrong(item, schema["items"], f"{at}[{place}]")
    return found


def undescribed(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Members that the schema does not name."""
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None:
        return []
    found = [f"{at}.{name}" for name in value if name not in properties]
    for name in set(value) & set(properties):
        found += undescribed(value[name], properties[name], f"{at}.{name}")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_example_fits_and_is_described_completely(kind: str) -> None:
    example, schema = EXAMPLES[kind], event_schema(kind)
    assert wrong(example, schema) == []
    assert undescribed(example, schema) == []
    assert schema["title"] == kind
    assert schema["description"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_fits_anothers_schema(kind: str) -> None:
    for other in KINDS:
        if other != kind:
            assert wrong(EXAMPLES[kind], event_schema(other))


@pytest.mark.parametrize(
    ("kind", "path", "value", "says"),
    [
        ("quote", "quote.bid", 1.5, "no string"),
        ("quote", "quote.bid", "1e5", "not match"),
        ("quote", "received_at", "yesterday", "no time"),
        ("quote", "seq", "7", "no integer"),
        ("candle", "bar.closed", "true", "no boolean"),
        ("depth", "depth.bids", [["1", "2", "3"]], "3 items"),
        ("order", "order.status", "MAYBE", "none of"),
        ("order", "event", "ORDER_LOST", "none of"),
    ],
)
def test_what_the_model_refuses_does_not_fit(kind: str, path: str, value: object, says: str) -> None:
    example = json.loads(json.dumps(EXAMPLES[kind]))
    *parents, name = path.split(".")
    target = example
    for parent in parents:
        target = target[parent]
    target[name] = value
    (problem,) = wrong(example, event_schema(kind))
    assert says in problem
    assert path in problem


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_always_written_may_be_missing(kind: str) -> None:
    for name in ("type", "provider", "id", "received_at"):
        assert wrong({key: value for key, value in EXAMPLES[kind].items() if key != name}, event_schema(kind))


def test_there_is_no_schema_of_no_kind() -> None:
    with pytest.raises(KeyError):
        event_schema("price")
