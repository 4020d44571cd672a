"""One subscriber's connection: what it is made of and how its messages reach its session."""

import math
from collections.abc import Callable
from typing import Protocol

import attrs

from relay.hub.outbox import Delivery, Outbox, Policy
from relay.server.transport import Link, SocketTransport
from relay.websocket.frames import (
    MAX_MESSAGE,
    Binary,
    Close,
    FrameError,
    FrameParser,
    Ping,
    Pong,
    Received,
    Text,
    encode_pong,
)


class Session(Protocol):
    """One subscriber as the hub knows it. All calls are synchronous; `now` is trio's clock in seconds."""

    @property
    def outbox(self) -> Outbox:
        """What is on its way to this subscriber; the same object for the session's whole life."""
        ...

    def receive(self, text: str, now: float) -> None:
        """A text message came; answers go to the outbox."""
        ...

    def receive_binary(self, now: float) -> None:
        """A binary message came (the Pusher protocol has none); the error goes to the outbox."""
        ...

    def alive(self, now: float) -> None:
        """A WebSocket ping or pong came: the peer lives."""
        ...

    def deadline(self) -> float:
        """When to call `timeout` if nothing is received until then; math.inf for never. Looked at about once a
        second.
        """
        ...

    def timeout(self, now: float) -> None:
        """The deadline passed: ping the peer, or close it, through the outbox."""
        ...

    def closed(self, now: float) -> None:
        """The connection is gone; called exactly once, and nothing after it."""
        ...


class Connect(Protocol):
    """Opens the session of a new subscriber; the greeting, or the refusal and its close, is already in its outbox."""

    def __call__(
        self, app_key: str, query: str, origin: str | None, now: float, /, *, secure: bool, compressed: bool
    ) -> Session:
        """`app_key` is the key in `/app/{key}` (empty for any other path), `query` the raw query string, `origin` the
        Origin header.

        `secure`: the subscriber came by TLS. `compressed`: what is long may leave its outbox compressed.
        """
        ...


@attrs.frozen(kw_only=True)
class SubscriberLimits:
    """Deadlines in seconds and bounds of the subscribers' connections, and how what they get is written."""

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


class Connection:
    """One subscriber: its link, its session, and how far they have come."""

    __slots__ = ("die_by", "link", "on_ready", "outbox", "parser", "peer_closed", "session", "writing")

    def __init__(self, link: Link, session: Session, limits: SubscriberLimits, *, compressed: bool) -> None:
        self.link = link
        self.session = session
        self.outbox = session.outbox
        self.parser = FrameParser(limits.message_bytes, compression=compressed)
        self.writing = False
        self.peer_closed = False
        self.die_by = math.inf
        self.on_ready: Callable[[Connection, SocketTransport], None] | None = None
        """What the poller calls; None for a connection that has a task."""

    def ready(self) -> None:
        """See `relay.server.fastpath.poller.Watched`."""
        if self.on_ready is not None and isinstance(self.link, SocketTransport):
            self.on_ready(self, self.link)

    def received(self, frame: Received, now: float) -> None:
        """Hand one message to the session, or answer it where it is WebSocket's own business."""
        match frame:
            case Text(data):
                if self.outbox.closing is None:
                    self.session.receive(data, now)
            case Binary():
                if self.outbox.closing is None:
                    self.session.receive_binary(now)
            case Ping(data):
                self.outbox.put(Delivery(encode_pong(data), "", Policy.CONTROL, 0))
                self.session.alive(now)
            case Pong():
                self.session.alive(now)
            case Close(code):
                self.peer_closed = True
                self.outbox.close(code, waiting=not self.outbox.blocked)
            case FrameError(code, reason):
                self.outbox.close(code, reason, waiting=False)
