"""Commands as JSON: exact, strict, and back again."""

import json
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.command_input import (
    MAX_DEPTH,
    MEMBERS,
    CommandError,
    decode,
    encode,
    free_object,
    read,
    structure,
)
from relay.model.commands import COMMANDS, AmendOrder, Call, PlaceOrder

ORDER = {
    "command": "place_order",
    "id": "c1",
    "symbol": "EUR/USD",
    "side": "BUY",
    "order_type": "MARKET",
    "quantity": "1",
}
SAMPLES: dict[str, Any] = {
    "text": "S1",
    "decimal": "1.50",
    "time": "2025-01-15T10:30:00.120Z",
    "flag": True,
    "object": {"a": [1, {"b": None}], "c": "x"},
}
#: What the members of an order need of each other, beside what each is.
FULL_ORDER = {
    "order_type": "STOP_LIMIT",
    "trailing_distance": None,
    "trailing_type": None,
    "notional": None,
    "time_in_force": "GTD",
}


def whole(name: str) -> dict[str, Any]:
    """A command with every member it can have."""
    members = {m.name: m.values[0] if m.values else SAMPLES[m.type] for m in MEMBERS[name]}
    return {"command": name, **members, **(FULL_ORDER if name == "place_order" else {})}


def wrong(wire: dict[str, Any] | bytes | str) -> CommandError:
    with pytest.raises(CommandError) as raised:
        decode(wire if isinstance(wire, bytes | str) else json.dumps(wire))
    return raised.value


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_comes_back_as_it_was(name: str) -> None:
    command = decode(json.dumps(whole(name)))
    assert type(command) is COMMANDS[name]
    assert decode(encode(command)) == command
    absent = {member: value for member, value in whole(name).items() if value is not None}
    assert json.loads(encode(command)) == absent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_member_is_known_and_described(name: str) -> None:
    assert [member.name for member in MEMBERS[name]] == [a.name for a in attrs.fields(COMMANDS[name])]
    assert (COMMANDS[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_needed_and_not_there_is_named(name: str) -> None:
    for member in MEMBERS[name]:
        without = {key: value for key, value in whole(name).items() if key != member.name}
        if member.required:
            assert wrong(without).field == member.name
            assert wrong({**whole(name), member.name: None}).field == member.name


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("value", [True, 7, 1.5, "\x00", "", [], {}, {"a": 1}, "x" * 300])
def test_a_member_of_another_type_is_named(name: str, value: Any) -> None:
    fits = {"flag": bool, "object": dict, "decimal": int | float}
    for member in MEMBERS[name]:
        is_bool = isinstance(value, bool) and member.type != "flag"
        if is_bool or not isinstance(value, fits.get(member.type, ())):
            assert wrong({**whole(name), member.name: value}).field == member.name


@pytest.mark.parametrize(
    ("text", "digits"),
    [("10000", "10000"), ("1.10", "1.10"), ('"1.10"', "1.10"), ("1e3", "1000"), ("0.1000000000000000055", "0.1000000000000000055"),
     ("9007199254740993", "9007199254740993"), ("1E-7", "0.0000001")],
)  # fmt: skip
def test_numbers_keep_their_digits(text: str, digits: str) -> None:
    body = json.dumps(ORDER).replace('"quantity": "1"', f'"quantity": {text}')
    command = decode(body)
    assert isinstance(command, PlaceOrder)
    assert command.quantity == digits


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e400", "1e-400", '"NaN"', '"1_0"', '" 1"', "1" + "0" * 100, "1" + "0" * 5000],
)
def test_numbers_nobody_can_mean_are_refused(text: str) -> None:
    body = json.dumps(ORDER).replace('"quantity": "1"', f'"quantity": {text}')
    assert wrong(body).field in ("quantity", "body")


def test_a_float_is_refused_where_digits_are_wanted() -> None:
    with pytest.raises(CommandError, match="quantity: must be decimal text: a binary float has lost its digits"):
        structure({**ORDER, "quantity": 1.1})


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"symbl": "X"}, "symbl", "did you mean symbol?"),
        ({"command": "plac_order"}, "command", "did you mean place_order?"),
        ({"command": 5}, "command", "text"),
        ({"side": "buy"}, "side", "BUY, SELL"),
        ({"side": "BUY\n"}, "side", "printable"),
        ({"id": "a b"}, "id", "visible ASCII"),
        ({"id": "x" * 129}, "id", "128"),
        ({"quantity": "0"}, "quantity", "above zero"),
        ({"quantity": "-1"}, "quantity", "above zero"),
        ({"order_type": "LIMIT"}, "limit_price", "a LIMIT order needs it"),
        ({"order_type": "STOP_LIMIT", "limit_price": 1}, "stop_price", "STOP_LIMIT"),
        ({"order_type": "TRAILING_STOP"}, "trailing_distance", "needs"),
        ({"limit_price": "1.2"}, "limit_price", "a MARKET order has none"),
        ({"time_in_force": "GTD"}, "good_till", "GTD"),
        ({"good_till": "2025-01-15T10:30:00Z"}, "good_till", "GTD"),
        ({"good_till": "tomorrow"}, "good_till", "RFC 3339"),
        ({"extra": {"a": "\ud800"}}, "extra.a", "UTF-8"),
        ({"account": "\ud800"}, "account", "printable"),
        ({"\ud800": 1}, "'\\ud800'", "no such member"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change: dict[str, Any], field: str, says: str) -> None:
    error = wrong({**ORDER, **change})
    assert error.field == field
    assert says in error.message


