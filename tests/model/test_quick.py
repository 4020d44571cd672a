"""What is written for speed does what the declaration says: constructors as attrs makes them, JSON as cattrs makes it."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import codec, decimals
from relay.model.events import KINDS, Depth, Event, Quote, Stamp

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
    event = codec.structure(example).event
    arguments = attrs.asdict(event, recurse=False)
    assert made(type(event), arguments) == made(PLAIN[type(event)], arguments) == arguments


@pytest.mark.parametrize("stamp", STAMPS, ids=["market", "account"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_the_quick_encoding_is_the_generic_one(example: Any, stamp: Stamp) -> None:
    event = codec.structure(example).event
    required = [field.name for field in attrs.fields(type(event)) if field.default is attrs.NOTHING]
    bare = type(event)(**{name: getattr(event, name) for name in required})
    for each in (event, bare):
        assert codec.encode(each, stamp, "1-1") == msgspec.json.encode(codec.unstructure(each, stamp, "1-1"))


def test_what_was_seen_as_text_does_not_let_a_number_pass() -> None:
    assert Quote(symbol="A", bid="1", ask="1.5").bid == "1"
    for number in (1.0, 1.5, True):
        with pytest.raises(TypeError):
            Quote(symbol="A", bid=number)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Depth(symbol="A", bids=[(number, "1")], asks=[], snapshot=True)  # type: ignore[list-item]


def test_what_is_remembered_is_bounded() -> None:
    for number in range(40_000):
        decimals.decimal_text(f"{number}.5")
    assert len(decimals._seen) <= 16_384
    decimals.decimal_text("1." + "0" * 30)
    assert "1." + "0" * 30 not in decimals._seen
