"""Commands that one node receives and another one executes.

The receiving node validates a command and sends it to the provider's owner, which treats it like one of its own: it stores
the command's names before it sends it to the provider. The owner's answer is a message. Until it arrives, the command is
sent again, to the owner of that time; the owner recognizes a repeated command by its names and never executes it twice. If
an owner dies with an open command, the next owner answers it, as unknown or by the states in the account's stream. If no
answer arrives in time, the sender gets the outcome unknown, and may repeat the command under the same names. An owner does
not execute a command whose deadline has passed. The nodes' clocks must agree to about a second.
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
    """A command sent to the owner of its provider. ``until_ns``: its deadline in Unix nanoseconds."""

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
    """Return the bytes charged for an encoded command while it waits."""
    return len(command) + OVERHEAD


class Forwarding:
    """The commands that wait for another node's answer. Times are monotonic seconds.

    Args:
        tell: sends a message to the owner of a provider: provider, kind and body.
        refs: generates references of requests, unique over all nodes.
        clock, unix_ns: return monotonic seconds and Unix nanoseconds.
        at: returns the wall time as RFC 3339.
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
        #: Number and bytes of the waiting commands of each API key.
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
        """Send an encoded command to its provider's owner. ``then`` is called once with the answer, by the deadline."""
        now = self._clock()
        until_ns = self._unix_ns() + int(within * 1e9)
        forwarded = ForwardedCommand(self._refs(), provider, account, command, idempotency_key, api_key, until_ns)
        self._asked[forwarded.ref] = _Asked(forwarded, then, now + within + GRACE, now + AGAIN)
        self._count(forwarded, 1)
        self._tell(provider, "command", _encode(forwarded))

    def answered(self, body: bytes) -> None:
        """Process an owner's answer. A second answer is ignored."""
        answer = _answer(body)
        asked = self._end(answer.ref)
        if asked is not None:
            asked.then(answer)

    def tick(self) -> None:
        """Repeat unanswered commands, and end those past their deadlines as unknown. Call about once a second."""
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
    """Decode a command from another node. Return it with the seconds left for it; None if its deadline has passed."""
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
