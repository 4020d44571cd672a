"""Trade over HTTP: ``POST /api/v2/commands`` executes one command, ``GET`` lists the available ones.

The status is the known outcome: 200 accepted, 422 rejected, 202 unknown, each with the canonical `reply` as the body.
Unknown is not an error status on purpose: clients, proxies and libraries repeat requests that failed, and an order of
unknown outcome may be live. Repeated under the same `Idempotency-Key`, ``id`` or ``client_order_id`` a command is not sent
again; the answer is the first one's, updated by the account's stream.
"""

import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from relay.auth import KeyRing
from relay.model import command_input
from relay.model.command_input import MEMBERS, CommandError, read
from relay.model.commands import COMMANDS
from relay.model.enums import Outcome
from relay.server.api.answers import Bodies, HttpRefusal, json_answer
from relay.server.api.channels import bearer
from relay.trading.service import CommandRefused, CommandService, RefusalReason, Submission

REFUSED: Mapping[RefusalReason, int] = {
    RefusalReason.INVALID: 400,
    RefusalReason.FORBIDDEN: 403,
    RefusalReason.NOT_FOUND: 404,
    RefusalReason.CONFLICT: 409,
    RefusalReason.RATE_LIMITED: 429,
    RefusalReason.FULL: 429,
    RefusalReason.STORE_UNAVAILABLE: 503,
    RefusalReason.NOT_OWNER: 503,
    RefusalReason.SHUTTING_DOWN: 503,
}
RETRY_AFTER: Mapping[RefusalReason, float] = {
    RefusalReason.RATE_LIMITED: 1,
    RefusalReason.FULL: 10,
    RefusalReason.STORE_UNAVAILABLE: 5,
    RefusalReason.NOT_OWNER: 1,
    RefusalReason.SHUTTING_DOWN: 5,
}
CODES: Mapping[RefusalReason, str] = {
    RefusalReason.FULL: "FULL",
    RefusalReason.STORE_UNAVAILABLE: "STORE_UNAVAILABLE",
    RefusalReason.NOT_OWNER: "NOT_OWNER",
}
"""Error codes for refusals that the HTTP status alone does not distinguish."""
STATUS: Mapping[Outcome | None, int] = {Outcome.ACCEPTED: 200, Outcome.REJECTED: 422, Outcome.UNKNOWN: 202}


class Commands:
    """Endpoints for commands."""

    def __init__(self, *, keys: KeyRing, command_service: CommandService, bodies: Bodies) -> None:
        self._bodies = bodies
        self._keys = keys
        self._command_service = command_service

    async def endpoint(self, request: Request) -> Response:
        """Answer GET and POST /api/v2/commands."""
        return await (self._post if request.method == "POST" else self._get)(request)

    async def _post(self, request: Request) -> Response:
        key = bearer(request, self._keys)
        try:
            wire = read(await self._bodies.read(request))
        except CommandError as error:
            raise HttpRefusal(400, str(error), field=error.field) from None
        try:
            submission = self._command_service.validate(key, wire, _idempotency_key(request))
            if submission.dry_run:
                return json_answer(_dry_run(submission, self._command_service.dry_run(submission)))
            if self._command_service.is_elsewhere(submission):
                outcome, answer, new = await self._command_service.execute_elsewhere(submission)
            else:
                pending, new = self._command_service.submit(submission)
                outcome, answer = await self._command_service.wait(pending)
        except CommandRefused as refused:
            raise _refusal(refused) from None
        headers = None if new else {"Idempotent-Replayed": "true"}
        return json_answer(answer, STATUS[outcome], headers)

    async def _get(self, request: Request) -> Response:
        key = bearer(request, self._keys)
        providers = [
            {
                "provider": provider.name,
                "accounts": accounts,
                "commands": [described(command.name) for command in provider.commands],
            }
            for provider, accounts in self._command_service.offered(key)
        ]
        return json_answer({"providers": providers})


def described(name: str) -> dict[str, Any]:
    """Return a command as the list shows it, without the members that all have (``id``, ``account``)."""
    members = [
        {"name": member.name, "type": member.type, "required": member.required}
        | ({"values": list(member.values)} if member.values else {})
        for member in MEMBERS[name]
        if member.name not in ("id", "account")
    ]
    description = (COMMANDS[name].__doc__ or "").split("\n\n")[0].replace("``", "")
    return {"command": name, "description": description, "members": members}


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise HttpRefusal(400, "Idempotency-Key: occurs twice", field="Idempotency-Key")
    return keys[0] if keys else None


def _dry_run(submission: Submission, sends: list[dict[str, Any]]) -> dict[str, Any]:
    answer = {"dry_run": True, "provider": submission.provider.name, "account": submission.account}
    return {**answer, "command": command_input.unstructure(submission.command), "sends": sends}


def _refusal(refused: CommandRefused) -> HttpRefusal:
    reason = refused.refusal
    wait = RETRY_AFTER.get(reason) if refused.retry_after is None else refused.retry_after
    headers = None if wait is None else {"Retry-After": f"{math.ceil(wait)}"}
    return HttpRefusal(REFUSED[reason], refused.message, field=refused.field, code=CODES.get(reason), headers=headers)
