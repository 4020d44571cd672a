from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapter import loads
from relay.model.text import decimal_text, optional_decimal

plain = st.decimals(min_value=Decimal("1e-18"), max_value=Decimal("1e18"), places=18).map(lambda d: format(d, "f"))


@given(plain, st.booleans(), st.integers(0, 20))
def test_plain_text_comes_out_as_it_went_in(text: str, negative: bool, zeros: int) -> None:
    text = ("-" if negative else "") + text + "0" * zeros
    assert decimal_text(text) == text


@given(st.integers(-(10**30), 10**30), st.integers(-18, 18), st.sampled_from("eE"))
def test_exponents_are_written_plainly_with_the_same_value_and_digits(digits: int, exponent: int, letter: str) -> None:
    text = f"{digits}{letter}{exponent}"
    written = decimal_text(text)
    assert "e" not in written.lower()
    assert Decimal(written) == Decimal(text)
    assert written == format(Decimal(text), "f")


@given(plain)
def test_a_json_number_keeps_its_digits_through_the_providers_decoder(text: str) -> None:
    assert decimal_text(loads(f'{{"p": {text}}}')["p"]) == text


@pytest.mark.parametrize(
    ("given_", "written"),
    [
        (".5", "0.5"),
        ("+1.50", "1.50"),
        ("5.", "5"),
        (7, "7"),
        (-3, "-3"),
        ("1e-7", "0.0000001"),
        ("-0.00", "-0.00"),
        (10**50, str(10**50)),
    ],
)
def test_other_spellings(given_: object, written: str) -> None:
    assert decimal_text(given_) == written


@pytest.mark.parametrize("value", [1.5, True, None, b"1", [], {"a": 1}])
def test_what_is_neither_text_nor_int_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="text or int"):
        decimal_text(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 ",
        " 1",
        "1_000",
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "0x10",
        "1,5",
        "1e400",
        "1e-400",
        "٣",
        "1" * 200,
        "1e99999999999",
    ],
)
def test_what_is_no_finite_decimal_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        decimal_text(text)


@given(st.text())
def test_any_text_is_either_a_decimal_or_a_value_error(text: str) -> None:
    try:
        written = decimal_text(text)
    except ValueError:
        return
    assert Decimal(written) == Decimal(text)


def test_absent_stays_absent() -> None:
    assert optional_decimal(None) is None
    assert optional_decimal("1.0") == "1.0"
