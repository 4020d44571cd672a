"""The Pusher Channels protocol 7, without a socket or a clock: both halves of a connection, signatures, the HTTP API.

- `App`, `Limits`: a tenant and its limits. `ServerConnection`, `admit`: the relay's half of a connection.
- `ClientConnection`, `reconnect_action`: a client's half. `messages`: the protocol's vocabulary and every message's text.
- `signatures`: what is signed and how it is verified. `http_api`: requests and answers of the HTTP API. `names`: names.

The source of the protocol's facts is its reference: https://pusher.com/docs/channels/library_auth_reference/
"""

from . import http_api, messages, names, signatures
from .apps import App, Limits
from .client import ClientConnection, ClientSignal, Reconnect, reconnect_action
from .connection import PROTOCOLS, ServerConnection, admit
from .http_api import ApiError
from .messages import (
    Action,
    ClientEvent,
    CloseConnection,
    JoinChannel,
    LeaveChannel,
    PingPeer,
    PresenceMember,
    ProtocolError,
    PusherCloseCode,
    ResumePosition,
    SendMessage,
    SignIn,
)
from .names import ChannelType, channel_type, check_channel_name

__all__ = [
    "PROTOCOLS",
    "Action",
    "ApiError",
    "App",
    "ChannelType",
    "ClientConnection",
    "ClientEvent",
    "ClientSignal",
    "CloseConnection",
    "JoinChannel",
    "LeaveChannel",
    "Limits",
    "PingPeer",
    "PresenceMember",
    "ProtocolError",
    "PusherCloseCode",
    "Reconnect",
    "ResumePosition",
    "SendMessage",
    "ServerConnection",
    "SignIn",
    "admit",
    "channel_type",
    "check_channel_name",
    "http_api",
    "messages",
    "names",
    "reconnect_action",
    "signatures",
]
