"""Serve subscribers: WebSocket frames on one side, the hub's sessions and their outboxes on the other.

- All data for a subscriber go through its outbox. Deliveries put there during one pass of trio's scheduler are sent at the
  end of the pass, in one write per subscriber, without a task switch per subscriber.
- A subscriber has no task, with TLS or without: the poller calls when bytes have arrived. A task for writing exists only
  while the kernel refuses bytes.
- A sweep checks the deadlines of idle subscribers about once a second, so that an idle connection holds no timer.
- Closing: the outbox' last frame is the close frame. The connection ends when the peer's close frame or its end of stream
  has arrived. After `limits.close` seconds it is dropped, with the bytes that the kernel still holds for it.
- A slow subscriber whose socket accepts no byte for `limits.write` seconds is dropped in the same way.
- The bytes of incomplete and waiting messages are limited over all connections. If they exceed `limits.pending_bytes`, the
  connections that hold the most are closed. A client whose message arrives in two parts holds few bytes and stays open.
- The failure of one subscriber, or of its session's code, ends only that subscriber.
- Subscribers' requests have the lowest priority. They are handled for a millisecond at a time; between two such slices
  trio's other tasks run, which read from the providers and execute commands. A request with much work, such as a long
  rewind, takes many slices, and that subscriber's next request waits for it. A subscriber that exceeds a budget
  (`relay.pusher.costs`) is not read from until the budget allows its next message.
"""

import heapq
import math
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Protocol
from urllib.parse import unquote

import structlog
import trio

from relay.histogram import Histogram
from relay.hub.app import RefusedSession, SubscriberSession
from relay.hub.outbox import OVERFLOW, OVERFLOW_CODE, Delivery, Outbox, Policy
from relay.pusher.messages import PusherCloseCode
from relay.server.admission import SubscriberLimits, client_network, forwarded_for
from relay.server.fastpath.poller import PASSES, SLICE, Poller
from relay.server.fastpath.upgrade import UpgradeRequest
from relay.server.fastpath.writer import BatchWriter
from relay.server.transport import SocketTransport, TlsTransport, tune
from relay.websocket.deflate import accepted
from relay.websocket.frames import (
    Binary,
    CloseFrame,
    FrameError,
    FrameParser,
    PingFrame,
    PongFrame,
    Received,
    Text,
    encode_pong,
)
from relay.websocket.handshake import BadHandshake, handshake_response

log = structlog.get_logger()

_PENDING = "server.subscribers.pending_bytes"
SHUTDOWN_CODE = 4200
"""Pusher Channels protocol: 4200-4299, the client may reconnect immediately."""
WAVE = 0.1
"""Seconds between two groups of subscribers that `send_away` closes."""
#: Refusals caused by the configuration. They are logged, because an operator has no other way to learn of them.
_CONFIGURED = (PusherCloseCode.TLS_REQUIRED, PusherCloseCode.APP_DISABLED, PusherCloseCode.UNAUTHORIZED)


class Connect(Protocol):
    """Function that opens the session of a new subscriber."""

    def __call__(
        self,
        app_key: str,
        query: str,
        origin: str | None,
        now: float,
        /,
        *,
        secure: bool,
        compressed: bool,
        address: str | None,
    ) -> SubscriberSession | RefusedSession:
        """Return a session whose outbox already has the greeting, or a refusal with its close.

        `app_key` is the key in `/app/{key}` (empty for any other path), `query` the raw query string, `origin` the Origin
        header. `secure`: the subscriber uses TLS. `compressed`: long messages may be compressed. `address`: the client's
        network, None for this machine.
        """
        ...


#: Takes a page's Origin, the Host header and if the client uses TLS; returns True for a page that the relay itself serves.
IsOwn = Callable[[str, str | None, bool], bool]


