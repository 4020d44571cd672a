"""What a connection's state machine asks its owner to do, in this order, each to the end before the next."""

from attrs import frozen

__all__ = ["Action", "ClientEvent", "Close", "Member", "Ping", "Position", "Send", "SignIn", "Subscribe", "Unsubscribe"]


@frozen
class Member:
    """A user on a presence channel (or on a private channel whose authorization carried channel_data)."""

    user_id: str
    user_info: str | None = None
    """JSON text exactly as the app's server signed it, None where it gave none."""


@frozen
class Position:
    """A place in a channel's history: everything up to and including `seq` of `epoch` has been seen."""

    epoch: str
    seq: int


@frozen
class Send:
    """Send this text message to the peer."""

    text: str


@frozen
class Ping:
    """Send a WebSocket ping (RFC 6455), which every client answers, whatever it knows of the protocol's own pings."""


@frozen(kw_only=True)
class Subscribe:
    """Add the connection to the channel: the name, the signature and the limits of the connection are checked.

    The hub answers with `subscription_succeeded`, what resume or rewind asks for, the cached event or `cache_miss`; or,
    where it refuses (presence channel full), with `subscription_error` and a call of `forget`.
    """

    channel: str
    member: Member | None = None
    """On presence channels always; on private ones where the authorization carried a user_id."""
    resume: Position | None = None
    """The client has seen everything up to here and wants the rest."""
    rewind: int | None = None
    """The client wants the last so many events."""
    ids: bool = False
    """The client wants `id` and `seq` beside events whose data has none."""


@frozen
class Unsubscribe:
    """Remove the connection from the channel."""

    channel: str


@frozen
class ClientEvent:
    """Deliver to every subscriber of the channel but the sender; never cached."""

    channel: str
    event: str
    data: str
    user_id: str | None = None
    """Of the sending member, on presence channels only."""


@frozen
class SignIn:
    """The connection now belongs to this user: it hears the user's server-to-user channel and watchlist.

    `signin_success` was sent; the hub sends the watchlist events.
    """

    user_id: str
    user_info: str | None = None
    """JSON text or None."""
    watchlist: tuple[str, ...] = ()


@frozen
class Close:
    """Close the WebSocket with this code; the connection accepts nothing more."""

    code: int
    reason: str = ""


Action = Send | Ping | Subscribe | Unsubscribe | ClientEvent | SignIn | Close
