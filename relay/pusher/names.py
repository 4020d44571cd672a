"""Names of channels, events, sockets and users: their grammar and their meaning.

A channel's prefix is its type (Pusher Channels protocol): `private-`, `private-encrypted-` and `presence-` need an
authorized subscription; `cache-`, alone or after any of these, keeps the last event for new subscribers. `#` is reserved.
`#server-to-user-<id>` has the events for one user; only a connection signed in as that user may subscribe to it.
"""

import re
from enum import Enum
from functools import lru_cache

from .messages import ProtocolError

__all__ = [
    "SERVER_TO_USER",
    "ChannelType",
    "channel_type",
    "check_channel_name",
    "check_event_name",
    "check_socket_id",
    "check_user_id",
    "is_client_event",
    "is_reserved_event",
    "is_socket_id",
    "server_to_user_channel",
    "server_to_user_id",
]

SERVER_TO_USER = "#server-to-user-"
CLIENT_EVENT = "client-"
RESERVED_EVENTS = ("pusher:", "pusher_internal:", "tickrelay:")

_NAME = re.compile(r"[A-Za-z0-9_\-=@,.;]+")
_SOCKET_ID = re.compile(r"[0-9]+\.[0-9]+")


class ChannelType(Enum):
    """The type of a channel by its prefix: (access, encrypted, cache)."""

    PUBLIC = ("public", False, False)
    PRIVATE = ("private", False, False)
    PRESENCE = ("presence", False, False)
    ENCRYPTED = ("private", True, False)
    CACHE = ("public", False, True)
    PRIVATE_CACHE = ("private", False, True)
    PRESENCE_CACHE = ("presence", False, True)
    ENCRYPTED_CACHE = ("private", True, True)
    SERVER_TO_USER = ("user", False, False)

    def __init__(self, access: str, encrypted: bool, cache: bool) -> None:
        self.access = access
        self.encrypted = encrypted
        """The payload is encrypted end to end; the relay never decrypts it."""
        self.cache = cache
        """The last event is kept and sent to new subscribers."""
        self.private = access == "private"
        self.presence = access == "presence"
        self.authorized = access in ("private", "presence")
        """A subscription needs a signature."""


_PREFIXES = (
    ("private-encrypted-cache-", ChannelType.ENCRYPTED_CACHE),
    ("private-encrypted-", ChannelType.ENCRYPTED),
    ("private-cache-", ChannelType.PRIVATE_CACHE),
    ("presence-cache-", ChannelType.PRESENCE_CACHE),
    ("private-", ChannelType.PRIVATE),
    ("presence-", ChannelType.PRESENCE),
    ("cache-", ChannelType.CACHE),
    (SERVER_TO_USER, ChannelType.SERVER_TO_USER),
)


#: Longest name, in characters, whose type is cached, since a client may send names of any length.
_REMEMBERED = 200


def channel_type(name: str) -> ChannelType:
    """Return the type of a channel from its name's prefix, without checking the name."""
    return _remembered_type(name) if len(name) <= _REMEMBERED else _type_of(name)


def _type_of(name: str) -> ChannelType:
    for prefix, kind in _PREFIXES:
        if name.startswith(prefix):
            return kind
    return ChannelType.PUBLIC


_remembered_type = lru_cache(maxsize=4096)(_type_of)


def check_channel_name(name: str, limit: int = 164) -> ChannelType:
    """Return the type of a valid channel name. Raises ProtocolError naming the limit or the character set.

    `#server-to-user-<id>` is valid if the id could be part of a channel name.
    """
    if not name:
        raise ProtocolError("channel name is empty")
    if len(name) > limit:
        raise ProtocolError(f"channel name is longer than {limit} characters (limit channel_name)")
    if not (_is_remembered_name(name) if len(name) <= _REMEMBERED else _is_name(name)):
        hint = f"; a symbol's / is written -: {name.replace('/', '-')}" if "/" in name else ""
        raise ProtocolError(f"channel name {name!r} may only contain A-Z a-z 0-9 _ - = @ , . ;{hint}")
    return channel_type(name)


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name.removeprefix(SERVER_TO_USER)) is not None


_is_remembered_name = lru_cache(maxsize=4096)(_is_name)


def check_event_name(name: str, limit: int = 200, *, server: bool = True) -> None:
    """Raise ProtocolError unless the name has 1 to `limit` characters and, for a `server`'s event, is not reserved."""
    if not name:
        raise ProtocolError("event name is empty")
    if len(name) > limit:
        raise ProtocolError(f"event name is longer than {limit} characters (limit event_name)")
    if server and is_reserved_event(name):
        raise ProtocolError(f"event name {name!r} is reserved: it may not start with {', '.join(RESERVED_EVENTS)}")


def is_client_event(name: str) -> bool:
    """Return True if the name has the `client-` prefix of events that clients send to each other."""
    return name.startswith(CLIENT_EVENT)


def is_reserved_event(name: str) -> bool:
    """Return True if only the relay itself may send an event with this name."""
    return name.startswith(RESERVED_EVENTS)


def is_socket_id(text: str) -> bool:
    """Return True if the text is a socket id: digits, a dot, digits, as every official server library requires."""
    return _SOCKET_ID.fullmatch(text) is not None


def check_socket_id(text: str) -> None:
    """Raise ProtocolError unless the text is a socket id."""
    if not is_socket_id(text):
        raise ProtocolError("socket_id must be two numbers with a dot between, like 123.456")


def check_user_id(user_id: str, limit: int = 128) -> None:
    """Raise ProtocolError unless the user id has 1 to `limit` characters."""
    if not user_id:
        raise ProtocolError("user id is empty")
    if len(user_id) > limit:
        raise ProtocolError(f"user id is longer than {limit} characters (limit user_id)")


def server_to_user_channel(user_id: str) -> str:
    """Return the channel on which a server addresses one signed-in user."""
    return SERVER_TO_USER + user_id


def server_to_user_id(channel: str) -> str | None:
    """Return the user id in a `#server-to-user-` channel; None for any other channel."""
    return channel.removeprefix(SERVER_TO_USER) if channel.startswith(SERVER_TO_USER) else None