class SubscriberConnection:
    """One subscriber: its transport, its session, and the state of both."""

    __slots__ = (
        "_server",
        "die_by",
        "held",
        "outbox",
        "parser",
        "peer_closed",
        "session",
        "transport",
        "waiting",
        "writing",
    )

    def __init__(
        self,
        server: "SubscriberServer",
        transport: SocketTransport,
        session: SubscriberSession | RefusedSession,
        parser: FrameParser,
    ) -> None:
        self._server = server
        self.transport = transport
        self.session = session
        self.outbox = session.outbox
        self.parser = parser
        self.writing = False
        self.peer_closed = False
        self.die_by = math.inf
        self.held: Sequence[Received] = ()
        """Messages that have been read and wait to be handled."""
        self.waiting = False
        """True while messages, or work for the last one, wait for their turn. Nothing more is read meanwhile."""

    def ready(self) -> None:
        """See `relay.server.fastpath.poller.Watched`."""
        self._server.read(self)

    def received(self, frame: Received, now: float) -> None:
        """Pass a message to the session. Pings and closes of the WebSocket protocol are answered here."""
        match frame:
            case Text(data):
                if self.outbox.closing is None:
                    self.session.receive(data, now)
            case Binary():
                if self.outbox.closing is None:
                    self.session.receive_binary(now)
            case PingFrame(data):
                self.outbox.put(Delivery(encode_pong(data), "", Policy.CONTROL, 0))
                self.session.alive(now)
            case PongFrame():
                self.session.alive(now)
            case CloseFrame(code):
                self.peer_closed = True
                self.outbox.close(code, waiting=not self.outbox.blocked)
            case FrameError(code, reason):
                self.outbox.close(code, reason, waiting=False)


