"""What a client connection reports of the messages it receives."""

from typing import Literal

from attrs import frozen

from .actions import Close, Member, Position, Send

__all__ = [
    "CacheMiss",
    "ClientSignal",
    "Error",
    "Established",
    "Malformed",
    "MemberAdded",
    "MemberRemoved",
    "Message",
    "Pong",
    "ResumeFailed",
    "ResumeSucceeded",
    "SignedIn",
    "Stands",
    "Subscribed",
    "SubscriptionCount",
    "SubscriptionError",
    "WatchlistEvents",
]


@frozen
class Established:
    """The connection is open."""

    socket_id: str
    activity_timeout: float
    """Seconds of silence after which this client pings: the shorter of the server's and its own."""


@frozen
class Subscribed:
    """The subscription holds."""

    channel: str
    members: tuple[Member, ...] = ()
    """Everyone on a presence channel."""
    position: Position | None = None
    """Where the channel's history stands, where `ids` were asked for."""


@frozen
class SubscriptionError:
    """The subscription was refused."""

    channel: str
    type: str
    error: str
    status: int | None


@frozen
class Message:
    """An event on a channel (or, with channel None, to the whole connection); `data` is its text, JSON or not."""

    channel: str | None
    event: str
    data: str | None
    user_id: str | None = None
    id: str | None = None
    seq: int | None = None


@frozen
class MemberAdded:
    """A user came to a presence channel."""

    channel: str
    member: Member


@frozen
class MemberRemoved:
    """A user left a presence channel."""

    channel: str
    user_id: str


@frozen
class SubscriptionCount:
    """How many connections hold the channel."""

    channel: str
    count: int


@frozen
class CacheMiss:
    """A cache channel has no last event."""

    channel: str


@frozen
class SignedIn:
    """The sign-in holds."""

    user_data: str


@frozen
class WatchlistEvents:
    """Watched users that came or went."""

    name: Literal["online", "offline"]
    user_ids: tuple[str, ...]


@frozen
class ResumeSucceeded:
    """Everything missed was given; the channel stands at `position`."""

    channel: str
    position: Position
    replayed: int


@frozen
class ResumeFailed:
    """What was missed is lost; the channel goes on from `position`."""

    channel: str
    reason: str
    position: Position | None


@frozen
class Stands:
    """The channel's history now stands at `position`; everything up to there has been given."""

    channel: str
    position: Position


@frozen
class Error:
    """The server refused something, or tells why it will close."""

    message: str
    code: int | None


@frozen
class Pong:
    """The server answered a ping."""


@frozen
class Malformed:
    """A message that is not of the protocol."""

    text: str
    reason: str


ClientSignal = (
    Established
    | Subscribed
    | SubscriptionError
    | Message
    | MemberAdded
    | MemberRemoved
    | SubscriptionCount
    | CacheMiss
    | SignedIn
    | WatchlistEvents
    | ResumeSucceeded
    | ResumeFailed
    | Stands
    | Error
    | Pong
    | Malformed
    | Send
    | Close
)
"""What `receive` and `timeout` return. `Send` and `Close` are for the caller to do, the rest is news."""
