"""Applications on a node: the IO around `relay.cluster.shared_app`, with a Redis connection of its own.

One task renews the node's lease and removes dead nodes, one reads the log, one appends to it. One node at a time *leads*,
which it does under a lease: it notifies the apps' servers (webhooks) and deletes old data. Its progress is in rows in Redis,
from which the next leader continues.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio
from attrs import frozen

from relay.cluster.app_store import Anew, AppStore
from relay.cluster.applications import AppPosition, read_batch
from relay.cluster.lease import AGAIN, MARGIN, Lease, Request
from relay.cluster.log import EndOfLog
from relay.cluster.redis import Fenced, NotGranted, RedisCluster
from relay.cluster.shared_app import Applications
from relay.store.interface import Done, Row, Rows, StoreError

#: The name of the leader's lease and rows. No provider can have this name.
LEADER = "#apps"
POSITION = "position"
#: Seconds that the services have to start before they get the first notification.
SETTLE = 0.1
#: Most rows in one write.
AT_ONCE = 500
#: Seconds that a node has to write its last rows when it leaves or stops leading.
KEEP = 2.0
NOT_LEADING = "another relay tells the apps' servers now"


@frozen
class _Change:
    row: Row
    done: Done | None = None


class AppNode:
    """Applications on this node.

    Args:
        redis: a connection that only this object uses.
        run_led: runs, until cancelled, the services that one node runs for all.
        kept: seconds that events are kept for clients that resume.
        unused: returns the seconds after which an unused channel is forgotten.
        log: called with an event name and fields.
    """

    def __init__(
        self,
        redis: RedisCluster,
        *,
        run_led: Callable[[], Awaitable[None]] = trio.sleep_forever,
        kept: float = 300.0,
        unused: Callable[[], float] = lambda: 1800.0,
        log: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self.redis = redis
        self.store = AppStore(redis)
        self.all = Applications(redis.node, trio.current_time, self._wake, self._refusal)
        self.leads = False
        """True while this node is the leader, which notifies the apps' servers."""
        self.unread = 0
        """Number of log entries that could not be decoded."""
        self._run_led = run_led
        self._kept = kept
        self._unused = unused
        self._log = log
        self._life = 0
        self._until = 0.0
        self._left = False
        self._missed = True
        self._hold_until: float | None = None
        self._news = trio.Event()
        self._entered = trio.Event()
        self._loaded = trio.Event()
        self._end: EndOfLog[AppPosition] = EndOfLog(self._has_read)
        self._end_asked = trio.Event()
        self._beat_now = trio.Event()
        self._rows: deque[_Change] = deque()
        self._sending: list[_Change] = []
        self._row_news = trio.Event()
        self._kept_rows: Rows = {}
        self._told_all = trio.Event()

    # --- from the relay; synchronous ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._news.set()

    def _refusal(self) -> str:
        """Return the reason why nothing can be published at present; empty if publishing works."""
        if self._left:
            return "the relay is shutting down"
        if trio.current_time() < self._until:
            return ""
        return self.redis.failure or "this relay was cut off from Redis"

    def read_on(self) -> Callable[[], bool]:
        """Start to read to the current end of the log. Return a function that returns True once that is done."""
        is_read = self._end.read_on()
        self._end_asked.set()
        return is_read

    def _has_read(self, end: AppPosition) -> bool:
        return self._loaded.is_set() and not self._missed and self.all.position >= end

    def kept_rows(self, table: str) -> Sequence[tuple[str, bytes]]:
        """Return the rows of a table that the previous leader has left."""
        return self._kept_rows.get(table, ())

    def keep_row(self, row: Row) -> None:
        """Write a row if this node leads."""
        if self.leads:
            self._rows.append(_Change(row))
            self._row_news.set()

    async def rows_kept(self) -> bool:
        """Wait until all rows are in Redis. Return False if this node no longer leads."""
        said: list[str] = []
        done = trio.Event()

        def told(failure: str) -> None:
            said.append(failure)
            done.set()

        if not self.leads:
            await trio.lowlevel.checkpoint()
            return False
        self._rows.append(_Change(Row("", "", None), told))
        self._row_news.set()
        await done.wait()
        return not said[0]

    def status(self) -> dict[str, Any]:
        """Return its section of the status page."""
        writer, position = self.all.writer, self.all.position
        return {
            "available": not self._refusal(),
            "reason": self._refusal(),
            "position": list(position),
            "waiting": writer.waiting + len(writer.added),
            "leads": self.leads,
            "unread": self.unread,
        }

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Report the start once the state in Redis is loaded, or if Redis does not answer."""
        async with self.redis.connected(), trio.open_nursery() as nursery:
            for task in (self._stay, self._read, self._append, self._expire, self._lead, self._find_end):
                nursery.start_soon(task)
            with trio.move_on_after(self.redis.ttl):
                await self._loaded.wait()
            task_status.started()

    async def leave(self) -> None:
        """Remove this node's values from the sums, after its last subscriber has left."""
        self._left = True
        try:
            await self.store.bury(self.redis.node, leaves=True)
        except (StoreError, Anew) as error:
            self._log("store failed", reason=str(error))
        if self.leads:
            with trio.move_on_after(KEEP):
                self._told_all = trio.Event()
                await self._told_all.wait()

    async def _stay(self) -> None:
        """Renew the node's lease, and remove nodes whose leases have expired."""
        every = min(0.5, self.redis.ttl / 6)
        while not self._left:
            self._beat_now = trio.Event()
            asked = trio.current_time()
            try:
                if not self._life:
                    await self._enter()
                for node in await self.store.beat(self._life):
                    await self.store.bury(node)
                    self._log("relay is gone", relay=node)
                self._until = asked + self.redis.ttl - MARGIN
            except Anew:
                self._forget()
                continue
            except StoreError:
                pass  # `_refusal` gives the reason once the lease has expired
            with trio.move_on_after(every):
                await self._beat_now.wait()

    async def _enter(self) -> None:
        found = await self.store.enter()
        self.all.writer.begin(found.last, found.values)
        self._life = found.life
        self._missed = self._missed or found.life != self.all.position.life
        self._entered.set()
        self._news.set()

    def _forget(self) -> None:
        """Make the node enter again, because Redis was restarted or emptied, or has removed this node."""
        self._life, self._until = 0, 0.0
        self._entered = trio.Event()
        self._beat_now.set()

    async def _append(self) -> None:
        writer = self.all.writer
        while True:
            await self._entered.wait()
            batch = None if self._left else writer.batch()
            if batch is None:
                self._news = trio.Event()
                await self._news.wait()
                continue
            try:
                refused = await self.store.append(self._life, batch)
            except Anew:
                self._forget()
            except StoreError:
                await trio.sleep(AGAIN)
            else:
                writer.appended(refused)

    async def _expire(self) -> None:
        """Refuse groups that have waited too long for Redis."""
        while True:
            await trio.sleep(AGAIN / 2)
            reason = self.redis.failure or "Redis has not answered in time"
            self.all.writer.expire(trio.current_time(), reason)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            await self._entered.wait()
            try:
                if self._missed:
                    await self._load()
                found = await self.store.read(self.all.position)
            except StoreError:
                await trio.sleep(AGAIN)
                continue
            for position, fields in found:
                at = self.all.position
                if position != (at.life, at.n + 1):
                    self._missed = True
                    break
                self.all.position = position
                self._apply(fields, trio.current_time())
                await trio.lowlevel.checkpoint()
            if self._hold_until is not None and trio.current_time() >= self._hold_until:
                self._missed = True

    async def _find_end(self) -> None:
        """Ask Redis for the end of the log, for subscribers that may have seen later events on another node."""
        while True:
            await self._end_asked.wait()
            self._end_asked = trio.Event()
            asked = self._end.asked
            try:
                self._end.answer(asked, await self.store.end())
            except StoreError:
                self._end_asked.set()
                await trio.sleep(AGAIN)

    def _apply(self, fields: Any, now: float) -> None:
        for entry in read_batch(fields)[1]:
            try:
                self.all.apply(entry, now)
            except (msgspec.MsgspecError, ValueError, IndexError) as error:
                self._unreadable(entry.kind, error)

    def _unreadable(self, kind: str, error: Exception) -> None:
        self.unread += 1
        if self.unread == 10 ** (len(str(self.unread)) - 1):
            self._log("an entry of the log cannot be read", reason=str(error), kind=kind, count=self.unread)

    async def _load(self) -> None:
        """Load the state from Redis: at the start, after missed batches, and when Redis may have lost some."""
        snapshot, own = await self.store.load()
        (life, _), now = snapshot.position, trio.current_time()
        if not life:
            raise StoreError("Redis: it was emptied")
        before = self.all.position.life
        if before != life:
            if before:  # events of the log's previous life that are still in it
                await self._catch_up(AppPosition(before, life))
                self._hold_until = now + self.redis.ttl + 1
                self._log("applications' channels begin new epochs", reason="Redis was started anew or emptied")
            self.all.begin_life(life, now)
        if before:
            await self._catch_up(snapshot.position)
        elif not any(app.sessions for app in self.all.apps.values()):
            await self._catch_up(snapshot.position, at=snapshot.at)
        now = trio.current_time()
        hold = self._hold_until is not None and now < self._hold_until
        if not hold:
            self._hold_until = None
        self.all.adopt(snapshot, own, now, hold=hold, close=bool(before))
        self._missed = False
        self._loaded.set()

    async def _catch_up(self, end: AppPosition, *, at: int | None = None) -> None:
        """Apply batches up to `end`, until one is missing from the log.

        `at`, the current time in Unix milliseconds, is given when this node has just started: all events in the log are then
        kept, with their times, for clients that resume.
        """
        while self.all.position < end:
            found = await self.store.read(self.all.position, wait=False)
            if not found:
                return
            for position, fields in found:
                here, now = self.all.position, trio.current_time()
                if position > end or position.life != here.life or (at is None and position.n != here.n + 1):
                    return
                self.all.position = position
                if at is None:
                    self._apply(fields, now)
                else:
                    time, entries = read_batch(fields)
                    for entry in entries:
                        if entry.kind == "e":
                            self.all.apply(entry, now - (at - time) / 1000)
                await trio.lowlevel.checkpoint()

    # --- leading -----------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        lease = Lease(self.redis.ttl)
        while True:
            request = await _next_request(lease)
            try:
                answer = await self.redis.acquire(LEADER)
            except StoreError:
                lease.failed(request, trio.current_time())
                continue
            if isinstance(answer, NotGranted):
                lease.refused(request, trio.current_time(), answer.free_in)
            elif lease.granted(request, answer.token, answer.fence):
                await self._led(lease)

    async def _led(self, lease: Lease) -> None:
        token = lease.token
        writing = trio.CancelScope(shield=True)
        async with trio.open_nursery() as keeping:
            try:
                with trio.CancelScope(deadline=lease.until) as scope:
                    self._kept_rows = rows = await self.redis.rows(LEADER)
                    self._rows.clear()
                    self.leads = True
                    self._log("this relay tells the apps' servers", fence=lease.fence)
                    # The task only cancels the scope, and cancelling a scope that has ended does nothing.
                    keeping.start_soon(self._write_rows, token, writing, scope)  # noqa: ASYNC111
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._run_led)
                        nursery.start_soon(self._renew, lease, scope)
                        nursery.start_soon(self._tell_servers, _position(rows))
                        nursery.start_soon(self._sweep)
                        nursery.start_soon(self._mind)
            except StoreError:
                pass
            finally:
                if self.leads and self._left:
                    with trio.CancelScope(shield=True), trio.move_on_after(KEEP):
                        await self.rows_kept()
                self.leads = False
                writing.cancel()
                lease.lost(trio.current_time())
                self._give_up_rows()
                if self._left:
                    with trio.CancelScope(shield=True), trio.move_on_after(KEEP):
                        await self._release(token)

    async def _mind(self) -> None:
        """Give up pending rows as soon as the lease is lost, even while the services are still ending."""
        try:
            await trio.sleep_forever()
        finally:
            if not self._left:
                self.leads = False
                self._give_up_rows()

    async def _release(self, token: str) -> None:
        try:
            await self.redis.release(LEADER, token)
        except StoreError as error:
            self._log("store failed", reason=str(error))

    async def _renew(self, lease: Lease, scope: trio.CancelScope) -> None:
        while True:
            request = await _next_request(lease)
            try:
                found = await self.redis.renew(LEADER, lease.token, "")
            except StoreError:
                lease.failed(request, trio.current_time())
                continue
            if found is None:
                scope.cancel()
                return
            if lease.granted(request, lease.token, lease.fence):
                scope.deadline = lease.until

    async def _write_rows(self, token: str, writing: trio.CancelScope, scope: trio.CancelScope) -> None:
        """Write rows in order, including those that the services write while they end."""
        with writing:
            while True:
                if not self._rows and not self._sending:
                    self._row_news = trio.Event()
                    await self._row_news.wait()
                if not self._sending:
                    self._sending = [self._rows.popleft() for _ in range(min(AT_ONCE, len(self._rows)))]
                rows = [(change.row, False) for change in self._sending if change.row.table]
                try:
                    said = await self.redis.append(LEADER, token, "durable", None, {}, rows)
                except StoreError:
                    await trio.sleep(AGAIN)
                    continue
                if isinstance(said, Fenced):
                    scope.cancel()
                    self.leads = False
                    self._give_up_rows()
                    return
                taken, self._sending = self._sending, []  # empty if the lease was lost meanwhile
                for change in taken:
                    if change.done is not None:
                        change.done("")

    def _give_up_rows(self) -> None:
        rows = [*self._sending, *self._rows]
        self._sending = []
        self._rows.clear()
        for change in rows:
            if change.done is not None:
                change.done(NOT_LEADING)

    async def _tell_servers(self, position: AppPosition) -> None:
        """Read the log from the position that the previous leader stored, and notify the apps' servers."""
        await trio.sleep(SETTLE)
        while True:
            try:
                found = await self.store.read(position)
            except StoreError:
                await trio.sleep(AGAIN)
                continue
            now = trio.current_time()
            for at, fields in found:
                if at.life == position.life and at.n > position.n + 1:
                    self._log("webhook events lost", reason="the log does not have them any more", from_=position.n + 1)
                position = at
                for entry in read_batch(fields)[1]:
                    self.all.tell_server(entry, now)
                await trio.lowlevel.checkpoint()
            self.all.tell_due_counts(now)
            if found:
                self.keep_row(Row(POSITION, "log", b"%d-%d" % position))
            else:
                self._told_all.set()

    async def _sweep(self) -> None:
        """Delete channels that have long been unused, and batches older than the time for which events are kept."""
        cursor = 0
        samples: deque[tuple[float, AppPosition]] = deque()
        while True:
            await trio.sleep(self.redis.ttl)
            now, position = trio.current_time(), self.all.position
            samples.append((now, position))
            oldest = 0
            while samples and samples[0][0] < now - self._kept - self.redis.ttl:
                _, past = samples.popleft()
                oldest = past.n if past.life == position.life else 0
            try:
                cursor = await self.store.sweep(cursor, max(self._unused(), self._kept), position.life, oldest)
            except (StoreError, Anew):
                continue


def _position(rows: Rows) -> AppPosition:
    for key, value in rows.get(POSITION, ()):
        if key == "log":
            return AppPosition(*map(int, value.split(b"-")))
    return AppPosition(0, 0)


async def _next_request(lease: Lease) -> Request:
    """Wait until the lease must be acquired or renewed, and return the request for that."""
    while True:
        now = trio.current_time()
        request = lease.request(now)
        if request is not None:
            return request
        await trio.sleep_until(max(lease.deadline(), now + 0.01))
