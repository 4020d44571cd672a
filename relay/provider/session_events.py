"""Inputs and outputs of the session machine.

Every input is handed over together with the `Now` it happened at; the machine has no clock. Messages are no input
objects: `SessionMachine.receive` takes them. Events do not appear here:
they leave through the machine's ``publish`` callable, in order, while the input is being handled.
"""

from collections.abc import Mapping
from typing import NamedTuple

from attrs import Factory, field, frozen

from relay.adapter import Answer, Fetch
from relay.model.channels import Asker, Topic
from relay.model.text import from_micros
from relay.trading.pending import PendingCommand


class Now(NamedTuple):
    """One instant on two clocks: ``now`` monotonic seconds for durations, ``unix_ns`` wall time for what is shown."""

    now: float
    unix_ns: int

    @property
    def text(self) -> str:
        """The wall time as RFC 3339 with microseconds, as `Stamp.received_at` has it."""
        return from_micros(self.unix_ns // 1000)


def as_text(message: str | bytes, *, binary: bool) -> str:
    """Return a message as text: of a session with binary frames with a character for each byte (`Session.frames`)."""
    if binary:
        return (message if isinstance(message, bytes) else message.encode()).decode("latin-1")
    # Not text by the protocol: kept recognisable, so that it ends as an Unknown and not in silence.
    return message if isinstance(message, str) else message.decode("utf-8", "backslashreplace")


# --- inputs ----------------------------------------------------------------------------------------------------------


@frozen
class Start:
    """Begin: prepare, then dial."""


@frozen
class Opened:
    """The socket of the last `Dial` is open."""


@frozen
class Closed:
    """The open socket is gone; ``code`` 1006 when no close frame came."""

    code: int
    reason: str = ""


@frozen
class DialRefused:
    """The upgrade was answered with HTTP ``status`` instead of a WebSocket. Header names are lower-case."""

    status: int
    headers: Mapping[str, str] = Factory(dict)


@frozen
class DialFailed:
    """No connection came about: DNS, TCP, TLS or the deadline."""

    error: str


@frozen
class Fetched:
    """The answer to the `FetchRequest` of this id."""

    id: int
    answer: Answer


@frozen
class WantTopic:
    """Somebody needs this topic: ``by``, or the operator, who pinned it, where there is no such one."""

    topic: Topic
    by: Asker | None = None


@frozen
class UnwantTopic:
    """Nobody needs this topic any more."""

    topic: Topic


@frozen
class SendCommand:
    """Carry out a trading command; its one `Reply` is published before its deadline."""

    pending: PendingCommand


@frozen
class Tick:
    """The time `SessionMachine.deadline` named has come (or any other)."""


@frozen
class Resume:
    """An operator says: try again, although the session had stopped as FAILED."""


@frozen
class Shutdown:
    """Unsubscribe, close, end."""


Input = (
    Start | Opened | Closed | DialRefused | DialFailed | Fetched
    | WantTopic | UnwantTopic | SendCommand | Tick | Resume | Shutdown
)  # fmt: skip


# --- outputs ---------------------------------------------------------------------------------------------------------


@frozen
class Dial:
    """Open the WebSocket. ``shown`` is the URL as it may be logged; url and headers hold secrets and have no repr.

    ``alone``: not before the one before it has ended, closing handshake and all. ``binary``: frames are sent and handed over
    as text with a character for each byte.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    shown: str
    alone: bool = False
    binary: bool = False


@frozen
class SendText:
    """Send this text as one message of the provider's WebSocket."""

    text: str = field(repr=False)


@frozen
class SendPing:
    """Send a WebSocket ping frame; its answer is heard like anything else."""


@frozen
class CloseSocket:
    """Close the socket, or give up the dial; `Closed` is not expected in return."""

    code: int = 1000
    reason: str = ""


@frozen
class FetchRequest:
    """Make this HTTP request. ``url`` is absolute; ``shown`` is the URL as it may be logged."""

    id: int
    fetch: Fetch
    url: str = field(repr=False)
    shown: str


@frozen
class Sampled:
    """A message was not understood. ``raw`` is redacted and cut; for the log."""

    raw: str
    why: str


@frozen
class DeadlineChanged:
    """`SessionMachine.deadline` may have come nearer. Only `SessionMachine.receive` says so; after a step, ask anyway."""


@frozen
class Finished:
    """The session is over (`failed` False: shut down) or stopped as FAILED until `Resume`."""

    reason: str
    failed: bool


Output = Dial | SendText | SendPing | CloseSocket | FetchRequest | Sampled | DeadlineChanged | Finished
