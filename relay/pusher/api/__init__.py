"""The pure half of the HTTP API: who asks, what is asked, and the exact answer (Pusher Channels HTTP API reference).

A request is authenticated by the signature in its query before its body is looked at. Everything refused raises ApiError
with the status the reference gives and a text that names the field or the limit; no error ever goes out with status 200.
"""

from .answers import (
    EMPTY,
    ChannelState,
    batch_response,
    channel_response,
    channels_response,
    history_gone,
    history_response,
    trigger_response,
    users_response,
)
from .requests import (
    ApiError,
    HistoryQuery,
    Info,
    Trigger,
    auth_key,
    authenticate,
    parse_batch,
    parse_channel_event,
    parse_channel_query,
    parse_channels_query,
    parse_history_query,
    parse_terminate,
    parse_trigger,
    parse_user_event,
    parse_users_query,
)

__all__ = [
    "EMPTY",
    "ApiError",
    "ChannelState",
    "HistoryQuery",
    "Info",
    "Trigger",
    "auth_key",
    "authenticate",
    "batch_response",
    "channel_response",
    "channels_response",
    "history_gone",
    "history_response",
    "parse_batch",
    "parse_channel_event",
    "parse_channel_query",
    "parse_channels_query",
    "parse_history_query",
    "parse_terminate",
    "parse_trigger",
    "parse_user_event",
    "parse_users_query",
    "trigger_response",
    "users_response",
]