def test_an_amendment_changes_something_and_a_history_has_a_beginning_before_its_end() -> None:
    assert "changes nothing" in wrong({"command": "amend_order", "id": "c", "order_id": "o", "symbol": "S"}).message
    assert isinstance(decode('{"command":"amend_order","id":"c","order_id":"o","stop_loss":0}'), AmendOrder)
    times = {"since": "2025-01-02T00:00:00Z", "until": "2025-01-01T00:00:00Z"}
    assert wrong({"command": "trade_history", "id": "c", **times}).field == "since"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"command":"call"}\x00',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_object_of_json_is_refused(body: bytes) -> None:
    assert wrong(body).field == "body"


def test_a_member_that_occurs_twice_is_refused() -> None:
    body = json.dumps(ORDER)[:-1] + ', "side": "SELL"}'
    assert (wrong(body).field, wrong(body).message) == ("side", "occurs twice")
    assert wrong('{"command":"call","id":"c","function":"f","arguments":{"a":{"b":1,"b":2}}}').field == "b"


def test_a_providers_own_members_pass_with_their_digits() -> None:
    command = decode(
        '{"command":"call","id":"c","function":"f","arguments":{"a":[1.10,1e2,null,true,123456789012345678901],"b":{"c":"é"}}}'
    )
    assert isinstance(command, Call)
    assert b'"arguments":{"a":[1.10,100,null,true,123456789012345678901],"b":{"c":"\xc3\xa9"}}' in encode(command)


def test_a_providers_own_members_are_bounded() -> None:
    def nested(levels: int) -> Any:
        return {} if levels == 0 else {"a": nested(levels - 1)}

    free_object("x", nested(MAX_DEPTH))
    with pytest.raises(CommandError, match="more than 16 levels"):
        free_object("x", nested(MAX_DEPTH + 1))
    with pytest.raises(CommandError, match="1000 values"):
        free_object("x", {"a": list(range(1000))})


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(json.dumps))  # fmt: skip
def test_anything_at_all_is_a_command_or_a_named_error(text: str) -> None:
    said = ""
    try:
        decode(text)
    except CommandError as error:
        said = f"{error.field}{error}"
    else:
        assert json.loads(text)["command"] in COMMANDS
    said.encode()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.sampled_from(["BUY", "LIMIT", "1.5", "GTD"])
            for name in (
                "id",
                "account",
                "symbol",
                "side",
                "order_type",
                "quantity",
                "limit_price",
                "good_till",
                "extra",
                "post_only",
            )
        },
    )
)
def test_an_order_that_is_taken_says_what_was_written(change: dict[str, Any]) -> None:
    wire = {**ORDER, **change}
    try:
        command = decode(json.dumps(wire))
    except CommandError:
        return
    assert isinstance(command, PlaceOrder)
    assert decode(encode(command)) == command
    assert Decimal(command.quantity) == Decimal(str(wire["quantity"]))
    assert (command.side, command.symbol) == (wire["side"], wire["symbol"])


def test_read_tells_numbers_from_text() -> None:
    assert read('{"a": 1.50}')["a"] == "1.50"
    assert wrong({**ORDER, "symbol": 1.5}).message == "must be text, not a number"


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"quantity": None}, "quantity", "is missing; place_order needs it, or a notional in its place"),
        ({"notional": "100"}, "notional", "an order with a quantity has none"),
        ({"quantity": None, "notional": "0"}, "notional", "above zero"),
        ({"trailing_type": "PERCENT"}, "trailing_type", "goes with a trailing_distance"),
        ({"position_intent": "buy_to_open"}, "position_intent", "must be one of OPEN, CLOSE"),
    ],
)
def test_members_that_few_brokers_have_are_checked_too(changes: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(CommandError, match=says) as refused:
        structure({name: value for name, value in {**ORDER, **changes}.items() if value is not None})
    assert refused.value.field == field


def test_an_order_for_an_amount_of_money_has_no_quantity() -> None:
    wire = {**ORDER, "notional": "100.50", "time_in_force": "OPG", "extended_hours": True}
    del wire["quantity"]
    command = structure(wire)
    assert (command.quantity, command.notional, command.time_in_force) == (None, "100.50", "OPG")
    assert decode(encode(command)) == command
