"""HTTP to providers: the one module that knows httpx.

A fetch ends in an `Answer` whatever happens: no connection, a deadline, or a body above the limit is status 0 with the
reason as its text. Redirects are not followed, because the request may carry credentials. Cookies are not kept: accounts of
one provider would share them.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol, Self

import httpx
import trio

from relay.adapter import Answer, Fetch, dumps
from relay.errors import one_line

#: Bytes of a decoded body above which an answer is given up. Symbol lists of big venues are some 10 MB.
MAX_BODY = 32 * 1024 * 1024
#: No limit of connections: each session bounds its requests, and one that gets no answers must not take another's turn.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
#: Characters of the reason why there is no answer.
_REASON = 300


class Fetcher(Protocol):
    """Makes the adapters' fetches; see `HttpClient.fetch`."""

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        """Return the answer to a request."""


class HttpClient:
    """Makes the adapters' fetches.

    Args:
        client: an httpx client of the caller's, which the caller closes; by default one of its own.
        max_body: the largest body taken, in bytes.
    """

    def __init__(self, client: httpx.AsyncClient | None = None, *, max_body: int = MAX_BODY) -> None:
        self._own = client is None
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = (
            httpx.AsyncClient(follow_redirects=False, cookies=no_cookies, limits=_LIMITS) if client is None else client
        )
        self._max_body = max_body
        for name in ("httpx", "httpcore"):  # both log whole URLs and headers, tokens included
            logging.getLogger(name).setLevel(logging.WARNING)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, if it is our own."""
        if self._own:
            await self._client.aclose()

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        """Make the request at the absolute ``url``, within ``fetch.within`` seconds in all."""
        with trio.move_on_after(fetch.within):
            try:
                return await self._answer(fetch, url)
            except Exception as error:  # noqa: BLE001 - the libraries stumble over hostile answers in many ways
                return Answer(status=0, text=one_line(f"{type(error).__name__}: {error}"[:_REASON]))
        return Answer(status=0, text=f"no answer within {fetch.within:g} s")

    async def _answer(self, fetch: Fetch, url: str) -> Answer:
        headers = dict(fetch.headers)
        content: str | None = None
        if fetch.json is not None:
            content = dumps(fetch.json)
            headers.setdefault("content-type", "application/json")
        request = self._client.build_request(
            fetch.method, url, headers=headers, content=content, data=fetch.form, timeout=fetch.within
        )
        request.stream = _Content(request.content)
        response = await self._client.send(request, stream=True)
        try:
            encodings = response.headers.get("content-encoding", "")
            if "," in encodings:  # each would multiply what one read may become by a thousand
                return Answer(status=0, text=one_line(f"several content encodings: {encodings:.100}"))
            body = await self._body(response)
        finally:
            await response.aclose()
        if body is None:
            return Answer(status=0, text=f"a body of more than {self._max_body} bytes")
        return Answer(
            status=response.status_code,
            text=_text(body, response.charset_encoding),
            headers=_lower(response.headers),
        )

    async def _body(self, response: httpx.Response) -> bytes | None:
        """Return the body, None for one that is too large.

        Reading is ended by a cancellation: that ends httpx's nested generators, of which `aclosing` ends only the outer one.
        """
        body = bytearray()
        with trio.CancelScope() as reading:
            async for chunk in response.aiter_bytes():
                if len(body) + len(chunk) > self._max_body:
                    reading.cancel()
                if not reading.cancel_called:
                    body += chunk
        return None if reading.cancel_called else bytes(body)


class _Content(httpx.AsyncByteStream):
    """The body of a request. httpx's own is a generator that nobody ends when the request is cancelled."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once(AsyncIterator[bytes]):
    def __init__(self, content: bytes) -> None:
        self._left = [content] if content else []

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def _text(body: bytes, charset: str | None) -> str:
    """Decode a body by its charset; by UTF-8 when there is none, or none that text can be decoded by."""
    try:
        return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return body.decode("utf-8", "replace")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
