"""What the session does with each signal an adapter decodes."""

from collections.abc import Callable
from typing import Any

from relay.adapter import (
    Ack,
    Alive,
    CommandReply,
    Counted,
    EventAck,
    Learned,
    Limited,
    Nack,
    Processed,
    Send,
)
from relay.provider.session_state import Core
from relay.provider.subscriptions import Subscriptions

Handlers = dict[type, Callable[[Any], None]]


class Signals:
    """Handlers of all signals but those about the life of the connection (`Ready`, `Redial`) and `Unknown`.

    Args:
        correlation: fresh UUIDs for `EventAck`.
    """

    def __init__(self, core: Core, subscriptions: Subscriptions, correlation: Callable[[], str]) -> None:
        self._core = core
        self._subscriptions = subscriptions
        self._correlation = correlation

    def handlers(self) -> Handlers:
        """What to call with each type of signal."""
        return {
            Ack: self._ack,
            Nack: self._nack,
            Alive: self._alive,
            Send: self._send,
            Processed: self._processed,
            CommandReply: self._command_reply,
            Learned: self._learned,
            Counted: self._counted,
            Limited: self._limited,
        }

    def _ack(self, ack: Ack) -> None:
        if ack.done:
            self._subscriptions.confirmed(ack.topics)
        else:
            self._core.ledger.ended(ack.topics)
        self._core.rearm()

    def _nack(self, nack: Nack) -> None:
        self._subscriptions.refused(nack.topics, nack.reason)
        self._core.rearm()

    def _alive(self, alive: Alive) -> None:
        """The transport's clock was set when the message arrived; nothing else follows from a heartbeat."""

    def _send(self, send: Send) -> None:
        core = self._core
        if send.of is None:
            core.at_once([send.text])
        elif core.adapter is not None:
            core.outbound.question(core.adapter, send.text, send.of)
            core.rearm()

    def _processed(self, processed: Processed) -> None:
        now_ms = self._core.at.unix_ns // 1_000_000
        self._core.at_once(self._core.encode(EventAck(processed.ids, now_ms, self._correlation())))

    def _command_reply(self, reply: CommandReply) -> None:
        answer = self._core.calls.answered(reply.id, reply.result, reply.error)
        if answer is None:
            self._core.tally.notes["unasked_reply"] += 1
        else:
            self._core.publish(answer)

    def _learned(self, learned: Learned) -> None:
        core = self._core
        core.context.learned.update(learned.values)
        core.redact.notice()
        core.renewal.learned(core.at.now, core.at.unix_ns, learned.expires_at)
        core.rearm()

    def _counted(self, counted: Counted) -> None:
        self._subscriptions.counted(counted.number)

    def _limited(self, limited: Limited) -> None:
        self._core.limited(limited.retry_after)
