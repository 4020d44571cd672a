"""One failure has one code, whatever the provider calls it."""

from pathlib import Path

import pytest

from relay.adapter.reading import error_code
from relay.model.commands import AmendPosition, CancelOrder, ClosePosition, GetQuote, PlaceOrder
from relay.model.enums import ErrorCode
from relay_crosstrade.adapter import CrossTrade
from relay_helio.adapter import Helio
from relay_scaletrade.adapter import ScaleTrade
from relay_tektii.adapter import Tektii

PLACE = PlaceOrder(id="c", symbol="S", side="BUY", order_type="MARKET", quantity="1")
CANCEL = CancelOrder(id="c", order_id="o")
CLOSE = ClosePosition(id="c", position_id="p")


@pytest.mark.parametrize(
    ("adapter", "command", "error", "code"),
    [
        (Helio, PLACE, {"code": "REJECTED", "message": "insufficient margin"}, "insufficient_margin"),
        (ScaleTrade, PLACE, {"code": "RET_ERROR", "message": "not enough money"}, "insufficient_margin"),
        (CrossTrade, PLACE, {"code": "order_rejected", "message": "Insufficient margin"}, "insufficient_margin"),
        (Tektii, PLACE, {"code": "ORDER_REJECTED", "message": "m", "details": {"reject_code": "INSUFFICIENT_BALANCE"}},
         "insufficient_margin"),
        (Tektii, PLACE, {"code": "REJECTED", "message": "m", "reject_reason": "SYMBOL_NOT_TRADEABLE"}, "not_tradable"),
        (Tektii, PLACE, {"code": "ORDER_REJECTED", "details": {"reject_code": "MARKET_CLOSED"}}, "market_closed"),
        (Tektii, PLACE, {"code": "ORDER_REJECTED", "details": {"reject_code": "UNKNOWN"}}, "rejected"),
        (Tektii, PLACE, {"code": "VALIDATION_ERROR", "message": "quantity"}, "invalid_request"),
        (Tektii, CANCEL, {"code": "ORDER_NOT_FOUND", "message": "m", "status": 404}, "unknown_order"),
        (Tektii, CANCEL, {"code": "ORDER_NOT_MODIFIABLE", "message": "m", "status": 409}, "order_not_open"),
        (Tektii, CLOSE, {"code": "POSITION_NOT_FOUND", "status": 404}, "unknown_position"),
        (Tektii, GetQuote(id="c", symbol="S"), {"code": "SYMBOL_NOT_FOUND", "status": 404}, "unknown_symbol"),
        (Tektii, PLACE, {"code": "RATE_LIMITED", "status": 429}, "rate_limited"),
        (Tektii, PLACE, {"code": "UNSUPPORTED_OPERATION", "status": 501}, "unsupported"),
        (ScaleTrade, CANCEL, {"code": "RET_ERR_NOTFOUND", "message": "Order not found", "status": 404}, "unknown_order"),
        (ScaleTrade, CLOSE, {"code": "RET_ERR_NOTFOUND", "message": "RET_ERR_NOTFOUND", "status": 404}, "unknown_position"),
        (ScaleTrade, CANCEL, {"code": "PERMISSION_DENIED", "status": 403}, "not_permitted"),
        (ScaleTrade, PLACE, {"code": "RET_SYMBOL_NOT_FOUND", "message": "x"}, "unknown_symbol"),
        (ScaleTrade, PLACE, {"code": "RET_ERROR", "message": "RET_ERROR"}, "rejected"),
        (CrossTrade, CANCEL, {"code": "order_not_found", "message": "Order linked to 'x' not found or already terminal."},
         "unknown_order"),
        (CrossTrade, CLOSE, {"code": "refused", "message": "No positions found for instrument 'ES'"}, "unknown_position"),
        (CrossTrade, PLACE, {"code": "invalid_instrument", "message": "Instrument XX not found"}, "unknown_symbol"),
        (CrossTrade, PLACE, {"code": "invalid_account", "message": "Account Y not found"}, "unknown_account"),
        (CrossTrade, PLACE, {"code": "rate_limited", "message": "Rate limit exceeded"}, "rate_limited"),
        (CrossTrade, PLACE, {"code": "addon_not_connected", "message": "m"}, "provider_unavailable"),
        (Helio, AmendPosition(id="c", position_id="p", stop_loss="1"), {"code": 5, "message": "not found"}, "unknown_position"),
        (Helio, PLACE, {"code": 3, "message": "m"}, "invalid_request"),
        (Helio, PLACE, {"code": "REJECTED", "message": "the order is REJECTED"}, "rejected"),
    ],
)  # fmt: skip
def test_a_refusal_has_one_code_at_all_brokers(adapter, command, error, code):
    assert adapter.error_code(error, command) == code


@pytest.mark.parametrize(
    "error", [{}, {"code": None, "message": None}, {"code": ["x"], "status": "404"}, {"code": 1.5}]
)
def test_a_refusal_without_words_is_rejected(error):
    assert error_code(error, PLACE, {}) is ErrorCode.REJECTED


def test_every_code_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    listed = text.split("## Error codes")[1].split("\n## ")[0]
    assert [code for code in ErrorCode if f"| `{code}` |" not in listed] == []
