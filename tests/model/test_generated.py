"""Generated code does what the declarations say: constructors as attrs makes them, JSON as the documentation has it."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import serialize, text
from relay.model.events import KINDS, Account, Candle, Depth, Event, Quote, Stamp

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.S)]
STAMPS = (
    Stamp(provider="acme", received_at="2025-01-15T10:30:00Z"),
    Stamp(provider="acme", account="live", received_at="2025-01-15T10:30:00Z"),
)

#: What a provider, or a mistake in an adapter, may put into a field.
anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("2025-01-15T10:30:00.120Z"),
    st.from_regex(r"\A-?[0-9]{1,5}(\.[0-9]{1,5})?\Z"), st.sampled_from(["BUY", "1m", "1e-7", ".5", "5.", "+1", "٣", " 1", "1\n"]),
    st.lists(st.tuples(st.just("1.0"), st.one_of(st.just("2"), st.floats(), st.none())), max_size=2), st.just({}),
)  # fmt: skip


def attrs_own(cls: type[Event]) -> type:
    """The same declaration with the constructor that attrs writes."""
    fields = {
        field.name: attrs.field(default=field.default, converter=field.converter, kw_only=True)
        for field in attrs.fields(cls)
    }
    return attrs.make_class(f"Plain{cls.__name__}", fields, frozen=True, slots=True)


PLAIN = {cls: attrs_own(cls) for cls in KINDS.values()}


def made(cls: type, arguments: dict[str, Any]) -> object:
    try:
        return attrs.asdict(cls(**arguments), recurse=False)
    except Exception as error:  # noqa: BLE001 - which one is what is compared
        return type(error)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_constructor_takes_and_refuses_what_attrs_own_would(kind: str, data: st.DataObject) -> None:
    cls = KINDS[kind]
    names = [field.name for field in attrs.fields(cls)]
    arguments = data.draw(st.dictionaries(st.sampled_from(names), anything))
    assert made(cls, arguments) == made(PLAIN[cls], arguments)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_a_constructor_makes_of_every_documented_event_what_attrs_own_makes(example: Any) -> None:
    event = serialize.structure(example).event
    arguments = attrs.asdict(event, recurse=False)
    assert made(type(event), arguments) == made(PLAIN[type(event)], arguments) == arguments


def wire_form(event: Event, stamp: Stamp, id: str) -> dict[str, Any]:
    """Return the wire form as docs/events.md describes it, written without any generated code."""
    body: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    fields = attrs.fields(type(event))
    for field in [*(f for f in fields if f.default is not None), *(f for f in fields if f.default is None)]:
        outside = event.body is None or (field.name in event.outside and field.name not in event.renamed)
        value = getattr(event, field.name)
        if value is not None or (field.default is not None and field.name != "timestamp"):
            (beside if outside else body)[event.renamed.get(field.name, field.name)] = value
    if isinstance(event, Quote | Candle):
        body["provider"] = stamp.provider
    wire = {
        "type": event.kind,
        **({} if event.body is None else {event.body: body}),
        **beside,
        "provider": stamp.provider,
    }
    if stamp.account is not None and isinstance(event, Account):
        body.setdefault("id", stamp.account)
    elif stamp.account is not None:
        wire.setdefault("account", stamp.account)
    return {**wire, "id": id, "received_at": stamp.received_at}


@pytest.mark.parametrize("stamp", STAMPS, ids=["market", "account"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_the_quick_encoding_is_the_generic_one(example: Any, stamp: Stamp) -> None:
    event = serialize.structure(example).event
    required = [field.name for field in attrs.fields(type(event)) if field.default is attrs.NOTHING]
    bare = type(event)(**{name: getattr(event, name) for name in required})
    for each in (event, bare):
        assert serialize.encode(each, stamp, "1-1") == msgspec.json.encode(wire_form(each, stamp, "1-1"))


def test_what_was_seen_as_text_does_not_let_a_number_pass() -> None:
    assert Quote(symbol="A", bid="1", ask="1.5").bid == "1"
    for number in (1.0, 1.5, True):
        with pytest.raises(TypeError):
            Quote(symbol="A", bid=number)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Depth(symbol="A", bids=[(number, "1")], asks=[], snapshot=True)  # type: ignore[list-item]


def test_what_is_remembered_is_bounded() -> None:
    for number in range(40_000):
        text.decimal_text(f"{number}.5")
    assert len(text._decimals) <= 16_384
    text.decimal_text("1." + "0" * 30)
    assert "1." + "0" * 30 not in text._decimals


def test_a_traceback_through_generated_code_shows_its_source() -> None:
    with pytest.raises(TypeError) as raised:
        Quote(symbol="A", bid=1.0)  # type: ignore[arg-type]
    assert any("_set_bid(self" in str(entry.statement) for entry in raised.traceback)
