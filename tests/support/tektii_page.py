"""The examples of https://docs.tektii.com/docs/trading-api/event-types, verbatim, and what the gateway says beside them."""

#: (direction, text) in the order of the page.
PAGE: tuple[tuple[str, str], ...] = (
    (
        "in",
        """\
{
  "type": "candle",
  "bar": {
    "symbol": "AAPL",
    "provider": "alpaca",
    "timeframe": "1h",
    "timestamp": "2025-01-15T10:00:00Z",
    "open": "150.00",
    "high": "151.50",
    "low": "149.75",
    "close": "151.25",
    "volume": "1500000"
  },
  "timestamp": "2025-01-15T11:00:00Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "quote",
  "quote": {
    "symbol": "EUR/USD",
    "provider": "alpaca",
    "bid": "1.0845",
    "bid_size": "100000",
    "ask": "1.0847",
    "ask_size": "100000",
    "last": "1.0846",
    "timestamp": "2025-01-15T10:30:00.123Z"
  },
  "timestamp": "2025-01-15T10:30:00.125Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "order",
  "event": "ORDER_FILLED",
  "order": {
    "id": "ord_abc123",
    "symbol": "AAPL",
    "side": "BUY",
    "order_type": "LIMIT",
    "quantity": "100",
    "filled_quantity": "100",
    "remaining_quantity": "0",
    "average_fill_price": "150.25",
    "status": "FILLED",
    "time_in_force": "GTC",
    "limit_price": "150.50",
    "created_at": "2025-01-15T10:30:00Z",
    "updated_at": "2025-01-15T10:30:05Z"
  },
  "timestamp": "2025-01-15T10:30:05Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "position",
  "event": "POSITION_OPENED",
  "position": {
    "id": "pos_xyz789",
    "symbol": "BTC/USD",
    "side": "LONG",
    "quantity": "0.5",
    "average_entry_price": "42000.00",
    "current_price": "42100.00",
    "unrealized_pnl": "50.00",
    "realized_pnl": "0.00",
    "opened_at": "2025-01-15T10:30:00Z",
    "updated_at": "2025-01-15T10:30:00Z"
  },
  "timestamp": "2025-01-15T10:30:00Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "account",
  "event": "BALANCE_UPDATED",
  "account": {
    "balance": "10000.00",
    "equity": "10250.00",
    "margin_used": "1500.00",
    "margin_available": "8500.00",
    "unrealized_pnl": "250.00",
    "currency": "USD"
  },
  "timestamp": "2025-01-15T10:30:05Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "trade",
  "event": "TRADE_FILLED",
  "trade": {
    "id": "trd_123456",
    "order_id": "ord_abc123",
    "symbol": "AAPL",
    "side": "BUY",
    "quantity": "60",
    "price": "150.00",
    "commission": "0.50",
    "commission_currency": "USD",
    "is_maker": false,
    "timestamp": "2025-01-15T10:30:05Z"
  },
  "timestamp": "2025-01-15T10:30:05Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "connection",
  "event": "CONNECTED",
  "timestamp": "2025-01-15T10:30:00Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "rate_limit",
  "event": "RATE_LIMIT_WARNING",
  "requests_remaining": 10,
  "reset_at": "2025-01-15T10:31:00Z",
  "timestamp": "2025-01-15T10:30:50Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "error",
  "code": "INVALID_MESSAGE",
  "message": "Failed to parse order request: missing required field 'symbol'",
  "details": {
    "field": "symbol"
  },
  "timestamp": "2025-01-15T10:30:00Z"
}""",
    ),
    (
        "in",
        """\
{
  "type": "ping",
  "timestamp": "2025-01-15T10:30:00Z"
}""",
    ),
    (
        "out",
        """\
{
  "type": "pong"
}""",
    ),
    (
        "out",
        """\
{
  "type": "event_ack",
  "correlation_id": "550e8400-e29b-41d4-a716-446655440000",
  "events_processed": ["evt_123", "evt_124"],
  "timestamp": 1700000000000
}""",
    ),
)

#: What the published gateway sends beside the page's messages.
BESIDE: tuple[str, ...] = (
    '{"type":"data_staleness","event":"STALE","symbols":["AAPL"],"stale_since":"2025-01-15T10:29:30Z","broker":"alpaca-paper",'
    '"timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"data_staleness","event":"FRESH","symbols":["AAPL"],"stale_since":"2025-01-15T10:29:30Z","broker":"alpaca-paper",'
    '"timestamp":"2025-01-15T10:30:10Z"}',
    '{"type":"financing","symbol":"EUR_USD","amount":"-1.23","timestamp":"2025-01-15T22:00:00Z"}',
    '{"type":"connection","event":"DISCONNECTING","error":"shutdown requested","timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"connection","event":"RECONNECTING","timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"connection","event":"BROKER_DISCONNECTED","broker":"alpaca-paper","timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"connection","event":"BROKER_RECONNECTED","broker":"alpaca-paper","gap_duration_ms":1234,'
    '"timestamp":"2025-01-15T10:30:01.234Z"}',
    '{"type":"connection","event":"BROKER_CONNECTION_FAILED","broker":"alpaca-paper","error":"no route",'
    '"timestamp":"2025-01-15T10:31:00Z"}',
    '{"type":"rate_limit","event":"RATE_LIMIT_HIT","requests_remaining":0,"reset_at":"2025-01-15T10:31:00Z",'
    '"timestamp":"2025-01-15T10:30:55Z"}',
    '{"type":"error","code":"INTERNAL_ERROR","message":"unexpected","timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"error","code":"POSITION_UNPROTECTED","message":"stop loss could not be placed","details":{"position_id":"pos_1"},'
    '"timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"error","code":"LIQUIDATION","message":"position was liquidated","details":{"position_id":"pos_1"},'
    '"timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"error","code":"OCO_DOUBLE_EXIT","message":"both exits were filled","timestamp":"2025-01-15T10:30:00Z"}',
    '{"type":"account","event":"MARGIN_WARNING","account":{"balance":"1000.00","equity":"900.00","margin_used":"800.00",'
    '"margin_available":"100.00","unrealized_pnl":"-100.00","currency":"USD"},"timestamp":"2025-01-15T10:30:05Z"}',
    '{"type":"account","event":"MARGIN_CALL","account":{"balance":"1000.00","equity":"700.00","margin_used":"800.00",'
    '"margin_available":"-100.00","unrealized_pnl":"-300.00","currency":"USD"},"timestamp":"2025-01-15T10:30:06Z"}',
    '{"type":"order","event":"ORDER_EXPIRED","order":{"id":"ord_9","client_order_id":"mine-9","symbol":"F:EURUSD","side":"SELL",'
    '"order_type":"TRAILING_STOP","quantity":"1000","filled_quantity":"0","remaining_quantity":"1000","status":"EXPIRED",'
    '"time_in_force":"DAY","stop_price":"1.0800","stop_loss":"1.0900","take_profit":"1.0700","trailing_distance":"0.5",'
    '"trailing_type":"PERCENT","reject_reason":"MARKET_CLOSED","position_id":"pos_1","reduce_only":true,"post_only":false,'
    '"hidden":false,"display_quantity":"100","oco_group_id":"oco_1","correlation_id":"c-1","created_at":"2025-01-15T10:30:00Z",'
    '"updated_at":"2025-01-15T21:00:00Z"},"parent_order_id":"ord_8","timestamp":"2025-01-15T21:00:00Z","event_id":"evt_9"}',
    '{"type":"backtest_complete","broker":"tektii","timestamp":"2025-01-15T21:00:00Z","event_id":"evt_10"}',
)
