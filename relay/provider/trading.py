"""Trading commands: refused with the reason, or written, paced, and answered once."""

from relay.adapter import Answer, Fetch, GivenUp
from relay.model.commands import Command
from relay.provider.calls import nothing_known, refusal
from relay.provider.inbound import Inbound
from relay.provider.outbound import Job, Purpose
from relay.provider.pacing import Lane
from relay.provider.session_state import Core


class Trading:
    """The commands of one session."""

    def __init__(self, core: Core, inbound: Inbound) -> None:
        self._core = core
        self._inbound = inbound

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

    def answered(self, job: Job, answer: Answer) -> None:
        """The HTTP answer to a command."""
        if not nothing_known(answer):
            self._inbound.answer(job, answer)
            return
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
