"""Limits of the port: the tables `[server.limits]` and `[server.subscribers]` of the configuration."""

import attrs

from relay.websocket.frames import MAX_MESSAGE


@attrs.frozen(kw_only=True)
class HttpLimits:
    """Deadlines in seconds and bounds of HTTP connections. Every one of them is about a peer that may be slow or hostile."""

    connections: int = attrs.field(default=20_000, validator=attrs.validators.ge(1))
    """Connections at once, upgraded ones included; one more is answered 503 (over TLS: closed). Beyond them, a few from this
    machine are answered `/healthz`, `/readyz`, `/metrics` and `/api/v2/status`."""
    connections_per_address: int = attrs.field(default=2_000, validator=attrs.validators.ge(1))
    """Connections at once of one client address, or of one IPv6 /64; one more is answered 503. Clients on this machine are
    not counted. With `behind_proxy` this counts subscribers by the last address in `X-Forwarded-For`."""
    reserved_descriptors: int = attrs.field(default=64, validator=attrs.validators.ge(16))
    """File descriptors that connections may not use: they are kept for providers (four more for each session), the log and
    an administrator. A connection that would take one of them is answered 503."""
    bodies: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(1_048_576))
    """Bytes of request bodies in memory over all connections; a request whose body would exceed it is answered 503."""
    tls_handshake: float = 10.0
    """From accept to the end of the TLS handshake."""
    head: float = 10.0
    """From the first byte of a request (or accept) to the end of its head; then 408."""
    idle: float = 75.0
    """Between two requests of a connection."""
    body: float = 30.0
    """Without a byte of the body; then the application is told the client is gone."""
    write: float = 30.0
    """For the peer to take 64 kB."""
    linger: float = 2.0
    """For the rest of an unread body after an early answer."""
    drain: float = 10.0
    """From `stop` to the end of everything."""
    head_bytes: int = attrs.field(default=16 * 1024, validator=attrs.validators.ge(256))
    """Size of a request's head; then 431."""


@attrs.frozen(kw_only=True)
class SubscriberLimits:
    """Deadlines in seconds and bounds of the subscribers' connections, and how they are written to."""

    message_bytes: int = attrs.field(default=MAX_MESSAGE, validator=attrs.validators.ge(128))
    """Largest message a client may send, compressed or not; then close 1009."""
    compression: bool = False
    """Agree to compress (permessage-deflate) with clients that offer it, as all browsers do. For slow links."""
    handshake: float = 10.0
    """For the peer to take the refusal of a bad handshake."""
    write: float = 20.0
    """For a slow subscriber's socket to take another byte; then the connection is dropped."""
    close: float = 5.0
    """From our close frame to the end of the connection; then it is dropped."""
    sweep: float = 1.0
    """How often deadlines of idle subscribers are looked at."""
    io_uring: bool = True
    """Write what many subscribers get at the same time with one system call, where the kernel lets us (Linux 5.18)."""
    notsent_lowat: int = attrs.field(default=128 * 1024, validator=attrs.validators.ge(4096))
    """TCP_NOTSENT_LOWAT: bytes the kernel may hold for a subscriber beyond what its receive window takes."""
