"""The Pusher HTTP API, asked by hand."""

import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from relay.pusher.apps import App
from relay.pusher.signatures import signed_query
from support.deadlines import WITHIN
from support.running import APP

OURS = App(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))


async def ask(
    port: int, method: str, path: str, body: object = None, *, app: App = OURS, now: float | None = None, **params: str
) -> httpx.Response:
    """Send a request signed for the app; ``now`` is the time it says it was signed, by default the present."""
    content = b"" if body is None else json.dumps(body).encode()
    query = signed_query(app, method, path, content, time.time() if now is None else now, params)
    return await send(port, method, f"{path}?{query}", content)


async def send(port: int, method: str, target: str, content: bytes = b"") -> httpx.Response:
    """Send a request as it stands."""
    async with httpx.AsyncClient(timeout=WITHIN, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        return await client.request(method, f"http://127.0.0.1:{port}{target}", content=content or None)


async def publish(port: int, channel: str, data: Any, name: str = "greeting") -> None:
    """Publish an event."""
    event = {"name": name, "channel": channel, "data": json.dumps(data)}
    answer = await ask(port, "POST", f"/apps/{APP['id']}/events", event)
    assert answer.status_code == 200, answer.text


class Answering(httpx.MockTransport):
    """Answers the requests of a client with what a function returns, unread and not decoded, as a server's answer comes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if not isinstance(answer.stream, httpx.ByteStream):
            return answer
        return httpx.Response(answer.status_code, headers=answer.headers, stream=_Body(b"".join(answer.stream)))


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