class SubscriberServer:
    """All subscribers of this process. `run` must be running while connections are adopted."""

    def __init__(
        self,
        connect: Connect,
        limits: SubscriberLimits | None = None,
        *,
        behind_proxy: bool = False,
        coalesce: float = 0.0,
        on_closed: Callable[[str], object] = lambda limit: None,
        refusal: Callable[[], str | None] = lambda: None,
        is_own: IsOwn = lambda origin, host, secure: False,
    ) -> None:
        """Create the server.

        Args:
            behind_proxy: trust X-Forwarded-Proto, because only our own proxy reaches this port.
            coalesce: seconds for which market data wait for more; see `relay.hub.outbox.OutboxLimits`.
            on_closed: called with the name of the limit for which a connection was closed.
            refusal: returns the reason for answering upgrades with 503 at present; None if subscribers are accepted.
            is_own: returns True for a page of this relay itself, which needs no permission of the app.
        """
        self._connect = connect
        self._is_own = is_own
        self._behind_proxy = behind_proxy
        self._on_closed = on_closed
        self._refusal = refusal
        self._limits = limits or SubscriberLimits()
        self._poller = Poller()
        self._batch_writer = BatchWriter(self._unfinished, coalesce)
        self._nursery: trio.Nursery | None = None
        self._stopping = False
        self._gone = trio.Event()
        self._held: list[tuple[float, int, SubscriberConnection]] = []
        """Heap of the connections with held messages, by the time at which to continue."""
        self._order = count()
        self._woken = trio.Event()
        self._pending: dict[SubscriberConnection, int] = {}
        """Bytes of incomplete and waiting messages, by connection; connections without any are absent."""
        self._pending_bytes = 0
        self.connections: dict[Outbox, SubscriberConnection] = {}
        """The open connections."""
        self.slow: set[Outbox] = set()
        """Outboxes with bytes that the kernel refuses."""
        self.closed_slow = Counter({"full": 0, "stalled": 0})
        """Number of subscribers closed because their outbox was full, or because their socket accepted no byte."""

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self.connections)

    @property
    def publish_to_write(self) -> Histogram:
        """See `BatchWriter.publish_to_write`."""
        return self._batch_writer.publish_to_write

    @property
    def upstream_to_write(self) -> Histogram:
        """See `BatchWriter.upstream_to_write`."""
        return self._batch_writer.upstream_to_write

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read, write and sweep until cancelled; then drop the remaining connections."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._batch_writer.open(io_uring=self._limits.io_uring)
                self._nursery.start_soon(self._poller.run)
                self._nursery.start_soon(self._batch_writer.run)
                self._nursery.start_soon(self._sweep)
                self._nursery.start_soon(self._serve_held)
                task_status.started()
        finally:
            for connection in list(self.connections.values()):
                self._end(connection, abort=True)
            self._batch_writer.close()

    async def send_away(self, seconds: float) -> None:
        """Close all connections with 4200, in groups every `WAVE` seconds over `seconds`. Close new ones at once."""
        self._stopping = True
        leaving = list(self.connections)
        waves = max(1, round(seconds / WAVE))
        for wave in range(waves if leaving else 0):
            for outbox in leaving[wave::waves]:
                outbox.close(SHUTDOWN_CODE, "server is shutting down")
            if wave + 1 < waves:
                await trio.sleep(WAVE)

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 (a drain, not a call)
        """Close all connections, including new ones, with 4200. Drop those still open after `timeout` seconds."""
        self._stopping = True
        for connection in list(self.connections.values()):
            connection.outbox.close(SHUTDOWN_CODE, "server is shutting down")
        with trio.move_on_after(timeout):
            while self.connections:
                self._gone = trio.Event()
                await self._gone.wait()
        for connection in list(self.connections.values()):
            self._end(connection, abort=True)

    def tune(self, sock: socket.socket) -> None:
        """Set the options of subscribers' sockets on a listening socket, whose accepted sockets inherit them."""
        tune(sock, self._limits.notsent_lowat)

    def adopt(self, transport: SocketTransport, request: UpgradeRequest, trailing: bytes) -> None:
        """Answer the handshake and serve the connection from now on. `trailing` are bytes after the request's head."""
        assert self._nursery is not None, "SubscriberServer.run is not running"
        extensions = accepted(request.headers) if self._limits.compression else b""
        try:
            if (full := self._refusal()) is not None:
                raise BadHandshake(503, full)
            answer = handshake_response(request.headers, extensions)
        except BadHandshake as refusal:
            self._nursery.start_soon(self._refuse, transport, refusal.response())
            return
        try:
            connection = self._open(transport, answer, request, compressed=bool(extensions))
            self._poller.watch(transport.fd, connection)
        except Exception:
            log.exception("subscriber could not begin", peer=transport.peer)
            transport.abort()
            return
        if trailing:
            self._received(connection, trailing)
        if transport.buffered and not connection.waiting and connection.outbox in self.connections:
            self.read(connection)

    async def _refuse(self, transport: SocketTransport, response: bytes) -> None:
        try:
            with trio.move_on_after(self._limits.handshake):
                await transport.send_all(response)
        except (OSError, trio.ClosedResourceError):
            pass
        finally:
            transport.close()

    def _open(
        self, transport: SocketTransport, answer: bytes, request: UpgradeRequest, *, compressed: bool
    ) -> SubscriberConnection:
        """Open the session. The answer to the handshake is sent together with, and before, the session's greeting."""
        path, _, query = request.target.partition("?")
        origin, host = (_decoded(request.header(name)) for name in (b"origin", b"host"))
        forwarded = self._behind_proxy and request.header(b"x-forwarded-proto") == b"https"
        secure = forwarded or isinstance(transport, TlsTransport)
        session = self._connect(
            _app_key(path),
            query,
            None if origin is not None and self._is_own(origin, host, secure) else origin,
            trio.current_time(),
            secure=secure,
            compressed=compressed,
            address=self._network(transport, request),
        )
        if isinstance(session, RefusedSession) and session.close.code in _CONFIGURED:
            what = session.close.reason
            log.warning("subscriber refused", app=_app_key(path), code=session.close.code, what=what, origin=origin)
        parser = FrameParser(self._limits.message_bytes, compression=compressed)
        connection = SubscriberConnection(self, transport, session, parser)
        self.connections[connection.outbox] = connection
        self._batch_writer.attach(connection.outbox, transport, first=answer)
        if isinstance(transport, TlsTransport):
            transport.on_unsent = partial(self._write_later, connection)
        if self._stopping:
            connection.outbox.close(SHUTDOWN_CODE, "server is shutting down")
        return connection

    def _network(self, transport: SocketTransport, request: UpgradeRequest) -> str | None:
        """Return the subscriber's network; with our proxy, the one in the proxy's headers."""
        if self._behind_proxy:
            address = forwarded_for(request.headers)
            return None if address is None else client_network(address)
        return transport.network

    def read(self, connection: SubscriberConnection) -> None:
        """Read what has arrived and handle it."""
        transport = connection.transport
        while True:
            try:
                data = transport.read()
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end(connection)
                return
            self._received(connection, data)
            # Bytes that TLS has read are no longer in the kernel, so that the poller would not report them.
            if not transport.buffered or connection.waiting or connection.outbox not in self.connections:
                return

    def _received(self, connection: SubscriberConnection, data: bytes) -> None:
        try:
            connection.session.arrived(len(data), trio.current_time())
            frames = connection.parser.feed(data)
        except Exception:
            log.exception("subscriber failed")
            self._end(connection, abort=True)
        else:
            self._handle(connection, frames)
            held = connection.parser.held
            if held or connection.waiting or connection in self._pending:
                self._note_pending(connection, held + sum(map(_size, connection.held)))

    def _note_pending(self, connection: SubscriberConnection, size: int) -> None:
        """Note the bytes that a connection holds. If all hold too many, close those that hold the most."""
        self._pending_bytes += size - self._pending.pop(connection, 0)
        if size and connection.outbox in self.connections:
            self._pending[connection] = size
        else:
            self._pending_bytes -= size
        if self._pending_bytes <= self._limits.pending_bytes:
            return
        most = self._limits.pending_bytes * 7 // 8
        for largest in sorted(self._pending, key=self._pending.__getitem__, reverse=True):
            self._close_holder(largest, f"too much of messages is pending ({_PENDING})", _PENDING)
            if self._pending_bytes <= most:
                break

    def close_largest(self, size: int, limit: str) -> int:
        """Close the connections that hold the most, `size` bytes in total. Return the number of closed connections."""
        sizes = dict(self._pending)
        for outbox in self.slow:
            if (slow := self.connections.get(outbox)) is not None:
                sizes[slow] = sizes.get(slow, 0) + outbox.waiting[1]
        closed = 0
        for connection in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if size <= 0:
                break
            if connection.outbox.closing is None:
                self._close_holder(connection, f"the relay is short of memory ({limit})", limit)
                size -= sizes[connection]
                closed += 1
        return closed

    def _close_holder(self, connection: SubscriberConnection, reason: str, limit: str) -> None:
        """Close a connection, and drop the bytes held for it at once."""
        self._pending_bytes -= self._pending.pop(connection, 0)
        connection.parser.give_up()
        connection.held = ()
        connection.outbox.close(OVERFLOW_CODE, reason, waiting=False)
        self._on_closed(limit)
        if not connection.waiting:
            self._handle(connection, ())

    def _handle(self, connection: SubscriberConnection, frames: Sequence[Received]) -> None:
        """Handle messages in order, until the slice of time ends or the session requests a pause. Hold the rest."""
        try:
            now, session = trio.current_time(), connection.session
            left, ends, begun = len(frames), time.perf_counter() + SLICE, False
            while left or session.busy:
                pause = session.pause(now) if connection.outbox.closing is None else 0.0
                if pause > 0 and left and connection.parser.finished:
                    connection.received(frames[-1], now)  # it has closed: requests beyond the budget do not matter
                    break
                if pause > 0 or (begun and time.perf_counter() > ends):
                    self._hold(connection, frames[len(frames) - left :], now + pause)
                    return
                begun = True
                if session.busy:
                    session.proceed(now)
                else:
                    connection.received(frames[-left], now)
                    left -= 1
            if connection.parser.finished and self._flush(connection):
                self._finish(connection)
        except OSError:
            self._end(connection, abort=True)
        except Exception:
            log.exception("subscriber failed")
            self._end(connection, abort=True)

    def _hold(self, connection: SubscriberConnection, frames: Sequence[Received], until: float) -> None:
        connection.held, connection.waiting = frames, True
        self._poller.forget(connection.transport.fd)
        heapq.heappush(self._held, (until, next(self._order), connection))
        self._woken.set()

    async def _serve_held(self) -> None:
        """Handle held messages, a slice at a time. Before each slice trio's other tasks get several turns.

        Held messages get at most half of the time: the pause after a slice is as long as the slice.
        """
        while True:
            due = self._held[0][0] if self._held else math.inf
            if due > trio.current_time():
                self._woken = trio.Event()
                with trio.move_on_at(due):
                    await self._woken.wait()
                continue
            for _ in range(PASSES):
                await trio.lowlevel.checkpoint()
            _, _, connection = heapq.heappop(self._held)
            if connection.outbox in self.connections:
                began = time.perf_counter()
                self._go_on(connection)
                await trio.sleep(time.perf_counter() - began)

    def _go_on(self, connection: SubscriberConnection) -> None:
        frames, connection.held, connection.waiting = connection.held, (), False
        self._handle(connection, frames)
        if connection.waiting or connection.outbox not in self.connections:
            return
        self._note_pending(connection, connection.parser.held)
        self._poller.watch(connection.transport.fd, connection)
        if connection.transport.buffered:
            self.read(connection)

    def _finish(self, connection: SubscriberConnection) -> None:
        """End the connection, or wait for the peer to end it, after our close frame was sent. Further input is ignored."""
        if connection.peer_closed:
            self._end(connection)
        else:
            connection.transport.finish()

    def _end(self, connection: SubscriberConnection, *, abort: bool = False) -> None:
        """End the connection; `abort` drops what the kernel still holds for it. Later calls do nothing."""
        if self.connections.pop(connection.outbox, None) is None:
            return
        transport = connection.transport
        self._poller.forget(transport.fd)
        self._batch_writer.detach(connection.outbox)
        self._pending_bytes -= self._pending.pop(connection, 0)
        connection.held = ()
        if abort:
            transport.abort()
        else:
            transport.close()
        if not self.connections:
            self._gone.set()
        try:
            connection.session.closed(trio.current_time())
        except Exception:
            log.exception("ending a subscriber's session failed")

    def _unfinished(self, outbox: Outbox, error: Exception | None) -> None:
        """Handle an outbox that could not be flushed: it is slow or closing, or its connection is broken."""
        connection = self.connections.get(outbox)
        if connection is None:
            return
        if error is None:
            self._attend(connection)
        else:
            if not isinstance(error, OSError):
                log.error("flushing a subscriber failed", exc_info=error)
            self._end(connection, abort=True)

    def _flush(self, connection: SubscriberConnection) -> bool:
        """Flush one connection out of turn. Return True if nothing is left to send."""
        if connection.outbox.dirty and not connection.outbox.flush():
            self._attend(connection)
        return connection.outbox.empty and not connection.transport.unsent

    def _attend(self, connection: SubscriberConnection) -> None:
        """Handle a connection whose bytes the kernel refused, or whose outbox is closing."""
        if connection.outbox.closing is not None and connection.die_by == math.inf:
            now = trio.current_time()
            connection.die_by = now + self._limits.close
            self.closed_slow["full"] += connection.outbox.closing == OVERFLOW
            try:
                connection.session.leave(now)  # stop counting it now, since its socket may take long to end
            except Exception:
                log.exception("ending a subscriber's session failed")
        if connection.outbox.blocked:
            self._write_later(connection)

    def _write_later(self, connection: SubscriberConnection) -> None:
        if not connection.writing and self._nursery is not None:
            connection.writing = True
            self.slow.add(connection.outbox)
            self._nursery.start_soon(self._write, connection)

    async def _write(self, connection: SubscriberConnection) -> None:
        """Write to a slow subscriber until nothing is left to send or the connection has ended."""
        transport = connection.transport
        try:
            while not (transport.flush() and connection.outbox.drain() and not transport.unsent):
                if connection.outbox.closing is not None:
                    self._attend(connection)
                with trio.fail_after(self._limits.write):
                    await transport.wait_writable()
            if connection.parser.finished:
                self._finish(connection)
        except trio.TooSlowError:
            self.closed_slow["stalled"] += 1
            self._end(connection, abort=True)
        except (OSError, trio.ClosedResourceError):
            self._end(connection, abort=True)
        except Exception:
            log.exception("writing to a subscriber failed")
            self._end(connection, abort=True)
        finally:
            connection.writing = False
            self.slow.discard(connection.outbox)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._limits.sweep)
            now = trio.current_time()
            for connection in list(self.connections.values()):
                self._check(connection, now)

    def _check(self, connection: SubscriberConnection, now: float) -> None:
        if connection.die_by <= now:
            self._end(connection, abort=True)
        elif connection.outbox.closing is None and not connection.waiting and connection.session.deadline() <= now:
            try:
                connection.session.timeout(now)
            except Exception:
                log.exception("subscriber's timeout failed")
                self._end(connection, abort=True)


def _size(frame: Received) -> int:
    """Return the bytes of memory that a waiting message takes."""
    return sys.getsizeof(frame) + sys.getsizeof(getattr(frame, "data", None))


def _decoded(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None


def _app_key(path: str) -> str:
    """Return the key in `/app/{key}`; empty for another path.

    Another path is refused with a close code (4005) after the handshake. Browsers do not show an HTTP status to a page, so
    that its client would retry forever.
    """
    _, app, key, *rest = [*path.split("/"), "", ""]
    return "" if app != "app" or any(rest) else unquote(key)
