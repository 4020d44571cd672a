"""The port: where to listen, and by what certificate."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from relay.settings.check import Check
from relay.settings.resolved import Server, Tls

_listen = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII).fullmatch


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: it is neither; the message says how to write it.
    """
    match = _listen(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"not an address to listen on: {text!r}; write HOST:PORT, for example 127.0.0.1:6001")
    return match["six"] or match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(check: Check, url: str | None, schemes: tuple[str, ...], *path: str) -> None:
    """Report a URL that is not one of ``schemes``, or has no host."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in schemes or not parts.netloc:
        check.wrong(f"must be a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}", *path)


def resolve_server(check: Check) -> Server:
    """Return the port's settings; what is wrong with them is reported."""
    table = check.reading.value.server
    host, port = "127.0.0.1", 0
    try:
        host, port = parse_listen(table.listen)
    except ValueError as error:
        check.wrong(str(error), "server", "listen")
    check_url(check, table.public_url, ("http", "https"), "server", "public_url")
    tls = _tls(check)
    if tls is None and not is_loopback(host):
        check.notes.append(
            f"server.listen: {host} may be reached from other machines, without TLS: put a TLS proxy in front"
        )
    return Server(
        host=host,
        port=port,
        tls=tls,
        public_url=table.public_url,
        behind_proxy=table.behind_proxy,
        status_public=table.status_public,
        limits=table.limits,
        subscribers=table.subscribers,
    )


def _tls(check: Check) -> Tls | None:
    table = check.reading.value.server
    cert, key = _pem(check, table.tls_cert, "tls_cert"), _pem(check, table.tls_key, "tls_key")
    if (table.tls_cert is None) != (table.tls_key is None):
        absent = "tls_cert" if table.tls_cert is None else "tls_key"
        check.wrong("missing; tls_cert and tls_key belong together", "server", absent)
    return Tls(cert, key) if cert is not None and key is not None else None


def _pem(check: Check, name: str | None, key: str) -> Path | None:
    if name is None:
        return None
    path = check.secrets.base / name
    try:
        text = check.secrets.read_file(path)
    except OSError as error:
        check.wrong(f"cannot read {path}: {error.strerror or error}", "server", key)
        return None
    except UnicodeDecodeError:
        text = ""
    if "-----BEGIN " not in text:
        check.wrong(f"{path} is not a PEM file", "server", key)
    return path
