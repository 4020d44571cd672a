"""HTTP requests to providers, over httpx.

A request always ends in an `Answer`. A failed connection, a timeout or a body above the limit has status 0 and the reason as
its text. Redirects are not followed, because a request may contain credentials. Cookies are not kept, because all accounts
of a provider would share them.
"""

import logging
import zlib
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol, Self

import httpx
import trio

from relay.adapter import Answer, Fetch, dumps
from relay.errors import one_line

#: Most bytes of a decoded body. Symbol lists of large venues have about 10 MB.
MAX_BODY = 32 * 1024 * 1024
#: No limit of connections: each session limits its own requests, and one without answers must not block another.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
#: Most characters of the reason of a failed request.
_REASON = 300
#: The content encodings that requests accept.
_ENCODINGS = ("gzip", "deflate")


class Fetcher(Protocol):
    """Makes the adapters' HTTP requests; see `HttpClient.fetch`."""

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        """Return the answer to a request."""


class HttpClient:
    """Makes the adapters' HTTP requests.

    Args:
        client: an httpx client, which the caller closes; by default a new one, closed by `aclose`.
        max_body: most bytes of a decoded body.
    """

    def __init__(self, client: httpx.AsyncClient | None = None, *, max_body: int = MAX_BODY) -> None:
        self._own = client is None
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = (
            httpx.AsyncClient(follow_redirects=False, cookies=no_cookies, limits=_LIMITS) if client is None else client
        )
        self._max_body = max_body
        for name in ("httpx", "httpcore"):  # both log whole URLs and headers, including tokens
            logging.getLogger(name).setLevel(logging.WARNING)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the httpx client, unless it was passed in."""
        if self._own:
            await self._client.aclose()

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        """Make the request to the absolute ``url``; the whole exchange may take ``fetch.within`` seconds."""
        with trio.move_on_after(fetch.within):
            try:
                return await self._answer(fetch, url)
            except _Unusable as error:
                return Answer(status=0, text=one_line(str(error)))
            except Exception as error:  # noqa: BLE001 - the libraries raise many kinds of errors for malformed answers
                return Answer(status=0, text=one_line(f"{type(error).__name__}: {error}"[:_REASON]))
        return Answer(status=0, text=f"no answer within {fetch.within:g} s")

    async def _answer(self, fetch: Fetch, url: str) -> Answer:
        headers = dict(fetch.headers)
        content: str | None = None
        if fetch.json is not None:
            content = dumps(fetch.json)
            headers.setdefault("content-type", "application/json")
        headers["accept-encoding"] = ", ".join(_ENCODINGS)
        request = self._client.build_request(
            fetch.method, url, headers=headers, content=content, data=fetch.form, timeout=fetch.within
        )
        request.stream = _Content(request.content)
        response = await self._client.send(request, stream=True)
        try:
            body = await self._body(response)
        finally:
            await response.aclose()
        return Answer(
            status=response.status_code,
            text=_text(body, response.charset_encoding),
            headers=_lower(response.headers),
        )

    async def _body(self, response: httpx.Response) -> bytes:
        """Return the decoded body.

        It is decoded here and not by httpx, so that decoding stops at the limit. A failure cancels the reading, because that
        ends all of httpx's nested generators; `aclosing` ends only the outer one.

        Raises:
            _Unusable: the body is too large, or not encoded as its content-encoding says.
        """
        body = _Body(response.headers.get("content-encoding", ""), self._max_body)
        failure: _Unusable | None = None
        with trio.CancelScope() as reading:
            async for chunk in response.aiter_raw():
                if failure is None:
                    try:
                        body.add(chunk)
                    except _Unusable as error:
                        failure = error
                        reading.cancel()
        if failure is not None:
            raise failure
        return body.whole()


class _Unusable(ValueError):
    """A body is too large or does not match its headers; the text is the reason."""


class _Body:
    """Decodes a response's body as it arrives.

    Raises:
        _Unusable: the encoding was not requested. A chain of several is refused too, as each can multiply the size.
    """

    def __init__(self, encoding: str, most: int) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", *_ENCODINGS):
            raise _Unusable(f"content encoding {encoding:.100}, which was not requested")
        self._most = most
        self._decoded = bytearray()
        self._begun = b""
        self._inflate: Any = None

    def add(self, chunk: bytes) -> None:
        """Decode the next bytes.

        Raises:
            _Unusable: they cannot be decoded, or the body is too large.
        """
        try:
            self._decoded += self._inflated(chunk) if self._encoding in _ENCODINGS else chunk
        except zlib.error as error:
            raise _Unusable(f"the body is not {self._encoding}: {error}") from None
        if len(self._decoded) > self._most:
            raise _Unusable(f"a body of more than {self._most} bytes")

    def _inflated(self, chunk: bytes) -> bytes:
        if self._inflate is None:
            self._begun = chunk = self._begun + chunk
            if len(chunk) < 2:
                return b""
            self._inflate = zlib.decompressobj(31 if self._encoding == "gzip" else _deflate_bits(chunk))
        if self._inflate.eof:  # zlib would keep the bytes after the end
            return b""
        return bytes(self._inflate.decompress(chunk, self._most - len(self._decoded) + 1))

    def whole(self) -> bytes:
        """Return the complete body.

        Raises:
            _Unusable: it is truncated.
        """
        if not self._inflate.eof if self._inflate is not None else self._begun:
            raise _Unusable(f"the {self._encoding} body is truncated")
        return bytes(self._decoded)


def _deflate_bits(begun: bytes) -> int:
    """Return zlib's `wbits` for a deflate body: some servers send it without the zlib header (RFC 1950, 2.2)."""
    has_header = begun[0] & 0x0F == 8 and int.from_bytes(begun[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


class _Content(httpx.AsyncByteStream):
    """The body of a request. httpx's own is a generator that stays open if the request is cancelled."""

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
    """Decode a body by its charset, or by UTF-8 if that is missing or unknown."""
    try:
        return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return body.decode("utf-8", "replace")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
