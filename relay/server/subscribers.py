"""The subscribers' sockets: WebSocket frames on one side, the hub's sessions and their outboxes on the other.

- Everything for a subscriber goes through its outbox. What was put during one pass of trio's scheduler leaves at the
  end of it, in one write per subscriber, without a task switch per subscriber.
- A subscriber on a plain socket has no task: the poller calls when something comes. One behind TLS (or where there is no
  epoll) has a task, which reads. A writer's task exists only while the kernel refuses bytes.
- Deadlines of idle subscribers are looked at by one sweep, about once a second, so that an idle connection holds no
  timer.
- Closing: the outbox' last frame is the close frame. The connection ends when the peer's close frame or its end of
  stream has come; after `limits.close` seconds it is dropped, with what the kernel still holds for it.
- A slow subscriber whose socket takes no byte for `limits.write` seconds is dropped the same way.
- One subscriber's failure, also that of its session's code, ends that subscriber only.
"""

import contextlib
import math
import socket
from urllib.parse import unquote

import structlog
import trio

from relay.hub.outbox import Outbox
from relay.server.connection import Connect, Connection, SubscriberLimits
from relay.server.fastpath.poller import Poller
from relay.server.fastpath.upgrade import UpgradeRequest
from relay.server.fastpath.writer import BatchWriter
from relay.server.transport import Link, SocketTransport, StreamTransport, taken_out, tune
from relay.websocket.deflate import accepted
from relay.websocket.frames import BadHandshake, handshake_response

log = structlog.get_logger()

SHUTDOWN_CODE = 4200
"""Pusher Channels protocol: 4200-4299, the client may reconnect immediately."""


