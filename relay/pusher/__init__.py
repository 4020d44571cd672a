"""The Pusher Channels protocol 7, without a socket or a clock: both halves of a connection, signatures, the HTTP API.

- `App`, `Limits`: one application and what it may do. `ServerConnection`, `admit`: the relay's half of a connection.
- `ClientConnection`, `reconnect_action`: a client's half. `messages`: every message of the protocol, both ways.
- `signatures`: what is signed and how it is verified. `api`: requests and answers of the HTTP API. `names`: names.

The source of the protocol's facts is its reference: https://pusher.com/docs/channels/library_auth_reference/
"""

from . import api, messages, names, signals, signatures
from .actions import Action, ClientEvent, Close, Member, Ping, Position, Send, SignIn, Subscribe, Unsubscribe
from .api import ApiError
from .apps import App, Limits
from .client import ClientConnection, Reconnect, reconnect_action
from .connection import PROTOCOLS, ServerConnection, admit
from .errors import CloseCode, ProtocolError
from .names import ChannelType, channel_type, check_channel_name
from .signals import ClientSignal

__all__ = [
    "PROTOCOLS",
    "Action",
    "ApiError",
    "App",
    "ChannelType",
    "ClientConnection",
    "ClientEvent",
    "ClientSignal",
    "Close",
    "CloseCode",
    "Limits",
    "Member",
    "Ping",
    "Position",
    "ProtocolError",
    "Reconnect",
    "Send",
    "ServerConnection",
    "SignIn",
    "Subscribe",
    "Unsubscribe",
    "admit",
    "api",
    "channel_type",
    "check_channel_name",
    "messages",
    "names",
    "reconnect_action",
    "signals",
    "signatures",
]
