"""Inputs and outputs of the session machine.

The machine has no clock: each input comes with the `Now` at which it happened. Messages have no input class, they go to
`SessionMachine.receive`. Events have no output class, they are passed to the machine's ``publish`` callable, in order,
while an input is being handled.
"""

from collections.abc import Mapping
from typing import NamedTuple

from attrs import Factory, field, frozen

from relay.adapter import Answer, Fetch
from relay.model.channels import Asker, Topic
from relay.model.text import from_micros
from relay.trading.pending import PendingCommand


class Now(NamedTuple):
    """One instant on two clocks: ``now`` in monotonic seconds for timers, ``unix_ns`` as wall time for timestamps."""

    now: float
    unix_ns: int

    @property
    def text(self) -> str:
        """The wall time as RFC 3339 with microseconds, as `Stamp.received_at` has it."""
        return from_micros(self.unix_ns // 1000)


def as_text(message: str | bytes, *, binary: bool) -> str:
    """Return a message as text; in a session with binary frames with one character for each byte (`Session.frames`)."""
    if binary:
        return (message if isinstance(message, bytes) else message.encode()).decode("latin-1")
    # The protocol has no binary frames: keep it readable, so that it is reported as an Unknown.
    return message if isinstance(message, str) else message.decode("utf-8", "backslashreplace")


# --- inputs ----------------------------------------------------------------------------------------------------------


@frozen
class Start:
    """Start the session: prepare, then dial."""


@frozen
class Opened:
    """The socket of the last `Dial` is open."""


@frozen
class Closed:
    """The socket is closed; ``code`` is 1006 if no close frame was received."""

    code: int
    reason: str = ""


@frozen
class DialRefused:
    """The provider refused the WebSocket upgrade with HTTP ``status``. Header names are lower-case."""

    status: int
    headers: Mapping[str, str] = Factory(dict)


@frozen
class DialFailed:
    """The connection failed: DNS, TCP, TLS, an invalid answer to the handshake, or a timeout."""

    error: str


@frozen
class Fetched:
    """The answer to the `FetchRequest` of this id."""

    id: int
    answer: Answer


@frozen
class WantTopic:
    """A topic is needed by the subscriber ``by``, or pinned by the operator if that is None."""

    topic: Topic
    by: Asker | None = None


@frozen
class UnwantTopic:
    """A topic has no subscribers any more."""

    topic: Topic


@frozen
class SendCommand:
    """Send a trading command. Exactly one `Reply` is published for it, at its deadline at the latest."""

    pending: PendingCommand


@frozen
class Tick:
    """The time `SessionMachine.deadline` has passed. A tick at another time does no harm."""


@frozen
class Resume:
    """The operator restarts a session that is FAILED."""


@frozen
class Shutdown:
    """End the session: unsubscribe and close the connection."""


Input = (
    Start | Opened | Closed | DialRefused | DialFailed | Fetched
    | WantTopic | UnwantTopic | SendCommand | Tick | Resume | Shutdown
)  # fmt: skip


# --- outputs ---------------------------------------------------------------------------------------------------------


@frozen
class Dial:
    """Open the WebSocket.

    Attributes:
        url, headers: may contain secrets, so that they are left out of the repr.
        shown: the URL without secrets, for the log.
        alone: wait until the previous connection has ended, closing handshake included.
        binary: frames are binary; texts have one character for each byte.
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
    """Send a WebSocket ping frame. The pong counts as received data."""


@frozen
class CloseSocket:
    """Close the socket, or cancel the dial. No `Closed` follows."""

    code: int = 1000
    reason: str = ""


@frozen
class FetchRequest:
    """Make this HTTP request; `Fetched` follows. ``url`` is absolute, ``shown`` is the URL without secrets."""

    id: int
    fetch: Fetch
    url: str = field(repr=False)
    shown: str


@frozen
class Sampled:
    """Log a message that could not be decoded. ``raw`` is redacted and cut off."""

    raw: str
    why: str


@frozen
class DeadlineChanged:
    """`SessionMachine.deadline` may have moved earlier. Only `SessionMachine.receive` returns this; after `step` and
    `interest`, always read the deadline again.
    """


@frozen
class Finished:
    """The session has ended: shut down, or, if ``failed``, stopped as FAILED until `Resume`."""

    reason: str
    failed: bool


Output = Dial | SendText | SendPing | CloseSocket | FetchRequest | Sampled | DeadlineChanged | Finished
