"""The certificate of the port is read again on a reload, and one that cannot be used changes nothing."""

import ssl
from pathlib import Path

import pytest
import trio

from relay.app import Relay
from relay.errors import OperatorError
from support.deadlines import WITHIN
from support.running import port_of, running_relay
from support.tls import self_signed


async def shown(relay: Relay) -> bytes | None:
    """Return the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with trio.fail_after(WITHIN):
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port_of(relay), ssl_context=context)
        try:
            await stream.do_handshake()
            certificate: bytes | None = stream.getpeercert(binary_form=True)
            return certificate
        finally:
            await trio.aclose_forcefully(stream)


async def test_a_reload_reads_the_certificate_again(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    new_certificate, new_key = self_signed(tmp_path, file="new")
    server = {"listen": "127.0.0.1:0", "tls_cert": str(certificate), "tls_key": str(key)}
    async with running_relay(server=server) as relay:
        old = await shown(relay)
        assert old is not None

        certificate.write_bytes(new_certificate.read_bytes())  # and not its key: they do not fit
        with pytest.raises(OperatorError, match=r"server\.tls_cert, server\.tls_key"):
            relay.reload(relay._settings)
        assert await shown(relay) == old

        key.write_bytes(new_key.read_bytes())
        relay.reload(relay._settings)
        assert await shown(relay) == ssl.PEM_cert_to_DER_cert(new_certificate.read_text())
