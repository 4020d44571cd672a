"""HTTP to providers: the one module that knows httpx.

A fetch ends in an `Answer` whatever happens: no connection, a deadline, or a body above the limit is status 0 with the
reason as its text. Redirects are not followed, because the request may carry credentials. Cookies are not kept: accounts of
one provider would share them.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol, Self, cast

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
        async with self._client.stream(
            fetch.method, url, headers=headers, content=content, data=fetch.form, timeout=fetch.within
        ) as response:
            encodings = response.headers.get("content-encoding", "")
            if "," in encodings:  # each would multiply what one read may become by a thousand
                return Answer(status=0, text=one_line(f"several content encodings: {encodings:.100}"))
            body = bytearray()
            async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self._max_body:
                        return Answer(status=0, text=f"a body of more than {self._max_body} bytes")
        return Answer(
            status=response.status_code,
            text=_text(bytes(body), response.charset_encoding),
            headers=_lower(response.headers),
        )


def _text(body: bytes, charset: str | None) -> str:
    """Decode a body by its charset; by UTF-8 when there is none, or none that text can be decoded by."""
    try:
        return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return body.decode("utf-8", "replace")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