class SubscriberServer:
    """All subscribers of this process. `serve` is the front's upgrade handler; `run` must be running meanwhile."""

    def __init__(self, connect: Connect, limits: SubscriberLimits | None = None, *, behind_proxy: bool = False) -> None:
        """`behind_proxy`: believe X-Forwarded-Proto, because only our own proxy reaches this port."""
        self._connect = connect
        self._behind_proxy = behind_proxy
        self._limits = limits or SubscriberLimits()
        self._batch_writer = BatchWriter(self._unfinished)
        self._nursery: trio.Nursery | None = None
        self._on_ready = self._read_now  # one bound method for all connections
        self.poller: Poller | None = None
        """Where plain sockets are watched while `run` runs, where there is epoll."""
        self._stopping = False
        self._gone = trio.Event()
        self._parked = 0
        self.connections: dict[Outbox, Connection] = {}
        """Who is connected now."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush, read, sweep and write for slow subscribers, until cancelled; then whoever is left is dropped."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if Poller.available:
                    self.poller = Poller()
                    nursery.start_soon(self.poller.run)
                    self._batch_writer.open(together=self._limits.io_uring)
                nursery.start_soon(self._batch_writer.run)
                nursery.start_soon(self._sweep)
                task_status.started()
        finally:
            for connection in list(self.connections.values()):
                self._abort(connection)
            self.poller = None
            self._batch_writer.close()

    def __len__(self) -> int:
        """Subscribers on plain sockets, which no front counts."""
        return 0 if self.poller is None else self._parked

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 (a drain, not a call)
        """Close everyone with 4200; whoever is still there after `timeout` seconds is dropped. Newcomers get 4200
        too.
        """
        self._stopping = True
        for connection in list(self.connections.values()):
            connection.outbox.close(SHUTDOWN_CODE, "server is shutting down")
        with trio.move_on_after(timeout):
            await self._until_empty()
        for connection in list(self.connections.values()):
            self._abort(connection)
        await self._until_empty()

    async def _until_empty(self) -> None:
        while self.connections:
            self._gone = trio.Event()
            await self._gone.wait()

    async def serve(
        self, stream: trio.abc.Stream, request: UpgradeRequest, trailing: bytes, peer: tuple[str, int] | None
    ) -> None:
        """Answer the handshake and serve one subscriber. `trailing` came after the request's head.

        A plain stream is emptied of its socket and left at once; otherwise this returns when the subscriber is gone.
        """
        try:
            answer, compressed = self._answer(request)
        except BadHandshake as refusal:
            with trio.move_on_after(self._limits.handshake):
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_all(refusal.response())
            return
        if isinstance(stream, trio.SocketStream) and self.poller is not None:
            sock = taken_out(stream)
            self.tune(sock)
            self._park(sock, answer, request, trailing, compressed=compressed)
            return
        secure = isinstance(stream, trio.SSLStream)
        connection = self._open(self._link(stream), answer, request, secure=secure, compressed=compressed)
        del stream, request  # the headers are not needed for the days a subscriber may stay
        try:
            await self._read(connection, trailing)
            with trio.move_on_after(self._limits.close):
                await connection.link.aclose()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("subscriber failed", peer=peer)
            connection.link.abort()
        finally:
            self._end(connection)

    def tune(self, sock: socket.socket) -> None:
        """Set the options of subscribers' sockets; on a listening one for those it accepts."""
        tune(sock, self._limits.notsent_lowat)

    def adopt(self, sock: socket.socket, request: UpgradeRequest, trailing: bytes) -> None:
        """Serve a subscriber on a plain socket, non-blocking and tuned, whose peer said `request` and then `trailing`."""
        try:
            answer, compressed = self._answer(request)
        except BadHandshake as refusal:
            if self.poller is not None:
                self.poller.forget(sock.fileno())
            with sock, contextlib.suppress(OSError):
                sock.send(refusal.response())
            return
        try:
            self._park(sock, answer, request, trailing, compressed=compressed)
        except Exception:
            log.exception("subscriber could not begin")

    def _answer(self, request: UpgradeRequest) -> tuple[bytes, bool]:
        """The answer to the handshake, and whether it agrees to compress. Raises BadHandshake."""
        extensions = accepted(request.headers) if self._limits.compression else b""
        return handshake_response(request.headers, extensions), bool(extensions)

    def _park(
        self, sock: socket.socket, answer: bytes, request: UpgradeRequest, trailing: bytes, *, compressed: bool
    ) -> None:
        """Have the poller tell when something comes."""
        assert self.poller is not None, "SubscriberServer.run is not running"
        link, fd = SocketTransport(sock), sock.fileno()
        try:
            connection = self._open(link, answer, request, secure=False, compressed=compressed)
        except Exception:
            self.poller.forget(fd)
            raise
        connection.on_ready = self._on_ready
        self._parked += 1
        self.poller.watch(link.fd, connection)
        if trailing:
            self._hear(connection, trailing)

    def _open(
        self, link: Link, answer: bytes, request: UpgradeRequest, *, secure: bool, compressed: bool
    ) -> Connection:
        """Begin the session; the answer to the handshake leaves with its greeting, before it."""
        path, _, query = request.target.partition("?")
        origin = request.header(b"origin")
        if self._behind_proxy and request.header(b"x-forwarded-proto") == b"https":
            secure = True
        try:
            session = self._connect(
                _app_key(path),
                query,
                origin.decode("latin-1") if origin else None,
                trio.current_time(),
                secure=secure,
                compressed=compressed,
            )
        except Exception:
            link.abort()
            raise
        connection = Connection(link, session, self._limits, compressed=compressed)
        self.connections[connection.outbox] = connection
        self._batch_writer.attach(connection.outbox, link, first=answer)
        if self._stopping:
            connection.outbox.close(SHUTDOWN_CODE, "server is shutting down")
        return connection

    def _link(self, stream: trio.abc.Stream) -> Link:
        if isinstance(stream, trio.SocketStream):
            sock = taken_out(stream)
            self.tune(sock)
            return SocketTransport(sock)
        assert self._nursery is not None, "SubscriberServer.run is not running"
        return StreamTransport(stream, self._nursery)

    async def _read(self, connection: Connection, data: bytes) -> None:
        """The task of a connection that has one: ends with the peer's stream, or when both close frames have passed."""
        while not (data and self._received(connection, data)):
            data = await connection.link.receive()
            if not data:
                return

    def _read_now(self, connection: Connection, link: SocketTransport) -> None:
        """The same for a connection without a task."""
        try:
            data = link.read()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._hear(connection, data)
        else:
            self._end(connection)

    def _hear(self, connection: Connection, data: bytes) -> None:
        try:
            if self._received(connection, data):
                self._end(connection)
        except OSError:
            self._abort(connection)
        except Exception:
            log.exception("subscriber failed")
            self._abort(connection)

    def _received(self, connection: Connection, data: bytes) -> bool:
        """Handle what came; True when both close frames have passed."""
        now = trio.current_time()
        for frame in connection.parser.feed(data):
            connection.received(frame, now)
        return connection.parser.finished and self._flush(connection) and self._finish(connection)

    def _end(self, connection: Connection, *, abort: bool = False) -> None:
        """The connection is over; `abort` drops what the kernel still holds for it. The first call counts."""
        if self.connections.pop(connection.outbox, None) is None:
            return
        if connection.on_ready is not None and isinstance(connection.link, SocketTransport):
            self._parked -= 1
            if self.poller is not None:
                self.poller.forget(connection.link.fd)
        self._batch_writer.detach(connection.outbox)
        if abort:
            connection.link.abort()
        else:
            connection.link.close()
        if not self.connections:
            self._gone.set()
        try:
            connection.session.closed(trio.current_time())
        except Exception:
            log.exception("ending a subscriber's session failed")

    def _abort(self, connection: Connection) -> None:
        """Drop the connection. One that has a task ends by it: the task's read fails."""
        if connection.on_ready is None:
            connection.link.abort()
        else:
            self._end(connection, abort=True)

    def _unfinished(self, outbox: Outbox, error: Exception | None) -> None:
        """What was put did not all leave: the outbox is slow or closing, or its connection is broken."""
        if error is None:
            self._attend(outbox)
        elif (connection := self.connections.get(outbox)) is not None:
            if not isinstance(error, OSError):
                log.error("flushing a subscriber failed", exc_info=error)
            self._abort(connection)

    def _flush(self, connection: Connection) -> bool:
        """Flush one connection out of turn; True when nothing waits."""
        if connection.outbox.dirty and not connection.outbox.flush():
            self._attend(connection.outbox)
        return connection.outbox.empty

    def _finish(self, connection: Connection) -> bool:
        """The close frame left and nothing more is understood from the peer: True when the peer's close frame came."""
        if not connection.peer_closed:
            connection.link.finish()
        return connection.peer_closed

    def _attend(self, outbox: Outbox) -> None:
        """The slow path: bytes were refused, or the outbox is closing."""
        connection = self.connections.get(outbox)
        if connection is None:
            return
        if outbox.closing is not None and connection.die_by == math.inf:
            connection.die_by = trio.current_time() + self._limits.close
        if outbox.blocked and not connection.writing and self._nursery is not None:
            connection.writing = True
            self._nursery.start_soon(self._write, connection)

    async def _write(self, connection: Connection) -> None:
        """The writer of a slow subscriber: lives until the backlog is empty or the connection is gone."""
        try:
            while not connection.outbox.drain():
                with trio.fail_after(self._limits.write):
                    await connection.link.wait_writable()
            if connection.parser.finished and self._finish(connection):
                with trio.fail_after(self._limits.close):
                    await connection.link.wait_writable()
                if connection.on_ready is None:
                    connection.link.close()
                else:
                    self._end(connection)
        except (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._abort(connection)
        except Exception:
            log.exception("writing to a subscriber failed")
            self._abort(connection)
        finally:
            connection.writing = False

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._limits.sweep)
            now = trio.current_time()
            for connection in list(self.connections.values()):
                self._check(connection, now)

    def _check(self, connection: Connection, now: float) -> None:
        if connection.die_by <= now:
            self._abort(connection)
        elif connection.outbox.closing is None and connection.session.deadline() <= now:
            try:
                connection.session.timeout(now)
            except Exception:
                log.exception("subscriber's timeout failed")
                self._abort(connection)


def _app_key(path: str) -> str:
    """The key in `/app/{key}`; empty for another path, which gets its close code (4005) behind the handshake: a browser
    does not let a page see an HTTP status, and its client would try for ever."""
    _, app, key, *rest = [*path.split("/"), "", ""]
    return "" if app != "app" or any(rest) else unquote(key)
