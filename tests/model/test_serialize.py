import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import serialize
from relay.model.enums import OrderEvent, OrderStatus, Outcome, Side
from relay.model.events import KINDS, Account, Depth, Event, Order, Quote, Reply, Stamp, Trade

STAMP = Stamp(provider="acme", received_at="2025-01-15T10:30:00.140211Z")

decimals = st.decimals(min_value=0, max_value=10**12, places=8).map(lambda d: format(d, "f"))
times = st.datetimes(min_value=__import__("datetime").datetime(1971, 1, 1)).map(lambda t: t.isoformat() + "Z")


@given(
    bid=decimals | st.none(),
    ask=decimals | st.none(),
    last=decimals | st.none(),
    time=times | st.none(),
    stamp=times | st.none(),
)
def test_a_quote_survives_and_absent_stays_absent(**fields: Any) -> None:
    quote = Quote(
        symbol="A/B",
        bid=fields["bid"],
        ask=fields["ask"],
        last=fields["last"],
        time=fields["time"],
        timestamp=fields["stamp"] or fields["time"],
    )
    data = serialize.encode(quote, STAMP, "1-1", 7)
    assert serialize.decode(data) == serialize.Published(event=quote, stamp=STAMP, id="1-1", seq=7)
    assert "null" not in data.decode()


@given(st.lists(st.tuples(decimals, decimals), max_size=5), st.booleans())
def test_depth_survives_with_the_providers_digits(levels: list[tuple[str, str]], snapshot: bool) -> None:
    depth = Depth(symbol="A", bids=[[*level, "extra"] for level in levels], asks=levels, snapshot=snapshot)
    wire = json.loads(serialize.encode(depth, STAMP, "1"))
    assert wire["depth"]["bids"] == [list(level) for level in levels]
    assert serialize.decode(json.dumps(wire)).event == depth


def test_the_sequence_number_comes_last_so_that_a_hub_can_append_it() -> None:
    quote = Quote(symbol="A", bid="1")
    assert serialize.encode(quote, STAMP, "x")[:-1] + b',"seq":5}' == serialize.encode(quote, STAMP, "x", 5)


def test_the_providers_account_wins_over_the_sessions() -> None:
    stamp = attrs.evolve(STAMP, account="session")
    trade = Trade(id="1", order_id="2", symbol="A", side=Side.BUY, quantity="1", price="2", account="named")
    assert json.loads(serialize.encode(trade, stamp, "x"))["account"] == "named"
    assert json.loads(serialize.encode(attrs.evolve(trade, account=None), stamp, "x"))["account"] == "session"
    assert (
        json.loads(serialize.encode(Account(event="BALANCE_UPDATED", balance="1"), stamp, "x"))["account"]["id"]
        == "session"
    )  # type: ignore[arg-type]
    assert json.loads(serialize.encode(Quote(symbol="A", bid="1"), STAMP, "x")).keys() >= {"provider"}


@pytest.mark.parametrize("field", ["bid", "ask", "last", "volume"])
@pytest.mark.parametrize("value", [1.5, "NaN", "", True, [], "1e400"])
def test_no_quote_is_made_of_a_float_or_of_what_is_no_number(field: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Quote(symbol="A", **{field: value})


def test_states_are_strict() -> None:
    with pytest.raises(ValueError, match="'MAYBE' is not a valid OrderStatus"):
        Order(event=OrderEvent.ORDER_CREATED, id="1", symbol="A", side=Side.BUY, status="MAYBE")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'fine' is not a valid Outcome"):
        Reply(id="1", ok=True, outcome="fine")  # type: ignore[arg-type]
    assert (
        Order(event=OrderEvent.ORDER_CREATED, id="1", symbol="A", side=Side.BUY, status=OrderStatus.OPEN).order_type
        is None
    )
    assert Reply(id="1", ok=False, outcome=Outcome.UNKNOWN).error is None


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.kind)
def test_events_are_frozen_slotted_and_keyword_only(cls: type[Event]) -> None:
    assert all(attribute.kw_only for attribute in attrs.fields(cls))
    assert "__dict__" not in dir(object.__new__(cls))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        object.__new__(cls).timestamp = "2025-01-15T10:30:00Z"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an event is a JSON object"),
        ('{"type": "tick"}', "unknown event type 'tick'"),
        ('{"type": ["quote"]}', "unknown event type"),
        ('{"type": "quote"}', "quote: 'quote' is missing"),
        ('{"type": "quote", "quote": 5, "provider": "a", "id": "1", "received_at": "x"}', "quote is not an object"),
        ('{"type": "quote", "quote": {"symbol": "A"}, "id": "1", "received_at": "x"}', "quote: 'provider' is missing"),
        (
            '{"type": "quote", "quote": {"bid": "1"}, "provider": "a", "id": "1", "received_at": "x"}',
            "quote: 'symbol' is missing",
        ),
        (
            '{"type": "quote", "quote": {"symbol": "A", "bid": "x"}, "provider": "a", "id": "1", "received_at": "x"}',
            "not a decimal number",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_event_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(serialize.CodecError, match=message):
        serialize.decode(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
    ["type", "quote", "order", "account", "id", "provider", "symbol", "bid", "received_at", "event"]) , inner | st.sampled_from(sorted(KINDS))), max_leaves=12))  # fmt: skip
def test_any_json_is_an_event_or_a_codec_error(value: Any) -> None:
    try:
        published = serialize.structure(value)
    except serialize.CodecError:
        return
    assert published.event.kind == value["type"]
