"""What ScaleTrade's answers over HTTP say (https://scaletrade.com/client-api/rest/).

An acknowledgement means that a request was accepted for processing; the trade stream tells the rest. Replies go to everybody
who may read the account, so they have no more of its owner than events have.
"""

import base64
import binascii
from typing import Any

import msgspec

from relay.adapter import Answer, CommandReply, loads
from relay.model.commands import Call, Command, ListAccounts, ListOrders, ListPositions, PositionHistory
from relay_scaletrade.requests import Request
from relay_scaletrade.wire import MONEY

#: Members of a profile that are about the account, and not about the person who owns it.
ACCOUNT = ("id", "login", "group", "currency", "balance", "equity", "margin", "margin_free", "profit", *MONEY)
#: An object with one of these members is a profile.
_PERSONAL = {"email", "phone", "address", "zipcode", "avatar", "__token"}


def kind(command: Command, asked: Request) -> str:
    """What the answer must be to be a success: ``account``, ``table``, ``trade``, or whatever a ``call`` gives."""
    match command:
        case ListAccounts():
            return "account"
        case ListPositions() | ListOrders() | PositionHistory():
            return "table"
        case Call() if asked.method == "GET" or not asked.path.lower().startswith("/trade"):
            return "call"
    return "trade"


def reply(id: str, kind: str, answer: Answer) -> CommandReply:
    """The answer to the command with this id.

    Raises:
        ValueError: it reports neither a failure nor a success as the pages have it, so the command's fate is unknown.
    """
    try:
        body = loads(answer.text)
    except (msgspec.DecodeError, RecursionError):
        if answer.ok:
            raise
        body = None
    match body:
        case {"error": error, **rest} if error is not None:
            return CommandReply(id, error={"code": error, "status": answer.status, **discreet(rest)})
        case {"accepted": False}:
            return CommandReply(id, error={"code": "not_accepted", **body})
        case _ if not answer.ok:
            return CommandReply(id, error={"code": f"http_{answer.status}", "message": answer.text[:200]})
    return CommandReply(id, result=discreet(_success(kind, body)))


def _success(kind: str, body: Any) -> Any:
    match kind, body:
        case "trade" | "call", {"accepted": True, "order": int(order)}:
            return {"order_id": str(order), **body}
        case "trade" | "call", {"accepted": True} | {"data": "OK"}:
            return body
        case "table" | "call", {"structure": [*_], "rows": [*_]}:
            return table(body)
        case "account", {"login": int()}:
            return [body]
        case "call", list() | dict() if body and "accepted" not in body:
            return body
    raise ValueError("the answer does not say what became of the command")


def discreet(value: Any) -> Any:
    """The value without secrets and without what is personal in a profile."""
    match value:
        case list():
            return [discreet(each) for each in value]
        case dict():
            shown = ACCOUNT if value.keys() & _PERSONAL else value.keys()
            return {
                name: discreet(each)
                for name, each in value.items()
                if name in shown and not name.startswith("__") and name.lower() != "password"
            }
    return value


def table(body: Any) -> dict[str, Any]:
    """``{"structure", "rows", ...}`` with each row as an object. KeyError or TypeError where it is no table."""
    rows = [dict(zip(body["structure"], row, strict=True)) for row in body["rows"]]
    return {**{name: value for name, value in body.items() if name != "structure"}, "rows": rows}


def profile(answer: Answer) -> dict[str, Any]:
    """The account in a sign-in's answer. KeyError or ValueError where it has no token."""
    given: dict[str, Any] = loads(answer.text)
    if not isinstance(given["__token"], str) or not given["__token"]:
        raise ValueError("the answer to the sign-in has no __token")
    return given


def expiry(token: str) -> int | None:
    """When a JWT says that it expires (RFC 7519, ``exp``), Unix seconds; None where it does not say."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    at = claims.get("exp") if isinstance(claims, dict) else None
    return at if isinstance(at, int) and not isinstance(at, bool) else None
