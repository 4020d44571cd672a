"""Client of the relay's HTTP interface: typed errors, and commands with typed replies."""

import os
import socket
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import msgspec
from attrs import frozen

from relay.errors import leaves, one_line
from relay.model.command_input import CommandError, read
from relay.model.events import Reply
from relay.model.serialize import CodecError, structure

#: Failures before anything of a request is sent.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    httpx.LocalProtocolError,
)
#: Seconds for an answer, in addition to the time that a command may take.
WITHIN = 10.0
_REASON = 200


class RelayUnreachable(Exception):
    """No relay answers at the address, or the answer is not a relay's."""


class RefusedByRelay(Exception):
    """Raised when the relay refuses a request.

    Attributes:
        status: of the HTTP answer.
        code: the relay's error code; None if it gave none.
        message: the reason; it names the missing grant, the limit or the wrong member.
        field: the wrong member; None if there is none.
    """

    def __init__(self, status: int, message: str, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


class OutcomeUnknown(Exception):
    """A command was sent to the relay and its outcome is not known.

    Attributes:
        key: the same command under this idempotency key is never carried out twice.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@frozen(kw_only=True)
class CommandResult:
    """The answer to a command.

    Attributes:
        reply: None for a dry run.
        body: the answer, with exact decimals.
        text: the answer's text.
        key: the idempotency key under which it was sent.
        replayed: True if this is the reply of an earlier command with the same key or id; nothing was sent.
    """

    reply: Reply | None
    body: Mapping[str, Any]
    text: str
    key: str
    replayed: bool


class HttpInterface:
    """Requests to one relay by one API key. Close it with `aclose`.

    Args:
        url: ``http://HOST:PORT`` or ``https://...``.
        on_answer: called with each answer of the relay.
    """

    def __init__(self, url: str, api_key: str | None, on_answer: Callable[[], None] = lambda: None) -> None:
        self.url = url.rstrip("/")
        self._on_answer = on_answer
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # Ignore proxies and .netrc of the environment: the relay may run on this machine.
        self._http = httpx.AsyncClient(headers=headers, timeout=WITHIN, trust_env=False, verify=_context(self.url))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of an answer. Parameters that are None are left out.

        Raises:
            RelayUnreachable: no answer, or none in JSON.
            RefusedByRelay: a status that is not 200.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        return _content(self.url, await self._request("GET", path, params=given))

    async def post(self, path: str, value: Any) -> Any:
        """Return the JSON of the answer to JSON. Raises as `get`."""
        return _content(self.url, await self._request("POST", path, json=value))

    async def post_form(self, path: str, fields: Mapping[str, str]) -> Any:
        """Return the JSON of the answer to a form. Raises as `get`."""
        return _content(self.url, await self._request("POST", path, data=dict(fields)))

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, f"{self.url}{path}", **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RelayUnreachable(unreachable(self.url, error)) from None
        self._answered(answer)
        return answer

    def _answered(self, answer: httpx.Response) -> None:
        if answer.status_code < 500:  # what stands before a relay answers for it with these
            self._on_answer()

    async def command(
        self, command: str, *, within: float = 10.0, key: str | None = None, dry_run: bool = False, **members: Any
    ) -> CommandResult:
        """Send a command and wait for its reply. Members that are None are left out.

        Args:
            within: seconds for the provider's answer.
            key: idempotency key; random when absent.
            dry_run: return the message to the provider without sending it.
            members: `provider`, `account` and the command's own.

        Raises:
            RelayUnreachable: nothing was sent.
            RefusedByRelay: the relay refused the command before it was sent.
            OutcomeUnknown: the command was sent and its outcome is not known.
        """
        key = key or str(uuid.uuid4())
        wire = {"command": command, "within": f"{within:f}", "dry_run": dry_run or None, **members}
        body = msgspec.json.encode({name: value for name, value in wire.items() if value is not None})
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        try:
            answer = await self._http.post(
                f"{self.url}/api/v2/commands", content=body, headers=headers, timeout=within + WITHIN
            )
        except _NOT_SENT as error:
            raise RelayUnreachable(unreachable(self.url, error)) from None
        except httpx.HTTPError as error:
            raise OutcomeUnknown(_reason(error), key) from None
        self._answered(answer)
        return _result(answer, key)


def _context(url: str) -> Any:
    """Return httpx's ``verify`` argument. Without TLS, skip loading the certificates, which takes 20 ms."""
    return True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def unreachable(url: str, error: Exception) -> str:
    """Return the message about a relay that does not answer."""
    return f"cannot reach {url}: {_reason(error)}; is `tickrelay serve` running?"


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    for cause in _causes(error):
        # An OSError, too, but its number is one of OpenSSL and none of the system.
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {(getattr(cause, 'reason', '') or str(cause)).lower().replace('_', ' ')}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, socket.gaierror):
            return str(cause.strerror).lower()
    return one_line((str(error) or type(error).__name__)[:_REASON])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, including the members of groups."""
    while error is not None:
        yield from leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
        error = error.__cause__ or error.__context__


def _content(url: str, answer: httpx.Response) -> Any:
    try:
        value = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, RecursionError):
        raise RelayUnreachable(f"{url} answers {answer.status_code} without JSON: it is not a relay") from None
    if answer.status_code != 200:
        raise _refusal(answer.status_code, value, answer.text)
    return value


def _refusal(status: int, value: Any, text: str) -> RefusedByRelay:
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        details = error.get("details")
        field = details.get("field") if isinstance(details, dict) else None
        return RefusedByRelay(status, one_line(str(error.get("message", text))), error.get("code"), field)
    return RefusedByRelay(status, one_line(error if isinstance(error, str) else text[:500] or f"status {status}"))


def _result(answer: httpx.Response, key: str) -> CommandResult:
    text = answer.text
    try:
        body = read(text)
    except CommandError:
        body = {}
    replayed = "idempotent-replayed" in answer.headers
    if answer.status_code == 200 and body.get("dry_run") is True:
        return CommandResult(reply=None, body=body, text=text, key=key, replayed=replayed)
    if body.get("type") == "reply":
        try:
            reply = structure(body).event
        except CodecError as error:
            raise OutcomeUnknown(f"a reply that is not understood: {error}", key) from None
        if isinstance(reply, Reply):
            return CommandResult(reply=reply, body=body, text=text, key=key, replayed=replayed)
    if 300 <= answer.status_code < 500 and answer.status_code != 408:
        raise _refusal(answer.status_code, body, text)
    raise OutcomeUnknown(f"status {answer.status_code}", key)
