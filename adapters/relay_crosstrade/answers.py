"""Answers to rpc: which command each belongs to, and what it says of the command's fate.

A session that was taken over and one that abused the limits are closed with the same code, 1008, and only the text of the
close tells them apart. The first must not be fought, so 1008 is declared a takeover; the second is left before the server
closes it, at the tenth violation in a row (https://docs.crosstrade.io/api/websocket-api: it closes after more than 10).
"""

from collections.abc import Iterable
from typing import Any

from attrs import Factory, define

from relay.adapter import CloseMeaning, CommandReply, Limited, Redial, Signal
from relay.model.commands import Command, PlaceOrder
from relay.model.events import Error, Event
from relay_crosstrade.calls import MAKE_ORDERS, MAY_CHANGE_POSITIONS, Failure, failure, is_timeout
from relay_crosstrade.positions import AGAIN, OPEN, Positions

VIOLATIONS = 10
#: Commands that may wait; beyond that the oldest is no longer known.
WAITING = 1000


@define(eq=False)
class Answers:
    """
    Attributes:
        waiting: the commands of this connection that have no answer yet, oldest first.
        violations: of the rate limit, without a success between.
    """

    positions: Positions
    waiting: dict[str, Command] = Factory(dict)
    violations: int = 0

    def awaited(self, command: Command) -> None:
        """The command is about to be sent."""
        self.waiting[command.id] = command
        self.positions.commands += 1
        if len(self.waiting) > WAITING:
            del self.waiting[next(iter(self.waiting))]

    def read(self, id: str, data: Any) -> Iterable[Event | Signal]:
        """The answer to ``id``."""
        failed = failure(data)
        if not id.startswith((OPEN, AGAIN)):
            yield self._answered(id, data, failed)
        elif failed is not None:
            self.positions.owed = True
            yield _error(failed, f"GetAllPositions: {failed['message']}", id, data)
        if failed is None:
            self.violations = 0
            yield from self.positions.told(id, data)
        elif failed["code"] == "rate_limited":
            yield from self._violated()

    def _answered(self, id: str, data: Any, failed: Failure | None) -> CommandReply | Error:
        """The reply to a command, or an error where a failure answers none.

        A command stays open, and becomes unknown at its deadline, when the answer does not say whether it was carried
        out: a time-out, or a placed order without success.
        """
        command = self.waiting.pop(id, None)
        if failed is not None and command is None:
            return _error(failed, failed["message"], id, data)
        undecided = {"code": "undecided"}
        placed = isinstance(command, PlaceOrder)
        if is_timeout(failed) or (
            failed is None and placed and not (isinstance(data, dict) and data.get("success") is True)
        ):
            return _error(undecided, f"the answer to command {id} does not say what became of it", id, data)
        if failed is not None:
            return CommandReply(id, error=failed)
        self.positions.owed |= isinstance(command, MAY_CHANGE_POSITIONS)
        if isinstance(command, MAKE_ORDERS) and isinstance(data, dict) and isinstance(data.get("orderId"), str):
            data = {"order_id": data["orderId"], **data}
        return CommandReply(id, data)

    def _violated(self) -> Iterable[Signal]:
        self.violations += 1
        yield Limited()
        if self.violations >= VIOLATIONS:
            yield Redial(f"{self.violations} rate limit violations in a row", CloseMeaning.RATE_LIMITED)


def _error(failed: Failure, message: str, id: str, data: Any) -> Error:
    return Error(code=failed["code"], message=message, details={"id": id, "data": data})
