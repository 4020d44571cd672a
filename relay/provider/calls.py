"""Trading calls: every command ends in exactly one reply, and an unknown fate is never called a rejection.

A call is WAITING while it waits for its budget and SENT afterwards. One that was never sent is REJECTED: nothing can have
come of it. One that was sent ends ACCEPTED or REJECTED by the provider's answer, and UNKNOWN when the deadline passes, the
connection it was sent on is lost, or the HTTP request got no answer that says anything of the order (none, 408, any 5xx
but 501): the order may be live. What the provider answers after that changes nothing here; its order events tell the rest.

An error that names no command answers none. What was sent on the same connection before it says so when it ends unknown.
"""

from math import inf
from typing import Any

from attrs import Factory, define

from relay.adapter import Answer
from relay.model.commands import Command
from relay.model.enums import Outcome
from relay.model.events import Reply


@define(eq=False)
class _Call:
    command: Command
    due_at: float
    sent: bool = False
    over_http: bool = False
    errors: list[dict[str, str]] = Factory(list)


#: Errors that are kept for one command.
_ERRORS = 3


class Calls:
    """The commands of one session that have no reply yet."""

    def __init__(self) -> None:
        self._open: dict[str, _Call] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._open

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, command: Command, due_at: float) -> None:
        """``command`` waits to be sent; its reply is due at ``due_at``."""
        self._open[command.id] = _Call(command, due_at)

    def sent(self, id: str, *, over_http: bool) -> None:
        """The command was sent."""
        call = self._open.get(id)
        if call is not None:
            call.sent = True
            call.over_http = over_http

    def heard(self, code: str, message: str) -> None:
        """The provider said that something failed, and not what."""
        for call in self._open.values():
            if call.sent and not call.over_http and len(call.errors) < _ERRORS:
                call.errors.append({"code": code, "message": message})

    def answered(self, id: str, result: Any, error: Any) -> Reply | None:
        """The provider answered; None when no reply is owed for this id (late, or never asked)."""
        call = self._open.pop(id, None)
        if call is None:
            return None
        outcome = Outcome.ACCEPTED if error is None else Outcome.REJECTED
        return _reply(call.command, outcome, result=result, error=error)

    def refused(self, id: str, code: str, message: str, **details: Any) -> Reply | None:
        """The command will not be sent."""
        call = self._open.pop(id, None)
        return None if call is None else refusal(call.command, code, message, **details)

    def unanswered(self, id: str, answer: Answer) -> Reply | None:
        """The HTTP answer says nothing of the order's fate."""
        call = self._open.pop(id, None)
        if call is None:
            return None
        what = f"HTTP status {answer.status}" if answer.status else "no usable answer"
        message = f"{what}: {answer.text[:500]}" if answer.text else what
        return _reply(call.command, Outcome.UNKNOWN, error={"code": "no_answer", "message": message})

    def disconnected(self) -> list[Reply]:
        """The connection is lost: what was sent on it has an unknown fate, what waited for it is refused."""
        lost = [id for id, call in self._open.items() if not (call.sent and call.over_http)]
        return [self._given_up(id, "disconnected", "the connection was lost") for id in lost]

    def expired(self, now: float) -> list[Reply]:
        """The calls whose deadline has come."""
        late = [id for id, call in self._open.items() if call.due_at <= now]
        return [self._given_up(id, "deadline", "no answer within the deadline") for id in late]

    def ended(self) -> list[Reply]:
        """The session ends: nothing more will be known of any call."""
        return [self._given_up(id, "session_ended", "the session ended") for id in list(self._open)]

    def _given_up(self, id: str, code: str, message: str) -> Reply:
        call = self._open.pop(id)
        if call.sent:
            heard = {"heard": call.errors} if call.errors else {}
            return _reply(call.command, Outcome.UNKNOWN, error={"code": code, "message": message, **heard})
        return refusal(call.command, f"{code}_before_sent", f"{message}, and the command had not been sent")

    def deadline(self) -> float:
        """When `expired` has something."""
        return min((call.due_at for call in self._open.values()), default=inf)


def refusal(command: Command, code: str, message: str, **details: Any) -> Reply:
    """The reply to a command that is not sent."""
    return _reply(command, Outcome.REJECTED, error={"code": code, "message": message, **details})


def nothing_known(answer: Answer) -> bool:
    """Whether an HTTP answer leaves open if the order was carried out. 501 does not: there is no such function there.

    499 is a proxy's word (nginx) for a connection that ended before its server had answered.
    """
    return answer.status in (0, 408, 499) or (answer.status >= 500 and answer.status != 501)


def _reply(command: Command, outcome: Outcome, *, result: Any = None, error: Any = None) -> Reply:
    return Reply(
        id=command.id,
        account=command.account,
        ok=outcome is Outcome.ACCEPTED,
        outcome=outcome,
        result=result,
        error=error,
    )
