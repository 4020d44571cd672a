"""The model in other languages: types for TypeScript, and AsyncAPI."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from relay.model import asyncapi, typescript
from relay.model.channels import parse_channel
from relay.model.commands import COMMANDS
from relay.model.events import KINDS

ROOT = Path(__file__).parents[2]
#: The specification's own, from https://github.com/asyncapi/spec-json-schemas (Apache-2.0).
SCHEMA = ROOT / "tests" / "fixtures" / "asyncapi-3.0.0.schema.json.gz"
DOCUMENT = {**asyncapi.document("1.0"), "servers": {"relay": asyncapi.server("127.0.0.1:6001", tls=False)}}


def test_the_types_are_up_to_date() -> None:
    written = (ROOT / "relay" / "web" / "tickrelay.d.ts").read_text()
    assert written == typescript.declarations(), "run python -m relay.model.typescript > relay/web/tickrelay.d.ts"


def test_the_asyncapi_document_is_valid() -> None:
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    jsonschema.Draft7Validator(schema).validate(DOCUMENT)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_its_references_lead_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        found = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_it_has_every_kind_and_every_command() -> None:
    assert set(DOCUMENT["components"]["schemas"]) == {*KINDS, *COMMANDS}
    sent = {kind for channel in DOCUMENT["channels"].values() for kind in channel["messages"]}
    assert sent == {*KINDS, "client-command"}


@pytest.mark.parametrize("channel", DOCUMENT["channels"])
def test_its_channels_are_those_of_the_relay(channel: str) -> None:
    address = DOCUMENT["channels"][channel]["address"]
    name = address.format(provider="acme", symbol="BTC-USD", timeframe="1m", account="main")
    assert parse_channel(name).topic.kind == channel


def test_an_order_is_described() -> None:
    schema = {**DOCUMENT["components"]["schemas"]["place_order"]}
    order = {"command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET", "quantity": "1000"}
    jsonschema.validate(order, schema)
    with pytest.raises(jsonschema.ValidationError, match="'BUI' is not one of"):
        jsonschema.validate({**order, "side": "BUI"}, schema)
