"""WebSocket frames and compression (RFC 6455, RFC 7692), sans-IO."""
