"""Trading commands: refused with the reason, or written, paced, and answered once."""

from relay.adapter import Answer, CommandReply, Fetch, GivenUp
from relay.model.commands import Command
from relay.provider.calls import refusal
from relay.provider.outbound import Job, Purpose
from relay.provider.pacing import Lane
from relay.provider.session_state import Core


class Trading:
    """The commands of one session."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def ask(self, command: Command, within: float | None) -> None:
        """Carry out ``command``. One whose id is still open is ignored: its reply would be taken for the other's."""
        core = self._core
        if command.id in core.calls:
            core.tally.notes["duplicate_command"] += 1
            return
        if type(command) not in core.adapter_class.commands:
            names = [known.name for known in core.adapter_class.commands]
            message = f"{core.context.provider} does not take {command.name}"
            core.publish(refusal(command, "unsupported_command", message, supported=names))
            return
        if not core.up or core.adapter is None:
            message = f"the session with {core.context.provider} is not up"
            core.publish(refusal(command, "not_connected", message))
            return
        if (reason := core.adapter_class.orders.refusal(command)) is not None:
            core.publish(refusal(command, "invalid_command", reason))
            return
        core.calls.begin(command, core.at.now + (core.settings.command_within if within is None else within))
        try:
            written = core.outbound.write(core.adapter, command, Lane.CALL, Purpose.CALL, command.id)
        except Exception as error:  # noqa: BLE001 - whatever the adapter cannot write is refused with its reason
            self._refuse(command.id, "invalid_command", core.redact(f"{error}" or type(error).__name__))
            return
        if not written:
            self._refuse(command.id, "unsupported_command", "the adapter writes nothing for this command")

    def _refuse(self, id: str, code: str, message: str) -> None:
        reply = self._core.calls.refused(id, code, message)
        if reply is not None:
            self._core.publish(reply)

    def sent(self, job: Job) -> None:
        """A frame or request of a command was sent."""
        self._core.calls.sent(job.subject, over_http=isinstance(job.writing, Fetch))

    def replied(self, reply: CommandReply) -> None:
        """Publish the provider's reply to a command."""
        answer = self._core.calls.answered(reply.id, reply.result, reply.error)
        if answer is None:
            self._core.tally.notes["unasked_reply"] += 1
        else:
            self._core.publish(answer)

    def unanswered(self, job: Job, answer: Answer) -> None:
        """End a command as unknown: its HTTP answer does not tell whether it was carried out."""
        shown = Answer(status=answer.status, text=self._core.redact(answer.text))
        reply = self._core.calls.unanswered(job.subject, shown)
        if reply is not None:
            self._core.publish(reply)
            self._given_up(reply.id)

    def clocks(self, now: float) -> None:
        """End the commands whose deadline has come."""
        for reply in self._core.calls.expired(now):
            self._core.outbound.forget_call(reply.id)
            self._core.publish(reply)
            self._given_up(reply.id)

    def _given_up(self, id: str) -> None:
        """Tell the connection's adapter, which may still be waiting for the answer."""
        self._core.at_once(self._core.encode(GivenUp(id)))

    def disconnected(self) -> None:
        """The connection is lost."""
        for reply in self._core.calls.disconnected():
            self._core.publish(reply)

    def ended(self) -> None:
        """The session is over."""
        for reply in self._core.calls.ended():
            self._core.publish(reply)
