from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.text import from_micros, from_millis, from_nanos, from_seconds, optional_time, rfc3339, to_ns

seconds = st.integers(0, 253_402_300_799)


@given(seconds, st.text("0123456789", max_size=9))
def test_text_keeps_the_sources_precision(second: int, fraction: str) -> None:
    text = (
        datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").zfill(19)
        + (f".{fraction}" if fraction else "")
        + "Z"
    )
    assert rfc3339(text) == text
    assert to_ns(text) == second * 10**9 + int(fraction.ljust(9, "0") or 0)


@given(
    st.integers(86_400, 253_402_000_000), st.integers(-14 * 60, 14 * 60), st.text("0123456789", min_size=1, max_size=9)
)
def test_an_offset_is_taken_out_and_the_fraction_kept(second: int, minutes: int, fraction: str) -> None:
    local = datetime.fromtimestamp(second, timezone(timedelta(minutes=minutes)))
    whole, offset = local.isoformat()[:19], local.strftime("%z")
    text = f"{whole}.{fraction}{offset[:3]}:{offset[3:]}"
    assert rfc3339(text).endswith(f".{fraction}Z")
    assert to_ns(rfc3339(text)) // 10**9 == second


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_numbers_and_text_say_the_same(ns: int) -> None:
    assert to_ns(from_nanos(ns)) == ns
    assert to_ns(from_micros(ns // 1000)) == ns // 1000 * 1000
    assert to_ns(from_millis(str(ns // 10**6))) == ns // 10**6 * 10**6
    assert to_ns(from_seconds(ns // 10**9)) == ns // 10**9 * 10**9


def test_a_number_has_the_digits_of_its_unit() -> None:
    assert from_seconds(1775481000) == "2026-04-06T13:10:00Z"
    assert from_seconds("1618678163.3092") == "2021-04-17T16:49:23.3092Z"
    assert from_millis(1633998305314) == "2021-10-12T00:25:05.314Z"
    assert from_micros("1641343721496724") == "2022-01-05T00:48:41.496724Z"
    assert rfc3339("2025-01-15 10:30:00.5Z") == "2025-01-15T10:30:00.5Z"


@pytest.mark.parametrize(
    "text",
    ["", "2025-01-15", "2025-01-15T10:30:00", "2025-13-15T10:30:00Z", "2025-02-30T10:30:00Z", "2025-01-15T24:30:00Z", "2025-01-15T10:30:60Z",
     "2025-01-15T10:30:00.Z", "2025-01-15T10:30:00.1234567890Z", "now", "٢٠٢٥-01-15T10:30:00Z", "0001-01-01T00:00:00+14:00"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time|month|day|hour|second"):
        rfc3339(text)


@pytest.mark.parametrize("value", [-1, 253_402_300_800, True, None, 1.5, "1e3", "-5", "٣", "1" * 30])
def test_what_is_no_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="seconds|range"):
        from_seconds(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="integer|range"):
        from_millis(value * 1000 if type(value) is int else value)  # type: ignore[arg-type]


def test_a_time_that_is_not_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a time is text"):
        rfc3339(1700000000)  # type: ignore[arg-type]
    assert optional_time(None) is None
