"""Commands as client events: what the hub hands over, and what may be said to the sender at once.

A subscriber of an account's channel sends a command as the client event `client-command`. It is for the relay: the
channel's other members do not get it, and neither do webhooks. Whoever decides (`OnCommand`) knows the API keys; the hub
only knows what the connection joined the channel with.
"""

from collections.abc import Callable

from attrs import field, frozen

from relay.model.channels import Stream

COMMAND = "client-command"
"""The name of the client event."""


@frozen(kw_only=True)
class ClientCommand:
    """A command that came on an account's channel.

    Attributes:
        stream: the account's.
        channel: the channel's name, prefix included.
        user_id: the member the connection joined the channel as; None where the authorization named none.
        user_info: JSON text of what the authorization says of the member.
        data: the command's text.
    """

    stream: Stream
    channel: str
    socket_id: str
    user_id: str | None = None
    user_info: str | None = field(default=None, repr=False)
    data: str


@frozen
class Rejected:
    """The command is not taken; the sender is told why."""

    message: str


@frozen
class Repeated:
    """The command was taken before and has its reply: the sender gets it again, as the canonical event's JSON."""

    reply: str


OnCommand = Callable[[ClientCommand], Rejected | Repeated | None]
"""Takes a command; None where its reply will come on the channel. Must not wait nor raise."""


def off(command: ClientCommand) -> Rejected:
    """What a hub says that takes no commands."""
    return Rejected("this relay takes no commands")
