"""Close codes and the errors of the Pusher Channels protocol."""

from enum import IntEnum

__all__ = ["CloseCode", "ProtocolError"]


class CloseCode(IntEnum):
    """Why a connection is closed, or, from 4300 on, why a message was refused (Pusher Channels protocol, error codes).

    The hundreds tell a client what to do next: 40xx do not reconnect unchanged, 41xx reconnect after a second or more,
    42xx reconnect at once, 43xx nothing: the connection stays open.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "CloseCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    TLS_REQUIRED = 4000, "Application only accepts SSL connections, reconnect using wss://"
    APP_UNKNOWN = 4001, "Application does not exist"
    APP_DISABLED = 4003, "Application disabled"
    OVER_QUOTA = 4004, "Application is over connection quota"
    PATH_NOT_FOUND = 4005, "Path not found"
    INVALID_VERSION = 4006, "Invalid version string format"
    UNSUPPORTED_PROTOCOL = 4007, "Unsupported protocol version"
    NO_PROTOCOL = 4008, "No protocol version supplied"
    UNAUTHORIZED = 4009, "Connection is unauthorized"
    OVER_CAPACITY = 4100, "Over capacity"
    RECONNECT = 4200, "Generic reconnect immediately"
    PONG_NOT_RECEIVED = 4201, "Pong reply not received"
    INACTIVE = 4202, "Closed after inactivity"
    RATE_LIMITED = 4301, "Client event rejected due to rate limit"
    WATCHLIST_LIMIT = 4302, "Watchlist limit exceeded"


class ProtocolError(Exception):
    """Something a peer sent is not allowed; the text says what and names the limit or field.

    `code` is a documented code or None (the protocol has none for most refusals); `status` is the HTTP status that a
    `pusher:subscription_error` or an HTTP answer gives for the same cause.
    """

    def __init__(self, message: str, *, code: CloseCode | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
