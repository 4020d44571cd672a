"""Commands that one node takes and another one carries out.

The node that a command came to checks it, and sends it to the provider's owner, which takes it like one of its own: its
names are in the store before it is sent to the provider. The owner's answer comes back as a message. While there is none,
the command is sent again, to whoever owns the provider then; a repeated command is known by its names and never carried out
twice. So a command that the owner had taken when it died is answered by the next one, as unknown or by what the account's
stream shows. If nobody answers in time, the sender is told that the outcome is unknown: it may ask again under the same
names. An owner carries out no command whose time has passed; clocks of nodes must agree to about a second.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from attrs import define

from relay.model import command_input
from relay.model.commands import Command
from relay.model.enums import Outcome
from relay.model.events import Reply, Stamp
from relay.model.serialize import encode as encode_event
from relay.trading.pending import PendingCommand
from relay.trading.registry import GRACE, OVERHEAD

#: Seconds until a command without an answer is sent again.
AGAIN = 1.0

_encode = msgspec.msgpack.Encoder().encode


class ForwardedCommand(msgspec.Struct, frozen=True, array_like=True):
    """A command on its way to its owner. ``until_ns`` is the wall time after which it is of no use."""

    ref: str
    provider: str
    account: str | None
    command: bytes
    idempotency_key: str | None
    api_key: str
    until_ns: int


class ForwardedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The owner's answer: a refusal, or the outcome and the reply's JSON. ``new`` is False for a repeated command."""

    ref: str
    outcome: str | None = None
    reply: bytes = b""
    new: bool = True
    refusal: str | None = None
    message: str = ""
    field: str | None = None
    retry_after: float | None = None


_command = msgspec.msgpack.Decoder(ForwardedCommand).decode
_answer = msgspec.msgpack.Decoder(ForwardedAnswer).decode
Answered = Callable[[ForwardedAnswer], object]


@define(eq=False)
class _Asked:
    command: ForwardedCommand
    then: Answered
    due_at: float
    again_at: float


def measured(command: bytes) -> int:
    """Return the bytes that an encoded command takes while it waits."""
    return len(command) + OVERHEAD


class Forwarding:
    """The commands that wait for another node's answer. Times are monotonic seconds.

    Args:
        tell: sends a message to the owner of a provider: provider, kind and body.
        refs: names requests; unique over all nodes.
        clock, unix_ns: the monotonic and the wall time.
        at: the wall time as RFC 3339.
    """

    def __init__(
        self,
        tell: Callable[[str, str, bytes], object],
        *,
        refs: Callable[[], str],
        clock: Callable[[], float],
        unix_ns: Callable[[], int],
        at: Callable[[], str],
    ) -> None:
        self._tell = tell
        self._refs = refs
        self._clock = clock
        self._unix_ns = unix_ns
        self._at = at
        self._asked: dict[str, _Asked] = {}
        #: Number and bytes of the commands of each API key that wait.
        self._waiting: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Return the number of commands that wait for an answer."""
        return len(self._asked)

    def waiting(self, api_key: str) -> tuple[int, int]:
        """Return the number and the bytes of an API key's commands that wait for an answer."""
        return self._waiting.get(api_key, (0, 0))

    def _count(self, forwarded: ForwardedCommand, more: int) -> None:
        number, size = self.waiting(forwarded.api_key)
        number, size = number + more, size + more * measured(forwarded.command)
        if number:
            self._waiting[forwarded.api_key] = number, size
        else:
            del self._waiting[forwarded.api_key]

    def _end(self, ref: str) -> "_Asked | None":
        asked = self._asked.pop(ref, None)
        if asked is not None:
            self._count(asked.command, -1)
        return asked

    def send(
        self,
        provider: str,
        account: str | None,
        command: bytes,
        within: float,
        then: Answered,
        *,
        idempotency_key: str | None = None,
        api_key: str = "",
    ) -> None:
        """Send an encoded command to the owner of its provider; ``then`` is called once with the answer, within its time."""
        now = self._clock()
        until_ns = self._unix_ns() + int(within * 1e9)
        forwarded = ForwardedCommand(self._refs(), provider, account, command, idempotency_key, api_key, until_ns)
        self._asked[forwarded.ref] = _Asked(forwarded, then, now + within + GRACE, now + AGAIN)
        self._count(forwarded, 1)
        self._tell(provider, "command", _encode(forwarded))

    def answered(self, body: bytes) -> None:
        """Take an owner's answer; a second one is of no interest."""
        answer = _answer(body)
        asked = self._end(answer.ref)
        if asked is not None:
            asked.then(answer)

    def tick(self) -> None:
        """Send again what has no answer, and give up what is late. To be called about once a second."""
        now = self._clock()
        for ref, asked in list(self._asked.items()):
            if now >= asked.due_at:
                self._end(ref)
                asked.then(self._unknown(asked.command))
            elif now >= asked.again_at:
                asked.again_at = now + AGAIN
                self._tell(asked.command.provider, "command", _encode(asked.command))

    def _unknown(self, forwarded: ForwardedCommand) -> ForwardedAnswer:
        command = command_input.decode(forwarded.command)
        message = "the relay that holds the session with the provider has not answered; ask again under the same id"
        error = {"code": "no_answer", "message": message}
        reply = Reply(id=command.id, account=command.account, ok=False, outcome=Outcome.UNKNOWN, error=error)
        stamp = Stamp(provider=forwarded.provider, account=forwarded.account, received_at=self._at())
        return ForwardedAnswer(forwarded.ref, Outcome.UNKNOWN.value, encode_event(reply, stamp, forwarded.ref))


def read_command(body: bytes, unix_ns: int) -> tuple[ForwardedCommand, Command, float] | None:
    """Return a command that came from another node, and the seconds that are left for it; None if its time has passed."""
    forwarded = _command(body)
    left = (forwarded.until_ns - unix_ns) / 1e9
    return None if left <= 0 else (forwarded, command_input.decode(forwarded.command), left)


def answer_of(ref: str, outcome: Outcome | None, reply: bytes, *, new: bool) -> bytes:
    """Return the message with an outcome and its reply."""
    return _encode(ForwardedAnswer(ref, None if outcome is None else outcome.value, reply, new))


def refusal_of(ref: str, reason: str, message: str, field: str | None, retry_after: float | None) -> bytes:
    """Return the message with a refusal."""
    told: Mapping[str, Any] = {"refusal": reason, "message": message, "field": field, "retry_after": retry_after}
    return _encode(ForwardedAnswer(ref, **told))


def idempotency_key_of(pending: PendingCommand) -> str | None:
    """Return the idempotency key of a command."""
    return next((value for _, kind, value in pending.names if kind == "Idempotency-Key"), None)
