"""Certificates made for a test, and TLS in front of a simulator that speaks none."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio


def self_signed(folder: Path, names: str = "DNS:localhost", *, file: str = "cert") -> tuple[Path, Path]:
    """A certificate for ``names`` that vouches for itself, and its key."""
    certificate, key = folder / f"{file}.pem", folder / f"{file}.key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", f"subjectAltName={names}"]
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *ec, "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class TlsFront:
    """A port that speaks TLS and carries what is said to a server's plain one.

    Attributes:
        context: counts from the next connection on.
    """

    def __init__(self, to: int, context: ssl.SSLContext) -> None:
        self.context = context
        self.port = 0
        self._to = to

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["TlsFront"]:
        """Serve for as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._accept, 0, host="127.0.0.1"))
            self.port = listener.socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    async def _accept(self, plain: trio.SocketStream) -> None:
        client = trio.SSLStream(plain, self.context, server_side=True, https_compatible=True)
        try:
            await client.do_handshake()
            async with await trio.open_tcp_stream("127.0.0.1", self._to) as server, trio.open_nursery() as nursery:
                nursery.start_soon(_carry, client, server, nursery.cancel_scope)
                nursery.start_soon(_carry, server, client, nursery.cancel_scope)
        except (trio.BrokenResourceError, OSError):
            pass  # whoever refuses the certificate hangs up
        finally:
            await trio.aclose_forcefully(plain)


async def _carry(source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(65_536):
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
