"""An app that requires TLS, where a proxy of ours terminates it: who says so is believed only where the settings say so."""

import pytest
import trio

from support.deadlines import WITHIN
from support.running import APP, port_of, running_relay

REQUEST = (
    "GET /app/app-key?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{}\r\n"
)
FORWARDED = "X-Forwarded-Proto: https\r\n"


@pytest.mark.parametrize(
    ("behind_proxy", "header", "admitted"),
    [(True, FORWARDED, True), (True, "", False), (False, FORWARDED, False)],
    ids=["by TLS through the proxy", "plain through the proxy", "from anybody who says so"],
)
async def test_require_tls(behind_proxy: bool, header: str, admitted: bool) -> None:
    server = {"listen": "127.0.0.1:0", "behind_proxy": behind_proxy}
    async with running_relay(server=server, apps={"main": APP | {"require_tls": True}}) as relay:
        with trio.fail_after(WITHIN):
            async with await trio.open_tcp_stream("127.0.0.1", port_of(relay)) as stream:
                await stream.send_all(REQUEST.format(header).encode())
                answer = bytearray()
                while b"connection_established" not in answer and (4000).to_bytes(2, "big") not in answer:
                    answer += await stream.receive_some()
    assert (b"connection_established" in answer) is admitted
