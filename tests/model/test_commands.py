import pytest

from relay.model.commands import PlaceOrder


def order(**extra: object) -> PlaceOrder:
    return PlaceOrder(id="1", symbol="A", side="BUY", order_type="MARKET", quantity="1", extra=extra)  # type: ignore[arg-type]


def test_a_providers_own_members_are_added() -> None:
    assert order(ocoId="x").with_extra({"symbol": "A"}) == {"symbol": "A", "ocoId": "x"}


@pytest.mark.parametrize(
    "name", ["account", "accountId", "account_id", "ACCOUNTID", "symbol", "Symbol", "limit_price", "login"]
)
def test_what_is_the_orders_own_cannot_be_said_twice(name: str) -> None:
    with pytest.raises(ValueError, match=f"extra.{name}: is a member of the order's own"):
        order(**{name: 1}).with_extra({"symbol": "A", "limitPrice": None}, "login")
