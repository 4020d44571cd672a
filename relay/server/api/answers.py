"""Read bodies within limits, and make JSON answers and refusals, for all HTTP endpoints.

A refusal is JSON with its status, never with status 200. Under ``/api/v2/`` it has the envelope of that API,
``{"error": {"code", "message", "details"}, "requestId"}``; everywhere else it is ``{"error": text, "status": number}``.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from relay.pusher.http_api import ApiError
from relay.server.fastpath.poller import PASSES, SLICE

Item = TypeVar("Item")
Made = TypeVar("Made")
API = "/api/v2/"
BODY = 65_536
"""Largest body of a request, in bytes; the Pusher HTTP API has a limit per app."""
BODY_WITHIN = 30.0
"""Seconds for receiving a body."""

_encode = msgspec.json.Encoder().encode


def encoded(value: object) -> msgspec.Raw:
    """Return a part of an answer as JSON, so that `json_answer` only has to copy it."""
    return msgspec.Raw(_encode(value))


_CODES = {
    400: "INVALID_PARAMS",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    503: "UNAVAILABLE",
}


class HttpRefusal(Exception):
    """Raised to refuse a request, with the status, the reason, the field or setting at fault, and further headers.

    ``code`` is the machine's word for the reason where the status has several.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code
        self.headers = headers


def unauthorized(message: str) -> HttpRefusal:
    """Return a 401 that names the required scheme (RFC 9110, 11.6.1)."""
    return HttpRefusal(401, message, field="Authorization", headers={"WWW-Authenticate": "Bearer"})


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON; ``value`` may be bytes that are JSON already."""
    body = value if isinstance(value, bytes) else _encode(value)
    own = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(body, status, media_type="application/json", headers={**own, **(headers or {})})


class Slices:
    """Make long answers in slices of a millisecond, one answer at a time, with turns of trio's other tasks between them.

    So an answer of thousands of items, or many such requests at once, delay a command by a slice or two.
    """

    def __init__(self) -> None:
        self._turn = trio.Lock()  # its waiters are served in order

    async def map(self, function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """Return the results of `function`. `items` is advanced while other tasks run in between."""
        made: list[Made] = []
        left = iter(items)
        while True:
            async with self._turn:
                ends = time.perf_counter() + SLICE
                for item in left:
                    made.append(function(item))
                    if time.perf_counter() > ends:
                        break
                else:
                    return made
                for _ in range(PASSES):
                    await trio.lowlevel.checkpoint()

    async def filter(self, wanted: Callable[[Item], bool], items: Iterable[Item]) -> list[Item]:
        """Return the items that are wanted."""
        found: list[Item] = []
        await self.map(lambda item: found.append(item) if wanted(item) else None, items)
        return found


class Bodies:
    """Read the bodies of requests, each in bounded time, and all together in bounded memory.

    What is counted is what has arrived, not what was announced: a slow sender takes no room from others.
    """

    def __init__(self, most: int) -> None:
        """Create a reader that holds at most `most` bytes of bodies that are being read."""
        self._most = most
        self.held = 0
        """Bytes of bodies that are being read now."""

    async def read(self, request: Request, limit: int = BODY) -> bytes:
        """Return the body, which the caller must handle without waiting.

        Raises 413 once it exceeds ``limit`` bytes, 408 if it takes too long, 503 if there is no room for it.
        """
        announced = _announced(request)
        if announced > limit:
            raise _too_large(limit)
        if self.held + announced > self._most:
            raise self._no_room()
        with trio.move_on_after(BODY_WITHIN):
            return await self._read(request, limit)
        raise HttpRefusal(408, f"the body took longer than {BODY_WITHIN:g} s")

    async def _read(self, request: Request, limit: int) -> bytes:
        body, more = bytearray(), True
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                if len(body) + len(part) > limit:
                    raise _too_large(limit)
                if self.held + len(part) > self._most:
                    raise self._no_room()
                self.held += len(part)
                body += part
                more = message.get("more_body", False)
            return bytes(body)
        finally:
            self.held -= len(body)

    def _no_room(self) -> HttpRefusal:
        message = f"the bodies of all requests together exceed {self._most} bytes (server.limits.bodies)"
        return HttpRefusal(503, message, headers={"Retry-After": "1"})


def announces_body(request: Request) -> bool:
    """Return True if the request's head says that a body follows."""
    return _announced(request) > 0 or "transfer-encoding" in request.headers


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


def _too_large(limit: int) -> HttpRefusal:
    return HttpRefusal(413, f"body is larger than {limit} bytes (limit request_body)")


# Refusals as answers -------------------------------------------------------------------------------------------------


def refused(request: Request, refusal: Exception) -> Response:
    """Return the answer to a `HttpRefusal`."""
    assert isinstance(refusal, HttpRefusal)
    return _refused(request, refusal.status, refusal.message, refusal.field, refusal.headers, refusal.code)


def pusher_refused(request: Request, error: Exception) -> Response:
    """Return the answer to a refusal by the Pusher HTTP API."""
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return json_answer(error.body, error.status, headers)


def http_refused(request: Request, error: Exception) -> Response:
    """Return the answer to an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path'][:200]}: {error.detail}"
    return _refused(request, error.status_code, message, None, error.headers)


def failed(request: Request, error: Exception) -> Response:
    """Return the answer to an internal error; the HTTP server logs it."""
    return _refused(request, 500, "internal server error", None, None)


def abandoned(request: Request, error: Exception) -> Response:
    """Return an answer that nobody reads: the client disconnected during its request."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)


def _refused(
    request: Request,
    status: int,
    message: str,
    field: str | None,
    headers: Mapping[str, str] | None,
    code: str | None = None,
) -> Response:
    if not request.scope["path"].startswith(API):
        return json_answer({"error": message, "status": status}, status, headers)
    details: dict[str, Any] | None = None if field is None else {"field": field}
    error = {"code": code or _CODES.get(status, "INTERNAL_ERROR"), "message": message, "details": details}
    return json_answer({"error": error, "requestId": f"req_{secrets.token_hex(8)}"}, status, headers)
